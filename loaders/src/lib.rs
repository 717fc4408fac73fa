//! Loaders of Kiln: files of other frameworks to graph IR.
//!
//! Files are untrusted: loading is bounded by [`Limits`], never executes anything from a file, reads nothing outside
//! the model's folder, and answers with a typed error that names the place.
#![deny(unsafe_code)]

mod aten;
mod binding;
pub mod checkpoint;
pub mod detect;
mod error;
mod folder;
mod huggingface;
mod map;
pub mod npz;
pub mod onnx;
mod options;
pub mod pt2;
mod torchscript;

use std::collections::BTreeMap;
use std::path::Path;

use kiln_ir::{DType, Dim, Module};

pub use binding::{Mismatch, NameRule, NewWeights, WeightFaults};
pub use detect::Format;
pub use error::{Issue, IssueKind, LoadError};

/// Bounds on what a file may ask for.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Nodes of all graphs together, functions inlined. If not given, 2^20, and small files get less: 65536, or one in
    /// eight bytes. A node takes more than eight bytes; a function that is called often is written once.
    pub nodes: Option<usize>,
    /// Nesting of graphs and functions.
    pub depth: usize,
    /// Bytes that the decoded form of a file's messages takes in memory: nodes, names, types, but not the data of
    /// tensors and lists of numbers, which cannot be much larger than in the file. Counted before anything is decoded.
    /// If not given, 512 MiB, and small files get less: 16 MiB and 24 times the file. Graphs of real models take up to
    /// about 15 times their part of the file; empty messages a hundred times.
    pub structure: Option<usize>,
    /// Bytes that the dense forms of all sparse tensors take together.
    pub sparse: usize,
    /// Problems that an error lists; more are counted.
    pub problems: usize,
}

impl Limits {
    /// What the messages of a file of so many bytes may take.
    pub fn structure_of(&self, file: usize) -> usize {
        self.structure.unwrap_or_else(|| file.saturating_mul(24).saturating_add(16 << 20).min(512 << 20))
    }

    /// How many nodes a file of so many bytes may have.
    pub fn nodes_of(&self, file: usize) -> usize {
        self.nodes.unwrap_or_else(|| (file / 8).clamp(1 << 16, 1 << 20))
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits { nodes: None, depth: 64, structure: None, sparse: 32 << 20, problems: 10_000 }
    }
}

/// How to load a model.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Shapes of inputs, by name, in place of the declared ones.
    pub shapes: BTreeMap<String, Vec<Dim>>,
    /// Dtypes of inputs that the file does not state, by name; f32 if they are not given.
    pub dtypes: BTreeMap<String, DType>,
    /// Values of arguments that are no tensors, by name: a program is loaded for these.
    pub arguments: BTreeMap<String, String>,
    /// Values of symbolic dims, by name.
    pub symbols: BTreeMap<String, i64>,
    /// Weights in place of those that the file holds.
    pub weights: Option<NewWeights>,
    /// Bounds.
    pub limits: Limits,
}

/// Loads a model of any supported format: a file, or a folder of Hugging Face's libraries. Files are mapped; weights
/// share the map.
pub fn load(path: &Path, options: &LoadOptions) -> Result<Module, LoadError> {
    if path.is_dir() {
        return huggingface::load(path, options);
    }
    let bytes = map::open(path).map_err(|error| match error {
        map::OpenError::Io(source) => LoadError::Io { path: path.display().to_string(), source },
        map::OpenError::NotAFile(reason) => {
            LoadError::NotAModel { path: path.display().to_string(), reason: reason.to_owned() }
        }
    })?;
    recognize(path, bytes, options)
}

/// As [`load`], from bytes in memory. `name` stands for the file in messages; external data cannot be reached.
pub fn load_bytes(name: &str, bytes: bytes::Bytes, options: &LoadOptions) -> Result<Module, LoadError> {
    recognize(Path::new(name), bytes, options)
}

/// Loads with the loader of the format that the content is in.
fn recognize(path: &Path, bytes: bytes::Bytes, options: &LoadOptions) -> Result<Module, LoadError> {
    let name = || path.display().to_string();
    match Format::of(&bytes) {
        Some(Format::Onnx) => onnx::load(path, bytes, options),
        Some(Format::TorchExport) => pt2::load(path, bytes, options),
        Some(Format::TorchScript) => torchscript::load(path, bytes, options),
        Some(format) if checkpoint::is_checkpoint(format) => {
            Err(LoadError::NoGraph { path: name(), format: format.name() })
        }
        Some(other) => Err(LoadError::UnsupportedFormat { path: name(), format: other.name() }),
        None if bytes.is_empty() => {
            Err(LoadError::NotAModel { path: name(), reason: "the file is empty".to_owned() })
        }
        None => Err(LoadError::NotAModel {
            path: name(),
            reason: "its content is no format that Kiln knows".to_owned(),
        }),
    }
}
