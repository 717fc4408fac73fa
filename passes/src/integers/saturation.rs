//! Bounds that the range of a quantized dtype has already.

use kiln_ir::op::Quant;
use kiln_ir::{Build, Edit, NodeId, Op, Value};

use super::is_byte;
use crate::rewrite::{Cx, Refusal, Rule, matches, require};

/// ReLU or clamp before a quantization that saturates at the same bounds does nothing.
pub(super) const SATURATED: Rule = Rule { name: "saturated", apply: saturated };

fn saturated(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    let Op::Quant(Quant::Quantize { to, axis: None, inverse, .. }) = &node.op else {
        return Err(Refusal::NoMatch);
    };
    let &[v, scale, zero] = &node.operands[..] else { return Err(Refusal::NoMatch) };
    let (Some((_, bound)), true) = (cx.def(v), is_byte(*to)) else { return Err(Refusal::NoMatch) };
    let (Some(scale_value), Some(zero_value)) = (cx.splat(scale), cx.splat(zero)) else {
        return Err(Refusal::NoMatch);
    };
    let (low, high) = to.int_range().ok_or(Refusal::NoMatch)?;
    let (low, high) = (low as f64, high as f64);
    // The integer that a bound becomes; no bound is infinite.
    let place = |bound: f64| {
        let quotient = if *inverse { bound * scale_value } else { bound / scale_value };
        quotient.round_ties_even() + zero_value
    };
    let number = |v: Option<&Value>| v.and_then(|&v| cx.splat(v)).ok_or(Refusal::NoMatch);
    let (lower, upper) = if bound.op == Op::ew("relu") {
        (0.0, f64::INFINITY)
    } else if bound.op == Op::ew("clamp") {
        (number(bound.operands.get(1))?, number(bound.operands.get(2))?)
    } else if bound.op == Op::ew("min") {
        (f64::NEG_INFINITY, number(bound.operands.get(1))?)
    } else {
        return Err(Refusal::NoMatch);
    };
    matches(scale_value > 0.0 && cx.graph.ty(bound.operands[0]) == cx.graph.ty(v))?;
    let within = place(lower) <= low && place(upper) >= high;
    require(within, "the bounds are narrower than the range of the quantized dtype")?;
    cx.rewrite(id, |p| Ok(p.add1(node.op.clone(), &[bound.operands[0], scale, zero])?))
}
