//! Products, normalizations, recurrent networks.

use kiln::ir::DType;
use kiln::loaders::onnx::make::{float, floats, int, ints, string};

use super::Rounding;
use super::elementwise::filled;
use super::grower::{FLOATS, Grower, V};

/// Magnitude below which sums of rounded terms may vanish.
const NEXT_TO_NOTHING: f64 = 1e-4;

pub(super) fn matmul(g: &mut Grower<'_>) -> Option<()> {
    let x =
        g.any(&[DType::F32, DType::F32, DType::F32, DType::F16, DType::F64, DType::I32, DType::I64], 1..=4);
    product(g, x).map(drop)
}

/// A product of `x` with another value or with weights.
pub(super) fn product(g: &mut Grower<'_>, x: V) -> Option<V> {
    let (dtype, dims) = (g.dtype(x), g.dims(x));
    let (&k, before) = dims.split_last()?;
    // onnxruntime leaves products of nothing as memory was.
    if k == 0 {
        return None;
    }
    let n = 1 + g.c.below(6);
    let found = if g.c.below(3) == 0 {
        g.find(|t| t.dtype() == dtype && t.dims().len() == 2 && t.dims()[0] == k)
    } else {
        None
    };
    let y = match found {
        Some(y) => y,
        None => {
            let shape = match (g.c.below(4), before) {
                (3, [batch @ .., _]) if !batch.is_empty() => [batch, &[k, n]].concat(),
                (2, _) if dims.len() > 1 => vec![k],
                _ => vec![k, n],
            };
            if g.c.below(4) == 3 { g.input(dtype, &shape) } else { g.weights(dtype, &shape) }
        }
    };
    // What is next to nothing is nothing in another library, and nothing times an infinite number is none.
    let hangs = |g: &Grower<'_>, v: V, w: V| {
        !g.is_finite(w) && g.numbers(v).iter().any(|v| *v != 0.0 && v.abs() < NEXT_TO_NOTHING)
    };
    if hangs(g, x, y) || hangs(g, y, x) {
        return None;
    }
    let rounding = if dtype.is_float() { Rounding::USUAL } else { Rounding::Exact };
    g.one("MatMul", &[x, y], vec![], rounding)
}

pub(super) fn gemm(g: &mut Grower<'_>) -> Option<()> {
    let x = g.any(&[DType::F32, DType::F32, DType::F32, DType::F64, DType::F16], 2..=2);
    let (dtype, dims) = (g.dtype(x), g.dims(x));
    let (a, b) = (g.c.flag(), g.c.flag());
    let (m, k) = if a { (dims[1], dims[0]) } else { (dims[0], dims[1]) };
    if k == 0 {
        return None;
    }
    let n = 1 + g.c.below(6);
    let y = g.weights(dtype, &if b { [n, k] } else { [k, n] });
    let bias = match g.c.below(5) {
        0 => None,
        1 => Some(vec![n]),
        2 => Some(vec![m, 1]),
        3 => Some(vec![]),
        _ => Some(vec![m, n]),
    };
    let bias = bias.map(|dims| g.weights(dtype, &dims));
    let mut attributes = vec![int("transA", i64::from(a)), int("transB", i64::from(b))];
    if g.c.flag() {
        attributes.extend([float("alpha", 0.5), float("beta", g.c.of(&[1.0, 2.0]))]);
    }
    g.add("Gemm", &[Some(x), Some(y), bias], 1, attributes, Rounding::USUAL).map(drop)
}

pub(super) fn einsum(g: &mut Grower<'_>) -> Option<()> {
    let x = g.any(&[DType::F32, DType::F32, DType::F64, DType::I32], 2..=4);
    let (dtype, dims) = (g.dtype(x), g.dims(x));
    if dims.contains(&0) {
        return None;
    }
    let n = 1 + g.c.below(4);
    let (text, other) = match (&dims[..], g.c.below(4)) {
        (&[_, k], 0) => ("ik,kj->ij", Some(vec![k, n])),
        (&[_, k], 1) => ("ik,jk->ji", Some(vec![n, k])),
        (&[i, _], 2) => ("ik,i->ik", Some(vec![i])),
        (&[_, _], _) => ("ij->ji", None),
        (&[b, _, k], 0) => ("bik,bkj->bij", Some(vec![b, k, n])),
        (&[b, _, k], 1) => ("bik,bjk->bij", Some(vec![b, n, k])),
        (&[_, _, k], 2) => ("...k,k->...", Some(vec![k])),
        (&[_, _, _], _) => ("bij->bj", None),
        (&[b, h, _, k], 0) => ("bhqd,bhkd->bhqk", Some(vec![b, h, n, k])),
        (&[_, _, _, k], _) => ("bhqd,de->bqhe", Some(vec![k, n])),
        _ => return None,
    };
    // onnxruntime saturates or wraps integers that overflow, by instruction set.
    let largest = |g: &Grower<'_>, v: V| g.numbers(v).iter().fold(1.0f64, |most, x| most.max(x.abs()));
    let mut operands = vec![x];
    let mut most = largest(g, x) * dims.iter().product::<usize>() as f64;
    if let Some(dims) = other {
        let y = g.weights(dtype, &dims);
        most *= largest(g, y);
        operands.push(y);
    }
    if dtype.is_int() && most >= 2f64.powi(31) {
        return None;
    }
    let rounding = if dtype.is_float() { Rounding::USUAL } else { Rounding::Exact };
    g.one("Einsum", &operands, vec![string("equation", text)], rounding).map(drop)
}

/// Products of 8-bit integers.
pub(super) fn integers(g: &mut Grower<'_>) -> Option<()> {
    let x = g.any(&[DType::U8, DType::I8], 2..=3);
    let (dtype, dims) = (g.dtype(x), g.dims(x));
    let k = *dims.last()?;
    if k == 0 {
        return None;
    }
    let n = 1 + g.c.below(5);
    let other = if dtype == DType::U8 { g.c.of(&[DType::U8, DType::I8]) } else { DType::I8 };
    let y = g.weights(other, &[k, n]);
    let zero = g.c.flag().then(|| g.param(filled(dtype, &[], 2.0)));
    let zeros = match g.c.below(3) {
        0 => None,
        1 => Some(g.param(filled(other, &[], 1.0))),
        _ => Some(g.constant(filled(other, &[n], 1.0))),
    };
    g.add("MatMulInteger", &[Some(x), Some(y), zero, zeros], 1, vec![], Rounding::Exact).map(drop)
}

/// A normalization of groups of channels.
fn groups(g: &mut Grower<'_>, x: V) -> Option<()> {
    let (dtype, dims) = (g.dtype(x), g.dims(x));
    let groups = if g.c.flag() { 1 } else { dims[1] };
    if g.numbers(x).chunks(g.tensor(x).numel() / dims[0] / groups).any(is_narrow) {
        return None;
    }
    let [scale, bias] = [0; 2].map(|_| g.weights(dtype, &[dims[1]]));
    let mut attributes = epsilon(g);
    attributes.push(int("num_groups", groups as i64));
    g.one("GroupNormalization", &[x, scale, bias], attributes, Rounding::USUAL).map(drop)
}

/// Whether numbers are so close to one another, for their size, that the difference between the mean of their squares and
/// the square of their mean, as onnxruntime computes a variance here, has few digits left.
fn is_narrow(numbers: &[f64]) -> bool {
    let count = numbers.len() as f64;
    let mean = numbers.iter().sum::<f64>() / count;
    let variance = numbers.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
    mean.powi(2) > 16.0 * variance
}

pub(super) fn normalization(g: &mut Grower<'_>) -> Option<()> {
    let op = g.c.of(&[
        "BatchNormalization",
        "LayerNormalization",
        "InstanceNormalization",
        "LRN",
        "LpNormalization",
        "MeanVarianceNormalization",
        "GroupNormalization",
        "LayerNormalization",
        "BatchNormalization",
    ]);
    let x = match op {
        "InstanceNormalization" | "GroupNormalization" => g.any(&[DType::F32], 3..=4),
        "LRN" | "MeanVarianceNormalization" => g.any(&[DType::F32], 4..=4),
        "BatchNormalization" => g.any(&[DType::F32, DType::F32, DType::F16, DType::F64], 2..=4),
        // onnxruntime ends with a fault over other dtypes.
        "LayerNormalization" => g.any(&[DType::F32], 1..=4),
        _ => g.any(&[DType::F32, DType::F64], 1..=4),
    };
    if g.tensor(x).numel() == 0 {
        return None;
    }
    let (dtype, dims) = (g.dtype(x), g.dims(x));
    match op {
        "BatchNormalization" => {
            let c = dims[1];
            // Whether differences or products come first is left open, with which infinities meet or do not.
            if !g.is_finite(x) {
                return None;
            }
            let [scale, bias, mean] = [0; 3].map(|_| g.finite_weights(dtype, &[c]));
            let variance = positive(g, dtype, c);
            let attributes = epsilon(g);
            g.one(op, &[x, scale, bias, mean, variance], attributes, Rounding::USUAL).map(drop)
        }
        "LayerNormalization" if g.opset >= 17 => {
            let (axis, spelled) = g.axis(dims.len());
            let scale = g.weights(dtype, &dims[axis..]);
            let bias = g.c.flag().then(|| g.weights(dtype, &dims[axis..]));
            let mut attributes = epsilon(g);
            attributes.push(int("axis", spelled));
            // onnxruntime ends with a fault where the bias is an operand without a name.
            let operands: Vec<V> = [x, scale].into_iter().chain(bias).collect();
            g.one(op, &operands, attributes, Rounding::USUAL).map(drop)
        }
        // Of one element, onnxruntime's sum of scaled element and scaled mean cancels.
        // It is multiplied with the mean, too, so that an infinite one leaves no number.
        "InstanceNormalization" if dims[2..].iter().product::<usize>() > 1 => {
            let [scale, bias] = [0; 2].map(|_| g.finite_weights(dtype, &[dims[1]]));
            let attributes = epsilon(g);
            g.one(op, &[x, scale, bias], attributes, Rounding::USUAL).map(drop)
        }
        "GroupNormalization" if g.opset >= 21 => groups(g, x),
        // What is no number spreads to other channels in onnxruntime.
        "LRN" if g.is_finite(x) => {
            let attributes = vec![int("size", g.c.of(&[1, 3, 5])), float("alpha", 0.01), float("bias", 1.5)];
            g.one(op, &[x], attributes, Rounding::FUNCTION).map(drop)
        }
        // What is next to nothing has a square of nothing.
        "LpNormalization" if !g.numbers(x).iter().any(|v| *v != 0.0 && v.abs() < 1e-15) => {
            let rank = dims.len();
            let attributes = vec![int("axis", g.axis(rank).1), int("p", g.c.between(1, 2))];
            g.one(op, &[x], attributes, Rounding::USUAL).map(drop)
        }
        // onnxruntime leaves the epsilon of the standard's function out.
        "MeanVarianceNormalization" if spread(g, x) => {
            let attributes = if g.c.flag() { vec![ints("axes", &[0, 2, 3])] } else { vec![] };
            g.one(op, &[x], attributes, Rounding::USUAL).map(drop)
        }
        _ => None,
    }
}

/// Whether every channel of an image varies.
fn spread(g: &Grower<'_>, x: V) -> bool {
    let (dims, numbers) = (g.dims(x), g.numbers(x));
    let image = dims[2] * dims[3];
    (0..dims[1]).all(|channel| {
        let of = |n: usize| numbers.iter().skip((n * dims[1] + channel) * image).take(image);
        let all: Vec<f64> = (0..dims[0]).flat_map(of).copied().collect();
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        all.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / all.len() as f64 > 1e-2
    })
}

fn epsilon(g: &mut Grower<'_>) -> Vec<kiln::loaders::onnx::proto::AttributeProto> {
    if g.c.flag() { vec![float("epsilon", 0.01)] } else { vec![] }
}

/// Variances: numbers of at least a half.
pub(super) fn positive(g: &mut Grower<'_>, dtype: DType, count: usize) -> V {
    let numbers: Vec<kiln::ir::Scalar> =
        (0..count).map(|i| kiln::ir::Scalar::F(0.5 + (i % 5) as f64 / 4.0)).collect();
    g.constant(kiln::ir::Tensor::from_scalars(dtype, &[count], &numbers).expect("as many as the dim says"))
}

pub(super) fn recurrent(g: &mut Grower<'_>) -> Option<()> {
    let x = g.any(&[DType::F32], 3..=3);
    let dims = g.dims(x);
    let (steps, batch, size) = (dims[0], dims[1], dims[2]);
    if steps * batch * size == 0 || !g.is_finite(x) || !FLOATS.contains(&g.dtype(x)) {
        return None;
    }
    let (op, gates) = g.c.of(&[("LSTM", 4), ("GRU", 3), ("RNN", 1)]);
    let hidden = 1 + g.c.below(4);
    let direction = g.c.of(&["forward", "reverse", "bidirectional"]);
    let directions = if direction == "bidirectional" { 2 } else { 1 };
    let w = g.finite_weights(DType::F32, &[directions, gates * hidden, size]);
    let r = g.finite_weights(DType::F32, &[directions, gates * hidden, hidden]);
    let bias = g.c.flag().then(|| g.finite_weights(DType::F32, &[directions, 2 * gates * hidden]));
    let start = g.c.flag().then(|| g.finite_weights(DType::F32, &[directions, batch, hidden]));
    let mut attributes = vec![int("hidden_size", hidden as i64), string("direction", direction)];
    if op == "GRU" {
        attributes.push(int("linear_before_reset", g.c.below(2) as i64));
    }
    if g.c.below(4) == 3 {
        attributes.push(float("clip", 1.5));
    }
    if op == "RNN" && g.c.flag() {
        let all = vec!["Relu"; directions];
        attributes.push(kiln::loaders::onnx::make::strings("activations", &all));
        attributes.push(floats("activation_alpha", &vec![0.0; directions]));
    }
    let results = if op == "LSTM" { 3 } else { 2 };
    let operands = [Some(x), Some(w), Some(r), bias, None, start];
    g.add(op, &operands, results, attributes, Rounding::Units(32.0, 1e-6)).map(drop)
}
