//! Building graphs: [`GraphBuilder`] for new graphs, [`Patch`] for edits. Both infer and check every node as it is
//! added ([`Build::add`]), so a graph is well-typed at every moment.

pub mod dynamic;
mod nested;
mod symbols;

use std::collections::HashSet;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::graph::{Def, Known, Node, Origin, ValueData};
use crate::infer::{InferCx, InferError, Inferred, infer};
use crate::op::{Attr, Cast, Composite, Contract, Movement, Reduce, ReduceKind, Source};
use crate::{DType, Dim, Element, Graph, GraphId, Module, NodeId, Op, Shape, Tensor, Type, Value};

/// Fills a private graph: takes its builder and inputs, gives its outputs.
pub type BodyFn<'f> = &'f mut dyn FnMut(&mut dyn Build, &[Value]) -> Result<Vec<Value>, InferError>;

/// Adding nodes to something: a graph under construction or a patch.
pub trait Build {
    /// Adds a node after everything added before; gives its results.
    fn add(&mut self, op: Op, operands: &[Value]) -> Result<SmallVec<[Value; 1]>, InferError>;

    /// The type of a value.
    fn ty(&self, v: Value) -> &Type;

    /// What is known of a value.
    fn known(&self, v: Value) -> Option<&Known>;

    /// A symbol that no other dim uses.
    fn fresh_dim(&mut self) -> Dim;

    /// Builds a private graph for an operator to run: `body` gets a builder and the values of the inputs, and gives
    /// the outputs. The graph sees nothing else: what it needs from outside are inputs.
    fn subgraph(&mut self, name: &str, inputs: &[Type], body: BodyFn<'_>) -> Result<GraphId, InferError>;

    /// Adds a node of one result.
    fn add1(&mut self, op: impl Into<Op>, operands: &[Value]) -> Result<Value, InferError>
    where
        Self: Sized,
    {
        first(self.add(op.into(), operands)?)
    }

    /// An elementwise operator without attributes.
    fn ew(&mut self, name: &str, operands: &[Value]) -> Result<Value, InferError> {
        first(self.add(Op::ew(name), operands)?)
    }

    /// An elementwise operator with attributes.
    fn ew_with(&mut self, name: &str, attrs: &[f64], operands: &[Value]) -> Result<Value, InferError> {
        first(self.add(Op::ew_with(name, attrs), operands)?)
    }

    /// A constant.
    fn constant(&mut self, value: Tensor) -> Result<Value, InferError> {
        first(self.add(Source::Constant { value }.into(), &[])?)
    }

    /// A rank-0 constant of `dtype`, rounded to it.
    fn scalar(&mut self, dtype: DType, value: f64) -> Result<Value, InferError> {
        let scalar = if dtype.is_float() { crate::Scalar::F(value) } else { crate::Scalar::I(value as i128) };
        let value =
            Tensor::from_scalars(dtype, &[], &[scalar]).map_err(|e| InferError::new(e.to_string()))?;
        self.constant(value)
    }

    /// A rank-1 i64 value of the dims: a constant where all are constant.
    fn dims(&mut self, dims: &[Dim]) -> Result<Value, InferError> {
        match dims.iter().map(Dim::as_known).collect::<Option<Vec<i64>>>() {
            Some(ints) => self.constant(Tensor::ints(&ints)),
            None => first(self.add(Source::Dims { dims: dims.to_vec() }.into(), &[])?),
        }
    }

    /// Conversion to `to`; nothing if the value has that dtype.
    fn cast(&mut self, v: Value, to: DType) -> Result<Value, InferError> {
        if self.dtype(v)? == to {
            return Ok(v);
        }
        first(self.add(Op::Cast(Cast { to, saturate: false }), &[v])?)
    }

    /// Reshape; nothing if the value has that shape.
    fn reshape(&mut self, v: Value, shape: &[Dim]) -> Result<Value, InferError> {
        if self.shape(v).ok() == Some(shape) {
            return Ok(v);
        }
        first(self.add(Movement::Reshape { shape: shape.to_vec() }.into(), &[v])?)
    }

    /// Transpose; nothing if `perm` is the identity.
    fn transpose(&mut self, v: Value, perm: &[usize]) -> Result<Value, InferError> {
        let of_another_rank = self.rank(v).is_ok_and(|rank| rank != perm.len());
        if !of_another_rank && perm.iter().enumerate().all(|(i, &p)| i == p) {
            return Ok(v);
        }
        first(self.add(Movement::Transpose { perm: perm.to_vec() }.into(), &[v])?)
    }

    /// Broadcast; nothing if the value has that shape.
    fn broadcast(&mut self, v: Value, shape: &[Dim]) -> Result<Value, InferError> {
        if self.shape(v).ok() == Some(shape) {
            return Ok(v);
        }
        first(self.add(Movement::Broadcast { shape: shape.to_vec() }.into(), &[v])?)
    }

    /// A slice of one axis: elements `start .. start + size`.
    fn slice_axis(&mut self, v: Value, axis: usize, start: Dim, size: Dim) -> Result<Value, InferError> {
        let mut sizes = self.shape(v)?.to_vec();
        let mut starts = vec![Dim::known(0); sizes.len()];
        let steps = vec![1; sizes.len()];
        let (Some(s), Some(z)) = (starts.get_mut(axis), sizes.get_mut(axis)) else {
            return Err(InferError::new(format!("axis {axis} of a tensor of rank {}", sizes.len())));
        };
        (*s, *z) = (start, size);
        first(self.add(Movement::Slice { starts, sizes, steps }.into(), &[v])?)
    }

    /// Concatenation; nothing if there is one operand.
    fn concat(&mut self, operands: &[Value], axis: usize) -> Result<Value, InferError> {
        match operands {
            [one] => Ok(*one),
            _ => first(self.add(Movement::Concat { axis }.into(), operands)?),
        }
    }

    /// A reduction.
    fn reduce(
        &mut self,
        kind: ReduceKind,
        v: Value,
        axes: &[usize],
        keepdims: bool,
    ) -> Result<Value, InferError> {
        first(self.add(Reduce::Axes { kind, axes: axes.to_vec(), keepdims }.into(), &[v])?)
    }

    /// A contraction by labels, `bmk,bkn->bmn`, in the operands' dtype.
    fn einsum(&mut self, spec: &str, a: Value, b: Value) -> Result<Value, InferError> {
        let spec = spec.parse().map_err(InferError::new)?;
        let out = self.dtype(a)?;
        first(self.add(Contract::Einsum { spec, out }.into(), &[a, b])?)
    }

    /// Softmax along an axis.
    fn softmax(&mut self, v: Value, axis: usize) -> Result<Value, InferError> {
        first(self.add(Composite::Softmax { axis }.into(), &[v])?)
    }

    /// The dtype of a tensor value.
    fn dtype(&self, v: Value) -> Result<DType, InferError> {
        match self.ty(v) {
            Type::Tensor(t) => Ok(t.dtype),
            other => Err(InferError::new(format!("expected a tensor, found {other}"))),
        }
    }

    /// The dims of a tensor value of known rank.
    fn shape(&self, v: Value) -> Result<&[Dim], InferError> {
        let ty = self.ty(v);
        let dims = ty.as_tensor().and_then(|t| t.shape.dims());
        dims.ok_or_else(|| InferError::new(format!("expected a tensor of known rank, found {ty}")))
    }

    /// The rank of a tensor value of known rank.
    fn rank(&self, v: Value) -> Result<usize, InferError> {
        self.shape(v).map(<[Dim]>::len)
    }

    /// A rank-1 constant of numbers.
    fn constant_of<T: Element>(&mut self, values: &[T]) -> Result<Value, InferError>
    where
        Self: Sized,
    {
        let tensor =
            Tensor::from_slice(&[values.len()], values).map_err(|e| InferError::new(e.to_string()))?;
        self.constant(tensor)
    }
}

/// The only result of a node.
fn first(results: SmallVec<[Value; 1]>) -> Result<Value, InferError> {
    match results.as_slice() {
        [one] => Ok(*one),
        many => Err(InferError::new(format!("expected one result, the operator has {}", many.len()))),
    }
}

/// Replaces dims that inference leaves unknown by fresh symbols. Elements of sequences and optionals keep theirs:
/// one symbol would claim that all elements agree.
pub(crate) fn name_unknown(ty: &Type, fresh: &mut u64) -> Type {
    if ty.as_tensor().is_none() {
        return ty.clone();
    }
    ty.map_dims(&mut |d| {
        if !d.is_unknown() {
            return d.clone();
        }
        *fresh += 1;
        Dim::symbol(&format!("_u{fresh}"))
    })
}

/// Builds a new graph of a module.
pub struct GraphBuilder<'m> {
    module: &'m mut Module,
    graph: Graph,
    origin: Option<Arc<Origin>>,
}

impl<'m> GraphBuilder<'m> {
    /// A builder of an empty graph.
    pub fn new(module: &'m mut Module, name: &str) -> Self {
        GraphBuilder { module, graph: Graph::empty(name), origin: None }
    }

    /// The module, for building nested graphs first.
    pub fn module(&mut self) -> &mut Module {
        self.module
    }

    /// Sets the source of the nodes added from now on.
    pub fn set_origin(&mut self, origin: Option<Arc<Origin>>) {
        self.origin = origin;
    }

    /// The source of the nodes being added.
    pub fn origin(&self) -> Option<&Arc<Origin>> {
        self.origin.as_ref()
    }

    /// Adds an input. Unknown dims become fresh symbols.
    pub fn input(&mut self, name: &str, ty: Type) -> Value {
        self.graph.append_input(name, &ty, &mut self.module.fresh)
    }

    /// Adds an output.
    pub fn output(&mut self, name: &str, v: Value) {
        self.graph.outputs.push(v);
        self.graph.output_names.push(name.to_owned());
    }

    /// Takes all outputs off the graph; gives their values.
    pub fn drop_outputs(&mut self) -> Vec<Value> {
        self.graph.output_names.clear();
        std::mem::take(&mut self.graph.outputs)
    }

    /// Records a value's name in the source file; the first one stays.
    pub fn set_name(&mut self, v: Value, name: &str) {
        self.graph.values[v.index()].name.get_or_insert_with(|| name.into());
    }

    /// Replaces a result type that inference gave by a more precise one (a hint from the file that fills unknown
    /// rank or fresh symbols). Refused unless compatible.
    pub fn refine(&mut self, v: Value, ty: &Type) -> Result<(), InferError> {
        let data = &mut self.graph.values[v.index()];
        if !data.ty.is_compatible(ty) {
            return Err(InferError::new(format!("declared type {ty} contradicts {}", data.ty)));
        }
        data.ty = name_unknown(ty, &mut self.module.fresh);
        Ok(())
    }

    /// Gives a tensor of unknown rank the rank that its use demands; its dims become fresh symbols. A run where the
    /// value has another rank fails.
    pub fn assume_rank(&mut self, v: Value, rank: usize) -> Result<(), InferError> {
        match self.graph.ty(v).as_tensor() {
            Some(t) if t.shape.rank().is_none() => {
                let ty = Type::tensor(t.dtype, vec![Dim::unknown(); rank]);
                self.refine(v, &ty)
            }
            _ => Ok(()),
        }
    }

    /// The graph built so far.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Puts the graph aside, for [`GraphBuilder::resume`]: others of the module can be built in between.
    pub fn suspend(self) -> Graph {
        self.graph
    }

    /// Goes on with a graph of this module that was put aside.
    pub fn resume(module: &'m mut Module, graph: Graph) -> Self {
        GraphBuilder { module, graph, origin: None }
    }

    /// Orders the inputs anew: input `i` is what was input `order[i]`. Positions that are missing, twice or none leave the
    /// order as it is.
    pub fn order_inputs(&mut self, order: &[usize]) {
        let count = self.graph.inputs.len();
        let distinct: HashSet<usize> = order.iter().copied().filter(|&i| i < count).collect();
        if order.len() != count || distinct.len() != count {
            return;
        }
        let inputs = order.iter().map(|&i| self.graph.inputs[i]).collect();
        let names = order.iter().map(|&i| self.graph.input_names[i].clone()).collect();
        self.graph.inputs = inputs;
        self.graph.input_names = names;
        for (i, v) in self.graph.inputs.clone().into_iter().enumerate() {
            self.graph.values[v.index()].def = Def::Input(i);
        }
    }

    /// Adds the finished graph to the module.
    pub fn finish(self) -> GraphId {
        self.module.graphs.push(self.graph);
        GraphId::new(self.module.graphs.len() - 1)
    }
}

impl Build for GraphBuilder<'_> {
    fn add(&mut self, op: Op, operands: &[Value]) -> Result<SmallVec<[Value; 1]>, InferError> {
        let results = {
            let types: SmallVec<[&Type; 4]> = operands.iter().map(|&v| self.graph.ty(v)).collect();
            let known: SmallVec<[Option<&Known>; 4]> =
                operands.iter().map(|&v| self.graph.value(v).known()).collect();
            infer(&op, &InferCx { operands: &types, known: &known, module: self.module, added: &[] })?
        };
        Ok(self.graph.append(op, operands, results, self.origin.clone(), &mut self.module.fresh))
    }

    fn ty(&self, v: Value) -> &Type {
        self.graph.ty(v)
    }

    fn known(&self, v: Value) -> Option<&Known> {
        self.graph.value(v).known()
    }

    fn fresh_dim(&mut self) -> Dim {
        self.module.fresh_dim()
    }

    fn subgraph(&mut self, name: &str, inputs: &[Type], body: BodyFn<'_>) -> Result<GraphId, InferError> {
        let (mut added, mut fresh) = (vec![], self.module.fresh);
        let scope = nested::Scope { module: self.module, added: &mut added, fresh: &mut fresh };
        nested::build(scope, name, inputs, self.origin.as_ref(), body)?;
        self.module.graphs.extend(added);
        self.module.fresh = fresh;
        Ok(GraphId::new(self.module.graphs.len() - 1))
    }
}

/// An edit of a graph: new nodes that are inserted before an anchor node, and values that others replace. Nothing
/// changes until [`Module::apply`].
pub struct Patch<'g> {
    module: &'g Module,
    graph: &'g Graph,
    edit: Edit,
}

/// A finished patch, detached from the graph that it was made for.
#[derive(Clone, Debug)]
pub struct Edit {
    anchor: Option<NodeId>,
    nodes: Vec<Node>,
    values: Vec<ValueData>,
    first_value: usize,
    first_node: usize,
    replace: Vec<(Value, Value)>,
    graphs: Vec<Graph>,
    remove: Vec<NodeId>,
    schedule: Option<Vec<NodeId>>,
    fresh: u64,
    origin: Option<Arc<Origin>>,
}

impl<'g> Patch<'g> {
    /// A patch whose nodes go before `anchor` and inherit its origin.
    pub fn before(module: &'g Module, graph: &'g Graph, anchor: NodeId) -> Self {
        let origin = graph.node(anchor).origin.clone();
        Patch::new(module, graph, Some(anchor), origin)
    }

    /// A patch whose nodes go at the end.
    pub fn at_end(module: &'g Module, graph: &'g Graph) -> Self {
        Patch::new(module, graph, None, None)
    }

    fn new(
        module: &'g Module,
        graph: &'g Graph,
        anchor: Option<NodeId>,
        origin: Option<Arc<Origin>>,
    ) -> Self {
        let edit = Edit {
            anchor,
            nodes: vec![],
            values: vec![],
            first_value: graph.values.len(),
            first_node: graph.nodes.len(),
            replace: vec![],
            graphs: vec![],
            remove: vec![],
            schedule: None,
            fresh: module.fresh,
            origin,
        };
        Patch { module, graph, edit }
    }

    /// Makes every use of `old` use `new` instead.
    pub fn replace(&mut self, old: Value, new: Value) {
        self.edit.replace.push((old, new));
    }

    /// Sets the source of the nodes added from now on.
    pub fn set_origin(&mut self, origin: Option<Arc<Origin>>) {
        self.edit.origin = origin;
    }

    /// Sets the whole schedule after the edit: old and added nodes, each after those that define its operands.
    pub fn set_schedule(&mut self, order: Vec<NodeId>) {
        self.edit.schedule = Some(order);
    }

    /// The node that will define a value added by this patch, or that defines an old one.
    pub fn def(&self, v: Value) -> Def {
        self.data(v).def
    }

    /// Takes a node off the schedule; its results must have been replaced or be unused.
    pub fn remove(&mut self, node: NodeId) {
        self.edit.remove.push(node);
    }

    /// Adds a private graph; its id is valid in operators of this patch. Graphs that it calls must exist before it.
    pub fn add_graph(&mut self, graph: Graph) -> GraphId {
        self.edit.graphs.push(graph);
        GraphId::new(self.module.graphs.len() + self.edit.graphs.len() - 1)
    }

    /// The graph being edited, without the edit.
    pub fn graph(&self) -> &'g Graph {
        self.graph
    }

    /// The module, without the edit.
    pub fn module(&self) -> &'g Module {
        self.module
    }

    /// Detaches the edit.
    pub fn finish(self) -> Edit {
        self.edit
    }

    fn data(&self, v: Value) -> &ValueData {
        match v.index().checked_sub(self.edit.first_value) {
            Some(i) => &self.edit.values[i],
            None => self.graph.value(v),
        }
    }
}

impl Build for Patch<'_> {
    fn add(&mut self, op: Op, operands: &[Value]) -> Result<SmallVec<[Value; 1]>, InferError> {
        let results = {
            let types: SmallVec<[&Type; 4]> = operands.iter().map(|&v| self.data(v).ty()).collect();
            let known: SmallVec<[Option<&Known>; 4]> =
                operands.iter().map(|&v| self.data(v).known()).collect();
            let added = &self.edit.graphs;
            infer(&op, &InferCx { operands: &types, known: &known, module: self.module, added })?
        };
        let id = NodeId::new(self.edit.first_node + self.edit.nodes.len());
        let mut values = SmallVec::new();
        for (i, r) in results.into_iter().enumerate() {
            let ty = name_unknown(&r.ty, &mut self.edit.fresh);
            values.push(Value::new(self.edit.first_value + self.edit.values.len()));
            self.edit.values.push(ValueData { ty, def: Def::Result(id, i), known: r.known, name: None });
        }
        let operands = operands.iter().copied().collect();
        let origin = self.edit.origin.clone();
        self.edit.nodes.push(Node { op, operands, results: values.clone(), origin });
        Ok(values)
    }

    fn ty(&self, v: Value) -> &Type {
        self.data(v).ty()
    }

    fn known(&self, v: Value) -> Option<&Known> {
        self.data(v).known()
    }

    fn fresh_dim(&mut self) -> Dim {
        self.edit.fresh += 1;
        Dim::symbol(&format!("_u{}", self.edit.fresh))
    }

    fn subgraph(&mut self, name: &str, inputs: &[Type], body: BodyFn<'_>) -> Result<GraphId, InferError> {
        let Edit { graphs, fresh, origin, .. } = &mut self.edit;
        let scope = nested::Scope { module: self.module, added: graphs, fresh };
        nested::build(scope, name, inputs, origin.as_ref(), body)
    }
}

/// Why an edit does not apply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// The graph changed since the patch was made.
    #[error("the graph changed since the patch was made")]
    Stale,
    /// A replacement has an incompatible type.
    #[error("{old}: {old_ty} cannot be replaced by {new}: {new_ty}")]
    TypeMismatch {
        /// Replaced value.
        old: Value,
        /// Its type.
        old_ty: Box<Type>,
        /// Replacement.
        new: Value,
        /// Its type.
        new_ty: Box<Type>,
    },
    /// The edit's schedule has a node before one that it needs, or twice, or lacks one.
    #[error("the schedule of the edit does not have {0} after all that it needs")]
    Schedule(Value),
}

impl Module {
    /// Applies an edit that was made for graph `id` as it is now. Nodes whose results all became unused stay
    /// scheduled until dead-code elimination, unless the edit removes them.
    pub fn apply(&mut self, id: GraphId, edit: Edit) -> Result<(), EditError> {
        let graph = &mut self.graphs[id.index()];
        if graph.values.len() != edit.first_value || graph.nodes.len() != edit.first_node {
            return Err(EditError::Stale);
        }
        let count = edit.nodes.len();
        graph.values.extend(edit.values);
        graph.nodes.extend(edit.nodes);
        for &(old, new) in &edit.replace {
            let (old_ty, new_ty) = (graph.ty(old), graph.ty(new));
            if !old_ty.is_compatible(new_ty) {
                let (old_ty, new_ty) = (Box::new(old_ty.clone()), Box::new(new_ty.clone()));
                graph.values.truncate(edit.first_value);
                graph.nodes.truncate(edit.first_node);
                return Err(EditError::TypeMismatch { old, old_ty, new, new_ty });
            }
        }
        let bindings = graph.bindings(&edit.replace, edit.anchor, edit.first_node);
        self.bind(id, &bindings);
        let graph = &mut self.graphs[id.index()];
        if let Some(order) = edit.schedule {
            graph.schedule = order;
            for &(old, new) in &edit.replace {
                graph.replace_uses(old, new, edit.first_node);
            }
            self.graphs.extend(edit.graphs);
            self.fresh = self.fresh.max(edit.fresh);
            return self.graphs[id.index()].check_schedule();
        }
        let at = match edit.anchor {
            Some(anchor) => graph.schedule.iter().position(|&n| n == anchor).unwrap_or(graph.schedule.len()),
            None => graph.schedule.len(),
        };
        graph.schedule.splice(at..at, (0..count).map(|i| NodeId::new(edit.first_node + i)));
        for &(old, new) in &edit.replace {
            graph.replace_uses(old, new, edit.first_node);
        }
        graph.schedule.retain(|n| !edit.remove.contains(n));
        self.graphs.extend(edit.graphs);
        self.fresh = self.fresh.max(edit.fresh);
        Ok(())
    }

    /// Takes nodes off a graph's schedule whose results nothing uses, given that they have no effect. A node that
    /// binds a symbol, because it is the first whose result type mentions it, is used by whatever mentions the symbol.
    pub fn remove_dead_nodes(&mut self, id: GraphId) -> usize {
        let graph = &mut self.graphs[id.index()];
        let binders = graph.symbol_binders();
        let mut counts = graph.use_counts();
        let (mut dead, mut needed): (HashSet<NodeId>, HashSet<NodeId>) = Default::default();
        for &v in &graph.outputs {
            Attr::visit_dims(graph.ty(v), &mut |d| d.symbols(&mut |s| needed.extend(binders.get(s))));
        }
        for &n in graph.schedule.iter().rev() {
            let node = &graph.nodes[n.index()];
            let unused = node.results.iter().all(|r| counts[r.index()] == 0);
            if !node.op.has_effect() && unused && !needed.contains(&n) {
                dead.insert(n);
                for v in &node.operands {
                    counts[v.index()] -= 1;
                }
                continue;
            }
            let mut mention = |d: &Dim| d.symbols(&mut |s| needed.extend(binders.get(s)));
            node.op.visit_dims(&mut mention);
            node.results.iter().for_each(|&v| Attr::visit_dims(graph.ty(v), &mut mention));
        }
        graph.schedule.retain(|n| !dead.contains(n));
        dead.len()
    }
}

impl Graph {
    /// Adds an input. Unknown dims become fresh symbols.
    fn append_input(&mut self, name: &str, ty: &Type, fresh: &mut u64) -> Value {
        let ty = name_unknown(ty, fresh);
        let v = Value::new(self.values.len());
        let def = Def::Input(self.inputs.len());
        self.values.push(ValueData { ty, def, known: None, name: Some(name.into()) });
        self.inputs.push(v);
        self.input_names.push(name.to_owned());
        v
    }

    /// Adds a node whose results are inferred, at the end of the schedule.
    fn append(
        &mut self,
        op: Op,
        operands: &[Value],
        results: Vec<Inferred>,
        origin: Option<Arc<Origin>>,
        fresh: &mut u64,
    ) -> SmallVec<[Value; 1]> {
        let id = NodeId::new(self.nodes.len());
        let mut values = SmallVec::new();
        for (i, r) in results.into_iter().enumerate() {
            let ty = name_unknown(&r.ty, fresh);
            values.push(Value::new(self.values.len()));
            self.values.push(ValueData { ty, def: Def::Result(id, i), known: r.known, name: None });
        }
        let operands = operands.iter().copied().collect();
        self.nodes.push(Node { op, operands, results: values.clone(), origin });
        self.schedule.push(id);
        values
    }

    /// Checks that every scheduled node and output has its operands defined before it.
    fn check_schedule(&self) -> Result<(), EditError> {
        let mut defined = vec![false; self.values.len()];
        for v in &self.inputs {
            defined[v.index()] = true;
        }
        for (_, node) in self.scheduled() {
            if let Some(v) = node.operands.iter().find(|v| !defined[v.index()]) {
                return Err(EditError::Schedule(*v));
            }
            for v in &node.results {
                if std::mem::replace(&mut defined[v.index()], true) {
                    return Err(EditError::Schedule(*v));
                }
            }
        }
        match self.outputs.iter().find(|v| !defined[v.index()]) {
            Some(v) => Err(EditError::Schedule(*v)),
            None => Ok(()),
        }
    }

    /// Uses `new` for `old` everywhere except in nodes added from `first_new` on (a patch may use the old value to
    /// compute the new one).
    fn replace_uses(&mut self, old: Value, new: Value, first_new: usize) {
        for &n in &self.schedule {
            if n.index() < first_new {
                for v in &mut self.nodes[n.index()].operands {
                    if *v == old {
                        *v = new;
                    }
                }
            }
        }
        for v in &mut self.outputs {
            if *v == old {
                *v = new;
            }
        }
        let name = self.values[old.index()].name.clone();
        let slot = &mut self.values[new.index()].name;
        if slot.is_none() {
            *slot = name;
        }
    }

    /// The shape of a tensor value.
    pub fn shape(&self, v: Value) -> Option<&Shape> {
        self.ty(v).as_tensor().map(|t| &t.shape)
    }
}
