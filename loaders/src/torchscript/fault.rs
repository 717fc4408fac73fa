//! What can go wrong while a program is read and followed.

use kiln_ir::{InferError, TensorError};

use crate::checkpoint::TensorFault;

/// Why the program cannot be followed.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Kiln lacks something.
    Unsupported(String),
    /// The program is wrong.
    Invalid(String),
    /// An operator does not take its operands, where PyTorch raises, too. On a path that only some runs take it is an
    /// error of these runs.
    Raises(String),
    /// It asks for more than the limits allow.
    Limit {
        /// What is too large.
        what: String,
        /// The limit.
        limit: usize,
    },
    /// Two paths leave values that no one value stands for: they stay apart.
    Apart(String),
    /// What the caller gave, or has to give.
    Option(String),
}

impl Fault {
    pub fn invalid(reason: impl Into<String>) -> Self {
        Fault::Invalid(reason.into())
    }

    pub fn unsupported(reason: impl Into<String>) -> Self {
        Fault::Unsupported(reason.into())
    }

    pub fn raises(reason: impl Into<String>) -> Self {
        Fault::Raises(reason.into())
    }

    pub fn apart(reason: impl Into<String>) -> Self {
        Fault::Apart(reason.into())
    }
}

impl From<InferError> for Fault {
    fn from(e: InferError) -> Self {
        Fault::Invalid(e.to_string())
    }
}

impl From<TensorError> for Fault {
    fn from(e: TensorError) -> Self {
        Fault::Invalid(e.to_string())
    }
}

impl From<TensorFault> for Fault {
    fn from(e: TensorFault) -> Self {
        Fault::Invalid(e.to_string())
    }
}

/// A result of following the program.
pub(crate) type Res<T> = Result<T, Fault>;
