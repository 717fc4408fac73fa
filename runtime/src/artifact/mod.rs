//! The artifact file `.kiln`: one program, its code and its constants, made to be mapped.
//!
//! Opening verifies the checksum of every section before anything in it is used, then the plan's structure; so a
//! damaged file gives a typed error. An artifact is executable code: whoever can write the file can run code in the
//! process that opens it. Trust one as you would trust a shared library.

mod checksum;
mod format;
mod write;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use kiln_ir::Bytes;

pub use checksum::{CHECKSUM_LEN, checksum};
pub use format::{FORMAT_VERSION, Header, MAGIC, PAGE, Section, SectionKind};
pub use write::{ArtifactSize, write, write_to};

use crate::error::{LoadError, Origin};
use crate::map::{CodeMemory, MappedFile};
use crate::program::Program;

/// Parts of an opened artifact: verified against damage, the plan not checked yet.
pub(crate) struct Parts {
    pub origin: Origin,
    pub program: Program,
    pub code: CodeMemory,
    pub constants: Vec<Bytes>,
}

/// Whether a file that starts with these bytes claims to be an artifact.
pub fn is_artifact(start: &[u8]) -> bool {
    start.starts_with(&MAGIC)
}

/// Maps and verifies the artifact at `path`.
pub(crate) fn open(path: &Path) -> Result<Parts, LoadError> {
    let origin = Origin::file(path);
    let io_error = |source| LoadError::Io { path: path.to_owned(), source };
    // Before the file is opened: opening a pipe would wait for its writer.
    if !std::fs::metadata(path).map_err(io_error)?.is_file() {
        return Err(LoadError::Foreign { origin });
    }
    let file = File::open(path).map_err(io_error)?;
    let map: Arc<MappedFile> = Arc::new(MappedFile::open(&file).map_err(io_error)?);
    let bytes = (*map).as_ref();
    let header = Header::decode(bytes, &origin)?;
    let mut parts: [&[u8]; 3] = [&[]; 3];
    for ((kind, section), part) in SectionKind::ALL.into_iter().zip(&header.sections).zip(&mut parts) {
        let corrupted = || LoadError::Corrupted { origin: origin.clone(), section: kind.name() };
        *part = range(section).and_then(|r| bytes.get(r)).ok_or_else(corrupted)?;
        if checksum(part) != section.checksum {
            return Err(corrupted());
        }
    }
    let [plan, code, _] = parts;
    let plan_error =
        |what: String| LoadError::Plan { origin: origin.clone(), place: "plan".to_owned(), what };
    let ((offsets, program), rest): ((Vec<u64>, Program), _) =
        postcard::take_from_bytes(plan).map_err(|e| plan_error(e.to_string()))?;
    if !rest.is_empty() {
        return Err(plan_error(format!("{} bytes too many", rest.len())));
    }
    if offsets.len() != program.constants.len() {
        return Err(plan_error(format!("{} constants, {} offsets", program.constants.len(), offsets.len())));
    }
    let [_, code_section, weights] = &header.sections;
    let mut constants = Vec::with_capacity(offsets.len());
    for (constant, offset) in program.constants.iter().zip(offsets) {
        let bytes = constant_range(weights, offset, constant.byte_len())
            .and_then(|range| Bytes::shared(Arc::clone(&map) as Arc<dyn AsRef<[u8]> + Send + Sync>, range));
        constants.push(bytes.ok_or_else(|| LoadError::Plan {
            origin: origin.clone(),
            place: format!("constant `{}`", constant.name),
            what: "its data lies outside the weights".to_owned(),
        })?);
    }
    let code = CodeMemory::map(&file, code_section.offset, code.len())
        .map_err(|source| LoadError::Code { origin: origin.clone(), source })?;
    Ok(Parts { origin, program, code, constants })
}

fn range(section: &Section) -> Option<std::ops::Range<usize>> {
    let start = usize::try_from(section.offset).ok()?;
    Some(start..start.checked_add(usize::try_from(section.len).ok()?)?)
}

/// Place in the file of a constant that starts `offset` bytes into the weights.
fn constant_range(weights: &Section, offset: u64, len: Option<u64>) -> Option<std::ops::Range<usize>> {
    let end = offset.checked_add(len?)?;
    if end > weights.len {
        return None;
    }
    let start = weights.offset.checked_add(offset)?;
    Some(usize::try_from(start).ok()?..usize::try_from(weights.offset.checked_add(end)?).ok()?)
}
