//! Weights half of which or more are zero, as the lists of [`crate::kir::Sparse`], where a cost model over shapes and the
//! pattern says that skipping them pays.

use kiln_ir::{DType, Tensor};

use super::expr::{Axes, AxisId, Expr};
use super::panels::Panels;
use super::relayout::{extents, relayout};
use crate::kir::sparse::{Form, Parts, STRIP, Weight, Window, lists};
use crate::kir::{GROUP, PART};
use crate::schedule::even;

/// Rows of a tile: four vectors of the widest tier, or twice as many, which share the cost of an entry. Blocks of columns
/// leave no registers for more than four.
const ROWS: [i64; 2] = [64, 128];

/// Most pixels of a tile of whole lines.
const MOST_PIXELS: i64 = 256;

/// Rows of a vector.
const LANES: i64 = 16;

/// Most positions of a part that are tried. Longer parts have longer runs, shorter ones tiles that stay in the first-level
/// cache.
const DEPTHS: [i64; 7] = [16, 32, 64, 128, 256, 512, 1024];

/// Bytes of a tile that stays in the first-level cache.
const FIRST_LEVEL: i64 = 36 << 10;

/// Bytes of a tile that stays in the second-level cache beside sums and weights.
const SECOND_LEVEL: i64 = 512 << 10;

/// Most columns of a range, whose sums stay in the second-level cache.
const MOST_COLUMNS: i64 = 3072;

/// Fewer weights are not looked at.
const LEAST_WEIGHTS: usize = 1 << 12;

/// Grid points that there should be, so that threads share them.
const POINTS: i64 = 4;

/// How often a range's work must be worth the packing of its rows.
const WORTH: f64 = 24.0;

/// Share of the time of all products below which skipping pays.
const MARGIN: f64 = 0.95;

/// The same below which skipping is faster than transformed tiles, which take less than half of the products.
const TILES: f64 = 0.45;

/// Lists, and how they are taken apart; see [`crate::kir::Sparse`].
#[derive(Clone, Debug)]
pub(super) struct Weights {
    pub index: Tensor,
    pub values: Tensor,
    pub form: Form,
}

/// The rows of a contraction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows {
    /// How many, where that is known.
    pub count: Option<i64>,
    /// How they are pixels around which taps go.
    pub window: Option<Window>,
}

/// The sizes of a contraction with constant weights.
#[derive(Clone, Copy, Debug)]
struct Shape {
    rows: Rows,
    n: usize,
    taps: usize,
    run: usize,
}

/// Clock cycles of the parts of a contraction on one core of the widest tier, as measured; ratios are alike on others.
mod cycles {
    use super::{Entry, Kind};

    /// Of a multiply-add of a vector where all products are taken.
    pub const DENSE: f64 = 0.59;
    /// Of entries.
    pub const ENTRIES: [Entry; 3] = [
        Entry { kind: Kind::Floats, block: 1, own: 1.0, each: 0.8, far: 1.6 },
        Entry { kind: Kind::Floats, block: 4, own: 1.5, each: 2.1, far: 2.3 },
        Entry { kind: Kind::Quads, block: 1, own: 1.0, each: 0.8, far: 1.6 },
    ];
    /// Of a run: for itself, and for each vector of sums.
    pub const RUN: [f64; 2] = [20.0, 2.0];
    /// Of elements that are packed or whose sums are transposed, a vector of them.
    pub const MOVED: f64 = 6.0;
    /// Of those that are packed tap by tap, with padding.
    pub const STAGED: f64 = 14.0;
    /// Of vectors of a line that begin anywhere in it.
    pub const SHIFTED: f64 = 0.4;
    /// Of results that come from and go to beyond the second-level cache.
    pub const WRITTEN: f64 = 22.0;
}

/// Elements of a result that stays in the second-level cache.
const CACHED_RESULT: i64 = 1 << 18;

/// What weights are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Floats,
    /// Four bytes a position.
    Quads,
}

/// The clock cycles of an entry.
#[derive(Clone, Copy, Debug)]
struct Entry {
    kind: Kind,
    /// Columns of a run.
    block: usize,
    /// Of the entry itself.
    own: f64,
    /// Of each vector of rows.
    each: f64,
    /// The same where the tile comes from the second-level cache.
    far: f64,
}

/// What the weights of a pattern come to.
#[derive(Clone, Copy, Debug)]
struct Estimate {
    block: usize,
    parts: Parts,
    tile: Tile,
    /// Cycles of entries and runs, and of packing the rows, for as many rows as a vector has.
    products: f64,
    packing: f64,
    /// Cycles of so many rows.
    total: f64,
}

/// Packs the weights `tensor` at `offset` over tap, innermost and column axes; `None` where all products are as fast, or
/// sizes are not known.
pub(super) fn pack(
    tensor: &Tensor,
    offset: &Expr,
    [taps, run, columns]: [&[AxisId]; 3],
    axes: &Axes,
    rows: Rows,
) -> Option<Weights> {
    if tensor.dtype() != DType::F32 || tensor.numel() < LEAST_WEIGHTS {
        return None;
    }
    let product = |part: &[AxisId]| {
        extents(part, axes)?.into_iter().try_fold(1usize, |n, e| n.checked_mul(e)).filter(|n| *n > 0)
    };
    let shape = Shape { rows, n: product(columns)?, taps: product(taps)?, run: product(run)? };
    if mostly_nonzero(tensor) {
        return None;
    }
    let (dense, _) = relayout(tensor, offset, &[taps, run, columns].concat(), axes)?;
    let weights: Vec<f32> = floats(dense.bytes());
    // Some column may have more weights in a part than sums have products.
    let (values, index, form) = DEPTHS.into_iter().rev().find_map(|most| {
        let estimate = choose(&weights, shape, (Kind::Floats, most, MARGIN))?;
        packed(&weights, shape, estimate)
    })?;
    let block = form.block as usize;
    let values = Tensor::from_slice(&[values.len() / block, block], &values).ok()?;
    Some(Weights { index, values, form })
}

/// The same of bytes in panels `[1][panels][taps][steps][width][4]`, of `n` columns.
pub(super) fn pack_quads(panels: &Panels, n: usize, rows: Rows) -> Option<Weights> {
    const SIZE: usize = GROUP as usize;
    let &[1, count, taps, run, width, SIZE] = panels.tensor.dims() else { return None };
    let is_zero = |quad: &&[u8]| quad.iter().all(|b| *b == 0);
    let zeros = panels.tensor.bytes().chunks_exact(SIZE).filter(is_zero).count();
    if panels.tensor.numel() < LEAST_WEIGHTS || zeros * 16 < panels.tensor.numel() / SIZE * 7 {
        return None;
    }
    let mut weights = vec![[0i8; SIZE]; taps.checked_mul(run)?.checked_mul(n)?];
    for (i, row) in panels.tensor.bytes().chunks_exact(width * SIZE).enumerate() {
        let (panel, at) = (i / (taps * run), i % (taps * run));
        for (column, quad) in row.chunks_exact(SIZE).enumerate() {
            let column = panel * width + column;
            if let (true, Some(to)) = (column < n, weights.get_mut(at * n + column)) {
                to.iter_mut().zip(quad).for_each(|(to, from)| *to = *from as i8);
            }
        }
    }
    debug_assert!(count * width >= n);
    let shape = Shape { rows, n, taps, run };
    let most = i64::try_from(taps.checked_mul(run)?).ok()?;
    let estimate = choose(&weights, shape, (Kind::Quads, most, MARGIN))?;
    let (values, index, form) = packed(&weights, shape, estimate)?;
    let dims = [values.len() / estimate.block, estimate.block, SIZE];
    let values = Tensor::from_slice(&dims, values.as_flattened()).ok()?;
    Some(Weights { index, values, form })
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// Whether less than about half of the weights are zero, as no pattern then pays: a quick look, since most weights are
/// dense.
fn mostly_nonzero(tensor: &Tensor) -> bool {
    let zeros =
        tensor.bytes().chunks_exact(4).filter(|b| **b == [0, 0, 0, 0] || **b == [0, 0, 0, 0x80]).count();
    // Layers that keep half of their blocks may keep one more.
    zeros * 16 < tensor.numel() * 7
}

/// Whether skipping the filters `[filters][channels][3][3]` that are zero is faster than transformed tiles.
pub(super) fn beats_tiles(filters: &Tensor, rows: Rows) -> bool {
    let &[n, run, h, w] = filters.dims() else { return false };
    let taps = h * w;
    if filters.dtype() != DType::F32 || filters.numel() < LEAST_WEIGHTS || mostly_nonzero(filters) {
        return false;
    }
    let own = floats(filters.bytes());
    let mut weights = vec![0.0; own.len()];
    for (i, value) in own.into_iter().enumerate() {
        let (filter, channel, tap) = (i / taps / run, i / taps % run, i % taps);
        if let Some(to) = weights.get_mut((tap * run + channel) * n + filter) {
            *to = value;
        }
    }
    choose(&weights, Shape { rows, n, taps, run }, (Kind::Floats, PART, TILES)).is_some()
}

/// The pattern, the parts of at most `most` positions and the tile that take the least time; `None` where that is not below
/// a share of the time of all products.
fn choose<W: Weight>(weights: &[W], shape: Shape, (kind, most, share): (Kind, i64, f64)) -> Option<Estimate> {
    let mut best: Option<Estimate> = None;
    for entry in cycles::ENTRIES.iter().filter(|e| e.kind == kind) {
        let entries = entries(weights, shape.n, entry.block) as f64;
        for tile in tiles(shape, entry.block) {
            for depth in DEPTHS.into_iter().filter(|d| *d <= most.max(DEPTHS[0])) {
                let Some(estimate) = estimate(shape, (entry, entries), (tile, depth)) else { continue };
                if best.is_none_or(|best| estimate.total < best.total) {
                    best = Some(estimate);
                }
            }
        }
    }
    let best = best?;
    let rows = shape.rows.count.unwrap_or(ROWS[0]).clamp(1, ROWS[0]) as f64;
    let dense =
        cycles::DENSE * (shape.taps * shape.run * shape.n) as f64 * (0.5 * LANES as f64 / rows).max(1.0);
    tracing::trace!(?shape, ?best, dense, "a sparse operand");
    (best.total < share * dense).then_some(best)
}

/// Rows of a tile, and what they are.
#[derive(Clone, Copy, Debug)]
struct Tile {
    rows: i64,
    window: Option<Window>,
    /// Elements between positions.
    line: i64,
    /// Rows of the contraction in it.
    step: i64,
    /// Rows that are computed for each one of the contraction.
    waste: f64,
}

/// Tiles to try.
fn tiles(shape: Shape, block: usize) -> Vec<Tile> {
    let count = shape.rows.count.unwrap_or(ROWS[0]).max(1);
    let whole = |rows: i64| (rows + LANES - 1) / LANES * LANES;
    let sizes = ROWS.into_iter().filter(|size| *size == ROWS[0] || block == 1 && count >= *size);
    let plain = sizes.map(|size| {
        let rows = whole(count).min(size);
        // Rows that fill a vector in part take as long as whole ones.
        let waste = if count < ROWS[0] { rows as f64 / count as f64 } else { 1.0 };
        Tile { rows, window: None, line: rows, step: rows, waste }
    });
    let mut tiles: Vec<Tile> = plain.collect();
    let Some(window) = shape.rows.window else { return tiles };
    let [height, width] = window.image.map(i64::from);
    for lines in 1..=height {
        let rows = whole(window.spread(lines));
        if rows > MOST_PIXELS {
            break;
        }
        let form = Form { columns: 1, block: 1, depth: 1, group: 1, rows: rows as u32, window: Some(window) };
        let computed = height / lines * rows + whole(window.spread(height % lines));
        let waste = computed as f64 / (height * width) as f64;
        // Vectors of more lines may fit.
        tiles.push(Tile { rows, window: Some(window), line: form.line(), step: form.step(), waste });
    }
    tiles
}

/// Calls of functions that a tile of so many vectors takes, which each go through the list.
fn passes(vectors: i64, block: usize) -> i64 {
    let most = if block == 1 { 8 } else { 4 };
    vectors / most + i64::from((vectors % most).count_ones())
}

/// What a tile and parts of at most `depth` positions come to; `None` where that is not to be had.
fn estimate(shape: Shape, (entry, entries): (&Entry, f64), (tile, depth): (Tile, i64)) -> Option<Estimate> {
    let (positions, n, block) = ((shape.taps * shape.run) as f64, shape.n as f64, entry.block as f64);
    let vectors = tile.rows / LANES;
    let taken_apart = parts(shape, tile.window, depth);
    let length = taken_apart.taps[1].checked_mul(taken_apart.run[1])?;
    let bytes = length.checked_mul(tile.line * 4)?;
    let count = taken_apart.count() as f64;
    let each_run = entries * block / n / count;
    if bytes > SECOND_LEVEL || (entry.kind == Kind::Floats && each_run > PART as f64) {
        return None;
    }
    let mut each = if bytes <= FIRST_LEVEL { entry.each } else { entry.far };
    if tile.window.is_some() {
        each += cycles::SHIFTED;
    }
    let passes = passes(vectors, entry.block) as f64 / vectors as f64;
    let runs = (n / block) * count.min(1.0 + entries * block / n);
    let run = cycles::RUN[0] * passes + cycles::RUN[1] * block;
    let products = (entries * (entry.own * passes + each) + runs * run) * tile.waste;
    let packing = match tile.window {
        // All of a line is packed, for all taps.
        Some(_) => cycles::STAGED * shape.run as f64 * tile.line as f64 / tile.step as f64,
        None if shape.taps > 1 => cycles::STAGED * positions * tile.waste,
        None => cycles::MOVED * positions * tile.waste,
    };
    let beyond = shape.rows.count.is_some_and(|m| m.saturating_mul(shape.n as i64) > CACHED_RESULT);
    let moved = if beyond { cycles::WRITTEN } else { cycles::MOVED };
    let total = products + packing + moved * n * tile.waste;
    Some(Estimate { block: entry.block, parts: taken_apart, tile, products, packing, total })
}

/// Blocks of `block` columns of a row of weights that hold one that is not zero.
fn entries<W: Weight>(weights: &[W], n: usize, block: usize) -> usize {
    let rows = weights.chunks_exact(n);
    rows.flat_map(|row| row.chunks(block)).filter(|b| b.iter().any(|w| *w != W::default())).count()
}

/// Parts of at most `most` positions; with a window, all taps are one.
fn parts(shape: Shape, window: Option<Window>, most: i64) -> Parts {
    let run = shape.run as i64;
    let depth = if run > most { even(run, most, LANES) } else { most };
    Parts::new(if window.is_some() { 1 } else { shape.taps as i64 }, run, depth)
}

/// Columns of a range: all, but for few rows as many as give threads something to share.
fn range(shape: Shape, estimate: Estimate) -> i64 {
    let (n, step) = (shape.n as i64, estimate.tile.step.max(1));
    let tiles = shape.rows.count.map_or(POINTS, |m| (m + step - 1) / step).max(1);
    let wanted = (POINTS + tiles - 1) / tiles;
    let worth = (estimate.products / (WORTH * estimate.packing)) as i64;
    let most = (n / wanted.min(worth).max(1)).clamp(STRIP, MOST_COLUMNS);
    even(n, most, STRIP)
}

/// Values, index and form of the lists.
fn packed<W: Weight>(weights: &[W], shape: Shape, estimate: Estimate) -> Option<(Vec<W>, Tensor, Form)> {
    let (parts, tile) = (estimate.parts, estimate.tile);
    let form = Form {
        columns: u32::try_from(range(shape, estimate)).ok()?,
        block: estimate.block as u32,
        depth: u32::try_from(parts.taps[1] * parts.run[1]).ok()?,
        rows: u32::try_from(tile.rows).ok()?,
        group: W::GROUP,
        window: tile.window,
    };
    let (index, values) = lists(weights, [shape.taps, shape.run, shape.n], form)?;
    Some((values, Tensor::from_slice(&[index.len()], &index).ok()?, form))
}
