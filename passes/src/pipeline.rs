//! The table of passes and the loop that runs it.

use std::time::Instant;

use kiln_ir::Module;

use crate::rewrite::count_nodes;
use crate::{
    Options, PassError, Report, affine, canonicalize, cleanup, decompose, fold, fuse, inline, integers,
    layout, recognize, siblings, views,
};

/// One row of the table.
pub struct Pass {
    /// Name in options and reports.
    pub name: &'static str,
    /// What it does to a module.
    pub run: fn(&mut Module, &Options, &mut Report) -> Result<(), PassError>,
    /// Passes that must stand before it, each with the reason.
    pub after: &'static [(&'static str, &'static str)],
}

/// Every pass, in the order they run.
pub const PASSES: &[Pass] = &[
    Pass { name: "inline", run: inline::run, after: &[] },
    Pass {
        name: "canonicalize",
        run: canonicalize::run,
        after: &[("inline", "constants that calls pass to bodies decide what is static")],
    },
    Pass {
        name: "share",
        run: cleanup::cse,
        after: &[("canonicalize", "equal nodes must be spelled equally")],
    },
    Pass {
        name: "recognize",
        run: recognize::run,
        after: &[
            ("canonicalize", "patterns are written over canonical spellings"),
            ("share", "exporters compute a difference twice that a pattern has once"),
        ],
    },
    Pass {
        name: "integers",
        run: integers::run,
        after: &[
            ("canonicalize", "movements and bounds are matched in their canonical spelling"),
            ("share", "a dequantization that is there twice would be moved twice"),
        ],
    },
    Pass {
        name: "affine",
        run: affine::run,
        after: &[
            ("recognize", "scales that belong to a recognized composite must not move into weights"),
            ("integers", "weights that take a scale are no longer those that the file quantized"),
        ],
    },
    Pass {
        name: "layout",
        run: layout::run,
        after: &[("affine", "batch normalization is written channels first")],
    },
    Pass {
        name: "views",
        run: views::run,
        after: &[
            ("affine", "a scale between a transpose and a contraction would keep them apart"),
            ("layout", "transposes that sink to a contraction become its labels"),
        ],
    },
    Pass {
        name: "fold",
        run: fold::run,
        after: &[
            ("affine", "folded scales leave arithmetic on constants"),
            ("integers", "dequantized weights would become floats"),
            ("views", "a transposed weight that a contraction reads in place needs no copy"),
        ],
    },
    Pass {
        name: "siblings",
        run: siblings::run,
        after: &[
            ("fold", "only constant weights are joined"),
            ("views", "operands must be equal to be shared"),
        ],
    },
    Pass {
        name: "decompose",
        run: decompose::run,
        after: &[("recognize", "composites come from there"), ("affine", "takes batch normalization whole")],
    },
    Pass {
        name: "cleanup",
        run: canonicalize::run,
        after: &[("decompose", "bodies come in their general form"), ("layout", "transposes meet there")],
    },
    Pass {
        name: "sums",
        run: integers::sums,
        after: &[
            ("fold", "constants of sums are folded before they take another factor"),
            ("decompose", "bodies of composites are sums too"),
        ],
    },
    Pass {
        name: "refold",
        run: fold::run,
        after: &[
            ("decompose", "bodies of composites over constants"),
            ("layout", "transposed constants"),
            ("sums", "constants that took a factor"),
        ],
    },
    Pass { name: "cse", run: cleanup::cse, after: &[("cleanup", "equal nodes must be spelled equally")] },
    Pass {
        name: "operands",
        run: integers::operands,
        after: &[("cse", "it would merge again what belongs to one kernel each")],
    },
    Pass { name: "dce", run: cleanup::dce, after: &[] },
    Pass {
        name: "fuse",
        run: fuse::run,
        after: &[
            ("decompose", "only primitives are fused"),
            ("cse", "two copies of a node would go to two kernels"),
            ("operands", "a kernel takes in what dequantizes its operands if nothing else uses it"),
            ("dce", "an unused node would be a kernel's result"),
        ],
    },
];

/// Checks that every pass stands after those that it needs.
pub fn check_order(passes: &[Pass]) -> Result<(), PassError> {
    for (at, pass) in passes.iter().enumerate() {
        for &(needs, why) in pass.after {
            if !passes[..at].iter().any(|p| p.name == needs) {
                return Err(PassError::Order { pass: pass.name, needs, why });
            }
        }
    }
    Ok(())
}

/// Runs every pass that the options do not disable.
pub fn optimize(module: &mut Module, options: &Options) -> Result<Report, PassError> {
    check_order(PASSES)?;
    for name in options.disabled.iter().chain(&options.dump_after) {
        if !PASSES.iter().any(|p| p.name == name) {
            let all = PASSES.iter().map(|p| p.name).collect::<Vec<_>>().join(", ");
            return Err(PassError::UnknownPass { name: name.clone(), all });
        }
    }
    let mut report = Report::default();
    for pass in PASSES.iter().filter(|p| !options.disabled.iter().any(|d| d == p.name)) {
        run_pass(pass, module, options, &mut report)?;
    }
    Ok(report)
}

/// Runs one pass, verifies what it leaves, and records what it did.
pub fn run_pass(
    pass: &Pass,
    module: &mut Module,
    options: &Options,
    report: &mut Report,
) -> Result<(), PassError> {
    report.open(pass.name, count_nodes(module));
    let start = Instant::now();
    (pass.run)(module, options, report)?;
    let time = start.elapsed();
    if options.verify {
        kiln_ir::verify::verify(module).map_err(|errors| {
            let reason = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            PassError::Invalid { pass: pass.name, reason }
        })?;
    }
    let dump =
        options.dump_after.iter().any(|d| d == pass.name).then(|| kiln_ir::text::print_module(module).0);
    let nodes = count_nodes(module);
    let entry = report.current();
    (entry.time, entry.dump, entry.nodes_after) = (time, dump, nodes);
    tracing::debug!(pass = pass.name, ?time, rewrites = entry.rewrites(), nodes, "pass");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_ordered() {
        check_order(PASSES).unwrap();
    }

    #[test]
    fn a_missing_predecessor_is_refused() {
        let pass = Pass { name: "late", run: cleanup::dce, after: &[("early", "it prepares")] };
        let error = check_order(&[pass]).unwrap_err().to_string();
        assert_eq!(error, "pass `late` stands before `early`, which it needs: it prepares");
    }

    #[test]
    fn unknown_passes_are_refused() {
        let options = Options { disabled: vec!["fuze".into()], ..Options::default() };
        let error = optimize(&mut Module::new(), &options).unwrap_err().to_string();
        assert!(error.starts_with("no pass is named `fuze`"), "{error}");
    }
}
