//! Folders of sentence-transformers: what comes after the last hidden state.

use kiln_ir::op::ReduceKind;
use kiln_ir::{Build, DType, Dim, Value};
use serde_json::Value as Json;

use super::Fault;
use super::config::{self, Config};
use super::layers::Net;
use crate::LoadError;
use crate::folder::Folder;

/// How the places of a sequence become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pooling {
    /// The first place.
    First,
    /// The greatest element of all places.
    Max,
    /// The mean of all places.
    Mean,
    /// Their sum over the root of their number.
    MeanRoot,
}

/// Fields that turn a pooling on, in the order in which their results are joined; `pooling_mode` of newer files has the
/// second name.
const MODES: &[(&str, &str, Option<Pooling>)] = &[
    ("pooling_mode_cls_token", "cls", Some(Pooling::First)),
    ("pooling_mode_max_tokens", "max", Some(Pooling::Max)),
    ("pooling_mode_mean_tokens", "mean", Some(Pooling::Mean)),
    ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens", Some(Pooling::MeanRoot)),
    ("pooling_mode_weightedmean_tokens", "weightedmean", None),
    ("pooling_mode_lasttoken", "lasttoken", None),
];

/// The modules of `modules.json`.
pub(super) struct Modules {
    /// Where the transformer lies; empty for the folder itself.
    pub(super) transformer: String,
    pooling: Vec<Pooling>,
    normalize: bool,
}

impl Modules {
    /// Reads `modules.json` and the files that it names: a transformer, poolings, and perhaps a normalization.
    pub(super) fn read(folder: &Folder) -> Result<Self, Fault> {
        let wrong =
            |reason: String| Fault::Load(LoadError::Folder { path: folder.display("modules.json"), reason });
        let list = config::json(folder, "modules.json")?;
        let list = list.as_array().filter(|list| list.len() <= 16);
        let list = list.ok_or_else(|| wrong("expected a list of at most 16 modules".to_owned()))?;
        let text = |module: &Json, field: &str| {
            module.get(field).and_then(Json::as_str).unwrap_or_default().to_owned()
        };
        let mut modules = Modules { transformer: String::new(), pooling: vec![], normalize: false };
        for (i, module) in list.iter().enumerate() {
            let (kind, path) = (text(module, "type"), text(module, "path"));
            let kind = kind.rsplit('.').next().unwrap_or_default();
            match (kind, i) {
                ("Transformer", 0) => modules.transformer = path,
                ("Pooling", 1) => {
                    modules.pooling = poolings(&Config::read(folder, &format!("{path}/config.json"))?)?
                }
                ("Normalize", 2..) => modules.normalize = true,
                _ => {
                    return Err(wrong(format!(
                        "module {i} of type `{kind:.80}`: only a Transformer, then a Pooling, then Normalize are \
                         supported"
                    )));
                }
            }
        }
        match modules.pooling.is_empty() {
            true => Err(wrong("there is no pooling".to_owned())),
            false => Ok(modules),
        }
    }

    /// The vector of each sequence, from `[B, L, H]` and the mask `[B, L]`.
    pub(super) fn embed(&self, net: &mut Net<'_, '_>, hidden: Value, mask: Value) -> Result<Value, Fault> {
        let mut parts = vec![];
        for &pooling in &self.pooling {
            net.at("pooling", "Pooling");
            parts.push(pool(net, pooling, hidden, mask)?);
        }
        let joined = net.b.concat(&parts, 1)?;
        if !self.normalize {
            return Ok(joined);
        }
        net.at("normalize", "Normalize");
        let norm = net.b.reduce(ReduceKind::L2, joined, &[1], true)?;
        let least = net.b.scalar(DType::F32, 1e-12)?;
        let norm = net.b.ew("max", &[norm, least])?;
        Ok(net.b.ew("div", &[joined, norm])?)
    }
}

fn poolings(config: &Config) -> Result<Vec<Pooling>, Fault> {
    let mut found = vec![];
    // Newer files have a list, or names joined by `+`.
    let named: Option<Vec<String>> = match config.get("pooling_mode") {
        Some(Json::String(name)) => Some(name.split('+').map(str::to_owned).collect()),
        Some(_) => config.texts("pooling_mode")?.map(|names| names.into_iter().map(str::to_owned).collect()),
        None => None,
    };
    if let Some(names) = &named
        && let Some(other) = names.iter().find(|name| !MODES.iter().any(|(_, known, _)| known == name))
    {
        return Err(config.wrong("pooling_mode", format!("`{other:.80}` is not supported")));
    }
    for &(field, name, pooling) in MODES {
        let on = match &named {
            Some(names) => names.iter().any(|n| n == name),
            None => config.flag(field, false)?,
        };
        match pooling {
            Some(pooling) if on => found.push(pooling),
            None if on => return Err(config.wrong(field, "this pooling is not supported")),
            _ => {}
        }
    }
    match found.is_empty() {
        true => Err(config.wrong("pooling_mode", "no pooling is chosen")),
        false => Ok(found),
    }
}

fn pool(net: &mut Net<'_, '_>, pooling: Pooling, hidden: Value, mask: Value) -> Result<Value, Fault> {
    let shape = net.b.shape(mask)?.to_vec();
    let column: Vec<Dim> = shape.iter().cloned().chain([Dim::known(1)]).collect();
    match pooling {
        Pooling::First => net.first(hidden),
        Pooling::Max => {
            let kept = net.kept(mask)?;
            let kept = net.b.reshape(kept, &column)?;
            let low = net.b.scalar(DType::F32, -1e9)?;
            let masked = net.b.ew("where", &[kept, hidden, low])?;
            Ok(net.b.reduce(ReduceKind::Max, masked, &[1], false)?)
        }
        Pooling::Mean | Pooling::MeanRoot => {
            let weights = net.b.cast(mask, DType::F32)?;
            let weights = net.b.reshape(weights, &column)?;
            let weighted = net.b.ew("mul", &[hidden, weights])?;
            let sum = net.b.reduce(ReduceKind::Sum, weighted, &[1], false)?;
            let count = net.b.reduce(ReduceKind::Sum, weights, &[1], false)?;
            let least = net.b.scalar(DType::F32, 1e-9)?;
            let mut count = net.b.ew("max", &[count, least])?;
            if pooling == Pooling::MeanRoot {
                count = net.b.ew("sqrt", &[count])?;
            }
            Ok(net.b.ew("div", &[sum, count])?)
        }
    }
}
