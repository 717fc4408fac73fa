//! The rewrite engine: rules that answer with a patch or a refusal, applied to a bounded fixpoint.

use std::collections::HashSet;

use kiln_ir::op::{Control, Movement, Source};
use kiln_ir::{
    Build, DType, Dim, Edit, Graph, GraphId, InferError, Module, Node, NodeId, Op, Patch, Tensor, Value,
};
use smallvec::SmallVec;

use crate::{Options, PassError, Report};

/// Why a rule gives no edit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The node is not what the rule is about; nothing to report.
    NoMatch,
    /// The pattern fits, but the rewrite would be wrong or of no use.
    Because(String),
}

impl Refusal {
    /// A refusal with a reason.
    pub fn because(reason: impl Into<String>) -> Self {
        Refusal::Because(reason.into())
    }
}

impl From<InferError> for Refusal {
    fn from(e: InferError) -> Self {
        Refusal::Because(format!("the rewritten node does not type: {e}"))
    }
}

/// `Ok` where the condition holds, else [`Refusal::NoMatch`].
pub fn matches(condition: bool) -> Result<(), Refusal> {
    if condition { Ok(()) } else { Err(Refusal::NoMatch) }
}

/// `Ok` where the condition holds, else a refusal with that reason.
pub fn require(condition: bool, reason: impl Into<String>) -> Result<(), Refusal> {
    if condition { Ok(()) } else { Err(Refusal::Because(reason.into())) }
}

/// A rewrite rule, tried at every node.
pub struct Rule {
    /// Name in reports.
    pub name: &'static str,
    /// The edit that rewrites the node, or why there is none.
    pub apply: fn(&Cx<'_>, NodeId) -> Result<Edit, Refusal>,
}

/// Who uses each value of a graph.
#[derive(Clone, Debug, Default)]
pub struct Uses {
    users: Vec<SmallVec<[NodeId; 2]>>,
    outputs: Vec<u32>,
}

impl Uses {
    /// The uses in a graph as it is.
    pub fn of(graph: &Graph) -> Self {
        let mut uses =
            Uses { users: vec![SmallVec::new(); graph.value_count()], outputs: vec![0; graph.value_count()] };
        for (id, node) in graph.scheduled() {
            for v in &node.operands {
                uses.users[v.index()].push(id);
            }
        }
        for v in graph.outputs() {
            uses.outputs[v.index()] += 1;
        }
        uses
    }

    /// The nodes that use a value, once for each operand that it is.
    pub fn users(&self, v: Value) -> &[NodeId] {
        &self.users[v.index()]
    }

    /// Whether the value is an output of the graph.
    pub fn is_output(&self, v: Value) -> bool {
        self.outputs[v.index()] > 0
    }

    /// How many operands and outputs the value is.
    pub fn count(&self, v: Value) -> usize {
        self.users[v.index()].len() + self.outputs[v.index()] as usize
    }

    /// The node that alone uses the value, if there is exactly one use and it is an operand.
    pub fn only_user(&self, v: Value) -> Option<NodeId> {
        match self.users(v) {
            [one] if !self.is_output(v) => Some(*one),
            _ => None,
        }
    }
}

/// What a rule sees.
pub struct Cx<'a> {
    /// The module.
    pub module: &'a Module,
    /// The graph being rewritten.
    pub graph: &'a Graph,
    /// Its uses.
    pub uses: &'a Uses,
    /// Options of the run.
    pub options: &'a Options,
}

/// Most elements of a constant that is compared whole to find out whether all are equal.
const MAX_SPLAT: usize = 1 << 16;

impl<'a> Cx<'a> {
    /// A node.
    pub fn node(&self, id: NodeId) -> &'a Node {
        self.graph.node(id)
    }

    /// The operator that defines a value, with its node.
    pub fn def(&self, v: Value) -> Option<(NodeId, &'a Node)> {
        self.graph.def_node(v)
    }

    /// The movement that defines a value, with its node.
    pub fn movement(&self, v: Value) -> Option<(&'a Movement, &'a Node)> {
        match self.def(v)? {
            (_, node @ Node { op: Op::Movement(m), .. }) => Some((m, node)),
            _ => None,
        }
    }

    /// Dims of a tensor value of known rank.
    pub fn dims(&self, v: Value) -> Option<&'a [Dim]> {
        self.graph.ty(v).as_tensor()?.shape.dims()
    }

    /// As [`Cx::dims`]; a value of unknown rank is no match.
    pub fn shape(&self, v: Value) -> Result<&'a [Dim], Refusal> {
        self.dims(v).ok_or(Refusal::NoMatch)
    }

    /// Constant dims of a tensor value.
    pub fn fixed(&self, v: Value) -> Option<Vec<i64>> {
        self.dims(v)?.iter().map(Dim::as_known).collect()
    }

    /// Dtype of a tensor value.
    pub fn dtype(&self, v: Value) -> Option<DType> {
        self.graph.ty(v).as_tensor().map(|t| t.dtype)
    }

    /// The constant that a value is.
    pub fn constant(&self, v: Value) -> Option<&'a Tensor> {
        self.graph.constant(v)
    }

    /// The number that every element of a constant value is.
    pub fn splat(&self, v: Value) -> Option<f64> {
        splat(self.graph, v)
    }

    /// A patch whose nodes go before a node.
    pub fn patch(&self, before: NodeId) -> Patch<'a> {
        Patch::before(self.module, self.graph, before)
    }

    /// An edit that replaces the only result of `id` by what `build` makes, which must have the same type.
    pub fn rewrite(
        &self,
        id: NodeId,
        build: impl FnOnce(&mut Patch<'a>) -> Result<Value, Refusal>,
    ) -> Result<Edit, Refusal> {
        let mut patch = self.patch(id);
        let new = build(&mut patch)?;
        let [old] = self.node(id).results[..] else { return Err(Refusal::NoMatch) };
        let (old_ty, new_ty) = (self.graph.ty(old), patch.ty(new));
        require(old_ty == new_ty, format!("the result would change from {old_ty} to {new_ty}"))?;
        patch.replace(old, new);
        Ok(patch.finish())
    }
}

/// The number that every element of a constant value is.
pub fn splat(graph: &Graph, v: Value) -> Option<f64> {
    let tensor = graph.constant(v)?;
    if tensor.numel() == 0 || tensor.numel() > MAX_SPLAT {
        return None;
    }
    let first = tensor.element(0)?;
    let bits = tensor.element_bits(0);
    if (1..tensor.numel()).any(|i| tensor.element_bits(i) != bits) {
        return None;
    }
    Some(match first {
        kiln_ir::Scalar::F(x) => x,
        kiln_ir::Scalar::I(x) => x as f64,
        kiln_ir::Scalar::B(x) => f64::from(u8::from(x)),
    })
}

/// Names a node for people: its source if it has one, else its id and operator.
pub fn describe(graph: &Graph, id: NodeId) -> String {
    let node = graph.node(id);
    match &node.origin {
        Some(origin) => origin.to_string(),
        None => format!("graph `{}`: {id} ({})", graph.name(), node.op.mnemonic()),
    }
}

/// The graphs that entries reach, entries first, without those that are kernels (called by `fusion`).
pub fn live_graphs(module: &Module) -> Vec<GraphId> {
    let mut found: Vec<GraphId> = vec![];
    for &entry in module.entries() {
        if !found.contains(&entry) {
            found.push(entry);
        }
    }
    let mut at = 0;
    while let Some(&id) = found.get(at) {
        at += 1;
        let Some(graph) = module.get_graph(id) else { continue };
        for (_, node) in graph.scheduled() {
            if matches!(node.op, Op::Control(Control::Fusion { .. })) {
                continue;
            }
            for called in node.op.graphs() {
                if !found.contains(&called) {
                    found.push(called);
                }
            }
        }
    }
    found
}

/// Nodes of the live graphs, constants aside.
pub fn count_nodes(module: &Module) -> usize {
    let is_work = |n: &Node| !matches!(n.op, Op::Source(Source::Constant { .. }));
    live_graphs(module).iter().map(|&g| module.graph(g).scheduled().filter(|(_, n)| is_work(n)).count()).sum()
}

/// Rewrites that a graph of `nodes` nodes may take before the rules count as not terminating.
fn bound(nodes: usize) -> usize {
    1000 + 64 * nodes
}

/// Applies rules to every live graph until none applies. In each sweep nodes are visited in schedule order and the
/// first rule that gives an edit wins.
pub fn run_rules(
    rules: &[Rule],
    module: &mut Module,
    options: &Options,
    report: &mut Report,
) -> Result<(), PassError> {
    for id in live_graphs(module) {
        run_rules_on(rules, module, id, options, report)?;
    }
    Ok(())
}

fn run_rules_on(
    rules: &[Rule],
    module: &mut Module,
    id: GraphId,
    options: &Options,
    report: &mut Report,
) -> Result<(), PassError> {
    let pass = report.current().name;
    let bound = bound(module.graph(id).schedule().len());
    let mut applied = 0;
    // What nothing uses may still say what a symbol is. Such a node may stay when its results have given way.
    let mut unused_once: HashSet<NodeId> = HashSet::new();
    loop {
        let mut refused = vec![];
        let before = applied;
        let mut uses = Uses::of(module.graph(id));
        let binders: HashSet<NodeId> = module.graph(id).symbol_binders().into_values().collect();
        for node in module.graph(id).schedule().to_vec() {
            let unused = is_unused(module.graph(id), &uses, node);
            if unused && (!binders.contains(&node) || unused_once.contains(&node)) {
                continue;
            }
            let Some((rule, edit)) = first_edit(rules, module, id, &uses, options, node, &mut refused) else {
                continue;
            };
            module.apply(id, edit).map_err(|source| PassError::Edit { pass, rule, source })?;
            uses = Uses::of(module.graph(id));
            if unused {
                unused_once.insert(node);
            }
            report.applied(rule, 1);
            applied += 1;
            if applied > bound {
                let graph = module.graph(id).name().to_owned();
                return Err(PassError::Diverges { pass, graph, bound, rule });
            }
        }
        module.remove_dead_nodes(id);
        if applied == before {
            for (rule, node, reason) in refused {
                report.refused(rule, node, reason);
            }
            return Ok(());
        }
    }
}

/// Whether nothing uses a node's results, and it has no effect.
fn is_unused(graph: &Graph, uses: &Uses, node: NodeId) -> bool {
    let data = graph.node(node);
    !data.op.has_effect() && data.results.iter().all(|&r| uses.count(r) == 0)
}

/// The edit of the first rule that applies to a node.
fn first_edit(
    rules: &[Rule],
    module: &Module,
    id: GraphId,
    uses: &Uses,
    options: &Options,
    node: NodeId,
    refused: &mut Vec<(&'static str, String, String)>,
) -> Option<(&'static str, Edit)> {
    let graph = module.graph(id);
    let cx = Cx { module, graph, uses, options };
    for rule in rules {
        match (rule.apply)(&cx, node) {
            Ok(edit) => return Some((rule.name, edit)),
            Err(Refusal::NoMatch) => {}
            Err(Refusal::Because(reason)) => refused.push((rule.name, describe(graph, node), reason)),
        }
    }
    None
}
