//! The suite's report: a table by family, then every case that does not pass under its reason.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::cases::{Case, Family};
use super::pool::{Status, Verdict};

/// The figures that the task decides on.
pub struct Outcome {
    pub passed: usize,
    /// Cases that passed without a step of the reference evaluator.
    pub compiled: usize,
    /// Cases that panicked, hung or ended their process.
    pub broken: usize,
}

/// Prints the report; with `verbose` a line for every case before it: verdict, time, steps of the
/// evaluator, name, reason.
pub fn print(cases: &[Case], verdicts: &[Verdict], verbose: bool) -> Outcome {
    if verbose {
        for (case, verdict) in cases.iter().zip(verdicts) {
            let Verdict { status, reason, detail, evaluator_steps, seconds } = verdict;
            let why = [reason.as_str(), detail.as_str()].into_iter().filter(|text| !text.is_empty());
            let why = why.collect::<Vec<_>>().join("; ");
            let steps = evaluator_steps.len();
            println!("{:11} {seconds:6.3} s {steps:3}  {}  {why}", status.word(), case.name);
        }
        println!();
    }
    print_reasons(cases, verdicts);
    print_table(cases, verdicts);
    let passed = || verdicts.iter().filter(|verdict| verdict.status == Status::Passed);
    Outcome {
        passed: passed().count(),
        compiled: passed().filter(|verdict| verdict.evaluator_steps.is_empty()).count(),
        broken: verdicts.iter().filter(|verdict| verdict.status.is_broken()).count(),
    }
}

/// Prints for each operator in how many passing cases the reference evaluator runs it, and in how many it runs nothing
/// else; writes `{"CASE": ["OPERATOR", ...], ...}`, of the passing cases, to `file`.
pub fn print_steps(cases: &[Case], verdicts: &[Verdict], file: &Path) -> Result<()> {
    let mut of_case: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut counts: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
    for (case, verdict) in cases.iter().zip(verdicts).filter(|(_, v)| v.status == Status::Passed) {
        let ops: BTreeSet<&str> = verdict.evaluator_steps.iter().map(String::as_str).collect();
        for op in &ops {
            let [all, alone] = counts.entry(op).or_default();
            (*all, *alone) = (*all + 1, *alone + usize::from(ops.len() == 1));
        }
        of_case.insert(&case.name, ops);
    }
    let mut rows: Vec<_> = counts.into_iter().collect();
    rows.sort_by_key(|(op, [all, _])| (std::cmp::Reverse(*all), *op));
    println!("{:24} {:>6} {:>6}", "evaluator steps", "cases", "alone");
    for (op, [all, alone]) in rows {
        println!("{op:24} {all:>6} {alone:>6}");
    }
    println!();
    let text = serde_json::to_string_pretty(&of_case).context("writing the steps")?;
    fs::write(file, text).with_context(|| file.display().to_string())
}

fn print_table(cases: &[Case], verdicts: &[Verdict]) {
    let title = ["family", "cases", "passed", "unsupported", "mismatch", "error", "broken"];
    let row = |name: &str, counts: [usize; 6]| {
        let [cases, passed, unsupported, mismatch, error, broken] = counts;
        println!("{name:18} {cases:>6} {passed:>7} {unsupported:>12} {mismatch:>9} {error:>6} {broken:>7}");
    };
    let [name, cases_title, passed, unsupported, mismatch, error, broken] = title;
    println!("{name:18} {cases_title:>6} {passed:>7} {unsupported:>12} {mismatch:>9} {error:>6} {broken:>7}");
    for family in Family::ALL {
        let of_family = cases.iter().zip(verdicts).filter(|(case, _)| case.family == family);
        row(&family.to_string(), counts(of_family.map(|(_, verdict)| verdict)));
    }
    row("all", counts(verdicts.iter()));
}

fn counts<'a>(verdicts: impl Iterator<Item = &'a Verdict>) -> [usize; 6] {
    let mut counts = [0; 6];
    for verdict in verdicts {
        counts[0] += 1;
        counts[match verdict.status {
            Status::Passed => 1,
            Status::Unsupported => 2,
            Status::Mismatch => 3,
            Status::Error => 4,
            Status::Panicked | Status::Hung | Status::Crashed => 5,
        }] += 1;
    }
    counts
}

/// Prints `STATUS: REASON (N)` for each reason, the broken ones last, with the cases below it and what is particular to
/// each.
pub fn print_reasons(cases: &[Case], verdicts: &[Verdict]) {
    let mut reasons: BTreeMap<(Status, &str), Vec<(&Case, &Verdict)>> = BTreeMap::new();
    for (case, verdict) in cases.iter().zip(verdicts) {
        if verdict.status != Status::Passed {
            reasons.entry((verdict.status, &verdict.reason)).or_default().push((case, verdict));
        }
    }
    let mut reasons: Vec<_> = reasons.into_iter().collect();
    reasons.sort_by_key(|((status, _), members)| (*status, std::cmp::Reverse(members.len())));
    for ((status, reason), members) in reasons {
        println!("{}: {reason} ({})", status.word(), members.len());
        for (case, verdict) in members {
            match verdict.detail.as_str() {
                "" => println!("    {}", case.name),
                detail => println!("    {}: {detail}", case.name),
            }
        }
        println!();
    }
}
