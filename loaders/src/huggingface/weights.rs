//! The tensors of a folder: found under the prefixes that libraries save them with, and checked all together.

use std::collections::{BTreeMap, BTreeSet};

use kiln_ir::{DType, Tensor};

use crate::binding::{Mismatch, WeightFaults};
use crate::checkpoint::{CheckpointTensor, Element};

/// First parts of names of heads: tensors of those that the architecture has not are left.
const HEADS: &[&str] = &[
    "classifier",
    "cls",
    "discriminator_predictions",
    "generator_lm_head",
    "generator_predictions",
    "lm_head",
    "pooler",
    "pre_classifier",
    "qa_outputs",
    "score",
    "vocab_layer_norm",
    "vocab_projector",
    "vocab_transform",
];

/// Ends of names of what is saved and never read when a model runs.
const BUFFERS: &[&str] = &[
    ".attn.bias",
    ".attn.masked_bias",
    "embeddings.position_ids",
    "embeddings.token_type_ids",
    "num_batches_tracked",
    "rotary_emb.inv_freq",
];

/// Dense forms of tensors that do not lie densely take at most so many bytes; copies no larger than the file are always
/// made.
const MOST_COPIED: usize = 64 << 20;

/// Tensors by name.
pub(super) type Tensors<'c> = BTreeMap<String, &'c CheckpointTensor>;

/// The tensors of a folder under construction.
pub(super) struct Weights<'c> {
    tensors: Tensors<'c>,
    /// What stands before the names of the backbone's tensors, and before those of the heads.
    backbone: String,
    head: String,
    taken: BTreeSet<String>,
    faults: WeightFaults,
}

impl<'c> Weights<'c> {
    /// The tensors of a model whose backbone saves under `prefix` (`bert.`) or without one, and has a
    /// tensor `probe`. Whatever else stands before them all (`module.`) is found from where the probe is.
    pub(super) fn new(tensors: Tensors<'c>, prefix: &str, probe: &str, problems: usize) -> Self {
        let own = format!("{prefix}{probe}");
        let under = |known: &str| {
            let before = |name: &&String| {
                name.strip_suffix(known).is_some_and(|before| before.is_empty() || before.ends_with('.'))
            };
            let shortest = tensors.keys().filter(before).min_by_key(|name| name.len())?;
            shortest.strip_suffix(known).map(str::to_owned)
        };
        let (backbone, head) = match (under(&own), under(probe)) {
            (Some(before), _) => (format!("{before}{prefix}"), before),
            (None, Some(before)) => (before.clone(), before),
            (None, None) => (prefix.to_owned(), String::new()),
        };
        Weights { tensors, backbone, head, taken: BTreeSet::new(), faults: WeightFaults::new(problems) }
    }

    /// The whole name of a tensor of the backbone.
    pub(super) fn backbone(&self, name: &str) -> String {
        format!("{}{name}", self.backbone)
    }

    /// The whole name of a tensor of a head.
    pub(super) fn head(&self, name: &str) -> String {
        format!("{}{name}", self.head)
    }

    /// Whether there is a tensor of a whole name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Leaves a tensor out, if it is there: it repeats another.
    pub(super) fn leave(&mut self, name: String) {
        self.taken.insert(name);
    }

    /// A tensor of floats by its whole name. None if it is not there or not so; then it is a fault.
    pub(super) fn take(&mut self, name: &str, shape: &[usize]) -> Option<Tensor> {
        let found = [Some(name.to_owned()), older(name)].into_iter().flatten().find(|n| self.has(n));
        let Some(found) = found else {
            self.faults.missing(name, shape);
            return None;
        };
        let tensor = *self.tensors.get(found.as_str())?;
        self.taken.insert(found);
        if tensor.shape != shape {
            self.faults
                .mismatch(name, Mismatch::Shape { expected: shape.to_vec(), found: tensor.shape.clone() });
            return None;
        }
        let is_float =
            matches!(tensor.element, Element::Plain(DType::F32 | DType::F16 | DType::BF16 | DType::F64));
        if !is_float || tensor.quantization.is_some() {
            let found = tensor.element.to_string();
            self.faults
                .mismatch(name, Mismatch::Type { expected: "f32, f16, bf16 or f64".to_owned(), found });
            return None;
        }
        match tensor.to_tensor(MOST_COPIED) {
            Ok(tensor) => Some(tensor),
            Err(fault) => {
                self.faults.mismatch(name, Mismatch::Unreadable(fault.to_string()));
                None
            }
        }
    }

    /// What does not fit of the tensors that were asked for.
    pub(super) fn into_faults_so_far(self) -> WeightFaults {
        self.faults
    }

    /// All that does not fit, tensors included that nothing took.
    pub(super) fn into_faults(mut self) -> WeightFaults {
        let heads: BTreeSet<&str> = self.taken.iter().filter_map(|name| part_of(&self.head, name)).collect();
        let left = |name: &&String| {
            let is_buffer = BUFFERS.iter().any(|end| name.ends_with(end));
            let other_head = [&self.head, &self.backbone]
                .iter()
                .filter_map(|prefix| part_of(prefix, name))
                .any(|part| HEADS.contains(&part) && !heads.contains(part));
            !is_buffer && !other_head && !self.taken.contains(*name)
        };
        let unexpected: Vec<String> = self.tensors.keys().filter(left).cloned().collect();
        for name in unexpected {
            self.faults.unexpected(&name);
        }
        self.faults
    }
}

/// The part of a name after a prefix, up to the next dot.
fn part_of<'n>(prefix: &str, name: &'n str) -> Option<&'n str> {
    name.strip_prefix(prefix)?.split('.').next()
}

/// The name that the first models of the library, converted from TensorFlow, have for a tensor of a normalization.
fn older(name: &str) -> Option<String> {
    let (module, parameter) = name.rsplit_once('.')?;
    let older = match parameter {
        "weight" => "gamma",
        "bias" => "beta",
        _ => return None,
    };
    module.ends_with("LayerNorm").then(|| format!("{module}.{older}"))
}
