//! Why an evaluation stops.

use std::fmt;

use crate::graph::Origin;
use crate::{DType, DimError, Op, TensorError};

use super::Datum;

/// What went wrong in an operator.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Fault {
    /// Operands do not fit the operator, or a value is outside what the operator accepts.
    #[error("{0}")]
    Operands(String),
    /// An index lies outside its axis.
    #[error("index {index} is out of range for {size} elements")]
    OutOfRange {
        /// The index as given.
        index: i64,
        /// Number of elements on the axis.
        size: usize,
    },
    /// A result exceeds the limits.
    #[error("a result of {dtype}{dims:?} exceeds the evaluator's limit of {limit} bytes")]
    TooLarge {
        /// Element type.
        dtype: DType,
        /// Dims of the result.
        dims: Vec<usize>,
        /// The limit.
        limit: u64,
    },
    /// Results that are alive at one time exceed the limits.
    #[error("{bytes} bytes more than {live} live ones exceed the evaluator's limit of {limit} bytes in all")]
    LiveLimit {
        /// Bytes of the result.
        bytes: u64,
        /// Bytes of the results that are alive.
        live: u64,
        /// The limit.
        limit: u64,
    },
    /// The evaluation has done as much work as its limits allow.
    #[error("the evaluation exceeds its limit of {0} elementary steps")]
    WorkLimit(u64),
    /// Graphs call each other too deeply.
    #[error("graphs call each other deeper than {0} levels")]
    DepthLimit(usize),
    /// The interrupt function asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// The model asked to fail.
    #[error("the model reports: {0}")]
    Failed(String),
    /// A dimension has no value.
    #[error(transparent)]
    Dim(#[from] DimError),
    /// Data does not make a tensor.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// A node of a called graph failed.
    #[error("{0}")]
    Nested(Box<EvalError>),
}

impl Fault {
    pub(super) fn operands(message: impl Into<String>) -> Fault {
        Fault::Operands(message.into())
    }
}

/// An error of the operands.
pub(super) fn invalid<T>(message: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Operands(message.into()))
}

impl From<EvalError> for Fault {
    fn from(e: EvalError) -> Self {
        Fault::Nested(Box::new(e))
    }
}

/// An evaluation that failed: where, on what, why.
#[derive(Debug, Clone, PartialEq)]
pub struct EvalError {
    place: String,
    fault: Fault,
}

impl EvalError {
    pub(super) fn in_graph(place: String, fault: Fault) -> Self {
        EvalError { place, fault }
    }

    /// An error of one node; an error of a node inside it is passed on as it is.
    pub(super) fn at(origin: Option<&Origin>, op: &Op, operands: &[Datum], fault: Fault) -> Self {
        if let Fault::Nested(inner) = fault {
            return *inner;
        }
        let types: Vec<String> = operands.iter().map(|d| d.ty().to_string()).collect();
        let call = format!("{}({})", op.mnemonic(), types.join(", "));
        let place = origin.map_or_else(|| call.clone(), |o| format!("{o}: {call}"));
        EvalError { place, fault }
    }

    /// The reason.
    pub fn fault(&self) -> &Fault {
        &self.fault
    }

    /// The node: its source, operator and operand types.
    pub fn place(&self) -> &str {
        &self.place
    }
}

impl fmt::Display for EvalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.fault)
    }
}

impl std::error::Error for EvalError {}
