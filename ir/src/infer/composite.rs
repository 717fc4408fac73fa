//! Composite operators: what their decompositions take and give.

use super::sums::reduced;
use super::{InferCx, InferError, Inferred, Results, check_axis, check_sizes, ensure, unify};
use crate::op::{Composite, Direction};
use crate::{DClass, DType, Dim, Shape};

pub(super) fn infer(op: &Composite, cx: &InferCx<'_>) -> Results {
    match op {
        Composite::Softmax { axis } | Composite::LogSoftmax { axis } => {
            cx.expect_count(1)?;
            cx.expect_float(0)?;
            along(*axis, cx)
        }
        Composite::Hardmax { axis } => {
            cx.expect_count(1)?;
            let x = cx.tensor(0)?;
            let number = matches!(x.dtype.class(), DClass::Float | DClass::Signed | DClass::Unsigned);
            ensure!(number, "no maximum of {}", x.dtype);
            along(*axis, cx)
        }
        Composite::LogSumExp { axes, keepdims } => {
            cx.expect_count(1)?;
            cx.expect_float(0)?;
            let x = cx.tensor(0)?;
            Ok(vec![Inferred::tensor(x.dtype, reduced(&x.shape, axes, *keepdims)?)])
        }
        Composite::LayerNorm { axis, epsilon: _ } => {
            floats(3, cx)?;
            along(*axis, cx)
        }
        Composite::RmsNorm { axis, epsilon: _ } => {
            floats(2, cx)?;
            along(*axis, cx)
        }
        Composite::BatchNorm { epsilon: _ } => {
            floats(5, cx)?;
            channel_parameters(5, cx)
        }
        Composite::InstanceNorm { epsilon: _ } => {
            floats(3, cx)?;
            channel_parameters(3, cx)
        }
        Composite::GroupNorm { groups, epsilon: _ } => {
            floats(3, cx)?;
            ensure!(*groups > 0, "{groups} groups");
            if let Some(c) = cx.dims(0)?.and_then(|d| d.get(1)) {
                let fits = c.as_known().is_none_or(|c| c.checked_rem(*groups) == Some(0));
                ensure!(fits, "{c} channels do not divide into {groups} groups");
            }
            channel_parameters(3, cx)
        }
        Composite::Lrn { size, alpha: _, beta: _, bias: _ } => {
            floats(1, cx)?;
            ensure!(*size > 0, "a window of {size} channels");
            along(1, cx)
        }
        Composite::Attention { mask, .. } => attention(*mask, cx),
        Composite::Rope { interleaved: _, rotary_dim } => rope(*rotary_dim, cx),
        Composite::Lstm { hidden, direction, lengths, gates, .. } => {
            let rnn = Recurrent { hidden: *hidden, direction: *direction, gates: 4, lengths: *lengths };
            ensure!(gates.len() == 3 * directions(*direction), "{} activations", gates.len());
            rnn.infer(8, 2, true, cx)
        }
        Composite::Gru { hidden, direction, lengths, gates, .. } => {
            let rnn = Recurrent { hidden: *hidden, direction: *direction, gates: 3, lengths: *lengths };
            ensure!(gates.len() == 2 * directions(*direction), "{} activations", gates.len());
            rnn.infer(6, 1, false, cx)
        }
        Composite::Rnn { hidden, direction, lengths, gates, .. } => {
            let rnn = Recurrent { hidden: *hidden, direction: *direction, gates: 1, lengths: *lengths };
            ensure!(gates.len() == directions(*direction), "{} activations", gates.len());
            rnn.infer(2, 1, false, cx)
        }
        Composite::Resize { sizes, scales, roi, .. } => {
            cx.expect_count(1)?;
            let x = cx.tensor(0)?;
            ensure!(x.dtype.is_float() || x.dtype.is_int(), "no resize of {}", x.dtype);
            check_sizes(sizes, "the result")?;
            ensure!(scales.len() == sizes.len(), "{} sizes and {} scales", sizes.len(), scales.len());
            ensure!(roi.is_empty() || roi.len() == 2 * sizes.len(), "a region of {} numbers", roi.len());
            cx.dims_of_rank(0, sizes.len())?;
            Ok(vec![Inferred::tensor(x.dtype, Shape::new(sizes.clone()))])
        }
        Composite::DynamicQuantize {} => {
            floats(1, cx)?;
            let scalar = Shape::fixed(&[]);
            Ok(vec![
                Inferred::tensor(DType::U8, cx.tensor(0)?.shape.clone()),
                Inferred::tensor(DType::F32, scalar.clone()),
                Inferred::tensor(DType::U8, scalar),
            ])
        }
    }
}

/// One result of the operand's type, whose rank must be above `axis`.
fn along(axis: usize, cx: &InferCx<'_>) -> Results {
    let x = cx.tensor(0)?;
    if let Some(rank) = x.shape.rank() {
        check_axis(axis, rank)?;
    }
    Ok(vec![Inferred::tensor(x.dtype, x.shape.clone())])
}

/// Checks for `count` float operands.
fn floats(count: usize, cx: &InferCx<'_>) -> Result<(), InferError> {
    cx.expect_count(count)?;
    (0..count).try_for_each(|i| cx.expect_float(i))
}

/// One result of the operand's type; the other operands have one element for each channel (axis 1).
fn channel_parameters(count: usize, cx: &InferCx<'_>) -> Results {
    let x = cx.tensor(0)?;
    if let Some(dims) = x.shape.dims() {
        ensure!(dims.len() >= 2, "channels of a tensor of rank {}", dims.len());
    }
    let channels = x.shape.dims().and_then(|d| d.get(1));
    for i in 1..count {
        if let (Some([d]), Some(c)) = (cx.dims_of_rank(i, 1)?, channels) {
            unify(d, c, &format!("sizes of operand {i} and of the channel axis"))?;
        }
    }
    Ok(vec![Inferred::tensor(x.dtype, x.shape.clone())])
}

fn attention(mask: bool, cx: &InferCx<'_>) -> Results {
    floats(3 + usize::from(mask), cx)?;
    let q = cx.tensor(0)?;
    for i in 1..cx.operands.len() {
        cx.expect_dtype(i, q.dtype)?;
    }
    let dims = (cx.dims_of_rank(0, 4)?, cx.dims_of_rank(1, 4)?, cx.dims_of_rank(2, 4)?);
    let (Some([b, h, l, d]), Some([kb, g, s, kd]), Some([vb, vg, vs, e])) = dims else {
        return Ok(vec![Inferred::tensor(q.dtype, super::unknown_dims(4))]);
    };
    let batch = unify(&unify(b, kb, "batches of q and k")?, vb, "batches of q and v")?;
    unify(d, kd, "head sizes of q and k")?;
    unify(g, vg, "heads of k and v")?;
    unify(s, vs, "lengths of k and v")?;
    if let (Some(h), Some(g)) = (h.as_known(), g.as_known()) {
        ensure!(h.checked_rem(g) == Some(0), "{h} heads of q over {g} of k");
    }
    if mask {
        let scores = [batch.clone(), h.clone(), l.clone(), s.clone()];
        super::movement::check_broadcast(cx.dims(3)?, &scores)?;
    }
    Ok(vec![Inferred::tensor(q.dtype, Shape::new(vec![batch, h.clone(), l.clone(), e.clone()]))])
}

fn rope(rotary_dim: i64, cx: &InferCx<'_>) -> Results {
    floats(3, cx)?;
    let x = cx.tensor(0)?;
    ensure!(rotary_dim >= 0 && rotary_dim % 2 == 0, "a rotary dim of {rotary_dim}");
    if let Some([_, _, _, d]) = cx.dims_of_rank(0, 4)? {
        let fits = d.as_known().is_none_or(|d| rotary_dim <= d);
        ensure!(fits, "a rotary dim of {rotary_dim} of heads of size {d}");
    }
    for i in [1, 2] {
        let rank = cx.tensor(i)?.shape.rank();
        ensure!(rank.is_none_or(|r| r == 2 || r == 3), "operand {i} must have rank 2 or 3");
    }
    Ok(vec![Inferred::tensor(x.dtype, x.shape.clone())])
}

fn directions(d: Direction) -> usize {
    match d {
        Direction::Forward | Direction::Reverse => 1,
        Direction::Bidirectional => 2,
    }
}

/// What the recurrent layers share.
struct Recurrent {
    hidden: i64,
    direction: Direction,
    gates: i64,
    lengths: bool,
}

impl Recurrent {
    /// Operands are `x`, `w`, `r`, `b` (of `biases` times the hidden size), `states` initial states, then peepholes
    /// and lengths; results are the sequence and the states.
    fn infer(&self, biases: i64, states: usize, peepholes: bool, cx: &InferCx<'_>) -> Results {
        let expected = 4 + states + usize::from(peepholes) + usize::from(self.lengths);
        cx.expect_count(expected)?;
        ensure!(self.hidden > 0, "a hidden size of {}", self.hidden);
        let dtype = cx.tensor(0)?.dtype;
        let float_operands = 4 + states + usize::from(peepholes);
        for i in 0..float_operands {
            cx.expect_float(i)?;
            cx.expect_dtype(i, dtype)?;
        }
        let dirs = Dim::known(directions(self.direction) as i64);
        let hidden = Dim::known(self.hidden);
        let (time, batch, inputs) = match cx.dims_of_rank(0, 3)? {
            Some([t, b, i]) => (t.clone(), b.clone(), i.clone()),
            _ => (Dim::unknown(), Dim::unknown(), Dim::unknown()),
        };
        let gate_rows = Dim::known(self.gates) * &hidden;
        self.check(1, &[&dirs, &gate_rows, &inputs], cx)?;
        self.check(2, &[&dirs, &gate_rows, &hidden], cx)?;
        self.check(3, &[&dirs, &(Dim::known(biases) * &hidden)], cx)?;
        for i in 0..states {
            self.check(4 + i, &[&dirs, &batch, &hidden], cx)?;
        }
        if peepholes {
            self.check(4 + states, &[&dirs, &(Dim::known(3) * &hidden)], cx)?;
        }
        if self.lengths {
            cx.expect_dtype(expected - 1, DType::I32)?;
            self.check(expected - 1, &[&batch], cx)?;
        }
        let state = Shape::new(vec![dirs.clone(), batch.clone(), hidden.clone()]);
        let mut results = vec![Inferred::tensor(dtype, Shape::new(vec![time, dirs, batch, hidden]))];
        results.extend((0..states).map(|_| Inferred::tensor(dtype, state.clone())));
        Ok(results)
    }

    fn check(&self, i: usize, expected: &[&Dim], cx: &InferCx<'_>) -> Result<(), InferError> {
        let Some(dims) = cx.dims_of_rank(i, expected.len())? else { return Ok(()) };
        for (axis, (d, e)) in dims.iter().zip(expected).enumerate() {
            unify(d, e, &format!("size of axis {axis} of operand {i} and what the layer takes"))?;
        }
        Ok(())
    }
}
