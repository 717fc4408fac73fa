//! Errors of loading and running, each naming the file, node, input or section at fault.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_ir::{DType, Dim, DimError};

use crate::memory::MemoryError;
use crate::program::Relation;

/// Where a program came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// An artifact file.
    File(Arc<Path>),
    /// A compiler in this process.
    Memory,
}

impl Origin {
    /// The origin for an artifact at `path`.
    pub fn file(path: &Path) -> Self {
        Origin::File(path.into())
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File(path) => write!(f, "{}", path.display()),
            Origin::Memory => f.write_str("compiled program"),
        }
    }
}

/// Why a program could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file could not be opened, read or mapped.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The file is something else.
    #[error("{origin}: not a Kiln artifact")]
    Foreign {
        /// The file.
        origin: Origin,
    },
    /// The file ends too early.
    #[error("{origin}: truncated: {expected} bytes expected, {found} found")]
    Truncated {
        /// The file.
        origin: Origin,
        /// Bytes the header announces, or the size of a header.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },
    /// The bytes differ from what was written.
    #[error("{origin}: corrupted: {section} does not match its checksum")]
    Corrupted {
        /// The file.
        origin: Origin,
        /// Name of the section.
        section: &'static str,
    },
    /// The file was written by another version of the format.
    #[error("{origin}: artifact format {found} is not supported, this runtime reads format {supported}")]
    Version {
        /// The file.
        origin: Origin,
        /// Version of the file.
        found: u32,
        /// Version of this runtime.
        supported: u32,
    },
    /// The code is for another architecture.
    #[error("{origin}: compiled for {needed}, this machine is {}", std::env::consts::ARCH)]
    Arch {
        /// The file.
        origin: Origin,
        /// Architecture of the code.
        needed: String,
    },
    /// The code needs CPU features that this machine lacks.
    #[error("{origin}: needs CPU features that this machine lacks: {}", missing.join(", "))]
    Features {
        /// The file.
        origin: Origin,
        /// Names of the features.
        missing: Vec<String>,
    },
    /// The plan contradicts itself.
    #[error("{origin}: invalid plan: {place}: {what}")]
    Plan {
        /// The file.
        origin: Origin,
        /// Function, step, kernel or table at fault.
        place: String,
        /// What is wrong there.
        what: String,
    },
    /// Memory could not be had.
    #[error("{origin}: {source}")]
    Memory {
        /// The file.
        origin: Origin,
        /// The cause.
        source: MemoryError,
    },
    /// Code could not be mapped executable.
    #[error("{origin}: code cannot be made executable: {source}")]
    Code {
        /// The file.
        origin: Origin,
        /// The cause.
        source: std::io::Error,
    },
}

/// Why a run failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RunError {
    /// No entry has that name.
    #[error("no entry `{name}`; there are: {}", known.join(", "))]
    UnknownEntry {
        /// The name asked for.
        name: String,
        /// Names of all entries.
        known: Vec<String>,
    },
    /// No input has that name.
    #[error("entry `{entry}` has no input `{name}`; its inputs are: {}", known.join(", "))]
    UnknownInput {
        /// The entry.
        entry: String,
        /// The name given.
        name: String,
        /// Names of all inputs.
        known: Vec<String>,
    },
    /// An input was not given.
    #[error("entry `{entry}`: input `{name}` is missing")]
    MissingInput {
        /// The entry.
        entry: String,
        /// The input.
        name: String,
    },
    /// An input was given twice.
    #[error("entry `{entry}`: input `{name}` is given twice")]
    DuplicateInput {
        /// The entry.
        entry: String,
        /// The input.
        name: String,
    },
    /// Too many or too few values.
    #[error("entry `{entry}` takes {expected} {what}, {found} are given")]
    Count {
        /// The entry.
        entry: String,
        /// "inputs" or "outputs".
        what: &'static str,
        /// Number declared.
        expected: usize,
        /// Number given.
        found: usize,
    },
    /// A value of another kind or dtype than declared.
    #[error("{place}: {expected} expected, {found} given")]
    Kind {
        /// Input, output or node at fault.
        place: String,
        /// What is declared.
        expected: String,
        /// What came.
        found: String,
    },
    /// A shape that does not fit the declared one.
    #[error("{place}: shape {expected} expected, {found} given: {reason}")]
    Shape {
        /// Input, output or node at fault.
        place: String,
        /// Declared shape.
        expected: String,
        /// Actual shape.
        found: String,
        /// Which axis, and why.
        reason: String,
    },
    /// A dim that has no value, or one that makes no sense.
    #[error("{place}: dimension {dim}: {reason}")]
    Dim {
        /// Node at fault.
        place: String,
        /// The dim.
        dim: Dim,
        /// What is wrong.
        reason: String,
    },
    /// Two sizes are not as the program needs them.
    #[error("{place}: {what}: {left} {relation} {right} does not hold")]
    Check {
        /// Node at fault.
        place: String,
        /// What the relation means.
        what: String,
        /// One value.
        left: i64,
        /// How they must relate.
        relation: Relation,
        /// The other.
        right: i64,
    },
    /// A host step failed.
    #[error("{place}: {reason}")]
    Host {
        /// Node at fault.
        place: String,
        /// What the evaluator says.
        reason: String,
    },
    /// A step's arguments contradict the sizes they are bound to.
    #[error("{place}: invalid plan: {what}")]
    Plan {
        /// Function and step at fault.
        place: String,
        /// What is wrong there.
        what: String,
    },
    /// A state was read before it was assigned.
    #[error("{place}: state `{state}` has no value yet")]
    UnsetState {
        /// Node at fault.
        place: String,
        /// The state.
        state: String,
    },
    /// Calls nest too deep.
    #[error("{place}: functions nest deeper than {limit}")]
    Depth {
        /// Function at fault.
        place: String,
        /// The limit.
        limit: usize,
    },
    /// Memory could not be had.
    #[error("{place}: {source}")]
    Memory {
        /// Entry, function or node that asked.
        place: String,
        /// The cause.
        source: MemoryError,
    },
    /// The run was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// The deadline passed.
    #[error("deadline exceeded")]
    DeadlineExceeded,
}

impl RunError {
    pub(crate) fn dim(place: impl Into<String>, dim: &Dim, error: &DimError) -> Self {
        RunError::Dim { place: place.into(), dim: dim.clone(), reason: error.to_string() }
    }

    pub(crate) fn dtype(place: impl Into<String>, expected: DType, found: DType) -> Self {
        RunError::Kind { place: place.into(), expected: expected.to_string(), found: found.to_string() }
    }
}
