//! Contractions with wide vectors whose left operand is rows in memory: every panel is read once for a block of rows.
//!
//! ```text
//! for blocks of rows:                          // what they read fits in the second-level cache
//!     (copy what they read, with padding)
//!     for blocks of the reduction:             // a panel's part fits there too; usually one
//!         (or pack that part of the rows)
//!         for panels:
//!             for chunks of rows:              // their sums fit in the first-level cache
//!                 sums (+)= rows x panel       // tile functions; they ask for the next panel's lines
//!                 epilogue over the sums, in the last block of the reduction
//! ```

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, Value};
use kiln_ir::DType;

use super::Panels;
use super::finished::{Names, is_finished};
use super::left::Left;
use super::narrow::narrow_tiles;
use super::products::products;
use super::results::{Stored, last_store};
use super::rows::{Place, Rows, rows};
use crate::kir::{
    Access, Axis, Buffer, BufferId, Contract, For, Ix, Kernel, LoopKind, Op, Rhs, Stmt, Val, Var,
};
use crate::lower::clif::emit::{Callee, Emitter, Result};
use crate::lower::wide::tile::{LINE, MOST_SHORT, Tile, UNROLL};
use crate::schedule::even;

/// Elements that a block of rows reads, or steps of several bytes: 384 KiB of f32 in a second-level cache of 1 MiB or more.
const BLOCK_ELEMENTS: i64 = 3 << 15;

/// The same for rows that are copied with their padding: all lines of a small image, since one more block is one more pass
/// over all panels.
const COPY_ELEMENTS: i64 = 1 << 17;

/// The same for rows that are read in place and whole: one more pass over all panels would cost more than rows that fall
/// out of a small cache.
const PLACE_ELEMENTS: i64 = 7 << 15;

/// Elements of a panel's part for one block of the reduction: 320 KiB of f32.
const PART_ELEMENTS: i64 = 5 << 14;

/// Rows that a block should have: panels come from memory once for so many.
const GOAL_ROWS: i64 = 128;

/// Where the number of rows shows at run time: up to so many, a call asks for lines of the next panel at the pace that
/// the second number of rows needs.
const PACES: [(i64, i64); 2] = [(24, 16), (80, 40)];

/// Rows that a block counts as having where their number shows at run time: few rows in two blocks of the reduction take
/// up to a fifth longer, since their sums go through memory while no panel comes.
const SHOWN_ROWS: i64 = 64;

/// Rows of a chunk: their sums stay in the first-level cache until the epilogue.
const CHUNK_ROWS: i64 = 64;

/// What the lowering adds to the kernel for one such contraction.
#[derive(Clone, Debug)]
pub(super) struct Streamed {
    pub(super) rows: Rows,
    /// How they hold elements.
    pub(super) left: Left,
    tile: Tile,
    /// The same for few rows, where their number is not known: most rows, tile; ascending.
    pub(super) few: Vec<(i64, Tile)>,
    /// The same for a last panel that lacks columns, narrowest first.
    pub(super) narrow: Vec<Tile>,
    /// Outer rows of a block, or inner ones where there is one level.
    pub(super) block: i64,
    /// Outer and inner rows of a chunk.
    chunk: [i64; 2],
    /// Outer taps, and elements of a tap's run, in one block of the reduction.
    pub(super) part: [i64; 2],
    sums: BufferId,
    /// Whether all panels have all of their columns.
    pub(super) whole_panels: bool,
    /// Whether the tile functions end with the epilogue; otherwise it is a loop over sums.
    finished: bool,
    /// Whether a call does all of the reduction; the sums of one tile at a time are in memory if it is finished, too.
    single: bool,
    /// Where the epilogue stores, if tile functions ask for its lines.
    result: Option<Stored>,
    copy: Option<BufferId>,
    /// The chunk.
    pub(super) names: Names,
    /// Row and column of the first sum.
    origin: [Var; 2],
    /// First element of the run that is packed and number of elements.
    pub(super) k0: Var,
    pub(super) kn: Var,
    /// Outer and inner rows of the block.
    pub(super) counts: [Var; 2],
    /// A left element as i32, where sums are.
    pub(super) widened: Option<Val>,
}

impl Streamed {
    /// Rows of a call of a tile function, the last ones aside.
    fn call_rows(&self) -> i64 {
        let lines = if self.tile.lines.is_some() { self.chunk[0] } else { 1 };
        lines * self.chunk[1]
    }
}

/// The plan for a contraction of at most `columns` columns; `None` where it is not of this kind.
pub(super) fn plan(kernel: &mut Kernel, c: &Contract, mut tile: Tile, columns: i64) -> Option<Streamed> {
    let width = tile.width;
    let left = Left::of(c, true);
    let mut rows = rows(kernel, c, left)?;
    let (bytes, sum_bytes) = (left.bytes(), (c.acc_dtype.bits() / 8) as i64);
    let (most, line) = (c.m.extent.upper_bound().and_then(|m| m.as_const()), rows.split.unwrap_or(1));
    let units = most.map(|m| (m + line - 1) / line);
    if let Place::Copy(_) = rows.place {
        // Which taps join depends on the copy's layout.
        rows.lay_out(copy_block(&rows, left, units));
    }
    let part = parts(&rows, left, width, counted_rows(c, most));
    rows.pack(part[1], bytes);
    let block = block(&rows, left, units, part);
    let whole = total_taps(&rows) <= part[0] && rows.run <= part[1];
    (whole || rows.length.is_none()).then_some(())?;
    let block_rows = block * line;
    let sum_columns = if whole { width } else { columns };
    tile.row_step = rows.step * bytes * left.step;
    tile.sum_stride = sum_columns * sum_bytes;
    tile.flip = rows.flip;
    tile.quads = tile.quads.map(|quads| products(quads, &rows, (left, part), most));
    rows.spread(&mut tile, block, most, bytes);
    let mut depth = part[1] / left.step;
    if whole && let Some(taps) = inner_taps(&rows.taps, bytes) {
        tile.taps = taps;
        depth *= total_taps(&rows);
        tile.short = short_run(&rows, left).filter(|_| tile.amx_steps().is_none());
    }
    let single = whole && total_taps(&rows) == tile.taps[0].0 * tile.taps[1].0;
    tile.part = tile.part_of(depth);
    let stored = last_store(kernel, c).filter(|_| whole && total_taps(&rows) == 1);
    let result = stored.filter(|stored| stored.asked_by(&mut tile, depth, sum_bytes));
    let names = Names::new(kernel);
    // Blocks of columns are whole panels.
    let whole_panels = super::rows::is_multiple(&c.n.extent, width);
    let finished = is_finished(kernel, c, (&tile, whole_panels), names, rows.buffer());
    let chunk = chunk(&rows, block, finished);
    let few = ask_ahead(&mut tile, c, &rows, block);
    let mut narrow = if single { narrow_tiles(&tile, &c.n.extent) } else { vec![] };
    narrow.retain(|tile| is_finished(kernel, c, (tile, whole_panels), names, rows.buffer()) == finished);
    let mut scratch = |dtype: DType, len: i64| {
        kernel.buffers.push(Buffer { dtype, access: Access::Scratch { len: Ix::Const(len) } });
        BufferId(kernel.buffers.len() as u32 - 1)
    };
    let copy = rows.copied(left).map(|dtype| scratch(dtype, rows.copy_len(block)));
    let kept = match whole {
        true if finished && single => tallest(narrow.iter().chain([&tile])),
        true => chunk[0] * chunk[1],
        false => block_rows,
    };
    let sums = scratch(c.acc_dtype, sum_columns * kept);
    let widened = widened(kernel, c);
    let mut var = || {
        kernel.vars += 1;
        Var(kernel.vars - 1)
    };
    Some(Streamed {
        widened,
        left,
        tile,
        few,
        narrow,
        block,
        chunk,
        part,
        sums,
        copy,
        whole_panels,
        finished,
        single,
        result,
        names,
        origin: [var(), var()],
        k0: var(),
        kn: var(),
        counts: [var(), var()],
        rows,
    })
}

/// Steps of a run, where they are known and few.
fn short_run(rows: &Rows, left: Left) -> Option<i64> {
    rows.known_run().map(|run| run / left.step).filter(|run| (1..=MOST_SHORT).contains(run))
}

/// Rows of the tallest tile.
fn tallest<'a>(tiles: impl Iterator<Item = &'a Tile>) -> i64 {
    tiles.map(Tile::height).max().unwrap_or(0) as i64
}

/// Sets how many lines of the next panel the tile asks for; gives tiles for few rows, where their number shows at run time
/// only.
fn ask_ahead(tile: &mut Tile, c: &Contract, rows: &Rows, block: i64) -> Vec<(i64, Tile)> {
    // What was packed just now is in the cache.
    if !matches!(c.b, Rhs::Packed { .. }) {
        return vec![];
    }
    let line = rows.split.unwrap_or(1);
    // Panels are read once for every call.
    let calls = if rows.split.is_some() && tile.lines.is_none() { block } else { 1 };
    tile.prefetch = tile.prefetch_for(calls * tile.tiles(if calls > 1 { line } else { block * line }));
    let unknown = c.m.extent.upper_bound().and_then(|m| m.as_const()).is_none();
    let symbolic = c.m.extent.as_const().is_none() && unknown && rows.split.is_none();
    let tile = *tile;
    let paced =
        |(most, rows): (i64, i64)| (most, Tile { prefetch: tile.prefetch_for(tile.tiles(rows)), ..tile });
    PACES.into_iter().filter(|_| symbolic).map(paced).collect()
}

/// A value for left elements as i32, where sums are.
fn widened(kernel: &mut Kernel, c: &Contract) -> Option<Val> {
    (c.acc_dtype == DType::I32 && c.group() == 1).then(|| {
        kernel.vals.push(DType::I32);
        Val(kernel.vals.len() as u32 - 1)
    })
}

/// Outer and inner rows of a chunk in blocks of `block`.
fn chunk(rows: &Rows, block: i64, finished: bool) -> [i64; 2] {
    match rows.split {
        Some(line) if finished => [block, line],
        Some(line) if line <= CHUNK_ROWS => [(CHUNK_ROWS / line).min(block), line],
        Some(line) => [1, even(line, CHUNK_ROWS, 1)],
        None if finished => [1, block],
        None => [1, even(block, CHUNK_ROWS, 1)],
    }
}

/// Taps that a tile function runs through by itself; `None` for too many axes.
fn inner_taps(taps: &[(i64, i64)], bytes: i64) -> Option<[(i64, i64); 2]> {
    let scaled = |(extent, stride): (i64, i64)| (extent, stride * bytes);
    match *taps {
        [] => Some([(1, 0), (1, 0)]),
        [a] => Some([(1, 0), scaled(a)]),
        [a, b] => Some([scaled(a), scaled(b)]),
        _ => None,
    }
    .filter(|taps| taps.iter().all(|(extent, stride)| extent * stride < i64::from(i32::MAX)))
}

fn total_taps(rows: &Rows) -> i64 {
    rows.taps.iter().map(|t| t.0).product()
}

/// The rows, of which there are `most`, that a block counts as having.
fn counted_rows(c: &Contract, most: Option<i64>) -> Option<i64> {
    if c.m.extent.as_const().is_some() { most } else { most.map(|most| most.min(SHOWN_ROWS)) }
}

/// Taps and elements of a run in one block of the reduction.
fn parts(rows: &Rows, left: Left, width: i64, count: Option<i64>) -> [i64; 2] {
    let by_panel = PART_ELEMENTS / width;
    let by_rows = match rows.place {
        Place::Buffer(..) | Place::Packed => BLOCK_ELEMENTS / count.unwrap_or(GOAL_ROWS).clamp(1, GOAL_ROWS),
        Place::Copy(_) => by_panel,
    };
    let most = by_panel.min(by_rows).max(UNROLL) * left.step;
    if rows.run > most {
        [1, even(rows.run, most, UNROLL * left.step)]
    } else {
        [even(total_taps(rows), (most / rows.run.max(1)).max(1), 1), rows.run]
    }
}

/// Outer rows of a block, or inner ones where there is one level.
fn block(rows: &Rows, left: Left, units: Option<i64>, [taps, run]: [i64; 2]) -> i64 {
    let step = left.step;
    match rows.place {
        Place::Copy(_) => copy_block(rows, left, units),
        Place::Packed => {
            most(units, |count| rows.copy_len(count) <= (BLOCK_ELEMENTS + BLOCK_ELEMENTS / 8) * step)
        }
        Place::Buffer(..) => {
            let row = rows.split.unwrap_or(1) * taps * run;
            most(units, |count| count.saturating_mul(row) <= PLACE_ELEMENTS * step)
        }
    }
}

/// The same where rows are copied with their padding.
fn copy_block(rows: &Rows, left: Left, units: Option<i64>) -> i64 {
    most(units, |count| rows.copy_len(count) <= COPY_ELEMENTS * left.step)
}

/// The largest count that fits, in parts of nearly equal size; at least 1.
fn most(units: Option<i64>, fits: impl Fn(i64) -> bool) -> i64 {
    let limit = units.unwrap_or(BLOCK_ELEMENTS).clamp(1, BLOCK_ELEMENTS);
    let (mut low, mut high) = (1, limit);
    while low < high {
        let middle = (low + high + 1) / 2;
        if fits(middle) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    units.map_or(low, |units| even(units, low, 1))
}

/// Where the panels' parts of a block of the reduction are.
pub(super) struct Part {
    /// First tap and number of taps.
    pub(super) taps: [Value; 2],
    /// First element of the runs and number of elements.
    pub(super) run: [Value; 2],
    /// Whether all of the reduction is in it.
    whole: bool,
}

/// Where the panels go on after the last one of a part of the reduction. Addresses to ask for ahead, not more: results do
/// not depend on them. The block of rows is taken for the last one; before others, this range of columns begins again.
struct PartAfter {
    /// Whether the reduction ends: then the next range of columns begins.
    is_last: Value,
    /// The first panel's next part.
    begin: Value,
    /// Bytes from the beginning of a panel to this part of it.
    skip: Value,
}

/// Rows of a block, as values.
pub(super) struct BlockRows {
    /// First row of the contraction's range.
    pub(super) first: Value,
    /// First outer and inner row.
    at: [Value; 2],
    /// Number of outer and inner rows.
    pub(super) count: [Value; 2],
}

impl Emitter<'_> {
    /// A range of columns.
    pub(super) fn streamed(&mut self, c: &Contract, plan: &Streamed, panels: &Panels) -> Result<()> {
        let zero = self.i64(0);
        let (begin, extent) = (self.ix(&c.m.begin)?, self.ix(&c.m.extent)?);
        let line = plan.rows.split.unwrap_or(1);
        let step = plan.block * line;
        let known = c.m.extent.as_const();
        self.parts(zero, extent, (known, step), |s, at, count| {
            let first = s.b.ins().iadd(begin, at);
            let block = match plan.rows.split {
                Some(line) => {
                    let outer = s.b.ins().udiv_imm_u(first, line);
                    let lines = s.b.ins().udiv_imm_u(count, line);
                    BlockRows { first, at: [outer, zero], count: [lines, s.i64(line)] }
                }
                None => BlockRows { first, at: [zero, first], count: [s.i64(1), count] },
            };
            s.row_block(c, plan, panels, &block)
        })
    }

    /// `f` for parts of at most `step` of `begin .. begin + count`, as begin and count; no loop where one part is all.
    fn parts(
        &mut self,
        begin: Value,
        count: Value,
        (known, step): (Option<i64>, i64),
        f: impl FnOnce(&mut Self, Value, Value) -> Result<()>,
    ) -> Result<()> {
        if known.is_some_and(|n| n > 0 && n <= step) {
            return f(self, begin, count);
        }
        let end = self.b.ins().iadd(begin, count);
        self.counted(begin, end, step, &[], |s, at, _| {
            let n = match known {
                Some(n) if n % step == 0 => s.i64(step),
                _ => {
                    let left = s.b.ins().isub(end, at);
                    let most = s.i64(step);
                    s.b.ins().smin(left, most)
                }
            };
            f(s, at, n)?;
            Ok(vec![])
        })?;
        Ok(())
    }

    fn row_block(&mut self, c: &Contract, plan: &Streamed, panels: &Panels, block: &BlockRows) -> Result<()> {
        let zero = self.i64(0);
        for (var, value) in plan.counts.iter().zip(block.count) {
            self.vars[var.index()] = Some(value);
        }
        if let (Place::Copy(patch), Some(buffer)) = (&plan.rows.place, plan.copy) {
            for (var, value) in patch.first.iter().zip(block.at) {
                self.vars[var.index()] = Some(value);
            }
            self.copy_rows(c, plan, patch, buffer)?;
        }
        let (taps, run) = (total_taps(&plan.rows), plan.rows.run);
        let (tap_count, run_count) = (self.i64(taps), self.run_length(&plan.rows)?);
        let whole = taps <= plan.part[0] && run <= plan.part[1];
        // A run that is taken whole is one part, however long it is.
        let known = Some(run).filter(|_| whole || plan.rows.length.is_none());
        self.parts(zero, tap_count, (Some(taps), plan.part[0]), |s, t0, tn| {
            s.parts(zero, run_count, (known, plan.part[1]), |s, r0, rn| {
                s.panels(c, plan, panels, block, &Part { taps: [t0, tn], run: [r0, rn], whole })
            })
        })
    }

    /// Elements of a run.
    fn run_length(&mut self, rows: &Rows) -> Result<Value> {
        match &rows.length {
            Some(length) => self.ix(&length.clone().max(0)),
            None => Ok(self.i64(rows.run)),
        }
    }

    /// One block of the reduction with every panel.
    fn panels(
        &mut self,
        c: &Contract,
        plan: &Streamed,
        panels: &Panels,
        block: &BlockRows,
        part: &Part,
    ) -> Result<()> {
        let zero = self.i64(0);
        if let (Place::Packed, Some(buffer)) = (&plan.rows.place, plan.copy) {
            self.pack_rows(c, plan, buffer, block, part)?;
        }
        let storage_bytes = (panels.storage.bits() / 8) as i64;
        let panel_bytes = self.ix(&(panels.apart.clone() * storage_bytes))?;
        let first_panel = {
            let n0 = self.ix(&panels.n0)?;
            let panel = self.b.ins().udiv_imm_u(n0, panels.width);
            let skip = self.b.ins().imul(panel, panel_bytes);
            self.b.ins().iadd(panels.base, skip)
        };
        let position = self.scaled(part.taps[0], plan.rows.run);
        let position = self.b.ins().iadd(position, part.run[0]);
        let skip = self.scaled(position, panels.step * storage_bytes);
        let start = self.b.ins().iadd(first_panel, skip);
        let n = self.ix(&c.n.extent)?;
        let then = match part.whole {
            true => None,
            false => Some(self.part_after(
                plan,
                part,
                (position, skip),
                (first_panel, panels.step * storage_bytes),
            )),
        };
        let [rows, inner] = block.count;
        let known = plan.rows.split;
        self.counted(zero, n, panels.width, &[start], |s, column, args| {
            let panel = args[0];
            let following = s.b.ins().iadd(panel, panel_bytes);
            let next = match &then {
                None => following,
                Some(then) => s.read_next(then, following, (column, panels.width, n)),
            };
            let known_rows = if known.is_some() { None } else { Some(1) };
            s.parts(zero, rows, (known_rows, plan.chunk[0]), |s, o0, on| {
                s.parts(zero, inner, (known, plan.chunk[1]), |s, i0, n| {
                    let chunk = Chunk { column, panel, next, outer: [o0, on], inner: [i0, n] };
                    s.chunk(c, plan, panels, block, part, &chunk)
                })
            })?;
            Ok(vec![following])
        })?;
        Ok(())
    }

    /// What follows the last panel of a part that begins at a position, so many bytes into its panels, of which the first
    /// begins there and an element of the reduction has so many bytes.
    fn part_after(
        &mut self,
        plan: &Streamed,
        part: &Part,
        (position, skip): (Value, Value),
        (first_panel, step): (Value, i64),
    ) -> PartAfter {
        let count = self.b.ins().imul(part.taps[1], part.run[1]);
        let end = self.b.ins().iadd(position, count);
        let is_last = self.b.ins().icmp_imm_s(
            IntCC::SignedGreaterThanOrEqual,
            end,
            total_taps(&plan.rows).saturating_mul(plan.rows.run),
        );
        let end = self.scaled(end, step);
        let begin = self.b.ins().iadd(first_panel, end);
        PartAfter { is_last, begin, skip }
    }

    /// Where the panel that is read after one of these columns begins, to ask for it ahead, from what follows this panel's
    /// part in memory.
    fn read_next(
        &mut self,
        then: &PartAfter,
        following: Value,
        (column, width, n): (Value, i64, Value),
    ) -> Value {
        let end = self.b.ins().iadd_imm_s(column, width);
        let is_last = self.b.ins().icmp(IntCC::SignedGreaterThanOrEqual, end, n);
        let whole = self.b.ins().isub(following, then.skip);
        let after = self.b.ins().select(then.is_last, whole, then.begin);
        self.b.ins().select(is_last, after, following)
    }

    fn chunk(
        &mut self,
        c: &Contract,
        plan: &Streamed,
        panels: &Panels,
        block: &BlockRows,
        part: &Part,
        chunk: &Chunk,
    ) -> Result<()> {
        let line = plan.rows.split.unwrap_or(1);
        let bytes = (c.acc_dtype.bits() / 8) as i64;
        let zero = self.i64(0);
        // Position of the chunk's first row in the block.
        let position = self.scaled(chunk.outer[0], line);
        let position = self.b.ins().iadd(position, chunk.inner[0]);
        let first = self.b.ins().iadd(block.first, position);
        let base = self.bases[plan.sums.index()];
        let (sums, origin) = if part.whole {
            (base, [first, chunk.column])
        } else {
            let rows = self.scaled(position, plan.tile.sum_stride);
            let columns = self.scaled(chunk.column, bytes);
            let at = self.b.ins().iadd(base, rows);
            (self.b.ins().iadd(at, columns), [block.first, zero])
        };
        // Each call asks for its share of the next panel.
        let tile = &plan.tile;
        let depth = plan.part[0] * plan.part[1] / plan.left.step;
        let call = plan.call_rows();
        let asked = tile.prefetch * (depth / tile.unroll()) * LINE * tile.tiles(call) / call.max(1);
        let ahead = self.scaled(position, asked);
        let asked = self.i64(asked);
        let next = self.b.ins().iadd(chunk.next, ahead);
        self.vars[plan.names.column.index()] = Some(chunk.column);
        let rows = if plan.chunk[0] > 1 { self.scaled(chunk.outer[1], line) } else { chunk.inner[1] };
        if tile.lines.is_some() {
            let at = self.row_address(plan, block, [chunk.outer[0], chunk.inner[0]])?;
            self.vars[plan.names.first.index()] = Some(first);
            self.vars[plan.names.rows.index()] = Some(rows);
            self.tiles(c, plan, panels, part, [at, chunk.panel, sums, next, chunk.outer[1]])?;
        } else {
            self.lines(c, plan, panels, (block, part, chunk), [first, sums, next, asked])?;
        }
        if plan.finished {
            return Ok(());
        }
        let values = [
            (plan.names.first, first),
            (plan.names.rows, rows),
            (plan.origin[0], origin[0]),
            (plan.origin[1], origin[1]),
        ];
        for (var, value) in values {
            self.vars[var.index()] = Some(value);
        }
        if part.whole {
            return self.chunk_epilogue(c, plan);
        }
        let tap_end = self.b.ins().iadd(part.taps[0], part.taps[1]);
        let last = self.is_end(plan, tap_end, part);
        self.branch(last, |s| s.chunk_epilogue(c, plan), |_| Ok(()))
    }

    /// Calls for the lines of a chunk one by one: from the first row, its sums and the lines of the next panel to ask for,
    /// of which each row asks for so many bytes.
    fn lines(
        &mut self,
        c: &Contract,
        plan: &Streamed,
        panels: &Panels,
        (block, part, chunk): (&BlockRows, &Part, &Chunk),
        [first, sums, next, asked]: [Value; 4],
    ) -> Result<()> {
        let line = plan.rows.split.unwrap_or(1);
        let zero = self.i64(0);
        self.counted(zero, chunk.outer[1], 1, &[], |s, o, _| {
            let outer = s.b.ins().iadd(chunk.outer[0], o);
            let rows = s.row_address(plan, block, [outer, chunk.inner[0]])?;
            let before = s.scaled(o, line);
            let sums = if plan.finished && plan.single {
                sums
            } else {
                let skip = s.scaled(before, plan.tile.sum_stride);
                s.b.ins().iadd(sums, skip)
            };
            let skip = s.b.ins().imul(before, asked);
            let next = s.b.ins().iadd(next, skip);
            let first = s.b.ins().iadd(first, before);
            s.vars[plan.names.first.index()] = Some(first);
            s.vars[plan.names.rows.index()] = Some(chunk.inner[1]);
            s.tiles(c, plan, panels, part, [rows, chunk.panel, sums, next, chunk.inner[1]])?;
            Ok(vec![])
        })?;
        Ok(())
    }

    /// Whether the taps up to `tap_end` with the part's elements are the end of the reduction.
    fn is_end(&mut self, plan: &Streamed, tap_end: Value, part: &Part) -> Value {
        let run_end = self.b.ins().iadd(part.run[0], part.run[1]);
        let last_tap = self.b.ins().icmp_imm_s(IntCC::Equal, tap_end, total_taps(&plan.rows));
        let last_run = self.b.ins().icmp_imm_s(IntCC::Equal, run_end, plan.rows.run);
        self.b.ins().band(last_tap, last_run)
    }

    /// Address of the first element of a row of the block.
    fn row_address(
        &mut self,
        plan: &Streamed,
        block: &BlockRows,
        [outer, inner]: [Value; 2],
    ) -> Result<Value> {
        let bytes = plan.left.bytes();
        match (&plan.rows.place, plan.copy) {
            (Place::Buffer(buffer, index), _) => {
                let outer = self.b.ins().iadd(block.at[0], outer);
                let inner = self.b.ins().iadd(block.at[1], inner);
                self.vars[plan.rows.outer.index()] = Some(outer);
                self.vars[plan.rows.inner.index()] = Some(inner);
                let at = self.ix(index)?;
                Ok(self.address(*buffer, at, bytes))
            }
            (Place::Packed, Some(copy)) => {
                let at = self.scaled(inner, plan.rows.inner_stride);
                Ok(self.address(copy, at, bytes))
            }
            (Place::Copy(_), Some(copy)) => {
                let outer = self.scaled(outer, plan.rows.outer_stride);
                let inner = self.scaled(inner, plan.rows.inner_stride);
                let at = self.b.ins().iadd(outer, inner);
                Ok(self.address(copy, at, bytes))
            }
            (Place::Copy(_) | Place::Packed, None) => self.unsupported("a copy without a buffer"),
        }
    }

    /// The taps of a block of the reduction, for the rows of a line.
    fn tiles(
        &mut self,
        c: &Contract,
        plan: &Streamed,
        panels: &Panels,
        part: &Part,
        [rows, panel, sums, next, count]: [Value; 5],
    ) -> Result<()> {
        let bytes = plan.left.bytes();
        let storage_bytes = (panels.storage.bits() / 8) as i64;
        let rows = match plan.rows.place {
            // The copy holds this part of the runs only.
            Place::Packed => rows,
            Place::Buffer(..) | Place::Copy(_) => {
                let skip = self.scaled(part.run[0], plan.rows.step * bytes);
                self.b.ins().iadd(rows, skip)
            }
        };
        let taps = total_taps(&plan.rows);
        let depth = self.steps_of(plan.left, part.run[1]);
        if plan.single {
            let mut args = vec![rows, panel, sums, next, depth, count];
            if let Some(result) = &plan.result {
                args.push(self.stored_at(c, plan.names, result)?);
            }
            return self.fitting(c, plan, &plan.narrow, &args);
        }
        let zero = self.i64(0);
        // The lines that the calls for the taps ask for follow each other.
        let steps = plan.part[1] / plan.left.step;
        let ahead =
            plan.tile.prefetch * (steps / plan.tile.unroll()) * plan.tile.tiles(plan.call_rows()) * LINE;
        self.parts(zero, part.taps[1], (Some(taps).filter(|t| *t == 1), 1), |s, tap, _| {
            let index = s.b.ins().iadd(part.taps[0], tap);
            let offset = s.tap_offset(&plan.rows, index, bytes);
            let rows = s.b.ins().iadd(rows, offset);
            let skip = s.scaled(tap, plan.rows.run * panels.step * storage_bytes);
            let panel = s.b.ins().iadd(panel, skip);
            let skip = s.scaled(tap, ahead);
            let next = s.b.ins().iadd(next, skip);
            let args = [rows, panel, sums, next, depth, count];
            let position = s.b.ins().bor(index, part.run[0]);
            let more = Tile { accumulate: true, ..plan.tile };
            let plain = |s: &mut Self| {
                s.branch(
                    position,
                    |s| {
                        s.call(Callee::Tile(more), &args);
                        Ok(())
                    },
                    |s| {
                        s.call(Callee::Tile(plan.tile), &args);
                        Ok(())
                    },
                )
            };
            if !plan.finished {
                return plain(s);
            }
            let tap_end = s.b.ins().iadd_imm_s(index, 1);
            let end = s.is_end(plan, tap_end, part);
            s.branch(end, |s| s.finished_tile(c, plan, &more, &args), plain)
        })
    }

    /// Calls the tile function for the number of rows, the sixth argument.
    pub(super) fn paced(
        &mut self,
        c: &Contract,
        plan: &Streamed,
        few: &[(i64, Tile)],
        args: &[Value],
    ) -> Result<()> {
        let Some(((most, tile), rest)) = few.split_first() else {
            return self.tile_of(c, plan, &plan.tile, args);
        };
        let more = self.b.ins().icmp_imm_s(IntCC::SignedGreaterThan, args[5], *most);
        self.branch(more, |s| s.paced(c, plan, rest, args), |s| s.tile_of(c, plan, tile, args))
    }

    pub(super) fn tile_of(
        &mut self,
        c: &Contract,
        plan: &Streamed,
        tile: &Tile,
        args: &[Value],
    ) -> Result<()> {
        if plan.finished {
            return self.finished_tile(c, plan, tile, args);
        }
        self.call(Callee::Tile(*tile), args);
        Ok(())
    }

    /// Bytes from a row to its elements for the flattened tap.
    fn tap_offset(&mut self, rows: &Rows, index: Value, bytes: i64) -> Value {
        let mut rest = index;
        let mut offset = self.i64(0);
        for (i, &(extent, stride)) in rows.taps.iter().enumerate().rev() {
            let position = if i == 0 {
                rest
            } else {
                let quotient = self.b.ins().udiv_imm_u(rest, extent);
                let product = self.scaled(quotient, extent);
                let position = self.b.ins().isub(rest, product);
                rest = quotient;
                position
            };
            let skip = self.scaled(position, stride * bytes);
            offset = self.b.ins().iadd(offset, skip);
        }
        offset
    }

    fn chunk_epilogue(&mut self, c: &Contract, plan: &Streamed) -> Result<()> {
        let bytes = (c.acc_dtype.bits() / 8) as i64;
        let width = plan.tile.width;
        let extent = if plan.whole_panels {
            Ix::Const(width)
        } else {
            let n = self.ix(&c.n.extent)?;
            let column = self.ix(&Ix::Var(plan.names.column))?;
            let left = self.b.ins().isub(n, column);
            let most = self.i64(width);
            self.vars[plan.names.used.index()] = Some(self.b.ins().smin(left, most));
            Ix::Var(plan.names.used)
        };
        let columns = Axis { var: c.n.var, begin: c.n.begin.clone() + Ix::Var(plan.names.column), extent };
        let rows = Axis { var: c.m.var, begin: Ix::Var(plan.names.first), extent: Ix::Var(plan.names.rows) };
        let row = Ix::Var(c.m.var) - Ix::Var(plan.origin[0]);
        let column = Ix::Var(c.n.var) - c.n.begin.clone() - Ix::Var(plan.origin[1]);
        let index = row * (plan.tile.sum_stride / bytes) + column;
        let mut body = vec![Stmt::Let { dst: c.acc, op: Op::Load { buffer: plan.sums, index, guard: None } }];
        body.extend(c.epilogue.iter().cloned());
        let columns = For { axis: columns, kind: LoopKind::Vector, carried: vec![], body };
        let body = vec![Stmt::For(Box::new(columns))];
        self.for_stmt(&For { axis: rows, kind: LoopKind::Sequential, carried: vec![], body })
    }
}

/// Rows of a chunk and a panel.
struct Chunk {
    /// First column of the panel.
    column: Value,
    /// The panel's part for the block of the reduction.
    panel: Value,
    /// That of the next panel.
    next: Value,
    /// First outer row in the block and their number.
    outer: [Value; 2],
    /// First inner row and their number.
    inner: [Value; 2],
}
