//! The program of an archive as its JSON has it; what the loader does not use is passed over.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, de::IgnoredAny};

/// Version of the schema.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct SchemaVersion {
    /// Changes that break readers.
    pub major: i64,
    /// Others.
    #[serde(default)]
    pub minor: i64,
}

/// The file.
#[derive(Debug, Deserialize)]
pub(super) struct Program {
    pub graph_module: GraphModule,
    #[serde(default)]
    pub range_constraints: BTreeMap<String, Range>,
    pub schema_version: SchemaVersion,
}

/// Values that a symbol may have.
#[derive(Debug, Deserialize)]
pub(super) struct Range {
    #[serde(default)]
    pub min_val: Option<i64>,
    #[serde(default)]
    pub max_val: Option<i64>,
}

#[derive(Debug, Deserialize)]
pub(super) struct GraphModule {
    pub graph: Graph,
    pub signature: Signature,
}

#[derive(Debug, Deserialize)]
pub(super) struct Graph {
    pub inputs: Vec<Argument>,
    pub outputs: Vec<Argument>,
    pub nodes: Vec<Node>,
    #[serde(default)]
    pub tensor_values: BTreeMap<String, TensorMeta>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Node {
    pub target: String,
    pub inputs: Vec<NamedArgument>,
    pub outputs: Vec<Argument>,
    #[serde(default)]
    pub name: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct NamedArgument {
    #[serde(default)]
    pub name: String,
    pub arg: Argument,
}

#[derive(Debug, Deserialize)]
pub(super) struct TensorMeta {
    pub dtype: i64,
    pub sizes: Vec<SymInt>,
    pub strides: Vec<SymInt>,
    #[serde(default = "zero")]
    pub storage_offset: SymInt,
    #[serde(default)]
    pub layout: Option<i64>,
}

fn zero() -> SymInt {
    SymInt::AsInt(0)
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
pub(super) enum SymInt {
    AsExpr(SymExpr),
    AsInt(i64),
}

#[derive(Debug, Deserialize, PartialEq)]
pub(super) struct SymExpr {
    pub expr_str: String,
}

/// Something that has a name in the graph.
#[derive(Debug, Deserialize)]
pub(super) struct Named {
    pub name: String,
}

/// Argument or result of a node. Exactly one of these is given.
#[expect(clippy::enum_variant_names, reason = "these are the names of the schema")]
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Argument {
    AsNone(IgnoredAny),
    AsTensor(Named),
    AsTensors(Vec<Named>),
    AsInt(i64),
    AsInts(Vec<i64>),
    AsFloat(Number),
    AsFloats(Vec<Number>),
    AsString(String),
    AsStrings(Vec<String>),
    AsSymInt(SymIntArgument),
    AsSymInts(Vec<SymIntArgument>),
    AsScalarType(i64),
    AsMemoryFormat(IgnoredAny),
    AsLayout(IgnoredAny),
    AsDevice(IgnoredAny),
    AsBool(bool),
    AsBools(Vec<bool>),
    AsSymBool(SymBoolArgument),
    AsSymBools(Vec<SymBoolArgument>),
    AsGraph(Box<GraphArgument>),
    AsOptionalTensor(OptionalTensor),
    AsOptionalTensors(Vec<OptionalTensor>),
    AsCustomObj(CustomObject),
    AsOperator(String),
    AsSymFloat(SymFloatArgument),
    AsSymFloats(Vec<SymFloatArgument>),
    AsComplex(IgnoredAny),
    AsNestedTensors(Vec<Vec<Named>>),
    AsIntLists(Vec<Vec<i64>>),
    AsFloatLists(Vec<Vec<Number>>),
    AsStringToArgument(IgnoredAny),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum SymIntArgument {
    AsName(String),
    AsInt(i64),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum SymFloatArgument {
    AsName(String),
    AsFloat(Number),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum SymBoolArgument {
    AsName(String),
    AsBool(bool),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum OptionalTensor {
    AsTensor(Named),
    AsNone(IgnoredAny),
}

#[derive(Debug, Deserialize)]
pub(super) struct GraphArgument {
    pub name: String,
    pub graph: Graph,
}

#[derive(Debug, Deserialize)]
pub(super) struct CustomObject {
    pub name: String,
    #[serde(default)]
    pub class_fqn: String,
}

/// A float; those that JSON has no number for are text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Number(pub f64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Number;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number, `Infinity`, `-Infinity` or `NaN`")
            }
            fn visit_f64<E>(self, v: f64) -> Result<Number, E> {
                Ok(Number(v))
            }
            fn visit_i64<E>(self, v: i64) -> Result<Number, E> {
                Ok(Number(v as f64))
            }
            fn visit_u64<E>(self, v: u64) -> Result<Number, E> {
                Ok(Number(v as f64))
            }
            fn visit_str<E: serde::de::Error>(self, v: &str) -> Result<Number, E> {
                match v {
                    "Infinity" => Ok(Number(f64::INFINITY)),
                    "-Infinity" => Ok(Number(f64::NEG_INFINITY)),
                    "NaN" => Ok(Number(f64::NAN)),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(v), &self)),
                }
            }
        }
        d.deserialize_any(Visitor)
    }
}

/// What the graph's inputs and outputs are.
#[derive(Debug, Deserialize)]
pub(super) struct Signature {
    pub input_specs: Vec<InputSpec>,
    pub output_specs: Vec<OutputSpec>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum InputSpec {
    UserInput {
        arg: Argument,
    },
    Parameter {
        arg: Named,
        parameter_name: String,
    },
    Buffer {
        arg: Named,
        buffer_name: String,
        /// Whether checkpoints of the module have it.
        #[serde(default)]
        persistent: Option<bool>,
    },
    TensorConstant {
        arg: Named,
        tensor_constant_name: String,
    },
    CustomObj {
        arg: CustomObject,
    },
    Token {
        arg: Named,
    },
    ConstantInput {
        name: String,
        value: Constant,
    },
}

#[expect(clippy::enum_variant_names, reason = "these are the names of the schema")]
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Constant {
    AsNone(IgnoredAny),
    AsInt(i64),
    AsFloat(Number),
    AsString(String),
    AsBool(bool),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum OutputSpec {
    UserOutput { arg: Argument },
    LossOutput { arg: Named },
    BufferMutation { arg: Named, buffer_name: String },
    ParameterMutation { arg: Named, parameter_name: String },
    GradientToParameter { parameter_name: String },
    GradientToUserInput { user_input_name: String },
    UserInputMutation { arg: Named, user_input_name: String },
    Token { arg: Named },
}

/// Where the tensors of an archive are.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Payloads {
    pub config: BTreeMap<String, Payload>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Payload {
    pub path_name: String,
    #[serde(default)]
    pub use_pickle: bool,
    #[serde(default)]
    pub tensor_meta: Option<TensorMeta>,
}
