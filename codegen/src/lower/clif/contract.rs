//! Contractions: block the reduction, pack rows of the left operand, run micro-kernels, run the epilogue.
//!
//! ```text
//! (pack the right operand into panels, unless it is packed already)
//! for tiles of TILE rows:
//!     for blocks of taps and k:                      // the packed rows fit in L1
//!         pack the rows of the left operand          // prologue, padding, dtype conversion happen here
//!         for panels, for vectors of the panel:
//!             sums in registers += rows x panel      // micro-kernel
//!     epilogue over the sums of the rows, vectorized along n
//! ```
//!
//! The sums of a tile live in a few cache lines of scratch between the micro-kernels and the epilogue; both the
//! packing loops and the epilogue are ordinary kernel IR statements and take the ordinary vectorizer.
//!
//! With wide vectors and rows of known or bounded length, [`streamed`] takes another order.

mod copies;
mod finished;
mod in_place;
mod left;
mod narrow;
mod panels;
mod products;
mod results;
mod rows;
mod sparse;
mod streamed;

use cranelift_codegen::ir::{InstBuilder, Value, types};
use kiln_ir::DType;
use kiln_runtime::cpu::Tier;
use rustc_hash::FxHashMap;

use super::LowerError;
use super::emit::{Callee, Emitter, Result};
use crate::kir::{
    Access, Axis, Block, Buffer, BufferId, Contract, For, Guard, Ix, Kernel, LoopKind, Op, Operand, PART,
    Rhs, Stmt, Val, Var,
};
use crate::lower::wide::Width;
use crate::lower::wide::quads::Quads;
use crate::lower::wide::tile::{MOST_ROWS, Tile};
use crate::schedule::panel_width;
use left::Left;

/// Rows of a tile: a block of the right operand comes from memory once for so many rows, and four micro-kernels of
/// full height use it.
const TILE: i64 = 48;

/// Longest block of the reduction, in elements a row, which is one part of the sum: the rows of a micro-kernel and a
/// panel of 16 columns fit in the first-level cache.
const BLOCK: i64 = PART;

/// The same with wide vectors, where a panel comes from the second-level cache anyway.
const WIDE_BLOCK: i64 = 640;

/// Elements between packed rows of the portable lowering: an odd number of cache lines keeps rows in different sets.
pub(super) const STRIDE: i64 = BLOCK + 16;

/// Elements of packed rows with wide vectors: they share the second-level cache with a panel and the sums.
const WIDE_ROWS: i64 = 3 << 15;

/// Sums of a tile with wide vectors.
const WIDE_SUMS: i64 = 1 << 16;

/// Largest constant bound of the columns for which all sums of a tile are kept.
const MAX_COLUMNS: i64 = 1024;

/// Columns computed at once where there are more or their number has no constant bound.
const COLUMN_BLOCK: i64 = 480;

/// Elements of a right operand that is packed whole.
const MAX_PANELS: i64 = 1 << 18;

/// Panel width for right operands that are packed on the fly, without wide vectors.
const STRIDED_WIDTH: i64 = 8;

/// How a contraction is done.
#[derive(Clone, Debug)]
pub(super) enum Plan {
    /// All products.
    Dense(Box<ContractPlan>),
    /// Those of weights that are not zero.
    Sparse(Box<sparse::SparsePlan>),
}

/// What the lowering adds to the kernel for one contraction.
#[derive(Clone, Debug)]
pub(super) struct ContractPlan {
    /// The plan where panels pass by rows that stay; the rest of this one is for their bounds only.
    streamed: Option<streamed::Streamed>,
    /// How packed rows hold elements.
    left: Left,
    /// Rows of a tile.
    tile: i64,
    /// Elements between packed rows.
    row_stride: i64,
    /// Columns that are computed at once, where their number has no constant bound.
    column_block: Option<i64>,
    /// Packed rows: `[tile][stride]`.
    rows: BufferId,
    /// Sums of a tile: `[tile][columns]`.
    sums: BufferId,
    /// Elements between rows of sums: the padded upper bound of the column count.
    columns: i64,
    /// Panel width.
    width: i64,
    /// Packed right operand, where it is not packed at compile time.
    panels: Option<BufferId>,
    /// The right operand where it is not packed at all.
    in_place: Option<in_place::InPlace>,
    /// Whether all of the right operand is packed first, or each block of the reduction for each tile.
    whole_panels: bool,
    /// Taps a block; more than one only if `k` is taken whole.
    taps_per_block: i64,
    /// Elements of `k` a block.
    k_per_block: i64,
    first_row: Var,
    row_count: Var,
    tap: Var,
    k0: Var,
    kn: Var,
    column: Var,
    used: Var,
    first_column: Var,
    n0: Var,
    n_count: Var,
    /// A left and a right element as they are packed.
    widened: Option<(Val, Val)>,
}

/// The right operand's panels.
struct Panels {
    /// Address of the panel of column `n0 = 0`.
    base: Value,
    storage: DType,
    width: i64,
    /// Rows of a panel.
    depth: Ix,
    /// Elements between rows, and between panels.
    step: i64,
    apart: Ix,
    /// First column in terms of the panels.
    n0: Ix,
}

/// A block of a tile: `(begin, count)` of rows, taps and elements of `k`.
struct Block3 {
    rows: [Value; 2],
    taps: [Value; 2],
    k: [Value; 2],
}

/// Plans every contraction of the kernel; adds scratch buffers, variables and values to it.
pub(super) fn plan_all(
    kernel: &mut Kernel,
    (tier, vectors): (Tier, Option<Width>),
) -> Result<FxHashMap<Val, Plan>> {
    let vectors = vectors.map(|width| (width, Quads::of(tier)));
    let mut found = vec![];
    collect(&kernel.body, &mut found);
    let mut plans = FxHashMap::default();
    for contract in found {
        let plan = match contract.b {
            Rhs::Sparse(of) => Plan::Sparse(Box::new(sparse::plan(kernel, &contract, of, vectors)?)),
            Rhs::Packed { .. } | Rhs::Strided(_) => Plan::Dense(Box::new(plan(kernel, &contract, vectors)?)),
        };
        plans.insert(contract.acc, plan);
    }
    Ok(plans)
}

fn collect(block: &Block, found: &mut Vec<Contract>) {
    for stmt in block {
        match stmt {
            Stmt::Let { .. } | Stmt::Store { .. } => {}
            Stmt::For(l) => collect(&l.body, found),
            Stmt::Reduce(r) => collect(&r.body, found),
            Stmt::If { then, otherwise, .. } => {
                collect(then, found);
                collect(otherwise, found);
            }
            Stmt::Contract(c) => {
                found.push((**c).clone());
                collect(&c.epilogue, found);
            }
        }
    }
}

fn plan(kernel: &mut Kernel, c: &Contract, vectors: Option<(Width, Quads)>) -> Result<ContractPlan> {
    let unsupported =
        |what: &str| LowerError::Unsupported { kernel: kernel.name.clone(), what: what.to_owned() };
    let width = match &c.b {
        Rhs::Packed { width, .. } => i64::from(*width),
        Rhs::Strided(_) => strided_width(c, vectors.map(|v| v.0)),
        Rhs::Sparse(_) => return Err(unsupported("panels of a sparse operand")),
    };
    if width % lanes(c.acc_dtype) != 0 {
        return Err(unsupported(&format!("panels of width {width}")));
    }
    let bound = c.n.extent.constant_bound().filter(|n| *n <= MAX_COLUMNS);
    let shape = vectors.and_then(|v| tile_shape(kernel, c, v, width));
    let columns = (bound.unwrap_or(COLUMN_BLOCK).max(0) + width - 1) / width * width;
    let column_block = bound.is_none().then_some(columns);
    let taps = c.taps.iter().fold(Ix::Const(1), |n, t| n * t.extent.clone().max(0));
    let left = Left::of(c, shape.is_some());
    let block = if shape.is_some() { WIDE_BLOCK * left.step } else { BLOCK };
    let k = longest_run(c).map(|k| left.padded(k));
    let (taps_per_block, k_per_block) = blocks(taps.as_const(), k, block);
    let depth = taps.as_const().zip(k).and_then(|(taps, k)| taps.checked_mul(k.max(0)));
    let whole = depth.and_then(|d| d.checked_mul(columns)).filter(|n| *n <= MAX_PANELS);
    let strided = matches!(c.b, Rhs::Strided(_));
    let in_place = in_place::in_place(kernel, c, width);
    let panel_step = in_place.as_ref().map_or(width, |at| at.stride);
    let streamed = shape
        .filter(|_| !strided || whole.is_some())
        .and_then(|tile| streamed::plan(kernel, c, Tile { panel_step, ..tile }, columns));
    let in_place = in_place.filter(|_| streamed.is_some());
    let (tile, row_stride) = packed_tile(c, (left, shape.is_some()), columns, taps_per_block * k_per_block);
    let mut scratch_of = |dtype: DType, len: i64| {
        kernel.buffers.push(Buffer { dtype, access: Access::Scratch { len: Ix::Const(len) } });
        BufferId(kernel.buffers.len() as u32 - 1)
    };
    let packs = if streamed.is_some() { 0 } else { 1 };
    let rows = scratch_of(left.dtype, packs * tile * row_stride);
    let mut scratch = |len: i64| scratch_of(c.acc_dtype, len);
    let sums = scratch(packs * columns * tile);
    let packed = strided && in_place.is_none();
    let panels = packed.then(|| scratch(whole.unwrap_or(columns * taps_per_block * k_per_block)));
    let mut var = || {
        kernel.vars += 1;
        Var(kernel.vars - 1)
    };
    let (first_row, row_count, tap, k0, kn, column) = (var(), var(), var(), var(), var(), var());
    let (used, first_column, n0, n_count) = (var(), var(), var(), var());
    let mut val = |dtype| {
        kernel.vals.push(dtype);
        Val(kernel.vals.len() as u32 - 1)
    };
    let widened = (c.acc_dtype == DType::I32).then(|| (val(left.dtype), val(DType::I32)));
    Ok(ContractPlan {
        streamed,
        left,
        tile,
        row_stride,
        column_block,
        rows,
        sums,
        columns,
        width,
        panels,
        in_place,
        whole_panels: strided && whole.is_some(),
        taps_per_block,
        k_per_block,
        first_row,
        row_count,
        tap,
        k0,
        kn,
        column,
        used,
        first_column,
        n0,
        n_count,
        widened,
    })
}

/// The longest that the innermost reduction axis may be, where that is known. Beside taps, it must be as long as that.
fn longest_run(c: &Contract) -> Option<i64> {
    if c.taps.is_empty() { c.k.extent.constant_bound() } else { c.k.extent.as_const() }
}

/// Rows of a tile that is packed, and elements between them.
fn packed_tile(c: &Contract, (left, wide): (Left, bool), columns: i64, depth: i64) -> (i64, i64) {
    // An odd number of cache lines.
    let line = 16 * left.step;
    let row_stride = if wide { ((depth / line) | 1) * line + 2 * line } else { STRIDE };
    let most = (WIDE_ROWS * left.step / row_stride).min(WIDE_SUMS / columns.max(1)).max(TILE);
    let most = if wide { most } else { TILE };
    let tile = match c.m.extent.upper_bound().and_then(|m| m.as_const()) {
        None => most,
        // Tiles of nearly equal height.
        Some(rows) => {
            let count = (rows.max(1) + most - 1) / most;
            (rows.max(1) + count - 1) / count
        }
    };
    (tile, row_stride)
}

/// The shape of the functions for tiles with wide vectors, if there are such; strides are still to be set.
fn tile_shape(kernel: &Kernel, c: &Contract, (vectors, quads): (Width, Quads), width: i64) -> Option<Tile> {
    let quads = (c.group() > 1).then_some(quads);
    let storage = match &c.b {
        // Four bytes are one element of the panel.
        Rhs::Packed { .. } if quads.is_some() => c.acc_dtype,
        Rhs::Packed { buffer, .. } => kernel.buffers[buffer.index()].dtype,
        Rhs::Strided(_) | Rhs::Sparse(_) => c.acc_dtype,
    };
    let tile = Tile {
        vectors,
        acc: c.acc_dtype,
        storage,
        quads,
        flip: false,
        width,
        row_stride: 0,
        row_step: (c.acc_dtype.bits() / 8) as i64,
        panel_step: width,
        lines: None,
        sum_stride: 0,
        prefetch: 0,
        taps: [(1, 0); 2],
        short: None,
        most_rows: MOST_ROWS,
        accumulate: false,
        part: None,
        result: None,
    };
    tile.is_supported().then_some(tile)
}

/// Width of panels that are packed on the fly.
fn strided_width(c: &Contract, vectors: Option<Width>) -> i64 {
    let Some(vectors) = vectors else { return STRIDED_WIDTH };
    let lanes = vectors.bytes() * 8 / c.acc_dtype.bits() as i64;
    let depth = c.taps.iter().fold(c.k.extent.clone(), |d, t| d * t.extent.clone()).constant_bound();
    let Some(n) = c.n.extent.constant_bound() else { return 3 * lanes };
    let width = i64::from(panel_width(n, lanes as u32, depth.unwrap_or(BLOCK)));
    // Panels that the columns fill need not be packed: the operand can be read where it is.
    if n % width != 0 && n % lanes == 0 { lanes } else { width }
}

/// Taps and elements of `k` in one block of the reduction.
fn blocks(taps: Option<i64>, k: Option<i64>, block: i64) -> (i64, i64) {
    match k {
        Some(k) if k > block => {
            let count = (k + block - 1) / block;
            (1, ((k + count - 1) / count + 7) / 8 * 8)
        }
        Some(k) => {
            let k = k.max(1);
            let fit = (block / k).max(1);
            match taps {
                Some(taps) => {
                    let count = (taps + fit - 1) / fit;
                    (((taps + count.max(1) - 1) / count.max(1)).max(1), k)
                }
                None => (fit, k),
            }
        }
        None => (1, block),
    }
}

/// Lanes of a vector of sums.
pub(super) fn lanes(acc: DType) -> i64 {
    if acc == DType::F64 { 2 } else { 4 }
}

impl Emitter<'_> {
    /// Emits a contraction.
    pub fn contract(&mut self, c: &Contract) -> Result<()> {
        let Some(plan) = self.plans.get(&c.acc).cloned() else {
            return self.unsupported("a contraction inside an operand");
        };
        if self.mode.is_some() {
            return self.unsupported("a contraction in a vectorized loop");
        }
        let plan = match plan {
            Plan::Dense(plan) => plan,
            Plan::Sparse(plan) => return self.sparse(c, &plan),
        };
        let Some(block) = plan.column_block else { return self.columns(c, &plan) };
        let begin = c.n.begin.clone() + Ix::Var(plan.n0);
        let part = Contract { n: Axis { var: c.n.var, begin, extent: Ix::Var(plan.n_count) }, ..c.clone() };
        let zero = self.i64(0);
        let n = self.ix(&c.n.extent)?;
        self.counted(zero, n, block, &[], |s, n0, _| {
            s.vars[plan.n0.index()] = Some(n0);
            let left = s.b.ins().isub(n, n0);
            let most = s.i64(block);
            s.vars[plan.n_count.index()] = Some(s.b.ins().smin(left, most));
            s.columns(&part, &plan)?;
            Ok(vec![])
        })?;
        Ok(())
    }

    /// The panels of the right operand, whose reduction has `total` elements.
    fn right(&mut self, c: &Contract, plan: &ContractPlan, total: Ix) -> Result<Panels> {
        let bytes = (c.acc_dtype.bits() / 8) as i64;
        let (width, storage, n0) = (plan.width, c.acc_dtype, Ix::Const(0));
        Ok(match (&c.b, &plan.in_place) {
            (Rhs::Packed { buffer, base, .. }, _) => {
                let storage = self.kernel.buffers[buffer.index()].dtype;
                let at = self.ix(base)?;
                let base = self.address(*buffer, at, (storage.bits() / 8) as i64);
                let (apart, n0) = (total.clone() * width, c.n.begin.clone());
                Panels { base, storage, width, step: width, apart, depth: total, n0 }
            }
            (Rhs::Sparse(_), _) => return self.unsupported("panels of a sparse operand"),
            (Rhs::Strided(_), Some(place)) => {
                for axis in [&c.n, &c.k] {
                    self.vars[axis.var.index()] = Some(self.ix(&axis.begin)?);
                }
                let first = self.ix(&place.index)?;
                let base = self.address(place.buffer, first, bytes);
                Panels { base, storage, width, step: place.stride, apart: width.into(), depth: total, n0 }
            }
            (Rhs::Strided(_), None) => {
                let Some(buffer) = plan.panels else { return self.unsupported("an operand without panels") };
                let base = self.bases[buffer.index()];
                let depth =
                    if plan.whole_panels { total } else { Ix::Const(plan.taps_per_block * plan.k_per_block) };
                Panels { base, storage, width, step: width, apart: depth.clone() * width, depth, n0 }
            }
        })
    }

    /// A range of columns, small enough for the scratch that is planned.
    fn columns(&mut self, c: &Contract, plan: &ContractPlan) -> Result<()> {
        let run = plan.left.padded_ix(&c.k.extent);
        let total = c.taps.iter().fold(run, |n, t| n * t.extent.clone());
        let panels = self.right(c, plan, total)?;
        let zero = self.i64(0);
        if let (Rhs::Strided(operand), true, None) = (&c.b, plan.whole_panels, &plan.in_place) {
            let taps = c.taps.iter().fold(Ix::Const(1), |n, t| n * t.extent.clone().max(0));
            let (taps, k) = (self.ix(&taps)?, self.ix(&c.k.extent)?);
            self.pack_panels(c, plan, operand, [zero, taps], [zero, k])?;
        }
        if let Some(streamed) = &plan.streamed {
            return self.streamed(c, streamed, &panels);
        }
        let extent = self.ix(&c.m.extent)?;
        self.counted(zero, extent, plan.tile, &[], |s, first, _| {
            let left = s.b.ins().isub(extent, first);
            let full = s.i64(plan.tile);
            let rows = s.b.ins().smin(left, full);
            s.tile(c, plan, &panels, first, rows)?;
            Ok(vec![])
        })?;
        Ok(())
    }

    /// One tile: rows `first .. first + rows` of the contraction's range.
    fn tile(
        &mut self,
        c: &Contract,
        plan: &ContractPlan,
        panels: &Panels,
        first: Value,
        rows: Value,
    ) -> Result<()> {
        let taps = c.taps.iter().fold(Ix::Const(1), |n, t| n * t.extent.clone().max(0));
        let k = c.k.extent.clone().max(0);
        let single = taps.as_const().is_some_and(|n| n > 0 && n <= plan.taps_per_block)
            && k.as_const().is_some_and(|n| n > 0 && n <= plan.k_per_block);
        let zero = self.i64(0);
        let (taps, k) = (self.ix(&taps)?, self.ix(&k)?);
        let tile = |t: [Value; 2], k: [Value; 2]| Block3 { rows: [first, rows], taps: t, k };
        if single {
            self.tile_block(c, plan, panels, &tile([zero, taps], [zero, k]), true)?;
        } else {
            self.clear_sums(c, plan, rows)?;
            self.counted(zero, taps, plan.taps_per_block, &[], |s, t0, _| {
                let left = s.b.ins().isub(taps, t0);
                let most = s.i64(plan.taps_per_block);
                let tn = s.b.ins().smin(left, most);
                s.counted(zero, k, plan.k_per_block, &[], |s, k0, _| {
                    let left = s.b.ins().isub(k, k0);
                    let most = s.i64(plan.k_per_block);
                    let kn = s.b.ins().smin(left, most);
                    s.tile_block(c, plan, panels, &tile([t0, tn], [k0, kn]), false)?;
                    Ok(vec![])
                })?;
                Ok(vec![])
            })?;
        }
        self.epilogue(c, plan, first, rows)
    }

    fn clear_sums(&mut self, c: &Contract, plan: &ContractPlan, rows: Value) -> Result<()> {
        let count = self.scaled(rows, plan.columns);
        let (zero, step) = (self.i64(0), lanes(c.acc_dtype));
        let base = self.bases[plan.sums.index()];
        let vector = self.zero_vector(c.acc_dtype);
        self.counted(zero, count, step, &[], |s, i, _| {
            let offset = s.scaled(i, (c.acc_dtype.bits() / 8) as i64);
            let at = s.b.ins().iadd(base, offset);
            s.b.ins().store(super::emit::flags(), vector, at, 0);
            Ok(vec![])
        })?;
        Ok(())
    }

    /// Packs one block of the reduction for the rows of a tile and multiplies it with every panel.
    fn tile_block(
        &mut self,
        c: &Contract,
        plan: &ContractPlan,
        panels: &Panels,
        block: &Block3,
        is_first: bool,
    ) -> Result<()> {
        let ([first, rows], [t0, tn], [k0, kn]) = (block.rows, block.taps, block.k);
        let repacked = match &c.b {
            Rhs::Strided(operand) if !plan.whole_panels => Some(operand),
            Rhs::Strided(_) | Rhs::Packed { .. } | Rhs::Sparse(_) => None,
        };
        if let Some(operand) = repacked {
            self.pack_panels(c, plan, operand, [t0, tn], [k0, kn])?;
        }
        self.vars[plan.k0.index()] = Some(k0);
        self.vars[plan.kn.index()] = Some(kn);
        let zero = self.i64(0);
        let m = self.row_axis(c, plan, first, rows)?;
        if c.taps.is_empty() && hoistable_guard(c).is_none() {
            self.vars[plan.tap.index()] = Some(zero);
            let body = vec![Stmt::For(Box::new(self.packed_row(c, plan, c.a.body.clone(), c.a.value)))];
            self.for_stmt(&For { axis: m, kind: LoopKind::Sequential, carried: vec![], body })?;
        } else {
            let (begin, end) = self.range(&m)?;
            self.counted(begin, end, 1, &[], |s, m, _| {
                s.vars[c.m.var.index()] = Some(m);
                s.each_tap(&c.taps, plan.tap, [t0, tn], |s| s.pack_row(c, plan))?;
                Ok(vec![])
            })?;
        }
        // Position of the block in the panels.
        let before = if repacked.is_some() {
            zero
        } else {
            let k_all = self.ix(&plan.left.padded_ix(&c.k.extent))?;
            let before = self.b.ins().imul(t0, k_all);
            self.b.ins().iadd(before, k0)
        };
        let steps = self.steps_of(plan.left, kn);
        let depth = if plan.taps_per_block > 1 { self.b.ins().imul(tn, steps) } else { steps };
        self.multiply_panels(c, plan, panels, rows, [before, depth], is_first)
    }

    /// Runs `f` for `tn` taps from `t0` on, with their variables and, counted from `t0`, `position` set.
    fn each_tap(
        &mut self,
        taps: &[Axis],
        position: Var,
        [t0, tn]: [Value; 2],
        f: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let zero = self.i64(0);
        if taps.is_empty() {
            self.vars[position.index()] = Some(zero);
            return f(self);
        }
        self.counted(zero, tn, 1, &[], |s, tap, _| {
            s.vars[position.index()] = Some(tap);
            let index = s.b.ins().iadd(t0, tap);
            s.set_taps(taps, index)?;
            f(s)?;
            Ok(vec![])
        })?;
        Ok(())
    }

    /// Sets the tap variables from the flattened tap index, the last axis fastest.
    fn set_taps(&mut self, taps: &[Axis], index: Value) -> Result<()> {
        let mut rest = index;
        for (i, tap) in taps.iter().enumerate().rev() {
            let begin = self.ix(&tap.begin)?;
            let position = if i == 0 {
                rest
            } else {
                let extent = self.ix(&tap.extent)?;
                let quotient = self.b.ins().udiv(rest, extent);
                let product = self.b.ins().imul(quotient, extent);
                let position = self.b.ins().isub(rest, product);
                rest = quotient;
                position
            };
            self.vars[tap.var.index()] = Some(self.b.ins().iadd(begin, position));
        }
        Ok(())
    }

    /// Packs `k0 .. k0 + kn` of one row and tap.
    fn pack_row(&mut self, c: &Contract, plan: &ContractPlan) -> Result<()> {
        let Some((dst, guard, plain)) = hoistable_guard(c) else {
            let row = self.packed_row(c, plan, c.a.body.clone(), c.a.value);
            return self.for_stmt(&row);
        };
        let inside = self.packed_row(c, plan, vec![Stmt::Let { dst, op: plain }], c.a.value);
        let padding = Stmt::Let { dst, op: Op::Const(guard.otherwise) };
        let outside = self.packed_row(c, plan, vec![padding], c.a.value);
        let cond = self.guard_holds(guard)?;
        self.branch(cond, |s| s.for_stmt(&inside), |s| s.for_stmt(&outside))
    }

    /// The loop that packs `k0 .. k0 + kn` of one row and tap.
    fn packed_row(&self, c: &Contract, plan: &ContractPlan, mut body: Block, value: Val) -> For {
        let position = Ix::Var(c.k.var) - c.k.begin.clone() - Ix::Var(plan.k0);
        let row = Ix::Var(c.m.var) - Ix::Var(plan.first_row);
        let index = row * plan.row_stride + Ix::Var(plan.tap) * plan.k_per_block + position;
        // The extent is often known although the block's is a run-time minimum.
        let extent = match c.k.extent.as_const() {
            Some(k) if k <= plan.k_per_block || k % plan.k_per_block == 0 => {
                Ix::Const(k.min(plan.k_per_block))
            }
            _ => Ix::Var(plan.kn),
        };
        let axis = Axis { var: c.k.var, begin: c.k.begin.clone() + Ix::Var(plan.k0), extent };
        let other = self.kernel.dtype(c.a.value) != plan.left.dtype;
        let value = match plan.widened.map(|(a, _)| a).filter(|_| other) {
            Some(dst) => {
                body.push(Stmt::Let { dst, op: Op::Cast(value) });
                dst
            }
            None => value,
        };
        body.push(Stmt::Store { buffer: plan.rows, index, value });
        For { axis, kind: LoopKind::Vector, carried: vec![], body }
    }

    /// The function for tiles with wide vectors, if there is one.
    fn tile_function(&self, c: &Contract, plan: &ContractPlan) -> Option<Tile> {
        let quads = Quads::of(self.tier).of_vectors();
        let shape = tile_shape(&self.kernel, c, (self.width?, quads), plan.width)?;
        let bytes = (c.acc_dtype.bits() / 8) as i64;
        let prefetch = shape.prefetch_for(shape.tiles(plan.tile));
        Some(Tile {
            row_stride: plan.row_stride * plan.left.bytes(),
            sum_stride: plan.columns * bytes,
            prefetch,
            part: shape.part_of(plan.taps_per_block * plan.k_per_block),
            ..shape
        })
    }

    /// Multiplies the packed rows with the panels: `depth` steps from position `before` of the reduction on.
    fn multiply_panels(
        &mut self,
        c: &Contract,
        plan: &ContractPlan,
        panels: &Panels,
        rows: Value,
        [before, depth]: [Value; 2],
        is_first: bool,
    ) -> Result<()> {
        let step = lanes(c.acc_dtype);
        let bytes = (c.acc_dtype.bits() / 8) as i64;
        let storage_bytes = (panels.storage.bits() / 8) as i64;
        // Bytes of a column's elements side by side.
        let column_bytes = storage_bytes * i64::from(c.group());
        let vectors = panels.width / step;
        let panel_bytes = self.ix(&(panels.depth.clone() * (panels.width * storage_bytes)))?;
        let row_bytes = self.i64(plan.columns * bytes);
        let offset = self.scaled(before, panels.width * storage_bytes);
        let start = self.b.ins().iadd(panels.base, offset);
        let n = self.ix(&c.n.extent)?;
        let n0 = self.ix(&panels.n0)?;
        let first_panel = self.b.ins().udiv_imm_u(n0, panels.width);
        let skip = self.b.ins().imul(first_panel, panel_bytes);
        let start = self.b.ins().iadd(start, skip);
        let zero = self.i64(0);
        let row_base = self.bases[plan.rows.index()];
        let sum_base = self.bases[plan.sums.index()];
        let tile = self.tile_function(c, plan).map(|t| Tile { accumulate: !is_first, ..t });
        self.counted(zero, n, panels.width, &[start], |s, column, args| {
            let panel = args[0];
            if let Some(tile) = tile {
                let skip = s.scaled(column, bytes);
                let sums = s.b.ins().iadd(sum_base, skip);
                let next = s.b.ins().iadd(panel, panel_bytes);
                s.call(Callee::Tile(tile), &[row_base, panel, sums, next, depth, rows]);
                return Ok(vec![next]);
            }
            let left = s.b.ins().isub(n, column);
            let left = s.b.ins().iadd_imm_s(left, step - 1);
            let left = s.b.ins().udiv_imm_u(left, step);
            let most = s.i64(vectors);
            let used = s.b.ins().smin(left, most);
            let skip = s.scaled(column, bytes);
            let sums = s.b.ins().iadd(sum_base, skip);
            let mut row = zero;
            for height in super::micro::HEIGHTS {
                let wide = super::micro::vectors(height, vectors);
                let limit = s.b.ins().iadd_imm_s(rows, 1 - height);
                (row, _) = s.counted(row, limit, height, &[], |s, row, _| {
                    let skip = s.scaled(row, STRIDE * plan.left.bytes());
                    let a = s.b.ins().iadd(row_base, skip);
                    let skip = s.b.ins().imul(row, row_bytes);
                    let sums = s.b.ins().iadd(sums, skip);
                    s.counted(zero, used, wide, &[], |s, vector, _| {
                        let skip = s.scaled(vector, step * column_bytes);
                        let b = s.b.ins().iadd(panel, skip);
                        let skip = s.scaled(vector, step * bytes);
                        let sums = s.b.ins().iadd(sums, skip);
                        let micro = super::micro::Micro {
                            acc: c.acc_dtype,
                            storage: panels.storage,
                            quads: c.group() > 1,
                            width: panels.width,
                            rows: height,
                            vectors: wide,
                            accumulate: !is_first,
                        };
                        s.call(Callee::Micro(micro), &[a, b, sums, row_bytes, depth]);
                        Ok(vec![])
                    })?;
                    Ok(vec![])
                })?;
            }
            Ok(vec![s.b.ins().iadd(panel, panel_bytes)])
        })?;
        Ok(())
    }

    /// Runs the epilogue over the sums of a tile.
    fn epilogue(&mut self, c: &Contract, plan: &ContractPlan, first: Value, rows: Value) -> Result<()> {
        let m = self.row_axis(c, plan, first, rows)?;
        let row = Ix::Var(c.m.var) - Ix::Var(plan.first_row);
        let index = row * plan.columns + (Ix::Var(c.n.var) - c.n.begin.clone());
        let mut body = vec![Stmt::Let { dst: c.acc, op: Op::Load { buffer: plan.sums, index, guard: None } }];
        body.extend(c.epilogue.iter().cloned());
        let columns = For { axis: c.n.clone(), kind: LoopKind::Vector, carried: vec![], body };
        let body = vec![Stmt::For(Box::new(columns))];
        self.for_stmt(&For { axis: m, kind: LoopKind::Sequential, carried: vec![], body })
    }

    /// The rows of a tile as a loop over the contraction's row variable.
    fn row_axis(&mut self, c: &Contract, plan: &ContractPlan, first: Value, rows: Value) -> Result<Axis> {
        let begin = self.ix(&c.m.begin)?;
        self.vars[plan.first_row.index()] = Some(self.b.ins().iadd(begin, first));
        self.vars[plan.row_count.index()] = Some(rows);
        Ok(Axis { var: c.m.var, begin: Ix::Var(plan.first_row), extent: Ix::Var(plan.row_count) })
    }

    /// A vector of zero sums.
    pub fn zero_vector(&mut self, acc: DType) -> Value {
        match acc {
            DType::F64 => {
                let zero = self.b.ins().f64const(0.0);
                self.b.ins().splat(types::F64X2, zero)
            }
            DType::F32 => self.fconst(types::F32X4, 0.0),
            _ => self.iconst(types::I32X4, 0),
        }
    }
}

/// Where the left operand is one guarded load whose guard does not depend on `k`: its parts.
fn hoistable_guard(c: &Contract) -> Option<(Val, &Guard, Op)> {
    let [Stmt::Let { dst, op: Op::Load { buffer, index, guard: Some(guard) } }] = c.a.body.as_slice() else {
        return None;
    };
    let depends = |ix: &Ix| ix.uses(c.k.var);
    if guard.bounds.iter().any(|b| depends(&b.index) || depends(&b.lower) || depends(&b.upper)) {
        return None;
    }
    Some((*dst, guard, Op::Load { buffer: *buffer, index: index.clone(), guard: None }))
}

/// Whether the operand's loads are contiguous in `k` and not in `n`.
fn k_contiguous(c: &Contract, operand: &Operand) -> bool {
    operand.body.iter().any(|stmt| match stmt {
        Stmt::Let { op: Op::Load { index, .. }, .. } => {
            let along = |var: Var| index.linear(var, &|_| true).map(|l| l.coefficient);
            along(c.k.var) == Some(Ix::Const(1)) && along(c.n.var) != Some(Ix::Const(1))
        }
        _ => false,
    })
}
