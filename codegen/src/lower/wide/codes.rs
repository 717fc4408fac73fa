//! Instructions of each width for the operations of vector programs.

use iced_x86::Code;

use super::Width;
use super::lir::{Binary, Shift, Unary};

/// `(256 bits, 512 bits)`, by width.
pub(super) fn pick<T>(width: Width, w256: T, w512: T) -> T {
    match width {
        Width::W256 => w256,
        Width::W512 => w512,
    }
}

/// The instruction of an operation on two vectors. Those of 512 bits alone ([`Binary::Scale`], [`Binary::Bound`], and
/// [`Binary::Ratio`], which begins with this one) are no valid code for 256.
pub(super) fn binary(width: Width, op: Binary) -> Code {
    let (w256, w512) = match op {
        Binary::AddF => (Code::VEX_Vaddps_ymm_ymm_ymmm256, Code::EVEX_Vaddps_zmm_k1z_zmm_zmmm512b32_er),
        Binary::SubF => (Code::VEX_Vsubps_ymm_ymm_ymmm256, Code::EVEX_Vsubps_zmm_k1z_zmm_zmmm512b32_er),
        Binary::MulF => (Code::VEX_Vmulps_ymm_ymm_ymmm256, Code::EVEX_Vmulps_zmm_k1z_zmm_zmmm512b32_er),
        Binary::DivF => (Code::VEX_Vdivps_ymm_ymm_ymmm256, Code::EVEX_Vdivps_zmm_k1z_zmm_zmmm512b32_er),
        Binary::MinF => (Code::VEX_Vminps_ymm_ymm_ymmm256, Code::EVEX_Vminps_zmm_k1z_zmm_zmmm512b32_sae),
        Binary::MaxF => (Code::VEX_Vmaxps_ymm_ymm_ymmm256, Code::EVEX_Vmaxps_zmm_k1z_zmm_zmmm512b32_sae),
        Binary::Scale => (Code::INVALID, Code::EVEX_Vscalefps_zmm_k1z_zmm_zmmm512b32_er),
        Binary::Bound => (Code::INVALID, Code::EVEX_Vrangeps_zmm_k1z_zmm_zmmm512b32_imm8_sae),
        Binary::Ratio => (Code::INVALID, Code::EVEX_Vrcp14ps_zmm_k1z_zmmm512b32),
        Binary::AddI => (Code::VEX_Vpaddd_ymm_ymm_ymmm256, Code::EVEX_Vpaddd_zmm_k1z_zmm_zmmm512b32),
        Binary::SubI => (Code::VEX_Vpsubd_ymm_ymm_ymmm256, Code::EVEX_Vpsubd_zmm_k1z_zmm_zmmm512b32),
        Binary::MulI => (Code::VEX_Vpmulld_ymm_ymm_ymmm256, Code::EVEX_Vpmulld_zmm_k1z_zmm_zmmm512b32),
        Binary::MinS => (Code::VEX_Vpminsd_ymm_ymm_ymmm256, Code::EVEX_Vpminsd_zmm_k1z_zmm_zmmm512b32),
        Binary::MaxS => (Code::VEX_Vpmaxsd_ymm_ymm_ymmm256, Code::EVEX_Vpmaxsd_zmm_k1z_zmm_zmmm512b32),
        Binary::MinU => (Code::VEX_Vpminud_ymm_ymm_ymmm256, Code::EVEX_Vpminud_zmm_k1z_zmm_zmmm512b32),
        Binary::MaxU => (Code::VEX_Vpmaxud_ymm_ymm_ymmm256, Code::EVEX_Vpmaxud_zmm_k1z_zmm_zmmm512b32),
        Binary::And => (Code::VEX_Vpand_ymm_ymm_ymmm256, Code::EVEX_Vpandd_zmm_k1z_zmm_zmmm512b32),
        Binary::Or => (Code::VEX_Vpor_ymm_ymm_ymmm256, Code::EVEX_Vpord_zmm_k1z_zmm_zmmm512b32),
        Binary::Xor => (Code::VEX_Vpxor_ymm_ymm_ymmm256, Code::EVEX_Vpxord_zmm_k1z_zmm_zmmm512b32),
    };
    pick(width, w256, w512)
}

/// The instruction of an operation on one vector, and its immediate.
pub(super) fn unary(width: Width, op: Unary) -> (Code, Option<i32>) {
    let round =
        pick(width, Code::VEX_Vroundps_ymm_ymmm256_imm8, Code::EVEX_Vrndscaleps_zmm_k1z_zmmm512b32_imm8_sae);
    let (w256, w512) = match op {
        // Modes of ROUNDPS, without the inexact exception.
        Unary::Nearest => return (round, Some(8)),
        Unary::Floor => return (round, Some(9)),
        Unary::Ceil => return (round, Some(10)),
        Unary::Trunc => return (round, Some(11)),
        Unary::Sqrt => (Code::VEX_Vsqrtps_ymm_ymmm256, Code::EVEX_Vsqrtps_zmm_k1z_zmmm512b32_er),
        Unary::ToFloat => (Code::VEX_Vcvtdq2ps_ymm_ymmm256, Code::EVEX_Vcvtdq2ps_zmm_k1z_zmmm512b32_er),
        Unary::ToInt => (Code::VEX_Vcvttps2dq_ymm_ymmm256, Code::EVEX_Vcvttps2dq_zmm_k1z_zmmm512b32_sae),
        Unary::ToNearestInt => (Code::VEX_Vcvtps2dq_ymm_ymmm256, Code::EVEX_Vcvtps2dq_zmm_k1z_zmmm512b32_er),
        Unary::AbsI => (Code::VEX_Vpabsd_ymm_ymmm256, Code::EVEX_Vpabsd_zmm_k1z_zmmm512b32),
    };
    (pick(width, w256, w512), None)
}

/// How two lanes of a combination come to stand side by side: exchanges of halves, quarters and so on, each with its
/// immediate.
pub(super) fn exchanges(width: Width) -> &'static [(Code, i32)] {
    match width {
        Width::W256 => &[
            (Code::VEX_Vperm2f128_ymm_ymm_ymmm256_imm8, 1),
            (Code::VEX_Vshufps_ymm_ymm_ymmm256_imm8, 0x4e),
            (Code::VEX_Vshufps_ymm_ymm_ymmm256_imm8, 0xb1),
        ],
        Width::W512 => &[
            (Code::EVEX_Vshuff32x4_zmm_k1z_zmm_zmmm512b32_imm8, 0x4e),
            (Code::EVEX_Vshuff32x4_zmm_k1z_zmm_zmmm512b32_imm8, 0xb1),
            (Code::EVEX_Vshufps_zmm_k1z_zmm_zmmm512b32_imm8, 0x4e),
            (Code::EVEX_Vshufps_zmm_k1z_zmm_zmmm512b32_imm8, 0xb1),
        ],
    }
}

/// The instruction of a shift.
pub(super) fn shift(width: Width, op: Shift) -> Code {
    let (w256, w512) = match op {
        Shift::Left => (Code::VEX_Vpslld_ymm_ymm_imm8, Code::EVEX_Vpslld_zmm_k1z_zmmm512b32_imm8),
        Shift::Right => (Code::VEX_Vpsrld_ymm_ymm_imm8, Code::EVEX_Vpsrld_zmm_k1z_zmmm512b32_imm8),
        Shift::RightSigned => (Code::VEX_Vpsrad_ymm_ymm_imm8, Code::EVEX_Vpsrad_zmm_k1z_zmmm512b32_imm8),
    };
    pick(width, w256, w512)
}

/// Order of the operands of a fused multiply-add, as its name gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fma {
    /// `x = x * z + y`.
    F132,
    /// `x = y * x + z`.
    F213,
    /// `x = y * z + x`.
    F231,
}

/// The instruction of a fused multiply-add.
pub(super) fn fma(width: Width, form: Fma) -> Code {
    let (w256, w512) = match form {
        Fma::F132 => {
            (Code::VEX_Vfmadd132ps_ymm_ymm_ymmm256, Code::EVEX_Vfmadd132ps_zmm_k1z_zmm_zmmm512b32_er)
        }
        Fma::F213 => {
            (Code::VEX_Vfmadd213ps_ymm_ymm_ymmm256, Code::EVEX_Vfmadd213ps_zmm_k1z_zmm_zmmm512b32_er)
        }
        Fma::F231 => {
            (Code::VEX_Vfmadd231ps_ymm_ymm_ymmm256, Code::EVEX_Vfmadd231ps_zmm_k1z_zmm_zmmm512b32_er)
        }
    };
    pick(width, w256, w512)
}

/// Unaligned load and store of a vector, copy between registers.
pub(super) fn moves(width: Width) -> [Code; 3] {
    pick(
        width,
        [Code::VEX_Vmovups_ymm_ymmm256, Code::VEX_Vmovups_ymmm256_ymm, Code::VEX_Vmovaps_ymm_ymmm256],
        [
            Code::EVEX_Vmovups_zmm_k1z_zmmm512,
            Code::EVEX_Vmovups_zmmm512_k1z_zmm,
            Code::EVEX_Vmovaps_zmm_k1z_zmmm512,
        ],
    )
}
