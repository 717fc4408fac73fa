//! Elementary functions of single precision in vector programs: the polynomials of the portable lowering, and for 512
//! bits what its instructions save.
//!
//! Bounds in units in the last place against the exact result: exp 1, log 1, tanh 1.5, erf 1.2. `1 + erf(x)`, which with
//! 512 bits is a function of its own: 1 where x is positive, else 2^-23.7 and the relative error 2^-13. NaN in gives NaN
//! out.

use super::Width;
use super::lir::{Binary, Compare, Inst, Reg, Shift, Src, Unary};
use super::select::Selector;
use super::tables::{INTERVAL, LAST, ONE_PLUS_ERF};

/// Bits of a float in every lane.
pub(super) fn float(x: f32) -> Src {
    Src::Bits(x.to_bits())
}

impl Selector<'_> {
    pub fn binary(&mut self, op: Binary, a: impl Into<Src>, b: impl Into<Src>) -> Reg {
        let dst = self.fresh();
        self.push(Inst::Binary { op, dst, a: a.into(), b: b.into() });
        dst
    }

    pub fn unary(&mut self, op: Unary, a: impl Into<Src>) -> Reg {
        let dst = self.fresh();
        self.push(Inst::Unary { op, dst, a: a.into() });
        dst
    }

    pub fn shift(&mut self, op: Shift, a: impl Into<Src>, bits: u8) -> Reg {
        let dst = self.fresh();
        self.push(Inst::Shift { op, dst, a: a.into(), bits });
        dst
    }

    pub fn mul_add(&mut self, a: impl Into<Src>, b: impl Into<Src>, c: impl Into<Src>) -> Reg {
        let dst = self.fresh();
        self.push(Inst::MulAdd { dst, args: [a.into(), b.into(), c.into()] });
        dst
    }

    pub fn compare(&mut self, op: Compare, a: impl Into<Src>, b: impl Into<Src>) -> Reg {
        let dst = self.fresh();
        self.push(Inst::Compare { op, dst, a: a.into(), b: b.into() });
        dst
    }

    pub fn select(&mut self, mask: impl Into<Src>, a: impl Into<Src>, b: impl Into<Src>) -> Reg {
        let dst = self.fresh();
        self.push(Inst::Select { dst, mask: mask.into(), a: a.into(), b: b.into() });
        dst
    }

    /// `x` limited to `[low, high]`; NaN stays.
    fn clamp(&mut self, x: Src, low: f32, high: f32) -> Reg {
        let above = self.binary(Binary::MaxF, float(low), x);
        self.binary(Binary::MinF, float(high), above)
    }

    /// Horner's scheme, highest coefficient first.
    fn horner(&mut self, x: Reg, coefficients: &[f32]) -> Reg {
        let mut sum = float(coefficients[0]);
        for &c in &coefficients[1..] {
            sum = self.mul_add(sum, x, float(c)).into();
        }
        match sum {
            Src::Reg(reg) => reg,
            Src::Bits(_) | Src::Param(_) => x,
        }
    }

    /// Whether a value is known to be 1 or more, infinite or NaN: one plus an exponential.
    pub fn at_least_one(&self, x: Src) -> bool {
        let Some(&Inst::Binary { op: Binary::AddF, a, b, .. }) = self.definition(x) else { return false };
        let exponential = |x: Src| matches!(self.definition(x), Some(Inst::Binary { op: Binary::Scale, .. }));
        (a == float(1.0) && exponential(b)) || (b == float(1.0) && exponential(a))
    }

    /// The instruction that defines a value.
    pub fn definition(&self, x: Src) -> Option<&Inst> {
        let Src::Reg(reg) = x else { return None };
        self.insts.iter().rev().find(|inst| inst.result() == Some(reg))
    }

    /// e^x.
    pub fn exp(&mut self, x: Src) -> Reg {
        match self.width() {
            Width::W256 => self.exp_in_two_steps(x),
            Width::W512 => self.exp_scaled(x),
        }
    }

    /// e^x: `2^n * e^r` with `|r| <= ln(2) / 2`, scaled by one instruction. The polynomial `1 + r + r^2 * q(r)` is the one
    /// of least relative error with q of degree 4: 2^-29. A negation of `x` goes into the constants.
    fn exp_scaled(&mut self, x: Src) -> Reg {
        const SIGN: Src = Src::Bits(0x8000_0000);
        let (x, sign) = match self.definition(x) {
            Some(&Inst::Binary { op: Binary::Xor, a, b: SIGN, .. }) => (a, -1.0),
            _ => (x, 1.0),
        };
        // Adding 1.5 * 2^23 rounds to an integer.
        let magic = float(12_582_912.0);
        let shifted = self.mul_add(x, float(sign * std::f32::consts::LOG2_E), magic);
        let n = self.binary(Binary::SubF, shifted, magic);
        // sign * r: -ln(2) in two parts, the first of which multiplies n exactly.
        let r = self.mul_add(n, float(sign * -0.693_359_375), x);
        let r = self.mul_add(n, float(sign * 2.121_944_4e-4), r);
        // Where n is so large that r is anything or, of infinity, NaN, it alone decides; of NaN it is NaN.
        let r = self.binary(Binary::Bound, r, float(0.5));
        let [c6, c5, c4, c3, c2] =
            [1.381_454_1e-3, 8.368_745e-3, 4.166_839e-2, 1.666_652_1e-1, 4.999_999_4e-1];
        let p = self.horner(r, &[c6, sign * c5, c4, sign * c3, c2, sign, 1.0]);
        self.binary(Binary::Scale, p, n)
    }

    /// e^x: `2^n * e^r` with `|r| <= ln(2) / 2`; the polynomial is that of Cephes' `expf`.
    fn exp_in_two_steps(&mut self, x: Src) -> Reg {
        let x = self.clamp(x, -104.0, 88.8);
        self.exp_within(x)
    }

    /// e^x for x in `[-104, 88.8]`, or NaN.
    fn exp_within(&mut self, x: Reg) -> Reg {
        // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
        let magic = float(12_582_912.0);
        let shifted = self.mul_add(x, float(std::f32::consts::LOG2_E), magic);
        let n = self.binary(Binary::SubF, shifted, magic);
        // -ln(2) in two parts, the first of which multiplies n exactly.
        let r = self.mul_add(n, float(-0.693_359_375), x);
        let r = self.mul_add(n, float(2.121_944_4e-4), r);
        let coefficients =
            [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5.000_000_1e-1];
        // Estrin's scheme: pairs of terms do not wait for each other.
        let [c5, c4, c3, c2, c1, c0] = coefficients.map(float);
        let square = self.binary(Binary::MulF, r, r);
        let (high, middle, low) = (self.mul_add(c5, r, c4), self.mul_add(c3, r, c2), self.mul_add(c1, r, c0));
        let p = self.mul_add(high, square, middle);
        let p = self.mul_add(p, square, low);
        let p = self.mul_add(p, square, r);
        let p = self.binary(Binary::AddF, p, float(1.0));
        if self.width() == Width::W512 {
            return self.binary(Binary::Scale, p, n);
        }
        // 2^n in two steps: n reaches from -150 to 128, beyond one exponent.
        let n = self.binary(Binary::SubI, shifted, magic);
        let first = self.shift(Shift::RightSigned, n, 1);
        let second = self.binary(Binary::SubI, n, first);
        let (first, second) = (self.power_of_two(first), self.power_of_two(second));
        let p = self.binary(Binary::MulF, p, first);
        self.binary(Binary::MulF, p, second)
    }

    /// 2^n for an integer in the range of normal exponents.
    fn power_of_two(&mut self, n: Reg) -> Reg {
        let exponent = self.binary(Binary::AddI, n, Src::Bits(127));
        self.shift(Shift::Left, exponent, 23)
    }

    /// ln(x), after Cephes' `logf`: `x = m * 2^e` with m in `[sqrt(1/2), sqrt(2))`.
    pub fn log(&mut self, x: Src) -> Reg {
        let x = self.in_register(x);
        // Subnormals are scaled up first.
        let scaled = self.binary(Binary::MulF, x, float(33_554_432.0));
        let tiny = self.compare(Compare::LtF, x, float(f32::MIN_POSITIVE));
        let m = self.select(tiny, scaled, x);
        let adjust = self.select(tiny, float(-25.0), float(0.0));
        // Subtracting the bits of sqrt(1/2) puts the split of the exponent there.
        let root = Src::Bits(std::f32::consts::FRAC_1_SQRT_2.to_bits());
        let offset = self.binary(Binary::SubI, m, root);
        let exponent = self.shift(Shift::RightSigned, offset, 23);
        let fraction = self.binary(Binary::And, offset, Src::Bits(0x007f_ffff));
        let m = self.binary(Binary::AddI, fraction, root);
        let e = self.unary(Unary::ToFloat, exponent);
        let e = self.binary(Binary::AddF, e, adjust);
        let r = self.binary(Binary::SubF, m, float(1.0));
        let coefficients = [
            7.037_683_6e-2,
            -1.151_461e-1,
            1.167_699_9e-1,
            -1.242_014_1e-1,
            1.424_932_3e-1,
            -1.666_805_8e-1,
            2.000_071_5e-1,
            -2.499_999_4e-1,
            3.333_333_1e-1,
        ];
        let p = self.horner(r, &coefficients);
        let square = self.binary(Binary::MulF, r, r);
        let p = self.binary(Binary::MulF, p, r);
        let y = self.binary(Binary::MulF, p, square);
        let y = self.mul_add(e, float(-2.121_944_4e-4), y);
        let y = self.mul_add(square, float(-0.5), y);
        let sum = self.binary(Binary::AddF, r, y);
        let result = self.mul_add(e, float(0.693_359_375), sum);
        // 0 gives -inf, infinity itself, negative numbers and NaN give NaN.
        let is_infinite = self.compare(Compare::EqF, x, float(f32::INFINITY));
        let result = self.select(is_infinite, float(f32::INFINITY), result);
        let is_zero = self.compare(Compare::EqF, x, float(0.0));
        let result = self.select(is_zero, float(f32::NEG_INFINITY), result);
        let negative = self.compare(Compare::LtF, x, float(0.0));
        let result = self.select(negative, float(f32::NAN), result);
        let is_nan = self.compare(Compare::Unordered, x, x);
        self.select(is_nan, x, result)
    }

    /// tanh(x), after Cephes' `tanhf`: an odd polynomial below 0.625, `1 - 2 / (e^(2|x|) + 1)` above.
    pub fn tanh(&mut self, x: Src) -> Reg {
        let x = self.in_register(x);
        let magnitude = self.magnitude(x.into());
        let double = self.binary(Binary::AddF, magnitude, magnitude);
        let e = self.exp(double.into());
        let divisor = self.binary(Binary::AddF, e, float(1.0));
        let ratio = self.binary(Binary::DivF, float(-2.0), divisor);
        let large = self.binary(Binary::AddF, ratio, float(1.0));
        let square = self.binary(Binary::MulF, x, x);
        let coefficients =
            [-5.704_988_7e-3, 2.063_908_9e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328_2e-1];
        let p = self.horner(square, &coefficients);
        let p = self.binary(Binary::MulF, p, square);
        let small = self.mul_add(p, magnitude, magnitude);
        let is_small = self.compare(Compare::LtF, magnitude, float(0.625));
        let result = self.select(is_small, small, large);
        // A sum of signed terms would give -0 the sign of 0.
        self.with_sign_of(result, x)
    }

    /// `|x|` of floats.
    pub fn magnitude(&mut self, x: Src) -> Reg {
        self.binary(Binary::And, x, Src::Bits(0x7fff_ffff))
    }

    /// A non-negative value with the sign of another.
    fn with_sign_of(&mut self, value: Reg, sign: Reg) -> Reg {
        let sign = self.binary(Binary::And, sign, Src::Bits(0x8000_0000));
        self.binary(Binary::Or, value, sign)
    }

    /// erf(x): an odd polynomial below 0.93, `1 - exp(polynomial)` above.
    pub fn erf(&mut self, x: Src) -> Reg {
        let x = self.in_register(x);
        let magnitude = self.magnitude(x.into());
        // erf(4) rounds to 1; farther out the exponential would be subnormal, which takes some hundred cycles.
        let t = self.binary(Binary::MinF, float(4.0), magnitude);
        let s = self.binary(Binary::MulF, t, t);
        // Large arguments.
        let r = self.horner(t, &[-1.728_534_7e-5, 3.831_971_3e-4]);
        let u = self.horner(t, &[-3.883_964_4e-3, 2.425_462_2e-2]);
        let mut r = self.mul_add(r, s, u);
        for c in [-1.067_778_8e-1, -6.348_467e-1, -1.287_175_1e-1] {
            r = self.mul_add(r, t, float(c));
        }
        let minus_t = self.binary(Binary::Xor, t, Src::Bits(0x8000_0000));
        let r = self.mul_add(r, t, minus_t);
        // From 0 down to some -18.
        let e = self.exp_within(r);
        let large = self.binary(Binary::SubF, float(1.0), e);
        let large = self.with_sign_of(large, x);
        // Small arguments.
        let coefficients =
            [-5.967_617e-4, 4.991_194e-3, -2.676_813_5e-2, 1.128_199_3e-1, -3.761_253_4e-1, 1.283_791_7e-1];
        let p = self.horner(s, &coefficients);
        let small = self.mul_add(p, x, x);
        // An integer comparison of magnitudes: NaN counts as large and comes through the exponential.
        let threshold = Src::Bits(0.927_734_4f32.to_bits());
        let is_large = self.compare(Compare::GtI, magnitude, threshold);
        let result = self.select(is_large, large, small);
        self.erfs.insert(result, x.into());
        result
    }

    /// The argument of the error function, where one of two values is that and the other one is 1, and their sum has a
    /// function of its own.
    pub fn one_and_erf(&self, x: Src, y: Src) -> Option<Src> {
        let of = |erf: Src| match erf {
            Src::Reg(reg) => self.erfs.get(&reg).copied(),
            Src::Bits(_) | Src::Param(_) => None,
        };
        let erf = if x == float(1.0) { of(y) } else { of(x).filter(|_| y == float(1.0)) };
        erf.filter(|_| self.width() == Width::W512)
    }

    /// 1 + erf(x): with `z = sqrt(2) * x`, a polynomial for each interval of z.
    pub fn one_plus_erf(&mut self, x: Src) -> Reg {
        const ROOT: Src = Src::Bits(std::f32::consts::FRAC_1_SQRT_2.to_bits());
        let z = match self.definition(x) {
            Some(&Inst::Binary { op: Binary::MulF, a, b: ROOT, .. }) => a,
            Some(&Inst::Binary { op: Binary::MulF, a: ROOT, b, .. }) => b,
            _ => self.binary(Binary::MulF, x, float(std::f32::consts::SQRT_2)).into(),
        };
        let z = self.clamp(z, -LAST * INTERVAL, LAST * INTERVAL);
        // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
        let magic = float(12_582_912.0);
        let shifted = self.mul_add(z, float(1.0 / INTERVAL), magic);
        let n = self.binary(Binary::SubF, shifted, magic);
        let r = self.mul_add(n, float(-INTERVAL), z);
        let [mut sum, rest @ ..] = ONE_PLUS_ERF.each_ref().map(|table| self.lookup(shifted, table));
        for c in rest {
            sum = self.mul_add(sum, r, c);
        }
        sum
    }

    fn lookup(&mut self, index: Reg, table: &'static [u32; 32]) -> Reg {
        let dst = self.fresh();
        self.push(Inst::Lookup { dst, index: index.into(), table });
        dst
    }

    /// The nearest bfloat16, ties to even, in the low 16 bits; NaN stays NaN.
    pub fn bf16_bits(&mut self, value: Src) -> Reg {
        let value = self.in_register(value);
        let odd = self.shift(Shift::Right, value, 16);
        let odd = self.binary(Binary::And, odd, Src::Bits(1));
        let sum = self.binary(Binary::AddI, value, Src::Bits(0x7fff));
        let sum = self.binary(Binary::AddI, sum, odd);
        let rounded = self.shift(Shift::Right, sum, 16);
        let quiet = self.binary(Binary::Or, value, Src::Bits(0x0040_0000));
        let nan = self.shift(Shift::Right, quiet, 16);
        let is_nan = self.compare(Compare::Unordered, value, value);
        self.select(is_nan, nan, rounded)
    }
}
