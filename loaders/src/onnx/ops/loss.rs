//! Losses.

use kiln_ir::op::{Composite, Index, ReduceKind};
use kiln_ir::{Build, DType, Value};

use super::{How, Row, row};
use crate::onnx::cx::{Cx, OpError, Outputs, one};

use How::Fn;

pub(super) const ROWS: &[Row] = &[
    row("NegativeLogLikelihoodLoss", &[12, 13, 22], Fn(nll)),
    row("SoftmaxCrossEntropyLoss", &[12, 13], Fn(cross_entropy)),
];

/// `-weight[target] * x[target]`, reduced; targets equal to `ignore_index` count nothing.
fn loss(cx: &mut Cx<'_, '_, '_>, log_probability: Value) -> Result<Value, OpError> {
    let (target, weight) = (cx.input(1)?, cx.optional(2));
    let dtype = cx.dtype(log_probability)?;
    let mut target = cx.b.cast(target, DType::I64)?;
    let zero = cx.b.scalar(dtype, 0.0)?;
    let mut ignored = None;
    if let Some(index) = cx.attrs.int("ignore_index")? {
        let index = cx.b.constant(kiln_ir::Tensor::scalar(index))?;
        let mask = cx.b.ew("eq", &[target, index])?;
        let first = cx.b.scalar(DType::I64, 0.0)?;
        target = cx.b.ew("where", &[mask, first, target])?;
        ignored = Some(mask);
    }
    let target_dims = cx.shape(target)?;
    let mut column = target_dims.clone();
    if column.is_empty() {
        return Err(OpError::invalid("the target must have a batch axis"));
    }
    column.insert(1, kiln_ir::Dim::known(1));
    let places = cx.b.reshape(target, &column)?;
    let picked = cx.b.add1(Index::GatherElements { axis: 1 }, &[log_probability, places])?;
    let picked = cx.b.reshape(picked, &target_dims)?;
    let mut value = cx.b.ew("neg", &[picked])?;
    let mut weights = match weight {
        Some(weight) => Some(cx.b.add1(Index::Gather { axis: 0 }, &[weight, target])?),
        None => None,
    };
    if let Some(mask) = ignored {
        let full = match weights {
            Some(w) => w,
            None => cx.b.scalar(dtype, 1.0)?,
        };
        weights = Some(cx.b.ew("where", &[mask, zero, full])?);
    }
    if let Some(w) = weights {
        value = cx.b.ew("mul", &[value, w])?;
    }
    let axes: Vec<usize> = (0..target_dims.len()).collect();
    match (cx.attrs.string_or("reduction", "mean")?.as_str(), weights) {
        ("none", _) => Ok(value),
        ("sum", _) => Ok(cx.b.reduce(ReduceKind::Sum, value, &axes, false)?),
        ("mean", None) => Ok(cx.b.reduce(ReduceKind::Mean, value, &axes, false)?),
        ("mean", Some(w)) => {
            let total = cx.b.reduce(ReduceKind::Sum, value, &axes, false)?;
            let w = cx.b.broadcast(w, &target_dims)?;
            let mass = cx.b.reduce(ReduceKind::Sum, w, &axes, false)?;
            Ok(cx.b.ew("div", &[total, mass])?)
        }
        (other, _) => Err(OpError::invalid(format!("reduction `{other}`"))),
    }
}

fn nll(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    one(loss(cx, x)?)
}

fn cross_entropy(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let log_probability = cx.b.add1(Composite::LogSoftmax { axis: 1 }, &[x])?;
    Ok(vec![loss(cx, log_probability)?, log_probability])
}
