//! Gathers and scatters.

use crate::op::{Index, ScatterMode};
use crate::{DType, Prim, Scalar, Tensor, wrap_int};

use super::cx::Cx;
use super::fault::{Fault, invalid};
use super::lanes::{Lanes, ints};
use super::walk::{index_of, pick, pick_from, product, split_at, strides};

/// A gather or scatter.
pub(super) fn index(cx: &mut Cx<'_>, op: &Index, operands: &[&Tensor]) -> Result<Tensor, Fault> {
    let (x, indices) = match operands {
        [x, indices, ..] => (*x, *indices),
        _ => return invalid("takes an operand and indices"),
    };
    let updates = || operands.get(2).copied().ok_or_else(|| Fault::operands("takes updates"));
    match op {
        Index::Gather { axis } => gather(cx, x, indices, *axis),
        Index::GatherElements { axis } => {
            let at = element_positions(x, indices, *axis)?;
            pick_from(cx, x, indices.dims(), at.into_iter())
        }
        Index::GatherNd { batch } => gather_nd(cx, x, indices, *batch),
        Index::ScatterElements { axis, mode } => {
            let updates = updates()?;
            if updates.dims() != indices.dims() {
                return invalid(format!("updates {:?} for indices {:?}", updates.dims(), indices.dims()));
            }
            let at = element_positions(x, indices, *axis)?;
            scatter(cx, x, updates, *mode, at.into_iter().enumerate().map(|(u, t)| (t, u)))
        }
        Index::ScatterNd { mode } => scatter_nd(cx, x, indices, updates()?, *mode),
    }
}

/// `x[..., indices, ...]` along an axis.
fn gather(cx: &mut Cx<'_>, x: &Tensor, indices: &Tensor, axis: usize) -> Result<Tensor, Fault> {
    let (outer, n, inner) = split_at(x.dims(), axis)?;
    let dims = [&x.dims()[..axis], indices.dims(), &x.dims()[axis + 1..]].concat();
    cx.admit(x.dtype(), &dims)?;
    let at = ints(indices)?.into_iter().map(|i| index_of(i, n)).collect::<Result<Vec<_>, _>>()?;
    let at = &at;
    let positions = (0..outer)
        .flat_map(|o| at.iter().flat_map(move |&i| (0..inner).map(move |k| (o * n + i) * inner + k)));
    pick_from(cx, x, &dims, positions)
}

/// For each index: the position in `x` of the element whose coordinate on `axis` it replaces.
fn element_positions(x: &Tensor, indices: &Tensor, axis: usize) -> Result<Vec<usize>, Fault> {
    let (dims, rank) = (indices.dims(), x.dims().len());
    let fits = dims.len() == rank
        && axis < rank
        && (indices.numel() == 0 || (0..rank).all(|a| a == axis || dims[a] <= x.dims()[a]));
    if !fits {
        return invalid(format!("indices {dims:?} for axis {axis} of {:?}", x.dims()));
    }
    let (own, mine) = (strides(x.dims()), strides(dims));
    let place = |(flat, i): (usize, i64)| {
        let mut offset = index_of(i, x.dims()[axis])? * own[axis].unsigned_abs();
        for a in (0..rank).filter(|&a| a != axis) {
            offset += flat / mine[a].unsigned_abs() % dims[a] * own[a].unsigned_abs();
        }
        Ok(offset)
    };
    ints(indices)?.into_iter().enumerate().map(place).collect()
}

/// Coordinate prefixes: for each of `rows`, the offset of the slice that the last axis of `indices` names, and the
/// slice's size.
fn prefix_offsets(x: &Tensor, indices: &Tensor, batch: usize) -> Result<(Vec<usize>, usize, usize), Fault> {
    let (dims, rank) = (indices.dims(), x.dims().len());
    let Some((&depth, lead)) = dims.split_last() else { return invalid("indices have rank 0") };
    if batch > lead.len() || batch + depth > rank || x.dims()[..batch] != lead[..batch] {
        return invalid(format!("indices {dims:?} with {batch} batch axes for {:?}", x.dims()));
    }
    let own = strides(x.dims());
    let rows = product(lead)?;
    let per_batch = product(&lead[batch..])?.max(1);
    let slice = product(&x.dims()[batch + depth..])?;
    let batch_size = product(&x.dims()[batch..])?;
    let values = ints(indices)?;
    let mut offsets = Vec::with_capacity(if slice == 0 { 0 } else { rows });
    for row in 0..rows {
        let mut offset = row / per_batch * batch_size;
        for (d, &i) in values.get(row * depth..(row + 1) * depth).unwrap_or(&[]).iter().enumerate() {
            offset += index_of(i, x.dims()[batch + d])? * own[batch + d].unsigned_abs();
        }
        offsets.push(offset);
    }
    Ok((offsets, slice, batch + depth))
}

fn gather_nd(cx: &mut Cx<'_>, x: &Tensor, indices: &Tensor, batch: usize) -> Result<Tensor, Fault> {
    bound_rows(cx, indices)?;
    let (offsets, slice, prefix) = prefix_offsets(x, indices, batch)?;
    let dims = [&indices.dims()[..indices.dims().len() - 1], &x.dims()[prefix..]].concat();
    pick_from(cx, x, &dims, offsets.into_iter().flat_map(|o| o..o + slice))
}

fn scatter_nd(
    cx: &mut Cx<'_>,
    x: &Tensor,
    indices: &Tensor,
    updates: &Tensor,
    mode: ScatterMode,
) -> Result<Tensor, Fault> {
    bound_rows(cx, indices)?;
    let (offsets, slice, prefix) = prefix_offsets(x, indices, 0)?;
    let expected = [&indices.dims()[..indices.dims().len() - 1], &x.dims()[prefix..]].concat();
    if updates.dims() != expected {
        return invalid(format!("updates {:?}, expected {expected:?}", updates.dims()));
    }
    let targets = offsets.into_iter().flat_map(|o| o..o + slice).enumerate().map(|(u, t)| (t, u));
    scatter(cx, x, updates, mode, targets)
}

/// Rows of indices without columns take no memory; their number is bounded like a result's.
fn bound_rows(cx: &mut Cx<'_>, indices: &Tensor) -> Result<(), Fault> {
    let lead = indices.dims().split_last().map_or(&[][..], |(_, lead)| lead);
    cx.admit(DType::I64, lead).map(|_| ())
}

/// `x` with updates combined in: pairs of position in `x` and position in `updates`, in order.
fn scatter(
    cx: &mut Cx<'_>,
    x: &Tensor,
    updates: &Tensor,
    mode: ScatterMode,
    targets: impl Iterator<Item = (usize, usize)>,
) -> Result<Tensor, Fault> {
    if updates.dtype() != x.dtype() {
        return invalid(format!("updates of {} for {}", updates.dtype(), x.dtype()));
    }
    let combine = match mode {
        ScatterMode::Assign => {
            let mut picks: Vec<(usize, usize)> = (0..x.numel()).map(|i| (0, i)).collect();
            for (target, update) in targets {
                match picks.get_mut(target) {
                    Some(slot) => *slot = (1, update),
                    None => return Err(Fault::OutOfRange { index: target as i64, size: x.numel() }),
                }
            }
            return pick(cx, &[x, updates], x.dims(), picks.into_iter());
        }
        ScatterMode::Add => Prim::Add,
        ScatterMode::Mul => Prim::Mul,
        ScatterMode::Min => Prim::Min,
        ScatterMode::Max => Prim::Max,
    };
    cx.admit(x.dtype(), x.dims())?;
    cx.tick(updates.numel())?;
    let (base, updates) = (Lanes::decode(x)?, Lanes::decode(updates)?);
    let mut values: Vec<Scalar> = (0..base.len()).map(|i| base.get(i)).collect();
    for (target, update) in targets {
        if target >= values.len() || update >= updates.len() {
            return Err(Fault::OutOfRange { index: target as i64, size: values.len() });
        }
        let combined = combine.apply(&[values[target], updates.get(update)], x.dtype().bits());
        values[target] = match combined {
            Scalar::I(v) => Scalar::I(wrap_int(v, x.dtype())),
            other => other,
        };
    }
    let mut out = Lanes::empty(x.dtype(), values.len())?;
    values.into_iter().for_each(|v| out.push(v));
    out.encode(x.dtype(), x.dims())
}
