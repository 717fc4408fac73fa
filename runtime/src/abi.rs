//! The binary contract between compiled kernels and the runtime.
//!
//! A kernel is position-independent, relocation-free machine code with the signature [`KernelFn`]. It reads its
//! arguments from one [`KernelArgs`] and calls out only through the [`HelperTable`] that the arguments point to. It
//! never panics, unwinds, allocates or blocks, and writes nothing but its writable buffers and its scratch.
//!
//! What a kernel may count on: scratch and arena buffers are aligned to [`ALIGNMENT`] bytes and followed by [`SLACK`]
//! readable bytes; a caller's tensor, a constant, or a view into another buffer is aligned to its element size only,
//! and nothing behind it may be touched. So kernels use unaligned vector loads and stores.

use std::mem::offset_of;

use kiln_ir::{DType, float};

/// Version of everything in this module; a program built for another version is refused.
pub const ABI_VERSION: u32 = 1;

/// Alignment in bytes of scratch and arena buffers.
pub const ALIGNMENT: usize = 64;

/// Readable bytes after every arena buffer and scratch area, so that vector tails may over-read.
pub const SLACK: usize = 64;

/// Arguments of one kernel call.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct KernelArgs {
    /// One base pointer per buffer parameter, in kernel order.
    pub buffers: *const *mut u8,
    /// Run-time integers (extents, strides, offsets), in kernel order.
    pub dims: *const i64,
    /// Functions the kernel may call.
    pub helpers: *const HelperTable,
    /// Scratch memory of the calling worker: `KernelInfo::scratch_bytes` bytes, contents undefined.
    pub scratch: *mut u8,
    /// First index of the flattened parallel grid that this call computes.
    pub chunk_begin: u64,
    /// One past the last index that this call computes.
    pub chunk_end: u64,
}

/// Byte offsets of the fields of [`KernelArgs`] on 64-bit targets, for code generators.
pub mod args_offset {
    use super::{KernelArgs, offset_of};

    /// Offset of `buffers`.
    pub const BUFFERS: u32 = offset_of!(KernelArgs, buffers) as u32;
    /// Offset of `dims`.
    pub const DIMS: u32 = offset_of!(KernelArgs, dims) as u32;
    /// Offset of `helpers`.
    pub const HELPERS: u32 = offset_of!(KernelArgs, helpers) as u32;
    /// Offset of `scratch`.
    pub const SCRATCH: u32 = offset_of!(KernelArgs, scratch) as u32;
    /// Offset of `chunk_begin`.
    pub const CHUNK_BEGIN: u32 = offset_of!(KernelArgs, chunk_begin) as u32;
    /// Offset of `chunk_end`.
    pub const CHUNK_END: u32 = offset_of!(KernelArgs, chunk_end) as u32;
}

/// Type of a helper's parameter or result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AbiType {
    /// 32-bit integer register; narrower bit patterns are zero-extended in it.
    I32,
    /// 64-bit integer register.
    I64,
    /// Single precision register.
    F32,
    /// Double precision register.
    F64,
}

/// One entry of the [`HelperTable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HelperInfo {
    /// Name, for example `expf32`.
    pub name: &'static str,
    /// Byte offset of the function pointer in the table.
    pub offset: u32,
    /// Parameter types.
    pub params: &'static [AbiType],
    /// Result type.
    pub result: AbiType,
}

macro_rules! abi_type {
    (u32) => {
        AbiType::I32
    };
    (u64) => {
        AbiType::I64
    };
    (i64) => {
        AbiType::I64
    };
    (f32) => {
        AbiType::F32
    };
    (f64) => {
        AbiType::F64
    };
}

/// Defines the table from rows `name(arg: type, ..) -> type = body;` in the given calling convention.
macro_rules! define_helpers {
    ($abi:tt $($name:ident($($arg:ident: $ty:ident),*) -> $result:ident = $body:expr;)*) => {
        /// A compiled kernel.
        pub type KernelFn = unsafe extern $abi fn(*const KernelArgs);

        /// Functions that kernels call through [`KernelArgs::helpers`]. Every one is total: any bit pattern is a
        /// valid argument, none panics.
        ///
        /// `<f>f32` rounds the double precision result once; `f32to<t>` and `f64to<t>` round to nearest even and
        /// leave the bits in the low end of the integer; what is too large for the small type becomes its infinity
        /// or NaN, or with `sat` its largest value. `rem` and `mod` are the remainders of the scalar primitives
        /// of the same name; `powi64` and `powu64` wrap.
        #[repr(C)]
        #[derive(Debug)]
        pub struct HelperTable {
            /// [`ABI_VERSION`].
            pub version: u64,
            $(#[allow(missing_docs)] pub $name: extern $abi fn($($ty),*) -> $result,)*
        }

        /// Every helper, in table order.
        pub const HELPERS: &[HelperInfo] = &[$(HelperInfo {
            name: stringify!($name),
            offset: offset_of!(HelperTable, $name) as u32,
            params: &[$(abi_type!($ty)),*],
            result: abi_type!($result),
        },)*];

        /// The table that sessions hand to kernels.
        pub static HELPER_TABLE: HelperTable = {
            $(extern $abi fn $name($($arg: $ty),*) -> $result {
                $body
            })*
            HelperTable { version: ABI_VERSION as u64, $($name,)* }
        };
    };
}

/// The rows of the table; new rows go to the end, so that offsets of older ones stay.
macro_rules! helpers_with_abi {
    ($abi:tt) => {
        define_helpers! { $abi
            expf32(x: f32) -> f32 = libm::exp(x as f64) as f32;
            logf32(x: f32) -> f32 = libm::log(x as f64) as f32;
            log1pf32(x: f32) -> f32 = libm::log1p(x as f64) as f32;
            expm1f32(x: f32) -> f32 = libm::expm1(x as f64) as f32;
            sinf32(x: f32) -> f32 = libm::sin(x as f64) as f32;
            cosf32(x: f32) -> f32 = libm::cos(x as f64) as f32;
            tanf32(x: f32) -> f32 = libm::tan(x as f64) as f32;
            asinf32(x: f32) -> f32 = libm::asin(x as f64) as f32;
            acosf32(x: f32) -> f32 = libm::acos(x as f64) as f32;
            atanf32(x: f32) -> f32 = libm::atan(x as f64) as f32;
            sinhf32(x: f32) -> f32 = libm::sinh(x as f64) as f32;
            coshf32(x: f32) -> f32 = libm::cosh(x as f64) as f32;
            tanhf32(x: f32) -> f32 = libm::tanh(x as f64) as f32;
            asinhf32(x: f32) -> f32 = libm::asinh(x as f64) as f32;
            acoshf32(x: f32) -> f32 = libm::acosh(x as f64) as f32;
            atanhf32(x: f32) -> f32 = libm::atanh(x as f64) as f32;
            erff32(x: f32) -> f32 = libm::erf(x as f64) as f32;
            floorf32(x: f32) -> f32 = x.floor();
            ceilf32(x: f32) -> f32 = x.ceil();
            roundf32(x: f32) -> f32 = x.round_ties_even();
            truncf32(x: f32) -> f32 = x.trunc();
            powf32(x: f32, y: f32) -> f32 = libm::pow(x as f64, y as f64) as f32;
            remf32(x: f32, y: f32) -> f32 = libm::fmod(x as f64, y as f64) as f32;
            modf32(x: f32, y: f32) -> f32 = float_mod(x as f64, y as f64) as f32;
            fmaf32(x: f32, y: f32, z: f32) -> f32 = x.mul_add(y, z);
            expf64(x: f64) -> f64 = libm::exp(x);
            logf64(x: f64) -> f64 = libm::log(x);
            log1pf64(x: f64) -> f64 = libm::log1p(x);
            expm1f64(x: f64) -> f64 = libm::expm1(x);
            sinf64(x: f64) -> f64 = libm::sin(x);
            cosf64(x: f64) -> f64 = libm::cos(x);
            tanf64(x: f64) -> f64 = libm::tan(x);
            asinf64(x: f64) -> f64 = libm::asin(x);
            acosf64(x: f64) -> f64 = libm::acos(x);
            atanf64(x: f64) -> f64 = libm::atan(x);
            sinhf64(x: f64) -> f64 = libm::sinh(x);
            coshf64(x: f64) -> f64 = libm::cosh(x);
            tanhf64(x: f64) -> f64 = libm::tanh(x);
            asinhf64(x: f64) -> f64 = libm::asinh(x);
            acoshf64(x: f64) -> f64 = libm::acosh(x);
            atanhf64(x: f64) -> f64 = libm::atanh(x);
            erff64(x: f64) -> f64 = libm::erf(x);
            floorf64(x: f64) -> f64 = x.floor();
            ceilf64(x: f64) -> f64 = x.ceil();
            roundf64(x: f64) -> f64 = x.round_ties_even();
            truncf64(x: f64) -> f64 = x.trunc();
            powf64(x: f64, y: f64) -> f64 = libm::pow(x, y);
            remf64(x: f64, y: f64) -> f64 = libm::fmod(x, y);
            modf64(x: f64, y: f64) -> f64 = float_mod(x, y);
            fmaf64(x: f64, y: f64, z: f64) -> f64 = x.mul_add(y, z);
            powi64(x: i64, y: i64) -> i64 = signed_pow(x, y);
            powu64(x: u64, y: u64) -> u64 = unsigned_pow(x, y);
            f16tof32(x: u32) -> f32 = half::f16::from_bits(x as u16).to_f32();
            f32tof16(x: f32) -> u32 = half::f16::from_f32(x).to_bits() as u32;
            f64tof16(x: f64) -> u32 = float::encode(DType::F16, x, false) as u32;
            bf16tof32(x: u32) -> f32 = half::bf16::from_bits(x as u16).to_f32();
            f32tobf16(x: f32) -> u32 = half::bf16::from_f32(x).to_bits() as u32;
            f64tobf16(x: f64) -> u32 = float::encode(DType::BF16, x, false) as u32;
            f8e4m3fntof32(x: u32) -> f32 = float::decode(DType::F8E4M3FN, x as u64) as f32;
            f32tof8e4m3fn(x: f32) -> u32 = float::encode(DType::F8E4M3FN, x as f64, false) as u32;
            f64tof8e4m3fn(x: f64) -> u32 = float::encode(DType::F8E4M3FN, x, false) as u32;
            f32tof8e4m3fnsat(x: f32) -> u32 = float::encode(DType::F8E4M3FN, x as f64, true) as u32;
            f8e4m3fnuztof32(x: u32) -> f32 = float::decode(DType::F8E4M3FNUZ, x as u64) as f32;
            f32tof8e4m3fnuz(x: f32) -> u32 = float::encode(DType::F8E4M3FNUZ, x as f64, false) as u32;
            f64tof8e4m3fnuz(x: f64) -> u32 = float::encode(DType::F8E4M3FNUZ, x, false) as u32;
            f32tof8e4m3fnuzsat(x: f32) -> u32 = float::encode(DType::F8E4M3FNUZ, x as f64, true) as u32;
            f8e5m2tof32(x: u32) -> f32 = float::decode(DType::F8E5M2, x as u64) as f32;
            f32tof8e5m2(x: f32) -> u32 = float::encode(DType::F8E5M2, x as f64, false) as u32;
            f64tof8e5m2(x: f64) -> u32 = float::encode(DType::F8E5M2, x, false) as u32;
            f32tof8e5m2sat(x: f32) -> u32 = float::encode(DType::F8E5M2, x as f64, true) as u32;
            f8e5m2fnuztof32(x: u32) -> f32 = float::decode(DType::F8E5M2FNUZ, x as u64) as f32;
            f32tof8e5m2fnuz(x: f32) -> u32 = float::encode(DType::F8E5M2FNUZ, x as f64, false) as u32;
            f64tof8e5m2fnuz(x: f64) -> u32 = float::encode(DType::F8E5M2FNUZ, x, false) as u32;
            f32tof8e5m2fnuzsat(x: f32) -> u32 = float::encode(DType::F8E5M2FNUZ, x as f64, true) as u32;
            f8e8m0tof32(x: u32) -> f32 = float::decode(DType::F8E8M0, x as u64) as f32;
            f32tof8e8m0(x: f32) -> u32 = float::encode(DType::F8E8M0, x as f64, false) as u32;
            f64tof8e8m0(x: f64) -> u32 = float::encode(DType::F8E8M0, x, false) as u32;
            f32tof8e8m0sat(x: f32) -> u32 = float::encode(DType::F8E8M0, x as f64, true) as u32;
            f4e2m1tof32(x: u32) -> f32 = float::decode(DType::F4E2M1, x as u64) as f32;
            f32tof4e2m1(x: f32) -> u32 = float::encode(DType::F4E2M1, x as f64, false) as u32;
            f64tof4e2m1(x: f64) -> u32 = float::encode(DType::F4E2M1, x, false) as u32;
            f32tof4e2m1sat(x: f32) -> u32 = float::encode(DType::F4E2M1, x as f64, true) as u32;
        }
    };
}

#[cfg(target_arch = "x86_64")]
helpers_with_abi!("sysv64");
#[cfg(not(target_arch = "x86_64"))]
helpers_with_abi!("C");

/// The helper of that name.
pub fn helper(name: &str) -> Option<&'static HelperInfo> {
    HELPERS.iter().find(|h| h.name == name)
}

/// Byte offset in the [`HelperTable`] of the helper of that name.
pub fn helper_offset(name: &str) -> Option<u32> {
    helper(name).map(|h| h.offset)
}

fn float_mod(x: f64, y: f64) -> f64 {
    let r = libm::fmod(x, y);
    if r != 0.0 && (r < 0.0) != (y < 0.0) { r + y } else { r }
}

fn signed_pow(x: i64, y: i64) -> i64 {
    match (x, u64::try_from(y)) {
        (_, Ok(y)) => unsigned_pow(x as u64, y) as i64,
        (1, Err(_)) => 1,
        (-1, Err(_)) if y % 2 == 0 => 1,
        (-1, Err(_)) => -1,
        (_, Err(_)) => 0,
    }
}

fn unsigned_pow(x: u64, mut y: u64) -> u64 {
    let (mut base, mut result) = (x, 1u64);
    while y > 0 {
        if y & 1 == 1 {
            result = result.wrapping_mul(base);
        }
        base = base.wrapping_mul(base);
        y >>= 1;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_ir::{Prim, Scalar};

    /// The pointer at a helper's offset, read as a kernel reads it.
    fn pointer(name: &str) -> *const () {
        let offset = helper_offset(name).unwrap() as usize;
        let table = (&raw const HELPER_TABLE).cast::<u8>();
        // SAFETY: the offset comes from `offset_of!` on the table's own type.
        unsafe { table.add(offset).cast::<*const ()>().read() }
    }

    #[test]
    fn offsets_lead_to_the_named_function() {
        assert_eq!(pointer("expf32"), HELPER_TABLE.expf32 as *const ());
        assert_eq!(pointer("f64tobf16"), HELPER_TABLE.f64tobf16 as *const ());
        assert_eq!(HELPERS[0].offset as usize, size_of::<u64>());
        assert!(helper("nosuch").is_none());
        assert_eq!(args_offset::CHUNK_END as usize + 8, size_of::<KernelArgs>());
    }

    #[test]
    fn double_precision_helpers_agree_with_the_scalar_primitives() {
        let xs = [-1e300, -7.5, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 2.5, 1e300, f64::INFINITY, f64::NAN];
        let unary = [
            (Prim::Exp, HELPER_TABLE.expf64),
            (Prim::Expm1, HELPER_TABLE.expm1f64),
            (Prim::Erf, HELPER_TABLE.erff64),
            (Prim::Tanh, HELPER_TABLE.tanhf64),
            (Prim::Round, HELPER_TABLE.roundf64),
        ];
        let binary = [
            (Prim::Pow, HELPER_TABLE.powf64),
            (Prim::Rem, HELPER_TABLE.remf64),
            (Prim::Mod, HELPER_TABLE.modf64),
        ];
        let same = |s: Scalar, v: f64| matches!(s, Scalar::F(e) if e.to_bits() == v.to_bits() || (e.is_nan() && v.is_nan()));
        for x in xs {
            for (p, f) in unary {
                assert!(same(p.apply(&[Scalar::F(x)], 64), f(x)), "{} of {x}", p.name());
            }
            for y in xs {
                for (p, f) in binary {
                    assert!(
                        same(p.apply(&[Scalar::F(x), Scalar::F(y)], 64), f(x, y)),
                        "{} of {x}, {y}",
                        p.name()
                    );
                }
            }
        }
    }

    #[test]
    fn integer_powers_are_total() {
        assert_eq!((HELPER_TABLE.powi64)(-2, 3), -8);
        assert_eq!((HELPER_TABLE.powi64)(-1, i64::MIN), 1);
        assert_eq!((HELPER_TABLE.powi64)(3, -1), 0);
        assert_eq!((HELPER_TABLE.powu64)(u64::MAX, u64::MAX), u64::MAX);
        assert_eq!((HELPER_TABLE.f32tof16)((HELPER_TABLE.f16tof32)(0x3c01)), 0x3c01);
    }
}
