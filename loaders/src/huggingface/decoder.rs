//! What decoders share: which keys are seen, and the heads after the last hidden state.

use kiln_ir::op::ReduceKind;
use kiln_ir::{Build, DType, Dim, Tensor, Value};

use super::config::{Task, unsupported};
use super::layers::{Linear, Net, Orientation};
use super::{Fault, Request};

/// Adds to a mask of padding what hides keys that are `window` or more places before their query.
pub(super) fn windowed(
    net: &mut Net<'_, '_>,
    padding: Value,
    length: &Dim,
    window: usize,
) -> Result<Value, Fault> {
    net.at("sliding_window", "Mask");
    let (query, key) = (net.coordinate(length, 0, 2)?, net.coordinate(length, 1, 2)?);
    let distance = net.b.ew("sub", &[query, key])?;
    let window = net.b.constant(Tensor::scalar(i64::try_from(window).unwrap_or(i64::MAX)))?;
    let near = net.b.ew("lt", &[distance, window])?;
    let hidden = net.hide_unless(near)?;
    net.sum(padding, hidden)
}

/// Sizes of a decoder's heads.
pub(super) struct Ends<'n> {
    pub(super) hidden: usize,
    pub(super) vocabulary: usize,
    /// Whole name of the table of words.
    pub(super) table: &'n str,
    /// Whether its transpose gives the logits.
    pub(super) tied: bool,
}

/// The outputs of an architecture, after the last normalization.
pub(super) fn head(
    net: &mut Net<'_, '_>,
    request: &Request<'_>,
    ends: &Ends<'_>,
    ids: Value,
    hidden: Value,
) -> Result<(), Fault> {
    let own = net.weights.head("lm_head.weight");
    let shape = [ends.vocabulary, ends.hidden];
    match request.task {
        Task::Base => net.b.output("last_hidden_state", hidden),
        Task::CausalLm => {
            net.at("lm_head", "Linear");
            let table = match ends.tied {
                true => {
                    net.weights.leave(own);
                    net.weight(ends.table, &shape)?
                }
                false => net.weight(&own, &shape)?,
            };
            let logits = net.product(hidden, table, Orientation::OutIn)?;
            net.b.output("logits", logits);
        }
        Task::SequenceClassification => {
            let last = last_token(net, request, ids, hidden)?;
            let name = net.weights.head("score");
            let layer = Linear::new(ends.hidden, request.config.labels()?).with_bias(false);
            let logits = net.linear(last, &name, layer)?;
            net.b.output("logits", logits);
        }
        Task::MaskedLm
        | Task::TokenClassification
        | Task::QuestionAnswering
        | Task::PreTraining
        | Task::ImageClassification => {
            let names = request.config.texts("architectures")?.unwrap_or_default();
            return Err(unsupported(request.config, names.first().copied().unwrap_or_default()));
        }
    }
    Ok(())
}

/// The hidden state of the last token that does not fill up, `[B, H]`; the last of all where no token fills up.
fn last_token(
    net: &mut Net<'_, '_>,
    request: &Request<'_>,
    ids: Value,
    hidden: Value,
) -> Result<Value, Fault> {
    net.at("score", "Pooling");
    let shape = net.b.shape(hidden)?.to_vec();
    let [_, length, _] = shape.as_slice() else {
        return Err(Fault::Rank { expected: 3, found: shape.len() });
    };
    let place = net.coordinate(length, 1, 2)?;
    let chosen = if request.config.get("pad_token_id").is_some() {
        let padding = request.config.count("pad_token_id", None)?;
        let padding = net.b.constant(Tensor::scalar(i64::try_from(padding).unwrap_or(0)))?;
        let real = net.b.ew("ne", &[ids, padding])?;
        let real = net.b.cast(real, DType::I64)?;
        let places = net.b.ew("mul", &[place, real])?;
        net.b.reduce(ReduceKind::Max, places, &[1], true)?
    } else {
        net.b.reduce(ReduceKind::Max, place, &[1], true)?
    };
    let is_last = net.b.ew("eq", &[place, chosen])?;
    let is_last = net.b.cast(is_last, DType::F32)?;
    // Rows of one sequence agree on the place: a sum over places picks it.
    let rows = net.b.shape(is_last)?.to_vec();
    let column: Vec<Dim> = rows.into_iter().chain([Dim::known(1)]).collect();
    let is_last = net.b.reshape(is_last, &column)?;
    let picked = net.b.ew("mul", &[hidden, is_last])?;
    Ok(net.b.reduce(ReduceKind::Sum, picked, &[1], false)?)
}
