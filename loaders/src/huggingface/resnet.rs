//! ResNet.

use kiln_ir::op::{Composite, Layout, ReduceKind, Window, WindowKind};
use kiln_ir::{Build, Dim, Float, Value};

use super::config::{Activation, Config, MOST_LAYERS, Task, unsupported};
use super::inputs::images;
use super::layers::{Linear, Net, dim};
use super::{Fault, Request};

/// The fields that change the computation.
struct Resnet {
    channels: usize,
    embedding: usize,
    widths: Vec<usize>,
    depths: Vec<usize>,
    bottleneck: bool,
    activation: Activation,
    /// Whether the first stage halves the image, too.
    downsample_first: bool,
    /// Whether the first convolution of a bottleneck halves, not the second.
    downsample_in_bottleneck: bool,
}

impl Resnet {
    fn read(config: &Config) -> Result<Self, Fault> {
        let widths = config.sizes("hidden_sizes")?.unwrap_or_else(|| vec![256, 512, 1024, 2048]);
        let depths = config.sizes("depths")?.unwrap_or_else(|| vec![3, 4, 6, 3]);
        if widths.is_empty() || widths.len() != depths.len() {
            let reason = format!("{} depths for {} stages", depths.len(), widths.len());
            return Err(config.wrong("depths", reason));
        }
        let layers = depths.iter().fold(0usize, |sum, &n| sum.saturating_add(n));
        if layers > MOST_LAYERS {
            return Err(
                config.wrong("depths", format!("{layers} layers are more than the limit of {MOST_LAYERS}"))
            );
        }
        let bottleneck = match config.text("layer_type")?.unwrap_or("bottleneck") {
            "bottleneck" => true,
            "basic" => false,
            other => return Err(config.wrong("layer_type", format!("`{other:.80}` is not supported"))),
        };
        if let Some(width) = widths.iter().find(|&&width| bottleneck && width < 4) {
            return Err(
                config.wrong("hidden_sizes", format!("a bottleneck of {width} channels has none inside"))
            );
        }
        Ok(Resnet {
            channels: config.size("num_channels", Some(3))?,
            embedding: config.size("embedding_size", Some(64))?,
            widths,
            depths,
            bottleneck,
            activation: config.activation("hidden_act", "relu")?,
            downsample_first: config.flag("downsample_in_first_stage", false)?,
            downsample_in_bottleneck: config.flag("downsample_in_bottleneck", false)?,
        })
    }
}

/// A convolution with the normalization after it.
struct Layer {
    from: usize,
    to: usize,
    kernel: usize,
    stride: usize,
}

/// Input `pixel_values` of any size.
pub(super) fn build(net: &mut Net<'_, '_>, request: &Request<'_>) -> Result<(), Fault> {
    let resnet = Resnet::read(request.config)?;
    if request.modules.is_some() {
        return Err(request.config.wrong("model_type", "sentence embeddings of images are not supported"));
    }
    let declared = images(dim(resnet.channels), Dim::symbol("height"), Dim::symbol("width"));
    let inputs = request.inputs.declare(&mut net.b, &[declared])?;
    let &[pixels] = inputs.as_slice() else { return Ok(()) };
    let name = net.weights.backbone("embedder.embedder");
    let stem = Layer { from: resnet.channels, to: resnet.embedding, kernel: 7, stride: 2 };
    let x = normalized(net, pixels, &name, &stem)?;
    let x = net.activation(x, resnet.activation)?;
    let mut x = max_pool(net, x)?;
    let mut from = resnet.embedding;
    for (stage, (&to, &depth)) in resnet.widths.iter().zip(&resnet.depths).enumerate() {
        for i in 0..depth {
            let halves = i == 0 && (stage > 0 || resnet.downsample_first);
            let name = net.weights.backbone(&format!("encoder.stages.{stage}.layers.{i}"));
            x = block(net, &resnet, x, &name, [from, to], if halves { 2 } else { 1 })?;
            from = to;
        }
    }
    outputs(net, request, x, from)
}

fn outputs(net: &mut Net<'_, '_>, request: &Request<'_>, x: Value, width: usize) -> Result<(), Fault> {
    net.at("pooler", "AdaptiveAvgPool2d");
    let pooled = net.b.reduce(ReduceKind::Mean, x, &[2, 3], true)?;
    match request.task {
        Task::Base => {
            net.b.output("last_hidden_state", x);
            net.b.output("pooler_output", pooled);
            Ok(())
        }
        Task::ImageClassification => {
            let batch = net.b.shape(pooled)?.first().cloned().unwrap_or(Dim::known(1));
            let flat = net.b.reshape(pooled, &[batch, dim(width)])?;
            let name = net.weights.head("classifier.1");
            let logits = net.linear(flat, &name, Linear::new(width, request.config.labels()?))?;
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

/// Convolution and normalization by the statistics of training.
fn normalized(net: &mut Net<'_, '_>, x: Value, name: &str, layer: &Layer) -> Result<Value, Fault> {
    let &Layer { from, to, kernel, stride } = layer;
    let conv = format!("{name}.convolution");
    net.at(&conv, "Conv2d");
    let weight = net.weight(&format!("{conv}.weight"), &[to, from, kernel, kernel])?;
    let y = net.conv(x, weight, [stride; 2], kernel / 2)?;
    let norm = format!("{name}.normalization");
    net.at(&norm, "BatchNorm2d");
    let mut operands = vec![y];
    for parameter in ["weight", "bias", "running_mean", "running_var"] {
        operands.push(net.weight(&format!("{norm}.{parameter}"), &[to])?);
    }
    Ok(net.b.add1(Composite::BatchNorm { epsilon: Float::new(1e-5) }, &operands)?)
}

fn max_pool(net: &mut Net<'_, '_>, x: Value) -> Result<Value, Fault> {
    net.at("embedder.pooler", "MaxPool2d");
    let op = Window::Pool {
        kind: WindowKind::Max,
        kernel: vec![3, 3],
        strides: vec![2, 2],
        dilations: vec![1, 1],
        pads: vec![(Dim::known(1), Dim::known(1)); 2],
        ceil_mode: false,
        layout: Layout::ChannelsFirst,
    };
    Ok(net.b.add1(op, &[x])?)
}

/// Two convolutions, or three of which the outer ones change the number of channels, beside a shortcut.
fn block(
    net: &mut Net<'_, '_>,
    resnet: &Resnet,
    x: Value,
    name: &str,
    [from, to]: [usize; 2],
    stride: usize,
) -> Result<Value, Fault> {
    let layers = if resnet.bottleneck {
        let inner = to / 4;
        let (first, second) = if resnet.downsample_in_bottleneck { (stride, 1) } else { (1, stride) };
        vec![
            Layer { from, to: inner, kernel: 1, stride: first },
            Layer { from: inner, to: inner, kernel: 3, stride: second },
            Layer { from: inner, to, kernel: 1, stride: 1 },
        ]
    } else {
        vec![Layer { from, to, kernel: 3, stride }, Layer { from: to, to, kernel: 3, stride: 1 }]
    };
    let mut y = x;
    for (i, layer) in layers.iter().enumerate() {
        y = normalized(net, y, &format!("{name}.layer.{i}"), layer)?;
        if i + 1 < layers.len() {
            y = net.activation(y, resnet.activation)?;
        }
    }
    let shortcut = if from == to && stride == 1 {
        x
    } else {
        let layer = Layer { from, to, kernel: 1, stride };
        normalized(net, x, &format!("{name}.shortcut"), &layer)?
    };
    let sum = net.sum(y, shortcut)?;
    net.activation(sum, resnet.activation)
}
