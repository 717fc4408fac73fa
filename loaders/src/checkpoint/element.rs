//! Element types of checkpoints: those of the graph IR, and those that only files know.

use std::fmt;

use kiln_ir::{DClass, DType};

/// A type of elements that the graph IR lacks: so many bytes hold so many elements.
#[derive(Debug, PartialEq, Eq)]
pub struct Foreign {
    /// The name that its framework uses.
    pub name: &'static str,
    /// Elements of the smallest unit.
    pub elements: usize,
    /// Bytes of the smallest unit.
    pub bytes: usize,
    /// Bytes of the numbers in it, which byte order applies to.
    pub word: usize,
}

const fn foreign(name: &'static str, elements: usize, bytes: usize, word: usize) -> Foreign {
    Foreign { name, elements, bytes, word }
}

/// Torch's complex number of two f16, its f4 pairs that count as one element, and its types of less than a byte, which
/// have names but no arithmetic: their elements take a byte.
static TORCH: &[Foreign] = &[
    foreign("complex32", 1, 4, 2),
    foreign("float4_e2m1fn_x2", 1, 1, 1),
    foreign("bits8", 1, 1, 1),
    foreign("bits16", 1, 2, 2),
    foreign("bits1x8", 1, 1, 1),
    foreign("bits2x4", 1, 1, 1),
    foreign("bits4x2", 1, 1, 1),
    foreign("uint1", 1, 1, 1),
    foreign("uint2", 1, 1, 1),
    foreign("uint3", 1, 1, 1),
    foreign("uint4", 1, 1, 1),
    foreign("uint5", 1, 1, 1),
    foreign("uint6", 1, 1, 1),
    foreign("uint7", 1, 1, 1),
    foreign("int1", 1, 1, 1),
    foreign("int2", 1, 1, 1),
    foreign("int3", 1, 1, 1),
    foreign("int4", 1, 1, 1),
    foreign("int5", 1, 1, 1),
    foreign("int6", 1, 1, 1),
    foreign("int7", 1, 1, 1),
];

/// f6 of safetensors.
static F6: [Foreign; 2] = [foreign("f6e2m3", 4, 3, 1), foreign("f6e3m2", 4, 3, 1)];

/// Type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// A type of the graph IR.
    Plain(DType),
    /// A type that only files know.
    Foreign(&'static Foreign),
}

impl Element {
    /// The type of the graph IR, if it has this one.
    pub fn dtype(self) -> Option<DType> {
        match self {
            Element::Plain(dtype) => Some(dtype),
            Element::Foreign(_) => None,
        }
    }

    /// Bytes of one element, where elements begin at bytes.
    pub fn size(self) -> Option<usize> {
        match self {
            Element::Plain(dtype) => (dtype.bits() >= 8).then_some(dtype.bits() / 8),
            Element::Foreign(f) => (f.elements == 1).then_some(f.bytes),
        }
    }

    /// Bytes that so many elements take, densely packed; `None` if they do not fill whole units or are too many.
    pub fn bytes_for(self, count: usize) -> Option<usize> {
        match self {
            Element::Plain(dtype) => dtype.bytes_for(count),
            Element::Foreign(f) => match count % f.elements {
                0 => (count / f.elements).checked_mul(f.bytes),
                _ => None,
            },
        }
    }

    /// Bytes of a torch storage of so many elements: types of less than a byte count bytes there.
    pub(super) fn storage_bytes(self, numel: usize) -> Option<usize> {
        numel.checked_mul(self.size().unwrap_or(1))
    }

    /// Bytes of the numbers that byte order applies to.
    pub fn word(self) -> usize {
        match self {
            Element::Plain(dtype) => match dtype.class() {
                DClass::Complex => dtype.bits() / 16,
                DClass::Bool | DClass::Signed | DClass::Unsigned | DClass::Float | DClass::Text => {
                    (dtype.bits() / 8).max(1)
                }
            },
            Element::Foreign(f) => f.word,
        }
    }

    /// The type of a torch dtype, by its name in module `torch`.
    pub fn of_torch(name: &str) -> Option<Element> {
        let dtype = match name {
            "float32" | "float" => DType::F32,
            "float64" | "double" => DType::F64,
            "float16" | "half" => DType::F16,
            "bfloat16" => DType::BF16,
            "uint8" | "quint8" => DType::U8,
            "uint16" => DType::U16,
            "uint32" => DType::U32,
            "uint64" => DType::U64,
            "int8" | "qint8" => DType::I8,
            "int16" | "short" => DType::I16,
            "int32" | "int" | "qint32" => DType::I32,
            "int64" | "long" => DType::I64,
            "bool" => DType::Bool,
            "complex64" | "cfloat" => DType::C64,
            "complex128" | "cdouble" => DType::C128,
            "float8_e4m3fn" => DType::F8E4M3FN,
            "float8_e4m3fnuz" => DType::F8E4M3FNUZ,
            "float8_e5m2" => DType::F8E5M2,
            "float8_e5m2fnuz" => DType::F8E5M2FNUZ,
            "float8_e8m0fnu" => DType::F8E8M0,
            "quint4x2" => DType::U4,
            "quint2x4" => DType::U2,
            "chalf" => return Element::of_torch("complex32"),
            other => return TORCH.iter().find(|f| f.name == other).map(Element::Foreign),
        };
        Some(Element::Plain(dtype))
    }

    /// The type of a torch storage class, by its name. Untyped storages are of bytes.
    pub fn of_storage(class: &str) -> Option<Element> {
        Some(Element::Plain(match class {
            "FloatStorage" => DType::F32,
            "DoubleStorage" => DType::F64,
            "HalfStorage" => DType::F16,
            "BFloat16Storage" => DType::BF16,
            "ByteStorage" | "QUInt8Storage" | "UntypedStorage" | "_UntypedStorage" => DType::U8,
            "CharStorage" | "QInt8Storage" => DType::I8,
            "ShortStorage" => DType::I16,
            "IntStorage" | "QInt32Storage" => DType::I32,
            "LongStorage" => DType::I64,
            "BoolStorage" => DType::Bool,
            "ComplexFloatStorage" => DType::C64,
            "ComplexDoubleStorage" => DType::C128,
            "QUInt4x2Storage" => DType::U4,
            "QUInt2x4Storage" => DType::U2,
            _ => return None,
        }))
    }

    /// The type of a safetensors dtype.
    pub fn of_safetensors(name: &str) -> Option<Element> {
        let [e2m3, e3m2] = &F6;
        Some(Element::Plain(match name {
            "BOOL" => DType::Bool,
            "F4" => DType::F4E2M1,
            "F6_E2M3" => return Some(Element::Foreign(e2m3)),
            "F6_E3M2" => return Some(Element::Foreign(e3m2)),
            "U8" => DType::U8,
            "I8" => DType::I8,
            "F8_E5M2" => DType::F8E5M2,
            "F8_E4M3" => DType::F8E4M3FN,
            "F8_E8M0" => DType::F8E8M0,
            "F8_E4M3FNUZ" => DType::F8E4M3FNUZ,
            "F8_E5M2FNUZ" => DType::F8E5M2FNUZ,
            "I16" => DType::I16,
            "U16" => DType::U16,
            "F16" => DType::F16,
            "BF16" => DType::BF16,
            "I32" => DType::I32,
            "U32" => DType::U32,
            "F32" => DType::F32,
            "C64" => DType::C64,
            "F64" => DType::F64,
            "I64" => DType::I64,
            "U64" => DType::U64,
            _ => return None,
        }))
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Element::Plain(dtype) => dtype.fmt(f),
            Element::Foreign(foreign) => f.write_str(foreign.name),
        }
    }
}
