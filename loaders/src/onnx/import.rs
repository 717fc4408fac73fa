//! Graphs and nodes of a file into graph IR: names, order, functions, and the collection of everything that fails.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use kiln_ir::op::Object;
use kiln_ir::{Build, Dim, GraphBuilder, Module, Origin, Type, Value};
use rustc_hash::{FxHashMap, FxHashSet};

use super::attrs::{Attrs, Bindings};
use super::by_rank;
use super::cx::{Cx, OpError};
use super::ops;
use super::proto::{
    FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto,
};
use super::tensor::{ExternalData, sparse, tensor};
use super::types::value_type;
use crate::binding::{self, Binding};
use crate::options::{check_names, given_symbols, override_shape};
use crate::{Issue, IssueKind, LoadError, LoadOptions};

/// What a name stands for.
#[derive(Clone, Copy)]
pub(crate) enum Slot {
    /// A value of the graph under construction.
    Value(Value),
    /// The result of a node that failed: its users are skipped without another message.
    Poisoned,
    /// An optional operand that the call of a function leaves out: users see an absent operand, too.
    Absent,
}

/// What all nodes of one function body or of the main graph share.
pub(crate) struct Scope<'p> {
    opsets: FxHashMap<&'p str, i64>,
    bindings: Bindings<'p>,
    /// The functions being inlined, outermost first.
    calls: Vec<(&'p str, &'p str, &'p str)>,
}

impl<'p> Scope<'p> {
    /// The attributes that the caller of a function gives.
    pub(super) fn bindings(&self) -> &Bindings<'p> {
        &self.bindings
    }
}

/// The graph under construction and its names.
pub(crate) struct Frame<'p> {
    pub(super) scope: Rc<Scope<'p>>,
    pub(super) path: String,
    pub(super) depth: usize,
    pub(super) names: FxHashMap<&'p str, Slot>,
}

/// State of one load.
pub(crate) struct Session<'p> {
    file: String,
    functions: FxHashMap<(&'p str, &'p str, &'p str), &'p FunctionProto>,
    pub(super) external: &'p dyn ExternalData,
    pub(super) options: &'p LoadOptions,
    pub(super) issues: Vec<Issue>,
    /// Problems beyond those that are listed.
    unlisted: usize,
    /// Weights in place of the file's.
    binding: Option<Binding<'p>>,
    pub(super) nodes: usize,
    max_nodes: usize,
    /// Bytes that dense forms of sparse tensors may still take.
    pub(super) sparse_left: usize,
    pub(super) limit: Option<LoadError>,
}

/// The default domain has two names.
fn domain(name: &str) -> &str {
    if name == "ai.onnx" { "" } else { name }
}

fn opsets(imports: &[OperatorSetIdProto]) -> FxHashMap<&str, i64> {
    imports.iter().map(|o| (domain(&o.domain), o.version)).collect()
}

/// A node's name, or what else tells it from others.
pub(crate) fn display_name(node: &NodeProto) -> &str {
    if !node.name.is_empty() {
        return short(&node.name);
    }
    short(node.output.iter().find(|o| !o.is_empty()).map_or(node.op_type.as_str(), String::as_str))
}

/// Most characters of a name, or of the path of functions to a node, that are kept: every inlined node has them.
const MOST_NAME: usize = 256;

fn short(name: &str) -> &str {
    name.char_indices().nth(MOST_NAME).and_then(|(end, _)| name.get(..end)).unwrap_or(name)
}

/// Imports the model of a file of `size` bytes. Fails with every problem of the graph at once.
pub(crate) fn import(
    file: &str,
    size: usize,
    model: &ModelProto,
    external: &dyn ExternalData,
    options: &LoadOptions,
) -> Result<Module, LoadError> {
    let path = || file.to_owned();
    let Some(graph) = &model.graph else {
        return Err(LoadError::Malformed {
            path: path(),
            format: "ONNX model",
            reason: "the model has no graph".to_owned(),
        });
    };
    let checkpoint = match &options.weights {
        Some(new) => Some((new, binding::open(new, &options.limits)?)),
        None => None,
    };
    let binding = checkpoint.as_ref().map(|(new, found)| Binding::new(new, found, &options.limits));
    let mut session = Session {
        file: file.to_owned(),
        binding,
        functions: FxHashMap::default(),
        external,
        options,
        issues: vec![],
        unlisted: 0,
        nodes: 0,
        max_nodes: options.limits.nodes_of(size),
        sparse_left: options.limits.sparse,
        limit: None,
    };
    let mut opsets = opsets(&model.opset_import);
    if model.opset_import.is_empty() {
        // Files of IR versions 1 and 2 have no imports; they are of opset 1.
        opsets.insert("", 1);
    }
    let scope = Rc::new(Scope { opsets, bindings: Bindings::default(), calls: vec![] });
    let mut frame = Frame { scope, path: String::new(), depth: 0, names: FxHashMap::default() };
    add_functions(&mut session, &frame, &model.functions);
    let mut module = Module::new();
    let name = if graph.name.is_empty() { "main" } else { graph.name.as_str() };
    let mut builder = GraphBuilder::new(&mut module, name);
    add_inputs(&mut session, &mut frame, &mut builder, graph)?;
    let outputs = import_graph(&mut session, &mut frame, &mut builder, graph);
    if let Some(limit) = session.limit {
        return Err(limit);
    }
    report_repeated_outputs(&mut session, &frame, graph);
    let outputs = outputs.ok().and_then(|list| list.into_iter().collect::<Option<Vec<_>>>());
    let (Some(outputs), true) = (outputs, session.issues.is_empty()) else {
        return Err(LoadError::Graph { path: path(), issues: session.issues, unlisted: session.unlisted });
    };
    if let Some(binding) = session.binding {
        binding.finish()?;
    }
    for (info, v) in graph.output.iter().zip(outputs) {
        builder.output(&info.name, v);
    }
    let id = builder.finish();
    module.add_entry(id);
    Ok(module)
}

/// Makes functions known to calls. Which of two with one name is meant cannot be told.
fn add_functions<'p>(session: &mut Session<'p>, frame: &Frame<'p>, functions: &'p [FunctionProto]) {
    for f in functions {
        let key = (domain(&f.domain), f.name.as_str(), f.overload.as_str());
        if session.functions.insert(key, f).is_some() {
            session.report_value(frame, "function", &f.name, "the name is used twice".to_owned());
        }
    }
}

/// Adds the main graph's inputs; those with an initializer are constants.
fn add_inputs<'p>(
    session: &mut Session<'p>,
    frame: &mut Frame<'p>,
    b: &mut GraphBuilder<'_>,
    graph: &'p GraphProto,
) -> Result<(), LoadError> {
    let defaults: FxHashSet<&str> = initializer_names(graph).collect();
    let inputs: Vec<_> = graph.input.iter().filter(|i| !defaults.contains(i.name.as_str())).collect();
    let names: Vec<&str> = inputs.iter().map(|i| i.name.as_str()).collect();
    check_names(&session.file, session.options, &names)?;
    let mut symbols = given_symbols(session.options);
    let mut types = vec![];
    for info in &inputs {
        let declared = info.r#type.as_ref().map_or(Err(super::types::TypeError::Incomplete), value_type);
        match declared {
            Ok(ty) => {
                let ty = override_shape(&session.file, session.options, &info.name, ty, &mut symbols)?;
                types.push((info.name.as_str(), ty));
            }
            Err(e) => {
                session.report_value(frame, "input", &info.name, e.to_string());
                frame.names.insert(&info.name, Slot::Poisoned);
            }
        }
    }
    for (name, ty) in types {
        let ty = ty.map_dims(&mut |d| d.substitute(&|s| symbols.get(&*s.0).cloned()));
        if frame.names.contains_key(name) {
            session.report_value(frame, "input", name, "the name is used twice".to_owned());
            continue;
        }
        let v = b.input(name, ty);
        frame.names.insert(name, Slot::Value(v));
    }
    Ok(())
}

/// Imports initializers and nodes into a builder whose inputs are there and bound. `None` stands for an output whose
/// node failed.
pub(crate) fn import_graph<'p>(
    session: &mut Session<'p>,
    frame: &mut Frame<'p>,
    b: &mut GraphBuilder<'_>,
    graph: &'p GraphProto,
) -> Result<Vec<Option<Value>>, OpError> {
    report_repeated_initializers(session, frame, graph);
    for proto in &graph.initializer {
        let value = tensor(proto, session.external).map_err(|e| e.to_string());
        add_initializer(session, frame, b, proto, value);
    }
    for proto in &graph.sparse_initializer {
        if let Some(values) = &proto.values {
            let value = sparse(proto, session.external, &mut session.sparse_left).map_err(|e| e.to_string());
            add_initializer(session, frame, b, values, value);
        }
    }
    import_nodes(session, frame, b, &graph.node)?;
    let mut outputs = vec![];
    for info in &graph.output {
        outputs.push(match frame.names.get(info.name.as_str()) {
            Some(Slot::Value(v)) => Some(apply_hint(b, *v, info)),
            Some(Slot::Poisoned) => None,
            Some(Slot::Absent) | None => {
                session.report_value(frame, "output", &info.name, "nothing defines it".to_owned());
                None
            }
        });
    }
    Ok(outputs)
}

/// Names of a graph's dense and sparse initializers, in the file's order.
fn initializer_names(graph: &GraphProto) -> impl Iterator<Item = &str> {
    let dense = graph.initializer.iter().map(|t| t.name.as_str());
    dense.chain(graph.sparse_initializer.iter().filter_map(|s| s.values.as_ref()).map(|v| v.name.as_str()))
}

/// Which of two initializers with one name is meant cannot be told; those without a name have no users.
fn report_repeated_initializers<'p>(session: &mut Session<'p>, frame: &Frame<'p>, graph: &'p GraphProto) {
    let mut seen = FxHashSet::default();
    for name in initializer_names(graph).filter(|n| !n.is_empty()) {
        if !seen.insert(name) {
            session.report_value(frame, "initializer", name, "the name is used twice".to_owned());
        }
    }
}

/// A caller could not tell apart two outputs of the model with one name.
fn report_repeated_outputs<'p>(session: &mut Session<'p>, frame: &Frame<'p>, graph: &'p GraphProto) {
    let mut seen = FxHashSet::default();
    for info in &graph.output {
        if !seen.insert(info.name.as_str()) {
            session.report_value(frame, "output", &info.name, "the name is used twice".to_owned());
        }
    }
}

fn add_initializer<'p>(
    session: &mut Session<'p>,
    frame: &mut Frame<'p>,
    b: &mut GraphBuilder<'_>,
    proto: &'p TensorProto,
    value: Result<kiln_ir::Tensor, String>,
) {
    let bound = |own| match session.binding.as_mut() {
        Some(binding) => binding.bind(&proto.name, own),
        None => own,
    };
    let value = value.map(bound).and_then(|t| b.constant(t).map_err(|e| e.to_string()));
    let slot = match value {
        Ok(v) => {
            b.set_name(v, &proto.name);
            Slot::Value(v)
        }
        Err(reason) => {
            session.report_value(frame, "initializer", &proto.name, reason);
            Slot::Poisoned
        }
    };
    frame.names.insert(&proto.name, slot);
}

/// Takes the rank from a declared type where inference left even that open. Dims are not taken: files declare wrong ones.
/// A value that is declared plain but carried as an optional is unwrapped.
fn apply_hint(b: &mut GraphBuilder<'_>, v: Value, info: &ValueInfoProto) -> Value {
    let Some(hint) = info.r#type.as_ref().and_then(|t| value_type(t).ok()) else { return v };
    match (b.ty(v).clone(), hint) {
        (Type::Tensor(found), Type::Tensor(hint)) => {
            if let (None, Some(rank), true) =
                (found.shape.rank(), hint.shape.rank(), found.dtype == hint.dtype)
            {
                let ty = Type::tensor(found.dtype, vec![Dim::unknown(); rank]);
                if b.refine(v, &ty).is_err() {
                    tracing::debug!(value = info.name, "declared type ignored");
                }
            }
            v
        }
        (Type::Optional(_), Type::Tensor(_) | Type::Sequence(_)) => {
            b.add1(Object::OptionalGet {}, &[v]).unwrap_or(v)
        }
        _ => v,
    }
}

/// Imports nodes in an order in which definitions come before uses.
fn import_nodes<'p>(
    session: &mut Session<'p>,
    frame: &mut Frame<'p>,
    b: &mut GraphBuilder<'_>,
    nodes: &'p [NodeProto],
) -> Result<(), OpError> {
    let (order, stuck) = schedule(nodes, &frame.names);
    for node in order {
        import_node(session, frame, b, node)?;
    }
    for node in stuck {
        session.report(
            frame,
            node,
            0,
            IssueKind::Invalid,
            "it is part of a cycle, or depends on one".to_owned(),
        );
        poison(frame, node);
    }
    Ok(())
}

fn poison<'p>(frame: &mut Frame<'p>, node: &'p NodeProto) {
    for name in node.output.iter().filter(|n| !n.is_empty()) {
        frame.names.insert(name, Slot::Poisoned);
    }
}

/// The names that a node uses, nested graphs included.
fn used_names(node: &NodeProto) -> Vec<&str> {
    let graphs: Vec<&GraphProto> =
        node.attribute.iter().flat_map(|a| a.g.as_deref().into_iter().chain(&a.graphs)).collect();
    let mut names: Vec<&str> = node.input.iter().map(String::as_str).filter(|n| !n.is_empty()).collect();
    if !graphs.is_empty() {
        names.extend(free_names(&graphs));
    }
    names
}

/// The nodes in the file's order if that is valid, else sorted; then the nodes that no order makes valid.
fn schedule<'p>(
    nodes: &'p [NodeProto],
    defined: &FxHashMap<&'p str, Slot>,
) -> (Vec<&'p NodeProto>, Vec<&'p NodeProto>) {
    let mut producer: FxHashMap<&str, usize> = FxHashMap::default();
    for (i, node) in nodes.iter().enumerate() {
        for name in node.output.iter().filter(|n| !n.is_empty()) {
            producer.entry(name).or_insert(i);
        }
    }
    // Users wait for the producers of names that nothing else defines.
    let mut waiting: Vec<usize> = vec![0; nodes.len()];
    let mut users: Vec<Vec<usize>> = vec![vec![]; nodes.len()];
    let mut sorted = true;
    for (i, node) in nodes.iter().enumerate() {
        let needs: BTreeSet<usize> = used_names(node)
            .into_iter()
            .filter(|n| !defined.contains_key(n))
            .filter_map(|n| producer.get(n).copied())
            .collect();
        for p in needs {
            sorted &= p < i;
            if let (Some(count), Some(list)) = (waiting.get_mut(i), users.get_mut(p)) {
                *count += 1;
                list.push(i);
            }
        }
    }
    if sorted {
        return (nodes.iter().collect(), vec![]);
    }
    let mut ready: BTreeSet<usize> =
        waiting.iter().enumerate().filter(|(_, n)| **n == 0).map(|(i, _)| i).collect();
    let mut order = vec![];
    while let Some(i) = ready.pop_first() {
        order.extend(nodes.get(i));
        for &user in users.get(i).into_iter().flatten() {
            if let Some(count) = waiting.get_mut(user) {
                *count -= 1;
                if *count == 0 {
                    ready.insert(user);
                }
            }
        }
    }
    let stuck = waiting.iter().zip(nodes).filter(|(n, _)| **n > 0).map(|(_, node)| node).collect();
    (order, stuck)
}

/// Names that graphs use and do not define, in order of first use, each once.
pub(crate) fn free_names<'p>(graphs: &[&'p GraphProto]) -> Vec<&'p str> {
    let mut found = vec![];
    let mut seen = FxHashSet::default();
    for graph in graphs {
        collect_free(graph, &mut |name| {
            if seen.insert(name) {
                found.push(name);
            }
        });
    }
    found
}

fn collect_free<'p>(graph: &'p GraphProto, visit: &mut dyn FnMut(&'p str)) {
    let mut own: FxHashSet<&str> = graph.input.iter().map(|i| i.name.as_str()).collect();
    own.extend(initializer_names(graph));
    own.extend(graph.node.iter().flat_map(|n| n.output.iter().map(String::as_str)));
    for node in &graph.node {
        for name in node.input.iter().filter(|n| !n.is_empty() && !own.contains(n.as_str())) {
            visit(name);
        }
        for nested in node.attribute.iter().flat_map(|a| a.g.as_deref().into_iter().chain(&a.graphs)) {
            collect_free(nested, &mut |name| {
                if !own.contains(name) {
                    visit(name);
                }
            });
        }
    }
    for info in graph.output.iter().filter(|o| !own.contains(o.name.as_str())) {
        visit(&info.name);
    }
}

/// Imports one node: a call of a function, or an operator of the table.
fn import_node<'p>(
    session: &mut Session<'p>,
    frame: &mut Frame<'p>,
    b: &mut GraphBuilder<'_>,
    node: &'p NodeProto,
) -> Result<(), OpError> {
    session.count_nodes(1)?;
    let key = (domain(&node.domain), node.op_type.as_str(), node.overload.as_str());
    let opset = frame.scope.opsets.get(key.0).copied();
    let function = session.functions.get(&key).copied();
    let row = ops::find(key.0, key.1);
    let result = match (function, row, opset) {
        (Some(function), ..) => match operands(frame, node) {
            Ok(inputs) => inline(session, frame, b, node, key, function, &inputs),
            Err(e) => Err(e),
        },
        (None, Some(row), Some(version)) => {
            let op = format!("{}-{}", row.qualified_name(), row.version(version));
            let origin = Origin {
                file: session.file.clone(),
                path: frame.path.clone(),
                node: display_name(node).into(),
                op,
            };
            b.set_origin(Some(Arc::new(origin)));
            operands(frame, node).and_then(|inputs| {
                let attrs = Attrs::new(node, &frame.scope.bindings);
                let mut cx = Cx { b: &mut *b, node, attrs, opset: version, inputs, session, frame };
                let results = by_rank::import(&mut cx, row)?;
                let unknown = cx.attrs.unknown();
                if !unknown.is_empty() {
                    tracing::debug!(node = display_name(node), ?unknown, "attributes without meaning here");
                }
                Ok(results)
            })
        }
        (None, Some(_), None) => {
            Err(OpError::invalid(format!("the graph imports no opset of domain `{}`", node.domain)))
        }
        (None, None, _) => Err(OpError::unsupported("there is no such operator")),
    };
    let bound = result.and_then(|results| bind_results(frame, b, node, &results));
    match bound {
        Ok(()) => return Ok(()),
        Err(OpError::Recorded) => {}
        Err(OpError::Unsupported(reason)) => {
            session.report(frame, node, opset.unwrap_or(0), IssueKind::Unsupported, reason);
        }
        Err(OpError::Invalid(reason)) => {
            session.report(frame, node, opset.unwrap_or(0), IssueKind::Invalid, reason);
        }
    }
    poison(frame, node);
    if session.limit.is_some() { Err(OpError::Recorded) } else { Ok(()) }
}

fn bind_results<'p>(
    frame: &mut Frame<'p>,
    b: &mut GraphBuilder<'_>,
    node: &'p NodeProto,
    results: &[Value],
) -> Result<(), OpError> {
    for (i, name) in node.output.iter().enumerate().filter(|(_, n)| !n.is_empty()) {
        let Some(&v) = results.get(i) else {
            return Err(OpError::unsupported(format!("result {i} (`{name}`)")));
        };
        b.set_name(v, name);
        frame.names.insert(name, Slot::Value(v));
    }
    Ok(())
}

fn operands<'p>(frame: &Frame<'p>, node: &'p NodeProto) -> Result<Vec<Option<Value>>, OpError> {
    let mut values = vec![];
    let mut poisoned = false;
    for name in &node.input {
        values.push(match frame.names.get(name.as_str()) {
            _ if name.is_empty() => None,
            Some(Slot::Absent) => None,
            Some(Slot::Value(v)) => Some(*v),
            Some(Slot::Poisoned) => {
                poisoned = true;
                None
            }
            None => return Err(OpError::invalid(format!("nothing defines operand `{name}`"))),
        });
    }
    if poisoned { Err(OpError::Recorded) } else { Ok(values) }
}

/// Imports a function's body in place of a call of it.
fn inline<'p>(
    session: &mut Session<'p>,
    frame: &Frame<'p>,
    b: &mut GraphBuilder<'_>,
    node: &'p NodeProto,
    key: (&'p str, &'p str, &'p str),
    function: &'p FunctionProto,
    inputs: &[Option<Value>],
) -> Result<Vec<Value>, OpError> {
    if frame.scope.calls.contains(&key) {
        return Err(OpError::invalid(format!("function `{}` calls itself", node.op_type)));
    }
    let depth = frame.depth + 1;
    if depth > session.options.limits.depth {
        return Err(OpError::invalid(format!("functions are nested more than {} deep", depth - 1)));
    }
    if inputs.len() > function.input.len() {
        return Err(OpError::invalid(format!(
            "{} operands for a function of {}",
            inputs.len(),
            function.input.len()
        )));
    }
    let mut bindings: Bindings<'p> = function.attribute_proto.iter().map(|a| (a.name.as_str(), a)).collect();
    bindings.extend(Attrs::new(node, &frame.scope.bindings).all());
    let mut calls = frame.scope.calls.clone();
    calls.push(key);
    let mut opsets = opsets(&function.opset_import);
    for (name, version) in &frame.scope.opsets {
        opsets.entry(name).or_insert(*version);
    }
    let scope = Rc::new(Scope { opsets, bindings, calls });
    let path = match frame.path.as_str() {
        "" => display_name(node).to_owned(),
        outer => short(&format!("{outer}/{}", display_name(node))).to_owned(),
    };
    let mut body = Frame { scope, path, depth, names: FxHashMap::default() };
    for (i, name) in function.input.iter().enumerate() {
        let slot = inputs.get(i).copied().flatten().map_or(Slot::Absent, Slot::Value);
        body.names.insert(name, slot);
    }
    let problems = session.issues.len() + session.unlisted;
    import_nodes(session, &mut body, b, &function.node)?;
    let mut results = vec![];
    for name in &function.output {
        match body.names.get(name.as_str()) {
            Some(Slot::Value(v)) => results.push(*v),
            Some(Slot::Poisoned) => return Err(OpError::Recorded),
            Some(Slot::Absent) | None => {
                return Err(OpError::invalid(format!("the function's body does not define `{name}`")));
            }
        }
    }
    if session.issues.len() + session.unlisted > problems { Err(OpError::Recorded) } else { Ok(results) }
}

impl<'p> Session<'p> {
    /// Counts nodes that are built, against the limit.
    pub(super) fn count_nodes(&mut self, more: usize) -> Result<(), OpError> {
        self.nodes = self.nodes.saturating_add(more);
        let limit = self.max_nodes;
        if self.nodes > limit {
            let what = "the number of nodes, functions inlined,".to_owned();
            self.limit.get_or_insert(LoadError::Limit { path: self.file.clone(), what, limit });
            return Err(OpError::Recorded);
        }
        Ok(())
    }

    fn report(&mut self, frame: &Frame<'p>, node: &NodeProto, opset: i64, kind: IssueKind, reason: String) {
        let op = match ops::find(domain(&node.domain), &node.op_type) {
            Some(row) if opset > 0 => format!("{}-{}", row.qualified_name(), row.version(opset)),
            _ if domain(&node.domain).is_empty() => short(&node.op_type).to_owned(),
            _ => format!("{}.{}", short(&node.domain), short(&node.op_type)),
        };
        let origin = Origin {
            file: self.file.clone(),
            path: frame.path.clone(),
            node: display_name(node).to_owned(),
            op,
        };
        let domain = if node.domain.is_empty() { "ai.onnx".to_owned() } else { node.domain.clone() };
        self.list(Issue { kind, origin, domain, opset, reason });
    }

    fn list(&mut self, issue: Issue) {
        if self.issues.len() < self.options.limits.problems.max(1) {
            self.issues.push(issue);
        } else {
            self.unlisted += 1;
        }
    }

    fn report_value(&mut self, frame: &Frame<'p>, what: &str, name: &str, reason: String) {
        let origin = Origin {
            file: self.file.clone(),
            path: frame.path.clone(),
            node: name.to_owned(),
            op: what.to_owned(),
        };
        let opset = frame.scope.opsets.get("").copied().unwrap_or(0);
        let kind = IssueKind::Invalid;
        self.list(Issue { kind, origin, domain: "ai.onnx".to_owned(), opset, reason });
    }
}
