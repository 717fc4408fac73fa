//! Softmax and attention.

use kiln_ir::op::Composite;
use kiln_ir::{Build, DType, Dim, Float, Value};

use super::cx::{Cx, one, unknown};
use super::{How, Results, Row, row};
use crate::error::OpError;

use How::Fn;

#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    row("aten::_log_softmax", Fn(log_softmax)),
    row("aten::_scaled_dot_product_attention_math", Fn(attention)),
    row("aten::_safe_softmax", Fn(safe_softmax)),
    row("aten::_scaled_dot_product_flash_attention_for_cpu", Fn(attention)),
    row("aten::_softmax", Fn(softmax)),
    row("aten::log_softmax", Fn(log_softmax)),
    row("aten::scaled_dot_product_attention", Fn(attention)),
    row("aten::softmax", Fn(softmax)),
    row("aten::special_log_softmax", Fn(log_softmax)),
    row("aten::special_softmax", Fn(softmax)),
];

/// The operand of a softmax: in the type that is asked for.
fn operand(cx: &mut Cx<'_, '_>) -> Result<(Value, usize), OpError> {
    let x = cx.tensor("self")?;
    let rank = cx.rank(x)?;
    let axis = cx.axis("dim", rank)?;
    let half_to_float = cx.flag("half_to_float")?;
    let dtype = if half_to_float { Some(DType::F32) } else { cx.dtype_arg("dtype")? };
    let x = match dtype {
        Some(dtype) => cx.b.cast(x, dtype)?,
        None => x,
    };
    // A tensor without axes is a row of one.
    Ok((if rank == 0 { cx.b.reshape(x, &[Dim::known(1)])? } else { x }, axis))
}

/// Applies a composite along an axis.
fn along(cx: &mut Cx<'_, '_>, op: impl FnOnce(usize) -> Composite) -> Results {
    let given = cx.tensor("self")?;
    let shape = cx.shape(given)?;
    let (x, axis) = operand(cx)?;
    let y = cx.b.add1(op(axis), &[x])?;
    let y = cx.b.reshape(y, &shape)?;
    one(y)
}

fn softmax(cx: &mut Cx<'_, '_>) -> Results {
    along(cx, |axis| Composite::Softmax { axis })
}

fn log_softmax(cx: &mut Cx<'_, '_>) -> Results {
    along(cx, |axis| Composite::LogSoftmax { axis })
}

/// Rows that are hidden whole are zeros.
fn safe_softmax(cx: &mut Cx<'_, '_>) -> Results {
    let (x, axis) = operand(cx)?;
    let weights = cx.b.softmax(x, axis)?;
    let dtype = cx.dtype(x)?;
    let top = cx.b.reduce(kiln_ir::op::ReduceKind::Max, x, &[axis], true)?;
    let hidden = cx.b.ew_with("is_inf", &[1.0, 0.0], &[top])?;
    let zero = cx.constant(dtype, 0.0)?;
    let y = cx.ew("where", &[hidden, zero, weights])?;
    one(y)
}

/// The last dim but `back`.
fn from_end(dims: &[Dim], back: usize) -> Dim {
    dims.len().checked_sub(back + 1).and_then(|i| dims.get(i)).cloned().unwrap_or(Dim::known(1))
}

/// `[..., L, D]` with exactly two leading axes: fewer are filled up, more are one.
fn four_axes(cx: &mut Cx<'_, '_>, v: Value) -> Result<Value, OpError> {
    let dims = cx.shape(v)?;
    let (l, d) = (from_end(&dims, 1), from_end(&dims, 0));
    let lead = dims.get(..dims.len().saturating_sub(2)).unwrap_or(&[]);
    let (batch, heads) = match lead {
        [] => (Dim::known(1), Dim::known(1)),
        [one] => (one.clone(), Dim::known(1)),
        [b, h] => (b.clone(), h.clone()),
        [many @ .., h] => (super::cx::product(many), h.clone()),
    };
    Ok(cx.b.reshape(v, &[batch, heads, l, d])?)
}

/// 0 where `keep` holds, else negative infinity.
pub(super) fn hide_unless(cx: &mut Cx<'_, '_>, keep: Value, dtype: DType) -> Result<Value, OpError> {
    let (zero, hidden) = (cx.constant(dtype, 0.0)?, cx.constant(dtype, f64::NEG_INFINITY)?);
    cx.ew("where", &[keep, zero, hidden])
}

fn attention(cx: &mut Cx<'_, '_>) -> Results {
    let (q, k, v) = (cx.tensor("query")?, cx.tensor("key")?, cx.tensor("value")?);
    let mask = cx.maybe_tensor("attn_mask")?;
    if cx.float("dropout_p")? > 0.0 {
        return Err(OpError::unsupported("dropout in attention"));
    }
    let heads = |dims: &[Dim]| from_end(dims, 2).as_known();
    let (of_query, of_key) = (heads(&cx.shape(q)?), heads(&cx.shape(k)?));
    let differ = of_query.is_some() && of_key.is_some_and(|n| n != 1) && of_query != of_key;
    if differ && !cx.flag("enable_gqa")? {
        return Err(OpError::invalid("query and key have different numbers of heads, enable_gqa is not set"));
    }
    let (causal, scale) = (cx.flag("is_causal")?, cx.maybe_float("scale")?);
    let y = attend(cx, [q, k, v], mask, causal, scale)?;
    one(y)
}

/// Scaled dot-product attention over any leading axes.
pub(super) fn attend(
    cx: &mut Cx<'_, '_>,
    [q, k, v]: [Value; 3],
    mask: Option<Value>,
    causal: bool,
    scale: Option<f64>,
) -> Result<Value, OpError> {
    let (q_dims, v_dims) = (cx.shape(q)?, cx.shape(v)?);
    let dtype = cx.dtype(q)?;
    let scale = match scale {
        Some(scale) => scale,
        None => {
            let size = from_end(&q_dims, 0).as_known().ok_or_else(|| unknown("query"))?;
            1.0 / (size as f64).sqrt()
        }
    };
    let bias = match mask {
        Some(mask) if cx.dtype(mask)? == DType::Bool => Some(hide_unless(cx, mask, dtype)?),
        Some(mask) => Some(cx.b.cast(mask, dtype)?),
        None => None,
    };
    let bias = match bias {
        Some(bias) if cx.rank(bias)? > 4 => Some(four_axes(cx, bias)?),
        Some(bias) if cx.rank(bias)? == 3 && q_dims.len() == 3 => {
            let mut dims = cx.shape(bias)?;
            dims.insert(1, Dim::known(1));
            Some(cx.b.reshape(bias, &dims)?)
        }
        other => other,
    };
    let (q4, k4, v4) = (four_axes(cx, q)?, four_axes(cx, k)?, four_axes(cx, v)?);
    let op = Composite::Attention {
        scale: Float::new(scale),
        mask: bias.is_some(),
        causal,
        causal_from_end: false,
        softcap: Float::new(0.0),
    };
    let operands: Vec<Value> = [q4, k4, v4].into_iter().chain(bias).collect();
    let y = cx.b.add1(op, &operands)?;
    let mut dims = q_dims;
    if let Some(slot) = dims.last_mut() {
        *slot = from_end(&v_dims, 0);
    }
    Ok(cx.b.reshape(y, &dims)?)
}
