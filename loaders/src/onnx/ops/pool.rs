//! Pooling.

use kiln_ir::op::{Index, Layout, Movement, ReduceKind, ScatterMode, Window, WindowKind};
use kiln_ir::{Build, Dim, Value};

use super::conv::{Windows, explicit_pads, per_axis, windows};
use super::{How, Row, row};
use crate::onnx::cx::{Cx, OpError, Outputs, one};

use How::Fn;

pub(super) const ROWS: &[Row] = &[
    row("AveragePool", &[1, 7, 10, 11, 19, 22], Fn(average_pool)),
    row("GlobalAveragePool", &[1, 22], Fn(global_average)),
    row("GlobalLpPool", &[1, 2, 22], Fn(global_lp)),
    row("GlobalMaxPool", &[1, 22], Fn(global_max)),
    row("LpPool", &[1, 2, 11, 18, 22], Fn(lp_pool)),
    row("MaxPool", &[1, 8, 10, 11, 12, 22], Fn(max_pool)),
    row("MaxUnpool", &[9, 11, 22], Fn(max_unpool)),
];

fn kernel(cx: &Cx<'_, '_, '_>) -> Result<Vec<i64>, OpError> {
    let kernel = cx.attrs.ints("kernel_shape")?;
    kernel.ok_or_else(|| OpError::invalid("attribute `kernel_shape` is missing"))
}

fn pool(cx: &mut Cx<'_, '_, '_>, x: Value, kind: WindowKind) -> Result<Value, OpError> {
    let kernel = kernel(cx)?;
    let as_dims: Vec<Dim> = kernel.iter().copied().map(Dim::known).collect();
    let Windows { strides, dilations, pads } = windows(cx, x, &as_dims)?;
    let ceil_mode = cx.attrs.flag("ceil_mode", false)?;
    let layout = Layout::ChannelsFirst;
    Ok(cx.b.add1(Window::Pool { kind, kernel, strides, dilations, pads, ceil_mode, layout }, &[x])?)
}

fn average_pool(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    one(average_pool_of(cx, x)?)
}

/// The average pool that the node's attributes describe, of an image with channels first.
pub(super) fn average_pool_of(cx: &mut Cx<'_, '_, '_>, x: Value) -> Result<Value, OpError> {
    let with_pad = cx.attrs.flag("count_include_pad", false)?;
    let kind = if with_pad { WindowKind::AverageWithPad } else { WindowKind::Average };
    pool(cx, x, kind)
}

/// The max pool that the node's attributes describe, of an image with channels first.
pub(super) fn max_pool_of(cx: &mut Cx<'_, '_, '_>, x: Value) -> Result<Value, OpError> {
    pool(cx, x, WindowKind::Max)
}

fn max_pool(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    if !cx.wants(1) {
        return one(pool(cx, x, WindowKind::Max)?);
    }
    let kernel = kernel(cx)?;
    let as_dims: Vec<Dim> = kernel.iter().copied().map(Dim::known).collect();
    let Windows { strides, dilations, pads } = windows(cx, x, &as_dims)?;
    let ceil_mode = cx.attrs.flag("ceil_mode", false)?;
    let column_major = cx.attrs.flag("storage_order", false)?;
    let op = Window::MaxWithIndices { kernel, strides, dilations, pads, ceil_mode, column_major };
    Ok(cx.b.add(op.into(), &[x])?.to_vec())
}

fn lp_pool(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    // Opset 1 has a float here.
    let p = if cx.opset < 2 { cx.attrs.float_or("p", 2.0)? } else { cx.attrs.int_or("p", 2)? as f64 };
    if p == 1.0 || p == 2.0 {
        let kind = if p == 1.0 { WindowKind::L1 } else { WindowKind::L2 };
        return one(pool(cx, x, kind)?);
    }
    let dtype = cx.dtype(x)?;
    let exponent = cx.b.scalar(dtype, p)?;
    let inverse = cx.b.scalar(dtype, 1.0 / p)?;
    let powers = cx.b.ew("abs", &[x])?;
    let powers = cx.b.ew("pow", &[powers, exponent])?;
    let sums = pool(cx, powers, WindowKind::L1)?;
    one(cx.b.ew("pow", &[sums, inverse])?)
}

fn spatial_axes(cx: &Cx<'_, '_, '_>, x: Value) -> Result<Vec<usize>, OpError> {
    Ok((2..cx.rank(x)?).collect())
}

fn global(cx: &mut Cx<'_, '_, '_>, kind: ReduceKind) -> Outputs {
    let x = cx.input(0)?;
    let axes = spatial_axes(cx, x)?;
    one(cx.b.reduce(kind, x, &axes, true)?)
}

fn global_average(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    global(cx, ReduceKind::Mean)
}

fn global_max(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    global(cx, ReduceKind::Max)
}

fn global_lp(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let p = if cx.opset < 2 { cx.attrs.float_or("p", 2.0)? } else { cx.attrs.int_or("p", 2)? as f64 };
    if p == 1.0 || p == 2.0 {
        return global(cx, if p == 1.0 { ReduceKind::L1 } else { ReduceKind::L2 });
    }
    let x = cx.input(0)?;
    let axes = spatial_axes(cx, x)?;
    let dtype = cx.dtype(x)?;
    let exponent = cx.b.scalar(dtype, p)?;
    let inverse = cx.b.scalar(dtype, 1.0 / p)?;
    let powers = cx.b.ew("abs", &[x])?;
    let powers = cx.b.ew("pow", &[powers, exponent])?;
    let sums = cx.b.reduce(ReduceKind::Sum, powers, &axes, true)?;
    one(cx.b.ew("pow", &[sums, inverse])?)
}

/// Indices count in the flattened tensor of the shape that `kernel_shape`, `strides` and `pads` imply; a larger
/// `output_shape` holds that at its start.
fn max_unpool(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (x, indices) = (cx.input(0)?, cx.input(1)?);
    let kernel = kernel(cx)?;
    let strides = per_axis(cx, "strides", kernel.len(), 1)?;
    let pads = explicit_pads(cx, kernel.len())?;
    let dims = cx.shape(x)?;
    let mut natural: Vec<Dim> = dims.iter().take(2).cloned().collect();
    for (((d, &k), &s), &(before, after)) in dims.iter().skip(2).zip(&kernel).zip(&strides).zip(&pads) {
        let inner = Dim::known(k) - Dim::known(before) - Dim::known(after);
        natural.push((d - Dim::known(1)) * Dim::known(s) + inner);
    }
    let total = natural.iter().fold(Dim::known(1), |a, b| a * b);
    let dtype = cx.dtype(x)?;
    let zero = cx.b.scalar(dtype, 0.0)?;
    let zeros = cx.b.broadcast(zero, std::slice::from_ref(&total))?;
    let count = [dims.iter().fold(Dim::known(1), |a, b| a * b)];
    let (flat_x, flat_i) = (cx.b.reshape(x, &count)?, cx.b.reshape(indices, &count)?);
    let op = Index::ScatterElements { axis: 0, mode: ScatterMode::Assign };
    let scattered = cx.b.add1(op, &[zeros, flat_i, flat_x])?;
    let y = cx.b.reshape(scattered, &natural)?;
    let Some(shape) = cx.optional(2) else { return one(y) };
    let wanted = super::generate::as_dims(cx, shape)?;
    if wanted.len() != natural.len() {
        return Err(OpError::invalid(format!("output_shape has {} elements", wanted.len())));
    }
    let before = vec![Dim::known(0); natural.len()];
    let after = wanted.iter().zip(&natural).map(|(w, n)| w - n).collect();
    let mode = kiln_ir::op::PadMode::Constant;
    one(cx.b.add1(Movement::Pad { mode, before, after }, &[y, zero])?)
}
