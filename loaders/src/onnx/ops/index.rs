//! Gathers and scatters.

use kiln_ir::op::{Dynamic, Index, ScatterMode, Source};
use kiln_ir::{Build, DType, Dim, Value};

use super::movement::dynamic;
use super::{How, Row, row};
use crate::onnx::cx::{Cx, OpError, Outputs, one};

use How::Fn;

pub(super) const ROWS: &[Row] = &[
    row("Compress", &[9, 11], Fn(compress)),
    row("Gather", &[1, 11, 13], Fn(gather)),
    row("GatherElements", &[11, 13], Fn(gather_elements)),
    row("GatherND", &[11, 12, 13], Fn(gather_nd)),
    row("OneHot", &[9, 11], Fn(one_hot)),
    row("ReverseSequence", &[10], Fn(reverse_sequence)),
    row("Scatter", &[9, 11], Fn(scatter_elements)),
    row("ScatterElements", &[11, 13, 16, 18], Fn(scatter_elements)),
    row("ScatterND", &[11, 13, 16, 18], Fn(scatter_nd)),
    row("TensorScatter", &[24], Fn(tensor_scatter)),
    row("Trilu", &[14], Fn(trilu)),
];

/// Indices are i32 or i64; other integers are widened.
fn indices(cx: &mut Cx<'_, '_, '_>, i: usize) -> Result<Value, OpError> {
    let v = cx.input(i)?;
    match cx.dtype(v)? {
        DType::I32 | DType::I64 => Ok(v),
        _ => Ok(cx.b.cast(v, DType::I64)?),
    }
}

fn axis_of(cx: &Cx<'_, '_, '_>, x: Value) -> Result<usize, OpError> {
    let axis = cx.attrs.int_or("axis", 0)?;
    match cx.rank(x) {
        Ok(rank) => cx.axis(axis, rank),
        Err(e) => usize::try_from(axis).map_err(|_| e),
    }
}

fn gather(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let axis = axis_of(cx, x)?;
    let indices = indices(cx, 1)?;
    one(cx.b.add1(Index::Gather { axis }, &[x, indices])?)
}

fn gather_elements(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let axis = axis_of(cx, x)?;
    let indices = indices(cx, 1)?;
    one(cx.b.add1(Index::GatherElements { axis }, &[x, indices])?)
}

pub(super) fn gather_nd(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let indices = indices(cx, 1)?;
    let batch = cx.attrs.int_or("batch_dims", 0)?;
    let batch = usize::try_from(batch).map_err(|_| OpError::invalid(format!("batch_dims {batch}")))?;
    one(cx.b.add1(Index::GatherNd { batch }, &[x, indices])?)
}

fn mode(cx: &Cx<'_, '_, '_>) -> Result<ScatterMode, OpError> {
    Ok(match cx.attrs.string_or("reduction", "none")?.as_str() {
        "none" => ScatterMode::Assign,
        "add" => ScatterMode::Add,
        "mul" => ScatterMode::Mul,
        "min" => ScatterMode::Min,
        "max" => ScatterMode::Max,
        other => return Err(OpError::invalid(format!("reduction `{other}`"))),
    })
}

fn scatter_elements(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (x, updates) = (cx.input(0)?, cx.input(2)?);
    let (axis, mode) = (axis_of(cx, x)?, mode(cx)?);
    let indices = indices(cx, 1)?;
    one(cx.b.add1(Index::ScatterElements { axis, mode }, &[x, indices, updates])?)
}

fn scatter_nd(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (x, updates) = (cx.input(0)?, cx.input(2)?);
    let mode = mode(cx)?;
    let indices = indices(cx, 1)?;
    one(cx.b.add1(Index::ScatterNd { mode }, &[x, indices, updates])?)
}

fn compress(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (x, condition) = (cx.input(0)?, cx.input(1)?);
    let axis = match cx.attrs.int("axis")? {
        Some(axis) => Some(cx.axis(axis, cx.rank(x)?)?),
        None => None,
    };
    one(dynamic(cx, Dynamic::Compress { axis }, &[x, condition])?)
}

/// Indices and depth may be of any number dtype.
fn one_hot(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (mut indices, mut depth, values) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let axis = cx.attrs.int_or("axis", -1)?;
    for v in [&mut indices, &mut depth] {
        *v = cx.b.cast(*v, DType::I64)?;
    }
    if cx.rank(depth).ok() == Some(1) {
        depth = cx.b.reshape(depth, &[])?;
    }
    one(dynamic(cx, Dynamic::OneHot { axis }, &[indices, depth, values])?)
}

/// An index vector along `axis` of a tensor of rank `rank`, shaped to broadcast.
pub(super) fn coordinate(
    cx: &mut Cx<'_, '_, '_>,
    size: &Dim,
    axis: usize,
    rank: usize,
) -> Result<Value, OpError> {
    let iota = cx.b.add1(Source::Iota { len: size.clone(), dtype: DType::I64 }, &[])?;
    let mut dims = vec![Dim::known(1); rank];
    if let Some(slot) = dims.get_mut(axis) {
        *slot = size.clone();
    }
    Ok(cx.b.reshape(iota, &dims)?)
}

/// Reverses the first `length` steps of each batch entry: gathers `length - 1 - t` where `t < length`, else `t`.
fn reverse_sequence(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (x, lengths) = (cx.input(0)?, cx.input(1)?);
    let dims = cx.shape(x)?;
    let rank = dims.len();
    let (time, batch) = (cx.attrs.int_or("time_axis", 0)?, cx.attrs.int_or("batch_axis", 1)?);
    let (time, batch) = (cx.axis(time, rank)?, cx.axis(batch, rank)?);
    let size = |axis: usize| dims.get(axis).cloned().unwrap_or(Dim::known(1));
    let step = coordinate(cx, &size(time), time, rank)?;
    let mut column = vec![Dim::known(1); rank];
    if let Some(slot) = column.get_mut(batch) {
        *slot = size(batch);
    }
    let lengths = cx.b.reshape(lengths, &column)?;
    let lengths = cx.b.cast(lengths, DType::I64)?;
    let unit = cx.b.scalar(DType::I64, 1.0)?;
    let last = cx.b.ew("sub", &[lengths, unit])?;
    let mirrored = cx.b.ew("sub", &[last, step])?;
    let inside = cx.b.ew("lt", &[step, lengths])?;
    let places = cx.b.ew("where", &[inside, mirrored, step])?;
    let places = cx.b.broadcast(places, &dims)?;
    one(cx.b.add1(Index::GatherElements { axis: time }, &[x, places])?)
}

/// Keeps the triangle on one side of diagonal `k`.
pub(super) fn trilu(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let dims = cx.shape(x)?;
    let [.., rows, columns] = dims.as_slice() else {
        return Err(OpError::invalid("the operand must have rank 2 or more"));
    };
    let upper = cx.attrs.flag("upper", true)?;
    let row = coordinate(cx, rows, 0, 2)?;
    let mut column = coordinate(cx, columns, 1, 2)?;
    if let Some(k) = cx.optional(1) {
        let k = cx.b.cast(k, DType::I64)?;
        let k = cx.b.reshape(k, &[])?;
        column = cx.b.ew("sub", &[column, k])?;
    }
    let keep = cx.b.ew(if upper { "ge" } else { "le" }, &[column, row])?;
    let dtype = cx.dtype(x)?;
    let zero = if dtype == DType::Bool {
        cx.b.constant(kiln_ir::Tensor::from_bools(&[], &[false])?)?
    } else {
        cx.b.scalar(dtype, 0.0)?
    };
    one(cx.b.ew("where", &[keep, x, zero])?)
}

/// Writes `update` into the cache along `axis` from each batch entry's index on; `circular` wraps around.
fn tensor_scatter(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (cache, update) = (cx.input(0)?, cx.input(1)?);
    let (cache_dims, dims) = (cx.shape(cache)?, cx.shape(update)?);
    let rank = dims.len();
    let axis = cx.attrs.int_or("axis", -2)?;
    let axis = cx.axis(axis, rank)?;
    let size = |list: &[Dim], axis: usize| list.get(axis).cloned().unwrap_or(Dim::known(1));
    let mut places = coordinate(cx, &size(&dims, axis), axis, rank)?;
    if let Some(starts) = cx.optional(2) {
        let mut column = vec![Dim::known(1); rank];
        if let Some(slot) = column.first_mut() {
            *slot = size(&dims, 0);
        }
        let starts = cx.b.cast(starts, DType::I64)?;
        let starts = cx.b.reshape(starts, &column)?;
        places = cx.b.ew("add", &[places, starts])?;
    }
    match cx.attrs.string_or("mode", "linear")?.as_str() {
        "linear" => {}
        "circular" => {
            let length = cx.b.dims(&[size(&cache_dims, axis)])?;
            places = cx.b.ew("mod", &[places, length])?;
        }
        other => return Err(OpError::invalid(format!("mode `{other}`"))),
    }
    let places = cx.b.broadcast(places, &dims)?;
    let op = Index::ScatterElements { axis, mode: ScatterMode::Assign };
    one(cx.b.add1(op, &[cache, places, update])?)
}
