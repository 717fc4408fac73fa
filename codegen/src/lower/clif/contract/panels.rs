//! Packing of a contraction's right operand into panels, where it is not packed when compiled.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, Value};
use kiln_ir::DType;

use super::{ContractPlan, k_contiguous, lanes};
use crate::kir::{Axis, Block, BufferId, Contract, For, Ix, LoopKind, Op, Operand, Stmt};
use crate::lower::clif::emit::{self, Emitter, Result};

impl Emitter<'_> {
    /// Packs a block of the reduction of the right operand into panels, zero-padded to whole panels.
    pub(super) fn pack_panels(
        &mut self,
        c: &Contract,
        plan: &ContractPlan,
        operand: &Operand,
        taps: [Value; 2],
        [k0, kn]: [Value; 2],
    ) -> Result<()> {
        let Some(buffer) = plan.panels else { return self.unsupported("an operand without panels") };
        self.vars[plan.k0.index()] = Some(k0);
        self.vars[plan.kn.index()] = Some(kn);
        let total = c.taps.iter().fold(c.k.extent.clone(), |n, t| n * t.extent.clone());
        let (depth, tap_depth) = if plan.whole_panels {
            (total, c.k.extent.clone())
        } else {
            (Ix::Const(plan.taps_per_block * plan.k_per_block), Ix::Const(plan.k_per_block))
        };
        let width = plan.width;
        let zero = self.i64(0);
        let n = self.ix(&c.n.extent)?;
        let n_begin = self.ix(&c.n.begin)?;
        let widened = plan.widened.map(|(_, b)| b).filter(|_| self.kernel.dtype(operand.value) != DType::I32);
        let mut body = operand.body.clone();
        let value = match widened {
            Some(dst) => {
                body.push(Stmt::Let { dst, op: Op::Cast(operand.value) });
                dst
            }
            None => operand.value,
        };
        let k = Ix::Var(c.k.var) - c.k.begin.clone() - Ix::Var(plan.k0);
        let along_n = !k_contiguous(c, operand);
        let column = if along_n { Ix::Var(c.n.var) - c.n.begin.clone() } else { Ix::Var(plan.column) };
        // Panels are addressed by their first column, so that the index stays linear in the lane.
        let first = Ix::Var(plan.first_column);
        let position = Ix::Var(plan.tap) * tap_depth + k;
        let index = first.clone() * depth.clone() + position * width + (column - first);
        body.push(Stmt::Store { buffer, index, value });
        let block =
            Axis { var: c.k.var, begin: c.k.begin.clone() + Ix::Var(plan.k0), extent: Ix::Var(plan.kn) };
        self.counted(zero, n, width, &[], |s, at, _| {
            s.vars[plan.first_column.index()] = Some(at);
            let left = s.b.ins().isub(n, at);
            let most = s.i64(width);
            let used = s.b.ins().smin(left, most);
            s.clear_last_panel(c, &depth, (buffer, width), [at, used])?;
            s.each_tap(c, plan, taps, |s| {
                if along_n {
                    s.pack_along_n(c, plan, &block, &body, [n_begin, at, used])
                } else {
                    s.pack_along_k(c, plan, &block, &body, [n_begin, at, used])
                }
            })?;
            Ok(vec![])
        })?;
        Ok(())
    }

    fn pack_along_n(
        &mut self,
        c: &Contract,
        plan: &ContractPlan,
        k: &Axis,
        body: &Block,
        [n_begin, at, used]: [Value; 3],
    ) -> Result<()> {
        let begin = self.b.ins().iadd(n_begin, at);
        self.vars[plan.column.index()] = Some(begin);
        self.vars[plan.used.index()] = Some(used);
        let axis = Axis { var: c.n.var, begin: Ix::Var(plan.column), extent: Ix::Var(plan.used) };
        let columns = For { axis, kind: LoopKind::Vector, carried: vec![], body: body.clone() };
        let body = vec![Stmt::For(Box::new(columns))];
        self.for_stmt(&For { axis: k.clone(), kind: LoopKind::Sequential, carried: vec![], body })
    }

    fn pack_along_k(
        &mut self,
        c: &Contract,
        plan: &ContractPlan,
        k: &Axis,
        body: &Block,
        [n_begin, at, used]: [Value; 3],
    ) -> Result<()> {
        let end = self.b.ins().iadd(at, used);
        self.counted(at, end, 1, &[], |s, column, _| {
            s.vars[plan.column.index()] = Some(column);
            s.vars[c.n.var.index()] = Some(s.b.ins().iadd(n_begin, column));
            s.for_stmt(&For {
                axis: k.clone(),
                kind: LoopKind::Vector,
                carried: vec![],
                body: body.clone(),
            })?;
            Ok(vec![])
        })?;
        Ok(())
    }

    /// Zeroes a panel that is not full: its missing columns are multiplied too.
    fn clear_last_panel(
        &mut self,
        c: &Contract,
        depth: &Ix,
        (buffer, width): (BufferId, i64),
        [at, used]: [Value; 2],
    ) -> Result<()> {
        let total = self.ix(depth)?;
        let partial = self.b.ins().icmp_imm_s(IntCC::SignedLessThan, used, width);
        let bytes = (c.acc_dtype.bits() / 8) as i64;
        let step = lanes(c.acc_dtype);
        self.branch(
            partial,
            |s| {
                let first = s.b.ins().imul(at, total);
                let count = s.scaled(total, width);
                let base = s.address(buffer, first, bytes);
                let vector = s.zero_vector(c.acc_dtype);
                let zero = s.i64(0);
                s.counted(zero, count, step, &[], |s, i, _| {
                    let offset = s.scaled(i, bytes);
                    let at = s.b.ins().iadd(base, offset);
                    s.b.ins().store(emit::flags(), vector, at, 0);
                    Ok(vec![])
                })?;
                Ok(())
            },
            |_| Ok(()),
        )
    }
}
