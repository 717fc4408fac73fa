//! Operators of the domain `com.microsoft`, which optimizing and quantizing tools write: composed from the operators of
//! graph IR, so that they fuse and compile as those do. What they compute is what onnxruntime's CPU kernels do, where
//! there are some, else what its documentation states.

pub(super) mod activation;
pub(super) mod attention;
pub(super) mod conv;
pub(super) mod experts;
pub(super) mod grouped;
pub(super) mod hash;
pub(super) mod linear;
pub(super) mod matmul;
pub(super) mod movement;
pub(super) mod nbits;
pub(super) mod norm;
pub(super) mod qlinear;
pub(super) mod recurrent;
pub(super) mod rotary;
pub(super) mod streams;

use kiln_ir::{Build, DType, Dim, Value};

use crate::onnx::cx::{Cx, OpError};

pub(super) use super::attention::{at, last};

/// An elementwise operator of a value and a constant.
fn with_scalar(cx: &mut Cx<'_, '_, '_>, name: &str, v: Value, constant: f64) -> Result<Value, OpError> {
    let dtype = cx.dtype(v)?;
    let constant = cx.b.scalar(dtype, constant)?;
    Ok(cx.b.ew(name, &[v, constant])?)
}

/// `v` plus an operand that may be absent.
fn plus(cx: &mut Cx<'_, '_, '_>, v: Value, addend: Option<Value>) -> Result<Value, OpError> {
    match addend {
        Some(addend) => Ok(cx.b.ew("add", &[v, addend])?),
        None => Ok(v),
    }
}

/// The product of dims.
fn product(dims: &[Dim]) -> Dim {
    dims.iter().fold(Dim::known(1), |a, b| a * b)
}

/// Elements `start .. start + size` of the last axis.
fn slice_last(cx: &mut Cx<'_, '_, '_>, v: Value, start: &Dim, size: &Dim) -> Result<Value, OpError> {
    let rank = cx.rank(v)?;
    Ok(cx.b.slice_axis(v, rank.saturating_sub(1), start.clone(), size.clone())?)
}

/// Each element along an axis `times` times, the first `size` of them.
fn repeated(
    cx: &mut Cx<'_, '_, '_>,
    v: Value,
    axis: usize,
    times: &Dim,
    size: &Dim,
) -> Result<Value, OpError> {
    let mut dims = cx.shape(v)?;
    let Some(count) = dims.get(axis).cloned() else {
        return Err(OpError::invalid(format!("no axis {axis}")));
    };
    let mut apart = dims.clone();
    apart.insert(axis + 1, Dim::known(1));
    let v = cx.b.reshape(v, &apart)?;
    if let Some(slot) = apart.get_mut(axis + 1) {
        *slot = times.clone();
    }
    let v = cx.b.broadcast(v, &apart)?;
    if let Some(slot) = dims.get_mut(axis) {
        *slot = &count * times;
    }
    let v = cx.b.reshape(v, &dims)?;
    match dims.get(axis) == Some(size) {
        true => Ok(v),
        false => Ok(cx.b.slice_axis(v, axis, Dim::known(0), size.clone())?),
    }
}

/// The value in the dtype that sums are computed in: f32 for narrower floats.
fn widened(cx: &mut Cx<'_, '_, '_>, v: Value) -> Result<Value, OpError> {
    let dtype = cx.dtype(v)?;
    let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
    Ok(cx.b.cast(v, wide)?)
}

/// A size that must be constant.
fn known_size(dim: &Dim, what: &str) -> Result<i64, OpError> {
    dim.as_known().ok_or_else(|| OpError::unsupported(format!("{what} that is not constant")))
}

/// Refuses an attribute that is set to another value than the one that is implemented.
fn only(cx: &Cx<'_, '_, '_>, name: &'static str, value: i64) -> Result<(), OpError> {
    match cx.attrs.int(name)? {
        Some(found) if found != value => {
            Err(OpError::unsupported(format!("attribute `{name}` of {found}: only {value} is implemented")))
        }
        _ => Ok(()),
    }
}

/// Refuses operand `i` if it is there.
fn absent(cx: &Cx<'_, '_, '_>, i: usize, name: &str) -> Result<(), OpError> {
    match cx.optional(i) {
        Some(_) => Err(OpError::unsupported(format!("operand {i} (`{name}`)"))),
        None => Ok(()),
    }
}

/// A function over floats that an attribute names, with its parameters.
struct Activation {
    name: String,
    parameters: [Option<f64>; 3],
}

impl Activation {
    /// Adds the function.
    fn apply(&self, cx: &mut Cx<'_, '_, '_>, v: Value) -> Result<Value, OpError> {
        let at = |i: usize, default: f64| self.parameters.get(i).copied().flatten().unwrap_or(default);
        let (row, attrs): (&str, Vec<f64>) = match self.name.as_str() {
            "" => return Ok(v),
            "Relu" => ("relu", vec![]),
            "Sigmoid" => ("sigmoid", vec![]),
            "Tanh" => ("tanh", vec![]),
            "Softplus" => ("softplus", vec![]),
            "Softsign" => ("softsign", vec![]),
            "Abs" => ("abs", vec![]),
            "Neg" => ("neg", vec![]),
            "LeakyRelu" => ("leaky_relu", vec![at(0, 0.01)]),
            "Elu" => ("elu", vec![at(0, 1.0)]),
            "Celu" => ("celu", vec![at(0, 1.0)]),
            "ThresholdedRelu" => ("thresholded_relu", vec![at(0, 1.0)]),
            "HardSigmoid" => ("hard_sigmoid", vec![at(0, 0.2), at(1, 0.5)]),
            "Selu" => ("selu", vec![at(0, 1.673_263_192_176_818_8), at(1, 1.050_700_902_938_842_8)]),
            "ScaledTanh" => {
                let inner = with_scalar(cx, "mul", v, at(1, 1.0))?;
                let y = cx.b.ew("tanh", &[inner])?;
                return with_scalar(cx, "mul", y, at(0, 1.0));
            }
            "ParametricSoftplus" => {
                let inner = with_scalar(cx, "mul", v, at(1, 1.0))?;
                let y = cx.b.ew("softplus", &[inner])?;
                return with_scalar(cx, "mul", y, at(0, 1.0));
            }
            "Affine" => {
                let inner = with_scalar(cx, "mul", v, at(0, 1.0))?;
                return with_scalar(cx, "add", inner, at(1, 0.0));
            }
            "Clip" => {
                let dtype = cx.dtype(v)?;
                let (lo, hi) = (f64::from(f32::MIN), f64::from(f32::MAX));
                let (lo, hi) = (cx.b.scalar(dtype, at(0, lo))?, cx.b.scalar(dtype, at(1, hi))?);
                return Ok(cx.b.ew("clamp", &[v, lo, hi])?);
            }
            other => return Err(OpError::unsupported(format!("activation `{other}`"))),
        };
        Ok(cx.b.ew_with(row, &attrs, &[v])?)
    }
}
