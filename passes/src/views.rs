//! View algebra: transposes and broadcasts become labels of contractions, and move toward where they cancel.

mod contract;
mod lift;
mod slice;

pub(crate) use lift::transposed;

use kiln_ir::Module;

use crate::rewrite::{Rule, run_rules};
use crate::{Options, PassError, Report, canonicalize};

/// The rules, grouped by file; those of canonicalization that make views meet run along.
pub(crate) const RULES: &[Rule] = &[
    canonicalize::TRANSPOSE,
    canonicalize::RESHAPE,
    canonicalize::TRANSPOSE_OF_UNITS,
    canonicalize::TRANSPOSE_OF_JOINED,
    contract::OPERAND_TRANSPOSE,
    contract::OPERAND_UNITS,
    contract::OPERAND_BROADCAST,
    contract::RESULT_TRANSPOSE,
    lift::LIFT_TRANSPOSE,
    slice::SLICE_OF_TRANSPOSE,
    slice::SLICE_OF_RESHAPE,
    slice::SLICE_OF_SUM,
    slice::SLICE_OF_CONTRACT,
];

/// Runs the rules.
pub(crate) fn run(module: &mut Module, options: &Options, report: &mut Report) -> Result<(), PassError> {
    run_rules(RULES, module, options, report)
}
