//! CPU features by name, and the tiers that code is compiled for.
//!
//! Names are those of `std::arch::is_x86_feature_detected!` and its aarch64 twin.

use std::sync::OnceLock;

macro_rules! detected {
    ($detect:ident; $($name:tt)*) => {{
        let mut found: Vec<&'static str> = Vec::new();
        $(if std::arch::$detect!($name) {
            found.push($name);
        })*
        found
    }};
}

/// Features of the running machine that this process may use, in a fixed order. The first call asks the system for those
/// that it grants on request, the registers of tiles.
pub fn features() -> &'static [&'static str] {
    static FEATURES: OnceLock<Vec<&'static str>> = OnceLock::new();
    FEATURES.get_or_init(detect)
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Vec<&'static str> {
    let mut found = detected!(is_x86_feature_detected;
        "sse" "sse2" "sse3" "ssse3" "sse4.1" "sse4.2" "popcnt" "cmpxchg16b" "avx" "avx2" "fma" "f16c" "bmi1" "bmi2"
        "lzcnt" "movbe" "aes" "pclmulqdq" "gfni" "vaes" "vpclmulqdq" "avxvnni" "avx512f" "avx512cd" "avx512bw" "avx512dq"
        "avx512vl" "avx512ifma" "avx512vbmi" "avx512vbmi2" "avx512vnni" "avx512bitalg" "avx512vpopcntdq" "avx512bf16"
        "avx512fp16");
    found.extend(tiles());
    found
}

/// The features of tile registers that the machine has and the system grants.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn tiles() -> impl Iterator<Item = &'static str> {
    // Intel's Architecture Instruction Set Extensions: leaf 7, EDX.
    const TILE: u32 = 24;
    const INT8: u32 = 25;
    // Linux, arch/x86/include/uapi/asm/prctl.h; the component is that of the tiles' data.
    const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
    const XTILEDATA: libc::c_ulong = 18;
    let bits = match std::arch::x86_64::__cpuid(0).eax {
        0..7 => 0,
        _ => std::arch::x86_64::__cpuid_count(7, 0).edx,
    };
    let has = move |bit: u32| bits >> bit & 1 == 1;
    // SAFETY: the call takes two integers and changes nothing but what this process may execute.
    let granted =
        has(TILE) && unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) } == 0;
    let names = [("amx-tile", TILE), ("amx-int8", INT8)];
    names.into_iter().filter(move |(_, bit)| granted && has(*bit)).map(|(name, _)| name)
}

#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn tiles() -> impl Iterator<Item = &'static str> {
    std::iter::empty()
}

#[cfg(target_arch = "aarch64")]
fn detect() -> Vec<&'static str> {
    detected!(is_aarch64_feature_detected;
        "neon" "fp16" "dotprod" "i8mm" "bf16" "lse" "rdm" "fhm" "sve" "sve2")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn detect() -> Vec<&'static str> {
    Vec::new()
}

/// Whether the running machine has the feature of that name.
pub fn has(feature: &str) -> bool {
    features().contains(&feature)
}

/// A set of features that many machines share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tier {
    /// Baseline x86-64: SSE2.
    X86V1,
    /// x86-64-v2: SSE4.2.
    X86V2,
    /// x86-64-v3: AVX2, FMA.
    X86V3,
    /// x86-64-v3 and AVX-VNNI, the dot products of bytes.
    X86V3Vnni,
    /// x86-64-v4: AVX-512 F, BW, CD, DQ, VL.
    X86V4,
    /// x86-64-v4 and AVX-512 VNNI.
    X86V4Vnni,
    /// The same and AMX: products of tiles of bytes.
    X86V4Amx,
    /// 64-bit Arm with NEON.
    Aarch64,
}

impl Tier {
    /// Every tier.
    pub const ALL: [Tier; 8] = [
        Tier::X86V1,
        Tier::X86V2,
        Tier::X86V3,
        Tier::X86V3Vnni,
        Tier::X86V4,
        Tier::X86V4Vnni,
        Tier::X86V4Amx,
        Tier::Aarch64,
    ];

    /// Name as the command line takes it.
    pub const fn name(self) -> &'static str {
        match self {
            Tier::X86V1 => "x86-64-v1",
            Tier::X86V2 => "x86-64-v2",
            Tier::X86V3 => "x86-64-v3",
            Tier::X86V3Vnni => "x86-64-v3-vnni",
            Tier::X86V4 => "x86-64-v4",
            Tier::X86V4Vnni => "x86-64-v4-vnni",
            Tier::X86V4Amx => "x86-64-v4-amx",
            Tier::Aarch64 => "aarch64",
        }
    }

    /// The tier of that name.
    pub fn from_name(name: &str) -> Option<Tier> {
        Tier::ALL.into_iter().find(|t| t.name() == name)
    }

    /// Architecture, as `std::env::consts::ARCH` names it.
    pub const fn arch(self) -> &'static str {
        match self {
            Tier::X86V1
            | Tier::X86V2
            | Tier::X86V3
            | Tier::X86V3Vnni
            | Tier::X86V4
            | Tier::X86V4Vnni
            | Tier::X86V4Amx => "x86_64",
            Tier::Aarch64 => "aarch64",
        }
    }

    /// The tier that promises the same without instructions for products of bytes.
    #[must_use]
    pub const fn without_byte_products(self) -> Tier {
        match self {
            Tier::X86V3Vnni => Tier::X86V3,
            Tier::X86V4Vnni | Tier::X86V4Amx => Tier::X86V4,
            Tier::X86V1 | Tier::X86V2 | Tier::X86V3 | Tier::X86V4 | Tier::Aarch64 => self,
        }
    }

    /// Features that the tier promises: those of the x86-64 psABI micro-architecture levels, and those that a name adds.
    pub const fn features(self) -> &'static [&'static str] {
        const V3_VNNI: [&str; 16] = [
            "sse",
            "sse2",
            "sse3",
            "ssse3",
            "sse4.1",
            "sse4.2",
            "popcnt",
            "cmpxchg16b",
            "avx",
            "avx2",
            "fma",
            "f16c",
            "bmi1",
            "bmi2",
            "lzcnt",
            "avxvnni",
        ];
        const V4: [&str; 23] = [
            "sse",
            "sse2",
            "sse3",
            "ssse3",
            "sse4.1",
            "sse4.2",
            "popcnt",
            "cmpxchg16b",
            "avx",
            "avx2",
            "fma",
            "f16c",
            "bmi1",
            "bmi2",
            "lzcnt",
            "avx512f",
            "avx512cd",
            "avx512bw",
            "avx512dq",
            "avx512vl",
            "avx512vnni",
            "amx-tile",
            "amx-int8",
        ];
        match self {
            Tier::X86V1 => V4.split_at(2).0,
            Tier::X86V2 => V4.split_at(8).0,
            Tier::X86V3 => V4.split_at(15).0,
            Tier::X86V3Vnni => &V3_VNNI,
            Tier::X86V4 => V4.split_at(20).0,
            Tier::X86V4Vnni => V4.split_at(21).0,
            Tier::X86V4Amx => &V4,
            Tier::Aarch64 => &["neon"],
        }
    }

    /// Whether the running machine can execute the tier's code.
    pub fn is_supported(self) -> bool {
        self.arch() == std::env::consts::ARCH && self.features().iter().all(|f| has(f))
    }

    /// The highest tier of the running machine.
    pub fn native() -> Option<Tier> {
        Tier::ALL.into_iter().rev().find(|t| t.is_supported())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiers_grow_and_names_round_trip() {
        for tier in Tier::ALL {
            assert_eq!(Tier::from_name(tier.name()), Some(tier));
        }
        let pairs = [
            [Tier::X86V1, Tier::X86V2],
            [Tier::X86V2, Tier::X86V3],
            [Tier::X86V3, Tier::X86V3Vnni],
            [Tier::X86V3, Tier::X86V4],
            [Tier::X86V4, Tier::X86V4Vnni],
            [Tier::X86V4Vnni, Tier::X86V4Amx],
        ];
        for pair in pairs {
            assert!(pair[0].features().iter().all(|f| pair[1].features().contains(f)));
        }
        for tier in Tier::ALL {
            let plain = tier.without_byte_products().features();
            let more: Vec<_> = tier.features().iter().filter(|f| !plain.contains(f)).collect();
            let of_bytes = |f: &&&str| f.ends_with("vnni") || f.starts_with("amx-");
            assert!(more.iter().all(of_bytes), "{}: {more:?}", tier.name());
            assert_eq!(more.is_empty(), tier.without_byte_products() == tier);
        }
        assert!(Tier::X86V3.features().contains(&"fma") && !Tier::X86V3.features().contains(&"avx512f"));
    }

    #[test]
    fn the_native_tier_is_one_the_machine_executes() {
        if let Some(tier) = Tier::native() {
            assert!(tier.is_supported() && tier.features().iter().all(|f| has(f)));
        }
        assert!(!has("no-such-feature"));
    }
}
