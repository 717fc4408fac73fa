//! Convolution networks in channels-last order: convolutions and pooling are rewritten between transposes, which then
//! sink through what follows until they meet the next ones.

mod convert;
mod sink;

use kiln_ir::{Graph, Module, Op};

use crate::rewrite::{Rule, live_graphs, run_rules};
use crate::{ConvLayout, Options, PassError, Report, canonicalize};

/// The rules, grouped by file; those of canonicalization that make views meet run along.
pub(crate) const RULES: &[Rule] = &[
    canonicalize::TRANSPOSE,
    canonicalize::RESHAPE,
    canonicalize::TRANSPOSE_OF_UNITS,
    canonicalize::RESHAPE_OF_REDUCE,
    convert::CONV,
    convert::POOL,
    sink::SINK_ELEMENTWISE,
    sink::SINK_QUANT,
    sink::SINK_REDUCE,
    sink::SINK_CONCAT,
    sink::SINK_MOVEMENT,
    sink::SINK_COMPOSITE,
];

/// Runs the rules, unless the options keep convolutions as loaded.
pub(crate) fn run(module: &mut Module, options: &Options, report: &mut Report) -> Result<(), PassError> {
    match options.layout {
        ConvLayout::AsLoaded => Ok(()),
        ConvLayout::ChannelsLast if has_images(module) => run_rules(RULES, module, options, report),
        ConvLayout::ChannelsLast => Ok(()),
    }
}

/// Whether anything convolves or pools.
fn has_images(module: &Module) -> bool {
    let any = |g: &Graph| g.scheduled().any(|(_, n)| matches!(n.op, Op::Conv(_) | Op::Window(_)));
    live_graphs(module).into_iter().any(|g| any(module.graph(g)))
}

/// `[N, C, spatial..]` seen as `[N, spatial.., C]`.
pub(crate) fn to_last(rank: usize) -> Vec<usize> {
    std::iter::once(0).chain(2..rank).chain(std::iter::once(1)).collect()
}

/// `[N, spatial.., C]` seen as `[N, C, spatial..]`.
pub(crate) fn to_first(rank: usize) -> Vec<usize> {
    [0, rank - 1].into_iter().chain(1..rank - 1).collect()
}
