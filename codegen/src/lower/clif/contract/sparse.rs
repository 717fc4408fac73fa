//! Contractions with a sparse right operand.
//!
//! ```text
//! for tiles of rows:
//!     for parts of the reduction:
//!         pack the part, a line of the tile for each position     // rows side by side, in the first-level cache
//!         for runs of the part's list:
//!             sums in registers += lines x weights                 // columns of the run, all rows of the tile
//!     for strips of columns: transpose the sums, then the epilogue, vectorized along n
//! ```

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, Value, types};
use kiln_ir::DType;

use super::hoistable_guard;
use crate::kir::sparse::{Parts, STRIP};
use crate::kir::{
    Access, Axis, Block, Buffer, BufferId, Contract, For, Ix, Kernel, LoopKind, Op, Sparse, Stmt, Val, Var,
};
use crate::lower::clif::LowerError;
use crate::lower::clif::emit::{Callee, Emitter, Result, flags};
use crate::lower::wide::sparse::{Lists, vectors};
use crate::lower::wide::transpose::{SIDE, transpose};
use crate::lower::wide::{WideError, WideFunction, Width};

/// Bytes of an element, and of a word of a list.
const BYTES: i64 = 4;

/// Rows of the left operand that squares are taken from where they are.
#[derive(Clone, Debug)]
struct Direct {
    function: WideFunction,
    buffer: BufferId,
    index: Ix,
}

/// What the lowering adds to the kernel for one contraction.
#[derive(Clone, Debug)]
pub(in crate::lower::clif) struct SparsePlan {
    sparse: Sparse,
    parts: Parts,
    direct: Option<Direct>,
    /// Rows as they are computed: `[rows][stride]`.
    staged: BufferId,
    stride: i64,
    /// A part of a tile: `[position][rows]`.
    tile: BufferId,
    /// `[columns][rows]`.
    sums: BufferId,
    /// `[rows][STRIP]`.
    strip: BufferId,
    first_row: Var,
    row_count: Var,
    tap: Var,
    k0: Var,
    kn: Var,
    position: Var,
    column: Var,
    used: Var,
    copied: Val,
}

/// Plans the contraction; adds scratch, variables and values to the kernel.
pub(super) fn plan(
    kernel: &mut Kernel,
    c: &Contract,
    sparse: Sparse,
    width: Option<Width>,
) -> Result<SparsePlan> {
    let unsupported =
        || LowerError::Unsupported { kernel: kernel.name.clone(), what: "sums of unknown length".to_owned() };
    let parts = sparse.parts(c).ok_or_else(unsupported)?;
    let rows = i64::from(sparse.form.rows);
    let positions = (parts.taps[1] * parts.run[1] + SIDE - 1) / SIDE * SIDE;
    // An odd number of cache lines keeps rows in different sets.
    let stride = ((positions / SIDE) | 1) * SIDE;
    let direct = direct(kernel, c, &parts, rows).filter(|_| width == Some(Width::W512));
    let columns = (i64::from(sparse.form.columns) + STRIP - 1) / STRIP * STRIP;
    let mut scratch = |len: i64| {
        let access = Access::Scratch { len: Ix::Const(len) };
        kernel.buffers.push(Buffer { dtype: DType::F32, access });
        BufferId(kernel.buffers.len() as u32 - 1)
    };
    let (staged, tile) = (scratch(rows * stride), scratch(positions * rows));
    let (sums, strip) = (scratch(columns * rows), scratch(STRIP * rows));
    let mut var = || {
        kernel.vars += 1;
        Var(kernel.vars - 1)
    };
    let (first_row, row_count, tap, k0, kn) = (var(), var(), var(), var(), var());
    let (position, column, used) = (var(), var(), var());
    kernel.vals.push(DType::F32);
    let copied = Val(kernel.vals.len() as u32 - 1);
    Ok(SparsePlan {
        sparse,
        parts,
        direct,
        staged,
        stride,
        tile,
        sums,
        strip,
        first_row,
        row_count,
        tap,
        k0,
        kn,
        position,
        column,
        used,
        copied,
    })
}

/// The left operand's rows where they are, if they are plain ones of floats and parts are whole squares.
fn direct(kernel: &Kernel, c: &Contract, parts: &Parts, rows: i64) -> Option<Direct> {
    let [Stmt::Let { dst, op: Op::Load { buffer, index, guard: None } }] = c.a.body.as_slice() else {
        return None;
    };
    let plain = *dst == c.a.value && kernel.buffers[buffer.index()].dtype == DType::F32;
    if !plain || parts.run.iter().any(|run| run % SIDE != 0) {
        return None;
    }
    let linear = index.linear(c.k.var, &|_| true)?;
    let stride = linear.rest.linear(c.m.var, &|_| true)?.coefficient.as_const()?;
    let along_k = linear.coefficient == Ix::Const(1) && stride > 0;
    let function = transpose(stride.checked_mul(BYTES)?, rows * BYTES).ok().filter(|_| along_k)?;
    Some(Direct { function, buffer: *buffer, index: index.clone() })
}

/// Whether the rows of a last tile may be no multiple of a square's.
fn may_be_partial(c: &Contract) -> bool {
    c.m.extent.as_const().is_none_or(|m| m % SIDE != 0)
}

impl Emitter<'_> {
    /// Emits a contraction with a sparse right operand.
    pub(super) fn sparse(&mut self, c: &Contract, plan: &SparsePlan) -> Result<()> {
        let rows = i64::from(plan.sparse.form.rows);
        let begin = self.ix(&c.n.begin)?;
        let range = self.b.ins().udiv_imm_u(begin, i64::from(plan.sparse.form.columns));
        let lists = self.scaled(range, 2 * plan.parts.count());
        let lists = self.address(plan.sparse.index, lists, BYTES);
        let (zero, total) = (self.i64(0), self.ix(&c.m.extent)?);
        self.counted(zero, total, rows, &[], |s, first, _| {
            let (left, most) = (s.b.ins().isub(total, first), s.i64(rows));
            let count = s.b.ins().smin(left, most);
            let begin = s.ix(&c.m.begin)?;
            s.vars[plan.first_row.index()] = Some(s.b.ins().iadd(begin, first));
            s.vars[plan.row_count.index()] = Some(count);
            s.sparse_parts(c, plan, count, lists)?;
            s.sparse_epilogue(c, plan, count)?;
            Ok(vec![])
        })?;
        Ok(())
    }

    /// All parts of the reduction for a tile.
    fn sparse_parts(&mut self, c: &Contract, plan: &SparsePlan, count: Value, lists: Value) -> Result<()> {
        let ([taps, fit], [run, most]) = (plan.parts.taps, plan.parts.run);
        let zero = self.i64(0);
        let (taps, run) = (self.i64(taps), self.i64(run));
        let single = plan.parts.count() == 1;
        self.counted(zero, taps, fit, &[lists, zero], |s, t0, args| {
            let (left, fit) = (s.b.ins().isub(taps, t0), s.i64(fit));
            let tn = s.b.ins().smin(left, fit);
            let (_, args) = s.counted(zero, run, most, args, |s, k0, args| {
                let (left, most) = (s.b.ins().isub(run, k0), s.i64(most));
                let kn = s.b.ins().smin(left, most);
                s.vars[plan.k0.index()] = Some(k0);
                s.vars[plan.kn.index()] = Some(kn);
                s.pack_part(c, plan, count, [t0, tn])?;
                let (list, part) = (args[0], args[1]);
                if single {
                    s.multiply_list(c, plan, count, list, false)?;
                } else {
                    let more = s.b.ins().icmp_imm_s(IntCC::NotEqual, part, 0);
                    s.branch(
                        more,
                        |s| s.multiply_list(c, plan, count, list, true),
                        |s| s.multiply_list(c, plan, count, list, false),
                    )?;
                }
                Ok(vec![s.b.ins().iadd_imm_s(list, 2 * BYTES), s.b.ins().iadd_imm_s(part, 1)])
            })?;
            Ok(args)
        })?;
        Ok(())
    }

    /// Fills the tile with a part of `count` rows.
    fn pack_part(&mut self, c: &Contract, plan: &SparsePlan, count: Value, taps: [Value; 2]) -> Result<()> {
        let Some(direct) = &plan.direct else { return self.pack_staged(c, plan, count, taps) };
        let rows = i64::from(plan.sparse.form.rows);
        let tail = c.m.extent.as_const().map(|m| m % rows);
        if tail.is_some_and(|tail| tail == 0 || tail >= SIDE) {
            return self.pack_direct(c, plan, direct, count, taps);
        }
        let enough = self.b.ins().icmp_imm_s(IntCC::SignedGreaterThanOrEqual, count, SIDE);
        self.branch(
            enough,
            |s| s.pack_direct(c, plan, direct, count, taps),
            |s| s.pack_staged(c, plan, count, taps),
        )
    }

    /// Packs rows by squares from where they are; there are enough for one.
    fn pack_direct(
        &mut self,
        c: &Contract,
        plan: &SparsePlan,
        direct: &Direct,
        count: Value,
        taps: [Value; 2],
    ) -> Result<()> {
        if may_be_partial(c) {
            self.clear_lanes(plan, count)?;
        }
        let rows = i64::from(plan.sparse.form.rows);
        self.each_tap(&c.taps, plan.tap, taps, |s| {
            let k = s.ix(&(c.k.begin.clone() + Ix::Var(plan.k0)))?;
            s.vars[c.k.var.index()] = Some(k);
            let squares = s.ix(&Ix::Var(plan.kn).floor_div(SIDE))?;
            let line = s.ix(&(Ix::Var(plan.tap) * (plan.parts.run[1] * rows)))?;
            let to = s.address(plan.tile, line, BYTES);
            let square = |s: &mut Self, row: Value| -> Result<()> {
                let first = s.ix(&Ix::Var(plan.first_row))?;
                s.vars[c.m.var.index()] = Some(s.b.ins().iadd(first, row));
                let index = s.ix(&direct.index)?;
                let source = s.address(direct.buffer, index, BYTES);
                let lane = s.scaled(row, BYTES);
                let to = s.b.ins().iadd(to, lane);
                s.call(Callee::Loop(direct.function.clone()), &[source, to, squares]);
                Ok(())
            };
            let (zero, whole) = (s.i64(0), s.b.ins().band_imm_s(count, -SIDE));
            s.counted(zero, whole, SIDE, &[], |s, row, _| {
                square(s, row)?;
                Ok(vec![])
            })?;
            if !may_be_partial(c) {
                return Ok(());
            }
            // The last square shares rows with the one before.
            let more = s.b.ins().icmp(IntCC::SignedLessThan, whole, count);
            let last = s.b.ins().iadd_imm_s(count, -SIDE);
            s.branch(more, |s| square(s, last), |_| Ok(()))
        })
    }

    /// Zeroes the lanes of the last vector of rows, some of which no row fills: what is left there may be slow to compute
    /// with.
    fn clear_lanes(&mut self, plan: &SparsePlan, count: Value) -> Result<()> {
        let rows = i64::from(plan.sparse.form.rows);
        let positions = self.i64(plan.parts.taps[1] * plan.parts.run[1]);
        let whole = self.b.ins().band_imm_s(count, -SIDE);
        let more = self.b.ins().icmp(IntCC::SignedLessThan, whole, count);
        let first = self.address(plan.tile, whole, BYTES);
        let (zero, vector) = (self.i64(0), self.zero_vector(DType::F32));
        self.branch(
            more,
            |s| {
                s.counted(zero, positions, 1, &[first], |s, _, at| {
                    for lane in (0..SIDE).step_by(4) {
                        s.b.ins().store(flags(), vector, at[0], (lane * BYTES) as i32);
                    }
                    Ok(vec![s.b.ins().iadd_imm_s(at[0], rows * BYTES)])
                })?;
                Ok(())
            },
            |_| Ok(()),
        )
    }

    /// Computes rows one after the other, then transposes them.
    fn pack_staged(&mut self, c: &Contract, plan: &SparsePlan, count: Value, taps: [Value; 2]) -> Result<()> {
        let m = Axis { var: c.m.var, begin: Ix::Var(plan.first_row), extent: Ix::Var(plan.row_count) };
        self.each_tap(&c.taps, plan.tap, taps, |s| {
            let Some((dst, guard, plain)) = hoistable_guard(c) else {
                let row = Stmt::For(Box::new(staged_row(c, plan, c.a.body.clone())));
                return s.for_stmt(&For {
                    axis: m,
                    kind: LoopKind::Sequential,
                    carried: vec![],
                    body: vec![row],
                });
            };
            let inside = staged_row(c, plan, vec![Stmt::Let { dst, op: plain }]);
            let padding = Stmt::Let { dst, op: Op::Const(guard.otherwise) };
            let outside = staged_row(c, plan, vec![padding]);
            let (begin, end) = s.range(&m)?;
            s.counted(begin, end, 1, &[], |s, m, _| {
                s.vars[c.m.var.index()] = Some(m);
                let cond = s.guard_holds(guard)?;
                s.branch(cond, |s| s.for_stmt(&inside), |s| s.for_stmt(&outside))?;
                Ok(vec![])
            })?;
            Ok(())
        })?;
        // Positions of the part: of several whole taps, or of a piece of one.
        let used = match plan.parts.taps[1] {
            1 => self.ix(&Ix::Var(plan.kn))?,
            _ => self.scaled(taps[1], plan.parts.run[1]),
        };
        if self.width == Some(Width::W512) {
            return self.transpose_staged(c, plan, count, used);
        }
        if may_be_partial(c) {
            self.clear_lanes(plan, count)?;
        }
        self.vars[plan.used.index()] = Some(used);
        let rows = i64::from(plan.sparse.form.rows);
        let (row, position) = (Ix::Var(c.m.var) - Ix::Var(plan.first_row), Ix::Var(plan.position));
        let index = row.clone() * plan.stride + position.clone();
        let body = vec![
            Stmt::Let { dst: plan.copied, op: Op::Load { buffer: plan.staged, index, guard: None } },
            Stmt::Store { buffer: plan.tile, index: position * rows + row, value: plan.copied },
        ];
        let m = Axis { var: c.m.var, begin: Ix::Var(plan.first_row), extent: Ix::Var(plan.row_count) };
        let line = For { axis: m, kind: LoopKind::Vector, carried: vec![], body };
        let axis = Axis { var: plan.position, begin: Ix::Const(0), extent: Ix::Var(plan.used) };
        let body = vec![Stmt::For(Box::new(line))];
        self.for_stmt(&For { axis, kind: LoopKind::Sequential, carried: vec![], body })
    }

    /// Transposes the computed rows by squares.
    fn transpose_staged(&mut self, c: &Contract, plan: &SparsePlan, count: Value, used: Value) -> Result<()> {
        let row_bytes = plan.stride * BYTES;
        let zero = self.i64(0);
        let padded = self.b.ins().iadd_imm_s(count, SIDE - 1);
        let padded = self.b.ins().band_imm_s(padded, -SIDE);
        if may_be_partial(c) {
            let vector = self.zero_vector(DType::F32);
            let base = self.bases[plan.staged.index()];
            let [begin, end] = [count, padded].map(|row| self.scaled(row, row_bytes));
            self.counted(begin, end, 16, &[], |s, offset, _| {
                let at = s.b.ins().iadd(base, offset);
                s.b.ins().store(flags(), vector, at, 0);
                Ok(vec![])
            })?;
        }
        let squares = self.b.ins().iadd_imm_s(used, SIDE - 1);
        let squares = self.b.ins().udiv_imm_u(squares, SIDE);
        let function = self.wide(transpose(row_bytes, i64::from(plan.sparse.form.rows) * BYTES))?;
        self.counted(zero, padded, SIDE, &[], |s, row, _| {
            let from = s.scaled(row, plan.stride);
            let (from, to) = (s.address(plan.staged, from, BYTES), s.address(plan.tile, row, BYTES));
            s.call(Callee::Loop(function), &[from, to, squares]);
            Ok(vec![])
        })?;
        Ok(())
    }

    fn wide(&self, made: std::result::Result<WideFunction, WideError>) -> Result<WideFunction> {
        made.map_err(|source| LowerError::Wide { kernel: self.kernel.name.clone(), source })
    }

    /// Multiplies the tile with the list that the words at `list` name.
    fn multiply_list(
        &mut self,
        c: &Contract,
        plan: &SparsePlan,
        count: Value,
        list: Value,
        accumulate: bool,
    ) -> Result<()> {
        let block = i64::from(plan.sparse.form.block);
        let word = self.b.ins().uload32(flags(), list, 0);
        let entry = self.b.ins().uload32(flags(), list, BYTES as i32);
        let words = self.address(plan.sparse.index, word, BYTES);
        let values = self.address(plan.sparse.values, entry, BYTES * block);
        let (tile, sums) = (self.bases[plan.tile.index()], self.bases[plan.sums.index()]);
        let Some(width) = self.width else {
            return self.portable_list(plan, count, [words, values], accumulate);
        };
        let lanes = width.bytes() / BYTES;
        let up = self.b.ins().iadd_imm_s(count, lanes - 1);
        let total = self.b.ins().udiv_imm_u(up, lanes);
        let mut at = self.i64(0);
        for step in steps(c, plan, width) {
            let rows = i64::from(plan.sparse.form.rows);
            let lists = Lists { width, block: block as usize, vectors: step, rows, accumulate };
            let function = self.wide(lists.emit())?;
            let limit = self.b.ins().iadd_imm_s(total, 1 - step as i64);
            (at, _) = self.counted(at, limit, step as i64, &[], |s, vector, _| {
                let skip = s.scaled(vector, width.bytes());
                let (tile, sums) = (s.b.ins().iadd(tile, skip), s.b.ins().iadd(sums, skip));
                s.call(Callee::Loop(function), &[tile, words, values, sums]);
                Ok(vec![])
            })?;
        }
        Ok(())
    }

    /// The same with 128-bit vectors.
    fn portable_list(
        &mut self,
        plan: &SparsePlan,
        count: Value,
        [words, values]: [Value; 2],
        accumulate: bool,
    ) -> Result<()> {
        let (rows, block) = (i64::from(plan.sparse.form.rows), plan.sparse.form.block as usize);
        let (tile, sums) = (self.bases[plan.tile.index()], self.bases[plan.sums.index()]);
        let (zero, vector) = (self.i64(0), self.zero_vector(DType::F32));
        let runs = self.b.ins().uload32(flags(), words, 0);
        let words = self.b.ins().iadd_imm_s(words, BYTES);
        self.counted(zero, runs, 1, &[words, values], |s, _, args| {
            let (words, values) = (args[0], args[1]);
            let first = s.b.ins().uload32(flags(), words, 0);
            let entries = s.b.ins().uload32(flags(), words, BYTES as i32);
            let places = s.b.ins().iadd_imm_s(words, 2 * BYTES);
            s.counted(zero, count, 4, &[], |s, row, _| {
                let mut initial = vec![places, values];
                initial.extend(vec![vector; block]);
                let skip = s.scaled(row, BYTES);
                let lines = s.b.ins().iadd(tile, skip);
                let (_, done) = s.counted(zero, entries, 1, &initial, |s, _, args| {
                    let place = s.b.ins().uload32(flags(), args[0], 0);
                    let place = s.scaled(place, BYTES);
                    let at = s.b.ins().iadd(lines, place);
                    let line = s.load_group(DType::F32, at, 0)?;
                    let mut next = vec![s.b.ins().iadd_imm_s(args[0], BYTES)];
                    next.push(s.b.ins().iadd_imm_s(args[1], BYTES * block as i64));
                    for (column, &sum) in args[2..].iter().enumerate() {
                        let offset = (column as i64 * BYTES) as i32;
                        let weight = s.b.ins().load(types::F32, flags(), args[1], offset);
                        let weight = s.b.ins().splat(types::F32X4, weight);
                        next.push(s.mul_add(weight, line, sum));
                    }
                    Ok(next)
                })?;
                let to = s.scaled(first, BYTES);
                let to = s.b.ins().iadd(sums, to);
                let to = s.b.ins().iadd(to, skip);
                for (column, &sum) in done[2..].iter().enumerate() {
                    let offset = (column as i64 * rows * BYTES) as i32;
                    let before = accumulate.then(|| s.load_group(DType::F32, to, offset)).transpose()?;
                    let sum = before.map_or(sum, |before| s.b.ins().fadd(before, sum));
                    s.b.ins().store(flags(), sum, to, offset);
                }
                Ok(vec![])
            })?;
            let (places_bytes, values_bytes) =
                (s.scaled(entries, BYTES), s.scaled(entries, BYTES * block as i64));
            Ok(vec![s.b.ins().iadd(places, places_bytes), s.b.ins().iadd(values, values_bytes)])
        })?;
        Ok(())
    }

    /// Runs the epilogue over the sums of `count` rows.
    fn sparse_epilogue(&mut self, c: &Contract, plan: &SparsePlan, count: Value) -> Result<()> {
        let rows = i64::from(plan.sparse.form.rows);
        let row = Ix::Var(c.m.var) - Ix::Var(plan.first_row);
        let column = Ix::Var(c.n.var) - c.n.begin.clone();
        if self.width != Some(Width::W512) {
            let load = Op::Load { buffer: plan.sums, index: column * rows + row, guard: None };
            return self.sparse_columns(c, plan, load, c.n.clone());
        }
        let function = self.wide(transpose(rows * BYTES, STRIP * BYTES))?;
        let padded = self.b.ins().iadd_imm_s(count, SIDE - 1);
        let squares = self.b.ins().udiv_imm_u(padded, SIDE);
        let (zero, n) = (self.i64(0), self.ix(&c.n.extent)?);
        let whole = c.n.extent.as_const().is_some_and(|n| n % STRIP == 0);
        self.counted(zero, n, STRIP, &[], |s, first, _| {
            let (left, most) = (s.b.ins().isub(n, first), s.i64(STRIP));
            let used = s.b.ins().smin(left, most);
            s.vars[plan.column.index()] = Some(first);
            s.vars[plan.used.index()] = Some(used);
            s.counted(zero, used, SIDE, &[], |s, column, _| {
                let from = s.b.ins().iadd(first, column);
                let from = s.scaled(from, rows);
                let from = s.address(plan.sums, from, BYTES);
                let to = s.address(plan.strip, column, BYTES);
                s.call(Callee::Loop(function), &[from, to, squares]);
                Ok(vec![])
            })?;
            let index = row.clone() * STRIP + (column.clone() - Ix::Var(plan.column));
            let load = Op::Load { buffer: plan.strip, index, guard: None };
            let begin = c.n.begin.clone() + Ix::Var(plan.column);
            let extent = if whole { Ix::Const(STRIP) } else { Ix::Var(plan.used) };
            s.sparse_columns(c, plan, load, Axis { var: c.n.var, begin, extent })?;
            Ok(vec![])
        })?;
        Ok(())
    }

    /// The epilogue over some columns, whose sums `load` gives.
    fn sparse_columns(&mut self, c: &Contract, plan: &SparsePlan, load: Op, n: Axis) -> Result<()> {
        let mut body = vec![Stmt::Let { dst: c.acc, op: load }];
        body.extend(c.epilogue.iter().cloned());
        let columns = For { axis: n, kind: LoopKind::Vector, carried: vec![], body };
        let m = Axis { var: c.m.var, begin: Ix::Var(plan.first_row), extent: Ix::Var(plan.row_count) };
        let body = vec![Stmt::For(Box::new(columns))];
        self.for_stmt(&For { axis: m, kind: LoopKind::Sequential, carried: vec![], body })
    }
}

/// The loop that computes a part of one row and tap, whose element `body` defines.
fn staged_row(c: &Contract, plan: &SparsePlan, mut body: Block) -> For {
    let [run, most] = plan.parts.run;
    let position = Ix::Var(c.k.var) - c.k.begin.clone() - Ix::Var(plan.k0);
    let row = Ix::Var(c.m.var) - Ix::Var(plan.first_row);
    let index = row * plan.stride + Ix::Var(plan.tap) * most + position;
    body.push(Stmt::Store { buffer: plan.staged, index, value: c.a.value });
    let extent = if run % most == 0 { Ix::Const(most) } else { Ix::Var(plan.kn) };
    let axis = Axis { var: c.k.var, begin: c.k.begin.clone() + Ix::Var(plan.k0), extent };
    For { axis, kind: LoopKind::Vector, carried: vec![], body }
}

/// Vectors of rows that functions do, most first: those that tiles of the contraction's rows need.
fn steps(c: &Contract, plan: &SparsePlan, width: Width) -> Vec<usize> {
    let (rows, lanes) = (i64::from(plan.sparse.form.rows), width.bytes() / BYTES);
    let all = vectors(width, plan.sparse.form.block as usize).iter().copied();
    let all: Vec<usize> = all.filter(|v| *v as i64 * lanes <= rows).collect();
    let Some(m) = c.m.extent.as_const() else { return all };
    let tiles = [if m >= rows { rows } else { 0 }, m % rows];
    let mut left = tiles.map(|rows| (rows + lanes - 1) / lanes);
    let mut needs = |step: &usize| {
        let step = *step as i64;
        let needed = left.iter().any(|l| *l >= step);
        left = left.map(|l| l % step);
        needed
    };
    all.into_iter().filter(|step| needs(step)).collect()
}
