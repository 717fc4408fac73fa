//! Contractions of one operand with several constant weights become one.

use kiln_ir::op::{Contract, ContractSpec};
use kiln_ir::{Build, Dim, Edit, InferError, Module, Node, NodeId, Op, Tensor, Value};

use crate::rewrite::{Cx, Refusal, Rule, matches, require, run_rules};
use crate::{Options, PassError, Report};

const RULES: &[Rule] = &[Rule { name: "siblings", apply: siblings }];

/// Runs the rule.
pub(crate) fn run(module: &mut Module, options: &Options, report: &mut Report) -> Result<(), PassError> {
    run_rules(RULES, module, options, report)
}

/// Columns of one contraction below which it leaves vector lanes unused, so that joining pays for the copies that
/// slices of the joint result cost. Wider ones run at full speed alone, and their results stay contiguous.
const NARROW: i64 = 32;

fn siblings(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    let (spec, x, own) = weighted(cx, node)?;
    let axis =
        column(spec).ok_or_else(|| Refusal::because("the weights have not exactly one column axis"))?;
    let out_axis = spec.out.iter().position(|l| *l == spec.rhs[axis]).ok_or(Refusal::NoMatch)?;
    let mut all: Vec<(&Node, &Tensor)> = vec![];
    let mut users = cx.uses.users(x).to_vec();
    users.dedup();
    for u in users {
        let other = cx.node(u);
        let Ok((other_spec, _, weights)) = weighted(cx, other) else { continue };
        let same_rows =
            weights.dims().iter().zip(own.dims()).enumerate().all(|(i, (a, b))| i == axis || a == b);
        if other.op == node.op && other_spec == spec && same_rows && other.operands[0] == x {
            all.push((other, weights));
        }
    }
    matches(all.len() > 1 && all.first().is_some_and(|(n, _)| n.results == node.results))?;
    let widths: Option<Vec<i64>> =
        all.iter().map(|(_, w)| w.dims().get(axis).and_then(|&d| i64::try_from(d).ok())).collect();
    let widths = widths.ok_or(Refusal::NoMatch)?;
    let narrow = widths.iter().all(|&w| w < NARROW);
    require(narrow, format!("columns of {widths:?} are wide enough alone"))?;
    let mut p = cx.patch(id);
    // Constants anew: the others' may be defined after this node.
    let weights: Vec<Value> =
        all.iter().map(|(_, w)| p.constant((*w).clone())).collect::<Result<_, InferError>>()?;
    let joint = p.concat(&weights, axis)?;
    let y = p.add1(node.op.clone(), &[x, joint])?;
    let mut start = 0;
    for ((n, _), width) in all.iter().zip(widths) {
        let part = p.slice_axis(y, out_axis, Dim::known(start), Dim::known(width))?;
        p.replace(n.results[0], part);
        start += width;
    }
    Ok(p.finish())
}

/// Label spec, shared operand and constant weights of a contraction.
fn weighted<'a>(cx: &Cx<'a>, node: &'a Node) -> Result<(&'a ContractSpec, Value, &'a Tensor), Refusal> {
    let Op::Contract(Contract::Einsum { spec, .. }) = &node.op else { return Err(Refusal::NoMatch) };
    let &[x, w] = &node.operands[..] else { return Err(Refusal::NoMatch) };
    let weights = cx.constant(w).ok_or(Refusal::NoMatch)?;
    Ok((spec, x, weights))
}

/// The only axis of the weights whose label the shared operand lacks.
fn column(spec: &ContractSpec) -> Option<usize> {
    let mut own = spec.rhs.iter().enumerate().filter(|(_, l)| !spec.lhs.contains(l)).map(|(i, _)| i);
    own.next().filter(|_| own.next().is_none())
}
