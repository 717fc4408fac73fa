//! Comparisons, logic, bits and choices.

use kiln_ir::{Build, DType, Value};

use super::arg::Arg;
use super::cx::{Cx, one};
use super::pointwise::pair;
use super::{How, Results, Row, row};
use crate::error::OpError;

use How::{Alias, Fn};

#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    row("aten::__and__", Fn(|cx| bitwise(cx, "and", "bit_and"))),
    row("aten::__lshift__", Fn(|cx| shift(cx, "shift_left"))),
    row("aten::__or__", Fn(|cx| bitwise(cx, "or", "bit_or"))),
    row("aten::__rshift__", Fn(|cx| shift(cx, "shift_right"))),
    row("aten::__xor__", Fn(|cx| bitwise(cx, "xor", "bit_xor"))),
    row("aten::bitwise_and", Fn(|cx| bitwise(cx, "and", "bit_and"))),
    row("aten::bitwise_left_shift", Fn(|cx| shift(cx, "shift_left"))),
    row("aten::bitwise_not", Fn(bitwise_not)),
    row("aten::bitwise_or", Fn(|cx| bitwise(cx, "or", "bit_or"))),
    row("aten::bitwise_right_shift", Fn(|cx| shift(cx, "shift_right"))),
    row("aten::bitwise_xor", Fn(|cx| bitwise(cx, "xor", "bit_xor"))),
    row("aten::eq", Fn(|cx| compare(cx, "eq"))),
    row("aten::equal", Fn(equal)),
    row("aten::ge", Fn(|cx| compare(cx, "ge"))),
    row("aten::greater", Fn(|cx| compare(cx, "gt"))),
    row("aten::greater_equal", Fn(|cx| compare(cx, "ge"))),
    row("aten::gt", Fn(|cx| compare(cx, "gt"))),
    row("aten::isclose", Fn(isclose)),
    row("aten::isfinite", Fn(isfinite)),
    row("aten::isinf", Fn(|cx| isinf(cx, [1.0, 1.0]))),
    row("aten::isnan", Fn(isnan)),
    row("aten::isneginf", Fn(|cx| isinf(cx, [1.0, 0.0]))),
    row("aten::isposinf", Fn(|cx| isinf(cx, [0.0, 1.0]))),
    row("aten::isreal", Fn(isreal)),
    row("aten::le", Fn(|cx| compare(cx, "le"))),
    row("aten::less", Fn(|cx| compare(cx, "lt"))),
    row("aten::less_equal", Fn(|cx| compare(cx, "le"))),
    row("aten::logical_and", Fn(|cx| logical(cx, "and"))),
    row("aten::logical_not", Fn(logical_not)),
    row("aten::logical_or", Fn(|cx| logical(cx, "or"))),
    row("aten::logical_xor", Fn(|cx| logical(cx, "xor"))),
    row("aten::lt", Fn(|cx| compare(cx, "lt"))),
    row("aten::masked_fill", Fn(masked_fill)),
    row("aten::ne", Fn(|cx| compare(cx, "ne"))),
    row("aten::not_equal", Alias("aten::ne")),
    row("aten::signbit", Fn(signbit)),
    row("aten::where", Fn(choose)),
];

fn compare(cx: &mut Cx<'_, '_>, name: &str) -> Results {
    if cx.takes("a") {
        return super::scalar::compare(cx, name);
    }
    let (values, _) = cx.promoted(&["self", "other"])?;
    let y = cx.ew(name, &values)?;
    one(y)
}

/// Whether all elements are equal: a bool of run time.
fn equal(cx: &mut Cx<'_, '_>) -> Results {
    let (a, b) = (cx.tensor("self")?, cx.tensor("other")?);
    let (sizes, others) = (cx.shape(a)?, cx.shape(b)?);
    if sizes.len() != others.len() {
        return Ok(vec![Arg::Bool(false)]);
    }
    let mut all_same = true;
    for (x, y) in sizes.iter().zip(&others) {
        match super::scalar::compare_dims("eq", x, y) {
            Some(true) => {}
            Some(false) => return Ok(vec![Arg::Bool(false)]),
            None => all_same = false,
        }
    }
    if !all_same {
        return Err(OpError::unsupported("whether tensors are equal whose sizes show at run time"));
    }
    let same = cx.ew("eq", &[a, b])?;
    let axes: Vec<usize> = (0..cx.rank(same)?).collect();
    let all = cx.b.reduce(kiln_ir::op::ReduceKind::All, same, &axes, false)?;
    Ok(vec![Arg::Scalar(all)])
}

/// A tensor's elements as bools.
pub(super) fn truth(cx: &mut Cx<'_, '_>, v: Value) -> Result<Value, OpError> {
    Ok(cx.b.cast(v, DType::Bool)?)
}

/// All numbers are that are not complex.
fn isreal(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    let shape = cx.shape(x)?;
    let y = cx.filled(DType::Bool, 1.0, &shape)?;
    one(y)
}

fn logical(cx: &mut Cx<'_, '_>, name: &str) -> Results {
    let (a, b) = (cx.tensor("self")?, cx.tensor("other")?);
    let (a, b) = (truth(cx, a)?, truth(cx, b)?);
    let y = cx.ew(name, &[a, b])?;
    one(y)
}

fn logical_not(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    let x = truth(cx, x)?;
    let y = cx.ew("not", &[x])?;
    one(y)
}

fn bitwise(cx: &mut Cx<'_, '_>, of_bools: &str, of_ints: &str) -> Results {
    if cx.overload() == "bool" {
        return bits_of_bools(cx, of_bools);
    }
    if cx.takes("a") {
        return super::scalar::binary(cx, of_ints);
    }
    let (values, dtype) = cx.promoted(&["self", "other"])?;
    let y = cx.ew(if dtype == DType::Bool { of_bools } else { of_ints }, &values)?;
    one(y)
}

/// Logic of two truth values gives one.
fn bits_of_bools(cx: &mut Cx<'_, '_>, name: &str) -> Results {
    let (a, b) = (cx.at(0).clone(), cx.at(1).clone());
    if let (Arg::Bool(a), Arg::Bool(b)) = (&a, &b) {
        return Ok(vec![Arg::Bool(match name {
            "and" => *a && *b,
            "or" => *a || *b,
            _ => a != b,
        })]);
    }
    let values = cx.cast_all(&[a, b], DType::Bool)?;
    Ok(vec![Arg::Scalar(cx.ew(name, &values)?)])
}

fn bitwise_not(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    let name = if cx.dtype(x)? == DType::Bool { "not" } else { "bit_not" };
    let y = cx.ew(name, &[x])?;
    one(y)
}

fn shift(cx: &mut Cx<'_, '_>, name: &str) -> Results {
    if cx.takes("a") {
        return super::scalar::binary(cx, name);
    }
    let (values, _) = cx.promoted(&["self", "other"])?;
    let y = cx.ew(name, &values)?;
    one(y)
}

/// A bool of the shape of a tensor that holds none of the values in question.
fn nowhere(cx: &mut Cx<'_, '_>, x: Value, value: bool) -> Results {
    let shape = cx.shape(x)?;
    let y = cx.filled(DType::Bool, f64::from(u8::from(value)), &shape)?;
    one(y)
}

fn isnan(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    if !cx.dtype(x)?.is_float() {
        return nowhere(cx, x, false);
    }
    let y = cx.ew("is_nan", &[x])?;
    one(y)
}

fn isinf(cx: &mut Cx<'_, '_>, signs: [f64; 2]) -> Results {
    let x = cx.first()?;
    if !cx.dtype(x)?.is_float() {
        return nowhere(cx, x, false);
    }
    let y = cx.b.ew_with("is_inf", &signs, &[x])?;
    one(y)
}

fn isfinite(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    if !cx.dtype(x)?.is_float() {
        return nowhere(cx, x, true);
    }
    let nan = cx.ew("is_nan", &[x])?;
    let infinite = cx.b.ew_with("is_inf", &[1.0, 1.0], &[x])?;
    let neither = cx.ew("or", &[nan, infinite])?;
    let y = cx.ew("not", &[neither])?;
    one(y)
}

fn signbit(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    let dtype = cx.dtype(x)?;
    let zero = cx.constant(dtype, 0.0)?;
    let below = cx.ew("lt", &[x, zero])?;
    if !dtype.is_float() {
        return one(below);
    }
    let inverse = cx.ew("reciprocal", &[x])?;
    let inverse_below = cx.ew("lt", &[inverse, zero])?;
    let y = cx.ew("or", &[below, inverse_below])?;
    one(y)
}

/// `|a - b| <= atol + rtol * |b|`, or both equal.
fn isclose(cx: &mut Cx<'_, '_>) -> Results {
    let (values, dtype) = cx.promoted(&["self", "other"])?;
    let [a, b] = pair(&values)?;
    let same = cx.ew("eq", &[a, b])?;
    let floats = super::pointwise::float_type(dtype);
    let (fa, fb) = (cx.b.cast(a, floats)?, cx.b.cast(b, floats)?);
    let difference = cx.ew("sub", &[fa, fb])?;
    let distance = cx.ew("abs", &[difference])?;
    let size = cx.ew("abs", &[fb])?;
    let (rtol, atol) = (cx.float("rtol")?, cx.float("atol")?);
    let allowed = cx.ew_const("mul", size, rtol)?;
    let allowed = cx.ew_const("add", allowed, atol)?;
    let near = cx.ew("le", &[distance, allowed])?;
    let infinite = cx.b.ew_with("is_inf", &[1.0, 1.0], &[distance])?;
    let finite = cx.ew("not", &[infinite])?;
    let near = cx.ew("and", &[near, finite])?;
    let mut y = cx.ew("or", &[same, near])?;
    if cx.flag("equal_nan")? && dtype.is_float() {
        let (nan_a, nan_b) = (cx.ew("is_nan", &[a])?, cx.ew("is_nan", &[b])?);
        let both = cx.ew("and", &[nan_a, nan_b])?;
        y = cx.ew("or", &[y, both])?;
    }
    one(y)
}

fn choose(cx: &mut Cx<'_, '_>) -> Results {
    let condition = cx.tensor("condition")?;
    let condition = truth(cx, condition)?;
    if !cx.takes("self") {
        return super::index::where_true(cx, condition);
    }
    let (values, _) = cx.promoted(&["self", "other"])?;
    let [a, b] = pair(&values)?;
    let y = cx.ew("where", &[condition, a, b])?;
    one(y)
}

fn masked_fill(cx: &mut Cx<'_, '_>) -> Results {
    let (x, mask) = (cx.tensor("self")?, cx.tensor("mask")?);
    let dtype = cx.dtype(x)?;
    let value = cx.get("value").clone();
    let value = cx.as_dtype(&value, dtype)?;
    let mask = truth(cx, mask)?;
    let y = cx.ew("where", &[mask, value, x])?;
    one(y)
}
