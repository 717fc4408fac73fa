//! Classical machine learning, domain `ai.onnx.ml`: encoders, scalers, linear models, support vector regression.

use kiln_ir::op::{Composite, Host, Index, Order, ReduceKind, ScoreTransform};
use kiln_ir::{Build, DType, Dim, Tensor, Value};

use super::{Row, row_ml};
use crate::onnx::cx::{Cx, OpError, Outputs, one};

pub(super) const ROWS: &[Row] = &[
    row_ml("ArrayFeatureExtractor", &[1], array_feature_extractor),
    row_ml("Binarizer", &[1], binarizer),
    row_ml("CategoryMapper", &[1], category_mapper),
    row_ml("FeatureVectorizer", &[1], feature_vectorizer),
    row_ml("Imputer", &[1], imputer),
    row_ml("LabelEncoder", &[1, 2, 4], label_encoder),
    row_ml("LinearClassifier", &[1], linear_classifier),
    row_ml("LinearRegressor", &[1], linear_regressor),
    row_ml("Normalizer", &[1], normalizer),
    row_ml("OneHotEncoder", &[1], one_hot_encoder),
    row_ml("SVMRegressor", &[1], svm_regressor),
    row_ml("Scaler", &[1], scaler),
    row_ml("ZipMap", &[1], zip_map),
];

/// The attribute `post_transform`.
pub(super) fn score_transform(cx: &Cx<'_, '_, '_>) -> Result<ScoreTransform, OpError> {
    Ok(match cx.attrs.string_or("post_transform", "NONE")?.as_str() {
        "NONE" => ScoreTransform::None,
        "LOGISTIC" => ScoreTransform::Logistic,
        "SOFTMAX" => ScoreTransform::Softmax,
        "SOFTMAX_ZERO" => ScoreTransform::SoftmaxZero,
        "PROBIT" => ScoreTransform::Probit,
        other => return Err(OpError::invalid(format!("post transform `{other}`"))),
    })
}

/// Class labels, integers or strings.
pub(super) fn labels(
    cx: &Cx<'_, '_, '_>,
    ints: &'static str,
    strings: &'static str,
) -> Result<Tensor, OpError> {
    match (cx.attrs.ints(ints)?.unwrap_or_default(), cx.attrs.strings(strings)?.unwrap_or_default()) {
        (ints, strings) if strings.is_empty() && !ints.is_empty() => Ok(Tensor::ints(&ints)),
        (ints, strings) if ints.is_empty() && !strings.is_empty() => {
            Ok(Tensor::strings(&[strings.len()], strings)?)
        }
        _ => Err(OpError::invalid(format!("one of the attributes `{ints}` and `{strings}` must be given"))),
    }
}

/// The operand in f32, which these operators compute in; f64 stays.
fn real(cx: &mut Cx<'_, '_, '_>, i: usize) -> Result<Value, OpError> {
    let x = cx.input(i)?;
    Ok(if cx.dtype(x)? == DType::F64 { x } else { cx.b.cast(x, DType::F32)? })
}

/// A constant of the given numbers in a value's dtype.
fn numbers_like(cx: &mut Cx<'_, '_, '_>, v: Value, dims: &[usize], values: &[f64]) -> Result<Value, OpError> {
    let scalars: Vec<_> = values.iter().map(|&v| kiln_ir::Scalar::F(v)).collect();
    let dtype = cx.dtype(v)?;
    Ok(cx.b.constant(Tensor::from_scalars(dtype, dims, &scalars)?)?)
}

fn scalar_like(cx: &mut Cx<'_, '_, '_>, v: Value, value: f64) -> Result<Value, OpError> {
    let dtype = cx.dtype(v)?;
    Ok(cx.b.scalar(dtype, value)?)
}

/// Samples as a matrix: a vector is one sample.
fn samples(cx: &mut Cx<'_, '_, '_>, i: usize) -> Result<Value, OpError> {
    let x = real(cx, i)?;
    let dims = cx.shape(x)?;
    match dims.as_slice() {
        [n] => Ok(cx.b.reshape(x, &[Dim::known(1), n.clone()])?),
        [_, _] => Ok(x),
        other => Err(OpError::invalid(format!("samples must be a matrix, their rank is {}", other.len()))),
    }
}

/// The number of features of samples, which must be known.
fn features(cx: &Cx<'_, '_, '_>, x: Value) -> Result<usize, OpError> {
    let dims = cx.shape(x)?;
    let known = dims.get(1).and_then(Dim::as_known).and_then(|n| usize::try_from(n).ok());
    known.ok_or_else(|| OpError::unsupported("a number of features that is not constant"))
}

fn array_feature_extractor(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (x, y) = (cx.input(0)?, cx.input(1)?);
    let mut dims = cx.shape(x)?;
    let count = cx.shape(y)?.iter().fold(Dim::known(1), |a, b| &a * b);
    let y = cx.b.reshape(y, &[count])?;
    let mut x = x;
    if dims.len() < 2 {
        dims.insert(0, Dim::known(1));
        x = cx.b.reshape(x, &dims)?;
    }
    let axis = cx.axis(-1, dims.len())?;
    one(cx.b.add1(Index::Gather { axis }, &[x, y])?)
}

fn binarizer(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let dtype = cx.dtype(x)?;
    let wide = real(cx, 0)?;
    let threshold = cx.attrs.float_or("threshold", 0.0)?;
    let threshold = scalar_like(cx, wide, threshold)?;
    let above = cx.b.ew("gt", &[wide, threshold])?;
    one(cx.b.cast(above, dtype)?)
}

fn lookup(cx: &mut Cx<'_, '_, '_>, x: Value, keys: Tensor, values: Tensor, default: Tensor) -> Outputs {
    if keys.numel() != values.numel() {
        return Err(OpError::invalid(format!("{} keys for {} values", keys.numel(), values.numel())));
    }
    one(cx.b.add1(Host::Lookup { keys, values, default }, &[x])?)
}

fn text(value: String) -> Result<Tensor, OpError> {
    Ok(Tensor::strings(&[1], vec![value])?)
}

fn texts(values: Vec<String>) -> Result<Tensor, OpError> {
    Ok(Tensor::strings(&[values.len()], values)?)
}

/// Pairs of an integer and a string each; the operand says which is the key.
fn category_mapper(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let strings = cx.attrs.strings("cats_strings")?.unwrap_or_default();
    let ints = cx.attrs.ints("cats_int64s")?.unwrap_or_default();
    by_operand(cx, strings, &ints)
}

fn by_operand(cx: &mut Cx<'_, '_, '_>, strings: Vec<String>, ints: &[i64]) -> Outputs {
    let x = cx.input(0)?;
    let no_integer = Tensor::ints(&[cx.attrs.int_or("default_int64", -1)?]);
    let no_string = text(cx.attrs.string_or("default_string", "_Unused")?)?;
    let (strings, ints) = (texts(strings)?, Tensor::ints(ints));
    if cx.dtype(x)? == DType::String {
        lookup(cx, x, strings, ints, no_integer)
    } else {
        lookup(cx, x, ints, strings, no_string)
    }
}

/// A list of numbers as an f32 vector.
fn floats(values: &[f64]) -> Result<Tensor, OpError> {
    let scalars: Vec<_> = values.iter().map(|&v| kiln_ir::Scalar::F(v)).collect();
    Ok(Tensor::from_scalars(DType::F32, &[scalars.len()], &scalars)?)
}

fn label_encoder(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    if cx.opset < 2 {
        let strings = cx.attrs.strings("classes_strings")?.unwrap_or_default();
        let ints: Vec<i64> = (0..).take(strings.len()).collect();
        return by_operand(cx, strings, &ints);
    }
    let x = cx.input(0)?;
    let attrs = &cx.attrs;
    let keys = match (attrs.tensor("keys_tensor")?, attrs.strings("keys_strings")?) {
        (Some(t), _) => t,
        (None, Some(strings)) if !strings.is_empty() => texts(strings)?,
        _ => match attrs.ints("keys_int64s")? {
            Some(ints) if !ints.is_empty() => Tensor::ints(&ints),
            _ => floats(&attrs.floats("keys_floats")?.unwrap_or_default())?,
        },
    };
    let (values, default) = match (attrs.tensor("values_tensor")?, attrs.strings("values_strings")?) {
        (Some(t), _) => {
            let absent = || match t.dtype() {
                DType::String => text("_Unused".to_owned()),
                d if d.is_float() => Ok(Tensor::from_scalars(d, &[1], &[kiln_ir::Scalar::F(-0.0)])?),
                d => Ok(Tensor::from_scalars(d, &[1], &[kiln_ir::Scalar::I(-1)])?),
            };
            let default = attrs.tensor("default_tensor")?.map_or_else(absent, Ok)?;
            (t, default)
        }
        (None, Some(strings)) if !strings.is_empty() => {
            (texts(strings)?, text(attrs.string_or("default_string", "_Unused")?)?)
        }
        _ => match attrs.ints("values_int64s")? {
            Some(ints) if !ints.is_empty() => {
                (Tensor::ints(&ints), Tensor::ints(&[attrs.int_or("default_int64", -1)?]))
            }
            _ => {
                let values = attrs.floats("values_floats")?.unwrap_or_default();
                (floats(&values)?, floats(&[attrs.float_or("default_float", -0.0)?])?)
            }
        },
    };
    lookup(cx, x, keys, values, default)
}

/// Compares the position of each element among the categories with every position. What is no category has the first
/// position beyond them, which the gather refuses when the program runs.
fn one_hot_encoder(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let keys = labels(cx, "cats_int64s", "cats_strings")?;
    let x = if keys.dtype() == DType::I64 { cx.b.cast(x, DType::I64)? } else { x };
    let positions: Vec<i64> = (0..).take(keys.numel()).collect();
    let absent = Tensor::ints(&[i64::try_from(keys.numel()).unwrap_or(i64::MAX)]);
    let values = Tensor::ints(&positions);
    let mut places = cx.b.add1(Host::Lookup { keys, values, default: absent }, &[x])?;
    let positions = cx.b.constant_of(&positions)?;
    if !cx.attrs.flag("zeros", true)? {
        places = cx.b.add1(Index::Gather { axis: 0 }, &[positions, places])?;
    }
    let mut dims = cx.shape(places)?;
    dims.push(Dim::known(1));
    let places = cx.b.reshape(places, &dims)?;
    let hot = cx.b.ew("eq", &[places, positions])?;
    one(cx.b.cast(hot, DType::F32)?)
}

fn scaler(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let mut x = real(cx, 0)?;
    for (name, op) in [("offset", "sub"), ("scale", "mul")] {
        let values = cx.attrs.floats(name)?.unwrap_or_default();
        if !values.is_empty() {
            let operand = numbers_like(cx, x, &[values.len()], &values)?;
            x = cx.b.ew(op, &[x, operand])?;
        }
    }
    one(cx.b.cast(x, DType::F32)?)
}

/// Rows whose norm is zero stay as they are.
fn normalizer(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = samples(cx, 0)?;
    let kind = match cx.attrs.string_or("norm", "MAX")?.as_str() {
        "MAX" => ReduceKind::Max,
        "L1" => ReduceKind::L1,
        "L2" => ReduceKind::L2,
        other => return Err(OpError::invalid(format!("norm `{other}`"))),
    };
    let norm = cx.b.reduce(kind, x, &[1], true)?;
    let (zero, unit) = (scalar_like(cx, x, 0.0)?, scalar_like(cx, x, 1.0)?);
    let vanishes = cx.b.ew("eq", &[norm, zero])?;
    let divisor = cx.b.ew("where", &[vanishes, unit, norm])?;
    let y = cx.b.ew("div", &[x, divisor])?;
    one(cx.b.cast(y, DType::F32)?)
}

fn imputer(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let dtype = cx.dtype(x)?;
    let ints = cx.attrs.ints("imputed_value_int64s")?.unwrap_or_default();
    let reals = cx.attrs.floats("imputed_value_floats")?.unwrap_or_default();
    let (hit, fill) = if dtype.is_float() {
        let old = cx.attrs.float_or("replaced_value_float", 0.0)?;
        let hit = if old.is_nan() {
            cx.b.ew("is_nan", &[x])?
        } else {
            let old = scalar_like(cx, x, old)?;
            cx.b.ew("eq", &[x, old])?
        };
        (hit, numbers_like(cx, x, &[reals.len()], &reals)?)
    } else {
        let old = cx.b.constant(Tensor::scalar(cx.attrs.int_or("replaced_value_int64", 0)?))?;
        let old = cx.b.cast(old, dtype)?;
        let fill = cx.b.constant(Tensor::ints(&ints))?;
        (cx.b.ew("eq", &[x, old])?, cx.b.cast(fill, dtype)?)
    };
    one(cx.b.ew("where", &[hit, fill, x])?)
}

/// Joins the operands' columns; each is cut or filled up with zeros to its `inputdimensions`.
fn feature_vectorizer(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let widths = cx.attrs.ints_or("inputdimensions", &[])?;
    let mut parts = vec![];
    for i in 0..cx.input_count() {
        let x = samples(cx, i)?;
        let x = cx.b.cast(x, DType::F32)?;
        let have = features(cx, x)?;
        let want = match widths.get(i) {
            Some(&w) => {
                usize::try_from(w).map_err(|_| OpError::invalid(format!("an operand of {w} columns")))?
            }
            None => have,
        };
        let known = |n: usize| Dim::known(i64::try_from(n).unwrap_or(i64::MAX));
        let part = cx.b.slice_axis(x, 1, Dim::known(0), known(have.min(want)))?;
        parts.push(part);
        if want > have {
            let rows = cx.shape(x)?.first().cloned().unwrap_or(Dim::known(1));
            let zero = cx.b.scalar(DType::F32, 0.0)?;
            parts.push(cx.b.broadcast(zero, &[rows, known(want - have)])?);
        }
    }
    one(cx.b.concat(&parts, 1)?)
}

/// `x` times the transposed coefficients, a row each result, plus the intercepts.
fn linear(cx: &mut Cx<'_, '_, '_>, x: Value) -> Result<Value, OpError> {
    let coefficients = cx.attrs.floats("coefficients")?.unwrap_or_default();
    let width = features(cx, x)?;
    if width == 0 || coefficients.is_empty() || coefficients.len() % width != 0 {
        let found = coefficients.len();
        return Err(OpError::invalid(format!("{found} coefficients for {width} features")));
    }
    let rows = coefficients.len() / width;
    let matrix = numbers_like(cx, x, &[rows, width], &coefficients)?;
    let scores = cx.b.einsum("nf,kf->nk", x, matrix)?;
    let intercepts = cx.attrs.floats("intercepts")?.unwrap_or_default();
    if intercepts.is_empty() {
        return Ok(scores);
    }
    if intercepts.len() != rows {
        return Err(OpError::invalid(format!("{} intercepts for {rows} rows", intercepts.len())));
    }
    let intercepts = numbers_like(cx, x, &[rows], &intercepts)?;
    Ok(cx.b.ew("add", &[scores, intercepts])?)
}

/// Scores `[N, K]` after their transform.
fn transformed(cx: &mut Cx<'_, '_, '_>, scores: Value, transform: ScoreTransform) -> Result<Value, OpError> {
    Ok(match transform {
        ScoreTransform::None => scores,
        ScoreTransform::Logistic => cx.b.ew("sigmoid", &[scores])?,
        ScoreTransform::Softmax => cx.b.add1(Composite::Softmax { axis: 1 }, &[scores])?,
        ScoreTransform::SoftmaxZero => {
            let top = cx.b.reduce(ReduceKind::Max, scores, &[1], true)?;
            let shifted = cx.b.ew("sub", &[scores, top])?;
            let exp = cx.b.ew("exp", &[shifted])?;
            let size = cx.b.ew("abs", &[scores])?;
            let (zero, tiny) = (scalar_like(cx, scores, 0.0)?, scalar_like(cx, scores, 1e-7)?);
            let counts = cx.b.ew("gt", &[size, tiny])?;
            let exp = cx.b.ew("where", &[counts, exp, zero])?;
            let sum = cx.b.reduce(ReduceKind::Sum, exp, &[1], true)?;
            cx.b.ew("div", &[exp, sum])?
        }
        ScoreTransform::Probit => probit(cx, scores)?,
    })
}

/// Winitzki's approximation of the normal quantile function.
fn probit(cx: &mut Cx<'_, '_, '_>, v: Value) -> Result<Value, OpError> {
    const A: f64 = 0.147;
    let constant = |cx: &mut Cx<'_, '_, '_>, value: f64| scalar_like(cx, v, value);
    let (unit, two) = (constant(cx, 1.0)?, constant(cx, 2.0)?);
    let doubled = cx.b.ew("mul", &[v, two])?;
    let x = cx.b.ew("sub", &[doubled, unit])?;
    let (below, above) = (cx.b.ew("sub", &[unit, x])?, cx.b.ew("add", &[unit, x])?);
    let product = cx.b.ew("mul", &[below, above])?;
    let log = cx.b.ew("log", &[product])?;
    let (offset, half) = (constant(cx, 2.0 / (std::f64::consts::PI * A))?, constant(cx, 0.5)?);
    let halved = cx.b.ew("mul", &[log, half])?;
    let centre = cx.b.ew("add", &[halved, offset])?;
    let square = cx.b.ew("square", &[centre])?;
    let scaled = constant(cx, 1.0 / A)?;
    let scaled = cx.b.ew("mul", &[log, scaled])?;
    let inner = cx.b.ew("sub", &[square, scaled])?;
    let inner = cx.b.ew("sqrt", &[inner])?;
    let inner = cx.b.ew("sub", &[inner, centre])?;
    let root = cx.b.ew("sqrt", &[inner])?;
    let sign = cx.b.ew("sign", &[x])?;
    let signed = cx.b.ew("mul", &[root, sign])?;
    let scale = constant(cx, std::f64::consts::SQRT_2)?;
    Ok(cx.b.ew("mul", &[signed, scale])?)
}

fn linear_regressor(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = samples(cx, 0)?;
    let scores = linear(cx, x)?;
    let targets = cx.attrs.int_or("targets", 1)?;
    let found = cx.shape(scores)?.get(1).and_then(Dim::as_known);
    if found != Some(targets) {
        return Err(OpError::invalid(format!("coefficients do not fit {targets} targets")));
    }
    let transform = score_transform(cx)?;
    // A probit is the only transform of a single target.
    let applies = targets > 1 || transform == ScoreTransform::Probit;
    let y = if applies { transformed(cx, scores, transform)? } else { scores };
    one(cx.b.cast(y, DType::F32)?)
}

/// One row of coefficients decides between two classes: the second wins above zero.
fn linear_classifier(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = samples(cx, 0)?;
    let scores = linear(cx, x)?;
    let labels = labels(cx, "classlabels_ints", "classlabels_strings")?;
    // The number of rows tells the two forms apart, not this.
    let _ = cx.attrs.int("multi_class")?;
    let transform = score_transform(cx)?;
    let rows = cx.shape(scores)?.get(1).and_then(Dim::as_known);
    let (winner, scores) = if rows == Some(1) && labels.numel() == 2 {
        let (zero, unit) = (scalar_like(cx, scores, 0.0)?, scalar_like(cx, scores, 1.0)?);
        let above = cx.b.ew("gt", &[scores, zero])?;
        let winner = cx.b.cast(above, DType::I64)?;
        let samples = cx.shape(winner)?.first().cloned().unwrap_or(Dim::known(1));
        let winner = cx.b.reshape(winner, &[samples])?;
        let second = match transform {
            ScoreTransform::Logistic => cx.b.ew("sigmoid", &[scores])?,
            ScoreTransform::Probit => probit(cx, scores)?,
            ScoreTransform::None | ScoreTransform::Softmax | ScoreTransform::SoftmaxZero => scores,
        };
        let first = cx.b.ew("sub", &[unit, second])?;
        (winner, cx.b.concat(&[first, second], 1)?)
    } else {
        let winner = cx.b.add1(Order::ArgMax { axis: 1, keepdims: false, last: false }, &[scores])?;
        (winner, transformed(cx, scores, transform)?)
    };
    let labels = cx.b.constant(labels)?;
    let label = cx.b.add1(Index::Gather { axis: 0 }, &[labels, winner])?;
    Ok(vec![label, cx.b.cast(scores, DType::F32)?])
}

/// `sum over support vectors of coefficient * kernel(x, vector) + rho`.
fn svm_regressor(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = samples(cx, 0)?;
    let coefficients = cx.attrs.floats("coefficients")?.unwrap_or_default();
    let rho = cx.attrs.floats("rho")?.unwrap_or_default();
    // Scores of these machines are not transformed.
    let _ = score_transform(cx)?;
    let count = usize::try_from(cx.attrs.int_or("n_supports", 0)?)
        .map_err(|_| OpError::invalid("a negative number of support vectors"))?;
    let width = features(cx, x)?;
    let (kernel, rows) = if count > 0 {
        let vectors = cx.attrs.floats("support_vectors")?.unwrap_or_default();
        if vectors.len() != count.saturating_mul(width) {
            let found = vectors.len();
            return Err(OpError::invalid(format!("{found} numbers for {count} support vectors of {width}")));
        }
        let vectors = numbers_like(cx, x, &[count, width], &vectors)?;
        (kernel(cx, x, vectors)?, count)
    } else {
        (x, width)
    };
    if coefficients.len() != rows {
        return Err(OpError::invalid(format!("{} coefficients, {rows} are needed", coefficients.len())));
    }
    let weights = numbers_like(cx, x, &[1, rows], &coefficients)?;
    let y = cx.b.einsum("ns,ks->nk", kernel, weights)?;
    let rho = scalar_like(cx, x, rho.first().copied().unwrap_or(0.0))?;
    let mut y = cx.b.ew("add", &[y, rho])?;
    if cx.attrs.flag("one_class", false)? {
        let (zero, unit, other) =
            (scalar_like(cx, y, 0.0)?, scalar_like(cx, y, 1.0)?, scalar_like(cx, y, -1.0)?);
        let inside = cx.b.ew("gt", &[y, zero])?;
        y = cx.b.ew("where", &[inside, unit, other])?;
    }
    one(cx.b.cast(y, DType::F32)?)
}

/// The kernel function of each sample and each support vector.
fn kernel(cx: &mut Cx<'_, '_, '_>, x: Value, vectors: Value) -> Result<Value, OpError> {
    let params = cx.attrs.floats("kernel_params")?.unwrap_or_default();
    let param = |i: usize| params.get(i).copied().unwrap_or(0.0);
    let kind = cx.attrs.string_or("kernel_type", "LINEAR")?;
    let dot = cx.b.einsum("nf,sf->ns", x, vectors)?;
    let (gamma, coef0, degree) =
        (scalar_like(cx, x, param(0))?, scalar_like(cx, x, param(1))?, scalar_like(cx, x, param(2))?);
    let affine = |cx: &mut Cx<'_, '_, '_>| {
        let scaled = cx.b.ew("mul", &[dot, gamma])?;
        Ok::<_, OpError>(cx.b.ew("add", &[scaled, coef0])?)
    };
    match kind.as_str() {
        "LINEAR" => Ok(dot),
        "POLY" => {
            let base = affine(cx)?;
            Ok(cx.b.ew("pow", &[base, degree])?)
        }
        "SIGMOID" => {
            let inner = affine(cx)?;
            Ok(cx.b.ew("tanh", &[inner])?)
        }
        "RBF" => {
            let dims = cx.shape(x)?;
            let (Some(n), Some(f)) = (dims.first(), dims.get(1)) else {
                return Err(OpError::invalid("samples must be a matrix"));
            };
            let x = cx.b.reshape(x, &[n.clone(), Dim::known(1), f.clone()])?;
            let apart = cx.b.ew("sub", &[x, vectors])?;
            let squares = cx.b.reduce(ReduceKind::SumSquare, apart, &[2], false)?;
            let scaled = cx.b.ew("mul", &[squares, gamma])?;
            let scaled = cx.b.ew("neg", &[scaled])?;
            Ok(cx.b.ew("exp", &[scaled])?)
        }
        other => Err(OpError::invalid(format!("kernel `{other}`"))),
    }
}

/// Graph IR has no maps: the result is the tensor that the maps would hold, a column for each key in the order of the
/// class labels.
fn zip_map(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let x = cx.input(0)?;
    let keys = labels(cx, "classlabels_int64s", "classlabels_strings")?;
    tracing::warn!(node = cx.node.name, keys = keys.numel(), "maps are given as one tensor, a column a key");
    one(x)
}
