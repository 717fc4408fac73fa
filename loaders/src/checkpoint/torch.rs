//! Checkpoints as `torch.save` writes them: a zip archive of a pickle and one entry a storage.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::element::Element;
use super::error::CheckpointError;
use super::pickle::{self, Id, Node, Pickle};
use super::rebuild::{Resolved, rebuild};
use super::tensor::{ByteOrder, Storage, TensorFault};
use super::zip::{Archive, ZipError};
use super::{Checkpoint, Container, Source, from_tree};

/// The longest key of a storage, or text that stands for one.
const MAX_KEY: usize = 512;

/// Reads an archive.
pub(super) fn read(source: &Source<'_>) -> Result<Checkpoint, CheckpointError> {
    let zip = |error| CheckpointError::Zip { path: source.name(), source: error };
    let archive = Archive::open(source.bytes.clone()).map_err(zip)?;
    let prefix = prefix(&archive).ok_or_else(|| zip(ZipError::Missing("data.pkl".to_owned())))?.to_owned();
    read_part(source, &archive, &prefix, "data")
}

/// Reads the pickle `PART.pkl` of an archive; its storages are in the folder `PART`.
pub(super) fn read_part(
    source: &Source<'_>,
    archive: &Archive,
    prefix: &str,
    part: &str,
) -> Result<Checkpoint, CheckpointError> {
    let zip = |error| CheckpointError::Zip { path: source.name(), source: error };
    let entry = format!("{prefix}{part}.pkl");
    let limit = source.limits.structure_of(source.bytes.len());
    let content = archive.read(&entry, limit).map_err(zip)?;
    let memory = source.memory_of(content.len());
    let pickle = pickle::read(&content, 0, memory).map_err(|error| CheckpointError::Pickle {
        path: source.name(),
        entry: entry.clone(),
        source: error,
    })?;
    let order = byte_order(source, archive, prefix)?;
    let folder = format!("{prefix}{part}/");
    let mut storages = Storages { archive, folder: &folder, order, limit, open: BTreeMap::new() };
    let rebuilt = rebuild(&pickle, memory / 4, &mut |pickle, id| match persistent(pickle, id)? {
        Persistent::Storage(description) => storages.resolve(&description),
        Persistent::Name(name) => Ok(Resolved::Name(name)),
    });
    let rebuilt =
        rebuilt.ok_or_else(|| source.too_large("memory of the tensors' descriptions", memory / 4))?;
    drop(pickle);
    from_tree(source, Container::TorchZip, rebuilt, memory)
}

fn byte_order(source: &Source<'_>, archive: &Archive, prefix: &str) -> Result<ByteOrder, CheckpointError> {
    match archive.read(&format!("{prefix}byteorder"), 64) {
        Ok(text) if &text[..] == b"big" => Ok(ByteOrder::Big),
        Ok(text) if &text[..] == b"little" => Ok(ByteOrder::Little),
        Ok(_) => {
            let (part, reason) = ("byteorder".to_owned(), "it is neither `little` nor `big`".to_owned());
            Err(CheckpointError::Malformed { path: source.name(), part, reason })
        }
        // Archives of before torch 2.1 have no such entry.
        Err(ZipError::Missing(_)) => Ok(ByteOrder::Little),
        Err(error) => Err(CheckpointError::Zip { path: source.name(), source: error }),
    }
}

/// What the names of all entries begin with, up to that of the pickle.
pub(super) fn prefix(archive: &Archive) -> Option<&str> {
    let pickles = archive.names().filter_map(|name| name.strip_suffix("data.pkl"));
    pickles.filter(|prefix| prefix.is_empty() || prefix.ends_with('/')).min_by_key(|prefix| prefix.len())
}

struct Storages<'a> {
    archive: &'a Archive,
    /// Where they are, up to the last slash.
    folder: &'a str,
    order: ByteOrder,
    /// Most bytes of all inflated entries together.
    limit: usize,
    /// What was opened, or why it cannot be.
    open: BTreeMap<String, Result<Arc<Storage>, String>>,
}

impl Storages<'_> {
    fn read(&mut self, key: &str) -> Result<Arc<Storage>, String> {
        let entry = format!("{}{key}", self.folder);
        let bytes = self.archive.read(&entry, self.limit).map_err(|error| error.to_string())?;
        if !self.archive.is_mapped(&entry) {
            self.limit = self.limit.saturating_sub(bytes.len());
        }
        Ok(Arc::new(Storage { name: key.to_owned(), bytes, order: self.order }))
    }

    fn resolve(&mut self, description: &Description) -> Result<Resolved, TensorFault> {
        let Description { key, element, numel, view } = description;
        let storage = match self.open.get(key) {
            Some(storage) => storage.clone(),
            None => {
                let storage = self.read(key);
                self.open.insert(key.clone(), storage.clone());
                storage
            }
        };
        let storage = storage.map_err(TensorFault::Description)?;
        if view.is_some() {
            return Err(TensorFault::Description(
                "views of storages have no place in zip archives".to_owned(),
            ));
        }
        let stated = element.storage_bytes(*numel).unwrap_or(usize::MAX);
        if stated > storage.bytes.len() {
            let length = storage.bytes.len();
            return Err(TensorFault::Outside { end: stated, storage: key.clone(), length });
        }
        Ok(Resolved::Storage { storage, element: *element, numel: *numel, offset: 0 })
    }
}

/// What a persistent id of torch says.
pub(super) enum Persistent {
    /// A storage.
    Storage(Description),
    /// A class; torch used to save the source text of modules beside them.
    Name(String),
}

/// A storage as a persistent id describes it.
pub(super) struct Description {
    pub(super) key: String,
    pub(super) element: Element,
    /// Elements of the whole storage.
    pub(super) numel: usize,
    /// If it is a view of that storage: its key, first element and number of elements.
    pub(super) view: Option<(String, usize, usize)>,
}

/// Reads a persistent id: a tuple, or its text where the protocol has no other.
pub(super) fn persistent(pickle: &Pickle, id: Id) -> Result<Persistent, TensorFault> {
    let wrong = |what: &str| TensorFault::Description(format!("its storage's description {what}"));
    let key = |id: Id| match pickle.node(id) {
        Node::Str(text) if text.as_str().len() <= MAX_KEY => Ok(text.to_string()),
        // Keys of old files are numbers.
        Node::Int(n) => Ok(n.to_string()),
        _ => Err(wrong("has no key, or one that is too long")),
    };
    let size = |id: Id| {
        let n = pickle.int(id).and_then(|n| usize::try_from(n).ok());
        n.ok_or_else(|| wrong("has a size that is none"))
    };
    if let Node::Str(text) = pickle.node(id) {
        return spelled(text.as_str())
            .map(Persistent::Storage)
            .ok_or_else(|| wrong("is no text that is known"));
    }
    let parts = pickle.items(id).ok_or_else(|| wrong("is no tuple"))?;
    let kind = parts.first().and_then(|&kind| pickle.text(kind));
    match (kind, parts) {
        (Some("module"), [_, class, ..]) => {
            let (module, name) = pickle.global(*class).ok_or_else(|| wrong("names no class"))?;
            Ok(Persistent::Name(format!("{module:.200}.{name:.200}")))
        }
        (Some("storage"), &[_, class, storage, _, numel, ref rest @ ..]) => {
            let (module, name) = pickle.global(class).ok_or_else(|| wrong("names no class"))?;
            let element =
                storage_class(module, name).ok_or_else(|| wrong("names a class that is no storage"))?;
            let view = match rest.first().map(|&view| (view, pickle.items(view))) {
                None => None,
                Some((_, Some(&[root, offset, length]))) => Some((key(root)?, size(offset)?, size(length)?)),
                Some((view, _)) if pickle.node(view) == &Node::None => None,
                Some(_) => return Err(wrong("has a view that is none")),
            };
            Ok(Persistent::Storage(Description { key: key(storage)?, element, numel: size(numel)?, view }))
        }
        _ => Err(wrong("is of no kind that is known")),
    }
}

/// The element type of a storage class of torch.
pub(super) fn storage_class(module: &str, name: &str) -> Option<Element> {
    (module == "torch" || module.starts_with("torch.")).then(|| Element::of_storage(name)).flatten()
}

/// A persistent id of protocol 0, which writes the tuple as text:
/// `('storage', <class 'torch.FloatStorage'>, '0', 'cpu', 12)`, of legacy files with `, None` or a view at the end.
fn spelled(text: &str) -> Option<Description> {
    let inner = Some(text).filter(|text| text.len() <= MAX_KEY)?.strip_prefix("('storage', <class '")?;
    let (class, rest) = inner.strip_suffix(')')?.split_once("'>, '")?;
    let (key, rest) = rest.split_once("', '")?;
    let (_location, rest) = rest.split_once("', ")?;
    let (numel, view) = rest.split_once(", ").unwrap_or((rest, "None"));
    let view = match view {
        "None" => None,
        view => {
            let (root, rest) = view.strip_prefix("('")?.strip_suffix(')')?.split_once("', ")?;
            let (offset, length) = rest.split_once(", ")?;
            Some((root.to_owned(), offset.parse().ok()?, length.parse().ok()?))
        }
    };
    let (module, name) = class.rsplit_once('.')?;
    let element = storage_class(module, name)?;
    Some(Description { key: key.to_owned(), element, numel: numel.parse().ok()?, view })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storages_spelled_out() {
        let d = spelled("('storage', <class 'torch.storage.UntypedStorage'>, '12', 'cuda:0', 40)").unwrap();
        assert_eq!((d.key.as_str(), d.numel, d.view), ("12", 40, None));
        let d = spelled("('storage', <class 'torch.LongStorage'>, '9', 'cpu', 8, ('7', 1, 2))").unwrap();
        assert_eq!((d.numel, d.view), (8, Some(("7".to_owned(), 1, 2))));
        for wrong in [
            "",
            "('storage', <class 'os.system'>, '1', 'cpu', 4)",
            "('storage', <class 'torch.FloatStorage'>",
        ] {
            assert!(spelled(wrong).is_none(), "{wrong}");
        }
    }
}
