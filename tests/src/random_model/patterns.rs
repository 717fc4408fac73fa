//! What exporters write: groups of nodes that passes look for.

use kiln::ir::{DType, Tensor};
use kiln::loaders::onnx::make::{int, ints};

use super::Rounding;
use super::elementwise::filled;
use super::grower::{Grower, V};
use super::linear::{positive, product};
use super::reduce::reduced;
use super::windows::convolved;

const USUAL: Rounding = Rounding::USUAL;
const FUNCTION: Rounding = Rounding::FUNCTION;

pub(super) fn pattern(g: &mut Grower<'_>) -> Option<()> {
    // What infinite numbers come to depends on the order of the steps.
    if g.is_special() {
        return None;
    }
    match g.c.below(7) {
        0 => gelu(g),
        1 => layer_norm(g),
        2 => attention(g),
        3 => conv_chain(g),
        4 => dense(g),
        5 => silu(g),
        _ => softmax(g),
    }
    .map(drop)
}

fn number(g: &mut Grower<'_>, like: V, value: f64) -> V {
    let dtype = g.dtype(like);
    g.constant(filled(dtype, &[], value))
}

fn gelu(g: &mut Grower<'_>) -> Option<V> {
    let x = g.any(&[DType::F32], 1..=3);
    let root = number(g, x, std::f64::consts::SQRT_2);
    let scaled = g.one("Div", &[x, root], vec![], USUAL)?;
    let erf = g.one("Erf", &[scaled], vec![], FUNCTION)?;
    let one = number(g, x, 1.0);
    let above = g.one("Add", &[erf, one], vec![], USUAL)?;
    let product = g.one("Mul", &[x, above], vec![], USUAL)?;
    let half = number(g, x, 0.5);
    g.one("Mul", &[product, half], vec![], USUAL)
}

fn silu(g: &mut Grower<'_>) -> Option<V> {
    let x = g.any(&[DType::F32, DType::F32, DType::F16], 0..=4);
    let gate = g.one("Sigmoid", &[x], vec![], FUNCTION)?;
    g.one("Mul", &[x, gate], vec![], USUAL)
}

fn layer_norm(g: &mut Grower<'_>) -> Option<V> {
    let x = g.any(&[DType::F32], 1..=3);
    if g.tensor(x).numel() == 0 {
        return None;
    }
    let width = *g.dims(x).last()?;
    let mean = reduced(g, "ReduceMean", x, &[-1], true)?;
    let centered = g.one("Sub", &[x, mean], vec![], USUAL)?;
    let two = number(g, x, 2.0);
    let squared = g.one("Pow", &[centered, two], vec![], USUAL)?;
    let variance = reduced(g, "ReduceMean", squared, &[-1], true)?;
    let epsilon = number(g, x, 1e-3);
    let safe = g.one("Add", &[variance, epsilon], vec![], USUAL)?;
    let deviation = g.one("Sqrt", &[safe], vec![], USUAL)?;
    let normal = g.one("Div", &[centered, deviation], vec![], USUAL)?;
    let (scale, bias) = (g.weights(DType::F32, &[width]), g.weights(DType::F32, &[width]));
    let scaled = g.one("Mul", &[normal, scale], vec![], USUAL)?;
    g.one("Add", &[scaled, bias], vec![], USUAL)
}

fn softmax(g: &mut Grower<'_>) -> Option<V> {
    let x = g.any(&[DType::F32], 1..=3);
    if g.tensor(x).numel() == 0 {
        return None;
    }
    let greatest = reduced(g, "ReduceMax", x, &[-1], true)?;
    let below = g.one("Sub", &[x, greatest], vec![], USUAL)?;
    let powers = g.one("Exp", &[below], vec![], FUNCTION)?;
    let total = reduced(g, "ReduceSum", powers, &[-1], true)?;
    g.one("Div", &[powers, total], vec![], USUAL)
}

fn attention(g: &mut Grower<'_>) -> Option<V> {
    let (batch, heads) = (1 + g.c.below(2), 1 + g.c.below(3));
    let (queries, keys) = (1 + g.c.below(6), 1 + g.c.below(6));
    let (width, values) = (1 + g.c.below(6), 1 + g.c.below(6));
    let q = g.input(DType::F32, &[batch, heads, queries, width]);
    let k = g.input(DType::F32, &[batch, heads, keys, width]);
    let v = g.input(DType::F32, &[batch, heads, keys, values]);
    let k = g.one("Transpose", &[k], vec![ints("perm", &[0, 1, 3, 2])], Rounding::Exact)?;
    let mut scores = g.one("MatMul", &[q, k], vec![], USUAL)?;
    if g.c.flag() {
        let root = number(g, scores, (width as f64).sqrt());
        scores = g.one("Div", &[scores, root], vec![], USUAL)?;
    }
    if g.c.flag() {
        let mask = g.weights(DType::F32, &[queries, keys]);
        scores = g.one("Add", &[scores, mask], vec![], USUAL)?;
    }
    let weights = g.one("Softmax", &[scores], vec![int("axis", -1)], FUNCTION)?;
    let mixed = g.one("MatMul", &[weights, v], vec![], USUAL)?;
    let mixed = g.one("Transpose", &[mixed], vec![ints("perm", &[0, 2, 1, 3])], Rounding::Exact)?;
    let shape = g.constant(Tensor::ints(&[0, 0, -1]));
    g.one("Reshape", &[mixed, shape], vec![], Rounding::Exact)
}

fn conv_chain(g: &mut Grower<'_>) -> Option<V> {
    let (n, c) = (1 + g.c.below(2), g.c.of(&[1, 3, 4, 8]));
    let (h, w) = (4 + g.c.below(5), 4 + g.c.below(5));
    let x = g.input(DType::F32, &[n, c, h, w]);
    let y = convolved(g, x)?;
    let channels = g.dims(y)[1];
    let [scale, bias, mean] = [0; 3].map(|_| g.weights(DType::F32, &[channels]));
    let variance = positive(g, DType::F32, channels);
    let normal = g.one("BatchNormalization", &[y, scale, bias, mean, variance], vec![], USUAL)?;
    let active = match g.c.below(3) {
        0 => g.one("Relu", &[normal], vec![], Rounding::Exact)?,
        1 => {
            let (low, high) = (number(g, normal, 0.0), number(g, normal, 6.0));
            g.one("Clip", &[normal, low, high], vec![], Rounding::Exact)?
        }
        _ if g.opset >= 14 => g.one("HardSwish", &[normal], vec![], USUAL)?,
        _ => normal,
    };
    if g.c.flag() && g.dims(active) == g.dims(x) {
        return g.one("Add", &[active, x], vec![], USUAL);
    }
    g.one("GlobalAveragePool", &[active], vec![], USUAL)
}

fn dense(g: &mut Grower<'_>) -> Option<V> {
    let x = g.any(&[DType::F32, DType::F32, DType::F16], 2..=3);
    let y = product(g, x)?;
    let bias = g.partner(y);
    let sum = g.one("Add", &[y, bias], vec![], USUAL)?;
    let active = g.one("Relu", &[sum], vec![], Rounding::Exact)?;
    product(g, active)
}
