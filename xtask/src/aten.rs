//! `cargo xtask aten`: operators of ATen, each as many random calls, against PyTorch.
//!
//! `xtask/py/aten/cases.py` draws the calls and asks PyTorch; the `aten` program of the tests takes each through the
//! loader of `torch.export` archives and runs it.

use std::path::PathBuf;

use anyhow::Result;

use crate::python::{Purpose, Python};
use crate::workspace::{self, Profile, Workspace};

#[derive(clap::Args)]
pub struct Options {
    /// A Python interpreter with torch and torchvision, instead of an environment made below `target/`.
    #[arg(long)]
    python: Option<PathBuf>,
    /// Cases of an operator.
    #[arg(long, default_value_t = 12)]
    count: usize,
    /// Where the draws begin.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Only this operator.
    #[arg(long)]
    op: Option<String>,
    /// By the reference evaluator, instead of compiled.
    #[arg(long)]
    evaluated: bool,
}

/// Writes and runs the cases; the last line is `aten: N names, M cases, K mismatches`.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let folder = workspace.target.join("aten");
    let python = Python::of(workspace, Purpose::Zoo, options.python.as_deref())?;
    let mut make = python.command([]);
    make.arg(workspace.root.join("xtask/py/aten/cases.py")).arg(&folder);
    make.args(["--count", &options.count.to_string(), "--seed", &options.seed.to_string()]);
    make.args(options.op.iter().flat_map(|name| ["--op", name]));
    workspace::run(&mut make)?;
    let program = workspace.build("kiln-tests", "aten", Profile::Release)?;
    let mut run = std::process::Command::new(program);
    run.arg(&folder);
    if options.evaluated {
        run.arg("--evaluated");
    }
    workspace::run(&mut run)
}
