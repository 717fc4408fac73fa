//! What statements hold, as selection asks: how much they compute, what they write, what constants decide.

use rustc_hash::FxHashSet;

use crate::kir::{Block, Bound, BufferId, Op, Stmt};

/// Buffers that a block writes.
pub(super) fn stored(block: &Block, written: &mut FxHashSet<BufferId>) {
    for stmt in block {
        match stmt {
            Stmt::Let { .. } => {}
            Stmt::Store { buffer, .. } => {
                written.insert(*buffer);
            }
            Stmt::For(l) => stored(&l.body, written),
            Stmt::Reduce(r) => stored(&r.body, written),
            Stmt::If { then, otherwise, .. } => {
                stored(then, written);
                stored(otherwise, written);
            }
            Stmt::Contract(c) => stored(&c.epilogue, written),
        }
    }
}

/// Whether a bound holds, where constants decide it.
pub(super) fn decided(bound: &Bound) -> Option<bool> {
    let (lower, index, upper) = (bound.lower.as_const()?, bound.index.as_const()?, bound.upper.as_const()?);
    Some(lower <= index && index < upper)
}

/// Operations of a block, loops inside repeated.
pub(super) fn operations(block: &Block) -> i64 {
    let one = |stmt: &Stmt| match stmt {
        Stmt::Let { op: Op::Const(_), .. } => 0,
        Stmt::Let { .. } | Stmt::Store { .. } | Stmt::Contract(_) => 1,
        Stmt::For(l) => l.axis.extent.as_const().unwrap_or(i64::MAX).saturating_mul(operations(&l.body)),
        Stmt::Reduce(r) => {
            r.axis.extent.as_const().unwrap_or(i64::MAX).saturating_mul(operations(&r.body).saturating_add(1))
        }
        Stmt::If { then, otherwise, .. } => operations(then).saturating_add(operations(otherwise)),
    };
    block.iter().fold(0i64, |n, stmt| n.saturating_add(one(stmt)))
}
