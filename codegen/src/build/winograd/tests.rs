//! Kernels of transformed tiles by themselves, whatever the cost model thinks of the layer: on the interpreter, on every
//! tier of the machine, and against the reference evaluator's sums over taps.

use kiln_ir::op::{Conv, Layout};
use kiln_ir::tensor::Bytes;
use kiln_ir::{Build, DType, Datum, Dim, Evaluator, GraphBuilder, GraphId, Module, NodeId, Op, Tensor, Type};
use proptest::prelude::*;
use rustc_hash::FxHashSet;

use super::plan::Plan;
use super::transform::{FOUR, TWO, Transform};
use super::*;
use crate::build::emit::Param;
use crate::support::{Tolerance, check, elements};

/// Sums of the kernel: their operands are of the order of 1.
const SUMS: Tolerance = Tolerance { relative: 1e-4, absolute: 1e-4 };

/// What follows the convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Epilogue {
    Nothing,
    BiasRelu,
    /// Bias, residual and ReLU; the sum before the ReLU is a second output.
    Residual,
}

#[derive(Clone, Debug)]
struct Case {
    images: i64,
    symbolic: bool,
    input: [i64; 2],
    channels: i64,
    filters: i64,
    pads: [(i64, i64); 2],
    epilogue: Epilogue,
    transform: Transform,
    lines: i64,
    columns: i64,
    width: u32,
    blocks: [i64; 2],
}

fn stored(bytes: &[u8]) -> Bytes {
    Bytes::build(bytes.len(), |out| out.copy_from_slice(bytes))
}

fn tensor(dims: &[i64], seed: i64) -> Tensor {
    let dims: Vec<usize> = dims.iter().map(|d| *d as usize).collect();
    let count: usize = dims.iter().product();
    let bytes = elements(DType::F32, (0..count as i64).map(|i| ((i * 7 + seed * 5) % 23 - 11) as f64 / 8.0));
    Tensor::new(DType::F32, &dims, stored(&bytes)).unwrap()
}

/// The module, its graph, the convolution, and the data of the inputs.
fn module(case: &Case) -> (Module, GraphId, Vec<Tensor>) {
    let [height, width] = case.input;
    let [(top, bottom), (left, right)] = case.pads;
    let output = [height + top + bottom - 2, width + left + right - 2];
    let images = if case.symbolic { Dim::symbol("n") } else { Dim::known(case.images) };
    let mut module = Module::new();
    let mut b = GraphBuilder::new(&mut module, "main");
    let mut data = vec![];
    let mut input = |b: &mut GraphBuilder<'_>, [h, w]: [i64; 2], c: i64, seed: i64| {
        let dims = [images.clone(), Dim::known(h), Dim::known(w), Dim::known(c)];
        data.push(tensor(&[case.images, h, w, c], seed));
        b.input("x", Type::tensor(DType::F32, dims.to_vec()))
    };
    let x = input(&mut b, case.input, case.channels, 1);
    let residual = (case.epilogue == Epilogue::Residual).then(|| input(&mut b, output, case.filters, 2));
    let w = b.constant(tensor(&[case.filters, case.channels, 3, 3], 3)).unwrap();
    let conv = Conv::Forward {
        strides: vec![1, 1],
        dilations: vec![1, 1],
        pads: case.pads.map(|(before, after)| (Dim::known(before), Dim::known(after))).to_vec(),
        groups: 1,
        layout: Layout::ChannelsLast,
        out: DType::F32,
    };
    let mut y = b.add1(conv, &[x, w]).unwrap();
    if case.epilogue != Epilogue::Nothing {
        let bias = b.constant(tensor(&[case.filters], 4)).unwrap();
        y = b.ew("add", &[y, bias]).unwrap();
        if let Some(residual) = residual {
            y = b.ew("add", &[y, residual]).unwrap();
            b.output("sum", y);
        }
        y = b.ew("relu", &[y]).unwrap();
    }
    b.output("y", y);
    let id = b.finish();
    module.add_entry(id);
    (module, id, data)
}

/// The kernel of the case, lowered with its own plan.
fn lowered(case: &Case, module: &Module, id: GraphId) -> Result<Lowered, Refusal> {
    let graph = module.graph(id);
    let computed = |n: &NodeId| !matches!(graph.node(*n).op, Op::Source(_));
    let nodes: Vec<NodeId> = graph.schedule().iter().copied().filter(computed).collect();
    let region = Region {
        graph,
        nodes: nodes.iter().copied().collect(),
        outputs: graph.outputs().to_vec(),
        stored: FxHashSet::default(),
    };
    let layer = layer(&region, nodes[0])?;
    let m = case.transform.outputs() as i64;
    let plan = Plan {
        transform: case.transform,
        tiles: layer.output.map(|n| (n + m - 1) / m),
        lines: case.lines,
        columns: case.columns,
        width: case.width,
        blocks: case.blocks,
    };
    lower(&region, nodes[0], &|v| graph.constant(v).cloned(), (layer, plan), "conv")
}

fn run(case: &Case) {
    let (module, id, data) = module(case);
    let lowered = lowered(case, &module, id).unwrap_or_else(|e| panic!("{case:?}: {}", e.0));
    let datums: Vec<Datum> = data.iter().cloned().map(Datum::Tensor).collect();
    let want: Vec<Tensor> = Evaluator::new(&module)
        .run(id, &datums)
        .unwrap()
        .into_iter()
        .map(|d| if let Datum::Tensor(t) = d { t } else { panic!("no tensor") })
        .collect();
    let inputs = module.graph(id).inputs();
    let buffer = |param: &Param| match param {
        Param::Constant(tensor) => tensor.bytes().to_vec(),
        Param::Output(at) => vec![0; want[*at].bytes().len()],
        Param::Source(at) => match &lowered.sources[*at] {
            source if source.constant.is_some() => source.constant.as_ref().unwrap().bytes().to_vec(),
            source => data[inputs.iter().position(|v| *v == source.value).unwrap()].bytes().to_vec(),
        },
    };
    let buffers: Vec<Vec<u8>> = lowered.params.iter().map(buffer).collect();
    let value = |d: &Dim| d.eval(&|_| Some(case.images)).unwrap();
    let dims: Vec<i64> = lowered.dims.iter().map(value).collect();
    assert_eq!(value(&lowered.grid), lowered.kernel.grid_points().eval_dims(&dims), "{case:?}");
    let got = check(&lowered.kernel, &buffers, &dims, SUMS);
    for (param, got) in lowered.params.iter().zip(&got) {
        let Param::Output(at) = param else { continue };
        let got = Tensor::new(DType::F32, want[*at].dims(), stored(got)).unwrap();
        let pairs = want[*at].to_f64s().unwrap().into_iter().zip(got.to_f64s().unwrap());
        for (i, (want, got)) in pairs.enumerate() {
            let close = (want - got).abs() <= 1e-4 * want.abs().max(4.0);
            assert!(close, "{case:?}, output {at}, element {i}: {got} for {want}");
        }
    }
}

/// A layer of odd sizes, several blocks of lines and of output channels.
fn case() -> Case {
    Case {
        images: 2,
        symbolic: false,
        input: [9, 11],
        channels: 20,
        filters: 40,
        pads: [(1, 1), (1, 1)],
        epilogue: Epilogue::Residual,
        transform: TWO,
        lines: 2,
        columns: 16,
        width: 16,
        blocks: [20, 16],
    }
}

#[test]
fn layers_of_one_point_and_of_many() {
    for transform in [TWO, FOUR] {
        run(&Case { transform, ..case() });
        run(&Case { transform, images: 1, lines: 100, columns: 40, ..case() });
        run(&Case {
            transform,
            images: 1,
            input: [8, 8],
            lines: 1,
            channels: 64,
            filters: 64,
            blocks: [32, 8],
            ..case()
        });
    }
}

#[test]
fn a_batch_of_unknown_size() {
    for images in [1, 3] {
        for lines in [1, 3, 4] {
            run(&Case { images, symbolic: true, lines, ..case() });
        }
    }
}

#[test]
fn padding_of_every_side() {
    for pads in [[(0, 0), (0, 0)], [(2, 0), (0, 2)], [(0, 1), (3, 0)], [(4, 4), (4, 4)]] {
        for transform in [TWO, FOUR] {
            run(&Case { pads, transform, epilogue: Epilogue::BiasRelu, ..case() });
        }
    }
}

#[test]
fn other_layers_are_refused() {
    let refused = |change: &dyn Fn(&mut Conv)| {
        let mut module = Module::new();
        let mut b = GraphBuilder::new(&mut module, "main");
        let x = b.input("x", Type::fixed(DType::F32, &[1, 12, 12, 12]));
        let w = b.constant(tensor(&[16, 12, 3, 3], 1)).unwrap();
        let mut conv = Conv::Forward {
            strides: vec![1, 1],
            dilations: vec![1, 1],
            pads: vec![(Dim::known(1), Dim::known(1)); 2],
            groups: 1,
            layout: Layout::ChannelsLast,
            out: DType::F32,
        };
        change(&mut conv);
        let y = b.add1(conv, &[x, w]).unwrap();
        b.output("y", y);
        let id = b.finish();
        let graph = module.graph(id);
        let hero = graph.def_node(y).unwrap().0;
        let nodes = FxHashSet::from_iter([hero]);
        let region = Region { graph, nodes, outputs: vec![y], stored: FxHashSet::default() };
        layer(&region, hero).is_err()
    };
    assert!(!refused(&|_| {}));
    assert!(refused(&|c| if let Conv::Forward { strides, .. } = c {
        *strides = vec![2, 2]
    }));
    assert!(refused(&|c| if let Conv::Forward { dilations, .. } = c {
        *dilations = vec![1, 2]
    }));
    assert!(refused(&|c| if let Conv::Forward { layout, .. } = c {
        *layout = Layout::ChannelsFirst
    }));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_layers_agree(
        images in 1..4i64, symbolic in any::<bool>(), input in [5..18i64, 5..18i64],
        channels in 4..40i64, filters in 4..50i64, pads in [(0..3i64, 0..3i64), (0..3i64, 0..3i64)],
        kind in 0..3usize, four in any::<bool>(), lines in 1..6i64, width in 0..4usize, panels in 1..3i64,
        blocks in [0..3usize, 0..3usize],
    ) {
        let width = [4u32, 8, 16, 32][width];
        let columns = (panels * i64::from(width)).min(filters);
        let epilogue = [Epilogue::Nothing, Epilogue::BiasRelu, Epilogue::Residual][kind];
        let transform = if four { FOUR } else { TWO };
        let blocks = blocks.map(|b| [8, 16, 100][b]);
        run(&Case {
            images, symbolic, input, channels, filters, pads, epilogue, transform, lines, columns, width, blocks,
        });
    }
}
