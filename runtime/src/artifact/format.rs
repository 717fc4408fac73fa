//! Layout of an artifact file.
//!
//! ```text
//! 0    magic (8 bytes)
//! 8    format version u32, number of sections u32
//! 16   file length u64
//! 24   sections: kind u32, zero u32, offset u64, length u64, checksum (32 bytes)
//! ...  checksum of everything before it (32 bytes)
//! ```
//!
//! All integers are little-endian. Sections follow in the order plan, code, weights, each starting at a multiple of
//! [`PAGE`] so that code and weights map by themselves; the bytes between are zero.

use super::checksum::{CHECKSUM_LEN, checksum};
use crate::error::{LoadError, Origin};

/// First bytes of every artifact; the high bit and the line ends expose transfers that are not binary.
pub const MAGIC: [u8; 8] = *b"\x89KILN\r\n\x1a";

/// Version of the layout and of the plan's encoding.
pub const FORMAT_VERSION: u32 = 4;

/// Alignment of sections. Machines with larger pages map a little of the neighbours with a section.
pub const PAGE: u64 = 4096;

const FIXED_LEN: usize = 24;
const ENTRY_LEN: usize = 24 + CHECKSUM_LEN;

/// What a section holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SectionKind {
    /// The program, as postcard, behind the offsets of its constants.
    Plan,
    /// Machine code.
    Code,
    /// Data of constants.
    Weights,
}

impl SectionKind {
    /// Every kind, in file order.
    pub const ALL: [SectionKind; 3] = [SectionKind::Plan, SectionKind::Code, SectionKind::Weights];

    /// Name, for errors and listings.
    pub const fn name(self) -> &'static str {
        match self {
            SectionKind::Plan => "plan",
            SectionKind::Code => "code",
            SectionKind::Weights => "weights",
        }
    }

    const fn code(self) -> u32 {
        match self {
            SectionKind::Plan => 1,
            SectionKind::Code => 2,
            SectionKind::Weights => 3,
        }
    }
}

/// One row of the section table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    /// First byte in the file.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
    /// Checksum of the bytes.
    pub checksum: [u8; CHECKSUM_LEN],
}

/// A decoded header: one section of each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the whole file.
    pub file_len: u64,
    /// Sections in the order of [`SectionKind::ALL`].
    pub sections: [Section; 3],
}

impl Header {
    /// Bytes that a header takes.
    pub const LEN: usize = FIXED_LEN + 3 * ENTRY_LEN + CHECKSUM_LEN;

    /// The header's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Header::LEN);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&(self.sections.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.file_len.to_le_bytes());
        for (kind, section) in SectionKind::ALL.into_iter().zip(&self.sections) {
            out.extend_from_slice(&kind.code().to_le_bytes());
            out.extend_from_slice(&[0; 4]);
            out.extend_from_slice(&section.offset.to_le_bytes());
            out.extend_from_slice(&section.len.to_le_bytes());
            out.extend_from_slice(&section.checksum);
        }
        let sum = checksum(&out);
        out.extend_from_slice(&sum);
        out
    }

    /// Decodes and verifies the header of a file with these bytes.
    pub fn decode(file: &[u8], origin: &Origin) -> Result<Header, LoadError> {
        let corrupted = || LoadError::Corrupted { origin: origin.clone(), section: "header" };
        let truncated =
            |expected| LoadError::Truncated { origin: origin.clone(), expected, found: file.len() as u64 };
        let known = file.len().min(MAGIC.len());
        if file[..known] != MAGIC[..known] || file.is_empty() {
            return Err(LoadError::Foreign { origin: origin.clone() });
        }
        let Some(bytes) = file.first_chunk::<{ Header::LEN }>() else {
            return Err(truncated(Header::LEN as u64));
        };
        let mut reader = Reader { bytes, at: MAGIC.len() };
        let version = reader.u32().ok_or_else(corrupted)?;
        if version != FORMAT_VERSION {
            let (origin, supported) = (origin.clone(), FORMAT_VERSION);
            return Err(LoadError::Version { origin, found: version, supported });
        }
        let (body, sum) = bytes.split_at(Header::LEN - CHECKSUM_LEN);
        if checksum(body) != sum {
            return Err(corrupted());
        }
        let header = reader.header().ok_or_else(corrupted)?;
        if header.file_len > file.len() as u64 {
            return Err(truncated(header.file_len));
        }
        if header.file_len != file.len() as u64 {
            return Err(LoadError::Corrupted { origin: origin.clone(), section: "file length" });
        }
        Ok(header)
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let chunk = self.bytes.get(self.at..)?.first_chunk::<N>()?;
        self.at += N;
        Some(*chunk)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    /// The part behind the version; `None` if it contradicts itself.
    fn header(&mut self) -> Option<Header> {
        if self.u32()? != SectionKind::ALL.len() as u32 {
            return None;
        }
        let file_len = self.u64()?;
        let mut sections = [Section { offset: 0, len: 0, checksum: [0; CHECKSUM_LEN] }; 3];
        for (kind, section) in SectionKind::ALL.into_iter().zip(&mut sections) {
            if self.u32()? != kind.code() || self.u32()? != 0 {
                return None;
            }
            *section = Section { offset: self.u64()?, len: self.u64()?, checksum: self.take()? };
            let end = section.offset.checked_add(section.len)?;
            if section.offset % PAGE != 0 || end > file_len {
                return None;
            }
        }
        Some(Header { file_len, sections })
    }
}
