//! A case's model on the compiled path: load, optimize, compile, run.

use std::path::{Path, PathBuf};

use kiln::ir::{DType, Tensor, Type};
use kiln::loaders::LoadError;
use kiln::loaders::onnx::read_value_pb;
use kiln::runtime::program::{Entry, Port};
use kiln::runtime::{Datum, Session, SessionOptions};
use kiln::{Error, Options};

use crate::value::Value;

/// Why a case has no outputs.
pub struct Failure {
    /// `unsupported` or `error`; `mismatch` is the comparison's.
    pub status: &'static str,
    /// Words that cases with the same cause share.
    pub reason: String,
    /// The message in full.
    pub detail: String,
}

impl Failure {
    fn error(stage: &str, error: impl std::fmt::Display) -> Self {
        Failure { status: "error", reason: stage.to_owned(), detail: error.to_string() }
    }
}

/// A compiled model.
pub struct Program {
    session: Session,
    entry: Entry,
}

impl Program {
    /// Loads and compiles the file `model`.
    pub fn compile(model: &Path) -> Result<Self, Failure> {
        let compiled = kiln::compile_file(model, &Options::default()).map_err(failure)?;
        let options = SessionOptions { threads: Some(1), ..Default::default() };
        let session = compiled.into_session(options).map_err(failure)?;
        let entry = session.entries().first().cloned();
        let entry = entry.ok_or_else(|| Failure::error("no entry point", model.display()))?;
        Ok(Program { session, entry })
    }

    /// The expected outputs in `files`, in the order of the graph's outputs.
    pub fn read_outputs(&self, files: &[PathBuf]) -> Result<Vec<Value>, Failure> {
        let values = read(files, &self.entry.outputs)?;
        Ok(values.iter().map(value).collect())
    }

    /// Runs on the inputs in `files`, in the order of the graph's inputs.
    pub fn run_on(&self, files: &[PathBuf]) -> Result<Vec<Value>, Failure> {
        let inputs = read(files, &self.entry.inputs)?;
        self.run(inputs)
    }

    /// Runs with each input of `n` elements `0/n, 1/n, ...`.
    pub fn run_on_ramps(&self) -> Result<Vec<Value>, Failure> {
        let inputs: Result<Vec<Datum>, Failure> = self.entry.inputs.iter().map(ramp).collect();
        self.run(inputs?)
    }

    fn run(&self, inputs: Vec<Datum>) -> Result<Vec<Value>, Failure> {
        let outputs = self.session.run(&self.entry.name, &inputs).map_err(|e| Failure::error("run", e))?;
        Ok(outputs.iter().map(value).collect())
    }
}

/// Groups failures by what is missing: each unsupported operator once.
fn failure(error: Error) -> Failure {
    let detail = error.to_string();
    let (status, reason) = match &error {
        Error::Load(LoadError::Graph { issues, .. }) => {
            let mut ops: Vec<String> =
                issues.iter().map(|i| format!("{} {}", i.domain, i.origin.op)).collect();
            ops.sort();
            ops.dedup();
            ("unsupported", format!("load: {}", ops.join(", ")))
        }
        Error::Load(_) => ("error", "load".to_owned()),
        Error::Pass(_) => ("error", "passes".to_owned()),
        Error::Compile(_) => ("error", "code generation".to_owned()),
        Error::Artifact(_) => ("error", "program".to_owned()),
        Error::Run(_) | Error::Io { .. } | Error::NeedsModel { .. } | Error::Threads(_) => {
            ("error", "other".to_owned())
        }
    };
    Failure { status, reason, detail }
}

fn read(files: &[PathBuf], ports: &[Port]) -> Result<Vec<Datum>, Failure> {
    let pairs = files.iter().zip(ports);
    pairs
        .map(|(file, port)| read_value_pb(file, &port.ty).map_err(|e| Failure::error("test data", e)))
        .collect()
}

fn ramp(port: &Port) -> Result<Datum, Failure> {
    let dims: Option<Vec<usize>> = match &port.ty {
        Type::Tensor(t) if t.dtype == DType::F32 => {
            t.shape.as_fixed().and_then(|dims| dims.into_iter().map(|d| usize::try_from(d).ok()).collect())
        }
        _ => None,
    };
    let dims = dims.ok_or_else(|| Failure::error("ramp", format!("input `{}`: {}", port.name, port.ty)))?;
    let n: usize = dims.iter().product();
    let values: Vec<f32> = (0..n).map(|i| (i as f64 / n as f64) as f32).collect();
    Tensor::from_slice(&dims, &values).map(Datum::Tensor).map_err(|e| Failure::error("ramp", e))
}

fn value(datum: &Datum) -> Value {
    match datum {
        Datum::Tensor(t) => Value::from(t),
        Datum::Sequence { items, .. } => Value::Sequence(items.iter().map(value).collect()),
        Datum::Optional { value: Some(inner), .. } => value(inner),
        Datum::Optional { value: None, .. } => Value::Nothing,
    }
}
