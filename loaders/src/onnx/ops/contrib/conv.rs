//! Convolutions and pools with other layouts, activations and operands than those of the default domain.

use kiln_ir::op::{Conv, Index, Layout, Movement, PadMode, ReduceKind};
use kiln_ir::{Build, DType, Dim, Tensor, Value};

use super::super::conv::{add_bias, centred, conv_of, conv_transpose_with, forward, per_channel, requantize};
use super::super::pool::max_pool_of;
use super::super::{MICROSOFT, Row, row_of};
use super::{Activation, at, known_size, last, only, product};
use crate::onnx::cx::{Cx, OpError, Outputs, one};

pub(in super::super) const ROWS: &[Row] = &[
    row_of(MICROSOFT, "CausalConvWithState", causal_conv),
    row_of(MICROSOFT, "ConvTransposeWithDynamicPads", conv_transpose_with_dynamic_pads),
    row_of(MICROSOFT, "FusedConv", |cx| fused_conv(cx, false)),
    row_of(MICROSOFT, "MaxpoolWithMask", max_pool_with_mask),
    row_of(MICROSOFT, "NhwcConv", |cx| fused_conv(cx, true)),
    row_of(MICROSOFT, "NhwcFusedConv", |cx| fused_conv(cx, true)),
    row_of(MICROSOFT, "NhwcMaxPool", nhwc_max_pool),
    row_of(MICROSOFT, "QLinearConv", qlinear_conv),
    row_of(MICROSOFT, "WordConvEmbedding", word_conv_embedding),
];

/// `[N, spatial..., C]` as `[N, C, spatial...]`.
pub(super) fn channels_first(cx: &mut Cx<'_, '_, '_>, v: Value) -> Result<Value, OpError> {
    let rank = cx.rank(v)?;
    let Some(last) = rank.checked_sub(1).filter(|&l| l > 0) else {
        return Err(OpError::invalid(format!("an image of rank {rank}")));
    };
    let order: Vec<usize> = [0, last].into_iter().chain(1..last).collect();
    Ok(cx.b.transpose(v, &order)?)
}

/// `[N, C, spatial...]` as `[N, spatial..., C]`.
pub(super) fn channels_last(cx: &mut Cx<'_, '_, '_>, v: Value) -> Result<Value, OpError> {
    let rank = cx.rank(v)?;
    let order: Vec<usize> = [0].into_iter().chain(2..rank).chain([1]).collect();
    Ok(cx.b.transpose(v, &order)?)
}

/// A convolution, an addend, and an activation. Weights are `[O, C, kernel...]` in either layout.
fn fused_conv(cx: &mut Cx<'_, '_, '_>, last: bool) -> Outputs {
    let (mut x, w) = (cx.input(0)?, cx.input(1)?);
    let mut addend = cx.optional(3);
    if last {
        x = channels_first(cx, x)?;
        addend = addend.map(|v| channels_first(cx, v)).transpose()?;
    }
    let bias = cx.optional(2);
    let mut y = conv_of(cx, x, w, bias)?;
    if let Some(addend) = addend {
        y = cx.b.ew("add", &[y, addend])?;
    }
    let given = cx.attrs.floats("activation_params")?.unwrap_or_default();
    let parameters = [0, 1, 2].map(|i| given.get(i).copied());
    let name = cx.attrs.string_or("activation", "")?;
    let y = Activation { name, parameters }.apply(cx, y)?;
    one(if last { channels_last(cx, y)? } else { y })
}

/// As in the default domain, with images of either layout; weights are `[O, C, kernel...]` in both.
fn qlinear_conv(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (mut x, w) = (cx.input(0)?, cx.input(3)?);
    let last = cx.attrs.flag("channels_last", false)?;
    if last {
        x = channels_first(cx, x)?;
    }
    let (x_zero, w_zero) = (cx.input(2)?, cx.input(5)?);
    let (xi, wi) = (centred(cx, x, Some(x_zero), 1)?, centred(cx, w, Some(w_zero), 0)?);
    let sums = forward(cx, xi, wi, DType::I32)?;
    let bias = cx.optional(8);
    let sums = add_bias(cx, sums, bias, w)?;
    let (x_scale, w_scale) = (cx.input(1)?, cx.input(4)?);
    let mut scale = cx.b.ew("mul", &[x_scale, w_scale])?;
    if cx.rank(scale)? == 1 {
        let spatial = cx.rank(w)?.saturating_sub(2);
        scale = per_channel(cx, scale, spatial)?;
    }
    let y = requantize(cx, sums, scale, 6, 7)?;
    one(if last { channels_last(cx, y)? } else { y })
}

fn nhwc_max_pool(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let x = channels_first(cx, x)?;
    let y = max_pool_of(cx, x)?;
    one(channels_last(cx, y)?)
}

/// Elements whose mask is 0 never win. A window of nothing else gives the lowest value.
fn max_pool_with_mask(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (x, mask) = (cx.input(0)?, cx.input(1)?);
    // It concerns indices, which are no result here.
    cx.attrs.int("storage_order")?;
    let dtype = cx.dtype(mask)?;
    let zero = cx.b.scalar(dtype, 0.0)?;
    let shown = cx.b.ew("ne", &[mask, zero])?;
    let lowest = cx.b.scalar(DType::F32, f64::from(f32::MIN))?;
    let x = cx.b.ew("where", &[shown, x, lowest])?;
    one(max_pool_of(cx, x)?)
}

/// Pads are operand 2, begins then ends, unless `auto_pad` gives them; the bias is operand 3.
fn conv_transpose_with_dynamic_pads(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let same = cx.attrs.string_or("auto_pad", "NOTSET")?.starts_with("SAME");
    let pads = match cx.optional(2).filter(|_| !same) {
        Some(pads) => {
            let flat = cx.constant_ints(pads, "pads")?;
            let (begins, ends) = flat.split_at(flat.len() / 2);
            Some(begins.iter().copied().zip(ends.iter().copied()).collect())
        }
        None => None,
    };
    let bias = cx.optional(3);
    one(conv_transpose_with(cx, pads, bias)?)
}

/// Embeds words by their characters: each window of embedded characters times `w` plus `b`, through tanh; then the
/// largest over a word's windows. Operands words `[..., L]`, w, b, c.
fn word_conv_embedding(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (words, w, b, c) = (cx.input(0)?, cx.input(1)?, cx.input(2)?, cx.input(3)?);
    for name in ["char_embedding_size", "conv_window_size", "embedding_size"] {
        cx.attrs.int(name)?;
    }
    let (dims, form) = (cx.shape(words)?, cx.shape(w)?);
    let [outer @ .., length] = dims.as_slice() else {
        return Err(OpError::invalid("the words have no axes"));
    };
    let [filters, _, window, size] = form.as_slice() else {
        return Err(OpError::invalid("the weight must have rank 4"));
    };
    let embedded = cx.b.add1(Index::Gather { axis: 0 }, &[c, words])?;
    let lines = product(outer);
    let image = cx.b.reshape(embedded, &[lines.clone(), Dim::known(1), length.clone(), size.clone()])?;
    let op = Conv::Forward {
        strides: vec![1, 1],
        dilations: vec![1, 1],
        pads: vec![(Dim::known(0), Dim::known(0)); 2],
        groups: 1,
        layout: Layout::ChannelsFirst,
        out: DType::F32,
    };
    let sums = cx.b.add1(op, &[image, w])?;
    let bias = per_channel(cx, b, 2)?;
    let sums = cx.b.ew("add", &[sums, bias])?;
    let y = cx.b.ew("tanh", &[sums])?;
    // A word ends before its first character 0; windows that reach beyond its end do not count, except the first.
    let zero = {
        let dtype = cx.dtype(words)?;
        cx.b.scalar(dtype, 0.0)?
    };
    let present = cx.b.ew("gt", &[words, zero])?;
    let present = cx.b.cast(present, DType::I32)?;
    let characters = cx.b.reduce(ReduceKind::Sum, present, &[outer.len()], true)?;
    let characters =
        cx.b.reshape(characters, &[lines.clone(), Dim::known(1), Dim::known(1), Dim::known(1)])?;
    let positions = length - window + Dim::known(1);
    let start = super::super::index::coordinate(cx, &positions, 2, 4)?;
    let start = cx.b.cast(start, DType::I32)?;
    let width = cx.b.dims(std::slice::from_ref(window))?;
    let width = cx.b.cast(width, DType::I32)?;
    let width = cx.b.reshape(width, &[])?;
    let end = cx.b.ew("add", &[start, width])?;
    let inside = cx.b.ew("le", &[end, characters])?;
    let none = cx.b.scalar(DType::I32, 0.0)?;
    let first = cx.b.ew("eq", &[start, none])?;
    let counts = cx.b.ew("or", &[inside, first])?;
    let lowest = cx.b.scalar(DType::F32, f64::from(f32::MIN))?;
    let y = cx.b.ew("where", &[counts, y, lowest])?;
    let y = cx.b.reduce(ReduceKind::Max, y, &[2, 3], false)?;
    let empty = cx.b.ew("eq", &[characters, none])?;
    let empty = cx.b.reshape(empty, &[lines, Dim::known(1)])?;
    let nothing = cx.b.scalar(DType::F32, 0.0)?;
    let y = cx.b.ew("where", &[empty, nothing, y])?;
    let mut shape = outer.to_vec();
    shape.push(filters.clone());
    one(cx.b.reshape(y, &shape)?)
}

/// A depthwise convolution along the last axis that sees only what came before, with what it has seen as its state.
fn causal_conv(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    only(cx, "ndim", 1)?;
    only(cx, "state_window", 0)?;
    let (mut x, w) = (cx.input(0)?, cx.input(1)?);
    let shape = cx.shape(x)?;
    let last_layout = cx.attrs.flag("channels_last", false)?;
    let channels = at(&cx.shape(w)?, 0);
    let taps = known_size(&last(&cx.shape(w)?), "a kernel")?;
    let dilation = cx.attrs.int_or("dilation", 1)?;
    if dilation < 1 {
        return Err(OpError::invalid(format!("dilation {dilation}")));
    }
    let length = taps.checked_sub(1).and_then(|n| n.checked_mul(dilation)).filter(|n| *n >= 0);
    let length = length.ok_or_else(|| OpError::invalid(format!("dilation {dilation} of {taps} taps")))?;
    let length = Dim::known(length);
    // The state of either layout as `[B, C, n]`.
    let inner = |cx: &mut Cx<'_, '_, '_>, v: Value| {
        if !last_layout {
            return Ok::<_, OpError>(v);
        }
        let dims = cx.shape(v)?;
        let flat = cx.b.reshape(v, &[at(&dims, 0), at(&dims, 1), channels.clone()])?;
        Ok(cx.b.transpose(flat, &[0, 2, 1])?)
    };
    x = inner(cx, x)?;
    let extended = match cx.optional(3) {
        Some(past) => {
            let past = inner(cx, past)?;
            cx.b.concat(&[past, x], 2)?
        }
        None => {
            let zero = cx.b.constant(Tensor::scalar(0.0f32))?;
            let none = Dim::known(0);
            let before = vec![none.clone(), none.clone(), length.clone()];
            let pad = Movement::Pad { mode: PadMode::Constant, before, after: vec![none; 3] };
            cx.b.add1(pad, &[x, zero])?
        }
    };
    let op = Conv::Forward {
        strides: vec![1],
        dilations: vec![dilation],
        pads: vec![(Dim::known(0), Dim::known(0))],
        groups: known_size(&channels, "a number of channels")?,
        layout: Layout::ChannelsFirst,
        out: cx.dtype(x)?,
    };
    let mut y = cx.b.add1(op, &[extended, w])?;
    if let Some(bias) = cx.optional(2) {
        let bias = per_channel(cx, bias, 1)?;
        y = cx.b.ew("add", &[y, bias])?;
    }
    y = match cx.attrs.string_or("activation", "none")?.as_str() {
        "none" | "" => y,
        "silu" | "swish" => cx.b.ew_with("silu", &[1.0], &[y])?,
        other => return Err(OpError::invalid(format!("activation `{other}`"))),
    };
    let size = last(&cx.shape(x)?);
    let mut state = cx.b.slice_axis(extended, 2, size, length.clone())?;
    if last_layout {
        y = cx.b.transpose(y, &[0, 2, 1])?;
        y = cx.b.reshape(y, &shape)?;
        state = cx.b.transpose(state, &[0, 2, 1])?;
        let mut form = shape;
        if let Some(slot) = form.get_mut(1) {
            *slot = length;
        }
        state = cx.b.reshape(state, &form)?;
    }
    Ok(vec![y, state])
}
