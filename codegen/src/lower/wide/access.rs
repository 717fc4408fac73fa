//! Loads and stores of vector programs.

use iced_x86::{Code, MemoryOperand, Register};
use kiln_ir::DType;

use super::asm::{at, indexed};
use super::codes::moves;
use super::emit::{Emission, INDEX, SCRATCH, TAIL};
use super::inst::MASK;
use super::lir::{Access, Param, Reg, Src, Step};
use super::{WideError, Width};

/// The mask register of guarded loads.
const GUARD: Register = Register::K2;

/// Bytes of a lane.
const LANE_BYTES: i32 = 4;

/// Whether elements can be loaded to 32-bit lanes.
pub(super) fn can_load(width: Width, storage: DType, step: Step) -> bool {
    match (step, storage) {
        (_, DType::F32 | DType::I32 | DType::U32) => true,
        (Step::Contiguous, DType::F16) => width == Width::W512,
        (Step::Contiguous, DType::BF16 | DType::I16 | DType::U16 | DType::I8 | DType::U8 | DType::Bool) => {
            true
        }
        _ => false,
    }
}

/// Whether lanes can be stored as elements.
pub(super) fn can_store(width: Width, storage: DType, step: Step) -> bool {
    let word = matches!(storage, DType::F32 | DType::I32 | DType::U32);
    let narrow =
        matches!(storage, DType::F16 | DType::I16 | DType::U16 | DType::I8 | DType::U8 | DType::Bool);
    match (width, step) {
        (Width::W512, Step::Strided(LANE_BYTES)) if storage.bits() == 8 => narrow,
        (Width::W512, Step::Strided(_)) => word,
        (Width::W256, Step::Contiguous) => word || (narrow && storage != DType::F16),
        (Width::W512, Step::Contiguous) => word || narrow,
        (Width::W256, Step::Strided(_)) | (_, Step::Same) => false,
    }
}

impl Emission<'_> {
    /// Address of the first lane's element.
    fn place(&mut self, access: &Access) -> Result<MemoryOperand, WideError> {
        let far = |_| WideError::Unsupported("elements far apart".to_owned());
        let size = (access.storage.bits() / 8) as i64;
        let lanes = self.lanes();
        let mut base = if access.inner.is_empty() { self.pointer(access.pointer) } else { SCRATCH[0] };
        if !access.inner.is_empty() {
            self.asm.op2(Code::Mov_r64_rm64, SCRATCH[0], Self::word(access.pointer));
            for &(id, step) in &access.inner {
                let counter = self.counter(id);
                self.asm.op3(Code::Imul_r64_rm64_imm32, SCRATCH[1], counter, step);
                self.asm.op2(Code::Add_r64_rm64, SCRATCH[0], SCRATCH[1]);
            }
        }
        let first = (self.group % self.groups_a_row) as i64 * lanes;
        let row = (self.group / self.groups_a_row) as i64;
        let offset = i64::from(access.offset) + row * self.row_step(access.pointer);
        Ok(match access.step {
            Step::Contiguous => indexed(base, INDEX, size as u32, offset + first * size),
            Step::Same => at(base, offset),
            Step::Strided(step) => {
                let stride = i64::from(step) * size;
                let stride32 = i32::try_from(stride).map_err(far)?;
                self.asm.op3(Code::Imul_r64_rm64_imm32, SCRATCH[1], INDEX, stride32);
                self.asm.op2(Code::Add_r64_rm64, SCRATCH[1], base);
                base = SCRATCH[1];
                let displacement = i32::try_from(offset + first * stride).map_err(far)?;
                at(base, i64::from(displacement))
            }
        })
    }

    /// Offsets of the lanes of a strided access, in elements.
    fn lane_offsets(&mut self, step: i32) -> Result<Register, WideError> {
        let offsets: Option<Vec<i32>> = (0..self.lanes() as i32).map(|i| i.checked_mul(step)).collect();
        let offsets = offsets.filter(|o| o.iter().all(|o| o.checked_mul(4).is_some()));
        let offsets = offsets.ok_or_else(|| WideError::Unsupported("elements far apart".to_owned()))?;
        let register = self.temporary()?;
        let words: Vec<u32> = offsets.into_iter().map(i32::cast_unsigned).collect();
        self.pooled(register, &words);
        Ok(register)
    }

    pub fn load(&mut self, dst: Reg, access: &Access, guard: Option<(Param, u32)>) -> Result<(), WideError> {
        if !can_load(self.width, access.storage, access.step) {
            return Err(WideError::Unsupported(format!("loads of {}", access.storage)));
        }
        let mut mask = if self.masked { Some(TAIL) } else { None };
        if let (Some((param, _)), Width::W512) = (guard, self.width) {
            if self.guard != Some(param) {
                self.asm.op2(Code::VEX_Kmovw_kr_km16, GUARD, Self::word(param));
                if self.masked {
                    self.asm.op3(Code::VEX_Kandw_kr_kr_kr, GUARD, GUARD, TAIL);
                }
                self.guard = Some(param);
            }
            mask = Some(GUARD);
        }
        if let (Some((param, otherwise)), Width::W256) = (guard, self.width) {
            return self.guarded_load(dst, access, param, otherwise);
        }
        if let Step::Strided(step) = access.step {
            return self.gather(dst, access, step, guard);
        }
        let otherwise = guard.map_or(0, |g| g.1);
        let memory = self.place(access)?;
        let register = self.fresh(dst)?;
        let code = self.load_code(access);
        if otherwise == 0 {
            let mask = if access.step == Step::Same { mask.filter(|m| *m == GUARD) } else { mask };
            self.zeroed_op(code, &[register.into(), memory.into()], mask);
        } else {
            self.fill(register, otherwise);
            self.masked_op(code, &[register.into(), memory.into()], mask);
        }
        self.widen(register, access.storage);
        Ok(())
    }

    /// Asks for a cache line.
    pub fn prefetch(&mut self, access: &Access, ahead: i32) -> Result<(), WideError> {
        let mut memory = self.place(access)?;
        memory.displacement += i64::from(ahead);
        memory.displ_size = u32::from(memory.displacement != 0);
        self.asm.op1(Code::Prefetcht0_m8, memory);
        Ok(())
    }

    fn load_code(&self, access: &Access) -> Code {
        if access.step == Step::Same {
            return self.splat_code();
        }
        match access.storage {
            DType::F16 => Code::EVEX_Vcvtph2ps_zmm_k1z_ymmm256_sae,
            DType::BF16 | DType::U16 => {
                self.either(Code::VEX_Vpmovzxwd_ymm_xmmm128, Code::EVEX_Vpmovzxwd_zmm_k1z_ymmm256)
            }
            DType::I16 => self.either(Code::VEX_Vpmovsxwd_ymm_xmmm128, Code::EVEX_Vpmovsxwd_zmm_k1z_ymmm256),
            DType::U8 | DType::Bool => {
                self.either(Code::VEX_Vpmovzxbd_ymm_xmmm64, Code::EVEX_Vpmovzxbd_zmm_k1z_xmmm128)
            }
            DType::I8 => self.either(Code::VEX_Vpmovsxbd_ymm_xmmm64, Code::EVEX_Vpmovsxbd_zmm_k1z_xmmm128),
            _ => moves(self.width)[0],
        }
    }

    /// What a load does beyond extending the bits.
    fn widen(&mut self, register: Register, storage: DType) {
        if storage == DType::BF16 {
            let shift = super::codes::shift(self.width, super::lir::Shift::Left);
            self.asm.op3(shift, register, register, 16);
        }
        if storage == DType::Bool {
            // 0 or 1 to a mask: 0 - x.
            let zero = self.vector_zero();
            let subtract = super::codes::binary(self.width, super::lir::Binary::SubI);
            if let Some(zero) = zero {
                self.asm.op3(subtract, register, zero, register);
            }
        }
    }

    fn vector_zero(&mut self) -> Option<Register> {
        let register = self.temporary().ok()?;
        self.fill(register, 0);
        Some(register)
    }

    /// A guarded load without mask registers: `vmaskmovps` does not touch what is masked out.
    fn guarded_load(
        &mut self,
        dst: Reg,
        access: &Access,
        param: Param,
        otherwise: u32,
    ) -> Result<(), WideError> {
        let plain = matches!(access.storage, DType::F32 | DType::I32 | DType::U32);
        if !plain || access.step != Step::Contiguous {
            return Err(WideError::Unsupported(format!("guarded loads of {}", access.storage)));
        }
        let mask = self.register(Src::Param(param))?;
        let memory = self.place(access)?;
        let register = self.fresh(dst)?;
        self.asm.op3(Code::VEX_Vmaskmovps_ymm_ymm_m256, register, mask, memory);
        if otherwise != 0 {
            let other = self.register(Src::Bits(otherwise))?;
            let blend = Code::VEX_Vblendvps_ymm_ymm_ymmm256_ymm;
            self.asm.op(blend, &[register.into(), other.into(), register.into(), mask.into()]);
        }
        Ok(())
    }

    fn gather(
        &mut self,
        dst: Reg,
        access: &Access,
        step: i32,
        guard: Option<(Param, u32)>,
    ) -> Result<(), WideError> {
        let offsets = self.lane_offsets(step)?;
        let base = self.place(access)?;
        let memory = indexed(base.base, offsets, 4, base.displacement);
        let register = self.fresh(dst)?;
        if self.width == Width::W256 {
            let mask = self.temporary()?;
            self.asm.op3(Code::VEX_Vpcmpeqd_ymm_ymm_ymmm256, mask, mask, mask);
            self.asm.op3(Code::VEX_Vgatherdps_ymm_vm32y_ymm, register, memory, mask);
            return Ok(());
        }
        match guard {
            Some(_) => self.asm.op2(Code::VEX_Kmovw_kr_km16, MASK, GUARD),
            None => self.all_lanes(),
        }
        self.fill(register, guard.map_or(0, |g| g.1));
        self.masked_op(Code::EVEX_Vgatherdps_zmm_k1_vm32z, &[register.into(), memory.into()], Some(MASK));
        Ok(())
    }

    /// The low bytes or words of all lanes, side by side.
    fn narrow_store(&mut self, a: Register, access: &Access) -> Result<(), WideError> {
        let size = access.storage.bits() / 8;
        // In each half of the vector, the elements come first.
        let mut order = [0x80u8; 32];
        for (i, byte) in order.iter_mut().enumerate().filter(|(i, _)| i % 16 < 4 * size) {
            let at = i % 16;
            *byte = (at / size * 4 + at % size) as u8;
        }
        let words: Vec<u32> =
            order.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let packed = self.temporary()?;
        let order = self.pool(&words);
        self.asm.op3(Code::VEX_Vpshufb_ymm_ymm_ymmm256, packed, a, order);
        let low = super::asm::vector(16, packed.number());
        if size == 2 {
            self.asm.op3(Code::VEX_Vpermq_ymm_ymmm256_imm8, packed, packed, 0x08);
            let memory = self.place(access)?;
            self.asm.op2(Code::VEX_Vmovdqu_xmmm128_xmm, memory, low);
            return Ok(());
        }
        let halves = self.temporary()?;
        self.pooled(halves, &[0, 4, 0, 0, 0, 0, 0, 0]);
        self.asm.op3(Code::VEX_Vpermd_ymm_ymm_ymmm256, packed, halves, packed);
        let memory = self.place(access)?;
        self.asm.op2(Code::VEX_Vmovq_xmmm64_xmm, memory, low);
        Ok(())
    }

    /// The low bytes of all lanes, as far from each other as they are in the vector.
    fn spread_store(
        &mut self,
        a: Register,
        access: &Access,
        lanes: Option<Register>,
    ) -> Result<(), WideError> {
        let low = self.temporary()?;
        self.fill(low, 0x80);
        if lanes.is_some() {
            let [_, _, copy] = moves(self.width);
            self.zeroed_op(copy, &[low.into(), low.into()], lanes);
        }
        let memory = self.place(access)?;
        self.asm.op2(Code::EVEX_Vpmovb2m_kr_zmm, MASK, low);
        self.masked_op(Code::EVEX_Vmovdqu8_zmmm512_k1z_zmm, &[memory.into(), a.into()], Some(MASK));
        Ok(())
    }

    pub fn store(&mut self, a: Register, access: &Access) -> Result<(), WideError> {
        if access.step == Step::Same && access.storage == DType::F32 {
            let place = self.place(access)?;
            self.first_lane(place, a);
            return Ok(());
        }
        if !can_store(self.width, access.storage, access.step) {
            return Err(WideError::Unsupported(format!("stores of {}", access.storage)));
        }
        let mask = if self.masked { Some(TAIL) } else { None };
        if access.step == Step::Strided(LANE_BYTES) && access.storage.bits() == 8 {
            return self.spread_store(a, access, mask);
        }
        if let Step::Strided(step) = access.step {
            let offsets = self.lane_offsets(step)?;
            let base = self.place(access)?;
            let memory = indexed(base.base, offsets, 4, base.displacement);
            self.all_lanes();
            let code = Code::EVEX_Vscatterdps_vm32z_k1_zmm;
            self.masked_op(code, &[memory.into(), a.into()], Some(MASK));
            return Ok(());
        }
        if self.width == Width::W256 && access.storage.bits() < 32 {
            return self.narrow_store(a, access);
        }
        let memory = self.place(access)?;
        let code = match access.storage {
            DType::F16 => {
                let code = Code::EVEX_Vcvtps2ph_ymmm256_k1z_zmm_imm8_sae;
                // Rounds to nearest even.
                self.masked_op(code, &[memory.into(), a.into(), 0.into()], mask);
                return Ok(());
            }
            DType::I16 | DType::U16 => Code::EVEX_Vpmovdw_ymmm256_k1z_zmm,
            DType::I8 | DType::U8 | DType::Bool => Code::EVEX_Vpmovdb_xmmm128_k1z_zmm,
            _ => moves(self.width)[1],
        };
        self.masked_op(code, &[memory.into(), a.into()], mask);
        Ok(())
    }
}
