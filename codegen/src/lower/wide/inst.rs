//! Instructions of vector programs, one by one.

use iced_x86::{Code, MemoryOperand, Register};

use super::asm::Arg;
use super::codes::{self, Fma, moves, pick};
use super::emit::{Emission, SCRATCH, TAIL, as_reg};
use super::lir::{Binary, Compare, Inst, LoopId, Reg, Src};
use super::{WideError, Width};

/// The mask register of comparisons and gathers.
pub(super) const MASK: Register = Register::K1;

impl Emission<'_> {
    fn no_register<T>() -> Result<T, WideError> {
        Err(WideError::Unsupported("instructions of that many operands".to_owned()))
    }

    pub fn temporary(&mut self) -> Result<Register, WideError> {
        let register = self.registers.temporary(self.position);
        self.settle();
        register.map_or_else(Self::no_register, |r| Ok(self.vector(r)))
    }

    /// An operand in a register.
    pub fn register(&mut self, src: Src) -> Result<Register, WideError> {
        match src {
            Src::Reg(reg) => {
                let register = self.registers.read(reg, self.position);
                self.settle();
                register.map_or_else(Self::no_register, |r| Ok(self.vector(r)))
            }
            Src::Bits(bits) => {
                let register = self.temporary()?;
                self.fill(register, bits);
                Ok(register)
            }
            Src::Param(param) => {
                let register = self.temporary()?;
                let splat = self.splat_code();
                self.asm.op2(splat, register, Self::word(param));
                Ok(register)
            }
        }
    }

    /// An operand in a register or, where that saves one, in memory.
    pub fn operand(&mut self, src: Src) -> Result<Arg, WideError> {
        Ok(match (src, self.width) {
            (Src::Bits(bits), _) if bits != 0 => Arg::Mem(self.constant(bits)),
            (Src::Param(param), Width::W512) => {
                let word = Self::word(param);
                let size = u32::from(word.displacement != 0);
                let (none, repeat) = (Register::None, true);
                Arg::Mem(MemoryOperand::new(word.base, none, 1, word.displacement, size, repeat, none))
            }
            _ => Arg::Reg(self.register(src)?),
        })
    }

    /// The result's register, which may be that of an operand that dies.
    fn result(&mut self, inst: &Inst, dst: Reg) -> Result<Register, WideError> {
        self.registers.release(inst, self.position);
        self.fresh(dst)
    }

    /// The result's register, apart from all operands.
    pub fn fresh(&mut self, dst: Reg) -> Result<Register, WideError> {
        let register = self.registers.define(dst, self.position);
        self.settle();
        register.map_or_else(Self::no_register, |r| Ok(self.vector(r)))
    }

    fn copy(&mut self, to: Register, from: impl Into<Arg>) {
        let [_, _, copy] = moves(self.width);
        self.asm.op2(copy, to, from);
    }

    pub fn inst(&mut self, inst: &Inst) -> Result<(), WideError> {
        let fused = self.fused.take();
        match inst {
            Inst::Move { dst, a } => {
                let a = self.register(*a)?;
                let dst = self.result(inst, *dst)?;
                if dst != a {
                    self.copy(dst, a);
                }
            }
            Inst::Binary { op: Binary::Ratio, dst, a, b } => self.ratio(inst, *dst, *a, *b)?,
            Inst::Binary { op, dst, a, b } => {
                let (a, b) = (self.register(*a)?, self.operand(*b)?);
                let dst = self.result(inst, *dst)?;
                let code = codes::binary(self.width, *op);
                match op {
                    // The smaller magnitude, with the first operand's sign.
                    Binary::Bound => {
                        self.asm.op(code, &[dst.into(), a.into(), b, 2.into()]);
                    }
                    _ => self.asm.op3(code, dst, a, b),
                }
            }
            Inst::Unary { op, dst, a } => {
                let a = self.operand(*a)?;
                let dst = self.result(inst, *dst)?;
                match codes::unary(self.width, *op) {
                    (code, Some(mode)) => self.asm.op3(code, dst, a, mode),
                    (code, None) => self.asm.op2(code, dst, a),
                }
            }
            Inst::Shift { op, dst, a, bits } => {
                let a = self.register(*a)?;
                let dst = self.result(inst, *dst)?;
                self.asm.op3(codes::shift(self.width, *op), dst, a, i32::from(*bits));
            }
            Inst::MulAdd { dst, args } => self.mul_add(inst, *dst, *args)?,
            Inst::Compare { op, dst, a, b } => self.compare(inst, *op, *dst, [*a, *b])?,
            Inst::Select { dst, mask, a, b } => {
                self.select(inst, *dst, [*mask, *a, *b], fused.is_some() && fused == as_reg(*mask))?;
            }
            Inst::Lookup { dst, index, table } => {
                let index = self.register(*index)?;
                let dst = self.fresh(*dst)?;
                self.lookup(dst, index, table);
            }
            Inst::Load { dst, at, guard } => self.load(*dst, at, *guard)?,
            Inst::Store { a, at } => {
                let a = self.register(*a)?;
                self.store(a, at)?;
            }
            Inst::Prefetch { at, ahead } => self.prefetch(at, *ahead)?,
            Inst::Keep { param, a } => {
                let a = self.register(*a)?;
                self.keep(*param, a);
            }
            Inst::Accumulate { op, accumulator, a } => {
                let a = self.register(*a)?;
                let into = self.current_accumulator(*accumulator);
                let spare = self.temporary()?;
                self.accumulate(*op, into, a, spare);
            }
            Inst::Begin { id, count, carried } => self.begin_loop(*id, *count, carried)?,
            Inst::Assign { carried, a } => {
                let a = self.register(*a)?;
                let register = self.register(Src::Reg(*carried))?;
                self.copy(register, a);
            }
            Inst::End { id, carried } => self.end_loop(*id, carried),
        }
        if matches!(inst, Inst::Compare { .. }) {
            return Ok(());
        }
        self.registers.release(inst, self.position);
        Ok(())
    }

    /// Opens a loop whose carried registers stay where they are.
    fn begin_loop(&mut self, id: LoopId, count: i32, carried: &[(Reg, Src)]) -> Result<(), WideError> {
        self.registers.flush(self.position);
        self.settle();
        for (reg, init) in carried {
            let init = self.register(*init)?;
            let register = self.fresh(*reg)?;
            self.copy(register, init);
            self.registers.pin(*reg);
            self.registers.finish();
        }
        self.registers.flush(self.position + 1);
        self.settle();
        self.asm.op2(Code::Mov_rm64_imm32, self.counter(id), 0);
        let label = self.asm.here();
        self.labels.push((id, label));
        self.guard = None;
        debug_assert!(count > 0);
        Ok(())
    }

    /// Writes the first lane to a parameter.
    pub fn keep(&mut self, param: super::lir::Param, a: Register) {
        self.first_lane(Self::word(param), a);
    }

    /// Writes the first lane.
    pub fn first_lane(&mut self, place: MemoryOperand, a: Register) {
        let store = pick(self.width, Code::VEX_Vmovss_m32_xmm, Code::EVEX_Vmovss_m32_k1_xmm);
        self.asm.op2(store, place, super::asm::vector(16, a.number()));
    }

    fn end_loop(&mut self, id: super::lir::LoopId, carried: &[Reg]) {
        self.guard = None;
        self.registers.flush(self.position + 1);
        self.settle();
        let count = self.order.iter().find_map(|(_, i)| match i {
            Inst::Begin { id: own, count, .. } if *own == id => Some(*count),
            _ => None,
        });
        let label = self.labels.iter().rposition(|l| l.0 == id).map(|i| self.labels.remove(i).1);
        if let Some((count, label)) = count.zip(label) {
            let counter = self.counter(id);
            self.asm.op2(Code::Mov_r64_rm64, SCRATCH[0], counter);
            self.asm.op1(Code::Inc_rm64, SCRATCH[0]);
            self.asm.op2(Code::Mov_rm64_r64, counter, SCRATCH[0]);
            self.asm.op2(Code::Cmp_rm64_imm32, SCRATCH[0], count);
            self.asm.jump(Code::Jl_rel32_64, label);
        }
        for &reg in carried {
            self.registers.unpin(reg);
        }
    }

    /// A quotient by Newton's iteration on the reciprocal. An estimate to 14 bits of the reciprocal of infinity is 0, and
    /// that of large divisors is subnormal, where the iteration fails: the mask leaves both out.
    fn ratio(&mut self, inst: &Inst, dst: Reg, a: Src, b: Src) -> Result<(), WideError> {
        let (ra, rb) = (self.register(a)?, self.register(b)?);
        let (estimate, error) = (self.temporary()?, self.temporary()?);
        let code = codes::binary(self.width, Binary::Ratio);
        self.asm.op2(code, estimate, rb);
        self.fill(error, 1.0f32.to_bits());
        self.asm.op3(Code::EVEX_Vfnmadd231ps_zmm_k1z_zmm_zmmm512b32_er, error, rb, estimate);
        let limit = self.constant(2f32.powi(126).to_bits());
        // Not greater or equal, without signals: NaN counts.
        let compare = Code::EVEX_Vcmpps_kr_k1_zmm_zmmm512b32_imm8_sae;
        self.asm.op(compare, &[MASK.into(), rb.into(), limit.into(), 0x19.into()]);
        let code = codes::fma(self.width, Fma::F213);
        self.zeroed_op(code, &[error.into(), estimate.into(), estimate.into()], Some(MASK));
        let dst = self.result(inst, dst)?;
        self.asm.op3(codes::binary(self.width, Binary::MulF), dst, ra, error);
        Ok(())
    }

    /// Entries of a table of two vectors, in a register apart from the index.
    fn lookup(&mut self, dst: Register, index: Register, table: &[u32; 32]) {
        let (low, high) = table.split_at(16);
        self.pooled(dst, low);
        let high = self.pool(high);
        self.asm.op3(Code::EVEX_Vpermt2ps_zmm_k1z_zmm_zmmm512b32, dst, index, high);
    }

    /// `a * b + c` in the form that overwrites what is not needed any more.
    fn mul_add(&mut self, inst: &Inst, dst: Reg, [a, b, c]: [Src; 3]) -> Result<(), WideError> {
        let in_memory = |src: Src| match src {
            Src::Reg(_) => false,
            Src::Bits(bits) => bits != 0,
            Src::Param(_) => self.width == Width::W512,
        };
        // One operand may be in memory; a factor in memory is the second.
        let (a, b) = if in_memory(a) { (b, a) } else { (a, b) };
        let c_in_memory = in_memory(c) && !in_memory(b);
        let dies = |src: Src| as_reg(src).is_none_or(|r| self.registers.dies(r, self.position));
        // A value used twice in the instruction is not overwritten before it is read.
        let alone = |x: Src, others: [Src; 2]| dies(x) && !others.contains(&x);
        let (keep_a, keep_b, keep_c) = (!alone(a, [b, c]), !alone(b, [a, c]), !alone(c, [a, b]));
        let b_in_memory = in_memory(b);
        let ra = self.register(a)?;
        let ob = if b_in_memory { self.operand(b)? } else { Arg::Reg(self.register(b)?) };
        let oc = if c_in_memory { self.operand(c)? } else { Arg::Reg(self.register(c)?) };
        let (over, form, args) = match (ob, oc) {
            (_, Arg::Reg(rc)) if !keep_c => (Some(rc), Fma::F231, (Arg::Reg(ra), ob)),
            (Arg::Reg(rb), _) if !keep_a => (Some(ra), Fma::F213, (Arg::Reg(rb), oc)),
            (Arg::Reg(rb), _) if !keep_b => (Some(rb), Fma::F213, (Arg::Reg(ra), oc)),
            (_, Arg::Reg(rc)) if !keep_a => (Some(ra), Fma::F132, (Arg::Reg(rc), ob)),
            (_, Arg::Reg(_)) => (None, Fma::F231, (Arg::Reg(ra), ob)),
            (_, _) => (None, Fma::F213, (ob, oc)),
        };
        let code = codes::fma(self.width, form);
        let into = match over {
            // A dying value or a temporary hands its register over.
            Some(register) => {
                let number = register.number() as u8;
                self.registers.release(inst, self.position);
                self.registers.inherit(dst, number);
                register
            }
            None => {
                let into = self.fresh(dst)?;
                let first = match form {
                    Fma::F231 => oc,
                    Fma::F213 | Fma::F132 => Arg::Reg(ra),
                };
                self.copy(into, first);
                into
            }
        };
        self.asm.op3(code, into, args.0, args.1);
        Ok(())
    }

    fn compare(&mut self, inst: &Inst, op: Compare, dst: Reg, [a, b]: [Src; 2]) -> Result<(), WideError> {
        let (ra, ob) = (self.register(a)?, self.operand(b)?);
        // Predicates of CMPPS that do not signal.
        let predicate = match op {
            Compare::EqF => Some(0),
            Compare::NeF => Some(4),
            Compare::LtF => Some(0x11),
            Compare::LeF => Some(0x12),
            Compare::Unordered => Some(3),
            Compare::EqI | Compare::GtI => None,
        };
        let equal = op == Compare::EqI;
        if self.width == Width::W256 {
            let dst = self.result(inst, dst)?;
            let code =
                if equal { Code::VEX_Vpcmpeqd_ymm_ymm_ymmm256 } else { Code::VEX_Vpcmpgtd_ymm_ymm_ymmm256 };
            match predicate {
                Some(p) => {
                    self.asm
                        .op(Code::VEX_Vcmpps_ymm_ymm_ymmm256_imm8, &[dst.into(), ra.into(), ob, p.into()]);
                }
                None => self.asm.op3(code, dst, ra, ob),
            }
            return Ok(());
        }
        let code = if equal {
            Code::EVEX_Vpcmpeqd_kr_k1_zmm_zmmm512b32
        } else {
            Code::EVEX_Vpcmpgtd_kr_k1_zmm_zmmm512b32
        };
        match predicate {
            Some(p) => {
                let code = Code::EVEX_Vcmpps_kr_k1_zmm_zmmm512b32_imm8_sae;
                self.asm.op(code, &[MASK.into(), ra.into(), ob, p.into()]);
            }
            None => self.asm.op3(code, MASK, ra, ob),
        }
        let next = self.order.get(self.position + 1).map(|(_, inst)| inst);
        let selects = matches!(next, Some(Inst::Select { mask: Src::Reg(m), a, b, .. })
            if *m == dst && as_reg(*a) != Some(dst) && as_reg(*b) != Some(dst));
        if selects && self.registers.used_once(dst) {
            self.registers.release(inst, self.position);
            self.fused = Some(dst);
            return Ok(());
        }
        let dst = self.result(inst, dst)?;
        self.asm.op2(Code::EVEX_Vpmovm2d_zmm_kr, dst, MASK);
        Ok(())
    }

    fn select(
        &mut self,
        inst: &Inst,
        dst: Reg,
        [mask, a, b]: [Src; 3],
        mask_is_set: bool,
    ) -> Result<(), WideError> {
        let (rb, oa) = (self.register(b)?, self.operand(a)?);
        if self.width == Width::W256 {
            let mask = self.register(mask)?;
            let dst = self.result(inst, dst)?;
            let args = [dst.into(), rb.into(), oa, mask.into()];
            self.asm.op(Code::VEX_Vblendvps_ymm_ymm_ymmm256_ymm, &args);
            return Ok(());
        }
        if !mask_is_set {
            let mask = self.register(mask)?;
            self.asm.op2(Code::EVEX_Vpmovd2m_kr_zmm, MASK, mask);
        }
        let dst = self.result(inst, dst)?;
        let blend = self.asm.op(Code::EVEX_Vblendmps_zmm_k1z_zmm_zmmm512b32, &[dst.into(), rb.into(), oa]);
        if let Some(blend) = blend {
            blend.set_op_mask(MASK);
        }
        Ok(())
    }

    /// `into = into op a` in the lanes that exist.
    pub fn accumulate(&mut self, op: Binary, into: Register, a: Register, spare: Register) {
        let mask = if self.masked { Some(TAIL) } else { None };
        let code = codes::binary(self.width, op);
        match op {
            Binary::MinF | Binary::MaxF => {
                // The operation gives the sum so far where either is NaN; a NaN that comes in is copied.
                self.masked_op(code, &[into.into(), a.into(), into.into()], mask);
                match self.width {
                    Width::W512 => {
                        let compare = Code::EVEX_Vcmpps_kr_k1_zmm_zmmm512b32_imm8_sae;
                        self.masked_op(compare, &[MASK.into(), a.into(), a.into(), 3.into()], mask);
                        let copy = Code::EVEX_Vmovaps_zmm_k1z_zmmm512;
                        self.masked_op(copy, &[into.into(), a.into()], Some(MASK));
                    }
                    Width::W256 => {
                        let compare = Code::VEX_Vcmpps_ymm_ymm_ymmm256_imm8;
                        self.asm.op(compare, &[spare.into(), a.into(), a.into(), 3.into()]);
                        let blend = Code::VEX_Vblendvps_ymm_ymm_ymmm256_ymm;
                        self.asm.op(blend, &[into.into(), into.into(), a.into(), spare.into()]);
                    }
                }
            }
            _ => self.masked_op(code, &[into.into(), into.into(), a.into()], mask),
        }
    }

    /// An instruction under a mask; lanes outside keep what they are (in memory: are not touched).
    pub fn masked_op(&mut self, code: Code, args: &[Arg], mask: Option<Register>) {
        if let (Some(instruction), Some(mask)) = (self.asm.op(code, args), mask) {
            instruction.set_op_mask(mask);
        }
    }

    /// An instruction under a mask; lanes outside become 0.
    pub fn zeroed_op(&mut self, code: Code, args: &[Arg], mask: Option<Register>) {
        if let (Some(instruction), Some(mask)) = (self.asm.op(code, args), mask) {
            instruction.set_op_mask(mask);
            instruction.set_zeroing_masking(true);
        }
    }

    /// The constant 1 in every bit of a mask register of comparisons.
    pub fn all_lanes(&mut self) {
        match self.masked {
            true => self.asm.op2(Code::VEX_Kmovw_kr_km16, MASK, TAIL),
            false => self.asm.op3(Code::VEX_Kxnorw_kr_kr_kr, MASK, MASK, MASK),
        }
    }

    /// The code of one of two widths.
    pub fn either(&self, w256: Code, w512: Code) -> Code {
        pick(self.width, w256, w512)
    }
}
