//! What fusion makes of each node, and who feeds whom.

use std::collections::HashMap;

use kiln_ir::op::{Attr, Contract, Conv, Index, Movement, Source, Window};
use kiln_ir::{DClass, DType, Dim, Ew, Graph, Node, NodeId, Op, Value};
use rustc_hash::FxBuildHasher;

use super::outline::FreeNodes;
use crate::canonicalize::differ_by_units;
use crate::rewrite::Uses;

/// What a node may be in a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Stays as it is: a host step, or a view of a whole value.
    Outside,
    /// Costs nothing: copied into every kernel that uses it.
    Free,
    /// Elementwise operator or cast.
    Pointwise,
    /// Transpose, or reshape that adds or drops axes of size 1: a one-to-one index map.
    Relabel,
    /// Slice, pad, gather: an index map of an input.
    Load,
    /// A reduction.
    Reduce,
    /// A contraction, convolution or pooling: takes an epilogue.
    Hero,
    /// A kernel of its own.
    Alone,
}

/// Integer tensors of at most this many elements and rank 1 are shape arithmetic.
const TINY: i64 = 8;

/// Whether the type of a value has kernels.
fn has_kernels(graph: &Graph, v: Value) -> bool {
    let Some(t) = graph.ty(v).as_tensor() else { return false };
    let class = !matches!(t.dtype.class(), DClass::Text | DClass::Complex);
    class && !t.dtype.is_packed() && t.shape.dims().is_some_and(|d| d.iter().all(|d| !d.is_unknown()))
}

/// Whether a value looks like part of a shape; integers of 8 bits are zero points.
fn is_tiny(graph: &Graph, v: Value) -> bool {
    let Some(t) = graph.ty(v).as_tensor() else { return false };
    let Some(dims) = t.shape.dims() else { return false };
    let count = dims.iter().try_fold(1i64, |n, d| n.checked_mul(d.as_known()?));
    let byte = matches!(t.dtype, DType::I8 | DType::U8);
    !t.dtype.is_float() && !byte && dims.len() <= 1 && count.is_some_and(|n| n <= TINY)
}

/// Whether a node makes i32 of bytes, less a zero point or not: bytes are cheaper to read than what it makes of them, and
/// contractions multiply bytes.
fn widens_bytes(graph: &Graph, node: &Node) -> bool {
    let dtype = |v: Value| graph.ty(v).as_tensor().map(|t| t.dtype);
    let casts = |node: &Node| {
        let bytes = node.operands.first().is_some_and(|&v| matches!(dtype(v), Some(DType::I8 | DType::U8)));
        matches!(&node.op, Op::Cast(cast) if cast.to == DType::I32 && bytes)
    };
    let [x, zero] = node.operands.as_slice() else { return casts(node) };
    let single = |v: Value| {
        let dims = graph.ty(v).as_tensor().and_then(|t| t.shape.dims());
        dims.is_some_and(|dims| dims.iter().all(|d| d.as_known() == Some(1)))
    };
    let subtracts = matches!(&node.op, Op::Elementwise(e) if e.kind == Ew::named("sub"));
    subtracts && single(*zero) && graph.def_node(*x).is_some_and(|(_, from)| casts(from))
}

/// Whether a node multiplies integers: it takes bytes that are widened where they are read.
pub(crate) fn multiplies_integers(op: &Op) -> bool {
    matches!(
        op,
        Op::Contract(Contract::Einsum { out: DType::I32, .. })
            | Op::Conv(Conv::Forward { out: DType::I32, .. })
    )
}

fn role(graph: &Graph, uses: &Uses, node: &Node) -> Role {
    let mut values = node.operands.iter().chain(&node.results);
    if !values.clone().all(|&v| has_kernels(graph, v)) || values.all(|&v| is_tiny(graph, v)) {
        return match &node.op {
            Op::Source(Source::Constant { value })
                if value.numel() == 1 && has_kernels(graph, node.results[0]) =>
            {
                Role::Free
            }
            _ => Role::Outside,
        };
    }
    match &node.op {
        Op::Elementwise(_) | Op::Cast(_) if widens_bytes(graph, node) => Role::Free,
        Op::Elementwise(_) | Op::Cast(_) | Op::Quant(_) => Role::Pointwise,
        Op::Source(Source::Constant { value }) if value.numel() == 1 => Role::Free,
        Op::Source(Source::Constant { .. } | Source::Dims { .. }) => Role::Outside,
        Op::Source(Source::Iota { .. }) => Role::Free,
        Op::Movement(m) => movement_role(graph, uses, node, m),
        Op::Reduce(_) => Role::Reduce,
        Op::Contract(Contract::Einsum { .. })
        | Op::Conv(Conv::Forward { .. } | Conv::Transposed { .. })
        | Op::Window(Window::Pool { .. }) => Role::Hero,
        Op::Index(Index::Gather { .. } | Index::GatherElements { .. } | Index::GatherNd { .. }) => Role::Load,
        Op::Window(Window::MaxWithIndices { .. })
        | Op::Index(Index::ScatterElements { .. } | Index::ScatterNd { .. })
        | Op::Order(_)
        | Op::Control(_)
        | Op::Composite(_)
        | Op::Object(_)
        | Op::Dynamic(_)
        | Op::Host(_) => Role::Outside,
    }
}

fn movement_role(graph: &Graph, uses: &Uses, node: &Node, m: &Movement) -> Role {
    let single = node.results.iter().all(|&r| uses.only_user(r).is_some());
    let dims = |v: &Value| graph.ty(*v).as_tensor().and_then(|t| t.shape.dims());
    match m {
        Movement::Broadcast { .. } => Role::Free,
        Movement::Transpose { .. } => Role::Relabel,
        Movement::Reshape { shape } => match node.operands.first().and_then(dims) {
            // Used more than once, it is a view that every user shares.
            Some(from) if differ_by_units(from, shape) && single => Role::Relabel,
            _ => Role::Outside,
        },
        Movement::Slice { .. } | Movement::Pad { .. } => Role::Load,
        Movement::Concat { .. } => Role::Alone,
    }
}

/// The scheduled nodes of a graph by position, with their roles and the edges between them. Edges look through free
/// nodes where a kernel's body will hold a copy of them: an addition of a broadcast of `%1` counts as a user of `%1`.
pub(crate) struct Web<'g> {
    /// The graph.
    pub graph: &'g Graph,
    /// Node of each position.
    pub ids: Vec<NodeId>,
    /// Role of each position.
    pub roles: Vec<Role>,
    /// For each position, the values that it reads, free nodes looked through, in operand order.
    pub reads: Vec<Vec<Value>>,
    /// For each position, the positions of the nodes that feed it.
    pub from: Vec<Vec<usize>>,
    /// For each position, the positions of the nodes that it feeds, ascending.
    pub to: Vec<Vec<usize>>,
    /// Uses of values.
    pub uses: Uses,
    at: HashMap<NodeId, usize, FxBuildHasher>,
}

impl<'g> Web<'g> {
    /// The web of a graph.
    pub fn of(graph: &'g Graph) -> Self {
        let ids = graph.schedule().to_vec();
        let count = ids.len();
        let at = ids.iter().enumerate().map(|(i, &n)| (n, i)).collect();
        let uses = Uses::of(graph);
        let roles = graph.scheduled().map(|(_, n)| role(graph, &uses, n)).collect();
        let mut web = Web {
            graph,
            ids,
            roles,
            reads: vec![vec![]; count],
            from: vec![vec![]; count],
            to: vec![vec![]; count],
            uses,
            at,
        };
        for i in 0..count {
            let mut reads = vec![];
            let direct = matches!(web.roles[i], Role::Outside | Role::Hero | Role::Alone);
            for &v in &web.node(i).operands {
                if direct && !web.widens(i, v) {
                    reads.push(v);
                } else {
                    web.look_through(v, &mut reads);
                }
            }
            for &v in &reads {
                if let Some(p) = web.producer(v)
                    && !web.from[i].contains(&p)
                {
                    web.from[i].push(p);
                    web.to[p].push(i);
                }
            }
            web.reads[i] = reads;
        }
        web.order_effects();
        web.order_symbols();
        web
    }

    /// What gives a symbol its value counts as feeding whatever mentions the symbol, in a body's copy of a free node, too.
    fn order_symbols(&mut self) {
        let binders = self.graph.symbol_binders();
        if binders.is_empty() {
            return;
        }
        let mut needed: Vec<Vec<usize>> = vec![vec![]; self.ids.len()];
        for i in 0..self.ids.len() {
            let node = self.node(i);
            let mut mention = |d: &Dim| {
                d.symbols(&mut |s| needed[i].extend(binders.get(s).and_then(|n| self.at.get(n))));
            };
            node.op.visit_dims(&mut mention);
            node.results.iter().for_each(|&v| Attr::visit_dims(self.graph.ty(v), &mut mention));
            for p in node.operands.iter().filter_map(|&v| self.producer(v)) {
                if self.roles[p] == Role::Free {
                    let free = needed[p].clone();
                    needed[i].extend(free);
                }
            }
            needed[i].sort_unstable();
            needed[i].dedup();
            needed[i].retain(|&p| p < i);
        }
        for (i, needed) in needed.into_iter().enumerate() {
            for p in needed {
                if !self.from[i].contains(&p) {
                    self.from[i].push(p);
                    self.to[p].push(i);
                }
            }
        }
        self.to.iter_mut().for_each(|to| to.sort_unstable());
    }

    /// Nodes with effects keep their order: each counts as feeding the next.
    fn order_effects(&mut self) {
        let with_effect: Vec<usize> = (0..self.ids.len()).filter(|&i| self.node(i).op.has_effect()).collect();
        for pair in with_effect.windows(2) {
            let &[a, b] = pair else { continue };
            if !self.from[b].contains(&a) {
                self.from[b].push(a);
                self.to[a].push(b);
            }
        }
    }

    /// Whether a contraction of integers widens the bytes of an operand itself.
    fn widens(&self, at: usize, v: Value) -> bool {
        let free = |p: usize| self.roles[p] == Role::Free && widens_bytes(self.graph, self.node(p));
        multiplies_integers(&self.node(at).op) && self.producer(v).is_some_and(free)
    }

    fn look_through(&self, v: Value, out: &mut Vec<Value>) {
        match self.producer(v) {
            Some(p) if self.roles[p] == Role::Free => {
                for &o in &self.node(p).operands {
                    self.look_through(o, out);
                }
            }
            _ => out.push(v),
        }
    }

    /// The node of a position.
    pub fn node(&self, at: usize) -> &'g Node {
        self.graph.node(self.ids[at])
    }

    /// The position of the node that makes a value.
    pub fn producer(&self, v: Value) -> Option<usize> {
        let (id, _) = self.graph.def_node(v)?;
        self.at.get(&id).copied()
    }

    /// The shape of a node's first result.
    pub fn shape(&self, at: usize) -> &'g [Dim] {
        self.dims(self.node(at).results[0])
    }

    /// The shape of a value; empty for what is no tensor of known rank, which no kernel touches.
    pub fn dims(&self, v: Value) -> &'g [Dim] {
        self.graph.ty(v).as_tensor().and_then(|t| t.shape.dims()).unwrap_or(&[])
    }

    /// Whether a position is a constant.
    pub fn is_constant(&self, at: usize) -> bool {
        matches!(self.node(at).op, Op::Source(Source::Constant { .. }))
    }

    /// The free nodes.
    pub fn free_nodes(&self) -> FreeNodes {
        (0..self.ids.len()).filter(|&i| self.roles[i] == Role::Free).map(|i| self.ids[i]).collect()
    }

    /// Whether a free node must also exist by itself: something other than a kernel's body reads it.
    pub fn is_kept(&self, at: usize) -> bool {
        let direct = |u: &usize| matches!(self.roles[*u], Role::Outside | Role::Hero | Role::Alone);
        let results = &self.node(at).results;
        let reads =
            |u: &usize| self.node(*u).operands.iter().any(|v| results.contains(v) && !self.widens(*u, *v));
        self.node(at).results.iter().any(|&r| self.uses.is_output(r))
            || self.to[at].iter().any(|u| direct(u) && reads(u))
    }

    /// The results of `members` (ascending) that are needed outside of them.
    pub fn outputs(&self, members: &[usize]) -> Vec<Value> {
        let mut out = vec![];
        for &m in members {
            for &v in &self.node(m).results {
                let outside = |&u: &usize| {
                    members.binary_search(&u).is_err()
                        && (self.roles[u] != Role::Free || self.is_kept(u))
                        && self.reads[u].contains(&v)
                };
                if self.uses.is_output(v) || self.to[m].iter().any(outside) {
                    out.push(v);
                }
            }
        }
        out
    }

    /// The values that `members` read from outside of them; constants of one element are not counted.
    pub fn inputs(&self, members: &[usize]) -> Vec<Value> {
        let mut all: Vec<Value> = vec![];
        for &m in members {
            for &v in &self.reads[m] {
                let inside = self.producer(v).is_some_and(|p| members.binary_search(&p).is_ok());
                if !inside && !all.contains(&v) {
                    all.push(v);
                }
            }
        }
        all
    }
}
