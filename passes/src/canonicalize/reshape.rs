//! Reshapes: chains of them, those that only add or drop axes of size 1, and transposes around those.

use std::ops::Range;

use kiln_ir::op::{Movement, Reduce};
use kiln_ir::{Build, Dim, Edit, NodeId, Op};

use super::movement::movement;
use crate::rewrite::{Cx, Refusal, Rule, matches, require};

/// Whether a dim is 1.
pub(crate) fn is_unit(d: &Dim) -> bool {
    d.as_known() == Some(1)
}

/// Whether two shapes differ only by axes of size 1.
pub(crate) fn differ_by_units(a: &[Dim], b: &[Dim]) -> bool {
    a.iter().filter(|d| !is_unit(d)).eq(b.iter().filter(|d| !is_unit(d)))
}

/// A reshape to the same shape is its operand; a reshape of a reshape is one.
pub(crate) const RESHAPE: Rule = Rule { name: "reshape", apply: reshape };

fn reshape(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let (Movement::Reshape { shape }, x) = movement(cx, id)? else { return Err(Refusal::NoMatch) };
    if cx.shape(x)? == shape {
        return cx.rewrite(id, |_| Ok(x));
    }
    let Some((Movement::Reshape { .. }, inner)) = cx.movement(x) else { return Err(Refusal::NoMatch) };
    cx.rewrite(id, |p| Ok(p.reshape(inner.operands[0], shape)?))
}

/// A reshape that only drops or adds the reduced axes is the reduction's choice of `keepdims`.
pub(crate) const RESHAPE_OF_REDUCE: Rule = Rule { name: "reshape-of-reduce", apply: reshape_of_reduce };

fn reshape_of_reduce(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let (Movement::Reshape { shape }, x) = movement(cx, id)? else { return Err(Refusal::NoMatch) };
    let Some((_, node)) = cx.def(x) else { return Err(Refusal::NoMatch) };
    let Op::Reduce(Reduce::Axes { kind, axes, keepdims }) = &node.op else { return Err(Refusal::NoMatch) };
    let source = cx.shape(node.operands[0])?;
    let other: Vec<Dim> = if *keepdims {
        source.iter().enumerate().filter(|(i, _)| !axes.contains(i)).map(|(_, d)| d.clone()).collect()
    } else {
        let one = Dim::known(1);
        source
            .iter()
            .enumerate()
            .map(|(i, d)| if axes.contains(&i) { one.clone() } else { d.clone() })
            .collect()
    };
    matches(*shape == other)?;
    require(cx.uses.count(x) == 1, "the reduction is used elsewhere in its other shape")?;
    cx.rewrite(id, |p| Ok(p.reduce(*kind, node.operands[0], axes, !keepdims)?))
}

/// A transpose of a reshape that only adds or drops axes of size 1 becomes such a reshape of a transpose, so that
/// transposes meet each other.
pub(crate) const TRANSPOSE_OF_UNITS: Rule = Rule { name: "transpose-of-units", apply: transpose_of_units };

fn transpose_of_units(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let (Movement::Transpose { perm }, x) = movement(cx, id)? else { return Err(Refusal::NoMatch) };
    let Some((Movement::Reshape { shape }, node)) = cx.movement(x) else { return Err(Refusal::NoMatch) };
    let source = node.operands[0];
    let dims = cx.shape(source)?;
    matches(differ_by_units(dims, shape))?;
    // Where each axis of the reshaped value that is not of size 1 comes from.
    let mut from = dims.iter().enumerate().filter(|(_, d)| !is_unit(d)).map(|(i, _)| i);
    let origin: Vec<Option<usize>> =
        shape.iter().map(|d| if is_unit(d) { None } else { from.next() }).collect();
    let moved: Vec<usize> = perm.iter().filter_map(|&a| origin.get(a).copied().flatten()).collect();
    // Axes of size 1 of the source stay in front, in order.
    let mut inner: Vec<usize> = (0..dims.len()).filter(|i| is_unit(&dims[*i])).collect();
    inner.extend(moved);
    let result = cx.shape(cx.node(id).results[0])?;
    cx.rewrite(id, |p| {
        let moved = p.transpose(source, &inner)?;
        Ok(p.reshape(moved, result)?)
    })
}

/// A transpose of a reshape that only joins neighbouring axes becomes such a reshape of a transpose, so that transposes
/// on both sides of the joining (batch and heads as one axis) meet each other.
pub(crate) const TRANSPOSE_OF_JOINED: Rule = Rule { name: "transpose-of-joined", apply: transpose_of_joined };

fn transpose_of_joined(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let (Movement::Transpose { perm }, x) = movement(cx, id)? else { return Err(Refusal::NoMatch) };
    let Some((Movement::Reshape { shape }, node)) = cx.movement(x) else { return Err(Refusal::NoMatch) };
    let source = node.operands[0];
    let groups = joined(cx.shape(source)?, shape).ok_or(Refusal::NoMatch)?;
    let inner = perm.iter().map(|&a| groups.get(a).cloned()).collect::<Option<Vec<_>>>();
    let inner: Vec<usize> = inner.ok_or(Refusal::NoMatch)?.into_iter().flatten().collect();
    let result = cx.shape(cx.node(id).results[0])?;
    cx.rewrite(id, |p| {
        let moved = p.transpose(source, &inner)?;
        Ok(p.reshape(moved, result)?)
    })
}

/// The axes of `from` that each axis of `to` joins, where it does nothing else, and joins some.
fn joined(from: &[Dim], to: &[Dim]) -> Option<Vec<Range<usize>>> {
    let mut groups = vec![];
    let mut end = 0;
    for dim in to {
        let begin = end;
        let mut size = from.get(begin)?.clone();
        end += 1;
        while size != *dim {
            size = &size * from.get(end)?;
            end += 1;
        }
        groups.push(begin..end);
    }
    (end == from.len() && from.len() > to.len()).then_some(groups)
}
