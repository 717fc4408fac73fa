//! Scalar operations on machine scalars and on vectors of lanes.

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{Endianness, InstBuilder, MemFlagsData, Type, Value, types};
use kiln_ir::{DType, Prim};
use smallvec::SmallVec;

use super::emit::{Emitter, LANES, Repr, Result};
use super::memory::{is_signed, scalar_type, vector_type};
use crate::kir::{Op, Val};

impl Emitter<'_> {
    /// Lowers the operation that defines `dst`.
    pub fn op(&mut self, dst: Val, op: &Op) -> Result<Repr> {
        let dtype = self.kernel.dtype(dst);
        match op {
            Op::Const(value) => Ok(Repr::Uniform(self.literal(dtype, value))),
            Op::Load { buffer, index, guard } => self.load_op(*buffer, index, guard.as_ref()),
            Op::Index(index) => {
                if let Some(mode) = self.mode
                    && self.varies(mode.var, index)
                {
                    return self.unsupported("64-bit indices in lanes");
                }
                self.ix(index).map(Repr::Uniform)
            }
            Op::Apply(prim, operands) => {
                let reprs = operands.iter().map(|&v| self.val(v)).collect::<Result<SmallVec<[Repr; 3]>>>()?;
                let dtypes: SmallVec<[DType; 3]> = operands.iter().map(|&v| self.kernel.dtype(v)).collect();
                self.lanewise(&reprs, &dtypes, |s, args, vector| s.apply(*prim, &dtypes, args, vector))
            }
            Op::Cast(value) => {
                let from = self.kernel.dtype(*value);
                let repr = self.val(*value)?;
                self.lanewise(&[repr], &[from], |s, args, vector| s.cast(from, dtype, args[0], vector))
            }
            Op::Bits(value) => {
                let from = self.kernel.dtype(*value);
                let repr = self.val(*value)?;
                self.lanewise(&[repr], &[from], |s, args, vector| Ok(s.bits(from, dtype, args[0], vector)))
            }
            Op::MulAdd(a, b, c) => {
                let reprs = [self.val(*a)?, self.val(*b)?, self.val(*c)?];
                self.lanewise(&reprs, &[dtype; 3], |s, args, _| Ok(s.mul_add(args[0], args[1], args[2])))
            }
        }
    }

    /// Applies `f` to scalars where all operands are uniform, to each group of lanes otherwise. A uniform condition of
    /// a selection stays a scalar.
    fn lanewise(
        &mut self,
        reprs: &[Repr],
        dtypes: &[DType],
        mut f: impl FnMut(&mut Self, &[Value], bool) -> Result<Value>,
    ) -> Result<Repr> {
        let groups = reprs.iter().find_map(|r| match r {
            Repr::Lanes(lanes) => Some(lanes.len()),
            Repr::Uniform(_) => None,
        });
        let Some(groups) = groups else {
            let args: SmallVec<[Value; 3]> = reprs
                .iter()
                .filter_map(|r| match r {
                    Repr::Uniform(v) => Some(*v),
                    Repr::Lanes(_) => None,
                })
                .collect();
            return f(self, &args, false).map(Repr::Uniform);
        };
        let lanes: SmallVec<[SmallVec<[Value; 4]>; 3]> =
            reprs.iter().zip(dtypes).map(|(r, &d)| self.lanes(r, d, groups)).collect();
        let mut results = SmallVec::new();
        for group in 0..groups {
            let args: SmallVec<[Value; 3]> = lanes.iter().map(|l| l[group]).collect();
            results.push(f(self, &args, true)?);
        }
        Ok(Repr::Lanes(results))
    }

    pub fn type_of(&self, value: Value) -> Type {
        self.b.func.dfg.value_type(value)
    }

    pub fn iconst(&mut self, ty: Type, value: i64) -> Value {
        let lane = ty.lane_type();
        let value = if lane == types::I32 { i64::from(value as u32) } else { value };
        let scalar = self.b.ins().iconst(lane, value);
        if ty.is_vector() { self.b.ins().splat(ty, scalar) } else { scalar }
    }

    pub fn fconst(&mut self, ty: Type, value: f32) -> Value {
        let scalar = self.b.ins().f32const(value);
        if ty.is_vector() { self.b.ins().splat(ty, scalar) } else { scalar }
    }

    pub fn recast(&mut self, ty: Type, value: Value) -> Value {
        if self.type_of(value) == ty {
            return value;
        }
        let flags = MemFlagsData::new().with_endianness(Endianness::Little);
        self.b.ins().bitcast(ty, flags, value)
    }

    /// The bits of a 32-bit float (or vector) as integers.
    pub fn as_int(&mut self, value: Value) -> Value {
        let ty = if self.type_of(value).is_vector() { types::I32X4 } else { types::I32 };
        self.recast(ty, value)
    }

    /// 32-bit integers (or a vector) as the bits of floats.
    pub fn as_float(&mut self, value: Value) -> Value {
        let ty = if self.type_of(value).is_vector() { types::F32X4 } else { types::F32 };
        self.recast(ty, value)
    }

    pub fn shl(&mut self, value: Value, bits: i64) -> Value {
        let amount = self.b.ins().iconst(types::I32, bits);
        self.b.ins().ishl(value, amount)
    }

    pub fn ushr(&mut self, value: Value, bits: i64) -> Value {
        let amount = self.b.ins().iconst(types::I32, bits);
        self.b.ins().ushr(value, amount)
    }

    pub fn sshr(&mut self, value: Value, bits: i64) -> Value {
        let amount = self.b.ins().iconst(types::I32, bits);
        self.b.ins().sshr(value, amount)
    }

    pub fn mask(&mut self, value: Value, bits: i64) -> Value {
        let mask = self.iconst(self.type_of(value), bits);
        self.b.ins().band(value, mask)
    }

    /// `cond ? a : b`, for a scalar condition or a mask of lanes.
    pub fn choose(&mut self, cond: Value, a: Value, b: Value) -> Value {
        if !self.type_of(cond).is_vector() {
            return self.b.ins().select(cond, a, b);
        }
        let cond = self.recast(self.type_of(a), cond);
        self.b.ins().bitselect(cond, a, b)
    }

    /// `a * b + c`, fused where the target has an instruction for it.
    pub fn mul_add(&mut self, a: Value, b: Value, c: Value) -> Value {
        if super::has_fma(self.tier) {
            return self.b.ins().fma(a, b, c);
        }
        let product = self.b.ins().fmul(a, b);
        self.b.ins().fadd(product, c)
    }

    /// Brings an integer result back to its dtype: sign- or zero-extended from its width.
    fn wrap(&mut self, dtype: DType, value: Value) -> Value {
        let bits = dtype.bits() as i64;
        if bits >= 32 {
            return value;
        }
        if is_signed(dtype) {
            let top = self.shl(value, 32 - bits);
            self.sshr(top, 32 - bits)
        } else {
            self.mask(value, (1 << bits) - 1)
        }
    }

    /// A primitive on scalars or on one vector.
    pub fn apply(&mut self, prim: Prim, dtypes: &[DType], args: &[Value], vector: bool) -> Result<Value> {
        let dtype = dtypes[dtypes.len() - 1];
        match (prim, args) {
            (Prim::Select, &[c, a, b]) => Ok(self.choose(c, a, b)),
            (_, _) if dtype.is_float() => self.float_prim(prim, dtype, args, vector),
            (_, _) if dtype == DType::Bool => self.bool_prim(prim, args),
            (_, _) => self.int_prim(prim, dtype, args, vector),
        }
    }

    fn float_prim(&mut self, prim: Prim, dtype: DType, args: &[Value], vector: bool) -> Result<Value> {
        let ins = self.b.ins();
        Ok(match (prim, args) {
            (Prim::Add, &[x, y]) => ins.fadd(x, y),
            (Prim::Sub, &[x, y]) => ins.fsub(x, y),
            (Prim::Mul, &[x, y]) => ins.fmul(x, y),
            (Prim::Div, &[x, y]) => ins.fdiv(x, y),
            (Prim::Min, &[x, y]) => self.float_min_max(x, y, FloatCC::LessThan),
            (Prim::Max, &[x, y]) => self.float_min_max(x, y, FloatCC::GreaterThan),
            (Prim::Neg, &[x]) => ins.fneg(x),
            (Prim::Abs, &[x]) => ins.fabs(x),
            (Prim::Sqrt, &[x]) => ins.sqrt(x),
            (Prim::Floor, &[x]) => ins.floor(x),
            (Prim::Ceil, &[x]) => ins.ceil(x),
            (Prim::Round, &[x]) => ins.nearest(x),
            (Prim::Trunc, &[x]) => ins.trunc(x),
            (Prim::Eq, &[x, y]) => self.compare(FloatCC::Equal, x, y),
            (Prim::Ne, &[x, y]) => self.compare(FloatCC::NotEqual, x, y),
            (Prim::Lt, &[x, y]) => self.compare(FloatCC::LessThan, x, y),
            (Prim::Le, &[x, y]) => self.compare(FloatCC::LessThanOrEqual, x, y),
            (Prim::Gt, &[x, y]) => self.compare(FloatCC::GreaterThan, x, y),
            (Prim::Ge, &[x, y]) => self.compare(FloatCC::GreaterThanOrEqual, x, y),
            (Prim::IsNan, &[x]) => ins.fcmp(FloatCC::Unordered, x, x),
            (Prim::IsInf, &[x]) => {
                let magnitude = ins.fabs(x);
                let infinity = if dtype == DType::F64 {
                    self.b.ins().f64const(f64::INFINITY)
                } else {
                    self.fconst(self.type_of(x), f32::INFINITY)
                };
                self.b.ins().fcmp(FloatCC::Equal, magnitude, infinity)
            }
            (Prim::Exp, &[x]) if dtype == DType::F32 => self.exp(x),
            (Prim::Log, &[x]) if dtype == DType::F32 => self.log(x),
            (Prim::Tanh, &[x]) if dtype == DType::F32 => self.tanh(x),
            (Prim::Erf, &[x]) if dtype == DType::F32 => self.erf(x),
            _ => {
                let name = format!("{}{}", prim.name(), dtype.name());
                return self.scalarized(dtype, dtype, args, vector, |s, args| s.helper(&name, args));
            }
        })
    }

    /// Compares floats. Cranelift 0.135 reads a loaded vector as an operand of `cmpps`, which faults where it is not
    /// aligned: behind a change of type, nothing is a load.
    fn compare(&mut self, condition: FloatCC, x: Value, y: Value) -> Value {
        let [x, y] = [x, y].map(|value| {
            let ty = self.type_of(value);
            if !ty.is_vector() {
                return value;
            }
            let bits = self.recast(ty.as_int(), value);
            self.recast(ty, bits)
        });
        self.b.ins().fcmp(condition, x, y)
    }

    /// Minimum or maximum that gives NaN if either operand is NaN.
    pub fn float_min_max(&mut self, x: Value, y: Value, better: FloatCC) -> Value {
        // `x better y ? x : y` is one instruction and passes a NaN in y on; a NaN in x is passed on by hand unless x is
        // a constant, which the caller's expressions put on either side.
        let (x, y) = if self.is_number(y) { (y, x) } else { (x, y) };
        let cond = match better {
            FloatCC::GreaterThan => self.b.ins().fcmp(FloatCC::LessThan, y, x),
            _ => self.b.ins().fcmp(FloatCC::LessThan, x, y),
        };
        let best = self.choose(cond, x, y);
        if self.is_number(x) {
            return best;
        }
        let ordered = self.b.ins().fcmp(FloatCC::Ordered, x, x);
        self.choose(ordered, best, x)
    }

    /// Whether the value is a constant other than NaN, possibly splat.
    fn is_number(&self, value: Value) -> bool {
        use cranelift_codegen::ir::{InstructionData, Opcode};
        let dfg = &self.b.func.dfg;
        let Some(inst) = dfg.value_def(dfg.resolve_aliases(value)).inst() else { return false };
        match dfg.insts[inst] {
            InstructionData::UnaryIeee32 { imm, .. } => !imm.as_f32().is_nan(),
            InstructionData::UnaryIeee64 { imm, .. } => !imm.as_f64().is_nan(),
            InstructionData::Unary { opcode: Opcode::Splat, arg } => self.is_number(arg),
            _ => false,
        }
    }

    fn bool_prim(&mut self, prim: Prim, args: &[Value]) -> Result<Value> {
        let not = |s: &mut Self, x: Value| {
            if s.type_of(x).is_vector() { s.b.ins().bnot(x) } else { s.b.ins().bxor_imm_u(x, 1) }
        };
        Ok(match (prim, args) {
            (Prim::And | Prim::Min | Prim::Mul, &[x, y]) => self.b.ins().band(x, y),
            (Prim::Or | Prim::Max | Prim::Add, &[x, y]) => self.b.ins().bor(x, y),
            (Prim::Xor | Prim::Ne, &[x, y]) => self.b.ins().bxor(x, y),
            (Prim::Eq, &[x, y]) => {
                let differ = self.b.ins().bxor(x, y);
                not(self, differ)
            }
            (Prim::Not, &[x]) => not(self, x),
            (Prim::Lt, &[x, y]) => {
                let x = not(self, x);
                self.b.ins().band(x, y)
            }
            (Prim::Le, &[x, y]) => {
                let x = not(self, x);
                self.b.ins().bor(x, y)
            }
            (Prim::Gt, &[x, y]) => {
                let y = not(self, y);
                self.b.ins().band(x, y)
            }
            (Prim::Ge, &[x, y]) => {
                let y = not(self, y);
                self.b.ins().bor(x, y)
            }
            _ => return self.unsupported(format!("{} of bool", prim.name())),
        })
    }

    fn int_prim(&mut self, prim: Prim, dtype: DType, args: &[Value], vector: bool) -> Result<Value> {
        let signed = is_signed(dtype);
        let ins = self.b.ins();
        let pick = |s, u| if signed { s } else { u };
        let raw = match (prim, args) {
            (Prim::Add, &[x, y]) => ins.iadd(x, y),
            (Prim::Sub, &[x, y]) => ins.isub(x, y),
            (Prim::Mul, &[x, y]) => ins.imul(x, y),
            (Prim::Neg, &[x]) => ins.ineg(x),
            (Prim::Abs, &[x]) if signed => ins.iabs(x),
            (Prim::Not, &[x]) => ins.bnot(x),
            (Prim::Abs | Prim::Floor | Prim::Ceil | Prim::Round | Prim::Trunc, &[x]) => return Ok(x),
            (Prim::Min, &[x, y]) => return Ok(if signed { ins.smin(x, y) } else { ins.umin(x, y) }),
            (Prim::Max, &[x, y]) => return Ok(if signed { ins.smax(x, y) } else { ins.umax(x, y) }),
            (Prim::And, &[x, y]) => return Ok(ins.band(x, y)),
            (Prim::Or, &[x, y]) => return Ok(ins.bor(x, y)),
            (Prim::Xor, &[x, y]) => return Ok(ins.bxor(x, y)),
            (Prim::Eq, &[x, y]) => return Ok(ins.icmp(IntCC::Equal, x, y)),
            (Prim::Ne, &[x, y]) => return Ok(ins.icmp(IntCC::NotEqual, x, y)),
            (Prim::Lt, &[x, y]) => {
                return Ok(ins.icmp(pick(IntCC::SignedLessThan, IntCC::UnsignedLessThan), x, y));
            }
            (Prim::Le, &[x, y]) => {
                return Ok(ins.icmp(
                    pick(IntCC::SignedLessThanOrEqual, IntCC::UnsignedLessThanOrEqual),
                    x,
                    y,
                ));
            }
            (Prim::Gt, &[x, y]) => {
                return Ok(ins.icmp(pick(IntCC::SignedGreaterThan, IntCC::UnsignedGreaterThan), x, y));
            }
            (Prim::Ge, &[x, y]) => {
                let cc = pick(IntCC::SignedGreaterThanOrEqual, IntCC::UnsignedGreaterThanOrEqual);
                return Ok(ins.icmp(cc, x, y));
            }
            (Prim::IsNan | Prim::IsInf, &[x]) => {
                let ty = if vector { types::I32X4 } else { types::I8 };
                debug_assert!(self.type_of(x).is_vector() == vector);
                return Ok(self.iconst(ty, 0));
            }
            (Prim::Div | Prim::Rem | Prim::Mod | Prim::Pow | Prim::Shl | Prim::Shr, _) => {
                return self.scalarized(dtype, dtype, args, vector, |s, args| {
                    s.int_slow(prim, dtype, args[0], args[1])
                });
            }
            _ => return self.unsupported(format!("{} of {dtype}", prim.name())),
        };
        Ok(self.wrap(dtype, raw))
    }

    /// Applies a scalar function to every lane.
    fn scalarized(
        &mut self,
        from: DType,
        to: DType,
        args: &[Value],
        vector: bool,
        mut f: impl FnMut(&mut Self, &[Value]) -> Result<Value>,
    ) -> Result<Value> {
        if !vector {
            return f(self, args);
        }
        let mut scalars: SmallVec<[Value; LANES]> = SmallVec::new();
        for lane in 0..LANES {
            let lane_args: SmallVec<[Value; 3]> = args.iter().map(|&a| self.lane(from, a, lane)).collect();
            scalars.push(f(self, &lane_args)?);
        }
        Ok(self.join(to, &scalars))
    }

    /// Division, powers and shifts of scalars, total as the primitives are.
    fn int_slow(&mut self, prim: Prim, dtype: DType, x: Value, y: Value) -> Result<Value> {
        let signed = is_signed(dtype);
        if matches!(prim, Prim::Shl | Prim::Shr) {
            return Ok(self.int_shift(prim, dtype, x, y));
        }
        // 64-bit arithmetic: narrower operands cannot overflow in it.
        let (x, y) = (self.widened_to_64(dtype, x), self.widened_to_64(dtype, y));
        let result = match prim {
            Prim::Pow => self.helper(if signed { "powi64" } else { "powu64" }, &[x, y])?,
            _ => self.int_divide(prim, signed, x, y),
        };
        let narrow = if dtype.bits() == 64 { result } else { self.b.ins().ireduce(types::I32, result) };
        Ok(self.wrap(dtype, narrow))
    }

    fn int_divide(&mut self, prim: Prim, signed: bool, x: Value, y: Value) -> Value {
        let zero = self.i64(0);
        let one = self.i64(1);
        let by_zero = self.b.ins().icmp(IntCC::Equal, y, zero);
        if !signed {
            let divisor = self.b.ins().select(by_zero, one, y);
            let result =
                if prim == Prim::Div { self.b.ins().udiv(x, divisor) } else { self.b.ins().urem(x, divisor) };
            return self.b.ins().select(by_zero, zero, result);
        }
        // The quotient by -1 is the negation, which wraps where the machine's division traps.
        let by_minus_one = self.b.ins().icmp_imm_s(IntCC::Equal, y, -1);
        let special = self.b.ins().bor(by_zero, by_minus_one);
        let divisor = self.b.ins().select(special, one, y);
        let quotient = self.b.ins().sdiv(x, divisor);
        if prim == Prim::Div {
            let negated = self.b.ins().ineg(x);
            let result = self.b.ins().select(by_minus_one, negated, quotient);
            return self.b.ins().select(by_zero, zero, result);
        }
        let product = self.b.ins().imul(quotient, divisor);
        let rest = self.b.ins().isub(x, product);
        let rest = self.b.ins().select(special, zero, rest);
        if prim == Prim::Rem {
            return rest;
        }
        // Python's remainder: move to the sign of the divisor.
        let signs = self.b.ins().bxor(rest, y);
        let opposite = self.b.ins().icmp_imm_s(IntCC::SignedLessThan, signs, 0);
        let some = self.b.ins().icmp_imm_s(IntCC::NotEqual, rest, 0);
        let wrong = self.b.ins().band(opposite, some);
        let moved = self.b.ins().iadd(rest, y);
        self.b.ins().select(wrong, moved, rest)
    }

    fn int_shift(&mut self, prim: Prim, dtype: DType, x: Value, y: Value) -> Value {
        let bits = dtype.bits() as i64;
        let ty = self.type_of(x);
        // One unsigned comparison also catches negative amounts.
        let limit = self.iconst(ty, bits);
        let fits = self.b.ins().icmp(IntCC::UnsignedLessThan, y, limit);
        if prim == Prim::Shr && is_signed(dtype) {
            let last = self.iconst(ty, i64::from(ty.bits()) - 1);
            let amount = self.b.ins().select(fits, y, last);
            return self.b.ins().sshr(x, amount);
        }
        let shifted = match prim {
            Prim::Shl => self.b.ins().ishl(x, y),
            _ => self.b.ins().ushr(x, y),
        };
        let zero = self.iconst(ty, 0);
        let result = self.b.ins().select(fits, shifted, zero);
        self.wrap(dtype, result)
    }

    fn widened_to_64(&mut self, dtype: DType, value: Value) -> Value {
        if dtype.bits() == 64 {
            value
        } else if is_signed(dtype) {
            self.b.ins().sextend(types::I64, value)
        } else {
            self.b.ins().uextend(types::I64, value)
        }
    }

    /// A conversion of scalars or of one vector.
    pub fn cast(&mut self, from: DType, to: DType, value: Value, vector: bool) -> Result<Value> {
        if from == to {
            return Ok(value);
        }
        if from == DType::Bool {
            return Ok(self.cast_from_bool(to, value, vector));
        }
        if to == DType::Bool {
            return Ok(if from == DType::F64 {
                let zero = self.b.ins().f64const(0.0);
                self.b.ins().fcmp(FloatCC::NotEqual, value, zero)
            } else if from == DType::F32 {
                let zero = self.fconst(self.type_of(value), 0.0);
                self.b.ins().fcmp(FloatCC::NotEqual, value, zero)
            } else {
                let zero = self.iconst(self.type_of(value), 0);
                self.b.ins().icmp(IntCC::NotEqual, value, zero)
            });
        }
        Ok(match (from.is_float(), to.is_float()) {
            (true, true) if to == DType::F64 => self.b.ins().fpromote(types::F64, value),
            (true, true) => self.b.ins().fdemote(types::F32, value),
            (true, false) => self.float_to_int(to, value, vector),
            (false, true) => self.int_to_float(from, to, value, vector),
            (false, false) => {
                let ty = if vector { vector_type(to) } else { scalar_type(to) };
                let sized = match (self.type_of(value), ty) {
                    (types::I32, types::I64) => self.widened_to_64(from, value),
                    (types::I64, types::I32) => self.b.ins().ireduce(types::I32, value),
                    _ => value,
                };
                self.wrap(to, sized)
            }
        })
    }

    /// The bits of a number as one of another dtype; those of narrow integers are extended as that dtype's are.
    fn bits(&mut self, from: DType, to: DType, value: Value, vector: bool) -> Value {
        if from.is_int() && to.is_int() {
            return self.wrap(to, value);
        }
        let ty = if vector { vector_type(to) } else { scalar_type(to) };
        self.recast(ty, value)
    }

    fn cast_from_bool(&mut self, to: DType, value: Value, vector: bool) -> Value {
        if vector {
            let one =
                if to == DType::F32 { self.fconst(types::F32X4, 1.0) } else { self.iconst(types::I32X4, 1) };
            let one = self.as_int(one);
            let masked = self.b.ins().band(value, one);
            return if to == DType::F32 { self.as_float(masked) } else { masked };
        }
        let wide = if scalar_type(to) == types::I64 { types::I64 } else { types::I32 };
        let int = self.b.ins().uextend(wide, value);
        if to.is_float() { self.b.ins().fcvt_from_sint(scalar_type(to), int) } else { int }
    }

    fn float_to_int(&mut self, to: DType, value: Value, vector: bool) -> Value {
        let ty = if vector { types::I32X4 } else { scalar_type(to) };
        if to.bits() >= 32 {
            return if is_signed(to) {
                self.b.ins().fcvt_to_sint_sat(ty, value)
            } else {
                self.b.ins().fcvt_to_uint_sat(ty, value)
            };
        }
        let wide = self.b.ins().fcvt_to_sint_sat(ty, value);
        let bits = to.bits() as i64;
        let (low, high) = if is_signed(to) {
            (-(1i64 << (bits - 1)), (1i64 << (bits - 1)) - 1)
        } else {
            (0, (1i64 << bits) - 1)
        };
        let (low, high) = (self.iconst(ty, low), self.iconst(ty, high));
        let above = self.b.ins().smax(wide, low);
        self.b.ins().smin(above, high)
    }

    fn int_to_float(&mut self, from: DType, to: DType, value: Value, vector: bool) -> Value {
        if vector {
            return if from == DType::U32 {
                self.b.ins().fcvt_from_uint(types::F32X4, value)
            } else {
                self.b.ins().fcvt_from_sint(types::F32X4, value)
            };
        }
        let ty = scalar_type(to);
        match from {
            DType::U64 => self.b.ins().fcvt_from_uint(ty, value),
            DType::U32 => {
                let wide = self.b.ins().uextend(types::I64, value);
                self.b.ins().fcvt_from_sint(ty, wide)
            }
            _ => self.b.ins().fcvt_from_sint(ty, value),
        }
    }
}
