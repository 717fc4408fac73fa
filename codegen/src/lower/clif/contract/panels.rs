//! Packing of a contraction's right operand into panels, where it is not packed when compiled.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, Value};
use kiln_ir::DType;

use super::{ContractPlan, k_contiguous, lanes};
use crate::kir::{Axis, Block, BufferId, Contract, For, Ix, LoopKind, Op, Operand, Stmt};
use crate::lower::clif::emit::{self, Callee, Emitter, Result};
use crate::lower::wide::transpose::{SIDE, transpose};
use crate::lower::wide::{WideFunction, Width};

/// Packing by squares.
struct Squares {
    function: WideFunction,
    source: BufferId,
    index: Ix,
    /// Elements of the reduction.
    depth: i64,
}

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
        let squares = if along_n { None } else { self.squares(c, plan, operand) };
        self.counted(zero, n, width, &[], |s, at, _| {
            s.vars[plan.first_column.index()] = Some(at);
            let left = s.b.ins().isub(n, at);
            let most = s.i64(width);
            let used = s.b.ins().smin(left, most);
            s.clear_last_panel(c, plan, &depth, buffer, [at, used])?;
            s.each_tap(&c.taps, plan.tap, taps, |s| {
                if along_n {
                    return s.pack_along_n(c, plan, &block, &body, [n_begin, at, used]);
                }
                let begin = match &squares {
                    Some(squares) => s.pack_squares(c, plan, squares, [n_begin, at, used])?,
                    None => at,
                };
                s.pack_along_k(c, plan, &block, &body, [n_begin, at, begin, used])
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
        [n_begin, at, begin, used]: [Value; 4],
    ) -> Result<()> {
        let end = self.b.ins().iadd(at, used);
        self.counted(begin, end, 1, &[], |s, column, _| {
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

    /// The function that packs squares, where the operand is rows of floats whose length is whole squares.
    fn squares(&self, c: &Contract, plan: &ContractPlan, operand: &Operand) -> Option<Squares> {
        let [Stmt::Let { dst, op: Op::Load { buffer, index, guard: None } }] = operand.body.as_slice() else {
            return None;
        };
        let plain = *dst == operand.value
            && c.acc_dtype == DType::F32
            && self.kernel.buffers[buffer.index()].dtype == DType::F32
            && self.width == Some(Width::W512);
        let depth =
            c.k.extent.as_const().filter(|k| k % SIDE == 0 && c.taps.is_empty() && plan.whole_panels)?;
        if !plain || plan.width % SIDE != 0 {
            return None;
        }
        let linear = index.linear(c.k.var, &|_| true)?;
        let stride = linear.rest.linear(c.n.var, &|_| true)?.coefficient.as_const()?;
        let along_k = linear.coefficient == Ix::Const(1) && stride > 0;
        let function = transpose(stride.checked_mul(4)?, plan.width * 4).ok().filter(|_| along_k)?;
        Some(Squares { function, source: *buffer, index: index.clone(), depth })
    }

    /// Packs whole squares of the panel of column `at`; gives the first column that is left.
    fn pack_squares(
        &mut self,
        c: &Contract,
        plan: &ContractPlan,
        squares: &Squares,
        [n_begin, at, used]: [Value; 3],
    ) -> Result<Value> {
        let Some(panels) = plan.panels else { return self.unsupported("an operand without panels") };
        let count = self.b.ins().band_imm_s(used, -SIDE);
        let end = self.b.ins().iadd(at, count);
        let first = self.scaled(at, squares.depth);
        let panel = self.address(panels, first, 4);
        let depth = self.i64(squares.depth / SIDE);
        let k = self.ix(&c.k.begin)?;
        let square = |s: &mut Self, column: Value| -> Result<()> {
            s.vars[c.n.var.index()] = Some(s.b.ins().iadd(n_begin, column));
            s.vars[c.k.var.index()] = Some(k);
            let index = s.ix(&squares.index)?;
            let source = s.address(squares.source, index, 4);
            let position = s.b.ins().isub(column, at);
            let offset = s.scaled(position, 4);
            let to = s.b.ins().iadd(panel, offset);
            s.call(Callee::Loop(squares.function.clone()), &[source, to, depth]);
            Ok(())
        };
        self.counted(at, end, SIDE, &[], |s, column, _| {
            square(s, column)?;
            Ok(vec![])
        })?;
        if c.n.extent.as_const().is_some_and(|n| n % SIDE == 0) {
            return Ok(end);
        }
        // A last square that shares columns with the one before.
        let all = self.b.ins().iadd(at, used);
        let left = self.b.ins().icmp(IntCC::SignedLessThan, end, all);
        let enough = self.b.ins().icmp_imm_s(IntCC::SignedGreaterThanOrEqual, used, SIDE);
        let more = self.b.ins().band(left, enough);
        let last = self.b.ins().iadd_imm_s(all, -SIDE);
        self.branch(more, |s| square(s, last), |_| Ok(()))?;
        Ok(self.b.ins().select(enough, all, end))
    }

    /// Zeroes columns that a panel that is not full lacks and that are multiplied too. What is behind them in a row may be
    /// overwritten: it is packed later.
    fn clear_last_panel(
        &mut self,
        c: &Contract,
        plan: &ContractPlan,
        depth: &Ix,
        buffer: BufferId,
        [at, used]: [Value; 2],
    ) -> Result<()> {
        let width = plan.width;
        if c.n.extent.as_const().is_some_and(|n| n % width == 0) {
            return Ok(());
        }
        let total = self.ix(depth)?;
        let partial = self.b.ins().icmp_imm_s(IntCC::SignedLessThan, used, width);
        let bytes = (c.acc_dtype.bits() / 8) as i64;
        let step = lanes(c.acc_dtype);
        self.branch(
            partial,
            |s| {
                let mut end = s.i64(width);
                for tile in plan.streamed.iter().flat_map(|p| &p.narrow).rev() {
                    let fits = s.b.ins().icmp_imm_s(IntCC::SignedLessThanOrEqual, used, tile.width);
                    let narrow = s.i64(tile.width);
                    end = s.b.ins().select(fits, narrow, end);
                }
                let first = s.b.ins().imul(at, total);
                let vector = s.zero_vector(c.acc_dtype);
                let zero = s.i64(0);
                s.counted(zero, total, 1, &[first], |s, _, row| {
                    let base = s.address(buffer, row[0], bytes);
                    s.counted(used, end, step, &[], |s, column, _| {
                        let offset = s.scaled(column, bytes);
                        let at = s.b.ins().iadd(base, offset);
                        s.b.ins().store(emit::flags(), vector, at, 0);
                        Ok(vec![])
                    })?;
                    Ok(vec![s.b.ins().iadd_imm_s(row[0], width)])
                })?;
                Ok(())
            },
            |_| Ok(()),
        )
    }
}
