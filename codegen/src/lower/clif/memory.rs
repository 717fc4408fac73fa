//! Loads and stores: storage dtypes to and from registers, contiguous, strided, guarded.
//!
//! In registers: floats below 64 bits are `F32`; integers up to 32 bits are sign- or zero-extended to `I32` (so is a
//! packed integer); bool is `I8` 0 or 1 as a scalar and an all-ones mask as a lane.

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{InstBuilder, Type, Value, types};
use kiln_ir::{DClass, DType, Scalar};
use smallvec::SmallVec;

use super::emit::{Emitter, LANES, Repr, Result, flags};
use crate::kir::{BufferId, Guard, Ix, Linear, Val, Var, compute_dtype};

/// Machine type of a scalar of a compute dtype.
pub(super) fn scalar_type(dtype: DType) -> Type {
    match dtype {
        DType::F32 => types::F32,
        DType::F64 => types::F64,
        DType::Bool => types::I8,
        DType::I64 | DType::U64 => types::I64,
        _ => types::I32,
    }
}

/// Machine type of [`LANES`] lanes of a compute dtype of up to 32 bits.
pub(super) fn vector_type(dtype: DType) -> Type {
    if dtype == DType::F32 { types::F32X4 } else { types::I32X4 }
}

/// Whether values of the compute dtype can live in lanes.
pub(super) fn in_lanes(dtype: DType) -> bool {
    dtype.bits() <= 32
}

/// Whether elements of the storage dtype can be loaded to and stored from lanes.
pub(super) fn lane_storage(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F16 | DType::BF16 | DType::Bool)
        || (dtype.is_int() && (8..=32).contains(&dtype.bits()))
}

pub(super) fn is_signed(dtype: DType) -> bool {
    dtype.class() == DClass::Signed
}

impl Emitter<'_> {
    /// A uniform value in every lane of one vector.
    pub fn splat(&mut self, value: Value, dtype: DType) -> Value {
        if dtype == DType::Bool {
            let wide = self.b.ins().uextend(types::I32, value);
            let mask = self.b.ins().ineg(wide);
            return self.b.ins().splat(types::I32X4, mask);
        }
        self.b.ins().splat(vector_type(dtype), value)
    }

    /// A literal of a compute dtype.
    pub fn literal(&mut self, dtype: DType, value: &Scalar) -> Value {
        match (value, dtype) {
            (Scalar::F(x), DType::F64) => self.b.ins().f64const(*x),
            (Scalar::F(x), _) => self.b.ins().f32const(*x as f32),
            (Scalar::B(x), _) => self.b.ins().iconst(types::I8, i64::from(*x)),
            (Scalar::I(x), DType::I64 | DType::U64) => self.b.ins().iconst(types::I64, *x as u64 as i64),
            (Scalar::I(x), _) => self.b.ins().iconst(types::I32, i64::from(*x as u32)),
        }
    }

    /// One element at an address, in its compute dtype.
    pub fn load_scalar(&mut self, storage: DType, address: Value, offset: i32) -> Result<Value> {
        Ok(match storage {
            DType::F32 => self.b.ins().load(types::F32, flags(), address, offset),
            DType::F64 => self.b.ins().load(types::F64, flags(), address, offset),
            DType::I64 | DType::U64 => self.b.ins().load(types::I64, flags(), address, offset),
            DType::I32 | DType::U32 => self.b.ins().load(types::I32, flags(), address, offset),
            DType::I16 => self.b.ins().sload16(types::I32, flags(), address, offset),
            DType::U16 => self.b.ins().uload16(types::I32, flags(), address, offset),
            DType::I8 => self.b.ins().sload8(types::I32, flags(), address, offset),
            DType::U8 => self.b.ins().uload8(types::I32, flags(), address, offset),
            DType::Bool => {
                let byte = self.b.ins().load(types::I8, flags(), address, offset);
                self.b.ins().icmp_imm_u(IntCC::NotEqual, byte, 0)
            }
            DType::F16 => {
                let bits = self.b.ins().uload16(types::I32, flags(), address, offset);
                self.f16_to_f32(bits)
            }
            DType::BF16 => {
                let bits = self.b.ins().uload16(types::I32, flags(), address, offset);
                self.bf16_to_f32(bits)
            }
            other => return self.unsupported(format!("loads of {other}")),
        })
    }

    /// [`LANES`] contiguous elements at an address.
    pub fn load_group(&mut self, storage: DType, address: Value, offset: i32) -> Result<Value> {
        Ok(match storage {
            DType::F32 => self.b.ins().load(types::F32X4, flags(), address, offset),
            DType::I32 | DType::U32 => self.b.ins().load(types::I32X4, flags(), address, offset),
            DType::I16 => self.b.ins().sload16x4(flags(), address, offset),
            DType::U16 => self.b.ins().uload16x4(flags(), address, offset),
            DType::I8 | DType::U8 | DType::Bool => {
                let word = self.b.ins().load(types::I32, flags(), address, offset);
                let vector = self.b.ins().scalar_to_vector(types::I32X4, word);
                let bytes = self.recast(types::I8X16, vector);
                if storage == DType::I8 {
                    let half = self.b.ins().swiden_low(bytes);
                    self.b.ins().swiden_low(half)
                } else {
                    let half = self.b.ins().uwiden_low(bytes);
                    let wide = self.b.ins().uwiden_low(half);
                    if storage == DType::Bool { self.not_zero(wide) } else { wide }
                }
            }
            DType::F16 => {
                let bits = self.b.ins().uload16x4(flags(), address, offset);
                self.f16_to_f32(bits)
            }
            DType::BF16 => {
                let bits = self.b.ins().uload16x4(flags(), address, offset);
                self.bf16_to_f32(bits)
            }
            other => return self.unsupported(format!("vector loads of {other}")),
        })
    }

    fn not_zero(&mut self, vector: Value) -> Value {
        let zero = self.iconst(types::I32X4, 0);
        self.b.ins().icmp(IntCC::NotEqual, vector, zero)
    }

    /// Writes one element.
    pub fn store_scalar(&mut self, storage: DType, value: Value, address: Value, offset: i32) -> Result<()> {
        match storage {
            DType::F32 | DType::F64 | DType::I64 | DType::U64 | DType::I32 | DType::U32 | DType::Bool => {
                self.b.ins().store(flags(), value, address, offset);
            }
            DType::I16 | DType::U16 => {
                self.b.ins().istore16(flags(), value, address, offset);
            }
            DType::I8 | DType::U8 => {
                self.b.ins().istore8(flags(), value, address, offset);
            }
            DType::F16 => {
                let bits = self.f32_to_f16(value);
                self.b.ins().istore16(flags(), bits, address, offset);
            }
            DType::BF16 => {
                let bits = self.f32_to_bf16(value);
                self.b.ins().istore16(flags(), bits, address, offset);
            }
            other => return self.unsupported(format!("stores of {other}")),
        }
        Ok(())
    }

    /// Writes [`LANES`] contiguous elements.
    pub fn store_group(&mut self, storage: DType, value: Value, address: Value, offset: i32) -> Result<()> {
        let words = match storage {
            DType::F32 | DType::I32 | DType::U32 => {
                self.b.ins().store(flags(), value, address, offset);
                return Ok(());
            }
            DType::F16 => self.f32_to_f16(value),
            DType::BF16 => self.f32_to_bf16(value),
            DType::Bool => {
                let one = self.iconst(types::I32X4, 1);
                self.b.ins().band(value, one)
            }
            DType::I16 | DType::U16 => {
                let mask = self.iconst(types::I32X4, 0xffff);
                self.b.ins().band(value, mask)
            }
            DType::I8 | DType::U8 => {
                let mask = self.iconst(types::I32X4, 0xff);
                self.b.ins().band(value, mask)
            }
            other => return self.unsupported(format!("vector stores of {other}")),
        };
        // The words are below 2^16 (2^8), so that the saturating narrowing keeps them.
        let halves = self.b.ins().unarrow(words, words);
        if storage.bits() == 16 {
            let pairs = self.recast(types::I64X2, halves);
            let low = self.b.ins().extractlane(pairs, 0);
            self.b.ins().store(flags(), low, address, offset);
        } else {
            let bytes = self.b.ins().unarrow(halves, halves);
            let quads = self.recast(types::I32X4, bytes);
            let low = self.b.ins().extractlane(quads, 0);
            self.b.ins().store(flags(), low, address, offset);
        }
        Ok(())
    }

    /// The low 16 bits as a bfloat16.
    fn bf16_to_f32(&mut self, bits: Value) -> Value {
        let shifted = self.shl(bits, 16);
        self.as_float(shifted)
    }

    /// The low 16 bits as a binary16; exact.
    fn f16_to_f32(&mut self, bits: Value) -> Value {
        let ty = self.type_of(bits);
        let magnitude = self.mask(bits, 0x7fff);
        let shifted = self.shl(magnitude, 13);
        let scaled = self.as_float(shifted);
        // Rebias by 2^(127 - 15), which also normalizes subnormals.
        let factor = self.fconst(float_of(ty), f32::from_bits((254 - 15) << 23));
        let rebiased = self.b.ins().fmul(scaled, factor);
        let rebiased = self.as_int(rebiased);
        // Infinities and NaN: all exponent bits.
        let limit = self.iconst(ty, 0x7bff);
        let special = self.b.ins().icmp(IntCC::SignedGreaterThan, magnitude, limit);
        let exponent = self.iconst(ty, 0x7f80_0000);
        let filled = self.b.ins().bor(rebiased, exponent);
        let magnitude = self.choose(special, filled, rebiased);
        let sign = self.mask(bits, 0x8000);
        let sign = self.shl(sign, 16);
        let result = self.b.ins().bor(magnitude, sign);
        self.as_float(result)
    }

    /// The nearest bfloat16, ties to even, in the low 16 bits; NaN stays NaN.
    fn f32_to_bf16(&mut self, value: Value) -> Value {
        let bits = self.as_int(value);
        let ty = self.type_of(bits);
        let odd = self.ushr(bits, 16);
        let odd = self.mask(odd, 1);
        let bias = self.iconst(ty, 0x7fff);
        let sum = self.b.ins().iadd(bits, bias);
        let sum = self.b.ins().iadd(sum, odd);
        let rounded = self.ushr(sum, 16);
        let quiet = self.iconst(ty, 0x0040_0000);
        let nan = self.b.ins().bor(bits, quiet);
        let nan = self.ushr(nan, 16);
        let is_nan = self.b.ins().fcmp(FloatCC::Unordered, value, value);
        self.choose(is_nan, nan, rounded)
    }

    /// The nearest binary16, ties to even, in the low 16 bits; NaN stays NaN.
    fn f32_to_f16(&mut self, value: Value) -> Value {
        let bits = self.as_int(value);
        let ty = self.type_of(bits);
        let magnitude = self.mask(bits, 0x7fff_ffff);
        let sign = self.b.ins().bxor(bits, magnitude);
        let sign = self.ushr(sign, 16);
        // Normal results: rebias the exponent, round at bit 13.
        let odd = self.ushr(magnitude, 13);
        let odd = self.mask(odd, 1);
        let rebias = self.iconst(ty, ((15 - 127) << 23) + 0xfff);
        let normal = self.b.ins().iadd(magnitude, rebias);
        let normal = self.b.ins().iadd(normal, odd);
        let normal = self.ushr(normal, 13);
        // Subnormal results: adding 0.5 leaves the rounded bits at the bottom of the fraction.
        let half = self.fconst(float_of(ty), 0.5);
        let float = self.as_float(magnitude);
        let sum = self.b.ins().fadd(float, half);
        let sum = self.as_int(sum);
        let half_bits = self.iconst(ty, 0x3f00_0000);
        let subnormal = self.b.ins().isub(sum, half_bits);
        let smallest = self.iconst(ty, 113 << 23);
        let is_small = self.b.ins().icmp(IntCC::SignedLessThan, magnitude, smallest);
        let finite = self.choose(is_small, subnormal, normal);
        // Too large, infinite, NaN.
        let overflow = self.iconst(ty, (127 + 16) << 23);
        let is_big = self.b.ins().icmp(IntCC::SignedGreaterThanOrEqual, magnitude, overflow);
        let infinity = self.iconst(ty, 0x7f80_0000);
        let is_nan = self.b.ins().icmp(IntCC::SignedGreaterThan, magnitude, infinity);
        let (inf16, nan16) = (self.iconst(ty, 0x7c00), self.iconst(ty, 0x7e00));
        let special = self.choose(is_nan, nan16, inf16);
        let result = self.choose(is_big, special, finite);
        self.b.ins().bor(result, sign)
    }

    /// The coefficient and rest of an index in the variable of the open vectorized loop.
    fn linear_in_loop(&self, var: Var, index: &Ix) -> Option<Linear> {
        index.linear(var, &|v| matches!(self.vals.get(v.index()), Some(Some(Repr::Lanes(_)))))
    }

    /// Whether any lane-dependent thing occurs in the expression.
    pub fn varies(&self, var: Var, ix: &Ix) -> bool {
        ix.any_leaf(&|leaf| match leaf {
            Ix::Var(v) => *v == var,
            Ix::Scalar(s) => matches!(self.vals.get(s.index()), Some(Some(Repr::Lanes(_)))),
            _ => false,
        })
    }

    /// Lowers a load operation.
    pub fn load_op(&mut self, buffer: BufferId, index: &Ix, guard: Option<&Guard>) -> Result<Repr> {
        let storage = self.kernel.buffers[buffer.index()].dtype;
        let Some(mode) = self.mode else {
            return self.guarded_scalar(buffer, index, guard).map(Repr::Uniform);
        };
        let guard_varies = guard.is_some_and(|g| {
            g.bounds
                .iter()
                .any(|b| [&b.index, &b.lower, &b.upper].into_iter().any(|ix| self.varies(mode.var, ix)))
        });
        if !self.varies(mode.var, index) && !guard_varies {
            return self.guarded_scalar(buffer, index, guard).map(Repr::Uniform);
        }
        let linear = self.linear_in_loop(mode.var, index);
        let contiguous = linear.as_ref().is_some_and(|l| l.coefficient == Ix::Const(1));
        if !contiguous || guard_varies || !lane_storage(storage) {
            return self.gather(buffer, index, guard);
        }
        let bytes = (storage.bits() / 8) as i64;
        let address = self.lane_address(buffer, linear.as_ref(), bytes)?;
        let cond = guard.map(|guard| self.guard_holds(guard)).transpose()?;
        let mut lanes = SmallVec::new();
        for group in 0..mode.groups {
            let offset = (group * LANES) as i64 * bytes;
            let Some((cond, guard)) = cond.zip(guard) else {
                lanes.push(self.load_group(storage, address, offset as i32)?);
                continue;
            };
            // Outside the bounds, read the first group: every buffer has readable bytes at its base.
            let moved = self.b.ins().iadd_imm_s(address, offset);
            let at = self.b.ins().select(cond, moved, self.bases[buffer.index()]);
            let value = self.load_group(storage, at, 0)?;
            let dtype = compute_dtype(storage).unwrap_or(storage);
            let otherwise = self.literal(dtype, &guard.otherwise);
            let otherwise = self.splat(otherwise, dtype);
            lanes.push(self.b.ins().select(cond, value, otherwise));
        }
        Ok(Repr::Lanes(lanes))
    }

    /// Address of the first lane of a contiguous access: the loop-invariant part first, so that it can be hoisted.
    fn lane_address(&mut self, buffer: BufferId, linear: Option<&Linear>, bytes: i64) -> Result<Value> {
        let Some((linear, mode)) = linear.zip(self.mode) else {
            return self.unsupported("a vector access without a loop");
        };
        let rest = self.ix(&linear.rest)?;
        let invariant = self.address(buffer, rest, bytes);
        let Some(first) = self.vars[mode.var.index()] else {
            return self.unsupported("a vector access outside its loop");
        };
        let offset = self.scaled(first, bytes);
        Ok(self.b.ins().iadd(invariant, offset))
    }

    /// Whether all bounds of a guard hold.
    pub fn guard_holds(&mut self, guard: &Guard) -> Result<Value> {
        let mut all: Option<Value> = None;
        for bound in &guard.bounds {
            let (index, upper) = (self.ix(&bound.index)?, self.ix(&bound.upper)?);
            let within = if bound.lower == Ix::Const(0) {
                // 0 <= i < n is one unsigned comparison, provided that n is not negative.
                let below = self.b.ins().icmp(IntCC::UnsignedLessThan, index, upper);
                match bound.upper.as_const() {
                    Some(c) if c >= 0 => below,
                    _ => {
                        let some = self.b.ins().icmp_imm_s(IntCC::SignedGreaterThan, upper, 0);
                        self.b.ins().band(below, some)
                    }
                }
            } else {
                let lower = self.ix(&bound.lower)?;
                let above = self.b.ins().icmp(IntCC::SignedGreaterThanOrEqual, index, lower);
                let below = self.b.ins().icmp(IntCC::SignedLessThan, index, upper);
                self.b.ins().band(above, below)
            };
            all = Some(match all {
                Some(other) => self.b.ins().band(other, within),
                None => within,
            });
        }
        match all {
            Some(cond) => Ok(cond),
            None => self.unsupported("a guard without bounds"),
        }
    }

    fn guarded_scalar(&mut self, buffer: BufferId, index: &Ix, guard: Option<&Guard>) -> Result<Value> {
        let storage = self.kernel.buffers[buffer.index()].dtype;
        let mut at = self.ix(index)?;
        let Some(guard) = guard else { return self.element(buffer, storage, at) };
        let cond = self.guard_holds(guard)?;
        // Outside the bounds, read the first element: every buffer has readable bytes at its base.
        let zero = self.i64(0);
        at = self.b.ins().select(cond, at, zero);
        let value = self.element(buffer, storage, at)?;
        let dtype = compute_dtype(storage).unwrap_or(storage);
        let otherwise = self.literal(dtype, &guard.otherwise);
        Ok(self.b.ins().select(cond, value, otherwise))
    }

    /// One element by index.
    fn element(&mut self, buffer: BufferId, storage: DType, index: Value) -> Result<Value> {
        if !storage.is_packed() {
            let address = self.address(buffer, index, (storage.bits() / 8) as i64);
            return self.load_scalar(storage, address, 0);
        }
        if !storage.is_int() {
            return self.unsupported(format!("loads of {storage}"));
        }
        let bits = storage.bits() as i64;
        let per_byte_log2 = i64::from((8 / bits as u32).trailing_zeros());
        let byte = self.b.ins().sshr_imm_u(index, per_byte_log2);
        let address = self.b.ins().iadd(self.bases[buffer.index()], byte);
        let word = self.b.ins().uload8(types::I32, flags(), address, 0);
        let lane = self.b.ins().band_imm_s(index, (1 << per_byte_log2) - 1);
        let lane = self.b.ins().ireduce(types::I32, lane);
        // Move the element to the top of the word, then back down with or without its sign.
        let shift = self.b.ins().imul_imm_s(lane, bits);
        let low = self.b.ins().ushr(word, shift);
        let top = self.b.ins().ishl_imm_u(low, 32 - bits);
        Ok(if is_signed(storage) {
            self.b.ins().sshr_imm_u(top, 32 - bits)
        } else {
            self.b.ins().ushr_imm_u(top, 32 - bits)
        })
    }

    /// Lane by lane: strided and guarded accesses.
    fn gather(&mut self, buffer: BufferId, index: &Ix, guard: Option<&Guard>) -> Result<Repr> {
        let storage = self.kernel.buffers[buffer.index()].dtype;
        let dtype = compute_dtype(storage).unwrap_or(storage);
        self.per_lane(dtype, |s, _| s.guarded_scalar(buffer, index, guard)).map(Repr::Lanes)
    }

    /// Runs `f` once per lane with the loop variable set to the lane's value, and collects scalars into vectors.
    pub fn per_lane(
        &mut self,
        dtype: DType,
        mut f: impl FnMut(&mut Self, usize) -> Result<Value>,
    ) -> Result<SmallVec<[Value; 4]>> {
        let Some(mode) = self.mode.take() else { return self.unsupported("lanes outside a vectorized loop") };
        let first = self.vars[mode.var.index()];
        let mut groups = SmallVec::new();
        for group in 0..mode.groups {
            let mut scalars: SmallVec<[Value; LANES]> = SmallVec::new();
            for lane in 0..LANES {
                let number = group * LANES + lane;
                self.vars[mode.var.index()] = first.map(|v| self.b.ins().iadd_imm_s(v, number as i64));
                scalars.push(f(self, number)?);
            }
            groups.push(self.join(dtype, &scalars));
        }
        self.vars[mode.var.index()] = first;
        self.mode = Some(mode);
        Ok(groups)
    }

    /// A vector of four scalars.
    pub fn join(&mut self, dtype: DType, scalars: &[Value]) -> Value {
        let mut vector = self.splat(scalars[0], dtype);
        for (lane, &scalar) in scalars.iter().enumerate().skip(1) {
            let scalar = if dtype == DType::Bool {
                let wide = self.b.ins().uextend(types::I32, scalar);
                self.b.ins().ineg(wide)
            } else {
                scalar
            };
            vector = self.b.ins().insertlane(vector, scalar, lane as u8);
        }
        vector
    }

    /// One lane as a scalar.
    pub fn lane(&mut self, dtype: DType, vector: Value, lane: usize) -> Value {
        let scalar = self.b.ins().extractlane(vector, lane as u8);
        if dtype == DType::Bool { self.b.ins().icmp_imm_s(IntCC::NotEqual, scalar, 0) } else { scalar }
    }

    /// Lowers a store statement.
    pub fn store_stmt(&mut self, buffer: BufferId, index: &Ix, value: Val) -> Result<()> {
        let storage = self.kernel.buffers[buffer.index()].dtype;
        let dtype = self.kernel.dtype(value);
        let repr = self.val(value)?;
        let bytes = (storage.bits() / 8) as i64;
        let Some(mode) = self.mode else {
            let Repr::Uniform(value) = repr else { return self.unsupported("a scalar store of lanes") };
            let at = self.ix(index)?;
            let address = self.address(buffer, at, bytes);
            return self.store_scalar(storage, value, address, 0);
        };
        let lanes = self.lanes(&repr, dtype, mode.groups);
        let linear = self.linear_in_loop(mode.var, index);
        if linear.as_ref().is_some_and(|l| l.coefficient == Ix::Const(1)) {
            let address = self.lane_address(buffer, linear.as_ref(), bytes)?;
            for (group, &vector) in lanes.iter().enumerate() {
                self.store_group(storage, vector, address, (group * LANES) as i32 * bytes as i32)?;
            }
            return Ok(());
        }
        self.mode = None;
        let first = self.vars[mode.var.index()];
        for (group, &vector) in lanes.iter().enumerate() {
            for lane in 0..LANES {
                let number = (group * LANES + lane) as i64;
                self.vars[mode.var.index()] = first.map(|v| self.b.ins().iadd_imm_s(v, number));
                let scalar = self.lane(dtype, vector, lane);
                let at = self.ix(index)?;
                let address = self.address(buffer, at, bytes);
                self.store_scalar(storage, scalar, address, 0)?;
            }
        }
        self.vars[mode.var.index()] = first;
        self.mode = Some(mode);
        Ok(())
    }
}

fn float_of(int: Type) -> Type {
    if int == types::I32 { types::F32 } else { types::F32X4 }
}
