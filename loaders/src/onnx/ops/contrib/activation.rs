//! Activations, with what stands before and after them.

use kiln_ir::{Build, DType, Dim, Tensor, Value};

use super::super::{MICROSOFT, Row, row_of};
use super::{last, plus, product, slice_last};
use crate::onnx::cx::{Cx, OpError, Outputs, one};

pub(in super::super) const ROWS: &[Row] = &[
    row_of(MICROSOFT, "BiasAdd", bias_add),
    row_of(MICROSOFT, "BiasDropout", bias_dropout),
    row_of(MICROSOFT, "BiasGelu", bias_gelu),
    row_of(MICROSOFT, "BiasSoftmax", bias_softmax),
    row_of(MICROSOFT, "BiasSplitGelu", bias_split_gelu),
    row_of(MICROSOFT, "FastGelu", fast_gelu),
    row_of(MICROSOFT, "GatedAdd", gated_add),
    row_of(MICROSOFT, "Gelu", gelu),
    row_of(MICROSOFT, "IsAllFinite", is_all_finite),
    row_of(MICROSOFT, "LinearAttentionGate", linear_attention_gate),
    row_of(MICROSOFT, "QuickGelu", quick_gelu),
    row_of(MICROSOFT, "SampleOp", |cx| one(cx.input(0)?)),
    row_of(MICROSOFT, "ScaledSiLU", scaled_silu),
];

fn gelu(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    one(cx.b.ew("gelu", &[x])?)
}

fn fast_gelu(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (x, bias) = (cx.input(0)?, cx.optional(1));
    let x = plus(cx, x, bias)?;
    one(cx.b.ew("gelu_tanh", &[x])?)
}

fn bias_gelu(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (x, bias) = (cx.input(0)?, cx.input(1)?);
    let x = cx.b.ew("add", &[x, bias])?;
    one(cx.b.ew("gelu", &[x])?)
}

fn quick_gelu(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let alpha = cx.attrs.float_or("alpha", 1.702)?;
    one(cx.b.ew_with("silu", &[alpha], &[x])?)
}

/// The left half times the GELU of the right half.
fn bias_split_gelu(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (x, bias) = (cx.input(0)?, cx.input(1)?);
    let x = cx.b.ew("add", &[x, bias])?;
    let half = last(&cx.shape(x)?).floor_div(&Dim::known(2));
    let left = slice_last(cx, x, &Dim::known(0), &half)?;
    let right = slice_last(cx, x, &half, &half)?;
    let gate = cx.b.ew("gelu", &[right])?;
    one(cx.b.ew("mul", &[left, gate])?)
}

/// Operands x, bias, residual.
fn bias_add(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (x, bias, skip) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let sum = cx.b.ew("add", &[x, bias])?;
    one(cx.b.ew("add", &[sum, skip])?)
}

/// Without training, whose result is random by definition, nothing is dropped and the mask is all true.
fn bias_dropout(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let training = match cx.optional(4) {
        Some(flag) => cx.constant_ints(flag, "the training mode")?.first() != Some(&0),
        None => false,
    };
    if training {
        return Err(OpError::unsupported("dropout in training mode"));
    }
    cx.attrs.int("seed")?;
    let (x, bias, residual) = (cx.input(0)?, cx.input(1)?, cx.optional(2));
    let sum = cx.b.ew("add", &[x, bias])?;
    let y = plus(cx, sum, residual)?;
    let dims = cx.shape(x)?;
    let mask = cx.b.constant(Tensor::from_bools(&[], &[true])?)?;
    Ok(vec![y, cx.b.broadcast(mask, &dims)?])
}

/// Softmax over all axes from `axis` on, of the sum with a bias that repeats: each element along the axes just before
/// `axis` if `is_inner_broadcast`, else along the first axes.
fn bias_softmax(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (x, bias) = (cx.input(0)?, cx.input(1)?);
    let dims = cx.shape(x)?;
    let axis = cx.attrs.int_or("axis", 1)?;
    let axis = cx.axis(axis, dims.len())?;
    let inner = cx.attrs.required_int("is_inner_broadcast")? != 0;
    let (outer, row) = dims.split_at(axis);
    let row = product(row);
    let total: Dim = product(&cx.shape(bias)?);
    let lines = total.floor_div(&row);
    let repeats = product(outer).floor_div(&lines);
    let shape = if inner { [lines, repeats, row.clone()] } else { [repeats, lines, row.clone()] };
    let x = cx.b.reshape(x, &shape)?;
    let [a, b, _] = &shape;
    let column =
        if inner { [a.clone(), Dim::known(1), row.clone()] } else { [Dim::known(1), b.clone(), row] };
    let bias = cx.b.reshape(bias, &column)?;
    let sum = cx.b.ew("add", &[x, bias])?;
    let y = cx.b.softmax(sum, 2)?;
    one(cx.b.reshape(y, &dims)?)
}

/// `x + y * gate`, the product rounded to the operands' dtype.
fn gated_add(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (x, y, gate) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let scaled = cx.b.ew("mul", &[y, gate])?;
    one(cx.b.ew("add", &[x, scaled])?)
}

/// `z * sigmoid(z)` with `z` the operand scaled, each step rounded to the operand's dtype.
fn scaled_silu(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let dtype = cx.dtype(x)?;
    let alpha = cx.attrs.float_or("alpha", 1.0)?;
    let scale = match cx.optional(1) {
        Some(scale) => {
            let scale = cx.b.reshape(scale, &[])?;
            cx.b.cast(scale, DType::F32)?
        }
        None => cx.b.scalar(DType::F32, alpha)?,
    };
    let wide = cx.b.cast(x, DType::F32)?;
    let z = cx.b.ew("mul", &[wide, scale])?;
    let z = cx.b.cast(z, dtype)?;
    let gate = cx.b.ew("sigmoid", &[z])?;
    one(cx.b.ew("mul", &[z, gate])?)
}

/// `decay_scale * softplus(a + dt_bias)` and `sigmoid(b)`, in f32.
fn linear_attention_gate(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (a, dt_bias, decay_scale) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let dtype = cx.dtype(a)?;
    let a = cx.b.cast(a, DType::F32)?;
    let sum = cx.b.ew("add", &[a, dt_bias])?;
    let plus = cx.b.ew("softplus", &[sum])?;
    let decay = cx.b.ew("mul", &[decay_scale, plus])?;
    let mut results = vec![cx.b.cast(decay, dtype)?];
    if let Some(b) = cx.optional(3) {
        let b = cx.b.cast(b, DType::F32)?;
        let beta = cx.b.ew("sigmoid", &[b])?;
        results.push(cx.b.cast(beta, dtype)?);
    }
    Ok(results)
}

/// Whether no element of any operand is infinite (`isinf_only`), NaN (`isnan_only`), or either.
fn is_all_finite(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (inf_only, nan_only) = (cx.attrs.flag("isinf_only", false)?, cx.attrs.flag("isnan_only", false)?);
    if inf_only && nan_only {
        return Err(OpError::invalid("`isinf_only` and `isnan_only` are both set"));
    }
    let mut all = cx.b.constant(Tensor::from_bools(&[], &[false])?)?;
    for x in cx.all_inputs()? {
        let mut bad: Vec<Value> = vec![];
        if !nan_only {
            bad.push(cx.b.ew_with("is_inf", &[1.0, 1.0], &[x])?);
        }
        if !inf_only {
            bad.push(cx.b.ew("is_nan", &[x])?);
        }
        let axes: Vec<usize> = (0..cx.rank(x)?).collect();
        for flag in bad {
            let any = cx.b.reduce(kiln_ir::op::ReduceKind::Any, flag, &axes, false)?;
            all = cx.b.ew("or", &[all, any])?;
        }
    }
    one(cx.b.ew("not", &[all])?)
}
