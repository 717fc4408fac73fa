//! The models that the bars are tried on, their inputs and their references.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::Options;
use crate::npz::Arrays;
use crate::python::{Purpose, Python};
use crate::workspace::{self, Workspace};
use crate::zoo;

/// Fixtures with inputs and outputs in one `io.npz`, and which of its arrays are the inputs.
const WITH_IO: &[(&str, &[&str])] = &[
    ("averagepool_count_include_pad", &["x"]),
    ("deconv_group", &["input"]),
    ("lgbm_classifier_tensor", &["input"]),
    ("xgboost_regressor_tree", &["input"]),
];

/// Fixtures whose reference is onnxruntime's answer to random inputs.
const WITHOUT_IO: &[(&str, &str)] =
    &[("mnist", "onnx/mnist.onnx"), ("mnist_external", "onnx/mnist_external/mnist.onnx")];

/// The voice detectors, all with the same reference.
const VOICE: &[&str] = &["silero_vad", "silero_vad_16k_op15"];

/// A model, what to ask it and what it must answer.
pub struct Subject {
    pub name: String,
    pub model: PathBuf,
    pub kind: Kind,
    pub expected: Arrays,
}

impl Subject {
    /// The shapes of the inputs, each `NAME=DIMS`.
    pub fn shapes(&self) -> Result<Vec<String>> {
        match &self.kind {
            Kind::Once { inputs } => Arrays::read(inputs)?.shapes(),
            // What `silero` gives: a chunk with its context, the state, the rate.
            Kind::Voice { .. } => Ok(["input=1,576", "state=2,1,128", "sr="].map(str::to_owned).to_vec()),
        }
    }
}

/// How a model is asked.
pub enum Kind {
    /// One call.
    Once { inputs: PathBuf },
    /// All chunks of a recording, the state carried from each to the next.
    Voice { recording: PathBuf },
}

/// The subjects that `options` choose; inputs that are made here go to `scratch`.
pub fn all(
    workspace: &Workspace,
    options: &Options,
    fixtures: &Path,
    scratch: &Path,
) -> Result<Vec<Subject>> {
    let chosen = |name: &str| options.filter.as_ref().is_none_or(|text| name.contains(text.as_str()));
    let mut subjects = Vec::new();
    if let Some(zoo) = &options.zoo {
        let names: Vec<String> =
            zoo::MODELS.iter().filter(|name| chosen(name)).map(|&name| name.into()).collect();
        // An empty list would mean all.
        let models = if names.is_empty() { Vec::new() } else { zoo::find(zoo, &names)? };
        for zoo::ZooModel { name, model, inputs, outputs, exported: _ } in models {
            subjects.push(Subject {
                name,
                model,
                kind: Kind::Once { inputs },
                expected: Arrays::read(&outputs)?,
            });
        }
    }
    for name in VOICE.iter().filter(|name| chosen(name)) {
        let folder = fixtures.join("silero_vad");
        subjects.push(Subject {
            name: (*name).to_owned(),
            model: folder.join(format!("{name}.onnx")),
            kind: Kind::Voice { recording: folder.join("speech_16k.wav") },
            expected: Arrays::read(&folder.join("golden_16k.npz"))?,
        });
    }
    for (name, inputs) in WITH_IO.iter().filter(|(name, _)| chosen(name)) {
        let folder = fixtures.join("onnx").join(name);
        let arrays = Arrays::read(&folder.join("io.npz"))?;
        let path = scratch.join(format!("{name}.in.npz"));
        arrays.write(inputs, &path)?;
        subjects.push(Subject {
            name: (*name).to_owned(),
            model: folder.join("model.onnx"),
            kind: Kind::Once { inputs: path },
            expected: arrays.without(inputs),
        });
    }
    for (name, model) in WITHOUT_IO.iter().filter(|(name, _)| chosen(name)) {
        subjects.push(asked_of_peer(workspace, options, name, &fixtures.join(model), scratch)?);
    }
    Ok(subjects)
}

fn asked_of_peer(
    workspace: &Workspace,
    options: &Options,
    name: &str,
    model: &Path,
    scratch: &Path,
) -> Result<Subject> {
    let python = Python::of(workspace, Purpose::Ort, options.python.as_deref())?;
    let inputs = scratch.join(format!("{name}.in.npz"));
    let outputs = scratch.join(format!("{name}.out.npz"));
    workspace::output(python.script(workspace, "ort.py").arg("random").arg(model).arg(&inputs))?;
    workspace::output(
        python.script(workspace, "ort.py").arg("answer").arg(model).arg(&inputs).arg(&outputs),
    )?;
    Ok(Subject {
        name: name.to_owned(),
        model: model.to_path_buf(),
        kind: Kind::Once { inputs },
        expected: Arrays::read(&outputs)?,
    })
}
