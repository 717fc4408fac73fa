//! Canonical spellings: each rule replaces a node by an equal one that is simpler or the form that later passes know.

mod algebra;
mod dtypes;
mod dynamic;
mod indexing;
mod movement;
mod reshape;

use kiln_ir::Module;

pub(crate) use algebra::SCALAR_CHAIN;
pub(crate) use movement::TRANSPOSE;
pub(crate) use reshape::{
    RESHAPE, RESHAPE_OF_REDUCE, TRANSPOSE_OF_JOINED, TRANSPOSE_OF_UNITS, differ_by_units, is_unit,
};

use crate::rewrite::{Rule, run_rules};
use crate::{Options, PassError, Report, inline};

/// The rules, grouped by file. Cheap and frequent ones stand first.
pub(crate) const RULES: &[Rule] = &[
    inline::CONSTANT_IF,
    dynamic::STATIC,
    dynamic::REFINE,
    dtypes::CAST,
    dtypes::SELECT,
    dtypes::EXACT_DIVISION,
    algebra::ALGEBRA,
    algebra::SCALAR_CHAIN,
    movement::TRANSPOSE,
    movement::BROADCAST,
    movement::SLICE,
    movement::PAD,
    movement::CONCAT,
    movement::REDUCE,
    reshape::RESHAPE,
    reshape::RESHAPE_OF_REDUCE,
    reshape::TRANSPOSE_OF_UNITS,
    reshape::TRANSPOSE_OF_JOINED,
    indexing::GATHER_CONSTANT,
];

/// Runs the rules.
pub(crate) fn run(module: &mut Module, options: &Options, report: &mut Report) -> Result<(), PassError> {
    run_rules(RULES, module, options, report)
}
