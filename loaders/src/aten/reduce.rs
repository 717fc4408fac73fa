//! Reductions, norms and running sums.

use kiln_ir::op::{Composite, CumKind, Order, ReduceKind};
use kiln_ir::{Build, DType, Dim, Tensor, Value};

use super::arg::Arg;
use super::compare::truth;
use super::cx::{Cx, many, one, product};
use super::{How, Results, Row, row};
use crate::error::OpError;

use How::Fn;

#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    row("aten::_is_all_true", Fn(|cx| truths(cx, ReduceKind::All))),
    row("aten::_is_any_true", Fn(|cx| truths(cx, ReduceKind::Any))),
    row("aten::all", Fn(|cx| truths(cx, ReduceKind::All))),
    row("aten::amax", Fn(|cx| extremum(cx, ReduceKind::Max))),
    row("aten::amin", Fn(|cx| extremum(cx, ReduceKind::Min))),
    row("aten::aminmax", Fn(aminmax)),
    row("aten::any", Fn(|cx| truths(cx, ReduceKind::Any))),
    row("aten::argmax", Fn(|cx| place(cx, true))),
    row("aten::argmin", Fn(|cx| place(cx, false))),
    row("aten::count_nonzero", Fn(count_nonzero)),
    row("aten::cumprod", Fn(|cx| running(cx, CumKind::Prod))),
    row("aten::cumsum", Fn(|cx| running(cx, CumKind::Sum))),
    row("aten::dist", Fn(dist)),
    row("aten::frobenius_norm", Fn(norm)),
    row("aten::linalg_norm", Fn(linalg_norm)),
    row("aten::linalg_vector_norm", Fn(norm)),
    row("aten::logsumexp", Fn(logsumexp)),
    row("aten::max", Fn(|cx| chosen(cx, "max", ReduceKind::Max))),
    row("aten::mean", Fn(mean)),
    row("aten::median", Fn(median)),
    row("aten::min", Fn(|cx| chosen(cx, "min", ReduceKind::Min))),
    row("aten::nanmean", Fn(nanmean)),
    row("aten::nansum", Fn(nansum)),
    row("aten::norm", Fn(norm)),
    row("aten::norm_except_dim", Fn(norm_except_dim)),
    row("aten::prod", Fn(prod)),
    row("aten::special_logsumexp", Fn(logsumexp)),
    row("aten::std", Fn(|cx| spread(cx, true, false))),
    row("aten::std_mean", Fn(|cx| spread(cx, true, true))),
    row("aten::sum", Fn(sum)),
    row("aten::sum_to_size", Fn(sum_to_size)),
    row("aten::var", Fn(|cx| spread(cx, false, false))),
    row("aten::var_mean", Fn(|cx| spread(cx, false, true))),
];

/// The axes and `keepdim` of a reduction.
pub(super) fn extent(cx: &mut Cx<'_, '_>, x: Value) -> Result<(Vec<usize>, bool), OpError> {
    let rank = cx.rank(x)?;
    let axes = cx.axes("dim", rank)?;
    Ok((axes, cx.flag("keepdim")?))
}

/// The type in which integers are summed up.
fn sum_type(cx: &Cx<'_, '_>, dtype: DType) -> Result<DType, OpError> {
    Ok(match cx.dtype_arg("dtype")? {
        Some(dtype) => dtype,
        None if dtype.is_int() || dtype == DType::Bool => DType::I64,
        None => dtype,
    })
}

fn reduced(cx: &mut Cx<'_, '_>, kind: ReduceKind, x: Value) -> Results {
    let (axes, keepdim) = extent(cx, x)?;
    let y = cx.b.reduce(kind, x, &axes, keepdim)?;
    one(y)
}

fn sum(cx: &mut Cx<'_, '_>) -> Results {
    if let Arg::List(items) = cx.at(0).clone() {
        let mut total = Arg::int(0);
        for item in &items {
            total = super::scalar::arithmetic(cx, "add", &total, item)?;
        }
        return Ok(vec![total]);
    }
    let x = cx.tensor("self")?;
    let dtype = sum_type(cx, cx.dtype(x)?)?;
    let x = if dtype == DType::Bool { truth(cx, x)? } else { cx.b.cast(x, dtype)? };
    reduced(cx, if dtype == DType::Bool { ReduceKind::Any } else { ReduceKind::Sum }, x)
}

fn prod(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let dtype = sum_type(cx, cx.dtype(x)?)?;
    let x = if dtype == DType::Bool { truth(cx, x)? } else { cx.b.cast(x, dtype)? };
    reduced(cx, if dtype == DType::Bool { ReduceKind::All } else { ReduceKind::Prod }, x)
}

fn mean(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let dtype = cx.dtype_arg("dtype")?.unwrap_or(cx.dtype(x)?);
    if !dtype.is_float() {
        return Err(OpError::invalid(format!("the mean of {dtype}")));
    }
    let x = cx.b.cast(x, dtype)?;
    reduced(cx, ReduceKind::Mean, x)
}

/// Values that are NaN as zeros, and which they are.
fn without_nan(cx: &mut Cx<'_, '_>, x: Value) -> Result<(Value, Option<Value>), OpError> {
    let dtype = cx.dtype(x)?;
    if !dtype.is_float() {
        return Ok((x, None));
    }
    let (nan, zero) = (cx.ew("is_nan", &[x])?, cx.constant(dtype, 0.0)?);
    Ok((cx.ew("where", &[nan, zero, x])?, Some(nan)))
}

fn nansum(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let dtype = sum_type(cx, cx.dtype(x)?)?;
    let (x, _) = without_nan(cx, x)?;
    let x = cx.b.cast(x, dtype)?;
    reduced(cx, ReduceKind::Sum, x)
}

fn nanmean(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let (clean, nan) = without_nan(cx, x)?;
    let dtype = cx.dtype_arg("dtype")?.unwrap_or(cx.dtype(clean)?);
    let clean = cx.b.cast(clean, dtype)?;
    let Some(nan) = nan else { return reduced(cx, ReduceKind::Mean, clean) };
    let (axes, keepdim) = extent(cx, x)?;
    let kept = cx.ew("not", &[nan])?;
    let kept = cx.b.cast(kept, dtype)?;
    let (sum, count) = (
        cx.b.reduce(ReduceKind::Sum, clean, &axes, keepdim)?,
        cx.b.reduce(ReduceKind::Sum, kept, &axes, keepdim)?,
    );
    let y = cx.ew("div", &[sum, count])?;
    one(y)
}

fn truths(cx: &mut Cx<'_, '_>, kind: ReduceKind) -> Results {
    if let Arg::List(items) = cx.at(0).clone() {
        let known = items.iter().map(|item| cx.to_float(item).map(|v| v != 0.0)).collect::<Option<Vec<_>>>();
        let known = known.ok_or_else(|| OpError::unsupported("a list of truth values of run time"))?;
        let found = if kind == ReduceKind::All { known.iter().all(|&v| v) } else { known.iter().any(|&v| v) };
        return Ok(vec![Arg::Bool(found)]);
    }
    let x = cx.tensor("self")?;
    let dtype = cx.dtype(x)?;
    let x = truth(cx, x)?;
    // A list of no axes is none, not all.
    let y = if cx.overload() == "dims" && cx.get("dim") == &Arg::List(vec![]) {
        x
    } else {
        let (axes, keepdim) = extent(cx, x)?;
        cx.b.reduce(kind, x, &axes, keepdim)?
    };
    // Bytes give bytes.
    let y = if dtype == DType::U8 { cx.b.cast(y, DType::U8)? } else { y };
    one(y)
}

/// An extremum over axes; bools as logic.
fn extreme(
    cx: &mut Cx<'_, '_>,
    kind: ReduceKind,
    x: Value,
    axes: &[usize],
    keepdim: bool,
) -> Result<Value, OpError> {
    let of_bools = if kind == ReduceKind::Max { ReduceKind::Any } else { ReduceKind::All };
    let kind = if cx.dtype(x)? == DType::Bool { of_bools } else { kind };
    let shape = cx.shape(x)?;
    if axes.iter().any(|&axis| shape.get(axis).and_then(Dim::as_known) == Some(0)) {
        return Err(OpError::invalid("the extremum of nothing"));
    }
    Ok(cx.b.reduce(kind, x, axes, keepdim)?)
}

fn extremum(cx: &mut Cx<'_, '_>, kind: ReduceKind) -> Results {
    let x = cx.tensor("self")?;
    let (axes, keepdim) = extent(cx, x)?;
    let y = extreme(cx, kind, x, &axes, keepdim)?;
    one(y)
}

fn aminmax(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let (axes, keepdim) = extent(cx, x)?;
    let low = extreme(cx, ReduceKind::Min, x, &axes, keepdim)?;
    let high = extreme(cx, ReduceKind::Max, x, &axes, keepdim)?;
    many([low, high])
}

/// The place of the first extremum along an axis, kept as 1. NaN is the extremum where there is one.
fn place_along(cx: &mut Cx<'_, '_>, x: Value, axis: usize, largest: bool) -> Result<Value, OpError> {
    let dtype = cx.dtype(x)?;
    let mut x = if dtype == DType::Bool { cx.b.cast(x, DType::U8)? } else { x };
    if dtype.is_float() {
        // NaN before everything: compare what is NaN first, then what is largest.
        let nan = cx.ew("is_nan", &[x])?;
        let top = cx.constant(dtype, if largest { f64::INFINITY } else { f64::NEG_INFINITY })?;
        let any = cx.b.reduce(ReduceKind::Any, nan, &[axis], true)?;
        let zero = cx.constant(dtype, 0.0)?;
        let only_nan = cx.ew("where", &[nan, top, zero])?;
        x = cx.ew("where", &[any, only_nan, x])?;
    }
    let (keepdims, last) = (true, false);
    let op =
        if largest { Order::ArgMax { axis, keepdims, last } } else { Order::ArgMin { axis, keepdims, last } };
    Ok(cx.b.add1(op, &[x])?)
}

fn place(cx: &mut Cx<'_, '_>, largest: bool) -> Results {
    let x = cx.tensor("self")?;
    let shape = cx.shape(x)?;
    let keepdim = cx.flag("keepdim")?;
    let given = cx.maybe_int("dim")?;
    let Some(axis) = given.filter(|_| !shape.is_empty()) else {
        let flat = cx.b.reshape(x, &[product(&shape)])?;
        let found = place_along(cx, flat, 0, largest)?;
        let dims = if keepdim { vec![Dim::known(1); shape.len()] } else { vec![] };
        let y = cx.b.reshape(found, &dims)?;
        return one(y);
    };
    let axis = super::cx::normal_axis(axis, shape.len())?;
    let found = place_along(cx, x, axis, largest)?;
    let y = dropped(cx, found, axis, keepdim)?;
    one(y)
}

/// Takes an axis of size 1 away, unless it is kept.
pub(super) fn dropped(cx: &mut Cx<'_, '_>, v: Value, axis: usize, keep: bool) -> Result<Value, OpError> {
    let mut dims = cx.shape(v)?;
    if keep || axis >= dims.len() {
        return Ok(v);
    }
    dims.remove(axis);
    Ok(cx.b.reshape(v, &dims)?)
}

/// `max` and `min`: of two tensors, of all elements, or along an axis with places.
fn chosen(cx: &mut Cx<'_, '_>, name: &str, kind: ReduceKind) -> Results {
    if cx.takes("other") {
        return super::pointwise::promoted(cx, name);
    }
    let x = cx.tensor("self")?;
    let rank = cx.rank(x)?;
    if !cx.takes("dim") {
        let axes: Vec<usize> = (0..rank).collect();
        let y = extreme(cx, kind, x, &axes, false)?;
        return one(y);
    }
    let (axis, keepdim) = (cx.axis("dim", rank)?, cx.flag("keepdim")?);
    if rank == 0 {
        let at = cx.constant(DType::I64, 0.0)?;
        return many([x, at]);
    }
    let value = extreme(cx, kind, x, &[axis], keepdim)?;
    let found = place_along(cx, x, axis, kind == ReduceKind::Max)?;
    let at = dropped(cx, found, axis, keepdim)?;
    many([value, at])
}

/// The lower of the middle elements in order.
fn median(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let shape = cx.shape(x)?;
    if cx.takes("dim") && !shape.is_empty() {
        let (axis, keepdim) = (cx.axis("dim", shape.len())?, cx.flag("keepdim")?);
        let (value, at) = middle(cx, x, axis)?;
        let (value, at) = (dropped(cx, value, axis, keepdim)?, dropped(cx, at, axis, keepdim)?);
        return many([value, at]);
    }
    let flat = cx.b.reshape(x, &[product(&shape)])?;
    let (value, at) = middle(cx, flat, 0)?;
    let (value, at) = (cx.b.reshape(value, &[])?, cx.b.reshape(at, &[])?);
    if cx.takes("dim") { many([value, at]) } else { one(value) }
}

fn middle(cx: &mut Cx<'_, '_>, x: Value, axis: usize) -> Result<(Value, Value), OpError> {
    let size = cx.shape(x)?.get(axis).cloned().unwrap_or(Dim::known(1));
    let (values, places) = super::order::sorted(cx, x, axis, false)?;
    let at = (size - Dim::known(1)).floor_div(&Dim::known(2));
    let value = cx.b.slice_axis(values, axis, at.clone(), Dim::known(1))?;
    let place = cx.b.slice_axis(places, axis, at, Dim::known(1))?;
    let dtype = cx.dtype(x)?;
    if !dtype.is_float() {
        return Ok((value, place));
    }
    // The first NaN where there is one.
    let nan = cx.ew("is_nan", &[x])?;
    let any = cx.b.reduce(ReduceKind::Any, nan, &[axis], true)?;
    let flags = cx.b.cast(nan, DType::U8)?;
    let first = cx.b.add1(Order::ArgMax { axis, keepdims: true, last: false }, &[flags])?;
    let not_a_number = cx.constant(dtype, f64::NAN)?;
    Ok((cx.ew("where", &[any, not_a_number, value])?, cx.ew("where", &[any, first, place])?))
}

fn count_nonzero(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let x = truth(cx, x)?;
    let ones = cx.b.cast(x, DType::I64)?;
    reduced(cx, ReduceKind::Sum, ones)
}

fn running(cx: &mut Cx<'_, '_>, kind: CumKind) -> Results {
    let x = cx.tensor("self")?;
    let rank = cx.rank(x)?;
    let axis = cx.axis("dim", rank)?;
    let dtype = sum_type(cx, cx.dtype(x)?)?;
    let x = cx.b.cast(x, dtype)?;
    if rank == 0 {
        return one(x);
    }
    let op = Order::Cumulative { kind, axis, exclusive: false, reverse: false };
    let y = cx.b.add1(op, &[x])?;
    one(y)
}

fn logsumexp(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let x = cx.as_floats(x)?;
    let (axes, keepdims) = extent(cx, x)?;
    if axes.is_empty() {
        return one(x);
    }
    let y = cx.b.add1(Composite::LogSumExp { axes, keepdims }, &[x])?;
    one(y)
}

/// The number of elements over axes as a value of a type.
fn count_over(cx: &mut Cx<'_, '_>, x: Value, axes: &[usize], dtype: DType) -> Result<Value, OpError> {
    let shape = cx.shape(x)?;
    let sizes: Vec<Dim> = axes.iter().filter_map(|&axis| shape.get(axis).cloned()).collect();
    cx.as_dtype(&Arg::Int(product(&sizes)), dtype)
}

/// Mean and biased variance over axes, which go.
pub(super) fn moments(cx: &mut Cx<'_, '_>, x: Value, axes: &[usize]) -> Result<(Value, Value), OpError> {
    let wide_mean = cx.b.reduce(ReduceKind::Mean, x, axes, true)?;
    let centred = cx.ew("sub", &[x, wide_mean])?;
    let squares = cx.ew("square", &[centred])?;
    let variance = cx.b.reduce(ReduceKind::Mean, squares, axes, false)?;
    Ok((cx.b.reduce(ReduceKind::Mean, x, axes, false)?, variance))
}

/// Variance or its root, with the mean where that is asked for.
fn spread(cx: &mut Cx<'_, '_>, root: bool, with_mean: bool) -> Results {
    let x = cx.tensor("self")?;
    let dtype = cx.dtype(x)?;
    let (axes, keepdim) = extent(cx, x)?;
    let correction = match cx.takes("correction") {
        true => cx.maybe_float("correction")?.unwrap_or(1.0),
        false => f64::from(u8::from(cx.flag("unbiased")? || !cx.takes("unbiased"))),
    };
    let narrow = dtype != DType::F64;
    let wide = cx.b.cast(x, if narrow { DType::F32 } else { DType::F64 })?;
    let wide_type = cx.dtype(wide)?;
    let mean = cx.b.reduce(ReduceKind::Mean, wide, &axes, true)?;
    let centred = cx.ew("sub", &[wide, mean])?;
    let squares = cx.ew("square", &[centred])?;
    let total = cx.b.reduce(ReduceKind::Sum, squares, &axes, keepdim)?;
    let count = count_over(cx, x, &axes, wide_type)?;
    let degrees = cx.ew_const("sub", count, correction)?;
    let zero = cx.constant(wide_type, 0.0)?;
    let degrees = cx.ew("max", &[degrees, zero])?;
    let mut y = cx.ew("div", &[total, degrees])?;
    if root {
        y = cx.ew("sqrt", &[y])?;
    }
    let y = cx.b.cast(y, dtype)?;
    if !with_mean {
        return one(y);
    }
    let mean = cx.b.reduce(ReduceKind::Mean, wide, &axes, keepdim)?;
    let mean = cx.b.cast(mean, dtype)?;
    many([y, mean])
}

/// The `p`-norm over axes.
pub(super) fn norm_over(
    cx: &mut Cx<'_, '_>,
    x: Value,
    p: f64,
    axes: &[usize],
    keepdim: bool,
) -> Result<Value, OpError> {
    let dtype = cx.dtype(x)?;
    if p == 2.0 {
        return Ok(cx.b.reduce(ReduceKind::L2, x, axes, keepdim)?);
    }
    if p == 1.0 {
        return Ok(cx.b.reduce(ReduceKind::L1, x, axes, keepdim)?);
    }
    if p == 0.0 {
        let set = truth(cx, x)?;
        let ones = cx.b.cast(set, dtype)?;
        return Ok(cx.b.reduce(ReduceKind::Sum, ones, axes, keepdim)?);
    }
    let sizes = cx.ew("abs", &[x])?;
    if p.is_infinite() {
        let kind = if p > 0.0 { ReduceKind::Max } else { ReduceKind::Min };
        return extreme(cx, kind, sizes, axes, keepdim);
    }
    let powers = cx.ew_const("pow", sizes, p)?;
    let total = cx.b.reduce(ReduceKind::Sum, powers, axes, keepdim)?;
    cx.ew_const("pow", total, 1.0 / p)
}

/// Vector norms, also those that `torch.norm` asks for.
fn norm(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let p = match (cx.takes("ord"), cx.takes("p")) {
        (true, _) => cx.float("ord")?,
        (_, true) => cx.maybe_float("p")?.unwrap_or(2.0),
        _ => 2.0,
    };
    let dtype = cx.dtype_arg("dtype")?;
    let x = match dtype {
        Some(dtype) => cx.b.cast(x, dtype)?,
        None => cx.as_floats(x)?,
    };
    let (axes, keepdim) = extent(cx, x)?;
    let y = norm_over(cx, x, p, &axes, keepdim)?;
    one(y)
}

/// A norm for each index of one axis; for -1 that of all elements.
fn norm_except_dim(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("v")?;
    let (rank, p, dim) = (cx.rank(x)?, cx.float("pow")?, cx.int("dim")?);
    let kept = if dim == -1 { None } else { Some(super::cx::normal_axis(dim, rank)?) };
    let axes: Vec<usize> = (0..rank).filter(|&axis| kept != Some(axis)).collect();
    let y = norm_over(cx, x, p, &axes, kept.is_some())?;
    one(y)
}

/// Of vectors, or of matrices.
fn linalg_norm(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let axes_given = cx.maybe_dims("dim")?.map_or(0, |d| d.len());
    let rank = cx.rank(x)?;
    let of_matrix = axes_given == 2 || (axes_given == 0 && rank == 2);
    let order = super::algebra::order(cx)?;
    let x = match cx.dtype_arg("dtype")? {
        Some(dtype) => cx.b.cast(x, dtype)?,
        None => cx.as_floats(x)?,
    };
    let (axes, keepdim) = extent(cx, x)?;
    let y = match axes.as_slice() {
        [rows, columns] if of_matrix => {
            super::algebra::norm_of_matrix(cx, x, order, (*rows, *columns), keepdim)?
        }
        _ => norm_over(cx, x, order.unwrap_or(2.0), &axes, keepdim)?,
    };
    one(y)
}

fn dist(cx: &mut Cx<'_, '_>) -> Results {
    let (values, _) = cx.promoted_floats(&["self", "other"])?;
    let difference = cx.ew("sub", &values)?;
    let axes: Vec<usize> = (0..cx.rank(difference)?).collect();
    let p = cx.float("p")?;
    let y = norm_over(cx, difference, p, &axes, false)?;
    one(y)
}

fn sum_to_size(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let (shape, wanted) = (cx.shape(x)?, cx.dims("size")?);
    let new = shape.len().checked_sub(wanted.len()).ok_or_else(|| OpError::invalid("too many sizes"))?;
    let shrinks = |i: usize| {
        i.checked_sub(new)
            .and_then(|i| wanted.get(i))
            .is_none_or(|w| Some(w) != shape.get(i) && w.as_known() == Some(1))
    };
    let axes: Vec<usize> = (0..shape.len()).filter(|&i| shrinks(i)).collect();
    let y = if axes.is_empty() { x } else { cx.b.reduce(ReduceKind::Sum, x, &axes, true)? };
    let y = cx.b.reshape(y, &wanted)?;
    one(y)
}

/// A constant i64 vector.
pub(super) fn ints(cx: &mut Cx<'_, '_>, values: &[i64]) -> Result<Value, OpError> {
    Ok(cx.b.constant(Tensor::ints(values))?)
}
