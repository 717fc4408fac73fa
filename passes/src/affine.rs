//! Affine algebra: constant scales and shifts move into the weights of convolutions and contractions.
//!
//! Rewrites change the order of floating-point operations; weights are scaled in double precision and rounded once.

mod contract;
mod norm;
mod weights;

use kiln_ir::Module;

use crate::rewrite::{Rule, run_rules};
use crate::{Options, PassError, Report};

/// The rules, grouped by file.
pub(crate) const RULES: &[Rule] = &[
    norm::BATCH_NORM,
    weights::SCALE_OF_SUM,
    weights::SCALE_OF_WEIGHTS,
    weights::SHIFT_CHAIN,
    contract::SCALED_OPERAND,
    crate::canonicalize::SCALAR_CHAIN,
];

/// Runs the rules.
pub(crate) fn run(module: &mut Module, options: &Options, report: &mut Report) -> Result<(), PassError> {
    run_rules(RULES, module, options, report)
}
