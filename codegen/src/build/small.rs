//! Elements of eight bits or fewer that no register holds as they are: small floats, and numbers of which several share a
//! byte. Kernels load and store their bytes; what the bits mean is bit operations on 32-bit numbers.
//!
//! Guarantee: a stored element has the bits that the reference evaluator gives it (`kiln_ir::float`).

use kiln_ir::tensor::Bytes;
use kiln_ir::{DClass, DType, Prim, Scalar, Tensor, wrap_int};

use super::expr::Expr;
use super::term::{Literal, Term, TermId, Terms};
use super::trace::{Refusal, Trace};

/// Whether elements of the dtype go through their bits.
pub fn is_small(dtype: DType) -> bool {
    dtype.is_packed() || (dtype.is_float() && dtype.bits() == 8)
}

/// The dtype of a value of a storage dtype inside of a kernel.
pub fn compute_dtype(dtype: DType) -> DType {
    crate::kir::compute_dtype(dtype).unwrap_or(dtype)
}

/// The tensor's bytes as elements.
pub fn raw(tensor: &Tensor) -> Option<Tensor> {
    let bytes = tensor.bytes();
    Tensor::new(DType::U8, &[bytes.len()], Bytes::copied(bytes)).ok()
}

/// How the bits of a small float are divided, and its special values.
#[derive(Clone, Copy)]
struct Format {
    mantissa: u32,
    bias: i32,
    /// Bits of the largest finite value.
    top: u32,
    /// Bits, without a sign, of what lies beyond it, if not the largest value itself.
    beyond: Option<u32>,
    /// Bits of NaN, and whether they have a sign.
    nan: (u32, bool),
    /// Whether zero has a sign.
    negative_zero: bool,
}

fn format(dtype: DType) -> Option<Format> {
    let ieee = |mantissa, bias, top, beyond, nan| Format {
        mantissa,
        bias,
        top,
        beyond,
        nan: (nan, true),
        negative_zero: true,
    };
    Some(match dtype {
        DType::F8E4M3FN => ieee(3, 7, 0x7e, Some(0x7f), 0x7f),
        DType::F8E5M2 => ieee(2, 15, 0x7b, Some(0x7c), 0x7e),
        DType::F4E2M1 => ieee(1, 1, 0x7, None, 0),
        DType::F8E4M3FNUZ => {
            Format { nan: (0x80, false), negative_zero: false, ..ieee(3, 8, 0x7f, Some(0x80), 0x80) }
        }
        DType::F8E5M2FNUZ => {
            Format { nan: (0x80, false), negative_zero: false, ..ieee(2, 16, 0x7f, Some(0x80), 0x80) }
        }
        _ => return None,
    })
}

/// The largest finite value.
fn largest(dtype: DType) -> Option<f64> {
    let bits = if dtype == DType::F8E8M0 { 0xfe } else { format(dtype)?.top };
    Some(kiln_ir::float::decode(dtype, u64::from(bits)))
}

const BITS: DType = DType::U32;

/// Shorthands for operations on 32-bit patterns.
struct Patterns<'t> {
    terms: &'t mut Terms,
}

impl Patterns<'_> {
    fn constant(&mut self, value: u32) -> TermId {
        self.terms.add(Term::Const(Literal::I(i128::from(value))), BITS)
    }

    fn with(&mut self, prim: Prim, x: TermId, value: u32) -> TermId {
        let value = self.constant(value);
        self.terms.apply(prim, &[x, value])
    }

    fn select(&mut self, condition: TermId, yes: TermId, no: TermId) -> TermId {
        self.terms.apply(Prim::Select, &[condition, yes, no])
    }

    fn select_constant(&mut self, condition: TermId, yes: u32, no: TermId) -> TermId {
        let yes = self.constant(yes);
        self.select(condition, yes, no)
    }

    /// The float of the bits.
    fn decode(&mut self, bits: TermId, dtype: DType) -> Option<TermId> {
        if dtype == DType::F8E8M0 {
            let moved = self.with(Prim::Shl, bits, 23);
            let least = self.with(Prim::Eq, bits, 0);
            // The smallest power of two is below what has a hidden bit.
            let finite = self.select_constant(least, 0x0040_0000, moved);
            let is_nan = self.with(Prim::Eq, bits, 0xff);
            let all = self.select_constant(is_nan, 0x7fc0_0000, finite);
            return Some(self.terms.bits(all, DType::F32));
        }
        let f = format(dtype)?;
        let width = dtype.bits() as u32;
        let sign_bit = 1 << (width - 1);
        let magnitude = self.with(Prim::And, bits, sign_bit - 1);
        let moved = self.with(Prim::Shl, magnitude, 23 - f.mantissa);
        // The product moves the exponent, and gives numbers without a hidden bit one.
        let moved = self.terms.bits(moved, DType::F32);
        let rebias = f64::from(f32::from_bits(((254 - f.bias) as u32) << 23));
        let rebias = self.terms.number(DType::F32, rebias);
        let scaled = self.terms.apply(Prim::Mul, &[moved, rebias]);
        let mut all = self.terms.bits(scaled, BITS);
        if let Some(beyond) = f.beyond.filter(|b| *b < f.nan.0) {
            let infinite = self.with(Prim::Eq, magnitude, beyond);
            all = self.select_constant(infinite, f32::INFINITY.to_bits(), all);
        }
        let sign = self.with(Prim::And, bits, sign_bit);
        let sign = self.with(Prim::Shl, sign, 32 - width);
        all = self.terms.apply(Prim::Or, &[all, sign]);
        let is_nan = match f.nan {
            (0, _) => None,
            (nan, false) => Some(self.with(Prim::Eq, bits, nan)),
            (_, true) => {
                let least = f.beyond.map_or(f.top, |b| if b == f.nan.0 { b - 1 } else { b });
                Some(self.with(Prim::Gt, magnitude, least))
            }
        };
        if let Some(is_nan) = is_nan {
            all = self.select_constant(is_nan, 0x7fc0_0000, all);
        }
        Some(self.terms.bits(all, DType::F32))
    }

    /// The bits of the float, rounded to nearest even; what is too large becomes infinite or NaN where there is such.
    fn encode(&mut self, value: TermId, dtype: DType) -> Option<TermId> {
        let bits = self.terms.bits(value, BITS);
        let magnitude = self.with(Prim::And, bits, 0x7fff_ffff);
        let infinity = f32::INFINITY.to_bits();
        if dtype == DType::F8E8M0 {
            return Some(self.encode_scale(bits, magnitude));
        }
        let f = format(dtype)?;
        let width = dtype.bits() as u32;
        let dropped = 23 - f.mantissa;
        let odd = self.with(Prim::Shr, magnitude, dropped);
        let odd = self.with(Prim::And, odd, 1);
        let sum = self.with(Prim::Add, magnitude, (1 << (dropped - 1)) - 1);
        let sum = self.terms.apply(Prim::Add, &[sum, odd]);
        let rounded = self.with(Prim::Shr, sum, dropped);
        let normal = self.with(Prim::Sub, rounded, ((127 - f.bias) as u32) << f.mantissa);
        // Below the smallest normal number, an addition leaves the rounded bits at the bottom of the fraction.
        let unit = ((127 + 1 - f.bias - f.mantissa as i32 + 23) as u32) << 23;
        let float = self.terms.bits(magnitude, DType::F32);
        let shift = self.terms.number(DType::F32, f64::from(f32::from_bits(unit)));
        let sum = self.terms.apply(Prim::Add, &[float, shift]);
        let sum = self.terms.bits(sum, BITS);
        let subnormal = self.with(Prim::Sub, sum, unit);
        let small = self.with(Prim::Lt, magnitude, ((128 - f.bias) as u32) << 23);
        let finite = self.select(small, subnormal, normal);
        let too_large = self.with(Prim::Gt, finite, f.top);
        let finite = self.select_constant(too_large, f.beyond.unwrap_or(f.top), finite);
        let sign = self.with(Prim::Shr, bits, 31);
        let sign = self.with(Prim::Shl, sign, width - 1);
        let signed = self.terms.apply(Prim::Or, &[finite, sign]);
        let signed = match f.negative_zero {
            true => signed,
            false => {
                let zero = self.with(Prim::Eq, finite, 0);
                self.select_constant(zero, 0, signed)
            }
        };
        let nan = self.constant(f.nan.0);
        let nan = if f.nan.1 { self.terms.apply(Prim::Or, &[nan, sign]) } else { nan };
        let is_nan = self.with(Prim::Gt, magnitude, infinity);
        Some(self.select(is_nan, nan, signed))
    }

    /// The exponent of the next power of two.
    fn encode_scale(&mut self, bits: TermId, magnitude: TermId) -> TermId {
        let exponent = self.with(Prim::Shr, magnitude, 23);
        let fraction = self.with(Prim::And, magnitude, 0x007f_ffff);
        let some = self.with(Prim::Ne, fraction, 0);
        let some = self.terms.cast(some, BITS);
        let up = self.terms.apply(Prim::Add, &[exponent, some]);
        let tiny = self.with(Prim::Le, magnitude, 0x0040_0000);
        let up = self.select_constant(tiny, 0, up);
        let negative = self.with(Prim::Gt, bits, 0x7fff_ffff);
        let up = self.select_constant(negative, 0, up);
        let special = self.with(Prim::Ge, magnitude, f32::INFINITY.to_bits());
        self.select_constant(special, 0xff, up)
    }

    /// A double as the single that rounds to the same value of a narrower dtype.
    fn rounded_to_odd(&mut self, value: TermId) -> TermId {
        let nearest = self.terms.cast(value, DType::F32);
        let back = self.terms.cast(nearest, DType::F64);
        let (back, exact) = (self.terms.apply(Prim::Abs, &[back]), self.terms.apply(Prim::Abs, &[value]));
        let larger = self.terms.apply(Prim::Gt, &[back, exact]);
        let smaller = self.terms.apply(Prim::Lt, &[back, exact]);
        let bits = self.terms.bits(nearest, BITS);
        let down = self.with(Prim::Sub, bits, 1);
        let inexact = self.select(larger, down, bits);
        let inexact = self.with(Prim::Or, inexact, 1);
        let either = self.terms.apply(Prim::Or, &[larger, smaller]);
        let all = self.select(either, inexact, bits);
        self.terms.bits(all, DType::F32)
    }
}

impl Trace<'_, '_> {
    /// The value of a small element at an element offset; `byte` is the byte that holds it.
    pub(super) fn widened(&mut self, byte: TermId, dtype: DType, offset: &Expr) -> Result<TermId, Refusal> {
        let mut bits = self.terms.cast(byte, BITS);
        let width = dtype.bits() as u32;
        if dtype.is_packed() {
            let place = offset.modulo(&kiln_ir::Dim::known(i64::from(8 / width)), &self.axes);
            let place = self.terms.index(place);
            let place = self.terms.cast(place, BITS);
            let mut p = Patterns { terms: &mut self.terms };
            let shift = p.with(Prim::Mul, place, width);
            let moved = p.terms.apply(Prim::Shr, &[bits, shift]);
            bits = p.with(Prim::And, moved, (1 << width) - 1);
        }
        Ok(match dtype.class() {
            DClass::Unsigned => self.terms.cast(bits, DType::U8),
            DClass::Signed => {
                let value = self.terms.cast(bits, DType::I8);
                self.wrapped(value, dtype)
            }
            _ => Patterns { terms: &mut self.terms }
                .decode(bits, dtype)
                .ok_or_else(|| Refusal::new(format!("loads of {dtype}")))?,
        })
    }

    /// The lowest bits of an integer as a number of the packed dtype.
    fn wrapped(&mut self, value: TermId, dtype: DType) -> TermId {
        let wide = compute_dtype(dtype);
        let spare = Scalar::I((8 - dtype.bits()) as i128);
        let spare = self.terms.add(Term::Const(spare.into()), wide);
        let top = self.terms.apply(Prim::Shl, &[value, spare]);
        self.terms.apply(Prim::Shr, &[top, spare])
    }

    /// The bits of a value as an element of a small dtype: a byte, the lowest bits of which are used.
    pub(super) fn narrowed(&mut self, value: TermId, dtype: DType) -> Result<TermId, Refusal> {
        let refused = || Refusal::new(format!("stores of {dtype}"));
        let bits = if dtype.is_int() {
            let bits = self.terms.cast(value, BITS);
            Patterns { terms: &mut self.terms }.with(Prim::And, bits, (1 << dtype.bits()) - 1)
        } else {
            Patterns { terms: &mut self.terms }.encode(value, dtype).ok_or_else(refused)?
        };
        Ok(bits)
    }

    /// The float with one NaN, as the evaluator reads halves.
    pub(super) fn unsigned_nan(&mut self, x: TermId) -> TermId {
        let dtype = self.terms.dtype(x);
        let nan = self.terms.add(Term::Const(Literal::F(f64::NAN.to_bits())), dtype);
        let is_nan = self.terms.apply(Prim::IsNan, &[x]);
        self.terms.add(Term::Apply(Prim::Select, [is_nan, nan, x].into_iter().collect()), dtype)
    }

    /// The nearest bf16 as a single, ties to even; NaN stays NaN.
    pub(super) fn nearest_bf16(&mut self, x: TermId) -> TermId {
        let bits = self.terms.bits(x, BITS);
        let mut p = Patterns { terms: &mut self.terms };
        let last = p.with(Prim::Shr, bits, 16);
        let odd = p.with(Prim::And, last, 1);
        let raised = p.with(Prim::Add, bits, 0x7fff);
        let raised = p.terms.apply(Prim::Add, &[raised, odd]);
        let kept = p.with(Prim::And, raised, 0xffff_0000);
        let rounded = self.terms.bits(kept, DType::F32);
        let is_nan = self.terms.apply(Prim::IsNan, &[x]);
        self.terms.add(Term::Apply(Prim::Select, [is_nan, x, rounded].into_iter().collect()), DType::F32)
    }

    /// A conversion to a small dtype. Floats are not rounded yet: that is done where they are stored.
    pub(super) fn convert_small(&mut self, x: TermId, to: DType, saturate: bool) -> Result<TermId, Refusal> {
        let from = self.terms.dtype(x);
        if to.is_float() {
            let x = match from {
                DType::F64 => Patterns { terms: &mut self.terms }.rounded_to_odd(x),
                DType::I32 | DType::U32 | DType::I64 | DType::U64 if to == DType::F8E8M0 => {
                    return Err(Refusal::new(format!("a conversion of {from} to {to}")));
                }
                _ => self.terms.cast(x, DType::F32),
            };
            return Ok(if saturate { self.saturated(x, to) } else { x });
        }
        let wide = compute_dtype(to);
        let Some((low, high)) = to.int_range() else {
            return Err(Refusal::new(format!("a conversion to {to}")));
        };
        let x = self.terms.cast(x, wide);
        if !from.is_float() {
            return Ok(if from == DType::Bool { x } else { self.wrapped(x, to) });
        }
        let number = |v: i128| Term::Const(Literal::I(wrap_int(v, wide)));
        let (low, high) = (self.terms.add(number(low), wide), self.terms.add(number(high), wide));
        let above = self.terms.apply(Prim::Max, &[x, low]);
        Ok(self.terms.apply(Prim::Min, &[above, high]))
    }

    /// `x / scale + zero` on its way to a small float.
    pub(super) fn quantize_small(
        &mut self,
        x: TermId,
        scale: TermId,
        zero: TermId,
        to: DType,
        saturate: bool,
    ) -> Result<TermId, Refusal> {
        let x = self.terms.cast(x, DType::F32);
        let ratio = self.terms.apply(Prim::Div, &[x, scale]);
        let sum = if self.is_zero(zero) {
            // Of a zero, the sum has no sign.
            let none = self.terms.number(DType::F32, 0.0);
            let is_zero = self.terms.apply(Prim::Eq, &[ratio, none]);
            self.terms.apply(Prim::Select, &[is_zero, none, ratio])
        } else {
            // Exact, so that what is stored is rounded once.
            let (a, b) = (self.terms.cast(ratio, DType::F64), self.terms.cast(zero, DType::F64));
            self.terms.apply(Prim::Add, &[a, b])
        };
        self.convert_small(sum, to, saturate)
    }

    /// `(x - zero) * scale` of small floats, the difference exact.
    pub(super) fn dequantize_small(&mut self, x: TermId, scale: TermId, zero: TermId, to: DType) -> TermId {
        let wide = if self.is_zero(zero) { to } else { DType::F64 };
        let mut difference = self.terms.cast(x, wide);
        if !self.is_zero(zero) {
            let zero = self.terms.cast(zero, wide);
            difference = self.terms.apply(Prim::Sub, &[difference, zero]);
        }
        let scale = self.terms.cast(scale, wide);
        let product = self.terms.apply(Prim::Mul, &[difference, scale]);
        self.terms.cast(product, to)
    }

    fn is_zero(&self, term: TermId) -> bool {
        matches!(self.terms.literal(term), Some(Scalar::F(v)) if v == 0.0)
    }

    /// What lies beyond the largest value as that value; NaN stays what it is.
    fn saturated(&mut self, x: TermId, to: DType) -> TermId {
        let Some(most) = largest(to) else { return x };
        let (high, low) = (self.terms.number(DType::F32, most), self.terms.number(DType::F32, -most));
        let above = self.terms.apply(Prim::Gt, &[x, high]);
        let x = self.terms.apply(Prim::Select, &[above, high, x]);
        let below = self.terms.apply(Prim::Lt, &[x, low]);
        self.terms.apply(Prim::Select, &[below, low, x])
    }
}
