//! Products of matrices.

use kiln_ir::op::{Contract, ContractSpec};
use kiln_ir::{Build, DType, Dim, Value};

use super::cx::{Cx, one};
use super::{How, Results, Row, row};
use crate::error::OpError;

use How::Fn;

#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    row("aten::addmm", Fn(addmm)),
    row("aten::bmm", Fn(|cx| matmul_of(cx, "self", "mat2"))),
    row("aten::linear", Fn(linear)),
    row("aten::matmul", Fn(|cx| matmul_of(cx, "self", "other"))),
    row("aten::mm", Fn(|cx| matmul_of(cx, "self", "mat2"))),
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

fn matmul_of(cx: &mut Cx<'_, '_>, a: &str, b: &str) -> Results {
    let (a, b) = (cx.tensor(a)?, cx.tensor(b)?);
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
    let x = cx.tensor("self")?;
    let dtype = cx.dtype(product)?;
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

fn addmm(cx: &mut Cx<'_, '_>) -> Results {
    let (a, b) = (cx.tensor("mat1")?, cx.tensor("mat2")?);
    let product = product_of(cx, a, b)?;
    mixed(cx, product)
}
