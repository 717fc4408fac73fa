//! The worker of `cargo xtask onnx-suite`: reads a case as a JSON line from stdin, runs it through the compiled path, and
//! writes a verdict as a JSON line to stdout; until stdin ends.
//!
//! Arguments: `--threads=N`, `--tier=NAME`, `--no-passes`, and `--reload`: programs are saved, and a second process of this
//! binary, which gets nothing but the artifact, runs them.
//!
//! A panic is caught and reported as the case's verdict. What ends the process, or never ends, is the caller's to see.

mod draws;
mod execute;
mod reload;
mod value;

use std::io::{self, BufRead, Write};
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use kiln::passes::PASSES;
use kiln::runtime::cpu::Tier;
use serde::{Deserialize, Serialize};

use draws::Draws;
use execute::{Failure, Program};
use reload::Other;
use value::Tolerance;

/// A case; the caller's side is `Case` of `xtask/src/suite/cases.rs`.
#[derive(Deserialize, Serialize)]
struct Request {
    /// A model, or an artifact that was compiled from it.
    model: PathBuf,
    sets: Vec<DataSet>,
    rtol: f64,
    atol: f64,
    draws: Option<Draws>,
}

/// One call of the case's model.
#[derive(Deserialize, Serialize)]
struct DataSet {
    /// A `.pb` for each of the first inputs; absent where each `f32` input of `n` elements is `0/n, 1/n, ...`.
    inputs: Option<Vec<PathBuf>>,
    /// A `.pb` for each of the first outputs.
    outputs: Vec<PathBuf>,
}

/// The answer; the caller's side is `Verdict` of `xtask/src/suite/pool.rs`.
#[derive(Deserialize, Serialize)]
struct Verdict {
    status: String,
    reason: String,
    detail: String,
    /// The operators of the steps that the reference evaluator runs.
    evaluator_steps: Vec<String>,
}

/// How all cases of this process run.
struct Setting {
    compile: kiln::Options,
    threads: usize,
    /// The process that runs what this one compiles.
    other: Option<Other>,
}

impl Setting {
    fn from_arguments() -> Result<Self, String> {
        let mut setting = Setting { compile: kiln::Options::default(), threads: 1, other: None };
        for argument in std::env::args().skip(1) {
            match argument.split_once('=').unwrap_or((&argument, "")) {
                ("--threads", number) => {
                    setting.threads = number.parse().map_err(|e| format!("--threads {number}: {e}"))?;
                }
                ("--tier", name) => {
                    let tier = Tier::from_name(name).ok_or_else(|| format!("no tier is named `{name}`"))?;
                    setting.compile.tier = Some(tier);
                }
                ("--no-passes", _) => {
                    setting.compile.passes.disabled = PASSES.iter().map(|p| p.name.to_owned()).collect();
                }
                ("--reload", _) => setting.other = Some(Other::start().map_err(|e| e.to_string())?),
                (other, _) => return Err(format!("unknown argument `{other}`")),
            }
        }
        Ok(setting)
    }
}

/// Where the panic of the current case happened, and what it said.
static PANIC: Mutex<Option<String>> = Mutex::new(None);

fn main() -> ExitCode {
    panic::set_hook(Box::new(|info| {
        let mut said = PANIC.lock().unwrap_or_else(PoisonError::into_inner);
        // The first says more than those that it causes in other threads.
        said.get_or_insert_with(|| info.to_string().replace('\n', " "));
    }));
    let served = Setting::from_arguments().and_then(|setting| serve(setting).map_err(|e| e.to_string()));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("onnx_cases: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(mut setting: Setting) -> io::Result<()> {
    let mut stdout = io::stdout();
    for line in io::stdin().lock().lines() {
        let request: Request = serde_json::from_str(&line?)?;
        let verdict = verdict(&mut setting, request);
        writeln!(stdout, "{}", serde_json::to_string(&verdict)?)?;
        stdout.flush()?;
    }
    Ok(())
}

fn verdict(setting: &mut Setting, request: Request) -> Verdict {
    PANIC.lock().unwrap_or_else(PoisonError::into_inner).take();
    match panic::catch_unwind(AssertUnwindSafe(|| case(setting, request))) {
        Ok(Ok(verdict)) => verdict,
        Ok(Err(Failure { status, reason, detail })) => {
            Verdict { status: status.to_owned(), reason, detail, evaluator_steps: vec![] }
        }
        Err(_) => {
            let said = PANIC.lock().unwrap_or_else(PoisonError::into_inner).take();
            let reason = said.unwrap_or_default();
            Verdict { status: "panicked".to_owned(), reason, detail: String::new(), evaluator_steps: vec![] }
        }
    }
}

fn case(setting: &mut Setting, request: Request) -> Result<Verdict, Failure> {
    if let Some(other) = &mut setting.other {
        return other.ask(&setting.compile, request);
    }
    let program = Program::open(&request.model, &setting.compile, setting.threads)?;
    let tolerance = Tolerance { rtol: request.rtol, atol: request.atol };
    for set in &request.sets {
        let expected = program.read_outputs(&set.outputs)?;
        let inputs = match &set.inputs {
            Some(files) => program.read_inputs(files)?,
            None => program.ramps()?,
        };
        let agreed = match request.draws {
            Some(draws) => draws::check(&program, &inputs, &expected, draws)?,
            None => tolerance.compare(&program.run(&inputs)?, &expected),
        };
        agreed.map_err(Failure::mismatch)?;
    }
    let (reason, detail) = (String::new(), String::new());
    let evaluator_steps = program.evaluator_steps();
    Ok(Verdict { status: "passed".to_owned(), reason, detail, evaluator_steps })
}
