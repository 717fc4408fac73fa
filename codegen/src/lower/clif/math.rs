//! Elementary functions of single precision as polynomials, on scalars and on lanes alike.
//!
//! Bounds in units in the last place against the exact result, with fused multiply-adds: exp 1, log 1, tanh 1.5,
//! erf 1.2. NaN in gives NaN out.

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{InstBuilder, Value};

use super::emit::Emitter;

impl Emitter<'_> {
    /// `x` limited to `[low, high]`; NaN stays.
    fn clamp(&mut self, x: Value, low: f32, high: f32) -> Value {
        let ty = self.type_of(x);
        let (low, high) = (self.fconst(ty, low), self.fconst(ty, high));
        let above = self.float_min_max(low, x, FloatCC::GreaterThan);
        self.float_min_max(high, above, FloatCC::LessThan)
    }

    /// Horner's scheme, highest coefficient first.
    fn horner(&mut self, x: Value, coefficients: &[f32]) -> Value {
        let ty = self.type_of(x);
        let mut sum = self.fconst(ty, coefficients[0]);
        for &c in &coefficients[1..] {
            let c = self.fconst(ty, c);
            sum = self.mul_add(sum, x, c);
        }
        sum
    }

    /// e^x: `2^n * e^r` with `|r| <= ln(2) / 2`; the polynomial is that of Cephes' `expf`.
    pub fn exp(&mut self, x: Value) -> Value {
        let ty = self.type_of(x);
        let x = self.clamp(x, -104.0, 88.8);
        // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
        let magic = self.fconst(ty, 12_582_912.0);
        let log2e = self.fconst(ty, std::f32::consts::LOG2_E);
        let shifted = self.mul_add(x, log2e, magic);
        let n = self.b.ins().fsub(shifted, magic);
        // -ln(2) in two parts, the first of which multiplies n exactly.
        let (high, low) = (self.fconst(ty, -0.693_359_375), self.fconst(ty, 2.121_944_4e-4));
        let r = self.mul_add(n, high, x);
        let r = self.mul_add(n, low, r);
        let coefficients =
            [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5.000_000_1e-1];
        let p = self.horner(r, &coefficients);
        let square = self.b.ins().fmul(r, r);
        let p = self.mul_add(p, square, r);
        let one = self.fconst(ty, 1.0);
        let p = self.b.ins().fadd(p, one);
        // 2^n in two steps: n reaches from -150 to 128, beyond one exponent.
        let bits = self.as_int(shifted);
        let magic_bits = self.as_int(magic);
        let n = self.b.ins().isub(bits, magic_bits);
        let first = self.sshr(n, 1);
        let second = self.b.ins().isub(n, first);
        let (first, second) = (self.power_of_two(first), self.power_of_two(second));
        let p = self.b.ins().fmul(p, first);
        self.b.ins().fmul(p, second)
    }

    /// 2^n for an integer in the range of normal exponents.
    fn power_of_two(&mut self, n: Value) -> Value {
        let bias = self.iconst(self.type_of(n), 127);
        let exponent = self.b.ins().iadd(n, bias);
        let bits = self.shl(exponent, 23);
        self.as_float(bits)
    }

    /// ln(x), after Cephes' `logf`: `x = m * 2^e` with m in `[sqrt(1/2), sqrt(2))`.
    pub fn log(&mut self, x: Value) -> Value {
        let ty = self.type_of(x);
        // Subnormals are scaled up first.
        let smallest = self.fconst(ty, f32::MIN_POSITIVE);
        let tiny = self.b.ins().fcmp(FloatCC::LessThan, x, smallest);
        let up = self.fconst(ty, 33_554_432.0);
        let scaled = self.b.ins().fmul(x, up);
        let m = self.choose(tiny, scaled, x);
        let bits = self.as_int(m);
        let int = self.type_of(bits);
        // Subtracting the bits of sqrt(1/2) puts the split of the exponent there.
        let root = self.iconst(int, i64::from(std::f32::consts::FRAC_1_SQRT_2.to_bits()));
        let offset = self.b.ins().isub(bits, root);
        let exponent = self.sshr(offset, 23);
        let fraction = self.mask(offset, 0x007f_ffff);
        let fraction = self.b.ins().iadd(fraction, root);
        let m = self.as_float(fraction);
        let e = self.b.ins().fcvt_from_sint(ty, exponent);
        let (adjust, zero) = (self.fconst(ty, -25.0), self.fconst(ty, 0.0));
        let adjust = self.choose(tiny, adjust, zero);
        let e = self.b.ins().fadd(e, adjust);
        let one = self.fconst(ty, 1.0);
        let r = self.b.ins().fsub(m, one);
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
        let square = self.b.ins().fmul(r, r);
        let p = self.b.ins().fmul(p, r);
        let y = self.b.ins().fmul(p, square);
        let (low, half, high) =
            (self.fconst(ty, -2.121_944_4e-4), self.fconst(ty, -0.5), self.fconst(ty, 0.693_359_375));
        let y = self.mul_add(e, low, y);
        let y = self.mul_add(square, half, y);
        let sum = self.b.ins().fadd(r, y);
        let result = self.mul_add(e, high, sum);
        // 0 gives -inf, infinity itself, negative numbers and NaN give NaN.
        let infinity = self.fconst(ty, f32::INFINITY);
        let is_infinite = self.b.ins().fcmp(FloatCC::Equal, x, infinity);
        let result = self.choose(is_infinite, infinity, result);
        let minus_infinity = self.fconst(ty, f32::NEG_INFINITY);
        let is_zero = self.b.ins().fcmp(FloatCC::Equal, x, zero);
        let result = self.choose(is_zero, minus_infinity, result);
        let nan = self.fconst(ty, f32::NAN);
        // Ordered: Cranelift's aarch64 back end has no vector comparison "unordered or less".
        let valid = self.b.ins().fcmp(FloatCC::GreaterThanOrEqual, x, zero);
        self.choose(valid, result, nan)
    }

    /// tanh(x), after Cephes' `tanhf`: an odd polynomial below 0.625, `1 - 2 / (e^(2|x|) + 1)` above.
    pub fn tanh(&mut self, x: Value) -> Value {
        let ty = self.type_of(x);
        let magnitude = self.b.ins().fabs(x);
        let double = self.b.ins().fadd(magnitude, magnitude);
        let e = self.exp(double);
        let (one, minus_two) = (self.fconst(ty, 1.0), self.fconst(ty, -2.0));
        let divisor = self.b.ins().fadd(e, one);
        let ratio = self.b.ins().fdiv(minus_two, divisor);
        let large = self.b.ins().fadd(one, ratio);
        let square = self.b.ins().fmul(x, x);
        let coefficients =
            [-5.704_988_7e-3, 2.063_908_9e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328_2e-1];
        let p = self.horner(square, &coefficients);
        let p = self.b.ins().fmul(p, square);
        let small = self.mul_add(p, magnitude, magnitude);
        let threshold = self.fconst(ty, 0.625);
        let is_small = self.b.ins().fcmp(FloatCC::LessThan, magnitude, threshold);
        let result = self.choose(is_small, small, large);
        // A sum of signed terms would give -0 the sign of 0.
        self.with_sign_of(result, x)
    }

    /// A non-negative value with the sign of another.
    fn with_sign_of(&mut self, value: Value, sign: Value) -> Value {
        let bits = self.as_int(sign);
        let sign_bit = self.iconst(self.type_of(bits), i64::from(0x8000_0000u32));
        let sign = self.b.ins().band(bits, sign_bit);
        let value = self.as_int(value);
        let signed = self.b.ins().bor(value, sign);
        self.as_float(signed)
    }

    /// erf(x): an odd polynomial below 0.93, `1 - exp(polynomial)` above.
    pub fn erf(&mut self, x: Value) -> Value {
        let ty = self.type_of(x);
        let magnitude = self.b.ins().fabs(x);
        // erf(4) rounds to 1; farther out the exponential would be subnormal, which takes some hundred cycles.
        let limit = self.fconst(ty, 4.0);
        let t = self.float_min_max(limit, magnitude, FloatCC::LessThan);
        let s = self.b.ins().fmul(t, t);
        // Large arguments.
        let r = self.horner(t, &[-1.728_534_7e-5, 3.831_971_3e-4]);
        let u = self.horner(t, &[-3.883_964_4e-3, 2.425_462_2e-2]);
        let mut r = self.mul_add(r, s, u);
        for c in [-1.067_778_8e-1, -6.348_467e-1, -1.287_175_1e-1] {
            let c = self.fconst(ty, c);
            r = self.mul_add(r, t, c);
        }
        let minus_t = self.b.ins().fneg(t);
        let r = self.mul_add(r, t, minus_t);
        let e = self.exp(r);
        let one = self.fconst(ty, 1.0);
        let large = self.b.ins().fsub(one, e);
        let large = self.with_sign_of(large, x);
        // Small arguments.
        let coefficients =
            [-5.967_617e-4, 4.991_194e-3, -2.676_813_5e-2, 1.128_199_3e-1, -3.761_253_4e-1, 1.283_791_7e-1];
        let p = self.horner(s, &coefficients);
        let small = self.mul_add(p, x, x);
        let magnitude = self.as_int(magnitude);
        let threshold = self.iconst(self.type_of(magnitude), i64::from(0.927_734_4f32.to_bits()));
        // An integer comparison of magnitudes: NaN counts as large and comes through the exponential.
        let is_large = self.b.ins().icmp(IntCC::SignedGreaterThan, magnitude, threshold);
        self.choose(is_large, large, small)
    }
}
