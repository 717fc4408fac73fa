//! Padding.

use kiln_ir::op::{Movement, PadMode};
use kiln_ir::{Build, Dim, Value};

use super::arg::Arg;
use super::cx::{Cx, one};
use super::{How, Results, Row, row};
use crate::error::OpError;

use How::Fn;

#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    row("aten::_pad_circular", Fn(pad_circular)),
    row("aten::constant_pad_nd", Fn(constant_pad)),
    row("aten::pad", Fn(pad)),
    row("aten::reflection_pad1d", Fn(|cx| padded(cx, PadMode::Reflect))),
    row("aten::reflection_pad2d", Fn(|cx| padded(cx, PadMode::Reflect))),
    row("aten::reflection_pad3d", Fn(|cx| padded(cx, PadMode::Reflect))),
    row("aten::replication_pad1d", Fn(|cx| padded(cx, PadMode::Edge))),
    row("aten::replication_pad2d", Fn(|cx| padded(cx, PadMode::Edge))),
    row("aten::replication_pad3d", Fn(|cx| padded(cx, PadMode::Edge))),
];

/// Pads the last axes by pairs, innermost first; negative amounts crop.
fn padding(cx: &mut Cx<'_, '_>, x: Value, name: &str, mode: PadMode, fill: &Arg) -> Result<Value, OpError> {
    let pairs = cx.dims(name)?;
    let (rank, dtype) = (cx.rank(x)?, cx.dtype(x)?);
    if pairs.len() % 2 != 0 || pairs.len() / 2 > rank {
        return Err(OpError::invalid(format!("{} amounts of padding for {rank} axes", pairs.len())));
    }
    let mut before = vec![Dim::known(0); rank];
    let mut after = before.clone();
    let mut x = x;
    for (i, pair) in pairs.chunks(2).enumerate() {
        let axis = rank - 1 - i;
        if let ([b, a], Some(first), Some(last)) = (pair, before.get_mut(axis), after.get_mut(axis)) {
            (*first, *last) = (b.clone(), a.clone());
            if mode == PadMode::Wrap {
                // What is cut off is not there to come around.
                x = cropped(cx, x, axis, b, a)?;
                let zero = Dim::known(0);
                (*first, *last) = (b.greater(&zero), a.greater(&zero));
            }
        }
    }
    let value = cx.as_dtype(fill, dtype)?;
    Ok(cx.b.add1(Movement::Pad { mode, before, after }, &[x, value])?)
}

/// Cuts negative amounts of padding off an axis.
fn cropped(cx: &mut Cx<'_, '_>, x: Value, axis: usize, before: &Dim, after: &Dim) -> Result<Value, OpError> {
    let zero = Dim::known(0);
    let cut = |amount: &Dim| (&zero - amount).greater(&zero);
    let (front, back) = (cut(before), cut(after));
    if front.as_known() == Some(0) && back.as_known() == Some(0) {
        return Ok(x);
    }
    let size = cx.shape(x)?.get(axis).cloned().unwrap_or(Dim::known(1));
    let left = size - front.clone() - back;
    if left.as_known().is_some_and(|left| left < 0) {
        return Err(OpError::invalid("padding that cuts off more than there is"));
    }
    Ok(cx.b.slice_axis(x, axis, front, left)?)
}

fn constant_pad(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let fill = cx.get("value").clone();
    let y = padding(cx, x, "pad", PadMode::Constant, &fill)?;
    one(y)
}

fn pad_circular(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let y = padding(cx, x, "pad", PadMode::Wrap, &Arg::int(0))?;
    one(y)
}

fn padded(cx: &mut Cx<'_, '_>, mode: PadMode) -> Results {
    let x = cx.tensor("self")?;
    let y = padding(cx, x, "padding", mode, &Arg::int(0))?;
    one(y)
}

fn pad(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let mode = match cx.maybe_text("mode")? {
        None | Some("constant") => PadMode::Constant,
        Some("reflect") => PadMode::Reflect,
        Some("replicate") => PadMode::Edge,
        Some("circular") => PadMode::Wrap,
        Some(other) => return Err(OpError::invalid(format!("mode `{other}`"))),
    };
    let fill = match cx.get("value").clone() {
        Arg::None => Arg::int(0),
        value => value,
    };
    let y = padding(cx, x, "pad", mode, &fill)?;
    one(y)
}
