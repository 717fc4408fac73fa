//! Folders of Hugging Face's libraries: `config.json` names an architecture, and its weights lie beside it.
//!
//! Families are files: each reads the fields that change what it computes, refuses those that ask for what it does not,
//! and builds the graph from the composites that exported models become, so that the passes see the same. Weights are
//! views of the mapped files. Those of f16, bf16 and f64 are converted to f32 where they are used: everything is computed
//! in f32. Tensors that are missing, that nothing uses, or that have another shape than the fields say are one error.
//!
//! Folders of sentence-transformers (`modules.json`) give `sentence_embedding`; others the results that the architecture
//! has in transformers.

mod bert;
mod config;
mod decoder;
mod gpt2;
mod inputs;
mod layers;
mod llama;
mod pooling;
mod resnet;
mod rotary;
mod vit;
mod weights;

use std::path::Path;

use kiln_ir::{GraphBuilder, InferError, Module};

use crate::binding::{self, NewWeights, WeightFaults};
use crate::checkpoint::{self, Checkpoint, CheckpointTensor};
use crate::folder::Folder;
use crate::{LoadError, LoadOptions};

use config::{Config, Task};
use inputs::Inputs;
use layers::Net;
use pooling::Modules;
use weights::{Tensors, Weights};

/// Why a graph is not built.
enum Fault {
    /// What the folder says is wrong or not supported.
    Load(LoadError),
    /// A node does not fit its operands.
    Infer(InferError),
    /// A value has another rank than the layer needs.
    Rank { expected: usize, found: usize },
}

impl From<LoadError> for Fault {
    fn from(error: LoadError) -> Self {
        Fault::Load(error)
    }
}

impl From<InferError> for Fault {
    fn from(error: InferError) -> Self {
        Fault::Infer(error)
    }
}

impl Fault {
    fn into_error(self, path: &Path) -> LoadError {
        let reason = match self {
            Fault::Load(error) => return error,
            Fault::Infer(error) => format!("the fields of the configuration do not fit together: {error}"),
            Fault::Rank { expected, found } => {
                format!("a value has rank {found}, the layer needs {expected}")
            }
        };
        LoadError::Folder { path: path.display().to_string(), reason }
    }
}

/// Names of weights, those that are preferred first.
const WEIGHTS: &[&str] = &[
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];

/// How a family is built: its graph's inputs, nodes and outputs.
type BuildFn = fn(&mut Net<'_, '_>, &Request<'_>) -> Result<(), Fault>;

/// A family of architectures.
struct Family {
    /// `model_type` of its configurations.
    model_type: &'static str,
    /// What the names of the backbone's tensors begin with where a head is beside it.
    prefix: &'static str,
    /// A tensor that every backbone has.
    probe: &'static str,
    /// Builds the graph.
    build: BuildFn,
}

const fn family(
    model_type: &'static str,
    prefix: &'static str,
    probe: &'static str,
    build: BuildFn,
) -> Family {
    Family { model_type, prefix, probe, build }
}

const WORDS: &str = "embeddings.word_embeddings.weight";

const FAMILIES: &[Family] = &[
    family("bert", "bert.", WORDS, bert::build),
    family("camembert", "roberta.", WORDS, bert::build),
    family("distilbert", "distilbert.", WORDS, bert::build),
    family("electra", "electra.", WORDS, bert::build),
    family("gpt2", "transformer.", "wte.weight", gpt2::build),
    family("llama", "model.", "embed_tokens.weight", llama::build),
    family("mistral", "model.", "embed_tokens.weight", llama::build),
    family("qwen2", "model.", "embed_tokens.weight", llama::build),
    family("resnet", "resnet.", "embedder.embedder.convolution.weight", resnet::build),
    family("roberta", "roberta.", WORDS, bert::build),
    family("vit", "vit.", "embeddings.cls_token", vit::build),
    family("xlm-roberta", "roberta.", WORDS, bert::build),
];

/// What a family is asked to build.
struct Request<'r> {
    config: &'r Config,
    model_type: &'r str,
    task: Task,
    /// What a folder of sentence-transformers does with the last hidden state.
    modules: Option<&'r Modules>,
    inputs: Inputs<'r>,
}

/// Builds the graph of a folder.
pub(crate) fn load(path: &Path, options: &LoadOptions) -> Result<Module, LoadError> {
    build(path, options).map_err(|fault| fault.into_error(path))
}

fn build(path: &Path, options: &LoadOptions) -> Result<Module, Fault> {
    let name = path.display().to_string();
    let root = Folder::at(path);
    let modules = if root.has("modules.json") { Some(Modules::read(&root)?) } else { None };
    let place = modules.as_ref().map_or("", |modules| modules.transformer.as_str());
    let place = match place {
        "" => path.to_owned(),
        inner => root.path(inner).map_err(|reason| LoadError::Folder { path: name.clone(), reason })?,
    };
    let folder = Folder::at(&place);
    if !folder.has("config.json") {
        let reason = "it is a folder without `config.json`".to_owned();
        return Err(LoadError::NotAModel { path: place.display().to_string(), reason }.into());
    }
    let config = Config::read(&folder, "config.json")?;
    let model_type = config.text("model_type")?.unwrap_or_default();
    let Some(family) = FAMILIES.iter().find(|family| family.model_type == model_type) else {
        let known: Vec<&str> = FAMILIES.iter().map(|family| family.model_type).collect();
        let known = known.join(", ");
        return Err(config.wrong("model_type", format!("`{model_type:.80}` is not supported, {known} are")));
    };
    if config.get("quantization_config").is_some() {
        return Err(config.wrong("quantization_config", "quantized weights are not supported"));
    }
    let task = if modules.is_some() { Task::Base } else { Task::of(&config)? };
    let weights_of = options.weights.as_ref();
    let own = match weights_of {
        Some(new) if !new.partial => None,
        _ => Some(open_weights(&folder, options)?),
    };
    let new = match weights_of {
        Some(new) => Some((new, binding::open(new, &options.limits).map_err(LoadError::from)?)),
        None => None,
    };
    let mut tensors: Tensors<'_> = own.iter().flat_map(named).collect();
    if let Some((new, found)) = &new {
        replace(&mut tensors, new, found)?;
    }
    let mut module = Module::new();
    let weights = Weights::new(tensors, family.prefix, family.probe, options.limits.problems);
    let mut net = Net::new(GraphBuilder::new(&mut module, "main"), weights, name.clone());
    let inputs = Inputs::new(&name, options);
    let request = Request { config: &config, model_type, task, modules: modules.as_ref(), inputs };
    let built = (family.build)(&mut net, &request);
    let Net { b, weights, .. } = net;
    let faults = match &built {
        Ok(()) => weights.into_faults(),
        // What follows from weights that do not fit says less than the weights. The rest was not asked for.
        Err(Fault::Infer(_) | Fault::Rank { .. }) => weights.into_faults_so_far(),
        Err(Fault::Load(_)) => WeightFaults::default(),
    };
    if !faults.is_empty() {
        let path = weights_of.map_or(name, |new| new.file.display().to_string());
        return Err(LoadError::Weights { path, faults: Box::new(faults) }.into());
    }
    built?;
    let id = b.finish();
    module.add_entry(id);
    Ok(module)
}

fn named(checkpoint: &Checkpoint) -> impl Iterator<Item = (String, &CheckpointTensor)> {
    checkpoint.weights().into_iter().map(|(name, tensor)| (name.to_owned(), tensor))
}

/// Puts the tensors of a checkpoint in place of the folder's, under the names that the rules give them. Those that the
/// folder has not are left out if that is allowed; then some must be there.
fn replace<'c>(
    tensors: &mut Tensors<'c>,
    new: &NewWeights,
    checkpoint: &'c Checkpoint,
) -> Result<(), LoadError> {
    let mut placed = 0usize;
    for (name, tensor) in named(checkpoint) {
        let name = binding::rename(&name, &new.rules);
        if !new.partial || tensors.contains_key(&name) {
            tensors.insert(name, tensor);
            placed += 1;
        }
    }
    match placed {
        0 => Err(LoadError::Option {
            path: new.file.display().to_string(),
            reason: "no tensor of it has the name of a weight".to_owned(),
        }),
        _ => Ok(()),
    }
}

/// Opens the folder's weights: the first file of [`WEIGHTS`] that is there.
fn open_weights(folder: &Folder, options: &LoadOptions) -> Result<Checkpoint, Fault> {
    let Some(file) = WEIGHTS.iter().find(|file| folder.has(file)) else {
        let reason = format!("there are no weights beside `config.json`: none of {}", WEIGHTS.join(", "));
        return Err(LoadError::Folder { path: folder.display(""), reason }.into());
    };
    let fault = |reason: String| LoadError::Folder { path: folder.display(file), reason };
    let bytes = folder.file(file).map_err(fault)?;
    let path = folder.path(file).map_err(fault)?;
    Ok(checkpoint::read(&path, bytes, &options.limits).map_err(LoadError::from)?)
}
