//! Strings.

use kiln_ir::op::{Host, NgramWeight, TextCase};
use kiln_ir::{Build, DType, Float, Tensor};

use super::{How, Row, row};
use crate::onnx::cx::{Cx, OpError, Outputs, one};

use How::Fn;

pub(super) const ROWS: &[Row] = &[
    row("RegexFullMatch", &[20], Fn(regex)),
    row("StringConcat", &[20], Fn(concat)),
    row("StringNormalizer", &[10], Fn(normalize)),
    row("StringSplit", &[20], Fn(split)),
    row("TfIdfVectorizer", &[9], Fn(ngrams)),
];

fn concat(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    one(cx.b.add1(Host::StringConcat {}, &[a, b])?)
}

fn regex(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let pattern = cx.attrs.string_or("pattern", "")?;
    one(cx.b.add1(Host::RegexFullMatch { pattern }, &[x])?)
}

fn split(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let delimiter = cx.attrs.string_or("delimiter", "")?;
    let max_splits = cx.attrs.int("maxsplit")?.filter(|&n| n >= 0);
    Ok(cx.b.add(Host::StringSplit { delimiter, max_splits }.into(), &[x])?.to_vec())
}

fn normalize(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let case = match cx.attrs.string_or("case_change_action", "NONE")?.as_str() {
        "NONE" => TextCase::Keep,
        "LOWER" => TextCase::Lower,
        "UPPER" => TextCase::Upper,
        other => return Err(OpError::invalid(format!("case_change_action `{other}`"))),
    };
    let op = Host::StringNormalize {
        case,
        case_sensitive: cx.attrs.flag("is_case_sensitive", false)?,
        stopwords: cx.attrs.strings("stopwords")?.unwrap_or_default(),
    };
    one(cx.b.add1(op, &[x])?)
}

fn ngrams(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let mut x = cx.input(0)?;
    let weighting = match cx.attrs.string_or("mode", "")?.as_str() {
        "TF" => NgramWeight::Count,
        "IDF" => NgramWeight::Weight,
        "TFIDF" => NgramWeight::CountTimesWeight,
        other => return Err(OpError::invalid(format!("mode `{other}`"))),
    };
    let pool = match cx.attrs.strings("pool_strings")? {
        Some(words) => Tensor::strings(&[words.len()], words)?,
        None => Tensor::ints(&cx.attrs.ints_or("pool_int64s", &[])?),
    };
    if pool.dtype() == DType::I64 {
        x = cx.b.cast(x, DType::I64)?;
    }
    let weights = cx.attrs.floats("weights")?.unwrap_or_default();
    let op = Host::NgramCounts {
        weighting,
        min_length: cx.attrs.required_int("min_gram_length")?,
        max_length: cx.attrs.required_int("max_gram_length")?,
        max_skip: cx.attrs.required_int("max_skip_count")?,
        starts: cx.attrs.ints_or("ngram_counts", &[])?,
        columns: cx.attrs.ints_or("ngram_indexes", &[])?,
        pool,
        weights: weights.into_iter().map(Float::new).collect(),
    };
    one(cx.b.add1(op, &[x])?)
}
