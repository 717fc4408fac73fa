//! The reference evaluator on hand-checked cases, family by family.
#![allow(missing_docs)]

mod composites;
mod elementwise;
mod graphs;
mod host;
mod index;
mod moves;
mod objects;
mod order;
mod quant;
mod sums;
mod trees;

use kiln_ir::eval::{EvalError, Evaluator};
use kiln_ir::{DType, Datum, Dim, Module, Op, Scalar, Tensor};

pub fn dims(values: &[i64]) -> Vec<Dim> {
    values.iter().copied().map(Dim::known).collect()
}

/// A tensor of `dtype` with these values, rounded to it.
pub fn t(dtype: DType, dims: &[usize], values: &[f64]) -> Tensor {
    let scalars: Vec<Scalar> = values.iter().map(|&v| Scalar::F(v)).collect();
    Tensor::from_scalars(dtype, dims, &scalars).unwrap()
}

pub fn f32s(dims: &[usize], values: &[f64]) -> Tensor {
    t(DType::F32, dims, values)
}

pub fn i64s(dims: &[usize], values: &[i64]) -> Tensor {
    Tensor::from_slice(dims, values).unwrap()
}

/// Evaluates one operator on tensors.
pub fn try_all(op: impl Into<Op>, operands: &[Tensor]) -> Result<Vec<Datum>, EvalError> {
    let module = Module::new();
    let operands: Vec<Datum> = operands.iter().cloned().map(Datum::Tensor).collect();
    Evaluator::new(&module).eval_op(&op.into(), &operands, &[])
}

/// The only result.
pub fn run(op: impl Into<Op>, operands: &[Tensor]) -> Tensor {
    let mut results = try_all(op, operands).unwrap();
    assert_eq!(results.len(), 1);
    results.remove(0).into_tensor().unwrap()
}

/// All results, tensors.
pub fn run_all(op: impl Into<Op>, operands: &[Tensor]) -> Vec<Tensor> {
    try_all(op, operands).unwrap().into_iter().map(|d| d.into_tensor().unwrap()).collect()
}

/// The message of the error that evaluation gives.
pub fn fails(op: impl Into<Op>, operands: &[Tensor]) -> String {
    try_all(op, operands).unwrap_err().to_string()
}

#[track_caller]
pub fn same(actual: &Tensor, expected: &Tensor) {
    assert_eq!(actual, expected);
}

/// Equal within a relative tolerance.
#[track_caller]
pub fn near(actual: &Tensor, dims: &[usize], expected: &[f64], tolerance: f64) {
    assert_eq!(actual.dims(), dims);
    let values = actual.to_f64s().unwrap();
    for (i, (a, e)) in values.iter().zip(expected).enumerate() {
        let close = (a - e).abs() <= tolerance * (1.0 + e.abs()) || (a.is_nan() && e.is_nan()) || a == e;
        assert!(close, "element {i}: {a}, expected {e}; all: {values:?}");
    }
}
