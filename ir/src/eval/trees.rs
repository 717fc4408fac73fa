//! Decision trees.

use crate::op::{BinaryRule, Host, ScoreTransform, TreeAggregate};
use crate::{DType, Tensor, float};

use super::cx::Cx;
use super::fault::{Fault, invalid};
use super::lanes::{Lanes, floats};

/// A score under construction: its value, and whether a leaf has named it.
#[derive(Clone, Copy, Default)]
struct Score {
    value: f64,
    seen: bool,
}

/// Columns of a node's row; see the operator.
const COLUMNS: usize = 7;
const LEAF: i64 = 7;

/// The trees. Elements are read from the operands one by one: a sample visits few of them.
struct Forest<'a> {
    features: Vec<f64>,
    width: usize,
    roots: &'a Tensor,
    nodes: &'a Tensor,
    splits: &'a Tensor,
    targets: &'a Tensor,
    weights: &'a Tensor,
    base: Vec<f64>,
    members: Vec<f64>,
    count: usize,
}

impl<'a> Forest<'a> {
    fn new(operands: &[&'a Tensor]) -> Result<Self, Fault> {
        let [x, roots, nodes, splits, targets, weights, base, members] = operands else {
            return invalid(format!("takes 8 operands, not {}", operands.len()));
        };
        let ([_, width], [count, COLUMNS]) = (x.dims(), nodes.dims()) else {
            return invalid(format!("samples {:?} and nodes {:?}", x.dims(), nodes.dims()));
        };
        let integers = [roots, nodes, targets].iter().all(|t| t.dtype() == DType::I64);
        let real = [splits, weights].iter().all(|t| t.dtype().is_float());
        if !integers || !real || splits.numel() != *count || weights.numel() != targets.numel() {
            return invalid("the trees' tables do not fit each other");
        }
        let (features, base, members) = (floats(x)?, floats(base)?, floats(members)?);
        let (width, count) = (*width, *count);
        Ok(Forest { features, width, roots, nodes, splits, targets, weights, base, members, count })
    }

    /// Column `column` of a node that exists.
    fn field(&self, node: usize, column: usize) -> i64 {
        self.nodes.element_bits(node * COLUMNS + column) as i64
    }

    fn node(&self, index: i64) -> Result<usize, Fault> {
        let found = usize::try_from(index).ok().filter(|&n| n < self.count);
        found.ok_or(Fault::OutOfRange { index, size: self.count })
    }

    /// Whether a branch node's comparison holds for a sample.
    fn holds(&self, node: usize, sample: &[f64]) -> Result<bool, Fault> {
        let feature = self.field(node, 1);
        let found = usize::try_from(feature).ok().and_then(|f| sample.get(f).copied());
        let v = found.ok_or(Fault::OutOfRange { index: feature, size: self.width })?;
        let split = float::decode(self.splits.dtype(), self.splits.element_bits(node));
        let holds = match self.field(node, 0) {
            0 => v <= split,
            1 => v < split,
            2 => v >= split,
            3 => v > split,
            4 => v == split,
            5 => v != split,
            6 => {
                let range = range(self.field(node, 5), self.field(node, 6), self.members.len())?;
                self.members[range].contains(&v)
            }
            other => return invalid(format!("comparison {other} of node {node}")),
        };
        Ok(holds || (v.is_nan() && self.field(node, 4) != 0))
    }

    /// The weights of the leaf that a sample reaches from a root. A path longer than there are nodes is a cycle.
    fn leaf(&self, cx: &mut Cx<'_>, root: i64, sample: &[f64]) -> Result<std::ops::Range<usize>, Fault> {
        let mut node = self.node(root)?;
        for _ in 0..self.count {
            cx.tick(1)?;
            if self.field(node, 0) == LEAF {
                return range(self.field(node, 2), self.field(node, 3), self.weights.numel());
            }
            let next = if self.holds(node, sample)? { 2 } else { 3 };
            node = self.node(self.field(node, next))?;
        }
        invalid("the trees' nodes form a cycle")
    }

    /// A sample's scores, not yet shifted by the base values.
    fn scores(
        &self,
        cx: &mut Cx<'_>,
        sample: &[f64],
        count: usize,
        aggregate: TreeAggregate,
    ) -> Result<Vec<Score>, Fault> {
        let mut scores = vec![Score::default(); count];
        for tree in 0..self.roots.numel() {
            let leaf = self.leaf(cx, self.roots.element_bits(tree) as i64, sample)?;
            cx.tick(leaf.len())?;
            for i in leaf {
                let target = self.targets.element_bits(i) as i64;
                let found = usize::try_from(target).ok().and_then(|t| scores.get_mut(t));
                let score = found.ok_or(Fault::OutOfRange { index: target, size: count })?;
                let weight = float::decode(self.weights.dtype(), self.weights.element_bits(i));
                score.value = match aggregate {
                    TreeAggregate::Sum | TreeAggregate::Average => score.value + weight,
                    TreeAggregate::Min if score.seen => score.value.min(weight),
                    TreeAggregate::Max if score.seen => score.value.max(weight),
                    TreeAggregate::Min | TreeAggregate::Max => weight,
                };
                score.seen = true;
            }
        }
        if aggregate == TreeAggregate::Average && self.roots.numel() > 0 {
            scores.iter_mut().for_each(|s| s.value /= self.roots.numel() as f64);
        }
        Ok(scores)
    }
}

/// `start .. end` within `len` elements.
fn range(start: i64, end: i64, len: usize) -> Result<std::ops::Range<usize>, Fault> {
    match (usize::try_from(start), usize::try_from(end)) {
        (Ok(start), Ok(end)) if start <= end && end <= len => Ok(start..end),
        _ => invalid(format!("elements {start} to {end} of {len}")),
    }
}

/// Trees that score or vote.
pub(super) fn trees(cx: &mut Cx<'_>, op: &Host, operands: &[&Tensor]) -> Result<Vec<Tensor>, Fault> {
    let forest = Forest::new(operands)?;
    let samples = operands.first().and_then(|x| x.dims().first()).copied().unwrap_or(0);
    match op {
        Host::TreeEnsemble { targets, aggregate, transform, dtype } => {
            let count = usize::try_from(*targets).unwrap_or(0);
            let dims = [samples, count];
            let mut out = Vec::with_capacity(cx.admit(*dtype, &dims)?);
            for i in 0..samples {
                let sample = &forest.features[i * forest.width..][..forest.width];
                let scores = forest.scores(cx, sample, count, *aggregate)?;
                let base = |k: usize| forest.base.get(k).copied().unwrap_or(0.0);
                let mut values: Vec<f64> =
                    scores.iter().enumerate().map(|(k, s)| s.value + base(k)).collect();
                if count > 1 || *transform == ScoreTransform::Probit {
                    apply(*transform, &mut values);
                }
                out.extend(values);
            }
            Ok(vec![Lanes::F(out).encode(*dtype, &dims)?])
        }
        Host::TreeClassifier { classes, transform, binary } => {
            let count = usize::try_from(*classes).unwrap_or(0);
            let dims = [samples, count];
            let mut out = Vec::with_capacity(cx.admit(DType::F32, &dims)?);
            let mut winners = Vec::with_capacity(cx.admit(DType::I64, &[samples])?);
            for i in 0..samples {
                let sample = &forest.features[i * forest.width..][..forest.width];
                let scores = forest.scores(cx, sample, count, TreeAggregate::Sum)?;
                let (winner, values) = vote(scores, &forest.base, *binary, *transform);
                winners.push(winner as i64);
                out.extend(values);
            }
            Ok(vec![Tensor::from_slice(&[samples], &winners)?, Lanes::F(out).encode(DType::F32, &dims)?])
        }
        other => invalid(format!("{} has no trees", other.mnemonic())),
    }
}

/// The winning class and the finished scores, as ONNX Runtime gives them where its classes are well-defined.
fn vote(
    mut scores: Vec<Score>,
    base: &[f64],
    binary: BinaryRule,
    transform: ScoreTransform,
) -> (usize, Vec<f64>) {
    for (s, b) in scores.iter_mut().zip(base) {
        // One base value for two classes belongs to the only class that leaves name.
        if base.len() != 1 || binary == BinaryRule::None || s.seen {
            *s = Score { value: s.value + b, seen: true };
        }
    }
    let mut values: Vec<f64> = scores.iter().map(|s| s.value).collect();
    let bound = match binary {
        BinaryRule::Probability => 0.5,
        BinaryRule::Signed => 0.0,
        BinaryRule::None => {
            let named = scores.iter().enumerate().filter(|(_, s)| s.seen);
            let best = named.fold(None, |best: Option<(usize, f64)>, (k, s)| match best {
                Some((_, v)) if s.value <= v || s.value.is_nan() => best,
                _ => Some((k, s.value)),
            });
            apply(transform, &mut values);
            return (best.map_or(0, |(k, _)| k), values);
        }
    };
    let [first, second] = scores.as_slice() else { return (0, values) };
    let (both, first_only) = (base.len() == 2, !second.seen);
    let deciding = if first_only || both { first.value } else { second.value };
    let winner = usize::from(deciding > bound);
    if both || !first_only {
        apply(transform, &mut values);
        return (winner, values);
    }
    let v = first.value;
    let values = match (transform, binary) {
        (ScoreTransform::Logistic, _) => vec![logistic(-v), logistic(v)],
        (ScoreTransform::Probit, _) => vec![probit(1.0 - v), probit(v)],
        (_, BinaryRule::Probability) => vec![1.0 - v, v],
        (_, BinaryRule::Signed | BinaryRule::None) => vec![-v, v],
    };
    (winner, values)
}

fn apply(transform: ScoreTransform, values: &mut [f64]) {
    let top = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    match transform {
        ScoreTransform::None => {}
        ScoreTransform::Logistic => values.iter_mut().for_each(|v| *v = logistic(*v)),
        ScoreTransform::Probit => values.iter_mut().for_each(|v| *v = probit(*v)),
        ScoreTransform::Softmax | ScoreTransform::SoftmaxZero => {
            let skips = |v: f64| transform == ScoreTransform::SoftmaxZero && v.abs() <= 1e-7;
            let exp = |v: f64| if skips(v) { 0.0 } else { (v - top).exp() };
            values.iter_mut().for_each(|v| *v = exp(*v));
            let sum: f64 = values.iter().sum();
            if sum > 0.0 {
                values.iter_mut().for_each(|v| *v /= sum);
            }
        }
    }
}

fn logistic(v: f64) -> f64 {
    1.0 / (1.0 + (-v).exp())
}

/// Winitzki's approximation of the quantile function, which ONNX Runtime uses, too.
fn probit(v: f64) -> f64 {
    const A: f64 = 0.147;
    let x = 2.0 * v - 1.0;
    let log = ((1.0 - x) * (1.0 + x)).ln();
    let half = 2.0 / (std::f64::consts::PI * A) + 0.5 * log;
    let root = ((half * half - log / A).sqrt() - half).sqrt();
    std::f64::consts::SQRT_2 * root.copysign(x)
}
