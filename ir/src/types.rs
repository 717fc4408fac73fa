//! Types of values: tensors with symbolic shapes, sequences, optionals and state handles.

use std::fmt;

use crate::{DType, Dim};

/// A shape: a list of dims, or of unknown rank.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Shape(Option<Vec<Dim>>);

impl Shape {
    /// A shape of known rank.
    pub fn new(dims: impl Into<Vec<Dim>>) -> Self {
        Shape(Some(dims.into()))
    }

    /// A shape of constant dims.
    pub fn fixed(dims: &[i64]) -> Self {
        Shape(Some(dims.iter().copied().map(Dim::known).collect()))
    }

    /// A shape about which not even the rank is known.
    pub const fn unranked() -> Self {
        Shape(None)
    }

    /// The dims, if the rank is known.
    pub fn dims(&self) -> Option<&[Dim]> {
        self.0.as_deref()
    }

    /// The rank, if it is known.
    pub fn rank(&self) -> Option<usize> {
        self.0.as_ref().map(Vec::len)
    }

    /// The constant dims, if all are constant.
    pub fn as_fixed(&self) -> Option<Vec<i64>> {
        self.0.as_ref()?.iter().map(Dim::as_known).collect()
    }

    /// Number of elements as a dim; unknown where the rank or a dim is.
    pub fn numel(&self) -> Dim {
        match &self.0 {
            Some(dims) => dims.iter().fold(Dim::known(1), |a, b| &a * b),
            None => Dim::unknown(),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(dims) = &self.0 else { return f.write_str("[*]") };
        f.write_str("[")?;
        for (i, d) in dims.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{d}")?;
        }
        f.write_str("]")
    }
}

/// Dtype and shape of a tensor.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct TensorType {
    /// Element type.
    pub dtype: DType,
    /// Shape, outermost dim first.
    pub shape: Shape,
}

impl TensorType {
    /// A tensor type of known rank.
    pub fn new(dtype: DType, dims: impl Into<Vec<Dim>>) -> Self {
        TensorType { dtype, shape: Shape::new(dims) }
    }

    /// A tensor type of constant dims.
    pub fn fixed(dtype: DType, dims: &[i64]) -> Self {
        TensorType { dtype, shape: Shape::fixed(dims) }
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.dtype, self.shape)
    }
}

/// Type of a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// A tensor.
    Tensor(TensorType),
    /// A list of values of one type.
    Sequence(Box<Type>),
    /// A value that may be absent.
    Optional(Box<Type>),
}

impl Type {
    /// A tensor of known rank.
    pub fn tensor(dtype: DType, dims: impl Into<Vec<Dim>>) -> Self {
        Type::Tensor(TensorType::new(dtype, dims))
    }

    /// A tensor of constant dims.
    pub fn fixed(dtype: DType, dims: &[i64]) -> Self {
        Type::Tensor(TensorType::fixed(dtype, dims))
    }

    /// A tensor of unknown rank.
    pub fn unranked(dtype: DType) -> Self {
        Type::Tensor(TensorType { dtype, shape: Shape::unranked() })
    }

    /// The tensor type, if the value is a tensor.
    pub fn as_tensor(&self) -> Option<&TensorType> {
        match self {
            Type::Tensor(t) => Some(t),
            Type::Sequence(_) | Type::Optional(_) => None,
        }
    }

    /// The type with every dim passed through `map`.
    pub fn map_dims(&self, map: &mut dyn FnMut(&Dim) -> Dim) -> Type {
        match self {
            Type::Tensor(t) => Type::Tensor(TensorType {
                dtype: t.dtype,
                shape: Shape(t.shape.0.as_ref().map(|dims| dims.iter().map(&mut *map).collect())),
            }),
            Type::Sequence(t) => Type::Sequence(Box::new(t.map_dims(map))),
            Type::Optional(t) => Type::Optional(Box::new(t.map_dims(map))),
        }
    }

    /// Whether a value of type `self` may stand where `hint` is declared: same structure and dtype, and no dim that
    /// is constant in both differs.
    pub fn is_compatible(&self, hint: &Type) -> bool {
        match (self, hint) {
            (Type::Tensor(a), Type::Tensor(b)) => {
                a.dtype == b.dtype
                    && match (a.shape.dims(), b.shape.dims()) {
                        (Some(x), Some(y)) => {
                            x.len() == y.len()
                                && x.iter().zip(y).all(|(x, y)| match (x.as_known(), y.as_known()) {
                                    (Some(x), Some(y)) => x == y,
                                    _ => true,
                                })
                        }
                        _ => true,
                    }
            }
            (Type::Sequence(a), Type::Sequence(b)) | (Type::Optional(a), Type::Optional(b)) => {
                a.is_compatible(b)
            }
            _ => false,
        }
    }
}

/// Sequences and optionals around each other that a stored type may have.
const MAX_NESTING: usize = 64;

#[derive(serde::Serialize, serde::Deserialize)]
enum Wrapper {
    Sequence,
    Optional,
}

/// A type as it is stored: flat, so that reading it needs no recursion.
#[derive(serde::Serialize, serde::Deserialize)]
struct Stored {
    /// Outermost first.
    wrappers: Vec<Wrapper>,
    tensor: TensorType,
}

impl serde::Serialize for Type {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let (mut wrappers, mut at) = (vec![], self);
        let tensor = loop {
            match at {
                Type::Tensor(t) => break t.clone(),
                Type::Sequence(inner) => {
                    wrappers.push(Wrapper::Sequence);
                    at = inner;
                }
                Type::Optional(inner) => {
                    wrappers.push(Wrapper::Optional);
                    at = inner;
                }
            }
        };
        Stored { wrappers, tensor }.serialize(s)
    }
}

impl<'de> serde::Deserialize<'de> for Type {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let Stored { wrappers, tensor } = Stored::deserialize(d)?;
        if wrappers.len() > MAX_NESTING {
            return Err(serde::de::Error::custom(format!("a type is nested {} deep", wrappers.len())));
        }
        Ok(wrappers.into_iter().rev().fold(Type::Tensor(tensor), |inner, wrapper| match wrapper {
            Wrapper::Sequence => Type::Sequence(Box::new(inner)),
            Wrapper::Optional => Type::Optional(Box::new(inner)),
        }))
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Tensor(t) => write!(f, "{t}"),
            Type::Sequence(t) => write!(f, "seq<{t}>"),
            Type::Optional(t) => write!(f, "opt<{t}>"),
        }
    }
}
