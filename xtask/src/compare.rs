//! Kiln against onnxruntime on the zoo's models: both in turn, in one sitting, so that a busy neighbour slows both.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::python::{Purpose, Python};
use crate::workspace::{self, Profile, Workspace};
use crate::zoo::{self, ZooModel};

/// A median this much above the minimum means that something else was running.
const NOISE: f64 = 1.15;

#[derive(clap::Args)]
pub struct Options {
    /// The folder that `cargo xtask zoo` wrote.
    #[arg(long)]
    zoo: PathBuf,
    /// The models to time [default: all].
    #[arg(long, value_delimiter = ',')]
    models: Vec<String>,
    /// The threads of each.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Turns that each takes on each model.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of one turn.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// A Python interpreter with numpy and onnxruntime, instead of an environment made below `target/`.
    #[arg(long)]
    python: Option<PathBuf>,
}

/// The figures of one turn, in milliseconds.
#[derive(Deserialize, Clone, Copy)]
struct Turn {
    min_ms: f64,
    median_ms: f64,
    load_ms: f64,
    first_ms: f64,
}

/// The best of several turns.
#[derive(Clone, Copy)]
struct Best {
    min: f64,
    median: f64,
    start: f64,
}

impl Best {
    fn of(turns: &[Turn]) -> Self {
        let least = |figure: fn(&Turn) -> f64| turns.iter().map(figure).fold(f64::INFINITY, f64::min);
        Self {
            min: least(|turn| turn.min_ms),
            median: least(|turn| turn.median_ms),
            start: least(|turn| turn.load_ms + turn.first_ms),
        }
    }
}

/// Times the models and prints a table of the best turns.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let models = zoo::find(&options.zoo, &options.models)?;
    let python = Python::of(workspace, Purpose::Peers, options.python.as_deref())?;
    let kiln = workspace.build("kiln-cli", "kiln", Profile::Release)?;
    let scratch = workspace.target.join("compare");
    fs::create_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
    println!("{} threads, best of {} turns of {} s each", options.threads, options.rounds, options.seconds);
    println!("milliseconds; `start` is load and first run, of Kiln's from an artifact; * is a busy machine");
    let peer_titles = ["ort min", "median", "start"];
    let titles = peer_titles.into_iter().chain(["kiln min", "median", "start", "kiln / ort", "start"]);
    println!("{:20}{}", "model", titles.map(|title| format!(" {title:>10}")).collect::<String>());
    for model in &models {
        let (peer, own) = time(workspace, options, &python, &kiln, model, &scratch)?;
        let times = [peer.min, peer.median, peer.start, own.min, own.median, own.start];
        let times: String = times.iter().map(|time| format!(" {time:>10.2}")).collect();
        let ratios = format!(" {:>10.3} {:>10.3}", own.min / peer.min, own.start / peer.start);
        let busy = [peer, own].iter().any(|best| best.median > best.min * NOISE);
        println!("{:20}{times}{ratios}{}", model.name, if busy { " *" } else { "" });
    }
    Ok(())
}

/// The best turns of onnxruntime and of Kiln on one model.
fn time(
    workspace: &Workspace,
    options: &Options,
    python: &Python,
    kiln: &Path,
    model: &ZooModel,
    scratch: &Path,
) -> Result<(Best, Best)> {
    let artifact = scratch.join(format!("{}.kiln", model.name));
    workspace::output(Command::new(kiln).arg("compile").arg(&model.model).arg("-o").arg(&artifact))?;
    let (mut peer, mut own) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds.max(1) {
        let mut command = python.script(workspace, "ort.py");
        peer.push(turn(options, command.arg("bench").arg(&model.model).arg(&model.inputs))?);
        let mut command = Command::new(kiln);
        command.arg("bench").arg(&artifact).arg("--inputs").arg(&model.inputs).arg("--json");
        own.push(turn(options, &mut command)?);
    }
    Ok((Best::of(&peer), Best::of(&own)))
}

fn turn(options: &Options, command: &mut Command) -> Result<Turn> {
    command.args(["--threads", &options.threads.to_string(), "--seconds", &options.seconds.to_string()]);
    let printed = workspace::output(command)?;
    serde_json::from_str(&printed).with_context(|| format!("not the figures of a bench: {printed}"))
}
