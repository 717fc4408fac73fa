//! Runs cases of ATen operators: `aten FOLDER [--evaluated] [--op NAME] [--listed N]`.
//!
//! Prints the operators with cases that fail, with the first reasons; the last line is `aten: N names, M cases, K
//! mismatches`.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;

use std::sync::Arc;

use kiln::ir::{Datum, Module};
use kiln::runtime::{Executable, RunOptions, Session, SessionOptions};
use kiln_tests::aten::{Cases, evaluated};

/// What a command line asks for.
struct Arguments {
    folder: PathBuf,
    evaluated: bool,
    op: Option<String>,
    listed: usize,
}

fn arguments() -> Result<Arguments, String> {
    let mut given = std::env::args().skip(1);
    let mut found = Arguments { folder: PathBuf::new(), evaluated: false, op: None, listed: 2 };
    while let Some(word) = given.next() {
        let mut value = || given.next().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--evaluated" => found.evaluated = true,
            "--op" => found.op = Some(value()?),
            "--listed" => found.listed = value()?.parse().map_err(|_| "--listed needs a number")?,
            _ => found.folder = PathBuf::from(word),
        }
    }
    Ok(found)
}

fn main() -> ExitCode {
    match arguments().and_then(|arguments| run(&arguments)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn compiled(module: Module, inputs: &[Datum]) -> Result<Vec<Datum>, String> {
    let entry = module.entries().first().map(|&id| module.graph(id).name().to_owned()).ok_or("no entry")?;
    let options = kiln::Options { threads: Some(1), ..Default::default() };
    let compiled = kiln::compile(module, &options).map_err(|e| e.to_string())?;
    let program = Executable::from_image(compiled.image).map_err(|e| e.to_string())?;
    let options = SessionOptions { threads: Some(1), ..Default::default() };
    let session = Session::new(Arc::new(program), options);
    session.run_with(&entry, inputs, &RunOptions::default()).map_err(|e| e.to_string())
}

/// The operator of a target, without its overload.
fn name(target: &str) -> &str {
    target.rsplit_once('.').map_or(target, |(name, _)| name)
}

fn run(arguments: &Arguments) -> Result<bool, String> {
    let cases = Cases::read(&arguments.folder)?;
    let mut counts: BTreeMap<&str, (usize, Vec<String>)> = BTreeMap::new();
    std::panic::set_hook(Box::new(|_| {}));
    for case in &cases.cases {
        let op = name(&case.op);
        if arguments.op.as_ref().is_some_and(|wanted| !op.ends_with(wanted.as_str())) {
            continue;
        }
        let runner: fn(Module, &[Datum]) -> _ = if arguments.evaluated { evaluated } else { compiled };
        let result = catch_unwind(AssertUnwindSafe(|| cases.run(case, &runner)))
            .unwrap_or_else(|_| Err("PANIC".to_owned()));
        let (count, reasons) = counts.entry(op).or_default();
        *count += 1;
        if let Err(reason) = result {
            reasons.push(format!("{}: {reason}: {}", case.op, case.arguments()));
        }
    }
    let (mut total, mut failed) = (0, 0);
    for (op, (count, reasons)) in &counts {
        total += count;
        failed += reasons.len();
        if !reasons.is_empty() {
            println!("{op}: {} of {count} cases fail", reasons.len());
            reasons.iter().take(arguments.listed).for_each(|reason| println!("    {reason}"));
        }
    }
    println!("aten: {} names, {total} cases, {failed} mismatches", counts.len());
    Ok(failed == 0)
}
