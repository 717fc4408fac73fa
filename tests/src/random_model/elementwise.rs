//! Elementwise operators, comparisons, casts.

use kiln::ir::{DType, Scalar, Tensor};
use kiln::loaders::onnx::make::{float, int, string};
use kiln::loaders::onnx::tensor::data_type;

use crate::agreement::unit;

use super::Rounding;
use super::grower::{FLOATS, Grower, INTS, MOVED, NUMBERS, V, broadcasts};

const HALF_OR_SINGLE: &[DType] = &[DType::F32, DType::F32, DType::F32, DType::F16];

/// Functions of floats: name, first opset, dtypes that are common.
const FUNCTIONS: &[(&str, i64, &[DType])] = &[
    ("Exp", 1, FLOATS),
    ("Log", 1, FLOATS),
    ("Sqrt", 1, FLOATS),
    ("Tanh", 1, FLOATS),
    ("Sigmoid", 1, FLOATS),
    ("Reciprocal", 1, FLOATS),
    ("Erf", 9, HALF_OR_SINGLE),
    ("Sin", 7, FLOATS),
    ("Cos", 7, HALF_OR_SINGLE),
    ("Tan", 7, HALF_OR_SINGLE),
    ("Atan", 7, HALF_OR_SINGLE),
    ("Asin", 7, HALF_OR_SINGLE),
    ("Acos", 7, HALF_OR_SINGLE),
    ("Sinh", 9, HALF_OR_SINGLE),
    ("Cosh", 9, HALF_OR_SINGLE),
    ("Asinh", 9, HALF_OR_SINGLE),
    ("Acosh", 9, HALF_OR_SINGLE),
    ("Atanh", 9, HALF_OR_SINGLE),
    ("Softplus", 1, HALF_OR_SINGLE),
    ("Softsign", 1, HALF_OR_SINGLE),
    ("Mish", 18, HALF_OR_SINGLE),
    ("Gelu", 20, HALF_OR_SINGLE),
    ("Elu", 6, HALF_OR_SINGLE),
    ("Selu", 6, HALF_OR_SINGLE),
    ("Celu", 12, &[DType::F32]),
];

/// What rounds once or not at all.
const PLAIN: &[(&str, i64, &[DType])] = &[
    ("Relu", 14, &[DType::F32, DType::F32, DType::F64, DType::F16, DType::I32, DType::I8]),
    ("Abs", 13, NUMBERS),
    ("Neg", 13, NUMBERS),
    ("Sign", 13, NUMBERS),
    ("Floor", 13, FLOATS),
    ("Ceil", 13, HALF_OR_SINGLE),
    ("Round", 11, FLOATS),
    ("IsNaN", 13, FLOATS),
    ("IsInf", 10, &[DType::F32, DType::F64]),
    ("LeakyRelu", 6, HALF_OR_SINGLE),
    ("HardSigmoid", 6, HALF_OR_SINGLE),
    ("HardSwish", 14, HALF_OR_SINGLE),
    ("ThresholdedRelu", 10, HALF_OR_SINGLE),
    ("Shrink", 9, HALF_OR_SINGLE),
    ("Identity", 13, MOVED),
];

pub(super) fn unary(g: &mut Grower<'_>) -> Option<()> {
    if g.c.below(5) < 2 {
        let (name, since, dtypes) = g.c.of(FUNCTIONS);
        if since > g.opset {
            return None;
        }
        let x = g.any(dtypes, 0..=4);
        let undecided = match name {
            "Tan" => is_near_a_pole(g, x),
            "Asin" | "Acos" | "Atanh" => is_near_one(g, x),
            _ => false,
        };
        if undecided {
            return None;
        }
        let attributes = match name {
            "Gelu" if g.c.flag() => vec![string("approximate", "tanh")],
            "Elu" | "Celu" if g.c.flag() => vec![float("alpha", 0.75)],
            _ => vec![],
        };
        return g.one(name, &[x], attributes, Rounding::FUNCTION).map(drop);
    }
    let (name, since, dtypes) = g.c.of(PLAIN);
    if since > g.opset {
        return None;
    }
    let x = g.any(dtypes, 0..=4);
    // onnxruntime gives what is no number in 16 bits a sign, and integers of 64 bits that of their lower half.
    let half = g.dtype(x) == DType::F16 && !g.is_finite(x);
    if name == "Sign" && (half || g.is_wide(x)) {
        return None;
    }
    let attributes = match name {
        "LeakyRelu" if g.c.flag() => vec![float("alpha", 0.25)],
        "HardSigmoid" if g.c.flag() => vec![float("alpha", 0.25), float("beta", 0.75)],
        "ThresholdedRelu" if g.c.flag() => vec![float("alpha", 0.5)],
        "Shrink" if g.c.flag() => vec![float("lambd", 1.0), float("bias", 0.5)],
        "IsInf" if g.c.flag() => vec![int("detect_negative", 0)],
        _ => vec![],
    };
    let rounding = if matches!(name, "HardSigmoid" | "HardSwish" | "LeakyRelu" | "Shrink") {
        Rounding::USUAL
    } else {
        // What is compared with a threshold is compared by all in the same way.
        Rounding::Exact
    };
    g.one(name, &[x], attributes, rounding).map(drop)
}

/// Whether an operand's rounding decides on which side of 1 or -1 it is.
fn is_near_one(g: &Grower<'_>, x: V) -> bool {
    let near = 16.0 * unit(g.dtype(x)).0;
    g.numbers(x).iter().any(|v| (v.abs() - 1.0).abs() < near)
}

/// Whether an operand's rounding decides on which side of a pole of the tangent it is.
fn is_near_a_pole(g: &Grower<'_>, x: V) -> bool {
    let (relative, least) = unit(g.dtype(x));
    g.numbers(x).iter().any(|v| v.cos().abs() < 16.0 * (relative * v.abs()).max(least))
}

pub(super) fn binary(g: &mut Grower<'_>) -> Option<()> {
    let x = g.any(NUMBERS, 0..=4);
    let dtype = g.dtype(x);
    let op = g.c.of(&["Add", "Sub", "Mul", "Div", "Mul", "Add", "Pow", "Mod", "PRelu", "Div"]);
    let rounding = if dtype.is_float() { Rounding::USUAL } else { Rounding::Exact };
    match op {
        "Div" | "Mod" if dtype.is_int() => {
            let y = divisor(g, x);
            let truncated = op == "Mod" && g.c.flag();
            // onnxruntime computes the remainder of truncated quotients in double precision.
            if truncated && g.numbers(x).iter().any(|v| v.abs() >= 2f64.powi(53)) {
                return None;
            }
            let attributes = if truncated { vec![int("fmod", 1)] } else { vec![] };
            g.one(op, &[x, y], attributes, rounding).map(drop)
        }
        "Mod" => {
            let y = divisor(g, x);
            g.one(op, &[x, y], vec![int("fmod", 1)], rounding).map(drop)
        }
        "Pow" => {
            let dims = g.dims(x);
            let dims = g.broadcast_part(&dims);
            let y = if dtype.is_int() || g.c.flag() {
                let exponent: f64 = g.c.of(&[2.0, 0.0, 1.0, 3.0]);
                // onnxruntime raises integers in double precision, whose conversion back is undefined where it overflows.
                let large = |v: &f64| v.abs().powf(exponent) >= 2f64.powi(dtype.bits().min(53) as i32 - 1);
                if dtype.is_int() && g.numbers(x).iter().any(large) {
                    return None;
                }
                let of = if dtype.is_int() { dtype } else { g.c.of(&[dtype, DType::I64, DType::F32]) };
                g.param(filled(of, &dims, exponent))
            } else {
                g.weights(dtype, &dims)
            };
            g.one(op, &[x, y], vec![], if dtype.is_float() { Rounding::FUNCTION } else { rounding }).map(drop)
        }
        "PRelu" if matches!(dtype, DType::F32 | DType::F16) => {
            let dims = g.dims(x);
            // The slope broadcasts in one direction.
            let dims = g.broadcast_part(&dims);
            let slope = g.weights(dtype, &dims);
            g.one(op, &[x, slope], vec![], rounding).map(drop)
        }
        "PRelu" => None,
        _ => {
            let y = g.partner(x);
            let operands = if g.c.flag() { [x, y] } else { [y, x] };
            g.one(op, &operands, vec![], rounding).map(drop)
        }
    }
}

/// A tensor of one number.
pub(super) fn filled(dtype: DType, dims: &[usize], value: f64) -> Tensor {
    let scalar = match dtype {
        d if d.is_float() => Scalar::F(value),
        DType::Bool => Scalar::B(value != 0.0),
        _ => Scalar::I(value as i128),
    };
    let scalars = vec![scalar; dims.iter().product()];
    Tensor::from_scalars(dtype, dims, &scalars).expect("as many elements as dims say")
}

/// Numbers in [1, 8), by which anything can be divided.
fn divisor(g: &mut Grower<'_>, x: V) -> V {
    let dims = g.dims(x);
    let dims = g.broadcast_part(&dims);
    let dtype = g.dtype(x);
    let seed = g.c.below(7);
    let scalars: Vec<Scalar> = (0..dims.iter().product::<usize>())
        .map(|i| {
            let n = 1 + (i * 5 + seed) % 7;
            if dtype.is_float() { Scalar::F(n as f64 + 0.5) } else { Scalar::I(n as i128) }
        })
        .collect();
    g.param(Tensor::from_scalars(dtype, &dims, &scalars).expect("as many elements as dims say"))
}

pub(super) fn variadic(g: &mut Grower<'_>) -> Option<()> {
    let op = g.c.of(&["Max", "Min", "Sum", "Mean"]);
    let dtypes: &[DType] = if matches!(op, "Max" | "Min") {
        &[DType::F32, DType::F32, DType::I32, DType::I64, DType::F16, DType::F64, DType::U32]
    } else {
        &[DType::F32, DType::F32, DType::F16]
    };
    let x = g.any(dtypes, 0..=4);
    let mut operands = vec![x];
    for _ in 0..g.c.below(3) {
        let y = g.partner(x);
        let fits = operands.iter().all(|&o| broadcasts(&g.dims(o), &g.dims(y)));
        if fits {
            operands.push(y);
        }
    }
    if operands.iter().any(|&o| g.is_wide(o)) && g.dtype(x) == DType::I64 {
        return None;
    }
    let rounding = if matches!(op, "Max" | "Min") { Rounding::Exact } else { Rounding::USUAL };
    g.one(op, &operands, vec![], rounding).map(drop)
}

pub(super) fn compare(g: &mut Grower<'_>) -> Option<()> {
    if g.c.flag() {
        let op = g.c.of(&["Less", "Greater", "Equal", "LessOrEqual", "GreaterOrEqual"]);
        if op.ends_with("OrEqual") && g.opset < 16 {
            return None;
        }
        let x = g.any(&[DType::F32, DType::F32, DType::I64, DType::I32, DType::F64, DType::F16], 0..=4);
        let y = g.partner(x);
        return g.one(op, &[x, y], vec![], Rounding::Exact).map(drop);
    }
    let condition = g.any(&[DType::Bool], 0..=3);
    let dims = g.dims(condition);
    let taken = [DType::F32, DType::F16, DType::I64, DType::I32, DType::U8];
    let fitting = g.find(|t| taken.contains(&t.dtype()) && broadcasts(t.dims(), &dims));
    let x = fitting.unwrap_or_else(|| g.input(DType::F32, &dims));
    let (dtype, mut y) = (g.dtype(x), g.partner(x));
    if !broadcasts(&g.dims(y), &dims) {
        y = g.param(filled(dtype, &[], 1.0));
    }
    g.one("Where", &[condition, x, y], vec![], Rounding::Exact).map(drop)
}

pub(super) fn bits(g: &mut Grower<'_>) -> Option<()> {
    match g.c.below(4) {
        0 => {
            let x = g.any(&[DType::Bool], 0..=4);
            g.one("Not", &[x], vec![], Rounding::Exact).map(drop)
        }
        1 => {
            let x = g.any(&[DType::Bool], 0..=4);
            let y = g.partner(x);
            let op = g.c.of(&["And", "Or", "Xor"]);
            g.one(op, &[x, y], vec![], Rounding::Exact).map(drop)
        }
        2 if g.opset >= 18 => {
            let x = g.any(INTS, 0..=4);
            let op = g.c.of(&["BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot"]);
            if op == "BitwiseNot" {
                return g.one(op, &[x], vec![], Rounding::Exact).map(drop);
            }
            let y = g.partner(x);
            g.one(op, &[x, y], vec![], Rounding::Exact).map(drop)
        }
        _ => {
            let x = g.any(&[DType::U8, DType::U32, DType::U64], 0..=4);
            let amount = g.c.below(g.dtype(x).bits());
            let dims = g.dims(x);
            let dims = g.broadcast_part(&dims);
            let y = g.param(filled(g.dtype(x), &dims, amount as f64));
            let direction = g.c.of(&["LEFT", "RIGHT"]);
            g.one("BitShift", &[x, y], vec![string("direction", direction)], Rounding::Exact).map(drop)
        }
    }
}

pub(super) fn cast(g: &mut Grower<'_>) -> Option<()> {
    use DType::*;
    let mut from = vec![F32, F32, F16, F64, I64, I32, U8, I8, Bool, I16, U32];
    let mut to = vec![F32, F32, F16, F64, I64, I32, U8, I8, Bool, I16, U16, U32, U64];
    if g.exotic {
        from.extend([BF16, BF16, F8E4M3FN, F8E5M2, I4, U4]);
        to.extend([BF16, BF16, BF16]);
        if g.opset >= 19 {
            to.extend([F8E4M3FN, F8E5M2, F8E4M3FNUZ, F8E5M2FNUZ]);
        }
        if g.opset >= 21 {
            to.extend([I4, U4]);
        }
    }
    let x = g.any(&from, 0..=4);
    let to = g.c.of(&to);
    cast_to(g, x, to).map(drop)
}

/// A cast; `None` where the standard leaves the result open: what is beyond the range of integers.
pub(super) fn cast_to(g: &mut Grower<'_>, x: V, to: DType) -> Option<V> {
    let from = g.dtype(x);
    if from.is_float() && to.is_int() {
        let bits = to.bits() as i32;
        let (low, high) = match to.class() {
            kiln::ir::DClass::Signed => (-(2f64.powi(bits - 1)), 2f64.powi(bits - 1)),
            // What rounds to -1 wraps in onnxruntime.
            _ => (0.01, 2f64.powi(bits)),
        };
        if !g.numbers(x).iter().all(|&v| v > low - 1.0 && v < high) {
            return None;
        }
    }
    // Nibbles that do not fit are rounded, wrapped or saturated, by release of the standard.
    if to.bits() < 8 && from != to {
        let high = if to == DType::I4 { 7.0 } else { 15.0 };
        let low = if to == DType::I4 { -8.0 } else { 0.0 };
        let fits = |&v: &f64| v.fract() == 0.0 && (low..=high).contains(&v);
        if from == DType::Bool || !g.numbers(x).iter().all(fits) {
            return None;
        }
    }
    g.one("Cast", &[x], vec![int("to", i64::from(data_type(to)))], Rounding::Exact)
}

pub(super) fn clip(g: &mut Grower<'_>) -> Option<()> {
    let x =
        g.any(&[DType::F32, DType::F32, DType::F16, DType::F64, DType::I32, DType::I64, DType::U8], 0..=4);
    let dtype = g.dtype(x);
    let bound = |g: &mut Grower<'_>, v: f64| g.c.below(4).gt(&0).then(|| g.param(filled(dtype, &[], v)));
    let low = if dtype == DType::U8 { 1.0 } else { -1.0 };
    let (low, high) = (bound(g, low), bound(g, 2.0));
    if dtype == DType::I64 && g.is_wide(x) {
        return None;
    }
    // onnxruntime clips to finite numbers where there is no bound.
    if dtype.is_float() && !g.is_finite(x) && (low.is_none() || high.is_none()) {
        return None;
    }
    g.add("Clip", &[Some(x), low, high], 1, vec![], Rounding::Exact).map(drop)
}
