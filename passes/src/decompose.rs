//! Composites become the operators that they stand for.

use kiln_ir::{Edit, Module, NodeId, Op};

use crate::rewrite::{Cx, Refusal, Rule, require, run_rules};
use crate::{Options, PassError, Report};

const RULES: &[Rule] = &[Rule { name: "composite", apply: composite }];

/// Runs the rule.
pub(crate) fn run(module: &mut Module, options: &Options, report: &mut Report) -> Result<(), PassError> {
    run_rules(RULES, module, options, report)
}

fn composite(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    let Op::Composite(op) = &node.op else { return Err(Refusal::NoMatch) };
    let mut patch = cx.patch(id);
    let results = kiln_ir::decompose::decompose(op, &mut patch, &node.operands)?;
    require(results.len() == node.results.len(), "the body has another number of results")?;
    for (&old, &new) in node.results.iter().zip(&results) {
        let (a, b) = (cx.graph.ty(old), kiln_ir::Build::ty(&patch, new));
        require(a.is_compatible(b), format!("the body gives {b} for {a}"))?;
        patch.replace(old, new);
    }
    Ok(patch.finish())
}
