//! Which cases there are, where their files lie, and how closely an answer must agree.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::Value;

/// Tolerances of the suite's own runner, where a case does not give others.
const RTOL: f64 = 1e-3;
const ATOL: f64 = 1e-7;

/// The groups that the report counts by, in its order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Family {
    Node,
    NodeExpanded,
    PytorchConverted,
    PytorchOperator,
    Simple,
    LightReal,
}

impl Family {
    pub const ALL: [Self; 6] = [
        Self::Node,
        Self::NodeExpanded,
        Self::PytorchConverted,
        Self::PytorchOperator,
        Self::Simple,
        Self::LightReal,
    ];
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Node => "node",
            Self::NodeExpanded => "node, expanded",
            Self::PytorchConverted => "pytorch-converted",
            Self::PytorchOperator => "pytorch-operator",
            Self::Simple => "simple",
            Self::LightReal => "real, light",
        })
    }
}

/// One case; what of it is serialized is the request that a worker reads.
#[derive(Serialize, Debug)]
pub struct Case {
    #[serde(skip)]
    pub family: Family,
    pub name: String,
    model: PathBuf,
    sets: Vec<DataSet>,
    rtol: f64,
    atol: f64,
    /// Where the probabilities of outputs are that are random by definition: the expected values are then one draw among
    /// many, and shape, range and frequencies are compared.
    pub draws: Option<Draws>,
}

/// Draws of 0 and 1, each with its own probability of 1.
#[derive(Clone, Copy, Serialize, Debug)]
pub struct Draws {
    chances: Chances,
    /// Whether the operator has a seed of its own, with which it repeats itself.
    seeded: bool,
}

#[derive(Clone, Copy, Serialize, Debug)]
#[serde(rename_all = "snake_case")]
enum Chances {
    /// The input holds the probabilities.
    Input,
    /// The input holds their complements: the suite's function for Bernoulli gives 1 where a uniform number exceeds the
    /// input, and is what the expanded cases consist of.
    Complement,
}

/// One call of a case's model.
#[derive(Serialize, Debug)]
struct DataSet {
    /// One file for each of the graph's first inputs; `None` where the suite defines them by a formula: `i / n` for the
    /// element `i` of each `f32` input of `n` elements that is not an initializer.
    inputs: Option<Vec<PathBuf>>,
    /// One file for each of the graph's first outputs.
    outputs: Vec<PathBuf>,
}

/// All cases below `data`, the suite's `onnx/backend/test/data`, ordered by family and name.
pub fn discover(data: &Path) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for folder in ["node", "pytorch-converted", "pytorch-operator", "simple", "real"] {
        let folder_path = data.join(folder);
        // Releases after 1.22.0 have the node cases alone.
        if !folder_path.is_dir() {
            continue;
        }
        for path in entries(&folder_path)? {
            if path.is_dir() {
                cases
                    .push(case(data, folder, &path).with_context(|| format!("the case {}", path.display()))?);
            }
        }
    }
    cases.sort_by(|a, b| (a.family, &a.name).cmp(&(b.family, &b.name)));
    Ok(cases)
}

fn case(data: &Path, folder: &str, path: &Path) -> Result<Case> {
    let name = path.file_name().context("it has no name")?.to_string_lossy().into_owned();
    let family = match folder {
        "node" if name.contains("_expanded") => Family::NodeExpanded,
        "node" => Family::Node,
        "pytorch-converted" => Family::PytorchConverted,
        "pytorch-operator" => Family::PytorchOperator,
        "simple" => Family::Simple,
        _ => Family::LightReal,
    };
    let description = match fs::read_to_string(path.join("data.json")) {
        Ok(text) => serde_json::from_str(&text).context("its data.json")?,
        Err(_) => Value::Null,
    };
    let model = path.join("model.onnx");
    let (model, sets) = if model.is_file() { (model, data_sets(path)?) } else { light(data, &description)? };
    if sets.is_empty() || sets.iter().any(|set| set.outputs.is_empty()) {
        bail!("it has no expected outputs");
    }
    let tolerance = |key: &str, otherwise| description.get(key).and_then(Value::as_f64).unwrap_or(otherwise);
    let (rtol, atol) = (tolerance("rtol", RTOL), tolerance("atol", ATOL));
    // The suite's own page says of these that implementations need not agree even on a seed.
    let draws = name.starts_with("test_bernoulli").then(|| Draws {
        chances: if family == Family::NodeExpanded { Chances::Complement } else { Chances::Input },
        seeded: name.contains("_seed"),
    });
    Ok(Case { family, name, model, sets, rtol, atol, draws })
}

/// A real model whose weights are left to a formula: `light/X.onnx` with its answers `light/X_output_N.pb` beside it.
fn light(data: &Path, description: &Value) -> Result<(PathBuf, Vec<DataSet>)> {
    let url =
        description.get("url").and_then(Value::as_str).context("it has neither a model.onnx nor a url")?;
    let file = url.rsplit('/').next().unwrap_or(url);
    let stem = file.strip_suffix(".onnx").with_context(|| format!("its url is not a model's: {url}"))?;
    let folder = data.join("light");
    let model = folder.join(file);
    if !model.is_file() {
        bail!("its model is not at {}", model.display());
    }
    let outputs = numbered(&folder, &format!("{stem}_output_"));
    Ok((model, vec![DataSet { inputs: None, outputs }]))
}

fn data_sets(path: &Path) -> Result<Vec<DataSet>> {
    let mut sets = Vec::new();
    for folder in entries(path)? {
        let named =
            folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with("test_data_set_"));
        if named && folder.is_dir() {
            sets.push(DataSet {
                inputs: Some(numbered(&folder, "input_")),
                outputs: numbered(&folder, "output_"),
            });
        }
    }
    Ok(sets)
}

/// The files `PREFIX0.pb`, `PREFIX1.pb`, ... of `folder`, up to the first that is missing.
fn numbered(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let file = |index: usize| folder.join(format!("{prefix}{index}.pb"));
    (0..).map(file).take_while(|path| path.is_file()).collect()
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = || -> std::io::Result<Vec<PathBuf>> {
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
    };
    let mut paths = read().with_context(|| folder.display().to_string())?;
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
impl Case {
    /// A case without files.
    pub fn named(name: &str) -> Self {
        let (name, model) = (name.to_owned(), PathBuf::new());
        let (rtol, atol) = (RTOL, ATOL);
        Self { family: Family::Node, name, model, sets: Vec::new(), rtol, atol, draws: None }
    }
}
