//! What calibration runs show of a value: extremes and moments of each channel, a histogram, and some of the rows.

use kiln_ir::Tensor;

use super::floats;

/// Bins of a histogram.
pub(super) const BINS: usize = 2048;

/// Most numbers that the kept rows of a value hold.
const KEPT: usize = 1 << 18;

/// Most numbers of rows that are kept of one tensor.
const KEPT_EACH: usize = 1 << 14;

/// A value that is NaN or infinite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("element {index} is not finite")]
pub struct NotFinite {
    /// Position in the tensor.
    pub index: usize,
}

/// Counts of numbers in equal bins between `-bound` and `bound`.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    pub(super) bound: f64,
    pub(super) bins: Vec<u64>,
}

impl Histogram {
    pub(super) fn new() -> Self {
        Histogram { bound: 0.0, bins: vec![0; BINS] }
    }

    /// Widens the range to hold `largest`: neighbouring bins become one, so that no number is seen twice.
    pub(super) fn widen(&mut self, largest: f64) {
        if self.bound == 0.0 {
            self.bound = 2f64.powi((largest.max(1e-30).log2().ceil()) as i32);
        }
        while self.bound < largest {
            let mut wider = vec![0; BINS];
            for (i, count) in self.bins.iter().enumerate() {
                if let Some(bin) = wider.get_mut(BINS / 4 + i / 2) {
                    *bin += count;
                }
            }
            (self.bins, self.bound) = (wider, self.bound * 2.0);
        }
    }

    pub(super) fn count(&mut self, v: f64) {
        let at = (v / self.bound + 1.0) * (BINS / 2) as f64;
        if let Some(bin) = self.bins.get_mut((at as usize).min(BINS - 1)) {
            *bin += 1;
        }
    }

    /// The middle of a bin.
    pub(super) fn middle(&self, bin: usize) -> f64 {
        ((bin as f64 + 0.5) / (BINS / 2) as f64 - 1.0) * self.bound
    }

    /// Middles and counts of the bins that are not empty.
    pub(super) fn filled(&self) -> Vec<(f64, f64)> {
        let filled = self.bins.iter().enumerate().filter(|(_, c)| **c > 0);
        filled.map(|(i, &c)| (self.middle(i), c as f64)).collect()
    }
}

/// What was seen of one value.
#[derive(Clone, Debug)]
pub struct Statistics {
    axis: Option<usize>,
    pub(super) least: Vec<f32>,
    pub(super) most: Vec<f32>,
    sums: Vec<f64>,
    squares: Vec<f64>,
    /// Numbers of each channel.
    each: u64,
    pub(super) histogram: Histogram,
    /// Rows of one number a channel.
    pub(super) rows: Vec<f32>,
}

impl Statistics {
    /// Nothing seen yet of a value whose channels are along `axis`, if it has any.
    pub fn new(axis: Option<usize>) -> Self {
        Statistics {
            axis,
            least: vec![],
            most: vec![],
            sums: vec![],
            squares: vec![],
            each: 0,
            histogram: Histogram::new(),
            rows: vec![],
        }
    }

    /// Adds the value of one run. A tensor of another number of channels than the first counts as having none.
    ///
    /// # Errors
    /// If an element is NaN or infinite.
    pub fn add(&mut self, value: &Tensor) -> Result<(), NotFinite> {
        let Some(all) = floats(value) else { return Ok(()) };
        if let Some(index) = all.iter().position(|v| !v.is_finite()) {
            return Err(NotFinite { index });
        }
        if all.is_empty() {
            return Ok(());
        }
        let dims = value.dims();
        let along = |axis: usize| dims.get(axis).copied();
        let channels = self.axis.and_then(along).unwrap_or(1);
        let inner = self.axis.map_or(1, |axis| dims.iter().skip(axis + 1).product::<usize>().max(1));
        if self.least.is_empty() {
            self.least = vec![f32::INFINITY; channels];
            self.most = vec![f32::NEG_INFINITY; channels];
            (self.sums, self.squares) = (vec![0.0; channels], vec![0.0; channels]);
        }
        if self.least.len() != channels {
            return Ok(());
        }
        for (i, run) in all.chunks(inner).enumerate() {
            let c = i % channels;
            let (mut least, mut most, mut sum, mut square) = (f32::INFINITY, f32::NEG_INFINITY, 0.0, 0.0);
            for &v in run {
                least = least.min(v);
                most = most.max(v);
                sum += f64::from(v);
                square += f64::from(v) * f64::from(v);
            }
            self.least[c] = self.least[c].min(least);
            self.most[c] = self.most[c].max(most);
            self.sums[c] += sum;
            self.squares[c] += square;
        }
        self.each += (all.len() / channels.max(1)) as u64;
        let (low, high) = self.extremes();
        self.histogram.widen(f64::from(low.abs().max(high.abs())));
        all.iter().for_each(|&v| self.histogram.count(f64::from(v)));
        self.keep(&all, channels, inner);
        Ok(())
    }

    /// Keeps some rows, evenly spaced.
    fn keep(&mut self, all: &[f32], channels: usize, inner: usize) {
        let room = KEPT.saturating_sub(self.rows.len()).min(KEPT_EACH.max(channels));
        let positions = all.len() / channels.max(1);
        let wanted = (room / channels.max(1)).min(positions);
        for k in 0..wanted {
            let position = k * positions / wanted;
            let start = position / inner * channels * inner + position % inner;
            self.rows.extend((0..channels).filter_map(|c| all.get(start + c * inner)));
        }
    }

    /// Whether nothing was seen.
    pub fn is_empty(&self) -> bool {
        self.each == 0
    }

    /// Channels that are told apart.
    pub fn channels(&self) -> usize {
        self.least.len().max(1)
    }

    /// The smallest and the largest number seen.
    pub fn extremes(&self) -> (f32, f32) {
        let low = self.least.iter().copied().fold(f32::INFINITY, f32::min);
        let high = self.most.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if low <= high { (low, high) } else { (0.0, 0.0) }
    }

    /// Mean of each channel.
    pub(super) fn means(&self) -> Vec<f64> {
        self.sums.iter().map(|s| s / (self.each.max(1)) as f64).collect()
    }

    /// Mean square of each channel.
    pub(crate) fn energies(&self) -> Vec<f64> {
        self.squares.iter().map(|s| s / (self.each.max(1)) as f64).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_are_told_apart_along_any_axis() {
        let t = Tensor::from_slice(&[1, 2, 3], &[1.0f32, 2.0, 3.0, -1.0, -2.0, -4.0]).unwrap();
        let mut s = Statistics::new(Some(1));
        s.add(&t).unwrap();
        assert_eq!((s.least.clone(), s.most.clone()), (vec![1.0, -4.0], vec![3.0, -1.0]));
        assert_eq!(s.rows, [1.0, -1.0, 2.0, -2.0, 3.0, -4.0]);
        assert_eq!(s.extremes(), (-4.0, 3.0));
        assert!((s.means()[0] - 2.0).abs() < 1e-12 && (s.energies()[1] - 7.0).abs() < 1e-12);
    }

    #[test]
    fn a_histogram_keeps_its_counts_when_it_widens() {
        let mut s = Statistics::new(None);
        s.add(&Tensor::from_slice(&[3], &[0.1f32, -0.2, 0.3]).unwrap()).unwrap();
        s.add(&Tensor::from_slice(&[2], &[100.0f32, -7.0]).unwrap()).unwrap();
        assert_eq!(s.histogram.bins.iter().sum::<u64>(), 5);
        assert!(s.histogram.bound >= 100.0);
        let near = s.histogram.filled().iter().filter(|(v, _)| v.abs() < 1.0).map(|(_, c)| c).sum::<f64>();
        assert_eq!(near, 3.0);
    }

    #[test]
    fn numbers_that_are_not_finite_are_refused() {
        let mut s = Statistics::new(None);
        let t = Tensor::from_slice(&[2], &[0.0f32, f32::NAN]).unwrap();
        assert_eq!(s.add(&t), Err(NotFinite { index: 1 }));
    }
}
