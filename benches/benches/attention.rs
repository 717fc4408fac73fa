//! Attention of 12 heads of 64, compiled as a model is, as a share of the FMA peak that counts the operations of the two
//! products only, one thread.
//!
//! `cargo bench -p kiln-benches --bench attention`

use criterion::Throughput;
use kiln::ir::op::Composite;
use kiln::ir::{Build, Float};
use kiln_benches::Result;
use kiln_benches::graph::Graph;
use kiln_benches::machine::{Machine, criterion, is_wanted};
use kiln_benches::rotate::best_of_turns;
use kiln_benches::table::Table;

const HEADS: usize = 12;
const WIDTH: usize = 64;

fn main() -> Result<()> {
    let Some(machine) = Machine::from_environment() else { return Ok(()) };
    let mut criterion = criterion();
    let mut table = Table::new(&["best of all runs", "ms", "GFLOP/s", "peak", "share"]);
    for tokens in [128, 1024] {
        for causal in [false, true] {
            let name = format!("{HEADS} x {tokens} x {WIDTH}{}", if causal { ", causal" } else { "" });
            if !is_wanted(&name) {
                continue;
            }
            let dims: &[usize] = &[1, HEADS, tokens, WIDTH];
            let op = Composite::Attention {
                scale: Float::new(1.0 / (WIDTH as f64).sqrt()),
                mask: false,
                causal,
                causal_from_end: false,
                softcap: Float::new(0.0),
            };
            let mut graph =
                Graph::new(machine, 1, &[dims; 3], &|b, inputs| Ok(vec![b.add1(op.clone(), inputs)?]))?;
            // Scores and their product with the values; a causal one needs about half of them, which is not counted.
            let flops = (2 * 2 * HEADS * tokens * tokens * WIDTH) as f64;
            graph.run()?;
            let mut peak = 0.0f64;
            let mut run = || graph.run().expect("it ran before");
            let best = best_of_turns(&mut [&mut run], || peak = peak.max(machine.peak()))[0];
            let gflops = flops / best / 1e9;
            table.row(vec![
                name.clone(),
                format!("{:.3}", best * 1e3),
                format!("{gflops:.1}"),
                format!("{peak:.1}"),
                format!("{:.1}%", 100.0 * gflops / peak),
            ]);
            let mut group = criterion.benchmark_group("attention");
            group.throughput(Throughput::Elements(flops as u64));
            group.bench_function(&name, |b| b.iter(&mut run));
            group.finish();
        }
    }
    table.print();
    criterion.final_summary();
    Ok(())
}
