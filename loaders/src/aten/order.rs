//! Sorting and searching.

use kiln_ir::op::{Index, Order, ReduceKind};
use kiln_ir::{Build, DType, Dim, Value};

use super::arg::Arg;
use super::cx::{Cx, many, one, product};
use super::{How, Results, Row, row};
use crate::error::OpError;

use How::Fn;

#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    row("aten::_unique", Fn(unique_pair)),
    row("aten::_unique2", Fn(|cx| unique(cx, None))),
    row("aten::argsort", Fn(argsort)),
    row("aten::bucketize", Fn(bucketize)),
    row("aten::isin", Fn(isin)),
    row("aten::kthvalue", Fn(kthvalue)),
    row("aten::msort", Fn(msort)),
    row("aten::searchsorted", Fn(searchsorted)),
    row("aten::sort", Fn(sort)),
    row("aten::topk", Fn(topk)),
    row("aten::unique_dim", Fn(unique_along)),
];

/// The first `k` values in order, and their places.
fn first_k(
    cx: &mut Cx<'_, '_>,
    x: Value,
    axis: usize,
    k: Dim,
    largest: bool,
) -> Result<(Value, Value), OpError> {
    let dtype = cx.dtype(x)?;
    let bytes = if dtype == DType::Bool { cx.b.cast(x, DType::U8)? } else { x };
    let count = cx.b.dims(&[k])?;
    let found = cx.b.add(Order::TopK { axis, largest, sorted: true }.into(), &[bytes, count])?;
    let [values, places] = super::pointwise::pair(&found)?;
    Ok((cx.b.cast(values, dtype)?, places))
}

/// All values along an axis in order, and their places.
pub(super) fn sorted(
    cx: &mut Cx<'_, '_>,
    x: Value,
    axis: usize,
    descending: bool,
) -> Result<(Value, Value), OpError> {
    let size = cx.shape(x)?.get(axis).cloned().unwrap_or(Dim::known(1));
    first_k(cx, x, axis, size, descending)
}

fn sort_args(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let rank = cx.rank(x)?;
    let axis = cx.axis("dim", rank)?;
    if rank == 0 {
        let at = cx.constant(DType::I64, 0.0)?;
        return many([x, at]);
    }
    let descending = cx.flag("descending")?;
    let (values, places) = sorted(cx, x, axis, descending)?;
    many([values, places])
}

fn sort(cx: &mut Cx<'_, '_>) -> Results {
    if !cx.takes("dim") {
        return Err(OpError::unsupported("sorting of lists"));
    }
    sort_args(cx)
}

fn argsort(cx: &mut Cx<'_, '_>) -> Results {
    let mut both = sort_args(cx)?;
    Ok(both.split_off(1))
}

fn msort(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    if cx.rank(x)? == 0 {
        return one(x);
    }
    let (values, _) = sorted(cx, x, 0, false)?;
    one(values)
}

/// What differs along an axis, or among all elements, in order; where each is found, and how often. Places and counts that
/// are not asked for are empty.
fn unique(cx: &mut Cx<'_, '_>, axis: Option<usize>) -> Results {
    let x = cx.tensor("self")?;
    let shape = cx.shape(x)?;
    let dtype = cx.dtype(x)?;
    let bytes = if dtype == DType::Bool { cx.b.cast(x, DType::U8)? } else { x };
    let found = cx.b.add(Order::Unique { axis, sorted: true }.into(), &[bytes])?.to_vec();
    let [values, _, inverse, counts] = found.as_slice() else {
        return Err(OpError::invalid("what differs has other results"));
    };
    let values = cx.b.cast(*values, dtype)?;
    let empty = cx.filled(DType::I64, 0.0, &[Dim::known(0)])?;
    if axis.is_some() {
        // Along an axis, all are there whatever is asked for.
        return many([values, *inverse, *counts]);
    }
    let inverse = if cx.flag("return_inverse")? { cx.b.reshape(*inverse, &shape)? } else { empty };
    many([values, inverse, if cx.flag("return_counts")? { *counts } else { empty }])
}

/// Without counts.
fn unique_pair(cx: &mut Cx<'_, '_>) -> Results {
    let mut results = unique(cx, None)?;
    results.truncate(2);
    Ok(results)
}

fn unique_along(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let rank = cx.rank(x)?;
    let axis = cx.axis("dim", rank)?;
    unique(cx, Some(axis))
}

fn topk(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let rank = cx.rank(x)?;
    let axis = cx.axis("dim", rank)?;
    let (k, largest) = (cx.dim("k")?, cx.flag("largest")?);
    if rank == 0 {
        let at = cx.constant(DType::I64, 0.0)?;
        return many([x, at]);
    }
    let (values, places) = first_k(cx, x, axis, k, largest)?;
    many([values, places])
}

fn kthvalue(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let rank = cx.rank(x)?;
    let (axis, keepdim, k) = (cx.axis("dim", rank)?, cx.flag("keepdim")?, cx.dim("k")?);
    if rank == 0 {
        let at = cx.constant(DType::I64, 0.0)?;
        return many([x, at]);
    }
    let (values, places) = sorted(cx, x, axis, false)?;
    let at = k - Dim::known(1);
    let value = cx.b.slice_axis(values, axis, at.clone(), Dim::known(1))?;
    let place = cx.b.slice_axis(places, axis, at, Dim::known(1))?;
    let (value, place) = (
        super::reduce::dropped(cx, value, axis, keepdim)?,
        super::reduce::dropped(cx, place, axis, keepdim)?,
    );
    many([value, place])
}

/// How many boundaries are below each value: below or equal if `right`. Compares every pair.
fn places(cx: &mut Cx<'_, '_>, boundaries: Value, values: &Arg, right: bool) -> Result<Value, OpError> {
    let dtype = cx.result_type(&[&Arg::Tensor(boundaries), values])?;
    let boundaries = cx.b.cast(boundaries, dtype)?;
    let values = cx.as_dtype(values, dtype)?;
    let mut shape = cx.shape(values)?;
    shape.push(Dim::known(1));
    let column = cx.b.reshape(values, &shape)?;
    let bounds = cx.shape(boundaries)?;
    // Rows of boundaries belong to rows of values.
    let row = match bounds.split_last() {
        Some((last, batch)) if !batch.is_empty() => {
            let wide = [batch, &[Dim::known(1), last.clone()]].concat();
            cx.b.reshape(boundaries, &wide)?
        }
        _ => boundaries,
    };
    // NaN is behind all boundaries: no comparison with it holds.
    let above = cx.ew(if right { "gt" } else { "ge" }, &[row, column])?;
    let below = cx.ew("not", &[above])?;
    let ones = cx.b.cast(below, DType::I64)?;
    let axis = shape.len() - 1;
    Ok(cx.b.reduce(ReduceKind::Sum, ones, &[axis], false)?)
}

fn output(cx: &mut Cx<'_, '_>, v: Value) -> Results {
    let y = if cx.flag("out_int32")? { cx.b.cast(v, DType::I32)? } else { v };
    one(y)
}

fn bucketize(cx: &mut Cx<'_, '_>) -> Results {
    let boundaries = cx.tensor("boundaries")?;
    let values = cx.get("self").clone();
    let right = cx.flag("right")?;
    let y = places(cx, boundaries, &values, right)?;
    output(cx, y)
}

fn searchsorted(cx: &mut Cx<'_, '_>) -> Results {
    let mut boundaries = cx.tensor("sorted_sequence")?;
    if let Some(sorter) = cx.maybe_tensor("sorter")? {
        let axis = cx.rank(boundaries)?.saturating_sub(1);
        let order = cx.b.cast(sorter, DType::I64)?;
        boundaries = cx.b.add1(Index::GatherElements { axis }, &[boundaries, order])?;
    }
    let values = cx.get("self").clone();
    let side = cx.maybe_text("side")?.map(|side| side == "right");
    let right = match side {
        Some(right) => right,
        None => cx.flag("right")?,
    };
    let y = places(cx, boundaries, &values, right)?;
    output(cx, y)
}

/// Whether each element is among the test elements. Compares every pair.
fn isin(cx: &mut Cx<'_, '_>) -> Results {
    let names =
        if cx.takes("elements") { ("elements", "test_elements") } else { ("element", "test_elements") };
    let names = if cx.takes("test_element") { (names.0, "test_element") } else { names };
    let (values, _) = cx.promoted(&[names.0, names.1])?;
    let [x, tests] = super::pointwise::pair(&values)?;
    let mut shape = cx.shape(x)?;
    shape.push(Dim::known(1));
    let axis = shape.len() - 1;
    let column = cx.b.reshape(x, &shape)?;
    let count = product(&cx.shape(tests)?);
    let row = cx.b.reshape(tests, &[count])?;
    let same = cx.ew("eq", &[column, row])?;
    let mut y = cx.b.reduce(ReduceKind::Any, same, &[axis], false)?;
    if cx.flag("invert")? {
        y = cx.ew("not", &[y])?;
    }
    one(y)
}
