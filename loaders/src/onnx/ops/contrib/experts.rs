//! Mixtures of experts: every expert sees every token, and the ones that a router does not choose weigh nothing.

use kiln_ir::op::{Contract, ReduceKind};
use kiln_ir::{Build, DType, Dim, Tensor, Value};

use super::super::index::coordinate;
use super::super::{MICROSOFT, Row, row_of};
use super::nbits::{real_blocks, unpack};
use super::{at, known_size, last, only, product, with_scalar};
use crate::onnx::cx::{Cx, OpError, Outputs, one};

pub(in super::super) const ROWS: &[Row] =
    &[row_of(MICROSOFT, "MoE", experts), row_of(MICROSOFT, "QMoE", quantized_experts)];

/// One layer of all experts: weights `[E, N, K]` and a bias `[E, N]`, in f32.
struct Layer {
    weight: Value,
    bias: Option<Value>,
}

impl Layer {
    /// The layer of tokens `[E, T, K]`, or `[T, K]` for every expert alike.
    fn apply(&self, cx: &mut Cx<'_, '_, '_>, x: Value) -> Result<Value, OpError> {
        let spec = if cx.rank(x)? == 2 { "tk,enk->etn" } else { "etk,enk->etn" };
        let spec = spec.parse().map_err(OpError::Invalid)?;
        let y = cx.b.add1(Contract::Einsum { spec, out: DType::F32 }, &[x, self.weight])?;
        let Some(bias) = self.bias else { return Ok(y) };
        let dims = cx.shape(bias)?;
        let bias = cx.b.cast(bias, DType::F32)?;
        let bias = cx.b.reshape(bias, &[at(&dims, 0), Dim::known(1), at(&dims, 1)])?;
        Ok(cx.b.ew("add", &[y, bias])?)
    }
}

/// Where the weights of the chosen experts come from.
enum Weighing {
    /// The softmax of all scores, normalized over the chosen ones if the attribute says so.
    All,
    /// The softmax of the chosen scores.
    Chosen,
    /// An operand, normalized over the chosen ones if the attribute says so.
    Given(Value),
}

/// The weight `[T, E]` of each expert for each token, 0 unless its score is among the `k` best.
fn routing(cx: &mut Cx<'_, '_, '_>, scores: Value, weighing: &Weighing) -> Result<Value, OpError> {
    only(cx, "use_sparse_mixer", 0)?;
    let k = cx.attrs.int_or("k", 1)?;
    let count = known_size(&last(&cx.shape(scores)?), "a number of experts")?;
    if !(1..=count).contains(&k) {
        return Err(OpError::invalid(format!("{k} of {count} experts")));
    }
    let scores = cx.b.cast(scores, DType::F32)?;
    let among = best(cx, scores, k, count)?;
    let weights = match *weighing {
        Weighing::Given(weights) => cx.b.cast(weights, DType::F32)?,
        Weighing::All | Weighing::Chosen => cx.b.softmax(scores, 1)?,
    };
    let zero = cx.b.scalar(DType::F32, 0.0)?;
    let weights = cx.b.ew("where", &[among, weights, zero])?;
    let asked = cx.attrs.flag("normalize_routing_weights", false)?;
    if !asked && !matches!(weighing, Weighing::Chosen) {
        return Ok(weights);
    }
    let sum = cx.b.reduce(ReduceKind::Sum, weights, &[1], true)?;
    Ok(cx.b.ew("div", &[weights, sum])?)
}

/// Which of `count` scores are among the `k` best of their row: those that fewer than `k` others beat. Of equal ones the
/// later wins.
fn best(cx: &mut Cx<'_, '_, '_>, scores: Value, k: i64, count: i64) -> Result<Value, OpError> {
    let rows = at(&cx.shape(scores)?, 0);
    let (size, unit) = (Dim::known(count), Dim::known(1));
    let own = cx.b.reshape(scores, &[rows.clone(), size.clone(), unit.clone()])?;
    let other = cx.b.reshape(scores, &[rows, unit, size.clone()])?;
    let (place, rival) = (coordinate(cx, &size, 1, 3)?, coordinate(cx, &size, 2, 3)?);
    let (above, equal) = (cx.b.ew("gt", &[other, own])?, cx.b.ew("eq", &[other, own])?);
    let later = cx.b.ew("gt", &[rival, place])?;
    let later = cx.b.ew("and", &[equal, later])?;
    let beats = cx.b.ew("or", &[above, later])?;
    let beats = cx.b.cast(beats, DType::I32)?;
    let rank = cx.b.reduce(ReduceKind::Sum, beats, &[2], false)?;
    let k = i32::try_from(k).map_err(|_| OpError::invalid(format!("{k} experts")))?;
    let k = cx.b.constant(Tensor::scalar(k))?;
    Ok(cx.b.ew("lt", &[rank, k])?)
}

/// Gates and values of a gated unit: two halves of one layer's result, or two layers' results.
fn gated(
    cx: &mut Cx<'_, '_, '_>,
    first: Value,
    third: Option<Value>,
    interleaved: bool,
) -> Result<(Value, Value), OpError> {
    if let Some(third) = third {
        return Ok((first, third));
    }
    let dims = cx.shape(first)?;
    let half = last(&dims).floor_div(&Dim::known(2));
    if !interleaved {
        let gate = super::slice_last(cx, first, &Dim::known(0), &half)?;
        return Ok((gate, super::slice_last(cx, first, &half, &half)?));
    }
    let pairs = [at(&dims, 0), at(&dims, 1), half.clone(), Dim::known(2)];
    let flat = [at(&dims, 0), at(&dims, 1), half];
    let split = cx.b.reshape(first, &pairs)?;
    let part = |cx: &mut Cx<'_, '_, '_>, i: i64| {
        let v = super::slice_last(cx, split, &Dim::known(i), &Dim::known(1))?;
        Ok::<_, OpError>(cx.b.reshape(v, &flat)?)
    };
    Ok((part(cx, 0)?, part(cx, 1)?))
}

/// What comes between an expert's layers.
fn activated(cx: &mut Cx<'_, '_, '_>, first: Value, third: Option<Value>) -> Result<Value, OpError> {
    let fusion = cx.attrs.int_or("swiglu_fusion", 0)?;
    let (alpha, beta) =
        (cx.attrs.float_or("activation_alpha", 1.0)?, cx.attrs.float_or("activation_beta", 0.0)?);
    let limit = cx.attrs.float("swiglu_limit")?;
    let kind = cx.attrs.string_or("activation_type", "relu")?;
    let y = match kind.as_str() {
        "relu" => cx.b.ew("relu", &[first])?,
        "gelu" => cx.b.ew("gelu_tanh", &[first])?,
        "silu" => cx.b.ew_with("silu", &[1.0], &[first])?,
        "identity" => first,
        "swiglu" => {
            if fusion == 0 && third.is_none() {
                return Err(OpError::invalid("`swiglu_fusion` 0 needs a third layer"));
            }
            let (mut gate, mut value) = gated(cx, first, third, fusion == 1)?;
            if let Some(limit) = limit {
                gate = with_scalar(cx, "min", gate, limit)?;
                let (low, high) = (cx.b.scalar(DType::F32, -limit)?, cx.b.scalar(DType::F32, limit)?);
                value = cx.b.ew("clamp", &[value, low, high])?;
            }
            let gate = cx.b.ew_with("silu", &[alpha], &[gate])?;
            let value = with_scalar(cx, "add", value, beta)?;
            return Ok(cx.b.ew("mul", &[gate, value])?);
        }
        other => return Err(OpError::unsupported(format!("activation_type `{other}`"))),
    };
    Ok(match third {
        Some(third) => cx.b.ew("mul", &[y, third])?,
        None => y,
    })
}

fn mixed(
    cx: &mut Cx<'_, '_, '_>,
    [first, second]: [Layer; 2],
    third: Option<Layer>,
    weighing: &Weighing,
) -> Outputs {
    let (x, scores) = (cx.input(0)?, cx.input(1)?);
    let (dtype, dims) = (cx.dtype(x)?, cx.shape(x)?);
    let [outer @ .., size] = dims.as_slice() else { return Err(OpError::invalid("the operand has no axes")) };
    let x = cx.b.reshape(x, &[product(outer), size.clone()])?;
    let x = cx.b.cast(x, DType::F32)?;
    let weights = routing(cx, scores, weighing)?;
    let inner = first.apply(cx, x)?;
    let third = third.map(|layer| layer.apply(cx, x)).transpose()?;
    let inner = activated(cx, inner, third)?;
    let outputs = second.apply(cx, inner)?;
    let y = cx.b.einsum("eth,te->th", outputs, weights)?;
    let y = cx.b.reshape(y, &dims)?;
    one(cx.b.cast(y, dtype)?)
}

/// Operands x, router scores, then weights and bias of three layers.
fn experts(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let layer = |cx: &mut Cx<'_, '_, '_>, i: usize| {
        let Some(weight) = cx.optional(i) else { return Ok::<_, OpError>(None) };
        let weight = cx.b.cast(weight, DType::F32)?;
        Ok(Some(Layer { weight, bias: cx.optional(i + 1) }))
    };
    let missing = || OpError::invalid("a layer's weights are missing");
    let first = layer(cx, 2)?.ok_or_else(missing)?;
    let second = layer(cx, 4)?.ok_or_else(missing)?;
    let third = layer(cx, 6)?;
    mixed(cx, [first, second], third, &Weighing::All)
}

/// A layer of integers: weights, scales and bias are operands `at` to `at + 2`, zero points operand `zeros`.
fn quantized_layer(
    cx: &mut Cx<'_, '_, '_>,
    place: usize,
    zeros: usize,
    bits: i64,
    block: i64,
) -> Result<Option<Layer>, OpError> {
    let Some(weight) = cx.optional(place) else { return Ok(None) };
    let scales = cx.input(place + 1)?;
    let dims = cx.shape(weight)?;
    let (count, rows) = (at(&dims, 0), at(&dims, 1));
    let width = at(&dims, 2) * Dim::known(8 / bits);
    let q = unpack(cx, weight, bits, &width)?;
    let (size, blocks) = match block {
        0 => (width.clone(), Dim::known(1)),
        block => (Dim::known(block), width.floor_div(&Dim::known(block))),
    };
    let grid = [count.clone(), rows.clone(), blocks.clone()];
    let q = cx.b.reshape(q, &[count.clone(), rows.clone(), blocks.clone(), size])?;
    let scales = cx.b.reshape(scales, &grid)?;
    let zeros = match cx.optional(zeros) {
        Some(zeros) => {
            let zeros = unpack(cx, zeros, bits, if block == 0 { &rows } else { &blocks })?;
            cx.b.reshape(zeros, &grid)?
        }
        None => {
            let zero = cx.b.scalar(DType::F32, (1 << (bits - 1)) as f64)?;
            cx.b.broadcast(zero, &grid)?
        }
    };
    let weight = real_blocks(cx, q, scales, zeros)?;
    let weight = cx.b.reshape(weight, &[count, rows, width])?;
    Ok(Some(Layer { weight, bias: cx.optional(place + 2) }))
}

/// Operands x, router scores, weights, scales and bias of three layers, zero points of three layers, router weights.
fn quantized_experts(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let kind = cx.attrs.string_or("quant_type", "int")?;
    if kind != "int" {
        return Err(OpError::unsupported(format!("quant_type `{kind}`")));
    }
    if cx.attrs.int_or("weights_prepacked", -1)? > 0 {
        return Err(OpError::unsupported("weights in the layout of a device"));
    }
    cx.attrs.int("accuracy_level")?;
    let block = cx.attrs.int_or("block_size", 0)?;
    if block != 0 && (block < 16 || block.count_ones() != 1) {
        return Err(OpError::invalid(format!("block_size {block}")));
    }
    let common = cx.attrs.int_or("expert_weight_bits", 4)?;
    let names = ["fc1_expert_weight_bits", "fc2_expert_weight_bits", "fc3_expert_weight_bits"];
    let mut layers = vec![];
    for (i, name) in names.into_iter().enumerate() {
        let bits = cx.attrs.int_or(name, common)?;
        if !matches!(bits, 2 | 4 | 8) {
            return Err(OpError::unsupported(format!("weights of {bits} bits")));
        }
        layers.push(quantized_layer(cx, 2 + 3 * i, 11 + i, bits, block)?);
    }
    let weighing = cx.optional(14).map_or(Weighing::Chosen, Weighing::Given);
    match <[Option<Layer>; 3]>::try_from(layers) {
        Ok([Some(first), Some(second), third]) => mixed(cx, [first, second], third, &weighing),
        _ => Err(OpError::invalid("a layer's weights are missing")),
    }
}
