//! Operators of torchvision, and images as columns.

use kiln_ir::op::{Host, Index, RegionPool, ScatterMode};
use kiln_ir::{Build, DType, Dim, Float, Value};

use super::arg::Arg;
use super::cx::{Cx, one, product};
use super::{How, Results, Row, row};
use crate::error::OpError;

use How::Fn;

#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    row("aten::affine_grid_generator", Fn(affine_grid)),
    row("aten::col2im", Fn(col2im)),
    row("aten::im2col", Fn(im2col)),
    row("aten::max_unpool2d", Fn(max_unpool)),
    row("torchvision::deform_conv2d", Fn(deform_conv)),
    row("torchvision::nms", Fn(nms)),
    row("torchvision::roi_align", Fn(roi_align)),
];

/// Boxes that stay, best first.
fn nms(cx: &mut Cx<'_, '_>) -> Results {
    let (boxes, scores) = (cx.tensor("dets")?, cx.tensor("scores")?);
    let count = cx.shape(scores)?.first().cloned().unwrap_or(Dim::known(0));
    let boxes = cx.b.cast(boxes, DType::F32)?;
    let scores = cx.b.cast(scores, DType::F32)?;
    let boxes = cx.b.reshape(boxes, &[Dim::known(1), count.clone(), Dim::known(4)])?;
    let scores = cx.b.reshape(scores, &[Dim::known(1), Dim::known(1), count.clone()])?;
    let most = cx.b.dims(&[count])?;
    let threshold = cx.constant(DType::F32, cx.float("iou_threshold")?)?;
    let threshold = cx.b.reshape(threshold, &[Dim::known(1)])?;
    let least = cx.constant(DType::F32, f64::NEG_INFINITY)?;
    let least = cx.b.reshape(least, &[Dim::known(1)])?;
    let op = Host::NonMaxSuppression { center_point_box: false };
    let found = cx.b.add1(op, &[boxes, scores, most, threshold, least])?;
    let y = super::movement::picked(cx, found, 1, Dim::known(2))?;
    one(y)
}

/// Rows of `rois` are batch index and corners.
fn roi_align(cx: &mut Cx<'_, '_>) -> Results {
    let (x, rois) = (cx.tensor("input")?, cx.tensor("rois")?);
    let batch = super::movement::picked(cx, rois, 1, Dim::known(0))?;
    let batch = cx.b.cast(batch, DType::I64)?;
    let boxes = cx.b.slice_axis(rois, 1, Dim::known(1), Dim::known(4))?;
    let op = Host::RoiAlign {
        mode: RegionPool::Average,
        half_pixel: cx.flag("aligned")?,
        height: cx.int("pooled_height")?,
        width: cx.int("pooled_width")?,
        sampling: cx.int("sampling_ratio")?.max(0),
        spatial_scale: Float::new(cx.float("spatial_scale")?),
    };
    let y = cx.b.add1(op, &[x, boxes, batch])?;
    one(y)
}

fn deform_conv(cx: &mut Cx<'_, '_>) -> Results {
    let (x, w, offset) = (cx.tensor("input")?, cx.tensor("weight")?, cx.tensor("offset")?);
    let mut operands = vec![x, w, offset];
    if cx.flag("use_mask")? {
        operands.push(cx.tensor("mask")?);
    }
    let (pad_h, pad_w) = (cx.int("pad_h")?, cx.int("pad_w")?);
    let op = Host::DeformConv {
        strides: vec![cx.int("stride_h")?, cx.int("stride_w")?],
        dilations: vec![cx.int("dilation_h")?, cx.int("dilation_w")?],
        pads: vec![(pad_h, pad_h), (pad_w, pad_w)],
        groups: cx.int("groups")?,
        offset_groups: cx.int("offset_groups")?,
    };
    let y = cx.b.add1(op, &operands)?;
    let bias = cx.tensor("bias")?;
    let channels = cx.numel(bias)?;
    let bias = cx.b.reshape(bias, &[channels, Dim::known(1), Dim::known(1)])?;
    let y = cx.ew("add", &[y, bias])?;
    one(y)
}

/// Geometry of sliding blocks.
struct Blocks {
    kernel: Vec<i64>,
    dilation: Vec<i64>,
    padding: Vec<i64>,
    stride: Vec<i64>,
}

fn blocks(cx: &mut Cx<'_, '_>) -> Result<Blocks, OpError> {
    let all = Blocks {
        kernel: cx.ints_of("kernel_size", 2)?,
        dilation: cx.ints_of("dilation", 2)?,
        padding: cx.ints_of("padding", 2)?,
        stride: cx.ints_of("stride", 2)?,
    };
    if all.kernel.iter().chain(&all.dilation).chain(&all.stride).any(|&v| v <= 0) {
        return Err(OpError::invalid("kernel, dilation and stride must be positive"));
    }
    Ok(all)
}

/// `[N, C, H, W]` to `[N, C * block, positions]`: a gather of each spatial axis.
fn im2col(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    let at = blocks(cx)?;
    let (x, single) = super::conv::batched(cx, x, 2)?;
    let dtype = cx.dtype(x)?;
    let pads: Vec<Dim> = [0, 0].into_iter().chain(at.padding.iter().copied()).map(Dim::known).collect();
    let zero = cx.constant(dtype, 0.0)?;
    let pad = kiln_ir::op::Movement::Pad {
        mode: kiln_ir::op::PadMode::Constant,
        before: pads.clone(),
        after: pads,
    };
    let mut y = cx.b.add1(pad, &[x, zero])?;
    let shape = cx.shape(y)?;
    let mut counts = vec![];
    let geometry = at.kernel.iter().zip(&at.dilation).zip(&at.stride);
    for (i, ((&k, &d), &s)) in geometry.enumerate().collect::<Vec<_>>().into_iter().rev() {
        let size = shape.get(2 + i).cloned().unwrap_or(Dim::known(1));
        let count = (size - Dim::known((k - 1).saturating_mul(d).saturating_add(1)))
            .floor_div(&Dim::known(s))
            + Dim::known(1);
        let inside = cx.positions(&Dim::known(k), DType::I64, 0, 2)?;
        let inside = cx.ew_const("mul", inside, d as f64)?;
        let start = cx.positions(&count, DType::I64, 1, 2)?;
        let start = cx.ew_const("mul", start, s as f64)?;
        let places = cx.ew("add", &[inside, start])?;
        y = cx.b.add1(Index::Gather { axis: 2 + i }, &[y, places])?;
        counts.insert(0, count);
    }
    // `[N, C, kh, oh, kw, ow]` to `[N, C, kh, kw, oh, ow]`.
    let y = cx.b.transpose(y, &[0, 1, 2, 4, 3, 5])?;
    let shape = cx.shape(y)?;
    let (n, rest) = shape.split_at(1);
    let dims = [n.to_vec(), vec![product(rest.get(..3).unwrap_or(&[])), product(&counts)]].concat();
    let y = cx.b.reshape(y, &dims)?;
    let y = super::conv::unbatched(cx, y, single)?;
    one(y)
}

fn col2im(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    let at = blocks(cx)?;
    let (x, single) = super::conv::batched(cx, x, 1)?;
    let size = cx.dims("output_size")?;
    let (size, block) = (cx.b.dims(&size)?, super::reduce::ints(cx, &at.kernel)?);
    let pads = at.padding.iter().map(|&p| (p, p)).collect();
    let op = Host::Col2Im { strides: at.stride, dilations: at.dilation, pads };
    let y = cx.b.add1(op, &[x, size, block])?;
    let y = super::conv::unbatched(cx, y, single)?;
    one(y)
}

/// Coordinates in `[-1, 1]`, moved by a matrix for each image.
fn affine_grid(cx: &mut Cx<'_, '_>) -> Results {
    let theta = cx.tensor("theta")?;
    let (size, corners) = (cx.dims("size")?, cx.flag("align_corners")?);
    let dtype = cx.dtype(theta)?;
    let (Some(n), Some(spatial)) = (size.first().cloned(), size.get(2..)) else {
        return Err(OpError::invalid("a size of too few axes"));
    };
    let rank = spatial.len();
    let mut rows = vec![];
    // The last axis comes first among the coordinates.
    for (axis, len) in spatial.iter().enumerate().rev() {
        let i = cx.positions(len, dtype, axis, rank)?;
        let count = cx.as_dtype(&Arg::Int(len.clone()), dtype)?;
        let doubled = cx.ew_const("mul", i, 2.0)?;
        let at = if corners {
            let gaps = cx.ew_const("sub", count, 1.0)?;
            let gaps = cx.ew_const("max", gaps, 1.0)?;
            let moved = cx.ew("sub", &[doubled, gaps])?;
            let at = cx.ew("div", &[moved, gaps])?;
            if len.as_known() == Some(1) { cx.ew_const("mul", at, 0.0)? } else { at }
        } else {
            let odd = cx.ew_const("add", doubled, 1.0)?;
            let moved = cx.ew("sub", &[odd, count])?;
            cx.ew("div", &[moved, count])?
        };
        let wide = cx.b.broadcast(at, spatial)?;
        rows.push(cx.b.reshape(wide, &[product(spatial), Dim::known(1)])?);
    }
    rows.push(cx.filled(dtype, 1.0, &[product(spatial), Dim::known(1)])?);
    let base = cx.b.concat(&rows, 1)?;
    let grid = super::linear::einsum_of(cx, "pk,bnk->bpn", base, theta)?;
    let shape = [vec![n], spatial.to_vec(), vec![Dim::known(rank as i64)]].concat();
    let y = cx.b.reshape(grid, &shape)?;
    one(y)
}

/// Places count in the channel.
fn max_unpool(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    let index = super::index::indices(cx, "indices")?;
    let wanted = cx.dims("output_size")?;
    let shape = cx.shape(x)?;
    let lead = shape.get(..shape.len().saturating_sub(2)).unwrap_or(&[]);
    let rows = product(lead);
    let count = product(shape.get(lead.len()..).unwrap_or(&[]));
    let dtype = cx.dtype(x)?;
    let zeros = cx.filled(dtype, 0.0, &[rows.clone(), product(&wanted)])?;
    let index = cx.b.reshape(index, &[rows.clone(), count.clone()])?;
    let flat: Value = cx.b.reshape(x, &[rows, count])?;
    let op = Index::ScatterElements { axis: 1, mode: ScatterMode::Assign };
    let y = cx.b.add1(op, &[zeros, index, flat])?;
    let y = cx.b.reshape(y, &[lead.to_vec(), wanted].concat())?;
    one(y)
}
