//! Models in 8 bits: each runtime on what its own quantizer makes of the float model, from the same calibration data; or
//! Kiln and onnxruntime on the same file, which onnxruntime's quantizer made.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::ValueEnum;

use super::{Peer, Prepared};
use crate::python::{Purpose, Python};
use crate::workspace::{self, Workspace};
use crate::zoo::ZooModel;

/// Whose quantizer makes the model that Kiln runs.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Source {
    /// Kiln's, calibrated.
    Own,
    /// Kiln's, with scales found at run time.
    Dynamic,
    /// onnxruntime's.
    Ort,
}

/// The models that are timed unless others are named.
pub(super) const MODELS: [&str; 4] = ["resnet50", "mobilenet_v3_large", "bert_base_128", "minilm6_128"];

/// Makes the files of quantized models, each once.
pub(super) struct Quantizer<'a> {
    workspace: &'a Workspace,
    kiln: &'a Path,
    python: Result<Python, String>,
    source: Source,
    scratch: PathBuf,
}

impl<'a> Quantizer<'a> {
    pub(super) fn new(
        workspace: &'a Workspace,
        kiln: &'a Path,
        python: Option<&Path>,
        source: Source,
    ) -> Result<Self> {
        let scratch = workspace.target.join("peers").join("int8");
        fs::create_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
        let python = Python::of(workspace, Purpose::Int8, python);
        let python = python.map_err(|error| format!("cannot be set up: {error:#}"));
        Ok(Self { workspace, kiln, python, source, scratch })
    }

    /// The quantized files of a model.
    pub(super) fn prepare(&self, model: &ZooModel) -> Prepared {
        let folder = self.scratch.join(&model.name);
        let samples = self.samples(model, &folder);
        let of = |peer: Peer| {
            let suffix = if peer == Peer::Ort { "onnx" } else { "xml" };
            let file = self.scratch.join(format!("{}.{suffix}", model.name));
            samples.clone().and_then(|()| self.quantized(peer, model, &folder, file))
        };
        let kiln = samples.clone().and_then(|()| self.artifact(model, &folder, &of));
        Prepared { kiln, peers: [Peer::Ort, Peer::OpenVino].map(|peer| (peer, of(peer))).to_vec() }
    }

    fn samples(&self, model: &ZooModel, folder: &Path) -> Result<(), String> {
        if folder.is_dir() {
            return Ok(());
        }
        self.script("samples", &[&model.inputs, folder])
    }

    fn quantized(
        &self,
        peer: Peer,
        model: &ZooModel,
        samples: &Path,
        file: PathBuf,
    ) -> Result<PathBuf, String> {
        if !file.is_file() {
            self.script(peer.name(), &[&model.model, &file, samples])?;
        }
        Ok(file)
    }

    /// Kiln's artifact, made anew: the compiler may have changed.
    fn artifact(
        &self,
        model: &ZooModel,
        samples: &Path,
        of: &dyn Fn(Peer) -> Result<PathBuf, String>,
    ) -> Result<PathBuf, String> {
        let artifact = self.scratch.join(format!("{}.kiln", model.name));
        let mut command = Command::new(self.kiln);
        command.arg("compile");
        match self.source {
            Source::Own => command.arg(&model.model).args(["--quantize", "int8", "--calibrate"]).arg(samples),
            Source::Dynamic => command.arg(&model.model).args(["--quantize", "int8-dynamic"]),
            Source::Ort => command.arg(of(Peer::Ort)?),
        };
        command.arg("-o").arg(&artifact);
        workspace::output(&mut command).map(|_| artifact).map_err(|error| format!("{error:#}"))
    }

    fn script(&self, task: &str, paths: &[&Path]) -> Result<(), String> {
        let python = self.python.as_ref().map_err(Clone::clone)?;
        let mut command = python.script(self.workspace, "int8.py");
        command.arg(task).args(paths);
        workspace::output(&mut command).map(|_| ()).map_err(|error| format!("{error:#}"))
    }
}
