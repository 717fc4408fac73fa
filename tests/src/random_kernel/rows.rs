//! Reductions, and rows of several phases: softmax, normalizations, and what else can stand there.

use kiln_codegen::kir::{Access, Ix, KernelBuilder, LoopKind, Val, compute_dtype};
use kiln_ir::{DType, Prim};

use super::scalar::{self, step};
use crate::agreement::Case;
use crate::choices::Choices;

const F32: DType = DType::F32;

/// Reductions of any dtype along rows or columns, contiguous or strided.
pub fn reductions(c: &mut Choices<'_>) -> Vec<Case> {
    let dtype = scalar::dtype(c);
    let compute = compute_dtype(dtype).expect("a number");
    let most = c.of(&[75, 75, 700]);
    let (n, count, stride) = (c.between(0, most), c.between(1, 40), c.between(1, 3));
    let mut b = KernelBuilder::new("reduction");
    let (x, out) = (b.input(dtype), b.output(dtype));
    let (len, dims) = if c.flag() { (Ix::Const(n), vec![]) } else { (b.dim(), vec![n]) };
    let kind = if c.flag() { LoopKind::Vector } else { LoopKind::Sequential };
    let mut prims = vec![Prim::Add, Prim::Max, Prim::Min, Prim::Mul];
    if !dtype.is_float() {
        prims.extend([Prim::And, Prim::Or, Prim::Xor]);
    }
    let accumulators: Vec<Prim> = (0..1 + c.below(2)).map(|_| c.of(&prims)).collect();
    let total = |b: &mut KernelBuilder, c: &mut Choices<'_>, kind, at: &dyn Fn(Ix) -> Ix| {
        let combine: Vec<(Prim, Val)> = accumulators
            .iter()
            .map(|&prim| {
                let identity = match prim {
                    Prim::Mul | Prim::And => 1.0,
                    Prim::Max if dtype.is_float() => f64::NEG_INFINITY,
                    Prim::Min if dtype.is_float() => f64::INFINITY,
                    _ => 0.0,
                };
                (prim, b.literal(compute, identity))
            })
            .collect();
        let steps = c.below(3);
        let totals = b.reduce(kind, len.clone(), &combine, |b, i| {
            let mut values = vec![b.load(x, at(i))];
            (0..steps).for_each(|_| step(b, c, &mut values, false));
            let last = values[values.len() - 1];
            let last = b.cast(last, compute);
            let item = |(i, &prim): (usize, &Prim)| {
                let value = if i == 0 { last } else { values[0] };
                if prim != Prim::Mul || !compute.is_float() {
                    return value;
                }
                // Products of many other numbers leave the range of the dtype, some in one order only.
                let (low, high) = (b.literal(compute, 0.8), b.literal(compute, 1.25));
                let value = b.apply(Prim::Max, &[value, low]);
                b.apply(Prim::Min, &[value, high])
            };
            accumulators.iter().enumerate().map(item).collect()
        });
        totals.into_iter().reduce(|a, v| b.apply(Prim::Add, &[a, v])).expect("one at least")
    };
    if c.flag() {
        let row = b.grid(count);
        let begin = row.clone() * len.clone() * stride;
        let value = total(&mut b, c, kind, &|i| begin.clone() + i * stride);
        b.store(out, row, value);
    } else {
        b.vector(count, |b, column| {
            let value = total(b, c, LoopKind::Sequential, &|i| (i * count + column.clone()) * stride);
            b.store(out, column, value);
        });
    }
    super::case(c, b, &[count * n * stride, count], dims, super::SUMMABLE)
}

/// Rows whose later loops use totals of the earlier ones, with what is expensive kept in scratch or in the result; some have
/// no elements, and some store a total.
pub fn phases(c: &mut Choices<'_>) -> Vec<Case> {
    let storage = if c.below(4) == 1 { c.of(&[DType::F16, DType::BF16]) } else { F32 };
    let mut b = KernelBuilder::new("rows");
    let in_result = storage == F32 && c.flag();
    let access = if in_result { Access::InOut } else { Access::Out };
    let (x, scale, out) = (b.input(storage), b.input(F32), b.buffer(storage, access));
    let single = b.output(F32);
    let most = c.of(&[40, 130, 300]);
    let n = c.between(0, most);
    let (len, dims) = if n > 0 && c.flag() { (Ix::Const(n), vec![]) } else { (b.dim(), vec![n]) };
    let kept = if in_result { out } else { b.scratch(F32, len.clone()) };
    let (blocks, rows) = (c.between(1, 2), c.between(1, 5));
    let block = b.grid(blocks);
    let (keeps, softmax, stores) = (c.flag(), c.flag(), c.flag());
    let count = 1 + c.below(3);
    b.sequential(rows, |b, row| {
        let at = (block.clone() * rows + row.clone()) * len.clone();
        let place = |i: &Ix| if in_result { at.clone() + i.clone() } else { i.clone() };
        let mut totals: Vec<Val> = vec![];
        let mut stored = false;
        for phase in 0..count {
            let prim = match (softmax, phase) {
                (true, 0) => Prim::Max,
                (true, 1) => Prim::Add,
                _ => c.of(&[Prim::Add, Prim::Max, Prim::Min]),
            };
            let identity = match prim {
                Prim::Max => f64::NEG_INFINITY,
                Prim::Min => f64::INFINITY,
                _ => 0.0,
            };
            let mut combine = vec![(prim, b.literal(F32, identity))];
            if c.below(3) == 1 {
                combine.push((Prim::Add, b.literal(F32, 0.0)));
            }
            let store = keeps && !stored && (phase > 0 || !softmax);
            let found = b.reduce(LoopKind::Vector, len.clone(), &combine, |b, i| {
                let v = if stored && c.flag() {
                    b.load(kept, place(&i))
                } else {
                    b.load(x, at.clone() + i.clone())
                };
                let v = phase_value(b, c, v, &totals, softmax);
                if store {
                    b.store(kept, place(&i), v);
                }
                combine.iter().map(|_| v).collect()
            });
            stored |= store;
            if stores && phase == 0 {
                b.store(single, block.clone() * rows + row.clone(), found[0]);
            }
            totals.extend(found);
        }
        b.vector(len.clone(), |b, i| {
            let v = if stored { b.load(kept, place(&i)) } else { b.load(x, at.clone() + i.clone()) };
            let mut v = if stored { v } else { phase_value(b, c, v, &totals, softmax) };
            let last = totals[totals.len() - 1];
            if c.below(4) > 0 {
                let prim = c.of(&[Prim::Div, Prim::Mul, Prim::Sub]);
                v = b.apply(prim, &[v, last]);
            }
            if c.flag() {
                let s = b.load(scale, i.clone());
                v = b.mul_add(v, s, s);
            }
            b.store(out, at.clone() + i, v);
        });
    });
    super::case(c, b, &[blocks * rows * n, n, blocks * rows * n, blocks * rows], dims, super::SUMMABLE)
}

/// What a phase computes of an element and the totals before.
fn phase_value(b: &mut KernelBuilder, c: &mut Choices<'_>, v: Val, totals: &[Val], softmax: bool) -> Val {
    let Some(&first) = totals.first() else { return v };
    let shifted = b.apply(Prim::Sub, &[v, first]);
    if softmax {
        return b.apply(Prim::Exp, &[shifted]);
    }
    match c.below(4) {
        0 => b.apply(Prim::Mul, &[shifted, shifted]),
        1 => shifted,
        2 => {
            let mut values = vec![shifted, v];
            step(b, c, &mut values, false);
            values[2]
        }
        _ => b.apply(Prim::Tanh, &[shifted]),
    }
}
