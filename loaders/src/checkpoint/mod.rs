//! Checkpoints: named tensors and what was saved beside them, without a graph.
//!
//! Every container is read without executing anything: torch's zip archives, its legacy files and tar archives,
//! safetensors, GGUF, and sharded checkpoints of these. Tensors are views of the mapped file; nothing of their data is
//! read before it is asked for, and only views that are not dense are ever copied ([`CheckpointTensor::bytes`]). Values
//! that Python would make by calling something stay [`Item::Opaque`] and keep their name.
//!
//! What a file may ask for is bounded by [`Limits`]: the memory of descriptions and metadata by
//! [`Limits::structure_of`], nesting by four times [`Limits::depth`].

mod element;
mod error;
mod ggml;
mod gguf;
mod legacy;
mod names;
pub mod pickle;
mod rebuild;
pub(crate) mod safetensors;
pub(crate) mod sharded;
mod sparse;
pub(crate) mod tar;
mod tensor;
#[cfg(test)]
mod tests;
mod torch;
mod tree;
pub mod zip;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

pub use element::{Element, Foreign};
pub use error::CheckpointError;
pub use tensor::{
    Body, ByteOrder, CheckpointTensor, MAX_RANK, Quantization, Sparse, Storage, TensorFault, View,
};
pub use tree::{Item, ItemId, Opaque, Tree};

use crate::{Format, Limits};

/// What kind of file a checkpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// `torch.save`, since torch 1.6, and TorchScript's module data.
    TorchZip,
    /// `torch.save` before.
    TorchLegacy,
    /// `torch.save` of the first versions.
    TorchTar,
    /// A pickle without storages.
    Pickle,
    /// safetensors.
    Safetensors,
    /// GGUF.
    Gguf,
    /// An index of several files.
    Sharded,
}

impl Container {
    /// Name in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Container::TorchZip => "a PyTorch archive",
            Container::TorchLegacy => "a legacy PyTorch file",
            Container::TorchTar => "a legacy PyTorch tar archive",
            Container::Pickle => "a pickle",
            Container::Safetensors => "a safetensors file",
            Container::Gguf => "a GGUF file",
            Container::Sharded => "a sharded checkpoint",
        }
    }
}

#[derive(Clone, Debug)]
struct Entry {
    name: String,
    tensor: usize,
}

/// A value that only a call would make, and what would make it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpaqueValue {
    /// Where it is: keys and positions, joined by dots.
    pub path: String,
    /// What would make it.
    pub name: String,
}

/// Named tensors of a file, and its other values.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    container: Container,
    tensors: Vec<CheckpointTensor>,
    entries: Vec<Entry>,
    tree: Tree,
    opaque: Vec<OpaqueValue>,
}

impl Checkpoint {
    /// What kind of file it is.
    pub fn container(&self) -> Container {
        self.container
    }

    /// How many names there are. A tensor may have several.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no tensor.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Names and tensors, in the file's order. Names are unique.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &CheckpointTensor)> {
        self.entries
            .iter()
            .filter_map(|entry| self.tensors.get(entry.tensor).map(|tensor| (entry.name.as_str(), tensor)))
    }

    /// The tensor of a name.
    pub fn get(&self, name: &str) -> Option<&CheckpointTensor> {
        self.tensors().find(|(n, _)| *n == name).map(|(_, tensor)| tensor)
    }

    /// The tensors of the state dict: of Lightning's checkpoints and others that keep theirs under `state_dict`, those with
    /// the names that they have in it; else all.
    pub fn weights(&self) -> Vec<(&str, &CheckpointTensor)> {
        let inner = self.tree.get(self.tree.root(), "state_dict").map(|id| self.tree.item(id));
        match inner {
            Some(Item::Dict { .. }) => {
                let stripped = |(name, tensor)| Some((str::strip_prefix(name, "state_dict.")?, tensor));
                self.tensors().filter_map(stripped).collect()
            }
            _ => self.tensors().collect(),
        }
    }

    /// All values: of torch's files the whole object that was saved, of others the metadata.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// A tensor of the tree, by its position.
    pub fn tensor(&self, index: usize) -> Option<&CheckpointTensor> {
        self.tensors.get(index)
    }

    /// The values that only a call would make. They are in the tree with what they would be made from; tensors among that
    /// have names here.
    pub fn opaque(&self) -> &[OpaqueValue] {
        &self.opaque
    }

    /// Names of tensors that share a storage, for each that several have.
    pub fn shared(&self) -> Vec<(Arc<Storage>, Vec<&str>)> {
        let mut groups: BTreeMap<usize, (usize, Arc<Storage>, Vec<&str>)> = BTreeMap::new();
        for (order, (name, tensor)) in self.tensors().enumerate() {
            if let Some(view) = tensor.view() {
                let key = Arc::as_ptr(&view.storage).addr();
                let group = groups.entry(key).or_insert_with(|| (order, view.storage.clone(), Vec::new()));
                group.2.push(name);
            }
        }
        let mut groups: Vec<_> = groups.into_values().filter(|(_, _, names)| names.len() > 1).collect();
        groups.sort_by_key(|(order, _, _)| *order);
        groups.into_iter().map(|(_, storage, names)| (storage, names)).collect()
    }

    /// Bytes of all storages, each counted once.
    pub fn stored_bytes(&self) -> usize {
        let mut seen = rustc_hash::FxHashSet::default();
        let views = self.tensors().filter_map(|(_, tensor)| tensor.view());
        let new = views.filter(|view| seen.insert(Arc::as_ptr(&view.storage)));
        new.map(|view| view.storage.bytes.len()).sum()
    }
}

/// Whether a file of this format is a checkpoint: tensors and no graph.
pub fn is_checkpoint(format: Format) -> bool {
    match format {
        Format::TorchZip
        | Format::TorchTar
        | Format::Pickle
        | Format::Safetensors
        | Format::Gguf
        | Format::ShardIndex => true,
        Format::Onnx
        | Format::TorchScript
        | Format::TorchExport
        | Format::Keras
        | Format::Numpy
        | Format::Tflite
        | Format::Hdf5
        | Format::SavedModel => false,
    }
}

/// A file to read.
#[derive(Clone)]
struct Source<'a> {
    path: &'a Path,
    bytes: Bytes,
    limits: &'a Limits,
}

impl Source<'_> {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// What the values of a pickle of so many bytes may take, in bytes: as much as the structure of a file of that size,
    /// but no more than 32 MiB and eight times the pickle. Descriptions of tensors and their names may take a quarter of
    /// that each; those of real checkpoints take about as much as the pickle.
    fn memory_of(&self, length: usize) -> usize {
        self.limits.structure_of(length).min(length.saturating_mul(8).saturating_add(32 << 20))
    }

    fn too_large(&self, what: &str, limit: usize) -> CheckpointError {
        CheckpointError::Limit { path: self.name(), what: what.to_owned(), limit }
    }
}

/// Opens a checkpoint of any kind. The file is mapped; tensors share the map.
pub fn open(path: &Path, limits: &Limits) -> Result<Checkpoint, CheckpointError> {
    let bytes = crate::map::open(path).map_err(|error| match error {
        crate::map::OpenError::Io(source) => CheckpointError::Io { path: path.display().to_string(), source },
        crate::map::OpenError::NotAFile(reason) => {
            CheckpointError::NotACheckpoint { path: path.display().to_string(), reason: reason.to_owned() }
        }
    })?;
    read(path, bytes, limits)
}

/// As [`open`], from bytes in memory. `path` stands for the file in messages, and beside it lie the files that an index
/// lists.
pub fn read(path: &Path, bytes: Bytes, limits: &Limits) -> Result<Checkpoint, CheckpointError> {
    let source = Source { path, bytes, limits };
    match sharded::is_index(&source.bytes) {
        true => sharded::read(&source),
        false => read_file(&source),
    }
}

/// What the names of all entries of an archive of torch's begin with.
pub(crate) fn archive_prefix(archive: &zip::Archive) -> Option<&str> {
    torch::prefix(archive)
}

/// Reads the pickle `PART.pkl` of an archive of torch's, and the tensors in its folder `PART`.
pub(crate) fn read_part(
    path: &Path,
    bytes: Bytes,
    limits: &Limits,
    archive: &zip::Archive,
    part: &str,
) -> Result<Checkpoint, CheckpointError> {
    let prefix = archive_prefix(archive).unwrap_or_default().to_owned();
    torch::read_part(&Source { path, bytes, limits }, archive, &prefix, part)
}

/// Reads a file that is no index.
fn read_file(source: &Source<'_>) -> Result<Checkpoint, CheckpointError> {
    match Format::of(&source.bytes) {
        // The modules of TorchScript are pickled as other values are.
        Some(Format::TorchZip | Format::TorchScript) => torch::read(source),
        Some(Format::TorchTar) => tar::read(source),
        Some(Format::Pickle) => legacy::read(source),
        Some(Format::Safetensors) => safetensors::read(source),
        Some(Format::Gguf) => gguf::read(source),
        other => {
            let reason = match other {
                Some(format) => format!("this is {format}"),
                None if source.bytes.is_empty() => "the file is empty".to_owned(),
                None => "its content is no format that Kiln knows".to_owned(),
            };
            Err(CheckpointError::NotACheckpoint { path: source.name(), reason })
        }
    }
}

/// Names the tensors of a tree. Names and nesting are bounded; a tensor whose description is wrong is an error.
fn from_tree(
    source: &Source<'_>,
    container: Container,
    rebuilt: rebuild::Rebuilt,
    memory: usize,
) -> Result<Checkpoint, CheckpointError> {
    let rebuild::Rebuilt { tree, tensors } = rebuilt;
    let depth = source.limits.depth.saturating_mul(4);
    let bounds = names::Bounds { depth, memory: memory / 4 };
    let found = names::names(&tree, &bounds).map_err(|exceeded| match exceeded {
        names::Exceeded::Depth => source.too_large("nesting of the values", depth),
        names::Exceeded::Memory => source.too_large("memory of the tensors' names", bounds.memory),
    })?;
    let mut opaque = Vec::new();
    for (path, id) in found.opaque {
        let Item::Opaque(value) = tree.item(id) else { continue };
        if let Some(fault) = &value.fault {
            return Err(CheckpointError::Tensor { path: source.name(), tensor: path, source: fault.clone() });
        }
        opaque.push(OpaqueValue { path, name: value.name.clone() });
    }
    let mut seen = rustc_hash::FxHashMap::default();
    for (name, tensor) in &found.tensors {
        if seen.insert(name.as_str(), *tensor).is_some() {
            return Err(CheckpointError::DuplicateName { path: source.name(), name: name.clone() });
        }
    }
    let entries = found.tensors.into_iter().map(|(name, tensor)| Entry { name, tensor }).collect();
    Ok(Checkpoint { container, tensors, entries, tree, opaque })
}
