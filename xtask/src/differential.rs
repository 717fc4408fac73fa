//! `cargo xtask differential`: random ONNX models, compiled code against the reference evaluator and onnxruntime.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::python::{Purpose, Python};
use crate::workspace::{self, Profile, Workspace};

#[derive(clap::Args)]
pub struct Options {
    /// Models to try.
    #[arg(long, default_value_t = 10_000)]
    graphs: u64,
    /// The first seed; the following ones count up from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Threads that try models, each with an onnxruntime of its own.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// A Python interpreter with numpy and onnxruntime, instead of an environment made below `target/`.
    #[arg(long)]
    python: Option<PathBuf>,
    /// Models as exporters leave them, instead of random ones.
    #[arg(long, conflicts_with = "alone")]
    untidy: bool,
    /// Leaves onnxruntime out.
    #[arg(long, conflicts_with = "python")]
    alone: bool,
    /// Where models that fail go, shrunk, with their inputs and the evaluator's outputs.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Tries the models; the last line is `differential: N graphs, M compared with onnxruntime, K mismatches`.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let program = workspace.build("kiln-tests", "differential", Profile::Release)?;
    let scratch = workspace.target.join("differential");
    fs::create_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
    let log = scratch.join("seed");
    let mut command = Command::new(program);
    command.arg(if options.untidy { "untidy".to_owned() } else { options.graphs.to_string() });
    command.args(["--seed", &options.seed.to_string()]);
    command.args(["--threads", &options.threads.to_string()]).arg("--log").arg(&log);
    command.arg("--out").arg(options.out.as_ref().unwrap_or(&scratch));
    if !options.alone {
        let python = Python::of(workspace, Purpose::Ort, options.python.as_deref())?;
        command.arg("--python").arg(python.interpreter());
        command.arg("--worker").arg(workspace.root.join("xtask/py/differential.py"));
    }
    let Err(error) = workspace::run(&mut command) else { return Ok(()) };
    // Code that faults takes the process with it, which then has printed nothing.
    let seeds = (0..options.threads).filter_map(|thread| {
        let path = PathBuf::from(format!("{}.{thread}", log.display()));
        fs::read_to_string(path).ok()
    });
    bail!("{error:#}; the last seeds were {}", seeds.collect::<Vec<_>>().join(", "))
}
