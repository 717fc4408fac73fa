//! Vectorizable loops as functions with wide vectors, which the kernel calls.
//!
//! A call passes one pointer to words on the stack: the number of iterations and of rows, addresses, scalars, and
//! places for the totals of reductions.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, StackSlotData, StackSlotKind, Value, types};
use kiln_ir::DType;

use super::emit::{Callee, Emitter, Repr, Result, flags};
use super::memory::vector_type;
use crate::kir::{Accumulator, Axis, Block, Bound, For, LoopKind, Op, Stmt, Var};
use crate::lower::wide::{
    COUNT, ROWS, Rows, Selection, TotalForm, WideError, WideFunction, Width, Word, lanes_of_row, select,
    select_rows,
};

/// Shortest loops of known length that are worth a call.
const SHORTEST: i64 = 8;

/// A loop to be called.
pub(super) struct Outlined {
    selection: Selection,
    function: WideFunction,
    width: Width,
}

/// What a call leaves to do.
pub(super) enum Rest {
    /// Nothing.
    Nothing,
    /// The iterations from this one on.
    From(Value),
}

impl Outlined {
    /// What a call that came to iteration `at` leaves.
    pub fn rest(&self, axis: &Axis, at: Value) -> Rest {
        let whole = axis.extent.as_const().is_some_and(|n| n % self.lanes() == 0);
        match self.width {
            Width::W512 => Rest::Nothing,
            Width::W256 if whole => Rest::Nothing,
            Width::W256 => Rest::From(at),
        }
    }

    /// Whether the function does several rows at a time that use the same elements, without the stack.
    pub fn shares_elements(&self) -> bool {
        self.selection.overlapping && self.function.stack == 0
    }

    /// Whether rows of the function use elements that other rows use at another position.
    pub fn overlaps(&self) -> bool {
        self.selection.overlapping
    }

    fn lanes(&self) -> i64 {
        self.width.bytes() / 4
    }
}

impl Emitter<'_> {
    /// The loop as a function with wide vectors; `None` where there is none.
    pub fn outlined(
        &mut self,
        rows: Option<&Rows>,
        axis: &Axis,
        body: &Block,
        accumulators: &[Accumulator],
    ) -> Option<Outlined> {
        let width = self.width_of(rows, axis)?;
        self.finished(axis, width, select(&self.kernel, width, rows, axis, body, accumulators))
    }

    /// The rows of several phases as a function; `None` where there is none.
    fn outlined_rows(&mut self, rows: &Rows, axis: &Axis, body: &Block) -> Option<Outlined> {
        let width = self.width_of(Some(rows), axis)?;
        self.finished(axis, width, select_rows(&self.kernel, width, rows, axis, body))
    }

    /// Width of the vectors of a loop; `None` where it is not worth a call, or none can do it.
    fn width_of(&self, rows: Option<&Rows>, axis: &Axis) -> Option<Width> {
        let width = self.width.filter(|_| self.mode.is_none())?;
        let count = axis.extent.as_const();
        let lanes = width.bytes() / 4;
        let shortest = match width {
            Width::W512 => SHORTEST,
            Width::W256 => lanes,
        };
        if count.is_some_and(|n| n < shortest) {
            return None;
        }
        // Without masks, the rest of each row is the caller's: it cannot be inside a loop over rows.
        if rows.is_some() && width == Width::W256 && count.is_none_or(|n| n % lanes != 0) {
            return None;
        }
        Some(width)
    }

    fn finished(
        &self,
        axis: &Axis,
        width: Width,
        selection: std::result::Result<Selection, WideError>,
    ) -> Option<Outlined> {
        let count = axis.extent.as_const();
        let made = selection.and_then(|selection| Ok((selection.function(count, width)?, selection)));
        match made {
            Ok((function, selection)) => Some(Outlined { selection, function, width }),
            Err(reason) => {
                tracing::trace!(kernel = self.kernel.name, %reason, "a loop keeps 128-bit vectors");
                None
            }
        }
    }

    /// A loop of independent iterations with wide vectors.
    pub fn wide_for(&mut self, l: &For, begin: Value, end: Value) -> Result<Rest> {
        let Some(outlined) = self.outlined(None, &l.axis, &l.body, &[]) else { return Ok(Rest::From(begin)) };
        let (at, _) = self.call_outlined(&outlined, None, &l.axis, begin, end)?;
        Ok(outlined.rest(&l.axis, at))
    }

    /// A loop over rows of vectorizable loops with wide vectors; false where it is none of theirs.
    pub fn wide_rows(&mut self, l: &For) -> Result<bool> {
        let [Stmt::For(inner)] = l.body.as_slice() else { return self.wide_phases(l) };
        let plain = l.carried.is_empty() && inner.kind == LoopKind::Vector && inner.carried.is_empty();
        let depends = inner.axis.begin.uses(l.axis.var) || inner.axis.extent.uses(l.axis.var);
        if !plain || depends {
            return Ok(false);
        }
        if self.wide_windows(l, inner)? {
            return Ok(true);
        }
        if let Some(parts) = interior(l, inner) {
            for part in parts {
                self.for_stmt(&part)?;
            }
            return Ok(true);
        }
        let rows = Rows { axis: l.axis.clone(), tile: 1 };
        let Some(outlined) = self.outlined(Some(&rows), &inner.axis, &inner.body, &[]) else {
            return Ok(false);
        };
        self.call_rows(&outlined, &rows, &inner.axis)?;
        Ok(true)
    }

    /// A loop over rows of reductions and loops along them; false where it is none.
    fn wide_phases(&mut self, l: &For) -> Result<bool> {
        let Some(axis) = lanes_of_row(&l.body).filter(|_| l.carried.is_empty()) else { return Ok(false) };
        if axis.begin.uses(l.axis.var) || axis.extent.uses(l.axis.var) {
            return Ok(false);
        }
        let rows = Rows { axis: l.axis.clone(), tile: 1 };
        let Some(outlined) = self.outlined_rows(&rows, axis, &l.body) else { return Ok(false) };
        self.call_rows(&outlined, &rows, axis)?;
        Ok(true)
    }

    /// Calls the function of a loop over rows.
    pub fn call_rows(&mut self, outlined: &Outlined, rows: &Rows, axis: &Axis) -> Result<()> {
        let (begin, end) = self.range(axis)?;
        self.call_outlined(outlined, Some(rows), axis, begin, end)?;
        Ok(())
    }

    /// The totals of a reduction with wide vectors, one a lane of four, and the first iteration that is left.
    pub fn wide_totals(
        &mut self,
        outlined: &Outlined,
        axis: &Axis,
        begin: Value,
        end: Value,
    ) -> Result<(Value, Vec<Vec<Value>>)> {
        let (at, frame) = self.call_outlined(outlined, None, axis, begin, end)?;
        let mut totals = vec![];
        for total in outlined.selection.totals() {
            let dtype = match total.op {
                op if op.is_float() => DType::F32,
                _ => DType::I32,
            };
            let parts = (0..outlined.lanes() / 4).map(|i| {
                let offset = 8 * total.result.0 as i32 + 16 * i as i32;
                self.b.ins().load(vector_type(dtype), flags(), frame, offset)
            });
            totals.push(parts.collect());
        }
        Ok((at, totals))
    }

    /// Calls the function for `[begin, end)`, rows outside; gives the first iteration that is left and the words.
    fn call_outlined(
        &mut self,
        outlined: &Outlined,
        rows: Option<&Rows>,
        axis: &Axis,
        begin: Value,
        end: Value,
    ) -> Result<(Value, Value)> {
        let selection = &outlined.selection;
        let bytes = 8 * selection.words.len() as u32;
        let data = StackSlotData::new(StackSlotKind::ExplicitSlot, bytes, 4);
        let slot = self.b.create_sized_stack_slot(data);
        let frame = self.b.ins().stack_addr(types::I64, slot, 0);
        for total in selection.totals().filter(|t| t.form == TotalForm::Lanes) {
            let identity = self.iconst(types::I32X4, i64::from(total.identity));
            for i in 0..outlined.lanes() / 4 {
                self.b.ins().store(flags(), identity, frame, 8 * total.result.0 as i32 + 16 * i as i32);
            }
        }
        let all = self.b.ins().isub(end, begin);
        let zero = self.i64(0);
        let empty = self.b.ins().icmp(IntCC::SignedLessThan, all, zero);
        let all = self.b.ins().select(empty, zero, all);
        let count = match outlined.width {
            Width::W512 => all,
            Width::W256 => self.b.ins().band_imm_s(all, -outlined.lanes()),
        };
        let known = axis.extent.as_const().is_some_and(|n| n >= outlined.lanes());
        let (row_begin, row_count) = match rows {
            Some(rows) => {
                let begin = self.ix(&rows.axis.begin)?;
                let count = rows.axis.extent.clone().floor_div(i64::from(rows.tile));
                (Some((rows.axis.var, begin)), self.ix(&count)?)
            }
            None => (None, self.i64(1)),
        };
        let some = self.b.ins().icmp(IntCC::SignedGreaterThan, count, zero);
        let some_rows = self.b.ins().icmp(IntCC::SignedGreaterThan, row_count, zero);
        let some = match known || selection.stores_beside_loops() {
            true => some_rows,
            false => self.b.ins().band(some, some_rows),
        };
        let run = |s: &mut Self| {
            s.vars[axis.var.index()] = Some(begin);
            if let Some((var, begin)) = row_begin {
                s.vars[var.index()] = Some(begin);
            }
            s.b.ins().store(flags(), count, frame, 8 * COUNT.0 as i32);
            s.b.ins().store(flags(), row_count, frame, 8 * ROWS.0 as i32);
            s.store_words(selection, frame)?;
            s.call(Callee::Loop(outlined.function.clone()), &[frame]);
            Ok(())
        };
        if known && rows.is_none() {
            run(self)?;
        } else {
            self.branch(some, run, |_| Ok(()))?;
        }
        Ok((self.b.ins().iadd(begin, count), frame))
    }

    /// Evaluates what the program asks for.
    pub fn store_words(&mut self, selection: &Selection, frame: Value) -> Result<()> {
        let own = self.kernel.vals.len();
        self.kernel.vals.extend(&selection.dtypes);
        self.vals.resize(own + selection.dtypes.len(), None);
        self.block(&selection.hoisted)?;
        for (i, word) in (0i32..).zip(&selection.words) {
            let value = match word {
                Word::Reserved | Word::Kept => continue,
                Word::Address { buffer, index, guard } => {
                    let bytes = (self.kernel.buffers[buffer.index()].dtype.bits() / 8) as i64;
                    let mut at = self.ix(index)?;
                    if let Some(guarded) = guard {
                        let holds = self.guard_holds(&guarded.guard)?;
                        let beginning = self.i64(-guarded.offset);
                        at = self.b.ins().select(holds, at, beginning);
                    }
                    self.address(*buffer, at, bytes)
                }
                Word::Flag(guard) => {
                    let holds = self.guard_holds(guard)?;
                    let wide = self.b.ins().uextend(types::I64, holds);
                    self.b.ins().ineg(wide)
                }
                Word::Scalar(val) => {
                    let Repr::Uniform(value) = self.val(*val)? else {
                        return self.unsupported("lanes outside a loop");
                    };
                    if self.kernel.dtype(*val) == DType::Bool {
                        let wide = self.b.ins().uextend(types::I32, value);
                        self.b.ins().ineg(wide)
                    } else {
                        value
                    }
                }
            };
            self.b.ins().store(flags(), value, frame, 8 * i);
        }
        self.kernel.vals.truncate(own);
        self.vals.truncate(own);
        Ok(())
    }
}

/// The loop in up to three parts, such that the guards of the longest do not depend on the row: the padding of a window
/// concerns its border only. `None` where no guard depends on the row, or no such part is evident.
fn interior(l: &For, inner: &For) -> Option<Vec<For>> {
    let (begin, extent) = (l.axis.begin.as_const()?, l.axis.extent.as_const()?);
    let (mut first, mut last) = (begin, begin + extent);
    let mut body = inner.body.clone();
    let mut found = false;
    for stmt in &mut body {
        let Stmt::Let { op: Op::Load { guard, .. }, .. } = stmt else { continue };
        let Some(own) = guard else { continue };
        for bound in own.bounds.iter().filter(|b| depends_on(b, l.axis.var)) {
            found = true;
            // lower <= step * row + rest < upper
            let linear = bound.index.linear(l.axis.var, &|_| true)?;
            let (step, rest) = (linear.coefficient.as_const()?, linear.rest.as_const()?);
            let (lower, upper) = (bound.lower.as_const()?, bound.upper.as_const()?);
            if step <= 0 {
                return None;
            }
            let above = |limit: i64| (limit - rest + step - 1).div_euclid(step);
            first = first.max(above(lower));
            last = last.min(above(upper));
        }
        own.bounds.retain(|b| !depends_on(b, l.axis.var));
        if own.bounds.is_empty() {
            *guard = None;
        }
    }
    if !found || last <= first {
        return None;
    }
    let part = |from: i64, to: i64, body: &Block| {
        let inner = For { body: body.clone(), ..inner.clone() };
        let axis = Axis { var: l.axis.var, begin: from.into(), extent: (to - from).into() };
        For { axis, body: vec![Stmt::For(Box::new(inner))], ..l.clone() }
    };
    let mut parts = vec![];
    // A border has a row or two: what is left of its guards is decided row by row.
    let rows = (begin..first).map(|row| part(row, row + 1, &inner.body));
    parts.extend(rows);
    parts.push(part(first, last, &body));
    parts.extend((last..begin + extent).map(|row| part(row, row + 1, &inner.body)));
    const MOST_PARTS: usize = 8;
    (parts.len() <= MOST_PARTS).then_some(parts)
}

pub(super) fn depends_on(bound: &Bound, row: Var) -> bool {
    [&bound.index, &bound.lower, &bound.upper].into_iter().any(|ix| ix.uses(row))
}
