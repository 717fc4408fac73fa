//! Dynamic operators where they must be, static ones where they can be: [`BuildDynamic::dynamic`] adds the operator
//! or its static form, whichever the operands' known values allow. File loaders and canonicalization both use it.

use smallvec::{SmallVec, smallvec};

use super::{Build, first};
use crate::graph::Known;
use crate::infer::dynamic as rules;
use crate::infer::{InferCx, InferError};
use crate::op::{
    Composite, CoordinateMode, Dynamic, Index, Movement, Order, PadMode, Reduce, ReduceKind, Source,
};
use crate::{Dim, Float, Graph, Module, Op, Shape, Tensor, Type, Value};

/// Results of one operator.
pub type Values = SmallVec<[Value; 1]>;

/// Adding operators whose shape operands may or may not be known. Implemented for everything that builds.
pub trait BuildDynamic: Build {
    /// Adds `op`, or the static operators that compute the same, where the operands' known values allow.
    fn dynamic(&mut self, op: Dynamic, operands: &[Value]) -> Result<Values, InferError> {
        match self.static_form(&op, operands)? {
            Some(values) => Ok(values),
            None => self.add(op.into(), operands),
        }
    }

    /// Adds the static operators that compute what `op` does, if the operands' known values allow; else adds nothing.
    fn static_form(&mut self, op: &Dynamic, operands: &[Value]) -> Result<Option<Values>, InferError> {
        // Inference checks the operands, so that what follows may rely on their number and types.
        self.check(op, operands)?;
        match (op, operands) {
            (Dynamic::Reshape { allow_zero }, &[x, shape]) => reshape(self, x, shape, *allow_zero),
            (Dynamic::Expand {}, &[x, shape]) => expand(self, x, shape),
            (Dynamic::Slice {}, &[x, starts, ends, axes, steps]) => {
                slice(self, x, [starts, ends, axes, steps])
            }
            (Dynamic::Pad { mode }, &[x, pads, value, axes]) => pad(self, *mode, x, pads, value, axes),
            (Dynamic::Tile {}, &[x, repeats]) => tile(self, x, repeats),
            (Dynamic::Range {}, &[start, limit, delta]) => range(self, start, limit, delta),
            (Dynamic::Fill {}, &[shape, value]) => match known_dims(self, shape) {
                Some(dims) => one(self.broadcast(value, &dims)),
                None => Ok(None),
            },
            (Dynamic::Squeeze {}, &[x, axes]) => squeeze(self, x, axes),
            (Dynamic::Unsqueeze {}, &[x, axes]) => unsqueeze(self, x, axes),
            (Dynamic::Shape { start, end }, &[x]) => shape(self, x, *start, *end),
            (Dynamic::Size {}, &[x]) => size(self, x),
            (Dynamic::Reduce { kind, keepdims, noop }, &[x, axes]) => {
                reduce(self, *kind, x, axes, *keepdims, *noop)
            }
            (Dynamic::Split { axis }, &[x, sizes]) => split(self, *axis, x, sizes),
            (Dynamic::Resize { .. }, &[x, ..]) => resize(self, op, x, operands),
            (Dynamic::OneHot { axis }, &[indices, depth, values]) => {
                one_hot(self, *axis, indices, depth, values)
            }
            (Dynamic::Concat { axis }, all) => concat(self, *axis, all),
            (Dynamic::ReverseAxes {}, &[x]) => match self.rank(x) {
                Ok(rank) => one(self.transpose(x, &(0..rank).rev().collect::<Vec<_>>())),
                Err(_) => Ok(None),
            },
            (Dynamic::Cumulative { kind, exclusive, reverse }, &[x, axis]) => {
                let (Ok(rank), Some(known)) = (self.rank(x), self.known(axis).and_then(Known::ints)) else {
                    return Ok(None);
                };
                let [axis] = known.as_slice() else { return Ok(None) };
                let axis = rules::normal_axis(*axis, rank)?;
                let (kind, exclusive, reverse) = (*kind, *exclusive, *reverse);
                self.add(Order::Cumulative { kind, axis, exclusive, reverse }.into(), &[x]).map(Some)
            }
            (Dynamic::Compress { axis }, &[x, condition]) => compress(self, *axis, x, condition),
            _ => Ok(None),
        }
    }

    /// Fails as adding `op` would.
    fn check(&self, op: &Dynamic, operands: &[Value]) -> Result<(), InferError> {
        let types: SmallVec<[&Type; 4]> = operands.iter().map(|&v| self.ty(v)).collect();
        let known: SmallVec<[Option<&Known>; 4]> = operands.iter().map(|&v| self.known(v)).collect();
        let (module, added): (Module, [Graph; 0]) = (Module::new(), []);
        let cx = InferCx { operands: &types, known: &known, module: &module, added: &added };
        crate::infer::infer(&Op::Dynamic(op.clone()), &cx).map(drop)
    }

    /// Reshapes to the elements of an i64 vector; 0 copies, -1 is inferred.
    fn reshape_to(&mut self, x: Value, shape: Value) -> Result<Value, InferError> {
        first(self.dynamic(Dynamic::Reshape { allow_zero: false }, &[x, shape])?)
    }

    /// Broadcasts with the elements of an i64 vector.
    fn expand_to(&mut self, x: Value, shape: Value) -> Result<Value, InferError> {
        first(self.dynamic(Dynamic::Expand {}, &[x, shape])?)
    }

    /// Slices by i64 vectors, as ONNX Slice does.
    fn slice_by(
        &mut self,
        x: Value,
        starts: Value,
        ends: Value,
        axes: Value,
        steps: Value,
    ) -> Result<Value, InferError> {
        first(self.dynamic(Dynamic::Slice {}, &[x, starts, ends, axes, steps])?)
    }

    /// Pads by an i64 vector of begins then ends of `axes`.
    fn pad_by(
        &mut self,
        mode: PadMode,
        x: Value,
        pads: Value,
        value: Value,
        axes: Value,
    ) -> Result<Value, InferError> {
        first(self.dynamic(Dynamic::Pad { mode }, &[x, pads, value, axes])?)
    }

    /// Repeats each axis as often as an i64 vector says.
    fn tile_by(&mut self, x: Value, repeats: Value) -> Result<Value, InferError> {
        first(self.dynamic(Dynamic::Tile {}, &[x, repeats])?)
    }

    /// `[start, start + delta, ...]` up to `limit`.
    fn range(&mut self, start: Value, limit: Value, delta: Value) -> Result<Value, InferError> {
        first(self.dynamic(Dynamic::Range {}, &[start, limit, delta])?)
    }

    /// A tensor of the shape in an i64 vector, filled with a rank-0 value.
    fn fill(&mut self, shape: Value, value: Value) -> Result<Value, InferError> {
        first(self.dynamic(Dynamic::Fill {}, &[shape, value])?)
    }

    /// Removes axes of size 1; all of them if `axes` is empty.
    fn squeeze(&mut self, x: Value, axes: &[i64]) -> Result<Value, InferError> {
        let axes = self.constant(Tensor::ints(axes))?;
        first(self.dynamic(Dynamic::Squeeze {}, &[x, axes])?)
    }

    /// Inserts axes of size 1 at positions of the result.
    fn unsqueeze(&mut self, x: Value, axes: &[i64]) -> Result<Value, InferError> {
        let axes = self.constant(Tensor::ints(axes))?;
        first(self.dynamic(Dynamic::Unsqueeze {}, &[x, axes])?)
    }

    /// The shape of a tensor as an i64 vector.
    fn shape_of(&mut self, x: Value) -> Result<Value, InferError> {
        first(self.dynamic(Dynamic::Shape { start: 0, end: None }, &[x])?)
    }
}

impl<B: Build + ?Sized> BuildDynamic for B {}

type Form = Result<Option<Values>, InferError>;

fn one(v: Result<Value, InferError>) -> Form {
    v.map(|v| Some(smallvec![v]))
}

/// The elements of a value, where all have an expression.
fn known_dims<B: Build + ?Sized>(b: &B, v: Value) -> Option<Vec<Dim>> {
    b.known(v)?.dims()
}

fn known_ints<B: Build + ?Sized>(b: &B, v: Value) -> Option<Vec<i64>> {
    b.known(v)?.ints()
}

fn dims_of<B: Build + ?Sized>(b: &B, v: Value) -> Option<Vec<Dim>> {
    b.shape(v).ok().map(<[Dim]>::to_vec)
}

fn definite(dims: Vec<Dim>) -> Option<Vec<Dim>> {
    Some(dims).filter(|d| d.iter().all(|d| !d.is_unknown()))
}

fn reshape<B: Build + ?Sized>(b: &mut B, x: Value, shape: Value, allow_zero: bool) -> Form {
    let (Some(ty), Some(wanted)) = (b.ty(x).as_tensor(), known_dims(b, shape)) else { return Ok(None) };
    match definite(rules::reshaped(&ty.shape, &wanted, allow_zero)?) {
        Some(dims) => one(b.reshape(x, &dims)),
        None => Ok(None),
    }
}

fn expand<B: Build + ?Sized>(b: &mut B, x: Value, shape: Value) -> Form {
    let (Some(ty), Some(wanted)) = (b.ty(x).as_tensor(), known_dims(b, shape)) else { return Ok(None) };
    match rules::expanded(ty, &wanted)?.and_then(definite) {
        Some(dims) => one(b.broadcast(x, &dims)),
        None => Ok(None),
    }
}

fn slice<B: Build + ?Sized>(b: &mut B, x: Value, [starts, ends, axes, steps]: [Value; 4]) -> Form {
    let (Some(dims), Some(starts), Some(ends), Some(axes), Some(steps)) = (
        dims_of(b, x),
        known_dims(b, starts),
        known_dims(b, ends),
        known_ints(b, axes),
        known_ints(b, steps),
    ) else {
        return Ok(None);
    };
    let parts = rules::slice_axes(&dims, &rules::SliceSpec { starts, ends, axes, steps })?;
    let starts = definite(parts.iter().map(|a| a.start.clone()).collect());
    let sizes = definite(parts.iter().map(|a| a.size.clone()).collect());
    let (Some(starts), Some(sizes)) = (starts, sizes) else { return Ok(None) };
    let steps: Vec<i64> = parts.iter().map(|a| a.step).collect();
    let whole = sizes == dims && steps.iter().all(|&s| s == 1);
    if whole {
        return Ok(Some(smallvec![x]));
    }
    b.add(Movement::Slice { starts, sizes, steps }.into(), &[x]).map(Some)
}

fn pad<B: Build + ?Sized>(
    b: &mut B,
    mode: PadMode,
    x: Value,
    pads: Value,
    value: Value,
    axes: Value,
) -> Form {
    let (Some(dims), Some(pads), Some(axes)) = (dims_of(b, x), known_dims(b, pads), known_ints(b, axes))
    else {
        return Ok(None);
    };
    let (before, after) = rules::pad_axes(dims.len(), &pads, &axes)?;
    if before.iter().chain(&after).all(|d| d.as_known() == Some(0)) {
        return Ok(Some(smallvec![x]));
    }
    b.add(Movement::Pad { mode, before, after }.into(), &[x, value]).map(Some)
}

/// Tiling is a broadcast along a new axis before each, merged by a reshape.
fn tile<B: Build + ?Sized>(b: &mut B, x: Value, repeats: Value) -> Form {
    let (Some(dims), Some(repeats)) = (dims_of(b, x), known_dims(b, repeats)) else { return Ok(None) };
    if repeats.iter().all(|r| r.as_known() == Some(1)) {
        return Ok(Some(smallvec![x]));
    }
    let interleave = |outer: &mut dyn Iterator<Item = Dim>| -> Vec<Dim> {
        outer.zip(&dims).flat_map(|(o, d)| [o, d.clone()]).collect()
    };
    let split = interleave(&mut dims.iter().map(|_| Dim::known(1)));
    let wide = interleave(&mut repeats.iter().cloned());
    let result: Vec<Dim> = dims.iter().zip(&repeats).map(|(d, r)| d * r).collect();
    if result.iter().any(Dim::is_unknown) {
        return Ok(None);
    }
    let x = b.reshape(x, &split)?;
    let x = b.broadcast(x, &wide)?;
    one(b.reshape(x, &result))
}

/// A range over integers is a scaled and shifted iota. Ranges of floats stay: their length is data.
fn range<B: Build + ?Sized>(b: &mut B, start: Value, limit: Value, delta: Value) -> Form {
    let scalar = |v: Value| known_dims(b, v).and_then(|d| d.into_iter().next());
    let (Some(from), Some(to), Some(step)) = (scalar(start), scalar(limit), scalar(delta)) else {
        return Ok(None);
    };
    let dtype = b.dtype(start)?;
    let len = rules::int_range(&from, &to, &step)?;
    if len.is_unknown() {
        return Ok(None);
    }
    let mut v = first(b.add(Source::Iota { len, dtype }.into(), &[])?)?;
    if step.as_known() != Some(1) {
        v = b.ew("mul", &[v, delta])?;
    }
    if from.as_known() != Some(0) {
        v = b.ew("add", &[v, start])?;
    }
    Ok(Some(smallvec![v]))
}

fn squeeze<B: Build + ?Sized>(b: &mut B, x: Value, axes: Value) -> Form {
    let (Some(dims), Some(axes)) = (dims_of(b, x), known_ints(b, axes)) else { return Ok(None) };
    match rules::squeezed(&dims, &axes)? {
        Some(dims) => one(b.reshape(x, &dims)),
        None => Ok(None),
    }
}

fn unsqueeze<B: Build + ?Sized>(b: &mut B, x: Value, axes: Value) -> Form {
    let (Some(dims), Some(axes)) = (dims_of(b, x), known_ints(b, axes)) else { return Ok(None) };
    let dims = rules::unsqueezed(&dims, &axes)?;
    one(b.reshape(x, &dims))
}

fn shape<B: Build + ?Sized>(b: &mut B, x: Value, start: i64, end: Option<i64>) -> Form {
    let Some(dims) = dims_of(b, x).and_then(definite) else { return Ok(None) };
    let range = rules::shape_range(dims.len(), start, end);
    one(b.dims(dims.get(range).unwrap_or(&[])))
}

fn size<B: Build + ?Sized>(b: &mut B, x: Value) -> Form {
    let Some(total) = dims_of(b, x).and_then(|d| definite(vec![Shape::new(d).numel()])) else {
        return Ok(None);
    };
    let vector = b.dims(&total)?;
    one(b.reshape(vector, &[]))
}

fn reduce<B: Build + ?Sized>(
    b: &mut B,
    kind: ReduceKind,
    x: Value,
    axes: Value,
    keepdims: bool,
    noop: bool,
) -> Form {
    let (Ok(rank), Some(axes)) = (b.rank(x), known_ints(b, axes)) else { return Ok(None) };
    let axes = rules::reduced_axes(&axes, rank, noop)?;
    b.add(Reduce::Axes { kind, axes, keepdims }.into(), &[x]).map(Some)
}

fn split<B: Build + ?Sized>(b: &mut B, axis: i64, x: Value, sizes: Value) -> Form {
    let (Ok(rank), Some(sizes)) = (b.rank(x), known_dims(b, sizes)) else { return Ok(None) };
    let axis = rules::normal_axis(axis, rank)?;
    if sizes.iter().fold(Dim::known(0), |a, b| a + b).is_unknown() {
        return Ok(None);
    }
    let mut start = Dim::known(0);
    let mut pieces = Values::new();
    for size in sizes {
        let end = &start + &size;
        pieces.push(b.slice_axis(x, axis, start, size)?);
        start = end;
    }
    Ok(Some(pieces))
}

fn resize<B: Build + ?Sized>(b: &mut B, op: &Dynamic, x: Value, operands: &[Value]) -> Form {
    let Dynamic::Resize {
        mode,
        coordinates,
        nearest,
        cubic_a,
        antialias,
        exclude_outside,
        extrapolation,
        axes,
        keep_aspect,
    } = op
    else {
        return Ok(None);
    };
    let (shape, scales, roi) = {
        let types: SmallVec<[&Type; 4]> = operands.iter().map(|&v| b.ty(v)).collect();
        let known: SmallVec<[Option<&Known>; 4]> = operands.iter().map(|&v| b.known(v)).collect();
        let module = Module::new();
        let cx = InferCx { operands: &types, known: &known, module: &module, added: &[] };
        let (shape, scales) = rules::resize(axes, keep_aspect, &cx)?;
        (shape, scales, rules::resize_region(axes, &cx)?)
    };
    let roi = match roi {
        Some(roi) => roi,
        None if *coordinates == CoordinateMode::TfCropAndResize => return Ok(None),
        None => vec![],
    };
    let Some(sizes) = shape.dims().map(<[Dim]>::to_vec).and_then(definite) else { return Ok(None) };
    let op = Composite::Resize {
        sizes,
        scales: scales.into_iter().map(|s| s.map(Float::new)).collect(),
        mode: *mode,
        coordinates: *coordinates,
        nearest: *nearest,
        cubic_a: *cubic_a,
        antialias: *antialias,
        exclude_outside: *exclude_outside,
        extrapolation: *extrapolation,
        roi: roi.into_iter().map(Float::new).collect(),
    };
    b.add(op.into(), &[x]).map(Some)
}

/// `where(indices == iota, on, off)`; negative indices count from the end, others out of range match nothing.
fn one_hot<B: Build + ?Sized>(b: &mut B, axis: i64, indices: Value, depth: Value, values: Value) -> Form {
    let depth = known_dims(b, depth).and_then(|d| d.into_iter().next());
    let (Some(dims), Some(depth)) = (dims_of(b, indices), depth) else { return Ok(None) };
    let axis = rules::normal_axis(axis, dims.len() + 1)?;
    let dtype = b.dtype(indices)?;
    let zero = b.scalar(dtype, 0.0)?;
    let length = b.dims(std::slice::from_ref(&depth))?;
    let length = b.cast(length, dtype)?;
    let negative = b.ew("lt", &[indices, zero])?;
    let counted = b.ew("add", &[indices, length])?;
    let indices = b.ew("where", &[negative, counted, indices])?;
    let mut wide = dims;
    wide.insert(axis, Dim::known(1));
    let indices = b.reshape(indices, &wide)?;
    let classes = first(b.add(Source::Iota { len: depth.clone(), dtype }.into(), &[])?)?;
    let mut column = vec![Dim::known(1); wide.len()];
    if let Some(slot) = column.get_mut(axis) {
        *slot = depth;
    }
    let classes = b.reshape(classes, &column)?;
    let hot = b.ew("eq", &[indices, classes])?;
    let pick = |b: &mut B, i: i64| {
        let v = b.slice_axis(values, 0, Dim::known(i), Dim::known(1))?;
        b.reshape(v, &[])
    };
    let (off, on) = (pick(b, 0)?, pick(b, 1)?);
    one(b.ew("where", &[hot, on, off]))
}

fn concat<B: Build + ?Sized>(b: &mut B, axis: i64, operands: &[Value]) -> Form {
    let Some(rank) = operands.iter().find_map(|&v| b.rank(v).ok()) else { return Ok(None) };
    let all_ranked = operands.iter().all(|&v| b.rank(v).is_ok());
    if !all_ranked {
        return Ok(None);
    }
    let axis = rules::normal_axis(axis, rank)?;
    one(b.concat(operands, axis))
}

fn compress<B: Build + ?Sized>(b: &mut B, axis: Option<usize>, x: Value, condition: Value) -> Form {
    let (Some(flags), Some(dims)) = (known_ints(b, condition), dims_of(b, x)) else { return Ok(None) };
    let kept = flags.iter().enumerate().filter(|(_, f)| **f != 0);
    let kept: Vec<i64> = kept.filter_map(|(i, _)| i64::try_from(i).ok()).collect();
    let (x, axis) = match axis {
        Some(axis) => (x, axis),
        None => match definite(vec![Shape::new(dims).numel()]) {
            Some(flat) => (b.reshape(x, &flat)?, 0),
            None => return Ok(None),
        },
    };
    let indices = b.constant(Tensor::ints(&kept))?;
    b.add(Index::Gather { axis }.into(), &[x, indices]).map(Some)
}
