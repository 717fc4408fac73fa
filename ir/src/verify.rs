//! The verifier. It checks, and reports every violation of:
//!
//! 1. Ids: graph inputs and outputs, operands, results, scheduled nodes and called graphs lie in their arenas.
//! 2. Names: a graph has as many names as inputs, and as outputs; an entry's input names differ from one another, and
//!    so do its output names.
//! 3. Definitions: every input and every result of a scheduled node is defined there and nowhere else.
//! 4. Schedule: no node stands in it twice; operands are inputs or results of nodes before; outputs are inputs or
//!    results of scheduled nodes.
//! 5. Types: a node has the results that inference gives, with compatible types; no tensor has an unknown dim.
//! 6. Known values: a known constant has the value's type; known elements are as many as the type says.
//! 7. Calls: no graph calls itself, directly or through others. (Operands that do not fit a called graph's inputs are
//!    violations of 5.)
//! 8. Entries: they exist, none is listed twice, their names differ.
//! 9. States: names differ; what is read or assigned is declared, with the same dtype.
//!
//! Graphs are isolated by construction: a value id means something in its own graph only, so there is no invariant to
//! check for it. Where an id is out of range, later checks of its graph, and type checks everywhere, are left out:
//! they could not be trusted.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::graph::{Def, Known, Origin};
use crate::infer::{InferCx, infer};
use crate::op::Object;
use crate::{Dim, Graph, GraphId, Module, Node, NodeId, Op, Type, Value};

/// One violation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct VerifyError {
    /// The graph, unless the module as a whole is at fault.
    pub graph: Option<GraphId>,
    /// The node, and its operator's mnemonic.
    pub node: Option<(NodeId, &'static str)>,
    /// Where the node comes from.
    pub origin: Option<Arc<Origin>>,
    /// What is wrong.
    pub reason: String,
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(g) = self.graph {
            write!(f, "{g}: ")?;
        }
        if let Some((n, mnemonic)) = self.node {
            write!(f, "{n} `{mnemonic}`: ")?;
        }
        f.write_str(&self.reason)?;
        match &self.origin {
            Some(o) => write!(f, " ({o})"),
            None => Ok(()),
        }
    }
}

/// Checks a module; gives every violation.
pub fn verify(module: &Module) -> Result<(), Vec<VerifyError>> {
    let mut v = Verifier { module, errors: vec![] };
    v.entries();
    v.states();
    let mut in_range = true;
    for (id, graph) in module.graphs() {
        if v.ids(id, graph) {
            v.names(id, graph);
            v.definitions(id, graph);
            v.schedule(id, graph);
        } else {
            in_range = false;
        }
    }
    if in_range {
        if let Err(e) = call_order(module) {
            let graph = module.graph(e.caller);
            v.at_node(e.caller, e.node, graph.node(e.node), format!("graph {} calls itself", e.callee));
        }
        for (id, graph) in module.graphs() {
            v.types(id, graph);
        }
    }
    if v.errors.is_empty() { Ok(()) } else { Err(v.errors) }
}

struct Verifier<'m> {
    module: &'m Module,
    errors: Vec<VerifyError>,
}

impl Verifier<'_> {
    fn at_module(&mut self, reason: String) {
        self.errors.push(VerifyError { graph: None, node: None, origin: None, reason });
    }

    fn at_graph(&mut self, graph: GraphId, reason: String) {
        self.errors.push(VerifyError { graph: Some(graph), node: None, origin: None, reason });
    }

    fn at_node(&mut self, graph: GraphId, id: NodeId, node: &Node, reason: String) {
        let (graph, place) = (Some(graph), Some((id, node.op.mnemonic())));
        self.errors.push(VerifyError { graph, node: place, origin: node.origin.clone(), reason });
    }

    fn entries(&mut self) {
        let (mut seen, mut names) = (HashSet::new(), HashSet::new());
        for &id in self.module.entries() {
            let Some(graph) = self.module.get_graph(id) else {
                self.at_module(format!("entry {id} is no graph"));
                continue;
            };
            if !seen.insert(id) {
                self.at_module(format!("entry {id} is listed twice"));
            } else if !names.insert(graph.name()) {
                self.at_module(format!("two entries are named `{}`", graph.name()));
            }
        }
    }

    fn states(&mut self) {
        let mut names = HashSet::new();
        for s in self.module.states() {
            if !names.insert(s.name.as_str()) {
                self.at_module(format!("two states are named `{}`", s.name));
            }
        }
    }

    /// Whether every id of the graph lies in its arena.
    fn ids(&mut self, id: GraphId, graph: &Graph) -> bool {
        let before = self.errors.len();
        let exists = |v: &Value| v.index() < graph.value_count();
        for v in graph.inputs().iter().chain(graph.outputs()).filter(|v| !exists(v)) {
            self.at_graph(id, format!("{v} is no value"));
        }
        for &n in graph.schedule() {
            let Some(node) = graph.nodes.get(n.index()) else {
                self.at_graph(id, format!("{n} in the schedule is no node"));
                continue;
            };
            for v in node.operands.iter().chain(&node.results).filter(|v| !exists(v)) {
                self.at_node(id, n, node, format!("{v} is no value"));
            }
            for g in node.op.graphs() {
                if self.module.get_graph(g).is_none() {
                    self.at_node(id, n, node, format!("{g} is no graph"));
                }
            }
        }
        self.errors.len() == before
    }

    fn names(&mut self, id: GraphId, graph: &Graph) {
        let is_entry = self.module.entries().contains(&id);
        for (what, count, names) in [
            ("input", graph.inputs().len(), graph.input_names()),
            ("output", graph.outputs().len(), graph.output_names()),
        ] {
            if count != names.len() {
                self.at_graph(id, format!("{count} {what}s have {} names", names.len()));
            }
            let mut seen = HashSet::new();
            for name in names.iter().filter(|n| is_entry && !seen.insert(n.as_str())) {
                self.at_graph(id, format!("two {what}s are named `{name}`"));
            }
        }
    }

    fn definitions(&mut self, id: GraphId, graph: &Graph) {
        let mut defined = vec![false; graph.value_count()];
        let mut define = |v: Value| defined.get_mut(v.index()).map(|d| std::mem::replace(d, true));
        for (i, &v) in graph.inputs().iter().enumerate() {
            if define(v) != Some(false) || graph.value(v).def() != Def::Input(i) {
                self.at_graph(id, format!("{v} is defined as input {i} and elsewhere"));
            }
        }
        for (n, node) in graph.scheduled() {
            for (i, &v) in node.results.iter().enumerate() {
                if define(v) != Some(false) || graph.value(v).def() != Def::Result(n, i) {
                    self.at_node(id, n, node, format!("{v} is defined here and elsewhere"));
                }
            }
        }
    }

    fn schedule(&mut self, id: GraphId, graph: &Graph) {
        let mut scheduled = HashSet::new();
        let mut available: HashSet<Value> = graph.inputs().iter().copied().collect();
        for (n, node) in graph.scheduled() {
            if !scheduled.insert(n) {
                self.at_node(id, n, node, "stands in the schedule twice".into());
            }
            for &v in node.operands.iter().filter(|v| !available.contains(v)) {
                self.at_node(id, n, node, format!("operand {v} is not defined before"));
            }
            available.extend(&node.results);
        }
        for v in graph.outputs().iter().filter(|v| !available.contains(v)) {
            self.at_graph(id, format!("output {v} is not defined"));
        }
    }

    fn types(&mut self, id: GraphId, graph: &Graph) {
        for (i, &v) in graph.inputs().iter().enumerate() {
            if has_unknown(graph.ty(v)) {
                self.at_graph(id, format!("input {i} has an unknown dim: {}", graph.ty(v)));
            }
        }
        for (n, node) in graph.scheduled() {
            for reason in node_violations(self.module, graph, node) {
                self.at_node(id, n, node, reason);
            }
        }
    }
}

/// Whether a tensor has an unknown dim. Elements of sequences and optionals may: they differ from one another.
fn has_unknown(ty: &Type) -> bool {
    let dims = ty.as_tensor().and_then(|t| t.shape.dims());
    dims.is_some_and(|d| d.iter().any(Dim::is_unknown))
}

/// Violations of types, known values and states by one node.
fn node_violations(module: &Module, graph: &Graph, node: &Node) -> Vec<String> {
    let mut found = vec![];
    let operands: SmallVec<[&Type; 4]> = node.operands.iter().map(|&v| graph.ty(v)).collect();
    let known: SmallVec<[Option<&Known>; 4]> =
        node.operands.iter().map(|&v| graph.value(v).known()).collect();
    match infer(&node.op, &InferCx { operands: &operands, known: &known, module, added: &[] }) {
        Err(e) => found.push(e.to_string()),
        Ok(results) if results.len() != node.results.len() => {
            found.push(format!("{} results, inference gives {}", node.results.len(), results.len()));
        }
        Ok(results) => {
            for (&v, inferred) in node.results.iter().zip(results) {
                let ty = graph.ty(v);
                if !inferred.ty.is_compatible(ty) {
                    found.push(format!("{v} is {ty}, inference gives {}", inferred.ty));
                }
            }
        }
    }
    for &v in &node.results {
        let ty = graph.ty(v);
        if has_unknown(ty) {
            found.push(format!("{v} has an unknown dim: {ty}"));
        }
        if let Some(known) = graph.value(v).known().filter(|k| !known_fits(k, ty)) {
            found.push(format!("{v} is {ty}, what is known of it does not fit: {known:?}"));
        }
    }
    found.extend(state_violation(module, graph, node));
    found
}

fn known_fits(known: &Known, ty: &Type) -> bool {
    match known {
        Known::Tensor(t) => Type::Tensor(t.ty()).is_compatible(ty),
        Known::Dims(dims) => ty.as_tensor().is_some_and(|t| {
            let len = i64::try_from(dims.len()).ok();
            let fits = match t.shape.dims() {
                Some([]) => len == Some(1),
                Some([d]) => d.as_known().is_none_or(|d| Some(d) == len),
                Some(_) => false,
                None => true,
            };
            fits && !t.dtype.is_float()
        }),
    }
}

fn state_violation(module: &Module, graph: &Graph, node: &Node) -> Option<String> {
    let (name, ty) = match (&node.op, node.operands.first()) {
        (Op::Object(Object::StateRead { name, ty }), _) => (name, ty),
        (Op::Object(Object::StateAssign { name }), Some(&v)) => (name, graph.ty(v)),
        _ => return None,
    };
    let Some(state) = module.states().iter().find(|s| s.name == *name) else {
        return Some(format!("there is no state `{name}`"));
    };
    // Its shape may change, even its rank.
    let declared = Type::unranked(state.init.dtype());
    (!declared.is_compatible(ty)).then(|| format!("state `{name}` is {declared}, not {ty}"))
}

/// A call that closes a circle.
#[derive(Debug)]
pub(crate) struct CallCycle {
    pub(crate) caller: GraphId,
    pub(crate) node: NodeId,
    pub(crate) callee: GraphId,
}

/// The graphs in an order in which every graph stands after those that it calls. Calls of graphs that do not exist
/// are passed over.
pub(crate) fn call_order(module: &Module) -> Result<Vec<GraphId>, CallCycle> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        Open,
        Done,
    }
    let calls: Vec<Vec<(NodeId, GraphId)>> = module
        .graphs()
        .map(|(_, g)| {
            let nodes = g.schedule().iter().filter_map(|&n| Some((n, g.nodes.get(n.index())?)));
            nodes.flat_map(|(n, node)| node.op.graphs().into_iter().map(move |callee| (n, callee))).collect()
        })
        .collect();
    let mut marks = vec![Mark::New; calls.len()];
    let mut order = vec![];
    for root in 0..calls.len() {
        // Depth-first with a stack of its own: a chain of calls must not become recursion.
        let mut stack = vec![(root, 0)];
        while let Some((g, next)) = stack.pop() {
            if next == 0 && marks[g] != Mark::New {
                continue;
            }
            marks[g] = Mark::Open;
            let Some(&(node, callee)) = calls[g].get(next) else {
                marks[g] = Mark::Done;
                order.push(GraphId::new(g));
                continue;
            };
            stack.push((g, next + 1));
            match marks.get(callee.index()) {
                Some(Mark::Open) => return Err(CallCycle { caller: GraphId::new(g), node, callee }),
                Some(Mark::New) => stack.push((callee.index(), 0)),
                Some(Mark::Done) | None => {}
            }
        }
    }
    Ok(order)
}
