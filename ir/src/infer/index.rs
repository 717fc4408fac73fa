//! Gathers and scatters.

use super::{InferCx, InferError, Inferred, Results, check_axis, ensure, unify};
use crate::op::{Index, ScatterMode};
use crate::{DClass, DType, Dim, Known, Shape, Tensor};

/// Most constant indices that are looked at, each time that the node is built.
const MAX_CHECKED: usize = 4096;

pub(super) fn infer(op: &Index, cx: &InferCx<'_>) -> Results {
    cx.expect_indices(1)?;
    let x = cx.tensor(0)?;
    let shape = match op {
        Index::Gather { axis } => {
            cx.expect_count(2)?;
            gather(*axis, cx)?
        }
        Index::GatherElements { axis } => {
            cx.expect_count(2)?;
            same_rank(*axis, 1, cx)?;
            let x = cx.dims(0)?;
            check_indices(cx, |_| x.and_then(|x| x.get(*axis)))?;
            cx.tensor(1)?.shape.clone()
        }
        Index::GatherNd { batch } => {
            cx.expect_count(2)?;
            gather_nd(*batch, cx)?
        }
        Index::ScatterElements { axis, mode } => {
            check_scatter(*mode, cx)?;
            same_rank(*axis, 1, cx)?;
            if let (Some(i), Some(u)) = (cx.dims(1)?, cx.dims(2)?) {
                ensure!(i.len() == u.len(), "indices of rank {} and updates of rank {}", i.len(), u.len());
                for (a, b) in i.iter().zip(u) {
                    unify(a, b, "sizes of indices and updates")?;
                }
            }
            check_covered(*axis, cx)?;
            x.shape.clone()
        }
        Index::ScatterNd { mode } => {
            check_scatter(*mode, cx)?;
            check_scatter_nd(cx)?;
            x.shape.clone()
        }
    };
    Ok(vec![Inferred::tensor(x.dtype, shape)])
}

fn gather(axis: usize, cx: &InferCx<'_>) -> Result<Shape, InferError> {
    let Some(x) = cx.dims(0)? else { return Ok(Shape::unranked()) };
    check_axis(axis, x.len())?;
    check_indices(cx, |_| x.get(axis))?;
    let Some(indices) = cx.dims(1)? else { return Ok(Shape::unranked()) };
    let (before, after) = (x.iter().take(axis), x.iter().skip(axis + 1));
    Ok(Shape::new(before.chain(indices).chain(after).cloned().collect::<Vec<_>>()))
}

/// Fails where a constant index lies outside of the axis that it counts on, which `axis` finds from its position.
fn check_indices<'d>(cx: &InferCx<'_>, axis: impl Fn(usize) -> Option<&'d Dim>) -> Result<(), InferError> {
    let tensor = cx.known.get(1).copied().flatten().and_then(Known::tensor);
    let listed = tensor.filter(|t| t.numel() <= MAX_CHECKED).and_then(Tensor::to_ints);
    let indices = listed.or_else(|| cx.known_ints(1)).unwrap_or_default();
    for (at, index) in indices.into_iter().enumerate() {
        if let Some(size) = axis(at).and_then(Dim::as_known) {
            ensure!((-size..size).contains(&index), "index {index} is out of range for {size} elements");
        }
    }
    Ok(())
}

fn same_rank(axis: usize, other: usize, cx: &InferCx<'_>) -> Result<(), InferError> {
    if let (Some(x), Some(i)) = (cx.dims(0)?, cx.dims(other)?) {
        ensure!(x.len() == i.len(), "operands of ranks {} and {}", x.len(), i.len());
    }
    if let Some(x) = cx.dims(0)? {
        check_axis(axis, x.len())?;
    }
    Ok(())
}

/// Fails where updates are known to be more than the elements of another axis than `axis`.
fn check_covered(axis: usize, cx: &InferCx<'_>) -> Result<(), InferError> {
    let (Some(x), Some(indices)) = (cx.dims(0)?, cx.dims(1)?) else { return Ok(()) };
    let Some(sizes) = indices.iter().map(Dim::as_known).collect::<Option<Vec<i64>>>() else { return Ok(()) };
    for (a, (&n, all)) in sizes.iter().zip(x).enumerate().filter(|(a, _)| *a != axis) {
        let exceeds = all.as_known().is_some_and(|all| n > all) && !sizes.contains(&0);
        ensure!(!exceeds, "{n} updates along axis {a} of {all} elements");
    }
    Ok(())
}

/// Length of the coordinates that the indices' last axis holds, if constant.
fn coordinates(indices: &[Dim]) -> Result<Option<usize>, InferError> {
    let Some(last) = indices.last() else { return Err(InferError::new("indices must have rank 1 or more")) };
    Ok(last.as_known().and_then(|n| usize::try_from(n).ok()))
}

fn gather_nd(batch: usize, cx: &InferCx<'_>) -> Result<Shape, InferError> {
    let Some(indices) = cx.dims(1)? else { return Ok(Shape::unranked()) };
    ensure!(batch < indices.len(), "{batch} batch axes of indices of rank {}", indices.len());
    let (Some(x), Some(depth)) = (cx.dims(0)?, coordinates(indices)?) else { return Ok(Shape::unranked()) };
    ensure!(
        batch + depth <= x.len(),
        "coordinates of {depth} axes after {batch} batch axes, rank {}",
        x.len()
    );
    check_indices(cx, |at| x.get(batch + at % depth.max(1)))?;
    let mut dims = vec![];
    for (i, d) in indices.iter().take(indices.len() - 1).enumerate() {
        dims.push(match x.get(i).filter(|_| i < batch) {
            Some(b) => unify(d, b, "sizes of a batch axis")?,
            None => d.clone(),
        });
    }
    dims.extend(x.iter().skip(batch + depth).cloned());
    Ok(Shape::new(dims))
}

fn check_scatter(mode: ScatterMode, cx: &InferCx<'_>) -> Result<(), InferError> {
    cx.expect_count(3)?;
    let dtype = cx.tensor(0)?.dtype;
    cx.expect_dtype(2, dtype)?;
    let combines = match mode {
        ScatterMode::Assign => true,
        // On bool, addition and maximum are "or", multiplication and minimum are "and".
        ScatterMode::Add | ScatterMode::Mul | ScatterMode::Min | ScatterMode::Max => {
            !matches!(dtype.class(), DClass::Text | DClass::Complex) || dtype == DType::Bool
        }
    };
    ensure!(combines, "a scatter that combines does not take {dtype}");
    Ok(())
}

fn check_scatter_nd(cx: &InferCx<'_>) -> Result<(), InferError> {
    let (Some(x), Some(indices), Some(updates)) = (cx.dims(0)?, cx.dims(1)?, cx.dims(2)?) else {
        return Ok(());
    };
    let Some(depth) = coordinates(indices)? else { return Ok(()) };
    ensure!(depth <= x.len(), "coordinates of {depth} axes, rank {}", x.len());
    let expected: Vec<&Dim> = indices.iter().take(indices.len() - 1).chain(x.iter().skip(depth)).collect();
    ensure!(expected.len() == updates.len(), "updates must have rank {}", expected.len());
    for (a, b) in expected.into_iter().zip(updates) {
        unify(a, b, "sizes of updates and what they replace")?;
    }
    Ok(())
}
