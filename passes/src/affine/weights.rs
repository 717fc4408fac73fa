//! Scales after convolutions and contractions with constant weights.

use kiln_ir::op::{Contract, Conv, Layout};
use kiln_ir::{Build, DType, Edit, NodeId, Op, Scalar, Tensor, Value};

use crate::rewrite::{Cx, Refusal, Rule, matches, require};

/// The two operands of an elementwise node of that row in both orders.
fn either_order(cx: &Cx<'_>, id: NodeId, row: &str) -> Result<[(Value, Value); 2], Refusal> {
    let node = cx.node(id);
    matches(node.op == Op::ew(row))?;
    match node.operands[..] {
        [a, b] => Ok([(a, b), (b, a)]),
        _ => Err(Refusal::NoMatch),
    }
}

/// Whether a value is the result of a convolution or contraction with a constant operand.
fn has_weights(cx: &Cx<'_>, v: Value) -> bool {
    cx.def(v).is_some_and(|(_, n)| {
        matches!(n.op, Op::Conv(_) | Op::Contract(_)) && n.operands.iter().any(|&o| cx.constant(o).is_some())
    })
}

/// `(y + b) * c` becomes `y * c + b * c` where `y` has constant weights that can take `c`.
pub(super) const SCALE_OF_SUM: Rule = Rule { name: "scale-of-sum", apply: scale_of_sum };

fn scale_of_sum(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    for (sum, c) in either_order(cx, id, "mul")? {
        let (Some(_), Some((sum_id, _))) = (cx.constant(c), cx.def(sum)) else { continue };
        let Ok(terms) = either_order(cx, sum_id, "add") else { continue };
        for (y, b) in terms {
            if cx.constant(b).is_none() || !has_weights(cx, y) {
                continue;
            }
            require(cx.uses.count(sum) == 1 && cx.uses.count(y) == 1, "the sum is used elsewhere")?;
            weight_factors(cx, y, c)?;
            return cx.rewrite(id, |p| {
                let scaled = p.ew("mul", &[y, c])?;
                let shift = p.ew("mul", &[b, c])?;
                Ok(p.ew("add", &[scaled, shift])?)
            });
        }
    }
    Err(Refusal::NoMatch)
}

/// `(y + b) + c` becomes `y + (b + c)` where `y` has constant weights.
pub(super) const SHIFT_CHAIN: Rule = Rule { name: "shift-chain", apply: shift_chain };

fn shift_chain(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    for (sum, c) in either_order(cx, id, "add")? {
        let (Some(_), Some((sum_id, _))) = (cx.constant(c), cx.def(sum)) else { continue };
        let Ok(terms) = either_order(cx, sum_id, "add") else { continue };
        for (y, b) in terms {
            if cx.constant(b).is_none() || !has_weights(cx, y) {
                continue;
            }
            require(cx.uses.count(sum) == 1, "the inner sum is used elsewhere")?;
            return cx.rewrite(id, |p| {
                let shift = p.ew("add", &[b, c])?;
                Ok(p.ew("add", &[y, shift])?)
            });
        }
    }
    Err(Refusal::NoMatch)
}

/// A product of a convolution or contraction with a constant per channel goes into its constant weights.
pub(super) const SCALE_OF_WEIGHTS: Rule = Rule { name: "scale-of-weights", apply: scale_of_weights };

fn scale_of_weights(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    for (y, c) in either_order(cx, id, "mul")? {
        if cx.constant(c).is_none() || !has_weights(cx, y) {
            continue;
        }
        require(cx.uses.count(y) == 1, "the unscaled result is used elsewhere")?;
        let (slot, factors) = weight_factors(cx, y, c)?;
        let Some((_, node)) = cx.def(y) else { continue };
        let weights = cx.constant(node.operands[slot]).ok_or(Refusal::NoMatch)?;
        let scaled = scale(weights, &factors)?;
        return cx.rewrite(id, |p| {
            let mut operands = node.operands.clone();
            operands[slot] = p.constant(scaled)?;
            Ok(p.add1(node.op.clone(), &operands)?)
        });
    }
    Err(Refusal::NoMatch)
}

/// Factors of weights: one for each index of one axis of the weights, or one for all.
struct Factors {
    axis: usize,
    /// Factor `i` belongs to index `i` of the axis, within each of `outer` equal parts of the weights' first axis.
    values: Vec<f64>,
    /// Parts of axis 0 that have their own run of factors (groups of a transposed convolution).
    parts: usize,
}

/// Which operand of the node that makes `y` takes the constant factor `c` of the result, and how.
fn weight_factors(cx: &Cx<'_>, y: Value, c: Value) -> Result<(usize, Factors), Refusal> {
    let Some((_, node)) = cx.def(y) else { return Err(Refusal::NoMatch) };
    let factor = cx.constant(c).ok_or(Refusal::NoMatch)?;
    let dims = cx.shape(y)?;
    // The only axis of the result along which the factor varies.
    let lead = dims
        .len()
        .checked_sub(factor.dims().len())
        .ok_or_else(|| Refusal::because("the factor broadcasts"))?;
    let mut varying = factor.dims().iter().enumerate().filter(|(_, d)| **d != 1).map(|(i, _)| i + lead);
    let axis = varying.next();
    require(varying.next().is_none(), "the factor varies along several axes")?;
    let values = factor.to_f64s().ok_or(Refusal::NoMatch)?;
    let dtype = cx.dtype(y).ok_or(Refusal::NoMatch)?;
    require(dtype.is_float(), "integer products wrap")?;
    match &node.op {
        Op::Conv(Conv::Forward { layout, .. }) => {
            require(
                axis.is_none_or(|a| a == channel_axis(*layout, dims.len())),
                "the factor is not per channel",
            )?;
            constant_at(cx, &node.operands, 1)?;
            Ok((1, Factors { axis: 0, values, parts: 1 }))
        }
        Op::Conv(Conv::Transposed { layout, groups, .. }) => {
            require(
                axis.is_none_or(|a| a == channel_axis(*layout, dims.len())),
                "the factor is not per channel",
            )?;
            constant_at(cx, &node.operands, 1)?;
            let parts = usize::try_from(*groups).map_err(|_| Refusal::NoMatch)?;
            Ok((1, Factors { axis: 1, values, parts }))
        }
        Op::Contract(Contract::Einsum { spec, .. }) => {
            let slots = [(1, &spec.rhs), (0, &spec.lhs)];
            for (slot, labels) in slots {
                if constant_at(cx, &node.operands, slot).is_err() {
                    continue;
                }
                let Some(axis) = axis else { return Ok((slot, Factors { axis: 0, values, parts: 1 })) };
                let label = spec.out.get(axis).ok_or(Refusal::NoMatch)?;
                if let Some(at) = labels.iter().position(|l| l == label) {
                    return Ok((slot, Factors { axis: at, values, parts: 1 }));
                }
            }
            Err(Refusal::because("the factor varies along an axis that the weights lack"))
        }
        _ => Err(Refusal::NoMatch),
    }
}

fn constant_at(cx: &Cx<'_>, operands: &[Value], slot: usize) -> Result<(), Refusal> {
    let constant = operands.get(slot).is_some_and(|&v| cx.constant(v).is_some());
    require(constant, "the weights are not constant")
}

fn channel_axis(layout: Layout, rank: usize) -> usize {
    match layout {
        Layout::ChannelsFirst => 1,
        Layout::ChannelsLast => rank.saturating_sub(1),
    }
}

/// The weights times the factors.
fn scale(weights: &Tensor, factors: &Factors) -> Result<Tensor, Refusal> {
    let dims = weights.dims();
    let inner: usize = dims.iter().skip(factors.axis + 1).product();
    let extent = dims.get(factors.axis).copied().unwrap_or(1);
    let part_rows = dims.first().copied().unwrap_or(1) / factors.parts.max(1);
    let per_row: usize = dims.iter().skip(1).product();
    let uniform = factors.values.len() == 1;
    require(uniform || factors.values.len() == extent * factors.parts, "the factor has another extent")?;
    let factor = |i: usize| {
        if uniform {
            return factors.values[0];
        }
        let at = i / inner.max(1) % extent.max(1);
        let part = if factors.parts == 1 { 0 } else { i / per_row.max(1) / part_rows.max(1) };
        factors.values.get(part * extent + at).copied().unwrap_or(1.0)
    };
    let scaled = match (weights.dtype(), weights.as_slice::<f32>()) {
        (DType::F32, Some(values)) => {
            let new: Vec<f32> =
                values.iter().enumerate().map(|(i, &w)| (f64::from(w) * factor(i)) as f32).collect();
            Tensor::from_slice(dims, &new)
        }
        (dtype, _) => {
            let values = weights.to_f64s().ok_or(Refusal::NoMatch)?;
            let new: Vec<Scalar> =
                values.iter().enumerate().map(|(i, &w)| Scalar::F(w * factor(i))).collect();
            Tensor::from_scalars(dtype, dims, &new)
        }
    };
    scaled.map_err(|e| Refusal::because(e.to_string()))
}
