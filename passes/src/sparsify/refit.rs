//! The weights among those kept whose results come closest to a dense layer's on rows that calibration saw: least squares,
//! column by column, by conjugate gradients.
//!
//! Rows are those that the sparse model so far gives, results those that the dense model has: a layer so makes up for a part
//! of what the layers before it lack. Weights stay near the dense ones where rows say little (SparseGPT, arXiv:2301.00774,
//! corrects weights of the same objective, in one pass over the inputs).

/// What is fitted.
#[derive(Clone, Debug)]
pub struct Fit {
    /// Features of a row.
    pub width: usize,
    /// Outputs.
    pub outputs: usize,
    /// The dense weights `[feature][output]`.
    pub dense: Vec<f32>,
    /// Which of them are kept.
    pub kept: Vec<bool>,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Fitted {
    /// Weights `[feature][output]`, zero where they are not kept.
    pub weights: Vec<f32>,
    /// For each output, what its results lack on average.
    pub lack: Vec<f32>,
}

/// Steps of conjugate gradients; what is left then is in directions in which rows hardly differ.
const STEPS: usize = 24;

/// How strongly weights stay near the dense ones, as a part of the mean square of features: at least, and for as many rows
/// as features.
const DAMPING: [f64; 2] = [0.01, 0.05];

/// A product of row-major matrices of these sizes, `[m][k]` and `[k][n]`.
pub type Product<'p, E> = &'p mut dyn FnMut(&[f32], &[f32], [usize; 3]) -> Result<Vec<f32>, E>;

/// Fits weights to the rows of the sparse and of the dense model; `None` where rows do not fit together, or what is found is
/// not finite.
///
/// # Errors
/// Those of products.
pub fn refit<E>(
    fit: &Fit,
    [mut sparse, mut dense]: [Vec<f32>; 2],
    product: Product<'_, E>,
) -> Result<Option<Fitted>, E> {
    let (width, outputs) = (fit.width, fit.outputs);
    let count = sparse.len() / width.max(1);
    let size = width * outputs;
    if count == 0 || sparse.len() != dense.len() || fit.dense.len() != size || fit.kept.len() != size {
        return Ok(None);
    }
    let (sparse_means, dense_means) = (centre(&mut sparse, width), centre(&mut dense, width));
    let wanted = product(&dense, &fit.dense, [count, width, outputs])?;
    let across = transposed(&sparse, width);
    let mut target = product(&across, &wanted, [width, count, outputs])?;
    let mut gram = product(&across, &sparse, [width, count, width])?;
    let scale = 1.0 / count as f32;
    target.iter_mut().chain(&mut gram).for_each(|v| *v *= scale);
    let diagonal: Vec<f32> = gram.iter().copied().step_by(width + 1).collect();
    let mean = diagonal.iter().map(|d| f64::from(*d)).sum::<f64>() / width as f64;
    let damping = mean * (DAMPING[0] + DAMPING[1] * width as f64 / count as f64);
    let system = System { fit, gram, damping: damping.max(1e-20) as f32, diagonal };
    let weights = system.solve(&target, product)?;
    let mut lack = vec![0.0f64; outputs];
    let rows = fit.dense.chunks_exact(outputs).zip(weights.chunks_exact(outputs));
    for ((dense, sparse), (d, s)) in rows.zip(dense_means.iter().zip(&sparse_means)) {
        for ((lack, dense), sparse) in lack.iter_mut().zip(dense).zip(sparse) {
            *lack += d * f64::from(*dense) - s * f64::from(*sparse);
        }
    }
    let lack: Vec<f32> = lack.into_iter().map(|l| l as f32).collect();
    let finite = weights.iter().chain(&lack).all(|v| v.is_finite());
    Ok(finite.then_some(Fitted { weights, lack }))
}

/// The normal equations.
struct System<'f> {
    fit: &'f Fit,
    gram: Vec<f32>,
    diagonal: Vec<f32>,
    damping: f32,
}

impl System<'_> {
    /// Zeroes what is not kept.
    fn keep(&self, values: &mut [f32]) {
        values.iter_mut().zip(&self.fit.kept).filter(|(_, kept)| !**kept).for_each(|(v, _)| *v = 0.0);
    }

    /// The residual over the diagonal.
    fn scaled(&self, residual: &[f32]) -> Vec<f32> {
        let mut scaled = residual.to_vec();
        for (row, d) in scaled.chunks_exact_mut(self.fit.outputs).zip(&self.diagonal) {
            row.iter_mut().for_each(|v| *v /= d + self.damping);
        }
        scaled
    }

    /// The matrix times `x`, where it is kept.
    fn times<E>(&self, x: &[f32], product: &mut Product<'_, E>) -> Result<Vec<f32>, E> {
        let Fit { width, outputs, .. } = *self.fit;
        let mut y = product(&self.gram, x, [width, width, outputs])?;
        y.iter_mut().zip(x).for_each(|(y, x)| *y += self.damping * x);
        self.keep(&mut y);
        Ok(y)
    }

    fn solve<E>(&self, target: &[f32], mut product: Product<'_, E>) -> Result<Vec<f32>, E> {
        let outputs = self.fit.outputs;
        let mut x = self.fit.dense.clone();
        self.keep(&mut x);
        let mut residual = self.times(&x, &mut product)?;
        for ((r, t), dense) in residual.iter_mut().zip(target).zip(&self.fit.dense) {
            *r = t + self.damping * dense - *r;
        }
        self.keep(&mut residual);
        let mut towards = self.scaled(&residual);
        let mut energy = dots(&residual, &towards, outputs);
        for _ in 0..STEPS {
            let image = self.times(&towards, &mut product)?;
            let lengths: Vec<f64> = ratios(&energy, &dots(&towards, &image, outputs));
            add(&mut x, &lengths, &towards, 1.0);
            add(&mut residual, &lengths, &image, -1.0);
            let scaled = self.scaled(&residual);
            let next = dots(&residual, &scaled, outputs);
            let kept = ratios(&next, &energy);
            energy = next;
            for (row, scaled) in towards.chunks_exact_mut(outputs).zip(scaled.chunks_exact(outputs)) {
                for ((t, s), kept) in row.iter_mut().zip(scaled).zip(&kept) {
                    *t = s + *kept as f32 * *t;
                }
            }
        }
        Ok(x)
    }
}

/// Takes the mean of each column off; gives the means.
fn centre(rows: &mut [f32], width: usize) -> Vec<f64> {
    let count = (rows.len() / width.max(1)).max(1) as f64;
    let mut means = vec![0.0f64; width];
    for row in rows.chunks_exact(width) {
        means.iter_mut().zip(row).for_each(|(m, v)| *m += f64::from(*v) / count);
    }
    for row in rows.chunks_exact_mut(width) {
        row.iter_mut().zip(&means).for_each(|(v, m)| *v -= *m as f32);
    }
    means
}

fn transposed(rows: &[f32], width: usize) -> Vec<f32> {
    let count = rows.len() / width.max(1);
    let mut all = vec![0.0; rows.len()];
    for (i, row) in rows.chunks_exact(width).enumerate() {
        for (column, value) in row.iter().enumerate() {
            if let Some(to) = all.get_mut(column * count + i) {
                *to = *value;
            }
        }
    }
    all
}

/// Products of columns.
fn dots(a: &[f32], b: &[f32], outputs: usize) -> Vec<f64> {
    let mut sums = vec![0.0f64; outputs];
    for (a, b) in a.chunks_exact(outputs).zip(b.chunks_exact(outputs)) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += f64::from(*a) * f64::from(*b);
        }
    }
    sums
}

/// Quotients, 0 for columns that are done.
fn ratios(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| if *b > f64::MIN_POSITIVE { a / b } else { 0.0 }).collect()
}

/// Adds columns times factors.
fn add(to: &mut [f32], factors: &[f64], columns: &[f32], sign: f64) {
    for (to, row) in to.chunks_exact_mut(factors.len()).zip(columns.chunks_exact(factors.len())) {
        for ((to, v), factor) in to.iter_mut().zip(row).zip(factors) {
            *to += (sign * factor) as f32 * v;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product(a: &[f32], b: &[f32], [m, k, n]: [usize; 3]) -> Result<Vec<f32>, ()> {
        let sum = |i: usize| (0..k).map(|j| a[i / n * k + j] * b[j * n + i % n]).sum();
        Ok((0..m * n).map(sum).collect())
    }

    fn random(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| (((i + seed) * 7919 + i * i * 31) % 2003) as f32 / 1001.0 - 1.0).collect()
    }

    /// What results of `weights` lack of the dense ones, squared, over rows.
    fn error(fit: &Fit, rows: &[f32], weights: &[f32], lack: &[f32]) -> f64 {
        let count = rows.len() / fit.width;
        let of = |w: &[f32]| product(rows, w, [count, fit.width, fit.outputs]).unwrap();
        let (wanted, got) = (of(&fit.dense), of(weights));
        let each = wanted.iter().zip(got).enumerate();
        each.map(|(i, (w, g))| f64::from(w - g - lack[i % fit.outputs]).powi(2)).sum()
    }

    #[test]
    fn kept_weights_make_up_for_the_others() {
        let (width, outputs, count) = (12, 5, 200);
        // Features that are much alike, around a mean.
        let base = random(count * 3, 1);
        let noise = random(count * width, 2);
        let rows: Vec<f32> =
            (0..count * width).map(|i| 0.7 + base[i / width * 3 + i % 3] + 0.2 * noise[i]).collect();
        let kept: Vec<bool> = (0..width * outputs).map(|i| (i / outputs + i % outputs) % 2 == 0).collect();
        let fit = Fit { width, outputs, dense: random(width * outputs, 3), kept };
        let masked: Vec<f32> =
            fit.dense.iter().zip(&fit.kept).map(|(w, k)| if *k { *w } else { 0.0 }).collect();
        let found = refit(&fit, [rows.clone(), rows.clone()], &mut product).unwrap().unwrap();
        let before = error(&fit, &rows, &masked, &[0.0; 5]);
        let after = error(&fit, &rows, &found.weights, &found.lack);
        assert!(after < 0.05 * before, "{after} of {before}");
        assert!(found.weights.iter().zip(&fit.kept).all(|(w, k)| *k || *w == 0.0));
        // All weights kept: they stay.
        let whole = Fit { kept: vec![true; width * outputs], ..fit };
        let found = refit(&whole, [rows.clone(), rows.clone()], &mut product).unwrap().unwrap();
        assert!(found.weights.iter().zip(&whole.dense).all(|(a, b)| (a - b).abs() < 1e-3));
        assert!(found.lack.iter().all(|l| l.abs() < 1e-2), "{:?}", found.lack);
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let fit = Fit { width: 2, outputs: 1, dense: vec![1.0, 2.0], kept: vec![true, false] };
        assert!(refit(&fit, [vec![], vec![]], &mut product).unwrap().is_none());
        assert!(refit(&fit, [vec![1.0; 4], vec![1.0; 6]], &mut product).unwrap().is_none());
        // Rows without variation: the mean is all there is to correct.
        let found = refit(&fit, [vec![1.0; 4], vec![1.0; 4]], &mut product).unwrap().unwrap();
        assert!((found.lack[0] - 2.0).abs() < 1e-5, "{found:?}");
    }
}
