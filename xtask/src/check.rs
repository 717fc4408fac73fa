//! `cargo xtask test`: everything that must hold, in the order of what fails fastest.

use std::process::Command;

use anyhow::{Context, Result};

use crate::suite;
use crate::tidy;
use crate::workspace::{self, Workspace, step};

#[derive(clap::Args)]
pub struct Options {
    /// The number of cases of the ONNX suite that must pass.
    #[arg(long, default_value_t = 1_000)]
    floor: usize,
}

/// Runs all checks; stops at the first that fails.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    components(workspace)?;
    let mut took = Vec::new();
    let mut check = |title: &'static str, task: &mut dyn FnMut() -> Result<()>| -> Result<()> {
        took.push((title, step(title, task)?));
        Ok(())
    };
    check("formatting", &mut || workspace::run(&mut workspace.cargo(["fmt", "--all", "--check"])))?;
    check("architecture", &mut || tidy::run(workspace))?;
    check("lints", &mut || {
        let arguments = ["clippy", "--quiet", "--workspace", "--all-targets", "--", "--deny", "warnings"];
        workspace::run(&mut workspace.cargo(arguments))
    })?;
    if nextest(workspace) {
        check("tests (cargo nextest)", &mut || {
            let arguments = ["nextest", "run", "--workspace", "--no-fail-fast", "--status-level=fail"];
            workspace::run(&mut workspace.cargo(arguments))
        })?;
        check("documentation tests", &mut || {
            workspace::run(&mut workspace.cargo(["test", "--quiet", "--workspace", "--doc"]))
        })?;
    } else {
        check("tests (cargo test)", &mut || {
            workspace::run(&mut workspace.cargo(["test", "--quiet", "--workspace", "--no-fail-fast"]))
        })?;
    }
    check("ONNX suite", &mut || suite::run(workspace, &suite::Options::floor(options.floor)))?;
    println!("\nall checks hold");
    for (title, seconds) in took {
        println!("  {title:24} {seconds:7.1} s");
    }
    Ok(())
}

/// rustfmt and clippy, fetched by rustup where the toolchain came without them.
fn components(workspace: &Workspace) -> Result<()> {
    for component in ["fmt", "clippy"] {
        if workspace::output(&mut workspace.cargo([component, "--version"])).is_ok() {
            continue;
        }
        let name = if component == "fmt" { "rustfmt" } else { component };
        println!("installing {name}");
        workspace::run(Command::new("rustup").current_dir(&workspace.root).args(["component", "add", name]))
            .with_context(|| format!("`cargo {component}` is missing, and rustup could not add it"))?;
    }
    Ok(())
}

fn nextest(workspace: &Workspace) -> bool {
    workspace::output(&mut workspace.cargo(["nextest", "--version"])).is_ok()
}
