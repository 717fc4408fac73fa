//! Splits, joins with new axes, flips, triangles.

use kiln_ir::op::{Movement, PadMode};
use kiln_ir::{Build, DType, Dim, Value};

use super::arg::Arg;
use super::cx::{Cx, MOST_PIECES, normal_axis, one, product};
use super::movement::{exchanged, inferred, joined, picked, strided};
use super::{How, Results, Row, row};
use crate::error::OpError;

use How::{Alias, Fn};

#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    row("aten::adjoint", Fn(matrix_transpose)),
    row("aten::atleast_1d", Fn(|cx| at_least(cx, 1))),
    row("aten::atleast_2d", Fn(|cx| at_least(cx, 2))),
    row("aten::atleast_3d", Fn(|cx| at_least(cx, 3))),
    row("aten::broadcast_tensors", Fn(broadcast_tensors)),
    row("aten::broadcast_to", Fn(broadcast_to)),
    row("aten::channel_shuffle", Fn(channel_shuffle)),
    row("aten::chunk", Fn(chunk)),
    row("aten::column_stack", Fn(column_stack)),
    row("aten::diag", Fn(diag)),
    row("aten::diag_embed", Fn(diag_embed)),
    row("aten::diagflat", Fn(diagflat)),
    row("aten::diagonal", Fn(diagonal)),
    row("aten::diagonal_copy", Fn(diagonal)),
    row("aten::dsplit", Fn(|cx| split_along(cx, 2))),
    row("aten::dstack", Fn(|cx| stacked(cx, 3, 2))),
    row("aten::flip", Fn(flip)),
    row("aten::fliplr", Fn(|cx| flip_of(cx, 1))),
    row("aten::flipud", Fn(|cx| flip_of(cx, 0))),
    row("aten::hsplit", Fn(|cx| split_along(cx, 1))),
    row("aten::hstack", Fn(hstack)),
    row("aten::linalg_diagonal", Fn(diagonal)),
    row("aten::mH", Fn(matrix_transpose)),
    row("aten::mT", Fn(matrix_transpose)),
    row("aten::matrix_H", Fn(matrix_transpose)),
    row("aten::meshgrid", Fn(meshgrid)),
    row("aten::moveaxis", Alias("aten::movedim")),
    row("aten::movedim", Fn(movedim)),
    row("aten::narrow", Fn(narrow)),
    row("aten::narrow_copy", Fn(narrow)),
    row("aten::native_channel_shuffle", Alias("aten::channel_shuffle")),
    row("aten::numpy_T", Fn(numpy_t)),
    row("aten::pixel_shuffle", Fn(pixel_shuffle)),
    row("aten::pixel_unshuffle", Fn(pixel_unshuffle)),
    row("aten::ravel", Fn(ravel)),
    row("aten::roll", Fn(roll)),
    row("aten::rot90", Fn(rot90)),
    row("aten::row_stack", Alias("aten::vstack")),
    row("aten::split", Fn(split)),
    row("aten::split_copy", Fn(split)),
    row("aten::split_with_sizes", Fn(split)),
    row("aten::split_with_sizes_copy", Fn(split)),
    row("aten::stack", Fn(stack)),
    row("aten::swapaxes", Fn(|cx| swap(cx, "axis0", "axis1"))),
    row("aten::swapdims", Fn(|cx| swap(cx, "dim0", "dim1"))),
    row("aten::tensor_split", Fn(tensor_split)),
    row("aten::trace", Fn(trace)),
    row("aten::tril", Fn(|cx| triangle(cx, true))),
    row("aten::triu", Fn(|cx| triangle(cx, false))),
    row("aten::unbind", Fn(unbind)),
    row("aten::unbind_copy", Fn(unbind)),
    row("aten::unflatten", Fn(unflatten)),
    row("aten::unfold", Fn(unfold)),
    row("aten::unfold_copy", Fn(unfold)),
    row("aten::unsafe_chunk", Fn(chunk)),
    row("aten::unsafe_split", Fn(split)),
    row("aten::unsafe_split_with_sizes", Fn(split)),
    row("aten::vsplit", Fn(|cx| split_along(cx, 0))),
    row("aten::vstack", Fn(|cx| stacked(cx, 2, 0))),
];

/// The size of an axis that the operator needs.
pub(super) fn size_of(shape: &[Dim], axis: usize) -> Result<Dim, OpError> {
    shape.get(axis).cloned().ok_or_else(|| OpError::invalid("the tensor has no such axis"))
}

/// A list of tensors as the one result.
fn list(values: Vec<Value>) -> Results {
    Ok(vec![Arg::tensors(values)])
}

/// Pieces of these sizes, one after the other.
fn pieces(cx: &mut Cx<'_, '_>, x: Value, axis: usize, sizes: &[Dim]) -> Results {
    if sizes.len() > MOST_PIECES {
        return Err(OpError::invalid(format!("{} pieces", sizes.len())));
    }
    let mut start = Dim::known(0);
    let mut values = vec![];
    for size in sizes {
        values.push(strided(cx, x, axis, start.clone(), size.clone(), 1)?);
        start = &start + size;
    }
    list(values)
}

/// Sizes of pieces of one length, of which the last may be shorter.
fn even_sizes(total: &Dim, size: &Dim) -> Result<Vec<Dim>, OpError> {
    if total == size {
        return Ok(vec![total.clone()]);
    }
    let (Some(total), Some(size)) = (total.as_known(), size.as_known()) else {
        return match total.exact_div(size).and_then(|n| n.as_known()).and_then(|n| usize::try_from(n).ok()) {
            Some(n) if n <= MOST_PIECES => Ok(vec![size.clone(); n]),
            _ => Err(OpError::unsupported("a number of pieces that is not known when compiling")),
        };
    };
    if size < 0 || (size == 0 && total > 0) || total / size.max(1) > MOST_PIECES as i64 {
        return Err(OpError::invalid(format!("pieces of {size} of an axis of {total}")));
    }
    let mut sizes = vec![];
    let mut left = total;
    while left > 0 || sizes.is_empty() {
        let piece = left.min(size);
        sizes.push(Dim::known(piece));
        left -= piece.max(1);
    }
    Ok(sizes)
}

fn split(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let shape = cx.shape(x)?;
    let axis = cx.axis("dim", shape.len())?;
    let total = size_of(&shape, axis)?;
    let sizes = if cx.takes("split_sizes") {
        cx.dims("split_sizes")?
    } else if let Arg::List(_) = cx.get("split_size") {
        cx.dims("split_size")?
    } else {
        let size = cx.dim("split_size")?;
        even_sizes(&total, &size)?
    };
    pieces(cx, x, axis, &sizes)
}

fn chunk(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let shape = cx.shape(x)?;
    let axis = cx.axis("dim", shape.len())?;
    let count = cx.int("chunks")?;
    if count <= 0 {
        return Err(OpError::invalid(format!("{count} chunks")));
    }
    let total = size_of(&shape, axis)?;
    let sizes = match total.exact_div(&Dim::known(count)) {
        Some(size) if total.as_known() != Some(0) => {
            vec![size; usize::try_from(count).unwrap_or(0).min(MOST_PIECES + 1)]
        }
        Some(_) => vec![Dim::known(0); usize::try_from(count).unwrap_or(0).min(MOST_PIECES + 1)],
        None => even_sizes(&total, &total.ceil_div(&Dim::known(count)))?,
    };
    pieces(cx, x, axis, &sizes)
}

/// Pieces of as equal sizes as can be, or between positions.
fn divided(cx: &mut Cx<'_, '_>, x: Value, axis: usize, positions: &str, sections: &str) -> Results {
    let shape = cx.shape(x)?;
    let total = size_of(&shape, axis)?;
    if cx.takes(positions) && !cx.get(positions).is_none() {
        let mut values = vec![];
        let places = cx.dims(positions)?;
        let starts = std::iter::once(None).chain(places.iter().cloned().map(Some));
        let ends = places.iter().cloned().map(Some).chain([None]);
        for (start, end) in starts.zip(ends) {
            let (start, length) = super::movement::range(start, end, &total);
            values.push(strided(cx, x, axis, start, length, 1)?);
        }
        return list(values);
    }
    let count = cx.int(sections)?;
    let size = total.as_known().ok_or_else(|| OpError::unsupported("an axis of unknown size"))?;
    if count <= 0 || count > MOST_PIECES as i64 {
        return Err(OpError::invalid(format!("{count} pieces")));
    }
    let sizes: Vec<Dim> =
        (0..count).map(|i| Dim::known(size / count + i64::from(i < size % count))).collect();
    pieces(cx, x, axis, &sizes)
}

fn tensor_split(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let rank = cx.rank(x)?;
    let axis = cx.axis("dim", rank)?;
    divided(cx, x, axis, "indices", "sections")
}

/// `hsplit` of a vector is along its only axis.
fn split_along(cx: &mut Cx<'_, '_>, axis: usize) -> Results {
    let x = cx.tensor("self")?;
    let axis = axis.min(cx.rank(x)?.saturating_sub(1));
    divided(cx, x, axis, "indices", "sections")
}

fn unbind(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let shape = cx.shape(x)?;
    let axis = cx.axis("dim", shape.len())?;
    let count = size_of(&shape, axis)?;
    let count = count.as_known().filter(|&n| n <= MOST_PIECES as i64);
    let count = count.ok_or_else(|| OpError::unsupported("a number of slices that is not known"))?;
    let values = (0..count).map(|i| picked(cx, x, axis, Dim::known(i)));
    let values = values.collect::<Result<Vec<_>, _>>()?;
    list(values)
}

fn narrow(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let shape = cx.shape(x)?;
    let axis = cx.axis("dim", shape.len())?;
    let (start, length) = (cx.dim("start")?, cx.dim("length")?);
    let start = match start.as_known() {
        Some(v) if v < 0 => start + size_of(&shape, axis)?,
        _ => start,
    };
    let y = strided(cx, x, axis, start, length, 1)?;
    one(y)
}

/// Tensors in their common type.
fn common(cx: &mut Cx<'_, '_>, values: &[Value]) -> Result<DType, OpError> {
    let args: Vec<Arg> = values.iter().map(|&v| Arg::Tensor(v)).collect();
    cx.result_type(&args.iter().collect::<Vec<_>>())
}

fn stack(cx: &mut Cx<'_, '_>) -> Results {
    let values = cx.tensors("tensors")?;
    let first = values.first().copied().ok_or_else(|| OpError::invalid("no tensors"))?;
    let axis = cx.axis("dim", cx.rank(first)? + 1)?;
    let dtype = common(cx, &values)?;
    let mut wide = vec![];
    for v in values {
        let mut shape = cx.shape(v)?;
        shape.insert(axis.min(shape.len()), Dim::known(1));
        wide.push(cx.b.reshape(v, &shape)?);
    }
    let y = joined(cx, &wide, axis, dtype)?;
    one(y)
}

/// A tensor of at least so many axes, as NumPy adds them.
fn grown(cx: &mut Cx<'_, '_>, v: Value, rank: usize) -> Result<Value, OpError> {
    let mut shape = cx.shape(v)?;
    match (rank, shape.len()) {
        (3, 2) => shape.push(Dim::known(1)),
        (3, 1) => {
            shape.insert(0, Dim::known(1));
            shape.push(Dim::known(1));
        }
        (wanted, have) if have < wanted => {
            shape.splice(0..0, vec![Dim::known(1); wanted - have]);
        }
        _ => {}
    }
    Ok(cx.b.reshape(v, &shape)?)
}

fn at_least(cx: &mut Cx<'_, '_>, rank: usize) -> Results {
    if let Arg::List(_) = cx.at(0) {
        let values = cx.tensors("tensors")?;
        let grown = values.into_iter().map(|v| grown(cx, v, rank)).collect::<Result<Vec<_>, _>>()?;
        return list(grown);
    }
    let x = cx.first()?;
    let y = grown(cx, x, rank)?;
    one(y)
}

fn stacked(cx: &mut Cx<'_, '_>, rank: usize, axis: usize) -> Results {
    let values = cx.tensors("tensors")?;
    let dtype = common(cx, &values)?;
    let values = values.into_iter().map(|v| grown(cx, v, rank)).collect::<Result<Vec<_>, _>>()?;
    let y = joined(cx, &values, axis, dtype)?;
    one(y)
}

fn hstack(cx: &mut Cx<'_, '_>) -> Results {
    let values = cx.tensors("tensors")?;
    let first = values.first().copied().ok_or_else(|| OpError::invalid("no tensors"))?;
    let axis = if cx.rank(first)? <= 1 { 0 } else { 1 };
    stacked(cx, 1, axis)
}

fn column_stack(cx: &mut Cx<'_, '_>) -> Results {
    let values = cx.tensors("tensors")?;
    let dtype = common(cx, &values)?;
    let mut columns = vec![];
    for v in values {
        columns.push(if cx.rank(v)? <= 1 {
            let count = cx.numel(v)?;
            cx.b.reshape(v, &[count, Dim::known(1)])?
        } else {
            v
        });
    }
    let y = joined(cx, &columns, 1, dtype)?;
    one(y)
}

fn broadcast_to(cx: &mut Cx<'_, '_>) -> Results {
    let (x, dims) = (cx.tensor("self")?, cx.dims("size")?);
    let y = cx.b.broadcast(x, &dims)?;
    one(y)
}

fn broadcast_tensors(cx: &mut Cx<'_, '_>) -> Results {
    let values = cx.tensors("tensors")?;
    let shape = cx.common_shape(&values)?;
    let wide = values.into_iter().map(|v| cx.b.broadcast(v, &shape)).collect::<Result<Vec<_>, _>>()?;
    list(wide)
}

fn meshgrid(cx: &mut Cx<'_, '_>) -> Results {
    let values = cx.tensors("tensors")?;
    let swapped = cx.maybe_text("indexing")? == Some("xy") && values.len() > 1;
    let rank = values.len();
    if rank > super::MOST_AXES {
        return Err(OpError::invalid(format!("a grid of {rank} axes")));
    }
    let mut shape = vec![];
    for &v in &values {
        shape.push(cx.numel(v)?);
    }
    let sizes = shape.clone();
    if swapped {
        shape.swap(0, 1);
    }
    let mut grids = vec![];
    for (i, (v, size)) in values.into_iter().zip(sizes).enumerate() {
        let axis = match i {
            0 | 1 if swapped => 1 - i,
            other => other,
        };
        let mut dims = vec![Dim::known(1); rank];
        if let Some(slot) = dims.get_mut(axis) {
            *slot = size;
        }
        let column = cx.b.reshape(v, &dims)?;
        grids.push(cx.b.broadcast(column, &shape)?);
    }
    list(grids)
}

/// Elements of axes in reverse order.
pub(super) fn reversed(cx: &mut Cx<'_, '_>, x: Value, axes: &[usize]) -> Result<Value, OpError> {
    let sizes = cx.shape(x)?;
    let mut starts = vec![Dim::known(0); sizes.len()];
    let mut steps = vec![1; sizes.len()];
    for &axis in axes {
        if let (Some(start), Some(step), Some(size)) =
            (starts.get_mut(axis), steps.get_mut(axis), sizes.get(axis))
        {
            (*start, *step) = (size - &Dim::known(1), -1);
        }
    }
    if axes.iter().any(|&axis| sizes.get(axis).and_then(Dim::as_known) == Some(0)) {
        return Ok(x);
    }
    Ok(cx.b.add1(Movement::Slice { starts, sizes, steps }, &[x])?)
}

fn flip(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let rank = cx.rank(x)?;
    let given = cx.ints("dims")?;
    let axes = cx.listed_axes(&given, rank)?;
    let y = if axes.is_empty() { x } else { reversed(cx, x, &axes)? };
    one(y)
}

fn flip_of(cx: &mut Cx<'_, '_>, axis: usize) -> Results {
    let x = cx.tensor("self")?;
    let y = reversed(cx, x, &[axis])?;
    one(y)
}

/// Rolls one axis: what leaves at the end comes back at the start.
fn rolled(cx: &mut Cx<'_, '_>, x: Value, axis: usize, shift: &Dim) -> Result<Value, OpError> {
    let size = size_of(&cx.shape(x)?, axis)?;
    if size.as_known() == Some(0) {
        return Ok(x);
    }
    let shift = shift.modulo(&size);
    if shift.as_known() == Some(0) {
        return Ok(x);
    }
    let cut = &size - &shift;
    let front = strided(cx, x, axis, cut.clone(), shift, 1)?;
    let back = strided(cx, x, axis, Dim::known(0), cut, 1)?;
    let y = cx.b.concat(&[front, back], axis)?;
    // The sum of the parts may be another expression than the size.
    let dims = cx.shape(x)?;
    Ok(cx.b.reshape(y, &dims)?)
}

fn roll(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let shifts = cx.dims("shifts")?;
    let axes = cx.ints("dims")?;
    let shape = cx.shape(x)?;
    if axes.is_empty() {
        let flat = cx.b.reshape(x, &[product(&shape)])?;
        let shift = shifts.first().cloned().unwrap_or(Dim::known(0));
        let y = rolled(cx, flat, 0, &shift)?;
        let y = cx.b.reshape(y, &shape)?;
        return one(y);
    }
    let mut y = x;
    for (axis, shift) in axes.iter().zip(&shifts) {
        y = rolled(cx, y, normal_axis(*axis, shape.len())?, shift)?;
    }
    one(y)
}

fn rot90(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let rank = cx.rank(x)?;
    let given = cx.ints("dims")?;
    let axes = cx.listed_axes(&given, rank)?;
    let [a, b] = axes.as_slice() else { return Err(OpError::invalid("a rotation has two axes")) };
    let y = match cx.int("k")?.rem_euclid(4) {
        1 => {
            let turned = reversed(cx, x, &[*b])?;
            exchanged(cx, turned, *a, *b)?
        }
        2 => reversed(cx, x, &[*a, *b])?,
        3 => {
            let turned = reversed(cx, x, &[*a])?;
            exchanged(cx, turned, *a, *b)?
        }
        _ => x,
    };
    one(y)
}

fn swap(cx: &mut Cx<'_, '_>, a: &str, b: &str) -> Results {
    let x = cx.tensor("self")?;
    let rank = cx.rank(x)?;
    let (a, b) = (cx.axis(a, rank)?, cx.axis(b, rank)?);
    let y = exchanged(cx, x, a, b)?;
    one(y)
}

fn matrix_transpose(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    let rank = cx.rank(x)?;
    let y = if rank < 2 { x } else { exchanged(cx, x, rank - 2, rank - 1)? };
    one(y)
}

fn numpy_t(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    let perm: Vec<usize> = (0..cx.rank(x)?).rev().collect();
    let y = cx.b.transpose(x, &perm)?;
    one(y)
}

fn movedim(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let rank = cx.rank(x)?;
    let (from, to) = (cx.ints("source")?, cx.ints("destination")?);
    let (from, to) = (cx.listed_axes(&from, rank)?, cx.listed_axes(&to, rank)?);
    if from.len() != to.len() {
        return Err(OpError::invalid("source and destination have different lengths"));
    }
    let mut rest = (0..rank).filter(|axis| !from.contains(axis));
    let perm: Option<Vec<usize>> = (0..rank)
        .map(|axis| match to.iter().position(|&t| t == axis) {
            Some(i) => from.get(i).copied(),
            None => rest.next(),
        })
        .collect();
    let perm = perm.ok_or_else(|| OpError::invalid("axes that do not fit"))?;
    let y = cx.b.transpose(x, &perm)?;
    one(y)
}

fn ravel(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    let total = cx.numel(x)?;
    let y = cx.b.reshape(x, &[total])?;
    one(y)
}

fn unflatten(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let mut shape = cx.shape(x)?;
    let axis = cx.axis("dim", shape.len())?;
    let sizes = cx.dims("sizes")?;
    let new = inferred(&sizes, &size_of(&shape, axis)?)?;
    shape.splice(axis..=axis, new);
    let y = cx.b.reshape(x, &shape)?;
    one(y)
}

/// Whether element `[i, j]` is on the side of the diagonal that stays.
fn side(cx: &mut Cx<'_, '_>, shape: &[Dim], lower: bool) -> Result<Value, OpError> {
    let rank = shape.len();
    let (rows, columns) = (size_of(shape, rank.wrapping_sub(2))?, size_of(shape, rank.wrapping_sub(1))?);
    let (i, j) = (cx.positions(&rows, DType::I64, 0, 2)?, cx.positions(&columns, DType::I64, 1, 2)?);
    let distance = cx.ew("sub", &[j, i])?;
    let diagonal = cx.get("diagonal").clone();
    let diagonal = cx.as_dtype(&diagonal, DType::I64)?;
    cx.ew(if lower { "le" } else { "ge" }, &[distance, diagonal])
}

fn triangle(cx: &mut Cx<'_, '_>, lower: bool) -> Results {
    let x = cx.tensor("self")?;
    let (shape, dtype) = (cx.shape(x)?, cx.dtype(x)?);
    let keep = side(cx, &shape, lower)?;
    let zero = cx.constant(dtype, 0.0)?;
    let y = cx.ew("where", &[keep, x, zero])?;
    one(y)
}

/// Two axes and where their diagonal begins.
fn diagonal_axes(cx: &mut Cx<'_, '_>, rank: usize) -> Result<(usize, usize, i64), OpError> {
    let (first, second) = if cx.takes("A") { (-2, -1) } else { (0, 1) };
    let first = cx.maybe_int("dim1")?.unwrap_or(first);
    let second = cx.maybe_int("dim2")?.unwrap_or(second);
    let (a, b) = (normal_axis(first, rank)?, normal_axis(second, rank)?);
    if a == b {
        return Err(OpError::invalid("a diagonal has two axes"));
    }
    Ok((a, b, cx.maybe_int("offset")?.or(cx.maybe_int("diagonal")?).unwrap_or(0)))
}

/// The diagonal of two axes as the last axis: an entry of every row, by its place in the two axes taken as one.
pub(super) fn diagonal_of(
    cx: &mut Cx<'_, '_>,
    x: Value,
    (a, b, offset): (usize, usize, i64),
) -> Result<Value, OpError> {
    let shape = cx.shape(x)?;
    let mut perm: Vec<usize> = (0..shape.len()).filter(|&axis| axis != a && axis != b).collect();
    perm.extend([a, b]);
    let moved = cx.b.transpose(x, &perm)?;
    let (rows, columns) = (size_of(&shape, a)?, size_of(&shape, b)?);
    let zero = Dim::known(0);
    let (down, right) = (Dim::known(offset.min(0).saturating_neg()), Dim::known(offset.max(0)));
    let count = (&rows - &down).greater(&zero).lesser(&(&columns - &right).greater(&zero));
    let mut flat = cx.shape(moved)?;
    flat.truncate(flat.len().saturating_sub(2));
    let axis = flat.len();
    flat.push(&rows * &columns);
    let flat = cx.b.reshape(moved, &flat)?;
    let i = cx.positions(&count, DType::I64, 0, 1)?;
    let stride = cx.as_dtype(&Arg::Int(&columns + &Dim::known(1)), DType::I64)?;
    let first = cx.as_dtype(&Arg::Int(down * columns + right), DType::I64)?;
    let places = cx.ew("mul", &[i, stride])?;
    let places = cx.ew("add", &[places, first])?;
    Ok(cx.b.add1(kiln_ir::op::Index::Gather { axis }, &[flat, places])?)
}

fn diagonal(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    let axes = diagonal_axes(cx, cx.rank(x)?)?;
    let y = diagonal_of(cx, x, axes)?;
    one(y)
}

fn trace(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    let diagonal = diagonal_of(cx, x, (0, 1, 0))?;
    let dtype = match cx.dtype(x)? {
        d if d.is_float() => d,
        _ => DType::I64,
    };
    let diagonal = cx.b.cast(diagonal, dtype)?;
    let y = cx.b.reduce(kiln_ir::op::ReduceKind::Sum, diagonal, &[0], false)?;
    one(y)
}

/// Rows of the last axis as diagonals of new matrices.
fn embedded(cx: &mut Cx<'_, '_>, x: Value, offset: i64) -> Result<Value, OpError> {
    let (shape, dtype) = (cx.shape(x)?, cx.dtype(x)?);
    let n = size_of(&shape, shape.len().wrapping_sub(1))?;
    let size = &n + &Dim::known(offset.saturating_abs());
    let (i, j) = (cx.positions(&size, DType::I64, 0, 2)?, cx.positions(&size, DType::I64, 1, 2)?);
    let distance = cx.ew("sub", &[j, i])?;
    let on = cx.ew_const("eq", distance, offset as f64)?;
    // Column `j` shows element `j - max(offset, 0)`, row `i` element `i` of a lower diagonal.
    let mut padded = x;
    if offset != 0 {
        let zero = cx.constant(dtype, 0.0)?;
        let mut before = vec![Dim::known(0); shape.len()];
        let mut after = before.clone();
        let slot = if offset > 0 { before.last_mut() } else { after.last_mut() };
        if let Some(slot) = slot {
            *slot = Dim::known(offset.saturating_abs());
        }
        padded = cx.b.add1(Movement::Pad { mode: PadMode::Constant, before, after }, &[x, zero])?;
    }
    let mut row = shape;
    row.pop();
    row.push(Dim::known(1));
    row.push(size);
    let row = cx.b.reshape(padded, &row)?;
    let zero = cx.constant(dtype, 0.0)?;
    cx.ew("where", &[on, row, zero])
}

fn diag_embed(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let rank = cx.rank(x)? + 1;
    let (a, b) = (cx.axis("dim1", rank)?, cx.axis("dim2", rank)?);
    let offset = cx.int("offset")?;
    // Exchanged axes exchange what lies above and below.
    let y = embedded(cx, x, if a < b { offset } else { offset.saturating_neg() })?;
    let (low, high) = (a.min(b), a.max(b));
    let mut perm: Vec<usize> = (0..rank.saturating_sub(2)).collect();
    perm.insert(low.min(perm.len()), rank - 2);
    perm.insert(high.min(perm.len()), rank - 1);
    let y = cx.b.transpose(y, &perm)?;
    one(y)
}

fn diag(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let offset = cx.int("diagonal")?;
    let y = match cx.rank(x)? {
        1 => embedded(cx, x, offset)?,
        2 => diagonal_of(cx, x, (0, 1, offset))?,
        rank => return Err(OpError::invalid(format!("{rank} axes"))),
    };
    one(y)
}

/// All elements as a diagonal.
fn diagflat(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let (total, offset) = (cx.numel(x)?, cx.int("offset")?);
    let flat = cx.b.reshape(x, &[total])?;
    let y = embedded(cx, flat, offset)?;
    one(y)
}

/// Windows of an axis as a new last axis.
fn unfold(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let shape = cx.shape(x)?;
    let axis = cx.axis("dimension", shape.len())?;
    let (size, step) = (cx.int("size")?, cx.int("step")?);
    if step <= 0 || size < 0 {
        return Err(OpError::invalid(format!("windows of {size} by {step}")));
    }
    if shape.is_empty() {
        let y = cx.b.reshape(x, &[Dim::known(1)])?;
        return one(y);
    }
    let total = size_of(&shape, axis)?;
    let count = (total - Dim::known(size)).floor_div(&Dim::known(step)) + Dim::known(1);
    let start = cx.positions(&count, DType::I64, 0, 2)?;
    let start = cx.ew_const("mul", start, step as f64)?;
    let inside = cx.positions(&Dim::known(size), DType::I64, 1, 2)?;
    let places = cx.ew("add", &[start, inside])?;
    let windows = cx.b.add1(kiln_ir::op::Index::Gather { axis }, &[x, places])?;
    let rank = shape.len() + 1;
    let mut perm: Vec<usize> = (0..rank).filter(|&i| i != axis + 1).collect();
    perm.push(axis + 1);
    let y = cx.b.transpose(windows, &perm)?;
    one(y)
}

fn channel_shuffle(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let groups = Dim::known(cx.int("groups")?);
    let shape = cx.shape(x)?;
    let size = size_of(&shape, 1)?.floor_div(&groups);
    let mut split = shape.clone();
    split.splice(1..2, [groups, size]);
    let split = cx.b.reshape(x, &split)?;
    let moved = exchanged(cx, split, 1, 2)?;
    let y = cx.b.reshape(moved, &shape)?;
    one(y)
}

/// Batch axes, channels, height and width of an image or images.
fn image(cx: &Cx<'_, '_>, x: Value) -> Result<(Vec<Dim>, [Dim; 3]), OpError> {
    let shape = cx.shape(x)?;
    match shape.split_last_chunk::<3>() {
        Some((batch, image)) => Ok((batch.to_vec(), image.clone())),
        None => Err(OpError::invalid("an image has three axes at least")),
    }
}

fn pixel_shuffle(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let r = Dim::known(cx.int("upscale_factor")?);
    let (batch, [c, h, w]) = image(cx, x)?;
    let n = batch.len();
    let channels = c.floor_div(&(&r * &r));
    let split = [batch.clone(), vec![channels.clone(), r.clone(), r.clone(), h.clone(), w.clone()]].concat();
    let split = cx.b.reshape(x, &split)?;
    let perm: Vec<usize> = (0..n).chain([n, n + 3, n + 1, n + 4, n + 2]).collect();
    let moved = cx.b.transpose(split, &perm)?;
    let y = cx.b.reshape(moved, &[batch, vec![channels, h * r.clone(), w * r]].concat())?;
    one(y)
}

fn pixel_unshuffle(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let r = Dim::known(cx.int("downscale_factor")?);
    let (batch, [c, h, w]) = image(cx, x)?;
    let n = batch.len();
    let (h, w) = (h.floor_div(&r), w.floor_div(&r));
    let split = [batch.clone(), vec![c.clone(), h.clone(), r.clone(), w.clone(), r.clone()]].concat();
    let split = cx.b.reshape(x, &split)?;
    let perm: Vec<usize> = (0..n).chain([n, n + 2, n + 4, n + 1, n + 3]).collect();
    let moved = cx.b.transpose(split, &perm)?;
    let y = cx.b.reshape(moved, &[batch, vec![c * r.clone() * r, h, w]].concat())?;
    one(y)
}
