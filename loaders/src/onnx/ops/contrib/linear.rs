//! Linear attention: a state of keys by values that every token decays, corrects and reads.

use kiln_ir::op::{Control, Index};
use kiln_ir::{Build, DType, Dim, InferError, Tensor, Type, Value};

use super::super::{MICROSOFT, Row, row_of};
use super::attention::{heads, scale};
use super::{at, last, only, repeated};
use crate::onnx::cx::{Cx, OpError, Outputs};

pub(in super::super) const ROWS: &[Row] = &[row_of(MICROSOFT, "LinearAttention", linear_attention)];

/// How a token changes the state.
#[derive(Clone, Copy)]
struct Rule {
    /// It decays first.
    gated: bool,
    /// What is added is the difference from what the state has for the key already, times a rate.
    delta: bool,
}

/// What a step takes from sequences `[T, B, H, ...]`: query, key, value, then decay and rate where the rule has them.
fn step(b: &mut dyn Build, rule: Rule, operands: &[Value]) -> Result<Vec<Value>, InferError> {
    let &[number, go_on, state, ref sequences @ ..] = operands else {
        return Err(InferError::new("a loop body misses an operand"));
    };
    let mut now = vec![];
    for &v in sequences {
        let part = b.add(Index::Gather { axis: 0 }.into(), &[v, number])?;
        now.extend(part.first().copied());
    }
    let (state, y) = token(b, rule, state, &now)?;
    Ok(vec![go_on, state, y])
}

/// The state `[B, H, K, V]` after a token, and the result `[B, H, V]`.
fn token(
    b: &mut dyn Build,
    rule: Rule,
    mut state: Value,
    now: &[Value],
) -> Result<(Value, Value), InferError> {
    let &[query, key, value, ref rest @ ..] = now else {
        return Err(InferError::new("query, key and value were expected"));
    };
    let mut rest = rest.iter().copied();
    let mut next = || rest.next().ok_or_else(|| InferError::new("a gate is missing"));
    if rule.gated {
        let decay = b.ew("exp", &[next()?])?;
        state = b.ew("mul", &[state, decay])?;
    }
    let mut added = value;
    if rule.delta {
        let known = b.einsum("bhkv,bhk->bhv", state, key)?;
        let difference = b.ew("sub", &[value, known])?;
        added = b.ew("mul", &[difference, next()?])?;
    }
    let product = b.einsum("bhk,bhv->bhkv", key, added)?;
    let state = b.ew("add", &[state, product])?;
    let y = b.einsum("bhkv,bhk->bhv", state, query)?;
    Ok((state, y))
}

/// `[B, T, H * n]` as `[T, B, H, n]`, each head repeated up to `count` of them.
fn by_steps(cx: &mut Cx<'_, '_, '_>, v: Value, own: i64, count: i64) -> Result<Value, OpError> {
    let dims = cx.shape(v)?;
    let (batch, steps) = (at(&dims, 0), at(&dims, 1));
    let size = last(&dims).floor_div(&Dim::known(own));
    let v = cx.b.reshape(v, &[batch.clone(), steps.clone(), Dim::known(own), size.clone()])?;
    let mut v = cx.b.transpose(v, &[1, 0, 2, 3])?;
    if own != count {
        if count % own != 0 {
            return Err(OpError::invalid(format!("{own} heads for {count}")));
        }
        v = repeated(cx, v, 2, &Dim::known(count / own), &Dim::known(count))?;
    }
    Ok(v)
}

/// Operands query, key, value, past state, decay, rate. Heads of queries share those of keys, or the reverse.
fn linear_attention(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    only(cx, "state_window", 0)?;
    cx.attrs.int("chunk_size")?;
    let (q_heads, kv_heads) = (heads(cx, "q_num_heads")?, heads(cx, "kv_num_heads")?);
    let rule = match cx.attrs.string_or("update_rule", "gated_delta")?.as_str() {
        "linear" => Rule { gated: false, delta: false },
        "gated" => Rule { gated: true, delta: false },
        "delta" => Rule { gated: false, delta: true },
        "gated_delta" => Rule { gated: true, delta: true },
        other => return Err(OpError::invalid(format!("update_rule `{other}`"))),
    };
    if q_heads > kv_heads && q_heads % kv_heads != 0 {
        return Err(OpError::invalid(format!("{q_heads} heads of queries for {kv_heads} of keys")));
    }
    let (query, key, value) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let dims = cx.shape(query)?;
    let (batch, steps) = (at(&dims, 0), at(&dims, 1));
    let key_size = last(&dims).floor_div(&Dim::known(q_heads));
    let value_size = last(&cx.shape(value)?).floor_div(&Dim::known(kv_heads));
    let factor = scale(cx, &key_size)?;
    // Queries of one group of heads are rows of one product with their state.
    let groups = (q_heads / kv_heads).max(1);
    let mut sequences = vec![
        by_steps(cx, query, q_heads, q_heads.max(kv_heads))?,
        by_steps(cx, key, kv_heads, kv_heads * groups)?,
        by_steps(cx, value, kv_heads, kv_heads * groups)?,
    ];
    if rule.gated {
        let decay = cx.input(4)?;
        let decay = by_steps(cx, decay, kv_heads, kv_heads * groups)?;
        let mut form = cx.shape(decay)?;
        form.push(Dim::known(1));
        sequences.push(cx.b.reshape(decay, &form)?);
    }
    if rule.delta {
        let rate = cx.input(5)?;
        let own = if last(&cx.shape(rate)?).as_known() == Some(1) { 1 } else { kv_heads };
        sequences.push(by_steps(cx, rate, own, kv_heads * groups)?);
    }
    let form = [batch.clone(), Dim::known(kv_heads), key_size.clone(), value_size.clone()];
    let mut state = match cx.optional(3) {
        Some(state) => cx.b.cast(state, DType::F32)?,
        None => {
            let zero = cx.b.scalar(DType::F32, 0.0)?;
            cx.b.broadcast(zero, &form)?
        }
    };
    if groups > 1 {
        state = repeated(cx, state, 1, &Dim::known(groups), &Dim::known(kv_heads * groups))?;
    }
    let (y, mut state) = over_steps(cx, rule, state, &sequences, &steps)?;
    if groups > 1 {
        let first: Vec<i64> = (0..kv_heads).map(|i| i * groups).collect();
        let first = cx.b.constant(Tensor::ints(&first))?;
        state = cx.b.add1(Index::Gather { axis: 1 }, &[state, first])?;
    }
    let y = super::with_scalar(cx, "mul", y, factor)?;
    let y = cx.b.transpose(y, &[1, 0, 2, 3])?;
    let y = cx.b.reshape(y, &[batch, steps, Dim::known(q_heads.max(kv_heads)) * value_size])?;
    Ok(vec![y, state])
}

/// Results `[T, B, H, V]` and the last state. A single token needs no loop.
fn over_steps(
    cx: &mut Cx<'_, '_, '_>,
    rule: Rule,
    state: Value,
    sequences: &[Value],
    steps: &Dim,
) -> Result<(Value, Value), OpError> {
    if steps.as_known() == Some(1) {
        let mut now = vec![];
        for &v in sequences {
            let dims: Vec<Dim> = cx.shape(v)?.into_iter().skip(1).collect();
            now.push(cx.b.reshape(v, &dims)?);
        }
        let (state, y) = token(cx.b, rule, state, &now)?;
        let mut dims = cx.shape(y)?;
        dims.insert(0, Dim::known(1));
        return Ok((cx.b.reshape(y, &dims)?, state));
    }
    let trips = cx.b.dims(std::slice::from_ref(steps))?;
    let trips = cx.b.reshape(trips, &[])?;
    let holds = cx.b.constant(Tensor::from_bools(&[], &[true])?)?;
    let mut operands = vec![trips, holds, state];
    operands.extend(sequences);
    let types: Vec<Type> = operands.iter().map(|&v| cx.b.ty(v).clone()).collect();
    let body = cx.b.subgraph("tokens", &types, &mut |b, inputs| step(b, rule, inputs))?;
    let results = cx.b.add(Control::Loop { body, carried: 1 }.into(), &operands)?;
    match results.as_slice() {
        &[state, y] => Ok((y, state)),
        _ => Err(OpError::invalid("two results were expected")),
    }
}
