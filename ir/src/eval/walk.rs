//! Strided walks over index spaces, axis arithmetic, and the one routine that moves elements.

use crate::tensor::Bytes;
use crate::{DType, Tensor};

use super::cx::Cx;
use super::fault::{Fault, invalid};

/// Row-major strides of `dims`.
pub(super) fn strides(dims: &[usize]) -> Vec<isize> {
    let mut out = vec![1isize; dims.len()];
    for i in (1..dims.len()).rev() {
        // Strides of empty tensors may be meaningless, for nothing is read with them.
        out[i - 1] = out[i].wrapping_mul(dims[i].max(1) as isize);
    }
    out
}

/// The offsets `base + sum(index[a] * strides[a])` of all indices of `dims`, in row-major order.
pub(super) struct Walk {
    dims: Vec<usize>,
    strides: Vec<isize>,
    index: Vec<usize>,
    offset: isize,
    left: usize,
}

impl Walk {
    pub(super) fn new(dims: &[usize], strides: &[isize], base: isize) -> Self {
        // Sizes of an empty space may be beyond what a product can hold.
        let left = if dims.contains(&0) { 0 } else { dims.iter().product() };
        // An axis of one element is never stepped along: its stride may be anything, beyond what sums can hold too.
        let strides = dims.iter().zip(strides).map(|(&d, &s)| if d > 1 { s } else { 0 }).collect();
        let dims = dims.to_vec();
        Walk { index: vec![0; dims.len()], dims, strides, offset: base, left }
    }
}

impl Iterator for Walk {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        let here = self.offset;
        for a in (0..self.dims.len()).rev() {
            self.index[a] += 1;
            self.offset += self.strides[a];
            if self.index[a] < self.dims[a] {
                break;
            }
            self.offset -= self.strides[a] * self.dims[a] as isize;
            self.index[a] = 0;
        }
        // Callers check their bounds first; a negative offset would be one beyond every slice.
        Some(usize::try_from(here).unwrap_or(usize::MAX))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

/// Strides with which an operand of `from` is read for a result of `to`: NumPy broadcasting, right-aligned.
pub(super) fn broadcast_strides(from: &[usize], to: &[usize]) -> Result<Vec<isize>, Fault> {
    let Some(skip) = to.len().checked_sub(from.len()) else {
        return invalid(format!("{from:?} does not broadcast to {to:?}"));
    };
    let own = strides(from);
    let mut out = vec![0; to.len()];
    for (i, (&f, &t)) in from.iter().zip(&to[skip..]).enumerate() {
        if f != t && f != 1 {
            return invalid(format!("{from:?} does not broadcast to {to:?}"));
        }
        out[skip + i] = if f == 1 { 0 } else { own[i] };
    }
    Ok(out)
}

/// The shape that all `shapes` broadcast to.
pub(super) fn broadcast_dims(shapes: &[&[usize]]) -> Result<Vec<usize>, Fault> {
    let rank = shapes.iter().map(|s| s.len()).max().unwrap_or(0);
    let mut out = vec![1; rank];
    for shape in shapes {
        for (o, &d) in out[rank - shape.len()..].iter_mut().zip(*shape) {
            if *o == 1 {
                *o = d;
            } else if d != 1 && d != *o {
                return invalid(format!("shapes {shapes:?} do not broadcast together"));
            }
        }
    }
    Ok(out)
}

/// An axis that may count from the end, normalized for `rank`.
pub(super) fn axis_of(axis: i64, rank: usize) -> Result<usize, Fault> {
    let shifted = if axis < 0 { axis.checked_add(rank as i64) } else { Some(axis) };
    match shifted.and_then(|a| usize::try_from(a).ok()) {
        Some(a) if a < rank => Ok(a),
        _ => invalid(format!("axis {axis} of a tensor of rank {rank}")),
    }
}

/// An index that may count from the end, normalized for `size`.
pub(super) fn index_of(index: i64, size: usize) -> Result<usize, Fault> {
    let shifted = if index < 0 { index.checked_add(size as i64) } else { Some(index) };
    match shifted.and_then(|i| usize::try_from(i).ok()) {
        Some(i) if i < size => Ok(i),
        _ => Err(Fault::OutOfRange { index, size }),
    }
}

/// The product of dims.
pub(super) fn product(dims: &[usize]) -> Result<usize, Fault> {
    let product = dims.iter().try_fold(1usize, |a, &d| a.checked_mul(d));
    product.ok_or_else(|| Fault::Operands(format!("the size of {dims:?} overflows")))
}

/// Dims split at an axis: product before, the axis, product after.
pub(super) fn split_at(dims: &[usize], axis: usize) -> Result<(usize, usize, usize), Fault> {
    let Some(&n) = dims.get(axis) else {
        return invalid(format!("axis {axis} of a tensor of rank {}", dims.len()));
    };
    Ok((product(&dims[..axis])?, n, product(&dims[axis + 1..])?))
}

/// A tensor of `dims` whose elements are picked from `sources` (of one dtype): pairs of source and row-major
/// position. Works on every dtype, for it moves bits.
pub(super) fn pick(
    cx: &mut Cx<'_>,
    sources: &[&Tensor],
    dims: &[usize],
    picks: impl Iterator<Item = (usize, usize)>,
) -> Result<Tensor, Fault> {
    let Some(dtype) = sources.first().map(|s| s.dtype()) else { return invalid("no operand to pick from") };
    if let Some(other) = sources.iter().find(|s| s.dtype() != dtype) {
        return invalid(format!("operands of {dtype} and {}", other.dtype()));
    }
    let count = cx.admit(dtype, dims)?;
    let at = |(s, i): (usize, usize)| match sources.get(s) {
        Some(t) if i < t.numel() => Ok((*t, i)),
        other => Err(Fault::OutOfRange { index: i as i64, size: other.map_or(0, |t| t.numel()) }),
    };
    if dtype == DType::String {
        return pick_strings(cx, dims, picks.take(count).map(at));
    }
    let bits = dtype.bits();
    let Some(len) = dtype.bytes_for(count) else { return invalid("sizes overflow") };
    let mut fault = None;
    let bytes = Bytes::build(len, |out| {
        let mut put = |k: usize, p: (usize, usize)| -> Result<(), Fault> {
            if bits < 8 {
                let (t, i) = at(p)?;
                let per_byte = 8 / bits;
                let element = t.element_bits(i) as u8;
                if let Some(byte) = out.get_mut(k / per_byte) {
                    *byte |= element << (k % per_byte * bits);
                }
                return Ok(());
            }
            let size = bits / 8;
            let from = sources.get(p.0).and_then(|t| t.bytes().get(p.1.checked_mul(size)?..)?.get(..size));
            match (from, out.get_mut(k * size..(k + 1) * size)) {
                (Some(from), Some(to)) => to.copy_from_slice(from),
                _ => return at(p).map(|_| ()),
            }
            Ok(())
        };
        fault = picks.take(count).enumerate().try_for_each(|(k, p)| put(k, p)).err();
    });
    match fault {
        Some(f) => Err(f),
        None => Ok(Tensor::new(dtype, dims, bytes)?),
    }
}

/// A tensor of the strings at the given places. Their bytes count, for copies of one text may be many.
fn pick_strings<'t>(
    cx: &Cx<'_>,
    dims: &[usize],
    places: impl Iterator<Item = Result<(&'t Tensor, usize), Fault>>,
) -> Result<Tensor, Fault> {
    let mut bytes = 0u64;
    let mut strings = vec![];
    for place in places {
        let (t, i) = place?;
        let text = &t.as_strings()[i];
        bytes = bytes.saturating_add(text.len() as u64);
        if bytes > cx.limits.max_bytes {
            let (dims, limit) = (dims.to_vec(), cx.limits.max_bytes);
            return Err(Fault::TooLarge { dtype: DType::String, dims, limit });
        }
        strings.push(text.clone());
    }
    Ok(Tensor::strings(dims, strings)?)
}

/// A tensor of `dims` whose elements are those of `x` at the given positions.
pub(super) fn pick_from(
    cx: &mut Cx<'_>,
    x: &Tensor,
    dims: &[usize],
    positions: impl Iterator<Item = usize>,
) -> Result<Tensor, Fault> {
    pick(cx, &[x], dims, positions.map(|i| (0, i)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walks_cover_in_row_major_order() {
        assert_eq!(Walk::new(&[2, 3], &[1, 2], 0).collect::<Vec<_>>(), [0, 2, 4, 1, 3, 5]);
        assert_eq!(Walk::new(&[3], &[-1], 2).collect::<Vec<_>>(), [2, 1, 0]);
        assert_eq!(Walk::new(&[], &[], 5).collect::<Vec<_>>(), [5]);
        assert_eq!(Walk::new(&[2, 0], &[1, 1], 0).count(), 0);
    }

    #[test]
    fn strides_of_single_elements_do_not_count() {
        assert_eq!(Walk::new(&[1, 2], &[isize::MAX, 1], 1).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(Walk::new(&[2, 1], &[1, isize::MIN], 0).collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn broadcasting_is_right_aligned() {
        assert_eq!(broadcast_dims(&[&[3, 1], &[4], &[]]).unwrap(), [3, 4]);
        assert_eq!(broadcast_dims(&[&[0], &[1]]).unwrap(), [0]);
        assert!(broadcast_dims(&[&[3], &[2]]).is_err());
        assert_eq!(broadcast_strides(&[3, 1], &[2, 3, 4]).unwrap(), [0, 1, 0]);
        assert!(broadcast_strides(&[2], &[3]).is_err());
    }

    #[test]
    fn axes_and_indices_count_from_the_end() {
        assert_eq!(axis_of(-1, 3), Ok(2));
        assert!(axis_of(3, 3).is_err() && axis_of(i64::MIN, 3).is_err());
        assert_eq!(index_of(-2, 5), Ok(3));
        assert_eq!(index_of(5, 5), Err(Fault::OutOfRange { index: 5, size: 5 }));
        assert_eq!(index_of(-6, 5), Err(Fault::OutOfRange { index: -6, size: 5 }));
    }
}
