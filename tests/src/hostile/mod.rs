//! Files that mean harm or make no sense. Each must end in a typed error: when it is loaded, compiled or run.
//!
//! `cargo xtask hostile` runs each in a process of its own and measures it; `tests/hostile_files.rs` runs them all in one.

mod build;
mod checkpoints;
mod contributed;
mod graphs;
mod operators;
mod scripts;
mod tensors;
mod wire;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use kiln::loaders::{Limits, LoadError, checkpoint};
use kiln::runtime::{RunOptions, SessionOptions};
use kiln::{Options, sample_inputs};

/// What lies in the folder of a model, other than it.
#[derive(Clone, Debug)]
pub enum Beside {
    /// A file with this content.
    File(&'static str, Vec<u8>),
    /// A folder.
    Folder(&'static str),
    /// A symbolic link to a target.
    Link(&'static str, &'static str),
    /// A second name of a file, which may lie outside the folder.
    HardLink(&'static str, &'static str),
}

/// One hostile file.
#[derive(Clone, Debug)]
pub struct Hostile {
    /// Unique, and a file name.
    pub name: String,
    /// The model's bytes.
    pub model: Vec<u8>,
    /// What is put beside it.
    pub beside: Vec<Beside>,
}

impl Hostile {
    fn new(name: impl Into<String>, model: Vec<u8>) -> Self {
        Hostile { name: name.into(), model, beside: vec![] }
    }

    fn beside(mut self, what: Beside) -> Self {
        self.beside.push(what);
        self
    }

    /// Writes the model and what is beside it into a folder of its own below `root`; gives the model's path.
    pub fn write(&self, root: &Path) -> io::Result<PathBuf> {
        // A level of its own, so that paths which leave the model's folder stay below `root`.
        let folder = root.join(&self.name).join("model");
        fs::create_dir_all(&folder)?;
        fs::write(root.join(&self.name).join("outside.bin"), [0; 64])?;
        for what in &self.beside {
            match what {
                Beside::File(name, bytes) => fs::write(folder.join(name), bytes)?,
                Beside::Folder(name) => fs::create_dir_all(folder.join(name))?,
                Beside::Link(name, target) => link(target, &folder.join(name))?,
                Beside::HardLink(name, target) => fs::hard_link(folder.join(target), folder.join(name))?,
            }
        }
        let path = folder.join("model.onnx");
        fs::write(&path, &self.model)?;
        Ok(path)
    }
}

#[cfg(unix)]
fn link(target: &str, place: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, place)
}

#[cfg(not(unix))]
fn link(target: &str, place: &Path) -> io::Result<()> {
    fs::hard_link(place.with_file_name(target), place)
}

/// All files, in an order that does not change.
pub fn all() -> Vec<Hostile> {
    [
        wire::files(),
        graphs::files(),
        tensors::files(),
        operators::files(),
        contributed::files(),
        checkpoints::files(),
        scripts::files(),
    ]
    .concat()
}

/// Bytes that a run may hold beside the compiled program.
const RUN_MEMORY: u64 = 32 << 20;

/// How a file ended.
#[derive(Debug)]
pub enum End {
    /// An error of this stage, with its message.
    Error(&'static str, String),
    /// It ran.
    Ran,
}

/// Loads, compiles and runs a model on inputs that are made up; gives up running at `deadline`.
pub fn take(path: &Path, deadline: Instant) -> End {
    let module = match kiln::load(path, &[]) {
        Ok(module) => module,
        Err(kiln::Error::Load(LoadError::NoGraph { .. })) => return take_checkpoint(path),
        Err(error) => return End::Error("load", error.to_string()),
    };
    let compiled = match kiln::compile(module, &Options { threads: Some(1), ..Options::default() }) {
        Ok(compiled) => compiled,
        Err(error) => return End::Error("compile", error.to_string()),
    };
    let options = SessionOptions { threads: Some(1), max_memory: Some(RUN_MEMORY), ..Default::default() };
    let session = match compiled.into_session(options) {
        Ok(session) => session,
        Err(error) => return End::Error("open", error.to_string()),
    };
    let Some(entry) = session.entries().first() else { return End::Ran };
    let ports = entry.inputs.iter().map(|port| (port.name.as_str(), &port.ty));
    let inputs = match sample_inputs(ports, 1) {
        Ok(inputs) => inputs.into_iter().map(Into::into).collect::<Vec<_>>(),
        Err(error) => return End::Error("inputs", error.to_string()),
    };
    let run = RunOptions { deadline: Some(deadline), ..Default::default() };
    match session.run_with(&entry.name, &inputs, &run) {
        Ok(_) => End::Ran,
        Err(error) => End::Error("run", error.to_string()),
    }
}

/// Opens a checkpoint and reads all its tensors. Values that only a call would make are an error to who expects weights.
fn take_checkpoint(path: &Path) -> End {
    let limits = Limits::default();
    let checkpoint = match checkpoint::open(path, &limits) {
        Ok(checkpoint) => checkpoint,
        Err(error) => return End::Error("load", error.to_string()),
    };
    for (name, tensor) in checkpoint.tensors() {
        if let Err(fault) = tensor.to_tensor(limits.sparse) {
            return End::Error("tensor", format!("{name}: {fault}"));
        }
    }
    match checkpoint.opaque().first() {
        Some(value) => End::Error("opaque", format!("{}: only a call would make {}", value.path, value.name)),
        None => End::Ran,
    }
}
