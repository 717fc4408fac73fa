//! An assembler for one function: instructions, labels, a pool of constants in front of the code.

use iced_x86::{
    BlockEncoder, BlockEncoderOptions, Code, IcedError, Instruction, InstructionBlock, MemoryOperand,
    Register,
};
use rustc_hash::FxHashMap;

use super::{WideError, WideFunction, features};

/// A place in the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label(usize);

/// Addresses of instructions while they are assembled: beyond every address of the pool.
const CODE: u64 = 1 << 32;

/// Collects the instructions of a function. The first refused instruction is reported at the end.
#[derive(Default)]
pub(super) struct Assembler {
    instructions: Vec<Instruction>,
    /// Index of the instruction that a label stands before.
    labels: Vec<Option<usize>>,
    /// Instructions that jump to a label.
    jumps: Vec<(usize, Label)>,
    pool: Vec<u8>,
    pooled: FxHashMap<Vec<u8>, u64>,
    error: Option<WideError>,
}

/// An operand of an instruction.
#[derive(Clone, Copy, Debug)]
pub(super) enum Arg {
    /// A register.
    Reg(Register),
    /// Memory.
    Mem(MemoryOperand),
    /// An immediate.
    Imm(i32),
}

impl From<Register> for Arg {
    fn from(register: Register) -> Arg {
        Arg::Reg(register)
    }
}

impl From<MemoryOperand> for Arg {
    fn from(memory: MemoryOperand) -> Arg {
        Arg::Mem(memory)
    }
}

impl From<i32> for Arg {
    fn from(immediate: i32) -> Arg {
        Arg::Imm(immediate)
    }
}

/// An instruction with operands of these kinds; the encoder refuses what does not exist.
fn instruction(code: Code, args: &[Arg]) -> Result<Instruction, WideError> {
    use Arg::{Imm, Mem, Reg};
    let made: Result<Instruction, IcedError> = match *args {
        [] => Ok(Instruction::with(code)),
        [Reg(a)] => Instruction::with1(code, a),
        [Mem(a)] => Instruction::with1(code, a),
        [Reg(a), Reg(b)] => Instruction::with2(code, a, b),
        [Reg(a), Mem(b)] => Instruction::with2(code, a, b),
        [Mem(a), Reg(b)] => Instruction::with2(code, a, b),
        [Reg(a), Imm(b)] => Instruction::with2(code, a, b),
        [Mem(a), Imm(b)] => Instruction::with2(code, a, b),
        [Reg(a), Reg(b), Reg(c)] => Instruction::with3(code, a, b, c),
        [Reg(a), Reg(b), Mem(c)] => Instruction::with3(code, a, b, c),
        [Reg(a), Reg(b), Imm(c)] => Instruction::with3(code, a, b, c),
        [Reg(a), Mem(b), Imm(c)] => Instruction::with3(code, a, b, c),
        [Mem(a), Reg(b), Imm(c)] => Instruction::with3(code, a, b, c),
        [Reg(a), Reg(b), Reg(c), Reg(d)] => Instruction::with4(code, a, b, c, d),
        [Reg(a), Reg(b), Mem(c), Reg(d)] => Instruction::with4(code, a, b, c, d),
        [Reg(a), Reg(b), Reg(c), Imm(d)] => Instruction::with4(code, a, b, c, d),
        [Reg(a), Reg(b), Mem(c), Imm(d)] => Instruction::with4(code, a, b, c, d),
        _ => return Err(WideError::Unsupported(format!("{code:?} with operands {args:?}"))),
    };
    Ok(made?)
}

impl Assembler {
    fn push(&mut self, made: Result<Instruction, WideError>) -> Option<&mut Instruction> {
        match made {
            Ok(mut instruction) => {
                instruction.set_ip(CODE + self.instructions.len() as u64);
                self.instructions.push(instruction);
                self.instructions.last_mut()
            }
            Err(error) => {
                self.error.get_or_insert(error);
                None
            }
        }
    }

    /// Any instruction; returned for its mask to be set.
    pub fn op(&mut self, code: Code, args: &[Arg]) -> Option<&mut Instruction> {
        self.push(instruction(code, args))
    }

    /// An instruction without operands.
    pub fn op0(&mut self, code: Code) {
        self.op(code, &[]);
    }

    /// An instruction with one operand.
    pub fn op1(&mut self, code: Code, a: impl Into<Arg>) {
        self.op(code, &[a.into()]);
    }

    /// An instruction with two operands.
    pub fn op2(&mut self, code: Code, a: impl Into<Arg>, b: impl Into<Arg>) {
        self.op(code, &[a.into(), b.into()]);
    }

    /// An instruction with three operands.
    pub fn op3(&mut self, code: Code, a: impl Into<Arg>, b: impl Into<Arg>, c: impl Into<Arg>) {
        self.op(code, &[a.into(), b.into(), c.into()]);
    }

    /// A label to bind later.
    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// Puts the label before the next instruction.
    pub fn bind(&mut self, label: Label) {
        self.labels[label.0] = Some(self.instructions.len());
    }

    /// A label before the next instruction.
    pub fn here(&mut self) -> Label {
        let label = self.label();
        self.bind(label);
        label
    }

    /// A jump to a label.
    pub fn jump(&mut self, code: Code, to: Label) {
        self.jumps.push((self.instructions.len(), to));
        self.push(Instruction::with_branch(code, 0).map_err(WideError::from));
    }

    /// The address of bytes in the pool; equal bytes are stored once. `align` is a power of two.
    pub fn constant(&mut self, bytes: &[u8], align: usize) -> u64 {
        if let Some(&at) = self.pooled.get(bytes) {
            return at;
        }
        let start = self.pool.len().next_multiple_of(align);
        self.pool.resize(start, 0);
        self.pool.extend_from_slice(bytes);
        self.pooled.insert(bytes.to_vec(), start as u64);
        start as u64
    }

    /// The function, assembled, and decoded back for its features.
    pub fn finish(mut self) -> Result<WideFunction, WideError> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        for (at, label) in &self.jumps {
            let to = self.labels[label.0].filter(|&to| to < self.instructions.len());
            let to = to.ok_or_else(|| WideError::Unsupported("a jump to nowhere".to_owned()))?;
            self.instructions[*at].set_near_branch64(CODE + to as u64);
        }
        let entry = self.pool.len().next_multiple_of(64);
        self.pool.resize(entry, 0);
        let block = InstructionBlock::new(&self.instructions, entry as u64);
        let encoded = BlockEncoder::encode(64, block, BlockEncoderOptions::NONE)?;
        let features = features(&encoded.code_buffer)?;
        let mut bytes = self.pool;
        bytes.extend_from_slice(&encoded.code_buffer);
        Ok(WideFunction { bytes: bytes.into(), entry, stack: 0, features })
    }
}

/// `[base + displacement]`.
pub(super) fn at(base: Register, displacement: i64) -> MemoryOperand {
    MemoryOperand::with_base_displ_size(base, displacement, u32::from(displacement != 0))
}

/// `[base + index * scale + displacement]`.
pub(super) fn indexed(base: Register, index: Register, scale: u32, displacement: i64) -> MemoryOperand {
    let size = u32::from(displacement != 0);
    MemoryOperand::new(base, index, scale, displacement, size, false, Register::None)
}

/// The `i`-th vector register of a width in bytes (16, 32 or 64).
pub(super) fn vector(bytes: i64, i: usize) -> Register {
    match bytes {
        16 => Register::XMM0 + i as u32,
        32 => Register::YMM0 + i as u32,
        _ => Register::ZMM0 + i as u32,
    }
}
