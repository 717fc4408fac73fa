//! The ONNX backend suite of one release, run through the compiled path.
//!
//! A case that panics, hangs or kills its process is a failure of that case: cases run in worker processes
//! (`onnx_cases` of the tests crate), which are replaced when they are lost. Such a case also fails the task, whatever
//! the number of passing ones: nothing in a model may take the process down.

mod cases;
mod fetch;
mod pool;
mod report;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::workspace::{Profile, Workspace};
use cases::Case;
use pool::{Status, Verdict, Worker};

/// A release of the suite.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Release {
    /// The last whose wheel carries the node cases.
    #[value(name = "1.22.0")]
    V1_22_0,
    /// Opsets up to 28; its node cases are written by its Python package, other cases are those of 1.22.0.
    #[value(name = "1.23.2")]
    V1_23_2,
}

impl Release {
    fn name(self) -> &'static str {
        match self {
            Self::V1_22_0 => "1.22.0",
            Self::V1_23_2 => "1.23.2",
        }
    }

    /// The number of its cases; fewer found means that the data are not all there.
    fn cases(self) -> usize {
        match self {
            Self::V1_22_0 => 1_914,
            Self::V1_23_2 => 1_884,
        }
    }
}

/// How cases run.
#[derive(clap::Args)]
pub struct How {
    /// The instruction set to compile for: x86-64-v2, x86-64-v3, x86-64-v4 (the latter two also with `-vnni`) or aarch64
    /// [default: this machine's].
    #[arg(long)]
    tier: Option<String>,
    /// Saves each program and runs it in another process, which has only the artifact.
    #[arg(long)]
    reload: bool,
    /// Compiles with all passes off.
    #[arg(long)]
    no_passes: bool,
    /// Threads that each case runs on. Above one, the outputs must also be those of one thread, bit by bit.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Worker processes [default: one a core].
    #[arg(long)]
    workers: Option<usize>,
    /// Seconds that one case may take.
    #[arg(long, default_value_t = 10)]
    timeout: u64,
    /// Builds the worker optimized.
    #[arg(long)]
    release: bool,
}

#[derive(clap::Args)]
pub struct Options {
    /// The release whose cases run.
    #[arg(long, value_enum, default_value_t = Release::V1_22_0)]
    onnx: Release,
    /// Runs only the cases whose name contains this text.
    #[arg(long)]
    filter: Option<String>,
    /// The number of passing cases below which the task fails.
    #[arg(long, default_value_t = 1_000)]
    floor: usize,
    /// Prints a line for every case, not only for those that do not pass.
    #[arg(long)]
    verbose: bool,
    /// Prints which operators the reference evaluator runs, and writes those of each case to this file as JSON.
    #[arg(long)]
    steps: Option<PathBuf>,
    /// The suite's unpacked `onnx/backend/test/data`, instead of the release's own.
    #[arg(long)]
    data: Option<PathBuf>,
    #[command(flatten)]
    how: How,
}

impl Options {
    /// The options that `cargo xtask test` runs the suite with. The worker is not optimized there, and a busy machine may
    /// be many times slower than an idle one: only what takes minutes counts as hung.
    pub fn floor(floor: usize) -> Self {
        let (tier, workers) = (None, None);
        let how =
            How { tier, reload: false, no_passes: false, threads: 1, workers, timeout: 120, release: false };
        Self { onnx: Release::V1_22_0, filter: None, floor, verbose: false, steps: None, data: None, how }
    }
}

impl How {
    fn worker(&self, program: PathBuf) -> Worker {
        let mut arguments = vec![format!("--threads={}", self.threads)];
        arguments.extend(self.tier.iter().map(|tier| format!("--tier={tier}")));
        arguments.extend(self.reload.then(|| "--reload".to_owned()));
        arguments.extend(self.no_passes.then(|| "--no-passes".to_owned()));
        Worker { program, arguments }
    }

    /// The verdicts of the suite's worker, built first, on the cases.
    fn ask(&self, workspace: &Workspace, cases: &[Case]) -> Result<Vec<Verdict>> {
        let profile = if self.release { Profile::Release } else { Profile::Dev };
        let program =
            workspace.build("kiln-tests", "onnx_cases", profile).context("building the suite's worker")?;
        let workers = self.workers.or_else(|| std::thread::available_parallelism().ok().map(Into::into));
        let timeout = Duration::from_secs(self.timeout);
        pool::run(&self.worker(program), cases, workers.unwrap_or(1), timeout)
    }
}

/// What became of a case.
pub struct Ran {
    pub name: String,
    pub passed: bool,
    /// Steps of its program that the reference evaluator runs.
    pub evaluator_steps: usize,
}

/// Runs the cases of a folder in the suite's layout, and prints why those fail that do.
pub fn run_cases(workspace: &Workspace, data: &Path, how: &How) -> Result<Vec<Ran>> {
    let found = cases::discover(data)?;
    let verdicts = how.ask(workspace, &found)?;
    report::print_reasons(&found, &verdicts);
    let ran = |(case, verdict): (Case, Verdict)| Ran {
        name: case.name,
        passed: verdict.status == Status::Passed,
        evaluator_steps: verdict.evaluator_steps.len(),
    };
    Ok(found.into_iter().zip(verdicts).map(ran).collect())
}

/// Runs the suite and prints its report, whose last line is `onnx VERSION: N of M passed, K without evaluator steps`.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let release = options.onnx;
    let data = match &options.data {
        Some(folder) => folder.clone(),
        None => fetch::data(workspace, release)?,
    };
    let found = cases::discover(&data)?;
    if found.len() < release.cases() {
        let name = release.name();
        bail!("{} holds {} cases; release {name} has {}", data.display(), found.len(), release.cases());
    }
    let chosen: Vec<_> = match &options.filter {
        Some(text) => found.into_iter().filter(|case| case.name.contains(text.as_str())).collect(),
        None => found,
    };
    if chosen.is_empty() {
        bail!("no case's name contains `{}`", options.filter.as_deref().unwrap_or_default());
    }
    let verdicts = options.how.ask(workspace, &chosen)?;
    let outcome = report::print(&chosen, &verdicts, options.verbose);
    if let Some(file) = &options.steps {
        report::print_steps(&chosen, &verdicts, file)?;
    }
    let draws = chosen.iter().filter(|case| case.draws.is_some()).count();
    println!("{draws} cases are random by definition: shape, range and frequencies are checked, not values");
    if release == Release::V1_23_2 {
        print_new(workspace, &chosen, &verdicts)?;
    }
    let total = chosen.len();
    let (name, passed, compiled) = (release.name(), outcome.passed, outcome.compiled);
    println!("onnx {name}: {passed} of {total} passed, {compiled} without evaluator steps");
    if outcome.broken > 0 {
        bail!("{} cases panicked, hung or ended their process", outcome.broken);
    }
    if options.filter.is_none() && outcome.passed < options.floor {
        bail!("{} cases passed, fewer than the floor of {}", outcome.passed, options.floor);
    }
    Ok(())
}

/// Of the cases that release 1.22.0 lacks, how many pass.
fn print_new(workspace: &Workspace, cases: &[Case], verdicts: &[Verdict]) -> Result<()> {
    let old = cases::discover(&fetch::data(workspace, Release::V1_22_0)?)?;
    let old: BTreeSet<&str> = old.iter().map(|case| case.name.as_str()).collect();
    let new = || cases.iter().zip(verdicts).filter(|(case, _)| !old.contains(case.name.as_str()));
    let passed = new().filter(|(_, verdict)| verdict.status == Status::Passed).count();
    println!("cases that 1.22.0 lacks: {passed} of {} passed", new().count());
    Ok(())
}
