//! Transposes move up through elementwise operators to the contraction or transpose that takes them in.

use kiln_ir::op::{Movement, Quant};
use kiln_ir::{Build, Dim, Edit, Node, NodeId, Op, Patch, Value};

use crate::rewrite::{Cx, Refusal, Rule, require};

/// How far up a contraction or transpose is looked for.
const DEPTH: usize = 6;

/// What becomes of a value when it is wanted transposed.
#[derive(PartialEq)]
enum Cost {
    /// A transpose disappears.
    Gain,
    /// A constant, or a value whose elements keep their order.
    Nothing,
    /// A transpose is added.
    Loss,
}

/// `transpose(f(a, b))` becomes `f(transpose(a), transpose(b))` where the transposes then disappear.
pub(super) const LIFT_TRANSPOSE: Rule = Rule { name: "lift-transpose", apply: lift_transpose };

fn lift_transpose(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    let Op::Movement(Movement::Transpose { perm }) = &node.op else { return Err(Refusal::NoMatch) };
    let v = node.operands[0];
    let Some((_, f)) = cx.def(v) else { return Err(Refusal::NoMatch) };
    let moved = pointwise(f).ok_or(Refusal::NoMatch)?;
    require(cx.uses.count(v) == 1, "the value is also used in its own order")?;
    let costs: Vec<Cost> = moved.iter().map(|&o| cost(cx, o, perm, DEPTH)).collect();
    require(costs.contains(&Cost::Gain), "no operand takes the transpose in")?;
    require(!costs.contains(&Cost::Loss), "an operand would need a transpose of its own")?;
    cx.rewrite(id, |p| {
        let mut operands = f.operands.clone();
        for o in operands.iter_mut().take(moved.len()) {
            *o = transposed(cx, p, *o, perm)?;
        }
        Ok(p.add1(f.op.clone(), &operands)?)
    })
}

/// The operands of a pointwise node that have its axes, which are its first ones: not scales that are those of all elements.
fn pointwise(node: &Node) -> Option<&[Value]> {
    match &node.op {
        Op::Elementwise(_) | Op::Cast(_) => Some(&node.operands),
        Op::Quant(Quant::Quantize { axis: None, .. } | Quant::Dequantize { axis: None, .. }) => {
            node.operands.get(..1)
        }
        _ => None,
    }
}

fn cost(cx: &Cx<'_>, v: Value, perm: &[usize], depth: usize) -> Cost {
    let Some(dims) = cx.dims(v) else { return Cost::Loss };
    let big = dims.iter().filter(|d| d.as_known() != Some(1)).count();
    if cx.constant(v).is_some() || big <= 1 {
        return Cost::Nothing;
    }
    if depth == 0 || dims.len() != perm.len() {
        return Cost::Loss;
    }
    let Some((_, node)) = cx.def(v) else { return Cost::Loss };
    match &node.op {
        Op::Movement(Movement::Transpose { perm: inner }) => {
            let joint = perm.iter().map(|&a| inner.get(a).copied());
            if joint.eq((0..perm.len()).map(Some)) { Cost::Gain } else { Cost::Nothing }
        }
        Op::Contract(_) if cx.uses.count(v) == 1 => Cost::Gain,
        _ if cx.uses.count(v) == 1 => {
            let Some(moved) = pointwise(node) else { return Cost::Loss };
            let costs: Vec<Cost> = moved.iter().map(|&o| cost(cx, o, perm, depth - 1)).collect();
            if costs.contains(&Cost::Loss) {
                Cost::Loss
            } else if costs.contains(&Cost::Gain) {
                Cost::Gain
            } else {
                Cost::Nothing
            }
        }
        _ => Cost::Loss,
    }
}

/// The operand of an elementwise operator whose result is wanted transposed: broadcast axes are made explicit first.
pub(crate) fn transposed(cx: &Cx<'_>, p: &mut Patch<'_>, v: Value, perm: &[usize]) -> Result<Value, Refusal> {
    let dims = cx.shape(v)?;
    let lead = perm.len().checked_sub(dims.len()).ok_or(Refusal::NoMatch)?;
    if dims.is_empty() {
        return Ok(v);
    }
    let full: Vec<Dim> = std::iter::repeat_n(Dim::known(1), lead).chain(dims.iter().cloned()).collect();
    let v = p.reshape(v, &full)?;
    Ok(p.transpose(v, perm)?)
}
