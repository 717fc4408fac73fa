//! Random numbers and the operators that draw them. Results depend on the seed and the order of execution alone.
//!
//! Operators without a seed draw from SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators",
//! 2014); those with a seed of their own from the generator that ONNX's reference implementation uses, so that they give
//! the numbers that are known for that seed: MT19937 (Matsumoto, Nishimura: "Mersenne Twister", 1998) with the
//! distributions of NumPy's `RandomState`.

use crate::op::Host;
use crate::{DType, Dim, Float, Tensor};

use super::cx::Cx;
use super::fault::{Fault, invalid};
use super::lanes::{Lanes, floats};

/// A source of random numbers.
trait Draw {
    /// Uniform in `[0, 1)`.
    fn uniform(&mut self) -> f64;
    /// Standard normal.
    fn normal(&mut self) -> f64;
}

/// A SplitMix64 generator.
#[derive(Clone, Debug)]
pub(super) struct Rng {
    state: u64,
}

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Rng { state: seed }
    }

    /// 64 random bits.
    pub(super) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl Draw for Rng {
    fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Box and Muller's transform.
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * libm::log(1.0 - self.uniform())).sqrt();
        radius * libm::cos(std::f64::consts::TAU * self.uniform())
    }
}

/// An MT19937 generator.
struct Twister {
    words: [u32; Self::SIZE],
    at: usize,
    /// The second of two normal numbers that are computed at once.
    kept: Option<f64>,
}

impl Twister {
    const SIZE: usize = 624;

    fn new(seed: u32) -> Self {
        let mut words = [seed; Self::SIZE];
        for i in 1..Self::SIZE {
            let before = words[i - 1];
            words[i] = 1_812_433_253u32.wrapping_mul(before ^ (before >> 30)).wrapping_add(i as u32);
        }
        Twister { words, at: Self::SIZE, kept: None }
    }

    /// The generator of an operator's seed. NumPy takes integers below 2^32; the bits of others are folded.
    fn of(seed: Float) -> Self {
        let value = seed.get();
        let whole = value.trunc();
        let folded = value.to_bits() ^ (value.to_bits() >> 32);
        Self::new(if (0.0..4_294_967_296.0).contains(&whole) { whole as u32 } else { folded as u32 })
    }

    fn twist(&mut self) {
        for i in 0..Self::SIZE {
            let next = self.words[(i + 1) % Self::SIZE];
            let mixed = (self.words[i] & 0x8000_0000) | (next & 0x7fff_ffff);
            let odd = if mixed & 1 == 1 { 0x9908_b0df } else { 0 };
            self.words[i] = self.words[(i + 397) % Self::SIZE] ^ (mixed >> 1) ^ odd;
        }
        self.at = 0;
    }

    fn next(&mut self) -> u32 {
        if self.at == Self::SIZE {
            self.twist();
        }
        let mut y = self.words[self.at];
        self.at += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }
}

impl Draw for Twister {
    fn uniform(&mut self) -> f64 {
        let (high, low) = (self.next() >> 5, self.next() >> 6);
        (f64::from(high) * 67_108_864.0 + f64::from(low)) / 9_007_199_254_740_992.0
    }

    /// Marsaglia's polar method, the second number first, as NumPy has it.
    fn normal(&mut self) -> f64 {
        if let Some(kept) = self.kept.take() {
            return kept;
        }
        loop {
            let (a, b) = (2.0 * self.uniform() - 1.0, 2.0 * self.uniform() - 1.0);
            let square = a * a + b * b;
            if square < 1.0 && square != 0.0 {
                let factor = (-2.0 * libm::log(square) / square).sqrt();
                self.kept = Some(factor * a);
                return factor * b;
            }
        }
    }
}

/// A random operator.
pub(super) fn random(cx: &mut Cx<'_>, op: &Host, operands: &[&Tensor]) -> Result<Tensor, Fault> {
    match op {
        Host::RandomUniform { shape, dtype, low, high, seed } => {
            let (low, high) = (low.get(), high.get());
            fill(cx, shape, *dtype, *seed, |r| low + (high - low) * r.uniform())
        }
        Host::RandomNormal { shape, dtype, mean, scale, seed } => {
            let (mean, scale) = (mean.get(), scale.get());
            fill(cx, shape, *dtype, *seed, |r| mean + scale * r.normal())
        }
        Host::Bernoulli { dtype, seed } => bernoulli(cx, operands, *dtype, *seed),
        other => invalid(format!("{} is not random", other.mnemonic())),
    }
}

/// Draws with the operator's own seed, or from the evaluator's generator.
fn draw(cx: &mut Cx<'_>, seed: Option<Float>, body: impl FnOnce(&mut dyn Draw) -> Vec<f64>) -> Vec<f64> {
    match seed {
        Some(seed) => body(&mut Twister::of(seed)),
        None => body(&mut cx.random),
    }
}

fn fill(
    cx: &mut Cx<'_>,
    shape: &[Dim],
    dtype: DType,
    seed: Option<Float>,
    each: impl Fn(&mut dyn Draw) -> f64,
) -> Result<Tensor, Fault> {
    let dims = cx.sizes(shape)?;
    let count = cx.admit(dtype, &dims)?;
    if !dtype.is_float() {
        return invalid(format!("random values of {dtype}"));
    }
    let values = draw(cx, seed, |r| (0..count).map(|_| each(r)).collect());
    Lanes::F(values).encode(dtype, &dims)
}

fn bernoulli(
    cx: &mut Cx<'_>,
    operands: &[&Tensor],
    dtype: DType,
    seed: Option<Float>,
) -> Result<Tensor, Fault> {
    let &[x] = operands else { return invalid("takes one operand") };
    cx.admit(dtype, x.dims())?;
    let chances = floats(x)?;
    let values =
        draw(cx, seed, |r| chances.iter().map(|&p| if r.uniform() < p { 1.0 } else { 0.0 }).collect());
    Lanes::F(values).encode(dtype, x.dims())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_splitmix64() {
        // Reference output for seed 1234567 (https://rosettacode.org/wiki/Pseudo-random_numbers/Splitmix64).
        let mut r = Rng::new(1_234_567);
        assert_eq!(
            [r.next(), r.next(), r.next()],
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
    }

    #[test]
    fn seeds_give_the_numbers_of_numpy() {
        // numpy.random.RandomState(0).rand(3), .randn(3)
        let mut r = Twister::of(Float::new(0.0));
        let uniform: Vec<f64> = (0..3).map(|_| r.uniform()).collect();
        assert_eq!(uniform, [0.548_813_503_927_324_8, 0.715_189_366_372_419_5, 0.602_763_376_071_643_9]);
        let mut r = Twister::of(Float::new(0.0));
        let normal: Vec<f64> = (0..3).map(|_| r.normal()).collect();
        let expected = [1.764_052_345_967_664, 0.400_157_208_367_223_3, 0.978_737_984_105_739_2];
        assert!(normal.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-14), "{normal:?}");
    }

    #[test]
    fn normal_values_have_the_moments() {
        let mut r = Rng::new(7);
        let values: Vec<f64> = (0..20_000).map(|_| r.normal()).collect();
        let mean = values.iter().sum::<f64>() / 20_000.0;
        let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / 20_000.0;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
    }
}
