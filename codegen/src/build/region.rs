//! Regions to kernels: around a contraction if there is one, else as loops; outputs of different shapes go to kernels
//! of their own.

use kiln_ir::op::{Contract, Conv};
use kiln_ir::{Dim, NodeId, Op, Tensor, Value};
use rustc_hash::FxHashSet;

use super::contract::{Tuning, lower_contract};
use super::loops::{Lowered, lower_loops};
use super::trace::{Refusal, Region, kernel_type};

/// The kernels of a region, in the order they run. `nodes` are the region's, in order.
pub fn lower_region(
    region: &Region<'_>,
    nodes: &[NodeId],
    constants: &dyn Fn(Value) -> Option<Tensor>,
    tuning: Tuning,
    name: &str,
) -> Result<Vec<Lowered>, Refusal> {
    if region.outputs.is_empty() {
        return Err(Refusal::new("nothing to store"));
    }
    for &v in &region.outputs {
        kernel_type(region.graph, v)?;
    }
    let heroes: Vec<NodeId> = nodes.iter().copied().filter(|n| is_hero(&region.graph.node(*n).op)).collect();
    if let [hero] = heroes.as_slice() {
        match lower_contract(region, *hero, constants, tuning, name) {
            Ok(lowered) => return Ok(vec![lowered]),
            Err(refusal) => {
                tracing::debug!(name, reason = %refusal.0, "contraction takes the general path");
            }
        }
    }
    if heroes.len() > 1 {
        return Err(Refusal::new("several contractions"));
    }
    let mut kernels = vec![];
    let mut stored: FxHashSet<Value> = region.stored.clone();
    for outputs in classes(region, nodes) {
        let part = Region { outputs: outputs.clone(), stored: stored.clone(), ..region.clone() };
        kernels.push(lower_loops(&part, constants, name)?);
        stored.extend(outputs);
    }
    Ok(kernels)
}

fn is_hero(op: &Op) -> bool {
    matches!(op, Op::Contract(Contract::Einsum { .. }) | Op::Conv(Conv::Forward { .. }))
}

/// Outputs grouped by shape, in the order of their definition.
fn classes(region: &Region<'_>, nodes: &[NodeId]) -> Vec<Vec<Value>> {
    let mut ordered: Vec<Value> = vec![];
    for id in nodes {
        let results = region.graph.node(*id).results.iter().copied();
        ordered.extend(results.filter(|v| region.outputs.contains(v)));
    }
    let mut classes: Vec<(Vec<Dim>, Vec<Value>)> = vec![];
    for v in ordered {
        let dims = kernel_type(region.graph, v).map(|(_, d)| d.to_vec()).unwrap_or_default();
        match classes.iter_mut().find(|(d, _)| *d == dims) {
            Some((_, values)) => values.push(v),
            None => classes.push((dims, vec![v])),
        }
    }
    classes.into_iter().map(|(_, values)| values).collect()
}
