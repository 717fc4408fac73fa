//! Attention of grouped queries with a cache of keys and values, as decoders of language models have it.

use kiln_ir::op::{Composite, Index, Movement, PadMode};
use kiln_ir::{Build, DType, Dim, Float, Tensor, Value};

use super::super::attention::{merge_heads, split_heads};
use super::super::generate::as_dims;
use super::super::index::coordinate;
use super::super::{MICROSOFT, Row, row_of};
use super::attention::{Heads, heads, hidden, padded, scale};
use super::{absent, at, last, only};
use crate::onnx::cx::{Cx, OpError, Outputs};

pub(in super::super) const ROWS: &[Row] = &[row_of(MICROSOFT, "GroupQueryAttention", grouped)];

/// Where the new keys and values stand in the cache.
struct Cache {
    /// How many keys of each sample came before, i64 `[B, 1, 1, 1]`.
    past: Value,
    /// How many there are now, of the same shape.
    total: Value,
    /// The length of the cache that results.
    length: Dim,
    /// How many keys the longest sample has now.
    longest: Dim,
}

/// Reads the lengths: a first prompt, which has as many queries as the longest sample has keys, starts an empty cache.
fn cache(cx: &mut Cx<'_, '_, '_>, batch: &Dim, queries: &Dim) -> Result<Cache, OpError> {
    let (lengths, longest) = (cx.input(5)?, cx.input(6)?);
    let unit = Dim::known(1);
    let column = [batch.clone(), unit.clone(), unit.clone(), unit];
    let lengths = cx.b.cast(lengths, DType::I64)?;
    let lengths = cx.b.reshape(lengths, &column)?;
    let one = cx.b.constant(Tensor::scalar(1i64))?;
    let total = cx.b.ew("add", &[lengths, one])?;
    let longest_dims = as_dims(cx, longest)?;
    let longest_dim = longest_dims.first().cloned().ok_or_else(|| OpError::invalid("no length is given"))?;
    let queries_now = cx.b.dims(std::slice::from_ref(queries))?;
    let queries_now = cx.b.reshape(queries_now, &[])?;
    let longest = cx.b.cast(longest, DType::I64)?;
    let longest = cx.b.reshape(longest, &[])?;
    let zero = cx.b.constant(Tensor::scalar(0i64))?;
    let first = cx.b.ew("eq", &[longest, queries_now])?;
    let before = cx.b.ew("sub", &[total, queries_now])?;
    let past = cx.b.ew("where", &[first, zero, before])?;
    let length = match cx.optional(3) {
        Some(old) => at(&cx.shape(old)?, 2).greater(&longest_dim),
        None => longest_dim.clone(),
    };
    Ok(Cache { past, total, length, longest: longest_dim })
}

impl Cache {
    /// The old cache with the new heads `[B, G, L, H]` where they belong, zeros beyond.
    fn join(&self, cx: &mut Cx<'_, '_, '_>, old: Option<Value>, new: Value) -> Result<Value, OpError> {
        let dims = cx.shape(new)?;
        let dtype = cx.dtype(new)?;
        let zero = cx.b.scalar(dtype, 0.0)?;
        let mut form = dims.clone();
        if let Some(slot) = form.get_mut(2) {
            *slot = self.length.clone();
        }
        let position = coordinate(cx, &self.length, 2, 4)?;
        let base = match old {
            Some(old) => {
                let old_length = at(&cx.shape(old)?, 2);
                let none = Dim::known(0);
                let mut after = vec![none.clone(); 4];
                if let Some(slot) = after.get_mut(2) {
                    *slot = &self.length - &old_length;
                }
                let pad = Movement::Pad { mode: PadMode::Constant, before: vec![none; 4], after };
                let padded = cx.b.add1(pad, &[old, zero])?;
                let padded = cx.b.reshape(padded, &form)?;
                let is_old = cx.b.ew("lt", &[position, self.past])?;
                cx.b.ew("where", &[is_old, padded, zero])?
            }
            None => zero,
        };
        // Each place takes the new key that belongs there, if there is one.
        let from = cx.b.ew("sub", &[position, self.past])?;
        let first = cx.b.constant(Tensor::scalar(0i64))?;
        let last = cx.b.dims(&[at(&dims, 2) - Dim::known(1)])?;
        let last = cx.b.reshape(last, &[])?;
        let nearest = cx.b.ew("clamp", &[from, first, last])?;
        let (late, is_place) = (cx.b.ew("ge", &[from, first])?, cx.b.ew("le", &[from, last])?);
        let is_new = cx.b.ew("and", &[late, is_place])?;
        let nearest = cx.b.broadcast(nearest, &form)?;
        let moved = cx.b.add1(Index::GatherElements { axis: 2 }, &[new, nearest])?;
        Ok(cx.b.ew("where", &[is_new, moved, base])?)
    }

    /// Which keys each query sees, bool `[B, 1, L, S]`.
    fn seen(&self, cx: &mut Cx<'_, '_, '_>, queries: &Dim) -> Result<Value, OpError> {
        let key = coordinate(cx, &self.length, 3, 4)?;
        if !cx.attrs.flag("causal", true)? {
            only(cx, "local_window_size", -1)?;
            return Ok(cx.b.ew("lt", &[key, self.total])?);
        }
        let query = coordinate(cx, queries, 2, 4)?;
        let query = cx.b.ew("add", &[query, self.past])?;
        let seen = cx.b.ew("le", &[key, query])?;
        let window = cx.attrs.int_or("local_window_size", -1)?;
        if window <= 0 {
            return Ok(seen);
        }
        let distance = cx.b.ew("sub", &[query, key])?;
        let window = cx.b.constant(Tensor::scalar(window))?;
        let near = cx.b.ew("lt", &[distance, window])?;
        Ok(cx.b.ew("and", &[seen, near])?)
    }
}

/// The heads of queries, keys and values, from three operands or one.
fn parts(cx: &mut Cx<'_, '_, '_>, count: i64, groups: i64) -> Result<[Value; 3], OpError> {
    let query = cx.input(0)?;
    if let (Some(key), Some(value)) = (cx.optional(1), cx.optional(2)) {
        let query = split_heads(cx, query, count)?;
        return Ok([query, split_heads(cx, key, groups)?, split_heads(cx, value, groups)?]);
    }
    let all = split_heads(cx, query, count + 2 * groups)?;
    let mut from = 0;
    let mut cut = vec![];
    for size in [count, groups, groups] {
        cut.push(cx.b.slice_axis(all, 1, Dim::known(from), Dim::known(size))?);
        from += size;
    }
    <[Value; 3]>::try_from(cut).map_err(|_| OpError::invalid("three parts were expected"))
}

/// The heads turned by their positions.
fn turned(cx: &mut Cx<'_, '_, '_>, x: Value, cache: &Cache) -> Result<Value, OpError> {
    let (mut cos, mut sin) = (cx.input(7)?, cx.input(8)?);
    let dims = cx.shape(x)?;
    let positions = match cx.optional(9) {
        Some(positions) => positions,
        None => {
            let step = coordinate(cx, &at(&dims, 2), 1, 2)?;
            let past = cx.b.reshape(cache.past, &[at(&dims, 0), Dim::known(1)])?;
            cx.b.ew("add", &[step, past])?
        }
    };
    let width = last(&cx.shape(cos)?);
    let rotary_dim = super::known_size(&(width * Dim::known(2)), "a rotary dimension")?;
    cos = cx.b.add1(Index::Gather { axis: 0 }, &[cos, positions])?;
    sin = cx.b.add1(Index::Gather { axis: 0 }, &[sin, positions])?;
    let interleaved = cx.attrs.flag("rotary_interleaved", false)?;
    Ok(cx.b.add1(Composite::Rope { interleaved, rotary_dim }, &[x, cos, sin])?)
}

/// An extra key of score `sink`, of one element a head or 0, and value 0: it adds to the denominator of softmax.
fn with_sink(cx: &mut Cx<'_, '_, '_>, mut heads: Heads, sink: Option<Value>) -> Result<Heads, OpError> {
    let unit = Dim::known(1);
    for v in [&mut heads.k, &mut heads.v] {
        let mut dims = cx.shape(*v)?;
        if let Some(slot) = dims.get_mut(2) {
            *slot = unit.clone();
        }
        let dtype = cx.dtype(*v)?;
        let zero = cx.b.scalar(dtype, 0.0)?;
        let zeros = cx.b.broadcast(zero, &dims)?;
        *v = cx.b.concat(&[*v, zeros], 2)?;
    }
    let bias = heads.bias.ok_or_else(|| OpError::invalid("a causal mask was expected"))?;
    let mut dims = cx.shape(bias)?;
    let mut column = match sink {
        Some(sink) => {
            let count = last(&cx.shape(sink)?);
            let sink = cx.b.cast(sink, DType::F32)?;
            if let Some(slot) = dims.get_mut(1) {
                *slot = count.clone();
            }
            cx.b.reshape(sink, &[unit.clone(), count, unit.clone(), unit.clone()])?
        }
        None => cx.b.scalar(DType::F32, 0.0)?,
    };
    let bias = cx.b.broadcast(bias, &dims)?;
    if let Some(slot) = dims.last_mut() {
        *slot = unit;
    }
    column = cx.b.broadcast(column, &dims)?;
    heads.bias = Some(cx.b.concat(&[bias, column], 3)?);
    Ok(heads)
}

fn refuse(cx: &Cx<'_, '_, '_>) -> Result<(), OpError> {
    for name in ["k_quant_type", "v_quant_type"] {
        let kind = cx.attrs.string_or(name, "NONE")?;
        if kind != "NONE" {
            return Err(OpError::unsupported(format!("a quantized cache (`{name}` is {kind})")));
        }
    }
    cx.attrs.int("kv_cache_bit_width")?;
    only(cx, "sliding_window_cache", 0)?;
    absent(cx, 12, "k_scale")?;
    absent(cx, 13, "v_scale")
}

/// Operands query, key, value, past key, past value, lengths less one, longest length, cos, sin, positions, bias of the
/// scores, sinks, scales of the caches, weights of norms of queries and keys.
fn grouped(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    refuse(cx)?;
    let (count, groups) = (heads(cx, "num_heads")?, heads(cx, "kv_num_heads")?);
    let [mut q, mut k, v] = parts(cx, count, groups)?;
    if let (Some(q_weight), Some(k_weight)) = (cx.optional(14), cx.optional(15)) {
        let epsilon = Float::new(cx.attrs.float_or("qk_norm_epsilon", 1e-6)?);
        q = cx.b.add1(Composite::RmsNorm { axis: 3, epsilon }, &[q, q_weight])?;
        k = cx.b.add1(Composite::RmsNorm { axis: 3, epsilon }, &[k, k_weight])?;
    }
    let dims = cx.shape(q)?;
    let queries = at(&dims, 2);
    let cache = cache(cx, &at(&dims, 0), &queries)?;
    if cx.attrs.flag("do_rotary", false)? {
        q = turned(cx, q, &cache)?;
        k = turned(cx, k, &cache)?;
    }
    let (old_k, old_v) = (cx.optional(3), cx.optional(4));
    let (k, v) = (cache.join(cx, old_k, k)?, cache.join(cx, old_v, v)?);
    let seen = cache.seen(cx, &queries)?;
    let mut bias = hidden(cx, seen)?;
    if let Some(more) = cx.optional(10) {
        let more = cx.b.cast(more, DType::F32)?;
        let more = padded(cx, more, &cache.length)?;
        bias = cx.b.ew("add", &[bias, more])?;
    }
    let softcap = cx.attrs.float_or("softcap", 0.0)?;
    let scale = scale(cx, &last(&dims))?;
    let mut all = Heads { q, k, v, bias: Some(bias), scale, softcap, causal: false };
    let sink = cx.optional(11);
    if sink.is_some() || cx.attrs.int_or("smooth_softmax", 0)? == 1 {
        all = with_sink(cx, all, sink)?;
    }
    let shown = match cx.attrs.int_or("qk_output", 0)? {
        0 => None,
        1 => {
            let scores = all.scores(cx)?;
            let scores = cx.b.slice_axis(scores, 3, Dim::known(0), cache.longest.clone())?;
            let seen = cx.b.slice_axis(seen, 3, Dim::known(0), cache.longest.clone())?;
            let zero = cx.b.scalar(DType::F32, 0.0)?;
            Some(cx.b.ew("where", &[seen, scores, zero])?)
        }
        2 => {
            let scores = all.scores(cx)?;
            let weights = cx.b.softmax(scores, 3)?;
            Some(cx.b.slice_axis(weights, 3, Dim::known(0), cache.longest.clone())?)
        }
        other => return Err(OpError::invalid(format!("qk_output {other}"))),
    };
    let y = all.attend(cx)?;
    let dtype = cx.dtype(k)?;
    let shown = shown.map(|v| cx.b.cast(v, dtype)).transpose()?;
    Ok([Some(merge_heads(cx, y)?), Some(k), Some(v), shown].into_iter().flatten().collect())
}
