//! Recurrent layers.

use kiln_ir::op::{Composite, Direction, RnnActivation, RnnGate};
use kiln_ir::{Build, DType, Dim, Float, Value};

use super::{How, Row, row};
use crate::onnx::cx::{Cx, OpError, Outputs};

use How::Fn;

pub(super) const ROWS: &[Row] = &[
    row("GRU", &[1, 3, 7, 14, 22], Fn(gru)),
    row("LSTM", &[1, 7, 14, 22], Fn(lstm)),
    row("RNN", &[1, 7, 14, 22], Fn(rnn)),
];

/// What the three layers share.
struct Layer {
    hidden: i64,
    direction: Direction,
    gates: Vec<RnnGate>,
    clip: Option<Float>,
    batch_first: bool,
    /// `x`, `w`, `r`, `b`, then the initial states.
    operands: Vec<Value>,
    lengths: Option<Value>,
}

/// A function's name, with the parameters that it has when the file gives none.
fn activation(name: &str) -> Result<(RnnActivation, Option<f64>, Option<f64>), OpError> {
    Ok(match name.to_ascii_lowercase().as_str() {
        "relu" => (RnnActivation::Relu, None, None),
        "tanh" => (RnnActivation::Tanh, None, None),
        "sigmoid" => (RnnActivation::Sigmoid, None, None),
        "affine" => (RnnActivation::Affine, Some(1.0), Some(0.0)),
        "leakyrelu" => (RnnActivation::LeakyRelu, Some(0.01), None),
        "thresholdedrelu" => (RnnActivation::ThresholdedRelu, Some(1.0), None),
        "scaledtanh" => (RnnActivation::ScaledTanh, Some(1.0), Some(1.0)),
        "hardsigmoid" => (RnnActivation::HardSigmoid, Some(0.2), Some(0.5)),
        "elu" => (RnnActivation::Elu, Some(1.0), None),
        "softsign" => (RnnActivation::Softsign, None, None),
        "softplus" => (RnnActivation::Softplus, None, None),
        _ => return Err(OpError::unsupported(format!("activation `{name}`"))),
    })
}

/// The activations of all directions; `activation_alpha` and `_beta` hold values for those that take one, in order.
fn gates(cx: &Cx<'_, '_, '_>, defaults: &[&str], directions: usize) -> Result<Vec<RnnGate>, OpError> {
    let names = match cx.attrs.strings("activations")?.filter(|n| !n.is_empty()) {
        Some(names) => names,
        None => (0..directions).flat_map(|_| defaults.iter().map(|&n| n.to_owned())).collect(),
    };
    // Exporters write one direction's list, or, for RNN, both directions' where there is one.
    let wanted = defaults.len() * directions;
    let names: Vec<String> = match names.len() {
        n if n >= wanted => names.into_iter().take(wanted).collect(),
        n if n == defaults.len() => names.iter().cycle().take(wanted).cloned().collect(),
        n => return Err(OpError::invalid(format!("{n} activations, expected {wanted}"))),
    };
    let mut alphas = cx.attrs.floats("activation_alpha")?.unwrap_or_default().into_iter();
    let mut betas = cx.attrs.floats("activation_beta")?.unwrap_or_default().into_iter();
    let mut gates = vec![];
    for name in names {
        let (kind, alpha, beta) = activation(&name)?;
        let value = |default: Option<f64>, given: &mut dyn Iterator<Item = f64>| {
            Float::new(default.map_or(0.0, |d| given.next().unwrap_or(d)))
        };
        gates.push(RnnGate { kind, alpha: value(alpha, &mut alphas), beta: value(beta, &mut betas) });
    }
    Ok(gates)
}

fn zeros(cx: &mut Cx<'_, '_, '_>, dtype: DType, dims: &[Dim]) -> Result<Value, OpError> {
    let zero = cx.b.scalar(dtype, 0.0)?;
    Ok(cx.b.broadcast(zero, dims)?)
}

/// Reads the common operands: `x`, `w`, `r`, then `b` (3), lengths (4), `states` initial states (5 on).
fn layer(cx: &mut Cx<'_, '_, '_>, defaults: &[&str], biases: i64, states: usize) -> Result<Layer, OpError> {
    let [mut x, w, r] = [cx.input(0)?, cx.input(1)?, cx.input(2)?];
    let direction = match cx.attrs.string_or("direction", "forward")?.as_str() {
        "forward" => Direction::Forward,
        "reverse" => Direction::Reverse,
        "bidirectional" => Direction::Bidirectional,
        other => return Err(OpError::invalid(format!("direction `{other}`"))),
    };
    let directions = if direction == Direction::Bidirectional { 2 } else { 1 };
    let hidden = match cx.attrs.int("hidden_size")? {
        Some(h) => h,
        None => {
            let size = cx.shape(r)?.get(2).and_then(Dim::as_known);
            size.ok_or_else(|| OpError::unsupported("an unknown hidden size"))?
        }
    };
    let batch_first = cx.attrs.flag("layout", false)?;
    // The operator is defined for these ranks only, also where branches leave them open.
    for (v, rank) in [(Some(x), 3), (cx.optional(5), 3), (cx.optional(6), 3)].into_iter().take(1 + states) {
        v.map_or(Ok(()), |v| cx.b.assume_rank(v, rank))?;
    }
    if batch_first {
        x = cx.b.transpose(x, &[1, 0, 2])?;
    }
    let dtype = cx.dtype(x)?;
    let batch = cx.shape(x)?.get(1).cloned().unwrap_or(Dim::known(1));
    let (dirs, h) = (Dim::known(directions as i64), Dim::known(hidden));
    let b = match cx.optional(3) {
        Some(b) => b,
        None => zeros(cx, dtype, &[dirs.clone(), Dim::known(biases) * &h])?,
    };
    let mut operands = vec![x, w, r, b];
    for i in 0..states {
        operands.push(match cx.optional(5 + i) {
            Some(state) if batch_first => cx.b.transpose(state, &[1, 0, 2])?,
            Some(state) => state,
            None => zeros(cx, dtype, &[dirs.clone(), batch.clone(), h.clone()])?,
        });
    }
    let lengths = cx.optional(4).map(|v| cx.b.cast(v, DType::I32)).transpose()?;
    let clip = cx.attrs.float("clip")?.filter(|c| *c > 0.0).map(Float::new);
    let gates = gates(cx, defaults, directions)?;
    Ok(Layer { hidden, direction, gates, clip, batch_first, operands, lengths })
}

/// Adds the layer and brings its results to the layout of the file.
fn finish(
    cx: &mut Cx<'_, '_, '_>,
    op: Composite,
    mut operands: Vec<Value>,
    lengths: Option<Value>,
    batch_first: bool,
) -> Outputs {
    operands.extend(lengths);
    let mut results = cx.b.add(op.into(), &operands)?.to_vec();
    // `[T, dirs, B, H]` to the file's order; before that, it is what ONNX has for `layout` 0.
    for (i, v) in results.iter_mut().enumerate() {
        if batch_first {
            let perm: &[usize] = if i == 0 { &[2, 0, 1, 3] } else { &[1, 0, 2] };
            *v = cx.b.transpose(*v, perm)?;
        }
    }
    Ok(results)
}

fn lstm(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let Layer { hidden, direction, gates, clip, batch_first, mut operands, lengths } =
        layer(cx, &["Sigmoid", "Tanh", "Tanh"], 8, 2)?;
    let directions = if direction == Direction::Bidirectional { 2 } else { 1 };
    let peepholes = match cx.optional(7) {
        Some(p) => p,
        None => {
            let dtype = cx.dtype(cx.input(0)?)?;
            zeros(cx, dtype, &[Dim::known(directions), Dim::known(3) * Dim::known(hidden)])?
        }
    };
    operands.push(peepholes);
    let input_forget = cx.attrs.flag("input_forget", false)?;
    let lengths_given = lengths.is_some();
    let op = Composite::Lstm { hidden, direction, gates, clip, input_forget, lengths: lengths_given };
    finish(cx, op, operands, lengths, batch_first)
}

fn gru(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let Layer { hidden, direction, gates, clip, batch_first, operands, lengths } =
        layer(cx, &["Sigmoid", "Tanh"], 6, 1)?;
    let linear_before_reset = cx.attrs.flag("linear_before_reset", false)?;
    let lengths_given = lengths.is_some();
    let op = Composite::Gru { hidden, direction, gates, clip, linear_before_reset, lengths: lengths_given };
    finish(cx, op, operands, lengths, batch_first)
}

fn rnn(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let Layer { hidden, direction, gates, clip, batch_first, operands, lengths } =
        layer(cx, &["Tanh"], 2, 1)?;
    let op = Composite::Rnn { hidden, direction, gates, clip, lengths: lengths.is_some() };
    finish(cx, op, operands, lengths, batch_first)
}
