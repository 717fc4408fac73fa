//! ViT: an encoder of patches with normalization before each sum.

use kiln_ir::{Build, Dim, Value};

use super::config::{Activation, Config, Task, unsupported};
use super::inputs::images;
use super::layers::{Heads, Linear, Net, Seen, dim};
use super::{Fault, Request};

/// The fields that change the computation.
struct Vit {
    hidden: usize,
    layers: usize,
    heads: usize,
    intermediate: usize,
    image: [usize; 2],
    patch: [usize; 2],
    channels: usize,
    epsilon: f64,
    activation: Activation,
    pooled: usize,
    pooler_activation: Activation,
    qkv_bias: bool,
}

impl Vit {
    fn read(config: &Config) -> Result<Self, Fault> {
        let hidden = config.size("hidden_size", Some(768))?;
        let heads = config.size("num_attention_heads", Some(12))?;
        if hidden % heads != 0 {
            let reason = format!("{heads} heads do not divide a hidden size of {hidden}");
            return Err(config.wrong("num_attention_heads", reason));
        }
        let (image, patch) = (config.area("image_size", 224)?, config.area("patch_size", 16)?);
        if image.iter().zip(&patch).any(|(image, patch)| image < patch) {
            return Err(config.wrong("patch_size", format!("{patch:?} is larger than an image of {image:?}")));
        }
        Ok(Vit {
            hidden,
            layers: config.layers("num_hidden_layers", Some(12))?,
            heads,
            intermediate: config.size("intermediate_size", Some(3072))?,
            image,
            patch,
            channels: config.size("num_channels", Some(3))?,
            epsilon: config.positive("layer_norm_eps", 1e-12)?,
            activation: config.activation("hidden_act", "gelu")?,
            pooled: config.size("pooler_output_size", Some(hidden))?,
            pooler_activation: config.activation("pooler_act", "tanh")?,
            qkv_bias: config.flag("qkv_bias", true)?,
        })
    }

    /// How many patches an image has.
    fn patches(&self) -> usize {
        self.image.iter().zip(&self.patch).map(|(image, patch)| image / patch).product()
    }
}

/// Input `pixel_values` of the size that the model was trained on.
pub(super) fn build(net: &mut Net<'_, '_>, request: &Request<'_>) -> Result<(), Fault> {
    let vit = Vit::read(request.config)?;
    if request.modules.is_some() {
        return Err(request.config.wrong("model_type", "sentence embeddings of images are not supported"));
    }
    let [height, width] = vit.image.map(dim);
    let inputs = request.inputs.declare(&mut net.b, &[images(dim(vit.channels), height, width)])?;
    let &[pixels] = inputs.as_slice() else { return Ok(()) };
    let mut hidden = embeddings(net, &vit, pixels)?;
    for i in 0..vit.layers {
        hidden = layer(net, &vit, i, hidden)?;
    }
    let name = net.weights.backbone("layernorm");
    let hidden = net.layer_norm(hidden, &name, vit.hidden, vit.epsilon)?;
    match request.task {
        Task::Base => {
            net.b.output("last_hidden_state", hidden);
            if net.weights.has(&net.weights.backbone("pooler.dense.weight")) {
                let first = net.first(hidden)?;
                let name = net.weights.backbone("pooler.dense");
                let y = net.linear(first, &name, Linear::new(vit.hidden, vit.pooled))?;
                let pooled = net.activation(y, vit.pooler_activation)?;
                net.b.output("pooler_output", pooled);
            }
            Ok(())
        }
        Task::ImageClassification => {
            let first = net.first(hidden)?;
            let name = net.weights.head("classifier");
            let logits = net.linear(first, &name, Linear::new(vit.hidden, request.config.labels()?))?;
            net.b.output("logits", logits);
            Ok(())
        }
        Task::MaskedLm
        | Task::CausalLm
        | Task::SequenceClassification
        | Task::TokenClassification
        | Task::QuestionAnswering
        | Task::PreTraining => {
            let names = request.config.texts("architectures")?.unwrap_or_default();
            Err(unsupported(request.config, names.first().copied().unwrap_or_default()))
        }
    }
}

/// Patches after the token of the class, with their positions: `[B, 1 + N, H]`.
fn embeddings(net: &mut Net<'_, '_>, vit: &Vit, pixels: Value) -> Result<Value, Fault> {
    let batch = net.b.shape(pixels)?.first().cloned().unwrap_or(Dim::known(1));
    let (hidden, patches) = (dim(vit.hidden), dim(vit.patches()));
    let name = net.weights.backbone("embeddings.patch_embeddings.projection");
    net.at(&name, "Conv2d");
    let [height, width] = vit.patch;
    let weight = net.weight(&format!("{name}.weight"), &[vit.hidden, vit.channels, height, width])?;
    let bias = net.weight(&format!("{name}.bias"), &[vit.hidden])?;
    let y = net.conv(pixels, weight, vit.patch, 0)?;
    let one = Dim::known(1);
    let bias = net.b.reshape(bias, &[hidden.clone(), one.clone(), one.clone()])?;
    let y = net.b.ew("add", &[y, bias])?;
    let y = net.b.reshape(y, &[batch.clone(), hidden.clone(), patches])?;
    let y = net.b.transpose(y, &[0, 2, 1])?;
    let name = net.weights.backbone("embeddings.cls_token");
    net.at(&name, "Parameter");
    let class = net.weight(&name, &[1, 1, vit.hidden])?;
    let class = net.b.broadcast(class, &[batch, one, hidden])?;
    let y = net.b.concat(&[class, y], 1)?;
    let name = net.weights.backbone("embeddings.position_embeddings");
    let positions = net.weight(&name, &[1, vit.patches().saturating_add(1), vit.hidden])?;
    net.sum(y, positions)
}

fn layer(net: &mut Net<'_, '_>, vit: &Vit, i: usize, x: Value) -> Result<Value, Fault> {
    let Vit { hidden, heads, intermediate, epsilon, .. } = *vit;
    let module = |net: &Net<'_, '_>, name: &str| net.weights.backbone(&format!("encoder.layer.{i}.{name}"));
    let size = hidden / heads;
    let name = module(net, "layernorm_before");
    let normalized = net.layer_norm(x, &name, hidden, epsilon)?;
    let mut parts = [normalized; 3];
    for (part, name) in parts.iter_mut().zip(["query", "key", "value"]) {
        let name = module(net, &format!("attention.attention.{name}"));
        let y = net.linear(normalized, &name, Linear::new(hidden, hidden).with_bias(vit.qkv_bias))?;
        *part = net.split_heads(y, heads, size)?;
    }
    let place = module(net, "attention");
    net.at(&place, "Attention");
    let heads = Heads { queries: heads, keys: heads, size };
    let y = net.attention(parts, heads, 1.0 / (size as f64).sqrt(), Seen::default())?;
    let name = module(net, "attention.output.dense");
    let y = net.linear(y, &name, Linear::new(hidden, hidden))?;
    let x = net.sum(y, x)?;
    let name = module(net, "layernorm_after");
    let y = net.layer_norm(x, &name, hidden, epsilon)?;
    let name = module(net, "intermediate.dense");
    let y = net.linear(y, &name, Linear::new(hidden, intermediate))?;
    let y = net.activation(y, vit.activation)?;
    let name = module(net, "output.dense");
    let y = net.linear(y, &name, Linear::new(intermediate, hidden))?;
    net.sum(y, x)
}
