//! Resize, as ONNX's reference implementation defines it: one axis after the other, each a sum of weighted gathers.
//!
//! Per axis, output `y` stands at coordinate `x` of the operand. With `base = ceil(x) - 1` and `ratio = x - base`, in
//! `(0, 1]`, tap `i` reads element `base + i`, clamped to the axis, with a weight that is a function of `i - ratio`.
//! Where sizes and scale are constant, coordinates are tables; otherwise operators compute them.

use super::formula::Formula;
use super::{dims, node, positions};
use crate::infer::InferError;
use crate::infer::dynamic::normal_axes;
use crate::op::{Composite, CoordinateMode, Dynamic, Index, Interpolation, NearestMode};
use crate::{Build, DType, Dim, Ew, Scalar, Tensor, Value};

/// Parameters of all formulas: result position, scale, sizes of operand and result, the result's size before rounding,
/// bounds of the region.
const PARAMS: &[&str] = &["y", "scale", "n", "m", "w", "r0", "r1"];

/// Largest table of coordinates; longer axes compute them.
const MAX_TABLE: i64 = 1 << 20;

/// Most taps of one axis.
const MAX_TAPS: i64 = 4096;

/// The attributes that all axes share.
struct Spec {
    mode: Interpolation,
    coordinates: CoordinateMode,
    nearest: NearestMode,
    cubic_a: f64,
    antialias: bool,
    exclude_outside: bool,
    extrapolation: f64,
}

/// One axis to resize.
struct Axis {
    axis: usize,
    from: Dim,
    to: Dim,
    scale: Option<Numbers>,
    region: (Numbers, Numbers),
}

pub(super) fn resize(op: &Composite, b: &mut dyn Build, x: Value) -> Result<Value, InferError> {
    let Composite::Resize {
        sizes,
        scales,
        mode,
        coordinates,
        nearest,
        cubic_a,
        antialias,
        exclude_outside,
        extrapolation,
        roi,
    } = op
    else {
        return Err(InferError::new("expected a resize"));
    };
    let spec = Spec {
        mode: *mode,
        coordinates: *coordinates,
        nearest: *nearest,
        cubic_a: cubic_a.get(),
        antialias: *antialias,
        exclude_outside: *exclude_outside,
        extrapolation: extrapolation.get(),
    };
    let shape = dims(b, x)?;
    let crops = spec.coordinates == CoordinateMode::TfCropAndResize;
    let mut axes = vec![];
    for (axis, ((from, to), scale)) in shape.iter().zip(sizes).zip(scales).enumerate() {
        let bound = |i: usize, default: f64| roi.get(i).filter(|_| crops).map_or(default, |r| r.get());
        let region = (bound(axis, 0.0), bound(axis + sizes.len(), 1.0));
        let unscaled = scale.is_none_or(|s| (s.get() - 1.0).abs() < 1e-9);
        if !(from == to && unscaled && region == (0.0, 1.0)) {
            axes.push(Axis {
                axis,
                from: from.clone(),
                to: to.clone(),
                scale: scale.map(|s| Calculator::constant(s.get())),
                region: (Calculator::constant(region.0), Calculator::constant(region.1)),
            });
        }
    }
    resize_axes(b, x, &axes, &spec)
}

/// As [`resize`], with sizes, scales and region that show at run time; `to` are the result's dims.
pub(super) fn resize_dynamic(
    op: &Dynamic,
    b: &mut dyn Build,
    [x, scales, sizes, roi]: [Value; 4],
    to: &[Dim],
) -> Result<Value, InferError> {
    let Dynamic::Resize {
        mode,
        coordinates,
        nearest,
        cubic_a,
        antialias,
        exclude_outside,
        extrapolation,
        axes,
        keep_aspect,
    } = op
    else {
        return Err(InferError::new("expected a resize"));
    };
    let spec = Spec {
        mode: *mode,
        coordinates: *coordinates,
        nearest: *nearest,
        cubic_a: cubic_a.get(),
        antialias: *antialias,
        exclude_outside: *exclude_outside,
        extrapolation: extrapolation.get(),
    };
    if spec.antialias {
        return Err(InferError::new("an antialiased resize needs a constant scale"));
    }
    let shape = dims(b, x)?;
    let all: Vec<usize> = match axes.as_slice() {
        [] => (0..shape.len()).collect(),
        some => normal_axes(some, shape.len())?,
    };
    let lengths: Vec<Dim> = all.iter().filter_map(|&a| shape.get(a).cloned()).collect();
    let results: Vec<Dim> = all.iter().filter_map(|&a| to.get(a).cloned()).collect();
    let factors = if super::dynamic::count(b, scales)? > 0 {
        super::dynamic::scaled_sizes(b, scales, &lengths, &results)?;
        Some(b.cast(scales, DType::F64)?)
    } else {
        super::dynamic::given_sizes(b, sizes, &lengths, &results, keep_aspect)?
    };
    let crops = spec.coordinates == CoordinateMode::TfCropAndResize;
    let element = |b: &mut dyn Build, v: Value, i: usize| -> Result<Numbers, InferError> {
        let start = Dim::known(i64::try_from(i).unwrap_or(i64::MAX));
        let v = b.slice_axis(v, 0, start, Dim::known(1))?;
        b.cast(v, DType::F64).map(Numbers::Value)
    };
    let mut parts = vec![];
    for (i, &axis) in all.iter().enumerate() {
        let region = match crops {
            true => (element(b, roi, i)?, element(b, roi, i + all.len())?),
            false => (Calculator::constant(0.0), Calculator::constant(1.0)),
        };
        let scale = factors.map(|f| element(b, f, i)).transpose()?;
        let (Some(from), Some(to)) = (shape.get(axis).cloned(), to.get(axis).cloned()) else { continue };
        parts.push(Axis { axis, from, to, scale, region });
    }
    resize_axes(b, x, &parts, &spec)
}

fn resize_axes(b: &mut dyn Build, x: Value, axes: &[Axis], spec: &Spec) -> Result<Value, InferError> {
    let dtype = b.dtype(x)?;
    let crops = spec.coordinates == CoordinateMode::TfCropAndResize;
    // Nearest elements are moved as they are, unless some lie outside and give the extrapolation value.
    let wide = match (spec.mode, crops) {
        (Interpolation::Nearest, false) => dtype,
        _ if dtype.is_float() => Ew::compute_dtype(dtype),
        _ => DType::F32,
    };
    let mut v = b.cast(x, wide)?;
    for axis in axes {
        v = resize_axis(b, v, axis, spec)?;
    }
    if !dtype.is_float() && wide.is_float() {
        v = b.ew("round", &[v])?;
    }
    b.cast(v, dtype)
}

/// What an axis's coordinates are.
fn coordinate(mode: CoordinateMode) -> &'static str {
    match mode {
        CoordinateMode::HalfPixel => "(y + 0.5) / scale - 0.5",
        CoordinateMode::HalfPixelSymmetric => "n / 2 * (1 - m / w) + (y + 0.5) / scale - 0.5",
        CoordinateMode::PytorchHalfPixel => "select(w == 1, -0.5, (y + 0.5) / scale - 0.5)",
        CoordinateMode::AlignCorners => "select(w == 1, 0, y * (n - 1) / (w - 1))",
        CoordinateMode::Asymmetric => "y / scale",
        CoordinateMode::TfCropAndResize => {
            "select(w == 1, (r1 - r0) * (n - 1) / 2, y * (r1 - r0) * (n - 1) / (w - 1)) + r0 * (n - 1)"
        }
    }
}

/// How far above `base` the nearest element is, 0 or 1.
fn nearest_step(mode: NearestMode) -> &'static str {
    match mode {
        NearestMode::RoundPreferFloor => "select(ratio <= 0.5, 0, 1)",
        NearestMode::RoundPreferCeil => "select(ratio < 0.5, 0, 1)",
        NearestMode::Floor => "select(ratio == 1, 1, 0)",
        NearestMode::Ceil => "ratio * 0 + 1",
    }
}

/// The weight at distance `t`; `a` is the cubic coefficient.
fn weight(mode: Interpolation) -> &'static str {
    match mode {
        Interpolation::Nearest | Interpolation::Linear => "max(1 - abs(t), 0)",
        Interpolation::Cubic => {
            "select(abs(t) <= 1, ((a + 2) * abs(t) - (a + 3)) * abs(t) * abs(t) + 1, \
             select(abs(t) < 2, ((a * abs(t) - 5 * a) * abs(t) + 8 * a) * abs(t) - 4 * a, 0))"
        }
    }
}

/// Numbers of one axis: a table, or a value of the graph. All are f64, one for each result position or one for all.
#[derive(Clone)]
enum Numbers {
    Table(Vec<f64>),
    Value(Value),
}

/// Applies formulas to [`Numbers`]; tables stay tables.
struct Calculator<'b> {
    b: &'b mut dyn Build,
}

impl Calculator<'_> {
    fn value(&mut self, n: &Numbers) -> Result<Value, InferError> {
        match n {
            Numbers::Value(v) => Ok(*v),
            Numbers::Table(t) => {
                let scalars: Vec<Scalar> = t.iter().map(|&v| Scalar::F(v)).collect();
                let tensor = Tensor::from_scalars(DType::F64, &[t.len()], &scalars);
                self.b.constant(tensor.map_err(|e| InferError::new(e.to_string()))?)
            }
        }
    }

    fn apply(&mut self, text: &str, params: &[&str], operands: &[&Numbers]) -> Result<Numbers, InferError> {
        let formula = Formula::new(text, params)?;
        let tables: Option<Vec<&Vec<f64>>> = operands
            .iter()
            .map(|n| match n {
                Numbers::Table(t) => Some(t),
                Numbers::Value(_) => None,
            })
            .collect();
        let Some(tables) = tables else {
            let values: Vec<Value> = operands.iter().map(|n| self.value(n)).collect::<Result<_, _>>()?;
            return Ok(Numbers::Value(formula.build(self.b, &values)?));
        };
        // A table of one number serves every position; an empty one means that there are no positions.
        let empty = tables.iter().any(|t| t.is_empty());
        let len = if empty { 0 } else { tables.iter().map(|t| t.len()).max().unwrap_or(1) };
        let row = |i: usize| -> Vec<f64> {
            tables.iter().map(|t| t.get(i).or(t.first()).copied().unwrap_or(f64::NAN)).collect()
        };
        Ok(Numbers::Table((0..len).map(|i| formula.eval(&row(i))).collect()))
    }

    fn constant(v: f64) -> Numbers {
        Numbers::Table(vec![v])
    }

    /// A size as a number.
    fn size(&mut self, d: &Dim) -> Result<Numbers, InferError> {
        match d.as_known() {
            Some(v) => Ok(Numbers::Table(vec![v as f64])),
            None => {
                let v = self.b.dims(std::slice::from_ref(d))?;
                self.b.cast(v, DType::F64).map(Numbers::Value)
            }
        }
    }

    /// Result positions.
    fn range(&mut self, d: &Dim) -> Result<Numbers, InferError> {
        match d.as_known().filter(|&n| n <= MAX_TABLE) {
            Some(n) => Ok(Numbers::Table((0..n).map(|i| i as f64).collect())),
            None => positions(self.b, d.clone(), DType::F64, 0, 1).map(Numbers::Value),
        }
    }
}

fn resize_axis(b: &mut dyn Build, x: Value, axis: &Axis, spec: &Spec) -> Result<Value, InferError> {
    let mut calc = Calculator { b };
    let (y, n, m) = (calc.range(&axis.to)?, calc.size(&axis.from)?, calc.size(&axis.to)?);
    let (scale, width) = match &axis.scale {
        Some(scale) => (scale.clone(), calc.apply("scale * n", &["scale", "n"], &[scale, &n])?),
        // The quotient times the operand's size need not give the result's size back, so that is taken as it is.
        None => (calc.apply("m / n", &["m", "n"], &[&m, &n])?, m.clone()),
    };
    let (r0, r1) = &axis.region;
    let all = [&y, &scale, &n, &m, &width, r0, r1];
    let at = calc.apply(coordinate(spec.coordinates), PARAMS, &all)?;
    let base = calc.apply("ceil(x) - 1", &["x"], &[&at])?;
    let ratio = calc.apply("x - base", &["x", "base"], &[&at, &base])?;
    let result = if spec.mode == Interpolation::Nearest {
        let step = calc.apply(nearest_step(spec.nearest), &["ratio"], &[&ratio])?;
        let index = calc.apply("base + step", &["base", "step"], &[&base, &step])?;
        nearest(&mut calc, x, axis, &index, &n)?
    } else {
        weighted(&mut calc, x, axis, spec, &Taps { base, ratio, scale, n: n.clone() })?
    };
    if spec.coordinates != CoordinateMode::TfCropAndResize {
        return Ok(result);
    }
    let outside = calc.apply("select(x < 0, 1, select(x > n - 1, 1, 0))", &["x", "n"], &[&at, &n])?;
    extrapolated(&mut calc, result, axis, &outside, spec.extrapolation)
}

fn nearest(
    calc: &mut Calculator<'_>,
    x: Value,
    axis: &Axis,
    index: &Numbers,
    n: &Numbers,
) -> Result<Value, InferError> {
    let index = calc.apply("min(max(i, 0), n - 1)", &["i", "n"], &[index, n])?;
    if let Numbers::Table(table) = &index
        && let (Some(from), Some(to)) = (axis.from.as_known(), axis.to.as_known())
        && from > 0
        && to % from == 0
        && table.iter().zip(0i64..).all(|(&v, i)| v == (i / (to / from)) as f64)
    {
        return repeat(calc.b, x, axis.axis, to / from);
    }
    let index = indices(calc, &index)?;
    node(calc.b, Index::Gather { axis: axis.axis }, &[x, index])
}

/// Every element of an axis `times` times: a broadcast between two reshapes, which moves nothing.
fn repeat(b: &mut dyn Build, x: Value, axis: usize, times: i64) -> Result<Value, InferError> {
    let shape = dims(b, x)?;
    let (mut split, mut result) = (shape.clone(), shape);
    split.insert(axis + 1, Dim::known(1));
    let x = b.reshape(x, &split)?;
    if let (Some(s), Some(r)) = (split.get_mut(axis + 1), result.get_mut(axis)) {
        *s = Dim::known(times);
        *r = &*r * &Dim::known(times);
    }
    let x = b.broadcast(x, &split)?;
    b.reshape(x, &result)
}

/// Numbers as gather indices.
fn indices(calc: &mut Calculator<'_>, n: &Numbers) -> Result<Value, InferError> {
    match n {
        // A cast saturates, so that coordinates beyond any size stay harmless.
        Numbers::Table(t) => {
            let ints: Vec<i64> = t.iter().map(|&v| v as i64).collect();
            calc.b.constant(Tensor::ints(&ints))
        }
        Numbers::Value(v) => calc.b.cast(*v, DType::I64),
    }
}

/// Numbers along an axis, in the dtype of `like`.
fn column(calc: &mut Calculator<'_>, n: &Numbers, like: Value, axis: &Axis) -> Result<Value, InferError> {
    let (dtype, rank) = (calc.b.dtype(like)?, calc.b.rank(like)?);
    let v = calc.value(n)?;
    let v = calc.b.cast(v, dtype)?;
    let mut shape = vec![Dim::known(1); rank];
    if let Some(d) = shape.get_mut(axis.axis) {
        *d = axis.to.clone();
    }
    calc.b.reshape(v, &shape)
}

/// Where an axis's taps read, and what their weights depend on.
struct Taps {
    base: Numbers,
    ratio: Numbers,
    scale: Numbers,
    n: Numbers,
}

fn weighted(
    calc: &mut Calculator<'_>,
    x: Value,
    axis: &Axis,
    spec: &Spec,
    taps: &Taps,
) -> Result<Value, InferError> {
    // Antialiasing stretches the kernel over what one result element covers.
    let squeeze = match (&taps.scale, spec.antialias) {
        (_, false) => 1.0,
        (Numbers::Table(s), true) => s.first().copied().unwrap_or(1.0).min(1.0),
        (Numbers::Value(_), true) => {
            return Err(InferError::new("an antialiased resize needs a constant scale"));
        }
    };
    let reach = if spec.mode == Interpolation::Cubic { 2.0 } else { 1.0 };
    let first = (-reach / squeeze).floor() + 1.0;
    let count = 2.0 - 2.0 * first;
    if !(count >= 1.0 && count <= MAX_TAPS as f64) {
        return Err(InferError::new(format!("a resize with {count} taps")));
    }
    let kernel = weight(spec.mode);
    let (stretch, a) = (Calculator::constant(squeeze), Calculator::constant(spec.cubic_a));
    let (mut places, mut weights) = (vec![], vec![]);
    let mut sum = Calculator::constant(0.0);
    for i in 0..count as usize {
        let i = Calculator::constant(first + i as f64);
        let place = calc.apply("base + i", &["base", "i"], &[&taps.base, &i])?;
        let t = calc.apply("s * (i - ratio)", &["s", "i", "ratio"], &[&stretch, &i, &taps.ratio])?;
        let mut w = calc.apply(kernel, &["t", "a"], &[&t, &a])?;
        if spec.exclude_outside {
            let inside = "select(p < 0, 0, select(p > n - 1, 0, w))";
            w = calc.apply(inside, &["p", "n", "w"], &[&place, &taps.n, &w])?;
        }
        sum = calc.apply("sum + w", &["sum", "w"], &[&sum, &w])?;
        places.push(calc.apply("min(max(p, 0), n - 1)", &["p", "n"], &[&place, &taps.n])?);
        weights.push(w);
    }
    let normalize = spec.exclude_outside || spec.antialias;
    let mut total = None;
    for (place, w) in places.iter().zip(weights) {
        let w = if normalize {
            calc.apply("w / select(sum == 0, 1, sum)", &["w", "sum"], &[&w, &sum])?
        } else {
            w
        };
        let index = indices(calc, place)?;
        let element = node(calc.b, Index::Gather { axis: axis.axis }, &[x, index])?;
        let w = column(calc, &w, x, axis)?;
        let term = calc.b.ew("mul", &[element, w])?;
        total = Some(match total {
            Some(sum) => calc.b.ew("add", &[sum, term])?,
            None => term,
        });
    }
    total.ok_or_else(|| InferError::new("a resize without taps"))
}

fn extrapolated(
    calc: &mut Calculator<'_>,
    x: Value,
    axis: &Axis,
    outside: &Numbers,
    value: f64,
) -> Result<Value, InferError> {
    let flags = column(calc, outside, x, axis)?;
    let flags = calc.b.cast(flags, DType::Bool)?;
    let dtype = calc.b.dtype(x)?;
    let value = calc.b.scalar(dtype, value)?;
    calc.b.ew("where", &[flags, value, x])
}
