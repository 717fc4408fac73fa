//! Whether minimal filtering pays, and how much of a layer one grid point does. Costs are in multiply-adds at full rate.
//!
//! The choice depends on shapes and the width of vectors alone.

use super::transform::{FOUR, TWO, Transform};
use crate::schedule::even;

/// A convolution of 3x3 taps with stride 1, channels last; sizes in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Images; 1 where their number is known at run time only.
    pub images: i64,
    /// Height and width of the input.
    pub input: [i64; 2],
    /// Height and width of the result.
    pub output: [i64; 2],
    /// Padding above and to the left.
    pub before: [i64; 2],
    /// Input channels.
    pub channels: i64,
    /// Output channels.
    pub filters: i64,
}

/// How a layer is computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// The algorithm, the same in both dimensions.
    pub transform: Transform,
    /// Tiles of an image: lines of tiles, tiles of a line.
    pub tiles: [i64; 2],
    /// Lines of tiles of a grid point.
    pub lines: i64,
    /// Output channels of a grid point: a multiple of the panel width, or all.
    pub columns: i64,
    /// Panel width of the transformed filters.
    pub width: u32,
    /// Input and output channels that are transformed at once.
    pub blocks: [i64; 2],
}

impl Plan {
    /// Sets the numbers of channels that are transformed at once: of whole vectors, and equal where possible.
    pub fn blocked(self, layer: &Layer, lanes: u32) -> Plan {
        let (n, m, lanes) =
            (self.transform.inputs() as i64, self.transform.outputs() as i64, i64::from(lanes));
        let block = |channels: i64, each: i64| {
            let least = SHORTEST * lanes;
            let fit =
                |count: &i64| channels % count == 0 && (count * each <= LINE_ELEMENTS || *count <= least);
            let vectors = (1..=channels / lanes).map(|v| v * lanes).rev();
            std::iter::once(channels).chain(vectors).find(fit).unwrap_or(least.min(channels))
        };
        let blocks =
            [block(layer.channels, n * self.padded_width()), block(self.columns, m * n * self.tiles[1])];
        Plan { blocks, ..self }
    }

    /// Positions of a line that its tiles read.
    pub fn padded_width(&self) -> i64 {
        self.tiles[1] * self.transform.outputs() as i64 + 2
    }

    /// Panels of a grid point's output channels.
    pub fn panels(&self) -> i64 {
        let width = i64::from(self.width);
        (self.columns + width - 1) / width
    }
}

/// Elements of what is along a line of tiles: half of a first-level cache of 48 KiB.
const LINE_ELEMENTS: i64 = 3 << 11;

/// Vectors of channels below which loops along them are short.
const SHORTEST: i64 = 4;

/// Elements of transformed inputs and products of a grid point: they stay in a second-level cache of 2 MiB while
/// panels pass.
const POINT_ELEMENTS: i64 = 11 << 15;

/// Filters of more elements come from beyond the second-level cache for every block of lines.
const CACHED_FILTERS: i64 = 5 << 15;

/// Multiply-adds of a grid point: a quarter of a millisecond, so that a few threads share a layer.
const POINT_WORK: i64 = 27 << 20;

/// Rows of a product's left operand that use a panel well which comes from the second-level cache.
const TILE_ROWS: i64 = 14;

/// Multiply-adds in the time that an element comes from memory, for each lane of a vector.
const FETCH: f64 = 3.0;

/// Multiply-adds in the time of one transformed element.
const TRANSFORM: f64 = 6.0;

/// What multiply-adds cost beyond full rate.
const RATE: f64 = 1.2;

/// Steps of a sum in the time that it takes to begin and store it.
const BEGIN: i64 = 8;

/// Part of the other's cost below which an algorithm of fewer products, with larger rounding errors, is taken.
const GAIN: f64 = 0.9;

/// Largest size of any dimension, and number of images: products of them and their costs fit in 64 bits.
const MOST: i64 = 1 << 14;
const MOST_IMAGES: i64 = 1 << 20;

/// The best plan for vectors of `lanes` elements; `None` where sums over taps are about as fast.
pub fn plan(layer: &Layer, lanes: u32) -> Option<Plan> {
    let sizes = [layer.input, layer.output, [layer.channels, layer.filters]];
    if sizes.as_flattened().iter().any(|n| !(4..=MOST).contains(n))
        || !(1..=MOST_IMAGES).contains(&layer.images)
    {
        return None;
    }
    let mut best = None;
    let mut least = direct_cost(layer, lanes);
    for transform in [TWO, FOUR] {
        let candidates = [1, 2, 3, 4, 6, 8, 12, 16].into_iter().filter_map(|parts| {
            let plan = divided(layer, transform, lanes, parts)?;
            Some((cost(layer, &plan, lanes), plan))
        });
        let Some((cost, plan)) = candidates.min_by(|a, b| a.0.total_cmp(&b.0)) else { continue };
        if cost < GAIN * least {
            (best, least) = (Some(plan), cost);
        }
    }
    best
}

/// The plan with output channels in about `parts` parts; `None` where a line of tiles is too much for a grid point.
fn divided(layer: &Layer, transform: Transform, lanes: u32, parts: i64) -> Option<Plan> {
    let width = width(layer.filters, lanes);
    let columns = even(layer.filters, (layer.filters + parts - 1) / parts, i64::from(width));
    let columns = columns.min(layer.filters);
    let m = transform.outputs() as i64;
    let products = (transform.inputs() * transform.inputs()) as i64;
    let tiles = layer.output.map(|n| (n + m - 1) / m);
    let line = products * tiles[1];
    let all = tiles[0] * layer.images;
    let fit = POINT_ELEMENTS / (line * (layer.channels + columns));
    let most = if products * layer.channels * layer.filters <= CACHED_FILTERS {
        fit.min((TILE_ROWS + tiles[1] - 1) / tiles[1])
    } else {
        fit.min((POINT_WORK / (line * layer.channels * columns)).max(1))
    };
    if most == 0 {
        return None;
    }
    let lines = even(all, most.min(all), 1);
    let plan = Plan { transform, tiles, lines, columns, width, blocks: [0; 2] };
    Some(plan.blocked(layer, lanes))
}

/// The panel width for `n` output channels: two vectors where that pads least. A panel of a whole sum and the rows that
/// pass by it then stay in the first-level cache.
fn width(n: i64, lanes: u32) -> u32 {
    let padded = |vectors: &u32| {
        let width = i64::from(vectors * lanes);
        (n + width - 1) / width * width
    };
    [2, 3, 4, 1].into_iter().min_by_key(padded).unwrap_or(1) * lanes
}

/// `n` in whole vectors.
fn whole(n: i64, lanes: u32) -> f64 {
    let lanes = i64::from(lanes);
    ((n + lanes - 1) / lanes * lanes) as f64
}

fn direct_cost(layer: &Layer, lanes: u32) -> f64 {
    let panels = (9 * layer.channels) as f64 * whole(layer.filters, lanes);
    let positions = (layer.images * layer.output[0] * layer.output[1]) as f64;
    (panels * positions * RATE).max(panels * FETCH * f64::from(lanes))
}

fn cost(layer: &Layer, plan: &Plan, lanes: u32) -> f64 {
    let products = (plan.transform.inputs() * plan.transform.inputs()) as f64;
    let lines = layer.images * plan.tiles[0];
    let transformed = products * (lines * plan.tiles[1]) as f64;
    let (channels, filters) = (whole(layer.channels, lanes), whole(layer.filters, lanes));
    let panels = products * layer.channels as f64 * filters;
    let times = if panels > CACHED_FILTERS as f64 { (lines + plan.lines - 1) / plan.lines } else { 1 };
    let repeats = (layer.filters + plan.columns - 1) / plan.columns;
    let multiplied = transformed * (layer.channels + BEGIN) as f64 * filters * RATE;
    let fetched = panels * times as f64 * FETCH * f64::from(lanes);
    multiplied.max(fetched) + TRANSFORM * transformed * (channels * repeats as f64 + filters)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn square(size: i64, channels: i64, images: i64) -> Layer {
        let (input, output) = ([size; 2], [size; 2]);
        Layer { images, input, output, before: [1; 2], channels, filters: channels }
    }

    fn outputs(layer: Layer) -> Option<usize> {
        plan(&layer, 16).map(|p| p.transform.outputs())
    }

    #[test]
    fn large_images_take_large_tiles_and_deep_ones_few_filters() {
        assert_eq!(outputs(square(56, 64, 1)), Some(4));
        assert_eq!(outputs(square(28, 128, 1)), Some(4));
        assert_eq!(outputs(square(14, 256, 1)), Some(2));
        // Transformed filters would take longer to come from memory than the sums take.
        assert_eq!(outputs(square(7, 512, 1)), None);
        assert!(outputs(square(7, 512, 16)).is_some());
    }

    #[test]
    fn few_channels_are_not_worth_it() {
        assert_eq!(outputs(square(224, 4, 1)), None);
        assert_eq!(outputs(square(3, 64, 1)), None);
    }

    #[test]
    fn sizes_beyond_the_bounds_are_refused_and_the_largest_do_not_overflow() {
        assert_eq!(outputs(square(56, 64, 0)), None);
        assert_eq!(outputs(square(56, 64, i64::MAX)), None);
        assert_eq!(outputs(square(i64::MAX, 64, 1)), None);
        assert_eq!(outputs(square(56, MOST + 1, 1)), None);
        for (size, channels) in [(56, 64), (MOST, 4), (MOST, MOST), (4, MOST)] {
            let layer = square(size, channels, MOST_IMAGES);
            assert!(direct_cost(&layer, 16) > 0.0);
            for plan in (1..=16).filter_map(|parts| divided(&layer, FOUR, 16, parts)) {
                assert!(cost(&layer, &plan, 16) > 0.0, "{plan:?}");
            }
        }
    }

    #[test]
    fn points_fit_and_cover_the_layer() {
        for size in [8, 14, 27, 56, 112] {
            for channels in [16, 24, 64, 100, 256] {
                for (images, lanes) in [(1, 16), (3, 8), (8, 4)] {
                    let layer = square(size, channels, images);
                    let Some(p) = plan(&layer, lanes) else { continue };
                    assert!(p.columns == channels || p.columns % i64::from(p.width) == 0, "{p:?}");
                    assert!((1..=images * p.tiles[0]).contains(&p.lines) && p.columns <= channels, "{p:?}");
                    let m = p.transform.outputs() as i64;
                    assert!(p.tiles[0] * m >= size && (p.tiles[0] - 1) * m < size);
                    let rows = p.lines * p.tiles[1];
                    let elements = (m + 2) * (m + 2) * rows * (channels + p.columns);
                    assert!(elements <= POINT_ELEMENTS, "{p:?}");
                }
            }
        }
    }
}
