//! Operators whose result shape depends on operands' data, as operators of known shapes over sizes that show at run time:
//! ordinary operators compute the sizes as an i64 vector, [`Dynamic::Sizes`] makes them dims, and the rest is static.
//! What the operator would refuse gives a negative size, which fails the run.

mod reduce;
mod select;
mod shapes;

use super::{dims, node};
use crate::build::dynamic::BuildDynamic;
use crate::infer::InferError;
use crate::infer::dynamic::normal_axis;
use crate::op::{Dynamic, Order, ReduceKind};
use crate::{Build, DType, Dim, Tensor, Type, Value};
use reduce::Reduction;

/// Adds static operators that compute what `op` does; gives its results, whose types are `results`.
///
/// # Errors
/// If the rank of an operand or result is not known, or the operator has no static form.
pub fn decompose_dynamic(
    op: &Dynamic,
    b: &mut dyn Build,
    operands: &[Value],
    results: &[Type],
) -> Result<Vec<Value>, InferError> {
    let mut shapes = vec![];
    for result in results {
        let Some(dims) = result.as_tensor().and_then(|t| t.shape.dims()) else {
            return refuse("unknown rank");
        };
        // What has no name gets one here.
        shapes.push(dims.iter().map(|d| if d.is_unknown() { b.fresh_dim() } else { d.clone() }).collect());
    }
    let shapes: Vec<Vec<Dim>> = shapes;
    if let (Dynamic::Split { axis }, &[x, sizes]) = (op, operands) {
        return shapes::split(b, x, sizes, *axis, &shapes);
    }
    let [to] = shapes.as_slice() else { return refuse("several results") };
    let value = match (op, operands) {
        (Dynamic::Reduce { kind, keepdims, noop }, &[x, axes]) => {
            let reduction = Reduction { kind: *kind, keepdims: *keepdims, noop: *noop };
            reduce::reduce(b, &reduction, x, axes, to)?
        }
        (Dynamic::Cumulative { kind, exclusive, reverse }, &[x, axis]) => {
            let op = Order::Cumulative { kind: *kind, axis: 1, exclusive: *exclusive, reverse: *reverse };
            reduce::along_axis(b, x, axis, op)?
        }
        (Dynamic::Reshape { allow_zero }, &[x, shape]) => shapes::reshape(b, x, shape, *allow_zero, to)?,
        (Dynamic::Expand {}, &[x, shape]) => shapes::expand(b, x, shape, to)?,
        (Dynamic::Fill {}, &[shape, value]) => {
            bind(b, shape, None, to.clone())?;
            b.broadcast(value, to)?
        }
        (Dynamic::Tile {}, &[x, repeats]) => shapes::tile(b, x, repeats, to)?,
        (Dynamic::Squeeze {}, &[x, axes]) => shapes::squeeze(b, x, axes, to)?,
        (Dynamic::Unsqueeze {}, &[x, axes]) => shapes::unsqueeze(b, x, axes, to)?,
        (Dynamic::Range {}, &[start, limit, delta]) => shapes::range(b, [start, limit, delta], to)?,
        (Dynamic::OneHot { axis }, &[indices, depth, values]) => {
            let axis = normal_axis(*axis, to.len())?;
            let depth = b.cast(depth, DType::I64)?;
            let depth = b.reshape(depth, &[Dim::known(1)])?;
            let depth = node(b, Dynamic::Sizes { dims: to[axis..=axis].to_vec() }, &[depth])?;
            now_static(b, op, &[indices, depth, values], to)?
        }
        (Dynamic::Slice {}, &[x, starts, ends, axes, steps]) => {
            select::slice(b, x, [starts, ends, axes, steps], to)?
        }
        (Dynamic::Resize { .. }, &[x, scales, sizes, roi]) => {
            super::resize::resize_dynamic(op, b, [x, scales, sizes, roi], to)?
        }
        (Dynamic::Pad { mode }, &[x, pads, value, axes]) => {
            select::pad(b, *mode, [x, pads, value, axes], to)?
        }
        _ => return refuse("no static form"),
    };
    Ok(vec![value])
}

fn refuse<T>(why: &str) -> Result<T, InferError> {
    Err(InferError::new(why))
}

/// A vector of constants.
fn ints(b: &mut dyn Build, values: &[i64]) -> Result<Value, InferError> {
    b.constant(Tensor::ints(values))
}

/// One number, to combine with a vector.
fn int(b: &mut dyn Build, value: i64) -> Result<Value, InferError> {
    ints(b, &[value])
}

/// `0, 1, ...` up to `count`.
fn iota(b: &mut dyn Build, count: usize) -> Result<Value, InferError> {
    ints(b, &(0..).take(count).collect::<Vec<i64>>())
}

/// `condition ? yes : no`, of a vector.
fn choose(b: &mut dyn Build, condition: Value, yes: i64, no: Value) -> Result<Value, InferError> {
    let yes = int(b, yes)?;
    b.ew("where", &[condition, yes, no])
}

/// The elements of a vector combined, as a vector of one.
fn total(b: &mut dyn Build, kind: ReduceKind, v: Value) -> Result<Value, InferError> {
    b.reduce(kind, v, &[0], true)
}

/// A vector of axes, negative ones counted from the end.
fn counted(b: &mut dyn Build, axes: Value, rank: usize) -> Result<Value, InferError> {
    let zero = int(b, 0)?;
    let rank = int(b, i64::try_from(rank).unwrap_or(i64::MAX))?;
    let negative = b.ew("lt", &[axes, zero])?;
    let from_end = b.ew("add", &[axes, rank])?;
    b.ew("where", &[negative, from_end, axes])
}

/// Makes dims of the elements of a vector; `bad`, of one element, says that there are none.
fn bind(b: &mut dyn Build, sizes: Value, bad: Option<Value>, to: Vec<Dim>) -> Result<(), InferError> {
    let sizes = match bad {
        Some(bad) => choose(b, bad, -1, sizes)?,
        None => sizes,
    };
    node(b, Dynamic::Sizes { dims: to }, &[sizes]).map(|_| ())
}

/// The static form of an operator whose shape operands have become known, if its dims are `to`.
fn now_static(b: &mut dyn Build, op: &Dynamic, operands: &[Value], to: &[Dim]) -> Result<Value, InferError> {
    let values = b.static_form(op, operands)?;
    match values.as_deref() {
        Some(&[value]) if b.shape(value)? == to => Ok(value),
        _ => refuse("no static form"),
    }
}

fn fresh(b: &mut dyn Build, count: usize) -> Vec<Dim> {
    (0..count).map(|_| b.fresh_dim()).collect()
}

/// Whether any element of a vector of bools holds.
fn any(b: &mut dyn Build, v: Value) -> Result<Value, InferError> {
    let v = b.cast(v, DType::I64)?;
    let most = total(b, ReduceKind::Max, v)?;
    let zero = int(b, 0)?;
    b.ew("gt", &[most, zero])
}

/// A size as a dim.
fn size(n: usize) -> Dim {
    Dim::known(i64::try_from(n).unwrap_or(i64::MAX))
}

/// Binds `results` to `floor(length * scale)`, in single precision.
pub(super) fn scaled_sizes(
    b: &mut dyn Build,
    scales: Value,
    lengths: &[Dim],
    results: &[Dim],
) -> Result<(), InferError> {
    let scales = b.cast(scales, DType::F32)?;
    let lengths = b.dims(lengths)?;
    let lengths = b.cast(lengths, DType::F32)?;
    let sizes = b.ew("mul", &[lengths, scales])?;
    let sizes = b.ew("floor", &[sizes])?;
    let sizes = b.cast(sizes, DType::I64)?;
    let zero = b.scalar(DType::F32, 0.0)?;
    let positive = b.ew("gt", &[scales, zero])?;
    let wrong = b.ew("not", &[positive])?;
    let bad = any(b, wrong)?;
    bind(b, sizes, Some(bad), results.to_vec())
}

/// Binds `results` to the sizes of a resize; gives the scales that they have in common, one for each, where the aspect is
/// kept.
pub(super) fn given_sizes(
    b: &mut dyn Build,
    sizes: Value,
    lengths: &[Dim],
    results: &[Dim],
    keep_aspect: &str,
) -> Result<Option<Value>, InferError> {
    let kind = match keep_aspect {
        "not_larger" => ReduceKind::Min,
        "not_smaller" => ReduceKind::Max,
        _ => return bind(b, sizes, None, results.to_vec()).map(|()| None),
    };
    let lengths = b.dims(lengths)?;
    let lengths = b.cast(lengths, DType::F64)?;
    let sizes = b.cast(sizes, DType::F64)?;
    let ratios = b.ew("div", &[sizes, lengths])?;
    let common = total(b, kind, ratios)?;
    let scales = b.broadcast(common, &[size(results.len())])?;
    let scaled = b.ew("mul", &[lengths, scales])?;
    let half = b.scalar(DType::F64, 0.5)?;
    let scaled = b.ew("add", &[scaled, half])?;
    let scaled = b.ew("floor", &[scaled])?;
    let scaled = b.cast(scaled, DType::I64)?;
    bind(b, scaled, None, results.to_vec())?;
    Ok(Some(scales))
}

/// The number of elements of a vector, if it is known.
pub(super) fn count(b: &dyn Build, v: Value) -> Result<usize, InferError> {
    let known = b.shape(v)?.first().and_then(Dim::as_known).and_then(|n| usize::try_from(n).ok());
    known.ok_or_else(|| InferError::new("a vector of unknown length"))
}
