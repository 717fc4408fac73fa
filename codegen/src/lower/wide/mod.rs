//! The wide lowering: machine code with 256- and 512-bit vectors for x86-64-v3 and x86-64-v4, and with dot products of
//! bytes where the tier has them.
//!
//! Guarantees: every function is position-independent and free of relocations, reads and writes nothing but what its
//! arguments point to and its own stack frame, preserves the callee-saved registers of the System V ABI, leaves the
//! upper halves of vector registers clean, and contains only instructions that decode back. The CPU features it needs
//! are read off its bytes.
//!
//! Control and index arithmetic stay in the portable lowering, which calls these functions.

mod access;
pub mod amx;
mod asm;
mod codes;
mod emit;
mod features;
mod finish;
mod inst;
mod lir;
mod math;
mod phases;
mod prims;
pub(super) mod quads;
mod registers;
mod select;
pub(super) mod sparse;
mod survey;
mod tables;
#[cfg(test)]
mod tests;
pub(super) mod tile;
pub(super) mod transpose;
mod words;

use std::fmt::Write as _;
use std::sync::Arc;

use kiln_runtime::cpu::Tier;

pub use features::{FeatureError, features};
pub(super) use finish::{Finish, select_finish};
pub(super) use lir::{COUNT, ROWS, TotalForm};
pub(super) use phases::{lanes_of_row, select_rows};
pub(super) use select::{Rows, Selection, select};
pub(super) use words::Word;

/// Width of a vector register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Width {
    /// 256 bits: `ymm`, sixteen registers, VEX encodings.
    W256,
    /// 512 bits: `zmm`, 32 registers, EVEX encodings, masks.
    W512,
}

impl Width {
    /// The widest vectors of a tier; `None` where the portable lowering has all there is.
    pub const fn of(tier: Tier) -> Option<Width> {
        match tier {
            Tier::X86V3 | Tier::X86V3Vnni => Some(Width::W256),
            Tier::X86V4 | Tier::X86V4Vnni | Tier::X86V4Amx => Some(Width::W512),
            Tier::X86V1 | Tier::X86V2 | Tier::Aarch64 => None,
        }
    }

    /// Bytes of a register.
    pub const fn bytes(self) -> i64 {
        match self {
            Width::W256 => 32,
            Width::W512 => 64,
        }
    }

    /// Number of vector registers.
    pub const fn registers(self) -> usize {
        match self {
            Width::W256 => 16,
            Width::W512 => 32,
        }
    }
}

/// Why a function could not be assembled.
#[derive(Debug, thiserror::Error)]
pub enum WideError {
    /// The assembler refused an instruction or a branch.
    #[error("assembler: {0}")]
    Assembler(#[from] iced_x86::IcedError),
    /// The code needs a CPU feature without a name.
    #[error(transparent)]
    Feature(#[from] FeatureError),
    /// The statement asks for something that this lowering does not do.
    #[error("the wide lowering does not support {0}")]
    Unsupported(String),
}

/// A function in machine code, without relocations.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WideFunction {
    /// Constants, then instructions.
    pub bytes: Arc<[u8]>,
    /// Offset of the first instruction; what is before it is data.
    pub entry: usize,
    /// Bytes of stack that it uses beside what it pushes.
    pub stack: u32,
    /// CPU features that the instructions need, by the names of `kiln_runtime::cpu`.
    pub features: Vec<&'static str>,
}

impl Selection {
    /// What the program accumulates over lanes.
    pub(super) fn totals(&self) -> impl Iterator<Item = &lir::Total> {
        self.program.phases.iter().flat_map(|p| &p.totals)
    }

    /// Whether there is something to do for a row without lanes: stores beside its loops.
    pub(super) fn stores_beside_loops(&self) -> bool {
        let once = self.program.phases.iter().filter(|p| p.run == lir::Run::Once);
        once.flat_map(|p| &p.body).any(|inst| matches!(inst, lir::Inst::Store { .. }))
    }

    /// The function `(words)` that runs the program; `count` is the number of iterations where it is known.
    ///
    /// With 256-bit vectors it leaves the last iterations, fewer than lanes, to the caller.
    pub fn function(&self, count: Option<i64>, width: Width) -> Result<WideFunction, WideError> {
        emit::emit(&self.program, count, width)
    }
}

impl WideFunction {
    /// The instructions in Intel syntax, one a line.
    pub fn listing(&self) -> String {
        let mut formatter = iced_x86::FastFormatter::new();
        let mut text = String::new();
        let code = self.bytes.get(self.entry..).unwrap_or_default();
        for instruction in iced_x86::Decoder::with_ip(64, code, self.entry as u64, 0) {
            // Writing to a string does not fail.
            let _ = write!(text, "  {:#06x} ", instruction.ip());
            formatter.format(&instruction, &mut text);
            text.push('\n');
        }
        text
    }
}
