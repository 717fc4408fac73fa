//! Normalizations.

use super::{dims, node, widen, with_scalar};
use crate::infer::InferError;
use crate::op::{Layout, ReduceKind, Window, WindowKind};
use crate::{Build, Dim, Value};

/// `x` less its mean over `axes`, divided by its standard deviation.
fn standardize(b: &mut dyn Build, x: Value, axes: &[usize], epsilon: f64) -> Result<Value, InferError> {
    let mean = b.reduce(ReduceKind::Mean, x, axes, true)?;
    let centered = b.ew("sub", &[x, mean])?;
    let squares = b.ew("mul", &[centered, centered])?;
    let variance = b.reduce(ReduceKind::Mean, squares, axes, true)?;
    let shifted = with_scalar(b, "add", variance, epsilon)?;
    let deviation = b.ew("sqrt", &[shifted])?;
    b.ew("div", &[centered, deviation])
}

/// A vector with one element a channel, in the dtype of `x`, shaped to broadcast along axis 1 of rank `rank`.
fn per_channel(b: &mut dyn Build, v: Value, x: Value) -> Result<Value, InferError> {
    let (dtype, rank) = (b.dtype(x)?, b.rank(x)?);
    let v = b.cast(v, dtype)?;
    let mut shape = dims(b, v)?;
    shape.resize(rank.saturating_sub(1).max(1), Dim::known(1));
    b.reshape(v, &shape)
}

/// `x * scale + bias`, one element a channel.
fn affine(b: &mut dyn Build, x: Value, scale: Value, bias: Value) -> Result<Value, InferError> {
    let (scale, bias) = (per_channel(b, scale, x)?, per_channel(b, bias, x)?);
    let y = b.ew("mul", &[x, scale])?;
    b.ew("add", &[y, bias])
}

pub(super) fn layer_norm(
    b: &mut dyn Build,
    [x, scale, bias]: [Value; 3],
    axis: usize,
    epsilon: f64,
) -> Result<Value, InferError> {
    let dtype = b.dtype(x)?;
    let x = widen(b, x)?;
    let (wide, rank) = (b.dtype(x)?, b.rank(x)?);
    let y = standardize(b, x, &(axis..rank).collect::<Vec<_>>(), epsilon)?;
    let (scale, bias) = (b.cast(scale, wide)?, b.cast(bias, wide)?);
    let y = b.ew("mul", &[y, scale])?;
    let y = b.ew("add", &[y, bias])?;
    b.cast(y, dtype)
}

pub(super) fn rms_norm(
    b: &mut dyn Build,
    x: Value,
    scale: Value,
    axis: usize,
    epsilon: f64,
) -> Result<Value, InferError> {
    let dtype = b.dtype(x)?;
    let x = widen(b, x)?;
    let (wide, rank) = (b.dtype(x)?, b.rank(x)?);
    let squares = b.ew("mul", &[x, x])?;
    let mean = b.reduce(ReduceKind::Mean, squares, &(axis..rank).collect::<Vec<_>>(), true)?;
    let shifted = with_scalar(b, "add", mean, epsilon)?;
    let root = b.ew("sqrt", &[shifted])?;
    let y = b.ew("div", &[x, root])?;
    let scale = b.cast(scale, wide)?;
    let y = b.ew("mul", &[y, scale])?;
    b.cast(y, dtype)
}

pub(super) fn batch_norm(
    b: &mut dyn Build,
    [x, scale, bias, mean, variance]: [Value; 5],
    epsilon: f64,
) -> Result<Value, InferError> {
    let dtype = b.dtype(x)?;
    let x = widen(b, x)?;
    let (mean, variance) = (per_channel(b, mean, x)?, per_channel(b, variance, x)?);
    let centered = b.ew("sub", &[x, mean])?;
    let shifted = with_scalar(b, "add", variance, epsilon)?;
    let deviation = b.ew("sqrt", &[shifted])?;
    let y = b.ew("div", &[centered, deviation])?;
    let y = affine(b, y, scale, bias)?;
    b.cast(y, dtype)
}

pub(super) fn instance_norm(
    b: &mut dyn Build,
    [x, scale, bias]: [Value; 3],
    epsilon: f64,
) -> Result<Value, InferError> {
    let dtype = b.dtype(x)?;
    let x = widen(b, x)?;
    let axes: Vec<usize> = (2..b.rank(x)?).collect();
    let y = standardize(b, x, &axes, epsilon)?;
    let y = affine(b, y, scale, bias)?;
    b.cast(y, dtype)
}

pub(super) fn group_norm(
    b: &mut dyn Build,
    [x, scale, bias]: [Value; 3],
    groups: i64,
    epsilon: f64,
) -> Result<Value, InferError> {
    let dtype = b.dtype(x)?;
    let x = widen(b, x)?;
    let shape = dims(b, x)?;
    let [batch, channels, spatial @ ..] = shape.as_slice() else {
        return Err(InferError::new("group_norm needs batch and channel axes"));
    };
    let groups = Dim::known(groups);
    let members = spatial.iter().fold(channels.floor_div(&groups), |a, d| a * d);
    let grouped = b.reshape(x, &[batch.clone(), groups, members])?;
    let y = standardize(b, grouped, &[2], epsilon)?;
    let y = b.reshape(y, &shape)?;
    let y = affine(b, y, scale, bias)?;
    b.cast(y, dtype)
}

/// `x / (bias + alpha / size * sum of squares over the window)^beta` (ONNX LRN). The mean over a window of channels
/// is a pooling along them.
pub(super) fn lrn(
    b: &mut dyn Build,
    x: Value,
    size: i64,
    alpha: f64,
    beta: f64,
    bias: f64,
) -> Result<Value, InferError> {
    let dtype = b.dtype(x)?;
    let x = widen(b, x)?;
    let shape = dims(b, x)?;
    let [batch, channels, spatial @ ..] = shape.as_slice() else {
        return Err(InferError::new("lrn needs batch and channel axes"));
    };
    let (one, zero) = (Dim::known(1), Dim::known(0));
    let image = [batch.clone(), one, channels.clone(), spatial.iter().fold(Dim::known(1), |a, d| a * d)];
    let squares = b.ew("mul", &[x, x])?;
    let squares = b.reshape(squares, &image)?;
    let before = Dim::known((size - 1) / 2);
    let after = Dim::known(size - 1) - &before;
    let window = Window::Pool {
        kind: WindowKind::AverageWithPad,
        kernel: vec![size, 1],
        strides: vec![1, 1],
        dilations: vec![1, 1],
        pads: vec![(before, after), (zero.clone(), zero)],
        ceil_mode: false,
        layout: Layout::ChannelsFirst,
    };
    let mean = node(b, window, &[squares])?;
    let mean = b.reshape(mean, &shape)?;
    let weighted = with_scalar(b, "mul", mean, alpha)?;
    let base = with_scalar(b, "add", weighted, bias)?;
    let divisor = with_scalar(b, "pow", base, beta)?;
    let y = b.ew("div", &[x, divisor])?;
    b.cast(y, dtype)
}
