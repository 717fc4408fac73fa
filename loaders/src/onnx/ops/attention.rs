//! Attention and rotary embeddings.

use kiln_ir::op::{Composite, Contract, Index, Movement, PadMode, ReduceKind};
use kiln_ir::{Build, DType, Dim, Float, Tensor, Value};

use super::index::coordinate;
use super::norm::{over_their_sum, rounds_each_step};
use super::{How, Row, row};
use crate::onnx::cx::{Cx, OpError, Outputs, one};

use How::Fn;

pub(super) const ROWS: &[Row] =
    &[row("Attention", &[23, 24, 25], Fn(attention)), row("RotaryEmbedding", &[23], Fn(rotary))];

pub(super) fn last(dims: &[Dim]) -> Dim {
    dims.last().cloned().unwrap_or(Dim::known(1))
}

pub(super) fn at(dims: &[Dim], axis: usize) -> Dim {
    dims.get(axis).cloned().unwrap_or(Dim::known(1))
}

/// `[B, L, H * D]` as `[B, H, L, D]`.
pub(super) fn split_heads(cx: &mut Cx<'_, '_, '_>, v: Value, heads: i64) -> Result<Value, OpError> {
    let dims = cx.shape(v)?;
    let h = Dim::known(heads);
    let size = last(&dims).floor_div(&h);
    let split = cx.b.reshape(v, &[at(&dims, 0), at(&dims, 1), h, size])?;
    Ok(cx.b.transpose(split, &[0, 2, 1, 3])?)
}

/// `[B, H, L, D]` as `[B, L, H * D]`.
pub(super) fn merge_heads(cx: &mut Cx<'_, '_, '_>, v: Value) -> Result<Value, OpError> {
    let moved = cx.b.transpose(v, &[0, 2, 1, 3])?;
    let dims = cx.shape(moved)?;
    Ok(cx.b.reshape(moved, &[at(&dims, 0), at(&dims, 1), at(&dims, 2) * at(&dims, 3)])?)
}

/// The operands of one attention, `[B, H, L, D]`, and what it depends on.
struct Parts {
    q: Value,
    k: Value,
    v: Value,
    /// Length of the keys that came before.
    past: Dim,
    /// How many keys each sample has, i64 `[B, 1, 1, 1]`, where the cache is kept outside: its last query then stands at
    /// the last of them.
    lengths: Option<Value>,
    /// Most keys to the left and to the right of a query that it sees.
    window: [Option<i64>; 2],
    bias: Option<Value>,
    scale: f64,
    softcap: f64,
}

fn attention(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let [mut q, mut k, mut v] = [cx.input(0)?, cx.input(1)?, cx.input(2)?];
    let merged = cx.rank(q)? == 3;
    if merged {
        let heads = (cx.attrs.required_int("q_num_heads")?, cx.attrs.required_int("kv_num_heads")?);
        if heads.0 <= 0 || heads.1 <= 0 {
            return Err(OpError::invalid("numbers of heads must be positive"));
        }
        q = split_heads(cx, q, heads.0)?;
        k = split_heads(cx, k, heads.1)?;
        v = split_heads(cx, v, heads.1)?;
    }
    let mut past = Dim::known(0);
    if let (Some(past_k), Some(past_v)) = (cx.optional(4), cx.optional(5)) {
        past = at(&cx.shape(past_k)?, 2);
        k = cx.b.concat(&[past_k, k], 2)?;
        v = cx.b.concat(&[past_v, v], 2)?;
    }
    let scale = match cx.attrs.float("scale")? {
        Some(scale) => scale,
        None => {
            let size = last(&cx.shape(q)?);
            let size = size.as_known().ok_or_else(|| OpError::unsupported("an unknown head size"))?;
            1.0 / (size as f64).sqrt()
        }
    };
    let softcap = cx.attrs.float_or("softcap", 0.0)?;
    let lengths = key_lengths(cx)?;
    let bias = explicit_bias(cx, q, k, lengths)?;
    let causal = cx.attrs.flag("is_causal", false)?;
    let lengths = lengths.filter(|_| cx.optional(4).is_none());
    let side = |cx: &Cx<'_, '_, '_>, name| match cx.attrs.int_or(name, -1)? {
        -1 => Ok(None),
        size if size >= 0 => Ok(Some(size)),
        size => Err(OpError::invalid(format!("{name} {size}"))),
    };
    let window = [side(cx, "left_window_size")?, side(cx, "right_window_size")?];
    let mut parts = Parts { q, k, v, past, lengths, window, bias, scale, softcap };
    if let Some(hidden) = window_bias(cx, &parts)? {
        parts.bias = Some(sum(cx, parts.bias, hidden)?);
    }
    let in_steps = rounds_each_step(cx.dtype(parts.q)?, &at(&cx.shape(parts.k)?, 2));
    let (mut y, scores) = if cx.wants(3) || in_steps {
        let (y, scores) = composed(cx, &parts, causal)?;
        (y, cx.wants(3).then_some(scores))
    } else {
        (composite(cx, &parts, causal)?, None)
    };
    if merged {
        y = merge_heads(cx, y)?;
    }
    Ok([Some(y), Some(k), Some(v), scores].into_iter().flatten().collect())
}

/// The sum of two additive masks.
fn sum(cx: &mut Cx<'_, '_, '_>, bias: Option<Value>, more: Value) -> Result<Value, OpError> {
    Ok(match bias {
        Some(bias) => cx.b.ew("add", &[bias, more])?,
        None => more,
    })
}

/// The operand `nonpad_kv_seqlen` as i64 `[B, 1, 1, 1]`.
fn key_lengths(cx: &mut Cx<'_, '_, '_>) -> Result<Option<Value>, OpError> {
    let Some(lengths) = cx.optional(6) else { return Ok(None) };
    let batch = at(&cx.shape(lengths)?, 0);
    let lengths = cx.b.cast(lengths, DType::I64)?;
    Ok(Some(cx.b.reshape(lengths, &[batch, Dim::known(1), Dim::known(1), Dim::known(1)])?))
}

/// The additive mask that the operands `attn_mask` and `nonpad_kv_seqlen` give.
fn explicit_bias(
    cx: &mut Cx<'_, '_, '_>,
    q: Value,
    k: Value,
    lengths: Option<Value>,
) -> Result<Option<Value>, OpError> {
    let dtype = cx.dtype(q)?;
    let keys = at(&cx.shape(k)?, 2);
    let mut bias = None;
    if let Some(mut mask) = cx.optional(3) {
        let is_bool = cx.dtype(mask)? == DType::Bool;
        mask = as_long_as(cx, mask, &keys)?;
        bias = Some(if is_bool { hide_unless(cx, mask, dtype)? } else { cx.b.cast(mask, dtype)? });
    }
    if let Some(lengths) = lengths {
        let position = coordinate(cx, &keys, 3, 4)?;
        let inside = cx.b.ew("lt", &[position, lengths])?;
        let padding = hide_unless(cx, inside, dtype)?;
        bias = Some(sum(cx, bias, padding)?);
    }
    Ok(bias)
}

/// A mask whose last axis is as long as the keys: those beyond its end are hidden.
fn as_long_as(cx: &mut Cx<'_, '_, '_>, mask: Value, keys: &Dim) -> Result<Value, OpError> {
    let mut dims = cx.shape(mask)?;
    let short = keys - &last(&dims);
    if dims.is_empty() || short.as_known().is_some_and(|n| n <= 0) {
        return Ok(mask);
    }
    let dtype = cx.dtype(mask)?;
    let fill = match dtype {
        DType::Bool => cx.b.constant(Tensor::from_bools(&[], &[false])?)?,
        other => cx.b.scalar(other, f64::NEG_INFINITY)?,
    };
    let before = vec![Dim::known(0); dims.len()];
    let mut after = before.clone();
    if let Some(slot) = after.last_mut() {
        *slot = short.greater(&Dim::known(0));
    }
    let pad = Movement::Pad { mode: PadMode::Constant, before, after };
    let padded = cx.b.add1(pad, &[mask, fill])?;
    // Unless sizes are constant, the sum of mask and padding is another expression than that of the keys. A mask that
    // turns out longer than the keys fails here.
    if let Some(slot) = dims.last_mut() {
        *slot = keys.clone();
    }
    Ok(if cx.shape(padded)? == dims { padded } else { cx.b.reshape(padded, &dims)? })
}

/// 0 where `keep` holds, else negative infinity.
pub(super) fn hide_unless(cx: &mut Cx<'_, '_, '_>, keep: Value, dtype: DType) -> Result<Value, OpError> {
    let (zero, hidden) = (cx.b.scalar(dtype, 0.0)?, cx.b.scalar(dtype, f64::NEG_INFINITY)?);
    Ok(cx.b.ew("where", &[keep, zero, hidden])?)
}

/// Positions of the queries among the keys, `[L, 1]` or, by sample, `[B, 1, L, 1]`, and of the keys.
fn positions(cx: &mut Cx<'_, '_, '_>, parts: &Parts) -> Result<(Value, Value), OpError> {
    let (queries, keys) = (at(&cx.shape(parts.q)?, 2), at(&cx.shape(parts.k)?, 2));
    let (row, column) = (coordinate(cx, &queries, 0, 2)?, coordinate(cx, &keys, 1, 2)?);
    let offset = match parts.lengths {
        Some(lengths) => {
            let queries = cx.b.dims(std::slice::from_ref(&queries))?;
            cx.b.ew("sub", &[lengths, queries])?
        }
        None => cx.b.dims(std::slice::from_ref(&parts.past))?,
    };
    Ok((cx.b.ew("add", &[row, offset])?, column))
}

/// The additive mask that hides later keys.
fn causal_bias(cx: &mut Cx<'_, '_, '_>, parts: &Parts) -> Result<Value, OpError> {
    let (limit, column) = positions(cx, parts)?;
    let keep = cx.b.ew("le", &[column, limit])?;
    let dtype = cx.dtype(parts.q)?;
    hide_unless(cx, keep, dtype)
}

/// The additive mask that hides keys outside of a query's window.
fn window_bias(cx: &mut Cx<'_, '_, '_>, parts: &Parts) -> Result<Option<Value>, OpError> {
    let mut keep = None;
    for (size, flip) in parts.window.into_iter().zip([false, true]) {
        let Some(size) = size else { continue };
        let (query, key) = positions(cx, parts)?;
        let distance = cx.b.ew("sub", &if flip { [key, query] } else { [query, key] })?;
        let size = cx.b.constant(Tensor::scalar(size))?;
        let near = cx.b.ew("le", &[distance, size])?;
        keep = Some(match keep {
            Some(keep) => cx.b.ew("and", &[keep, near])?,
            None => near,
        });
    }
    let dtype = cx.dtype(parts.q)?;
    keep.map(|keep| hide_unless(cx, keep, dtype)).transpose()
}

/// Attention by the composite operator.
fn composite(cx: &mut Cx<'_, '_, '_>, parts: &Parts, causal: bool) -> Result<Value, OpError> {
    let (queries, keys) = (at(&cx.shape(parts.q)?, 2), at(&cx.shape(parts.k)?, 2));
    let from_end = &keys - &queries == parts.past;
    let by_flag = causal && parts.lengths.is_none() && (from_end || parts.past.as_known() == Some(0));
    let mut bias = parts.bias;
    if causal && !by_flag {
        let hidden = causal_bias(cx, parts)?;
        bias = Some(sum(cx, bias, hidden)?);
    }
    let op = Composite::Attention {
        scale: Float::new(parts.scale),
        mask: bias.is_some(),
        causal: by_flag,
        causal_from_end: by_flag && parts.past.as_known() != Some(0),
        softcap: Float::new(parts.softcap),
    };
    let operands: Vec<Value> = [parts.q, parts.k, parts.v].into_iter().chain(bias).collect();
    Ok(cx.b.add1(op, &operands)?)
}

/// Attention step by step, for the scores that `qk_matmul_output_mode` asks for.
fn composed(cx: &mut Cx<'_, '_, '_>, parts: &Parts, causal: bool) -> Result<(Value, Value), OpError> {
    let (q_dims, k_dims) = (cx.shape(parts.q)?, cx.shape(parts.k)?);
    let dtype = cx.dtype(parts.q)?;
    let [b, h, l, d] = [at(&q_dims, 0), at(&q_dims, 1), at(&q_dims, 2), at(&q_dims, 3)];
    let (g, s) = (at(&k_dims, 1), at(&k_dims, 2));
    let repeat = h.floor_div(&g);
    let in_steps = rounds_each_step(dtype, &s);
    let (mut q, mut k) = (parts.q, parts.k);
    if in_steps {
        // As the text has it: where factors are rounded, it shows that both have a root of the scale.
        let root = cx.b.scalar(dtype, parts.scale.sqrt())?;
        (q, k) = (cx.b.ew("mul", &[q, root])?, cx.b.ew("mul", &[k, root])?);
    }
    let grouped = cx.b.reshape(q, &[b.clone(), g.clone(), repeat.clone(), l.clone(), d])?;
    let spec = "bgrld,bgsd->bgrls".parse().map_err(OpError::Invalid)?;
    let scores = cx.b.add1(Contract::Einsum { spec, out: dtype }, &[grouped, k])?;
    let mut scores = cx.b.reshape(scores, &[b.clone(), h, l.clone(), s.clone()])?;
    if !in_steps {
        let scale = cx.b.scalar(dtype, parts.scale)?;
        scores = cx.b.ew("mul", &[scores, scale])?;
    }
    if parts.softcap > 0.0 {
        let cap = cx.b.scalar(dtype, parts.softcap)?;
        scores = cx.b.ew("div", &[scores, cap])?;
        scores = cx.b.ew("tanh", &[scores])?;
        scores = cx.b.ew("mul", &[scores, cap])?;
    }
    let mut masked = scores;
    if let Some(bias) = parts.bias {
        masked = cx.b.ew("add", &[masked, bias])?;
    }
    if causal {
        let hidden = causal_bias(cx, parts)?;
        masked = cx.b.ew("add", &[masked, hidden])?;
    }
    let precision = cx.attrs.dtype("softmax_precision")?.unwrap_or(dtype);
    let wide = cx.b.cast(masked, precision)?;
    let weights = masked_softmax(cx, wide)?;
    let weights = cx.b.cast(weights, dtype)?;
    let split = cx.b.reshape(weights, &[b, g, repeat, l, s])?;
    let spec = "bgrls,bgse->bgrle".parse().map_err(OpError::Invalid)?;
    let y = cx.b.add1(Contract::Einsum { spec, out: dtype }, &[split, parts.v])?;
    let y_dims = cx.shape(y)?;
    let y =
        cx.b.reshape(y, &[at(&y_dims, 0), at(&y_dims, 1) * at(&y_dims, 2), at(&y_dims, 3), at(&y_dims, 4)])?;
    let shown = match cx.attrs.int_or("qk_matmul_output_mode", 0)? {
        0 | 1 => scores,
        2 => masked,
        3 => weights,
        mode => return Err(OpError::invalid(format!("qk_matmul_output_mode {mode}"))),
    };
    Ok((y, shown))
}

/// Softmax along the last of four axes; zeros where every score is hidden, as the composite has it.
fn masked_softmax(cx: &mut Cx<'_, '_, '_>, scores: Value) -> Result<Value, OpError> {
    let max = cx.b.reduce(ReduceKind::Max, scores, &[3], true)?;
    let hidden = cx.b.ew_with("is_inf", &[1.0, 0.0], &[max])?;
    let dtype = cx.dtype(scores)?;
    let zero = cx.b.scalar(dtype, 0.0)?;
    let weights = if rounds_each_step(dtype, &last(&cx.shape(scores)?)) {
        let max = cx.b.ew("where", &[hidden, zero, max])?;
        let shifted = cx.b.ew("sub", &[scores, max])?;
        let e = cx.b.ew("exp", &[shifted])?;
        over_their_sum(cx, e, 3)?
    } else {
        cx.b.softmax(scores, 3)?
    };
    Ok(cx.b.ew("where", &[hidden, zero, weights])?)
}

/// Operands of a rotary embedding.
struct Rotation {
    x: Value,
    cos: Value,
    sin: Value,
    positions: Option<Value>,
}

fn rotate(cx: &mut Cx<'_, '_, '_>, parts: Rotation) -> Outputs {
    let Rotation { mut x, mut cos, mut sin, positions } = parts;
    let merged = cx.rank(x)? == 3;
    if merged {
        let heads = cx.attrs.int_or("num_heads", 0)?;
        if heads <= 0 {
            return Err(OpError::invalid("attribute `num_heads` is needed for an operand of rank 3"));
        }
        x = split_heads(cx, x, heads)?;
    }
    if let Some(positions) = positions {
        cos = cx.b.add1(Index::Gather { axis: 0 }, &[cos, positions])?;
        sin = cx.b.add1(Index::Gather { axis: 0 }, &[sin, positions])?;
    }
    let interleaved = cx.attrs.flag("interleaved", false)?;
    let rotary_dim = match cx.attrs.int_or("rotary_embedding_dim", 0)? {
        0 => last(&cx.shape(x)?).as_known().unwrap_or(0),
        dim => dim,
    };
    let y = cx.b.add1(Composite::Rope { interleaved, rotary_dim }, &[x, cos, sin])?;
    one(if merged { merge_heads(cx, y)? } else { y })
}

fn rotary(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (x, cos, sin) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let positions = cx.optional(3);
    rotate(cx, Rotation { x, cos, sin, positions })
}
