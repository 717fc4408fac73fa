//! Architecture checks: the invariants of ARCHITECTURE.md that are absences, each as a table that a review reads.

mod source;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::workspace::{self, Workspace};

/// The workspace crates that a crate may depend on. Crates of tests and tools may use all.
const ARROWS: &[(&str, &[&str])] = &[
    ("kiln-ir", &[]),
    ("kiln-runtime", &["kiln-ir"]),
    ("kiln-passes", &["kiln-ir"]),
    ("kiln-loaders", &["kiln-ir"]),
    ("kiln-codegen", &["kiln-ir", "kiln-runtime"]),
    ("kiln", &["kiln-ir", "kiln-runtime", "kiln-passes", "kiln-loaders", "kiln-codegen"]),
];

/// The crates that no product crate depends on.
const TOOLS: &[&str] = &["kiln-benches", "kiln-tests", "xtask"];

/// Dependencies, by the start of their name, that belong to the named crates only.
const OWNED: &[(&str, &[&str])] = &[
    ("cranelift", &["kiln-codegen"]),
    ("iced-x86", &["kiln-codegen"]),
    ("prost", &["kiln-loaders"]),
    ("clap", &["kiln-cli", "xtask"]),
    ("candle", &["kiln"]),
];

/// What a server that only runs artifacts must not link, by the start of the package's name.
const NOT_IN_RUNTIME: &[&str] = &["cranelift", "iced-x86", "prost", "candle", "clap"];

/// Folders without unsafe code, and the files in them that are excepted, with the reason.
const SAFE_FOLDERS: &[&str] = &["ir", "passes", "loaders", "kiln", "cli", "server", "xtask"];
const UNSAFE_FILES: &[(&str, &str)] = &[("loaders/src/map.rs", "maps model files")];

/// The length of a source file, in lines, and the files that may exceed it, with the reason.
const LONG: usize = 800;
const LONG_FILES: &[(&str, &str)] = &[];

/// The size of any tracked file, in bytes; `Cargo.lock` and what tests download are not meant.
const LARGE: u64 = 400_000;

/// Runs all checks and fails with everything that they found.
pub fn run(workspace: &Workspace) -> Result<()> {
    let mut faults = Vec::new();
    crates(workspace, &mut faults)?;
    runtime_tree(workspace, &mut faults)?;
    files(workspace, &mut faults)?;
    if faults.is_empty() {
        println!("architecture: crate arrows, dependencies, unsafe code and file sizes are in order");
        return Ok(());
    }
    faults.iter().for_each(|fault| eprintln!("{fault}"));
    bail!("{} faults", faults.len());
}

/// Crate arrows, owned dependencies and shared lints, from the manifests.
fn crates(workspace: &Workspace, faults: &mut Vec<String>) -> Result<()> {
    let metadata = workspace::output(&mut workspace.cargo(["metadata", "--no-deps", "--format-version=1"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("the answer of cargo metadata")?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let members: Vec<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    for package in packages {
        let name = package["name"].as_str().context("a package without a name")?;
        let manifest = package["manifest_path"].as_str().context("a package without a manifest")?;
        let text = fs::read_to_string(manifest).with_context(|| manifest.to_owned())?;
        if !text.contains("[lints]\nworkspace = true") {
            faults.push(format!("{manifest}: does not take the workspace's lints"));
        }
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            // Null is a normal dependency; tests may use more.
            if dependency["kind"].as_str() == Some("dev") {
                continue;
            }
            let on = dependency["name"].as_str().context("a dependency without a name")?;
            faults.extend(arrow_fault(name, on, &members));
        }
    }
    Ok(())
}

fn arrow_fault(name: &str, on: &str, members: &[&str]) -> Option<String> {
    if !TOOLS.contains(&name) {
        if TOOLS.contains(&on) {
            return Some(format!("{name} depends on {on}, which is a tool"));
        }
        let allowed = ARROWS.iter().find(|(from, _)| *from == name).map(|(_, to)| *to);
        if members.contains(&on) && allowed.is_some_and(|allowed| !allowed.contains(&on)) {
            return Some(format!("{name} depends on {on}: no such arrow in the architecture"));
        }
    }
    let owners = OWNED.iter().find(|(start, _)| on.starts_with(start)).map(|(_, owners)| *owners)?;
    let free = owners.contains(&name) || TOOLS.contains(&name);
    (!free).then(|| format!("{name} depends on {on}, which belongs to {} only", owners.join(", ")))
}

fn runtime_tree(workspace: &Workspace, faults: &mut Vec<String>) -> Result<()> {
    let arguments = ["tree", "--package", "kiln-runtime", "--edges", "normal", "--prefix", "none"];
    for package in workspace::output(&mut workspace.cargo(arguments))?.lines() {
        if NOT_IN_RUNTIME.iter().any(|start| package.starts_with(start)) {
            faults.push(format!("kiln-runtime links {package}"));
        }
    }
    Ok(())
}

/// Unsafe code, lengths and sizes, from the tracked and the new files.
fn files(workspace: &Workspace, faults: &mut Vec<String>) -> Result<()> {
    let mut list = std::process::Command::new("git");
    list.current_dir(&workspace.root).args(["ls-files", "--cached", "--others", "--exclude-standard"]);
    for name in workspace::output(&mut list)?.lines() {
        let path = workspace.root.join(name);
        // A file that was deleted but not yet from the index.
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.len() > LARGE && name != "Cargo.lock" {
            faults.push(format!("{name}: {} bytes, more than {LARGE}", metadata.len()));
        }
        if Path::new(name).extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).with_context(|| name.to_owned())?;
            source_faults(name, &text, faults);
        }
    }
    Ok(())
}

fn source_faults(name: &str, text: &str, faults: &mut Vec<String>) {
    let lines = text.lines().count();
    if lines > LONG && !LONG_FILES.iter().any(|(file, _)| *file == name) {
        faults
            .push(format!("{name}: {lines} lines, more than {LONG}; divide it, or list it with the reason"));
    }
    let folder = name.split('/').next().unwrap_or_default();
    if SAFE_FOLDERS.contains(&folder) && !UNSAFE_FILES.iter().any(|(file, _)| *file == name) {
        for line in source::lines_with_word(text, "unsafe") {
            faults.push(format!("{name}:{line}: unsafe code, where there must be none"));
        }
    }
    let functions = source::long_functions(text, LONG_FUNCTION);
    let excepted = LONG_FUNCTIONS.iter().any(|(file, _)| *file == name);
    for (line, length) in functions.into_iter().filter(|_| !excepted) {
        faults.push(format!("{name}:{line}: a function of {length} lines, more than {LONG_FUNCTION}"));
    }
}

/// The length of a function, in lines from its `fn` to its closing brace.
const LONG_FUNCTION: usize = 80;
/// Files whose functions may be longer, with the reason.
const LONG_FUNCTIONS: &[(&str, &str)] = &[
    ("ir/src/infer/composite.rs", "a match with an arm for each composite"),
    ("codegen/tests/pointwise.rs", "lists of the primitives that a random kernel draws from"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arrow_that_is_not_in_the_table_is_a_fault() {
        let members = ["kiln-ir", "kiln-runtime", "kiln-codegen", "kiln-tests"];
        assert_eq!(arrow_fault("kiln-codegen", "kiln-runtime", &members), None);
        assert!(arrow_fault("kiln-runtime", "kiln-codegen", &members).is_some());
        assert!(arrow_fault("kiln-ir", "kiln-tests", &members).is_some());
        assert!(arrow_fault("kiln-passes", "cranelift-codegen", &members).is_some());
        assert_eq!(arrow_fault("kiln-tests", "kiln-codegen", &members), None);
    }

    #[test]
    fn unsafe_code_and_length_are_faults_of_a_source() {
        let faults_of = |name, text: &str| {
            let mut faults = Vec::new();
            source_faults(name, text, &mut faults);
            faults.len()
        };
        assert_eq!(faults_of("ir/src/a.rs", "fn f() { unsafe { g() } }"), 1);
        assert_eq!(faults_of("codegen/src/a.rs", "fn f() { unsafe { g() } }"), 0);
        assert_eq!(
            faults_of("ir/src/a.rs", "// unsafe\n#![forbid(unsafe_code)]\nconst A: &str = \"unsafe\";"),
            0
        );
        assert_eq!(faults_of("runtime/src/a.rs", &"\n".repeat(LONG + 1)), 1);
    }
}
