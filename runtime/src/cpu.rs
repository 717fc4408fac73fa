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

/// Features of the running machine, in a fixed order.
pub fn features() -> &'static [&'static str] {
    static FEATURES: OnceLock<Vec<&'static str>> = OnceLock::new();
    FEATURES.get_or_init(detect)
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Vec<&'static str> {
    detected!(is_x86_feature_detected;
        "sse" "sse2" "sse3" "ssse3" "sse4.1" "sse4.2" "popcnt" "cmpxchg16b" "avx" "avx2" "fma" "f16c" "bmi1" "bmi2"
        "lzcnt" "movbe" "aes" "pclmulqdq" "gfni" "vaes" "vpclmulqdq" "avxvnni" "avx512f" "avx512cd" "avx512bw" "avx512dq"
        "avx512vl" "avx512ifma" "avx512vbmi" "avx512vbmi2" "avx512vnni" "avx512bitalg" "avx512vpopcntdq" "avx512bf16"
        "avx512fp16")
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
    /// 64-bit Arm with NEON.
    Aarch64,
}

impl Tier {
    /// Every tier.
    pub const ALL: [Tier; 7] =
        [Tier::X86V1, Tier::X86V2, Tier::X86V3, Tier::X86V3Vnni, Tier::X86V4, Tier::X86V4Vnni, Tier::Aarch64];

    /// Name as the command line takes it.
    pub const fn name(self) -> &'static str {
        match self {
            Tier::X86V1 => "x86-64-v1",
            Tier::X86V2 => "x86-64-v2",
            Tier::X86V3 => "x86-64-v3",
            Tier::X86V3Vnni => "x86-64-v3-vnni",
            Tier::X86V4 => "x86-64-v4",
            Tier::X86V4Vnni => "x86-64-v4-vnni",
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
            Tier::X86V1 | Tier::X86V2 | Tier::X86V3 | Tier::X86V3Vnni | Tier::X86V4 | Tier::X86V4Vnni => {
                "x86_64"
            }
            Tier::Aarch64 => "aarch64",
        }
    }

    /// The tier that promises the same without dot products of bytes.
    #[must_use]
    pub const fn without_vnni(self) -> Tier {
        match self {
            Tier::X86V3Vnni => Tier::X86V3,
            Tier::X86V4Vnni => Tier::X86V4,
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
        const V4: [&str; 21] = [
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
        ];
        match self {
            Tier::X86V1 => V4.split_at(2).0,
            Tier::X86V2 => V4.split_at(8).0,
            Tier::X86V3 => V4.split_at(15).0,
            Tier::X86V3Vnni => &V3_VNNI,
            Tier::X86V4 => V4.split_at(20).0,
            Tier::X86V4Vnni => &V4,
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
        ];
        for pair in pairs {
            assert!(pair[0].features().iter().all(|f| pair[1].features().contains(f)));
        }
        for tier in Tier::ALL {
            let plain = tier.without_vnni().features();
            let more: Vec<_> = tier.features().iter().filter(|f| !plain.contains(f)).collect();
            assert!(more.iter().all(|f| f.ends_with("vnni")), "{}: {more:?}", tier.name());
            assert_eq!(more.len(), usize::from(tier.without_vnni() != tier));
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
