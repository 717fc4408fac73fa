//! Kernels of weights in few bits by themselves: on the interpreter, on every tier of the machine, for panels of every
//! width, and however the grid is split.

use kiln_ir::op::{Contract, ContractSpec, Quant};
use kiln_ir::{Build, DType, Datum, Dim, Evaluator, GraphBuilder, Module, NodeId, Op, Scalar, Tensor, Type};
use proptest::prelude::*;
use rustc_hash::FxHashSet;

use crate::build::contract::{Tuning, lower_contract};
use crate::build::emit::Param;
use crate::build::loops::Lowered;
use crate::build::trace::Region;
use crate::support::{Tolerance, check, close, scalars};

const SUMS: Tolerance = Tolerance { relative: 1e-4, absolute: 1e-4 };

#[derive(Clone, Copy, Debug)]
struct Case {
    m: usize,
    symbolic: bool,
    n: usize,
    k: usize,
    dtype: DType,
    block: usize,
    zeros: bool,
    lanes: u32,
}

fn tensor(dtype: DType, dims: &[usize], of: impl Fn(usize) -> f64) -> Tensor {
    let scalar = |v: f64| if dtype.is_float() { Scalar::F(v) } else { Scalar::I(v as i128) };
    let values: Vec<Scalar> = (0..dims.iter().product()).map(|i| scalar(of(i))).collect();
    Tensor::from_scalars(dtype, dims, &values).unwrap()
}

/// `relu(x w + bias)`, and what `x` is.
fn module(case: &Case) -> (Module, Tensor) {
    let Case { m, n, k, dtype, block, .. } = *case;
    let mut module = Module::new();
    let mut b = GraphBuilder::new(&mut module, "main");
    let rows = if case.symbolic { Dim::symbol("m") } else { Dim::known(m as i64) };
    let x = b.input("x", Type::tensor(DType::F32, vec![rows, Dim::known(k as i64)]));
    let (low, high) = dtype.int_range().unwrap();
    let code = |i: usize| (low + ((i * 7919 + i / 13) as i128) % (high - low + 1)) as f64;
    let grid = [k.div_ceil(block), n];
    let q = b.constant(tensor(dtype, &[k, n], code)).unwrap();
    let scale = b.constant(tensor(DType::F32, &grid, |i| 0.01 + (i % 17) as f64 * 0.003)).unwrap();
    let zero = tensor(dtype, &grid, |i| if case.zeros { code(i * 3 + 1) } else { 0.0 });
    let zero = b.constant(zero).unwrap();
    let op = Quant::Dequantize { to: DType::F32, axis: Some(0), block: block as i64 };
    let w = b.add1(op, &[q, scale, zero]).unwrap();
    let spec = ContractSpec { lhs: b"mk".to_vec(), rhs: b"kn".to_vec(), out: b"mn".to_vec() };
    let y = b.add1(Contract::Einsum { spec, out: DType::F32 }, &[x, w]).unwrap();
    let bias = b.constant(tensor(DType::F32, &[n], |i| i as f64 * 0.01 - 0.3)).unwrap();
    let y = b.ew("add", &[y, bias]).unwrap();
    let y = b.ew("relu", &[y]).unwrap();
    b.output("y", y);
    let id = b.finish();
    module.add_entry(id);
    (module, tensor(DType::F32, &[m, k], |i| ((i * 7 % 23) as f64 - 11.0) * 0.02))
}

fn lowered(case: &Case, module: &Module) -> Lowered {
    let graph = module.graph(module.entries()[0]);
    let computed = |n: &NodeId| !matches!(graph.node(*n).op, Op::Source(_));
    let nodes: Vec<NodeId> = graph.schedule().iter().copied().filter(computed).collect();
    let contracts = |n: &&NodeId| matches!(graph.node(**n).op, Op::Contract(_));
    let hero = *nodes.iter().find(contracts).unwrap();
    let region = Region {
        graph,
        nodes: nodes.iter().copied().collect(),
        outputs: graph.outputs().to_vec(),
        stored: FxHashSet::default(),
    };
    let tuning = Tuning { lanes: case.lanes, tiles: false, reads_lines: true, winograd: true, dots: false };
    lower_contract(&region, hero, &|v| graph.constant(v).cloned(), tuning, "narrow").unwrap()
}

fn agrees(case: Case) {
    let (module, x) = module(&case);
    let Lowered { kernel, params, sources, dims, .. } = lowered(&case, &module);
    let text = kernel.to_string();
    assert!(text.contains("const u8"), "{case:?}\n{text}");
    let bytes = |param: &Param| match param {
        Param::Constant(t) => t.bytes().to_vec(),
        Param::Source(i) => sources[*i].constant.as_ref().unwrap_or(&x).bytes().to_vec(),
        Param::Output(_) => vec![0; case.m * case.n * 4],
    };
    let buffers: Vec<Vec<u8>> = params.iter().map(bytes).collect();
    let dims: Vec<i64> = dims.iter().map(|d| d.eval(&|_| Some(case.m as i64)).unwrap()).collect();
    let after = check(&kernel, &buffers, &dims, SUMS);
    let results = Evaluator::new(&module).run(module.entries()[0], &[Datum::Tensor(x.clone())]).unwrap();
    let [Datum::Tensor(wanted)] = results.as_slice() else { panic!("one tensor") };
    let at = params.iter().position(|p| matches!(p, Param::Output(_))).unwrap();
    for (i, got) in scalars(DType::F32, &after[at]).into_iter().enumerate() {
        let want = wanted.element(i).unwrap();
        assert!(
            close(DType::F32, want, got, SUMS),
            "{case:?}: element {i} is {got:?}, expected {want:?}\n{text}"
        );
    }
}

const PLAIN: Case =
    Case { m: 3, symbolic: false, n: 40, k: 64, dtype: DType::I4, block: 32, zeros: false, lanes: 16 };

#[test]
fn rows_agree_on_every_width() {
    for lanes in [4, 8, 16] {
        for m in [1, 2, 4, 5, 17, 64] {
            for dtype in [DType::U4, DType::I8] {
                agrees(Case { m, lanes, dtype, zeros: dtype == DType::U4, ..PLAIN });
            }
        }
    }
}

#[test]
fn rows_may_show_at_run_time() {
    for lanes in [4, 8, 16] {
        for m in [0, 1, 2, 3, 50, 500] {
            agrees(Case { m, lanes, symbolic: true, ..PLAIN });
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_shapes_agree(
        m in 1..71usize, n in 2..90usize, k in 16..400usize, dtype in 0..4usize, block in 0..5usize,
        lanes in 0..3usize, zeros in any::<bool>(), symbolic in any::<bool>(),
    ) {
        let dtype = [DType::I4, DType::U4, DType::I8, DType::U8][dtype];
        let (block, lanes) = ([16, 32, 48, 128, 256][block], [4, 8, 16][lanes]);
        agrees(Case { m, symbolic, n, k, dtype, block, zeros, lanes });
    }
}
