//! Rotary embeddings.

use kiln_ir::op::{Composite, Index};
use kiln_ir::{Build, DType, Dim, Tensor, Value};

use super::super::attention::{merge_heads, split_heads};
use super::super::index::coordinate;
use super::super::{MICROSOFT, Row, row_of};
use super::{at, known_size, last, with_scalar};
use crate::onnx::cx::{Cx, OpError, Outputs, one};

pub(in super::super) const ROWS: &[Row] = &[
    row_of(MICROSOFT, "GemmaRotaryEmbedding", gemma_rotary),
    row_of(MICROSOFT, "MRotaryEmbedding", sectioned_rotary),
    row_of(MICROSOFT, "RotaryEmbedding", rotary),
];

/// The heads of an operand of rank 3 or 4, and whether they were merged. Without the attribute, the size of a head is
/// twice the width of the caches.
fn split(cx: &mut Cx<'_, '_, '_>, x: Value, cache: Value) -> Result<(Value, bool), OpError> {
    if cx.rank(x)? != 3 {
        return Ok((x, false));
    }
    let count = match cx.attrs.int_or("num_heads", 0)? {
        0 => {
            let size = last(&cx.shape(cache)?) * Dim::known(2);
            known_size(&last(&cx.shape(x)?).floor_div(&size), "a number of heads")?
        }
        count => count,
    };
    if count <= 0 {
        return Err(OpError::invalid(format!("num_heads {count}")));
    }
    Ok((split_heads(cx, x, count)?, true))
}

fn turned(cx: &mut Cx<'_, '_, '_>, x: Value, merged: bool, cos: Value, sin: Value) -> Outputs {
    // Each token has its position in packed batches, too.
    cx.attrs.flag("is_packed_batching", false)?;
    let interleaved = cx.attrs.flag("interleaved", false)?;
    let rotary_dim = match cx.attrs.int_or("rotary_embedding_dim", 0)? {
        0 => known_size(&last(&cx.shape(x)?), "a head size")?,
        dim => dim,
    };
    let y = cx.b.add1(Composite::Rope { interleaved, rotary_dim }, &[x, cos, sin])?;
    one(if merged { merge_heads(cx, y)? } else { y })
}

/// Operands x, positions, cos, sin. One position is the first one's, which the others follow.
fn rotary(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (x, mut positions, mut cos, mut sin) = (cx.input(0)?, cx.input(1)?, cx.input(2)?, cx.input(3)?);
    let (x, merged) = split(cx, x, cos)?;
    if cx.rank(positions)? < 2 {
        let offset = cx.b.reshape(positions, &[Dim::known(1)])?;
        let step = coordinate(cx, &at(&cx.shape(x)?, 2), 0, 1)?;
        positions = cx.b.ew("add", &[step, offset])?;
    }
    cos = cx.b.add1(Index::Gather { axis: 0 }, &[cos, positions])?;
    sin = cx.b.add1(Index::Gather { axis: 0 }, &[sin, positions])?;
    // Documented as a factor, it has no effect here.
    cx.attrs.float("scale")?;
    turned(cx, x, merged, cos, sin)
}

/// The stream, of time, height and width, that each of `half` angles follows.
fn streams(cx: &Cx<'_, '_, '_>) -> Result<Vec<i64>, OpError> {
    let sections = cx.attrs.ints("mrope_section")?.unwrap_or_default();
    let &[time, height, width] = sections.as_slice() else {
        return Err(OpError::invalid(format!("mrope_section {sections:?}")));
    };
    let half = [time, height, width].iter().try_fold(0i64, |sum, &n| sum.checked_add(n).filter(|_| n >= 0));
    let half = half.filter(|&h| h <= 1 << 16);
    let half = half.ok_or_else(|| OpError::invalid(format!("mrope_section {sections:?}")))?;
    match cx.attrs.int_or("mrope_layout", 0)? {
        0 => Ok((0..half).map(|i| i64::from(i >= time) + i64::from(i >= time + height)).collect()),
        1 => Ok((0..half)
            .map(|i| match i % 3 {
                1 if i < height * 3 => 1,
                2 if i < width * 3 => 2,
                _ => 0,
            })
            .collect()),
        other => Err(OpError::invalid(format!("mrope_layout {other}"))),
    }
}

/// Operands x, positions `[3, B, L]`, cos, sin.
fn sectioned_rotary(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (x, positions, cos, sin) = (cx.input(0)?, cx.input(1)?, cx.input(2)?, cx.input(3)?);
    let (x, merged) = split(cx, x, cos)?;
    let streams = cx.b.constant(Tensor::ints(&streams(cx)?))?;
    let dims = cx.shape(positions)?;
    let mut angles = vec![];
    for cache in [cos, sin] {
        let mut chosen = None;
        for stream in 0..3 {
            let ids = cx.b.slice_axis(positions, 0, Dim::known(stream), Dim::known(1))?;
            let ids = cx.b.reshape(ids, &[at(&dims, 1), at(&dims, 2)])?;
            let own = cx.b.add1(Index::Gather { axis: 0 }, &[cache, ids])?;
            chosen = Some(match chosen {
                None => own,
                Some(others) => {
                    let number = cx.b.constant(Tensor::scalar(stream))?;
                    let mine = cx.b.ew("eq", &[streams, number])?;
                    cx.b.ew("where", &[mine, own, others])?
                }
            });
        }
        if let Some(v) = chosen {
            // The factor belongs to what is turned.
            let scale = cx.attrs.float_or("scale", 1.0)?;
            angles.push(if scale == 1.0 { v } else { with_scalar(cx, "mul", v, scale)? });
        }
    }
    let [cos, sin] = angles[..] else { return Err(OpError::invalid("there are two caches")) };
    turned(cx, x, merged, cos, sin)
}

/// Operands angles, q, q turned by a quarter, k, k turned by a quarter.
fn gemma_rotary(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let angles = cx.input(0)?;
    let dims = cx.shape(angles)?;
    let wide = cx.b.cast(angles, DType::F32)?;
    let form = [at(&dims, 0), Dim::known(1), at(&dims, 1), at(&dims, 2)];
    let wide = cx.b.reshape(wide, &form)?;
    let mut results = vec![];
    for (plain, turned) in [(1, 2), (3, 4)] {
        let (plain, turned) = (cx.input(plain)?, cx.input(turned)?);
        let dtype = cx.dtype(plain)?;
        let mut parts = vec![];
        for (v, function) in [(plain, "cos"), (turned, "sin")] {
            let factor = cx.b.ew(function, &[wide])?;
            let factor = cx.b.cast(factor, dtype)?;
            parts.push(cx.b.ew("mul", &[v, factor])?);
        }
        results.push(cx.b.ew("add", &parts)?);
    }
    Ok(results)
}
