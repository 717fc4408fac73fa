//! Minimal filtering: `m` outputs of a 3-tap filter from `m + 2` inputs with `m + 2` products.
//!
//! ```text
//! y = A^T [(G g) * (B^T d)]            one dimension
//! Y = A^T [(G g G^T) * (B^T D B)] A    two dimensions, the product element by element
//! ```
//!
//! Source: A. Lavin, S. Gray, "Fast Algorithms for Convolutional Neural Networks" (2016); the matrices are those of the
//! Toom-Cook construction over the points 0, `p` and `-p` for each `p` of [`Transform::points`], and infinity. Because
//! points come in pairs, half of each polynomial is shared by two rows.
//!
//! The points decide the rounding error. For four outputs, 3/4 and 3/2 give a third of the error of the customary 1 and
//! 2 (mean square over normally distributed data), twice that of the direct sum; all that is multiplied is exact in f32.

use kiln_ir::tensor::Bytes;
use kiln_ir::{DType, Prim, Tensor};

use crate::kir::{KernelBuilder, Val};

/// Taps of the filter.
pub const TAPS: usize = 3;

/// One size of the algorithm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transform {
    /// The positive one of each pair of points.
    pub points: &'static [f64],
}

/// Two outputs from four inputs: 2.25 times fewer products in two dimensions.
pub const TWO: Transform = Transform { points: &[1.0] };

/// Four outputs from six inputs: 4 times fewer products in two dimensions.
pub const FOUR: Transform = Transform { points: &[0.75, 1.5] };

impl Transform {
    /// Outputs of one transform.
    pub fn outputs(&self) -> usize {
        2 * self.points.len()
    }

    /// Inputs of one transform, and its products.
    pub fn inputs(&self) -> usize {
        self.outputs() + TAPS - 1
    }

    /// All finite points: 0, then pairs.
    fn finite(&self) -> Vec<f64> {
        std::iter::once(0.0).chain(self.points.iter().flat_map(|p| [*p, -p])).collect()
    }

    /// `G`: `[inputs][TAPS]`.
    fn filter_matrix(&self) -> Vec<[f64; TAPS]> {
        let finite = self.finite();
        let row = |(i, p): (usize, &f64)| {
            let others = finite.iter().enumerate().filter(|(j, _)| *j != i);
            let scale = others.fold(1.0, |n, (_, q)| n * (p - q));
            [1.0 / scale, p / scale, p * p / scale]
        };
        finite.iter().enumerate().map(row).chain([[0.0, 0.0, 1.0]]).collect()
    }

    /// `G g G^T` of a filter `[TAPS][TAPS]`: `[inputs][inputs]`.
    pub fn filter(&self, g: &[[f64; TAPS]; TAPS]) -> Vec<f64> {
        let matrix = self.filter_matrix();
        let dot = |a: &[f64; TAPS], b: &[f64; TAPS]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let half: Vec<[f64; TAPS]> = matrix.iter().map(|row| g.map(|line| dot(&line, row))).collect();
        // `half` is (g G^T)^T: columns of g by rows of the result's second index.
        matrix.iter().flat_map(|row| half.iter().map(move |h| dot(h, row))).collect()
    }

    /// `B^T d` in the open block.
    pub fn input(&self, b: &mut KernelBuilder, d: &[Val]) -> Vec<Val> {
        let squares: Vec<f64> = self.points.iter().map(|p| p * p).collect();
        let mut rows = vec![even_polynomial(b, d, 0, &squares)];
        for (i, &p) in self.points.iter().enumerate() {
            let others: Vec<f64> = (0..).zip(&squares).filter(|(j, _)| *j != i).map(|(_, s)| *s).collect();
            let (even, odd) = (even_polynomial(b, d, 2, &others), even_polynomial(b, d, 1, &others));
            rows.push(plus_multiple(b, even, p, odd));
            rows.push(plus_multiple(b, even, -p, odd));
        }
        rows.push(even_polynomial(b, d, 1, &squares));
        rows
    }

    /// `A^T m` in the open block.
    pub fn output(&self, b: &mut KernelBuilder, m: &[Val]) -> Vec<Val> {
        let (mut sums, mut differences) = (vec![], vec![]);
        for (i, &p) in self.points.iter().enumerate() {
            let (plus, minus) = (m[1 + 2 * i], m[2 + 2 * i]);
            sums.push((p, b.apply(Prim::Add, &[plus, minus])));
            differences.push((p, b.apply(Prim::Sub, &[plus, minus])));
        }
        let last = self.outputs() - 1;
        let row = |k: usize| {
            let own = if k == 0 { Some(m[0]) } else { None };
            let own = own.or_else(|| (k == last).then(|| m[last + 2]));
            let parts = if k.is_multiple_of(2) { &sums } else { &differences };
            let add = |sum: Option<Val>, (p, v): &(f64, Val)| {
                let factor = p.powi(k as i32);
                Some(match sum {
                    Some(sum) => plus_multiple(b, sum, factor, *v),
                    None => multiple(b, factor, *v),
                })
            };
            parts.iter().fold(own, add)
        };
        (0..=last).filter_map(row).collect()
    }

    /// The filters `w`, f32 `[O, C, 3, 3]`, in blocks of `panels` panels of `width` output channels for each product:
    /// `[blocks][inputs * inputs][panels][C][width]`, computed in f64 and rounded once. `None` for another tensor.
    pub fn filters(&self, w: &Tensor, panels: usize, width: usize) -> Option<Tensor> {
        let &[o, c, TAPS, TAPS] = w.dims() else { return None };
        if w.dtype() != DType::F32 || width == 0 || panels == 0 {
            return None;
        }
        let products = self.inputs() * self.inputs();
        let plane = panels.checked_mul(c)?.checked_mul(width)?;
        let each = plane.checked_mul(products)?;
        let blocks = o.div_ceil(panels.checked_mul(width)?);
        let source = w.bytes();
        let element = |at: usize| {
            let bytes = source.get(4 * at..4 * at + 4)?.try_into().ok()?;
            Some(f64::from(f32::from_le_bytes(bytes)))
        };
        let mut complete = true;
        let bytes = Bytes::build(each.checked_mul(blocks)?.checked_mul(4)?, |out| {
            for (filter, (row, column)) in (0..o).flat_map(|row| (0..c).map(move |k| (row, k))).enumerate() {
                let mut g = [[0.0; TAPS]; TAPS];
                for (tap, value) in g.as_flattened_mut().iter_mut().enumerate() {
                    match element(filter * TAPS * TAPS + tap) {
                        Some(v) => *value = v,
                        None => complete = false,
                    }
                }
                let panel = row / width;
                let block = panel / panels * each;
                let place = block + (panel % panels * c + column) * width + row % width;
                for (p, value) in self.filter(&g).into_iter().enumerate() {
                    let at = 4 * (p * plane + place);
                    out[at..at + 4].copy_from_slice(&(value as f32).to_le_bytes());
                }
            }
        });
        complete.then(|| Tensor::new(DType::F32, &[blocks, products, panels, c, width], bytes).ok()).flatten()
    }
}

/// The product of `x^2 - s` over `squares`, times `x^first`, where `x^k` stands for `d[k]`.
fn even_polynomial(b: &mut KernelBuilder, d: &[Val], first: usize, squares: &[f64]) -> Val {
    // Coefficients of x^0, x^2, ...
    let mut coefficients = vec![1.0];
    for s in squares {
        let shifted = std::iter::once(0.0).chain(coefficients.iter().copied());
        let scaled = coefficients.iter().map(|c| -s * c).chain([0.0]);
        coefficients = shifted.zip(scaled).map(|(a, b)| a + b).collect();
    }
    let degree = coefficients.len() - 1;
    let mut sum = d[first + 2 * degree];
    for (k, &c) in coefficients[..degree].iter().enumerate().rev() {
        sum = plus_multiple(b, sum, c, d[first + 2 * k]);
    }
    sum
}

/// `factor * x`.
fn multiple(b: &mut KernelBuilder, factor: f64, x: Val) -> Val {
    if factor == 1.0 {
        return x;
    }
    let factor = b.literal(DType::F32, factor);
    b.apply(Prim::Mul, &[x, factor])
}

/// `sum + factor * x`.
fn plus_multiple(b: &mut KernelBuilder, sum: Val, factor: f64, x: Val) -> Val {
    if factor == 1.0 {
        b.apply(Prim::Add, &[sum, x])
    } else if factor == -1.0 {
        b.apply(Prim::Sub, &[sum, x])
    } else {
        let factor = b.literal(DType::F32, factor);
        b.mul_add(x, factor, sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interp;

    /// What `f` makes of `inputs`, on the interpreter.
    fn evaluate(inputs: &[f32], f: impl Fn(&mut KernelBuilder, &[Val]) -> Vec<Val>) -> Vec<f32> {
        let mut b = KernelBuilder::new("transform");
        let (from, to) = (b.input(DType::F32), b.output(DType::F32));
        let d: Vec<Val> = (0..inputs.len()).map(|i| b.load(from, i as i64)).collect();
        let results = f(&mut b, &d);
        for (i, &v) in (0i64..).zip(&results) {
            b.store(to, i, v);
        }
        let kernel = b.finish().unwrap();
        let mut source: Vec<u8> = inputs.iter().flat_map(|v| v.to_le_bytes()).collect();
        let mut out = vec![0u8; 4 * results.len()];
        interp::run(&kernel, &mut [&mut source, &mut out], &[], 0..1).unwrap();
        out.chunks_exact(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect()
    }

    /// Small integers.
    fn numbers(count: usize, seed: i32) -> Vec<f32> {
        (0..count as i32).map(|i| ((i * 7 + seed * 13) % 11 - 5) as f32).collect()
    }

    /// The rows of the matrix for an input, from the roots of its polynomials.
    fn input_by_definition(transform: &Transform, d: &[f32]) -> Vec<f64> {
        let finite = transform.finite();
        let polynomial = |roots: &[f64]| {
            roots.iter().fold(vec![1.0], |c, root| {
                let shifted = std::iter::once(0.0).chain(c.iter().copied());
                let scaled = c.iter().map(|c| -root * c).chain([0.0]);
                shifted.zip(scaled).map(|(a, b)| a + b).collect()
            })
        };
        let rows =
            (0..finite.len()).map(|i| [&finite[..i], &finite[i + 1..]].concat()).chain([finite.clone()]);
        rows.map(|roots| polynomial(&roots).iter().zip(d).map(|(c, d)| c * f64::from(*d)).sum()).collect()
    }

    #[test]
    fn inputs_are_transformed_exactly() {
        for transform in [TWO, FOUR] {
            let d = numbers(transform.inputs(), 3);
            let got = evaluate(&d, |b, d| transform.input(b, d));
            let want = input_by_definition(&transform, &d);
            assert_eq!(got.iter().map(|v| f64::from(*v)).collect::<Vec<_>>(), want);
        }
    }

    #[test]
    fn outputs_are_transformed_exactly() {
        for transform in [TWO, FOUR] {
            let m = numbers(transform.inputs(), 5);
            let got = evaluate(&m, |b, m| transform.output(b, m));
            let finite = transform.finite();
            for (k, got) in got.iter().enumerate() {
                let powers = finite.iter().map(|p| p.powi(k as i32));
                let at_infinity = if k + 1 == transform.outputs() { 1.0 } else { 0.0 };
                let want: f64 = powers.chain([at_infinity]).zip(&m).map(|(p, m)| p * f64::from(*m)).sum();
                assert_eq!(f64::from(*got), want, "row {k}");
            }
        }
    }

    #[test]
    fn a_filter_of_integers_is_the_sum_of_its_products() {
        for seed in 0..20 {
            for (transform, tolerance) in [(TWO, 0.0), (FOUR, 2e-5)] {
                let n = transform.inputs();
                let (d, g) = (numbers(n, seed), numbers(TAPS, seed + 1));
                let matrix = transform.filter_matrix();
                let filter: Vec<f64> = (matrix.iter())
                    .map(|row| row.iter().zip(&g).map(|(r, g)| r * f64::from(*g)).sum())
                    .collect();
                let got = evaluate(&d, |b, d| {
                    let products: Vec<Val> = transform
                        .input(b, d)
                        .into_iter()
                        .zip(&filter)
                        .map(|(v, f)| multiple(b, *f, v))
                        .collect();
                    transform.output(b, &products)
                });
                for (i, got) in got.iter().enumerate() {
                    let want: f32 = g.iter().zip(&d[i..]).map(|(g, d)| g * d).sum();
                    assert!((got - want).abs() <= tolerance * 25.0, "{got} for {want}");
                }
            }
        }
    }

    #[test]
    fn filters_are_outer_products() {
        let transform = TWO;
        let g = [[1.0, 2.0, 3.0], [-1.0, 0.0, 4.0], [2.0, -2.0, 1.0]];
        let matrix = transform.filter_matrix();
        let got = transform.filter(&g);
        for (i, a) in matrix.iter().enumerate() {
            for (j, b) in matrix.iter().enumerate() {
                let mut want = 0.0;
                for (k, line) in g.iter().enumerate() {
                    for (l, v) in line.iter().enumerate() {
                        want += a[k] * v * b[l];
                    }
                }
                assert_eq!(got[i * transform.inputs() + j], want);
            }
        }
    }
}
