//! Common-subexpression and dead-code elimination.

use std::collections::HashMap;

use kiln_ir::{Build as _, Module, Op, Patch, Value};
use rustc_hash::FxBuildHasher;
use smallvec::SmallVec;

use crate::rewrite::live_graphs;
use crate::{Options, PassError, Report};

/// Merges nodes of equal operator and operands.
pub(crate) fn cse(module: &mut Module, _: &Options, report: &mut Report) -> Result<(), PassError> {
    for id in live_graphs(module) {
        let graph = module.graph(id);
        let mut seen: HashMap<(&Op, SmallVec<[Value; 4]>), &[Value], FxBuildHasher> = HashMap::default();
        let mut same: HashMap<Value, Value, FxBuildHasher> = HashMap::default();
        let mut patch = Patch::at_end(module, graph);
        let mut merged = 0;
        for (_, node) in graph.scheduled() {
            if node.op.has_effect() {
                continue;
            }
            let operands = node.operands.iter().map(|v| *same.get(v).unwrap_or(v)).collect();
            let results: &[Value] = &node.results;
            match seen.entry((&node.op, operands)) {
                std::collections::hash_map::Entry::Vacant(slot) => {
                    slot.insert(results);
                }
                std::collections::hash_map::Entry::Occupied(first) => {
                    // Equal operators may have named unknown dims differently; then they are not provably equal.
                    let twins = || first.get().iter().zip(results);
                    if twins().any(|(a, b)| patch.ty(*a) != patch.ty(*b)) {
                        continue;
                    }
                    for (&a, &b) in twins() {
                        patch.replace(b, a);
                        same.insert(b, a);
                    }
                    merged += 1;
                }
            }
        }
        let edit = patch.finish();
        if merged > 0 {
            let pass = report.current().name;
            module.apply(id, edit).map_err(|source| PassError::Edit { pass, rule: "merge", source })?;
            module.remove_dead_nodes(id);
            report.applied("merge", merged);
        }
    }
    Ok(())
}

/// Removes nodes whose results nothing uses.
pub(crate) fn dce(module: &mut Module, _: &Options, report: &mut Report) -> Result<(), PassError> {
    for id in live_graphs(module) {
        let removed = module.remove_dead_nodes(id);
        report.applied("remove", removed);
    }
    Ok(())
}
