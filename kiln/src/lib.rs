//! Kiln: load, optimize, compile and run neural networks.
//!
//! [`compile_file`] takes a model file to a [`Compiled`] program; [`Compiled::save`] writes the artifact that servers
//! load with [`runtime`] alone; [`open_session`] runs either kind of file.
#![forbid(unsafe_code)]

pub mod check;
mod error;
mod sample;
mod shape;

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

pub use kiln_codegen as codegen;
pub use kiln_ir as ir;
pub use kiln_loaders as loaders;
pub use kiln_passes as passes;
pub use kiln_runtime as runtime;

pub use error::Error;
pub use sample::{SampleError, sample_inputs};
pub use shape::{ShapeOverride, ShapeParseError};

use kiln_codegen::{Summary, Target};
use kiln_ir::Module;
use kiln_runtime::artifact::{self, ArtifactSize};
use kiln_runtime::{Executable, Image, Session, SessionOptions};

/// How to read and compile a model.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Shapes in place of declared ones.
    pub shapes: Vec<ShapeOverride>,
    /// What to compile for.
    pub target: Target,
    /// Options of the passes.
    pub passes: kiln_passes::Options,
    /// Whether the summary holds the text of every kernel's IR.
    pub dump_kir: bool,
}

/// A compiled model with the story of its compilation.
#[derive(Debug)]
pub struct Compiled {
    /// Plan, code and constants.
    pub image: Image,
    /// What the passes did.
    pub passes: kiln_passes::Report,
    /// What code generation did.
    pub summary: Summary,
}

impl Compiled {
    /// Writes the artifact.
    pub fn save(&self, path: &Path) -> Result<ArtifactSize, Error> {
        Ok(artifact::write(&self.image, path)?)
    }

    /// Makes the program runnable in this process.
    pub fn into_session(self, options: SessionOptions) -> Result<Session, Error> {
        Ok(Session::new(Arc::new(Executable::from_image(self.image)?), options))
    }
}

/// Whether the file is an artifact, by its content.
pub fn is_artifact(path: &Path) -> Result<bool, Error> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let mut head = vec![];
    File::open(path).map_err(io)?.take(artifact::MAGIC.len() as u64).read_to_end(&mut head).map_err(io)?;
    Ok(head == artifact::MAGIC)
}

/// Loads a model file into graph IR.
pub fn load(path: &Path, shapes: &[ShapeOverride]) -> Result<Module, Error> {
    if is_artifact(path)? {
        return Err(Error::NeedsModel { path: path.to_owned(), what: "this" });
    }
    let shapes = shapes.iter().map(|s| (s.input.clone(), s.dims.clone())).collect();
    let options = kiln_loaders::LoadOptions { shapes, ..Default::default() };
    Ok(kiln_loaders::load(path, &options)?)
}

/// Loads a model from memory; `name` stands for its file in errors. External data cannot be reached.
pub fn load_bytes(name: &str, bytes: &'static [u8]) -> Result<Module, Error> {
    Ok(kiln_loaders::load_bytes(name, bytes.into(), &kiln_loaders::LoadOptions::default())?)
}

/// Sets how many threads compile, for the whole process; only before the first compilation.
pub fn set_compile_threads(threads: usize) -> Result<(), Error> {
    kiln_codegen::set_threads(threads).map_err(Error::from)
}

/// Optimizes a module and generates code for it.
pub fn compile(mut module: Module, options: &Options) -> Result<Compiled, Error> {
    let passes = kiln_passes::optimize(&mut module, &options.passes)?;
    let codegen = kiln_codegen::Options { target: options.target, dump_kir: options.dump_kir };
    let (image, summary) = kiln_codegen::compile(&module, &codegen)?;
    Ok(Compiled { image, passes, summary })
}

/// Loads and compiles a model file.
pub fn compile_file(path: &Path, options: &Options) -> Result<Compiled, Error> {
    compile(load(path, &options.shapes)?, options)
}

/// A session on a model (compiled now) or an artifact (compiled before; `options` is not used then).
pub fn open_session(path: &Path, options: &Options, session: SessionOptions) -> Result<Session, Error> {
    if is_artifact(path)? {
        return Ok(Session::new(Arc::new(Executable::open(path)?), session));
    }
    compile_file(path, options)?.into_session(session)
}
