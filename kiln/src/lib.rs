//! Kiln: load, optimize, compile and run neural networks.
//!
//! [`compile_file`] takes a model file to a [`Compiled`] program; [`Compiled::save`] writes the artifact that servers
//! load with [`runtime`] alone; [`open_session`] runs either kind of file.
#![forbid(unsafe_code)]

pub mod agreement;
#[cfg(feature = "candle")]
pub mod candle;
pub mod check;
mod error;
pub mod quantize;
mod sample;
mod shape;
pub mod sparsify;

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

use kiln_codegen::build::Summary;
use kiln_ir::Module;
use kiln_runtime::artifact::{self, ArtifactSize};
use kiln_runtime::cpu::Tier;
use kiln_runtime::program::{Action, KernelInfo, Program};
use kiln_runtime::{Executable, Image, Session, SessionOptions};

/// How to read and compile a model.
#[derive(Debug, Clone)]
pub struct Options {
    /// Shapes in place of declared ones.
    pub shapes: Vec<ShapeOverride>,
    /// Values of arguments of a program that are no tensors, by name: it is compiled for these.
    pub arguments: Vec<(String, String)>,
    /// Weights in place of those that the model file holds.
    pub weights: Option<kiln_loaders::NewWeights>,
    /// Bounds on what a model file may ask for while it is loaded; [`Options::passes`] has those of constant folding.
    pub limits: kiln_loaders::Limits,
    /// Instruction set to compile for; this machine's if not given.
    pub tier: Option<Tier>,
    /// Whether convolutions may be computed with fewer multiplications ([`kiln_codegen::build::Options::winograd`]).
    pub winograd: bool,
    /// Options of the passes.
    pub passes: kiln_passes::Options,
    /// Threads that generate code; all available ones if not given. The result does not depend on them.
    pub threads: Option<usize>,
    /// Whether to list the machine code of the kernels.
    pub listings: bool,
}

impl Default for Options {
    fn default() -> Self {
        let passes = kiln_passes::Options::default();
        let limits = kiln_loaders::Limits::default();
        Options {
            shapes: vec![],
            arguments: vec![],
            weights: None,
            limits,
            tier: None,
            winograd: true,
            passes,
            threads: None,
            listings: false,
        }
    }
}

/// A compiled model with the story of its compilation.
#[derive(Debug)]
pub struct Compiled {
    /// Plan, code and constants.
    pub image: Image,
    /// What the passes did.
    pub passes: kiln_passes::Report,
    /// What became of the nodes.
    pub summary: Summary,
    /// Kernel IR of the kernels, in the program's order.
    pub kernel_texts: Vec<String>,
    /// Machine code of the kernels in assembler syntax, in the same order; empty texts unless it was asked for.
    pub kernel_listings: Vec<String>,
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

/// Whether the file is an artifact, by its content. A folder is none.
pub fn is_artifact(path: &Path) -> Result<bool, Error> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let mut head = vec![];
    if path.is_dir() {
        return Ok(false);
    }
    // Opening a pipe would wait for its writer.
    if !std::fs::metadata(path).map_err(io)?.is_file() {
        return Err(io(std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is no regular file")));
    }
    File::open(path).map_err(io)?.take(artifact::MAGIC.len() as u64).read_to_end(&mut head).map_err(io)?;
    Ok(head == artifact::MAGIC)
}

/// Loads a model file into graph IR, within the default limits.
pub fn load(path: &Path, shapes: &[ShapeOverride]) -> Result<Module, Error> {
    load_within(path, shapes, &kiln_loaders::Limits::default())
}

/// Loads a model file into graph IR.
pub fn load_within(
    path: &Path,
    shapes: &[ShapeOverride],
    limits: &kiln_loaders::Limits,
) -> Result<Module, Error> {
    load_with(path, &Options { shapes: shapes.to_vec(), limits: limits.clone(), ..Options::default() })
}

/// Loads a model file into graph IR, with the shapes, arguments, weights and limits of the options.
pub fn load_with(path: &Path, options: &Options) -> Result<Module, Error> {
    if is_artifact(path)? {
        return Err(Error::NeedsModel { path: path.to_owned(), what: "loading" });
    }
    let shapes = options.shapes.iter().map(|s| (s.input.clone(), s.dims.clone())).collect();
    let dtypes = options.shapes.iter().filter_map(|s| Some((s.input.clone(), s.dtype?))).collect();
    let arguments = options.arguments.iter().cloned().collect();
    let (weights, limits) = (options.weights.clone(), options.limits.clone());
    let options =
        kiln_loaders::LoadOptions { shapes, dtypes, arguments, weights, limits, ..Default::default() };
    Ok(kiln_loaders::load(path, &options)?)
}

/// Loads a model from memory; `name` stands for its file in errors. External data cannot be reached.
pub fn load_bytes(name: &str, bytes: &'static [u8]) -> Result<Module, Error> {
    Ok(kiln_loaders::load_bytes(
        name,
        bytes::Bytes::from_static(bytes),
        &kiln_loaders::LoadOptions::default(),
    )?)
}

/// Optimizes a module and generates code for it.
pub fn compile(mut module: Module, options: &Options) -> Result<Compiled, Error> {
    let passes = kiln_passes::optimize(&mut module, &options.passes)?;
    let tier = options.tier.or_else(Tier::native).unwrap_or(Tier::X86V1);
    let codegen =
        kiln_codegen::build::Options { tier, winograd: options.winograd, listings: options.listings };
    let generate = || kiln_codegen::build::compile(&module, &codegen);
    let generated = match options.threads {
        Some(threads) => rayon::ThreadPoolBuilder::new().num_threads(threads).build()?.install(generate),
        None => generate(),
    };
    let kiln_codegen::build::Compiled { image, summary, kernel_texts, kernel_listings } = generated?;
    Ok(Compiled { image, passes, summary, kernel_texts, kernel_listings })
}

/// A kernel of a program with the places that run it.
#[derive(Debug)]
pub struct KernelUse<'p> {
    /// The kernel.
    pub kernel: &'p KernelInfo,
    /// Steps that run it.
    pub steps: usize,
    /// Names of the source nodes of those steps, each once, in order.
    pub nodes: Vec<&'p str>,
}

/// The program's kernels and what runs them, in the program's order.
pub fn kernel_uses(program: &Program) -> Vec<KernelUse<'_>> {
    let mut uses: Vec<KernelUse<'_>> =
        program.kernels.iter().map(|kernel| KernelUse { kernel, steps: 0, nodes: vec![] }).collect();
    for step in program.functions.iter().flat_map(|f| &f.steps) {
        let Action::Kernel(call) = &step.action else { continue };
        let Some(entry) = uses.get_mut(call.kernel.index()) else { continue };
        entry.steps += 1;
        for node in &step.provenance {
            if !entry.nodes.contains(&node.as_str()) {
                entry.nodes.push(node);
            }
        }
    }
    uses
}

/// Loads and compiles a model file.
pub fn compile_file(path: &Path, options: &Options) -> Result<Compiled, Error> {
    compile(load_with(path, options)?, options)
}

/// A session on a model (compiled now) or an artifact (compiled before; `options` is not used then).
pub fn open_session(path: &Path, options: &Options, session: SessionOptions) -> Result<Session, Error> {
    if is_artifact(path)? {
        return Ok(Session::new(Arc::new(Executable::open(path)?), session));
    }
    compile_file(path, options)?.into_session(session)
}
