//! Decompositions of composite operators into the others. They are what composites mean: the reference evaluator runs
//! them, and a backend that takes a composite whole must agree with its body.
//!
//! Bodies compute in f32 where the operands are narrower floats, and round the results once.

mod attention;
mod dynamic;
mod formula;
mod normal;
mod recurrent;
mod resize;

pub use dynamic::decompose_dynamic;

use crate::infer::InferError;
use crate::op::{Composite, Quant, ReduceKind, Source};
use crate::{Build, DType, Dim, Ew, Op, Value};

/// Adds the body of `op` over `operands`; gives its results, as many as the operator has.
///
/// # Errors
/// If the operands do not fit the operator, or their rank is unknown.
pub fn decompose(op: &Composite, b: &mut dyn Build, operands: &[Value]) -> Result<Vec<Value>, InferError> {
    let one = |v: Value| Ok(vec![v]);
    match (op, operands) {
        (Composite::Softmax { axis }, &[x]) => one(softmax(b, x, *axis)?),
        (Composite::LogSoftmax { axis }, &[x]) => one(log_softmax(b, x, *axis)?),
        (Composite::LogSumExp { axes, keepdims }, &[x]) => one(log_sum_exp(b, x, axes, *keepdims)?),
        (Composite::Hardmax { axis }, &[x]) => one(hardmax(b, x, *axis)?),
        (Composite::LayerNorm { axis, epsilon }, &[x, scale, bias]) => {
            one(normal::layer_norm(b, [x, scale, bias], *axis, epsilon.get())?)
        }
        (Composite::RmsNorm { axis, epsilon }, &[x, scale]) => {
            one(normal::rms_norm(b, x, scale, *axis, epsilon.get())?)
        }
        (Composite::BatchNorm { epsilon }, &[x, scale, bias, mean, variance]) => {
            one(normal::batch_norm(b, [x, scale, bias, mean, variance], epsilon.get())?)
        }
        (Composite::InstanceNorm { epsilon }, &[x, scale, bias]) => {
            one(normal::instance_norm(b, [x, scale, bias], epsilon.get())?)
        }
        (Composite::GroupNorm { groups, epsilon }, &[x, scale, bias]) => {
            one(normal::group_norm(b, [x, scale, bias], *groups, epsilon.get())?)
        }
        (Composite::Lrn { size, alpha, beta, bias }, &[x]) => {
            one(normal::lrn(b, x, *size, alpha.get(), beta.get(), bias.get())?)
        }
        (Composite::Attention { scale, mask, causal, causal_from_end, softcap }, &[q, k, v, ..]) => {
            let spec = attention::Attention {
                scale: scale.get(),
                softcap: softcap.get(),
                hide: match (*causal, *causal_from_end) {
                    (false, _) => attention::Hide::Nothing,
                    (true, false) => attention::Hide::LaterFromStart,
                    (true, true) => attention::Hide::LaterFromEnd,
                },
                mask: operands.get(3).copied().filter(|_| *mask),
            };
            one(attention::attention(b, q, k, v, &spec)?)
        }
        (Composite::Rope { interleaved, rotary_dim }, &[x, cos, sin]) => {
            one(attention::rope(b, x, cos, sin, *interleaved, *rotary_dim)?)
        }
        (Composite::Lstm { .. } | Composite::Gru { .. } | Composite::Rnn { .. }, _) => {
            recurrent::recurrent(op, b, operands)
        }
        (Composite::Resize { .. }, &[x]) => one(resize::resize(op, b, x)?),
        (Composite::DynamicQuantize {}, &[x]) => dynamic_quantize(b, x),
        _ => Err(InferError::new(format!("{} does not take {} operands", name(op), operands.len()))),
    }
}

fn name(op: &Composite) -> &'static str {
    op.mnemonic()
}

/// The value in the dtype that bodies compute in.
fn widen(b: &mut dyn Build, x: Value) -> Result<Value, InferError> {
    let dtype = b.dtype(x)?;
    b.cast(x, Ew::compute_dtype(dtype))
}

/// Dims of the value, owned.
fn dims(b: &dyn Build, x: Value) -> Result<Vec<Dim>, InferError> {
    b.shape(x).map(<[Dim]>::to_vec)
}

/// The only result of an operator.
fn node(b: &mut dyn Build, op: impl Into<Op>, operands: &[Value]) -> Result<Value, InferError> {
    let op = op.into();
    match b.add(op.clone(), operands)?.as_slice() {
        [v] => Ok(*v),
        _ => Err(InferError::new(format!("`{}` has not one result", op.mnemonic()))),
    }
}

/// A scalar constant of the dtype of `like`.
fn scalar_like(b: &mut dyn Build, like: Value, value: f64) -> Result<Value, InferError> {
    let dtype = b.dtype(like)?;
    b.scalar(dtype, value)
}

/// `op(x, value)` with a scalar constant.
fn with_scalar(b: &mut dyn Build, op: &str, x: Value, value: f64) -> Result<Value, InferError> {
    let c = scalar_like(b, x, value)?;
    b.ew(op, &[x, c])
}

/// `[0, 1, ...]` along `axis` of a tensor of rank `rank`, of size 1 on the other axes.
fn positions(
    b: &mut dyn Build,
    len: Dim,
    dtype: DType,
    axis: usize,
    rank: usize,
) -> Result<Value, InferError> {
    let v = node(b, Source::Iota { len: len.clone(), dtype }, &[])?;
    let mut shape = vec![Dim::known(1); rank];
    if let Some(d) = shape.get_mut(axis) {
        *d = len;
    }
    b.reshape(v, &shape)
}

fn softmax(b: &mut dyn Build, x: Value, axis: usize) -> Result<Value, InferError> {
    let dtype = b.dtype(x)?;
    let x = widen(b, x)?;
    let max = b.reduce(ReduceKind::Max, x, &[axis], true)?;
    let shifted = b.ew("sub", &[x, max])?;
    let e = b.ew("exp", &[shifted])?;
    let sum = b.reduce(ReduceKind::Sum, e, &[axis], true)?;
    let y = b.ew("div", &[e, sum])?;
    b.cast(y, dtype)
}

fn log_softmax(b: &mut dyn Build, x: Value, axis: usize) -> Result<Value, InferError> {
    let dtype = b.dtype(x)?;
    let x = widen(b, x)?;
    let max = b.reduce(ReduceKind::Max, x, &[axis], true)?;
    let shifted = b.ew("sub", &[x, max])?;
    let e = b.ew("exp", &[shifted])?;
    let sum = b.reduce(ReduceKind::Sum, e, &[axis], true)?;
    let log = b.ew("log", &[sum])?;
    let y = b.ew("sub", &[shifted, log])?;
    b.cast(y, dtype)
}

fn log_sum_exp(b: &mut dyn Build, x: Value, axes: &[usize], keepdims: bool) -> Result<Value, InferError> {
    let y = log_sum_exp_by(b, x, &mut |b, kind, x| b.reduce(kind, x, axes, true))?;
    if keepdims {
        return Ok(y);
    }
    let kept: Vec<Dim> =
        dims(b, y)?.into_iter().enumerate().filter(|(i, _)| !axes.contains(i)).map(|(_, d)| d).collect();
    b.reshape(y, &kept)
}

/// The logarithm of the sum of exponentials of floats `x`, in the dtype of `x`. `reduce` chooses the axes; what it gives
/// must keep them, of size 1.
///
/// # Errors
/// Those of `reduce`.
pub fn log_sum_exp_by(
    b: &mut dyn Build,
    x: Value,
    reduce: &mut dyn FnMut(&mut dyn Build, ReduceKind, Value) -> Result<Value, InferError>,
) -> Result<Value, InferError> {
    let dtype = b.dtype(x)?;
    let x = widen(b, x)?;
    let max = reduce(b, ReduceKind::Max, x)?;
    // Subtracting an infinite maximum would give NaN.
    let infinite = b.ew_with("is_inf", &[1.0, 1.0], &[max])?;
    let zero = scalar_like(b, x, 0.0)?;
    let max = b.ew("where", &[infinite, zero, max])?;
    let shifted = b.ew("sub", &[x, max])?;
    let e = b.ew("exp", &[shifted])?;
    let sum = reduce(b, ReduceKind::Sum, e)?;
    let log = b.ew("log", &[sum])?;
    let y = b.ew("add", &[log, max])?;
    b.cast(y, dtype)
}

fn hardmax(b: &mut dyn Build, x: Value, axis: usize) -> Result<Value, InferError> {
    let (dtype, shape) = (b.dtype(x)?, dims(b, x)?);
    let at = node(b, crate::op::Order::ArgMax { axis, keepdims: true, last: false }, &[x])?;
    let len = shape.get(axis).cloned().ok_or_else(|| InferError::new(format!("axis {axis}")))?;
    let index = positions(b, len, DType::I64, axis, shape.len())?;
    let hit = b.ew("eq", &[at, index])?;
    b.cast(hit, dtype)
}

/// ONNX DynamicQuantizeLinear: the range is stretched to hold 0. Where the formula's scale is 0, for nothing but zeros,
/// it is 1, as onnxruntime has it: ONNX's text would divide by 0.
fn dynamic_quantize(b: &mut dyn Build, x: Value) -> Result<Vec<Value>, InferError> {
    let x = b.cast(x, DType::F32)?;
    let axes: Vec<usize> = (0..b.rank(x)?).collect();
    let extremum = |b: &mut dyn Build, kind, op: &str| {
        let v = b.reduce(kind, x, &axes, false)?;
        with_scalar(b, op, v, 0.0)
    };
    let max = extremum(b, ReduceKind::Max, "max")?;
    let min = extremum(b, ReduceKind::Min, "min")?;
    let range = b.ew("sub", &[max, min])?;
    let scale = with_scalar(b, "div", range, 255.0)?;
    let zero = scalar_like(b, x, 0.0)?;
    let empty = b.ew("eq", &[scale, zero])?;
    let unit = scalar_like(b, x, 1.0)?;
    let scale = b.ew("where", &[empty, unit, scale])?;
    let below = b.ew("div", &[min, scale])?;
    let zero_point = b.ew("neg", &[below])?;
    let (low, high) = (zero, scalar_like(b, x, 255.0)?);
    let zero_point = b.ew("clamp", &[zero_point, low, high])?;
    let zero_point = b.ew("round", &[zero_point])?;
    let zero_point = b.cast(zero_point, DType::U8)?;
    let quantize = Quant::Quantize { to: DType::U8, axis: None, block: 0, saturate: true, inverse: false };
    let y = node(b, quantize, &[x, scale, zero_point])?;
    Ok(vec![y, scale, zero_point])
}
