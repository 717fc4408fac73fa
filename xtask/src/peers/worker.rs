//! Processes that stay loaded and take turns when they are asked.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::figures::Turn;

/// How long a start may take; a compiler in the peer may be slow.
const START: Duration = Duration::from_secs(1200);
/// How long a turn may take beyond its seconds.
const TURN: Duration = Duration::from_secs(120);
/// How long a process may take to end.
const END: Duration = Duration::from_secs(10);

/// What a process says when it is loaded and has run once.
#[derive(Deserialize, Clone, Debug)]
pub struct Loaded {
    pub version: String,
    pub load_ms: f64,
    pub first_ms: f64,
}

/// A process that answers each line with a line of JSON.
pub struct Worker {
    child: Child,
    /// Closed to end the process.
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    log: PathBuf,
}

impl Worker {
    /// Starts `command`, with what it says on stderr in the file `log`, and waits until it is loaded.
    pub fn start(command: &mut Command, log: &Path) -> Result<(Self, Loaded)> {
        let stderr = File::create(log).with_context(|| log.display().to_string())?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr);
        let mut child = command.spawn().context("the process cannot be started")?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (send, lines) = channel();
        thread::spawn(move || {
            // Ends with the process, or when nobody waits for a line any more.
            for line in output.into_iter().flat_map(|output| BufReader::new(output).lines()) {
                if line.is_err() || line.is_ok_and(|line| send.send(line).is_err()) {
                    return;
                }
            }
        });
        let mut worker = Self { child, input, lines, log: log.to_path_buf() };
        let loaded = worker.answer(START)?;
        Ok((worker, loaded))
    }

    /// One turn of about `seconds`.
    pub fn turn(&mut self, seconds: f64) -> Result<Turn> {
        let asked =
            self.input.as_mut().map(|input| writeln!(input, "{seconds}").and_then(|()| input.flush()));
        match asked {
            Some(Ok(())) => self.answer(TURN + Duration::from_secs_f64(seconds)),
            _ => bail!("the process ended: {}", last_words(&self.log)),
        }
    }

    fn answer<T: DeserializeOwned>(&mut self, patience: Duration) -> Result<T> {
        match self.lines.recv_timeout(patience) {
            Ok(line) => serde_json::from_str(&line).with_context(|| format!("not an answer: {line}")),
            Err(RecvTimeoutError::Timeout) => bail!("no answer in {} s", patience.as_secs()),
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.child.wait().context("the process cannot be waited for")?;
                bail!("{} ({status})", last_words(&self.log))
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.input = None;
        let start = Instant::now();
        while start.elapsed() < END {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        // It may have ended just now.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The last line of a log that says something: of a Python program, its error.
fn last_words(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty());
    line.map_or_else(|| "it says nothing on stderr".to_owned(), |line| format!("{line} [{}]", log.display()))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn shell(name: &str, script: &str) -> Result<(Worker, Loaded)> {
        let log = std::env::temp_dir().join(format!("xtask-worker-{}-{name}.log", std::process::id()));
        Worker::start(Command::new("sh").args(["-c", script]), &log)
    }

    const LOADED: &str = r#"echo '{"version":"1","load_ms":2.0,"first_ms":3.0}'; "#;

    #[test]
    fn a_worker_answers_turns() {
        let turn = r#"while read seconds; do echo '{"min_ms":1,"median_ms":2,"runs":3}'; done"#;
        let (mut worker, loaded) = shell("turns", &format!("{LOADED}{turn}")).expect("it starts");
        assert_eq!(loaded.first_ms, 3.0);
        for _ in 0..2 {
            assert_eq!(worker.turn(0.5).expect("it answers").runs, 3);
        }
    }

    #[test]
    fn a_worker_that_ends_gives_its_last_words() {
        let error =
            shell("import", "echo 'ImportError: no peer' >&2; echo >&2; exit 3").err().expect("no start");
        assert!(error.to_string().contains("ImportError: no peer"), "{error}");
        let (mut worker, _) =
            shell("later", &format!("{LOADED} read s; echo 'out of it' >&2")).expect("starts");
        let error = worker.turn(0.5).expect_err("it ends");
        assert!(error.to_string().contains("out of it"), "{error}");
    }
}
