//! Layers whose weights are stored in fewer bits, compiled as models are, against the same layers in f32: shape x storage, one
//! thread, in turns.
//!
//! `cargo bench -p kiln-benches --bench weights`. Bytes are those of the weights, which few rows wait for.

use criterion::Throughput;
use kiln::ir::op::{Contract, ContractSpec, Quant};
use kiln::ir::{Build, DType, GraphBuilder, InferError, Scalar, Tensor, Value};
use kiln::passes::NarrowWeights;
use kiln_benches::Result;
use kiln_benches::graph::Graph;
use kiln_benches::machine::{Machine, criterion, is_wanted};
use kiln_benches::rotate::best_of_turns;
use kiln_benches::table::Table;

/// Rows, columns, depth: projections of BERT for one token and for many.
const SHAPES: [[usize; 3]; 5] =
    [[1, 768, 768], [1, 3072, 768], [1, 768, 3072], [128, 768, 768], [128, 3072, 768]];

/// Weights that share a scale.
const GROUP: usize = 32;

/// How weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Storage {
    F32,
    F16,
    Int8,
    Int4,
}

impl Storage {
    const ALL: [Storage; 4] = [Storage::F32, Storage::F16, Storage::Int8, Storage::Int4];

    fn name(self) -> &'static str {
        match self {
            Storage::F32 => "f32",
            Storage::F16 => "f16",
            Storage::Int8 => "int8",
            Storage::Int4 => "int4",
        }
    }

    /// Bytes of so many weights, with their scales.
    fn bytes(self, weights: usize) -> usize {
        let scales = weights / GROUP * 4;
        match self {
            Storage::F32 => 4 * weights,
            Storage::F16 => 2 * weights,
            Storage::Int8 => weights + scales,
            Storage::Int4 => weights / 2 + scales,
        }
    }

    /// Weights `[k][n]` in f32.
    fn weights(self, b: &mut GraphBuilder<'_>, [k, n]: [usize; 2]) -> std::result::Result<Value, InferError> {
        let tensor = |dtype: DType, dims: &[usize], of: &dyn Fn(usize) -> Scalar| {
            let all: Vec<Scalar> = (0..dims.iter().product()).map(of).collect();
            Tensor::from_scalars(dtype, dims, &all).map_err(|e| InferError::new(e.to_string()))
        };
        let code = |i: usize| (i * 7919 % 15) as i128 - 7;
        let (dtype, grid) = match self {
            Storage::F32 | Storage::F16 => {
                let dtype = if self == Storage::F32 { DType::F32 } else { DType::F16 };
                let w = b.constant(tensor(dtype, &[k, n], &|i| Scalar::F(code(i) as f64 * 0.01))?)?;
                return b.cast(w, DType::F32);
            }
            Storage::Int8 => (DType::I8, [k / GROUP, n]),
            Storage::Int4 => (DType::I4, [k / GROUP, n]),
        };
        // Some are beyond four bits.
        let wide = |i: usize| if dtype == DType::I8 { code(i) * 9 } else { code(i) };
        let q = b.constant(tensor(dtype, &[k, n], &|i| Scalar::I(wide(i)))?)?;
        let scale = b.constant(tensor(DType::F32, &grid, &|i| Scalar::F(0.01 + (i % 5) as f64 * 0.001))?)?;
        let zero = b.constant(tensor(dtype, &grid, &|_| Scalar::I(0))?)?;
        b.add1(Quant::Dequantize { to: DType::F32, axis: Some(0), block: GROUP as i64 }, &[q, scale, zero])
    }
}

fn main() -> Result<()> {
    let Some(machine) = Machine::from_environment() else { return Ok(()) };
    let mut criterion = criterion();
    let mut table = Table::new(&["1 thread, best of all runs", "us", "times f32", "GB/s of weights"]);
    for [m, n, k] in SHAPES {
        let shape = format!("{m}x{n}x{k}");
        if !Storage::ALL.iter().any(|s| is_wanted(&format!("{shape} {}", s.name()))) {
            continue;
        }
        let mut options = kiln::Options { tier: Some(machine.tier), ..kiln::Options::default() };
        options.passes.narrow = NarrowWeights::Halves;
        let layer = |storage: Storage| {
            Graph::compiled(&options, 1, &[&[m, k]], &|b, x| {
                let w = storage.weights(b, [k, n])?;
                let spec = ContractSpec { lhs: b"mk".to_vec(), rhs: b"kn".to_vec(), out: b"mn".to_vec() };
                Ok(vec![b.add1(Contract::Einsum { spec, out: DType::F32 }, &[x[0], w])?])
            })
        };
        let mut graphs = Storage::ALL.into_iter().map(layer).collect::<Result<Vec<Graph>>>()?;
        for graph in &mut graphs {
            graph.run()?;
        }
        let mut group = criterion.benchmark_group("weights");
        for (storage, graph) in Storage::ALL.into_iter().zip(&mut graphs) {
            group.throughput(Throughput::Bytes(storage.bytes(n * k) as u64));
            group.bench_function(format!("{shape} {}", storage.name()), |b| {
                b.iter(|| graph.run().expect("it ran before"));
            });
        }
        group.finish();
        let mut runs: Vec<_> =
            graphs.iter_mut().map(|graph| || graph.run().expect("it ran before")).collect();
        let mut turns: Vec<&mut dyn FnMut()> = runs.iter_mut().map(|run| run as &mut dyn FnMut()).collect();
        let best = best_of_turns(&mut turns, || ());
        for (storage, time) in Storage::ALL.into_iter().zip(&best) {
            table.row(vec![
                format!("{shape} {}", storage.name()),
                format!("{:.1}", time * 1e6),
                format!("{:.2}", best[0] / time),
                format!("{:.1}", storage.bytes(n * k) as f64 / time / 1e9),
            ]);
        }
    }
    table.print();
    criterion.final_summary();
    Ok(())
}
