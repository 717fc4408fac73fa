//! Classic models, domain `ai.onnx.ml`.

use kiln_ir::op::{Composite, Host, Index, ReduceKind};
use kiln_ir::{Build, DType, Dim, Scalar, Tensor, Value};

use super::{How, Row};
use crate::onnx::cx::{Cx, OpError, Outputs, one};

const ML: &str = "ai.onnx.ml";

const fn row(name: &'static str, since: &'static [i64], import: super::Import) -> Row {
    Row { domain: ML, name, since, how: How::Fn(import) }
}

pub(super) const ROWS: &[Row] = &[
    row("ArrayFeatureExtractor", &[1], array_feature_extractor),
    row("Binarizer", &[1], binarizer),
    row("LabelEncoder", &[1, 2, 4], label_encoder),
    row("LinearRegressor", &[1], linear_regressor),
    row("Normalizer", &[1], normalizer),
    row("Scaler", &[1], scaler),
];

fn floats(values: &[f64], dims: &[usize]) -> Result<Tensor, OpError> {
    let scalars: Vec<Scalar> = values.iter().map(|&v| Scalar::F(v)).collect();
    Ok(Tensor::from_scalars(DType::F32, dims, &scalars)?)
}

/// Columns of the last axis; a vector is one row.
fn array_feature_extractor(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (mut x, indices) = (cx.input(0)?, cx.input(1)?);
    let mut dims = cx.shape(x)?;
    if dims.len() == 1 {
        dims.insert(0, Dim::known(1));
        x = cx.b.reshape(x, &dims)?;
    }
    let count = cx.shape(indices)?.iter().fold(Dim::known(1), |a, b| a * b);
    let indices = cx.b.reshape(indices, &[count])?;
    one(cx.b.add1(Index::Gather { axis: dims.len().saturating_sub(1) }, &[x, indices])?)
}

fn binarizer(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let dtype = cx.dtype(x)?;
    let threshold = cx.attrs.float_or("threshold", 0.0)?;
    let threshold = cx.b.scalar(dtype, threshold)?;
    let above = cx.b.ew("gt", &[x, threshold])?;
    one(cx.b.cast(above, dtype)?)
}

/// A list attribute as a tensor, whichever of the three forms or the tensor form is given.
fn list(cx: &Cx<'_, '_, '_>, names: [&'static str; 4]) -> Result<Option<Tensor>, OpError> {
    let [tensor, ints, strings, floats_name] = names;
    if let Some(t) = cx.attrs.tensor(tensor)? {
        return Ok(Some(t.reshaped(&[t.numel()])?));
    }
    if let Some(v) = cx.attrs.ints(ints)?.filter(|v| !v.is_empty()) {
        return Ok(Some(Tensor::ints(&v)));
    }
    if let Some(v) = cx.attrs.strings(strings)?.filter(|v| !v.is_empty()) {
        return Ok(Some(Tensor::strings(&[v.len()], v)?));
    }
    match cx.attrs.floats(floats_name)?.filter(|v| !v.is_empty()) {
        Some(v) => floats(&v, &[v.len()]).map(Some),
        None => Ok(None),
    }
}

fn default_label(cx: &Cx<'_, '_, '_>, dtype: DType) -> Result<Tensor, OpError> {
    if let Some(t) = cx.attrs.tensor("default_tensor")? {
        return Ok(t);
    }
    match dtype {
        DType::String => Ok(Tensor::strings(&[1], vec![cx.attrs.string_or("default_string", "_Unused")?])?),
        dtype if dtype.is_float() => {
            let v = cx.attrs.float_or("default_float", -0.0)?;
            Ok(Tensor::from_scalars(dtype, &[1], &[Scalar::F(v)])?)
        }
        dtype => {
            let v = cx.attrs.int_or("default_int64", -1)?;
            Ok(Tensor::from_scalars(dtype, &[1], &[Scalar::I(i128::from(v))])?)
        }
    }
}

fn label_encoder(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let (keys, values) = if let Some(classes) = cx.attrs.strings("classes_strings")? {
        // Version 1: strings to their positions, or positions to strings.
        let count = classes.len();
        let positions = Tensor::ints(&(0..count as i64).collect::<Vec<_>>());
        let words = Tensor::strings(&[count], classes)?;
        if cx.dtype(x)? == DType::String { (words, positions) } else { (positions, words) }
    } else {
        let keys = list(cx, ["keys_tensor", "keys_int64s", "keys_strings", "keys_floats"])?;
        let values = list(cx, ["values_tensor", "values_int64s", "values_strings", "values_floats"])?;
        let missing = |what: &str| OpError::invalid(format!("the {what} are missing"));
        (keys.ok_or_else(|| missing("keys"))?, values.ok_or_else(|| missing("values"))?)
    };
    let default = default_label(cx, values.dtype())?;
    one(cx.b.add1(Host::Lookup { keys, values, default }, &[x])?)
}

fn scaler(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let x = cx.b.cast(x, DType::F32)?;
    let (offset, scale) = (cx.attrs.floats("offset")?, cx.attrs.floats("scale")?);
    let offset = offset.unwrap_or_else(|| vec![0.0]);
    let scale = scale.unwrap_or_else(|| vec![1.0]);
    let offset = cx.b.constant(floats(&offset, &[offset.len()])?)?;
    let scale = cx.b.constant(floats(&scale, &[scale.len()])?)?;
    let centred = cx.b.ew("sub", &[x, offset])?;
    one(cx.b.ew("mul", &[centred, scale])?)
}

fn normalizer(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let x = cx.b.cast(x, DType::F32)?;
    let axis = cx.axis(-1, cx.rank(x)?)?;
    let norm = match cx.attrs.string_or("norm", "MAX")?.as_str() {
        "MAX" => cx.b.reduce(ReduceKind::Max, x, &[axis], true)?,
        "L1" => cx.b.reduce(ReduceKind::L1, x, &[axis], true)?,
        "L2" => cx.b.reduce(ReduceKind::L2, x, &[axis], true)?,
        other => return Err(OpError::invalid(format!("norm `{other}`"))),
    };
    one(cx.b.ew("div", &[x, norm])?)
}

/// What the last step of a model makes of its scores.
fn post_transform(cx: &mut Cx<'_, '_, '_>, v: Value) -> Result<Value, OpError> {
    let axis = cx.axis(-1, cx.rank(v)?)?;
    match cx.attrs.string_or("post_transform", "NONE")?.as_str() {
        "NONE" => Ok(v),
        "LOGISTIC" => Ok(cx.b.ew("sigmoid", &[v])?),
        "SOFTMAX" => Ok(cx.b.add1(Composite::Softmax { axis }, &[v])?),
        other => Err(OpError::unsupported(format!("post_transform `{other}`"))),
    }
}

fn linear_regressor(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let x = cx.b.cast(x, DType::F32)?;
    let targets = cx.attrs.int_or("targets", 1)?;
    let targets = usize::try_from(targets).ok().filter(|&t| t > 0);
    let targets = targets.ok_or_else(|| OpError::invalid("attribute `targets` must be positive"))?;
    let coefficients = cx.attrs.floats("coefficients")?.unwrap_or_default();
    let weights = cx.b.constant(floats(&coefficients, &[targets, coefficients.len() / targets])?)?;
    let mut y = cx.b.einsum("nf,tf->nt", x, weights)?;
    if let Some(intercepts) = cx.attrs.floats("intercepts")? {
        let intercepts = cx.b.constant(floats(&intercepts, &[intercepts.len()])?)?;
        y = cx.b.ew("add", &[y, intercepts])?;
    }
    one(post_transform(cx, y)?)
}
