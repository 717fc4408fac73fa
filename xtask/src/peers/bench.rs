//! Turns of artifacts, by `kiln bench`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::PAUSE;
use super::figures::{Figures, Turn};
use crate::npz::Arrays;
use crate::workspace;

/// The figures of `kiln bench --json` that are compared.
#[derive(Deserialize)]
pub struct KilnTurn {
    #[serde(flatten)]
    pub turn: Turn,
    pub load_ms: f64,
    pub first_ms: f64,
}

/// Where the outputs of a bench go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Outputs {
    /// To memory of each run.
    Fresh,
    /// To the same memory in all runs.
    Bound,
}

/// A turn of `kiln bench`.
pub fn kiln_turn(
    kiln: &Path,
    artifact: &Path,
    inputs: &Path,
    outputs: Outputs,
    threads: usize,
    seconds: f64,
) -> Result<KilnTurn> {
    let mut command = Command::new(kiln);
    command.arg("bench").arg(artifact).arg("--json").arg("--inputs").arg(inputs);
    command.args(["--threads", &threads.to_string(), "--seconds", &seconds.to_string()]);
    if outputs == Outputs::Bound {
        command.arg("--bound");
    }
    let printed = workspace::output(&mut command)?;
    serde_json::from_str(&printed).with_context(|| format!("not the figures of a bench: {printed}"))
}

/// A compiled model.
pub struct Artifact {
    pub path: PathBuf,
}

impl Artifact {
    /// Compiles `model` with inputs of these shapes, each `NAME=DIMS`.
    pub fn compile(kiln: &Path, model: &Path, path: &Path, shapes: &[String]) -> Result<Artifact> {
        let mut command = Command::new(kiln);
        command.arg("compile").arg(model).arg("-o").arg(path);
        shapes.iter().for_each(|shape| _ = command.args(["--shape", shape]));
        workspace::output(&mut command)?;
        Ok(Artifact { path: path.to_path_buf() })
    }

    /// The same artifact in a new file beside it, which takes the place of the last one made so.
    pub fn rewritten(&self) -> Result<Artifact> {
        let path = self.path.with_extension("copy.kiln");
        let copy = || {
            let bytes = fs::read(&self.path)?;
            _ = fs::remove_file(&path);
            fs::write(&path, bytes)
        };
        copy().with_context(|| path.display().to_string())?;
        Ok(Artifact { path })
    }

    /// The outputs for these inputs, which go to the file `outputs` on the way.
    pub fn answer(&self, kiln: &Path, inputs: &Path, outputs: &Path) -> Result<Arrays> {
        let mut command = Command::new(kiln);
        command.arg("run").arg(&self.path).arg("--inputs").arg(inputs).arg("--outputs").arg(outputs);
        workspace::output(&mut command)?;
        Arrays::read(outputs)
    }

    /// A turn.
    pub fn turn(
        &self,
        kiln: &Path,
        inputs: &Path,
        outputs: Outputs,
        threads: usize,
        seconds: f64,
    ) -> Result<Turn> {
        Ok(kiln_turn(kiln, &self.path, inputs, outputs, threads, seconds)?.turn)
    }
}

/// One after the other, `rounds` times, each first in its turn.
pub fn turns(rounds: usize, runs: &mut [&mut dyn FnMut() -> Result<Turn>]) -> Result<Vec<Figures>> {
    let mut figures = vec![Figures::default(); runs.len()];
    for round in 0..rounds.max(1) {
        for i in 0..runs.len() {
            let at = (i + round) % runs.len();
            thread::sleep(PAUSE);
            figures[at].turns.push(runs[at]()?);
        }
    }
    Ok(figures)
}
