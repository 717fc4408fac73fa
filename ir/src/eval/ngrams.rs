//! Counting of n-grams (ONNX TfIdfVectorizer).

use std::collections::{HashMap, HashSet};

use crate::op::NgramWeight;
use crate::{DType, Float, Tensor};

use super::cx::Cx;
use super::fault::{Fault, invalid};
use super::lanes::{Lanes, ints};

/// What is counted, and where.
pub(super) struct Ngrams<'a> {
    pub(super) weighting: NgramWeight,
    pub(super) min_length: i64,
    pub(super) max_length: i64,
    pub(super) max_skip: i64,
    pub(super) starts: &'a [i64],
    pub(super) columns: &'a [i64],
    pub(super) pool: &'a Tensor,
    pub(super) weights: &'a [Float],
}

/// Elements as texts, so that integers and strings are one.
fn words(t: &Tensor) -> Result<Vec<String>, Fault> {
    match t.dtype() {
        DType::String => Ok(t.as_strings().to_vec()),
        _ => Ok(ints(t)?.into_iter().map(|v| v.to_string()).collect()),
    }
}

impl Ngrams<'_> {
    fn size(value: i64, what: &str) -> Result<usize, Fault> {
        usize::try_from(value).or_else(|_| invalid(format!("{what} of {value}")))
    }

    /// The pool's n-grams of the wanted lengths with their columns, and all their proper prefixes.
    fn dictionary<'p>(
        &self,
        pool: &'p [String],
        width: usize,
    ) -> Result<(HashMap<&'p [String], usize>, HashSet<&'p [String]>), Fault> {
        let (mut grams, mut prefixes) = (HashMap::new(), HashSet::new());
        let mut id = 0;
        for (i, &start) in self.starts.iter().enumerate() {
            let length = i + 1;
            let start = Self::size(start, "a start")?;
            let end = self.starts.get(i + 1).map_or(Ok(pool.len()), |&e| Self::size(e, "a start"))?;
            let Some(part) = pool.get(start..end.max(start)) else {
                return invalid("starts beyond the pool");
            };
            for gram in part.chunks_exact(length) {
                let column = self.columns.get(id).map_or(Ok(usize::MAX), |&c| Self::size(c, "a column"))?;
                if column >= width {
                    return invalid("n-grams without a column");
                }
                if (self.min_length..=self.max_length).contains(&(length as i64)) {
                    grams.insert(gram, column);
                    prefixes.extend((1..length).map(|n| &gram[..n]));
                }
                id += 1;
            }
        }
        Ok((grams, prefixes))
    }

    /// Counts of the n-grams in each row.
    pub(super) fn count(&self, cx: &mut Cx<'_>, x: &Tensor) -> Result<Tensor, Fault> {
        let width =
            self.columns.iter().max().map_or(Ok(0), |&c| Self::size(c.saturating_add(1), "a column"))?;
        let (rows, length, dims) = match *x.dims() {
            [n] => (1, n, vec![width]),
            [b, n] => (b, n, vec![b, width]),
            _ => return invalid(format!("x {:?}", x.dims())),
        };
        let count = cx.admit(DType::F32, &dims)?;
        let (pool, items) = (words(self.pool)?, words(x)?);
        let (grams, prefixes) = self.dictionary(&pool, width)?;
        let least = Self::size(self.min_length, "a length")?.max(1);
        let most = Self::size(self.max_length, "a length")?;
        let mut counts = vec![0u64; count];
        for row in 0..rows {
            let items = &items[row * length..(row + 1) * length];
            for step in 1..=Self::size(self.max_skip, "a skip")?.saturating_add(1).min(length.max(1)) {
                // N-grams of one element have no gaps: they count once.
                let least = if step > 1 { least.max(2) } else { least };
                for start in 0..length {
                    let mut gram: Vec<String> = vec![];
                    for item in items[start..].iter().step_by(step).take(most) {
                        cx.tick(1)?;
                        gram.push(item.clone());
                        if let Some(&column) = grams.get(gram.as_slice()).filter(|_| gram.len() >= least) {
                            counts[row * width + column] += 1;
                        }
                        if !prefixes.contains(gram.as_slice()) {
                            break;
                        }
                    }
                }
            }
        }
        let weight = |column: usize| self.weights.get(column).map_or(1.0, |w| w.get());
        let value = |(i, &n): (usize, &u64)| match self.weighting {
            NgramWeight::Count => n as f64,
            NgramWeight::Weight if n > 0 => weight(i % width),
            NgramWeight::Weight => 0.0,
            NgramWeight::CountTimesWeight => n as f64 * weight(i % width),
        };
        Lanes::F(counts.iter().enumerate().map(value).collect()).encode(DType::F32, &dims)
    }
}
