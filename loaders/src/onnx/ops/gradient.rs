//! Gradients of a value that the graph computes: reverse accumulation over the nodes that are there already
//! (Griewank, Walther: "Evaluating Derivatives", 2008).

use kiln_ir::op::{Contract, ContractSpec, Movement, Reduce, ReduceKind};
use kiln_ir::{Build, Node, Op, Value};
use rustc_hash::{FxHashMap, FxHashSet};

use super::{How, Row};
use crate::onnx::cx::{Cx, OpError, Outputs};

const TRAINING: &str = "ai.onnx.preview.training";

pub(super) const ROWS: &[Row] =
    &[Row { domain: TRAINING, name: "Gradient", since: &[1], how: How::Fn(gradient) }];

/// Nodes that are looked at in the time that building one takes.
const LOOKS_A_NODE: usize = 16;

/// Results: the derivatives of `y` by each of `xs`, summed over the elements of `y`. The operands are the values at
/// which to derive: here those that the names have in the graph.
fn gradient(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let xs = cx.attrs.strings("xs")?.ok_or_else(|| OpError::invalid("attribute `xs` is missing"))?;
    let zs = cx.attrs.strings("zs")?.unwrap_or_default();
    let y = cx.attrs.string("y")?.ok_or_else(|| OpError::invalid("attribute `y` is missing"))?;
    let mut points = vec![];
    for (i, name) in xs.iter().chain(&zs).enumerate() {
        let point = cx.input(i)?;
        if cx.named(name)? != point {
            return Err(OpError::unsupported(format!("a gradient at another value than `{name}` has")));
        }
        points.push(point);
    }
    let wanted = points.get(..xs.len()).unwrap_or(&[]).to_vec();
    let y = cx.named(&y)?;
    let adjoints = accumulate(cx, y, &wanted, &points)?;
    let mut results = vec![];
    for x in wanted {
        results.push(match adjoints.get(&x) {
            Some(&g) => g,
            None => like(cx, x, 0.0)?,
        });
    }
    Ok(results)
}

/// A constant in the shape and dtype of `v`.
fn like(cx: &mut Cx<'_, '_, '_>, v: Value, value: f64) -> Result<Value, OpError> {
    let (dtype, dims) = (cx.dtype(v)?, cx.shape(v)?);
    let value = cx.b.scalar(dtype, value)?;
    Ok(cx.b.broadcast(value, &dims)?)
}

/// The derivative of `y` by every value between it and `wanted`; nothing is derived beyond `leaves`.
fn accumulate(
    cx: &mut Cx<'_, '_, '_>,
    y: Value,
    wanted: &[Value],
    leaves: &[Value],
) -> Result<FxHashMap<Value, Value>, OpError> {
    let mut active: FxHashSet<Value> = wanted.iter().copied().collect();
    let mut path: Vec<Node> = vec![];
    for (_, node) in cx.b.graph().scheduled() {
        let depends = node.operands.iter().any(|v| active.contains(v));
        if depends && !node.results.iter().any(|r| leaves.contains(r)) {
            active.extend(node.results.iter().copied());
            path.push(node.clone());
        }
    }
    // A gradient of a gradient derives all that the first has added.
    let looked_at = cx.b.graph().scheduled().count() / LOOKS_A_NODE;
    cx.count_nodes(looked_at + path.len())?;
    let mut adjoints = FxHashMap::default();
    adjoints.insert(y, like(cx, y, 1.0)?);
    for node in path.into_iter().rev() {
        let [result] = node.results.as_slice() else {
            if node.results.iter().any(|r| adjoints.contains_key(r)) {
                return Err(underivable(&node));
            }
            continue;
        };
        let Some(&g) = adjoints.get(result) else { continue };
        for (i, &operand) in node.operands.iter().enumerate().filter(|(_, v)| active.contains(v)) {
            let part = derive(cx, &node, *result, i, g)?;
            let sum = match adjoints.get(&operand) {
                Some(&sum) => cx.b.ew("add", &[sum, part])?,
                None => part,
            };
            adjoints.insert(operand, sum);
        }
    }
    Ok(adjoints)
}

fn underivable(node: &Node) -> OpError {
    OpError::unsupported(format!("the derivative of `{}`", node.op.mnemonic()))
}

/// What the derivative `g` by a node's result contributes to that by operand `i`.
fn derive(cx: &mut Cx<'_, '_, '_>, node: &Node, result: Value, i: usize, g: Value) -> Result<Value, OpError> {
    let Some(&x) = node.operands.get(i) else { return Err(underivable(node)) };
    match &node.op {
        Op::Elementwise(e) => {
            let g = pointwise(cx, e.kind.row().name, node, result, i, g)?;
            sum_to(cx, g, x)
        }
        Op::Cast(_) => {
            let dtype = cx.dtype(x)?;
            if !dtype.is_float() || !cx.dtype(result)?.is_float() {
                return Err(underivable(node));
            }
            Ok(cx.b.cast(g, dtype)?)
        }
        Op::Movement(Movement::Reshape { .. }) => {
            let dims = cx.shape(x)?;
            Ok(cx.b.reshape(g, &dims)?)
        }
        Op::Movement(Movement::Broadcast { .. }) => sum_to(cx, g, x),
        Op::Movement(Movement::Transpose { perm }) => {
            let back: Option<Vec<usize>> =
                (0..perm.len()).map(|axis| perm.iter().position(|&p| p == axis)).collect();
            Ok(cx.b.transpose(g, &back.ok_or_else(|| underivable(node))?)?)
        }
        Op::Reduce(Reduce::Axes { kind, axes, .. }) => {
            let dims = cx.shape(x)?;
            let kept = |(axis, d): (usize, &kiln_ir::Dim)| {
                if axes.contains(&axis) { kiln_ir::Dim::known(1) } else { d.clone() }
            };
            let column: Vec<_> = dims.iter().enumerate().map(kept).collect();
            let g = cx.b.reshape(g, &column)?;
            let g = cx.b.broadcast(g, &dims)?;
            match kind {
                ReduceKind::Sum => Ok(g),
                ReduceKind::Mean => {
                    let one = like(cx, x, 1.0)?;
                    let count = cx.b.reduce(ReduceKind::Sum, one, axes, true)?;
                    Ok(cx.b.ew("div", &[g, count])?)
                }
                _ => Err(underivable(node)),
            }
        }
        Op::Contract(Contract::Einsum { spec, out }) => {
            let &[a, b] = node.operands.as_slice() else { return Err(underivable(node)) };
            // The product of the result's derivative with the other factor, summed over what the operand lacks.
            let (other, labels, target) =
                if i == 0 { (b, &spec.rhs, &spec.lhs) } else { (a, &spec.lhs, &spec.rhs) };
            let spec = ContractSpec { lhs: spec.out.clone(), rhs: labels.clone(), out: target.clone() };
            Ok(cx.b.add1(Contract::Einsum { spec, out: *out }, &[g, other])?)
        }
        _ => Err(underivable(node)),
    }
}

/// Sums over the axes along which `x` was repeated.
fn sum_to(cx: &mut Cx<'_, '_, '_>, g: Value, x: Value) -> Result<Value, OpError> {
    let (from, to) = (cx.shape(g)?, cx.shape(x)?);
    if from == to {
        return Ok(g);
    }
    let leading = from.len().saturating_sub(to.len());
    let mut axes: Vec<usize> = (0..leading).collect();
    for (axis, (d, t)) in from.iter().skip(leading).zip(&to).enumerate() {
        match (d == t, t.as_known()) {
            (true, _) => {}
            (false, Some(1)) => axes.push(leading + axis),
            (false, _) => {
                return Err(OpError::unsupported("a derivative where sizes are not known to agree"));
            }
        }
    }
    let sum = cx.b.reduce(ReduceKind::Sum, g, &axes, true)?;
    Ok(cx.b.reshape(sum, &to)?)
}

/// `g` times the derivative of a pointwise operator by operand `i`.
fn pointwise(
    cx: &mut Cx<'_, '_, '_>,
    name: &str,
    node: &Node,
    y: Value,
    i: usize,
    g: Value,
) -> Result<Value, OpError> {
    let operand = |i: usize| node.operands.get(i).copied().ok_or_else(|| underivable(node));
    let x = operand(0)?;
    let b = &mut *cx.b;
    let dtype = b.dtype(x)?;
    Ok(match (name, i) {
        ("add", _) | ("sub", 0) => g,
        ("sub", _) | ("neg", _) => b.ew("neg", &[g])?,
        ("mul", _) => b.ew("mul", &[g, operand(1 - i)?])?,
        ("div", 0) => b.ew("div", &[g, operand(1)?])?,
        ("div", _) => {
            let scaled = b.ew("mul", &[g, y])?;
            let scaled = b.ew("div", &[scaled, operand(1)?])?;
            b.ew("neg", &[scaled])?
        }
        ("square", _) => {
            let double = b.ew("add", &[x, x])?;
            b.ew("mul", &[g, double])?
        }
        ("pow", 0) => {
            let (power, one) = (operand(1)?, b.scalar(dtype, 1.0)?);
            let less = b.ew("sub", &[power, one])?;
            let slope = b.ew("pow", &[x, less])?;
            let slope = b.ew("mul", &[slope, power])?;
            b.ew("mul", &[g, slope])?
        }
        ("exp", _) => b.ew("mul", &[g, y])?,
        ("log", _) => b.ew("div", &[g, x])?,
        ("sqrt", _) => {
            let double = b.ew("add", &[y, y])?;
            b.ew("div", &[g, double])?
        }
        ("sin", _) => {
            let slope = b.ew("cos", &[x])?;
            b.ew("mul", &[g, slope])?
        }
        ("cos", _) => {
            let slope = b.ew("sin", &[x])?;
            let slope = b.ew("neg", &[slope])?;
            b.ew("mul", &[g, slope])?
        }
        ("tanh", _) => {
            let (one, square) = (b.scalar(dtype, 1.0)?, b.ew("square", &[y])?);
            let slope = b.ew("sub", &[one, square])?;
            b.ew("mul", &[g, slope])?
        }
        ("sigmoid", _) => {
            let one = b.scalar(dtype, 1.0)?;
            let rest = b.ew("sub", &[one, y])?;
            let slope = b.ew("mul", &[y, rest])?;
            b.ew("mul", &[g, slope])?
        }
        ("relu", _) => {
            let zero = b.scalar(dtype, 0.0)?;
            let open = b.ew("gt", &[x, zero])?;
            b.ew("where", &[open, g, zero])?
        }
        _ => return Err(underivable(node)),
    })
}
