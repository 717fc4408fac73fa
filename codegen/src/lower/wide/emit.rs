//! Vector programs to machine code: the loops around a program, and its instructions one by one.
//!
//! ```text
//! pointers of the first row into registers
//! for rows:
//!     for phases:
//!         main loop: several groups of lanes an iteration
//!         loop: one group an iteration
//!         the rest under a mask (512 bits; otherwise the caller does the rest)
//!         totals to memory
//!     pointers of the row move on
//! ```

use std::rc::Rc;

use iced_x86::{Code, MemoryOperand, Register};

use super::asm::{Assembler, at, vector};
use super::codes::{exchanges, moves, pick};
use super::lir::{Binary, COUNT, Inst, LoopProgram, Param, Phase, ROWS, Reg, Run, Src, TotalForm};
use super::registers::{Motion, Registers};
use super::select::TEMPORARIES;
use super::{WideError, WideFunction, Width};

/// The words that the caller passes.
const FRAME: Register = Register::RDI;
/// Number of the first element of the group.
pub(super) const INDEX: Register = Register::RCX;
/// Elements left, less one group.
const LEFT: Register = Register::RDX;
/// For addresses and masks.
pub(super) const SCRATCH: [Register; 2] = [Register::RAX, Register::R11];
/// Pointers that stay in registers.
const POINTERS: [Register; 4] = [Register::RSI, Register::R8, Register::R9, Register::R10];
/// Lanes that exist in the last group.
pub(super) const TAIL: Register = Register::K7;

/// Emits instructions of one program.
pub(super) struct Emission<'p> {
    pub asm: Assembler,
    pub width: Width,
    program: &'p LoopProgram,
    /// The phase that is emitted.
    pub phase: &'p Phase,
    pub registers: Registers,
    /// The instructions that are emitted, each with its group of lanes.
    pub order: Rc<[(usize, Inst)]>,
    /// Which group of the iteration is emitted.
    pub group: usize,
    /// Whether only some lanes exist.
    pub masked: bool,
    /// The comparison whose result is in a mask register, for the next instruction.
    pub fused: Option<Reg>,
    /// The parameter whose flag is in the mask register of guarded loads.
    pub guard: Option<Param>,
    /// Position of the instruction that is emitted.
    pub position: usize,
    /// The pointers that are in registers, and these registers.
    pointers: Vec<Param>,
    pub places: [Register; 4],
    /// Groups of lanes of one row; those that follow are of the next row.
    pub groups_a_row: usize,
    /// Stack slots of vectors, and of loop counters behind them.
    slots: u32,
    needed_slots: u32,
    pub labels: Vec<(super::lir::LoopId, super::asm::Label)>,
}

/// The function `(words)` that runs a program.
pub(super) fn emit(
    program: &LoopProgram,
    count: Option<i64>,
    width: Width,
) -> Result<WideFunction, WideError> {
    let first = program.phases.first();
    let first = first.ok_or_else(|| WideError::Unsupported("programs that do nothing".to_owned()))?;
    let mut slots = 0;
    // How many slots the stack needs is known when all is emitted.
    for _ in 0..2 {
        let mut emission = Emission::new(program, first, width, slots);
        emission.function(count)?;
        if emission.needed_slots <= slots {
            let stack = emission.stack_bytes() as u32;
            return Ok(WideFunction { stack, ..emission.asm.finish()? });
        }
        slots = emission.needed_slots;
    }
    Err(WideError::Unsupported("programs whose need of stack changes".to_owned()))
}

impl<'p> Emission<'p> {
    pub fn new(program: &'p LoopProgram, phase: &'p Phase, width: Width, slots: u32) -> Emission<'p> {
        let mut pointers: Vec<Param> = vec![];
        for inst in program.phases.iter().flat_map(|p| &p.body) {
            if let Inst::Load { at, .. } | Inst::Store { at, .. } = inst
                && at.inner.is_empty()
                && !pointers.contains(&at.pointer)
                && pointers.len() < POINTERS.len()
            {
                pointers.push(at.pointer);
            }
        }
        Emission {
            asm: Assembler::default(),
            width,
            program,
            phase,
            registers: Registers::new(&[], 0, 0, 0),
            order: Rc::new([]),
            group: 0,
            masked: false,
            fused: None,
            guard: None,
            position: 0,
            pointers,
            places: POINTERS,
            groups_a_row: usize::MAX,
            slots,
            needed_slots: 0,
            labels: vec![],
        }
    }

    pub fn lanes(&self) -> i64 {
        self.width.bytes() / 4
    }

    pub fn vector(&self, register: u8) -> Register {
        vector(self.width.bytes(), register as usize)
    }

    /// A word of the caller's.
    pub fn word(param: Param) -> MemoryOperand {
        at(FRAME, 8 * i64::from(param.0))
    }

    /// The register that has a pointer.
    pub fn held(&self, param: Param) -> Option<Register> {
        self.pointers.iter().position(|p| *p == param).map(|i| self.places[i])
    }

    /// The register of a pointer, loaded where it is not at hand.
    pub fn pointer(&mut self, param: Param) -> Register {
        match self.held(param) {
            Some(register) => register,
            None => {
                self.asm.op2(Code::Mov_r64_rm64, SCRATCH[0], Self::word(param));
                SCRATCH[0]
            }
        }
    }

    pub fn load_pointers(&mut self) {
        for (param, register) in self.pointers.iter().zip(self.places) {
            self.asm.op2(Code::Mov_r64_rm64, register, Self::word(*param));
        }
    }

    /// Bytes from a row's element to that of the next.
    pub fn row_step(&self, pointer: Param) -> i64 {
        self.program.row_steps.iter().find(|(param, _)| *param == pointer).map_or(0, |(_, step)| *step)
    }

    fn accumulator(&self, group: usize, number: usize) -> Register {
        self.vector((group * self.phase.totals.len() + number) as u8)
    }

    pub fn current_accumulator(&self, number: u32) -> Register {
        self.accumulator(self.group, number as usize)
    }

    /// Offset from the stack pointer of a loop's counter.
    pub fn counter(&self, id: super::lir::LoopId) -> MemoryOperand {
        at(Register::RSP, i64::from(self.slots) * self.width.bytes() + 8 * i64::from(id.0))
    }

    fn stack_bytes(&self) -> i32 {
        let insts = self.program.phases.iter().flat_map(|p| &p.body);
        let loops = insts.filter(|i| matches!(i, Inst::Begin { .. })).count() as i32;
        self.slots as i32 * self.width.bytes() as i32 + 8 * loops
    }

    fn function(&mut self, count: Option<i64>) -> Result<(), WideError> {
        let stack = self.stack_bytes();
        if stack > 0 {
            self.asm.op2(Code::Sub_rm64_imm32, Register::RSP, stack);
        }
        self.load_pointers();
        let row = self.asm.here();
        for phase in &self.program.phases {
            self.phase = phase;
            match phase.run {
                Run::Groups(_) => {
                    self.asm.op2(Code::Mov_r64_rm64, LEFT, Self::word(COUNT));
                    self.asm.op2(Code::Xor_r32_rm32, Register::ECX, Register::ECX);
                    self.groups(count)?;
                    self.store_totals();
                }
                Run::Once => self.body(1, &[])?,
            }
        }
        for &(param, step) in &self.program.row_steps {
            let step =
                i32::try_from(step).map_err(|_| WideError::Unsupported("rows far apart".to_owned()))?;
            let register = self.held(param);
            if let Some(register) = register {
                self.asm.op2(Code::Add_rm64_imm32, register, step);
            }
            if register.is_none() || self.is_read_inside(param) {
                self.asm.op2(Code::Add_rm64_imm32, Self::word(param), step);
            }
        }
        self.asm.op1(Code::Dec_rm64, Self::word(ROWS));
        self.asm.jump(Code::Jne_rel32_64, row);
        if stack > 0 {
            self.asm.op2(Code::Add_rm64_imm32, Register::RSP, stack);
        }
        self.asm.op0(Code::VEX_Vzeroupper);
        self.asm.op0(Code::Retnq);
        Ok(())
    }

    /// Whether accesses of loops inside take the pointer from memory.
    fn is_read_inside(&self, pointer: Param) -> bool {
        self.program.phases.iter().flat_map(|p| &p.body).any(|inst| match inst {
            Inst::Load { at, .. } | Inst::Store { at, .. } => at.pointer == pointer && !at.inner.is_empty(),
            _ => false,
        })
    }

    /// What the lanes accumulated, to memory.
    fn store_totals(&mut self) {
        let [_, store, _] = moves(self.width);
        for (number, total) in self.phase.totals.iter().enumerate() {
            let into = self.accumulator(0, number);
            match total.form {
                TotalForm::Lanes => self.asm.op2(store, Self::word(total.result), into),
                TotalForm::One => {
                    // Nothing but the accumulators lives here.
                    let last = self.width.registers() as u8 - 1;
                    let (other, spare) = (self.vector(last), self.vector(last - 1));
                    for &(code, halves) in exchanges(self.width) {
                        self.asm.op(code, &[other.into(), into.into(), into.into(), halves.into()]);
                        self.accumulate(total.op, into, other, spare);
                    }
                    self.keep(total.result, into);
                }
            }
        }
    }

    /// All groups of a row.
    fn groups(&mut self, count: Option<i64>) -> Result<(), WideError> {
        let lanes = self.lanes();
        let groups = self.phase.groups();
        for group in 0..groups {
            for number in 0..self.phase.totals.len() {
                let register = self.accumulator(group, number);
                self.fill(register, self.phase.totals[number].identity);
            }
        }
        let step = groups as i64 * lanes;
        let at_least = |n: i64| count.is_none_or(|c| c >= n);
        if groups > 1 && at_least(step) {
            self.counted(groups, count)?;
        }
        self.combine_groups();
        let rest = count.map(|c| if groups > 1 { c % step } else { c });
        if rest.is_none_or(|r| r >= lanes) {
            self.counted(1, rest)?;
        }
        if self.width == Width::W512 && count.is_none_or(|c| c % lanes != 0) {
            let done = self.asm.label();
            self.asm.op2(Code::Test_rm64_r64, LEFT, LEFT);
            self.asm.jump(Code::Je_rel32_64, done);
            self.asm.op2(Code::Mov_r32_imm32, Register::EAX, -1);
            self.asm.op3(Code::VEX_Bzhi_r32_rm32_r32, Register::EAX, Register::EAX, Register::EDX);
            self.asm.op2(Code::VEX_Kmovw_kr_r32, TAIL, Register::EAX);
            self.masked = true;
            self.body(1, &[])?;
            self.masked = false;
            self.asm.bind(done);
        }
        Ok(())
    }

    /// A loop over whole iterations of some groups.
    fn counted(&mut self, groups: usize, count: Option<i64>) -> Result<(), WideError> {
        let step = (groups as i64 * self.lanes()) as i32;
        let rest = self.asm.label();
        self.asm.op2(Code::Sub_rm64_imm32, LEFT, step);
        self.asm.jump(Code::Jl_rel32_64, rest);
        let repeats = count.is_none_or(|c| c >= 2 * i64::from(step));
        let kept = if repeats { self.phase.repeated(self.free(groups)) } else { vec![] };
        self.fill_kept(&kept);
        let again = self.asm.here();
        self.body(groups, &kept)?;
        self.asm.op2(Code::Add_rm64_imm32, INDEX, step);
        self.asm.op2(Code::Sub_rm64_imm32, LEFT, step);
        self.asm.jump(Code::Jge_rel32_64, again);
        self.asm.bind(rest);
        self.asm.op2(Code::Add_rm64_imm32, LEFT, step);
        Ok(())
    }

    /// Combines the accumulators of all groups in those of the first, pairwise.
    fn combine_groups(&mut self) {
        let mut groups = self.phase.groups();
        while groups > 1 {
            let half = groups.div_ceil(2);
            for group in half..groups {
                for number in 0..self.phase.totals.len() {
                    let (into, from) =
                        (self.accumulator(group - half, number), self.accumulator(group, number));
                    let op = self.phase.totals[number].op;
                    self.masked = false;
                    let spare = self.vector(self.width.registers() as u8 - 1);
                    self.accumulate(op, into, from, spare);
                }
            }
            groups = half;
        }
    }

    /// Registers of accumulators.
    fn accumulators(&self) -> usize {
        self.phase.groups() * self.phase.totals.len()
    }

    /// Registers that a loop over iterations of some groups leaves free.
    fn free(&self, groups: usize) -> usize {
        let taken = self.accumulators() + groups * self.phase.live() + TEMPORARIES;
        self.width.registers().saturating_sub(taken)
    }

    /// Brings operands that are the same in every iteration to the registers behind the accumulators.
    fn fill_kept(&mut self, kept: &[Src]) {
        let first = self.accumulators();
        for (i, src) in kept.iter().enumerate() {
            let register = self.vector((first + i) as u8);
            match *src {
                Src::Bits(bits) => self.fill(register, bits),
                Src::Param(param) => self.asm.op2(self.splat_code(), register, Self::word(param)),
                Src::Reg(_) => {}
            }
        }
    }

    /// Some groups of lanes, where [`Emission::fill_kept`] has brought some operands to registers.
    fn body(&mut self, groups: usize, kept: &[Src]) -> Result<(), WideError> {
        let phase = self.phase;
        let pinned = self.accumulators();
        if pinned + 8 > self.width.registers() {
            return Err(WideError::Unsupported("that many accumulators".to_owned()));
        }
        let values = self.program.registers.saturating_mul(groups as u32);
        let place = |src: Src| match kept.iter().position(|k| *k == src) {
            Some(i) => Src::Reg(Reg(values + i as u32)),
            None => src,
        };
        let order = phase.interleaved(groups, self.program.registers);
        self.order = order.into_iter().map(|(group, inst)| (group, inst.on(&place))).collect();
        self.guard = None;
        let all = values.saturating_add(kept.len() as u32);
        self.registers = Registers::new(&self.order, all, self.width.registers(), pinned);
        self.registers.keep_last(kept.len(), pinned);
        let order = Rc::clone(&self.order);
        for (position, (group, inst)) in order.iter().enumerate() {
            self.position = position;
            self.group = *group;
            self.inst(inst)?;
            self.registers.finish();
            self.needed_slots = self.needed_slots.max(self.registers.slots());
        }
        self.group = 0;
        Ok(())
    }

    /// Emits the loads and stores that the register file asks for.
    pub fn settle(&mut self) {
        let [load, store, _] = moves(self.width);
        for motion in std::mem::take(&mut self.registers.motions) {
            let slot = |slot: u32| at(Register::RSP, i64::from(slot) * self.width.bytes());
            match motion {
                Motion::Save(register, to) => self.asm.op2(store, slot(to), self.vector(register)),
                Motion::Restore(register, from) => self.asm.op2(load, self.vector(register), slot(from)),
            }
        }
    }

    /// The same 32 bits in every lane.
    pub fn fill(&mut self, register: Register, bits: u32) {
        if bits == 0 {
            let zero = super::codes::binary(self.width, Binary::Xor);
            self.asm.op3(zero, register, register, register);
            return;
        }
        let address = self.asm.constant(&bits.to_le_bytes(), 4);
        self.asm.op2(self.splat_code(), register, constant_at(address, false));
    }

    /// The instruction that repeats 32 bits from memory.
    pub fn splat_code(&self) -> Code {
        pick(self.width, Code::VEX_Vbroadcastss_ymm_m32, Code::EVEX_Vbroadcastss_zmm_k1z_xmmm32)
    }

    /// A constant vector as an operand in memory.
    pub fn constant(&mut self, bits: u32) -> MemoryOperand {
        match self.width {
            Width::W512 => constant_at(self.asm.constant(&bits.to_le_bytes(), 4), true),
            Width::W256 => constant_at(self.asm.constant(&bits.to_le_bytes().repeat(8), 32), false),
        }
    }

    /// A vector as an operand in memory.
    pub fn pool(&mut self, words: &[u32]) -> MemoryOperand {
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        constant_at(self.asm.constant(&bytes, 64), false)
    }

    /// A vector of the pool in a register.
    pub fn pooled(&mut self, register: Register, words: &[u32]) {
        let [load, _, _] = moves(self.width);
        let vector = self.pool(words);
        self.asm.op2(load, register, vector);
    }
}

fn constant_at(address: u64, repeat: bool) -> MemoryOperand {
    let none = Register::None;
    MemoryOperand::new(Register::RIP, none, 1, address as i64, 8, repeat, none)
}

/// Whether the operand is a register.
pub(super) fn as_reg(src: Src) -> Option<Reg> {
    match src {
        Src::Reg(reg) => Some(reg),
        Src::Bits(_) | Src::Param(_) => None,
    }
}
