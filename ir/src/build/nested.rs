//! Private graphs built on the way: bodies of loops and branches.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{BodyFn, Build};
use crate::graph::{Known, Origin};
use crate::infer::{InferCx, InferError, infer};
use crate::{Dim, Graph, GraphId, Module, Op, Type, Value};

/// Where a private graph goes: after the module's graphs and those that were added already.
pub(super) struct Scope<'a> {
    pub(super) module: &'a Module,
    pub(super) added: &'a mut Vec<Graph>,
    pub(super) fresh: &'a mut u64,
}

/// Builds a private graph into `scope.added`.
pub(super) fn build(
    scope: Scope<'_>,
    name: &str,
    inputs: &[Type],
    origin: Option<&Arc<Origin>>,
    body: BodyFn<'_>,
) -> Result<GraphId, InferError> {
    let mut graph = Graph::empty(name);
    let values: Vec<Value> = inputs
        .iter()
        .enumerate()
        .map(|(i, ty)| graph.append_input(&format!("in{i}"), ty, scope.fresh))
        .collect();
    let mut builder = Nested { scope, graph, origin: origin.cloned() };
    let outputs = body(&mut builder, &values)?;
    let Nested { scope, mut graph, .. } = builder;
    for (i, v) in outputs.into_iter().enumerate() {
        graph.outputs.push(v);
        graph.output_names.push(format!("out{i}"));
    }
    scope.added.push(graph);
    Ok(GraphId::new(scope.module.graphs.len() + scope.added.len() - 1))
}

struct Nested<'a> {
    scope: Scope<'a>,
    graph: Graph,
    origin: Option<Arc<Origin>>,
}

impl Build for Nested<'_> {
    fn add(&mut self, op: Op, operands: &[Value]) -> Result<SmallVec<[Value; 1]>, InferError> {
        let results = {
            let types: SmallVec<[&Type; 4]> = operands.iter().map(|&v| self.graph.ty(v)).collect();
            let known: SmallVec<[Option<&Known>; 4]> =
                operands.iter().map(|&v| self.graph.value(v).known()).collect();
            let (module, added) = (self.scope.module, &*self.scope.added);
            infer(&op, &InferCx { operands: &types, known: &known, module, added })?
        };
        Ok(self.graph.append(op, operands, results, self.origin.clone(), self.scope.fresh))
    }

    fn ty(&self, v: Value) -> &Type {
        self.graph.ty(v)
    }

    fn known(&self, v: Value) -> Option<&Known> {
        self.graph.value(v).known()
    }

    fn fresh_dim(&mut self) -> Dim {
        *self.scope.fresh += 1;
        Dim::symbol(&format!("_u{}", self.scope.fresh))
    }

    fn subgraph(&mut self, name: &str, inputs: &[Type], body: BodyFn<'_>) -> Result<GraphId, InferError> {
        let Scope { module, added, fresh } = &mut self.scope;
        build(Scope { module, added, fresh }, name, inputs, self.origin.as_ref(), body)
    }
}
