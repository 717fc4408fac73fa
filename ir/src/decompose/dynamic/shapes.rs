//! Moves whose shapes show at run time.

use super::reduce::{compacted, mentions};
use super::{any, bind, choose, count, dims, fresh, int, ints, iota, node, refuse, size, total};
use crate::infer::InferError;
use crate::infer::dynamic::normal_axis;
use crate::op::{Movement, ReduceKind, Source};
use crate::{Build, DType, Dim, Value};

/// 0 copies a size, unless it is one; -1 takes what is left.
pub(super) fn reshape(
    b: &mut dyn Build,
    x: Value,
    shape: Value,
    allow_zero: bool,
    to: &[Dim],
) -> Result<Value, InferError> {
    let from = dims(b, x)?;
    let given: Vec<Dim> = (0..to.len()).map(|i| from.get(i).cloned().unwrap_or(Dim::known(-1))).collect();
    let (minus, zero, one) = (int(b, -1)?, int(b, 0)?, int(b, 1)?);
    let open = b.ew("eq", &[shape, minus])?;
    let mut sizes = shape;
    if !allow_zero {
        let given = b.dims(&given)?;
        let copied = b.ew("eq", &[shape, zero])?;
        sizes = b.ew("where", &[copied, given, shape])?;
    }
    let others = b.ew("where", &[open, one, sizes])?;
    let others = total(b, ReduceKind::Prod, others)?;
    let all = from.iter().fold(Dim::known(1), |n, d| n * d);
    if all.is_unknown() {
        return refuse("an unknown number of elements");
    }
    let all = b.dims(&[all])?;
    let rest = b.ew("div", &[all, others])?;
    let sizes = b.ew("where", &[open, rest, sizes])?;
    let open = b.cast(open, DType::I64)?;
    let open = total(b, ReduceKind::Sum, open)?;
    let bad = b.ew("gt", &[open, one])?;
    bind(b, sizes, Some(bad), to.to_vec())?;
    b.reshape(x, to)
}

/// A vector with ones before it, `rank` elements in all.
fn aligned(b: &mut dyn Build, v: Value, rank: usize) -> Result<Value, InferError> {
    let before = rank.checked_sub(count(b, v)?).ok_or_else(|| InferError::new("a rank that shrinks"))?;
    let ones = ints(b, &vec![1; before])?;
    if before == 0 { Ok(v) } else { b.concat(&[ones, v], 0) }
}

pub(super) fn expand(b: &mut dyn Build, x: Value, shape: Value, to: &[Dim]) -> Result<Value, InferError> {
    let own = b.dims(&dims(b, x)?)?;
    let (own, wanted) = (aligned(b, own, to.len())?, aligned(b, shape, to.len())?);
    let one = int(b, 1)?;
    let grows = b.ew("eq", &[own, one])?;
    let sizes = b.ew("where", &[grows, wanted, own])?;
    let (given, differs) = (b.ew("ne", &[wanted, one])?, b.ew("ne", &[wanted, sizes])?);
    let bad = b.ew("and", &[given, differs])?;
    let bad = any(b, bad)?;
    bind(b, sizes, Some(bad), to.to_vec())?;
    node(b, Movement::Broadcast { shape: to.to_vec() }, &[x])
}

/// An axis more before each, along which it repeats; both become one.
pub(super) fn tile(b: &mut dyn Build, x: Value, repeats: Value, to: &[Dim]) -> Result<Value, InferError> {
    let from = dims(b, x)?;
    let lengths = b.dims(&from)?;
    let results = b.ew("mul", &[lengths, repeats])?;
    let sizes = b.concat(&[repeats, results], 0)?;
    let times = fresh(b, from.len());
    bind(b, sizes, None, [times.as_slice(), to].concat())?;
    let split: Vec<Dim> = from.iter().flat_map(|d| [Dim::known(1), d.clone()]).collect();
    let wide: Vec<Dim> = times.iter().zip(&from).flat_map(|(t, d)| [t.clone(), d.clone()]).collect();
    let x = b.reshape(x, &split)?;
    let x = b.broadcast(x, &wide)?;
    b.reshape(x, to)
}

pub(super) fn squeeze(b: &mut dyn Build, x: Value, axes: Value, to: &[Dim]) -> Result<Value, InferError> {
    let (from, given) = (dims(b, x)?, count(b, axes)?);
    if given == 0 || to.len() + given != from.len() {
        return refuse("axes that show by their sizes");
    }
    let lengths = b.dims(&from)?;
    let (gone, bad) = mentions(b, axes, &size(given), from.len())?;
    let stays = b.ew("not", &[gone])?;
    let one = int(b, 1)?;
    let long = b.ew("ne", &[lengths, one])?;
    let lost = b.ew("and", &[gone, long])?;
    let lost = any(b, lost)?;
    let bad = b.ew("or", &[bad, lost])?;
    let sizes = compacted(b, stays, lengths, from.len(), to.len())?;
    bind(b, sizes, Some(bad), to.to_vec())?;
    b.reshape(x, to)
}

pub(super) fn unsqueeze(b: &mut dyn Build, x: Value, axes: Value, to: &[Dim]) -> Result<Value, InferError> {
    let (from, given, rank) = (dims(b, x)?, count(b, axes)?, to.len());
    if rank != from.len() + given || from.is_empty() {
        return refuse("another rank");
    }
    let lengths = b.dims(&from)?;
    let (new, bad) = mentions(b, axes, &size(given), rank)?;
    // Which of the operand's sizes stands at each place: as many as there are before it.
    let old = b.ew("not", &[new])?;
    let old = b.cast(old, DType::I64)?;
    let below: Vec<i64> = (0..rank * rank).map(|i| i64::from(i % rank < i / rank)).collect();
    let below = ints(b, &below)?;
    let below = b.reshape(below, &[size(rank), size(rank)])?;
    let before = b.ew("mul", &[below, old])?;
    let place = b.reduce(ReduceKind::Sum, before, &[1], false)?;
    let place = b.reshape(place, &[size(rank), Dim::known(1)])?;
    let all = iota(b, from.len())?;
    let here = b.ew("eq", &[all, place])?;
    let zero = int(b, 0)?;
    let sizes = b.ew("where", &[here, lengths, zero])?;
    let sizes = b.reduce(ReduceKind::Sum, sizes, &[1], false)?;
    let sizes = choose(b, new, 1, sizes)?;
    bind(b, sizes, Some(bad), to.to_vec())?;
    b.reshape(x, to)
}

/// Pieces along an axis.
pub(super) fn split(
    b: &mut dyn Build,
    x: Value,
    sizes: Value,
    axis: i64,
    to: &[Vec<Dim>],
) -> Result<Vec<Value>, InferError> {
    let from = dims(b, x)?;
    let axis = normal_axis(axis, from.len())?;
    if count(b, sizes)? != to.len() {
        return refuse("another number of pieces");
    }
    let length = b.dims(&from[axis..=axis])?;
    let sum = total(b, ReduceKind::Sum, sizes)?;
    let bad = b.ew("ne", &[sum, length])?;
    // Pieces no longer than all do not wrap their sum.
    let too_long = b.ew("gt", &[sizes, length])?;
    let too_long = super::any(b, too_long)?;
    let bad = b.ew("or", &[bad, too_long])?;
    let pieces: Option<Vec<Dim>> = to.iter().map(|d| d.get(axis).cloned()).collect();
    let pieces = pieces.ok_or_else(|| InferError::new("another rank"))?;
    bind(b, sizes, Some(bad), pieces.clone())?;
    let mut start = Dim::known(0);
    let mut results = vec![];
    for piece in pieces {
        let end = &start + &piece;
        results.push(b.slice_axis(x, axis, start, piece)?);
        start = end;
    }
    Ok(results)
}

/// `start + i * delta` for every `i` below the number of steps to `limit`.
pub(super) fn range(b: &mut dyn Build, bounds: [Value; 3], to: &[Dim]) -> Result<Value, InferError> {
    let [len] = to else { return refuse("a range has rank 1") };
    let dtype = b.dtype(bounds[0])?;
    let wide = if dtype.is_float() { DType::F64 } else { DType::I64 };
    let mut number = |v: Value| {
        let v = b.cast(v, wide)?;
        b.reshape(v, &[Dim::known(1)])
    };
    let [start, limit, delta] = [number(bounds[0])?, number(bounds[1])?, number(bounds[2])?];
    let zero = b.scalar(wide, 0.0)?;
    let span = b.ew("sub", &[limit, start])?;
    let steps = if dtype.is_float() {
        let ratio = b.ew("div", &[span, delta])?;
        b.ew("ceil", &[ratio])?
    } else {
        let whole = b.ew("div", &[span, delta])?;
        let covered = b.ew("mul", &[whole, delta])?;
        let partly = b.ew("ne", &[covered, span])?;
        let partly = b.cast(partly, wide)?;
        // A quotient below 0 is rounded up already.
        let (up, down) = (b.ew("lt", &[span, zero])?, b.ew("lt", &[delta, zero])?);
        let forward = b.ew("eq", &[up, down])?;
        let more = b.ew("where", &[forward, partly, zero])?;
        b.ew("add", &[whole, more])?
    };
    let steps = b.ew("max", &[steps, zero])?;
    let mut bad = b.ew("eq", &[delta, zero])?;
    if !dtype.is_float() {
        // Bounds may be farther apart than the largest number.
        let (ahead, positive) = (b.ew("lt", &[start, limit])?, b.ew("gt", &[span, zero])?);
        let too_far = b.ew("ne", &[ahead, positive])?;
        bad = b.ew("or", &[bad, too_far])?;
    }
    let steps = b.cast(steps, DType::I64)?;
    bind(b, steps, Some(bad), vec![len.clone()])?;
    let i = node(b, Source::Iota { len: len.clone(), dtype: wide }, &[])?;
    let moved = b.ew("mul", &[i, delta])?;
    let values = b.ew("add", &[start, moved])?;
    b.cast(values, dtype)
}
