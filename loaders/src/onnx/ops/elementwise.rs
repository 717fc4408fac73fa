//! Elementwise operators: a table of names, and the few that need more.

use kiln_ir::op::Host;
use kiln_ir::{Build, DType, Dim, Value};

use super::{How, Row, row};
use crate::onnx::cx::{Cx, OpError, Outputs, normalize_axis, one};

use How::{Ew, EwAttrs, Fn};

#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    row("Abs", &[1, 6, 13], Ew("abs")),
    row("Acos", &[7, 22], Ew("acos")),
    row("Acosh", &[9, 22], Ew("acosh")),
    row("Add", &[1, 6, 7, 13, 14], Ew("add")),
    row("And", &[1, 7], Ew("and")),
    row("Asin", &[7, 22], Ew("asin")),
    row("Asinh", &[9, 22], Ew("asinh")),
    row("Atan", &[7, 22], Ew("atan")),
    row("Atanh", &[9, 22], Ew("atanh")),
    row("BitwiseAnd", &[18], Ew("bit_and")),
    row("BitwiseNot", &[18], Ew("bit_not")),
    row("BitwiseOr", &[18], Ew("bit_or")),
    row("BitwiseXor", &[18], Ew("bit_xor")),
    row("BitShift", &[11], Fn(bit_shift)),
    row("Ceil", &[1, 6, 13], Ew("ceil")),
    row("Celu", &[12], EwAttrs("celu", &[("alpha", 1.0)])),
    row("Clip", &[1, 6, 11, 12, 13], Fn(clip)),
    row("Cos", &[7, 22], Ew("cos")),
    row("Cosh", &[9, 22], Ew("cosh")),
    row("Div", &[1, 6, 7, 13, 14], Ew("div")),
    row("Elu", &[1, 6, 22], EwAttrs("elu", &[("alpha", 1.0)])),
    row("Equal", &[1, 7, 11, 13, 19], Fn(equal)),
    row("Erf", &[9, 13], Ew("erf")),
    row("Exp", &[1, 6, 13], Ew("exp")),
    row("Floor", &[1, 6, 13], Ew("floor")),
    row("Gelu", &[20], Fn(gelu)),
    row("Greater", &[1, 7, 9, 13], Ew("gt")),
    row("GreaterOrEqual", &[12, 16], Ew("ge")),
    row("HardSigmoid", &[1, 6, 22], EwAttrs("hard_sigmoid", &[("alpha", 0.2), ("beta", 0.5)])),
    row("HardSwish", &[14, 22], Ew("hard_swish")),
    row("IsInf", &[10, 20], EwAttrs("is_inf", &[("detect_negative", 1.0), ("detect_positive", 1.0)])),
    row("IsNaN", &[9, 13, 20], Ew("is_nan")),
    row("LeakyRelu", &[1, 6, 16], EwAttrs("leaky_relu", &[("alpha", 0.01)])),
    row("Less", &[1, 7, 9, 13], Ew("lt")),
    row("LessOrEqual", &[12, 16], Ew("le")),
    row("Log", &[1, 6, 13], Ew("log")),
    row("Max", &[1, 6, 8, 12, 13], Fn(max)),
    row("Mean", &[1, 6, 8, 13], Fn(mean)),
    row("Min", &[1, 6, 8, 12, 13], Fn(min)),
    row("Mish", &[18, 22], Ew("mish")),
    row("Mod", &[10, 13], Fn(modulo)),
    row("Mul", &[1, 6, 7, 13, 14], Ew("mul")),
    row("Neg", &[1, 6, 13], Ew("neg")),
    row("Not", &[1], Ew("not")),
    row("Or", &[1, 7], Ew("or")),
    row("PRelu", &[1, 6, 7, 9, 16], Fn(prelu)),
    row("Pow", &[1, 7, 12, 13, 15], Fn(pow)),
    row("Reciprocal", &[1, 6, 13], Ew("reciprocal")),
    row("Relu", &[1, 6, 13, 14], Ew("relu")),
    row("Round", &[11, 22], Ew("round")),
    row("Selu", &[1, 6, 22], Fn(selu)),
    row("Shrink", &[9], Fn(shrink)),
    row("Sigmoid", &[1, 6, 13], Ew("sigmoid")),
    row("Sign", &[9, 13], Ew("sign")),
    row("Sin", &[7, 22], Ew("sin")),
    row("Sinh", &[9, 22], Ew("sinh")),
    row("Softplus", &[1, 22], Ew("softplus")),
    row("Softsign", &[1, 22], Ew("softsign")),
    row("Sqrt", &[1, 6, 13], Ew("sqrt")),
    row("Sub", &[1, 6, 7, 13, 14], Ew("sub")),
    row("Sum", &[1, 6, 8, 13], Fn(sum)),
    row("Swish", &[24], EwAttrs("silu", &[("alpha", 1.0)])),
    row("SwiGLU", &[28], Fn(swiglu)),
    row("Tan", &[7, 22], Ew("tan")),
    row("Tanh", &[1, 6, 13], Ew("tanh")),
    row("ThresholdedRelu", &[10, 22], EwAttrs("thresholded_relu", &[("alpha", 1.0)])),
    row("Where", &[9, 16], Fn(where_)),
    row("Xor", &[1, 7], Ew("xor")),
];

/// A node of one elementwise row.
pub(super) fn import(cx: &mut Cx<'_, '_, '_>, name: &str, attrs: &[(&'static str, f32)]) -> Outputs {
    let mut operands = cx.all_inputs()?;
    if let ([_, b], true) = (operands.as_mut_slice(), cx.opset < 7) {
        *b = legacy_operand(cx, *b)?;
    }
    let values = attrs.iter().map(|&(name, default)| float_or_flag(cx, name, default));
    let values = values.collect::<Result<Vec<_>, _>>()?;
    let count = kiln_ir::Ew::named(name).row().params.len();
    if operands.len() != count {
        return Err(OpError::invalid(format!("expected {count} operands, found {}", operands.len())));
    }
    one(cx.b.ew_with(name, &values, &operands)?)
}

/// An attribute that is a float, or a flag in the file and a float in the table.
fn float_or_flag(cx: &Cx<'_, '_, '_>, name: &'static str, default: f32) -> Result<f64, OpError> {
    if name.starts_with("detect_") {
        return Ok(f64::from(u8::from(cx.attrs.flag(name, default != 0.0)?)));
    }
    cx.attrs.float_or(name, default)
}

/// The second operand under the rules before opset 7: with `broadcast`, its axes line up with the first's from `axis`
/// on; size-1 axes at the end make that NumPy broadcasting.
fn legacy_operand(cx: &mut Cx<'_, '_, '_>, b: Value) -> Result<Value, OpError> {
    let axis = cx.attrs.int("axis")?;
    if !cx.attrs.flag("broadcast", false)? {
        return Ok(b);
    }
    let Some(axis) = axis else { return Ok(b) };
    let rank = cx.rank(cx.input(0)?)?;
    let axis = normalize_axis(axis, rank)?;
    let mut dims = cx.shape(b)?;
    let Some(trailing) = rank.checked_sub(axis + dims.len()) else {
        return Err(OpError::invalid(format!("operand 1 has more axes than operand 0 from axis {axis} on")));
    };
    dims.extend(vec![Dim::known(1); trailing]);
    Ok(cx.b.reshape(b, &dims)?)
}

fn equal(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    if cx.dtype(a)? == DType::String {
        return one(cx.b.add1(Host::StringEqual {}, &[a, b])?);
    }
    import(cx, "eq", &[])
}

fn where_(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let operands = cx.all_inputs()?;
    one(cx.b.ew("where", &operands)?)
}

fn swiglu(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (gate, x) = (cx.input(0)?, cx.input(1)?);
    let alpha = cx.attrs.float_or("alpha", 1.0)?;
    let gate = cx.b.ew_with("silu", &[alpha], &[gate])?;
    one(cx.b.ew("mul", &[gate, x])?)
}

fn bit_shift(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    let name = match cx.attrs.string_or("direction", "")?.as_str() {
        "LEFT" => "shift_left",
        "RIGHT" => "shift_right",
        other => return Err(OpError::invalid(format!("direction `{other}`"))),
    };
    one(cx.b.ew(name, &[a, b])?)
}

fn clip(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let mut x = cx.input(0)?;
    let dtype = cx.dtype(x)?;
    let (lo, hi) = if cx.opset < 11 {
        let lo = cx.attrs.float("min")?.map(|v| cx.b.scalar(dtype, v)).transpose()?;
        let hi = cx.attrs.float("max")?.map(|v| cx.b.scalar(dtype, v)).transpose()?;
        (lo, hi)
    } else {
        (cx.optional(1), cx.optional(2))
    };
    match (lo, hi) {
        (Some(lo), Some(hi)) => return one(cx.b.ew("clamp", &[x, lo, hi])?),
        (Some(lo), None) => x = cx.b.ew("max", &[x, lo])?,
        (None, Some(hi)) => x = cx.b.ew("min", &[x, hi])?,
        (None, None) => {}
    }
    one(x)
}

fn gelu(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    match cx.attrs.string_or("approximate", "none")?.as_str() {
        "none" => one(cx.b.ew("gelu", &[x])?),
        "tanh" => one(cx.b.ew("gelu_tanh", &[x])?),
        other => Err(OpError::invalid(format!("approximate `{other}`"))),
    }
}

/// Integers are compared and shifted as floats, which the attributes are, and truncated at the end.
fn shrink(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let attrs = [cx.attrs.float_or("bias", 0.0)?, cx.attrs.float_or("lambd", 0.5)?];
    let dtype = cx.dtype(x)?;
    if !dtype.is_int() {
        return one(cx.b.ew_with("shrink", &attrs, &[x])?);
    }
    let wide = if dtype.bits() > 16 { DType::F64 } else { DType::F32 };
    let x = cx.b.cast(x, wide)?;
    let y = cx.b.ew_with("shrink", &attrs, &[x])?;
    one(cx.b.cast(y, dtype)?)
}

fn selu(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    // Opset 1 rounded the published constants.
    let (alpha, gamma) = if cx.opset < 6 { (1.6732, 1.0507) } else { (1.673_263_2, 1.050_701) };
    import(cx, "selu", &[("alpha", alpha), ("gamma", gamma)])
}

fn modulo(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    let name = if cx.attrs.flag("fmod", false)? { "rem" } else { "mod" };
    one(cx.b.ew(name, &[a, b])?)
}

/// The exponent may be of another dtype than the base, whose dtype the result has.
fn pow(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (a, mut b) = (cx.input(0)?, cx.input(1)?);
    if cx.opset < 7 {
        b = legacy_operand(cx, b)?;
    }
    let (base, exponent) = (cx.dtype(a)?, cx.dtype(b)?);
    if base == exponent {
        return one(cx.b.ew("pow", &[a, b])?);
    }
    if exponent.is_float() && !base.is_float() {
        let wide = if base.bits() > 32 || exponent == DType::F64 { DType::F64 } else { DType::F32 };
        let (a, b) = (cx.b.cast(a, wide)?, cx.b.cast(b, wide)?);
        let power = cx.b.ew("pow", &[a, b])?;
        return one(cx.b.cast(power, base)?);
    }
    let b = cx.b.cast(b, base)?;
    one(cx.b.ew("pow", &[a, b])?)
}

/// Slopes of rank 1 belonged to channels before opset 7.
fn prelu(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (x, mut slope) = (cx.input(0)?, cx.input(1)?);
    if cx.opset < 7 && cx.rank(slope)? == 1 {
        let (rank, mut dims) = (cx.rank(x)?, cx.shape(slope)?);
        dims.extend(vec![Dim::known(1); rank.saturating_sub(2)]);
        slope = cx.b.reshape(slope, &dims)?;
    }
    one(cx.b.ew("prelu", &[x, slope])?)
}

/// Folds the operands from the left.
fn variadic(cx: &mut Cx<'_, '_, '_>, name: &str) -> Result<Value, OpError> {
    let operands = cx.all_inputs()?;
    let Some((&first, rest)) = operands.split_first() else {
        return Err(OpError::invalid("at least one operand is needed"));
    };
    let mut total = first;
    for &v in rest {
        total = cx.b.ew(name, &[total, v])?;
    }
    Ok(total)
}

fn max(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    one(variadic(cx, "max")?)
}

fn min(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    one(variadic(cx, "min")?)
}

fn sum(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    one(variadic(cx, "add")?)
}

fn mean(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let total = variadic(cx, "add")?;
    let dtype = cx.dtype(total)?;
    let count = cx.b.scalar(dtype, cx.input_count() as f64)?;
    one(cx.b.ew("div", &[total, count])?)
}
