//! Convolutions, on channels-first doubles or 64-bit integers; other layouts are transposed first.

use crate::op::{Conv, Layout};
use crate::{Dim, Tensor};

use super::contract::{Number, Pair, encode_f64, encode_i64};
use super::cx::Cx;
use super::fault::{Fault, invalid};
use super::walk::{Walk, product, strides};

/// Geometry of a convolution; sizes are of the spatial axes.
struct Geometry {
    batch: usize,
    groups: usize,
    /// Channels a group, of operand and result.
    channels: (usize, usize),
    input: Vec<usize>,
    kernel: Vec<usize>,
    output: Vec<usize>,
    strides: Vec<i64>,
    dilations: Vec<i64>,
    /// Padding before, or cropping if transposed.
    before: Vec<i64>,
}

/// Which way a convolution goes.
#[derive(Clone, Copy)]
enum Way {
    /// Results gather operand elements.
    Forward,
    /// Operand elements scatter into results.
    Transposed,
}

/// A convolution of either direction.
pub(super) fn conv(cx: &mut Cx<'_>, op: &Conv, x: &Tensor, w: &Tensor) -> Result<Tensor, Fault> {
    let (layout, out) = match op {
        Conv::Forward { layout, out, .. } => (*layout, *out),
        Conv::Transposed { layout, .. } => (*layout, x.dtype()),
    };
    let first = channels_first_dims(x.dims(), layout)?;
    let (way, g) = match op {
        Conv::Forward { strides, dilations, pads, groups, .. } => {
            let g = Geometry::forward(cx, &first, w.dims(), (strides, dilations), pads, *groups)?;
            (Way::Forward, g)
        }
        Conv::Transposed { strides, dilations, pads, output_pads, groups, .. } => {
            let steps = (strides.as_slice(), dilations.as_slice());
            let g = Geometry::transposed(cx, &first, w.dims(), steps, pads, output_pads, *groups)?;
            (Way::Transposed, g)
        }
    };
    let dims = [&[g.batch, g.groups * g.channels.1], g.output.as_slice()].concat();
    cx.admit(out, &dims)?;
    match Pair::decode(x, w, out)? {
        Pair::F(a, b) => {
            let sums = run(cx, &g, way, &to_channels_first(a, x.dims(), layout), &b)?;
            let (dims, sums) = from_channels_first(sums, &dims, layout);
            encode_f64(sums, out, &dims)
        }
        Pair::I(a, b) => {
            let sums = run(cx, &g, way, &to_channels_first(a, x.dims(), layout), &b)?;
            let (dims, sums) = from_channels_first(sums, &dims, layout);
            encode_i64(sums, out, &dims)
        }
    }
}

/// Dims in channels-first order.
pub(super) fn channels_first_dims(dims: &[usize], layout: Layout) -> Result<Vec<usize>, Fault> {
    if dims.len() < 3 {
        return invalid(format!("{dims:?} has no spatial axes"));
    }
    Ok(match layout {
        Layout::ChannelsFirst => dims.to_vec(),
        Layout::ChannelsLast => [&[dims[0], dims[dims.len() - 1]], &dims[1..dims.len() - 1]].concat(),
    })
}

/// Elements in channels-first order.
pub(super) fn to_channels_first<T: Copy>(values: Vec<T>, dims: &[usize], layout: Layout) -> Vec<T> {
    if layout == Layout::ChannelsFirst {
        return values;
    }
    let (own, last) = (strides(dims), dims.len() - 1);
    let order = |v: &[isize]| [&[v[0], v[last]], &v[1..last]].concat();
    let sizes = [&[dims[0], dims[last]], &dims[1..last]].concat();
    Walk::new(&sizes, &order(&own), 0).map(|i| values[i]).collect()
}

/// Dims and elements of a channels-first result in `layout`.
pub(super) fn from_channels_first<T: Copy>(
    values: Vec<T>,
    dims: &[usize],
    layout: Layout,
) -> (Vec<usize>, Vec<T>) {
    if layout == Layout::ChannelsFirst {
        return (dims.to_vec(), values);
    }
    let own = strides(dims);
    let sizes = [&[dims[0]], &dims[2..], &[dims[1]]].concat();
    let order = [&[own[0]], &own[2..], &[own[1]]].concat();
    let values = Walk::new(&sizes, &order, 0).map(|i| values[i]).collect();
    (sizes, values)
}

/// Largest stride, dilation, pad or extent: far below where sums of them could overflow.
const LARGEST: i64 = 1 << 40;

/// A sum or product of sizes that must not overflow.
fn checked(value: Option<i64>) -> Result<i64, Fault> {
    value.filter(|v| (-LARGEST..=LARGEST).contains(v)).map_or_else(|| invalid("sizes overflow"), Ok)
}

/// The value of a pad.
pub(super) fn pad_of(cx: &Cx<'_>, pad: &Dim) -> Result<i64, Fault> {
    checked(Some(cx.dim(pad)?))
}

/// `dilation * (kernel - 1) + 1`.
pub(super) fn extent(kernel: i64, dilation: i64) -> Result<i64, Fault> {
    checked(kernel.checked_sub(1).and_then(|k| k.checked_mul(dilation)).and_then(|k| k.checked_add(1)))
}

/// A number of window positions along an axis.
pub(super) fn count_of(count: i64) -> Result<usize, Fault> {
    usize::try_from(count).or_else(|_| invalid(format!("a window does not fit: {count} positions")))
}

/// Whether strides or dilations are positive and not absurd.
pub(super) fn is_step(v: i64) -> bool {
    (1..=LARGEST).contains(&v)
}

impl Geometry {
    fn forward(
        cx: &Cx<'_>,
        x: &[usize],
        w: &[usize],
        (strides, dilations): (&[i64], &[i64]),
        pads: &[(Dim, Dim)],
        groups: i64,
    ) -> Result<Geometry, Fault> {
        let mut g = Geometry::common(x, w, strides, dilations, pads.len(), groups)?;
        if !w[0].is_multiple_of(g.groups) || w[1].checked_mul(g.groups) != Some(x[1]) {
            return invalid(format!("weights {w:?} with {groups} groups for an operand of {x:?}"));
        }
        g.channels = (w[1], w[0] / g.groups);
        for (a, (before, after)) in pads.iter().enumerate() {
            let (before, after) = (pad_of(cx, before)?, pad_of(cx, after)?);
            let span = extent(g.kernel[a] as i64, dilations[a])?;
            let padded = checked((x[2 + a] as i64).checked_add(before).and_then(|n| n.checked_add(after)))?;
            let room = checked(padded.checked_sub(span))?;
            g.output.push(count_of(room.div_euclid(strides[a]) + 1)?);
            g.before.push(before);
        }
        Ok(g)
    }

    fn transposed(
        cx: &Cx<'_>,
        x: &[usize],
        w: &[usize],
        (strides, dilations): (&[i64], &[i64]),
        pads: &[(Dim, Dim)],
        output_pads: &[Dim],
        groups: i64,
    ) -> Result<Geometry, Fault> {
        let mut g = Geometry::common(x, w, strides, dilations, pads.len(), groups)?;
        if w[0] != x[1] || !x[1].is_multiple_of(g.groups) || output_pads.len() != pads.len() {
            return invalid(format!("weights {w:?} with {groups} groups for an operand of {x:?}"));
        }
        g.channels = (x[1] / g.groups, w[1]);
        for (a, ((before, after), output_pad)) in pads.iter().zip(output_pads).enumerate() {
            let (before, after) = (pad_of(cx, before)?, pad_of(cx, after)?);
            let extra = pad_of(cx, output_pad)?;
            let span = extent(g.kernel[a] as i64, dilations[a])?;
            let size =
                (x[2 + a] as i64).checked_sub(1).and_then(|n| n.checked_mul(strides[a])).and_then(|n| {
                    n.checked_add(span)?.checked_add(extra)?.checked_sub(before)?.checked_sub(after)
                });
            g.output.push(count_of(checked(size)?)?);
            g.before.push(before);
        }
        Ok(g)
    }

    fn common(
        x: &[usize],
        w: &[usize],
        strides: &[i64],
        dilations: &[i64],
        pads: usize,
        groups: i64,
    ) -> Result<Geometry, Fault> {
        let spatial = x.len() - 2;
        if w.len() != x.len() || [strides.len(), dilations.len(), pads].iter().any(|&n| n != spatial) {
            return invalid(format!("weights {w:?} and attributes do not fit an operand of {x:?}"));
        }
        let groups = usize::try_from(groups).ok().filter(|&g| g > 0);
        let (Some(groups), false) = (groups, strides.iter().chain(dilations).any(|&v| !is_step(v))) else {
            return invalid("strides, dilations and groups must be positive");
        };
        if w.contains(&0) {
            return invalid(format!("weights {w:?} are empty"));
        }
        Ok(Geometry {
            batch: x[0],
            groups,
            channels: (0, 0),
            input: x[2..].to_vec(),
            kernel: w[2..].to_vec(),
            output: vec![],
            strides: strides.to_vec(),
            dilations: dilations.to_vec(),
            before: vec![],
        })
    }

    /// For a kernel tap: runs of aligned elements along the last axis, as (coarse start, fine start, length). The
    /// fine side is what strides step over (operand of a forward, result of a transposed convolution), the coarse
    /// side the other.
    fn runs(&self, tap: &[usize], coarse: &[usize], fine: &[usize]) -> Vec<(usize, usize, usize)> {
        let last = coarse.len() - 1;
        let shift = |a: usize| tap[a] as i64 * self.dilations[a] - self.before[a];
        // Coarse positions c with 0 <= c * stride + shift < fine size.
        let stride = self.strides[last];
        let low = (-shift(last)).max(0).div_euclid(stride) + i64::from((-shift(last)).max(0) % stride != 0);
        let room = fine[last] as i64 - shift(last);
        let high = if room <= 0 { 0 } else { (room + stride - 1) / stride }.min(coarse[last] as i64);
        let mut out: Vec<(usize, usize, usize)> = vec![];
        if low >= high {
            return out;
        }
        let (coarse_strides, fine_strides) = (strides(coarse), strides(fine));
        'rows: for row in 0..coarse[..last].iter().product::<usize>() {
            let (mut rest, mut c, mut f) = (row, 0, 0);
            for a in (0..last).rev() {
                let at = rest % coarse[a];
                rest /= coarse[a];
                let position = at as i64 * self.strides[a] + shift(a);
                if !(0..fine[a] as i64).contains(&position) {
                    continue 'rows;
                }
                c += at * coarse_strides[a] as usize;
                f += position as usize * fine_strides[a] as usize;
            }
            let run = (c + low as usize, f + (low * stride + shift(last)) as usize, (high - low) as usize);
            match out.last_mut() {
                // Rows that follow each other on both sides are one run.
                Some((c, f, len)) if stride == 1 && (*c + *len, *f + *len) == (run.0, run.1) => *len += run.2,
                _ => out.push(run),
            }
        }
        out
    }
}

/// Sums in channels-first order.
fn run<T: Number>(cx: &mut Cx<'_>, g: &Geometry, way: Way, x: &[T], w: &[T]) -> Result<Vec<T>, Fault> {
    let (inputs, outputs, taps) = (product(&g.input)?, product(&g.output)?, product(&g.kernel)?);
    let (from, to) = g.channels;
    let mut out = vec![T::ZERO; g.batch * g.groups * to * outputs];
    if out.is_empty() || x.is_empty() {
        return Ok(out);
    }
    let step = g.strides[g.strides.len() - 1] as usize;
    let mut tap = vec![0; g.kernel.len()];
    for t in 0..taps {
        let mut rest = t;
        for a in (0..tap.len()).rev() {
            tap[a] = rest % g.kernel[a];
            rest /= g.kernel[a];
        }
        let runs = match way {
            Way::Forward => g.runs(&tap, &g.output, &g.input),
            Way::Transposed => g.runs(&tap, &g.input, &g.output),
        };
        for image in 0..g.batch * g.groups {
            let group = image % g.groups;
            for o in 0..to {
                cx.tick(from.saturating_mul(outputs))?;
                let sums = &mut out[(image * to + o) * outputs..][..outputs];
                for c in 0..from {
                    let plane = &x[(image * from + c) * inputs..][..inputs];
                    let at = match way {
                        Way::Forward => (group * to + o) * from + c,
                        Way::Transposed => (group * from + c) * to + o,
                    };
                    add_runs(sums, plane, w[at * taps + t], &runs, step, way);
                }
            }
        }
    }
    Ok(out)
}

/// Adds `weight` times one plane to the sums, for one tap.
fn add_runs<T: Number>(
    sums: &mut [T],
    plane: &[T],
    weight: T,
    runs: &[(usize, usize, usize)],
    step: usize,
    way: Way,
) {
    for &(coarse, fine, len) in runs {
        match (way, step) {
            (Way::Forward, 1) => {
                for (sum, &v) in sums[coarse..coarse + len].iter_mut().zip(&plane[fine..fine + len]) {
                    *sum = sum.add_product(weight, v);
                }
            }
            (Way::Forward, _) => {
                for (i, sum) in sums[coarse..coarse + len].iter_mut().enumerate() {
                    *sum = sum.add_product(weight, plane[fine + i * step]);
                }
            }
            (Way::Transposed, _) => {
                for (i, &v) in plane[coarse..coarse + len].iter().enumerate() {
                    let sum = &mut sums[fine + i * step];
                    *sum = sum.add_product(weight, v);
                }
            }
        }
    }
}
