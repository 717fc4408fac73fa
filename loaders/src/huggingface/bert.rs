//! BERT, RoBERTa, ELECTRA, DistilBERT and what shares their layers (MiniLM, XLM-RoBERTa, CamemBERT): encoders with
//! normalization after each sum.

use kiln_ir::op::{CumKind, Order};
use kiln_ir::{Build, DType, Dim, Value};

use super::config::{Activation, Config, Task, unsupported};
use super::inputs::tokens;
use super::layers::{Heads, Linear, Net, Orientation, Seen};
use super::{Fault, Request};

/// Names that differ between families.
struct Names {
    /// Of the layers, before their number.
    layers: &'static str,
    query: &'static str,
    key: &'static str,
    value: &'static str,
    attended: &'static str,
    attended_norm: &'static str,
    up: &'static str,
    down: &'static str,
    norm: &'static str,
}

const BERT: Names = Names {
    layers: "encoder.layer",
    query: "attention.self.query",
    key: "attention.self.key",
    value: "attention.self.value",
    attended: "attention.output.dense",
    attended_norm: "attention.output.LayerNorm",
    up: "intermediate.dense",
    down: "output.dense",
    norm: "output.LayerNorm",
};

const DISTILBERT: Names = Names {
    layers: "transformer.layer",
    query: "attention.q_lin",
    key: "attention.k_lin",
    value: "attention.v_lin",
    attended: "attention.out_lin",
    attended_norm: "sa_layer_norm",
    up: "ffn.lin1",
    down: "ffn.lin2",
    norm: "output_layer_norm",
};

/// Families whose heads or positions differ.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bert,
    Roberta,
    Electra,
    DistilBert,
}

/// The fields that change the computation.
struct Encoder {
    kind: Kind,
    names: Names,
    hidden: usize,
    /// Size of the embeddings; another than that of the layers in some of ELECTRA.
    embedding: usize,
    layers: usize,
    heads: usize,
    intermediate: usize,
    vocabulary: usize,
    positions: usize,
    types: usize,
    epsilon: f64,
    activation: Activation,
    /// Index of the token that fills up sequences: RoBERTa counts positions of the others.
    padding: usize,
    /// Whether the head's last layer is the table of words.
    tied: bool,
}

impl Encoder {
    fn read(config: &Config, model_type: &str) -> Result<Self, Fault> {
        let kind = match model_type {
            "electra" => Kind::Electra,
            "distilbert" => Kind::DistilBert,
            "roberta" | "camembert" | "xlm-roberta" => Kind::Roberta,
            _ => Kind::Bert,
        };
        if let Some(name) = config.text("position_embedding_type")?.filter(|name| *name != "absolute") {
            return Err(config.wrong("position_embedding_type", format!("`{name:.80}` is not supported")));
        }
        config.refuse_flags(&["is_decoder", "add_cross_attention"])?;
        if config.object("pruned_heads")?.is_some_and(|heads| !heads.is_empty()) {
            return Err(config.wrong("pruned_heads", "pruned heads are not supported"));
        }
        let distilled = kind == Kind::DistilBert;
        let named =
            |own: &'static str, distilled_name: &'static str| if distilled { distilled_name } else { own };
        let default_hidden = if kind == Kind::Electra { 256 } else { 768 };
        let hidden = config.size(named("hidden_size", "dim"), Some(default_hidden))?;
        let heads_field = named("num_attention_heads", "n_heads");
        let heads = config.size(heads_field, Some(if kind == Kind::Electra { 4 } else { 12 }))?;
        if hidden % heads != 0 {
            return Err(
                config.wrong(heads_field, format!("{heads} heads do not divide a hidden size of {hidden}"))
            );
        }
        let layers =
            config.layers(named("num_hidden_layers", "n_layers"), Some(if distilled { 6 } else { 12 }))?;
        let default_intermediate = if kind == Kind::Electra { 1024 } else { 3072 };
        Ok(Encoder {
            kind,
            names: if distilled { DISTILBERT } else { BERT },
            hidden,
            embedding: match kind {
                Kind::Electra => config.size("embedding_size", Some(128))?,
                Kind::Bert | Kind::Roberta | Kind::DistilBert => hidden,
            },
            layers,
            heads,
            intermediate: config
                .size(named("intermediate_size", "hidden_dim"), Some(default_intermediate))?,
            vocabulary: config.size("vocab_size", Some(if kind == Kind::Roberta { 50265 } else { 30522 }))?,
            positions: config.size("max_position_embeddings", Some(512))?,
            types: if distilled { 0 } else { config.count("type_vocab_size", Some(2))? },
            epsilon: if distilled { 1e-12 } else { config.positive("layer_norm_eps", 1e-12)? },
            activation: config.activation(named("hidden_act", "activation"), "gelu")?,
            padding: if kind == Kind::Roberta { config.count("pad_token_id", Some(1))? } else { 0 },
            tied: config.flag("tie_word_embeddings", true)?,
        })
    }

    /// A linear layer between hidden states.
    fn dense(&self) -> Linear {
        Linear::new(self.hidden, self.hidden)
    }
}

/// Inputs `input_ids`, `attention_mask` and, where there are several types of tokens, `token_type_ids`.
pub(super) fn build(net: &mut Net<'_, '_>, request: &Request<'_>) -> Result<(), Fault> {
    let encoder = Encoder::read(request.config, request.model_type)?;
    let mut declared = vec![tokens("input_ids"), tokens("attention_mask")];
    if encoder.types > 1 {
        declared.push(tokens("token_type_ids"));
    }
    let inputs = request.inputs.declare(&mut net.b, &declared)?;
    let (Some(&ids), Some(&mask)) = (inputs.first(), inputs.get(1)) else { return Ok(()) };
    let embedded = embeddings(net, &encoder, ids, inputs.get(2).copied())?;
    let bias = net.padding_bias(mask)?;
    let mut hidden = embedded;
    for i in 0..encoder.layers {
        hidden = layer(net, &encoder, i, hidden, bias)?;
    }
    if let Some(modules) = request.modules {
        let embedding = modules.embed(net, hidden, mask)?;
        net.b.output("sentence_embedding", embedding);
        return Ok(());
    }
    head(net, &encoder, request, hidden)
}

/// `[B, L, H]` from indices.
fn embeddings(
    net: &mut Net<'_, '_>,
    encoder: &Encoder,
    ids: Value,
    types: Option<Value>,
) -> Result<Value, Fault> {
    let size = encoder.embedding;
    let module = |net: &Net<'_, '_>, name: &str| net.weights.backbone(&format!("embeddings.{name}"));
    let words = module(net, "word_embeddings");
    let mut sum = net.embedding(ids, &words, [encoder.vocabulary, size])?;
    let of_types = module(net, "token_type_embeddings");
    match types {
        Some(types) => {
            let rows = net.embedding(types, &of_types, [encoder.types, size])?;
            sum = net.sum(sum, rows)?;
        }
        None if encoder.types == 1 => {
            let row = net.positions(&Dim::known(1), &of_types, [1, size])?;
            sum = net.sum(sum, row)?;
        }
        None => {}
    }
    let name = module(net, "position_embeddings");
    let table = [encoder.positions, size];
    let length = net.b.shape(ids)?.get(1).cloned().unwrap_or(Dim::known(1));
    let rows = match encoder.kind {
        Kind::Roberta => {
            let places = counted_positions(net, ids, encoder.padding)?;
            net.embedding(places, &name, table)?
        }
        Kind::Bert | Kind::Electra | Kind::DistilBert => net.positions(&length, &name, table)?,
    };
    sum = net.sum(sum, rows)?;
    let norm = module(net, "LayerNorm");
    let normalized = net.layer_norm(sum, &norm, size, encoder.epsilon)?;
    if size == encoder.hidden {
        return Ok(normalized);
    }
    let project = net.weights.backbone("embeddings_project");
    net.linear(normalized, &project, Linear::new(size, encoder.hidden))
}

/// Positions of RoBERTa: the number of tokens so far that do not fill up, after the index of the one that does, which
/// itself stands at its own index.
fn counted_positions(net: &mut Net<'_, '_>, ids: Value, padding: usize) -> Result<Value, Fault> {
    net.at("embeddings.position_ids", "Positions");
    let padding = net.b.constant(kiln_ir::Tensor::scalar(i64::try_from(padding).unwrap_or(0)))?;
    let real = net.b.ew("ne", &[ids, padding])?;
    let real = net.b.cast(real, DType::I64)?;
    let op = Order::Cumulative { kind: CumKind::Sum, axis: 1, exclusive: false, reverse: false };
    let count = net.b.add1(op, &[real])?;
    let count = net.b.ew("mul", &[count, real])?;
    Ok(net.b.ew("add", &[count, padding])?)
}

fn layer(net: &mut Net<'_, '_>, encoder: &Encoder, i: usize, x: Value, bias: Value) -> Result<Value, Fault> {
    let Encoder { names, hidden, heads, intermediate, epsilon, .. } = encoder;
    let module =
        |net: &Net<'_, '_>, name: &str| net.weights.backbone(&format!("{}.{i}.{name}", names.layers));
    let size = hidden / heads;
    let mut parts = [x; 3];
    for (part, name) in parts.iter_mut().zip([names.query, names.key, names.value]) {
        let name = module(net, name);
        let y = net.linear(x, &name, encoder.dense())?;
        *part = net.split_heads(y, *heads, size)?;
    }
    let place = module(net, "attention");
    net.at(&place, "Attention");
    let heads = Heads { queries: *heads, keys: *heads, size };
    let seen = Seen { bias: Some(bias), causal: false };
    let y = net.attention(parts, heads, 1.0 / (size as f64).sqrt(), seen)?;
    let name = module(net, names.attended);
    let y = net.linear(y, &name, encoder.dense())?;
    let y = net.sum(y, x)?;
    let name = module(net, names.attended_norm);
    let attended = net.layer_norm(y, &name, *hidden, *epsilon)?;
    let name = module(net, names.up);
    let y = net.linear(attended, &name, Linear::new(*hidden, *intermediate))?;
    let y = net.activation(y, encoder.activation)?;
    let name = module(net, names.down);
    let y = net.linear(y, &name, Linear::new(*intermediate, *hidden))?;
    let y = net.sum(y, attended)?;
    let name = module(net, names.norm);
    net.layer_norm(y, &name, *hidden, *epsilon)
}

/// The tanh of a linear layer of the first place.
fn pooled(net: &mut Net<'_, '_>, encoder: &Encoder, hidden: Value) -> Result<Value, Fault> {
    let first = net.first(hidden)?;
    let name = net.weights.backbone("pooler.dense");
    let y = net.linear(first, &name, encoder.dense())?;
    Ok(net.b.ew("tanh", &[y])?)
}

/// The outputs of an architecture.
fn head(net: &mut Net<'_, '_>, encoder: &Encoder, request: &Request<'_>, hidden: Value) -> Result<(), Fault> {
    let labels = request.config.labels()?;
    let to_labels = Linear::new(encoder.hidden, labels);
    match request.task {
        Task::Base => {
            net.b.output("last_hidden_state", hidden);
            if net.weights.has(&net.weights.backbone("pooler.dense.weight")) {
                let pooled = pooled(net, encoder, hidden)?;
                net.b.output("pooler_output", pooled);
            }
        }
        Task::MaskedLm => {
            let logits = words(net, encoder, hidden)?;
            net.b.output("logits", logits);
        }
        Task::PreTraining if encoder.kind == Kind::Bert => {
            let logits = words(net, encoder, hidden)?;
            net.b.output("prediction_logits", logits);
            let pooled = pooled(net, encoder, hidden)?;
            let name = net.weights.head("cls.seq_relationship");
            let next = net.linear(pooled, &name, Linear::new(encoder.hidden, 2))?;
            net.b.output("seq_relationship_logits", next);
        }
        Task::PreTraining if encoder.kind == Kind::Electra => {
            let name = net.weights.head("discriminator_predictions.dense");
            let y = net.linear(hidden, &name, encoder.dense())?;
            let y = net.activation(y, encoder.activation)?;
            let name = net.weights.head("discriminator_predictions.dense_prediction");
            let y = net.linear(y, &name, Linear::new(encoder.hidden, 1))?;
            let places = net.b.shape(y)?.get(..2).map(<[Dim]>::to_vec).unwrap_or_default();
            let logits = net.b.reshape(y, &places)?;
            net.b.output("logits", logits);
        }
        Task::SequenceClassification => {
            let logits = of_sequence(net, encoder, hidden, to_labels)?;
            net.b.output("logits", logits);
        }
        Task::TokenClassification => {
            let name = net.weights.head("classifier");
            let logits = net.linear(hidden, &name, to_labels)?;
            net.b.output("logits", logits);
        }
        Task::QuestionAnswering => {
            let name = net.weights.head("qa_outputs");
            let both = net.linear(hidden, &name, Linear::new(encoder.hidden, 2))?;
            let places = net.b.shape(both)?.get(..2).map(<[Dim]>::to_vec).unwrap_or_default();
            for (at, output) in [(0, "start_logits"), (1, "end_logits")] {
                let part = net.b.slice_axis(both, 2, Dim::known(at), Dim::known(1))?;
                let part = net.b.reshape(part, &places)?;
                net.b.output(output, part);
            }
        }
        Task::PreTraining | Task::CausalLm | Task::ImageClassification => {
            let names = request.config.texts("architectures")?.unwrap_or_default();
            return Err(unsupported(request.config, names.first().copied().unwrap_or_default()));
        }
    }
    Ok(())
}

/// Logits of classes of the whole sequence.
fn of_sequence(
    net: &mut Net<'_, '_>,
    encoder: &Encoder,
    hidden: Value,
    to_labels: Linear,
) -> Result<Value, Fault> {
    let (x, last) = match encoder.kind {
        Kind::Bert => (pooled(net, encoder, hidden)?, "classifier"),
        Kind::DistilBert => {
            let first = net.first(hidden)?;
            let name = net.weights.head("pre_classifier");
            let y = net.linear(first, &name, encoder.dense())?;
            (net.b.ew("relu", &[y])?, "classifier")
        }
        Kind::Roberta | Kind::Electra => {
            let first = net.first(hidden)?;
            let name = net.weights.head("classifier.dense");
            let y = net.linear(first, &name, encoder.dense())?;
            let row = if encoder.kind == Kind::Electra { "gelu" } else { "tanh" };
            (net.b.ew(row, &[y])?, "classifier.out_proj")
        }
    };
    let name = net.weights.head(last);
    net.linear(x, &name, to_labels)
}

/// The modules of a head that gives logits of words: linear layer, normalization, matrix, bias.
struct WordHead {
    dense: &'static str,
    norm: &'static str,
    matrix: &'static str,
    bias: &'static str,
    /// The bias of the last layer, where it has one beside the head's.
    repeated: Option<&'static str>,
    activation: Activation,
}

/// Logits of words at each place.
fn words(net: &mut Net<'_, '_>, encoder: &Encoder, hidden: Value) -> Result<Value, Fault> {
    let gelu = Activation::of("gelu").unwrap_or(encoder.activation);
    let head = match encoder.kind {
        Kind::Bert => WordHead {
            dense: "cls.predictions.transform.dense",
            norm: "cls.predictions.transform.LayerNorm",
            matrix: "cls.predictions.decoder.weight",
            bias: "cls.predictions.bias",
            repeated: Some("cls.predictions.decoder.bias"),
            activation: encoder.activation,
        },
        Kind::Roberta => WordHead {
            dense: "lm_head.dense",
            norm: "lm_head.layer_norm",
            matrix: "lm_head.decoder.weight",
            bias: "lm_head.bias",
            repeated: Some("lm_head.decoder.bias"),
            activation: gelu,
        },
        Kind::Electra => WordHead {
            dense: "generator_predictions.dense",
            norm: "generator_predictions.LayerNorm",
            matrix: "generator_lm_head.weight",
            bias: "generator_lm_head.bias",
            repeated: None,
            activation: gelu,
        },
        Kind::DistilBert => WordHead {
            dense: "vocab_transform",
            norm: "vocab_layer_norm",
            matrix: "vocab_projector.weight",
            bias: "vocab_projector.bias",
            repeated: None,
            activation: encoder.activation,
        },
    };
    let size = encoder.embedding;
    let name = net.weights.head(head.dense);
    let y = net.linear(hidden, &name, Linear::new(encoder.hidden, size))?;
    let y = net.activation(y, head.activation)?;
    let name = net.weights.head(head.norm);
    let y = net.layer_norm(y, &name, size, encoder.epsilon)?;
    let own = net.weights.head(head.matrix);
    let shape = [encoder.vocabulary, size];
    net.at(own.trim_end_matches(".weight"), "Linear");
    let table = match encoder.tied {
        true => {
            net.weights.leave(own);
            let words = net.weights.backbone("embeddings.word_embeddings.weight");
            net.weight(&words, &shape)?
        }
        false => net.weight(&own, &shape)?,
    };
    let y = net.product(y, table, Orientation::OutIn)?;
    let mut bias = net.weights.head(head.bias);
    if let Some(other) = head.repeated.map(|name| net.weights.head(name)) {
        // The last layer has a bias of its own; where it is tied, it is the head's.
        let own = net.weights.has(&other) && (!encoder.tied || !net.weights.has(&bias));
        net.weights.leave(if own { std::mem::replace(&mut bias, other) } else { other });
    }
    let bias = net.weight(&bias, &[encoder.vocabulary])?;
    net.sum(y, bias)
}
