//! Short-time Fourier transforms.
//!
//! A transform is a product with the matrix of its cosines and sines, or, of a length that has factors, two products with
//! those of the factors: kernels like all others.

use std::f64::consts::TAU;

use kiln_ir::op::{Host, Index, Movement, PadMode};
use kiln_ir::{Build, DType, Dim, Scalar, Tensor, Value};

use super::complex::{interleaved, joined, parts};
use super::cx::{Cx, one, product};
use super::linear::einsum_of;
use super::{How, Results, Row, row};
use crate::error::OpError;

use How::Fn;

#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    row("aten::istft", Fn(istft)),
    row("aten::stft", Fn(stft)),
];

/// The longest transform that is one product, and the longest factor.
const WHOLE: i64 = 256;

/// The longest transform without factors that is a product.
const PRIME: i64 = 512;

/// The longest transform.
const MOST: i64 = 1 << 17;

/// Most steps that a frame of an inverse transform covers.
const MOST_STEPS: i64 = 256;

/// Real and imaginary part.
type Parts = [Value; 2];

/// The constant `f(i, j)`, in a dtype.
fn table(
    cx: &mut Cx<'_, '_>,
    dtype: DType,
    (rows, columns): (i64, i64),
    f: &dyn std::ops::Fn(i64, i64) -> f64,
) -> Result<Value, OpError> {
    let dims = [rows, columns].map(|n| usize::try_from(n).unwrap_or(0));
    let elements = || (0..rows).flat_map(|i| (0..columns).map(move |j| f(i, j)));
    let tensor = match dtype {
        DType::F32 => Tensor::from_slice(&dims, &elements().map(|v| v as f32).collect::<Vec<_>>())?,
        DType::F64 => Tensor::from_slice(&dims, &elements().collect::<Vec<_>>())?,
        _ => Tensor::from_scalars(dtype, &dims, &elements().map(Scalar::F).collect::<Vec<_>>())?,
    };
    Ok(cx.b.constant(tensor)?)
}

/// Cosine and sine of `k` of `n` parts of a turn. Those of quarters are exact, so that what is real by itself stays so.
fn turn(k: i64, n: i64) -> (f64, f64) {
    let k = k.rem_euclid(n);
    match 4 * k {
        0 => (1.0, 0.0),
        k if k == n => (0.0, 1.0),
        k if k == 2 * n => (-1.0, 0.0),
        k if k == 3 * n => (0.0, -1.0),
        _ => {
            let angle = TAU * k as f64 / n as f64;
            (angle.cos(), angle.sin())
        }
    }
}

/// The matrix of a transform of length `n`: from parts one after the other (or a real part alone) to parts one after the
/// other.
fn matrix(cx: &mut Cx<'_, '_>, dtype: DType, n: i64, real: bool, sign: f64) -> Result<Value, OpError> {
    let rows = if real { n } else { 2 * n };
    table(cx, dtype, (rows, 2 * n), &|i, j| {
        let (cos, sin) = turn((i % n) * (j % n), n);
        match (i < n, j < n) {
            (true, true) | (false, false) => cos,
            (true, false) => sign * sin,
            (false, true) => -sign * sin,
        }
    })
}

/// The factor that a transform of length `n` is split by: the one next below its root, or next above.
fn factor(n: i64) -> Option<i64> {
    let divides = |a: &i64| n % a == 0;
    let root = (1..=WHOLE).take_while(|a| a * a <= n).last().unwrap_or(1);
    (2..=root).rev().find(divides).or_else(|| (root + 1..=WHOLE.min(n - 1)).find(divides))
}

/// The two halves of an axis.
fn halves(cx: &mut Cx<'_, '_>, v: Value, axis: usize) -> Result<Parts, OpError> {
    let size = cx.shape(v)?.get(axis).cloned().unwrap_or(Dim::known(2)).floor_div(&Dim::known(2));
    let first = cx.b.slice_axis(v, axis, Dim::known(0), size.clone())?;
    Ok([first, cx.b.slice_axis(v, axis, size.clone(), size)?])
}

/// `sum over j of x[j] * e^(sign * i * turn * j * k / n)` for rows `[L, n]` of known length.
fn transform(cx: &mut Cx<'_, '_>, re: Value, im: Option<Value>, sign: f64) -> Result<Parts, OpError> {
    let dtype = cx.dtype(re)?;
    let shape = cx.shape(re)?;
    let [lines, length] = shape.as_slice() else { return Err(OpError::invalid("rows to transform")) };
    let n = length.as_known().filter(|n| (1..=MOST).contains(n));
    let n = n.ok_or_else(|| OpError::unsupported("a transform of this length"))?;
    match factor(n).filter(|_| n > WHOLE) {
        Some(a) => split(cx, (re, im), (lines, a, n / a), sign),
        None if n <= PRIME => {
            let x = match im {
                Some(im) => cx.b.concat(&[re, im], 1)?,
                None => re,
            };
            let m = matrix(cx, dtype, n, im.is_none(), sign)?;
            let y = einsum_of(cx, "lj,jk->lk", x, m)?;
            halves(cx, y, 1)
        }
        None => {
            let im = match im {
                Some(im) => im,
                None => cx.filled(dtype, 0.0, &shape)?,
            };
            let x = interleaved(cx, re, im)?;
            let all = cx.b.constant_of::<i64>(&[])?;
            let axis = cx.b.constant(Tensor::ints(&[1]))?;
            let y = cx.b.add1(Host::Dft { inverse: sign > 0.0, onesided: false }, &[x, all, axis])?;
            let scale = if sign > 0.0 { n as f64 } else { 1.0 };
            let y = cx.ew_const("mul", y, scale)?;
            let re = super::movement::picked(cx, y, 2, Dim::known(0))?;
            Ok([re, super::movement::picked(cx, y, 2, Dim::known(1))?])
        }
    }
}

/// A transform of length `a * b`: with `n = b i + j` and `k = k1 + a k2`, one of length `a` over `i`, a turn by `j k1`,
/// and one of length `b` over `j` (Cooley and Tukey 1965).
fn split(
    cx: &mut Cx<'_, '_>,
    (re, im): (Value, Option<Value>),
    (lines, a, b): (&Dim, i64, i64),
    sign: f64,
) -> Result<Parts, OpError> {
    let dtype = cx.dtype(re)?;
    let (da, db) = (Dim::known(a), Dim::known(b));
    let grid = [lines.clone(), da.clone(), db.clone()];
    let mut x = cx.b.reshape(re, &grid)?;
    if let Some(im) = im {
        let im = cx.b.reshape(im, &grid)?;
        x = cx.b.concat(&[x, im], 1)?;
    }
    let m = matrix(cx, dtype, a, im.is_none(), sign)?;
    let y = einsum_of(cx, "lij,ik->ljk", x, m)?;
    let [re, im] = halves(cx, y, 2)?;
    let cos = table(cx, dtype, (b, a), &|j, k| turn(j * k, a * b).0)?;
    let sin = table(cx, dtype, (b, a), &|j, k| sign * turn(j * k, a * b).1)?;
    let (rc, rs) = (cx.ew("mul", &[re, cos])?, cx.ew("mul", &[re, sin])?);
    let (ic, is) = (cx.ew("mul", &[im, cos])?, cx.ew("mul", &[im, sin])?);
    let (re, im) = (cx.ew("sub", &[rc, is])?, cx.ew("add", &[rs, ic])?);
    let flat = [lines.clone(), &da * &db];
    if b <= WHOLE {
        let x = cx.b.concat(&[re, im], 1)?;
        let m = matrix(cx, dtype, b, false, sign)?;
        let y = einsum_of(cx, "ljk,jm->lmk", x, m)?;
        let [re, im] = halves(cx, y, 1)?;
        return Ok([cx.b.reshape(re, &flat)?, cx.b.reshape(im, &flat)?]);
    }
    let rows = [lines * &da, db.clone()];
    let mut inner = vec![];
    for part in [re, im] {
        let moved = cx.b.transpose(part, &[0, 2, 1])?;
        inner.push(cx.b.reshape(moved, &rows)?);
    }
    let [re, im] = super::pointwise::pair(&inner)?;
    let mut done = vec![];
    for part in transform(cx, re, Some(im), sign)? {
        let grid = cx.b.reshape(part, &[lines.clone(), da.clone(), db.clone()])?;
        let moved = cx.b.transpose(grid, &[0, 2, 1])?;
        done.push(cx.b.reshape(moved, &flat)?);
    }
    super::pointwise::pair(&done)
}

/// What both directions are asked for.
struct Frames {
    n: i64,
    hop: i64,
    window: Option<Value>,
    normalized: bool,
}

fn frames(cx: &mut Cx<'_, '_>, dtype: DType) -> Result<Frames, OpError> {
    let n = cx.int("n_fft")?;
    let hop = cx.maybe_int("hop_length")?.unwrap_or(n / 4);
    let length = cx.maybe_int("win_length")?.unwrap_or(n);
    if n > MOST {
        return Err(OpError::unsupported(format!("frames of {n}")));
    }
    if n < 1 || hop < 1 || !(1..=n).contains(&length) {
        return Err(OpError::invalid(format!("frames of {n} by steps of {hop}, windows of {length}")));
    }
    let mut window = match cx.maybe_tensor("window")? {
        Some(v) => Some(cx.b.cast(v, dtype)?),
        None if length < n => Some(cx.filled(dtype, 1.0, &[Dim::known(length)])?),
        None => None,
    };
    if let Some(v) = window {
        let shape = cx.shape(v)?;
        if matches!(shape.as_slice(), [points] if points.as_known().is_none()) {
            return Err(OpError::unsupported("a window of an unknown number of points"));
        }
        if shape != [Dim::known(length)] {
            return Err(OpError::invalid(format!("the window does not have {length} points")));
        }
        // A short window stands in the middle of its frame.
        let before = (n - length) / 2;
        window = Some(padded(cx, v, 0, (before, n - length - before), PadMode::Constant)?);
    }
    Ok(Frames { n, hop, window, normalized: cx.flag("normalized")? })
}

/// Pads an axis.
fn padded(
    cx: &mut Cx<'_, '_>,
    v: Value,
    axis: usize,
    (before, after): (i64, i64),
    mode: PadMode,
) -> Result<Value, OpError> {
    if before == 0 && after == 0 {
        return Ok(v);
    }
    let rank = cx.rank(v)?;
    let dtype = cx.dtype(v)?;
    let at = |n: i64| (0..rank).map(|i| Dim::known(if i == axis { n } else { 0 })).collect::<Vec<_>>();
    let zero = cx.constant(dtype, 0.0)?;
    Ok(cx.b.add1(Movement::Pad { mode, before: at(before), after: at(after) }, &[v, zero])?)
}

/// Frames of a signal `[B?, length]`, transformed: `[B?, bins, frames]`.
fn stft(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let (re, im) = parts(cx, x)?;
    let is_complex = im.is_some();
    let dtype = cx.dtype(re)?;
    let given = frames(cx, dtype)?;
    if cx.flag("align_to_window")? {
        return Err(OpError::unsupported("frames aligned to their windows"));
    }
    let shape = cx.shape(re)?;
    let batched = match shape.as_slice() {
        [_] => false,
        [_, _] => true,
        _ => return Err(OpError::invalid(format!("a signal of rank {}", shape.len()))),
    };
    let mut sides = vec![];
    for part in std::iter::once(re).chain(im) {
        let length = shape.last().cloned().unwrap_or(Dim::known(0));
        let lines = if batched { shape.first().cloned() } else { None };
        let mut v = cx.b.reshape(part, &[lines.unwrap_or(Dim::known(1)), length])?;
        if cx.takes("center") && cx.flag("center")? {
            let mode = match cx.maybe_text("pad_mode")? {
                Some("constant") => PadMode::Constant,
                None | Some("reflect") => PadMode::Reflect,
                Some("replicate") => PadMode::Edge,
                Some("circular") => PadMode::Wrap,
                Some(other) => return Err(OpError::invalid(format!("mode `{other}`"))),
            };
            v = padded(cx, v, 1, (given.n / 2, given.n / 2), mode)?;
        }
        sides.push(framed(cx, v, &given)?);
    }
    let count = cx.shape(sides.first().copied().unwrap_or(re))?;
    let [lines, frames, n] = count.as_slice() else { return Err(OpError::invalid("frames")) };
    let mut rows = vec![];
    for v in sides {
        rows.push(cx.b.reshape(v, &[lines * frames, n.clone()])?);
    }
    let first = rows.first().copied().ok_or_else(|| OpError::invalid("no signal"))?;
    let spectrum = transform(cx, first, rows.get(1).copied(), -1.0)?;
    let onesided = match cx.get("onesided").is_none() {
        true => im.is_none(),
        false => cx.flag("onesided")?,
    };
    let bins = if onesided { given.n / 2 + 1 } else { given.n };
    let mut found = vec![];
    for part in spectrum {
        let mut v = cx.b.slice_axis(part, 1, Dim::known(0), Dim::known(bins))?;
        if given.normalized {
            v = cx.ew_const("mul", v, 1.0 / (given.n as f64).sqrt())?;
        }
        let v = cx.b.reshape(v, &[lines.clone(), frames.clone(), Dim::known(bins)])?;
        let v = cx.b.transpose(v, &[0, 2, 1])?;
        let mut shape = cx.shape(v)?;
        if !batched {
            shape.remove(0);
        }
        found.push(cx.b.reshape(v, &shape)?);
    }
    let [re, im] = super::pointwise::pair(&found)?;
    let as_complex = match cx.get("return_complex").is_none() {
        true => is_complex,
        false => cx.flag("return_complex")?,
    };
    let y = if as_complex { joined(cx, re, im)? } else { interleaved(cx, re, im)? };
    one(y)
}

/// `[B, length]` to windowed frames `[B, frames, n]`.
fn framed(cx: &mut Cx<'_, '_>, v: Value, given: &Frames) -> Result<Value, OpError> {
    let length = cx.shape(v)?.last().cloned().unwrap_or(Dim::known(0));
    if length.as_known().is_some_and(|length| length < given.n) {
        return Err(OpError::invalid(format!("a signal of {length} in frames of {}", given.n)));
    }
    let count = (length - Dim::known(given.n)).floor_div(&Dim::known(given.hop)) + Dim::known(1);
    let start = cx.positions(&count, DType::I64, 0, 2)?;
    let start = cx.ew_const("mul", start, given.hop as f64)?;
    let inside = cx.positions(&Dim::known(given.n), DType::I64, 1, 2)?;
    let places = cx.ew("add", &[start, inside])?;
    let found = cx.b.add1(Index::Gather { axis: 1 }, &[v, places])?;
    match given.window {
        Some(window) => cx.ew("mul", &[found, window]),
        None => Ok(found),
    }
}

/// Frames `[B, T, n]` added up where they lie: `[B, (T + r - 1) * hop]`, `r` steps a frame.
fn overlapped(cx: &mut Cx<'_, '_>, frames: Value, given: &Frames) -> Result<Value, OpError> {
    let steps = given.n / given.hop + i64::from(given.n % given.hop != 0);
    if steps > MOST_STEPS {
        return Err(OpError::unsupported(format!("frames that overlap {steps} others")));
    }
    let whole = padded(cx, frames, 2, (0, steps * given.hop - given.n), PadMode::Constant)?;
    let mut sum: Option<Value> = None;
    for step in 0..steps {
        let piece = cx.b.slice_axis(whole, 2, Dim::known(step * given.hop), Dim::known(given.hop))?;
        let moved = padded(cx, piece, 1, (step, steps - 1 - step), PadMode::Constant)?;
        sum = Some(match sum {
            Some(sum) => cx.ew("add", &[sum, moved])?,
            None => moved,
        });
    }
    let sum = sum.ok_or_else(|| OpError::invalid("frames without elements"))?;
    let shape = cx.shape(sum)?;
    let (lines, rest) = shape.split_at(1.min(shape.len()));
    Ok(cx.b.reshape(sum, &[lines.to_vec(), vec![product(rest)]].concat())?)
}

/// A spectrum `[B?, bins, frames]` as a signal: frames are added up where they overlap and divided by what their windows
/// add up to. Where that is zero PyTorch raises, and here nothing is found.
fn istft(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let [re, im] = super::complex::both(cx, x)?;
    let dtype = cx.dtype(re)?;
    let given = frames(cx, dtype)?;
    if cx.flag("return_complex")? {
        return Err(OpError::unsupported("a complex signal of a spectrum"));
    }
    let shape = cx.shape(re)?;
    let (lines, bins, count) = match shape.as_slice() {
        [bins, count] => (None, bins, count),
        [lines, bins, count] => (Some(lines.clone()), bins, count),
        _ => return Err(OpError::invalid(format!("a spectrum of rank {}", shape.len()))),
    };
    let batched = lines.is_some();
    let lines = lines.unwrap_or(Dim::known(1));
    let bins = bins.as_known().ok_or_else(|| super::cx::unknown("self"))?;
    let onesided = match cx.get("onesided").is_none() {
        true => bins != given.n,
        false => cx.flag("onesided")?,
    };
    if bins != if onesided { given.n / 2 + 1 } else { given.n } {
        return Err(OpError::invalid(format!("a spectrum of {bins} bins for frames of {}", given.n)));
    }
    // The half that is not there is the conjugate of what is: the real part of a sum with doubled bins.
    let scale = if given.normalized { 1.0 / (given.n as f64).sqrt() } else { 1.0 / given.n as f64 };
    let once = |k: i64| !onesided || k == 0 || 2 * k == given.n;
    let weights = table(cx, dtype, (1, bins), &|_, k| if once(k) { scale } else { 2.0 * scale })?;
    let mut rows = vec![];
    for part in [re, im] {
        let v = cx.b.reshape(part, &[lines.clone(), Dim::known(bins), count.clone()])?;
        let v = cx.b.transpose(v, &[0, 2, 1])?;
        let v = cx.b.reshape(v, &[&lines * count, Dim::known(bins)])?;
        let v = cx.ew("mul", &[v, weights])?;
        rows.push(padded(cx, v, 1, (0, given.n - bins), PadMode::Constant)?);
    }
    let [re, im] = super::pointwise::pair(&rows)?;
    let [signal, _] = transform(cx, re, Some(im), 1.0)?;
    let mut v = cx.b.reshape(signal, &[lines, count.clone(), Dim::known(given.n)])?;
    let ones = match given.window {
        Some(window) => {
            v = cx.ew("mul", &[v, window])?;
            cx.ew("mul", &[window, window])?
        }
        None => cx.filled(dtype, 1.0, &[Dim::known(given.n)])?,
    };
    let envelope = cx.b.broadcast(ones, &[Dim::known(1), count.clone(), Dim::known(given.n)])?;
    let (v, envelope) = (overlapped(cx, v, &given)?, overlapped(cx, envelope, &given)?);
    let y = cut(cx, (v, envelope), count, &given)?;
    let mut shape = cx.shape(y)?;
    if !batched {
        shape.remove(0);
    }
    let y = cx.b.reshape(y, &shape)?;
    one(y)
}

/// The part of a signal that is asked for, divided by the windows' sum; zeros where the signal ends before.
fn cut(
    cx: &mut Cx<'_, '_>,
    (v, envelope): (Value, Value),
    count: &Dim,
    given: &Frames,
) -> Result<Value, OpError> {
    let n = Dim::known(given.n);
    let total = (count - &Dim::known(1)) * Dim::known(given.hop) + n.clone();
    let half = if cx.flag("center")? { n.floor_div(&Dim::known(2)) } else { Dim::known(0) };
    let (end, missing) = match cx.maybe_dim("length")? {
        Some(length) => {
            let end = &half + &length;
            let kept = end.lesser(&total);
            (kept.clone(), &end - &kept)
        }
        None => (&total - &half, Dim::known(0)),
    };
    let size = &end - &half;
    let v = cx.b.slice_axis(v, 1, half.clone(), size.clone())?;
    let envelope = cx.b.slice_axis(envelope, 1, half, size)?;
    let y = cx.ew("div", &[v, envelope])?;
    if missing.as_known() == Some(0) {
        return Ok(y);
    }
    let dtype = cx.dtype(y)?;
    let zero = cx.constant(dtype, 0.0)?;
    let none = vec![Dim::known(0); 2];
    let pad = Movement::Pad { mode: PadMode::Constant, before: none, after: vec![Dim::known(0), missing] };
    Ok(cx.b.add1(pad, &[y, zero])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_split_by_factors_near_their_root() {
        assert_eq!(
            [400, 512, 4096, 1000, 514, 1021].map(factor),
            [Some(20), Some(16), Some(64), Some(25), Some(2), None]
        );
    }
}
