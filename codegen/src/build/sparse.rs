//! Weights half of which or more are zero, as the lists of [`crate::kir::Sparse`], where a cost model over shapes and the
//! pattern says that skipping them pays.

use kiln_ir::{DType, Tensor};

use super::expr::{Axes, AxisId, Expr};
use super::relayout::{extents, relayout};
use crate::kir::sparse::{Form, Parts, STRIP, lists};
use crate::schedule::even;

/// Rows of a tile: four vectors of the widest tier. A part's tile is then in the first-level cache beside the sums.
const ROWS: i64 = 64;

/// Rows of a vector.
const LANES: i64 = 16;

/// Most positions of a part.
const DEPTH: i64 = 128;

/// The same where blocks are few: the tile then comes from the second-level cache, and runs are longer.
const DEEP: i64 = 256;

/// Part of the blocks that are entries below which they are few.
const FEW: f64 = 0.25;

/// Most columns of a range, whose sums stay in the second-level cache.
const MOST_COLUMNS: i64 = 3072;

/// Columns of a run that are tried, the widest first.
const BLOCKS: [usize; 2] = [4, 1];

/// Fewer weights are not looked at.
const LEAST_WEIGHTS: usize = 1 << 12;

/// Grid points that there should be, so that threads share them.
const POINTS: i64 = 4;

/// How often a range's work must be worth the packing of its rows.
const WORTH: f64 = 12.0;

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

/// The sizes of a contraction with constant weights.
#[derive(Clone, Copy, Debug)]
struct Shape {
    /// Rows, where they are known.
    m: Option<i64>,
    n: usize,
    taps: usize,
    run: usize,
}

/// Clock cycles of the parts of a contraction on one core of the widest tier, as measured; ratios are alike on others.
mod cycles {
    /// Of a multiply-add of a vector where all products are taken.
    pub const DENSE: f64 = 0.59;
    /// Of an entry of one weight and of four: for itself, and for each vector of rows.
    pub const ENTRY: [(usize, [f64; 2]); 2] = [(1, [1.0, 0.8]), (4, [1.5, 2.1])];
    /// Of a run: for itself, and for each vector of sums.
    pub const RUN: [f64; 2] = [10.0, 1.3];
    /// Of elements that are packed or whose sums are transposed, a vector of them.
    pub const MOVED: f64 = 6.0;
    /// Of those that are packed tap by tap, with padding.
    pub const STAGED: f64 = 14.0;
    /// Of results that come from and go to beyond the second-level cache.
    pub const WRITTEN: f64 = 22.0;
}

/// Elements of a result that stays in the second-level cache.
const CACHED_RESULT: i64 = 1 << 18;

/// What the weights of a pattern come to.
#[derive(Clone, Copy, Debug)]
struct Estimate {
    block: usize,
    parts: Parts,
    /// Cycles of entries and runs, and of packing the rows, for one tile.
    products: f64,
    packing: f64,
    /// Cycles of one tile.
    total: f64,
}

/// Packs the weights `tensor` at `offset` over tap, innermost and column axes; `None` where all products are as fast, or
/// sizes are not known.
pub(super) fn pack(
    tensor: &Tensor,
    offset: &Expr,
    [taps, run, columns]: [&[AxisId]; 3],
    axes: &Axes,
    m: Option<i64>,
) -> Option<Weights> {
    if tensor.dtype() != DType::F32 || tensor.numel() < LEAST_WEIGHTS {
        return None;
    }
    let product = |part: &[AxisId]| {
        extents(part, axes)?.into_iter().try_fold(1usize, |n, e| n.checked_mul(e)).filter(|n| *n > 0)
    };
    let shape = Shape { m, n: product(columns)?, taps: product(taps)?, run: product(run)? };
    if mostly_nonzero(tensor) {
        return None;
    }
    let (dense, _) = relayout(tensor, offset, &[taps, run, columns].concat(), axes)?;
    let weights: Vec<f32> = floats(dense.bytes());
    let (estimate, tile_rows) = choose(&weights, shape, MARGIN)?;
    packed(&weights, shape, estimate, tile_rows)
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

/// Whether skipping the filters `[filters][channels][3][3]` that are zero is faster than transformed tiles, for a result of
/// so many positions.
pub(super) fn beats_tiles(filters: &Tensor, positions: Option<i64>) -> bool {
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
    choose(&weights, Shape { m: positions, n, taps, run }, TILES).is_some()
}

/// The pattern that takes the least time, and the rows of tiles; `None` where that is not below a share of the time of all
/// products.
fn choose(weights: &[f32], shape: Shape, share: f64) -> Option<(Estimate, i64)> {
    let rows = shape.m.unwrap_or(ROWS).max(1);
    let vectors = (rows + LANES - 1) / LANES;
    let tile_rows = (vectors * LANES).min(ROWS);
    let tile = tile_rows / LANES;
    let (depth, n) = ((shape.taps * shape.run) as f64, shape.n as f64);
    // Rows that fill a vector in part take as long as whole ones, also where all products are taken.
    let dense = cycles::DENSE * depth * n * (rows.min(ROWS) as f64 / LANES as f64).max(0.5);
    let packed = if shape.taps > 1 { cycles::STAGED } else { cycles::MOVED };
    let beyond = shape.m.is_some_and(|m| m.saturating_mul(shape.n as i64) > CACHED_RESULT);
    let moved = if beyond { cycles::WRITTEN } else { cycles::MOVED };
    let estimates = BLOCKS.map(|block| {
        let entries = entries(weights, shape.n, block) as f64;
        let few = block > 1 && entries * (block as f64) < FEW * depth * n;
        let taken_apart = parts(shape, if few { DEEP } else { DEPTH });
        let parts = taken_apart.count() as f64;
        let [own, each] = cycles::ENTRY.iter().find(|e| e.0 == block).map_or([f64::INFINITY; 2], |e| e.1);
        let runs = (shape.n as f64 / block as f64) * parts.min(1.0 + entries * block as f64 / n);
        let run = cycles::RUN[0] + cycles::RUN[1] * (block as i64 * tile) as f64;
        let products = entries * (own + each * tile as f64) + runs * run;
        let packing = packed * depth * tile as f64;
        let total = products + packing + moved * n * tile as f64;
        Estimate { block, parts: taken_apart, products, packing, total }
    });
    let best = estimates.into_iter().min_by(|a, b| a.total.total_cmp(&b.total))?;
    tracing::trace!(?shape, ?best, dense, "a sparse operand");
    (best.total < share * dense).then_some((best, tile_rows))
}

/// Blocks of `block` columns of a row of weights that hold one that is not zero.
fn entries(weights: &[f32], n: usize, block: usize) -> usize {
    weights.chunks_exact(n).flat_map(|row| row.chunks(block)).filter(|b| b.iter().any(|w| *w != 0.0)).count()
}

fn parts(shape: Shape, most: i64) -> Parts {
    let depth = if shape.run as i64 > most { even(shape.run as i64, most, LANES) } else { most };
    Parts::new(shape.taps as i64, shape.run as i64, depth)
}

/// Columns of a range: all, but for few rows as many as give threads something to share.
fn range(shape: Shape, estimate: Estimate) -> i64 {
    let n = shape.n as i64;
    let tiles = shape.m.map_or(POINTS, |m| (m + ROWS - 1) / ROWS).max(1);
    let wanted = (POINTS + tiles - 1) / tiles;
    let worth = (estimate.products / (WORTH * estimate.packing)) as i64;
    let most = (n / wanted.min(worth).max(1)).clamp(STRIP, MOST_COLUMNS);
    even(n, most, STRIP)
}

fn packed(weights: &[f32], shape: Shape, estimate: Estimate, tile_rows: i64) -> Option<Weights> {
    let parts = estimate.parts;
    let form = Form {
        columns: u32::try_from(range(shape, estimate)).ok()?,
        block: estimate.block as u32,
        depth: u32::try_from(parts.taps[1] * parts.run[1]).ok()?,
        rows: u32::try_from(tile_rows).ok()?,
    };
    let (index, values) = lists(weights, [shape.taps, shape.run, shape.n], form)?;
    let entries = values.len() / estimate.block;
    Some(Weights {
        index: Tensor::from_slice(&[index.len()], &index).ok()?,
        values: Tensor::from_slice(&[entries, estimate.block], &values).ok()?,
        form,
    })
}
