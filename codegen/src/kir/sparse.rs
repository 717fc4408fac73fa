//! Right operands most of whose elements are zero: lists of those that are not, in the order in which they are
//! multiplied.
//!
//! Products with blocks of zeros are left out: there, zero times an infinity or a NaN counts as 0.
//!
//! A list is of a range of columns and a part of the reduction. Rows of the left operand come in tiles, of which a part
//! is `[position][row]`: what one entry is multiplied with lies side by side. Indices are of elements of such a tile, so
//! that nothing is computed of them. Runs of a list are in any order; those of like length follow each other.

use super::{BufferId, Contract};

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
/// A run has the entries of `block` columns that lie side by side. The first part has a run for every column, even an
/// empty one; the others have those that are not empty. Columns of the last block that do not exist have zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sparse {
    /// The lists, i32.
    pub index: BufferId,
    /// `[entry][block]`, f32.
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
    /// Positions of a part: whole taps, as many as fit, or elements of the run of one tap.
    pub depth: u32,
    /// Rows of a tile.
    pub rows: u32,
}

/// Columns whose sums the lowering takes at once; ranges of columns are best a multiple of them.
pub const STRIP: i64 = 64;

/// How the reduction is taken apart: so many taps, or so many elements of one tap's run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Number of taps, and those of a part.
    pub taps: [i64; 2],
    /// Elements of a tap's run, and those of a part.
    pub run: [i64; 2],
}

/// One part: first tap and first element of the run, and how many of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// First tap and number of taps.
    pub taps: [i64; 2],
    /// First element of the run and number of elements.
    pub run: [i64; 2],
}

impl Parts {
    /// Parts of at most `depth` positions of `taps` taps of `run` elements.
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

    /// Position in its part of an element of the run of a tap, both counted from the part's first.
    pub fn position(self, tap: i64, k: i64) -> i64 {
        tap * self.run[1] + k
    }
}

impl Sparse {
    /// The parts of a contraction's reduction, where its length is a constant.
    pub fn parts(&self, c: &Contract) -> Option<Parts> {
        let taps = c.taps.iter().try_fold(1i64, |n, t| n.checked_mul(t.extent.as_const()?.max(0)))?;
        Some(Parts::new(
            Some(taps).filter(|n| *n > 0)?,
            c.k.extent.as_const().filter(|k| *k > 0)?,
            i64::from(self.form.depth),
        ))
    }
}

/// The lists of weights `[taps][run][n]`, and the values of their entries. `None` where there are more than indices can
/// name, or not as many weights as the sizes say.
pub fn lists(weights: &[f32], [taps, run, n]: [usize; 3], form: Form) -> Option<(Vec<i32>, Vec<f32>)> {
    let size = |n: u32| usize::try_from(n).ok().filter(|n| *n > 0);
    let (columns, block) = (size(form.columns)?, size(form.block)?);
    let count = taps.checked_mul(run)?.checked_mul(n)?;
    if weights.len() != count || count == 0 {
        return None;
    }
    let parts = Parts::new(i64::try_from(taps).ok()?, i64::try_from(run).ok()?, i64::from(form.depth));
    let all: Vec<Part> = parts.all().collect();
    let mut index = vec![0i32; n.div_ceil(columns) * all.len() * 2];
    let mut values: Vec<f32> = vec![];
    let mut list = 0;
    for first in (0..n).step_by(columns) {
        for (i, &part) in all.iter().enumerate() {
            let head = [index.len(), values.len() / block];
            for (word, value) in index.get_mut(list..list + 2)?.iter_mut().zip(head) {
                *word = i32::try_from(value).ok()?;
            }
            list += 2;
            let end = n.min(first + columns);
            let of =
                List { weights, n, parts, part, block, columns: [first, end], rows: i64::from(form.rows) };
            of.append(i == 0, &mut index, &mut values)?;
        }
    }
    Some((index, values))
}

/// What one list is of.
struct List<'a> {
    weights: &'a [f32],
    n: usize,
    parts: Parts,
    part: Part,
    block: usize,
    /// First column, and that after the last.
    columns: [usize; 2],
    rows: i64,
}

impl List<'_> {
    /// Appends the list; a first part's has empty runs, too.
    fn append(&self, all: bool, index: &mut Vec<i32>, values: &mut Vec<f32>) -> Option<()> {
        let [first, end] = self.columns;
        let mut runs: Vec<(usize, Vec<i64>)> = (first..end)
            .step_by(self.block)
            .map(|column| (column, self.positions(column)))
            .filter(|(_, positions)| all || !positions.is_empty())
            .collect();
        runs.sort_by_key(|(_, positions)| positions.len());
        let word = |n: i64| i32::try_from(n).ok();
        index.push(word(runs.len() as i64)?);
        for (column, positions) in runs {
            index.push(word((column - first) as i64 * self.rows)?);
            index.push(word(positions.len() as i64)?);
            for position in positions {
                index.push(word(position * self.rows)?);
                let row = self.row(position);
                values.extend((column..column + self.block).map(|n| match n < self.n {
                    true => self.weights.get(row * self.n + n).copied().unwrap_or(0.0),
                    false => 0.0,
                }));
            }
        }
        Some(())
    }

    /// The row of weights at a position of the part.
    fn row(&self, position: i64) -> usize {
        let run = self.parts.run[1];
        let (tap, k) = (self.part.taps[0] + position / run, self.part.run[0] + position % run);
        (tap * self.parts.run[0] + k) as usize
    }

    /// Positions at which a run has an entry.
    fn positions(&self, column: usize) -> Vec<i64> {
        let ([_, taps], [_, run]) = (self.part.taps, self.part.run);
        let end = (column + self.block).min(self.n);
        let places = (0..taps).flat_map(|tap| (0..run).map(move |k| (tap, k)));
        places
            .map(|(tap, k)| self.parts.position(tap, k))
            .filter(|position| {
                let row = self.row(*position) * self.n;
                self.weights.get(row + column..row + end).is_some_and(|b| b.iter().any(|w| *w != 0.0))
            })
            .collect()
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
}
