//! Checkpoints of the first versions of torch: a tar archive of storages, tensors and a pickle that refers to them by
//! number.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::element::Element;
use super::error::CheckpointError;
use super::legacy::raw_storage;
use super::pickle::{self, Id, Node, Pickle};
use super::rebuild::{Resolved, rebuild};
use super::tensor::{CheckpointTensor, MAX_RANK, Storage, TensorFault};
use super::torch::storage_class;
use super::{Checkpoint, Container, Source, from_tree};

const BLOCK: usize = 512;
/// Where the magic of POSIX archives is; archives of before 1988 have none, but Python never wrote them.
const MAGIC: Range<usize> = 257..262;

/// Whether the content is a tar archive.
pub(crate) fn is_tar(bytes: &[u8]) -> bool {
    bytes.get(MAGIC) == Some(b"ustar")
}

/// Files of an archive by name.
fn entries(bytes: &Bytes) -> Result<BTreeMap<String, Bytes>, String> {
    let mut entries = BTreeMap::new();
    let mut at = 0;
    while let Some(header) = bytes.get(at..at + BLOCK) {
        if header.iter().all(|&b| b == 0) {
            break;
        }
        if header.get(MAGIC) != Some(b"ustar") || number(header, 148..156) != Some(checksum(header)) {
            return Err(format!("the header at byte {at} is damaged"));
        }
        let size = number(header, 124..136).ok_or("the size of an entry is no number")?;
        let start = at + BLOCK;
        let content = start.checked_add(size).filter(|&end| end <= bytes.len()).map(|end| start..end);
        let content = content.ok_or_else(|| format!("the entry at byte {at} is truncated"))?;
        let kind = header.get(156).copied();
        if matches!(kind, Some(b'0' | 0)) {
            let name = header.get(..100).unwrap_or(&[]).split(|&b| b == 0).next().unwrap_or(&[]);
            let name = String::from_utf8_lossy(name.strip_prefix(b"./").unwrap_or(name)).into_owned();
            if entries.insert(name, bytes.slice(content)).is_some() {
                return Err("two entries have one name".to_owned());
            }
        }
        at = start + size.next_multiple_of(BLOCK).min(bytes.len());
    }
    Ok(entries)
}

/// An octal number.
fn number(header: &[u8], range: Range<usize>) -> Option<usize> {
    let text = std::str::from_utf8(header.get(range)?).ok()?;
    usize::from_str_radix(text.trim_matches(['\0', ' ']), 8).ok()
}

/// The sum of a header's bytes, with blanks for the sum itself.
fn checksum(header: &[u8]) -> usize {
    header.iter().enumerate().map(|(i, &b)| if (148..156).contains(&i) { 32 } else { usize::from(b) }).sum()
}

/// Reads an archive.
pub(super) fn read(source: &Source<'_>) -> Result<Checkpoint, CheckpointError> {
    let malformed = |part: &str, reason: String| CheckpointError::Malformed {
        path: source.name(),
        part: part.to_owned(),
        reason,
    };
    let files = entries(&source.bytes).map_err(|reason| malformed("tar archive", reason))?;
    let file = |name: &str| {
        let found = files.get(name).cloned();
        let content = found.ok_or_else(|| malformed("tar archive", format!("it has no entry `{name}`")))?;
        Ok(Source { bytes: content, ..source.clone() })
    };
    let (storages, tensors, object) = (file("storages")?, file("tensors")?, file("pickle")?);
    let storages = read_storages(&storages).map_err(|reason| malformed("storages", reason))?;
    let tensors = read_tensors(&tensors, &storages).map_err(|reason| malformed("tensors", reason))?;
    let memory = source.memory_of(object.bytes.len());
    let object = pickle::read(&object.bytes, 0, memory).map_err(|error| CheckpointError::Pickle {
        path: source.name(),
        entry: "pickle".to_owned(),
        source: error,
    })?;
    let rebuilt = rebuild(&object, memory / 4, &mut |pickle, id| resolve(pickle, id, &storages, &tensors));
    let rebuilt =
        rebuilt.ok_or_else(|| source.too_large("memory of the tensors' descriptions", memory / 4))?;
    drop(object);
    from_tree(source, Container::TorchTar, rebuilt, memory)
}

/// A storage, and which elements of it.
#[derive(Clone)]
struct Part {
    storage: Arc<Storage>,
    element: Element,
    offset: usize,
    numel: usize,
}

/// Pickles and raw bytes that follow each other.
struct Reader<'a> {
    source: &'a Source<'a>,
    at: usize,
}

impl Reader<'_> {
    fn pickle(&mut self) -> Result<Pickle, String> {
        // Each is small: a number, or a tuple. The memory is for values that are shared by all pickles.
        let memory = self.source.memory_of(self.source.bytes.len());
        let pickle = pickle::read(&self.source.bytes, self.at, memory).map_err(|error| error.to_string())?;
        self.at = pickle.end();
        Ok(pickle)
    }

    fn count(&mut self) -> Result<usize, String> {
        let pickle = self.pickle()?;
        let n = pickle.int(pickle.root()).and_then(|n| usize::try_from(n).ok());
        let n = n.ok_or("their number is none")?;
        // Each takes more than a byte.
        if n > self.source.bytes.len() { Err(format!("there are fewer than {n}")) } else { Ok(n) }
    }

    fn long(&mut self) -> Result<usize, String> {
        let bytes = self.source.bytes.get(self.at..).and_then(|b| b.first_chunk::<8>());
        let value = i64::from_le_bytes(*bytes.ok_or("a number is truncated")?);
        self.at += 8;
        usize::try_from(value).map_err(|_| "a size is negative".to_owned())
    }
}

/// Keys are numbers, or their text.
fn key(pickle: &Pickle, id: Id) -> Option<String> {
    match pickle.node(id) {
        Node::Int(n) => Some(n.to_string()),
        Node::Str(text) if text.as_str().len() < 64 => Some(text.to_string()),
        _ => None,
    }
}

fn read_storages(source: &Source<'_>) -> Result<BTreeMap<String, Part>, String> {
    let mut reader = Reader { source, at: 0 };
    let mut storages = BTreeMap::new();
    for _ in 0..reader.count()? {
        let args = reader.pickle()?;
        let Some(&[name, _, class]) = args.items(args.root()) else {
            return Err("the description of a storage is no triple".to_owned());
        };
        let name = key(&args, name).ok_or("the key of a storage is no number")?;
        let element = args.global(class).and_then(|(module, name)| storage_class(module, name));
        let element = element.ok_or_else(|| format!("storage `{name}` is of no class that is known"))?;
        let (storage, end) = raw_storage(source, reader.at, &name, element)?;
        reader.at = end;
        let numel = storage.bytes.len() / element.size().unwrap_or(1);
        storages.insert(name, Part { storage, element, offset: 0, numel });
    }
    let views = reader.pickle()?;
    for &view in views.items(views.root()).ok_or("the views are no list")? {
        let Some(&[target, root, offset, numel]) = views.items(view) else {
            return Err("the description of a view is no quadruple".to_owned());
        };
        let size = |id| views.int(id).and_then(|n| usize::try_from(n).ok()).ok_or("a size of a view is none");
        let target = key(&views, target).ok_or("the key of a view is no number")?;
        let root = key(&views, root).and_then(|root| storages.get(&root));
        let root = root.ok_or_else(|| format!("view `{target}` is of no storage"))?;
        let (offset, numel) = (size(offset)?, size(numel)?);
        if offset.checked_add(numel).is_none_or(|end| end > root.numel) {
            return Err(format!("view `{target}` does not lie in its storage"));
        }
        let part = Part { offset: root.offset + offset, numel, ..root.clone() };
        storages.insert(target, part);
    }
    Ok(storages)
}

fn read_tensors(
    source: &Source<'_>,
    storages: &BTreeMap<String, Part>,
) -> Result<BTreeMap<String, CheckpointTensor>, String> {
    let mut reader = Reader { source, at: 0 };
    let mut tensors = BTreeMap::new();
    for _ in 0..reader.count()? {
        let args = reader.pickle()?;
        let Some(&[name, storage, _]) = args.items(args.root()) else {
            return Err("the description of a tensor is no triple".to_owned());
        };
        let name = key(&args, name).ok_or("the key of a tensor is no number")?;
        let part = key(&args, storage).and_then(|storage| storages.get(&storage));
        let part = part.ok_or_else(|| format!("tensor `{name}` is in no storage"))?;
        // The number of dimensions takes four bytes; four more are left over from when it took eight.
        let rank = source.bytes.get(reader.at..).and_then(|b| b.first_chunk::<4>());
        let rank = u32::from_le_bytes(*rank.ok_or("a number is truncated")?);
        let rank = usize::try_from(rank).unwrap_or(usize::MAX);
        reader.at += 8;
        if rank > MAX_RANK {
            return Err(format!("tensor `{name}`: {}", TensorFault::Rank(rank)));
        }
        let shape = (0..rank).map(|_| reader.long()).collect::<Result<Vec<_>, _>>()?;
        let strides = (0..rank).map(|_| reader.long()).collect::<Result<Vec<_>, _>>()?;
        let offset = reader.long()?.checked_add(part.offset).ok_or("an offset is too large")?;
        let tensor = CheckpointTensor::strided(part.element, shape, strides, offset, part.storage.clone());
        let tensor = tensor.map_err(|fault| format!("tensor `{name}`: {fault}"))?;
        tensors.insert(name, tensor);
    }
    Ok(tensors)
}

fn resolve(
    pickle: &Pickle,
    id: Id,
    storages: &BTreeMap<String, Part>,
    tensors: &BTreeMap<String, CheckpointTensor>,
) -> Result<Resolved, TensorFault> {
    let wrong = |what: &str| TensorFault::Description(what.to_owned());
    if let Some(parts) = pickle.items(id) {
        // A class, with its source text.
        let class = parts
            .first()
            .and_then(|&class| pickle.global(class))
            .ok_or_else(|| wrong("it names no class"))?;
        return Ok(Resolved::Name(format!("{:.200}.{:.200}", class.0, class.1)));
    }
    let name = key(pickle, id).ok_or_else(|| wrong("its number is none"))?;
    if let Some(tensor) = tensors.get(&name) {
        return Ok(Resolved::Tensor(tensor.clone()));
    }
    let part = storages.get(&name).cloned().ok_or_else(|| wrong("it refers to no tensor or storage"))?;
    let Part { storage, element, offset, numel } = part;
    Ok(Resolved::Storage { storage, element, numel, offset })
}
