//! Signal processing.

use kiln_ir::op::Host;
use kiln_ir::{Build, DType, Value};

use super::generate::as_dims;
use super::movement::int_vector;
use super::{How, Row, row};
use crate::onnx::cx::{Cx, OpError, Outputs, one};

use How::Fn;

pub(super) const ROWS: &[Row] = &[
    row("DFT", &[17, 20], Fn(dft)),
    row("MelWeightMatrix", &[17], Fn(mel_weights)),
    row("STFT", &[17], Fn(stft)),
];

/// The axis was an attribute in opset 17.
fn dft(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let length = match cx.optional(1) {
        Some(v) => int_vector(cx, v)?,
        None => cx.ints(&[])?,
    };
    let axis = match cx.optional(2) {
        Some(v) => int_vector(cx, v)?,
        None => {
            let default = if cx.opset < 20 { 1 } else { -2 };
            let axis = cx.attrs.int_or("axis", default)?;
            cx.ints(&[axis])?
        }
    };
    let inverse = cx.attrs.flag("inverse", false)?;
    let onesided = cx.attrs.flag("onesided", false)?;
    one(cx.b.add1(Host::Dft { inverse, onesided }, &[x, length, axis])?)
}

fn stft(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (signal, step) = (cx.input(0)?, cx.input(1)?);
    let step = int_vector(cx, step)?;
    let window = match (cx.optional(2), cx.optional(3)) {
        (Some(window), _) => window,
        (None, Some(length)) => {
            let dims = as_dims(cx, length)?;
            let dtype = cx.dtype(signal)?;
            let unit = cx.b.scalar(dtype, 1.0)?;
            cx.b.broadcast(unit, &dims)?
        }
        (None, None) => return Err(OpError::invalid("neither window nor frame_length is given")),
    };
    let onesided = cx.attrs.flag("onesided", true)?;
    one(cx.b.add1(Host::Stft { onesided }, &[signal, step, window])?)
}

fn mel_weights(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let mut operands: Vec<Value> = cx.all_inputs()?;
    for (i, v) in operands.iter_mut().enumerate() {
        if i < 3 {
            *v = cx.b.cast(*v, DType::I64)?;
        }
        *v = cx.b.reshape(*v, &[])?;
    }
    let dtype = cx.attrs.dtype("output_datatype")?.unwrap_or(DType::F32);
    one(cx.b.add1(Host::MelWeightMatrix { dtype }, &operands)?)
}
