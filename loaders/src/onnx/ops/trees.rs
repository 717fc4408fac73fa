//! Ensembles of decision trees of `ai.onnx.ml`: node lists in any numbering become tables of rows that name each other
//! by position.

use kiln_ir::op::{BinaryRule, Host, Index, ScoreTransform, TreeAggregate};
use kiln_ir::{Build, DType, Tensor, Value};
use rustc_hash::{FxHashMap, FxHashSet};

use super::ml::{labels, score_transform};
use super::{Row, row_ml};
use crate::onnx::cx::{Cx, OpError, Outputs, one};

pub(super) const ROWS: &[Row] = &[
    row_ml("TreeEnsemble", &[5], ensemble),
    row_ml("TreeEnsembleClassifier", &[1, 3, 5], classifier),
    row_ml("TreeEnsembleRegressor", &[1, 3, 5], regressor),
];

/// Comparison number of a leaf.
const LEAF: i64 = 7;
const COMPARISONS: [&str; 8] = [
    "BRANCH_LEQ",
    "BRANCH_LT",
    "BRANCH_GTE",
    "BRANCH_GT",
    "BRANCH_EQ",
    "BRANCH_NEQ",
    "BRANCH_MEMBER",
    "LEAF",
];

/// The operands of a tree operator but the first.
#[derive(Default)]
struct Tables {
    roots: Vec<i64>,
    nodes: Vec<[i64; 7]>,
    splits: Vec<f64>,
    targets: Vec<i64>,
    weights: Vec<f64>,
    base: Vec<f64>,
    members: Vec<f64>,
}

impl Tables {
    /// All operands; integers among the samples become f32, as ONNX Runtime compares them.
    fn operands(&self, cx: &mut Cx<'_, '_, '_>) -> Result<Vec<Value>, OpError> {
        let x = cx.input(0)?;
        let x = if cx.dtype(x)?.is_float() { x } else { cx.b.cast(x, DType::F32)? };
        let table = Tensor::from_slice(&[self.nodes.len(), 7], self.nodes.as_flattened())?;
        Ok(vec![
            x,
            cx.b.constant_of(&self.roots)?,
            cx.b.constant(table)?,
            cx.b.constant_of(&self.splits)?,
            cx.b.constant_of(&self.targets)?,
            cx.b.constant_of(&self.weights)?,
            cx.b.constant_of(&self.base)?,
            cx.b.constant_of(&self.members)?,
        ])
    }
}

fn as_i64(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Numbers from a list of floats, or from a tensor that later versions allow instead.
fn numbers(
    cx: &Cx<'_, '_, '_>,
    list: &'static str,
    tensor: &'static str,
) -> Result<Option<Vec<f64>>, OpError> {
    match cx.attrs.tensor(tensor)? {
        Some(t) => match t.to_f64s() {
            Some(values) => Ok(Some(values)),
            None => Err(OpError::invalid(format!("attribute `{tensor}` must hold numbers"))),
        },
        None => cx.attrs.floats(list),
    }
}

/// A list attribute of the given length.
fn sized<T>(values: Option<Vec<T>>, name: &str, len: usize) -> Result<Vec<T>, OpError> {
    let values = values.unwrap_or_default();
    if values.len() != len {
        return Err(OpError::invalid(format!("attribute `{name}` has {} elements, not {len}", values.len())));
    }
    Ok(values)
}

/// Names of the attributes that hold leaf weights: those of the classifier or those of the regressor.
struct WeightNames {
    trees: &'static str,
    nodes: &'static str,
    ids: &'static str,
    list: &'static str,
    tensor: &'static str,
}

const CLASS_WEIGHTS: WeightNames = WeightNames {
    trees: "class_treeids",
    nodes: "class_nodeids",
    ids: "class_ids",
    list: "class_weights",
    tensor: "class_weights_as_tensor",
};
const TARGET_WEIGHTS: WeightNames = WeightNames {
    trees: "target_treeids",
    nodes: "target_nodeids",
    ids: "target_ids",
    list: "target_weights",
    tensor: "target_weights_as_tensor",
};

/// The tables of `TreeEnsembleClassifier` and `TreeEnsembleRegressor`, whose nodes have a tree and a number each.
fn numbered(cx: &Cx<'_, '_, '_>, names: &WeightNames) -> Result<Tables, OpError> {
    let attrs = &cx.attrs;
    let trees = attrs.ints("nodes_treeids")?.unwrap_or_default();
    let count = trees.len();
    let numbers_in_tree = sized(attrs.ints("nodes_nodeids")?, "nodes_nodeids", count)?;
    let features = sized(attrs.ints("nodes_featureids")?, "nodes_featureids", count)?;
    let modes = sized(attrs.strings("nodes_modes")?, "nodes_modes", count)?;
    let holds = sized(attrs.ints("nodes_truenodeids")?, "nodes_truenodeids", count)?;
    let fails = sized(attrs.ints("nodes_falsenodeids")?, "nodes_falsenodeids", count)?;
    let splits = sized(numbers(cx, "nodes_values", "nodes_values_as_tensor")?, "nodes_values", count)?;
    let missing = match attrs.ints("nodes_missing_value_tracks_true")? {
        Some(list) if !list.is_empty() => sized(Some(list), "nodes_missing_value_tracks_true", count)?,
        _ => vec![0; count],
    };
    let base = numbers(cx, "base_values", "base_values_as_tensor")?.unwrap_or_default();

    let mut at: FxHashMap<(i64, i64), usize> = FxHashMap::default();
    let mut seen: FxHashSet<i64> = FxHashSet::default();
    let mut tables = Tables { splits, base, ..Tables::default() };
    for (i, key) in trees.iter().copied().zip(numbers_in_tree.iter().copied()).enumerate() {
        // The first node of a tree is its root.
        if seen.insert(key.0) {
            tables.roots.push(as_i64(i));
        }
        if at.insert(key, i).is_some() {
            return Err(OpError::invalid(format!("tree {} has two nodes {}", key.0, key.1)));
        }
    }
    let leaves = leaf_weights(cx, names, &at)?;
    for i in 0..count {
        let field = |list: &[i64]| list.get(i).copied().unwrap_or_default();
        let mode = modes.get(i).map(String::as_str).unwrap_or_default();
        let kind = COMPARISONS.iter().position(|c| *c == mode && mode != "BRANCH_MEMBER");
        let kind = as_i64(kind.ok_or_else(|| OpError::invalid(format!("node mode `{mode}`")))?);
        let tree = field(&trees);
        let (first, second) = if kind == LEAF {
            let start = tables.targets.len();
            for (target, weight) in leaves.get(&i).into_iter().flatten() {
                tables.targets.push(*target);
                tables.weights.push(*weight);
            }
            (as_i64(start), as_i64(tables.targets.len()))
        } else {
            let child = |number: i64| {
                let found = at.get(&(tree, number)).map(|&n| as_i64(n));
                found.ok_or_else(|| OpError::invalid(format!("tree {tree} has no node {number}")))
            };
            (child(field(&holds))?, child(field(&fails))?)
        };
        tables.nodes.push([kind, field(&features), first, second, field(&missing), 0, 0]);
    }
    Ok(tables)
}

/// Targets and weights of each node by its position.
fn leaf_weights(
    cx: &Cx<'_, '_, '_>,
    names: &WeightNames,
    at: &FxHashMap<(i64, i64), usize>,
) -> Result<FxHashMap<usize, Vec<(i64, f64)>>, OpError> {
    let trees = cx.attrs.ints(names.trees)?.unwrap_or_default();
    let nodes = sized(cx.attrs.ints(names.nodes)?, names.nodes, trees.len())?;
    let ids = sized(cx.attrs.ints(names.ids)?, names.ids, trees.len())?;
    let weights = sized(numbers(cx, names.list, names.tensor)?, names.list, trees.len())?;
    let mut leaves: FxHashMap<usize, Vec<(i64, f64)>> = FxHashMap::default();
    for (((tree, node), id), weight) in trees.into_iter().zip(nodes).zip(ids).zip(weights) {
        let Some(&i) = at.get(&(tree, node)) else {
            return Err(OpError::invalid(format!(
                "a weight names node {node} of tree {tree}, which is not there"
            )));
        };
        leaves.entry(i).or_default().push((id, weight));
    }
    Ok(leaves)
}

fn classifier(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let tables = numbered(cx, &CLASS_WEIGHTS)?;
    let labels = labels(cx, "classlabels_int64s", "classlabels_strings")?;
    let one_class = tables.targets.windows(2).all(|w| w.first() == w.last());
    let binary = match (labels.numel(), one_class) {
        (2, true) if tables.weights.iter().all(|&w| w >= 0.0) => BinaryRule::Probability,
        (2, true) => BinaryRule::Signed,
        _ => BinaryRule::None,
    };
    let transform = score_transform(cx)?;
    let operands = tables.operands(cx)?;
    let op = Host::TreeClassifier { classes: as_i64(labels.numel()), transform, binary };
    let results = cx.b.add(op.into(), &operands)?;
    let [winner, scores] = results.as_slice() else { return Err(OpError::invalid("trees without scores")) };
    let (winner, scores) = (*winner, *scores);
    let labels = cx.b.constant(labels)?;
    Ok(vec![cx.b.add1(Index::Gather { axis: 0 }, &[labels, winner])?, scores])
}

fn regressor(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let tables = numbered(cx, &TARGET_WEIGHTS)?;
    let targets = cx.attrs.int_or("n_targets", 1)?;
    let aggregate = match cx.attrs.string_or("aggregate_function", "SUM")?.as_str() {
        "SUM" => TreeAggregate::Sum,
        "AVERAGE" => TreeAggregate::Average,
        "MIN" => TreeAggregate::Min,
        "MAX" => TreeAggregate::Max,
        other => return Err(OpError::invalid(format!("aggregate function `{other}`"))),
    };
    if !tables.base.is_empty() && as_i64(tables.base.len()) != targets {
        return Err(OpError::invalid(format!("{} base values for {targets} targets", tables.base.len())));
    }
    let transform = score_transform(cx)?;
    let operands = tables.operands(cx)?;
    one(cx.b.add1(Host::TreeEnsemble { targets, aggregate, transform, dtype: DType::F32 }, &operands)?)
}

/// The aggregate function that `TreeEnsemble` means by a number.
fn numbered_aggregate(number: i64) -> Result<TreeAggregate, OpError> {
    Ok(match number {
        0 => TreeAggregate::Average,
        1 => TreeAggregate::Sum,
        2 => TreeAggregate::Min,
        3 => TreeAggregate::Max,
        other => return Err(OpError::invalid(format!("aggregate function {other}"))),
    })
}

/// The post transform that `TreeEnsemble` means by a number.
fn numbered_transform(number: i64) -> Result<ScoreTransform, OpError> {
    Ok(match number {
        0 => ScoreTransform::None,
        1 => ScoreTransform::Softmax,
        2 => ScoreTransform::Logistic,
        3 => ScoreTransform::SoftmaxZero,
        4 => ScoreTransform::Probit,
        other => return Err(OpError::invalid(format!("post transform {other}"))),
    })
}

/// `TreeEnsemble`: branches and leaves in lists of their own. The leaves follow the branches in the table.
fn ensemble(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let attrs = &cx.attrs;
    let required = |name: &'static str| {
        attrs.tensor(name)?.ok_or_else(|| OpError::invalid(format!("attribute `{name}` is missing")))
    };
    let reals = |t: Tensor, name: &str| {
        t.to_f64s().ok_or_else(|| OpError::invalid(format!("attribute `{name}` must hold numbers")))
    };
    let mut splits = reals(required("nodes_splits")?, "nodes_splits")?;
    let count = splits.len();
    let modes = required("nodes_modes")?.to_ints();
    let modes = sized(modes, "nodes_modes", count)?;
    let list = |name: &'static str| sized(attrs.ints(name)?, name, count);
    let features = list("nodes_featureids")?;
    let children = [list("nodes_truenodeids")?, list("nodes_falsenodeids")?];
    let are_leaves = [list("nodes_trueleafs")?, list("nodes_falseleafs")?];
    let missing = match attrs.ints("nodes_missing_value_tracks_true")? {
        Some(given) if !given.is_empty() => sized(Some(given), "nodes_missing_value_tracks_true", count)?,
        _ => vec![0; count],
    };
    let weights = reals(required("leaf_weights")?, "leaf_weights")?;
    let targets = sized(attrs.ints("leaf_targetids")?, "leaf_targetids", weights.len())?;
    let members = attrs.tensor("membership_values")?;
    let members = members.map_or(Ok(vec![]), |t| reals(t, "membership_values"))?;

    // The sets end with a NaN each; the nodes take them in order.
    let mut next = 0usize;
    let mut nodes = vec![];
    let child = |side: usize, i: usize| {
        let pick = |lists: &[Vec<i64>; 2]| lists.get(side).and_then(|l| l.get(i)).copied().unwrap_or(-1);
        let (index, is_leaf) = (pick(&children), pick(&are_leaves) != 0);
        let size = if is_leaf { weights.len() } else { count };
        match usize::try_from(index).ok().filter(|&n| n < size) {
            Some(n) => Ok(as_i64(if is_leaf { count + n } else { n })),
            None => Err(OpError::invalid(format!("node {i} names child {index} of {size}"))),
        }
    };
    for i in 0..count {
        let field = |list: &[i64]| list.get(i).copied().unwrap_or_default();
        let mode = field(&modes);
        if !(0..LEAF).contains(&mode) {
            return Err(OpError::invalid(format!("node mode {mode}")));
        }
        let (mut start, mut end) = (0, 0);
        if mode == 6 {
            let rest = members.get(next..).unwrap_or_default();
            let Some(length) = rest.iter().position(|v| v.is_nan()) else {
                return Err(OpError::invalid("`membership_values` has fewer sets than there are members"));
            };
            (start, end) = (as_i64(next), as_i64(next + length));
            next += length + 1;
        }
        nodes.push([mode, field(&features), child(0, i)?, child(1, i)?, field(&missing), start, end]);
    }
    for i in 0..weights.len() {
        nodes.push([LEAF, 0, as_i64(i), as_i64(i + 1), 0, 0, 0]);
        splits.push(0.0);
    }
    let mut roots = attrs.ints("tree_roots")?.unwrap_or_default();
    for root in &mut roots {
        let row = usize::try_from(*root).ok().filter(|&r| r < count).and_then(|r| nodes.get(r));
        let row = row.ok_or_else(|| OpError::invalid(format!("tree root {root} of {count} nodes")))?;
        // A tree that is a leaf has one branch with that leaf on both sides.
        let [_, _, holds, fails, ..] = *row;
        if holds == fails && holds >= as_i64(count) {
            *root = holds;
        }
    }
    let aggregate = numbered_aggregate(attrs.int_or("aggregate_function", 1)?)?;
    let transform = numbered_transform(attrs.int_or("post_transform", 0)?)?;
    let targets_count = match attrs.int("n_targets")? {
        Some(n) => n,
        None => targets.iter().max().map_or(1, |&t| t.saturating_add(1)),
    };
    let tables = Tables { roots, nodes, splits, targets, weights, base: vec![], members };
    let operands = tables.operands(cx)?;
    let dtype = cx.dtype(operands.first().copied().map_or_else(|| cx.input(0), Ok)?)?;
    one(cx.b.add1(Host::TreeEnsemble { targets: targets_count, aggregate, transform, dtype }, &operands)?)
}
