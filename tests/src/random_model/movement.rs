//! Operators that move elements, and arithmetic on shapes.

use kiln::ir::{DType, Tensor};
use kiln::loaders::onnx::make::{int, ints, string, tensor_attr};
use kiln::loaders::onnx::tensor::tensor_proto;

use super::Rounding;
use super::elementwise::filled;
use super::grower::{Grower, MOVED, V, broadcasts};

pub(super) fn reshape(g: &mut Grower<'_>) -> Option<()> {
    let x = g.any(MOVED, 0..=4);
    let dims: Vec<i64> = g.dims(x).iter().map(|&d| d as i64).collect();
    let total: i64 = dims.iter().product();
    match g.c.below(6) {
        0 => {
            let (_, axis) = g.axis(dims.len() + 1);
            let axis = if axis < 0 { axis + 1 } else { axis };
            g.one("Flatten", &[x], vec![int("axis", axis)], Rounding::Exact).map(drop)
        }
        1 => {
            let ones: Vec<i64> =
                (0..dims.len() as i64).filter(|&i| dims[i as usize] == 1 && g.c.flag()).collect();
            // onnxruntime needs axes.
            if ones.is_empty() {
                return None;
            }
            let axes = g.longs(&ones);
            g.one("Squeeze", &[x, axes], vec![], Rounding::Exact).map(drop)
        }
        2 => {
            let at = g.c.below(dims.len() + 1) as i64;
            let axes = if g.c.flag() { vec![at] } else { vec![at, -1] };
            let axes = g.longs(&axes);
            g.one("Unsqueeze", &[x, axes], vec![], Rounding::Exact).map(drop)
        }
        kind => {
            let mut shape = dims.clone();
            let at = g.c.below(shape.len());
            match (kind, shape.len()) {
                (3, 2..) => {
                    let at = at.min(shape.len() - 2);
                    let both = shape[at] * shape[at + 1];
                    shape.splice(at..at + 2, [both]);
                }
                (4, 1..) if shape[at] % 2 == 0 => {
                    let half = shape[at] / 2;
                    shape.splice(at..=at, [2, half]);
                }
                _ => shape = vec![total],
            }
            // A 0 copies the size in its place, -1 is what is left.
            if total > 0 && g.c.flag() && !shape.is_empty() {
                let at = g.c.below(shape.len());
                shape[at] = -1;
            } else if g.c.flag() {
                for (to, from) in shape.iter_mut().zip(&dims) {
                    if *to == *from {
                        *to = 0;
                    } else {
                        break;
                    }
                }
            }
            let shape = g.longs(&shape);
            g.one("Reshape", &[x, shape], vec![], Rounding::Exact).map(drop)
        }
    }
}

pub(super) fn transpose(g: &mut Grower<'_>) -> Option<()> {
    let x = g.any(MOVED, 1..=4);
    let attributes = if g.c.below(4) == 3 {
        vec![]
    } else {
        let mut perm: Vec<i64> = (0..g.rank(x) as i64).collect();
        for i in (1..perm.len()).rev() {
            perm.swap(i, g.c.below(i + 1));
        }
        vec![ints("perm", &perm)]
    };
    g.one("Transpose", &[x], attributes, Rounding::Exact).map(drop)
}

pub(super) fn slice(g: &mut Grower<'_>) -> Option<()> {
    let x = g.any(MOVED, 1..=4);
    let dims = g.dims(x);
    let (mut starts, mut ends, mut axes, mut steps) = (vec![], vec![], vec![], vec![]);
    for (axis, &d) in dims.iter().enumerate() {
        if g.c.flag() && !(starts.is_empty() && axis + 1 == dims.len()) {
            continue;
        }
        let d = d as i64;
        axes.push(if g.c.flag() { axis as i64 } else { axis as i64 - dims.len() as i64 });
        let (start, end, step) = match g.c.below(6) {
            0 => (d - 1, i64::MIN + 1, -1),
            1 => (0, i64::MAX, g.c.between(1, 3)),
            2 => (-2, i64::MAX, 1),
            3 => (g.c.between(0, d), -1, 1),
            4 => (d, -d - 1, -2),
            _ => {
                let start = g.c.between(0, d);
                (start, g.c.between(start, d + 2), 1)
            }
        };
        starts.push(start);
        ends.push(end);
        steps.push(step);
    }
    let (starts, ends, axes, steps) = (g.longs(&starts), g.longs(&ends), g.longs(&axes), g.longs(&steps));
    g.one("Slice", &[x, starts, ends, axes, steps], vec![], Rounding::Exact).map(drop)
}

pub(super) fn join(g: &mut Grower<'_>) -> Option<()> {
    let x = g.any(MOVED, 1..=4);
    let (dtype, dims) = (g.dtype(x), g.dims(x));
    let (axis, spelled) = g.axis(dims.len());
    let fits = |t: &Tensor| {
        let other = t.dims();
        t.dtype() == dtype
            && other.len() == dims.len()
            && other.iter().zip(&dims).enumerate().all(|(i, (a, b))| i == axis || a == b)
    };
    let mut operands = vec![x];
    for _ in 0..1 + g.c.below(2) {
        let y = match g.find(fits) {
            Some(y) if g.c.below(3) > 0 => y,
            _ => {
                let mut shape = dims.clone();
                shape[axis] = g.c.below(4);
                g.weights(dtype, &shape)
            }
        };
        operands.push(y);
    }
    g.one("Concat", &operands, vec![int("axis", spelled)], Rounding::Exact).map(drop)
}

pub(super) fn split(g: &mut Grower<'_>) -> Option<()> {
    let x = g.any(MOVED, 1..=4);
    let dims = g.dims(x);
    let (axis, spelled) = g.axis(dims.len());
    let size = dims[axis];
    let mut attributes = vec![int("axis", spelled)];
    if g.opset >= 18 && g.c.flag() {
        let parts = g.c.between(1, 3.min(size.max(1)) as i64);
        attributes.push(int("num_outputs", parts));
        return g.add("Split", &[Some(x)], parts as usize, attributes, Rounding::Exact).map(drop);
    }
    let first = g.c.below(size + 1);
    let second = g.c.below(size - first + 1);
    let parts = [first, second, size - first - second].map(|n| n as i64);
    let parts = g.longs(&parts);
    g.add("Split", &[Some(x), Some(parts)], 3, attributes, Rounding::Exact).map(drop)
}

pub(super) fn pad(g: &mut Grower<'_>) -> Option<()> {
    let x =
        g.any(&[DType::F32, DType::F32, DType::F64, DType::I64, DType::I32, DType::U8, DType::Bool], 1..=4);
    let dims = g.dims(x);
    let mut modes = vec!["constant", "constant", "reflect", "edge"];
    if g.opset >= 19 {
        modes.push("wrap");
    }
    let mode = g.c.of(&modes);
    if mode != "constant" && dims.contains(&0) {
        return None;
    }
    let most = |d: usize| match mode {
        "reflect" => (d as i64 - 1).min(2),
        "wrap" => (d as i64).min(2),
        _ => 2,
    };
    let low = if g.c.below(4) == 3 && mode == "constant" { -1 } else { 0 };
    let pads: Vec<i64> = (0..2 * dims.len())
        .map(|i| {
            let d = dims[i % dims.len()];
            let low = if d > 2 { low } else { 0 };
            if g.c.flag() { 0 } else { g.c.between(low, most(d)) }
        })
        .collect();
    let pads = g.longs(&pads);
    let dtype = g.dtype(x);
    let fill = (mode == "constant" && g.c.flag()).then(|| g.param(filled(dtype, &[], 1.0)));
    g.add("Pad", &[Some(x), Some(pads), fill], 1, vec![string("mode", mode)], Rounding::Exact).map(drop)
}

/// An operand of places along an axis of so many.
fn places(g: &mut Grower<'_>, size: usize, dims: &[usize]) -> Option<V> {
    if size == 0 {
        return None;
    }
    let size = size as i64;
    let all: Vec<i64> = (0..dims.iter().product()).map(|_| g.c.between(-size, size - 1)).collect();
    let tensor = if g.c.below(4) == 3 {
        Tensor::from_slice(dims, &all.iter().map(|&v| v as i32).collect::<Vec<_>>())
    } else {
        Tensor::from_slice(dims, &all)
    };
    let tensor = tensor.ok()?;
    Some(if g.c.flag() { g.input_of(tensor) } else { g.constant(tensor) })
}

pub(super) fn gather(g: &mut Grower<'_>) -> Option<()> {
    let x = g.any(MOVED, 1..=4);
    let dims = g.dims(x);
    let (axis, spelled) = g.axis(dims.len());
    match g.c.below(4) {
        0 => {
            let mut shape: Vec<usize> = dims.iter().map(|&d| 1 + g.c.below(d.max(1))).collect();
            shape.iter_mut().zip(&dims).for_each(|(s, &d)| *s = (*s).min(d));
            shape[axis] = 1 + g.c.below(4);
            let at = places(g, dims[axis], &shape)?;
            g.one("GatherElements", &[x, at], vec![int("axis", spelled)], Rounding::Exact).map(drop)
        }
        1 => {
            let depth = 1 + g.c.below(dims.len());
            let rows = 1 + g.c.below(4);
            if dims[..depth].contains(&0) {
                return None;
            }
            let all: Vec<i64> = (0..rows * depth)
                .map(|i| g.c.between(-(dims[i % depth] as i64), dims[i % depth] as i64 - 1))
                .collect();
            let at = g.param(Tensor::from_slice(&[rows, depth], &all).ok()?);
            g.one("GatherND", &[x, at], vec![], Rounding::Exact).map(drop)
        }
        _ => {
            let rank = g.c.below(3);
            let shape: Vec<usize> = (0..rank).map(|_| 1 + g.c.below(3)).collect();
            let at = places(g, dims[axis], &shape)?;
            g.one("Gather", &[x, at], vec![int("axis", spelled)], Rounding::Exact).map(drop)
        }
    }
}

pub(super) fn scatter(g: &mut Grower<'_>) -> Option<()> {
    let x = g.any(&[DType::F32, DType::F32, DType::I64, DType::I32, DType::F64], 1..=3);
    let (dtype, dims) = (g.dtype(x), g.dims(x));
    if g.tensor(x).numel() == 0 {
        return None;
    }
    let how = if g.opset >= 18 {
        g.c.of(&["none", "add", "mul", "max", "min"])
    } else {
        g.c.of(&["none", "none", "add"])
    };
    if how != "none" && g.opset < 16 {
        return None;
    }
    // What is no number is smaller and greater than what it is compared with, or neither.
    if matches!(how, "max" | "min") && (g.is_special() || !g.is_finite(x)) {
        return None;
    }
    let attributes = |axis: Option<i64>| {
        let mut all: Vec<_> = axis.map(|axis| int("axis", axis)).into_iter().collect();
        if how != "none" {
            all.push(string("reduction", how));
        }
        all
    };
    let rounding =
        if matches!(how, "add" | "mul") && dtype.is_float() { Rounding::USUAL } else { Rounding::Exact };
    let (axis, spelled) = g.axis(dims.len());
    // Without a reduction, places are all different: which of two updates wins is left open.
    let distinct = g.c.between(1, dims[axis] as i64);
    if g.c.flag() {
        let mut shape = dims.clone();
        shape[axis] = distinct as usize;
        let stride: usize = dims[axis + 1..].iter().product();
        let all: Vec<i64> = (0..shape.iter().product::<usize>())
            .map(|i| {
                let along = (i / stride % shape[axis]) as i64;
                if how == "none" { along } else { g.c.between(0, dims[axis] as i64 - 1) }
            })
            .collect();
        let at = g.param(Tensor::from_slice(&shape, &all).ok()?);
        let updates = g.weights(dtype, &shape);
        return g.one("ScatterElements", &[x, at, updates], attributes(Some(spelled)), rounding).map(drop);
    }
    let rows = g.c.between(1, dims[0] as i64);
    let all: Vec<i64> =
        (0..rows).map(|i| if how == "none" { i } else { g.c.between(0, dims[0] as i64 - 1) }).collect();
    let at = g.param(Tensor::from_slice(&[rows as usize, 1], &all).ok()?);
    let shape = [&[rows as usize], &dims[1..]].concat();
    let updates = g.weights(dtype, &shape);
    g.one("ScatterND", &[x, at, updates], attributes(None), rounding).map(drop)
}

pub(super) fn expand(g: &mut Grower<'_>) -> Option<()> {
    let x = g.any(MOVED, 0..=3);
    let dims: Vec<i64> = g.dims(x).iter().map(|&d| d as i64).collect();
    if g.c.flag() {
        let repeats: Vec<i64> = dims.iter().map(|_| g.c.of(&[1, 2, 3, 1])).collect();
        let repeats = g.longs(&repeats);
        return g.one("Tile", &[x, repeats], vec![], Rounding::Exact).map(drop);
    }
    let mut shape: Vec<i64> =
        dims.iter().map(|&d| if d == 1 { g.c.between(1, 4) } else { g.c.of(&[d, 1]) }).collect();
    if g.c.flag() {
        shape.insert(0, g.c.between(1, 3));
    }
    let shape = g.longs(&shape);
    g.one("Expand", &[x, shape], vec![], Rounding::Exact).map(drop)
}

pub(super) fn rearrange(g: &mut Grower<'_>) -> Option<()> {
    match g.c.below(5) {
        0 => {
            let mode = g.c.of(&["DCR", "CRD"]);
            let (n, c) = (1 + g.c.below(2), 1 + g.c.below(3));
            let (h, w) = (1 + g.c.below(3), 1 + g.c.below(3));
            let x = g.input(DType::F32, &[n, 4 * c, h, w]);
            let attributes = vec![int("blocksize", 2), string("mode", mode)];
            g.one("DepthToSpace", &[x], attributes, Rounding::Exact).map(drop)
        }
        1 => {
            let (n, c) = (1 + g.c.below(2), 1 + g.c.below(3));
            let (h, w) = (1 + g.c.below(3), 1 + g.c.below(3));
            let x = g.input(DType::F32, &[n, c, 2 * h, 2 * w]);
            g.one("SpaceToDepth", &[x], vec![int("blocksize", 2)], Rounding::Exact).map(drop)
        }
        2 if g.opset >= 14 => {
            let x = g.any(&[DType::F32, DType::F32, DType::I64, DType::F64], 2..=4);
            let k = g.c.flag().then(|| g.param(Tensor::scalar(1i64)));
            let attributes = vec![int("upper", g.c.below(2) as i64)];
            g.add("Trilu", &[Some(x), k], 1, attributes, Rounding::Exact).map(drop)
        }
        3 => {
            let x = g.any(&[DType::F32, DType::I64, DType::I32], 2..=2);
            let k = g.c.between(-1, 1);
            g.one("EyeLike", &[x], vec![int("k", k)], Rounding::Exact).map(drop)
        }
        _ => {
            let x = g.any(&[DType::F32, DType::I64, DType::Bool], 2..=3);
            let dims = g.dims(x);
            let time = g.c.below(2);
            let lengths: Vec<i64> =
                (0..dims[1 - time]).map(|_| g.c.between(1, dims[time].max(1) as i64)).collect();
            if dims[time] == 0 {
                return None;
            }
            let lengths = g.longs(&lengths);
            let attributes = vec![int("time_axis", time as i64), int("batch_axis", 1 - time as i64)];
            g.one("ReverseSequence", &[x, lengths], attributes, Rounding::Exact).map(drop)
        }
    }
}

/// Sizes as values, and what is made of them.
pub(super) fn shapes(g: &mut Grower<'_>) -> Option<()> {
    let x = g.any(MOVED, 1..=4);
    let dims = g.dims(x);
    let attributes =
        if g.opset >= 15 && g.c.flag() { vec![int("start", g.c.below(dims.len()) as i64)] } else { vec![] };
    let cut = !attributes.is_empty();
    let shape = g.one("Shape", &[x], attributes, Rounding::Exact)?;
    match g.c.below(6) {
        0 => {
            let value = filled(g.c.of(&[DType::F32, DType::I64, DType::Bool]), &[1], 1.0);
            let attributes =
                if g.c.flag() { vec![tensor_attr("value", tensor_proto("", &value))] } else { vec![] };
            g.one("ConstantOfShape", &[shape], attributes, Rounding::Exact).map(drop)
        }
        1 => {
            let at = g.constant(Tensor::scalar(0i64));
            let size = g.one("Gather", &[shape, at], vec![], Rounding::Exact)?;
            let (start, step) = (g.constant(Tensor::scalar(0i64)), g.c.between(1, 2));
            let step = g.constant(Tensor::scalar(step));
            g.one("Range", &[start, size, step], vec![], Rounding::Exact).map(drop)
        }
        2 if !cut => {
            let y = g.find(|t| MOVED.contains(&t.dtype()) && broadcasts(t.dims(), &dims))?;
            g.one("Expand", &[y, shape], vec![], Rounding::Exact).map(drop)
        }
        3 => {
            let size = g.one("Size", &[x], vec![], Rounding::Exact)?;
            let one = g.constant(Tensor::ints(&[-1]));
            let size = g.one("Reshape", &[size, one], vec![], Rounding::Exact)?;
            g.one("Reshape", &[x, size], vec![], Rounding::Exact).map(drop)
        }
        _ if !cut => {
            // [d0, -1] from the first size.
            let at = g.constant(Tensor::ints(&[0]));
            let first = g.one("Gather", &[shape, at], vec![int("axis", 0)], Rounding::Exact)?;
            let rest = g.constant(Tensor::ints(&[-1]));
            let joined = g.one("Concat", &[first, rest], vec![int("axis", 0)], Rounding::Exact)?;
            if dims.contains(&0) {
                return None;
            }
            g.one("Reshape", &[x, joined], vec![], Rounding::Exact).map(drop)
        }
        _ => Some(()),
    }
}
