//! `cargo xtask random`: the property tests over other random cases than those of an ordinary test run.

use anyhow::{Context, Result};

use crate::workspace::{self, Workspace};

/// The test targets that draw random cases, by package.
const TARGETS: [(&str, &str); 6] = [
    ("kiln-ir", "random"),
    ("kiln-ir", "eval_random"),
    ("kiln-codegen", "wide"),
    ("kiln-codegen", "contract"),
    ("kiln-tests", "random_graphs"),
    ("kiln-tests", "random_kernels"),
];

#[derive(clap::Args)]
pub struct Options {
    /// Seeds to try.
    #[arg(long, default_value_t = 20)]
    rounds: u64,
    /// The first seed; the following ones count up from it.
    #[arg(long, default_value_t = 2)]
    seed: u64,
}

/// Runs every random test once a seed; stops at the first failure and names its seed.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    for seed in (options.seed..).take(usize::try_from(options.rounds)?) {
        for (package, test) in TARGETS {
            let mut command = workspace.cargo(["test", "--quiet", "--package", package, "--test", test]);
            command.env("PROPTEST_RNG_SEED", seed.to_string());
            workspace::run(&mut command)
                .with_context(|| format!("seed {seed} fails: cargo xtask random --rounds 1 --seed {seed}"))?;
        }
        println!("seed {seed}: no mismatch");
    }
    Ok(())
}
