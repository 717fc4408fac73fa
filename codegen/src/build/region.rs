//! Regions to kernels: around a contraction if there is one, else as loops; outputs of different shapes go to kernels
//! of their own.

use kiln_ir::op::{Contract, Conv, Movement};
use kiln_ir::{Dim, NodeId, Op, Tensor, Value};
use rustc_hash::{FxHashMap, FxHashSet};

use super::contract::{Tuning, lower_contract};
use super::loops::{Lowered, Piece, lower_loops};
use super::serial::lower_serial;
use super::small::is_small;
use super::trace::{Refusal, Region, kernel_type};
use super::winograd::lower_winograd;

/// Nodes that may share the general path with a contraction: a few of an epilogue.
const MOST_WITH_HERO: usize = 24;

/// The kernel of a region around its only contraction; `nodes` are the region's, in order.
pub fn lower_hero(
    region: &Region<'_>,
    nodes: &[NodeId],
    constants: &dyn Fn(Value) -> Option<Tensor>,
    tuning: Tuning,
    name: &str,
) -> Result<Lowered, Refusal> {
    if region.outputs.iter().any(|&v| kernel_type(region.graph, v).is_ok_and(|t| is_small(t.0))) {
        return Err(Refusal::new("a small result of a contraction"));
    }
    let mut heroes = nodes.iter().copied().filter(|n| is_hero(&region.graph.node(*n).op));
    match (heroes.next(), heroes.next()) {
        (Some(hero), None) => match lower_winograd(region, hero, constants, tuning, name) {
            Ok(lowered) => Ok(lowered),
            Err(refusal) => {
                tracing::trace!(name, reason = %refusal.0, "no transformed tiles");
                lower_contract(region, hero, constants, tuning, name)
            }
        },
        (None, _) => Err(Refusal::new("no contraction")),
        (Some(_), Some(_)) => Err(Refusal::new("several contractions")),
    }
}

/// The kernels of a region as loops, in the order they run. `nodes` are the region's, in order.
pub fn lower_region(
    region: &Region<'_>,
    nodes: &[NodeId],
    constants: &dyn Fn(Value) -> Option<Tensor>,
    name: &str,
) -> Result<Vec<Lowered>, Refusal> {
    if region.outputs.is_empty() {
        return Err(Refusal::new("nothing to store"));
    }
    for &v in &region.outputs {
        kernel_type(region.graph, v)?;
    }
    if let [id] = *nodes
        && let Some(lowered) = lower_serial(region, region.graph.node(id), constants, name)
    {
        return lowered.map(|kernel| vec![kernel]);
    }
    let heroes = nodes.iter().filter(|n| is_hero(&region.graph.node(**n).op)).count();
    if heroes > 1 || (heroes == 1 && nodes.len() > MOST_WITH_HERO) {
        return Err(Refusal::new("a contraction among many operators"));
    }
    let mut kernels = vec![];
    let mut stored: FxHashSet<Value> = region.stored.clone();
    for outputs in classes(region, nodes) {
        let part = Region { outputs: outputs.clone(), stored: stored.clone(), ..region.clone() };
        let pieces = pieces(&part, nodes);
        if pieces.is_empty() {
            kernels.push(lower_loops(&part, constants, None, name)?);
        }
        for piece in &pieces {
            kernels.push(lower_loops(&part, constants, Some(piece), name)?);
        }
        stored.extend(outputs);
    }
    Ok(kernels)
}

/// Parts of the output, one for each operand of a concatenation of the same shape; empty if there is no such.
fn pieces(region: &Region<'_>, nodes: &[NodeId]) -> Vec<Piece> {
    const MOST: usize = 64;
    let graph = region.graph;
    let shape = |v: Value| kernel_type(graph, v).map(|(_, dims)| dims);
    let [output] = region.outputs.as_slice() else { return vec![] };
    if kernel_type(graph, *output).is_ok_and(|t| t.0.is_packed()) {
        return vec![];
    }
    let found = nodes.iter().map(|n| graph.node(*n)).find_map(|node| match &node.op {
        Op::Movement(Movement::Concat { axis }) if shape(node.results[0]) == shape(*output) => {
            Some((*axis, &node.operands))
        }
        _ => None,
    });
    let Some((axis, operands)) = found.filter(|(_, operands)| operands.len() <= MOST) else { return vec![] };
    let mut start = Dim::known(0);
    let mut pieces = vec![];
    for &operand in operands {
        let Ok(dims) = shape(operand) else { return vec![] };
        let extent = dims[axis].clone();
        let next = &start + &extent;
        pieces.push(Piece { axis, start, extent });
        start = next;
    }
    pieces
}

fn is_hero(op: &Op) -> bool {
    matches!(op, Op::Contract(Contract::Einsum { .. }) | Op::Conv(Conv::Forward { .. }))
}

/// Outputs grouped by shape, in an order in which each group's kernel may read what those before it stored. An output that
/// needs one of another shape comes after it: computed again, the other could have other rounding errors than what is
/// stored.
fn classes(region: &Region<'_>, nodes: &[NodeId]) -> Vec<Vec<Value>> {
    let mut classes: Vec<(Vec<Dim>, Vec<Value>)> = vec![];
    // For each value of the region, the last class of which it needs an output.
    let mut latest: FxHashMap<Value, usize> = FxHashMap::default();
    for node in nodes.iter().map(|id| region.graph.node(*id)) {
        let needed = node.operands.iter().filter_map(|v| latest.get(v)).max().copied();
        for &v in &node.results {
            let mut own = needed;
            if region.outputs.contains(&v) {
                let dims = kernel_type(region.graph, v).map(|(_, d)| d.to_vec()).unwrap_or_default();
                let fits = |(i, (d, _)): (usize, &(Vec<Dim>, Vec<Value>))| {
                    *d == dims && needed.is_none_or(|n| n <= i)
                };
                let at = classes.iter().enumerate().position(fits).unwrap_or(classes.len());
                match classes.get_mut(at) {
                    Some((_, values)) => values.push(v),
                    None => classes.push((dims, vec![v])),
                }
                own = Some(at);
            }
            own.map(|at| latest.insert(v, at));
        }
    }
    classes.into_iter().map(|(_, values)| values).collect()
}
