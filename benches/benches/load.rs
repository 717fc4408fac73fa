//! How soon an artifact answers: opening it, and opening it with a session and a first run, files in the page cache.
//!
//! `cargo bench -p kiln-benches --bench load`; `KILN_ZOO=target/zoo` adds its models.

use std::path::Path;
use std::sync::Arc;

use kiln::runtime::{Datum, Executable, Session, SessionOptions};
use kiln_benches::Result;
use kiln_benches::machine::criterion;
use kiln_benches::rotate::best_of_turns;
use kiln_benches::table::Table;
use kiln_benches::zoo::{self, ModelFile};

fn session(artifact: &Path) -> Result<Session> {
    let options = SessionOptions { threads: Some(1), ..SessionOptions::default() };
    Ok(Session::new(Arc::new(Executable::open(artifact)?), options))
}

fn answer(session: &Session, inputs: &[Datum]) -> Result<()> {
    let entry = session.entries().first().ok_or("the artifact has no entry")?;
    session.run(&entry.name, inputs)?;
    Ok(())
}

/// Writes the model's artifact; gives inputs of its first entry.
fn prepare(model: &ModelFile, artifact: &Path) -> Result<Vec<Datum>> {
    kiln::compile_file(&model.model, &kiln::Options::default())?.save(artifact)?;
    let session = session(artifact)?;
    model.inputs(session.entries().first().ok_or("the model has no entry")?)
}

fn main() -> Result<()> {
    let mut criterion = criterion();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let mut table = Table::new(&["best of all runs", "MiB", "open, ms", "open and first run", "a later run"]);
    for model in [zoo::digits()].into_iter().chain(zoo::models()?) {
        let artifact = folder.join(format!("load-{}.kiln", model.name));
        let inputs = prepare(&model, &artifact)?;
        let warm = session(&artifact)?;
        answer(&warm, &inputs)?;
        let mut open = || drop(Executable::open(&artifact).expect("it opened before"));
        let mut first = || {
            let session = session(&artifact).expect("it opened before");
            answer(&session, &inputs).expect("it ran before");
        };
        let mut later = || answer(&warm, &inputs).expect("it ran before");
        let best = best_of_turns(&mut [&mut open, &mut first, &mut later], || ());
        let mut row = vec![model.name.clone()];
        row.push(format!("{:.1}", std::fs::metadata(&artifact)?.len() as f64 / (1 << 20) as f64));
        row.extend(best.iter().map(|seconds| format!("{:.3}", seconds * 1e3)));
        table.row(row);
        let mut group = criterion.benchmark_group("load");
        group.bench_function(format!("{} open", model.name), |b| b.iter(&mut open));
        group.bench_function(format!("{} first run", model.name), |b| b.iter(&mut first));
        group.finish();
        std::fs::remove_file(&artifact)?;
    }
    table.print();
    criterion.final_summary();
    Ok(())
}
