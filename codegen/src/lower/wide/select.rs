//! Loops of kernel IR as vector programs: which values differ between lanes, what the caller computes once.
//!
//! What is the same for every lane is left to the caller: it evaluates the hoisted statements, then the words that the
//! program's parameters stand for. Loops inside are unrolled if they are short, else they become loops of the program.
//!
//! Of a loop over rows, a program may do several at a time: each statement for every row before the next statement, so
//! that an element that several rows use, such as those of overlapping windows and their weights, is loaded once.

use std::ops::Range;

use kiln_ir::{DType, Prim, Scalar};
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;

use super::lir::{
    Access, Binary, Inst, LoopId, LoopProgram, Param, Phase, Reg, Run, Src, Step, Total, TotalForm,
    without_unused,
};
use super::survey::{decided, operations, stored};
use super::words::{GuardedAddress, Word};
use super::{WideError, Width, access};
use crate::kir::{
    Accumulator, Axis, Block, BufferId, For, Guard, Ix, Kernel, Op, Reduce, Stmt, Val, Var, compute_dtype,
};

/// A result, or why the loop is none of a vector program.
pub(super) type Choice<T> = Result<T, WideError>;

/// Most instructions of a program: beyond, loops inside are not unrolled, and at last the loop is refused.
const MOST_INSTRUCTIONS: usize = 700;

/// Most operations that an unrolled loop has.
const UNROLLED: i64 = 300;

/// Registers for what an instruction needs besides values.
pub(super) const TEMPORARIES: usize = 4;

/// Most groups of lanes of a main loop.
const MOST_GROUPS: usize = 4;

/// Most instructions of a group that takes turns with others.
const MOST_IN_TURN: usize = 100;

/// A vector program and what it needs from its caller.
#[derive(Clone, Debug)]
pub struct Selection {
    /// The program.
    pub program: LoopProgram,
    /// What its parameters stand for.
    pub words: Vec<Word>,
    /// Statements to evaluate before.
    pub hoisted: Vec<Stmt>,
    /// Dtypes of the values that the hoisted statements define, after those of the kernel.
    pub dtypes: Vec<DType>,
    /// Whether rows use elements that other rows of the program use at another position.
    pub overlapping: bool,
}

/// The loop outside of a loop in lanes.
#[derive(Clone, Debug)]
pub struct Rows {
    /// Variable and range; the extent is a multiple of `tile`.
    pub axis: Axis,
    /// Rows that the program does at a time. More than one need a body whose iterations do not depend on each other.
    pub tile: u32,
}

impl Rows {
    /// The first row, where the program does all of them in one go.
    fn fixed(&self) -> Option<i64> {
        let all = self.axis.extent.as_const() == Some(i64::from(self.tile));
        self.axis.begin.as_const().filter(|_| all)
    }
}

/// A value of the loop.
#[derive(Clone, Debug)]
pub(super) enum Rep {
    /// The same in every lane: a value of the caller, and its bits where they are known.
    Uniform(Val, Option<u32>),
    /// Differs between lanes.
    Lanes(Src),
    /// The same in every lane of a row: a register of a phase that ran before.
    Row(usize, Reg),
}

/// What is selected: one group of lanes.
pub(super) struct Selector<'k> {
    pub(super) kernel: &'k Kernel,
    width: Width,
    /// The lanes' loop.
    pub(super) axis: &'k Axis,
    rows: Option<&'k Rows>,
    /// Which row of a tile is selected, and which ones a statement is selected for.
    copy: u32,
    copies: Range<u32>,
    /// Loads so far, by what they load, and for which row.
    loads: FxHashMap<(Access, Option<(Param, u32)>), (Reg, u32)>,
    /// Whether a load was met that another row has made at another position.
    overlaps: bool,
    /// Values of the error function, and of what.
    pub(super) erfs: FxHashMap<Reg, Src>,
    /// Buffers that the rows write.
    written: FxHashSet<BufferId>,
    /// Phases that are complete.
    pub(super) phases: Vec<Phase>,
    pub(super) insts: Vec<Inst>,
    registers: u32,
    pub(super) reps: FxHashMap<(u32, Val), Rep>,
    vars: FxHashMap<Var, Ix>,
    inner: Vec<(Var, LoopId)>,
    loops: u32,
    words: Vec<Word>,
    pub(super) row_steps: Vec<(Param, i64)>,
    hoisted: Vec<Stmt>,
    dtypes: Vec<DType>,
}

/// The program of a loop over `axis`, for each of `rows`; with accumulators, of a reduction.
pub fn select(
    kernel: &Kernel,
    width: Width,
    rows: Option<&Rows>,
    axis: &Axis,
    body: &Block,
    accumulators: &[Accumulator],
) -> Result<Selection, WideError> {
    let mut s = Selector::new(kernel, width, rows, axis, body);
    let tile = s.copies.end;
    // Statements behind the last overlap are selected row by row, so that fewer values are live.
    let mut apart = body.len();
    if tile > 1 {
        apart = s.together(body)?;
        s = Selector::new(kernel, width, rows, axis, body);
    }
    let overlapping = tile > 1 && apart > 0;
    s.block(&body[..apart])?;
    for copy in 0..tile {
        s.copies = copy..copy + 1;
        s.block(&body[apart..])?;
    }
    s.copy = 0;
    s.lanes(&[], accumulators, TotalForm::Lanes)?;
    Ok(Selection { overlapping, ..s.selection() })
}

impl<'k> Selector<'k> {
    /// Nothing selected yet; `body` is what is done for each of `rows`.
    pub fn new(
        kernel: &'k Kernel,
        width: Width,
        rows: Option<&'k Rows>,
        axis: &'k Axis,
        body: &Block,
    ) -> Selector<'k> {
        let mut written = FxHashSet::default();
        if rows.is_some() {
            stored(body, &mut written);
        }
        Selector {
            kernel,
            width,
            axis,
            rows,
            copy: 0,
            copies: 0..rows.map_or(1, |r| r.tile),
            loads: FxHashMap::default(),
            overlaps: false,
            erfs: FxHashMap::default(),
            written,
            phases: vec![],
            insts: vec![],
            registers: 0,
            reps: FxHashMap::default(),
            vars: FxHashMap::default(),
            inner: vec![],
            loops: 0,
            words: vec![Word::Reserved, Word::Reserved],
            row_steps: vec![],
            hoisted: vec![],
            dtypes: vec![],
        }
    }

    /// The phase of a loop over lanes; gives where its totals are.
    pub fn lanes(
        &mut self,
        body: &[Stmt],
        accumulators: &[Accumulator],
        form: TotalForm,
    ) -> Choice<Vec<Total>> {
        self.block(body)?;
        let mut totals = vec![];
        for (number, a) in (0u32..).zip(accumulators) {
            let dtype = self.kernel.dtype(a.init);
            let (op, identity) = self.combination(a.combine, dtype)?;
            let item = self.src(a.item)?;
            self.push(Inst::Accumulate { op, accumulator: number, a: item });
            let words = match form {
                TotalForm::Lanes => self.width.bytes() / 8,
                TotalForm::One => 1,
            };
            totals.push(Total { identity, op, result: self.keep(words as usize), form });
        }
        if self.insts.len() > MOST_INSTRUCTIONS {
            return self.unsupported("a loop of that many operations");
        }
        let phase = Phase {
            body: without_unused(std::mem::take(&mut self.insts)),
            run: Run::Groups(1),
            totals: totals.clone(),
        };
        let run = Run::Groups(self.groups(&phase));
        self.phases.push(Phase { run, ..phase });
        Ok(totals)
    }

    /// Groups of lanes for the main loop of a phase: as many as find registers, so that results that are waited for
    /// leave something to do.
    fn groups(&self, phase: &Phase) -> usize {
        let loops = phase.body.iter().any(|i| matches!(i, Inst::Begin { .. }));
        let room = self.width.registers() - TEMPORARIES;
        let each = phase.live() + phase.totals.len();
        match phase.body.len() {
            n if n <= MOST_IN_TURN && !loops => (room / each).clamp(1, MOST_GROUPS),
            _ => 1,
        }
    }

    /// Makes what was selected a phase.
    pub fn close(&mut self, run: Run, totals: Vec<Total>) {
        let body = std::mem::take(&mut self.insts);
        self.phases.push(Phase { body, run, totals });
    }

    /// The program of all phases.
    pub fn selection(self) -> Selection {
        let program =
            LoopProgram { phases: self.phases, registers: self.registers, row_steps: self.row_steps };
        Selection {
            program,
            words: self.words,
            hoisted: self.hoisted,
            dtypes: self.dtypes,
            overlapping: false,
        }
    }

    /// The first of parameters that the program writes.
    pub fn keep(&mut self, words: usize) -> Param {
        let first = Param(self.words.len() as u32);
        self.words.extend(vec![Word::Kept; words]);
        first
    }

    /// Width of the vectors.
    pub fn width(&self) -> Width {
        self.width
    }

    /// Selects all rows together; gives the number of statements up to the last at which rows overlap.
    fn together(&mut self, body: &[Stmt]) -> Choice<usize> {
        let mut last = 0;
        for (i, stmt) in body.iter().enumerate() {
            self.overlaps = false;
            self.stmt(stmt)?;
            if self.overlaps {
                last = i + 1;
            }
        }
        Ok(last)
    }

    fn row(&self) -> Option<Var> {
        self.rows.map(|r| r.axis.var)
    }

    /// The row that is selected.
    fn row_at(&self, rows: &Rows) -> Ix {
        let copy = i64::from(self.copy);
        rows.fixed().map_or(Ix::Var(rows.axis.var) + copy, |begin| Ix::Const(begin + copy))
    }

    pub fn unsupported<T>(&self, what: impl Into<String>) -> Choice<T> {
        Err(WideError::Unsupported(what.into()))
    }

    pub fn fresh(&mut self) -> Reg {
        self.registers += 1;
        Reg(self.registers - 1)
    }

    pub fn push(&mut self, inst: Inst) {
        self.insts.push(inst);
    }

    /// A source as a register.
    pub fn in_register(&mut self, src: Src) -> Reg {
        if let Src::Reg(reg) = src {
            return reg;
        }
        let dst = self.fresh();
        self.push(Inst::Move { dst, a: src });
        dst
    }

    fn word(&mut self, word: Word) -> Param {
        let known = self.words.iter().position(|w| w.serves(&word));
        let at = known.unwrap_or(self.words.len());
        match self.words.get_mut(at) {
            Some(known) => known.also_serve(&word),
            None => self.words.push(word),
        }
        Param(at as u32)
    }

    fn dtype(&self, val: Val) -> DType {
        let own = val.index().checked_sub(self.kernel.vals.len());
        own.map_or_else(|| self.kernel.dtype(val), |i| self.dtypes[i])
    }

    fn rep(&self, val: Val) -> Rep {
        self.reps.get(&(self.copy, val)).cloned().unwrap_or(Rep::Uniform(val, None))
    }

    /// A value in every lane.
    pub fn src(&mut self, val: Val) -> Choice<Src> {
        match self.rep(val) {
            Rep::Lanes(src) => Ok(src),
            Rep::Row(phase, reg) => {
                let param = self.keep(1);
                self.phases[phase].body.push(Inst::Keep { param, a: reg.into() });
                self.define(val, Rep::Lanes(Src::Param(param)));
                Ok(Src::Param(param))
            }
            Rep::Uniform(_, Some(bits)) => Ok(Src::Bits(bits)),
            Rep::Uniform(val, None) if self.dtype(val).bits() <= 32 => {
                Ok(Src::Param(self.word(Word::Scalar(val))))
            }
            Rep::Uniform(..) => self.unsupported("64-bit values in lanes"),
        }
    }

    /// The expression with unrolled variables and renamed scalars replaced.
    pub fn ix(&self, ix: &Ix) -> Ix {
        ix.map_leaves(&mut |leaf| match leaf {
            Ix::Var(v) => match self.rows {
                Some(rows) if rows.axis.var == *v => self.row_at(rows),
                _ => self.vars.get(v).cloned().unwrap_or_else(|| leaf.clone()),
            },
            Ix::Scalar(s) => match self.rep(*s) {
                Rep::Uniform(val, _) => Ix::Scalar(val),
                Rep::Lanes(_) | Rep::Row(..) => leaf.clone(),
            },
            Ix::Const(_) | Ix::Dim(_) => leaf.clone(),
            Ix::Add(..) | Ix::Mul(..) | Ix::FloorDiv(..) | Ix::Mod(..) | Ix::Min(..) | Ix::Max(..) => {
                leaf.clone()
            }
        })
    }

    /// Whether the (replaced) expression differs between lanes or iterations inside.
    pub fn varies(&self, ix: &Ix) -> bool {
        ix.any_leaf(&|leaf| match leaf {
            Ix::Var(v) => *v == self.axis.var || self.inner.iter().any(|i| i.0 == *v),
            Ix::Scalar(s) => {
                matches!(self.reps.get(&(self.copy, *s)), Some(Rep::Lanes(_) | Rep::Row(..)))
            }
            _ => false,
        })
    }

    pub fn uses_row(&self, ix: &Ix) -> bool {
        self.row().is_some_and(|row| ix.uses(row))
    }

    fn block(&mut self, block: &[Stmt]) -> Choice<()> {
        block.iter().try_for_each(|stmt| self.stmt(stmt))
    }

    pub fn stmt(&mut self, stmt: &Stmt) -> Choice<()> {
        if self.insts.len() > MOST_INSTRUCTIONS {
            return self.unsupported("a loop of that many operations");
        }
        match stmt {
            Stmt::Let { dst, op } => self.each_row(|s| {
                let rep = s.op(*dst, op)?;
                s.define(*dst, rep);
                Ok(())
            }),
            Stmt::Store { buffer, index, value } => self.each_row(|s| s.store(*buffer, index, *value)),
            Stmt::For(l) => self.for_inside(l),
            Stmt::Reduce(r) => self.reduce_inside(r),
            Stmt::If { .. } => self.unsupported("branches"),
            Stmt::Contract(_) => self.unsupported("contractions in lanes"),
        }
    }

    /// Runs `f` for every row that statements are selected for.
    fn each_row(&mut self, mut f: impl FnMut(&mut Self) -> Choice<()>) -> Choice<()> {
        for copy in self.copies.clone() {
            self.copy = copy;
            f(self)?;
        }
        Ok(())
    }

    pub fn define(&mut self, val: Val, rep: Rep) {
        self.reps.insert((self.copy, val), rep);
    }

    /// Leaves an operation on uniform values to the caller.
    fn hoist(&mut self, dst: Val, op: Op) -> Choice<Rep> {
        let dtype = self.kernel.dtype(dst);
        let bits = match (&op, dtype) {
            (Op::Const(Scalar::F(x)), DType::F32) => Some((*x as f32).to_bits()),
            (Op::Const(Scalar::B(x)), _) => Some(if *x { u32::MAX } else { 0 }),
            (Op::Const(Scalar::I(x)), d) if d.bits() <= 32 => Some(*x as u32),
            _ => None,
        };
        // Rows have most of them in common.
        let same = self.hoisted.iter().zip(&self.dtypes).find_map(|(stmt, known)| match stmt {
            Stmt::Let { dst, op: other } if *known == dtype && *other == op => Some(*dst),
            _ => None,
        });
        let val = same.unwrap_or_else(|| {
            let val = Val((self.kernel.vals.len() + self.dtypes.len()) as u32);
            self.dtypes.push(dtype);
            self.hoisted.push(Stmt::Let { dst: val, op });
            val
        });
        Ok(Rep::Uniform(val, bits))
    }

    /// The callers' names of uniform operands; `None` if one differs between lanes.
    fn uniform(&self, operands: &[Val]) -> Option<SmallVec<[Val; 3]>> {
        let one = |v: &Val| match self.rep(*v) {
            Rep::Uniform(val, _) => Some(val),
            Rep::Lanes(_) | Rep::Row(..) => None,
        };
        operands.iter().map(one).collect()
    }

    fn op(&mut self, dst: Val, op: &Op) -> Choice<Rep> {
        let dtype = self.kernel.dtype(dst);
        match op {
            Op::Const(value) => self.hoist(dst, Op::Const(*value)),
            Op::Load { buffer, index, guard } => self.load(dst, *buffer, index, guard.as_ref()),
            Op::Index(index) => {
                let index = self.ix(index);
                if self.varies(&index) || self.uses_row(&index) {
                    return self.unsupported("64-bit indices in lanes");
                }
                self.hoist(dst, Op::Index(index))
            }
            Op::Apply(prim, operands) => {
                if let Some(uniform) = self.uniform(operands) {
                    return self.hoist(dst, Op::Apply(*prim, uniform));
                }
                let of = operands.last().map_or(dtype, |v| self.kernel.dtype(*v));
                if of.bits() > 32 || dtype.bits() > 32 {
                    return self.unsupported("64-bit values in lanes");
                }
                let args = operands.iter().map(|v| self.src(*v)).collect::<Choice<SmallVec<[Src; 3]>>>()?;
                self.apply(*prim, of, &args).map(Rep::Lanes)
            }
            Op::Cast(value) => {
                if let Some(uniform) = self.uniform(&[*value]) {
                    return self.hoist(dst, Op::Cast(uniform[0]));
                }
                let from = self.kernel.dtype(*value);
                let value = self.src(*value)?;
                self.cast(from, dtype, value).map(Rep::Lanes)
            }
            Op::Bits(value) => {
                if let Some(uniform) = self.uniform(&[*value]) {
                    return self.hoist(dst, Op::Bits(uniform[0]));
                }
                let from = self.kernel.dtype(*value);
                if dtype.bits() > 32 {
                    return self.unsupported("64-bit values in lanes");
                }
                let value = self.src(*value)?;
                match from.is_int() && dtype.is_int() {
                    true => self.cast(from, dtype, value).map(Rep::Lanes),
                    false => Ok(Rep::Lanes(value)),
                }
            }
            Op::MulAdd(a, b, c) => {
                if let Some(u) = self.uniform(&[*a, *b, *c]) {
                    return self.hoist(dst, Op::MulAdd(u[0], u[1], u[2]));
                }
                if dtype != DType::F32 {
                    return self.unsupported("64-bit values in lanes");
                }
                let (a, b, c) = (self.src(*a)?, self.src(*b)?, self.src(*c)?);
                Ok(Rep::Lanes(self.mul_add(a, b, c).into()))
            }
        }
    }

    /// How an element index moves from lane to lane and in loops inside; the parameter of its address.
    fn access(&mut self, buffer: BufferId, index: &Ix, guard: Option<&Guard>) -> Choice<Access> {
        let storage = self.kernel.buffers[buffer.index()].dtype;
        if storage.is_packed() || compute_dtype(storage).is_none_or(|d| d.bits() > 32) {
            return self.unsupported(format!("lanes of {storage}"));
        }
        let size = (storage.bits() / 8) as i64;
        let constant = |ix: &Ix, var: Var| {
            let varies = |v| matches!(self.reps.get(&(self.copy, v)), Some(Rep::Lanes(_) | Rep::Row(..)));
            let linear = ix.linear(var, &varies)?;
            Some((linear.coefficient.as_const()?, linear.rest))
        };
        let far = || WideError::Unsupported("elements far apart or not in line".to_owned());
        let (step, _) = constant(index, self.axis.var).ok_or_else(far)?;
        let first = index.substitute(self.axis.var, &self.ix(&self.axis.begin));
        let step = match step {
            0 => Step::Same,
            1 => Step::Contiguous,
            other => Step::Strided(i32::try_from(other).map_err(|_| far())?),
        };
        let mut inner = SmallVec::new();
        let mut rest = first;
        for &(var, id) in &self.inner {
            let (step, without) = constant(&rest, var).ok_or_else(far)?;
            rest = without;
            if step != 0 {
                inner.push((id, i32::try_from(step * size).map_err(|_| far())?));
            }
        }
        let mut row_step = 0;
        if let Some(rows) = self.rows {
            row_step = constant(&rest, rows.axis.var).ok_or_else(far)?.0 * size * i64::from(rows.tile);
        }
        // Neighbours share a pointer.
        let (rest, constant) = match rest {
            Ix::Add(rest, constant) => match constant.as_const() {
                Some(c) => (*rest, c),
                None => (Ix::Add(rest, constant), 0),
            },
            other => (other, 0),
        };
        let offset = constant.checked_mul(size).and_then(|o| i32::try_from(o).ok()).ok_or_else(far)?;
        let guard = guard.map(|guard| GuardedAddress { guard: guard.clone(), offset: constant });
        let pointer = self.word(Word::Address { buffer, index: rest, guard });
        if row_step != 0 && self.row_steps.iter().all(|r| r.0 != pointer) {
            self.row_steps.push((pointer, row_step));
        }
        Ok(Access { pointer, offset, storage, step, inner })
    }

    fn load(&mut self, dst: Val, buffer: BufferId, index: &Ix, guard: Option<&Guard>) -> Choice<Rep> {
        let of_row = self.row().is_some_and(|row| index.uses(row));
        let index = self.ix(index);
        let mut guard = guard.map(|g| self.guard(g));
        if let Some(own) = &mut guard {
            if own.bounds.iter().any(|b| decided(b) == Some(false)) {
                return self.hoist(dst, Op::Const(own.otherwise));
            }
            own.bounds.retain(|b| decided(b).is_none());
        }
        let guard = guard.filter(|g| !g.bounds.is_empty());
        if let Some(guard) = &guard {
            let parts = guard.bounds.iter().flat_map(|b| [&b.index, &b.lower, &b.upper]);
            if parts.clone().any(|ix| self.varies(ix)) {
                return self.unsupported("guards that differ between lanes");
            }
            if parts.clone().any(|ix| self.uses_row(ix)) {
                return self.unsupported("guards that differ between rows");
            }
        }
        if !self.varies(&index) && !self.uses_row(&index) {
            if self.written.contains(&buffer) {
                return self.unsupported("scalars that rows may write");
            }
            return self.hoist(dst, Op::Load { buffer, index, guard });
        }
        let at = self.access(buffer, &index, guard.as_ref())?;
        if !access::can_load(self.width, at.storage, at.step) {
            return self.unsupported(format!("loads of {}", at.storage));
        }
        let flag = match &guard {
            None => None,
            Some(guard) => {
                let otherwise = match guard.otherwise {
                    Scalar::F(x) => (x as f32).to_bits(),
                    Scalar::B(x) => u32::from(x),
                    Scalar::I(x) => x as u32,
                };
                let plain = matches!(
                    at.storage,
                    DType::F32 | DType::I32 | DType::U32 | DType::I16 | DType::U16 | DType::I8 | DType::U8
                );
                let plain = plain && (self.width == Width::W512 || at.storage.bits() == 32);
                if !plain && (otherwise != 0 || self.width == Width::W256) {
                    return self.unsupported("guarded loads of narrow elements");
                }
                if self.width == Width::W256 && at.step != Step::Contiguous {
                    return self.unsupported("guarded gathers");
                }
                Some((self.word(Word::Flag(guard.clone())), otherwise))
            }
        };
        let tile = self.rows.map_or(1, |r| r.tile);
        let key = (at, flag);
        if let Some(&(known, copy)) = self.loads.get(&key) {
            self.overlaps |= of_row && copy != self.copy;
            return Ok(Rep::Lanes(known.into()));
        }
        let dst = self.fresh();
        self.push(Inst::Load { dst, at: key.0.clone(), guard: flag });
        if tile > 1 {
            self.loads.insert(key, (dst, self.copy));
        }
        Ok(Rep::Lanes(dst.into()))
    }

    fn guard(&self, guard: &Guard) -> Guard {
        let mut guard = guard.clone();
        for b in &mut guard.bounds {
            (b.index, b.lower, b.upper) = (self.ix(&b.index), self.ix(&b.lower), self.ix(&b.upper));
        }
        guard
    }

    fn store(&mut self, buffer: BufferId, index: &Ix, value: Val) -> Choice<()> {
        let index = self.ix(index);
        let dtype = self.kernel.dtype(value);
        if dtype.bits() > 32 {
            return self.unsupported("64-bit values in lanes");
        }
        let mut at = self.access(buffer, &index, None)?;
        if at.step == Step::Same {
            return self.unsupported("stores of all lanes to one element");
        }
        let mut value = self.src(value)?;
        if at.storage == DType::BF16 {
            value = self.bf16_bits(value).into();
            at.storage = DType::U16;
        }
        if at.storage == DType::Bool {
            value = self.binary(Binary::And, value, Src::Bits(1)).into();
        }
        if !access::can_store(self.width, at.storage, at.step) {
            return self.unsupported(format!("stores of {}", at.storage));
        }
        self.push(Inst::Store { a: value, at });
        Ok(())
    }

    /// One element of a row, outside of its loops.
    pub(super) fn store_one(&mut self, buffer: BufferId, index: &Ix, value: Val) -> Choice<()> {
        let index = self.ix(index);
        let at = self.access(buffer, &index, None)?;
        if at.step != Step::Same || !self.uses_row(&index) || at.storage != DType::F32 {
            return self.unsupported("such stores beside the loops of a row");
        }
        let a = self.src(value)?;
        self.push(Inst::Store { a, at });
        Ok(())
    }

    /// First value and number of iterations of a loop inside.
    fn range(&self, axis: &Axis) -> Choice<(i64, i64)> {
        match (self.ix(&axis.begin).as_const(), self.ix(&axis.extent).as_const()) {
            (Some(begin), Some(extent)) => Ok((begin, extent.max(0))),
            _ => self.unsupported("loops inside of unknown length"),
        }
    }

    fn for_inside(&mut self, l: &For) -> Choice<()> {
        let (begin, extent) = self.range(&l.axis)?;
        if extent.saturating_mul(operations(&l.body)) > UNROLLED {
            return self.unsupported("long loops inside");
        }
        self.rename(l.carried.iter().map(|c| (c.arg, c.init)))?;
        for i in begin..begin + extent {
            self.vars.insert(l.axis.var, Ix::Const(i));
            self.block(&l.body)?;
            self.rename(l.carried.iter().map(|c| (c.arg, c.next)))?;
        }
        self.rename(l.carried.iter().map(|c| (c.result, c.arg)))
    }

    /// Gives values the meaning of others, all at once.
    fn rename(&mut self, pairs: impl Iterator<Item = (Val, Val)> + Clone) -> Choice<()> {
        self.each_row(|s| {
            let reps: Vec<Rep> = pairs.clone().map(|(_, from)| s.rep(from)).collect();
            for ((to, _), rep) in pairs.clone().zip(reps) {
                s.define(to, rep);
            }
            Ok(())
        })
    }

    fn reduce_inside(&mut self, r: &Reduce) -> Choice<()> {
        let (begin, extent) = self.range(&r.axis)?;
        if r.accumulators.iter().any(|a| self.kernel.dtype(a.init).bits() > 32) {
            return self.unsupported("64-bit values in lanes");
        }
        if extent.saturating_mul(operations(&r.body)) > UNROLLED {
            return self.reduce_loop(r, begin, extent);
        }
        self.rename(r.accumulators.iter().map(|a| (a.result, a.init)))?;
        for i in begin..begin + extent {
            self.vars.insert(r.axis.var, Ix::Const(i));
            self.block(&r.body)?;
            for a in &r.accumulators {
                self.each_row(|s| {
                    let (sum, item) = (s.src(a.result)?, s.src(a.item)?);
                    let sum = s.combined(a, sum, item)?;
                    s.define(a.result, Rep::Lanes(sum));
                    Ok(())
                })?;
            }
        }
        Ok(())
    }

    /// A reduction as a loop of the program.
    fn reduce_loop(&mut self, r: &Reduce, begin: i64, extent: i64) -> Choice<()> {
        if self.copies.len() > 1 {
            return self.unsupported("loops inside of several rows");
        }
        let count = i32::try_from(extent).or_else(|_| self.unsupported("loops that long"))?;
        let id = LoopId(self.loops);
        self.loops += 1;
        let mut carried = vec![];
        for a in &r.accumulators {
            let init = self.src(a.init)?;
            carried.push((self.fresh(), init));
        }
        let registers: Vec<Reg> = carried.iter().map(|c| c.0).collect();
        self.push(Inst::Begin { id, count, carried });
        self.vars.insert(r.axis.var, Ix::Var(r.axis.var) + begin);
        self.inner.push((r.axis.var, id));
        self.block(&r.body)?;
        for (a, &sum) in r.accumulators.iter().zip(&registers) {
            let item = self.src(a.item)?;
            let next = self.combined(a, sum.into(), item)?;
            self.push(Inst::Assign { carried: sum, a: next });
        }
        self.inner.pop();
        self.push(Inst::End { id, carried: registers.clone() });
        for (a, sum) in r.accumulators.iter().zip(registers) {
            self.define(a.result, Rep::Lanes(sum.into()));
        }
        Ok(())
    }

    /// `sum (combine) item`; a product that is added at once is fused.
    fn combined(&mut self, a: &Accumulator, sum: Src, item: Src) -> Choice<Src> {
        let dtype = self.kernel.dtype(a.init);
        if let (Prim::Add, DType::F32, Some(&Inst::Binary { op: Binary::MulF, a, b, .. })) =
            (a.combine, dtype, self.definition(item))
        {
            // Where nothing else uses the product, it is dropped.
            return Ok(self.mul_add(a, b, sum).into());
        }
        self.apply(a.combine, dtype, &[sum, item])
    }

    /// The instruction and the neutral element of a combination.
    pub fn combination(&self, prim: Prim, dtype: DType) -> Choice<(Binary, u32)> {
        Ok(match (prim, dtype) {
            (Prim::Add, DType::F32) => (Binary::AddF, 0),
            (Prim::Mul, DType::F32) => (Binary::MulF, 1.0f32.to_bits()),
            (Prim::Min, DType::F32) => (Binary::MinF, f32::INFINITY.to_bits()),
            (Prim::Max, DType::F32) => (Binary::MaxF, f32::NEG_INFINITY.to_bits()),
            (Prim::And | Prim::Min | Prim::Mul, DType::Bool) => (Binary::And, u32::MAX),
            (Prim::Or | Prim::Max, DType::Bool) => (Binary::Or, 0),
            (Prim::Add, DType::I32 | DType::U32) => (Binary::AddI, 0),
            (Prim::Mul, DType::I32 | DType::U32) => (Binary::MulI, 1),
            (Prim::Min, DType::I32) => (Binary::MinS, i32::MAX as u32),
            (Prim::Max, DType::I32) => (Binary::MaxS, i32::MIN as u32),
            _ => return self.unsupported(format!("reductions by {} of {dtype}", prim.name())),
        })
    }
}
