//! Images of few channels, whose pixels kernels read as whole words.

use kiln_ir::op::{Conv, Layout, Movement, PadMode, Quant};
use kiln_ir::{Build, DType, Dim, Edit, NodeId, Op, Patch, Value};

use super::{is_byte, widened};
use crate::fold;
use crate::rewrite::{Cx, Refusal, Rule, matches, require};

/// Bytes that are multiplied at once.
const WORD: i64 = 4;

/// An image that is quantized for a convolution gets a channel of zeros where it has three, and the weights another. The
/// pixels are words then: lines of them are copied whole, and the convolution multiplies words anyway.
pub(super) const FOUR_CHANNELS: Rule = Rule { name: "four-channels", apply: four_channels };

fn four_channels(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    let Op::Conv(Conv::Forward { groups: 1, layout: Layout::ChannelsLast, out: DType::I32, .. }) = &node.op
    else {
        return Err(Refusal::NoMatch);
    };
    let &[wide, wide_weights] = &node.operands[..] else { return Err(Refusal::NoMatch) };
    let last = cx.shape(wide)?.len().checked_sub(1).ok_or(Refusal::NoMatch)?;
    matches(cx.shape(wide)?[last].as_known() == Some(WORD - 1))?;
    let weights = widened(cx, wide_weights).filter(|&v| cx.constant(v).is_some()).ok_or(Refusal::NoMatch)?;
    // The bytes, less a zero point or not.
    let (_, outer) = cx.def(wide).ok_or(Refusal::NoMatch)?;
    let (cast, zero) = match outer.operands[..] {
        [cast, zero] if outer.op == Op::ew("sub") => (cast, Some(zero)),
        _ => (wide, None),
    };
    let single = zero.is_none_or(|v| cx.dims(v).is_some_and(|d| d.iter().all(|d| d.as_known() == Some(1))));
    require(single, "the zero point has more than one element")?;
    let bytes = widened(cx, cast).ok_or(Refusal::NoMatch)?;
    matches(cx.shape(bytes)?.len() == last + 1)?;
    let (_, moved) = cx.def(bytes).ok_or(Refusal::NoMatch)?;
    let (quantized, channel) = match &moved.op {
        Op::Movement(Movement::Transpose { perm }) => (moved.operands[0], perm[last]),
        _ => (bytes, last),
    };
    let (_, quantize) = cx.def(quantized).ok_or(Refusal::NoMatch)?;
    matches(matches!(quantize.op, Op::Quant(Quant::Quantize { axis: None, block: 0, .. })))?;
    let alone = |v: Value| cx.uses.count(v) == 1 && !cx.uses.is_output(v);
    require(alone(bytes) && alone(quantized) && alone(cast), "the bytes are used elsewhere")?;
    cx.rewrite(id, |p| {
        let pad = |p: &mut Patch<'_>, v: Value, axis: usize| {
            let rank = p.rank(v)?;
            let dtype = p.dtype(v)?;
            let none = vec![Dim::known(0); rank];
            let mut after = none.clone();
            after[axis] = Dim::known(1);
            let fill = p.scalar(dtype, 0.0)?;
            p.add1(Movement::Pad { mode: PadMode::Constant, before: none, after }, &[v, fill])
        };
        // What is added is multiplied with weights of 0.
        let image = pad(p, quantize.operands[0], channel)?;
        let mut x = p.add1(quantize.op.clone(), &[image, quantize.operands[1], quantize.operands[2]])?;
        if let Op::Movement(_) = moved.op {
            x = p.add1(moved.op.clone(), &[x])?;
        }
        x = p.cast(x, DType::I32)?;
        if let Some(zero) = zero {
            x = p.ew("sub", &[x, zero])?;
        }
        let weights = pad(p, weights, 1)?;
        let weights = p.cast(weights, DType::I32)?;
        Ok(p.add1(node.op.clone(), &[x, weights])?)
    })
}

/// Weights that got a channel are constants.
pub(super) const PADDED_WEIGHTS: Rule = Rule { name: "padded-weights", apply: padded_weights };

fn padded_weights(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    matches(matches!(node.op, Op::Movement(Movement::Pad { .. })))?;
    matches(cx.constant(node.operands[0]).is_some_and(|t| is_byte(t.dtype())))?;
    fold::fold(cx, id)
}
