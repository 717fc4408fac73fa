//! Modules, graphs, nodes and values.
//!
//! Guarantees, kept by construction (fields are private; [`crate::GraphBuilder`] and [`crate::Patch`] are the only writers):
//! - ids index their arenas; a value has exactly one definition (a graph input or a node's result);
//! - a node in the schedule stands after the nodes that define its operands;
//! - every node's result types are what inference gives for its operator and operand types (or refine it).

use std::fmt;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::op::{Attr, AttrError, Cursor};
use crate::{Dim, Op, Tensor, Type};

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(u32);

        impl $name {
            /// The id of arena position `index`.
            pub fn new(index: usize) -> Self {
                // Arenas are bounded far below 2^32 by the loaders' limits; saturating keeps this total.
                $name(u32::try_from(index).unwrap_or(u32::MAX))
            }

            /// Arena position.
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl Attr for $name {
            fn write(&self, out: &mut String) {
                out.push_str(&self.to_string());
            }
            fn read(c: &mut Cursor<'_>) -> Result<Self, AttrError> {
                c.expect($prefix)?;
                let digits = c.take("digits", |c| c.is_ascii_digit())?;
                digits.parse().map($name).map_err(|_| c.error("id out of range"))
            }
            fn visit_dims(&self, _: &mut dyn FnMut(&Dim)) {}
            fn dims_mut(&mut self, _: &mut dyn FnMut(&mut Dim)) {}
        }
    )*};
}

ids! {
    /// A value of a graph.
    Value = "%";
    /// A node of a graph.
    NodeId = "n";
    /// A graph of a module.
    GraphId = "g";
}

/// Where a node comes from, for error messages.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Origin {
    /// File as the user named it.
    pub file: String,
    /// Path of the enclosing graphs, outermost first, joined by `/`; empty for the main graph.
    pub path: String,
    /// The node's name in the file.
    pub node: String,
    /// Source operator, with domain and version where it has them: `Conv-22`, `com.microsoft.Gelu-1`.
    pub op: String,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: node ", self.file)?;
        if !self.path.is_empty() {
            write!(f, "{}/", self.path)?;
        }
        write!(f, "`{}` ({})", self.node, self.op)
    }
}

/// What is known of a value when the graph is built.
#[derive(Clone, Debug, PartialEq)]
pub enum Known {
    /// The value is this constant.
    Tensor(Tensor),
    /// The value is an integer tensor of rank 0 or 1 with these elements.
    Dims(Vec<Dim>),
}

/// Largest integer constant that is tracked as dims.
pub const MAX_KNOWN_DIMS: usize = 256;

impl Known {
    /// The elements as dims, if the value is a small integer tensor of rank 0 or 1.
    pub fn dims(&self) -> Option<Vec<Dim>> {
        match self {
            Known::Dims(d) => Some(d.clone()),
            Known::Tensor(t)
                if t.numel() <= MAX_KNOWN_DIMS && t.dims().len() <= 1 && !t.dtype().is_float() =>
            {
                Some(t.to_ints()?.into_iter().map(Dim::known).collect())
            }
            Known::Tensor(_) => None,
        }
    }

    /// The elements as constants, if the value is a small integer tensor of rank 0 or 1 with constant elements.
    pub fn ints(&self) -> Option<Vec<i64>> {
        self.dims()?.iter().map(Dim::as_known).collect()
    }

    /// The constant, if the value is one.
    pub fn tensor(&self) -> Option<&Tensor> {
        match self {
            Known::Tensor(t) => Some(t),
            Known::Dims(_) => None,
        }
    }
}

/// Definition of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Def {
    /// Input of the graph, by position.
    Input(usize),
    /// Result of a node, by position.
    Result(NodeId, usize),
}

/// A value's record.
#[derive(Clone, Debug)]
pub struct ValueData {
    pub(crate) ty: Type,
    pub(crate) def: Def,
    pub(crate) known: Option<Known>,
    pub(crate) name: Option<Arc<str>>,
}

impl ValueData {
    /// Type.
    pub fn ty(&self) -> &Type {
        &self.ty
    }

    /// Definition.
    pub fn def(&self) -> Def {
        self.def
    }

    /// What is known of it.
    pub fn known(&self) -> Option<&Known> {
        self.known.as_ref()
    }

    /// Name in the source file.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }
}

/// A node: one operator applied to values.
#[derive(Clone, Debug)]
pub struct Node {
    /// The operator.
    pub op: Op,
    /// Operands, in the operator's order.
    pub operands: SmallVec<[Value; 4]>,
    /// Results, in the operator's order.
    pub results: SmallVec<[Value; 1]>,
    /// Source, if it has one.
    pub origin: Option<Arc<Origin>>,
}

/// A graph: a function from input values to output values.
#[derive(Clone, Debug)]
pub struct Graph {
    pub(crate) name: String,
    pub(crate) inputs: Vec<Value>,
    pub(crate) outputs: Vec<Value>,
    pub(crate) input_names: Vec<String>,
    pub(crate) output_names: Vec<String>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) values: Vec<ValueData>,
    pub(crate) schedule: Vec<NodeId>,
}

impl Graph {
    pub(crate) fn empty(name: &str) -> Self {
        Graph {
            name: name.to_owned(),
            inputs: vec![],
            outputs: vec![],
            input_names: vec![],
            output_names: vec![],
            nodes: vec![],
            values: vec![],
            schedule: vec![],
        }
    }

    /// Name, unique among entries.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Input values.
    pub fn inputs(&self) -> &[Value] {
        &self.inputs
    }

    /// Output values.
    pub fn outputs(&self) -> &[Value] {
        &self.outputs
    }

    /// Names of the inputs; as many as inputs.
    pub fn input_names(&self) -> &[String] {
        &self.input_names
    }

    /// Names of the outputs; as many as outputs.
    pub fn output_names(&self) -> &[String] {
        &self.output_names
    }

    /// Nodes in execution order.
    pub fn schedule(&self) -> &[NodeId] {
        &self.schedule
    }

    /// The nodes in execution order, with their ids.
    pub fn scheduled(&self) -> impl DoubleEndedIterator<Item = (NodeId, &Node)> + Clone {
        self.schedule.iter().map(|&id| (id, &self.nodes[id.index()]))
    }

    /// A node, scheduled or not.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// A value's record.
    pub fn value(&self, v: Value) -> &ValueData {
        &self.values[v.index()]
    }

    /// A value's type.
    pub fn ty(&self, v: Value) -> &Type {
        &self.values[v.index()].ty
    }

    /// The node that defines a value, unless it is an input.
    pub fn def_node(&self, v: Value) -> Option<(NodeId, &Node)> {
        match self.values[v.index()].def {
            Def::Result(n, _) => Some((n, &self.nodes[n.index()])),
            Def::Input(_) => None,
        }
    }

    /// The constant that a value is, if its definition is a constant.
    pub fn constant(&self, v: Value) -> Option<&Tensor> {
        self.value(v).known()?.tensor()
    }

    /// One more than the largest value index.
    pub fn value_count(&self) -> usize {
        self.values.len()
    }

    /// One more than the largest node index.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// How many operands of scheduled nodes and graph outputs each value is.
    pub fn use_counts(&self) -> Vec<u32> {
        let mut counts = vec![0; self.values.len()];
        let operands = self.schedule.iter().flat_map(|n| self.nodes[n.index()].operands.iter());
        for v in operands.chain(&self.outputs) {
            counts[v.index()] += 1;
        }
        counts
    }
}

/// A named, persistent variable.
#[derive(Clone, Debug)]
pub struct StateDecl {
    /// Unique name.
    pub name: String,
    /// Value before the first assignment.
    pub init: Tensor,
}

/// A module: graphs, of which some are entry points, and states.
#[derive(Clone, Debug, Default)]
pub struct Module {
    pub(crate) graphs: Vec<Graph>,
    pub(crate) entries: Vec<GraphId>,
    pub(crate) states: Vec<StateDecl>,
    pub(crate) fresh: u64,
}

impl Module {
    /// An empty module.
    pub fn new() -> Self {
        Module::default()
    }

    /// The graphs, entries and private ones, by id.
    pub fn graphs(&self) -> impl ExactSizeIterator<Item = (GraphId, &Graph)> {
        self.graphs.iter().enumerate().map(|(i, g)| (GraphId::new(i), g))
    }

    /// A graph.
    pub fn graph(&self, id: GraphId) -> &Graph {
        &self.graphs[id.index()]
    }

    /// A graph, if the id is one.
    pub fn get_graph(&self, id: GraphId) -> Option<&Graph> {
        self.graphs.get(id.index())
    }

    /// Entry points, in the file's order.
    pub fn entries(&self) -> &[GraphId] {
        &self.entries
    }

    /// Makes a graph an entry point.
    pub fn add_entry(&mut self, id: GraphId) {
        self.entries.push(id);
    }

    /// Makes these graphs the entry points, in that order, in place of those that were.
    pub fn set_entries(&mut self, ids: &[GraphId]) {
        self.entries = ids.to_vec();
    }

    /// Adds a graph that a builder finished.
    pub fn add_graph(&mut self, graph: Graph) -> GraphId {
        self.graphs.push(graph);
        GraphId::new(self.graphs.len() - 1)
    }

    /// Drops the graphs that were added after the first `count`, for a builder that starts over. Nothing that stays may
    /// name them.
    pub fn truncate_graphs(&mut self, count: usize) {
        self.graphs.truncate(count);
    }

    /// States, in declaration order.
    pub fn states(&self) -> &[StateDecl] {
        &self.states
    }

    /// Declares a state.
    pub fn add_state(&mut self, state: StateDecl) {
        self.states.push(state);
    }

    /// A symbol that no other dim of the module uses. Names of the form `_uN` are reserved for these.
    pub fn fresh_dim(&mut self) -> Dim {
        self.fresh += 1;
        Dim::symbol(&format!("_u{}", self.fresh))
    }
}
