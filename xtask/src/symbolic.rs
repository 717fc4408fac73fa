//! `cargo xtask symbolic`: what it costs that one artifact serves every batch and length, against artifacts of fixed
//! shapes: turn by turn, in one sitting. What counts is the median of the ratios of turns that follow each other, which
//! a machine that slows down for some seconds moves less than the ratio of medians.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, bail};

use crate::peers::PAUSE;
use crate::peers::bench::{Artifact, Outputs};
use crate::peers::figures::median;
use crate::python::{Purpose, Python};
use crate::workspace::{self, Profile, Workspace};

const BATCHES: [usize; 3] = [1, 4, 16];
const LENGTHS: [usize; 4] = [16, 37, 128, 384];

/// The share of a fixed artifact's time that the symbolic one may take more.
const BAR: f64 = 0.1;

/// How exactly the share that one takes more is to be known.
const SURE: f64 = 0.02;

/// The largest difference of their answers, relative to the largest magnitude.
const CLOSE: f64 = 1e-4;

const MODEL: &str = "minilm6_symbolic";

#[derive(clap::Args)]
pub struct Options {
    /// The folder of `cargo xtask zoo`; the model with symbolic batch and length is written there if it is not there.
    #[arg(long)]
    zoo: PathBuf,
    /// The least turns that each artifact takes on each shape.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// The most turns: there are fewer once it is known to 2 % how the times compare.
    #[arg(long, default_value_t = 61)]
    most: usize,
    /// Only this batch and length, such as `1x16`.
    #[arg(long)]
    shape: Option<String>,
    /// Seconds of one turn.
    #[arg(long, default_value_t = 0.2)]
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
    println!(
        "{:>9} {:>10} {:>10} {:>9} {:>7} {:>12}",
        "shape", "symbolic", "fixed", "more", "+-", "difference"
    );
    let (mut worst, mut within, mut shapes, mut apart) = (f64::NEG_INFINITY, 0, 0, 0);
    for batch in BATCHES {
        for length in LENGTHS {
            if options.shape.as_ref().is_some_and(|only| *only != format!("{batch}x{length}")) {
                continue;
            }
            let inputs = scratch.join(inputs(batch, length));
            let dims = ["input_ids", "attention_mask"].map(|name| format!("{name}={batch},{length}"));
            let fixed = Artifact::compile(&kiln, &model, &scratch.join("fixed.kiln"), &dims)?;
            let own = symbolic.answer(&kiln, &inputs, &scratch.join("symbolic.out.npz"))?;
            let other = fixed.answer(&kiln, &inputs, &scratch.join("fixed.out.npz"))?;
            let difference = own.difference(&other)?;
            let Compared { symbolic, fixed, more, sure } =
                compare(&kiln, [&symbolic, &fixed], &inputs, options)?;
            println!(
                "{:>9} {symbolic:>10.2} {fixed:>10.2} {:>+7.1} % {:>5.1} % {difference:>12.2e}",
                format!("{batch}x{length}"),
                100.0 * more,
                100.0 * sure
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

/// The symbolic artifact against the fixed one on one shape.
struct Compared {
    /// Medians of all turns, in milliseconds.
    symbolic: f64,
    fixed: f64,
    /// The median over the pairs of turns of the share by which the symbolic artifact takes longer.
    more: f64,
    /// Half the width of the interval that holds `more` with 95 % probability.
    sure: f64,
}

/// Pairs of turns, until their median ratio is known to [`SURE`] or there are as many as the options allow.
fn compare(kiln: &Path, artifacts: [&Artifact; 2], inputs: &Path, options: &Options) -> Result<Compared> {
    let mut times: [Vec<f64>; 2] = Default::default();
    let mut ratios = Vec::new();
    loop {
        let [symbolic, fixed] = pair(kiln, artifacts, inputs, ratios.len(), options)?;
        times[0].push(symbolic);
        times[1].push(fixed);
        ratios.push(symbolic / fixed);
        let sure = half_width(&ratios);
        if ratios.len() >= options.rounds && (sure <= SURE || ratios.len() >= options.most) {
            let [symbolic, fixed] = times.map(median);
            return Ok(Compared { symbolic, fixed, more: median(ratios) - 1.0, sure });
        }
    }
}

/// Half the width of the interval between order statistics that holds the median of what `values` are drawn from with
/// 95 % probability: the ranks below it are binomial, so it takes about a root of their number to each side.
fn half_width(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let count = sorted.len() as f64;
    let low = (0.5 * count - 0.98 * count.sqrt()).floor().max(0.0) as usize;
    let high = sorted.len() - 1 - low;
    0.5 * (sorted[high] - sorted[low])
}

/// The medians of one turn of each artifact, in milliseconds, the first in turn by the number of the round.
///
/// Both are written anew before: a model that is read from memory in every run takes up to 30 % longer or less by where
/// the page cache has put its weights, and that is drawn again so.
fn pair(
    kiln: &Path,
    artifacts: [&Artifact; 2],
    inputs: &Path,
    round: usize,
    options: &Options,
) -> Result<[f64; 2]> {
    let mut times = [f64::NAN; 2];
    for i in 0..2 {
        let which = (i + round) % 2;
        let artifact = artifacts[which].rewritten()?;
        thread::sleep(PAUSE);
        times[which] =
            artifact.turn(kiln, inputs, Outputs::Fresh, options.threads, options.seconds)?.median_ms;
    }
    Ok(times)
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

#[cfg(test)]
mod tests {
    use super::half_width;

    #[test]
    fn the_interval_of_a_median_narrows_as_values_come() {
        let values: Vec<f64> = (0..100).map(|i| f64::from(i % 10)).collect();
        assert_eq!(half_width(&values[..10]), 3.5);
        assert_eq!(half_width(&values), 0.5);
    }
}
