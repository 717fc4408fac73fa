//! Lists of sparse weights times a tile of rows: [`crate::kir::Sparse`].
//!
//! Rows are lanes. An entry is `block` weights, which are broadcast, and a line of the tile; the sums of a run, `block`
//! columns of all the tile's rows, stay in registers until it ends. Each weight so takes as many multiply-adds as there
//! are vectors of rows, and what else an entry costs (its place, its line, its broadcasts) is shared by them.
//!
//! Where weights are bytes, an entry has four of them a column, and a line four bytes of each row: `vpdpbusd` takes the
//! place of the multiply-add. Without it, bytes at even and at odd places are taken apart into words, as in [`super::quads`].
//!
//! A part of the reduction has so few positions that its tile is in the first-level cache. Runs of like length follow each
//! other, so that the end of most of them is predicted.

use iced_x86::{Code, MemoryOperand, Register};

use super::asm::{Assembler, at, indexed, vector};
use super::codes::{binary, pick};
use super::lir::Binary;
use super::quads::{Quads, word_codes};
use super::{WideError, WideFunction, Width};

/// Shape of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lists {
    /// Vectors of the tier.
    pub width: Width,
    /// How products of bytes are added; of floats without.
    pub quads: Option<Quads>,
    /// Columns of a run.
    pub block: usize,
    /// Vectors of rows that it does.
    pub vectors: usize,
    /// Rows of the tile and of sums.
    pub rows: i64,
    /// Whether to add to the sums in memory (or to replace them).
    pub accumulate: bool,
}

// Arguments: the tile, the list, its first entry, the sums.
const TILE: Register = Register::RDI;
const WORDS: Register = Register::RSI;
const VALUES: Register = Register::RDX;
const SUMS: Register = Register::RCX;
// What else it keeps; all are the caller's to save.
const RUNS: Register = Register::R8D;
const COUNT: Register = Register::R9D;
const TO: Register = Register::R10;
const LINE: Register = Register::RAX;
const PLACE: Register = Register::EAX;

/// Bytes of a word of a list, of an element of a line, of what a column is multiplied with.
const WORD: i64 = 4;

/// Vectors of rows that functions do, most first.
pub fn vectors(width: Width, block: usize, quads: Option<Quads>) -> &'static [usize] {
    match (width, block) {
        (Width::W256, 4) if quads == Some(Quads::Words) => &[1],
        (Width::W512, 1 | 2) => &[8, 4, 2, 1],
        (Width::W512, _) => &[4, 2, 1],
        (Width::W256, 1) => &[8, 4, 2, 1],
        (Width::W256, 2) => &[4, 2, 1],
        (Width::W256, _) => &[2, 1],
    }
}

impl Lists {
    fn register(&self, i: usize) -> Register {
        vector(self.width.bytes(), i)
    }

    fn sum(&self, column: usize, v: usize) -> Register {
        self.register(column * self.vectors + v)
    }

    /// Registers of the weights of a column, and of a line.
    fn parts(&self) -> usize {
        self.quads.map_or(1, Quads::panel_registers)
    }

    /// The weights of a column; words at even and at odd places where they are two.
    fn broadcast(&self, column: usize, part: usize) -> Register {
        self.register(self.block * self.vectors + column * self.parts() + part)
    }

    /// What a line is loaded to, and what is behind it.
    fn line(&self, part: usize) -> Register {
        self.broadcast(self.block, part)
    }

    /// Where a vector of sums is in memory.
    fn place(&self, column: usize, v: usize) -> MemoryOperand {
        at(TO, column as i64 * self.rows * WORD + v as i64 * self.width.bytes())
    }

    /// The function `(tile, list, first entry, sums)`: `sums[column][row] (+)= sum over entries`, for the first rows of the
    /// tile.
    pub fn emit(&self) -> Result<WideFunction, WideError> {
        let product = usize::from(self.quads == Some(Quads::Words));
        let registers = self.block * self.vectors + (self.block + 1) * self.parts() + product;
        if registers > self.width.registers() {
            return Err(WideError::Unsupported(format!("lists like {self:?}")));
        }
        let mut asm = Assembler::default();
        let (done, store) = (asm.label(), asm.label());
        asm.op2(Code::Mov_r32_rm32, RUNS, at(WORDS, 0));
        asm.op2(Code::Add_rm64_imm32, WORDS, WORD as i32);
        asm.op2(Code::Test_rm32_r32, RUNS, RUNS);
        asm.jump(Code::Je_rel32_64, done);
        let run = asm.here();
        asm.op2(Code::Mov_r32_rm32, Register::R10D, at(WORDS, 0));
        asm.op2(Code::Lea_r64_m, TO, indexed(SUMS, TO, WORD as u32, 0));
        asm.op2(Code::Mov_r32_rm32, COUNT, at(WORDS, WORD));
        asm.op2(Code::Add_rm64_imm32, WORDS, 2 * WORD as i32);
        for register in (0..self.block * self.vectors).map(|i| self.register(i)) {
            asm.op3(binary(self.width, Binary::Xor), register, register, register);
        }
        asm.op2(Code::Test_rm32_r32, COUNT, COUNT);
        asm.jump(Code::Je_rel32_64, store);
        let entry = asm.here();
        self.entry(&mut asm);
        asm.op1(Code::Dec_rm32, COUNT);
        asm.jump(Code::Jne_rel32_64, entry);
        asm.bind(store);
        for column in 0..self.block {
            for v in 0..self.vectors {
                self.finish(&mut asm, column, v);
            }
        }
        asm.op1(Code::Dec_rm32, RUNS);
        asm.jump(Code::Jne_rel32_64, run);
        asm.bind(done);
        asm.op0(Code::VEX_Vzeroupper);
        asm.op0(Code::Retnq);
        asm.finish()
    }

    /// The products of one entry.
    fn entry(&self, asm: &mut Assembler) {
        let broadcast =
            pick(self.width, Code::VEX_Vbroadcastss_ymm_m32, Code::EVEX_Vbroadcastss_zmm_k1z_xmmm32);
        asm.op2(Code::Mov_r32_rm32, PLACE, at(WORDS, 0));
        asm.op2(Code::Lea_r64_m, LINE, indexed(TILE, LINE, WORD as u32, 0));
        for column in 0..self.block {
            let last = self.broadcast(column, self.parts() - 1);
            asm.op2(broadcast, last, at(VALUES, column as i64 * WORD));
            if self.quads == Some(Quads::Words) {
                let (codes, even) = (word_codes(self.width), self.broadcast(column, 0));
                asm.op3(codes.left, even, last, 8);
                asm.op3(codes.right_signed, even, even, 8);
                asm.op3(codes.right_signed, last, last, 8);
            }
        }
        for v in 0..self.vectors {
            self.products(asm, v);
        }
        asm.op2(Code::Add_rm64_imm32, WORDS, WORD as i32);
        asm.op2(Code::Add_rm64_imm32, VALUES, (self.block as i64 * WORD) as i32);
    }

    /// The products of a vector of a line.
    fn products(&self, asm: &mut Assembler, v: usize) {
        let load = pick(self.width, Code::VEX_Vmovups_ymm_ymmm256, Code::EVEX_Vmovups_zmm_k1z_zmmm512);
        let fma = pick(
            self.width,
            Code::VEX_Vfmadd231ps_ymm_ymm_ymmm256,
            Code::EVEX_Vfmadd231ps_zmm_k1z_zmm_zmmm512b32_er,
        );
        let dot =
            pick(self.width, Code::VEX_Vpdpbusd_ymm_ymm_ymmm256, Code::EVEX_Vpdpbusd_zmm_k1z_zmm_zmmm512b32);
        let place = at(LINE, v as i64 * self.width.bytes());
        if self.quads.is_none() && self.block == 1 {
            return asm.op3(fma, self.sum(0, v), self.broadcast(0, 0), place);
        }
        let line = self.line(0);
        asm.op2(load, line, place);
        let words = word_codes(self.width);
        if self.quads == Some(Quads::Words) {
            asm.op3(words.right, self.line(1), line, 8);
            asm.op3(words.left, line, line, 8);
            asm.op3(words.right, line, line, 8);
        }
        for column in 0..self.block {
            let sum = self.sum(column, v);
            match self.quads {
                None => asm.op3(fma, sum, self.broadcast(column, 0), line),
                // The unsigned factor comes first.
                Some(Quads::Vnni | Quads::Amx { .. }) => asm.op3(dot, sum, line, self.broadcast(column, 0)),
                Some(Quads::Words) => {
                    let product = self.line(2);
                    for part in 0..2 {
                        asm.op3(words.multiply, product, self.line(part), self.broadcast(column, part));
                        asm.op3(binary(self.width, Binary::AddI), sum, sum, product);
                    }
                }
            }
        }
    }

    /// Writes a vector of sums.
    fn finish(&self, asm: &mut Assembler, column: usize, v: usize) {
        let store = pick(self.width, Code::VEX_Vmovups_ymmm256_ymm, Code::EVEX_Vmovups_zmmm512_k1z_zmm);
        let (sum, place) = (self.sum(column, v), self.place(column, v));
        if self.accumulate {
            let add = if self.quads.is_some() { Binary::AddI } else { Binary::AddF };
            asm.op3(binary(self.width, add), sum, sum, place);
        }
        asm.op2(store, place, sum);
    }
}
