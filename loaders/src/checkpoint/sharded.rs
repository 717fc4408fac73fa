//! Checkpoints in several files, listed by an index such as `model.safetensors.index.json`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use super::error::CheckpointError;
use super::pickle::Text;
use super::tree::{Item, ItemId, Tree, TreeBuilder};
use super::{Checkpoint, Container, Entry, Source, read_file};
use crate::folder::Folder;

/// Whether the content is such an index, as far as its beginning tells.
pub(crate) fn is_index(bytes: &[u8]) -> bool {
    let head = bytes.get(..4096).unwrap_or(bytes);
    let tail = bytes.get(bytes.len().saturating_sub(4096)..).unwrap_or(bytes);
    let key = b"\"weight_map\"";
    head.trim_ascii_start().first() == Some(&b'{')
        && [head, tail].iter().any(|part| part.windows(key.len()).any(|window| window == key))
}

#[derive(serde::Deserialize)]
struct Index {
    #[serde(default)]
    metadata: Value,
    weight_map: BTreeMap<String, String>,
}

/// Reads the index and all files that it lists, which lie in its folder. Every tensor of the index is in the file that
/// the index names; files may hold more.
pub(super) fn read(source: &Source<'_>) -> Result<Checkpoint, CheckpointError> {
    let limit = source.limits.structure_of(source.bytes.len());
    if source.bytes.len() > limit / 8 {
        return Err(source.too_large("size of the index, in bytes,", limit / 8));
    }
    let index: Index = serde_json::from_slice(&source.bytes).map_err(|error| CheckpointError::Malformed {
        path: source.name(),
        part: "index".to_owned(),
        reason: error.to_string(),
    })?;
    let folder = Folder::of(source.path);
    let files: BTreeSet<&str> = index.weight_map.values().map(String::as_str).collect();
    let mut all = Parts::default();
    for file in files {
        let fault = |reason: String| CheckpointError::Shard {
            path: source.name(),
            shard: file.chars().take(200).collect(),
            reason,
        };
        let bytes = folder.file(file).map_err(fault)?;
        let path = folder.path(file).map_err(fault)?;
        let shard = shard(&path, bytes, source)?;
        let missing =
            index.weight_map.iter().find(|(name, place)| place.as_str() == file && shard.get(name).is_none());
        if let Some((name, _)) = missing {
            return Err(fault(format!("it lacks tensor `{name:.200}`")));
        }
        all.add(shard, file, &index.weight_map)
            .map_err(|name| CheckpointError::DuplicateName { path: source.name(), name })?;
    }
    let mut tree = Tree::builder();
    let root = json(&index.metadata, &mut tree);
    let (tree, Parts { tensors, entries, opaque, .. }) = (tree.finish(root), all);
    Ok(Checkpoint { container: Container::Sharded, tensors, entries, tree, opaque })
}

/// Reads one file; an index in an index is none.
fn shard(path: &Path, bytes: bytes::Bytes, source: &Source<'_>) -> Result<Checkpoint, CheckpointError> {
    let part = Source { path, bytes, limits: source.limits };
    match is_index(&part.bytes) {
        true => Err(CheckpointError::NotACheckpoint {
            path: part.name(),
            reason: "an index lists it, and it is an index itself".to_owned(),
        }),
        false => read_file(&part),
    }
}

#[derive(Default)]
struct Parts {
    tensors: Vec<super::tensor::CheckpointTensor>,
    entries: Vec<Entry>,
    opaque: Vec<super::OpaqueValue>,
    names: BTreeSet<String>,
}

impl Parts {
    /// Takes the tensors of a file, but those that the index has elsewhere; the error is a name that comes twice.
    fn add(
        &mut self,
        shard: Checkpoint,
        file: &str,
        places: &BTreeMap<String, String>,
    ) -> Result<(), String> {
        let first = self.tensors.len();
        for entry in shard.entries {
            if places.get(&entry.name).is_some_and(|place| place != file) {
                continue;
            }
            if !self.names.insert(entry.name.clone()) {
                return Err(entry.name);
            }
            self.entries.push(Entry { name: entry.name, tensor: first + entry.tensor });
        }
        self.tensors.extend(shard.tensors);
        self.opaque.extend(shard.opaque);
        Ok(())
    }
}

fn json(value: &Value, tree: &mut TreeBuilder) -> ItemId {
    let item = match value {
        Value::Null => Item::None,
        Value::Bool(b) => Item::Bool(*b),
        Value::Number(n) => match n.as_i64() {
            Some(n) => Item::Int(n),
            None => n.as_f64().map_or_else(|| Item::Integer(n.to_string()), Item::Float),
        },
        Value::String(text) => Item::Text(Text::from(text.clone())),
        Value::Array(values) => Item::List(values.iter().map(|v| json(v, tree)).collect()),
        Value::Object(map) => {
            let pairs = map.iter().map(|(key, v)| (key.clone(), json(v, tree))).collect();
            return tree.dict(pairs);
        }
    };
    tree.add(item)
}
