//! The CPU features that code needs, read off its bytes.

use iced_x86::{CpuidFeature, Decoder, DecoderOptions};

/// Why the features of code are unknown.
#[derive(Debug, thiserror::Error)]
pub enum FeatureError {
    /// Bytes that are no instruction.
    #[error("no instruction at offset {0:#x}")]
    Invalid(u64),
    /// An instruction of a feature that the runtime cannot check.
    #[error("the instruction at offset {offset:#x} needs {feature:?}, which has no name here")]
    Unknown {
        /// Offset of the instruction.
        offset: u64,
        /// The decoder's name of the feature.
        feature: CpuidFeature,
    },
}

/// Features that a run of instructions needs, sorted, by the names of `kiln_runtime::cpu`.
pub fn features(text: &[u8]) -> Result<Vec<&'static str>, FeatureError> {
    let mut found = vec![];
    for instruction in Decoder::with_ip(64, text, 0, DecoderOptions::NONE) {
        if instruction.is_invalid() {
            return Err(FeatureError::Invalid(instruction.ip()));
        }
        for &feature in instruction.cpuid_features() {
            match name(feature) {
                Some("") => {}
                Some(name) if found.contains(&name) => {}
                Some(name) => found.push(name),
                None => return Err(FeatureError::Unknown { offset: instruction.ip(), feature }),
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// The runtime's name of a feature; empty for what every x86-64 machine has.
fn name(feature: CpuidFeature) -> Option<&'static str> {
    Some(match feature {
        CpuidFeature::INTEL8086
        | CpuidFeature::INTEL186
        | CpuidFeature::INTEL386
        | CpuidFeature::INTEL486
        | CpuidFeature::X64
        | CpuidFeature::CMOV
        | CpuidFeature::MULTIBYTENOP
        | CpuidFeature::SSE
        | CpuidFeature::SSE2 => "",
        CpuidFeature::SSE3 => "sse3",
        CpuidFeature::SSSE3 => "ssse3",
        CpuidFeature::SSE4_1 => "sse4.1",
        CpuidFeature::SSE4_2 => "sse4.2",
        // Processors that do not know this hint ignore it.
        CpuidFeature::PREFETCHW => "",
        CpuidFeature::AVX => "avx",
        CpuidFeature::AVX2 => "avx2",
        CpuidFeature::FMA => "fma",
        CpuidFeature::F16C => "f16c",
        CpuidFeature::BMI1 => "bmi1",
        CpuidFeature::BMI2 => "bmi2",
        CpuidFeature::LZCNT => "lzcnt",
        CpuidFeature::AVX_VNNI => "avxvnni",
        CpuidFeature::AVX512F => "avx512f",
        CpuidFeature::AVX512VL => "avx512vl",
        CpuidFeature::AVX512BW => "avx512bw",
        CpuidFeature::AVX512DQ => "avx512dq",
        CpuidFeature::AVX512CD => "avx512cd",
        CpuidFeature::AVX512_VNNI => "avx512vnni",
        CpuidFeature::AVX512_BF16 => "avx512bf16",
        CpuidFeature::AVX512_FP16 => "avx512fp16",
        CpuidFeature::AMX_TILE => "amx-tile",
        CpuidFeature::AMX_INT8 => "amx-int8",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_follow_from_bytes() {
        // vaddps ymm0, ymm1, ymm2; ret
        assert_eq!(features(&[0xc5, 0xf4, 0x58, 0xc2, 0xc3]).unwrap(), ["avx"]);
        // vaddps zmm0, zmm1, zmm2
        assert_eq!(features(&[0x62, 0xf1, 0x74, 0x48, 0x58, 0xc2]).unwrap(), ["avx512f"]);
        assert!(matches!(features(&[0x06]), Err(FeatureError::Invalid(0))));
    }
}
