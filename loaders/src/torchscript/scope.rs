//! Graphs under construction: one for each branch and loop body around the place that the machine is at. A value of an
//! outer graph that an inner one uses becomes an input of it, or is built again where it is known.

use std::sync::Arc;

use kiln_ir::op::{Movement, Object};
use kiln_ir::{Build, DType, Graph, GraphBuilder, GraphId, Known, Module, Origin, Tensor, Type, Value};
use rustc_hash::FxHashMap;

use super::fault::{Fault, Res};
use super::value::Traced;
use crate::aten::{self, Arg, Outcome};

/// Graphs within graphs.
const MAX_SCOPES: usize = 48;

/// A graph under construction.
struct Scope {
    id: u32,
    graph: Graph,
    /// Values of the scope around this, each with the input that it became.
    captures: Vec<(Value, Value)>,
    seen: FxHashMap<(u32, Value), Value>,
    constants: FxHashMap<(usize, usize, DType, Vec<usize>), Value>,
}

/// A graph that is built, apart from the operands that it needs.
pub(crate) struct Closed {
    /// The graph.
    pub graph: Graph,
    /// Values of the scope around it that are its last inputs, in order.
    pub captures: Vec<Value>,
}

impl Closed {
    /// Captured values and the types that they have inside.
    fn captured_types(&self) -> FxHashMap<Value, Type> {
        let inputs = self.graph.inputs();
        let inner = inputs.get(inputs.len().saturating_sub(self.captures.len())..).unwrap_or(&[]);
        self.captures.iter().zip(inner).map(|(&outer, &v)| (outer, self.graph.ty(v).clone())).collect()
    }
}

/// What to come back to where graphs are built again.
#[derive(Clone, Copy)]
pub(crate) struct Checkpoint {
    graphs: usize,
}

/// The module and the graphs under construction, outermost first.
pub(crate) struct Graphs {
    pub module: Module,
    scopes: Vec<Scope>,
    /// Branches that are followed to their end and wait for the other.
    parked: Vec<Scope>,
    next: u32,
    nodes: usize,
    max_nodes: usize,
    origin: Option<Arc<Origin>>,
}

impl Graphs {
    /// Nothing built yet.
    pub fn new(max_nodes: usize) -> Self {
        Graphs {
            module: Module::new(),
            scopes: vec![],
            parked: vec![],
            next: 0,
            nodes: 0,
            max_nodes,
            origin: None,
        }
    }

    /// Sets the source of the nodes added from now on.
    pub fn set_origin(&mut self, origin: Option<Arc<Origin>>) {
        self.origin = origin;
    }

    /// How many graphs are around this place.
    pub fn depth(&self) -> usize {
        self.scopes.len()
    }

    /// A number that no scope has had.
    pub fn fresh_id(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    /// Begins a graph within the current one.
    pub fn open(&mut self, name: &str) -> Res<u32> {
        let id = self.fresh_id();
        self.open_as(id, name)?;
        Ok(id)
    }

    /// As [`Graphs::open`], under a number that an earlier graph in its place had.
    pub fn open_as(&mut self, id: u32, name: &str) -> Res<()> {
        if self.scopes.len() >= MAX_SCOPES {
            return Err(Fault::Limit { what: "nesting of graphs".to_owned(), limit: MAX_SCOPES });
        }
        let graph = GraphBuilder::new(&mut self.module, name).suspend();
        let (seen, constants) = (FxHashMap::default(), FxHashMap::default());
        self.scopes.push(Scope { id, graph, captures: vec![], seen, constants });
        Ok(())
    }

    /// Ends the current graph.
    pub fn close(&mut self) -> Res<Closed> {
        let scope = self.scopes.pop().ok_or_else(|| Fault::invalid("there is no graph to end"))?;
        Ok(Closed {
            graph: scope.graph,
            captures: scope.captures.into_iter().map(|(outer, _)| outer).collect(),
        })
    }

    /// Puts the current graph aside.
    pub fn park(&mut self) {
        self.parked.extend(self.scopes.pop());
    }

    /// Goes on with a graph that was put aside.
    pub fn unpark(&mut self, id: u32) -> Res<()> {
        let at = self.parked.iter().position(|s| s.id == id);
        let at = at.ok_or_else(|| Fault::invalid("there is no such graph"))?;
        self.scopes.push(self.parked.remove(at));
        Ok(())
    }

    /// Drops a graph that was put aside.
    pub fn forget(&mut self, id: u32) {
        self.parked.retain(|s| s.id != id);
    }

    /// Ends graphs until so many are left; what they have is dropped.
    pub fn unwind(&mut self, depth: usize) {
        self.scopes.truncate(depth);
    }

    /// Where to come back to.
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint { graphs: self.module.graphs().len() }
    }

    /// Drops graphs that were finished since. The count of nodes stays: it bounds time.
    pub fn roll_back(&mut self, to: Checkpoint) {
        self.module.truncate_graphs(to.graphs);
    }

    /// The number of the current scope.
    pub fn current(&self) -> u32 {
        self.scopes.last().map_or(0, |s| s.id)
    }

    /// Whether the current graph has nodes that may not be left out.
    pub fn has_effects(&self) -> bool {
        self.scopes.last().is_some_and(|s| s.graph.scheduled().any(|(_, n)| n.op.has_effect()))
    }

    /// Adds a finished graph to the module.
    pub fn keep(&mut self, graph: Graph) -> GraphId {
        self.module.add_graph(graph)
    }

    /// Builds in the current graph.
    pub fn build<R>(&mut self, f: impl FnOnce(&mut GraphBuilder<'_>) -> R) -> Res<R> {
        let scope = self.scopes.last_mut().ok_or_else(|| Fault::invalid("there is no graph"))?;
        let before = scope.graph.node_count();
        let empty = GraphBuilder::new(&mut self.module, "").suspend();
        let graph = std::mem::replace(&mut scope.graph, empty);
        let mut builder = GraphBuilder::resume(&mut self.module, graph);
        builder.set_origin(self.origin.clone());
        let result = f(&mut builder);
        scope.graph = builder.suspend();
        let more = scope.graph.node_count().saturating_sub(before);
        self.count(more)?;
        Ok(result)
    }

    /// Counts nodes against the limit.
    fn count(&mut self, more: usize) -> Res<()> {
        self.nodes = self.nodes.saturating_add(more);
        match self.nodes > self.max_nodes {
            true => Err(Fault::Limit { what: "number of nodes".to_owned(), limit: self.max_nodes }),
            false => Ok(()),
        }
    }

    /// Calls an operator of ATen.
    pub fn call(&mut self, name: &str, args: Vec<Arg>, kwargs: Vec<(String, Arg)>) -> Res<Outcome> {
        let outcome = self.try_build(|b| aten::call(b, name, None, args, kwargs))?;
        self.count(outcome.made)?;
        Ok(outcome)
    }

    /// As [`Graphs::build`], where building may fail.
    pub fn try_build<R, E>(&mut self, f: impl FnOnce(&mut GraphBuilder<'_>) -> Result<R, E>) -> Res<R>
    where
        Fault: From<E>,
    {
        Ok(self.build(f)??)
    }

    /// A value of the current graph as the machine keeps it.
    pub fn node(&self, value: Value) -> Traced {
        Traced::Node { scope: self.current(), value }
    }

    /// Adds an operator of one result.
    pub fn add(&mut self, op: impl Into<kiln_ir::Op>, operands: &[Value]) -> Res<Traced> {
        let value = self.try_build(|b| b.add1(op, operands))?;
        Ok(self.node(value))
    }

    fn scope_of(&self, id: u32) -> Option<&Scope> {
        self.scopes.iter().rev().chain(&self.parked).find(|s| s.id == id)
    }

    /// The graph that a value is of.
    pub fn graph_of(&self, t: &Traced) -> Option<&Graph> {
        match t {
            Traced::Node { scope, .. } => self.scope_of(*scope).map(|s| &s.graph),
            _ => None,
        }
    }

    /// A value of the graph that another value is of.
    pub fn sibling(&self, of: &Traced, value: Value) -> Option<Traced> {
        match of {
            Traced::Node { scope, .. } => Some(Traced::Node { scope: *scope, value }),
            _ => None,
        }
    }

    /// Whether `node` is what `t` is in its graph.
    pub fn is_same(&self, t: &Traced, node: &Traced) -> bool {
        let (Traced::Node { scope, value }, Traced::Node { scope: at, value: inner }) = (t, node) else {
            return false;
        };
        if scope == at {
            return value == inner;
        }
        self.scope_of(*at).and_then(|s| s.seen.get(&(*scope, *value))) == Some(inner)
    }

    /// The type of a value.
    pub fn ty(&self, t: &Traced) -> Res<Type> {
        match t {
            Traced::Constant(tensor) => Ok(Type::Tensor(tensor.ty())),
            Traced::Node { scope, value } => match self.scope_of(*scope) {
                Some(s) if value.index() < s.graph.value_count() => Ok(s.graph.ty(*value).clone()),
                _ => Err(Fault::invalid("a value is used outside of the branch that computes it")),
            },
            Traced::Sequence(items) => {
                let mut element: Option<Type> = None;
                for item in items.iter() {
                    let ty = self.ty(item)?;
                    element = Some(match element {
                        None => ty,
                        Some(before) => widened(&before, &ty)
                            .ok_or_else(|| Fault::apart(format!("a list holds {before} and {ty}")))?,
                    });
                }
                let element = element.ok_or_else(|| Fault::apart("nothing shows what a list holds"))?;
                Ok(Type::Sequence(Box::new(any_size(&element))))
            }
            Traced::Anything(ty) => Ok(ty.clone()),
            Traced::Size(_) => Ok(Type::fixed(DType::I64, &[])),
        }
    }

    /// What is known of a value.
    pub fn known(&self, t: &Traced) -> Option<Known> {
        match t {
            Traced::Constant(tensor) => Some(Known::Tensor(tensor.clone())),
            Traced::Node { scope, value } => self.scope_of(*scope)?.graph.value(*value).known().cloned(),
            Traced::Size(dim) => Some(Known::Dims(vec![dim.clone()])),
            Traced::Sequence(_) | Traced::Anything(_) => None,
        }
    }

    /// The constant that a value is.
    pub fn constant(&self, t: &Traced) -> Option<Tensor> {
        self.known(t)?.tensor().cloned()
    }

    /// The value in the current graph.
    pub fn value(&mut self, t: &Traced) -> Res<Value> {
        match t {
            Traced::Constant(tensor) => self.constant_in(self.scopes.len().saturating_sub(1), tensor),
            Traced::Node { scope, value } => self.lift(self.scopes.len().saturating_sub(1), *scope, *value),
            Traced::Sequence(items) => {
                let mut values = vec![];
                for item in items.iter() {
                    values.push(self.value(item)?);
                }
                if values.is_empty() {
                    return Err(Fault::apart("nothing shows what a list holds"));
                }
                self.try_build(|b| b.add1(Object::SequenceConstruct {}, &values))
            }
            Traced::Anything(ty) => self.anything(ty),
            Traced::Size(dim) => self.try_build(|b| {
                let v = b.dims(std::slice::from_ref(dim))?;
                b.reshape(v, &[])
            }),
        }
    }

    /// The value in the current graph; of an empty sequence, one of that type.
    pub fn value_as(&mut self, t: &Traced, ty: &Type) -> Res<Value> {
        match (t, ty) {
            (Traced::Sequence(items), Type::Sequence(element)) if items.is_empty() => {
                let ty = (**element).clone();
                self.try_build(|b| b.add1(Object::SequenceEmpty { ty }, &[]))
            }
            _ => self.value(t),
        }
    }

    fn anything(&mut self, ty: &Type) -> Res<Value> {
        match ty {
            Type::Tensor(t) => {
                let dims = t.shape.dims().unwrap_or(&[]);
                let dims =
                    dims.iter().map(|d| d.as_known().and_then(|n| usize::try_from(n).ok()).unwrap_or(1));
                let dims: Vec<usize> = dims.collect();
                let one = vec![1; dims.len()];
                let scalar = match t.dtype {
                    DType::String => Tensor::strings(&one, vec![String::new()])?,
                    dtype => Tensor::zeros(dtype, &one)?,
                };
                let shape: Vec<kiln_ir::Dim> =
                    dims.iter().map(|&d| kiln_ir::Dim::known(i64::try_from(d).unwrap_or(i64::MAX))).collect();
                self.try_build(|b| {
                    let v = b.constant(scalar)?;
                    b.broadcast(v, &shape)
                })
            }
            Type::Sequence(element) => {
                let ty = (**element).clone();
                self.try_build(|b| b.add1(Object::SequenceEmpty { ty }, &[]))
            }
            Type::Optional(element) => {
                let ty = (**element).clone();
                self.try_build(|b| b.add1(Object::OptionalNone { ty }, &[]))
            }
        }
    }

    /// A constant in the graph at `level`, once for each.
    fn constant_in(&mut self, level: usize, tensor: &Tensor) -> Res<Value> {
        let key =
            (tensor.bytes().as_ptr().addr(), tensor.bytes().len(), tensor.dtype(), tensor.dims().to_vec());
        let scope = self.scopes.get(level).ok_or_else(|| Fault::invalid("there is no graph"))?;
        if tensor.dtype() != DType::String
            && let Some(&v) = scope.constants.get(&key)
            && scope.graph.constant(v) == Some(tensor)
        {
            return Ok(v);
        }
        let tensor = tensor.clone();
        let v = self.at_level(level, |b| b.constant(tensor))?;
        if let Some(scope) = self.scopes.get_mut(level) {
            scope.constants.insert(key, v);
        }
        Ok(v)
    }

    /// Builds in the graph at `level`.
    fn at_level<R>(
        &mut self,
        level: usize,
        f: impl FnOnce(&mut GraphBuilder<'_>) -> Result<R, kiln_ir::InferError>,
    ) -> Res<R> {
        let inner = self.scopes.split_off(level + 1);
        let result = self.try_build(f);
        self.scopes.extend(inner);
        result
    }

    /// A value of the scope `id` in the graph at `level`.
    fn lift(&mut self, level: usize, id: u32, value: Value) -> Res<Value> {
        let lost = || Fault::invalid("a value is used outside of the branch that computes it");
        let scope = self.scopes.get(level).ok_or_else(lost)?;
        if scope.id == id {
            return if value.index() < scope.graph.value_count() { Ok(value) } else { Err(lost()) };
        }
        if let Some(&v) = scope.seen.get(&(id, value)) {
            return Ok(v);
        }
        let origin = Traced::Node { scope: id, value };
        let inner = match self.known(&origin) {
            Some(Known::Tensor(tensor)) => self.constant_in(level, &tensor)?,
            Some(Known::Dims(dims)) => {
                let ty = self.ty(&origin)?;
                let (rank, dtype) = match ty.as_tensor() {
                    Some(t) => (t.shape.rank(), t.dtype),
                    None => return Err(lost()),
                };
                self.at_level(level, |b| {
                    let mut v = b.dims(&dims)?;
                    if rank == Some(0) {
                        v = b.add1(Movement::Reshape { shape: vec![] }, &[v])?;
                    }
                    b.cast(v, dtype)
                })?
            }
            None => {
                let outer = self.lift(level.checked_sub(1).ok_or_else(lost)?, id, value)?;
                let ty = self.ty(&origin)?;
                let v = self.input_at(level, "captured", ty)?;
                if let Some(scope) = self.scopes.get_mut(level) {
                    scope.captures.push((outer, v));
                }
                v
            }
        };
        if let Some(scope) = self.scopes.get_mut(level) {
            scope.seen.insert((id, value), inner);
        }
        Ok(inner)
    }

    fn input_at(&mut self, level: usize, name: &str, ty: Type) -> Res<Value> {
        self.at_level(level, |b| Ok(b.input(name, ty)))
    }

    /// Adds an input to the current graph.
    pub fn input(&mut self, name: &str, ty: Type) -> Res<Traced> {
        let v = self.build(|b| b.input(name, ty))?;
        Ok(self.node(v))
    }

    /// Makes two graphs take the same operands, and adds both to the module. They have no inputs but captured values.
    pub fn keep_pair(&mut self, mut a: Closed, mut b: Closed) -> (GraphId, GraphId, Vec<Value>) {
        let mut operands = a.captures.clone();
        operands.extend(b.captures.iter().filter(|v| !a.captures.contains(v)));
        let (of_a, of_b) = (a.captured_types(), b.captured_types());
        self.complete(&mut a, &operands, &of_b);
        self.complete(&mut b, &operands, &of_a);
        (self.keep(a.graph), self.keep(b.graph), operands)
    }

    /// Adds inputs for operands that the graph does not use, and orders all as the operands are.
    fn complete(&mut self, of: &mut Closed, operands: &[Value], theirs: &FxHashMap<Value, Type>) {
        let empty = GraphBuilder::new(&mut self.module, "").suspend();
        let graph = std::mem::replace(&mut of.graph, empty);
        let mut b = GraphBuilder::resume(&mut self.module, graph);
        let known: FxHashMap<Value, usize> = of.captures.iter().enumerate().map(|(i, &v)| (v, i)).collect();
        let mut order = vec![];
        let mut next = of.captures.len();
        for v in operands {
            match (known.get(v), theirs.get(v)) {
                (Some(&i), _) => order.push(i),
                (None, Some(ty)) => {
                    b.input("unused", ty.clone());
                    order.push(next);
                    next += 1;
                }
                (None, None) => {}
            }
        }
        b.order_inputs(&order);
        of.graph = b.suspend();
    }

    /// Adds an operator to the current graph whose operands are values of it; gives all results.
    pub fn add_all(&mut self, op: kiln_ir::Op, operands: &[Value]) -> Res<Vec<Traced>> {
        let results = self.try_build(|b| b.add(op, operands))?;
        Ok(results.into_iter().map(|v| self.node(v)).collect())
    }
}

/// The type that covers both, with unknown dims where they differ; `None` if dtypes or kinds differ.
pub(crate) fn widened(a: &Type, b: &Type) -> Option<Type> {
    use kiln_ir::{Dim, Shape, TensorType};
    Some(match (a, b) {
        (Type::Tensor(a), Type::Tensor(b)) if a.dtype == b.dtype => {
            let shape = match (a.shape.dims(), b.shape.dims()) {
                (Some(x), Some(y)) if x.len() == y.len() => {
                    let dims = x.iter().zip(y).map(|(x, y)| if x == y { x.clone() } else { Dim::unknown() });
                    Shape::new(dims.collect::<Vec<_>>())
                }
                _ => Shape::unranked(),
            };
            Type::Tensor(TensorType { dtype: a.dtype, shape })
        }
        (Type::Sequence(a), Type::Sequence(b)) => Type::Sequence(Box::new(widened(a, b)?)),
        (Type::Optional(a), Type::Optional(b)) => Type::Optional(Box::new(widened(a, b)?)),
        _ => return None,
    })
}

/// The type without sizes that are not constant.
pub(crate) fn any_size(ty: &Type) -> Type {
    ty.map_dims(&mut |d| if d.as_known().is_some() { d.clone() } else { kiln_ir::Dim::unknown() })
}
