//! Control flow and calls.

use std::collections::HashMap;

use super::{InferCx, InferError, Inferred, Results, ensure};
use crate::graph::Known;
use crate::op::Control;
use crate::{DType, Dim, Graph, GraphId, Shape, Symbol, TensorType, Type, Value};

pub(super) fn infer(op: &Control, cx: &InferCx<'_>) -> Results {
    match op {
        Control::If { then_graph, else_graph } => branch(*then_graph, *else_graph, cx),
        Control::Loop { body, carried } => looped(*body, *carried, cx),
        Control::Call { graph } => {
            let callee = cx.graph(*graph)?;
            let symbols = bind_inputs(*graph, callee, cx.operands)?;
            Ok(outputs(callee, &symbols, Unbound::Unknown))
        }
        Control::Fusion { graph } => {
            let callee = cx.graph(*graph)?;
            let symbols = bind_inputs(*graph, callee, cx.operands)?;
            Ok(outputs(callee, &symbols, Unbound::Itself))
        }
    }
}

/// What becomes of a symbol of a called graph that its operands' types do not determine.
#[derive(Clone, Copy)]
enum Unbound {
    /// It names something inside the graph, which differs from call to call.
    Unknown,
    /// The graph has one caller and shares its symbols.
    Itself,
}

/// What the caller's dims are for symbols of the called graph's input types; `None` for contradictory ones.
type Bindings = HashMap<Symbol, Option<Dim>>;

fn bind_dims(input: &Type, operand: &Type, bindings: &mut Bindings) {
    match (input, operand) {
        (Type::Tensor(a), Type::Tensor(b)) => {
            let (Some(a), Some(b)) = (a.shape.dims(), b.shape.dims()) else { return };
            for (x, y) in a.iter().zip(b) {
                if let Some(s) = x.as_symbol() {
                    bindings.entry(s.clone()).or_insert_with(|| Some(y.clone()));
                } else if x == y {
                    x.symbols(&mut |s| {
                        let same = || Some(Dim::symbol(&s.0));
                        bindings.entry(s.clone()).or_insert_with(same);
                    });
                }
            }
        }
        (Type::Sequence(a), Type::Sequence(b)) | (Type::Optional(a), Type::Optional(b)) => {
            bind_dims(a, b, bindings);
        }
        _ => {}
    }
}

/// Checks operands against a graph's inputs and binds the inputs' symbols.
fn bind_inputs(id: GraphId, graph: &Graph, operands: &[&Type]) -> Result<Bindings, InferError> {
    let wanted = graph.inputs().len();
    ensure!(wanted == operands.len(), "{id} takes {wanted} inputs, found {}", operands.len());
    let mut bindings = Bindings::new();
    for (i, (&input, operand)) in graph.inputs().iter().zip(operands).enumerate() {
        let ty = graph.ty(input);
        ensure!(ty.is_compatible(operand), "input {i} of {id} is {ty}, the operand is {operand}");
        bind_dims(ty, operand, &mut bindings);
    }
    Ok(bindings)
}

fn substitute(ty: &Type, bindings: &Bindings, unbound: Unbound) -> Type {
    ty.map_dims(&mut |d| {
        d.substitute(&|s| match (bindings.get(s), unbound) {
            (Some(Some(bound)), _) => Some(bound.clone()),
            (Some(None), _) | (None, Unbound::Unknown) => Some(Dim::unknown()),
            (None, Unbound::Itself) => None,
        })
    })
}

fn outputs(graph: &Graph, bindings: &Bindings, unbound: Unbound) -> Vec<Inferred> {
    let types = graph.outputs().iter().map(|&v| substitute(graph.ty(v), bindings, unbound));
    types.map(Inferred::new).collect()
}

/// The type that values of both types have: differing dims become unknown, differing ranks unranked. `None` if
/// dtypes or structures differ.
pub(crate) fn join(a: &Type, b: &Type) -> Option<Type> {
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
        (Type::Sequence(a), Type::Sequence(b)) => Type::Sequence(Box::new(join(a, b)?)),
        (Type::Optional(a), Type::Optional(b)) => Type::Optional(Box::new(join(a, b)?)),
        _ => return None,
    })
}

/// Whether an input has another rank than its operand. Such a branch is never taken: what branches on the rank of a value is
/// made before the rank is known.
fn differ_in_rank(graph: &Graph, operands: &[&Type]) -> bool {
    let rank = |ty: &Type| ty.as_tensor().and_then(|t| t.shape.rank());
    let differ = |(&input, operand): (&Value, &&Type)| {
        rank(graph.ty(input)).zip(rank(operand)).is_some_and(|(a, b)| a != b)
    };
    graph.inputs().iter().zip(operands).any(differ)
}

fn branch(then_graph: GraphId, else_graph: GraphId, cx: &InferCx<'_>) -> Results {
    cx.expect_dtype(0, DType::Bool)?;
    cx.dims_of_rank(0, 0)?;
    let operands = cx.operands.get(1..).unwrap_or(&[]);
    let mut results = vec![];
    for id in [then_graph, else_graph] {
        let graph = cx.graph(id)?;
        if !differ_in_rank(graph, operands) {
            results.push(outputs(graph, &bind_inputs(id, graph, operands)?, Unbound::Unknown));
        }
    }
    let (a, b) = match results.as_slice() {
        [a, b] => (a, b),
        [taken] => (taken, taken),
        _ => return Err(InferError::new("neither branch takes operands of these ranks")),
    };
    ensure!(a.len() == b.len(), "{then_graph} gives {} results, {else_graph} gives {}", a.len(), b.len());
    let joined = a.iter().zip(b).enumerate().map(|(i, (a, b))| match join(&a.ty, &b.ty) {
        Some(ty) => Ok(Inferred::new(ty)),
        None => Err(InferError::new(format!("result {i} is {} or {}", a.ty, b.ty))),
    });
    joined.collect()
}

/// Parts of a loop's body.
struct Body<'a> {
    id: GraphId,
    graph: &'a Graph,
    carried: usize,
}

fn looped(id: GraphId, carried: usize, cx: &InferCx<'_>) -> Results {
    let graph = cx.graph(id)?;
    let body = Body { id, graph, carried };
    let (inputs, results) = (graph.inputs().len(), graph.outputs().len());
    ensure!(cx.operands.len() == inputs, "{id} takes {inputs} inputs, found {}", cx.operands.len());
    ensure!(inputs >= carried.saturating_add(2), "{id} takes too few inputs for {carried} carried values");
    ensure!(results > carried, "{id} gives too few results for {carried} carried values");
    for (i, dtype) in [(0, DType::I64), (1, DType::Bool)] {
        cx.expect_dtype(i, dtype)?;
        cx.dims_of_rank(i, 0)?;
    }
    let condition = graph.outputs().first().map(|&v| graph.ty(v));
    let is_bool = condition.and_then(Type::as_tensor).is_some_and(|t| t.dtype == DType::Bool);
    ensure!(is_bool, "the first result of {id} must be the bool condition");
    let bindings = bind_loop(&body, cx)?;
    let types = outputs(graph, &bindings, Unbound::Unknown);
    let trips = trip_count(&body, cx);
    let mut out = vec![];
    for (i, result) in types.into_iter().skip(1).enumerate() {
        out.push(if i < carried { carried_type(i, &result.ty, cx)? } else { scanned(&result.ty, &trips)? });
    }
    Ok(out)
}

/// Binds the symbols of the body's inputs. A symbol in a carried value's type whose dim the body changes stands for
/// another size in every iteration.
fn bind_loop(body: &Body<'_>, cx: &InferCx<'_>) -> Result<Bindings, InferError> {
    let mut bindings = bind_inputs(body.id, body.graph, cx.operands)?;
    let inputs = body.graph.inputs().iter().skip(2).take(body.carried);
    for (&input, &output) in inputs.zip(body.graph.outputs().iter().skip(1)) {
        let (before, after) = (body.graph.ty(input), body.graph.ty(output));
        ensure!(before.is_compatible(after), "{} takes a carried {before} and gives {after}", body.id);
        mark_changing(before, after, &mut bindings);
    }
    Ok(bindings)
}

fn mark_changing(before: &Type, after: &Type, bindings: &mut Bindings) {
    match (before, after) {
        (Type::Tensor(a), Type::Tensor(b)) => {
            let Some(x) = a.shape.dims() else { return };
            for (i, d) in x.iter().enumerate() {
                let same = b.shape.dims().and_then(|y| y.get(i)) == Some(d);
                if !same {
                    d.symbols(&mut |s| {
                        bindings.insert(s.clone(), None);
                    });
                }
            }
        }
        (Type::Sequence(a), Type::Sequence(b)) | (Type::Optional(a), Type::Optional(b)) => {
            mark_changing(a, b, bindings);
        }
        _ => {}
    }
}

fn carried_type(i: usize, result: &Type, cx: &InferCx<'_>) -> Result<Inferred, InferError> {
    let initial = cx.operand(i + 2)?;
    let joined = join(initial, result);
    joined
        .map(Inferred::new)
        .ok_or_else(|| InferError::new(format!("carried value {i} is {initial} first, then {result}")))
}

fn scanned(slice: &Type, trips: &Dim) -> Result<Inferred, InferError> {
    let Some(t) = slice.as_tensor() else {
        return Err(InferError::new(format!("a scan result must be a tensor, found {slice}")));
    };
    let shape = match t.shape.dims() {
        Some(dims) => Shape::new([std::slice::from_ref(trips), dims].concat()),
        None => Shape::unranked(),
    };
    Ok(Inferred::tensor(t.dtype, shape))
}

/// The number of iterations, where the trip count is known and the condition always holds.
fn trip_count(body: &Body<'_>, cx: &InferCx<'_>) -> Dim {
    let is_true = |k: &Known| k.ints().as_deref() == Some(&[1]);
    let starts = cx.known.get(1).copied().flatten().is_some_and(is_true);
    let condition = body.graph.outputs().first().copied();
    let stays = condition.is_some_and(|v| {
        body.graph.inputs().get(1) == Some(&v) || body.graph.value(v).known().is_some_and(is_true)
    });
    match cx.known_dims(0).as_deref() {
        Some([trips]) if starts && stays && trips.is_non_negative() => trips.clone(),
        _ => Dim::unknown(),
    }
}
