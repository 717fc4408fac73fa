//! `cargo xtask kernels`: random kernels on the interpreter and on every lowering that this machine executes.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::workspace::{self, Profile, Workspace};

#[derive(clap::Args)]
pub struct Options {
    /// Kernels to try.
    #[arg(long, default_value_t = 10_000)]
    count: usize,
    /// The first seed; the following ones count up from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Threads that try kernels.
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

/// Tries the kernels; a mismatch is printed with its seed and a small kernel that shows it, and fails.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let program = workspace.build("kiln-tests", "kernels", Profile::Release)?;
    let scratch = workspace.target.join("kernels");
    fs::create_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
    let log = scratch.join("seed");
    let mut command = Command::new(program);
    command.arg(options.count.to_string()).args(["--seed", &options.seed.to_string()]);
    command.args(["--threads", &options.threads.to_string()]).arg("--log").arg(&log);
    let Err(error) = workspace::run(&mut command) else { return Ok(()) };
    // Code that faults takes the process with it, which then has printed nothing.
    let seeds = (0..options.threads).filter_map(|thread| {
        let path = PathBuf::from(format!("{}.{thread}", log.display()));
        fs::read_to_string(path).ok()
    });
    bail!("{error:#}; the last seeds were {}", seeds.collect::<Vec<_>>().join(", "))
}
