//! Squares of 16 by 16 elements of 32 bits, transposed in registers: rows of a right operand that are contiguous along
//! the reduction become columns of a panel.
//!
//! Quarters of rows are loaded to where they belong, four rows a register, by broadcasts under masks; what is left is to
//! transpose 4 by 4 elements in each quarter.

use iced_x86::{Code, Register};

use super::asm::{Assembler, at, vector};
use super::{WideError, WideFunction};

/// Rows and columns of a square.
pub const SIDE: i64 = 16;

/// Bytes of a quarter of a row.
const QUARTER: i64 = 16;

/// The masks of the second to the fourth quarter of a register.
const MASKS: [(Register, i32); 3] = [(Register::K1, 0x00f0), (Register::K2, 0x0f00), (Register::K3, 0xf000)];

/// The function `(source, destination, number of squares)`: squares follow each other along a row of the source, whose
/// rows are `source_stride` bytes apart, and along a column of the destination.
pub fn transpose(source_stride: i64, destination_stride: i64) -> Result<WideFunction, WideError> {
    let far = |n: i64| n.checked_mul(SIDE).is_none_or(|n| i32::try_from(n).is_err());
    if far(source_stride) || far(destination_stride) {
        return Err(WideError::Unsupported("rows far apart".to_owned()));
    }
    let (source, destination, left) = (Register::RDI, Register::RSI, Register::RDX);
    let mut asm = Assembler::default();
    let done = asm.label();
    asm.op2(Code::Test_rm64_r64, left, left);
    asm.jump(Code::Je_rel32_64, done);
    for (mask, bits) in MASKS {
        asm.op2(Code::Mov_r32_imm32, Register::EAX, bits);
        asm.op2(Code::VEX_Kmovw_kr_r32, mask, Register::EAX);
    }
    let again = asm.here();
    for part in 0..4i64 {
        let first = 8 * part as usize;
        for row in 0..4usize {
            let quarter = |q: i64| at(source, (row as i64 + 4 * q) * source_stride + part * QUARTER);
            asm.op2(Code::EVEX_Vmovups_xmm_k1z_xmmm128, vector(16, first + row), quarter(0));
            for (q, (mask, _)) in (1..).zip(MASKS) {
                let code = Code::EVEX_Vbroadcastf32x4_zmm_k1z_m128;
                if let Some(load) = asm.op(code, &[vector(64, first + row).into(), quarter(q).into()]) {
                    load.set_op_mask(mask);
                }
            }
        }
        square(&mut asm, first);
        for column in 0..4 {
            let to = at(destination, (4 * part + column) * destination_stride);
            asm.op2(Code::EVEX_Vmovups_zmmm512_k1z_zmm, to, vector(64, first + column as usize));
        }
    }
    asm.op2(Code::Add_rm64_imm32, source, (SIDE * 4) as i32);
    asm.op2(Code::Add_rm64_imm32, destination, (SIDE * destination_stride) as i32);
    asm.op1(Code::Dec_rm64, left);
    asm.jump(Code::Jne_rel32_64, again);
    asm.bind(done);
    asm.op0(Code::VEX_Vzeroupper);
    asm.op0(Code::Retnq);
    asm.finish()
}

/// Transposes 4 by 4 elements in each quarter of the four registers from `first` on; uses the four behind them.
fn square(asm: &mut Assembler, first: usize) {
    let own = |i: usize| vector(64, first + i);
    let other = |i: usize| vector(64, first + 4 + i);
    // Elements of two rows side by side, then of four.
    for i in [0, 2] {
        asm.op3(Code::EVEX_Vunpcklps_zmm_k1z_zmm_zmmm512b32, other(i), own(i), own(i + 1));
        asm.op3(Code::EVEX_Vunpckhps_zmm_k1z_zmm_zmmm512b32, other(i + 1), own(i), own(i + 1));
    }
    for half in [0, 1] {
        let (a, b) = (other(half), other(half + 2));
        asm.op3(Code::EVEX_Vunpcklpd_zmm_k1z_zmm_zmmm512b64, own(2 * half), a, b);
        asm.op3(Code::EVEX_Vunpckhpd_zmm_k1z_zmm_zmmm512b64, own(2 * half + 1), a, b);
    }
}
