//! GGUF, versions 2 and 3: typed metadata, descriptions of tensors, and their blocks. Dequantization is in `ggml.rs`.
//!
//! Layout: `docs/gguf.md` of ggml.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::error::CheckpointError;
use super::ggml;
use super::pickle::Text;
use super::tensor::{ByteOrder, CheckpointTensor, Storage};
use super::tree::{Item, ItemId, Tree, TreeBuilder};
use super::{Checkpoint, Container, Entry, Source};

/// Nesting of arrays in the metadata.
const MAX_NESTING: usize = 8;
/// What a value and a description count as, in bytes, beside their texts.
const VALUE: usize = 2 * size_of::<Item>() + 16;
const DESCRIPTION: usize = 512;

/// Reads a file.
pub(super) fn read(source: &Source<'_>) -> Result<Checkpoint, CheckpointError> {
    let memory = source.memory_of(source.bytes.len());
    let mut reader = Reader { bytes: &source.bytes, at: 4, left: memory };
    contents(&mut reader).map_err(|(part, reason)| CheckpointError::Malformed {
        path: source.name(),
        part: part.unwrap_or_else(|| format!("byte {}", reader.at)),
        reason,
    })
}

/// What is wrong, and with what if not with the byte that was read last.
type Fault = (Option<String>, String);

fn fault<T>(reason: impl Into<String>) -> Result<T, Fault> {
    Err((None, reason.into()))
}

struct Reader<'a> {
    bytes: &'a Bytes,
    at: usize,
    left: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let chunk = self.bytes.get(self.at..).and_then(|b| b.first_chunk::<N>());
        let Some(chunk) = chunk else { return fault("the file ends here") };
        self.at += N;
        Ok(*chunk)
    }

    fn u32(&mut self) -> Result<u32, Fault> {
        self.take().map(u32::from_le_bytes)
    }

    fn size(&mut self) -> Result<usize, Fault> {
        let n = self.take().map(u64::from_le_bytes)?;
        usize::try_from(n).or_else(|_| fault(format!("{n} is too large")))
    }

    /// A number of things that take at least `each` bytes of the file, and `memory` bytes when read.
    fn count(&mut self, each: usize, memory: usize) -> Result<usize, Fault> {
        let n = self.size()?;
        let rest = self.bytes.len().saturating_sub(self.at);
        if n > rest / each.max(1) {
            return fault(format!("{n} things of {each} bytes are announced, and {rest} bytes are left"));
        }
        let Some(left) = n.checked_mul(memory).and_then(|bytes| self.left.checked_sub(bytes)) else {
            return fault("the metadata takes too much memory");
        };
        self.left = left;
        Ok(n)
    }

    fn text(&mut self) -> Result<Text, Fault> {
        let length = self.count(1, 0)?;
        let text = Text::new(self.bytes.slice(self.at..self.at + length));
        self.at += length;
        text.map_or_else(|| fault("text is not UTF-8"), Ok)
    }

    /// A value of a type by its number.
    fn value(&mut self, kind: u32, tree: &mut TreeBuilder, depth: usize) -> Result<ItemId, Fault> {
        let item = match kind {
            0 => Item::Int(i64::from(u8::from_le_bytes(self.take()?))),
            1 => Item::Int(i64::from(i8::from_le_bytes(self.take()?))),
            2 => Item::Int(i64::from(u16::from_le_bytes(self.take()?))),
            3 => Item::Int(i64::from(i16::from_le_bytes(self.take()?))),
            4 => Item::Int(i64::from(self.u32()?)),
            5 => Item::Int(i64::from(i32::from_le_bytes(self.take()?))),
            6 => Item::Float(f64::from(f32::from_le_bytes(self.take()?))),
            7 => match self.take::<1>()? {
                [0] => Item::Bool(false),
                [1] => Item::Bool(true),
                [other] => return fault(format!("{other} is no bool")),
            },
            8 => Item::Text(self.text()?),
            9 => {
                if depth >= MAX_NESTING {
                    return fault("arrays are nested too deep");
                }
                let inner = self.u32()?;
                let each = match inner {
                    0 | 1 | 7 => 1,
                    2 | 3 => 2,
                    4..=6 => 4,
                    9 => 12,
                    _ => 8,
                };
                let count = self.count(each, VALUE)?;
                let mut items = Vec::with_capacity(count);
                for _ in 0..count {
                    items.push(self.value(inner, tree, depth + 1)?);
                }
                Item::List(items)
            }
            10 => {
                let n = u64::from_le_bytes(self.take()?);
                i64::try_from(n).map_or_else(|_| Item::Integer(n.to_string()), Item::Int)
            }
            11 => Item::Int(i64::from_le_bytes(self.take()?)),
            12 => Item::Float(f64::from_le_bytes(self.take()?)),
            other => return fault(format!("{other} is no type of metadata")),
        };
        Ok(tree.add(item))
    }
}

fn contents(reader: &mut Reader<'_>) -> Result<Checkpoint, Fault> {
    let version = reader.u32()?;
    match version {
        2 | 3 => {}
        _ if matches!(version.swap_bytes(), 1..=3) => return fault("big-endian files are not supported"),
        1 => return fault("version 1 is not supported; versions 2 and 3 are"),
        other => return fault(format!("version {other} is not known; versions 2 and 3 are")),
    }
    // A description has a name, a rank, a type and an offset; an entry of the metadata a name, a type and a value.
    let tensor_count = reader.count(24, DESCRIPTION)?;
    let pair_count = reader.count(13, 2 * VALUE)?;
    let mut tree = Tree::builder();
    let mut pairs = Vec::with_capacity(pair_count);
    let mut alignment = 32;
    for _ in 0..pair_count {
        let key = reader.text()?;
        let kind = reader.u32()?;
        let before = reader.at;
        let value = reader.value(kind, &mut tree, 0)?;
        if key.as_str() == "general.alignment" {
            let four = reader.bytes.get(before..).and_then(|b| b.first_chunk::<4>());
            let stated = four.filter(|_| kind == 4).map(|b| u32::from_le_bytes(*b));
            alignment = match stated.and_then(|n| usize::try_from(n).ok()) {
                Some(n) if n.is_power_of_two() && n >= 8 => n,
                _ => return fault("the alignment is no power of two from 8 on"),
            };
        }
        pairs.push((tree.add(Item::Text(key)), value));
    }
    let mut names = BTreeSet::new();
    let mut infos = Vec::with_capacity(tensor_count);
    for _ in 0..tensor_count {
        let name = reader.text()?.to_string();
        if !names.insert(name.clone()) {
            return Err((Some(format!("tensor `{name:.200}`")), "it comes twice".to_owned()));
        }
        infos.push((name, info(reader)?));
    }
    let start = reader.at.checked_next_multiple_of(alignment).unwrap_or(usize::MAX);
    let (mut tensors, mut entries) = (Vec::with_capacity(tensor_count), Vec::with_capacity(tensor_count));
    for (name, info) in infos {
        let tensor = tensor(reader.bytes, start, alignment, &name, info);
        let tensor = tensor.map_err(|reason| (Some(format!("tensor `{name:.200}`")), reason))?;
        entries.push(Entry { name, tensor: tensors.len() });
        tensors.push(tensor);
    }
    let root = tree.add(Item::Dict { pairs, attributes: None });
    let tree = tree.finish(root);
    Ok(Checkpoint { container: Container::Gguf, tensors, entries, tree, opaque: vec![] })
}

struct Info {
    shape: Vec<usize>,
    kind: u32,
    offset: usize,
}

fn info(reader: &mut Reader<'_>) -> Result<Info, Fault> {
    let rank = reader.u32()?;
    if rank > 8 {
        return fault(format!("{rank} dimensions are too many"));
    }
    // The innermost dimension comes first.
    let mut shape = (0..rank).map(|_| reader.size()).collect::<Result<Vec<_>, _>>()?;
    shape.reverse();
    Ok(Info { shape, kind: reader.u32()?, offset: reader.size()? })
}

fn tensor(
    bytes: &Bytes,
    data: usize,
    alignment: usize,
    name: &str,
    Info { shape, kind, offset }: Info,
) -> Result<CheckpointTensor, String> {
    let element = ggml::element(kind).ok_or_else(|| format!("type {kind} is not known"))?;
    if offset % alignment != 0 {
        return Err(format!("its offset {offset} is not a multiple of {alignment}"));
    }
    let count = super::tensor::count(&shape).map_err(|fault| fault.to_string())?;
    let row = shape.last().copied().unwrap_or(1);
    let length = element.bytes_for(count).filter(|_| element.bytes_for(row).is_some());
    let length = length.ok_or_else(|| format!("rows of {row} do not fill blocks of type {element}"))?;
    let range = data.checked_add(offset).and_then(|start| Some((start, start.checked_add(length)?)));
    let range = range.filter(|(_, end)| *end <= bytes.len());
    let (start, end) =
        range.ok_or_else(|| format!("its {length} bytes at offset {offset} exceed the file"))?;
    let storage = Storage { name: name.to_owned(), bytes: bytes.slice(start..end), order: ByteOrder::Little };
    CheckpointTensor::dense(element, shape, Arc::new(storage)).map_err(|fault| fault.to_string())
}
