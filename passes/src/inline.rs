//! Inlining: calls, branches on constant conditions, loops that run once or never.

mod sizes;

use std::collections::{HashMap, HashSet};

use kiln_ir::op::{Attr, Control};
use kiln_ir::{Build, Edit, Graph, Module, NodeId, Op, Patch, Symbol, Type, Value};
use rustc_hash::FxBuildHasher;

use self::sizes::Sizes;
use crate::rewrite::{Cx, Refusal, Rule, matches, require, run_rules};
use crate::{Options, PassError, Report};

const RULES: &[Rule] =
    &[Rule { name: "call", apply: call }, CONSTANT_IF, Rule { name: "constant-loop", apply: constant_loop }];

/// Runs the rules.
pub(crate) fn run(module: &mut Module, options: &Options, report: &mut Report) -> Result<(), PassError> {
    run_rules(RULES, module, options, report)
}

/// Nodes that one inlined graph may add.
const MAX_NODES: usize = 10_000;

/// Copies a graph's nodes into a patch; gives the values of its outputs.
fn copy(cx: &Cx<'_>, p: &mut Patch<'_>, body: &Graph, operands: &[Value]) -> Result<Vec<Value>, Refusal> {
    require(body.schedule().len() <= MAX_NODES, format!("graph `{}` is too large to copy", body.name()))?;
    matches(operands.len() == body.inputs().len())?;
    let mut outer: HashMap<Value, Value, FxBuildHasher> =
        body.inputs().iter().copied().zip(operands.iter().copied()).collect();
    let types = body.inputs().iter().zip(operands).map(|(&input, &operand)| (body.ty(input), p.ty(operand)));
    let mut sizes = Sizes::of_inputs(types);
    for (_, node) in body.scheduled() {
        let mapped = node.operands.iter().map(|v| outer.get(v).copied()).collect::<Option<Vec<_>>>();
        let op = sizes.op(cx.module, &node.op)?;
        p.set_origin(node.origin.clone());
        let results = p.add(op, &mapped.ok_or(Refusal::NoMatch)?)?;
        for (&inside, &outside) in node.results.iter().zip(&results) {
            sizes.learn(body.ty(inside), p.ty(outside));
        }
        outer.extend(node.results.iter().copied().zip(results));
    }
    body.outputs().iter().map(|v| outer.get(v).copied().ok_or(Refusal::NoMatch)).collect()
}

/// Replaces a node's results by values of types that fit.
fn replace_all(cx: &Cx<'_>, mut p: Patch<'_>, id: NodeId, new: &[Value]) -> Result<Edit, Refusal> {
    let old = &cx.node(id).results;
    matches(old.len() == new.len())?;
    for (&old, &new) in old.iter().zip(new) {
        let (a, b) = (cx.graph.ty(old), p.ty(new));
        require(a.is_compatible(b), format!("a result is {a} outside and {b} inside"))?;
        keeps_symbols(cx, a, b)?;
        p.replace(old, new);
    }
    // The node may have effects that dead-code elimination respects; they are now those of the copy.
    p.remove(id);
    Ok(p.finish())
}

/// Refuses to lose a size that an operator names and that only the old result shows: one of another rank tells nothing
/// of it.
fn keeps_symbols(cx: &Cx<'_>, old: &Type, new: &Type) -> Result<(), Refusal> {
    let count = |ty: &Type| {
        let mut sizes = 0;
        Attr::visit_dims(ty, &mut |_| sizes += 1);
        sizes
    };
    if count(old) == count(new) {
        return Ok(());
    }
    let mut lost: HashSet<Symbol, FxBuildHasher> = HashSet::default();
    Attr::visit_dims(old, &mut |d| lost.extend(d.as_symbol().cloned()));
    let mut keep = |ty: &Type| {
        Attr::visit_dims(ty, &mut |d| {
            d.as_symbol().map(|s| lost.remove(s));
        });
    };
    keep(new);
    cx.graph.inputs().iter().for_each(|&v| keep(cx.graph.ty(v)));
    if lost.is_empty() {
        return Ok(());
    }
    let mut named = None;
    for (_, graph) in cx.module.graphs() {
        for (_, node) in graph.scheduled() {
            node.op.visit_dims(&mut |d| {
                d.symbols(&mut |s| {
                    if lost.contains(s) {
                        named = Some(s.clone());
                    }
                });
            });
        }
    }
    require(
        named.is_none(),
        format!("the size `{}` shows only here", named.map_or(String::new(), |s| s.to_string())),
    )
}

fn call(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    let Op::Control(Control::Call { graph }) = node.op else { return Err(Refusal::NoMatch) };
    let body = cx.module.get_graph(graph).ok_or(Refusal::NoMatch)?;
    let mut p = cx.patch(id);
    let outputs = copy(cx, &mut p, body, &node.operands)?;
    replace_all(cx, p, id, &outputs)
}

/// A branch on a condition that is known. What a branch cannot take, since its inputs have another rank, goes with it.
pub(crate) const CONSTANT_IF: Rule = Rule { name: "constant-if", apply: constant_if };

fn constant_if(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    let Op::Control(Control::If { then_graph, else_graph }) = node.op else { return Err(Refusal::NoMatch) };
    let (&cond, rest) = node.operands.split_first().ok_or(Refusal::NoMatch)?;
    let holds = condition(cx, cond).ok_or_else(|| Refusal::because("the condition is not constant"))?;
    let taken = if holds { then_graph } else { else_graph };
    let body = cx.module.get_graph(taken).ok_or(Refusal::NoMatch)?;
    let mut p = cx.patch(id);
    let outputs = copy(cx, &mut p, body, rest)?;
    replace_all(cx, p, id, &outputs)
}

/// What a condition is: a constant, or a comparison of sizes that are known.
fn condition(cx: &Cx<'_>, cond: Value) -> Option<bool> {
    if let Some(constant) = cx.splat(cond) {
        return Some(constant != 0.0);
    }
    let (_, node) = cx.def(cond)?;
    let &[a, b] = &node.operands[..] else { return None };
    let one = |v: Value| match cx.graph.value(v).known()?.ints()?[..] {
        [one] => Some(one),
        _ => None,
    };
    (node.op == Op::ew("eq")).then_some(one(a)? == one(b)?)
}

/// A loop with constant trip count 0, or 1 and a constant true condition, without stacked results.
fn constant_loop(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    let Op::Control(Control::Loop { body, carried }) = node.op else { return Err(Refusal::NoMatch) };
    let [trip, cond, rest @ ..] = &node.operands[..] else { return Err(Refusal::NoMatch) };
    require(node.results.len() == carried, "the loop stacks results")?;
    let known = cx.splat(*trip).zip(cx.splat(*cond));
    let (trips, go) =
        known.ok_or_else(|| Refusal::because("the trip count or the condition is not constant"))?;
    let initial = rest.get(..carried).ok_or(Refusal::NoMatch)?;
    if trips <= 0.0 || go == 0.0 {
        return replace_all(cx, cx.patch(id), id, initial);
    }
    require(trips == 1.0, format!("the loop runs up to {trips} times"))?;
    let body = cx.module.get_graph(body).ok_or(Refusal::NoMatch)?;
    let mut p = cx.patch(id);
    let first = p.constant(kiln_ir::Tensor::scalar(0i64))?;
    let operands: Vec<Value> = [first, *cond].into_iter().chain(rest.iter().copied()).collect();
    let outputs = copy(cx, &mut p, body, &operands)?;
    replace_all(cx, p, id, outputs.get(1..).ok_or(Refusal::NoMatch)?)
}
