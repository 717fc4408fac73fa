//! The ONNX backend suite of one pinned release, run through the compiled path.
//!
//! A case that panics, hangs or kills its process is a failure of that case: cases run in worker processes
//! (`onnx_cases` of the tests crate), which are replaced when they are lost. Such a case also fails the task, whatever
//! the number of passing ones: nothing in a model may take the process down.

mod cases;
mod fetch;
mod pool;
mod report;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::workspace::{Profile, Workspace};

/// The release of the suite.
const RELEASE: &str = "1.22.0";

/// The cases of that release; fewer found means that the data are not all there.
const CASES: usize = 1_914;

#[derive(clap::Args)]
pub struct Options {
    /// Runs only the cases whose name contains this text.
    #[arg(long)]
    filter: Option<String>,
    /// Worker processes [default: one a core].
    #[arg(long)]
    threads: Option<usize>,
    /// The number of passing cases below which the task fails.
    #[arg(long, default_value_t = 1_000)]
    floor: usize,
    /// Seconds that one case may take.
    #[arg(long, default_value_t = 10)]
    timeout: u64,
    /// Prints a line for every case, not only for those that do not pass.
    #[arg(long)]
    verbose: bool,
    /// Builds the worker optimized.
    #[arg(long)]
    release: bool,
    /// The suite's unpacked `onnx/backend/test/data`, instead of the pinned wheel's.
    #[arg(long)]
    data: Option<PathBuf>,
}

impl Options {
    /// The options that `cargo xtask test` runs the suite with. The worker is not optimized there, and a busy machine may
    /// be many times slower than an idle one: only what takes minutes counts as hung.
    pub fn floor(floor: usize) -> Self {
        Self { filter: None, threads: None, floor, timeout: 120, verbose: false, release: false, data: None }
    }
}

/// Runs the suite and prints its report, whose last line is `onnx 1.22.0: N of 1914 passed`.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let data = match &options.data {
        Some(folder) => folder.clone(),
        None => fetch::data(workspace)?,
    };
    let found = cases::discover(&data)?;
    if found.len() < CASES {
        bail!("{} holds {} cases; release {RELEASE} has {CASES}", data.display(), found.len());
    }
    let chosen: Vec<_> = match &options.filter {
        Some(text) => found.into_iter().filter(|case| case.name.contains(text.as_str())).collect(),
        None => found,
    };
    if chosen.is_empty() {
        bail!("no case's name contains `{}`", options.filter.as_deref().unwrap_or_default());
    }
    let profile = if options.release { Profile::Release } else { Profile::Dev };
    let worker =
        workspace.build("kiln-tests", "onnx_cases", profile).context("building the suite's worker")?;
    let threads = options.threads.or_else(|| std::thread::available_parallelism().ok().map(Into::into));
    let verdicts = pool::run(&worker, &chosen, threads.unwrap_or(1), Duration::from_secs(options.timeout))?;
    let outcome = report::print(&chosen, &verdicts, options.verbose);
    let total = if options.filter.is_some() { chosen.len() } else { CASES };
    println!("onnx {RELEASE}: {} of {total} passed", outcome.passed);
    if outcome.broken > 0 {
        bail!("{} cases panicked, hung or ended their process", outcome.broken);
    }
    if options.filter.is_none() && outcome.passed < options.floor {
        bail!("{} cases passed, fewer than the floor of {}", outcome.passed, options.floor);
    }
    Ok(())
}
