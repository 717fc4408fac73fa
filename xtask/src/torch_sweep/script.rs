//! The script that writes models, one at a time, in a process of its own.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::results::Form;
use crate::python::Python;
use crate::workspace::Workspace;

/// How long a model may take to write in all its forms. The script bounds each form itself; this is for what cannot be
/// interrupted in Python.
const PATIENCE: Duration = Duration::from_secs(1500);

/// What the script says of a model.
#[derive(Serialize, Deserialize)]
pub struct Written {
    /// PyTorch's own error for each form that it cannot make.
    pub forms: BTreeMap<Form, Option<String>>,
    /// Names, dtypes and shapes of the inputs, as the command takes them.
    pub shapes: Vec<String>,
    /// Why the model does not run.
    pub error: Option<String>,
}

impl Written {
    /// Of a model that the script gives no answer to.
    pub fn failed(reason: String) -> Self {
        Written { forms: BTreeMap::new(), shapes: vec![], error: Some(reason) }
    }
}

pub struct Script {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    answered: usize,
}

impl Script {
    /// Starts it; files go below `out`.
    pub fn start(workspace: &Workspace, python: &Python, out: &Path) -> Result<Script> {
        let mut command = python.script(workspace, "torch_sweep.py");
        command.arg("write").arg(out).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().context("starting the script that writes models")?;
        let input = child.stdin.take().context("the script has no standard input")?;
        let output = child.stdout.take().context("the script has no standard output")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Script { child, input, lines, answered: 0 })
    }

    /// How many models it has written.
    pub fn answered(&self) -> usize {
        self.answered
    }

    /// Lets it write a model; the inner error says why there is no answer, after which it is of no more use.
    pub fn ask(&mut self, order: &str) -> Result<Result<Written, String>> {
        let sent = writeln!(self.input, "{order}").and_then(|()| self.input.flush());
        let start = Instant::now();
        while sent.is_ok() {
            match self.lines.recv_timeout(PATIENCE.saturating_sub(start.elapsed())) {
                // Libraries print to standard output, too.
                Ok(line) => {
                    if let Ok(written) = serde_json::from_str(&line) {
                        self.answered += 1;
                        return Ok(Ok(written));
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    return Ok(Err(format!("it takes longer than {} s", PATIENCE.as_secs())));
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        Ok(Err(format!("the script ended with {}", self.child.wait()?)))
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
