//! Transposes, broadcasts, slices, pads, concatenations and reductions that do nothing or that meet their like.

use kiln_ir::op::{Movement, Reduce, ReduceKind};
use kiln_ir::{Build, Dim, Edit, NodeId, Op, Value};

use crate::rewrite::{Cx, Refusal, Rule, matches, require};

/// The movement at a node, with its first operand.
pub(super) fn movement<'a>(cx: &Cx<'a>, id: NodeId) -> Result<(&'a Movement, Value), Refusal> {
    let node = cx.node(id);
    match (&node.op, node.operands.first()) {
        (Op::Movement(m), Some(&x)) => Ok((m, x)),
        _ => Err(Refusal::NoMatch),
    }
}

/// Whether a permutation keeps the order of all axes but those of size 1, so that no element moves in memory.
fn moves_only_units(perm: &[usize], dims: &[Dim]) -> bool {
    let rest = perm.iter().filter(|&&a| dims.get(a).and_then(Dim::as_known) != Some(1));
    rest.is_sorted()
}

/// A transpose that moves nothing is a reshape; a transpose of a transpose is one.
pub(crate) const TRANSPOSE: Rule = Rule { name: "transpose", apply: transpose };

fn transpose(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let (Movement::Transpose { perm }, x) = movement(cx, id)? else { return Err(Refusal::NoMatch) };
    let dims = cx.shape(x)?;
    if moves_only_units(perm, dims) {
        let shape: Vec<Dim> = perm.iter().filter_map(|&a| dims.get(a).cloned()).collect();
        return cx.rewrite(id, |p| Ok(p.reshape(x, &shape)?));
    }
    let Some((Movement::Transpose { perm: inner }, node)) = cx.movement(x) else {
        return Err(Refusal::NoMatch);
    };
    let perm: Vec<usize> = perm.iter().filter_map(|&a| inner.get(a).copied()).collect();
    cx.rewrite(id, |p| Ok(p.transpose(node.operands[0], &perm)?))
}

/// A broadcast to the same shape is its operand; broadcasts of broadcasts are one; an elementwise operator
/// broadcasts by itself.
pub(super) const BROADCAST: Rule = Rule { name: "broadcast", apply: broadcast };

fn broadcast(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    if let Op::Elementwise(_) = node.op {
        return without_broadcasts(cx, id);
    }
    let (Movement::Broadcast { shape }, x) = movement(cx, id)? else { return Err(Refusal::NoMatch) };
    if cx.shape(x)? == shape {
        return cx.rewrite(id, |_| Ok(x));
    }
    let Some((Movement::Broadcast { .. }, inner)) = cx.movement(x) else { return Err(Refusal::NoMatch) };
    cx.rewrite(id, |p| Ok(p.broadcast(inner.operands[0], shape)?))
}

fn without_broadcasts(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    let source = |v: Value| match cx.movement(v) {
        Some((Movement::Broadcast { .. }, b)) => b.operands[0],
        _ => v,
    };
    let operands: Vec<Value> = node.operands.iter().map(|&v| source(v)).collect();
    matches(operands[..] != node.operands[..])?;
    let whole = cx.rewrite(id, |p| Ok(p.add1(node.op.clone(), &operands)?));
    if whole.is_ok() {
        return whole;
    }
    // Some broadcast is needed for the result's shape: drop the others, one at a time.
    for (i, &v) in node.operands.iter().enumerate().filter(|&(_, &v)| source(v) != v) {
        let mut operands = node.operands.clone();
        operands[i] = source(v);
        if let Ok(edit) = cx.rewrite(id, |p| Ok(p.add1(node.op.clone(), &operands)?)) {
            return Ok(edit);
        }
    }
    Err(Refusal::because("the broadcast gives the result its shape"))
}

/// A slice of everything is its operand; a slice of a slice is one.
pub(super) const SLICE: Rule = Rule { name: "slice", apply: slice };

fn slice(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let (Movement::Slice { starts, sizes, steps }, x) = movement(cx, id)? else {
        return Err(Refusal::NoMatch);
    };
    let zero = Dim::known(0);
    if starts.iter().all(|s| *s == zero) && steps.iter().all(|&s| s == 1) && cx.shape(x)? == sizes {
        return cx.rewrite(id, |_| Ok(x));
    }
    let Some((Movement::Slice { starts: inner_starts, steps: inner_steps, .. }, inner)) = cx.movement(x)
    else {
        return Err(Refusal::NoMatch);
    };
    let (mut new_starts, mut new_steps) = (vec![], vec![]);
    for (((s, t), si), ti) in starts.iter().zip(steps).zip(inner_starts).zip(inner_steps) {
        new_starts.push(si + &(s * &Dim::known(*ti)));
        new_steps.push(t.checked_mul(*ti).ok_or_else(|| Refusal::because("the steps overflow"))?);
    }
    let op = Movement::Slice { starts: new_starts, sizes: sizes.clone(), steps: new_steps };
    cx.rewrite(id, |p| Ok(p.add1(op, &[inner.operands[0]])?))
}

/// A pad by nothing is its operand.
pub(super) const PAD: Rule = Rule { name: "pad", apply: pad };

fn pad(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let (Movement::Pad { before, after, .. }, x) = movement(cx, id)? else { return Err(Refusal::NoMatch) };
    matches(before.iter().chain(after).all(|d| d.as_known() == Some(0)))?;
    cx.rewrite(id, |_| Ok(x))
}

/// A concatenation of one operand is that operand; operands without elements go; nested ones on one axis are one.
pub(super) const CONCAT: Rule = Rule { name: "concat", apply: concat };

fn concat(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let (&Movement::Concat { axis }, _) = movement(cx, id)? else { return Err(Refusal::NoMatch) };
    let mut operands: Vec<Value> = vec![];
    for &v in &cx.node(id).operands {
        let empty = cx.shape(v)?.get(axis).and_then(Dim::as_known) == Some(0);
        match cx.movement(v) {
            _ if empty => {}
            Some((Movement::Concat { axis: inner }, node)) if *inner == axis && cx.uses.count(v) == 1 => {
                operands.extend(&node.operands);
            }
            _ => operands.push(v),
        }
    }
    matches(!operands.is_empty())?;
    matches(operands.len() == 1 || operands[..] != cx.node(id).operands[..])?;
    cx.rewrite(id, |p| Ok(p.concat(&operands, axis)?))
}

/// A reduction over axes of size 1 only is a reshape, where one element reduces to itself.
pub(super) const REDUCE: Rule = Rule { name: "reduce", apply: reduce };

fn reduce(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    let (Op::Reduce(Reduce::Axes { kind, axes, .. }), &[x]) = (&node.op, &node.operands[..]) else {
        return Err(Refusal::NoMatch);
    };
    let dims = cx.shape(x)?;
    matches(axes.iter().all(|&a| dims.get(a).and_then(Dim::as_known) == Some(1)))?;
    use ReduceKind::{All, Any, L1, L2, LogSum, Max, Mean, Min, Prod, Sum, SumSquare};
    let itself = match kind {
        Sum | Mean | Prod | Max | Min | Any | All => true,
        L1 | L2 | SumSquare | LogSum => false,
    };
    require(itself, "the reduction changes a single element")?;
    let shape = cx.shape(node.results[0])?;
    cx.rewrite(id, |p| Ok(p.reshape(x, shape)?))
}
