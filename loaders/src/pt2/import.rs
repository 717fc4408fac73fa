//! Graphs and nodes of a program into graph IR: names, writes, and the collection of everything that fails.

use std::collections::BTreeMap;
use std::sync::Arc;

use kiln_ir::StateDecl;
use kiln_ir::op::Object;
use kiln_ir::{Build, DType, Dim, GraphBuilder, Module, Origin, Tensor, Type, Value};
use rustc_hash::{FxHashMap, FxHashSet};

use super::alias::{self, Aliases};
use super::archive::{Package, element_type};
use super::program::{
    Argument, Constant, Graph, InputSpec, Named, Node, OptionalTensor, OutputSpec, Program, SymBoolArgument,
    SymFloatArgument, SymInt, SymIntArgument, TensorMeta,
};
use super::{autocast, expr, higher_order, operand, strides};
use crate::aten::{self, Arg, Write};
use crate::binding::{self, Binding};
use crate::error::OpError;
use crate::options::{check_names, given_symbols, override_shape};
use crate::{Issue, IssueKind, LoadError, LoadOptions};

/// What a name stands for.
#[derive(Clone, Debug)]
pub(super) enum Slot {
    /// A value, a number or a list.
    Arg(Arg),
    /// The result of a node that failed: its users are skipped without another message.
    Poisoned,
    /// A result that the table does not give.
    Missing(String),
}

/// The graph under construction and its names.
pub(super) struct Frame<'p> {
    pub(super) path: String,
    pub(super) depth: usize,
    pub(super) slots: FxHashMap<&'p str, Slot>,
    pub(super) aliases: Aliases<'p>,
    /// Inputs of a nested graph: their memory is the caller's.
    pub(super) inputs: FxHashSet<&'p str>,
    /// Sizes and strides of the graph's tensors.
    pub(super) metas: Option<&'p BTreeMap<String, TensorMeta>>,
    /// Results of the nested graph just inlined that may share the memory of its inputs, by place.
    pub(super) borrowed: Vec<(usize, usize)>,
    /// Results of the nested graph just inlined that may share the memory of these names.
    pub(super) shared: Vec<(usize, &'p str)>,
    /// The narrow type of automatic casts, where they are on.
    pub(super) autocast: Option<DType>,
}

/// State of one load.
pub(super) struct Session<'p> {
    file: String,
    binding: Option<Binding<'p>>,
    pub(super) options: &'p LoadOptions,
    issues: Vec<Issue>,
    unlisted: usize,
    nodes: usize,
    max_nodes: usize,
    limit: Option<LoadError>,
}

impl Session<'_> {
    /// Counts nodes that are built, against the limit.
    pub(super) fn count_nodes(&mut self, more: usize) -> Result<(), OpError> {
        self.nodes = self.nodes.saturating_add(more);
        let limit = self.max_nodes;
        if self.nodes > limit {
            let what = "the number of nodes, nested graphs included,".to_owned();
            self.limit.get_or_insert(LoadError::Limit { path: self.file.clone(), what, limit });
            return Err(OpError::Recorded);
        }
        Ok(())
    }

    fn report(&mut self, path: &str, node: &str, op: &str, error: OpError) {
        let (kind, reason) = match error {
            OpError::Unsupported(reason) => (IssueKind::Unsupported, reason),
            OpError::Invalid(reason) => (IssueKind::Invalid, reason),
            OpError::Recorded => return,
        };
        if self.issues.len() >= self.options.limits.problems.max(1) {
            self.unlisted += 1;
            return;
        }
        let origin = self.origin(path, node, op);
        self.issues.push(Issue { kind, origin, domain: String::new(), opset: 0, reason });
    }

    fn origin(&self, path: &str, node: &str, op: &str) -> Origin {
        let (path, node, op) = (path.to_owned(), short(node).to_owned(), short(op).to_owned());
        Origin { file: self.file.clone(), path, node, op }
    }

    /// How many problems there are so far.
    pub(super) fn problems(&self) -> usize {
        self.issues.len() + self.unlisted
    }
}

/// Most characters of a name that are kept.
const MOST_NAME: usize = 256;

fn short(name: &str) -> &str {
    name.char_indices().nth(MOST_NAME).and_then(|(end, _)| name.get(..end)).unwrap_or(name)
}

impl<'p> Frame<'p> {
    /// A frame without names.
    pub(super) fn new(path: String, depth: usize) -> Self {
        Frame {
            path,
            depth,
            slots: FxHashMap::default(),
            aliases: Aliases::default(),
            inputs: FxHashSet::default(),
            metas: None,
            borrowed: vec![],
            shared: vec![],
            autocast: None,
        }
    }

    /// The frame of a graph that runs inside of this one.
    pub(super) fn nested(&self, path: String) -> Self {
        Frame { autocast: self.autocast, ..Frame::new(path, self.depth + 1) }
    }

    /// What a name stands for now. Views of memory that was written since are taken again.
    pub(super) fn resolve(
        &mut self,
        session: &mut Session<'p>,
        b: &mut GraphBuilder<'_>,
        name: &'p str,
    ) -> Result<Arg, OpError> {
        alias::refresh(session, self, b, name)?;
        self.current(name)
    }

    /// What a name stood for last.
    pub(super) fn current(&self, name: &str) -> Result<Arg, OpError> {
        match self.slots.get(name) {
            Some(Slot::Arg(arg)) => Ok(arg.clone()),
            Some(Slot::Poisoned) => Err(OpError::Recorded),
            Some(Slot::Missing(reason)) => Err(OpError::unsupported(reason.clone())),
            None => Err(OpError::invalid(format!("nothing defines `{}`", short(name)))),
        }
    }
}

/// Imports the program of a file of `size` bytes. Fails with every problem of the graph at once.
pub(super) fn import(
    file: &str,
    size: usize,
    package: &Package,
    program: &Program,
    options: &LoadOptions,
) -> Result<Module, LoadError> {
    let max_nodes = options.limits.nodes_of(size);
    let checkpoint = match &options.weights {
        Some(new) => Some((new, binding::open(new, &options.limits)?)),
        None => None,
    };
    let binding = checkpoint.as_ref().map(|(new, found)| Binding::new(new, found, &options.limits));
    let mut session = Session {
        file: file.to_owned(),
        binding,
        options,
        issues: vec![],
        unlisted: 0,
        nodes: 0,
        max_nodes,
        limit: None,
    };
    let graph = &program.graph_module.graph;
    let signature = &program.graph_module.signature;
    if signature.input_specs.len() != graph.inputs.len()
        || signature.output_specs.len() != graph.outputs.len()
    {
        let reason = "the signature and the graph have different numbers of inputs or outputs".to_owned();
        return Err(LoadError::Malformed { path: file.to_owned(), format: super::FORMAT, reason });
    }
    let mut frame = Frame::new(String::new(), 0);
    let mut module = Module::new();
    let states = states(&mut session, package, program, &mut module);
    let mut b = GraphBuilder::new(&mut module, "forward");
    add_inputs(&mut session, &mut frame, &mut b, package, program, &states)?;
    let done = import_graph(&mut session, &mut frame, &mut b, graph);
    if done.is_ok() {
        add_outputs(&mut session, &mut frame, &mut b, program, &states);
    }
    if let Some(limit) = session.limit {
        return Err(limit);
    }
    if done.is_err() || !session.issues.is_empty() {
        let (path, issues, unlisted) = (file.to_owned(), session.issues, session.unlisted);
        return Err(LoadError::Graph { path, issues, unlisted });
    }
    if let Some(binding) = session.binding {
        binding.finish()?;
    }
    let id = b.finish();
    module.add_entry(id);
    Ok(module)
}

/// The argument and the name of a tensor that the archive holds.
fn held(spec: &InputSpec) -> Option<(&Named, &String)> {
    match spec {
        InputSpec::Parameter { arg, parameter_name: name }
        | InputSpec::Buffer { arg, buffer_name: name, .. }
        | InputSpec::TensorConstant { arg, tensor_constant_name: name } => Some((arg, name)),
        _ => None,
    }
}

/// The tensor of a spec: that of the caller's checkpoint, else what the archive has. Checkpoints have no constants and no
/// buffers that are not persistent.
fn weight(
    session: &mut Session<'_>,
    package: &Package,
    spec: &InputSpec,
    name: &str,
) -> Result<Tensor, String> {
    let own = package.tensor(name)?;
    let bound = matches!(spec, InputSpec::Parameter { .. })
        || matches!(spec, InputSpec::Buffer { persistent, .. } if *persistent != Some(false));
    Ok(match session.binding.as_mut() {
        Some(binding) if bound => binding.bind(name, own),
        _ => own,
    })
}

/// States by the name of the buffer in the graph, with their name in the module.
type States<'p> = FxHashMap<&'p str, (&'p str, Type)>;

/// Declares a state for every buffer and parameter that the program writes.
fn states<'p>(
    session: &mut Session<'p>,
    package: &Package,
    program: &'p Program,
    module: &mut Module,
) -> States<'p> {
    let written = alias::written(&program.graph_module.graph);
    let mut mutated: FxHashSet<&str> = FxHashSet::default();
    for spec in &program.graph_module.signature.output_specs {
        match spec {
            OutputSpec::BufferMutation { buffer_name: name, .. }
            | OutputSpec::ParameterMutation { parameter_name: name, .. } => {
                mutated.insert(name);
            }
            _ => {}
        }
    }
    let mut states = States::default();
    for spec in &program.graph_module.signature.input_specs {
        let Some((arg, name)) = held(spec) else { continue };
        if !mutated.contains(name.as_str()) && !written.contains(arg.name.as_str()) {
            continue;
        }
        match weight(session, package, spec, name) {
            Ok(init) => {
                let ty = Type::Tensor(init.ty());
                module.add_state(StateDecl { name: name.clone(), init });
                states.insert(&arg.name, (name, ty));
            }
            Err(reason) => session.report("", name, "buffer", OpError::invalid(reason)),
        }
    }
    states
}

fn add_inputs<'p>(
    session: &mut Session<'p>,
    frame: &mut Frame<'p>,
    b: &mut GraphBuilder<'_>,
    package: &Package,
    program: &'p Program,
    states: &States<'p>,
) -> Result<(), LoadError> {
    let specs = &program.graph_module.signature.input_specs;
    let types = input_types(session, program)?;
    for (spec, ty) in specs.iter().zip(types) {
        let (name, slot) = match spec {
            InputSpec::Parameter { arg, parameter_name: name }
            | InputSpec::Buffer { arg, buffer_name: name, .. }
            | InputSpec::TensorConstant { arg, tensor_constant_name: name } => {
                let value = match states.get(arg.name.as_str()) {
                    Some((name, ty)) => {
                        let read = Object::StateRead { name: (*name).to_owned(), ty: ty.clone() };
                        b.add1(read, &[]).map_err(|e| e.to_string())
                    }
                    None => weight(session, package, spec, name)
                        .and_then(|t| b.constant(t).map_err(|e| e.to_string())),
                };
                let slot = match value {
                    Ok(v) => {
                        b.set_name(v, name);
                        Slot::Arg(Arg::Tensor(v))
                    }
                    Err(reason) => {
                        session.report("", name, "weight", OpError::invalid(reason));
                        Slot::Poisoned
                    }
                };
                (arg.name.as_str(), slot)
            }
            InputSpec::UserInput { arg } => match (user_name(arg), ty) {
                (Some(name), Some(ty)) => {
                    let v = b.input(name, ty);
                    let is_tensor = matches!(arg, Argument::AsTensor(_));
                    (name, Slot::Arg(if is_tensor { Arg::Tensor(v) } else { Arg::Scalar(v) }))
                }
                (Some(name), None) => (name, Slot::Poisoned),
                // A constant that the exporter specialized on has no name.
                (None, _) => continue,
            },
            InputSpec::ConstantInput { name, value } => (name.as_str(), Slot::Arg(constant(value))),
            InputSpec::Token { arg } => (arg.name.as_str(), Slot::Arg(Arg::None)),
            InputSpec::CustomObj { arg } => {
                let reason = format!("an object of class `{}`, which takes Python to read", arg.class_fqn);
                session.report("", &arg.name, "input", OpError::unsupported(reason));
                (arg.name.as_str(), Slot::Poisoned)
            }
        };
        if frame.slots.insert(name, slot).is_some() {
            session.report("", name, "input", OpError::invalid("the name is used twice"));
        }
    }
    Ok(())
}

fn constant(value: &Constant) -> Arg {
    match value {
        Constant::AsNone(_) => Arg::None,
        Constant::AsInt(v) => Arg::int(*v),
        Constant::AsFloat(v) => Arg::Float(v.0),
        Constant::AsString(v) => Arg::Str(v.clone()),
        Constant::AsBool(v) => Arg::Bool(*v),
    }
}

fn user_name(arg: &Argument) -> Option<&str> {
    match arg {
        Argument::AsTensor(Named { name }) => Some(name),
        Argument::AsSymInt(SymIntArgument::AsName(name)) => Some(name),
        Argument::AsSymFloat(SymFloatArgument::AsName(name)) => Some(name),
        Argument::AsSymBool(SymBoolArgument::AsName(name)) => Some(name),
        _ => None,
    }
}

/// Types of the inputs that the user gives, in the order of the specs; none for others and for those that fail.
fn input_types<'p>(session: &mut Session<'p>, program: &'p Program) -> Result<Vec<Option<Type>>, LoadError> {
    let graph = &program.graph_module.graph;
    let specs = &program.graph_module.signature.input_specs;
    let user: Vec<Option<&Argument>> = specs
        .iter()
        .map(|spec| match spec {
            InputSpec::UserInput { arg } => Some(arg),
            _ => None,
        })
        .collect();
    let names: Vec<&str> = user.iter().filter_map(|arg| arg.and_then(user_name)).collect();
    check_names(&session.file, session.options, &names)?;
    let mut symbols = given_symbols(session.options);
    for (name, range) in &program.range_constraints {
        if let (Some(low), Some(high)) = (range.min_val, range.max_val)
            && low == high
        {
            symbols.entry(name.clone()).or_insert(Dim::known(low));
        }
    }
    let plain = plain_symbols(graph, &names);
    let mut types = vec![];
    for arg in user {
        types.push(match arg {
            Some(Argument::AsTensor(Named { name })) => match declared(graph, name, &plain) {
                Ok(ty) => Some(override_shape(&session.file, session.options, name, ty, &mut symbols)?),
                Err(error) => {
                    session.report("", name, "input", error);
                    None
                }
            },
            Some(Argument::AsSymFloat(_)) => Some(Type::fixed(DType::F64, &[])),
            Some(Argument::AsSymBool(_)) => Some(Type::fixed(DType::Bool, &[])),
            Some(_) => Some(Type::fixed(DType::I64, &[])),
            None => None,
        });
    }
    let fixed = |ty: Type| ty.map_dims(&mut |d| d.substitute(&|s| symbols.get(&*s.0).cloned()));
    Ok(types.into_iter().map(|ty| ty.map(fixed)).collect())
}

/// The symbols that are sizes of inputs by themselves, so that a run shows their values.
fn plain_symbols<'p>(graph: &'p Graph, names: &[&str]) -> FxHashSet<&'p str> {
    let metas = names.iter().filter_map(|name| graph.tensor_values.get(*name));
    let sizes = metas.flat_map(|meta| &meta.sizes);
    let texts = sizes.filter_map(|size| match size {
        SymInt::AsExpr(expr) => Some(expr.expr_str.as_str()),
        SymInt::AsInt(_) => None,
    });
    texts.filter(|text| text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')).collect()
}

/// The type that the program declares for an input.
fn declared(graph: &Graph, name: &str, plain: &FxHashSet<&str>) -> Result<Type, OpError> {
    let meta = graph.tensor_values.get(name);
    let TensorMeta { dtype, sizes, .. } = meta.ok_or_else(|| OpError::invalid("it has no type"))?;
    let dtype = element_type(*dtype).ok_or_else(|| OpError::unsupported(format!("element type {dtype}")))?;
    let dims = sizes.iter().map(|size| match size {
        SymInt::AsInt(value) if *value >= 0 => Ok(Dim::known(*value)),
        SymInt::AsInt(value) => Err(OpError::invalid(format!("a size of {value}"))),
        SymInt::AsExpr(text) => {
            let known = std::cell::Cell::new(true);
            let dim = expr::parse(&text.expr_str, &|symbol| {
                known.set(known.get() && plain.contains(symbol));
                Dim::symbol(symbol)
            });
            // Sizes that no other input shows are only what the run has.
            Ok(dim.filter(|_| known.get()).unwrap_or(Dim::unknown()))
        }
    });
    Ok(Type::tensor(dtype, dims.collect::<Result<Vec<_>, OpError>>()?))
}

/// Imports the nodes of a graph whose inputs are bound. Fails when a limit is reached.
pub(super) fn import_graph<'p>(
    session: &mut Session<'p>,
    frame: &mut Frame<'p>,
    b: &mut GraphBuilder<'_>,
    graph: &'p Graph,
) -> Result<(), OpError> {
    frame.metas = Some(&graph.tensor_values);
    for node in &graph.nodes {
        session.count_nodes(1)?;
        let op = node.target.strip_prefix("torch.ops.").unwrap_or(&node.target);
        let name = node_name(node);
        let origin = session.origin(&frame.path, name, op);
        b.set_origin(Some(Arc::new(origin)));
        if let Err(error) = import_node(session, frame, b, node) {
            if session.limit.is_some() {
                return Err(OpError::Recorded);
            }
            let path = frame.path.clone();
            session.report(&path, name, op, error);
            for output in &node.outputs {
                for_names(output, &mut |name| {
                    frame.slots.insert(name, Slot::Poisoned);
                });
            }
        }
    }
    b.set_origin(None);
    Ok(())
}

/// A node's name, or what else tells it from others.
pub(super) fn node_name(node: &Node) -> &str {
    let mut first = None;
    for output in &node.outputs {
        for_names(output, &mut |name| {
            first.get_or_insert(name);
        });
    }
    node.name.as_deref().or(first).unwrap_or(&node.target)
}

/// The names that a result is known by.
fn for_names<'p>(output: &'p Argument, visit: &mut dyn FnMut(&'p str)) {
    match output {
        Argument::AsTensor(Named { name })
        | Argument::AsSymInt(SymIntArgument::AsName(name))
        | Argument::AsSymFloat(SymFloatArgument::AsName(name))
        | Argument::AsSymBool(SymBoolArgument::AsName(name))
        | Argument::AsOptionalTensor(OptionalTensor::AsTensor(Named { name })) => visit(name),
        Argument::AsTensors(list) => list.iter().for_each(|t| visit(&t.name)),
        Argument::AsOptionalTensors(list) => list.iter().for_each(|t| {
            if let OptionalTensor::AsTensor(t) = t {
                visit(&t.name);
            }
        }),
        Argument::AsNestedTensors(lists) => lists.iter().flatten().for_each(|t| visit(&t.name)),
        Argument::AsSymInts(list) => list.iter().for_each(|arg| {
            if let SymIntArgument::AsName(name) = arg {
                visit(name);
            }
        }),
        _ => {}
    }
}

/// Namespace, name and overload of a target.
pub(super) fn target(text: &str) -> Option<(String, Option<&str>)> {
    if let Some(rest) = text.strip_prefix("torch.ops.") {
        let mut parts = rest.splitn(3, '.');
        let (space, name) = (parts.next()?, parts.next()?);
        return Some((format!("{space}::{name}"), parts.next()));
    }
    let name = match text {
        "_operator.add" => "aten::add",
        "_operator.sub" => "aten::sub",
        "_operator.mul" => "aten::mul",
        "_operator.truediv" => "aten::div",
        "_operator.floordiv" => "aten::floordiv",
        "_operator.mod" => "aten::remainder",
        "_operator.pow" => "aten::pow",
        "_operator.neg" => "aten::neg",
        "_operator.pos" => "aten::ScalarImplicit",
        "_operator.eq" => "aten::eq",
        "_operator.ne" => "aten::ne",
        "_operator.lt" => "aten::lt",
        "_operator.le" => "aten::le",
        "_operator.gt" => "aten::gt",
        "_operator.ge" => "aten::ge",
        "_operator.and_" => "aten::__and__",
        "_operator.or_" => "aten::__or__",
        "_operator.lshift" => "aten::__lshift__",
        "_operator.rshift" => "aten::__rshift__",
        "torch.sym_int" | "math.trunc" => "aten::Int",
        "torch.sym_float" => "aten::Float",
        "torch.sym_max" => "prim::max",
        "torch.sym_min" => "prim::min",
        "torch.sym_not" => "aten::__not__",
        "torch.sym_sqrt" | "torch._sym_sqrt" => "aten::sqrt",
        "math.ceil" => "aten::ceil",
        "math.floor" => "aten::floor",
        _ => return None,
    };
    Some((name.to_owned(), None))
}

fn import_node<'p>(
    session: &mut Session<'p>,
    frame: &mut Frame<'p>,
    b: &mut GraphBuilder<'_>,
    node: &'p Node,
) -> Result<(), OpError> {
    if let Some(name) = node.target.strip_prefix("torch.ops.higher_order.") {
        let results = higher_order::import(session, frame, b, node, name)?;
        assign(frame, node, results)?;
        for (at, base) in std::mem::take(&mut frame.shared) {
            frame.aliases.doubt(node, at, base);
        }
        return Ok(());
    }
    let (results, writes) = evaluate(session, frame, b, node)?;
    let first = results.first().cloned();
    assign(frame, node, results)?;
    let target_name = node.inputs.first().map(|input| &input.arg);
    match (writes, target_name, first) {
        (Some(Write::Operand(0)), Some(Argument::AsTensor(Named { name })), _) if alias::is_detach(node) => {
            frame.aliases.same(node, name);
        }
        (Some(Write::Operand(0)), Some(Argument::AsTensor(Named { name })), Some(Arg::Tensor(v))) => {
            alias::write(session, frame, b, name, v)?;
            frame.aliases.same(node, name);
        }
        (Some(Write::Shape), ..) => frame.aliases.reshaped(node, frame.metas),
        (Some(Write::Operand(_)), Some(_), _) => {
            return Err(OpError::unsupported("a write to something other than a tensor"));
        }
        (Some(Write::Out), ..) => {
            for (name, result) in alias::targets(node) {
                write_out(session, frame, b, name, result)?;
            }
        }
        _ => frame.aliases.record(node, frame.metas),
    }
    Ok(())
}

/// Writes a result to the tensor that is given for it, in that tensor's type.
fn write_out<'p>(
    session: &mut Session<'p>,
    frame: &mut Frame<'p>,
    b: &mut GraphBuilder<'_>,
    name: &'p str,
    result: &'p str,
) -> Result<(), OpError> {
    let (Arg::Tensor(out), Arg::Tensor(v)) = (frame.resolve(session, b, name)?, frame.current(result)?)
    else {
        return Err(OpError::unsupported("a write to something other than a tensor"));
    };
    if b.shape(out)? != b.shape(v)? {
        return Err(OpError::unsupported("a result whose tensor `out` has another shape"));
    }
    let dtype = b.dtype(out)?;
    let v = b.cast(v, dtype)?;
    frame.slots.insert(result, Slot::Arg(Arg::Tensor(v)));
    alias::write(session, frame, b, name, v)?;
    frame.aliases.also(result, name);
    Ok(())
}

/// Calls the operator of a node on what its operands are now.
pub(super) fn evaluate<'p>(
    session: &mut Session<'p>,
    frame: &mut Frame<'p>,
    b: &mut GraphBuilder<'_>,
    node: &'p Node,
) -> Result<(Vec<Arg>, Option<Write>), OpError> {
    let (name, overload) =
        target(&node.target).ok_or_else(|| OpError::unsupported("the operator is not known"))?;
    if name.starts_with("aten::as_strided") && !lies_densely(frame, node) {
        return Err(OpError::unsupported("places in the memory of a tensor that may not lie densely"));
    }
    let (mut args, mut kwargs) = (vec![], vec![]);
    for input in &node.inputs {
        let arg = operand::operand(session, frame, b, &input.arg)?;
        // Python's operators have arguments by position.
        match overload.is_none() || input.name.is_empty() {
            true => args.push(arg),
            false => kwargs.push((input.name.clone(), arg)),
        }
    }
    if let Some(narrow) = frame.autocast {
        autocast::cast(b, &name, narrow, &mut args, &mut kwargs)?;
    }
    // Python's power of integers is one.
    let int = |arg: &Arg| match arg {
        Arg::Int(_) | Arg::Bool(_) => true,
        Arg::Scalar(v) => b.dtype(*v).is_ok_and(DType::is_int),
        _ => false,
    };
    let whole_power = node.target == "_operator.pow" && args.iter().all(int);
    let overload = if whole_power { Some("int_to_int") } else { overload };
    let before = b.graph().node_count();
    let outcome = aten::call(b, &name, overload, args, kwargs)?;
    session.count_nodes(b.graph().node_count().saturating_sub(before).saturating_add(outcome.made))?;
    Ok((outcome.results, outcome.writes))
}

/// Whether the elements of the first operand lie one after the other from the start of its memory.
fn lies_densely(frame: &Frame<'_>, node: &Node) -> bool {
    let meta = match node.inputs.first().map(|input| &input.arg) {
        Some(Argument::AsTensor(Named { name })) => frame.metas.and_then(|metas| metas.get(name)),
        _ => None,
    };
    meta.is_some_and(|m| m.storage_offset == SymInt::AsInt(0) && strides::contiguous(m) == Some(true))
}

/// Binds results to the names that the node gives them.
fn assign<'p>(frame: &mut Frame<'p>, node: &'p Node, results: Vec<Arg>) -> Result<(), OpError> {
    let mut results = results.into_iter();
    for (i, output) in node.outputs.iter().enumerate() {
        let result = results.next();
        let mut names = vec![];
        for_names(output, &mut |name| names.push(name));
        match (output, result) {
            (_, None) => {
                for name in names {
                    let reason = format!("result {i} of `{}`", node.target);
                    frame.slots.insert(name, Slot::Missing(reason));
                }
            }
            (
                Argument::AsTensors(_) | Argument::AsSymInts(_) | Argument::AsOptionalTensors(_),
                Some(Arg::List(items)),
            ) => {
                if items.len() != names.len() {
                    let reason = format!("it gives {} tensors, the file names {}", items.len(), names.len());
                    return Err(OpError::invalid(reason));
                }
                for (name, item) in names.into_iter().zip(items) {
                    frame.slots.insert(name, Slot::Arg(item));
                }
            }
            (_, Some(result)) => {
                for name in names {
                    frame.slots.insert(name, Slot::Arg(result.clone()));
                }
            }
        }
    }
    Ok(())
}

/// Stores states and adds the outputs that the user gets.
fn add_outputs<'p>(
    session: &mut Session<'p>,
    frame: &mut Frame<'p>,
    b: &mut GraphBuilder<'_>,
    program: &'p Program,
    states: &States<'p>,
) {
    let mut written: FxHashSet<&str> = FxHashSet::default();
    let mut names: FxHashSet<String> = FxHashSet::default();
    for (i, spec) in program.graph_module.signature.output_specs.iter().enumerate() {
        let (label, result) = match spec {
            OutputSpec::UserOutput { arg } => {
                let label = user_name(arg).map_or_else(|| format!("output_{i}"), str::to_owned);
                let value = operand::operand(session, frame, b, arg).and_then(|arg| output_value(b, &arg));
                (label.clone(), value.map(|v| add_output(b, &mut names, label, v)))
            }
            OutputSpec::LossOutput { arg } => {
                let label = arg.name.clone();
                let value = frame.resolve(session, b, &arg.name).and_then(|arg| output_value(b, &arg));
                (label.clone(), value.map(|v| add_output(b, &mut names, label, v)))
            }
            OutputSpec::BufferMutation { arg, buffer_name: name }
            | OutputSpec::ParameterMutation { arg, parameter_name: name } => {
                written.insert(name);
                let value = frame.resolve(session, b, &arg.name);
                (name.clone(), value.and_then(|arg| assign_state(b, name, &arg)))
            }
            OutputSpec::UserInputMutation { arg, user_input_name } => {
                tracing::warn!(input = user_input_name, "the program writes to an input; the caller's stays");
                (arg.name.clone(), Ok(()))
            }
            OutputSpec::Token { arg } => (arg.name.clone(), Ok(())),
            OutputSpec::GradientToParameter { parameter_name: name }
            | OutputSpec::GradientToUserInput { user_input_name: name } => {
                (name.clone(), Err(OpError::unsupported("a gradient")))
            }
        };
        if let Err(error) = result {
            session.report("", &label, "output", error);
        }
    }
    let mut rest: Vec<(&str, &str)> = states.iter().map(|(arg, (name, _))| (*arg, *name)).collect();
    rest.sort_unstable();
    for (arg, name) in rest.into_iter().filter(|(_, name)| !written.contains(name)) {
        let stored = frame.resolve(session, b, arg).and_then(|arg| assign_state(b, name, &arg));
        if let Err(error) = stored {
            session.report("", name, "buffer", error);
        }
    }
}

/// The tensor of an output; none for what is `None`.
fn output_value(b: &mut GraphBuilder<'_>, arg: &Arg) -> Result<Option<Value>, OpError> {
    Ok(match arg {
        Arg::None | Arg::Str(_) | Arg::Ignored => None,
        Arg::Tensor(v) | Arg::Scalar(v) => Some(*v),
        Arg::Int(dim) => {
            let dims = b.dims(std::slice::from_ref(dim))?;
            Some(b.reshape(dims, &[])?)
        }
        Arg::Float(value) => Some(b.constant(Tensor::scalar(*value))?),
        Arg::Bool(value) => Some(b.constant(Tensor::from_bools(&[], &[*value])?)?),
        Arg::DType(_) | Arg::List(_) => {
            return Err(OpError::unsupported(format!("{} as an output", arg.kind())));
        }
    })
}

/// Adds an output; one that is given twice gets a second name.
fn add_output(b: &mut GraphBuilder<'_>, names: &mut FxHashSet<String>, label: String, v: Option<Value>) {
    let Some(v) = v else { return };
    let mut name = label.clone();
    let mut count = 1;
    while !names.insert(name.clone()) {
        count += 1;
        name = format!("{label}_{count}");
    }
    b.output(&name, v);
}

fn assign_state(b: &mut GraphBuilder<'_>, name: &str, arg: &Arg) -> Result<(), OpError> {
    let Arg::Tensor(v) = arg else { return Err(OpError::invalid("a state that is no tensor")) };
    b.add(Object::StateAssign { name: name.to_owned() }.into(), &[*v])?;
    Ok(())
}
