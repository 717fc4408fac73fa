//! Quantization.

use super::{InferCx, InferError, Inferred, Results, check_axis, ensure, unify};
use crate::Dim;
use crate::op::Quant;

pub(super) fn infer(op: &Quant, cx: &InferCx<'_>) -> Results {
    cx.expect_count(3)?;
    let x = cx.tensor(0)?;
    cx.expect_float(1)?;
    match op {
        Quant::Quantize { to, axis, block, .. } => {
            let quantizable = x.dtype.is_float() || x.dtype.is_int();
            ensure!(quantizable, "quantization does not take {}", x.dtype);
            ensure!(to.is_int() || to.bits() <= 8 && to.is_float(), "quantization does not give {to}");
            cx.expect_dtype(2, *to)?;
            check_parameters(*axis, *block, cx)?;
            Ok(vec![Inferred::tensor(*to, x.shape.clone())])
        }
        Quant::Dequantize { to, axis, block } => {
            ensure!(to.is_float(), "dequantization does not give {to}");
            ensure!(x.dtype.is_int() || x.dtype.is_float(), "dequantization does not take {}", x.dtype);
            cx.expect_dtype(2, x.dtype)?;
            check_parameters(*axis, *block, cx)?;
            Ok(vec![Inferred::tensor(*to, x.shape.clone())])
        }
    }
}

/// Checks the shapes of scale and zero point.
fn check_parameters(axis: Option<usize>, block: i64, cx: &InferCx<'_>) -> Result<(), InferError> {
    ensure!(block >= 0, "a block of {block} elements");
    let x = cx.dims(0)?;
    if let (Some(axis), Some(x)) = (axis, x) {
        check_axis(axis, x.len())?;
    }
    for i in [1, 2] {
        let Some(dims) = cx.dims(i)? else { continue };
        match (axis, block) {
            (None, 0) => {
                let one = dims.len() <= 1 && dims.iter().all(|d| d.as_known().is_none_or(|v| v == 1));
                ensure!(one, "operand {i} must have one element, as there is no axis");
            }
            (None, _) => return Err(InferError::new("blocks need an axis")),
            (Some(axis), 0) => {
                ensure!(dims.len() == 1, "operand {i} must have rank 1, one element for each of axis {axis}");
                if let (Some(d), Some(x)) = (dims.first(), x.and_then(|x| x.get(axis))) {
                    unify(d, x, &format!("sizes of operand {i} and of axis {axis}"))?;
                }
            }
            (Some(axis), _) => {
                let Some(x) = x else { continue };
                ensure!(dims.len() == x.len(), "operand {i} must have rank {}, as blocks do", x.len());
                for (a, (d, x)) in dims.iter().zip(x).enumerate() {
                    let expected = if a == axis { x.ceil_div(&Dim::known(block)) } else { x.clone() };
                    unify(d, &expected, &format!("sizes of operand {i} and blocks on axis {a}"))?;
                }
            }
        }
    }
    Ok(())
}
