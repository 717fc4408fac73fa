//! Complex numbers.
//!
//! Graph IR computes with real numbers. A complex tensor is a node of its two parts, which operators look through: what
//! moves or adds elements does so with each part, products and magnitudes are those of the parts. The node itself
//! remains only where a program gives complex results.

use kiln_ir::op::Host;
use kiln_ir::{Build, DType, Dim, GraphBuilder, Op, Value};

use super::arg::Arg;
use super::cx::{Cx, one};
use super::schema::Schema;
use super::{How, Results, Row, row};
use crate::error::OpError;

use How::{Alias, Fn};

#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    row("aten::_conj", Fn(conjugate)),
    row("aten::angle", Fn(angle)),
    row("aten::complex", Fn(complex)),
    row("aten::conj", Fn(conjugate)),
    row("aten::conj_physical", Fn(conjugate)),
    row("aten::imag", Fn(imaginary)),
    row("aten::is_complex", Fn(is_complex)),
    row("aten::polar", Fn(polar)),
    row("aten::real", Fn(real)),
    row("aten::resolve_conj", Fn(same)),
    row("aten::resolve_neg", Fn(same)),
    row("aten::view_as_complex", Fn(view_as_complex)),
    row("aten::view_as_complex_copy", Alias("aten::view_as_complex")),
    row("aten::view_as_real", Fn(view_as_real)),
    row("aten::view_as_real_copy", Alias("aten::view_as_real")),
];

/// Operators that do with each part what they do with real numbers. Sorted.
const PARTWISE: &[&str] = &[
    "aten::_reshape_alias",
    "aten::_unsafe_view",
    "aten::add",
    "aten::alias",
    "aten::cat",
    "aten::chunk",
    "aten::clone",
    "aten::constant_pad_nd",
    "aten::contiguous",
    "aten::detach",
    "aten::diagonal",
    "aten::expand",
    "aten::expand_as",
    "aten::flatten",
    "aten::flip",
    "aten::index",
    "aten::index_select",
    "aten::lift",
    "aten::lift_fresh",
    "aten::mean",
    "aten::movedim",
    "aten::narrow",
    "aten::neg",
    "aten::pad",
    "aten::permute",
    "aten::positive",
    "aten::ravel",
    "aten::repeat",
    "aten::reshape",
    "aten::reshape_as",
    "aten::roll",
    "aten::select",
    "aten::slice",
    "aten::split",
    "aten::split_with_sizes",
    "aten::squeeze",
    "aten::stack",
    "aten::sub",
    "aten::sum",
    "aten::swapaxes",
    "aten::t",
    "aten::transpose",
    "aten::unbind",
    "aten::unflatten",
    "aten::unsqueeze",
    "aten::view",
    "aten::view_as",
    "aten::where",
];

/// Arguments of these operators that are numbers to compute with, not positions and sizes.
const ADDENDS: &[&str] = &["self", "other", "tensors"];

/// Operators that read no elements. Sorted.
const OF_SHAPES: &[&str] = &[
    "aten::_shape_as_tensor",
    "aten::dim",
    "aten::is_floating_point",
    "aten::numel",
    "aten::size",
    "aten::sym_numel",
    "aten::sym_size",
];

fn is_complex_dtype(dtype: DType) -> bool {
    matches!(dtype, DType::C64 | DType::C128)
}

/// Whether an argument has complex numbers.
pub(super) fn holds(b: &GraphBuilder<'_>, arg: &Arg) -> bool {
    match arg {
        Arg::Tensor(v) => b.dtype(*v).is_ok_and(is_complex_dtype),
        Arg::List(items) => items.iter().any(|item| holds(b, item)),
        _ => false,
    }
}

/// Calls an operator of which an argument is complex; `build` builds it from real numbers.
pub(super) fn call(
    b: &mut GraphBuilder<'_>,
    name: &str,
    (schema, bound): (&Schema, Vec<Arg>),
    build: &dyn std::ops::Fn(&mut Cx<'_, '_>) -> Results,
) -> Results {
    if PARTWISE.binary_search(&name).is_ok() {
        return partwise(b, name, (schema, &bound), build);
    }
    let mut rows = ROWS.iter().chain(super::fourier::ROWS);
    let own = rows.any(|row| row.name == name) || OF_SHAPES.binary_search(&name).is_ok();
    let mut cx = Cx::new(b, schema, bound);
    match name {
        _ if own => build(&mut cx),
        "aten::abs" => magnitude(&mut cx),
        "aten::mul" => product(&mut cx),
        "aten::div" => quotient(&mut cx),
        "aten::to" | "aten::_to_copy" | "aten::type_as" => converted(&mut cx, build),
        "aten::zeros_like" => {
            let x = cx.first()?;
            let (dtype, shape) = (part_dtype(cx.dtype(x)?), cx.shape(x)?);
            let zero = cx.filled(dtype, 0.0, &shape)?;
            let y = joined(&mut cx, zero, zero)?;
            one(y)
        }
        _ => Err(OpError::unsupported("complex numbers")),
    }
}

/// Builds the operator for the real parts and for the imaginary ones.
fn partwise(
    b: &mut GraphBuilder<'_>,
    name: &str,
    (schema, bound): (&Schema, &[Arg]),
    build: &dyn std::ops::Fn(&mut Cx<'_, '_>) -> Results,
) -> Results {
    let fill = |arg: &Arg| matches!(arg, Arg::None | Arg::Ignored) || arg_is_zero(arg);
    let value = schema.params.iter().position(|p| p.name == "value").and_then(|i| bound.get(i));
    if matches!(name, "aten::pad" | "aten::constant_pad_nd") && !value.is_none_or(fill) {
        return Err(OpError::unsupported("complex numbers padded with others than zeros"));
    }
    if schema.overload == "dtype" {
        return Err(OpError::unsupported("complex numbers as elements of another type"));
    }
    let mut sides = vec![];
    for imaginary in [false, true] {
        let mut args = vec![];
        for (param, arg) in schema.params.iter().zip(bound) {
            let is_addend = ADDENDS.contains(&param.name);
            args.push(side(b, arg, imaginary, is_addend)?);
        }
        sides.push(build(&mut Cx::new(b, schema, args))?);
    }
    let [re, im] = <[Vec<Arg>; 2]>::try_from(sides).map_err(|_| OpError::invalid("a part is lost"))?;
    re.into_iter().zip(im).map(|(re, im)| rejoined(b, re, im)).collect()
}

fn arg_is_zero(arg: &Arg) -> bool {
    match arg {
        Arg::Int(dim) => dim.as_known() == Some(0),
        Arg::Float(x) => *x == 0.0,
        _ => false,
    }
}

/// An argument for one of the parts. What is real has no imaginary part.
fn side(b: &mut GraphBuilder<'_>, arg: &Arg, imaginary: bool, is_addend: bool) -> Result<Arg, OpError> {
    Ok(match arg {
        Arg::Tensor(v) if is_complex_dtype(b.dtype(*v)?) => {
            let [re, im] = split(b, *v)?;
            Arg::Tensor(if imaginary { im } else { re })
        }
        Arg::List(items) => {
            Arg::List(items.iter().map(|a| side(b, a, imaginary, is_addend)).collect::<Result<_, _>>()?)
        }
        Arg::Tensor(v) if imaginary && is_addend => {
            let (dtype, shape) = (b.dtype(*v)?, b.shape(*v)?.to_vec());
            let zero = b.scalar(dtype, 0.0)?;
            Arg::Tensor(b.broadcast(zero, &shape)?)
        }
        Arg::Int(_) | Arg::Float(_) | Arg::Scalar(_) if imaginary && is_addend => Arg::int(0),
        other => other.clone(),
    })
}

/// Results of the parts as complex ones.
fn rejoined(b: &mut GraphBuilder<'_>, re: Arg, im: Arg) -> Result<Arg, OpError> {
    Ok(match (re, im) {
        (Arg::Tensor(re), Arg::Tensor(im)) => Arg::Tensor(b.add1(Host::Complex {}, &[re, im])?),
        (Arg::List(re), Arg::List(im)) => {
            Arg::List(re.into_iter().zip(im).map(|(re, im)| rejoined(b, re, im)).collect::<Result<_, _>>()?)
        }
        (other, _) => other,
    })
}

/// The parts of a complex tensor.
fn split(b: &mut GraphBuilder<'_>, v: Value) -> Result<[Value; 2], OpError> {
    if let Some((_, node)) = b.graph().def_node(v)
        && matches!(node.op, Op::Host(Host::Complex {}))
        && let &[re, im] = node.operands.as_slice()
    {
        return Ok([re, im]);
    }
    match b.add(Host::ComplexParts {}.into(), &[v])?.as_slice() {
        &[re, im] => Ok([re, im]),
        _ => Err(OpError::invalid("a complex number has two parts")),
    }
}

/// Real and imaginary part of a tensor; a real one has no second.
pub(super) fn parts(cx: &mut Cx<'_, '_>, v: Value) -> Result<(Value, Option<Value>), OpError> {
    match is_complex_dtype(cx.dtype(v)?) {
        true => split(cx.b, v).map(|[re, im]| (re, Some(im))),
        false => Ok((v, None)),
    }
}

/// Both parts of a complex tensor.
pub(super) fn both(cx: &mut Cx<'_, '_>, v: Value) -> Result<[Value; 2], OpError> {
    match parts(cx, v)? {
        (re, Some(im)) => Ok([re, im]),
        (_, None) => Err(OpError::invalid("a real tensor where a complex one is needed")),
    }
}

/// The complex tensor of two parts.
pub(super) fn joined(cx: &mut Cx<'_, '_>, re: Value, im: Value) -> Result<Value, OpError> {
    Ok(cx.b.add1(Host::Complex {}, &[re, im])?)
}

/// The dtype of the parts.
fn part_dtype(dtype: DType) -> DType {
    match dtype {
        DType::C64 => DType::F32,
        DType::C128 => DType::F64,
        real => real,
    }
}

/// Parts side by side on a new last axis.
pub(super) fn interleaved(cx: &mut Cx<'_, '_>, re: Value, im: Value) -> Result<Value, OpError> {
    let mut shape = cx.shape(re)?;
    let rank = shape.len();
    shape.push(Dim::known(1));
    let (re, im) = (cx.b.reshape(re, &shape)?, cx.b.reshape(im, &shape)?);
    Ok(cx.b.concat(&[re, im], rank)?)
}

fn same(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    one(x)
}

fn is_complex(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    Ok(vec![Arg::Bool(is_complex_dtype(cx.dtype(x)?))])
}

fn real(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    let (re, _) = parts(cx, x)?;
    one(re)
}

fn imaginary(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    let [_, im] = both(cx, x)?;
    one(im)
}

fn conjugate(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    let (re, Some(im)) = parts(cx, x)? else { return one(x) };
    let im = cx.ew("neg", &[im])?;
    let y = joined(cx, re, im)?;
    one(y)
}

fn complex(cx: &mut Cx<'_, '_>) -> Results {
    let (re, im) = (cx.tensor("real")?, cx.tensor("imag")?);
    let shape = cx.common_shape(&[re, im])?;
    let (re, im) = (cx.b.broadcast(re, &shape)?, cx.b.broadcast(im, &shape)?);
    let y = joined(cx, re, im)?;
    one(y)
}

fn polar(cx: &mut Cx<'_, '_>) -> Results {
    if !matches!((cx.get("abs"), cx.get("angle")), (Arg::Tensor(_), Arg::Tensor(_))) {
        return Err(OpError::unsupported("complex numbers outside of tensors"));
    }
    let (length, angle) = (cx.tensor("abs")?, cx.tensor("angle")?);
    let (cos, sin) = (cx.ew("cos", &[angle])?, cx.ew("sin", &[angle])?);
    let (re, im) = (cx.ew("mul", &[length, cos])?, cx.ew("mul", &[length, sin])?);
    let y = joined(cx, re, im)?;
    one(y)
}

/// Of a real number: 0, or pi where it is negative; NaN stays.
fn angle(cx: &mut Cx<'_, '_>) -> Results {
    if !matches!(cx.at(0), Arg::Tensor(_)) {
        return Err(OpError::unsupported("the angle of a number"));
    }
    let x = cx.first()?;
    let (re, im) = parts(cx, x)?;
    let y = match im {
        Some(im) => {
            let dtype = cx.dtype(re)?;
            super::pointwise::angle_of(cx, im, re, dtype)?
        }
        None => {
            let x = cx.as_floats(re)?;
            let dtype = cx.dtype(x)?;
            let (zero, pi) = (cx.constant(dtype, 0.0)?, cx.constant(dtype, std::f64::consts::PI)?);
            let negative = cx.ew("lt", &[x, zero])?;
            let found = cx.ew("where", &[negative, pi, zero])?;
            let nan = cx.ew("ne", &[x, x])?;
            cx.ew("where", &[nan, x, found])?
        }
    };
    one(y)
}

/// The last axis holds the parts.
fn view_as_complex(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    let shape = cx.shape(x)?;
    let axis = match shape.split_last() {
        Some((last, rest)) if last.as_known() == Some(2) => rest.len(),
        Some((last, _)) if last.as_known().is_none() => {
            return Err(OpError::unsupported("a last axis that may not hold two parts"));
        }
        _ => return Err(OpError::invalid("the last axis of what becomes complex has size 2")),
    };
    let re = super::movement::picked(cx, x, axis, Dim::known(0))?;
    let im = super::movement::picked(cx, x, axis, Dim::known(1))?;
    let y = joined(cx, re, im)?;
    one(y)
}

fn view_as_real(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    let [re, im] = both(cx, x)?;
    let y = interleaved(cx, re, im)?;
    one(y)
}

fn magnitude(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    let [re, im] = both(cx, x)?;
    let ([re, im], size) = scaled(cx, [re, im])?;
    let sum = squares(cx, [re, im])?;
    let root = cx.ew("sqrt", &[sum])?;
    let y = cx.ew("mul", &[root, size])?;
    one(y)
}

/// The parts over the larger magnitude of the two, and that: squares of the parts alone may be too large or too small for
/// their type. What is zero or not finite stays as it is, over 1.
fn scaled(cx: &mut Cx<'_, '_>, [re, im]: [Value; 2]) -> Result<([Value; 2], Value), OpError> {
    let dtype = cx.dtype(re)?;
    let (x, y) = (cx.ew("abs", &[re])?, cx.ew("abs", &[im])?);
    let largest = cx.ew("max", &[x, y])?;
    let (zero, infinite) = (cx.constant(dtype, 0.0)?, cx.constant(dtype, f64::INFINITY)?);
    let (above, below) = (cx.ew("gt", &[largest, zero])?, cx.ew("lt", &[largest, infinite])?);
    let plain = cx.ew("and", &[above, below])?;
    let unit = cx.constant(dtype, 1.0)?;
    let size = cx.ew("where", &[plain, largest, unit])?;
    Ok(([cx.ew("div", &[re, size])?, cx.ew("div", &[im, size])?], size))
}

/// The sum of the squares of the parts.
fn squares(cx: &mut Cx<'_, '_>, [re, im]: [Value; 2]) -> Result<Value, OpError> {
    let (re, im) = (cx.ew("square", &[re])?, cx.ew("square", &[im])?);
    cx.ew("add", &[re, im])
}

/// Parts of the two operands of a product or quotient, in the type of the result's parts.
fn factors(cx: &mut Cx<'_, '_>) -> Result<[(Value, Option<Value>); 2], OpError> {
    let args = [cx.get("self").clone(), cx.get("other").clone()];
    let dtype = part_dtype(cx.result_type(&args.iter().collect::<Vec<_>>())?);
    let mut found = vec![];
    for arg in &args {
        found.push(match arg {
            Arg::Tensor(v) => {
                let (re, im) = parts(cx, *v)?;
                let im = im.map(|im| cx.b.cast(im, dtype)).transpose()?;
                (cx.b.cast(re, dtype)?, im)
            }
            number => (cx.as_dtype(number, dtype)?, None),
        });
    }
    <[_; 2]>::try_from(found).map_err(|_| OpError::invalid("two operands"))
}

/// The product of two complex numbers.
fn times(cx: &mut Cx<'_, '_>, [a, b]: [Value; 2], [c, d]: [Value; 2]) -> Result<[Value; 2], OpError> {
    let (ac, bd) = (cx.ew("mul", &[a, c])?, cx.ew("mul", &[b, d])?);
    let (ad, bc) = (cx.ew("mul", &[a, d])?, cx.ew("mul", &[b, c])?);
    Ok([cx.ew("sub", &[ac, bd])?, cx.ew("add", &[ad, bc])?])
}

fn product(cx: &mut Cx<'_, '_>) -> Results {
    let [re, im] = match factors(cx)? {
        [(a, Some(b)), (c, Some(d))] => times(cx, [a, b], [c, d])?,
        [(a, Some(b)), (c, None)] | [(c, None), (a, Some(b))] => {
            [cx.ew("mul", &[a, c])?, cx.ew("mul", &[b, c])?]
        }
        [(_, None), (_, None)] => return Err(OpError::invalid("a product of no complex numbers")),
    };
    let y = joined(cx, re, im)?;
    one(y)
}

fn quotient(cx: &mut Cx<'_, '_>) -> Results {
    if !cx.get("rounding_mode").is_none() {
        return Err(OpError::invalid("complex numbers are not rounded"));
    }
    let [x, (c, d)] = factors(cx)?;
    let shape = cx.common_shape(&[x.0, c])?;
    let [re, im] = match (x, d) {
        ((a, Some(b)), None) => [cx.ew("div", &[a, c])?, cx.ew("div", &[b, c])?],
        ((a, b), Some(d)) => {
            let ([c, d], size) = scaled(cx, [c, d])?;
            let norm = squares(cx, [c, d])?;
            let b = match b {
                Some(b) => b,
                None => {
                    let (dtype, shape) = (cx.dtype(a)?, cx.shape(a)?);
                    cx.filled(dtype, 0.0, &shape)?
                }
            };
            let minus = cx.ew("neg", &[d])?;
            let [re, im] = times(cx, [a, b], [c, minus])?;
            let (re, im) = (cx.ew("div", &[re, norm])?, cx.ew("div", &[im, norm])?);
            [cx.ew("div", &[re, size])?, cx.ew("div", &[im, size])?]
        }
        ((_, None), None) => return Err(OpError::invalid("a quotient of no complex numbers")),
    };
    let (re, im) = (cx.b.broadcast(re, &shape)?, cx.b.broadcast(im, &shape)?);
    let y = joined(cx, re, im)?;
    one(y)
}

/// To another complex type; a real one takes the real part.
fn converted(cx: &mut Cx<'_, '_>, build: &dyn std::ops::Fn(&mut Cx<'_, '_>) -> Results) -> Results {
    let x = cx.tensor("self")?;
    let wanted = match cx.maybe_tensor("other")? {
        Some(other) => Some(cx.dtype(other)?),
        None => cx.dtype_arg("dtype")?,
    };
    match wanted {
        None => one(x),
        Some(dtype) if is_complex_dtype(dtype) && is_complex_dtype(cx.dtype(x)?) => {
            if dtype == cx.dtype(x)? {
                return one(x);
            }
            let [re, im] = both(cx, x)?;
            let part = part_dtype(dtype);
            let (re, im) = (cx.b.cast(re, part)?, cx.b.cast(im, part)?);
            let y = joined(cx, re, im)?;
            one(y)
        }
        Some(dtype) if is_complex_dtype(dtype) => build(cx),
        Some(dtype) => {
            let (re, _) = parts(cx, x)?;
            let y = cx.b.cast(re, dtype)?;
            one(y)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_and_known() {
        for names in [PARTWISE, OF_SHAPES] {
            assert!(names.is_sorted());
            assert!(names.iter().all(|name| super::super::supports(name)));
        }
    }
}
