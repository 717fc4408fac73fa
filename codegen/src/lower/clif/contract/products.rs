//! Whether bytes are multiplied in tile registers or in vectors.

use super::left::Left;
use super::rows::Rows;
use crate::lower::wide::quads::Quads;

/// Fewest steps of the reduction at once, and fewest rows, that tile registers are faster for than vectors.
const LEAST_STEPS: i64 = 4;
const LEAST_ROWS: i64 = 4;

/// How bytes are multiplied: in tile registers where rows are read as they lie and enough of them, and of each, is
/// multiplied at once.
pub(super) fn products(
    quads: Quads,
    rows: &Rows,
    (left, part): (Left, [i64; 2]),
    most: Option<i64>,
) -> Quads {
    let Quads::Amx { steps: limit } = quads else { return quads };
    let [run, last] = [part[1], rows.run % part[1].max(1)].map(|n| n / left.step);
    let fits = |steps: &i64| run % steps == 0 && last % steps == 0;
    let steps = (LEAST_STEPS..=i64::from(limit)).rev().find(fits);
    let plain = !rows.flip && rows.step == 1 && rows.length.is_none();
    let few = rows.split.or(most).is_some_and(|rows| rows < LEAST_ROWS);
    match steps.filter(|_| plain && !few).and_then(|steps| u8::try_from(steps).ok()) {
        Some(steps) => Quads::Amx { steps },
        None => quads.of_vectors(),
    }
}
