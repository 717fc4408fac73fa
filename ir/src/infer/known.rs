//! What is known of results' values: constants, and small integer tensors whose elements are expressions over dims.
//! This is what resolves shape computations when a graph is built. Larger constants are folded by a pass.

use super::dynamic::{reduced_axes, shape_range, slice_axes, slice_spec};
use super::{InferCx, Inferred};
use crate::graph::{Known, MAX_KNOWN_DIMS};
use crate::op::{Dynamic, Elementwise, Index, Movement, Op, Reduce, ReduceKind, Source};
use crate::{DType, Dim, TensorType, Type};

/// Adds what is known of the results.
pub(super) fn annotate(op: &Op, cx: &InferCx<'_>, mut results: Vec<Inferred>) -> Vec<Inferred> {
    if let Op::Dynamic(Dynamic::Split { axis: _ }) = op {
        split(cx, &mut results);
        return results;
    }
    if let [result] = results.as_mut_slice() {
        if let Op::Source(Source::Constant { value }) = op {
            result.known = Some(Known::Tensor(value.clone()));
        } else if let Type::Tensor(ty) = &result.ty
            && let Some(dims) = elements(op, cx, ty)
            && fits(&dims, ty)
        {
            result.known = Some(Known::Dims(dims));
        }
    }
    results
}

/// Whether elements are what a value of type `ty` can hold.
fn fits(dims: &[Dim], ty: &TensorType) -> bool {
    let Some((low, high)) = ty.dtype.int_range() else { return false };
    let len = match ty.shape.dims() {
        Some([]) => Some(1),
        Some([d]) => d.as_known(),
        Some(_) | None => None,
    };
    // A symbolic size may be anything that a shape can hold: a narrow dtype would wrap it.
    let wide = matches!(ty.dtype, DType::I32 | DType::I64);
    let in_range = |d: &Dim| d.as_known().map_or(wide, |v| (low..=high).contains(&i128::from(v)));
    dims.len() <= MAX_KNOWN_DIMS
        && len == i64::try_from(dims.len()).ok()
        && dims.iter().all(|d| !d.is_unknown() && in_range(d))
}

fn is_integral(dtype: DType) -> bool {
    dtype.int_range().is_some()
}

/// The elements of the only result.
fn elements(op: &Op, cx: &InferCx<'_>, ty: &TensorType) -> Option<Vec<Dim>> {
    if !is_integral(ty.dtype) {
        return None;
    }
    match op {
        Op::Elementwise(e) => elementwise(e, cx, ty),
        Op::Cast(c) => cast(c.to, cx),
        Op::Source(Source::Dims { dims }) => Some(dims.clone()),
        Op::Source(Source::Iota { len, dtype: _ }) => {
            let len = len.as_known().filter(|&n| n <= MAX_KNOWN_DIMS as i64)?;
            Some((0..len).map(Dim::known).collect())
        }
        Op::Source(Source::Constant { .. }) => None,
        Op::Reduce(Reduce::Axes { kind, axes, keepdims: _ }) => reduce(*kind, !axes.is_empty(), cx),
        Op::Movement(m) => movement(m, cx, ty),
        Op::Index(Index::Gather { axis: _ }) => gather(cx),
        Op::Index(Index::GatherElements { axis: _ }) => gather(cx),
        Op::Dynamic(d) => dynamic(d, cx, ty),
        Op::Index(Index::GatherNd { .. } | Index::ScatterElements { .. } | Index::ScatterNd { .. })
        | Op::Contract(_)
        | Op::Conv(_)
        | Op::Window(_)
        | Op::Order(_)
        | Op::Quant(_)
        | Op::Control(_)
        | Op::Composite(_)
        | Op::Object(_)
        | Op::Host(_) => None,
    }
}

fn bool_dim(b: bool) -> Dim {
    Dim::known(i64::from(b))
}

/// The truth of a comparison of two dims, where provable. `holds` takes the sign of `a - b`.
fn compare(a: &Dim, b: &Dim, holds: fn(std::cmp::Ordering) -> bool) -> Option<bool> {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let difference = a - b;
    if let Some(d) = difference.as_known() {
        return Some(holds(d.cmp(&0)));
    }
    let one = Dim::known(1);
    // At or above, at or below, strictly above or below: whichever is provable, if all signs it leaves agree.
    let possible: &[std::cmp::Ordering] = if (&difference - &one).is_non_negative() {
        &[Greater]
    } else if (b - a - one).is_non_negative() {
        &[Less]
    } else if difference.is_non_negative() {
        &[Equal, Greater]
    } else if (b - a).is_non_negative() {
        &[Equal, Less]
    } else {
        &[Less, Equal, Greater]
    };
    let (first, rest) = possible.split_first()?;
    let truth = holds(*first);
    rest.iter().all(|&o| holds(o) == truth).then_some(truth)
}

fn divide(a: &Dim, b: &Dim) -> Option<Dim> {
    match (a.as_known(), b.as_known()) {
        (_, Some(0)) => Some(Dim::known(0)),
        (Some(x), Some(y)) => x.checked_div(y).map(Dim::known),
        // Division truncates, which is flooring where nothing is negative.
        _ if a.is_non_negative() && b.is_non_negative() => Some(a.floor_div(b)),
        _ => a.exact_div(b),
    }
}

fn elementwise(e: &Elementwise, cx: &InferCx<'_>, ty: &TensorType) -> Option<Vec<Dim>> {
    let operands: Vec<Vec<Dim>> = (0..cx.operands.len()).map(|i| cx.known_dims(i)).collect::<Option<_>>()?;
    let len = match ty.shape.dims()? {
        [] => 1,
        [d] => usize::try_from(d.as_known()?).ok().filter(|&n| n <= MAX_KNOWN_DIMS)?,
        _ => return None,
    };
    let name = e.kind.row().name;
    let at = |operand: usize, i: usize| {
        let v = operands.get(operand)?;
        if v.len() == 1 { v.first() } else { v.get(i) }
    };
    (0..len).map(|i| element(name, &|operand| at(operand, i))).collect()
}

/// One element of an elementwise operator over integers; `at` gives the operands' elements.
fn element<'a>(name: &str, at: &dyn Fn(usize) -> Option<&'a Dim>) -> Option<Dim> {
    use std::cmp::Ordering;
    let a = at(0)?;
    let zero = Dim::known(0);
    let comparison = |holds| compare(a, at(1)?, holds).map(bool_dim);
    let bits = |f: fn(i64, i64) -> i64| Some(Dim::known(f(a.as_known()?, at(1)?.as_known()?)));
    match name {
        "add" => Some(a + at(1)?),
        "sub" => Some(a - at(1)?),
        "mul" => Some(a * at(1)?),
        "div" => divide(a, at(1)?),
        "mod" => at(1).filter(|b| b.as_known() != Some(0)).map(|b| a.modulo(b)),
        "rem" => at(1).filter(|b| a.is_non_negative() && b.is_non_negative()).map(|b| a.modulo(b)),
        "min" => Some(a.lesser(at(1)?)),
        "max" => Some(a.greater(at(1)?)),
        "clamp" => Some(a.greater(at(1)?).lesser(at(2)?)),
        "relu" => Some(a.greater(&zero)),
        "neg" => Some(zero - a),
        "square" => Some(a * a),
        "abs" if a.is_non_negative() => Some(a.clone()),
        "abs" => a.as_known().and_then(i64::checked_abs).map(Dim::known),
        "eq" => comparison(Ordering::is_eq),
        "ne" => comparison(Ordering::is_ne),
        "lt" => comparison(Ordering::is_lt),
        "le" => comparison(Ordering::is_le),
        "gt" => comparison(Ordering::is_gt),
        "ge" => comparison(Ordering::is_ge),
        "and" => bits(|x, y| x & y),
        "or" => bits(|x, y| x | y),
        "xor" => bits(|x, y| x ^ y),
        "not" => a.as_known().map(|v| bool_dim(v == 0)),
        "where" => match a.as_known() {
            Some(0) => at(2).cloned(),
            Some(_) => at(1).cloned(),
            None => at(1).filter(|x| Some(*x) == at(2)).cloned(),
        },
        _ => None,
    }
}

fn cast(to: DType, cx: &InferCx<'_>) -> Option<Vec<Dim>> {
    let dims = cx.known_dims(0)?;
    if to != DType::Bool {
        return Some(dims);
    }
    dims.iter().map(|d| compare(d, &Dim::known(0), std::cmp::Ordering::is_ne).map(bool_dim)).collect()
}

fn reduce(kind: ReduceKind, over_elements: bool, cx: &InferCx<'_>) -> Option<Vec<Dim>> {
    let dims = cx.known_dims(0)?;
    if !over_elements {
        return matches!(kind, ReduceKind::Sum | ReduceKind::Prod | ReduceKind::Max | ReduceKind::Min)
            .then_some(dims);
    }
    let one = match kind {
        ReduceKind::Sum => dims.iter().fold(Dim::known(0), |a, b| a + b),
        ReduceKind::Prod => dims.iter().fold(Dim::known(1), |a, b| a * b),
        ReduceKind::Max => dims.into_iter().reduce(|a, b| a.greater(&b))?,
        ReduceKind::Min => dims.into_iter().reduce(|a, b| a.lesser(&b))?,
        ReduceKind::All | ReduceKind::Any => {
            let flags: Vec<bool> =
                dims.iter().map(|d| d.as_known().map(|v| v != 0)).collect::<Option<_>>()?;
            let all = kind == ReduceKind::All;
            bool_dim(if all { flags.iter().all(|&f| f) } else { flags.iter().any(|&f| f) })
        }
        ReduceKind::Mean | ReduceKind::L1 | ReduceKind::L2 | ReduceKind::SumSquare | ReduceKind::LogSum => {
            return None;
        }
    };
    Some(vec![one])
}

fn movement(m: &Movement, cx: &InferCx<'_>, ty: &TensorType) -> Option<Vec<Dim>> {
    match m {
        // Only shapes of rank 0 and 1 are tracked, so neither moves anything.
        Movement::Reshape { shape: _ } | Movement::Transpose { perm: _ } => cx.known_dims(0),
        Movement::Broadcast { shape: _ } => repeated(cx.known_dims(0)?, ty),
        Movement::Slice { starts, sizes, steps } => {
            let dims = cx.known_dims(0)?;
            let ([start], [size], [step]) = (starts.as_slice(), sizes.as_slice(), steps.as_slice()) else {
                return Some(dims).filter(|_| starts.is_empty());
            };
            pick(&dims, start, size, *step)
        }
        Movement::Pad { mode, before, after } => {
            let (dims, fill) = (cx.known_dims(0)?, cx.known_dims(1)?);
            let ([before], [after], [fill]) = (before.as_slice(), after.as_slice(), fill.as_slice()) else {
                return None;
            };
            let count = |d: &Dim| {
                let n = usize::try_from(d.as_known()?).ok()?;
                (n <= MAX_KNOWN_DIMS && *mode == crate::op::PadMode::Constant).then_some(n)
            };
            Some([vec![fill.clone(); count(before)?], dims, vec![fill.clone(); count(after)?]].concat())
        }
        Movement::Concat { axis: _ } => concat(cx),
    }
}

fn concat(cx: &InferCx<'_>) -> Option<Vec<Dim>> {
    let mut all = vec![];
    for i in 0..cx.operands.len() {
        all.extend(cx.known_dims(i)?);
        if all.len() > MAX_KNOWN_DIMS {
            return None;
        }
    }
    Some(all)
}

/// One element repeated to the result's length, or the elements themselves.
fn repeated(dims: Vec<Dim>, ty: &TensorType) -> Option<Vec<Dim>> {
    let len = usize::try_from(ty.shape.numel().as_known()?).ok().filter(|&n| n <= MAX_KNOWN_DIMS)?;
    match dims.as_slice() {
        [one] => Some(vec![one.clone(); len]),
        _ => Some(dims).filter(|d| d.len() == len),
    }
}

fn pick(dims: &[Dim], start: &Dim, size: &Dim, step: i64) -> Option<Vec<Dim>> {
    let (start, size) = (start.as_known()?, size.as_known()?);
    let size = usize::try_from(size).ok().filter(|&n| n <= MAX_KNOWN_DIMS)?;
    let at = |i: usize| {
        let offset = i64::try_from(i).ok()?.checked_mul(step)?;
        dims.get(usize::try_from(start.checked_add(offset)?).ok()?).cloned()
    };
    (0..size).map(at).collect()
}

fn gather(cx: &InferCx<'_>) -> Option<Vec<Dim>> {
    let rank = cx.operands.first()?.as_tensor()?.shape.rank()?;
    if rank != 1 {
        return None;
    }
    let (dims, indices) = (cx.known_dims(0)?, cx.known_ints(1)?);
    let len = i64::try_from(dims.len()).ok()?;
    let at = |i: i64| {
        let i = if i < 0 { i.checked_add(len)? } else { i };
        dims.get(usize::try_from(i).ok()?).cloned()
    };
    indices.into_iter().map(at).collect()
}

fn dynamic(d: &Dynamic, cx: &InferCx<'_>, ty: &TensorType) -> Option<Vec<Dim>> {
    match d {
        Dynamic::Reshape { .. } | Dynamic::Squeeze {} | Dynamic::Unsqueeze {} | Dynamic::ReverseAxes {} => {
            cx.known_dims(0)
        }
        Dynamic::Expand {} => repeated(cx.known_dims(0)?, ty),
        Dynamic::Fill {} => repeated(cx.known_dims(1)?, ty),
        Dynamic::Tile {} => {
            let dims = cx.known_dims(0)?;
            let len = usize::try_from(ty.shape.numel().as_known()?).ok().filter(|&n| n <= MAX_KNOWN_DIMS)?;
            Some(dims.iter().cycle().take(len).cloned().collect())
        }
        Dynamic::Range {} => {
            let (start, delta) = (cx.known_dims(0)?, cx.known_dims(2)?);
            let len = usize::try_from(ty.shape.numel().as_known()?).ok().filter(|&n| n <= MAX_KNOWN_DIMS)?;
            let at = |i: usize| Some(start.first()? + delta.first()? * Dim::known(i64::try_from(i).ok()?));
            (0..len).map(at).collect()
        }
        Dynamic::Slice {} => {
            let dims = cx.known_dims(0)?;
            let operand = cx.operands.first()?.as_tensor()?.shape.dims()?;
            match slice_axes(operand, &slice_spec(cx)?).ok()?.as_slice() {
                [axis] => pick(&dims, &axis.start, &axis.size, axis.step),
                _ => None,
            }
        }
        Dynamic::Shape { start, end } => {
            let dims = cx.operands.first()?.as_tensor()?.shape.dims()?;
            dims.get(shape_range(dims.len(), *start, *end)).map(<[Dim]>::to_vec)
        }
        Dynamic::Size {} => Some(vec![cx.operands.first()?.as_tensor()?.shape.numel()]),
        Dynamic::Reduce { kind, keepdims: _, noop } => {
            let rank = cx.operands.first()?.as_tensor()?.shape.rank()?;
            let axes = reduced_axes(&cx.known_ints(1)?, rank, *noop).ok()?;
            reduce(*kind, !axes.is_empty(), cx)
        }
        Dynamic::Concat { axis: _ } => concat(cx),
        Dynamic::Compress { axis: _ } => {
            let (dims, flags) = (cx.known_dims(0)?, cx.known_ints(1)?);
            Some(dims.iter().zip(flags).filter(|(_, f)| *f != 0).map(|(d, _)| d.clone()).collect())
        }
        Dynamic::Sizes { dims } => Some(dims.clone()),
        Dynamic::Pad { .. }
        | Dynamic::Split { .. }
        | Dynamic::Resize { .. }
        | Dynamic::OneHot { .. }
        | Dynamic::Cumulative { .. } => None,
    }
}

fn split(cx: &InferCx<'_>, results: &mut [Inferred]) {
    let (Some(dims), Some(sizes)) = (cx.known_dims(0), cx.known_ints(1)) else { return };
    let mut rest = dims.as_slice();
    for (result, size) in results.iter_mut().zip(sizes) {
        let Some((piece, after)) = usize::try_from(size).ok().and_then(|n| rest.split_at_checked(n)) else {
            return;
        };
        rest = after;
        if result.ty.as_tensor().is_some_and(|t| fits(piece, t)) {
            result.known = Some(Known::Dims(piece.to_vec()));
        }
    }
}
