//! Packed sequences: of sequences of different lengths, longest first, all first elements, then all second ones, and so
//! on, with how many sequences have each. Padded, they are a rectangle of which a mask tells what is there.

use kiln_ir::op::{CumKind, Index, Order, ReduceKind};
use kiln_ir::{Build, DType, Dim, Value};

use super::cx::{Cx, many, product};
use super::{How, Results, Row, row};
use crate::error::OpError;

use How::Fn;

#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    row("aten::_pack_padded_sequence", Fn(pack)),
    row("aten::_pad_packed_sequence", Fn(pad)),
];

/// Packed sequences as a rectangle.
pub(super) struct Padded {
    /// What is there: `[T, B]`.
    pub mask: Value,
    /// How long each sequence is: i64 `[B]`.
    pub lengths: Value,
    /// The elements, `[T, B, ...]`.
    pub values: Value,
}

/// Whether sequence `b` has an element `t`: `[T, B]` of `batch_sizes` `[T]`.
fn mask_of(cx: &mut Cx<'_, '_>, batch_sizes: Value, batch: &Dim) -> Result<Value, OpError> {
    let steps = cx.numel(batch_sizes)?;
    let sizes = cx.b.cast(batch_sizes, DType::I64)?;
    let sizes = cx.b.reshape(sizes, &[steps, Dim::known(1)])?;
    let sequence = cx.positions(batch, DType::I64, 1, 2)?;
    cx.ew("lt", &[sequence, sizes])
}

/// The elements of a rectangle `[T, B, ...]` that are there.
pub(super) fn packed(cx: &mut Cx<'_, '_>, values: Value, mask: Value) -> Result<Value, OpError> {
    let shape = cx.shape(values)?;
    let (lead, rest) = shape.split_at(2.min(shape.len()));
    let count = product(lead);
    let rows = cx.b.reshape(values, &[&[count.clone()][..], rest].concat())?;
    let mask = cx.b.reshape(mask, &[count])?;
    let places = cx.b.add1(Order::NonZero {}, &[mask])?;
    let places = super::movement::picked(cx, places, 0, Dim::known(0))?;
    Ok(cx.b.add1(Index::Gather { axis: 0 }, &[rows, places])?)
}

/// Packed elements `[N, ...]` of `batch` sequences as a rectangle, `fill` where nothing is.
pub(super) fn padded(
    cx: &mut Cx<'_, '_>,
    (data, batch_sizes): (Value, Value),
    batch: &Dim,
    fill: f64,
) -> Result<Padded, OpError> {
    let mask = mask_of(cx, batch_sizes, batch)?;
    let ones = cx.b.cast(mask, DType::I64)?;
    let lengths = cx.b.reduce(ReduceKind::Sum, ones, &[0], false)?;
    let steps = cx.numel(batch_sizes)?;
    let sizes = cx.b.cast(batch_sizes, DType::I64)?;
    let sizes = cx.b.reshape(sizes, std::slice::from_ref(&steps))?;
    let op = Order::Cumulative { kind: CumKind::Sum, axis: 0, exclusive: true, reverse: false };
    let before = cx.b.add1(op, &[sizes])?;
    let before = cx.b.reshape(before, &[steps, Dim::known(1)])?;
    let sequence = cx.positions(batch, DType::I64, 1, 2)?;
    let places = cx.ew("add", &[before, sequence])?;
    let zero = cx.constant(DType::I64, 0.0)?;
    let places = cx.ew("where", &[mask, places, zero])?;
    let values = cx.b.add1(Index::Gather { axis: 0 }, &[data, places])?;
    let rank = cx.rank(values)?;
    let mut shape = cx.shape(mask)?;
    shape.resize(rank, Dim::known(1));
    let there = cx.b.reshape(mask, &shape)?;
    let dtype = cx.dtype(values)?;
    let fill = cx.constant(dtype, fill)?;
    let values = cx.ew("where", &[there, values, fill])?;
    Ok(Padded { mask, lengths, values })
}

/// The first two axes exchanged.
fn swapped(cx: &mut Cx<'_, '_>, v: Value) -> Result<Value, OpError> {
    let rank = cx.rank(v)?;
    if rank < 2 {
        return Err(OpError::invalid("sequences of a batch have two axes"));
    }
    let perm: Vec<usize> = [1, 0].into_iter().chain(2..rank).collect();
    Ok(cx.b.transpose(v, &perm)?)
}

/// Sequences `[T, B, ...]`, or `[B, T, ...]`, of decreasing lengths: the packed elements and how many sequences have each.
fn pack(cx: &mut Cx<'_, '_>) -> Results {
    let (mut x, lengths) = (cx.tensor("input")?, cx.tensor("lengths")?);
    if cx.flag("batch_first")? {
        x = swapped(cx, x)?;
    }
    let lengths = cx.b.cast(lengths, DType::I64)?;
    let longest = cx.b.slice_axis(lengths, 0, Dim::known(0), Dim::known(1))?;
    let steps = cx.dim_of(longest)?;
    let batch = cx.numel(lengths)?;
    let step = cx.positions(&steps, DType::I64, 0, 2)?;
    let row = cx.b.reshape(lengths, &[Dim::known(1), batch])?;
    let mask = cx.ew("lt", &[step, row])?;
    let ones = cx.b.cast(mask, DType::I64)?;
    let batch_sizes = cx.b.reduce(ReduceKind::Sum, ones, &[1], false)?;
    let x = cx.b.slice_axis(x, 0, Dim::known(0), steps)?;
    let data = packed(cx, x, mask)?;
    many([data, batch_sizes])
}

/// Packed elements as a rectangle, and the lengths.
fn pad(cx: &mut Cx<'_, '_>) -> Results {
    let (data, batch_sizes) = (cx.tensor("data")?, cx.tensor("batch_sizes")?);
    let fill = cx.float("padding_value")?;
    let first = cx.b.slice_axis(batch_sizes, 0, Dim::known(0), Dim::known(1))?;
    let batch = cx.dim_of(first)?;
    let found = padded(cx, (data, batch_sizes), &batch, fill)?;
    let mut y = found.values;
    let (steps, total) = (cx.numel(batch_sizes)?, cx.dim("total_length")?);
    if total != steps && total.as_known().is_none_or(|total| total > 0) {
        let mut shape = cx.shape(y)?;
        let more = (&total - &steps).greater(&Dim::known(0));
        if let Some(slot) = shape.first_mut() {
            *slot = more;
        }
        let dtype = cx.dtype(y)?;
        let rest = cx.filled(dtype, fill, &shape)?;
        y = cx.b.concat(&[y, rest], 0)?;
    }
    if cx.flag("batch_first")? {
        y = swapped(cx, y)?;
    }
    many([y, found.lengths])
}
