//! Running programs in a process that has only their artifacts.

use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::execute::Failure;
use crate::{Request, Verdict};

/// The other process: this binary, asked as the caller asks this one. One that is lost is replaced for the next case.
pub struct Other {
    process: Option<Process>,
    artifact: PathBuf,
}

struct Process {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Other {
    /// Starts it, with this process's arguments other than `--reload`.
    pub fn start() -> io::Result<Self> {
        let artifact = std::env::temp_dir().join(format!("onnx-case-{}.kiln", std::process::id()));
        Ok(Other { process: Some(Process::start()?), artifact })
    }

    /// Compiles and saves a case's model, and lets the other process run the artifact.
    pub fn ask(&mut self, options: &kiln::Options, mut request: Request) -> Result<Verdict, Failure> {
        let compiled = kiln::compile_file(&request.model, options).map_err(Failure::of)?;
        compiled.save(&self.artifact).map_err(Failure::of)?;
        request.model.clone_from(&self.artifact);
        let verdict = self.exchange(&request);
        // A file that is left behind is overwritten by the next case.
        let _ = std::fs::remove_file(&self.artifact);
        verdict
    }

    fn exchange(&mut self, request: &Request) -> Result<Verdict, Failure> {
        let mut process = match self.process.take() {
            Some(process) => process,
            None => Process::start().map_err(|e| Failure::error("starting the other process", e))?,
        };
        // One that cannot be written to has ended; reading then reports that.
        let line = serde_json::to_string(request).map_err(|e| Failure::error("writing a request", e))?;
        let _ = writeln!(process.stdin, "{line}").and_then(|()| process.stdin.flush());
        let mut answer = String::new();
        match process.stdout.read_line(&mut answer) {
            Ok(1..) => {
                let verdict = serde_json::from_str(&answer);
                self.process = Some(process);
                verdict.map_err(|e| Failure::error("the other process's answer", e))
            }
            Ok(0) | Err(_) => Err(process.lost()),
        }
    }
}

impl Process {
    fn start() -> io::Result<Self> {
        let arguments = std::env::args().skip(1).filter(|argument| argument != "--reload");
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let lost = || io::Error::other("the other process has no pipes");
        let stdin = child.stdin.take().ok_or_else(lost)?;
        let stdout = BufReader::new(child.stdout.take().ok_or_else(lost)?);
        Ok(Process { child, stdin, stdout })
    }

    /// What became of the case during which the process ended.
    fn lost(&mut self) -> Failure {
        let detail = match self.child.wait() {
            Ok(status) => format!("it ended with {status}"),
            Err(error) => format!("it was lost: {error}"),
        };
        Failure { status: "crashed", reason: "the process that runs the artifact".to_owned(), detail }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has ended already, or ends now that nobody asks it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
