//! The archive of a TorchScript program: a zip file with pickles, storages, and source text.

use std::path::Path;

use bytes::Bytes;

use super::fault::{Fault, Res};
use crate::checkpoint::zip::{Archive, ZipError};
use crate::checkpoint::{self, Checkpoint};
use crate::{Limits, LoadError};

/// An open archive.
pub(crate) struct Package<'a> {
    path: &'a Path,
    bytes: Bytes,
    limits: &'a Limits,
    archive: Archive,
    prefix: String,
}

/// The newest version of the format that torch 2.15 writes is below this.
const VERSIONS: std::ops::RangeInclusive<u64> = 1..=12;

/// Most bytes of one source file, beyond the archive's size.
const SOURCE: usize = 8 << 20;

impl<'a> Package<'a> {
    /// Opens an archive and checks its version.
    pub fn open(path: &'a Path, bytes: Bytes, limits: &'a Limits) -> Result<Self, LoadError> {
        let name = || path.display().to_string();
        let zip = |source| LoadError::Checkpoint(checkpoint::CheckpointError::Zip { path: name(), source });
        let archive = Archive::open(bytes.clone()).map_err(zip)?;
        let prefix = checkpoint::archive_prefix(&archive)
            .ok_or_else(|| zip(ZipError::Missing("data.pkl".to_owned())))?
            .to_owned();
        let package = Package { path, bytes, limits, archive, prefix };
        package.check_version()?;
        Ok(package)
    }

    /// The file, in messages.
    pub fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Bytes of the file.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    fn check_version(&self) -> Result<(), LoadError> {
        let entry = [format!("{}version", self.prefix), format!("{}.data/version", self.prefix)];
        let Some(text) = entry.iter().find_map(|e| self.archive.read(e, 64).ok()) else { return Ok(()) };
        let text = String::from_utf8_lossy(&text);
        let version = text.trim().parse::<u64>().ok();
        if version.is_none_or(|v| !VERSIONS.contains(&v)) {
            let reason = format!("version {:?} of the archive is none that is known", text.trim());
            return Err(LoadError::Program { path: self.name(), place: "version".to_owned(), reason });
        }
        Ok(())
    }

    /// Whether the archive has a pickle of that name.
    pub fn has(&self, part: &str) -> bool {
        let entry = format!("{}{part}.pkl", self.prefix);
        self.archive.names().any(|n| n == entry)
    }

    /// The bytes of `PART.pkl`.
    pub fn pickle(&self, part: &str) -> Option<Bytes> {
        let entry = format!("{}{part}.pkl", self.prefix);
        self.archive.read(&entry, self.bytes.len().saturating_add(SOURCE)).ok()
    }

    /// The values of `PART.pkl`.
    pub fn part(&self, part: &str) -> Result<Checkpoint, LoadError> {
        Ok(checkpoint::read_part(self.path, self.bytes.clone(), self.limits, &self.archive, part)?)
    }

    /// The text of a source file, `code/PATH.py`, of at most so many bytes; `None` if there is none.
    pub fn source(&self, path: &str, most: usize) -> Res<Option<String>> {
        let entry = format!("{}code/{path}.py", self.prefix);
        let limit = self.bytes.len().saturating_add(SOURCE).min(most);
        match self.archive.read(&entry, limit) {
            Ok(bytes) => match std::str::from_utf8(&bytes) {
                Ok(text) => Ok(Some(text.to_owned())),
                Err(_) => Err(Fault::invalid(format!("{entry} is no UTF-8 text"))),
            },
            Err(ZipError::Missing(_)) => Ok(None),
            Err(error) => Err(Fault::invalid(format!("{entry}: {error}"))),
        }
    }

    /// The source map of a source file, `code/PATH.py.debug_pkl`.
    pub fn debug(&self, path: &str) -> Option<Bytes> {
        let entry = format!("{}code/{path}.py.debug_pkl", self.prefix);
        self.archive.read(&entry, self.bytes.len().saturating_add(SOURCE)).ok()
    }
}
