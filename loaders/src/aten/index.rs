//! Indexing, gathers and scatters.

use kiln_ir::op::{Index, Order};
use kiln_ir::{Build, DType, Value};

use super::cx::{Cx, many, one};
use super::{How, Results, Row, row};
use crate::error::OpError;

use How::Fn;

#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    row("aten::embedding", Fn(embedding)),
    row("aten::gather", Fn(gather)),
    row("aten::index_select", Fn(index_select)),
];

/// An index as i64.
pub(super) fn indices(cx: &mut Cx<'_, '_>, name: &str) -> Result<Value, OpError> {
    let v = cx.tensor(name)?;
    Ok(cx.b.cast(v, DType::I64)?)
}

fn embedding(cx: &mut Cx<'_, '_>) -> Results {
    let (weight, index) = (cx.tensor("weight")?, indices(cx, "indices")?);
    let y = cx.b.add1(Index::Gather { axis: 0 }, &[weight, index])?;
    one(y)
}

fn index_select(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let rank = cx.rank(x)?;
    let axis = cx.axis("dim", rank)?;
    let index = indices(cx, "index")?;
    if rank == 0 {
        return one(x);
    }
    let count = cx.numel(index)?;
    let index = cx.b.reshape(index, &[count])?;
    let y = cx.b.add1(Index::Gather { axis }, &[x, index])?;
    one(y)
}

fn gather(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let rank = cx.rank(x)?;
    let axis = cx.axis("dim", rank)?;
    let index = indices(cx, "index")?;
    if rank == 0 {
        let shape = cx.shape(index)?;
        let y = cx.b.broadcast(x, &shape)?;
        return one(y);
    }
    let y = gathered(cx, x, index, axis)?;
    one(y)
}

/// Elements along an axis; other axes of the index may be shorter.
pub(super) fn gathered(
    cx: &mut Cx<'_, '_>,
    mut x: Value,
    index: Value,
    axis: usize,
) -> Result<Value, OpError> {
    let sizes = cx.shape(index)?;
    for (i, size) in sizes.iter().enumerate() {
        if i != axis && cx.shape(x)?.get(i) != Some(size) {
            x = cx.b.slice_axis(x, i, kiln_ir::Dim::known(0), size.clone())?;
        }
    }
    Ok(cx.b.add1(Index::GatherElements { axis }, &[x, index])?)
}

/// `torch.where(condition)`: the coordinates of what holds, a tensor an axis.
pub(super) fn where_true(cx: &mut Cx<'_, '_>, condition: Value) -> Results {
    let rank = cx.rank(condition)?;
    let places = cx.b.add1(Order::NonZero {}, &[condition])?;
    let rows = (0..rank).map(|axis| {
        let at = i64::try_from(axis).unwrap_or(i64::MAX);
        super::movement::picked(cx, places, 0, kiln_ir::Dim::known(at))
    });
    let rows = rows.collect::<Result<Vec<_>, _>>()?;
    many(rows).map(|rows| vec![super::Arg::List(rows)])
}
