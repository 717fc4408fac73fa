//! A case's model on the compiled path: load, optimize, compile, run.

use std::path::{Path, PathBuf};

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

/// A compiled model.
pub struct Program;

impl Program {
    /// Loads and compiles the file `model`.
    pub fn compile(_model: &Path) -> Result<Self, Failure> {
        let reason = "the compiled path is not there yet".to_owned();
        Err(Failure { status: "unsupported", reason, detail: String::new() })
    }

    /// The expected outputs in `files`, in the order of the graph's outputs.
    pub fn read_outputs(&self, _files: &[PathBuf]) -> Result<Vec<Value>, Failure> {
        Ok(Vec::new())
    }

    /// Runs on the inputs in `files`, in the order of the graph's inputs.
    pub fn run_on(&self, _files: &[PathBuf]) -> Result<Vec<Value>, Failure> {
        Ok(Vec::new())
    }

    /// Runs with each input of `n` elements `0/n, 1/n, ...`.
    pub fn run_on_ramps(&self) -> Result<Vec<Value>, Failure> {
        Ok(Vec::new())
    }
}
