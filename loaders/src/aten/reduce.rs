//! Reductions.

use kiln_ir::op::ReduceKind;
use kiln_ir::{Build, DType, Value};

use super::arg::Arg;
use super::cx::{Cx, one};
use super::promote::DEFAULT;
use super::{How, Results, Row, row};
use crate::error::OpError;

use How::Fn;

#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    row("aten::mean", Fn(mean)),
    row("aten::sum", Fn(sum)),
];

/// The axes and `keepdim` of a reduction.
pub(super) fn extent(cx: &mut Cx<'_, '_>, x: Value) -> Result<(Vec<usize>, bool), OpError> {
    let rank = cx.rank(x)?;
    let axes = cx.axes("dim", rank)?;
    Ok((axes, cx.flag("keepdim")?))
}

/// The type in which integers are summed up.
pub(super) fn sum_type(cx: &Cx<'_, '_>, dtype: DType) -> Result<DType, OpError> {
    Ok(match cx.dtype_arg("dtype")? {
        Some(dtype) => dtype,
        None if dtype.is_int() || dtype == DType::Bool => DType::I64,
        None => dtype,
    })
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
    let (axes, keepdim) = extent(cx, x)?;
    let x = cx.b.cast(x, dtype)?;
    let y = cx.b.reduce(ReduceKind::Sum, x, &axes, keepdim)?;
    one(y)
}

fn mean(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let dtype = cx.dtype_arg("dtype")?.unwrap_or(cx.dtype(x)?);
    if !dtype.is_float() {
        return Err(OpError::invalid(format!("the mean of {dtype}; {DEFAULT} is asked for by `dtype`")));
    }
    let (axes, keepdim) = extent(cx, x)?;
    let x = cx.b.cast(x, dtype)?;
    let y = cx.b.reduce(ReduceKind::Mean, x, &axes, keepdim)?;
    one(y)
}
