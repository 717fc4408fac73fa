//! What a run and a kernel cost beside their work, on one thread and on two.
//!
//! Chains of kernels that cannot be one: softmaxes of a square and matrix products. The smallest shows the cost of a run
//! and of a kernel, the larger ones where a second thread begins to pay. A kernel of one chunk runs on one thread whatever
//! their number.
//! `cargo bench -p kiln-benches --bench threads`

use kiln::ir::{Build, GraphBuilder, InferError, Value};
use kiln_benches::Result;
use kiln_benches::graph::{Graph, tensor};
use kiln_benches::machine::{Machine, criterion, is_wanted};
use kiln_benches::rotate::best_of_turns;
use kiln_benches::table::Table;

/// A kernel of a chain.
#[derive(Clone, Copy)]
enum Link {
    /// Softmax over the rows: a thread finds what it wrote in its own cache.
    Rows,
    /// Softmax over the rows and the columns in turn: half of what a thread reads was written by the other.
    Softmax,
    /// A matrix product with constant weights.
    Product,
}

impl Link {
    fn name(self) -> &'static str {
        match self {
            Link::Rows => "softmax rows",
            Link::Softmax => "softmax",
            Link::Product => "product",
        }
    }
}

/// Kernels, how many of them, and the side of the square.
const CASES: [(Link, usize, usize); 12] = [
    (Link::Softmax, 1, 4),
    (Link::Softmax, 64, 4),
    (Link::Softmax, 64, 32),
    (Link::Softmax, 64, 128),
    (Link::Softmax, 16, 512),
    (Link::Rows, 64, 32),
    (Link::Rows, 64, 128),
    (Link::Rows, 16, 512),
    (Link::Product, 64, 32),
    (Link::Product, 64, 128),
    (Link::Product, 16, 256),
    (Link::Product, 4, 512),
];

type Built = std::result::Result<Vec<Value>, InferError>;

fn chain(b: &mut GraphBuilder<'_>, x: Value, (link, kernels, side): (Link, usize, usize)) -> Built {
    let weights = tensor(&[side, side]).map_err(|error| InferError::new(error.to_string()))?;
    let weights = b.constant(weights)?;
    let mut value = x;
    for kernel in 0..kernels {
        value = match link {
            Link::Rows => b.softmax(value, 1)?,
            Link::Softmax => b.softmax(value, 1 - kernel % 2)?,
            Link::Product => b.einsum("mk,kn->mn", value, weights)?,
        };
    }
    Ok(vec![value])
}

fn main() -> Result<()> {
    let Some(machine) = Machine::from_environment() else { return Ok(()) };
    let mut criterion = criterion();
    let heading = [
        "best of all runs",
        "kernels",
        "chunks",
        "1 thread, us",
        "us a kernel",
        "2 threads, us",
        "us a kernel",
        "ratio",
    ];
    let mut table = Table::new(&heading);
    for case in CASES {
        let (link, count, side) = case;
        let name = format!("{count} {} {side}x{side}", link.name());
        if !is_wanted(&name) {
            continue;
        }
        let graph = |threads| Graph::new(machine, threads, &[&[side, side]], &|b, v| chain(b, v[0], case));
        let (mut one, mut two) = (graph(1)?, graph(2)?);
        one.run()?;
        two.run()?;
        let pieces = two.pieces()?;
        let mut row = vec![name.clone(), pieces.kernels.to_string(), pieces.chunks.to_string()];
        let (mut one, mut two) = (|| one.run().expect("it ran before"), || two.run().expect("it ran before"));
        let best = best_of_turns(&mut [&mut one, &mut two], || ());
        for seconds in &best {
            row.push(format!("{:.2}", seconds * 1e6));
            row.push(format!("{:.3}", seconds * 1e6 / f64::from(pieces.kernels.max(1))));
        }
        row.push(format!("{:.2}", best[1] / best[0]));
        table.row(row);
        let mut group = criterion.benchmark_group("threads");
        group.bench_function(format!("{name}, 1 thread"), |b| b.iter(&mut one));
        group.bench_function(format!("{name}, 2 threads"), |b| b.iter(&mut two));
        group.finish();
    }
    table.print();
    criterion.final_summary();
    Ok(())
}
