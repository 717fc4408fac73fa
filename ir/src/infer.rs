//! Type inference: result types of an operator from its operands' types, and what is known of the results' values.
//! Inference both types and checks; it has no default case.

use crate::graph::Known;
use crate::{Graph, Module, Type};

/// What inference sees of a node.
pub struct InferCx<'a> {
    /// Operand types.
    pub operands: &'a [&'a Type],
    /// What is known of the operands' values.
    pub known: &'a [Option<&'a Known>],
    /// The module, for the signatures of called graphs.
    pub module: &'a Module,
}

/// One inferred result.
#[derive(Clone, Debug, PartialEq)]
pub struct Inferred {
    /// Type; dims may be unknown.
    pub ty: Type,
    /// Value, where it follows from the operands.
    pub known: Option<Known>,
}

/// Why operands do not fit an operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct InferError {
    message: String,
}

impl InferError {
    /// An error with that message: what was expected, what came.
    pub fn new(message: impl Into<String>) -> Self {
        InferError { message: message.into() }
    }
}

/// Result types of a call of `graph`.
pub(crate) fn call_results(graph: &Graph) -> Vec<Inferred> {
    graph.outputs().iter().map(|&v| Inferred { ty: graph.ty(v).clone(), known: None }).collect()
}

/// Result types of `op`.
pub fn infer(op: &crate::Op, cx: &InferCx<'_>) -> Result<Vec<Inferred>, InferError> {
    let _ = cx.module;
    Err(InferError::new(format!("{}: inference is not in place", op.mnemonic())))
}
