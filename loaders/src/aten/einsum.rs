//! Einstein summation of any number of operands.

use kiln_ir::op::{ContractSpec, ReduceKind};
use kiln_ir::{Build, Dim, Value};

use super::Results;
use super::cx::{Cx, one};
use super::linear::contraction;
use crate::error::OpError;

/// A tensor with a letter an axis.
struct Labelled {
    v: Value,
    labels: Vec<u8>,
}

/// Letters of one operand; `...` becomes letters that the equation does not use, counted from the last axis.
fn labels(text: &str, rank: usize, spare: &[u8]) -> Result<Vec<u8>, OpError> {
    let text = text.trim().replace(' ', "");
    let plain = text.replace("...", "");
    if !plain.bytes().all(|c| c.is_ascii_alphabetic()) {
        return Err(OpError::invalid(format!("`{text}` in the equation")));
    }
    let open = rank.checked_sub(plain.len());
    let Some((before, after)) = text.split_once("...") else {
        return match open {
            Some(0) => Ok(plain.into_bytes()),
            _ => Err(OpError::invalid(format!("`{text}` for {rank} axes"))),
        };
    };
    let count = open.filter(|&n| n <= spare.len());
    let count = count.ok_or_else(|| OpError::invalid(format!("`{text}` for {rank} axes")))?;
    let middle = spare.get(spare.len() - count..).unwrap_or(&[]);
    Ok([before.as_bytes(), middle, after.as_bytes()].concat())
}

/// Letters that an equation leaves free, for at most so many axes.
fn spare(equation: &str, ranks: &[usize]) -> Vec<u8> {
    let free = (b'A'..=b'Z').chain(b'a'..=b'z').filter(|l| !equation.as_bytes().contains(l));
    let most = ranks.iter().copied().max().unwrap_or(0);
    free.take(most).collect()
}

pub(super) fn einsum(cx: &mut Cx<'_, '_>) -> Results {
    let equation = cx.maybe_text("equation")?.unwrap_or("").to_owned();
    let values = cx.tensors("tensors")?;
    let ranks = values.iter().map(|&v| cx.rank(v)).collect::<Result<Vec<_>, _>>()?;
    let spare = spare(&equation, &ranks);
    let (left, right) = match equation.split_once("->") {
        Some((left, right)) => (left, Some(right.trim().replace(' ', ""))),
        None => (equation.as_str(), None),
    };
    let texts: Vec<&str> = left.split(',').collect();
    if texts.len() != values.len() {
        return Err(OpError::invalid(format!("`{equation}` for {} tensors", values.len())));
    }
    let mut operands = vec![];
    for ((text, v), rank) in texts.iter().zip(values).zip(ranks) {
        let labels = labels(text, rank, &spare)?;
        operands.push(unrepeated(cx, Labelled { v, labels })?);
    }
    let all: Vec<u8> = operands.iter().flat_map(|o| o.labels.iter().copied()).collect();
    let ellipsis: Vec<u8> = spare.iter().copied().filter(|l| all.contains(l)).collect();
    let out: Vec<u8> = match right {
        Some(text) => text.replace("...", std::str::from_utf8(&ellipsis).unwrap_or("")).into_bytes(),
        None => {
            let mut once: Vec<u8> = all
                .iter()
                .copied()
                .filter(|l| !spare.contains(l) && all.iter().filter(|x| *x == l).count() == 1)
                .collect();
            once.sort_unstable();
            [ellipsis, once].concat()
        }
    };
    if let Some(l) = out.iter().find(|l| !all.contains(l)) {
        return Err(OpError::invalid(format!("`{}` in the result of `{equation}`", char::from(*l))));
    }
    let mut rest = operands.into_iter();
    let mut total = rest.next().ok_or_else(|| OpError::invalid("no tensors"))?;
    let rest: Vec<Labelled> = rest.collect();
    for i in 0..rest.len() {
        let later: Vec<u8> = rest
            .iter()
            .skip(i + 1)
            .flat_map(|o| o.labels.iter().copied())
            .chain(out.iter().copied())
            .collect();
        if let Some(next) = rest.get(i) {
            total = product(cx, total, next, &later)?;
        }
    }
    let total = summed(cx, total, &out)?;
    let perm: Option<Vec<usize>> = out.iter().map(|l| total.labels.iter().position(|x| x == l)).collect();
    let perm = perm.ok_or_else(|| OpError::invalid("a letter of the result is missing"))?;
    let y = cx.b.transpose(total.v, &perm)?;
    one(y)
}

/// Axes whose letter stands twice in an operand become their diagonal.
fn unrepeated(cx: &mut Cx<'_, '_>, mut operand: Labelled) -> Result<Labelled, OpError> {
    while let Some((i, j)) = repeated(&operand.labels) {
        operand.v = super::rearrange::diagonal_of(cx, operand.v, (i, j, 0))?;
        let label = operand.labels.remove(j);
        operand.labels.remove(i);
        operand.labels.push(label);
    }
    Ok(operand)
}

fn repeated(labels: &[u8]) -> Option<(usize, usize)> {
    labels.iter().enumerate().find_map(|(i, l)| {
        let j = labels.iter().skip(i + 1).position(|x| x == l)?;
        Some((i, i + 1 + j))
    })
}

/// Sums over the letters that nothing else needs.
fn summed(cx: &mut Cx<'_, '_>, operand: Labelled, needed: &[u8]) -> Result<Labelled, OpError> {
    let Labelled { v, labels } = operand;
    let axes: Vec<usize> =
        labels.iter().enumerate().filter(|(_, l)| !needed.contains(l)).map(|(i, _)| i).collect();
    if axes.is_empty() {
        return Ok(Labelled { v, labels });
    }
    let v = cx.b.reduce(ReduceKind::Sum, v, &axes, false)?;
    Ok(Labelled { v, labels: labels.into_iter().filter(|l| needed.contains(l)).collect() })
}

/// The product of two operands, with the letters that are needed later or stay.
fn product(cx: &mut Cx<'_, '_>, a: Labelled, b: &Labelled, later: &[u8]) -> Result<Labelled, OpError> {
    let b = Labelled { v: b.v, labels: b.labels.clone() };
    // Axes of size 1 that the other has wider are dropped.
    let (a, b) = (without_units(cx, a, &b)?, b);
    let b = without_units(cx, b, &a)?;
    let a_needs = [b.labels.as_slice(), later].concat();
    let b_needs = [a.labels.as_slice(), later].concat();
    let (a, b) = (summed(cx, a, &a_needs)?, summed(cx, b, &b_needs)?);
    let mut out: Vec<u8> = a.labels.iter().copied().filter(|l| later.contains(l)).collect();
    let more: Vec<u8> = b.labels.iter().copied().filter(|l| later.contains(l) && !out.contains(l)).collect();
    out.extend(more);
    // Letters of both that stay come first, as batches.
    out.sort_by_key(|l| !(a.labels.contains(l) && b.labels.contains(l)));
    let spec = ContractSpec { lhs: a.labels, rhs: b.labels, out: out.clone() };
    Ok(Labelled { v: contraction(cx, spec, a.v, b.v)?, labels: out })
}

fn without_units(cx: &mut Cx<'_, '_>, a: Labelled, b: &Labelled) -> Result<Labelled, OpError> {
    let (dims, others) = (cx.shape(a.v)?, cx.shape(b.v)?);
    let wider = |l: &u8| {
        let size = b.labels.iter().position(|x| x == l).and_then(|i| others.get(i));
        size.is_some_and(|d| d.as_known() != Some(1))
    };
    let kept: Vec<(u8, Dim)> =
        a.labels.iter().copied().zip(dims).filter(|(l, d)| !(d.as_known() == Some(1) && wider(l))).collect();
    if kept.len() == a.labels.len() {
        return Ok(a);
    }
    let shape: Vec<Dim> = kept.iter().map(|(_, d)| d.clone()).collect();
    let v = cx.b.reshape(a.v, &shape)?;
    Ok(Labelled { v, labels: kept.into_iter().map(|(l, _)| l).collect() })
}
