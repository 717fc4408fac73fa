//! What can be wrong with a checkpoint. Every error names the file, and the entry or tensor where there is one.

use super::pickle::PickleError;
use super::tensor::TensorFault;
use super::zip::ZipError;

/// Why a checkpoint does not open.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// File.
        path: String,
        /// Cause.
        source: std::io::Error,
    },
    /// The content is no checkpoint.
    #[error("{path}: not a checkpoint: {reason}")]
    NotACheckpoint {
        /// File.
        path: String,
        /// What was found instead.
        reason: String,
    },
    /// The zip archive is damaged, or lacks an entry.
    #[error("{path}: {source}")]
    Zip {
        /// File.
        path: String,
        /// What is wrong, and where.
        source: ZipError,
    },
    /// A pickle is malformed.
    #[error("{path}: pickle `{entry}`: {source}")]
    Pickle {
        /// File.
        path: String,
        /// The entry of the archive, or the part of the file.
        entry: String,
        /// What is wrong, and where.
        source: PickleError,
    },
    /// A part of the file that is neither archive nor pickle is malformed.
    #[error("{path}: {part}: {reason}")]
    Malformed {
        /// File.
        path: String,
        /// The part.
        part: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor's description is wrong.
    #[error("{path}: tensor `{tensor}`: {source}")]
    Tensor {
        /// File.
        path: String,
        /// Name of the tensor.
        tensor: String,
        /// What is wrong.
        source: TensorFault,
    },
    /// Two tensors have one name.
    #[error("{path}: two tensors are named `{name}`")]
    DuplicateName {
        /// File.
        path: String,
        /// The name.
        name: String,
    },
    /// A part of a sharded checkpoint cannot be used.
    #[error("{path}: shard `{shard}`: {reason}")]
    Shard {
        /// The index file.
        path: String,
        /// What it calls the part.
        shard: String,
        /// Why.
        reason: String,
    },
    /// The file asks for more than the limits allow.
    #[error("{path}: {what} is more than the limit of {limit}")]
    Limit {
        /// File.
        path: String,
        /// What is too large.
        what: String,
        /// The limit.
        limit: usize,
    },
}
