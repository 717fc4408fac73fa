//! What moves or compares quantized values works on their bytes: dequantization goes below it where a quantization or an
//! integer product follows.

use kiln_ir::op::{Contract, Conv, Index, Movement, PadMode, Quant, Window, WindowKind};
use kiln_ir::{Build, DType, Edit, NodeId, Op, Value};

use super::{Dequantized, same};
use crate::rewrite::{Cx, Refusal, Rule, matches, require};

/// How far down a quantization or product is looked for.
const DEPTH: usize = 8;

/// Quantizing what was dequantized with the same scale and zero point gives the integers back.
pub(super) const ROUND_TRIP: Rule = Rule { name: "round-trip", apply: round_trip };

fn round_trip(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    let Op::Quant(Quant::Quantize { to, axis, block: 0, inverse, .. }) = node.op else {
        return Err(Refusal::NoMatch);
    };
    let &[v, scale, zero] = &node.operands[..] else { return Err(Refusal::NoMatch) };
    let inner = Dequantized::of(cx, v).ok_or(Refusal::NoMatch)?;
    matches(cx.dtype(inner.x) == Some(to))?;
    let single =
        inner.axis.is_none() && cx.dims(scale).is_some_and(|d| d.iter().all(|d| d.as_known() == Some(1)));
    let scales = if inverse { inverse_of(cx, scale, inner.scale) } else { same(cx, scale, inner.scale) };
    let equal = scales && same(cx, zero, inner.zero) && (single || axis == inner.axis);
    require(equal, "the values are quantized anew with other parameters")?;
    cx.rewrite(id, |_| Ok(inner.x))
}

/// Whether constants are the inverses of others.
fn inverse_of(cx: &Cx<'_>, inverses: Value, scales: Value) -> bool {
    let values = |v: Value| cx.constant(v).filter(|t| t.dtype() == DType::F32)?.to_vec::<f32>().ok();
    let (Some(inverses), Some(scales)) = (values(inverses), values(scales)) else { return false };
    inverses.len() == scales.len()
        && inverses.iter().zip(&scales).all(|(inverse, scale)| *inverse == 1.0 / scale)
}

/// Whether bytes are wanted in place of the value: something that uses it, or a movement, pool or ReLU of it, quantizes it
/// or multiplies it with quantized weights.
fn wanted_as_bytes(cx: &Cx<'_>, v: Value, depth: usize) -> bool {
    let Some(depth) = depth.checked_sub(1) else { return false };
    cx.uses.users(v).iter().any(|&u| {
        let user = cx.node(u);
        let below = || user.results.iter().any(|&r| wanted_as_bytes(cx, r, depth));
        match &user.op {
            Op::Quant(Quant::Quantize { .. }) => user.operands.first() == Some(&v),
            Op::Contract(Contract::Einsum { .. }) | Op::Conv(Conv::Forward { .. }) => {
                user.operands.iter().any(|&o| o != v && has_byte_weights(cx, o))
            }
            Op::Movement(_) | Op::Window(Window::Pool { kind: WindowKind::Max, .. }) => below(),
            Op::Elementwise(_) => user.op == Op::ew("relu") && below(),
            _ => false,
        }
    })
}

/// Whether a value is dequantized from a constant, moved or not.
fn has_byte_weights(cx: &Cx<'_>, v: Value) -> bool {
    match cx.movement(v) {
        Some((_, node)) => node.operands.first().is_some_and(|&o| has_byte_weights(cx, o)),
        None => Dequantized::of(cx, v).is_some_and(|d| cx.constant(d.x).is_some()),
    }
}

/// What a node takes, dequantized with one scale for all, if bytes are wanted of what it makes.
fn source(cx: &Cx<'_>, id: NodeId) -> Result<Dequantized, Refusal> {
    let node = cx.node(id);
    let v = *node.operands.first().ok_or(Refusal::NoMatch)?;
    let from = Dequantized::of(cx, v).ok_or(Refusal::NoMatch)?;
    let constant = cx.constant(from.x).is_some();
    let wanted = constant || node.results.iter().any(|&r| wanted_as_bytes(cx, r, DEPTH));
    require(wanted, "nothing takes the bytes")?;
    Ok(from)
}

/// A movement of dequantized values dequantizes moved bytes.
pub(super) const BELOW_MOVEMENT: Rule = Rule { name: "below-movement", apply: below_movement };

fn below_movement(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    let Op::Movement(movement) = &node.op else { return Err(Refusal::NoMatch) };
    matches(!matches!(movement, Movement::Concat { .. }))?;
    let mut from = source(cx, id)?;
    let fill = padding(cx, id, &from)?;
    if let Some(axis) = from.axis {
        let Movement::Transpose { perm } = movement else {
            return Err(Refusal::because("there is a scale for each index of an axis"));
        };
        from.axis = Some(perm.iter().position(|&a| a == axis).ok_or(Refusal::NoMatch)?);
    }
    cx.rewrite(id, |p| {
        let operands = match fill {
            Some(zero) => vec![from.x, p.reshape(zero, &[])?],
            None => vec![from.x],
        };
        let moved = p.add1(node.op.clone(), &operands)?;
        Ok(p.add1(from.op(), &[moved, from.scale, from.zero])?)
    })
}

/// What pads bytes where the movement pads numbers with 0; nothing for another movement.
fn padding(cx: &Cx<'_>, id: NodeId, from: &Dequantized) -> Result<Option<Value>, Refusal> {
    let node = cx.node(id);
    let Op::Movement(Movement::Pad { mode, .. }) = &node.op else { return Ok(None) };
    let fill = *node.operands.get(1).ok_or(Refusal::NoMatch)?;
    require(*mode != PadMode::Constant || cx.splat(fill) == Some(0.0), "padding is not 0")?;
    Ok(Some(from.zero))
}

/// Rows of a dequantized constant are dequantized rows of its bytes: the rest of the table stays as it is.
pub(super) const BELOW_GATHER: Rule = Rule { name: "below-gather", apply: below_gather };

fn below_gather(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    let (Op::Index(Index::Gather { .. }), &[table, indices]) = (&node.op, &node.operands[..]) else {
        return Err(Refusal::NoMatch);
    };
    let from = Dequantized::of(cx, table).ok_or(Refusal::NoMatch)?;
    matches(cx.constant(from.x).is_some())?;
    require(from.axis.is_none(), "there is a scale for each index of an axis")?;
    cx.rewrite(id, |p| {
        let rows = p.add1(node.op.clone(), &[from.x, indices])?;
        Ok(p.add1(from.op(), &[rows, from.scale, from.zero])?)
    })
}

/// A concatenation of values that were dequantized alike dequantizes concatenated bytes.
pub(super) const BELOW_CONCAT: Rule = Rule { name: "below-concat", apply: below_concat };

fn below_concat(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    matches(matches!(node.op, Op::Movement(Movement::Concat { .. })))?;
    let first = source(cx, id)?;
    let all: Option<Vec<Dequantized>> = node.operands.iter().map(|&v| Dequantized::of(cx, v)).collect();
    let all = all.ok_or_else(|| Refusal::because("an operand is not dequantized"))?;
    let alike = |d: &Dequantized| {
        d.axis.is_none()
            && d.to == first.to
            && cx.dtype(d.x) == cx.dtype(first.x)
            && same(cx, d.scale, first.scale)
            && same(cx, d.zero, first.zero)
    };
    require(all.iter().all(alike), "operands have other scales or zero points")?;
    let bytes: Vec<Value> = all.iter().map(|d| d.x).collect();
    cx.rewrite(id, |p| {
        let joined = p.add1(node.op.clone(), &bytes)?;
        Ok(p.add1(first.op(), &[joined, first.scale, first.zero])?)
    })
}

/// Scales are positive, so the largest of dequantized values is the dequantized largest byte.
pub(super) const BELOW_POOL: Rule = Rule { name: "below-pool", apply: below_pool };

fn below_pool(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    matches(matches!(node.op, Op::Window(Window::Pool { kind: WindowKind::Max, .. })))?;
    let from = source(cx, id)?;
    require(from.axis.is_none() && has_positive_scale(cx, &from), "the scale is not known to be positive")?;
    cx.rewrite(id, |p| {
        let pooled = p.add1(node.op.clone(), &[from.x])?;
        Ok(p.add1(from.op(), &[pooled, from.scale, from.zero])?)
    })
}

fn has_positive_scale(cx: &Cx<'_>, from: &Dequantized) -> bool {
    cx.splat(from.scale).is_some_and(|s| s > 0.0)
}

/// ReLU of dequantized values is the larger of byte and zero point, dequantized.
pub(super) const BELOW_RELU: Rule = Rule { name: "below-relu", apply: below_relu };

fn below_relu(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    matches(node.op == Op::ew("relu"))?;
    let from = source(cx, id)?;
    require(from.axis.is_none() && has_positive_scale(cx, &from), "the scale is not known to be positive")?;
    let lowest = cx.dtype(from.x).and_then(|d| d.int_range()).map(|(low, _)| low as f64);
    cx.rewrite(id, |p| {
        let positive = match cx.splat(from.zero) == lowest {
            true => from.x,
            false => {
                let zero = p.reshape(from.zero, &[])?;
                p.ew("max", &[from.x, zero])?
            }
        };
        Ok(p.add1(from.op(), &[positive, from.scale, from.zero])?)
    })
}
