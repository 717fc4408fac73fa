//! Constants of 8 bits stay in 8 bits.

use kiln_ir::op::{Cast, Contract, Conv, Movement, Quant};
use kiln_ir::{Build, DType, Edit, Node, NodeId, Op, Tensor, Value};

use super::{is_byte, widened};
use crate::fold;
use crate::rewrite::{Cx, Refusal, Rule, matches, require};

/// Whether a node is the widening of a constant of 8 bits that products in i32 read: it stays as it is, since the kernel
/// reads the bytes, and the widened constant would take four times the memory.
pub(crate) fn stays_narrow(cx: &Cx<'_>, node: &Node) -> bool {
    let Op::Cast(Cast { to: DType::I32, .. }) = node.op else { return false };
    let narrow = node.operands.first().is_some_and(|&v| cx.dtype(v).is_some_and(is_byte));
    narrow && node.results.iter().any(|&r| feeds_product(cx, r))
}

/// Whether a product in i32 takes a value, or its difference to something.
fn feeds_product(cx: &Cx<'_>, v: Value) -> bool {
    cx.uses.users(v).iter().any(|&u| {
        let user = cx.node(u);
        is_integer_product(&user.op)
            || (user.op == Op::ew("sub")
                && user.operands.first() == Some(&v)
                && user
                    .results
                    .iter()
                    .any(|&r| cx.uses.users(r).iter().any(|&u| is_integer_product(&cx.node(u).op))))
    })
}

/// Whether an operator is a contraction or convolution with results in i32.
pub(super) fn is_integer_product(op: &Op) -> bool {
    match op {
        Op::Contract(Contract::Einsum { out, .. }) | Op::Conv(Conv::Forward { out, .. }) => {
            *out == DType::I32
        }
        _ => false,
    }
}

/// Quantization of a constant to 8 bits is a constant: weights that a file quantizes when it runs.
pub(super) const QUANTIZED_CONSTANT: Rule = Rule { name: "quantized-constant", apply: quantized_constant };

fn quantized_constant(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    let Op::Quant(Quant::Quantize { to, .. }) = &node.op else { return Err(Refusal::NoMatch) };
    matches(is_byte(*to) && node.operands.iter().all(|&v| cx.constant(v).is_some()))?;
    fold::fold(cx, id)
}

/// A movement of a constant of 8 bits is a constant.
pub(super) const MOVED_CONSTANT: Rule = Rule { name: "moved-constant", apply: moved_constant };

fn moved_constant(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    matches(matches!(
        node.op,
        Op::Movement(Movement::Reshape { .. } | Movement::Transpose { .. } | Movement::Slice { .. })
    ))?;
    let x = node.operands[0];
    if cx.dtype(x).is_some_and(is_byte) && cx.constant(x).is_some() {
        return fold::fold(cx, id);
    }
    // A movement of the widened constant is the widening of the moved one.
    let Some((_, cast)) = cx.def(x) else { return Err(Refusal::NoMatch) };
    matches(stays_narrow_elsewhere(cx, cast, id))?;
    cx.rewrite(id, |p| {
        let moved = p.add1(node.op.clone(), &[cast.operands[0]])?;
        Ok(p.cast(moved, DType::I32)?)
    })
}

/// Whether a node widens a constant of 8 bits to i32, and a product in i32 takes the result of node `id`.
fn stays_narrow_elsewhere(cx: &Cx<'_>, cast: &Node, id: NodeId) -> bool {
    let Op::Cast(Cast { to: DType::I32, .. }) = cast.op else { return false };
    let narrow = |&v: &Value| cx.constant(v).is_some_and(|t| is_byte(t.dtype()));
    cast.operands.first().is_some_and(narrow) && cx.node(id).results.iter().any(|&r| feeds_product(cx, r))
}

/// Constant weights less a constant zero point are other weights, where these fit 8 bits.
pub(super) const CENTRED_CONSTANT: Rule = Rule { name: "centred-constant", apply: centred_constant };

fn centred_constant(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    matches(node.op == Op::ew("sub") && node.results.iter().any(|&r| feeds_product(cx, r)))?;
    let &[wide, zero] = &node.operands[..] else { return Err(Refusal::NoMatch) };
    let weights = widened(cx, wide).and_then(|v| cx.constant(v)).ok_or(Refusal::NoMatch)?;
    let zero =
        widened(cx, zero).and_then(|v| cx.constant(v)).or(cx.constant(zero)).ok_or(Refusal::NoMatch)?;
    let centred = centred(weights, zero)?;
    cx.rewrite(id, |p| {
        let centred = p.constant(centred)?;
        Ok(p.cast(centred, DType::I32)?)
    })
}

/// `weights - zero` in 8 bits; the zero point has one element, or one for each index of an axis and size 1 on the others.
pub(super) fn centred(weights: &Tensor, zero: &Tensor) -> Result<Tensor, Refusal> {
    let zeros = zero.to_ints().ok_or(Refusal::NoMatch)?;
    if zeros.iter().all(|&z| z == 0) {
        return Ok(weights.clone());
    }
    let dims = weights.dims();
    let lead = dims.len().checked_sub(zero.dims().len()).ok_or(Refusal::NoMatch)?;
    let axis = zero.dims().iter().position(|&d| d != 1).map(|a| a + lead);
    if let Some(axis) = axis {
        matches(dims.get(axis) == Some(&zeros.len()))?;
    }
    let inner: usize = axis.map_or(1, |axis| dims.iter().skip(axis + 1).product());
    let at = |i: usize| if axis.is_some() { i / inner.max(1) % zeros.len().max(1) } else { 0 };
    let values: Vec<i16> = match (weights.as_slice::<i8>(), weights.as_slice::<u8>()) {
        (Some(all), _) => all.iter().map(|&v| i16::from(v)).collect(),
        (None, Some(all)) => all.iter().map(|&v| i16::from(v)).collect(),
        (None, None) => return Err(Refusal::NoMatch),
    };
    let zeros: Option<Vec<i16>> = zeros.iter().map(|&z| i16::try_from(z).ok()).collect();
    let zeros = zeros.ok_or(Refusal::NoMatch)?;
    let zero_of = |i: usize| zeros.get(at(i)).copied().unwrap_or(0);
    let differences: Vec<i16> =
        values.iter().enumerate().map(|(i, v)| v.saturating_sub(zero_of(i))).collect();
    let signed: Option<Vec<i8>> = differences.iter().map(|&d| i8::try_from(d).ok()).collect();
    let tensor = match signed {
        Some(all) => Tensor::from_slice(dims, &all),
        None => {
            let bytes: Option<Vec<u8>> = differences.iter().map(|&d| u8::try_from(d).ok()).collect();
            let why = "weights less their zero point exceed 8 bits";
            Tensor::from_slice(dims, &bytes.ok_or_else(|| Refusal::because(why))?)
        }
    };
    tensor.map_err(|e| Refusal::because(e.to_string()))
}

/// Refuses sums of `depth` products that could exceed 31 bits.
pub(super) fn require_sums(depth: i64) -> Result<(), Refusal> {
    // Differences to a zero point are below 256.
    const LARGEST: i64 = 255 * 255;
    require(
        depth.checked_mul(LARGEST).is_some_and(|sum| sum <= i64::from(i32::MAX)),
        format!("sums of {depth} products could exceed 32 bits"),
    )
}
