//! New tensors.

use kiln_ir::build::dynamic::BuildDynamic;
use kiln_ir::op::{Dynamic, Host, Source};
use kiln_ir::{Build, DType, Dim, Float, Tensor, Value};

use super::arg::Arg;
use super::cx::{Cx, one};
use super::promote::DEFAULT;
use super::{How, Results, Row, row};
use crate::error::OpError;

use How::Fn;

#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    row("aten::arange", Fn(arange)),
    row("aten::bartlett_window", Fn(|cx| window(cx, Window::Bartlett))),
    row("aten::bernoulli", Fn(bernoulli)),
    row("aten::blackman_window", Fn(|cx| window(cx, Window::Blackman))),
    row("aten::empty", Fn(|cx| sized(cx, Some(0.0)))),
    row("aten::empty_like", Fn(|cx| like(cx, Some(0.0)))),
    row("aten::empty_permuted", Fn(|cx| sized(cx, Some(0.0)))),
    row("aten::empty_strided", Fn(|cx| sized(cx, Some(0.0)))),
    row("aten::eye", Fn(eye)),
    row("aten::fill", Fn(fill)),
    row("aten::full", Fn(|cx| sized(cx, None))),
    row("aten::full_like", Fn(|cx| like(cx, None))),
    row("aten::hamming_window", Fn(|cx| window(cx, Window::Hamming))),
    row("aten::hann_window", Fn(|cx| window(cx, Window::Hann))),
    row("aten::linspace", Fn(linspace)),
    row("aten::logspace", Fn(logspace)),
    row("aten::new_empty", Fn(|cx| renewed(cx, Some(0.0)))),
    row("aten::new_empty_strided", Fn(|cx| renewed(cx, Some(0.0)))),
    row("aten::new_full", Fn(|cx| renewed(cx, None))),
    row("aten::new_ones", Fn(|cx| renewed(cx, Some(1.0)))),
    row("aten::new_zeros", Fn(|cx| renewed(cx, Some(0.0)))),
    row("aten::normal", Fn(normal)),
    row("aten::normal_functional", Fn(normal)),
    row("aten::ones", Fn(|cx| sized(cx, Some(1.0)))),
    row("aten::ones_like", Fn(|cx| like(cx, Some(1.0)))),
    row("aten::rand", Fn(|cx| random(cx, false))),
    row("aten::rand_like", Fn(|cx| random(cx, false))),
    row("aten::randint", Fn(randint)),
    row("aten::randint_like", Fn(randint)),
    row("aten::randn", Fn(|cx| random(cx, true))),
    row("aten::randn_like", Fn(|cx| random(cx, true))),
    row("aten::randperm", Fn(randperm)),
    row("aten::scalar_tensor", Fn(scalar_tensor)),
    row("aten::tensor", Fn(tensor)),
    row("aten::tril_indices", Fn(|cx| triangle(cx, true))),
    row("aten::triu_indices", Fn(|cx| triangle(cx, false))),
    row("aten::uniform", Fn(uniform)),
    row("aten::zero", Fn(zero)),
    row("aten::zeros", Fn(|cx| sized(cx, Some(0.0)))),
    row("aten::zeros_like", Fn(|cx| like(cx, Some(0.0)))),
];

/// The value that an operator fills with: its own, or the argument.
fn filling(cx: &mut Cx<'_, '_>, own: Option<f64>, dtype: Option<DType>) -> Result<Value, OpError> {
    let value = match own {
        Some(value) => Arg::Float(value),
        None => cx.get("fill_value").clone(),
    };
    let dtype = match dtype {
        Some(dtype) => dtype,
        None if own.is_some() => DEFAULT,
        None => cx.number_dtype(&value)?,
    };
    cx.as_dtype(&value, dtype)
}

fn sized(cx: &mut Cx<'_, '_>, own: Option<f64>) -> Results {
    let dims = cx.dims("size")?;
    let dtype = cx.dtype_arg("dtype")?;
    let value = filling(cx, own, dtype)?;
    let y = cx.b.broadcast(value, &dims)?;
    one(y)
}

fn like(cx: &mut Cx<'_, '_>, own: Option<f64>) -> Results {
    let x = cx.tensor("self")?;
    let dtype = cx.dtype_arg("dtype")?.unwrap_or(cx.dtype(x)?);
    let dims = cx.shape(x)?;
    let value = filling(cx, own, Some(dtype))?;
    let y = cx.b.broadcast(value, &dims)?;
    one(y)
}

fn renewed(cx: &mut Cx<'_, '_>, own: Option<f64>) -> Results {
    let x = cx.tensor("self")?;
    let dtype = cx.dtype_arg("dtype")?.unwrap_or(cx.dtype(x)?);
    let dims = cx.dims("size")?;
    let value = filling(cx, own, Some(dtype))?;
    let y = cx.b.broadcast(value, &dims)?;
    one(y)
}

fn fill(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let (dtype, dims) = (cx.dtype(x)?, cx.shape(x)?);
    let value = cx.get("value").clone();
    let value = cx.as_dtype(&value, dtype)?;
    let y = cx.b.broadcast(value, &dims)?;
    one(y)
}

fn zero(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let (dtype, dims) = (cx.dtype(x)?, cx.shape(x)?);
    let y = cx.filled(dtype, 0.0, &dims)?;
    one(y)
}

fn scalar_tensor(cx: &mut Cx<'_, '_>) -> Results {
    let value = cx.get("s").clone();
    let dtype = cx.dtype_arg("dtype")?.unwrap_or(DEFAULT);
    let y = cx.as_dtype(&value, dtype)?;
    one(y)
}

/// Numbers, or lists of lists of them.
fn tensor(cx: &mut Cx<'_, '_>) -> Results {
    let data = cx.at(0).clone();
    let (mut flat, mut shape) = (vec![], vec![]);
    leaves(&data, 0, &mut shape, &mut flat)?;
    let count = shape.iter().try_fold(1usize, |a: usize, &n: &usize| a.checked_mul(n));
    if count != Some(flat.len()) {
        return Err(OpError::invalid("lists of different lengths"));
    }
    let natural = flat.iter().map(|arg| cx.number_dtype(arg)).collect::<Result<Vec<_>, _>>()?;
    let any = |test: fn(DType) -> bool| natural.iter().any(|&d| test(d));
    let natural = match () {
        _ if natural.is_empty() || any(DType::is_float) => DEFAULT,
        _ if any(DType::is_int) => DType::I64,
        _ => DType::Bool,
    };
    let dtype = cx.dtype_arg("dtype")?.unwrap_or(natural);
    let dims: Vec<Dim> = shape.iter().map(|&n| Dim::known(i64::try_from(n).unwrap_or(i64::MAX))).collect();
    if flat.is_empty() {
        let y = cx.b.constant(Tensor::zeros(dtype, &shape)?)?;
        return one(y);
    }
    let mut parts = vec![];
    for arg in &flat {
        let v = cx.as_dtype(arg, dtype)?;
        parts.push(cx.b.reshape(v, &[Dim::known(1)])?);
    }
    let y = cx.b.concat(&parts, 0)?;
    let y = cx.b.reshape(y, &dims)?;
    one(y)
}

/// How deep lists of numbers may stand in each other.
const MOST_AXES: usize = 32;

/// The numbers of nested lists and their shape.
fn leaves(data: &Arg, depth: usize, shape: &mut Vec<usize>, flat: &mut Vec<Arg>) -> Result<(), OpError> {
    if depth > MOST_AXES || flat.len() > super::cx::MOST_PIECES {
        return Err(OpError::invalid("a list of too many numbers"));
    }
    match data {
        Arg::List(items) => {
            match shape.get(depth) {
                None => shape.push(items.len()),
                Some(&n) if n != items.len() => return Err(OpError::invalid("lists of different lengths")),
                Some(_) => {}
            }
            items.iter().try_for_each(|item| leaves(item, depth + 1, shape, flat))
        }
        number if depth == shape.len() => {
            flat.push(number.clone());
            Ok(())
        }
        _ => Err(OpError::invalid("lists of different depths")),
    }
}

/// Numbers from `start` by `step` up to but without `end`.
fn arange(cx: &mut Cx<'_, '_>) -> Results {
    let given = |cx: &Cx<'_, '_>, name: &str, default: i64| match cx.get(name).clone() {
        Arg::None => Arg::int(default),
        arg => arg,
    };
    let (start, end, step) = (given(cx, "start", 0), given(cx, "end", 0), given(cx, "step", 1));
    let natural = [&start, &end, &step].iter().any(|arg| cx.number_dtype(arg).is_ok_and(DType::is_float));
    let dtype = cx.dtype_arg("dtype")?.unwrap_or(if natural { DEFAULT } else { DType::I64 });
    if let (Arg::Int(s), Arg::Int(e), Arg::Int(d)) = (&start, &end, &step)
        && let Some(d) = d.as_known()
    {
        if d == 0 {
            return Err(OpError::invalid("a step of zero"));
        }
        let (from, span, width) = if d > 0 { (s, e - s, d) } else { (s, s - e, d.saturating_neg()) };
        let count = span.greater(&Dim::known(0)).ceil_div(&Dim::known(width));
        let y = counted(cx, &Arg::Int(from.clone()), &Arg::int(d), count, dtype)?;
        return one(y);
    }
    if let (Some(s), Some(e), Some(d)) = (cx.to_float(&start), cx.to_float(&end), cx.to_float(&step)) {
        let count = ((e - s) / d).ceil();
        // The numbers are of the integer type, how many there are is what the floats say.
        let whole = |arg: Arg, value: f64| if dtype.is_int() { Arg::int(value as i64) } else { arg };
        let (start, step) = (whole(start, s), whole(step, d));
        if !(0.0..1e15).contains(&count) {
            return Err(OpError::invalid(format!("a range from {s} to {e} by {d}")));
        }
        let y = counted(cx, &start, &step, Dim::known(count as i64), dtype)?;
        return one(y);
    }
    let wide = if natural { DType::F64 } else { DType::I64 };
    let operands = cx.cast_all(&[start, end, step], wide)?;
    let found = cx.b.dynamic(Dynamic::Range {}, &operands)?;
    let v = found.first().copied().ok_or_else(|| OpError::invalid("a range without a result"))?;
    let y = cx.b.cast(v, dtype)?;
    one(y)
}

/// `start + i * step`; floats in f64, as PyTorch accumulates.
fn counted(cx: &mut Cx<'_, '_>, start: &Arg, step: &Arg, count: Dim, dtype: DType) -> Result<Value, OpError> {
    let is_int = matches!((start, step), (Arg::Int(_), Arg::Int(_)));
    let wide = if is_int { DType::I64 } else { DType::F64 };
    let plain = is_int && cx.to_float(step) == Some(1.0);
    if plain && cx.to_float(start) == Some(0.0) && (dtype.is_int() || dtype.is_float()) {
        return Ok(cx.b.add1(Source::Iota { len: count, dtype }, &[])?);
    }
    let mut v = cx.b.add1(Source::Iota { len: count, dtype: wide }, &[])?;
    if !plain {
        let step = cx.as_dtype(step, wide)?;
        v = cx.ew("mul", &[v, step])?;
    }
    let start = cx.as_dtype(start, wide)?;
    v = cx.ew("add", &[v, start])?;
    Ok(cx.b.cast(v, dtype)?)
}

/// `steps` numbers from `start` to `end`, both included, in f64: the second half counts from the end.
fn spaced(cx: &mut Cx<'_, '_>) -> Result<Value, OpError> {
    let steps = cx.dim("steps")?;
    let (start, end) = (cx.get("start").clone(), cx.get("end").clone());
    let (start, end) = (cx.as_dtype(&start, DType::F64)?, cx.as_dtype(&end, DType::F64)?);
    let i = cx.b.add1(Source::Iota { len: steps.clone(), dtype: DType::F64 }, &[])?;
    let gaps = cx.as_dtype(&Arg::Int((&steps - &Dim::known(1)).greater(&Dim::known(1))), DType::F64)?;
    let span = cx.ew("sub", &[end, start])?;
    let step = cx.ew("div", &[span, gaps])?;
    let up = cx.ew("mul", &[i, step])?;
    let from_start = cx.ew("add", &[start, up])?;
    let rest = cx.ew("sub", &[gaps, i])?;
    let down = cx.ew("mul", &[rest, step])?;
    let from_end = cx.ew("sub", &[end, down])?;
    let half = cx.as_dtype(&Arg::Int(steps.floor_div(&Dim::known(2))), DType::F64)?;
    let early = cx.ew("lt", &[i, half])?;
    let single = cx.constant(DType::Bool, f64::from(u8::from(steps.as_known() == Some(1))))?;
    let early = cx.ew("or", &[early, single])?;
    cx.ew("where", &[early, from_start, from_end])
}

fn linspace(cx: &mut Cx<'_, '_>) -> Results {
    let dtype = cx.dtype_arg("dtype")?.unwrap_or(DEFAULT);
    let v = spaced(cx)?;
    let y = cx.b.cast(v, dtype)?;
    one(y)
}

fn logspace(cx: &mut Cx<'_, '_>) -> Results {
    let dtype = cx.dtype_arg("dtype")?.unwrap_or(DEFAULT);
    let exponents = spaced(cx)?;
    let base = cx.constant(DType::F64, cx.float("base")?)?;
    let v = cx.ew("pow", &[base, exponents])?;
    let y = cx.b.cast(v, dtype)?;
    one(y)
}

fn eye(cx: &mut Cx<'_, '_>) -> Results {
    let rows = cx.dim("n")?;
    let columns = cx.maybe_dim("m")?.unwrap_or_else(|| rows.clone());
    let dtype = cx.dtype_arg("dtype")?.unwrap_or(DEFAULT);
    let (i, j) = (cx.positions(&rows, DType::I64, 0, 2)?, cx.positions(&columns, DType::I64, 1, 2)?);
    let hot = cx.ew("eq", &[i, j])?;
    let y = cx.b.cast(hot, dtype)?;
    one(y)
}

/// Row and column of every element of a triangle, `[2, n]`.
fn triangle(cx: &mut Cx<'_, '_>, lower: bool) -> Results {
    let (rows, columns, offset) = (cx.int("row")?, cx.int("col")?, cx.int("offset")?);
    let fits = |n: i64| (0..=i64::from(i32::MAX)).contains(&n);
    if !fits(rows) || !fits(columns) {
        return Err(OpError::invalid(format!("the triangle of {rows} rows and {columns} columns")));
    }
    let dtype = cx.dtype_arg("dtype")?.unwrap_or(DType::I64);
    // What is not in the upper triangle is in the lower one of the diagonal below.
    let edge = if lower { offset.saturating_add(1) } else { offset };
    let below = below_diagonal(rows, columns, edge);
    let total = if lower { below } else { rows.saturating_mul(columns).saturating_sub(below) };
    if total == 0 {
        let y = cx.b.constant(Tensor::zeros(dtype, &[2, 0])?)?;
        return one(y);
    }
    let i = cx.positions(&Dim::known(rows), DType::I64, 0, 1)?;
    let edge = cx.as_dtype(&Arg::int(edge.clamp(-rows, columns)), DType::I64)?;
    let edges = cx.ew("add", &[i, edge])?;
    let (none, all) = (cx.as_dtype(&Arg::int(0), DType::I64)?, cx.as_dtype(&Arg::int(columns), DType::I64)?);
    let edges = cx.ew("clamp", &[edges, none, all])?;
    let counts = if lower { edges } else { cx.ew("sub", &[all, edges])? };
    let size = usize::try_from(rows).unwrap_or(0);
    let (row, starts) = super::repeat::each_times(cx, counts, size, total)?;
    let gather = kiln_ir::op::Index::Gather { axis: 0 };
    let start = cx.b.add1(gather.clone(), &[starts, row])?;
    let place = cx.positions(&Dim::known(total), DType::I64, 0, 1)?;
    let mut column = cx.ew("sub", &[place, start])?;
    if !lower {
        let first = cx.b.add1(gather, &[edges, row])?;
        column = cx.ew("add", &[column, first])?;
    }
    let shape = [Dim::known(1), Dim::known(total)];
    let (row, column) = (cx.b.reshape(row, &shape)?, cx.b.reshape(column, &shape)?);
    let both = cx.b.concat(&[row, column], 0)?;
    let y = cx.b.cast(both, dtype)?;
    one(y)
}

/// How many elements `[i, j]` of a matrix have `j < i + edge`.
fn below_diagonal(rows: i64, columns: i64, edge: i64) -> i64 {
    let (rows, columns, edge) = (i128::from(rows), i128::from(columns), i128::from(edge));
    // The sum of `clamp(j, 0, columns)` over all `j < end`.
    let up_to = |end: i128| match end {
        end if end <= 0 => 0,
        end if end <= columns => end * (end - 1) / 2,
        end => columns * (columns - 1) / 2 + (end - columns) * columns,
    };
    i64::try_from(up_to(rows + edge) - up_to(edge)).unwrap_or(i64::MAX)
}

#[derive(Clone, Copy)]
enum Window {
    Hann,
    Hamming,
    Blackman,
    Bartlett,
}

/// A window function of `n` points; periodic ones are of `n + 1` without the last.
fn window(cx: &mut Cx<'_, '_>, kind: Window) -> Results {
    let n = cx.int("window_length")?;
    let periodic = !cx.takes("periodic") || cx.flag("periodic")?;
    let dtype = cx.dtype_arg("dtype")?.unwrap_or(DEFAULT);
    if !(0..=i64::from(i32::MAX)).contains(&n) {
        return Err(OpError::invalid(format!("a window of {n} points")));
    }
    let (alpha, beta) = (cx.maybe_float("alpha")?.unwrap_or(0.54), cx.maybe_float("beta")?.unwrap_or(0.46));
    if n <= 1 {
        let y = cx.filled(dtype, 1.0, &[Dim::known(n)])?;
        return one(y);
    }
    let gaps = if periodic { n } else { n - 1 } as f64;
    let i = cx.b.add1(Source::Iota { len: Dim::known(n), dtype: DType::F64 }, &[])?;
    let v = match kind {
        Window::Hann => waves(cx, i, gaps, &[0.5, -0.5])?,
        Window::Hamming => waves(cx, i, gaps, &[alpha, -beta])?,
        Window::Blackman => waves(cx, i, gaps, &[0.42, -0.5, 0.08])?,
        Window::Bartlett => {
            let x = cx.ew_const("mul", i, 2.0 / gaps)?;
            let x = cx.ew_const("sub", x, 1.0)?;
            let distance = cx.ew("abs", &[x])?;
            let negated = cx.ew("neg", &[distance])?;
            cx.ew_const("add", negated, 1.0)?
        }
    };
    let y = cx.b.cast(v, dtype)?;
    one(y)
}

/// A constant and multiples of `cos(2 pi k i / gaps)`, for `k` from 1.
fn waves(cx: &mut Cx<'_, '_>, i: Value, gaps: f64, factors: &[f64]) -> Result<Value, OpError> {
    let (first, rest) = factors.split_first().unwrap_or((&0.0, &[]));
    let mut sum = cx.constant(DType::F64, *first)?;
    for (k, factor) in (1..).zip(rest) {
        let turn = cx.ew_const("mul", i, 2.0 * std::f64::consts::PI * f64::from(k) / gaps)?;
        let wave = cx.ew("cos", &[turn])?;
        let wave = cx.ew_const("mul", wave, *factor)?;
        sum = cx.ew("add", &[sum, wave])?;
    }
    Ok(sum)
}

fn random(cx: &mut Cx<'_, '_>, normal: bool) -> Results {
    let (shape, dtype) = match cx.takes("self") {
        true => {
            let x = cx.tensor("self")?;
            (cx.shape(x)?, cx.dtype_arg("dtype")?.unwrap_or(cx.dtype(x)?))
        }
        false => (cx.dims("size")?, cx.dtype_arg("dtype")?.unwrap_or(DEFAULT)),
    };
    let (zero, unit) = (Float::new(0.0), Float::new(1.0));
    let op = match normal {
        true => Host::RandomNormal { shape, dtype, mean: zero, scale: unit, seed: None },
        false => Host::RandomUniform { shape, dtype, low: zero, high: unit, seed: None },
    };
    let y = cx.b.add1(op, &[])?;
    one(y)
}

/// Integers from `low` up to but without `high`.
fn randint(cx: &mut Cx<'_, '_>) -> Results {
    let (shape, dtype) = match cx.takes("self") {
        true => {
            let x = cx.tensor("self")?;
            (cx.shape(x)?, cx.dtype_arg("dtype")?.unwrap_or(cx.dtype(x)?))
        }
        false => (cx.dims("size")?, cx.dtype_arg("dtype")?.unwrap_or(DType::I64)),
    };
    let (low, high) = (cx.maybe_int("low")?.unwrap_or(0), cx.int("high")?);
    if low >= high {
        return Err(OpError::invalid(format!("random integers from {low} up to {high}")));
    }
    let (low, high) = (Float::new(low as f64), Float::new(high as f64));
    let v = cx.b.add1(Host::RandomUniform { shape, dtype: DType::F64, low, high, seed: None }, &[])?;
    let whole = cx.ew("floor", &[v])?;
    let y = cx.b.cast(whole, dtype)?;
    one(y)
}

/// `0, 1, ...` in random order: that of random numbers.
fn randperm(cx: &mut Cx<'_, '_>) -> Results {
    let n = cx.dim("n")?;
    let dtype = cx.dtype_arg("dtype")?.unwrap_or(DType::I64);
    let (low, high) = (Float::new(0.0), Float::new(1.0));
    let shape = vec![n];
    let keys = cx.b.add1(Host::RandomUniform { shape, dtype: DType::F64, low, high, seed: None }, &[])?;
    let (_, order) = super::order::sorted(cx, keys, 0, false)?;
    let y = cx.b.cast(order, dtype)?;
    one(y)
}

/// New elements of the tensor's type and shape, uniform between two bounds.
fn uniform(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let (shape, dtype) = (cx.shape(x)?, cx.dtype(x)?);
    let (low, high) = (Float::new(cx.float("from")?), Float::new(cx.float("to")?));
    let y = cx.b.add1(Host::RandomUniform { shape, dtype, low, high, seed: None }, &[])?;
    one(y)
}

/// Normal numbers of a mean and a deviation, which may be tensors.
fn normal(cx: &mut Cx<'_, '_>) -> Results {
    let (mean, spread) = (cx.get("mean").clone(), cx.get("std").clone());
    let filled = cx.maybe_tensor("self")?;
    let dtype = match (filled, cx.dtype_arg("dtype")?) {
        (Some(filled), _) => cx.dtype(filled)?,
        (None, Some(dtype)) => dtype,
        (None, None) => cx.result_type(&[&mean, &spread])?,
    };
    let (mean, spread) = (cx.as_dtype(&mean, dtype)?, cx.as_dtype(&spread, dtype)?);
    let shape = match filled {
        Some(filled) => cx.shape(filled)?,
        None if cx.takes("size") => cx.dims("size")?,
        None => cx.common_shape(&[mean, spread])?,
    };
    let (zero, unit) = (Float::new(0.0), Float::new(1.0));
    let op = Host::RandomNormal { shape, dtype, mean: zero, scale: unit, seed: None };
    let v = cx.b.add1(op, &[])?;
    let v = cx.ew("mul", &[v, spread])?;
    let y = cx.ew("add", &[v, mean])?;
    one(y)
}

fn bernoulli(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let dtype = cx.dtype(x)?;
    let p = match cx.maybe_float("p")? {
        Some(p) => {
            let dims = cx.shape(x)?;
            cx.filled(DEFAULT, p, &dims)?
        }
        None => x,
    };
    let y = cx.b.add1(Host::Bernoulli { dtype, seed: None }, &[p])?;
    one(y)
}
