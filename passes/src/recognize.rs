//! Recognition of activations, normalizations and softmax in the spellings of exporters.

mod activations;
mod norms;
mod softmax;

use kiln_ir::Module;

use crate::rewrite::{Rule, run_rules};
use crate::{Options, PassError, Report};

/// The rules, grouped by file.
pub(crate) const RULES: &[Rule] = &[
    activations::ACTIVATION,
    activations::SCALED_SILU,
    norms::LAYER_NORM,
    norms::RMS_NORM,
    norms::NORM_SCALE,
    norms::NORM_BIAS,
    softmax::SOFTMAX,
    softmax::LOG_SOFTMAX,
];

/// Runs the rules.
pub(crate) fn run(module: &mut Module, options: &Options, report: &mut Report) -> Result<(), PassError> {
    run_rules(RULES, module, options, report)
}
