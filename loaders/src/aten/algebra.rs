//! Chains of products, powers, inverses and norms of matrices.

use kiln_ir::op::{Contract, Host, Index, ReduceKind};
use kiln_ir::{Build, DType, Dim, Tensor, Value};

use super::arg::Arg;
use super::cx::{Cx, many, normal_axis, one};
use super::linear::product_of;
use super::{How, Results, Row, row};
use crate::error::OpError;

use How::Fn;

#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    row("aten::_int_mm", Fn(int_mm)),
    row("aten::chain_matmul", Fn(|cx| chain(cx, "matrices"))),
    row("aten::inverse", Fn(inverse)),
    row("aten::linalg_inv", Fn(inverse)),
    row("aten::linalg_inv_ex", Fn(inverse_ex)),
    row("aten::linalg_matrix_norm", Fn(matrix_norm)),
    row("aten::linalg_matrix_power", Fn(matrix_power)),
    row("aten::linalg_multi_dot", Fn(|cx| chain(cx, "tensors"))),
    row("aten::linalg_solve", Fn(solve)),
    row("aten::matrix_power", Fn(matrix_power)),
    row("aten::pdist", Fn(pdist)),
];

fn chain(cx: &mut Cx<'_, '_>, name: &str) -> Results {
    let values = cx.tensors(name)?;
    let (first, rest) = values.split_first().ok_or_else(|| OpError::invalid("no matrices"))?;
    let mut y = *first;
    for v in rest {
        y = product_of(cx, y, *v)?;
    }
    one(y)
}

/// Batch axes and size of square matrices.
fn square(cx: &Cx<'_, '_>, x: Value) -> Result<(Vec<Dim>, Dim), OpError> {
    match cx.shape(x)?.as_slice() {
        [batch @ .., n, m] if n == m => Ok((batch.to_vec(), n.clone())),
        [.., n, m] if n.as_known().is_none() || m.as_known().is_none() => {
            Err(OpError::unsupported("matrices that may not be square"))
        }
        _ => Err(OpError::invalid("matrices that are not square")),
    }
}

/// Inverses of the last two axes.
fn inverse_of(cx: &mut Cx<'_, '_>, x: Value) -> Result<Value, OpError> {
    square(cx, x)?;
    Ok(cx.b.add1(Host::Inverse {}, &[x])?)
}

fn inverse(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    let y = inverse_of(cx, x)?;
    one(y)
}

/// With a zero for each matrix: what has no inverse fails.
fn inverse_ex(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    let (batch, _) = square(cx, x)?;
    let y = inverse_of(cx, x)?;
    let info = cx.filled(DType::I32, 0.0, &batch)?;
    many([y, info])
}

/// `A X = B`, or `X A = B`, by the inverse in f64.
fn solve(cx: &mut Cx<'_, '_>) -> Results {
    let (a, b) = (cx.tensor("A")?, cx.tensor("B")?);
    let dtype = cx.dtype(a)?;
    let (batch, n) = square(cx, a)?;
    let shape = cx.shape(b)?;
    let mut vectors = batch;
    vectors.push(n);
    let is_vector = shape.len() == 1 || shape == vectors;
    let (a, b) = (cx.b.cast(a, DType::F64)?, cx.b.cast(b, DType::F64)?);
    let inverse = inverse_of(cx, a)?;
    if is_vector {
        let mut column = shape.clone();
        column.push(Dim::known(1));
        let column = cx.b.reshape(b, &column)?;
        let y = product_of(cx, inverse, column)?;
        let mut dims = cx.shape(y)?;
        dims.pop();
        let y = cx.b.reshape(y, &dims)?;
        let y = cx.b.cast(y, dtype)?;
        return one(y);
    }
    let y = if cx.flag("left")? { product_of(cx, inverse, b)? } else { product_of(cx, b, inverse)? };
    let y = cx.b.cast(y, dtype)?;
    one(y)
}

/// Largest exponent of a matrix.
const MOST_FACTORS: i64 = 1 << 20;

fn matrix_power(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let (_, n) = square(cx, x)?;
    let (dtype, shape) = (cx.dtype(x)?, cx.shape(x)?);
    let given = cx.int("n")?;
    let mut exponent = given.saturating_abs();
    if exponent > MOST_FACTORS {
        return Err(OpError::unsupported(format!("the power {given} of a matrix")));
    }
    if exponent == 0 {
        let (i, j) = (cx.positions(&n, DType::I64, 0, 2)?, cx.positions(&n, DType::I64, 1, 2)?);
        let on = cx.ew("eq", &[i, j])?;
        let unit = cx.b.cast(on, dtype)?;
        let y = cx.b.broadcast(unit, &shape)?;
        return one(y);
    }
    let mut factor = if given < 0 { inverse_of(cx, x)? } else { x };
    let mut y = None;
    while exponent > 0 {
        if exponent % 2 == 1 {
            y = Some(match y {
                Some(y) => product_of(cx, y, factor)?,
                None => factor,
            });
        }
        exponent /= 2;
        if exponent > 0 {
            factor = product_of(cx, factor, factor)?;
        }
    }
    one(y.unwrap_or(x))
}

/// A norm of the matrices of two axes: the root of the sum of squares, or the largest or smallest sum of a column (1, -1)
/// or a row (infinity).
pub(super) fn norm_of_matrix(
    cx: &mut Cx<'_, '_>,
    x: Value,
    order: Option<f64>,
    (rows, columns): (usize, usize),
    keepdim: bool,
) -> Result<Value, OpError> {
    if rows == columns {
        return Err(OpError::invalid("a matrix has two axes"));
    }
    let Some(order) = order else {
        return Ok(cx.b.reduce(ReduceKind::L2, x, &[rows, columns], keepdim)?);
    };
    let (summed, compared) = match order.abs() {
        1.0 => (rows, columns),
        f64::INFINITY => (columns, rows),
        _ => return Err(OpError::unsupported(format!("the norm {order} of a matrix"))),
    };
    let kind = if order > 0.0 { ReduceKind::Max } else { ReduceKind::Min };
    let sums = cx.b.reduce(ReduceKind::L1, x, &[summed], true)?;
    let y = cx.b.reduce(kind, sums, &[compared], true)?;
    let (first, second) = (rows.max(columns), rows.min(columns));
    let y = super::reduce::dropped(cx, y, first, keepdim)?;
    super::reduce::dropped(cx, y, second, keepdim)
}

/// The order of a norm: none for that of Frobenius.
pub(super) fn order(cx: &Cx<'_, '_>) -> Result<Option<f64>, OpError> {
    match cx.get("ord") {
        Arg::None => Ok(None),
        Arg::Str(text) if text == "fro" => Ok(None),
        Arg::Str(text) => Err(OpError::unsupported(format!("ord `{text}`"))),
        _ => cx.float("ord").map(Some),
    }
}

fn matrix_norm(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let x = match cx.dtype_arg("dtype")? {
        Some(dtype) => cx.b.cast(x, dtype)?,
        None => x,
    };
    let rank = cx.rank(x)?;
    let given = cx.ints("dim")?;
    let [a, b] = given.as_slice() else { return Err(OpError::invalid("a matrix has two axes")) };
    let axes = (normal_axis(*a, rank)?, normal_axis(*b, rank)?);
    let (order, keepdim) = (order(cx)?, cx.flag("keepdim")?);
    let y = norm_of_matrix(cx, x, order, axes, keepdim)?;
    one(y)
}

/// Bytes times bytes, summed up in i32.
fn int_mm(cx: &mut Cx<'_, '_>) -> Results {
    let (a, b) = (cx.tensor("self")?, cx.tensor("mat2")?);
    if cx.dtype(a)? != DType::I8 || cx.dtype(b)? != DType::I8 {
        return Err(OpError::invalid("factors that are not i8"));
    }
    let spec = "mk,kn->mn".parse().map_err(OpError::Invalid)?;
    let y = cx.b.add1(Contract::Einsum { spec, out: DType::I32 }, &[a, b])?;
    one(y)
}

/// Most pairs of rows.
const MOST_PAIRS: i64 = 1 << 20;

/// Distances of every row to those after it.
fn pdist(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let n = cx.shape(x)?.first().and_then(Dim::as_known);
    let n = n.ok_or_else(|| OpError::unsupported("distances of an unknown number of rows"))?;
    if n.saturating_mul(n) > MOST_PAIRS {
        return Err(OpError::unsupported(format!("distances of {n} rows")));
    }
    if n < 2 {
        let dtype = cx.dtype(x)?;
        let y = cx.filled(dtype, 0.0, &[Dim::known(0)])?;
        return one(y);
    }
    let pairs = || (0..n).flat_map(|i| (i + 1..n).map(move |j| (i, j)));
    let (first, second): (Vec<i64>, Vec<i64>) = pairs().unzip();
    let (first, second) = (cx.b.constant(Tensor::ints(&first))?, cx.b.constant(Tensor::ints(&second))?);
    let rows = Index::Gather { axis: 0 };
    let (a, b) = (cx.b.add1(rows.clone(), &[x, first])?, cx.b.add1(rows, &[x, second])?);
    let difference = cx.ew("sub", &[a, b])?;
    let p = cx.float("p")?;
    let y = super::reduce::norm_over(cx, difference, p, &[1], false)?;
    one(y)
}
