//! Reductions and functions along an axis.

use kiln::ir::{DType, Tensor};
use kiln::loaders::onnx::make::{int, ints};

use super::Rounding;
use super::grower::{Grower, V};

const SUMS: &[&str] = &[
    "ReduceSum",
    "ReduceMean",
    "ReduceMax",
    "ReduceMin",
    "ReduceProd",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceSumSquare",
    "ReduceSum",
    "ReduceMean",
    "ReduceMax",
];

pub(super) fn reduce(g: &mut Grower<'_>) -> Option<()> {
    let op = g.c.of(SUMS);
    let dtypes: &[DType] = match op {
        "ReduceSum" | "ReduceProd" => &[DType::F32, DType::F32, DType::I64, DType::I32, DType::F16],
        "ReduceMax" | "ReduceMin" => &[DType::F32, DType::F32, DType::I64, DType::I32, DType::U8, DType::F64],
        _ => &[DType::F32, DType::F32, DType::F16, DType::F64],
    };
    let x = g.any(dtypes, 0..=4);
    // Sums of integers that overflow are left open; onnxruntime keeps empty axes of sums of nothing.
    let large = g.dtype(x).is_int() && g.numbers(x).iter().any(|v| v.abs() > 1e5);
    if g.tensor(x).numel() == 0 || large {
        return None;
    }
    let rank = g.rank(x);
    let axes: Vec<i64> = (0..rank)
        .filter(|_| g.c.flag())
        .map(|axis| if axis % 2 == 0 { axis as i64 } else { axis as i64 - rank as i64 })
        .collect();
    let keep = g.c.flag();
    reduced(g, op, x, &axes, keep).map(drop)
}

/// A reduction; no axes are all of them.
pub(super) fn reduced(g: &mut Grower<'_>, op: &str, x: V, axes: &[i64], keep: bool) -> Option<V> {
    // onnxruntime's extremum of numbers and of what is none depends on their order, and products overflow as it likes.
    let numbers = g.numbers(x);
    let overflows = || numbers.iter().map(|v| v.abs().max(1.0)).product::<f64>() >= 2f64.powi(31);
    if numbers.iter().any(|v| v.is_nan()) || op == "ReduceProd" && g.dtype(x).is_int() && overflows() {
        return None;
    }
    // The logarithm of a sum that cancels is anything.
    if op == "ReduceLogSum" && numbers.iter().any(|v| *v < 0.0) {
        return None;
    }
    // Many equal numbers are all rounded to the same side: the error of their sum grows with their count.
    let equal = numbers.len() > 128 && numbers.iter().all(|v| v.abs() == numbers[0].abs());
    if g.dtype(x).is_float() && equal {
        return None;
    }
    let mut attributes = vec![int("keepdims", i64::from(keep))];
    let since = if op == "ReduceSum" { 13 } else { 18 };
    let mut operands = vec![Some(x)];
    if g.opset >= since {
        if !axes.is_empty() || g.c.flag() {
            let axes = g.longs(axes);
            operands.push(Some(axes));
        }
        if g.c.below(4) == 3 {
            attributes.push(int("noop_with_empty_axes", 1));
        }
    } else if !axes.is_empty() {
        attributes.push(ints("axes", axes));
    }
    let exact = matches!(op, "ReduceMax" | "ReduceMin") || g.dtype(x).is_int();
    let rounding = match op {
        _ if exact => Rounding::Exact,
        "ReduceLogSum" | "ReduceLogSumExp" => Rounding::FUNCTION,
        _ => Rounding::USUAL,
    };
    g.add(op, &operands, 1, attributes, rounding).map(|v| v[0])
}

pub(super) fn along_axis(g: &mut Grower<'_>) -> Option<()> {
    let op = g.c.of(&["Softmax", "LogSoftmax", "CumSum", "Softmax", "Hardmax", "CumSum"]);
    let dtypes: &[DType] = match op {
        "CumSum" => &[DType::F32, DType::F32, DType::I64, DType::I32, DType::F64],
        "Hardmax" => &[DType::F32],
        _ => &[DType::F32, DType::F32, DType::F16, DType::F64],
    };
    let x = g.any(dtypes, 1..=4);
    let large = g.dtype(x).is_int() && g.numbers(x).iter().any(|v| v.abs() > 1e5);
    // onnxruntime takes the largest of f64 as if there were no NaN, and infinite ones as if they were finite.
    let unordered = g.dtype(x) == DType::F64 && !g.is_finite(x);
    if g.tensor(x).numel() == 0 || large || unordered {
        return None;
    }
    let rank = g.rank(x);
    let (_, axis) = g.axis(rank);
    if op == "CumSum" {
        let at = g.param(Tensor::scalar(axis));
        let attributes = vec![int("exclusive", g.c.below(2) as i64), int("reverse", g.c.below(2) as i64)];
        let rounding = if g.dtype(x).is_float() { Rounding::USUAL } else { Rounding::Exact };
        return g.one(op, &[x, at], attributes, rounding).map(drop);
    }
    if op == "Hardmax" && !g.is_finite(x) {
        return None;
    }
    let rounding = if op == "Hardmax" { Rounding::Exact } else { Rounding::FUNCTION };
    g.one(op, &[x], vec![int("axis", axis)], rounding).map(drop)
}
