//! `cargo xtask torch-sweep`: models of torchvision, timm, transformers and torchaudio as PyTorch saves them (traced,
//! scripted, exported), against PyTorch's own answers.
//!
//! A script writes the files of a model into a folder below `target/torch-sweep`. What agrees is deleted at once; what
//! fails stays, so that it can be tried again without Python.

mod results;
mod script;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::npz::Arrays;
use crate::python::{Purpose, Python};
use crate::workspace::{self, Profile, Workspace};
use results::{Form, Outcome, Results, Verdict};
use script::{Script, Written};

/// The largest difference, relative to the largest magnitude of an output.
const CLOSE: f64 = 1e-3;

/// The share of the forms that must agree.
const BAR: f64 = 0.95;

/// How long a model may take to load, compile and run.
const PATIENCE: Duration = Duration::from_secs(240);

/// Largest file that is kept because it fails.
const KEPT: u64 = 600 << 20;

/// What the script said of a model, beside its files.
const WRITTEN: &str = "written.json";

#[derive(clap::Args)]
pub struct Options {
    /// Only these families (classification, segmentation, detection, timm, transformers, torchaudio) or models
    /// (FAMILY/NAME). May be repeated.
    #[arg(long)]
    family: Vec<String>,
    /// Only these forms. May be repeated.
    #[arg(long, value_enum)]
    form: Vec<Form>,
    /// Write the results as JSON, after each model.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Keep what the JSON file says of forms that agree and of those that PyTorch cannot make; try only the others.
    #[arg(long, requires = "json")]
    resume: bool,
    /// The `kiln` command, instead of one that is built.
    #[arg(long)]
    kiln: Option<PathBuf>,
    /// A Python interpreter with the packages, instead of an environment made below `target/`.
    #[arg(long)]
    python: Option<PathBuf>,
}

/// Prints a line for each form that fails, or that PyTorch does not make; fails where too many do.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let scratch = workspace.target.join("torch-sweep");
    fs::create_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
    let python = Python::of(workspace, Purpose::Sweep, options.python.as_deref())?;
    let kiln = match &options.kiln {
        Some(path) => path.clone(),
        None => workspace.build("kiln-cli", "kiln", Profile::Release)?,
    };
    let names =
        workspace::output(python.script(workspace, "torch_sweep.py").arg("list").args(&options.family))?;
    let forms: Vec<Form> =
        Form::ALL.into_iter().filter(|f| options.form.is_empty() || options.form.contains(f)).collect();
    let before = match &options.json {
        Some(path) if options.resume && path.exists() => Results::read(path)?,
        _ => Results::default(),
    };
    let mut sweep = Sweep { workspace, python, kiln, scratch, script: None };
    let mut results = Results::default();
    for name in names.lines() {
        let mut open = forms.clone();
        if let Some(known) = before.of(name) {
            let settled =
                known.iter().filter(|(form, o)| forms.contains(form) && o.verdict != Verdict::Fails);
            for (form, outcome) in settled {
                results.add(name, *form, outcome.clone());
                open.retain(|f| f != form);
            }
        }
        for (form, outcome) in sweep.model(name, &open)? {
            if let Some(reason) = &outcome.reason {
                println!("{name} {form}: {}{reason}", outcome.verdict.prefix());
            }
            results.add(name, form, outcome);
        }
        if let Some(path) = &options.json {
            // What an interrupted sweep has not reached again is still known.
            results.write(path, &before)?;
        }
    }
    print!("{}", results.table());
    let (agree, of) = results.count();
    println!("torch sweep: {agree} of {of}");
    if of == 0 || (agree as f64) < BAR * of as f64 {
        bail!("fewer than {:.0} % agree", 100.0 * BAR);
    }
    Ok(())
}

struct Sweep<'w> {
    workspace: &'w Workspace,
    python: Python,
    kiln: PathBuf,
    scratch: PathBuf,
    script: Option<Script>,
}

impl Sweep<'_> {
    /// The outcomes of a model's forms.
    fn model(&mut self, name: &str, forms: &[Form]) -> Result<Vec<(Form, Outcome)>> {
        if forms.is_empty() {
            return Ok(vec![]);
        }
        let folder = self.scratch.join(name);
        let written = match kept(&folder, forms) {
            Some(written) => written,
            None => self.write(name, forms, &folder)?,
        };
        let mut outcomes = vec![];
        for &form in forms {
            let refusal = match (&written.error, written.forms.get(&form)) {
                (Some(error), _) => Some(format!("PyTorch does not run the model: {error}")),
                (None, Some(Some(error))) => Some(error.clone()),
                (None, None) => Some("it was not written".to_owned()),
                (None, Some(None)) => None,
            };
            let outcome = match refusal {
                Some(reason) => Outcome::refused(reason),
                None => self.outcome(&folder, form, &written),
            };
            let file = folder.join(form.file());
            let large = fs::metadata(&file).is_ok_and(|found| found.len() > KEPT);
            if outcome.verdict != Verdict::Fails || large {
                // It may not be there at all.
                _ = fs::remove_file(&file);
            }
            outcomes.push((form, outcome));
        }
        if outcomes.iter().all(|(_, outcome)| outcome.verdict != Verdict::Fails) {
            fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
        }
        Ok(outcomes)
    }

    /// Lets the script write a model, and notes what it says.
    fn write(&mut self, name: &str, forms: &[Form], folder: &Path) -> Result<Written> {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let words: Vec<String> = forms.iter().map(Form::to_string).collect();
        let order = format!("{name} {}", words.join(" "));
        loop {
            let mut script = match self.script.take() {
                Some(script) => script,
                None => Script::start(self.workspace, &self.python, &self.scratch)?,
            };
            match script.ask(&order)? {
                Ok(written) => {
                    self.script = Some(script);
                    let path = folder.join(WRITTEN);
                    fs::write(&path, serde_json::to_vec(&written)?)
                        .with_context(|| path.display().to_string())?;
                    return Ok(written);
                }
                // It ends by itself between models when it holds much memory.
                Err(_) if script.answered() > 0 => {}
                Err(reason) => return Ok(Written::failed(reason)),
            }
        }
    }

    fn outcome(&self, folder: &Path, form: Form, written: &Written) -> Outcome {
        let start = Instant::now();
        let (verdict, difference, reason) = match self.compare(folder, form, written) {
            Ok(difference) if difference <= CLOSE => (Verdict::Agrees, Some(difference), None),
            Ok(difference) => {
                (Verdict::Fails, Some(difference), Some(format!("differs by {difference:.2e}")))
            }
            Err(error) => (Verdict::Fails, None, Some(format!("{error:#}"))),
        };
        Outcome { verdict, difference, reason, seconds: start.elapsed().as_secs_f64() }
    }

    /// The difference of Kiln's outputs from PyTorch's.
    fn compare(&self, folder: &Path, form: Form, written: &Written) -> Result<f64> {
        let outputs = folder.join("kiln.npz");
        let mut command = std::process::Command::new(&self.kiln);
        command.arg("run").arg(folder.join(form.file())).args(["--threads", "1"]);
        for i in 0..written.shapes.len() {
            command.arg("--inputs").arg(folder.join(format!("in_{i}.npy")));
        }
        command.arg("--outputs").arg(&outputs);
        if form == Form::Scripted {
            // Types of the source have neither shapes nor dtypes.
            for shape in &written.shapes {
                command.args(["--shape", shape]);
            }
        }
        workspace::output_within(&mut command, PATIENCE)?;
        let (got, expected) = (Arrays::numbered(&outputs)?, Arrays::numbered(&folder.join("out.npz"))?);
        if got.count() != expected.count() {
            bail!("it has {} outputs, not {}", got.count(), expected.count());
        }
        got.difference(&expected)
    }
}

/// What the script once said of a model, if the files of the forms are still there.
fn kept(folder: &Path, forms: &[Form]) -> Option<Written> {
    let written: Written = serde_json::from_slice(&fs::read(folder.join(WRITTEN)).ok()?).ok()?;
    let there = forms.iter().all(|form| folder.join(form.file()).is_file());
    there.then_some(written)
}
