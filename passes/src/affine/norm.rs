//! Batch normalization of constants.

use kiln_ir::op::Composite;
use kiln_ir::{Build, DType, Edit, NodeId, Op, Scalar, Tensor, Value};

use crate::rewrite::{Cx, Refusal, Rule, matches, require};

/// Batch normalization with constant statistics is a product and a sum per channel.
pub(super) const BATCH_NORM: Rule = Rule { name: "batch-norm", apply: batch_norm };

fn batch_norm(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    let Op::Composite(Composite::BatchNorm { epsilon }) = &node.op else { return Err(Refusal::NoMatch) };
    let &[x, scale, bias, mean, variance] = &node.operands[..] else { return Err(Refusal::NoMatch) };
    let numbers = |v: Value| {
        let t = cx
            .constant(v)
            .ok_or_else(|| Refusal::because("scale, bias, mean or variance is not constant"))?;
        t.to_f64s().ok_or(Refusal::NoMatch)
    };
    let (s, b, m, v) = (numbers(scale)?, numbers(bias)?, numbers(mean)?, numbers(variance)?);
    matches(b.len() == s.len() && m.len() == s.len() && v.len() == s.len())?;
    let factor: Vec<f64> = s.iter().zip(&v).map(|(s, v)| s / (v + epsilon.get()).sqrt()).collect();
    let shift: Vec<f64> = b.iter().zip(&m).zip(&factor).map(|((b, m), f)| b - m * f).collect();
    let finite = factor.iter().chain(&shift).all(|v| v.is_finite());
    require(finite, "a factor or a summand is not finite")?;
    let (rank, dtype) = (cx.shape(x)?.len(), cx.dtype(x).ok_or(Refusal::NoMatch)?);
    cx.rewrite(id, |p| {
        let factor = p.constant(per_channel(dtype, rank, &factor)?)?;
        let shift = p.constant(per_channel(dtype, rank, &shift)?)?;
        let scaled = p.ew("mul", &[x, factor])?;
        Ok(p.ew("add", &[scaled, shift])?)
    })
}

/// A constant that broadcasts along axis 1 of tensors of `rank`.
fn per_channel(dtype: DType, rank: usize, values: &[f64]) -> Result<Tensor, Refusal> {
    let mut dims = vec![1; rank.saturating_sub(1)];
    if let Some(first) = dims.first_mut() {
        *first = values.len();
    }
    let scalars: Vec<Scalar> = values.iter().map(|&v| Scalar::F(v)).collect();
    Tensor::from_scalars(dtype, &dims, &scalars).map_err(|e| Refusal::because(e.to_string()))
}
