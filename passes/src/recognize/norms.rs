//! Layer and root-mean-square normalization.

use std::sync::OnceLock;

use kiln_ir::op::{Composite, Reduce};
use kiln_ir::{Build, Dim, Edit, Float, NodeId, Op, Value};

use crate::pattern::{Captures, Pattern};
use crate::rewrite::{Cx, Refusal, Rule, matches, require};

/// Spellings of a normalization without scale and bias, or with all of it in keras' arrangement.
///
/// - torch (dynamo and TorchScript): `(x - mean) / sqrt(var + eps)`, the variance from `pow` or a product;
/// - torch with `rsqrt`, onnxruntime's unfused form: `(x - mean) * rsqrt(var + eps)`;
/// - tf2onnx of keras: `x * inv + (bias - mean * inv)` with `inv = rsqrt(var + eps) * scale`.
const LAYER_NORMS: &[&str] = &[
    "div(sub@d(?x, reduce_mean@mean(?x)), sqrt(add(reduce_mean@var(square(?d)), ?eps)))",
    "mul(sub@d(?x, reduce_mean@mean(?x)), rsqrt(add(reduce_mean@var(square(?d)), ?eps)))",
    "add(mul(?x, mul@inv(rsqrt(add(reduce_mean@var(square(sub(?x, reduce_mean@mean(?x)))), ?eps)), ?scale)), \
     sub(?bias, mul(?mean, ?inv)))",
];

const RMS_NORMS: &[&str] = &[
    "mul(?x, rsqrt(add(reduce_mean@var(square(?x)), ?eps)))",
    "div(?x, sqrt(add(reduce_mean@var(square(?x)), ?eps)))",
];

fn find<'a>(
    cx: &Cx<'_>,
    id: NodeId,
    cache: &'static OnceLock<Vec<Pattern>>,
    texts: &[&str],
) -> Result<Captures<'a>, Refusal> {
    let patterns = cache.get_or_init(|| texts.iter().map(|t| Pattern::new(t)).collect());
    let &[result] = &cx.node(id).results[..] else { return Err(Refusal::NoMatch) };
    let is_constant = |m: &Captures<'_>| m.get("eps").is_some_and(|e| cx.splat(e).is_some());
    let mut found = patterns.iter().filter_map(|p| p.find_where(cx.graph, result, is_constant));
    found.next().ok_or(Refusal::NoMatch)
}

/// The first of the trailing axes that a reduction with kept dims reduces.
fn first_axis(cx: &Cx<'_>, reduction: Value) -> Result<usize, Refusal> {
    let Some((_, node)) = cx.def(reduction) else { return Err(Refusal::NoMatch) };
    let Op::Reduce(Reduce::Axes { axes, keepdims, .. }) = &node.op else { return Err(Refusal::NoMatch) };
    let rank = cx.shape(node.operands[0])?.len();
    require(*keepdims, "the statistics drop the reduced axes")?;
    let mut sorted = axes.clone();
    sorted.sort_unstable();
    let first = rank.saturating_sub(sorted.len());
    require(
        !axes.is_empty() && sorted.iter().copied().eq(first..rank),
        "the statistics are not over the last axes",
    )?;
    Ok(first)
}

/// A constant of the given shape, all of one number.
fn filled(p: &mut impl Build, x: Value, dims: &[Dim], number: f64) -> Result<Value, Refusal> {
    let one = p.scalar(p.dtype(x)?, number)?;
    Ok(p.broadcast(one, dims)?)
}

/// The parameter `v` in the shape of the normalized axes.
fn parameter(cx: &Cx<'_>, p: &mut impl Build, v: Value, dims: &[Dim]) -> Result<Value, Refusal> {
    let from = cx.shape(v)?;
    let tail = &from[from.len().saturating_sub(dims.len())..];
    let leading = &from[..from.len() - tail.len()];
    require(leading.iter().all(|d| d.as_known() == Some(1)), "the parameter differs along other axes")?;
    let v = if leading.is_empty() { v } else { p.reshape(v, tail)? };
    Ok(p.broadcast(v, dims)?)
}

/// Recognizes layer normalization.
pub(super) const LAYER_NORM: Rule = Rule { name: "layer-norm", apply: layer_norm };

fn layer_norm(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    static PATTERNS: OnceLock<Vec<Pattern>> = OnceLock::new();
    let m = find(cx, id, &PATTERNS, LAYER_NORMS)?;
    let get = |name| m.get(name).ok_or(Refusal::NoMatch);
    let (x, mean, var) = (get("x")?, get("mean")?, get("var")?);
    let axis = first_axis(cx, mean)?;
    require(axis == first_axis(cx, var)?, "mean and variance are over different axes")?;
    let epsilon = Float::new(cx.splat(get("eps")?).ok_or(Refusal::NoMatch)?);
    let dims = cx.shape(x)?.get(axis..).ok_or(Refusal::NoMatch)?;
    cx.rewrite(id, |p| {
        let scale = match m.get("scale") {
            Some(v) => parameter(cx, p, v, dims)?,
            None => filled(p, x, dims, 1.0)?,
        };
        let bias = match m.get("bias") {
            Some(v) => parameter(cx, p, v, dims)?,
            None => filled(p, x, dims, 0.0)?,
        };
        Ok(p.add1(Composite::LayerNorm { axis, epsilon }, &[x, scale, bias])?)
    })
}

/// Recognizes root-mean-square normalization.
pub(super) const RMS_NORM: Rule = Rule { name: "rms-norm", apply: rms_norm };

fn rms_norm(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    static PATTERNS: OnceLock<Vec<Pattern>> = OnceLock::new();
    let m = find(cx, id, &PATTERNS, RMS_NORMS)?;
    let get = |name| m.get(name).ok_or(Refusal::NoMatch);
    let x = get("x")?;
    let axis = first_axis(cx, get("var")?)?;
    // The centred form is layer normalization, which its own rule takes whole.
    let centred = cx.def(x).is_some_and(|(_, n)| {
        n.op == Op::ew("sub") && n.operands.get(1).is_some_and(|&v| first_axis(cx, v).is_ok())
    });
    matches(!centred)?;
    let epsilon = Float::new(cx.splat(get("eps")?).ok_or(Refusal::NoMatch)?);
    let dims = cx.shape(x)?.get(axis..).ok_or(Refusal::NoMatch)?;
    cx.rewrite(id, |p| {
        let scale = filled(p, x, dims, 1.0)?;
        Ok(p.add1(Composite::RmsNorm { axis, epsilon }, &[x, scale])?)
    })
}

/// The normalization that a value is, whose result nothing else uses, with the value that it is combined with.
fn norm_operand<'a>(
    cx: &Cx<'a>,
    id: NodeId,
    name: &str,
) -> Result<(&'a Composite, &'a [Value], Value), Refusal> {
    let node = cx.node(id);
    matches(node.op == Op::ew(name))?;
    let &[a, b] = &node.operands[..] else { return Err(Refusal::NoMatch) };
    for (norm, other) in [(a, b), (b, a)] {
        if let Some((_, n)) = cx.def(norm)
            && let Op::Composite(c @ (Composite::LayerNorm { .. } | Composite::RmsNorm { .. })) = &n.op
        {
            require(cx.uses.count(norm) == 1, "the normalized value is used elsewhere")?;
            return Ok((c, &n.operands, other));
        }
    }
    Err(Refusal::NoMatch)
}

/// Whether a value is `number` everywhere, through a broadcast.
fn is_filled(cx: &Cx<'_>, v: Value, number: f64) -> bool {
    let source = match cx.movement(v) {
        Some((kiln_ir::op::Movement::Broadcast { .. }, node)) => node.operands[0],
        _ => v,
    };
    cx.splat(source) == Some(number)
}

fn axis_of(c: &Composite) -> usize {
    match c {
        Composite::LayerNorm { axis, .. } | Composite::RmsNorm { axis, .. } => *axis,
        _ => 0,
    }
}

/// A product with a normalization of unit scale and no bias gives it its scale.
pub(super) const NORM_SCALE: Rule = Rule { name: "norm-scale", apply: norm_scale };

fn norm_scale(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let (norm, operands, factor) = norm_operand(cx, id, "mul")?;
    let plain = is_filled(cx, operands[1], 1.0) && operands.get(2).is_none_or(|&b| is_filled(cx, b, 0.0));
    require(plain, "the normalization has scale or bias already")?;
    let dims = cx.shape(operands[0])?.get(axis_of(norm)..).ok_or(Refusal::NoMatch)?;
    cx.rewrite(id, |p| {
        let mut new = operands.to_vec();
        new[1] = parameter(cx, p, factor, dims)?;
        Ok(p.add1(norm.clone(), &new)?)
    })
}

/// A sum with a layer normalization without bias gives it its bias.
pub(super) const NORM_BIAS: Rule = Rule { name: "norm-bias", apply: norm_bias };

fn norm_bias(cx: &Cx<'_>, id: NodeId) -> Result<Edit, Refusal> {
    let (norm, operands, term) = norm_operand(cx, id, "add")?;
    let &[x, _, bias] = operands else { return Err(Refusal::NoMatch) };
    require(is_filled(cx, bias, 0.0), "the normalization has a bias already")?;
    let dims = cx.shape(x)?.get(axis_of(norm)..).ok_or(Refusal::NoMatch)?;
    cx.rewrite(id, |p| {
        let mut new = operands.to_vec();
        new[2] = parameter(cx, p, term, dims)?;
        Ok(p.add1(norm.clone(), &new)?)
    })
}
