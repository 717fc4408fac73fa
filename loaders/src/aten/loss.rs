//! Losses and distances.

use kiln_ir::op::{Composite, Index, ReduceKind};
use kiln_ir::{Build, DType, Dim, Value};

use super::arg::Arg;
use super::cx::{Cx, many, one};
use super::pointwise::pair;
use super::{How, Results, Row, row};
use crate::error::OpError;

use How::Fn;

#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    row("aten::binary_cross_entropy", Fn(binary_cross_entropy)),
    row("aten::binary_cross_entropy_with_logits", Fn(with_logits)),
    row("aten::cosine_embedding_loss", Fn(cosine_embedding)),
    row("aten::cosine_similarity", Fn(cosine_similarity)),
    row("aten::cross_entropy_loss", Fn(cross_entropy)),
    row("aten::hinge_embedding_loss", Fn(hinge_embedding)),
    row("aten::huber_loss", Fn(huber)),
    row("aten::kl_div", Fn(kl_div)),
    row("aten::l1_loss", Fn(l1)),
    row("aten::margin_ranking_loss", Fn(margin_ranking)),
    row("aten::mse_loss", Fn(mse)),
    row("aten::multi_margin_loss", Fn(multi_margin)),
    row("aten::nll_loss", Fn(nll)),
    row("aten::nll_loss2d", Fn(nll)),
    row("aten::nll_loss2d_forward", Fn(nll_forward)),
    row("aten::nll_loss_forward", Fn(nll_forward)),
    row("aten::nll_loss_nd", Fn(nll)),
    row("aten::pairwise_distance", Fn(pairwise_distance)),
    row("aten::poisson_nll_loss", Fn(poisson)),
    row("aten::smooth_l1_loss", Fn(smooth_l1)),
    row("aten::soft_margin_loss", Fn(soft_margin)),
    row("aten::triplet_margin_loss", Fn(triplet_margin)),
];

/// All losses, their mean or their sum.
fn finish(cx: &mut Cx<'_, '_>, losses: Value) -> Results {
    let axes: Vec<usize> = (0..cx.rank(losses)?).collect();
    let y = match cx.int("reduction")? {
        0 => losses,
        1 => cx.b.reduce(ReduceKind::Mean, losses, &axes, false)?,
        2 => cx.b.reduce(ReduceKind::Sum, losses, &axes, false)?,
        other => return Err(OpError::invalid(format!("reduction {other}"))),
    };
    one(y)
}

fn operands(cx: &mut Cx<'_, '_>) -> Result<[Value; 2], OpError> {
    let (values, _) = cx.promoted(&["self", "target"])?;
    pair(&values)
}

fn mse(cx: &mut Cx<'_, '_>) -> Results {
    let values = operands(cx)?;
    let difference = cx.ew("sub", &values)?;
    let losses = cx.ew("square", &[difference])?;
    finish(cx, losses)
}

fn distance(cx: &mut Cx<'_, '_>) -> Result<Value, OpError> {
    let values = operands(cx)?;
    let difference = cx.ew("sub", &values)?;
    cx.ew("abs", &[difference])
}

fn l1(cx: &mut Cx<'_, '_>) -> Results {
    let losses = distance(cx)?;
    finish(cx, losses)
}

fn smooth_l1(cx: &mut Cx<'_, '_>) -> Results {
    let beta = cx.float("beta")?;
    let size = distance(cx)?;
    if beta == 0.0 {
        return finish(cx, size);
    }
    let dtype = cx.dtype(size)?;
    let squared = cx.ew("square", &[size])?;
    let near = cx.ew_const("mul", squared, 0.5 / beta)?;
    let far = cx.ew_const("sub", size, 0.5 * beta)?;
    let limit = cx.constant(dtype, beta)?;
    let small = cx.ew("lt", &[size, limit])?;
    let losses = cx.ew("where", &[small, near, far])?;
    finish(cx, losses)
}

fn huber(cx: &mut Cx<'_, '_>) -> Results {
    let delta = cx.float("delta")?;
    let size = distance(cx)?;
    let dtype = cx.dtype(size)?;
    let squared = cx.ew("square", &[size])?;
    let near = cx.ew_const("mul", squared, 0.5)?;
    let shifted = cx.ew_const("sub", size, 0.5 * delta)?;
    let far = cx.ew_const("mul", shifted, delta)?;
    let limit = cx.constant(dtype, delta)?;
    let small = cx.ew("le", &[size, limit])?;
    let losses = cx.ew("where", &[small, near, far])?;
    finish(cx, losses)
}

/// Losses times their weights, if there are any.
fn weighted(cx: &mut Cx<'_, '_>, losses: Value) -> Result<Value, OpError> {
    match cx.maybe_tensor("weight")? {
        Some(weight) => cx.ew("mul", &[losses, weight]),
        None => Ok(losses),
    }
}

/// Logarithms are at least -100.
fn binary_cross_entropy(cx: &mut Cx<'_, '_>) -> Results {
    let [x, target] = operands(cx)?;
    let dtype = cx.dtype(x)?;
    let unit = cx.constant(dtype, 1.0)?;
    let log = cx.ew("log", &[x])?;
    let log = cx.ew_const("max", log, -100.0)?;
    let rest = cx.ew("sub", &[unit, x])?;
    let log_rest = cx.ew("log", &[rest])?;
    let log_rest = cx.ew_const("max", log_rest, -100.0)?;
    let other = cx.ew("sub", &[unit, target])?;
    let (hit, miss) = (cx.ew("mul", &[target, log])?, cx.ew("mul", &[other, log_rest])?);
    let sum = cx.ew("add", &[hit, miss])?;
    let losses = cx.ew("neg", &[sum])?;
    let losses = weighted(cx, losses)?;
    finish(cx, losses)
}

/// `(1 - t) x + (1 + (w - 1) t) log(1 + exp(-x))`.
fn with_logits(cx: &mut Cx<'_, '_>) -> Results {
    let [x, target] = operands(cx)?;
    let dtype = cx.dtype(x)?;
    let unit = cx.constant(dtype, 1.0)?;
    let negated = cx.ew("neg", &[x])?;
    let mut soft = cx.ew("softplus", &[negated])?;
    if let Some(positive) = cx.maybe_tensor("pos_weight")? {
        let more = cx.ew("sub", &[positive, unit])?;
        let more = cx.ew("mul", &[more, target])?;
        let factor = cx.ew("add", &[more, unit])?;
        soft = cx.ew("mul", &[factor, soft])?;
    }
    let rest = cx.ew("sub", &[unit, target])?;
    let linear = cx.ew("mul", &[rest, x])?;
    let losses = cx.ew("add", &[linear, soft])?;
    let losses = weighted(cx, losses)?;
    finish(cx, losses)
}

fn kl_div(cx: &mut Cx<'_, '_>) -> Results {
    let [x, target] = operands(cx)?;
    let dtype = cx.dtype(x)?;
    let losses = if cx.flag("log_target")? {
        let weight = cx.ew("exp", &[target])?;
        let difference = cx.ew("sub", &[target, x])?;
        cx.ew("mul", &[weight, difference])?
    } else {
        let log = cx.ew("log", &[target])?;
        let own = cx.ew("mul", &[target, log])?;
        let zero = cx.constant(dtype, 0.0)?;
        let vanishes = cx.ew("eq", &[target, zero])?;
        let own = cx.ew("where", &[vanishes, zero, own])?;
        let cross = cx.ew("mul", &[target, x])?;
        cx.ew("sub", &[own, cross])?
    };
    finish(cx, losses)
}

fn hinge_embedding(cx: &mut Cx<'_, '_>) -> Results {
    let [x, target] = operands(cx)?;
    let dtype = cx.dtype(x)?;
    let (zero, unit, minus) = (cx.constant(dtype, 0.0)?, cx.constant(dtype, 1.0)?, cx.constant(dtype, -1.0)?);
    let margin = cx.constant(dtype, cx.float("margin")?)?;
    let gap = cx.ew("sub", &[margin, x])?;
    let gap = cx.ew("max", &[gap, zero])?;
    // Whatever is neither 1 nor -1 counts on both sides, as PyTorch has it.
    let not_one = cx.ew("ne", &[target, unit])?;
    let hinge = cx.ew("where", &[not_one, gap, zero])?;
    let not_minus = cx.ew("ne", &[target, minus])?;
    let plain = cx.ew("where", &[not_minus, x, zero])?;
    let losses = cx.ew("add", &[hinge, plain])?;
    finish(cx, losses)
}

fn margin_ranking(cx: &mut Cx<'_, '_>) -> Results {
    let (values, dtype) = cx.promoted(&["input1", "input2"])?;
    let difference = cx.ew("sub", &values)?;
    let target = cx.tensor("target")?;
    let target = cx.b.cast(target, dtype)?;
    let signed = cx.ew("mul", &[target, difference])?;
    let negated = cx.ew("neg", &[signed])?;
    let moved = cx.ew_const("add", negated, cx.float("margin")?)?;
    let losses = cx.ew_const("max", moved, 0.0)?;
    finish(cx, losses)
}

fn soft_margin(cx: &mut Cx<'_, '_>) -> Results {
    let values = operands(cx)?;
    let signed = cx.ew("mul", &values)?;
    let negated = cx.ew("neg", &[signed])?;
    let losses = cx.ew("softplus", &[negated])?;
    finish(cx, losses)
}

fn poisson(cx: &mut Cx<'_, '_>) -> Results {
    if cx.flag("full")? {
        return Err(OpError::unsupported("Stirling's term"));
    }
    let (values, _) = cx.promoted(&["input", "target"])?;
    let [x, target] = pair(&values)?;
    let losses = if cx.flag("log_input")? {
        let rate = cx.ew("exp", &[x])?;
        let part = cx.ew("mul", &[target, x])?;
        cx.ew("sub", &[rate, part])?
    } else {
        let shifted = cx.ew_const("add", x, cx.float("eps")?)?;
        let log = cx.ew("log", &[shifted])?;
        let part = cx.ew("mul", &[target, log])?;
        cx.ew("sub", &[x, part])?
    };
    finish(cx, losses)
}

/// Log-likelihoods of target classes, with what their weights sum up to.
fn likelihood(cx: &mut Cx<'_, '_>, x: Value) -> Result<(Value, Value), OpError> {
    let target = super::index::indices(cx, "target")?;
    let (dtype, shape) = (cx.dtype(x)?, cx.shape(x)?);
    let axis = usize::from(shape.len() > 1);
    let ignored = cx.get("ignore_index").clone();
    let ignored = cx.as_dtype(&ignored, DType::I64)?;
    let kept = cx.ew("ne", &[target, ignored])?;
    let zero_class = cx.constant(DType::I64, 0.0)?;
    let safe = cx.ew("where", &[kept, target, zero_class])?;
    let mut wide = cx.shape(safe)?;
    wide.insert(axis.min(wide.len()), Dim::known(1));
    let column = cx.b.reshape(safe, &wide)?;
    let picked = cx.b.add1(Index::GatherElements { axis }, &[x, column])?;
    let target_shape = cx.shape(safe)?;
    let picked = cx.b.reshape(picked, &target_shape)?;
    let (zero, unit) = (cx.constant(dtype, 0.0)?, cx.constant(dtype, 1.0)?);
    let weight = match cx.maybe_tensor("weight")? {
        Some(weight) => {
            let all = cx.b.cast(weight, dtype)?;
            cx.b.add1(Index::Gather { axis: 0 }, &[all, safe])?
        }
        None => unit,
    };
    let weight = cx.ew("where", &[kept, weight, zero])?;
    let negated = cx.ew("neg", &[picked])?;
    // What is ignored may be infinite.
    let negated = cx.ew("where", &[kept, negated, zero])?;
    Ok((cx.ew("mul", &[negated, weight])?, weight))
}

/// Losses, or their weighted mean or sum.
fn reduced(cx: &mut Cx<'_, '_>, losses: Value, weight: Value) -> Result<(Value, Value), OpError> {
    let axes: Vec<usize> = (0..cx.rank(losses)?).collect();
    let total = cx.b.reduce(ReduceKind::Sum, weight, &axes, false)?;
    let y = match cx.int("reduction")? {
        0 => losses,
        1 => {
            let sum = cx.b.reduce(ReduceKind::Sum, losses, &axes, false)?;
            cx.ew("div", &[sum, total])?
        }
        2 => cx.b.reduce(ReduceKind::Sum, losses, &axes, false)?,
        other => return Err(OpError::invalid(format!("reduction {other}"))),
    };
    Ok((y, total))
}

fn nll(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let (losses, weight) = likelihood(cx, x)?;
    let (y, _) = reduced(cx, losses, weight)?;
    one(y)
}

fn nll_forward(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let (losses, weight) = likelihood(cx, x)?;
    let (y, mut total) = reduced(cx, losses, weight)?;
    if cx.int("reduction")? == 0 {
        total = cx.ew_const("mul", total, 0.0)?;
    }
    many([y, total])
}

fn cross_entropy(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let target = cx.tensor("target")?;
    let smoothing = cx.float("label_smoothing")?;
    let shape = cx.shape(x)?;
    let axis = usize::from(shape.len() > 1);
    let log = cx.b.add1(Composite::LogSoftmax { axis }, &[x])?;
    if cx.dtype(target)?.is_float() {
        return of_probabilities(cx, log, target, axis, smoothing);
    }
    let (losses, weight) = likelihood(cx, log)?;
    let (mut y, _) = reduced(cx, losses, weight)?;
    if smoothing != 0.0 {
        let even = of_all_classes(cx, log, target, axis)?;
        let (even, _) = reduced(cx, even, weight)?;
        let dtype = cx.dtype(log)?;
        let classes = cx.as_dtype(&Arg::Int(shape.get(axis).cloned().unwrap_or(Dim::known(1))), dtype)?;
        let even = cx.ew("div", &[even, classes])?;
        let (kept, even) = (cx.ew_const("mul", y, 1.0 - smoothing)?, cx.ew_const("mul", even, smoothing)?);
        y = cx.ew("add", &[kept, even])?;
    }
    one(y)
}

/// Log-likelihoods of all classes summed up, times their weights; zero where the target is ignored.
fn of_all_classes(cx: &mut Cx<'_, '_>, log: Value, target: Value, axis: usize) -> Result<Value, OpError> {
    let mut losses = log;
    if let Some(weight) = cx.maybe_tensor("weight")? {
        let mut dims = vec![Dim::known(1); cx.rank(log)?];
        if let Some(slot) = dims.get_mut(axis) {
            *slot = cx.numel(weight)?;
        }
        let weight = cx.b.reshape(weight, &dims)?;
        losses = cx.ew("mul", &[losses, weight])?;
    }
    let sum = cx.b.reduce(ReduceKind::Sum, losses, &[axis], false)?;
    let losses = cx.ew("neg", &[sum])?;
    let target = cx.b.cast(target, DType::I64)?;
    let ignored = cx.get("ignore_index").clone();
    let ignored = cx.as_dtype(&ignored, DType::I64)?;
    let kept = cx.ew("ne", &[target, ignored])?;
    let dtype = cx.dtype(losses)?;
    let zero = cx.constant(dtype, 0.0)?;
    cx.ew("where", &[kept, losses, zero])
}

/// Targets are probabilities of all classes.
fn of_probabilities(
    cx: &mut Cx<'_, '_>,
    log: Value,
    mut target: Value,
    axis: usize,
    smoothing: f64,
) -> Results {
    let (dtype, shape) = (cx.dtype(log)?, cx.shape(log)?);
    if smoothing != 0.0 {
        let classes = shape.get(axis).cloned().unwrap_or(Dim::known(1));
        let count = cx.as_dtype(&Arg::Int(classes), dtype)?;
        let share = cx.constant(dtype, smoothing)?;
        let share = cx.ew("div", &[share, count])?;
        let kept = cx.ew_const("mul", target, 1.0 - smoothing)?;
        target = cx.ew("add", &[kept, share])?;
    }
    let mut losses = cx.ew("mul", &[log, target])?;
    if let Some(weight) = cx.maybe_tensor("weight")? {
        let mut dims = vec![Dim::known(1); shape.len()];
        if let Some(slot) = dims.get_mut(axis) {
            *slot = cx.numel(weight)?;
        }
        let weight = cx.b.reshape(weight, &dims)?;
        losses = cx.ew("mul", &[losses, weight])?;
    }
    let sum = cx.b.reduce(ReduceKind::Sum, losses, &[axis], false)?;
    let losses = cx.ew("neg", &[sum])?;
    finish(cx, losses)
}

/// Norms are at least `eps`.
fn cosine_similarity(cx: &mut Cx<'_, '_>) -> Results {
    let (values, _) = cx.promoted_floats(&["x1", "x2"])?;
    let [a, b] = pair(&values)?;
    let shape = cx.common_shape(&[a, b])?;
    let axis = cx.axis("dim", shape.len())?;
    let eps = cx.float("eps")?;
    let (a, b) = (cx.b.broadcast(a, &shape)?, cx.b.broadcast(b, &shape)?);
    let mut units = vec![];
    for v in [a, b] {
        let norm = cx.b.reduce(ReduceKind::L2, v, &[axis], true)?;
        let norm = cx.ew_const("max", norm, eps)?;
        units.push(cx.ew("div", &[v, norm])?);
    }
    let product = cx.ew("mul", &units)?;
    let y = cx.b.reduce(ReduceKind::Sum, product, &[axis], false)?;
    one(y)
}

fn pairwise_distance(cx: &mut Cx<'_, '_>) -> Results {
    let (values, _) = cx.promoted_floats(&["x1", "x2"])?;
    let difference = cx.ew("sub", &values)?;
    let difference = cx.ew_const("add", difference, cx.float("eps")?)?;
    let last = cx.rank(difference)?.saturating_sub(1);
    let (p, keepdim) = (cx.float("p")?, cx.flag("keepdim")?);
    let y = super::reduce::norm_over(cx, difference, p, &[last], keepdim)?;
    one(y)
}

/// `1 - cos` of pairs whose target is 1, how far `cos` is above the margin for -1. A term keeps norms from zero.
fn cosine_embedding(cx: &mut Cx<'_, '_>) -> Results {
    let (values, dtype) = cx.promoted_floats(&["input1", "input2"])?;
    let [a, b] = pair(&values)?;
    let target = cx.tensor("target")?;
    let axis = cx.rank(target)?;
    let mut sums = vec![];
    for (x, y) in [(a, b), (a, a), (b, b)] {
        let product = cx.ew("mul", &[x, y])?;
        sums.push(cx.b.reduce(ReduceKind::Sum, product, &[axis], false)?);
    }
    let [product, first, second] = super::pointwise::triple(&sums)?;
    let (first, second) = (cx.ew_const("add", first, 1e-12)?, cx.ew_const("add", second, 1e-12)?);
    let squared = cx.ew("mul", &[first, second])?;
    let norm = cx.ew("sqrt", &[squared])?;
    let cosine = cx.ew("div", &[product, norm])?;
    let (zero, unit) = (cx.constant(dtype, 0.0)?, cx.constant(dtype, 1.0)?);
    let apart = cx.ew("sub", &[unit, cosine])?;
    let near = cx.ew_const("sub", cosine, cx.float("margin")?)?;
    let near = cx.ew("max", &[near, zero])?;
    let target = cx.b.cast(target, dtype)?;
    let (is_pair, is_none) = (cx.ew_const("eq", target, 1.0)?, cx.ew_const("eq", target, -1.0)?);
    let near = cx.ew("where", &[is_none, near, zero])?;
    let losses = cx.ew("where", &[is_pair, apart, near])?;
    finish(cx, losses)
}

/// How much farther the negative must be than the positive, by the last axis.
fn triplet_margin(cx: &mut Cx<'_, '_>) -> Results {
    let (values, _) = cx.promoted_floats(&["anchor", "positive", "negative"])?;
    let [anchor, positive, negative] = super::pointwise::triple(&values)?;
    let (p, eps) = (cx.float("p")?, cx.float("eps")?);
    let far = |cx: &mut Cx<'_, '_>, a: Value, b: Value| {
        let difference = cx.ew("sub", &[a, b])?;
        let difference = cx.ew_const("add", difference, eps)?;
        let last = cx.rank(difference)?.saturating_sub(1);
        super::reduce::norm_over(cx, difference, p, &[last], false)
    };
    let to_positive = far(cx, anchor, positive)?;
    let mut to_negative = far(cx, anchor, negative)?;
    if cx.flag("swap")? {
        let other = far(cx, positive, negative)?;
        to_negative = cx.ew("min", &[to_negative, other])?;
    }
    let difference = cx.ew("sub", &[to_positive, to_negative])?;
    let losses = cx.ew_const("add", difference, cx.float("margin")?)?;
    let losses = cx.ew_const("max", losses, 0.0)?;
    finish(cx, losses)
}

/// By how much other classes come within a margin of the target's score, on average over classes.
fn multi_margin(cx: &mut Cx<'_, '_>) -> Results {
    let x = cx.tensor("self")?;
    let target = super::index::indices(cx, "target")?;
    let (dtype, shape) = (cx.dtype(x)?, cx.shape(x)?);
    let (rows, classes) = match shape.as_slice() {
        [c] => (Dim::known(1), c.clone()),
        [n, c] => (n.clone(), c.clone()),
        _ => return Err(OpError::invalid("scores are a vector or a matrix")),
    };
    let (x, target) = (
        cx.b.reshape(x, &[rows.clone(), classes.clone()])?,
        cx.b.reshape(target, &[rows.clone(), Dim::known(1)])?,
    );
    let own = cx.b.add1(Index::GatherElements { axis: 1 }, &[x, target])?;
    let ahead = cx.ew("sub", &[x, own])?;
    let ahead = cx.ew_const("add", ahead, cx.float("margin")?)?;
    let ahead = cx.ew_const("max", ahead, 0.0)?;
    let mut losses = match cx.float("p")? {
        1.0 => ahead,
        2.0 => cx.ew("square", &[ahead])?,
        p => return Err(OpError::invalid(format!("the power {p}"))),
    };
    if let Some(weight) = cx.maybe_tensor("weight")? {
        let factor = cx.b.add1(Index::Gather { axis: 0 }, &[weight, target])?;
        losses = cx.ew("mul", &[losses, factor])?;
    }
    let class = cx.positions(&classes, DType::I64, 1, 2)?;
    let is_own = cx.ew("eq", &[class, target])?;
    let zero = cx.constant(dtype, 0.0)?;
    let losses = cx.ew("where", &[is_own, zero, losses])?;
    let sum = cx.b.reduce(ReduceKind::Sum, losses, &[1], false)?;
    let count = cx.as_dtype(&Arg::Int(classes), dtype)?;
    let mut losses = cx.ew("div", &[sum, count])?;
    if shape.len() == 1 {
        losses = cx.b.reshape(losses, &[])?;
    }
    finish(cx, losses)
}
