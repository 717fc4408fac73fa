//! `cargo xtask sparse-ladder`: layers whose weights are mostly zero against dense ones, by the bench `sparse`.

use anyhow::Result;

use crate::workspace::{self, Workspace};

#[derive(clap::Args)]
pub struct Options {
    /// Only shapes whose name has this in it, such as `128x768` or `3x3`.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Instruction set to compile for.
    #[arg(long, value_name = "TIER")]
    tier: Option<String>,
}

/// Prints the table of speedups, the bars below it, and a line that sums it up.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let mut command = workspace.cargo(["bench", "--quiet", "--package", "kiln-benches", "--bench", "sparse"]);
    for (name, value) in [("KILN_CASE", &options.only), ("KILN_TIER", &options.tier)] {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    workspace::run(&mut command)
}
