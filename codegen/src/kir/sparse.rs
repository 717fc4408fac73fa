//! Right operands most of whose elements are zero: lists of those that are not, in the order in which they are
//! multiplied.
//!
//! Products with blocks of zeros are left out: there, zero times an infinity or a NaN counts as 0.
//!
//! A list is of a range of columns and a part of the reduction. Rows of the left operand come in tiles, of which a part
//! is `[position][row]`: what one entry is multiplied with lies side by side. Indices are of elements of such a tile, so
//! that nothing is computed of them. Runs of a list are in any order; those of like length follow each other.
//!
//! Rows of a convolution may be pixels of padded lines ([`Window`]): a tap is then a place in the same tile, so that rows are
//! packed once for all taps.
//!
//! A position is an element of the reduction, or [`super::GROUP`] bytes of it that lie side by side, whose products with
//! as many weights are added at once.

use super::{BufferId, Contract, PART};

/// A sparse right operand. `index` holds
///
/// ```text
/// for ranges of columns, for parts of the reduction: first word of the list in `index`, its first entry in `values`
/// lists: number of runs, then for each run
///     its first column, counted from that of the range, times `rows`
///     number of entries
///     for entries: position in the part times `rows`
/// ```
///
/// With a window, parts are of the run alone, and entries are the position in it times [`Form::line`], and the shift of the
/// tap.
///
/// A run has the entries of `block` columns that lie side by side, of `group` weights each. The first part has a run for
/// every column, even an empty one; the others have those that are not empty. Columns of the last block that do not exist
/// have zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sparse {
    /// The lists, i32.
    pub index: BufferId,
    /// `[entry][block]` of f32, or `[entry][block][group]` of i8.
    pub values: BufferId,
    /// How they are taken apart.
    pub form: Form,
}

/// How lists are taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// Columns of a range: those of the statement begin at a multiple of it and are no more. A multiple of `block`.
    pub columns: u32,
    /// Columns of a run.
    pub block: u32,
    /// Positions of a part: whole taps, as many as fit, or positions of the run of one tap. A run of floats has at most
    /// [`PART`] entries.
    pub depth: u32,
    /// Rows of a tile.
    pub rows: u32,
    /// Elements of a position: 1, or [`super::GROUP`] beside a left operand of u8. Those of the last position of a tap's
    /// run that do not exist are multiplied with zeros.
    pub group: u32,
    /// How rows are pixels, where a tile has them once for all taps.
    pub window: Option<Window>,
}

/// Rows that are pixels of an image, all of whose lines are rows of the contraction, and taps around them: a row and a tap
/// read the pixel that is as far away as the tap is from the middle one, or padding.
///
/// Rows of a tile are pixels of whole lines with the padding between them, so that taps are shifts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Lines of the image, and pixels of a line.
    pub image: [u32; 2],
    /// Taps in both directions, odd numbers.
    pub taps: [u32; 2],
}

impl Window {
    /// Pixels of a line with the padding behind it.
    pub fn width(self) -> i64 {
        i64::from(self.image[1]) + i64::from(self.taps[1]) - 1
    }

    /// Number of taps.
    pub fn count(self) -> i64 {
        i64::from(self.taps[0]) * i64::from(self.taps[1])
    }

    /// How far a tap is behind the first one, in pixels.
    pub fn shift(self, tap: i64) -> i64 {
        let across = i64::from(self.taps[1]);
        tap / across * self.width() + tap % across
    }

    /// The tap of a shift.
    pub fn tap(self, shift: i64) -> i64 {
        shift / self.width() * i64::from(self.taps[1]) + shift % self.width()
    }

    /// Pixels of lines before the middle tap, and before it in its line.
    pub fn before(self) -> [i64; 2] {
        self.taps.map(|taps| (i64::from(taps) - 1) / 2)
    }

    /// Pixels of so many lines, without the padding behind the last.
    pub fn spread(self, lines: i64) -> i64 {
        (lines * self.width() - (i64::from(self.taps[1]) - 1)).max(0)
    }
}

impl Form {
    /// Elements between positions of a tile.
    pub fn line(&self) -> i64 {
        let rows = i64::from(self.rows);
        match self.window {
            None => rows,
            // Whole vectors.
            Some(window) => (rows + window.shift(window.count() - 1) + 15) / 16 * 16,
        }
    }

    /// Rows of the contraction that a tile has: all, or whole lines.
    pub fn step(&self) -> i64 {
        let rows = i64::from(self.rows);
        match self.window {
            None => rows,
            Some(window) => {
                let lines = (rows + i64::from(window.taps[1]) - 1) / window.width();
                lines * i64::from(window.image[1])
            }
        }
    }
}

/// Most positions of a part.
pub const MOST_DEPTH: i64 = 1 << 10;

/// Columns whose sums the lowering takes at once; ranges of columns are best a multiple of them.
pub const STRIP: i64 = 64;

/// How the reduction is taken apart: so many taps, or so many positions of one tap's run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Number of taps, and those of a part.
    pub taps: [i64; 2],
    /// Positions of a tap's run, and those of a part.
    pub run: [i64; 2],
}

/// One part: first tap and first position of the run, and how many of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// First tap and number of taps.
    pub taps: [i64; 2],
    /// First position of the run and number of positions.
    pub run: [i64; 2],
}

impl Parts {
    /// Parts of at most `depth` positions of `taps` taps of `run` positions.
    pub fn new(taps: i64, run: i64, depth: i64) -> Parts {
        let (run, depth) = (run.max(1), depth.max(1));
        let fit = (depth / run).clamp(1, taps.max(1));
        Parts { taps: [taps.max(0), fit], run: [run, run.min(depth)] }
    }

    /// All parts in order.
    pub fn all(self) -> impl Iterator<Item = Part> {
        let ([taps, fit], [run, most]) = (self.taps, self.run);
        let steps = |total: i64, step: i64| (0..total).step_by(step.max(1) as usize);
        steps(taps, fit).flat_map(move |tap| {
            steps(run, most)
                .map(move |k| Part { taps: [tap, fit.min(taps - tap)], run: [k, most.min(run - k)] })
        })
    }

    /// Number of parts.
    pub fn count(self) -> i64 {
        let above = |n: i64, d: i64| (n + d - 1) / d;
        above(self.taps[0], self.taps[1]) * above(self.run[0], self.run[1])
    }

    /// Position in its part of one of the run of a tap, both counted from the part's first.
    pub fn position(self, tap: i64, k: i64) -> i64 {
        tap * self.run[1] + k
    }
}

impl Sparse {
    /// The parts of a contraction's reduction, where its length is a constant.
    pub fn parts(&self, c: &Contract) -> Option<Parts> {
        let taps = c.taps.iter().try_fold(1i64, |n, t| n.checked_mul(t.extent.as_const()?.max(0)))?;
        let (k, group) = (c.k.extent.as_const().filter(|k| *k > 0)?, i64::from(self.form.group.max(1)));
        let positions = k.checked_add(group - 1)? / group;
        let taps = if self.form.window.is_some() { taps.min(1) } else { taps };
        Some(Parts::new(Some(taps).filter(|n| *n > 0)?, positions, i64::from(self.form.depth)))
    }
}

/// What is multiplied with a position of a column: a weight, or a group of them.
pub trait Weight: Copy + PartialEq + Default {
    /// Elements of a position.
    const GROUP: u32;
}

impl Weight for f32 {
    const GROUP: u32 = 1;
}

impl Weight for [i8; super::GROUP as usize] {
    const GROUP: u32 = super::GROUP;
}

/// The lists of weights `[taps][positions of the run][n]`, and the values of their entries. `None` where there are more than
/// indices can name, more floats in a run than [`PART`], not as many weights as the sizes say, or others than the form is
/// of.
pub fn lists<W: Weight>(weights: &[W], [taps, run, n]: [usize; 3], form: Form) -> Option<(Vec<i32>, Vec<W>)> {
    let size = |n: u32| usize::try_from(n).ok().filter(|n| *n > 0);
    let (columns, block) = (size(form.columns)?, size(form.block)?);
    let count = taps.checked_mul(run)?.checked_mul(n)?;
    if weights.len() != count || count == 0 || form.group != W::GROUP {
        return None;
    }
    let together = if form.window.is_some() { 1 } else { taps };
    let parts = Parts::new(i64::try_from(together).ok()?, i64::try_from(run).ok()?, i64::from(form.depth));
    if form.window.is_some_and(|w| usize::try_from(w.count()) != Ok(taps)) {
        return None;
    }
    let all: Vec<Part> = parts.all().collect();
    let mut index = vec![0i32; n.div_ceil(columns) * all.len() * 2];
    let mut values: Vec<W> = vec![];
    let mut list = 0;
    for first in (0..n).step_by(columns) {
        for (i, &part) in all.iter().enumerate() {
            let head = [index.len(), values.len() / block];
            for (word, value) in index.get_mut(list..list + 2)?.iter_mut().zip(head) {
                *word = i32::try_from(value).ok()?;
            }
            list += 2;
            let end = n.min(first + columns);
            let (columns, rows) = ([first, end], i64::from(form.rows));
            let of = List { weights, n, places: places(form, parts, part), block, columns, rows };
            of.append(i == 0, &mut index, &mut values)?;
        }
    }
    Some((index, values))
}

/// What one list is of.
struct List<'a, W> {
    weights: &'a [W],
    n: usize,
    /// Where each of the part's rows of weights is in the tile.
    places: Vec<(i64, usize)>,
    block: usize,
    /// First column, and that after the last.
    columns: [usize; 2],
    rows: i64,
}

impl<W: Weight> List<'_, W> {
    /// Appends the list; a first part's has empty runs, too.
    fn append(&self, all: bool, index: &mut Vec<i32>, values: &mut Vec<W>) -> Option<()> {
        let [first, end] = self.columns;
        let mut runs: Vec<(usize, Vec<(i64, usize)>)> = (first..end)
            .step_by(self.block)
            .map(|column| (column, self.entries(column)))
            .filter(|(_, entries)| all || !entries.is_empty())
            .collect();
        runs.sort_by_key(|(_, entries)| entries.len());
        let word = |n: i64| i32::try_from(n).ok();
        index.push(word(runs.len() as i64)?);
        let longest = runs.last().map_or(0, |(_, entries)| entries.len() as i64);
        if W::GROUP == 1 && longest > PART {
            return None;
        }
        for (column, entries) in runs {
            index.push(word((column - first) as i64 * self.rows)?);
            index.push(word(entries.len() as i64)?);
            for (place, row) in entries {
                index.push(word(place)?);
                values.extend((column..column + self.block).map(|n| match n < self.n {
                    true => self.weights.get(row * self.n + n).copied().unwrap_or_default(),
                    false => W::default(),
                }));
            }
        }
        Some(())
    }

    /// Places and rows of weights at which a run has an entry.
    fn entries(&self, column: usize) -> Vec<(i64, usize)> {
        let end = (column + self.block).min(self.n);
        let is_kept = |(_, row): &(i64, usize)| {
            let weights = self.weights.get(row * self.n + column..row * self.n + end);
            weights.is_some_and(|b| b.iter().any(|w| *w != W::default()))
        };
        self.places.iter().copied().filter(is_kept).collect()
    }
}

/// Where the rows of weights of a part are in the tile, and the rows.
fn places(form: Form, parts: Parts, part: Part) -> Vec<(i64, usize)> {
    let ([first, taps], [k0, run]) = (part.taps, part.run);
    let row = |tap: i64, k: i64| (tap * parts.run[0] + k0 + k) as usize;
    match form.window {
        None => {
            let all = (0..taps).flat_map(|tap| (0..run).map(move |k| (tap, k)));
            let place = |tap, k| parts.position(tap, k) * i64::from(form.rows);
            all.map(|(tap, k)| (place(tap, k), row(first + tap, k))).collect()
        }
        Some(window) => {
            let all = (0..run).flat_map(|k| (0..window.count()).map(move |tap| (tap, k)));
            all.map(|(tap, k)| (k * form.line() + window.shift(tap), row(tap, k))).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_the_reduction_once() {
        for (taps, run, depth) in
            [(1, 768, 128), (9, 64, 128), (9, 64, 64), (9, 100, 64), (1, 5, 16), (4, 3, 100)]
        {
            let parts = Parts::new(taps, run, depth);
            assert_eq!(parts.all().count() as i64, parts.count());
            let all: i64 = parts.all().map(|p| p.taps[1] * p.run[1]).sum();
            assert_eq!(all, taps * run, "{parts:?}");
            for p in parts.all() {
                assert!(parts.position(p.taps[1] - 1, p.run[1] - 1) < depth, "{p:?}");
            }
        }
    }

    #[test]
    fn taps_are_shifts_of_padded_lines() {
        let window = Window { image: [14, 14], taps: [3, 3] };
        let form = Form { columns: 64, block: 4, depth: 64, rows: 112, group: 1, window: Some(window) };
        assert_eq!((window.width(), form.line(), form.step()), (16, 160, 7 * 14));
        assert_eq!(window.spread(7), 110);
        for tap in 0..window.count() {
            assert_eq!(window.tap(window.shift(tap)), tap);
        }
    }
}
