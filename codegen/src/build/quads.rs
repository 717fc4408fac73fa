//! Contractions of bytes: a left operand of u8 or i8, less a zero point, and constant weights that fit into i8.
//!
//! Sums are of the bytes themselves, four at a time ([`crate::kir::GROUP`]). The zero point comes in behind them, with
//! the sums of the weights' columns: `sum (a - z) w = sum a w - z sum w`. Padding is bytes of the zero point. Signed
//! bytes are taken as unsigned ones by flipping their sign, which adds 128 to them and to the zero point.

use kiln_ir::tensor::Bytes;
use kiln_ir::{DType, Dim, Prim, Scalar, Tensor, wrap_int};

use super::contract::Pieces;
use super::expr::{Axes, AxisId, Expr, strides};
use super::panels::Panels;
use super::relayout::{extents, gather};
use super::term::{InRange, Literal, Term, TermId};
use super::trace::{SourceTensor, Trace};
use crate::kir::GROUP;

/// Fewer products of a run would leave most of the bytes of a step without use.
const LEAST_RUN: i64 = 3;

/// What is subtracted from each byte, as u8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Zero {
    /// Known when compiling.
    Known(i64),
    /// The value of a term, and a number more.
    Computed(TermId, i64),
}

/// The left operand.
#[derive(Clone, Copy, Debug)]
pub(super) struct Left {
    /// The load of a byte.
    pub load: TermId,
    /// The byte as u8.
    pub term: TermId,
    /// What is subtracted.
    pub zero: Zero,
}

/// Packed weights and what corrects sums.
#[derive(Clone, Debug)]
pub(super) struct Weights {
    /// `[outer...][ceil(N / width)][taps][ceil(K / 4)][width][4]`.
    pub panels: Panels,
    /// For each outer index and column the number that is added to the sum, or, times a computed zero point, subtracted;
    /// none where that is 0.
    pub correction: Option<Tensor>,
    /// Index of the first column's in it.
    pub correction_base: Expr,
}

/// A byte less a zero point.
struct Byte {
    load: TermId,
    zero: Zero,
}

/// The element `value`, needed where `guards` hold and 0 outside of `bounds`, as a byte less a zero point, which is the
/// byte outside.
fn byte(trace: &mut Trace<'_, '_>, value: TermId, bounds: &[InRange], guards: &[InRange]) -> Option<Byte> {
    let (byte, zero) = match trace.terms.get(value).term.clone() {
        Term::Apply(Prim::Sub, operands) => (operands[0], zero_of(trace, operands[1])?),
        Term::Apply(Prim::Add, operands) => match zero_of(trace, operands[1])? {
            Zero::Known(zero) => (operands[0], Zero::Known(-zero)),
            Zero::Computed(..) => return None,
        },
        Term::Load { .. } | Term::Cast(_) => (value, Zero::Known(0)),
        _ => return None,
    };
    let load = match trace.terms.get(byte).term {
        Term::Cast(of) if trace.terms.dtype(byte) == DType::I32 => of,
        _ => byte,
    };
    let dtype = trace.terms.dtype(load);
    let Term::Load { source, offset, guards: own, mut otherwise } = trace.terms.get(load).term.clone() else {
        return None;
    };
    if !matches!(dtype, DType::U8 | DType::I8) || trace.sources[source].dtype != dtype {
        return None;
    }
    if !bounds.is_empty() {
        let Zero::Known(zero) = zero else { return None };
        let fits = dtype.int_range().is_some_and(|(low, high)| (low..=high).contains(&i128::from(zero)));
        if own != trace.guarded(guards, bounds) || !fits {
            return None;
        }
        otherwise = Literal::I(i128::from(zero));
    }
    let load = trace.terms.add(Term::Load { source, offset, guards: own, otherwise }, dtype);
    Some(Byte { load, zero })
}

/// The left operand of `pieces` as bytes, where it is bytes less a zero point.
pub(super) fn left(trace: &mut Trace<'_, '_>, pieces: &Pieces) -> Option<Left> {
    let Byte { load, zero } = byte(trace, pieces.bare.0, &pieces.bare.1, &[])?;
    let computed = match zero {
        Zero::Known(_) => None,
        Zero::Computed(term, _) => Some(term),
    };
    // It may differ from row to row only.
    if computed.is_some_and(|z| trace.terms.get(z).axes.iter().any(|a| pieces.reduced.contains(a))) {
        return None;
    }
    if trace.terms.dtype(load) == DType::U8 {
        return Some(Left { load, term: load, zero });
    }
    let bits = trace.terms.bits(load, DType::U8);
    let sign = trace.terms.add(Term::Const(Literal::I(128)), DType::U8);
    let term = trace.terms.apply(Prim::Xor, &[bits, sign]);
    let zero = match zero {
        Zero::Known(zero) => Zero::Known(zero + 128),
        Zero::Computed(term, more) => Zero::Computed(term, more + 128),
    };
    Some(Left { load, term, zero })
}

/// The factors of few products of integers as floats, whose sums are exact: bytes less a zero point, and constants.
/// `value`, `bounds` and `guards` are those of [`byte`]; `depth` is the number of products.
pub(super) fn exact_factors(
    trace: &mut Trace<'_, '_>,
    (value, bounds, guards): (TermId, &[InRange], &[InRange]),
    weight: TermId,
    depth: i64,
) -> Option<[TermId; 2]> {
    let Byte { load, zero: Zero::Known(zero) } = byte(trace, value, bounds, guards)? else { return None };
    let most = 255i64.checked_add(zero.checked_abs()?)?;
    let sum = most.checked_mul(magnitude(trace, weight)?)?.checked_mul(depth)?;
    if sum > 1 << f32::MANTISSA_DIGITS {
        return None;
    }
    let byte = trace.terms.cast(load, DType::F32);
    let left = match zero {
        0 => byte,
        _ => {
            let zero = trace.terms.number(DType::F32, zero as f64);
            trace.terms.apply(Prim::Sub, &[byte, zero])
        }
    };
    Some([left, trace.terms.cast(weight, DType::F32)])
}

/// A bound on the magnitude of a constant integer.
fn magnitude(trace: &Trace<'_, '_>, term: TermId) -> Option<i64> {
    match &trace.terms.get(term).term {
        Term::Const(Literal::I(value)) => i64::try_from(*value).ok()?.checked_abs(),
        Term::Cast(of) if trace.terms.dtype(term) == DType::I32 => magnitude(trace, *of),
        Term::Apply(Prim::Sub | Prim::Add, operands) => {
            magnitude(trace, *operands.first()?)?.checked_add(magnitude(trace, *operands.get(1)?)?)
        }
        Term::Load { source, .. } => {
            let tensor = trace.sources[*source].constant.as_ref()?;
            match trace.terms.dtype(term) {
                DType::I8 => Some(128),
                DType::U8 => Some(255),
                DType::I32 => (0..tensor.numel()).try_fold(0, |most: i64, i| match tensor.element(i)? {
                    Scalar::I(v) => Some(most.max(i64::try_from(v).ok()?.checked_abs()?)),
                    Scalar::F(_) | Scalar::B(_) => None,
                }),
                _ => None,
            }
        }
        _ => None,
    }
}

fn zero_of(trace: &Trace<'_, '_>, term: TermId) -> Option<Zero> {
    if trace.terms.dtype(term) != DType::I32 {
        return None;
    }
    match trace.terms.literal(term) {
        Some(Scalar::I(zero)) => i64::try_from(zero).ok().map(Zero::Known),
        Some(_) => None,
        None => Some(Zero::Computed(term, 0)),
    }
}

/// Whether the term is constant integers that all fit into i8.
pub(super) fn fits(trace: &Trace<'_, '_>, term: TermId) -> bool {
    let axes = trace.terms.get(term).axes.to_vec();
    let values = values(trace, term, &axes);
    values.is_some_and(|values| values.iter().all(|v| i8::try_from(*v).is_ok()))
}

/// The values of a term of constants, in row-major order over axes of known extent.
fn values(trace: &Trace<'_, '_>, term: TermId, order: &[AxisId]) -> Option<Vec<i32>> {
    // Axes that repeat elements are few.
    const MOST_GROWTH: usize = 2;
    let extents = extents(order, &trace.axes)?;
    let count = extents.iter().try_fold(1usize, |n, &e| n.checked_mul(e))?;
    let loaded = trace.terms.reachable(&[term]).into_iter().filter_map(|t| match &trace.terms.get(t).term {
        Term::Load { source, .. } => trace.sources[*source].constant.as_ref().map(Tensor::numel),
        _ => None,
    });
    let largest = loaded.max()?;
    (count <= largest.saturating_mul(MOST_GROWTH)).then(|| evaluate(trace, term, order, &extents, count))?
}

fn evaluate(
    trace: &Trace<'_, '_>,
    term: TermId,
    order: &[AxisId],
    extents: &[usize],
    count: usize,
) -> Option<Vec<i32>> {
    let data = trace.terms.get(term);
    let of = |term: TermId| evaluate(trace, term, order, extents, count);
    match &data.term {
        Term::Const(Literal::I(value)) => Some(vec![i32::try_from(*value).ok()?; count]),
        Term::Load { source, offset, guards, .. } if guards.is_empty() => {
            loaded(&trace.sources[*source], offset, order, extents, count)
        }
        Term::Cast(value) => {
            let (from, to) = (trace.terms.dtype(*value), data.dtype);
            let small = |d: DType| d.is_int() && d.bits() <= 32 && d != DType::U32;
            if !small(from) || !small(to) {
                return None;
            }
            let mut values = of(*value)?;
            if to.bits() < 32 {
                for v in &mut values {
                    *v = i32::try_from(wrap_int(i128::from(*v), to)).ok()?;
                }
            }
            Some(values)
        }
        Term::Apply(prim @ (Prim::Add | Prim::Sub), operands) if data.dtype == DType::I32 => {
            let (mut left, right) = (of(*operands.first()?)?, of(*operands.get(1)?)?);
            for (l, r) in left.iter_mut().zip(right) {
                *l = if *prim == Prim::Add { l.wrapping_add(r) } else { l.wrapping_sub(r) };
            }
            Some(left)
        }
        _ => None,
    }
}

/// Elements of a constant at `offset`.
fn loaded(
    source: &SourceTensor,
    offset: &Expr,
    order: &[AxisId],
    extents: &[usize],
    count: usize,
) -> Option<Vec<i32>> {
    let tensor = source.constant.as_ref().filter(|t| t.dtype() == source.dtype && offset.is_affine())?;
    let coefficients: Option<Vec<i64>> = order.iter().map(|a| offset.coefficient(*a).as_known()).collect();
    let (coefficients, base) = (coefficients?, offset.offset().as_known()?);
    let covered = offset.terms().iter().all(|(atom, _)| match atom {
        super::expr::Atom::Axis(a) => order.contains(a),
        _ => false,
    });
    let size = match tensor.dtype() {
        DType::I8 | DType::U8 => 1,
        DType::I16 | DType::U16 => 2,
        DType::I32 => 4,
        _ => return None,
    };
    let mut bytes = vec![0; count.checked_mul(size)?];
    if !covered || !gather(tensor.bytes(), &mut bytes, size, base, extents, &coefficients) {
        return None;
    }
    let value = |b: &[u8]| match (tensor.dtype(), b) {
        (DType::I8, &[b]) => i32::from(b as i8),
        (DType::U8, &[b]) => i32::from(b),
        (DType::I16, &[a, b]) => i32::from(i16::from_le_bytes([a, b])),
        (DType::U16, &[a, b]) => i32::from(u16::from_le_bytes([a, b])),
        (_, &[a, b, c, d]) => i32::from_le_bytes([a, b, c, d]),
        _ => 0,
    };
    Some(bytes.chunks_exact(size).map(value).collect())
}

/// The product of known extents.
fn product(part: &[AxisId], axes: &Axes) -> Option<usize> {
    extents(part, axes)?.into_iter().try_fold(1usize, usize::checked_mul)
}

/// Packs the weights `term` over outer, tap, innermost and column axes in panels of `width` columns; `zero` is what is
/// subtracted from the bytes that they are multiplied with.
pub(super) fn pack(
    trace: &Trace<'_, '_>,
    term: TermId,
    [outer, taps, run, columns]: [&[AxisId]; 4],
    width: u32,
    zero: Zero,
) -> Option<Weights> {
    let axes = &trace.axes;
    let values = values(trace, term, &[outer, taps, run, columns].concat())?;
    let (g, t, k, n) =
        (product(outer, axes)?, product(taps, axes)?, product(run, axes)?, product(columns, axes)?);
    if i64::try_from(k).ok()? < LEAST_RUN || values.len() != g * t * k * n {
        return None;
    }
    let (w, group) = (width as usize, GROUP as usize);
    let (panels, steps) = (n.div_ceil(w), k.div_ceil(group));
    let each = panels.checked_mul(t)?.checked_mul(steps)?.checked_mul(w * group)?;
    let mut fits = true;
    let mut sums = vec![0i32; g * n];
    let bytes = Bytes::build(g.checked_mul(each)?, |out| {
        for (row, elements) in values.chunks_exact(n.max(1)).enumerate() {
            // Rows are outer index, tap, place in the run.
            let (outer, tap, place) = (row / k / t.max(1), row / k % t.max(1), row % k);
            for (column, &value) in elements.iter().enumerate() {
                let sum = &mut sums[outer * n + column];
                *sum = sum.wrapping_add(value);
                let step = ((outer * panels + column / w) * t + tap) * steps + place / group;
                let at = (step * w + column % w) * group + place % group;
                match (i8::try_from(value), out.get_mut(at)) {
                    (Ok(value), Some(byte)) => *byte = value as u8,
                    _ => fits = false,
                }
            }
        }
    });
    if !fits {
        return None;
    }
    let base_of = |each: usize| {
        let dims: Vec<Dim> = outer.iter().map(|a| axes.extent(*a).clone()).collect();
        let each = i64::try_from(each).ok()?;
        let strides = outer.iter().zip(strides(&dims));
        Some(strides.fold(Expr::zero(), |base, (axis, stride)| {
            base.plus(&Expr::axis(*axis).times(&(stride * Dim::known(each))))
        }))
    };
    let tensor = Tensor::new(DType::I8, &[g, panels, t, steps, w, group], bytes).ok()?;
    let panels = Panels { tensor, width, base: base_of(each)? };
    let correction = match zero {
        Zero::Known(0) => None,
        Zero::Known(zero) => {
            let zero = i32::try_from(zero).ok()?;
            let numbers: Vec<i32> = sums.iter().map(|s| s.wrapping_mul(zero).wrapping_neg()).collect();
            Some(Tensor::from_slice(&[g, n], &numbers).ok()?)
        }
        Zero::Computed(..) => Some(Tensor::from_slice(&[g, n], &sums).ok()?),
    };
    Some(Weights { panels, correction, correction_base: base_of(n)? })
}
