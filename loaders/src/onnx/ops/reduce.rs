//! Reductions. Axes were an attribute before opset 18 (`ReduceSum`: 13).

use kiln_ir::decompose::log_sum_exp_by;
use kiln_ir::op::{Composite, Dynamic, ReduceKind};
use kiln_ir::{Build, DType, Value};

use super::{How, Row, row};
use crate::onnx::cx::{Cx, OpError, Outputs, one};

use How::Fn;

pub(super) const ROWS: &[Row] = &[
    row("ReduceL1", &[1, 11, 13, 18], Fn(|cx| import(cx, ReduceKind::L1))),
    row("ReduceL2", &[1, 11, 13, 18], Fn(|cx| import(cx, ReduceKind::L2))),
    row("ReduceLogSum", &[1, 11, 13, 18], Fn(|cx| import(cx, ReduceKind::LogSum))),
    row("ReduceLogSumExp", &[1, 11, 13, 18], Fn(log_sum_exp)),
    row("ReduceMax", &[1, 11, 12, 13, 18, 20], Fn(|cx| import(cx, ReduceKind::Max))),
    row("ReduceMean", &[1, 11, 13, 18], Fn(|cx| import(cx, ReduceKind::Mean))),
    row("ReduceMin", &[1, 11, 12, 13, 18, 20], Fn(|cx| import(cx, ReduceKind::Min))),
    row("ReduceProd", &[1, 11, 13, 18], Fn(|cx| import(cx, ReduceKind::Prod))),
    row("ReduceSum", &[1, 11, 13], Fn(|cx| import(cx, ReduceKind::Sum))),
    row("ReduceSumSquare", &[1, 11, 13, 18], Fn(|cx| import(cx, ReduceKind::SumSquare))),
];

/// The axes of a reduction.
enum Axes {
    /// Known.
    Static(Vec<usize>),
    /// An i64 vector whose elements, or the operand's rank, are not known.
    Dynamic(Value),
}

fn axes(cx: &mut Cx<'_, '_, '_>, x: Value, noop: bool) -> Result<Axes, OpError> {
    let given = match (cx.attrs.ints("axes")?, cx.optional(1)) {
        (Some(list), _) => Some(list),
        (None, Some(v)) => match cx.known_ints(v) {
            Some(list) => Some(list),
            None => return Ok(Axes::Dynamic(v)),
        },
        (None, None) => None,
    };
    let list = given.unwrap_or_default();
    let Ok(rank) = cx.rank(x) else { return Ok(Axes::Dynamic(cx.ints(&list)?)) };
    if list.is_empty() && !noop {
        return Ok(Axes::Static((0..rank).collect()));
    }
    Ok(Axes::Static(cx.axes(&list, rank)?))
}

fn import(cx: &mut Cx<'_, '_, '_>, kind: ReduceKind) -> Outputs {
    let x = cx.input(0)?;
    let keepdims = cx.attrs.flag("keepdims", true)?;
    let noop = cx.attrs.flag("noop_with_empty_axes", false)?;
    let dtype = cx.dtype(x)?;
    let kind = match (kind, dtype) {
        (ReduceKind::Max, DType::Bool) => ReduceKind::Any,
        (ReduceKind::Min, DType::Bool) => ReduceKind::All,
        _ => kind,
    };
    // Square roots and logarithms of integer sums are computed in f64 and truncated back.
    let in_floats = matches!(kind, ReduceKind::L2 | ReduceKind::LogSum) && !dtype.is_float();
    let operand = if in_floats { cx.b.cast(x, DType::F64)? } else { x };
    let y = match axes(cx, x, noop)? {
        Axes::Static(axes) => cx.b.reduce(kind, operand, &axes, keepdims)?,
        Axes::Dynamic(axes) => cx.b.add1(Dynamic::Reduce { kind, keepdims, noop }, &[operand, axes])?,
    };
    one(cx.b.cast(y, dtype)?)
}

fn log_sum_exp(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let keepdims = cx.attrs.flag("keepdims", true)?;
    let noop = cx.attrs.flag("noop_with_empty_axes", false)?;
    let dtype = cx.dtype(x)?;
    let operand = if dtype.is_float() { x } else { cx.b.cast(x, DType::F64)? };
    let y = match axes(cx, x, noop)? {
        Axes::Static(axes) => cx.b.add1(Composite::LogSumExp { axes, keepdims }, &[operand])?,
        Axes::Dynamic(axes) => {
            let over = |kind, keepdims| Dynamic::Reduce { kind, keepdims, noop };
            let y = log_sum_exp_by(cx.b, operand, &mut |b, kind, x| {
                Ok(b.add(over(kind, true).into(), &[x, axes])?[0])
            })?;
            if keepdims { y } else { cx.b.add1(over(ReduceKind::Max, false), &[y, axes])? }
        }
    };
    one(cx.b.cast(y, dtype)?)
}
