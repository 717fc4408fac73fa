//! What symbols of an inlined graph are where it goes: sizes of its inputs are those of the operands, and a size that a
//! copied node gives has another name, or is known.

use std::collections::HashMap;

use kiln_ir::op::Attr;
use kiln_ir::{Dim, Graph, GraphId, Module, Op, Symbol, Type};
use rustc_hash::FxBuildHasher;

/// Symbols of the inlined graph with their sizes outside.
#[derive(Default)]
pub(super) struct Sizes(HashMap<Symbol, Dim, FxBuildHasher>);

impl Sizes {
    /// Learns from a value's type inside and outside. The first to show a symbol says what it is.
    pub(super) fn learn(&mut self, inside: &Type, outside: &Type) {
        let (inside, outside) = (sizes(inside), sizes(outside));
        if inside.len() != outside.len() {
            return;
        }
        for (inside, outside) in inside.iter().zip(outside) {
            if let Some(symbol) = inside.as_symbol().filter(|_| !outside.is_unknown()) {
                self.0.entry(symbol.clone()).or_insert(outside);
            }
        }
    }

    /// The operator with sizes that exist outside.
    pub(super) fn outside(&self, op: &Op) -> Op {
        let mut op = op.clone();
        op.dims_mut(&mut |d| {
            if self.changed(d).is_some() {
                *d = d.substitute(&|s| self.0.get(s).cloned());
            }
        });
        op
    }

    /// A symbol with another meaning outside that graphs which the operator calls take from their caller.
    pub(super) fn captured(&self, module: &Module, op: &Op) -> Option<Symbol> {
        let mut reached: Vec<GraphId> = op.graphs().to_vec();
        let mut at = 0;
        while let Some(&id) = reached.get(at) {
            at += 1;
            let Some(graph) = module.get_graph(id) else { continue };
            if let Some(symbol) = self.mentioned(graph) {
                return Some(symbol);
            }
            for called in graph.scheduled().flat_map(|(_, node)| node.op.graphs()) {
                if !reached.contains(&called) {
                    reached.push(called);
                }
            }
        }
        None
    }

    fn mentioned(&self, graph: &Graph) -> Option<Symbol> {
        let mut own = vec![];
        for &v in graph.inputs() {
            Attr::visit_dims(graph.ty(v), &mut |d| own.extend(d.as_symbol().cloned()));
        }
        let mut found = None;
        let mut look =
            |d: &Dim| found = found.take().or_else(|| self.changed(d).filter(|s| !own.contains(s)));
        for (_, node) in graph.scheduled() {
            node.op.visit_dims(&mut look);
            node.results.iter().for_each(|&v| Attr::visit_dims(graph.ty(v), &mut look));
        }
        found
    }

    /// A symbol in a size that means something else outside.
    fn changed(&self, d: &Dim) -> Option<Symbol> {
        let mut changed = None;
        d.symbols(&mut |s| {
            if self.0.get(s).is_some_and(|outside| outside.as_symbol() != Some(s)) {
                changed = Some(s.clone());
            }
        });
        changed
    }
}

fn sizes(ty: &Type) -> Vec<Dim> {
    let mut all = vec![];
    Attr::visit_dims(ty, &mut |d| all.push(d.clone()));
    all
}
