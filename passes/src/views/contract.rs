//! Contractions that read and write through other axis orders.

use kiln_ir::op::{Contract, ContractSpec, Movement};
use kiln_ir::{Build, Dim, Edit, Node, NodeId, Op};

use crate::canonicalize::{differ_by_units, is_unit};
use crate::rewrite::{Cx, Refusal, Rule, matches, require};

fn contraction(node: &Node) -> Result<(&ContractSpec, Contract), Refusal> {
    match &node.op {
        Op::Contract(c @ Contract::Einsum { spec, .. }) => Ok((spec, c.clone())),
        _ => Err(Refusal::NoMatch),
    }
}

fn with_spec(op: &Contract, spec: ContractSpec) -> Contract {
    let Contract::Einsum { out, .. } = op;
    Contract::Einsum { spec, out: *out }
}

/// Labels of a transpose's operand, given those of its result.
fn before_transpose(labels: &[u8], perm: &[usize]) -> Option<Vec<u8>> {
    let mut before = vec![0; labels.len()];
    for (&label, &from) in labels.iter().zip(perm) {
        *before.get_mut(from)? = label;
    }
    Some(before)
}

fn labels_of(spec: &mut ContractSpec, slot: usize) -> &mut Vec<u8> {
    if slot == 0 { &mut spec.lhs } else { &mut spec.rhs }
}

/// A contraction of a transposed operand reads the operand under permuted labels.
pub(super) const OPERAND_TRANSPOSE: Rule = Rule { name: "operand-transpose", apply: operand_transpose };

fn operand_transpose(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    let (spec, op) = contraction(node)?;
    for (slot, &v) in node.operands.iter().enumerate() {
        let Some((Movement::Transpose { perm }, inner)) = cx.movement(v) else { continue };
        let mut spec = spec.clone();
        let labels = labels_of(&mut spec, slot);
        *labels = before_transpose(labels, perm).ok_or(Refusal::NoMatch)?;
        let mut operands = node.operands.clone();
        operands[slot] = inner.operands[0];
        return cx.rewrite(id, |p| Ok(p.add1(with_spec(&op, spec), &operands)?));
    }
    Err(Refusal::NoMatch)
}

/// A contraction of a transposed operand that took or lost axes of size 1 reads the operand in its own order: the axes
/// of size 1 go to the front, where they cost nothing.
pub(super) const OPERAND_UNITS: Rule = Rule { name: "operand-units", apply: operand_units };

fn operand_units(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    let (spec, op) = contraction(node)?;
    for (slot, &v) in node.operands.iter().enumerate() {
        let Some((Movement::Reshape { shape }, outer)) = cx.movement(v) else { continue };
        let Some((Movement::Transpose { perm }, inner)) = cx.movement(outer.operands[0]) else { continue };
        let x = inner.operands[0];
        let from = cx.shape(x)?;
        if !differ_by_units(shape, cx.shape(outer.operands[0])?) {
            continue;
        }
        let mut spec = spec.clone();
        let labels = labels_of(&mut spec, slot);
        let (units, rest): (Vec<_>, Vec<_>) = labels.iter().zip(shape).partition(|(_, d)| is_unit(d));
        // Labels of the operand's own axes that are not of size 1, found through the transpose.
        let order: Vec<usize> =
            perm.iter().copied().filter(|&a| from.get(a).is_some_and(|d| !is_unit(d))).collect();
        matches(order.len() == rest.len())?;
        let mut own: Vec<(usize, u8)> = order.iter().zip(&rest).map(|(&a, (l, _))| (a, **l)).collect();
        own.sort_unstable();
        let full: Vec<Dim> = units
            .iter()
            .map(|(_, d)| (*d).clone())
            .chain(own.iter().map(|(a, _)| from[*a].clone()))
            .collect();
        *labels = units.iter().map(|(l, _)| **l).chain(own.iter().map(|(_, l)| *l)).collect();
        return cx.rewrite(id, |p| {
            let mut operands = node.operands.clone();
            operands[slot] = p.reshape(x, &full)?;
            Ok(p.add1(with_spec(&op, spec), &operands)?)
        });
    }
    Err(Refusal::NoMatch)
}

/// A contraction of an operand that is broadcast along an axis which the other operand and the result have reads the
/// operand without that axis.
pub(super) const OPERAND_BROADCAST: Rule = Rule { name: "operand-broadcast", apply: operand_broadcast };

fn operand_broadcast(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    let (spec, op) = contraction(node)?;
    for (slot, &v) in node.operands.iter().enumerate() {
        let Some((Movement::Broadcast { shape }, inner)) = cx.movement(v) else { continue };
        let x = inner.operands[0];
        let from = cx.shape(x)?;
        let lead = shape.len() - from.len();
        let mut spec = spec.clone();
        let (other, out) = (if slot == 0 { spec.rhs.clone() } else { spec.lhs.clone() }, spec.out.clone());
        let mut kept: Vec<Dim> = vec![];
        let labels = labels_of(&mut spec, slot);
        let mut new = vec![];
        for (i, (&label, dim)) in labels.iter().zip(shape).enumerate() {
            let own = i.checked_sub(lead).and_then(|i| from.get(i));
            if own == Some(dim) {
                kept.push(dim.clone());
                new.push(label);
            } else {
                // A size that is not known may be that of the result.
                let stretched = own.is_none_or(|d| d.as_known() == Some(1));
                require(stretched, "the axis may have the size of the result already")?;
                require(other.contains(&label) && out.contains(&label), "the broadcast axis is summed")?;
            }
        }
        *labels = new;
        return cx.rewrite(id, |p| {
            let mut operands = node.operands.clone();
            operands[slot] = p.reshape(x, &kept)?;
            Ok(p.add1(with_spec(&op, spec), &operands)?)
        });
    }
    Err(Refusal::NoMatch)
}

/// A transpose of a contraction's result permutes the result's labels.
pub(super) const RESULT_TRANSPOSE: Rule = Rule { name: "result-transpose", apply: result_transpose };

fn result_transpose(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    let Op::Movement(Movement::Transpose { perm }) = &node.op else { return Err(Refusal::NoMatch) };
    let Some((_, inner)) = cx.def(node.operands[0]) else { return Err(Refusal::NoMatch) };
    let (spec, op) = contraction(inner)?;
    require(cx.uses.count(node.operands[0]) == 1, "the result is also used in its own order")?;
    let out = perm.iter().map(|&a| spec.out.get(a).copied()).collect::<Option<Vec<u8>>>();
    let spec = ContractSpec { out: out.ok_or(Refusal::NoMatch)?, ..spec.clone() };
    cx.rewrite(id, |p| Ok(p.add1(with_spec(&op, spec), &inner.operands)?))
}
