//! Sorting, searching, scanning.

use kiln_ir::op::{CumKind, Dynamic, Host, Order};
use kiln_ir::{Build, DType, Tensor, Value};

use super::movement::{dynamic, int_vector};
use super::{How, Row, row};
use crate::onnx::cx::{Cx, OpError, Outputs, one};

use How::Fn;

pub(super) const ROWS: &[Row] = &[
    row("ArgMax", &[1, 11, 12, 13], Fn(arg_max)),
    row("ArgMin", &[1, 11, 12, 13], Fn(arg_min)),
    row("CumProd", &[26], Fn(|cx| cumulative(cx, CumKind::Prod))),
    row("CumSum", &[11, 14], Fn(|cx| cumulative(cx, CumKind::Sum))),
    row("Det", &[11, 22], Fn(det)),
    row("NonMaxSuppression", &[10, 11], Fn(non_max_suppression)),
    row("NonZero", &[9, 13], Fn(non_zero)),
    row("TopK", &[1, 10, 11, 24], Fn(top_k)),
    row("Unique", &[11], Fn(unique)),
];

struct Arg {
    axis: usize,
    keepdims: bool,
    last: bool,
}

fn arg(cx: &Cx<'_, '_, '_>, x: Value) -> Result<Arg, OpError> {
    let axis = cx.attrs.int_or("axis", 0)?;
    Ok(Arg {
        axis: cx.axis(axis, cx.rank(x)?)?,
        keepdims: cx.attrs.flag("keepdims", true)?,
        last: cx.attrs.flag("select_last_index", false)?,
    })
}

fn arg_max(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let Arg { axis, keepdims, last } = arg(cx, x)?;
    one(cx.b.add1(Order::ArgMax { axis, keepdims, last }, &[x])?)
}

fn arg_min(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let Arg { axis, keepdims, last } = arg(cx, x)?;
    one(cx.b.add1(Order::ArgMin { axis, keepdims, last }, &[x])?)
}

fn cumulative(cx: &mut Cx<'_, '_, '_>, kind: CumKind) -> Outputs {
    let (x, axis) = (cx.input(0)?, cx.input(1)?);
    let axis = int_vector(cx, axis)?;
    let exclusive = cx.attrs.flag("exclusive", false)?;
    let reverse = cx.attrs.flag("reverse", false)?;
    one(dynamic(cx, Dynamic::Cumulative { kind, exclusive, reverse }, &[x, axis])?)
}

fn det(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    one(cx.b.add1(Host::Det {}, &[x])?)
}

fn non_zero(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    one(cx.b.add1(Order::NonZero {}, &[x])?)
}

/// `k` was an attribute in opset 1.
fn top_k(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let k = match cx.optional(1) {
        Some(k) => cx.b.cast(k, DType::I64)?,
        None => {
            let k = cx.attrs.required_int("k")?;
            cx.ints(&[k])?
        }
    };
    let axis = cx.attrs.int_or("axis", -1)?;
    let axis = cx.axis(axis, cx.rank(x)?)?;
    let (largest, sorted) = (cx.attrs.flag("largest", true)?, cx.attrs.flag("sorted", true)?);
    Ok(cx.b.add(Order::TopK { axis, largest, sorted }.into(), &[x, k])?.to_vec())
}

fn unique(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let axis = match cx.attrs.int("axis")? {
        Some(axis) => Some(cx.axis(axis, cx.rank(x)?)?),
        None => None,
    };
    let sorted = cx.attrs.flag("sorted", true)?;
    Ok(cx.b.add(Order::Unique { axis, sorted }.into(), &[x])?.to_vec())
}

/// Absent limits: no box, no overlap, no threshold.
fn non_max_suppression(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (boxes, scores) = (cx.input(0)?, cx.input(1)?);
    let defaults = [Tensor::scalar(0i64), Tensor::scalar(0.0f32), Tensor::scalar(f32::NEG_INFINITY)];
    let mut operands = vec![boxes, scores];
    for (i, default) in defaults.into_iter().enumerate() {
        operands.push(match cx.optional(i + 2) {
            Some(v) => cx.b.reshape(v, &[])?,
            None => cx.b.constant(default)?,
        });
    }
    let center_point_box = cx.attrs.flag("center_point_box", false)?;
    one(cx.b.add1(Host::NonMaxSuppression { center_point_box }, &operands)?)
}
