//! Loops that carry values: scans, arg-max, recurrences; conditionals; loops whose bounds are expressions.

use kiln_codegen::kir::{Ix, KernelBuilder};
use kiln_ir::{DType, Prim};

use super::scalar::{self, step};
use crate::agreement::Case;
use crate::choices::Choices;

const F32: DType = DType::F32;

pub fn grow(c: &mut Choices<'_>) -> Vec<Case> {
    match c.below(4) {
        0 => scan(c),
        1 => argmax(c),
        2 => triangle(c),
        _ => recurrence(c),
    }
}

/// Running totals of columns or of a row.
fn scan(c: &mut Choices<'_>) -> Vec<Case> {
    let dtype = c.of(&[F32, DType::F64, DType::I32, DType::I64]);
    let (n, rows) = (c.between(0, 50), c.between(1, 4));
    let mut b = KernelBuilder::new("scan");
    let (x, out) = (b.input(dtype), b.output(dtype));
    let (len, dims) = if c.flag() { (Ix::Const(n), vec![]) } else { (b.dim(), vec![n]) };
    let prim = c.of(&[Prim::Add, Prim::Max, Prim::Mul]);
    let init = b.literal(dtype, 1.0);
    let (reverse, exclusive) = (c.flag(), c.flag());
    let row = b.grid(rows);
    b.fold(len.clone(), &[init], |b, i, carried| {
        let at = row.clone() * len.clone() + if reverse { len.clone() - 1 - i } else { i };
        let v = b.load(x, at.clone());
        let next = b.apply(prim, &[carried[0], v]);
        b.store(out, at, if exclusive { carried[0] } else { next });
        vec![next]
    });
    super::case(c, b, &[rows * n, rows * n], dims, super::SUMMABLE)
}

/// Place and value of the largest element, and a row of a table by it.
fn argmax(c: &mut Choices<'_>) -> Vec<Case> {
    let (n, width, rows) = (c.between(1, 40), c.between(1, 20), c.between(1, 3));
    let mut b = KernelBuilder::new("argmax");
    let (x, table, index, value) = (b.input(F32), b.input(F32), b.output(DType::I64), b.output(F32));
    let (len, dims) = if c.flag() { (Ix::Const(n), vec![]) } else { (b.dim(), vec![n]) };
    let relation = c.of(&[Prim::Gt, Prim::Ge, Prim::Lt]);
    let row = b.grid(rows);
    let first = b.load(x, row.clone() * len.clone());
    let at = b.literal(DType::I64, 0.0);
    let found = b.fold(len.clone(), &[first, at], |b, i, args| {
        let v = b.load(x, row.clone() * len.clone() + i.clone());
        let better = b.apply(relation, &[v, args[0]]);
        let i = b.index(i);
        vec![b.apply(Prim::Select, &[better, v, args[0]]), b.apply(Prim::Select, &[better, i, args[1]])]
    });
    b.store(index, row.clone(), found[1]);
    b.vector(width, |b, j| {
        let v = b.load(table, Ix::Scalar(found[1]) * width + j.clone());
        let v = b.apply(Prim::Mul, &[v, found[0]]);
        b.store(value, row.clone() * width + j, v);
    });
    super::case(c, b, &[rows * n, n * width, rows, rows * width], dims, super::SUMMABLE)
}

/// Loops whose length depends on the point of the grid, on dims, and on loops around them.
fn triangle(c: &mut Choices<'_>) -> Vec<Case> {
    let (n, cut) = (c.between(0, 24), c.between(1, 9));
    let mut b = KernelBuilder::new("triangle");
    let (x, out) = (b.input(F32), b.output(F32));
    let (len, dims) = if c.flag() { (Ix::Const(n), vec![]) } else { (b.dim(), vec![n]) };
    let block = b.grid(len.clone().ceil_div(cut));
    let first = block * cut;
    let height = (len.clone() - first.clone()).min(cut);
    let steps = c.below(3);
    let conditional = c.flag();
    b.sequential(height, |b, i| {
        let row = first.clone() + i;
        b.vector(row.clone() + 1, |b, j| {
            let mut values = vec![b.load(x, row.clone() * len.clone() + j.clone())];
            (0..steps).for_each(|_| step(b, c, &mut values, false));
            let at = row.clone() * len.clone() + j;
            b.store(out, at, values[values.len() - 1]);
        });
        if conditional {
            let (v, zero) = (b.load(x, row.clone() * len.clone()), b.literal(F32, 0.0));
            let positive = b.apply(Prim::Gt, &[v, zero]);
            let at = row.clone() * len.clone();
            b.if_else(positive, |b| b.store(out, at.clone(), zero), |b| b.store(out, at.clone(), v));
        }
    });
    super::case(c, b, &[n * n, n * n], dims, super::SUMMABLE)
}

/// A recurrence with several carried values, around or inside a vector loop.
fn recurrence(c: &mut Choices<'_>) -> Vec<Case> {
    let (times, n) = (c.between(0, 6), c.between(1, 40));
    let mut b = KernelBuilder::new("recurrence");
    let (x, w, out) = (b.input(F32), b.input(F32), b.output(F32));
    let (len, dims) = if c.flag() { (Ix::Const(n), vec![]) } else { (b.dim(), vec![n]) };
    let row = b.grid(2);
    b.vector(len.clone(), |b, j| {
        let at = row.clone() * len.clone() + j.clone();
        let (start, factor) = (b.load(x, at.clone()), b.load(w, j.clone()));
        let ends = b.fold(times, &[start, factor], |b, _, args| {
            let mixed = b.mul_add(args[0], args[1], start);
            let squashed = scalar::activation(b, c, mixed);
            vec![squashed, args[0]]
        });
        let sum = b.apply(Prim::Add, &[ends[0], ends[1]]);
        b.store(out, at, sum);
    });
    super::case(c, b, &[2 * n, n, 2 * n], dims, super::SUMMABLE)
}
