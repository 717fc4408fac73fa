//! Activations and dropout.

use kiln_ir::{Build, Value};

use super::arg::Arg;
use super::cx::{Cx, one};
use super::pointwise::with_attrs;
use super::{How, Results, Row, row};
use crate::error::OpError;

use How::{Float, Fn, Same};

#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    row("aten::_prelu_kernel", Fn(prelu_broadcast)),
    row("aten::alpha_dropout", Fn(dropout)),
    row("aten::celu", Fn(|cx| { let alpha = cx.float("alpha")?; with_attrs(cx, "celu", &[alpha]) })),
    row("aten::dropout", Fn(dropout)),
    row("aten::elu", Fn(elu)),
    row("aten::feature_alpha_dropout", Fn(dropout)),
    row("aten::feature_dropout", Fn(dropout)),
    row("aten::gelu", Fn(gelu)),
    row("aten::glu", Fn(glu)),
    row("aten::hardshrink", Fn(hardshrink)),
    row("aten::hardsigmoid", Fn(|cx| with_attrs(cx, "hard_sigmoid", &[1.0 / 6.0, 0.5]))),
    row("aten::hardswish", Float("hard_swish")),
    row("aten::hardtanh", Fn(hardtanh)),
    row("aten::leaky_relu", Fn(leaky_relu)),
    row("aten::log_sigmoid", Fn(log_sigmoid)),
    row("aten::log_sigmoid_forward", Fn(log_sigmoid)),
    row("aten::mish", Float("mish")),
    row("aten::native_dropout", Fn(native_dropout)),
    row("aten::prelu", Fn(prelu)),
    row("aten::relu", Same("relu")),
    row("aten::relu6", Fn(relu6)),
    row("aten::rrelu", Fn(rrelu)),
    row("aten::selu", Fn(|cx| with_attrs(cx, "selu", &[1.6732632423543772, 1.0507009873554805]))),
    row("aten::sigmoid", Float("sigmoid")),
    row("aten::silu", Fn(|cx| with_attrs(cx, "silu", &[1.0]))),
    row("aten::softplus", Fn(softplus)),
    row("aten::softshrink", Fn(softshrink)),
    row("aten::threshold", Fn(threshold)),
];

/// What inference does; training would drop elements at random.
fn dropout(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("input")?;
    if cx.flag("train")? && cx.float("p")? > 0.0 {
        return Err(OpError::unsupported("dropout in training mode"));
    }
    one(x)
}

fn native_dropout(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("input")?;
    // Not said is training.
    let training = cx.get("train").is_none() || cx.flag("train")?;
    if training && cx.float("p")? > 0.0 {
        return Err(OpError::unsupported("dropout in training mode"));
    }
    let shape = cx.shape(x)?;
    // Of a tensor without elements PyTorch gives the tensor's own type.
    let empty = shape.iter().any(|d| d.as_known() == Some(0));
    let dtype = if empty { cx.dtype(x)? } else { kiln_ir::DType::Bool };
    let kept = cx.filled(dtype, 1.0, &shape)?;
    Ok(vec![Arg::Tensor(x), Arg::Tensor(kept)])
}

fn gelu(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    let name = match cx.maybe_text("approximate")? {
        None | Some("none") => "gelu",
        Some("tanh") => "gelu_tanh",
        Some(other) => return Err(OpError::invalid(format!("approximate `{other}`"))),
    };
    let y = cx.ew(name, &[x])?;
    one(y)
}

/// `input_scale` belongs inside of the exponential, `scale` to both branches.
fn elu(cx: &mut Cx<'_, '_>) -> Results {
    let (alpha, scale, inner) = (cx.float("alpha")?, cx.float("scale")?, cx.float("input_scale")?);
    if scale == 1.0 && inner == 1.0 {
        return with_attrs(cx, "elu", &[alpha]);
    }
    let x = cx.first()?;
    let dtype = cx.dtype(x)?;
    let zero = cx.constant(dtype, 0.0)?;
    let positive = cx.ew("gt", &[x, zero])?;
    let scaled = cx.ew_const("mul", x, inner)?;
    let grown = cx.ew("expm1", &[scaled])?;
    let below = cx.ew_const("mul", grown, alpha * scale)?;
    let above = cx.ew_const("mul", x, scale)?;
    let y = cx.ew("where", &[positive, above, below])?;
    one(y)
}

fn leaky_relu(cx: &mut Cx<'_, '_>) -> Results {
    let slope = cx.float("negative_slope")?;
    with_attrs(cx, "leaky_relu", &[slope])
}

/// In evaluation, the mean slope.
fn rrelu(cx: &mut Cx<'_, '_>) -> Results {
    if cx.flag("training")? {
        return Err(OpError::unsupported("rrelu in training mode"));
    }
    let slope = (cx.float("lower")? + cx.float("upper")?) / 2.0;
    with_attrs(cx, "leaky_relu", &[slope])
}

fn bounded(cx: &mut Cx<'_, '_>, low: f64, high: f64) -> Results {
    let x = cx.first()?;
    let dtype = cx.dtype(x)?;
    let (low, high) = (cx.constant(dtype, low)?, cx.constant(dtype, high)?);
    let y = cx.ew("clamp", &[x, low, high])?;
    one(y)
}

fn relu6(cx: &mut Cx<'_, '_>) -> Results {
    bounded(cx, 0.0, 6.0)
}

fn hardtanh(cx: &mut Cx<'_, '_>) -> Results {
    let (low, high) = (cx.float("min_val")?, cx.float("max_val")?);
    bounded(cx, low, high)
}

fn glu(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    let shape = cx.shape(x)?;
    let axis = cx.axis("dim", shape.len())?;
    let size = shape.get(axis).cloned().ok_or_else(|| OpError::invalid("a tensor without axes"))?;
    let half = size.exact_div(&kiln_ir::Dim::known(2));
    let half = half.ok_or_else(|| OpError::invalid(format!("an axis of {size} has no halves")))?;
    let a = cx.b.slice_axis(x, axis, kiln_ir::Dim::known(0), half.clone())?;
    let gate = cx.b.slice_axis(x, axis, half.clone(), half)?;
    let gate = cx.ew("sigmoid", &[gate])?;
    let y = cx.ew("mul", &[a, gate])?;
    one(y)
}

fn log_sigmoid(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    let negated = cx.ew("neg", &[x])?;
    let soft = cx.ew("softplus", &[negated])?;
    let y = cx.ew("neg", &[soft])?;
    one(y)
}

/// Linear above the threshold.
fn softplus(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    let (beta, threshold) = (cx.float("beta")?, cx.float("threshold")?);
    let dtype = cx.dtype(x)?;
    let scaled = if beta == 1.0 { x } else { cx.ew_const("mul", x, beta)? };
    let mut soft = cx.ew("softplus", &[scaled])?;
    if beta != 1.0 {
        soft = cx.ew_const("mul", soft, 1.0 / beta)?;
    }
    let limit = cx.constant(dtype, threshold)?;
    let linear = cx.ew("gt", &[scaled, limit])?;
    let y = cx.ew("where", &[linear, x, soft])?;
    one(y)
}

fn hardshrink(cx: &mut Cx<'_, '_>) -> Results {
    let lambd = cx.float("lambd")?;
    let x = cx.first()?;
    let dtype = cx.dtype(x)?;
    let (zero, limit) = (cx.constant(dtype, 0.0)?, cx.constant(dtype, lambd)?);
    let size = cx.ew("abs", &[x])?;
    let small = cx.ew("le", &[size, limit])?;
    let y = cx.ew("where", &[small, zero, x])?;
    one(y)
}

fn softshrink(cx: &mut Cx<'_, '_>) -> Results {
    let lambd = cx.float("lambd")?;
    let x = cx.first()?;
    let y = cx.b.ew_with("shrink", &[lambd, lambd], &[x])?;
    let nan = cx.ew("is_nan", &[x])?;
    let y = cx.ew("where", &[nan, x, y])?;
    one(y)
}

fn threshold(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    let dtype = cx.dtype(x)?;
    let (limit, value) = (cx.get("threshold").clone(), cx.get("value").clone());
    let (limit, value) = (cx.as_dtype(&limit, dtype)?, cx.as_dtype(&value, dtype)?);
    let small = cx.ew("le", &[x, limit])?;
    let y = cx.ew("where", &[small, value, x])?;
    one(y)
}

/// The kernel of PReLU, whose slopes broadcast as operands do.
fn prelu_broadcast(cx: &mut Cx<'_, '_>) -> Results {
    let (x, slope) = (cx.tensor("self")?, cx.tensor("weight")?);
    let y = cx.ew("prelu", &[x, slope])?;
    one(y)
}

/// Slopes of one element, or of one a channel.
fn prelu(cx: &mut Cx<'_, '_>) -> Results {
    let (x, weight) = (cx.tensor("self")?, cx.tensor("weight")?);
    let rank = cx.rank(x)?;
    let slope: Value = match cx.shape(weight)?.as_slice() {
        [one] if one.as_known() == Some(1) => cx.b.reshape(weight, &[])?,
        [channels] if rank >= 2 => {
            let mut dims = vec![kiln_ir::Dim::known(1); rank];
            if let Some(slot) = dims.get_mut(1) {
                *slot = channels.clone();
            }
            cx.b.reshape(weight, &dims)?
        }
        _ => weight,
    };
    let y = cx.ew("prelu", &[x, slope])?;
    one(y)
}
