//! Concrete tensors: dense, row-major data with shared storage. Cloning is cheap; storage may be a mapped file.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;

use crate::{DClass, DType, Scalar, TensorType, float};

/// Alignment, in bytes, of storage that Kiln allocates.
pub const ALIGNMENT: usize = 64;

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Block([u8; ALIGNMENT]);

struct Owned {
    blocks: Vec<Block>,
    len: usize,
}

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.blocks)[..self.len]
    }
}

/// Bytes with shared ownership: an allocation aligned to [`ALIGNMENT`], or part of something else (a mapped file).
#[derive(Clone)]
pub struct Bytes {
    owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
    range: Range<usize>,
}

impl Bytes {
    /// `len` zero bytes.
    pub fn zeroed(len: usize) -> Self {
        Bytes::build(len, |_| {})
    }

    /// `len` bytes, zeroed and then filled by `fill`.
    pub fn build(len: usize, fill: impl FnOnce(&mut [u8])) -> Self {
        let mut blocks = vec![Block([0; ALIGNMENT]); len.div_ceil(ALIGNMENT)];
        fill(&mut bytemuck::cast_slice_mut(&mut blocks)[..len]);
        Bytes { owner: Arc::new(Owned { blocks, len }), range: 0..len }
    }

    /// A copy of `bytes`.
    pub fn copied(bytes: &[u8]) -> Self {
        Bytes::build(bytes.len(), |out| out.copy_from_slice(bytes))
    }

    /// A part of `owner`'s bytes, not copied. `None` if the range lies outside.
    pub fn shared(owner: Arc<dyn AsRef<[u8]> + Send + Sync>, range: Range<usize>) -> Option<Self> {
        (*owner).as_ref().get(range.clone())?;
        Some(Bytes { owner, range })
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        // An owner that shrinks after construction gives an empty slice rather than a panic.
        (*self.owner).as_ref().get(self.range.clone()).unwrap_or(&[])
    }
}

#[derive(Clone)]
enum Data {
    Bytes(Bytes),
    Strings(Arc<Vec<String>>),
}

/// A dense, row-major tensor.
#[derive(Clone)]
pub struct Tensor {
    dtype: DType,
    dims: Vec<usize>,
    data: Data,
}

/// Why data does not make a tensor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// The dims' product overflows.
    #[error("{dtype}{dims:?} has more elements than memory can hold")]
    TooLarge {
        /// Element type.
        dtype: DType,
        /// The dims.
        dims: Vec<usize>,
    },
    /// The data has the wrong length.
    #[error("{dtype}{dims:?} takes {expected} {unit}, the data has {actual}")]
    Length {
        /// Element type.
        dtype: DType,
        /// The dims.
        dims: Vec<usize>,
        /// Length needed.
        expected: usize,
        /// Length given.
        actual: usize,
        /// `bytes` or `strings`.
        unit: &'static str,
    },
    /// The tensor has another dtype than the caller asked for.
    #[error("expected {expected}, the tensor is {actual}")]
    DType {
        /// Wanted.
        expected: DType,
        /// Present.
        actual: DType,
    },
}

/// Rust types whose memory is that of a dtype's elements.
pub trait Element: bytemuck::Pod {
    /// The dtype.
    const DTYPE: DType;
}

macro_rules! elements {
    ($($ty:ty = $dtype:ident,)*) => { $(impl Element for $ty { const DTYPE: DType = DType::$dtype; })* };
}

elements! {
    i8 = I8, i16 = I16, i32 = I32, i64 = I64, u8 = U8, u16 = U16, u32 = U32, u64 = U64,
    f32 = F32, f64 = F64, half::f16 = F16, half::bf16 = BF16,
}

fn numel(dtype: DType, dims: &[usize]) -> Result<usize, TensorError> {
    dims.iter()
        .try_fold(1usize, |a, &d| a.checked_mul(d))
        .filter(|&n| n <= isize::MAX as usize / 16)
        .ok_or_else(|| TensorError::TooLarge { dtype, dims: dims.to_vec() })
}

impl Tensor {
    /// A tensor over existing bytes, which must have exactly the length that dtype and dims need.
    pub fn new(dtype: DType, dims: &[usize], bytes: Bytes) -> Result<Self, TensorError> {
        let count = numel(dtype, dims)?;
        let actual = bytes.as_slice().len();
        match dtype.bytes_for(count) {
            Some(expected) if expected == actual => {
                Ok(Tensor { dtype, dims: dims.to_vec(), data: Data::Bytes(bytes) })
            }
            expected => Err(TensorError::Length {
                dtype,
                dims: dims.to_vec(),
                expected: expected.unwrap_or(count),
                actual,
                unit: "bytes",
            }),
        }
    }

    /// A tensor of zeros (empty strings).
    pub fn zeros(dtype: DType, dims: &[usize]) -> Result<Self, TensorError> {
        let count = numel(dtype, dims)?;
        match dtype.bytes_for(count) {
            Some(bytes) => Tensor::new(dtype, dims, Bytes::zeroed(bytes)),
            None => Tensor::strings(dims, vec![String::new(); count]),
        }
    }

    /// A tensor of numbers.
    pub fn from_slice<T: Element>(dims: &[usize], values: &[T]) -> Result<Self, TensorError> {
        Tensor::new(T::DTYPE, dims, Bytes::copied(bytemuck::cast_slice(values)))
    }

    /// A tensor of bools.
    pub fn from_bools(dims: &[usize], values: &[bool]) -> Result<Self, TensorError> {
        let bytes: Vec<u8> = values.iter().map(|&b| u8::from(b)).collect();
        Tensor::new(DType::Bool, dims, Bytes::copied(&bytes))
    }

    /// A tensor of strings.
    pub fn strings(dims: &[usize], values: Vec<String>) -> Result<Self, TensorError> {
        let expected = numel(DType::String, dims)?;
        if expected != values.len() {
            let (dims, actual) = (dims.to_vec(), values.len());
            return Err(TensorError::Length {
                dtype: DType::String,
                dims,
                expected,
                actual,
                unit: "strings",
            });
        }
        Ok(Tensor { dtype: DType::String, dims: dims.to_vec(), data: Data::Strings(Arc::new(values)) })
    }

    /// A rank-0 tensor.
    pub fn scalar<T: Element>(value: T) -> Self {
        Tensor { dtype: T::DTYPE, dims: vec![], data: Data::Bytes(Bytes::copied(bytemuck::bytes_of(&value))) }
    }

    /// A rank-1 i64 tensor, as shape-like operands are.
    pub fn ints(values: &[i64]) -> Self {
        let bytes = Bytes::copied(bytemuck::cast_slice(values));
        Tensor { dtype: DType::I64, dims: vec![values.len()], data: Data::Bytes(bytes) }
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Dims, outermost first.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.dims.iter().product()
    }

    /// The tensor's type.
    pub fn ty(&self) -> TensorType {
        TensorType::fixed(self.dtype, &self.dims.iter().map(|&d| d as i64).collect::<Vec<_>>())
    }

    /// The raw bytes; empty for strings.
    pub fn bytes(&self) -> &[u8] {
        match &self.data {
            Data::Bytes(b) => b.as_slice(),
            Data::Strings(_) => &[],
        }
    }

    /// The shared storage, unless the tensor holds strings.
    pub fn storage(&self) -> Option<&Bytes> {
        match &self.data {
            Data::Bytes(b) => Some(b),
            Data::Strings(_) => None,
        }
    }

    /// The strings; empty for other dtypes.
    pub fn as_strings(&self) -> &[String] {
        match &self.data {
            Data::Strings(s) => s,
            Data::Bytes(_) => &[],
        }
    }

    /// The elements in place, if the dtype is `T`'s and the storage is aligned for it.
    pub fn as_slice<T: Element>(&self) -> Option<&[T]> {
        (self.dtype == T::DTYPE).then(|| bytemuck::try_cast_slice(self.bytes()).ok()).flatten()
    }

    /// A copy of the elements.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>, TensorError> {
        if self.dtype != T::DTYPE {
            return Err(TensorError::DType { expected: T::DTYPE, actual: self.dtype });
        }
        let mut out = vec![T::zeroed(); self.numel()];
        bytemuck::cast_slice_mut::<T, u8>(&mut out).copy_from_slice(self.bytes());
        Ok(out)
    }

    /// The same data under other dims of equal element count.
    pub fn reshaped(&self, dims: &[usize]) -> Result<Self, TensorError> {
        let (expected, actual) = (numel(self.dtype, dims)?, self.numel());
        if expected != actual {
            let dims = dims.to_vec();
            return Err(TensorError::Length { dtype: self.dtype, dims, expected, actual, unit: "elements" });
        }
        Ok(Tensor { dtype: self.dtype, dims: dims.to_vec(), data: self.data.clone() })
    }

    /// The bits of element `i` (row-major), zero-extended. Zero beyond the end, for strings and for complex.
    pub fn element_bits(&self, i: usize) -> u64 {
        let (bytes, bits) = (self.bytes(), self.dtype.bits());
        match bits {
            0 | 128 => 0,
            1..8 => {
                let per_byte = 8 / bits;
                let byte = bytes.get(i / per_byte).copied().unwrap_or(0);
                u64::from(byte >> (i % per_byte * bits)) & ((1 << bits) - 1)
            }
            _ => {
                let size = bits / 8;
                let mut out = [0u8; 8];
                if let Some(b) = bytes.get(i * size..(i + 1) * size) {
                    out[..size].copy_from_slice(b);
                }
                u64::from_le_bytes(out)
            }
        }
    }

    /// Element `i` (row-major) as an exact scalar. `None` for strings and complex.
    pub fn element(&self, i: usize) -> Option<Scalar> {
        scalar_from_bits(self.dtype, self.element_bits(i))
    }

    /// All elements as exact scalars. `None` for strings and complex.
    pub fn to_scalars(&self) -> Option<Vec<Scalar>> {
        match self.dtype.class() {
            DClass::Text | DClass::Complex => None,
            _ => (0..self.numel()).map(|i| self.element(i)).collect(),
        }
    }

    /// A tensor of the given scalars, rounded (floats: to nearest even, not saturating) or wrapped (integers) to
    /// `dtype`. Scalars of another class than the dtype's convert: float to integer truncates and saturates.
    pub fn from_scalars(dtype: DType, dims: &[usize], values: &[Scalar]) -> Result<Self, TensorError> {
        let count = numel(dtype, dims)?;
        let Some(len) = dtype.bytes_for(count).filter(|_| count == values.len()) else {
            let (dims, actual) = (dims.to_vec(), values.len());
            return Err(TensorError::Length { dtype, dims, expected: count, actual, unit: "elements" });
        };
        let bits = dtype.bits();
        let bytes = Bytes::build(len, |out| {
            for (i, &v) in values.iter().enumerate() {
                let element = scalar_to_bits(dtype, v).to_le_bytes();
                if bits < 8 {
                    let per_byte = 8 / bits;
                    out[i / per_byte] |= element[0] << (i % per_byte * bits);
                } else {
                    let size = (bits / 8).min(8);
                    out[i * (bits / 8)..i * (bits / 8) + size].copy_from_slice(&element[..size]);
                }
            }
        });
        Tensor::new(dtype, dims, bytes)
    }

    /// The elements of an integer or bool tensor. `None` for other dtypes.
    pub fn to_ints(&self) -> Option<Vec<i64>> {
        (0..self.numel())
            .map(|i| match self.element(i)? {
                Scalar::I(v) => i64::try_from(v).ok(),
                Scalar::B(b) => Some(i64::from(b)),
                Scalar::F(_) => None,
            })
            .collect()
    }

    /// The elements of a real tensor as doubles. `None` for strings and complex.
    pub fn to_f64s(&self) -> Option<Vec<f64>> {
        (0..self.numel())
            .map(|i| {
                Some(match self.element(i)? {
                    Scalar::I(v) => v as f64,
                    Scalar::B(b) => f64::from(u8::from(b)),
                    Scalar::F(v) => v,
                })
            })
            .collect()
    }
}

/// The exact scalar that `bits` mean in `dtype`; `None` for strings and complex.
pub fn scalar_from_bits(dtype: DType, bits: u64) -> Option<Scalar> {
    match dtype.class() {
        DClass::Bool => Some(Scalar::B(bits != 0)),
        DClass::Signed | DClass::Unsigned => Some(Scalar::I(crate::wrap_int(i128::from(bits), dtype))),
        DClass::Float => Some(Scalar::F(float::decode(dtype, bits))),
        DClass::Complex | DClass::Text => None,
    }
}

/// The bits of a scalar stored as `dtype`.
pub fn scalar_to_bits(dtype: DType, value: Scalar) -> u64 {
    let mask = if dtype.bits() >= 64 { u64::MAX } else { (1 << dtype.bits()) - 1 };
    match (dtype.class(), value) {
        (DClass::Bool, Scalar::B(b)) => u64::from(b),
        (DClass::Bool, Scalar::I(v)) => u64::from(v != 0),
        (DClass::Bool, Scalar::F(v)) => u64::from(v != 0.0),
        (DClass::Float, Scalar::F(v)) => float::encode(dtype, v, false),
        (DClass::Float, Scalar::I(v)) => float::encode(dtype, v as f64, false),
        (DClass::Float, Scalar::B(b)) => float::encode(dtype, f64::from(u8::from(b)), false),
        (_, Scalar::I(v)) => v as u64 & mask,
        (_, Scalar::B(b)) => u64::from(b),
        (_, Scalar::F(v)) => {
            let (min, max) = dtype.int_range().unwrap_or((0, 0));
            (v as i128).clamp(min, max) as u64 & mask
        }
    }
}

impl PartialEq for Tensor {
    /// Equal dtype, dims and bits.
    fn eq(&self, other: &Self) -> bool {
        let same = self.dtype == other.dtype && self.dims == other.dims;
        same && match (&self.data, &other.data) {
            (Data::Bytes(a), Data::Bytes(b)) => {
                std::ptr::eq(a.as_slice(), b.as_slice()) || a.as_slice() == b.as_slice()
            }
            (Data::Strings(a), Data::Strings(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Tensor {}

impl Hash for Tensor {
    /// Hashes dtype, dims and the first and last bytes: large weights are told apart by `==`.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.dtype.hash(state);
        self.dims.hash(state);
        let bytes = self.bytes();
        let edge = bytes.len().min(64);
        state.write(&bytes[..edge]);
        state.write(&bytes[bytes.len() - edge..]);
        self.as_strings().first().hash(state);
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({}{:?}", self.dtype, self.dims)?;
        if self.numel() <= 16 {
            match self.to_scalars() {
                Some(v) => write!(f, " {v:?}")?,
                None => write!(f, " {:?}", self.as_strings())?,
            }
        }
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_elements_round_trip() {
        let values: Vec<Scalar> = [-8, 7, 3].iter().map(|&v| Scalar::I(v)).collect();
        let t = Tensor::from_scalars(DType::I4, &[3], &values).unwrap();
        assert_eq!(t.bytes(), &[0x78, 0x03]);
        assert_eq!(t.to_scalars().unwrap(), values);
    }

    #[test]
    fn lengths_are_checked() {
        assert!(Tensor::new(DType::F32, &[2], Bytes::zeroed(7)).is_err());
        assert!(Tensor::zeros(DType::F32, &[usize::MAX, 2]).is_err());
        assert!(Tensor::zeros(DType::F32, &[usize::MAX, 0, 2]).is_err() || usize::BITS == 64);
        assert_eq!(Tensor::from_slice(&[2], &[1.0f32, 2.0]).unwrap().to_f64s().unwrap(), [1.0, 2.0]);
    }

    #[test]
    fn storage_is_aligned() {
        let t = Tensor::from_slice(&[3], &[1u8, 2, 3]).unwrap();
        assert_eq!(t.bytes().as_ptr() as usize % ALIGNMENT, 0);
    }
}
