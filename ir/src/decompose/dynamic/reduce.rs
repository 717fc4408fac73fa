//! Reductions over axes that show at run time, and operators along one.

use super::{bind, choose, counted, dims, fresh, int, ints, iota, node, refuse, size, total};
use crate::infer::InferError;
use crate::op::{Order, ReduceKind};
use crate::{Build, DType, Dim, Value};

/// A reduction but for its axes.
pub(super) struct Reduction {
    /// What it computes.
    pub kind: ReduceKind,
    /// Whether axes that go stay with size 1.
    pub keepdims: bool,
    /// Whether no axes mean none rather than all.
    pub noop: bool,
}

/// Every axis becomes two: what of it is kept, and what goes. One of them has the axis' size, the other is 1.
pub(super) fn reduce(
    b: &mut dyn Build,
    reduction: &Reduction,
    x: Value,
    axes: Value,
    to: &[Dim],
) -> Result<Value, InferError> {
    let (shape, rank) = (dims(b, x)?, b.rank(x)?);
    let count = b.shape(axes)?.first().cloned().ok_or_else(|| InferError::new("axes of rank 0"))?;
    if rank == 0 || to.len() > rank {
        return refuse("a reduction of nothing");
    }
    let lengths = b.dims(&shape)?;
    let (mut gone, bad) = mentions(b, axes, &count, rank)?;
    if !reduction.noop && count.as_known().is_none_or(|n| n == 0) {
        let zero = int(b, 0)?;
        let given = b.dims(&[count])?;
        let none = b.ew("eq", &[given, zero])?;
        gone = b.ew("or", &[gone, none])?;
    }
    let kept = choose(b, gone, 1, lengths)?;
    let one = int(b, 1)?;
    let reduced = b.ew("where", &[gone, lengths, one])?;
    let (mut outer, inner) = (fresh(b, rank), fresh(b, rank));
    let mut sizes = vec![kept, reduced];
    let mut names = vec![];
    if reduction.keepdims {
        outer = to.to_vec();
    } else {
        let stays = b.ew("not", &[gone])?;
        sizes.push(compacted(b, stays, lengths, rank, to.len())?);
        names = to.to_vec();
    }
    let sizes = b.concat(&sizes, 0)?;
    bind(b, sizes, Some(bad), [outer.clone(), inner.clone(), names].concat())?;
    let split: Vec<Dim> = outer.iter().zip(&inner).flat_map(|(o, i)| [o.clone(), i.clone()]).collect();
    let x = b.reshape(x, &split)?;
    let axes: Vec<usize> = (0..rank).map(|a| 2 * a + 1).collect();
    let sum = b.reduce(reduction.kind, x, &axes, false)?;
    b.reshape(sum, to)
}

/// For each of `rank` axes whether a vector of axes names it, and whether the vector names any twice or one that there
/// is not.
pub(super) fn mentions(
    b: &mut dyn Build,
    axes: Value,
    count: &Dim,
    rank: usize,
) -> Result<(Value, Value), InferError> {
    let axes = counted(b, axes, rank)?;
    let axes = b.reshape(axes, &[Dim::known(1), count.clone()])?;
    let all = iota(b, rank)?;
    let all = b.reshape(all, &[size(rank), Dim::known(1)])?;
    let hits = b.ew("eq", &[all, axes])?;
    let hits = b.cast(hits, DType::I64)?;
    let hits = b.reduce(ReduceKind::Sum, hits, &[1], false)?;
    let one = int(b, 1)?;
    let most = total(b, ReduceKind::Max, hits)?;
    let repeated = b.ew("gt", &[most, one])?;
    let found = total(b, ReduceKind::Sum, hits)?;
    let given = b.dims(std::slice::from_ref(count))?;
    let missing = b.ew("ne", &[found, given])?;
    let bad = b.ew("or", &[repeated, missing])?;
    let zero = int(b, 0)?;
    Ok((b.ew("gt", &[hits, zero])?, bad))
}

/// The `count` elements of a vector of `rank` that stay, in their order.
pub(super) fn compacted(
    b: &mut dyn Build,
    stays: Value,
    values: Value,
    rank: usize,
    count: usize,
) -> Result<Value, InferError> {
    let stays = b.cast(stays, DType::I64)?;
    let values = b.ew("mul", &[values, stays])?;
    // Which place an element that stays takes: as many as stay before it.
    let below: Vec<i64> = (0..rank * rank).map(|i| i64::from(i % rank < i / rank)).collect();
    let below = ints(b, &below)?;
    let below = b.reshape(below, &[size(rank), size(rank)])?;
    let before = b.ew("mul", &[below, stays])?;
    let place = b.reduce(ReduceKind::Sum, before, &[1], false)?;
    let wanted = iota(b, count)?;
    let wanted = b.reshape(wanted, &[size(count), Dim::known(1)])?;
    let here = b.ew("eq", &[wanted, place])?;
    let zero = int(b, 0)?;
    let here = b.ew("where", &[here, values, zero])?;
    b.reduce(ReduceKind::Sum, here, &[1], false)
}

/// An operator along axis 1 of three, on the axis that a value says: what is before it and after it are one axis each.
pub(super) fn along_axis(b: &mut dyn Build, x: Value, axis: Value, op: Order) -> Result<Value, InferError> {
    let (shape, rank) = (dims(b, x)?, b.rank(x)?);
    let lengths = b.dims(&shape)?;
    let axis = b.cast(axis, DType::I64)?;
    let axis = b.reshape(axis, &[Dim::known(1)])?;
    let axis = counted(b, axis, rank)?;
    let all = iota(b, rank)?;
    let one = int(b, 1)?;
    let part = |b: &mut dyn Build, relation: &str| {
        let inside = b.ew(relation, &[all, axis])?;
        let sizes = b.ew("where", &[inside, lengths, one])?;
        total(b, ReduceKind::Prod, sizes)
    };
    let sizes = [part(b, "lt")?, part(b, "eq")?, part(b, "gt")?];
    let sizes = b.concat(&sizes, 0)?;
    let (zero, rank) = (int(b, 0)?, int(b, i64::try_from(rank).unwrap_or(i64::MAX))?);
    let below = b.ew("lt", &[axis, zero])?;
    let above = b.ew("ge", &[axis, rank])?;
    let bad = b.ew("or", &[below, above])?;
    let parts = fresh(b, 3);
    bind(b, sizes, Some(bad), parts.clone())?;
    let parts = b.reshape(x, &parts)?;
    let y = node(b, op, &[parts])?;
    b.reshape(y, &shape)
}
