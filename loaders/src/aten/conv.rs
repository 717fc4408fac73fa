//! Convolutions.

use kiln_ir::op::{Conv, Layout};
use kiln_ir::{Build, Dim, Value};

use super::arg::Arg;
use super::cx::{Cx, one};
use super::{How, Results, Row, row};
use crate::error::OpError;

use How::Fn;

#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    row("aten::_conv_depthwise2d", Fn(|cx| conv(cx, 2))),
    row("aten::_convolution", Fn(convolution)),
    row("aten::_convolution_mode", Fn(convolution_mode)),
    row("aten::conv1d", Fn(|cx| conv(cx, 1))),
    row("aten::conv2d", Fn(|cx| conv(cx, 2))),
    row("aten::conv3d", Fn(|cx| conv(cx, 3))),
    row("aten::conv_depthwise3d", Fn(|cx| conv(cx, 3))),
    row("aten::conv_tbc", Fn(conv_tbc)),
    row("aten::conv_transpose1d", Fn(|cx| transposed(cx, 1))),
    row("aten::conv_transpose2d", Fn(|cx| transposed(cx, 2))),
    row("aten::conv_transpose3d", Fn(|cx| transposed(cx, 3))),
    row("aten::convolution", Fn(convolution)),
    row("aten::slow_conv3d", Fn(|cx| conv(cx, 3))),
    row("aten::slow_conv_dilated2d", Fn(|cx| conv(cx, 2))),
    row("aten::slow_conv_dilated3d", Fn(|cx| conv(cx, 3))),
    row("aten::slow_conv_transpose2d", Fn(|cx| transposed(cx, 2))),
    row("aten::slow_conv_transpose3d", Fn(|cx| transposed(cx, 3))),
    row("aten::thnn_conv2d", Fn(|cx| conv(cx, 2))),
];

/// What windows over spatial axes share.
struct Windows {
    strides: Vec<i64>,
    dilations: Vec<i64>,
    groups: i64,
}

/// Input and weight. Operators of single implementations call the input `self`.
fn factors(cx: &mut Cx<'_, '_>) -> Result<(Value, Value), OpError> {
    let x = if cx.takes("input") { cx.tensor("input")? } else { cx.tensor("self")? };
    Ok((x, cx.tensor("weight")?))
}

/// Operators that take no groups have one, those by channels one a channel: as many as the input has channels for one of
/// the weight.
fn windows(cx: &mut Cx<'_, '_>, spatial: usize) -> Result<Windows, OpError> {
    let strides = cx.ints_of("stride", spatial)?;
    let dilations = if cx.takes("dilation") { cx.ints_of("dilation", spatial)? } else { vec![1; spatial] };
    let groups = if cx.takes("groups") {
        cx.int("groups")?
    } else {
        let (x, w) = factors(cx)?;
        let channels = |cx: &Cx<'_, '_>, v: Value, back: usize| {
            let dims = cx.shape(v)?;
            let dim = dims.len().checked_sub(back).and_then(|i| dims.get(i)).and_then(Dim::as_known);
            dim.ok_or_else(|| OpError::unsupported("an unknown number of channels"))
        };
        let by_channel = channels(cx, w, spatial + 1)? == 1 && !cx.takes("output_padding");
        if by_channel { channels(cx, x, spatial + 1)? } else { 1 }
    };
    if strides.iter().chain(&dilations).chain([&groups]).any(|&v| v <= 0) {
        return Err(OpError::invalid("strides, dilations and groups must be positive"));
    }
    Ok(Windows { strides, dilations, groups })
}

/// A tensor of an axis more if it has no batch, and whether it had none.
pub(super) fn batched(cx: &mut Cx<'_, '_>, x: Value, spatial: usize) -> Result<(Value, bool), OpError> {
    let mut dims = cx.shape(x)?;
    match dims.len() {
        n if n == spatial + 2 => Ok((x, false)),
        n if n == spatial + 1 => {
            dims.insert(0, Dim::known(1));
            Ok((cx.b.reshape(x, &dims)?, true))
        }
        n => Err(OpError::invalid(format!("{n} axes, expected {} or {}", spatial + 1, spatial + 2))),
    }
}

/// Takes the batch off again.
pub(super) fn unbatched(cx: &mut Cx<'_, '_>, y: Value, was_single: bool) -> Result<Value, OpError> {
    if !was_single {
        return Ok(y);
    }
    let dims = cx.shape(y)?;
    Ok(cx.b.reshape(y, dims.get(1..).unwrap_or(&[]))?)
}

/// Adds one element a channel.
fn add_bias(cx: &mut Cx<'_, '_>, y: Value, spatial: usize) -> Result<Value, OpError> {
    let Some(bias) = cx.maybe_tensor("bias")? else { return Ok(y) };
    let mut dims = vec![cx.b.shape(bias)?.first().cloned().unwrap_or(Dim::known(1))];
    dims.extend(vec![Dim::known(1); spatial]);
    let bias = cx.b.reshape(bias, &dims)?;
    cx.ew("add", &[y, bias])
}

/// Padding before and after every axis.
fn padding(cx: &mut Cx<'_, '_>, w: Value, dilations: &[i64]) -> Result<Vec<(Dim, Dim)>, OpError> {
    let spatial = dilations.len();
    let Arg::Str(mode) = cx.get("padding").clone() else {
        let pads = cx.ints_of("padding", spatial)?;
        return Ok(pads.into_iter().map(|p| (Dim::known(p), Dim::known(p))).collect());
    };
    match mode.as_str() {
        "valid" => Ok(vec![(Dim::known(0), Dim::known(0)); spatial]),
        "same" => {
            let kernel = cx.shape(w)?;
            let kernel = kernel.iter().skip(2).zip(dilations);
            Ok(kernel
                .map(|(k, &d)| {
                    let total = (k - &Dim::known(1)) * Dim::known(d);
                    let before = total.floor_div(&Dim::known(2));
                    let after = &total - &before;
                    (before, after)
                })
                .collect())
        }
        other => Err(OpError::invalid(format!("padding `{other}`"))),
    }
}

fn conv(cx: &mut Cx<'_, '_>, spatial: usize) -> Results {
    let (x, w) = factors(cx)?;
    let Windows { strides, dilations, groups } = windows(cx, spatial)?;
    let pads = padding(cx, w, &dilations)?;
    let (x, single) = batched(cx, x, spatial)?;
    let out = cx.dtype(x)?;
    let layout = Layout::ChannelsFirst;
    let y = cx.b.add1(Conv::Forward { strides, dilations, pads, groups, layout, out }, &[x, w])?;
    let y = add_bias(cx, y, spatial)?;
    let y = unbatched(cx, y, single)?;
    one(y)
}

fn transposed(cx: &mut Cx<'_, '_>, spatial: usize) -> Results {
    let (x, w) = factors(cx)?;
    let Windows { strides, dilations, groups } = windows(cx, spatial)?;
    let pads = cx.ints_of("padding", spatial)?;
    let extra = cx.ints_of("output_padding", spatial)?;
    let (x, single) = batched(cx, x, spatial)?;
    let op = Conv::Transposed {
        strides,
        dilations,
        pads: pads.into_iter().map(|p| (Dim::known(p), Dim::known(p))).collect(),
        output_pads: extra.into_iter().map(Dim::known).collect(),
        groups,
        layout: Layout::ChannelsFirst,
    };
    let y = cx.b.add1(op, &[x, w])?;
    let y = add_bias(cx, y, spatial)?;
    let y = unbatched(cx, y, single)?;
    one(y)
}

fn convolution(cx: &mut Cx<'_, '_>) -> Results {
    let w = cx.tensor("weight")?;
    let spatial = cx.rank(w)?.saturating_sub(2);
    if cx.flag("transposed")? { transposed(cx, spatial) } else { conv(cx, spatial) }
}

/// A convolution along time of `[time, batch, channels]`, with a weight `[kernel, in, out]`.
fn conv_tbc(cx: &mut Cx<'_, '_>) -> Results {
    let (x, w, bias) = (cx.tensor("self")?, cx.tensor("weight")?, cx.tensor("bias")?);
    if cx.rank(x)? != 3 || cx.rank(w)? != 3 {
        return Err(OpError::invalid("input and weight have three axes"));
    }
    let pad = Dim::known(cx.int("pad")?);
    let (x, w) = (cx.b.transpose(x, &[1, 2, 0])?, cx.b.transpose(w, &[2, 1, 0])?);
    let op = Conv::Forward {
        strides: vec![1],
        dilations: vec![1],
        pads: vec![(pad.clone(), pad)],
        groups: 1,
        layout: Layout::ChannelsFirst,
        out: cx.dtype(x)?,
    };
    let y = cx.b.add1(op, &[x, w])?;
    let y = cx.b.transpose(y, &[2, 0, 1])?;
    let y = cx.ew("add", &[y, bias])?;
    one(y)
}

/// A convolution whose padding is a word.
fn convolution_mode(cx: &mut Cx<'_, '_>) -> Results {
    let w = cx.tensor("weight")?;
    let spatial = cx.rank(w)?.saturating_sub(2);
    conv(cx, spatial)
}
