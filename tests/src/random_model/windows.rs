//! Convolutions, pooling, resizing.

use kiln::ir::{DType, Tensor};
use kiln::loaders::onnx::make::{float, int, ints, string};
use kiln::loaders::onnx::proto::AttributeProto;

use super::Rounding;
use super::grower::{Grower, V};

/// A value of channels and up to three spatial axes.
fn image(g: &mut Grower<'_>, dtypes: &[DType], spatial: std::ops::RangeInclusive<usize>) -> Option<V> {
    let ranks = spatial.start() + 2..=spatial.end() + 2;
    let found = if g.c.flag() {
        g.find(|t| dtypes.contains(&t.dtype()) && ranks.contains(&t.dims().len()) && t.numel() > 0)
    } else {
        None
    };
    // What padding times an infinite weight is, and whether a maximum heeds what is no number, is left open.
    if let Some(found) = found {
        return g.is_finite(found).then_some(found);
    }
    let dtype = g.c.of(dtypes);
    let spatial = if g.c.below(4) < 3 {
        2.clamp(*spatial.start(), *spatial.end())
    } else {
        g.c.between(*spatial.start() as i64, *spatial.end() as i64) as usize
    };
    let channels = g.c.of(&[1, 2, 3, 4, 6, 8]);
    let mut dims = vec![1 + g.c.below(2), channels];
    for _ in 0..spatial {
        dims.push(3 + g.c.below(if spatial == 3 { 3 } else { 6 }));
    }
    let x = g.input(dtype, &dims);
    g.is_finite(x).then_some(x)
}

/// Sizes of each spatial axis.
fn each(g: &mut Grower<'_>, spatial: usize, low: i64, high: i64) -> Vec<i64> {
    (0..spatial).map(|_| g.c.between(low, high)).collect()
}

pub(super) fn conv(g: &mut Grower<'_>) -> Option<()> {
    let x = image(g, &[DType::F32, DType::F32, DType::F32, DType::F16], 1..=3)?;
    convolved(g, x).map(drop)
}

/// A convolution of `x`.
pub(super) fn convolved(g: &mut Grower<'_>, x: V) -> Option<V> {
    let (dtype, dims) = (g.dtype(x), g.dims(x));
    let (channels, spatial) = (dims[1], dims.len() - 2);
    let groups = match g.c.below(4) {
        2 if channels % 2 == 0 => 2,
        3 => channels,
        _ => 1,
    };
    let outputs = groups * (1 + g.c.below(4));
    let kernel = if g.c.below(3) == 0 { vec![3; spatial] } else { each(g, spatial, 1, 3) };
    let mut attributes = vec![int("group", groups as i64)];
    let dilations = if g.c.below(4) == 3 { each(g, spatial, 1, 2) } else { vec![1; spatial] };
    let strides = if g.c.below(3) == 2 { each(g, spatial, 1, 3) } else { vec![1; spatial] };
    match g.c.below(6) {
        0 => {}
        1 if dilations.iter().all(|&d| d == 1) => {
            attributes.push(string("auto_pad", g.c.of(&["SAME_UPPER", "SAME_LOWER", "VALID"])));
        }
        2 => attributes.push(ints("pads", &each(g, 2 * spatial, 0, 2))),
        _ => {
            let half: Vec<i64> = kernel.iter().map(|k| k / 2).collect();
            attributes.push(ints("pads", &[half.clone(), half].concat()));
        }
    }
    attributes.extend([ints("strides", &strides), ints("dilations", &dilations)]);
    if g.c.flag() {
        attributes.push(ints("kernel_shape", &kernel));
    }
    let shape: Vec<usize> =
        [outputs, channels / groups].into_iter().chain(kernel.iter().map(|&k| k as usize)).collect();
    let w = if g.c.below(6) == 5 { g.input(dtype, &shape) } else { g.finite_weights(dtype, &shape) };
    if !g.is_finite(w) {
        return None;
    }
    let bias = g.c.flag().then(|| g.weights(dtype, &[outputs]));
    g.add("Conv", &[Some(x), Some(w), bias], 1, attributes, Rounding::Units(8.0, 0.0)).map(|v| v[0])
}

pub(super) fn transposed(g: &mut Grower<'_>) -> Option<()> {
    let x = image(g, &[DType::F32], 1..=2)?;
    let (dtype, dims) = (g.dtype(x), g.dims(x));
    let (channels, spatial) = (dims[1], dims.len() - 2);
    let groups = if channels % 2 == 0 && g.c.flag() { 2 } else { 1 };
    let kernel = each(g, spatial, 1, 3);
    let strides = each(g, spatial, 1, 2);
    let mut attributes = vec![int("group", groups as i64), ints("strides", &strides)];
    if g.c.flag() {
        let pads: Vec<i64> = kernel.iter().map(|k| (k - 1) / 2).collect();
        attributes.push(ints("pads", &[pads.clone(), pads].concat()));
    }
    if strides.iter().all(|&s| s == 2) && g.c.flag() {
        attributes.push(ints("output_padding", &vec![1; spatial]));
    }
    let per_group = 1 + g.c.below(3);
    let shape: Vec<usize> =
        [channels, per_group].into_iter().chain(kernel.iter().map(|&k| k as usize)).collect();
    let w = g.finite_weights(dtype, &shape);
    let bias = g.c.flag().then(|| g.weights(dtype, &[per_group * groups]));
    g.add("ConvTranspose", &[Some(x), Some(w), bias], 1, attributes, Rounding::Units(8.0, 0.0)).map(drop)
}

pub(super) fn pool(g: &mut Grower<'_>) -> Option<()> {
    let op = g.c.of(&[
        "MaxPool",
        "AveragePool",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "LpPool",
        "MaxPool",
        "AveragePool",
    ]);
    let dtypes: &[DType] = match op {
        "MaxPool" => &[DType::F32, DType::F32, DType::F32, DType::U8, DType::I8, DType::F16],
        _ => &[DType::F32, DType::F32, DType::F16],
    };
    let x = image(g, dtypes, 1..=if op == "LpPool" { 2 } else { 3 })?;
    if op.starts_with("Global") {
        let rounding = if op == "GlobalMaxPool" { Rounding::Exact } else { Rounding::USUAL };
        return g.one(op, &[x], vec![], rounding).map(drop);
    }
    let dims = g.dims(x);
    let spatial = dims.len() - 2;
    let kernel = each(g, spatial, 1, 3);
    let strides = each(g, spatial, 1, 2);
    let mut attributes: Vec<AttributeProto> = vec![ints("kernel_shape", &kernel), ints("strides", &strides)];
    match g.c.below(4) {
        0 => {
            let pads: Vec<i64> = kernel.iter().map(|k| k / 2).collect();
            attributes.push(ints("pads", &[pads.clone(), pads].concat()));
        }
        1 => attributes.push(string("auto_pad", g.c.of(&["SAME_UPPER", "SAME_LOWER", "VALID"]))),
        _ => {}
    }
    // Where a window is larger than the input, onnxruntime reads beyond it, or gives one window where none fits.
    if kernel.iter().zip(&dims[2..]).any(|(&k, &d)| k > d as i64) {
        return None;
    }
    let plain = attributes.len() == 2;
    match op {
        "MaxPool" => {
            if g.c.below(4) == 3 && plain {
                attributes.push(int("ceil_mode", 1));
            }
            let results = if g.c.below(4) == 3 && g.numbers(x).iter().all(|v| !v.is_nan()) { 2 } else { 1 };
            g.add(op, &[Some(x)], results, attributes, Rounding::Exact).map(drop)
        }
        "AveragePool" => {
            attributes.push(int("count_include_pad", g.c.below(2) as i64));
            if g.c.below(4) == 3 && plain {
                attributes.push(int("ceil_mode", 1));
            }
            g.one(op, &[x], attributes, Rounding::USUAL).map(drop)
        }
        _ => {
            attributes.push(int("p", g.c.between(1, 2)));
            g.one(op, &[x], attributes, Rounding::USUAL).map(drop)
        }
    }
}

/// Whether one of `n` positions on an axis of `d` elements is at, or halfway between, elements by a scale that is no
/// exact number: which is the nearest one then depends on how the scale is rounded.
fn hangs_on_rounding(coordinates: &str, d: i64, n: i64) -> bool {
    let exact = |a: i64, b: i64| ((b / gcd(a, b)) as u64).is_power_of_two();
    if exact(d, n) && exact(n, d) {
        return false;
    }
    (0..n).any(|i| {
        // Twice the position, as a fraction.
        let (twice, of) = match coordinates {
            "align_corners" => (2 * i * (d - 1), (n - 1).max(1)),
            "asymmetric" => (2 * i * d, n),
            _ => ((2 * i + 1) * d - n, n),
        };
        twice % of == 0
    })
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a.max(1) } else { gcd(b, a % b) }
}

pub(super) fn resize(g: &mut Grower<'_>) -> Option<()> {
    let mode = g.c.of(&["nearest", "linear", "cubic", "nearest", "linear"]);
    let x = match mode {
        "nearest" => image(g, &[DType::F32, DType::F32, DType::U8, DType::I32], 1..=2)?,
        _ => image(g, &[DType::F32], 2..=2)?,
    };
    let dims = g.dims(x);
    let coordinates = g.c.of(&["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]);
    let mut attributes = vec![string("mode", mode), string("coordinate_transformation_mode", coordinates)];
    if mode == "nearest" {
        let how = g.c.of(&["round_prefer_floor", "floor", "ceil", "round_prefer_ceil"]);
        attributes.push(string("nearest_mode", how));
    }
    if mode == "cubic" && g.c.flag() {
        attributes.push(float("cubic_coeff_a", -0.5));
        attributes.push(int("exclude_outside", g.c.below(2) as i64));
    }
    let (scales, sizes) = if g.c.flag() {
        // Powers of two, with which positions are exact.
        let scales: Vec<f32> =
            (0..dims.len()).map(|i| if i < 2 { 1.0 } else { g.c.of(&[2.0, 1.0, 0.5, 4.0, 1.5]) }).collect();
        // Whether the size that corners align to has its fraction is left open.
        let whole = dims.iter().zip(&scales).all(|(&d, s)| (d as f32 * s).fract() == 0.0);
        if matches!(coordinates, "align_corners" | "pytorch_half_pixel") && !whole {
            return None;
        }
        (Some(g.constant(Tensor::from_slice(&[dims.len()], &scales).ok()?)), None)
    } else {
        let sizes: Vec<i64> = dims
            .iter()
            .enumerate()
            .map(|(i, &d)| if i < 2 { d as i64 } else { g.c.between(1, 2 * d as i64) })
            .collect();
        if mode == "nearest"
            && dims.iter().zip(&sizes).any(|(&d, &n)| hangs_on_rounding(coordinates, d as i64, n))
        {
            return None;
        }
        (None, Some(g.longs(&sizes)))
    };
    // The text and the reference implementation place the one element of a cubic `pytorch_half_pixel` differently.
    if mode == "cubic" && coordinates == "pytorch_half_pixel" {
        return None;
    }
    let rounding = if mode == "nearest" { Rounding::Exact } else { Rounding::Between(16.0, 1e-6) };
    g.add("Resize", &[Some(x), None, scales, sizes], 1, attributes, rounding).map(drop)
}
