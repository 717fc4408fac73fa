//! Checkpoints that mean harm: pickles that would call, archives that lie, headers that announce too much.

mod containers;
mod pickles;

use super::Hostile;

pub fn files() -> Vec<Hostile> {
    [pickles::files(), containers::files()].concat()
}

/// An entry of a zip archive: what its headers say, and its data.
struct Entry<'a> {
    name: &'a [u8],
    local_name: &'a [u8],
    method: u16,
    flags: u16,
    size: u32,
    data: Vec<u8>,
    /// Where the directory says that it is, if not where it is.
    offset: Option<u32>,
}

impl<'a> Entry<'a> {
    fn stored(name: &'a str, data: Vec<u8>) -> Self {
        let (size, name) = (data.len() as u32, name.as_bytes());
        Entry { name, local_name: name, method: 0, flags: 0, size, data, offset: None }
    }
}

/// The bytes of an archive, with so many entries by its own account.
fn zip_of(entries: &[Entry<'_>], count: u16) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for entry in entries {
        let offset = entry.offset.unwrap_or(out.len() as u32);
        let stored = entry.data.len() as u32;
        out.extend(b"PK\x03\x04\x14\0");
        [entry.flags, entry.method, 0, 0].iter().for_each(|n| out.extend(n.to_le_bytes()));
        [0, stored, entry.size].iter().for_each(|n| out.extend(n.to_le_bytes()));
        [entry.local_name.len() as u16, 0].iter().for_each(|n| out.extend(n.to_le_bytes()));
        out.extend(entry.local_name);
        out.extend(&entry.data);
        directory.extend(b"PK\x01\x02\x14\0\x14\0");
        [entry.flags, entry.method, 0, 0].iter().for_each(|n| directory.extend(n.to_le_bytes()));
        [0, stored, entry.size].iter().for_each(|n| directory.extend(n.to_le_bytes()));
        [entry.name.len() as u16, 0, 0, 0, 0, 0, 0].iter().for_each(|n| directory.extend(n.to_le_bytes()));
        directory.extend(offset.to_le_bytes());
        directory.extend(entry.name);
    }
    let start = out.len() as u32;
    out.extend(&directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    [count, count].iter().for_each(|n| out.extend(n.to_le_bytes()));
    [directory.len() as u32, start].iter().for_each(|n| out.extend(n.to_le_bytes()));
    out.extend([0, 0]);
    out
}

/// An archive of entries that are stored.
pub(super) fn archive(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let entries: Vec<Entry<'_>> =
        entries.iter().map(|(name, data)| Entry::stored(name, data.clone())).collect();
    zip_of(&entries, entries.len() as u16)
}

/// A torch archive of a pickle and one storage, `0`, of 16 floats.
fn torch(pickle: Vec<u8>) -> Vec<u8> {
    let entries = [Entry::stored("m/data.pkl", pickle), Entry::stored("m/data/0", vec![0; 64])];
    zip_of(&entries, 2)
}

/// A short text as an instruction.
fn text(s: &str) -> Vec<u8> {
    [&b"X"[..], &(s.len() as u32).to_le_bytes(), s.as_bytes()].concat()
}

/// The pickle of a dict whose only value, `w`, these instructions make.
fn state_dict(value: &[u8]) -> Vec<u8> {
    [&b"\x80\x02}"[..], &text("w"), value, b"s."].concat()
}

/// An integer as an instruction.
fn int(n: i64) -> Vec<u8> {
    [&b"\x8a\x08"[..], &n.to_le_bytes()].concat()
}

/// A storage as an instruction: its class, key and number of elements.
fn storage(class: &str, key: &str, numel: i64) -> Vec<u8> {
    let (module, name) = class.rsplit_once('.').unwrap_or(("torch", class));
    let class = format!("c{module}\n{name}\n").into_bytes();
    [&b"("[..], &text("storage"), &class, &text(key), &text("cpu"), &int(numel), b"tQ"].concat()
}

/// Integers as a tuple.
fn tuple(items: &[i64]) -> Vec<u8> {
    let items: Vec<u8> = items.iter().flat_map(|&n| int(n)).collect();
    [&b"("[..], &items, b"t"].concat()
}

/// A tensor of floats in storage `0`.
fn tensor(offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    tensor_in(&storage("torch.FloatStorage", "0", 16), offset, shape, strides)
}

fn tensor_in(storage: &[u8], offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    let args = [storage, &int(offset), &tuple(shape), &tuple(strides)].concat();
    [&b"ctorch._utils\n_rebuild_tensor_v2\n("[..], &args, b"\x89ccollections\nOrderedDict\n)RtR"].concat()
}
