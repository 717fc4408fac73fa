//! Quantiles, modes, covariances, differences and integrals.

use kiln_ir::op::{Contract, Index, Order, ReduceKind, ScatterMode};
use kiln_ir::{Build, DType, Dim, Value};

use super::arg::Arg;
use super::cx::{Cx, many, normal_axis, one, product};
use super::movement::strided;
use super::rearrange::{diagonal_of, size_of};
use super::reduce::dropped;
use super::{How, Results, Row, row};
use crate::error::OpError;

use How::{Alias, Fn};

#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    row("aten::corrcoef", Fn(corrcoef)),
    row("aten::cov", Fn(cov)),
    row("aten::cumulative_trapezoid", Fn(|cx| trapezoid(cx, true))),
    row("aten::diff", Fn(diff)),
    row("aten::histc", Fn(histc)),
    row("aten::mode", Fn(mode)),
    row("aten::nanmedian", Fn(nanmedian)),
    row("aten::nanquantile", Fn(|cx| quantile(cx, true))),
    row("aten::quantile", Fn(|cx| quantile(cx, false))),
    row("aten::renorm", Fn(renorm)),
    row("aten::trapezoid", Fn(|cx| trapezoid(cx, false))),
    row("aten::trapz", Alias("aten::trapezoid")),
    row("aten::unique_consecutive", Fn(unique_consecutive)),
];

/// `x` with infinity for NaN, so that NaN comes last in order; and which are NaN, if any can be.
fn nan_last(cx: &mut Cx<'_, '_>, x: Value) -> Result<(Value, Option<Value>), OpError> {
    let dtype = cx.dtype(x)?;
    if !dtype.is_float() {
        return Ok((x, None));
    }
    let (nan, top) = (cx.ew("is_nan", &[x])?, cx.constant(dtype, f64::INFINITY)?);
    Ok((cx.ew("where", &[nan, top, x])?, Some(nan)))
}

/// How many elements along the last axis are no NaN, as i64 of size 1 there.
fn counted(cx: &mut Cx<'_, '_>, x: Value, nan: Option<Value>, axis: usize) -> Result<Value, OpError> {
    let size = size_of(&cx.shape(x)?, axis)?;
    let all = cx.as_dtype(&Arg::Int(size), DType::I64)?;
    let Some(nan) = nan else { return Ok(all) };
    let ones = cx.b.cast(nan, DType::I64)?;
    let missing = cx.b.reduce(ReduceKind::Sum, ones, &[axis], true)?;
    cx.ew("sub", &[all, missing])
}

/// Values at places of the sorted last axis, of which there may be several.
fn at_ranks(cx: &mut Cx<'_, '_>, values: Value, ranks: Value, wide: &[Dim]) -> Result<Value, OpError> {
    let places = cx.b.cast(ranks, DType::I64)?;
    let places = cx.b.broadcast(places, wide)?;
    let axis = wide.len().saturating_sub(1);
    Ok(cx.b.add1(Index::GatherElements { axis }, &[values, places])?)
}

/// Between the elements of a sorted axis.
fn interpolated(
    cx: &mut Cx<'_, '_>,
    values: Value,
    ranks: Value,
    wide: &[Dim],
    mode: &str,
) -> Result<Value, OpError> {
    let rounded = match mode {
        "lower" => Some("floor"),
        "higher" => Some("ceil"),
        "nearest" => Some("round"),
        "linear" | "midpoint" => None,
        other => return Err(OpError::invalid(format!("interpolation `{other}`"))),
    };
    if let Some(name) = rounded {
        let ranks = cx.ew(name, &[ranks])?;
        return at_ranks(cx, values, ranks, wide);
    }
    let (low, high) = (cx.ew("floor", &[ranks])?, cx.ew("ceil", &[ranks])?);
    let (below, above) = (at_ranks(cx, values, low, wide)?, at_ranks(cx, values, high, wide)?);
    let dtype = cx.dtype(values)?;
    let weight = if mode == "linear" { cx.ew("sub", &[ranks, low])? } else { cx.constant(dtype, 0.5)? };
    super::pointwise::between(cx, below, above, weight)
}

/// The elements that a share of the others is below. Quantiles are the first axis of the result if they are a vector.
fn quantile(cx: &mut Cx<'_, '_>, ignores_nan: bool) -> Results {
    let x = cx.tensor("self")?;
    let (dtype, shape) = (cx.dtype(x)?, cx.shape(x)?);
    if !dtype.is_float() {
        return Err(OpError::invalid(format!("quantiles of {dtype}")));
    }
    let mode = cx.maybe_text("interpolation")?.unwrap_or("linear").to_owned();
    let (given, keepdim) = (cx.maybe_int("dim")?, cx.flag("keepdim")?);
    let q = cx.get("q").clone();
    let q = cx.as_dtype(&q, dtype)?;
    let several = cx.rank(q)? == 1;
    let count = cx.numel(q)?;
    let q = cx.b.reshape(q, &[count.clone()])?;
    // The axis comes last.
    let axis = given.filter(|_| !shape.is_empty()).map(|axis| normal_axis(axis, shape.len())).transpose()?;
    let rows = match axis {
        Some(axis) => {
            let perm: Vec<usize> = (0..shape.len()).filter(|&i| i != axis).chain([axis]).collect();
            cx.b.transpose(x, &perm)?
        }
        None => cx.b.reshape(x, &[product(&shape)])?,
    };
    let mut wide = cx.shape(rows)?;
    let last = wide.len().saturating_sub(1);
    let (clean, nan) = nan_last(cx, rows)?;
    let (values, _) = super::order::sorted(cx, clean, last, false)?;
    let total = counted(cx, rows, nan.filter(|_| ignores_nan), last)?;
    let top = cx.ew_const("sub", total, 1.0)?;
    let top = cx.ew_const("max", top, 0.0)?;
    let top = cx.b.cast(top, dtype)?;
    let ranks = cx.ew("mul", &[q, top])?;
    if let Some(slot) = wide.last_mut() {
        *slot = count.clone();
    }
    let mut y = interpolated(cx, values, ranks, &wide, &mode)?;
    let hidden = match nan {
        Some(nan) if ignores_nan => Some(cx.b.reduce(ReduceKind::All, nan, &[last], true)?),
        Some(nan) => Some(cx.b.reduce(ReduceKind::Any, nan, &[last], true)?),
        None => None,
    };
    if let Some(hidden) = hidden {
        let not_a_number = cx.constant(dtype, f64::NAN)?;
        y = cx.ew("where", &[hidden, not_a_number, y])?;
    }
    let order: Vec<usize> = std::iter::once(last).chain(0..last).collect();
    let y = cx.b.transpose(y, &order)?;
    let mut dims: Vec<Dim> = match axis {
        Some(axis) => shape.iter().enumerate().filter(|(i, _)| *i != axis).map(|(_, d)| d.clone()).collect(),
        None => vec![],
    };
    match axis {
        Some(axis) if keepdim => dims.insert(axis.min(dims.len()), Dim::known(1)),
        None if keepdim => dims = vec![Dim::known(1); shape.len()],
        _ => {}
    }
    if several {
        dims.insert(0, count);
    }
    let y = cx.b.reshape(y, &dims)?;
    one(y)
}

/// The lower of the middle elements that are no NaN; NaN where all are.
fn nanmedian(cx: &mut Cx<'_, '_>) -> Results {
    let given = cx.tensor("self")?;
    let shape = cx.shape(given)?;
    let (x, axis) = match cx.takes("dim") && !shape.is_empty() {
        true => (given, cx.axis("dim", shape.len())?),
        false => (cx.b.reshape(given, &[product(&shape)])?, 0),
    };
    let (clean, nan) = nan_last(cx, x)?;
    let (values, places) = super::order::sorted(cx, clean, axis, false)?;
    let mut one_place = cx.shape(x)?;
    if let Some(slot) = one_place.get_mut(axis) {
        *slot = Dim::known(1);
    }
    let count = counted(cx, x, nan, axis)?;
    let top = cx.ew_const("sub", count, 1.0)?;
    let top = cx.ew_const("max", top, 0.0)?;
    let rank = cx.ew_const("div", top, 2.0)?;
    let rank = cx.b.broadcast(rank, &one_place)?;
    let gather = Index::GatherElements { axis };
    let (mut value, place) =
        (cx.b.add1(gather.clone(), &[values, rank])?, cx.b.add1(gather, &[places, rank])?);
    if let Some(nan) = nan {
        let hidden = cx.b.reduce(ReduceKind::All, nan, &[axis], true)?;
        let dtype = cx.dtype(x)?;
        let not_a_number = cx.constant(dtype, f64::NAN)?;
        value = cx.ew("where", &[hidden, not_a_number, value])?;
    }
    if !cx.takes("dim") || shape.is_empty() {
        let (value, place) = (cx.b.reshape(value, &[])?, cx.b.reshape(place, &[])?);
        return if cx.takes("dim") { many([value, place]) } else { one(value) };
    }
    let keepdim = cx.flag("keepdim")?;
    let (value, place) = (dropped(cx, value, axis, keepdim)?, dropped(cx, place, axis, keepdim)?);
    many([value, place])
}

/// The smallest of the most frequent elements, and where it is last. Compares every pair.
fn mode(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let shape = cx.shape(x)?;
    let (axis, keepdim) = (cx.axis("dim", shape.len())?, cx.flag("keepdim")?);
    if shape.is_empty() {
        let at = cx.constant(DType::I64, 0.0)?;
        return many([x, at]);
    }
    let (values, places) = super::order::sorted(cx, x, axis, false)?;
    let (mut column, mut row) = (shape.clone(), shape);
    column.insert(axis + 1, Dim::known(1));
    row.insert(axis, Dim::known(1));
    let (column, row) = (cx.b.reshape(values, &column)?, cx.b.reshape(values, &row)?);
    let same = cx.ew("eq", &[column, row])?;
    let ones = cx.b.cast(same, DType::I64)?;
    let counts = cx.b.reduce(ReduceKind::Sum, ones, &[axis + 1], false)?;
    let first = cx.b.add1(Order::ArgMax { axis, keepdims: true, last: false }, &[counts])?;
    let most = cx.b.reduce(ReduceKind::Max, counts, &[axis], true)?;
    let end = cx.ew("add", &[first, most])?;
    let end = cx.ew_const("sub", end, 1.0)?;
    let gather = Index::GatherElements { axis };
    let (value, place) = (cx.b.add1(gather.clone(), &[values, first])?, cx.b.add1(gather, &[places, end])?);
    let (value, place) = (dropped(cx, value, axis, keepdim)?, dropped(cx, place, axis, keepdim)?);
    many([value, place])
}

/// Covariances of rows; of a vector its variance.
fn covariance(cx: &mut Cx<'_, '_>, correction: i64) -> Result<Value, OpError> {
    let x = cx.tensor("self")?;
    let x = cx.as_floats(x)?;
    let (dtype, shape) = (cx.dtype(x)?, cx.shape(x)?);
    let (rows, columns) = match shape.as_slice() {
        [] => (Dim::known(1), Dim::known(1)),
        [n] => (Dim::known(1), n.clone()),
        [m, n] => (m.clone(), n.clone()),
        more => return Err(OpError::invalid(format!("covariances of {} axes", more.len()))),
    };
    let x = cx.b.reshape(x, &[rows.clone(), columns.clone()])?;
    let mean = cx.b.reduce(ReduceKind::Mean, x, &[1], true)?;
    let centred = cx.ew("sub", &[x, mean])?;
    let spec = "ik,jk->ij".parse().map_err(OpError::Invalid)?;
    let sums = cx.b.add1(Contract::Einsum { spec, out: dtype }, &[centred, centred])?;
    let count = cx.as_dtype(&Arg::Int(columns), dtype)?;
    let degrees = cx.ew_const("sub", count, correction as f64)?;
    let degrees = cx.ew_const("max", degrees, 0.0)?;
    let y = cx.ew("div", &[sums, degrees])?;
    Ok(if rows.as_known() == Some(1) { cx.b.reshape(y, &[])? } else { y })
}

fn cov(cx: &mut Cx<'_, '_>) -> Results {
    if !cx.get("fweights").is_none() || !cx.get("aweights").is_none() {
        return Err(OpError::unsupported("weights of observations"));
    }
    let correction = cx.int("correction")?;
    let y = covariance(cx, correction)?;
    one(y)
}

fn corrcoef(cx: &mut Cx<'_, '_>) -> Results {
    let c = covariance(cx, 1)?;
    let shape = cx.shape(c)?;
    if shape.is_empty() {
        let y = cx.ew("div", &[c, c])?;
        return one(y);
    }
    let variances = diagonal_of(cx, c, (0, 1, 0))?;
    let spread = cx.ew("sqrt", &[variances])?;
    let n = size_of(&shape, 0)?;
    let column = cx.b.reshape(spread, &[n, Dim::known(1)])?;
    let y = cx.ew("div", &[c, column])?;
    let y = cx.ew("div", &[y, spread])?;
    let y = cx.ew_const("max", y, -1.0)?;
    let y = cx.ew_const("min", y, 1.0)?;
    one(y)
}

/// How many elements are in each of `bins` ranges between the bounds; without bounds, of the elements' own range.
fn histc(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let (dtype, bins) = (cx.dtype(x)?, cx.int("bins")?);
    if !dtype.is_float() || bins <= 0 {
        return Err(OpError::invalid(format!("{bins} ranges of {dtype}")));
    }
    let total = cx.numel(x)?;
    let flat = cx.b.reshape(x, &[total.clone()])?;
    let (low, high) = (cx.float("min")?, cx.float("max")?);
    let (low, high) = if low < high {
        (cx.constant(dtype, low)?, cx.constant(dtype, high)?)
    } else if low > high {
        return Err(OpError::invalid("the greatest is below the least"));
    } else {
        let (low, high) = (
            cx.b.reduce(ReduceKind::Min, flat, &[0], false)?,
            cx.b.reduce(ReduceKind::Max, flat, &[0], false)?,
        );
        // One value has a range of 2 around it.
        let (same, unit, zero) =
            (cx.ew("eq", &[low, high])?, cx.constant(dtype, 1.0)?, cx.constant(dtype, 0.0)?);
        let around = cx.ew("where", &[same, unit, zero])?;
        (cx.ew("sub", &[low, around])?, cx.ew("add", &[high, around])?)
    };
    let (from, span) = (cx.ew("sub", &[flat, low])?, cx.ew("sub", &[high, low])?);
    let scaled = cx.ew_const("mul", from, bins as f64)?;
    let place = cx.ew("div", &[scaled, span])?;
    let (above, below) = (cx.ew("ge", &[flat, low])?, cx.ew("le", &[flat, high])?);
    let inside = cx.ew("and", &[above, below])?;
    let zero = cx.constant(dtype, 0.0)?;
    let place = cx.ew("where", &[inside, place, zero])?;
    let place = cx.b.cast(place, DType::I64)?;
    // The last range has its upper bound; what is outside of all goes behind them.
    let last = cx.as_dtype(&Arg::int(bins - 1), DType::I64)?;
    let place = cx.ew("min", &[place, last])?;
    let behind = cx.as_dtype(&Arg::int(bins), DType::I64)?;
    let place = cx.ew("where", &[inside, place, behind])?;
    let zeros = cx.filled(dtype, 0.0, &[Dim::known(bins.saturating_add(1))])?;
    let ones = cx.filled(dtype, 1.0, &[total])?;
    let op = Index::ScatterElements { axis: 0, mode: ScatterMode::Add };
    let counts = cx.b.add1(op, &[zeros, place, ones])?;
    let y = cx.b.slice_axis(counts, 0, Dim::known(0), Dim::known(bins))?;
    one(y)
}

/// Most times that differences are taken of differences.
const MOST_DIFFERENCES: i64 = 64;

/// All but the first element of an axis, and all but the last.
fn neighbours(cx: &mut Cx<'_, '_>, x: Value, axis: usize) -> Result<(Value, Value), OpError> {
    let (zero, unit) = (Dim::known(0), Dim::known(1));
    let size = size_of(&cx.shape(x)?, axis)?;
    let rest = (&size - &unit).greater(&zero);
    Ok((strided(cx, x, axis, unit.lesser(&size), rest.clone(), 1)?, strided(cx, x, axis, zero, rest, 1)?))
}

fn diff(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let rank = cx.rank(x)?;
    if rank == 0 {
        return Err(OpError::invalid("differences of a tensor without axes"));
    }
    let (axis, n) = (cx.axis("dim", rank)?, cx.int("n")?);
    let dtype = cx.dtype(x)?;
    let mut parts = vec![];
    parts.extend(cx.maybe_tensor("prepend")?);
    parts.push(x);
    parts.extend(cx.maybe_tensor("append")?);
    let args: Vec<Arg> = parts.iter().map(|&v| Arg::Tensor(v)).collect();
    let common = if n > 0 { cx.result_type(&args.iter().collect::<Vec<_>>())? } else { dtype };
    let mut y = if n > 0 { super::movement::joined(cx, &parts, axis, common)? } else { x };
    if !(0..=MOST_DIFFERENCES).contains(&n) {
        return Err(OpError::unsupported(format!("differences taken {n} times")));
    }
    for _ in 0..n {
        let (late, early) = neighbours(cx, y, axis)?;
        y = cx.ew(if common == DType::Bool { "ne" } else { "sub" }, &[late, early])?;
    }
    one(y)
}

/// The integral along an axis by trapezoids, or what it is up to each element.
fn trapezoid(cx: &mut Cx<'_, '_>, running: bool) -> Results {
    let given = cx.tensor("y")?;
    let shape = cx.shape(given)?;
    let axis = cx.axis("dim", shape.len())?;
    if !running && shape.get(axis).and_then(Dim::as_known) == Some(0) {
        // The integral over nothing has the operand's type, also if that is of integers.
        let dtype = cx.dtype(given)?;
        let mut rest = shape;
        rest.remove(axis);
        let y = cx.filled(dtype, 0.0, &rest)?;
        return one(y);
    }
    let y = cx.as_floats(given)?;
    let (late, early) = neighbours(cx, y, axis)?;
    let sums = cx.ew("add", &[late, early])?;
    let dtype = cx.dtype(sums)?;
    let widths = match cx.maybe_tensor("x")? {
        Some(x) => {
            let x = cx.b.cast(x, dtype)?;
            let mut dims = cx.shape(x)?;
            if let [n] = dims.as_slice() {
                let n = n.clone();
                dims = vec![Dim::known(1); shape.len()];
                if let Some(slot) = dims.get_mut(axis) {
                    *slot = n;
                }
            } else if dims.len() < shape.len() {
                dims.splice(0..0, vec![Dim::known(1); shape.len() - dims.len()]);
            }
            let x = cx.b.reshape(x, &dims)?;
            let (late, early) = neighbours(cx, x, axis)?;
            cx.ew("sub", &[late, early])?
        }
        None => {
            let dx = cx.get("dx").clone();
            cx.as_dtype(&dx, dtype)?
        }
    };
    let areas = cx.ew("mul", &[sums, widths])?;
    let areas = cx.ew_const("mul", areas, 0.5)?;
    let y = if running {
        let kind = kiln_ir::op::CumKind::Sum;
        cx.b.add1(Order::Cumulative { kind, axis, exclusive: false, reverse: false }, &[areas])?
    } else {
        cx.b.reduce(ReduceKind::Sum, areas, &[axis], false)?
    };
    one(y)
}

/// Slices of an axis whose norm is above a bound, scaled down to it.
fn renorm(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let (dtype, rank) = (cx.dtype(x)?, cx.rank(x)?);
    let (axis, p, most) = (cx.axis("dim", rank)?, cx.float("p")?, cx.float("maxnorm")?);
    let axes: Vec<usize> = (0..rank).filter(|&i| i != axis).collect();
    let wide = cx.b.cast(x, if dtype == DType::F64 { dtype } else { DType::F32 })?;
    let norm = super::reduce::norm_over(cx, wide, p, &axes, true)?;
    let size = cx.dtype(wide)?;
    let (bound, unit) = (cx.constant(size, most)?, cx.constant(size, 1.0)?);
    let above = cx.ew("gt", &[norm, bound])?;
    let divisor = cx.ew_const("add", norm, 1e-7)?;
    let down = cx.ew("div", &[bound, divisor])?;
    let factor = cx.ew("where", &[above, down, unit])?;
    let factor = cx.b.cast(factor, dtype)?;
    let y = cx.ew("mul", &[x, factor])?;
    one(y)
}

/// The first of each run of equal elements; which run each element is of, and how long each is.
fn unique_consecutive(cx: &mut Cx<'_, '_>) -> Results {
    let given = cx.tensor("self")?;
    let shape = cx.shape(given)?;
    if cx.maybe_int("dim")?.is_some() && shape.len() != 1 {
        return Err(OpError::unsupported("runs of slices"));
    }
    let total = product(&shape);
    let x = cx.b.reshape(given, &[total.clone()])?;
    let (late, early) = neighbours(cx, x, 0)?;
    let differs = cx.ew("ne", &[late, early])?;
    let lead = total.lesser(&Dim::known(1));
    let first = cx.filled(DType::Bool, 1.0, &[lead])?;
    let begins = cx.b.concat(&[first, differs], 0)?;
    let begins = cx.b.reshape(begins, &[total.clone()])?;
    let places = cx.b.add1(Order::NonZero {}, &[begins])?;
    let places = super::movement::picked(cx, places, 0, Dim::known(0))?;
    let values = cx.b.add1(Index::Gather { axis: 0 }, &[x, places])?;
    let empty = cx.filled(DType::I64, 0.0, &[Dim::known(0)])?;
    let (mut inverse, mut counts) = (empty, empty);
    if cx.flag("return_inverse")? {
        let ones = cx.b.cast(begins, DType::I64)?;
        let kind = kiln_ir::op::CumKind::Sum;
        let runs =
            cx.b.add1(Order::Cumulative { kind, axis: 0, exclusive: false, reverse: false }, &[ones])?;
        let runs = cx.ew_const("sub", runs, 1.0)?;
        inverse = cx.b.reshape(runs, &shape)?;
    }
    if cx.flag("return_counts")? {
        let n = size_of(&cx.shape(places)?, 0)?;
        let (later, _) = neighbours(cx, places, 0)?;
        let end = cx.as_dtype(&Arg::Int(total), DType::I64)?;
        let end = cx.b.broadcast(end, &[n.lesser(&Dim::known(1))])?;
        let ends = cx.b.concat(&[later, end], 0)?;
        let ends = cx.b.reshape(ends, &[n])?;
        counts = cx.ew("sub", &[ends, places])?;
    }
    many([values, inverse, counts])
}
