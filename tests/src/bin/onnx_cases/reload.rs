//! Running programs in a process that has only their artifacts.

use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::execute::Failure;
use crate::{Request, Verdict};

/// The other process: this binary, asked as the caller asks this one.
pub struct Other {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    artifact: PathBuf,
}

impl Other {
    /// Starts it, with this process's arguments other than `--reload`.
    pub fn start() -> io::Result<Self> {
        let arguments = std::env::args().skip(1).filter(|argument| argument != "--reload");
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let lost = || io::Error::other("the other process has no pipes");
        let stdin = child.stdin.take().ok_or_else(lost)?;
        let stdout = BufReader::new(child.stdout.take().ok_or_else(lost)?);
        let artifact = std::env::temp_dir().join(format!("onnx-case-{}.kiln", std::process::id()));
        Ok(Other { child, stdin, stdout, artifact })
    }

    /// Compiles and saves a case's model, and lets the other process run the artifact.
    pub fn ask(&mut self, options: &kiln::Options, mut request: Request) -> Result<Verdict, Failure> {
        let compiled = kiln::compile_file(&request.model, options).map_err(Failure::of)?;
        compiled.save(&self.artifact).map_err(Failure::of)?;
        request.model.clone_from(&self.artifact);
        let verdict = self.exchange(&request).map_err(|e| Failure::error("the other process", e));
        // A file that is left behind is overwritten by the next case.
        let _ = std::fs::remove_file(&self.artifact);
        verdict
    }

    fn exchange(&mut self, request: &Request) -> io::Result<Verdict> {
        writeln!(self.stdin, "{}", serde_json::to_string(request)?)?;
        self.stdin.flush()?;
        let mut line = String::new();
        match self.stdout.read_line(&mut line)? {
            0 => Err(io::Error::other(format!("it ended with {}", self.child.wait()?))),
            _ => Ok(serde_json::from_str(&line)?),
        }
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // It has ended already, or ends now that nobody asks it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
