//! Densities of layers: the units of largest scores over all layers are kept, where a score counts as a part of its layer's.
//!
//! What a layer's results lack is then worth as much in one layer as in another for each weight kept. Small layers, and those
//! whose results hang on few weights, keep more of the weights, or fewer.

use super::{Method, Pattern, Pruning, Units};

/// A layer's density as a part of the whole, at least and at most.
const SPREAD: [f64; 2] = [0.5, 2.0];

/// Steps of bisection: more would not change the density of the largest layers.
const STEPS: usize = 50;

/// The densities of layers, in order.
pub(super) fn shared<'u>(layers: impl Iterator<Item = &'u Units>, pruning: &Pruning) -> Vec<f64> {
    let layers: Vec<Layer> = layers.map(Layer::of).collect();
    let uniform = vec![pruning.density; layers.len()];
    match (pruning.pattern, pruning.method) {
        (Pattern::TwoOfFour, _) | (_, Method::Magnitude) => return uniform,
        (Pattern::Unstructured | Pattern::Block4 | Pattern::Block4Inputs, Method::Wanda) => {}
    }
    let wanted = pruning.density * layers.iter().map(|l| l.weights).sum::<f64>();
    let at = |threshold: f64| -> Vec<f64> {
        layers.iter().map(|l| l.above(threshold).clamp(SPREAD[0] * pruning.density, most(pruning))).collect()
    };
    let kept = |densities: &[f64]| densities.iter().zip(&layers).map(|(d, l)| d * l.weights).sum::<f64>();
    // Shares of a layer's scores are at most 1.
    let (mut low, mut high) = (-60.0f64, 0.0f64);
    for _ in 0..STEPS {
        let middle = 0.5 * (low + high);
        if kept(&at(middle.exp())) > wanted { low = middle } else { high = middle }
    }
    let mut densities = at(high.exp());
    // Many equal scores leave a rest; it is shared by all that may have more.
    let (kept, most) = (kept(&densities), most(pruning));
    let room: f64 = densities.iter().zip(&layers).map(|(d, l)| (most - d) * l.weights).sum();
    if wanted > kept && room > 0.0 {
        let part = ((wanted - kept) / room).min(1.0);
        densities.iter_mut().for_each(|d| *d += part * (most - *d));
    }
    densities
}

fn most(pruning: &Pruning) -> f64 {
    (SPREAD[1] * pruning.density).min(1.0)
}

/// The scores of a layer.
struct Layer {
    weights: f64,
    /// Parts of the sum of all, largest first.
    shares: Vec<f64>,
}

impl Layer {
    fn of(units: &Units) -> Layer {
        let total = units.total();
        let part = |sum: &f64| if total > 0.0 { sum / total } else { 0.0 };
        let mut shares: Vec<f64> = units.sums.iter().filter(|s| **s >= 0.0).map(part).collect();
        shares.sort_unstable_by(|a, b| b.total_cmp(a));
        Layer { weights: units.of.len() as f64, shares }
    }

    /// The part of the units whose share is above a threshold, for each weight of a unit.
    fn above(&self, threshold: f64) -> f64 {
        let each = self.weights / self.shares.len().max(1) as f64;
        let count = self.shares.partition_point(|s| *s > threshold * each);
        count as f64 / self.shares.len().max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn units(sums: Vec<f64>, each: usize) -> Units {
        let of = (0..sums.len() * each).map(|i| i / each).collect();
        Units { of, sums, compared: usize::MAX }
    }

    fn densities(layers: &[Units], method: Method, density: f64) -> Vec<f64> {
        let pruning = Pruning { method, pattern: Pattern::Unstructured, density };
        shared(layers.iter(), &pruning)
    }

    #[test]
    fn the_density_is_that_of_all_layers() {
        let skewed: Vec<f64> = (0..4000).map(|i| f64::from(i % 50).powi(6)).collect();
        let even: Vec<f64> = (0..1000).map(|i| 1.0 + f64::from(i % 10) * 0.01).collect();
        let layers = [units(skewed, 1), units(even, 1), units(vec![1.0; 500], 4)];
        for density in [0.05, 0.3, 0.5, 0.8, 1.0] {
            let all = densities(&layers, Method::Wanda, density);
            let weights = [4000.0, 1000.0, 2000.0];
            let kept: f64 = all.iter().zip(weights).map(|(d, n)| d * n).sum();
            assert!((kept / 7000.0 - density).abs() < 0.01, "{density}: {all:?}");
            assert!(all.iter().all(|d| *d >= 0.499 * density && *d <= (2.0 * density).min(1.0)), "{all:?}");
            // Most of what the first computes is of few weights, which the first few that are kept are among.
            assert!(density != 0.5 || all[0] < all[1], "{all:?}");
            assert!(density != 0.05 || all[0] > all[1], "{all:?}");
        }
    }

    #[test]
    fn layers_without_scores_and_without_calibration_have_what_was_asked_for() {
        assert_eq!(densities(&[units(vec![0.0; 10], 1)], Method::Magnitude, 0.3), [0.3]);
        let all = densities(&[units(vec![0.0; 10], 1), units(vec![0.0; 20], 1)], Method::Wanda, 0.3);
        assert!(all.iter().all(|d| (d - 0.3).abs() < 1e-6), "{all:?}");
        assert_eq!(densities(&[], Method::Wanda, 0.5), [0.0; 0]);
    }
}
