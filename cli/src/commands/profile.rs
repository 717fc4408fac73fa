//! `kiln profile`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kiln::runtime::peak::{VectorWidth, fma_gflops, read_gbps};
use kiln::runtime::profile::{Profile, Span, StepId, Work};
use kiln::runtime::program::{Action, Program};
use kiln::runtime::{Datum, RunOptions, Session};

use super::bench::measure;
use super::{entry, inputs_or_samples, open, spinner};
use crate::args::ProfileArgs;
use crate::out::{out, outln};
use crate::report::{Roofline, Row, html, trace};
use crate::stats::Summary;
use crate::table::{Table, millis};

/// Steps that the table shows.
const SHOWN: usize = 30;

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
        write(path, html::page(&name, &rows, roofline, latency.median))?;
    }
    if let Some(path) = &args.trace {
        let spans = trace_spans(session.executable().program(), &collected.last);
        write(path, trace::document(&name, &spans).to_string())?;
    }
    Ok(())
}

/// Spans of profiled runs, summed by step.
struct Collected {
    runs: usize,
    /// Worker time a step, in nanoseconds over all runs; and the work of one run.
    steps: BTreeMap<StepId, (u64, Option<Work>)>,
    /// Spans of the last run.
    last: Vec<Span>,
}

fn collect(session: &Session, entry: &str, inputs: &[Datum], length: Duration) -> Result<Collected> {
    let mut out = Collected { runs: 0, steps: BTreeMap::new(), last: vec![] };
    let begin = Instant::now();
    while begin.elapsed() < length || out.runs < 3 {
        let profile = Arc::new(Profile::new());
        let options = RunOptions { profile: Some(profile.clone()), ..Default::default() };
        session.run_with(entry, inputs, &options)?;
        let (spans, work) = profile.take();
        for span in &spans {
            out.steps.entry(span.step).or_default().0 += span.end_ns - span.start_ns;
        }
        for w in work {
            out.steps.entry(w.step).or_default().1 = Some(w);
        }
        out.last = spans;
        out.runs += 1;
    }
    Ok(out)
}

/// Peaks of the threads used: the widest FMA times the threads, and the memory's bandwidth.
fn roofline(threads: usize) -> Roofline {
    let one = VectorWidth::available().into_iter().filter_map(fma_gflops).fold(1.0, f64::max);
    Roofline { gflops: one * threads as f64, gbps: read_gbps(threads) }
}

fn step_name(program: &Program, step: StepId) -> (String, String) {
    let index = usize::try_from(step.step).unwrap_or(usize::MAX);
    let Some(data) = program.function(step.function).and_then(|f| f.steps.get(index)) else {
        return ("?".to_owned(), String::new());
    };
    let name = match &data.action {
        Action::Kernel(call) => program.kernel(call.kernel).map_or("?", |k| k.name.as_str()).to_owned(),
        Action::Host { graph, .. } => format!("host {graph}"),
        Action::If { .. } => "if".to_owned(),
        Action::Loop { .. } => "loop".to_owned(),
        Action::Call { .. } => "call".to_owned(),
        Action::Copy { .. } => "copy".to_owned(),
        Action::Check { .. } => "check".to_owned(),
        Action::StateRead { .. } => "state read".to_owned(),
        Action::StateAssign { .. } => "state assign".to_owned(),
    };
    (name, data.provenance.join(", "))
}

fn rows(program: &Program, collected: &Collected) -> Vec<Row> {
    let row = |(&step, &(ns, work)): (&StepId, &(u64, Option<Work>))| {
        let (name, nodes) = step_name(program, step);
        let (flops, bytes) = work.map_or((0.0, 0.0), |w| (w.flops as f64, w.bytes as f64));
        Row { name, nodes, ms: ns as f64 / 1e6 / collected.runs as f64, flops, bytes }
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
        }
    };
    spans.iter().map(span).collect()
}

fn print_table(name: &str, rows: &[Row], roofline: Roofline, median: f64, threads: usize) -> Result<()> {
    let total: f64 = rows.iter().map(|r| r.ms).sum();
    outln!("{name}: median {} on {threads} thread(s)", millis(median))?;
    outln!("  peaks: {:.1} GFLOP/s, {:.1} GB/s (measured now)", roofline.gflops, roofline.gbps)?;
    let mut slowest: Vec<&Row> = rows.iter().collect();
    slowest.sort_by(|a, b| b.ms.total_cmp(&a.ms));
    let mut table = Table::new(&["kernel", "time", "share", "GFLOP/s", "GB/s", "of roofline"]);
    for r in slowest.iter().take(SHOWN) {
        table.row(vec![
            r.name.clone(),
            millis(r.ms),
            format!("{:.1} %", if total > 0.0 { 100.0 * r.ms / total } else { 0.0 }),
            format!("{:.1}", r.gflops()),
            format!("{:.1}", r.gbps()),
            format!("{:.0} %", 100.0 * r.roofline_share(roofline)),
        ]);
    }
    out!("{}", table.render())?;
    if slowest.len() > SHOWN {
        outln!("  and {} more steps (--html lists them)", slowest.len() - SHOWN)?;
    }
    Ok(())
}

fn write(path: &Path, text: String) -> Result<()> {
    std::fs::write(path, text).with_context(|| path.display().to_string())
}
