//! Operators that PyTorch fuses for inference.

use kiln_ir::{Build, Dim, Value};

use super::arg::Arg;
use super::attention::attend;
use super::cx::{Cx, one};
use super::{How, Results, Row, row};
use crate::error::OpError;

use How::Fn;

#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    row("aten::_native_multi_head_attention", Fn(multi_head)),
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

/// Attention of several heads with its projections, batch first. Without a mask, and without weights as a result.
fn multi_head(cx: &mut Cx<'_, '_>) -> Results {
    if cx.maybe_tensor("mask")?.is_some() || cx.flag("need_weights")? {
        return Err(OpError::unsupported("a mask, or weights as a result"));
    }
    let width = cx.dim("embed_dim")?;
    let heads = cx.dim("num_head")?;
    let each = width.exact_div(&heads).ok_or_else(|| OpError::invalid("heads do not divide the width"))?;
    let weights = (cx.tensor("qkv_weight")?, cx.tensor("qkv_bias")?);
    let mut parts = vec![];
    for (i, name) in ["query", "key", "value"].into_iter().enumerate() {
        let x = cx.tensor(name)?;
        let from = &width * &Dim::known(i64::try_from(i).unwrap_or(0));
        let y = projected(cx, x, weights, &from, &width)?;
        let dims = cx.shape(y)?;
        let [batch, length, _] = dims.as_slice() else {
            return Err(OpError::invalid(format!("`{name}` has {} axes, not 3", dims.len())));
        };
        let split = [batch.clone(), length.clone(), heads.clone(), each.clone()];
        let y = cx.b.reshape(y, &split)?;
        parts.push((cx.b.transpose(y, &[0, 2, 1, 3])?, batch.clone(), length.clone()));
    }
    let [(q, batch, length), (k, ..), (v, ..)] = parts.as_slice() else {
        return Err(OpError::invalid("an operand is missing"));
    };
    let y = attend(cx, [*q, *k, *v], None, false, None)?;
    let y = cx.b.transpose(y, &[0, 2, 1, 3])?;
    let y = cx.b.reshape(y, &[batch.clone(), length.clone(), width.clone()])?;
    let proj = (cx.tensor("proj_weight")?, cx.tensor("proj_bias")?);
    let y = projected(cx, y, proj, &Dim::known(0), &width)?;
    Ok(vec![Arg::Tensor(y), Arg::None])
}
