//! Discrete Fourier transforms by their definition, and what audio models build from them.

use std::f64::consts::TAU;

use crate::{DType, Tensor};

use super::cx::Cx;
use super::fault::{Fault, invalid};
use super::lanes::{Lanes, floats, ints, single};
use super::walk::{axis_of, split_at};

/// Real and imaginary parts of a signal.
type Parts = (Vec<f64>, Vec<f64>);

/// Cosines and sines of multiples of a full turn over `n`.
struct Turns {
    cos: Vec<f64>,
    sin: Vec<f64>,
}

impl Turns {
    fn new(n: usize) -> Turns {
        let angle = |k: usize| TAU * k as f64 / n as f64;
        Turns {
            cos: (0..n).map(|k| libm::cos(angle(k))).collect(),
            sin: (0..n).map(|k| libm::sin(angle(k))).collect(),
        }
    }

    /// Bin `k` of `sum over j of x[j] * e^(sign * i * turn * j * k / n)`.
    fn bin(&self, x: &Parts, k: usize, sign: f64) -> (f64, f64) {
        let n = self.cos.len();
        let (mut re, mut im) = (0.0, 0.0);
        let mut at = 0;
        for (&a, &b) in x.0.iter().zip(&x.1) {
            let (c, s) = (self.cos[at], sign * self.sin[at]);
            re += a * c - b * s;
            im += a * s + b * c;
            at += k;
            if at >= n {
                at -= n;
            }
        }
        (re, im)
    }
}

/// ONNX DFT.
pub(super) fn dft(
    cx: &mut Cx<'_>,
    operands: &[&Tensor],
    inverse: bool,
    onesided: bool,
) -> Result<Tensor, Fault> {
    let &[x, length, axis] = operands else { return invalid("takes a signal, a length and an axis") };
    let rank = x.dims().len();
    let axis = axis_of(single(&ints(axis)?, "the axis")?, rank)?;
    let given = x.dims()[rank - 1];
    if axis + 1 == rank || !(1..=2).contains(&given) {
        return invalid(format!(
            "axis {axis} of {:?}, whose last axis holds real and imaginary part",
            x.dims()
        ));
    }
    let real = inverse && onesided;
    let n = match ints(length)?.as_slice() {
        [] if real => 2 * x.dims()[axis].saturating_sub(1),
        [] => x.dims()[axis],
        [one] => usize::try_from(*one).or_else(|_| invalid(format!("a length of {one}")))?,
        more => return invalid(format!("{} lengths", more.len())),
    };
    let bins = if onesided && !inverse { n / 2 + 1 } else { n };
    let parts = if real { 1 } else { 2 };
    let mut dims = x.dims().to_vec();
    (dims[axis], dims[rank - 1]) = (bins, parts);
    let count = cx.admit(x.dtype(), &dims)?;
    cx.admit(DType::F64, &[n, 2])?;
    let values = real_values(x)?;
    let mut out = vec![0.0; count];
    if n == 0 || count == 0 {
        return Lanes::F(out).encode(x.dtype(), &dims);
    }
    let turns = Turns::new(n);
    let (outer, size, inner) = split_at(&x.dims()[..rank - 1], axis)?;
    for line in 0..outer * inner {
        cx.tick(bins.saturating_mul(n))?;
        let (o, i) = (line / inner, line % inner);
        let part = |j: usize, p: usize| {
            if j < size && p < given { values[((o * size + j) * inner + i) * given + p] } else { 0.0 }
        };
        let mut signal: Parts = (0..n).map(|j| (part(j, 0), part(j, 1))).unzip();
        if real {
            // The missing half of a real signal's spectrum is the conjugate of the given one.
            for j in 0..n {
                if j == 0 || 2 * j == n {
                    signal.1[j] = 0.0;
                } else if 2 * j > n {
                    (signal.0[j], signal.1[j]) = (signal.0[n - j], -signal.1[n - j]);
                }
            }
        }
        for k in 0..bins {
            let (sign, scale) = if inverse { (1.0, 1.0 / n as f64) } else { (-1.0, 1.0) };
            let (re, im) = turns.bin(&signal, k, sign);
            let at = ((o * bins + k) * inner + i) * parts;
            out[at] = re * scale;
            if parts == 2 {
                out[at + 1] = im * scale;
            }
        }
    }
    Lanes::F(out).encode(x.dtype(), &dims)
}

fn real_values(x: &Tensor) -> Result<Vec<f64>, Fault> {
    if x.dtype().is_float() { floats(x) } else { invalid(format!("does not apply to {}", x.dtype())) }
}

/// ONNX STFT: transforms of windowed frames.
pub(super) fn stft(cx: &mut Cx<'_>, operands: &[&Tensor], onesided: bool) -> Result<Tensor, Fault> {
    let &[x, step, window] = operands else { return invalid("takes a signal, a frame step and a window") };
    let ([batch, n, given @ 1..=2], [frame]) = (x.dims(), window.dims()) else {
        return invalid(format!("a signal {:?} and a window {:?}", x.dims(), window.dims()));
    };
    let (batch, n, given, frame) = (*batch, *n, *given, *frame);
    let step = single(&ints(step)?, "the frame step")?;
    let Some(step) = usize::try_from(step).ok().filter(|&s| s > 0 && frame > 0 && frame <= n) else {
        return invalid(format!("frames of {frame} by steps of {step} in {n} samples"));
    };
    let frames = (n - frame) / step + 1;
    let bins = if onesided { frame / 2 + 1 } else { frame };
    let dims = [batch, frames, bins, 2];
    let count = cx.admit(x.dtype(), &dims)?;
    let (values, window) = (real_values(x)?, real_values(window)?);
    let turns = Turns::new(frame);
    let mut out = Vec::with_capacity(count);
    for b in 0..batch {
        for f in 0..frames {
            cx.tick(bins.saturating_mul(frame))?;
            let part = |j: usize, p: usize| match p < given {
                true => window[j] * values[(b * n + f * step + j) * given + p],
                false => 0.0,
            };
            let signal: Parts = (0..frame).map(|j| (part(j, 0), part(j, 1))).unzip();
            for k in 0..bins {
                let (re, im) = turns.bin(&signal, k, -1.0);
                out.extend([re, im]);
            }
        }
    }
    Lanes::F(out).encode(x.dtype(), &dims)
}

/// ONNX MelWeightMatrix: triangles over spectrogram bins, equally spaced in mel.
pub(super) fn mel_weight_matrix(
    cx: &mut Cx<'_>,
    operands: &[&Tensor],
    dtype: DType,
) -> Result<Tensor, Fault> {
    let &[bins, length, rate, lower, upper] = operands else { return invalid("takes five operands") };
    let int = |t: &Tensor, what| single(&ints(t)?, what);
    let size = |v: i64, what: &str| usize::try_from(v).or_else(|_| invalid(format!("{what} of {v}")));
    let bins = size(int(bins, "the number of bins")?, "a number of bins")?;
    let length = size(int(length, "the DFT length")?, "a DFT length")?;
    let rate = int(rate, "the sample rate")?;
    let (lower, upper) =
        (single(&floats(lower)?, "the lower edge")?, single(&floats(upper)?, "the upper edge")?);
    if rate <= 0 {
        return invalid(format!("a sample rate of {rate}"));
    }
    let rows = length / 2 + 1;
    let dims = [rows, bins];
    let count = cx.admit(dtype, &dims)?;
    let mel = |hertz: f64| 2595.0 * libm::log10(1.0 + hertz / 700.0);
    let step = (mel(upper) - mel(lower)) / (bins + 2) as f64;
    let edge = |i: usize| {
        let hertz = 700.0 * (libm::pow(10.0, (i as f64 * step + mel(lower)) / 2595.0) - 1.0);
        ((length + 1) as f64 * hertz / rate as f64).floor() as i64
    };
    let edges: Vec<i64> = (0..bins + 2).map(edge).collect();
    if edges.iter().any(|e| !(0..rows as i64).contains(e)) {
        return invalid(format!("edges from {lower} to {upper} Hertz exceed {rows} bins at {rate} Hertz"));
    }
    let mut out = vec![0.0; count];
    for (i, edge) in edges.windows(3).enumerate() {
        let (left, centre, right) = (edge[0], edge[1], edge[2]);
        for j in left..=centre.max(right - 1) {
            let rising = if centre == left { 1.0 } else { (j - left) as f64 / (centre - left) as f64 };
            let falling = (right - j) as f64 / (right - centre) as f64;
            out[j as usize * bins + i] = if j < centre || right == centre { rising } else { falling };
        }
    }
    Lanes::F(out).encode(dtype, &dims)
}
