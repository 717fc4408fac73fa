//! Constants and moves of elements.

use crate::op::{Movement, PadMode, Source};
use crate::{DClass, Tensor};

use super::cx::Cx;
use super::fault::{Fault, invalid};
use super::lanes::Lanes;
use super::walk::{Walk, broadcast_strides, pick, pick_from, split_at, strides};

/// A value from nowhere.
pub(super) fn source(cx: &mut Cx<'_>, op: &Source) -> Result<Tensor, Fault> {
    match op {
        Source::Constant { value } => Ok(value.clone()),
        Source::Iota { len, dtype } => {
            let len = cx.size(len)?;
            cx.admit(*dtype, &[len])?;
            match dtype.class() {
                DClass::Signed | DClass::Unsigned | DClass::Float => {
                    Lanes::I((0..len as i128).collect()).encode(*dtype, &[len])
                }
                DClass::Bool | DClass::Complex | DClass::Text => invalid(format!("does not give {dtype}")),
            }
        }
        Source::Dims { dims } => Ok(Tensor::ints(&cx.dims(dims)?)),
    }
}

/// A move whose result shape is in its attributes.
pub(super) fn movement(cx: &mut Cx<'_>, op: &Movement, operands: &[&Tensor]) -> Result<Tensor, Fault> {
    let Some(&x) = operands.first() else { return invalid("takes an operand") };
    match op {
        Movement::Reshape { shape } => Ok(x.reshaped(&cx.sizes(shape)?)?),
        Movement::Transpose { perm } => transpose(cx, x, perm),
        Movement::Broadcast { shape } => {
            let dims = cx.sizes(shape)?;
            broadcast(cx, x, &dims)
        }
        Movement::Slice { starts, sizes, steps } => {
            let (starts, sizes) = (cx.dims(starts)?, cx.sizes(sizes)?);
            slice(cx, x, &starts, &sizes, steps)
        }
        Movement::Pad { mode, before, after } => {
            let Some(&value) = operands.get(1) else { return invalid("takes a value to pad with") };
            let (before, after) = (cx.dims(before)?, cx.dims(after)?);
            pad(cx, x, value, *mode, &before, &after)
        }
        Movement::Concat { axis } => concat(cx, operands, *axis),
    }
}

/// Result axis `i` is operand axis `perm[i]`.
pub(super) fn transpose(cx: &mut Cx<'_>, x: &Tensor, perm: &[usize]) -> Result<Tensor, Fault> {
    let mut seen = vec![false; x.dims().len()];
    perm.iter().for_each(|&p| seen.get_mut(p).into_iter().for_each(|s| *s = true));
    if perm.len() != x.dims().len() || seen.contains(&false) {
        return invalid(format!("{perm:?} does not permute {} axes", x.dims().len()));
    }
    let own = strides(x.dims());
    let dims: Vec<usize> = perm.iter().map(|&p| x.dims()[p]).collect();
    let order: Vec<isize> = perm.iter().map(|&p| own[p]).collect();
    pick_from(cx, x, &dims, Walk::new(&dims, &order, 0))
}

/// Repeats size-1 axes.
pub(super) fn broadcast(cx: &mut Cx<'_>, x: &Tensor, dims: &[usize]) -> Result<Tensor, Fault> {
    let order = broadcast_strides(x.dims(), dims)?;
    cx.admit(x.dtype(), dims)?;
    pick_from(cx, x, dims, Walk::new(dims, &order, 0))
}

/// Element `i` of axis `a` is operand element `starts[a] + i * steps[a]`.
pub(super) fn slice(
    cx: &mut Cx<'_>,
    x: &Tensor,
    starts: &[i64],
    sizes: &[usize],
    steps: &[i64],
) -> Result<Tensor, Fault> {
    let rank = x.dims().len();
    if starts.len() != rank || sizes.len() != rank || steps.len() != rank {
        return invalid(format!("slices {} axes of a tensor of rank {rank}", starts.len()));
    }
    cx.admit(x.dtype(), sizes)?;
    let own = strides(x.dims());
    let (mut base, mut order) = (0isize, vec![]);
    for a in 0..rank {
        let last = (sizes[a] as i64 - 1).checked_mul(steps[a]).and_then(|n| n.checked_add(starts[a]));
        let inside = |i: i64| (0..x.dims()[a] as i64).contains(&i);
        match last {
            _ if sizes[a] == 0 => {}
            Some(last) if inside(starts[a]) && inside(last) => base += starts[a] as isize * own[a],
            _ => {
                let (start, size, step, dim) = (starts[a], sizes[a], steps[a], x.dims()[a]);
                return invalid(format!("axis {a} of {dim} elements: {size} from {start} by {step}"));
            }
        }
        order.push((steps[a] as isize).wrapping_mul(own[a]));
    }
    // An empty result reads nothing, wherever its other axes start.
    pick_from(cx, x, sizes, Walk::new(sizes, &order, base))
}

/// Extends or crops each axis.
pub(super) fn pad(
    cx: &mut Cx<'_>,
    x: &Tensor,
    value: &Tensor,
    mode: PadMode,
    before: &[i64],
    after: &[i64],
) -> Result<Tensor, Fault> {
    let rank = x.dims().len();
    if before.len() != rank || after.len() != rank {
        return invalid(format!("pads {} axes of a tensor of rank {rank}", before.len()));
    }
    if mode == PadMode::Constant && value.numel() != 1 {
        return invalid(format!("the value to pad with has {} elements", value.numel()));
    }
    // Far beyond what memory holds, and far from where differences overflow.
    if before.iter().chain(after).any(|p| p.unsigned_abs() > 1 << 60) {
        return invalid("sizes overflow");
    }
    let mut dims = vec![];
    for a in 0..rank {
        let size = (x.dims()[a] as i64).checked_add(before[a]).and_then(|n| n.checked_add(after[a]));
        let size = size.and_then(|n| usize::try_from(n).ok());
        let Some(size) = size else {
            return invalid(format!(
                "axis {a} of {} elements: {} before, {} after",
                x.dims()[a],
                before[a],
                after[a]
            ));
        };
        dims.push(size);
    }
    cx.admit(x.dtype(), &dims)?;
    // Where each result coordinate reads, axis by axis; none is the value.
    let mut reads: Vec<Vec<Option<usize>>> = vec![];
    for a in 0..rank {
        let n = x.dims()[a];
        if n == 0 && dims[a] > 0 && mode != PadMode::Constant && !dims.contains(&0) {
            return invalid(format!("axis {a} is empty: there is nothing to repeat"));
        }
        let at = |i: usize| source_of(i as i64 - before[a], n as i64, mode);
        let numbered = if dims.contains(&0) { 0 } else { dims[a] };
        reads.push((0..numbered).map(at).collect());
    }
    let own = strides(x.dims());
    let positions = strides(&dims);
    let count = if dims.contains(&0) { 0 } else { dims.iter().product() };
    let picks = (0..count).map(|flat: usize| {
        let mut offset = 0;
        for a in 0..rank {
            let at = flat / positions[a].unsigned_abs() % dims[a];
            match reads[a][at] {
                Some(i) => offset += i * own[a].unsigned_abs(),
                None => return (1, 0),
            }
        }
        (0, offset)
    });
    match mode {
        PadMode::Constant => pick(cx, &[x, value], &dims, picks),
        PadMode::Reflect | PadMode::Edge | PadMode::Wrap => pick(cx, &[x], &dims, picks),
    }
}

/// The operand's coordinate that coordinate `i` (0 where the operand starts) reads.
fn source_of(i: i64, n: i64, mode: PadMode) -> Option<usize> {
    let at = match mode {
        PadMode::Constant => i,
        PadMode::Edge => i.clamp(0, (n - 1).max(0)),
        PadMode::Wrap => i.rem_euclid(n.max(1)),
        PadMode::Reflect => {
            let period = (2 * (n - 1)).max(1);
            let at = i.rem_euclid(period);
            if at >= n { period - at } else { at }
        }
    };
    usize::try_from(at).ok().filter(|_| at < n)
}

/// Joins all operands along an axis.
pub(super) fn concat(cx: &mut Cx<'_>, operands: &[&Tensor], axis: usize) -> Result<Tensor, Fault> {
    let Some(first) = operands.first() else { return invalid("takes an operand") };
    let mut dims = first.dims().to_vec();
    let mut total = 0usize;
    let mut parts = vec![];
    for t in operands {
        let same =
            t.dims().len() == dims.len() && (0..dims.len()).all(|a| a == axis || t.dims()[a] == dims[a]);
        if !same {
            return invalid(format!("{:?} and {:?} do not join along axis {axis}", first.dims(), t.dims()));
        }
        let (outer, n, inner) = split_at(t.dims(), axis)?;
        total = total.saturating_add(n);
        parts.push((outer, n.saturating_mul(inner)));
    }
    dims[axis] = total;
    let outer = parts.first().map_or(0, |p| p.0);
    let parts = &parts;
    let picks = (0..outer).flat_map(|o| {
        parts.iter().enumerate().flat_map(move |(s, &(_, len))| (o * len..(o + 1) * len).map(move |i| (s, i)))
    });
    pick(cx, operands, &dims, picks)
}
