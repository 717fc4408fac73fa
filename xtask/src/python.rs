//! Python environments below `target/venv`, one a purpose, made from the pinned requirements in `xtask/py`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::workspace::{self, Workspace};

/// A purpose that needs Python packages.
#[derive(Clone, Copy)]
pub enum Purpose {
    /// pip alone, to fetch wheels.
    Fetch,
    /// onnx of the newest release, which writes its node cases.
    Cases,
    /// onnxruntime: reference answers and a peer.
    Ort,
    /// onnx and onnxruntime: cases of contributed operators, with answers.
    Contrib,
    /// PyTorch, transformers, sentence-transformers: folders of models, with answers.
    HuggingFace,
    /// OpenVINO: a peer.
    OpenVino,
    /// The quantizers of onnxruntime and OpenVINO, with both.
    Int8,
    /// PyTorch and the exporters: the benchmark models, and Inductor as a peer.
    Zoo,
    /// PyTorch and libraries of models.
    Sweep,
}

impl Purpose {
    fn name(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::Cases => "cases",
            Self::Ort => "ort",
            Self::Contrib => "contrib",
            Self::HuggingFace => "huggingface",
            Self::OpenVino => "openvino",
            Self::Int8 => "int8",
            Self::Zoo => "zoo",
            Self::Sweep => "sweep",
        }
    }

    fn requirements(self) -> &'static str {
        match self {
            Self::Fetch => "",
            Self::Cases => include_str!("../py/requirements-cases.txt"),
            Self::Ort => include_str!("../py/requirements-ort.txt"),
            Self::Contrib => include_str!("../py/requirements-contrib.txt"),
            Self::HuggingFace => include_str!("../py/requirements-huggingface.txt"),
            Self::OpenVino => include_str!("../py/requirements-openvino.txt"),
            Self::Int8 => include_str!("../py/requirements-int8.txt"),
            Self::Zoo => include_str!("../py/requirements-zoo.txt"),
            Self::Sweep => include_str!("../py/requirements-sweep.txt"),
        }
    }
}

/// A Python interpreter that has what a purpose needs.
pub struct Python {
    interpreter: PathBuf,
}

impl Python {
    /// `given` as it is, or else the environment of `purpose`, made or brought up to date first.
    pub fn of(workspace: &Workspace, purpose: Purpose, given: Option<&Path>) -> Result<Self> {
        match given {
            Some(path) => Ok(Self { interpreter: path.to_path_buf() }),
            None => Self::environment(workspace, purpose),
        }
    }

    fn environment(workspace: &Workspace, purpose: Purpose) -> Result<Self> {
        let folder = workspace.target.join("venv").join(purpose.name());
        let bin = folder.join(if cfg!(windows) { "Scripts" } else { "bin" });
        let python = Self { interpreter: bin.join(if cfg!(windows) { "python.exe" } else { "python" }) };
        let stamp = folder.join("requirements.txt");
        if fs::read_to_string(&stamp).is_ok_and(|made_from| made_from == purpose.requirements()) {
            return Ok(python);
        }
        println!("making the Python environment {}", folder.display());
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        workspace::run(Command::new(system_python()?).args(["-m", "venv", "--clear"]).arg(&folder))?;
        if !purpose.requirements().is_empty() {
            let wanted = folder.join("wanted.txt");
            fs::write(&wanted, purpose.requirements()).with_context(|| wanted.display().to_string())?;
            let mut install =
                python.command(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
            workspace::run(install.arg("--requirement").arg(&wanted))?;
        }
        fs::write(&stamp, purpose.requirements()).with_context(|| stamp.display().to_string())?;
        Ok(python)
    }

    /// The interpreter.
    pub fn interpreter(&self) -> &Path {
        &self.interpreter
    }

    /// The interpreter with arguments.
    pub fn command<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = Command::new(&self.interpreter);
        command.args(arguments);
        command
    }

    /// The interpreter on a script of `xtask/py`.
    pub fn script(&self, workspace: &Workspace, name: &str) -> Command {
        let mut command = Command::new(&self.interpreter);
        command.arg(workspace.root.join("xtask/py").join(name));
        command
    }
}

fn system_python() -> Result<&'static str> {
    for name in ["python3", "python"] {
        let version =
            Command::new(name).args(["-c", "import sys, venv; assert sys.version_info >= (3, 10)"]).output();
        if version.is_ok_and(|output| output.status.success()) {
            return Ok(name);
        }
    }
    bail!("this task needs Python 3.10 or newer with its `venv` module, as `python3` on the PATH")
}
