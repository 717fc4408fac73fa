//! Right operands that are constants in few bits: integers that are dequantized in blocks of the reduction, and floats of 16
//! bits.
//!
//! A panel of codes has two parts side by side. With four bits, a byte is a code of either: the low half belongs to the first
//! part, the high half to the second. The high half is not shifted down: it counts sixteenfold, and its zero points and
//! scales have the factor, which is a power of two and changes no bit of a result.

mod kernel;
#[cfg(test)]
mod tests;

use kiln_ir::op::{Cast, Quant};
use kiln_ir::tensor::Bytes;
use kiln_ir::{DType, Dim, Op, Tensor, Value};

use super::expr::{Axes, AxisId, Expr, flatten, strides};
use super::relayout::{extents, gather};
use super::trace::Trace;

pub(super) use kernel::{Parts, lower};

/// A right operand as it is found.
pub(super) enum Source {
    /// Floats of 16 bits that are cast to f32.
    Halves { tensor: Tensor, offset: Expr },
    /// Integers that are dequantized.
    Codes(Box<Codes>),
}

/// Integers that are dequantized: `(code - zero) * scale`.
pub(super) struct Codes {
    integers: Tensor,
    scales: Tensor,
    zeros: Tensor,
    /// Where an element is.
    at: Vec<Expr>,
    axis: Option<usize>,
    block: i64,
}

impl Source {
    /// Whether there is a packed form for a product over such axes.
    pub fn fits(&self, reduced: &[AxisId], axes: &Axes) -> bool {
        match self {
            Source::Halves { offset, .. } => offset.is_affine(),
            Source::Codes(codes) => {
                let &[k] = reduced else { return false };
                let depth = axes.extent(k).as_known().filter(|d| *d > 0);
                // The second part of a byte has sixteenths of scales, which would not be exact if they were tiny.
                let tiny = |s: f64| s != 0.0 && s.abs() < f64::from(f32::MIN_POSITIVE * HIGH);
                let exact = codes.scales.to_f64s().is_some_and(|all| !all.into_iter().any(tiny));
                exact && depth.is_some_and(|depth| Blocks::of(codes, k, depth).is_some())
            }
        }
    }
}

/// The operand `v` at `at`, if the region widens constants there.
pub(super) fn source(trace: &Trace<'_, '_>, v: Value, at: &[Expr]) -> Option<Source> {
    let node = trace.definition(v)?;
    match &node.op {
        Op::Cast(Cast { to: DType::F32, .. }) => {
            let tensor = trace.constant(*node.operands.first()?)?;
            let dims: Vec<Dim> = trace.dims(*node.operands.first()?).ok()?.to_vec();
            let half = matches!(tensor.dtype(), DType::F16 | DType::BF16);
            half.then(|| Source::Halves { tensor, offset: flatten(at, &dims) })
        }
        Op::Quant(Quant::Dequantize { to: DType::F32, axis, block }) => {
            let &[x, scale, zero] = &node.operands[..] else { return None };
            let integers = match trace.definition(x).map(|n| (&n.op, &n.operands)) {
                Some((Op::Cast(Cast { to: DType::F32, .. }), operands)) => {
                    trace.constant(*operands.first()?)?
                }
                _ => trace.constant(x)?,
            };
            let (scales, zeros) = (trace.constant(scale)?, trace.constant(zero)?);
            let few = integers.dtype().is_int() && integers.dtype().bits() <= 8;
            let (at, axis, block) = (at.to_vec(), *axis, *block);
            few.then(|| Source::Codes(Box::new(Codes { integers, scales, zeros, at, axis, block })))
        }
        _ => None,
    }
}

/// Bits of a stored code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bits {
    Four,
    Eight,
}

/// Zero points.
#[derive(Clone, Debug)]
pub(super) enum Zeros {
    /// The same everywhere.
    All(f32),
    /// One beside each scale.
    Each(Tensor),
}

/// Packed codes: panels of `width` columns, with scales for groups of the reduction.
#[derive(Clone, Debug)]
pub(super) struct Weights {
    pub bits: Bits,
    /// `[outer][panels][depth][bytes of a row]`.
    pub codes: Tensor,
    /// `[outer][panels][groups][width]`.
    pub scales: Tensor,
    pub zeros: Zeros,
    pub width: i64,
    pub depth: i64,
    /// Elements of the reduction in a group.
    pub group: i64,
    pub panels: i64,
    /// The number of the outer index, which counts all panels of one.
    pub outer: Expr,
}

impl Weights {
    /// Columns of a part.
    pub fn half(&self) -> i64 {
        self.width / 2
    }

    /// Bytes of a row of a panel.
    pub fn row(&self) -> i64 {
        match self.bits {
            Bits::Four => self.half(),
            Bits::Eight => self.width,
        }
    }

    /// Groups of the reduction.
    pub fn groups(&self) -> i64 {
        (self.depth + self.group - 1) / self.group
    }
}

/// Longest group: sums of a group are added one after the other, as those of [`crate::kir::PART`].
const LONGEST: i64 = 128;

/// What the second part of a row of bytes counts.
const HIGH: f32 = 16.0;

/// Packs codes over outer, reduced and column axes. `None` where the blocks are none of one reduced axis, or something is
/// not known.
pub(super) fn pack(
    codes: &Codes,
    [outer, reduced, columns]: [&[AxisId]; 3],
    axes: &mut Axes,
    lanes: u32,
) -> Option<Weights> {
    let &[k] = reduced else { return None };
    let depth = axes.extent(k).as_known().filter(|d| *d > 0)?;
    let blocks = Blocks::of(codes, k, depth)?;
    let along = axes.add(Dim::known(blocks.count));
    let size = |part: &[AxisId], axes: &Axes| -> Option<usize> {
        extents(part, axes)?.into_iter().try_fold(1usize, usize::checked_mul)
    };
    let (o, n) = (size(outer, axes)?, size(columns, axes).filter(|n| *n > 0)?);
    let (stored, lowest) = bytes(&codes.integers)?;
    let order = [outer, reduced, columns].concat();
    let dense = ordered(&stored, 1, &codes.at, codes.integers.dims(), &order, axes)?;
    let grid = [outer, &[along], columns].concat();
    let at = blocks.at(codes, along);
    let floats = |tensor: &Tensor, less: f32| -> Option<Vec<f32>> {
        let all: Vec<f32> = tensor.to_f64s()?.into_iter().map(|v| v as f32 - less).collect();
        let raw: Vec<u8> = all.iter().flat_map(|v| v.to_le_bytes()).collect();
        let nowhere = vec![Expr::zero(); tensor.dims().len()];
        let at = if tensor.numel() == 1 { &nowhere } else { &at };
        let found = ordered(&raw, 4, at, tensor.dims(), &grid, axes)?;
        Some(found.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    };
    let (scales, zeros) = (floats(&codes.scales, 0.0)?, floats(&codes.zeros, lowest)?);
    let bits = if dense.iter().all(|c| *c < 16) { Bits::Four } else { Bits::Eight };
    let layout =
        Layout { bits, width: 2 * usize::try_from(lanes).ok()?, depth: usize::try_from(depth).ok()?, o, n };
    let groups = Groups { blocks, depth };
    let first = *zeros.first()?;
    Some(Weights {
        bits,
        codes: layout.codes(&dense)?,
        scales: layout.each(&scales, &groups, 1.0 / HIGH)?,
        zeros: match zeros.iter().all(|z| *z == first) {
            true => Zeros::All(first),
            false => Zeros::Each(layout.each(&zeros, &groups, HIGH)?),
        },
        width: i64::try_from(layout.width).ok()?,
        depth,
        group: blocks.group,
        panels: i64::try_from(layout.panels()).ok()?,
        outer: number(outer, axes),
    })
}

/// The number of an index over axes.
fn number(outer: &[AxisId], axes: &Axes) -> Expr {
    let dims: Vec<Dim> = outer.iter().map(|a| axes.extent(*a).clone()).collect();
    let parts = outer.iter().zip(strides(&dims));
    parts.fold(Expr::zero(), |sum, (a, stride)| sum.plus(&Expr::axis(*a).times(&stride)))
}

/// Scales along the reduction.
#[derive(Clone, Copy, Debug)]
struct Blocks {
    /// Elements of a block, and how many blocks there are.
    size: i64,
    count: i64,
    /// Elements of a group: a block, or a part of one.
    group: i64,
}

impl Blocks {
    fn of(codes: &Codes, k: AxisId, depth: i64) -> Option<Blocks> {
        let blocked = codes.axis.filter(|_| codes.block > 0);
        let own = |e: &Expr| e.coefficient(k).as_known() == Some(0) && e.is_affine();
        for (i, e) in codes.at.iter().enumerate() {
            let along = blocked == Some(i);
            let fits =
                if along { *e == Expr::axis(k) } else { e.is_affine() && (blocked.is_none() || own(e)) };
            if !fits {
                return None;
            }
        }
        // One scale for each index of the reduction is no block of it.
        if codes.axis.is_some_and(|a| codes.block == 0 && codes.at.get(a).is_none_or(|e| !own(e))) {
            return None;
        }
        let size = if blocked.is_some() { codes.block.min(depth) } else { depth };
        let whole = size == depth || size % LONGEST == 0;
        let group = if size > LONGEST && whole { LONGEST } else { size };
        Some(Blocks { size, count: (depth + size - 1) / size, group })
    }

    /// Where scale and zero point are, for a block along an axis of their own.
    fn at(&self, codes: &Codes, along: AxisId) -> Vec<Expr> {
        match codes.axis {
            None => vec![Expr::zero(); codes.scales.dims().len()],
            Some(axis) if codes.block > 0 => {
                let mut at = codes.at.clone();
                if let Some(e) = at.get_mut(axis) {
                    *e = Expr::axis(along);
                }
                at
            }
            Some(axis) => codes.at.get(axis).cloned().into_iter().collect(),
        }
    }
}

/// Elements of `size` bytes of a tensor of `dims`, in row-major order over `order`.
fn ordered(
    source: &[u8],
    size: usize,
    at: &[Expr],
    dims: &[usize],
    order: &[AxisId],
    axes: &Axes,
) -> Option<Vec<u8>> {
    let dims: Option<Vec<Dim>> = dims.iter().map(|d| i64::try_from(*d).ok().map(Dim::known)).collect();
    let dims = dims.filter(|d| d.len() == at.len())?;
    let offset = flatten(at, &dims);
    let covered =
        offset.terms().iter().all(|(atom, _)| order.iter().any(|a| *atom == super::expr::Atom::Axis(*a)));
    if !covered {
        return None;
    }
    let extents = extents(order, axes)?;
    let count = extents.iter().try_fold(size, |n, e| n.checked_mul(*e))?;
    let coefficients: Option<Vec<i64>> = order.iter().map(|a| offset.coefficient(*a).as_known()).collect();
    let mut out = vec![0u8; count];
    let base = offset.offset().as_known()?;
    gather(source, &mut out, size, base, &extents, &coefficients?).then_some(out)
}

/// Integers as bytes, and what a byte of 0 stands for: signed ones are raised by that; those that are few enough fit into
/// four bits whatever their dtype.
fn bytes(integers: &Tensor) -> Option<(Vec<u8>, f32)> {
    let raw = integers.bytes();
    let halves = |flip: u8| -> Vec<u8> {
        let both = raw.iter().flat_map(|b| [(b & 15) ^ flip, (b >> 4) ^ flip]);
        both.take(integers.numel()).collect()
    };
    Some(match integers.dtype() {
        DType::U4 => (halves(0), 0.0),
        DType::I4 => (halves(8), -8.0),
        DType::U8 => (raw.to_vec(), 0.0),
        DType::I8 if raw.iter().all(|b| (-8..8).contains(&b.cast_signed())) => {
            (raw.iter().map(|b| b.wrapping_add(8)).collect(), -8.0)
        }
        DType::I8 => (raw.iter().map(|b| b ^ 0x80).collect(), -128.0),
        _ => return None,
    })
}

/// Groups of the reduction, in terms of blocks.
struct Groups {
    blocks: Blocks,
    depth: i64,
}

impl Groups {
    fn count(&self) -> usize {
        usize::try_from((self.depth + self.blocks.group - 1) / self.blocks.group).unwrap_or(0)
    }

    /// The block of a group.
    fn block(&self, group: usize) -> usize {
        let first = i64::try_from(group).unwrap_or(i64::MAX).saturating_mul(self.blocks.group);
        usize::try_from(first / self.blocks.size).unwrap_or(usize::MAX)
    }
}

/// How panels lie in memory.
struct Layout {
    bits: Bits,
    width: usize,
    depth: usize,
    /// Outer indices and columns.
    o: usize,
    n: usize,
}

impl Layout {
    fn panels(&self) -> usize {
        self.n.div_ceil(self.width)
    }

    /// Codes `[outer][depth][n]` in panels.
    fn codes(&self, dense: &[u8]) -> Option<Tensor> {
        let (width, half) = (self.width, self.width / 2);
        let row = if self.bits == Bits::Four { half } else { width };
        let dims = [self.o, self.panels(), self.depth, row];
        let len = dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d))?;
        let code = |o: usize, k: usize, n: usize| match n < self.n {
            true => dense.get((o * self.depth + k) * self.n + n).copied().unwrap_or(0),
            false => 0,
        };
        let bytes = Bytes::build(len, |out| {
            for (i, row) in out.chunks_exact_mut(row).enumerate() {
                let (panel, k) = (i / self.depth, i % self.depth);
                let (o, first) = (panel / self.panels(), panel % self.panels() * width);
                for (lane, byte) in row.iter_mut().enumerate() {
                    *byte = match self.bits {
                        Bits::Four => code(o, k, first + lane) | code(o, k, first + lane + half) << 4,
                        Bits::Eight => code(o, k, first + lane),
                    };
                }
            }
        });
        Tensor::new(DType::U8, &dims, bytes).ok()
    }

    /// Numbers `[outer][blocks][n]` for each group of a panel; those of the second part of a byte times a factor. Columns
    /// that do not exist have zeros.
    fn each(&self, dense: &[f32], groups: &Groups, factor: f32) -> Option<Tensor> {
        let blocks = usize::try_from(groups.blocks.count).ok()?;
        let (count, half) = (groups.count(), self.width / 2);
        let dims = [self.o, self.panels(), count, self.width];
        let len = dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d))?;
        let mut all = Vec::with_capacity(len);
        for i in 0..self.o * self.panels() * count {
            let (panel, group) = (i / count, i % count);
            let (o, first) = (panel / self.panels(), panel % self.panels() * self.width);
            let from = (o * blocks + groups.block(group)) * self.n;
            for lane in 0..self.width {
                let n = first + lane;
                let value = if n < self.n { dense.get(from + n).copied()? } else { 0.0 };
                let high = self.bits == Bits::Four && lane >= half;
                all.push(if high { value * factor } else { value });
            }
        }
        Tensor::from_slice(&dims, &all).ok()
    }
}
