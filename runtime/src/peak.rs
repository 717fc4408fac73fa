//! Measured peaks of the machine: fused multiply-adds and dot products of bytes a second, and memory bandwidth. Benches and profiles divide by
//! these, so that a share of the limit means the same on every machine.

use std::hint::black_box;
use std::time::Instant;

/// Vector widths that have a measurable FMA peak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VectorWidth {
    /// 128-bit: SSE registers, NEON.
    W128,
    /// 256-bit: AVX.
    W256,
    /// 512-bit: AVX-512.
    W512,
}

impl VectorWidth {
    /// The widths that this machine executes with FMA, narrowest first.
    pub fn available() -> Vec<VectorWidth> {
        #[cfg(target_arch = "x86_64")]
        {
            let mut widths = vec![];
            if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
                widths.extend([VectorWidth::W128, VectorWidth::W256]);
            }
            if std::is_x86_feature_detected!("avx512f") {
                widths.push(VectorWidth::W512);
            }
            widths
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            vec![]
        }
    }
}

/// Independent accumulators: FMA latency times FMA throughput fits (4 cycles times 2 a cycle).
#[cfg(target_arch = "x86_64")]
const ACCUMULATORS: usize = 12;

/// Rounds of one timed burst.
const ROUNDS: u64 = 400_000;

/// Best of several short bursts of f32 fused multiply-adds on one core, in GFLOP/s (one FMA on one lane is 2 FLOP).
/// `None` where the machine lacks the width.
pub fn fma_gflops(width: VectorWidth) -> Option<f64> {
    if !VectorWidth::available().contains(&width) {
        return None;
    }
    let mut best = 0.0f64;
    for _ in 0..8 {
        let start = Instant::now();
        let flops = burst(width);
        best = best.max(flops / start.elapsed().as_secs_f64() / 1e9);
    }
    Some(best)
}

/// Best of several short bursts of dot products of four bytes (`vpdpbusd`) on one core, in Gop/s (one product and its
/// addition are 2 operations). `None` where the machine lacks them in that width.
pub fn dot_gops(width: VectorWidth) -> Option<f64> {
    if !has_dots(width) {
        return None;
    }
    let mut best = 0.0f64;
    for _ in 0..8 {
        let start = Instant::now();
        let operations = dot_burst(width);
        best = best.max(operations / start.elapsed().as_secs_f64() / 1e9);
    }
    Some(best)
}

#[cfg(target_arch = "x86_64")]
fn has_dots(width: VectorWidth) -> bool {
    match width {
        VectorWidth::W128 => false,
        VectorWidth::W256 => std::is_x86_feature_detected!("avxvnni"),
        VectorWidth::W512 => std::is_x86_feature_detected!("avx512vnni"),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn has_dots(_: VectorWidth) -> bool {
    false
}

#[cfg(target_arch = "x86_64")]
fn dot_burst(width: VectorWidth) -> f64 {
    let (bytes, sum) = match width {
        VectorWidth::W128 => (0, 0),
        // SAFETY: `dot_gops` checked that the machine has the features of the width.
        VectorWidth::W256 => (32, unsafe { x86::dots256() }),
        // SAFETY: as above.
        VectorWidth::W512 => (64, unsafe { x86::dots512() }),
    };
    black_box(sum);
    (ROUNDS as usize * ACCUMULATORS * bytes * 2) as f64
}

#[cfg(not(target_arch = "x86_64"))]
fn dot_burst(_: VectorWidth) -> f64 {
    0.0
}

#[cfg(target_arch = "x86_64")]
fn burst(width: VectorWidth) -> f64 {
    let (lanes, sum) = match width {
        // SAFETY: `fma_gflops` checked that the machine has the features of the width.
        VectorWidth::W128 => (4, unsafe { x86::burst128() }),
        // SAFETY: as above.
        VectorWidth::W256 => (8, unsafe { x86::burst256() }),
        // SAFETY: as above.
        VectorWidth::W512 => (16, unsafe { x86::burst512() }),
    };
    black_box(sum);
    (ROUNDS as usize * ACCUMULATORS * lanes * 2) as f64
}

#[cfg(not(target_arch = "x86_64"))]
fn burst(_: VectorWidth) -> f64 {
    0.0
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    use super::{ACCUMULATORS, ROUNDS};

    macro_rules! burst {
        ($name:ident, $features:literal, $set:ident, $fma:ident, $add:ident, $first:expr) => {
            #[target_feature(enable = $features)]
            pub fn $name() -> f32 {
                // Opaque factors keep the loop from being folded; both stay in registers.
                let (a, b) = ($set(black_box(0.999_9)), $set(black_box(1e-6)));
                let mut acc = [$set(black_box(1.0)); ACCUMULATORS];
                for _ in 0..ROUNDS {
                    for x in &mut acc {
                        *x = $fma(*x, a, b);
                    }
                }
                let mut sum = acc[0];
                for x in &acc[1..] {
                    sum = $add(sum, *x);
                }
                $first(sum)
            }
        };
    }

    macro_rules! dots {
        ($name:ident, $features:literal, $set:ident, $dot:ident, $add:ident, $first:ident) => {
            #[target_feature(enable = $features)]
            pub fn $name() -> i32 {
                let (a, b) = ($set(black_box(0x0102_0304)), $set(black_box(0x0101_ff02)));
                let mut acc = [$set(black_box(1)); ACCUMULATORS];
                for _ in 0..ROUNDS {
                    for x in &mut acc {
                        *x = $dot(*x, a, b);
                    }
                }
                let mut sum = acc[0];
                for x in &acc[1..] {
                    sum = $add(sum, *x);
                }
                $first(sum)
            }
        };
    }

    dots!(
        dots256,
        "avx2,avxvnni",
        _mm256_set1_epi32,
        _mm256_dpbusd_avx_epi32,
        _mm256_add_epi32,
        _mm256_cvtsi256_si32
    );
    dots!(
        dots512,
        "avx512f,avx512vnni",
        _mm512_set1_epi32,
        _mm512_dpbusd_epi32,
        _mm512_add_epi32,
        _mm512_cvtsi512_si32
    );

    burst!(burst128, "avx2,fma", _mm_set1_ps, _mm_fmadd_ps, _mm_add_ps, |v| _mm_cvtss_f32(v));
    burst!(burst256, "avx2,fma", _mm256_set1_ps, _mm256_fmadd_ps, _mm256_add_ps, |v| _mm256_cvtss_f32(v));
    burst!(burst512, "avx512f", _mm512_set1_ps, _mm512_fmadd_ps, _mm512_add_ps, |v| _mm512_cvtss_f32(v));
}

/// Best of several passes over a buffer that no cache holds, read by `threads` threads, in GB/s.
pub fn read_gbps(threads: usize) -> f64 {
    let words = (128usize << 20) / 8;
    let data = vec![1u64; words];
    let part = words.div_ceil(threads.max(1));
    let mut best = 0.0f64;
    for _ in 0..3 {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for slice in data.chunks(part) {
                scope.spawn(move || black_box(slice.iter().fold(0u64, |a, &b| a ^ b)));
            }
        });
        best = best.max((words * 8) as f64 / start.elapsed().as_secs_f64() / 1e9);
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peaks_are_positive_where_available() {
        for width in VectorWidth::available() {
            assert!(fma_gflops(width).is_some_and(|g| g > 0.1));
            assert!(dot_gops(width).is_none_or(|g| g > 0.1));
        }
        assert!(read_gbps(1) > 0.01);
    }
}
