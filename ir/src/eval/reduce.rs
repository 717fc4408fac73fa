//! Reductions.

use crate::op::{Reduce, ReduceKind};
use crate::{DClass, DType, Prim, Scalar, ScalarExpr, Tensor, wrap_int};

use super::cx::Cx;
use super::elementwise::eval_lanes;
use super::fault::{Fault, invalid};
use super::lanes::{Lanes, as_f64, as_i128};
use super::walk::{Walk, product, strides};

/// A reduction with static axes.
pub(super) fn reduce(cx: &mut Cx<'_>, op: &Reduce, x: &Tensor) -> Result<Tensor, Fault> {
    let Reduce::Axes { kind, axes, keepdims } = op;
    reduce_axes(cx, *kind, x, axes, *keepdims)
}

/// A reduction over `axes`.
pub(super) fn reduce_axes(
    cx: &mut Cx<'_>,
    kind: ReduceKind,
    x: &Tensor,
    axes: &[usize],
    keepdims: bool,
) -> Result<Tensor, Fault> {
    if let Some(a) = axes.iter().find(|&&a| a >= x.dims().len()) {
        return invalid(format!("axis {a} of a tensor of rank {}", x.dims().len()));
    }
    let dtype = x.dtype();
    check_dtype(kind, dtype)?;
    let kept: Vec<usize> =
        x.dims().iter().enumerate().map(|(a, &d)| if axes.contains(&a) { 1 } else { d }).collect();
    let outputs = cx.admit(dtype, &kept)?;
    cx.tick(x.numel())?;
    let mut out_strides = strides(&kept);
    axes.iter().for_each(|&a| out_strides[a] = 0);
    let row = kind.row();
    let body = |text, names: &[&str]| {
        ScalarExpr::parse(text, names, &[]).map_err(|e| Fault::Operands(e.to_string()))
    };
    let mut values = Lanes::decode(x)?;
    if row.map != "x" {
        values = eval_lanes(&body(row.map, &["x"])?, &[&values], &[], dtype, values.len())?;
    }
    let slots = Walk::new(x.dims(), &out_strides, 0);
    let combined = combine(row.combine, &values, slots, outputs, dtype)?;
    let reduced: Vec<usize> = axes.iter().map(|&a| x.dims()[a]).collect();
    let n = product(&reduced)?;
    let result = match combined {
        done if row.finish == "r" => done,
        sums => {
            let n = match sums {
                Lanes::I(_) => Scalar::I(n as i128),
                Lanes::F(_) | Lanes::B(_) => Scalar::F(n as f64),
            };
            let n = Lanes::splat(n, outputs);
            eval_lanes(&body(row.finish, &["r", "n"])?, &[&sums, &n], &[], dtype, outputs)?
        }
    };
    let dims: Vec<usize> = match keepdims {
        true => kept,
        false => x.dims().iter().enumerate().filter(|(a, _)| !axes.contains(a)).map(|(_, &d)| d).collect(),
    };
    result.encode(dtype, &dims)
}

fn check_dtype(kind: ReduceKind, dtype: DType) -> Result<(), Fault> {
    let fits = match kind {
        ReduceKind::Any | ReduceKind::All => dtype.class() == DClass::Bool,
        ReduceKind::L2 | ReduceKind::LogSum => dtype.is_float(),
        ReduceKind::Max | ReduceKind::Min => dtype.class() == DClass::Bool || is_number(dtype),
        ReduceKind::Sum | ReduceKind::Mean | ReduceKind::Prod | ReduceKind::L1 | ReduceKind::SumSquare => {
            is_number(dtype)
        }
    };
    if fits { Ok(()) } else { invalid(format!("{kind:?} does not apply to {dtype}")) }
}

fn is_number(dtype: DType) -> bool {
    matches!(dtype.class(), DClass::Signed | DClass::Unsigned | DClass::Float)
}

/// Combines each element into the slot that the walk names; floats in double precision, integers wrapping.
fn combine(p: Prim, values: &Lanes, slots: Walk, outputs: usize, dtype: DType) -> Result<Lanes, Fault> {
    let identity = identity(p, dtype);
    Ok(match values {
        Lanes::F(values) => {
            let mut out = vec![as_f64(identity); outputs];
            for (slot, &v) in slots.zip(values) {
                out[slot] = match p {
                    Prim::Add => out[slot] + v,
                    _ => as_f64(p.apply(&[Scalar::F(out[slot]), Scalar::F(v)], 64)),
                };
            }
            Lanes::F(out)
        }
        Lanes::I(values) => {
            let mut out = vec![as_i128(identity); outputs];
            for (slot, &v) in slots.zip(values) {
                let r = p.apply(&[Scalar::I(out[slot]), Scalar::I(v)], dtype.bits());
                out[slot] = wrap_int(as_i128(r), dtype);
            }
            Lanes::I(out)
        }
        Lanes::B(values) => {
            let mut out = vec![identity == Scalar::B(true); outputs];
            for (slot, &v) in slots.zip(values) {
                out[slot] = p.apply(&[Scalar::B(out[slot]), Scalar::B(v)], 8) == Scalar::B(true);
            }
            Lanes::B(out)
        }
    })
}

/// The identity of a combining primitive: 0, 1, lowest, highest, false, true.
pub(super) fn identity(p: Prim, dtype: DType) -> Scalar {
    let (lowest, highest) = dtype.int_range().unwrap_or((0, 0));
    match (dtype.class(), p) {
        (DClass::Bool, Prim::And | Prim::Min) => Scalar::B(true),
        (DClass::Bool, _) => Scalar::B(false),
        (DClass::Float, Prim::Mul) => Scalar::F(1.0),
        (DClass::Float, Prim::Max) => Scalar::F(f64::NEG_INFINITY),
        (DClass::Float, Prim::Min) => Scalar::F(f64::INFINITY),
        (DClass::Float, _) => Scalar::F(0.0),
        (_, Prim::Mul) => Scalar::I(1),
        (_, Prim::Max) => Scalar::I(lowest),
        (_, Prim::Min) => Scalar::I(highest),
        _ => Scalar::I(0),
    }
}
