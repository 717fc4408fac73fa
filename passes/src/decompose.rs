//! Composites become the operators that they stand for, and searches for an extremum become reductions, which have
//! kernels.

use kiln_ir::op::{Order, ReduceKind, Source};
use kiln_ir::{Build, DType, Dim, Edit, Module, NodeId, Op, Tensor};

use crate::rewrite::{Cx, Refusal, Rule, require, run_rules};
use crate::{Options, PassError, Report};

const RULES: &[Rule] =
    &[Rule { name: "composite", apply: composite }, Rule { name: "arg_extremum", apply: arg_extremum }];

/// Runs the rule.
pub(crate) fn run(module: &mut Module, options: &Options, report: &mut Report) -> Result<(), PassError> {
    run_rules(RULES, module, options, report)
}

fn composite(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    let Op::Composite(op) = &node.op else { return Err(Refusal::NoMatch) };
    let mut patch = cx.patch(id);
    let results = kiln_ir::decompose::decompose(op, &mut patch, &node.operands)?;
    require(results.len() == node.results.len(), "the body has another number of results")?;
    for (&old, &new) in node.results.iter().zip(&results) {
        let (a, b) = (cx.graph.ty(old), patch.ty(new));
        require(a.is_compatible(b), format!("the body gives {b} for {a}"))?;
        patch.replace(old, new);
    }
    Ok(patch.finish())
}

/// The first (or last) place of the extremum: the extremum, then the least (or largest) index of an element that equals
/// it. A NaN is the extremum, and equals nothing.
fn arg_extremum(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    let (kind, axis, keepdims, last) = match &node.op {
        Op::Order(Order::ArgMax { axis, keepdims, last }) => (ReduceKind::Max, *axis, *keepdims, *last),
        Op::Order(Order::ArgMin { axis, keepdims, last }) => (ReduceKind::Min, *axis, *keepdims, *last),
        _ => return Err(Refusal::NoMatch),
    };
    let (&[x], &[old]) = (node.operands.as_slice(), node.results.as_slice()) else {
        return Err(Refusal::NoMatch);
    };
    let mut b = cx.patch(id);
    let dtype = b.dtype(x)?;
    require(dtype.is_int() || dtype.is_float(), format!("{dtype} does not reduce"))?;
    let (rank, size) = (b.rank(x)?, b.shape(x)?.get(axis).cloned());
    let size = size.ok_or(Refusal::NoMatch)?;
    require(size.as_known() != Some(0), "no element is the greatest of none")?;
    let mut best = b.reduce(kind, x, &[axis], true)?;
    if size.as_known().is_none() {
        // The first element changes nothing, and its kernel refuses to run where there is none.
        let first = b.slice_axis(x, axis, Dim::known(0), Dim::known(1))?;
        best = b.ew(if matches!(kind, ReduceKind::Max) { "max" } else { "min" }, &[best, first])?;
    }
    let mut hit = b.ew("eq", &[x, best])?;
    if dtype.is_float() {
        let nan = b.ew("is_nan", &[x])?;
        hit = b.ew("or", &[hit, nan])?;
    }
    let index = b.add1(Source::Iota { len: size.clone(), dtype: DType::I64 }, &[])?;
    let mut column = vec![Dim::known(1); rank];
    column[axis] = size;
    let index = b.reshape(index, &column)?;
    let (none, pick) = if last { (-1, ReduceKind::Max) } else { (i64::MAX, ReduceKind::Min) };
    let none = b.constant(Tensor::scalar(none))?;
    let index = b.ew("where", &[hit, index, none])?;
    let new = b.reduce(pick, index, &[axis], keepdims)?;
    b.replace(old, new);
    Ok(b.finish())
}
