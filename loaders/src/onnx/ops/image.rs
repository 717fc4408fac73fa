//! Sampling of images and volumes.

use kiln_ir::op::{GridPadding, Host, Interpolation, PixelFormat, RegionPool};
use kiln_ir::{Build, DType, Dim, Float, Value};

use super::conv::{explicit_pads, per_axis, per_channel};
use super::generate::as_dims;
use super::index::coordinate;
use super::movement::int_vector;
use super::{How, Row, row};
use crate::onnx::cx::{Cx, OpError, Outputs, one};

use How::Fn;

pub(super) const ROWS: &[Row] = &[
    row("AffineGrid", &[20], Fn(affine_grid)),
    row("Col2Im", &[18], Fn(col2im)),
    row("DeformConv", &[19, 22], Fn(deform_conv)),
    row("GridSample", &[16, 20, 22], Fn(grid_sample)),
    row("ImageDecoder", &[20], Fn(image_decoder)),
    row("RoiAlign", &[10, 16, 22], Fn(roi_align)),
];

fn image_decoder(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let pixels = match cx.attrs.string_or("pixel_format", "RGB")?.as_str() {
        "RGB" => PixelFormat::Rgb,
        "BGR" => PixelFormat::Bgr,
        "Grayscale" => PixelFormat::Gray,
        other => return Err(OpError::invalid(format!("pixel_format `{other}`"))),
    };
    let file = cx.input(0)?;
    one(cx.b.add1(Host::ImageDecode { pixels }, &[file])?)
}

pub(super) fn grid_sample(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (x, grid) = (cx.input(0)?, cx.input(1)?);
    let mode = match cx.attrs.string_or("mode", "linear")?.as_str() {
        "linear" | "bilinear" => Interpolation::Linear,
        "nearest" => Interpolation::Nearest,
        "cubic" | "bicubic" => Interpolation::Cubic,
        other => return Err(OpError::invalid(format!("mode `{other}`"))),
    };
    let padding = cx.attrs.string_or("padding_mode", "zeros")?;
    let padding = GridPadding::from_name(&padding)
        .ok_or_else(|| OpError::invalid(format!("padding_mode `{padding}`")))?;
    let align_corners = cx.attrs.flag("align_corners", false)?;
    one(cx.b.add1(Host::GridSample { mode, padding, align_corners }, &[x, grid])?)
}

/// Coordinates from -1 to 1 along an axis: of the corners if aligned, else of the elements' centres.
fn base_coordinates(
    cx: &mut Cx<'_, '_, '_>,
    size: &Dim,
    axis: usize,
    rank: usize,
    dtype: DType,
) -> Result<Value, OpError> {
    let align = cx.attrs.flag("align_corners", false)?;
    let step = coordinate(cx, size, axis, rank)?;
    let step = cx.b.cast(step, dtype)?;
    let (one, two) = (cx.b.scalar(dtype, 1.0)?, cx.b.scalar(dtype, 2.0)?);
    let doubled = cx.b.ew("mul", &[step, two])?;
    let count = cx.b.dims(std::slice::from_ref(size))?;
    let count = cx.b.reshape(count, &[])?;
    let count = cx.b.cast(count, dtype)?;
    let (numerator, denominator) = match align {
        true => (doubled, cx.b.ew("sub", &[count, one])?),
        false => (cx.b.ew("add", &[doubled, one])?, count),
    };
    let ratio = cx.b.ew("div", &[numerator, denominator])?;
    Ok(cx.b.ew("sub", &[ratio, one])?)
}

/// `theta` `[N, r, r + 1]` applied to the points of a regular grid; the last spatial axis is the first coordinate.
fn affine_grid(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (theta, size) = (cx.input(0)?, cx.input(1)?);
    let sizes = as_dims(cx, size)?;
    let spatial: Vec<Dim> = sizes.iter().skip(2).cloned().collect();
    let rank = spatial.len();
    let batch = cx.shape(theta)?.first().cloned().unwrap_or(Dim::known(1));
    let dtype = cx.dtype(theta)?;
    let mut base = vec![];
    for (axis, size) in spatial.iter().enumerate().rev() {
        base.push(base_coordinates(cx, size, axis + 1, rank + 1, dtype)?);
    }
    let mut column = vec![Dim::known(1); rank + 1];
    if let Some(slot) = column.first_mut() {
        *slot = batch.clone();
    }
    let mut full = vec![batch];
    full.extend(spatial);
    full.push(Dim::known(1));
    let mut parts = vec![];
    for row in 0..rank {
        let line = cx.b.slice_axis(theta, 1, Dim::known(row as i64), Dim::known(1))?;
        let element = |cx: &mut Cx<'_, '_, '_>, at: usize| {
            let v = cx.b.slice_axis(line, 2, Dim::known(at as i64), Dim::known(1))?;
            Ok::<_, OpError>(cx.b.reshape(v, &column)?)
        };
        let mut sum = element(cx, rank)?;
        for (at, &coordinate) in base.iter().enumerate() {
            let factor = element(cx, at)?;
            let term = cx.b.ew("mul", &[factor, coordinate])?;
            sum = cx.b.ew("add", &[term, sum])?;
        }
        let spread = full.get(..=rank).unwrap_or(&[]);
        let sum = cx.b.broadcast(sum, spread)?;
        parts.push(cx.b.reshape(sum, &full)?);
    }
    one(cx.b.concat(&parts, rank + 1)?)
}

fn col2im(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (x, image, block) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let (image, block) = (int_vector(cx, image)?, int_vector(cx, block)?);
    let length = cx.shape(image)?.first().and_then(Dim::as_known);
    let spatial = length.and_then(|n| usize::try_from(n).ok());
    let spatial = spatial.ok_or_else(|| OpError::unsupported("an unknown number of spatial axes"))?;
    let op = Host::Col2Im {
        strides: per_axis(cx, "strides", spatial, 1)?,
        dilations: per_axis(cx, "dilations", spatial, 1)?,
        pads: explicit_pads(cx, spatial)?,
    };
    one(cx.b.add1(op, &[x, image, block])?)
}

fn deform_conv(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (x, w, offset) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let spatial = cx.rank(x)?.saturating_sub(2);
    let op = Host::DeformConv {
        strides: per_axis(cx, "strides", spatial, 1)?,
        dilations: per_axis(cx, "dilations", spatial, 1)?,
        pads: explicit_pads(cx, spatial)?,
        groups: cx.attrs.int_or("group", 1)?,
        offset_groups: cx.attrs.int_or("offset_group", 1)?,
    };
    let operands: Vec<Value> = [x, w, offset].into_iter().chain(cx.optional(4)).collect();
    let y = cx.b.add1(op, &operands)?;
    let Some(bias) = cx.optional(3) else { return one(y) };
    let bias = per_channel(cx, bias, spatial)?;
    one(cx.b.ew("add", &[y, bias])?)
}

fn roi_align(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (x, boxes, batch) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let mode = match cx.attrs.string_or("mode", "avg")?.as_str() {
        "avg" => RegionPool::Average,
        "max" => RegionPool::Max,
        other => return Err(OpError::invalid(format!("mode `{other}`"))),
    };
    // Opset 10 had no choice: it sampled without the shift.
    let default = if cx.opset < 16 { "output_half_pixel" } else { "half_pixel" };
    let half_pixel = match cx.attrs.string_or("coordinate_transformation_mode", default)?.as_str() {
        "half_pixel" => true,
        "output_half_pixel" => false,
        other => return Err(OpError::invalid(format!("coordinate_transformation_mode `{other}`"))),
    };
    let op = Host::RoiAlign {
        mode,
        half_pixel,
        height: cx.attrs.int_or("output_height", 1)?,
        width: cx.attrs.int_or("output_width", 1)?,
        sampling: cx.attrs.int_or("sampling_ratio", 0)?,
        spatial_scale: Float::new(cx.attrs.float_or("spatial_scale", 1.0)?),
    };
    let batch = cx.b.cast(batch, DType::I64)?;
    one(cx.b.add1(op, &[x, boxes, batch])?)
}
