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
//!
//! Where elements are bytes, a position has four of them, which are one element of 32 bits to what packs and transposes.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, Value, types};
use kiln_ir::{DType, Scalar};

use super::hoistable_guard;
use crate::kir::sparse::{Parts, STRIP, Window};
use crate::kir::{
    Access, Axis, Block, Bound, Buffer, BufferId, Contract, For, Guard, Ix, Kernel, LoopKind, Op, Sparse,
    Stmt, Val, Var,
};
use crate::lower::clif::LowerError;
use crate::lower::clif::emit::{Callee, Emitter, Result, flags};
use crate::lower::wide::quads::Quads;
use crate::lower::wide::sparse::{Lists, vectors};
use crate::lower::wide::transpose::{SIDE, transpose};
use crate::lower::wide::{WideError, WideFunction, Width};

/// Bytes of a position of a row, of a sum, and of a word of a list.
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
    /// How products of bytes are added, where elements are bytes.
    quads: Option<Quads>,
    direct: Option<Direct>,
    /// Rows as they are computed: `[rows][stride]` positions.
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
    vectors: Option<(Width, Quads)>,
) -> Result<SparsePlan> {
    let unsupported =
        || LowerError::Unsupported { kernel: kernel.name.clone(), what: "sums of unknown length".to_owned() };
    let parts = sparse.parts(c).ok_or_else(unsupported)?;
    let (rows, line) = (i64::from(sparse.form.rows), sparse.form.line());
    let positions = (parts.taps[1] * parts.run[1] + SIDE - 1) / SIDE * SIDE;
    // An odd number of cache lines keeps rows in different sets.
    let stride = ((positions / SIDE) | 1) * SIDE;
    let wide = vectors.is_some_and(|v| v.0 == Width::W512);
    let direct = direct(kernel, c, &parts, rows).filter(|_| wide && sparse.form.window.is_none());
    let columns = (i64::from(sparse.form.columns) + STRIP - 1) / STRIP * STRIP;
    let (group, word) = (i64::from(sparse.form.group), c.acc_dtype);
    let element = if group > 1 { DType::U8 } else { word };
    let mut scratch = |dtype: DType, len: i64| {
        let access = Access::Scratch { len: Ix::Const(len) };
        kernel.buffers.push(Buffer { dtype, access });
        BufferId(kernel.buffers.len() as u32 - 1)
    };
    let (staged, tile) = (scratch(element, line * stride * group), scratch(word, positions * line));
    let (sums, strip) = (scratch(word, columns * rows), scratch(word, STRIP * rows));
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
        quads: vectors.map(|v| v.1.of_vectors()).filter(|_| group > 1),
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

/// The left operand's rows where they are, if they are plain ones and parts are whole squares.
fn direct(kernel: &Kernel, c: &Contract, parts: &Parts, rows: i64) -> Option<Direct> {
    let [Stmt::Let { dst, op: Op::Load { buffer, index, guard: None } }] = c.a.body.as_slice() else {
        return None;
    };
    let group = i64::from(c.group());
    let element = if group > 1 { DType::U8 } else { c.acc_dtype };
    let plain = *dst == c.a.value && kernel.buffers[buffer.index()].dtype == element;
    let whole = c.k.extent.as_const().is_some_and(|k| k % group == 0);
    if !plain || !whole || parts.run.iter().any(|run| run % SIDE != 0) {
        return None;
    }
    let linear = index.linear(c.k.var, &|_| true)?;
    let stride = linear.rest.linear(c.m.var, &|_| true)?.coefficient.as_const()?;
    let along_k = linear.coefficient == Ix::Const(1) && stride > 0;
    let function = transpose(stride.checked_mul(BYTES / group)?, rows * BYTES).ok().filter(|_| along_k)?;
    Some(Direct { function, buffer: *buffer, index: index.clone() })
}

/// Whether the rows of a last tile may be no multiple of a square's.
fn may_be_partial(c: &Contract) -> bool {
    c.m.extent.as_const().is_none_or(|m| m % SIDE != 0)
}

impl Emitter<'_> {
    /// Emits a contraction with a sparse right operand.
    pub(super) fn sparse(&mut self, c: &Contract, plan: &SparsePlan) -> Result<()> {
        let step = plan.sparse.form.step();
        let begin = self.ix(&c.n.begin)?;
        let range = self.b.ins().udiv_imm_u(begin, i64::from(plan.sparse.form.columns));
        let lists = self.scaled(range, 2 * plan.parts.count());
        let lists = self.address(plan.sparse.index, lists, BYTES);
        let (zero, total) = (self.i64(0), self.ix(&c.m.extent)?);
        self.counted(zero, total, step, &[], |s, first, _| {
            let (left, most) = (s.b.ins().isub(total, first), s.i64(step));
            let count = s.b.ins().smin(left, most);
            let begin = s.ix(&c.m.begin)?;
            s.vars[plan.first_row.index()] = Some(s.b.ins().iadd(begin, first));
            s.vars[plan.row_count.index()] = Some(count);
            // Rows of the tile that the contraction's are among.
            let spread = match plan.sparse.form.window {
                None => count,
                Some(window) => {
                    let lines = s.b.ins().udiv_imm_u(count, i64::from(window.image[1]));
                    let pixels = s.scaled(lines, window.width());
                    s.b.ins().iadd_imm_s(pixels, 1 - i64::from(window.taps[1]))
                }
            };
            s.sparse_parts(c, plan, spread, lists)?;
            s.sparse_epilogue(c, plan, spread)?;
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
        if let Some(window) = plan.sparse.form.window {
            return self.pack_window(c, plan, window);
        }
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
            let group = i64::from(c.group());
            let k = s.ix(&(c.k.begin.clone() + Ix::Var(plan.k0) * group))?;
            s.vars[c.k.var.index()] = Some(k);
            let squares = s.ix(&Ix::Var(plan.kn).floor_div(SIDE))?;
            let line = s.ix(&(Ix::Var(plan.tap) * (plan.parts.run[1] * rows)))?;
            let to = s.address(plan.tile, line, BYTES);
            let square = |s: &mut Self, row: Value| -> Result<()> {
                let first = s.ix(&Ix::Var(plan.first_row))?;
                s.vars[c.m.var.index()] = Some(s.b.ins().iadd(first, row));
                let index = s.ix(&direct.index)?;
                let source = s.address(direct.buffer, index, BYTES / group);
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

    /// Computes the pixels of the tile's lines with what taps reach around them, then transposes them.
    fn pack_window(&mut self, c: &Contract, plan: &SparsePlan, window: Window) -> Result<()> {
        let ([lines, pixels], width, [above, left]) =
            (window.image.map(i64::from), window.width(), window.before());
        let (line, place) = (plan.sparse.form.line(), Ix::Var(plan.position));
        let y = Ix::Var(plan.first_row).floor_div(pixels) + place.clone().floor_div(width) - above;
        let x = place.clone().modulo(width) - left;
        let bounds = vec![Bound::below(y.clone(), lines), Bound::below(x.clone(), pixels)];
        let inside = Guard { bounds, otherwise: Scalar::I(0) };
        let middle: Vec<Ix> = c.taps.iter().zip([above, left]).map(|(t, n)| t.begin.clone() + n).collect();
        let first: Vec<Ix> = c.taps.iter().map(|t| t.begin.clone()).collect();
        // The middle tap reads the pixel itself, the first tap of the first row padding.
        let plain = hoistable_guard(c).map(|(dst, _, plain)| vec![Stmt::Let { dst, op: plain }]);
        let body = plain.unwrap_or_else(|| c.a.body.clone());
        let pixel = staged_row(c, plan, place.clone(), body);
        let padding = staged_row(c, plan, place, c.a.body.clone());
        self.vars[plan.tap.index()] = Some(self.i64(0));
        let (zero, all) = (self.i64(0), self.i64(line));
        self.counted(zero, all, 1, &[], |s, place, _| {
            s.vars[plan.position.index()] = Some(place);
            let cond = s.guard_holds(&inside)?;
            let at = |s: &mut Self, m: &Ix, taps: &[Ix]| -> Result<()> {
                s.vars[c.m.var.index()] = Some(s.ix(m)?);
                for (tap, at) in c.taps.iter().zip(taps) {
                    s.vars[tap.var.index()] = Some(s.ix(at)?);
                }
                Ok(())
            };
            s.branch(
                cond,
                |s| {
                    at(s, &(y.clone() * pixels + x.clone()), &middle)?;
                    s.for_stmt(&pixel)
                },
                |s| {
                    at(s, &Ix::Const(0), &first)?;
                    s.for_stmt(&padding)
                },
            )?;
            Ok(vec![])
        })?;
        let used = self.ix(&Ix::Var(plan.kn))?;
        if self.width == Some(Width::W512) {
            return self.transpose_squares(plan, all, used);
        }
        self.transpose_words(plan, all, used)
    }

    /// Computes rows one after the other, then transposes them.
    fn pack_staged(&mut self, c: &Contract, plan: &SparsePlan, count: Value, taps: [Value; 2]) -> Result<()> {
        let m = Axis { var: c.m.var, begin: Ix::Var(plan.first_row), extent: Ix::Var(plan.row_count) };
        self.each_tap(&c.taps, plan.tap, taps, |s| {
            let place = Ix::Var(c.m.var) - Ix::Var(plan.first_row);
            let Some((dst, guard, plain)) = hoistable_guard(c) else {
                let row = Stmt::For(Box::new(staged_row(c, plan, place, c.a.body.clone())));
                return s.for_stmt(&For {
                    axis: m,
                    kind: LoopKind::Sequential,
                    carried: vec![],
                    body: vec![row],
                });
            };
            let inside = staged_row(c, plan, place.clone(), vec![Stmt::Let { dst, op: plain }]);
            let padding = Stmt::Let { dst, op: Op::Const(guard.otherwise) };
            let outside = staged_row(c, plan, place, vec![padding]);
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
        if c.group() > 1 {
            return self.transpose_words(plan, count, used);
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

    /// Transposes the computed rows, a position at a time.
    fn transpose_words(&mut self, plan: &SparsePlan, count: Value, used: Value) -> Result<()> {
        let zero = self.i64(0);
        let (row_bytes, line_bytes) = (plan.stride * BYTES, plan.sparse.form.line() * BYTES);
        let (staged, tile) = (self.bases[plan.staged.index()], self.bases[plan.tile.index()]);
        self.counted(zero, used, 1, &[staged, tile], |s, _, args| {
            let (from, to) = (args[0], args[1]);
            s.counted(zero, count, 1, &[from, to], |s, _, args| {
                let word = s.b.ins().load(types::I32, flags(), args[0], 0);
                s.b.ins().store(flags(), word, args[1], 0);
                Ok(vec![s.b.ins().iadd_imm_s(args[0], row_bytes), s.b.ins().iadd_imm_s(args[1], BYTES)])
            })?;
            Ok(vec![s.b.ins().iadd_imm_s(from, BYTES), s.b.ins().iadd_imm_s(to, line_bytes)])
        })?;
        Ok(())
    }

    /// Transposes the computed rows by squares.
    fn transpose_staged(&mut self, c: &Contract, plan: &SparsePlan, count: Value, used: Value) -> Result<()> {
        let row_bytes = plan.stride * BYTES;
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
        self.transpose_squares(plan, padded, used)
    }

    /// Transposes whole squares of computed rows, as many positions as are used.
    fn transpose_squares(&mut self, plan: &SparsePlan, padded: Value, used: Value) -> Result<()> {
        let zero = self.i64(0);
        let squares = self.b.ins().iadd_imm_s(used, SIDE - 1);
        let squares = self.b.ins().udiv_imm_u(squares, SIDE);
        let function = self.wide(transpose(plan.stride * BYTES, plan.sparse.form.line() * BYTES))?;
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
            let (quads, block) = (plan.quads, block as usize);
            let lists = Lists { width, quads, block, vectors: step, rows, accumulate };
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
        let word = if plan.sparse.form.group > 1 { DType::I32 } else { DType::F32 };
        let (zero, vector) = (self.i64(0), self.zero_vector(word));
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
                    let mut next = vec![s.b.ins().iadd_imm_s(args[0], BYTES)];
                    next.push(s.b.ins().iadd_imm_s(args[1], BYTES * block as i64));
                    let sums = match word {
                        DType::I32 => s.quad_entry(at, args[1], &args[2..]),
                        _ => s.float_entry(at, args[1], &args[2..])?,
                    };
                    next.extend(sums);
                    Ok(next)
                })?;
                let to = s.scaled(first, BYTES);
                let to = s.b.ins().iadd(sums, to);
                let to = s.b.ins().iadd(to, skip);
                for (column, &sum) in done[2..].iter().enumerate() {
                    let offset = (column as i64 * rows * BYTES) as i32;
                    let before = accumulate.then(|| s.load_group(word, to, offset)).transpose()?;
                    let sum = before.map_or(sum, |before| match word {
                        DType::I32 => s.b.ins().iadd(before, sum),
                        _ => s.b.ins().fadd(before, sum),
                    });
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

    /// Sums of four rows with the products of an entry: its weights are at `values`, its line at `at`.
    fn float_entry(&mut self, at: Value, values: Value, sums: &[Value]) -> Result<Vec<Value>> {
        let line = self.load_group(DType::F32, at, 0)?;
        let add = |(column, &sum): (usize, &Value)| {
            let offset = (column as i64 * BYTES) as i32;
            let weight = self.b.ins().load(types::F32, flags(), values, offset);
            let weight = self.b.ins().splat(types::F32X4, weight);
            self.mul_add(weight, line, sum)
        };
        Ok(sums.iter().enumerate().map(add).collect())
    }

    /// The same of bytes.
    fn quad_entry(&mut self, at: Value, values: Value, sums: &[Value]) -> Vec<Value> {
        let line = self.b.ins().load(types::I8X16, flags(), at, 0);
        let halves = [self.b.ins().uwiden_low(line), self.b.ins().uwiden_high(line)];
        let add = |(column, &sum): (usize, &Value)| {
            let offset = (column as i64 * BYTES) as i32;
            let weights = self.b.ins().load(types::I32, flags(), values, offset);
            let weights = self.b.ins().splat(types::I32X4, weights);
            let weights = self.recast(types::I8X16, weights);
            let weights = self.b.ins().swiden_low(weights);
            let [low, high] = halves.map(|half| self.pair_products(half, weights));
            let products = self.b.ins().iadd_pairwise(low, high);
            self.b.ins().iadd(sum, products)
        };
        sums.iter().enumerate().map(add).collect()
    }

    /// Runs the epilogue over the sums of `count` rows.
    fn sparse_epilogue(&mut self, c: &Contract, plan: &SparsePlan, count: Value) -> Result<()> {
        let rows = i64::from(plan.sparse.form.rows);
        let row = Ix::Var(c.m.var) - Ix::Var(plan.first_row);
        let row = match plan.sparse.form.window {
            None => row,
            Some(window) => {
                let pixels = i64::from(window.image[1]);
                row.clone().floor_div(pixels) * window.width() + row.modulo(pixels)
            }
        };
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

/// The loop that computes a part of one row and tap, whose element `body` defines, to a row of the scratch.
fn staged_row(c: &Contract, plan: &SparsePlan, row: Ix, mut body: Block) -> For {
    let ([run, most], group) = (plan.parts.run, i64::from(c.group()));
    let first = Ix::Var(plan.k0) * group;
    let element = Ix::Var(c.k.var) - c.k.begin.clone() - first.clone();
    let index = row * (plan.stride * group) + Ix::Var(plan.tap) * (most * group) + element;
    body.push(Stmt::Store { buffer: plan.staged, index, value: c.a.value });
    let partial = c.k.extent.as_const().is_none_or(|k| k % group != 0);
    let extent = match (run % most == 0, partial) {
        (true, false) => Ix::Const(most * group),
        (false, false) => Ix::Var(plan.kn) * group,
        // The last position lacks elements.
        (_, true) => (Ix::Var(plan.kn) * group).min(c.k.extent.clone() - first.clone()),
    };
    let axis = Axis { var: c.k.var, begin: c.k.begin.clone() + first, extent };
    For { axis, kind: LoopKind::Vector, carried: vec![], body }
}

/// Vectors of rows that functions do, most first: those that tiles of the contraction's rows need.
fn steps(c: &Contract, plan: &SparsePlan, width: Width) -> Vec<usize> {
    let (form, lanes) = (plan.sparse.form, width.bytes() / BYTES);
    let rows = i64::from(form.rows);
    let all = vectors(width, plan.sparse.form.block as usize, plan.quads).iter().copied();
    let all: Vec<usize> = all.filter(|v| *v as i64 * lanes <= rows).collect();
    let Some(m) = c.m.extent.as_const() else { return all };
    let spread = |m: i64| match form.window {
        None => m,
        Some(window) => window.spread(m / i64::from(window.image[1]).max(1)),
    };
    let step = form.step();
    let tiles = [if m >= step { spread(step) } else { 0 }, spread(m % step)];
    let mut left = tiles.map(|rows| (rows + lanes - 1) / lanes);
    let mut needs = |step: &usize| {
        let step = *step as i64;
        let needed = left.iter().any(|l| *l >= step);
        left = left.map(|l| l % step);
        needed
    };
    all.into_iter().filter(|step| needs(step)).collect()
}
