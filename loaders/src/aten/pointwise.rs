//! Pointwise functions and arithmetic.

use kiln_ir::{Build, DClass, DType, Dim, Op, Value};

use super::arg::Arg;
use super::cx::{Cx, one};
use super::promote::DEFAULT;
use super::{How, Results, Row, row};
use crate::error::OpError;

use How::{Alias, Float, Fn, Same};

#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    row("aten::abs", Fn(abs)),
    row("aten::absolute", Alias("aten::abs")),
    row("aten::acos", Float("acos")),
    row("aten::acosh", Float("acosh")),
    row("aten::add", Fn(add)),
    row("aten::addcdiv", Fn(addcdiv)),
    row("aten::addcmul", Fn(addcmul)),
    row("aten::arccos", Float("acos")),
    row("aten::arccosh", Float("acosh")),
    row("aten::arcsin", Float("asin")),
    row("aten::arcsinh", Float("asinh")),
    row("aten::arctan", Float("atan")),
    row("aten::arctan2", Alias("aten::atan2")),
    row("aten::arctanh", Float("atanh")),
    row("aten::asin", Float("asin")),
    row("aten::asinh", Float("asinh")),
    row("aten::atan", Float("atan")),
    row("aten::atan2", Fn(atan2)),
    row("aten::atanh", Float("atanh")),
    row("aten::ceil", Fn(ceil)),
    row("aten::clamp", Fn(clamp)),
    row("aten::clamp_max", Fn(clamp)),
    row("aten::clamp_min", Fn(clamp)),
    row("aten::clip", Alias("aten::clamp")),
    row("aten::copysign", Fn(copysign)),
    row("aten::cos", Float("cos")),
    row("aten::cosh", Float("cosh")),
    row("aten::deg2rad", Fn(|cx| scaled(cx, std::f64::consts::PI / 180.0))),
    row("aten::div", Fn(div)),
    row("aten::divide", Alias("aten::div")),
    row("aten::erf", Float("erf")),
    row("aten::erfc", Fn(erfc)),
    row("aten::exp", Float("exp")),
    row("aten::exp2", Fn(exp2)),
    row("aten::expm1", Float("expm1")),
    row("aten::fix", Fn(trunc)),
    row("aten::float_power", Fn(float_power)),
    row("aten::floor", Fn(floor)),
    row("aten::floor_divide", Fn(floor_divide)),
    row("aten::fmax", Fn(|cx| fminmax(cx, "max"))),
    row("aten::fmin", Fn(|cx| fminmax(cx, "min"))),
    row("aten::fmod", Fn(fmod)),
    row("aten::frac", Fn(frac)),
    row("aten::heaviside", Fn(heaviside)),
    row("aten::hypot", Fn(hypot)),
    row("aten::ldexp", Fn(ldexp)),
    row("aten::lerp", Fn(lerp)),
    row("aten::log", Float("log")),
    row("aten::log10", Fn(|cx| log_of(cx, std::f64::consts::LN_10))),
    row("aten::log1p", Float("log1p")),
    row("aten::log2", Fn(|cx| log_of(cx, std::f64::consts::LN_2))),
    row("aten::logaddexp", Fn(|cx| logaddexp(cx, 1.0))),
    row("aten::logaddexp2", Fn(|cx| logaddexp(cx, std::f64::consts::LN_2))),
    row("aten::logit", Fn(logit)),
    row("aten::maximum", Fn(|cx| promoted(cx, "max"))),
    row("aten::minimum", Fn(|cx| promoted(cx, "min"))),
    row("aten::mul", Fn(mul)),
    row("aten::multiply", Alias("aten::mul")),
    row("aten::nan_to_num", Fn(nan_to_num)),
    row("aten::neg", Same("neg")),
    row("aten::negative", Same("neg")),
    row("aten::positive", Fn(|cx| { let x = cx.first()?; one(x) })),
    row("aten::pow", Fn(pow)),
    row("aten::rad2deg", Fn(|cx| scaled(cx, 180.0 / std::f64::consts::PI))),
    row("aten::reciprocal", Float("reciprocal")),
    row("aten::remainder", Fn(remainder)),
    row("aten::round", Fn(round)),
    row("aten::rsqrt", Float("rsqrt")),
    row("aten::rsub", Fn(rsub)),
    row("aten::sgn", Fn(sign)),
    row("aten::sign", Fn(sign)),
    row("aten::sin", Float("sin")),
    row("aten::sinc", Fn(sinc)),
    row("aten::sinh", Float("sinh")),
    row("aten::special_erf", Float("erf")),
    row("aten::special_erfc", Fn(erfc)),
    row("aten::special_exp2", Fn(exp2)),
    row("aten::special_expit", Float("sigmoid")),
    row("aten::special_expm1", Float("expm1")),
    row("aten::special_log1p", Float("log1p")),
    row("aten::special_logit", Alias("aten::logit")),
    row("aten::special_round", Alias("aten::round")),
    row("aten::special_sinc", Alias("aten::sinc")),
    row("aten::special_xlog1py", Fn(|cx| xlog(cx, "log1p"))),
    row("aten::special_xlogy", Fn(|cx| xlog(cx, "log"))),
    row("aten::sqrt", Float("sqrt")),
    row("aten::square", Fn(square)),
    row("aten::sub", Fn(sub)),
    row("aten::subtract", Alias("aten::sub")),
    row("aten::tan", Float("tan")),
    row("aten::tanh", Float("tanh")),
    row("aten::true_divide", Fn(true_divide)),
    row("aten::trunc", Fn(trunc)),
    row("aten::xlogy", Fn(|cx| xlog(cx, "log"))),
];

/// A row of graph IR's elementwise table on the first argument.
pub(super) fn unary(cx: &mut Cx<'_, '_>, name: &str, floats: bool) -> Results {
    if let Arg::Int(_) | Arg::Float(_) | Arg::Bool(_) | Arg::Scalar(_) = cx.at(0)
        && !cx.takes("self")
    {
        return super::scalar::unary(cx, name);
    }
    let mut x = cx.first()?;
    if floats {
        x = cx.as_floats(x)?;
    }
    let y = cx.ew(name, &[x])?;
    one(y)
}

/// The two operands under the names that overloads have for them.
fn operands(cx: &Cx<'_, '_>) -> [&'static str; 2] {
    if cx.takes("a") { ["a", "b"] } else { ["self", "other"] }
}

/// An elementwise operator on the promoted operands; bools as bytes.
pub(super) fn promoted(cx: &mut Cx<'_, '_>, name: &str) -> Results {
    let (values, dtype) = cx.promoted(&operands(cx))?;
    if dtype == DType::Bool {
        let name = match name {
            "max" => "or",
            "min" | "mul" => "and",
            "add" => "or",
            other => return Err(OpError::invalid(format!("`{other}` of bools"))),
        };
        let y = cx.ew(name, &values)?;
        return one(y);
    }
    let y = cx.ew(name, &values)?;
    one(y)
}

/// `self + alpha * other`, or with a minus.
fn add_like(cx: &mut Cx<'_, '_>, name: &str, names: [&str; 2]) -> Results {
    if cx.takes("a") {
        return super::scalar::binary(cx, name);
    }
    let (values, dtype) = cx.promoted(&names)?;
    let [a, mut b] = pair(&values)?;
    let alpha = cx.get("alpha").clone();
    if !alpha.is_none() && cx.to_float(&alpha) != Some(1.0) {
        let alpha = cx.as_dtype(&alpha, dtype)?;
        b = cx.ew(if dtype == DType::Bool { "and" } else { "mul" }, &[b, alpha])?;
    }
    let y = match (dtype, name) {
        (DType::Bool, "add") => cx.ew("or", &[a, b])?,
        (DType::Bool, _) => return Err(OpError::invalid("subtraction of bools")),
        _ => cx.ew(name, &[a, b])?,
    };
    one(y)
}

/// Two values.
pub(super) fn pair(values: &[Value]) -> Result<[Value; 2], OpError> {
    match values {
        [a, b] => Ok([*a, *b]),
        _ => Err(OpError::invalid(format!("expected 2 operands, found {}", values.len()))),
    }
}

/// Three values.
pub(super) fn triple(values: &[Value]) -> Result<[Value; 3], OpError> {
    match values {
        [a, b, c] => Ok([*a, *b, *c]),
        _ => Err(OpError::invalid(format!("expected 3 operands, found {}", values.len()))),
    }
}

fn add(cx: &mut Cx<'_, '_>) -> Results {
    add_like(cx, "add", ["self", "other"])
}

fn sub(cx: &mut Cx<'_, '_>) -> Results {
    add_like(cx, "sub", ["self", "other"])
}

fn rsub(cx: &mut Cx<'_, '_>) -> Results {
    add_like(cx, "sub", ["other", "self"])
}

fn mul(cx: &mut Cx<'_, '_>) -> Results {
    if cx.takes("a") { super::scalar::binary(cx, "mul") } else { promoted(cx, "mul") }
}

fn abs(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    match cx.dtype(x)?.class() {
        DClass::Unsigned | DClass::Bool => one(x),
        _ => unary(cx, "abs", false),
    }
}

/// Rounding functions leave integers as they are.
fn rounded(cx: &mut Cx<'_, '_>, name: &str) -> Results {
    if !cx.takes("self") {
        return super::scalar::unary(cx, name);
    }
    let x = cx.first()?;
    if cx.dtype(x)?.is_float() { unary(cx, name, false) } else { one(x) }
}

fn ceil(cx: &mut Cx<'_, '_>) -> Results {
    rounded(cx, "ceil")
}

fn floor(cx: &mut Cx<'_, '_>) -> Results {
    rounded(cx, "floor")
}

fn trunc(cx: &mut Cx<'_, '_>) -> Results {
    rounded(cx, "trunc")
}

fn round(cx: &mut Cx<'_, '_>) -> Results {
    let decimals = cx.maybe_int("decimals")?.unwrap_or(0);
    if decimals == 0 {
        return rounded(cx, "round");
    }
    let x = cx.first()?;
    if !cx.dtype(x)?.is_float() {
        return one(x);
    }
    let scale = 10f64.powi(i32::try_from(decimals.unsigned_abs()).unwrap_or(i32::MAX));
    let (before, after) = if decimals > 0 { ("mul", "div") } else { ("div", "mul") };
    let scaled = cx.ew_const(before, x, scale)?;
    let whole = cx.ew("round", &[scaled])?;
    let y = cx.ew_const(after, whole, scale)?;
    one(y)
}

fn frac(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    let whole = cx.ew("trunc", &[x])?;
    let y = cx.ew("sub", &[x, whole])?;
    one(y)
}

/// NaN has the sign 0.
fn sign(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    let dtype = cx.dtype(x)?;
    if dtype == DType::Bool {
        return one(x);
    }
    let y = cx.ew("sign", &[x])?;
    if !dtype.is_float() {
        return one(y);
    }
    let zero = cx.constant(dtype, 0.0)?;
    let nan = cx.ew("is_nan", &[x])?;
    let y = cx.ew("where", &[nan, zero, y])?;
    one(y)
}

fn square(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    let x = if cx.dtype(x)? == DType::Bool { cx.b.cast(x, DType::I64)? } else { x };
    let y = cx.ew("square", &[x])?;
    one(y)
}

fn scaled(cx: &mut Cx<'_, '_>, factor: f64) -> Results {
    let x = cx.first()?;
    let x = cx.as_floats(x)?;
    let y = cx.ew_const("mul", x, factor)?;
    one(y)
}

fn exp2(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    let x = cx.as_floats(x)?;
    let dtype = cx.dtype(x)?;
    let two = cx.constant(dtype, 2.0)?;
    let y = cx.ew("pow", &[two, x])?;
    one(y)
}

/// `1 - erf(x)`; where that cancels, the complement of graph IR's sum form is exact enough in f64 only.
fn erfc(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    let x = cx.as_floats(x)?;
    let dtype = cx.dtype(x)?;
    let wide = cx.b.cast(x, DType::F64)?;
    let erf = cx.ew("erf", &[wide])?;
    let unit = cx.constant(DType::F64, 1.0)?;
    let y = cx.ew("sub", &[unit, erf])?;
    let y = cx.b.cast(y, dtype)?;
    one(y)
}

fn log_of(cx: &mut Cx<'_, '_>, base: f64) -> Results {
    if !cx.takes("self") {
        return super::scalar::log(cx, base);
    }
    let x = cx.first()?;
    let x = cx.as_floats(x)?;
    let log = cx.ew("log", &[x])?;
    let y = cx.ew_const("mul", log, 1.0 / base)?;
    one(y)
}

fn logit(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    let mut x = cx.as_floats(x)?;
    let dtype = cx.dtype(x)?;
    if let Some(eps) = cx.maybe_float("eps")? {
        let (low, high) = (cx.constant(dtype, eps)?, cx.constant(dtype, 1.0 - eps)?);
        x = cx.ew("clamp", &[x, low, high])?;
    }
    let unit = cx.constant(dtype, 1.0)?;
    let rest = cx.ew("sub", &[unit, x])?;
    let odds = cx.ew("div", &[x, rest])?;
    let y = cx.ew("log", &[odds])?;
    one(y)
}

fn sinc(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    let x = cx.as_floats(x)?;
    let dtype = cx.dtype(x)?;
    let turned = cx.ew_const("mul", x, std::f64::consts::PI)?;
    let sine = cx.ew("sin", &[turned])?;
    let ratio = cx.ew("div", &[sine, turned])?;
    let (zero, unit) = (cx.constant(dtype, 0.0)?, cx.constant(dtype, 1.0)?);
    let origin = cx.ew("eq", &[x, zero])?;
    let y = cx.ew("where", &[origin, unit, ratio])?;
    one(y)
}

fn true_divide(cx: &mut Cx<'_, '_>) -> Results {
    let (values, _) = cx.promoted_floats(&["self", "other"])?;
    let y = cx.ew("div", &values)?;
    one(y)
}

fn div(cx: &mut Cx<'_, '_>) -> Results {
    if cx.takes("a") {
        return super::scalar::binary(cx, "div");
    }
    match cx.maybe_text("rounding_mode")? {
        None => true_divide(cx),
        Some("floor") => floor_divide(cx),
        Some("trunc") => {
            let (values, dtype) = cx.promoted(&["self", "other"])?;
            let y = cx.ew("div", &values)?;
            let y = if dtype.is_float() { cx.ew("trunc", &[y])? } else { y };
            one(y)
        }
        Some(other) => Err(OpError::invalid(format!("rounding_mode `{other}`"))),
    }
}

/// The quotient rounded down. Of floats from C's remainder, as PyTorch has it: what is left then divides exactly.
fn floor_divide(cx: &mut Cx<'_, '_>) -> Results {
    if cx.takes("a") {
        return super::scalar::binary(cx, "floordiv");
    }
    let (values, dtype) = cx.promoted(&["self", "other"])?;
    let [a, b] = pair(&values)?;
    if !dtype.is_float() {
        let rest = cx.ew("mod", &[a, b])?;
        let whole = cx.ew("sub", &[a, rest])?;
        let y = cx.ew("div", &[whole, b])?;
        return one(y);
    }
    let (zero, unit) = (cx.constant(dtype, 0.0)?, cx.constant(dtype, 1.0)?);
    let rest = cx.ew("rem", &[a, b])?;
    let whole = cx.ew("sub", &[a, rest])?;
    let quotient = cx.ew("div", &[whole, b])?;
    let (b_below, rest_below) = (cx.ew("lt", &[b, zero])?, cx.ew("lt", &[rest, zero])?);
    let signs_differ = cx.ew("xor", &[b_below, rest_below])?;
    let exact = cx.ew("eq", &[rest, zero])?;
    let inexact = cx.ew("not", &[exact])?;
    let lower = cx.ew("and", &[signs_differ, inexact])?;
    let down = cx.ew("sub", &[quotient, unit])?;
    let quotient = cx.ew("where", &[lower, down, quotient])?;
    let floor = cx.ew("floor", &[quotient])?;
    let excess = cx.ew("sub", &[quotient, floor])?;
    let half = cx.constant(dtype, 0.5)?;
    let above = cx.ew("gt", &[excess, half])?;
    let up = cx.ew("add", &[floor, unit])?;
    let y = cx.ew("where", &[above, up, floor])?;
    let plain = cx.ew("div", &[a, b])?;
    // A quotient of zero has the sign of the plain one, and dividing by zero is what it is.
    let signed = cx.ew("mul", &[plain, zero])?;
    let vanishes = cx.ew("eq", &[quotient, zero])?;
    let y = cx.ew("where", &[vanishes, signed, y])?;
    let by_zero = cx.ew("eq", &[b, zero])?;
    let y = cx.ew("where", &[by_zero, plain, y])?;
    one(y)
}

fn remainder(cx: &mut Cx<'_, '_>) -> Results {
    if cx.takes("a") { super::scalar::binary(cx, "remainder") } else { promoted(cx, "mod") }
}

fn fmod(cx: &mut Cx<'_, '_>) -> Results {
    if cx.takes("a") { super::scalar::binary(cx, "fmod") } else { promoted(cx, "rem") }
}

fn pow(cx: &mut Cx<'_, '_>) -> Results {
    if cx.takes("a") {
        return super::scalar::binary(cx, "pow");
    }
    let (values, dtype) = cx.promoted(&["self", "exponent"])?;
    let [x, exponent] = pair(&values)?;
    let y = power(cx, x, exponent, dtype)?;
    one(y)
}

/// A power; exponents that are known and simple become products and roots.
pub(super) fn power(cx: &mut Cx<'_, '_>, x: Value, exponent: Value, dtype: DType) -> Result<Value, OpError> {
    if dtype == DType::Bool {
        let (x, exponent) = (cx.b.cast(x, DType::I64)?, cx.b.cast(exponent, DType::I64)?);
        let y = cx.ew("pow", &[x, exponent])?;
        return Ok(cx.b.cast(y, DType::Bool)?);
    }
    // One element with axes still gives the result its axes.
    let plain = dtype.is_float() && cx.rank(exponent)? == 0;
    let known = cx.to_float(&Arg::Tensor(exponent)).filter(|_| plain);
    match known {
        Some(2.0) => cx.ew("square", &[x]),
        Some(1.0) => Ok(x),
        Some(0.5) => cx.ew("sqrt", &[x]),
        Some(-0.5) => cx.ew("rsqrt", &[x]),
        Some(-1.0) => cx.ew("reciprocal", &[x]),
        Some(3.0) => {
            let squared = cx.ew("square", &[x])?;
            cx.ew("mul", &[squared, x])
        }
        _ => cx.ew("pow", &[x, exponent]),
    }
}

/// Computed in f64.
fn float_power(cx: &mut Cx<'_, '_>) -> Results {
    let args = [cx.get("self").clone(), cx.get("exponent").clone()];
    let values = cx.cast_all(&args, DType::F64)?;
    let [x, exponent] = pair(&values)?;
    let y = power(cx, x, exponent, DType::F64)?;
    one(y)
}

fn atan2(cx: &mut Cx<'_, '_>) -> Results {
    let (values, dtype) = cx.promoted_floats(&["self", "other"])?;
    let [y, x] = pair(&values)?;
    let angle = angle_of(cx, y, x, dtype)?;
    one(angle)
}

/// The angle of a point whose coordinates have a float type.
pub(super) fn angle_of(cx: &mut Cx<'_, '_>, y: Value, x: Value, dtype: DType) -> Result<Value, OpError> {
    // Two infinities are on a diagonal.
    let (y_infinite, x_infinite) =
        (cx.b.ew_with("is_inf", &[1.0, 1.0], &[y])?, cx.b.ew_with("is_inf", &[1.0, 1.0], &[x])?);
    let diagonal = cx.ew("and", &[y_infinite, x_infinite])?;
    let (y_sign, x_sign) = (cx.ew("sign", &[y])?, cx.ew("sign", &[x])?);
    let (y, x) = (cx.ew("where", &[diagonal, y_sign, y])?, cx.ew("where", &[diagonal, x_sign, x])?);
    let ratio = cx.ew("div", &[y, x])?;
    let angle = cx.ew("atan", &[ratio])?;
    let zero = cx.constant(dtype, 0.0)?;
    let (pi, minus_pi) =
        (cx.constant(dtype, std::f64::consts::PI)?, cx.constant(dtype, -std::f64::consts::PI)?);
    // The sign of zero counts, too.
    let below = is_negative(cx, y)?;
    let turn = cx.ew("where", &[below, minus_pi, pi])?;
    let left = is_negative(cx, x)?;
    let turned = cx.ew("add", &[angle, turn])?;
    let by_side = cx.ew("where", &[left, turned, angle])?;
    // 0 / 0 is on the axis.
    let y_zero = cx.ew("eq", &[y, zero])?;
    let on_axis = cx.ew("where", &[left, turn, y])?;
    let angle = cx.ew("where", &[y_zero, on_axis, by_side])?;
    let nan = cx.ew("is_nan", &[x])?;
    cx.ew("where", &[nan, x, angle])
}

/// Whether the sign is set, also that of zero.
fn is_negative(cx: &mut Cx<'_, '_>, x: Value) -> Result<Value, OpError> {
    let dtype = cx.dtype(x)?;
    let zero = cx.constant(dtype, 0.0)?;
    let below = cx.ew("lt", &[x, zero])?;
    let inverse = cx.ew("reciprocal", &[x])?;
    let inverse_below = cx.ew("lt", &[inverse, zero])?;
    cx.ew("or", &[below, inverse_below])
}

fn copysign(cx: &mut Cx<'_, '_>) -> Results {
    let (values, _) = cx.promoted_floats(&["self", "other"])?;
    let [x, sign] = pair(&values)?;
    let size = cx.ew("abs", &[x])?;
    let negated = cx.ew("neg", &[size])?;
    let below = is_negative(cx, sign)?;
    let y = cx.ew("where", &[below, negated, size])?;
    one(y)
}

fn hypot(cx: &mut Cx<'_, '_>) -> Results {
    let (values, dtype) = cx.promoted_floats(&["self", "other"])?;
    let [a, b] = pair(&values)?;
    let wide = if dtype == DType::F64 { dtype } else { DType::F64 };
    let (a, b) = (cx.b.cast(a, wide)?, cx.b.cast(b, wide)?);
    let (a_infinite, b_infinite) =
        (cx.b.ew_with("is_inf", &[1.0, 1.0], &[a])?, cx.b.ew_with("is_inf", &[1.0, 1.0], &[b])?);
    let (a, b) = (cx.ew("square", &[a])?, cx.ew("square", &[b])?);
    let sum = cx.ew("add", &[a, b])?;
    let root = cx.ew("sqrt", &[sum])?;
    // An infinite side is infinitely long, also beside NaN.
    let infinite = cx.ew("or", &[a_infinite, b_infinite])?;
    let infinity = cx.constant(wide, f64::INFINITY)?;
    let root = cx.ew("where", &[infinite, infinity, root])?;
    let y = cx.b.cast(root, dtype)?;
    one(y)
}

fn ldexp(cx: &mut Cx<'_, '_>) -> Results {
    let (values, dtype) = cx.promoted_floats(&["self", "other"])?;
    let [x, exponent] = pair(&values)?;
    // The power may be beyond the type's range where the product is not.
    let (x, exponent) = (cx.b.cast(x, DType::F64)?, cx.b.cast(exponent, DType::F64)?);
    let two = cx.constant(DType::F64, 2.0)?;
    let power = cx.ew("pow", &[two, exponent])?;
    let y = cx.ew("mul", &[x, power])?;
    let y = cx.b.cast(y, dtype)?;
    one(y)
}

/// `log(exp(a) + exp(b))`, or with base 2.
fn logaddexp(cx: &mut Cx<'_, '_>, log_base: f64) -> Results {
    let (values, _) = cx.promoted_floats(&["self", "other"])?;
    let [a, b] = pair(&values)?;
    let y = log_of_sum(cx, a, b, log_base)?;
    one(y)
}

/// The logarithm of the sum of two numbers whose logarithms are given.
pub(super) fn log_of_sum(cx: &mut Cx<'_, '_>, a: Value, b: Value, log_base: f64) -> Result<Value, OpError> {
    let dtype = cx.dtype(a)?;
    let top = cx.ew("max", &[a, b])?;
    let difference = cx.ew("sub", &[a, b])?;
    let distance = cx.ew("abs", &[difference])?;
    let below = cx.ew_const("mul", distance, -log_base)?;
    let tail = cx.ew("exp", &[below])?;
    let tail = cx.ew("log1p", &[tail])?;
    let tail = cx.ew_const("mul", tail, 1.0 / log_base)?;
    let sum = cx.ew("add", &[top, tail])?;
    // Equal infinities have no difference.
    let zero = cx.constant(dtype, 0.0)?;
    let same = cx.ew("eq", &[a, b])?;
    let infinite = cx.b.ew_with("is_inf", &[1.0, 1.0], &[a])?;
    let same = cx.ew("and", &[same, infinite])?;
    let plain = cx.ew("add", &[a, zero])?;
    cx.ew("where", &[same, plain, sum])
}

fn heaviside(cx: &mut Cx<'_, '_>) -> Results {
    let (values, dtype) = cx.promoted(&["self", "values"])?;
    let [x, at_zero] = pair(&values)?;
    let (zero, unit) = (cx.constant(dtype, 0.0)?, cx.constant(dtype, 1.0)?);
    let below = cx.ew("lt", &[x, zero])?;
    let at = cx.ew("eq", &[x, zero])?;
    let side = cx.ew("where", &[below, zero, unit])?;
    let y = cx.ew("where", &[at, at_zero, side])?;
    one(y)
}

/// `x * log(y)`, 0 where `x` is 0 and `y` a number.
fn xlog(cx: &mut Cx<'_, '_>, name: &str) -> Results {
    let (values, dtype) = cx.promoted_floats(&["self", "other"])?;
    let [x, y] = pair(&values)?;
    let log = cx.ew(name, &[y])?;
    let product = cx.ew("mul", &[x, log])?;
    let zero = cx.constant(dtype, 0.0)?;
    let vanishes = cx.ew("eq", &[x, zero])?;
    let result = cx.ew("where", &[vanishes, zero, product])?;
    let nan = cx.ew("is_nan", &[y])?;
    let result = cx.ew("where", &[nan, y, result])?;
    one(result)
}

/// The extremum that passes over NaN.
fn fminmax(cx: &mut Cx<'_, '_>, name: &str) -> Results {
    let (values, dtype) = cx.promoted(&["self", "other"])?;
    if !dtype.is_float() {
        return promoted(cx, name);
    }
    let [a, b] = pair(&values)?;
    let both = cx.ew(name, &[a, b])?;
    let (nan_a, nan_b) = (cx.ew("is_nan", &[a])?, cx.ew("is_nan", &[b])?);
    let y = cx.ew("where", &[nan_b, a, both])?;
    let y = cx.ew("where", &[nan_a, b, y])?;
    one(y)
}

fn lerp(cx: &mut Cx<'_, '_>) -> Results {
    let start = cx.tensor("self")?;
    let dtype = cx.dtype(start)?;
    let (end, weight) = (cx.get("end").clone(), cx.get("weight").clone());
    let (end, weight) = (cx.as_dtype(&end, dtype)?, cx.as_dtype(&weight, dtype)?);
    let y = between(cx, start, end, weight)?;
    one(y)
}

/// `start + weight * (end - start)`, counted from the nearer end.
pub(super) fn between(
    cx: &mut Cx<'_, '_>,
    start: Value,
    end: Value,
    weight: Value,
) -> Result<Value, OpError> {
    let dtype = cx.dtype(start)?;
    let difference = cx.ew("sub", &[end, start])?;
    let part = cx.ew("mul", &[weight, difference])?;
    let from_start = cx.ew("add", &[start, part])?;
    // The nearer end is where rounding begins.
    let (unit, half) = (cx.constant(dtype, 1.0)?, cx.constant(dtype, 0.5)?);
    let rest = cx.ew("sub", &[unit, weight])?;
    let back = cx.ew("mul", &[difference, rest])?;
    let from_end = cx.ew("sub", &[end, back])?;
    let size = cx.ew("abs", &[weight])?;
    let near = cx.ew("lt", &[size, half])?;
    cx.ew("where", &[near, from_start, from_end])
}

fn addcmul(cx: &mut Cx<'_, '_>) -> Results {
    let (values, dtype) = cx.promoted(&["self", "tensor1", "tensor2"])?;
    let [x, a, b] = triple(&values)?;
    let product = cx.ew("mul", &[a, b])?;
    let y = add_scaled(cx, x, product, "value", dtype)?;
    one(y)
}

fn addcdiv(cx: &mut Cx<'_, '_>) -> Results {
    let (values, dtype) = cx.promoted(&["self", "tensor1", "tensor2"])?;
    let [x, a, b] = triple(&values)?;
    let quotient = cx.ew("div", &[a, b])?;
    let y = add_scaled(cx, x, quotient, "value", dtype)?;
    one(y)
}

/// `x + factor * y`, where the factor is an argument.
fn add_scaled(
    cx: &mut Cx<'_, '_>,
    x: Value,
    mut y: Value,
    factor: &str,
    dtype: DType,
) -> Result<Value, OpError> {
    let factor = cx.get(factor).clone();
    if cx.to_float(&factor) != Some(1.0) {
        let factor = cx.as_dtype(&factor, dtype)?;
        y = cx.ew("mul", &[y, factor])?;
    }
    cx.ew("add", &[x, y])
}

fn clamp(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let bounds = [cx.get("min").clone(), cx.get("max").clone()];
    let given = bounds.iter().filter(|arg| !arg.is_none());
    let this = Arg::Tensor(x);
    let dtype = cx.result_type(&std::iter::once(&this).chain(given).collect::<Vec<_>>())?;
    let mut y = cx.b.cast(x, dtype)?;
    // A number beyond the type's range bounds nothing, instead of wrapping.
    let within = |cx: &Cx<'_, '_>, bound: &Arg| match (dtype.int_range(), bound) {
        (Some((least, most)), Arg::Int(_)) => match cx.to_float(bound) {
            Some(value) if value < least as f64 => {
                Arg::Int(Dim::known(i64::try_from(least).unwrap_or(i64::MIN)))
            }
            Some(value) if value > most as f64 => {
                Arg::Int(Dim::known(i64::try_from(most).unwrap_or(i64::MAX)))
            }
            _ => bound.clone(),
        },
        _ => bound.clone(),
    };
    let [low, high] = &bounds.map(|bound| within(cx, &bound));
    if !low.is_none() && !high.is_none() {
        let (low, high) = (cx.as_dtype(low, dtype)?, cx.as_dtype(high, dtype)?);
        y = cx.ew("clamp", &[y, low, high])?;
        return one(y);
    }
    if !low.is_none() {
        let low = cx.as_dtype(low, dtype)?;
        y = cx.ew("max", &[y, low])?;
    }
    if !high.is_none() {
        let high = cx.as_dtype(high, dtype)?;
        y = cx.ew("min", &[y, high])?;
    }
    one(y)
}

fn nan_to_num(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    let dtype = cx.dtype(x)?;
    if !dtype.is_float() {
        return one(x);
    }
    let largest = match dtype {
        DType::F16 => 65504.0,
        DType::BF16 => f64::from(f32::from_bits(0x7f7f_0000)),
        DType::F64 => f64::MAX,
        _ => f64::from(f32::MAX),
    };
    let nan = cx.maybe_float("nan")?.unwrap_or(0.0);
    let high = cx.maybe_float("posinf")?.unwrap_or(largest);
    let low = cx.maybe_float("neginf")?.unwrap_or(-largest);
    let mut y = x;
    let is_nan = cx.ew("is_nan", &[x])?;
    let tests = [
        (is_nan, nan),
        (cx.b.ew_with("is_inf", &[0.0, 1.0], &[x])?, high),
        (cx.b.ew_with("is_inf", &[1.0, 0.0], &[x])?, low),
    ];
    for (test, value) in tests {
        let value = cx.constant(dtype, value)?;
        y = cx.ew("where", &[test, value, y])?;
    }
    one(y)
}

/// An elementwise operator with attributes, on floats of the default type if the operand has none.
pub(super) fn with_attrs(cx: &mut Cx<'_, '_>, name: &str, attrs: &[f64]) -> Results {
    let x = cx.first()?;
    let x = cx.as_floats(x)?;
    let y = cx.b.add1(Op::ew_with(name, attrs), &[x])?;
    one(y)
}

/// The float type that an operand is computed in.
pub(super) fn float_type(dtype: DType) -> DType {
    if dtype.is_float() { dtype } else { DEFAULT }
}
