//! Right operands whose rows are panels as they are: what is multiplied with them is not packed.

use kiln_ir::DType;

use crate::kir::{BufferId, Contract, Ix, Kernel, Op, Rhs, Stmt};

/// Most elements between steps of the reduction: farther apart, lines share sets of the first-level cache.
const MOST_STRIDE: i64 = 128;

/// A right operand in memory.
#[derive(Clone, Debug)]
pub(super) struct InPlace {
    pub buffer: BufferId,
    /// Element index, in terms of column and step.
    pub index: Ix,
    /// Elements between steps.
    pub stride: i64,
}

/// The right operand where it is a load whose columns follow each other and fill panels of this width.
pub(super) fn in_place(kernel: &Kernel, c: &Contract, width: i64) -> Option<InPlace> {
    let Rhs::Strided(operand) = &c.b else { return None };
    let [Stmt::Let { dst, op: Op::Load { buffer, index, guard: None } }] = operand.body.as_slice() else {
        return None;
    };
    let floats = c.acc_dtype == DType::F32 && kernel.buffers[buffer.index()].dtype == DType::F32;
    let whole = c.n.extent.as_const().is_some_and(|n| n % width == 0);
    let kept = c.epilogue.iter().all(|stmt| match stmt {
        Stmt::Let { .. } => true,
        Stmt::Store { buffer: to, .. } => to != buffer,
        Stmt::For(_) | Stmt::Reduce(_) | Stmt::If { .. } | Stmt::Contract(_) => false,
    });
    if *dst != operand.value || !floats || !whole || !kept || !c.taps.is_empty() {
        return None;
    }
    let columns = index.linear(c.n.var, &|_| true)?;
    let stride = columns.rest.linear(c.k.var, &|_| true)?.coefficient.as_const()?;
    let near = columns.coefficient == Ix::Const(1) && (width..=MOST_STRIDE).contains(&stride);
    near.then(|| InPlace { buffer: *buffer, index: index.clone(), stride })
}
