//! Softmax and its logarithm.

use std::sync::OnceLock;

use kiln_ir::op::{Composite, Reduce};
use kiln_ir::{Build, Edit, NodeId, Op, Value};

use crate::pattern::Pattern;
use crate::rewrite::{Cx, Refusal, Rule, matches, require};

/// With the maximum taken off first, or without: the result is the same up to overflow, which softmax avoids.
const SPELLINGS: &[&str] = &[
    "div(exp@e(sub(?x, reduce_max@m(?x))), reduce_sum@s(?e))",
    "mul(exp@e(sub(?x, reduce_max@m(?x))), reciprocal(reduce_sum@s(?e)))",
    "div(exp@e(?x), reduce_sum@s(?e))",
];

/// Recognizes softmax.
pub(super) const SOFTMAX: Rule = Rule { name: "softmax", apply: softmax };

fn only_axis(cx: &Cx<'_>, reduction: Value) -> Result<usize, Refusal> {
    let Some((_, node)) = cx.def(reduction) else { return Err(Refusal::NoMatch) };
    match &node.op {
        Op::Reduce(Reduce::Axes { axes, keepdims: true, .. }) => match axes[..] {
            [axis] => Ok(axis),
            _ => Err(Refusal::because("the sum is over several axes")),
        },
        _ => Err(Refusal::because("the sum drops its axis")),
    }
}

fn softmax(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    static PATTERNS: OnceLock<Vec<Pattern>> = OnceLock::new();
    let patterns = PATTERNS.get_or_init(|| SPELLINGS.iter().map(|t| Pattern::new(t)).collect());
    let &[result] = &cx.node(id).results[..] else { return Err(Refusal::NoMatch) };
    let m = patterns.iter().find_map(|p| p.find(cx.graph, result)).ok_or(Refusal::NoMatch)?;
    let get = |name| m.get(name).ok_or(Refusal::NoMatch);
    let axis = only_axis(cx, get("s")?)?;
    if let Some(max) = m.get("m") {
        require(only_axis(cx, max)? == axis, "maximum and sum are over different axes")?;
    }
    let x = get("x")?;
    cx.rewrite(id, |p| Ok(p.softmax(x, axis)?))
}

/// The logarithm of softmax is one operator.
pub(super) const LOG_SOFTMAX: Rule = Rule { name: "log-softmax", apply: log_softmax };

fn log_softmax(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    matches(node.op == Op::ew("log"))?;
    let Some((_, inner)) = cx.def(node.operands[0]) else { return Err(Refusal::NoMatch) };
    let Op::Composite(Composite::Softmax { axis }) = inner.op else { return Err(Refusal::NoMatch) };
    require(cx.uses.count(node.operands[0]) == 1, "the softmax is used elsewhere")?;
    cx.rewrite(id, |p| Ok(p.add1(Composite::LogSoftmax { axis }, &[inner.operands[0]])?))
}
