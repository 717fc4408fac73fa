//! Normalizations and softmaxes.

use kiln_ir::op::{Composite, CumKind, Order, ReduceKind};
use kiln_ir::{Build, DType, Dim, Float, Value};

use super::conv::per_channel;
use super::{How, Row, row};
use crate::onnx::cx::{Cx, OpError, Outputs, one};

use How::Fn;

pub(super) const ROWS: &[Row] = &[
    row("BatchNormalization", &[1, 6, 7, 9, 14, 15], Fn(batch_norm)),
    row("GroupNormalization", &[18, 21], Fn(group_norm)),
    row("Hardmax", &[1, 11, 13], Fn(|cx| softmax(cx, |axis| Composite::Hardmax { axis }))),
    row("InstanceNormalization", &[1, 6, 22], Fn(instance_norm)),
    row("LRN", &[1, 13], Fn(lrn)),
    // Written into the default domain by exporters of opsets before 17.
    row("LayerNormalization", &[1, 17], Fn(layer_norm)),
    row("LogSoftmax", &[1, 11, 13], Fn(|cx| softmax(cx, |axis| Composite::LogSoftmax { axis }))),
    row("LpNormalization", &[1, 22], Fn(lp_norm)),
    row("MeanVarianceNormalization", &[9, 13], Fn(mean_variance)),
    row("RMSNormalization", &[23], Fn(rms_norm)),
    row("Softmax", &[1, 11, 13], Fn(|cx| softmax(cx, |axis| Composite::Softmax { axis }))),
];

/// The longest row whose softmax rounds to bf16 at each step. A sum in bf16 stays what it is once it is 256 times the next
/// term: longer rows are summed in single precision.
const LONGEST_BF16: i64 = 256;

/// Whether the softmax of rows of `size` rounds at each step, as its text has it, whose function body computes in the
/// operand's dtype.
pub(super) fn rounds_each_step(dtype: DType, size: &Dim) -> bool {
    dtype == DType::BF16 && size.as_known().is_some_and(|n| (1..=LONGEST_BF16).contains(&n))
}

/// Elements over their sum along `axis`, each step of which rounds to their dtype.
pub(super) fn over_their_sum(cx: &mut Cx<'_, '_, '_>, x: Value, axis: usize) -> Result<Value, OpError> {
    let last = cx.shape(x)?.get(axis).cloned().unwrap_or(Dim::known(1)) - Dim::known(1);
    let running = Order::Cumulative { kind: CumKind::Sum, axis, exclusive: false, reverse: false };
    let sums = cx.b.add1(running, &[x])?;
    let sum = cx.b.slice_axis(sums, axis, last, Dim::known(1))?;
    let (zero, one) = (cx.b.scalar(cx.dtype(x)?, 0.0)?, cx.b.scalar(cx.dtype(x)?, 1.0)?);
    let is_zero = cx.b.ew("eq", &[sum, zero])?;
    let sum = cx.b.ew("where", &[is_zero, one, sum])?;
    Ok(cx.b.ew("div", &[x, sum])?)
}

/// Softmax along an axis; its logarithm is not affected by how the sum rounds.
fn along(cx: &mut Cx<'_, '_, '_>, op: Composite, x: Value) -> Outputs {
    let Composite::Softmax { axis } = op else { return one(cx.b.add1(op, &[x])?) };
    let size = cx.shape(x).ok().and_then(|dims| dims.get(axis).cloned());
    if !size.is_some_and(|size| cx.dtype(x).is_ok_and(|dtype| rounds_each_step(dtype, &size))) {
        return one(cx.b.softmax(x, axis)?);
    }
    let max = cx.b.reduce(ReduceKind::Max, x, &[axis], true)?;
    let shifted = cx.b.ew("sub", &[x, max])?;
    let e = cx.b.ew("exp", &[shifted])?;
    one(over_their_sum(cx, e, axis)?)
}

/// Before opset 13 the operand is seen as a matrix, split before `axis`, whose rows are normalized.
fn softmax(cx: &mut Cx<'_, '_, '_>, op: fn(usize) -> Composite) -> Outputs {
    let x = cx.input(0)?;
    if cx.opset >= 13 {
        let axis = cx.attrs.int_or("axis", -1)?;
        let axis = match cx.rank(x) {
            Ok(rank) => cx.axis(axis, rank)?,
            Err(e) => usize::try_from(axis).map_err(|_| e)?,
        };
        return along(cx, op(axis), x);
    }
    let dims = cx.shape(x)?;
    let axis = cx.attrs.int_or("axis", 1)?;
    let axis = if axis == dims.len() as i64 { dims.len() } else { cx.axis(axis, dims.len())? };
    if axis + 1 == dims.len() {
        return along(cx, op(axis), x);
    }
    let product = |part: &[Dim]| part.iter().fold(Dim::known(1), |a, b| a * b);
    let (outer, inner) = dims.split_at(axis);
    let matrix = cx.b.reshape(x, &[product(outer), product(inner)])?;
    let y = along(cx, op(1), matrix)?;
    one(cx.b.reshape(y.first().copied().unwrap_or(matrix), &dims)?)
}

fn epsilon(cx: &Cx<'_, '_, '_>) -> Result<Float, OpError> {
    Ok(Float::new(cx.attrs.float_or("epsilon", 1e-5)?))
}

/// Brings the operands to one dtype, the widest float among them; gives it.
fn common_dtype(cx: &mut Cx<'_, '_, '_>, values: &mut [Value]) -> Result<DType, OpError> {
    let mut widest = DType::F16;
    for (i, &v) in values.iter().enumerate() {
        let dtype = cx.dtype(v)?;
        if i == 0 || dtype.bits() > widest.bits() {
            widest = dtype;
        }
    }
    for v in values.iter_mut() {
        *v = cx.b.cast(*v, widest)?;
    }
    Ok(widest)
}

fn batch_norm(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let dtype = cx.dtype(x)?;
    let epsilon = epsilon(cx)?;
    // `is_test` (before opset 7) and the mere presence of more results (before 14) chose the mode.
    let training = match cx.opset {
        14.. => cx.attrs.flag("training_mode", false)?,
        _ => (1..5).any(|i| cx.wants(i)) && !cx.attrs.flag("is_test", false)?,
    };
    if cx.opset < 9 && !cx.attrs.flag("spatial", true)? {
        return Err(OpError::unsupported("statistics of each element (`spatial` = 0)"));
    }
    let mut values = cx.all_inputs()?;
    common_dtype(cx, &mut values)?;
    let [x, scale, bias, mean, variance] = values.as_slice() else {
        return Err(OpError::invalid(format!("expected 5 operands, found {}", values.len())));
    };
    let (x, scale, bias, mean, variance) = (*x, *scale, *bias, *mean, *variance);
    if !training {
        let y = cx.b.add1(Composite::BatchNorm { epsilon }, &[x, scale, bias, mean, variance])?;
        return one(cx.b.cast(y, dtype)?);
    }
    let rank = cx.rank(x)?;
    let axes: Vec<usize> = (0..rank).filter(|&a| a != 1).collect();
    let batch_mean = cx.b.reduce(ReduceKind::Mean, x, &axes, false)?;
    let spread = per_channel(cx, batch_mean, rank.saturating_sub(2))?;
    let centred = cx.b.ew("sub", &[x, spread])?;
    let squares = cx.b.ew("square", &[centred])?;
    let batch_variance = cx.b.reduce(ReduceKind::Mean, squares, &axes, false)?;
    let operands = [x, scale, bias, batch_mean, batch_variance];
    let y = cx.b.add1(Composite::BatchNorm { epsilon }, &operands)?;
    let momentum = cx.attrs.float_or("momentum", 0.9)?;
    let running = |cx: &mut Cx<'_, '_, '_>, old: Value, new: Value, like: usize| {
        let wide = cx.dtype(old)?;
        let (keep, take) = (cx.b.scalar(wide, momentum)?, cx.b.scalar(wide, 1.0 - momentum)?);
        let (old, new) = (cx.b.ew("mul", &[old, keep])?, cx.b.ew("mul", &[new, take])?);
        let mixed = cx.b.ew("add", &[old, new])?;
        let to = cx.dtype(cx.input(like)?)?;
        Ok::<_, OpError>(cx.b.cast(mixed, to)?)
    };
    let running_mean = running(cx, mean, batch_mean, 3)?;
    let running_variance = running(cx, variance, batch_variance, 4)?;
    Ok(vec![cx.b.cast(y, dtype)?, running_mean, running_variance])
}

fn instance_norm(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let operands = [cx.input(0)?, cx.input(1)?, cx.input(2)?];
    let epsilon = epsilon(cx)?;
    one(cx.b.add1(Composite::InstanceNorm { epsilon }, &operands)?)
}

/// Before opset 21, scale and bias have one element a group.
fn group_norm(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let groups = cx.attrs.required_int("num_groups")?;
    let epsilon = epsilon(cx)?;
    let mut parameters = [cx.input(1)?, cx.input(2)?];
    if cx.opset < 21 {
        let dims = cx.shape(x)?;
        let channels = dims.get(1).cloned().ok_or_else(|| OpError::invalid("the operand has no channels"))?;
        let size = channels.floor_div(&Dim::known(groups));
        for v in &mut parameters {
            let column = cx.b.reshape(*v, &[Dim::known(groups), Dim::known(1)])?;
            let wide = cx.b.broadcast(column, &[Dim::known(groups), size.clone()])?;
            *v = cx.b.reshape(wide, std::slice::from_ref(&channels))?;
        }
    }
    let [scale, bias] = parameters;
    one(cx.b.add1(Composite::GroupNorm { groups, epsilon }, &[x, scale, bias])?)
}

fn lrn(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let op = Composite::Lrn {
        size: cx.attrs.required_int("size")?,
        alpha: Float::new(cx.attrs.float_or("alpha", 1e-4)?),
        beta: Float::new(cx.attrs.float_or("beta", 0.75)?),
        bias: Float::new(cx.attrs.float_or("bias", 1.0)?),
    };
    one(cx.b.add1(op, &[x])?)
}

/// A bias of zeros in the shape of `scale`.
pub(super) fn zeros_like(cx: &mut Cx<'_, '_, '_>, scale: Value) -> Result<Value, OpError> {
    let (dtype, dims) = (cx.dtype(scale)?, cx.shape(scale)?);
    let zero = cx.b.scalar(dtype, 0.0)?;
    Ok(cx.b.broadcast(zero, &dims)?)
}

fn layer_norm(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (x, scale) = (cx.input(0)?, cx.input(1)?);
    let epsilon = epsilon(cx)?;
    let rank = cx.rank(x)?;
    let axis = cx.attrs.int_or("axis", -1)?;
    let axis = cx.axis(axis, rank)?;
    let bias = match cx.optional(2) {
        Some(bias) => bias,
        None => zeros_like(cx, scale)?,
    };
    let dtype = cx.dtype(x)?;
    let mut operands = [x, scale, bias];
    common_dtype(cx, &mut operands)?;
    let y = cx.b.add1(Composite::LayerNorm { axis, epsilon }, &operands)?;
    let y = cx.b.cast(y, dtype)?;
    if !cx.wants(1) && !cx.wants(2) {
        return one(y);
    }
    let (mean, inverse) = moments(cx, x, axis, epsilon)?;
    Ok(vec![y, mean, inverse])
}

/// Mean and inverse standard deviation over the axes from `axis` on, computed in f32 for narrower dtypes.
pub(super) fn moments(
    cx: &mut Cx<'_, '_, '_>,
    x: Value,
    axis: usize,
    epsilon: Float,
) -> Result<(Value, Value), OpError> {
    let dtype = cx.dtype(x)?;
    let stash = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
    let x = cx.b.cast(x, stash)?;
    let axes: Vec<usize> = (axis..cx.rank(x)?).collect();
    let mean = cx.b.reduce(ReduceKind::Mean, x, &axes, true)?;
    let centred = cx.b.ew("sub", &[x, mean])?;
    let squares = cx.b.ew("square", &[centred])?;
    let variance = cx.b.reduce(ReduceKind::Mean, squares, &axes, true)?;
    let epsilon = cx.b.scalar(stash, epsilon.get())?;
    let shifted = cx.b.ew("add", &[variance, epsilon])?;
    Ok((mean, cx.b.ew("rsqrt", &[shifted])?))
}

pub(super) fn rms_norm(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (x, scale) = (cx.input(0)?, cx.input(1)?);
    let epsilon = epsilon(cx)?;
    let rank = cx.rank(x)?;
    let axis = cx.attrs.int_or("axis", -1)?;
    let axis = cx.axis(axis, rank)?;
    let dtype = cx.dtype(x)?;
    let mut operands = [x, scale];
    common_dtype(cx, &mut operands)?;
    let y = cx.b.add1(Composite::RmsNorm { axis, epsilon }, &operands)?;
    one(cx.b.cast(y, dtype)?)
}

/// Rows of norm 0 give zeros.
fn lp_norm(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let rank = cx.rank(x)?;
    let axis = cx.attrs.int_or("axis", -1)?;
    let axis = cx.axis(axis, rank)?;
    let kind = match cx.attrs.int_or("p", 2)? {
        1 => ReduceKind::L1,
        2 => ReduceKind::L2,
        p => return Err(OpError::invalid(format!("p must be 1 or 2, it is {p}"))),
    };
    let norm = cx.b.reduce(kind, x, &[axis], true)?;
    let dtype = cx.dtype(x)?;
    let (zero, unit) = (cx.b.scalar(dtype, 0.0)?, cx.b.scalar(dtype, 1.0)?);
    let vanishes = cx.b.ew("eq", &[norm, zero])?;
    let divisor = cx.b.ew("where", &[vanishes, unit, norm])?;
    one(cx.b.ew("div", &[x, divisor])?)
}

fn mean_variance(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let rank = cx.rank(x)?;
    let axes = cx.attrs.ints_or("axes", &[0, 2, 3])?;
    let axes = cx.axes(&axes, rank)?;
    let mean = cx.b.reduce(ReduceKind::Mean, x, &axes, true)?;
    let centred = cx.b.ew("sub", &[x, mean])?;
    let squares = cx.b.ew("square", &[centred])?;
    let variance = cx.b.reduce(ReduceKind::Mean, squares, &axes, true)?;
    let deviation = cx.b.ew("sqrt", &[variance])?;
    let dtype = cx.dtype(x)?;
    let epsilon = cx.b.scalar(dtype, 1e-9)?;
    let divisor = cx.b.ew("add", &[deviation, epsilon])?;
    one(cx.b.ew("div", &[centred, divisor])?)
}
