//! Scalar operations as vector instructions.

use kiln_ir::{DClass, DType, Prim};

use super::Width;
use super::lir::{Binary, Compare, Inst, Reg, Shift, Src, Unary};
use super::math::float;
use super::select::{Choice, Selector};

/// Bits of 1.0.
const ONE: u32 = 1f32.to_bits();

/// Whether products with the inverse of a constant are quotients: neither is near the ends of what floats can be.
fn is_invertible(bits: u32) -> bool {
    (1e-18..1e18).contains(&f32::from_bits(bits).abs())
}

fn signed(dtype: DType) -> bool {
    dtype.class() == DClass::Signed
}

impl Selector<'_> {
    /// A primitive on operands of a dtype (that of the last operand).
    pub fn apply(&mut self, prim: Prim, dtype: DType, args: &[Src]) -> Choice<Src> {
        if let (Prim::Select, &[mask, a, b]) = (prim, args) {
            return Ok(self.chosen(mask, a, b).into());
        }
        if dtype == DType::F32 {
            self.float_prim(prim, args)
        } else if dtype == DType::Bool {
            self.bool_prim(prim, args)
        } else {
            self.int_prim(prim, dtype, args)
        }
    }

    fn float_prim(&mut self, prim: Prim, args: &[Src]) -> Choice<Src> {
        Ok(Src::Reg(match (prim, args) {
            (Prim::Add, &[x, y]) => match self.one_and_erf(x, y) {
                Some(of) => self.one_plus_erf(of),
                None => self.binary(Binary::AddF, x, y),
            },
            (Prim::Sub, &[x, y]) => self.binary(Binary::SubF, x, y),
            (Prim::Mul, &[x, Src::Bits(ONE)] | &[Src::Bits(ONE), x]) => return Ok(x),
            (Prim::Mul, &[x, y]) => self.binary(Binary::MulF, x, y),
            (Prim::Div, &[x, Src::Bits(bits)]) if is_invertible(bits) => return Ok(self.quotient(x, bits)),
            (Prim::Div, &[x, y]) if self.at_least_one(y) => self.binary(Binary::Ratio, x, y),
            (Prim::Div, &[x, y]) => self.binary(Binary::DivF, x, y),
            (Prim::Min, &[x, y]) => self.float_min_max(Binary::MinF, x, y),
            (Prim::Max, &[x, y]) => self.float_min_max(Binary::MaxF, x, y),
            (Prim::Neg, &[x]) => self.binary(Binary::Xor, x, Src::Bits(0x8000_0000)),
            (Prim::Abs, &[x]) => self.magnitude(x),
            (Prim::Sqrt, &[x]) => self.unary(Unary::Sqrt, x),
            (Prim::Floor, &[x]) => self.unary(Unary::Floor, x),
            (Prim::Ceil, &[x]) => self.unary(Unary::Ceil, x),
            (Prim::Round, &[x]) => self.unary(Unary::Nearest, x),
            (Prim::Trunc, &[x]) => self.unary(Unary::Trunc, x),
            (Prim::Eq, &[x, y]) => self.compare(Compare::EqF, x, y),
            (Prim::Ne, &[x, y]) => self.compare(Compare::NeF, x, y),
            (Prim::Lt, &[x, y]) => self.compare(Compare::LtF, x, y),
            (Prim::Le, &[x, y]) => self.compare(Compare::LeF, x, y),
            (Prim::Gt, &[x, y]) => self.compare(Compare::LtF, y, x),
            (Prim::Ge, &[x, y]) => self.compare(Compare::LeF, y, x),
            (Prim::IsNan, &[x]) => self.compare(Compare::Unordered, x, x),
            (Prim::IsInf, &[x]) => {
                let magnitude = self.magnitude(x);
                self.compare(Compare::EqF, magnitude, float(f32::INFINITY))
            }
            (Prim::Exp, &[x]) => self.exp(x),
            (Prim::Log, &[x]) => self.log(x),
            (Prim::Tanh, &[x]) => self.tanh(x),
            (Prim::Erf, &[x]) => self.erf(x),
            _ => return self.unsupported(format!("{} of f32", prim.name())),
        }))
    }

    /// `mask ? a : b`; the greater or the smaller of two floats, the second one where that is not decided, is one
    /// instruction.
    fn chosen(&mut self, mask: Src, a: Src, b: Src) -> Reg {
        match self.definition(mask) {
            Some(&Inst::Compare { op: Compare::LtF, a: x, b: y, .. }) if (x, y) == (b, a) => {
                self.binary(Binary::MaxF, a, b)
            }
            Some(&Inst::Compare { op: Compare::LtF, a: x, b: y, .. }) if (x, y) == (a, b) => {
                self.binary(Binary::MinF, a, b)
            }
            _ => self.select(mask, a, b),
        }
    }

    /// Minimum or maximum that gives NaN if either operand is NaN.
    fn float_min_max(&mut self, op: Binary, x: Src, y: Src) -> Reg {
        // The instruction passes a NaN in its second operand on.
        let number = |src: Src| matches!(src, Src::Bits(bits) if !f32::from_bits(bits).is_nan());
        let (x, y) = if number(y) { (y, x) } else { (x, y) };
        let best = self.binary(op, x, y);
        if number(x) {
            return best;
        }
        let is_nan = self.compare(Compare::Unordered, x, x);
        self.select(is_nan, x, best)
    }

    fn not(&mut self, x: Src) -> Src {
        self.binary(Binary::Xor, x, Src::Bits(u32::MAX)).into()
    }

    fn bool_prim(&mut self, prim: Prim, args: &[Src]) -> Choice<Src> {
        Ok(match (prim, args) {
            (Prim::And | Prim::Min | Prim::Mul, &[x, y]) => self.binary(Binary::And, x, y).into(),
            (Prim::Or | Prim::Max | Prim::Add, &[x, y]) => self.binary(Binary::Or, x, y).into(),
            (Prim::Xor | Prim::Ne, &[x, y]) => self.binary(Binary::Xor, x, y).into(),
            (Prim::Eq, &[x, y]) => {
                let differ = self.binary(Binary::Xor, x, y);
                self.not(differ.into())
            }
            (Prim::Not, &[x]) => self.not(x),
            _ => return self.unsupported(format!("{} of bool", prim.name())),
        })
    }

    fn int_prim(&mut self, prim: Prim, dtype: DType, args: &[Src]) -> Choice<Src> {
        let signed = signed(dtype);
        let either = |s, u| if signed { s } else { u };
        let raw = match (prim, args) {
            (Prim::Add, &[x, y]) => self.binary(Binary::AddI, x, y),
            (Prim::Sub, &[x, y]) => self.binary(Binary::SubI, x, y),
            (Prim::Mul, &[x, y]) => self.binary(Binary::MulI, x, y),
            (Prim::Neg, &[x]) => self.binary(Binary::SubI, Src::Bits(0), x),
            (Prim::Abs, &[x]) if signed => self.unary(Unary::AbsI, x),
            (Prim::Not, &[x]) => self.binary(Binary::Xor, x, Src::Bits(u32::MAX)),
            (Prim::Abs | Prim::Floor | Prim::Ceil | Prim::Round | Prim::Trunc, &[x]) => return Ok(x),
            (Prim::Min, &[x, y]) => return Ok(self.binary(either(Binary::MinS, Binary::MinU), x, y).into()),
            (Prim::Max, &[x, y]) => return Ok(self.binary(either(Binary::MaxS, Binary::MaxU), x, y).into()),
            (Prim::And, &[x, y]) => return Ok(self.binary(Binary::And, x, y).into()),
            (Prim::Or, &[x, y]) => return Ok(self.binary(Binary::Or, x, y).into()),
            (Prim::Xor, &[x, y]) => return Ok(self.binary(Binary::Xor, x, y).into()),
            (Prim::Eq, &[x, y]) => return Ok(self.compare(Compare::EqI, x, y).into()),
            (Prim::Ne, &[x, y]) => {
                let equal = self.compare(Compare::EqI, x, y);
                return Ok(self.not(equal.into()));
            }
            (Prim::Lt | Prim::Gt | Prim::Le | Prim::Ge, &[x, y]) if signed || dtype.bits() < 32 => {
                let swap = matches!(prim, Prim::Lt | Prim::Ge);
                let (x, y) = if swap { (y, x) } else { (x, y) };
                let greater = self.compare(Compare::GtI, x, y);
                let negate = matches!(prim, Prim::Le | Prim::Ge);
                return Ok(if negate { self.not(greater.into()) } else { greater.into() });
            }
            _ => return self.unsupported(format!("{} of {dtype}", prim.name())),
        };
        Ok(self.wrap(dtype, raw.into()))
    }

    /// Brings an integer result back to its dtype: sign- or zero-extended from its width.
    fn wrap(&mut self, dtype: DType, value: Src) -> Src {
        let bits = dtype.bits() as u8;
        if bits >= 32 {
            return value;
        }
        if signed(dtype) {
            let top = self.shift(Shift::Left, value, 32 - bits);
            self.shift(Shift::RightSigned, top, 32 - bits).into()
        } else {
            self.binary(Binary::And, value, Src::Bits((1 << bits) - 1)).into()
        }
    }

    /// A conversion.
    pub fn cast(&mut self, from: DType, to: DType, value: Src) -> Choice<Src> {
        let int = |d: DType| d.is_int() && d.bits() <= 32;
        Ok(match (from, to) {
            (a, b) if a == b => value,
            (DType::F32, DType::Bool) => self.compare(Compare::NeF, value, float(0.0)).into(),
            (_, DType::Bool) if int(from) => {
                let zero = self.compare(Compare::EqI, value, Src::Bits(0));
                self.not(zero.into())
            }
            (DType::Bool, DType::F32) => self.binary(Binary::And, value, float(1.0)).into(),
            (DType::Bool, _) if int(to) => self.binary(Binary::And, value, Src::Bits(1)).into(),
            (DType::F32, _) if int(to) && to != DType::U32 => self.float_to_int(to, value),
            (_, DType::F32) if int(from) && from != DType::U32 => self.unary(Unary::ToFloat, value).into(),
            (_, _) if int(from) && int(to) => self.wrap(to, value),
            _ => return self.unsupported(format!("casts of {from} to {to}")),
        })
    }

    /// `x / y` for a constant as a product with its inverse, and a correction by what that leaves, which brings it to
    /// the nearest float: an infinite product would leave NaN.
    fn quotient(&mut self, x: Src, divisor: u32) -> Src {
        let y = f32::from_bits(divisor);
        let inverse = float(1.0 / y);
        if y == 1.0 {
            return x;
        }
        let product = self.binary(Binary::MulF, x, inverse);
        if divisor & 0x007f_ffff == 0 {
            return product.into();
        }
        let bounded = match self.width() {
            Width::W512 => self.binary(Binary::Bound, product, float(f32::MAX)),
            Width::W256 => {
                let above = self.binary(Binary::MaxF, product, float(f32::MIN));
                self.binary(Binary::MinF, above, float(f32::MAX))
            }
        };
        let left = self.mul_add(bounded, float(-y), x);
        self.mul_add(left, inverse, bounded).into()
    }

    /// The conversion of floats that are at most the largest number of a narrow type, which what is rounded and bounded
    /// takes part in: the instruction rounds, and what is too small is bounded as an integer.
    fn bounded_to_int(&mut self, to: DType, value: Src) -> Option<Src> {
        let bits = to.bits() as u32;
        let (low, high) = match signed(to) {
            _ if bits > 16 => return None,
            true => (-(1i32 << (bits - 1)), (1i32 << (bits - 1)) - 1),
            false => (0, (1i32 << bits) - 1),
        };
        let Some(&Inst::Binary { op: Binary::MinF, a: Src::Bits(most), b: x, .. }) = self.definition(value)
        else {
            return None;
        };
        if f32::from_bits(most) != high as f32 {
            return None;
        }
        let mut x = x;
        if let Some(&Inst::Binary { op: Binary::MaxF, a: Src::Bits(least), b, .. }) = self.definition(x)
            && f32::from_bits(least) == low as f32
        {
            x = b;
        }
        // What is added behind the rounding is added to the integer.
        let (mut shift, mut rounded) = (0, x);
        if let Some(&Inst::Binary { op: Binary::AddF, a, b: Src::Bits(bits), .. }) = self.definition(x)
            && (0..=255).any(|n| f32::from_bits(bits) == n as f32)
        {
            (shift, rounded) = (f32::from_bits(bits) as i32, a);
        }
        let converted = match self.definition(rounded) {
            Some(&Inst::Unary { op: Unary::Nearest, a, .. }) => {
                let bounded = self.binary(Binary::MinF, float((high - shift) as f32), a);
                let nearest = self.unary(Unary::ToNearestInt, bounded);
                match shift {
                    0 => nearest,
                    _ => self.binary(Binary::AddI, nearest, Src::Bits(shift as u32)),
                }
            }
            _ => {
                let bounded = self.binary(Binary::MinF, float(high as f32), x);
                self.unary(Unary::ToInt, bounded)
            }
        };
        let converted = self.binary(Binary::MaxS, converted, Src::Bits(low as u32));
        if !signed(to) {
            // NaN became the least integer.
            return Some(converted.into());
        }
        let is_nan = self.compare(Compare::Unordered, x, x);
        Some(self.select(is_nan, Src::Bits(0), converted).into())
    }

    fn float_to_int(&mut self, to: DType, value: Src) -> Src {
        if let Some(converted) = self.bounded_to_int(to, value) {
            return converted;
        }
        let x = self.in_register(value);
        let converted = self.unary(Unary::ToInt, x);
        // What is too large gives the same pattern as what is too small.
        let large = self.compare(Compare::LeF, float(2_147_483_648.0), x);
        let converted = self.select(large, Src::Bits(i32::MAX as u32), converted);
        let is_nan = self.compare(Compare::Unordered, x, x);
        let converted = self.select(is_nan, Src::Bits(0), converted);
        let bits = to.bits() as u32;
        if bits >= 32 {
            return converted.into();
        }
        let (low, high) = if signed(to) {
            (-(1i32 << (bits - 1)), (1i32 << (bits - 1)) - 1)
        } else {
            (0, (1i32 << bits) - 1)
        };
        let above = self.binary(Binary::MaxS, converted, Src::Bits(low as u32));
        self.binary(Binary::MinS, above, Src::Bits(high as u32)).into()
    }
}
