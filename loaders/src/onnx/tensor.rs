//! `TensorProto` and its relatives to tensors. Raw data is shared with the file's map, not copied.

use std::sync::Arc;

use kiln_ir::{Bytes, DType, Tensor, TensorError};

use super::proto::{SparseTensorProto, TensorProto};

/// Why a tensor message is no tensor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorProtoError {
    /// The data type number is unknown.
    #[error("unknown data type {0}")]
    DataType(i32),
    /// A dim is negative or too large.
    #[error("dimension {0} is out of range")]
    Dim(i64),
    /// Dims and data disagree.
    #[error(transparent)]
    Data(#[from] TensorError),
    /// A string is not UTF-8.
    #[error("string {0} is not UTF-8")]
    Utf8(usize),
    /// The data is external, and the context allows none.
    #[error("external data is not allowed here")]
    External,
    /// External data is unreadable or lies outside the model's folder.
    #[error("external data: {0}")]
    ExternalData(String),
    /// A sparse tensor is malformed.
    #[error("sparse tensor: {0}")]
    Sparse(String),
}

/// The dtype of a `TensorProto.DataType` number.
pub fn dtype(data_type: i32) -> Result<DType, TensorProtoError> {
    Ok(match data_type {
        1 => DType::F32,
        2 => DType::U8,
        3 => DType::I8,
        4 => DType::U16,
        5 => DType::I16,
        6 => DType::I32,
        7 => DType::I64,
        8 => DType::String,
        9 => DType::Bool,
        10 => DType::F16,
        11 => DType::F64,
        12 => DType::U32,
        13 => DType::U64,
        14 => DType::C64,
        15 => DType::C128,
        16 => DType::BF16,
        17 => DType::F8E4M3FN,
        18 => DType::F8E4M3FNUZ,
        19 => DType::F8E5M2,
        20 => DType::F8E5M2FNUZ,
        21 => DType::U4,
        22 => DType::I4,
        23 => DType::F4E2M1,
        24 => DType::F8E8M0,
        25 => DType::U2,
        26 => DType::I2,
        other => return Err(TensorProtoError::DataType(other)),
    })
}

/// The `TensorProto.DataType` number of a dtype.
pub fn data_type(dtype: DType) -> i32 {
    (1..=26).find(|&n| self::dtype(n) == Ok(dtype)).unwrap_or(0)
}

/// Dims of a message.
pub(crate) fn dims(dims: &[i64]) -> Result<Vec<usize>, TensorProtoError> {
    dims.iter().map(|&d| usize::try_from(d).map_err(|_| TensorProtoError::Dim(d))).collect()
}

/// Finds the bytes of tensors that are stored outside the message.
pub(crate) trait ExternalData {
    /// The bytes that `proto.external_data` names; `expected` is the length that dtype and dims need.
    fn bytes(&self, proto: &TensorProto, expected: usize) -> Result<Bytes, TensorProtoError>;
}

/// A context without external data.
pub(crate) struct NoExternalData;

impl ExternalData for NoExternalData {
    fn bytes(&self, _: &TensorProto, _: usize) -> Result<Bytes, TensorProtoError> {
        Err(TensorProtoError::External)
    }
}

/// The tensor that a message holds.
pub(crate) fn tensor(proto: &TensorProto, external: &dyn ExternalData) -> Result<Tensor, TensorProtoError> {
    let dtype = dtype(proto.data_type)?;
    let dims = dims(&proto.dims)?;
    if dtype == DType::String {
        let text = |(i, b): (usize, &bytes::Bytes)| {
            String::from_utf8(b.to_vec()).map_err(|_| TensorProtoError::Utf8(i))
        };
        let strings: Result<Vec<_>, _> = proto.string_data.iter().enumerate().map(text).collect();
        return Ok(Tensor::strings(&dims, strings?)?);
    }
    let bytes = if proto.data_location == 1 {
        let count = dims.iter().try_fold(1usize, |a, &d| a.checked_mul(d));
        let expected = count.and_then(|n| dtype.bytes_for(n));
        let expected = expected.ok_or_else(|| TensorError::TooLarge { dtype, dims: dims.clone() })?;
        external.bytes(proto, expected)?
    } else if let Some(raw) = proto.raw_data.as_ref().filter(|raw| !raw.is_empty() || !has_typed_data(proto))
    {
        shared(raw.clone())
    } else {
        typed_data(proto, dtype)
    };
    let bytes = if dtype == DType::Bool { normalized_bools(bytes) } else { bytes };
    Ok(Tensor::new(dtype, &dims, bytes)?)
}

fn has_typed_data(proto: &TensorProto) -> bool {
    !proto.float_data.is_empty()
        || !proto.int32_data.is_empty()
        || !proto.int64_data.is_empty()
        || !proto.double_data.is_empty()
        || !proto.uint64_data.is_empty()
}

/// Bytes that share the message's storage.
pub(crate) fn shared(raw: bytes::Bytes) -> Bytes {
    let range = 0..raw.len();
    Bytes::shared(Arc::new(raw), range).unwrap_or_else(|| Bytes::zeroed(0))
}

/// Bools as 0 and 1: a file may hold any byte, kernels may not see others.
fn normalized_bools(bytes: Bytes) -> Bytes {
    if bytes.as_slice().iter().all(|&b| b <= 1) {
        return bytes;
    }
    Bytes::copied(&bytes.as_slice().iter().map(|&b| u8::from(b != 0)).collect::<Vec<_>>())
}

/// The bytes of the field that the dtype uses. A missing element shows as a wrong length.
fn typed_data(proto: &TensorProto, dtype: DType) -> Bytes {
    fn le<T: Copy, const N: usize>(values: &[T], bytes: impl Fn(T) -> [u8; N]) -> Bytes {
        Bytes::build(values.len().saturating_mul(N), |out| {
            for (chunk, &v) in out.chunks_exact_mut(N).zip(values) {
                chunk.copy_from_slice(&bytes(v));
            }
        })
    }
    // Narrow elements stand in the low bytes of wider ones.
    let low = |v: i32| v.to_le_bytes();
    match dtype {
        DType::F32 | DType::C64 => le(&proto.float_data, f32::to_le_bytes),
        DType::F64 | DType::C128 => le(&proto.double_data, f64::to_le_bytes),
        DType::I64 => le(&proto.int64_data, i64::to_le_bytes),
        DType::U64 => le(&proto.uint64_data, u64::to_le_bytes),
        DType::U32 => le(&proto.uint64_data, |v| {
            let [a, b, c, d, ..] = v.to_le_bytes();
            [a, b, c, d]
        }),
        DType::I32 => le(&proto.int32_data, i32::to_le_bytes),
        DType::I16 | DType::U16 | DType::F16 | DType::BF16 => le(&proto.int32_data, |v| {
            let [a, b, ..] = low(v);
            [a, b]
        }),
        DType::Bool => le(&proto.int32_data, |v| [u8::from(v != 0)]),
        DType::I8
        | DType::U8
        | DType::F8E4M3FN
        | DType::F8E4M3FNUZ
        | DType::F8E5M2
        | DType::F8E5M2FNUZ
        | DType::F8E8M0
        | DType::I4
        | DType::U4
        | DType::I2
        | DType::U2
        | DType::F4E2M1 => le(&proto.int32_data, |v| [low(v)[0]]),
        DType::String => Bytes::zeroed(0),
    }
}

/// The message that holds `tensor`, its data as raw bytes (strings excepted).
pub fn tensor_proto(name: &str, tensor: &Tensor) -> TensorProto {
    let strings = tensor.as_strings().iter().map(|s| bytes::Bytes::copy_from_slice(s.as_bytes()));
    TensorProto {
        name: name.to_owned(),
        dims: tensor.dims().iter().map(|&d| i64::try_from(d).unwrap_or(i64::MAX)).collect(),
        data_type: data_type(tensor.dtype()),
        string_data: strings.collect(),
        raw_data: tensor.storage().map(|b| bytes::Bytes::copy_from_slice(b.as_slice())),
        ..TensorProto::default()
    }
}

/// The dense form of a sparse tensor. Its bytes are taken from `left`: a few bytes of file must not ask for all memory.
pub(crate) fn sparse(
    proto: &SparseTensorProto,
    external: &dyn ExternalData,
    left: &mut usize,
) -> Result<Tensor, TensorProtoError> {
    let bad = |reason: &str| TensorProtoError::Sparse(reason.to_owned());
    let dims = dims(&proto.dims)?;
    let values = tensor(proto.values.as_ref().ok_or_else(|| bad("no values"))?, external)?;
    let indices = match &proto.indices {
        Some(indices) => tensor(indices, external)?,
        None => return Err(bad("no indices")),
    };
    let dtype = values.dtype();
    let count = dims.iter().try_fold(1usize, |a, &d| a.checked_mul(d));
    let size = count.and_then(|n| dtype.bytes_for(n)).and_then(|size| Some((size, left.checked_sub(size)?)));
    let (Some(count), Some((size, rest))) = (count, size) else {
        return Err(bad(&format!("the dense form takes more than the {left} bytes that are left for such")));
    };
    *left = rest;
    let places = indices.to_ints().ok_or_else(|| bad("indices must be integers"))?;
    let linear: Vec<usize> = match indices.dims() {
        [n] if *n == values.numel() => places
            .iter()
            .map(|&p| usize::try_from(p).map_err(|_| bad("negative index")))
            .collect::<Result<_, _>>()?,
        [n, rank] if *n == values.numel() && *rank == dims.len() && *rank > 0 => places
            .chunks_exact(*rank)
            .map(|c| linear_index(c, &dims).ok_or_else(|| bad("index out of range")))
            .collect::<Result<_, _>>()?,
        [0, ..] if values.numel() == 0 => vec![],
        _ => return Err(bad("indices do not fit values and dims")),
    };
    if linear.iter().any(|&at| at >= count) {
        return Err(bad("index out of range"));
    }
    let dense = Bytes::build(size, |out| scatter(&values, &linear, out));
    Ok(Tensor::new(dtype, &dims, dense)?)
}

/// Puts the elements of `values` at their places in the encoded form of a dense tensor of the same dtype.
fn scatter(values: &Tensor, places: &[usize], out: &mut [u8]) {
    let bits = values.dtype().bits();
    if values.dtype().is_packed() {
        let per_byte = 8 / bits;
        for (i, &at) in places.iter().enumerate() {
            let (shift, mask) = (at % per_byte * bits, (1u8 << bits) - 1);
            let [element, ..] = values.element_bits(i).to_le_bytes();
            if let Some(byte) = out.get_mut(at / per_byte) {
                *byte = (*byte & !(mask << shift)) | (element & mask) << shift;
            }
        }
        return;
    }
    let size = (bits / 8).max(1);
    for (element, &at) in values.bytes().chunks_exact(size).zip(places) {
        if let Some(place) = out.chunks_exact_mut(size).nth(at) {
            place.copy_from_slice(element);
        }
    }
}

fn linear_index(coordinates: &[i64], dims: &[usize]) -> Option<usize> {
    coordinates.iter().zip(dims).try_fold(0usize, |at, (&c, &d)| {
        let c = usize::try_from(c).ok().filter(|&c| c < d)?;
        at.checked_mul(d)?.checked_add(c)
    })
}
