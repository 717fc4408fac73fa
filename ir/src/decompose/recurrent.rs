//! Recurrent layers in ONNX semantics: LSTM, GRU, RNN. Short sequences of constant length are unrolled, others loop.
//!
//! The products of the whole sequence with the input weights are one contraction before the steps. A step beyond a
//! sequence's length keeps the state and gives zeros, which in both directions is what processing only the valid
//! steps gives.

use super::{dims, node, scalar_like, widen};
use crate::infer::InferError;
use crate::op::{Composite, Control, Direction, Index, Movement, RnnActivation, RnnGate};
use crate::{Build, DType, Dim, Tensor, Type, Value};

/// Longest sequence that is unrolled.
const MAX_UNROLLED: i64 = 32;

/// What a step computes.
enum Cell {
    Lstm { input_forget: bool },
    Gru { linear_before_reset: bool },
    Rnn,
}

impl Cell {
    /// Row blocks of the weights.
    fn gates(&self) -> i64 {
        match self {
            Cell::Lstm { .. } => 4,
            Cell::Gru { .. } => 3,
            Cell::Rnn => 1,
        }
    }

    /// States: hidden, and the cell's for an LSTM.
    fn states(&self) -> usize {
        match self {
            Cell::Lstm { .. } => 2,
            Cell::Gru { .. } | Cell::Rnn => 1,
        }
    }

    /// Activations of one direction.
    fn activations(&self) -> usize {
        match self {
            Cell::Lstm { .. } => 3,
            Cell::Gru { .. } => 2,
            Cell::Rnn => 1,
        }
    }
}

/// One layer in one direction.
struct Layer<'a> {
    cell: &'a Cell,
    hidden: Dim,
    activations: &'a [RnnGate],
    clip: Option<f64>,
    reverse: bool,
}

/// Values that every step uses.
struct Weights {
    /// `[T, B, gates * H]`: input products with biases.
    inputs: Value,
    /// `[gates * H, H]`.
    recurrent: Value,
    /// LSTM: peepholes `[3H]`. GRU with `linear_before_reset`: the recurrent bias of the hidden gate, `[H]`.
    extra: Option<Value>,
    /// i32 `[B]`.
    lengths: Option<Value>,
}

impl Weights {
    fn captures(&self) -> Vec<Value> {
        let mut all = vec![self.inputs, self.recurrent];
        all.extend(self.extra);
        all.extend(self.lengths);
        all
    }

    /// The same weights under the values that a graph has for the captures.
    fn renamed(&self, captures: &[Value]) -> Result<Weights, InferError> {
        let mut rest = captures.iter().copied();
        let mut next = || rest.next().ok_or_else(|| InferError::new("a loop body misses a capture"));
        Ok(Weights {
            inputs: next()?,
            recurrent: next()?,
            extra: self.extra.map(|_| next()).transpose()?,
            lengths: self.lengths.map(|_| next()).transpose()?,
        })
    }
}

/// What the attributes say, whichever layer it is.
struct Attributes<'a> {
    cell: Cell,
    hidden: i64,
    direction: Direction,
    gates: &'a [RnnGate],
    clip: Option<f64>,
    lengths: bool,
}

fn attributes(op: &Composite) -> Option<Attributes<'_>> {
    Some(match op {
        Composite::Lstm { hidden, direction, gates, clip, input_forget, lengths } => Attributes {
            cell: Cell::Lstm { input_forget: *input_forget },
            hidden: *hidden,
            direction: *direction,
            gates,
            clip: clip.map(|c| c.get()),
            lengths: *lengths,
        },
        Composite::Gru { hidden, direction, gates, clip, linear_before_reset, lengths } => Attributes {
            cell: Cell::Gru { linear_before_reset: *linear_before_reset },
            hidden: *hidden,
            direction: *direction,
            gates,
            clip: clip.map(|c| c.get()),
            lengths: *lengths,
        },
        Composite::Rnn { hidden, direction, gates, clip, lengths } => Attributes {
            cell: Cell::Rnn,
            hidden: *hidden,
            direction: *direction,
            gates,
            clip: clip.map(|c| c.get()),
            lengths: *lengths,
        },
        _ => return None,
    })
}

pub(super) fn recurrent(
    op: &Composite,
    b: &mut dyn Build,
    operands: &[Value],
) -> Result<Vec<Value>, InferError> {
    let a = attributes(op).ok_or_else(|| InferError::new("expected a recurrent layer"))?;
    let reversed: &[bool] = match a.direction {
        Direction::Forward => &[false],
        Direction::Reverse => &[true],
        Direction::Bidirectional => &[false, true],
    };
    let states = a.cell.states();
    let [x, w, r, bias, rest @ ..] = operands else {
        return Err(InferError::new("a recurrent layer misses an operand"));
    };
    let dtype = b.dtype(*x)?;
    let x = widen(b, *x)?;
    let lengths = match rest.last().filter(|_| a.lengths) {
        Some(&lengths) => {
            let shape = [batch(b, x)?];
            Some(b.reshape(lengths, &shape)?)
        }
        None => None,
    };
    let mut parts: Vec<Vec<Value>> = vec![vec![]; 1 + states];
    for (d, &reverse) in reversed.iter().enumerate() {
        let activations = a.gates.get(d * a.cell.activations()..).unwrap_or(&[]);
        let layer = Layer { cell: &a.cell, hidden: Dim::known(a.hidden), activations, clip: a.clip, reverse };
        let of = |b: &mut dyn Build, v: Value| direction_of(b, v, d);
        let (w, r, bias) = (of(b, *w)?, of(b, *r)?, of(b, *bias)?);
        let initial: Vec<Value> =
            rest.iter().take(states).map(|&s| of(b, s)).collect::<Result<_, InferError>>()?;
        let peepholes = match (&a.cell, rest.get(states)) {
            (Cell::Lstm { .. }, Some(&p)) => Some(of(b, p)?),
            _ => None,
        };
        let weights = layer.weights(b, x, w, r, bias, peepholes, lengths)?;
        let initial: Vec<Value> =
            initial.into_iter().map(|s| layer.in_batch(b, s, x)).collect::<Result<_, InferError>>()?;
        for (part, v) in parts.iter_mut().zip(layer.run(b, &weights, &initial)?) {
            part.push(v);
        }
    }
    let mut results = vec![];
    for (i, part) in parts.into_iter().enumerate() {
        // The direction is axis 1 of the sequence and axis 0 of the states.
        let axis = usize::from(i == 0);
        let mut widened = vec![];
        for v in part {
            let mut shape = dims(b, v)?;
            shape.insert(axis, Dim::known(1));
            widened.push(b.reshape(v, &shape)?);
        }
        let joined = b.concat(&widened, axis)?;
        results.push(b.cast(joined, dtype)?);
    }
    Ok(results)
}

/// The batch size of a sequence `[T, B, I]`.
fn batch(b: &mut dyn Build, x: Value) -> Result<Dim, InferError> {
    dims(b, x)?.get(1).cloned().ok_or_else(|| InferError::new("a sequence without a batch axis"))
}

/// Part `d` of the first axis, without the axis, in the dtype that bodies compute in.
fn direction_of(b: &mut dyn Build, v: Value, d: usize) -> Result<Value, InferError> {
    let shape = dims(b, v)?;
    let v = b.slice_axis(v, 0, Dim::known(i64::try_from(d).unwrap_or(0)), Dim::known(1))?;
    let v = b.reshape(v, shape.get(1..).unwrap_or(&[]))?;
    widen(b, v)
}

impl Layer<'_> {
    /// Rows `from .. from + count`, in blocks of the hidden size, along an axis.
    fn block(
        &self,
        b: &mut dyn Build,
        v: Value,
        axis: usize,
        from: i64,
        count: i64,
    ) -> Result<Value, InferError> {
        let of = |n: i64| Dim::known(n) * &self.hidden;
        b.slice_axis(v, axis, of(from), of(count))
    }

    /// A state under the batch size of the sequence `x`: files may name the two differently.
    fn in_batch(&self, b: &mut dyn Build, state: Value, x: Value) -> Result<Value, InferError> {
        let shape = [batch(b, x)?, self.hidden.clone()];
        if dims(b, state)? == shape { Ok(state) } else { b.reshape(state, &shape) }
    }

    #[expect(clippy::too_many_arguments, reason = "the operator's operands")]
    fn weights(
        &self,
        b: &mut dyn Build,
        x: Value,
        w: Value,
        r: Value,
        bias: Value,
        peepholes: Option<Value>,
        lengths: Option<Value>,
    ) -> Result<Weights, InferError> {
        let gates = self.cell.gates();
        let input_bias = self.block(b, bias, 0, 0, gates)?;
        let recurrent_bias = self.block(b, bias, 0, gates, gates)?;
        let separate = matches!(self.cell, Cell::Gru { linear_before_reset: true });
        let (recurrent_bias, extra) = if separate {
            let kept = self.block(b, recurrent_bias, 0, 0, 2)?;
            let hidden = self.block(b, recurrent_bias, 0, 2, 1)?;
            let zero = scalar_like(b, hidden, 0.0)?;
            let zeros = b.broadcast(zero, std::slice::from_ref(&self.hidden))?;
            (b.concat(&[kept, zeros], 0)?, Some(hidden))
        } else {
            (recurrent_bias, peepholes)
        };
        let bias = b.ew("add", &[input_bias, recurrent_bias])?;
        let products = b.einsum("tbi,gi->tbg", x, w)?;
        let inputs = b.ew("add", &[products, bias])?;
        Ok(Weights { inputs, recurrent: r, extra, lengths })
    }

    /// The sequence `[T, B, H]` and the final states `[B, H]`.
    fn run(&self, b: &mut dyn Build, w: &Weights, initial: &[Value]) -> Result<Vec<Value>, InferError> {
        let steps = dims(b, w.inputs)?.first().cloned().unwrap_or(Dim::known(0));
        match steps.as_known() {
            Some(n) if (1..=MAX_UNROLLED).contains(&n) => self.unroll(b, w, initial, n),
            _ => self.repeat(b, w, initial, steps),
        }
    }

    fn unroll(
        &self,
        b: &mut dyn Build,
        w: &Weights,
        initial: &[Value],
        n: i64,
    ) -> Result<Vec<Value>, InferError> {
        let mut states = initial.to_vec();
        let mut outputs = vec![];
        for i in 0..n {
            let t = if self.reverse { n - 1 - i } else { i };
            let x = b.slice_axis(w.inputs, 0, Dim::known(t), Dim::known(1))?;
            let row = dims(b, x)?;
            let x = b.reshape(x, row.get(1..).unwrap_or(&[]))?;
            let at = b.constant(Tensor::scalar(t))?;
            let y = self.step(b, w, x, at, &mut states)?;
            let mut shape = dims(b, y)?;
            shape.insert(0, Dim::known(1));
            outputs.push(b.reshape(y, &shape)?);
        }
        if self.reverse {
            outputs.reverse();
        }
        let mut results = vec![b.concat(&outputs, 0)?];
        results.extend(states);
        Ok(results)
    }

    fn repeat(
        &self,
        b: &mut dyn Build,
        w: &Weights,
        initial: &[Value],
        steps: Dim,
    ) -> Result<Vec<Value>, InferError> {
        let captures = w.captures();
        let trips = b.dims(std::slice::from_ref(&steps))?;
        let trips = b.reshape(trips, &[])?;
        let holds =
            b.constant(Tensor::from_bools(&[], &[true]).map_err(|e| InferError::new(e.to_string()))?)?;
        let last = b.dims(&[&steps - &Dim::known(1)])?;
        let last = b.reshape(last, &[])?;
        let mut operands = vec![trips, holds];
        operands.extend(initial);
        operands.push(last);
        operands.extend(&captures);
        let types: Vec<Type> = operands.iter().map(|&v| b.ty(v).clone()).collect();
        let carried = initial.len();
        let body = b.subgraph("steps", &types, &mut |b, inputs| self.body(b, w, inputs, carried))?;
        let results = b.add(Control::Loop { body, carried }.into(), &operands)?;
        let Some((&sequence, states)) = results.split_last() else {
            return Err(InferError::new("a loop without results"));
        };
        let sequence = if self.reverse { reversed(b, sequence, &steps)? } else { sequence };
        let mut all = vec![sequence];
        all.extend(states);
        Ok(all)
    }

    /// The body of the loop: takes number, condition, states, the last position, and the captures.
    fn body(
        &self,
        b: &mut dyn Build,
        w: &Weights,
        inputs: &[Value],
        carried: usize,
    ) -> Result<Vec<Value>, InferError> {
        let [number, condition, rest @ ..] = inputs else {
            return Err(InferError::new("a loop body misses an input"));
        };
        let Some((states, [last, captures @ ..])) = rest.split_at_checked(carried) else {
            return Err(InferError::new("a loop body misses a state"));
        };
        let w = w.renamed(captures)?;
        let t = if self.reverse { b.ew("sub", &[*last, *number])? } else { *number };
        let x = node(b, Index::Gather { axis: 0 }, &[w.inputs, t])?;
        let mut states = states.to_vec();
        let y = self.step(b, &w, x, t, &mut states)?;
        let mut outputs = vec![*condition];
        outputs.extend(states);
        outputs.push(y);
        Ok(outputs)
    }

    /// One step at position `t` over the input products `[B, gates * H]`; gives the output and advances the states.
    fn step(
        &self,
        b: &mut dyn Build,
        w: &Weights,
        x: Value,
        t: Value,
        states: &mut Vec<Value>,
    ) -> Result<Value, InferError> {
        let new = match (self.cell, states.as_slice()) {
            (Cell::Lstm { input_forget }, &[h, c]) => self.lstm(b, w, x, h, c, *input_forget)?,
            (Cell::Gru { linear_before_reset }, &[h]) => {
                vec![self.gru(b, w, x, h, *linear_before_reset)?]
            }
            (Cell::Rnn, &[h]) => {
                let gates = self.with_recurrent(b, x, h, w.recurrent)?;
                vec![self.activate(b, 0, gates)?]
            }
            _ => return Err(InferError::new("a recurrent layer has another number of states")),
        };
        let Some(&h) = new.first() else { return Err(InferError::new("a step without a state")) };
        let Some(lengths) = w.lengths else {
            *states = new;
            return Ok(h);
        };
        let t = b.cast(t, DType::I32)?;
        let valid = b.ew("lt", &[t, lengths])?;
        let mut column = dims(b, valid)?;
        column.push(Dim::known(1));
        let valid = b.reshape(valid, &column)?;
        for (state, v) in states.iter_mut().zip(new) {
            *state = b.ew("where", &[valid, v, *state])?;
        }
        let zero = scalar_like(b, h, 0.0)?;
        b.ew("where", &[valid, h, zero])
    }

    /// `x + h R^T`.
    fn with_recurrent(&self, b: &mut dyn Build, x: Value, h: Value, r: Value) -> Result<Value, InferError> {
        let product = b.einsum("bh,gh->bg", h, r)?;
        b.ew("add", &[x, product])
    }

    fn lstm(
        &self,
        b: &mut dyn Build,
        w: &Weights,
        x: Value,
        h: Value,
        c: Value,
        input_forget: bool,
    ) -> Result<Vec<Value>, InferError> {
        let gates = self.with_recurrent(b, x, h, w.recurrent)?;
        let gate = |b: &mut dyn Build, i: i64| self.block(b, gates, 1, i, 1);
        // Peepholes stand in the order input, output, forget.
        let peep = |b: &mut dyn Build, v: Value, i: i64, cell: Value| match w.extra {
            Some(p) => {
                let p = self.block(b, p, 0, i, 1)?;
                let term = b.ew("mul", &[p, cell])?;
                b.ew("add", &[v, term])
            }
            None => Ok(v),
        };
        let i = gate(b, 0)?;
        let i = peep(b, i, 0, c)?;
        let i = self.activate(b, 0, i)?;
        let f = if input_forget {
            let one = scalar_like(b, i, 1.0)?;
            b.ew("sub", &[one, i])?
        } else {
            let f = gate(b, 2)?;
            let f = peep(b, f, 2, c)?;
            self.activate(b, 0, f)?
        };
        let candidate = gate(b, 3)?;
        let candidate = self.activate(b, 1, candidate)?;
        let kept = b.ew("mul", &[f, c])?;
        let added = b.ew("mul", &[i, candidate])?;
        let cell = b.ew("add", &[kept, added])?;
        let o = gate(b, 1)?;
        let o = peep(b, o, 1, cell)?;
        let o = self.activate(b, 0, o)?;
        let shown = self.activate_unclipped(b, 2, cell)?;
        Ok(vec![b.ew("mul", &[o, shown])?, cell])
    }

    fn gru(
        &self,
        b: &mut dyn Build,
        w: &Weights,
        x: Value,
        h: Value,
        linear_before_reset: bool,
    ) -> Result<Value, InferError> {
        let gates_weight = self.block(b, w.recurrent, 0, 0, 2)?;
        let hidden_weight = self.block(b, w.recurrent, 0, 2, 1)?;
        let gates_input = self.block(b, x, 1, 0, 2)?;
        let hidden_input = self.block(b, x, 1, 2, 1)?;
        let gates = self.with_recurrent(b, gates_input, h, gates_weight)?;
        let gates = self.activate(b, 0, gates)?;
        let (z, r) = (self.block(b, gates, 1, 0, 1)?, self.block(b, gates, 1, 1, 1)?);
        let candidate = if linear_before_reset {
            let mut product = b.einsum("bh,gh->bg", h, hidden_weight)?;
            if let Some(bias) = w.extra {
                product = b.ew("add", &[product, bias])?;
            }
            let reset = b.ew("mul", &[r, product])?;
            b.ew("add", &[hidden_input, reset])?
        } else {
            let reset = b.ew("mul", &[r, h])?;
            self.with_recurrent(b, hidden_input, reset, hidden_weight)?
        };
        let candidate = self.activate(b, 1, candidate)?;
        let one = scalar_like(b, z, 1.0)?;
        let open = b.ew("sub", &[one, z])?;
        let new = b.ew("mul", &[open, candidate])?;
        let old = b.ew("mul", &[z, h])?;
        b.ew("add", &[new, old])
    }

    /// Activation `which` over the clipped value.
    fn activate(&self, b: &mut dyn Build, which: usize, v: Value) -> Result<Value, InferError> {
        let v = match self.clip {
            Some(limit) => {
                let (low, high) = (scalar_like(b, v, -limit)?, scalar_like(b, v, limit)?);
                b.ew("clamp", &[v, low, high])?
            }
            None => v,
        };
        self.activate_unclipped(b, which, v)
    }

    fn activate_unclipped(&self, b: &mut dyn Build, which: usize, v: Value) -> Result<Value, InferError> {
        let gate = self.activations.get(which);
        activation(b, gate.ok_or_else(|| InferError::new("an activation is missing"))?, v)
    }
}

fn activation(b: &mut dyn Build, gate: &RnnGate, v: Value) -> Result<Value, InferError> {
    let (alpha, beta) = (gate.alpha.get(), gate.beta.get());
    match gate.kind {
        RnnActivation::Relu => b.ew("relu", &[v]),
        RnnActivation::Tanh => b.ew("tanh", &[v]),
        RnnActivation::Sigmoid => b.ew("sigmoid", &[v]),
        RnnActivation::Softsign => b.ew("softsign", &[v]),
        RnnActivation::Softplus => b.ew("softplus", &[v]),
        RnnActivation::LeakyRelu => b.ew_with("leaky_relu", &[alpha], &[v]),
        RnnActivation::ThresholdedRelu => b.ew_with("thresholded_relu", &[alpha], &[v]),
        RnnActivation::HardSigmoid => b.ew_with("hard_sigmoid", &[alpha, beta], &[v]),
        RnnActivation::Elu => b.ew_with("elu", &[alpha], &[v]),
        RnnActivation::Affine => {
            let scaled = super::with_scalar(b, "mul", v, alpha)?;
            super::with_scalar(b, "add", scaled, beta)
        }
        RnnActivation::ScaledTanh => {
            let scaled = super::with_scalar(b, "mul", v, beta)?;
            let t = b.ew("tanh", &[scaled])?;
            super::with_scalar(b, "mul", t, alpha)
        }
    }
}

/// The first axis in reverse order.
fn reversed(b: &mut dyn Build, v: Value, len: &Dim) -> Result<Value, InferError> {
    let sizes = dims(b, v)?;
    let mut starts = vec![Dim::known(0); sizes.len()];
    let mut steps = vec![1; sizes.len()];
    if let (Some(start), Some(step)) = (starts.first_mut(), steps.first_mut()) {
        (*start, *step) = (len - &Dim::known(1), -1);
    }
    node(b, Movement::Slice { starts, sizes, steps }, &[v])
}
