//! The worker of `cargo xtask onnx-suite`: reads a case as a JSON line from stdin, runs it through the compiled path, and
//! writes a verdict as a JSON line to stdout; until stdin ends.
//!
//! A panic is caught and reported as the case's verdict. What ends the process, or never ends, is the caller's to see.

mod execute;
mod value;

use std::io::{self, BufRead, Write};
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use execute::{Failure, Program};
use value::Tolerance;

/// A case; the caller's side is `Case` of `xtask/src/suite/cases.rs`.
#[derive(Deserialize)]
struct Request {
    model: PathBuf,
    sets: Vec<DataSet>,
    rtol: f64,
    atol: f64,
}

/// One call of the case's model.
#[derive(Deserialize)]
struct DataSet {
    /// A `.pb` for each of the first inputs; absent where each `f32` input of `n` elements is `0/n, 1/n, ...`.
    inputs: Option<Vec<PathBuf>>,
    /// A `.pb` for each of the first outputs.
    outputs: Vec<PathBuf>,
}

/// The answer; the caller's side is `Verdict` of `xtask/src/suite/pool.rs`.
#[derive(Serialize)]
struct Verdict {
    status: &'static str,
    reason: String,
    detail: String,
}

/// Where the panic of the current case happened, and what it said.
static PANIC: Mutex<Option<String>> = Mutex::new(None);

fn main() -> ExitCode {
    panic::set_hook(Box::new(|info| {
        let mut said = PANIC.lock().unwrap_or_else(PoisonError::into_inner);
        // The first says more than those that it causes in other threads.
        said.get_or_insert_with(|| info.to_string().replace('\n', " "));
    }));
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("onnx_cases: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> io::Result<()> {
    let mut stdout = io::stdout();
    for line in io::stdin().lock().lines() {
        let request: Request = serde_json::from_str(&line?)?;
        let verdict = verdict(&request);
        writeln!(stdout, "{}", serde_json::to_string(&verdict)?)?;
        stdout.flush()?;
    }
    Ok(())
}

fn verdict(request: &Request) -> Verdict {
    PANIC.lock().unwrap_or_else(PoisonError::into_inner).take();
    match panic::catch_unwind(AssertUnwindSafe(|| case(request))) {
        Ok(Ok(())) => Verdict { status: "passed", reason: String::new(), detail: String::new() },
        Ok(Err(Failure { status, reason, detail })) => Verdict { status, reason, detail },
        Err(_) => {
            let said = PANIC.lock().unwrap_or_else(PoisonError::into_inner).take();
            Verdict { status: "panicked", reason: said.unwrap_or_default(), detail: String::new() }
        }
    }
}

fn case(request: &Request) -> Result<(), Failure> {
    let tolerance = Tolerance { rtol: request.rtol, atol: request.atol };
    let program = Program::compile(&request.model)?;
    for set in &request.sets {
        let expected = program.read_outputs(&set.outputs)?;
        let got = match &set.inputs {
            Some(files) => program.run_on(files)?,
            None => program.run_on_ramps()?,
        };
        tolerance.compare(&got, &expected).map_err(|mismatch| Failure {
            status: "mismatch",
            reason: mismatch.what.to_owned(),
            detail: mismatch.place,
        })?;
    }
    Ok(())
}
