//! Exponentials of scores whose lanes are queries: what is found along the keys is found by lanes, several keys at a time.

use kiln_ir::{DType, Prim};

use super::super::emit::{Emitter, Group};
use super::softmax::Softmax;
use super::statements::{Keys, Scratch, Statements, finite, first_total, inverse};
use crate::kir::{Ix, KernelBuilder, Val};

/// Keys that an iteration takes: what is found so far comes from memory once for so many.
const TOGETHER: i64 = 4;

impl Statements<'_> {
    /// Exponentials in the place of the scores, and the inverses of their sums.
    pub(super) fn lane_exponentials(
        &self,
        e: &mut Emitter<'_>,
        b: &mut KernelBuilder,
        softmax: &Softmax,
        keys: &Keys,
    ) {
        let Scratch { factors, greatest, totals, lowered, .. } = self.scratch;
        let (first, count) = self.rows.clone();
        let row = Group::of(self.s.row);
        let (low, none) = (b.literal(DType::F32, f64::NEG_INFINITY), first_total(b, &keys.extent));
        b.vector(count.clone(), |b, i| {
            b.store(greatest, i.clone(), low);
            b.store(totals, i, none);
        });
        self.find_greatest(b, keys);
        b.vector(count.clone(), |b, i| {
            e.bound_vector(&row, i.clone() + first.clone(), |e| {
                let value = b.load(greatest, i.clone());
                let by = if softmax.zero_for_nan {
                    finite(b, value)
                } else {
                    e.with_value(softmax.greatest, value, |e| e.emit(b, softmax.lowered_by))
                };
                b.store(lowered, i, by);
            });
        });
        self.lower(b, keys);
        b.vector(count, |b, i| {
            e.bound_vector(&row, i.clone() + first, |e| {
                let total = b.load(totals, i.clone());
                let inverse = inverse(e, b, softmax, total);
                b.store(factors, i, inverse);
            });
        });
    }

    /// The same for one block of keys of several, and the factors that rescale what earlier blocks gave.
    pub(super) fn more_lane_exponentials(&self, b: &mut KernelBuilder, keys: &Keys) {
        let Scratch { factors, greatest, totals, lowered, .. } = self.scratch;
        let count = self.rows.1.clone();
        b.vector(count.clone(), |b, i| {
            let before = b.load(greatest, i.clone());
            b.store(factors, i, before);
        });
        self.find_greatest(b, keys);
        b.vector(count, |b, i| {
            let (before, now) = (b.load(factors, i.clone()), b.load(greatest, i.clone()));
            let by = finite(b, now);
            let change = b.apply(Prim::Sub, &[before, by]);
            let factor = b.apply(Prim::Exp, &[change]);
            let total = b.load(totals, i.clone());
            let total = b.apply(Prim::Mul, &[total, factor]);
            b.store(lowered, i.clone(), by);
            b.store(totals, i.clone(), total);
            b.store(factors, i, factor);
        });
        self.lower(b, keys);
    }

    /// Raises the greatest scores to those of the keys. What is not a number does not count here: the sum of its
    /// exponentials is none either.
    fn find_greatest(&self, b: &mut KernelBuilder, keys: &Keys) {
        self.each_key(b, keys, &mut |b, query, keys| {
            let scores: Vec<Val> = keys.iter().map(|at| b.load(self.scratch.scores, at.clone())).collect();
            let here = pairwise(b, &scores, &mut greater);
            let before = b.load(self.scratch.greatest, query.clone());
            let now = greater(b, here, before);
            b.store(self.scratch.greatest, query, now);
        });
    }

    /// Puts `exp(score - by)` in the place of the scores and adds it to the totals.
    fn lower(&self, b: &mut KernelBuilder, keys: &Keys) {
        let Scratch { scores, totals, lowered, .. } = self.scratch;
        self.each_key(b, keys, &mut |b, query, keys| {
            let by = b.load(lowered, query.clone());
            let mut exponentials = vec![];
            for at in keys {
                let score = b.load(scores, at.clone());
                let shifted = b.apply(Prim::Sub, &[score, by]);
                let value = b.apply(Prim::Exp, &[shifted]);
                b.store(scores, at.clone(), value);
                exponentials.push(value);
            }
            let sum = pairwise(b, &exponentials, &mut |b, x, y| b.apply(Prim::Add, &[x, y]));
            let total = b.load(totals, query.clone());
            let total = b.apply(Prim::Add, &[total, sum]);
            b.store(totals, query, total);
        });
    }

    /// For all keys in order, a few at a time: `f` gets the query and the places of its scores.
    fn each_key(&self, b: &mut KernelBuilder, keys: &Keys, f: &mut dyn FnMut(&mut KernelBuilder, Ix, &[Ix])) {
        let (count, stride) = (self.rows.1.clone(), self.plan.stride);
        let whole = keys.extent.clone().floor_div(TOGETHER);
        let rest = keys.extent.clone().modulo(TOGETHER);
        b.sequential(whole.clone(), |b, i| {
            b.vector(count.clone(), |b, query| {
                let first = i * (TOGETHER * stride) + query.clone();
                let places: Vec<Ix> = (0..TOGETHER).map(|key| first.clone() + key * stride).collect();
                f(b, query, &places);
            });
        });
        if rest.as_const() != Some(0) {
            b.sequential(rest, |b, i| {
                b.vector(count, |b, query| {
                    let first = (i + whole * TOGETHER) * stride + query.clone();
                    f(b, query, &[first]);
                });
            });
        }
    }
}

/// Values combined in pairs, then the pairs, and so on.
fn pairwise(
    b: &mut KernelBuilder,
    values: &[Val],
    f: &mut dyn FnMut(&mut KernelBuilder, Val, Val) -> Val,
) -> Val {
    match values {
        [one] => *one,
        _ => {
            let (left, right) = values.split_at(values.len() / 2);
            let (left, right) = (pairwise(b, left, f), pairwise(b, right, f));
            f(b, left, right)
        }
    }
}

/// The greater of two, the second one where that is not decided.
fn greater(b: &mut KernelBuilder, x: Val, y: Val) -> Val {
    let is_greater = b.apply(Prim::Gt, &[x, y]);
    b.apply(Prim::Select, &[is_greater, x, y])
}
