//! Sources and movements.

use super::{
    InferCx, InferError, Inferred, Results, check_axis, check_sizes, ensure, size, unify, unknown_dims,
};
use crate::op::{Movement, Source};
use crate::{DClass, DType, Dim, Shape, Type};

pub(super) fn infer_source(s: &Source, cx: &InferCx<'_>) -> Results {
    cx.expect_count(0)?;
    Ok(vec![match s {
        Source::Constant { value } => Inferred::new(Type::Tensor(value.ty())),
        Source::Iota { len, dtype } => {
            check_sizes(std::slice::from_ref(len), "the length")?;
            let number = !matches!(dtype.class(), DClass::Text | DClass::Complex | DClass::Bool);
            ensure!(number, "iota does not give {dtype}");
            Inferred::tensor(*dtype, Shape::new(vec![len.clone()]))
        }
        Source::Dims { dims } => {
            ensure!(dims.iter().all(|d| !d.is_unknown()), "an unknown dim has no value");
            Inferred::tensor(DType::I64, Shape::fixed(&[dims.len() as i64]))
        }
    }])
}

pub(super) fn infer(m: &Movement, cx: &InferCx<'_>) -> Results {
    let dtype = cx.tensor(0)?.dtype;
    let shape = match m {
        Movement::Concat { axis } => concat(*axis, cx)?,
        Movement::Pad { mode: _, before, after } => {
            cx.expect_count(2)?;
            cx.expect_dtype(1, dtype)?;
            cx.dims_of_rank(1, 0)?;
            padded(cx.dims(0)?, before, after)?
        }
        Movement::Reshape { shape } => {
            cx.expect_count(1)?;
            check_sizes(shape, "the shape")?;
            let shape = Shape::new(shape.clone());
            let (old, new) = (cx.tensor(0)?.shape.numel(), shape.numel());
            ensure!(
                shape.as_fixed().is_none() || !new.is_unknown(),
                "{shape} has more elements than can be counted"
            );
            unify(&old, &new, "numbers of elements")?;
            shape
        }
        Movement::Transpose { perm } => {
            cx.expect_count(1)?;
            transposed(cx.dims(0)?, perm)?
        }
        Movement::Broadcast { shape } => {
            cx.expect_count(1)?;
            check_sizes(shape, "the shape")?;
            check_broadcast(cx.dims(0)?, shape)?;
            Shape::new(shape.clone())
        }
        Movement::Slice { starts, sizes, steps } => {
            cx.expect_count(1)?;
            check_slice(cx.dims(0)?, starts, sizes, steps)?;
            Shape::new(sizes.clone())
        }
    };
    Ok(vec![Inferred::tensor(dtype, shape)])
}

fn concat(axis: usize, cx: &InferCx<'_>) -> Result<Shape, InferError> {
    let dtype = cx.tensor(0)?.dtype;
    let mut joined: Option<Vec<Dim>> = None;
    let mut total = Dim::known(0);
    for i in 0..cx.operands.len() {
        cx.expect_dtype(i, dtype)?;
        let Some(dims) = cx.dims(i)? else {
            total = Dim::unknown();
            continue;
        };
        check_axis(axis, dims.len())?;
        total = total + dims.get(axis).cloned().unwrap_or_else(Dim::unknown);
        let Some(seen) = &mut joined else {
            joined = Some(dims.to_vec());
            continue;
        };
        ensure!(seen.len() == dims.len(), "ranks {} and {} differ", seen.len(), dims.len());
        for (a, (old, new)) in seen.iter_mut().zip(dims).enumerate() {
            if a != axis {
                *old = unify(old, new, &format!("sizes of axis {a}"))?;
            }
        }
    }
    let Some(mut dims) = joined else { return Ok(Shape::unranked()) };
    if let Some(d) = dims.get_mut(axis) {
        *d = total;
    }
    Ok(Shape::new(dims))
}

fn padded(dims: Option<&[Dim]>, before: &[Dim], after: &[Dim]) -> Result<Shape, InferError> {
    ensure!(before.len() == after.len(), "{} and {} pads", before.len(), after.len());
    ensure!(before.iter().chain(after).all(|d| !d.is_unknown()), "an unknown padding");
    let Some(dims) = dims else { return Ok(unknown_dims(before.len())) };
    ensure!(dims.len() == before.len(), "{} pads of a tensor of rank {}", before.len(), dims.len());
    let sizes = dims.iter().zip(before).zip(after).map(|((d, b), a)| size(d + b + a, "a padded size"));
    Ok(Shape::new(sizes.collect::<Result<Vec<_>, _>>()?))
}

fn transposed(dims: Option<&[Dim]>, perm: &[usize]) -> Result<Shape, InferError> {
    let mut sorted = perm.to_vec();
    sorted.sort_unstable();
    ensure!(sorted.iter().enumerate().all(|(i, &p)| i == p), "{perm:?} is not a permutation");
    let Some(dims) = dims else { return Ok(unknown_dims(perm.len())) };
    ensure!(dims.len() == perm.len(), "a permutation of {} axes, rank {}", perm.len(), dims.len());
    Ok(Shape::new(perm.iter().filter_map(|&p| dims.get(p).cloned()).collect::<Vec<_>>()))
}

/// Checks that `dims` can broadcast to `shape`.
pub(crate) fn check_broadcast(dims: Option<&[Dim]>, shape: &[Dim]) -> Result<(), InferError> {
    let Some(dims) = dims else { return Ok(()) };
    let Some(offset) = shape.len().checked_sub(dims.len()) else {
        return Err(InferError::new(format!(
            "rank {} is more than the result's {}",
            dims.len(),
            shape.len()
        )));
    };
    for (d, to) in dims.iter().zip(shape.iter().skip(offset)) {
        if d.as_known() != Some(1) {
            unify(d, to, "a size and what it broadcasts to")?;
        }
    }
    Ok(())
}

fn check_slice(dims: Option<&[Dim]>, starts: &[Dim], sizes: &[Dim], steps: &[i64]) -> Result<(), InferError> {
    let rank = starts.len();
    ensure!(sizes.len() == rank && steps.len() == rank, "starts, sizes and steps differ in number");
    ensure!(starts.iter().all(|d| !d.is_unknown()), "an unknown start");
    check_sizes(sizes, "the slice")?;
    let Some(dims) = dims else { return Ok(()) };
    ensure!(dims.len() == rank, "a slice of {rank} axes of a tensor of rank {}", dims.len());
    for (((d, start), count), &step) in dims.iter().zip(starts).zip(sizes).zip(steps) {
        ensure!(step != 0, "a step of 0");
        if count.as_known() == Some(0) {
            continue;
        }
        let last = start + Dim::known(step) * (count - Dim::known(1));
        for at in [start, &last] {
            let below = at.as_known().is_some_and(|v| v < 0);
            let beyond = (at - d).as_known().is_some_and(|v| v >= 0) && count.as_known().is_some();
            ensure!(!below && !beyond, "element {at} of an axis of size {d}");
        }
    }
    Ok(())
}
