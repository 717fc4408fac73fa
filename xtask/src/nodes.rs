//! `cargo xtask nodes`: single operators against onnxruntime's nodes on the same data, turn by turn, in one sitting.
//! Both write to the same memory in every run, so that no allocation counts.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::npz::Arrays;
use crate::peers::bench::{Artifact, Outputs, turns};
use crate::peers::worker::Worker;
use crate::python::{Purpose, Python};
use crate::workspace::{self, Profile, Workspace};

/// The operators of the last line; a name is the operator, then its sizes.
const BARS: [&str; 3] = ["softmax", "layernorm", "gelu"];
const BAR_SIZE: &str = "128x3072";

/// The largest difference of the answers, relative to the largest magnitude.
const CLOSE: f64 = 1e-4;

#[derive(clap::Args)]
pub struct Options {
    /// Only the nodes whose name contains this text.
    #[arg(long)]
    filter: Option<String>,
    /// Turns that each takes on each node.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of one turn.
    #[arg(long, default_value_t = 0.3)]
    seconds: f64,
    /// The threads of each.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// A Python interpreter with numpy, onnx and onnxruntime, instead of environments made below `target/`.
    #[arg(long)]
    python: Option<PathBuf>,
}

/// Prints a row for each node; fails where answers differ.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let scratch = workspace.target.join("nodes");
    fs::create_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
    let kiln = workspace.build("kiln-cli", "kiln", Profile::Release)?;
    let maker = Python::of(workspace, Purpose::Zoo, options.python.as_deref())?;
    let peer = Python::of(workspace, Purpose::Ort, options.python.as_deref())?;
    let names = workspace::output(maker.script(workspace, "nodes.py").arg(&scratch))?;
    let wanted = |name: &&str| options.filter.as_ref().is_none_or(|text| name.contains(text.as_str()));
    println!(
        "{:34} {:>10} {:>12} {:>8} {:>12}",
        "microseconds", "kiln", "onnxruntime", "times", "difference"
    );
    let (mut bars, mut apart) = (vec![], 0);
    for name in names.lines().filter(wanted) {
        let file = |suffix: &str| scratch.join(format!("{name}.{suffix}"));
        let (model, inputs) = (file("onnx"), file("in.npz"));
        let artifact = Artifact::compile(&kiln, &model, &file("kiln"), &[])?;
        let (own, other) = (file("kiln.npz"), file("ort.npz"));
        workspace::output(peer.script(workspace, "ort.py").arg("answer").args([&model, &inputs, &other]))?;
        let difference = artifact.answer(&kiln, &inputs, &own)?.difference(&Arrays::read(&other)?)?;
        apart += usize::from(difference.is_nan() || difference > CLOSE);
        let mut command = peer.script(workspace, "peer.py");
        command.arg("ort-bound").args([&model, &inputs]).args(["--threads", &options.threads.to_string()]);
        let (mut worker, _) = Worker::start(&mut command, &file("log"))?;
        let times = turns(
            options.rounds,
            &mut [
                &mut || artifact.turn(&kiln, &inputs, Outputs::Bound, options.threads, options.seconds),
                &mut || worker.turn(options.seconds),
            ],
        )?;
        let [own, other] = [&times[0], &times[1]].map(|figures| 1e3 * figures.median());
        println!("{name:34} {own:>10.1} {other:>12.1} {:>8.2} {difference:>12.2e}", other / own);
        if let Some((operator, BAR_SIZE)) = name.split_once(' ')
            && BARS.contains(&operator)
        {
            bars.push(format!("{operator} {:.2}", other / own));
        }
    }
    println!("nodes: {} times", bars.join(", "));
    if apart > 0 {
        bail!("the answers of {apart} nodes differ by more than {CLOSE:e}");
    }
    Ok(())
}
