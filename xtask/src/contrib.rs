//! `cargo xtask contrib`: operators of `com.microsoft`, each as many random single-node models, against onnxruntime.
//!
//! `tests/models/contrib/make.py` draws the models and asks onnxruntime; the worker of the ONNX suite runs them. Where
//! onnxruntime has no CPU kernel, the answers are those of a statement of its documentation in NumPy; those operators
//! are counted apart. Every documented attribute takes two values or more among the cases of its operator.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::python::{Purpose, Python};
use crate::suite::{self, Ran};
use crate::workspace::{self, Workspace};

#[derive(clap::Args)]
pub struct Options {
    /// A Python interpreter with numpy, onnx and onnxruntime, instead of an environment made below `target/`.
    #[arg(long)]
    python: Option<PathBuf>,
    /// Only this operator.
    #[arg(long)]
    op: Option<String>,
    /// Where the draws begin.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many times the usual number of cases each operator has.
    #[arg(long, default_value_t = 1)]
    times: usize,
    #[command(flatten)]
    how: suite::How,
}

/// What the script says of the cases that it wrote.
#[derive(Deserialize)]
struct Report {
    /// Operators answered by onnxruntime.
    onnxruntime: Vec<String>,
    /// Operators answered by a statement in NumPy.
    numpy: Vec<String>,
    /// Attributes that have one value only.
    missing: Vec<String>,
}

/// Cases of an operator, and how many of them passed.
#[derive(Default)]
struct Count {
    cases: usize,
    passed: usize,
    compiled: usize,
}

/// Writes and runs the cases; the last line is `contrib: N ops, M cases, K mismatches`.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let folder = workspace.target.join("contrib");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    }
    let python = Python::of(workspace, Purpose::Contrib, options.python.as_deref())?;
    let mut make = python.command([]);
    make.arg(workspace.root.join("tests/models/contrib/make.py")).arg("write").arg(&folder);
    make.args(["--seed", &options.seed.to_string(), "--times", &options.times.to_string()]);
    make.args(options.op.iter().flat_map(|name| ["--op", name]));
    workspace::run(&mut make)?;
    let report = folder.join("report.json");
    let report = fs::read_to_string(&report).with_context(|| report.display().to_string())?;
    let report: Report = serde_json::from_str(&report).context("the script's report")?;
    let ran = suite::run_cases(workspace, &folder, &options.how)?;
    let counts = counts(&ran);
    let sum = |names: &[String]| -> Count {
        names.iter().filter_map(|name| counts.get(name.as_str())).fold(Count::default(), |a, b| Count {
            cases: a.cases + b.cases,
            passed: a.passed + b.passed,
            compiled: a.compiled + b.compiled,
        })
    };
    println!("{:36} {:>6} {:>7} {:>24}", "operator", "cases", "passed", "without evaluator steps");
    for (name, count) in &counts {
        println!("{name:36} {:>6} {:>7} {:>24}", count.cases, count.passed, count.compiled);
    }
    let (own, stated) = (sum(&report.onnxruntime), sum(&report.numpy));
    println!(
        "without a CPU kernel in onnxruntime, against their documentation: {} ops, {} cases, {} mismatches",
        report.numpy.len(),
        stated.cases,
        stated.cases - stated.passed
    );
    if !report.missing.is_empty() {
        println!("attributes of one value: {}", report.missing.join(", "));
    }
    println!(
        "contrib: {} ops, {} cases, {} mismatches",
        report.onnxruntime.len(),
        own.cases,
        own.cases - own.passed
    );
    if own.passed < own.cases || stated.passed < stated.cases {
        bail!("there are mismatches");
    }
    // One operator alone may be drawn so few times that an attribute stays the same.
    if !report.missing.is_empty() && options.op.is_none() {
        bail!("{} attributes do not vary", report.missing.len());
    }
    Ok(())
}

/// The cases by operator: their names are the operator's, two underscores, and a number.
fn counts(ran: &[Ran]) -> BTreeMap<&str, Count> {
    let mut counts: BTreeMap<&str, Count> = BTreeMap::new();
    for case in ran {
        let name = case.name.split_once("__").map_or(case.name.as_str(), |(name, _)| name);
        let count = counts.entry(name).or_default();
        count.cases += 1;
        count.passed += usize::from(case.passed);
        count.compiled += usize::from(case.passed && case.evaluator_steps == 0);
    }
    counts
}
