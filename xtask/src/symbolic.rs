//! `cargo xtask symbolic`: what it costs that one artifact serves every batch and length, against artifacts of fixed
//! shapes: turn by turn, in one sitting.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::peers::bench::{Artifact, Outputs, turns};
use crate::python::{Purpose, Python};
use crate::workspace::{self, Profile, Workspace};

const BATCHES: [usize; 3] = [1, 4, 16];
const LENGTHS: [usize; 4] = [16, 37, 128, 384];

/// The share of a fixed artifact's time that the symbolic one may take more.
const BAR: f64 = 0.1;

/// The largest difference of their answers, relative to the largest magnitude.
const CLOSE: f64 = 1e-4;

const MODEL: &str = "minilm6_symbolic";

#[derive(clap::Args)]
pub struct Options {
    /// The folder of `cargo xtask zoo`; the model with symbolic batch and length is written there if it is not there.
    #[arg(long)]
    zoo: PathBuf,
    /// Turns that each artifact takes on each shape.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of one turn.
    #[arg(long, default_value_t = 0.4)]
    seconds: f64,
    /// The threads of each.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// A Python interpreter with what the zoo needs, instead of an environment made below `target/`.
    #[arg(long)]
    python: Option<PathBuf>,
}

/// Prints a row for each shape; fails where answers differ.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let scratch = workspace.target.join("symbolic");
    fs::create_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
    let kiln = workspace.build("kiln-cli", "kiln", Profile::Release)?;
    let model = options.zoo.join(format!("{MODEL}.onnx"));
    export(workspace, options, &scratch)?;
    let symbolic = Artifact::compile(&kiln, &model, &scratch.join("symbolic.kiln"), &[])?;
    println!("{:>9} {:>10} {:>10} {:>9} {:>12}", "shape", "symbolic", "fixed", "more", "difference");
    let (mut worst, mut within, mut shapes, mut apart) = (f64::NEG_INFINITY, 0, 0, 0);
    for batch in BATCHES {
        for length in LENGTHS {
            let inputs = scratch.join(inputs(batch, length));
            let dims = ["input_ids", "attention_mask"].map(|name| format!("{name}={batch},{length}"));
            let fixed = Artifact::compile(&kiln, &model, &scratch.join("fixed.kiln"), &dims)?;
            let own = symbolic.answer(&kiln, &inputs, &scratch.join("symbolic.out.npz"))?;
            let other = fixed.answer(&kiln, &inputs, &scratch.join("fixed.out.npz"))?;
            let difference = own.difference(&other)?;
            let mut times = turns(
                options.rounds,
                &mut [
                    &mut || symbolic.turn(&kiln, &inputs, Outputs::Fresh, options.threads, options.seconds),
                    &mut || fixed.turn(&kiln, &inputs, Outputs::Fresh, options.threads, options.seconds),
                ],
            )?;
            let (fixed, symbolic) = (times.remove(1).median(), times.remove(0).median());
            let more = symbolic / fixed - 1.0;
            println!(
                "{:>9} {symbolic:>10.2} {fixed:>10.2} {:>+7.1} % {difference:>12.2e}",
                format!("{batch}x{length}"),
                100.0 * more
            );
            worst = worst.max(more);
            shapes += 1;
            within += usize::from(more <= BAR);
            apart += usize::from(difference.is_nan() || difference > CLOSE);
        }
    }
    let percent = 100.0 * BAR;
    println!("symbolic: worst {:+.1} %, {within} of {shapes} within {percent:.0} %", 100.0 * worst);
    if apart > 0 {
        bail!("the answers of {apart} shapes differ by more than {CLOSE:e}");
    }
    Ok(())
}

fn inputs(batch: usize, length: usize) -> String {
    format!("{batch}x{length}.in.npz")
}

/// Writes the model and the inputs of all shapes, unless they are there.
fn export(workspace: &Workspace, options: &Options, scratch: &Path) -> Result<()> {
    let model = options.zoo.join(format!("{MODEL}.onnx"));
    let shapes = BATCHES.into_iter().flat_map(|batch| LENGTHS.map(|length| (batch, length)));
    let mut files = shapes.clone().map(|(batch, length)| scratch.join(inputs(batch, length)));
    if model.is_file() && files.all(|file| file.is_file()) {
        return Ok(());
    }
    let python = Python::of(workspace, Purpose::Zoo, options.python.as_deref())?;
    let mut command = python.script(workspace, "symbolic.py");
    command.arg(&model).arg(scratch).args(shapes.map(|(batch, length)| format!("{batch}x{length}")));
    workspace::output(&mut command).map(drop)
}
