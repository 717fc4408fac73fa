//! Products of matrices.

use kiln_ir::op::{Contract, ContractSpec, ReduceKind};
use kiln_ir::{Build, DType, Dim, Value};

use super::cx::{Cx, one};
use super::pointwise::pair;
use super::{How, Results, Row, row};
use crate::error::OpError;

use How::{Alias, Fn};

#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    row("aten::_cdist_forward", Alias("aten::cdist")),
    row("aten::_euclidean_dist", Fn(|cx| distances(cx, 2.0))),
    row("aten::addbmm", Fn(addbmm)),
    row("aten::addmm", Fn(|cx| added(cx, "mat1", "mat2"))),
    row("aten::addmv", Fn(|cx| added(cx, "mat", "vec"))),
    row("aten::addr", Fn(addr)),
    row("aten::baddbmm", Fn(|cx| added(cx, "batch1", "batch2"))),
    row("aten::bilinear", Fn(bilinear)),
    row("aten::bmm", Fn(|cx| matmul_of(cx, "self", "mat2"))),
    row("aten::cdist", Fn(cdist)),
    row("aten::cross", Fn(cross)),
    row("aten::det", Alias("aten::linalg_det")),
    row("aten::dot", Fn(|cx| matmul_of(cx, "self", "tensor"))),
    row("aten::einsum", Fn(super::einsum::einsum)),
    row("aten::ger", Fn(outer)),
    row("aten::inner", Fn(inner)),
    row("aten::kron", Fn(kron)),
    row("aten::linalg_cross", Fn(cross)),
    row("aten::linalg_det", Fn(det)),
    row("aten::linalg_matmul", Fn(|cx| matmul_of(cx, "self", "other"))),
    row("aten::linalg_vecdot", Fn(vecdot)),
    row("aten::linear", Fn(linear)),
    row("aten::matmul", Fn(|cx| matmul_of(cx, "self", "other"))),
    row("aten::mm", Fn(|cx| matmul_of(cx, "self", "mat2"))),
    row("aten::mv", Fn(|cx| matmul_of(cx, "self", "vec"))),
    row("aten::outer", Fn(outer)),
    row("aten::tensordot", Fn(tensordot)),
    row("aten::vdot", Fn(|cx| matmul_of(cx, "self", "other"))),
];

/// Letters for batch axes, from the last one back; `m`, `k`, `n` are taken.
fn batch_labels(count: usize) -> Result<Vec<u8>, OpError> {
    let letters: Vec<u8> = (b'a'..=b'z').chain(b'A'..=b'Z').filter(|l| !b"mkn".contains(l)).collect();
    let labels = letters.get(..count).map(<[u8]>::to_vec);
    let mut labels = labels.ok_or_else(|| OpError::invalid(format!("{count} batch axes")))?;
    labels.reverse();
    Ok(labels)
}

/// Takes axes of size 1 off `v` whose label the other operand has with another size, or with size 1, too.
fn drop_unit_axes(
    cx: &mut Cx<'_, '_>,
    v: &mut Value,
    labels: &mut Vec<u8>,
    other: Value,
    other_labels: &[u8],
) -> Result<(), OpError> {
    let (dims, other_dims) = (cx.shape(*v)?, cx.shape(other)?);
    let other_size = |l: u8| other_labels.iter().position(|&o| o == l).and_then(|i| other_dims.get(i));
    let goes = |l: u8, d: &Dim| {
        d.as_known() == Some(1) && other_size(l).is_some_and(|size| size.as_known() != Some(1))
    };
    let drop: Vec<bool> = labels.iter().zip(&dims).map(|(&l, d)| goes(l, d)).collect();
    if !drop.contains(&true) {
        return Ok(());
    }
    let is_kept = |i: usize| !drop.get(i).copied().unwrap_or(false);
    let kept: Vec<Dim> =
        dims.iter().enumerate().filter(|(i, _)| is_kept(*i)).map(|(_, d)| d.clone()).collect();
    *v = cx.b.reshape(*v, &kept)?;
    *labels = labels.iter().enumerate().filter(|(i, _)| is_kept(*i)).map(|(_, l)| *l).collect();
    Ok(())
}

/// Matrix product as `torch.matmul` has it: batch axes broadcast, vectors are rows or columns.
pub(super) fn product_of(cx: &mut Cx<'_, '_>, mut a: Value, mut b: Value) -> Result<Value, OpError> {
    let (rank_a, rank_b) = (cx.rank(a)?, cx.rank(b)?);
    if rank_a == 0 || rank_b == 0 {
        return Err(OpError::invalid("a scalar is no matrix"));
    }
    let mut lhs = batch_labels(rank_a.saturating_sub(2))?;
    let mut rhs = batch_labels(rank_b.saturating_sub(2))?;
    let mut out = if lhs.len() > rhs.len() { lhs.clone() } else { rhs.clone() };
    drop_unit_axes(cx, &mut a, &mut lhs, b, &rhs)?;
    drop_unit_axes(cx, &mut b, &mut rhs, a, &lhs)?;
    // Axes that both had with size 1 went on one side and stay on the other.
    out.retain(|l| lhs.contains(l) || rhs.contains(l));
    lhs.extend(if rank_a == 1 { b"k".as_slice() } else { b"mk" });
    rhs.extend(if rank_b == 1 { b"k".as_slice() } else { b"kn" });
    if rank_a > 1 {
        out.push(b'm');
    }
    if rank_b > 1 {
        out.push(b'n');
    }
    contraction(cx, ContractSpec { lhs, rhs, out }, a, b)
}

/// A contraction in the operands' type, which is one.
pub(super) fn contraction(
    cx: &mut Cx<'_, '_>,
    spec: ContractSpec,
    a: Value,
    b: Value,
) -> Result<Value, OpError> {
    let dtype = cx.dtype(a)?;
    let other = cx.dtype(b)?;
    if other != dtype {
        return Err(OpError::invalid(format!("a product of {dtype} and {other}")));
    }
    if dtype == DType::Bool {
        return Err(OpError::unsupported("products of bools"));
    }
    Ok(cx.b.add1(Contract::Einsum { spec, out: dtype }, &[a, b])?)
}

/// A contraction by labels, as `bmk,bkn->bmn`.
pub(super) fn einsum_of(cx: &mut Cx<'_, '_>, spec: &str, a: Value, b: Value) -> Result<Value, OpError> {
    let spec = spec.parse().map_err(OpError::Invalid)?;
    contraction(cx, spec, a, b)
}

/// The two operands of a product, in the type that the overload asks for.
fn factors(cx: &mut Cx<'_, '_>, a: &str, b: &str) -> Result<(Value, Value), OpError> {
    let (a, b) = (cx.tensor(a)?, cx.tensor(b)?);
    Ok(match cx.dtype_arg("out_dtype")? {
        Some(dtype) => (cx.b.cast(a, dtype)?, cx.b.cast(b, dtype)?),
        None => (a, b),
    })
}

fn matmul_of(cx: &mut Cx<'_, '_>, a: &str, b: &str) -> Results {
    let (a, b) = factors(cx, a, b)?;
    let y = product_of(cx, a, b)?;
    one(y)
}

/// `input . weight^T + bias`; the weight stays as it lies.
fn linear(cx: &mut Cx<'_, '_>) -> Results {
    let (x, w, bias) = (cx.tensor("input")?, cx.tensor("weight")?, cx.maybe_tensor("bias")?);
    let y = dense(cx, x, w, bias)?;
    one(y)
}

/// A dense layer.
pub(super) fn dense(cx: &mut Cx<'_, '_>, x: Value, w: Value, bias: Option<Value>) -> Result<Value, OpError> {
    let rank = cx.rank(x)?;
    let mut labels = batch_labels(rank.saturating_sub(2))?;
    if rank > 1 {
        labels.push(b'm');
    }
    let (mut lhs, mut out) = (labels.clone(), labels);
    lhs.push(b'k');
    let rhs = if cx.rank(w)? == 1 { b"k".to_vec() } else { b"nk".to_vec() };
    if rhs.len() == 2 {
        out.push(b'n');
    }
    let y = contraction(cx, ContractSpec { lhs, rhs, out }, x, w)?;
    match bias {
        Some(bias) => cx.ew("add", &[y, bias]),
        None => Ok(y),
    }
}

/// `beta * self + alpha * product`.
pub(super) fn mixed(cx: &mut Cx<'_, '_>, product: Value) -> Results {
    let mut x = cx.tensor("self")?;
    let dtype = cx.dtype(product)?;
    if cx.takes("out_dtype") {
        x = cx.b.cast(x, dtype)?;
    }
    let (beta, alpha) = (cx.get("beta").clone(), cx.get("alpha").clone());
    let y = match cx.to_float(&alpha) {
        Some(1.0) => product,
        _ => {
            let alpha = cx.as_dtype(&alpha, dtype)?;
            cx.ew("mul", &[product, alpha])?
        }
    };
    // A factor 0 leaves out the tensor, whatever is in it.
    let y = match cx.to_float(&beta) {
        Some(0.0) => y,
        Some(1.0) => cx.ew("add", &[y, x])?,
        _ => {
            let beta = cx.as_dtype(&beta, dtype)?;
            let part = cx.ew("mul", &[x, beta])?;
            cx.ew("add", &[y, part])?
        }
    };
    one(y)
}

fn added(cx: &mut Cx<'_, '_>, a: &str, b: &str) -> Results {
    let (a, b) = factors(cx, a, b)?;
    let product = product_of(cx, a, b)?;
    mixed(cx, product)
}

/// The products of all pairs summed up.
fn addbmm(cx: &mut Cx<'_, '_>) -> Results {
    let (a, b) = (cx.tensor("batch1")?, cx.tensor("batch2")?);
    let products = product_of(cx, a, b)?;
    let sum = cx.b.reduce(ReduceKind::Sum, products, &[0], false)?;
    mixed(cx, sum)
}

/// Every element of the first with every one of the second.
fn outer_of(cx: &mut Cx<'_, '_>, a: Value, b: Value) -> Result<Value, OpError> {
    let rows = cx.numel(a)?;
    let column = cx.b.reshape(a, &[rows, Dim::known(1)])?;
    let of_bools = cx.dtype(column)? == kiln_ir::DType::Bool;
    cx.ew(if of_bools { "and" } else { "mul" }, &[column, b])
}

fn outer(cx: &mut Cx<'_, '_>) -> Results {
    let (values, _) = cx.promoted(&["self", "vec2"])?;
    let [a, b] = pair(&values)?;
    let y = outer_of(cx, a, b)?;
    one(y)
}

fn addr(cx: &mut Cx<'_, '_>) -> Results {
    let (a, b) = (cx.tensor("vec1")?, cx.tensor("vec2")?);
    let product = outer_of(cx, a, b)?;
    mixed(cx, product)
}

/// Over the last axes of both.
fn inner(cx: &mut Cx<'_, '_>) -> Results {
    let (a, b) = (cx.tensor("self")?, cx.tensor("other")?);
    if cx.rank(a)? == 0 || cx.rank(b)? == 0 {
        let y = cx.ew("mul", &[a, b])?;
        return one(y);
    }
    let (n, m) = (cx.rank(a)? - 1, cx.rank(b)? - 1);
    let y = over_axes(cx, a, b, &[n], &[m])?;
    one(y)
}

/// A sum over pairs of axes; the others of the first come first.
fn over_axes(
    cx: &mut Cx<'_, '_>,
    a: Value,
    b: Value,
    axes_a: &[usize],
    axes_b: &[usize],
) -> Result<Value, OpError> {
    let (n, m) = (cx.rank(a)?, cx.rank(b)?);
    let letters: Vec<u8> = (b'a'..=b'z').chain(b'A'..=b'Z').collect();
    let (Some(lhs), true) = (letters.get(..n).map(<[u8]>::to_vec), axes_a.len() == axes_b.len()) else {
        return Err(OpError::invalid("axes of different numbers, or too many"));
    };
    let mut free = letters.iter().skip(n);
    let mut rhs = vec![];
    for axis in 0..m {
        let at = axes_b.iter().position(|&x| x == axis).and_then(|i| axes_a.get(i)).and_then(|&i| lhs.get(i));
        let label = at.or_else(|| free.next()).copied();
        rhs.push(label.ok_or_else(|| OpError::invalid("too many axes"))?);
    }
    let summed = |l: &u8| lhs.contains(l) && rhs.contains(l);
    let out = lhs.iter().chain(&rhs).copied().filter(|l| !summed(l)).collect();
    contraction(cx, ContractSpec { lhs, rhs, out }, a, b)
}

fn tensordot(cx: &mut Cx<'_, '_>) -> Results {
    let (a, b) = (cx.tensor("self")?, cx.tensor("other")?);
    let (given_a, given_b) = (cx.ints("dims_self")?, cx.ints("dims_other")?);
    let (axes_a, axes_b) = (cx.listed_axes(&given_a, cx.rank(a)?)?, cx.listed_axes(&given_b, cx.rank(b)?)?);
    let y = over_axes(cx, a, b, &axes_a, &axes_b)?;
    one(y)
}

fn vecdot(cx: &mut Cx<'_, '_>) -> Results {
    let (values, _) = cx.promoted(&["x", "y"])?;
    let product = cx.ew("mul", &values)?;
    let axis = cx.axis("dim", cx.rank(product)?)?;
    let y = cx.b.reduce(ReduceKind::Sum, product, &[axis], false)?;
    one(y)
}

fn kron(cx: &mut Cx<'_, '_>) -> Results {
    let (values, _) = cx.promoted(&["self", "other"])?;
    let [a, b] = pair(&values)?;
    let (sa, sb) = (cx.shape(a)?, cx.shape(b)?);
    let rank = sa.len().max(sb.len());
    let filled = |dims: &[Dim]| [vec![Dim::known(1); rank - dims.len()], dims.to_vec()].concat();
    let (sa, sb) = (filled(&sa), filled(&sb));
    let (mut wide_a, mut wide_b, mut last) = (vec![], vec![], vec![]);
    for (x, y) in sa.iter().zip(&sb) {
        wide_a.extend([x.clone(), Dim::known(1)]);
        wide_b.extend([Dim::known(1), y.clone()]);
        last.push(x * y);
    }
    let (a, b) = (cx.b.reshape(a, &wide_a)?, cx.b.reshape(b, &wide_b)?);
    let product = cx.ew("mul", &[a, b])?;
    let y = cx.b.reshape(product, &last)?;
    one(y)
}

/// `x1 A x2 + b`, one matrix an output.
fn bilinear(cx: &mut Cx<'_, '_>) -> Results {
    let (a, b, w) = (cx.tensor("input1")?, cx.tensor("input2")?, cx.tensor("weight")?);
    let mut shape = cx.shape(a)?;
    let (features_a, features_b) = (shape.pop().unwrap_or(Dim::known(1)), last(&cx.shape(b)?));
    let rows = super::cx::product(&shape);
    let (a, b) = (cx.b.reshape(a, &[rows.clone(), features_a])?, cx.b.reshape(b, &[rows, features_b])?);
    let part = einsum_of(cx, "bi,oij->boj", a, w)?;
    let y = einsum_of(cx, "boj,bj->bo", part, b)?;
    let y = match cx.maybe_tensor("bias")? {
        Some(bias) => cx.ew("add", &[y, bias])?,
        None => y,
    };
    shape.push(last(&cx.shape(y)?));
    let y = cx.b.reshape(y, &shape)?;
    one(y)
}

fn last(dims: &[Dim]) -> Dim {
    dims.last().cloned().unwrap_or(Dim::known(1))
}

/// The first axis of size 3 if none is given.
fn cross(cx: &mut Cx<'_, '_>) -> Results {
    let (values, _) = cx.promoted(&["self", "other"])?;
    let [a, b] = pair(&values)?;
    let shape = cx.common_shape(&[a, b])?;
    let axis = match cx.maybe_int("dim")? {
        Some(axis) => super::cx::normal_axis(axis, shape.len())?,
        None => shape
            .iter()
            .position(|d| d.as_known() == Some(3))
            .ok_or_else(|| OpError::invalid("no axis of size 3"))?,
    };
    let (a, b) = (cx.b.broadcast(a, &shape)?, cx.b.broadcast(b, &shape)?);
    let part = |cx: &mut Cx<'_, '_>, v: Value, i: i64| {
        Ok::<_, OpError>(cx.b.slice_axis(v, axis, Dim::known(i), Dim::known(1))?)
    };
    let mut rows = vec![];
    for (i, j) in [(1, 2), (2, 0), (0, 1)] {
        let (ai, aj, bi, bj) = (part(cx, a, i)?, part(cx, a, j)?, part(cx, b, i)?, part(cx, b, j)?);
        let (x, y) = (cx.ew("mul", &[ai, bj])?, cx.ew("mul", &[aj, bi])?);
        rows.push(cx.ew("sub", &[x, y])?);
    }
    let y = cx.b.concat(&rows, axis)?;
    one(y)
}

fn det(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.first()?;
    let y = cx.b.add1(kiln_ir::op::Host::Det {}, &[x])?;
    one(y)
}

fn cdist(cx: &mut Cx<'_, '_>) -> Results {
    let p = cx.float("p")?;
    distances(cx, p)
}

/// Distances of all pairs of rows of `x1` and `x2`, by the `p`-norm.
pub(super) fn distances(cx: &mut Cx<'_, '_>, p: f64) -> Results {
    let (a, b) = (cx.tensor("x1")?, cx.tensor("x2")?);
    let (mut sa, mut sb) = (cx.shape(a)?, cx.shape(b)?);
    if sa.len() < 2 || sb.len() < 2 {
        return Err(OpError::invalid("distances of rows need matrices"));
    }
    sa.insert(sa.len() - 1, Dim::known(1));
    sb.insert(sb.len() - 2, Dim::known(1));
    let (a, b) = (cx.b.reshape(a, &sa)?, cx.b.reshape(b, &sb)?);
    let difference = cx.ew("sub", &[a, b])?;
    let axis = cx.rank(difference)?.saturating_sub(1);
    let y = super::reduce::norm_over(cx, difference, p, &[axis], false)?;
    one(y)
}
