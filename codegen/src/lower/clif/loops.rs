//! Loops and reductions: which are vectorized, and how.

use cranelift_codegen::ir::{InstBuilder, Value};
use kiln_ir::{DType, Prim, Scalar};
use rustc_hash::FxHashSet;

use super::emit::{Emitter, LANES, Repr, Result, VectorMode};
use super::memory::{in_lanes, lane_storage};
use super::outline::Rest;
use crate::kir::{Accumulator, Axis, Block, For, Ix, LoopKind, Op, Reduce, Stmt, Val, Var};

/// Bodies of more operations than this run one group of lanes at a time.
const BIG_BODY: usize = 24;

/// What the vectorization of a loop would meet.
struct Lanewise<'a> {
    kernel: &'a crate::kir::Kernel,
    var: Var,
    varying: FxHashSet<Val>,
    operations: usize,
}

impl Lanewise<'_> {
    fn varies(&self, ix: &Ix) -> bool {
        ix.any_leaf(&|leaf| match leaf {
            Ix::Var(v) => *v == self.var,
            Ix::Scalar(s) => self.varying.contains(s),
            _ => false,
        })
    }

    fn block(&mut self, block: &Block) -> bool {
        block.iter().all(|stmt| self.stmt(stmt))
    }

    fn define(&mut self, dst: Val) -> bool {
        self.varying.insert(dst);
        in_lanes(self.kernel.dtype(dst))
    }

    fn stmt(&mut self, stmt: &Stmt) -> bool {
        self.operations += 1;
        match stmt {
            Stmt::Let { dst, op } => self.op(*dst, op),
            Stmt::Store { buffer, index, value } => {
                let overwrites = match index.linear(self.var, &|v| self.varying.contains(&v)) {
                    Some(linear) => linear.coefficient == Ix::Const(0),
                    None => false,
                };
                !overwrites
                    && lane_storage(self.kernel.buffers[buffer.index()].dtype)
                    && in_lanes(self.kernel.dtype(*value))
            }
            Stmt::For(l) => {
                l.kind == LoopKind::Sequential
                    && !self.varies(&l.axis.begin)
                    && !self.varies(&l.axis.extent)
                    && l.carried.iter().all(|c| self.define(c.arg))
                    && self.block(&l.body)
                    && l.carried.iter().all(|c| self.define(c.result))
            }
            Stmt::Reduce(r) => {
                r.kind == LoopKind::Sequential
                    && !self.varies(&r.axis.begin)
                    && !self.varies(&r.axis.extent)
                    && self.block(&r.body)
                    && r.accumulators.iter().all(|a| self.define(a.result))
            }
            Stmt::If { cond, then, otherwise } => {
                !self.varying.contains(cond) && self.block(then) && self.block(otherwise)
            }
            Stmt::Contract(_) => false,
        }
    }

    fn op(&mut self, dst: Val, op: &Op) -> bool {
        let varies = match op {
            Op::Const(_) => false,
            Op::Load { index, guard, .. } => {
                let bounds = guard.iter().flat_map(|g| &g.bounds);
                self.varies(index)
                    || bounds.flat_map(|b| [&b.index, &b.lower, &b.upper]).any(|ix| self.varies(ix))
            }
            Op::Apply(_, operands) => operands.iter().any(|v| self.varying.contains(v)),
            Op::Cast(value) | Op::Bits(value) => self.varying.contains(value),
            Op::MulAdd(a, b, c) => [a, b, c].into_iter().any(|v| self.varying.contains(v)),
            Op::Index(index) => self.varies(index),
        };
        if !varies {
            return true;
        }
        let expensive = matches!(op, Op::Apply(Prim::Exp | Prim::Log | Prim::Tanh | Prim::Erf, _));
        self.operations += if expensive { BIG_BODY } else { 0 };
        let loadable = match op {
            Op::Load { buffer, .. } => {
                let dtype = self.kernel.buffers[buffer.index()].dtype;
                lane_storage(dtype) || (dtype.is_packed() && dtype.is_int())
            }
            Op::Index(_) => false,
            _ => true,
        };
        loadable && self.define(dst)
    }
}

impl Emitter<'_> {
    /// The number of operations of a body that can be vectorized over the variable; `None` where it cannot.
    fn lanewise_size(&self, var: Var, body: &Block, items: &[Val]) -> Option<usize> {
        if self.mode.is_some() {
            return None;
        }
        let mut analysis =
            Lanewise { kernel: &self.kernel, var, varying: FxHashSet::default(), operations: 0 };
        let fits = analysis.block(body) && items.iter().all(|&v| in_lanes(self.kernel.dtype(v)));
        fits.then_some(analysis.operations)
    }

    pub fn range(&mut self, axis: &Axis) -> Result<(Value, Value)> {
        let begin = self.ix(&axis.begin)?;
        let extent = self.ix(&axis.extent)?;
        Ok((begin, self.b.ins().iadd(begin, extent)))
    }

    /// Emits a loop.
    pub fn for_stmt(&mut self, l: &For) -> Result<()> {
        if self.wide_rows(l)? {
            return Ok(());
        }
        let (mut begin, end) = self.range(&l.axis)?;
        if l.kind == LoopKind::Vector {
            match self.wide_for(l, begin, end)? {
                Rest::Nothing => return Ok(()),
                Rest::From(at) => begin = at,
            }
        }
        let size = match l.kind {
            LoopKind::Vector => self.lanewise_size(l.axis.var, &l.body, &[]),
            LoopKind::Sequential => None,
        };
        let Some(size) = size else { return self.sequential(l, begin, end) };
        let extent = l.axis.extent.as_const();
        let lanes = LANES as i64;
        let mut at = begin;
        for groups in [2, 1] {
            let step = groups as i64 * lanes;
            if (groups > 1 && size > BIG_BODY) || extent.is_some_and(|n| n < step) {
                continue;
            }
            let limit = self.b.ins().iadd_imm_s(end, 1 - step);
            (at, _) = self.counted(at, limit, step, &[], |s, i, _| {
                s.in_lanes(l.axis.var, i, groups, |s| s.block(&l.body))?;
                Ok(vec![])
            })?;
            if extent.is_some_and(|n| n % step == 0) {
                return Ok(());
            }
        }
        self.sequential(l, at, end)
    }

    /// Runs `f` with the loop variable spread over lanes.
    fn in_lanes<R>(
        &mut self,
        var: Var,
        first: Value,
        groups: usize,
        f: impl FnOnce(&mut Self) -> Result<R>,
    ) -> Result<R> {
        self.vars[var.index()] = Some(first);
        self.mode = Some(VectorMode { var, groups });
        let result = f(self);
        self.mode = None;
        result
    }

    /// Machine values of a kernel value: one, or in lanes one a group.
    fn flat(&mut self, val: Val) -> Result<Vec<Value>> {
        let repr = self.val(val)?;
        Ok(match self.mode {
            Some(mode) => self.lanes(&repr, self.kernel.dtype(val), mode.groups).to_vec(),
            None => match repr {
                Repr::Uniform(value) => vec![value],
                Repr::Lanes(lanes) => lanes.to_vec(),
            },
        })
    }

    fn unflat(&mut self, val: Val, values: &[Value]) {
        let repr = match self.mode {
            Some(_) => Repr::Lanes(values.iter().copied().collect()),
            None => Repr::Uniform(values[0]),
        };
        self.vals[val.index()] = Some(repr);
    }

    /// One iteration at a time; inside a vectorized loop, for all its lanes.
    fn sequential(&mut self, l: &For, begin: Value, end: Value) -> Result<()> {
        let per_val = self.mode.map_or(1, |m| m.groups);
        let mut initial = vec![];
        for c in &l.carried {
            initial.extend(self.flat(c.init)?);
        }
        let (_, results) = self.counted(begin, end, 1, &initial, |s, i, args| {
            s.vars[l.axis.var.index()] = Some(i);
            for (c, values) in l.carried.iter().zip(args.chunks(per_val)) {
                s.unflat(c.arg, values);
            }
            s.block(&l.body)?;
            let mut next = vec![];
            for c in &l.carried {
                next.extend(s.flat(c.next)?);
            }
            Ok(next)
        })?;
        for (c, values) in l.carried.iter().zip(results.chunks(per_val)) {
            self.unflat(c.result, values);
        }
        Ok(())
    }

    /// Emits a reduction.
    pub fn reduce_stmt(&mut self, r: &Reduce) -> Result<()> {
        let (begin, end) = self.range(&r.axis)?;
        let items: Vec<Val> = r.accumulators.iter().map(|a| a.item).collect();
        let size = match r.kind {
            LoopKind::Vector => self.lanewise_size(r.axis.var, &r.body, &items),
            LoopKind::Sequential => None,
        };
        let mut initial: Vec<Value> = vec![];
        for a in &r.accumulators {
            initial.extend(self.flat(a.init)?);
        }
        let mut at = begin;
        if r.kind == LoopKind::Vector
            && let Some(outlined) = self.outlined(None, &r.axis, &r.body, &r.accumulators)
        {
            let totals;
            (at, totals) = self.wide_totals(&outlined, &r.axis, begin, end)?;
            for ((a, vectors), initial) in r.accumulators.iter().zip(totals).zip(&mut initial) {
                let vector = self.fold_pairwise(a, &vectors, true)?;
                *initial = self.fold_lanes(a, vector, *initial)?;
            }
            if matches!(outlined.rest(&r.axis, at), Rest::Nothing) {
                at = end;
            }
        } else if let Some(size) = size {
            let groups = if size > BIG_BODY { 2 } else { 4 };
            let step = (groups * LANES) as i64;
            let enough = r.axis.extent.as_const().is_none_or(|n| n >= LANES as i64);
            if enough {
                let mut lanes = vec![];
                for a in &r.accumulators {
                    let identity = self.identity(a)?;
                    let vector = self.splat(identity, self.kernel.dtype(a.init));
                    lanes.extend(vec![vector; groups]);
                }
                let limit = self.b.ins().iadd_imm_s(end, 1 - step);
                (at, lanes) = self.reduce_lanes(r, at, limit, groups, lanes)?;
                let mut folded = vec![];
                for (a, groups) in r.accumulators.iter().zip(lanes.chunks(groups)) {
                    folded.push(self.fold_pairwise(a, groups, true)?);
                }
                let limit = self.b.ins().iadd_imm_s(end, 1 - LANES as i64);
                (at, lanes) = self.reduce_lanes(r, at, limit, 1, folded)?;
                for ((a, vector), initial) in r.accumulators.iter().zip(lanes).zip(&mut initial) {
                    *initial = self.fold_lanes(a, vector, *initial)?;
                }
            }
        }
        self.reduce_sequential(r, at, end, &initial)
    }

    /// The vector part of a reduction over `[at, limit)`: `groups` partial results per accumulator.
    fn reduce_lanes(
        &mut self,
        r: &Reduce,
        at: Value,
        limit: Value,
        groups: usize,
        partial: Vec<Value>,
    ) -> Result<(Value, Vec<Value>)> {
        let step = (groups * LANES) as i64;
        self.counted(at, limit, step, &partial, |s, i, args| {
            s.in_lanes(r.axis.var, i, groups, |s| {
                s.block(&r.body)?;
                let mut next = vec![];
                for (a, args) in r.accumulators.iter().zip(args.chunks(groups)) {
                    let items = s.flat(a.item)?;
                    for (&current, item) in args.iter().zip(items) {
                        next.push(s.combine(a, current, item, true)?);
                    }
                }
                Ok(next)
            })
        })
    }

    fn reduce_sequential(&mut self, r: &Reduce, begin: Value, end: Value, initial: &[Value]) -> Result<()> {
        let per_val = self.mode.map_or(1, |m| m.groups);
        let vector = self.mode.is_some();
        let (_, results) = self.counted(begin, end, 1, initial, |s, i, args| {
            s.vars[r.axis.var.index()] = Some(i);
            s.block(&r.body)?;
            let mut next = vec![];
            for (a, args) in r.accumulators.iter().zip(args.chunks(per_val)) {
                let items = s.flat(a.item)?;
                for (&current, item) in args.iter().zip(items) {
                    next.push(s.combine(a, current, item, vector)?);
                }
            }
            Ok(next)
        })?;
        for (a, values) in r.accumulators.iter().zip(results.chunks(per_val)) {
            self.unflat(a.result, values);
        }
        Ok(())
    }

    fn combine(&mut self, a: &Accumulator, x: Value, y: Value, vector: bool) -> Result<Value> {
        let dtype = self.kernel.dtype(a.init);
        self.apply(a.combine, &[dtype, dtype], &[x, y], vector)
    }

    /// The lanes of a vector of partial results, combined with the value before.
    fn fold_lanes(&mut self, a: &Accumulator, vector: Value, initial: Value) -> Result<Value> {
        let dtype = self.kernel.dtype(a.init);
        let scalars: Vec<Value> = (0..LANES).map(|i| self.lane(dtype, vector, i)).collect();
        let total = self.fold_pairwise(a, &scalars, false)?;
        self.combine(a, initial, total, false)
    }

    /// `(v0 . v1) . (v2 . v3)` and so on, for a power of two of values.
    fn fold_pairwise(&mut self, a: &Accumulator, values: &[Value], vector: bool) -> Result<Value> {
        let mut values = values.to_vec();
        while values.len() > 1 {
            values = values
                .chunks(2)
                .map(|pair| match pair {
                    &[x, y] => self.combine(a, x, y, vector),
                    rest => Ok(rest[0]),
                })
                .collect::<Result<_>>()?;
        }
        Ok(values[0])
    }

    /// The neutral element of an accumulator's combination.
    fn identity(&mut self, a: &Accumulator) -> Result<Value> {
        let dtype = self.kernel.dtype(a.init);
        let (low, high) = dtype.int_range().unwrap_or((0, 0));
        let value = match (a.combine, dtype) {
            (Prim::Add | Prim::Or | Prim::Xor, DType::Bool) | (Prim::Max, DType::Bool) => Scalar::B(false),
            (_, DType::Bool) => Scalar::B(true),
            (Prim::Add, d) if d.is_float() => Scalar::F(0.0),
            (Prim::Mul, d) if d.is_float() => Scalar::F(1.0),
            (Prim::Min, d) if d.is_float() => Scalar::F(f64::INFINITY),
            (Prim::Max, d) if d.is_float() => Scalar::F(f64::NEG_INFINITY),
            (Prim::Mul, _) => Scalar::I(1),
            (Prim::Min, _) => Scalar::I(high),
            (Prim::Max, _) => Scalar::I(low),
            (Prim::And, _) => Scalar::I(if low < 0 { -1 } else { high }),
            (Prim::Add | Prim::Or | Prim::Xor, _) => Scalar::I(0),
            (other, _) => return self.unsupported(format!("reductions by {}", other.name())),
        };
        Ok(self.literal(dtype, &value))
    }
}
