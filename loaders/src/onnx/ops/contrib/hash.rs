//! MurmurHash3 of elements (A. Appleby, MurmurHash3_x86_32, public domain).

use kiln_ir::op::Host;
use kiln_ir::{Build, DType, Tensor, Value};

use super::super::{MICROSOFT, Row, row_of};
use crate::onnx::cx::{Cx, OpError, Outputs, one};

pub(in super::super) const ROWS: &[Row] = &[row_of(MICROSOFT, "MurmurHash3", murmur)];

fn number(cx: &mut Cx<'_, '_, '_>, value: u32) -> Result<Value, OpError> {
    Ok(cx.b.constant(Tensor::scalar(value))?)
}

fn with(cx: &mut Cx<'_, '_, '_>, name: &str, v: Value, constant: u32) -> Result<Value, OpError> {
    let constant = number(cx, constant)?;
    Ok(cx.b.ew(name, &[v, constant])?)
}

fn rotated(cx: &mut Cx<'_, '_, '_>, v: Value, by: u32) -> Result<Value, OpError> {
    let (high, low) = (with(cx, "shift_left", v, by)?, with(cx, "shift_right", v, 32 - by)?);
    Ok(cx.b.ew("bit_or", &[high, low])?)
}

/// `v ^ (v >> by)`.
fn folded(cx: &mut Cx<'_, '_, '_>, v: Value, by: u32) -> Result<Value, OpError> {
    let shifted = with(cx, "shift_right", v, by)?;
    Ok(cx.b.ew("bit_xor", &[v, shifted])?)
}

/// The 32-bit words of each element, the low one first.
fn words(cx: &mut Cx<'_, '_, '_>, x: Value) -> Result<Vec<Value>, OpError> {
    let dtype = cx.dtype(x)?;
    let bits = match dtype {
        DType::I32 | DType::U32 | DType::I64 | DType::U64 => x,
        DType::F32 => cx.b.add1(Host::BitCast { to: DType::U32 }, &[x])?,
        DType::F64 => cx.b.add1(Host::BitCast { to: DType::U64 }, &[x])?,
        other => return Err(OpError::unsupported(format!("the hash of {other}"))),
    };
    if dtype.bits() == 32 {
        return Ok(vec![cx.b.cast(bits, DType::U32)?]);
    }
    let bits = cx.b.cast(bits, DType::U64)?;
    let half = cx.b.constant(Tensor::scalar(32u64))?;
    let high = cx.b.ew("shift_right", &[bits, half])?;
    Ok(vec![cx.b.cast(bits, DType::U32)?, cx.b.cast(high, DType::U32)?])
}

fn murmur(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let seed = cx.attrs.int_or("seed", 0)?;
    let seed = u32::try_from(seed).map_err(|_| OpError::invalid(format!("seed {seed}")))?;
    let words = words(cx, x)?;
    let mut hash = number(cx, seed)?;
    let length = 4 * u32::try_from(words.len()).unwrap_or(1);
    for word in words {
        let k = with(cx, "mul", word, 0xcc9e_2d51)?;
        let k = rotated(cx, k, 15)?;
        let k = with(cx, "mul", k, 0x1b87_3593)?;
        let mixed = cx.b.ew("bit_xor", &[hash, k])?;
        let mixed = rotated(cx, mixed, 13)?;
        let mixed = with(cx, "mul", mixed, 5)?;
        hash = with(cx, "add", mixed, 0xe654_6b64)?;
    }
    hash = with(cx, "bit_xor", hash, length)?;
    hash = folded(cx, hash, 16)?;
    hash = with(cx, "mul", hash, 0x85eb_ca6b)?;
    hash = folded(cx, hash, 13)?;
    hash = with(cx, "mul", hash, 0xc2b2_ae35)?;
    hash = folded(cx, hash, 16)?;
    let to = if cx.attrs.flag("positive", true)? { DType::U32 } else { DType::I32 };
    one(cx.b.cast(hash, to)?)
}
