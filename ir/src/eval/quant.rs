//! Quantization.

use crate::op::Quant;
use crate::tensor::scalar_to_bits;
use crate::{DType, Scalar, Tensor, float};

use super::cx::Cx;
use super::fault::{Fault, invalid};
use super::lanes::{Lanes, as_f64, as_i128, floats};
use super::walk::strides;

/// Quantization or its inverse.
pub(super) fn quant(cx: &mut Cx<'_>, op: &Quant, operands: &[&Tensor]) -> Result<Tensor, Fault> {
    let &[x, scale, zero_point] = operands else { return invalid("takes x, scale and zero_point") };
    match op {
        Quant::Quantize { to, axis, block, saturate, inverse } => {
            if zero_point.dtype() != *to {
                return invalid(format!("a zero point of {} for {to}", zero_point.dtype()));
            }
            let walk = parameters(x, scale, zero_point, *axis, *block)?;
            quantize(cx, x, (scale, *inverse), zero_point, (*to, *saturate), walk)
        }
        Quant::Dequantize { to, axis, block } => {
            if zero_point.dtype() != x.dtype() {
                return invalid(format!("a zero point of {} for {}", zero_point.dtype(), x.dtype()));
            }
            let walk = parameters(x, scale, zero_point, *axis, *block)?;
            dequantize(cx, x, scale, zero_point, *to, walk)
        }
    }
}

/// For each element of `x`, the position of its scale and zero point.
fn parameters(
    x: &Tensor,
    scale: &Tensor,
    zero_point: &Tensor,
    axis: Option<usize>,
    block: i64,
) -> Result<Vec<usize>, Fault> {
    if scale.dims() != zero_point.dims() && scale.numel() != zero_point.numel() {
        return invalid(format!("scale {:?} and zero point {:?}", scale.dims(), zero_point.dims()));
    }
    let mismatch =
        || invalid(format!("scale {:?} for {:?}, axis {axis:?}, block {block}", scale.dims(), x.dims()));
    let Some(axis) = axis else {
        return if scale.numel() == 1 { Ok(vec![0; x.numel()]) } else { mismatch() };
    };
    let Some(&n) = x.dims().get(axis) else { return mismatch() };
    let own = strides(x.dims());
    let coordinate = |a: usize, flat: usize| flat / own[a].unsigned_abs() % x.dims()[a];
    let Some(block) = usize::try_from(block).ok().filter(|&b| b > 0) else {
        if scale.numel() == 1 {
            return Ok(vec![0; x.numel()]);
        }
        if scale.dims() != [n] {
            return mismatch();
        }
        return Ok((0..x.numel()).map(|i| coordinate(axis, i)).collect());
    };
    let fits = scale.dims().len() == x.dims().len()
        && (0..x.dims().len())
            .all(|a| scale.dims()[a] == if a == axis { n.div_ceil(block) } else { x.dims()[a] });
    if !fits {
        return mismatch();
    }
    let theirs = strides(scale.dims());
    let place = |flat: usize| {
        let at = |a: usize| if a == axis { coordinate(a, flat) / block } else { coordinate(a, flat) };
        (0..x.dims().len()).map(|a| at(a) * theirs[a].unsigned_abs()).sum()
    };
    Ok((0..x.numel()).map(place).collect())
}

/// `saturate(round(x / scale) + zero_point)`, or with the product by an inverse. The quotient is rounded to the compute
/// dtype of `x` (f32 for all but f64) first, as every implementation of the operator has it: ties in that precision are
/// ties.
fn quantize(
    cx: &mut Cx<'_>,
    x: &Tensor,
    (scale, inverse): (&Tensor, bool),
    zero_point: &Tensor,
    (to, saturate): (DType, bool),
    at: Vec<usize>,
) -> Result<Tensor, Fault> {
    cx.admit(to, x.dims())?;
    let (values, scales, zeros) = (floats(x)?, floats(scale)?, Lanes::decode(zero_point)?);
    let quotient = |v: f64, s: f64| {
        let exact = if inverse { v * s } else { v / s };
        if x.dtype() == DType::F64 { exact } else { f64::from(exact as f32) }
    };
    let pairs = values.iter().zip(at);
    if to.is_float() {
        let sums = pairs.map(|(&v, p)| quotient(v, scales[p]) + as_f64(zeros.get(p))).collect();
        let bits = |v: Scalar| float::encode(to, as_f64(v), saturate);
        return Lanes::F(sums).encode_with(to, x.dims(), bits);
    }
    let Some((lowest, highest)) = to.int_range().filter(|_| to.is_int()) else {
        return invalid(format!("quantizes to {to}"));
    };
    let sums = pairs
        .map(|(&v, p)| {
            let rounded = quotient(v, scales[p]).round_ties_even();
            // Beyond this any integer dtype saturates, and the sum below stays exact.
            let rounded = rounded.clamp(-1e30, 1e30) as i128;
            (rounded + as_i128(zeros.get(p))).clamp(lowest, highest)
        })
        .collect();
    Lanes::I(sums).encode_with(to, x.dims(), |v| scalar_to_bits(to, v))
}

/// `(x - zero_point) * scale`, the difference exact.
fn dequantize(
    cx: &mut Cx<'_>,
    x: &Tensor,
    scale: &Tensor,
    zero_point: &Tensor,
    to: DType,
    at: Vec<usize>,
) -> Result<Tensor, Fault> {
    cx.admit(to, x.dims())?;
    if !to.is_float() {
        return invalid(format!("dequantizes to {to}"));
    }
    let (values, scales, zeros) = (Lanes::decode(x)?, floats(scale)?, Lanes::decode(zero_point)?);
    let difference = |i: usize, p: usize| match (values.get(i), zeros.get(p)) {
        (Scalar::I(v), Scalar::I(z)) => (v - z) as f64,
        (v, z) => as_f64(v) - as_f64(z),
    };
    let out = at.into_iter().enumerate().map(|(i, p)| difference(i, p) * scales[p]).collect();
    Lanes::F(out).encode(to, x.dims())
}
