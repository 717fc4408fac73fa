//! Reductions and contractions.

use super::{InferCx, Inferred, Results, check_axis, ensure, unify};
use crate::op::{Contract, Reduce, ReduceKind};
use crate::{DClass, DType, Dim, InferError, Shape};

pub(super) fn infer_reduce(r: &Reduce, cx: &InferCx<'_>) -> Results {
    let Reduce::Axes { kind, axes, keepdims } = r;
    cx.expect_count(1)?;
    let ty = cx.tensor(0)?;
    check_reduce_dtype(*kind, ty.dtype)?;
    Ok(vec![Inferred::tensor(ty.dtype, reduced(&ty.shape, axes, *keepdims)?)])
}

/// Checks that a reduction takes elements of `dtype`.
pub(super) fn check_reduce_dtype(kind: ReduceKind, dtype: DType) -> Result<(), InferError> {
    let class = dtype.class();
    let fits = match kind {
        ReduceKind::Any | ReduceKind::All => class == DClass::Bool,
        ReduceKind::L2 | ReduceKind::LogSum => class == DClass::Float,
        ReduceKind::Sum
        | ReduceKind::Mean
        | ReduceKind::Prod
        | ReduceKind::Max
        | ReduceKind::Min
        | ReduceKind::L1
        | ReduceKind::SumSquare => matches!(class, DClass::Signed | DClass::Unsigned | DClass::Float),
    };
    ensure!(fits, "a {} reduction does not take {dtype}", kind.name());
    Ok(())
}

/// The shape after reducing `axes`.
pub(super) fn reduced(shape: &Shape, axes: &[usize], keepdims: bool) -> Result<Shape, InferError> {
    let Some(dims) = shape.dims() else { return Ok(Shape::unranked()) };
    for (i, &axis) in axes.iter().enumerate() {
        check_axis(axis, dims.len())?;
        ensure!(axes.get(..i).is_none_or(|seen| !seen.contains(&axis)), "axis {axis} stands twice");
    }
    let kept = dims.iter().enumerate().filter_map(|(i, d)| match (axes.contains(&i), keepdims) {
        (false, _) => Some(d.clone()),
        (true, true) => Some(Dim::known(1)),
        (true, false) => None,
    });
    Ok(Shape::new(kept.collect::<Vec<_>>()))
}

/// Checks that a sum of products of `a` and `b` may have elements of `out`.
pub(super) fn check_product(a: DType, b: DType, out: DType) -> Result<(), InferError> {
    let fits = match out.class() {
        DClass::Float => a == b && a.is_float(),
        DClass::Signed | DClass::Unsigned => a.is_int() && b.is_int(),
        DClass::Bool | DClass::Complex | DClass::Text => false,
    };
    ensure!(fits, "no sum of products of {a} and {b} in {out}");
    Ok(())
}

pub(super) fn infer_contract(c: &Contract, cx: &InferCx<'_>) -> Results {
    let Contract::Einsum { spec, out } = c;
    cx.expect_count(2)?;
    let (a, b) = (cx.tensor(0)?, cx.tensor(1)?);
    check_product(a.dtype, b.dtype, *out)?;
    let mut sizes: Vec<(u8, Dim)> = vec![];
    for (i, labels) in [&spec.lhs, &spec.rhs].into_iter().enumerate() {
        let Some(dims) = cx.dims_of_rank(i, labels.len())? else { continue };
        for (&label, d) in labels.iter().zip(dims) {
            match sizes.iter_mut().find(|(l, _)| *l == label) {
                Some((_, known)) => {
                    *known = unify(known, d, &format!("sizes of label `{}`", char::from(label)))?
                }
                None => sizes.push((label, d.clone())),
            }
        }
    }
    let size_of =
        |label: &u8| sizes.iter().find(|(l, _)| l == label).map_or_else(Dim::unknown, |(_, d)| d.clone());
    Ok(vec![Inferred::tensor(*out, Shape::new(spec.out.iter().map(size_of).collect::<Vec<_>>()))])
}
