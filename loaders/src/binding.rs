//! Tensors of a checkpoint in place of those that a model file holds, by name.
//!
//! A tensor takes an initializer's place if it has its name, after the rules that the caller gives, and its shape. Its
//! type is the same, or a float that the initializer's type holds exactly: f16 and bf16 become f32 or f64, and f32
//! becomes f64. Nothing is rounded; other types do not fit.
//!
//! What must be there are the weights: initializers of floats that have an axis. Others (numbers that the exporter wrote
//! for shapes and scales) are replaced if the checkpoint has them, and else stay. Unless the caller relaxes it, weights
//! without a tensor and tensors without an initializer are an error, and every name that does not fit is in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use half::{bf16, f16};
use kiln_ir::{DType, Tensor};

use crate::checkpoint::{Checkpoint, CheckpointError, CheckpointTensor};
use crate::{Limits, LoadError};

/// Where the weights of a graph come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewWeights {
    /// The checkpoint: any file that `kiln inspect` shows.
    pub file: PathBuf,
    /// What becomes of its names: the first rule that fits applies.
    pub rules: Vec<NameRule>,
    /// Whether weights may be missing and tensors left over. What is missing keeps the file's values.
    pub partial: bool,
}

/// A rule for names: `FROM=TO` or `FROM->TO`. Names that begin with `FROM` begin with `TO` instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameRule {
    /// What a name of the checkpoint begins with.
    pub from: String,
    /// What the name of the initializer begins with.
    pub to: String,
}

impl FromStr for NameRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once("->").or_else(|| text.split_once('='));
        let (from, to) = parts.ok_or_else(|| format!("`{text}` is no rule: expected FROM=TO or FROM->TO"))?;
        let (from, to) = (from.trim().to_owned(), to.trim().to_owned());
        match from.is_empty() && to.is_empty() {
            true => Err(format!("`{text}` changes nothing")),
            false => Ok(NameRule { from, to }),
        }
    }
}

/// Why a tensor does not fit its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// Another shape.
    Shape {
        /// What the place has.
        expected: Vec<usize>,
        /// What the tensor has.
        found: Vec<usize>,
    },
    /// Another type.
    Type {
        /// What the place takes.
        expected: String,
        /// What the tensor has.
        found: String,
    },
    /// Its data cannot be read.
    Unreadable(String),
    /// Another tensor has the same name, after the rules.
    Twice(String),
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mismatch::Shape { expected, found } => write!(f, "expected shape {expected:?}, found {found:?}"),
            Mismatch::Type { expected, found } => write!(f, "expected {expected}, found {found}"),
            Mismatch::Unreadable(reason) => f.write_str(reason),
            Mismatch::Twice(other) => write!(f, "`{other}` takes the same place"),
        }
    }
}

/// Everything in which a checkpoint and a model differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WeightFaults {
    /// Names that the model needs, with their shapes, and the checkpoint lacks.
    pub missing: Vec<(String, Vec<usize>)>,
    /// Names of the checkpoint that have no place in the model.
    pub unexpected: Vec<String>,
    /// Tensors that do not fit their places.
    pub mismatched: Vec<(String, Mismatch)>,
    /// How many more there are.
    pub unlisted: usize,
    most: usize,
}

/// Most characters of a name of a file that a message repeats.
const MOST_NAME: usize = 256;

fn short(name: &str) -> String {
    name.chars().take(MOST_NAME).collect()
}

impl WeightFaults {
    /// None yet; at most `most` are listed, and the others counted.
    pub(crate) fn new(most: usize) -> Self {
        WeightFaults { most: most.max(1), ..WeightFaults::default() }
    }

    /// Whether all fits.
    pub fn is_empty(&self) -> bool {
        self.listed() + self.unlisted == 0
    }

    fn listed(&self) -> usize {
        self.missing.len() + self.unexpected.len() + self.mismatched.len()
    }

    fn room(&mut self) -> bool {
        let room = self.listed() < self.most;
        self.unlisted += usize::from(!room);
        room
    }

    pub(crate) fn missing(&mut self, name: &str, shape: &[usize]) {
        if self.room() {
            self.missing.push((short(name), shape.to_vec()));
        }
    }

    pub(crate) fn unexpected(&mut self, name: &str) {
        if self.room() {
            self.unexpected.push(short(name));
        }
    }

    pub(crate) fn mismatch(&mut self, name: &str, mismatch: Mismatch) {
        if self.room() {
            self.mismatched.push((short(name), mismatch));
        }
    }
}

impl fmt::Display for WeightFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            (self.missing.len(), "missing"),
            (self.unexpected.len(), "unexpected"),
            (self.mismatched.len(), "of another shape or type"),
            (self.unlisted, "more"),
        ];
        let counts: Vec<String> =
            counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
        write!(f, "the weights do not fit: {}", counts.join(", "))?;
        for (name, shape) in &self.missing {
            write!(f, "\n  missing: `{name}` {shape:?}")?;
        }
        for name in &self.unexpected {
            write!(f, "\n  unexpected: `{name}`")?;
        }
        for (name, mismatch) in &self.mismatched {
            write!(f, "\n  `{name}`: {mismatch}")?;
        }
        Ok(())
    }
}

/// Dense forms of tensors that do not lie densely take at most so many bytes each; copies no larger than the file are
/// always made.
const MOST_COPIED: usize = 64 << 20;

/// A checkpoint while its tensors take their places.
pub(crate) struct Binding<'c> {
    path: String,
    tensors: BTreeMap<String, (&'c str, &'c CheckpointTensor)>,
    used: BTreeSet<String>,
    faults: WeightFaults,
    partial: bool,
}

impl<'c> Binding<'c> {
    /// The tensors of a checkpoint under the names that the rules give them.
    pub(crate) fn new(weights: &NewWeights, checkpoint: &'c Checkpoint, limits: &Limits) -> Self {
        let mut faults = WeightFaults::new(limits.problems);
        let mut tensors: BTreeMap<String, (&str, &CheckpointTensor)> = BTreeMap::new();
        for (name, tensor) in checkpoint.weights() {
            let renamed = rename(name, &weights.rules);
            if let Some((other, _)) = tensors.get(&renamed) {
                faults.mismatch(name, Mismatch::Twice((*other).to_owned()));
                continue;
            }
            tensors.insert(renamed, (name, tensor));
        }
        let path = weights.file.display().to_string();
        Binding { path, tensors, used: BTreeSet::new(), faults, partial: weights.partial }
    }

    /// The tensor for an initializer: that of the checkpoint, else what the file has. A tensor that does not fit is a
    /// fault of the whole.
    pub(crate) fn bind(&mut self, name: &str, own: Tensor) -> Tensor {
        let Some(&(_, tensor)) = self.tensors.get(name) else {
            if !self.partial && own.dtype().is_float() && !own.dims().is_empty() {
                self.faults.missing(name, own.dims());
            }
            return own;
        };
        self.used.insert(name.to_owned());
        match replacement(tensor, &own) {
            Ok(tensor) => tensor,
            Err(mismatch) => {
                self.faults.mismatch(name, mismatch);
                own
            }
        }
    }

    /// Whether the checkpoint has a tensor of that name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Another name of a tensor that has taken the place of `first`: the checkpoint may lack it, and has the same elements
    /// otherwise.
    pub(crate) fn also(&mut self, name: &str, bound: &Tensor, first: &str) {
        let Some(&(_, tensor)) = self.tensors.get(name) else { return };
        self.used.insert(name.to_owned());
        if !replacement(tensor, bound).is_ok_and(|found| found == *bound) {
            self.faults.mismatch(name, Mismatch::Twice(first.to_owned()));
        }
    }

    /// Fails with everything that did not fit.
    pub(crate) fn finish(mut self) -> Result<(), LoadError> {
        let left = |(name, _): &(&String, &(&str, &CheckpointTensor))| {
            // A count of training steps, which no graph for inference has.
            !self.used.contains(*name) && !name.ends_with("num_batches_tracked")
        };
        let unexpected: Vec<String> = match self.partial {
            true => vec![],
            false => self.tensors.iter().filter(left).map(|(_, (name, _))| (*name).to_owned()).collect(),
        };
        if self.partial && self.used.is_empty() {
            let reason = "no tensor of it has the name of an initializer".to_owned();
            return Err(LoadError::Option { path: self.path, reason });
        }
        for name in unexpected {
            self.faults.unexpected(&name);
        }
        match self.faults.is_empty() {
            true => Ok(()),
            false => Err(LoadError::Weights { path: self.path, faults: Box::new(self.faults) }),
        }
    }
}

/// A name after the first rule that fits.
pub(crate) fn rename(name: &str, rules: &[NameRule]) -> String {
    let renamed =
        rules.iter().find_map(|rule| Some(format!("{}{}", rule.to, name.strip_prefix(rule.from.as_str())?)));
    renamed.unwrap_or_else(|| name.to_owned())
}

fn replacement(tensor: &CheckpointTensor, own: &Tensor) -> Result<Tensor, Mismatch> {
    if tensor.shape != own.dims() {
        return Err(Mismatch::Shape { expected: own.dims().to_vec(), found: tensor.shape.clone() });
    }
    if tensor.quantization.is_some() {
        let found = format!("quantized {}", tensor.element);
        return Err(Mismatch::Type { expected: own.dtype().to_string(), found });
    }
    let found = tensor.to_tensor(MOST_COPIED).map_err(|fault| Mismatch::Unreadable(fault.to_string()))?;
    if found.dtype() == own.dtype() {
        return Ok(found);
    }
    widened(&found, own.dtype()).unwrap_or_else(|| {
        Err(Mismatch::Type { expected: own.dtype().to_string(), found: found.dtype().to_string() })
    })
}

/// The same numbers in a wider type of floats; none if it does not hold them all.
fn widened(from: &Tensor, to: DType) -> Option<Result<Tensor, Mismatch>> {
    let unreadable = |e: kiln_ir::TensorError| Mismatch::Unreadable(e.to_string());
    let numbers: Vec<f32> = match from.dtype() {
        DType::F32 => from.bytes().chunks_exact(4).map(f32_of).collect(),
        DType::F16 => halves(from).map(|bits| f16::from_bits(bits).to_f32()).collect(),
        DType::BF16 => halves(from).map(|bits| bf16::from_bits(bits).to_f32()).collect(),
        _ => return None,
    };
    match (from.dtype(), to) {
        (DType::F16 | DType::BF16, DType::F32) => {
            Some(Tensor::from_slice(from.dims(), &numbers).map_err(unreadable))
        }
        (_, DType::F64) => {
            let numbers: Vec<f64> = numbers.into_iter().map(f64::from).collect();
            Some(Tensor::from_slice(from.dims(), &numbers).map_err(unreadable))
        }
        _ => None,
    }
}

fn f32_of(bytes: &[u8]) -> f32 {
    bytes.try_into().map_or(0.0, f32::from_le_bytes)
}

fn halves(tensor: &Tensor) -> impl Iterator<Item = u16> {
    tensor.bytes().chunks_exact(2).map(|pair| pair.try_into().map_or(0, u16::from_le_bytes))
}

/// Opens the checkpoint that new weights come from.
pub(crate) fn open(weights: &NewWeights, limits: &Limits) -> Result<Checkpoint, CheckpointError> {
    crate::checkpoint::open(&weights.file, limits)
}
