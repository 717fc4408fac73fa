//! Convolutions and pooling.

use super::sums::check_product;
use super::{InferCx, Inferred, Results, ensure, size, unify, unknown_dims};
use crate::op::{Conv, Layout, Window};
use crate::{DType, Dim, InferError, Shape};

/// Positions of an image-like tensor's dims.
struct Image<'a> {
    batch: &'a Dim,
    channels: &'a Dim,
    spatial: &'a [Dim],
}

fn image(dims: &[Dim], layout: Layout) -> Result<Image<'_>, InferError> {
    match (layout, dims) {
        (Layout::ChannelsFirst, [batch, channels, spatial @ ..])
        | (Layout::ChannelsLast, [batch, spatial @ .., channels]) => Ok(Image { batch, channels, spatial }),
        _ => Err(InferError::new("expected batch, channels and spatial axes")),
    }
}

fn assemble(batch: Dim, channels: Dim, spatial: Vec<Dim>, layout: Layout) -> Shape {
    let mut dims = vec![batch];
    match layout {
        Layout::ChannelsFirst => {
            dims.push(channels);
            dims.extend(spatial);
        }
        Layout::ChannelsLast => {
            dims.extend(spatial);
            dims.push(channels);
        }
    }
    Shape::new(dims)
}

fn check_attrs(strides: &[i64], dilations: &[i64], pads: &[(Dim, Dim)]) -> Result<usize, InferError> {
    let spatial = strides.len();
    ensure!(
        dilations.len() == spatial && pads.len() == spatial,
        "{spatial} strides, {} dilations and {} pads",
        dilations.len(),
        pads.len()
    );
    ensure!(strides.iter().chain(dilations).all(|&v| v > 0), "strides and dilations must be positive");
    Ok(spatial)
}

fn check_taps(kernel: &[Dim]) -> Result<(), InferError> {
    ensure!(kernel.iter().all(|k| k.as_known() != Some(0)), "a kernel needs taps on every axis");
    Ok(())
}

/// Elements that a dilated kernel of `kernel` taps spans.
fn extent(kernel: &Dim, dilation: i64) -> Dim {
    Dim::known(dilation) * (kernel - Dim::known(1)) + Dim::known(1)
}

pub(super) fn infer_conv(c: &Conv, cx: &InferCx<'_>) -> Results {
    cx.expect_count(2)?;
    let (x, w) = (cx.tensor(0)?, cx.tensor(1)?);
    match c {
        Conv::Forward { strides, dilations, pads, groups, layout, out } => {
            check_product(x.dtype, w.dtype, *out)?;
            let spatial = check_attrs(strides, dilations, pads)?;
            ensure!(*groups > 0, "{groups} groups");
            let (xd, wd) = (cx.dims_of_rank(0, spatial + 2)?, cx.dims_of_rank(1, spatial + 2)?);
            let (Some(xd), Some(wd)) = (xd, wd) else {
                return Ok(vec![Inferred::tensor(*out, unknown_dims(spatial + 2))]);
            };
            let (x, w) = (image(xd, *layout)?, image(wd, Layout::ChannelsFirst)?);
            unify(x.channels, &(w.channels * Dim::known(*groups)), "channels of operand and weight")?;
            check_groups(w.batch, *groups)?;
            check_taps(w.spatial)?;
            let sizes = x.spatial.iter().zip(w.spatial).zip(strides).zip(dilations).zip(pads).map(
                |((((d, k), &s), &dilation), (before, after))| {
                    let room = d + before + after - extent(k, dilation);
                    size(room.floor_div(&Dim::known(s)) + Dim::known(1), "a spatial size")
                },
            );
            let sizes = sizes.collect::<Result<Vec<_>, _>>()?;
            Ok(vec![Inferred::tensor(*out, assemble(x.batch.clone(), w.batch.clone(), sizes, *layout))])
        }
        Conv::Transposed { strides, dilations, pads, output_pads, groups, layout } => {
            check_product(x.dtype, w.dtype, x.dtype)?;
            let spatial = check_attrs(strides, dilations, pads)?;
            ensure!(output_pads.len() == spatial, "{} output pads", output_pads.len());
            ensure!(*groups > 0, "{groups} groups");
            let dtype = x.dtype;
            let (xd, wd) = (cx.dims_of_rank(0, spatial + 2)?, cx.dims_of_rank(1, spatial + 2)?);
            let (Some(xd), Some(wd)) = (xd, wd) else {
                return Ok(vec![Inferred::tensor(dtype, unknown_dims(spatial + 2))]);
            };
            let (x, w) = (image(xd, *layout)?, image(wd, Layout::ChannelsFirst)?);
            unify(x.channels, w.batch, "channels of operand and weight")?;
            check_groups(x.channels, *groups)?;
            check_taps(w.spatial)?;
            let mut sizes = vec![];
            for (i, (d, k)) in x.spatial.iter().zip(w.spatial).enumerate() {
                let (Some(&s), Some(&dilation), Some((before, after)), Some(extra)) =
                    (strides.get(i), dilations.get(i), pads.get(i), output_pads.get(i))
                else {
                    continue;
                };
                let full = (d - Dim::known(1)) * Dim::known(s) + extent(k, dilation);
                sizes.push(size(full + extra - before - after, "a spatial size")?);
            }
            let channels = w.channels * Dim::known(*groups);
            Ok(vec![Inferred::tensor(dtype, assemble(x.batch.clone(), channels, sizes, *layout))])
        }
    }
}

fn check_groups(channels: &Dim, groups: i64) -> Result<(), InferError> {
    let fits = channels.as_known().is_none_or(|c| c.checked_rem(groups) == Some(0));
    ensure!(fits, "{channels} channels do not divide into {groups} groups");
    Ok(())
}

struct Pool<'a> {
    kernel: &'a [i64],
    strides: &'a [i64],
    dilations: &'a [i64],
    pads: &'a [(Dim, Dim)],
    ceil_mode: bool,
    layout: Layout,
}

pub(super) fn infer_window(w: &Window, cx: &InferCx<'_>) -> Results {
    cx.expect_count(1)?;
    match w {
        Window::Pool { kind: _, kernel, strides, dilations, pads, ceil_mode, layout } => {
            let pool = Pool { kernel, strides, dilations, pads, ceil_mode: *ceil_mode, layout: *layout };
            let (dtype, shape) = pooled(&pool, cx)?;
            Ok(vec![Inferred::tensor(dtype, shape)])
        }
        Window::MaxWithIndices { kernel, strides, dilations, pads, ceil_mode, column_major: _ } => {
            let layout = Layout::ChannelsFirst;
            let pool = Pool { kernel, strides, dilations, pads, ceil_mode: *ceil_mode, layout };
            let (dtype, shape) = pooled(&pool, cx)?;
            Ok(vec![Inferred::tensor(dtype, shape.clone()), Inferred::tensor(DType::I64, shape)])
        }
    }
}

fn pooled(p: &Pool<'_>, cx: &InferCx<'_>) -> Result<(DType, Shape), InferError> {
    let ty = cx.tensor(0)?;
    ensure!(ty.dtype.is_float() || ty.dtype.is_int(), "pooling does not take {}", ty.dtype);
    let spatial = check_attrs(p.strides, p.dilations, p.pads)?;
    ensure!(p.kernel.len() == spatial, "{spatial} strides and a kernel of rank {}", p.kernel.len());
    ensure!(p.kernel.iter().all(|&k| k > 0), "kernel sizes must be positive");
    let Some(dims) = cx.dims_of_rank(0, spatial + 2)? else {
        return Ok((ty.dtype, unknown_dims(spatial + 2)));
    };
    let x = image(dims, p.layout)?;
    let attrs = p.kernel.iter().zip(p.strides).zip(p.dilations).zip(p.pads);
    let sizes = x.spatial.iter().zip(attrs).map(|(d, (((&k, &s), &dilation), pads))| {
        size(pooled_size(d, &extent(&Dim::known(k), dilation), s, pads, p.ceil_mode), "a spatial size")
    });
    let sizes = sizes.collect::<Result<Vec<_>, _>>()?;
    Ok((ty.dtype, assemble(x.batch.clone(), x.channels.clone(), sizes, p.layout)))
}

/// Windows along one axis. With `ceil_mode` the last one may hang over the end, but must start inside the operand or
/// the padding before it (ONNX MaxPool, AveragePool).
pub(super) fn pooled_size(d: &Dim, extent: &Dim, stride: i64, pads: &(Dim, Dim), ceil_mode: bool) -> Dim {
    let (one, s) = (Dim::known(1), Dim::known(stride));
    let start = d + &pads.0;
    let room = &start + &pads.1 - extent;
    if !ceil_mode {
        return room.floor_div(&s) + one;
    }
    let windows = room.ceil_div(&s) + one;
    // Where padding and stride together stay below the window, the last window always starts inside.
    if (extent - &pads.1 - &s).is_non_negative() {
        return windows;
    }
    windows.lesser(&start.ceil_div(&s))
}
