//! Rare operators.

use super::elementwise::broadcast_shapes;
use super::{InferCx, Inferred, Results, check_sizes, ensure};
use crate::op::Host;
use crate::{DClass, DType, Dim, Shape};

pub(super) fn infer(op: &Host, cx: &InferCx<'_>) -> Results {
    let result = match op {
        Host::RandomUniform { shape, dtype, low: _, high: _, seed: _ }
        | Host::RandomNormal { shape, dtype, mean: _, scale: _, seed: _ } => {
            cx.expect_count(0)?;
            check_sizes(shape, "the shape")?;
            ensure!(dtype.is_float(), "random values of {dtype}");
            Inferred::tensor(*dtype, Shape::new(shape.clone()))
        }
        Host::Bernoulli { dtype, seed: _ } => {
            cx.expect_count(1)?;
            cx.expect_float(0)?;
            ensure!(!matches!(dtype.class(), DClass::Text | DClass::Complex), "random values of {dtype}");
            Inferred::tensor(*dtype, cx.tensor(0)?.shape.clone())
        }
        Host::NonMaxSuppression { center_point_box: _ } => {
            cx.expect_count(5)?;
            cx.dims_of_rank(0, 3)?;
            cx.dims_of_rank(1, 3)?;
            for i in [0, 1, 3, 4] {
                cx.expect_float(i)?;
            }
            cx.expect_dtype(2, DType::I64)?;
            Inferred::tensor(DType::I64, Shape::new(vec![Dim::unknown(), Dim::known(3)]))
        }
        Host::Det {} => {
            cx.expect_count(1)?;
            cx.expect_float(0)?;
            let x = cx.tensor(0)?;
            let shape = match x.shape.dims() {
                Some([batch @ .., a, b]) => {
                    super::unify(a, b, "sizes of the last two axes")?;
                    Shape::new(batch)
                }
                Some(_) => return Err(super::InferError::new("a determinant needs two axes")),
                None => Shape::unranked(),
            };
            Inferred::tensor(x.dtype, shape)
        }
        Host::StringConcat {} => {
            cx.expect_count(2)?;
            Inferred::tensor(DType::String, broadcast_strings(cx)?)
        }
        Host::StringEqual {} => {
            cx.expect_count(2)?;
            Inferred::tensor(DType::Bool, broadcast_strings(cx)?)
        }
        Host::StringCast { to } => {
            cx.expect_count(1)?;
            let x = cx.tensor(0)?;
            ensure!(
                (x.dtype == DType::String) != (*to == DType::String),
                "{} to {to} is no conversion from or to text",
                x.dtype
            );
            Inferred::tensor(*to, x.shape.clone())
        }
        Host::Fail { message: _ } => return Ok(vec![]),
    };
    Ok(vec![result])
}

fn broadcast_strings(cx: &InferCx<'_>) -> Result<Shape, super::InferError> {
    cx.expect_dtype(0, DType::String)?;
    cx.expect_dtype(1, DType::String)?;
    broadcast_shapes(&[&cx.tensor(0)?.shape, &cx.tensor(1)?.shape])
}
