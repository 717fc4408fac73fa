//! `kiln bench`.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use kiln::ir::Tensor;
use kiln::runtime::memory::AlignedBuf;
use kiln::runtime::{Datum, RunOptions, Session, TensorMut, TensorRef};
use serde_json::json;

use super::{entry, inputs_or_samples, open, peak_rss_mib};
use crate::args::BenchArgs;
use crate::out::outln;
use crate::stats::Summary;
use crate::table::millis;

/// Runs before measuring.
const WARMUP: usize = 3;
/// Runs that are measured however long they take.
const MIN_RUNS: usize = 5;

/// Measures latency.
pub fn run(args: &BenchArgs) -> Result<()> {
    let place = || args.model.display().to_string();
    let start = Instant::now();
    let session = open(&args.model, &args.options, args.threads)?;
    let load_ms = start.elapsed().as_secs_f64() * 1e3;
    let entry = entry(&session, args.entry.as_deref(), &args.model)?;
    let inputs = inputs_or_samples(&args.inputs, entry)?;
    let start = Instant::now();
    let outputs = session.run(&entry.name, &inputs).with_context(place)?;
    let first_ms = start.elapsed().as_secs_f64() * 1e3;
    let length = Duration::from_secs_f64(args.seconds);
    let (times, rate) = match args.clients {
        1 => {
            let times = match args.bound {
                true => measure_bound(&session, &entry.name, &inputs, &outputs, length),
                false => measure(&session, &entry.name, &inputs, length),
            };
            let times = times.with_context(place)?;
            let rate = 1e3 * times.len() as f64 / times.iter().sum::<f64>();
            (times, rate)
        }
        clients => measure_clients(&session, &entry.name, &inputs, length, clients).with_context(place)?,
    };
    let s = Summary::new(times).context("nothing was measured")?;
    let (threads, rss) = (session.threads(), peak_rss_mib());
    if args.json {
        let round = |v: f64| (v * 1e4).round() / 1e4;
        let mut line = json!({
            "min_ms": round(s.min), "median_ms": round(s.median), "p90_ms": round(s.p90), "p99_ms": round(s.p99),
            "mean_ms": round(s.mean), "runs": s.runs, "threads": threads, "load_ms": round(load_ms),
            "first_ms": round(first_ms), "peak_rss_mib": round(rss),
        });
        if args.clients > 1 {
            line["clients"] = json!(args.clients);
            line["runs_per_s"] = json!(round(rate));
        }
        outln!("{line}")?;
        return Ok(());
    }
    let clients = if args.clients > 1 { format!(", {} clients", args.clients) } else { String::new() };
    outln!("{}: {} runs on {threads} thread(s){clients}", place(), s.runs)?;
    outln!(
        "  min {}  median {}  p90 {}  p99 {}",
        millis(s.min),
        millis(s.median),
        millis(s.p90),
        millis(s.p99)
    )?;
    outln!("  mean {}  throughput {rate:.1} runs/s", millis(s.mean))?;
    outln!("  load {}  first run {}  peak memory {rss:.1} MiB", millis(load_ms), millis(first_ms))?;
    Ok(())
}

/// Latencies in milliseconds of what `clients` threads run at once on one session, and runs a second of all.
fn measure_clients(
    session: &Session,
    entry: &str,
    inputs: &[Datum],
    length: Duration,
    clients: u32,
) -> Result<(Vec<f64>, f64)> {
    let per_client = thread::scope(|scope| -> Result<Vec<Vec<f64>>> {
        let run = || measure(session, entry, inputs, length);
        let others: Vec<_> = (1..clients).map(|_| scope.spawn(run)).collect();
        let mut all = vec![run()?];
        for other in others {
            all.push(other.join().map_err(|_| anyhow!("a client's thread panicked"))??);
        }
        Ok(all)
    })?;
    // Every client runs back to back, so that the rates add up.
    let rate = per_client.iter().map(|times| 1e3 * times.len() as f64 / times.iter().sum::<f64>()).sum();
    Ok((per_client.concat(), rate))
}

/// Latencies in milliseconds of repeated runs for about `length`, after a warm-up.
pub fn measure(session: &Session, entry: &str, inputs: &[Datum], length: Duration) -> Result<Vec<f64>> {
    repeat(length, &mut || Ok(session.run(entry, inputs).map(drop)?))
}

/// The same where all runs write to the same memory, of the sizes that `outputs` have.
fn measure_bound(
    session: &Session,
    entry: &str,
    inputs: &[Datum],
    outputs: &[Datum],
    length: Duration,
) -> Result<Vec<f64>> {
    fn tensor(value: &Datum) -> Result<&Tensor> {
        match value {
            Datum::Tensor(tensor) => Ok(tensor),
            _ => Err(anyhow!("--bound takes and gives tensors only")),
        }
    }
    let inputs = inputs.iter().map(tensor).collect::<Result<Vec<_>>>()?;
    let outputs = outputs.iter().map(tensor).collect::<Result<Vec<_>>>()?;
    let memory = outputs.iter().map(|tensor| AlignedBuf::zeroed(tensor.bytes().len() as u64));
    let mut memory = memory.collect::<Result<Vec<_>, _>>()?;
    let inputs: Vec<TensorRef<'_>> = inputs.into_iter().map(TensorRef::from).collect();
    let mut places = outputs
        .iter()
        .zip(&mut memory)
        .map(|(tensor, memory)| TensorMut::new(tensor.dtype(), tensor.dims(), memory.bytes_mut()))
        .collect::<Option<Vec<_>>>()
        .context("an output is of another size than its dims")?;
    repeat(length, &mut || Ok(session.run_into(entry, &inputs, &mut places, &RunOptions::default())?))
}

fn repeat(length: Duration, run: &mut dyn FnMut() -> Result<()>) -> Result<Vec<f64>> {
    for _ in 0..WARMUP {
        run()?;
    }
    let (mut times, begin) = (vec![], Instant::now());
    while begin.elapsed() < length || times.len() < MIN_RUNS {
        let start = Instant::now();
        run()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(times)
}
