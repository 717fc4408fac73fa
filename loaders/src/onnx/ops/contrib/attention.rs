//! Attention over whole sequences, with the projections, masks and caches that BERT- and GPT-like models have.

use kiln_ir::op::{Composite, Contract, Movement, PadMode};
use kiln_ir::{Build, DType, Dim, Float, Value};

use super::super::attention::{hide_unless, merge_heads, split_heads};
use super::super::conv::centred;
use super::super::index::coordinate;
use super::super::matmul::{Swaps, product};
use super::super::{MICROSOFT, Row, row_of};
use super::{absent, at, known_size, last, only, plus, slice_last, with_scalar};
use crate::onnx::cx::{Cx, OpError, Outputs, one};

pub(in super::super) const ROWS: &[Row] = &[
    row_of(MICROSOFT, "Attention", attention),
    row_of(MICROSOFT, "DecoderMaskedMultiHeadAttention", decoder_masked),
    row_of(MICROSOFT, "MultiHeadAttention", multi_head),
    row_of(MICROSOFT, "QAttention", quantized_attention),
];

/// Heads `[B, N, L, H]` of one attention, with what is added to the scores.
pub(super) struct Heads {
    pub(super) q: Value,
    pub(super) k: Value,
    pub(super) v: Value,
    pub(super) bias: Option<Value>,
    pub(super) scale: f64,
    pub(super) softcap: f64,
    /// Whether later keys are hidden, the last query standing at the last key.
    pub(super) causal: bool,
}

impl Heads {
    /// The result `[B, N, L, E]`.
    pub(super) fn attend(&self, cx: &mut Cx<'_, '_, '_>) -> Result<Value, OpError> {
        let op = Composite::Attention {
            scale: Float::new(self.scale),
            mask: self.bias.is_some(),
            causal: self.causal,
            causal_from_end: self.causal,
            softcap: Float::new(self.softcap),
        };
        let dtype = cx.dtype(self.q)?;
        let bias = self.bias.map(|v| cx.b.cast(v, dtype)).transpose()?;
        let operands: Vec<Value> = [self.q, self.k, self.v].into_iter().chain(bias).collect();
        Ok(cx.b.add1(op, &operands)?)
    }

    /// The scores `[B, N, L, S]` before softmax, in f32.
    pub(super) fn scores(&self, cx: &mut Cx<'_, '_, '_>) -> Result<Value, OpError> {
        let (q_dims, k_dims) = (cx.shape(self.q)?, cx.shape(self.k)?);
        let [b, n, l, d] = [at(&q_dims, 0), at(&q_dims, 1), at(&q_dims, 2), at(&q_dims, 3)];
        let (g, s) = (at(&k_dims, 1), at(&k_dims, 2));
        let q = cx.b.reshape(self.q, &[b.clone(), g.clone(), n.floor_div(&g), l.clone(), d])?;
        let spec = "bgrld,bgsd->bgrls".parse().map_err(OpError::Invalid)?;
        let scores = cx.b.add1(Contract::Einsum { spec, out: DType::F32 }, &[q, self.k])?;
        let scores = cx.b.reshape(scores, &[b, n, l, s])?;
        let mut scores = with_scalar(cx, "mul", scores, self.scale)?;
        if self.softcap > 0.0 {
            let small = with_scalar(cx, "div", scores, self.softcap)?;
            let capped = cx.b.ew("tanh", &[small])?;
            scores = with_scalar(cx, "mul", capped, self.softcap)?;
        }
        if let Some(bias) = self.bias {
            let bias = cx.b.cast(bias, DType::F32)?;
            scores = cx.b.ew("add", &[scores, bias])?;
        }
        Ok(scores)
    }
}

/// The scale of scores: the attribute, or one over the root of the head size.
pub(super) fn scale(cx: &Cx<'_, '_, '_>, head: &Dim) -> Result<f64, OpError> {
    match cx.attrs.float("scale")?.filter(|&s| s != 0.0) {
        Some(scale) => Ok(scale),
        None => Ok(1.0 / (known_size(head, "a head size")? as f64).sqrt()),
    }
}

/// A positive number of heads.
pub(super) fn heads(cx: &Cx<'_, '_, '_>, name: &'static str) -> Result<i64, OpError> {
    /// More than any model has: products of numbers of heads and sizes stay small.
    const MOST: i64 = 1 << 16;
    match cx.attrs.required_int(name)? {
        count if (1..=MOST).contains(&count) => Ok(count),
        count => Err(OpError::invalid(format!("{name} {count}"))),
    }
}

/// Lengths of the sequences of one attention.
struct Lengths {
    batch: Dim,
    queries: Dim,
    keys: Dim,
}

/// The additive mask `[B, 1, 1 or L, S]` of a mask in one of the forms: 0 at what is hidden `[B, S]` or `[B, L, S]`; ends
/// `[B]` of what is shown; or ends, then starts `[2 B]`. What is hidden gets `mask_filter_value`.
fn mask_bias(cx: &mut Cx<'_, '_, '_>, mask: Value, lengths: &Lengths) -> Result<Value, OpError> {
    let Lengths { batch, queries, keys } = lengths;
    let unit = Dim::known(1);
    let dims = cx.shape(mask)?;
    let shown = match dims.as_slice() {
        [all] if all == batch || (all != &(batch * Dim::known(2)) && all.as_known().is_none()) => {
            let end = cx.b.reshape(mask, &[batch.clone(), unit.clone(), unit.clone(), unit])?;
            before(cx, end, keys)?
        }
        [all] if all == &(batch * Dim::known(2)) => {
            let half = |cx: &mut Cx<'_, '_, '_>, start: Dim| {
                let part = cx.b.slice_axis(mask, 0, start, batch.clone())?;
                Ok::<_, OpError>(
                    cx.b.reshape(part, &[batch.clone(), unit.clone(), unit.clone(), unit.clone()])?,
                )
            };
            let (end, start) = (half(cx, Dim::known(0))?, half(cx, batch.clone())?);
            let (ended, early) = (before(cx, end, keys)?, before(cx, start, keys)?);
            let started = cx.b.ew("not", &[early])?;
            cx.b.ew("and", &[ended, started])?
        }
        [_, _] => {
            let mask = cx.b.reshape(mask, &[batch.clone(), unit.clone(), unit, keys.clone()])?;
            positive(cx, mask)?
        }
        [_, _, _] => {
            let mask = cx.b.reshape(mask, &[batch.clone(), unit, queries.clone(), keys.clone()])?;
            positive(cx, mask)?
        }
        _ => return Err(OpError::unsupported(format!("a mask of the shape {dims:?}"))),
    };
    let filter = cx.attrs.float_or("mask_filter_value", -10_000.0)?;
    let (zero, filter) = (cx.b.scalar(DType::F32, 0.0)?, cx.b.scalar(DType::F32, filter)?);
    Ok(cx.b.ew("where", &[shown, zero, filter])?)
}

/// Whether the position of a key lies before `end`.
pub(super) fn before(cx: &mut Cx<'_, '_, '_>, end: Value, keys: &Dim) -> Result<Value, OpError> {
    let end = cx.b.cast(end, DType::I64)?;
    let position = coordinate(cx, keys, 3, 4)?;
    Ok(cx.b.ew("lt", &[position, end])?)
}

fn positive(cx: &mut Cx<'_, '_, '_>, mask: Value) -> Result<Value, OpError> {
    let dtype = cx.dtype(mask)?;
    let zero = cx.b.scalar(dtype, 0.0)?;
    Ok(cx.b.ew("gt", &[mask, zero])?)
}

/// The sum of a mask and a bias of the scores.
fn join(cx: &mut Cx<'_, '_, '_>, a: Option<Value>, b: Option<Value>) -> Result<Option<Value>, OpError> {
    match (a, b) {
        (Some(a), Some(b)) => Ok(Some(cx.b.ew("add", &[a, b])?)),
        (a, b) => Ok(a.or(b)),
    }
}

/// Parts of the last axis, of the given sizes, one after the other.
fn cut(cx: &mut Cx<'_, '_, '_>, v: Value, sizes: &[Dim; 3]) -> Result<[Value; 3], OpError> {
    let [a, b, c] = sizes;
    let first = slice_last(cx, v, &Dim::known(0), a)?;
    let second = slice_last(cx, v, a, b)?;
    let third = slice_last(cx, v, &(a + b), c)?;
    Ok([first, second, third])
}

/// Sizes of the parts of a joint projection to `total` columns.
fn hidden_sizes(cx: &Cx<'_, '_, '_>, total: &Dim) -> Result<[Dim; 3], OpError> {
    match cx.attrs.ints("qkv_hidden_sizes")?.as_deref() {
        None | Some([]) => {
            let part = total.floor_div(&Dim::known(3));
            Ok([part.clone(), part.clone(), part])
        }
        Some(&[q, k, v]) if q > 0 && k > 0 && v > 0 => Ok([Dim::known(q), Dim::known(k), Dim::known(v)]),
        Some(other) => Err(OpError::invalid(format!("qkv_hidden_sizes {other:?}"))),
    }
}

/// Attention of a joint projection `[B, L, q + k + v]`; results y and the joined cache. Operand positions of the mask, of
/// the cache and of the bias of the scores differ between operators.
fn projected(
    cx: &mut Cx<'_, '_, '_>,
    joint: Value,
    mask: Option<Value>,
    past: Option<Value>,
    bias: Option<Value>,
) -> Outputs {
    only(cx, "past_present_share_buffer", 0)?;
    only(cx, "do_rotary", 0)?;
    cx.attrs.int("rotary_embedding_dim")?;
    let count = heads(cx, "num_heads")?;
    let dims = cx.shape(joint)?;
    let sizes = hidden_sizes(cx, &last(&dims))?;
    let mut parts = cut(cx, joint, &sizes)?;
    for part in &mut parts {
        *part = split_heads(cx, *part, count)?;
    }
    let [q, mut k, mut v] = parts;
    if let Some(past) = past {
        let (old_k, old_v) = (pick(cx, past, 0)?, pick(cx, past, 1)?);
        k = cx.b.concat(&[old_k, k], 2)?;
        v = cx.b.concat(&[old_v, v], 2)?;
    }
    let keys = at(&cx.shape(k)?, 2);
    let lengths = Lengths { batch: at(&dims, 0), queries: at(&dims, 1), keys };
    let mask = mask.map(|m| mask_bias(cx, m, &lengths)).transpose()?;
    let bias = join(cx, mask, bias)?;
    let scale = scale(cx, &last(&cx.shape(q)?))?;
    let causal = cx.attrs.flag("unidirectional", false)?;
    let y = Heads { q, k, v, bias, scale, softcap: 0.0, causal }.attend(cx)?;
    let y = merge_heads(cx, y)?;
    if !cx.wants(1) {
        return one(y);
    }
    let mut stacked = vec![];
    for part in [k, v] {
        let mut dims = cx.shape(part)?;
        dims.insert(0, Dim::known(1));
        stacked.push(cx.b.reshape(part, &dims)?);
    }
    Ok(vec![y, cx.b.concat(&stacked, 0)?])
}

/// Entry `i` of the first axis.
fn pick(cx: &mut Cx<'_, '_, '_>, v: Value, i: i64) -> Result<Value, OpError> {
    let part = cx.b.slice_axis(v, 0, Dim::known(i), Dim::known(1))?;
    let dims: Vec<Dim> = cx.shape(part)?.into_iter().skip(1).collect();
    Ok(cx.b.reshape(part, &dims)?)
}

/// Operands x, weights, bias, mask, past, bias of the scores, length of the past.
fn attention(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (x, w) = (cx.input(0)?, cx.input(1)?);
    let out = cx.dtype(x)?;
    let joint = product(cx, x, w, Swaps::default(), out)?;
    let bias = cx.optional(2);
    let joint = plus(cx, joint, bias)?;
    let [mask, past, bias] = [cx.optional(3), cx.optional(4), cx.optional(5)];
    projected(cx, joint, mask, past, bias)
}

/// Operands x, weight, bias, scales of x and weight, mask, zero points of x and weight, past.
fn quantized_attention(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (x, w, bias) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let (x_zero, w_zero) = (cx.optional(6), cx.optional(7));
    let (x, w) = (centred(cx, x, x_zero, 1)?, centred(cx, w, w_zero, 1)?);
    let sums = product(cx, x, w, Swaps::default(), DType::I32)?;
    let sums = cx.b.cast(sums, DType::F32)?;
    let (x_scale, w_scale) = (cx.input(3)?, cx.input(4)?);
    let scale = cx.b.ew("mul", &[x_scale, w_scale])?;
    let joint = cx.b.ew("mul", &[sums, scale])?;
    let joint = cx.b.ew("add", &[joint, bias])?;
    let (mask, past) = (cx.optional(5), cx.optional(8));
    projected(cx, joint, mask, past, None)
}

/// Queries, keys and values of separate or packed operands as heads `[B, N, L, H]`.
fn separate(cx: &mut Cx<'_, '_, '_>, count: i64, bias: Option<Value>) -> Result<[Value; 3], OpError> {
    let (query, key, value) = (cx.input(0)?, cx.optional(1), cx.optional(2));
    let rank = cx.rank(query)?;
    let unpacked = |cx: &mut Cx<'_, '_, '_>, v: Value, i: i64| {
        let part = cx.b.slice_axis(v, 3, Dim::known(i), Dim::known(1))?;
        let dims = cx.shape(part)?;
        let flat = [at(&dims, 0), at(&dims, 1), at(&dims, 2) * at(&dims, 4)];
        Ok::<_, OpError>(cx.b.reshape(part, &flat)?)
    };
    let mut parts = match (key, value) {
        (None, None) if rank == 5 => {
            [unpacked(cx, query, 0)?, unpacked(cx, query, 1)?, unpacked(cx, query, 2)?]
        }
        (None, None) => {
            let sizes = hidden_sizes(cx, &last(&cx.shape(query)?))?;
            cut(cx, query, &sizes)?
        }
        (Some(key), None) if cx.rank(key)? == 5 => [query, unpacked(cx, key, 0)?, unpacked(cx, key, 1)?],
        (Some(key), Some(value)) => [query, key, value],
        _ => return Err(OpError::invalid("key and value are given together, or packed")),
    };
    // Keys that are heads already come from a cache, and have their bias.
    let is_cache = |cx: &Cx<'_, '_, '_>, v: Value| cx.rank(v).is_ok_and(|rank| rank == 4);
    if let Some(bias) = bias {
        let total = last(&cx.shape(bias)?);
        let [q, k, v] = parts;
        let sizes = if is_cache(cx, k) {
            let width = last(&cx.shape(q)?);
            [width.clone(), width.clone(), total - &width - &width]
        } else {
            [last(&cx.shape(q)?), last(&cx.shape(k)?), last(&cx.shape(v)?)]
        };
        let biases = cut(cx, bias, &sizes)?;
        for (part, bias) in parts.iter_mut().zip(biases) {
            if !is_cache(cx, *part) {
                *part = cx.b.ew("add", &[*part, bias])?;
            }
        }
    }
    for part in &mut parts {
        if !is_cache(cx, *part) {
            *part = split_heads(cx, *part, count)?;
        }
    }
    Ok(parts)
}

/// What the two operators over separate heads do last: results y, keys, values, scores.
fn finish(cx: &mut Cx<'_, '_, '_>, parts: &Heads, scores: bool) -> Outputs {
    let y = parts.attend(cx)?;
    let mut results = vec![merge_heads(cx, y)?, parts.k, parts.v];
    if cx.wants(3) {
        if !scores {
            return Err(OpError::invalid("result 3 needs the attribute `output_qk`"));
        }
        results.push(parts.scores(cx)?);
    }
    Ok(results)
}

/// Operands query, key, value, bias, mask, bias of the scores, past key, past value.
fn multi_head(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let count = heads(cx, "num_heads")?;
    absent(cx, 8, "past_sequence_length")?;
    absent(cx, 9, "cache_indirection")?;
    let bias = cx.optional(3);
    let [q, mut k, mut v] = separate(cx, count, bias)?;
    if let (Some(old_k), Some(old_v)) = (cx.optional(6), cx.optional(7)) {
        k = cx.b.concat(&[old_k, k], 2)?;
        v = cx.b.concat(&[old_v, v], 2)?;
    }
    let (q_dims, k_dims) = (cx.shape(q)?, cx.shape(k)?);
    let lengths = Lengths { batch: at(&q_dims, 0), queries: at(&q_dims, 2), keys: at(&k_dims, 2) };
    let mask = cx.optional(4).map(|m| mask_bias(cx, m, &lengths)).transpose()?;
    let scores_bias = cx.optional(5);
    let mut bias = join(cx, mask, scores_bias)?;
    let scale = scale(cx, &last(&q_dims))?;
    let causal = cx.attrs.flag("unidirectional", false)?;
    if causal && cx.wants(3) {
        // Scores that are shown are those with what is hidden.
        let hidden = causal_bias(cx, &lengths)?;
        bias = join(cx, bias, Some(hidden))?;
    }
    let causal = causal && !cx.wants(3);
    finish(cx, &Heads { q, k, v, bias, scale, softcap: 0.0, causal }, true)
}

/// The lowest number where a key comes after the query, the last query standing at the last key.
fn causal_bias(cx: &mut Cx<'_, '_, '_>, lengths: &Lengths) -> Result<Value, OpError> {
    let (row, column) = (coordinate(cx, &lengths.queries, 0, 2)?, coordinate(cx, &lengths.keys, 1, 2)?);
    let offset = cx.b.dims(&[&lengths.keys - &lengths.queries])?;
    let limit = cx.b.ew("add", &[row, offset])?;
    let seen = cx.b.ew("le", &[column, limit])?;
    let (zero, lowest) = (cx.b.scalar(DType::F32, 0.0)?, cx.b.scalar(DType::F32, f64::from(f32::MIN))?);
    Ok(cx.b.ew("where", &[seen, zero, lowest])?)
}

/// `v` with zeros after its last axis up to `length`.
pub(super) fn padded(cx: &mut Cx<'_, '_, '_>, v: Value, length: &Dim) -> Result<Value, OpError> {
    let mut dims = cx.shape(v)?;
    let Some(slot) = dims.last_mut().filter(|slot| *slot != length) else { return Ok(v) };
    let short = length - &*slot;
    *slot = length.clone();
    let mut after = vec![Dim::known(0); dims.len()];
    if let Some(slot) = after.last_mut() {
        *slot = short;
    }
    let dtype = cx.dtype(v)?;
    let zero = cx.b.scalar(dtype, 0.0)?;
    let pad = Movement::Pad { mode: PadMode::Constant, before: vec![Dim::known(0); dims.len()], after };
    let v = cx.b.add1(pad, &[v, zero])?;
    Ok(cx.b.reshape(v, &dims)?)
}

/// The caches with the one new key written at the end of what came before, and what hides the rest of them.
fn shared_caches(cx: &mut Cx<'_, '_, '_>, k: Value, v: Value) -> Result<([Value; 2], Value), OpError> {
    let past = cx.input(7)?;
    let past = cx.b.cast(past, DType::I64)?;
    let past = cx.b.reshape(past, &[Dim::known(1), Dim::known(1), Dim::known(1), Dim::known(1)])?;
    let mut joined = vec![];
    for (i, new) in [(5, k), (6, v)] {
        let old = cx.input(i)?;
        let place = coordinate(cx, &at(&cx.shape(old)?, 2), 2, 4)?;
        let here = cx.b.ew("eq", &[place, past])?;
        joined.push(cx.b.ew("where", &[here, new, old])?);
    }
    let &[k, v] = joined.as_slice() else { return Err(OpError::invalid("there are two caches")) };
    let position = coordinate(cx, &at(&cx.shape(k)?, 2), 3, 4)?;
    let seen = cx.b.ew("le", &[position, past])?;
    let rest = hidden(cx, seen)?;
    Ok(([k, v], rest))
}

/// Operands query, key, value, mask, bias of the scores, past key, past value, length of the past, beams, indirection,
/// bias. The caches grow, or are as long as they will ever be.
fn decoder_masked(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let count = heads(cx, "num_heads")?;
    let shared = cx.attrs.flag("past_present_share_buffer", false)?;
    absent(cx, 8, "beam_width")?;
    absent(cx, 9, "cache_indirection")?;
    let bias = cx.optional(10);
    let [q, mut k, mut v] = separate(cx, count, bias)?;
    let mut rest = None;
    if let (Some(old_k), Some(old_v)) = (cx.optional(5), cx.optional(6)) {
        if shared {
            let ([whole_k, whole_v], beyond) = shared_caches(cx, k, v)?;
            (k, v, rest) = (whole_k, whole_v, Some(beyond));
        } else {
            k = cx.b.concat(&[old_k, k], 2)?;
            v = cx.b.concat(&[old_v, v], 2)?;
        }
    }
    let (q_dims, keys) = (cx.shape(q)?, at(&cx.shape(k)?, 2));
    let mut bias = rest;
    if let Some(mask) = cx.optional(3) {
        let keys = if rest.is_some() { last(&cx.shape(mask)?) } else { keys.clone() };
        let lengths = Lengths { batch: at(&q_dims, 0), queries: at(&q_dims, 2), keys };
        let mask = mask_bias(cx, mask, &lengths)?;
        let mask = if rest.is_some() { padded(cx, mask, &at(&cx.shape(k)?, 2))? } else { mask };
        bias = join(cx, bias, Some(mask))?;
    }
    if let Some(more) = cx.optional(4) {
        let more = if rest.is_some() { padded(cx, more, &keys)? } else { more };
        bias = join(cx, bias, Some(more))?;
    }
    let scale = scale(cx, &last(&q_dims))?;
    let scores = cx.attrs.flag("output_qk", false)?;
    finish(cx, &Heads { q, k, v, bias, scale, softcap: 0.0, causal: false }, scores)
}

/// Negative infinity where `keep` does not hold.
pub(super) fn hidden(cx: &mut Cx<'_, '_, '_>, keep: Value) -> Result<Value, OpError> {
    hide_unless(cx, keep, DType::F32)
}
