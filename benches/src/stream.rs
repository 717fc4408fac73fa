//! Graphs that pass over one tensor, and what an element costs them.

use criterion::Throughput;
use kiln::runtime::peak::read_gbps;

use crate::Result;
use crate::graph::{Body, Graph};
use crate::machine::{Machine, criterion, is_wanted};
use crate::rotate::best_of_turns;
use crate::table::Table;

/// Times the wanted cases over `dims` on one thread, with criterion as `group` and in turns; prints nanoseconds an
/// element and the traffic if the input is read and the output of `written` elements is written once.
pub fn bench(group: &str, dims: &[usize], cases: &[(&str, usize, Body<'_>)]) -> Result<()> {
    let Some(machine) = Machine::from_environment() else { return Ok(()) };
    let mut criterion = criterion();
    let elements = dims.iter().product::<usize>();
    let mut table = Table::new(&["best of all runs", "us", "ns an element", "GB/s"]);
    for &(name, written, body) in cases.iter().filter(|(name, _, _)| is_wanted(name)) {
        let mut graph = Graph::new(machine, 1, &[dims], body)?;
        graph.run()?;
        let mut run = || graph.run().expect("it ran before");
        let best = best_of_turns(&mut [&mut run], || ())[0];
        let (bytes, ns) = (4 * (elements + written), best * 1e9 / elements as f64);
        table.row(vec![
            name.to_owned(),
            format!("{:.1}", best * 1e6),
            format!("{ns:.3}"),
            format!("{:.1}", bytes as f64 / best / 1e9),
        ]);
        let mut group = criterion.benchmark_group(group);
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(name, |b| b.iter(&mut run));
        group.finish();
    }
    table.print();
    println!("memory: {:.1} GB/s read by one thread from a buffer that no cache holds", read_gbps(1));
    criterion.final_summary();
    Ok(())
}
