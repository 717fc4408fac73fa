//! Scales before contractions.

use kiln_ir::op::Contract;
use kiln_ir::{Build, DType, Edit, NodeId, Op};

use crate::rewrite::{Cx, Refusal, Rule, require};

/// A contraction of `x * c` for a constant number `c` is the contraction of `x`, times `c`: a factor of the result
/// is free in the contraction's kernel, and joins other factors or the weights. With the eight bits of bf16 it shows where
/// factors are rounded.
pub(super) const SCALED_OPERAND: Rule = Rule { name: "scaled-operand", apply: scaled_operand };

fn scaled_operand(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    let Op::Contract(Contract::Einsum { out, .. }) = &node.op else { return Err(Refusal::NoMatch) };
    for (slot, &v) in node.operands.iter().enumerate() {
        let Some((_, product)) = cx.def(v).filter(|(_, n)| n.op == Op::ew("mul")) else { continue };
        let &[a, b] = &product.operands[..] else { continue };
        let Some((x, c)) = [(a, b), (b, a)].into_iter().find_map(|(x, c)| cx.splat(c).map(|c| (x, c))) else {
            continue;
        };
        require(out.is_float(), "integer products wrap")?;
        require(cx.dtype(v) != Some(DType::BF16), "the product rounds to bf16")?;
        require(cx.uses.count(v) == 1, "the scaled operand is used elsewhere")?;
        require(cx.graph.ty(x) == cx.graph.ty(v), "the product broadcasts the operand")?;
        return cx.rewrite(id, |p| {
            let mut operands = node.operands.clone();
            operands[slot] = x;
            let result = p.add1(node.op.clone(), &operands)?;
            let c = p.scalar(*out, c)?;
            Ok(p.ew("mul", &[result, c])?)
        });
    }
    Err(Refusal::NoMatch)
}
