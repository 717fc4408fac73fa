//! Control flow. Nested graphs of a file see the values around them; graphs of the IR do not, so these become operands.

use kiln_ir::op::{Control, Index, Movement, Object};
use kiln_ir::{Build, DType, Dim, GraphId, Shape, Tensor, TensorType, Type, Value};

use super::{How, Row, row};
use crate::onnx::cx::{Captures, Cx, OpError, Outputs};
use crate::onnx::proto::GraphProto;

use How::Fn;

pub(super) const ROWS: &[Row] = &[
    row("If", &[1, 11, 13, 16, 19, 21, 23, 24, 25], Fn(if_)),
    row("Loop", &[1, 11, 13, 16, 19, 21, 23, 24, 25], Fn(loop_)),
    row("Scan", &[8, 9, 11, 16, 19, 21, 23, 24, 25], Fn(scan)),
];

/// A one-element tensor as rank 0.
fn scalar(cx: &mut Cx<'_, '_, '_>, v: Value) -> Result<Value, OpError> {
    Ok(cx.b.reshape(v, &[])?)
}

fn if_(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let condition = cx.input(0)?;
    let condition = scalar(cx, condition)?;
    let branches = [cx.attrs.graph("then_branch")?, cx.attrs.graph("else_branch")?];
    let captures = cx.captures(&branches)?;
    let before = cx.checkpoint();
    let [then_branch, else_branch] = branches;
    // Both branches are imported even if the first fails, so that all problems are listed.
    let then_graph = branch(cx, then_branch, "then", &captures);
    let else_graph = branch(cx, else_branch, "else", &captures);
    if cx.failed_since(&before) {
        return Err(OpError::Recorded);
    }
    let op = Control::If { then_graph: then_graph?, else_graph: else_graph? };
    let operands: Vec<Value> = std::iter::once(condition).chain(captures.operands()).collect();
    Ok(cx.b.add(op.into(), &operands)?.to_vec())
}

fn branch<'p>(
    cx: &mut Cx<'_, '_, 'p>,
    graph: &'p GraphProto,
    label: &str,
    captures: &Captures<'p>,
) -> Result<GraphId, OpError> {
    cx.nested(label, |n| {
        n.bind_captures(captures)?;
        let outputs = n.import(graph)?;
        for (v, info) in outputs.into_iter().zip(&graph.output) {
            n.b.output(&info.name, v);
        }
        Ok(())
    })
}

/// The type that covers both, with unknown dims where they differ; `None` if dtypes or kinds differ.
fn widened(a: &Type, b: &Type) -> Option<Type> {
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

/// `ty` with the unknown dims of `pattern`, which were given up before and must stay so.
fn with_unknowns(ty: &Type, pattern: &Type) -> Type {
    match (ty, pattern) {
        (Type::Tensor(t), Type::Tensor(p)) => match (t.shape.dims(), p.shape.dims()) {
            (Some(x), Some(y)) if x.len() == y.len() => {
                let dims = x.iter().zip(y);
                let dims = dims.map(|(x, y)| if y.is_unknown() { Dim::unknown() } else { x.clone() });
                Type::tensor(t.dtype, dims.collect::<Vec<_>>())
            }
            _ => Type::unranked(t.dtype),
        },
        (Type::Sequence(t), Type::Sequence(p)) => Type::Sequence(Box::new(with_unknowns(t, p))),
        (Type::Optional(t), Type::Optional(p)) => Type::Optional(Box::new(with_unknowns(t, p))),
        _ => ty.clone(),
    }
}

/// A loop body: graph, and the types that its carried results have.
struct Built {
    graph: GraphId,
    carried: Vec<Type>,
}

/// Builds a loop's body until the types of what it carries hold for every iteration: from the initial types, each
/// round gives up the dims, then ranks, that the body changes.
fn settle<'p>(
    cx: &mut Cx<'_, '_, 'p>,
    mut types: Vec<Type>,
    build: &mut dyn FnMut(&mut Cx<'_, '_, 'p>, &[Type]) -> Result<Built, OpError>,
) -> Result<GraphId, OpError> {
    const ROUNDS: usize = 6;
    for _ in 0..ROUNDS {
        let start = cx.checkpoint();
        let built = build(cx, &types)?;
        if cx.failed_since(&start) {
            return Err(OpError::Recorded);
        }
        let mut next = vec![];
        for (i, (before, after)) in types.iter().zip(&built.carried).enumerate() {
            let wide = widened(before, &with_unknowns(after, before));
            next.push(wide.ok_or_else(|| {
                OpError::invalid(format!(
                    "carried value {i} is {before} before the body and {after} after it"
                ))
            })?);
        }
        if next == types {
            return Ok(built.graph);
        }
        cx.roll_back(&start);
        types = next;
    }
    Err(OpError::unsupported("the types of carried values do not settle"))
}

fn loop_(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let body = cx.attrs.graph("body")?;
    let carried = cx.input_count().saturating_sub(2);
    if body.input.len() != carried + 2 || body.output.len() < carried + 1 {
        return Err(OpError::invalid(format!(
            "the body has {} inputs and {} outputs for {carried} carried values",
            body.input.len(),
            body.output.len()
        )));
    }
    let trips = match cx.optional(0) {
        Some(v) => scalar(cx, v)?,
        None => cx.b.constant(Tensor::scalar(i64::MAX))?,
    };
    let condition = match cx.optional(1) {
        Some(v) => scalar(cx, v)?,
        None => cx.b.constant(Tensor::from_bools(&[], &[true])?)?,
    };
    let initial = (0..carried).map(|i| cx.input(i + 2)).collect::<Result<Vec<_>, _>>()?;
    let captures = cx.captures(&[body])?;
    let types = initial.iter().map(|&v| cx.b.ty(v).clone()).collect();
    let graph = settle(cx, types, &mut |cx, types| {
        let mut carried_types = vec![];
        let graph = cx.nested("body", |n| {
            let fixed = [Type::fixed(DType::I64, &[]), Type::fixed(DType::Bool, &[])];
            for (info, ty) in body.input.iter().zip(fixed.iter().chain(types)) {
                let v = n.input(&info.name, ty.clone());
                n.bind(&info.name, v);
            }
            n.bind_captures(&captures)?;
            let outputs = n.import(body)?;
            for (i, (mut v, info)) in outputs.into_iter().zip(&body.output).enumerate() {
                if i == 0 {
                    v = n.b.reshape(v, &[])?;
                } else if let Some(before) = types.get(i - 1) {
                    // What is carried as an optional may be given plain.
                    if matches!(before, Type::Optional(_)) && !matches!(n.b.ty(v), Type::Optional(_)) {
                        v = n.b.add1(Object::OptionalSome {}, &[v])?;
                    }
                    carried_types.push(n.b.ty(v).clone());
                }
                n.b.output(&info.name, v);
            }
            Ok(())
        })?;
        Ok(Built { graph, carried: carried_types })
    })?;
    let mut operands = vec![trips, condition];
    operands.extend(initial);
    operands.extend(captures.operands());
    Ok(cx.b.add(Control::Loop { body: graph, carried }.into(), &operands)?.to_vec())
}

/// The parts of a Scan.
struct Scan {
    states: Vec<Value>,
    inputs: Vec<Value>,
    input_axes: Vec<usize>,
    input_reversed: Vec<bool>,
    output_axes: Vec<i64>,
    output_reversed: Vec<bool>,
    trips: Dim,
}

fn flags(cx: &Cx<'_, '_, '_>, name: &'static str, count: usize) -> Result<Vec<bool>, OpError> {
    let list = cx.attrs.ints_or(name, &vec![0; count])?;
    if list.len() != count {
        return Err(OpError::invalid(format!("attribute `{name}` must have {count} elements")));
    }
    Ok(list.into_iter().map(|v| v != 0).collect())
}

fn scan_parts(cx: &mut Cx<'_, '_, '_>, body: &GraphProto) -> Result<Scan, OpError> {
    let values = cx.all_inputs()?;
    let count = cx.attrs.required_int("num_scan_inputs")?;
    let count = usize::try_from(count).ok().filter(|&n| n >= 1 && n <= values.len());
    let count = count.ok_or_else(|| OpError::invalid("num_scan_inputs does not fit the operands"))?;
    let (states, inputs) = values.split_at(values.len() - count);
    if body.input.len() != values.len() || body.output.len() < states.len() {
        return Err(OpError::invalid("the body does not fit the operands"));
    }
    let scanned = body.output.len() - states.len();
    let axes = cx.attrs.ints_or("scan_input_axes", &vec![0; count])?;
    let mut input_axes = vec![];
    for (&v, &axis) in inputs.iter().zip(&axes) {
        input_axes.push(cx.axis(axis, cx.rank(v)?)?);
    }
    let (Some(&first), Some(&axis)) = (inputs.first(), input_axes.first()) else {
        return Err(OpError::invalid("there is nothing to scan"));
    };
    let trips = cx.shape(first)?.get(axis).cloned().unwrap_or(Dim::known(0));
    Ok(Scan {
        states: states.to_vec(),
        inputs: inputs.to_vec(),
        input_axes,
        input_reversed: flags(cx, "scan_input_directions", count)?,
        output_axes: cx.attrs.ints_or("scan_output_axes", &vec![0; scanned])?,
        output_reversed: flags(cx, "scan_output_directions", scanned)?,
        trips,
    })
}

/// A loop over the slices of the scanned operands.
fn scan(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    if cx.opset < 9 {
        return scan_batched(cx);
    }
    let body = cx.attrs.graph("body")?;
    let parts = scan_parts(cx, body)?;
    let results = scan_loop(cx, body, &parts)?;
    let mut outputs = vec![];
    for (i, mut v) in results.into_iter().enumerate() {
        if let Some(at) = i.checked_sub(parts.states.len()) {
            if parts.output_reversed.get(at) == Some(&true) {
                v = reversed(cx, v)?;
            }
            let axis = parts.output_axes.get(at).copied().unwrap_or(0);
            v = move_first_axis(cx, v, axis)?;
        }
        outputs.push(v);
    }
    Ok(outputs)
}

/// The elements of axis 0 in reverse order.
fn reversed(cx: &mut Cx<'_, '_, '_>, v: Value) -> Result<Value, OpError> {
    let sizes = cx.shape(v)?;
    let mut starts = vec![Dim::known(0); sizes.len()];
    let mut steps = vec![1; sizes.len()];
    if let (Some(start), Some(step), Some(size)) = (starts.first_mut(), steps.first_mut(), sizes.first()) {
        (*start, *step) = (size - Dim::known(1), -1);
    }
    Ok(cx.b.add1(Movement::Slice { starts, sizes, steps }, &[v])?)
}

/// Axis 0 moved to `axis`.
fn move_first_axis(cx: &mut Cx<'_, '_, '_>, v: Value, axis: i64) -> Result<Value, OpError> {
    if axis == 0 {
        return Ok(v);
    }
    let rank = cx.rank(v)?;
    let axis = cx.axis(axis, rank)?;
    let mut perm: Vec<usize> = (1..rank).collect();
    perm.insert(axis, 0);
    Ok(cx.b.transpose(v, &perm)?)
}

fn scan_loop<'p>(cx: &mut Cx<'_, '_, 'p>, body: &'p GraphProto, parts: &Scan) -> Result<Vec<Value>, OpError> {
    let captures = cx.captures(&[body])?;
    let state_count = parts.states.len();
    let input_types: Vec<Type> = parts.inputs.iter().map(|&v| cx.b.ty(v).clone()).collect();
    let types = parts.states.iter().map(|&v| cx.b.ty(v).clone()).collect();
    let graph = settle(cx, types, &mut |cx, types| {
        let mut carried = vec![];
        let graph = cx.nested("body", |n| {
            let step = n.input("step", Type::fixed(DType::I64, &[]));
            n.input("condition", Type::fixed(DType::Bool, &[]));
            let states = body.input.iter().zip(types);
            for (info, ty) in states {
                let v = n.input(&info.name, ty.clone());
                n.bind(&info.name, v);
            }
            n.bind_captures(&captures)?;
            // Scanned operands come last, whole; the body starts by taking its slice.
            for (i, (info, ty)) in body.input.iter().skip(state_count).zip(&input_types).enumerate() {
                let whole = n.input(&info.name, ty.clone());
                let axis = parts.input_axes.get(i).copied().unwrap_or(0);
                let mut at = step;
                if parts.input_reversed.get(i) == Some(&true) {
                    let size = n.b.shape(whole)?.get(axis).cloned().unwrap_or(Dim::known(1));
                    let last = n.b.dims(&[size - Dim::known(1)])?;
                    let last = n.b.reshape(last, &[])?;
                    at = n.b.ew("sub", &[last, step])?;
                }
                let slice = n.b.add1(Index::Gather { axis }, &[whole, at])?;
                n.bind(&info.name, slice);
            }
            let outputs = n.import(body)?;
            let go_on = n.b.constant(Tensor::from_bools(&[], &[true])?)?;
            n.b.output("condition", go_on);
            for (i, (v, info)) in outputs.into_iter().zip(&body.output).enumerate() {
                if i < state_count {
                    carried.push(n.b.ty(v).clone());
                }
                n.b.output(&info.name, v);
            }
            Ok(())
        })?;
        Ok(Built { graph, carried })
    })?;
    let trips = cx.b.dims(std::slice::from_ref(&parts.trips))?;
    let trips = scalar(cx, trips)?;
    let go_on = cx.b.constant(Tensor::from_bools(&[], &[true])?)?;
    let mut operands = vec![trips, go_on];
    operands.extend(&parts.states);
    operands.extend(captures.operands());
    operands.extend(&parts.inputs);
    Ok(cx.b.add(Control::Loop { body: graph, carried: state_count }.into(), &operands)?.to_vec())
}

/// Opset 8: the first operand holds sequence lengths, and everything has a batch axis in front. A batch of one is a
/// scan without it.
fn scan_batched(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    if cx.optional(0).is_some() {
        return Err(OpError::unsupported("sequence lengths (opset 8)"));
    }
    let body = cx.attrs.graph("body")?;
    let mut values = vec![];
    for i in 1..cx.input_count() {
        let v = cx.input(i)?;
        let dims = cx.shape(v)?;
        let rest = match dims.split_first() {
            Some((batch, rest)) if batch.as_known() == Some(1) => rest.to_vec(),
            _ => return Err(OpError::unsupported("batches of more than one (opset 8)")),
        };
        values.push(cx.b.reshape(v, &rest)?);
    }
    let count = cx.attrs.required_int("num_scan_inputs")?;
    let count = usize::try_from(count).ok().filter(|&n| n >= 1 && n <= values.len());
    let count = count.ok_or_else(|| OpError::invalid("num_scan_inputs does not fit the operands"))?;
    let (states, inputs) = values.split_at(values.len() - count);
    if body.input.len() != values.len() || body.output.len() < states.len() {
        return Err(OpError::invalid("the body does not fit the operands"));
    }
    let Some(&first) = inputs.first() else { return Err(OpError::invalid("there is nothing to scan")) };
    let trips = cx.shape(first)?.first().cloned().unwrap_or(Dim::known(0));
    let parts = Scan {
        states: states.to_vec(),
        inputs: inputs.to_vec(),
        input_axes: vec![0; count],
        input_reversed: flags(cx, "directions", count)?,
        output_axes: vec![],
        output_reversed: vec![],
        trips,
    };
    let results = scan_loop(cx, body, &parts)?;
    let mut outputs = vec![];
    for v in results {
        let dims = [vec![Dim::known(1)], cx.shape(v)?].concat();
        outputs.push(cx.b.reshape(v, &dims)?);
    }
    Ok(outputs)
}
