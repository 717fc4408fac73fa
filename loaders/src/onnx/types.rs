//! Declared types.

use kiln_ir::{Dim, Shape, TensorType, Type};

use super::proto::{DimensionValue, TensorShapeProto, TypeProto, TypeValue};
use super::tensor::{TensorProtoError, dtype};

/// Why a declared type has no counterpart.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TypeError {
    /// The dtype is unknown.
    #[error(transparent)]
    DType(#[from] TensorProtoError),
    /// A kind of value that graph IR does not have.
    #[error("{0} values are not supported")]
    Kind(&'static str),
    /// The type is incomplete.
    #[error("the type is incomplete")]
    Incomplete,
}

/// The type that `proto` declares; negative and absent dims are unknown.
pub(crate) fn value_type(proto: &TypeProto) -> Result<Type, TypeError> {
    let element = |t: &Option<Box<TypeProto>>| match t {
        Some(t) => value_type(t).map(Box::new),
        None => Err(TypeError::Incomplete),
    };
    match &proto.value {
        Some(TypeValue::Tensor(t)) => {
            let shape = t.shape.as_ref().map_or_else(Shape::unranked, |s| Shape::new(dims(s)));
            Ok(Type::Tensor(TensorType { dtype: dtype(t.elem_type)?, shape }))
        }
        Some(TypeValue::Sequence(s)) => element(&s.elem_type).map(Type::Sequence),
        Some(TypeValue::Optional(o)) => element(&o.elem_type).map(Type::Optional),
        Some(TypeValue::Map(_)) => Err(TypeError::Kind("map")),
        Some(TypeValue::SparseTensor(_)) => Err(TypeError::Kind("sparse tensor")),
        None => Err(TypeError::Incomplete),
    }
}

fn dims(shape: &TensorShapeProto) -> Vec<Dim> {
    let dim = |value: &Option<DimensionValue>| match value {
        Some(DimensionValue::DimValue(v)) if *v >= 0 => Dim::known(*v),
        Some(DimensionValue::DimParam(name)) if !name.is_empty() => symbol(name),
        _ => Dim::unknown(),
    };
    shape.dim.iter().map(|d| dim(&d.value)).collect()
}

/// The symbol of a `dim_param`. Names that graph IR reserves for its own symbols get a prefix.
pub(crate) fn symbol(name: &str) -> Dim {
    if name.starts_with("_u") { Dim::symbol(&format!("file{name}")) } else { Dim::symbol(name) }
}
