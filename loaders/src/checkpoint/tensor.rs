//! Tensors of checkpoints: views of storages that stay mapped.

use std::sync::Arc;

use bytes::Bytes;
use kiln_ir::{DType, Tensor};

use super::element::Element;
use super::ggml;

/// The most dimensions that a tensor has.
pub const MAX_RANK: usize = 64;

/// Why a description makes no tensor, or a tensor no dense one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TensorFault {
    /// More dimensions than any framework has.
    #[error("{0} dimensions are more than {MAX_RANK}")]
    Rank(usize),
    /// Shape and strides of different lengths.
    #[error("the shape has {shape} dimensions and the strides have {strides}")]
    Strides {
        /// Dimensions of the shape.
        shape: usize,
        /// Dimensions of the strides.
        strides: usize,
    },
    /// More elements than memory has bytes.
    #[error("a shape of {0:?} is too large")]
    Shape(Vec<usize>),
    /// Elements outside of the storage.
    #[error("its elements end at byte {end} of storage `{storage}`, which has {length}")]
    Outside {
        /// Where they end; the largest number where that overflows.
        end: usize,
        /// The storage.
        storage: String,
        /// Its length in bytes.
        length: usize,
    },
    /// Elements of less than a byte that are not dense.
    #[error("elements of type {0} can only be read from the start and in order")]
    Packed(String),
    /// Elements that do not fill the units of their type.
    #[error("{count} elements of type {element} do not fill whole units")]
    Units {
        /// The type.
        element: String,
        /// How many there are.
        count: usize,
    },
    /// A type without a counterpart in graphs.
    #[error("graphs have no type {0}")]
    Element(String),
    /// A dense form that is too large.
    #[error("its dense form takes {bytes} bytes, more than the limit of {limit}")]
    Limit {
        /// What it takes.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// An index of a sparse tensor outside of its shape, or indices that do not fit the values.
    #[error("the indices of the sparse tensor do not fit its shape")]
    Indices,
    /// Something else that the description lacks or has wrong.
    #[error("{0}")]
    Description(String),
}

/// Order of the bytes of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteOrder {
    /// Lowest first.
    Little,
    /// Highest first.
    Big,
}

/// Bytes that tensors share.
#[derive(Debug)]
pub struct Storage {
    /// What the file calls it.
    pub name: String,
    /// The bytes, mapped.
    pub bytes: Bytes,
    /// Order of the bytes in numbers.
    pub order: ByteOrder,
}

/// How the integers of a quantized tensor stand for numbers.
#[derive(Clone, Debug)]
pub enum Quantization {
    /// `(q - zero_point) * scale`.
    PerTensor {
        /// Scale.
        scale: f64,
        /// Zero point.
        zero_point: i64,
    },
    /// The same, with scale and zero point for each index along an axis.
    PerChannel {
        /// Scales, of rank 1.
        scales: Box<CheckpointTensor>,
        /// Zero points, of rank 1.
        zero_points: Box<CheckpointTensor>,
        /// The axis.
        axis: usize,
    },
}

/// Elements in a storage.
#[derive(Clone, Debug)]
pub struct View {
    /// Where the elements are.
    pub storage: Arc<Storage>,
    /// First element, counted in elements.
    pub offset: usize,
    /// Elements from one index of a dimension to the next.
    pub strides: Vec<usize>,
    /// Whether the imaginary parts count negative.
    pub conjugate: bool,
    /// Whether the numbers count negative.
    pub negative: bool,
}

/// Where the elements of a tensor are.
#[derive(Clone, Debug)]
pub enum Body {
    /// In a storage.
    Strided(View),
    /// Only those that differ from zero, with their places.
    Sparse(Box<Sparse>),
}

/// Elements and places of a sparse tensor.
#[derive(Clone, Debug)]
pub enum Sparse {
    /// A row of indices a sparse dimension; values may have dense dimensions.
    Coo {
        /// i64, `[sparse dims, count]`.
        indices: CheckpointTensor,
        /// `[count, dense dims...]`.
        values: CheckpointTensor,
    },
    /// Compressed rows or columns, of a matrix or a batch of matrices, of single elements or blocks.
    Compressed {
        /// Whether rows are compressed; columns otherwise.
        rows: bool,
        /// Where the entries of each row or column begin, and where the last ends.
        starts: CheckpointTensor,
        /// Column or row of each entry.
        plain: CheckpointTensor,
        /// The entries.
        values: CheckpointTensor,
    },
}

/// A tensor of a checkpoint.
#[derive(Clone, Debug)]
pub struct CheckpointTensor {
    /// Type of the elements.
    pub element: Element,
    /// Shape.
    pub shape: Vec<usize>,
    /// Where the elements are.
    pub body: Body,
    /// What they stand for, if they are quantized.
    pub quantization: Option<Quantization>,
}

/// The product of a shape.
pub(super) fn count(shape: &[usize]) -> Result<usize, TensorFault> {
    if shape.len() > MAX_RANK {
        return Err(TensorFault::Rank(shape.len()));
    }
    let product = shape.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim));
    product.filter(|&n| n <= isize::MAX as usize / 16).ok_or_else(|| TensorFault::Shape(shape.to_vec()))
}

/// Strides of a dense tensor.
pub(super) fn dense_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for i in (1..shape.len()).rev() {
        let next = strides.get(i).zip(shape.get(i)).map_or(1, |(&s, &d)| s.saturating_mul(d.max(1)));
        if let Some(stride) = strides.get_mut(i - 1) {
            *stride = next;
        }
    }
    strides
}

impl CheckpointTensor {
    /// A dense tensor at the start of a storage.
    pub(super) fn dense(
        element: Element,
        shape: Vec<usize>,
        storage: Arc<Storage>,
    ) -> Result<Self, TensorFault> {
        let strides = dense_strides(&shape);
        Self::strided(element, shape, strides, 0, storage)
    }

    /// A view of a storage, all of whose elements lie in it.
    pub(crate) fn strided(
        element: Element,
        shape: Vec<usize>,
        strides: Vec<usize>,
        offset: usize,
        storage: Arc<Storage>,
    ) -> Result<Self, TensorFault> {
        let count = count(&shape)?;
        if strides.len() != shape.len() {
            return Err(TensorFault::Strides { shape: shape.len(), strides: strides.len() });
        }
        let dense = is_dense(&shape, &strides);
        let end = match element.size() {
            _ if count == 0 => Some(0),
            Some(size) => {
                let steps = shape.iter().zip(&strides).try_fold(offset, |last, (&dim, &stride)| {
                    (dim - 1).checked_mul(stride).and_then(|step| last.checked_add(step))
                });
                steps.and_then(|last| last.checked_add(1)).and_then(|n| n.checked_mul(size))
            }
            None if offset != 0 || !dense => return Err(TensorFault::Packed(element.to_string())),
            None => {
                let whole = element.bytes_for(count);
                Some(whole.ok_or_else(|| TensorFault::Units { element: element.to_string(), count })?)
            }
        };
        let length = storage.bytes.len();
        if end.is_none_or(|end| end > length) {
            let (end, storage) = (end.unwrap_or(usize::MAX), storage.name.clone());
            return Err(TensorFault::Outside { end, storage, length });
        }
        let view = View { storage, offset, strides, conjugate: false, negative: false };
        Ok(CheckpointTensor { element, shape, body: Body::Strided(view), quantization: None })
    }

    /// How many elements there are.
    pub fn numel(&self) -> usize {
        count(&self.shape).unwrap_or(0)
    }

    /// Bytes that the dense form takes.
    pub fn byte_len(&self) -> usize {
        self.element.bytes_for(self.numel()).unwrap_or(0)
    }

    /// The view, if the tensor is not sparse.
    pub fn view(&self) -> Option<&View> {
        match &self.body {
            Body::Strided(view) => Some(view),
            Body::Sparse(_) => None,
        }
    }

    /// The elements as they lie in the file: dense, row-major, lowest byte first. `None` if they do not lie so.
    pub fn mapped(&self) -> Option<Bytes> {
        let view = self.view()?;
        let swapped = view.storage.order == ByteOrder::Big && self.element.word() > 1;
        if swapped || view.conjugate || view.negative || !is_dense(&self.shape, &view.strides) {
            return None;
        }
        let length = self.byte_len();
        if length == 0 {
            return Some(Bytes::new());
        }
        let start = view.offset.checked_mul(self.element.size().unwrap_or(0))?;
        let range = start..start.checked_add(length)?;
        (range.end <= view.storage.bytes.len()).then(|| view.storage.bytes.slice(range))
    }

    /// The elements, dense, row-major and lowest byte first: mapped where they lie so, else a copy of at most `limit`
    /// bytes. Copies that are no larger than the storage are always made.
    pub fn bytes(&self, limit: usize) -> Result<Bytes, TensorFault> {
        if let Some(mapped) = self.mapped() {
            return Ok(mapped);
        }
        let bytes = self.byte_len();
        let stored = self.view().map_or(0, |view| view.storage.bytes.len());
        if bytes > limit.max(stored) {
            return Err(TensorFault::Limit { bytes, limit });
        }
        match &self.body {
            Body::Strided(view) => Ok(gather(self.element, &self.shape, view).into()),
            Body::Sparse(sparse) => super::sparse::dense(sparse, &self.shape, self.element).map(Bytes::from),
        }
    }

    /// The tensor as graphs have it; shares the map where the elements lie densely. Blocks of GGUF are dequantized to
    /// f32; other quantized tensors give their integers. Copies take at most `limit` bytes, or as many as the storage.
    pub fn to_tensor(&self, limit: usize) -> Result<Tensor, TensorFault> {
        let description = |e: kiln_ir::TensorError| TensorFault::Description(e.to_string());
        let dtype = match self.element {
            Element::Plain(dtype) => dtype,
            Element::Foreign(foreign) => {
                let Some(blocks) = ggml::Blocks::of(foreign) else {
                    return Err(TensorFault::Element(foreign.name.to_owned()));
                };
                let bytes = self.numel().saturating_mul(4);
                // What a block holds is at most 32 times larger when it is spread out.
                if bytes > limit.max(self.byte_len().saturating_mul(32)) {
                    return Err(TensorFault::Limit { bytes, limit });
                }
                let values = blocks.dequantized(&self.bytes(limit)?);
                return Tensor::from_slice(&self.shape, &values).map_err(description);
            }
        };
        let mut bytes = self.bytes(limit)?;
        if dtype == DType::Bool && bytes.iter().any(|&b| b > 1) {
            // A file may hold any byte, kernels may not see others than 0 and 1.
            bytes = bytes.iter().map(|&b| u8::from(b != 0)).collect::<Vec<_>>().into();
        }
        let range = 0..bytes.len();
        let shared = kiln_ir::Bytes::shared(Arc::new(bytes), range);
        let shared = shared.unwrap_or_else(|| kiln_ir::Bytes::zeroed(0));
        Tensor::new(dtype, &self.shape, shared).map_err(description)
    }
}

/// Whether elements follow each other in row-major order.
fn is_dense(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1usize;
    for (&dim, &stride) in shape.iter().zip(strides).rev() {
        if dim != 1 && stride != expected {
            return shape.contains(&0);
        }
        expected = expected.saturating_mul(dim);
    }
    true
}

/// Copies the elements of a view into row-major order, lowest byte first. The view was checked when it was made.
fn gather(element: Element, shape: &[usize], view: &View) -> Vec<u8> {
    let size = element.size().unwrap_or(1);
    let total = element.bytes_for(count(shape).unwrap_or(0)).unwrap_or(0);
    let mut out = Vec::with_capacity(total);
    let source = &view.storage.bytes;
    if element.size().is_none() {
        out.extend_from_slice(source.get(..total).unwrap_or(&[]));
    } else {
        let mut index = vec![0usize; shape.len()];
        let (inner, step) = match (shape.last(), view.strides.last()) {
            (Some(&dim), Some(&stride)) => (dim, stride),
            _ => (1, 1),
        };
        while out.len() < total {
            let outer = index.iter().zip(&view.strides).map(|(&i, &s)| i * s).sum::<usize>() + view.offset;
            if step == 1 {
                let range = outer * size..(outer + inner) * size;
                out.extend_from_slice(source.get(range).unwrap_or(&[]));
            } else {
                for i in 0..inner {
                    let at = (outer + i * step) * size;
                    out.extend_from_slice(source.get(at..at + size).unwrap_or(&[]));
                }
            }
            if !advance(&mut index, shape) {
                break;
            }
        }
    }
    // Elements that are missing because the file shrank under its map are zero.
    out.resize(total, 0);
    let word = element.word();
    if view.storage.order == ByteOrder::Big && word > 1 {
        out.chunks_exact_mut(word).for_each(<[u8]>::reverse);
    }
    if view.negative {
        out.chunks_exact_mut(word).for_each(flip_sign);
    }
    if view.conjugate {
        out.chunks_exact_mut(2 * word).for_each(|pair| flip_sign(&mut pair[word..]));
    }
    out
}

/// Negates a float, lowest byte first.
fn flip_sign(word: &mut [u8]) {
    if let Some(last) = word.last_mut() {
        *last ^= 0x80;
    }
}

/// The next index over all dimensions but the last; false after the last one.
fn advance(index: &mut [usize], shape: &[usize]) -> bool {
    let outer = index.len().saturating_sub(1);
    for (i, &dim) in index.iter_mut().zip(shape).take(outer).rev() {
        *i += 1;
        if *i < dim {
            return true;
        }
        *i = 0;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storage(bytes: &'static [u8], order: ByteOrder) -> Arc<Storage> {
        Arc::new(Storage { name: "s".into(), bytes: Bytes::from_static(bytes), order })
    }

    const U8: Element = Element::Plain(DType::U8);

    fn view(shape: &[usize], strides: &[usize], offset: usize) -> Result<CheckpointTensor, TensorFault> {
        let storage = storage(&[0, 1, 2, 3, 4, 5], ByteOrder::Little);
        CheckpointTensor::strided(U8, shape.to_vec(), strides.to_vec(), offset, storage)
    }

    #[test]
    fn views_are_gathered() {
        let bytes = |shape: &[usize], strides: &[usize], offset| {
            view(shape, strides, offset).unwrap().bytes(1 << 10).unwrap().to_vec()
        };
        assert_eq!(bytes(&[2, 3], &[3, 1], 0), [0, 1, 2, 3, 4, 5]);
        assert_eq!(bytes(&[3, 2], &[1, 3], 0), [0, 3, 1, 4, 2, 5]);
        assert_eq!(bytes(&[2, 2], &[2, 1], 2), [2, 3, 4, 5]);
        assert_eq!(bytes(&[2, 3], &[0, 1], 3), [3, 4, 5, 3, 4, 5]);
        assert_eq!(bytes(&[], &[], 4), [4]);
        assert!(bytes(&[2, 0], &[9, 9], 4).is_empty());
    }

    #[test]
    fn dense_views_are_mapped() {
        for (shape, strides, offset) in [(vec![2, 3], vec![3, 1], 0), (vec![1, 2], vec![77, 1], 4)] {
            assert!(view(&shape, &strides, offset).unwrap().mapped().is_some());
        }
        assert!(view(&[3, 2], &[1, 3], 0).unwrap().mapped().is_none());
    }

    #[test]
    fn views_stay_in_their_storage() {
        assert!(matches!(view(&[7], &[1], 0), Err(TensorFault::Outside { end: 7, .. })));
        assert!(matches!(view(&[2], &[1], 5), Err(TensorFault::Outside { .. })));
        assert!(matches!(view(&[2], &[usize::MAX], 1), Err(TensorFault::Outside { .. })));
        assert!(matches!(view(&[3], &[usize::MAX], 0), Err(TensorFault::Outside { .. })));
        assert!(matches!(view(&[usize::MAX, 2], &[0, 0], 0), Err(TensorFault::Shape(_))));
        assert!(matches!(view(&[1; 65], &[1; 65], 0), Err(TensorFault::Rank(65))));
        assert!(matches!(view(&[1], &[], 0), Err(TensorFault::Strides { .. })));
        let wide = view(&[1 << 40], &[0], 0).unwrap();
        assert!(matches!(wide.bytes(1 << 20), Err(TensorFault::Limit { .. })));
    }

    #[test]
    fn big_endian_numbers_are_turned() {
        let storage = storage(&[1, 2, 3, 4, 5, 6, 7, 8], ByteOrder::Big);
        let tensor = |dtype| {
            CheckpointTensor::dense(Element::Plain(dtype), vec![1], storage.clone()).unwrap().bytes(0)
        };
        assert_eq!(&tensor(DType::C64).unwrap()[..], [4, 3, 2, 1, 8, 7, 6, 5]);
        assert_eq!(&tensor(DType::I64).unwrap()[..], [8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(&tensor(DType::U8).unwrap()[..], [1]);
    }
}
