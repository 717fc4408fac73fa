//! Repeats.

use kiln_ir::op::{CumKind, Index, Order, ScatterMode};
use kiln_ir::{Build, DType, Dim, Known, Tensor, Value};

use super::arg::Arg;
use super::cx::{Cx, normal_axis, one};
use super::rearrange::size_of;
use super::{How, Results, Row, row};
use crate::error::OpError;

use How::Fn;

#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    row("aten::repeat", Fn(repeat)),
    row("aten::repeat_interleave", Fn(repeat_interleave)),
    row("aten::tile", Fn(tile)),
];

/// A tensor repeated along its axes, new ones in front.
fn repeated(cx: &mut Cx<'_, '_>, x: Value, times: &[Dim]) -> Result<Value, OpError> {
    let mut shape = cx.shape(x)?;
    let new = times.len().checked_sub(shape.len()).ok_or_else(|| OpError::invalid("too few repeats"))?;
    shape.splice(0..0, vec![Dim::known(1); new]);
    // Each axis becomes two: which repeat, and where in it.
    let (mut narrow, mut wide, mut last) = (vec![], vec![], vec![]);
    for (size, n) in shape.iter().zip(times) {
        if n.as_known() != Some(1) {
            narrow.push(Dim::known(1));
            wide.push(n.clone());
        }
        narrow.push(size.clone());
        wide.push(size.clone());
        last.push(size * n);
    }
    let split = cx.b.reshape(x, &narrow)?;
    let all = cx.b.broadcast(split, &wide)?;
    Ok(cx.b.reshape(all, &last)?)
}

fn repeat(cx: &mut Cx<'_, '_>) -> Results {
    let (x, times) = (cx.tensor("self")?, cx.dims("repeats")?);
    let y = repeated(cx, x, &times)?;
    one(y)
}

fn tile(cx: &mut Cx<'_, '_>) -> Results {
    let (x, mut times) = (cx.tensor("self")?, cx.dims("dims")?);
    let rank = cx.rank(x)?;
    if times.len() < rank {
        times.splice(0..0, vec![Dim::known(1); rank - times.len()]);
    }
    let y = repeated(cx, x, &times)?;
    one(y)
}

fn repeat_interleave(cx: &mut Cx<'_, '_>) -> Results {
    if !cx.takes("self") {
        return Err(OpError::unsupported("repeats that are a tensor alone"));
    }
    let mut x = cx.tensor("self")?;
    let axis = match cx.maybe_int("dim")? {
        Some(axis) => normal_axis(axis, cx.rank(x)?)?,
        None => {
            let total = cx.numel(x)?;
            x = cx.b.reshape(x, &[total])?;
            0
        }
    };
    let shape = cx.shape(x)?;
    if let Arg::Tensor(counts) = *cx.get("repeats") {
        return interleaved_by(cx, x, axis, counts);
    }
    let times = cx.dim("repeats")?;
    let size = size_of(&shape, axis)?;
    let mut wide = shape.clone();
    wide.insert(axis + 1, Dim::known(1));
    let split = cx.b.reshape(x, &wide)?;
    if let Some(slot) = wide.get_mut(axis + 1) {
        *slot = times.clone();
    }
    let all = cx.b.broadcast(split, &wide)?;
    let mut last = shape;
    if let Some(slot) = last.get_mut(axis) {
        *slot = size * times;
    }
    let y = cx.b.reshape(all, &last)?;
    one(y)
}

/// Counts that are known when the graph is built.
fn interleaved_by(cx: &mut Cx<'_, '_>, x: Value, axis: usize, counts: Value) -> Results {
    let known = cx.b.known(counts).and_then(Known::tensor).and_then(Tensor::to_ints);
    let known = known.ok_or_else(|| super::cx::unknown("repeats"))?;
    let size = size_of(&cx.shape(x)?, axis)?.as_known().and_then(|n| usize::try_from(n).ok());
    let size = size.ok_or_else(|| OpError::unsupported("an axis of unknown size"))?;
    let counts: Vec<i64> = match known.as_slice() {
        [one] => vec![*one; size],
        all => all.to_vec(),
    };
    let total: i64 = counts.iter().fold(0i64, |a, &n| a.saturating_add(n.max(0)));
    if counts.len() != size || counts.iter().any(|&n| n < 0) {
        return Err(OpError::invalid("repeats that do not fit the axis"));
    }
    if size == 0 {
        return one(x);
    }
    let counts = cx.b.constant(Tensor::ints(&counts))?;
    let (index, _) = each_times(cx, counts, size, total)?;
    let y = cx.b.add1(Index::Gather { axis }, &[x, index])?;
    one(y)
}

/// `0` as often as the first count says, `1` as often as the second, and so on: `total` numbers. With them, where the run
/// of each begins. The graph computes them, so that a few large counts make no large constant.
pub(super) fn each_times(
    cx: &mut Cx<'_, '_>,
    counts: Value,
    size: usize,
    total: i64,
) -> Result<(Value, Value), OpError> {
    let running = Order::Cumulative { kind: CumKind::Sum, axis: 0, exclusive: false, reverse: false };
    let (zero, unit) = (Dim::known(0), Dim::known(1));
    let size = Dim::known(i64::try_from(size).unwrap_or(i64::MAX));
    let ends = cx.b.add1(running.clone(), &[counts])?;
    let starts = cx.ew("sub", &[ends, counts])?;
    // A mark where each run but the first begins; runs without elements at the end mark the place behind the last.
    let later = cx.b.slice_axis(starts, 0, unit.clone(), &size - &unit)?;
    let marks = cx.filled(DType::I64, 0.0, &[Dim::known(total.saturating_add(1))])?;
    let ones = cx.filled(DType::I64, 1.0, &[size - unit])?;
    let add = Index::ScatterElements { axis: 0, mode: ScatterMode::Add };
    let marks = cx.b.add1(add, &[marks, later, ones])?;
    let index = cx.b.add1(running, &[marks])?;
    Ok((cx.b.slice_axis(index, 0, zero, Dim::known(total))?, starts))
}
