//! Recurrent layers and cells.

use kiln_ir::op::{Composite, Direction, RnnActivation, RnnGate};
use kiln_ir::{Build, DType, Dim, Float, Value};

use super::cx::{Cx, many, one};
use super::linear::dense;
use super::packed::{self, Padded};
use super::{Arg, How, Results, Row, row};
use crate::error::OpError;

use How::Fn;

#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    row("aten::gru", Fn(|cx| layers(cx, Kind::Gru))),
    row("aten::gru_cell", Fn(gru_cell)),
    row("aten::lstm", Fn(|cx| layers(cx, Kind::Lstm))),
    row("aten::lstm_cell", Fn(lstm_cell)),
    row("aten::rnn_relu", Fn(|cx| layers(cx, Kind::Rnn(RnnActivation::Relu)))),
    row("aten::rnn_relu_cell", Fn(|cx| rnn_cell(cx, "relu"))),
    row("aten::rnn_tanh", Fn(|cx| layers(cx, Kind::Rnn(RnnActivation::Tanh)))),
    row("aten::rnn_tanh_cell", Fn(|cx| rnn_cell(cx, "tanh"))),
];

#[derive(Clone, Copy)]
enum Kind {
    Lstm,
    Gru,
    Rnn(RnnActivation),
}

impl Kind {
    /// Rows of the composite's weights as blocks of PyTorch's: input, forget, cell, output become input, output, forget,
    /// cell; reset, update, new become update, reset, new.
    fn order(self) -> &'static [i64] {
        match self {
            Kind::Lstm => &[0, 3, 1, 2],
            Kind::Gru => &[1, 0, 2],
            Kind::Rnn(_) => &[0],
        }
    }

    fn gates(self, directions: usize) -> Vec<RnnGate> {
        let one = match self {
            Kind::Lstm => vec![RnnActivation::Sigmoid, RnnActivation::Tanh, RnnActivation::Tanh],
            Kind::Gru => vec![RnnActivation::Sigmoid, RnnActivation::Tanh],
            Kind::Rnn(activation) => vec![activation],
        };
        let zero = Float::new(0.0);
        let gate = |&kind: &RnnActivation| RnnGate { kind, alpha: zero, beta: zero };
        (0..directions).flat_map(|_| one.iter().map(gate).collect::<Vec<_>>()).collect()
    }
}

/// Blocks of rows in another order.
fn reordered(cx: &mut Cx<'_, '_>, v: Value, order: &[i64], hidden: i64) -> Result<Value, OpError> {
    if order.len() == 1 {
        return Ok(v);
    }
    let parts = order
        .iter()
        .map(|&i| cx.b.slice_axis(v, 0, Dim::known(i.saturating_mul(hidden)), Dim::known(hidden)));
    let parts = parts.collect::<Result<Vec<_>, _>>()?;
    Ok(cx.b.concat(&parts, 0)?)
}

/// Tensors of the directions one above the other on a new first axis.
fn directions_of(cx: &mut Cx<'_, '_>, parts: &[Value]) -> Result<Value, OpError> {
    let mut rows = vec![];
    for &v in parts {
        let mut shape = cx.shape(v)?;
        shape.insert(0, Dim::known(1));
        rows.push(cx.b.reshape(v, &shape)?);
    }
    Ok(cx.b.concat(&rows, 0)?)
}

/// Weights of one layer: `w`, `r`, `b` with an axis of directions.
fn weights(
    cx: &mut Cx<'_, '_>,
    kind: Kind,
    params: &[Value],
    has_biases: bool,
    hidden: i64,
) -> Result<[Value; 3], OpError> {
    let (mut w, mut r, mut b) = (vec![], vec![], vec![]);
    let count = if has_biases { 4 } else { 2 };
    for own in params.chunks(count) {
        let (Some(&wi), Some(&wh)) = (own.first(), own.get(1)) else { continue };
        w.push(reordered(cx, wi, kind.order(), hidden)?);
        r.push(reordered(cx, wh, kind.order(), hidden)?);
        b.push(match (own.get(2), own.get(3)) {
            (Some(&bi), Some(&bh)) => {
                let (bi, bh) =
                    (reordered(cx, bi, kind.order(), hidden)?, reordered(cx, bh, kind.order(), hidden)?);
                cx.b.concat(&[bi, bh], 0)?
            }
            _ => {
                let dtype = cx.dtype(wi)?;
                let rows = hidden.saturating_mul(2 * kind.order().len() as i64);
                cx.filled(dtype, 0.0, &[Dim::known(rows)])?
            }
        });
    }
    Ok([directions_of(cx, &w)?, directions_of(cx, &r)?, directions_of(cx, &b)?])
}

/// All layers of a recurrent network, each over the results of the one before.
fn layers(cx: &mut Cx<'_, '_>, kind: Kind) -> Results {
    let hx = match kind {
        Kind::Lstm => cx.tensors("hx")?,
        Kind::Gru | Kind::Rnn(_) => vec![cx.tensor("hx")?],
    };
    let sequences = match cx.overload() {
        "data" => Some(unpacked(cx, &hx)?),
        _ => None,
    };
    let mut x = match &sequences {
        Some(sequences) => sequences.values,
        None => cx.tensor("input")?,
    };
    let (has_biases, bidirectional) = (cx.flag("has_biases")?, cx.flag("bidirectional")?);
    let (count, batch_first) = (cx.int("num_layers")?, cx.flag("batch_first")?);
    if cx.flag("train")? && cx.float("dropout")? > 0.0 {
        return Err(OpError::unsupported("dropout in training mode"));
    }
    let params = cx.tensors("params")?;
    let directions = if bidirectional { 2 } else { 1 };
    let layer_size = directions * if has_biases { 4 } else { 2 };
    let count = usize::try_from(count).ok().filter(|&n| n.checked_mul(layer_size) == Some(params.len()));
    let count = count.ok_or_else(|| OpError::unsupported("projections, or a wrong number of weights"))?;
    let single = sequences.is_none() && cx.rank(x)? == 2;
    let mut states = vec![];
    for v in hx {
        let mut shape = cx.shape(v)?;
        if single {
            shape.insert(1.min(shape.len()), Dim::known(1));
        }
        states.push(cx.b.reshape(v, &shape)?);
    }
    if single {
        let mut shape = cx.shape(x)?;
        shape.insert(1, Dim::known(1));
        x = cx.b.reshape(x, &shape)?;
    } else if batch_first {
        x = cx.b.transpose(x, &[1, 0, 2])?;
    }
    let lengths = sequences.as_ref().map(|s| cx.b.cast(s.lengths, DType::I32)).transpose()?;
    let network = Network { kind, has_biases, bidirectional, lengths };
    let mut finals: Vec<Vec<Value>> = vec![vec![]; states.len()];
    for (i, own) in params.chunks(layer_size).take(count).enumerate() {
        let start = Dim::known((i * directions) as i64);
        let mut initial = vec![];
        for &v in &states {
            initial.push(cx.b.slice_axis(v, 0, start.clone(), Dim::known(directions as i64))?);
        }
        let (y, last) = layer(cx, network, x, own, &initial)?;
        x = y;
        finals.iter_mut().zip(last).for_each(|(list, v)| list.push(v));
    }
    let mut results = vec![];
    if let Some(sequences) = sequences {
        results.push(packed::packed(cx, x, sequences.mask)?);
    } else if single {
        let mut shape = cx.shape(x)?;
        shape.remove(1);
        results.push(cx.b.reshape(x, &shape)?);
    } else {
        results.push(if batch_first { cx.b.transpose(x, &[1, 0, 2])? } else { x });
    }
    for list in finals {
        let v = cx.b.concat(&list, 0)?;
        let mut shape = cx.shape(v)?;
        if single {
            shape.remove(1);
        }
        results.push(cx.b.reshape(v, &shape)?);
    }
    many(results)
}

/// Packed sequences as a rectangle; how many there are the states tell.
fn unpacked(cx: &mut Cx<'_, '_>, hx: &[Value]) -> Result<Padded, OpError> {
    let (data, batch_sizes) = (cx.tensor("data")?, cx.tensor("batch_sizes")?);
    let state = hx.first().copied().ok_or_else(|| OpError::invalid("no initial state"))?;
    let batch =
        cx.shape(state)?.get(1).cloned().ok_or_else(|| OpError::invalid("a state of too few axes"))?;
    packed::padded(cx, (data, batch_sizes), &batch, 0.0)
}

/// What all layers of a network have in common.
#[derive(Clone, Copy)]
struct Network {
    kind: Kind,
    has_biases: bool,
    bidirectional: bool,
    /// Lengths of the sequences, if they differ.
    lengths: Option<Value>,
}

/// One layer: `[T, B, I]` to `[T, B, directions * H]`, and the last states.
fn layer(
    cx: &mut Cx<'_, '_>,
    network: Network,
    x: Value,
    params: &[Value],
    initial: &[Value],
) -> Result<(Value, Vec<Value>), OpError> {
    let Network { kind, has_biases, bidirectional, lengths: given } = network;
    let hidden = initial.first().and_then(|&v| cx.b.shape(v).ok()?.last()?.as_known());
    let hidden = hidden.ok_or_else(|| OpError::unsupported("an unknown hidden size"))?;
    let directions = if bidirectional { 2 } else { 1 };
    let [w, r, b] = weights(cx, kind, params, has_biases, hidden)?;
    let direction = if bidirectional { Direction::Bidirectional } else { Direction::Forward };
    let gates = kind.gates(directions);
    let mut operands = vec![x, w, r, b];
    operands.extend(initial);
    let (clip, lengths) = (None, given.is_some());
    let op = match kind {
        Kind::Lstm => {
            let dtype = cx.dtype(x)?;
            let shape = [Dim::known(directions as i64), Dim::known(hidden.saturating_mul(3))];
            operands.push(cx.filled(dtype, 0.0, &shape)?);
            Composite::Lstm { hidden, direction, gates, clip, input_forget: false, lengths }
        }
        Kind::Gru => Composite::Gru { hidden, direction, gates, clip, linear_before_reset: true, lengths },
        Kind::Rnn(_) => Composite::Rnn { hidden, direction, gates, clip, lengths },
    };
    operands.extend(given);
    let results = cx.b.add(op.into(), &operands)?;
    let (y, last) = results.split_first().ok_or_else(|| OpError::invalid("a layer without results"))?;
    let shape = cx.shape(*y)?;
    let [t, dirs, batch, h] = shape.as_slice() else { return Err(OpError::invalid("a layer's result")) };
    let joint = [t.clone(), batch.clone(), dirs * h];
    let moved = cx.b.transpose(*y, &[0, 2, 1, 3])?;
    Ok((cx.b.reshape(moved, &joint)?, last.to_vec()))
}

/// The two products of a cell, cut in blocks.
fn products(cx: &mut Cx<'_, '_>, h: Value, blocks: i64) -> Result<[Vec<Value>; 2], OpError> {
    let x = cx.tensor("input")?;
    let (wi, wh) = (cx.tensor("w_ih")?, cx.tensor("w_hh")?);
    let (bi, bh) = (cx.maybe_tensor("b_ih")?, cx.maybe_tensor("b_hh")?);
    let (a, b) = (dense(cx, x, wi, bi)?, dense(cx, h, wh, bh)?);
    let mut cut = |v: Value| {
        let axis = cx.rank(v)?.saturating_sub(1);
        let size = cx.shape(v)?.get(axis).cloned().unwrap_or(Dim::known(1)).floor_div(&Dim::known(blocks));
        let part = |cx: &mut Cx<'_, '_>, i: i64| {
            let start = &size * &Dim::known(i);
            Ok(cx.b.slice_axis(v, axis, start, size.clone())?)
        };
        (0..blocks).map(|i| part(cx, i)).collect::<Result<Vec<_>, OpError>>()
    };
    Ok([cut(a)?, cut(b)?])
}

fn lstm_cell(cx: &mut Cx<'_, '_>) -> Results {
    let states = cx.tensors("hx")?;
    let [h, c] = super::pointwise::pair(&states)?;
    let [a, b] = products(cx, h, 4)?;
    let sums = a.iter().zip(&b).map(|(&a, &b)| cx.ew("add", &[a, b])).collect::<Result<Vec<_>, _>>()?;
    let [i, f, g, o] = sums.as_slice() else { return Err(OpError::invalid("a cell's weights")) };
    let (i, f, o) = (cx.ew("sigmoid", &[*i])?, cx.ew("sigmoid", &[*f])?, cx.ew("sigmoid", &[*o])?);
    let g = cx.ew("tanh", &[*g])?;
    let (kept, new) = (cx.ew("mul", &[f, c])?, cx.ew("mul", &[i, g])?);
    let c = cx.ew("add", &[kept, new])?;
    let shown = cx.ew("tanh", &[c])?;
    let h = cx.ew("mul", &[o, shown])?;
    many([h, c])
}

fn gru_cell(cx: &mut Cx<'_, '_>) -> Results {
    let h = cx.tensor("hx")?;
    let [a, b] = products(cx, h, 3)?;
    let ([ra, za, na], [rb, zb, nb]) = (super::pointwise::triple(&a)?, super::pointwise::triple(&b)?);
    let (r, z) = (cx.ew("add", &[ra, rb])?, cx.ew("add", &[za, zb])?);
    let (r, z) = (cx.ew("sigmoid", &[r])?, cx.ew("sigmoid", &[z])?);
    let part = cx.ew("mul", &[r, nb])?;
    let n = cx.ew("add", &[na, part])?;
    let n = cx.ew("tanh", &[n])?;
    let difference = cx.ew("sub", &[h, n])?;
    let part = cx.ew("mul", &[z, difference])?;
    let y = cx.ew("add", &[n, part])?;
    one(y)
}

fn rnn_cell(cx: &mut Cx<'_, '_>, activation: &str) -> Results {
    let h = cx.tensor("hx")?;
    let [a, b] = products(cx, h, 1)?;
    let (Some(&a), Some(&b)) = (a.first(), b.first()) else { return Ok(vec![Arg::None]) };
    let sum = cx.ew("add", &[a, b])?;
    let y = cx.ew(activation, &[sum])?;
    one(y)
}
