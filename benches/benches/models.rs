//! Whole models on one thread and on two, as shares of the FMA peak of the threads.
//!
//! `KILN_ZOO=target/zoo cargo bench -p kiln-benches --bench models`; `KILN_CASE=resnet` takes the models with such names.
//! `cargo xtask peers` puts other runtimes beside them.

use std::sync::Arc;

use kiln::runtime::profile::Profile;
use kiln::runtime::{Datum, Executable, RunOptions, Session, SessionOptions};
use kiln_benches::Result;
use kiln_benches::machine::{Machine, criterion};
use kiln_benches::rotate::best_of_turns;
use kiln_benches::table::Table;
use kiln_benches::zoo;

/// Arithmetic operations of a run, as the program states them.
fn flops(session: &Session, entry: &str, inputs: &[Datum]) -> Result<f64> {
    let profile = Arc::new(Profile::new());
    let options = RunOptions { profile: Some(profile.clone()), ..RunOptions::default() };
    session.run_with(entry, inputs, &options)?;
    Ok(profile.take().1.iter().map(|work| work.flops as f64).sum())
}

fn main() -> Result<()> {
    let Some(machine) = Machine::from_environment() else { return Ok(()) };
    let mut criterion = criterion();
    let heading =
        ["best of all runs", "GFLOP", "1 thread, ms", "share of peak", "2 threads, ms", "share", "ratio"];
    let mut table = Table::new(&heading);
    for model in zoo::models()? {
        let options = kiln::Options { tier: Some(machine.tier), ..kiln::Options::default() };
        let image = kiln::compile_file(&model.model, &options)?.image;
        let executable = Arc::new(Executable::from_image(image)?);
        let session = |threads| {
            let options = SessionOptions { threads: Some(threads), ..SessionOptions::default() };
            Session::new(executable.clone(), options)
        };
        let (one, two) = (session(1), session(2));
        let entry = one.entries().first().ok_or("the model has no entry")?;
        let inputs = model.inputs(entry)?;
        let flops = flops(&one, &entry.name, &inputs)?;
        let run = |session: &Session| drop(session.run(&entry.name, &inputs).expect("it ran before"));
        let (mut one, mut two) = (|| run(&one), || run(&two));
        let mut peak = 0.0f64;
        let best = best_of_turns(&mut [&mut one, &mut two], || peak = peak.max(machine.peak()));
        let mut row = vec![model.name.clone(), format!("{:.2}", flops / 1e9)];
        for (seconds, threads) in best.iter().zip([1.0, 2.0]) {
            row.push(format!("{:.3}", seconds * 1e3));
            row.push(format!("{:.1}%", 100.0 * flops / seconds / 1e9 / peak / threads));
        }
        row.push(format!("{:.2}", best[1] / best[0]));
        table.row(row);
        let mut group = criterion.benchmark_group("models");
        group.bench_function(format!("{}, 1 thread", model.name), |b| b.iter(&mut one));
        group.bench_function(format!("{}, 2 threads", model.name), |b| b.iter(&mut two));
        group.finish();
    }
    table.print();
    criterion.final_summary();
    Ok(())
}
