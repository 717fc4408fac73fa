//! The left operand of a contraction as rows in memory: read in place, or from a copy that has its padding.
//!
//! Rows may have two levels: the output positions of a convolution are `inner` positions of `outer` lines. Taps that
//! follow `k` in memory join it (positions along the line of a convolution with channels last), so that the reduction is
//! a few long runs.

use kiln_ir::{DType, Prim, Scalar};

use super::left::Left;
use super::longest_run;
use crate::kir::{Bound, BufferId, Contract, Guard, Ix, Kernel, Op, Stmt, Val, Var};
use crate::lower::wide::tile::{LINE, Lines, MOST_ROWS, Tile};

/// Most elements of a copy.
const MAX_COPY: i64 = 1 << 19;

/// Most elements that rows may span whose elements are not contiguous: beyond, each step would be in a page of its own that
/// the processor has to look up.
const MAX_APART: i64 = 1 << 18;

/// Most bytes between rows: displacements of a tile's rows have 32 bits.
const MAX_ROW_BYTES: i64 = 1 << 24;

/// Cache lines of one way of the first-level cache.
const SETS: i64 = 64;

/// Rows in the same set of the first-level cache that it holds beside the panel: it has eight ways or more.
const ROWS_A_SET: i64 = 7;

/// Rows and reduction of a left operand, in elements.
#[derive(Clone, Debug)]
pub(super) struct Rows {
    /// Inner rows of an outer one; without it, there is one outer row.
    pub split: Option<i64>,
    /// Positions of a row.
    pub outer: Var,
    pub inner: Var,
    /// Distance of rows.
    pub outer_stride: i64,
    pub inner_stride: i64,
    /// Outer reduction axes, outermost first: extent and distance.
    pub taps: Vec<(i64, i64)>,
    /// Elements of the reduction for each tap, up to whole steps: the most that there can be.
    pub run: i64,
    /// Whether elements are signed bytes that are multiplied as unsigned ones, the sign flipped.
    pub flip: bool,
    /// Distance of the elements of a run.
    pub step: i64,
    /// How many there are, where that shows at run time only.
    pub length: Option<Ix>,
    /// Where the elements are.
    pub place: Place,
}

/// Where the elements of the rows are.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// In a buffer of the kernel, the first element of a row at an index.
    Buffer(BufferId, Ix),
    /// In a copy with its padding.
    Copy(Patch),
    /// In a copy that is made for each block of the reduction.
    Packed,
}

/// A copy of what a block of rows reads, padding included: `[spans...][k]`.
#[derive(Clone, Debug)]
pub(super) struct Patch {
    pub source: BufferId,
    /// The element, as it is loaded.
    pub element: Val,
    /// Source index without spans and `k`; in terms of the block's first rows.
    pub index: Ix,
    /// Taps by themselves, lines, positions in a line; the last one is the line's.
    pub spans: Vec<Span>,
    pub bounds: Vec<SpanBound>,
    pub otherwise: Scalar,
    /// Elements of a position, and up to whole steps.
    pub depth: i64,
    pub run: i64,
    /// Elements from one position to the next.
    pub pitch: i64,
    /// Number of the contraction's taps.
    tap_count: usize,
    /// The first rows of the block.
    pub first: [Var; 2],
}

/// What a span's positions are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Outer,
    Inner,
    None,
}

/// Positions that rows and a tap select: `row * row_step + tap * tap_step`.
#[derive(Clone, Debug)]
pub(super) struct Span {
    pub var: Var,
    pub level: Level,
    pub row_step: i64,
    pub tap: Option<usize>,
    pub tap_extent: i64,
    pub tap_step: i64,
    /// Source elements between positions.
    pub distance: i64,
}

impl Span {
    /// Positions that `rows` rows use.
    pub fn extent(&self, rows: Ix) -> Ix {
        (rows - 1) * self.row_step + (self.tap_extent - 1) * self.tap_step + 1
    }
}

/// `lower <= rest + step * position < upper`, position of a span.
#[derive(Clone, Debug)]
pub(super) struct SpanBound {
    pub span: Option<usize>,
    pub step: i64,
    pub rest: Ix,
    pub lower: Ix,
    pub upper: Ix,
}

/// An index that is linear in the row, the taps and `k`.
struct Affine {
    outer: i64,
    inner: i64,
    taps: Vec<i64>,
    k: i64,
    rest: Ix,
}

/// The rows of `c`'s left operand; `None` where they have no such form.
pub(super) fn rows(kernel: &mut Kernel, c: &Contract, left: Left) -> Option<Rows> {
    loaded(kernel, c, left).or_else(|| packed(kernel, c, left))
}

/// Rows that are packed, whatever they are made of.
fn packed(kernel: &mut Kernel, c: &Contract, left: Left) -> Option<Rows> {
    let run = c.k.extent.as_const().filter(|k| *k > 0 && c.taps.is_empty())?;
    let vars = [Var(kernel.vars), Var(kernel.vars + 1)];
    kernel.vars += 2;
    let [outer, inner] = vars;
    let (outer_stride, inner_stride, taps) = (0, 0, vec![]);
    let (split, length, place) = (None, None, Place::Packed);
    let (run, step, flip) = (left.padded(run), 1, false);
    Some(Rows { split, outer, inner, outer_stride, inner_stride, taps, run, flip, step, length, place })
}

/// A left operand that is one load.
struct Loaded<'a> {
    element: Val,
    buffer: BufferId,
    index: &'a Ix,
    guard: Option<&'a Guard>,
    flip: bool,
}

/// The load that is the left operand, of elements as rows hold them or of signed bytes whose sign is flipped.
fn load<'a>(kernel: &Kernel, c: &'a Contract, left: Left) -> Option<Loaded<'a>> {
    let [Stmt::Let { dst, op: Op::Load { buffer, index, guard } }, more @ ..] = c.a.body.as_slice() else {
        return None;
    };
    let storage = kernel.buffers[buffer.index()].dtype;
    let flip = !more.is_empty();
    let fits = match flip {
        true => left.dtype == DType::U8 && storage == DType::I8 && flips(more, *dst, c.a.value),
        false => *dst == c.a.value && storage == left.dtype,
    };
    fits.then_some(Loaded { element: *dst, buffer: *buffer, index, guard: guard.as_ref(), flip })
}

/// Whether the statements are `result = bits of x ^ 0x80`.
fn flips(body: &[Stmt], x: Val, result: Val) -> bool {
    let op = |val: Val| {
        body.iter().find_map(|stmt| match stmt {
            Stmt::Let { dst, op } if *dst == val => Some(op),
            _ => None,
        })
    };
    let Some(Op::Apply(Prim::Xor, operands)) = op(result) else { return false };
    let is_bits = |v: Val| matches!(op(v), Some(Op::Bits(of)) if *of == x);
    let is_sign = |v: Val| matches!(op(v), Some(Op::Const(Scalar::I(0x80))));
    matches!(operands.as_slice(), &[a, b] if is_bits(a) && is_sign(b))
}

/// Rows that a plain load reads.
fn loaded(kernel: &mut Kernel, c: &Contract, left: Left) -> Option<Rows> {
    let Loaded { element, buffer, index, guard, flip } = load(kernel, c, left)?;
    let zero_based = c.taps.iter().chain([&c.k]).all(|axis| axis.begin == Ix::Const(0));
    let depth = longest_run(c).filter(|k| *k > 0 && zero_based)?;
    let length = c.k.extent.as_const().is_none().then(|| c.k.extent.clone());
    if length.is_some() && (guard.is_some() || left.step > 1) {
        return None;
    }
    let extents: Vec<i64> =
        c.taps.iter().map(|t| t.extent.as_const().filter(|n| *n > 0)).collect::<Option<_>>()?;
    let vars = [Var(kernel.vars), Var(kernel.vars + 1)];
    let guards = guard.iter().flat_map(|g| &g.bounds).flat_map(|b| [&b.index, &b.lower, &b.upper]);
    let split = line_length(std::iter::once(index).chain(guards), c.m.var)?;
    if let Some(line) = split
        && !(is_multiple(&c.m.begin, line) && is_multiple(&c.m.extent, line))
    {
        return None;
    }
    // Where padding depends on `k`, it is one more tap of single elements.
    let k_is_tap = guard.iter().flat_map(|g| &g.bounds).any(|b| b.index.uses(c.k.var));
    let axes: Vec<Var> =
        c.taps.iter().chain([&c.k].into_iter().filter(|_| k_is_tap)).map(|t| t.var).collect();
    let (extents, depth) = if k_is_tap { ([extents, vec![depth]].concat(), 1) } else { (extents, depth) };
    let form = IndexForm { row: c.m.var, taps: axes, k: (!k_is_tap).then_some(c.k.var), split, vars };
    let at = form.affine(index)?;
    let bytes = left.bytes();
    let apart = at.k != 1 && (depth != 1 || left.step > 1);
    // What is behind a row may not be read, and elements of a step lie side by side.
    if left.step > 1 && (apart || k_is_tap || (guard.is_none() && depth % left.step != 0)) {
        return None;
    }
    // Rows side by side share cache lines at each step of the reduction.
    let side_by_side = at.k > 0 && at.inner == 1 && split.is_none() && guard.is_none() && c.taps.is_empty();
    if apart && !(side_by_side && depth.checked_mul(at.k).is_some_and(|n| n <= MAX_APART)) {
        return None;
    }
    if at.inner < 0 || at.outer < 0 || at.taps.iter().any(|t| *t < 0) {
        return None;
    }
    let access =
        Access { at: &at, extents: &extents, depth, length, split, vars, form: &form, left, element, flip };
    let rows = match guard {
        None => access.in_place(buffer),
        Some(guard) => access.copied(kernel, buffer, guard)?,
    };
    if rows.inner_stride * bytes > MAX_ROW_BYTES {
        return None;
    }
    // The copy's variables follow these two.
    kernel.vars = kernel.vars.max(vars[1].0 + 1);
    Some(rows)
}

/// The most rows of a tile, so many bytes from the first one, whose cache lines do not evict each other from the
/// first-level cache.
fn most_rows(offset: impl Fn(i64) -> i64) -> i64 {
    let mut held = [0; SETS as usize];
    let mut last = None;
    let fits = |row: &i64| {
        let line = offset(*row) / LINE;
        let set = &mut held[(line % SETS) as usize];
        *set += i64::from(last.replace(line) != Some(line));
        *set <= ROWS_A_SET
    };
    (0..MOST_ROWS as i64).take_while(fits).count() as i64
}

/// A load that is linear in rows, taps and `k`.
struct Access<'a> {
    at: &'a Affine,
    extents: &'a [i64],
    depth: i64,
    length: Option<Ix>,
    split: Option<i64>,
    vars: [Var; 2],
    form: &'a IndexForm,
    left: Left,
    element: Val,
    flip: bool,
}

/// What indices are linear in.
struct IndexForm {
    row: Var,
    taps: Vec<Var>,
    k: Option<Var>,
    split: Option<i64>,
    vars: [Var; 2],
}

impl Access<'_> {
    fn in_place(&self, buffer: BufferId) -> Rows {
        let [outer, inner] = self.vars;
        let index = self.at.rest.clone() + Ix::Var(outer) * self.at.outer + Ix::Var(inner) * self.at.inner;
        let mut rows = Rows {
            split: self.split,
            outer,
            inner,
            outer_stride: self.at.outer,
            inner_stride: self.at.inner,
            taps: self.extents.iter().copied().zip(self.at.taps.iter().copied()).collect(),
            run: self.depth,
            flip: self.flip,
            step: if self.depth == 1 { 1 } else { self.at.k },
            length: self.length.clone(),
            place: Place::Buffer(buffer, index),
        };
        rows.join_taps();
        rows
    }

    fn copied(&self, kernel: &mut Kernel, buffer: BufferId, guard: &Guard) -> Option<Rows> {
        let Access { at, extents, depth, split, vars, form, .. } = *self;
        let moves = |ix: &Ix| [form.row].iter().chain(&form.taps).chain(&form.k).any(|v| ix.uses(*v));
        if guard.bounds.iter().any(|b| moves(&b.lower) || moves(&b.upper)) {
            return None;
        }
        let bounds: Vec<(Affine, &Bound)> =
            guard.bounds.iter().map(|b| Some((form.affine(&b.index)?, b))).collect::<Option<_>>()?;
        let mut next = vars[1].0;
        let mut var = || {
            next += 1;
            Var(next)
        };
        let spans = self.spans(taps_along(&bounds)?, &mut var)?;
        let first = [var(), var()];
        let in_first = |a: &Affine| Ix::Var(first[0]) * a.outer + Ix::Var(first[1]) * a.inner;
        let bounds = (bounds.iter())
            .map(|(b, bound)| {
                let (span, step) = position(&spans, b)?;
                let rest = b.rest.clone() + in_first(b);
                Some(SpanBound { span, step, rest, lower: bound.lower.clone(), upper: bound.upper.clone() })
            })
            .collect::<Option<_>>()?;
        kernel.vars = next + 1;
        let index = at.rest.clone() + in_first(at);
        let (otherwise, tap_count) = (guard.otherwise, extents.len());
        let run = self.left.padded(depth);
        let pitch = pitch(&spans, run, self.left.bytes());
        let element = self.element;
        let patch = Patch {
            source: buffer,
            element,
            index,
            spans,
            bounds,
            otherwise,
            depth,
            run,
            pitch,
            tap_count,
            first,
        };
        let mut rows = Rows {
            split,
            outer: vars[0],
            inner: vars[1],
            outer_stride: 0,
            inner_stride: 0,
            taps: vec![],
            run,
            flip: self.flip,
            step: 1,
            length: None,
            place: Place::Copy(patch),
        };
        (!rows.too_large(1)).then(|| {
            rows.lay_out(1);
            rows
        })
    }

    /// The spans of a copy: taps by themselves, lines, positions in a line.
    fn spans(&self, along: [Option<usize>; 2], var: &mut dyn FnMut() -> Var) -> Option<Vec<Span>> {
        let Access { at, extents, split, .. } = *self;
        let mut spans = vec![];
        for (t, &distance) in at.taps.iter().enumerate().filter(|(t, _)| !along.contains(&Some(*t))) {
            spans.push(Span {
                var: var(),
                level: Level::None,
                row_step: 0,
                tap: Some(t),
                tap_extent: extents[t],
                tap_step: 1,
                distance,
            });
        }
        for (level, step, tap) in [(Level::Outer, at.outer, along[0]), (Level::Inner, at.inner, along[1])] {
            if level == Level::Outer && split.is_none() {
                continue;
            }
            let tap_distance = tap.map_or(0, |t| at.taps[t]);
            if step <= 0 || (tap.is_some() && tap_distance <= 0) {
                return None;
            }
            let distance = gcd(step, tap_distance);
            spans.push(Span {
                var: var(),
                level,
                row_step: step / distance,
                tap,
                tap_extent: tap.map_or(1, |t| extents[t]),
                tap_step: tap_distance / distance,
                distance,
            });
        }
        Some(spans)
    }
}

/// The taps that move along the lines and in a line: those that share a bound with them. `None` where that is not one
/// tap for each.
fn taps_along(bounds: &[(Affine, &Bound)]) -> Option<[Option<usize>; 2]> {
    let mut along = [None; 2];
    for (b, _) in bounds {
        let mut taps = b.taps.iter().enumerate().filter(|(_, t)| **t != 0).map(|(i, _)| i);
        let tap = taps.next();
        if b.k != 0 || taps.next().is_some() || (b.outer != 0 && b.inner != 0) {
            return None;
        }
        for (uses, along) in [b.outer, b.inner].into_iter().zip(&mut along) {
            if uses != 0 && tap.is_some() {
                if along.is_some_and(|known| Some(known) != tap) {
                    return None;
                }
                *along = tap;
            }
        }
    }
    (along[0].is_none() || along[0] != along[1]).then_some(along)
}

/// The span that a bound's index is a position of, if it is of one, and the index's step for a position.
fn position(spans: &[Span], b: &Affine) -> Option<(Option<usize>, i64)> {
    let tap = b.taps.iter().position(|t| *t != 0);
    let span = spans.iter().position(|s| match s.level {
        Level::Outer => b.outer != 0,
        Level::Inner => b.inner != 0,
        Level::None => b.outer == 0 && b.inner == 0 && tap.is_some() && s.tap == tap,
    });
    let by_tap = tap.map_or(0, |t| b.taps[t]);
    let Some(s) = span.map(|s| &spans[s]) else {
        // A bound on a tap alone, which moves along rows: no guard of a window has this form.
        return tap.is_none().then_some((None, 0));
    };
    if s.level == Level::None {
        return Some((span, by_tap));
    }
    let rows = b.outer + b.inner;
    let step = rows / s.row_step;
    let agree = step * s.row_step == rows && by_tap == if s.tap.is_some() { step * s.tap_step } else { 0 };
    agree.then_some((span, step))
}

impl Rows {
    /// Elements of a run, where that is known.
    pub fn known_run(&self) -> Option<i64> {
        Some(self.run).filter(|_| self.length.is_none())
    }

    /// The buffer that rows are read from in place.
    pub fn buffer(&self) -> Option<BufferId> {
        match &self.place {
            Place::Buffer(buffer, _) => Some(*buffer),
            Place::Copy(_) | Place::Packed => None,
        }
    }

    /// The dtype of the copy's elements, if there is a copy.
    pub fn copied(&self, left: Left) -> Option<DType> {
        match &self.place {
            Place::Buffer(..) => None,
            Place::Copy(_) | Place::Packed => Some(if self.flip { DType::I8 } else { left.dtype }),
        }
    }

    /// Sets the distance of packed rows of `depth` elements: an odd number of cache lines keeps them in different sets.
    pub fn pack(&mut self, depth: i64, element_bytes: i64) {
        if matches!(self.place, Place::Packed) {
            let line = LINE / element_bytes;
            self.inner_stride = (((depth + line - 1) / line) | 1) * line;
        }
    }

    /// Sets how rows follow each other in the tile, for blocks of `block` outer rows, of at most `most` rows in all where
    /// that is known: functions have no tiles that are taller than all rows.
    pub fn spread(&self, tile: &mut Tile, block: i64, most: Option<i64>, bytes: i64) {
        let all = self.split.or(most).unwrap_or(i64::MAX).max(1);
        tile.row_stride = self.inner_stride * bytes;
        tile.most_rows = most_rows(|row| row * tile.row_stride).min(all) as usize;
        let Some(rows) = self.split.filter(|_| block > 1) else { return };
        let lines = Lines { rows, stride: self.outer_stride * bytes };
        let held = most_rows(|row| lines.offset(row, tile.row_stride)) as usize;
        let joined = Tile { most_rows: held, ..*tile };
        let several = joined.height() as i64 >= 2 * rows && lines.stride <= MAX_ROW_BYTES;
        let joined = Tile { lines: Some(lines), ..joined };
        // Tile registers hold no longer lines than they have rows.
        if several && joined.is_supported() {
            *tile = joined;
        }
    }

    /// Sets the distances in the copy for blocks of `count` outer rows, or of inner ones if there is one level.
    pub fn lay_out(&mut self, count: i64) {
        let Place::Copy(patch) = &self.place else { return };
        let mut taps = vec![(1, 0); patch.tap_count];
        let mut stride = patch.pitch;
        let (mut outer_stride, mut inner_stride) = (0, 0);
        for span in patch.spans.iter().rev() {
            match span.level {
                Level::Outer => outer_stride = stride * span.row_step,
                Level::Inner => inner_stride = stride * span.row_step,
                Level::None => {}
            }
            if let Some(tap) = span.tap {
                taps[tap] = (span.tap_extent, stride * span.tap_step);
            }
            stride *= self.capacity(span, count);
        }
        self.run = patch.run;
        self.taps = taps;
        (self.outer_stride, self.inner_stride) = (outer_stride, inner_stride);
        self.join_taps();
    }

    /// Positions of a span for blocks of `count` outer rows, or of inner ones if there is one level.
    pub fn capacity(&self, span: &Span, count: i64) -> i64 {
        let rows = match (span.level, self.split) {
            (Level::Outer, _) | (Level::Inner, None) => count,
            (Level::Inner, Some(line)) => line,
            (Level::None, _) => 1,
        };
        span.extent(Ix::Const(rows)).as_const().unwrap_or(i64::MAX)
    }

    /// Elements of the copy for such blocks.
    pub fn copy_len(&self, count: i64) -> i64 {
        match &self.place {
            Place::Buffer(..) => 0,
            Place::Packed => count.saturating_mul(self.inner_stride),
            Place::Copy(patch) => {
                patch.spans.iter().fold(patch.pitch, |n, span| n.saturating_mul(self.capacity(span, count)))
            }
        }
    }

    /// Whether the copy for such blocks would be too large.
    pub fn too_large(&self, count: i64) -> bool {
        self.copy_len(count) > MAX_COPY
    }

    /// The innermost taps become part of the run where they follow each other in memory.
    fn join_taps(&mut self) {
        while let Some(&(extent, stride)) = self.taps.last().filter(|_| self.step == 1) {
            if stride != self.run && extent != 1 {
                break;
            }
            self.run *= extent;
            self.taps.pop();
        }
    }
}

/// Elements between positions of a copy: more than they have where rows would share few sets of the first-level cache.
fn pitch(spans: &[Span], depth: i64, bytes: i64) -> i64 {
    let step = spans.last().map_or(1, |line| line.row_step);
    let line = LINE / bytes;
    let conflicts = most_rows(|row| row * step * depth * bytes) < MOST_ROWS as i64;
    if conflicts { (depth + line - 1) / line * line + line } else { depth }
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl IndexForm {
    /// The index in terms of rows, taps and `k`, where it is linear in them.
    fn affine(&self, index: &Ix) -> Option<Affine> {
        let [outer, inner] = self.vars;
        let mut rest = match self.split {
            Some(line) => in_lines(index, self.row, line, self.vars),
            None => index.substitute(self.row, &Ix::Var(inner)),
        };
        let mut coefficient = |var: Var| {
            let linear = rest.linear(var, &|_| true)?;
            rest = linear.rest;
            linear.coefficient.as_const()
        };
        let (outer, inner) = (coefficient(outer)?, coefficient(inner)?);
        let taps = self.taps.iter().map(|t| coefficient(*t)).collect::<Option<_>>()?;
        let k = self.k.map_or(Some(0), &mut coefficient)?;
        Some(Affine { outer, inner, taps, k, rest })
    }
}

/// The length of the lines that the row is divided into by some index; `None` for more than one length.
fn line_length<'a>(indices: impl Iterator<Item = &'a Ix>, row: Var) -> Option<Option<i64>> {
    let mut found = None;
    for index in indices {
        if !lines_of(index, row, &mut found) {
            return None;
        }
    }
    Some(found)
}

fn lines_of(index: &Ix, row: Var, found: &mut Option<i64>) -> bool {
    if let Ix::FloorDiv(a, b) | Ix::Mod(a, b) = index
        && **a == Ix::Var(row)
        && let Some(line) = b.as_const().filter(|n| *n > 0)
    {
        return *found.get_or_insert(line) == line;
    }
    index.children().is_none_or(|(a, b)| lines_of(a, row, found) && lines_of(b, row, found))
}

/// `index` with `row = outer * line + inner`.
fn in_lines(index: &Ix, row: Var, line: i64, [outer, inner]: [Var; 2]) -> Ix {
    let both =
        |a: &Ix, b: &Ix| (in_lines(a, row, line, [outer, inner]), in_lines(b, row, line, [outer, inner]));
    match index {
        Ix::FloorDiv(a, b) if **a == Ix::Var(row) && b.as_const() == Some(line) => Ix::Var(outer),
        Ix::Mod(a, b) if **a == Ix::Var(row) && b.as_const() == Some(line) => Ix::Var(inner),
        Ix::Var(v) if *v == row => Ix::Var(outer) * line + Ix::Var(inner),
        Ix::Const(_) | Ix::Var(_) | Ix::Dim(_) | Ix::Scalar(_) => index.clone(),
        Ix::Add(a, b) => {
            let (a, b) = both(a, b);
            a + b
        }
        Ix::Mul(a, b) => {
            let (a, b) = both(a, b);
            a * b
        }
        Ix::FloorDiv(a, b) => {
            let (a, b) = both(a, b);
            a.floor_div(b)
        }
        Ix::Mod(a, b) => {
            let (a, b) = both(a, b);
            a.modulo(b)
        }
        Ix::Min(a, b) => {
            let (a, b) = both(a, b);
            a.min(b)
        }
        Ix::Max(a, b) => {
            let (a, b) = both(a, b);
            a.max(b)
        }
    }
}

/// Whether the expression is evidently a multiple of `n`.
pub(super) fn is_multiple(ix: &Ix, n: i64) -> bool {
    match ix {
        Ix::Const(c) => c % n == 0,
        Ix::Var(_) | Ix::Dim(_) | Ix::Scalar(_) | Ix::FloorDiv(..) => n == 1,
        Ix::Mul(a, b) => is_multiple(a, n) || is_multiple(b, n),
        Ix::Mod(a, b) | Ix::Add(a, b) | Ix::Min(a, b) | Ix::Max(a, b) => {
            is_multiple(a, n) && is_multiple(b, n)
        }
    }
}
