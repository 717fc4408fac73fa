//! Slices that divide up a contraction's result move up into its constant weights: the parts come out contiguous, and
//! nothing is copied.

use kiln_ir::op::{Contract, Movement};
use kiln_ir::{Build, Dim, Edit, NodeId, Op, Value};

use crate::canonicalize::is_unit;
use crate::rewrite::{Cx, Refusal, Rule, matches, require};

/// A slice of one axis in steps of 1.
struct Part<'a> {
    x: Value,
    axis: usize,
    start: &'a Dim,
    size: &'a Dim,
}

/// The slice at a node, if it cuts exactly one axis.
fn part<'a>(cx: &Cx<'a>, id: NodeId) -> Result<Part<'a>, Refusal> {
    let node = cx.node(id);
    let Op::Movement(Movement::Slice { starts, sizes, steps }) = &node.op else {
        return Err(Refusal::NoMatch);
    };
    let x = node.operands[0];
    let dims = cx.shape(x)?;
    matches(steps.iter().all(|&s| s == 1))?;
    let mut cut = (0..dims.len()).filter(|&i| sizes.get(i) != dims.get(i));
    let axis = cut.next().filter(|_| cut.next().is_none()).ok_or(Refusal::NoMatch)?;
    Ok(Part { x, axis, start: &starts[axis], size: &sizes[axis] })
}

/// Whether a value is only ever cut up along one axis, into parts that together are not more than it.
fn is_divided(cx: &Cx<'_>, v: Value, axis: usize) -> bool {
    let Some(extent) = cx.dims(v).and_then(|d| d.get(axis)).and_then(Dim::as_known) else { return false };
    let mut total = 0i64;
    for &user in cx.uses.users(v) {
        match part(cx, user) {
            Ok(p) if p.axis == axis && p.x == v => match p.size.as_known() {
                Some(size) => total = total.saturating_add(size),
                None => return false,
            },
            _ => return false,
        }
    }
    !cx.uses.is_output(v) && total <= extent
}

/// The only user's slice, or the slices of all users, divide up the value.
fn require_divided(cx: &Cx<'_>, v: Value, axis: usize) -> Result<(), Refusal> {
    require(is_divided(cx, v, axis), "the parts are not all that is used of it")
}

/// Whether a value comes from a contraction with constant weights, through sums with constants and views.
fn from_weights(cx: &Cx<'_>, v: Value, depth: usize) -> bool {
    let Some((_, node)) = cx.def(v).filter(|_| depth > 0) else { return false };
    match &node.op {
        Op::Contract(_) => node.operands.iter().any(|&o| cx.constant(o).is_some()),
        Op::Movement(Movement::Transpose { .. } | Movement::Reshape { .. }) => {
            from_weights(cx, node.operands[0], depth - 1)
        }
        Op::Elementwise(_) => {
            node.operands.iter().any(|&o| from_weights(cx, o, depth - 1))
                && node.operands.iter().all(|&o| cx.constant(o).is_some() || from_weights(cx, o, depth - 1))
        }
        _ => false,
    }
}

/// Views and sums between a slice and a contraction that are looked through.
const DEPTH: usize = 6;

/// A slice of a transpose is a transpose of a slice.
pub(super) const SLICE_OF_TRANSPOSE: Rule = Rule { name: "slice-of-transpose", apply: slice_of_transpose };

fn slice_of_transpose(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let part = part(cx, id)?;
    let Some((Movement::Transpose { perm }, node)) = cx.movement(part.x) else {
        return Err(Refusal::NoMatch);
    };
    require_divided(cx, part.x, part.axis)?;
    let axis = *perm.get(part.axis).ok_or(Refusal::NoMatch)?;
    cx.rewrite(id, |p| {
        let cut = p.slice_axis(node.operands[0], axis, part.start.clone(), part.size.clone())?;
        Ok(p.transpose(cut, perm)?)
    })
}

/// A slice of the outermost of the axes into which a reshape splits an axis is a reshape of a slice.
pub(super) const SLICE_OF_RESHAPE: Rule = Rule { name: "slice-of-reshape", apply: slice_of_reshape };

fn slice_of_reshape(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let part = part(cx, id)?;
    let Some((Movement::Reshape { shape }, node)) = cx.movement(part.x) else { return Err(Refusal::NoMatch) };
    let x = node.operands[0];
    matches(from_weights(cx, x, DEPTH))?;
    require_divided(cx, part.x, part.axis)?;
    let source = cx.shape(x)?;
    let unknown = || Refusal::because("a dim is not constant");
    // Elements before the sliced axis, and in one step of it, tell which axis of the source it divides.
    let before = product(&shape[..part.axis]).ok_or_else(unknown)?;
    let step = product(&shape[part.axis + 1..]).ok_or_else(unknown)?;
    let whole = product(&shape[part.axis..]).ok_or_else(unknown)?;
    let divides = |i: &usize| {
        let inner = product(&source[i + 1..]).filter(|&n| n > 0)?;
        let same = product(&source[..*i])? == before && product(&source[*i..])? == whole;
        (same && !is_unit(&source[*i]) && step % inner == 0).then_some((*i, step / inner))
    };
    let found = (0..source.len()).find_map(|i| divides(&i));
    let (axis, stride) = found.ok_or_else(|| Refusal::because("the slice cuts across the reshaped axes"))?;
    let result = cx.shape(cx.node(id).results[0])?;
    cx.rewrite(id, |p| {
        let stride = Dim::known(stride);
        let cut = p.slice_axis(x, axis, part.start * &stride, part.size * &stride)?;
        Ok(p.reshape(cut, result)?)
    })
}

/// Number of elements, if it is constant.
fn product(dims: &[Dim]) -> Option<i64> {
    dims.iter().try_fold(1i64, |n, d| n.checked_mul(d.as_known()?))
}

/// A slice of an elementwise operator over a contraction and constants is the operator over slices.
pub(super) const SLICE_OF_SUM: Rule = Rule { name: "slice-of-sum", apply: slice_of_sum };

fn slice_of_sum(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let part = part(cx, id)?;
    let Some((_, node)) = cx.def(part.x) else { return Err(Refusal::NoMatch) };
    matches(matches!(node.op, Op::Elementwise(_)) && from_weights(cx, part.x, DEPTH))?;
    require_divided(cx, part.x, part.axis)?;
    let rank = cx.shape(part.x)?.len();
    cx.rewrite(id, |p| {
        let mut operands = vec![];
        for &v in &node.operands {
            let dims = cx.shape(v)?;
            let axis = (part.axis + dims.len()).checked_sub(rank);
            operands.push(match axis.filter(|&a| !is_unit(&dims[a])) {
                Some(a) => p.slice_axis(v, a, part.start.clone(), part.size.clone())?,
                None => v,
            });
        }
        Ok(p.add1(node.op.clone(), &operands)?)
    })
}

/// A slice of columns of a contraction with constant weights is the contraction with a slice of the weights.
pub(super) const SLICE_OF_CONTRACT: Rule = Rule { name: "slice-of-contract", apply: slice_of_contract };

fn slice_of_contract(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let part = part(cx, id)?;
    let Some((_, node)) = cx.def(part.x) else { return Err(Refusal::NoMatch) };
    let Op::Contract(Contract::Einsum { spec, .. }) = &node.op else { return Err(Refusal::NoMatch) };
    let label = spec.out.get(part.axis).ok_or(Refusal::NoMatch)?;
    let slot = usize::from(spec.rhs.contains(label));
    let (own, other) = if slot == 1 { (&spec.rhs, &spec.lhs) } else { (&spec.lhs, &spec.rhs) };
    matches(cx.constant(node.operands[slot]).is_some())?;
    require(!other.contains(label), "the slice is of a batch")?;
    require_divided(cx, part.x, part.axis)?;
    let axis = own.iter().position(|l| l == label).ok_or(Refusal::NoMatch)?;
    cx.rewrite(id, |p| {
        let mut operands = node.operands.clone();
        operands[slot] = p.slice_axis(operands[slot], axis, part.start.clone(), part.size.clone())?;
        Ok(p.add1(node.op.clone(), &operands)?)
    })
}
