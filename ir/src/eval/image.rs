//! Sampling and unfolding of images.

use crate::op::{GridPadding, Host, Interpolation, RegionPool};
use crate::{DType, Tensor};

use super::conv::{count_of, extent, is_step};
use super::cx::Cx;
use super::fault::{Fault, invalid};
use super::lanes::{Lanes, floats, ints};
use super::walk::{index_of, pick, product, strides};

/// Attributes and operands of a grid sampler.
struct Sampler<'a> {
    mode: Interpolation,
    padding: GridPadding,
    align_corners: bool,
    dims: &'a [usize],
}

impl Sampler<'_> {
    /// A coordinate in `[-1, 1]` as one in elements.
    fn denormalize(&self, v: f64, size: usize) -> f64 {
        let n = size as f64;
        if self.align_corners { (v + 1.0) / 2.0 * (n - 1.0) } else { ((v + 1.0) * n - 1.0) / 2.0 }
    }

    fn border(&self, size: usize) -> (f64, f64) {
        if self.align_corners { (0.0, size as f64 - 1.0) } else { (-0.5, size as f64 - 0.5) }
    }

    /// The coordinate brought into range as the padding says.
    fn fold(&self, v: f64, size: usize) -> f64 {
        let (low, high) = self.border(size);
        match self.padding {
            _ if v >= low && v <= high => v,
            GridPadding::Zeros => v,
            GridPadding::Border => v.clamp(0.0, (size as f64 - 1.0).max(0.0)),
            GridPadding::Reflection => reflect(v, low, high),
        }
    }

    /// The element that integer coordinate `i` reads; none reads zero.
    fn element(&self, i: f64, size: usize) -> Option<usize> {
        let last = (size as f64 - 1.0).max(0.0);
        let (low, high) = self.border(size);
        let at = match self.padding {
            GridPadding::Zeros if !(0.0..=last).contains(&i) => return None,
            GridPadding::Zeros => i,
            GridPadding::Border => i.clamp(0.0, last),
            GridPadding::Reflection => reflect(i, low, high).trunc().clamp(0.0, last),
        };
        (size > 0 && !at.is_nan()).then_some(at as usize)
    }

    /// Elements and their weights along one axis.
    fn taps(&self, v: f64, size: usize) -> Vec<(Option<usize>, f64)> {
        let start = v.floor();
        let weights: Vec<f64> = match self.mode {
            Interpolation::Nearest => return vec![(self.element(v, size), 1.0)],
            Interpolation::Linear => vec![1.0 - (v - start), v - start],
            Interpolation::Cubic => cubic_weights(v - start).to_vec(),
        };
        let first = if self.mode == Interpolation::Cubic { start - 1.0 } else { start };
        weights.into_iter().enumerate().map(|(i, w)| (self.element(first + i as f64, size), w)).collect()
    }

    /// The value of a plane at element coordinates.
    fn sample(&self, plane: &[f64], at: &[f64]) -> f64 {
        let own = strides(self.dims);
        let mut terms = vec![(Some(0usize), 1.0)];
        for (a, (&v, &size)) in at.iter().zip(self.dims).enumerate() {
            let stride = own[a].unsigned_abs();
            let taps = self.taps(v, size);
            let join = |&(base, w): &(Option<usize>, f64)| {
                taps.iter()
                    .map(move |&(i, u)| (base.zip(i).map(|(b, i)| b + i * stride), w * u))
                    .collect::<Vec<_>>()
            };
            terms = terms.iter().flat_map(join).collect();
        }
        terms.into_iter().filter_map(|(at, w)| at.map(|i| w * plane[i])).sum()
    }
}

/// Reflects at both borders until inside.
fn reflect(v: f64, low: f64, high: f64) -> f64 {
    let range = high - low;
    if !(range > 0.0 && v.is_finite()) {
        return low;
    }
    let from = if v < low {
        low - v
    } else if v > high {
        v - high
    } else {
        return v;
    };
    let times = (from / range).trunc();
    let rest = from - times * range;
    let even = times % 2.0 == 0.0;
    if (v < low) == even { low + rest } else { high - rest }
}

/// Weights of cubic convolution with a = -0.75 (Keys 1981, doi:10.1109/TASSP.1981.1163711).
fn cubic_weights(t: f64) -> [f64; 4] {
    let a = -0.75;
    let near = |x: f64| ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
    let far = |x: f64| ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a;
    [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)]
}

/// An operator on images.
pub(super) fn image(cx: &mut Cx<'_>, op: &Host, operands: &[&Tensor]) -> Result<Tensor, Fault> {
    match op {
        Host::GridSample { mode, padding, align_corners } => {
            let &[x, grid] = operands else { return invalid("takes an operand and a grid") };
            grid_sample(cx, x, grid, (*mode, *padding, *align_corners))
        }
        Host::RoiAlign { mode, half_pixel, height, width, sampling, spatial_scale } => {
            let &[x, boxes, batches] = operands else { return invalid("takes x, boxes and batch indices") };
            let size = |v: i64| usize::try_from(v).or_else(|_| invalid(format!("a size of {v}")));
            let align = Align {
                mode: *mode,
                half_pixel: *half_pixel,
                size: (size(*height)?, size(*width)?),
                sampling: *sampling,
                scale: spatial_scale.get(),
            };
            roi_align(cx, x, boxes, batches, &align)
        }
        Host::MaxUnpool { kernel, strides, pads } => max_unpool(cx, operands, kernel, strides, pads),
        Host::Col2Im { strides, dilations, pads } => {
            let &[x, image, block] = operands else { return invalid("takes x, image shape and block shape") };
            col2im(cx, x, &ints(image)?, &ints(block)?, (strides, dilations, pads))
        }
        Host::DeformConv { strides, dilations, pads, groups, offset_groups } => {
            deform_conv(cx, operands, (strides, dilations, pads), *groups, *offset_groups)
        }
        other => invalid(format!("{} is no operator on images", other.mnemonic())),
    }
}

fn float_only(x: &Tensor) -> Result<Vec<f64>, Fault> {
    if x.dtype().is_float() { floats(x) } else { invalid(format!("does not apply to {}", x.dtype())) }
}

fn grid_sample(
    cx: &mut Cx<'_>,
    x: &Tensor,
    grid: &Tensor,
    (mode, padding, align_corners): (Interpolation, GridPadding, bool),
) -> Result<Tensor, Fault> {
    let (&[n, c, ref spatial @ ..], &[m, ref out @ .., rank]) = (x.dims(), grid.dims()) else {
        return invalid(format!("an operand {:?} and a grid {:?}", x.dims(), grid.dims()));
    };
    if n != m || spatial.len() != rank || out.len() != rank || rank == 0 || rank > 8 {
        return invalid(format!("an operand {:?} and a grid {:?}", x.dims(), grid.dims()));
    }
    let dims = [&[n, c], out].concat();
    let count = cx.admit(x.dtype(), &dims)?;
    let (values, points) = (float_only(x)?, float_only(grid)?);
    let sampler = Sampler { mode, padding, align_corners, dims: spatial };
    let (plane, places) = (product(spatial)?, product(out)?);
    let mut result = vec![0.0; count];
    for at in 0..n * places {
        cx.tick(c << (2 * rank))?;
        let (batch, place) = (at / places, at % places);
        // The grid names the last axis first.
        let coordinates: Vec<f64> = (0..rank)
            .map(|a| {
                let v = sampler.denormalize(points[at * rank + rank - 1 - a], spatial[a]);
                let v = if mode == Interpolation::Nearest { v.round_ties_even() } else { v };
                sampler.fold(v, spatial[a])
            })
            .map(|v| if mode == Interpolation::Nearest { v.trunc() } else { v })
            .collect();
        for channel in 0..c {
            let image = batch * c + channel;
            result[image * places + place] = sampler.sample(&values[image * plane..][..plane], &coordinates);
        }
    }
    Lanes::F(result).encode(x.dtype(), &dims)
}

/// Attributes of a region pooling.
struct Align {
    mode: RegionPool,
    half_pixel: bool,
    size: (usize, usize),
    sampling: i64,
    scale: f64,
}

/// Most samples of one bin.
const MAX_SAMPLES: usize = 1 << 24;

/// The four elements around a point with their weights; none for a point outside.
fn corners(y: f64, x: f64, height: usize, width: usize) -> [(usize, f64); 4] {
    if !(-1.0..=height as f64).contains(&y) || !(-1.0..=width as f64).contains(&x) || height * width == 0 {
        return [(0, 0.0); 4];
    }
    let split = |v: f64, size: usize| {
        let v = v.max(0.0);
        let low = v as usize;
        if low + 1 >= size { (size - 1, size - 1, 0.0) } else { (low, low + 1, v - low as f64) }
    };
    let ((top, bottom, v), (left, right, u)) = (split(y, height), split(x, width));
    [
        (top * width + left, (1.0 - v) * (1.0 - u)),
        (top * width + right, (1.0 - v) * u),
        (bottom * width + left, v * (1.0 - u)),
        (bottom * width + right, v * u),
    ]
}

fn roi_align(
    cx: &mut Cx<'_>,
    x: &Tensor,
    boxes: &Tensor,
    batches: &Tensor,
    align: &Align,
) -> Result<Tensor, Fault> {
    let (&[n, c, height, width], &[regions, 4], &[named]) = (x.dims(), boxes.dims(), batches.dims()) else {
        return invalid(format!("x {:?}, boxes {:?}, batches {:?}", x.dims(), boxes.dims(), batches.dims()));
    };
    if regions != named {
        return invalid(format!("{regions} boxes, {named} batch indices"));
    }
    let dims = [regions, c, align.size.0, align.size.1];
    let count = cx.admit(x.dtype(), &dims)?;
    let (values, boxes, batches) = (float_only(x)?, float_only(boxes)?, ints(batches)?);
    let mut out = vec![0.0; count];
    let bins = align.size.0 * align.size.1;
    for r in 0..regions {
        let batch = index_of(batches[r], n)?;
        let shift = if align.half_pixel { 0.5 } else { 0.0 };
        let at = |i: usize| boxes[r * 4 + i] * align.scale - shift;
        let least = if align.half_pixel { f64::NEG_INFINITY } else { 1.0 };
        let extent = ((at(3) - at(1)).max(least), (at(2) - at(0)).max(least));
        let bin = (extent.0 / align.size.0 as f64, extent.1 / align.size.1 as f64);
        let samples = |bin: f64| {
            if align.sampling > 0 { align.sampling as usize } else { bin.ceil().max(0.0) as usize }
        };
        let (rows, columns) = (samples(bin.0), samples(bin.1));
        if rows.saturating_mul(columns) > MAX_SAMPLES {
            return invalid(format!("a box of {} by {} elements", extent.0, extent.1));
        }
        cx.tick(rows.saturating_mul(columns).saturating_mul(bins).saturating_mul(c))?;
        for place in 0..bins {
            let (ph, pw) = ((place / align.size.1) as f64, (place % align.size.1) as f64);
            for channel in 0..c {
                let plane = &values[(batch * c + channel) * height * width..][..height * width];
                let (mut sum, mut most) = (0.0, None);
                for i in 0..rows.saturating_mul(columns) {
                    cx.tick(1)?;
                    let y = at(1) + ph * bin.0 + ((i / columns) as f64 + 0.5) * bin.0 / rows as f64;
                    let x = at(0) + pw * bin.1 + ((i % columns) as f64 + 0.5) * bin.1 / columns as f64;
                    for (k, w) in corners(y, x, height, width) {
                        let v = w * plane.get(k).copied().unwrap_or(0.0);
                        sum += v;
                        most = Some(most.map_or(v, |m: f64| m.max(v)));
                    }
                }
                out[(r * c + channel) * bins + place] = match align.mode {
                    RegionPool::Average => sum / (rows * columns).max(1) as f64,
                    RegionPool::Max => most.unwrap_or(0.0),
                };
            }
        }
    }
    Lanes::F(out).encode(x.dtype(), &dims)
}

/// Puts each element where its index says, in the shape that pooling came from, then crops or extends with zeros.
fn max_unpool(
    cx: &mut Cx<'_>,
    operands: &[&Tensor],
    kernel: &[i64],
    steps: &[i64],
    pads: &[(i64, i64)],
) -> Result<Tensor, Fault> {
    let &[x, indices, shape] = operands else { return invalid("takes x, indices and a shape") };
    let rank = x.dims().len();
    let fits = rank >= 2 && [kernel.len(), steps.len(), pads.len()].iter().all(|&n| n == rank - 2);
    if !fits || indices.dims() != x.dims() {
        return invalid(format!("x {:?}, indices {:?}", x.dims(), indices.dims()));
    }
    let mut inner = x.dims()[..2].to_vec();
    for a in 0..rank - 2 {
        let size = (x.dims()[2 + a] as i64)
            .checked_sub(1)
            .and_then(|n| n.checked_mul(steps[a])?.checked_sub(pads[a].0)?.checked_sub(pads[a].1))
            .and_then(|n| usize::try_from(n.checked_add(kernel[a])?).ok());
        inner.push(size.map_or_else(|| invalid("sizes overflow"), Ok)?);
    }
    let given = ints(shape)?;
    let outer = match given.is_empty() {
        true => inner.clone(),
        false => given
            .iter()
            .map(|&d| usize::try_from(d))
            .collect::<Result<_, _>>()
            .or_else(|_| invalid("sizes are negative"))?,
    };
    if outer.len() != rank || outer.iter().zip(&inner).any(|(o, i)| o < i) {
        return invalid(format!("a shape of {outer:?} for {inner:?}"));
    }
    let count = cx.admit(DType::C128, &outer)?;
    let size = product(&inner)?;
    let (own, mine) = (strides(&inner), strides(&outer));
    // Where each element of the result comes from: `x`, or the zero.
    let mut from = vec![(1, 0); count];
    for (i, index) in ints(indices)?.into_iter().enumerate() {
        let flat = index_of(index, size)?;
        let place: usize =
            (0..rank).map(|a| flat / own[a].unsigned_abs() % inner[a] * mine[a].unsigned_abs()).sum();
        from[place] = (0, i);
    }
    let zero = Tensor::zeros(x.dtype(), &[1])?;
    pick(cx, &[x, &zero], &outer, from.into_iter())
}

/// Strides, dilations and pads, one each a spatial axis.
type Steps<'a> = (&'a [i64], &'a [i64], &'a [(i64, i64)]);

/// Number of window positions along each axis.
fn positions(
    spatial: &[usize],
    kernel: &[usize],
    (steps, dilations, pads): Steps<'_>,
) -> Result<Vec<usize>, Fault> {
    let rank = spatial.len();
    if [kernel.len(), steps.len(), dilations.len(), pads.len()].iter().any(|&n| n != rank) {
        return invalid(format!("attributes do not fit {rank} spatial axes"));
    }
    if steps.iter().chain(dilations).any(|&v| !is_step(v)) || kernel.contains(&0) {
        return invalid("kernel sizes, strides and dilations must be positive");
    }
    let along = |a: usize| {
        let span = extent(kernel[a] as i64, dilations[a])?;
        let padded = (spatial[a] as i64).checked_add(pads[a].0).and_then(|n| n.checked_add(pads[a].1));
        match padded.and_then(|n| n.checked_sub(span)) {
            Some(room) if pads[a].0.unsigned_abs() < 1 << 40 => count_of(room.div_euclid(steps[a]) + 1),
            _ => invalid("sizes overflow"),
        }
    };
    (0..rank).map(along).collect()
}

/// Coordinates of a row-major position.
fn unravel(mut flat: usize, dims: &[usize]) -> Vec<usize> {
    let mut out = vec![0; dims.len()];
    for a in (0..dims.len()).rev() {
        out[a] = flat % dims[a];
        flat /= dims[a];
    }
    out
}

fn col2im(
    cx: &mut Cx<'_>,
    x: &Tensor,
    image: &[i64],
    block: &[i64],
    steps: Steps<'_>,
) -> Result<Tensor, Fault> {
    let sizes = |v: &[i64]| -> Result<Vec<usize>, Fault> {
        v.iter()
            .map(|&d| usize::try_from(d))
            .collect::<Result<_, _>>()
            .or_else(|_| invalid("sizes are negative"))
    };
    let (image, block) = (sizes(image)?, sizes(block)?);
    let &[n, rows, columns] = x.dims() else { return invalid(format!("columns {:?}", x.dims())) };
    let out = positions(&image, &block, steps)?;
    let taps = product(&block)?;
    if taps == 0 || rows % taps != 0 || product(&out)? != columns {
        return invalid(format!("columns {:?} of blocks {block:?} for an image {image:?}", x.dims()));
    }
    let channels = rows / taps;
    let dims = [&[n, channels], image.as_slice()].concat();
    let count = cx.admit(x.dtype(), &dims)?;
    cx.tick(x.numel())?;
    let values = float_only(x)?;
    let own = strides(&image);
    let pixels = product(&image)?;
    let mut sums = vec![0.0; count];
    for tap in 0..taps {
        let offset = unravel(tap, &block);
        for column in 0..columns {
            let at = unravel(column, &out);
            let place = (0..image.len()).try_fold(0usize, |sum, a| {
                let i = at[a] as i64 * steps.0[a] - steps.2[a].0 + offset[a] as i64 * steps.1[a];
                let i = usize::try_from(i).ok().filter(|&i| i < image[a])?;
                Some(sum + i * own[a].unsigned_abs())
            });
            let Some(place) = place else { continue };
            for plane in 0..n * channels {
                sums[plane * pixels + place] += values[(plane * taps + tap) * columns + column];
            }
        }
    }
    Lanes::F(sums).encode(x.dtype(), &dims)
}

/// A convolution whose taps read at offsets, with linear interpolation and zeros outside.
fn deform_conv(
    cx: &mut Cx<'_>,
    operands: &[&Tensor],
    steps: Steps<'_>,
    groups: i64,
    offset_groups: i64,
) -> Result<Tensor, Fault> {
    let [x, w, offset, mask @ ..] = operands else { return invalid("takes x, w and offsets") };
    let (&[n, c, ref spatial @ ..], &[o, per_group, ref kernel @ ..]) = (x.dims(), w.dims()) else {
        return invalid(format!("x {:?}, w {:?}", x.dims(), w.dims()));
    };
    let out = positions(spatial, kernel, steps)?;
    let (rank, taps, places) = (spatial.len(), product(kernel)?, product(&out)?);
    let positive = |v: i64| usize::try_from(v).ok().filter(|&g| g > 0);
    let (Some(groups), Some(shifts)) = (positive(groups), positive(offset_groups)) else {
        return invalid("groups must be positive");
    };
    let fits = per_group.checked_mul(groups) == Some(c)
        && o % groups == 0
        && c % shifts == 0
        && rank > 0
        && rank <= 8;
    let expected = |depth: usize| [&[n, shifts * taps * depth], out.as_slice()].concat();
    if !fits || offset.dims() != expected(rank) || mask.first().is_some_and(|m| m.dims() != expected(1)) {
        return invalid(format!("x {:?}, w {:?}, offsets {:?}", x.dims(), w.dims(), offset.dims()));
    }
    let dims = [&[n, o], out.as_slice()].concat();
    let count = cx.admit(x.dtype(), &dims)?;
    let (values, weights, offsets) = (float_only(x)?, float_only(w)?, float_only(offset)?);
    let mask = mask.first().map(|m| float_only(m)).transpose()?;
    let plane = product(spatial)?;
    let sampler = Sampler {
        mode: Interpolation::Linear,
        padding: GridPadding::Zeros,
        align_corners: true,
        dims: spatial,
    };
    let mut sums = vec![0.0; count];
    for place in 0..if count == 0 { 0 } else { product(&[n, c, taps, places])? } {
        cx.tick((o / groups) << rank)?;
        let (at, rest) = (place % places, place / places);
        let (tap, image) = (rest % taps, rest / taps);
        let (batch, channel) = (image / c, image % c);
        let shift = (batch * shifts + channel / (c / shifts)) * taps + tap;
        let (position, offset) = (unravel(at, &out), unravel(tap, kernel));
        let coordinates: Vec<f64> = (0..rank)
            .map(|a| {
                let start = position[a] as i64 * steps.0[a] - steps.2[a].0 + offset[a] as i64 * steps.1[a];
                start as f64 + offsets[(shift * rank + a) * places + at]
            })
            .collect();
        let scale = mask.as_ref().map_or(1.0, |m| m[shift * places + at]);
        let v = scale * sampler.sample(&values[image * plane..][..plane], &coordinates);
        let group = channel / per_group;
        for k in group * (o / groups)..(group + 1) * (o / groups) {
            let weight = weights[(k * per_group + channel % per_group) * taps + tap];
            sums[(batch * o + k) * places + at] += weight * v;
        }
    }
    Lanes::F(sums).encode(x.dtype(), &dims)
}
