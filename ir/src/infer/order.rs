//! Sorting, searching, scanning.

use super::sums::reduced;
use super::{InferCx, Inferred, Results, check_axis, ensure, size};
use crate::op::Order;
use crate::{DClass, DType, Dim, InferError, Shape};

pub(super) fn infer(op: &Order, cx: &InferCx<'_>) -> Results {
    let x = cx.tensor(0)?;
    match op {
        Order::ArgMax { axis, keepdims, last: _ } | Order::ArgMin { axis, keepdims, last: _ } => {
            cx.expect_count(1)?;
            check_ordered(x.dtype)?;
            Ok(vec![Inferred::tensor(DType::I64, reduced(&x.shape, &[*axis], *keepdims)?)])
        }
        Order::TopK { axis, largest: _, sorted: _ } => {
            cx.expect_count(2)?;
            check_ordered(x.dtype)?;
            cx.expect_dtype(1, DType::I64)?;
            let shape = top_k(*axis, cx)?;
            Ok(vec![Inferred::tensor(x.dtype, shape.clone()), Inferred::tensor(DType::I64, shape)])
        }
        Order::NonZero {} => {
            cx.expect_count(1)?;
            let rank = x.shape.rank().and_then(|r| i64::try_from(r).ok()).map_or(Dim::unknown(), Dim::known);
            Ok(vec![Inferred::tensor(DType::I64, Shape::new(vec![rank, Dim::unknown()]))])
        }
        Order::Unique { axis, sorted: _ } => {
            cx.expect_count(1)?;
            unique(*axis, cx)
        }
        Order::Cumulative { kind: _, axis, exclusive: _, reverse: _ } => {
            cx.expect_count(1)?;
            let number = matches!(x.dtype.class(), DClass::Signed | DClass::Unsigned | DClass::Float);
            ensure!(number, "a running combination does not take {}", x.dtype);
            if let Some(rank) = x.shape.rank() {
                check_axis(*axis, rank)?;
            }
            Ok(vec![Inferred::tensor(x.dtype, x.shape.clone())])
        }
    }
}

fn check_ordered(dtype: DType) -> Result<(), InferError> {
    ensure!(!matches!(dtype.class(), DClass::Text | DClass::Complex), "{dtype} has no order");
    Ok(())
}

fn top_k(axis: usize, cx: &InferCx<'_>) -> Result<Shape, InferError> {
    let Some(dims) = cx.dims(0)? else { return Ok(Shape::unranked()) };
    check_axis(axis, dims.len())?;
    let k = match cx.known_dims(1).as_deref() {
        Some([k]) => size(k.clone(), "k")?,
        Some(other) => {
            return Err(InferError::new(format!("k must have one element, found {}", other.len())));
        }
        None => Dim::unknown(),
    };
    let mut dims = dims.to_vec();
    if let Some(d) = dims.get_mut(axis) {
        let beyond = (&k - &*d).as_known().is_some_and(|v| v > 0);
        ensure!(!beyond, "k is {k}, the axis has {d} elements");
        *d = k;
    }
    Ok(Shape::new(dims))
}

fn unique(axis: Option<usize>, cx: &InferCx<'_>) -> Results {
    let x = cx.tensor(0)?;
    let found = || Shape::new(vec![Dim::unknown()]);
    let (values, length) = match (axis, x.shape.dims()) {
        (None, _) => (found(), x.shape.numel()),
        (Some(_), None) => (Shape::unranked(), Dim::unknown()),
        (Some(axis), Some(dims)) => {
            check_axis(axis, dims.len())?;
            let mut dims = dims.to_vec();
            let length = dims.get_mut(axis).map_or(Dim::unknown(), |d| std::mem::replace(d, Dim::unknown()));
            (Shape::new(dims), length)
        }
    };
    Ok(vec![
        Inferred::tensor(x.dtype, values),
        Inferred::tensor(DType::I64, found()),
        Inferred::tensor(DType::I64, Shape::new(vec![length])),
        Inferred::tensor(DType::I64, found()),
    ])
}
