//! Weights as integers of 8 bits, with a scale for each output channel.

use kiln_ir::{Tensor, TensorError};

use super::Layer;

/// Quantized weights of a layer.
#[derive(Clone, Debug)]
pub struct Weights {
    /// The integers, -127 to 127.
    pub integers: Tensor,
    /// Scales of the output channels.
    pub scales: Vec<f32>,
    /// Mean square error of the layer's results that their rounding causes, over all output channels.
    pub error: f64,
}

/// Shares of the largest weight that the largest integer may stand for.
const SHARES: [f32; 7] = [1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7];

/// Quantizes weights times a factor for each input channel. Each scale is the one that errs least, where an error in a
/// weight counts by the mean square of the values that it multiplies.
pub(super) fn quantize(
    layer: &Layer,
    weights: &Tensor,
    factors: Option<&[f32]>,
    energies: &[f64],
) -> Result<Weights, TensorError> {
    let dims = weights.dims();
    let values = weights.to_vec::<f32>()?;
    let channels = layer.channels(dims);
    let (outputs, _) = layer.counts(dims);
    let place = |i: usize| {
        let (out, input) = channels(i);
        let factor = factors.and_then(|f| f.get(input)).copied().unwrap_or(1.0);
        (out, factor, energies.get(input).copied().unwrap_or(1.0))
    };
    let scaled: Vec<(usize, f32, f64)> = values
        .iter()
        .enumerate()
        .map(|(i, w)| {
            let (out, factor, energy) = place(i);
            (out, w * factor, energy)
        })
        .collect();
    let mut largest = vec![0.0f32; outputs];
    for (out, w, _) in &scaled {
        if let Some(l) = largest.get_mut(*out) {
            *l = l.max(w.abs());
        }
    }
    let full = |out: usize| {
        largest.get(out).copied().filter(|l| *l >= f32::MIN_POSITIVE * 256.0).unwrap_or(127.0) / 127.0
    };
    let mut best: Vec<(f64, f32)> = (0..outputs).map(|out| (f64::INFINITY, full(out))).collect();
    for share in SHARES {
        let mut errors = vec![0.0f64; outputs];
        for (out, w, energy) in &scaled {
            let scale = full(*out) * share;
            let error = f64::from(w - f32::from(integer(*w, scale)) * scale);
            errors[*out] += error * error * energy;
        }
        for (out, (error, entry)) in errors.iter().zip(&mut best).enumerate() {
            if *error < entry.0 {
                *entry = (*error, full(out) * share);
            }
        }
    }
    let scales: Vec<f32> = best.iter().map(|(_, s)| *s).collect();
    let integers: Vec<i8> = scaled.iter().map(|(out, w, _)| integer(*w, scales[*out])).collect();
    let error = best.iter().map(|(e, _)| e).filter(|e| e.is_finite()).sum();
    Ok(Weights { integers: Tensor::from_slice(dims, &integers)?, scales, error })
}

fn integer(w: f32, scale: f32) -> i8 {
    // Saturates, and no quotient is NaN: scales are positive.
    (w / scale).round_ties_even().clamp(-127.0, 127.0) as i8
}

impl Weights {
    /// For each output channel, the sums over its taps of the dequantized weights, by input channel: `(out, input, sum)`.
    pub(super) fn sums(&self, layer: &Layer) -> Vec<(usize, usize, f64)> {
        let channels = layer.channels(self.integers.dims());
        let values = self.integers.as_slice::<i8>().unwrap_or(&[]);
        let each = |(i, q): (usize, &i8)| {
            let (out, input) = channels(i);
            (out, input, f64::from(*q) * f64::from(self.scales.get(out).copied().unwrap_or(1.0)))
        };
        values.iter().enumerate().map(each).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::layer;

    #[test]
    fn each_output_channel_has_its_scale() {
        let w = Tensor::from_slice(&[2, 3], &[1.0f32, 100.0, 0.0, -0.5, 25.0, 0.0]).unwrap();
        let q = quantize(&layer([1, 0]), &w, None, &[1.0, 1.0]).unwrap();
        let ints = q.integers.as_slice::<i8>().unwrap();
        for (i, w) in [1.0f32, 100.0, 0.0, -0.5, 25.0, 0.0].into_iter().enumerate() {
            let scale = q.scales[i % 3];
            assert!(
                (w - f32::from(ints[i]) * scale).abs() <= scale / 2.0 + w.abs() * 0.3,
                "{w}: {} * {scale}",
                ints[i]
            );
        }
        assert!(q.scales[1] > 50.0 * q.scales[0]);
    }

    #[test]
    fn groups_have_input_channels_of_their_own() {
        let conv = Layer { groups: 2, ..layer([0, 1]) };
        let place = conv.channels(&[4, 3, 1, 1]);
        assert_eq!((place(0), place(5), place(6), place(11)), ((0, 0), (1, 2), (2, 3), (3, 5)));
        assert_eq!(conv.counts(&[4, 3, 1, 1]), (4, 6));
    }
}
