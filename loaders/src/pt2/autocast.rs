//! Automatic casts of a region: `wrap_with_autocast`.
//!
//! Programs keep the casts implicit: operators in the region run with operands of another type, by lists that PyTorch's
//! dispatcher has for the CPU (`aten/src/ATen/autocast_mode.cpp`), with operators that are made of those. Operands that
//! take part are floats of at most 32 bits.

use kiln_ir::{Build, DType, GraphBuilder, Value};

use crate::aten::Arg;
use crate::error::OpError;

/// Operators in the narrow type.
const NARROW: &[&str] = &[
    "_native_multi_head_attention",
    "addbmm",
    "addmm",
    "baddbmm",
    "bmm",
    "chain_matmul",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_tbc",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "einsum",
    "inner",
    "linalg_matmul",
    "linalg_multi_dot",
    "linalg_vecdot",
    "linear",
    "matmul",
    "mm",
    "prelu",
    "scaled_dot_product_attention",
    "tensordot",
];

/// Operators in f32.
const WIDE: &[&str] = &[
    "adaptive_avg_pool3d",
    "adaptive_max_pool3d",
    "avg_pool3d",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cdist",
    "cosine_embedding_loss",
    "cross_entropy_loss",
    "grid_sampler",
    "grid_sampler_2d",
    "grid_sampler_3d",
    "hinge_embedding_loss",
    "huber_loss",
    "inverse",
    "kl_div",
    "l1_loss",
    "linalg_inv",
    "linalg_inv_ex",
    "linalg_solve",
    "margin_ranking_loss",
    "max_pool3d",
    "max_unpool2d",
    "mse_loss",
    "multi_margin_loss",
    "nanquantile",
    "nll_loss",
    "nll_loss2d",
    "nll_loss_nd",
    "poisson_nll_loss",
    "prod",
    "quantile",
    "reflection_pad1d",
    "reflection_pad2d",
    "replication_pad1d",
    "replication_pad2d",
    "replication_pad3d",
    "smooth_l1_loss",
    "soft_margin_loss",
    "stft",
    "trace",
    "triplet_margin_loss",
    "view_as_complex",
];

/// Operators in the widest type of their operands.
const WIDEST: &[&str] = &["cat", "index_copy", "stack"];

/// Operators that cast some of what they compute with.
const PARTLY: &[&str] = &[
    "_transformer_encoder_layer_fwd",
    "affine_grid_generator",
    "corrcoef",
    "cov",
    "gru",
    "gru_cell",
    "lstm",
    "lstm_cell",
    "rnn_relu",
    "rnn_relu_cell",
    "rnn_tanh",
    "rnn_tanh_cell",
];

/// The narrow type of a region, by its device and the type that the program names.
pub(super) fn narrow_type(device: &str, dtype: Option<DType>) -> Result<DType, OpError> {
    match (device, dtype.unwrap_or(DType::BF16)) {
        ("cpu", dtype @ (DType::BF16 | DType::F16)) => Ok(dtype),
        (device, dtype) => Err(OpError::unsupported(format!("automatic casts to {dtype} on `{device}`"))),
    }
}

/// Whether an operand takes part.
fn takes_part(b: &GraphBuilder<'_>, v: Value) -> Option<DType> {
    b.dtype(v).ok().filter(|d| d.is_float() && matches!(d.bits(), 16 | 32))
}

fn visit(args: &mut [Arg], change: &mut dyn FnMut(&mut Value) -> Result<(), OpError>) -> Result<(), OpError> {
    for arg in args {
        match arg {
            Arg::Tensor(v) => change(v)?,
            Arg::List(items) => visit(items, change)?,
            _ => {}
        }
    }
    Ok(())
}

/// Casts the operands of an operator in a region whose narrow type is `narrow`.
pub(super) fn cast(
    b: &mut GraphBuilder<'_>,
    name: &str,
    narrow: DType,
    args: &mut [Arg],
    kwargs: &mut [(String, Arg)],
) -> Result<(), OpError> {
    let name = name.strip_prefix("aten::").unwrap_or(name);
    let is_in = |list: &[&str]| list.binary_search(&name).is_ok();
    let mut to = match () {
        _ if is_in(NARROW) => narrow,
        _ if is_in(WIDE) => DType::F32,
        _ if WIDEST.contains(&name) => narrow,
        _ if PARTLY.contains(&name) => {
            return Err(OpError::unsupported("an operator that automatic casts change in parts"));
        }
        _ => return Ok(()),
    };
    let mut each = |change: &mut dyn FnMut(&mut Value) -> Result<(), OpError>| {
        visit(args, change)?;
        kwargs.iter_mut().try_for_each(|(_, arg)| visit(std::slice::from_mut(arg), change))
    };
    if WIDEST.contains(&name) {
        each(&mut |v| {
            if takes_part(b, *v) == Some(DType::F32) {
                to = DType::F32;
            }
            Ok(())
        })?;
    }
    each(&mut |v| {
        if takes_part(b, *v).is_some_and(|dtype| dtype != to) {
            *v = b.cast(*v, to)?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn lists_are_sorted() {
        assert!(super::NARROW.is_sorted() && super::WIDE.is_sorted());
    }
}
