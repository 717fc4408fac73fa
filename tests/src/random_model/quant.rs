//! Quantization.

use kiln::ir::{DType, Scalar, Tensor};
use kiln::loaders::onnx::make::int;

use super::Rounding;
use super::elementwise::filled;
use super::grower::{Grower, V};

/// Scales; few of them powers of two.
fn scales(g: &mut Grower<'_>, count: usize, scalar: bool) -> V {
    let of = [0.05, 0.125, 0.031, 0.25, 0.0173];
    let at = g.c.below(of.len());
    let all: Vec<f32> = (0..count).map(|i| of[(at + i) % of.len()]).collect();
    let dims: &[usize] = if scalar { &[] } else { &[count] };
    g.constant(Tensor::from_slice(dims, &all).expect("as many as the dim says"))
}

fn zeros(g: &mut Grower<'_>, dtype: DType, count: usize, scalar: bool) -> V {
    let middle = if dtype == DType::U8 { 120 } else { 0 };
    let step = if dtype == DType::I32 { 0 } else { g.c.below(4) as i128 };
    let all: Vec<Scalar> = (0..count as i128).map(|i| Scalar::I(middle + (i * step) % 8)).collect();
    let dims: &[usize] = if scalar { &[] } else { &[count] };
    g.constant(Tensor::from_scalars(dtype, dims, &all).expect("as many as the dim says"))
}

pub(super) fn linear(g: &mut Grower<'_>) -> Option<()> {
    let mut to = vec![DType::U8, DType::I8, DType::U8, DType::I8];
    if g.opset >= 21 {
        to.extend([DType::U16, DType::I16]);
        if g.exotic {
            to.extend([DType::I4, DType::U4]);
        }
    }
    match g.c.below(5) {
        0 => {
            let x = g.any(&[DType::F32], 1..=4);
            if g.tensor(x).numel() == 0 || !g.numbers(x).iter().all(|v| v.is_finite()) {
                return None;
            }
            // The scale is off by a rounding, which moves what lies between two steps.
            g.add("DynamicQuantizeLinear", &[Some(x)], 3, vec![], Rounding::USUAL).map(drop)
        }
        1 => {
            let x = g.any(&[DType::U8, DType::I8, DType::U8, DType::I32], 0..=4);
            dequantized(g, x).map(drop)
        }
        2 => {
            let x = g.any(&[DType::F32], 0..=4);
            let to = g.c.of(&to);
            quantized(g, x, to).map(drop)
        }
        _ => {
            let x = g.any(&[DType::F32], 0..=4);
            let to = g.c.of(&to);
            let q = quantized(g, x, to)?;
            dequantized(g, q).map(drop)
        }
    }
}

/// The parameters' count, and the attributes that say so.
fn granularity(g: &mut Grower<'_>, x: V) -> (usize, bool, Vec<kiln::loaders::onnx::proto::AttributeProto>) {
    let dims = g.dims(x);
    if dims.is_empty() || g.c.flag() {
        return (1, true, vec![]);
    }
    let (axis, spelled) = g.axis(dims.len());
    (dims[axis], false, vec![int("axis", spelled)])
}

pub(super) fn quantized(g: &mut Grower<'_>, x: V, to: DType) -> Option<V> {
    // What no number is has no step; peers convert what is infinite to an integer before they bound it to 4 bits.
    let narrow = matches!(to, DType::I4 | DType::U4);
    if g.numbers(x).iter().any(|v| v.is_nan() || narrow && v.is_infinite()) {
        return None;
    }
    let (count, scalar, attributes) = granularity(g, x);
    let (scale, zero) = (scales(g, count, scalar), zeros(g, to, count, scalar));
    g.one("QuantizeLinear", &[x, scale, zero], attributes, Rounding::USUAL)
}

pub(super) fn dequantized(g: &mut Grower<'_>, x: V) -> Option<V> {
    let (count, scalar, attributes) = granularity(g, x);
    let scale = scales(g, count, scalar);
    let dtype = g.dtype(x);
    let zero = (dtype != DType::I32 && g.c.below(4) > 0).then(|| zeros(g, dtype, count, scalar));
    g.add("DequantizeLinear", &[Some(x), Some(scale), zero], 1, attributes, Rounding::USUAL).map(|v| v[0])
}

/// Quantized products as one operator or between conversions.
pub(super) fn products(g: &mut Grower<'_>) -> Option<()> {
    if g.c.flag() {
        let x = g.any(&[DType::F32], 2..=3);
        let k = *g.dims(x).last()?;
        let n = 1 + g.c.below(5);
        let q = quantized(g, x, DType::U8)?;
        let a = dequantized(g, q)?;
        let w = g.weights(DType::I8, &[k, n]);
        let scale = scales(g, 1, true);
        let zero = g.constant(filled(DType::I8, &[], 0.0));
        let b = g.one("DequantizeLinear", &[w, scale, zero], vec![], Rounding::USUAL)?;
        let y = g.one("MatMul", &[a, b], vec![], Rounding::USUAL)?;
        return quantized(g, y, DType::U8).map(drop);
    }
    let x = g.any(&[DType::U8], 2..=3);
    let k = *g.dims(x).last()?;
    // onnxruntime leaves products of nothing as memory was.
    if k == 0 {
        return None;
    }
    let n = 1 + g.c.below(5);
    let y = g.weights(DType::U8, &[k, n]);
    let mut operands = vec![];
    for v in [x, y] {
        let (scale, zero) = (scales(g, 1, true), g.constant(filled(DType::U8, &[], 3.0)));
        operands.extend([v, scale, zero]);
    }
    let (scale, zero) = (scales(g, 1, true), g.constant(filled(DType::U8, &[], 100.0)));
    operands.extend([scale, zero]);
    g.one("QLinearMatMul", &operands, vec![], Rounding::USUAL).map(drop)
}
