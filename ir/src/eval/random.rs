//! Random numbers: SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014), and the
//! operators that draw from it. Results depend on the seed and the order of execution alone.

use crate::op::Host;
use crate::{DType, Dim, Float, Tensor};

use super::cx::Cx;
use super::fault::{Fault, invalid};
use super::lanes::{Lanes, floats};

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

    /// Uniform in `[0, 1)`.
    pub(super) fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Standard normal (Box and Muller's transform).
    pub(super) fn normal(&mut self) -> f64 {
        let radius = (-2.0 * libm::log(1.0 - self.uniform())).sqrt();
        radius * libm::cos(std::f64::consts::TAU * self.uniform())
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
fn draw(cx: &mut Cx<'_>, seed: Option<Float>, body: impl FnOnce(&mut Rng) -> Vec<f64>) -> Vec<f64> {
    match seed {
        Some(seed) => body(&mut Rng::new(seed.get().to_bits())),
        None => body(&mut cx.random),
    }
}

fn fill(
    cx: &mut Cx<'_>,
    shape: &[Dim],
    dtype: DType,
    seed: Option<Float>,
    each: impl Fn(&mut Rng) -> f64,
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
    fn normal_values_have_the_moments() {
        let mut r = Rng::new(7);
        let values: Vec<f64> = (0..20_000).map(|_| r.normal()).collect();
        let mean = values.iter().sum::<f64>() / 20_000.0;
        let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / 20_000.0;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
    }
}
