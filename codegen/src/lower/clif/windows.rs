//! Loops over rows whose windows overlap: depthwise convolutions and pools along a line of channels-last pixels.
//!
//! A function does several rows at a time, which share the elements of their windows and the weights. Rows at the border
//! are a function of their own, in which the padding is known; in the others it is gone.

use super::emit::{Emitter, Result};
use super::outline::{Outlined, depends_on};
use crate::kir::{Axis, Block, Bound, For, Guard, Ix, Op, Stmt};
use crate::lower::wide::Rows;

/// Longest lines whose rows are looked at one by one.
const MOST_EXTENT: i64 = 1 << 17;

/// Most rows that a function does at a time.
const MOST_ROWS: i64 = 8;

/// Most functions of a loop.
const MOST_PARTS: usize = 8;

/// Rows that one function does, and what it is.
struct Part {
    rows: Rows,
    outlined: Outlined,
}

impl Emitter<'_> {
    /// A loop over rows of vectorizable loops, several rows at a time; false where rows do not overlap.
    pub fn wide_windows(&mut self, l: &For, inner: &For) -> Result<bool> {
        let (Some(begin), Some(extent)) = (l.axis.begin.as_const(), l.axis.extent.as_const()) else {
            return Ok(false);
        };
        if extent < 2 || !self.independent(&inner.body) {
            return Ok(false);
        }
        let Some(guarded) = self.window_parts(l, inner, begin..begin + extent) else { return Ok(false) };
        // Padding that is the same for all rows is mostly not there.
        let mut plain = inner.clone();
        let outer = |b: &Bound| !depends_on(b, l.axis.var) && !depends_on(b, inner.axis.var);
        let bounds = take_bounds(&mut plain.body, &outer);
        let plain = match bounds.is_empty() {
            true => None,
            false => self.window_parts(l, &plain, begin..begin + extent),
        };
        let call = |s: &mut Self, parts: &[Part]| {
            parts.iter().try_for_each(|part| s.call_rows(&part.outlined, &part.rows, &inner.axis))
        };
        match plain {
            Some(plain) => {
                let holds = self.guard_holds(&Guard { bounds, otherwise: kiln_ir::Scalar::F(0.0) })?;
                self.branch(holds, |s| call(s, &plain), |s| call(s, &guarded))?;
            }
            None => call(self, &guarded)?,
        }
        Ok(true)
    }

    /// Whether no iteration reads or overwrites what another writes: buffers are stored to by one statement and not read.
    fn independent(&self, body: &Block) -> bool {
        let (mut loads, mut stores) = (vec![], vec![]);
        buffers(body, &mut loads, &mut stores);
        let once = |(i, buffer): (usize, &_)| !loads.contains(buffer) && !stores[..i].contains(buffer);
        stores.iter().enumerate().all(once)
    }

    /// Functions for all rows, with as many at a time as registers hold.
    fn window_parts(&mut self, l: &For, inner: &For, range: std::ops::Range<i64>) -> Option<Vec<Part>> {
        let extent = range.end - range.start;
        if extent > MOST_EXTENT {
            return None;
        }
        let mut last = 0;
        for tiles in (extent + MOST_ROWS - 1) / MOST_ROWS..=(extent + 1) / 2 {
            let tile = (extent + tiles - 1) / tiles;
            if tile == last {
                continue;
            }
            last = tile;
            match self.window_parts_of(l, inner, range.clone(), tile) {
                Ok(parts) => return Some(parts),
                Err(Refused::Registers) => {}
                Err(Refused::Other) => return None,
            }
        }
        None
    }

    fn window_parts_of(
        &mut self,
        l: &For,
        inner: &For,
        range: std::ops::Range<i64>,
        tile: i64,
    ) -> std::result::Result<Vec<Part>, Refused> {
        let of_row = |b: &Bound| depends_on(b, l.axis.var);
        let mut body = inner.body.clone();
        let bounds = take_bounds(&mut body, &of_row);
        // Loops inside keep theirs: then the rows must be known.
        let known = remains(&body, &of_row);
        let holds = |row: i64| !known && bounds.iter().all(|b| holds_at(b, l, row));
        // Ranges of rows, and whether the padding does not concern them.
        let mut ranges: Vec<(std::ops::Range<i64>, bool)> = vec![];
        let mut at = range.start;
        while at < range.end {
            let end = (at + tile).min(range.end);
            let inside = end - at == tile && (at..end).all(holds);
            match ranges.last_mut() {
                Some((last, true)) if inside => last.end = end,
                _ => ranges.push((at..end, inside)),
            }
            at = end;
        }
        if ranges.len() > MOST_PARTS {
            return Err(Refused::Other);
        }
        let mut parts = vec![];
        for (range, inside) in ranges {
            let extent = range.end - range.start;
            let axis = Axis { var: l.axis.var, begin: range.start.into(), extent: extent.into() };
            let rows = Rows { axis, tile: tile.min(extent) as u32 };
            let body = if inside { &body } else { &inner.body };
            let outlined = self.outlined(Some(&rows), &inner.axis, body, &[]).ok_or(Refused::Other)?;
            if rows.tile > 1 && !outlined.shares_elements() {
                return Err(if outlined.overlaps() { Refused::Registers } else { Refused::Other });
            }
            parts.push(Part { rows, outlined });
        }
        Ok(parts)
    }
}

/// Why so many rows at a time are not done.
enum Refused {
    /// Fewer rows may.
    Registers,
    /// Fewer would not help.
    Other,
}

/// Whether a bound holds for a row; false where constants do not tell.
fn holds_at(bound: &Bound, l: &For, row: i64) -> bool {
    let at = |ix: &Ix| ix.substitute(l.axis.var, &Ix::Const(row)).as_const();
    let (lower, index, upper) = (at(&bound.lower), at(&bound.index), at(&bound.upper));
    matches!((lower, index, upper), (Some(lower), Some(index), Some(upper)) if lower <= index && index < upper)
}

/// Removes the bounds of the block's own loads that satisfy `f` and are linear in variables alone; gives each once.
fn take_bounds(body: &mut Block, f: &dyn Fn(&Bound) -> bool) -> Vec<Bound> {
    let mut taken: Vec<Bound> = vec![];
    for stmt in body {
        let Stmt::Let { op: Op::Load { guard, .. }, .. } = stmt else { continue };
        let Some(own) = guard else { continue };
        own.bounds.retain(|b| {
            let scalar = |ix: &Ix| ix.any_leaf(&|leaf| matches!(leaf, Ix::Scalar(_)));
            let take = f(b) && ![&b.index, &b.lower, &b.upper].into_iter().any(scalar);
            if take && !taken.contains(b) {
                taken.push(b.clone());
            }
            !take
        });
        if own.bounds.is_empty() {
            *guard = None;
        }
    }
    taken
}

/// Whether a bound of a load satisfies `f`, in loops inside too.
fn remains(body: &Block, f: &dyn Fn(&Bound) -> bool) -> bool {
    body.iter().any(|stmt| match stmt {
        Stmt::Let { op: Op::Load { guard: Some(guard), .. }, .. } => guard.bounds.iter().any(f),
        Stmt::Let { .. } | Stmt::Store { .. } | Stmt::Contract(_) => false,
        Stmt::For(l) => remains(&l.body, f),
        Stmt::Reduce(r) => remains(&r.body, f),
        Stmt::If { then, otherwise, .. } => remains(then, f) || remains(otherwise, f),
    })
}

/// Buffers that a block reads and writes, once for each statement.
fn buffers(body: &Block, loads: &mut Vec<crate::kir::BufferId>, stores: &mut Vec<crate::kir::BufferId>) {
    for stmt in body {
        match stmt {
            Stmt::Let { op: Op::Load { buffer, .. }, .. } => loads.push(*buffer),
            Stmt::Store { buffer, .. } => stores.push(*buffer),
            Stmt::Let { .. } | Stmt::Contract(_) => {}
            Stmt::For(l) => buffers(&l.body, loads, stores),
            Stmt::Reduce(r) => buffers(&r.body, loads, stores),
            Stmt::If { then, otherwise, .. } => {
                buffers(then, loads, stores);
                buffers(otherwise, loads, stores);
            }
        }
    }
}
