//! The reference evaluator: the meaning of the IR, small, slow and total.
//!
//! Guarantees that others rely on:
//! - every operator of [`crate::op`] evaluates on every dtype that it accepts; what it does not accept is an error;
//! - no input, however hostile, makes it panic, hang beyond its [`Limits`] or allocate beyond them;
//! - floats compute in double precision and round once to the result dtype, sums accumulate in double precision,
//!   integers are exact and wrap to their dtype;
//! - results depend on operands, states and the seed alone.

mod composite;
mod contract;
mod control;
mod conv;
mod cx;
mod dynamic;
mod elementwise;
mod fault;
mod host;
mod image;
mod index;
mod jpeg;
mod lanes;
mod live;
mod movement;
mod ngrams;
mod object;
mod order;
mod pictures;
mod quant;
mod random;
mod reduce;
mod signal;
mod text;
mod trees;
mod walk;
mod window;

use std::collections::BTreeMap;

pub use cx::Limits;
pub use fault::{EvalError, Fault};

use rustc_hash::FxHashMap;

use crate::op::{Composite, Source};
use crate::{GraphId, Module, Node, NodeId, Op, Symbol, Tensor, Type};
use cx::Cx;
use live::Owner;

/// A value at run time.
#[derive(Clone, Debug, PartialEq)]
pub enum Datum {
    /// A tensor.
    Tensor(Tensor),
    /// A list of values of one type.
    Sequence {
        /// Type of the elements.
        element: Type,
        /// The elements.
        items: Vec<Datum>,
    },
    /// A value that may be absent.
    Optional {
        /// Type of the value when it is present.
        element: Type,
        /// The value.
        value: Option<Box<Datum>>,
    },
}

impl Datum {
    /// The type of the value.
    pub fn ty(&self) -> Type {
        match self {
            Datum::Tensor(t) => Type::Tensor(t.ty()),
            Datum::Sequence { element, .. } => Type::Sequence(Box::new(element.clone())),
            Datum::Optional { element, .. } => Type::Optional(Box::new(element.clone())),
        }
    }

    /// The tensor, if the value is one.
    pub fn as_tensor(&self) -> Option<&Tensor> {
        match self {
            Datum::Tensor(t) => Some(t),
            Datum::Sequence { .. } | Datum::Optional { .. } => None,
        }
    }

    /// The tensor, if the value is one.
    pub fn into_tensor(self) -> Option<Tensor> {
        match self {
            Datum::Tensor(t) => Some(t),
            Datum::Sequence { .. } | Datum::Optional { .. } => None,
        }
    }
}

impl From<Tensor> for Datum {
    fn from(t: Tensor) -> Self {
        Datum::Tensor(t)
    }
}

/// Sees each node's results as they are computed: graph, node and values.
pub type Observer<'m> = Box<dyn FnMut(GraphId, NodeId, &Node, &[Datum]) + 'm>;

/// Evaluates graphs and operators of a module. Holds the module's states between runs.
pub struct Evaluator<'m> {
    module: &'m Module,
    states: BTreeMap<String, Tensor>,
    observer: Option<Observer<'m>>,
    bodies: FxHashMap<(Composite, Vec<Type>), composite::Body>,
    cx: Cx<'m>,
}

impl<'m> Evaluator<'m> {
    /// An evaluator with default limits, states at their initial values and seed 0.
    pub fn new(module: &'m Module) -> Self {
        Evaluator::with_limits(module, Limits::default())
    }

    /// As [`Evaluator::new`], with other limits.
    pub fn with_limits(module: &'m Module, limits: Limits) -> Self {
        let states = module.states().iter().map(|s| (s.name.clone(), s.init.clone())).collect();
        let bodies = FxHashMap::default();
        Evaluator { module, states, observer: None, bodies, cx: Cx::new(limits) }
    }

    /// Sets the seed of random operators that have none of their own.
    pub fn set_seed(&mut self, seed: u64) {
        self.cx.random = random::Rng::new(seed);
    }

    /// Sets a function that is asked now and then whether to give up.
    pub fn set_interrupt(&mut self, interrupt: impl FnMut() -> bool + 'm) {
        self.cx.interrupt = Some(Box::new(interrupt));
    }

    /// Sets a function that sees every node's results.
    pub fn set_observer(&mut self, observer: impl FnMut(GraphId, NodeId, &Node, &[Datum]) + 'm) {
        self.observer = Some(Box::new(observer));
    }

    /// The states' current values by name.
    pub fn states(&self) -> &BTreeMap<String, Tensor> {
        &self.states
    }

    /// Sets a state's value.
    pub fn set_state(&mut self, name: &str, value: Tensor) {
        self.states.insert(name.to_owned(), value);
    }

    /// Gives a dimension symbol its value, for [`Evaluator::eval_op`]. [`Evaluator::run`] binds symbols itself.
    pub fn bind(&mut self, symbol: &Symbol, value: i64) {
        self.cx.bind(symbol, value);
    }

    /// Runs a graph. Symbols of the inputs' declared dims take the values that the actual shapes have.
    pub fn run(&mut self, graph: GraphId, inputs: &[Datum]) -> Result<Vec<Datum>, EvalError> {
        let module = self.module;
        self.run_scope(module, graph, inputs.to_vec(), Owner::Elsewhere)
    }

    /// Runs one operator. Its dims may use symbols that [`Evaluator::bind`] has given values; `result_types`, where
    /// not empty, are checked against the results and bind their symbols.
    pub fn eval_op(
        &mut self,
        op: &Op,
        operands: &[Datum],
        result_types: &[Type],
    ) -> Result<Vec<Datum>, EvalError> {
        let module = self.module;
        let results = self.exec(module, op, operands);
        results
            .and_then(|r| {
                self.cx.bind_results(result_types, &r)?;
                Ok(r)
            })
            .map_err(|f| EvalError::at(None, op, operands, f))
    }

    /// Runs a graph of `module` for a node.
    fn run_graph(
        &mut self,
        module: &Module,
        id: GraphId,
        inputs: Vec<Datum>,
    ) -> Result<Vec<Datum>, EvalError> {
        self.run_scope(module, id, inputs, Owner::Evaluation)
    }

    /// Runs a graph of `module` in a new frame of symbols.
    fn run_scope(
        &mut self,
        module: &Module,
        id: GraphId,
        inputs: Vec<Datum>,
        owner: Owner,
    ) -> Result<Vec<Datum>, EvalError> {
        let entered = self.cx.enter();
        let results = match entered {
            Ok(()) => self.run_frame(module, id, inputs, owner),
            Err(fault) => return Err(EvalError::in_graph(format!("graph {id}"), fault)),
        };
        self.cx.leave();
        results
    }

    fn run_frame(
        &mut self,
        module: &Module,
        id: GraphId,
        inputs: Vec<Datum>,
        owner: Owner,
    ) -> Result<Vec<Datum>, EvalError> {
        let Some(graph) = module.get_graph(id) else {
            let fault = Fault::operands("there is no such graph");
            return Err(EvalError::in_graph(format!("graph {id}"), fault));
        };
        let place = || format!("graph `{}`", graph.name());
        if inputs.len() != graph.inputs().len() {
            let message = format!("takes {} inputs, {} were given", graph.inputs().len(), inputs.len());
            return Err(EvalError::in_graph(place(), Fault::Operands(message)));
        }
        let mut values: Vec<Option<Datum>> = vec![None; graph.value_count()];
        for ((&v, datum), name) in graph.inputs().iter().zip(inputs).zip(graph.input_names()) {
            let bound = self.cx.bind_type(graph.ty(v), &datum).and_then(|()| self.cx.hold(&datum, owner));
            bound.map_err(|f| EvalError::in_graph(format!("{}, input `{name}`", place()), f))?;
            values[v.index()] = Some(datum);
        }
        let mut uses = graph.use_counts();
        for (node_id, node) in graph.scheduled() {
            let mut operands = Vec::with_capacity(node.operands.len());
            let mut last_uses = vec![];
            for v in &node.operands {
                let left = &mut uses[v.index()];
                *left = left.saturating_sub(1);
                let slot = &mut values[v.index()];
                // The last use takes the value, so that large intermediates go as early as they can.
                if *left == 0 {
                    last_uses.push(operands.len());
                }
                let datum = if *left == 0 { slot.take() } else { slot.clone() };
                let missing = || EvalError::in_graph(place(), Fault::Operands(format!("{v} has no value")));
                operands.push(datum.ok_or_else(missing)?);
            }
            let types: Vec<Type> = node.results.iter().map(|&r| graph.ty(r).clone()).collect();
            let results = self
                .run_node(module, node, &types, &operands)
                .map_err(|f| EvalError::at(node.origin.as_deref(), &node.op, &operands, f))?;
            if let Some(observer) = &mut self.observer {
                observer(id, node_id, node, &results);
            }
            last_uses.iter().for_each(|&i| self.cx.live.release(&operands[i]));
            for (&r, datum) in node.results.iter().zip(results) {
                match uses[r.index()] {
                    0 => self.cx.live.release(&datum),
                    _ => values[r.index()] = Some(datum),
                }
            }
        }
        let missing = |v| EvalError::in_graph(place(), Fault::Operands(format!("output {v} has no value")));
        graph.outputs().iter().map(|&v| values[v.index()].clone().ok_or_else(|| missing(v))).collect()
    }

    /// Runs one node: as many results as its types, which are checked, and held as alive.
    fn run_node(
        &mut self,
        module: &Module,
        node: &Node,
        types: &[Type],
        operands: &[Datum],
    ) -> Result<Vec<Datum>, Fault> {
        let results = self.exec(module, &node.op, operands)?;
        if results.len() != types.len() {
            return Err(Fault::Operands(format!("{} results, expected {}", results.len(), types.len())));
        }
        self.cx.bind_results(types, &results)?;
        let constant = matches!(node.op, Op::Source(Source::Constant { .. }));
        let owner = if constant { Owner::Elsewhere } else { Owner::Evaluation };
        results.iter().try_for_each(|r| self.cx.hold(r, owner))?;
        Ok(results)
    }

    fn exec(&mut self, module: &Module, op: &Op, operands: &[Datum]) -> Result<Vec<Datum>, Fault> {
        self.cx.tick(cx::NODE_WORK)?;
        let cx = &mut self.cx;
        let one = |t: Tensor| vec![Datum::Tensor(t)];
        match op {
            Op::Elementwise(e) => elementwise::elementwise(cx, e, &tensors(operands)?).map(one),
            Op::Cast(c) => elementwise::cast(cx, c, tensor(operands, 0)?).map(one),
            Op::Source(s) => movement::source(cx, s).map(one),
            Op::Reduce(r) => reduce::reduce(cx, r, tensor(operands, 0)?).map(one),
            Op::Contract(c) => contract::contract(cx, c, tensor(operands, 0)?, tensor(operands, 1)?).map(one),
            Op::Conv(c) => conv::conv(cx, c, tensor(operands, 0)?, tensor(operands, 1)?).map(one),
            Op::Window(w) => window::window(cx, w, tensor(operands, 0)?).map(wrap),
            Op::Movement(m) => movement::movement(cx, m, &tensors(operands)?).map(one),
            Op::Index(i) => index::index(cx, i, &tensors(operands)?).map(one),
            Op::Order(o) => order::order(cx, o, &tensors(operands)?).map(wrap),
            Op::Quant(q) => quant::quant(cx, q, &tensors(operands)?).map(one),
            Op::Dynamic(d) => dynamic::dynamic(self, d, operands),
            Op::Host(h) => host::host(cx, h, &tensors(operands)?).map(wrap),
            Op::Control(c) => control::control(self, module, c, operands),
            Op::Object(o) => object::object(self, module, o, operands),
            Op::Composite(c) => composite::composite(self, c, operands),
        }
    }
}

fn wrap(tensors: Vec<Tensor>) -> Vec<Datum> {
    tensors.into_iter().map(Datum::Tensor).collect()
}

/// Operand `i` as a tensor.
fn tensor(operands: &[Datum], i: usize) -> Result<&Tensor, Fault> {
    match operands.get(i) {
        Some(Datum::Tensor(t)) => Ok(t),
        Some(other) => Err(Fault::Operands(format!("operand {i} is {}, not a tensor", other.ty()))),
        None => Err(Fault::Operands(format!("operand {i} is missing"))),
    }
}

/// All operands as tensors.
fn tensors(operands: &[Datum]) -> Result<Vec<&Tensor>, Fault> {
    (0..operands.len()).map(|i| tensor(operands, i)).collect()
}
