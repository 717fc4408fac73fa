//! Rare operators.

use crate::op::Host;
use crate::{DType, Tensor};

use super::cx::Cx;
use super::elementwise::complex_tensor;
use super::fault::{Fault, invalid};
use super::lanes::{Lanes, floats, ints, single};
use super::ngrams::Ngrams;
use super::order::Keys;
use super::walk::pick;
use super::{image, pictures, random, signal, text, trees};

/// An operator without a kernel.
pub(super) fn host(cx: &mut Cx<'_>, op: &Host, operands: &[&Tensor]) -> Result<Vec<Tensor>, Fault> {
    let at =
        |i: usize| operands.get(i).copied().ok_or_else(|| Fault::Operands(format!("operand {i} is missing")));
    let result = match op {
        Host::TreeEnsemble { .. } | Host::TreeClassifier { .. } => return trees::trees(cx, op, operands),
        Host::RandomUniform { .. } | Host::RandomNormal { .. } | Host::Bernoulli { .. } => {
            random::random(cx, op, operands)
        }
        Host::NonMaxSuppression { center_point_box } => non_max_suppression(cx, operands, *center_point_box),
        Host::Det {} => determinant(cx, at(0)?),
        Host::Inverse {} => inverse(cx, at(0)?),
        Host::StringConcat {} => text::concat(cx, at(0)?, at(1)?),
        Host::StringCast { to } => text::cast(cx, at(0)?, *to),
        Host::StringEqual {} => text::equal(cx, at(0)?, at(1)?),
        Host::BitCast { to } => bit_cast(at(0)?, *to),
        Host::Complex {} => complex(at(0)?, at(1)?),
        Host::ComplexParts {} => return complex_parts(at(0)?),
        Host::Fail { message } => Err(Fault::Failed(text::fill(message, operands))),
        Host::StringSlice { start, end } => text::slice(cx, at(0)?, *start, *end),
        Host::StringSplit { delimiter, max_splits } => {
            return text::split(cx, at(0)?, delimiter, *max_splits);
        }
        Host::RegexFullMatch { pattern } => text::full_match(cx, at(0)?, pattern),
        Host::StringNormalize { case, case_sensitive, stopwords } => {
            text::normalize(cx, at(0)?, *case, *case_sensitive, stopwords)
        }
        Host::NgramCounts { weighting, min_length, max_length, max_skip, starts, columns, pool, weights } => {
            let (weighting, min_length, max_length) = (*weighting, *min_length, *max_length);
            let max_skip = *max_skip;
            Ngrams { weighting, min_length, max_length, max_skip, starts, columns, pool, weights }
                .count(cx, at(0)?)
        }
        Host::Lookup { keys, values, default } => lookup(cx, at(0)?, keys, values, default),
        Host::GridSample { .. }
        | Host::RoiAlign { .. }
        | Host::MaxUnpool { .. }
        | Host::Col2Im { .. }
        | Host::DeformConv { .. } => image::image(cx, op, operands),
        Host::Dft { inverse, onesided } => signal::dft(cx, operands, *inverse, *onesided),
        Host::Stft { onesided } => signal::stft(cx, operands, *onesided),
        Host::MelWeightMatrix { dtype } => signal::mel_weight_matrix(cx, operands, *dtype),
        Host::ImageDecode { pixels } => pictures::decode(cx, at(0)?, *pixels),
    };
    result.map(|t| vec![t])
}

/// Complex numbers of their parts.
fn complex(re: &Tensor, im: &Tensor) -> Result<Tensor, Fault> {
    let dtype = match (re.dtype(), im.dtype()) {
        (DType::F32, DType::F32) => DType::C64,
        (DType::F64, DType::F64) => DType::C128,
        (a, b) => return invalid(format!("complex numbers of {a} and {b}")),
    };
    if re.dims() != im.dims() {
        return invalid(format!("parts of shapes {:?} and {:?}", re.dims(), im.dims()));
    }
    let pairs: Vec<(f64, f64)> = floats(re)?.into_iter().zip(floats(im)?).collect();
    complex_tensor(dtype, re.dims(), &pairs)
}

/// Real and imaginary parts.
fn complex_parts(x: &Tensor) -> Result<Vec<Tensor>, Fault> {
    let dtype = match x.dtype() {
        DType::C64 => DType::F32,
        DType::C128 => DType::F64,
        other => return invalid(format!("parts of {other}")),
    };
    let (re, im): (Vec<f64>, Vec<f64>) = super::elementwise::complex_parts(x).into_iter().unzip();
    Ok(vec![Lanes::F(re).encode(dtype, x.dims())?, Lanes::F(im).encode(dtype, x.dims())?])
}

/// The same bits in another dtype of the same width.
fn bit_cast(x: &Tensor, to: DType) -> Result<Tensor, Fault> {
    match x.storage() {
        Some(bytes) if x.dtype().bits() == to.bits() => {
            // Any byte but 0 would be an ill-formed bool.
            if to == DType::Bool && bytes.as_slice().iter().any(|&b| b > 1) {
                return invalid("bits that are no bool");
            }
            Ok(Tensor::new(to, x.dims(), bytes.clone())?)
        }
        _ => invalid(format!("{} and {to} differ in width", x.dtype())),
    }
}

/// The value of each element's key.
fn lookup(
    cx: &mut Cx<'_>,
    x: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    default: &Tensor,
) -> Result<Tensor, Fault> {
    if x.dtype() != keys.dtype() || keys.numel() != values.numel() || default.numel() != 1 {
        return invalid("keys, values and default do not fit");
    }
    // One tensor of keys then elements, so that positions in it compare.
    let n = keys.numel();
    let (a, b) = (keys.reshaped(&[n])?, x.reshaped(&[x.numel()])?);
    let all = super::movement::concat(cx, &[&a, &b], 0)?;
    let compare = Keys::new(&all)?;
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| compare.cmp(i, j));
    let picks: Vec<(usize, usize)> = (n..n + x.numel())
        .map(|i| match order.binary_search_by(|&k| compare.cmp(k, i)) {
            Ok(found) => (0, order[found]),
            Err(_) => (1, 0),
        })
        .collect();
    pick(cx, &[values, default], x.dims(), picks.into_iter())
}

/// Inverses of the last two axes.
fn inverse(cx: &mut Cx<'_>, x: &Tensor) -> Result<Tensor, Fault> {
    let n = match x.dims() {
        [.., n, m] if n == m => *n,
        other => return invalid(format!("{other:?} holds no square matrices")),
    };
    let total = cx.admit(x.dtype(), x.dims())?;
    if !x.dtype().is_float() {
        return invalid(format!("does not apply to {}", x.dtype()));
    }
    let values = floats(x)?;
    let size = n.saturating_mul(n);
    let mut out = Vec::with_capacity(total);
    for matrix in values.chunks_exact(size.max(1)) {
        cx.tick(size.saturating_mul(n))?;
        match inverse_of(matrix.to_vec(), n) {
            Some(found) => out.extend(found),
            None => return invalid("a matrix that has no inverse"),
        }
    }
    Lanes::F(out).encode(x.dtype(), x.dims())
}

/// By elimination with partial pivoting; none if a pivot is zero.
fn inverse_of(mut a: Vec<f64>, n: usize) -> Option<Vec<f64>> {
    let mut inverse: Vec<f64> = (0..n * n).map(|i| f64::from(u8::from(i / n == i % n))).collect();
    for c in 0..n {
        let pivot =
            (c..n).fold(c, |best, r| if a[r * n + c].abs() > a[best * n + c].abs() { r } else { best });
        for k in 0..n {
            a.swap(pivot * n + k, c * n + k);
            inverse.swap(pivot * n + k, c * n + k);
        }
        let diagonal = a[c * n + c];
        if diagonal == 0.0 {
            return None;
        }
        for k in 0..n {
            a[c * n + k] /= diagonal;
            inverse[c * n + k] /= diagonal;
        }
        for r in (0..n).filter(|&r| r != c) {
            let factor = a[r * n + c];
            for k in 0..n {
                a[r * n + k] -= factor * a[c * n + k];
                inverse[r * n + k] -= factor * inverse[c * n + k];
            }
        }
    }
    Some(inverse)
}

/// Determinants of the last two axes, by elimination with partial pivoting.
fn determinant(cx: &mut Cx<'_>, x: &Tensor) -> Result<Tensor, Fault> {
    let (lead, n) = match x.dims() {
        [lead @ .., n, m] if n == m => (lead, *n),
        other => return invalid(format!("{other:?} holds no square matrices")),
    };
    let count = cx.admit(x.dtype(), lead)?;
    if !x.dtype().is_float() {
        return invalid(format!("does not apply to {}", x.dtype()));
    }
    let values = floats(x)?;
    let mut out = Vec::with_capacity(count);
    for i in 0..count {
        cx.tick(n.saturating_mul(n).saturating_mul(n))?;
        out.push(determinant_of(values[i * n * n..(i + 1) * n * n].to_vec(), n));
    }
    Lanes::F(out).encode(x.dtype(), lead)
}

fn determinant_of(mut a: Vec<f64>, n: usize) -> f64 {
    let mut product = 1.0;
    for c in 0..n {
        let pivot =
            (c..n).fold(c, |best, r| if a[r * n + c].abs() > a[best * n + c].abs() { r } else { best });
        if pivot != c {
            (0..n).for_each(|k| a.swap(pivot * n + k, c * n + k));
            product = -product;
        }
        let diagonal = a[c * n + c];
        if diagonal == 0.0 {
            return 0.0;
        }
        product *= diagonal;
        for r in c + 1..n {
            let factor = a[r * n + c] / diagonal;
            for k in c..n {
                a[r * n + k] -= factor * a[c * n + k];
            }
        }
    }
    product
}

/// A box as its lower and upper corner.
type Corners = [f64; 4];

/// ONNX NonMaxSuppression: `[batch, class, box]` of the boxes kept, best score first within each class.
fn non_max_suppression(
    cx: &mut Cx<'_>,
    operands: &[&Tensor],
    center_point_box: bool,
) -> Result<Tensor, Fault> {
    let [boxes, scores, rest @ ..] = operands else { return invalid("takes boxes and scores") };
    let ([batches, n, 4], [score_batches, classes, m]) = (boxes.dims(), scores.dims()) else {
        return invalid(format!("boxes {:?} and scores {:?}", boxes.dims(), scores.dims()));
    };
    if batches != score_batches || n != m {
        return invalid(format!("boxes {:?} and scores {:?}", boxes.dims(), scores.dims()));
    }
    let most = match rest.first() {
        Some(t) if t.numel() > 0 => usize::try_from(single(&ints(t)?, "max_output_boxes")?).unwrap_or(0),
        _ => 0,
    };
    let threshold = |i: usize| match rest.get(i) {
        Some(t) if t.numel() > 0 => single(&floats(t)?, "a threshold").map(Some),
        _ => Ok(None),
    };
    let (overlap, floor) = (threshold(1)?.unwrap_or(0.0), threshold(2)?);
    let (coordinates, scores) = (floats(boxes)?, floats(scores)?);
    let corners: Vec<Corners> = coordinates
        .chunks_exact(4)
        .map(|b| match center_point_box {
            true => [b[0] - b[2] / 2.0, b[1] - b[3] / 2.0, b[0] + b[2] / 2.0, b[1] + b[3] / 2.0],
            false => [b[0].min(b[2]), b[1].min(b[3]), b[0].max(b[2]), b[1].max(b[3])],
        })
        .collect();
    let mut out: Vec<i64> = vec![];
    // Without boxes there may be any number of batches and classes.
    for batch in 0..if *n == 0 { 0 } else { *batches } {
        for class in 0..*classes {
            let scores = &scores[(batch * classes + class) * n..][..*n];
            let corners = &corners[batch * n..][..*n];
            let mut order: Vec<usize> = (0..*n).filter(|&i| floor.is_none_or(|f| scores[i] > f)).collect();
            order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
            let mut kept: Vec<usize> = vec![];
            for i in order {
                if kept.len() >= most {
                    break;
                }
                cx.tick(kept.len() + 1)?;
                if kept.iter().all(|&k| intersection_over_union(&corners[i], &corners[k]) <= overlap) {
                    kept.push(i);
                }
            }
            out.extend(kept.iter().flat_map(|&i| [batch as i64, class as i64, i as i64]));
        }
    }
    let dims = [out.len() / 3, 3];
    cx.admit(DType::I64, &dims)?;
    Ok(Tensor::from_slice(&dims, &out)?)
}

/// The area shared by two boxes over the area covered by both; 0 for empty boxes.
fn intersection_over_union(a: &Corners, b: &Corners) -> f64 {
    let area = |c: &Corners| (c[2] - c[0]) * (c[3] - c[1]);
    let height = (a[2].min(b[2]) - a[0].max(b[0])).max(0.0);
    let width = (a[3].min(b[3]) - a[1].max(b[1])).max(0.0);
    let shared = height * width;
    let covered = area(a) + area(b) - shared;
    if covered <= 0.0 { 0.0 } else { shared / covered }
}
