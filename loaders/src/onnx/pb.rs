//! `.pb` files that hold one value, as the ONNX conformance suite stores inputs and outputs.

use std::path::Path;

use kiln_ir::{Datum, Tensor, Type};
use prost::Message;

use super::proto::{OptionalProto, SequenceProto, TensorProto};
use super::tensor::{NoExternalData, TensorProtoError, tensor, tensor_proto};
use super::wire::{Kind, WireError, check};
use crate::Limits;

/// Why a `.pb` file holds no value.
#[derive(Debug, thiserror::Error)]
pub enum PbError {
    /// The file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// File.
        path: String,
        /// Cause.
        source: std::io::Error,
    },
    /// The bytes are not the message that was asked for.
    #[error("{path}: {source}")]
    Decode {
        /// File.
        path: String,
        /// Cause.
        source: prost::DecodeError,
    },
    /// The bytes are no message, or one that takes too much memory.
    #[error("{path}: {source}")]
    Wire {
        /// File.
        path: String,
        /// Cause.
        source: WireError,
    },
    /// The message is no value.
    #[error("{path}: {source}")]
    Value {
        /// File.
        path: String,
        /// Cause.
        source: TensorProtoError,
    },
}

fn message<M: Message + Default>(path: &Path, kind: Kind) -> Result<M, PbError> {
    let name = || path.display().to_string();
    let bytes = std::fs::read(path).map_err(|source| PbError::Io { path: name(), source })?;
    check(&bytes, kind, Limits::default().structure_of(usize::MAX))
        .map_err(|source| PbError::Wire { path: name(), source })?;
    M::decode(bytes::Bytes::from(bytes)).map_err(|source| PbError::Decode { path: name(), source })
}

/// Reads a file that holds one `TensorProto`; also gives the tensor's name.
pub fn read_tensor_pb(path: &Path) -> Result<(String, Tensor), PbError> {
    let proto: TensorProto = message(path, Kind::Tensor)?;
    let value = tensor(&proto, &NoExternalData)
        .map_err(|source| PbError::Value { path: path.display().to_string(), source })?;
    Ok((proto.name, value))
}

/// Writes a tensor as a `TensorProto`.
pub fn write_tensor_pb(path: &Path, name: &str, tensor: &Tensor) -> Result<(), PbError> {
    let bytes = tensor_proto(name, tensor).encode_to_vec();
    std::fs::write(path, bytes).map_err(|source| PbError::Io { path: path.display().to_string(), source })
}

/// Reads a file that holds one value of type `ty`: a `TensorProto`, `SequenceProto` or `OptionalProto`.
pub fn read_value_pb(path: &Path, ty: &Type) -> Result<Datum, PbError> {
    let fail = |source| PbError::Value { path: path.display().to_string(), source };
    match ty {
        Type::Tensor(_) => read_tensor_pb(path).map(|(_, t)| Datum::Tensor(t)),
        Type::Sequence(element) => sequence(&message(path, Kind::Sequence)?, element).map_err(fail),
        Type::Optional(element) => optional(&message(path, Kind::Optional)?, element).map_err(fail),
    }
}

fn sequence(proto: &SequenceProto, element: &Type) -> Result<Datum, TensorProtoError> {
    let items: Result<Vec<Datum>, _> = match element {
        Type::Tensor(_) => {
            proto.tensor_values.iter().map(|t| tensor(t, &NoExternalData).map(Datum::Tensor)).collect()
        }
        Type::Sequence(inner) => proto.sequence_values.iter().map(|s| sequence(s, inner)).collect(),
        Type::Optional(inner) => proto.optional_values.iter().map(|o| optional(o, inner)).collect(),
    };
    Ok(Datum::Sequence { element: element.clone(), items: items? })
}

fn optional(proto: &OptionalProto, element: &Type) -> Result<Datum, TensorProtoError> {
    let value = match element {
        Type::Tensor(_) => match &proto.tensor_value {
            Some(t) => Some(Datum::Tensor(tensor(t, &NoExternalData)?)),
            None => None,
        },
        Type::Sequence(inner) => proto.sequence_value.as_ref().map(|s| sequence(s, inner)).transpose()?,
        Type::Optional(inner) => proto.optional_value.as_ref().map(|o| optional(o, inner)).transpose()?,
    };
    Ok(Datum::Optional { element: element.clone(), value: value.map(Box::new) })
}
