//! How far results agree with those of a reference, over any number of runs.

use kiln_ir::{Scalar, Tensor};
use kiln_runtime::Datum;

/// Agreement of one output.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Agreement {
    /// Runs that were compared.
    pub runs: usize,
    /// Largest absolute difference; infinite where one value is NaN or infinite and the other is not the same.
    pub max_difference: f64,
    /// Largest finite magnitude of the reference.
    pub max_reference: f64,
    /// Rows along the last axis whose largest element is at the same place in both.
    pub same_top: usize,
    /// Rows along the last axis of at least two elements.
    pub rows: usize,
    /// What differs beside numbers, of the first run where something does: dtype, shape, kind.
    pub mismatch: Option<String>,
    differences: f64,
    references: f64,
    values: f64,
    products: f64,
}

impl Agreement {
    /// Adds one run's result and its reference.
    pub fn add(&mut self, actual: &Datum, expected: &Datum) {
        self.runs += 1;
        let (Some(a), Some(e)) = (actual.as_tensor(), expected.as_tensor()) else {
            self.mismatch.get_or_insert_with(|| format!("{} against {}", actual.ty(), expected.ty()));
            return;
        };
        if a.dims() != e.dims() {
            self.mismatch.get_or_insert_with(|| format!("{} against {}", a.ty(), e.ty()));
            return;
        }
        let (Some(x), Some(y)) = (numbers(a), numbers(e)) else {
            if a != e {
                self.mismatch.get_or_insert_with(|| "other elements".to_owned());
            }
            return;
        };
        for (x, y) in x.iter().zip(&y) {
            self.number(*x, *y);
        }
        let width = e.dims().last().copied().unwrap_or(0);
        if width > 1 {
            for (x, y) in x.chunks(width).zip(y.chunks(width)) {
                self.rows += 1;
                self.same_top += usize::from(top(x) == top(y));
            }
        }
    }

    fn number(&mut self, x: f64, y: f64) {
        let same = x == y || (x.is_nan() && y.is_nan());
        let d = if same { 0.0 } else { (x - y).abs() };
        self.max_difference = self.max_difference.max(if d.is_nan() { f64::INFINITY } else { d });
        if y.is_finite() {
            self.max_reference = self.max_reference.max(y.abs());
        }
        // Infinite numbers that are equal add nothing to either sum.
        if !same || y.is_finite() {
            self.differences += d * d;
            self.references += y * y;
            self.values += x * x;
            self.products += x * y;
        }
    }

    /// The norm of all differences over the norm of the reference; infinite on a mismatch.
    pub fn relative(&self) -> f64 {
        match (&self.mismatch, self.differences) {
            (Some(_), _) => f64::INFINITY,
            (None, 0.0) => 0.0,
            (None, d) if d.is_finite() => (d / self.references.max(f64::MIN_POSITIVE)).sqrt(),
            (None, _) => f64::INFINITY,
        }
    }

    /// The cosine of the angle between all results and all references; 1 if both are nothing but zeros, 0 if their norms are
    /// not finite.
    pub fn cosine(&self) -> f64 {
        let norms = (self.values * self.references).sqrt();
        match &self.mismatch {
            Some(_) => 0.0,
            None if !norms.is_finite() => 0.0,
            None if norms > 0.0 => self.products / norms,
            None => f64::from(u8::from(self.values == self.references)),
        }
    }

    /// The share of rows whose largest element is at the same place; nothing if no output has rows.
    pub fn top_agreement(&self) -> Option<f64> {
        (self.rows > 0).then(|| self.same_top as f64 / self.rows as f64)
    }
}

/// The elements as doubles.
fn numbers(t: &Tensor) -> Option<Vec<f64>> {
    let number = |s: Scalar| match s {
        Scalar::F(v) => v,
        Scalar::I(v) => v as f64,
        Scalar::B(b) => f64::from(u8::from(b)),
    };
    Some(t.to_scalars()?.into_iter().map(number).collect())
}

/// The place of the largest element, the first of equal ones.
fn top(row: &[f64]) -> usize {
    let mut best = 0;
    for (i, v) in row.iter().enumerate() {
        if row.get(best).is_some_and(|b| v > b) {
            best = i;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datum(dims: &[usize], values: &[f32]) -> Datum {
        Datum::Tensor(Tensor::from_slice(dims, values).unwrap())
    }

    #[test]
    fn runs_add_up() {
        let mut a = Agreement::default();
        a.add(&datum(&[1, 2], &[3.0, 4.5]), &datum(&[1, 2], &[3.0, 4.0]));
        a.add(&datum(&[1, 2], &[1.0, 2.0]), &datum(&[1, 2], &[2.0, 1.0]));
        assert_eq!((a.runs, a.rows, a.same_top), (2, 2, 1));
        assert_eq!((a.max_difference, a.max_reference), (1.0, 4.0));
        assert!((a.relative() - (2.25f64 / 30.0).sqrt()).abs() < 1e-12);
        assert_eq!(a.top_agreement(), Some(0.5));
    }

    #[test]
    fn what_is_no_number_or_of_another_shape_shows() {
        let mut a = Agreement::default();
        a.add(&datum(&[1], &[f32::NAN]), &datum(&[1], &[1.0]));
        assert_eq!((a.relative(), a.max_difference, a.cosine()), (f64::INFINITY, f64::INFINITY, 0.0));
        let mut b = Agreement::default();
        b.add(&datum(&[1], &[1.0]), &datum(&[2], &[1.0, 1.0]));
        assert!(b.mismatch.is_some() && b.relative() == f64::INFINITY && b.cosine() == 0.0);
        let mut c = Agreement::default();
        c.add(&datum(&[1], &[f32::INFINITY]), &datum(&[1], &[f32::INFINITY]));
        assert_eq!((c.relative(), c.max_difference), (0.0, 0.0));
    }
}
