//! Copies of what the rows of a block read: with their padding, or packed for a block of the reduction.

use kiln_ir::DType;

use super::rows::{self, Level, Patch};
use super::streamed::{BlockRows, Part, Streamed};
use crate::kir::{Axis, Bound, BufferId, Contract, For, Guard, Ix, LoopKind, Op, Stmt};
use crate::lower::clif::emit::{Emitter, Result};

impl Emitter<'_> {
    /// Packs a block of the reduction of the rows of a block.
    pub(super) fn pack_rows(
        &mut self,
        c: &Contract,
        plan: &Streamed,
        buffer: BufferId,
        block: &BlockRows,
        part: &Part,
    ) -> Result<()> {
        let run = plan.rows.run;
        let values = [
            (plan.names.first, block.first),
            (plan.names.rows, block.count[1]),
            (plan.k0, part.run[0]),
            (plan.kn, part.run[1]),
        ];
        for (var, value) in values {
            self.vars[var.index()] = Some(value);
        }
        let extent = match c.k.extent.as_const() {
            // The last step lacks elements.
            Some(k) if k < run => (Ix::Const(k) - Ix::Var(plan.k0)).min(Ix::Var(plan.kn)),
            _ if run % plan.part[1] == 0 => Ix::Const(plan.part[1]),
            _ => Ix::Var(plan.kn),
        };
        let k = Axis { var: c.k.var, begin: c.k.begin.clone() + Ix::Var(plan.k0), extent };
        let position = Ix::Var(c.k.var) - c.k.begin.clone() - Ix::Var(plan.k0);
        let index = (Ix::Var(c.m.var) - Ix::Var(plan.names.first)) * plan.rows.inner_stride + position;
        let mut body = c.a.body.clone();
        let value = match plan.widened.filter(|_| self.kernel.dtype(c.a.value) != DType::I32) {
            Some(dst) => {
                body.push(Stmt::Let { dst, op: Op::Cast(c.a.value) });
                dst
            }
            None => c.a.value,
        };
        body.push(Stmt::Store { buffer, index, value });
        let rows = Axis { var: c.m.var, begin: Ix::Var(plan.names.first), extent: Ix::Var(plan.names.rows) };
        self.nest(For { axis: k, kind: LoopKind::Vector, carried: vec![], body }, vec![rows])
    }

    /// Copies what the rows of a block read.
    pub(super) fn copy_rows(
        &mut self,
        c: &Contract,
        plan: &Streamed,
        patch: &Patch,
        buffer: BufferId,
    ) -> Result<()> {
        let mut stride = patch.pitch;
        let mut to = Ix::Const(0);
        let mut loops = vec![];
        let mut from = patch.index.clone();
        for span in patch.spans.iter().rev() {
            to = Ix::Var(span.var) * stride + to;
            from = from + Ix::Var(span.var) * span.distance;
            stride *= plan.rows.capacity(span, plan.block);
            let rows = match (span.level, plan.rows.split) {
                (Level::Outer, _) => Ix::Var(plan.counts[0]),
                (Level::Inner, None) => Ix::Var(plan.counts[1]),
                (Level::Inner, Some(line)) => Ix::Const(line),
                (Level::None, _) => Ix::Const(1),
            };
            loops.push(Axis { var: span.var, begin: Ix::Const(0), extent: span.extent(rows) });
        }
        let bounds: Vec<Bound> = patch.bounds.iter().map(|b| bound_of(patch, b)).collect();
        let body = |from: Option<(Ix, Vec<Bound>)>, to: Ix| {
            let op = match from {
                Some((index, bounds)) => {
                    let guard = Guard { bounds, otherwise: patch.otherwise };
                    let guard = (!guard.bounds.is_empty()).then_some(guard);
                    Op::Load { buffer: patch.source, index, guard }
                }
                None => Op::Const(patch.otherwise),
            };
            let value = patch.element;
            vec![Stmt::Let { dst: value, op }, Stmt::Store { buffer, index: to, value }]
        };
        let Some((valid, others)) = self.line_part(plan, patch) else {
            let k = Axis { var: c.k.var, begin: Ix::Const(0), extent: Ix::Const(patch.depth) };
            let k_at = Ix::Var(c.k.var);
            let inner = body(Some((from + k_at.clone(), bounds)), to + k_at);
            let innermost = For { axis: k, kind: LoopKind::Vector, carried: vec![], body: inner };
            return self.nest(innermost, loops);
        };
        // A line is contiguous in the source: padding, elements, padding.
        let line = loops.remove(0);
        let length = line.extent.as_const().unwrap_or(0);
        let element = Ix::Var(c.k.var);
        let whole = patch.pitch == patch.depth;
        let with = |ix: &Ix| {
            let ix = if whole { ix.substitute(line.var, &Ix::Const(0)) } else { ix.clone() };
            ix + element.clone()
        };
        let (from, to) = (with(&from), with(&to));
        let [begin, end] = valid;
        let parts = [
            (0, begin, body(None, to.clone())),
            (begin, end, body(Some((from, others)), to.clone())),
            (end, length, body(None, to)),
        ];
        for (begin, end, body) in parts.into_iter().filter(|(begin, end, _)| end > begin) {
            let axis = |var, begin, extent| Axis { var, begin: Ix::Const(begin), extent: Ix::Const(extent) };
            let (k, loops) = if whole {
                (axis(c.k.var, begin * patch.depth, (end - begin) * patch.depth), loops.clone())
            } else {
                let positions = axis(line.var, begin, end - begin);
                (axis(c.k.var, 0, patch.depth), [vec![positions], loops.clone()].concat())
            };
            self.nest(For { axis: k, kind: LoopKind::Vector, carried: vec![], body }, loops)?;
        }
        Ok(())
    }

    /// The positions of a line that are no padding, and the bounds on other spans; `None` where lines are not contiguous
    /// in the source, or their padding is not known.
    fn line_part(&self, plan: &Streamed, patch: &Patch) -> Option<([i64; 2], Vec<Bound>)> {
        let at = patch.spans.len().checked_sub(1)?;
        let line = plan.rows.split?;
        let span = &patch.spans[at];
        if span.distance != patch.depth {
            return None;
        }
        let extent = span.extent(Ix::Const(line)).as_const()?;
        let mut valid = [0, extent];
        let mut others = vec![];
        for b in &patch.bounds {
            if b.span != Some(at) {
                others.push(bound_of(patch, b));
                continue;
            }
            // Blocks are whole lines.
            let rest = b.rest.substitute(patch.first[1], &Ix::Const(0)).as_const()?;
            let (lower, upper) = (b.lower.as_const()?, b.upper.as_const()?);
            if b.step <= 0 {
                return None;
            }
            let above = |limit: i64| -(rest - limit).div_euclid(b.step);
            valid = [valid[0].max(above(lower)), valid[1].min(above(upper))];
        }
        // Padding may reach beyond the positions that windows touch.
        let valid = valid.map(|position| position.clamp(0, extent));
        Some(([valid[0], valid[1].max(valid[0])], others))
    }

    /// A loop inside of others, the innermost of them first.
    fn nest(&mut self, innermost: For, loops: Vec<Axis>) -> Result<()> {
        let mut all = innermost;
        for axis in loops {
            let body = vec![Stmt::For(Box::new(all))];
            all = For { axis, kind: LoopKind::Sequential, carried: vec![], body };
        }
        self.for_stmt(&all)
    }
}

fn bound_of(patch: &Patch, b: &rows::SpanBound) -> Bound {
    let position = b.span.map_or(Ix::Const(0), |s| Ix::Var(patch.spans[s].var) * b.step);
    Bound { index: b.rest.clone() + position, lower: b.lower.clone(), upper: b.upper.clone() }
}
