//! What the importer of one node sees, and the graphs that control operators build.

use kiln_ir::{Build, DType, Dim, GraphBuilder, GraphId, Known, Tensor, Type, Value};
use rustc_hash::FxHashMap;

use super::attrs::Attrs;
use super::import::{Frame, Session, Slot, free_names, import_graph};
use super::proto::{GraphProto, NodeProto};
use super::tensor::TensorProtoError;

pub(crate) use crate::error::OpError;

impl From<TensorProtoError> for OpError {
    fn from(e: TensorProtoError) -> Self {
        OpError::Invalid(e.to_string())
    }
}

impl From<super::types::TypeError> for OpError {
    fn from(e: super::types::TypeError) -> Self {
        OpError::Invalid(e.to_string())
    }
}

/// Results of a node, in order; optional ones at the end may be left out.
pub(crate) type Outputs = Result<Vec<Value>, OpError>;

/// One result.
pub(crate) fn one(v: Value) -> Outputs {
    Ok(vec![v])
}

/// The importer of one node.
pub(crate) struct Cx<'c, 'm, 'p> {
    /// The graph under construction.
    pub b: &'c mut GraphBuilder<'m>,
    /// The node.
    pub node: &'p NodeProto,
    /// Its attributes.
    pub attrs: Attrs<'p>,
    /// Version of its domain.
    pub opset: i64,
    pub(super) inputs: Vec<Option<Value>>,
    pub(super) session: &'c mut Session<'p>,
    pub(super) frame: &'c Frame<'p>,
}

impl<'p> Cx<'_, '_, 'p> {
    /// A required operand.
    pub(crate) fn input(&self, i: usize) -> Result<Value, OpError> {
        self.optional(i).ok_or_else(|| OpError::invalid(format!("operand {i} is missing")))
    }

    /// An operand that may be absent.
    pub(crate) fn optional(&self, i: usize) -> Option<Value> {
        self.inputs.get(i).copied().flatten()
    }

    /// All operands, which must be present.
    pub(crate) fn all_inputs(&self) -> Result<Vec<Value>, OpError> {
        (0..self.inputs.len()).map(|i| self.input(i)).collect()
    }

    /// The value that a name has in this graph.
    pub(crate) fn named(&self, name: &str) -> Result<Value, OpError> {
        match self.frame.names.get(name) {
            Some(Slot::Value(v)) => Ok(*v),
            Some(Slot::Poisoned) => Err(OpError::Recorded),
            Some(Slot::Absent) | None => Err(OpError::invalid(format!("nothing defines `{name}`"))),
        }
    }

    /// Number of operand positions.
    pub(crate) fn input_count(&self) -> usize {
        self.inputs.len()
    }

    /// Whether result `i` has a name.
    pub(crate) fn wants(&self, i: usize) -> bool {
        self.node.output.get(i).is_some_and(|name| !name.is_empty())
    }

    /// Where tensors outside the file lie.
    pub(crate) fn external(&self) -> &'p dyn super::tensor::ExternalData {
        self.session.external
    }

    pub(crate) fn rank(&self, v: Value) -> Result<usize, OpError> {
        Ok(self.b.rank(v)?)
    }

    pub(crate) fn shape(&self, v: Value) -> Result<Vec<Dim>, OpError> {
        Ok(self.b.shape(v)?.to_vec())
    }

    pub(crate) fn dtype(&self, v: Value) -> Result<DType, OpError> {
        Ok(self.b.dtype(v)?)
    }

    /// The elements of an integer operand, if they are known as dims.
    pub(crate) fn known_dims(&self, v: Value) -> Option<Vec<Dim>> {
        self.b.known(v).and_then(Known::dims)
    }

    /// The elements of an integer operand, if they are constants.
    pub(crate) fn known_ints(&self, v: Value) -> Option<Vec<i64>> {
        self.b.known(v).and_then(Known::ints)
    }

    /// The constant that an operand is.
    pub(crate) fn known_tensor(&self, v: Value) -> Option<&Tensor> {
        self.b.known(v).and_then(Known::tensor)
    }

    /// The constant integers of an operand that must be constant.
    pub(crate) fn constant_ints(&self, v: Value, what: &str) -> Result<Vec<i64>, OpError> {
        let found = self.known_ints(v).or_else(|| self.known_tensor(v).and_then(Tensor::to_ints));
        found.ok_or_else(|| OpError::unsupported(format!("{what} must be constant")))
    }

    /// A rank-1 i64 constant.
    pub(crate) fn ints(&mut self, values: &[i64]) -> Result<Value, OpError> {
        Ok(self.b.constant(Tensor::ints(values))?)
    }

    /// An axis in `0 .. rank`, counted from the end if negative.
    pub(crate) fn axis(&self, axis: i64, rank: usize) -> Result<usize, OpError> {
        normalize_axis(axis, rank)
    }

    /// Axes in `0 .. rank`, none twice.
    pub(crate) fn axes(&self, axes: &[i64], rank: usize) -> Result<Vec<usize>, OpError> {
        let axes: Vec<usize> = axes.iter().map(|&a| normalize_axis(a, rank)).collect::<Result<_, _>>()?;
        for (i, a) in axes.iter().enumerate() {
            if axes.iter().take(i).any(|b| b == a) {
                return Err(OpError::invalid(format!("axis {a} is given twice")));
            }
        }
        Ok(axes)
    }

    /// The values that nested graphs take from the graphs around them.
    pub(crate) fn captures(&mut self, graphs: &[&'p GraphProto]) -> Result<Captures<'p>, OpError> {
        let mut captures = Captures::default();
        for name in free_names(graphs) {
            match self.frame.names.get(name) {
                Some(Slot::Value(v)) => {
                    // Constants move inside, where shapes may depend on them.
                    match self.known_tensor(*v).cloned() {
                        Some(tensor) => captures.constants.push((name, tensor)),
                        None => captures.values.push((name, *v, self.b.ty(*v).clone())),
                    }
                }
                Some(Slot::Poisoned) => return Err(OpError::Recorded),
                Some(Slot::Absent) => captures.absent.push(name),
                // The nested graph reports the names that nothing defines.
                None => {}
            }
        }
        Ok(captures)
    }

    /// Counts nodes that the operator builds or looks at beside its own, against the limit of the model.
    pub(crate) fn count_nodes(&mut self, more: usize) -> Result<(), OpError> {
        self.session.count_nodes(more)
    }

    /// Builds a private graph; `fill` adds inputs, nodes and outputs. Problems inside are recorded one by one.
    pub(crate) fn nested(
        &mut self,
        label: &str,
        fill: impl FnOnce(&mut Nested<'_, '_, 'p>) -> Result<(), OpError>,
    ) -> Result<GraphId, OpError> {
        let depth = self.frame.depth + 1;
        if depth > self.session.options.limits.depth {
            return Err(OpError::invalid(format!("graphs are nested more than {} deep", depth - 1)));
        }
        let node = super::import::display_name(self.node);
        let path = match self.frame.path.as_str() {
            "" => format!("{node}/{label}"),
            outer => format!("{outer}/{node}/{label}"),
        };
        let frame = Frame { scope: self.frame.scope.clone(), path, depth, names: Default::default() };
        let builder = GraphBuilder::new(self.b.module(), label);
        let mut nested = Nested { b: builder, session: self.session, frame };
        fill(&mut nested)?;
        Ok(nested.b.finish())
    }

    /// Imports a nested graph in place, with these values as its inputs; gives its outputs.
    pub(crate) fn inline_graph(
        &mut self,
        graph: &'p GraphProto,
        inputs: &[Value],
    ) -> Result<Vec<Value>, OpError> {
        if graph.input.len() != inputs.len() {
            return Err(OpError::invalid(format!(
                "a graph of {} inputs gets {}",
                graph.input.len(),
                inputs.len()
            )));
        }
        let depth = self.frame.depth + 1;
        if depth > self.session.options.limits.depth {
            return Err(OpError::invalid(format!("graphs are nested more than {} deep", depth - 1)));
        }
        // Only the names that the graph takes from outside: a file may inline many graphs where many names are known.
        let outer = |name: &'p str| self.frame.names.get(name).map(|slot| (name, *slot));
        let mut names: FxHashMap<&str, Slot> = free_names(&[graph]).into_iter().filter_map(outer).collect();
        names.extend(graph.input.iter().zip(inputs).map(|(i, &v)| (i.name.as_str(), Slot::Value(v))));
        let (scope, path) = (self.frame.scope.clone(), self.frame.path.clone());
        let mut frame = Frame { scope, path, depth, names };
        let values = import_graph(self.session, &mut frame, self.b, graph)?;
        values.into_iter().collect::<Option<Vec<_>>>().ok_or(OpError::Recorded)
    }

    /// State to come back to if a nested graph must be built again.
    pub(crate) fn checkpoint(&mut self) -> Checkpoint {
        Checkpoint { graphs: self.b.module().graphs().len(), issues: self.session.issues.len() }
    }

    /// Drops what was built since the checkpoint; the count of nodes stays, it bounds time.
    pub(crate) fn roll_back(&mut self, to: &Checkpoint) {
        self.b.module().truncate_graphs(to.graphs);
        self.session.issues.truncate(to.issues);
    }

    /// Whether the model is beyond a limit, with which nothing more is imported.
    pub(crate) fn is_over_limit(&self) -> bool {
        self.session.limit.is_some()
    }

    /// Whether problems were recorded since the checkpoint.
    pub(crate) fn failed_since(&self, to: &Checkpoint) -> bool {
        self.session.issues.len() > to.issues
    }
}

/// See [`Cx::checkpoint`].
pub(crate) struct Checkpoint {
    graphs: usize,
    issues: usize,
}

/// Values that nested graphs take from outside.
#[derive(Default)]
pub(crate) struct Captures<'p> {
    values: Vec<(&'p str, Value, Type)>,
    constants: Vec<(&'p str, Tensor)>,
    absent: Vec<&'p str>,
}

impl Captures<'_> {
    /// The operands to pass.
    pub(crate) fn operands(&self) -> impl Iterator<Item = Value> {
        self.values.iter().map(|(_, v, _)| *v)
    }
}

/// A nested graph under construction.
pub(crate) struct Nested<'c, 'm, 'p> {
    /// Its builder.
    pub b: GraphBuilder<'m>,
    session: &'c mut Session<'p>,
    frame: Frame<'p>,
}

impl<'m, 'p> Nested<'_, 'm, 'p> {
    /// Adds an input without binding its name.
    pub(crate) fn input(&mut self, name: &str, ty: Type) -> Value {
        self.b.input(name, ty)
    }

    /// Makes a value visible under a name.
    pub(crate) fn bind(&mut self, name: &'p str, v: Value) {
        self.frame.names.insert(name, Slot::Value(v));
    }

    /// Adds the captures: inputs, in [`Captures::operands`]' order, and constants.
    pub(crate) fn bind_captures(&mut self, captures: &Captures<'p>) -> Result<(), OpError> {
        for (name, _, ty) in &captures.values {
            let v = self.b.input(name, ty.clone());
            self.bind(name, v);
        }
        for (name, tensor) in &captures.constants {
            let v = self.b.constant(tensor.clone())?;
            self.bind(name, v);
        }
        for name in &captures.absent {
            self.frame.names.insert(name, Slot::Absent);
        }
        Ok(())
    }

    /// What the importer of a node sees in this graph.
    pub(crate) fn node<'n>(
        &'n mut self,
        node: &'p NodeProto,
        opset: i64,
        inputs: Vec<Option<Value>>,
    ) -> Cx<'n, 'm, 'p> {
        let attrs = Attrs::new(node, self.frame.scope.bindings());
        Cx { b: &mut self.b, node, attrs, opset, inputs, session: self.session, frame: &self.frame }
    }

    /// Imports a graph whose inputs are bound; gives its outputs.
    pub(crate) fn import(&mut self, graph: &'p GraphProto) -> Result<Vec<Value>, OpError> {
        let values = import_graph(self.session, &mut self.frame, &mut self.b, graph)?;
        values.into_iter().collect::<Option<Vec<_>>>().ok_or(OpError::Recorded)
    }
}

/// An axis in `0 .. rank`, counted from the end if negative.
pub(crate) fn normalize_axis(axis: i64, rank: usize) -> Result<usize, OpError> {
    let signed = i64::try_from(rank).unwrap_or(i64::MAX);
    let at = if axis < 0 { axis.checked_add(signed) } else { Some(axis) };
    let at = at.and_then(|a| usize::try_from(a).ok()).filter(|&a| a < rank);
    at.ok_or_else(|| OpError::invalid(format!("axis {axis} is out of range for rank {rank}")))
}
