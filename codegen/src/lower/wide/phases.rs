//! Rows of several phases: reductions along a row, what follows from their totals, loops along the row.
//!
//! The whole row is one program: totals of all lanes go to parameters, from which later phases take them in every lane.

use super::lir::{Inst, Phase, Reg, Run, Src, Step, TotalForm};
use super::select::{Choice, Rep, Rows, Selection, Selector};
use super::{WideError, Width};
use crate::kir::{Accumulator, Axis, Block, Ix, Kernel, LoopKind, Reduce, Stmt};

/// Instructions of a phase that has time to look ahead.
const MUCH: usize = 12;

/// Bytes from what a phase stores to what it will store soon.
const SOON: i64 = 1024;

/// The loop along a row that decides how long it is; `None` where the block has none, or something else than values,
/// stores of one element, reductions and loops of independent iterations.
pub fn lanes_of_row(body: &Block) -> Option<&Axis> {
    let mut found: Option<&Axis> = None;
    for stmt in body {
        let axis = match stmt {
            Stmt::Let { .. } | Stmt::Store { .. } => continue,
            Stmt::Reduce(r) if r.kind == LoopKind::Vector => &r.axis,
            Stmt::For(l) if l.kind == LoopKind::Vector && l.carried.is_empty() => &l.axis,
            Stmt::Reduce(_) | Stmt::For(_) | Stmt::If { .. } | Stmt::Contract(_) => {
                return None;
            }
        };
        found = found.or(Some(axis));
    }
    // The caller evaluates the length before the first row.
    let computed = |ix: &Ix| ix.any_leaf(&|leaf| matches!(leaf, Ix::Scalar(_)));
    found.filter(|axis| !computed(&axis.begin) && !computed(&axis.extent))
}

/// The program of `body` for each of `rows`, all loops of which are as long as the one over `axis`
/// ([`lanes_of_row`]).
pub fn select_rows(
    kernel: &Kernel,
    width: Width,
    rows: &Rows,
    axis: &Axis,
    body: &Block,
) -> Result<Selection, WideError> {
    let mut s = Selector::new(kernel, width, Some(rows), axis, body);
    for stmt in body {
        match stmt {
            Stmt::Reduce(r) => {
                s.along(&r.axis)?;
                s.reduction(r)?;
            }
            Stmt::For(l) => {
                s.along(&l.axis)?;
                s.lanes(&l.body, &[], TotalForm::One)?;
                s.forget();
            }
            Stmt::Store { buffer, index, value } => s.store_one(*buffer, index, *value)?,
            other => s.stmt(other)?,
        }
    }
    s.once();
    s.prefetch();
    Ok(s.selection())
}

impl<'k> Selector<'k> {
    /// The phase that computes most asks for what the others will wait for: the next row of what they read, this row of
    /// what they write.
    fn prefetch(&mut self) {
        let size = |p: &Phase| if matches!(p.run, Run::Groups(_)) { p.body.len() } else { 0 };
        let Some(at) = (0..self.phases.len()).max_by_key(|&i| size(&self.phases[i])) else { return };
        if size(&self.phases[at]) < MUCH {
            return;
        }
        let stores = |inst: &Inst, pointer| matches!(inst, Inst::Store { at, .. } if at.pointer == pointer);
        let mut found: Vec<Inst> = vec![];
        for inst in self.phases.iter().flat_map(|p| &p.body) {
            let (Inst::Load { at: place, .. } | Inst::Store { at: place, .. }) = inst else { continue };
            let step = self.row_steps.iter().find(|s| s.0 == place.pointer).map(|s| s.1);
            let (Some(step), Step::Contiguous, true) = (step, place.step, place.inner.is_empty()) else {
                continue;
            };
            let stored_here = self.phases[at].body.iter().any(|i| stores(i, place.pointer));
            let ahead = match inst {
                _ if stored_here => SOON,
                Inst::Load { .. } => step,
                _ => 0,
            };
            let Ok(ahead) = i32::try_from(ahead) else { continue };
            let asked = Inst::Prefetch { at: place.clone(), ahead };
            if !found.contains(&asked) {
                found.push(asked);
            }
        }
        let rest = self.phases[at].body.drain(..).collect::<Vec<_>>();
        self.phases[at].body = found.into_iter().chain(rest).collect();
    }

    /// Begins a loop along the row.
    fn along(&mut self, axis: &'k Axis) -> Choice<()> {
        self.once();
        if self.ix(&axis.extent) != self.ix(&self.axis.extent) || self.uses_row(&axis.extent) {
            return self.unsupported("loops of several lengths along a row");
        }
        self.axis = axis;
        Ok(())
    }

    /// What was selected since the last loop is done once a row.
    fn once(&mut self) {
        if self.insts.is_empty() {
            return;
        }
        let phase = self.phases.len();
        self.close(Run::Once, vec![]);
        for rep in self.reps.values_mut() {
            if let Rep::Lanes(Src::Reg(reg)) = *rep {
                *rep = Rep::Row(phase, reg);
            }
        }
    }

    /// Values in registers of a loop end with it.
    fn forget(&mut self) {
        self.reps.retain(|_, rep| !matches!(rep, Rep::Lanes(Src::Reg(Reg(_)))));
    }

    fn reduction(&mut self, r: &Reduce) -> Choice<()> {
        let totals = self.lanes(&r.body, &r.accumulators, TotalForm::One)?;
        self.forget();
        for (a, total) in r.accumulators.iter().zip(totals) {
            let result = self.with_initial(a, total.identity, Src::Param(total.result))?;
            self.define(a.result, Rep::Lanes(result));
        }
        Ok(())
    }

    /// The total with what the reduction begins from.
    fn with_initial(&mut self, a: &Accumulator, identity: u32, total: Src) -> Choice<Src> {
        match self.src(a.init)? {
            Src::Bits(bits) if bits == identity => Ok(total),
            init => self.apply(a.combine, self.kernel.dtype(a.init), &[init, total]),
        }
    }
}
