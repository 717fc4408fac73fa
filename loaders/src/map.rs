//! Memory-mapped files: the only unsafe code of the loaders.

use std::fs::{File, Metadata};
use std::io;
use std::path::Path;

/// Why a path gives no bytes.
pub(crate) enum OpenError {
    /// It cannot be read.
    Io(io::Error),
    /// It is something other than a regular file.
    NotAFile(&'static str),
}

/// Opens and maps a regular file.
pub(crate) fn open(path: &Path) -> Result<bytes::Bytes, OpenError> {
    let check = |meta: Metadata| match meta.is_file() {
        true => Ok(()),
        false if meta.is_dir() => Err(OpenError::NotAFile("it is a folder")),
        false => Err(OpenError::NotAFile("it is not a regular file")),
    };
    // Before it is opened: a pipe that nobody writes to lets the opener wait.
    std::fs::metadata(path).map_err(OpenError::Io).and_then(check)?;
    let file = File::open(path).map_err(OpenError::Io)?;
    file.metadata().map_err(OpenError::Io).and_then(check)?;
    map(&file).map_err(OpenError::Io)
}

/// The contents of an open file as shared bytes, not read until touched. An empty file gives empty bytes.
///
/// The file must not be truncated while the bytes live: as with every mapping, touching pages beyond the new end
/// raises SIGBUS. Kiln's documentation tells users to replace model files by rename.
#[allow(
    unsafe_code,
    reason = "mapping a file is unsafe by nature; everything else goes through this function"
)]
pub(crate) fn map(file: &File) -> io::Result<bytes::Bytes> {
    if file.metadata()?.len() == 0 {
        return Ok(bytes::Bytes::new());
    }
    // SAFETY: the mapping is private and read-only, it is owned by the returned value, and nothing in this process
    // writes to model files. Another process that modifies the file can change bytes under us; every consumer treats
    // them as untrusted data of any value and keeps lengths apart from the mapped contents.
    let map = unsafe { memmap2::Mmap::map(file)? };
    Ok(bytes::Bytes::from_owner(map))
}
