//! Hostile files, each in a process of its own: typed errors alone, within bounds of time and memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::workspace::{self, Profile, Workspace};

#[derive(clap::Args)]
pub struct Options {
    /// Milliseconds that one file may take.
    #[arg(long, default_value_t = 1_000.0)]
    milliseconds: f64,
    /// Memory that one file may take beyond its size, in MiB.
    #[arg(long, default_value_t = 64.0)]
    mebibytes: f64,
    /// Seconds after which a file's process is killed, which breaks the bound of time.
    #[arg(long, default_value_t = 20.0)]
    patience: f64,
    /// Runs only the files whose name contains this text.
    #[arg(long)]
    filter: Option<String>,
    /// Prints a line for every file, not only for those that break a bound.
    #[arg(long)]
    verbose: bool,
}

/// What a worker says of one file; its side is `tests/src/bin/hostile.rs`.
#[derive(Deserialize)]
struct Answer {
    stage: String,
    message: String,
    milliseconds: f64,
    mebibytes: f64,
}

/// Runs all files; the last line is `hostile: N of M files end in typed errors, at most X ms and Y MiB`.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let worker = workspace.build("kiln-tests", "hostile", Profile::Release)?;
    let folder = workspace.target.join("hostile");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    }
    let listed = workspace::output(Command::new(&worker).arg(&folder))?;
    let chosen = |name: &str| options.filter.as_ref().is_none_or(|text| name.contains(text.as_str()));
    let files: Vec<PathBuf> = listed.lines().filter(|line| chosen(line)).map(PathBuf::from).collect();
    if files.is_empty() {
        bail!("no hostile file has such a name");
    }
    let patience = Duration::try_from_secs_f64(options.patience).context("--patience")?;
    let (mut good, mut slowest, mut largest) = (0, 0.0_f64, 0.0_f64);
    for path in &files {
        let name = path.strip_prefix(&folder).unwrap_or(path);
        let name = name.components().next().map(|part| part.as_os_str().to_string_lossy().into_owned());
        let name = name.unwrap_or_default();
        let answer = match ask(&worker, path, patience) {
            Ok(answer) => answer,
            Err(error) => {
                println!("{name}: no answer: {error:#}");
                continue;
            }
        };
        let Answer { stage, message, milliseconds, mebibytes } = answer;
        let what = match stage.as_str() {
            "" => Some("it ran".to_owned()),
            _ if milliseconds > options.milliseconds => Some(format!("{milliseconds:.0} ms")),
            _ if mebibytes > options.mebibytes => Some(format!("{mebibytes:.0} MiB")),
            _ => None,
        };
        (slowest, largest) = (slowest.max(milliseconds), largest.max(mebibytes));
        match what {
            Some(what) => println!("{name}: {what} ({stage}: {message})"),
            None => {
                good += 1;
                if options.verbose {
                    println!("{name}: {milliseconds:.1} ms, {mebibytes:.1} MiB, {stage}: {message}");
                }
            }
        }
    }
    let count = files.len();
    println!(
        "hostile: {good} of {count} files end in typed errors, at most {slowest:.0} ms and {largest:.0} MiB"
    );
    if good < count {
        bail!("{} files break a bound", count - good);
    }
    Ok(())
}

fn ask(worker: &Path, model: &Path, patience: Duration) -> Result<Answer> {
    let mut command = Command::new(worker);
    let said = workspace::output_within(command.arg("--take").arg(model), patience)?;
    serde_json::from_str(&said).with_context(|| format!("the worker's answer is no verdict: {said}"))
}
