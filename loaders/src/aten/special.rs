//! Special functions, computed in f64.

use std::f64::consts::{FRAC_1_SQRT_2, PI, SQRT_2};

use kiln_ir::op::Source;
use kiln_ir::{Build, DType, Dim, Value};

use super::cx::{Cx, one};
use super::promote::DEFAULT;
use super::{How, Results, Row, row};
use crate::error::OpError;

use How::Fn;

#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    row("aten::digamma", Fn(|cx| in_doubles(cx, digamma))),
    row("aten::erfinv", Fn(|cx| in_doubles(cx, erfinv))),
    row("aten::i0", Fn(|cx| in_doubles(cx, |cx, x| bessel(cx, x, false)))),
    row("aten::kaiser_window", Fn(kaiser_window)),
    row("aten::lgamma", Fn(lgamma)),
    row("aten::mvlgamma", Fn(mvlgamma)),
    row("aten::special_digamma", Fn(|cx| in_doubles(cx, digamma))),
    row("aten::special_entr", Fn(|cx| in_doubles(cx, entropy))),
    row("aten::special_erfinv", Fn(|cx| in_doubles(cx, erfinv))),
    row("aten::special_gammaln", Fn(lgamma)),
    row("aten::special_i0", Fn(|cx| in_doubles(cx, |cx, x| bessel(cx, x, false)))),
    row("aten::special_i0e", Fn(|cx| in_doubles(cx, |cx, x| bessel(cx, x, true)))),
    row("aten::special_log_ndtr", Fn(|cx| in_doubles(cx, log_normal))),
    row("aten::special_multigammaln", Fn(mvlgamma)),
    row("aten::special_ndtr", Fn(|cx| in_doubles(cx, normal))),
    row("aten::special_ndtri", Fn(|cx| in_doubles(cx, normal_inverse))),
    row("aten::special_psi", Fn(|cx| in_doubles(cx, digamma))),
];

/// A function of f64 on the first argument; integers become floats of the default type.
fn in_doubles(
    cx: &mut Cx<'_, '_>,
    function: impl FnOnce(&mut Cx<'_, '_>, Value) -> Result<Value, OpError>,
) -> Results {
    let x = cx.first()?;
    let dtype = match cx.dtype(x)? {
        d if d.is_float() => d,
        _ => DEFAULT,
    };
    let x = cx.b.cast(x, DType::F64)?;
    let y = function(cx, x)?;
    let y = cx.b.cast(y, dtype)?;
    one(y)
}

/// A polynomial, the coefficient of the highest power first.
fn polynomial(cx: &mut Cx<'_, '_>, x: Value, coefficients: &[f64]) -> Result<Value, OpError> {
    let mut y = cx.constant(DType::F64, coefficients.first().copied().unwrap_or(0.0))?;
    for &c in coefficients.iter().skip(1) {
        y = cx.ew("mul", &[y, x])?;
        y = cx.ew_const("add", y, c)?;
    }
    Ok(y)
}

/// Giles' approximation ("Approximating the erfinv function", GPU Computing Gems 2), made exact by Newton's steps.
fn erfinv(cx: &mut Cx<'_, '_>, x: Value) -> Result<Value, OpError> {
    const NEAR: [f64; 9] = [
        2.810_226_36e-8,
        3.432_739_39e-7,
        -3.523_387_7e-6,
        -4.391_506_54e-6,
        0.000_218_580_87,
        -0.001_253_725_03,
        -0.004_177_681_64,
        0.246_640_727,
        1.501_409_41,
    ];
    const FAR: [f64; 9] = [
        -0.000_200_214_257,
        0.000_100_950_558,
        0.001_349_343_22,
        -0.003_673_428_44,
        0.005_739_507_73,
        -0.007_622_461_3,
        0.009_438_870_47,
        1.001_674_06,
        2.832_976_82,
    ];
    let unit = cx.constant(DType::F64, 1.0)?;
    let (below, above) = (cx.ew("sub", &[unit, x])?, cx.ew("add", &[unit, x])?);
    let product = cx.ew("mul", &[below, above])?;
    let w = cx.ew("log", &[product])?;
    let w = cx.ew("neg", &[w])?;
    let near = cx.ew_const("sub", w, 2.5)?;
    let near = polynomial(cx, near, &NEAR)?;
    let far = cx.ew("sqrt", &[w])?;
    let far = cx.ew_const("sub", far, 3.0)?;
    let far = polynomial(cx, far, &FAR)?;
    let is_near = cx.ew_const("lt", w, 5.0)?;
    let factor = cx.ew("where", &[is_near, near, far])?;
    let mut y = cx.ew("mul", &[factor, x])?;
    for _ in 0..2 {
        let (erf, squared) = (cx.ew("erf", &[y])?, cx.ew("square", &[y])?);
        let growth = cx.ew("exp", &[squared])?;
        let excess = cx.ew("sub", &[erf, x])?;
        let step = cx.ew("mul", &[excess, growth])?;
        let step = cx.ew_const("mul", step, PI.sqrt() / 2.0)?;
        y = cx.ew("sub", &[y, step])?;
    }
    let size = cx.ew("abs", &[x])?;
    let at_end = cx.ew("eq", &[size, unit])?;
    let infinite = cx.ew_const("mul", x, f64::INFINITY)?;
    cx.ew("where", &[at_end, infinite, y])
}

/// `1 - erf(x)`.
fn erfc(cx: &mut Cx<'_, '_>, x: Value) -> Result<Value, OpError> {
    let (unit, erf) = (cx.constant(DType::F64, 1.0)?, cx.ew("erf", &[x])?);
    cx.ew("sub", &[unit, erf])
}

/// Below this, the difference of 1 and the error function has lost its digits, and the asymptotic series has all.
const FAR: f64 = -6.0;

/// The normal distribution function where it is not far below zero.
fn near_normal(cx: &mut Cx<'_, '_>, x: Value) -> Result<Value, OpError> {
    let x = cx.ew_const("mul", x, -FRAC_1_SQRT_2)?;
    let tail = erfc(cx, x)?;
    cx.ew_const("mul", tail, 0.5)
}

/// The logarithm of the normal distribution function far below zero, from the asymptotic series (Abramowitz and Stegun,
/// 26.2.12).
fn far_log_normal(cx: &mut Cx<'_, '_>, x: Value) -> Result<Value, OpError> {
    const SERIES: [f64; 8] = [-135_135.0, 10_395.0, -945.0, 105.0, -15.0, 3.0, -1.0, 1.0];
    let squared = cx.ew("square", &[x])?;
    let inverse = cx.ew("reciprocal", &[squared])?;
    let series = polynomial(cx, inverse, &SERIES)?;
    let series = cx.ew("log", &[series])?;
    let half = cx.ew_const("mul", squared, -0.5)?;
    let size = cx.ew("abs", &[x])?;
    let log = cx.ew("log", &[size])?;
    let far = cx.ew("sub", &[half, log])?;
    let far = cx.ew_const("sub", far, 0.5 * (2.0 * PI).ln())?;
    cx.ew("add", &[far, series])
}

/// The normal distribution function.
fn normal(cx: &mut Cx<'_, '_>, x: Value) -> Result<Value, OpError> {
    let far = far_log_normal(cx, x)?;
    let (far, near) = (cx.ew("exp", &[far])?, near_normal(cx, x)?);
    let is_far = cx.ew_const("lt", x, FAR)?;
    cx.ew("where", &[is_far, far, near])
}

/// Its logarithm.
fn log_normal(cx: &mut Cx<'_, '_>, x: Value) -> Result<Value, OpError> {
    let (far, near) = (far_log_normal(cx, x)?, near_normal(cx, x)?);
    let near = cx.ew("log", &[near])?;
    let is_far = cx.ew_const("lt", x, FAR)?;
    cx.ew("where", &[is_far, far, near])
}

fn normal_inverse(cx: &mut Cx<'_, '_>, p: Value) -> Result<Value, OpError> {
    let x = cx.ew_const("mul", p, 2.0)?;
    let x = cx.ew_const("sub", x, 1.0)?;
    let y = erfinv(cx, x)?;
    cx.ew_const("mul", y, SQRT_2)
}

/// `-x log(x)`, 0 at zero and negative infinity below.
fn entropy(cx: &mut Cx<'_, '_>, x: Value) -> Result<Value, OpError> {
    let (zero, least) = (cx.constant(DType::F64, 0.0)?, cx.constant(DType::F64, f64::NEG_INFINITY)?);
    let log = cx.ew("log", &[x])?;
    let product = cx.ew("mul", &[x, log])?;
    let product = cx.ew("neg", &[product])?;
    let vanishes = cx.ew("eq", &[x, zero])?;
    let y = cx.ew("where", &[vanishes, zero, product])?;
    let below = cx.ew("lt", &[x, zero])?;
    cx.ew("where", &[below, least, y])
}

/// `1 - x` below zero and else `x`, with which it is.
fn reflected(cx: &mut Cx<'_, '_>, x: Value) -> Result<(Value, Value), OpError> {
    let (zero, unit) = (cx.constant(DType::F64, 0.0)?, cx.constant(DType::F64, 1.0)?);
    let below = cx.ew("lt", &[x, zero])?;
    let other = cx.ew("sub", &[unit, x])?;
    Ok((cx.ew("where", &[below, other, x])?, below))
}

/// Whether a number is an integer below `bound`.
fn pole(cx: &mut Cx<'_, '_>, x: Value, bound: f64) -> Result<Value, OpError> {
    let floor = cx.ew("floor", &[x])?;
    let whole = cx.ew("eq", &[x, floor])?;
    let below = cx.ew_const("lt", x, bound)?;
    cx.ew("and", &[whole, below])
}

/// By how much arguments are moved up before the asymptotic series is taken.
const SHIFT: i32 = 8;

/// The asymptotic series (Abramowitz and Stegun, 6.3.18) behind the recurrence 6.3.6; the reflection 6.3.7 below zero.
fn digamma(cx: &mut Cx<'_, '_>, x: Value) -> Result<Value, OpError> {
    const SERIES: [f64; 7] =
        [691.0 / 32_760.0, -1.0 / 132.0, 1.0 / 240.0, -1.0 / 252.0, 1.0 / 120.0, -1.0 / 12.0, 0.0];
    let (z, below) = reflected(cx, x)?;
    let up = cx.ew_const("add", z, f64::from(SHIFT))?;
    let inverse = cx.ew("reciprocal", &[up])?;
    let squared = cx.ew("square", &[inverse])?;
    let series = polynomial(cx, squared, &SERIES)?;
    let log = cx.ew("log", &[up])?;
    let half = cx.ew_const("mul", inverse, 0.5)?;
    let mut y = cx.ew("sub", &[log, half])?;
    y = cx.ew("add", &[y, series])?;
    for i in 0..SHIFT {
        let term = cx.ew_const("add", z, f64::from(i))?;
        let term = cx.ew("reciprocal", &[term])?;
        y = cx.ew("sub", &[y, term])?;
    }
    let turn = cx.ew_const("mul", x, PI)?;
    let tangent = cx.ew("tan", &[turn])?;
    let pi = cx.constant(DType::F64, PI)?;
    let part = cx.ew("div", &[pi, tangent])?;
    let mirrored = cx.ew("sub", &[y, part])?;
    let y = cx.ew("where", &[below, mirrored, y])?;
    let (at_pole, nan) = (pole(cx, x, 0.0)?, cx.constant(DType::F64, f64::NAN)?);
    cx.ew("where", &[at_pole, nan, y])
}

/// Stirling's series (Abramowitz and Stegun, 6.1.41) behind the recurrence; the reflection 6.1.17 below zero.
fn log_gamma(cx: &mut Cx<'_, '_>, x: Value) -> Result<Value, OpError> {
    const SERIES: [f64; 6] =
        [-691.0 / 360_360.0, 1.0 / 1188.0, -1.0 / 1680.0, 1.0 / 1260.0, -1.0 / 360.0, 1.0 / 12.0];
    let (z, below) = reflected(cx, x)?;
    // What is large needs no shift, and its product would be infinite.
    let is_small = cx.ew_const("lt", z, f64::from(SHIFT))?;
    let (unit, shift, zero) = (
        cx.constant(DType::F64, 1.0)?,
        cx.constant(DType::F64, SHIFT.into())?,
        cx.constant(DType::F64, 0.0)?,
    );
    let small = cx.ew("where", &[is_small, z, unit])?;
    let mut product = small;
    for i in 1..SHIFT {
        let factor = cx.ew_const("add", small, f64::from(i))?;
        product = cx.ew("mul", &[product, factor])?;
    }
    let product = cx.ew("where", &[is_small, product, unit])?;
    let moved = cx.ew("where", &[is_small, shift, zero])?;
    let up = cx.ew("add", &[z, moved])?;
    let inverse = cx.ew("reciprocal", &[up])?;
    let squared = cx.ew("square", &[inverse])?;
    let series = polynomial(cx, squared, &SERIES)?;
    let series = cx.ew("mul", &[series, inverse])?;
    let log = cx.ew("log", &[up])?;
    let power = cx.ew_const("sub", up, 0.5)?;
    let main = cx.ew("mul", &[power, log])?;
    let main = cx.ew("sub", &[main, up])?;
    let main = cx.ew_const("add", main, 0.5 * (2.0 * PI).ln())?;
    let total = cx.ew("add", &[main, series])?;
    let log = cx.ew("log", &[product])?;
    let y = cx.ew("sub", &[total, log])?;
    let turn = cx.ew_const("mul", x, PI)?;
    let sine = cx.ew("sin", &[turn])?;
    let sine = cx.ew("abs", &[sine])?;
    let log = cx.ew("log", &[sine])?;
    let height = cx.constant(DType::F64, PI.ln())?;
    let mirrored = cx.ew("sub", &[height, log])?;
    let mirrored = cx.ew("sub", &[mirrored, y])?;
    let y = cx.ew("where", &[below, mirrored, y])?;
    // Poles, and infinity on both sides.
    let infinite = cx.b.ew_with("is_inf", &[1.0, 1.0], &[x])?;
    let at_pole = pole(cx, x, 1e-300)?;
    let top = cx.ew("or", &[infinite, at_pole])?;
    let infinity = cx.constant(DType::F64, f64::INFINITY)?;
    cx.ew("where", &[top, infinity, y])
}

fn lgamma(cx: &mut Cx<'_, '_>) -> Results {
    if cx.takes("a") {
        return Err(OpError::unsupported("lgamma of a number"));
    }
    in_doubles(cx, log_gamma)
}

/// Most factors of a multivariate gamma function.
const MOST_FACTORS: i64 = 64;

fn mvlgamma(cx: &mut Cx<'_, '_>) -> Results {
    let p = cx.int("p")?;
    if !(1..=MOST_FACTORS).contains(&p) {
        return Err(OpError::unsupported(format!("a gamma function of {p} dimensions")));
    }
    in_doubles(cx, |cx, x| {
        let mut y = cx.constant(DType::F64, (p * (p - 1)) as f64 / 4.0 * PI.ln())?;
        for j in 0..p {
            let moved = cx.ew_const("sub", x, j as f64 / 2.0)?;
            let part = log_gamma(cx, moved)?;
            y = cx.ew("add", &[y, part])?;
        }
        Ok(y)
    })
}

/// The modified Bessel function of order zero, times `exp(-|x|)` if `scaled`: its power series (Abramowitz and Stegun,
/// 9.6.12), from 20 on the asymptotic one (9.7.1).
fn bessel(cx: &mut Cx<'_, '_>, x: Value, scaled: bool) -> Result<Value, OpError> {
    const TERMS: i32 = 44;
    const EDGE: f64 = 20.0;
    let size = cx.ew("abs", &[x])?;
    let edge = cx.constant(DType::F64, EDGE)?;
    let (low, high) = (cx.ew("min", &[size, edge])?, cx.ew("max", &[size, edge])?);
    let squared = cx.ew("square", &[low])?;
    let quarter = cx.ew_const("mul", squared, 0.25)?;
    let mut coefficients = vec![1.0];
    for k in 1..=TERMS {
        let last = coefficients.last().copied().unwrap_or(1.0);
        coefficients.push(last / f64::from(k * k));
    }
    coefficients.reverse();
    let near = polynomial(cx, quarter, &coefficients)?;
    let inverse = cx.ew("reciprocal", &[high])?;
    let mut coefficients = vec![1.0];
    for k in 1..=10 {
        let last = coefficients.last().copied().unwrap_or(1.0);
        coefficients.push(last * f64::from((2 * k - 1) * (2 * k - 1)) / f64::from(8 * k));
    }
    coefficients.reverse();
    let far = polynomial(cx, inverse, &coefficients)?;
    let area = cx.ew_const("mul", high, 2.0 * PI)?;
    let root = cx.ew("sqrt", &[area])?;
    let far = cx.ew("div", &[far, root])?;
    let (near, far) = if scaled {
        let down = cx.ew("neg", &[low])?;
        let down = cx.ew("exp", &[down])?;
        (cx.ew("mul", &[near, down])?, far)
    } else {
        let up = cx.ew("exp", &[high])?;
        (near, cx.ew("mul", &[far, up])?)
    };
    let is_near = cx.ew("lt", &[size, edge])?;
    let y = cx.ew("where", &[is_near, near, far])?;
    let nan = cx.ew("is_nan", &[x])?;
    cx.ew("where", &[nan, x, y])
}

/// A window of `n` points; periodic ones are of `n + 1` without the last.
fn kaiser_window(cx: &mut Cx<'_, '_>) -> Results {
    let n = cx.int("window_length")?;
    let periodic = !cx.takes("periodic") || cx.flag("periodic")?;
    let beta = cx.maybe_float("beta")?.unwrap_or(12.0);
    let dtype = cx.dtype_arg("dtype")?.unwrap_or(DEFAULT);
    if !(0..=i64::from(i32::MAX)).contains(&n) {
        return Err(OpError::invalid(format!("a window of {n} points")));
    }
    if n <= 1 {
        let y = cx.filled(dtype, 1.0, &[Dim::known(n)])?;
        return one(y);
    }
    let gaps = if periodic { n } else { n - 1 } as f64;
    let i = cx.b.add1(Source::Iota { len: Dim::known(n), dtype: DType::F64 }, &[])?;
    let x = cx.ew_const("mul", i, 2.0 / gaps)?;
    let x = cx.ew_const("sub", x, 1.0)?;
    let squared = cx.ew("square", &[x])?;
    let unit = cx.constant(DType::F64, 1.0)?;
    let rest = cx.ew("sub", &[unit, squared])?;
    let rest = cx.ew_const("max", rest, 0.0)?;
    let root = cx.ew("sqrt", &[rest])?;
    let x = cx.ew_const("mul", root, beta)?;
    let top = cx.constant(DType::F64, beta)?;
    let (window, top) = (bessel(cx, x, false)?, bessel(cx, top, false)?);
    let y = cx.ew("div", &[window, top])?;
    let y = cx.b.cast(y, dtype)?;
    one(y)
}
