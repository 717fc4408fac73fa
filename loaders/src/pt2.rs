//! The loader of `torch.export` archives (`.pt2`): schema versions 5 to 8.
//!
//! An archive is a zip: `models/NAME.json` is the program, `data/weights/` and `data/constants/` are raw bytes of its
//! tensors, which stay in the map. Tensors that are pickled one by one are not read. Before torch 2.8, a program had another
//! name, and its tensors are two files of `torch.save`, which the reader of checkpoints reads. The archive's layout is that of torch's
//! `export/pt2_archive`, the program's that of `_export/serde/schema.py`.
//!
//! Operators come from the table in `aten.rs`. Writes in place, which undecomposed programs have, become new values, for
//! the tensor and for all views of the same memory (`alias.rs`).

mod alias;
mod archive;
mod autocast;
mod expr;
mod higher_order;
mod import;
mod operand;
mod program;
mod strides;
#[cfg(test)]
mod tests;

use std::path::Path;

use kiln_ir::Module;

use crate::{LoadError, LoadOptions};
use archive::Package;

/// What errors call the format.
const FORMAT: &str = "torch.export archive";

/// Schema versions that can be read.
const MAJORS: std::ops::RangeInclusive<i64> = 5..=8;

/// Loads an archive from bytes.
pub fn load(path: &Path, bytes: bytes::Bytes, options: &LoadOptions) -> Result<Module, LoadError> {
    let name = path.display().to_string();
    let size = bytes.len();
    let package = Package::open(&name, bytes, &options.limits)?;
    let program = package.program()?;
    let version = program.schema_version;
    if !MAJORS.contains(&version.major) {
        let reason = format!(
            "its schema is version {}.{}, versions {} to {} can be read",
            version.major,
            version.minor,
            MAJORS.start(),
            MAJORS.end()
        );
        return Err(LoadError::Malformed { path: name, format: FORMAT, reason });
    }
    import::import(&name, size, &package, &program, options)
}
