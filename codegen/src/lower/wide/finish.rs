//! The epilogue of a contraction at the end of its tiles.
//!
//! The epilogue is a vector program of one group of lanes, in which the sum is a value that is there before. A short one
//! is one piece of straight code for all vectors of a tile, whose sums are still in registers: those that have to wait
//! keep their registers while there are enough, and what is the same for every row is computed once for a column. A long
//! one is a loop over the rows of the tile, whose sums are in the first-level cache: tiles of every height share its
//! code, and the vectors of a row take turns.

use std::rc::Rc;

use iced_x86::{Code, Register};
use kiln_ir::DType;
use rustc_hash::FxHashSet;

use super::asm::{Assembler, at};
use super::codes::moves;
use super::emit::{Emission, INDEX, TAIL};
use super::lir::{COUNT, Inst, Reg, Run, Step, without_unused};
use super::registers::Registers;
use super::select::{Choice, Rep, Selector};
use super::{Rows, Selection, WideError, Width};
use crate::kir::{Axis, Block, Kernel, Val};

/// Most instructions of a short epilogue for one group of lanes: the code of a tile has it for every vector of every
/// height.
const MOST_STRAIGHT: usize = 12;

/// Most instructions of any.
const MOST_INSTRUCTIONS: usize = 200;

/// Vector registers for what an instruction needs besides values.
const TEMPORARIES: usize = 3;

/// The pointer to the caller's words.
const FRAME: Register = Register::RDI;

/// Registers for the pointers of the epilogue.
const POINTERS: [Register; 4] = [Register::RBX, Register::R12, Register::R13, Register::R15];

/// Where `RDI` and `RCX` stay meanwhile.
const ASIDE: [Register; 2] = [Register::RBP, Register::R14];

/// Mask registers of the vectors of a row.
const COLUMNS: [Register; 4] = [Register::K3, Register::K4, Register::K5, Register::K6];

/// An epilogue. Its word [`super::COUNT`] has the number of columns that exist, [`super::ROWS`] the address of sums.
#[derive(Clone, Debug)]
pub struct Finish {
    /// The program, of one phase, and what it needs from its caller.
    pub selection: Selection,
    /// The value that is the sum.
    sum: Reg,
    /// Whether only some of the columns may exist.
    masked: bool,
}

/// What a tile leaves to a loop over its rows.
pub(super) struct SumsInMemory {
    /// Address of the first row; the loop moves it on by `stride` bytes a row.
    pub at: Register,
    pub stride: i64,
    pub vectors: usize,
    /// The number of rows, at least 1, a word at so many bytes from the stack pointer; the loop counts it down.
    pub rows: i64,
}

/// The epilogue `body` on sums `acc` of `rows` and columns of `axis`.
pub fn select_finish(
    kernel: &Kernel,
    width: Width,
    rows: &Rows,
    axis: &Axis,
    body: &Block,
    acc: Val,
) -> Choice<Finish> {
    let mut s = Selector::new(kernel, width, Some(rows), axis, body);
    if !matches!(kernel.dtype(acc), DType::F32 | DType::I32) {
        return s.unsupported("64-bit values in lanes");
    }
    let masked = axis.extent.as_const().is_none();
    if masked && width == Width::W256 {
        return s.unsupported("lanes that do not exist");
    }
    let sum = s.fresh();
    s.define(acc, Rep::Lanes(sum.into()));
    body.iter().try_for_each(|stmt| s.stmt(stmt))?;
    s.insts = without_unused(std::mem::take(&mut s.insts));
    if s.insts.len() > MOST_INSTRUCTIONS || !s.insts.iter().all(in_line) {
        return s.unsupported("such epilogues at the end of a tile");
    }
    s.close(Run::Once, vec![]);
    Ok(Finish { selection: s.selection(), sum, masked })
}

/// Whether the instruction needs no register but that of its pointer.
fn in_line(inst: &Inst) -> bool {
    match inst {
        Inst::Load { at, .. } | Inst::Store { at, .. } => {
            at.inner.is_empty() && matches!(at.step, Step::Contiguous | Step::Same)
        }
        Inst::Begin { .. } | Inst::Assign { .. } | Inst::End { .. } => false,
        Inst::Accumulate { .. } | Inst::Keep { .. } | Inst::Prefetch { .. } => false,
        Inst::Move { .. }
        | Inst::Binary { .. }
        | Inst::Unary { .. }
        | Inst::Shift { .. }
        | Inst::MulAdd { .. }
        | Inst::Compare { .. }
        | Inst::Select { .. }
        | Inst::Lookup { .. } => true,
    }
}

/// Sums in registers: rows of the same number of vectors.
pub(super) struct Sums {
    pub height: usize,
    pub vectors: usize,
}

impl Finish {
    /// Sets the masks of the columns, once a call; `frame` has the address of the words.
    pub(super) fn prepare(&self, asm: &mut Assembler, frame: Register, vectors: usize) {
        if !self.masked {
            return;
        }
        let (columns, bits) = (Register::R11, Register::RAX);
        asm.op2(Code::Mov_r64_rm64, columns, at(frame, 8 * i64::from(COUNT.0)));
        asm.op2(Code::Mov_rm64_imm32, bits, -1);
        asm.op3(Code::VEX_Bzhi_r64_rm64_r64, bits, bits, columns);
        for mask in COLUMNS.into_iter().take(vectors) {
            asm.op2(Code::VEX_Kmovw_kr_r32, mask, bits.full_register32());
            asm.op2(Code::Shr_rm64_imm8, bits, 16);
        }
    }

    /// Whether the epilogue is a loop over rows of sums in memory.
    pub(super) fn is_loop(&self) -> bool {
        self.selection.program.phases[0].body.len() > MOST_STRAIGHT
    }

    /// Emits the epilogue of the sums, which are in the first registers row by row; the address of the words is at the
    /// stack pointer. Uses `slots` of the stack, and gives how many it needs.
    pub(super) fn emit(
        &self,
        asm: &mut Assembler,
        width: Width,
        sums: &Sums,
        slots: u32,
    ) -> Result<u32, WideError> {
        let mut emission = self.begin(asm, width, sums.vectors, slots);
        emission.order = self.order(sums).into();
        let groups = sums.height * sums.vectors;
        self.take(&mut emission, groups);
        let needed = emission.in_order(self.masked.then_some(&COLUMNS))?;
        self.end(asm, emission, slots);
        for &(param, step) in &self.selection.program.row_steps {
            let step = row_step(step.checked_mul(sums.height as i64))?;
            asm.op2(Code::Add_rm64_imm32, Emission::word(param), step);
        }
        leave(asm);
        Ok(needed)
    }

    /// Emits the epilogue of sums in memory, otherwise as [`Finish::emit`] does.
    pub(super) fn emit_loop(
        &self,
        asm: &mut Assembler,
        width: Width,
        sums: &SumsInMemory,
        slots: u32,
    ) -> Result<u32, WideError> {
        let mut emission = self.begin(asm, width, sums.vectors, slots);
        let order: Rc<[(usize, Inst)]> = self.in_turn(width, sums.vectors).into();
        let [load, _, _] = moves(width);
        let next = emission.asm.here();
        for column in 0..sums.vectors {
            let register = emission.vector(column as u8);
            emission.asm.op2(load, register, at(sums.at, column as i64 * width.bytes()));
        }
        emission.order = order;
        self.take(&mut emission, sums.vectors);
        let needed = emission.in_order(self.masked.then_some(&COLUMNS))?;
        for &(param, step) in &self.selection.program.row_steps {
            let step = row_step(Some(step))?;
            if let Some(register) = emission.held(param) {
                emission.asm.op2(Code::Add_rm64_imm32, register, step);
            }
            emission.asm.op2(Code::Add_rm64_imm32, Emission::word(param), step);
        }
        emission.asm.op2(Code::Add_rm64_imm32, sums.at, row_step(Some(sums.stride))?);
        let stack = i64::from(slots) * width.bytes();
        emission.asm.op1(Code::Dec_rm64, at(Register::RSP, sums.rows + stack));
        emission.asm.jump(Code::Jne_rel32_64, next);
        self.end(asm, emission, slots);
        leave(asm);
        Ok(needed)
    }

    /// The emission of the epilogue, its words and pointers at hand; it has the assembler.
    fn begin(&self, asm: &mut Assembler, width: Width, vectors: usize, slots: u32) -> Emission<'_> {
        asm.op2(Code::Mov_r64_rm64, ASIDE[0], FRAME);
        asm.op2(Code::Mov_r64_rm64, ASIDE[1], INDEX);
        asm.op2(Code::Mov_r64_rm64, FRAME, at(Register::RSP, 0));
        asm.op2(Code::Xor_r32_rm32, INDEX.full_register32(), INDEX.full_register32());
        let program = &self.selection.program;
        let stack = slots as i32 * width.bytes() as i32;
        if stack > 0 {
            asm.op2(Code::Sub_rm64_imm32, Register::RSP, stack);
        }
        let mut emission = Emission::new(program, &program.phases[0], width, slots);
        emission.asm = std::mem::take(asm);
        emission.places = POINTERS;
        emission.groups_a_row = vectors;
        emission.load_pointers();
        emission
    }

    /// Says that the sums of so many groups are in the first registers.
    fn take(&self, emission: &mut Emission, groups: usize) {
        let registers = self.selection.program.registers;
        let values = registers * groups as u32;
        emission.registers = Registers::new(&emission.order, values, emission.width.registers(), 0);
        for group in 0..groups {
            emission.registers.own(Reg(self.sum.0 + group as u32 * registers), group as u8);
        }
    }

    /// Gives the assembler and the stack back.
    fn end(&self, asm: &mut Assembler, emission: Emission, slots: u32) {
        let stack = slots as i32 * emission.width.bytes() as i32;
        *asm = emission.asm;
        if stack > 0 {
            asm.op2(Code::Add_rm64_imm32, Register::RSP, stack);
        }
    }

    /// The instructions for the vectors of a row, each with its vector: as many take turns as find registers.
    fn in_turn(&self, width: Width, vectors: usize) -> Vec<(usize, Inst)> {
        let program = &self.selection.program;
        let phase = &program.phases[0];
        let waiting = vectors.saturating_sub(1);
        let room = width.registers() - TEMPORARIES - waiting;
        let most = (room / phase.live().max(1)).clamp(1, vectors);
        let count = vectors.div_ceil(most);
        let mut order = vec![];
        for part in 0..count {
            let (first, end) = (part * vectors / count, (part + 1) * vectors / count);
            let turns = phase.interleaved(end - first, program.registers);
            let offset = first as u32 * program.registers;
            order.extend(turns.into_iter().map(|(group, inst)| (first + group, inst.moved(offset))));
        }
        order
    }

    /// The instructions for all sums, column by column, each with its group. What is the same for every row is computed
    /// with the first.
    fn order(&self, sums: &Sums) -> Vec<(usize, Inst)> {
        let program = &self.selection.program;
        let body = &program.phases[0].body;
        let mut shared: FxHashSet<Reg> = FxHashSet::default();
        for inst in body {
            let moves = match inst {
                Inst::Load { at, .. } => program.row_steps.iter().any(|(param, _)| *param == at.pointer),
                _ => false,
            };
            if let Some(result) = inst.result()
                && !moves
                && inst.sources().iter().all(|source| shared.contains(source))
            {
                shared.insert(result);
            }
        }
        let mut order = vec![];
        for column in 0..sums.vectors {
            for row in 0..sums.height {
                let group = row * sums.vectors + column;
                let place = |reg: Reg| {
                    let group = if shared.contains(&reg) { column } else { group };
                    Reg(reg.0 + group as u32 * program.registers)
                };
                let own = body.iter().filter(|i| row == 0 || i.result().is_none_or(|r| !shared.contains(&r)));
                order.extend(own.map(|inst| (group, inst.renamed(&place))));
            }
        }
        order
    }
}

/// Puts back what [`Finish::begin`] sets aside.
fn leave(asm: &mut Assembler) {
    asm.op2(Code::Mov_r64_rm64, FRAME, ASIDE[0]);
    asm.op2(Code::Mov_r64_rm64, INDEX, ASIDE[1]);
}

fn row_step(step: Option<i64>) -> Result<i32, WideError> {
    let step = step.and_then(|s| i32::try_from(s).ok());
    step.ok_or_else(|| WideError::Unsupported("rows far apart".to_owned()))
}

impl Emission<'_> {
    /// Emits the instructions in order; gives the stack slots that they need. Lanes exist under the mask of their column.
    fn in_order(&mut self, columns: Option<&[Register]>) -> Result<u32, WideError> {
        let order = Rc::clone(&self.order);
        let mut masked = None;
        for (position, (group, inst)) in order.iter().enumerate() {
            self.position = position;
            self.group = *group;
            let in_memory = matches!(inst, Inst::Load { .. } | Inst::Store { .. });
            if let Some(columns) = columns.filter(|_| in_memory) {
                let column = group % self.groups_a_row;
                if masked.replace(column) != Some(column) {
                    self.asm.op2(Code::VEX_Kmovw_kr_km16, TAIL, columns[column]);
                    self.guard = None;
                    self.masked = true;
                }
            }
            self.inst(inst)?;
            self.registers.finish();
        }
        Ok(self.registers.slots())
    }
}
