//! Linear attention and its causal convolution, and attention with modifier graphs.

use kiln_ir::op::{Contract, Control, Conv, Index, Layout};
use kiln_ir::{Build, DType, Dim, InferError, Op, Tensor, Type, Value};

use super::attention::{at, split_heads};
use super::{How, Row, row};
use crate::onnx::cx::{Cx, OpError, Outputs, one};

use How::Fn;

pub(super) const ROWS: &[Row] = &[
    row("CausalConvWithState", &[27], Fn(causal_conv)),
    row("LinearAttention", &[27], Fn(linear_attention)),
    Row { domain: "ai.onnx.preview", name: "FlexAttention", since: &[1], how: Fn(flex_attention) },
];

/// A depthwise convolution over the past state followed by the operand; the new state is what the next call needs.
fn causal_conv(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (x, w) = (cx.input(0)?, cx.input(1)?);
    let (dims, taps) = (cx.shape(x)?, at(&cx.shape(w)?, 2));
    let dtype = cx.dtype(x)?;
    let channels =
        at(&dims, 1).as_known().ok_or_else(|| OpError::unsupported("an unknown number of channels"))?;
    let history = &taps - Dim::known(1);
    let past = match cx.optional(3) {
        Some(past) => past,
        None => {
            let zero = cx.b.scalar(dtype, 0.0)?;
            cx.b.broadcast(zero, &[at(&dims, 0), at(&dims, 1), history.clone()])?
        }
    };
    let padded = cx.b.concat(&[past, x], 2)?;
    let op = Conv::Forward {
        strides: vec![1],
        dilations: vec![1],
        pads: vec![(Dim::known(0), Dim::known(0))],
        groups: channels,
        layout: Layout::ChannelsFirst,
        out: dtype,
    };
    let mut y = cx.b.add1(op, &[padded, w])?;
    if let Some(bias) = cx.optional(2) {
        let bias = super::conv::per_channel(cx, bias, 1)?;
        y = cx.b.ew("add", &[y, bias])?;
    }
    match cx.attrs.string_or("activation", "none")?.as_str() {
        "none" => {}
        "silu" | "swish" => y = cx.b.ew_with("silu", &[1.0], &[y])?,
        other => return Err(OpError::invalid(format!("activation `{other}`"))),
    }
    let length = at(&cx.shape(padded)?, 2);
    let state = cx.b.slice_axis(padded, 2, length - &history, history)?;
    Ok(vec![y, state])
}

/// What one step of the recurrence reads: `[B, H, T, D]` each, in f32.
struct Recurrence {
    q: Value,
    k: Value,
    v: Value,
    decay: Option<Value>,
    beta: Option<Value>,
    scale: f64,
}

/// The gate operands as `[B, H, T, 1 or D]`.
fn gate(cx: &mut Cx<'_, '_, '_>, v: Value, heads: i64) -> Result<Value, OpError> {
    let dims = cx.shape(v)?;
    let heads = if at(&dims, 2).as_known() == Some(1) { 1 } else { heads };
    let split = split_heads(cx, v, heads)?;
    Ok(cx.b.cast(split, DType::F32)?)
}

fn linear_attention(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (query, key, value) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let heads = (cx.attrs.required_int("q_num_heads")?, cx.attrs.required_int("kv_num_heads")?);
    if heads.0 <= 0 || heads.1 <= 0 || heads.0 % heads.1 != 0 {
        return Err(OpError::invalid("q_num_heads must be a positive multiple of kv_num_heads"));
    }
    let rule = cx.attrs.string_or("update_rule", "gated_delta")?;
    let (gated, delta) = match rule.as_str() {
        "linear" => (false, false),
        "gated" => (true, false),
        "delta" => (false, true),
        "gated_delta" => (true, true),
        other => return Err(OpError::invalid(format!("update_rule `{other}`"))),
    };
    let dtype = cx.dtype(query)?;
    let mut parts = vec![];
    for (v, count) in [(query, heads.0), (key, heads.1), (value, heads.1)] {
        let split = split_heads(cx, v, count)?;
        parts.push(cx.b.cast(split, DType::F32)?);
    }
    let [q, k, v] = parts.as_slice() else { return Err(OpError::invalid("three operands are needed")) };
    let (q, k, v) = (*q, *k, *v);
    let (k_dims, v_dims) = (cx.shape(k)?, cx.shape(v)?);
    let decay = if gated { Some(gate(cx, cx.input(4)?, heads.1)?) } else { None };
    let beta = if delta { Some(gate(cx, cx.input(5)?, heads.1)?) } else { None };
    let scale = match cx.attrs.float_or("scale", 0.0)? {
        0.0 => {
            let size = at(&k_dims, 3).as_known();
            let size = size.ok_or_else(|| OpError::unsupported("an unknown head size"))?;
            1.0 / (size as f64).sqrt()
        }
        scale => scale,
    };
    let (state, state_dtype) = match cx.optional(3) {
        Some(past) => (cx.b.cast(past, DType::F32)?, cx.dtype(past)?),
        None => {
            let zero = cx.b.scalar(DType::F32, 0.0)?;
            let dims = [at(&k_dims, 0), at(&k_dims, 1), at(&k_dims, 3), at(&v_dims, 3)];
            (cx.b.broadcast(zero, &dims)?, dtype)
        }
    };
    let steps = Recurrence { q, k, v, decay, beta, scale };
    let (state, outputs) = run_recurrence(cx, &steps, state)?;
    // Stacked steps `[T, B, H, D]` to `[B, T, H * D]`.
    let moved = cx.b.transpose(outputs, &[1, 0, 2, 3])?;
    let dims = cx.shape(moved)?;
    let y = cx.b.reshape(moved, &[at(&dims, 0), at(&dims, 1), at(&dims, 2) * at(&dims, 3)])?;
    Ok(vec![cx.b.cast(y, dtype)?, cx.b.cast(state, state_dtype)?])
}

fn run_recurrence(
    cx: &mut Cx<'_, '_, '_>,
    steps: &Recurrence,
    state: Value,
) -> Result<(Value, Value), OpError> {
    let sequences: Vec<Value> =
        [steps.q, steps.k, steps.v].into_iter().chain(steps.decay).chain(steps.beta).collect();
    let mut types = vec![Type::fixed(DType::I64, &[]), Type::fixed(DType::Bool, &[]), cx.b.ty(state).clone()];
    types.extend(sequences.iter().map(|&v| cx.b.ty(v).clone()));
    let gates = (steps.decay.is_some(), steps.beta.is_some());
    let scale = steps.scale;
    let body = cx.b.subgraph("step", &types, &mut |b, inputs| recurrence_step(b, inputs, gates, scale))?;
    let count = at(&cx.shape(steps.q)?, 2);
    let trips = cx.b.dims(&[count])?;
    let trips = cx.b.reshape(trips, &[])?;
    let go_on = cx.b.constant(Tensor::from_bools(&[], &[true])?)?;
    let operands: Vec<Value> = [trips, go_on, state].into_iter().chain(sequences).collect();
    let results = cx.b.add(Control::Loop { body, carried: 1 }.into(), &operands)?;
    match results.as_slice() {
        [state, outputs] => Ok((*state, *outputs)),
        _ => Err(OpError::invalid("the recurrence has two results")),
    }
}

fn first(results: &[Value]) -> Result<Value, InferError> {
    results.first().copied().ok_or_else(|| InferError::new("the operator has no result"))
}

/// One step: decays the state, corrects the value by what the state holds for the key, writes it, and reads with the
/// query (groups of query heads share a state).
fn recurrence_step(
    b: &mut dyn Build,
    inputs: &[Value],
    (decayed, corrected): (bool, bool),
    scale: f64,
) -> Result<Vec<Value>, InferError> {
    let [step, go_on, state, sequences @ ..] = inputs else {
        return Err(InferError::new("the step has too few inputs"));
    };
    let mut slices = vec![];
    for &v in sequences {
        let op: Op = Index::Gather { axis: 2 }.into();
        slices.push(first(&b.add(op, &[v, *step])?)?);
    }
    let [q, k, v, gates @ ..] = slices.as_slice() else {
        return Err(InferError::new("the step has too few inputs"));
    };
    let (q, k, mut v, mut state) = (*q, *k, *v, *state);
    if decayed && let Some(&decay) = gates.first() {
        let factor = b.ew("exp", &[decay])?;
        let dims = [b.shape(factor)?, &[Dim::known(1)]].concat();
        let factor = b.reshape(factor, &dims)?;
        state = b.ew("mul", &[state, factor])?;
    }
    if corrected && let Some(&beta) = gates.last() {
        let held = b.einsum("bhdm,bhd->bhm", state, k)?;
        let missing = b.ew("sub", &[v, held])?;
        v = b.ew("mul", &[beta, missing])?;
    }
    let written = b.einsum("bhd,bhm->bhdm", k, v)?;
    state = b.ew("add", &[state, written])?;
    let (q_dims, k_dims) = (b.shape(q)?.to_vec(), b.shape(k)?.to_vec());
    let (heads, groups) = (at(&q_dims, 1), at(&k_dims, 1));
    let repeat = heads.floor_div(&groups);
    let grouped = b.reshape(q, &[at(&q_dims, 0), groups, repeat, at(&q_dims, 2)])?;
    let read = b.einsum("bgrd,bgdm->bgrm", grouped, state)?;
    let size = at(b.shape(read)?, 3);
    let read = b.reshape(read, &[at(&q_dims, 0), heads, size])?;
    let scale = b.scalar(DType::F32, scale)?;
    Ok(vec![*go_on, state, b.ew("mul", &[read, scale])?])
}

/// Attention whose scores and probabilities pass through graphs of the file.
fn flex_attention(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (q, k, v) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let (q_dims, k_dims) = (cx.shape(q)?, cx.shape(k)?);
    let dtype = cx.dtype(q)?;
    let [b, h, l, d] = [at(&q_dims, 0), at(&q_dims, 1), at(&q_dims, 2), at(&q_dims, 3)];
    let (g, s) = (at(&k_dims, 1), at(&k_dims, 2));
    let repeat = h.floor_div(&g);
    let scale = match cx.attrs.float("scale")? {
        Some(scale) => scale,
        None => {
            let size = d.as_known().ok_or_else(|| OpError::unsupported("an unknown head size"))?;
            1.0 / (size as f64).sqrt()
        }
    };
    let work = match cx.attrs.dtype("softmax_precision")? {
        Some(precision) => precision,
        None if dtype == DType::F64 => DType::F64,
        None => DType::F32,
    };
    let grouped = cx.b.reshape(q, &[b.clone(), g.clone(), repeat.clone(), l.clone(), d])?;
    let spec = "bgrld,bgsd->bgrls".parse().map_err(OpError::Invalid)?;
    let scores = cx.b.add1(Contract::Einsum { spec, out: dtype }, &[grouped, k])?;
    let scores = cx.b.cast(scores, work)?;
    let scale = cx.b.scalar(work, scale)?;
    let scores = cx.b.ew("mul", &[scores, scale])?;
    let mut scores = cx.b.reshape(scores, &[b.clone(), h, l.clone(), s.clone()])?;
    if let Some(graph) = cx.attrs.optional_graph("score_mod")? {
        scores = modified(cx, graph, scores, work)?;
    }
    let mut weights = cx.b.softmax(scores, 3)?;
    if let Some(graph) = cx.attrs.optional_graph("prob_mod")? {
        weights = modified(cx, graph, weights, work)?;
    }
    let weights = cx.b.reshape(weights, &[b, g, repeat, l, s])?;
    let v_dtype = cx.dtype(v)?;
    let v = cx.b.cast(v, work)?;
    let y = cx.b.einsum("bgrls,bgse->bgrle", weights, v)?;
    let dims = cx.shape(y)?;
    let y = cx.b.reshape(y, &[at(&dims, 0), at(&dims, 1) * at(&dims, 2), at(&dims, 3), at(&dims, 4)])?;
    one(cx.b.cast(y, v_dtype)?)
}

fn modified<'p>(
    cx: &mut Cx<'_, '_, 'p>,
    graph: &'p crate::onnx::proto::GraphProto,
    v: Value,
    dtype: DType,
) -> Result<Value, OpError> {
    match cx.inline_graph(graph, &[v])?.as_slice() {
        [one] => Ok(cx.b.cast(*one, dtype)?),
        many => Err(OpError::invalid(format!("a modifier must have one output, it has {}", many.len()))),
    }
}
