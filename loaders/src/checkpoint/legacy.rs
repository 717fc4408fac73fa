//! Checkpoints as torch wrote them before version 1.6, and still does on demand: a row of pickles (magic number, protocol
//! version, system, object, keys of storages) and the storages behind it. Bare pickles are read here too.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::element::Element;
use super::error::CheckpointError;
use super::pickle::{self, Long, Node, Pickle};
use super::rebuild::{Resolved, rebuild};
use super::tensor::{ByteOrder, Storage, TensorFault};
use super::torch::{Description, Persistent, persistent};
use super::{Checkpoint, Container, Source, from_tree};

/// The number that a legacy file begins with, as bytes and as text.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const MAGIC_DIGITS: &str = "119547037146038801333356";
const PROTOCOL: i64 = 1001;

/// Reads a file that begins with a pickle.
pub(super) fn read(source: &Source<'_>) -> Result<Checkpoint, CheckpointError> {
    let memory = source.memory_of(source.bytes.len());
    let next = |at: usize, entry: &str| {
        pickle::read(&source.bytes, at, memory).map_err(|error| CheckpointError::Pickle {
            path: source.name(),
            entry: entry.to_owned(),
            source: error,
        })
    };
    let first = next(0, "first")?;
    if !is_magic(&first) {
        return bare(source, &first, memory);
    }
    let malformed = |part: &str, reason: String| CheckpointError::Malformed {
        path: source.name(),
        part: part.to_owned(),
        reason,
    };
    let version = next(first.end(), "protocol version")?;
    if version.int(version.root()) != Some(PROTOCOL) {
        return Err(malformed("protocol version", format!("it is not {PROTOCOL}")));
    }
    let system = next(version.end(), "system")?;
    let object = next(system.end(), "object")?;
    let keys = next(object.end(), "keys of storages")?;
    let stated = stated(&object);
    let storages = storages(source, &keys, &stated).map_err(|reason| malformed("storages", reason))?;
    let rebuilt = rebuild(&object, memory / 4, &mut |pickle, id| match persistent(pickle, id)? {
        Persistent::Name(name) => Ok(Resolved::Name(name)),
        Persistent::Storage(description) => resolve(&storages, description),
    });
    let rebuilt =
        rebuilt.ok_or_else(|| source.too_large("memory of the tensors' descriptions", memory / 4))?;
    drop(object);
    from_tree(source, Container::TorchLegacy, rebuilt, memory)
}

fn is_magic(pickle: &Pickle) -> bool {
    match pickle.node(pickle.root()) {
        Node::Long(Long::Bytes(bytes)) => bytes[..] == MAGIC,
        Node::Long(Long::Digits(digits)) => digits.as_str() == MAGIC_DIGITS,
        _ => false,
    }
}

/// A pickle that is all there is: values without storages.
fn bare(source: &Source<'_>, pickle: &Pickle, memory: usize) -> Result<Checkpoint, CheckpointError> {
    let rebuilt = rebuild(pickle, memory / 4, &mut |_, _| {
        Err(TensorFault::Description("the pickle refers to data that is not in it".to_owned()))
    });
    let rebuilt = rebuilt.ok_or_else(|| source.too_large("memory of the values", memory / 4))?;
    from_tree(source, Container::Pickle, rebuilt, memory)
}

/// Type and number of elements of each storage, as the object states them.
fn stated(object: &Pickle) -> BTreeMap<String, (Element, usize)> {
    let mut stated = BTreeMap::new();
    for (_, node) in object.nodes() {
        if let Node::Persistent(id) = node
            && let Ok(Persistent::Storage(Description { key, element, numel, .. })) = persistent(object, *id)
        {
            stated.entry(key).or_insert((element, numel));
        }
    }
    stated
}

/// The storages, in the order of their keys: each a number of elements, and these.
fn storages(
    source: &Source<'_>,
    keys: &Pickle,
    stated: &BTreeMap<String, (Element, usize)>,
) -> Result<BTreeMap<String, Arc<Storage>>, String> {
    let list = keys.items(keys.root()).ok_or("the keys are no list")?;
    let mut at = keys.end();
    let mut storages = BTreeMap::new();
    for &key in list {
        let key = match keys.node(key) {
            Node::Str(text) => text.to_string(),
            Node::Int(n) => n.to_string(),
            _ => return Err("a key is no text".to_owned()),
        };
        let found = stated.get(&key);
        let &(element, numel) = found.ok_or_else(|| format!("no tensor is in storage `{key:.80}`"))?;
        let (storage, end) = raw_storage(source, at, &key, element)?;
        let count = storage.bytes.len() / element.size().unwrap_or(1);
        if count != numel {
            return Err(format!("storage `{key:.80}` has {count} elements, and is said to have {numel}"));
        }
        at = end;
        if storages.insert(key, storage).is_some() {
            return Err("a key comes twice".to_owned());
        }
    }
    Ok(storages)
}

/// A storage that begins with its number of elements, and where it ends.
pub(super) fn raw_storage(
    source: &Source<'_>,
    at: usize,
    key: &str,
    element: Element,
) -> Result<(Arc<Storage>, usize), String> {
    let rest = source.bytes.get(at..).unwrap_or(&[]);
    let truncated = || format!("storage `{key:.80}` is truncated");
    let count = rest.first_chunk::<8>().map(|b| u64::from_le_bytes(*b)).ok_or_else(truncated)?;
    let length = usize::try_from(count).ok().and_then(|n| element.storage_bytes(n)).ok_or_else(truncated)?;
    let start = at + 8;
    let end = start.checked_add(length).filter(|&end| end <= source.bytes.len()).ok_or_else(truncated)?;
    // Torch writes numbers with their lowest byte first here, on every machine.
    let (bytes, order) = (source.bytes.slice(start..end), ByteOrder::Little);
    Ok((Arc::new(Storage { name: key.to_owned(), bytes, order }), end))
}

fn resolve(
    storages: &BTreeMap<String, Arc<Storage>>,
    description: Description,
) -> Result<Resolved, TensorFault> {
    let Description { key, element, numel, view } = description;
    let storage = storages.get(&key);
    let storage =
        storage.ok_or_else(|| TensorFault::Description(format!("there is no storage `{key:.80}`")))?;
    let (offset, count) = match &view {
        None => (0, numel),
        Some((_, offset, count)) => (*offset, *count),
    };
    let end = offset.checked_add(count).and_then(|n| element.storage_bytes(n)).unwrap_or(usize::MAX);
    if end > storage.bytes.len() {
        return Err(TensorFault::Outside { end, storage: key, length: storage.bytes.len() });
    }
    Ok(Resolved::Storage { storage: storage.clone(), element, numel: count, offset })
}
