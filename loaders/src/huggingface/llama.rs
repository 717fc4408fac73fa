//! Llama, Mistral and Qwen2: decoders with rotary positions, grouped heads and gated layers.

use kiln_ir::op::Composite;
use kiln_ir::{Build, Dim, Value};

use super::config::{Activation, Config};
use super::decoder::{Ends, head, windowed};
use super::inputs::tokens;
use super::layers::{Heads, Linear, Net, Seen};
use super::rotary::Rotary;
use super::{Fault, Request};

/// The fields that change the computation.
struct Decoder {
    hidden: usize,
    intermediate: usize,
    heads: Heads,
    vocabulary: usize,
    epsilon: f64,
    activation: Activation,
    rotary: Rotary,
    /// Biases of queries, keys and values; of the product with the heads; of the gated layers.
    biases: [bool; 3],
    /// For each layer the keys that a query sees, its own with them.
    windows: Vec<Option<usize>>,
    tied: bool,
}

impl Decoder {
    fn read(config: &Config, model_type: &str) -> Result<Self, Fault> {
        let hidden = config.size("hidden_size", Some(4096))?;
        let queries = config.size("num_attention_heads", Some(32))?;
        let keys = config.size(
            "num_key_value_heads",
            Some(if model_type == "llama" { queries } else { queries.min(8) }),
        )?;
        if queries % keys != 0 {
            let reason = format!("{keys} heads of keys do not divide {queries} of queries");
            return Err(config.wrong("num_key_value_heads", reason));
        }
        let size = match config.get("head_dim") {
            Some(_) => config.size("head_dim", None)?,
            None if hidden % queries == 0 => hidden / queries,
            None => {
                let reason = format!("{queries} heads do not divide a hidden size of {hidden}");
                return Err(config.wrong("num_attention_heads", reason));
            }
        };
        if size % 2 != 0 {
            return Err(config.wrong("head_dim", format!("{size} elements of a head are not pairs")));
        }
        let layers = config.layers("num_hidden_layers", Some(32))?;
        let biases = match model_type {
            "qwen2" => [true, false, false],
            "llama" => {
                let attention = config.flag("attention_bias", false)?;
                [attention, attention, config.flag("mlp_bias", false)?]
            }
            _ => [false; 3],
        };
        Ok(Decoder {
            hidden,
            intermediate: config.size("intermediate_size", Some(11008))?,
            heads: Heads { queries, keys, size },
            vocabulary: config.size("vocab_size", Some(32000))?,
            epsilon: config.positive("rms_norm_eps", 1e-6)?,
            activation: config.activation("hidden_act", "silu")?,
            rotary: Rotary::read(config, size)?,
            biases,
            windows: windows(config, model_type, layers)?,
            tied: config.flag("tie_word_embeddings", false)?,
        })
    }
}

/// The window of each layer.
fn windows(config: &Config, model_type: &str, layers: usize) -> Result<Vec<Option<usize>>, Fault> {
    let window = match model_type {
        // Files that do not mention it mean the first Mistral's; null is none.
        "mistral" if !config.mentions("sliding_window") => Some(4096),
        "mistral" => config.get("sliding_window").map(|_| config.size("sliding_window", None)).transpose()?,
        "qwen2" if config.flag("use_sliding_window", false)? => {
            Some(config.size("sliding_window", Some(4096))?)
        }
        _ => None,
    };
    if model_type != "qwen2" {
        return Ok(vec![window; layers]);
    }
    let Some(types) = config.texts("layer_types")? else {
        let first = config.count("max_window_layers", Some(28))?;
        return Ok((0..layers).map(|i| window.filter(|_| i >= first)).collect());
    };
    if types.len() != layers {
        return Err(config.wrong("layer_types", format!("{} types for {layers} layers", types.len())));
    }
    let of = |name: &&str| match *name {
        "full_attention" => Ok(None),
        "sliding_attention" => match window {
            Some(window) => Ok(Some(window)),
            None => Err(config.wrong("layer_types", "a layer slides, and there is no window")),
        },
        other => Err(config.wrong("layer_types", format!("`{other:.80}` is not supported"))),
    };
    types.iter().map(of).collect()
}

/// Values that all layers read.
struct Shared {
    /// Cosines and sines of the angles, `[L, D / 2]`.
    angles: [Value; 2],
    padding: Value,
    /// The padding with the window.
    windowed: Option<Value>,
}

/// Inputs `input_ids` and `attention_mask`; tokens stand at the positions 0 and on.
pub(super) fn build(net: &mut Net<'_, '_>, request: &Request<'_>) -> Result<(), Fault> {
    let decoder = Decoder::read(request.config, request.model_type)?;
    if request.modules.is_some() {
        return Err(request.config.wrong("model_type", "sentence embeddings of decoders are not supported"));
    }
    let inputs = request.inputs.declare(&mut net.b, &[tokens("input_ids"), tokens("attention_mask")])?;
    let &[ids, mask] = inputs.as_slice() else { return Ok(()) };
    let length = net.b.shape(ids)?.get(1).cloned().unwrap_or(Dim::known(1));
    let words = net.weights.backbone("embed_tokens");
    let mut hidden = net.embedding(ids, &words, [decoder.vocabulary, decoder.hidden])?;
    let padding = net.padding_bias(mask)?;
    let window = decoder.windows.iter().flatten().next();
    let windowed = window.map(|&window| windowed(net, padding, &length, window)).transpose()?;
    let shared = Shared { angles: decoder.rotary.angles(net, &length)?, padding, windowed };
    for i in 0..decoder.windows.len() {
        hidden = layer(net, &decoder, i, hidden, &shared)?;
    }
    let name = net.weights.backbone("norm");
    let hidden = net.rms_norm(hidden, &name, decoder.hidden, decoder.epsilon)?;
    let table = format!("{words}.weight");
    let ends =
        Ends { hidden: decoder.hidden, vocabulary: decoder.vocabulary, table: &table, tied: decoder.tied };
    head(net, request, &ends, ids, hidden)
}

fn layer(
    net: &mut Net<'_, '_>,
    decoder: &Decoder,
    i: usize,
    x: Value,
    shared: &Shared,
) -> Result<Value, Fault> {
    let Decoder { hidden, intermediate, heads, epsilon, biases: [qkv, attended, mlp], .. } = *decoder;
    let module = |net: &Net<'_, '_>, name: &str| net.weights.backbone(&format!("layers.{i}.{name}"));
    let name = module(net, "input_layernorm");
    let normalized = net.rms_norm(x, &name, hidden, epsilon)?;
    let mut parts = [normalized; 3];
    let projections = [("q_proj", heads.queries), ("k_proj", heads.keys), ("v_proj", heads.keys)];
    for (at, (part, (name, count))) in parts.iter_mut().zip(projections).enumerate() {
        let name = module(net, &format!("self_attn.{name}"));
        let to = count.saturating_mul(heads.size);
        let y = net.linear(normalized, &name, Linear::new(hidden, to).with_bias(qkv))?;
        let y = net.split_heads(y, count, heads.size)?;
        let [cos, sin] = shared.angles;
        let rope = Composite::Rope { interleaved: false, rotary_dim: 0 };
        *part = if at < 2 { net.b.add1(rope, &[y, cos, sin])? } else { y };
    }
    let place = module(net, "self_attn");
    net.at(&place, "Attention");
    let window = decoder.windows.get(i).copied().flatten();
    let bias = shared.windowed.filter(|_| window.is_some()).unwrap_or(shared.padding);
    let seen = Seen { bias: Some(bias), causal: true };
    let y = net.attention(parts, heads, 1.0 / (heads.size as f64).sqrt(), seen)?;
    let name = module(net, "self_attn.o_proj");
    let from = heads.queries.saturating_mul(heads.size);
    let y = net.linear(y, &name, Linear::new(from, hidden).with_bias(attended))?;
    let x = net.sum(x, y)?;
    let name = module(net, "post_attention_layernorm");
    let normalized = net.rms_norm(x, &name, hidden, epsilon)?;
    let wide = Linear::new(hidden, intermediate).with_bias(mlp);
    let name = module(net, "mlp.gate_proj");
    let gate = net.linear(normalized, &name, wide)?;
    let gate = net.activation(gate, decoder.activation)?;
    let name = module(net, "mlp.up_proj");
    let up = net.linear(normalized, &name, wide)?;
    let y = net.b.ew("mul", &[gate, up])?;
    let name = module(net, "mlp.down_proj");
    let y = net.linear(y, &name, Linear::new(intermediate, hidden).with_bias(mlp))?;
    net.sum(x, y)
}
