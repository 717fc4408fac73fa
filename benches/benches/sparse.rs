//! Layers whose weights are mostly zero, compiled as models are, against the same layers with dense weights: pattern x
//! density x shape, one thread, all densities of a shape in turns.
//!
//! `cargo bench -p kiln-benches --bench sparse`, which `cargo xtask sparse-ladder` runs.

use kiln::ir::op::{Contract, ContractSpec, Conv, Layout};
use kiln::ir::{Build, DType, Dim, GraphBuilder, InferError, Tensor, Value};
use kiln_benches::Result;
use kiln_benches::graph::Graph;
use kiln_benches::machine::{Machine, is_wanted};
use kiln_benches::rotate::turn_of;
use kiln_benches::table::Table;

/// Percent of the weights that are zero.
const SPARSE: [u64; 5] = [50, 70, 80, 90, 95];

/// Rounds of turns, and seconds of a turn.
const ROUNDS: usize = 6;
const TURN: f64 = 0.03;

/// Which weights are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pattern {
    /// Any.
    Unstructured,
    /// Those of four outputs side by side, for one input.
    Block4,
}

impl Pattern {
    const ALL: [Pattern; 2] = [Pattern::Block4, Pattern::Unstructured];

    fn name(self) -> &'static str {
        match self {
            Pattern::Unstructured => "unstructured",
            Pattern::Block4 => "block4",
        }
    }

    /// The least speedups at the densities of [`SPARSE`].
    fn bars(self) -> [f64; 5] {
        match self {
            Pattern::Unstructured => [1.0, 1.4, 2.0, 3.2, 5.0],
            Pattern::Block4 => [1.6, 2.5, 3.5, 6.0, 9.0],
        }
    }

    fn block(self) -> usize {
        match self {
            Pattern::Unstructured => 1,
            Pattern::Block4 => 4,
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

    /// The layer with these weights, `[outputs][each]`, a bias and a ReLU.
    fn layer(
        self,
        b: &mut GraphBuilder<'_>,
        x: Value,
        weights: &[f32],
    ) -> std::result::Result<Value, InferError> {
        let [outputs, each] = self.weights();
        let tensor = |dims: &[usize], values: &[f32]| {
            Tensor::from_slice(dims, values).map_err(|e| InferError::new(e.to_string()))
        };
        let y = match self {
            Shape::Linear(_) => {
                let w = b.constant(tensor(&[outputs, each], weights)?)?;
                let spec = ContractSpec { lhs: b"mk".to_vec(), rhs: b"nk".to_vec(), out: b"mn".to_vec() };
                b.add1(Contract::Einsum { spec, out: DType::F32 }, &[x, w])?
            }
            Shape::Conv([_, input, _, size]) => {
                let w = b.constant(tensor(&[outputs, input, size, size], weights)?)?;
                let pad = Dim::known((size as i64 - 1) / 2);
                let op = Conv::Forward {
                    strides: vec![1, 1],
                    dilations: vec![1, 1],
                    pads: vec![(pad.clone(), pad); 2],
                    groups: 1,
                    layout: Layout::ChannelsLast,
                    out: DType::F32,
                };
                b.add1(op, &[x, w])?
            }
        };
        let bias: Vec<f32> = (0..outputs).map(|i| i as f32 * 0.001 - 0.1).collect();
        let bias = b.constant(tensor(&[outputs], &bias)?)?;
        let y = b.ew("add", &[y, bias])?;
        b.ew("relu", &[y])
    }
}

/// Random weights `[outputs][each]`, of which `sparse` percent are zero in a pattern.
fn weights([outputs, each]: [usize; 2], block: usize, sparse: u64) -> Vec<f32> {
    let random = |seed: usize| {
        // Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
        let state = (seed as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };
    let one = |i: usize| {
        let (output, at) = (i / each, i % each);
        let kept = random(output / block * each + at) % 100 >= sparse;
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

fn main() -> Result<()> {
    let Some(machine) = Machine::from_environment() else { return Ok(()) };
    let heading: Vec<String> = SPARSE.iter().map(|s| format!("{s} %")).collect();
    let mut columns = vec!["times dense, 1 thread, best of all runs", "dense ms", "share of peak"];
    columns.extend(heading.iter().map(String::as_str));
    let mut table = Table::new(&columns);
    let mut ladders = Pattern::ALL.map(|pattern| (pattern, Ladder::default()));
    for shape in SHAPES.into_iter().filter(|shape| is_wanted(&shape.name())) {
        let graph = |block: usize, sparse: u64| {
            let weights = weights(shape.weights(), block, sparse);
            Graph::new(machine, 1, &[&shape.input()], &|b, x| Ok(vec![shape.layer(b, x[0], &weights)?]))
        };
        let mut graphs = vec![graph(1, 0)?];
        for pattern in Pattern::ALL {
            for sparse in SPARSE {
                graphs.push(graph(pattern.block(), sparse)?);
            }
        }
        let (mut peak, mut best) = (0.0f64, vec![f64::INFINITY; graphs.len()]);
        for _ in 0..ROUNDS {
            peak = peak.max(machine.peak());
            for (graph, best) in graphs.iter_mut().zip(&mut best) {
                *best = best.min(turn_of(TURN, &mut || graph.run().expect("a graph that was compiled")));
            }
        }
        let (dense, sparse) = best.split_at(1);
        for ((pattern, ladder), times) in ladders.iter_mut().zip(sparse.chunks(SPARSE.len())) {
            let speedups: [f64; 5] = std::array::from_fn(|i| dense[0] / times[i]);
            let share = 100.0 * shape.flops() / dense[0] / 1e9 / peak;
            let mut row = vec![format!("{} {}", shape.name(), pattern.name())];
            row.extend([format!("{:.3}", dense[0] * 1e3), format!("{share:.0} %")]);
            row.extend(speedups.iter().map(|s| format!("{s:.2}")));
            table.row(row);
            ladder.0.push(speedups);
        }
    }
    for (pattern, _) in &ladders {
        let mut row = vec![format!("bar {}", pattern.name()), String::new(), String::new()];
        row.extend(pattern.bars().iter().map(|b| format!("{b:.1}")));
        table.row(row);
    }
    table.print();
    let sums: Vec<String> = ladders.iter().map(|(pattern, ladder)| ladder.summary(*pattern)).collect();
    println!("sparse ladder, f32, geometric means at 50 70 80 90 95 %: {}", sums.join("; "));
    Ok(())
}
