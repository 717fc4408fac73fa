//! Rotary positions: frequencies by the rules of `transformers/modeling_rope_utils.py`, in the precision that it has.

use kiln_ir::{Build, DType, Dim, Tensor, Value};

use super::Fault;
use super::config::Config;
use super::layers::Net;

/// How the frequencies follow from their base.
enum Scaling {
    /// As they are.
    None,
    /// Divided by a factor.
    Linear(f64),
    /// Llama 3's: long waves divided by the factor, short ones as they are, and a blend between.
    Llama3 { factor: f64, low: f64, high: f64, original: f64 },
    /// The base grows with inputs of more than `most` tokens.
    Dynamic { factor: f64, most: f64 },
    /// YaRN (<https://arxiv.org/abs/2309.00071>): pairs from `high` on divided by the factor, those up to `low` as they are,
    /// and a blend between.
    Yarn { factor: f64, low: f64, high: f64 },
}

/// What the angles of a decoder's rotary positions follow from.
pub(super) struct Rotary {
    theta: f64,
    scaling: Scaling,
    /// Factor of cosines and sines.
    amplitude: f64,
    /// Elements of a head.
    size: usize,
}

/// Most elements of a head for which frequencies are computed. No weights are so wide: what is wider fails for them.
const MOST_HEAD: usize = 1 << 16;

impl Rotary {
    /// Base and scaling of the frequencies: `rope_parameters`, or `rope_theta` and `rope_scaling` of older files.
    pub(super) fn read(config: &Config, size: usize) -> Result<Self, Fault> {
        let theta = config.positive("rope_theta", 10000.0)?;
        let newer = config.object("rope_parameters")?;
        let fields = match newer {
            Some(fields) => Some(fields),
            None => config.object("rope_scaling")?,
        };
        if config.float("partial_rotary_factor", 1.0)? != 1.0 {
            return Err(config.wrong("partial_rotary_factor", "rotating a part of a head is not supported"));
        }
        let Some(fields) = fields else {
            return Ok(Rotary { theta, scaling: Scaling::None, amplitude: 1.0, size });
        };
        if fields.float("partial_rotary_factor", 1.0)? != 1.0 {
            return Err(fields.wrong("partial_rotary_factor", "rotating a part of a head is not supported"));
        }
        let theta = fields.positive("rope_theta", theta)?;
        let kind = match fields.text("rope_type")? {
            Some(kind) => kind,
            None => fields.text("type")?.unwrap_or("default"),
        };
        let required = |field: &str| match fields.get(field) {
            Some(_) => fields.positive(field, 1.0),
            None => Err(fields.wrong(field, "the field is missing")),
        };
        let mut amplitude = 1.0;
        let scaling = match kind {
            "default" => Scaling::None,
            "linear" => Scaling::Linear(required("factor")?),
            "llama3" => {
                let (low, high) = (required("low_freq_factor")?, required("high_freq_factor")?);
                if high <= low {
                    return Err(fields.wrong("high_freq_factor", "expected more than `low_freq_factor`"));
                }
                let original = required("original_max_position_embeddings")?;
                Scaling::Llama3 { factor: required("factor")?, low, high, original }
            }
            "dynamic" if size <= 2 => {
                return Err(
                    fields.wrong("rope_type", "a base that grows needs heads of more than two elements")
                );
            }
            "dynamic" => {
                let most = config.positive("max_position_embeddings", 2048.0)?;
                Scaling::Dynamic { factor: required("factor")?, most }
            }
            "yarn" => {
                amplitude = yarn_amplitude(&fields, required("factor")?)?;
                yarn(config, &fields, required("factor")?, (theta, size))?
            }
            other => {
                let known = "default, linear, dynamic, llama3 and yarn are";
                let reason = format!("`{other:.80}` is not supported, {known}");
                return Err(fields.wrong("rope_type", reason));
            }
        };
        Ok(Rotary { theta, scaling, amplitude, size })
    }

    /// One exponent of the base for each pair of elements of a head.
    fn exponents(&self) -> impl Iterator<Item = f32> + '_ {
        (0..self.size / 2).map(|i| (2 * i) as f32 / self.size as f32)
    }

    /// One frequency for each pair, if they are the same for all inputs.
    fn frequencies(&self) -> Vec<f32> {
        let theta = self.theta as f32;
        let plain = self.exponents().map(|exponent| 1.0 / theta.powf(exponent));
        plain.enumerate().map(|(i, frequency)| self.scaling.apply(i, frequency)).collect()
    }

    /// Cosines and sines of the angles, `[L, D / 2]`.
    pub(super) fn angles(&self, net: &mut Net<'_, '_>, length: &Dim) -> Result<[Value; 2], Fault> {
        net.at("rotary_emb", "RotaryEmbedding");
        if self.size > MOST_HEAD {
            let zero = net.b.scalar(DType::F32, 0.0)?;
            return Ok([zero; 2]);
        }
        let places = net.coordinate(length, 0, 2)?;
        let places = net.b.cast(places, DType::F32)?;
        let frequencies = match self.scaling {
            Scaling::Dynamic { factor, most } => self.grown(net, length, factor, most)?,
            _ => row(net, &self.frequencies())?,
        };
        let angles = net.b.ew("mul", &[places, frequencies])?;
        let mut parts = [net.b.ew("cos", &[angles])?, net.b.ew("sin", &[angles])?];
        if self.amplitude != 1.0 {
            let amplitude = net.b.scalar(DType::F32, self.amplitude)?;
            for part in &mut parts {
                *part = net.b.ew("mul", &[*part, amplitude])?;
            }
        }
        Ok(parts)
    }

    /// Frequencies of a base that grows with the length.
    fn grown(&self, net: &mut Net<'_, '_>, length: &Dim, factor: f64, most: f64) -> Result<Value, Fault> {
        let exponents: Vec<f32> = self.exponents().collect();
        let exponents = row(net, &exponents)?;
        let mut constant = |value: f64| net.b.scalar(DType::F32, value);
        let (least, scale, shift) = (constant(most)?, constant(factor / most)?, constant(factor - 1.0)?);
        let (theta, power) = (constant(self.theta)?, constant(self.size as f64 / (self.size as f64 - 2.0))?);
        let length = net.b.dims(std::slice::from_ref(length))?;
        let length = net.b.reshape(length, &[])?;
        let length = net.b.cast(length, DType::F32)?;
        let length = net.b.ew("max", &[length, least])?;
        let ratio = net.b.ew("mul", &[length, scale])?;
        let ratio = net.b.ew("sub", &[ratio, shift])?;
        let growth = net.b.ew("pow", &[ratio, power])?;
        let base = net.b.ew("mul", &[theta, growth])?;
        let waves = net.b.ew("pow", &[base, exponents])?;
        Ok(net.b.ew("reciprocal", &[waves])?)
    }
}

fn row(net: &mut Net<'_, '_>, values: &[f32]) -> Result<Value, Fault> {
    let row = Tensor::from_slice(&[1, values.len()], values);
    let row = row.map_err(|e| kiln_ir::InferError::new(e.to_string()))?;
    Ok(net.b.constant(row)?)
}

/// By how much cosines and sines are scaled: as the file says, or as the paper suggests.
fn yarn_amplitude(fields: &Config, factor: f64) -> Result<f64, Fault> {
    let scale = |by: f64| if factor <= 1.0 { 1.0 } else { 0.1 * by * factor.ln() + 1.0 };
    if fields.get("attention_factor").is_some() {
        return fields.positive("attention_factor", 1.0);
    }
    let (own, all) = (fields.float("mscale", 0.0)?, fields.float("mscale_all_dim", 0.0)?);
    Ok(if own != 0.0 && all != 0.0 { scale(own) / scale(all) } else { scale(1.0) })
}

/// Between which pairs the frequencies blend: those that turn `beta_fast` and `beta_slow` times over the original length.
fn yarn(
    config: &Config,
    fields: &Config,
    factor: f64,
    (theta, size): (f64, usize),
) -> Result<Scaling, Fault> {
    let most = config.positive("max_position_embeddings", 2048.0)?;
    let original = fields.positive("original_max_position_embeddings", most)?;
    let (fast, slow) = (fields.positive("beta_fast", 32.0)?, fields.positive("beta_slow", 1.0)?);
    if theta == 1.0 {
        return Err(fields.wrong("rope_theta", "all frequencies would be one"));
    }
    let size = size as f64;
    let pair =
        |turns: f64| size * (original / (turns * 2.0 * std::f64::consts::PI)).ln() / (2.0 * theta.ln());
    let (mut low, mut high) = (pair(fast), pair(slow));
    if fields.flag("truncate", true)? {
        (low, high) = (low.floor(), high.ceil());
    }
    let (low, mut high) = (low.max(0.0), high.min(size - 1.0));
    if low == high {
        high += 0.001;
    }
    Ok(Scaling::Yarn { factor, low, high })
}

impl Scaling {
    /// The frequency of a pair.
    fn apply(&self, pair: usize, frequency: f32) -> f32 {
        match *self {
            Scaling::None | Scaling::Dynamic { .. } => frequency,
            Scaling::Linear(factor) => frequency / factor as f32,
            Scaling::Llama3 { factor, low, high, original } => {
                let wave = 2.0 * std::f32::consts::PI / frequency;
                if wave < (original / high) as f32 {
                    frequency
                } else if wave > (original / low) as f32 {
                    frequency / factor as f32
                } else {
                    let smooth = (original as f32 / wave - low as f32) / (high - low) as f32;
                    (1.0 - smooth) * frequency / factor as f32 + smooth * frequency
                }
            }
            Scaling::Yarn { factor, low, high } => {
                let ramp = ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0) as f32;
                frequency / factor as f32 * ramp + frequency * (1.0 - ramp)
            }
        }
    }
}
