//! Layers whose weights are mostly zero, compiled as models are, against the same layers with dense weights: pattern x
//! density x shape, one thread, all densities of a shape in turns. With `KILN_ZOO`, a whole model, too.
//!
//! `cargo bench -p kiln-benches --bench sparse`, which `cargo xtask sparse-ladder` runs.

use kiln::ir::op::{Contract, ContractSpec, Conv, Layout, Quant};
use kiln::ir::{Build, DType, Dim, GraphBuilder, InferError, Tensor, Value};
use kiln::passes::sparsify::{Method, Pattern as Blocks, Pruning};
use kiln::runtime::SessionOptions;
use kiln::sparsify::{Sparsification, sparsify};
use kiln_benches::graph::Graph;
use kiln_benches::kernel::Products;
use kiln_benches::machine::{Machine, is_wanted};
use kiln_benches::rotate::turn_of;
use kiln_benches::table::Table;
use kiln_benches::{Result, zoo};

/// Percent of the weights that are zero.
const SPARSE: [u64; 5] = [50, 70, 80, 90, 95];

/// The model that is run whole.
const MODEL: &str = "bert_base_128";

/// What a graph is made of.
type Built = std::result::Result<Value, InferError>;

/// Rounds of turns, and seconds of a turn.
const ROUNDS: usize = 6;
const TURN: f64 = 0.03;

/// Which weights are zero, and what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pattern {
    /// Any, of floats.
    Unstructured,
    /// Those of four outputs side by side, for one input, of floats.
    Block4,
    /// Those of four inputs side by side, for one output, of bytes.
    Bytes,
}

impl Pattern {
    const ALL: [Pattern; 3] = [Pattern::Block4, Pattern::Unstructured, Pattern::Bytes];

    fn name(self) -> &'static str {
        match self {
            Pattern::Unstructured => "f32 unstructured",
            Pattern::Block4 => "f32 block4",
            Pattern::Bytes => "int8 block4",
        }
    }

    fn is_wanted(self) -> bool {
        std::env::var("KILN_PATTERN").is_ok_and(|only| self.name().contains(&only))
            || std::env::var_os("KILN_PATTERN").is_none()
    }

    /// The least speedups at the densities of [`SPARSE`].
    fn bars(self) -> [f64; 5] {
        match self {
            Pattern::Unstructured => [1.0, 1.4, 2.0, 3.2, 5.0],
            Pattern::Block4 => [1.6, 2.5, 3.5, 6.0, 9.0],
            Pattern::Bytes => [1.2, 1.7, 2.3, 3.5, 5.0],
        }
    }

    /// Outputs and inputs of a block.
    fn block(self) -> [usize; 2] {
        match self {
            Pattern::Unstructured => [1, 1],
            Pattern::Block4 => [4, 1],
            Pattern::Bytes => [1, 4],
        }
    }

    fn input(self) -> DType {
        match self {
            Pattern::Unstructured | Pattern::Block4 => DType::F32,
            Pattern::Bytes => DType::U8,
        }
    }

    fn products(self) -> Products {
        match self {
            Pattern::Unstructured | Pattern::Block4 => Products::Floats,
            Pattern::Bytes => Products::Bytes,
        }
    }
}

/// A layer.
#[derive(Clone, Copy, Debug)]
enum Shape {
    /// Rows, columns, depth of a product.
    Linear([usize; 3]),
    /// Side of the image, input and output channels, side of the filters; stride 1.
    Conv([usize; 4]),
}

/// Projections of BERT, convolutions of ResNet-50.
const SHAPES: [Shape; 15] = [
    Shape::Linear([128, 768, 768]),
    Shape::Linear([128, 3072, 768]),
    Shape::Linear([128, 768, 3072]),
    Shape::Conv([56, 64, 64, 1]),
    Shape::Conv([56, 64, 256, 1]),
    Shape::Conv([56, 256, 64, 1]),
    Shape::Conv([28, 512, 128, 1]),
    Shape::Conv([28, 128, 512, 1]),
    Shape::Conv([14, 1024, 256, 1]),
    Shape::Conv([14, 256, 1024, 1]),
    Shape::Conv([7, 512, 2048, 1]),
    Shape::Conv([56, 64, 64, 3]),
    Shape::Conv([28, 128, 128, 3]),
    Shape::Conv([14, 256, 256, 3]),
    Shape::Conv([7, 512, 512, 3]),
];

impl Shape {
    fn name(self) -> String {
        match self {
            Shape::Linear([m, n, k]) => format!("{m}x{n}x{k}"),
            Shape::Conv([side, input, output, size]) => {
                format!("{size}x{size} {side}x{side}x{input}->{output}")
            }
        }
    }

    /// Outputs and weights of each.
    fn weights(self) -> [usize; 2] {
        match self {
            Shape::Linear([_, n, k]) => [n, k],
            Shape::Conv([_, input, output, size]) => [output, input * size * size],
        }
    }

    fn input(self) -> Vec<usize> {
        match self {
            Shape::Linear([m, _, k]) => vec![m, k],
            Shape::Conv([side, input, ..]) => vec![1, side, side, input],
        }
    }

    /// Arithmetic operations of all products.
    fn flops(self) -> f64 {
        let [outputs, each] = self.weights();
        let rows = match self {
            Shape::Linear([m, ..]) => m,
            Shape::Conv([side, ..]) => side * side,
        };
        2.0 * (rows * outputs * each) as f64
    }

    /// The product with these weights, `[outputs][each]` in the order of the layer's.
    fn product(self, b: &mut GraphBuilder<'_>, x: Value, w: Value, out: DType) -> Built {
        match self {
            Shape::Linear(_) => {
                let spec = ContractSpec { lhs: b"mk".to_vec(), rhs: b"nk".to_vec(), out: b"mn".to_vec() };
                b.add1(Contract::Einsum { spec, out }, &[x, w])
            }
            Shape::Conv([.., size]) => {
                let pad = Dim::known((size as i64 - 1) / 2);
                let op = Conv::Forward {
                    strides: vec![1, 1],
                    dilations: vec![1, 1],
                    pads: vec![(pad.clone(), pad); 2],
                    groups: 1,
                    layout: Layout::ChannelsLast,
                    out,
                };
                b.add1(op, &[x, w])
            }
        }
    }

    fn weight_dims(self) -> Vec<usize> {
        match self {
            Shape::Linear([_, n, k]) => vec![n, k],
            Shape::Conv([_, input, output, size]) => vec![output, input, size, size],
        }
    }

    /// The layer with these weights, a bias and a ReLU; of bytes, with requantization.
    fn layer(self, b: &mut GraphBuilder<'_>, x: Value, pattern: Pattern, weights: &[f32]) -> Built {
        let [outputs, each] = self.weights();
        let dims = self.weight_dims();
        let failed = |e: kiln::ir::TensorError| InferError::new(e.to_string());
        let bias: Vec<f32> = (0..outputs).map(|i| i as f32 * 0.001 - 0.1).collect();
        let bias = Tensor::from_slice(&[outputs], &bias).map_err(failed)?;
        if pattern.input() == DType::F32 {
            let w = b.constant(Tensor::from_slice(&dims, weights).map_err(failed)?)?;
            let y = self.product(b, x, w, DType::F32)?;
            let bias = b.constant(bias)?;
            let y = b.ew("add", &[y, bias])?;
            return b.ew("relu", &[y]);
        }
        let integers: Vec<i8> = weights.iter().map(|w| (w * 1250.0).round() as i8).collect();
        let w = b.constant(Tensor::from_slice(&dims, &integers).map_err(failed)?)?;
        let (x, w) = (b.cast(x, DType::I32)?, b.cast(w, DType::I32)?);
        let zero = b.constant(Tensor::from_slice(&[], &[121i32]).map_err(failed)?)?;
        let x = b.ew("sub", &[x, zero])?;
        let y = self.product(b, x, w, DType::I32)?;
        let y = b.cast(y, DType::F32)?;
        let scales: Vec<f32> = (0..outputs).map(|i| 1e-5 + (i % 9) as f32 * 1e-6 / each as f32).collect();
        let scales = b.constant(Tensor::from_slice(&[outputs], &scales).map_err(failed)?)?;
        let bias = b.constant(bias)?;
        let y = b.ew("mul", &[y, scales])?;
        let y = b.ew("add", &[y, bias])?;
        let y = b.ew("relu", &[y])?;
        let (step, zero) = (b.scalar(DType::F32, 0.01)?, b.scalar(DType::U8, 0.0)?);
        let op = Quant::Quantize { to: DType::U8, axis: None, block: 0, saturate: true, inverse: false };
        b.add1(op, &[y, step, zero])
    }
}

/// Random weights `[outputs][inputs][taps]`, of which `sparse` percent are zero in blocks of outputs and inputs.
fn weights(shape: Shape, [block, inputs]: [usize; 2], sparse: u64) -> Vec<f32> {
    let [outputs, each] = shape.weights();
    let taps = shape.weight_dims().iter().skip(2).product::<usize>();
    let random = |seed: usize| {
        // Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
        let state = (seed as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };
    let one = |i: usize| {
        let (output, at) = (i / each, i % each);
        let unit = at / taps / inputs * taps + at % taps;
        let kept = random(output / block * each + unit) % 100 >= sparse;
        if kept { (random(i + (1 << 40)) % 2001) as f32 / 1e4 - 0.1 + 1e-5 } else { 0.0 }
    };
    (0..outputs * each).map(one).collect()
}

/// Speedups of a pattern at the densities, shape by shape.
#[derive(Default)]
struct Ladder(Vec<[f64; 5]>);

impl Ladder {
    /// The geometric means.
    fn means(&self) -> [f64; 5] {
        std::array::from_fn(|i| {
            let logs = self.0.iter().map(|row| row[i].ln());
            (logs.sum::<f64>() / self.0.len().max(1) as f64).exp()
        })
    }

    fn summary(&self, pattern: Pattern) -> String {
        let bars = pattern.bars();
        let pairs = self.0.iter().flat_map(|row| row.iter().zip(&bars));
        let (met, all) = (pairs.clone().filter(|(s, b)| s >= b).count(), pairs.count());
        let means: Vec<String> = self.means().iter().map(|m| format!("{m:.2}")).collect();
        format!("{} {} (bars met: {met} of {all})", pattern.name(), means.join(" "))
    }
}

/// The times of a shape's layers, the dense one first, and the dense one's share of the peak.
fn measured(machine: Machine, shape: Shape, pattern: Pattern) -> Result<(Vec<f64>, f64)> {
    let options = kiln::Options { tier: Some(machine.tier), ..kiln::Options::default() };
    let graph = |sparse: u64| {
        let weights = weights(shape, pattern.block(), sparse);
        let input = (pattern.input(), &shape.input()[..]);
        Graph::typed(&options, 1, &[input], &|b, x| Ok(vec![shape.layer(b, x[0], pattern, &weights)?]))
    };
    let mut graphs = vec![graph(0)?];
    for sparse in SPARSE {
        graphs.push(graph(sparse)?);
    }
    let (mut peak, mut best) = (0.0f64, vec![f64::INFINITY; graphs.len()]);
    for _ in 0..ROUNDS {
        peak = peak.max(machine.peak_of(pattern.products()));
        for (graph, best) in graphs.iter_mut().zip(&mut best) {
            *best = best.min(turn_of(TURN, &mut || graph.run().expect("a graph that was compiled")));
        }
    }
    let share = shape.flops() / best[0] / 1e9 / peak;
    Ok((best, share))
}

/// A whole model with blocks of weights at zero against the same model as it is, one thread; nothing without `KILN_ZOO`.
fn models(machine: Machine) -> Result<Vec<String>> {
    let mut sums = vec![];
    if std::env::var_os("KILN_ZOO").is_none() {
        return Ok(sums);
    }
    for file in zoo::models()?.into_iter().filter(|file| file.name == MODEL) {
        let options = kiln::Options { tier: Some(machine.tier), ..kiln::Options::default() };
        let module = kiln::load(&file.model, &[])?;
        let pruning = Pruning { method: Method::Magnitude, pattern: Blocks::Block4, density: 0.1 };
        let sparse = sparsify(module.clone(), &options, &Sparsification { pruning, data: None })?;
        let session = |module| -> Result<_> {
            let compiled = kiln::compile(module, &options)?;
            let one = SessionOptions { threads: Some(1), ..SessionOptions::default() };
            Ok(compiled.into_session(one)?)
        };
        let sessions = [session(module)?, session(sparse.module)?];
        let entry = sessions[0].entries().first().ok_or("no entry")?.clone();
        let inputs = file.inputs(&entry)?;
        let mut best = [f64::INFINITY; 2];
        for _ in 0..ROUNDS {
            for (session, best) in sessions.iter().zip(&mut best) {
                let mut run = || drop(session.run(&entry.name, &inputs).expect("a model that was compiled"));
                *best = best.min(turn_of(TURN, &mut run));
            }
        }
        let [dense, sparse] = best.map(|t| t * 1e3);
        sums.push(format!(
            "{MODEL} at 90 % zeros, f32 block4: {sparse:.1} ms, dense {dense:.1} ms, {:.2} times (bar 3.0)",
            dense / sparse
        ));
    }
    Ok(sums)
}

fn main() -> Result<()> {
    let Some(machine) = Machine::from_environment() else { return Ok(()) };
    let heading: Vec<String> = SPARSE.iter().map(|s| format!("{s} %")).collect();
    let mut columns = vec!["times dense, 1 thread, best of all runs", "weights", "dense ms", "share of peak"];
    columns.extend(heading.iter().map(String::as_str));
    let mut table = Table::new(&columns);
    let wanted = || Pattern::ALL.into_iter().filter(|pattern| pattern.is_wanted());
    let mut ladders: Vec<(Pattern, Ladder)> = wanted().map(|pattern| (pattern, Ladder::default())).collect();
    for shape in SHAPES.into_iter().filter(|shape| is_wanted(&shape.name())) {
        for (pattern, ladder) in &mut ladders {
            let (times, share) = measured(machine, shape, *pattern)?;
            let speedups: [f64; 5] = std::array::from_fn(|i| times[0] / times[i + 1]);
            let mut row = vec![shape.name(), pattern.name().to_owned()];
            row.extend([format!("{:.3}", times[0] * 1e3), format!("{:.0} %", 100.0 * share)]);
            row.extend(speedups.iter().map(|s| format!("{s:.2}")));
            table.row(row);
            ladder.0.push(speedups);
        }
    }
    for (pattern, _) in &ladders {
        let mut row = vec!["bar".to_owned(), pattern.name().to_owned(), String::new(), String::new()];
        row.extend(pattern.bars().iter().map(|b| format!("{b:.1}")));
        table.row(row);
    }
    table.print_markdown();
    let mut sums: Vec<String> = ladders.iter().map(|(pattern, ladder)| ladder.summary(*pattern)).collect();
    sums.extend(models(machine)?);
    println!("\nsparse ladder, geometric means at 50 70 80 90 95 %: {}", sums.join("; "));
    Ok(())
}
