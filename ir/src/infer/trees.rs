//! Decision trees.

use super::{InferCx, InferError, Inferred, Results, ensure};
use crate::op::Host;
use crate::{DType, Dim, Shape};

pub(super) fn infer(op: &Host, cx: &InferCx<'_>) -> Results {
    cx.expect_count(8)?;
    for i in [0, 3, 5, 6, 7] {
        cx.expect_float(i)?;
    }
    for i in [1, 2, 4] {
        cx.expect_dtype(i, DType::I64)?;
    }
    let samples = cx.dims_of_rank(0, 2)?.and_then(|d| d.first()).cloned().unwrap_or(Dim::unknown());
    let columns = cx.dims_of_rank(2, 2)?.and_then(|d| d.get(1)).and_then(Dim::as_known);
    ensure!(columns.is_none_or(|n| n == 7), "nodes have 7 columns");
    for i in [1, 3, 4, 5, 6, 7] {
        cx.dims_of_rank(i, 1)?;
    }
    match op {
        Host::TreeEnsemble { targets, dtype, .. } => {
            ensure!(*targets > 0 && dtype.is_float(), "{targets} targets of {dtype}");
            Ok(vec![Inferred::tensor(*dtype, Shape::new(vec![samples, Dim::known(*targets)]))])
        }
        Host::TreeClassifier { classes, .. } => {
            ensure!(*classes > 0, "{classes} classes");
            let scores = Shape::new(vec![samples.clone(), Dim::known(*classes)]);
            let winners = Inferred::tensor(DType::I64, Shape::new(vec![samples]));
            Ok(vec![winners, Inferred::tensor(DType::F32, scores)])
        }
        other => Err(InferError::new(format!("{} has no trees", other.mnemonic()))),
    }
}
