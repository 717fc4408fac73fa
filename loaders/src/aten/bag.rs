//! Sums, means and maxima of the rows of a table, a bag of rows each.

use kiln_ir::op::{Index, ReduceKind, ScatterMode};
use kiln_ir::{Build, DType, Dim, Value};

use super::arg::Arg;
use super::cx::Cx;
use super::rearrange::size_of;
use super::{How, Results, Row, row};
use crate::error::OpError;

use How::Fn;

#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    row("aten::_embedding_bag", Fn(embedding_bag)),
    row("aten::_embedding_bag_forward_only", Fn(embedding_bag)),
    row("aten::embedding_bag", Fn(embedding_bag)),
];

/// How the rows of a bag combine.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Sum,
    Mean,
    Max,
}

/// The bag of every index: the last one that begins at its place or before.
fn bags(cx: &mut Cx<'_, '_>, offsets: Value, count: &Dim) -> Result<Value, OpError> {
    let place = cx.positions(count, DType::I64, 0, 2)?;
    let begun = cx.ew("le", &[offsets, place])?;
    let begun = cx.b.cast(begun, DType::I64)?;
    let number = cx.b.reduce(ReduceKind::Sum, begun, &[1], false)?;
    cx.ew_const("sub", number, 1.0)
}

/// Results: the bags' rows, the bag of each index, how many indices each bag has. Which row each maximum is of is not
/// computed.
fn embedding_bag(cx: &mut Cx<'_, '_>) -> Results {
    let (weight, indices) = (cx.tensor("weight")?, super::index::indices(cx, "indices")?);
    let mode = match cx.int("mode")? {
        0 => Mode::Sum,
        1 => Mode::Mean,
        2 => Mode::Max,
        other => return Err(OpError::invalid(format!("mode {other}"))),
    };
    let dtype = cx.dtype(weight)?;
    let (count, width) = (cx.numel(indices)?, size_of(&cx.shape(weight)?, 1)?);
    if cx.rank(indices)? != 1 {
        return Err(OpError::invalid("indices that are no vector"));
    }
    let mut offsets = super::index::indices(cx, "offsets")?;
    let mut total = size_of(&cx.shape(offsets)?, 0)?;
    if cx.flag("include_last_offset")? {
        total = total - Dim::known(1);
        offsets = cx.b.slice_axis(offsets, 0, Dim::known(0), total.clone())?;
    }
    let bag = bags(cx, offsets, &count)?;
    let mut rows = cx.b.add1(Index::Gather { axis: 0 }, &[weight, indices])?;
    if let Some(factors) = cx.maybe_tensor("per_sample_weights")? {
        let column = cx.b.reshape(factors, &[count.clone(), Dim::known(1)])?;
        rows = cx.ew("mul", &[rows, column])?;
    }
    // Rows of the padding index count for nothing. It counts from the end if it is negative, but in the operators below
    // `embedding_bag`, where -1 is none.
    let wraps = cx.overload() == "padding_idx";
    let padding = cx.maybe_int("padding_idx")?.filter(|&at| wraps || at >= 0);
    let kept = match padding {
        Some(at) => {
            let rows = size_of(&cx.shape(weight)?, 0)?;
            let at = if at < 0 { rows + Dim::known(at) } else { Dim::known(at) };
            let at = cx.as_dtype(&Arg::Int(at), DType::I64)?;
            Some(cx.ew("ne", &[indices, at])?)
        }
        None => None,
    };
    let neutral = cx.constant(dtype, if mode == Mode::Max { f64::NEG_INFINITY } else { 0.0 })?;
    if let Some(kept) = kept {
        let column = cx.b.reshape(kept, &[count.clone(), Dim::known(1)])?;
        rows = cx.ew("where", &[column, rows, neutral])?;
    }
    let start = cx.b.broadcast(neutral, &[total.clone(), width])?;
    let places = cx.b.reshape(bag, &[count.clone(), Dim::known(1)])?;
    let scatter = if mode == Mode::Max { ScatterMode::Max } else { ScatterMode::Add };
    let mut y = cx.b.add1(Index::ScatterNd { mode: scatter }, &[start, places, rows])?;
    let ones = match kept {
        Some(kept) => cx.b.cast(kept, DType::I64)?,
        None => cx.filled(DType::I64, 1.0, &[count])?,
    };
    let none = cx.filled(DType::I64, 0.0, &[total.clone()])?;
    let sizes = cx.b.add1(Index::ScatterNd { mode: ScatterMode::Add }, &[none, places, ones])?;
    let column = cx.b.reshape(sizes, &[total, Dim::known(1)])?;
    match mode {
        Mode::Sum => {}
        Mode::Mean => {
            let divisor = cx.ew_const("max", column, 1.0)?;
            let divisor = cx.b.cast(divisor, dtype)?;
            y = cx.ew("div", &[y, divisor])?;
        }
        Mode::Max => {
            let empty = cx.ew_const("eq", column, 0.0)?;
            let zero = cx.constant(dtype, 0.0)?;
            y = cx.ew("where", &[empty, zero, y])?;
        }
    }
    Ok(vec![Arg::Tensor(y), Arg::Tensor(bag), Arg::Tensor(sizes), Arg::None])
}
