//! Nodes over values whose rank shows when the program runs: one graph for each rank that makes the node valid, of which a
//! run takes the one that fits.
//!
//! Importers of operators see operands of known rank, but for those that serve any. What they would do for each rank is
//! imported as a graph of its own; nested conditions on the rank choose between them.

use kiln_ir::op::Control;
use kiln_ir::{Build, BuildDynamic, DType, Dim, GraphBuilder, GraphId, InferError, Tensor, Type, Value};

use super::cx::{Captures, Cx, OpError, Outputs};
use super::ops::Row;
use super::proto::GraphProto;

/// Most axes of a value of unknown rank.
const MOST_RANK: usize = 8;

/// Most operands of unknown rank that a node has.
const MOST_OPEN: usize = 2;

/// Imports a node, by ranks where it needs them: the first attempt's problem stands if no rank solves it.
pub(super) fn import(cx: &mut Cx<'_, '_, '_>, row: &Row) -> Outputs {
    let first = row.import(cx);
    let (Err(OpError::Invalid(_) | OpError::Unsupported(_)), Some(x)) = (&first, of_unknown_rank(cx)) else {
        return first;
    };
    match by_rank(cx, row, x)? {
        Some(results) => Ok(results),
        None => first,
    }
}

/// The first operand of unknown rank, if they are few enough to try the ranks of each with those of the others.
fn of_unknown_rank(cx: &Cx<'_, '_, '_>) -> Option<Value> {
    let is_open = |v: &Value| cx.b.ty(*v).as_tensor().is_some_and(|t| t.shape.rank().is_none());
    let mut open: Vec<Value> = cx.inputs.iter().flatten().copied().filter(is_open).collect();
    open.dedup();
    open.first().copied().filter(|_| open.len() <= MOST_OPEN)
}

/// What the graphs of all ranks take: the node's operands, each once, and what its own graphs capture.
struct Operands<'p> {
    values: Vec<Value>,
    constants: Vec<(Value, Tensor)>,
    captures: Captures<'p>,
}

impl<'p> Operands<'p> {
    fn of(cx: &mut Cx<'_, '_, 'p>) -> Result<Self, OpError> {
        let node = cx.node;
        let graphs = node.attribute.iter().flat_map(|a| a.g.as_deref().into_iter().chain(&a.graphs));
        let graphs: Vec<&'p GraphProto> = graphs.collect();
        let captures = cx.captures(&graphs)?;
        let (mut values, mut constants) = (vec![], vec![]);
        for &v in cx.inputs.iter().flatten() {
            match cx.known_tensor(v).cloned() {
                Some(tensor) => constants.push((v, tensor)),
                None if !values.contains(&v) => values.push(v),
                None => {}
            }
        }
        Ok(Operands { values, constants, captures })
    }

    /// What a call of such a graph passes behind the rank.
    fn passed(&self) -> Vec<Value> {
        self.values.iter().copied().chain(self.captures.operands()).collect()
    }

    /// The graph of the node where `x` has `rank` axes.
    fn graph(
        &self,
        cx: &mut Cx<'_, '_, 'p>,
        row: &Row,
        (x, rank): (Value, usize),
    ) -> Result<GraphId, OpError> {
        cx.count_nodes(1)?;
        let types: Vec<Type> = self.values.iter().map(|&v| cx.b.ty(v).clone()).collect();
        let wanted = cx.node.output.iter().rposition(|name| !name.is_empty()).map_or(0, |last| last + 1);
        let (node, opset, outer) = (cx.node, cx.opset, cx.inputs.clone());
        let origin = cx.b.origin().cloned();
        cx.nested(&format!("rank{rank}"), |n| {
            n.b.set_origin(origin);
            n.input("rank", rank_type());
            let mut inner = vec![];
            for (&v, ty) in self.values.iter().zip(types) {
                let ty = match ty.as_tensor() {
                    Some(t) if v == x => Type::tensor(t.dtype, vec![Dim::unknown(); rank]),
                    _ => ty,
                };
                inner.push((v, n.input("operand", ty)));
            }
            for (v, tensor) in &self.constants {
                inner.push((*v, n.b.constant(tensor.clone())?));
            }
            n.bind_captures(&self.captures)?;
            let inside = |v: Value| inner.iter().find(|(outer, _)| *outer == v).map(|(_, inner)| *inner);
            let inputs = outer.into_iter().map(|v| v.and_then(inside)).collect();
            let results = import(&mut n.node(node, opset, inputs), row)?;
            if results.len() < wanted {
                return Err(OpError::unsupported(format!("{} of {wanted} results", results.len())));
            }
            for (i, v) in results.into_iter().take(wanted).enumerate() {
                n.b.output(&format!("result{i}"), v);
            }
            Ok(())
        })
    }
}

/// The node for each rank of `x`; `None` if no rank makes it valid.
fn by_rank(cx: &mut Cx<'_, '_, '_>, row: &Row, x: Value) -> Result<Option<Vec<Value>>, OpError> {
    let operands = Operands::of(cx)?;
    let start = cx.checkpoint();
    let mut graphs = vec![];
    for rank in 0..=MOST_RANK {
        let before = cx.checkpoint();
        match operands.graph(cx, row, (x, rank)) {
            Ok(graph) if !cx.failed_since(&before) => graphs.push((rank, graph)),
            _ if cx.is_over_limit() => return Err(OpError::Recorded),
            Ok(_) | Err(_) => cx.roll_back(&before),
        }
    }
    if let [(rank, _)] = graphs[..] {
        cx.roll_back(&start);
        cx.b.assume_rank(x, rank)?;
        return import(cx, row).map(Some);
    }
    let Some(((_, last), rest)) = graphs.split_last() else { return Ok(None) };
    let types: Vec<Type> = operands.passed().into_iter().map(|v| cx.b.ty(v).clone()).collect();
    // From the last on, each choice is a graph that the one before it falls back to.
    let mut otherwise = *last;
    for &(rank, graph) in rest.iter().skip(1).rev() {
        otherwise = cx.nested("otherwise", |n| {
            let mut inputs = vec![n.input("rank", rank_type())];
            inputs.extend(types.iter().map(|ty| n.input("operand", ty.clone())));
            let results = choose(&mut n.b, rank, (graph, otherwise), &inputs)?;
            for (i, v) in results.into_iter().enumerate() {
                n.b.output(&format!("result{i}"), v);
            }
            Ok(())
        })?;
    }
    let shape = cx.b.shape_of(x)?;
    let count = cx.b.shape_of(shape)?;
    let count = cx.b.reshape(count, &[])?;
    let inputs: Vec<Value> = std::iter::once(count).chain(operands.passed()).collect();
    match rest.first() {
        Some(&(rank, graph)) => Ok(Some(choose(&mut *cx.b, rank, (graph, otherwise), &inputs)?)),
        None => Ok(None),
    }
}

fn rank_type() -> Type {
    Type::fixed(DType::I64, &[])
}

/// One graph where the first input is `rank`, else another.
fn choose(
    b: &mut GraphBuilder<'_>,
    rank: usize,
    (then_graph, else_graph): (GraphId, GraphId),
    inputs: &[Value],
) -> Result<Vec<Value>, InferError> {
    let Some(&found) = inputs.first() else { return Ok(vec![]) };
    let wanted = b.scalar(DType::I64, rank as f64)?;
    let condition = b.ew("eq", &[found, wanted])?;
    let operands: Vec<Value> = std::iter::once(condition).chain(inputs.iter().copied()).collect();
    Ok(b.add(Control::If { then_graph, else_graph }.into(), &operands)?.to_vec())
}
