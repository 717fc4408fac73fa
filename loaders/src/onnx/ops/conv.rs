//! Convolutions.

use kiln_ir::op::{Conv, Layout, Quant};
use kiln_ir::{Build, DType, Dim, Value};

use super::{How, Row, row};
use crate::onnx::cx::{Cx, OpError, Outputs, one};

use How::Fn;

pub(super) const ROWS: &[Row] = &[
    row("Conv", &[1, 11, 22], Fn(conv)),
    row("ConvInteger", &[10], Fn(conv_integer)),
    row("ConvTranspose", &[1, 11, 22], Fn(conv_transpose)),
    row("QLinearConv", &[10], Fn(qlinear_conv)),
];

/// The attributes that windows over spatial axes share.
pub(super) struct Windows {
    pub(super) strides: Vec<i64>,
    pub(super) dilations: Vec<i64>,
    pub(super) pads: Vec<(Dim, Dim)>,
}

/// One integer for each spatial axis; `default` if the attribute is absent.
pub(super) fn per_axis(
    cx: &Cx<'_, '_, '_>,
    name: &'static str,
    spatial: usize,
    default: i64,
) -> Result<Vec<i64>, OpError> {
    let values = cx.attrs.ints(name)?.filter(|v| !v.is_empty()).unwrap_or_else(|| vec![default; spatial]);
    if values.len() != spatial {
        return Err(OpError::invalid(format!(
            "attribute `{name}` has {} elements for {spatial} axes",
            values.len()
        )));
    }
    Ok(values)
}

/// `pads` as the file gives it: begins, then ends.
pub(super) fn explicit_pads(cx: &Cx<'_, '_, '_>, spatial: usize) -> Result<Vec<(i64, i64)>, OpError> {
    let pads = cx.attrs.ints("pads")?.filter(|v| !v.is_empty()).unwrap_or_else(|| vec![0; 2 * spatial]);
    if pads.len() != 2 * spatial {
        return Err(OpError::invalid(format!("{} pads for {spatial} axes", pads.len())));
    }
    let (begins, ends) = pads.split_at(spatial);
    Ok(begins.iter().copied().zip(ends.iter().copied()).collect())
}

fn known_pads(pads: Vec<(i64, i64)>) -> Vec<(Dim, Dim)> {
    pads.into_iter().map(|(b, e)| (Dim::known(b), Dim::known(e))).collect()
}

/// Strides, dilations and padding of windows of `kernel` over `x`, `auto_pad` resolved.
pub(super) fn windows(cx: &Cx<'_, '_, '_>, x: Value, kernel: &[Dim]) -> Result<Windows, OpError> {
    let spatial = kernel.len();
    let strides = per_axis(cx, "strides", spatial, 1)?;
    let dilations = per_axis(cx, "dilations", spatial, 1)?;
    if strides.iter().chain(&dilations).any(|&v| v <= 0) {
        return Err(OpError::invalid("strides and dilations must be positive"));
    }
    let auto = cx.attrs.string_or("auto_pad", "NOTSET")?;
    let pads = match auto.as_str() {
        "NOTSET" | "" => known_pads(explicit_pads(cx, spatial)?),
        "VALID" => known_pads(vec![(0, 0); spatial]),
        "SAME_UPPER" | "SAME_LOWER" => {
            let dims = cx.shape(x)?;
            let sizes = dims.iter().skip(2);
            let (one, two, zero) = (Dim::known(1), Dim::known(2), Dim::known(0));
            let axes = sizes.zip(kernel).zip(strides.iter().zip(&dilations));
            axes.map(|((d, k), (&s, &dilation))| {
                let stride = Dim::known(s);
                let extent = (k - &one) * Dim::known(dilation) + &one;
                let total = (d.ceil_div(&stride) - &one) * stride + extent - d;
                let total = total.greater(&zero);
                let small = total.floor_div(&two);
                let large = &total - &small;
                if auto == "SAME_UPPER" { (small, large) } else { (large, small) }
            })
            .collect()
        }
        other => return Err(OpError::invalid(format!("auto_pad `{other}`"))),
    };
    Ok(Windows { strides, dilations, pads })
}

/// The spatial dims of a weight, checked against `kernel_shape`.
fn kernel(cx: &Cx<'_, '_, '_>, w: Value) -> Result<Vec<Dim>, OpError> {
    let dims: Vec<Dim> = cx.shape(w)?.into_iter().skip(2).collect();
    if let Some(given) = cx.attrs.ints("kernel_shape")?.filter(|k| !k.is_empty()) {
        let fits = given.len() == dims.len()
            && given.iter().zip(&dims).all(|(&g, d)| d.as_known().is_none_or(|d| d == g));
        if !fits {
            return Err(OpError::invalid(format!("kernel_shape {given:?} does not fit the weight")));
        }
        return Ok(given.into_iter().map(Dim::known).collect());
    }
    Ok(dims)
}

/// A vector of one element a channel, shaped to broadcast over `[N, C, spatial...]`.
pub(super) fn per_channel(cx: &mut Cx<'_, '_, '_>, v: Value, spatial: usize) -> Result<Value, OpError> {
    let mut dims = vec![cx.b.shape(v)?.first().cloned().unwrap_or(Dim::known(1))];
    dims.extend(vec![Dim::known(1); spatial]);
    Ok(cx.b.reshape(v, &dims)?)
}

pub(super) fn forward(cx: &mut Cx<'_, '_, '_>, x: Value, w: Value, out: DType) -> Result<Value, OpError> {
    let kernel = kernel(cx, w)?;
    let Windows { strides, dilations, pads } = windows(cx, x, &kernel)?;
    let groups = cx.attrs.int_or("group", 1)?;
    let layout = Layout::ChannelsFirst;
    Ok(cx.b.add1(Conv::Forward { strides, dilations, pads, groups, layout, out }, &[x, w])?)
}

pub(super) fn add_bias(
    cx: &mut Cx<'_, '_, '_>,
    y: Value,
    bias: Option<Value>,
    w: Value,
) -> Result<Value, OpError> {
    let Some(bias) = bias else { return Ok(y) };
    let spatial = cx.rank(w)?.saturating_sub(2);
    let bias = per_channel(cx, bias, spatial)?;
    Ok(cx.b.ew("add", &[y, bias])?)
}

fn conv(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (x, w, bias) = (cx.input(0)?, cx.input(1)?, cx.optional(2));
    one(conv_of(cx, x, w, bias)?)
}

/// The convolution that the node's attributes describe, of an image with channels first.
pub(super) fn conv_of(
    cx: &mut Cx<'_, '_, '_>,
    x: Value,
    w: Value,
    bias: Option<Value>,
) -> Result<Value, OpError> {
    let out = cx.dtype(x)?;
    let y = forward(cx, x, w, out)?;
    add_bias(cx, y, bias, w)
}

/// An integer operand as i32 with its zero point taken off; a rank-1 zero point belongs to the axis `axis`.
pub(super) fn centred(
    cx: &mut Cx<'_, '_, '_>,
    v: Value,
    zero_point: Option<Value>,
    axis: usize,
) -> Result<Value, OpError> {
    let wide = cx.b.cast(v, DType::I32)?;
    let Some(zero) = zero_point else { return Ok(wide) };
    let mut zero = cx.b.cast(zero, DType::I32)?;
    let (rank, zero_dims) = (cx.rank(v)?, cx.shape(zero)?);
    if let ([d], true) = (zero_dims.as_slice(), rank > 1) {
        let mut dims = vec![Dim::known(1); rank];
        if let Some(slot) = dims.get_mut(axis) {
            *slot = d.clone();
        }
        zero = cx.b.reshape(zero, &dims)?;
    }
    Ok(cx.b.ew("sub", &[wide, zero])?)
}

fn conv_integer(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (x, w, x_zero, w_zero) = (cx.input(0)?, cx.input(1)?, cx.optional(2), cx.optional(3));
    let (x, w) = (centred(cx, x, x_zero, 1)?, centred(cx, w, w_zero, 0)?);
    one(forward(cx, x, w, DType::I32)?)
}

fn qlinear_conv(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (x, w) = (cx.input(0)?, cx.input(3)?);
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
    one(requantize(cx, sums, scale, 6, 7)?)
}

/// Integer sums times `scale`, quantized with the scale and zero point that are operands `scale_at`, `zero_at`.
pub(super) fn requantize(
    cx: &mut Cx<'_, '_, '_>,
    sums: Value,
    scale: Value,
    scale_at: usize,
    zero_at: usize,
) -> Result<Value, OpError> {
    let (y_scale, y_zero) = (cx.input(scale_at)?, cx.input(zero_at)?);
    let y_scale = cx.b.cast(y_scale, DType::F32)?;
    let scale = cx.b.cast(scale, DType::F32)?;
    let real = cx.b.cast(sums, DType::F32)?;
    let real = cx.b.ew("mul", &[real, scale])?;
    let to = cx.dtype(y_zero)?;
    let op = Quant::Quantize { to, axis: None, block: 0, saturate: true, inverse: false };
    Ok(cx.b.add1(op, &[real, y_scale, y_zero])?)
}

fn conv_transpose(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let bias = cx.optional(2);
    one(conv_transpose_with(cx, None, bias)?)
}

/// A transposed convolution that crops `pads`, begin and end of each spatial axis, or else what the attributes say.
pub(super) fn conv_transpose_with(
    cx: &mut Cx<'_, '_, '_>,
    pads: Option<Vec<(i64, i64)>>,
    bias: Option<Value>,
) -> Result<Value, OpError> {
    let (x, w) = (cx.input(0)?, cx.input(1)?);
    let kernel = kernel(cx, w)?;
    let spatial = kernel.len();
    let strides = per_axis(cx, "strides", spatial, 1)?;
    let dilations = per_axis(cx, "dilations", spatial, 1)?;
    let extra = per_axis(cx, "output_padding", spatial, 0)?;
    let pads = match pads {
        Some(pads) if pads.len() == spatial => known_pads(pads),
        Some(pads) => return Err(OpError::invalid(format!("pads of {} axes for {spatial}", pads.len()))),
        None => transposed_pads(cx, x, &kernel, &strides, &dilations, &extra)?,
    };
    let op = Conv::Transposed {
        strides,
        dilations,
        pads,
        output_pads: extra.into_iter().map(Dim::known).collect(),
        groups: cx.attrs.int_or("group", 1)?,
        layout: Layout::ChannelsFirst,
    };
    let y = cx.b.add1(op, &[x, w])?;
    add_bias(cx, y, bias, w)
}

/// What a transposed convolution crops: `pads`, or what leads to `output_shape` or to the input times the stride.
fn transposed_pads(
    cx: &Cx<'_, '_, '_>,
    x: Value,
    kernel: &[Dim],
    strides: &[i64],
    dilations: &[i64],
    extra: &[i64],
) -> Result<Vec<(Dim, Dim)>, OpError> {
    let spatial = kernel.len();
    let auto = cx.attrs.string_or("auto_pad", "NOTSET")?;
    let shape = cx.attrs.ints("output_shape")?.filter(|s| !s.is_empty());
    if shape.is_none() && matches!(auto.as_str(), "NOTSET" | "" | "VALID") {
        let pads = if auto == "VALID" { vec![(0, 0); spatial] } else { explicit_pads(cx, spatial)? };
        return Ok(known_pads(pads));
    }
    if shape.as_ref().is_some_and(|s| s.len() != spatial) {
        return Err(OpError::invalid(format!("output_shape must have {spatial} elements")));
    }
    let dims = cx.shape(x)?;
    let one = Dim::known(1);
    let mut pads = vec![];
    for (i, (d, k)) in dims.iter().skip(2).zip(kernel).enumerate() {
        let at = |list: &[i64]| list.get(i).copied().map_or(Dim::known(1), Dim::known);
        let stride = at(strides);
        let full = (d - &one) * &stride + at(extra) + (k - &one) * at(dilations) + &one;
        let wanted = match &shape {
            Some(s) => at(s),
            None => d * &stride,
        };
        let total = full - wanted;
        let small = total.floor_div(&Dim::known(2));
        let large = &total - &small;
        pads.push(if auto == "SAME_UPPER" { (small, large) } else { (large, small) });
    }
    Ok(pads)
}
