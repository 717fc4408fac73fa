//! Recurrent layers of quantized weights, whose operands are quantized step by step.

use kiln_ir::op::{Composite, Contract, Control, Index, ReduceKind};
use kiln_ir::{Build, DType, Dim, InferError, Tensor, Type, Value};

use super::super::{MICROSOFT, Row, row_of};
use super::{at, plus};
use crate::onnx::cx::{Cx, OpError, Outputs};

pub(in super::super) const ROWS: &[Row] = &[row_of(MICROSOFT, "DynamicQuantizeLSTM", lstm)];

/// Row blocks of the weights: input, output and forget gate, candidate.
const GATES: i64 = 4;

/// A row of graph IR's elementwise table with its attributes.
#[derive(Clone)]
struct Function {
    row: &'static str,
    attrs: Vec<f64>,
}

impl Function {
    /// The function of a name, with the next of the given parameters.
    fn read(
        name: &str,
        alphas: &mut dyn Iterator<Item = f64>,
        betas: &mut dyn Iterator<Item = f64>,
    ) -> Result<Self, OpError> {
        let (row, attrs) = match name.to_ascii_lowercase().as_str() {
            "sigmoid" => ("sigmoid", vec![]),
            "tanh" => ("tanh", vec![]),
            "relu" => ("relu", vec![]),
            "softsign" => ("softsign", vec![]),
            "softplus" => ("softplus", vec![]),
            "leakyrelu" => ("leaky_relu", vec![alphas.next().unwrap_or(0.01)]),
            "elu" => ("elu", vec![alphas.next().unwrap_or(1.0)]),
            "hardsigmoid" => {
                ("hard_sigmoid", vec![alphas.next().unwrap_or(0.2), betas.next().unwrap_or(0.5)])
            }
            _ => return Err(OpError::unsupported(format!("activation `{name}`"))),
        };
        Ok(Function { row, attrs })
    }

    fn apply(&self, b: &mut dyn Build, v: Value) -> Result<Value, InferError> {
        b.ew_with(self.row, &self.attrs, &[v])
    }
}

/// One direction of a layer.
struct Layer {
    hidden: Dim,
    functions: Vec<Function>,
    clip: Option<f64>,
    input_forget: bool,
    peepholes: bool,
    lengths: bool,
}

/// What a step takes from outside: `[T, B, 4H]` products of the input with biases, recurrent weights `[H, 4H]` less their
/// zero point, their scales, then peepholes `[3H]` and i64 lengths `[B, 1]` where there are any.
struct Outside(Vec<Value>);

fn node(b: &mut dyn Build, op: impl Into<kiln_ir::Op>, operands: &[Value]) -> Result<Value, InferError> {
    let results = b.add(op.into(), operands)?;
    results.first().copied().ok_or_else(|| InferError::new("an operator without a result"))
}

/// The product of floats, quantized here, with integers less their zero point, scaled back.
fn product(
    b: &mut dyn Build,
    spec: &str,
    x: Value,
    weights: Value,
    scale: Value,
) -> Result<Value, InferError> {
    let parts = b.add(Composite::DynamicQuantize {}.into(), &[x])?;
    let &[value, x_scale, zero] = parts.as_slice() else {
        return Err(InferError::new("three results were expected"));
    };
    let (value, zero) = (b.cast(value, DType::I32)?, b.cast(zero, DType::I32)?);
    let centred = b.ew("sub", &[value, zero])?;
    let spec = spec.parse().map_err(InferError::new)?;
    let sums = node(b, Contract::Einsum { spec, out: DType::I32 }, &[centred, weights])?;
    let sums = b.cast(sums, DType::F32)?;
    let scale = b.ew("mul", &[x_scale, scale])?;
    b.ew("mul", &[sums, scale])
}

impl Layer {
    /// Block `i` of the last axis.
    fn block(&self, b: &mut dyn Build, v: Value, i: i64) -> Result<Value, InferError> {
        let axis = b.rank(v)?.saturating_sub(1);
        b.slice_axis(v, axis, Dim::known(i) * &self.hidden, self.hidden.clone())
    }

    /// A gate: the activation of block `i` of the sums, with the cell's state where it peeps.
    fn gate(
        &self,
        b: &mut dyn Build,
        sums: Value,
        i: i64,
        function: usize,
        peep: Option<(Value, i64, Value)>,
    ) -> Result<Value, InferError> {
        let mut v = self.block(b, sums, i)?;
        if let Some((weights, at, cell)) = peep {
            let weights = self.block(b, weights, at)?;
            let seen = b.ew("mul", &[weights, cell])?;
            v = b.ew("add", &[v, seen])?;
        }
        if let Some(clip) = self.clip {
            let (low, high) = (b.scalar(DType::F32, -clip)?, b.scalar(DType::F32, clip)?);
            v = b.ew("clamp", &[v, low, high])?;
        }
        match self.functions.get(function) {
            Some(function) => function.apply(b, v),
            None => Err(InferError::new("an activation is missing")),
        }
    }

    /// The body of the loop: number, condition, hidden and cell state, both as they were where a sequence ended, then what
    /// comes from outside.
    fn step(&self, b: &mut dyn Build, operands: &[Value]) -> Result<Vec<Value>, InferError> {
        let &[number, go_on, hidden, cell, ended_hidden, ended_cell, inputs, weights, scale, ref rest @ ..] =
            operands
        else {
            return Err(InferError::new("a loop body misses an operand"));
        };
        let x = node(b, Index::Gather { axis: 0 }, &[inputs, number])?;
        let sums = product(b, "bk,kg->bg", hidden, weights, scale)?;
        let sums = b.ew("add", &[x, sums])?;
        let peepholes = rest.first().copied().filter(|_| self.peepholes);
        let peep = |at: i64, cell: Value| peepholes.map(|p| (p, at, cell));
        let input = self.gate(b, sums, 0, 0, peep(0, cell))?;
        let forget = if self.input_forget {
            let unit = b.scalar(DType::F32, 1.0)?;
            b.ew("sub", &[unit, input])?
        } else {
            self.gate(b, sums, 2, 0, peep(2, cell))?
        };
        let candidate = self.gate(b, sums, 3, 1, None)?;
        let (kept, added) = (b.ew("mul", &[forget, cell])?, b.ew("mul", &[input, candidate])?);
        let new_cell = b.ew("add", &[kept, added])?;
        let output = self.gate(b, sums, 1, 0, peep(1, new_cell))?;
        let shown = match self.functions.get(2) {
            Some(function) => function.apply(b, new_cell)?,
            None => return Err(InferError::new("an activation is missing")),
        };
        let new_hidden = b.ew("mul", &[output, shown])?;
        let Some(&lengths) = rest.last().filter(|_| self.lengths) else {
            return Ok(vec![go_on, new_hidden, new_cell, new_hidden, new_cell, new_hidden]);
        };
        // Steps beyond a sequence's end do not show; they are made all the same, for their states are in the range that
        // the states of all sequences are quantized by.
        let inside = b.ew("lt", &[number, lengths])?;
        let zero = b.scalar(DType::F32, 0.0)?;
        let y = b.ew("where", &[inside, new_hidden, zero])?;
        let ended_hidden = b.ew("where", &[inside, new_hidden, ended_hidden])?;
        let ended_cell = b.ew("where", &[inside, new_cell, ended_cell])?;
        Ok(vec![go_on, new_hidden, new_cell, ended_hidden, ended_cell, y])
    }

    /// The sequence `[T, B, H]` and the last states.
    fn run(
        &self,
        cx: &mut Cx<'_, '_, '_>,
        steps: &Dim,
        states: [Value; 2],
        outside: &Outside,
    ) -> Result<[Value; 3], OpError> {
        let trips = cx.b.dims(std::slice::from_ref(steps))?;
        let trips = cx.b.reshape(trips, &[])?;
        let holds = cx.b.constant(Tensor::from_bools(&[], &[true])?)?;
        let mut operands = vec![trips, holds, states[0], states[1], states[0], states[1]];
        operands.extend(&outside.0);
        let types: Vec<Type> = operands.iter().map(|&v| cx.b.ty(v).clone()).collect();
        let body = cx.b.subgraph("steps", &types, &mut |b, inputs| self.step(b, inputs))?;
        let results = cx.b.add(Control::Loop { body, carried: 4 }.into(), &operands)?;
        match results.as_slice() {
            &[_, _, hidden, cell, sequence] => Ok([sequence, hidden, cell]),
            _ => Err(OpError::invalid("five results were expected")),
        }
    }
}

/// Each sequence of `[T, B, ...]` backwards, within its length; what lies beyond stays.
fn backwards(cx: &mut Cx<'_, '_, '_>, v: Value, lengths: Option<Value>) -> Result<Value, OpError> {
    let dims = cx.shape(v)?;
    let step = super::super::index::coordinate(cx, &at(&dims, 0), 0, 3)?;
    let unit = Dim::known(1);
    let end = match lengths {
        Some(lengths) => cx.b.reshape(lengths, &[unit.clone(), at(&dims, 1), unit])?,
        None => cx.b.dims(&[at(&dims, 0)])?,
    };
    let one = cx.b.constant(Tensor::scalar(1i64))?;
    let back = cx.b.ew("sub", &[end, step])?;
    let back = cx.b.ew("sub", &[back, one])?;
    let inside = cx.b.ew("lt", &[step, end])?;
    let places = cx.b.ew("where", &[inside, back, step])?;
    let places = cx.b.broadcast(places, &dims)?;
    Ok(cx.b.add1(Index::GatherElements { axis: 0 }, &[v, places])?)
}

/// The input without what lies beyond the end of the longest sequence.
fn within(cx: &mut Cx<'_, '_, '_>, x: Value, lengths: Option<Value>) -> Result<Value, OpError> {
    let Some(lengths) = lengths else { return Ok(x) };
    let step = super::super::index::coordinate(cx, &at(&cx.shape(x)?, 0), 0, 3)?;
    let longest = cx.b.reduce(ReduceKind::Max, lengths, &[0, 1], false)?;
    let inside = cx.b.ew("lt", &[step, longest])?;
    let zero = cx.b.scalar(DType::F32, 0.0)?;
    Ok(cx.b.ew("where", &[inside, x, zero])?)
}

/// Entry `d` of the first axis, without the axis.
fn of_direction(cx: &mut Cx<'_, '_, '_>, v: Value, d: i64) -> Result<Value, OpError> {
    let part = cx.b.slice_axis(v, 0, Dim::known(d), Dim::known(1))?;
    let dims: Vec<Dim> = cx.shape(part)?.into_iter().skip(1).collect();
    Ok(cx.b.reshape(part, &dims)?)
}

/// Weights of a direction less their zero point, and their scale: operands `weights`, `scale` and `scale + 1`.
fn weights(cx: &mut Cx<'_, '_, '_>, weights: usize, scale: usize, d: i64) -> Result<(Value, Value), OpError> {
    let (w, s, z) = (cx.input(weights)?, cx.input(scale)?, cx.input(scale + 1)?);
    let (w, s, z) = (of_direction(cx, w, d)?, of_direction(cx, s, d)?, of_direction(cx, z, d)?);
    let (w, z) = (cx.b.cast(w, DType::I32)?, cx.b.cast(z, DType::I32)?);
    Ok((cx.b.ew("sub", &[w, z])?, s))
}

/// The activations of both directions, three each.
fn functions(cx: &Cx<'_, '_, '_>, directions: usize) -> Result<Vec<Function>, OpError> {
    let defaults = || ["Sigmoid", "Tanh", "Tanh"].repeat(directions).into_iter().map(str::to_owned).collect();
    let names = cx.attrs.strings("activations")?.filter(|n| !n.is_empty());
    let names: Vec<String> = names.unwrap_or_else(defaults);
    if names.len() != 3 * directions {
        return Err(OpError::invalid(format!("{} activations, expected {}", names.len(), 3 * directions)));
    }
    let mut alphas = cx.attrs.floats("activation_alpha")?.unwrap_or_default().into_iter();
    let mut betas = cx.attrs.floats("activation_beta")?.unwrap_or_default().into_iter();
    names.iter().map(|name| Function::read(name, &mut alphas, &mut betas)).collect()
}

/// What one direction takes from outside of its steps.
fn outside(
    cx: &mut Cx<'_, '_, '_>,
    x: Value,
    d: i64,
    hidden: &Dim,
    lengths: Option<Value>,
) -> Result<Outside, OpError> {
    let (w, w_scale) = weights(cx, 1, 8, d)?;
    let (r, r_scale) = weights(cx, 2, 10, d)?;
    let mut inputs = product(cx.b, "tbk,kg->tbg", x, w, w_scale)?;
    if let Some(bias) = cx.optional(3) {
        let bias = of_direction(cx, bias, d)?;
        for half in 0..2 {
            let size = Dim::known(GATES) * hidden;
            let part = cx.b.slice_axis(bias, 0, Dim::known(half) * &size, size)?;
            inputs = plus(cx, inputs, Some(part))?;
        }
    }
    let mut all = vec![inputs, r, r_scale];
    if let Some(peepholes) = cx.optional(7) {
        all.push(of_direction(cx, peepholes, d)?);
    }
    all.extend(lengths);
    Ok(Outside(all))
}

/// Operands x, w, r, b, lengths, h0, c0, peepholes, then scale and zero point of w and of r.
fn lstm(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let dims = cx.shape(x)?;
    let (steps, batch) = (at(&dims, 0), at(&dims, 1));
    let hidden = Dim::known(super::attention::heads(cx, "hidden_size")?);
    let reversed: &[bool] = match cx.attrs.string_or("direction", "forward")?.as_str() {
        "forward" => &[false],
        "reverse" => &[true],
        "bidirectional" => &[false, true],
        other => return Err(OpError::invalid(format!("direction `{other}`"))),
    };
    let functions = functions(cx, reversed.len())?;
    let clip = cx.attrs.float("clip")?.filter(|&c| c > 0.0);
    let input_forget = cx.attrs.flag("input_forget", false)?;
    let lengths = match cx.optional(4) {
        Some(v) => {
            let v = cx.b.cast(v, DType::I64)?;
            Some(cx.b.reshape(v, &[batch.clone(), Dim::known(1)])?)
        }
        None => None,
    };
    let x = within(cx, x, lengths)?;
    let mut parts: [Vec<Value>; 3] = Default::default();
    for (d, &reverse) in (0..).zip(reversed) {
        let own: Vec<Function> = functions.iter().skip(3 * d as usize).take(3).cloned().collect();
        let (peepholes, given) = (cx.optional(7).is_some(), lengths.is_some());
        let hidden_size = hidden.clone();
        let layer =
            Layer { hidden: hidden_size, functions: own, clip, input_forget, peepholes, lengths: given };
        let mut states = vec![];
        for i in [5, 6] {
            states.push(match cx.optional(i) {
                Some(state) => of_direction(cx, state, d)?,
                None => {
                    let zero = cx.b.scalar(DType::F32, 0.0)?;
                    cx.b.broadcast(zero, &[batch.clone(), hidden.clone()])?
                }
            });
        }
        let states = <[Value; 2]>::try_from(states).map_err(|_| OpError::invalid("there are two states"))?;
        let own = if reverse { backwards(cx, x, lengths)? } else { x };
        let outside = outside(cx, own, d, &hidden, lengths)?;
        let mut results = layer.run(cx, &steps, states, &outside)?;
        if reverse {
            results[0] = backwards(cx, results[0], lengths)?;
        }
        for (part, v) in parts.iter_mut().zip(results) {
            part.push(v);
        }
    }
    let mut results = vec![];
    for (i, part) in parts.into_iter().enumerate() {
        // The direction is axis 1 of the sequence and axis 0 of the states.
        let axis = usize::from(i == 0);
        let mut apart = vec![];
        for v in part {
            let mut dims = cx.shape(v)?;
            dims.insert(axis, Dim::known(1));
            apart.push(cx.b.reshape(v, &dims)?);
        }
        results.push(cx.b.concat(&apart, axis)?);
    }
    Ok(results)
}
