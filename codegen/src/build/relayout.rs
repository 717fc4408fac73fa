//! Reordering of constants at compile time.

use kiln_ir::tensor::Bytes;
use kiln_ir::{Dim, Tensor};

use super::expr::{Axes, AxisId, Expr, strides};

/// Largest growth of a constant that a reordering may cause.
const MAX_GROWTH: usize = 2;

/// The elements of `tensor` at `offset`, in row-major order over `order`, and the offset expression into the result.
/// `None` where extents or coefficients are symbolic, or the result would be much larger than the tensor.
pub fn relayout(tensor: &Tensor, offset: &Expr, order: &[AxisId], axes: &Axes) -> Option<(Tensor, Expr)> {
    if !offset.is_affine() || tensor.dtype().is_packed() {
        return None;
    }
    let size = tensor.dtype().bits() / 8;
    let extents = extents(order, axes)?;
    let count = extents.iter().try_fold(1usize, |n, &e| n.checked_mul(e))?;
    if size == 0 || count > tensor.numel().saturating_mul(MAX_GROWTH) {
        return None;
    }
    let coefficients: Option<Vec<i64>> = order.iter().map(|a| offset.coefficient(*a).as_known()).collect();
    let coefficients = coefficients?;
    let base = offset.offset().as_known()?;
    let covered = offset.terms().iter().all(|(atom, _)| match atom {
        super::expr::Atom::Axis(a) => order.contains(a),
        _ => false,
    });
    if !covered {
        return None;
    }
    let source = tensor.bytes();
    let mut in_range = true;
    let bytes = Bytes::build(count.checked_mul(size)?, |out| {
        in_range = gather(source, out, size, base, &extents, &coefficients);
    });
    let dims: Vec<Dim> = order.iter().map(|a| axes.extent(*a).clone()).collect();
    let mut at = Expr::zero();
    for (axis, stride) in order.iter().zip(strides(&dims)) {
        at = at.plus(&Expr::axis(*axis).times(&stride));
    }
    let tensor = in_range.then(|| Tensor::new(tensor.dtype(), &extents, bytes).ok()).flatten()?;
    Some((tensor, at))
}

/// The constant extents of axes.
pub fn extents(order: &[AxisId], axes: &Axes) -> Option<Vec<usize>> {
    order.iter().map(|a| axes.extent(*a).as_known().and_then(|e| usize::try_from(e).ok())).collect()
}

/// Copies elements at `base + sum of coefficient * index`, in row-major order of the indices; false if one lies outside.
pub fn gather(
    source: &[u8],
    out: &mut [u8],
    size: usize,
    base: i64,
    extents: &[usize],
    coefficients: &[i64],
) -> bool {
    let mut index = vec![0usize; extents.len()];
    let mut at = base;
    for element in out.chunks_exact_mut(size) {
        let start = usize::try_from(at).ok().and_then(|a| a.checked_mul(size));
        let bytes = start.and_then(|s| source.get(s..s.checked_add(size)?));
        let Some(bytes) = bytes else { return false };
        element.copy_from_slice(bytes);
        for d in (0..extents.len()).rev() {
            index[d] += 1;
            at += coefficients[d];
            if index[d] < extents[d] {
                break;
            }
            at -= coefficients[d] * extents[d] as i64;
            index[d] = 0;
        }
    }
    true
}
