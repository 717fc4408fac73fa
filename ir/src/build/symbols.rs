//! Symbols that an edit makes known: where a value whose size is a symbol gives way to one whose size is something else,
//! the symbol is that from then on, in all that mentions it.

use std::collections::{HashMap, HashSet};

use crate::graph::{Def, Known};
use crate::op::Attr;
use crate::{Dim, Graph, GraphId, Module, NodeId, Symbol, Type, Value};

/// Sizes of symbols.
pub(super) type Bindings = HashMap<Symbol, Dim>;

/// The sizes in a type, in order.
fn sizes(ty: &Type) -> Vec<Dim> {
    let mut all = vec![];
    Attr::visit_dims(ty, &mut |d| all.push(d.clone()));
    all
}

impl Graph {
    /// What replacements before `anchor` say of symbols that only the anchor shows. The graph has the edit's nodes, from
    /// `first_node` on, and values, but not yet its schedule.
    pub(super) fn bindings(
        &self,
        replace: &[(Value, Value)],
        anchor: Option<NodeId>,
        first_node: usize,
    ) -> Bindings {
        let mut bindings = Bindings::new();
        let different: Vec<_> =
            replace.iter().filter(|&&(old, new)| self.ty(old) != self.ty(new)).copied().collect();
        if different.is_empty() {
            return bindings;
        }
        let binders = self.symbol_binders();
        let mut used = HashSet::new();
        for node in self.nodes.iter().skip(first_node) {
            used.extend(node.operands.iter().copied());
        }
        for (old, new) in different {
            let Def::Result(node, _) = self.value(old).def else { continue };
            let (before, after) = (sizes(self.ty(old)), sizes(self.ty(new)));
            // What the new value is made from keeps its size, and what comes between the two cannot see a later one.
            if used.contains(&old) || anchor != Some(node) || before.len() != after.len() {
                continue;
            }
            for (before, after) in before.iter().zip(after) {
                let Some(symbol) = before.as_symbol().filter(|s| binders.get(*s) == Some(&node)) else {
                    continue;
                };
                let mut mentions_itself = false;
                after.symbols(&mut |s| mentions_itself |= s == symbol);
                if !mentions_itself {
                    bindings.entry(symbol.clone()).or_insert(after);
                }
            }
        }
        bindings
    }

    /// For every symbol that no input binds, the first scheduled node with a result whose type has it as a dim.
    pub fn symbol_binders(&self) -> HashMap<Symbol, NodeId> {
        let bound = self.input_symbols();
        let mut binders = HashMap::new();
        for (n, node) in self.scheduled() {
            for &v in &node.results {
                Attr::visit_dims(self.ty(v), &mut |d| {
                    if let Some(s) = d.as_symbol().filter(|s| !bound.contains(*s)) {
                        binders.entry(s.clone()).or_insert(n);
                    }
                });
            }
        }
        binders
    }

    /// The symbols that are sizes of inputs.
    fn input_symbols(&self) -> HashSet<Symbol> {
        let mut bound = HashSet::new();
        for &v in &self.inputs {
            Attr::visit_dims(self.ty(v), &mut |d| bound.extend(d.as_symbol().cloned()));
        }
        bound
    }

    fn bind(&mut self, bindings: &Bindings) {
        let mut change = |d: &mut Dim| {
            let mut concerned = false;
            d.symbols(&mut |s| concerned |= bindings.contains_key(s));
            if concerned {
                *d = d.substitute(&|s| bindings.get(s).cloned());
            }
        };
        for value in &mut self.values {
            value.ty.dims_mut(&mut change);
            if let Some(Known::Dims(dims)) = &mut value.known {
                dims.iter_mut().for_each(&mut change);
            }
        }
        self.nodes.iter_mut().for_each(|node| node.op.dims_mut(&mut change));
    }
}

impl Module {
    /// Puts sizes in place of symbols in the graph and in those that take the symbols from their caller: graphs whose
    /// own inputs show a symbol have it for themselves.
    pub(super) fn bind(&mut self, id: GraphId, bindings: &Bindings) {
        if bindings.is_empty() {
            return;
        }
        for (at, graph) in self.graphs.iter_mut().enumerate() {
            let own = graph.input_symbols();
            if at == id.index() || bindings.keys().all(|s| !own.contains(s)) {
                graph.bind(bindings);
                continue;
            }
            let rest: Bindings = bindings
                .iter()
                .filter(|(s, _)| !own.contains(*s))
                .map(|(s, d)| (s.clone(), d.clone()))
                .collect();
            graph.bind(&rest);
        }
    }
}
