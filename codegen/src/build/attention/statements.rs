//! The statements of a grid point of attention.

use kiln_ir::{DType, Ew, Prim};

use super::super::contract::operand;
use super::super::emit::{Emitter, Group};
use super::super::expr::{Axes, AxisId};
use super::super::term::TermId;
use super::Stages;
use super::plan::{Lanes, Plan};
use super::softmax::Softmax;
use crate::kir::{Axis, BufferId, Contract, Ix, KernelBuilder, LoopKind, Operand, Rhs, Stmt, Val};

/// What a grid point keeps.
#[derive(Clone, Copy)]
pub(super) struct Scratch {
    /// `[lines][stride]`: scores, then what the values are multiplied with.
    pub scores: BufferId,
    /// `[queries]`: what sums are multiplied with, where the rows are a softmax.
    pub(super) factors: BufferId,
    /// Where keys come in blocks, or queries are lanes: `[queries]`, the greatest score so far, and the sum of exponentials
    /// so far.
    pub(super) greatest: BufferId,
    pub(super) totals: BufferId,
    /// Where queries are lanes: `[queries]`, what scores are lowered by.
    pub(super) lowered: BufferId,
    /// Where keys come in blocks: `[queries][columns]`, the product so far.
    sums: BufferId,
}

impl Scratch {
    pub fn new(b: &mut KernelBuilder, axes: &Axes, plan: &Plan) -> Scratch {
        let columns = plan.columns.extent(axes).as_known().unwrap_or(0);
        let queries = |needed: bool| if needed { plan.block } else { 0 };
        let (rows, blocks) = (queries(plan.softmax.is_some()), queries(plan.key_block.is_some()));
        let lanes = queries(plan.lanes == Lanes::Queries);
        let mut scratch = |len: i64| b.scratch(DType::F32, len);
        Scratch {
            scores: scratch(plan.lines * plan.stride),
            factors: scratch(rows),
            greatest: scratch(blocks.max(lanes)),
            totals: scratch(blocks.max(lanes)),
            lowered: scratch(lanes),
            sums: scratch(blocks * columns),
        }
    }
}

/// Some of the keys, or of the elements of a reduction.
pub(super) struct Keys {
    pub begin: Ix,
    pub extent: Ix,
}

/// Rows or columns of a contraction.
struct Side {
    group: Group,
    axis: Axis,
}

/// The left operand of a contraction.
enum Left {
    Term(TermId),
    /// Scores in scratch, whose lanes are queries.
    Scores,
}

/// The statements of a grid point.
pub(super) struct Statements<'a> {
    pub s: &'a Stages,
    pub plan: &'a Plan,
    pub scratch: Scratch,
    pub outputs: &'a [BufferId],
    /// First query and number of queries.
    pub rows: (Ix, Ix),
    pub accumulator: Option<TermId>,
}

impl Statements<'_> {
    pub fn emit(&self, e: &mut Emitter<'_>, b: &mut KernelBuilder) {
        let extent = e.dim(b, &e.extent(&Group::of(self.s.key)));
        let (Some(softmax), Some(block)) = (&self.plan.softmax, self.plan.key_block) else {
            return self.at_once(e, b, &Keys { begin: Ix::Const(0), extent });
        };
        if extent.as_const().is_some() {
            return self.blocks(e, b, softmax, block, extent);
        }
        let (keys, most) = (b.index(extent.clone()), b.literal(DType::I64, block as f64));
        let few = b.apply(Prim::Le, &[keys, most]);
        let (then, ()) = b.block(|b| {
            self.at_once(e, b, &Keys { begin: Ix::Const(0), extent: extent.clone().min(block) });
        });
        let (otherwise, ()) = b.block(|b| self.blocks(e, b, softmax, block, extent));
        b.push(Stmt::If { cond: few, then, otherwise });
    }

    /// All keys at once.
    fn at_once(&self, e: &mut Emitter<'_>, b: &mut KernelBuilder, keys: &Keys) {
        self.scores(e, b, keys);
        match (&self.plan.softmax, self.plan.lanes) {
            (Some(softmax), Lanes::Keys) => self.exponentials(e, b, softmax, keys),
            (Some(softmax), Lanes::Queries) => self.lane_exponentials(e, b, softmax, keys),
            (None, _) => self.weights(e, b, keys),
        }
        self.product(e, b, keys, &mut |e, b, [row, _], acc| {
            let sum = match &self.plan.softmax {
                Some(softmax) => {
                    let inverse = b.load(self.scratch.factors, row);
                    divided(b, softmax, acc, inverse)
                }
                None => acc,
            };
            self.results(e, b, sum);
        });
    }

    /// The keys block by block.
    fn blocks(&self, e: &mut Emitter<'_>, b: &mut KernelBuilder, softmax: &Softmax, block: i64, all: Ix) {
        let Scratch { factors, totals, sums, .. } = self.scratch;
        let columns = e.dim(b, &e.extent(&self.plan.columns));
        self.begin(b, &all, &columns);
        b.sequential(all.clone().ceil_div(block), |b, number| {
            let begin = number * block;
            let keys = Keys { extent: (all.clone() - begin.clone()).min(block), begin };
            self.scores(e, b, &keys);
            match self.plan.lanes {
                Lanes::Keys => self.more_exponentials(b, &keys),
                Lanes::Queries => self.more_lane_exponentials(b, &keys),
            }
            self.product(e, b, &keys, &mut |_, b, [row, column], acc| {
                let factor = b.load(factors, row.clone());
                let at = row * columns.clone() + column;
                let before = b.load(sums, at.clone());
                let sum = b.mul_add(before, factor, acc);
                b.store(sums, at, sum);
            });
        });
        let (first, count) = self.rows.clone();
        let row = Group::of(self.s.row);
        b.for_loop(LoopKind::Sequential, count, |b, i| {
            e.bound(&row, i.clone() + first, |e| {
                let total = b.load(totals, i.clone());
                let inverse = inverse(e, b, softmax, total);
                b.vector(columns.clone(), |b, j| {
                    e.bound_vector(&self.plan.columns, j.clone(), |e| {
                        let sum = b.load(sums, i * columns + j);
                        let value = divided(b, softmax, sum, inverse);
                        self.results(e, b, value);
                    });
                });
            });
        });
    }

    /// Nothing seen yet.
    fn begin(&self, b: &mut KernelBuilder, keys: &Ix, columns: &Ix) {
        let Scratch { greatest, totals, sums, .. } = self.scratch;
        let (low, zero) = (b.literal(DType::F32, f64::NEG_INFINITY), b.literal(DType::F32, 0.0));
        let none = first_total(b, keys);
        b.sequential(self.rows.1.clone(), |b, i| {
            b.store(greatest, i.clone(), low);
            b.store(totals, i.clone(), none);
            b.vector(columns, |b, j| b.store(sums, i * columns.clone() + j, zero));
        });
    }

    /// Scores of the block's queries.
    fn scores(&self, e: &mut Emitter<'_>, b: &mut KernelBuilder, keys: &Keys) {
        let extent = e.dim(b, &e.extent(&Group::of(self.s.first.depth)));
        let depth = (self.s.first.depth, Keys { begin: Ix::Const(0), extent });
        let of_keys = Axis { var: b.var(), begin: keys.begin.clone(), extent: keys.extent.clone() };
        let of_keys = Side { group: Group::of(self.s.key), axis: of_keys };
        let (left, right, sides) = match self.plan.lanes {
            Lanes::Keys => (self.plan.queries, self.plan.keys, [self.queries(b), of_keys]),
            Lanes::Queries => (self.plan.keys, self.plan.queries, [of_keys, self.queries(b)]),
        };
        self.contract(e, b, (Left::Term(left), right), sides, &depth, &mut |e, b, [line, lane], acc| {
            self.with_sum(e, acc, |e| {
                let value = e.emit(b, self.s.scores);
                b.store(self.scratch.scores, line * self.plan.stride + lane, value);
            });
        });
    }

    /// The queries as a side of a contraction.
    fn queries(&self, b: &mut KernelBuilder) -> Side {
        let (begin, extent) = self.rows.clone();
        Side { group: Group::of(self.s.row), axis: Axis { var: b.var(), begin, extent } }
    }

    /// What the rows make of the scores, where they are no softmax.
    fn weights(&self, e: &mut Emitter<'_>, b: &mut KernelBuilder, keys: &Keys) {
        let (begin, extent) = self.rows.clone();
        let (row, along) = (Group::of(self.s.row), Group::of(self.s.along));
        b.for_loop(LoopKind::Sequential, extent, |b, i| {
            e.at_rows(i.clone(), Ix::Const(0));
            e.bound(&row, i.clone() + begin, |e| {
                e.hoist(b, &[self.s.weights]);
                b.vector(keys.extent.clone(), |b, j| {
                    e.bound_vector(&along, j.clone(), |e| {
                        let value = e.emit(b, self.s.weights);
                        b.store(self.scratch.scores, i * self.plan.stride + j, value);
                    });
                });
            });
        });
    }

    /// Exponentials in the place of the scores, and the inverse of their sum.
    fn exponentials(&self, e: &mut Emitter<'_>, b: &mut KernelBuilder, softmax: &Softmax, keys: &Keys) {
        let (begin, extent) = self.rows.clone();
        let row = Group::of(self.s.row);
        let none = keys.extent.as_const().is_none().then(|| first_total(b, &keys.extent));
        b.for_loop(LoopKind::Sequential, extent, |b, i| {
            e.bound(&row, i.clone() + begin, |e| {
                let greatest = self.greatest_score(b, &i, keys);
                let by = if softmax.zero_for_nan {
                    finite(b, greatest)
                } else {
                    e.with_value(softmax.greatest, greatest, |e| e.emit(b, softmax.lowered_by))
                };
                let mut sum = self.lowered(b, &i, keys, by);
                if let Some(none) = none {
                    sum = b.apply(Prim::Add, &[sum, none]);
                }
                let inverse = inverse(e, b, softmax, sum);
                b.store(self.scratch.factors, i, inverse);
            });
        });
    }

    /// The same for one block of keys of several, and the factor that rescales what earlier blocks gave.
    fn more_exponentials(&self, b: &mut KernelBuilder, keys: &Keys) {
        let Scratch { factors, greatest, totals, .. } = self.scratch;
        b.sequential(self.rows.1.clone(), |b, i| {
            let before = b.load(greatest, i.clone());
            let here = self.greatest_score(b, &i, keys);
            let now = b.apply(Prim::Max, &[before, here]);
            let by = finite(b, now);
            let sum = self.lowered(b, &i, keys, by);
            let change = b.apply(Prim::Sub, &[before, by]);
            let factor = b.apply(Prim::Exp, &[change]);
            let total = b.load(totals, i.clone());
            let total = b.mul_add(total, factor, sum);
            b.store(greatest, i.clone(), now);
            b.store(totals, i.clone(), total);
            b.store(factors, i, factor);
        });
    }

    fn greatest_score(&self, b: &mut KernelBuilder, row: &Ix, keys: &Keys) -> Val {
        let low = b.literal(DType::F32, f64::NEG_INFINITY);
        let item = |b: &mut KernelBuilder, j: Ix| {
            vec![b.load(self.scratch.scores, row.clone() * self.plan.stride + j)]
        };
        b.reduce(LoopKind::Vector, keys.extent.clone(), &[(Prim::Max, low)], item)[0]
    }

    /// Puts `exp(score - by)` in the place of the scores; gives their sum.
    fn lowered(&self, b: &mut KernelBuilder, row: &Ix, keys: &Keys, by: Val) -> Val {
        let zero = b.literal(DType::F32, 0.0);
        let item = |b: &mut KernelBuilder, j: Ix| {
            let at = row.clone() * self.plan.stride + j;
            let score = b.load(self.scratch.scores, at.clone());
            let shifted = b.apply(Prim::Sub, &[score, by]);
            let e = b.apply(Prim::Exp, &[shifted]);
            b.store(self.scratch.scores, at, e);
            vec![e]
        };
        b.reduce(LoopKind::Vector, keys.extent.clone(), &[(Prim::Add, zero)], item)[0]
    }

    /// The product with the values.
    fn product(
        &self,
        e: &mut Emitter<'_>,
        b: &mut KernelBuilder,
        keys: &Keys,
        store: &mut dyn FnMut(&mut Emitter<'_>, &mut KernelBuilder, [Ix; 2], Val),
    ) {
        let left = match self.plan.lanes {
            Lanes::Keys => Left::Term(self.s.second.a),
            Lanes::Queries => Left::Scores,
        };
        let extent = e.dim(b, &e.extent(&self.plan.columns));
        let columns = Axis { var: b.var(), begin: Ix::Const(0), extent };
        let sides = [self.queries(b), Side { group: self.plan.columns.clone(), axis: columns }];
        let depth = Keys { begin: keys.begin.clone(), extent: keys.extent.clone() };
        self.contract(e, b, (left, self.s.second.b), sides, &(self.s.second.depth, depth), store);
    }

    /// Stores the results of a sum.
    fn results(&self, e: &mut Emitter<'_>, b: &mut KernelBuilder, sum: Val) {
        self.with_sum(e, sum, |e| {
            for (root, &buffer) in self.s.pieces.roots.iter().zip(self.outputs) {
                let value = e.emit(b, root.term);
                let value = b.cast(value, Ew::compute_dtype(root.dtype));
                let at = e.ix(b, &root.offset);
                b.store(buffer, at, value);
            }
        });
    }

    fn with_sum(&self, e: &mut Emitter<'_>, sum: Val, f: impl FnOnce(&mut Emitter<'_>)) {
        match self.accumulator {
            Some(term) => e.with_value(term, sum, f),
            None => f(e),
        }
    }

    /// A contraction; `store` gets the row and the column, counted from the first ones, and the sum.
    fn contract(
        &self,
        e: &mut Emitter<'_>,
        b: &mut KernelBuilder,
        (left, right): (Left, TermId),
        [m, n]: [Side; 2],
        (depth, run): &(AxisId, Keys),
        store: &mut dyn FnMut(&mut Emitter<'_>, &mut KernelBuilder, [Ix; 2], Val),
    ) {
        let k = Axis { var: b.var(), begin: Ix::Const(0), extent: run.extent.clone() };
        let reduced = Group::of(*depth);
        let at = |axis: &Axis| Ix::Var(axis.var);
        let position = [&m, &n].map(|side| at(&side.axis) - side.axis.begin.clone());
        e.at_rows(position[0].clone(), run.begin.clone());
        let acc_dtype = DType::F32;
        let along = at(&k) + run.begin.clone();
        let of =
            |side: &Side| (vec![side.group.clone(), reduced.clone()], vec![at(&side.axis), along.clone()]);
        let a = match left {
            Left::Term(term) => operand(e, b, term, of(&m), acc_dtype),
            Left::Scores => {
                let index = at(&k) * self.plan.stride + position[0].clone();
                let (body, value) = b.block(|b| b.load(self.scratch.scores, index));
                Operand { body, value }
            }
        };
        let rhs = operand(e, b, right, of(&n), acc_dtype);
        let acc = b.val(acc_dtype);
        let (epilogue, ()) = b.block(|b| {
            e.bound(&m.group, at(&m.axis), |e| {
                e.bound_vector(&n.group, at(&n.axis), |e| store(e, b, position.clone(), acc));
            });
        });
        let (m, n, b_side) = (m.axis, n.axis, Rhs::Strided(rhs));
        let contract = Contract { m, n, taps: vec![], k, a, b: b_side, acc_dtype, acc, epilogue };
        b.push(Stmt::Contract(Box::new(contract)));
    }
}

/// The sum of exponentials before there is one. Without keys, the product is zero and not zero divided by zero.
pub(super) fn first_total(b: &mut KernelBuilder, keys: &Ix) -> Val {
    let zero = b.literal(DType::F32, 0.0);
    if keys.as_const().is_some() {
        return zero;
    }
    let (keys, no_keys) = (b.index(keys.clone()), b.literal(DType::I64, 0.0));
    let empty = b.apply(Prim::Eq, &[keys, no_keys]);
    let one = b.literal(DType::F32, 1.0);
    b.apply(Prim::Select, &[empty, one, zero])
}

/// The greatest score; where all keys are hidden, any finite number does.
pub(super) fn finite(b: &mut KernelBuilder, greatest: Val) -> Val {
    let (low, zero) = (b.literal(DType::F32, f64::NEG_INFINITY), b.literal(DType::F32, 0.0));
    let hidden = b.apply(Prim::Eq, &[greatest, low]);
    b.apply(Prim::Select, &[hidden, zero, greatest])
}

/// What a row's product is multiplied with.
pub(super) fn inverse(e: &mut Emitter<'_>, b: &mut KernelBuilder, softmax: &Softmax, total: Val) -> Val {
    let total = if softmax.zero_for_nan {
        // Exponentials of hidden keys are zeros already.
        let (zero, one) = (b.literal(DType::F32, 0.0), b.literal(DType::F32, 1.0));
        let hidden = b.apply(Prim::Eq, &[total, zero]);
        b.apply(Prim::Select, &[hidden, one, total])
    } else {
        total
    };
    e.with_value(softmax.sum, total, |e| e.emit(b, softmax.inverse))
}

/// A row's product, with weights that are not numbers as zeros where they count as such.
fn divided(b: &mut KernelBuilder, softmax: &Softmax, sum: Val, inverse: Val) -> Val {
    let value = b.apply(Prim::Mul, &[sum, inverse]);
    if !softmax.zero_for_nan {
        return value;
    }
    let (nan, zero) = (b.apply(Prim::IsNan, &[inverse]), b.literal(DType::F32, 0.0));
    b.apply(Prim::Select, &[nan, zero, value])
}
