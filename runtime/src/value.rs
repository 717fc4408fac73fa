//! Values at run time.

use kiln_ir::{Tensor, Type};

/// A value at run time.
#[derive(Clone, Debug, PartialEq)]
pub enum Datum {
    /// A tensor.
    Tensor(Tensor),
    /// A list of values of one type.
    Sequence {
        /// Type of the elements.
        element: Type,
        /// The elements.
        items: Vec<Datum>,
    },
    /// A value that may be absent.
    Optional {
        /// Type of the value when it is present.
        element: Type,
        /// The value.
        value: Option<Box<Datum>>,
    },
}

impl Datum {
    /// The type of the value.
    pub fn ty(&self) -> Type {
        match self {
            Datum::Tensor(t) => Type::Tensor(t.ty()),
            Datum::Sequence { element, .. } => Type::Sequence(Box::new(element.clone())),
            Datum::Optional { element, .. } => Type::Optional(Box::new(element.clone())),
        }
    }

    /// The tensor, if the value is one.
    pub fn as_tensor(&self) -> Option<&Tensor> {
        match self {
            Datum::Tensor(t) => Some(t),
            Datum::Sequence { .. } | Datum::Optional { .. } => None,
        }
    }

    /// The tensor, if the value is one.
    pub fn into_tensor(self) -> Option<Tensor> {
        match self {
            Datum::Tensor(t) => Some(t),
            Datum::Sequence { .. } | Datum::Optional { .. } => None,
        }
    }
}

impl From<Tensor> for Datum {
    fn from(t: Tensor) -> Self {
        Datum::Tensor(t)
    }
}
