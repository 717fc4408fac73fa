//! Squares of 16 by 16 elements of 32 bits, transposed in registers: rows of a right operand that are contiguous along
//! the reduction become columns of a panel.

use iced_x86::{Code, Register};

use super::asm::{Assembler, at, vector};
use super::{WideError, WideFunction};

/// Rows and columns of a square.
pub const SIDE: i64 = 16;

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
    let again = asm.here();
    let low = |i: usize| vector(64, i);
    let high = |i: usize| vector(64, 16 + i);
    for i in 0..16 {
        asm.op2(Code::EVEX_Vmovups_zmm_k1z_zmmm512, low(i), at(source, i as i64 * source_stride));
    }
    // Elements of two rows, then of four, side by side in each quarter.
    for i in (0..16).step_by(2) {
        asm.op3(Code::EVEX_Vunpcklps_zmm_k1z_zmm_zmmm512b32, high(i), low(i), low(i + 1));
        asm.op3(Code::EVEX_Vunpckhps_zmm_k1z_zmm_zmmm512b32, high(i + 1), low(i), low(i + 1));
    }
    for i in (0..16).step_by(4) {
        for (to, half) in [(i, 0), (i + 2, 1)] {
            let (a, b) = (high(i + half), high(i + half + 2));
            asm.op3(Code::EVEX_Vunpcklpd_zmm_k1z_zmm_zmmm512b64, low(to), a, b);
            asm.op3(Code::EVEX_Vunpckhpd_zmm_k1z_zmm_zmmm512b64, low(to + 1), a, b);
        }
    }
    // Quarters of eight rows, then of sixteen.
    let mut quarters = |to: Register, a: Register, b: Register, which: i32| {
        let code = Code::EVEX_Vshuff32x4_zmm_k1z_zmm_zmmm512b32_imm8;
        asm.op(code, &[to.into(), a.into(), b.into(), which.into()]);
    };
    const EVEN: i32 = 0x88;
    const ODD: i32 = 0xdd;
    for q in 0..4 {
        for half in [0, 8] {
            quarters(high(half + q), low(half + q), low(half + 4 + q), EVEN);
            quarters(high(half + 4 + q), low(half + q), low(half + 4 + q), ODD);
        }
    }
    for q in 0..8 {
        quarters(low(q), high(q), high(8 + q), EVEN);
        quarters(low(8 + q), high(q), high(8 + q), ODD);
    }
    for i in 0..16 {
        let to = at(destination, i as i64 * destination_stride);
        asm.op2(Code::EVEX_Vmovups_zmmm512_k1z_zmm, to, low(i));
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
