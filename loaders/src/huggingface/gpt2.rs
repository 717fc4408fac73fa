//! GPT-2.

use kiln_ir::{Build, Dim, Value};

use super::config::{Activation, Config};
use super::decoder::{Ends, head};
use super::inputs::tokens;
use super::layers::{Heads, Linear, Net, Orientation, Seen, dim};
use super::{Fault, Request};

/// The fields that change the computation.
struct Gpt2 {
    hidden: usize,
    layers: usize,
    heads: usize,
    inner: usize,
    vocabulary: usize,
    positions: usize,
    epsilon: f64,
    activation: Activation,
    scaled: bool,
    scaled_by_layer: bool,
    tied: bool,
}

impl Gpt2 {
    fn read(config: &Config) -> Result<Self, Fault> {
        config.refuse_flags(&["add_cross_attention"])?;
        let hidden = config.size("n_embd", Some(768))?;
        let heads = config.size("n_head", Some(12))?;
        if hidden % heads != 0 {
            return Err(
                config.wrong("n_head", format!("{heads} heads do not divide a hidden size of {hidden}"))
            );
        }
        Ok(Gpt2 {
            hidden,
            layers: config.layers("n_layer", Some(12))?,
            heads,
            inner: config.size("n_inner", Some(hidden.saturating_mul(4)))?,
            vocabulary: config.size("vocab_size", Some(50257))?,
            positions: config.size("n_positions", Some(1024))?,
            epsilon: config.positive("layer_norm_epsilon", 1e-5)?,
            activation: config.activation("activation_function", "gelu_new")?,
            scaled: config.flag("scale_attn_weights", true)?,
            scaled_by_layer: config.flag("scale_attn_by_inverse_layer_idx", false)?,
            tied: config.flag("tie_word_embeddings", true)?,
        })
    }

    fn scale(&self, layer: usize) -> f64 {
        let size = self.hidden / self.heads;
        let scale = if self.scaled { 1.0 / (size as f64).sqrt() } else { 1.0 };
        if self.scaled_by_layer { scale / (layer + 1) as f64 } else { scale }
    }
}

/// A layer whose weights are `[in, out]`.
fn conv1d(from: usize, to: usize) -> Linear {
    Linear { from, to, bias: true, orientation: Orientation::InOut }
}

/// Inputs `input_ids` and `attention_mask`; tokens stand at the positions 0 and on.
pub(super) fn build(net: &mut Net<'_, '_>, request: &Request<'_>) -> Result<(), Fault> {
    let gpt2 = Gpt2::read(request.config)?;
    if request.modules.is_some() {
        return Err(request.config.wrong("model_type", "sentence embeddings of gpt2 are not supported"));
    }
    let inputs = request.inputs.declare(&mut net.b, &[tokens("input_ids"), tokens("attention_mask")])?;
    let &[ids, mask] = inputs.as_slice() else { return Ok(()) };
    let length = net.b.shape(ids)?.get(1).cloned().unwrap_or(Dim::known(1));
    let words = net.weights.backbone("wte");
    let x = net.embedding(ids, &words, [gpt2.vocabulary, gpt2.hidden])?;
    let name = net.weights.backbone("wpe");
    let positions = net.positions(&length, &name, [gpt2.positions, gpt2.hidden])?;
    let mut hidden = net.sum(x, positions)?;
    let bias = net.padding_bias(mask)?;
    for i in 0..gpt2.layers {
        hidden = layer(net, &gpt2, i, hidden, bias)?;
    }
    let name = net.weights.backbone("ln_f");
    let hidden = net.layer_norm(hidden, &name, gpt2.hidden, gpt2.epsilon)?;
    let table = format!("{words}.weight");
    let ends = Ends { hidden: gpt2.hidden, vocabulary: gpt2.vocabulary, table: &table, tied: gpt2.tied };
    head(net, request, &ends, ids, hidden)
}

fn layer(net: &mut Net<'_, '_>, gpt2: &Gpt2, i: usize, x: Value, bias: Value) -> Result<Value, Fault> {
    let Gpt2 { hidden, heads, inner, epsilon, .. } = *gpt2;
    let module = |net: &Net<'_, '_>, name: &str| net.weights.backbone(&format!("h.{i}.{name}"));
    let size = hidden / heads;
    let name = module(net, "ln_1");
    let y = net.layer_norm(x, &name, hidden, epsilon)?;
    let name = module(net, "attn.c_attn");
    let all = net.linear(y, &name, conv1d(hidden, hidden.saturating_mul(3)))?;
    let mut parts = [all; 3];
    for (at, part) in parts.iter_mut().enumerate() {
        let slice = net.b.slice_axis(all, 2, dim(at.saturating_mul(hidden)), dim(hidden))?;
        *part = net.split_heads(slice, heads, size)?;
    }
    let place = module(net, "attn");
    net.at(&place, "Attention");
    let seen = Seen { bias: Some(bias), causal: true };
    let y = net.attention(parts, Heads { queries: heads, keys: heads, size }, gpt2.scale(i), seen)?;
    let name = module(net, "attn.c_proj");
    let y = net.linear(y, &name, conv1d(hidden, hidden))?;
    let x = net.sum(y, x)?;
    let name = module(net, "ln_2");
    let y = net.layer_norm(x, &name, hidden, epsilon)?;
    let name = module(net, "mlp.c_fc");
    let y = net.linear(y, &name, conv1d(hidden, inner))?;
    let y = net.activation(y, gpt2.activation)?;
    let name = module(net, "mlp.c_proj");
    let y = net.linear(y, &name, conv1d(inner, hidden))?;
    net.sum(y, x)
}
