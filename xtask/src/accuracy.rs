//! How far the zoo's models are from their answers in double precision, beside how far onnxruntime is: the norm is the
//! largest difference, relative to the largest magnitude. With `--int8`, how far models that onnxruntime quantized are from
//! its answers; with `--weights`, models whose weights are stored in fewer bits.

mod int8;
mod weights;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::npz::Arrays;
use crate::python::{Purpose, Python};
use crate::workspace::{self, Profile, Workspace};
use crate::zoo::{self, ZooModel};

/// The largest error, and the largest as a multiple of onnxruntime's.
const BARS: [f64; 2] = [1e-4, 2.0];

/// How models are compiled: the table's name, arguments of the `kiln` command.
const WAYS: [(&str, &[&str]); 2] = [("tiles", &[]), ("taps only", &["--no-winograd"])];

#[derive(clap::Args)]
pub struct Options {
    /// The folder that `cargo xtask zoo` wrote.
    #[arg(long)]
    zoo: PathBuf,
    /// The models to look at [default: all].
    models: Vec<String>,
    /// Look at models that onnxruntime quantizes, instead.
    #[arg(long)]
    int8: bool,
    /// Look at models whose weights are stored in 4, 8 and 16 bits, instead.
    #[arg(long, conflicts_with = "int8")]
    weights: bool,
    /// Random inputs that each of these runs on.
    #[arg(long, default_value_t = 200)]
    inputs: usize,
    /// A Python interpreter with numpy, onnx, torch and onnxruntime, instead of environments made below `target/`.
    #[arg(long)]
    python: Option<PathBuf>,
}

/// Who answers.
struct Sources {
    kiln: PathBuf,
    exact: Python,
    peer: Python,
}

/// Prints a row for each model and way of compiling it; fails where a bar does not hold.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    if options.int8 {
        return int8::run(workspace, options);
    }
    if options.weights {
        return weights::run(workspace, options);
    }
    let scratch = workspace.target.join("accuracy");
    fs::create_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
    let given = options.python.as_deref();
    let models = zoo::find(&options.zoo, &options.models)?;
    let sources = Sources {
        kiln: workspace.build("kiln-cli", "kiln", Profile::Release)?,
        exact: Python::of(workspace, Purpose::Zoo, given)?,
        peer: Python::of(workspace, Purpose::Ort, given)?,
    };
    println!("{:20} {:10} {:>9} {:>12} {:>6}", "model", "3x3", "kiln", "onnxruntime", "ratio");
    let mut missed = 0;
    for model in &models {
        missed += rows(workspace, &sources, model, &scratch)?;
    }
    if missed > 0 {
        bail!("{missed} rows miss a bar: an error of {:e}, {} times onnxruntime's", BARS[0], BARS[1]);
    }
    Ok(())
}

/// The rows of one model; gives how many of them miss a bar.
fn rows(workspace: &Workspace, sources: &Sources, model: &ZooModel, scratch: &Path) -> Result<usize> {
    let file = |suffix: &str| scratch.join(format!("{}.{suffix}.npz", model.name));
    let (exact, peer, own) = (file("exact"), file("ort"), file("kiln"));
    let paths = [&model.model, &model.inputs];
    workspace::output(sources.exact.script(workspace, "exact.py").args(paths).arg(&exact))?;
    workspace::output(sources.peer.script(workspace, "ort.py").arg("answer").args(paths).arg(&peer))?;
    let exact = Arrays::read(&exact)?;
    let peer = Arrays::read(&peer)?.error(&exact)?;
    let mut missed = 0;
    for (way, arguments) in WAYS {
        let mut command = Command::new(&sources.kiln);
        command.arg("run").arg(&model.model).args(arguments).args(["--threads", "1"]);
        workspace::output(command.arg("--inputs").arg(&model.inputs).arg("--outputs").arg(&own))?;
        let error = Arrays::read(&own)?.error(&exact)?;
        let ratio = error / peer;
        println!("{:20} {way:10} {error:>9.2e} {peer:>12.2e} {ratio:>6.2}", model.name);
        // Not `error > bar`, which would pass a NaN.
        if !(error <= BARS[0] && error <= BARS[1] * peer) {
            missed += 1;
        }
    }
    Ok(missed)
}
