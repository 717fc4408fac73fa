//! Indexing, gathers and scatters.

use kiln_ir::op::{Index, Movement, Order, ScatterMode};
use kiln_ir::{Build, DType, Dim, Scalar, Tensor, Value};

use super::arg::Arg;
use super::cx::{Cx, one, product};
use super::movement::{picked, strided};
use super::{How, Results, Row, row};
use crate::error::OpError;

use How::Fn;

#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    row("aten::_unsafe_index", Fn(index)),
    row("aten::_unsafe_index_put", Fn(index_put)),
    row("aten::argwhere", Fn(nonzero)),
    row("aten::copy", Fn(copy)),
    row("aten::diagonal_scatter", Fn(diagonal_scatter)),
    row("aten::embedding", Fn(embedding)),
    row("aten::gather", Fn(gather)),
    row("aten::index", Fn(index)),
    row("aten::index_add", Fn(index_add)),
    row("aten::index_copy", Fn(index_copy)),
    row("aten::index_fill", Fn(index_fill)),
    row("aten::index_put", Fn(index_put)),
    row("aten::index_reduce", Fn(index_reduce)),
    row("aten::index_select", Fn(index_select)),
    row("aten::masked_scatter", Fn(masked_scatter)),
    row("aten::masked_select", Fn(masked_select)),
    row("aten::nonzero", Fn(nonzero)),
    row("aten::nonzero_numpy", Fn(nonzero_numpy)),
    row("aten::one_hot", Fn(one_hot)),
    row("aten::put", Fn(put)),
    row("aten::scatter", Fn(scatter)),
    row("aten::scatter_add", Fn(scatter_add)),
    row("aten::scatter_reduce", Fn(scatter_reduce)),
    row("aten::select_scatter", Fn(select_scatter)),
    row("aten::slice_scatter", Fn(slice_scatter)),
    row("aten::take", Fn(take)),
    row("aten::take_along_dim", Fn(take_along_dim)),
];

/// An index as i64.
pub(super) fn indices(cx: &mut Cx<'_, '_>, name: &str) -> Result<Value, OpError> {
    let v = cx.tensor(name)?;
    Ok(cx.b.cast(v, DType::I64)?)
}

fn embedding(cx: &mut Cx<'_, '_>) -> Results {
    let (weight, index) = (cx.tensor("weight")?, indices(cx, "indices")?);
    let y = cx.b.add1(Index::Gather { axis: 0 }, &[weight, index])?;
    one(y)
}

/// A vector of indices along an axis.
fn vector(cx: &mut Cx<'_, '_>, name: &str) -> Result<Value, OpError> {
    let index = indices(cx, name)?;
    let count = cx.numel(index)?;
    Ok(cx.b.reshape(index, &[count])?)
}

fn index_select(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let rank = cx.rank(x)?;
    let axis = cx.axis("dim", rank)?;
    let index = vector(cx, "index")?;
    if rank == 0 {
        return one(x);
    }
    let y = cx.b.add1(Index::Gather { axis }, &[x, index])?;
    one(y)
}

fn gather(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let rank = cx.rank(x)?;
    let axis = cx.axis("dim", rank)?;
    let index = indices(cx, "index")?;
    if rank == 0 {
        let shape = cx.shape(index)?;
        let y = cx.b.broadcast(x, &shape)?;
        return one(y);
    }
    let y = gathered(cx, x, index, axis)?;
    one(y)
}

/// The part of `x` at the start of every axis but one, of these sizes.
fn corner(cx: &mut Cx<'_, '_>, mut x: Value, sizes: &[Dim], but: usize) -> Result<Value, OpError> {
    for (i, size) in sizes.iter().enumerate() {
        if i != but && cx.shape(x)?.get(i) != Some(size) {
            x = cx.b.slice_axis(x, i, Dim::known(0), size.clone())?;
        }
    }
    Ok(x)
}

/// Elements along an axis; other axes of the index may be shorter.
pub(super) fn gathered(cx: &mut Cx<'_, '_>, x: Value, index: Value, axis: usize) -> Result<Value, OpError> {
    let sizes = cx.shape(index)?;
    if cx.rank(x)? != sizes.len() {
        let whole = cx.rank(index)? == 0;
        if !whole {
            return Err(OpError::invalid("the index has another number of axes"));
        }
        let one_row = cx.b.reshape(index, &[Dim::known(1)])?;
        let y = cx.b.add1(Index::GatherElements { axis }, &[x, one_row])?;
        return Ok(cx.b.reshape(y, &[])?);
    }
    let x = corner(cx, x, &sizes, axis)?;
    Ok(cx.b.add1(Index::GatherElements { axis }, &[x, index])?)
}

fn take_along_dim(cx: &mut Cx<'_, '_>) -> Results {
    let (mut x, mut index) = (cx.tensor("self")?, indices(cx, "indices")?);
    let Some(axis) = cx.maybe_int("dim")? else {
        let (a, b) = (cx.numel(x)?, cx.numel(index)?);
        (x, index) = (cx.b.reshape(x, &[a])?, cx.b.reshape(index, &[b])?);
        let y = cx.b.add1(Index::GatherElements { axis: 0 }, &[x, index])?;
        return one(y);
    };
    let axis = super::cx::normal_axis(axis, cx.rank(x)?)?;
    // All axes but one broadcast.
    let (mut a, mut b) = (cx.shape(x)?, cx.shape(index)?);
    for (i, (a, b)) in a.iter_mut().zip(b.iter_mut()).enumerate() {
        if i != axis {
            let common = a.broadcast(b);
            (*a, *b) = (common.clone(), common);
        }
    }
    let (x, index) = (cx.b.broadcast(x, &a)?, cx.b.broadcast(index, &b)?);
    let y = cx.b.add1(Index::GatherElements { axis }, &[x, index])?;
    one(y)
}

fn take(cx: &mut Cx<'_, '_>) -> Results {
    let (x, index) = (cx.tensor("self")?, indices(cx, "index")?);
    let total = cx.numel(x)?;
    let flat = cx.b.reshape(x, &[total])?;
    let y = cx.b.add1(Index::Gather { axis: 0 }, &[flat, index])?;
    one(y)
}

/// `torch.where(condition)`: the coordinates of what holds, a tensor an axis.
pub(super) fn where_true(cx: &mut Cx<'_, '_>, condition: Value) -> Results {
    let rows = coordinates(cx, condition)?;
    Ok(vec![Arg::tensors(rows)])
}

/// The coordinates of elements that are not zero, a vector an axis.
fn coordinates(cx: &mut Cx<'_, '_>, x: Value) -> Result<Vec<Value>, OpError> {
    let rank = cx.rank(x)?;
    let x = if rank == 0 { cx.b.reshape(x, &[Dim::known(1)])? } else { x };
    let places = cx.b.add1(Order::NonZero {}, &[x])?;
    (0..rank.max(1)).map(|axis| picked(cx, places, 0, Dim::known(axis as i64))).collect()
}

fn nonzero(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    let rank = cx.rank(x)?;
    let set = super::compare::truth(cx, x)?;
    let set = if rank == 0 { cx.b.reshape(set, &[Dim::known(1)])? } else { set };
    let places = cx.b.add1(Order::NonZero {}, &[set])?;
    let rows = cx.b.transpose(places, &[1, 0])?;
    if rank > 0 {
        return one(rows);
    }
    let count = cx.shape(rows)?.first().cloned().unwrap_or(Dim::known(0));
    let y = cx.b.slice_axis(rows, 1, Dim::known(0), Dim::known(0))?;
    let y = cx.b.reshape(y, &[count, Dim::known(0)])?;
    one(y)
}

fn nonzero_numpy(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    let set = super::compare::truth(cx, x)?;
    where_true(cx, set)
}

/// Tensor and mask at their common shape.
fn masked(cx: &mut Cx<'_, '_>) -> Result<(Value, Value), OpError> {
    let (x, mask) = (cx.tensor("self")?, cx.tensor("mask")?);
    let mask = super::compare::truth(cx, mask)?;
    let shape = cx.common_shape(&[x, mask])?;
    Ok((cx.b.broadcast(x, &shape)?, cx.b.broadcast(mask, &shape)?))
}

/// The elements where a mask of the same shape holds, in order.
fn selected(cx: &mut Cx<'_, '_>, x: Value, mask: Value) -> Result<Value, OpError> {
    let total = [cx.numel(x)?];
    let (x, mask) = (cx.b.reshape(x, &total)?, cx.b.reshape(mask, &total)?);
    let places = coordinates(cx, mask)?;
    let place = places.first().copied().ok_or_else(|| OpError::invalid("a mask without axes"))?;
    Ok(cx.b.add1(Index::Gather { axis: 0 }, &[x, place])?)
}

fn masked_select(cx: &mut Cx<'_, '_>) -> Results {
    let (x, mask) = masked(cx)?;
    let y = selected(cx, x, mask)?;
    one(y)
}

/// Elements of `source`, in order, where the mask holds: element `n` where `n` elements of the mask hold before.
fn masked_scatter(cx: &mut Cx<'_, '_>) -> Results {
    let (x, mask) = masked(cx)?;
    let source = cx.tensor("source")?;
    let shape = cx.shape(x)?;
    let total = [product(&shape)];
    let flat = cx.b.reshape(mask, &total)?;
    let ones = cx.b.cast(flat, DType::I64)?;
    let op = Order::Cumulative { kind: kiln_ir::op::CumKind::Sum, axis: 0, exclusive: true, reverse: false };
    let before = cx.b.add1(op, &[ones])?;
    let count = cx.numel(source)?;
    let source = cx.b.reshape(source, &[count.clone()])?;
    let last = cx.as_dtype(&Arg::Int((count - Dim::known(1)).greater(&Dim::known(0))), DType::I64)?;
    let before = cx.ew("min", &[before, last])?;
    let picked = cx.b.add1(Index::Gather { axis: 0 }, &[source, before])?;
    let picked = cx.b.reshape(picked, &shape)?;
    let y = cx.ew("where", &[mask, picked, x])?;
    one(y)
}

/// Indices of one tensor: by axis; those that are absent take the whole axis.
struct Places {
    /// Axes that are indexed, in order, and the index of each.
    by_axis: Vec<(usize, Value)>,
    /// Whether they follow each other.
    adjacent: bool,
}

/// Masks become the coordinates of what holds, over as many axes as they have.
fn places(cx: &mut Cx<'_, '_>, x: Value) -> Result<Places, OpError> {
    let Arg::List(items) = cx.get("indices").clone() else {
        return Err(OpError::invalid("argument `indices`: expected a list"));
    };
    let rank = cx.rank(x)?;
    let (mut axis, mut by_axis) = (0, vec![]);
    for item in items {
        match item {
            Arg::None => axis += 1,
            Arg::Tensor(v) if matches!(cx.dtype(v)?, DType::Bool | DType::U8) => {
                let mask = super::compare::truth(cx, v)?;
                for place in coordinates(cx, mask)? {
                    by_axis.push((axis, place));
                    axis += 1;
                }
            }
            Arg::Tensor(v) => {
                by_axis.push((axis, cx.b.cast(v, DType::I64)?));
                axis += 1;
            }
            other => return Err(OpError::invalid(format!("an index that is {}", other.kind()))),
        }
    }
    if axis > rank {
        return Err(OpError::invalid(format!("{axis} indices for {rank} axes")));
    }
    let adjacent = by_axis.windows(2).all(|pair| matches!(pair, [(a, _), (b, _)] if a + 1 == *b));
    Ok(Places { by_axis, adjacent })
}

/// The indices of several axes as one index into these axes taken as one; negative ones counted from the end first.
fn flat_index(cx: &mut Cx<'_, '_>, shape: &[Dim], found: &[(usize, Value)]) -> Result<Value, OpError> {
    let mut total: Option<Value> = None;
    for (axis, index) in found {
        let size = shape.get(*axis).cloned().unwrap_or(Dim::known(1));
        let size = cx.as_dtype(&Arg::Int(size), DType::I64)?;
        let zero = cx.constant(DType::I64, 0.0)?;
        let below = cx.ew("lt", &[*index, zero])?;
        let counted = cx.ew("add", &[*index, size])?;
        let index = cx.ew("where", &[below, counted, *index])?;
        total = Some(match total {
            None => index,
            Some(before) => {
                let scaled = cx.ew("mul", &[before, size])?;
                cx.ew("add", &[scaled, index])?
            }
        });
    }
    total.ok_or_else(|| OpError::invalid("no indices"))
}

/// `x` with the indexed axes moved together and taken as one; the axis that they became, and the axes in their new order.
fn together(cx: &mut Cx<'_, '_>, x: Value, found: &Places) -> Result<(Value, usize, Vec<usize>), OpError> {
    let shape = cx.shape(x)?;
    let axes: Vec<usize> = found.by_axis.iter().map(|(axis, _)| *axis).collect();
    let first = axes.first().copied().unwrap_or(0);
    let at = if found.adjacent { first } else { 0 };
    let mut perm: Vec<usize> = (0..shape.len()).filter(|axis| !axes.contains(axis)).collect();
    perm.splice(at..at, axes.iter().copied());
    let moved = cx.b.transpose(x, &perm)?;
    let mut dims = cx.shape(moved)?;
    let joint = product(dims.get(at..at + axes.len()).unwrap_or(&[]));
    dims.splice(at..at + axes.len(), [joint]);
    Ok((cx.b.reshape(moved, &dims)?, at, perm))
}

/// Indexing by tensors as PyTorch has it: indices broadcast, and their axes come where the first was, or first if the
/// indexed axes do not follow each other.
fn index(cx: &mut Cx<'_, '_>) -> Results {
    if !cx.takes("indices") {
        return Err(OpError::unsupported("places in lists"));
    }
    let x = cx.tensor("self")?;
    let found = places(cx, x)?;
    let y = match found.by_axis.as_slice() {
        [] => x,
        [(axis, index)] => cx.b.add1(Index::Gather { axis: *axis }, &[x, *index])?,
        several => {
            let shape = cx.shape(x)?;
            let index = flat_index(cx, &shape, several)?;
            let (flat, at, _) = together(cx, x, &found)?;
            cx.b.add1(Index::Gather { axis: at }, &[flat, index])?
        }
    };
    one(y)
}

/// Writes to indexed places: the joint axis comes first, so that a place is a row.
fn index_put(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let (dtype, shape) = (cx.dtype(x)?, cx.shape(x)?);
    let values = cx.tensor("values")?;
    let values = cx.b.cast(values, dtype)?;
    let accumulate = cx.flag("accumulate")?;
    if let Some(y) = put_where(cx, x, values, accumulate)? {
        return one(y);
    }
    let found = places(cx, x)?;
    if found.by_axis.is_empty() {
        let wide = cx.b.broadcast(values, &shape)?;
        let y = if accumulate { cx.ew("add", &[x, wide])? } else { wide };
        return one(y);
    }
    let index = flat_index(cx, &shape, &found.by_axis)?;
    let index_shape = cx.shape(index)?;
    let (flat, at, perm) = together(cx, x, &found)?;
    let moved_shape = cx.shape(flat)?;
    // The shape of what indexing gives, which the values broadcast to.
    let (before, rest) = moved_shape.split_at(at.min(moved_shape.len()));
    let after = rest.get(1..).unwrap_or(&[]);
    let result = [before, index_shape.as_slice(), after].concat();
    let values = cx.b.broadcast(values, &result)?;
    // Rows: the joint axis in front.
    let rank = moved_shape.len();
    let front: Vec<usize> = std::iter::once(at).chain((0..rank).filter(|&axis| axis != at)).collect();
    let rows = cx.b.transpose(flat, &front)?;
    let n = index_shape.len();
    let order: Vec<usize> = (at..at + n).chain(0..at).chain(at + n..result.len()).collect();
    let updates = cx.b.transpose(values, &order)?;
    let places = [index_shape, vec![Dim::known(1)]].concat();
    let index = cx.b.reshape(index, &places)?;
    let mode = if accumulate { ScatterMode::Add } else { ScatterMode::Assign };
    let written = cx.b.add1(Index::ScatterNd { mode }, &[rows, index, updates])?;
    let mut back = vec![0; rank];
    for (i, &axis) in front.iter().enumerate() {
        if let Some(slot) = back.get_mut(axis) {
            *slot = i;
        }
    }
    let flat = cx.b.transpose(written, &back)?;
    let apart: Vec<Dim> = perm.iter().filter_map(|&axis| shape.get(axis).cloned()).collect();
    let moved = cx.b.reshape(flat, &apart)?;
    let mut inverse = vec![0; perm.len()];
    for (i, &axis) in perm.iter().enumerate() {
        if let Some(slot) = inverse.get_mut(axis) {
            *slot = i;
        }
    }
    let y = cx.b.transpose(moved, &inverse)?;
    one(y)
}

/// A write of one number where a mask holds is a choice.
fn put_where(
    cx: &mut Cx<'_, '_>,
    x: Value,
    values: Value,
    accumulate: bool,
) -> Result<Option<Value>, OpError> {
    let Arg::List(items) = cx.get("indices").clone() else { return Ok(None) };
    let [Arg::Tensor(mask)] = items.as_slice() else { return Ok(None) };
    let single = cx.numel(values)?.as_known() == Some(1);
    if accumulate || !single || !matches!(cx.dtype(*mask)?, DType::Bool | DType::U8) {
        return Ok(None);
    }
    let mut dims = cx.shape(*mask)?;
    let rank = cx.rank(x)?;
    if dims.len() > rank {
        return Ok(None);
    }
    dims.resize(rank, Dim::known(1));
    let mask = super::compare::truth(cx, *mask)?;
    let mask = cx.b.reshape(mask, &dims)?;
    let value = cx.b.reshape(values, &[])?;
    cx.ew("where", &[mask, value, x]).map(Some)
}

fn copy(cx: &mut Cx<'_, '_>) -> Results {
    let (x, source) = (cx.tensor("self")?, cx.tensor("src")?);
    let (dtype, shape) = (cx.dtype(x)?, cx.shape(x)?);
    let source = cx.b.cast(source, dtype)?;
    let y = cx.b.broadcast(source, &shape)?;
    one(y)
}

/// `x` with the elements `start .. start + length` of an axis replaced.
fn replaced(
    cx: &mut Cx<'_, '_>,
    x: Value,
    part: Value,
    axis: usize,
    (start, length): (Dim, Dim),
) -> Result<Value, OpError> {
    let shape = cx.shape(x)?;
    let size = shape.get(axis).cloned().unwrap_or(Dim::known(1));
    let end = &start + &length;
    let mut parts = vec![];
    if start.as_known() != Some(0) {
        parts.push(strided(cx, x, axis, Dim::known(0), start, 1)?);
    }
    parts.push(part);
    if size != end {
        parts.push(strided(cx, x, axis, end.clone(), &size - &end, 1)?);
    }
    let y = cx.b.concat(&parts, axis)?;
    Ok(cx.b.reshape(y, &shape)?)
}

fn slice_scatter(cx: &mut Cx<'_, '_>) -> Results {
    let (x, source) = (cx.tensor("self")?, cx.tensor("src")?);
    let (dtype, shape) = (cx.dtype(x)?, cx.shape(x)?);
    let axis = cx.axis("dim", shape.len())?;
    let size = shape.get(axis).cloned().ok_or_else(|| OpError::invalid("a tensor without axes"))?;
    let step = cx.int("step")?;
    let (start, end) = (cx.maybe_dim("start")?, cx.maybe_dim("end")?);
    let (start, length) = super::movement::range(start, end, &size);
    let source = cx.b.cast(source, dtype)?;
    let mut part = shape.clone();
    if let Some(slot) = part.get_mut(axis) {
        *slot = length.ceil_div(&Dim::known(step.max(1)));
    }
    let source = cx.b.broadcast(source, &part)?;
    if step == 1 {
        let y = replaced(cx, x, source, axis, (start, length))?;
        return one(y);
    }
    if step < 1 {
        return Err(OpError::invalid(format!("step {step}")));
    }
    // Every `step`th: places are rows of the axis brought to the front.
    let count = part.get(axis).cloned().unwrap_or(Dim::known(0));
    let places = cx.positions(&count, DType::I64, 0, 2)?;
    let places = cx.ew_const("mul", places, step as f64)?;
    let start = cx.as_dtype(&Arg::Int(start), DType::I64)?;
    let places = cx.ew("add", &[places, start])?;
    let places = cx.b.reshape(places, &[count, Dim::known(1)])?;
    let y = rows_written(cx, x, source, axis, places, ScatterMode::Assign)?;
    one(y)
}

/// Writes rows along an axis: `places` is `[n, 1]`, `updates` has `n` on the axis.
fn rows_written(
    cx: &mut Cx<'_, '_>,
    x: Value,
    updates: Value,
    axis: usize,
    places: Value,
    mode: ScatterMode,
) -> Result<Value, OpError> {
    let rank = cx.rank(x)?;
    let front: Vec<usize> = std::iter::once(axis).chain((0..rank).filter(|&a| a != axis)).collect();
    let mut back: Vec<usize> = (1..rank).collect();
    back.insert(axis, 0);
    let (x, updates) = (cx.b.transpose(x, &front)?, cx.b.transpose(updates, &front)?);
    let y = cx.b.add1(Index::ScatterNd { mode }, &[x, places, updates])?;
    Ok(cx.b.transpose(y, &back)?)
}

fn select_scatter(cx: &mut Cx<'_, '_>) -> Results {
    let (x, source) = (cx.tensor("self")?, cx.tensor("src")?);
    let (dtype, mut shape) = (cx.dtype(x)?, cx.shape(x)?);
    let axis = cx.axis("dim", shape.len())?;
    let size = shape.get(axis).cloned().ok_or_else(|| OpError::invalid("a tensor without axes"))?;
    let index = cx.dim("index")?;
    let index = match index.as_known() {
        Some(v) if v < 0 => index + size,
        _ => index,
    };
    if let Some(slot) = shape.get_mut(axis) {
        *slot = Dim::known(1);
    }
    let source = cx.b.cast(source, dtype)?;
    let mut narrow = shape.clone();
    narrow.remove(axis);
    let source = cx.b.broadcast(source, &narrow)?;
    let source = cx.b.reshape(source, &shape)?;
    let y = replaced(cx, x, source, axis, (index, Dim::known(1)))?;
    one(y)
}

/// The last two axes are those of the diagonal; a mask tells which elements are on it.
fn diagonal_scatter(cx: &mut Cx<'_, '_>) -> Results {
    let (x, source) = (cx.tensor("self")?, cx.tensor("src")?);
    let shape = cx.shape(x)?;
    let rank = shape.len();
    let (a, b, offset) = (cx.axis("dim1", rank)?, cx.axis("dim2", rank)?, cx.int("offset")?);
    let mut perm: Vec<usize> = (0..rank).filter(|&axis| axis != a && axis != b).collect();
    perm.extend([a, b]);
    let moved = cx.b.transpose(x, &perm)?;
    let dims = cx.shape(moved)?;
    let (rows, columns) = match dims.as_slice() {
        [.., rows, columns] => (rows.clone(), columns.clone()),
        _ => return Err(OpError::invalid("a diagonal has two axes")),
    };
    let (i, j) = (cx.positions(&rows, DType::I64, 0, 2)?, cx.positions(&columns, DType::I64, 1, 2)?);
    let distance = cx.ew("sub", &[j, i])?;
    let on = cx.ew_const("eq", distance, offset as f64)?;
    // Element `n` of the diagonal is in row `n - min(offset, 0)`: shift the source to rows.
    let dtype = cx.dtype(x)?;
    let source = cx.b.cast(source, dtype)?;
    let source_shape = cx.shape(source)?;
    let count = source_shape.last().cloned().unwrap_or(Dim::known(0));
    let down = Dim::known(offset.min(0).saturating_neg());
    let mut before = vec![Dim::known(0); source_shape.len()];
    let mut after = before.clone();
    if let (Some(first), Some(last)) = (before.last_mut(), after.last_mut()) {
        *last = &rows - &count - &down;
        *first = down;
    }
    let zero = cx.constant(dtype, 0.0)?;
    let pad = Movement::Pad { mode: kiln_ir::op::PadMode::Constant, before, after };
    let column = cx.b.add1(pad, &[source, zero])?;
    let mut column_shape = source_shape;
    column_shape.pop();
    column_shape.extend([rows, Dim::known(1)]);
    let column = cx.b.reshape(column, &column_shape)?;
    let written = cx.ew("where", &[on, column, moved])?;
    let mut inverse = vec![0; rank];
    for (i, &axis) in perm.iter().enumerate() {
        if let Some(slot) = inverse.get_mut(axis) {
            *slot = i;
        }
    }
    let y = cx.b.transpose(written, &inverse)?;
    one(y)
}

/// Writes elements along an axis; other axes of the index may be shorter than those of the tensor.
fn scattered(
    cx: &mut Cx<'_, '_>,
    x: Value,
    index: Value,
    updates: Value,
    axis: usize,
    mode: ScatterMode,
) -> Result<Value, OpError> {
    let (shape, sizes) = (cx.shape(x)?, cx.shape(index)?);
    if shape.is_empty() {
        let (x, index) = (cx.b.reshape(x, &[Dim::known(1)])?, cx.b.reshape(index, &[Dim::known(1)])?);
        let updates = cx.b.reshape(updates, &[Dim::known(1)])?;
        let y = cx.b.add1(Index::ScatterElements { axis: 0, mode }, &[x, index, updates])?;
        return Ok(cx.b.reshape(y, &[])?);
    }
    let updates = if cx.rank(updates)? == sizes.len() {
        corner(cx, updates, &sizes, usize::MAX)?
    } else {
        cx.b.broadcast(updates, &sizes)?
    };
    Ok(cx.b.add1(Index::ScatterElements { axis, mode }, &[x, index, updates])?)
}

fn scatter_of(cx: &mut Cx<'_, '_>, mode: ScatterMode) -> Results {
    let x = cx.tensor("self")?;
    let (dtype, rank) = (cx.dtype(x)?, cx.rank(x)?);
    let axis = cx.axis("dim", rank)?;
    let index = indices(cx, "index")?;
    let source = if cx.takes("src") { cx.get("src").clone() } else { cx.get("value").clone() };
    let updates = cx.as_dtype(&source, dtype)?;
    let y = scattered(cx, x, index, updates, axis, mode)?;
    one(y)
}

fn scatter(cx: &mut Cx<'_, '_>) -> Results {
    let mode = match cx.maybe_text("reduce")? {
        None => ScatterMode::Assign,
        Some("add") => ScatterMode::Add,
        Some("multiply") => ScatterMode::Mul,
        Some(other) => return Err(OpError::invalid(format!("reduce `{other}`"))),
    };
    scatter_of(cx, mode)
}

fn scatter_add(cx: &mut Cx<'_, '_>) -> Results {
    scatter_of(cx, ScatterMode::Add)
}

/// Without the tensor's own elements, written places start from what changes nothing.
fn scatter_reduce(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let (dtype, rank) = (cx.dtype(x)?, cx.rank(x)?);
    let axis = cx.axis("dim", rank)?;
    let index = indices(cx, "index")?;
    let source = cx.get("src").clone();
    let updates = cx.as_dtype(&source, dtype)?;
    combined(cx, x, index, updates, axis)
}

/// The same with one index for all elements of a row.
fn index_reduce(cx: &mut Cx<'_, '_>) -> Results {
    let (x, updates) = (cx.tensor("self")?, cx.tensor("source")?);
    let (dtype, rank) = (cx.dtype(x)?, cx.rank(x)?);
    let axis = cx.axis("dim", rank)?;
    let index = vector(cx, "index")?;
    let sizes = cx.shape(updates)?;
    if rank == 0 || sizes.len() != rank {
        return Err(OpError::unsupported("rows of tensors without axes"));
    }
    let mut dims = vec![Dim::known(1); rank];
    if let Some(slot) = dims.get_mut(axis) {
        *slot = cx.numel(index)?;
    }
    let index = cx.b.reshape(index, &dims)?;
    let index = cx.b.broadcast(index, &sizes)?;
    let updates = cx.b.cast(updates, dtype)?;
    combined(cx, x, index, updates, axis)
}

/// Elements at places of the tensor taken as a vector.
fn put(cx: &mut Cx<'_, '_>) -> Results {
    let (x, index) = (cx.tensor("self")?, vector(cx, "index")?);
    let (dtype, shape) = (cx.dtype(x)?, cx.shape(x)?);
    let source = cx.tensor("source")?;
    let count = cx.numel(source)?;
    let source = cx.b.cast(source, dtype)?;
    let (flat, source) = (cx.b.reshape(x, &[product(&shape)])?, cx.b.reshape(source, &[count])?);
    let mode = if cx.flag("accumulate")? { ScatterMode::Add } else { ScatterMode::Assign };
    let y = cx.b.add1(Index::ScatterElements { axis: 0, mode }, &[flat, index, source])?;
    let y = cx.b.reshape(y, &shape)?;
    one(y)
}

/// What is written combines as the argument `reduce` says.
fn combined(cx: &mut Cx<'_, '_>, x: Value, index: Value, updates: Value, axis: usize) -> Results {
    let dtype = cx.dtype(x)?;
    let (mode, neutral) = match cx.maybe_text("reduce")? {
        Some("sum") => (ScatterMode::Add, 0.0),
        Some("prod") => (ScatterMode::Mul, 1.0),
        Some("amax") => (ScatterMode::Max, f64::NEG_INFINITY),
        Some("amin") => (ScatterMode::Min, f64::INFINITY),
        Some("mean") => (ScatterMode::Add, 0.0),
        other => return Err(OpError::unsupported(format!("reduce `{}`", other.unwrap_or("")))),
    };
    let mean = cx.maybe_text("reduce")? == Some("mean");
    let own = cx.flag("include_self")?;
    let sizes = cx.shape(index)?;
    let mut start = x;
    if !own {
        let neutral = match dtype.int_range() {
            Some((low, high)) if neutral.is_infinite() => Scalar::I(if neutral < 0.0 { low } else { high }),
            Some(_) => Scalar::I(neutral as i128),
            None if dtype == DType::Bool => Scalar::B(neutral > 0.0),
            None => Scalar::F(neutral),
        };
        let fill = cx.b.constant(Tensor::from_scalars(dtype, &[], &[neutral])?)?;
        let fill = cx.b.broadcast(fill, &sizes)?;
        start = scattered(cx, x, index, fill, axis, ScatterMode::Assign)?;
    }
    let mut y = scattered(cx, start, index, updates, axis, mode)?;
    if mean {
        let ones = cx.filled(dtype, 1.0, &sizes)?;
        let shape = cx.shape(x)?;
        let zeros = cx.filled(dtype, if own { 1.0 } else { 0.0 }, &shape)?;
        let count = scattered(cx, zeros, index, ones, axis, ScatterMode::Add)?;
        let count = cx.ew_const("max", count, 1.0)?;
        y = if dtype.is_float() {
            cx.ew("div", &[y, count])?
        } else {
            let rest = cx.ew("mod", &[y, count])?;
            let whole = cx.ew("sub", &[y, rest])?;
            cx.ew("div", &[whole, count])?
        };
    }
    one(y)
}

/// Rows along an axis at these indices.
fn index_rows(cx: &mut Cx<'_, '_>, updates: Value, mode: ScatterMode) -> Results {
    let x = cx.tensor("self")?;
    let (dtype, shape) = (cx.dtype(x)?, cx.shape(x)?);
    let axis = cx.axis("dim", shape.len())?;
    let index = vector(cx, "index")?;
    let updates = cx.b.cast(updates, dtype)?;
    let count = cx.numel(index)?;
    let places = cx.b.reshape(index, &[count.clone(), Dim::known(1)])?;
    if shape.is_empty() {
        let (x, updates) = (cx.b.reshape(x, &[Dim::known(1)])?, cx.b.reshape(updates, &[count])?);
        let y = cx.b.add1(Index::ScatterNd { mode }, &[x, places, updates])?;
        let y = cx.b.reshape(y, &[])?;
        return one(y);
    }
    let mut sizes = shape;
    if let Some(slot) = sizes.get_mut(axis) {
        *slot = count;
    }
    let updates = cx.b.broadcast(updates, &sizes)?;
    let y = rows_written(cx, x, updates, axis, places, mode)?;
    one(y)
}

fn index_add(cx: &mut Cx<'_, '_>) -> Results {
    let source = cx.tensor("source")?;
    let x = cx.tensor("self")?;
    let dtype = cx.dtype(x)?;
    let alpha = cx.get("alpha").clone();
    let source = match cx.to_float(&alpha) {
        Some(1.0) => source,
        _ => {
            let alpha = cx.as_dtype(&alpha, dtype)?;
            cx.ew("mul", &[source, alpha])?
        }
    };
    index_rows(cx, source, ScatterMode::Add)
}

fn index_copy(cx: &mut Cx<'_, '_>) -> Results {
    let source = cx.tensor("source")?;
    index_rows(cx, source, ScatterMode::Assign)
}

fn index_fill(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let dtype = cx.dtype(x)?;
    let value = cx.get("value").clone();
    let value = cx.as_dtype(&value, dtype)?;
    index_rows(cx, value, ScatterMode::Assign)
}

/// The number of classes must be given: it is a size.
fn one_hot(cx: &mut Cx<'_, '_>) -> Results {
    let index = indices(cx, "self")?;
    let classes = cx.dim("num_classes")?;
    if classes.as_known() == Some(-1) {
        return Err(OpError::unsupported("a number of classes that depends on the elements"));
    }
    let mut shape = cx.shape(index)?;
    shape.push(Dim::known(1));
    let rank = shape.len();
    let column = cx.b.reshape(index, &shape)?;
    let row = cx.positions(&classes, DType::I64, rank - 1, rank)?;
    let hot = cx.ew("eq", &[column, row])?;
    let y = cx.b.cast(hot, DType::I64)?;
    one(y)
}
