//! Ranges of values: candidates from what was seen, and the one whose error is least.

use super::statistics::Histogram;

/// How a range was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    /// Everything that was seen.
    MinMax,
    /// This share of it on either side, in percent.
    Percentile(f64),
    /// The least divergence between the distributions before and after (Migacz: "8-bit inference with TensorRT", GTC 2017).
    Entropy,
    /// The least mean square error over the histogram.
    Mse,
}

impl std::fmt::Display for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Method::MinMax => f.write_str("min-max"),
            Method::Percentile(p) => write!(f, "percentile {p}"),
            Method::Entropy => f.write_str("entropy"),
            Method::Mse => f.write_str("mse"),
        }
    }
}

/// Numbers that 256 integers stand for; 0 is one of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// The distance of two of them.
    pub scale: f32,
    /// The integer that stands for 0.
    pub zero: u8,
}

impl Range {
    /// The range that holds `low`, 0 and `high`.
    pub fn of(low: f64, high: f64) -> Self {
        let (low, high) = (low.min(0.0), high.max(0.0));
        let scale = ((high - low) / 255.0) as f32;
        if !(scale.is_finite() && scale >= f32::MIN_POSITIVE) {
            return Range { scale: 1.0, zero: 0 };
        }
        let zero = (-low / f64::from(scale)).round().clamp(0.0, 255.0);
        Range { scale, zero: zero as u8 }
    }

    /// A number quantized and dequantized.
    pub fn rounded(self, v: f64) -> f64 {
        let scale = f64::from(self.scale);
        let q = (v / scale).round_ties_even() + f64::from(self.zero);
        (q.clamp(0.0, 255.0) - f64::from(self.zero)) * scale
    }
}

/// Shares of what is seen that percentiles keep, in percent.
const PERCENTILES: [f64; 3] = [99.9, 99.99, 99.999];

/// Ranges that are tried as shares of the whole one.
const STEPS: usize = 48;

/// The candidates for values between `low` and `high`.
pub(super) fn candidates(histogram: &Histogram, low: f64, high: f64) -> Vec<(Method, Range)> {
    let (low, high) = (low.min(0.0), high.max(0.0));
    let mut all = vec![(Method::MinMax, Range::of(low, high))];
    let filled = histogram.filled();
    let total: f64 = filled.iter().map(|(_, c)| c).sum();
    for share in PERCENTILES {
        let beyond = total * (1.0 - share / 100.0);
        let (from, to) = (beyond_share(filled.iter(), beyond), beyond_share(filled.iter().rev(), beyond));
        all.push((Method::Percentile(share), Range::of(from.max(low), to.min(high))));
    }
    let square = |r: Range| filled.iter().map(|(v, c)| c * (v - r.rounded(*v)).powi(2)).sum::<f64>();
    if let Some(best) = least(shrunk(low, high), square) {
        // Each side on its own from there.
        let (from, to) = best;
        let sides = (0..STEPS).flat_map(|i| {
            let t = (i + 1) as f64 / STEPS as f64;
            [(low * t, to), (from, high * t)]
        });
        let best = least(sides.chain([best]), square).unwrap_or(best);
        all.push((Method::Mse, Range::of(best.0, best.1)));
    }
    let divergence = |r: Range| divergence(&filled, r);
    if let Some(best) = least(shrunk(low, high), divergence) {
        all.push((Method::Entropy, Range::of(best.0, best.1)));
    }
    all
}

/// The first number before which more than `beyond` were counted.
fn beyond_share<'a>(mut ordered: impl Iterator<Item = &'a (f64, f64)>, beyond: f64) -> f64 {
    let mut seen = 0.0;
    let first = ordered.find(|(_, count)| {
        seen += count;
        seen > beyond
    });
    first.map_or(0.0, |(v, _)| *v)
}

fn shrunk(low: f64, high: f64) -> impl Iterator<Item = (f64, f64)> {
    (STEPS / 8..=STEPS).map(move |i| i as f64 / STEPS as f64).map(move |t| (low * t, high * t))
}

/// The bounds whose range costs least; of equal ones the widest.
fn least(bounds: impl Iterator<Item = (f64, f64)>, cost: impl Fn(Range) -> f64) -> Option<(f64, f64)> {
    let costs = bounds.map(|(low, high)| ((low, high), cost(Range::of(low, high))));
    let width = |b: &(f64, f64)| b.1 - b.0;
    costs
        .filter(|(_, c)| c.is_finite())
        .min_by(|(a, x), (b, y)| x.total_cmp(y).then(width(b).total_cmp(&width(a))))
        .map(|(bounds, _)| bounds)
}

/// The divergence of the distribution that 256 integers can show from the one that was seen.
fn divergence(filled: &[(f64, f64)], range: Range) -> f64 {
    let place = |v: f64| {
        let q = (v / f64::from(range.scale)).round_ties_even() + f64::from(range.zero);
        q.clamp(0.0, 255.0) as usize
    };
    let clipped = |v: f64| {
        let q = (v / f64::from(range.scale)).round_ties_even() + f64::from(range.zero);
        !(0.0..=255.0).contains(&q)
    };
    // Each integer spreads what it stands for evenly over the bins that it covers; what is clipped weighs on its end.
    let (mut inside, mut bins, mut all) = ([0.0; 256], [0.0; 256], [0.0; 256]);
    for &(v, c) in filled {
        let at = place(v);
        all[at] += c;
        if !clipped(v) {
            inside[at] += c;
            bins[at] += 1.0;
        }
    }
    let total: f64 = all.iter().sum();
    let kept: f64 = inside.iter().sum();
    if total == 0.0 || kept == 0.0 {
        return f64::INFINITY;
    }
    let mut sum = 0.0;
    let mut ends = all;
    for &(v, c) in filled.iter().filter(|(v, _)| !clipped(*v)) {
        let at = place(v);
        // The first bin of an integer carries what was clipped to it.
        let outside = (ends[at] - inside[at]).max(0.0);
        ends[at] = inside[at];
        let p = (c + outside) / total;
        let q = inside[at] / bins[at] / kept;
        sum += p * (p / q).ln();
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that are spread like a normal distribution, without randomness.
    fn bell(count: usize) -> Vec<f64> {
        (0..count)
            .map(|i| {
                let parts = (1..=12).map(|k| ((i * k * 7919) % 10007) as f64 / 10007.0);
                parts.sum::<f64>() - 6.0
            })
            .collect()
    }

    fn histogram(values: &[f64]) -> Histogram {
        let mut h = Histogram::new();
        h.widen(values.iter().fold(0.0, |m, v| v.abs().max(m)));
        values.iter().for_each(|&v| h.count(v));
        h
    }

    #[test]
    fn what_a_range_holds_errs_by_half_a_step() {
        for (low, high) in [(-1.0, 1.0), (0.0, 6.0), (-0.17, 4.0), (-3.0, 0.0), (1.0, 2.0), (1e-20, 1e-20)] {
            let r = Range::of(low, high);
            for i in 0..=1000 {
                let v = low.min(0.0) + (high.max(0.0) - low.min(0.0)) * f64::from(i) / 1000.0;
                // The zero point is rounded, so the ends may lie half a step outside.
                let error = (v - r.rounded(v)).abs();
                assert!(error <= f64::from(r.scale) * 1.001, "{v} in {low}..{high}: {error}");
            }
            assert_eq!(r.rounded(0.0), 0.0);
        }
    }

    #[test]
    fn outliers_are_clipped_by_percentiles() {
        let mut values = bell(20000);
        values.push(40.0);
        let all = candidates(&histogram(&values), -6.0, 40.0);
        let find = |m: Method| all.iter().find(|(n, _)| *n == m).unwrap().1;
        let reach = |r: Range| f64::from(r.scale) * f64::from(255 - r.zero);
        let error = |r: Range| values.iter().map(|v| (v - r.rounded(*v)).powi(2)).sum::<f64>();
        assert!(reach(find(Method::MinMax)) > 39.0);
        assert!(reach(find(Method::Percentile(99.9))) < 10.0);
        assert!(error(find(Method::Mse)) <= error(find(Method::MinMax)));
        assert!(reach(find(Method::Entropy)) < 39.0);
    }

    #[test]
    fn without_outliers_little_is_clipped() {
        let values = bell(20000);
        let (low, high) = values.iter().fold((0.0f64, 0.0f64), |(l, h), v| (l.min(*v), h.max(*v)));
        for (method, range) in candidates(&histogram(&values), low, high) {
            let error: f64 = values.iter().map(|v| (v - range.rounded(*v)).powi(2)).sum();
            let signal: f64 = values.iter().map(|v| v * v).sum();
            assert!(10.0 * (signal / error).log10() > 30.0, "{method}: {:e}", error / signal);
        }
    }
}
