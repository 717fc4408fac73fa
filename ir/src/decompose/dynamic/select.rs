//! Slices and padding that show at run time: a gather along every axis.

use super::{any, bind, count, counted, dims, int, iota, node, refuse, size};
use crate::infer::InferError;
use crate::op::{Index, PadMode, ReduceKind, Source};
use crate::{Build, DType, Dim, Value};

/// Values for some axes as a vector of all `rank` of them, with `otherwise` for the others.
fn spread(
    b: &mut dyn Build,
    axes: Value,
    values: Value,
    rank: usize,
    otherwise: Value,
) -> Result<Value, InferError> {
    let given = count(b, axes)?;
    let all = iota(b, rank)?;
    let all = b.reshape(all, &[size(rank), Dim::known(1)])?;
    let axes = b.reshape(axes, &[Dim::known(1), size(given)])?;
    let here = b.ew("eq", &[all, axes])?;
    let zero = int(b, 0)?;
    let found = b.ew("where", &[here, values, zero])?;
    let found = b.reduce(ReduceKind::Sum, found, &[1], false)?;
    let here = b.cast(here, DType::I64)?;
    let here = b.reduce(ReduceKind::Max, here, &[1], false)?;
    let here = b.ew("gt", &[here, zero])?;
    b.ew("where", &[here, found, otherwise])
}

/// Whether axes name one twice, or one that there is not.
fn misnamed(b: &mut dyn Build, axes: Value, rank: usize) -> Result<Value, InferError> {
    let given = count(b, axes)?;
    super::reduce::mentions(b, axes, &size(given), rank).map(|(_, bad)| bad)
}

/// The positions of an axis of size `len`, from element `at` of a vector of starts in steps of that of a vector of steps.
fn positions(
    b: &mut dyn Build,
    len: &Dim,
    at: usize,
    starts: Value,
    steps: Option<Value>,
) -> Result<Value, InferError> {
    let one = |b: &mut dyn Build, v: Value| b.slice_axis(v, 0, size(at), Dim::known(1));
    let mut i = node(b, Source::Iota { len: len.clone(), dtype: DType::I64 }, &[])?;
    if let Some(steps) = steps {
        let step = one(b, steps)?;
        i = b.ew("mul", &[i, step])?;
    }
    let start = one(b, starts)?;
    b.ew("add", &[i, start])
}

/// As ONNX Slice.
pub(super) fn slice(
    b: &mut dyn Build,
    x: Value,
    [starts, ends, axes, steps]: [Value; 4],
    to: &[Dim],
) -> Result<Value, InferError> {
    let from = dims(b, x)?;
    let rank = from.len();
    if rank == 0 || count(b, axes)? == 0 || rank != to.len() {
        return refuse("a slice of nothing");
    }
    let (zero, one, far) = (int(b, 0)?, int(b, 1)?, int(b, i64::MAX)?);
    let lengths = b.dims(&from)?;
    let bad = misnamed(b, axes, rank)?;
    let axes = counted(b, axes, rank)?;
    let steps = spread(b, axes, steps, rank, one)?;
    let starts = spread(b, axes, starts, rank, zero)?;
    let ends = spread(b, axes, ends, rank, far)?;
    let still = b.ew("eq", &[steps, zero])?;
    let still = any(b, still)?;
    let bad = b.ew("or", &[bad, still])?;
    let back = b.ew("lt", &[steps, zero])?;
    let last = b.ew("sub", &[lengths, one])?;
    let top = b.ew("where", &[back, last, lengths])?;
    // Where the end goes when a slice runs back past the first element.
    let minus = int(b, -1)?;
    let low = b.ew("where", &[back, minus, zero])?;
    let clamped = |b: &mut dyn Build, v: Value, low: Value| {
        let negative = b.ew("lt", &[v, zero])?;
        let from_end = b.ew("add", &[v, lengths])?;
        let v = b.ew("where", &[negative, from_end, v])?;
        let v = b.ew("max", &[v, low])?;
        b.ew("min", &[v, top])
    };
    let (starts, ends) = (clamped(b, starts, zero)?, clamped(b, ends, low)?);
    let (ahead, behind) = (b.ew("sub", &[ends, starts])?, b.ew("sub", &[starts, ends])?);
    let span = b.ew("where", &[back, behind, ahead])?;
    let span = b.ew("max", &[span, zero])?;
    let stride = b.ew("abs", &[steps])?;
    // Rounded up, without a sum that a long stride would wrap.
    let before_last = b.ew("sub", &[span, one])?;
    let whole = b.ew("div", &[before_last, stride])?;
    let rounded = b.ew("add", &[whole, one])?;
    let some = b.ew("gt", &[span, zero])?;
    let sizes = b.ew("where", &[some, rounded, zero])?;
    // The smallest number has no magnitude.
    let endless = b.ew("lt", &[stride, zero])?;
    let endless = any(b, endless)?;
    let bad = b.ew("or", &[bad, endless])?;
    bind(b, sizes, Some(bad), to.to_vec())?;
    let mut value = x;
    for (axis, len) in to.iter().enumerate() {
        let at = positions(b, len, axis, starts, Some(steps))?;
        value = node(b, Index::Gather { axis }, &[value, at])?;
    }
    Ok(value)
}

/// Most elements that padding adds or cuts at one end.
const MOST_PAD: i64 = 1 << 60;

/// Padding; what is cut has pads below 0.
pub(super) fn pad(
    b: &mut dyn Build,
    mode: PadMode,
    [x, pads, value, axes]: [Value; 4],
    to: &[Dim],
) -> Result<Value, InferError> {
    let from = dims(b, x)?;
    let (rank, given) = (from.len(), count(b, axes)?);
    let nothing = from.iter().any(|d| d.as_known().is_none_or(|n| n < 1));
    if rank == 0 || given == 0 || rank != to.len() || count(b, pads)? != 2 * given || nothing {
        return refuse("padding of nothing");
    }
    let zero = int(b, 0)?;
    let lengths = b.dims(&from)?;
    let bad = misnamed(b, axes, rank)?;
    let axes = counted(b, axes, rank)?;
    let part = |b: &mut dyn Build, at: usize| {
        let half = b.slice_axis(pads, 0, size(at * given), size(given))?;
        spread(b, axes, half, rank, zero)
    };
    let (before, after) = (part(b, 0)?, part(b, 1)?);
    // Sums of those within do not wrap.
    let (low, high) = (int(b, -MOST_PAD)?, int(b, MOST_PAD)?);
    let (below, above) = (b.ew("lt", &[pads, low])?, b.ew("gt", &[pads, high])?);
    let beyond = b.ew("or", &[below, above])?;
    let beyond = any(b, beyond)?;
    let bad = b.ew("or", &[bad, beyond])?;
    let sizes = b.ew("add", &[lengths, before])?;
    let sizes = b.ew("add", &[sizes, after])?;
    bind(b, sizes, Some(bad), to.to_vec())?;
    let starts = b.ew("neg", &[before])?;
    let (mut result, mut inside) = (x, None);
    for (axis, (len, n)) in to.iter().zip(&from).enumerate() {
        let at = positions(b, len, axis, starts, None)?;
        let n = n.as_known().unwrap_or(1);
        let (count, last) = (int(b, n)?, int(b, n - 1)?);
        let source = match mode {
            PadMode::Constant | PadMode::Edge => {
                let above = b.ew("max", &[at, zero])?;
                b.ew("min", &[above, last])?
            }
            PadMode::Wrap => b.ew("mod", &[at, count])?,
            PadMode::Reflect if n == 1 => b.ew("mul", &[at, zero])?,
            PadMode::Reflect => {
                let period = int(b, 2 * (n - 1))?;
                let phase = b.ew("mod", &[at, period])?;
                let back = b.ew("sub", &[period, phase])?;
                b.ew("min", &[phase, back])?
            }
        };
        result = node(b, Index::Gather { axis }, &[result, source])?;
        if mode == PadMode::Constant {
            let hit = b.ew("eq", &[at, source])?;
            let mut column = vec![Dim::known(1); rank];
            column[axis] = len.clone();
            let hit = b.reshape(hit, &column)?;
            inside = Some(match inside {
                Some(others) => b.ew("and", &[others, hit])?,
                None => hit,
            });
        }
    }
    match inside {
        Some(inside) => b.ew("where", &[inside, result, value]),
        None => Ok(result),
    }
}
