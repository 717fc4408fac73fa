//! Normalizations, with the sums that stand before them.

use kiln_ir::op::{Composite, Index, ReduceKind};
use kiln_ir::{Build, DType, Dim, Float, Value};

use super::super::norm::{moments, rms_norm, zeros_like};
use super::super::{MICROSOFT, Row, row_of};
use super::{at, last, only, plus, widened, with_scalar};
use crate::onnx::cx::{Cx, OpError, Outputs, one};

pub(in super::super) const ROWS: &[Row] = &[
    row_of(MICROSOFT, "BranchwiseRMSNorm", branchwise_rms_norm),
    row_of(MICROSOFT, "EmbedLayerNormalization", embed_layer_norm),
    row_of(MICROSOFT, "EngramGate", engram_gate),
    row_of(MICROSOFT, "GatedRMSNorm", gated_rms_norm),
    row_of(MICROSOFT, "GroupNorm", group_norm),
    row_of(MICROSOFT, "QEmbedLayerNormalization", quantized_embed_layer_norm),
    row_of(MICROSOFT, "SimplifiedLayerNormalization", simplified_layer_norm),
    row_of(MICROSOFT, "SkipGroupNorm", skip_group_norm),
    row_of(MICROSOFT, "SkipLayerNormalization", skip_layer_norm),
    row_of(MICROSOFT, "SkipSimplifiedLayerNormalization", skip_rms_norm),
];

/// The sum of operand, skip and bias.
fn skip_sum(cx: &mut Cx<'_, '_, '_>, bias: usize) -> Result<Value, OpError> {
    let (x, skip) = (cx.input(0)?, cx.input(1)?);
    let sum = cx.b.ew("add", &[x, skip])?;
    let bias = cx.optional(bias);
    plus(cx, sum, bias)
}

fn epsilon(cx: &Cx<'_, '_, '_>, default: f32) -> Result<Float, OpError> {
    Ok(Float::new(cx.attrs.float_or("epsilon", default)?))
}

/// Operands x, skip, gamma, beta, bias; results y, mean, inverse deviation, sum. Computed in f32 for narrower floats.
fn skip_layer_norm(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let sum = skip_sum(cx, 4)?;
    let scale = cx.input(2)?;
    let epsilon = epsilon(cx, 1e-12)?;
    let bias = match cx.optional(3) {
        Some(bias) => bias,
        None => zeros_like(cx, scale)?,
    };
    let axis = cx.axis(-1, cx.rank(sum)?)?;
    let y = cx.b.add1(Composite::LayerNorm { axis, epsilon }, &[sum, scale, bias])?;
    let (mean, inverse) = if cx.wants(1) || cx.wants(2) { moments(cx, sum, axis, epsilon)? } else { (y, y) };
    Ok(vec![y, mean, inverse, sum])
}

/// Operands x, skip, gamma, bias.
fn skip_rms_norm(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let sum = skip_sum(cx, 3)?;
    let scale = cx.input(2)?;
    let epsilon = epsilon(cx, 1e-12)?;
    let axis = cx.axis(-1, cx.rank(sum)?)?;
    let y = cx.b.add1(Composite::RmsNorm { axis, epsilon }, &[sum, scale])?;
    if cx.wants(1) || cx.wants(2) {
        return Err(OpError::unsupported("results `mean` and `inv_std_var`, which are for training"));
    }
    Ok(vec![y, y, y, sum])
}

/// RMS normalization with the inverse root as a second result.
fn simplified_layer_norm(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    only(cx, "stash_type", 1)?;
    let mut results = rms_norm(cx)?;
    if cx.wants(1) {
        let x = cx.input(0)?;
        let x = widened(cx, x)?;
        let axis = cx.attrs.int_or("axis", -1)?;
        let axis = cx.axis(axis, cx.rank(x)?)?;
        let axes: Vec<usize> = (axis..cx.rank(x)?).collect();
        let squares = cx.b.ew("square", &[x])?;
        let mean = cx.b.reduce(ReduceKind::Mean, squares, &axes, true)?;
        let epsilon = epsilon(cx, 1e-5)?;
        let shifted = with_scalar(cx, "add", mean, epsilon.get())?;
        let inverse = cx.b.ew("rsqrt", &[shifted])?;
        results.push(cx.b.cast(inverse, DType::F32)?);
    }
    Ok(results)
}

/// The embeddings of a BERT model: words, positions and segments, each looked up.
struct Embeddings {
    words: Value,
    positions: Value,
    segments: Option<Value>,
    gamma: Value,
    beta: Value,
    mask: Option<Value>,
}

/// Results: normalized sum, number of words of each sample, sum.
fn embed(cx: &mut Cx<'_, '_, '_>, parts: &Embeddings, position_ids: Option<Value>) -> Outputs {
    let ids = cx.input(0)?;
    let dims = cx.shape(ids)?;
    let mut sum = cx.b.add1(Index::Gather { axis: 0 }, &[parts.words, ids])?;
    let positions = match position_ids {
        Some(ids) => cx.b.add1(Index::Gather { axis: 0 }, &[parts.positions, ids])?,
        None => cx.b.slice_axis(parts.positions, 0, Dim::known(0), at(&dims, 1))?,
    };
    sum = cx.b.ew("add", &[sum, positions])?;
    if let (Some(segments), Some(ids)) = (parts.segments, cx.optional(1)) {
        let segments = cx.b.add1(Index::Gather { axis: 0 }, &[segments, ids])?;
        sum = cx.b.ew("add", &[sum, segments])?;
    }
    let epsilon = epsilon(cx, 1e-12)?;
    let y = cx.b.add1(Composite::LayerNorm { axis: 2, epsilon }, &[sum, parts.gamma, parts.beta])?;
    let count = match parts.mask {
        Some(mask) => {
            let dtype = cx.dtype(mask)?;
            let unit = cx.b.scalar(dtype, 1.0)?;
            let real = cx.b.ew("eq", &[mask, unit])?;
            let real = cx.b.cast(real, DType::I32)?;
            cx.b.reduce(ReduceKind::Sum, real, &[1], false)?
        }
        None => {
            let zero = cx.b.scalar(DType::I32, 0.0)?;
            cx.b.broadcast(zero, &[at(&dims, 0)])?
        }
    };
    Ok(vec![y, count, sum])
}

/// Operands input ids, segment ids, word, position and segment embeddings, gamma, beta, mask, position ids.
fn embed_layer_norm(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    cx.attrs.int("mask_index_type")?;
    let parts = Embeddings {
        words: cx.input(2)?,
        positions: cx.input(3)?,
        segments: cx.optional(4),
        gamma: cx.input(5)?,
        beta: cx.input(6)?,
        mask: cx.optional(7),
    };
    let position_ids = cx.optional(8);
    embed(cx, &parts, position_ids)
}

/// The same with quantized tables: scales are operands 8 to 12, zero points operands 13 to 17.
fn quantized_embed_layer_norm(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let real = |cx: &mut Cx<'_, '_, '_>, table: usize, slot: usize| {
        let Some(v) = cx.optional(table) else { return Ok(None) };
        let (scale, zero) = (cx.input(8 + slot)?, cx.input(13 + slot)?);
        super::qlinear::real(cx, v, scale, Some(zero)).map(Some)
    };
    let missing = || OpError::invalid("an embedding is missing");
    let parts = Embeddings {
        words: real(cx, 2, 0)?.ok_or_else(missing)?,
        positions: real(cx, 3, 1)?.ok_or_else(missing)?,
        segments: real(cx, 4, 2)?,
        gamma: real(cx, 5, 3)?.ok_or_else(missing)?,
        beta: real(cx, 6, 4)?.ok_or_else(missing)?,
        mask: cx.optional(7),
    };
    let mut results = embed(cx, &parts, None)?;
    results.truncate(2);
    Ok(results)
}

/// `[..., C * H]` as `[..., C, H]`; the operand as it is where it has that form already.
pub(super) fn branches(cx: &mut Cx<'_, '_, '_>, x: Value) -> Result<Value, OpError> {
    match cx.attrs.int_or("num_branches", 0)? {
        0 => Ok(x),
        count if count > 0 => {
            let mut dims = cx.shape(x)?;
            let total = dims.pop().ok_or_else(|| OpError::invalid("the operand has no axes"))?;
            let count = Dim::known(count);
            let size = total.floor_div(&count);
            dims.extend([count, size]);
            Ok(cx.b.reshape(x, &dims)?)
        }
        count => Err(OpError::invalid(format!("num_branches {count}"))),
    }
}

/// `x` over its root mean square along the last axis, in f32.
fn root_mean_square(cx: &mut Cx<'_, '_, '_>, x: Value, epsilon: Float) -> Result<Value, OpError> {
    let x = cx.b.cast(x, DType::F32)?;
    let rank = cx.rank(x)?;
    let size = last(&cx.shape(x)?);
    let unit = cx.b.scalar(DType::F32, 1.0)?;
    let scale = cx.b.broadcast(unit, &[size])?;
    Ok(cx.b.add1(Composite::RmsNorm { axis: rank.saturating_sub(1), epsilon }, &[x, scale])?)
}

fn branchwise_rms_norm(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let (dtype, shape) = (cx.dtype(x)?, cx.shape(x)?);
    let epsilon = epsilon(cx, 1e-5)?;
    let grouped = branches(cx, x)?;
    let dims = cx.shape(grouped)?;
    let mut y = root_mean_square(cx, grouped, epsilon)?;
    if let Some(scale) = cx.optional(1) {
        let mut scale = cx.b.cast(scale, DType::F32)?;
        let form = cx.shape(scale)?;
        if let ([all], [.., count, size]) = (form.as_slice(), dims.as_slice())
            && all != size
        {
            scale = cx.b.reshape(scale, &[count.clone(), size.clone()])?;
        }
        y = cx.b.ew("mul", &[y, scale])?;
    }
    let y = cx.b.reshape(y, &shape)?;
    one(cx.b.cast(y, dtype)?)
}

/// Normalizes groups of as many elements as `scale` has along the last axis, then multiplies by an activation of `gate`.
fn gated_rms_norm(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (x, scale, gate) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let epsilon = epsilon(cx, 1e-5)?;
    let (dtype, shape) = (cx.dtype(x)?, cx.shape(x)?);
    let size = last(&cx.shape(scale)?);
    let mut grouped = shape.clone();
    let total = grouped.pop().ok_or_else(|| OpError::invalid("the operand has no axes"))?;
    grouped.extend([total.floor_div(&size), size]);
    let x = cx.b.reshape(x, &grouped)?;
    let x = cx.b.cast(x, DType::F32)?;
    let scale = cx.b.cast(scale, DType::F32)?;
    let axis = grouped.len() - 1;
    let y = cx.b.add1(Composite::RmsNorm { axis, epsilon }, &[x, scale])?;
    let y = cx.b.reshape(y, &shape)?;
    let gate = cx.b.cast(gate, DType::F32)?;
    let gate = match cx.attrs.string_or("activation", "silu")?.as_str() {
        "silu" | "swish" => cx.b.ew_with("silu", &[1.0], &[gate])?,
        "sigmoid" => cx.b.ew("sigmoid", &[gate])?,
        other => return Err(OpError::invalid(format!("activation `{other}`"))),
    };
    let y = cx.b.ew("mul", &[y, gate])?;
    one(cx.b.cast(y, dtype)?)
}

/// Operands key, query, value, scales of key and query, and of the second result.
fn engram_gate(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (key, query, value) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let epsilon = epsilon(cx, 1e-5)?;
    let (dtype, dims) = (cx.dtype(key)?, cx.shape(key)?);
    let mut normed = vec![];
    for (x, i) in [(key, 3), (query, 4)] {
        let y = root_mean_square(cx, x, epsilon)?;
        let scale = cx.input(i)?;
        let scale = cx.b.cast(scale, DType::F32)?;
        normed.push(cx.b.ew("mul", &[y, scale])?);
    }
    let products = cx.b.ew("mul", &normed)?;
    let dot = cx.b.reduce(ReduceKind::Sum, products, &[3], true)?;
    let size = cx.b.dims(&[last(&dims)])?;
    let size = cx.b.cast(size, DType::F32)?;
    let root = cx.b.ew("sqrt", &[size])?;
    let dot = cx.b.ew("div", &[dot, root])?;
    let magnitude = cx.b.ew("abs", &[dot])?;
    let magnitude = with_scalar(cx, "max", magnitude, 1e-6)?;
    let magnitude = cx.b.ew("sqrt", &[magnitude])?;
    let sign = cx.b.ew("sign", &[dot])?;
    let signed = cx.b.ew("mul", &[sign, magnitude])?;
    let gate = cx.b.ew("sigmoid", &[signed])?;
    let value = cx.b.cast(value, DType::F32)?;
    let value = cx.b.reshape(value, &[at(&dims, 0), at(&dims, 1), Dim::known(1), last(&dims)])?;
    let gated = cx.b.ew("mul", &[gate, value])?;
    let y = cx.b.cast(gated, dtype)?;
    if !cx.wants(1) {
        return one(y);
    }
    let scale = cx.input(5)?;
    let scale = cx.b.cast(scale, DType::F32)?;
    let normed = root_mean_square(cx, gated, epsilon)?;
    let normed = cx.b.ew("mul", &[normed, scale])?;
    Ok(vec![y, cx.b.cast(normed, dtype)?])
}

/// Group normalization of images with channels last, unless the attribute says first.
fn normalized_groups(cx: &mut Cx<'_, '_, '_>, x: Value) -> Result<Value, OpError> {
    let groups = cx.attrs.required_int("groups")?;
    let epsilon = epsilon(cx, 1e-5)?;
    let dtype = cx.dtype(x)?;
    let mut operands = [x, cx.input(1)?, cx.input(2)?];
    for v in &mut operands {
        *v = cx.b.cast(*v, DType::F32)?;
    }
    let rank = cx.rank(x)?;
    let channels_last = cx.attrs.flag("channels_last", true)?;
    if channels_last {
        let mut order: Vec<usize> = (0..rank.saturating_sub(1)).collect();
        order.insert(1.min(order.len()), rank.saturating_sub(1));
        operands[0] = cx.b.transpose(operands[0], &order)?;
    }
    let mut y = cx.b.add1(Composite::GroupNorm { groups, epsilon }, &operands)?;
    if channels_last {
        let mut order: Vec<usize> = (2..rank).collect();
        order.insert(0, 0);
        order.push(1);
        y = cx.b.transpose(y, &order)?;
    }
    if cx.attrs.required_int("activation")? == 1 {
        y = cx.b.ew_with("silu", &[1.0], &[y])?;
    }
    Ok(cx.b.cast(y, dtype)?)
}

fn group_norm(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    one(normalized_groups(cx, x)?)
}

/// Operands x, gamma, beta, skip, bias; results y, sum. The skip may have one row for an image.
fn skip_group_norm(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (x, mut skip) = (cx.input(0)?, cx.input(3)?);
    let dims = cx.shape(x)?;
    let channels_last = cx.attrs.flag("channels_last", true)?;
    let unit = Dim::known(1);
    if cx.rank(skip)? == 2 {
        let form = match channels_last {
            true => [at(&dims, 0), unit.clone(), unit.clone(), last(&dims)],
            false => [at(&dims, 0), at(&dims, 1), unit.clone(), unit.clone()],
        };
        skip = cx.b.reshape(skip, &form)?;
    }
    let sum = cx.b.ew("add", &[x, skip])?;
    let mut bias = cx.optional(4);
    if let (Some(v), false) = (bias, channels_last) {
        bias = Some(cx.b.reshape(v, &[at(&dims, 1), unit.clone(), unit])?);
    }
    let sum = plus(cx, sum, bias)?;
    Ok(vec![normalized_groups(cx, sum)?, sum])
}
