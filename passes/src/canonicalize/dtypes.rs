//! Casts, selections by constants, exact divisions.

use kiln_ir::op::Cast;
use kiln_ir::{Build, DClass, DType, Edit, NodeId, Op};

use crate::rewrite::{Cx, Refusal, Rule, matches, require};

/// A cast to the operand's dtype is the operand; a cast of a cast that loses nothing skips it.
pub(super) const CAST: Rule = Rule { name: "cast", apply: cast };

fn cast(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    let (Op::Cast(outer), &[x]) = (&node.op, &node.operands[..]) else { return Err(Refusal::NoMatch) };
    let from = cx.dtype(x).ok_or(Refusal::NoMatch)?;
    if from == outer.to {
        return cx.rewrite(id, |_| Ok(x));
    }
    let Some((_, inner)) = cx.def(x) else { return Err(Refusal::NoMatch) };
    let (Op::Cast(Cast { .. }), &[source]) = (&inner.op, &inner.operands[..]) else {
        return Err(Refusal::NoMatch);
    };
    let first = cx.dtype(source).ok_or(Refusal::NoMatch)?;
    require(holds(from, first), format!("{first} to {from} loses values"))?;
    cx.rewrite(id, |p| {
        if first == outer.to {
            return Ok(source);
        }
        Ok(p.add1(Op::Cast(outer.clone()), &[source])?)
    })
}

/// Whether every value of `narrow` is a value of `wide`.
fn holds(wide: DType, narrow: DType) -> bool {
    use DType::{BF16, F16, F32, F64};
    match (wide.class(), narrow.class()) {
        (DClass::Signed | DClass::Unsigned, DClass::Signed | DClass::Unsigned | DClass::Bool) => {
            let (Some((a, b)), Some((c, d))) = (wide.int_range(), narrow.int_range()) else { return false };
            a <= c && d <= b
        }
        (DClass::Float, DClass::Bool) => matches!(wide, F64 | F32 | F16 | BF16),
        (DClass::Float, DClass::Float) => match wide {
            F64 => narrow != F64,
            F32 => !matches!(narrow, F32 | F64),
            _ => false,
        },
        (DClass::Float, DClass::Signed | DClass::Unsigned) => match wide {
            F64 => narrow.bits() <= 32,
            F32 => narrow.bits() <= 16,
            _ => false,
        },
        _ => false,
    }
}

/// `where` of a constant condition is the branch that it takes.
pub(super) const SELECT: Rule = Rule { name: "select", apply: select };

fn select(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    matches(node.op == Op::ew("where"))?;
    let &[cond, a, b] = &node.operands[..] else { return Err(Refusal::NoMatch) };
    let taken = if a == b {
        a
    } else {
        cx.splat(cond).map(|c| if c != 0.0 { a } else { b }).ok_or(Refusal::NoMatch)?
    };
    let dims = cx.shape(node.results[0])?;
    cx.rewrite(id, |p| Ok(p.broadcast(taken, dims)?))
}

/// Division by a power of two is multiplication by its inverse, bit for bit.
pub(super) const EXACT_DIVISION: Rule = Rule { name: "exact-division", apply: exact_division };

fn exact_division(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let node = cx.node(id);
    matches(node.op == Op::ew("div"))?;
    let &[x, by] = &node.operands[..] else { return Err(Refusal::NoMatch) };
    let dtype = cx.dtype(x).filter(|d| d.is_float()).ok_or(Refusal::NoMatch)?;
    let divisor = cx.splat(by).ok_or(Refusal::NoMatch)?;
    let exponent = divisor.abs().log2();
    // Exponents up to 14 have their inverse as a normal number in every float dtype of 16 bits or more.
    let exact = exponent.fract() == 0.0 && exponent.abs() <= 14.0 && dtype.bits() >= 16;
    require(exact, format!("{divisor} is no power of two whose inverse is exact"))?;
    cx.rewrite(id, |p| {
        let inverse = p.scalar(dtype, 1.0 / divisor)?;
        Ok(p.ew("mul", &[x, inverse])?)
    })
}
