//! Where the project lies, and running its tools.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The checkout that a task works on.
pub struct Workspace {
    /// The folder of the root `Cargo.toml`.
    pub root: PathBuf,
    /// Cargo's output folder; tasks keep their downloads and environments in it.
    pub target: PathBuf,
}

/// The build profile of a program that a task runs.
#[derive(Clone, Copy)]
pub enum Profile {
    Dev,
    Release,
}

impl Workspace {
    /// The workspace that `cargo xtask` was called in.
    pub fn find() -> Result<Self> {
        let manifest = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        let manifest = manifest.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
        let root = manifest.parent().context("the xtask crate has no parent folder")?.to_path_buf();
        let target = match env::var_os("CARGO_TARGET_DIR") {
            Some(folder) => env::current_dir()?.join(folder),
            None => root.join("target"),
        };
        Ok(Self { root, target })
    }

    /// A command of this workspace's cargo, run in its root.
    pub fn cargo<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(&self.root).args(arguments);
        command
    }

    /// Builds the binary `binary` of the package `package` and returns its path.
    pub fn build(&self, package: &str, binary: &str, profile: Profile) -> Result<PathBuf> {
        let mut command = self.cargo(["build", "--quiet", "--package", package, "--bin", binary]);
        let folder = match profile {
            Profile::Dev => "debug",
            Profile::Release => {
                command.arg("--release");
                "release"
            }
        };
        run(&mut command)?;
        let path = self.target.join(folder).join(format!("{binary}{}", env::consts::EXE_SUFFIX));
        if !path.is_file() {
            bail!("cargo built `{binary}` of `{package}`, but {} is not there", path.display());
        }
        Ok(path)
    }

    /// The folder of real models: `given`, else `KILN_FIXTURES`, else `../shared/fixtures` beside the root.
    pub fn fixtures(&self, given: Option<&Path>) -> Result<PathBuf> {
        let folder = match (given, env::var_os("KILN_FIXTURES")) {
            (Some(folder), _) => folder.to_path_buf(),
            (None, Some(folder)) => PathBuf::from(folder),
            (None, None) => self.root.join("../shared/fixtures"),
        };
        if !folder.is_dir() {
            bail!(
                "the fixtures are not at {}: name their folder with --fixtures or KILN_FIXTURES",
                folder.display()
            );
        }
        Ok(folder)
    }
}

/// Runs `command` to its end; an error names the command line and its exit status.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start `{}`", line(command)))?;
    if !status.success() {
        bail!("`{}` ended with {status}", line(command));
    }
    Ok(())
}

/// Runs `command` and returns what it printed; an error carries the last lines of what it said on stderr.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start `{}`", line(command)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = said.trim_end().lines().collect();
        let tail = lines[lines.len().saturating_sub(12)..].join("\n");
        bail!("`{}` ended with {}\n{tail}", line(command), output.status);
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("`{}` printed bytes that are not UTF-8", line(command)))
}

/// As [`output`], of a command that is killed when `patience` is over.
pub fn output_within(command: &mut Command, patience: Duration) -> Result<String> {
    let started = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = started.with_context(|| format!("cannot start `{}`", line(command)))?;
    // Read beside the wait: a pipe that is full would keep the child from ending.
    let said = child.stdout.take().map(|stream| thread::spawn(move || io::read_to_string(stream)));
    let errors = child.stderr.take().map(|stream| thread::spawn(move || io::read_to_string(stream)));
    let start = Instant::now();
    let status = loop {
        match child.try_wait()? {
            Some(status) => break status,
            None if start.elapsed() < patience => thread::sleep(Duration::from_millis(2)),
            None => {
                // Fails only if it has ended by now.
                let _ = child.kill();
                child.wait()?;
                bail!("no end within {} s, killed", patience.as_secs_f64());
            }
        }
    };
    let text = |reader: Option<thread::JoinHandle<io::Result<String>>>| {
        reader.and_then(|reader| reader.join().ok()).unwrap_or_else(|| Ok(String::new()))
    };
    if !status.success() {
        bail!("`{}` ended with {status}\n{}", line(command), text(errors)?.trim_end());
    }
    Ok(text(said)?)
}

/// Runs `task` under a heading and returns the seconds that it took.
pub fn step(title: &str, task: impl FnOnce() -> Result<()>) -> Result<f64> {
    println!("==> {title}");
    let start = Instant::now();
    task().with_context(|| title.to_owned())?;
    Ok(start.elapsed().as_secs_f64())
}

fn line(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|argument| argument.to_string_lossy().into_owned()));
    words.join(" ")
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn shell(script: &str) -> Result<String> {
        output_within(Command::new("sh").args(["-c", script]), Duration::from_millis(500))
    }

    #[test]
    fn a_command_that_does_not_end_is_killed() {
        let start = Instant::now();
        let error = shell("exec sleep 30").expect_err("it sleeps").to_string();
        assert!(error.contains("no end within 0.5 s"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(10));
        assert_eq!(shell("echo said").expect("it ends"), "said\n");
        assert!(shell("echo why >&2; exit 3").expect_err("it fails").to_string().contains("why"));
    }
}
