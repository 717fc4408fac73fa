//! Pooling.

use std::ops::Range;

use crate::op::{Layout, Window, WindowKind};
use crate::{DType, Dim, Tensor};

use super::conv::{
    channels_first_dims, count_of, extent, from_channels_first, is_step, pad_of, to_channels_first,
};
use super::cx::Cx;
use super::fault::{Fault, invalid};
use super::lanes::{Lanes, as_f64};
use super::reduce::identity;
use super::walk::{Walk, product, strides};

/// Geometry of a pooling; one entry a spatial axis.
struct Geometry {
    planes: usize,
    input: Vec<usize>,
    kernel: Vec<i64>,
    output: Vec<usize>,
    strides: Vec<i64>,
    dilations: Vec<i64>,
    pads: Vec<(i64, i64)>,
}

/// Attributes that both poolings have.
struct Attrs<'a> {
    kernel: &'a [i64],
    strides: &'a [i64],
    dilations: &'a [i64],
    pads: &'a [(Dim, Dim)],
    ceil_mode: bool,
}

/// A pooling.
pub(super) fn window(cx: &mut Cx<'_>, op: &Window, x: &Tensor) -> Result<Vec<Tensor>, Fault> {
    match op {
        Window::Pool { kind, kernel, strides, dilations, pads, ceil_mode, layout } => {
            let attrs = Attrs { kernel, strides, dilations, pads, ceil_mode: *ceil_mode };
            pool(cx, *kind, &attrs, *layout, x).map(|t| vec![t])
        }
        Window::MaxWithIndices { kernel, strides, dilations, pads, ceil_mode, column_major } => {
            let attrs = Attrs { kernel, strides, dilations, pads, ceil_mode: *ceil_mode };
            max_with_indices(cx, &attrs, *column_major, x)
        }
    }
}

impl Geometry {
    fn new(cx: &Cx<'_>, attrs: &Attrs<'_>, dims: &[usize]) -> Result<Geometry, Fault> {
        let input = dims[2..].to_vec();
        let lengths = [attrs.kernel.len(), attrs.strides.len(), attrs.dilations.len(), attrs.pads.len()];
        if lengths.iter().any(|&n| n != input.len()) {
            return invalid(format!("attributes do not fit an operand of {dims:?}"));
        }
        let positive = [attrs.kernel, attrs.strides, attrs.dilations].concat();
        if positive.iter().any(|&v| !is_step(v)) {
            return invalid("kernel sizes, strides and dilations must be positive");
        }
        let (mut output, mut pads) = (vec![], vec![]);
        for (a, (before, after)) in attrs.pads.iter().enumerate() {
            let (before, after) = (pad_of(cx, before)?, pad_of(cx, after)?);
            let room = input[a] as i64 + before + after - extent(attrs.kernel[a], attrs.dilations[a])?;
            let stride = attrs.strides[a];
            let mut count = room.div_euclid(stride) + 1;
            if attrs.ceil_mode {
                count += i64::from(room.rem_euclid(stride) != 0);
                // A window that would start beyond the operand and the padding before it does not count.
                if (count - 1).saturating_mul(stride) >= input[a] as i64 + before {
                    count -= 1;
                }
            }
            output.push(count_of(count)?);
            pads.push((before, after));
        }
        Ok(Geometry {
            planes: product(&dims[..2])?,
            input,
            kernel: attrs.kernel.to_vec(),
            output,
            strides: attrs.strides.to_vec(),
            dilations: attrs.dilations.to_vec(),
            pads,
        })
    }

    /// The kernel elements of window `i` along axis `a` that lie inside the operand, and how many lie inside it or
    /// its padding.
    fn taps(&self, a: usize, i: usize) -> (Range<i64>, usize) {
        let (size, step) = (self.input[a] as i64, self.dilations[a]);
        let start = i as i64 * self.strides[a] - self.pads[a].0;
        // The first element at or beyond a position.
        let reach = |position: i64| (position - start + step - 1).div_euclid(step).clamp(0, self.kernel[a]);
        (reach(0)..reach(size), reach(size + self.pads[a].1.max(0)) as usize)
    }

    /// Calls `visit` for each output position with its window.
    fn windows(&self, cx: &mut Cx<'_>, mut visit: impl FnMut(usize, &Taps<'_>)) -> Result<(), Fault> {
        let mut at = vec![0usize; self.output.len()];
        let outputs = if self.planes == 0 { 0 } else { product(&self.output)? };
        for o in 0..outputs {
            let mut rest = o;
            for a in (0..at.len()).rev() {
                at[a] = rest % self.output[a];
                rest /= self.output[a];
            }
            let mut taps = Taps { first: vec![], sizes: vec![], dilations: &self.dilations, padded: 1 };
            for (a, &i) in at.iter().enumerate() {
                let (valid, count) = self.taps(a, i);
                let first = i as i64 * self.strides[a] - self.pads[a].0 + valid.start * self.dilations[a];
                taps.padded = taps.padded.saturating_mul(count);
                taps.sizes.push((valid.end - valid.start).max(0) as usize);
                // Without a tap inside, the position may be negative; then nothing is read.
                taps.first.push(first.max(0) as usize);
            }
            cx.tick(taps.inside().saturating_add(1).saturating_mul(self.planes))?;
            visit(o, &taps);
        }
        Ok(())
    }
}

/// The taps of one window that lie inside the operand: a grid, of which each axis has the first position and a number.
struct Taps<'g> {
    first: Vec<usize>,
    sizes: Vec<usize>,
    dilations: &'g [i64],
    /// How many taps lie inside the operand or its padding.
    padded: usize,
}

impl Taps<'_> {
    /// How many there are.
    fn inside(&self) -> usize {
        self.sizes.iter().fold(1, |n, &s| n.saturating_mul(s))
    }

    /// Their offsets in a plane of these strides, in row-major order.
    fn offsets(&self, strides: &[isize]) -> Walk {
        if self.sizes.contains(&0) {
            return Walk::new(&[0], &[0], 0);
        }
        let base = self.first.iter().zip(strides).map(|(&p, &s)| p as isize * s).sum();
        // Several taps inside the operand stand closer together than its size, so that products cannot overflow.
        let step = |a: usize| if self.sizes[a] > 1 { self.dilations[a] as isize * strides[a] } else { 0 };
        let steps: Vec<isize> = (0..self.sizes.len()).map(step).collect();
        Walk::new(&self.sizes, &steps, base)
    }
}

fn pool(
    cx: &mut Cx<'_>,
    kind: WindowKind,
    attrs: &Attrs<'_>,
    layout: Layout,
    x: &Tensor,
) -> Result<Tensor, Fault> {
    let first = channels_first_dims(x.dims(), layout)?;
    let g = Geometry::new(cx, attrs, &first)?;
    let dims = [&first[..2], g.output.as_slice()].concat();
    cx.admit(x.dtype(), &dims)?;
    let finish = |lanes: Lanes, dims: Vec<usize>| lanes.encode(x.dtype(), &dims);
    match (Lanes::decode(x)?, kind) {
        (Lanes::F(values), _) => {
            let values = to_channels_first(values, x.dims(), layout);
            let out = pool_floats(cx, kind, &g, &values)?;
            let (dims, out) = from_channels_first(out, &dims, layout);
            finish(Lanes::F(out), dims)
        }
        (Lanes::I(values), WindowKind::Max) => {
            let values = to_channels_first(values, x.dims(), layout);
            let lowest = x.dtype().int_range().map_or(0, |r| r.0);
            let out = fold(cx, &g, &values, lowest, |a, v| a.max(v), |r, _, _| r)?;
            let (dims, out) = from_channels_first(out, &dims, layout);
            finish(Lanes::I(out), dims)
        }
        _ => invalid(format!("{kind:?} pooling does not apply to {}", x.dtype())),
    }
}

fn pool_floats(cx: &mut Cx<'_>, kind: WindowKind, g: &Geometry, x: &[f64]) -> Result<Vec<f64>, Fault> {
    match kind {
        WindowKind::Max => fold(
            cx,
            g,
            x,
            f64::NEG_INFINITY,
            |a, v| if a.is_nan() || v.is_nan() { f64::NAN } else { a.max(v) },
            |r, _, _| r,
        ),
        // A window without elements has the sum 0, which stays.
        WindowKind::Average => fold(cx, g, x, 0.0, |a, v| a + v, |r, inside, _| r / inside.max(1) as f64),
        WindowKind::AverageWithPad => {
            fold(cx, g, x, 0.0, |a, v| a + v, |r, _, padded| r / padded.max(1) as f64)
        }
        WindowKind::L1 => fold(cx, g, x, 0.0, |a, v| a + v.abs(), |r, _, _| r),
        WindowKind::L2 => fold(cx, g, x, 0.0, |a, v| a + v * v, |r: f64, _, _| r.sqrt()),
    }
}

/// Folds each window of each plane; `finish` gets the result, the window's elements inside the operand, and those
/// inside operand or padding.
fn fold<T: Copy>(
    cx: &mut Cx<'_>,
    g: &Geometry,
    x: &[T],
    start: T,
    step: impl Fn(T, T) -> T,
    finish: impl Fn(T, usize, usize) -> T,
) -> Result<Vec<T>, Fault> {
    let (inputs, outputs) = (product(&g.input)?, product(&g.output)?);
    let own = strides(&g.input);
    let mut out = vec![start; g.planes * outputs];
    g.windows(cx, |o, taps| {
        for at in taps.offsets(&own) {
            for plane in 0..g.planes {
                let slot = &mut out[plane * outputs + o];
                *slot = step(*slot, x[plane * inputs + at]);
            }
        }
        let inside = taps.inside();
        for plane in 0..g.planes {
            let slot = &mut out[plane * outputs + o];
            *slot = finish(*slot, inside, taps.padded);
        }
    })?;
    Ok(out)
}

fn max_with_indices(
    cx: &mut Cx<'_>,
    attrs: &Attrs<'_>,
    column_major: bool,
    x: &Tensor,
) -> Result<Vec<Tensor>, Fault> {
    let first = channels_first_dims(x.dims(), Layout::ChannelsFirst)?;
    let g = Geometry::new(cx, attrs, &first)?;
    let dims = [&first[..2], g.output.as_slice()].concat();
    cx.admit(DType::I64, &dims)?;
    cx.admit(x.dtype(), &dims)?;
    let values = Lanes::decode(x)?;
    let (inputs, outputs) = (product(&g.input)?, product(&g.output)?);
    let own = strides(&g.input);
    let mut columns = vec![1isize; own.len()];
    for a in 1..columns.len() {
        columns[a] = columns[a - 1].wrapping_mul(g.input[a - 1] as isize);
    }
    let lowest = identity(crate::Prim::Max, x.dtype());
    let mut best = vec![(lowest, -1i64); g.planes * outputs];
    let named = if column_major { &columns } else { &own };
    g.windows(cx, |o, taps| {
        for (at, named) in taps.offsets(&own).zip(taps.offsets(named)) {
            for plane in 0..g.planes {
                let slot = &mut best[plane * outputs + o];
                let v = values.get(plane * inputs + at);
                if slot.1 < 0 || exceeds(as_f64(v), as_f64(slot.0)) {
                    *slot = (v, (plane * inputs + named) as i64);
                }
            }
        }
    })?;
    let mut maxima = Lanes::empty(x.dtype(), best.len())?;
    best.iter().for_each(|b| maxima.push(b.0));
    let indices: Vec<i64> = best.iter().map(|b| b.1).collect();
    Ok(vec![maxima.encode(x.dtype(), &dims)?, Tensor::from_slice(&dims, &indices)?])
}

/// Whether `a` is larger than `b`, NaN being the largest.
fn exceeds(a: f64, b: f64) -> bool {
    a > b || (a.is_nan() && !b.is_nan())
}
