//! Resizing.

use kiln_ir::op::{CoordinateMode, Dynamic, Interpolation, NearestMode};
use kiln_ir::{Build, DType, Float, Scalar, Tensor, Value};

use super::movement::{dynamic, int_vector};
use super::{How, Row, row};
use crate::onnx::cx::{Cx, OpError, Outputs, one};

use How::Fn;

pub(super) const ROWS: &[Row] =
    &[row("Resize", &[10, 11, 13, 18, 19], Fn(resize)), row("Upsample", &[1, 7, 9, 10], Fn(upsample))];

fn floats(cx: &mut Cx<'_, '_, '_>, values: &[f64]) -> Result<Value, OpError> {
    let scalars: Vec<Scalar> = values.iter().map(|&v| Scalar::F(v)).collect();
    Ok(cx.b.constant(Tensor::from_scalars(DType::F32, &[values.len()], &scalars)?)?)
}

fn interpolation(cx: &Cx<'_, '_, '_>) -> Result<Interpolation, OpError> {
    Ok(match cx.attrs.string_or("mode", "nearest")?.as_str() {
        "nearest" => Interpolation::Nearest,
        "linear" | "bilinear" => Interpolation::Linear,
        "cubic" => Interpolation::Cubic,
        other => return Err(OpError::invalid(format!("mode `{other}`"))),
    })
}

/// The rules before opset 11: coordinates are divided by the scale, nearest ones round down.
fn legacy(cx: &mut Cx<'_, '_, '_>, scales: Value) -> Outputs {
    let x = cx.input(0)?;
    let mode = interpolation(cx)?;
    let sizes = cx.ints(&[])?;
    let roi = floats(cx, &[])?;
    let op = Dynamic::Resize {
        mode,
        coordinates: CoordinateMode::Asymmetric,
        nearest: NearestMode::Floor,
        cubic_a: Float::new(-0.75),
        antialias: false,
        exclude_outside: false,
        extrapolation: Float::new(0.0),
        axes: vec![],
        keep_aspect: "stretch".to_owned(),
    };
    one(dynamic(cx, op, &[x, scales, sizes, roi])?)
}

fn upsample(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let scales = if let Some(v) = cx.optional(1) {
        v
    } else if let Some(list) = cx.attrs.floats("scales")? {
        floats(cx, &list)?
    } else {
        let (h, w) = (cx.attrs.float_or("height_scale", 1.0)?, cx.attrs.float_or("width_scale", 1.0)?);
        floats(cx, &[1.0, 1.0, h, w])?
    };
    legacy(cx, scales)
}

/// An operand that is absent or empty is not given.
fn given(cx: &Cx<'_, '_, '_>, i: usize) -> Option<Value> {
    let v = cx.optional(i)?;
    let empty = cx.shape(v).is_ok_and(|d| d.first().is_some_and(|d| d.as_known() == Some(0)));
    (!empty).then_some(v)
}

fn resize(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    if cx.opset < 11 {
        let scales = cx.input(1)?;
        return legacy(cx, scales);
    }
    let x = cx.input(0)?;
    let scales = match given(cx, 2) {
        Some(v) => cx.b.cast(v, DType::F32)?,
        None => floats(cx, &[])?,
    };
    let sizes = match given(cx, 3) {
        Some(v) => int_vector(cx, v)?,
        None => cx.ints(&[])?,
    };
    if given(cx, 2).is_none() && given(cx, 3).is_none() {
        return Err(OpError::invalid("neither scales nor sizes are given"));
    }
    let roi = match given(cx, 1) {
        Some(v) => v,
        None => floats(cx, &[])?,
    };
    let named = |text: &str| OpError::invalid(format!("`{text}` is no mode of this operator"));
    let coordinates = cx.attrs.string_or("coordinate_transformation_mode", "half_pixel")?;
    let nearest = cx.attrs.string_or("nearest_mode", "round_prefer_floor")?;
    let op = Dynamic::Resize {
        mode: interpolation(cx)?,
        coordinates: match coordinates.as_str() {
            // Only in opset 11, for nearest sampling.
            "tf_half_pixel_for_nn" => return Err(OpError::unsupported("tf_half_pixel_for_nn")),
            name => CoordinateMode::from_name(name).ok_or_else(|| named(name))?,
        },
        nearest: NearestMode::from_name(&nearest).ok_or_else(|| named(&nearest))?,
        cubic_a: Float::new(cx.attrs.float_or("cubic_coeff_a", -0.75)?),
        antialias: cx.attrs.flag("antialias", false)?,
        exclude_outside: cx.attrs.flag("exclude_outside", false)?,
        extrapolation: Float::new(cx.attrs.float_or("extrapolation_value", 0.0)?),
        axes: cx.attrs.ints_or("axes", &[])?,
        keep_aspect: cx.attrs.string_or("keep_aspect_ratio_policy", "stretch")?,
    };
    one(dynamic(cx, op, &[x, scales, sizes, roi])?)
}
