//! Products of matrices with what is fused to them.

use kiln_ir::op::{Composite, Quant};
use kiln_ir::{Build, DType, Value};

use super::super::conv::requantize;
use super::super::matmul::{Swaps, centred_factors, gemm, product, scaled};
use super::super::{MICROSOFT, Row, row_of};
use super::{Activation, plus};
use crate::onnx::cx::{Cx, OpError, Outputs, one};

pub(in super::super) const ROWS: &[Row] = &[
    row_of(MICROSOFT, "DynamicQuantizeMatMul", dynamic_quantize_mat_mul),
    row_of(MICROSOFT, "FusedGemm", fused_gemm),
    row_of(MICROSOFT, "FusedMatMul", |cx| one(fused_mat_mul(cx)?)),
    row_of(MICROSOFT, "FusedMatMulActivation", fused_mat_mul_activation),
    row_of(MICROSOFT, "GemmFastGelu", gemm_fast_gelu),
    row_of(MICROSOFT, "MatMulInteger16", mat_mul_integer_16),
    row_of(MICROSOFT, "MatMulIntegerToFloat", mat_mul_integer_to_float),
    row_of(MICROSOFT, "MulInteger", mul_integer),
    row_of(MICROSOFT, "QGemm", quantized_gemm),
    row_of(MICROSOFT, "TransposeMatMul", |cx| one(fused_mat_mul(cx)?)),
];

/// The product, operands transposed as the attributes say: `transBatch` moves the first axis to the last but one.
fn fused_mat_mul(cx: &mut Cx<'_, '_, '_>) -> Result<Value, OpError> {
    let mut operands = [cx.input(0)?, cx.input(1)?];
    for (v, name) in operands.iter_mut().zip(["transBatchA", "transBatchB"]) {
        if cx.attrs.flag(name, false)? {
            let rank = cx.rank(*v)?;
            let Some(last) = rank.checked_sub(1).filter(|&l| l > 0) else {
                return Err(OpError::invalid(format!("`{name}` for an operand of rank {rank}")));
            };
            let order: Vec<usize> = (1..last).chain([0, last]).collect();
            *v = cx.b.transpose(*v, &order)?;
        }
    }
    let [a, b] = operands;
    let swap = |cx: &Cx<'_, '_, '_>, v: Value, name| -> Result<bool, OpError> {
        // A vector has nothing to transpose.
        Ok(cx.attrs.flag(name, false)? && cx.rank(v)? > 1)
    };
    let swaps = Swaps { a: swap(cx, a, "transA")?, b: swap(cx, b, "transB")? };
    let out = cx.dtype(a)?;
    let y = product(cx, a, b, swaps, out)?;
    let alpha = cx.attrs.float_or("alpha", 1.0)?;
    scaled(cx, y, alpha)
}

fn fused_mat_mul_activation(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let y = fused_mat_mul(cx)?;
    let parameters = [
        cx.attrs.float("activation_alpha")?,
        cx.attrs.float("activation_beta")?,
        cx.attrs.float("activation_gamma")?,
    ];
    cx.attrs.int("activation_axis")?;
    let name = cx.attrs.string_or("activation", "")?;
    one(Activation { name, parameters }.apply(cx, y)?)
}

fn fused_gemm(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let [y] = gemm(cx)?[..] else { return Err(OpError::invalid("one result was expected")) };
    let [alpha, beta, gamma] = [
        cx.attrs.float("activation_alpha")?,
        cx.attrs.float("activation_beta")?,
        cx.attrs.float("activation_gamma")?,
    ];
    let name = cx.attrs.string_or("activation", "")?;
    // Selu's second parameter is its gamma, also here.
    let second = if name == "Selu" { gamma } else { beta };
    one(Activation { name, parameters: [alpha, second, gamma] }.apply(cx, y)?)
}

fn gemm_fast_gelu(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (x, w, bias) = (cx.input(0)?, cx.input(1)?, cx.optional(2));
    let out = cx.dtype(x)?;
    let y = product(cx, x, w, Swaps::default(), out)?;
    let y = plus(cx, y, bias)?;
    one(cx.b.ew("gelu_tanh", &[y])?)
}

fn mat_mul_integer_16(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    let (a, b) = (cx.b.cast(a, DType::I32)?, cx.b.cast(b, DType::I32)?);
    one(product(cx, a, b, Swaps::default(), DType::I32)?)
}

/// Operands a, zero point of a, b, zero point of b.
fn mul_integer(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let mut factors = vec![];
    for i in [0, 2] {
        let v = cx.input(i)?;
        let mut v = cx.b.cast(v, DType::I32)?;
        if let Some(zero) = cx.optional(i + 1) {
            let zero = cx.b.cast(zero, DType::I32)?;
            v = cx.b.ew("sub", &[v, zero])?;
        }
        factors.push(v);
    }
    one(cx.b.ew("mul", &factors)?)
}

/// An integer factor with its scale and zero point.
struct Quantized {
    value: Value,
    scale: Value,
    zero: Option<Value>,
}

/// The product of quantized factors in floats, plus a bias.
fn real_product(
    cx: &mut Cx<'_, '_, '_>,
    a: &Quantized,
    b: &Quantized,
    bias: Option<Value>,
) -> Result<Value, OpError> {
    let dtype = cx.dtype(a.scale)?;
    let (left, right) = centred_factors(cx, (a.value, a.zero), (b.value, b.zero))?;
    let sums = product(cx, left, right, Swaps::default(), DType::I32)?;
    let sums = cx.b.cast(sums, dtype)?;
    let scale = cx.b.ew("mul", &[a.scale, b.scale])?;
    let y = cx.b.ew("mul", &[sums, scale])?;
    plus(cx, y, bias)
}

/// Operands a, b, scale of a, scale of b, zero point of a, zero point of b, bias.
fn mat_mul_integer_to_float(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let a = Quantized { value: cx.input(0)?, scale: cx.input(2)?, zero: cx.optional(4) };
    let b = Quantized { value: cx.input(1)?, scale: cx.input(3)?, zero: cx.optional(5) };
    let bias = cx.optional(6);
    one(real_product(cx, &a, &b, bias)?)
}

/// Operands a (floats, quantized here), b, scale of b, zero point of b, bias.
fn dynamic_quantize_mat_mul(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let parts = cx.b.add(Composite::DynamicQuantize {}.into(), &[x])?;
    let [value, scale, zero] = parts.as_slice() else {
        return Err(OpError::invalid("three results were expected"));
    };
    let a = Quantized { value: *value, scale: *scale, zero: Some(*zero) };
    let b = Quantized { value: cx.input(1)?, scale: cx.input(2)?, zero: cx.optional(3) };
    let bias = cx.optional(4);
    one(real_product(cx, &a, &b, bias)?)
}

/// Operands a, its scale and zero point, b, its scale and zero point, c (i32, in the scale of the product), and scale and
/// zero point of the result, which is in floats without them.
fn quantized_gemm(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (a, b) = ((cx.input(0)?, Some(cx.input(2)?)), (cx.input(3)?, Some(cx.input(5)?)));
    let swaps = Swaps { a: cx.attrs.flag("transA", false)?, b: cx.attrs.flag("transB", false)? };
    let left = super::super::conv::centred(cx, a.0, a.1, 0)?;
    // Zero points and scales of rank 1 belong to the result's columns.
    let right = super::super::conv::centred(cx, b.0, b.1, if swaps.b { 0 } else { 1 })?;
    let sums = product(cx, left, right, swaps, DType::I32)?;
    let c = cx.optional(6);
    let sums = plus(cx, sums, c)?;
    let scale = {
        let (a_scale, b_scale) = (cx.input(1)?, cx.input(4)?);
        let scale = cx.b.ew("mul", &[a_scale, b_scale])?;
        let alpha = cx.attrs.float_or("alpha", 1.0)?;
        scaled(cx, scale, alpha)?
    };
    if cx.optional(7).is_some() && cx.optional(8).is_some() {
        return one(requantize(cx, sums, scale, 7, 8)?);
    }
    let real = cx.b.cast(sums, DType::F32)?;
    let y = cx.b.ew("mul", &[real, scale])?;
    match cx.optional(7) {
        // A scale without a zero point: the result is of the first operand's dtype.
        Some(y_scale) => {
            let to = cx.dtype(a.0)?;
            let zero = cx.b.scalar(to, 0.0)?;
            let op = Quant::Quantize { to, axis: None, block: 0, saturate: true, inverse: false };
            one(cx.b.add1(op, &[y, y_scale, zero])?)
        }
        None => one(y),
    }
}
