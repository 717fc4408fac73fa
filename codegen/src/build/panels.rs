//! Weights as the panels of [`crate::kir::Rhs::Packed`].

use kiln_ir::tensor::Bytes;
use kiln_ir::{Dim, Tensor};

use super::expr::{Axes, AxisId, Expr, strides};
use super::relayout::{extents, relayout};

/// Packed weights.
#[derive(Clone, Debug)]
pub struct Panels {
    /// `[outer...][ceil(N / width)][K][width]`.
    pub tensor: Tensor,
    /// Panel width.
    pub width: u32,
    /// Element index of the first panel of an outer index.
    pub base: Expr,
}

/// Packs the elements of `tensor` at `offset` over outer, reduced and column axes.
pub fn pack_panels(
    tensor: &Tensor,
    offset: &Expr,
    [outer, reduced, columns]: [&[AxisId]; 3],
    axes: &Axes,
    width: u32,
) -> Option<Panels> {
    let order = [outer, reduced, columns].concat();
    let (dense, _) = relayout(tensor, offset, &order, axes)?;
    let product = |part: &[AxisId]| extents(part, axes).map(|e| e.iter().product::<usize>());
    let (g, k, n) = (product(outer)?, product(reduced)?, product(columns)?);
    let size = tensor.dtype().bits() / 8;
    let w = width as usize;
    let panels = n.div_ceil(w);
    let each = panels.checked_mul(k)?.checked_mul(w)?;
    let source = dense.bytes();
    let bytes = Bytes::build(g.checked_mul(each)?.checked_mul(size)?, |out| {
        for (i, row) in out.chunks_exact_mut(w * size).enumerate() {
            // Rows of one panel follow each other; panels of one outer index too.
            let (group, panel, depth) =
                (i / k.max(1) / panels.max(1), i / k.max(1) % panels.max(1), i % k.max(1));
            let first = panel * w;
            let count = w.min(n - first);
            let start = ((group * k + depth) * n + first) * size;
            if let Some(part) = source.get(start..start + count * size) {
                row[..count * size].copy_from_slice(part);
            }
        }
    });
    let dims: Vec<Dim> = outer.iter().map(|a| axes.extent(*a).clone()).collect();
    let mut base = Expr::zero();
    for (axis, stride) in outer.iter().zip(strides(&dims)) {
        base = base.plus(&Expr::axis(*axis).times(&(stride * Dim::known(i64::try_from(each).ok()?))));
    }
    let tensor = Tensor::new(tensor.dtype(), &[g, panels, k, w], bytes).ok()?;
    Some(Panels { tensor, width, base })
}
