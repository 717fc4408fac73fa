//! What operators of ATen take and give.

use kiln_ir::{DType, Dim, Value};

/// An operand or a result.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Arg {
    /// Nothing, where that is allowed.
    None,
    /// A tensor.
    Tensor(Value),
    /// An integer: a constant, or an expression over sizes.
    Int(Dim),
    /// A float.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A number that shows at run time: a rank-0 tensor of i64, f64 or bool.
    Scalar(Value),
    /// Text: a mode, a name.
    Str(String),
    /// An element type. Integers stand for element types, too, where TorchScript writes them.
    DType(DType),
    /// What has no meaning here: a device, a layout, a memory format, a generator.
    Ignored,
    /// A list or a tuple.
    List(Vec<Arg>),
}

impl Arg {
    /// A constant integer.
    pub(crate) fn int(value: i64) -> Arg {
        Arg::Int(Dim::known(value))
    }

    /// A list of tensors.
    pub(crate) fn tensors(values: impl IntoIterator<Item = Value>) -> Arg {
        Arg::List(values.into_iter().map(Arg::Tensor).collect())
    }

    /// A list of integers.
    pub(crate) fn dims(dims: impl IntoIterator<Item = Dim>) -> Arg {
        Arg::List(dims.into_iter().map(Arg::Int).collect())
    }

    /// Whether it is [`Arg::None`].
    pub(crate) fn is_none(&self) -> bool {
        matches!(self, Arg::None)
    }

    /// What it is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Arg::None => "None",
            Arg::Tensor(_) => "a tensor",
            Arg::Int(_) => "an integer",
            Arg::Float(_) => "a float",
            Arg::Bool(_) => "a bool",
            Arg::Scalar(_) => "a number of run time",
            Arg::Str(_) => "a string",
            Arg::DType(_) => "an element type",
            Arg::Ignored => "a device or layout",
            Arg::List(_) => "a list",
        }
    }
}

/// The element type that torch's number stands for (`c10::ScalarType`).
pub(crate) fn scalar_type(code: i64) -> Option<DType> {
    Some(match code {
        0 => DType::U8,
        1 => DType::I8,
        2 => DType::I16,
        3 => DType::I32,
        4 => DType::I64,
        5 => DType::F16,
        6 => DType::F32,
        7 => DType::F64,
        9 => DType::C64,
        10 => DType::C128,
        11 => DType::Bool,
        15 => DType::BF16,
        23 => DType::F8E5M2,
        24 => DType::F8E4M3FN,
        25 => DType::F8E5M2FNUZ,
        26 => DType::F8E4M3FNUZ,
        27 => DType::U16,
        28 => DType::U32,
        29 => DType::U64,
        _ => return None,
    })
}
