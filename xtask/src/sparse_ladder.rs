//! `cargo xtask sparse-ladder`: layers whose weights are mostly zero against dense ones, by the bench `sparse`.

use std::path::PathBuf;

use anyhow::Result;

use crate::workspace::{self, Workspace};

#[derive(clap::Args)]
pub struct Options {
    /// Only shapes whose name has this in it, such as `128x768` or `3x3`.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Only weights whose name has this in it: `f32 block4`, `f32 unstructured`, `int8 block4`.
    #[arg(long, value_name = "TEXT")]
    pattern: Option<String>,
    /// The folder that `cargo xtask zoo` wrote, to run a whole model, too.
    #[arg(long, value_name = "FOLDER")]
    zoo: Option<PathBuf>,
    /// Instruction set to compile for.
    #[arg(long, value_name = "TIER")]
    tier: Option<String>,
}

/// Prints the table of speedups as Markdown, the bars below it, and a line that sums it up.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let mut command = workspace.cargo(["bench", "--quiet", "--package", "kiln-benches", "--bench", "sparse"]);
    let texts =
        [("KILN_CASE", &options.only), ("KILN_PATTERN", &options.pattern), ("KILN_TIER", &options.tier)];
    if let Some(zoo) = &options.zoo {
        command.env("KILN_ZOO", std::path::absolute(zoo)?);
    }
    for (name, value) in texts {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    workspace::run(&mut command)
}
