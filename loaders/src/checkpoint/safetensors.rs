//! safetensors: a JSON header and the tensors' bytes behind it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde::de::{self, Deserializer as _, MapAccess, Visitor};

use super::element::Element;
use super::error::CheckpointError;
use super::pickle::Text;
use super::tensor::{ByteOrder, CheckpointTensor, Storage};
use super::tree::{Item, Tree};
use super::{Checkpoint, Container, Entry, Source};

/// The longest header, as the format bounds it.
const MAX_HEADER: u64 = 100_000_000;

/// Whether the content is such a file, as far as its first bytes tell.
pub(crate) fn is_safetensors(bytes: &[u8]) -> bool {
    let length = bytes.first_chunk::<8>().map(|b| u64::from_le_bytes(*b));
    length.is_some_and(|n| (2..MAX_HEADER).contains(&n)) && bytes.get(8) == Some(&b'{')
}

/// Reads a file. Tensors must fill the file behind the header, without gaps and without sharing bytes, as the format
/// demands.
pub(super) fn read(source: &Source<'_>) -> Result<Checkpoint, CheckpointError> {
    let malformed = |reason: String| CheckpointError::Malformed {
        path: source.name(),
        part: "header".to_owned(),
        reason,
    };
    let bytes = &source.bytes;
    let length = bytes.first_chunk::<8>().map(|b| u64::from_le_bytes(*b)).unwrap_or(0);
    let data_start =
        usize::try_from(length).ok().and_then(|n| n.checked_add(8)).filter(|&n| n <= bytes.len());
    let data_start = data_start.ok_or_else(|| malformed(format!("{length} bytes of it exceed the file")))?;
    let text = bytes.get(8..data_start).unwrap_or(&[]);
    let mut json = serde_json::Deserializer::from_slice(text);
    let header = json.deserialize_map(HeaderVisitor).and_then(|header| json.end().map(|()| header));
    let header = header.map_err(|error| malformed(error.to_string()))?;

    let mut tensors = Vec::with_capacity(header.tensors.len());
    let mut entries = Vec::with_capacity(header.tensors.len());
    let mut ranges = Vec::with_capacity(header.tensors.len());
    for info in header.tensors {
        let fault = |source_fault| CheckpointError::Tensor {
            path: source.name(),
            tensor: info.name.clone(),
            source: source_fault,
        };
        let description = |text: String| fault(super::tensor::TensorFault::Description(text));
        let element = Element::of_safetensors(&info.dtype);
        let element =
            element.ok_or_else(|| description(format!("`{:.80}` is no dtype of safetensors", info.dtype)))?;
        let [from, to] = info.data_offsets;
        let range = data_start.checked_add(from).zip(data_start.checked_add(to));
        let range = range.filter(|(from, to)| from <= to && *to <= bytes.len());
        let (start, end) =
            range.ok_or_else(|| description(format!("bytes {from} to {to} exceed the data")))?;
        let storage =
            Storage { name: info.name.clone(), bytes: bytes.slice(start..end), order: ByteOrder::Little };
        let tensor = CheckpointTensor::dense(element, info.shape, Arc::new(storage)).map_err(fault)?;
        if tensor.byte_len() != end - start {
            let takes = tensor.byte_len();
            return Err(description(format!(
                "dtype and shape take {takes} bytes, and it has {}",
                end - start
            )));
        }
        ranges.push((start, end));
        entries.push(Entry { name: info.name, tensor: tensors.len() });
        tensors.push(tensor);
    }
    ranges.sort_unstable();
    let filled = ranges.iter().try_fold(data_start, |at, &(start, end)| (start == at).then_some(end));
    if filled != Some(bytes.len()) {
        return Err(malformed("the tensors leave gaps in the data, or share bytes of it".to_owned()));
    }
    // In the order of their bytes, which is that of the saved model.
    entries.sort_by_key(|entry| {
        let view = tensors.get(entry.tensor).and_then(CheckpointTensor::view);
        view.map_or(0, |view| view.storage.bytes.as_ptr().addr())
    });
    Ok(Checkpoint {
        container: Container::Safetensors,
        tensors,
        entries,
        tree: metadata(header.metadata),
        opaque: vec![],
    })
}

/// The texts of the header as a tree.
fn metadata(pairs: Vec<(String, String)>) -> Tree {
    let mut tree = Tree::builder();
    let items =
        pairs.into_iter().map(|(key, value)| (key, tree.add(Item::Text(Text::from(value))))).collect();
    let root = tree.dict(items);
    tree.finish(root)
}

struct Info {
    name: String,
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [usize; 2],
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [usize; 2],
}

struct Header {
    tensors: Vec<Info>,
    metadata: Vec<(String, String)>,
}

/// Reads the header's object key by key, so that a name that comes twice is noticed.
struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut header = Header { tensors: Vec::new(), metadata: Vec::new() };
        let mut names = BTreeSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if !names.insert(name.clone()) {
                return Err(de::Error::custom(format!("`{name:.80}` comes twice")));
            }
            if name == "__metadata__" {
                let pairs = map.next_value::<std::collections::BTreeMap<String, String>>()?;
                header.metadata = pairs.into_iter().collect();
            } else {
                let Description { dtype, shape, data_offsets } = map.next_value()?;
                header.tensors.push(Info { name, dtype, shape, data_offsets });
            }
        }
        Ok(header)
    }
}
