//! Elementwise operators and pools on quantized tensors.

use kiln_ir::op::{Composite, Quant, ReduceKind};
use kiln_ir::{Build, DType, Value};

use super::super::pool::average_pool_of;
use super::super::quant::{dequantize, quantize};
use super::super::{MICROSOFT, Row, row_of};
use super::conv::{channels_first, channels_last};
use super::product;
use crate::onnx::cx::{Cx, OpError, Outputs, one};

pub(in super::super) const ROWS: &[Row] = &[
    row_of(MICROSOFT, "DequantizeLinear", dequantize),
    row_of(MICROSOFT, "QLinearAdd", |cx| binary(cx, "add")),
    row_of(MICROSOFT, "QLinearAveragePool", average_pool),
    row_of(MICROSOFT, "QLinearConcat", concat),
    row_of(MICROSOFT, "QLinearGlobalAveragePool", global_average_pool),
    row_of(MICROSOFT, "QLinearLeakyRelu", leaky_relu),
    row_of(MICROSOFT, "QLinearMul", |cx| binary(cx, "mul")),
    row_of(MICROSOFT, "QLinearReduceMean", reduce_mean),
    row_of(MICROSOFT, "QLinearSigmoid", sigmoid),
    row_of(MICROSOFT, "QLinearSoftmax", softmax),
    row_of(MICROSOFT, "QLinearWhere", where_),
    row_of(MICROSOFT, "QuantizeLinear", quantize),
];

/// `(x - zero) * scale` in f32, all of one scale.
pub(super) fn real(
    cx: &mut Cx<'_, '_, '_>,
    x: Value,
    scale: Value,
    zero: Option<Value>,
) -> Result<Value, OpError> {
    let dtype = cx.dtype(x)?;
    let zero = match zero {
        Some(zero) => cx.b.reshape(zero, &[])?,
        None => cx.b.scalar(dtype, 0.0)?,
    };
    let scale = cx.b.reshape(scale, &[])?;
    Ok(cx.b.add1(Quant::Dequantize { to: DType::F32, axis: None, block: 0 }, &[x, scale, zero])?)
}

/// Quantizes with the operands `scale` and `scale + 1`, in the dtype of the zero point, or else of `like`.
fn quantized(cx: &mut Cx<'_, '_, '_>, v: Value, scale: usize, like: Value) -> Result<Value, OpError> {
    let (factor, zero) = (cx.input(scale)?, cx.optional(scale + 1));
    let factor = cx.b.reshape(factor, &[])?;
    let to = match zero {
        Some(zero) => cx.dtype(zero)?,
        None => cx.dtype(like)?,
    };
    let zero = match zero {
        Some(zero) => cx.b.reshape(zero, &[])?,
        None => cx.b.scalar(to, 0.0)?,
    };
    let op = Quant::Quantize { to, axis: None, block: 0, saturate: true, inverse: false };
    Ok(cx.b.add1(op, &[v, factor, zero])?)
}

/// The operand at `i` with its scale and zero point after it, in floats.
fn real_operand(cx: &mut Cx<'_, '_, '_>, i: usize) -> Result<Value, OpError> {
    let (x, scale, zero) = (cx.input(i)?, cx.input(i + 1)?, cx.optional(i + 2));
    real(cx, x, scale, zero)
}

/// Operands a, b, and the result, with scale and zero point each.
fn binary(cx: &mut Cx<'_, '_, '_>, name: &str) -> Outputs {
    let (a, b) = (real_operand(cx, 0)?, real_operand(cx, 3)?);
    let y = cx.b.ew(name, &[a, b])?;
    let like = cx.input(0)?;
    one(quantized(cx, y, 6, like)?)
}

fn sigmoid(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (like, x) = (cx.input(0)?, real_operand(cx, 0)?);
    let y = cx.b.ew("sigmoid", &[x])?;
    one(quantized(cx, y, 3, like)?)
}

fn leaky_relu(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (like, x) = (cx.input(0)?, real_operand(cx, 0)?);
    let alpha = cx.attrs.float_or("alpha", 0.01)?;
    let y = cx.b.ew_with("leaky_relu", &[alpha], &[x])?;
    one(quantized(cx, y, 3, like)?)
}

/// Before version 13 of Softmax, whose number `opset` is, all axes from `axis` on are one.
fn softmax(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (like, x) = (cx.input(0)?, real_operand(cx, 0)?);
    let dims = cx.shape(x)?;
    let axis = cx.attrs.int_or("axis", -1)?;
    let axis = cx.axis(axis, dims.len())?;
    let y = if cx.attrs.required_int("opset")? >= 13 {
        cx.b.add1(Composite::Softmax { axis }, &[x])?
    } else {
        let (outer, inner) = dims.split_at(axis);
        let matrix = cx.b.reshape(x, &[product(outer), product(inner)])?;
        let y = cx.b.softmax(matrix, 1)?;
        cx.b.reshape(y, &dims)?
    };
    one(quantized(cx, y, 3, like)?)
}

/// Operands scale and zero point of the result, then three for each part.
fn concat(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let mut parts = vec![];
    for i in (2..cx.input_count()).step_by(3) {
        parts.push(real_operand(cx, i)?);
    }
    let first = *parts.first().ok_or_else(|| OpError::invalid("there is nothing to join"))?;
    let axis = cx.attrs.required_int("axis")?;
    let axis = cx.axis(axis, cx.rank(first)?)?;
    let y = cx.b.concat(&parts, axis)?;
    let like = cx.input(2)?;
    one(quantized(cx, y, 0, like)?)
}

/// Operands condition, x, y with scale and zero point each, and those of the result.
fn where_(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let condition = cx.input(0)?;
    // Each side is quantized before one is chosen, so that a byte is only moved where the scales agree.
    let like = cx.input(1)?;
    let (x, y) = (real_operand(cx, 1)?, real_operand(cx, 4)?);
    let (x, y) = (quantized(cx, x, 7, like)?, quantized(cx, y, 7, like)?);
    one(cx.b.ew("where", &[condition, x, y])?)
}

fn reduce_mean(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (like, x) = (cx.input(0)?, real_operand(cx, 0)?);
    let rank = cx.rank(x)?;
    let axes = match cx.attrs.ints("axes")?.filter(|a| !a.is_empty()) {
        Some(axes) => cx.axes(&axes, rank)?,
        None => (0..rank).collect(),
    };
    let keepdims = cx.attrs.required_int("keepdims")? != 0;
    let y = cx.b.reduce(ReduceKind::Mean, x, &axes, keepdims)?;
    one(quantized(cx, y, 3, like)?)
}

fn average_pool(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (like, x) = (cx.input(0)?, real_operand(cx, 0)?);
    let last = cx.attrs.flag("channels_last", false)?;
    let x = if last { channels_first(cx, x)? } else { x };
    let mut y = average_pool_of(cx, x)?;
    if last {
        y = channels_last(cx, y)?;
    }
    one(quantized(cx, y, 3, like)?)
}

/// The sum of the integers, scaled once.
fn global_average_pool(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (like, x) = (cx.input(0)?, real_operand(cx, 0)?);
    let rank = cx.rank(x)?;
    let axes: Vec<usize> = match cx.attrs.flag("channels_last", false)? {
        true => (1..rank.saturating_sub(1)).collect(),
        false => (2..rank).collect(),
    };
    let y = cx.b.reduce(ReduceKind::Mean, x, &axes, true)?;
    one(quantized(cx, y, 3, like)?)
}
