//! `config.json` and its relatives: fields by name, each checked where it is read.
//!
//! Numbers are bounded here, so that what is computed from them does not overflow: a size is below 2^31, and the layers
//! of a model are at most [`MOST_LAYERS`].

use serde_json::{Map, Value};

use super::Fault;
use crate::LoadError;
use crate::folder::Folder;

/// Most layers that a model has. The deepest published ones have about a thousand.
pub(super) const MOST_LAYERS: usize = 1024;

/// Most bytes of a file of fields.
const MOST_BYTES: usize = 1 << 22;

/// The fields of a file, or of an object in it.
pub(super) struct Config {
    file: String,
    /// Names of the objects that lead here, each with a dot.
    place: String,
    fields: Map<String, Value>,
}

/// Parses a file of JSON of the folder.
pub(super) fn json(folder: &Folder, location: &str) -> Result<Value, LoadError> {
    let fault = |reason: String| LoadError::Folder { path: folder.display(location), reason };
    let bytes = folder.file(location).map_err(fault)?;
    if bytes.len() > MOST_BYTES {
        let what = "the file, in bytes,".to_owned();
        return Err(LoadError::Limit { path: folder.display(location), what, limit: MOST_BYTES });
    }
    serde_json::from_slice(&bytes).map_err(|e| fault(e.to_string()))
}

impl Config {
    /// Reads the fields of a file of the folder.
    pub(super) fn read(folder: &Folder, location: &str) -> Result<Self, LoadError> {
        match json(folder, location)? {
            Value::Object(fields) => {
                Ok(Config { file: folder.display(location), place: String::new(), fields })
            }
            _ => {
                let reason = "expected an object of fields".to_owned();
                Err(LoadError::Folder { path: folder.display(location), reason })
            }
        }
    }

    /// A fault of a field.
    pub(super) fn wrong(&self, field: &str, reason: impl Into<String>) -> Fault {
        let reason = format!("`{}{field}`: {}", self.place, reason.into());
        Fault::Load(LoadError::Folder { path: self.file.clone(), reason })
    }

    /// The value of a field; fields that are null are not there.
    pub(super) fn get(&self, field: &str) -> Option<&Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    /// Whether there is no field.
    pub(super) fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Whether the field is written, if only as null.
    pub(super) fn mentions(&self, field: &str) -> bool {
        self.fields.contains_key(field)
    }

    fn expected(&self, field: &str, what: &str) -> Fault {
        match self.fields.get(field) {
            None => self.wrong(field, format!("expected {what}, the field is missing")),
            Some(value) => {
                let shown: String = value.to_string().chars().take(80).collect();
                self.wrong(field, format!("expected {what}, found {shown}"))
            }
        }
    }

    /// A size that is at least 1.
    pub(super) fn size(&self, field: &str, default: Option<usize>) -> Result<usize, Fault> {
        self.number(field, default, 1)
    }

    /// A size that may be 0.
    pub(super) fn count(&self, field: &str, default: Option<usize>) -> Result<usize, Fault> {
        self.number(field, default, 0)
    }

    fn number(&self, field: &str, default: Option<usize>, least: usize) -> Result<usize, Fault> {
        let what = || self.expected(field, &format!("a whole number from {least} to 2147483647"));
        match self.get(field) {
            Some(value) => size_of(value).filter(|&n| n >= least).ok_or_else(what),
            None => default.ok_or_else(what),
        }
    }

    /// A number of layers.
    pub(super) fn layers(&self, field: &str, default: Option<usize>) -> Result<usize, Fault> {
        let count = self.count(field, default)?;
        match count <= MOST_LAYERS {
            true => Ok(count),
            false => {
                Err(self.wrong(field, format!("{count} layers are more than the limit of {MOST_LAYERS}")))
            }
        }
    }

    /// Sizes that are written as a list.
    pub(super) fn sizes(&self, field: &str) -> Result<Option<Vec<usize>>, Fault> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let list = value.as_array().filter(|list| list.len() <= MOST_LAYERS);
        let sizes = list.and_then(|list| list.iter().map(size_of).collect::<Option<Vec<usize>>>());
        let sizes = sizes.filter(|sizes| sizes.iter().all(|&n| n >= 1));
        sizes.map(Some).ok_or_else(|| self.expected(field, "a list of sizes"))
    }

    /// Height and width, written as two sizes or one.
    pub(super) fn area(&self, field: &str, default: usize) -> Result<[usize; 2], Fault> {
        if self.get(field).is_some_and(Value::is_array) {
            return match self.sizes(field)?.as_deref() {
                Some(&[height, width]) => Ok([height, width]),
                _ => Err(self.expected(field, "two sizes")),
            };
        }
        self.size(field, Some(default)).map(|size| [size, size])
    }

    /// A finite number.
    pub(super) fn float(&self, field: &str, default: f64) -> Result<f64, Fault> {
        match self.get(field) {
            None => Ok(default),
            Some(value) => {
                value.as_f64().filter(|v| v.is_finite()).ok_or_else(|| self.expected(field, "a number"))
            }
        }
    }

    /// A positive number.
    pub(super) fn positive(&self, field: &str, default: f64) -> Result<f64, Fault> {
        let value = self.float(field, default)?;
        if value > 0.0 { Ok(value) } else { Err(self.expected(field, "a positive number")) }
    }

    /// A flag.
    pub(super) fn flag(&self, field: &str, default: bool) -> Result<bool, Fault> {
        match self.get(field) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| self.expected(field, "true or false")),
        }
    }

    /// A text.
    pub(super) fn text(&self, field: &str) -> Result<Option<&str>, Fault> {
        match self.get(field) {
            None => Ok(None),
            Some(value) => value.as_str().map(Some).ok_or_else(|| self.expected(field, "a text")),
        }
    }

    /// A list of texts.
    pub(super) fn texts(&self, field: &str) -> Result<Option<Vec<&str>>, Fault> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let list = value.as_array().map(|list| list.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
        list.flatten().map(Some).ok_or_else(|| self.expected(field, "a list of texts"))
    }

    /// The fields of an object.
    pub(super) fn object(&self, field: &str) -> Result<Option<Config>, Fault> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(Config {
                file: self.file.clone(),
                place: format!("{}{field}.", self.place),
                fields: fields.clone(),
            })),
            Some(_) => Err(self.expected(field, "an object")),
        }
    }

    /// An activation by the name that transformers' `ACT2FN` has for it.
    pub(super) fn activation(&self, field: &str, default: &str) -> Result<Activation, Fault> {
        let name = self.text(field)?.unwrap_or(default);
        Activation::of(name).ok_or_else(|| {
            let known: Vec<&str> = ACTIVATIONS.iter().map(|(name, ..)| *name).collect();
            self.wrong(field, format!("activation `{name:.80}` is not supported, {} are", known.join(", ")))
        })
    }

    /// Refuses what changes the computation and is not implemented: flags that must be off.
    pub(super) fn refuse_flags(&self, fields: &[&str]) -> Result<(), Fault> {
        for field in fields {
            if self.flag(field, false)? {
                return Err(self.wrong(field, "true is not supported"));
            }
        }
        Ok(())
    }

    /// How many classes a head tells apart.
    pub(super) fn labels(&self) -> Result<usize, Fault> {
        match self.object("id2label")? {
            Some(labels) if !labels.fields.is_empty() => Ok(labels.fields.len()),
            _ => self.size("num_labels", Some(2)),
        }
    }
}

/// A size below 2^31.
fn size_of(value: &Value) -> Option<usize> {
    value.as_u64().filter(|&n| n <= 0x7fff_ffff).and_then(|n| usize::try_from(n).ok())
}

/// A pointwise function between layers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Activation {
    /// The row of the elementwise table; none for the identity.
    pub(super) row: Option<&'static str>,
    /// Its attributes.
    pub(super) attributes: &'static [f64],
}

/// Names of transformers, rows, attributes.
const ACTIVATIONS: &[(&str, Option<&str>, &[f64])] = &[
    ("gelu", Some("gelu"), &[]),
    ("gelu_python", Some("gelu"), &[]),
    ("gelu_new", Some("gelu_tanh"), &[]),
    ("gelu_fast", Some("gelu_tanh"), &[]),
    ("gelu_pytorch_tanh", Some("gelu_tanh"), &[]),
    ("gelu_python_tanh", Some("gelu_tanh"), &[]),
    ("quick_gelu", Some("silu"), &[1.702]),
    ("relu", Some("relu"), &[]),
    ("leaky_relu", Some("leaky_relu"), &[0.01]),
    ("silu", Some("silu"), &[1.0]),
    ("swish", Some("silu"), &[1.0]),
    ("mish", Some("mish"), &[]),
    ("sigmoid", Some("sigmoid"), &[]),
    ("tanh", Some("tanh"), &[]),
    ("linear", None, &[]),
];

impl Activation {
    /// The activation of a name.
    pub(super) fn of(name: &str) -> Option<Self> {
        let found = ACTIVATIONS.iter().find(|(known, ..)| *known == name);
        found.map(|&(_, row, attributes)| Activation { row, attributes })
    }
}

/// What a model computes from its last hidden state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// Nothing more.
    Base,
    /// A token at each place that is hidden.
    MaskedLm,
    /// The next token.
    CausalLm,
    /// A class of the whole sequence.
    SequenceClassification,
    /// A class of each token.
    TokenClassification,
    /// Beginning and end of an answer.
    QuestionAnswering,
    /// What the model was trained on first.
    PreTraining,
    /// A class of the image.
    ImageClassification,
}

/// Ends of the names of architectures, longer ones first.
const TASKS: &[(&str, Task)] = &[
    ("ForMaskedLM", Task::MaskedLm),
    ("ForCausalLM", Task::CausalLm),
    ("LMHeadModel", Task::CausalLm),
    ("ForSequenceClassification", Task::SequenceClassification),
    ("ForTokenClassification", Task::TokenClassification),
    ("ForQuestionAnswering", Task::QuestionAnswering),
    ("ForPreTraining", Task::PreTraining),
    ("ForImageClassification", Task::ImageClassification),
    ("Model", Task::Base),
];

impl Task {
    /// The task of the first architecture that the fields name; none named is the bare model.
    pub(super) fn of(config: &Config) -> Result<Self, Fault> {
        let names = config.texts("architectures")?.unwrap_or_default();
        let Some(name) = names.first() else { return Ok(Task::Base) };
        let found = TASKS.iter().find(|(end, _)| name.ends_with(end)).map(|(_, task)| *task);
        // `GPT2DoubleHeadsModel` and the like are more than the bare model.
        let found = found.filter(|&task| task != Task::Base || !name.contains("Head"));
        found.ok_or_else(|| unsupported(config, name))
    }
}

/// The fault of an architecture without an implementation.
pub(super) fn unsupported(config: &Config, name: &str) -> Fault {
    config.wrong("architectures", format!("`{name:.120}` is not supported"))
}
