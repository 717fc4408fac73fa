//! Element types of tensors.

use std::fmt;
use std::str::FromStr;

macro_rules! dtypes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $bits:literal, $class:ident;)*) => {
        /// Element type of a tensor.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum DType { $($(#[$doc])* $variant,)* }

        impl DType {
            /// Every dtype, in declaration order.
            pub const ALL: &'static [DType] = &[$(DType::$variant,)*];

            /// The name in the text form, for example `f32`.
            pub const fn name(self) -> &'static str {
                match self { $(DType::$variant => $name,)* }
            }

            /// Bits one element takes in memory; 0 for strings, which have no fixed size.
            pub const fn bits(self) -> usize {
                match self { $(DType::$variant => $bits,)* }
            }

            /// The arithmetic class of the dtype.
            pub const fn class(self) -> DClass {
                match self { $(DType::$variant => DClass::$class,)* }
            }
        }
    };
}

/// Arithmetic class of a dtype: decides which scalar operations apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DClass {
    /// `bool`: one byte, 0 or 1.
    Bool,
    /// Two's complement signed integers.
    Signed,
    /// Unsigned integers.
    Unsigned,
    /// Floating point of any width.
    Float,
    /// Pairs of floats: real, imaginary.
    Complex,
    /// UTF-8 text.
    Text,
}

dtypes! {
    /// One byte, 0 or 1.
    Bool = "bool", 8, Bool;
    /// 2-bit signed integer, four to a byte, lowest bits first.
    I2 = "i2", 2, Signed;
    /// 4-bit signed integer, two to a byte, low nibble first.
    I4 = "i4", 4, Signed;
    /// 8-bit signed integer.
    I8 = "i8", 8, Signed;
    /// 16-bit signed integer.
    I16 = "i16", 16, Signed;
    /// 32-bit signed integer.
    I32 = "i32", 32, Signed;
    /// 64-bit signed integer.
    I64 = "i64", 64, Signed;
    /// 2-bit unsigned integer, four to a byte, lowest bits first.
    U2 = "u2", 2, Unsigned;
    /// 4-bit unsigned integer, two to a byte, low nibble first.
    U4 = "u4", 4, Unsigned;
    /// 8-bit unsigned integer.
    U8 = "u8", 8, Unsigned;
    /// 16-bit unsigned integer.
    U16 = "u16", 16, Unsigned;
    /// 32-bit unsigned integer.
    U32 = "u32", 32, Unsigned;
    /// 64-bit unsigned integer.
    U64 = "u64", 64, Unsigned;
    /// IEEE 754 binary16.
    F16 = "f16", 16, Float;
    /// bfloat16.
    BF16 = "bf16", 16, Float;
    /// IEEE 754 binary32.
    F32 = "f32", 32, Float;
    /// IEEE 754 binary64.
    F64 = "f64", 64, Float;
    /// OCP f8 e4m3, finite, one NaN pattern.
    F8E4M3FN = "f8e4m3fn", 8, Float;
    /// f8 e4m3, finite, unsigned zero.
    F8E4M3FNUZ = "f8e4m3fnuz", 8, Float;
    /// OCP f8 e5m2.
    F8E5M2 = "f8e5m2", 8, Float;
    /// f8 e5m2, finite, unsigned zero.
    F8E5M2FNUZ = "f8e5m2fnuz", 8, Float;
    /// OCP e8m0 scale: a power of two, no sign, no zero.
    F8E8M0 = "f8e8m0", 8, Float;
    /// OCP f4 e2m1, two to a byte, low nibble first.
    F4E2M1 = "f4e2m1", 4, Float;
    /// UTF-8 strings.
    String = "string", 0, Text;
    /// Complex of two f32.
    C64 = "c64", 64, Complex;
    /// Complex of two f64.
    C128 = "c128", 128, Complex;
}

impl DType {
    /// Bytes that `count` densely packed elements take, or `None` on overflow and for strings.
    pub fn bytes_for(self, count: usize) -> Option<usize> {
        match self.bits() {
            0 => None,
            bits => count.checked_mul(bits)?.checked_add(7).map(|b| b / 8),
        }
    }

    /// Whether several elements share a byte.
    pub const fn is_packed(self) -> bool {
        self.bits() > 0 && self.bits() < 8
    }

    /// Whether the dtype is floating point.
    pub const fn is_float(self) -> bool {
        matches!(self.class(), DClass::Float)
    }

    /// Whether the dtype is a signed or unsigned integer (`bool` is not).
    pub const fn is_int(self) -> bool {
        matches!(self.class(), DClass::Signed | DClass::Unsigned)
    }

    /// Smallest and largest value of an integer dtype or bool.
    pub const fn int_range(self) -> Option<(i128, i128)> {
        match self.class() {
            DClass::Bool => Some((0, 1)),
            DClass::Signed => Some((-(1i128 << (self.bits() - 1)), (1i128 << (self.bits() - 1)) - 1)),
            DClass::Unsigned => Some((0, (1i128 << self.bits()) - 1)),
            DClass::Float | DClass::Complex | DClass::Text => None,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A dtype name that the text form does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown dtype `{0}`")]
pub struct UnknownDType(pub String);

impl FromStr for DType {
    type Err = UnknownDType;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        DType::ALL.iter().copied().find(|d| d.name() == s).ok_or_else(|| UnknownDType(s.to_owned()))
    }
}

impl serde::Serialize for DType {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.name())
    }
}

impl<'de> serde::Deserialize<'de> for DType {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let name = std::borrow::Cow::<'de, str>::deserialize(d)?;
        name.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for &d in DType::ALL {
            assert_eq!(d.name().parse::<DType>(), Ok(d));
        }
        assert!("f33".parse::<DType>().is_err());
    }

    #[test]
    fn packed_sizes_round_up() {
        assert_eq!(DType::I4.bytes_for(3), Some(2));
        assert_eq!(DType::U2.bytes_for(5), Some(2));
        assert_eq!(DType::F64.bytes_for(usize::MAX), None);
    }
}
