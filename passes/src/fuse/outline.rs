//! Outlining: groups become private graphs and `fusion` nodes, in one edit.

use std::collections::{BTreeSet, HashMap, HashSet};

use kiln_ir::op::{Control, Movement};
use kiln_ir::{Build as _, Def, Graph, GraphBuilder, GraphId, InferError, Module, NodeId, Op, Patch, Value};
use rustc_hash::FxBuildHasher;

use super::Group;
use super::role::{Role, Web, multiplies_integers};
use crate::PassError;
use crate::rewrite::describe;

/// One step of the graph after fusion.
#[derive(Clone, Debug)]
pub(crate) enum Unit {
    /// A node that stays.
    Node(NodeId),
    /// A kernel.
    Kernel(Kernel),
}

/// A group, ready to be outlined.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    /// Nodes, in order.
    members: Vec<NodeId>,
    /// Values that other units need.
    outputs: Vec<Value>,
    /// The node after which the kernel is called in messages.
    lead: NodeId,
}

/// The order of kernels and remaining nodes: each after those that feed it, otherwise as scheduled.
pub(crate) fn order(web: &Web<'_>, groups: &[Group]) -> Vec<Unit> {
    let mut unit_of: Vec<Option<usize>> = vec![None; web.ids.len()];
    for (u, group) in groups.iter().enumerate() {
        for &m in &group.members {
            unit_of[m] = Some(u);
        }
    }
    // Positions of each unit; groups first, then single nodes.
    let mut units: Vec<Vec<usize>> = groups.iter().map(|g| g.members.clone()).collect();
    for (at, slot) in unit_of.iter_mut().enumerate() {
        // Free nodes live on as copies only, unless they are groups of their own or constants.
        if slot.is_none() && (web.roles[at] != Role::Free || web.is_constant(at)) {
            *slot = Some(units.len());
            units.push(vec![at]);
        }
    }
    let mut waits = vec![0usize; units.len()];
    let mut feeds: Vec<Vec<usize>> = vec![vec![]; units.len()];
    for (u, members) in units.iter().enumerate() {
        let producers = members.iter().flat_map(|&m| web.from[m].iter());
        let needed: BTreeSet<usize> = producers.filter_map(|&p| unit_of[p]).filter(|&p| p != u).collect();
        waits[u] = needed.len();
        for p in needed {
            feeds[p].push(u);
        }
    }
    let mut ready: BTreeSet<(usize, usize)> =
        (0..units.len()).filter(|&u| waits[u] == 0).map(|u| (units[u][0], u)).collect();
    let mut out = vec![];
    while let Some((_, u)) = ready.pop_first() {
        out.push(unit(web, groups, &units[u], u));
        for &next in &feeds[u] {
            waits[next] -= 1;
            if waits[next] == 0 {
                ready.insert((units[next][0], next));
            }
        }
    }
    out
}

fn unit(web: &Web<'_>, groups: &[Group], members: &[usize], u: usize) -> Unit {
    let Some(group) = groups.get(u) else { return Unit::Node(web.ids[members[0]]) };
    let heavy = |m: &&usize| matches!(web.roles[**m], Role::Hero | Role::Alone | Role::Reduce);
    let lead = group.members.iter().find(heavy).or(group.members.last()).copied().unwrap_or(members[0]);
    Unit::Kernel(Kernel {
        members: members.iter().map(|&m| web.ids[m]).collect(),
        outputs: web.outputs(members),
        lead: web.ids[lead],
    })
}

/// Builds the private graphs and replaces the groups by calls of them.
pub(crate) fn outline(
    module: &mut Module,
    id: GraphId,
    units: &[Unit],
    free: &FreeNodes,
) -> Result<(), PassError> {
    if !units.iter().any(|u| matches!(u, Unit::Kernel(_))) {
        return Ok(());
    }
    let graph = module.graph(id).clone();
    let mut calls: Vec<Option<(GraphId, Vec<Value>)>> = vec![];
    for unit in units {
        calls.push(match unit {
            Unit::Node(_) => None,
            Unit::Kernel(kernel) => {
                let built = Body::build(module, &graph, kernel, free);
                Some(built.map_err(|source| infer_error(&graph, kernel.lead, source))?)
            }
        });
    }
    let mut patch = Patch::at_end(module, module.graph(id));
    let mut renamed: HashMap<Value, Value, FxBuildHasher> = HashMap::default();
    let mut order = vec![];
    for (unit, call) in units.iter().zip(calls) {
        match (unit, call) {
            (Unit::Kernel(kernel), Some((callee, inputs))) => {
                let operands: Vec<Value> = inputs.iter().map(|v| *renamed.get(v).unwrap_or(v)).collect();
                patch.set_origin(graph.node(kernel.lead).origin.clone());
                let results = patch
                    .add(Op::Control(Control::Fusion { graph: callee }), &operands)
                    .map_err(|source| infer_error(&graph, kernel.lead, source))?;
                for (&old, &new) in kernel.outputs.iter().zip(&results) {
                    patch.replace(old, new);
                    renamed.insert(old, new);
                }
                if let Some(Def::Result(node, _)) = results.first().map(|&r| patch.def(r)) {
                    order.push(node);
                }
            }
            (Unit::Node(node), _) => order.push(*node),
            (Unit::Kernel(_), None) => {}
        }
    }
    patch.set_schedule(order);
    let edit = patch.finish();
    module.apply(id, edit).map_err(|source| PassError::Edit { pass: "fuse", rule: "kernel", source })
}

fn infer_error(graph: &Graph, node: NodeId, source: InferError) -> PassError {
    PassError::Infer { pass: "fuse", node: describe(graph, node), source }
}

/// A private graph under construction.
struct Body<'m, 'g> {
    builder: GraphBuilder<'m>,
    graph: &'g Graph,
    free: &'g FreeNodes,
    inner: HashMap<Value, Value, FxBuildHasher>,
    inputs: Vec<Value>,
}

/// Nodes that are copied into the kernels that use them.
pub(crate) type FreeNodes = HashSet<NodeId, FxBuildHasher>;

/// Whether a kernel reads the operands of such an operator from memory as they are.
fn reads_inputs(op: &Op) -> bool {
    matches!(op, Op::Contract(_) | Op::Conv(_) | Op::Window(_) | Op::Movement(Movement::Concat { .. }))
}

/// Longest name of a private graph, in operators.
const NAME_PARTS: usize = 6;

impl<'m, 'g> Body<'m, 'g> {
    /// The private graph of a kernel, and the values that it takes.
    fn build(
        module: &'m mut Module,
        graph: &'g Graph,
        kernel: &Kernel,
        free: &'g FreeNodes,
    ) -> Result<(GraphId, Vec<Value>), InferError> {
        let ops = kernel.members.iter().map(|&m| graph.node(m).op.mnemonic());
        let mut name = ops.take(NAME_PARTS).collect::<Vec<_>>().join("_");
        if kernel.members.len() > NAME_PARTS {
            name.push_str("_etc");
        }
        let builder = GraphBuilder::new(module, &name);
        let mut body = Body { builder, graph, free, inner: HashMap::default(), inputs: vec![] };
        for &m in &kernel.members {
            body.node(m)?;
        }
        for (i, v) in kernel.outputs.iter().enumerate() {
            if let Some(&new) = body.inner.get(v) {
                body.builder.output(&format!("r{i}"), new);
            }
        }
        Ok((body.builder.finish(), body.inputs))
    }

    fn node(&mut self, id: NodeId) -> Result<(), InferError> {
        let node = self.graph.node(id);
        let is_hero = reads_inputs(&node.op);
        let mut operands = vec![];
        for &v in &node.operands {
            let widened = multiplies_integers(&node.op) && self.widens(v);
            operands.push(if is_hero && !widened { self.outer(v) } else { self.value(v)? });
        }
        self.builder.set_origin(node.origin.clone());
        let results = self.builder.add(node.op.clone(), &operands)?;
        for (&old, &new) in node.results.iter().zip(&results) {
            // Types that a file declared may be finer than inference alone gives.
            self.builder.refine(new, self.graph.ty(old))?;
            self.inner.insert(old, new);
        }
        Ok(())
    }

    /// Whether a free node with an operand makes the value: integers of bytes, which a contraction widens itself.
    fn widens(&self, v: Value) -> bool {
        let widening = |op: &Op| matches!(op, Op::Cast(_) | Op::Elementwise(_));
        self.graph.def_node(v).is_some_and(|(id, node)| self.free.contains(&id) && widening(&node.op))
    }

    /// The value inside the body: a member's result, a copy of a free node's, or an input.
    fn value(&mut self, v: Value) -> Result<Value, InferError> {
        if let Some(&inner) = self.inner.get(&v) {
            return Ok(inner);
        }
        if let Some((id, _)) = self.graph.def_node(v)
            && self.free.contains(&id)
        {
            self.node(id)?;
            return self.inner.get(&v).copied().ok_or_else(|| InferError::new("a copy has no result"));
        }
        Ok(self.outer(v))
    }

    fn outer(&mut self, v: Value) -> Value {
        if let Some(&inner) = self.inner.get(&v) {
            return inner;
        }
        let name = format!("x{}", self.inputs.len());
        let input = self.builder.input(&name, self.graph.ty(v).clone());
        self.inner.insert(v, input);
        self.inputs.push(v);
        input
    }
}
