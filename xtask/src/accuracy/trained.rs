//! What 4 and 8 bits and sparse weights cost trained models, beside what they cost with the quantizers of onnxruntime and
//! OpenVINO: readers of digits, embeddings of sentences, a voice detector.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Options;
use crate::python::{Purpose, Python};
use crate::workspace::{self, Profile, Workspace};

/// A way to compile a model: its name, arguments of `kiln compile`, whether it calibrates, and what it may cost.
struct Way {
    name: &'static str,
    arguments: &'static [&'static str],
    calibrates: bool,
    cost: Cost,
}

/// Which bars hold for a way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cost {
    /// It is what the others are compared with.
    None,
    /// Those of 8 bits; the better of such ways must be no worse than the best peer.
    Integers,
    /// Those of half of the weights.
    Sparse,
    /// Those of weights alone in 4 bits.
    Weights,
}

/// Each model is compiled in these ways.
const WAYS: [Way; 6] = [
    Way { name: "float", arguments: &[], calibrates: false, cost: Cost::None },
    Way { name: "int8", arguments: &["--quantize", "int8"], calibrates: true, cost: Cost::Integers },
    Way {
        name: "int8-dynamic",
        arguments: &["--quantize", "int8-dynamic"],
        calibrates: false,
        cost: Cost::Integers,
    },
    Way {
        name: "int4",
        arguments: &["--quantize", "int4", "--asymmetric", "--rounding", "hqq"],
        calibrates: true,
        cost: Cost::Weights,
    },
    Way {
        name: "wanda",
        arguments: &["--sparsify", "wanda", "--density", "0.5", "--pattern", "unstructured"],
        calibrates: true,
        cost: Cost::Sparse,
    },
    Way {
        name: "wanda-2:4",
        arguments: &["--sparsify", "wanda", "--pattern", "2:4"],
        calibrates: true,
        cost: Cost::Sparse,
    },
];

/// The quantizers that are compared with.
const PEERS: [&str; 2] = ["ort", "openvino"];

/// A figure and how far it may be below the float model's.
struct Figure {
    name: &'static str,
    integers: f64,
    sparse: f64,
    weights: f64,
}

/// A trained model: the task of `trained.py` that writes it, and the figures that it prints for each way.
struct Subject {
    name: &'static str,
    task: &'static str,
    figures: &'static [Figure],
}

/// Any figure will do.
const NO_BAR: f64 = f64::INFINITY;

const LABELS: &[Figure] = &[Figure { name: "labels met", integers: 0.003, sparse: 0.01, weights: 0.01 }];

const SUBJECTS: [Subject; 4] = [
    Subject { name: "digits", task: "digits", figures: LABELS },
    Subject { name: "digits_deep", task: "digits", figures: LABELS },
    Subject {
        name: "minilm",
        task: "sentences",
        figures: &[
            Figure { name: "cosine", integers: 0.005, sparse: 0.03, weights: 0.02 },
            Figure { name: "same nearest", integers: 0.02, sparse: NO_BAR, weights: NO_BAR },
        ],
    },
    Subject {
        name: "silero_vad",
        task: "voice",
        figures: &[Figure { name: "same decisions", integers: 0.01, sparse: 0.01, weights: 0.01 }],
    },
];

/// Prints a line for each model and way; fails where a bar does not hold.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let programs = Programs {
        kiln: workspace.build("kiln-cli", "kiln", Profile::Release)?,
        silero: workspace.build("kiln-tests", "silero", Profile::Release)?,
        writer: Python::of(workspace, Purpose::HuggingFace, options.python.as_deref())?,
        peers: Python::of(workspace, Purpose::Int8, options.python.as_deref())?,
    };
    let mut missed = vec![];
    let (mut rows, mut absent) = (0, 0);
    for subject in &SUBJECTS {
        if !options.models.is_empty() && !options.models.iter().any(|name| name == subject.name) {
            continue;
        }
        let folder = workspace.target.join("accuracy").join("trained").join(subject.name);
        let found = measured(workspace, &programs, subject, &folder)?;
        rows += found.len();
        absent += PEERS.iter().filter(|peer| !found.contains_key(**peer)).count();
        print(subject, &found);
        missed.extend(failures(subject, &found)?);
    }
    if rows == 0 {
        let names: Vec<&str> = SUBJECTS.iter().map(|subject| subject.name).collect();
        bail!("no such model; there are {}", names.join(", "));
    }
    missed.iter().for_each(|line| println!("{line}"));
    println!(
        "accuracy of trained models: {rows} rows, {} miss a bar, {absent} of peers are absent",
        missed.len()
    );
    if missed.is_empty() { Ok(()) } else { bail!("{} bars do not hold, see above", missed.len()) }
}

struct Programs {
    kiln: PathBuf,
    silero: PathBuf,
    /// What writes models and data.
    writer: Python,
    /// What has the quantizers.
    peers: Python,
}

/// Compiles and runs a model in all ways; gives the figures of each.
fn measured(
    workspace: &Workspace,
    programs: &Programs,
    subject: &Subject,
    folder: &Path,
) -> Result<BTreeMap<String, Vec<f64>>> {
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let script = |python: &Python, task: &str| {
        let mut command = python.script(workspace, "trained.py");
        command.arg(task).arg(folder);
        command
    };
    let writer = if subject.task == "sentences" { &programs.writer } else { &programs.peers };
    let mut write = script(writer, subject.task);
    let models = workspace.root.join("models/digits");
    match subject.task {
        "digits" => {
            write.arg(models.join(format!("{}.onnx", subject.name)));
            write.args([models.join("digits_test.npz"), models.join("digits_calibration.npz")]);
        }
        "voice" => {
            let fixtures = workspace.fixtures(None)?.join("silero_vad");
            write.args([fixtures.join("silero_vad_16k_op15.onnx"), fixtures.join("speech_16k.wav")]);
        }
        _ => (),
    }
    workspace::output(&mut write)?;
    for way in &WAYS {
        answer(programs, subject, way, folder)?;
    }
    for peer in PEERS {
        // A peer that cannot quantize a model is no reason to stop.
        if let Err(error) = workspace::output(script(&programs.peers, "peer").arg(peer)) {
            println!("{}: {peer}: {error:#}", subject.name);
        }
    }
    let text = workspace::output(&mut script(&programs.peers, "judge"))?;
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let way = words.next().context("an empty line of figures")?;
        let figures: Vec<f64> = words.map(str::parse).collect::<Result<_, _>>()?;
        if figures.len() != subject.figures.len() {
            bail!("{} figures were expected: {line}", subject.figures.len());
        }
        found.insert(way.to_owned(), figures);
    }
    Ok(found)
}

/// Compiles a model in one way and runs it on all inputs.
fn answer(programs: &Programs, subject: &Subject, way: &Way, folder: &Path) -> Result<()> {
    let (model, artifact) = (folder.join("model.onnx"), folder.join(format!("{}.kiln", way.name)));
    let mut command = Command::new(&programs.kiln);
    command.arg("compile").arg(model).arg("-o").arg(&artifact).args(way.arguments);
    if way.calibrates {
        command.arg("--calibrate").arg(folder.join("calibration"));
    }
    workspace::output(&mut command)?;
    let answers = folder.join("answers").join(way.name);
    fs::create_dir_all(&answers).with_context(|| answers.display().to_string())?;
    if subject.task == "voice" {
        let mut detect = Command::new(&programs.silero);
        detect.arg(&artifact).arg(folder.join("recording.wav")).arg(answers.join("000.npz"));
        return workspace::output(&mut detect).map(drop);
    }
    let inputs = folder.join("inputs");
    for file in fs::read_dir(&inputs).with_context(|| inputs.display().to_string())? {
        let file = file.with_context(|| inputs.display().to_string())?;
        let mut command = Command::new(&programs.kiln);
        command.arg("run").arg(&artifact).arg("--inputs").arg(file.path());
        workspace::output(command.arg("--outputs").arg(answers.join(file.file_name())))?;
    }
    Ok(())
}

fn print(subject: &Subject, found: &BTreeMap<String, Vec<f64>>) {
    let names: Vec<String> = subject.figures.iter().map(|f| format!("{:>14}", f.name)).collect();
    println!("{:20} {}", subject.name, names.join(" "));
    for (way, figures) in found {
        let figures: Vec<String> = figures.iter().map(|f| format!("{f:>14.4}")).collect();
        println!("  {way:18} {}", figures.join(" "));
    }
}

/// The bars that do not hold, a line each.
fn failures(subject: &Subject, found: &BTreeMap<String, Vec<f64>>) -> Result<Vec<String>> {
    let of = |way: &str| found.get(way).with_context(|| format!("{}: no answers of {way}", subject.name));
    let mut lines = vec![];
    for (i, figure) in subject.figures.iter().enumerate() {
        let value = |figures: &Vec<f64>| figures.get(i).copied().context("a figure is missing");
        let float = value(of("float")?)?;
        let mut best = f64::NEG_INFINITY;
        for way in &WAYS {
            let at = value(of(way.name)?)?;
            let least = match way.cost {
                Cost::None => continue,
                Cost::Integers => float - figure.integers,
                Cost::Sparse => float - figure.sparse,
                Cost::Weights => float - figure.weights,
            };
            if at.is_nan() || at < least {
                lines.push(format!(
                    "{}: {} of {} is {at:.4}, less than {least:.4}",
                    subject.name, figure.name, way.name
                ));
            }
            if way.cost == Cost::Integers {
                best = best.max(at);
            }
        }
        for peer in PEERS {
            if let Some(at) = found.get(peer).map(value).transpose()?.filter(|at| *at > best) {
                lines.push(format!(
                    "{}: {} of {peer} is {at:.4}, more than {best:.4}",
                    subject.name, figure.name
                ));
            }
        }
    }
    Ok(lines)
}
