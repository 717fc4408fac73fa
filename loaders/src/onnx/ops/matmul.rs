//! Products of matrices and general contractions.

use kiln_ir::op::{Contract, ContractSpec, Dynamic, ReduceKind};
use kiln_ir::{Build, DType, Dim, Value};

use super::conv::{centred, requantize};
use super::movement::dynamic;
use super::{How, Row, row};
use crate::onnx::cx::{Cx, OpError, Outputs, one};

pub(super) const ROWS: &[Row] = &[
    row("Einsum", &[12], How::Fn(einsum)),
    row("Gemm", &[1, 6, 7, 9, 11, 13], How::Fn(gemm)),
    row("MatMul", &[1, 9, 13], How::Fn(mat_mul)),
    row("MatMulInteger", &[10], How::Fn(mat_mul_integer)),
    row("QLinearMatMul", &[10, 21], How::Fn(qlinear_mat_mul)),
];

/// Which axes of a matrix product are swapped first.
#[derive(Clone, Copy, Default)]
pub(super) struct Swaps {
    pub(super) a: bool,
    pub(super) b: bool,
}

/// Letters for batch axes, from the last one back; `m`, `k`, `n` are taken.
fn batch_labels(count: usize) -> Result<Vec<u8>, OpError> {
    let letters: Vec<u8> = (b'a'..=b'z').chain(b'A'..=b'Z').filter(|l| !b"mkn".contains(l)).collect();
    letters.get(..count).map(<[u8]>::to_vec).ok_or_else(|| OpError::invalid(format!("{count} batch axes")))
}

/// Matrix product as NumPy's `matmul` has it: batch axes broadcast, vectors are rows or columns. `out` is the
/// result's dtype.
pub(super) fn product(
    cx: &mut Cx<'_, '_, '_>,
    mut a: Value,
    mut b: Value,
    swaps: Swaps,
    out: DType,
) -> Result<Value, OpError> {
    if cx.rank(a).is_err() && cx.rank(b).is_ok_and(|rank| rank == 2) && !swaps.a {
        return product_of_rows(cx, a, b, swaps, out);
    }
    let (rank_a, rank_b) = (cx.rank(a)?, cx.rank(b)?);
    if rank_a == 0 || rank_b == 0 {
        return Err(OpError::invalid("a scalar is no matrix"));
    }
    let mut lhs = batch_labels(rank_a.saturating_sub(2))?;
    let mut rhs = batch_labels(rank_b.saturating_sub(2))?;
    lhs.reverse();
    rhs.reverse();
    let mut batch = if lhs.len() > rhs.len() { lhs.clone() } else { rhs.clone() };
    // An axis of size 1 on one side only is dropped there, and the other side's label stays.
    drop_unit_axes(cx, &mut a, &mut lhs, b, &rhs)?;
    drop_unit_axes(cx, &mut b, &mut rhs, a, &lhs)?;
    // Axes that both had with size 1 went on one side and stay on the other.
    batch.retain(|l| lhs.contains(l) || rhs.contains(l));
    let mut result = batch;
    match (rank_a, swaps.a) {
        (1, _) => lhs.push(b'k'),
        (_, false) => lhs.extend(b"mk"),
        (_, true) => lhs.extend(b"km"),
    }
    match (rank_b, swaps.b) {
        (1, _) => rhs.push(b'k'),
        (_, false) => rhs.extend(b"kn"),
        (_, true) => rhs.extend(b"nk"),
    }
    if rank_a > 1 {
        result.push(b'm');
    }
    if rank_b > 1 {
        result.push(b'n');
    }
    let spec = ContractSpec { lhs, rhs, out: result };
    Ok(cx.b.add1(Contract::Einsum { spec, out }, &[a, b])?)
}

/// The product of an operand of unknown rank with a matrix: of all its rows at once, then with its leading axes again.
fn product_of_rows(
    cx: &mut Cx<'_, '_, '_>,
    a: Value,
    b: Value,
    swaps: Swaps,
    out: DType,
) -> Result<Value, OpError> {
    let dims = cx.shape(b)?;
    let [k, n] =
        if swaps.b { [1, 0] } else { [0, 1] }.map(|i| dims.get(i).cloned().unwrap_or(Dim::unknown()));
    let (all, k, n) = (cx.ints(&[-1])?, cx.b.dims(&[k])?, cx.b.dims(&[n])?);
    let shape = cx.b.concat(&[all, k], 0)?;
    let rows = dynamic(cx, Dynamic::Reshape { allow_zero: false }, &[a, shape])?;
    cx.b.assume_rank(rows, 2)?;
    let y = product(cx, rows, b, swaps, out)?;
    let leading = dynamic(cx, Dynamic::Shape { start: 0, end: Some(-1) }, &[a])?;
    let shape = cx.b.concat(&[leading, n], 0)?;
    dynamic(cx, Dynamic::Reshape { allow_zero: true }, &[y, shape])
}

/// Takes axes of size 1 off `v` whose label the other operand has with another size, or with size 1, too.
fn drop_unit_axes(
    cx: &mut Cx<'_, '_, '_>,
    v: &mut Value,
    labels: &mut Vec<u8>,
    other: Value,
    other_labels: &[u8],
) -> Result<(), OpError> {
    let (dims, other_dims) = (cx.shape(*v)?, cx.shape(other)?);
    let other_size = |l: u8| other_labels.iter().position(|&o| o == l).and_then(|i| other_dims.get(i));
    let drop: Vec<bool> = labels
        .iter()
        .zip(&dims)
        .map(|(&l, d)| d.as_known() == Some(1) && other_size(l).is_some_and(|o| o.as_known() != Some(1)))
        .collect();
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

fn mat_mul(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    let out = cx.dtype(a)?;
    one(product(cx, a, b, Swaps::default(), out)?)
}

pub(super) fn scaled(cx: &mut Cx<'_, '_, '_>, v: Value, factor: f64) -> Result<Value, OpError> {
    if factor == 1.0 {
        return Ok(v);
    }
    let dtype = cx.dtype(v)?;
    if dtype.is_int() && factor.fract() != 0.0 {
        let wide = cx.b.cast(v, DType::F64)?;
        let factor = cx.b.scalar(DType::F64, factor)?;
        let product = cx.b.ew("mul", &[wide, factor])?;
        return Ok(cx.b.cast(product, dtype)?);
    }
    let factor = cx.b.scalar(dtype, factor)?;
    Ok(cx.b.ew("mul", &[v, factor])?)
}

pub(super) fn gemm(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    let out = cx.dtype(a)?;
    let swaps = Swaps { a: cx.attrs.flag("transA", false)?, b: cx.attrs.flag("transB", false)? };
    let y = product(cx, a, b, swaps, out)?;
    let alpha = cx.attrs.float_or("alpha", 1.0)?;
    let y = scaled(cx, y, alpha)?;
    let Some(c) = cx.optional(2) else { return one(y) };
    // Before opset 7, `broadcast` allowed what NumPy's rules always do.
    let beta = cx.attrs.float_or("beta", 1.0)?;
    let c = scaled(cx, c, beta)?;
    one(cx.b.ew("add", &[y, c])?)
}

/// Zero points of rank 1 belong to rows of `a` and columns of `b`.
pub(super) fn centred_factors(
    cx: &mut Cx<'_, '_, '_>,
    (a, a_zero): (Value, Option<Value>),
    (b, b_zero): (Value, Option<Value>),
) -> Result<(Value, Value), OpError> {
    let row_axis = cx.rank(a)?.saturating_sub(2);
    let column_axis = cx.rank(b)?.saturating_sub(1);
    Ok((centred(cx, a, a_zero, row_axis)?, centred(cx, b, b_zero, column_axis)?))
}

fn mat_mul_integer(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (a, b) = ((cx.input(0)?, cx.optional(2)), (cx.input(1)?, cx.optional(3)));
    let (a, b) = centred_factors(cx, a, b)?;
    one(product(cx, a, b, Swaps::default(), DType::I32)?)
}

fn qlinear_mat_mul(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let a = (cx.input(0)?, Some(cx.input(2)?));
    let b = (cx.input(3)?, Some(cx.input(5)?));
    let (row_rank, sums) = {
        let rank = cx.rank(a.0)?;
        let (a, b) = centred_factors(cx, a, b)?;
        (rank, product(cx, a, b, Swaps::default(), DType::I32)?)
    };
    let (mut a_scale, b_scale) = (cx.input(1)?, cx.input(4)?);
    a_scale = cx.b.cast(a_scale, DType::F32)?;
    let b_scale = cx.b.cast(b_scale, DType::F32)?;
    // Scales of rows stand in a column.
    if let ([d], true) = (cx.shape(a_scale)?.as_slice(), row_rank > 1) {
        let d = d.clone();
        if d.as_known() != Some(1) {
            a_scale = cx.b.reshape(a_scale, &[d, Dim::known(1)])?;
        }
    }
    let scale = cx.b.ew("mul", &[a_scale, b_scale])?;
    one(requantize(cx, sums, scale, 6, 7)?)
}

/// An operand of an einsum with its labels.
struct Term {
    value: Value,
    labels: Vec<u8>,
}

/// Labels of the operands and of the result, ellipses replaced by capital letters that the equation does not use.
fn parse_equation(equation: &str, ranks: &[usize]) -> Result<(Vec<Vec<u8>>, Vec<u8>), OpError> {
    let bad = |reason: &str| OpError::invalid(format!("equation `{equation}`: {reason}"));
    let text: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
    let (left, right) = match text.split_once("->") {
        Some((l, r)) => (l.to_owned(), Some(r.to_owned())),
        None => (text, None),
    };
    let terms: Vec<&str> = left.split(',').collect();
    if terms.len() != ranks.len() {
        return Err(bad(&format!("{} operands are given", ranks.len())));
    }
    let spare: Vec<u8> =
        (b'A'..=b'Z').chain(b'a'..=b'z').filter(|c| !equation.contains(char::from(*c))).collect();
    let mut widest = 0usize;
    for (term, &rank) in terms.iter().zip(ranks) {
        if term.contains("...") {
            let named = term.len().saturating_sub(3);
            let hidden = rank.checked_sub(named).ok_or_else(|| bad("an operand has too few axes"))?;
            widest = widest.max(hidden);
        }
    }
    let hidden = spare.get(..widest).ok_or_else(|| bad("too many axes"))?;
    let expand = |term: &str, count: usize| -> Result<Vec<u8>, OpError> {
        let (before, after) = term.split_once("...").unwrap_or((term, ""));
        let mut labels = before.as_bytes().to_vec();
        if term.contains("...") {
            labels.extend(hidden.get(widest - count..).unwrap_or(&[]));
        }
        labels.extend(after.as_bytes());
        if labels.iter().any(|l| !l.is_ascii_alphabetic()) {
            return Err(bad("labels must be letters"));
        }
        Ok(labels)
    };
    let mut lists = vec![];
    for (term, &rank) in terms.iter().zip(ranks) {
        let count = if term.contains("...") { rank.saturating_sub(term.len().saturating_sub(3)) } else { 0 };
        let labels = expand(term, count)?;
        if labels.len() != rank {
            return Err(bad(&format!("`{term}` names {} axes of an operand of rank {rank}", labels.len())));
        }
        lists.push(labels);
    }
    let result = match right {
        Some(r) => expand(&r, widest)?,
        None => {
            // Hidden axes first, then the labels that stand once, in alphabetic order.
            let all: Vec<u8> = lists.iter().flatten().copied().collect();
            let mut once: Vec<u8> = all
                .iter()
                .copied()
                .filter(|l| !hidden.contains(l) && all.iter().filter(|x| *x == l).count() == 1)
                .collect();
            once.sort_unstable();
            [hidden.to_vec(), once].concat()
        }
    };
    if result.iter().any(|l| !lists.iter().flatten().any(|x| x == l)) {
        return Err(bad("the result has a label that no operand has"));
    }
    Ok((lists, result))
}

/// Contracts pairwise from the left, each time summing what nothing later needs.
fn einsum(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let values = cx.all_inputs()?;
    let ranks = values.iter().map(|&v| cx.rank(v)).collect::<Result<Vec<_>, _>>()?;
    let equation = cx.attrs.string_or("equation", "")?;
    let (lists, result) = parse_equation(&equation, &ranks)?;
    let mut terms = vec![];
    for (value, labels) in values.into_iter().zip(lists) {
        terms.push(diagonal(cx, Term { value, labels })?);
    }
    terms.reverse();
    let Some(mut total) = terms.pop() else { return Err(OpError::invalid("no operands")) };
    while let Some(next) = terms.pop() {
        let later = |l: &u8| result.contains(l) || terms.iter().any(|t| t.labels.contains(l));
        total = contract_pair(cx, total, next, &later)?;
    }
    let total = sum_out(cx, total, &|l| result.contains(l))?;
    let perm: Option<Vec<usize>> = result.iter().map(|l| total.labels.iter().position(|x| x == l)).collect();
    let perm =
        perm.ok_or_else(|| OpError::invalid(format!("equation `{equation}`: a label stands twice")))?;
    one(cx.b.transpose(total.value, &perm)?)
}

/// A label that stands twice in an operand selects the diagonal: multiply by an identity and sum.
fn diagonal(cx: &mut Cx<'_, '_, '_>, term: Term) -> Result<Term, OpError> {
    let Term { mut value, mut labels } = term;
    while let Some((i, j)) = first_repeated(&labels) {
        let dims = cx.shape(value)?;
        let dtype = cx.dtype(value)?;
        let size = dims.get(i).cloned().unwrap_or(Dim::known(1));
        let rank = dims.len();
        let place = |axis: usize| {
            let mut shape = vec![Dim::known(1); rank];
            if let Some(slot) = shape.get_mut(axis) {
                *slot = size.clone();
            }
            shape
        };
        let iota = cx.b.add1(kiln_ir::op::Source::Iota { len: size.clone(), dtype: DType::I64 }, &[])?;
        let (row, column) = (cx.b.reshape(iota, &place(i))?, cx.b.reshape(iota, &place(j))?);
        let on_diagonal = cx.b.ew("eq", &[row, column])?;
        let zero = cx.b.scalar(dtype, 0.0)?;
        let kept = cx.b.ew("where", &[on_diagonal, value, zero])?;
        value = cx.b.reduce(ReduceKind::Sum, kept, &[j], false)?;
        labels.remove(j);
    }
    Ok(Term { value, labels })
}

fn first_repeated(labels: &[u8]) -> Option<(usize, usize)> {
    labels.iter().enumerate().find_map(|(j, l)| {
        let i = labels.iter().take(j).position(|x| x == l)?;
        Some((i, j))
    })
}

/// Sums the axes whose labels are not kept.
fn sum_out(cx: &mut Cx<'_, '_, '_>, term: Term, keep: &dyn Fn(&u8) -> bool) -> Result<Term, OpError> {
    let axes: Vec<usize> = term.labels.iter().enumerate().filter(|(_, l)| !keep(l)).map(|(i, _)| i).collect();
    if axes.is_empty() {
        return Ok(term);
    }
    let value = cx.b.reduce(ReduceKind::Sum, term.value, &axes, false)?;
    Ok(Term { value, labels: term.labels.into_iter().filter(|l| keep(l)).collect() })
}

fn contract_pair(
    cx: &mut Cx<'_, '_, '_>,
    a: Term,
    b: Term,
    later: &dyn Fn(&u8) -> bool,
) -> Result<Term, OpError> {
    let (mut a, mut b) = (
        sum_out(cx, a, &|l| later(l) || b.labels.contains(l))?,
        Term { value: b.value, labels: b.labels.clone() },
    );
    b = sum_out(cx, b, &|l| later(l) || a.labels.contains(l))?;
    // Hidden axes broadcast: one of size 1 goes, the other side's stays.
    drop_unit_axes(cx, &mut a.value, &mut a.labels, b.value, &b.labels)?;
    drop_unit_axes(cx, &mut b.value, &mut b.labels, a.value, &a.labels)?;
    let mut labels: Vec<u8> = a.labels.iter().copied().filter(|l| later(l)).collect();
    labels.extend(b.labels.iter().copied().filter(|l| later(l) && !a.labels.contains(l)));
    // A label that only one side has and nothing later needs can remain where the other side's axis was dropped.
    a = {
        let other = b.labels.clone();
        sum_out(cx, a, &|l| later(l) || other.contains(l))?
    };
    b = {
        let other = a.labels.clone();
        sum_out(cx, b, &|l| later(l) || other.contains(l))?
    };
    let out = cx.dtype(a.value)?;
    let spec = ContractSpec { lhs: a.labels, rhs: b.labels, out: labels.clone() };
    let value = cx.b.add1(Contract::Einsum { spec, out }, &[a.value, b.value])?;
    Ok(Term { value, labels })
}
