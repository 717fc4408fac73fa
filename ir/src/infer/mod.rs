//! Type inference: result types of an operator from its operands' types, and what is known of the results' values.
//! Inference both types and checks; it has no default case.
//!
//! Guarantees: inference never panics; dims that are not determined by the operands' types and known values come out
//! as [`Dim::unknown`] (the builder names them by fresh symbols); operands that can fit under some binding of the
//! symbols are accepted, operands that cannot are refused.

mod composite;
mod control;
pub(crate) mod dynamic;
mod elementwise;
mod host;
mod index;
mod known;
pub(crate) mod movement;
mod object;
mod order;
mod quant;
mod sums;
mod trees;
mod windows;

use smallvec::SmallVec;

use crate::graph::Known;
use crate::{DType, Dim, Graph, GraphId, Module, Op, Shape, TensorType, Type};

pub(crate) use control::join;

/// What inference sees of a node.
pub struct InferCx<'a> {
    /// Operand types.
    pub operands: &'a [&'a Type],
    /// What is known of the operands' values.
    pub known: &'a [Option<&'a Known>],
    /// The module, for the signatures of called graphs.
    pub module: &'a Module,
    /// Graphs that follow the module's in numbering: those that an edit adds.
    pub added: &'a [Graph],
}

/// One inferred result.
#[derive(Clone, Debug, PartialEq)]
pub struct Inferred {
    /// Type; dims may be unknown.
    pub ty: Type,
    /// Value, where it follows from the operands.
    pub known: Option<Known>,
}

impl Inferred {
    fn new(ty: Type) -> Self {
        Inferred { ty, known: None }
    }

    fn tensor(dtype: DType, shape: Shape) -> Self {
        Inferred::new(Type::Tensor(TensorType { dtype, shape }))
    }
}

/// Results of one operator.
pub(crate) type Results = Result<Vec<Inferred>, InferError>;

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

/// Returns an [`InferError`] with a formatted message unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)*) => {
        let holds: bool = $condition;
        if !holds {
            return Err($crate::infer::InferError::new(format!($($message)*)));
        }
    };
}
pub(crate) use ensure;

impl<'a> InferCx<'a> {
    /// Checks the number of operands.
    fn expect_count(&self, count: usize) -> Result<(), InferError> {
        ensure!(self.operands.len() == count, "expected {count} operands, found {}", self.operands.len());
        Ok(())
    }

    /// The type of operand `i`.
    fn operand(&self, i: usize) -> Result<&'a Type, InferError> {
        let found = self.operands.get(i).copied();
        found.ok_or_else(|| InferError::new(format!("operand {i} is missing")))
    }

    /// The type of operand `i`, which must be a tensor.
    fn tensor(&self, i: usize) -> Result<&'a TensorType, InferError> {
        let ty = self.operand(i)?;
        ty.as_tensor().ok_or_else(|| InferError::new(format!("operand {i} must be a tensor, found {ty}")))
    }

    /// The dims of operand `i`, if its rank is known.
    fn dims(&self, i: usize) -> Result<Option<&'a [Dim]>, InferError> {
        Ok(self.tensor(i)?.shape.dims())
    }

    /// The dims of operand `i`, whose rank must be `rank` if it is known.
    fn dims_of_rank(&self, i: usize, rank: usize) -> Result<Option<&'a [Dim]>, InferError> {
        let ty = self.tensor(i)?;
        if let Some(found) = ty.shape.rank() {
            ensure!(found == rank, "operand {i} must have rank {rank}, found {ty}");
        }
        Ok(ty.shape.dims())
    }

    /// Checks the dtype of operand `i`.
    fn expect_dtype(&self, i: usize, dtype: DType) -> Result<(), InferError> {
        let ty = self.tensor(i)?;
        ensure!(ty.dtype == dtype, "operand {i} must be {dtype}, found {ty}");
        Ok(())
    }

    /// Checks that operand `i` is an index tensor: i32 or i64.
    fn expect_indices(&self, i: usize) -> Result<(), InferError> {
        let ty = self.tensor(i)?;
        ensure!(matches!(ty.dtype, DType::I32 | DType::I64), "operand {i} must be i32 or i64, found {ty}");
        Ok(())
    }

    /// Checks that operand `i` is a float tensor.
    fn expect_float(&self, i: usize) -> Result<(), InferError> {
        let ty = self.tensor(i)?;
        ensure!(ty.dtype.is_float(), "operand {i} must be of a float dtype, found {ty}");
        Ok(())
    }

    /// Checks that operand `i` is an i64 vector; gives its length if that is constant.
    fn int_vector(&self, i: usize) -> Result<Option<usize>, InferError> {
        self.expect_dtype(i, DType::I64)?;
        let dims = self.dims_of_rank(i, 1)?;
        Ok(dims.and_then(|d| d.first()).and_then(Dim::as_known).and_then(|n| usize::try_from(n).ok()))
    }

    /// The elements of operand `i` as dims, where known.
    fn known_dims(&self, i: usize) -> Option<Vec<Dim>> {
        self.known.get(i).copied().flatten()?.dims()
    }

    /// The elements of operand `i` as constants, where known.
    fn known_ints(&self, i: usize) -> Option<Vec<i64>> {
        self.known.get(i).copied().flatten()?.ints()
    }

    /// A graph of the module or of the edit.
    fn graph(&self, id: GraphId) -> Result<&'a Graph, InferError> {
        let graph = match id.index().checked_sub(self.module.graphs().len()) {
            Some(own) => self.added.get(own),
            None => self.module.get_graph(id),
        };
        graph.ok_or_else(|| InferError::new(format!("there is no graph {id}")))
    }
}

/// Two dims that must be equal: the more precise one. Different symbols may well stand for one size; the first stays.
pub(crate) fn unify(a: &Dim, b: &Dim, what: &str) -> Result<Dim, InferError> {
    if a.is_unknown() {
        return Ok(b.clone());
    }
    if b.is_unknown() {
        return Ok(a.clone());
    }
    let difference = (a - b).as_known();
    ensure!(difference.is_none_or(|d| d == 0), "{what} differ: {a} and {b}");
    Ok(if b.as_known().is_some() { b.clone() } else { a.clone() })
}

/// Checks an axis attribute against a rank.
pub(crate) fn check_axis(axis: usize, rank: usize) -> Result<(), InferError> {
    ensure!(axis < rank, "axis {axis} of a tensor of rank {rank}");
    Ok(())
}

/// A dim of a result: refused where it is a negative constant.
pub(crate) fn size(d: Dim, what: &str) -> Result<Dim, InferError> {
    ensure!(d.as_known().is_none_or(|v| v >= 0), "{what} would be {d}");
    Ok(d)
}

/// Rejects dims that a static operator cannot carry: unknown and negative ones.
pub(crate) fn check_sizes(dims: &[Dim], what: &str) -> Result<(), InferError> {
    for d in dims {
        ensure!(!d.is_unknown(), "{what} has an unknown size");
        size(d.clone(), what)?;
    }
    Ok(())
}

/// `rank` dims about which nothing is known.
pub(crate) fn unknown_dims(rank: usize) -> Shape {
    Shape::new(vec![Dim::unknown(); rank])
}

/// Largest rank that a shape operand of known length may give; more is refused rather than allocated.
pub(crate) const MAX_RANK: usize = 64;

/// Result types of `op`.
pub fn infer(op: &Op, cx: &InferCx<'_>) -> Result<Vec<Inferred>, InferError> {
    let results = match op {
        Op::Elementwise(e) => elementwise::infer(e, cx),
        Op::Cast(c) => elementwise::infer_cast(c, cx),
        Op::Source(s) => movement::infer_source(s, cx),
        Op::Reduce(r) => sums::infer_reduce(r, cx),
        Op::Contract(c) => sums::infer_contract(c, cx),
        Op::Conv(c) => windows::infer_conv(c, cx),
        Op::Window(w) => windows::infer_window(w, cx),
        Op::Movement(m) => movement::infer(m, cx),
        Op::Index(i) => index::infer(i, cx),
        Op::Order(o) => order::infer(o, cx),
        Op::Quant(q) => quant::infer(q, cx),
        Op::Control(c) => control::infer(c, cx),
        Op::Composite(c) => composite::infer(c, cx),
        Op::Object(o) => object::infer(o, cx),
        Op::Dynamic(d) => dynamic::infer(d, cx),
        Op::Host(h) => host::infer(h, cx),
    };
    let results = results.map_err(|e| with_operands(op, cx, &e));
    Ok(known::annotate(op, cx, results?))
}

/// Puts the operator and its operands' types before an error's message.
fn with_operands(op: &Op, cx: &InferCx<'_>, e: &InferError) -> InferError {
    let types: SmallVec<[String; 4]> = cx.operands.iter().map(|t| t.to_string()).collect();
    InferError::new(format!("{}({}): {}", op.mnemonic(), types.join(", "), e.message))
}
