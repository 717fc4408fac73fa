//! Worker processes, each asked one case after another: a JSON line in, a JSON line out.
//!
//! A worker that does not answer in time is killed; one that ends is replaced. Either way the case it was asked gets a
//! verdict, and the rest of the run does not notice.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;

use super::cases::Case;

/// What became of a case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// All outputs are as expected.
    Passed,
    /// The model was refused: something in it has no implementation.
    Unsupported,
    /// It ran, and an output differs in number, kind, dtype, shape or value.
    Mismatch,
    /// Any other typed error.
    Error,
    /// The worker caught a panic.
    Panicked,
    /// No answer in time.
    Hung,
    /// The worker's process ended.
    Crashed,
}

impl Status {
    /// Whether the case misbehaved, beyond not passing.
    pub fn is_broken(self) -> bool {
        match self {
            Self::Panicked | Self::Hung | Self::Crashed => true,
            Self::Passed | Self::Unsupported | Self::Mismatch | Self::Error => false,
        }
    }

    /// The word of the report.
    pub fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Unsupported => "unsupported",
            Self::Mismatch => "mismatch",
            Self::Error => "error",
            Self::Panicked => "PANIC",
            Self::Hung => "HUNG",
            Self::Crashed => "CRASHED",
        }
    }
}

/// The answer about one case.
#[derive(Clone, Debug, Deserialize)]
pub struct Verdict {
    pub status: Status,
    /// Why it did not pass, in words that cases with the same cause share.
    #[serde(default)]
    pub reason: String,
    /// What is particular to this case: the place and the values, or the message in full.
    #[serde(default)]
    pub detail: String,
    /// The operators of the compiled program's steps that the reference evaluator runs.
    #[serde(default)]
    pub evaluator_steps: Vec<String>,
    /// Seconds from question to answer.
    #[serde(skip)]
    pub seconds: f64,
}

impl Verdict {
    /// The verdict on a case whose worker gave none.
    fn lost(status: Status, reason: String, detail: String) -> Self {
        Self { status, reason, detail, evaluator_steps: vec![], seconds: 0.0 }
    }
}

/// The program of the workers and its arguments.
pub struct Worker {
    pub program: PathBuf,
    pub arguments: Vec<String>,
}

/// Asks `count` processes of `worker` about all `cases`; the verdicts come in the cases' order.
pub fn run(worker: &Worker, cases: &[Case], count: usize, timeout: Duration) -> Result<Vec<Verdict>> {
    let next = AtomicUsize::new(0);
    let verdicts: Mutex<Vec<Option<Verdict>>> = Mutex::new(vec![None; cases.len()]);
    let style =
        ProgressStyle::with_template("{bar:40} {pos}/{len} {msg}").context("the progress bar's template")?;
    let progress = ProgressBar::new(cases.len() as u64).with_style(style);
    let serve = || -> Result<()> {
        let mut process = None;
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(case) = cases.get(index) else { return Ok(()) };
            let verdict = ask(&mut process, worker, case, timeout)?;
            verdicts.lock().unwrap_or_else(PoisonError::into_inner)[index] = Some(verdict);
            progress.set_message(case.name.clone());
            progress.inc(1);
        }
    };
    thread::scope(|scope| -> Result<()> {
        let servers: Vec<_> = (0..count.clamp(1, 64)).map(|_| scope.spawn(serve)).collect();
        servers
            .into_iter()
            .try_for_each(|server| server.join().map_err(|_| anyhow!("a server thread panicked"))?)
    })?;
    progress.finish_and_clear();
    let verdicts = verdicts.into_inner().unwrap_or_else(PoisonError::into_inner);
    verdicts.into_iter().map(|verdict| verdict.context("a case was not asked")).collect()
}

fn ask(process: &mut Option<Process>, worker: &Worker, case: &Case, timeout: Duration) -> Result<Verdict> {
    let start = Instant::now();
    let mut live = match process.take() {
        Some(live) => live,
        None => Process::start(worker)?,
    };
    let request = serde_json::to_string(case).context("writing a request")?;
    // A worker that cannot be written to has ended; the receiver then reports that.
    let _ = writeln!(live.stdin, "{request}").and_then(|()| live.stdin.flush());
    let answer = match live.answers.recv_timeout(timeout) {
        Ok(line) => {
            let answer = serde_json::from_str(&line)
                .with_context(|| format!("the worker's answer to `{}` is not a verdict: {line}", case.name));
            *process = Some(live);
            answer?
        }
        Err(RecvTimeoutError::Timeout) => {
            live.kill();
            let reason = format!("no answer within {} s", timeout.as_secs());
            Verdict::lost(Status::Hung, reason, String::new())
        }
        Err(RecvTimeoutError::Disconnected) => live.last_words(),
    };
    Ok(Verdict { seconds: start.elapsed().as_secs_f64(), ..answer })
}

/// A running worker.
struct Process {
    child: Child,
    stdin: ChildStdin,
    answers: Receiver<String>,
    said: JoinHandle<String>,
}

impl Process {
    fn start(worker: &Worker) -> Result<Self> {
        let mut child = limited(worker)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", worker.program.display()))?;
        let stdin = child.stdin.take().context("the worker has no stdin")?;
        let stdout = child.stdout.take().context("the worker has no stdout")?;
        let stderr = child.stderr.take().context("the worker has no stderr")?;
        let (sender, answers) = mpsc::channel();
        thread::spawn(move || {
            let lines = BufReader::new(stdout).lines();
            lines.map_while(Result::ok).try_for_each(|line| sender.send(line)).ok();
        });
        let said = thread::spawn(move || listen(stderr));
        Ok(Self { child, stdin, answers, said })
    }

    fn kill(mut self) {
        // Both fail only if the process has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The verdict on a case during which the process ended by itself.
    fn last_words(mut self) -> Verdict {
        drop(self.stdin);
        let reason = match self.child.wait() {
            Ok(status) => format!("the process ended with {status}"),
            Err(error) => format!("the process was lost: {error}"),
        };
        let said = self.said.join().unwrap_or_default();
        let detail = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().to_owned();
        Verdict::lost(Status::Crashed, reason, detail)
    }
}

/// The worker under a limit of memory, where the platform's shell can set one, so that a case that asks for all of the
/// machine's memory fails alone.
fn limited(worker: &Worker) -> Command {
    let mut command = if cfg!(unix) {
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -v 12582912; exec \"$0\" \"$@\""]).arg(&worker.program);
        shell
    } else {
        Command::new(&worker.program)
    };
    command.args(&worker.arguments);
    command
}

/// Reads what the worker says on stderr until it ends, and keeps the last kilobytes.
fn listen(mut stderr: impl Read) -> String {
    const KEPT: usize = 4096;
    let (mut buffer, mut said) = ([0; KEPT], Vec::new());
    while let Ok(count @ 1..) = stderr.read(&mut buffer) {
        said.extend_from_slice(&buffer[..count]);
        said.drain(..said.len().saturating_sub(KEPT));
    }
    String::from_utf8_lossy(&said).into_owned()
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A worker that hangs, ends or babbles where the case's name says so.
    const WORKER: &str = r#"#!/bin/sh
while read -r line; do
    case "$line" in
        *hangs*) exec sleep 30 ;;
        *ends*) echo 'the last words' >&2; exit 3 ;;
        *panics*) echo '{"status":"panicked","reason":"at a place"}' ;;
        *) echo '{"status":"passed"}' ;;
    esac
done
"#;

    #[test]
    fn a_lost_worker_costs_only_its_case() -> Result<()> {
        let path = std::env::temp_dir().join(format!("xtask-pool-{}.sh", std::process::id()));
        fs::write(&path, WORKER)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        let names = ["one", "hangs", "two", "ends", "three", "panics", "four"];
        let cases: Vec<Case> = names.iter().map(|name| Case::named(name)).collect();
        let worker = Worker { program: path.clone(), arguments: Vec::new() };
        let verdicts = run(&worker, &cases, 2, Duration::from_secs(2));
        fs::remove_file(&path)?;
        let verdicts = verdicts?;
        let statuses: Vec<Status> = verdicts.iter().map(|verdict| verdict.status).collect();
        let passed = Status::Passed;
        let expected = [passed, Status::Hung, passed, Status::Crashed, passed, Status::Panicked, passed];
        assert_eq!(statuses, expected);
        assert_eq!(verdicts[3].detail, "the last words");
        assert_eq!(verdicts[5].reason, "at a place");
        Ok(())
    }
}
