//! Numbers outside of tensors: sizes, their arithmetic, and what is read out of tensors.
//!
//! Integers are dims as long as dims can say it; what they cannot say is computed at run time, as rank-0 tensors of i64,
//! f64 or bool.

use kiln_ir::op::Dynamic;
use kiln_ir::{Build, DType, Dim, Value};

use super::arg::Arg;
use super::cx::{Cx, one, product};
use super::promote::DEFAULT;
use super::{How, Results, Row, row};
use crate::error::OpError;

use How::{Alias, Fn};

#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    row("aten::Bool", Fn(|cx| convert(cx, DType::Bool))),
    row("aten::Float", Fn(|cx| convert(cx, DType::F64))),
    row("aten::FloatImplicit", Fn(|cx| convert(cx, DType::F64))),
    row("aten::Int", Fn(|cx| convert(cx, DType::I64))),
    row("aten::IntImplicit", Fn(|cx| convert(cx, DType::I64))),
    row("aten::ScalarImplicit", Fn(item)),
    row("aten::__not__", Fn(not)),
    row("aten::_assert_async", Fn(assertion)),
    row("aten::_assert_scalar", Fn(assertion)),
    row("aten::_assert_tensor_metadata", Fn(|_| Ok(vec![]))),
    row("aten::_local_scalar_dense", Fn(item)),
    row("aten::_shape_as_tensor", Fn(shape_as_tensor)),
    row("aten::dim", Fn(rank)),
    row("aten::floordiv", Fn(|cx| binary(cx, "floordiv"))),
    row("aten::is_floating_point", Fn(is_float)),
    row("aten::is_nonzero", Fn(|cx| convert(cx, DType::Bool))),
    row("aten::item", Fn(item)),
    row("aten::numel", Fn(numel)),
    row("aten::size", Fn(size)),
    row("aten::sym_constrain_range", Fn(|_| Ok(vec![]))),
    row("aten::sym_constrain_range_for_size", Fn(|_| Ok(vec![]))),
    row("aten::sym_numel", Fn(numel)),
    row("aten::sym_size", Alias("aten::size")),
    row("prim::NumToTensor", Fn(to_tensor)),
    row("prim::abs", Fn(|cx| unary(cx, "abs"))),
    row("prim::max", Fn(|cx| extremum(cx, "max"))),
    row("prim::min", Fn(|cx| extremum(cx, "min"))),
];

/// A number as a rank-0 tensor: integers as i64, floats as f64.
pub(super) fn value_of(cx: &mut Cx<'_, '_>, arg: &Arg) -> Result<Value, OpError> {
    let dtype = match arg {
        Arg::Float(_) => DType::F64,
        Arg::Scalar(v) => cx.dtype(*v)?,
        other => cx.number_dtype(other)?,
    };
    cx.as_dtype(arg, dtype)
}

/// Conditions that are known are checked; those of run time are the exporter's own guards and stay unchecked.
fn assertion(cx: &mut Cx<'_, '_>) -> Results {
    let condition = cx.at(0).clone();
    if cx.to_float(&condition) == Some(0.0) {
        let message = cx.maybe_text("assert_msg")?.unwrap_or("the condition does not hold");
        let message: String = message.chars().take(MOST_MESSAGE).collect();
        return Err(OpError::invalid(format!("an assertion fails: {message}")));
    }
    Ok(vec![])
}

/// Most characters of a file's message that are repeated.
const MOST_MESSAGE: usize = 256;

fn not(cx: &mut Cx<'_, '_>) -> Results {
    let arg = cx.at(0).clone();
    if let Some(value) = cx.to_float(&arg) {
        return Ok(vec![Arg::Bool(value == 0.0)]);
    }
    let v = cx.as_dtype(&arg, DType::Bool)?;
    Ok(vec![Arg::Scalar(cx.ew("not", &[v])?)])
}

/// Whether a number is an integer.
fn is_int(cx: &Cx<'_, '_>, arg: &Arg) -> bool {
    match arg {
        Arg::Int(_) | Arg::Bool(_) => true,
        Arg::Scalar(v) => cx.dtype(*v).is_ok_and(|d| !d.is_float()),
        _ => false,
    }
}

fn dim_of(arg: &Arg) -> Option<Dim> {
    match arg {
        Arg::Int(dim) => Some(dim.clone()),
        Arg::Bool(b) => Some(Dim::known(i64::from(*b))),
        _ => None,
    }
}

fn float_of(arg: &Arg) -> Option<f64> {
    match arg {
        Arg::Float(v) => Some(*v),
        other => dim_of(other)?.as_known().map(|v| v as f64),
    }
}

/// Arithmetic of the first two arguments.
pub(super) fn binary(cx: &mut Cx<'_, '_>, name: &str) -> Results {
    let (a, b) = (cx.at(0).clone(), cx.at(1).clone());
    // Of all powers only this one is an integer.
    let name = if name == "pow" && cx.overload() != "int_to_int" { "float_pow" } else { name };
    arithmetic(cx, name, &a, &b).map(|result| vec![result])
}

/// Arithmetic of two numbers, named as Python's operators; lists are joined.
pub(super) fn arithmetic(cx: &mut Cx<'_, '_>, name: &str, a: &Arg, b: &Arg) -> Result<Arg, OpError> {
    if let (Arg::List(a), Arg::List(b), "add") = (a, b, name) {
        return Ok(Arg::List(a.iter().chain(b).cloned().collect()));
    }
    let ints = is_int(cx, a) && is_int(cx, b) && !matches!(name, "div" | "float_pow");
    if let (Some(x), Some(y), true) = (dim_of(a), dim_of(b), ints)
        && let Some(found) = of_dims(name, &x, &y)?
    {
        return Ok(Arg::Int(found));
    }
    if let (Some(x), Some(y)) = (float_of(a), float_of(b))
        && !ints
    {
        return of_floats(name, x, y).map(Arg::Float);
    }
    let dtype = if ints { DType::I64 } else { DType::F64 };
    let (x, y) = (value_of(cx, a)?, value_of(cx, b)?);
    let (x, y) = (cx.b.cast(x, dtype)?, cx.b.cast(y, dtype)?);
    let value = match name {
        "floordiv" => {
            let rest = cx.ew("mod", &[x, y])?;
            let whole = cx.ew("sub", &[x, rest])?;
            cx.ew("div", &[whole, y])?
        }
        "remainder" => cx.ew("mod", &[x, y])?,
        "fmod" => cx.ew("rem", &[x, y])?,
        "float_pow" => cx.ew("pow", &[x, y])?,
        other => match kiln_ir::Ew::from_name(other) {
            Some(_) => cx.ew(other, &[x, y])?,
            None => return Err(OpError::unsupported(format!("`{other}` of numbers"))),
        },
    };
    Ok(Arg::Scalar(value))
}

/// Arithmetic of dims. `None`: dims cannot say it.
fn of_dims(name: &str, x: &Dim, y: &Dim) -> Result<Option<Dim>, OpError> {
    let known = x.as_known().zip(y.as_known());
    let found = match name {
        "add" => x + y,
        "sub" => x - y,
        "mul" => x * y,
        "max" => x.greater(y),
        "min" => x.lesser(y),
        "floordiv" | "remainder" if y.as_known() == Some(0) => {
            return Err(OpError::invalid("division by zero"));
        }
        "floordiv" => x.floor_div(y),
        "remainder" => x.modulo(y),
        _ => match (name, known) {
            ("pow", Some((x, y))) => {
                let power = u32::try_from(y).ok().and_then(|y| x.checked_pow(y));
                return Ok(power.map(Dim::known));
            }
            ("bit_and", Some((x, y))) => Dim::known(x & y),
            ("bit_or", Some((x, y))) => Dim::known(x | y),
            ("bit_xor", Some((x, y))) => Dim::known(x ^ y),
            _ => return Ok(None),
        },
    };
    Ok((!found.is_unknown()).then_some(found))
}

fn of_floats(name: &str, x: f64, y: f64) -> Result<f64, OpError> {
    Ok(match name {
        "add" => x + y,
        "sub" => x - y,
        "mul" => x * y,
        "div" | "floordiv" | "remainder" if y == 0.0 => return Err(OpError::invalid("division by zero")),
        "div" => x / y,
        "floordiv" => (x / y).floor(),
        "remainder" => {
            let rest = x % y;
            if rest != 0.0 && (rest < 0.0) != (y < 0.0) { rest + y } else { rest }
        }
        "fmod" => x % y,
        "pow" | "float_pow" => x.powf(y),
        "max" => x.max(y),
        "min" => x.min(y),
        other => return Err(OpError::unsupported(format!("`{other}` of numbers"))),
    })
}

/// Comparison of the first two arguments.
pub(super) fn compare(cx: &mut Cx<'_, '_>, name: &str) -> Results {
    let (a, b) = (cx.at(0).clone(), cx.at(1).clone());
    comparison(cx, name, &a, &b).map(|result| vec![result])
}

/// Comparison of two numbers, or of two lists, strings or the like for equality.
pub(super) fn comparison(cx: &mut Cx<'_, '_>, name: &str, a: &Arg, b: &Arg) -> Result<Arg, OpError> {
    if let (Some(x), Some(y)) = (dim_of(a), dim_of(b))
        && let Some(found) = compare_dims(name, &x, &y)
    {
        return Ok(Arg::Bool(found));
    }
    if let (Some(x), Some(y)) = (float_of(a), float_of(b)) {
        return Ok(Arg::Bool(match name {
            "eq" => x == y,
            "ne" => x != y,
            "lt" => x < y,
            "le" => x <= y,
            "gt" => x > y,
            _ => x >= y,
        }));
    }
    match (a, b, name) {
        (Arg::List(x), Arg::List(y), "eq" | "ne") => return compare_lists(cx, name, x, y),
        (Arg::Str(_) | Arg::DType(_) | Arg::None, _, "eq") => return Ok(Arg::Bool(a == b)),
        (Arg::Str(_) | Arg::DType(_) | Arg::None, _, "ne") => return Ok(Arg::Bool(a != b)),
        _ => {}
    }
    let dtype = if is_int(cx, a) && is_int(cx, b) { DType::I64 } else { DType::F64 };
    let (x, y) = (value_of(cx, a)?, value_of(cx, b)?);
    let (x, y) = (cx.b.cast(x, dtype)?, cx.b.cast(y, dtype)?);
    Ok(Arg::Scalar(cx.ew(name, &[x, y])?))
}

fn compare_lists(cx: &mut Cx<'_, '_>, name: &str, x: &[Arg], y: &[Arg]) -> Result<Arg, OpError> {
    let mut same = x.len() == y.len();
    for (a, b) in x.iter().zip(y).filter(|_| x.len() == y.len()) {
        match comparison(cx, "eq", a, b)? {
            Arg::Bool(equal) => same &= equal,
            _ => return Err(OpError::unsupported("comparison of lists whose elements show at run time")),
        }
    }
    Ok(Arg::Bool(same == (name == "eq")))
}

/// What is certain whatever the sizes are.
pub(super) fn compare_dims(name: &str, x: &Dim, y: &Dim) -> Option<bool> {
    if x.is_unknown() || y.is_unknown() {
        return None;
    }
    let at_least = |a: &Dim, b: &Dim, more: i64| (a - b - Dim::known(more)).is_non_negative();
    let less = at_least(y, x, 1);
    let greater = at_least(x, y, 1);
    match name {
        "eq" if x == y => Some(true),
        "eq" if less || greater => Some(false),
        "ne" => compare_dims("eq", x, y).map(|equal| !equal),
        "lt" if less => Some(true),
        "lt" if at_least(x, y, 0) => Some(false),
        "le" if at_least(y, x, 0) => Some(true),
        "le" if greater => Some(false),
        "gt" => compare_dims("le", x, y).map(|found| !found),
        "ge" => compare_dims("lt", x, y).map(|found| !found),
        _ => None,
    }
}

/// A function of the first argument, a number.
pub(super) fn unary(cx: &mut Cx<'_, '_>, name: &str) -> Results {
    let arg = cx.at(0).clone();
    if let Arg::Tensor(v) = arg {
        let y = cx.ew(name, &[v])?;
        return one(y);
    }
    if let (Some(dim), true) = (dim_of(&arg), matches!(name, "neg" | "abs" | "ceil" | "floor" | "trunc")) {
        let negated = Dim::known(0) - &dim;
        return Ok(vec![Arg::Int(match name {
            "neg" => negated,
            "abs" if !dim.is_non_negative() => dim.greater(&negated),
            _ => dim,
        })]);
    }
    if let Some(value) = float_of(&arg) {
        let value = match name {
            "neg" => -value,
            "abs" => value.abs(),
            "sqrt" => value.sqrt(),
            "exp" => value.exp(),
            "log" => value.ln(),
            "sin" => value.sin(),
            "cos" => value.cos(),
            "tan" => value.tan(),
            "tanh" => value.tanh(),
            "round" => value.round_ties_even(),
            "ceil" => return Ok(vec![whole(value.ceil())?]),
            "floor" => return Ok(vec![whole(value.floor())?]),
            "trunc" => return Ok(vec![whole(value.trunc())?]),
            other => return Err(OpError::unsupported(format!("`{other}` of numbers"))),
        };
        return Ok(vec![Arg::Float(value)]);
    }
    let keeps = is_int(cx, &arg) && matches!(name, "neg" | "abs");
    let mut v = value_of(cx, &arg)?;
    if !keeps {
        v = cx.b.cast(v, DType::F64)?;
    }
    let mut y = cx.ew(name, &[v])?;
    if matches!(name, "ceil" | "floor" | "trunc") {
        y = cx.b.cast(y, DType::I64)?;
    }
    Ok(vec![Arg::Scalar(y)])
}

/// A float that is an integer.
fn whole(value: f64) -> Result<Arg, OpError> {
    let fits = value.is_finite() && value.abs() < 9.0e18;
    if fits { Ok(Arg::int(value as i64)) } else { Err(OpError::invalid(format!("{value} is no integer"))) }
}

/// Logarithm of a number to a base that has this natural logarithm.
pub(super) fn log(cx: &mut Cx<'_, '_>, base: f64) -> Results {
    let arg = cx.at(0).clone();
    match float_of(&arg) {
        Some(value) => Ok(vec![Arg::Float(value.ln() / base)]),
        None => {
            let v = value_of(cx, &arg)?;
            let v = cx.b.cast(v, DType::F64)?;
            let log = cx.ew("log", &[v])?;
            Ok(vec![Arg::Scalar(cx.ew_const("mul", log, 1.0 / base)?)])
        }
    }
}

/// The extremum of two numbers or of a list.
fn extremum(cx: &mut Cx<'_, '_>, name: &str) -> Results {
    let (a, b) = (cx.at(0).clone(), cx.at(1).clone());
    match (a, b) {
        (Arg::List(items), Arg::None) => {
            let mut items = items.into_iter();
            let mut best = items.next().ok_or_else(|| OpError::invalid("an extremum of nothing"))?;
            for item in items {
                best = arithmetic(cx, name, &best, &item)?;
            }
            Ok(vec![best])
        }
        (a, b) => arithmetic(cx, name, &a, &b).map(|result| vec![result]),
    }
}

/// A number or a tensor of one element as a number of another type.
fn convert(cx: &mut Cx<'_, '_>, to: DType) -> Results {
    let arg = match cx.at(0).clone() {
        Arg::Tensor(v) => number_in(cx, v)?,
        other => other,
    };
    let converted = match (&arg, to) {
        (Arg::Int(_), DType::I64) | (Arg::Float(_), DType::F64) | (Arg::Bool(_), DType::Bool) => arg,
        (Arg::Bool(b), DType::I64) => Arg::int(i64::from(*b)),
        (Arg::Float(v), DType::I64) => whole(v.trunc())?,
        (Arg::Str(text), DType::F64) if text.trim().parse::<f64>().is_ok() => {
            Arg::Float(text.trim().parse().unwrap_or(0.0))
        }
        (Arg::Str(text), DType::I64) if text.trim().parse::<i64>().is_ok() => {
            Arg::int(text.trim().parse().unwrap_or(0))
        }
        (Arg::Str(text), _) => return Err(OpError::invalid(format!("`{text}` is no number"))),
        (number, DType::F64) if float_of(number).is_some() => Arg::Float(float_of(number).unwrap_or(0.0)),
        (number, DType::Bool) if float_of(number).is_some() => Arg::Bool(float_of(number) != Some(0.0)),
        (number, _) => {
            let v = value_of(cx, number)?;
            Arg::Scalar(cx.b.cast(v, to)?)
        }
    };
    Ok(vec![converted])
}

/// The element of a tensor of one element; a constant where it is known.
fn number_in(cx: &mut Cx<'_, '_>, v: Value) -> Result<Arg, OpError> {
    let dtype = cx.dtype(v)?;
    let known = cx.b.known(v).and_then(kiln_ir::Known::dims);
    if let (Some([dim]), true) = (known.as_deref(), dtype.is_int()) {
        return Ok(Arg::Int(dim.clone()));
    }
    if let Some(value) = cx.to_float(&Arg::Tensor(v)) {
        return match dtype {
            DType::Bool => Ok(Arg::Bool(value != 0.0)),
            d if d.is_float() => Ok(Arg::Float(value)),
            _ => whole(value),
        };
    }
    let flat = cx.b.reshape(v, &[])?;
    let wide = match dtype {
        DType::Bool => DType::Bool,
        d if d.is_float() => DType::F64,
        _ => DType::I64,
    };
    Ok(Arg::Scalar(cx.b.cast(flat, wide)?))
}

fn item(cx: &mut Cx<'_, '_>) -> Results {
    match cx.at(0).clone() {
        Arg::Tensor(v) => number_in(cx, v).map(|number| vec![number]),
        number => Ok(vec![number]),
    }
}

fn to_tensor(cx: &mut Cx<'_, '_>) -> Results {
    let arg = cx.at(0).clone();
    let dtype = match cx.number_dtype(&arg)? {
        d if d.is_float() => DEFAULT,
        d => d,
    };
    let v = cx.as_dtype(&arg, dtype)?;
    one(v)
}

fn rank(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    let rank = i64::try_from(cx.rank(x)?).unwrap_or(i64::MAX);
    Ok(vec![Arg::int(rank)])
}

fn is_float(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    Ok(vec![Arg::Bool(cx.dtype(x)?.is_float())])
}

fn numel(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    match cx.b.shape(x) {
        Ok(dims) => Ok(vec![Arg::Int(product(dims))]),
        Err(_) => Ok(vec![Arg::Scalar(cx.b.add1(Dynamic::Size {}, &[x])?)]),
    }
}

/// Sizes as a vector of integers.
fn shape_as_tensor(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    let shape = cx.shape(x)?;
    let y = cx.b.dims(&shape)?;
    one(y)
}

fn size(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    let shape = cx.shape(x)?;
    if cx.get("dim").is_none() {
        return Ok(vec![Arg::dims(shape)]);
    }
    let axis = cx.axis("dim", shape.len())?;
    let dim = shape.get(axis).ok_or_else(|| OpError::invalid("the tensor has no axes"))?;
    Ok(vec![Arg::Int(dim.clone())])
}
