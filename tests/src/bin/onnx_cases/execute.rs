//! A case's model on the compiled path: load, optimize, compile, run.

use std::path::{Path, PathBuf};

use kiln::ir::{DType, Tensor, Type};
use kiln::loaders::LoadError;
use kiln::loaders::onnx::read_value_pb;
use kiln::runtime::program::{Action, Entry, Port, Step};
use kiln::runtime::{Datum, Session, SessionOptions};
use kiln::{Error, Options};

use crate::value::{Mismatch, Value};

/// Why a case has no outputs, or others than expected.
pub struct Failure {
    /// `unsupported`, `error` or `mismatch`.
    pub status: &'static str,
    /// Words that cases with the same cause share.
    pub reason: String,
    /// The message in full.
    pub detail: String,
}

impl Failure {
    pub fn error(stage: &str, error: impl std::fmt::Display) -> Self {
        Failure { status: "error", reason: stage.to_owned(), detail: error.to_string() }
    }

    pub fn mismatch(mismatch: Mismatch) -> Self {
        Failure { status: "mismatch", reason: mismatch.what.to_owned(), detail: mismatch.place }
    }

    /// Groups failures by what is missing: each unsupported operator once.
    pub fn of(error: Error) -> Self {
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
            Error::Run(_)
            | Error::Io { .. }
            | Error::NeedsModel { .. }
            | Error::Threads(_)
            | Error::Quantize(_)
            | Error::Quantization { .. }
            | Error::Sparsify { .. }
            | Error::Calibration(_) => ("error", "other".to_owned()),
        };
        Failure { status, reason, detail }
    }
}

/// A compiled model.
pub struct Program {
    session: Session,
    /// A session on one thread, where the other has several.
    single: Option<Session>,
    entry: Entry,
}

impl Program {
    /// Compiles the model, or reads the artifact, in `file`.
    pub fn open(file: &Path, options: &Options, threads: usize) -> Result<Self, Failure> {
        let open = |threads: usize| {
            let session = SessionOptions { threads: Some(threads), ..Default::default() };
            kiln::open_session(file, options, session).map_err(Failure::of)
        };
        let session = open(threads)?;
        let single = if threads > 1 { Some(open(1)?) } else { None };
        let entry = session.entries().first().cloned();
        let entry = entry.ok_or_else(|| Failure::error("no entry point", file.display()))?;
        Ok(Program { session, single, entry })
    }

    /// The operators of the steps that the reference evaluator runs.
    pub fn evaluator_steps(&self) -> Vec<String> {
        let functions = &self.session.executable().program().functions;
        let steps = functions.iter().flat_map(|f| &f.steps);
        let graph = |step: &Step| match &step.action {
            // Graphs of host steps are named by a number and the operator.
            Action::Host { graph, .. } => {
                Some(graph.split_once('_').map_or(graph.as_str(), |n| n.1).to_owned())
            }
            _ => None,
        };
        steps.filter_map(graph).collect()
    }

    /// The expected outputs in `files`, in the order of the graph's outputs.
    pub fn read_outputs(&self, files: &[PathBuf]) -> Result<Vec<Value>, Failure> {
        let values = read(files, &self.entry.outputs)?;
        Ok(values.iter().map(value).collect())
    }

    /// The inputs in `files`, in the order of the graph's inputs.
    pub fn read_inputs(&self, files: &[PathBuf]) -> Result<Vec<Datum>, Failure> {
        read(files, &self.entry.inputs)
    }

    /// Each input of `n` elements as `0/n, 1/n, ...`.
    pub fn ramps(&self) -> Result<Vec<Datum>, Failure> {
        self.entry.inputs.iter().map(ramp).collect()
    }

    /// The outputs. Those of several threads must be the bits of one.
    pub fn run(&self, inputs: &[Datum]) -> Result<Vec<Value>, Failure> {
        let run =
            |session: &Session| session.run(&self.entry.name, inputs).map_err(|e| Failure::error("run", e));
        let outputs = run(&self.session)?;
        if let Some(single) = &self.single {
            let one = run(single)?;
            if one.len() != outputs.len() || !one.iter().zip(&outputs).all(|(a, b)| same_bits(a, b)) {
                let place = String::new();
                return Err(Failure::mismatch(Mismatch { what: "threads change the result", place }));
            }
        }
        Ok(outputs.iter().map(value).collect())
    }
}

/// Whether two values are the same bit by bit.
fn same_bits(a: &Datum, b: &Datum) -> bool {
    match (a, b) {
        (Datum::Tensor(a), Datum::Tensor(b)) => {
            let same = a.ty() == b.ty() && a.as_strings() == b.as_strings();
            same && (a.dtype() == DType::String || a.bytes() == b.bytes())
        }
        (Datum::Sequence { items: a, .. }, Datum::Sequence { items: b, .. }) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_bits(a, b))
        }
        (Datum::Optional { value: a, .. }, Datum::Optional { value: b, .. }) => match (a, b) {
            (Some(a), Some(b)) => same_bits(a, b),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        },
        (Datum::Tensor(_) | Datum::Sequence { .. } | Datum::Optional { .. }, _) => false,
    }
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
