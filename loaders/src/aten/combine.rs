//! Matrices and grids put together, and tensors laid out anew.

use kiln_ir::op::{CumKind, Index, Movement, Order, PadMode};
use kiln_ir::{Build, DType, Dim, Tensor, Value};

use super::arg::Arg;
use super::cx::{Cx, one, product, unknown};
use super::movement::{joined, strided};
use super::{How, Results, Row, row};
use crate::error::OpError;

use How::Fn;

#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    row("aten::as_strided", Fn(as_strided)),
    row("aten::as_strided_copy", Fn(as_strided)),
    row("aten::block_diag", Fn(block_diag)),
    row("aten::cartesian_prod", Fn(cartesian_prod)),
    row("aten::combinations", Fn(combinations)),
    row("aten::linalg_vander", Fn(vander)),
    row("aten::resize", Fn(resize)),
    row("aten::resize_as", Fn(resize_as)),
    row("aten::vander", Fn(vander)),
];

/// Most numbers of an index that is made when the graph is built.
const MOST_PLACES: usize = 1 << 20;

/// Tensors in their common type.
fn cast_to_common(cx: &mut Cx<'_, '_>, values: &[Value]) -> Result<Vec<Value>, OpError> {
    let args: Vec<Arg> = values.iter().map(|&v| Arg::Tensor(v)).collect();
    let dtype = cx.result_type(&args.iter().collect::<Vec<_>>())?;
    values.iter().map(|&v| Ok(cx.b.cast(v, dtype)?)).collect()
}

/// Elements by their places in memory. The operand lies densely, from its first element on: the front ends see to it.
fn as_strided(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let (sizes, strides) = (cx.dims("size")?, cx.dims("stride")?);
    let offset = cx.maybe_dim("storage_offset")?.unwrap_or(Dim::known(0));
    if sizes.len() != strides.len() {
        return Err(OpError::invalid("sizes and strides of different numbers of axes"));
    }
    let total = cx.numel(x)?;
    let flat = cx.b.reshape(x, &[total.clone()])?;
    let count = product(&sizes);
    check_places(&sizes, &strides, &offset, &total)?;
    let mut dense = Dim::known(1);
    let mut is_dense = true;
    for (size, stride) in sizes.iter().zip(&strides).rev() {
        is_dense &= size.as_known() == Some(1) || *stride == dense;
        dense = &dense * size;
    }
    if is_dense {
        let part = strided(cx, flat, 0, offset, count, 1)?;
        let y = cx.b.reshape(part, &sizes)?;
        return one(y);
    }
    let mut places = cx.as_dtype(&Arg::Int(offset), DType::I64)?;
    for (axis, (size, stride)) in sizes.iter().zip(&strides).enumerate() {
        let along = cx.positions(size, DType::I64, axis, sizes.len())?;
        let stride = cx.as_dtype(&Arg::Int(stride.clone()), DType::I64)?;
        let along = cx.ew("mul", &[along, stride])?;
        places = cx.ew("add", &[places, along])?;
    }
    let places = cx.b.broadcast(places, &sizes)?;
    let y = cx.b.add1(Index::Gather { axis: 0 }, &[flat, places])?;
    one(y)
}

/// Fails where the last place is known to be outside of the tensor.
fn check_places(sizes: &[Dim], strides: &[Dim], offset: &Dim, total: &Dim) -> Result<(), OpError> {
    let known = |dim: &Dim| dim.as_known().map(i128::from);
    let (Some(mut last), Some(total)) = (known(offset), known(total)) else { return Ok(()) };
    if last < 0 {
        return Err(OpError::invalid("a place before the first element"));
    }
    for (size, stride) in sizes.iter().zip(strides) {
        let (Some(size), Some(stride)) = (known(size), known(stride)) else { return Ok(()) };
        if size < 0 || stride < 0 {
            return Err(OpError::invalid("a negative size or stride"));
        }
        if size == 0 {
            return Ok(());
        }
        last = last.saturating_add((size - 1).saturating_mul(stride));
    }
    if last >= total {
        return Err(OpError::unsupported("a view of memory around the tensor"));
    }
    Ok(())
}

/// The first elements under another shape; more than there are would have no values.
fn resized(cx: &mut Cx<'_, '_>, sizes: &[Dim]) -> Results {
    let x = cx.tensor("self")?;
    let (total, count) = (cx.numel(x)?, product(sizes));
    let y = match (&total - &count).as_known() {
        Some(0) => x,
        Some(more) if more > 0 => {
            let flat = cx.b.reshape(x, &[total])?;
            strided(cx, flat, 0, Dim::known(0), count, 1)?
        }
        Some(_) => return Err(OpError::unsupported("elements without values")),
        None => return Err(unknown("size")),
    };
    let y = cx.b.reshape(y, sizes)?;
    one(y)
}

fn resize(cx: &mut Cx<'_, '_>) -> Results {
    let sizes = cx.dims("size")?;
    resized(cx, &sizes)
}

fn resize_as(cx: &mut Cx<'_, '_>) -> Results {
    let template = cx.tensor("the_template")?;
    let sizes = cx.shape(template)?;
    resized(cx, &sizes)
}

/// Matrices along the diagonal of one that is zero elsewhere.
fn block_diag(cx: &mut Cx<'_, '_>) -> Results {
    let given = cx.tensors("tensors")?;
    let values = cast_to_common(cx, &given)?;
    let mut blocks = vec![];
    let mut width = Dim::known(0);
    for v in values {
        let mut shape = cx.shape(v)?;
        if shape.len() > 2 {
            return Err(OpError::invalid(format!("a block of {} axes", shape.len())));
        }
        shape.splice(0..0, vec![Dim::known(1); 2 - shape.len()]);
        let block = cx.b.reshape(v, &shape)?;
        let columns = shape.pop().unwrap_or(Dim::known(1));
        blocks.push((block, width.clone(), columns.clone()));
        width = width + columns;
    }
    let mut rows = vec![];
    for (block, start, columns) in blocks {
        let dtype = cx.dtype(block)?;
        let zero = cx.constant(dtype, 0.0)?;
        let before = vec![Dim::known(0), start.clone()];
        let after = vec![Dim::known(0), &width - &start - columns];
        rows.push(cx.b.add1(Movement::Pad { mode: PadMode::Constant, before, after }, &[block, zero])?);
    }
    let first = rows.first().copied().ok_or_else(|| OpError::invalid("no tensors"))?;
    let dtype = cx.dtype(first)?;
    let y = joined(cx, &rows, 0, dtype)?;
    one(y)
}

/// All tuples of elements, a row each; of one vector its elements.
fn cartesian_prod(cx: &mut Cx<'_, '_>) -> Results {
    let given = cx.tensors("tensors")?;
    if let [only] = given.as_slice() {
        return one(*only);
    }
    let values = cast_to_common(cx, &given)?;
    let rank = values.len();
    if rank == 0 || rank > super::MOST_AXES {
        return Err(OpError::unsupported(format!("tuples of {rank} elements")));
    }
    let shape = values.iter().map(|&v| cx.numel(v)).collect::<Result<Vec<_>, _>>()?;
    let total = product(&shape);
    let mut columns = vec![];
    for (axis, &v) in values.iter().enumerate() {
        let mut dims = vec![Dim::known(1); rank];
        if let (Some(slot), Some(size)) = (dims.get_mut(axis), shape.get(axis)) {
            slot.clone_from(size);
        }
        let along = cx.b.reshape(v, &dims)?;
        let grid = cx.b.broadcast(along, &shape)?;
        columns.push(cx.b.reshape(grid, &[total.clone(), Dim::known(1)])?);
    }
    let y = cx.b.concat(&columns, 1)?;
    one(y)
}

/// Indices `0 .. n` taken `r` at a time, at least one, in order; none if they are too many.
fn choices(n: usize, r: usize, repeated: bool) -> Option<Vec<i64>> {
    if n == 0 || (!repeated && r > n) {
        return Some(vec![]);
    }
    let last = |i: usize| if repeated { n - 1 } else { n - r + i };
    let mut row: Vec<usize> = if repeated { vec![0; r] } else { (0..r).collect() };
    let mut rows = vec![];
    loop {
        if rows.len() + r > MOST_PLACES {
            return None;
        }
        rows.extend(row.iter().map(|&i| i64::try_from(i).unwrap_or(i64::MAX)));
        let Some((at, &own)) = row.iter().enumerate().rfind(|(i, own)| **own < last(*i)) else {
            return Some(rows);
        };
        for (i, slot) in row.iter_mut().enumerate().skip(at) {
            *slot = own + 1 + if repeated { 0 } else { i - at };
        }
    }
}

/// Combinations of the elements of a vector, a row each.
fn combinations(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let shape = cx.shape(x)?;
    let [size] = shape.as_slice() else { return Err(OpError::invalid("combinations of what is no vector")) };
    let n = size.as_known().and_then(|n| usize::try_from(n).ok()).filter(|&n| n <= MOST_PLACES);
    let n = n.ok_or_else(|| OpError::unsupported("combinations of an unknown number of elements"))?;
    let r = cx.int("r")?;
    let r = usize::try_from(r).map_err(|_| OpError::invalid(format!("combinations of {r}")))?;
    let repeated = cx.flag("with_replacement")?;
    if r == 0 {
        let dtype = cx.dtype(x)?;
        let y = cx.filled(dtype, 0.0, &[Dim::known(0)])?;
        return one(y);
    }
    let too_many = || OpError::unsupported("so many combinations");
    // More than there are elements give none, without repeats.
    let rows = if r > n && !repeated {
        vec![]
    } else if r > 64 {
        return Err(too_many());
    } else {
        choices(n, r, repeated).ok_or_else(too_many)?
    };
    let wide = i64::try_from(r).unwrap_or(i64::MAX);
    if rows.is_empty() {
        let dtype = cx.dtype(x)?;
        let y = cx.filled(dtype, 0.0, &[Dim::known(0), Dim::known(wide)])?;
        return one(y);
    }
    let count = i64::try_from(rows.len()).unwrap_or(i64::MAX) / wide;
    let places = cx.b.constant(Tensor::ints(&rows))?;
    let places = cx.b.reshape(places, &[Dim::known(count), Dim::known(wide)])?;
    let y = cx.b.add1(Index::Gather { axis: 0 }, &[x, places])?;
    one(y)
}

/// Powers of every element along a new last axis, from the highest to 1, or from 1 on.
fn vander(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("x")?;
    let rising = !cx.takes("increasing") || cx.flag("increasing")?;
    let dtype = match cx.dtype(x)? {
        d if d.is_float() => d,
        _ => DType::I64,
    };
    let x = cx.b.cast(x, dtype)?;
    let shape = cx.shape(x)?;
    let own = shape.last().cloned().ok_or_else(|| OpError::invalid("powers of a tensor without axes"))?;
    let count = cx.maybe_dim("N")?.unwrap_or(own);
    let axis = shape.len();
    let mut column = shape.clone();
    column.push(Dim::known(1));
    let column = cx.b.reshape(x, &column)?;
    let mut wide = shape;
    wide.push(count.clone());
    let all = cx.b.broadcast(column, &wide)?;
    // The first factor is 1.
    let i = cx.positions(&count, DType::I64, axis, axis + 1)?;
    let (zero, unit) = (cx.constant(DType::I64, 0.0)?, cx.constant(dtype, 1.0)?);
    let first = cx.ew("eq", &[i, zero])?;
    let factors = cx.ew("where", &[first, unit, all])?;
    let op = Order::Cumulative { kind: CumKind::Prod, axis, exclusive: false, reverse: false };
    let mut y = cx.b.add1(op, &[factors])?;
    if !rising {
        y = super::rearrange::reversed(cx, y, &[axis])?;
    }
    one(y)
}

#[cfg(test)]
mod tests {
    use super::{MOST_PLACES, choices};

    #[test]
    fn choices_are_in_order_and_bounded() {
        assert_eq!(choices(3, 2, false), Some(vec![0, 1, 0, 2, 1, 2]));
        assert_eq!(choices(2, 2, true), Some(vec![0, 0, 0, 1, 1, 1]));
        assert_eq!(choices(3, 3, false), Some(vec![0, 1, 2]));
        assert_eq!((choices(2, 3, false), choices(0, 2, true)), (Some(vec![]), Some(vec![])));
        assert_eq!(choices(MOST_PLACES, 1, false).map(|rows| rows.len()), Some(MOST_PLACES));
        assert_eq!(choices(60, 30, false), None);
    }
}
