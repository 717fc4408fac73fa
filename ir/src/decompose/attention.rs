//! Attention and rotary embeddings.

use super::{dims, node, positions, scalar_like, widen, with_scalar};
use crate::infer::InferError;
use crate::op::{Contract, ReduceKind};
use crate::{Build, DType, Dim, Value};

/// Which keys a query does not see.
pub(super) enum Hide {
    /// It sees all.
    Nothing,
    /// Keys at later positions, counted from the first of both.
    LaterFromStart,
    /// Keys at later positions, the last query standing at the last key.
    LaterFromEnd,
}

pub(super) struct Attention {
    pub(super) scale: f64,
    pub(super) softcap: f64,
    pub(super) hide: Hide,
    pub(super) mask: Option<Value>,
}

/// A contraction in the dtype that bodies compute in.
fn contract(b: &mut dyn Build, spec: &str, x: Value, y: Value) -> Result<Value, InferError> {
    let spec = spec.parse().map_err(InferError::new)?;
    let out = crate::Ew::compute_dtype(b.dtype(x)?);
    node(b, Contract::Einsum { spec, out }, &[x, y])
}

pub(super) fn attention(
    b: &mut dyn Build,
    q: Value,
    k: Value,
    v: Value,
    spec: &Attention,
) -> Result<Value, InferError> {
    let dtype = b.dtype(q)?;
    let (qd, kd, vd) = (dims(b, q)?, dims(b, k)?, dims(b, v)?);
    let ([batch, heads, l, d], [_, groups, s, _], [_, _, _, e]) =
        (qd.as_slice(), kd.as_slice(), vd.as_slice())
    else {
        return Err(InferError::new("attention needs operands of rank 4"));
    };
    let shared = heads == groups;
    let per_group = if shared { Dim::known(1) } else { heads.floor_div(groups) };
    let scores = if shared {
        contract(b, "bgld,bgsd->bgls", q, k)?
    } else {
        // Queries of one group share keys and values: they are rows of one product.
        let split = [batch.clone(), groups.clone(), per_group.clone(), l.clone(), d.clone()];
        let q = b.reshape(q, &split)?;
        let scores = contract(b, "bgrld,bgsd->bgrls", q, k)?;
        b.reshape(scores, &[batch.clone(), heads.clone(), l.clone(), s.clone()])?
    };
    let mut scores = with_scalar(b, "mul", scores, spec.scale)?;
    if spec.softcap > 0.0 {
        let small = with_scalar(b, "div", scores, spec.softcap)?;
        let capped = b.ew("tanh", &[small])?;
        scores = with_scalar(b, "mul", capped, spec.softcap)?;
    }
    if let Some(mask) = spec.mask {
        let wide = b.dtype(scores)?;
        let mask = b.cast(mask, wide)?;
        scores = b.ew("add", &[scores, mask])?;
    }
    scores = hide_later(b, scores, l, s, &spec.hide)?;
    let weights = masked_softmax(b, scores)?;
    let wide = b.dtype(weights)?;
    let v = b.cast(v, wide)?;
    let y = if shared {
        contract(b, "bgls,bgse->bgle", weights, v)?
    } else {
        let split = [batch.clone(), groups.clone(), per_group, l.clone(), s.clone()];
        let weights = b.reshape(weights, &split)?;
        let y = contract(b, "bgrls,bgse->bgrle", weights, v)?;
        b.reshape(y, &[batch.clone(), heads.clone(), l.clone(), e.clone()])?
    };
    b.cast(y, dtype)
}

/// Minus infinity where key `j` is later than query `i`.
fn hide_later(b: &mut dyn Build, scores: Value, l: &Dim, s: &Dim, hide: &Hide) -> Result<Value, InferError> {
    let offset = match hide {
        Hide::Nothing => return Ok(scores),
        Hide::LaterFromStart => Dim::known(0),
        Hide::LaterFromEnd => s - l,
    };
    let mut query = positions(b, l.clone(), DType::I64, 0, 2)?;
    let key = positions(b, s.clone(), DType::I64, 1, 2)?;
    if offset.as_known() != Some(0) {
        let offset = b.dims(&[offset])?;
        query = b.ew("add", &[query, offset])?;
    }
    let later = b.ew("gt", &[key, query])?;
    let hidden = scalar_like(b, scores, f64::NEG_INFINITY)?;
    b.ew("where", &[later, hidden, scores])
}

/// Softmax along the last axis that gives zeros where every score is minus infinity.
fn masked_softmax(b: &mut dyn Build, scores: Value) -> Result<Value, InferError> {
    let axis = b.rank(scores)?.saturating_sub(1);
    let max = b.reduce(ReduceKind::Max, scores, &[axis], true)?;
    let zero = scalar_like(b, scores, 0.0)?;
    let all_hidden = b.ew_with("is_inf", &[1.0, 0.0], &[max])?;
    let max = b.ew("where", &[all_hidden, zero, max])?;
    let shifted = b.ew("sub", &[scores, max])?;
    let e = b.ew("exp", &[shifted])?;
    let sum = b.reduce(ReduceKind::Sum, e, &[axis], true)?;
    let one = scalar_like(b, scores, 1.0)?;
    let empty = b.ew("eq", &[sum, zero])?;
    let sum = b.ew("where", &[empty, one, sum])?;
    b.ew("div", &[e, sum])
}

/// Pairs of elements turned by angles: the halves of the rotary part, or neighbours if `interleaved`.
pub(super) fn rope(
    b: &mut dyn Build,
    x: Value,
    cos: Value,
    sin: Value,
    interleaved: bool,
    rotary_dim: i64,
) -> Result<Value, InferError> {
    let dtype = b.dtype(x)?;
    let x = widen(b, x)?;
    let shape = dims(b, x)?;
    let [batch, heads, l, d] = shape.as_slice() else {
        return Err(InferError::new("rope needs an operand of rank 4"));
    };
    let rotary = if rotary_dim == 0 { d.clone() } else { Dim::known(rotary_dim) };
    let half = rotary.floor_div(&Dim::known(2));
    let turned = b.slice_axis(x, 3, Dim::known(0), rotary.clone())?;
    let one = Dim::known(1);
    let pairs = [batch.clone(), heads.clone(), l.clone(), half.clone(), one.clone()];
    let (first, second) = if interleaved {
        let split = [batch.clone(), heads.clone(), l.clone(), half.clone(), Dim::known(2)];
        let turned = b.reshape(turned, &split)?;
        (
            b.slice_axis(turned, 4, Dim::known(0), one.clone())?,
            b.slice_axis(turned, 4, one.clone(), one.clone())?,
        )
    } else {
        let low = b.slice_axis(turned, 3, Dim::known(0), half.clone())?;
        let high = b.slice_axis(turned, 3, half.clone(), half.clone())?;
        (b.reshape(low, &pairs)?, b.reshape(high, &pairs)?)
    };
    let (cos, sin) = (angles(b, cos, x, &half)?, angles(b, sin, x, &half)?);
    let product = |b: &mut dyn Build, x: Value, y: Value| b.ew("mul", &[x, y]);
    let (fc, ss) = (product(b, first, cos)?, product(b, second, sin)?);
    let real = b.ew("sub", &[fc, ss])?;
    let (fs, sc) = (product(b, first, sin)?, product(b, second, cos)?);
    let imaginary = b.ew("add", &[fs, sc])?;
    let flat = [batch.clone(), heads.clone(), l.clone(), rotary.clone()];
    let y = if interleaved {
        let y = b.concat(&[real, imaginary], 4)?;
        b.reshape(y, &flat)?
    } else {
        let part = [batch.clone(), heads.clone(), l.clone(), half];
        let (real, imaginary) = (b.reshape(real, &part)?, b.reshape(imaginary, &part)?);
        b.concat(&[real, imaginary], 3)?
    };
    let y = if rotary == *d {
        y
    } else {
        let rest = b.slice_axis(x, 3, rotary.clone(), d - &rotary)?;
        b.concat(&[y, rest], 3)?
    };
    b.cast(y, dtype)
}

/// `[B, L, half]` or `[L, half]` as `[B or 1, 1, L, half, 1]`, in the dtype of `x`.
fn angles(b: &mut dyn Build, v: Value, x: Value, half: &Dim) -> Result<Value, InferError> {
    let dtype = b.dtype(x)?;
    let v = b.cast(v, dtype)?;
    let shape = dims(b, v)?;
    let one = || Dim::known(1);
    let (batch, l) = match shape.as_slice() {
        [batch, l, _] => (batch.clone(), l.clone()),
        [l, _] => (one(), l.clone()),
        _ => return Err(InferError::new("angles must have rank 2 or 3")),
    };
    b.reshape(v, &[batch, one(), l, half.clone(), one()])
}
