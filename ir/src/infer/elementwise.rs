//! Elementwise operators and casts.

use super::{InferCx, InferError, Inferred, Results, ensure};
use crate::elementwise::DTypeRule;
use crate::op::{Cast, Elementwise};
use crate::{DClass, DType, Dim, Shape};

pub(super) fn infer(e: &Elementwise, cx: &InferCx<'_>) -> Results {
    let row = e.kind.row();
    cx.expect_count(row.params.len())?;
    ensure!(e.attrs.len() == row.attrs.len(), "expected {} attributes", row.attrs.len());
    let first_value = match row.rule {
        DTypeRule::Same | DTypeRule::Bool => 0,
        DTypeRule::Select => {
            cx.expect_dtype(0, DType::Bool)?;
            1
        }
    };
    let dtype = cx.tensor(first_value)?.dtype;
    ensure!(row.domain.accepts(dtype), "the operator does not take {dtype}");
    for i in first_value..row.params.len() {
        cx.expect_dtype(i, dtype)?;
    }
    let shapes: Vec<&Shape> =
        (0..row.params.len()).map(|i| cx.tensor(i).map(|t| &t.shape)).collect::<Result<_, _>>()?;
    let result = match row.rule {
        DTypeRule::Same | DTypeRule::Select => dtype,
        DTypeRule::Bool => DType::Bool,
    };
    Ok(vec![Inferred::tensor(result, broadcast_shapes(&shapes)?)])
}

pub(super) fn infer_cast(c: &Cast, cx: &InferCx<'_>) -> Results {
    cx.expect_count(1)?;
    let ty = cx.tensor(0)?;
    let castable = |d: DType| !matches!(d.class(), DClass::Text | DClass::Complex);
    ensure!(ty.dtype == c.to || (castable(ty.dtype) && castable(c.to)), "no conversion to {}", c.to);
    Ok(vec![Inferred::tensor(c.to, ty.shape.clone())])
}

/// NumPy broadcasting of several shapes; unranked if one is.
pub(crate) fn broadcast_shapes(shapes: &[&Shape]) -> Result<Shape, InferError> {
    let Some(all) = shapes.iter().map(|s| s.dims()).collect::<Option<Vec<_>>>() else {
        return Ok(Shape::unranked());
    };
    let rank = all.iter().map(|d| d.len()).max().unwrap_or(0);
    let mut out = vec![Dim::known(1); rank];
    for dims in all {
        let offset = rank - dims.len();
        for (slot, d) in out.iter_mut().skip(offset).zip(dims) {
            *slot = broadcast_dims(slot, d)?;
        }
    }
    Ok(Shape::new(out))
}

/// Broadcast of two dims; refused where it is evident that they do not fit.
pub(crate) fn broadcast_dims(a: &Dim, b: &Dim) -> Result<Dim, InferError> {
    match (a.as_known(), b.as_known()) {
        (Some(x), Some(y)) if x != y && x != 1 && y != 1 => {
            Err(InferError::new(format!("sizes {x} and {y} do not broadcast")))
        }
        _ => Ok(a.broadcast(b)),
    }
}
