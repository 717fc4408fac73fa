//! `cargo xtask torch-sweep`: models of torchvision, timm, transformers and torchaudio as PyTorch saves them (traced,
//! scripted, exported), against PyTorch's own answers.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::npz::Arrays;
use crate::python::{Purpose, Python};
use crate::workspace::{self, Profile, Workspace};

/// The forms, and the files that the script writes of each.
const FORMS: [(Form, &str); 3] =
    [(Form::Traced, "traced.pt"), (Form::Scripted, "scripted.pt"), (Form::Exported, "exported.pt2")];

/// The largest difference, relative to the largest magnitude of an output.
const CLOSE: f64 = 1e-3;

/// The share of the forms that must agree.
const BAR: f64 = 0.95;

/// How long a model may take to load, compile and run.
const PATIENCE: Duration = Duration::from_secs(300);

#[derive(clap::Args)]
pub struct Options {
    /// Only these families (classification, segmentation, detection, timm, transformers, torchaudio) or models
    /// (FAMILY/NAME). May be repeated.
    #[arg(long)]
    family: Vec<String>,
    /// Only these forms. May be repeated.
    #[arg(long, value_enum)]
    form: Vec<Form>,
    /// Write the results as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// A Python interpreter with the packages, instead of an environment made below `target/`.
    #[arg(long)]
    python: Option<PathBuf>,
}

/// How PyTorch saved a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Form {
    Traced,
    Scripted,
    Exported,
}

/// What the script says of a model.
#[derive(Deserialize)]
struct Written {
    name: String,
    /// PyTorch's own error for each form that it cannot make.
    forms: std::collections::BTreeMap<Form, Option<String>>,
    error: Option<String>,
}

/// The result for one form of one model.
#[derive(Serialize)]
struct Outcome {
    name: String,
    form: Form,
    difference: Option<f64>,
    reason: Option<String>,
}

/// Prints a line for each form that fails; fails where too many do.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let scratch = workspace.target.join("torch-sweep");
    fs::create_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
    let python = Python::of(workspace, Purpose::Sweep, options.python.as_deref())?;
    let kiln = workspace.build("kiln-cli", "kiln", Profile::Release)?;
    let names =
        workspace::output(python.script(workspace, "torch_sweep.py").arg("list").args(&options.family))?;
    let mut script = Script::start(workspace, &python, &scratch)?;
    let mut outcomes = vec![];
    let (mut models, mut broken, mut refused) = (0, 0, 0);
    for name in names.lines() {
        let written = script.write(name)?;
        models += 1;
        if let Some(error) = written.error {
            println!("{name}: PyTorch does not run it: {error}");
            broken += 1;
            continue;
        }
        for (form, file) in FORMS {
            if !options.form.is_empty() && !options.form.contains(&form) {
                continue;
            }
            match written.forms.get(&form) {
                Some(None) => outcomes.push(outcome(&kiln, &written.name, form, &scratch, file)),
                Some(Some(_)) | None => refused += 1,
            }
        }
        if let Some(path) = &options.json {
            fs::write(path, serde_json::to_string_pretty(&outcomes)?)
                .with_context(|| path.display().to_string())?;
        }
    }
    let passed = outcomes.iter().filter(|o| o.reason.is_none()).count();
    println!(
        "{models} models, {broken} of them broken, {refused} forms that PyTorch itself cannot make are not counted"
    );
    println!("torch sweep: {passed} of {}", outcomes.len());
    if outcomes.is_empty() || (passed as f64) < BAR * outcomes.len() as f64 {
        bail!("fewer than {:.0} % agree", 100.0 * BAR);
    }
    Ok(())
}

fn outcome(kiln: &Path, name: &str, form: Form, scratch: &Path, file: &str) -> Outcome {
    let result = compare(kiln, form, scratch, file);
    let (difference, reason) = match result {
        Ok(difference) if difference <= CLOSE => (Some(difference), None),
        Ok(difference) => (Some(difference), Some(format!("differs by {difference:.2e}"))),
        Err(error) => (None, Some(format!("{error:#}"))),
    };
    if let Some(reason) = &reason {
        println!("{name} {form:?}: {reason}");
    }
    Outcome { name: name.to_owned(), form, difference, reason }
}

/// The difference of Kiln's outputs from PyTorch's.
fn compare(kiln: &Path, form: Form, scratch: &Path, file: &str) -> Result<f64> {
    let (inputs, outputs) = (scratch.join("in.npz"), scratch.join("kiln.npz"));
    let mut command = Command::new(kiln);
    command.arg("run").arg(scratch.join(file)).args(["--threads", "2"]);
    command.arg("--inputs").arg(&inputs).arg("--outputs").arg(&outputs);
    if form != Form::Exported {
        // TorchScript has no shapes.
        for shape in Arrays::read(&inputs)?.shapes()? {
            command.args(["--shape", &shape]);
        }
    }
    workspace::output_within(&mut command, PATIENCE)?;
    let (got, expected) = (Arrays::numbered(&outputs)?, Arrays::numbered(&scratch.join("out.npz"))?);
    if got.count() != expected.count() {
        bail!("it has {} outputs, not {}", got.count(), expected.count());
    }
    got.difference(&expected)
}

/// The script that writes models, one at a time.
struct Script {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Script {
    fn start(workspace: &Workspace, python: &Python, scratch: &Path) -> Result<Script> {
        let mut command = python.script(workspace, "torch_sweep.py");
        command.arg("write").arg(scratch).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().context("starting the script that writes models")?;
        let input = child.stdin.take().context("the script has no standard input")?;
        let output = child.stdout.take().context("the script has no standard output")?;
        Ok(Script { child, input, output: BufReader::new(output) })
    }

    /// Lets it write a model.
    fn write(&mut self, name: &str) -> Result<Written> {
        writeln!(self.input, "{name}")?;
        self.input.flush()?;
        let mut line = String::new();
        loop {
            line.clear();
            if self.output.read_line(&mut line)? == 0 {
                bail!("the script ended while it wrote {name}: {}", self.child.wait()?);
            }
            // Libraries print to standard output, too.
            if let Ok(written) = serde_json::from_str(&line) {
                return Ok(written);
            }
        }
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
