//! Analytic choice of blocks: how much of a contraction one grid point does.
//!
//! The choice depends on shapes alone, never on the number of threads, so that results are the same for any.

/// Most multiply-adds of one grid point, about: below a millisecond.
const MOST_WORK: i64 = 1 << 25;

/// Multiply-adds that are worth a grid point: about five microseconds.
const LEAST_WORK: i64 = 1 << 19;

/// Rows whose multiply-adds take as long as their element of the right operand takes to come from memory: fewer rows
/// count as so many.
const MEMORY_ROWS: i64 = 32;

/// Points that a contraction should have where they are worth it, so that threads share it evenly.
const POINTS: i64 = 16;

/// Rows of a point are a multiple of this, the rows of a tile, where there are more.
const ROW_STEP: i64 = 48;

/// Rows that a point should have: packing the right operand's block and starting a tile cost little beside them.
const ROW_GOAL: i64 = 96;

/// Most rows that a point has whatever its work: the right operand then comes from memory once.
pub const WHOLE_ROWS: i64 = 256;

/// Elements of a right operand that stays in the second-level cache: 512 KiB of f32.
const CACHED_COLUMNS: i64 = 1 << 17;

/// Most columns of a point.
const MAX_COLUMNS: i64 = 512;

/// Columns that a point should have where its rows outgrow the second-level cache and come from beyond it for every
/// point.
const LEAST_COLUMNS: i64 = 192;

/// Columns that a point should have whose rows are lines: what they read is copied with its padding for every point.
const LINE_COLUMNS: i64 = 128;

/// Elements of rows that stay in the second-level cache: 1 MiB of f32.
const CACHED_ROWS: i64 = 1 << 18;

/// Products of sums that take less time than what is written.
const SHORT_SUM: i64 = 48;

/// Block sizes of a contraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// Rows of a grid point.
    pub rows: i64,
    /// Columns of a grid point, a multiple of the panel width.
    pub columns: i64,
    /// Whether points with the same rows follow each other, so that a thread has whole rows.
    pub by_rows: bool,
}

/// Blocks for rows and columns (`None`: known at run time only) with sums of `depth` products and panels of `width`
/// columns. Every row of a point is packed once for the point's columns, so columns come first. Points have whole lines
/// of `line` rows, and are of nearly equal size.
pub fn contract_blocks([m, n]: [Option<i64>; 2], depth: i64, width: i64, line: i64) -> Blocks {
    let depth = depth.max(1);
    let width = width.max(1);
    let total =
        m.zip(n).map_or(i64::MAX, |(m, n)| m.max(MEMORY_ROWS).saturating_mul(n).saturating_mul(depth));
    let work = (total / POINTS).clamp(LEAST_WORK, MOST_WORK);
    // Blocks of columns begin at whole panels and are not tiny.
    let step = (16 + width - 1) / width * width;
    let whole = if line > 1 { ROW_GOAL + ROW_STEP } else { WHOLE_ROWS };
    let goal = match m {
        Some(m) if m <= whole => m.max(1),
        _ => ROW_GOAL,
    };
    let least = match line {
        _ if goal.saturating_mul(depth) > CACHED_ROWS => LEAST_COLUMNS,
        1 => 1,
        _ => LINE_COLUMNS,
    };
    let most = (work / depth / goal.max(MEMORY_ROWS)).max(least) / step * step;
    let most = most.clamp(step, MAX_COLUMNS.max(step) / step * step);
    let columns = n.map_or(most, |n| even(n, most, step));
    let row_step = if line > 1 { line } else { ROW_STEP };
    let rows = (work / depth / columns).max(goal).max(1);
    let rows = (rows + row_step - 1) / row_step * row_step;
    let rows = m.map_or(rows, |m| if m <= rows { m.max(1) } else { even(m, rows, row_step) });
    let cached = n.is_some_and(|n| n.saturating_mul(depth) <= CACHED_COLUMNS);
    // Few points, an odd number of them or the last one smaller: halves share them evenly.
    let count = n.map_or(0, |n| (n.max(1) - 1) / columns + 1);
    let uneven = count % 2 == 1 || n.is_some_and(|n| n % columns != 0);
    let uneven = line == 1 && uneven && (2..=MOST_UNEVEN).contains(&count);
    if let Some(m) = m.filter(|m| rows == *m && *m >= LEAST_HALVED && uneven) {
        return Blocks { rows: (m + 1) / 2, columns, by_rows: cached && m > ROW_GOAL };
    }
    // Neighbours of images that take rows apart do so too; then a thread reads what it wrote.
    Blocks { rows, columns, by_rows: cached && m.is_some_and(|m| m > WHOLE_ROWS) }
}

/// Most points of which one more or less matters.
const MOST_UNEVEN: i64 = 9;

/// Fewest rows that are halved.
const LEAST_HALVED: i64 = 32;

/// Blocks of channels are a multiple of this, a vector of the widest tier.
const CHANNEL_STEP: i64 = 16;

/// Fewest channels of a block: fewer are not worth the calls for every line.
const LEAST_CHANNELS: i64 = 64;

/// Most channels of an image whose blocks are looked for.
const MOST_CHANNELS: i64 = 1 << 16;

/// Fewest and most blocks of channels.
const CHANNEL_BLOCKS: [i64; 2] = [4, 8];

/// The size of blocks of channels of an image of at most [`WHOLE_ROWS`] positions, of which contractions make and take
/// all positions: a thread then reads what it wrote. `None` for few channels and for more than any network has, and where
/// halves would be uneven.
pub fn channel_block(channels: i64) -> Option<i64> {
    if channels > MOST_CHANNELS {
        return None;
    }
    let [least, most] = CHANNEL_BLOCKS;
    let uneven = |block: i64| {
        let count = (channels + block - 1) / block;
        (2 * (count / 2) * block - channels).abs()
    };
    let first = (channels / most).max(LEAST_CHANNELS) / CHANNEL_STEP;
    let blocks = (first..=channels / least / CHANNEL_STEP + 1).rev().map(|steps| steps * CHANNEL_STEP);
    blocks.min_by_key(|&block| uneven(block)).filter(|&block| uneven(block) * 8 <= channels)
}

/// Parts of nearly equal size of `total`, multiples of `step` and at most about `most`.
pub fn even(total: i64, most: i64, step: i64) -> i64 {
    let above = |n: i64, d: i64| (n - 1) / d + 1;
    let total = total.max(1);
    above(above(total, above(total, most)), step) * step
}

/// The panel width for `n` columns and sums of `depth` products: the fewest padded columns among the multiples of a
/// vector that kernels like, the first of them on ties. Few vectors leave registers for tall tiles, which need less of the
/// panel a multiplication; many vectors write long lines, which counts where sums are short. A lone vector waits for the
/// elements of rows, of which each is then multiplied once: it has only columns that fit in it.
pub fn panel_width(n: i64, lanes: u32, depth: i64) -> u32 {
    let order: [u32; 3] = if depth < SHORT_SUM { [3, 4, 2] } else { [3, 2, 4] };
    if n <= i64::from(lanes) {
        return lanes;
    }
    let padded = |vectors: u32| {
        let width = i64::from(lanes * vectors);
        ((n - 1) / width + 1).saturating_mul(width)
    };
    lanes * order.into_iter().min_by_key(|&vectors| padded(vectors)).unwrap_or(1)
}

/// The same for panels of bytes, of `steps` steps of four products. With 256 bits, two vectors: what takes bytes apart
/// needs registers. With tile registers, two of them: each is then multiplied with two.
pub fn quad_width(n: i64, lanes: u32, steps: i64, tiles: bool) -> u32 {
    if lanes != 8 && !tiles {
        return panel_width(n, lanes, steps);
    }
    if n <= i64::from(lanes) { lanes } else { 2 * lanes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_whole_tiles_and_panels() {
        for width in [4, 8, 12, 16, 48] {
            for m in [None, Some(1), Some(49), Some(128), Some(3136)] {
                for n in [None, Some(10), Some(64), Some(3072)] {
                    for depth in [0, 3, 64, 768, 4608] {
                        let blocks = contract_blocks([m, n], depth, width, 1);
                        assert_eq!(blocks.columns % width, 0, "{blocks:?}");
                        assert!(blocks.rows >= 1 && blocks.columns >= width);
                        assert!(
                            Some(blocks.rows) == m
                                || blocks.rows % ROW_STEP == 0
                                || m.is_some_and(|m| m <= WHOLE_ROWS)
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn deep_sums_take_fewer_columns_and_all_rows() {
        let blocks = |m, n, depth| contract_blocks([Some(m), Some(n)], depth, 16, 1);
        assert_eq!(blocks(49, 512, 4608), Blocks { rows: 49, columns: 32, by_rows: false });
        assert_eq!(blocks(128, 768, 3072), Blocks { rows: 128, columns: 192, by_rows: false });
        assert_eq!(blocks(197, 768, 768), Blocks { rows: 197, columns: 48, by_rows: false });
        assert_eq!(blocks(3136, 64, 576), Blocks { rows: 240, columns: 64, by_rows: true });
        assert_eq!(blocks(256, 768, 768), Blocks { rows: 256, columns: 48, by_rows: false });
        assert_eq!(blocks(257, 768, 768).columns, 128);
    }

    #[test]
    fn small_layers_are_shared_and_tiny_ones_are_not() {
        let points = |m: i64, n: i64, depth| {
            let width = i64::from(panel_width(n, 16, depth));
            let b = contract_blocks([Some(m), Some(n)], depth, width, 1);
            ((m + b.rows - 1) / b.rows) * ((n + b.columns - 1) / b.columns)
        };
        assert!((6..=2 * POINTS).contains(&points(196, 112, 480)), "{}", points(196, 112, 480));
        assert!((6..=2 * POINTS).contains(&points(1, 1000, 1280)), "{}", points(1, 1000, 1280));
        assert_eq!(points(8, 32, 32), 1);
    }

    #[test]
    fn an_uneven_number_of_points_is_doubled() {
        assert_eq!(
            contract_blocks([Some(196), Some(112)], 672, 16, 1),
            Blocks { rows: 98, columns: 16, by_rows: true }
        );
        assert_eq!(
            contract_blocks([Some(49), Some(160)], 960, 32, 1),
            Blocks { rows: 25, columns: 32, by_rows: false }
        );
        // The last one has half of the columns.
        assert_eq!(
            contract_blocks([Some(196), Some(112)], 672, 32, 1),
            Blocks { rows: 98, columns: 32, by_rows: true }
        );
    }

    #[test]
    fn channels_are_halved_evenly() {
        assert_eq!(channel_block(480), Some(80));
        assert_eq!(channel_block(672), Some(112));
        assert_eq!(channel_block(240), Some(64));
        assert_eq!(channel_block(200), None);
        assert_eq!(channel_block(40), None);
        assert_eq!(channel_block(i64::MAX), None);
    }

    #[test]
    fn points_are_whole_lines() {
        let blocks = contract_blocks([Some(112 * 112), Some(64)], 147, 64, 112);
        assert_eq!(blocks, Blocks { rows: 7 * 112, columns: 64, by_rows: true });
    }

    #[test]
    fn panels_have_few_padded_columns() {
        assert_eq!([768, 64, 48, 40, 16, 1000].map(|n| panel_width(n, 16, 512)), [48, 32, 48, 48, 16, 48]);
        assert_eq!([768, 64, 48, 40, 16, 1000].map(|n| panel_width(n, 16, 16)), [48, 64, 48, 48, 16, 48]);
        assert_eq!([128, 256, 512, 320].map(|n| panel_width(n, 16, 512)), [32, 32, 32, 32]);
        assert_eq!([64, 128, 512].map(|n| panel_width(n, 8, 512)), [16, 16, 16]);
        // Vectors that are left over are no reason for panels of one vector.
        assert_eq!([112, 80, 72, 200, 24, 8].map(|n| panel_width(n, 16, 512)), [32, 48, 48, 32, 32, 16]);
    }
}
