//! Shapes, slices, joins, padding and conversions.

use kiln_ir::op::Movement;
use kiln_ir::{Build, DType, Dim, Value};

use super::arg::Arg;
use super::cx::{Cx, one, product};
use super::{How, Results, Row, row};
use crate::error::OpError;

use How::{Alias, Fn};

#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    row("aten::_cast_Byte", Fn(|cx| cast_to(cx, DType::U8))),
    row("aten::_cast_Char", Fn(|cx| cast_to(cx, DType::I8))),
    row("aten::_cast_Double", Fn(|cx| cast_to(cx, DType::F64))),
    row("aten::_cast_Float", Fn(|cx| cast_to(cx, DType::F32))),
    row("aten::_cast_Half", Fn(|cx| cast_to(cx, DType::F16))),
    row("aten::_cast_Int", Fn(|cx| cast_to(cx, DType::I32))),
    row("aten::_cast_Long", Fn(|cx| cast_to(cx, DType::I64))),
    row("aten::_cast_Short", Fn(|cx| cast_to(cx, DType::I16))),
    row("aten::_reshape_alias", Fn(view)),
    row("aten::_to_copy", Fn(convert)),
    row("aten::_unsafe_view", Fn(view)),
    row("aten::alias", Fn(same)),
    row("aten::alias_copy", Fn(same)),
    row("aten::cat", Fn(cat)),
    row("aten::clone", Fn(same)),
    row("aten::concat", Alias("aten::cat")),
    row("aten::concatenate", Alias("aten::cat")),
    row("aten::contiguous", Fn(same)),
    row("aten::data", Fn(same)),
    row("aten::detach", Fn(same)),
    row("aten::detach_copy", Fn(same)),
    row("aten::expand", Fn(expand)),
    row("aten::expand_as", Fn(expand_as)),
    row("aten::expand_copy", Fn(expand)),
    row("aten::flatten", Fn(flatten)),
    row("aten::lift", Fn(same)),
    row("aten::lift_fresh", Fn(same)),
    row("aten::lift_fresh_copy", Fn(same)),
    row("aten::permute", Fn(permute)),
    row("aten::permute_copy", Fn(permute)),
    row("aten::pin_memory", Fn(same)),
    row("aten::reshape", Fn(view)),
    row("aten::reshape_as", Fn(view_as)),
    row("aten::select", Fn(select)),
    row("aten::select_copy", Fn(select)),
    row("aten::slice", Fn(slice)),
    row("aten::slice_copy", Fn(slice)),
    row("aten::squeeze", Fn(squeeze)),
    row("aten::squeeze_copy", Fn(squeeze)),
    row("aten::t", Fn(t)),
    row("aten::t_copy", Fn(t)),
    row("aten::to", Fn(convert)),
    row("aten::transpose", Fn(transpose)),
    row("aten::transpose_copy", Fn(transpose)),
    row("aten::type_as", Fn(type_as)),
    row("aten::unsqueeze", Fn(unsqueeze)),
    row("aten::unsqueeze_copy", Fn(unsqueeze)),
    row("aten::view", Fn(view)),
    row("aten::view_as", Fn(view_as)),
    row("aten::view_copy", Fn(view)),
];

fn same(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    one(x)
}

/// Conversions: to the type that the overload names in one way or another; devices and layouts mean nothing.
fn convert(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let dtype = match cx.maybe_tensor("other")? {
        Some(other) => Some(cx.dtype(other)?),
        None => cx.dtype_arg("dtype")?,
    };
    let y = match dtype {
        Some(dtype) => cx.b.cast(x, dtype)?,
        None => x,
    };
    one(y)
}

/// Conversions that the operator's name tells.
fn cast_to(cx: &mut Cx<'_, '_>, dtype: DType) -> Results {
    let x = cx.tensor("self")?;
    let y = cx.b.cast(x, dtype)?;
    one(y)
}

fn type_as(cx: &mut Cx<'_, '_>) -> Results {
    let (x, other) = (cx.tensor("self")?, cx.tensor("other")?);
    let dtype = cx.dtype(other)?;
    let y = cx.b.cast(x, dtype)?;
    one(y)
}

/// A shape in which one size may be -1.
pub(super) fn inferred(given: &[Dim], total: &Dim) -> Result<Vec<Dim>, OpError> {
    let minus = Dim::known(-1);
    let open: Vec<usize> = given.iter().enumerate().filter(|(_, d)| **d == minus).map(|(i, _)| i).collect();
    let mut dims = given.to_vec();
    match open.as_slice() {
        [] => {}
        [at] => {
            let rest = dims.iter().filter(|d| **d != minus).fold(Dim::known(1), |a, b| &a * b);
            if rest.as_known() == Some(0) {
                return Err(OpError::invalid("the size -1 of a shape without elements is ambiguous"));
            }
            let size = total.exact_div(&rest).unwrap_or_else(|| total.floor_div(&rest));
            if let Some(slot) = dims.get_mut(*at) {
                *slot = size;
            }
        }
        _ => return Err(OpError::invalid("a shape has more than one size -1")),
    }
    Ok(dims)
}

fn view(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    if cx.overload() == "dtype" {
        return reinterpret(cx, x);
    }
    let name = if cx.takes("shape") { "shape" } else { "size" };
    let given = cx.dims(name)?;
    let dims = inferred(&given, &cx.numel(x)?)?;
    let y = cx.b.reshape(x, &dims)?;
    one(y)
}

/// The same bits as elements of another type of the same width.
fn reinterpret(cx: &mut Cx<'_, '_>, x: Value) -> Results {
    let from = cx.dtype(x)?;
    let to = cx.dtype_arg("dtype")?.unwrap_or(from);
    if from == to {
        return one(x);
    }
    if from.bits() != to.bits() {
        return Err(OpError::unsupported(format!("a view of {from} as {to}")));
    }
    let y = cx.b.add1(kiln_ir::op::Host::BitCast { to }, &[x])?;
    one(y)
}

fn view_as(cx: &mut Cx<'_, '_>) -> Results {
    let (x, other) = (cx.tensor("self")?, cx.tensor("other")?);
    let dims = cx.shape(other)?;
    let y = cx.b.reshape(x, &dims)?;
    one(y)
}

fn flatten(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let shape = cx.shape(x)?;
    let (start, end) = (cx.axis("start_dim", shape.len())?, cx.axis("end_dim", shape.len())?);
    if shape.is_empty() {
        let y = cx.b.reshape(x, &[Dim::known(1)])?;
        return one(y);
    }
    if start > end {
        return Err(OpError::invalid(format!("start_dim {start} comes after end_dim {end}")));
    }
    let mut dims: Vec<Dim> = shape.iter().take(start).cloned().collect();
    dims.push(product(shape.get(start..=end).unwrap_or(&[])));
    dims.extend(shape.iter().skip(end + 1).cloned());
    let y = cx.b.reshape(x, &dims)?;
    one(y)
}

/// Sizes of -1 stay as they are.
fn expand(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let given = cx.dims("size")?;
    let shape = cx.shape(x)?;
    let new = given.len().checked_sub(shape.len());
    let new = new.ok_or_else(|| OpError::invalid("fewer sizes than the tensor has axes"))?;
    let keep = Dim::known(-1);
    let dims: Vec<Dim> = given
        .iter()
        .enumerate()
        .map(|(i, d)| match i.checked_sub(new).and_then(|i| shape.get(i)) {
            Some(old) if *d == keep => old.clone(),
            _ => d.clone(),
        })
        .collect();
    let y = cx.b.broadcast(x, &dims)?;
    one(y)
}

fn expand_as(cx: &mut Cx<'_, '_>) -> Results {
    let (x, other) = (cx.tensor("self")?, cx.tensor("other")?);
    let dims = cx.shape(other)?;
    let y = cx.b.broadcast(x, &dims)?;
    one(y)
}

fn permute(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let rank = cx.rank(x)?;
    let given = cx.ints("dims")?;
    let perm = cx.listed_axes(&given, rank)?;
    if perm.len() != rank {
        return Err(OpError::invalid(format!("{} axes for a tensor of {rank}", perm.len())));
    }
    let y = cx.b.transpose(x, &perm)?;
    one(y)
}

/// Two axes exchanged.
pub(super) fn exchanged(cx: &mut Cx<'_, '_>, x: Value, a: usize, b: usize) -> Result<Value, OpError> {
    let rank = cx.rank(x)?;
    let mut perm: Vec<usize> = (0..rank).collect();
    if a < rank && b < rank {
        perm.swap(a, b);
    }
    Ok(cx.b.transpose(x, &perm)?)
}

fn transpose(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let rank = cx.rank(x)?;
    let (a, b) = (cx.axis("dim0", rank)?, cx.axis("dim1", rank)?);
    let y = exchanged(cx, x, a, b)?;
    one(y)
}

fn t(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    match cx.rank(x)? {
        0 | 1 => one(x),
        2 => {
            let y = cx.b.transpose(x, &[1, 0])?;
            one(y)
        }
        rank => Err(OpError::invalid(format!("expected a matrix, found {rank} axes"))),
    }
}

fn squeeze(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let shape = cx.shape(x)?;
    let candidates = match cx.get("dim").clone() {
        Arg::None => (0..shape.len()).collect(),
        Arg::List(items) if items.is_empty() => vec![],
        _ => {
            let given = cx.ints("dim")?;
            cx.listed_axes(&given, shape.len())?
        }
    };
    // A size that is not constant stays, as exported programs have it.
    let goes = |i: usize, d: &Dim| candidates.contains(&i) && d.as_known() == Some(1);
    let dims: Vec<Dim> =
        shape.iter().enumerate().filter(|(i, d)| !goes(*i, d)).map(|(_, d)| d.clone()).collect();
    let y = cx.b.reshape(x, &dims)?;
    one(y)
}

fn unsqueeze(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let mut shape = cx.shape(x)?;
    let axis = cx.axis("dim", shape.len() + 1)?;
    shape.insert(axis, Dim::known(1));
    let y = cx.b.reshape(x, &shape)?;
    one(y)
}

/// A bound of a slice: counted from the end if negative, then within the axis.
fn bound(given: &Dim, size: &Dim) -> Dim {
    let (zero, one) = (Dim::known(0), Dim::known(1));
    // Up to two before the end, what counts from the end is outside as well.
    let near = (size - given).as_known().is_some_and(|n| n <= 2);
    let at = match given.as_known() {
        Some(v) if v < 0 => given + size,
        Some(_) => given.clone(),
        None if near || given.is_non_negative() => given.clone(),
        None => {
            let is_negative = (&zero - given).greater(&zero).lesser(&one);
            given + &(&is_negative * size)
        }
    };
    at.greater(&zero).lesser(size)
}

/// Start and length of the slice `[start : end]` of an axis.
pub(super) fn range(start: Option<Dim>, end: Option<Dim>, size: &Dim) -> (Dim, Dim) {
    let start = start.map_or(Dim::known(0), |d| bound(&d, size));
    let end = match end {
        // Larger than any axis: the end.
        Some(d) if d.as_known() == Some(i64::MAX) => size.clone(),
        Some(d) => bound(&d, size),
        None => size.clone(),
    };
    let length = (&end - &start).greater(&Dim::known(0));
    (start, length)
}

fn slice(cx: &mut Cx<'_, '_>) -> Results {
    if !cx.takes("self") {
        return Err(OpError::unsupported("slices of lists"));
    }
    let x = cx.tensor("self")?;
    let shape = cx.shape(x)?;
    let axis = cx.axis("dim", shape.len())?;
    let size =
        shape.get(axis).cloned().ok_or_else(|| OpError::invalid("a slice of a tensor without axes"))?;
    let step = cx.int("step")?;
    if step < 1 {
        return Err(OpError::invalid(format!("step {step}")));
    }
    let (start, end) = (cx.maybe_dim("start")?, cx.maybe_dim("end")?);
    let (start, length) = range(start, end, &size);
    let y = strided(cx, x, axis, start, length, step)?;
    one(y)
}

/// `length` elements of an axis from `start` on, every `step`th.
pub(super) fn strided(
    cx: &mut Cx<'_, '_>,
    x: Value,
    axis: usize,
    start: Dim,
    length: Dim,
    step: i64,
) -> Result<Value, OpError> {
    let mut sizes = cx.shape(x)?;
    let mut starts = vec![Dim::known(0); sizes.len()];
    let mut steps = vec![1; sizes.len()];
    let whole = start.as_known() == Some(0) && sizes.get(axis) == Some(&length) && step == 1;
    if whole {
        return Ok(x);
    }
    if let (Some(s), Some(z), Some(t)) = (starts.get_mut(axis), sizes.get_mut(axis), steps.get_mut(axis)) {
        (*s, *z, *t) = (start, length.ceil_div(&Dim::known(step)), step);
    }
    Ok(cx.b.add1(Movement::Slice { starts, sizes, steps }, &[x])?)
}

/// The slice of an axis at one index, the axis gone.
pub(super) fn picked(cx: &mut Cx<'_, '_>, x: Value, axis: usize, index: Dim) -> Result<Value, OpError> {
    let mut shape = cx.shape(x)?;
    let y = cx.b.slice_axis(x, axis, index, Dim::known(1))?;
    if axis < shape.len() {
        shape.remove(axis);
    }
    Ok(cx.b.reshape(y, &shape)?)
}

fn select(cx: &mut Cx<'_, '_>) -> Results {
    if !cx.takes("dim") {
        return Err(OpError::unsupported("selections from lists"));
    }
    let x = cx.tensor("self")?;
    let shape = cx.shape(x)?;
    let axis = cx.axis("dim", shape.len())?;
    let size = shape.get(axis).cloned().ok_or_else(|| OpError::invalid("a tensor without axes"))?;
    // An index of run time picks with a gather, which checks it and counts from the end.
    if let Arg::Scalar(index) = *cx.get("index") {
        let index = cx.b.cast(index, DType::I64)?;
        let y = cx.b.add1(kiln_ir::op::Index::Gather { axis }, &[x, index])?;
        return one(y);
    }
    let index = cx.dim("index")?;
    let index = match index.as_known() {
        Some(v) if v < 0 => index + &size,
        _ => index,
    };
    let inside = size.as_known().zip(index.as_known()).is_none_or(|(size, i)| (0..size).contains(&i));
    if !inside {
        return Err(OpError::invalid(format!("index {index} of an axis of {size}")));
    }
    let y = picked(cx, x, axis, index)?;
    one(y)
}

/// Tensors of shape `[0]` are passed over, as PyTorch does.
fn cat(cx: &mut Cx<'_, '_>) -> Results {
    let given = cx.tensors("tensors")?;
    let legacy = |cx: &Cx<'_, '_>, v: Value| {
        cx.b.shape(v).is_ok_and(|dims| matches!(dims, [only] if only.as_known() == Some(0)))
    };
    let kept: Vec<Value> = given.iter().copied().filter(|&v| !legacy(cx, v)).collect();
    let operands: Vec<Arg> = given.iter().map(|&v| Arg::Tensor(v)).collect();
    let dtype = cx.result_type(&operands.iter().collect::<Vec<_>>())?;
    let values = if kept.is_empty() { given } else { kept };
    let first = values.first().copied().ok_or_else(|| OpError::invalid("no tensors"))?;
    let axis = cx.axis("dim", cx.rank(first)?)?;
    let y = joined(cx, &values, axis, dtype)?;
    one(y)
}

/// Tensors of one type joined along an axis.
pub(super) fn joined(
    cx: &mut Cx<'_, '_>,
    values: &[Value],
    axis: usize,
    dtype: DType,
) -> Result<Value, OpError> {
    let cast: Vec<Value> = values.iter().map(|&v| cx.b.cast(v, dtype)).collect::<Result<_, _>>()?;
    Ok(cx.b.concat(&cast, axis)?)
}
