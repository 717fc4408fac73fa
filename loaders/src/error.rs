//! What can be wrong with a model file. Every error names the file; problems of nodes come all at once.

use std::fmt;

use kiln_ir::{InferError, Origin, TensorError};

use crate::binding::WeightFaults;
use crate::checkpoint::CheckpointError;

/// Why a file does not load.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// File.
        path: String,
        /// Cause.
        source: std::io::Error,
    },
    /// The content is no model format that Kiln knows.
    #[error("{path}: not a model: {reason}")]
    NotAModel {
        /// File.
        path: String,
        /// What was found instead.
        reason: String,
    },
    /// The content is a format that Kiln recognises but cannot load.
    #[error("{path}: this is {format}, which is recognised but not supported yet")]
    UnsupportedFormat {
        /// File.
        path: String,
        /// Name of the format.
        format: &'static str,
    },
    /// The content is a checkpoint: weights without a graph.
    #[error("{path}: this is {format}, which holds weights and no graph; `kiln inspect` shows them")]
    NoGraph {
        /// File.
        path: String,
        /// Name of the format.
        format: &'static str,
    },
    /// The bytes are not well-formed.
    #[error("{path}: malformed {format}: {reason}")]
    Malformed {
        /// File.
        path: String,
        /// What it was read as.
        format: &'static str,
        /// What is wrong, and where.
        reason: String,
    },
    /// A program cannot be followed.
    #[error("{path}: {place}: {reason}")]
    Program {
        /// File.
        path: String,
        /// Where in the program: file and line of its source.
        place: String,
        /// What is wrong, or not supported.
        reason: String,
    },
    /// A folder of a model, or a file in it, does not say what to build.
    #[error("{path}: {reason}")]
    Folder {
        /// The folder, or the file.
        path: String,
        /// What is wrong, with the field where there is one.
        reason: String,
    },
    /// A checkpoint, or the tensors and values of an archive, cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The weights do not fit the model; all that differs is listed.
    #[error("{path}: {faults}")]
    Weights {
        /// The checkpoint, or the folder.
        path: String,
        /// Every name that does not fit.
        faults: Box<WeightFaults>,
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
    /// A shape or symbol that the caller gave does not fit the model.
    #[error("{path}: {reason}")]
    Option {
        /// File.
        path: String,
        /// What does not fit.
        reason: String,
    },
    /// Parts of the graph cannot be imported; all of them are listed.
    #[error("{}", ListIssues { path, issues, unlisted: *unlisted })]
    Graph {
        /// File.
        path: String,
        /// Every problem, in the file's order.
        issues: Vec<Issue>,
        /// How many more there are, beyond [`crate::Limits::problems`].
        unlisted: usize,
    },
}

/// Kinds of problems with a part of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IssueKind {
    /// The operator, or a feature of it, is not supported.
    Unsupported,
    /// The part is wrong in itself.
    Invalid,
}

/// A problem with one node, tensor or value of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// Kind of problem.
    pub kind: IssueKind,
    /// Where: file, graph path, node name, operator with domain and version. For tensors and values `op` is
    /// `initializer`, `input` or `output`.
    pub origin: Origin,
    /// Domain of the operator; `ai.onnx` for the default one; empty where the format has no domains.
    pub domain: String,
    /// Opset version of the domain that the graph imports; 0 where the format has no domains.
    pub opset: i64,
    /// What is wrong: expected and found.
    pub reason: String,
}

impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Origin { path, node, op, .. } = &self.origin;
        let slash = if path.is_empty() { "" } else { "/" };
        write!(f, "`{path}{slash}{node}`: {op}")?;
        if !self.domain.is_empty() {
            write!(f, " (domain {}, opset {})", self.domain, self.opset)?;
        }
        match self.kind {
            IssueKind::Unsupported => write!(f, ": unsupported: {}", self.reason),
            IssueKind::Invalid => write!(f, ": {}", self.reason),
        }
    }
}

struct ListIssues<'a> {
    path: &'a str,
    issues: &'a [Issue],
    unlisted: usize,
}

impl fmt::Display for ListIssues<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.issues {
            [one] if self.unlisted == 0 => write!(f, "{}: node {one}", self.path),
            many => {
                let count = many.len() + self.unlisted;
                write!(f, "{}: {count} nodes cannot be loaded:", self.path)?;
                many.iter().try_for_each(|issue| write!(f, "\n  node {issue}"))?;
                match self.unlisted {
                    0 => Ok(()),
                    more => write!(f, "\n  and {more} more"),
                }
            }
        }
    }
}

/// Why a node is not imported.
#[derive(Debug)]
pub(crate) enum OpError {
    /// Kiln lacks something.
    Unsupported(String),
    /// The node is wrong.
    Invalid(String),
    /// Something inside failed, which is recorded already.
    Recorded,
}

impl OpError {
    pub(crate) fn invalid(reason: impl Into<String>) -> Self {
        OpError::Invalid(reason.into())
    }

    pub(crate) fn unsupported(reason: impl Into<String>) -> Self {
        OpError::Unsupported(reason.into())
    }
}

impl From<InferError> for OpError {
    fn from(e: InferError) -> Self {
        OpError::Invalid(e.to_string())
    }
}

impl From<TensorError> for OpError {
    fn from(e: TensorError) -> Self {
        OpError::Invalid(e.to_string())
    }
}
