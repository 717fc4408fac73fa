//! Operands as kernels want them: bytes that are moved before they are widened, dequantized for each operator that takes
//! them, extremes of rows.

use kiln_ir::op::{Cast, Movement, Reduce, ReduceKind};
use kiln_ir::{Build, DType, Dim, Edit, Module, NodeId, Op, Value};

use super::constants::is_integer_product;
use super::{Dequantized, images, is_byte};
use crate::rewrite::{Cx, Refusal, Rule, matches, require, run_rules};
use crate::{Options, PassError, Report};

const RULES: &[Rule] = &[
    Rule { name: "moved-bytes", apply: moved_bytes },
    images::FOUR_CHANNELS,
    images::PADDED_WEIGHTS,
    Rule { name: "rows-first", apply: rows_first },
    Rule { name: "own-dequantization", apply: dequantization },
];

/// Runs the rules.
pub(crate) fn run(module: &mut Module, options: &Options, report: &mut Report) -> Result<(), PassError> {
    run_rules(RULES, module, options, report)
}

/// An elementwise operator has what dequantizes an operand of its own, so that it reads bytes: floats that several share
/// would be kept in memory.
fn dequantization(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    matches(matches!(node.op, Op::Elementwise(_)))?;
    let shared = |v: Value| Dequantized::of(cx, v).filter(|d| d.axis.is_none() && cx.uses.count(v) > 1);
    let found = node.operands.iter().position(|&v| shared(v).is_some()).ok_or(Refusal::NoMatch)?;
    // An operator that takes one value twice has one copy for both.
    let v = node.operands[found];
    let elsewhere = cx.uses.is_output(v) || cx.uses.users(v).iter().any(|&u| u != id);
    matches(elsewhere)?;
    let from = shared(v).ok_or(Refusal::NoMatch)?;
    cx.rewrite(id, |p| {
        let own = p.add1(from.op(), &[from.x, from.scale, from.zero])?;
        let operands: Vec<Value> = node.operands.iter().map(|&o| if o == v { own } else { o }).collect();
        Ok(p.add1(node.op.clone(), &operands)?)
    })
}

/// Rows of fewer elements are too short for a loop of their own.
const SHORT_ROW: i64 = 32;

/// The extreme of all elements, which decides how values are quantized, is the extreme of the rows' extremes: rows are shared
/// among threads, and are at hand where another kernel computes them.
fn rows_first(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    let Op::Reduce(Reduce::Axes { kind, axes, keepdims: false }) = &node.op else {
        return Err(Refusal::NoMatch);
    };
    matches(matches!(kind, ReduceKind::Max | ReduceKind::Min))?;
    let dims = cx.shape(node.operands[0])?;
    let last = dims.len().checked_sub(1).filter(|_| axes.len() == dims.len()).ok_or(Refusal::NoMatch)?;
    let rows = dims.iter().take(last).any(|d| d.as_known() != Some(1));
    matches(rows && dims.last().and_then(Dim::as_known).is_some_and(|d| d >= SHORT_ROW))?;
    cx.rewrite(id, |p| {
        let each = p.reduce(*kind, node.operands[0], &[last], false)?;
        let rest: Vec<usize> = (0..last).collect();
        Ok(p.reduce(*kind, each, &rest, false)?)
    })
}

/// Widened bytes that are moved for a product are moved bytes that are widened.
fn moved_bytes(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    matches(matches!(node.op, Op::Movement(Movement::Transpose { .. } | Movement::Reshape { .. })))?;
    let product = |&u: &NodeId| is_integer_product(&cx.node(u).op);
    matches(node.results.iter().any(|&r| cx.uses.users(r).iter().any(product)))?;
    let v = node.operands[0];
    matches(widening(cx, v))?;
    let Some((_, outer)) = cx.def(v) else { return Err(Refusal::NoMatch) };
    if let Op::Cast(_) = outer.op {
        return cx.rewrite(id, |p| {
            let moved = p.add1(node.op.clone(), &[outer.operands[0]])?;
            Ok(p.cast(moved, DType::I32)?)
        });
    }
    let &[wide, zero] = &outer.operands[..] else { return Err(Refusal::NoMatch) };
    let (Some((_, cast)), Some(zero_dims)) = (cx.def(wide), cx.dims(zero)) else {
        return Err(Refusal::NoMatch);
    };
    require(zero_dims.iter().all(|d| d.as_known() == Some(1)), "the zero point has more than one element")?;
    cx.rewrite(id, |p| {
        let moved = p.add1(node.op.clone(), &[cast.operands[0]])?;
        let wide = p.cast(moved, DType::I32)?;
        let zero = p.reshape(zero, &[])?;
        Ok(p.ew("sub", &[wide, zero])?)
    })
}

/// What widens bytes: a cast to i32, or such a cast less something.
fn widening(cx: &Cx<'_>, v: Value) -> bool {
    let Some((_, node)) = cx.def(v) else { return false };
    let byte = |v: Option<&Value>| v.is_some_and(|&v| cx.dtype(v).is_some_and(is_byte));
    match &node.op {
        Op::Cast(Cast { to: DType::I32, .. }) => byte(node.operands.first()),
        op => *op == Op::ew("sub") && node.operands.first().is_some_and(|&v| is_cast(cx, v)),
    }
}

fn is_cast(cx: &Cx<'_>, v: Value) -> bool {
    cx.def(v).is_some_and(|(_, n)| matches!(n.op, Op::Cast(_))) && widening(cx, v)
}
