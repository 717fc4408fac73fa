//! Zip archives whose entries stay mapped.
//!
//! Entries are found through the central directory alone and must agree with their local headers; two entries of one
//! name, or that share bytes, make the archive invalid, since readers disagree about what such an archive holds. Sizes and
//! offsets of zip64 are read. Stored entries are parts of the map; deflated ones are inflated within a bound. Check sums
//! are not verified: torch may leave them out, and verifying would read every weight.
//!
//! Layout: APPNOTE.TXT of PKWARE, sections 4.3 and 4.5.

use std::io::Read as _;

use bytes::Bytes;
use rustc_hash::FxHashMap;

/// Why an archive cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ZipError {
    /// No central directory.
    #[error("the zip archive has no directory at its end; it is truncated, or no zip archive")]
    NoDirectory,
    /// The directory or what leads to it is wrong.
    #[error("the directory of the zip archive is damaged: {0}")]
    Directory(&'static str),
    /// An entry is wrong.
    #[error("entry `{entry}` of the zip archive: {reason}")]
    Entry {
        /// Its name.
        entry: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// There is no such entry.
    #[error("the zip archive has no entry `{0}`")]
    Missing(String),
    /// A compressed entry is too large.
    #[error(
        "entry `{entry}` of the zip archive takes {size} bytes when it is inflated, more than the limit of {limit}"
    )]
    Limit {
        /// Its name.
        entry: String,
        /// The size that it states.
        size: u64,
        /// The limit.
        limit: usize,
    },
}

struct Entry {
    name: String,
    method: u16,
    encrypted: bool,
    /// Bytes in the archive and of the content.
    stored: usize,
    size: u64,
    /// First byte of the stored data.
    start: usize,
}

/// An archive.
pub struct Archive {
    bytes: Bytes,
    entries: Vec<Entry>,
    by_name: FxHashMap<String, usize>,
}

const LOCAL: &[u8] = b"PK\x03\x04";
const CENTRAL: &[u8] = b"PK\x01\x02";
const END: &[u8] = b"PK\x05\x06";
const END64: &[u8] = b"PK\x06\x06";
const LOCATOR64: &[u8] = b"PK\x06\x07";
/// Sizes of these records without their variable parts.
const LOCAL_SIZE: usize = 30;
const CENTRAL_SIZE: usize = 46;
const END_SIZE: usize = 22;
const LOCATOR64_SIZE: usize = 20;

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|b| u16::from_le_bytes(*b))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|b| u64::from_le_bytes(*b))
}

/// Where the central directory is, and how many entries it has.
struct Directory {
    start: usize,
    end: usize,
    count: u64,
}

impl Directory {
    fn find(bytes: &[u8]) -> Result<Directory, ZipError> {
        // The record is followed by a comment of at most 65535 bytes.
        let last = bytes.len().checked_sub(END_SIZE).ok_or(ZipError::NoDirectory)?;
        let first = last.saturating_sub(65_535);
        let fits = |at: &usize| {
            bytes.get(*at..).is_some_and(|b| b.starts_with(END))
                && u16_at(bytes, at + 20).is_some_and(|n| at + END_SIZE + usize::from(n) == bytes.len())
        };
        let end = (first..=last).rev().find(fits).ok_or(ZipError::NoDirectory)?;
        let short = |at| u16_at(bytes, end + at).map(u64::from).ok_or(ZipError::NoDirectory);
        let long = |at| u32_at(bytes, end + at).map(u64::from).ok_or(ZipError::NoDirectory);
        let (mut count, mut size, mut offset) = (short(10)?, long(12)?, long(16)?);
        let mut disks = [short(4)?, short(6)?];
        let mut limit = end;
        let locator = end.checked_sub(LOCATOR64_SIZE);
        let locator = locator.filter(|&at| bytes.get(at..).is_some_and(|b| b.starts_with(LOCATOR64)));
        if let Some(locator) = locator {
            let damaged = ZipError::Directory("the record of zip64 is not where it should be");
            let at = u64_at(bytes, locator + 8).and_then(|n| usize::try_from(n).ok());
            let at = at.filter(|&at| at <= locator && bytes.get(at..).is_some_and(|b| b.starts_with(END64)));
            let at = at.ok_or_else(|| damaged.clone())?;
            let long = |i: usize| u64_at(bytes, at + i).ok_or_else(|| damaged.clone());
            (count, size, offset) = (long(32)?, long(40)?, long(48)?);
            let disk = |i: usize| u32_at(bytes, at + i).map(u64::from).ok_or_else(|| damaged.clone());
            disks = [disk(16)?, disk(20)?];
            limit = at;
        }
        if disks.iter().any(|&n| n != 0) {
            return Err(ZipError::Directory("it spans several disks"));
        }
        let range =
            usize::try_from(offset).ok().zip(offset.checked_add(size).and_then(|n| n.try_into().ok()));
        match range {
            Some((start, end)) if start <= end && end <= limit => Ok(Directory { start, end, count }),
            _ => Err(ZipError::Directory("it does not lie in the file")),
        }
    }
}

impl Archive {
    /// Reads the directory of an archive. Entries are read when they are asked for.
    pub fn open(bytes: Bytes) -> Result<Archive, ZipError> {
        let directory = Directory::find(&bytes)?;
        let table = bytes.get(directory.start..directory.end).unwrap_or(&[]);
        if directory.count > (table.len() / CENTRAL_SIZE) as u64 {
            return Err(ZipError::Directory("it has fewer entries than it states"));
        }
        let mut archive =
            Archive { bytes: bytes.clone(), entries: Vec::new(), by_name: FxHashMap::default() };
        let mut at = 0;
        let mut ranges = Vec::new();
        for _ in 0..directory.count {
            let record = table.get(at..).unwrap_or(&[]);
            let (entry, header, length) = central(record)?;
            at += length;
            let (entry, end) = local(&bytes, entry, header, directory.start)?;
            ranges.push((header, end, archive.entries.len()));
            if archive.by_name.insert(entry.name.clone(), archive.entries.len()).is_some() {
                return Err(ZipError::Entry { entry: entry.name, reason: "there are two of this name" });
            }
            archive.entries.push(entry);
        }
        if at != table.len() {
            return Err(ZipError::Directory("there are more bytes in it than its entries take"));
        }
        ranges.sort_unstable();
        for pair in ranges.windows(2) {
            if let [(_, end, _), (start, _, index)] = pair
                && start < end
            {
                let entry = archive.entries.get(*index).map(|e| e.name.clone()).unwrap_or_default();
                return Err(ZipError::Entry { entry, reason: "it shares bytes with another entry" });
            }
        }
        Ok(archive)
    }

    /// Names of the entries, in the directory's order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.name.as_str())
    }

    /// Whether the content of an entry is a part of the map.
    pub fn is_mapped(&self, name: &str) -> bool {
        self.by_name.get(name).and_then(|&i| self.entries.get(i)).is_some_and(|entry| entry.method == 0)
    }

    /// The content of an entry: a part of the map, or if it is compressed, an allocation of at most `limit` bytes.
    pub fn read(&self, name: &str, limit: usize) -> Result<Bytes, ZipError> {
        let entry = self.by_name.get(name).and_then(|&i| self.entries.get(i));
        let entry = entry.ok_or_else(|| ZipError::Missing(name.to_owned()))?;
        let fault = |reason| ZipError::Entry { entry: entry.name.clone(), reason };
        if entry.encrypted {
            return Err(fault("it is encrypted"));
        }
        let data = self.bytes.slice(entry.start..entry.start + entry.stored);
        match entry.method {
            0 if entry.size == entry.stored as u64 => Ok(data),
            0 => Err(fault("it is stored, and its two sizes differ")),
            8 => {
                let size = usize::try_from(entry.size).ok().filter(|&size| size <= limit);
                let size = size.ok_or_else(|| ZipError::Limit {
                    entry: entry.name.clone(),
                    size: entry.size,
                    limit,
                })?;
                let mut out = Vec::new();
                // One byte more would show that the size is a lie.
                let bound = entry.size.saturating_add(1);
                let inflated = flate2::read::DeflateDecoder::new(&data[..]).take(bound).read_to_end(&mut out);
                match inflated {
                    Ok(n) if n == size => Ok(Bytes::from(out)),
                    Ok(_) => Err(fault("it does not have the size that it states")),
                    Err(_) => Err(fault("its compressed data is damaged")),
                }
            }
            _ => Err(fault("its compression is neither none nor deflate")),
        }
    }
}

/// An entry of the central directory, the offset of its local header, and the length of its record.
fn central(record: &[u8]) -> Result<(Entry, usize, usize), ZipError> {
    let damaged = ZipError::Directory("an entry is truncated, or is none");
    if !record.starts_with(CENTRAL) || record.len() < CENTRAL_SIZE {
        return Err(damaged);
    }
    let short = |at| u16_at(record, at).unwrap_or(0);
    let long = |at| u32_at(record, at).unwrap_or(0);
    let (name_length, extra_length) = (usize::from(short(28)), usize::from(short(30)));
    let length = CENTRAL_SIZE + name_length + extra_length + usize::from(short(32));
    let extra_start = CENTRAL_SIZE + name_length;
    let (Some(name), Some(extra)) =
        (record.get(CENTRAL_SIZE..extra_start), record.get(extra_start..extra_start + extra_length))
    else {
        return Err(damaged);
    };
    if record.len() < length {
        return Err(damaged);
    }
    let name = String::from_utf8(name.to_vec());
    let name = name.map_err(|_| ZipError::Directory("the name of an entry is not UTF-8"))?;
    let fault = |reason| ZipError::Entry { entry: name.clone(), reason };
    let mut wide = zip64(extra);
    // Values of zip64 stand in this order, each only if the field of 32 bits is full.
    let mut value = |short: u32| match short {
        u32::MAX => wide.next().ok_or_else(|| fault("a size of zip64 is missing")),
        short => Ok(u64::from(short)),
    };
    let (size, stored, header) = (value(long(24))?, value(long(20))?, value(long(42))?);
    let outside = |_| fault("it does not lie in the file");
    let stored = usize::try_from(stored).map_err(outside)?;
    let header = usize::try_from(header).map_err(outside)?;
    let (method, encrypted) = (short(10), short(8) & 1 != 0);
    Ok((Entry { name, method, encrypted, stored, size, start: 0 }, header, length))
}

/// The numbers of 64 bits in an extra field.
fn zip64(extra: &[u8]) -> impl Iterator<Item = u64> {
    let mut rest = extra;
    let mut field: &[u8] = &[];
    while let (Some(id), Some(length)) = (u16_at(rest, 0), u16_at(rest, 2)) {
        let end = 4 + usize::from(length);
        if id == 1 {
            field = rest.get(4..end).unwrap_or(&[]);
            break;
        }
        rest = rest.get(end..).unwrap_or(&[]);
    }
    field.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b))
}

/// Finds the data of an entry behind its local header; gives the end of the data too.
fn local(bytes: &[u8], mut entry: Entry, header: usize, limit: usize) -> Result<(Entry, usize), ZipError> {
    let fault = |entry: &Entry, reason| ZipError::Entry { entry: entry.name.clone(), reason };
    let record = bytes.get(header..limit).unwrap_or(&[]);
    if !record.starts_with(LOCAL) || record.len() < LOCAL_SIZE {
        return Err(fault(&entry, "its header is not where the directory says"));
    }
    let (name, extra) = (u16_at(record, 26).unwrap_or(0), u16_at(record, 28).unwrap_or(0));
    let name_end = LOCAL_SIZE + usize::from(name);
    if record.get(LOCAL_SIZE..name_end) != Some(entry.name.as_bytes()) {
        return Err(fault(&entry, "its header has another name"));
    }
    if u16_at(record, 8) != Some(entry.method) {
        return Err(fault(&entry, "its header has another compression"));
    }
    let start = name_end + usize::from(extra);
    let end = start.checked_add(entry.stored).filter(|&end| end <= record.len());
    let end = end.ok_or_else(|| fault(&entry, "its data does not lie in the file"))?;
    entry.start = header + start;
    Ok((entry, header + end))
}
