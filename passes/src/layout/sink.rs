//! Transposes back to channels-first sink below what follows them.

use kiln_ir::op::{Composite, Movement, Quant, Reduce};
use kiln_ir::{Build, Dim, Edit, NodeId, Op, Value};

use super::{to_first, to_last};
use crate::canonicalize::{differ_by_units, is_unit};
use crate::rewrite::{Cx, Refusal, Rule, matches, require};
use crate::views::transposed;

/// The channels-last value behind a channels-first one, with the rank.
fn channels_last(cx: &Cx<'_>, v: Value) -> Option<(Value, usize)> {
    let (Movement::Transpose { perm }, node) = cx.movement(v)? else { return None };
    let rank = perm.len();
    (rank >= 3 && *perm == to_first(rank)).then(|| (node.operands[0], rank))
}

/// The channels-last value behind the first operand.
fn first(cx: &Cx<'_>, id: NodeId) -> Result<(Value, usize), Refusal> {
    let v = cx.node(id).operands.first().ok_or(Refusal::NoMatch)?;
    channels_last(cx, *v).ok_or(Refusal::NoMatch)
}

/// An elementwise operator on channels-first values works on the channels-last ones.
pub(super) const SINK_ELEMENTWISE: Rule = Rule { name: "sink-elementwise", apply: elementwise };

fn elementwise(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    matches(matches!(node.op, Op::Elementwise(_) | Op::Cast(_)))?;
    let found = node.operands.iter().find_map(|&v| channels_last(cx, v));
    let (_, rank) = found.ok_or(Refusal::NoMatch)?;
    matches(cx.shape(node.results[0])?.len() == rank)?;
    for &v in &node.operands {
        let cheap = channels_last(cx, v).is_some()
            || cx.constant(v).is_some()
            || cx.shape(v)?.iter().filter(|d| !is_unit(d)).count() <= 1
            || is_squeezed_reduction(cx, v);
        require(cheap, "an operand would need a transpose of its own")?;
    }
    cx.rewrite(id, |p| {
        let mut operands = vec![];
        for &v in &node.operands {
            operands.push(match channels_last(cx, v) {
                Some((inner, _)) => inner,
                None => transposed(cx, p, v, &to_last(rank))?,
            });
        }
        let y = p.add1(node.op.clone(), &operands)?;
        Ok(p.transpose(y, &to_first(rank))?)
    })
}

/// Quantization of channels-first values works on the channels-last ones; scales belong to no axis or to one.
pub(super) const SINK_QUANT: Rule = Rule { name: "sink-quant", apply: quant };

fn quant(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    let Op::Quant(quant) = &node.op else { return Err(Refusal::NoMatch) };
    let (x, rank) = first(cx, id)?;
    let back = to_first(rank);
    let mut quant = quant.clone();
    let (Quant::Quantize { axis, block, .. } | Quant::Dequantize { axis, block, .. }) = &mut quant;
    require(*block == 0, "scales of blocks have axes of their own")?;
    if let Some(axis) = axis {
        *axis = back.get(*axis).copied().ok_or(Refusal::NoMatch)?;
    }
    let mut operands = node.operands.clone();
    operands[0] = x;
    cx.rewrite(id, |p| {
        let y = p.add1(quant, &operands)?;
        Ok(p.transpose(y, &back)?)
    })
}

/// Whether a value is small beside what it is combined with: one number a sample and channel, `[N, C, 1, ..]`.
fn is_squeezed_reduction(cx: &Cx<'_>, v: Value) -> bool {
    cx.dims(v).is_some_and(|d| d.len() >= 3 && d[2..].iter().all(is_unit))
}

/// A reduction of a channels-first value reduces the channels-last one.
pub(super) const SINK_REDUCE: Rule = Rule { name: "sink-reduce", apply: reduce };

fn reduce(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let Op::Reduce(Reduce::Axes { kind, axes, keepdims }) = &cx.node(id).op else {
        return Err(Refusal::NoMatch);
    };
    let (x, rank) = first(cx, id)?;
    let back = to_first(rank);
    let mut moved: Vec<usize> = axes.iter().filter_map(|&a| back.get(a).copied()).collect();
    moved.sort_unstable();
    cx.rewrite(id, |p| {
        let y = p.reduce(*kind, x, &moved, *keepdims)?;
        if *keepdims {
            return Ok(p.transpose(y, &back)?);
        }
        // Axes that stay, in both orders.
        let left: Vec<usize> = (0..rank).filter(|a| !moved.contains(a)).collect();
        let wanted = back.iter().filter(|a| !moved.contains(a));
        let perm: Vec<usize> = wanted.filter_map(|a| left.iter().position(|l| l == a)).collect();
        Ok(p.transpose(y, &perm)?)
    })
}

/// A concatenation of channels-first values joins the channels-last ones.
pub(super) const SINK_CONCAT: Rule = Rule { name: "sink-concat", apply: concat };

fn concat(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    let &Op::Movement(Movement::Concat { axis }) = &node.op else { return Err(Refusal::NoMatch) };
    let all: Vec<Option<(Value, usize)>> = node.operands.iter().map(|&v| channels_last(cx, v)).collect();
    let Some(&(_, rank)) = all.iter().flatten().next() else { return Err(Refusal::NoMatch) };
    let inner: Option<Vec<Value>> = all.into_iter().map(|o| o.map(|(v, _)| v)).collect();
    let inner = inner.ok_or_else(|| Refusal::because("an operand would need a transpose of its own"))?;
    let axis = to_first(rank).get(axis).copied().ok_or(Refusal::NoMatch)?;
    cx.rewrite(id, |p| {
        let y = p.concat(&inner, axis)?;
        Ok(p.transpose(y, &to_first(rank))?)
    })
}

/// Attributes of one entry an axis, for the channels-last operand.
fn permuted<T: Clone>(list: &[T], rank: usize) -> Result<Vec<T>, Refusal> {
    to_last(rank).iter().map(|&a| list.get(a).cloned().ok_or(Refusal::NoMatch)).collect()
}

/// A slice, pad or regrouping of a channels-first value works on the channels-last one.
pub(super) const SINK_MOVEMENT: Rule = Rule { name: "sink-movement", apply: movement };

fn movement(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    let Op::Movement(m) = &node.op else { return Err(Refusal::NoMatch) };
    let (x, rank) = first(cx, id)?;
    let list = |dims: &[Dim]| permuted(dims, rank);
    let op = match m {
        Movement::Slice { starts, sizes, steps } => {
            Movement::Slice { starts: list(starts)?, sizes: list(sizes)?, steps: permuted(steps, rank)? }
        }
        Movement::Pad { mode, before, after } => {
            Movement::Pad { mode: *mode, before: list(before)?, after: list(after)? }
        }
        Movement::Reshape { shape } => return regrouped(cx, id, x, shape),
        Movement::Transpose { .. } | Movement::Broadcast { .. } | Movement::Concat { .. } => {
            return Err(Refusal::NoMatch);
        }
    };
    let mut operands = node.operands.clone();
    operands[0] = x;
    cx.rewrite(id, |p| {
        let y = p.add1(op, &operands)?;
        Ok(p.transpose(y, &to_first(rank))?)
    })
}

/// A reshape that only regroups the spatial axes of a channels-first value regroups those of the channels-last one.
fn regrouped(cx: &Cx<'_>, id: NodeId, x: Value, shape: &[Dim]) -> Result<Edit, Refusal> {
    let from = cx.shape(x)?;
    let (Some(n), Some(c)) = (from.first(), from.last()) else { return Err(Refusal::NoMatch) };
    let kept = shape.len() >= 3 && shape.first() == Some(n) && shape.get(1) == Some(c);
    require(kept, "the reshape joins channels with others")?;
    let last: Vec<Dim> = to_last(shape.len()).iter().map(|&a| shape[a].clone()).collect();
    // Transposes move above reshapes that only add or drop axes of size 1.
    matches(!differ_by_units(from, &last))?;
    cx.rewrite(id, |p| {
        let y = p.reshape(x, &last)?;
        Ok(p.transpose(y, &to_first(shape.len()))?)
    })
}

/// A resize or softmax of a channels-first value works on the channels-last one.
pub(super) const SINK_COMPOSITE: Rule = Rule { name: "sink-composite", apply: composite };

fn composite(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let Op::Composite(c) = &cx.node(id).op else { return Err(Refusal::NoMatch) };
    let (x, rank) = first(cx, id)?;
    let back = to_first(rank);
    let moved = |axis: &usize| back.get(*axis).copied().ok_or(Refusal::NoMatch);
    let op = match c {
        Composite::Softmax { axis } => Composite::Softmax { axis: moved(axis)? },
        Composite::LogSoftmax { axis } => Composite::LogSoftmax { axis: moved(axis)? },
        Composite::Resize { .. } => resized(c, rank)?,
        _ => return Err(Refusal::because("the operator is written for channels-first operands")),
    };
    cx.rewrite(id, |p| {
        let y = p.add1(op, &[x])?;
        Ok(p.transpose(y, &back)?)
    })
}

fn resized(c: &Composite, rank: usize) -> Result<Composite, Refusal> {
    let mut c = c.clone();
    let Composite::Resize { sizes, scales, roi, .. } = &mut c else { return Err(Refusal::NoMatch) };
    *sizes = permuted(sizes, rank)?;
    *scales = permuted(scales, rank)?;
    if !roi.is_empty() {
        matches(roi.len() == 2 * rank)?;
        let (starts, ends) = roi.split_at(rank);
        *roi = permuted(starts, rank)?.into_iter().chain(permuted(ends, rank)?).collect();
    }
    Ok(c)
}
