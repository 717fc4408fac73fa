//! Operators that run graphs: branches, loops, maps, and regions that only set a mode.

use kiln_ir::op::{Control, Index};
use kiln_ir::{Build, DType, GraphBuilder, GraphId, Tensor, Type, Value};

use super::autocast;
use super::import::{Frame, Session, Slot, import_graph, node_name};
use super::operand::operand;
use super::program::{Argument, Graph, Named, Node, SymIntArgument};
use crate::aten::Arg;
use crate::error::OpError;

/// Imports a node of `torch.ops.higher_order`.
pub(super) fn import<'p>(
    session: &mut Session<'p>,
    frame: &mut Frame<'p>,
    b: &mut GraphBuilder<'_>,
    node: &'p Node,
    name: &str,
) -> Result<Vec<Arg>, OpError> {
    let (mut graphs, mut args, mut names) = (vec![], vec![], vec![]);
    for input in &node.inputs {
        match &input.arg {
            Argument::AsGraph(graph) => graphs.push(&graph.graph),
            other => {
                args.push(operand(session, frame, b, other)?);
                names.extend(tensor_names(other));
            }
        }
    }
    let depth = frame.depth + 1;
    if depth > session.options.limits.depth {
        return Err(OpError::invalid(format!("graphs are nested more than {} deep", depth - 1)));
    }
    let results = match (name, graphs.as_slice()) {
        ("cond", [then, other]) => branches(session, frame, b, node, [then, other], args),
        ("while_loop", [condition, body]) => repeat(session, frame, b, node, [condition, body], args),
        ("map_impl" | "map", [body]) => map(session, frame, b, node, body, args),
        ("wrap_with_autocast", [body]) => {
            let outer = frame.autocast;
            frame.autocast = narrow_type(&args)?;
            let results = inline(session, frame, b, body, last(&args, body));
            frame.autocast = outer;
            results
        }
        ("wrap_with_set_grad_enabled" | "hints_wrapper", [body]) => {
            inline(session, frame, b, body, last(&args, body))
        }
        ("invoke_subgraph", [body]) => {
            let operands: Vec<Arg> = flat(&args).into_iter().filter(|a| !matches!(a, Arg::Str(_))).collect();
            inline(session, frame, b, body, operands)
        }
        _ => Err(OpError::unsupported("the higher-order operator")),
    }?;
    share(frame, &graphs, &names)?;
    Ok(results)
}

/// The operands of a graph: modes come before them.
fn last(args: &[Arg], graph: &Graph) -> Vec<Arg> {
    let all = flat(args);
    let skip = all.len().saturating_sub(graph.inputs.len());
    all.into_iter().skip(skip).collect()
}

/// The type of automatic casts by the arguments device, type, whether they are on; none if they are off.
fn narrow_type(args: &[Arg]) -> Result<Option<DType>, OpError> {
    match args {
        [Arg::Str(_), _, Arg::Bool(false), ..] => Ok(None),
        [Arg::Str(device), Arg::None, Arg::Bool(true), ..] => autocast::narrow_type(device, None).map(Some),
        [Arg::Str(device), Arg::DType(dtype), Arg::Bool(true), ..] => {
            autocast::narrow_type(device, Some(*dtype)).map(Some)
        }
        _ => Err(OpError::unsupported("automatic casts that are told in another way")),
    }
}

/// Names of the tensors among the parts of an operand.
fn tensor_names(arg: &Argument) -> Vec<Option<&str>> {
    match arg {
        Argument::AsTensor(Named { name }) => vec![Some(name)],
        Argument::AsTensors(list) => list.iter().map(|t| Some(t.name.as_str())).collect(),
        Argument::AsSymInts(list) => vec![None; list.len()],
        Argument::AsInts(list) => vec![None; list.len()],
        _ => vec![None],
    }
}

/// Finds the operands whose memory results of an inlined graph may share. Operands come last of all arguments.
fn share<'p>(frame: &mut Frame<'p>, graphs: &[&'p Graph], names: &[Option<&'p str>]) -> Result<(), OpError> {
    let count = graphs.first().map_or(0, |graph| graph.inputs.len());
    let operands = names.get(names.len().saturating_sub(count)..).unwrap_or(&[]);
    let inner = std::mem::take(&mut frame.borrowed);
    for (result, input) in inner {
        let name = operands.get(input).copied().flatten();
        let name = name.ok_or_else(|| OpError::unsupported("a view of an operand of a nested graph"))?;
        frame.shared.push((result, name));
    }
    Ok(())
}

/// Operands with lists taken apart.
fn flat(args: &[Arg]) -> Vec<Arg> {
    let mut all = vec![];
    for arg in args {
        match arg {
            Arg::List(items) => all.extend(items.iter().cloned()),
            other => all.push(other.clone()),
        }
    }
    all
}

/// The name of a graph's input.
fn input_name(arg: &Argument) -> Option<&str> {
    match arg {
        Argument::AsTensor(Named { name }) | Argument::AsSymInt(SymIntArgument::AsName(name)) => Some(name),
        _ => None,
    }
}

/// Imports a graph in place.
fn inline<'p>(
    session: &mut Session<'p>,
    frame: &mut Frame<'p>,
    b: &mut GraphBuilder<'_>,
    graph: &'p Graph,
    operands: Vec<Arg>,
) -> Result<Vec<Arg>, OpError> {
    let mut inner = frame.nested(frame.path.clone());
    let results = run(session, &mut inner, b, graph, operands)?;
    frame.borrowed.clear();
    let mut roots: Vec<&str> = vec![];
    for (i, output) in graph.outputs.iter().enumerate() {
        let Argument::AsTensor(Named { name }) = output else { continue };
        let root = inner.aliases.root(name);
        let input = graph.inputs.iter().position(|input| input_name(input) == Some(root));
        if let Some(input) = input {
            frame.borrowed.push((i, input));
        } else if roots.contains(&root) {
            return Err(OpError::unsupported("a nested graph that gives two views of the same memory"));
        } else {
            roots.push(root);
        }
    }
    Ok(results)
}

/// Binds a graph's inputs, imports its nodes and gives its outputs.
fn run<'p>(
    session: &mut Session<'p>,
    frame: &mut Frame<'p>,
    b: &mut GraphBuilder<'_>,
    graph: &'p Graph,
    operands: Vec<Arg>,
) -> Result<Vec<Arg>, OpError> {
    if graph.inputs.len() != operands.len() {
        let (inputs, given) = (graph.inputs.len(), operands.len());
        return Err(OpError::invalid(format!("a graph of {inputs} inputs gets {given}")));
    }
    for (input, arg) in graph.inputs.iter().zip(operands) {
        if let Some(name) = input_name(input) {
            frame.inputs.insert(name);
            frame.slots.insert(name, Slot::Arg(arg));
        }
    }
    let origin = b.origin().cloned();
    let before = session.problems();
    import_graph(session, frame, b, graph)?;
    b.set_origin(origin);
    if session.problems() > before {
        return Err(OpError::Recorded);
    }
    graph.outputs.iter().map(|output| operand(session, frame, b, output)).collect()
}

/// A number or a tensor as a tensor.
fn tensor(b: &mut GraphBuilder<'_>, arg: &Arg) -> Result<Value, OpError> {
    match arg {
        Arg::Tensor(v) | Arg::Scalar(v) => Ok(*v),
        Arg::Int(dim) => {
            let dims = b.dims(std::slice::from_ref(dim))?;
            Ok(b.reshape(dims, &[])?)
        }
        Arg::Bool(value) => Ok(b.constant(Tensor::from_bools(&[], &[*value])?)?),
        Arg::Float(value) => Ok(b.constant(Tensor::scalar(*value))?),
        other => Err(OpError::unsupported(format!("{} as an operand of a graph", other.kind()))),
    }
}

/// A tensor of one bool, without axes.
fn condition(b: &mut GraphBuilder<'_>, arg: &Arg) -> Result<Value, OpError> {
    let v = tensor(b, arg)?;
    let flag = b.cast(v, DType::Bool)?;
    Ok(b.reshape(flag, &[])?)
}

/// Operands of a private graph: values are passed, what is known when the graph is built stays what it is.
struct Passed {
    values: Vec<Value>,
    types: Vec<Type>,
    args: Vec<Arg>,
}

impl Passed {
    fn of(b: &GraphBuilder<'_>, args: Vec<Arg>) -> Self {
        let values: Vec<Value> = args.iter().filter_map(value_of).collect();
        let types = values.iter().map(|&v| b.ty(v).clone()).collect();
        Passed { values, types, args }
    }

    /// The operands inside of the graph, whose inputs are these values.
    fn inside(&self, inputs: &[Value]) -> Vec<Arg> {
        let mut inputs = inputs.iter();
        let mut next = |old: Value| inputs.next().copied().unwrap_or(old);
        self.args
            .iter()
            .map(|arg| match arg {
                Arg::Tensor(v) => Arg::Tensor(next(*v)),
                Arg::Scalar(v) => Arg::Scalar(next(*v)),
                other => other.clone(),
            })
            .collect()
    }
}

fn value_of(arg: &Arg) -> Option<Value> {
    match arg {
        Arg::Tensor(v) | Arg::Scalar(v) => Some(*v),
        _ => None,
    }
}

fn label(frame: &Frame<'_>, node: &Node, part: &str) -> String {
    match frame.path.as_str() {
        "" => format!("{}/{part}", node_name(node)),
        path => format!("{path}/{}/{part}", node_name(node)),
    }
}

/// `cond(pred, true_graph, false_graph, operands)`.
fn branches<'p>(
    session: &mut Session<'p>,
    frame: &mut Frame<'p>,
    b: &mut GraphBuilder<'_>,
    node: &'p Node,
    graphs: [&'p Graph; 2],
    args: Vec<Arg>,
) -> Result<Vec<Arg>, OpError> {
    let (pred, operands) = match args.split_first() {
        Some((pred, rest)) => (pred.clone(), flat(rest)),
        None => return Err(OpError::invalid("a branch without a condition")),
    };
    if let Arg::Bool(known) = pred {
        let [then, other] = graphs;
        return inline(session, frame, b, if known { then } else { other }, operands);
    }
    let flag = condition(b, &pred)?;
    let passed = Passed::of(b, operands);
    let mut ids: Vec<GraphId> = vec![];
    for (graph, part) in graphs.into_iter().zip(["true", "false"]) {
        let mut inner = frame.nested(label(frame, node, part));
        let mut nested = GraphBuilder::new(b.module(), part);
        let inputs: Vec<Value> = enumerated(&mut nested, &passed.types);
        let results = run(session, &mut inner, &mut nested, graph, passed.inside(&inputs))?;
        give(&mut nested, &results)?;
        ids.push(nested.finish());
    }
    let [then_graph, else_graph] = ids.as_slice() else { return Err(OpError::Recorded) };
    let op = Control::If { then_graph: *then_graph, else_graph: *else_graph };
    let all: Vec<Value> = std::iter::once(flag).chain(passed.values).collect();
    let results = b.add(op.into(), &all)?;
    Ok(results.into_iter().map(Arg::Tensor).collect())
}

fn enumerated(b: &mut GraphBuilder<'_>, types: &[Type]) -> Vec<Value> {
    types.iter().enumerate().map(|(i, ty)| b.input(&format!("in{i}"), ty.clone())).collect()
}

/// Makes results the outputs of a private graph.
fn give(b: &mut GraphBuilder<'_>, results: &[Arg]) -> Result<(), OpError> {
    for (i, arg) in flat(results).iter().enumerate() {
        let v = tensor(b, arg)?;
        b.output(&format!("out{i}"), v);
    }
    Ok(())
}

/// `while_loop(cond_graph, body_graph, carried, additional)`.
fn repeat<'p>(
    session: &mut Session<'p>,
    frame: &mut Frame<'p>,
    b: &mut GraphBuilder<'_>,
    node: &'p Node,
    [cond_graph, body_graph]: [&'p Graph; 2],
    args: Vec<Arg>,
) -> Result<Vec<Arg>, OpError> {
    let mut lists = args.into_iter().map(|arg| flat(&[arg]));
    let (carried, extra) = (lists.next().unwrap_or_default(), lists.next().unwrap_or_default());
    // Whatever is carried changes, so that numbers become tensors.
    let carried: Vec<Arg> = carried
        .iter()
        .map(|arg| match arg {
            Arg::Tensor(_) => Ok(arg.clone()),
            number => tensor(b, number).map(Arg::Scalar),
        })
        .collect::<Result<_, OpError>>()?;
    let count = carried.len();
    let first = inline(session, frame, b, cond_graph, [carried.clone(), extra.clone()].concat())?;
    let first = first.first().ok_or_else(|| OpError::invalid("a condition without a result"))?;
    let start = condition(b, first)?;
    frame.borrowed.clear();
    let passed = Passed::of(b, [carried, extra].concat());
    let mut inner = frame.nested(label(frame, node, "body"));
    let mut nested = GraphBuilder::new(b.module(), "body");
    nested.input("iteration", Type::fixed(DType::I64, &[]));
    nested.input("go", Type::fixed(DType::Bool, &[]));
    let inputs = enumerated(&mut nested, &passed.types);
    let operands = passed.inside(&inputs);
    let extra_inside: Vec<Arg> = operands.iter().skip(count).cloned().collect();
    let results = flat(&run(session, &mut inner, &mut nested, body_graph, operands)?);
    if results.len() != count {
        return Err(OpError::invalid(format!("a loop of {count} values gives {}", results.len())));
    }
    let mut again = frame.nested(label(frame, node, "cond"));
    let go = run(session, &mut again, &mut nested, cond_graph, [results.clone(), extra_inside].concat())?;
    let go = go.first().ok_or_else(|| OpError::invalid("a condition without a result"))?;
    let go = condition(&mut nested, go)?;
    nested.output("go", go);
    give(&mut nested, &results)?;
    let body = nested.finish();
    let trips = b.constant(Tensor::scalar(i64::MAX))?;
    let all: Vec<Value> = [trips, start].into_iter().chain(passed.values).collect();
    let values = b.add(Control::Loop { body, carried: count }.into(), &all)?;
    let kinds = passed.args.iter().take(count);
    Ok(values
        .into_iter()
        .zip(kinds)
        .map(|(v, kind)| if matches!(kind, Arg::Scalar(_)) { Arg::Scalar(v) } else { Arg::Tensor(v) })
        .collect())
}

/// `map(body, xs, others)`: the body on every slice of the first axis.
fn map<'p>(
    session: &mut Session<'p>,
    frame: &mut Frame<'p>,
    b: &mut GraphBuilder<'_>,
    node: &'p Node,
    body_graph: &'p Graph,
    args: Vec<Arg>,
) -> Result<Vec<Arg>, OpError> {
    let mut lists = args.into_iter().map(|arg| flat(&[arg]));
    let (xs, others) = (lists.next().unwrap_or_default(), lists.next().unwrap_or_default());
    let count = xs.len();
    let Some(Arg::Tensor(x)) = xs.first() else { return Err(OpError::invalid("a map over nothing")) };
    let length = b.shape(*x)?.first().cloned().ok_or_else(|| OpError::invalid("a map over a scalar"))?;
    let passed = Passed::of(b, [xs, others].concat());
    let mut inner = frame.nested(label(frame, node, "body"));
    let mut nested = GraphBuilder::new(b.module(), "body");
    let iteration = nested.input("iteration", Type::fixed(DType::I64, &[]));
    let go = nested.input("go", Type::fixed(DType::Bool, &[]));
    let inputs = enumerated(&mut nested, &passed.types);
    let mut operands = passed.inside(&inputs);
    for arg in operands.iter_mut().take(count) {
        if let Arg::Tensor(v) = arg {
            *v = nested.add1(Index::Gather { axis: 0 }, &[*v, iteration])?;
        }
    }
    let results = run(session, &mut inner, &mut nested, body_graph, operands)?;
    nested.output("go", go);
    give(&mut nested, &results)?;
    let body = nested.finish();
    let trips = b.dims(std::slice::from_ref(&length))?;
    let trips = b.reshape(trips, &[])?;
    let start = b.constant(Tensor::from_bools(&[], &[true])?)?;
    let all: Vec<Value> = [trips, start].into_iter().chain(passed.values).collect();
    let values = b.add(Control::Loop { body, carried: 0 }.into(), &all)?;
    Ok(values.into_iter().map(Arg::Tensor).collect())
}
