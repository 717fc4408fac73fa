//! Parameters of a point and its layers: those of the least error in the layers' results.

use kiln_ir::{Tensor, TensorError};

use super::ranges::{self, Method, Range};
use super::statistics::Histogram;
use super::{Layer, Statistics, Weights, floats};

/// Whether channels may have factors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Smoothing {
    /// Where that lowers the error.
    Measured,
    /// Nowhere.
    Off,
}

/// What was chosen for a point.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Scale and zero point of the value divided by the factors.
    pub range: Range,
    /// How the range was found.
    pub method: Method,
    /// Factors of the channels, if they are not all 1.
    pub factors: Option<Vec<f32>>,
    /// The exponent of the values' range in the factors; 0 without factors.
    pub alpha: f64,
    /// Quantized weights of the point's layers, in the point's order.
    pub weights: Vec<Weights>,
    /// For each layer, what its results lack on average, by output channel.
    pub corrections: Vec<Vec<f32>>,
}

/// Exponents that are tried.
const ALPHAS: [f64; 4] = [0.0, 0.35, 0.5, 0.7];

/// Chooses the parameters of a point that layers take, whose weights are given with them; without layers, the range alone.
pub fn choose(
    statistics: &Statistics,
    layers: &[(&Layer, &Tensor)],
    smoothing: Smoothing,
) -> Result<Choice, TensorError> {
    let fits = |(l, w): &(&Layer, &Tensor)| l.counts(w.dims()).1 == statistics.channels();
    let known = layers.iter().all(fits) && statistics.channels() > 1;
    let mut best: Option<(f64, Choice)> = None;
    for alpha in ALPHAS {
        if alpha > 0.0 && !(known && smoothing == Smoothing::Measured && !layers.is_empty()) {
            continue;
        }
        let factors = (alpha > 0.0).then(|| factors(statistics, layers, alpha));
        let (error, choice) = with_factors(statistics, layers, alpha, factors, known)?;
        // A factor is worth its vector of scales only where it helps visibly.
        if best.as_ref().is_none_or(|(least, _)| error < 0.9 * least) {
            best = Some((error, choice));
        }
    }
    match best {
        Some((_, choice)) => Ok(choice),
        None => with_factors(statistics, layers, 0.0, None, known).map(|(_, choice)| choice),
    }
}

/// `max |x|^alpha / max |w|^(1 - alpha)` for each channel, relative to their geometric mean.
fn factors(statistics: &Statistics, layers: &[(&Layer, &Tensor)], alpha: f64) -> Vec<f32> {
    let count = statistics.channels();
    let mut weights = vec![0.0f64; count];
    for (layer, tensor) in layers {
        let channels = layer.channels(tensor.dims());
        for (i, w) in floats(tensor).unwrap_or_default().iter().enumerate() {
            if let Some(largest) = weights.get_mut(channels(i).1) {
                *largest = largest.max(f64::from(w.abs()));
            }
        }
    }
    let values = statistics.least.iter().zip(&statistics.most).map(|(a, b)| f64::from(a.abs().max(b.abs())));
    let logs: Vec<Option<f64>> = values
        .zip(&weights)
        .map(|(x, &w)| (x > 1e-9 && w > 1e-9).then(|| alpha * x.ln() - (1.0 - alpha) * w.ln()))
        .collect();
    let live: Vec<f64> = logs.iter().flatten().copied().collect();
    let mean = live.iter().sum::<f64>() / live.len().max(1) as f64;
    logs.iter().map(|l| l.map_or(1.0, |l| (l - mean).clamp(-7.0, 7.0).exp() as f32)).collect()
}

/// The best range with given factors, and the mean square error of the layers' results.
fn with_factors(
    statistics: &Statistics,
    layers: &[(&Layer, &Tensor)],
    alpha: f64,
    factors: Option<Vec<f32>>,
    known: bool,
) -> Result<(f64, Choice), TensorError> {
    let count = statistics.channels();
    let factor = |c: usize| factors.as_ref().and_then(|f| f.get(c)).map_or(1.0, |f| f64::from(*f));
    let energies: Vec<f64> = match known {
        true => statistics.energies().iter().enumerate().map(|(c, e)| e / factor(c).powi(2)).collect(),
        false => vec![],
    };
    let mut weights = vec![];
    // How much an error in a channel's values weighs in the results.
    let mut gains = vec![if layers.is_empty() { 1.0 } else { 0.0 }; count];
    for (layer, tensor) in layers {
        let quantized = super::weights::quantize(layer, tensor, factors.as_deref(), &energies)?;
        let channels = layer.channels(tensor.dims());
        for (i, w) in floats(tensor).unwrap_or_default().iter().enumerate() {
            let c = channels(i).1 % count;
            if let Some(gain) = gains.get_mut(c) {
                *gain += (f64::from(*w) * factor(c)).powi(2);
            }
        }
        weights.push(quantized);
    }
    let candidates = match &factors {
        None => {
            let (low, high) = statistics.extremes();
            ranges::candidates(&statistics.histogram, f64::from(low), f64::from(high))
        }
        Some(_) => scaled_candidates(statistics, &factor),
    };
    let measured = |range: Range| {
        let rows = statistics.rows.chunks(count);
        let number = rows.len().max(1) as f64;
        let row = |row: &[f32]| {
            let each = row.iter().enumerate().zip(&gains).map(|((c, v), gain)| {
                let v = f64::from(*v) / factor(c);
                gain * (v - range.rounded(v)).powi(2)
            });
            each.sum::<f64>()
        };
        rows.map(row).sum::<f64>() / number
    };
    let costs = candidates.into_iter().map(|(method, range)| (measured(range), method, range));
    let best = costs.min_by(|a, b| a.0.total_cmp(&b.0));
    let (error, method, range) = best.unwrap_or((0.0, Method::MinMax, Range { scale: 1.0, zero: 0 }));
    let corrections = match known {
        true => corrections(statistics, layers, &weights, range, &factor),
        false => vec![vec![]; layers.len()],
    };
    let total = error + weights.iter().map(|w| w.error).sum::<f64>();
    Ok((total, Choice { range, method, factors, alpha, weights, corrections }))
}

/// Candidates for the values divided by factors, as far as the rows show them.
fn scaled_candidates(statistics: &Statistics, factor: &dyn Fn(usize) -> f64) -> Vec<(Method, Range)> {
    let extremes = statistics.least.iter().zip(&statistics.most).enumerate();
    let (low, high) = extremes.fold((0.0f64, 0.0f64), |(low, high), (c, (a, b))| {
        (low.min(f64::from(*a) / factor(c)), high.max(f64::from(*b) / factor(c)))
    });
    let mut histogram = Histogram::new();
    histogram.widen(low.abs().max(high.abs()));
    for (i, v) in statistics.rows.iter().enumerate() {
        histogram.count(f64::from(*v) / factor(i % statistics.channels()));
    }
    ranges::candidates(&histogram, low, high)
}

/// For each layer, the mean of what its results lack, as far as means of channels show it (Nagel et al.: "Data-free
/// quantization through weight equalization and bias correction", section 4.2): padding is not told apart.
fn corrections(
    statistics: &Statistics,
    layers: &[(&Layer, &Tensor)],
    weights: &[Weights],
    range: Range,
    factor: &dyn Fn(usize) -> f64,
) -> Vec<Vec<f32>> {
    let count = statistics.channels();
    let means = statistics.means();
    // Means of what rounding changes, over the rows, added to the means over all values.
    let mut shifts = vec![0.0f64; count];
    for row in statistics.rows.chunks(count) {
        for (c, (v, shift)) in row.iter().zip(&mut shifts).enumerate() {
            let v = f64::from(*v) / factor(c);
            *shift += range.rounded(v) - v;
        }
    }
    let number = (statistics.rows.len() / count).max(1) as f64;
    let real = |c: usize| means.get(c).copied().unwrap_or(0.0);
    let rounded = |c: usize| real(c) / factor(c) + shifts.get(c).copied().unwrap_or(0.0) / number;
    let one = |((layer, tensor), quantized): (&(&Layer, &Tensor), &Weights)| {
        let channels = layer.channels(tensor.dims());
        let mut lack = vec![0.0f64; layer.counts(tensor.dims()).0];
        for (i, w) in floats(tensor).unwrap_or_default().iter().enumerate() {
            let (out, c) = channels(i);
            lack[out] += f64::from(*w) * real(c);
        }
        for (out, c, w) in quantized.sums(layer) {
            lack[out] -= w * rounded(c);
        }
        lack.into_iter().map(|v| v as f32).collect()
    };
    layers.iter().zip(weights).map(one).collect()
}
