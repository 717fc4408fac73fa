//! Convolutions and pooling between transposes.

use kiln_ir::op::{Conv, Layout, Window};
use kiln_ir::{Build, Edit, NodeId, Op};

use super::{to_first, to_last};
use crate::rewrite::{Cx, Refusal, Rule};

/// A channels-first convolution is a channels-last one between transposes.
pub(super) const CONV: Rule = Rule { name: "conv-channels-last", apply: conv };

fn conv(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let Op::Conv(conv) = &cx.node(id).op else { return Err(Refusal::NoMatch) };
    let mut conv = conv.clone();
    let (Conv::Forward { layout, .. } | Conv::Transposed { layout, .. }) = &mut conv;
    between_transposes(cx, id, layout).map(|()| Op::Conv(conv)).and_then(|op| rewrite(cx, id, op))
}

/// Channels-first pooling is channels-last pooling between transposes.
pub(super) const POOL: Rule = Rule { name: "pool-channels-last", apply: pool };

fn pool(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let Op::Window(window) = &cx.node(id).op else { return Err(Refusal::NoMatch) };
    let mut window = window.clone();
    match &mut window {
        Window::Pool { layout, .. } => between_transposes(cx, id, layout)?,
        Window::MaxWithIndices { .. } => {
            return Err(Refusal::because("indices count channels-first elements"));
        }
    }
    rewrite(cx, id, Op::Window(window))
}

/// Sets the layout, if it is another and there are spatial axes.
fn between_transposes(cx: &Cx<'_>, id: NodeId, layout: &mut Layout) -> Result<(), Refusal> {
    let rank = cx.shape(cx.node(id).operands[0])?.len();
    if *layout == Layout::ChannelsLast || rank < 3 {
        return Err(Refusal::NoMatch);
    }
    *layout = Layout::ChannelsLast;
    Ok(())
}

fn rewrite(cx: &Cx<'_>, id: NodeId, op: Op) -> Result<Edit, Refusal> {
    let mut operands = cx.node(id).operands.clone();
    let rank = cx.shape(operands[0])?.len();
    cx.rewrite(id, |p| {
        operands[0] = p.transpose(operands[0], &to_last(rank))?;
        let y = p.add1(op, &operands)?;
        Ok(p.transpose(y, &to_first(rank))?)
    })
}
