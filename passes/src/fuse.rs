//! Fusion: outlines every future kernel as a private graph that a `fusion` node calls.
//!
//! What code generation may rely on, for every graph called by `fusion`:
//! - it holds only elementwise operators, casts, index maps (broadcast, transpose, reshape that adds or drops axes of
//!   size 1, slice, pad, gather, iota), quantization, constants of one element, reductions, and at most one hero
//!   (contraction, convolution, pooling, concatenation), or two contractions;
//! - *loop*: without reduction and hero, all outputs have one shape;
//! - *row*: all reductions reduce the same axes of one shape, which are the last ones; every output has that shape
//!   or the reduced one;
//! - *reduce*: the one reduction is over other axes; every other node computes its operand or works on its result;
//! - *hero*: the hero's operands are inputs, for sums of i32 also bytes that are widened, less a zero point, for sums of
//!   f32 also constants that are dequantized or widened; the other nodes are elementwise on its result's shape (other
//!   operands broadcast to it), or add or drop axes of size 1 of it; there is one output;
//! - *attention*: two contractions, the second of which takes what rows along the last axis, of known length, make of
//!   the result of the first; elementwise operators and reshapes besides; there is one output;
//! - slices, pads and gathers read inputs, or other index maps of inputs;
//! - types have known rank and no strings, complex or packed dtypes, but for constants that are dequantized.
//!
//! Reshapes stay outside where they are views of a whole value; nodes without a kernel stay outside as they are.

mod attention;
mod grow;
mod outline;
mod role;

use kiln_ir::op::Reduce;
use kiln_ir::{Dim, Module, Op};

use crate::rewrite::live_graphs;
use crate::{Options, PassError, Report};

/// What a group computes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Elementwise and index maps over `domain`.
    Loop,
    /// Reductions over the last axes of `domain`, given as axes.
    Row(Vec<usize>),
    /// One reduction over `axes` of `domain` that are not the last ones.
    Reduce(Vec<usize>),
    /// One hero whose result has shape `domain`.
    Hero,
    /// A contraction whose left operand comes from rows over the last axis, which come from a contraction.
    Attention,
}

/// Nodes that become one kernel.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    /// What it computes.
    pub kind: Kind,
    /// The iteration domain.
    pub domain: Vec<Dim>,
    /// Positions in the schedule, ascending.
    pub members: Vec<usize>,
}

/// Runs the pass.
pub(crate) fn run(module: &mut Module, options: &Options, report: &mut Report) -> Result<(), PassError> {
    for id in live_graphs(module) {
        let (units, free, fused) = {
            let web = role::Web::of(module.graph(id));
            let groups = grow::groups(&web, options);
            (outline::order(&web, &groups), web.free_nodes(), groups.len())
        };
        outline::outline(module, id, &units, &free)?;
        report.applied("kernel", fused);
        module.remove_dead_nodes(id);
    }
    Ok(())
}

/// The axes that a node reduces, if it is a reduction.
pub(crate) fn reduced_axes(op: &Op) -> Option<&[usize]> {
    match op {
        Op::Reduce(Reduce::Axes { axes, .. }) => Some(axes),
        _ => None,
    }
}
