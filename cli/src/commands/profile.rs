//! `kiln profile`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kiln::runtime::peak::{VectorWidth, fma_gflops, read_gbps};
use kiln::runtime::profile::{Profile, Span, StepId, Work};
use kiln::runtime::program::{Action, Program, Step};
use kiln::runtime::{Datum, RunOptions, Session};

use super::bench::measure;
use super::{entry, inputs_or_samples, open, spinner};
use crate::args::ProfileArgs;
use crate::out::{out, outln};
use crate::report::times::{self, StepTime};
use crate::report::{Roofline, Row, html, trace};
use crate::stats::Summary;
use crate::table::{Table, millis};

/// Steps that the table shows.
const SHOWN: usize = 30;
/// Runs that are profiled however long they take.
const MIN_RUNS: usize = 3;

/// Measures every step.
pub fn run(args: &ProfileArgs) -> Result<()> {
    let session = open(&args.model, &args.options, args.threads)?;
    let entry = entry(&session, args.entry.as_deref(), &args.model)?;
    let inputs = inputs_or_samples(&args.inputs, entry)?;
    let length = Duration::from_secs_f64(args.seconds / 2.0);
    let bar = spinner("measuring");
    let latency =
        Summary::new(measure(&session, &entry.name, &inputs, length)?).context("nothing was measured")?;
    let collected = collect(&session, &entry.name, &inputs, length)?;
    let roofline = roofline(session.threads());
    bar.finish_and_clear();
    let rows = rows(session.executable().program(), &collected);
    let name = args.model.display().to_string();
    print_table(&name, &rows, roofline, latency.median, session.threads())?;
    if let Some(path) = &args.html {
        write(path, html::page(&name, &rows, roofline, latency.median, session.threads()))?;
    }
    if let Some(path) = &args.trace {
        let spans = trace_spans(session.executable().program(), &collected.last);
        write(path, trace::document(&name, &spans).to_string())?;
    }
    Ok(())
}

/// Profiled runs.
struct Collected {
    /// Times of a step, one a run, and its work in one run.
    steps: BTreeMap<StepId, (Vec<StepTime>, Option<Work>)>,
    /// Spans of the last run.
    last: Vec<Span>,
}

fn collect(session: &Session, entry: &str, inputs: &[Datum], length: Duration) -> Result<Collected> {
    let program = session.executable().program();
    let holds_others = |id: StepId| {
        let action = step(program, id).map(|step| &step.action);
        matches!(action, Some(Action::If { .. } | Action::Loop { .. } | Action::Call { .. }))
    };
    let (mut runs, mut out) = (0, Collected { steps: BTreeMap::new(), last: vec![] });
    let begin = Instant::now();
    while begin.elapsed() < length || runs < MIN_RUNS {
        let profile = Arc::new(Profile::new());
        let options = RunOptions { profile: Some(profile.clone()), ..Default::default() };
        session.run_with(entry, inputs, &options)?;
        let (spans, work) = profile.take();
        for (step, time) in times::of_steps(&spans, holds_others) {
            let known = out.steps.entry(step).or_default();
            known.0.push(time);
            known.1 = None;
        }
        for w in work {
            // A step of a loop's body runs several times in a run.
            let sum = out.steps.entry(w.step).or_default().1.get_or_insert(Work { flops: 0, bytes: 0, ..w });
            sum.flops = sum.flops.saturating_add(w.flops);
            sum.bytes = sum.bytes.saturating_add(w.bytes);
        }
        out.last = spans;
        runs += 1;
    }
    Ok(out)
}

/// Peaks of the threads used, all at once: the widest FMA, and the memory's bandwidth.
fn roofline(threads: usize) -> Roofline {
    let one = || VectorWidth::available().into_iter().filter_map(fma_gflops).fold(1.0, f64::max);
    // More threads than cores would each be measured with a core of its own.
    let cores = thread::available_parallelism().map_or(threads, usize::from).min(threads);
    let gflops = thread::scope(|scope| {
        let others: Vec<_> = (1..cores).map(|_| scope.spawn(one)).collect();
        one() + others.into_iter().filter_map(|other| other.join().ok()).sum::<f64>()
    });
    Roofline { gflops, gbps: read_gbps(threads) }
}

fn step(program: &Program, step: StepId) -> Option<&Step> {
    program.function(step.function)?.steps.get(usize::try_from(step.step).ok()?)
}

fn step_name(program: &Program, id: StepId) -> (String, String) {
    let Some(data) = step(program, id) else { return ("?".to_owned(), String::new()) };
    let name = match &data.action {
        Action::Kernel(call) => program.kernel(call.kernel).map_or("?", |k| k.name.as_str()).to_owned(),
        Action::Host { graph, .. } => format!("host {graph}"),
        Action::If { .. } => "if".to_owned(),
        Action::Loop { .. } => "loop".to_owned(),
        Action::Call { .. } => "call".to_owned(),
        Action::Copy { .. } => "copy".to_owned(),
        Action::Check { .. } => "check".to_owned(),
        Action::Sizes { .. } => "sizes".to_owned(),
        Action::StateRead { .. } => "state read".to_owned(),
        Action::StateAssign { .. } => "state assign".to_owned(),
    };
    (name, data.provenance.join(", "))
}

fn rows(program: &Program, collected: &Collected) -> Vec<Row> {
    let row = |(&step, (times, work)): (&StepId, &(Vec<StepTime>, Option<Work>))| {
        let (name, nodes) = step_name(program, step);
        let (flops, bytes) = work.map_or((0.0, 0.0), |w| (w.flops as f64, w.bytes as f64));
        let median = |time: fn(&StepTime) -> u64| {
            let times = times.iter().map(|t| time(t) as f64 / 1e6).collect();
            Summary::new(times).map_or(0.0, |summary| summary.median)
        };
        Row { name, nodes, ms: median(|t| t.elapsed), busy_ms: median(|t| t.busy), flops, bytes }
    };
    collected.steps.iter().map(row).collect()
}

fn trace_spans(program: &Program, spans: &[Span]) -> Vec<trace::Span> {
    let start = spans.iter().map(|s| s.start_ns).min().unwrap_or(0);
    let span = |s: &Span| {
        let (name, nodes) = step_name(program, s.step);
        trace::Span {
            name,
            worker: usize::try_from(s.worker).unwrap_or(0),
            start_us: (s.start_ns - start) as f64 / 1e3,
            length_us: (s.end_ns - s.start_ns) as f64 / 1e3,
            nodes,
            chunk: s.chunk,
        }
    };
    spans.iter().map(span).collect()
}

fn print_table(name: &str, rows: &[Row], roofline: Roofline, median: f64, threads: usize) -> Result<()> {
    let total: f64 = rows.iter().map(|r| r.ms).sum();
    outln!("{name}: median {} on {threads} thread(s), steps together {}", millis(median), millis(total))?;
    outln!("  peaks: {:.1} GFLOP/s, {:.1} GB/s (measured now)", roofline.gflops, roofline.gbps)?;
    let mut slowest: Vec<&Row> = rows.iter().collect();
    slowest.sort_by(|a, b| b.ms.total_cmp(&a.ms));
    let mut table =
        Table::new(&["kernel", "time", "share", "threads", "GFLOP/s", "GB/s", "of roofline", "first node"]);
    for r in slowest.iter().take(SHOWN) {
        table.row(vec![
            r.name.clone(),
            millis(r.ms),
            format!("{:.1} %", if total > 0.0 { 100.0 * r.ms / total } else { 0.0 }),
            format!("{:.1}", r.threads()),
            format!("{:.1}", r.gflops()),
            format!("{:.1}", r.gbps()),
            format!("{:.0} %", 100.0 * r.roofline_share(roofline)),
            r.first_node().to_owned(),
        ]);
    }
    out!("{}", table.render())?;
    if slowest.len() > SHOWN {
        outln!("  and {} more steps (--html lists them)", slowest.len() - SHOWN)?;
    }
    let needed: f64 = rows.iter().map(|r| r.needed_ms(roofline).min(r.ms)).sum();
    outln!("  the roofline explains {}, {:.0} % of the median", millis(needed), 100.0 * needed / median)?;
    Ok(())
}

fn write(path: &Path, text: String) -> Result<()> {
    std::fs::write(path, text).with_context(|| path.display().to_string())
}
