//! Constant folding through the reference evaluator, within a budget.

use kiln_ir::eval::Limits;
use kiln_ir::op::{Movement, Source};
use kiln_ir::{Build, Datum, Dim, Edit, Evaluator, Module, Node, NodeId, Op, Tensor, Value};

use crate::rewrite::{Cx, Refusal, Rule, matches, require, run_rules};
use crate::{Options, PassError, Report, integers, narrow};

const RULES: &[Rule] = &[Rule { name: "constant", apply: fold }];

/// Runs the rule.
pub(crate) fn run(module: &mut Module, options: &Options, report: &mut Report) -> Result<(), PassError> {
    run_rules(RULES, module, options, report)
}

/// Results of at most this many bytes may be larger than what they are computed from.
const SMALL: u64 = 4096;

/// The same where only the evaluation shows the size.
const UNSEEN: u64 = 1 << 20;

/// The results of a node over constants, as constants.
pub(crate) fn fold(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    matches(may_fold(&node.op) && !integers::stays_narrow(cx, node) && !narrow::stays_narrow(cx, id))?;
    let known: Option<Vec<&Tensor>> = node.results.iter().map(|&v| cx.constant(v)).collect();
    if let Some(known) = known.filter(|k| !k.is_empty()) {
        // Inference has followed the value already.
        return replace(cx, id, known.into_iter().cloned().collect());
    }
    let constants: Option<Vec<&Tensor>> = node.operands.iter().map(|&v| cx.constant(v)).collect();
    let constants = constants.ok_or(Refusal::NoMatch)?;
    let results = match (&node.op, &constants[..]) {
        (Op::Movement(Movement::Reshape { shape }), [x]) => vec![reshaped(x, shape)?],
        _ => evaluated(cx, node, &constants)?,
    };
    replace(cx, id, results)
}

/// Replaces the results of a node by constants.
fn replace(cx: &Cx<'_>, id: NodeId, results: Vec<Tensor>) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    matches(results.len() == node.results.len())?;
    let mut patch = cx.patch(id);
    for (&old, value) in node.results.iter().zip(results) {
        let new = patch.constant(value)?;
        let (a, b) = (cx.graph.ty(old), patch.ty(new));
        require(a.is_compatible(b), format!("the value is {b}, the type {a}"))?;
        patch.replace(old, new);
    }
    Ok(patch.finish())
}

/// Whether evaluating now gives what evaluating later would.
fn may_fold(op: &Op) -> bool {
    match op {
        // Constants are folded already. Index sources cost nothing where they are used.
        Op::Source(Source::Constant { .. } | Source::Iota { .. }) => false,
        Op::Control(_) | Op::Object(_) => false,
        other => !other.has_effect(),
    }
}

/// A constant under another shape shares its storage.
fn reshaped(x: &Tensor, shape: &[Dim]) -> Result<Tensor, Refusal> {
    let dims: Option<Vec<usize>> =
        shape.iter().map(|d| d.as_known().and_then(|d| usize::try_from(d).ok())).collect();
    let dims = dims.ok_or_else(|| Refusal::because("a dim is not constant"))?;
    x.reshaped(&dims).map_err(|e| Refusal::because(e.to_string()))
}

fn bytes_of(t: &Tensor) -> u64 {
    t.dtype().bytes_for(t.numel()).map_or(u64::MAX, |b| b as u64)
}

/// Whether only quantization of larger constants takes what a node repeats: a zero point for each scale.
fn is_parameter(cx: &Cx<'_>, node: &Node) -> bool {
    let count = |v: Value| {
        let dims = cx.dims(v)?;
        dims.iter().try_fold(1i64, |n, d| n.checked_mul(d.as_known()?))
    };
    let constant = |v: Value| match cx.def(v) {
        Some((_, cast)) if matches!(cast.op, Op::Cast(_)) => {
            cast.operands.first().is_some_and(|&x| cx.constant(x).is_some())
        }
        _ => cx.constant(v).is_some(),
    };
    let of_more = |u: NodeId, parameters: Option<i64>| {
        let values = cx.node(u).operands.first().copied().filter(|&x| constant(x));
        matches!(cx.node(u).op, Op::Quant(_)) && parameters.is_some() && values.and_then(count) >= parameters
    };
    let quantizes = |v: &Value| {
        let mut users = cx.uses.users(*v).iter();
        !cx.uses.is_output(*v) && users.all(|&u| of_more(u, count(*v)))
    };
    matches!(node.op, Op::Movement(Movement::Broadcast { .. })) && node.results.iter().all(quantizes)
}

fn evaluated(cx: &Cx<'_>, node: &Node, constants: &[&Tensor]) -> Result<Vec<Tensor>, Refusal> {
    let budget = cx.options.fold;
    let mut total = 0u64;
    for &r in &node.results {
        let ty = cx.graph.ty(r).as_tensor().ok_or(Refusal::NoMatch)?;
        let Some(dims) = ty.shape.as_fixed() else {
            // A shape that data decides is found by evaluating; one that symbols decide is not known yet.
            matches(matches!(node.op, Op::Dynamic(_) | Op::Order(_) | Op::Host(_)))?;
            continue;
        };
        let count = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(usize::try_from(d).ok()?));
        let bytes = count.and_then(|n| ty.dtype.bytes_for(n)).map_or(u64::MAX, |b| b as u64);
        total = total.saturating_add(bytes);
    }
    let from = constants.iter().map(|t| bytes_of(t)).fold(0, u64::saturating_add);
    require(
        total <= budget.bytes,
        format!("the result takes {total} bytes, the budget is {}", budget.bytes),
    )?;
    let grows = total > SMALL && total > from.saturating_mul(2) && !is_parameter(cx, node);
    require(!grows, format!("the result takes {total} bytes, its operands {from}"))?;
    // A size that only the evaluation shows cannot be weighed before.
    let max_bytes = budget.bytes.min(UNSEEN.max(from.saturating_mul(2)));
    let limits = Limits { max_bytes, max_work: budget.work, ..Limits::default() };
    let mut evaluator = Evaluator::with_limits(cx.module, limits);
    let operands: Vec<Datum> = constants.iter().map(|&t| Datum::Tensor(t.clone())).collect();
    let results = evaluator.eval_op(&node.op, &operands, &[]);
    let results = results.map_err(|e| Refusal::because(e.to_string()))?;
    results.into_iter().map(|d| d.into_tensor().ok_or(Refusal::NoMatch)).collect()
}
