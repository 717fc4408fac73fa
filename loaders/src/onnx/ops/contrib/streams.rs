//! Mixing of parallel residual streams.

use kiln_ir::op::ReduceKind;
use kiln_ir::{Build, DType, Dim, Value};

use super::super::{MICROSOFT, Row, row_of};
use super::norm::branches;
use super::{last, product, with_scalar};
use crate::onnx::cx::{Cx, OpError, Outputs, one};

pub(in super::super) const ROWS: &[Row] = &[
    row_of(MICROSOFT, "HyperConnectionPostMix", post_mix),
    row_of(MICROSOFT, "HyperConnectionPreMix", pre_mix),
];

/// A gate as `[..., C, 1]` or `[..., C, H]`, in f32, for streams of the dims `[..., C, H]`.
fn gate(cx: &mut Cx<'_, '_, '_>, v: Value, streams: &[Dim]) -> Result<Value, OpError> {
    let v = cx.b.cast(v, DType::F32)?;
    let mut dims = cx.shape(v)?;
    if dims.len() == streams.len() {
        return Ok(v);
    }
    let [.., count, _] = streams else { return Err(OpError::invalid("streams have at least two axes")) };
    if &last(&dims) == count {
        dims.push(Dim::known(1));
        return Ok(cx.b.reshape(v, &dims)?);
    }
    Ok(cx.b.reshape(v, streams)?)
}

/// `scale * sum of gate * stream` over the streams.
fn pre_mix(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (x, mix) = (cx.input(0)?, cx.input(1)?);
    let dtype = cx.dtype(x)?;
    let x = branches(cx, x)?;
    let dims = cx.shape(x)?;
    let x = cx.b.cast(x, DType::F32)?;
    let mix = gate(cx, mix, &dims)?;
    let gated = cx.b.ew("mul", &[x, mix])?;
    let sum = cx.b.reduce(ReduceKind::Sum, gated, &[dims.len().saturating_sub(2)], false)?;
    let scale = cx.attrs.float_or("reduction_scale", 1.0)?;
    let y = with_scalar(cx, "mul", sum, scale)?;
    one(cx.b.cast(y, dtype)?)
}

/// The streams, mixed by a matrix if there is one, plus the gated output of a block.
fn post_mix(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (streams, block, post) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let (dtype, shape) = (cx.dtype(streams)?, cx.shape(streams)?);
    let streams = branches(cx, streams)?;
    let dims = cx.shape(streams)?;
    let [outer @ .., count, size] = dims.as_slice() else {
        return Err(OpError::invalid("streams have at least two axes"));
    };
    let mut mixed = cx.b.cast(streams, DType::F32)?;
    if let Some(mix) = cx.optional(3) {
        let rows = product(outer);
        let flat = cx.b.reshape(mixed, &[rows.clone(), count.clone(), size.clone()])?;
        let mix = cx.b.cast(mix, DType::F32)?;
        let mix = cx.b.reshape(mix, &[rows, count.clone(), count.clone()])?;
        let y = cx.b.einsum("bck,bch->bkh", mix, flat)?;
        mixed = cx.b.reshape(y, &dims)?;
    }
    let post = gate(cx, post, &dims)?;
    let block = cx.b.cast(block, DType::F32)?;
    let mut row = cx.shape(block)?;
    row.insert(row.len().saturating_sub(1), Dim::known(1));
    let block = cx.b.reshape(block, &row)?;
    let injected = cx.b.ew("mul", &[post, block])?;
    let y = cx.b.ew("add", &[mixed, injected])?;
    let y = cx.b.reshape(y, &shape)?;
    one(cx.b.cast(y, dtype)?)
}
