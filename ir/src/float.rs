//! Bit-exact codecs of the floating dtypes narrower than f32, and [`Float`], an attribute that compares by bits.

use crate::DType;

/// A float attribute: equal, hashed and printed by its bits, so that CSE and text round trips are exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Float(u64);

impl Float {
    /// The attribute of value `v`.
    pub fn new(v: f64) -> Self {
        Float(v.to_bits())
    }

    /// The value.
    pub fn get(self) -> f64 {
        f64::from_bits(self.0)
    }
}

impl From<f64> for Float {
    fn from(v: f64) -> Self {
        Float::new(v)
    }
}

impl From<f32> for Float {
    fn from(v: f32) -> Self {
        Float::new(f64::from(v))
    }
}

/// Layout of a small floating format.
struct Mini {
    exponent: u32,
    mantissa: u32,
    bias: i32,
    /// Largest finite value.
    max: f64,
    kind: MiniKind,
}

#[derive(PartialEq)]
enum MiniKind {
    /// Infinities and NaNs as IEEE 754 has them.
    Ieee,
    /// No infinity; all ones is NaN.
    Finite,
    /// No infinity, no negative zero; the sign bit alone is NaN.
    UnsignedZero,
    /// No infinity, no NaN.
    Plain,
}

fn mini(dtype: DType) -> Option<Mini> {
    let (exponent, mantissa, bias, max, kind) = match dtype {
        DType::F16 => (5, 10, 15, 65504.0, MiniKind::Ieee),
        DType::F8E4M3FN => (4, 3, 7, 448.0, MiniKind::Finite),
        DType::F8E4M3FNUZ => (4, 3, 8, 240.0, MiniKind::UnsignedZero),
        DType::F8E5M2 => (5, 2, 15, 57344.0, MiniKind::Ieee),
        DType::F8E5M2FNUZ => (5, 2, 16, 57344.0, MiniKind::UnsignedZero),
        DType::F4E2M1 => (2, 1, 1, 6.0, MiniKind::Plain),
        _ => return None,
    };
    Some(Mini { exponent, mantissa, bias, max, kind })
}

/// The value of the element whose bits are `bits`. Only floating dtypes have one; others give NaN.
pub fn decode(dtype: DType, bits: u64) -> f64 {
    match dtype {
        DType::F64 => f64::from_bits(bits),
        DType::F32 => f64::from(f32::from_bits(bits as u32)),
        DType::BF16 => f64::from(f32::from_bits((bits as u32) << 16)),
        DType::F8E8M0 if bits & 0xff == 0xff => f64::NAN,
        DType::F8E8M0 => libm::exp2((bits & 0xff) as f64 - 127.0),
        _ => mini(dtype).map_or(f64::NAN, |m| decode_mini(&m, bits)),
    }
}

fn decode_mini(m: &Mini, bits: u64) -> f64 {
    let sign_at = m.exponent + m.mantissa;
    let negative = bits >> sign_at & 1 == 1;
    let exponent = (bits >> m.mantissa) & ((1 << m.exponent) - 1);
    let mantissa = bits & ((1 << m.mantissa) - 1);
    let ones = (1u64 << m.exponent) - 1;
    let magnitude = match m.kind {
        MiniKind::UnsignedZero if negative && exponent == 0 && mantissa == 0 => return f64::NAN,
        MiniKind::Ieee if exponent == ones => {
            if mantissa == 0 {
                f64::INFINITY
            } else {
                return f64::NAN;
            }
        }
        MiniKind::Finite if exponent == ones && mantissa == (1 << m.mantissa) - 1 => return f64::NAN,
        _ => {
            let scale = libm::exp2(f64::from(exponent.max(1) as i32 - m.bias - m.mantissa as i32));
            let hidden = if exponent > 0 { 1u64 << m.mantissa } else { 0 };
            (hidden | mantissa) as f64 * scale
        }
    };
    if negative { -magnitude } else { magnitude }
}

/// The bits of `value` rounded to nearest even in `dtype` (`f8e8m0`: up, as ONNX Cast does by default). What lies beyond the
/// largest finite value of a format of at most eight bits becomes that value if `saturate`, else infinity or, in formats
/// without one, NaN; in wider formats it becomes infinity.
pub fn encode(dtype: DType, value: f64, saturate: bool) -> u64 {
    match dtype {
        DType::F64 => value.to_bits(),
        DType::F32 => u64::from((value as f32).to_bits()),
        DType::BF16 => encode_bf16(value),
        DType::F8E8M0 => encode_e8m0(value, saturate),
        _ => mini(dtype).map_or(0, |m| encode_mini(&m, value, saturate && dtype.bits() <= 8)),
    }
}

fn encode_bf16(value: f64) -> u64 {
    if value.is_nan() {
        return 0x7fc0 | u64::from(value.is_sign_negative()) << 15;
    }
    // Round to odd at f32 first, so that the second rounding cannot err.
    let nearest = value as f32;
    let mut bits = nearest.to_bits();
    let exact = f64::from(nearest) == value;
    if !exact && nearest.is_finite() {
        if f64::from(nearest).abs() > value.abs() {
            bits -= 1;
        }
        bits |= 1;
    }
    let rounded = (u64::from(bits) + 0x7fff + u64::from(bits >> 16 & 1)) >> 16;
    rounded & 0xffff
}

fn encode_e8m0(value: f64, saturate: bool) -> u64 {
    if value.is_nan() || (value.is_infinite() && !saturate) {
        return 0xff;
    }
    if value <= 0.0 {
        return 0;
    }
    if value.is_infinite() {
        return 0xfe;
    }
    // The next power of two, for a scale must not make what it divides overflow.
    let (fraction, exponent) = libm::frexp(value);
    let exponent = if fraction == 0.5 { exponent - 1 } else { exponent }.clamp(-127, 128);
    if exponent > 127 && !saturate { 0xff } else { (exponent.min(127) + 127) as u64 }
}

fn encode_mini(m: &Mini, value: f64, saturate: bool) -> u64 {
    let sign_at = m.exponent + m.mantissa;
    let sign = u64::from(value.is_sign_negative()) << sign_at;
    let ones = (1u64 << m.exponent) - 1;
    let nan = match m.kind {
        MiniKind::Ieee => sign | ones << m.mantissa | 1 << (m.mantissa - 1),
        MiniKind::Finite => sign | ((1 << sign_at) - 1),
        MiniKind::UnsignedZero => 1 << sign_at,
        MiniKind::Plain => sign,
    };
    if value.is_nan() {
        return nan;
    }
    let magnitude = value.abs();
    let smallest = 1 - m.bias - m.mantissa as i32;
    let exponent =
        if magnitude == 0.0 { smallest } else { (libm::ilogb(magnitude) - m.mantissa as i32).max(smallest) };
    let scaled = if magnitude.is_infinite() {
        magnitude
    } else {
        (magnitude * libm::exp2(f64::from(-exponent))).round_ties_even()
    };
    let rounded = scaled * libm::exp2(f64::from(exponent));
    if rounded > m.max {
        return match m.kind {
            _ if saturate => sign | top(m),
            MiniKind::Ieee => sign | ones << m.mantissa,
            MiniKind::Plain => sign | top(m),
            MiniKind::Finite | MiniKind::UnsignedZero => nan,
        };
    }
    if rounded == 0.0 {
        return if m.kind == MiniKind::UnsignedZero { 0 } else { sign };
    }
    // `scaled` is below 2^(mantissa + 1); its hidden bit carries into the exponent field by addition.
    let field = (exponent - smallest) as u64;
    sign | ((field << m.mantissa) + scaled as u64)
}

/// Bits of the largest finite value.
fn top(m: &Mini) -> u64 {
    let all = (1u64 << (m.exponent + m.mantissa)) - 1;
    match m.kind {
        MiniKind::Ieee => (((1 << m.exponent) - 1) << m.mantissa) - 1,
        MiniKind::Finite => all - 1,
        MiniKind::UnsignedZero | MiniKind::Plain => all,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_small_float_round_trips() {
        let small = [
            DType::F8E4M3FN,
            DType::F8E4M3FNUZ,
            DType::F8E5M2,
            DType::F8E5M2FNUZ,
            DType::F8E8M0,
            DType::F4E2M1,
        ];
        for d in small.into_iter().chain([DType::F16, DType::BF16]) {
            for bits in 0..1u64 << d.bits() {
                let v = decode(d, bits);
                let back = encode(d, v, false);
                assert!(
                    back == bits || (v.is_nan() && decode(d, back).is_nan()),
                    "{d} {bits:#x} -> {v} -> {back:#x}"
                );
            }
        }
    }

    #[test]
    fn powers_of_two_round_up() {
        let round = |v: f64| decode(DType::F8E8M0, encode(DType::F8E8M0, v, true));
        assert_eq!([round(1.0), round(1.1), round(0.124), round(2.0)], [1.0, 2.0, 0.125, 2.0]);
        assert_eq!(round(0.0), libm::exp2(-127.0));
        assert_eq!(round(1e300), libm::exp2(127.0));
        assert!(decode(DType::F8E8M0, encode(DType::F8E8M0, 1e300, false)).is_nan());
    }

    #[test]
    fn f16_agrees_with_half() {
        for i in 0..200_000u32 {
            let v = f32::from_bits(i.wrapping_mul(0x9e37_79b9));
            if !v.is_nan() {
                assert_eq!(
                    encode(DType::F16, f64::from(v), false),
                    u64::from(half::f16::from_f32(v).to_bits()),
                    "{v}"
                );
                assert_eq!(
                    encode(DType::BF16, f64::from(v), false),
                    u64::from(half::bf16::from_f32(v).to_bits()),
                    "{v}"
                );
            }
        }
    }

    #[test]
    fn overflow_saturates_or_not() {
        assert_eq!(decode(DType::F8E4M3FN, encode(DType::F8E4M3FN, 1e6, true)), 448.0);
        assert!(decode(DType::F8E4M3FN, encode(DType::F8E4M3FN, 1e6, false)).is_nan());
        assert_eq!(decode(DType::F8E5M2, encode(DType::F8E5M2, -1e9, false)), f64::NEG_INFINITY);
        assert_eq!(decode(DType::F4E2M1, encode(DType::F4E2M1, 100.0, false)), 6.0);
        assert_eq!(decode(DType::F16, encode(DType::F16, f64::NEG_INFINITY, true)), f64::NEG_INFINITY);
        assert_eq!(decode(DType::F16, encode(DType::F16, 1e6, true)), f64::INFINITY);
    }
}
