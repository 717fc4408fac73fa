//! Products of bytes in tiles: a step of the reduction is four bytes of a row, which are broadcast, and a vector of the
//! panel has four bytes for each of its columns.
//!
//! With AMX, tile registers are multiplied ([`super::amx`]). With VNNI, one instruction adds the four products to the sum.
//! Without it, bytes are taken apart into words at even and at odd places, whose products are added in pairs: `vpmaddubsw`
//! would need one instruction less but saturates.

use iced_x86::{Code, MemoryOperand, Register};
use kiln_runtime::cpu::Tier;

use super::Width;
use super::amx::MOST_STEPS;
use super::asm::{Assembler, at};
use super::codes::{binary, pick};
use super::lir::Binary;
use super::tile::{A_AT, B_AT, Codes, Tile};

/// How four products become part of a sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Quads {
    /// `vpdpbusd`.
    Vnni,
    /// Two times `vpmaddwd`.
    Words,
    /// `tdpbusd`, so many steps of the reduction at once; rows hold steps without gaps.
    Amx {
        /// At most [`super::amx::MOST_STEPS`].
        steps: u8,
    },
}

impl Quads {
    /// What a tier has.
    pub const fn of(tier: Tier) -> Quads {
        match tier {
            Tier::X86V4Amx => Quads::Amx { steps: MOST_STEPS as u8 },
            Tier::X86V3Vnni | Tier::X86V4Vnni => Quads::Vnni,
            Tier::X86V1 | Tier::X86V2 | Tier::X86V3 | Tier::X86V4 | Tier::Aarch64 => Quads::Words,
        }
    }

    /// The same for rows of which some are few or have gaps.
    pub const fn of_vectors(self) -> Quads {
        match self {
            Quads::Amx { .. } => Quads::Vnni,
            Quads::Vnni | Quads::Words => self,
        }
    }

    /// Registers beside those of sums and of the panel.
    pub(super) const fn registers(self) -> usize {
        match self {
            Quads::Vnni => 1,
            // Both parts of the factor, and a product.
            Quads::Words => 3,
            Quads::Amx { .. } => 0,
        }
    }

    /// Registers of a vector of the panel.
    pub(super) const fn panel_registers(self) -> usize {
        match self {
            Quads::Vnni | Quads::Amx { .. } => 1,
            Quads::Words => 2,
        }
    }
}

/// Instructions on words.
pub(super) struct WordCodes {
    /// Products of pairs, added.
    pub multiply: Code,
    pub left: Code,
    pub right: Code,
    pub right_signed: Code,
}

pub(super) fn word_codes(width: Width) -> WordCodes {
    WordCodes {
        multiply: pick(width, Code::VEX_Vpmaddwd_ymm_ymm_ymmm256, Code::EVEX_Vpmaddwd_zmm_k1z_zmm_zmmm512),
        left: pick(width, Code::VEX_Vpsllw_ymm_ymm_imm8, Code::EVEX_Vpsllw_zmm_k1z_zmmm512_imm8),
        right: pick(width, Code::VEX_Vpsrlw_ymm_ymm_imm8, Code::EVEX_Vpsrlw_zmm_k1z_zmmm512_imm8),
        right_signed: pick(width, Code::VEX_Vpsraw_ymm_ymm_imm8, Code::EVEX_Vpsraw_zmm_k1z_zmmm512_imm8),
    }
}

impl Tile {
    /// The register that flips signs, the last one of a tile.
    fn signs(&self, quads: Quads, height: usize, held: usize) -> Register {
        self.register(height * self.count() + held + quads.registers())
    }

    /// Fills the registers that products of bytes need and an epilogue may have overwritten.
    pub(super) fn set_quad_constants(&self, asm: &mut Assembler, height: usize, held: usize) {
        let Some(quads) = self.quads.filter(|_| self.flip) else { return };
        let address = asm.constant(&[0x80; 4], 4);
        let none = Register::None;
        let place = MemoryOperand::new(Register::RIP, none, 1, address as i64, 8, false, none);
        asm.op2(self.codes().broadcast, self.signs(quads, height, held), place);
    }

    /// Four bytes of a row in every lane.
    fn quad(&self, asm: &mut Assembler, codes: &Codes, to: Register, offset: i64, signs: Option<Register>) {
        let place = at(A_AT, offset);
        match (signs, self.vectors) {
            (Some(signs), Width::W512) => {
                let size = u32::from(place.displacement != 0);
                let none = Register::None;
                let repeated = MemoryOperand::new(A_AT, none, 1, offset, size, true, none);
                asm.op3(Code::EVEX_Vpxord_zmm_k1z_zmm_zmmm512b32, to, signs, repeated);
            }
            (Some(signs), Width::W256) => {
                asm.op2(codes.broadcast, to, place);
                asm.op3(Code::VEX_Vpxor_ymm_ymm_ymmm256, to, to, signs);
            }
            (None, _) => asm.op2(codes.broadcast, to, place),
        }
    }

    /// `count` steps of the reduction, `held` registers of the panel.
    pub(super) fn quad_products(
        &self,
        asm: &mut Assembler,
        codes: &Codes,
        (quads, held): (Quads, usize),
        height: usize,
        count: i64,
    ) {
        let first = height * self.count();
        let panel: Vec<Register> = (0..held).map(|v| self.register(first + v)).collect();
        let factor = self.register(first + held);
        let signs = self.flip.then(|| self.signs(quads, height, held));
        for k in 0..count {
            match quads {
                Quads::Vnni => {
                    for (v, &register) in panel.iter().enumerate() {
                        asm.op2(codes.load, register, at(B_AT, self.panel_offset(k, v)));
                    }
                }
                Quads::Words => self.panel_words(asm, codes, &panel, k),
                // Functions with tile registers are made elsewhere.
                Quads::Amx { .. } => {}
            }
            for row in 0..height {
                let from = self.row_offset(row) + k * self.row_step;
                self.quad(asm, codes, factor, from, signs);
                match quads {
                    Quads::Vnni => self.add_dots(asm, (factor, &panel), row, k),
                    Quads::Words => self.add_words(asm, (first + held, &panel), row),
                    Quads::Amx { .. } => {}
                }
            }
        }
    }

    /// One row's products by one instruction a vector.
    fn add_dots(&self, asm: &mut Assembler, (factor, panel): (Register, &[Register]), row: usize, k: i64) {
        let dot = pick(
            self.vectors,
            Code::VEX_Vpdpbusd_ymm_ymm_ymmm256,
            Code::EVEX_Vpdpbusd_zmm_k1z_zmm_zmmm512b32,
        );
        for v in 0..self.count() {
            match panel.get(v) {
                Some(&column) => asm.op3(dot, self.sum(row, v), factor, column),
                None => asm.op3(dot, self.sum(row, v), factor, at(B_AT, self.panel_offset(k, v))),
            }
        }
    }

    /// The panel's bytes at even and at odd places as words, two registers a vector.
    fn panel_words(&self, asm: &mut Assembler, codes: &Codes, panel: &[Register], k: i64) {
        let words = word_codes(self.vectors);
        for (v, parts) in panel.chunks_exact(2).enumerate() {
            let (even, odd) = (parts[0], parts[1]);
            asm.op2(codes.load, odd, at(B_AT, self.panel_offset(k, v)));
            asm.op3(words.left, even, odd, 8);
            asm.op3(words.right_signed, even, even, 8);
            asm.op3(words.right_signed, odd, odd, 8);
        }
    }

    /// One row's products by words; the factor is in the register of number `factor`.
    fn add_words(&self, asm: &mut Assembler, (factor, panel): (usize, &[Register]), row: usize) {
        let words = word_codes(self.vectors);
        let [even, odd, product] = [0, 1, 2].map(|i| self.register(factor + i));
        let add = binary(self.vectors, Binary::AddI);
        asm.op3(words.right, odd, even, 8);
        asm.op3(words.left, even, even, 8);
        asm.op3(words.right, even, even, 8);
        for (v, parts) in panel.chunks_exact(2).enumerate() {
            let sum = self.sum(row, v);
            for (factor, column) in [even, odd].into_iter().zip(parts) {
                asm.op3(words.multiply, product, factor, *column);
                asm.op3(add, sum, sum, product);
            }
        }
    }
}
