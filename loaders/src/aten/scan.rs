//! Running extrema and running sums of exponentials.
//!
//! Each takes as many steps as the axis has doublings: after step `n`, an element is combined with the `2^n - 1` before it.

use kiln_ir::{Build, DType, Dim, Value};

use super::cx::{Cx, many, one};
use super::movement::strided;
use super::{How, Results, Row, row};
use crate::error::OpError;

use How::Fn;

#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    row("aten::cummax", Fn(|cx| extrema(cx, "ge"))),
    row("aten::cummin", Fn(|cx| extrema(cx, "le"))),
    row("aten::logcumsumexp", Fn(logcumsumexp)),
];

/// The known size of an axis.
fn known_size(cx: &Cx<'_, '_>, x: Value, axis: usize) -> Result<i64, OpError> {
    let size = cx.shape(x)?.get(axis).and_then(Dim::as_known);
    size.ok_or_else(|| OpError::unsupported("a running result along an axis of unknown size"))
}

/// Tensors without their first `by` elements of an axis of `size`, and without the last ones.
fn apart(cx: &mut Cx<'_, '_>, v: Value, axis: usize, by: i64, size: i64) -> Result<[Value; 3], OpError> {
    let (zero, by, rest) = (Dim::known(0), Dim::known(by), Dim::known(size - by));
    let head = strided(cx, v, axis, zero.clone(), by.clone(), 1)?;
    let before = strided(cx, v, axis, zero, rest.clone(), 1)?;
    Ok([head, before, strided(cx, v, axis, by, rest, 1)?])
}

/// Running extrema and where they are; of equals the last.
fn extrema(cx: &mut Cx<'_, '_>, order: &str) -> Results {
    let given = cx.tensor("self")?;
    let (dtype, rank) = (cx.dtype(given)?, cx.rank(given)?);
    let axis = cx.axis("dim", rank)?;
    if rank == 0 {
        let at = cx.constant(DType::I64, 0.0)?;
        return many([given, at]);
    }
    let size = known_size(cx, given, axis)?;
    let shape = cx.shape(given)?;
    let mut x = if dtype == DType::Bool { cx.b.cast(given, DType::U8)? } else { given };
    let places = cx.positions(&Dim::known(size), DType::I64, axis, rank)?;
    let mut places = cx.b.broadcast(places, &shape)?;
    let mut by = 1i64;
    while by < size {
        let [head, before, own] = apart(cx, x, axis, by, size)?;
        let [head_at, before_at, own_at] = apart(cx, places, axis, by, size)?;
        let mut takes = cx.ew(order, &[own, before])?;
        if dtype.is_float() {
            // What is NaN stays, up to the next NaN.
            let (own_nan, before_nan) = (cx.ew("is_nan", &[own])?, cx.ew("is_nan", &[before])?);
            let number = cx.ew("not", &[before_nan])?;
            let above = cx.ew("and", &[takes, number])?;
            takes = cx.ew("or", &[above, own_nan])?;
        }
        let merged = cx.ew("where", &[takes, own, before])?;
        let merged_at = cx.ew("where", &[takes, own_at, before_at])?;
        x = cx.b.concat(&[head, merged], axis)?;
        places = cx.b.concat(&[head_at, merged_at], axis)?;
        by = by.saturating_mul(2);
    }
    let x = cx.b.cast(x, dtype)?;
    many([x, places])
}

fn logcumsumexp(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let dtype = cx.dtype(x)?;
    if !dtype.is_float() {
        return Err(OpError::invalid(format!("running sums of exponentials of {dtype}")));
    }
    let rank = cx.rank(x)?;
    let axis = cx.axis("dim", rank)?;
    if rank == 0 {
        return one(x);
    }
    let size = known_size(cx, x, axis)?;
    let mut x = cx.b.cast(x, if dtype == DType::F64 { dtype } else { DType::F32 })?;
    let mut by = 1i64;
    while by < size {
        let [head, before, own] = apart(cx, x, axis, by, size)?;
        let merged = super::pointwise::log_of_sum(cx, own, before, 1.0)?;
        x = cx.b.concat(&[head, merged], axis)?;
        by = by.saturating_mul(2);
    }
    let y = cx.b.cast(x, dtype)?;
    one(y)
}
