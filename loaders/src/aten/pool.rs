//! Pooling and resizing.

use kiln_ir::op::{
    Composite, CoordinateMode, GridPadding, Host, Interpolation, Layout, NearestMode, ReduceKind, Window,
    WindowKind,
};
use kiln_ir::{Build, Dim, Float, Value};

use super::arg::Arg;
use super::conv::{batched, unbatched};
use super::cx::{Cx, many, one};
use super::{How, Results, Row, row};
use crate::error::OpError;

use How::Fn;

#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    row("aten::_adaptive_avg_pool2d", Fn(|cx| adaptive(cx, 2, ReduceKind::Mean))),
    row("aten::_adaptive_avg_pool3d", Fn(|cx| adaptive(cx, 3, ReduceKind::Mean))),
    row("aten::_upsample_bicubic2d_aa", Fn(|cx| upsample(cx, 2, Interpolation::Cubic, true))),
    row("aten::_upsample_bilinear2d_aa", Fn(|cx| upsample(cx, 2, Interpolation::Linear, true))),
    row("aten::_upsample_nearest_exact1d", Fn(|cx| nearest(cx, 1, true))),
    row("aten::_upsample_nearest_exact2d", Fn(|cx| nearest(cx, 2, true))),
    row("aten::_upsample_nearest_exact3d", Fn(|cx| nearest(cx, 3, true))),
    row("aten::adaptive_avg_pool1d", Fn(|cx| adaptive(cx, 1, ReduceKind::Mean))),
    row("aten::adaptive_avg_pool2d", Fn(|cx| adaptive(cx, 2, ReduceKind::Mean))),
    row("aten::adaptive_avg_pool3d", Fn(|cx| adaptive(cx, 3, ReduceKind::Mean))),
    row("aten::adaptive_max_pool1d", Fn(|cx| adaptive(cx, 1, ReduceKind::Max))),
    row("aten::adaptive_max_pool2d", Fn(|cx| adaptive(cx, 2, ReduceKind::Max))),
    row("aten::adaptive_max_pool3d", Fn(|cx| adaptive(cx, 3, ReduceKind::Max))),
    row("aten::avg_pool1d", Fn(|cx| average(cx, 1))),
    row("aten::avg_pool2d", Fn(|cx| average(cx, 2))),
    row("aten::avg_pool3d", Fn(|cx| average(cx, 3))),
    row("aten::grid_sampler", Fn(grid_sampler)),
    row("aten::grid_sampler_2d", Fn(grid_sampler)),
    row("aten::grid_sampler_3d", Fn(grid_sampler)),
    row("aten::max_pool1d", Fn(|cx| maximum(cx, 1, false))),
    row("aten::max_pool1d_with_indices", Fn(|cx| maximum(cx, 1, true))),
    row("aten::max_pool2d", Fn(|cx| maximum(cx, 2, false))),
    row("aten::max_pool2d_with_indices", Fn(|cx| maximum(cx, 2, true))),
    row("aten::max_pool3d", Fn(|cx| maximum(cx, 3, false))),
    row("aten::max_pool3d_with_indices", Fn(|cx| maximum(cx, 3, true))),
    row("aten::upsample_bicubic2d", Fn(|cx| upsample(cx, 2, Interpolation::Cubic, false))),
    row("aten::upsample_bilinear2d", Fn(|cx| upsample(cx, 2, Interpolation::Linear, false))),
    row("aten::upsample_linear1d", Fn(|cx| upsample(cx, 1, Interpolation::Linear, false))),
    row("aten::upsample_nearest1d", Fn(|cx| nearest(cx, 1, false))),
    row("aten::upsample_nearest2d", Fn(|cx| nearest(cx, 2, false))),
    row("aten::upsample_nearest3d", Fn(|cx| nearest(cx, 3, false))),
    row("aten::upsample_trilinear3d", Fn(|cx| upsample(cx, 3, Interpolation::Linear, false))),
];

/// Geometry of a pool.
struct Pool {
    kernel: Vec<i64>,
    strides: Vec<i64>,
    dilations: Vec<i64>,
    pads: Vec<(Dim, Dim)>,
    ceil_mode: bool,
}

fn pool(cx: &mut Cx<'_, '_>, spatial: usize) -> Result<Pool, OpError> {
    let kernel = cx.ints_of("kernel_size", spatial)?;
    let stride = match cx.get("stride") {
        Arg::None => vec![],
        _ => cx.ints("stride")?,
    };
    let strides = if stride.is_empty() { kernel.clone() } else { cx.ints_of("stride", spatial)? };
    let dilations = if cx.takes("dilation") { cx.ints_of("dilation", spatial)? } else { vec![1; spatial] };
    let pads = cx.ints_of("padding", spatial)?;
    if kernel.iter().chain(&strides).chain(&dilations).any(|&v| v <= 0) {
        return Err(OpError::invalid("kernel, strides and dilations must be positive"));
    }
    if pads.iter().zip(&kernel).any(|(&p, &k)| p < 0 || p > k / 2) {
        return Err(OpError::invalid("padding is at most half of the kernel"));
    }
    let pads = pads.into_iter().map(|p| (Dim::known(p), Dim::known(p))).collect();
    Ok(Pool { kernel, strides, dilations, pads, ceil_mode: cx.flag("ceil_mode")? })
}

fn maximum(cx: &mut Cx<'_, '_>, spatial: usize, with_indices: bool) -> Results {
    let x = cx.first()?;
    let Pool { kernel, strides, dilations, pads, ceil_mode } = pool(cx, spatial)?;
    let (x, single) = batched(cx, x, spatial)?;
    if !with_indices {
        let (kind, layout) = (WindowKind::Max, Layout::ChannelsFirst);
        let op = Window::Pool { kind, kernel, strides, dilations, pads, ceil_mode, layout };
        let y = cx.b.add1(op, &[x])?;
        let y = unbatched(cx, y, single)?;
        return one(y);
    }
    let op = Window::MaxWithIndices { kernel, strides, dilations, pads, ceil_mode, column_major: false };
    let found = cx.b.add(op.into(), &[x])?;
    let [y, flat] = super::pointwise::pair(&found)?;
    // Indices count in the whole tensor; PyTorch's in the channel.
    let dims = cx.shape(x)?;
    let area = super::cx::product(dims.get(2..).unwrap_or(&[]));
    let area = cx.as_dtype(&Arg::Int(area), kiln_ir::DType::I64)?;
    let place = cx.ew("mod", &[flat, area])?;
    let (y, place) = (unbatched(cx, y, single)?, unbatched(cx, place, single)?);
    many([y, place])
}

fn average(cx: &mut Cx<'_, '_>, spatial: usize) -> Results {
    let x = cx.first()?;
    let Pool { kernel, strides, dilations, pads, ceil_mode } = pool(cx, spatial)?;
    let divisor = cx.maybe_int("divisor_override")?;
    let (x, single) = batched(cx, x, spatial)?;
    let with_pad = cx.flag("count_include_pad")? || divisor.is_some();
    let kind = if with_pad { WindowKind::AverageWithPad } else { WindowKind::Average };
    let layout = Layout::ChannelsFirst;
    let area = kernel.iter().fold(1f64, |a, &k| a * k as f64);
    if divisor.is_some() && ceil_mode {
        return Err(OpError::unsupported("divisor_override with ceil_mode"));
    }
    let op = Window::Pool { kind, kernel, strides, dilations, pads, ceil_mode, layout };
    let mut y = cx.b.add1(op, &[x])?;
    if let Some(divisor) = divisor {
        if divisor == 0 {
            return Err(OpError::invalid("a divisor of zero"));
        }
        y = cx.ew_const("mul", y, area / divisor as f64)?;
    }
    let y = unbatched(cx, y, single)?;
    one(y)
}

/// Windows whose number is given: window `i` of `n` over `size` elements is `floor(i * size / n) .. ceil((i + 1) * size /
/// n)`. One window is a reduction, windows of one length are a pool, others are slices. The places of maxima, which are a
/// second result, are not given.
fn adaptive(cx: &mut Cx<'_, '_>, spatial: usize, kind: ReduceKind) -> Results {
    let x = cx.first()?;
    let wanted = match cx.get("output_size").clone() {
        Arg::List(items) if items.len() == spatial => items,
        Arg::List(items) if items.len() == 1 => vec![items.first().cloned().unwrap_or(Arg::None); spatial],
        single => vec![single; spatial],
    };
    let rank = cx.rank(x)?;
    let first = rank.checked_sub(spatial).ok_or_else(|| OpError::invalid("too few axes"))?;
    let dims = cx.shape(x)?;
    let mut sizes = vec![];
    for (arg, dim) in wanted.iter().zip(dims.iter().skip(first)) {
        sizes.push(match arg {
            Arg::None => dim.clone(),
            other => cx.as_dim(other)?.ok_or_else(|| OpError::invalid("a size that is no integer"))?,
        });
    }
    if sizes.iter().all(|s| s.as_known() == Some(1)) {
        let axes: Vec<usize> = (first..rank).collect();
        let y = cx.b.reduce(kind, x, &axes, true)?;
        return one(y);
    }
    let mut y = x;
    let even = dims.iter().skip(first).zip(&sizes).map(|(d, n)| d.exact_div(n).and_then(|k| k.as_known()));
    if let Some(kernel) = even.collect::<Option<Vec<i64>>>() {
        y = even_windows(cx, y, spatial, kernel, kind)?;
        return one(y);
    }
    for (i, (size, n)) in dims.iter().skip(first).zip(&sizes).enumerate() {
        y = uneven_windows(cx, y, first + i, size, n, kind)?;
    }
    one(y)
}

fn even_windows(
    cx: &mut Cx<'_, '_>,
    x: Value,
    spatial: usize,
    kernel: Vec<i64>,
    kind: ReduceKind,
) -> Result<Value, OpError> {
    if kernel.iter().all(|&k| k == 1) {
        return Ok(x);
    }
    let (x, single) = batched(cx, x, spatial)?;
    let op = Window::Pool {
        kind: if kind == ReduceKind::Max { WindowKind::Max } else { WindowKind::Average },
        strides: kernel.clone(),
        dilations: vec![1; spatial],
        pads: vec![(Dim::known(0), Dim::known(0)); spatial],
        kernel,
        ceil_mode: false,
        layout: Layout::ChannelsFirst,
    };
    let y = cx.b.add1(op, &[x])?;
    unbatched(cx, y, single)
}

/// Most windows that are cut out one by one.
const MOST_WINDOWS: i64 = 256;

fn uneven_windows(
    cx: &mut Cx<'_, '_>,
    x: Value,
    axis: usize,
    size: &Dim,
    n: &Dim,
    kind: ReduceKind,
) -> Result<Value, OpError> {
    if size == n {
        return Ok(x);
    }
    let (Some(size), Some(n)) = (size.as_known(), n.as_known()) else {
        return Err(OpError::unsupported("windows of a size that is not known when compiling"));
    };
    if !(1..=MOST_WINDOWS).contains(&n) {
        return Err(OpError::unsupported(format!("{n} windows")));
    }
    let mut parts = vec![];
    for i in 0..n {
        let start = i.saturating_mul(size) / n;
        let end = (i + 1).saturating_mul(size).saturating_add(n - 1) / n;
        let part = cx.b.slice_axis(x, axis, Dim::known(start), Dim::known(end - start))?;
        parts.push(cx.b.reduce(kind, part, &[axis], true)?);
    }
    Ok(cx.b.concat(&parts, axis)?)
}

/// Sizes of the result, and the scale that coordinates are computed with where one is given.
fn target(
    cx: &mut Cx<'_, '_>,
    dims: &[Dim],
    spatial: usize,
) -> Result<(Vec<Dim>, Vec<Option<f64>>), OpError> {
    let factors = cx.maybe_floats("scale_factors")?;
    let given = match cx.get("output_size") {
        Arg::None => None,
        Arg::List(items) if items.is_empty() => None,
        _ => Some(cx.dims("output_size")?),
    };
    let sizes = match (given, &factors) {
        (Some(sizes), _) => sizes,
        (None, Some(factors)) => {
            let mut sizes = vec![];
            for (d, &f) in dims.iter().skip(2).zip(factors) {
                let size = match d.as_known() {
                    Some(d) => Dim::known((d as f64 * f).floor() as i64),
                    None if f >= 1.0 && f.fract() == 0.0 => d * &Dim::known(f as i64),
                    None if (1.0 / f).fract() == 0.0 => d.floor_div(&Dim::known((1.0 / f) as i64)),
                    None => return Err(OpError::unsupported("a fraction of a size that is not known")),
                };
                sizes.push(size);
            }
            sizes
        }
        (None, None) => return Err(OpError::invalid("neither sizes nor scales are given")),
    };
    if sizes.len() != spatial {
        return Err(OpError::invalid(format!("{} sizes for {spatial} axes", sizes.len())));
    }
    let names: &[&str] = match spatial {
        1 => &["scales"],
        2 => &["scales_h", "scales_w"],
        _ => &["scales_d", "scales_h", "scales_w"],
    };
    let mut scales = vec![];
    for (i, name) in names.iter().enumerate() {
        let own = cx.maybe_float(name)?;
        let shared = factors.as_ref().and_then(|f| f.get(i).copied());
        scales.push(own.or(shared).filter(|&s| s > 0.0));
    }
    Ok((sizes, scales))
}

struct Sampling {
    mode: Interpolation,
    coordinates: CoordinateMode,
    nearest: NearestMode,
    antialias: bool,
}

fn resized(cx: &mut Cx<'_, '_>, spatial: usize, how: Sampling) -> Results {
    let mut x = cx.first()?;
    let mut dims = cx.shape(x)?;
    if dims.len() != spatial + 2 {
        return Err(OpError::invalid(format!("{} axes, expected {}", dims.len(), spatial + 2)));
    }
    let (new, scales) = target(cx, &dims, spatial)?;
    let sizes: Vec<Dim> = dims.iter().take(2).cloned().chain(new).collect();
    let corners = how.coordinates == CoordinateMode::AlignCorners;
    if corners {
        // Between corners a single element is the first one.
        for (axis, size) in sizes.iter().enumerate().skip(2) {
            if size.as_known() == Some(1) {
                x = cx.b.slice_axis(x, axis, Dim::known(0), Dim::known(1))?;
            }
        }
        dims = cx.shape(x)?;
    }
    let single = sizes.iter().skip(2).any(|size| size.as_known() == Some(1));
    if how.antialias && how.mode == Interpolation::Cubic && single {
        return Err(OpError::unsupported("antialiased cubic interpolation to a single element"));
    }
    // The scale of each axis: the one that is given, or the quotient of the sizes.
    let quotient = |new: &Dim, old: &Dim| match (new.as_known(), old.as_known()) {
        (Some(new), Some(old)) if old > 0 => Some(new as f64 / old as f64),
        _ => new.exact_div(old).and_then(|q| q.as_known()).map(|q| q as f64),
    };
    let spatial_scales = sizes.iter().zip(&dims).skip(2).zip(&scales);
    let spatial_scales =
        spatial_scales.map(|((new, old), given)| given.filter(|_| !corners).or_else(|| quotient(new, old)));
    let unit = Some(1.0);
    let scales: Vec<Option<Float>> =
        [unit, unit].into_iter().chain(spatial_scales).map(|s| s.map(Float::new)).collect();
    let Sampling { mode, coordinates, nearest, antialias } = how;
    let op = Composite::Resize {
        sizes,
        scales,
        mode,
        coordinates,
        nearest,
        cubic_a: Float::new(if antialias { -0.5 } else { -0.75 }),
        antialias,
        exclude_outside: antialias,
        extrapolation: Float::new(0.0),
        roi: vec![],
    };
    let y = cx.b.add1(op, &[x])?;
    one(y)
}

fn nearest(cx: &mut Cx<'_, '_>, spatial: usize, exact: bool) -> Results {
    let (coordinates, nearest) = if exact {
        (CoordinateMode::HalfPixel, NearestMode::RoundPreferCeil)
    } else {
        (CoordinateMode::Asymmetric, NearestMode::Floor)
    };
    resized(cx, spatial, Sampling { mode: Interpolation::Nearest, coordinates, nearest, antialias: false })
}

fn upsample(cx: &mut Cx<'_, '_>, spatial: usize, mode: Interpolation, antialias: bool) -> Results {
    let corners = cx.flag("align_corners")?;
    if corners && antialias {
        return Err(OpError::unsupported("antialiasing between corners"));
    }
    let coordinates = if corners { CoordinateMode::AlignCorners } else { CoordinateMode::HalfPixel };
    resized(cx, spatial, Sampling { mode, coordinates, nearest: NearestMode::Floor, antialias })
}

fn grid_sampler(cx: &mut Cx<'_, '_>) -> Results {
    let (x, grid) = (cx.tensor("input")?, cx.tensor("grid")?);
    let mode = match cx.int("interpolation_mode")? {
        0 => Interpolation::Linear,
        1 => Interpolation::Nearest,
        2 => Interpolation::Cubic,
        other => return Err(OpError::invalid(format!("interpolation_mode {other}"))),
    };
    let padding = match cx.int("padding_mode")? {
        0 => GridPadding::Zeros,
        1 => GridPadding::Border,
        2 => GridPadding::Reflection,
        other => return Err(OpError::invalid(format!("padding_mode {other}"))),
    };
    if mode == Interpolation::Cubic && padding == GridPadding::Border {
        return Err(OpError::unsupported("cubic samples at the border"));
    }
    let align_corners = cx.flag("align_corners")?;
    let y = cx.b.add1(Host::GridSample { mode, padding, align_corners }, &[x, grid])?;
    one(y)
}
