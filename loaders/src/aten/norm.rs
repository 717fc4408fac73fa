//! Normalizations.

use kiln_ir::op::{Composite, ReduceKind};
use kiln_ir::{Build, DType, Dim, Float, Value};

use super::arg::Arg;
use super::cx::{Cx, many, one};
use super::{How, Results, Row, row};
use crate::error::OpError;

use How::Fn;

#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    row("aten::_batch_norm_no_update", Fn(batch_norm)),
    row("aten::_fused_rms_norm", Fn(rms_norm)),
    row("aten::_native_batch_norm_legit", Fn(batch_norm)),
    row("aten::_native_batch_norm_legit_no_training", Fn(batch_norm)),
    row("aten::_weight_norm", Fn(|cx| weight_norm(cx).map(|(w, _)| vec![Arg::Tensor(w)]))),
    row("aten::_weight_norm_interface", Fn(|cx| weight_norm(cx).and_then(|(w, norm)| many([w, norm])))),
    row("aten::batch_norm", Fn(batch_norm)),
    row("aten::group_norm", Fn(group_norm)),
    row("aten::instance_norm", Fn(instance_norm)),
    row("aten::layer_norm", Fn(layer_norm)),
    row("aten::native_batch_norm", Fn(batch_norm)),
    row("aten::native_group_norm", Fn(native_group_norm)),
    row("aten::native_layer_norm", Fn(native_layer_norm)),
    row("aten::rms_norm", Fn(rms_norm)),
];

/// A parameter in the type that the normalization computes in, or a constant of this shape.
fn parameter(
    cx: &mut Cx<'_, '_>,
    name: &str,
    default: f64,
    dtype: DType,
    shape: &[Dim],
) -> Result<Value, OpError> {
    match cx.maybe_tensor(name)? {
        Some(v) => Ok(cx.b.cast(v, dtype)?),
        None => cx.filled(dtype, default, shape),
    }
}

/// The widest float among tensors.
fn widest(cx: &Cx<'_, '_>, values: &[Option<Value>]) -> Result<DType, OpError> {
    let mut widest = DType::F16;
    for (i, v) in values.iter().flatten().enumerate() {
        let dtype = cx.dtype(*v)?;
        if i == 0 || dtype.bits() > widest.bits() {
            widest = dtype;
        }
    }
    Ok(widest)
}

/// Statistics of the batch where there are no running ones, or in training, which then would change them.
fn batch_norm(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("input")?;
    let (mean, variance) = (cx.maybe_tensor("running_mean")?, cx.maybe_tensor("running_var")?);
    let training = cx.flag("training")? || (cx.flag("train")? && cx.takes("train"));
    let dtype = cx.dtype(x)?;
    let scale = cx.maybe_tensor("weight")?;
    let wide = widest(cx, &[Some(x), scale, mean])?;
    let dims = cx.shape(x)?;
    let channels = dims.get(1).cloned().ok_or_else(|| OpError::invalid("the operand has no channels"))?;
    let channels = [channels];
    let x = cx.b.cast(x, wide)?;
    let (scale, bias) =
        (parameter(cx, "weight", 1.0, wide, &channels)?, parameter(cx, "bias", 0.0, wide, &channels)?);
    let own = (training, mean, variance);
    let (mean, variance) = match own {
        (false, Some(mean), Some(variance)) => (cx.b.cast(mean, wide)?, cx.b.cast(variance, wide)?),
        (true, Some(_), Some(_)) => return Err(OpError::unsupported("batch normalization in training mode")),
        _ => {
            let axes: Vec<usize> = (0..dims.len()).filter(|&axis| axis != 1).collect();
            super::reduce::moments(cx, x, &axes)?
        }
    };
    let epsilon = Float::new(cx.float("eps")?);
    let y = cx.b.add1(Composite::BatchNorm { epsilon }, &[x, scale, bias, mean, variance])?;
    let y = cx.b.cast(y, dtype)?;
    if cx.overload().is_empty() && cx.takes("cudnn_enabled") {
        return one(y);
    }
    if !matches!(own, (false, Some(_), Some(_))) {
        let shifted = cx.ew_const("add", variance, cx.float("eps")?)?;
        let inverse = cx.ew("rsqrt", &[shifted])?;
        return many([y, mean, inverse]);
    }
    // The batch's statistics, which inference does not have.
    let empty = cx.filled(wide, 0.0, &[Dim::known(0)])?;
    many([y, empty, empty])
}

/// `x` with these operands and leading axes as one, where the composite wants one axis of normalized elements or more.
fn layer(cx: &mut Cx<'_, '_>) -> Result<(Value, Value, Vec<usize>), OpError> {
    let x = cx.tensor("input")?;
    let shape = cx.dims("normalized_shape")?;
    let rank = cx.rank(x)?;
    let axis =
        rank.checked_sub(shape.len()).ok_or_else(|| OpError::invalid("normalized_shape is too long"))?;
    let dtype = cx.dtype(x)?;
    let weight = cx.maybe_tensor("weight")?;
    let wide = widest(cx, &[Some(x), weight])?;
    let (scale, bias) =
        (parameter(cx, "weight", 1.0, wide, &shape)?, parameter(cx, "bias", 0.0, wide, &shape)?);
    let wide_x = cx.b.cast(x, wide)?;
    let epsilon = Float::new(cx.float("eps")?);
    let y = cx.b.add1(Composite::LayerNorm { axis, epsilon }, &[wide_x, scale, bias])?;
    Ok((cx.b.cast(y, dtype)?, x, (axis..rank).collect()))
}

fn layer_norm(cx: &mut Cx<'_, '_>) -> Results {
    let (y, ..) = layer(cx)?;
    one(y)
}

/// Mean and inverse standard deviation, axes kept.
fn statistics(cx: &mut Cx<'_, '_>, x: Value, axes: &[usize]) -> Result<(Value, Value), OpError> {
    let dtype = cx.dtype(x)?;
    let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
    let x = cx.b.cast(x, wide)?;
    let mean = cx.b.reduce(ReduceKind::Mean, x, axes, true)?;
    let centred = cx.ew("sub", &[x, mean])?;
    let squares = cx.ew("square", &[centred])?;
    let variance = cx.b.reduce(ReduceKind::Mean, squares, axes, true)?;
    let shifted = cx.ew_const("add", variance, cx.float("eps")?)?;
    Ok((mean, cx.ew("rsqrt", &[shifted])?))
}

fn native_layer_norm(cx: &mut Cx<'_, '_>) -> Results {
    let (y, x, axes) = layer(cx)?;
    let (mean, inverse) = statistics(cx, x, &axes)?;
    many([y, mean, inverse])
}

fn grouped(cx: &mut Cx<'_, '_>, groups: i64) -> Result<Value, OpError> {
    let x = cx.tensor("input")?;
    let dims = cx.shape(x)?;
    let channels = dims.get(1).cloned().ok_or_else(|| OpError::invalid("the operand has no channels"))?;
    let dtype = cx.dtype(x)?;
    let weight = cx.maybe_tensor("weight")?;
    let wide = widest(cx, &[Some(x), weight])?;
    let channels = [channels];
    let (scale, bias) =
        (parameter(cx, "weight", 1.0, wide, &channels)?, parameter(cx, "bias", 0.0, wide, &channels)?);
    let x = cx.b.cast(x, wide)?;
    let epsilon = Float::new(cx.float("eps")?);
    let y = cx.b.add1(Composite::GroupNorm { groups, epsilon }, &[x, scale, bias])?;
    Ok(cx.b.cast(y, dtype)?)
}

fn group_norm(cx: &mut Cx<'_, '_>) -> Results {
    let groups = cx.int("num_groups")?;
    let y = grouped(cx, groups)?;
    one(y)
}

fn native_group_norm(cx: &mut Cx<'_, '_>) -> Results {
    let groups = cx.int("group")?;
    let x = cx.tensor("input")?;
    let y = grouped(cx, groups)?;
    let dims = cx.shape(x)?;
    let batch = dims.first().cloned().unwrap_or(Dim::known(1));
    let rest = super::cx::product(dims.get(1..).unwrap_or(&[])).floor_div(&Dim::known(groups));
    let flat = cx.b.reshape(x, &[batch.clone(), Dim::known(groups), rest])?;
    let (mean, inverse) = statistics(cx, flat, &[2])?;
    let shape = [batch, Dim::known(groups)];
    let (mean, inverse) = (cx.b.reshape(mean, &shape)?, cx.b.reshape(inverse, &shape)?);
    many([y, mean, inverse])
}

fn instance_norm(cx: &mut Cx<'_, '_>) -> Results {
    if !cx.flag("use_input_stats")? {
        return running_instances(cx);
    }
    let x = cx.tensor("input")?;
    let dims = cx.shape(x)?;
    let channels = dims.get(1).cloned().ok_or_else(|| OpError::invalid("the operand has no channels"))?;
    let dtype = cx.dtype(x)?;
    let channels = [channels];
    let (scale, bias) =
        (parameter(cx, "weight", 1.0, dtype, &channels)?, parameter(cx, "bias", 0.0, dtype, &channels)?);
    let epsilon = Float::new(cx.float("eps")?);
    let y = cx.b.add1(Composite::InstanceNorm { epsilon }, &[x, scale, bias])?;
    one(y)
}

/// With running statistics an instance normalization is that of the batch.
fn running_instances(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("input")?;
    let dtype = cx.dtype(x)?;
    let channels = [cx.shape(x)?.get(1).cloned().unwrap_or(Dim::known(1))];
    let (scale, bias) =
        (parameter(cx, "weight", 1.0, dtype, &channels)?, parameter(cx, "bias", 0.0, dtype, &channels)?);
    let (mean, variance) = (cx.tensor("running_mean")?, cx.tensor("running_var")?);
    let (mean, variance) = (cx.b.cast(mean, dtype)?, cx.b.cast(variance, dtype)?);
    let epsilon = Float::new(cx.float("eps")?);
    let y = cx.b.add1(Composite::BatchNorm { epsilon }, &[x, scale, bias, mean, variance])?;
    one(y)
}

/// Without an epsilon, that of the type.
fn rms_norm(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("input")?;
    let shape = cx.dims("normalized_shape")?;
    let rank = cx.rank(x)?;
    let axis =
        rank.checked_sub(shape.len()).ok_or_else(|| OpError::invalid("normalized_shape is too long"))?;
    let dtype = cx.dtype(x)?;
    let weight = cx.maybe_tensor("weight")?;
    let wide = widest(cx, &[Some(x), weight])?;
    let scale = parameter(cx, "weight", 1.0, wide, &shape)?;
    let epsilon = match cx.maybe_float("eps")? {
        Some(epsilon) => epsilon,
        None if dtype == DType::F64 => f64::EPSILON,
        None => f64::from(f32::EPSILON),
    };
    let wide_x = cx.b.cast(x, wide)?;
    let op = Composite::RmsNorm { axis, epsilon: Float::new(epsilon) };
    let y = cx.b.add1(op, &[wide_x, scale])?;
    let y = cx.b.cast(y, dtype)?;
    one(y)
}

/// A weight as a direction `v` and a length `g`, one for each place of an axis: the weight, and the lengths of `v`. With axis
/// -1 there is one length.
fn weight_norm(cx: &mut Cx<'_, '_>) -> Result<(Value, Value), OpError> {
    let (v, g) = (cx.tensor("v")?, cx.tensor("g")?);
    let rank = cx.rank(v)?;
    let kept = match cx.int("dim")? {
        -1 => None,
        _ => Some(cx.axis("dim", rank)?),
    };
    let axes: Vec<usize> = (0..rank).filter(|&axis| Some(axis) != kept).collect();
    let norm = cx.b.reduce(ReduceKind::L2, v, &axes, kept.is_some())?;
    let factor = cx.ew("div", &[g, norm])?;
    Ok((cx.ew("mul", &[v, factor])?, norm))
}
