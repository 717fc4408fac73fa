//! The worker of `cargo xtask hostile`. `hostile FOLDER` writes the hostile files below a folder and prints their paths, a
//! line each; `hostile --take MODEL` takes one as far as it goes and prints a JSON line.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use kiln_tests::hostile::{self, End};
use serde::Serialize;

/// The answer; the caller's side is `Answer` of `xtask/src/hostile.rs`.
#[derive(Serialize)]
struct Answer {
    /// The stage of the error; empty where the model ran.
    stage: &'static str,
    message: String,
    milliseconds: f64,
    /// Memory at most, beyond the process as it started and the size of the file.
    mebibytes: f64,
}

/// How long a run may take: what is left of the second that a file has.
const RUN: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--take", model] => take(Path::new(model)),
        [folder] => write(Path::new(folder)),
        _ => Err("expected a folder, or --take MODEL".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hostile: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write(folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
    for file in hostile::all() {
        println!("{}", file.write(folder)?.display());
    }
    Ok(())
}

fn take(model: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let file = std::fs::metadata(model)?.len() as f64 / 1_048_576.0;
    let (start, before) = (Instant::now(), peak_mebibytes());
    let end = hostile::take(model, start + RUN);
    let (stage, message) = match end {
        End::Error(stage, message) => (stage, message),
        End::Ran => ("", String::new()),
    };
    // A message may hold a name of the file's, of any length.
    let message: String = message.chars().take(400).collect();
    let milliseconds = start.elapsed().as_secs_f64() * 1e3;
    let mebibytes = (peak_mebibytes() - before - file).max(0.0);
    println!("{}", serde_json::to_string(&Answer { stage, message, milliseconds, mebibytes })?);
    Ok(())
}

/// Largest resident set of this process so far; 0 where the system does not tell.
fn peak_mebibytes() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib = line.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}
