//! Optimizer steps.

use kiln_ir::{Build, Value};

use super::{How, Row};
use crate::onnx::cx::{Cx, OpError, Outputs};

const TRAINING: &str = "ai.onnx.preview.training";

const fn row(name: &'static str, import: super::Import) -> Row {
    Row { domain: TRAINING, name, since: &[1], how: How::Fn(import) }
}

pub(super) const ROWS: &[Row] = &[row("Adagrad", adagrad), row("Adam", adam), row("Momentum", momentum)];

/// The operands after learning rate and step count, in `kinds` groups of one length.
fn groups(cx: &Cx<'_, '_, '_>, kinds: usize) -> Result<Vec<Vec<Value>>, OpError> {
    let all = cx.all_inputs()?;
    let tensors = all.get(2..).unwrap_or(&[]);
    if tensors.is_empty() || tensors.len() % kinds != 0 {
        return Err(OpError::invalid(format!("{} tensors do not make {kinds} groups", tensors.len())));
    }
    let count = tensors.len() / kinds;
    // One entry a variable: its value, gradient and accumulators.
    Ok((0..count).map(|i| tensors.iter().skip(i).step_by(count).copied().collect()).collect())
}

fn scale(cx: &mut Cx<'_, '_, '_>, v: Value, factor: f64) -> Result<Value, OpError> {
    let dtype = cx.dtype(v)?;
    let factor = cx.b.scalar(dtype, factor)?;
    Ok(cx.b.ew("mul", &[v, factor])?)
}

fn shift(cx: &mut Cx<'_, '_, '_>, v: Value, term: f64) -> Result<Value, OpError> {
    let dtype = cx.dtype(v)?;
    let term = cx.b.scalar(dtype, term)?;
    Ok(cx.b.ew("add", &[v, term])?)
}

/// The gradient with L2 regularization.
fn regularized(cx: &mut Cx<'_, '_, '_>, x: Value, gradient: Value) -> Result<Value, OpError> {
    let factor = cx.attrs.float_or("norm_coefficient", 0.0)?;
    let pull = scale(cx, x, factor)?;
    Ok(cx.b.ew("add", &[pull, gradient])?)
}

/// Results come in groups: all new values, then all new accumulators of each kind.
fn in_groups(variables: Vec<Vec<Value>>) -> Vec<Value> {
    let kinds = variables.first().map_or(0, Vec::len);
    (0..kinds).flat_map(|k| variables.iter().filter_map(move |v| v.get(k).copied())).collect()
}

/// The learning rate and the step count in the dtype of `like`.
fn schedule(cx: &mut Cx<'_, '_, '_>, like: Value) -> Result<(Value, Value), OpError> {
    let (rate, step, dtype) = (cx.input(0)?, cx.input(1)?, cx.dtype(like)?);
    Ok((cx.b.cast(rate, dtype)?, cx.b.cast(step, dtype)?))
}

fn adagrad(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let decay = cx.attrs.float_or("decay_factor", 0.0)?;
    let epsilon = cx.attrs.float_or("epsilon", 1e-6)?;
    let mut results = vec![];
    for variable in groups(cx, 3)? {
        let [x, g, h] = variable.as_slice() else { continue };
        let (rate, step) = schedule(cx, *x)?;
        let slowdown = scale(cx, step, decay)?;
        let slowdown = shift(cx, slowdown, 1.0)?;
        let rate = cx.b.ew("div", &[rate, slowdown])?;
        let g = regularized(cx, *x, *g)?;
        let square = cx.b.ew("square", &[g])?;
        let h = cx.b.ew("add", &[*h, square])?;
        let root = cx.b.ew("sqrt", &[h])?;
        let root = shift(cx, root, epsilon)?;
        let moved = cx.b.ew("mul", &[rate, g])?;
        let moved = cx.b.ew("div", &[moved, root])?;
        results.push(vec![cx.b.ew("sub", &[*x, moved])?, h]);
    }
    Ok(in_groups(results))
}

fn adam(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (alpha, beta) = (cx.attrs.float_or("alpha", 0.9)?, cx.attrs.float_or("beta", 0.999)?);
    let epsilon = cx.attrs.float_or("epsilon", 1e-6)?;
    let post = cx.attrs.float_or("norm_coefficient_post", 0.0)?;
    let mut results = vec![];
    for variable in groups(cx, 4)? {
        let [x, g, v, h] = variable.as_slice() else { continue };
        let (rate, step) = schedule(cx, *x)?;
        let g = regularized(cx, *x, *g)?;
        let (v, fresh) = (scale(cx, *v, alpha)?, scale(cx, g, 1.0 - alpha)?);
        let v = cx.b.ew("add", &[v, fresh])?;
        let square = cx.b.ew("square", &[g])?;
        let (h, fresh) = (scale(cx, *h, beta)?, scale(cx, square, 1.0 - beta)?);
        let h = cx.b.ew("add", &[h, fresh])?;
        let root = cx.b.ew("sqrt", &[h])?;
        let root = shift(cx, root, epsilon)?;
        let rate = bias_corrected(cx, rate, step, alpha, beta)?;
        let moved = cx.b.ew("mul", &[rate, v])?;
        let moved = cx.b.ew("div", &[moved, root])?;
        let x = cx.b.ew("sub", &[*x, moved])?;
        results.push(vec![scale(cx, x, 1.0 - post)?, v, h]);
    }
    Ok(in_groups(results))
}

/// `rate * sqrt(1 - beta^t) / (1 - alpha^t)`, or `rate` at step 0.
fn bias_corrected(
    cx: &mut Cx<'_, '_, '_>,
    rate: Value,
    step: Value,
    alpha: f64,
    beta: f64,
) -> Result<Value, OpError> {
    let dtype = cx.dtype(rate)?;
    let rest = |cx: &mut Cx<'_, '_, '_>, base: f64| {
        let base = cx.b.scalar(dtype, base)?;
        let power = cx.b.ew("pow", &[base, step])?;
        let unit = cx.b.scalar(dtype, 1.0)?;
        Ok::<_, OpError>(cx.b.ew("sub", &[unit, power])?)
    };
    let (first, second) = (rest(cx, alpha)?, rest(cx, beta)?);
    let root = cx.b.ew("sqrt", &[second])?;
    let corrected = cx.b.ew("mul", &[rate, root])?;
    let corrected = cx.b.ew("div", &[corrected, first])?;
    let zero = cx.b.scalar(dtype, 0.0)?;
    let started = cx.b.ew("gt", &[step, zero])?;
    Ok(cx.b.ew("where", &[started, corrected, rate])?)
}

fn momentum(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let alpha = cx.attrs.float("alpha")?.ok_or_else(|| OpError::invalid("attribute `alpha` is missing"))?;
    let beta = cx.attrs.float("beta")?.ok_or_else(|| OpError::invalid("attribute `beta` is missing"))?;
    let mode = cx.attrs.string_or("mode", "")?;
    let mut results = vec![];
    for variable in groups(cx, 3)? {
        let [x, g, v] = variable.as_slice() else { continue };
        let (rate, step) = schedule(cx, *x)?;
        let dtype = cx.dtype(*x)?;
        let g = regularized(cx, *x, *g)?;
        // The first step takes the whole gradient.
        let (zero, unit, beta) =
            (cx.b.scalar(dtype, 0.0)?, cx.b.scalar(dtype, 1.0)?, cx.b.scalar(dtype, beta)?);
        let started = cx.b.ew("gt", &[step, zero])?;
        let take = cx.b.ew("where", &[started, beta, unit])?;
        let fresh = cx.b.ew("mul", &[take, g])?;
        let kept = scale(cx, *v, alpha)?;
        let v = cx.b.ew("add", &[kept, fresh])?;
        let direction = match mode.as_str() {
            "standard" => v,
            "nesterov" => {
                let ahead = scale(cx, v, alpha)?;
                cx.b.ew("add", &[g, ahead])?
            }
            other => return Err(OpError::invalid(format!("mode `{other}`"))),
        };
        let moved = cx.b.ew("mul", &[rate, direction])?;
        results.push(vec![cx.b.ew("sub", &[*x, moved])?, v]);
    }
    Ok(in_groups(results))
}
