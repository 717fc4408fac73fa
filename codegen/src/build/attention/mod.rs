//! Attention as one kernel: scores of a block of queries in scratch, rows over them (softmax), their product with the
//! values.
//!
//! ```text
//! grid: batches and heads, blocks of queries
//!     contract: queries x keys, epilogue (scale, mask)      -> scores in scratch
//!     for queries: reductions and a loop along the keys     -> weights in the same scratch
//!     contract: weights x values, epilogue                  -> outputs
//! ```
//!
//! The rows of a softmax are columns of scratch, whose lanes are queries ([`plan::Lanes`]): then keys are the rows of the
//! first contraction, and the second one reads its rows side by side.
//!
//! Weights of a softmax stay exponentials, whose sum divides the product instead: fewer numbers are divided. Where scores
//! of all keys do not fit in the cache, or their number shows at run time only, the keys of a softmax come in blocks:
//!
//! ```text
//!     for blocks of keys:
//!         contract: queries x keys, epilogue                -> scores of the block
//!         for queries: the greatest score so far, exponentials, their sum so far
//!         contract: exponentials x values                   -> sums in scratch, rescaled to the new greatest score
//!     for queries: sums, divided, epilogue                  -> outputs
//! ```

mod lanes;
mod plan;
mod softmax;
mod statements;

use kiln_ir::op::{Contract as ContractOp, ContractSpec};
use kiln_ir::{Dim, NodeId, Op, Tensor, Value};
use rustc_hash::FxHashSet;

use self::plan::Plan;
use self::statements::{Scratch, Statements};
use super::contract::{CHUNK_FLOPS, Pieces, blocked, pieces};
use super::emit::{Emitter, Group, LocalRows};
use super::expr::{AxisId, Expr, reshape_index};
use super::loops::{Domain, Lowered, bind_all, grain, reduce_groups};
use super::term::TermId;
use super::trace::{Hero, Refusal, Region, Trace};
use crate::kir::{Access, BufferId, KernelBuilder};

/// The two contractions of a region and what passes between them.
pub struct Attention {
    first: NodeId,
    second: NodeId,
    /// What the rows read of the first contraction: its result, or elementwise of it.
    scores: Value,
    /// The second contraction's left operand.
    weights: Value,
}

/// The contractions of a region, if it has two that follow each other in this way.
pub fn find(region: &Region<'_>, nodes: &[NodeId]) -> Option<Attention> {
    let graph = region.graph;
    let is_hero = |n: &&NodeId| matches!(graph.node(**n).op, Op::Contract(ContractOp::Einsum { .. }));
    let heroes: Vec<NodeId> = nodes.iter().filter(is_hero).copied().collect();
    let [first, second] = heroes[..] else { return None };
    let result = graph.node(first).results[0];
    let weights = *graph.node(second).operands.first()?;
    // What depends on the first contraction, and whether by way of a reduction.
    let mut plain: FxHashSet<Value> = FxHashSet::from_iter([result]);
    let mut reduced: FxHashSet<Value> = FxHashSet::default();
    let mut crossing: Vec<Value> = vec![];
    for &n in nodes.iter().filter(|n| **n != first && **n != second) {
        let node = graph.node(n);
        let by_reduction =
            matches!(node.op, Op::Reduce(_)) && node.operands.iter().any(|v| plain.contains(v));
        if by_reduction || node.operands.iter().any(|v| reduced.contains(v)) {
            crossing.extend(node.operands.iter().filter(|v| plain.contains(v)));
            reduced.extend(&node.results);
        } else if node.operands.iter().any(|v| plain.contains(v)) {
            plain.extend(&node.results);
        }
    }
    crossing.sort_unstable();
    crossing.dedup();
    let scores = match crossing[..] {
        [one] => one,
        _ => result,
    };
    reduced.contains(&weights).then_some(Attention { first, second, scores, weights })
}

impl Attention {
    /// The region in three parts, each with its nodes in order: one kernel each.
    pub fn parts<'g>(&self, region: &Region<'g>, nodes: &[NodeId]) -> Vec<(Region<'g>, Vec<NodeId>)> {
        let mut stored = region.stored.clone();
        let mut parts = vec![];
        for outputs in [vec![self.scores], vec![self.weights], region.outputs.clone()] {
            let mut own: FxHashSet<NodeId> = FxHashSet::default();
            let mut stack = outputs.clone();
            while let Some(v) = stack.pop() {
                if let Some((id, node)) = region.graph.def_node(v)
                    && region.nodes.contains(&id)
                    && !stored.contains(&v)
                    && own.insert(id)
                {
                    stack.extend(&node.operands);
                }
            }
            let ordered = nodes.iter().copied().filter(|n| own.contains(n)).collect();
            stored.extend(&outputs);
            parts.push((
                Region { graph: region.graph, nodes: own, outputs, stored: region.stored.clone() },
                ordered,
            ));
        }
        parts
    }
}

/// Lowers a region with two contractions as one kernel.
pub fn lower_attention(
    region: &Region<'_>,
    found: &Attention,
    constants: &dyn Fn(Value) -> Option<Tensor>,
    name: &str,
) -> Result<Lowered, Refusal> {
    let with = |v: Value| Region { stored: FxHashSet::from_iter([v]), ..region.clone() };
    let (rows_region, product_region) = (with(found.scores), with(found.weights));
    let mut trace = Trace::new(&product_region, constants);
    let stages = Stages::trace(&mut trace, [region, &rows_region, &product_region], found)?;
    let plan = Plan::new(&trace, &stages)?;
    emit(trace, &stages, &plan, region, name)
}

/// The left and right operand of a contraction and its reduced axis.
struct Product {
    a: TermId,
    b: TermId,
    depth: AxisId,
}

/// What the three statements compute.
struct Stages {
    /// The scores at query `row` and key `key`.
    scores: TermId,
    first: Product,
    /// The key of the first contraction's columns.
    key: AxisId,
    /// The weights at query `row` and key `along`.
    weights: TermId,
    along: AxisId,
    /// The second contraction, its depth the keys.
    second: Product,
    pieces: Pieces,
    /// The query axis.
    row: AxisId,
    /// Sources that are scratch.
    local: [usize; 2],
}

impl Stages {
    fn trace<'a, 'g>(
        trace: &mut Trace<'a, 'g>,
        [scores_region, rows_region, product_region]: [&'a Region<'g>; 3],
        found: &Attention,
    ) -> Result<Stages, Refusal> {
        let refuse = |reason: &str| Refusal::new(reason);
        let graph = scores_region.graph;
        let (first, second) = (graph.node(found.first), graph.node(found.second));
        let result = second.results[0];
        let factors: Vec<Vec<Dim>> = trace.dims(result)?.iter().map(|d| vec![d.clone()]).collect();
        let domain = Domain::new(&mut trace.axes, &factors);
        trace.enter(
            product_region,
            Some(Hero { value: result, index: domain.index.clone(), mismatch: false }),
        );
        let pieces = pieces(trace, product_region, found.second, &domain)?;
        if trace.hero.as_ref().is_some_and(|h| h.mismatch) || domain.split(trace, &pieces.roots).is_some() {
            return Err(refuse("the product is needed at another index than its own"));
        }
        let spec = |op: &Op| match op {
            Op::Contract(ContractOp::Einsum { spec, .. }) => Ok(spec.clone()),
            other => Err(Refusal::new(format!("`{}` is no contraction", other.mnemonic()))),
        };
        let [depth] = pieces.reduced[..] else { return Err(refuse("a product over several axes")) };
        let local_weights = trace.source(found.weights)?;
        let mut index = at_labels(&spec(&second.op)?, &domain.index, depth);
        let keys = trace.axes.extent(depth).clone();
        let (Some(last), true) = (index.pop(), index.len() > 1) else {
            return Err(refuse("weights of rank 1"));
        };
        if last != Expr::axis(depth) {
            return Err(refuse("weights whose last axis is not summed"));
        }
        let [(super::expr::Atom::Axis(row), _)] = index[index.len() - 1].terms() else {
            return Err(refuse("queries of several axes"));
        };
        let row = *row;
        // The rows.
        trace.enter(rows_region, None);
        let along = trace.axes.add(keys.clone());
        let at_key = |axis: AxisId| index.iter().cloned().chain([Expr::axis(axis)]).collect::<Vec<Expr>>();
        let weights = trace.value(found.weights, &at_key(along), &[])?;
        let local_scores = trace.source(found.scores)?;
        // The scores.
        let key = trace.axes.add(keys);
        let reshaped = |trace: &Trace<'_, '_>, index: Vec<Expr>, to: Value, from: Value| {
            let (to, from) = (trace.dims(to)?, trace.dims(from)?);
            Ok(if to == from { index } else { reshape_index(&index, to, from, &trace.axes) })
        };
        let at_scores = reshaped(trace, at_key(key), found.weights, found.scores)?;
        let value = first.results[0];
        let at_result = reshaped(trace, at_scores.clone(), found.scores, value)?;
        let hero = Hero { value, index: at_result.clone(), mismatch: false };
        trace.enter(scores_region, Some(hero));
        let scores = trace.value(found.scores, &at_scores, &[])?;
        if trace.hero.as_ref().is_some_and(|h| h.mismatch) {
            return Err(refuse("scores are needed at another index than their own"));
        }
        let first = product(trace, &spec(&first.op)?, &first.operands, &at_result)?;
        let second = Product { a: pieces.a, b: pieces.b, depth };
        let local = [local_scores, local_weights];
        Ok(Stages { scores, first, key, weights, along, second, pieces, row, local })
    }
}

/// The index of the left operand.
fn at_labels(spec: &ContractSpec, out: &[Expr], depth: AxisId) -> Vec<Expr> {
    let at = |label: &u8| {
        let own = spec.out.iter().position(|l| l == label);
        own.map_or_else(|| Expr::axis(depth), |i| out[i].clone())
    };
    spec.lhs.iter().map(at).collect()
}

/// The operands of a contraction for a result at `index`.
fn product(
    trace: &mut Trace<'_, '_>,
    spec: &ContractSpec,
    operands: &[Value],
    index: &[Expr],
) -> Result<Product, Refusal> {
    let summed: Vec<usize> = (0..spec.lhs.len()).filter(|&i| !spec.out.contains(&spec.lhs[i])).collect();
    let [at] = summed[..] else { return Err(Refusal::new("scores over several axes")) };
    let depth = trace.axes.add(trace.dims(operands[0])?[at].clone());
    let position = |label: &u8| spec.out.iter().position(|l| l == label);
    let of = |labels: &[u8]| -> Vec<Expr> {
        labels.iter().map(|l| position(l).map_or_else(|| Expr::axis(depth), |i| index[i].clone())).collect()
    };
    let a = trace.value(operands[0], &of(&spec.lhs), &[])?;
    let b = trace.value(operands[1], &of(&spec.rhs), &[])?;
    Ok(Product { a, b, depth })
}

fn emit(
    trace: Trace<'_, '_>,
    s: &Stages,
    plan: &Plan,
    region: &Region<'_>,
    name: &str,
) -> Result<Lowered, Refusal> {
    let Trace { terms, axes, sources, fits, .. } = trace;
    let mut tops: Vec<TermId> = s.pieces.roots.iter().map(|r| r.term).collect();
    tops.extend([s.scores, s.weights, s.first.a, s.first.b, s.second.b]);
    let reduces = reduce_groups(&terms, &axes, &tops);
    let mut b = KernelBuilder::new(name);
    let mut e = Emitter::new(&terms, &axes, &sources, &reduces);
    let outputs: Vec<BufferId> =
        s.pieces.roots.iter().map(|r| e.output(&mut b, r.output, r.dtype, Access::Out)).collect();
    let scratch = Scratch::new(&mut b, &axes, plan);
    let outer: Vec<AxisId> = plan.grid.iter().flat_map(|g| g.members.iter().copied()).collect();
    for source in s.local {
        let rows =
            LocalRows { buffer: scratch.scores, axis: s.row, stride: plan.stride, outer: outer.clone() };
        e.local(source, rows);
    }
    if plan.softmax.is_none() {
        let along = Group::of(s.along);
        let kept = super::rows::kept(&terms, &axes, &[s.weights], &along);
        e.keep(&mut b, &kept, &along);
    }
    let mut points = Dim::known(1);
    let mut vars = vec![];
    for group in &plan.grid {
        let extent = group.extent(&axes);
        points = &points * &extent;
        let extent = e.dim(&mut b, &extent);
        vars.push(b.grid(extent));
    }
    let rows = blocked(&mut e, &mut b, axes.extent(s.row), plan.block, &mut points);
    let accumulator = terms.find_accumulator();
    let statements = Statements { s, plan, scratch, outputs: &outputs, rows, accumulator };
    bind_all(&mut e, &mut b, &plan.grid, &vars, &mut |e, b| statements.emit(e, b));
    let (kernel, params, dims) = e.finish(b)?;
    let queries = plan.grid.iter().fold(axes.extent(s.row).clone(), |n, g| n * g.extent(&axes));
    let depth = axes.extent(s.first.depth) + &plan.columns.extent(&axes);
    let flops = Dim::known(2) * queries * axes.extent(s.key) * depth;
    let grain = grain(&points, &flops, CHUNK_FLOPS);
    let outputs = region.outputs.clone();
    Ok(Lowered { kernel, params, sources, outputs, dims, grid: points, grain, flops, fits })
}
