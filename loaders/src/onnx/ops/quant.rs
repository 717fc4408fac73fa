//! Quantization.

use kiln_ir::op::{Composite, Quant};
use kiln_ir::{Build, DType, Value};

use super::{How, Row, row};
use crate::onnx::cx::{Cx, OpError, Outputs, one};

use How::Fn;

pub(super) const ROWS: &[Row] = &[
    row("DequantizeLinear", &[10, 13, 19, 21, 23, 24, 25], Fn(dequantize)),
    row("DynamicQuantizeLinear", &[11], Fn(dynamic_quantize)),
    row("QuantizeLinear", &[10, 13, 19, 21, 23, 24, 25], Fn(quantize)),
];

/// To what part of `x` a scale belongs.
struct Granularity {
    axis: Option<usize>,
    block: i64,
}

fn granularity(cx: &Cx<'_, '_, '_>, x: Value, scale: Value) -> Result<Granularity, OpError> {
    let block = cx.attrs.int_or("block_size", 0)?;
    let axis = cx.attrs.int_or("axis", 1)?;
    let dims = cx.shape(scale)?;
    let single = dims.len() <= 1 && dims.iter().all(|d| d.as_known() == Some(1));
    if block == 0 && single {
        return Ok(Granularity { axis: None, block });
    }
    let axis = match (cx.rank(x), usize::try_from(axis)) {
        (Ok(rank), _) => cx.axis(axis, rank)?,
        // From the front, an axis is what it is whatever the rank.
        (Err(_), Ok(axis)) => axis,
        (Err(error), Err(_)) => return Err(error),
    };
    Ok(Granularity { axis: Some(axis), block })
}

/// The operand `zero_point`, or zeros of `dtype` in the shape of the scale.
fn zero_point(cx: &mut Cx<'_, '_, '_>, scale: Value, dtype: DType) -> Result<Value, OpError> {
    if let Some(v) = cx.optional(2) {
        return Ok(v);
    }
    let zero = cx.b.scalar(dtype, 0.0)?;
    let dims = cx.shape(scale)?;
    Ok(cx.b.broadcast(zero, &dims)?)
}

pub(super) fn quantize(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (x, scale) = (cx.input(0)?, cx.input(1)?);
    let to = match cx.optional(2) {
        Some(zero) => cx.dtype(zero)?,
        None => cx.attrs.dtype("output_dtype")?.unwrap_or(DType::U8),
    };
    let Granularity { axis, block } = granularity(cx, x, scale)?;
    let zero = zero_point(cx, scale, to)?;
    let saturate = cx.attrs.flag("saturate", true)?;
    one(cx.b.add1(Quant::Quantize { to, axis, block, saturate, inverse: false }, &[x, scale, zero])?)
}

pub(super) fn dequantize(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (x, scale) = (cx.input(0)?, cx.input(1)?);
    let to = match cx.attrs.dtype("output_dtype")? {
        Some(dtype) => dtype,
        None => cx.dtype(scale)?,
    };
    let Granularity { axis, block } = granularity(cx, x, scale)?;
    let dtype = cx.dtype(x)?;
    let zero = zero_point(cx, scale, dtype)?;
    one(cx.b.add1(Quant::Dequantize { to, axis, block }, &[x, scale, zero])?)
}

fn dynamic_quantize(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    Ok(cx.b.add(Composite::DynamicQuantize {}.into(), &[x])?.to_vec())
}
