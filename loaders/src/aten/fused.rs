//! Operators that PyTorch fuses for inference.

use kiln_ir::op::Composite;
use kiln_ir::{Build, DType, Dim, Float, Value};

use super::arg::Arg;
use super::attention::{attend, hide_unless};
use super::cx::{Cx, one};
use super::{How, Results, Row, row};
use crate::error::OpError;

use How::Fn;

#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    row("aten::_native_multi_head_attention", Fn(multi_head)),
    row("aten::_transformer_encoder_layer_fwd", Fn(encoder_layer)),
    row("aten::cpu", Fn(same)),
];

/// The operand itself: devices have no meaning here.
fn same(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    one(x)
}

/// `x` `[B, L, E]` by rows `from..from + size` of `w` `[F, E]`, plus those of `bias`.
fn projected(
    cx: &mut Cx<'_, '_>,
    x: Value,
    (w, bias): (Value, Value),
    from: &Dim,
    size: &Dim,
) -> Result<Value, OpError> {
    let w = cx.b.slice_axis(w, 0, from.clone(), size.clone())?;
    let bias = cx.b.slice_axis(bias, 0, from.clone(), size.clone())?;
    let y = cx.b.einsum("ble,fe->blf", x, w)?;
    Ok(cx.b.ew("add", &[y, bias])?)
}

/// How many rows a matrix has.
fn rows(cx: &Cx<'_, '_>, w: Value) -> Result<Dim, OpError> {
    cx.shape(w)?.first().cloned().ok_or_else(|| OpError::invalid("a scalar is no matrix"))
}

/// Attention of several heads with its projections, batch first. Without weights as a result.
fn multi_head(cx: &mut Cx<'_, '_>) -> Results {
    if cx.flag("need_weights")? {
        return Err(OpError::unsupported("weights as a result"));
    }
    let operands = [cx.tensor("query")?, cx.tensor("key")?, cx.tensor("value")?];
    let heads = cx.dim("num_head")?;
    let y = attended(cx, operands, &heads)?;
    Ok(vec![Arg::Tensor(y), Arg::None])
}

/// The additive form of the mask, over `[batch, heads, queries, keys]`. True hides: by query and key (`mask_type` 0), or
/// by batch and key (1).
fn hidden(cx: &mut Cx<'_, '_>, dtype: DType) -> Result<Option<Value>, OpError> {
    let Some(mask) = cx.maybe_tensor("mask")? else { return Ok(None) };
    let mask = match cx.dtype(mask)? {
        DType::Bool => {
            let keep = cx.ew("not", &[mask])?;
            hide_unless(cx, keep, dtype)?
        }
        _ => cx.b.cast(mask, dtype)?,
    };
    let (kind, dims) = (cx.maybe_int("mask_type")?, cx.shape(mask)?);
    let one = || Dim::known(1);
    let shape = match (kind, dims.as_slice()) {
        (Some(0), [queries, keys]) => [one(), one(), queries.clone(), keys.clone()],
        (Some(1), [batch, keys]) => [batch.clone(), one(), one(), keys.clone()],
        _ => return Err(OpError::unsupported("a mask that is neither of queries and keys nor of padding")),
    };
    Ok(Some(cx.b.reshape(mask, &shape)?))
}

/// Attention of `heads` with the projections `qkv` and `proj` of the call.
fn attended(cx: &mut Cx<'_, '_>, operands: [Value; 3], heads: &Dim) -> Result<Value, OpError> {
    let width = cx.dim("embed_dim")?;
    let each = width.exact_div(heads).ok_or_else(|| OpError::invalid("heads do not divide the width"))?;
    let weights = (cx.tensor("qkv_weight")?, cx.tensor("qkv_bias")?);
    let mut parts = vec![];
    for (i, x) in operands.into_iter().enumerate() {
        let from = &width * &Dim::known(i64::try_from(i).unwrap_or(0));
        let y = projected(cx, x, weights, &from, &width)?;
        let dims = cx.shape(y)?;
        let [batch, length, _] = dims.as_slice() else {
            return Err(OpError::invalid(format!("an operand has {} axes, not 3", dims.len())));
        };
        let split = [batch.clone(), length.clone(), heads.clone(), each.clone()];
        let y = cx.b.reshape(y, &split)?;
        parts.push((cx.b.transpose(y, &[0, 2, 1, 3])?, batch.clone(), length.clone()));
    }
    let [(q, batch, length), (k, ..), (v, ..)] = parts.as_slice() else {
        return Err(OpError::invalid("an operand is missing"));
    };
    let dtype = cx.dtype(*q)?;
    let mask = hidden(cx, dtype)?;
    let y = attend(cx, [*q, *k, *v], mask, false, None)?;
    let y = cx.b.transpose(y, &[0, 2, 1, 3])?;
    let y = cx.b.reshape(y, &[batch.clone(), length.clone(), width.clone()])?;
    let proj = (cx.tensor("proj_weight")?, cx.tensor("proj_bias")?);
    projected(cx, y, proj, &Dim::known(0), &width)
}

/// A whole layer of a transformer's encoder: attention, two dense layers, and normalizations before (`norm_first`) or after
/// each, batch first.
fn encoder_layer(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("src")?;
    let heads = cx.dim("num_heads")?;
    let first = cx.flag("norm_first")?;
    let gelu = cx.flag("use_gelu")?;
    let norm = |cx: &mut Cx<'_, '_>, x: Value, scale: &str, bias: &str| -> Result<Value, OpError> {
        let axis = cx.rank(x)?.saturating_sub(1);
        let epsilon = Float::new(cx.float("eps")?);
        let operands = [x, cx.tensor(scale)?, cx.tensor(bias)?];
        Ok(cx.b.add1(Composite::LayerNorm { axis, epsilon }, &operands)?)
    };
    let attend = |cx: &mut Cx<'_, '_>, x: Value| attended(cx, [x, x, x], &heads);
    let feed = |cx: &mut Cx<'_, '_>, x: Value| -> Result<Value, OpError> {
        let inner = (cx.tensor("ffn_weight_1")?, cx.tensor("ffn_bias_1")?);
        let outer = (cx.tensor("ffn_weight_2")?, cx.tensor("ffn_bias_2")?);
        let (wide, narrow) = (rows(cx, inner.0)?, rows(cx, outer.0)?);
        let y = projected(cx, x, inner, &Dim::known(0), &wide)?;
        let y = cx.ew(if gelu { "gelu" } else { "relu" }, &[y])?;
        projected(cx, y, outer, &Dim::known(0), &narrow)
    };
    let y = if first { norm(cx, x, "norm_weight_1", "norm_bias_1")? } else { x };
    let y = attend(cx, y)?;
    let mut x = cx.ew("add", &[y, x])?;
    if !first {
        x = norm(cx, x, "norm_weight_1", "norm_bias_1")?;
    }
    let y = if first { norm(cx, x, "norm_weight_2", "norm_bias_2")? } else { x };
    let y = feed(cx, y)?;
    x = cx.ew("add", &[y, x])?;
    if !first {
        x = norm(cx, x, "norm_weight_2", "norm_bias_2")?;
    }
    one(x)
}
