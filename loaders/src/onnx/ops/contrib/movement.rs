//! Moves of elements, and operators of the default domain under other names or in older forms.

use kiln_ir::op::{Dynamic, Host, Index, Order, ReduceKind, ScatterMode};
use kiln_ir::{Build, DType, Dim, Tensor, Value};

use super::super::generate::range;
use super::super::image::grid_sample;
use super::super::index::{coordinate, gather_nd, trilu};
use super::super::movement::{dynamic, pad};
use super::super::{MICROSOFT, Row, row_of};
use super::{at, known_size, only};
use crate::onnx::cx::{Cx, OpError, Outputs, one};

pub(in super::super) const ROWS: &[Row] = &[
    row_of(MICROSOFT, "CDist", cdist),
    row_of(MICROSOFT, "ComplexMul", |cx| complex_mul(cx, false)),
    row_of(MICROSOFT, "ComplexMulConj", |cx| complex_mul(cx, true)),
    row_of(MICROSOFT, "ExpandDims", expand_dims),
    row_of(MICROSOFT, "GatherND", gather_nd),
    row_of(MICROSOFT, "GridSample", contrib_grid_sample),
    row_of(MICROSOFT, "Irfft", |cx| fourier(cx, true)),
    row_of(MICROSOFT, "NGramRepeatBlock", ngram_repeat_block),
    row_of(MICROSOFT, "Pad", contrib_pad),
    row_of(MICROSOFT, "Range", contrib_range),
    row_of(MICROSOFT, "ReduceSumInteger", reduce_sum_integer),
    row_of(MICROSOFT, "RestorePadding", restore_padding),
    row_of(MICROSOFT, "Rfft", |cx| fourier(cx, false)),
    row_of(MICROSOFT, "TorchEmbedding", torch_embedding),
    row_of(MICROSOFT, "Trilu", trilu),
    row_of(MICROSOFT, "UnfoldTensor", unfold),
    row_of(MICROSOFT, "Unique", unique),
];

/// Pads may stand in a matrix of one row.
fn contrib_pad(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let pads = cx.input(1)?;
    let rank = cx.rank(cx.input(0)?)?;
    let flat = cx.b.reshape(pads, &[Dim::known(2 * rank as i64)])?;
    if let Some(slot) = cx.inputs.get_mut(1) {
        *slot = Some(flat);
    }
    // The form that the default domain has from here on.
    cx.opset = 13;
    pad(cx)
}

/// As in the default domain, but for cubic interpolation at the border, where onnxruntime's kernel computes something else.
fn contrib_grid_sample(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let cubic = cx.attrs.string_or("mode", "bilinear")? == "bicubic";
    if cubic && cx.attrs.string_or("padding_mode", "zeros")? == "border" {
        return Err(OpError::unsupported("mode `bicubic` with padding_mode `border`"));
    }
    grid_sample(cx)
}

/// The step may be left out.
fn contrib_range(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    if cx.optional(2).is_none() {
        let dtype = cx.dtype(cx.input(0)?)?;
        let unit = cx.b.scalar(dtype, 1.0)?;
        cx.inputs.truncate(2);
        cx.inputs.push(Some(unit));
    }
    range(cx)
}

fn expand_dims(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (x, axis) = (cx.input(0)?, cx.input(1)?);
    let axis = cx.b.cast(axis, DType::I64)?;
    let axis = cx.b.reshape(axis, &[Dim::known(1)])?;
    one(dynamic(cx, Dynamic::Unsqueeze {}, &[x, axis])?)
}

/// Results: unique values in the order in which they come, the place of each element among them, counts.
fn unique(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let results = cx.b.add(Order::Unique { axis: None, sorted: false }.into(), &[x])?;
    match results.as_slice() {
        &[values, _, places, counts] => Ok(vec![values, places, counts]),
        _ => Err(OpError::invalid("four results were expected")),
    }
}

/// Slices of `size` elements along an axis, `step` apart, each along a new last axis.
fn unfold(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let dims = cx.shape(x)?;
    let axis = cx.attrs.int_or("dim", -1)?;
    let axis = cx.axis(axis, dims.len())?;
    let (size, step) = (cx.attrs.required_int("size")?, cx.attrs.int_or("step", 1)?);
    if size <= 0 || step <= 0 {
        return Err(OpError::invalid(format!("size {size}, step {step}")));
    }
    let count = (at(&dims, axis) - Dim::known(size)).floor_div(&Dim::known(step)) + Dim::known(1);
    let start = coordinate(cx, &count, 0, 2)?;
    let step = cx.b.constant(Tensor::scalar(step))?;
    let start = cx.b.ew("mul", &[start, step])?;
    let within = coordinate(cx, &Dim::known(size), 1, 2)?;
    let places = cx.b.ew("add", &[start, within])?;
    let y = cx.b.add1(Index::Gather { axis }, &[x, places])?;
    let order: Vec<usize> = (0..=dims.len()).filter(|&a| a != axis + 1).chain([axis + 1]).collect();
    one(cx.b.transpose(y, &order)?)
}

/// Distances between the rows of two matrices.
fn cdist(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    let root = match cx.attrs.string_or("metric", "sqeuclidean")?.as_str() {
        "sqeuclidean" => false,
        "euclidean" => true,
        other => return Err(OpError::unsupported(format!("metric `{other}`"))),
    };
    let (a_dims, b_dims) = (cx.shape(a)?, cx.shape(b)?);
    let unit = Dim::known(1);
    let a = cx.b.reshape(a, &[at(&a_dims, 0), unit.clone(), at(&a_dims, 1)])?;
    let b = cx.b.reshape(b, &[unit, at(&b_dims, 0), at(&b_dims, 1)])?;
    let difference = cx.b.ew("sub", &[a, b])?;
    let squares = cx.b.reduce(ReduceKind::SumSquare, difference, &[2], false)?;
    one(if root { cx.b.ew("sqrt", &[squares])? } else { squares })
}

/// Products of complex numbers, whose parts are the last axis.
fn complex_mul(cx: &mut Cx<'_, '_, '_>, conjugate: bool) -> Outputs {
    let part =
        |cx: &mut Cx<'_, '_, '_>, v: Value, i: i64| super::slice_last(cx, v, &Dim::known(i), &Dim::known(1));
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    let (ar, ai, br, mut bi) = (part(cx, a, 0)?, part(cx, a, 1)?, part(cx, b, 0)?, part(cx, b, 1)?);
    if conjugate {
        bi = cx.b.ew("neg", &[bi])?;
    }
    let (rr, ii) = (cx.b.ew("mul", &[ar, br])?, cx.b.ew("mul", &[ai, bi])?);
    let (ri, ir) = (cx.b.ew("mul", &[ar, bi])?, cx.b.ew("mul", &[ai, br])?);
    let (real, imaginary) = (cx.b.ew("sub", &[rr, ii])?, cx.b.ew("add", &[ri, ir])?);
    let rank = cx.rank(real)?;
    one(cx.b.concat(&[real, imaginary], rank.saturating_sub(1))?)
}

/// Discrete Fourier transform of a real signal along its last axis, and back.
fn fourier(cx: &mut Cx<'_, '_, '_>, inverse: bool) -> Outputs {
    only(cx, "normalized", 0)?;
    only(cx, "onesided", 1)?;
    only(cx, "signal_ndim", 1)?;
    let x = cx.input(0)?;
    let mut dims = cx.shape(x)?;
    let length = cx.ints(&[])?;
    let axis = cx.ints(&[-2])?;
    if inverse {
        let y = cx.b.add1(Host::Dft { inverse, onesided: true }, &[x, length, axis])?;
        let mut dims = cx.shape(y)?;
        dims.pop();
        return one(cx.b.reshape(y, &dims)?);
    }
    dims.push(Dim::known(1));
    let x = cx.b.reshape(x, &dims)?;
    one(cx.b.add1(Host::Dft { inverse, onesided: true }, &[x, length, axis])?)
}

/// Rows of a table. What the other operands say concerns gradients.
fn torch_embedding(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (table, indices) = (cx.input(0)?, cx.input(1)?);
    one(cx.b.add1(Index::Gather { axis: 0 }, &[table, indices])?)
}

fn reduce_sum_integer(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let axes = cx.attrs.ints("axes")?.unwrap_or_default();
    let rank = cx.rank(x)?;
    let axes = if axes.is_empty() { (0..rank).collect() } else { cx.axes(&axes, rank)? };
    let keepdims = cx.attrs.required_int("keepdims")? != 0;
    let to = if cx.dtype(x)?.int_range().is_some_and(|(low, _)| low == 0) { DType::U32 } else { DType::I32 };
    let x = cx.b.cast(x, to)?;
    one(cx.b.reduce(ReduceKind::Sum, x, &axes, keepdims)?)
}

/// Tokens back at their places in a padded batch, zeros elsewhere.
fn restore_padding(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (x, offsets) = (cx.input(0)?, cx.input(1)?);
    let (dims, form) = (cx.shape(x)?, cx.shape(offsets)?);
    let all = at(&form, 0) * at(&form, 1);
    let (count, width) = (at(&dims, 0), at(&dims, 1));
    let dtype = cx.dtype(x)?;
    let zero = cx.b.scalar(dtype, 0.0)?;
    let base = cx.b.broadcast(zero, &[all.clone(), width.clone()])?;
    let offsets = cx.b.reshape(offsets, &[all])?;
    let offsets = cx.b.slice_axis(offsets, 0, Dim::known(0), count.clone())?;
    let places = cx.b.reshape(offsets, &[count, Dim::known(1)])?;
    let y = cx.b.add1(Index::ScatterNd { mode: ScatterMode::Assign }, &[base, places, x])?;
    one(cx.b.reshape(y, &[at(&form, 0), at(&form, 1), width])?)
}

/// Hides the tokens that would complete an n-gram which a sample has already.
fn ngram_repeat_block(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (ids, scores) = (cx.input(0)?, cx.input(1)?);
    let n = cx.attrs.required_int("ngram_size")?;
    let dims = cx.shape(ids)?;
    let length = known_size(&at(&dims, 1), "a sequence length")?;
    if n <= 0 || n > 1 << 10 {
        return Err(OpError::invalid(format!("ngram_size {n}")));
    }
    if length < n {
        return one(scores);
    }
    let windows = Dim::known(length - n + 1);
    let mut same = cx.b.constant(Tensor::from_bools(&[1, 1], &[true])?)?;
    for i in 0..n - 1 {
        let before = cx.b.slice_axis(ids, 1, Dim::known(i), windows.clone())?;
        let now = cx.b.slice_axis(ids, 1, Dim::known(length - n + 1 + i), Dim::known(1))?;
        let equal = cx.b.ew("eq", &[before, now])?;
        same = cx.b.ew("and", &[same, equal])?;
    }
    let next = cx.b.slice_axis(ids, 1, Dim::known(n - 1), windows.clone())?;
    let dtype = cx.dtype(scores)?;
    let (hidden, kept) = (cx.b.scalar(dtype, f64::NEG_INFINITY)?, cx.b.scalar(dtype, f64::INFINITY)?);
    let updates = cx.b.ew("where", &[same, hidden, kept])?;
    let updates = cx.b.broadcast(updates, &[at(&dims, 0), windows])?;
    let op = Index::ScatterElements { axis: 1, mode: ScatterMode::Min };
    one(cx.b.add1(op, &[scores, next, updates])?)
}
