//! onnxruntime in a process that stays: batches of models with inputs in, outputs out, as length-prefixed bytes over pipes.
//! Its side is `xtask/py/differential.py`.

use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use kiln::ir::{Bytes, Tensor};
use kiln::loaders::onnx::proto::ModelProto;
use kiln::loaders::onnx::tensor::{data_type, dtype};
use prost::Message;

/// What onnxruntime made of a model in one way to run it.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The outputs.
    Outputs(Vec<Tensor>),
    /// Why there are none.
    Refused(String),
}

/// Ways to run a model: without optimizations, with all of them.
pub const WAYS: usize = 2;

/// Why there is no answer about a model that ends the process.
pub const LOST: &str = "the process was lost";

/// How long a batch may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// The process, which is started again when it is lost.
pub struct Peer {
    python: PathBuf,
    script: PathBuf,
    process: Option<Process>,
    /// Batches that have been sent and not been answered.
    waiting: bool,
}

struct Process {
    child: Child,
    stdin: ChildStdin,
    frames: Receiver<Vec<u8>>,
}

impl Process {
    fn start(python: &Path, script: &Path) -> io::Result<Process> {
        let mut command = Command::new(python);
        command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let lost = || io::Error::other("the process has no pipes");
        let stdin = child.stdin.take().ok_or_else(lost)?;
        let mut stdout = BufReader::new(child.stdout.take().ok_or_else(lost)?);
        let (send, frames) = channel();
        std::thread::spawn(move || {
            let mut next = || -> io::Result<Vec<u8>> {
                let mut length = [0; 4];
                stdout.read_exact(&mut length)?;
                let mut frame = vec![0; u32::from_le_bytes(length) as usize];
                stdout.read_exact(&mut frame)?;
                Ok(frame)
            };
            while next().is_ok_and(|frame| send.send(frame).is_ok()) {}
        });
        Ok(Process { child, stdin, frames })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has ended already, or ends now that nobody asks it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Peer {
    /// The worker script under a Python interpreter that has numpy and onnxruntime.
    pub fn new(python: &Path, script: &Path) -> Peer {
        Peer { python: python.to_owned(), script: script.to_owned(), process: None, waiting: false }
    }

    /// Sends a batch, whose answers [`Peer::receive`] gives.
    pub fn send(&mut self, batch: &[(&ModelProto, &[(String, Tensor)])]) -> io::Result<()> {
        let mut frame = (batch.len() as u32).to_le_bytes().to_vec();
        for (model, inputs) in batch {
            put(&mut frame, &model.encode_to_vec());
            frame.extend((inputs.len() as u32).to_le_bytes());
            for (name, tensor) in *inputs {
                put(&mut frame, name.as_bytes());
                frame.extend(data_type(tensor.dtype()).to_le_bytes());
                frame.extend((tensor.dims().len() as u32).to_le_bytes());
                tensor.dims().iter().for_each(|&d| frame.extend((d as u32).to_le_bytes()));
                put(&mut frame, tensor.bytes());
            }
        }
        let process = match &mut self.process {
            Some(process) => process,
            None => self.process.insert(Process::start(&self.python, &self.script)?),
        };
        self.waiting = true;
        // A process that cannot be written to has ended, which `receive` finds.
        let length = (frame.len() as u32).to_le_bytes();
        let _ = process.stdin.write_all(&length).and_then(|()| process.stdin.write_all(&frame));
        let _ = process.stdin.flush();
        Ok(())
    }

    /// The answers to the batch that was sent, one for each model and way; `None` if the process was lost over it.
    pub fn receive(&mut self) -> Option<Vec<[Answer; WAYS]>> {
        let process = self.process.as_ref().filter(|_| self.waiting)?;
        self.waiting = false;
        let frame = match process.frames.recv_timeout(PATIENCE) {
            Ok(frame) => frame,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                self.process = None;
                return None;
            }
        };
        let answers = answers(&mut frame.as_slice());
        if answers.is_none() {
            self.process = None;
        }
        answers
    }

    /// The answers about one model.
    pub fn ask(&mut self, model: &ModelProto, inputs: &[(String, Tensor)]) -> io::Result<[Answer; WAYS]> {
        self.send(&[(model, inputs)])?;
        let answer = self.receive().and_then(|mut all| all.pop());
        Ok(answer.unwrap_or_else(|| [0; WAYS].map(|_| Answer::Refused(LOST.to_owned()))))
    }
}

fn put(frame: &mut Vec<u8>, bytes: &[u8]) {
    frame.extend((bytes.len() as u32).to_le_bytes());
    frame.extend(bytes);
}

fn number(from: &mut &[u8]) -> Option<u32> {
    let (head, rest) = from.split_first_chunk::<4>()?;
    *from = rest;
    Some(u32::from_le_bytes(*head))
}

fn bytes<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let count = number(from)? as usize;
    let (head, rest) = from.split_at_checked(count)?;
    *from = rest;
    Some(head)
}

fn answers(from: &mut &[u8]) -> Option<Vec<[Answer; WAYS]>> {
    let count = number(from)?;
    (0..count).map(|_| Some([answer(from)?, answer(from)?])).collect()
}

/// A count of outputs, or all ones and a reason.
fn answer(from: &mut &[u8]) -> Option<Answer> {
    let count = number(from)?;
    if count == u32::MAX {
        return Some(Answer::Refused(String::from_utf8_lossy(bytes(from)?).into_owned()));
    }
    let outputs: Option<Vec<Tensor>> = (0..count).map(|_| tensor(from)).collect();
    outputs.map(Answer::Outputs)
}

fn tensor(from: &mut &[u8]) -> Option<Tensor> {
    let dtype = dtype(i32::try_from(number(from)?).ok()?).ok()?;
    let rank = number(from)?;
    let dims: Option<Vec<usize>> = (0..rank).map(|_| number(from).map(|d| d as usize)).collect();
    Tensor::new(dtype, &dims?, Bytes::copied(bytes(from)?)).ok()
}
