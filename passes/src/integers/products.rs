//! Contractions and convolutions of dequantized operands.

use kiln_ir::op::{Contract, Conv, Layout};
use kiln_ir::{Build, DType, Dim, Edit, NodeId, Op, Patch, Tensor, Value};

use super::Dequantized;
use super::constants::{centred, require_sums};
use crate::rewrite::{Cx, Refusal, Rule, matches, require};

/// A contraction of dequantized values with dequantized constants contracts the integers.
pub(super) const CONTRACTION: Rule = Rule { name: "integer-contraction", apply: contraction };

fn contraction(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    let Op::Contract(Contract::Einsum { spec, out }) = &node.op else { return Err(Refusal::NoMatch) };
    let &[a, b] = &node.operands[..] else { return Err(Refusal::NoMatch) };
    let (left, right) = (Dequantized::of(cx, a), Dequantized::of(cx, b));
    matches(left.is_some() || right.is_some())?;
    let (Some(left), Some(right)) = (left, right) else {
        return Err(Refusal::because("one operand is in floats"));
    };
    require(*out == DType::F32, format!("results are {out}"))?;
    let slot = usize::from(cx.constant(right.x).is_some());
    let (x, w) = if slot == 1 { (left, right) } else { (right, left) };
    let weights = cx.constant(w.x).ok_or_else(|| Refusal::because("neither operand is constant"))?;
    require(x.axis.is_none(), "the values have a scale for each index of an axis")?;
    let (x_labels, w_labels) = if slot == 1 { (&spec.lhs, &spec.rhs) } else { (&spec.rhs, &spec.lhs) };
    let channel = match w.axis {
        Some(axis) => {
            let label = w_labels.get(axis).ok_or(Refusal::NoMatch)?;
            let at = spec.out.iter().position(|l| l == label).filter(|_| !x_labels.contains(label));
            Some(at.ok_or_else(|| Refusal::because("the scales are not those of columns"))?)
        }
        None => None,
    };
    let summed = w_labels.iter().zip(weights.dims()).filter(|(l, _)| !spec.out.contains(l));
    require_sums(summed.fold(1i64, |n, (_, &d)| n.saturating_mul(i64::try_from(d).unwrap_or(i64::MAX))))?;
    let scale_dims = channel.map(|at| per_channel(cx, &w, spec.out.len(), at)).transpose()?;
    let op = Op::Contract(Contract::Einsum { spec: spec.clone(), out: DType::I32 });
    cx.rewrite(id, |p| {
        let (xi, wi) = (centred_values(p, &x)?, centred_weights(cx, p, &w, weights)?);
        let operands = if slot == 1 { [xi, wi] } else { [wi, xi] };
        let sums = p.add1(op, &operands)?;
        scaled(p, sums, &x, &w, scale_dims.as_deref())
    })
}

/// A convolution of dequantized values with dequantized constants convolves the integers.
pub(super) const CONVOLUTION: Rule = Rule { name: "integer-convolution", apply: convolution };

fn convolution(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    let Op::Conv(conv) = &node.op else { return Err(Refusal::NoMatch) };
    let &[a, b] = &node.operands[..] else { return Err(Refusal::NoMatch) };
    let (x, w) = (Dequantized::of(cx, a), Dequantized::of(cx, b));
    matches(x.is_some() || w.is_some())?;
    let (Some(x), Some(w)) = (x, w) else { return Err(Refusal::because("one operand is in floats")) };
    let Conv::Forward { strides, dilations, pads, groups, layout, out } = conv else {
        return Err(Refusal::because("transposed convolutions run in floats"));
    };
    require(*out == DType::F32, format!("results are {out}"))?;
    let weights = cx.constant(w.x).ok_or_else(|| Refusal::because("the weights are not constant"))?;
    require(x.axis.is_none(), "the values have a scale for each index of an axis")?;
    require(w.axis.is_none_or(|a| a == 0), "the scales of the weights are not those of output channels")?;
    require_sums(
        weights
            .dims()
            .iter()
            .skip(1)
            .fold(1i64, |n, &d| n.saturating_mul(i64::try_from(d).unwrap_or(i64::MAX))),
    )?;
    let rank = cx.shape(node.results[0])?.len();
    let channel = match layout {
        Layout::ChannelsFirst => 1,
        Layout::ChannelsLast => rank.saturating_sub(1),
    };
    let scale_dims = w.axis.map(|_| per_channel(cx, &w, rank, channel)).transpose()?;
    let op = Conv::Forward {
        strides: strides.clone(),
        dilations: dilations.clone(),
        pads: pads.clone(),
        groups: *groups,
        layout: *layout,
        out: DType::I32,
    };
    cx.rewrite(id, |p| {
        let (xi, wi) = (centred_values(p, &x)?, centred_weights(cx, p, &w, weights)?);
        let sums = p.add1(Op::Conv(op), &[xi, wi])?;
        scaled(p, sums, &x, &w, scale_dims.as_deref())
    })
}

/// The shape of scales along axis `at` of a result of `rank`.
fn per_channel(cx: &Cx<'_>, w: &Dequantized, rank: usize, at: usize) -> Result<Vec<Dim>, Refusal> {
    let count = cx.shape(w.scale)?.first().cloned().ok_or(Refusal::NoMatch)?;
    let after = rank.checked_sub(at + 1).ok_or(Refusal::NoMatch)?;
    Ok(std::iter::once(count).chain(std::iter::repeat_n(Dim::known(1), after)).collect())
}

/// The integers as i32, less their zero point.
fn centred_values(p: &mut Patch<'_>, x: &Dequantized) -> Result<Value, Refusal> {
    let wide = p.cast(x.x, DType::I32)?;
    if is_zero(p, x.zero) {
        return Ok(wide);
    }
    let zero = p.reshape(x.zero, &[])?;
    let zero = p.cast(zero, DType::I32)?;
    Ok(p.ew("sub", &[wide, zero])?)
}

fn is_zero(p: &Patch<'_>, v: Value) -> bool {
    let constant = p.known(v).and_then(|k| k.tensor());
    constant.and_then(Tensor::to_ints).is_some_and(|all| all.iter().all(|&z| z == 0))
}

/// Weights as i32: the cast of a constant of 8 bits, from which a zero point is taken where the difference fits these.
fn centred_weights(
    cx: &Cx<'_>,
    p: &mut Patch<'_>,
    w: &Dequantized,
    weights: &Tensor,
) -> Result<Value, Refusal> {
    if is_zero(p, w.zero) {
        return Ok(p.cast(w.x, DType::I32)?);
    }
    let zero = cx
        .constant(w.zero)
        .ok_or_else(|| Refusal::because("the zero point of the weights is not constant"))?;
    let along = match w.axis {
        Some(axis) => {
            let mut dims = vec![1; weights.dims().len()];
            *dims.get_mut(axis).ok_or(Refusal::NoMatch)? = zero.numel();
            zero.reshaped(&dims)
        }
        None => zero.reshaped(&[]),
    };
    let along = along.map_err(|e| Refusal::because(e.to_string()))?;
    match centred(weights, &along) {
        Ok(narrow) => {
            let narrow = p.constant(narrow)?;
            Ok(p.cast(narrow, DType::I32)?)
        }
        Err(reason) if w.axis.is_some() => Err(reason),
        Err(_) => centred_values(p, w),
    }
}

/// Integer sums as numbers: times the product of both scales.
fn scaled(
    p: &mut Patch<'_>,
    sums: Value,
    x: &Dequantized,
    w: &Dequantized,
    channels: Option<&[Dim]>,
) -> Result<Value, Refusal> {
    let real = p.cast(sums, DType::F32)?;
    let x_scale = p.reshape(x.scale, &[])?;
    let x_scale = p.cast(x_scale, DType::F32)?;
    let w_scale = p.reshape(w.scale, channels.unwrap_or(&[]))?;
    let w_scale = p.cast(w_scale, DType::F32)?;
    let scale = p.ew("mul", &[x_scale, w_scale])?;
    Ok(p.ew("mul", &[real, scale])?)
}
