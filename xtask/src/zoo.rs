//! The benchmark models, made by `py/zoo.py` in an environment with pinned PyTorch and exporters.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::python::{Purpose, Python};
use crate::workspace::{self, Workspace};

/// The models of the zoo, in the order of the tables.
pub const MODELS: [&str; 6] =
    ["resnet50", "mobilenet_v3_large", "efficientnet_b0", "vit_b_16", "bert_base_128", "minilm6_128"];

#[derive(clap::Args)]
pub struct Options {
    /// The folder to write to.
    out: PathBuf,
    /// The models to write [default: all].
    models: Vec<String>,
    /// A Python interpreter that has the packages already, instead of an environment made below `target/`.
    #[arg(long)]
    python: Option<PathBuf>,
}

/// Writes the models.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let python = Python::of(workspace, Purpose::Zoo, options.python.as_deref())?;
    workspace::run(python.script(workspace, "zoo.py").arg(&options.out).args(&options.models))
}

/// The files of one zoo model.
pub struct ZooModel {
    pub name: String,
    pub model: PathBuf,
    /// The model as `torch.export` saved it; may be missing.
    pub exported: PathBuf,
    pub inputs: PathBuf,
    pub outputs: PathBuf,
}

/// The models named in `names`, or all, from the folder `zoo`; an error says how to make a missing one.
pub fn find(zoo: &Path, names: &[String]) -> Result<Vec<ZooModel>> {
    let all = || MODELS.iter().map(|name| (*name).to_owned()).collect();
    let names: Vec<String> = if names.is_empty() { all() } else { names.to_vec() };
    names.into_iter().map(|name| find_one(zoo, name)).collect()
}

fn find_one(zoo: &Path, name: String) -> Result<ZooModel> {
    let file = |suffix: &str| zoo.join(format!("{name}.{suffix}"));
    let (model, inputs, outputs) = (file("onnx"), file("in.npz"), file("out.npz"));
    if let Some(missing) = [&model, &inputs, &outputs].into_iter().find(|path| !path.is_file()) {
        bail!("{} is not there: `cargo xtask zoo {}` writes it", missing.display(), zoo.display());
    }
    let exported = file("pt2");
    Ok(ZooModel { name, model, exported, inputs, outputs })
}
