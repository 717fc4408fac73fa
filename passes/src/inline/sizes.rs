//! What symbols of an inlined graph are where it goes: sizes of its inputs are those of the operands, and a size that a
//! copied node gives has another name, or is known.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use kiln_ir::op::Attr;
use kiln_ir::{Dim, Graph, GraphId, Module, Op, Symbol, Type};
use rustc_hash::FxBuildHasher;

use crate::rewrite::Refusal;

type Symbols = HashSet<Symbol, FxBuildHasher>;

/// Symbols of an inlined graph with their sizes outside.
#[derive(Default)]
pub(super) struct Sizes {
    outside: HashMap<Symbol, Dim, FxBuildHasher>,
    /// Those of inputs, of which the operands do not say what they are.
    hidden: Symbols,
    /// What graphs inside take from their caller.
    taken: HashMap<GraphId, Rc<Symbols>, FxBuildHasher>,
}

impl Sizes {
    /// Learns from the types of the inputs and of what is passed for them.
    pub(super) fn of_inputs<'t>(pairs: impl Iterator<Item = (&'t Type, &'t Type)> + Clone) -> Self {
        let mut sizes = Sizes::default();
        pairs.clone().for_each(|(inside, outside)| sizes.learn(inside, outside));
        for (inside, _) in pairs {
            Attr::visit_dims(inside, &mut |d| d.symbols(&mut |s| _ = sizes.hidden.insert(s.clone())));
        }
        sizes.hidden.retain(|s| !sizes.outside.contains_key(s));
        sizes
    }

    /// Learns from a value's type inside and outside. The first to show a symbol says what it is.
    pub(super) fn learn(&mut self, inside: &Type, outside: &Type) {
        let (inside, outside) = (dims(inside), dims(outside));
        if inside.len() != outside.len() {
            return;
        }
        for (inside, outside) in inside.iter().zip(outside) {
            if *inside == outside {
                inside
                    .symbols(&mut |s| _ = self.outside.entry(s.clone()).or_insert_with(|| Dim::symbol(&s.0)));
            } else if let Some(symbol) = inside.as_symbol().filter(|_| !outside.is_unknown()) {
                self.outside.entry(symbol.clone()).or_insert(outside);
            }
        }
    }

    /// The operator with sizes that exist outside.
    pub(super) fn op(&mut self, module: &Module, op: &Op) -> Result<Op, Refusal> {
        let mut mentioned = Symbols::default();
        op.visit_dims(&mut |d| d.symbols(&mut |s| _ = mentioned.insert(s.clone())));
        if let Some(symbol) = mentioned.iter().find(|s| self.hidden.contains(*s)) {
            return Err(Refusal::because(format!("no operand shows the size `{symbol}`")));
        }
        for id in op.graphs() {
            let taken = self.taken_by(module, id);
            if let Some(symbol) = taken.iter().find(|s| self.is_other(s)) {
                let reason = format!("a graph inside takes the size `{symbol}` from its caller");
                return Err(Refusal::because(reason));
            }
        }
        let mut op = op.clone();
        if mentioned.iter().any(|s| self.is_other(s)) {
            op.dims_mut(&mut |d| *d = d.substitute(&|s| self.outside.get(s).cloned()));
        }
        Ok(op)
    }

    /// Whether a symbol means something else outside.
    fn is_other(&self, symbol: &Symbol) -> bool {
        self.hidden.contains(symbol)
            || self.outside.get(symbol).is_some_and(|outside| outside.as_symbol() != Some(symbol))
    }

    /// The symbols that a graph, and graphs that it calls, mention and that its own inputs do not show.
    fn taken_by(&mut self, module: &Module, id: GraphId) -> Rc<Symbols> {
        if let Some(known) = self.taken.get(&id) {
            return known.clone();
        }
        // No graph calls itself; one that did would take nothing more.
        self.taken.insert(id, Rc::default());
        let mut taken = Symbols::default();
        if let Some(graph) = module.get_graph(id) {
            for (_, node) in graph.scheduled() {
                let mut mention = |d: &Dim| d.symbols(&mut |s| _ = taken.insert(s.clone()));
                node.op.visit_dims(&mut mention);
                node.results.iter().for_each(|&v| Attr::visit_dims(graph.ty(v), &mut mention));
                for called in node.op.graphs() {
                    let inner = self.taken_by(module, called);
                    taken.extend(inner.iter().cloned());
                }
            }
            let own = shown(graph);
            taken.retain(|s| !own.contains(s));
        }
        let taken = Rc::new(taken);
        self.taken.insert(id, taken.clone());
        taken
    }
}

/// The symbols that a graph's inputs show.
fn shown(graph: &Graph) -> Symbols {
    let mut own = Symbols::default();
    for &v in graph.inputs() {
        Attr::visit_dims(graph.ty(v), &mut |d| own.extend(d.as_symbol().cloned()));
    }
    own
}

fn dims(ty: &Type) -> Vec<Dim> {
    let mut all = vec![];
    Attr::visit_dims(ty, &mut |d| all.push(d.clone()));
    all
}
