//! Operators whose result shape depends on operands' data. The shape arithmetic here also serves the builder, which
//! picks the static operator where it gives definite dims ([`crate::build::dynamic`]).

use super::elementwise::broadcast_shapes;
use super::movement::check_broadcast;
use super::sums::{check_reduce_dtype, reduced};
use super::{
    InferCx, InferError, Inferred, MAX_RANK, Results, check_axis, ensure, size, unify, unknown_dims,
};
use crate::op::Dynamic;
use crate::{DClass, DType, Dim, Scalar, Shape, Tensor, TensorType, Type};

pub(super) fn infer(op: &Dynamic, cx: &InferCx<'_>) -> Results {
    let one = |shape: Shape| Ok(vec![Inferred::tensor(cx.tensor(0)?.dtype, shape)]);
    match op {
        Dynamic::Reshape { allow_zero } => one(reshape(*allow_zero, cx)?),
        Dynamic::Expand {} => one(expand(cx)?),
        Dynamic::Slice {} => one(slice(cx)?),
        Dynamic::Pad { mode: _ } => one(pad(cx)?),
        Dynamic::Tile {} => one(tile(cx)?),
        Dynamic::Range {} => one(Shape::new(vec![range(cx)?])),
        Dynamic::Fill {} => {
            cx.expect_count(2)?;
            cx.dims_of_rank(1, 0)?;
            let shape = shape_operand(0, cx)?;
            Ok(vec![Inferred::tensor(cx.tensor(1)?.dtype, shape)])
        }
        Dynamic::Squeeze {} => one(squeeze(cx)?),
        Dynamic::Unsqueeze {} => one(unsqueeze(cx)?),
        Dynamic::Shape { start, end } => {
            cx.expect_count(1)?;
            let len = match cx.tensor(0)?.shape.rank() {
                Some(rank) => Dim::known(shape_range(rank, *start, *end).len() as i64),
                None => Dim::unknown(),
            };
            Ok(vec![Inferred::tensor(DType::I64, Shape::new(vec![len]))])
        }
        Dynamic::Size {} => {
            cx.expect_count(1)?;
            cx.tensor(0)?;
            Ok(vec![Inferred::tensor(DType::I64, Shape::fixed(&[]))])
        }
        Dynamic::Reduce { kind, keepdims, noop } => {
            cx.expect_count(2)?;
            check_reduce_dtype(*kind, cx.tensor(0)?.dtype)?;
            one(reduce(*keepdims, *noop, cx)?)
        }
        Dynamic::Split { axis } => split(*axis, cx),
        Dynamic::Resize { axes, keep_aspect, .. } => one(resize(axes, keep_aspect, cx)?.0),
        Dynamic::OneHot { axis } => one_hot(*axis, cx),
        Dynamic::Concat { axis } => one(concat(*axis, cx)?),
        Dynamic::ReverseAxes {} => {
            cx.expect_count(1)?;
            one(match cx.dims(0)? {
                Some(dims) => Shape::new(dims.iter().rev().cloned().collect::<Vec<_>>()),
                None => Shape::unranked(),
            })
        }
        Dynamic::Cumulative { kind: _, exclusive: _, reverse: _ } => {
            cx.expect_count(2)?;
            let (x, axis) = (cx.tensor(0)?, cx.tensor(1)?);
            let number = matches!(x.dtype.class(), DClass::Signed | DClass::Unsigned | DClass::Float);
            ensure!(number, "a running combination does not take {}", x.dtype);
            ensure!(axis.dtype.is_int(), "the axis must be an integer, found {axis}");
            if let (Some([axis]), Some(rank)) = (cx.known_ints(1).as_deref(), x.shape.rank()) {
                normal_axis(*axis, rank)?;
            }
            one(x.shape.clone())
        }
        Dynamic::Sizes { dims } => {
            cx.expect_count(1)?;
            let len = cx.int_vector(0)?;
            ensure!(len == Some(dims.len()), "{} dims for {}", dims.len(), cx.tensor(0)?);
            one(Shape::new(vec![Dim::known(i64::try_from(dims.len()).unwrap_or(i64::MAX))]))
        }
        Dynamic::Compress { axis } => one(compress(*axis, cx)?),
    }
}

/// An axis attribute, negative ones counted from the end.
pub(crate) fn normal_axis(axis: i64, rank: usize) -> Result<usize, InferError> {
    let rank_i = i64::try_from(rank).unwrap_or(i64::MAX);
    let normal = if axis < 0 { axis.saturating_add(rank_i) } else { axis };
    let index = usize::try_from(normal).ok().filter(|&a| a < rank);
    index.ok_or_else(|| InferError::new(format!("axis {axis} of a tensor of rank {rank}")))
}

/// Several axes, each once.
pub(crate) fn normal_axes(axes: &[i64], rank: usize) -> Result<Vec<usize>, InferError> {
    let mut normal = vec![];
    for &axis in axes {
        let a = normal_axis(axis, rank)?;
        ensure!(!normal.contains(&a), "axis {axis} stands twice");
        normal.push(a);
    }
    Ok(normal)
}

/// The shape whose dims are the elements of operand `i`, an i64 vector.
fn shape_operand(i: usize, cx: &InferCx<'_>) -> Result<Shape, InferError> {
    let len = cx.int_vector(i)?;
    if let Some(dims) = cx.known_dims(i) {
        ensure!(dims.len() <= MAX_RANK, "rank {}", dims.len());
        for d in &dims {
            size(d.clone(), "a size")?;
        }
        return Ok(Shape::new(dims));
    }
    unknown_of_len(len)
}

fn unknown_of_len(len: Option<usize>) -> Result<Shape, InferError> {
    match len {
        Some(len) => {
            ensure!(len <= MAX_RANK, "rank {len}");
            Ok(unknown_dims(len))
        }
        None => Ok(Shape::unranked()),
    }
}

fn reshape(allow_zero: bool, cx: &InferCx<'_>) -> Result<Shape, InferError> {
    cx.expect_count(2)?;
    let len = cx.int_vector(1)?;
    match cx.known_dims(1) {
        Some(shape) => Ok(Shape::new(reshaped(&cx.tensor(0)?.shape, &shape, allow_zero)?)),
        None => unknown_of_len(len),
    }
}

/// The dims of a reshape: 0 copies unless `allow_zero`, -1 is inferred.
pub(crate) fn reshaped(x: &Shape, shape: &[Dim], allow_zero: bool) -> Result<Vec<Dim>, InferError> {
    ensure!(shape.len() <= MAX_RANK, "rank {}", shape.len());
    let mut out = vec![];
    let mut inferred = None;
    for (i, d) in shape.iter().enumerate() {
        out.push(match d.as_known() {
            Some(0) if !allow_zero => match x.dims() {
                Some(dims) => dims.get(i).cloned().ok_or_else(|| {
                    InferError::new(format!("size {i} is to be copied from a tensor of rank {}", dims.len()))
                })?,
                None => Dim::unknown(),
            },
            Some(-1) => {
                ensure!(inferred.is_none(), "two sizes are -1");
                inferred = Some(i);
                Dim::known(1)
            }
            Some(v) if v < 0 => return Err(InferError::new(format!("size {v}"))),
            _ => d.clone(),
        });
    }
    match inferred {
        Some(at) => {
            let rest = quotient(x, &out)?;
            if let Some(d) = out.get_mut(at) {
                *d = rest;
            }
        }
        None => {
            unify(&x.numel(), &Shape::new(out.clone()).numel(), "numbers of elements")?;
        }
    }
    Ok(out)
}

/// The number of elements of `x` divided by the product of `divisors`. Equal dims cancel first, which keeps the
/// quotient a plain expression.
fn quotient(x: &Shape, divisors: &[Dim]) -> Result<Dim, InferError> {
    let Some(dims) = x.dims() else { return Ok(Dim::unknown()) };
    let mut numerator = dims.to_vec();
    let mut denominator = Dim::known(1);
    for d in divisors {
        match numerator.iter().position(|n| n == d && !d.is_unknown() && d.as_known() != Some(0)) {
            Some(at) => {
                numerator.swap_remove(at);
            }
            None => denominator = denominator * d,
        }
    }
    let total = Shape::new(numerator).numel();
    if denominator.as_known() == Some(0) {
        // Nothing determines the size; ONNX refuses this, other sources take 0.
        return Ok(Dim::known(0));
    }
    if let (Some(n), Some(d)) = (total.as_known(), denominator.as_known()) {
        ensure!(n.checked_rem(d) == Some(0), "{n} elements do not divide by {d}");
    }
    size(total.floor_div(&denominator), "the inferred size")
}

fn expand(cx: &InferCx<'_>) -> Result<Shape, InferError> {
    cx.expect_count(2)?;
    let target = shape_operand(1, cx)?;
    broadcast_shapes(&[&cx.tensor(0)?.shape, &target])
}

/// The operands' values of a slice, each an i64 vector.
pub(crate) struct SliceSpec {
    /// First elements.
    pub starts: Vec<Dim>,
    /// Ends, exclusive.
    pub ends: Vec<Dim>,
    /// Axes.
    pub axes: Vec<i64>,
    /// Steps.
    pub steps: Vec<i64>,
}

/// One axis of a slice.
#[derive(Clone)]
pub(crate) struct SliceAxis {
    /// First element; unknown where it has no expression.
    pub start: Dim,
    /// Number of elements; unknown where it has no expression.
    pub size: Dim,
    /// Step.
    pub step: i64,
}

/// Every axis of the slice of a tensor of dims `dims`.
pub(crate) fn slice_axes(dims: &[Dim], spec: &SliceSpec) -> Result<Vec<SliceAxis>, InferError> {
    let count = spec.axes.len();
    let equal = spec.starts.len() == count && spec.ends.len() == count && spec.steps.len() == count;
    ensure!(equal, "starts, ends, axes and steps differ in number");
    let whole = |d: &Dim| SliceAxis { start: Dim::known(0), size: d.clone(), step: 1 };
    let mut out: Vec<SliceAxis> = dims.iter().map(whole).collect();
    let axes = normal_axes(&spec.axes, dims.len())?;
    for (((&axis, start), end), &step) in axes.iter().zip(&spec.starts).zip(&spec.ends).zip(&spec.steps) {
        ensure!(step != 0 && step != i64::MIN, "a step of {step}");
        if let (Some(slot), Some(d)) = (out.get_mut(axis), dims.get(axis)) {
            *slot = slice_axis(d, start, end, step);
        }
    }
    Ok(out)
}

fn slice_axis(d: &Dim, start: &Dim, end: &Dim, step: i64) -> SliceAxis {
    let (zero, one) = (Dim::known(0), Dim::known(1));
    let last = d - &one;
    let (start, size) = if step > 0 {
        let (start, end) = (clamped(start, d, &zero, d), clamped(end, d, &zero, d));
        let size = (&end - &start).ceil_div(&Dim::known(step));
        (start, size)
    } else {
        let (start, end) = (clamped(start, d, &zero, &last), clamped(end, d, &Dim::known(-1), &last));
        let size = (&start - &end).ceil_div(&Dim::known(-step));
        (start, size)
    };
    SliceAxis { start, size: size.greater(&zero), step }
}

/// A start or end: negative ones count from the end, then it is brought into range. Unknown where its sign is.
fn clamped(v: &Dim, d: &Dim, low: &Dim, high: &Dim) -> Dim {
    let counted = match v.as_known() {
        Some(c) if c < 0 => {
            // The far ends of the integer range mean "as far as it goes".
            if c < -i64::from(i32::MAX) {
                return low.clone();
            }
            d + v
        }
        Some(c) if c >= i64::from(i32::MAX) => return high.clone(),
        Some(_) => v.clone(),
        None if v.is_non_negative() => v.clone(),
        None => return Dim::unknown(),
    };
    counted.greater(low).lesser(high)
}

fn slice(cx: &InferCx<'_>) -> Result<Shape, InferError> {
    cx.expect_count(5)?;
    for i in 1..5 {
        cx.int_vector(i)?;
    }
    let Some(dims) = cx.dims(0)? else { return Ok(Shape::unranked()) };
    let Some(axes) = cx.known_ints(3) else { return Ok(unknown_dims(dims.len())) };
    let sizes = match slice_spec(cx) {
        Some(spec) => slice_axes(dims, &spec)?.into_iter().map(|a| a.size).collect(),
        None => {
            let touched = normal_axes(&axes, dims.len())?;
            let keep = |(i, d): (usize, &Dim)| if touched.contains(&i) { Dim::unknown() } else { d.clone() };
            dims.iter().enumerate().map(keep).collect::<Vec<_>>()
        }
    };
    Ok(Shape::new(sizes))
}

/// A slice's operands, where enough of them is known.
pub(crate) fn slice_spec(cx: &InferCx<'_>) -> Option<SliceSpec> {
    let axes = cx.known_ints(3)?;
    let unknown = || vec![Dim::unknown(); axes.len()];
    Some(SliceSpec {
        starts: cx.known_dims(1).unwrap_or_else(unknown),
        ends: cx.known_dims(2).unwrap_or_else(unknown),
        steps: cx.known_ints(4)?,
        axes,
    })
}

fn pad(cx: &InferCx<'_>) -> Result<Shape, InferError> {
    cx.expect_count(4)?;
    cx.int_vector(1)?;
    cx.expect_dtype(2, cx.tensor(0)?.dtype)?;
    cx.dims_of_rank(2, 0)?;
    cx.int_vector(3)?;
    let Some(dims) = cx.dims(0)? else { return Ok(Shape::unranked()) };
    let (Some(pads), Some(axes)) = (cx.known_dims(1), cx.known_ints(3)) else {
        return Ok(unknown_dims(dims.len()));
    };
    let (before, after) = pad_axes(dims.len(), &pads, &axes)?;
    let sizes = dims.iter().zip(before).zip(after).map(|((d, b), a)| size(d + b + a, "a padded size"));
    Ok(Shape::new(sizes.collect::<Result<Vec<_>, _>>()?))
}

/// Padding before and after every axis, from begins then ends of `axes`.
pub(crate) fn pad_axes(rank: usize, pads: &[Dim], axes: &[i64]) -> Result<(Vec<Dim>, Vec<Dim>), InferError> {
    let axes = normal_axes(axes, rank)?;
    ensure!(pads.len() == 2 * axes.len(), "{} pads for {} axes", pads.len(), axes.len());
    let mut out = (vec![Dim::known(0); rank], vec![Dim::known(0); rank]);
    let (begins, ends) = pads.split_at(axes.len());
    for ((&axis, begin), end) in axes.iter().zip(begins).zip(ends) {
        if let (Some(b), Some(a)) = (out.0.get_mut(axis), out.1.get_mut(axis)) {
            (*b, *a) = (begin.clone(), end.clone());
        }
    }
    Ok(out)
}

fn tile(cx: &InferCx<'_>) -> Result<Shape, InferError> {
    cx.expect_count(2)?;
    let len = cx.int_vector(1)?;
    let Some(dims) = cx.dims(0)? else { return unknown_of_len(len) };
    if let Some(len) = len {
        ensure!(len == dims.len(), "{len} repeats of a tensor of rank {}", dims.len());
    }
    let Some(repeats) = cx.known_dims(1) else { return Ok(unknown_dims(dims.len())) };
    ensure!(repeats.len() == dims.len(), "{} repeats, rank {}", repeats.len(), dims.len());
    let sizes = dims.iter().zip(&repeats).map(|(d, r)| size(d * r, "a tiled size"));
    Ok(Shape::new(sizes.collect::<Result<Vec<_>, _>>()?))
}

fn range(cx: &InferCx<'_>) -> Result<Dim, InferError> {
    cx.expect_count(3)?;
    let dtype = cx.tensor(0)?.dtype;
    let number = matches!(dtype.class(), DClass::Signed | DClass::Unsigned | DClass::Float);
    ensure!(number, "no range of {dtype}");
    for i in 0..3 {
        cx.expect_dtype(i, dtype)?;
        cx.dims_of_rank(i, 0)?;
    }
    if let (Some([start]), Some([limit]), Some([delta])) =
        (cx.known_dims(0).as_deref(), cx.known_dims(1).as_deref(), cx.known_dims(2).as_deref())
    {
        return int_range(start, limit, delta);
    }
    let constant = |i: usize| cx.known.get(i).copied().flatten()?.tensor()?.element(0);
    match (constant(0), constant(1), constant(2)) {
        (Some(Scalar::F(start)), Some(Scalar::F(limit)), Some(Scalar::F(delta))) => {
            let count = ((limit - start) / delta).ceil().max(0.0);
            ensure!(count.is_finite() && count < 1e15, "a range of {count} elements");
            Ok(Dim::known(count as i64))
        }
        _ => Ok(Dim::unknown()),
    }
}

/// `max(ceil((limit - start) / delta), 0)`; unknown where the sign of `delta` is.
pub(crate) fn int_range(start: &Dim, limit: &Dim, delta: &Dim) -> Result<Dim, InferError> {
    let count = match delta.as_known() {
        Some(0) => return Err(InferError::new("a range with step 0")),
        Some(d) if d > 0 => (limit - start).ceil_div(delta),
        Some(_) => (start - limit).ceil_div(&(Dim::known(0) - delta)),
        None => return Ok(Dim::unknown()),
    };
    Ok(count.greater(&Dim::known(0)))
}

fn squeeze(cx: &InferCx<'_>) -> Result<Shape, InferError> {
    cx.expect_count(2)?;
    let len = cx.int_vector(1)?;
    let Some(dims) = cx.dims(0)? else { return Ok(Shape::unranked()) };
    match (cx.known_ints(1), len) {
        (Some(axes), _) => Ok(squeezed(dims, &axes)?.map_or(Shape::unranked(), Shape::new)),
        (None, Some(len)) if len > 0 && len <= dims.len() => Ok(unknown_dims(dims.len() - len)),
        (None, _) => Ok(Shape::unranked()),
    }
}

/// The dims without `axes`, or without all of size 1 if there are no axes; `None` if which those are is unknown.
pub(crate) fn squeezed(dims: &[Dim], axes: &[i64]) -> Result<Option<Vec<Dim>>, InferError> {
    if axes.is_empty() {
        if dims.iter().any(|d| d.as_known().is_none()) {
            return Ok(None);
        }
        return Ok(Some(dims.iter().filter(|d| d.as_known() != Some(1)).cloned().collect()));
    }
    let axes = normal_axes(axes, dims.len())?;
    for d in axes.iter().filter_map(|&a| dims.get(a)) {
        unify(d, &Dim::known(1), "a squeezed size and 1")?;
    }
    let kept = dims.iter().enumerate().filter(|(i, _)| !axes.contains(i));
    Ok(Some(kept.map(|(_, d)| d.clone()).collect()))
}

fn unsqueeze(cx: &InferCx<'_>) -> Result<Shape, InferError> {
    cx.expect_count(2)?;
    let len = cx.int_vector(1)?;
    let Some(dims) = cx.dims(0)? else { return Ok(Shape::unranked()) };
    match (cx.known_ints(1), len) {
        (Some(axes), _) => Ok(Shape::new(unsqueezed(dims, &axes)?)),
        (None, Some(len)) => unknown_of_len(dims.len().checked_add(len)),
        (None, None) => Ok(Shape::unranked()),
    }
}

/// The dims with size-1 axes inserted; `axes` are positions in the result.
pub(crate) fn unsqueezed(dims: &[Dim], axes: &[i64]) -> Result<Vec<Dim>, InferError> {
    let rank = dims.len() + axes.len();
    ensure!(rank <= MAX_RANK, "rank {rank}");
    let axes = normal_axes(axes, rank)?;
    let mut rest = dims.iter();
    let place = |i: usize| if axes.contains(&i) { Some(Dim::known(1)) } else { rest.next().cloned() };
    Ok((0..rank).map_while(place).collect())
}

/// The axes from `start` to `end`, clamped, negative ones counted from the end.
pub(crate) fn shape_range(rank: usize, start: i64, end: Option<i64>) -> std::ops::Range<usize> {
    let rank_i = i64::try_from(rank).unwrap_or(i64::MAX);
    let clamp = |v: i64| {
        let v = if v < 0 { v.saturating_add(rank_i) } else { v };
        usize::try_from(v.clamp(0, rank_i)).unwrap_or(0)
    };
    let (start, end) = (clamp(start), clamp(end.unwrap_or(rank_i)));
    start..end.max(start)
}

fn reduce(keepdims: bool, noop: bool, cx: &InferCx<'_>) -> Result<Shape, InferError> {
    let len = cx.int_vector(1)?;
    let x = &cx.tensor(0)?.shape;
    match (cx.known_ints(1), x.rank()) {
        (Some(axes), Some(rank)) => reduced(x, &reduced_axes(&axes, rank, noop)?, keepdims),
        (Some(axes), None) if axes.is_empty() && !noop && !keepdims => Ok(Shape::fixed(&[])),
        (None, Some(rank)) if keepdims => Ok(unknown_dims(rank)),
        (None, Some(rank)) => match len {
            Some(len) if len > 0 && len <= rank => Ok(unknown_dims(rank - len)),
            _ => Ok(Shape::unranked()),
        },
        _ => Ok(Shape::unranked()),
    }
}

/// The axes that a reduction with that axes operand reduces.
pub(crate) fn reduced_axes(axes: &[i64], rank: usize, noop: bool) -> Result<Vec<usize>, InferError> {
    match (axes.is_empty(), noop) {
        (true, false) => Ok((0..rank).collect()),
        _ => normal_axes(axes, rank),
    }
}

/// Most results that one split may have.
const MAX_PIECES: usize = 1 << 16;

fn split(axis: i64, cx: &InferCx<'_>) -> Results {
    cx.expect_count(2)?;
    let x = cx.tensor(0)?;
    let Some(count) = cx.int_vector(1)? else {
        return Err(InferError::new("the number of pieces must be known"));
    };
    ensure!(count <= MAX_PIECES, "{count} pieces");
    let sizes = cx.known_dims(1).unwrap_or_else(|| vec![Dim::unknown(); count]);
    let Some(dims) = x.shape.dims() else {
        return Ok(vec![Inferred::new(Type::unranked(x.dtype)); count]);
    };
    let axis = normal_axis(axis, dims.len())?;
    let total = sizes.iter().fold(Dim::known(0), |a, b| a + b);
    if let Some(d) = dims.get(axis) {
        unify(d, &total, "the axis and the sum of the pieces")?;
    }
    let piece = |s: Dim| {
        let mut dims = dims.to_vec();
        if let Some(d) = dims.get_mut(axis) {
            *d = size(s, "a piece")?;
        }
        Ok(Inferred::tensor(x.dtype, Shape::new(dims)))
    };
    sizes.into_iter().map(piece).collect()
}

/// Shape and per-axis scales of a resize; scales are those given, or `None` where they follow from the sizes.
pub(crate) fn resize(
    axes: &[i64],
    keep_aspect: &str,
    cx: &InferCx<'_>,
) -> Result<(Shape, Vec<Option<f64>>), InferError> {
    cx.expect_count(4)?;
    cx.expect_dtype(1, DType::F32)?;
    cx.dims_of_rank(1, 1)?;
    cx.int_vector(2)?;
    cx.expect_float(3)?;
    let Some(dims) = cx.dims(0)? else { return Ok((Shape::unranked(), vec![])) };
    let axes = match axes {
        [] => (0..dims.len()).collect(),
        some => normal_axes(some, dims.len())?,
    };
    let (mut out, mut scales) = (dims.to_vec(), vec![Some(1.0); dims.len()]);
    let tensor = |i: usize| cx.known.get(i).copied().flatten().and_then(|k| k.tensor());
    let given = tensor(1).and_then(Tensor::to_f64s).filter(|s| !s.is_empty());
    let sizes = cx.known_dims(2).filter(|s| !s.is_empty());
    let len = given.as_ref().map(Vec::len).or(sizes.as_ref().map(Vec::len));
    ensure!(len.is_none_or(|l| l == axes.len()), "{len:?} sizes or scales for {} axes", axes.len());
    let common = match (&sizes, keep_aspect) {
        (Some(sizes), "not_larger" | "not_smaller") => {
            Some(common_scale(dims, &axes, sizes, keep_aspect == "not_larger"))
        }
        _ => None,
    };
    for (i, &axis) in axes.iter().enumerate() {
        let (Some(slot), Some(scale), Some(d)) = (out.get_mut(axis), scales.get_mut(axis), dims.get(axis))
        else {
            continue;
        };
        let at = |v: &Option<Vec<f64>>| v.as_ref().and_then(|v| v.get(i)).copied();
        (*slot, *scale) = match (common, sizes.as_ref().and_then(|s| s.get(i)), at(&given)) {
            (Some(Some(s)), _, _) => {
                let scaled = d.as_known().map(|v| Dim::known((s * v as f64 + 0.5).floor() as i64));
                (scaled.unwrap_or_else(Dim::unknown), Some(s))
            }
            (Some(None), _, _) => (Dim::unknown(), None),
            (None, Some(s), _) => (size(s.clone(), "a resized size")?, None),
            (None, None, Some(s)) => (scaled_size(d, s)?, Some(s)),
            (None, None, None) => (Dim::unknown(), None),
        };
    }
    Ok((Shape::new(out), scales))
}

/// Starts then ends of the region of interest over all axes, if the operand is a constant; `None` too where it is
/// empty.
pub(crate) fn resize_region(axes: &[i64], cx: &InferCx<'_>) -> Result<Option<Vec<f64>>, InferError> {
    let given = cx.known.get(3).copied().flatten().and_then(|k| k.tensor()).and_then(Tensor::to_f64s);
    let (Some(given), Some(rank)) = (given.filter(|r| !r.is_empty()), cx.tensor(0)?.shape.rank()) else {
        return Ok(None);
    };
    let axes = match axes {
        [] => (0..rank).collect(),
        some => normal_axes(some, rank)?,
    };
    ensure!(given.len() == 2 * axes.len(), "a region of {} numbers for {} axes", given.len(), axes.len());
    let mut region = [vec![0.0; rank], vec![1.0; rank]].concat();
    let (starts, ends) = given.split_at(axes.len());
    for ((&axis, &start), &end) in axes.iter().zip(starts).zip(ends) {
        if let Some(slot) = region.get_mut(axis) {
            *slot = start;
        }
        if let Some(slot) = region.get_mut(rank + axis) {
            *slot = end;
        }
    }
    Ok(Some(region))
}

/// The scale that all axes share when the aspect ratio is kept (ONNX Resize `keep_aspect_ratio_policy`).
fn common_scale(dims: &[Dim], axes: &[usize], sizes: &[Dim], smallest: bool) -> Option<f64> {
    let ratios: Option<Vec<f64>> = axes
        .iter()
        .zip(sizes)
        .map(|(&a, s)| Some(s.as_known()? as f64 / dims.get(a)?.as_known()? as f64))
        .collect();
    let ratios = ratios?.into_iter();
    if smallest { ratios.reduce(f64::min) } else { ratios.reduce(f64::max) }
}

/// `floor(d * scale)`. Over a symbolic dim only fractions of small powers of two have an expression: for these the
/// product in f32, which is what files mean, is exact.
fn scaled_size(d: &Dim, scale: f64) -> Result<Dim, InferError> {
    ensure!(scale.is_finite() && scale > 0.0, "a scale of {scale}");
    if let Some(v) = d.as_known() {
        let product = (v as f32 * scale as f32).floor();
        ensure!(product < 1e15, "a resized size of {product}");
        return Ok(Dim::known(product as i64));
    }
    let numerator = scale * 64.0;
    if numerator.fract() != 0.0 || numerator > 1e6 {
        return Ok(Dim::unknown());
    }
    Ok((d * Dim::known(numerator as i64)).floor_div(&Dim::known(64)))
}

fn one_hot(axis: i64, cx: &InferCx<'_>) -> Results {
    cx.expect_count(3)?;
    let indices = cx.tensor(0)?;
    ensure!(indices.dtype.is_int(), "indices must be integers, found {indices}");
    let depth_ty = cx.tensor(1)?;
    ensure!(depth_ty.dtype.is_int(), "the depth must be an integer, found {depth_ty}");
    let values = cx.tensor(2)?;
    if let Some([d]) = cx.dims_of_rank(2, 1)? {
        unify(d, &Dim::known(2), "the number of values and 2")?;
    }
    let Some(dims) = indices.shape.dims() else {
        return Ok(vec![Inferred::new(Type::unranked(values.dtype))]);
    };
    let axis = normal_axis(axis, dims.len() + 1)?;
    let depth = match cx.known_dims(1).as_deref() {
        Some([d]) => size(d.clone(), "the depth")?,
        _ => Dim::unknown(),
    };
    let mut dims = dims.to_vec();
    dims.insert(axis, depth);
    Ok(vec![Inferred::tensor(values.dtype, Shape::new(dims))])
}

fn concat(axis: i64, cx: &InferCx<'_>) -> Result<Shape, InferError> {
    let dtype = cx.tensor(0)?.dtype;
    let mut rank = None;
    for i in 0..cx.operands.len() {
        cx.expect_dtype(i, dtype)?;
        rank = cx.tensor(i)?.shape.rank().or(rank);
    }
    let Some(rank) = rank else { return Ok(Shape::unranked()) };
    let axis = normal_axis(axis, rank)?;
    let mut out = vec![Dim::unknown(); rank];
    let mut total = Dim::known(0);
    for i in 0..cx.operands.len() {
        let Some(dims) = cx.dims_of_rank(i, rank)? else {
            total = Dim::unknown();
            continue;
        };
        for (a, (slot, d)) in out.iter_mut().zip(dims).enumerate() {
            if a == axis {
                total = &total + d;
            } else {
                *slot = unify(slot, d, &format!("sizes of axis {a}"))?;
            }
        }
    }
    if let Some(slot) = out.get_mut(axis) {
        *slot = total;
    }
    Ok(Shape::new(out))
}

fn compress(axis: Option<usize>, cx: &InferCx<'_>) -> Result<Shape, InferError> {
    cx.expect_count(2)?;
    cx.expect_dtype(1, DType::Bool)?;
    cx.dims_of_rank(1, 1)?;
    let kept = match cx.known_ints(1) {
        Some(flags) => Dim::known(flags.iter().filter(|&&f| f != 0).count() as i64),
        None => Dim::unknown(),
    };
    let Some(axis) = axis else { return Ok(Shape::new(vec![kept])) };
    let Some(dims) = cx.dims(0)? else { return Ok(Shape::unranked()) };
    check_axis(axis, dims.len())?;
    let mut dims = dims.to_vec();
    if let Some(d) = dims.get_mut(axis) {
        *d = kept;
    }
    Ok(Shape::new(dims))
}

/// The dims of `x` broadcast with `shape`, both ways; unknown where neither side is definite.
pub(crate) fn expanded(x: &TensorType, shape: &[Dim]) -> Result<Option<Vec<Dim>>, InferError> {
    let both = broadcast_shapes(&[&x.shape, &Shape::new(shape)])?;
    let Some(dims) = both.dims() else { return Ok(None) };
    check_broadcast(x.shape.dims(), dims)?;
    Ok(Some(dims.to_vec()))
}
