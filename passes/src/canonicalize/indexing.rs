//! Gathers at constant positions.

use kiln_ir::op::Index;
use kiln_ir::{Build, Dim, Edit, NodeId, Op};

use crate::rewrite::{Cx, Refusal, Rule, matches, require};

/// A gather of one constant position, or of a constant run of positions, is a slice.
pub(super) const GATHER_CONSTANT: Rule = Rule { name: "gather-constant", apply: gather_constant };

fn gather_constant(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    let (&Op::Index(Index::Gather { axis }), &[x, indices]) = (&node.op, &node.operands[..]) else {
        return Err(Refusal::NoMatch);
    };
    let positions = cx.constant(indices).and_then(|t| t.to_ints()).ok_or(Refusal::NoMatch)?;
    let extent = cx.shape(x)?.get(axis).and_then(Dim::as_known).ok_or(Refusal::NoMatch)?;
    let &[first, ..] = &positions[..] else { return Err(Refusal::NoMatch) };
    let start = if first < 0 { first + extent } else { first };
    let count = i64::try_from(positions.len()).map_err(|_| Refusal::NoMatch)?;
    let run = (start..).zip(&positions).all(|(at, &p)| at == if p < 0 { p + extent } else { p });
    require(run, "the positions are no run")?;
    matches(start >= 0 && start.checked_add(count).is_some_and(|end| end <= extent))?;
    let result = cx.shape(node.results[0])?;
    cx.rewrite(id, |p| {
        let part = p.slice_axis(x, axis, Dim::known(start), Dim::known(count))?;
        Ok(p.reshape(part, result)?)
    })
}
