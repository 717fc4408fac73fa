//! Sorting and searching.

use kiln::ir::{DType, Scalar, Tensor};
use kiln::loaders::onnx::make::int;

use super::Rounding;
use super::grower::{Grower, MOVED, V};

pub(super) fn arg(g: &mut Grower<'_>) -> Option<()> {
    let op = g.c.of(&["ArgMax", "ArgMin"]);
    let x = g.any(&[DType::F32, DType::F32, DType::I32, DType::F64, DType::U8], 1..=4);
    // onnxruntime skips what is no number.
    if g.tensor(x).numel() == 0 || g.numbers(x).iter().any(|v| v.is_nan()) {
        return None;
    }
    let rank = g.rank(x);
    let (_, axis) = g.axis(rank);
    let attributes = vec![
        int("axis", axis),
        int("keepdims", g.c.below(2) as i64),
        int("select_last_index", g.c.below(2) as i64),
    ];
    g.one(op, &[x], attributes, Rounding::Exact).map(drop)
}

pub(super) fn top_k(g: &mut Grower<'_>) -> Option<()> {
    let x = g.any(&[DType::F32, DType::F32, DType::I64, DType::I32, DType::F64], 1..=4);
    // Numbers that are none have no order.
    if g.tensor(x).numel() == 0 || g.numbers(x).iter().any(|v| v.is_nan()) {
        return None;
    }
    let rank = g.rank(x);
    let (axis, spelled) = g.axis(rank);
    let size = g.dims(x)[axis];
    let k = g.c.between(1, size as i64);
    let k = g.longs(&[k]);
    let attributes = vec![int("axis", spelled), int("largest", g.c.below(2) as i64), int("sorted", 1)];
    g.add("TopK", &[Some(x), Some(k)], 2, attributes, Rounding::Exact).map(drop)
}

pub(super) fn search(g: &mut Grower<'_>) -> Option<()> {
    match g.c.below(4) {
        0 => {
            let x = g.any(&[DType::Bool, DType::F32, DType::I64, DType::I32, DType::U8], 1..=3);
            g.one("NonZero", &[x], vec![], Rounding::Exact).map(drop)
        }
        1 => {
            let x = g.any(&[DType::I64, DType::F32, DType::I8], 1..=3);
            if g.tensor(x).numel() == 0 || g.numbers(x).iter().any(|v| v.is_nan()) {
                return None;
            }
            if g.dtype(x).is_float() && !g.is_apart(x) {
                return None;
            }
            let rank = g.rank(x);
            let mut attributes = vec![int("sorted", g.c.below(2) as i64)];
            if g.c.flag() {
                attributes.push(int("axis", g.axis(rank).1));
            }
            let results = 1 + g.c.below(4);
            g.add("Unique", &[Some(x)], results, attributes, Rounding::Exact).map(drop)
        }
        2 => compress(g),
        _ => one_hot(g),
    }
}

fn compress(g: &mut Grower<'_>) -> Option<()> {
    let x: V = g.any(MOVED, 1..=3);
    let rank = g.rank(x);
    let (axis, spelled) = g.axis(rank);
    let flat = g.c.flag();
    let size = if flat { g.tensor(x).numel() } else { g.dims(x)[axis] };
    let keep: Vec<bool> = (0..size).map(|_| g.c.flag()).collect();
    let keep = g.param(Tensor::from_bools(&[size], &keep).ok()?);
    let attributes = if flat { vec![] } else { vec![int("axis", spelled)] };
    g.one("Compress", &[x, keep], attributes, Rounding::Exact).map(drop)
}

fn one_hot(g: &mut Grower<'_>) -> Option<()> {
    let x = g.any(&[DType::I64], 1..=3);
    // A place outside has a row of off values; what a float that is no index means is left open.
    let depth = 2 + g.c.below(5) as i64;
    let depth = g.param(Tensor::scalar(depth));
    let values = g.c.of(&[DType::F32, DType::I64]);
    let values = g.param(Tensor::from_scalars(values, &[2], &off_and_on(values)).ok()?);
    let rank = g.rank(x);
    let axis = g.c.between(-1, rank as i64);
    g.one("OneHot", &[x, depth, values], vec![int("axis", axis)], Rounding::Exact).map(drop)
}

fn off_and_on(dtype: DType) -> [Scalar; 2] {
    if dtype.is_float() { [Scalar::F(-0.5), Scalar::F(2.0)] } else { [Scalar::I(1), Scalar::I(5)] }
}
