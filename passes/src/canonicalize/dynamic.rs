//! Operators that became static, and types that became more precise.

use kiln_ir::{Build, BuildDynamic, Edit, NodeId, Op, Type};

use crate::rewrite::{Cx, Refusal, Rule, matches};

/// A dynamic operator whose shape operands are known becomes static ones.
pub(super) const STATIC: Rule = Rule { name: "static", apply: make_static };

fn make_static(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    let Op::Dynamic(op) = &node.op else { return Err(Refusal::NoMatch) };
    let mut patch = cx.patch(id);
    let Some(new) = patch.static_form(op, &node.operands)? else {
        return Err(Refusal::because("a shape operand is not known"));
    };
    for (&old, &new) in node.results.iter().zip(&new) {
        matches(cx.graph.ty(old).is_compatible(patch.ty(new)))?;
        patch.replace(old, new);
    }
    Ok(patch.finish())
}

/// A node whose operands became more precise since it was typed is typed anew.
pub(super) const REFINE: Rule = Rule { name: "refine", apply: refine };

fn refine(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    matches(!node.op.has_effect() && !matches!(node.op, Op::Source(_)))?;
    let mut patch = cx.patch(id);
    let new = patch.add(node.op.clone(), &node.operands)?;
    let mut better = false;
    for (&old, &new) in node.results.iter().zip(&new) {
        let (old_ty, new_ty) = (cx.graph.ty(old), patch.ty(new));
        matches(!is_finer(old_ty, new_ty))?;
        better |= is_finer(new_ty, old_ty);
        better |= patch.known(new).is_some() && cx.graph.value(old).known().is_none();
    }
    matches(better)?;
    for (&old, &new) in node.results.iter().zip(&new) {
        patch.replace(old, new);
    }
    Ok(patch.finish())
}

/// Whether `a` has a rank or a constant dim that `b` lacks.
fn is_finer(a: &Type, b: &Type) -> bool {
    let (Some(a), Some(b)) = (a.as_tensor(), b.as_tensor()) else { return false };
    match (a.shape.dims(), b.shape.dims()) {
        (Some(_), None) => true,
        (Some(a), Some(b)) => a.iter().zip(b).any(|(a, b)| a.as_known().is_some() && b.as_known().is_none()),
        (None, _) => false,
    }
}
