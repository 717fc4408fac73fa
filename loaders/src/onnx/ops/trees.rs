//! Decision trees, domain `ai.onnx.ml`: the node lists of the three operators as one table.

use kiln_ir::op::{BinaryRule, Host, Index, ScoreTransform, TreeAggregate};
use kiln_ir::{Build, DType, Scalar, Tensor, Value};
use rustc_hash::FxHashMap;

use super::{How, Row};
use crate::onnx::cx::{Cx, OpError, Outputs, one};

const fn row(name: &'static str, since: &'static [i64], import: super::Import) -> Row {
    Row { domain: "ai.onnx.ml", name, since, how: How::Fn(import) }
}

pub(super) const ROWS: &[Row] = &[
    row("TreeEnsemble", &[5], ensemble),
    row("TreeEnsembleClassifier", &[1, 3, 5], classifier),
    row("TreeEnsembleRegressor", &[1, 3, 5], regressor),
];

/// The comparison number of a leaf.
const LEAF: i64 = 7;

/// The operands of graph IR's tree operators.
#[derive(Default)]
struct Table {
    roots: Vec<i64>,
    /// Comparison, feature, node where it holds, node where it fails, whether it holds for NaN, members.
    nodes: Vec<[i64; 7]>,
    splits: Vec<f64>,
    targets: Vec<i64>,
    weights: Vec<f64>,
    base: Vec<f64>,
    members: Vec<f64>,
}

fn bad(reason: impl Into<String>) -> OpError {
    OpError::invalid(reason)
}

impl Table {
    /// Adds the table's constants; `x` comes first. Split values compare in the dtype of `x`.
    fn operands(&self, cx: &mut Cx<'_, '_, '_>, x: Value, dtype: DType) -> Result<Vec<Value>, OpError> {
        let floats = |v: &[f64]| {
            let scalars: Vec<Scalar> = v.iter().map(|&v| Scalar::F(v)).collect();
            Tensor::from_scalars(dtype, &[v.len()], &scalars)
        };
        let rows: Vec<i64> = self.nodes.iter().flatten().copied().collect();
        let nodes = Tensor::ints(&rows).reshaped(&[self.nodes.len(), 7])?;
        let tensors = [
            Tensor::ints(&self.roots),
            nodes,
            floats(&self.splits)?,
            Tensor::ints(&self.targets),
            floats(&self.weights)?,
            floats(&self.base)?,
            floats(&self.members)?,
        ];
        let mut operands = vec![x];
        for tensor in tensors {
            operands.push(cx.b.constant(tensor)?);
        }
        Ok(operands)
    }
}

fn transform(name: &str) -> Result<ScoreTransform, OpError> {
    ScoreTransform::from_name(&name.to_ascii_lowercase())
        .ok_or_else(|| bad(format!("post_transform `{name}`")))
}

/// The operand as floats; trees compare integers as floats.
fn features(cx: &mut Cx<'_, '_, '_>) -> Result<(Value, DType), OpError> {
    let x = cx.input(0)?;
    let dtype = match cx.dtype(x)? {
        DType::F64 => DType::F64,
        _ => DType::F32,
    };
    Ok((cx.b.cast(x, dtype)?, dtype))
}

/// A list of numbers that is floats, or a tensor in newer versions.
fn numbers(cx: &Cx<'_, '_, '_>, name: &'static str, tensor: &'static str) -> Result<Vec<f64>, OpError> {
    if let Some(t) = cx.attrs.tensor(tensor)? {
        return t.to_f64s().ok_or_else(|| bad(format!("attribute `{tensor}` must be numbers")));
    }
    Ok(cx.attrs.floats(name)?.unwrap_or_default())
}

/// The nodes of the classifier and regressor: named by tree and node id. `prefix` tells their leaf lists apart.
fn by_ids(cx: &Cx<'_, '_, '_>, leaves: [&'static str; 5]) -> Result<Table, OpError> {
    let [tree_ids, node_ids, target_ids, weights, weights_tensor] = leaves;
    let trees = cx.attrs.ints_or("nodes_treeids", &[])?;
    let ids = cx.attrs.ints_or("nodes_nodeids", &[])?;
    let modes = cx.attrs.strings("nodes_modes")?.unwrap_or_default();
    let features = cx.attrs.ints_or("nodes_featureids", &[])?;
    let yes = cx.attrs.ints_or("nodes_truenodeids", &[])?;
    let no = cx.attrs.ints_or("nodes_falsenodeids", &[])?;
    let splits = numbers(cx, "nodes_values", "nodes_values_as_tensor")?;
    let missing = cx.attrs.ints_or("nodes_missing_value_tracks_true", &[])?;
    let count = ids.len();
    let lengths = [trees.len(), modes.len(), features.len(), yes.len(), no.len(), splits.len()];
    if lengths.iter().any(|&l| l != count) {
        return Err(bad(format!("the lists of nodes differ in length: {lengths:?}, {count}")));
    }
    let place: FxHashMap<(i64, i64), i64> =
        trees.iter().zip(&ids).enumerate().map(|(i, (&t, &n))| ((t, n), i as i64)).collect();
    let mut found: Vec<Vec<(i64, f64)>> = vec![vec![]; count];
    let weight_list = numbers(cx, weights, weights_tensor)?;
    let leaf_trees = cx.attrs.ints_or(tree_ids, &[])?;
    let leaf_nodes = cx.attrs.ints_or(node_ids, &[])?;
    let targets = cx.attrs.ints_or(target_ids, &[])?;
    for (((&tree, &node), &target), &weight) in
        leaf_trees.iter().zip(&leaf_nodes).zip(&targets).zip(&weight_list)
    {
        let at = place.get(&(tree, node)).and_then(|&i| usize::try_from(i).ok());
        let slot = at.and_then(|i| found.get_mut(i));
        slot.ok_or_else(|| bad(format!("a leaf names node {node} of tree {tree}")))?.push((target, weight));
    }
    let mut table = Table { splits, ..Table::default() };
    let mut is_child = vec![false; count];
    for (i, mode) in modes.iter().enumerate() {
        let at = |list: &[i64]| list.get(i).copied().unwrap_or(0);
        let comparison = match mode.as_str() {
            "BRANCH_LEQ" => 0,
            "BRANCH_LT" => 1,
            "BRANCH_GTE" => 2,
            "BRANCH_GT" => 3,
            "BRANCH_EQ" => 4,
            "BRANCH_NEQ" => 5,
            "LEAF" => {
                let first = table.weights.len() as i64;
                for &(target, weight) in found.get(i).into_iter().flatten() {
                    table.targets.push(target);
                    table.weights.push(weight);
                }
                table.nodes.push([LEAF, 0, first, table.weights.len() as i64, 0, 0, 0]);
                continue;
            }
            other => return Err(bad(format!("node mode `{other}`"))),
        };
        let child = |id: i64| {
            let tree = at(&trees);
            place
                .get(&(tree, id))
                .copied()
                .ok_or_else(|| bad(format!("there is no node {id} in tree {tree}")))
        };
        let (yes, no) = (child(at(&yes))?, child(at(&no))?);
        for c in [yes, no] {
            if let Some(slot) = usize::try_from(c).ok().and_then(|c| is_child.get_mut(c)) {
                *slot = true;
            }
        }
        table.nodes.push([comparison, at(&features), yes, no, at(&missing), 0, 0]);
    }
    let roots = is_child.iter().enumerate().filter(|(_, child)| !**child);
    table.roots = roots.map(|(i, _)| i as i64).collect();
    table.base = numbers(cx, "base_values", "base_values_as_tensor")?;
    Ok(table)
}

fn regressor(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (x, dtype) = features(cx)?;
    let table = by_ids(
        cx,
        ["target_treeids", "target_nodeids", "target_ids", "target_weights", "target_weights_as_tensor"],
    )?;
    let aggregate = match cx.attrs.string_or("aggregate_function", "SUM")?.as_str() {
        "SUM" => TreeAggregate::Sum,
        "AVERAGE" => TreeAggregate::Average,
        "MIN" => TreeAggregate::Min,
        "MAX" => TreeAggregate::Max,
        other => return Err(bad(format!("aggregate_function `{other}`"))),
    };
    let targets = cx.attrs.int_or("n_targets", 1)?;
    let transform = transform(&cx.attrs.string_or("post_transform", "NONE")?)?;
    let operands = table.operands(cx, x, dtype)?;
    one(cx.b.add1(Host::TreeEnsemble { targets, aggregate, transform, dtype: DType::F32 }, &operands)?)
}

fn classifier(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (x, dtype) = features(cx)?;
    let table = by_ids(
        cx,
        ["class_treeids", "class_nodeids", "class_ids", "class_weights", "class_weights_as_tensor"],
    )?;
    let labels = match cx.attrs.strings("classlabels_strings")?.filter(|l| !l.is_empty()) {
        Some(words) => Tensor::strings(&[words.len()], words)?,
        None => Tensor::ints(&cx.attrs.ints_or("classlabels_int64s", &[])?),
    };
    let classes = labels.numel() as i64;
    let first = table.targets.first();
    let binary = if classes != 2 || table.targets.iter().any(|t| Some(t) != first) {
        BinaryRule::None
    } else if table.weights.iter().all(|&w| w >= 0.0) {
        BinaryRule::Probability
    } else {
        BinaryRule::Signed
    };
    let transform = transform(&cx.attrs.string_or("post_transform", "NONE")?)?;
    let operands = table.operands(cx, x, dtype)?;
    let results = cx.b.add(Host::TreeClassifier { classes, transform, binary }.into(), &operands)?;
    let [winner, scores] = results.as_slice() else { return Err(bad("two results were expected")) };
    let labels = cx.b.constant(labels)?;
    Ok(vec![cx.b.add1(Index::Gather { axis: 0 }, &[labels, *winner])?, *scores])
}

/// Version 5: inner nodes and leaves are separate lists, and children say which they are of.
fn ensemble(cx: &mut Cx<'_, '_, '_>) -> Outputs {
    let (x, dtype) = features(cx)?;
    let table = by_lists(cx)?;
    let named = |list: [TreeAggregate; 4], i: i64| usize::try_from(i).ok().and_then(|i| list.get(i).copied());
    let aggregates = [TreeAggregate::Average, TreeAggregate::Sum, TreeAggregate::Min, TreeAggregate::Max];
    let number = cx.attrs.int_or("aggregate_function", 1)?;
    let aggregate = named(aggregates, number).ok_or_else(|| bad(format!("aggregate_function {number}")))?;
    let names = ["none", "softmax", "logistic", "softmax_zero", "probit"];
    let number = cx.attrs.int_or("post_transform", 0)?;
    let name = usize::try_from(number).ok().and_then(|i| names.get(i));
    let transform = transform(name.ok_or_else(|| bad(format!("post_transform {number}")))?)?;
    let targets = cx.attrs.int_or("n_targets", 1)?;
    let operands = table.operands(cx, x, dtype)?;
    one(cx.b.add1(Host::TreeEnsemble { targets, aggregate, transform, dtype }, &operands)?)
}

fn by_lists(cx: &Cx<'_, '_, '_>) -> Result<Table, OpError> {
    let tensor = |name: &'static str| -> Result<Vec<f64>, OpError> {
        match cx.attrs.tensor(name)? {
            Some(t) => t.to_f64s().ok_or_else(|| bad(format!("attribute `{name}` must be numbers"))),
            None => Ok(vec![]),
        }
    };
    let splits = tensor("nodes_splits")?;
    let modes = tensor("nodes_modes")?;
    let features = cx.attrs.ints_or("nodes_featureids", &[])?;
    let yes = (cx.attrs.ints_or("nodes_truenodeids", &[])?, cx.attrs.ints_or("nodes_trueleafs", &[])?);
    let no = (cx.attrs.ints_or("nodes_falsenodeids", &[])?, cx.attrs.ints_or("nodes_falseleafs", &[])?);
    let missing = cx.attrs.ints_or("nodes_missing_value_tracks_true", &[])?;
    let count = modes.len();
    let mut members = tensor("membership_values")?.into_iter();
    let mut table = Table { roots: cx.attrs.ints_or("tree_roots", &[])?, ..Table::default() };
    let child = |lists: &(Vec<i64>, Vec<i64>), i: usize| {
        let id = lists.0.get(i).copied()?;
        // Leaves follow the inner nodes in the table.
        if *lists.1.get(i)? != 0 { id.checked_add(count as i64) } else { Some(id) }
    };
    for (i, &mode) in modes.iter().enumerate() {
        let first = table.members.len() as i64;
        if mode == 6.0 {
            // The sets of values stand one after the other, each ended by NaN.
            table.members.extend(members.by_ref().take_while(|v| !v.is_nan()));
        }
        let fail = || bad(format!("node {i} is incomplete"));
        let (yes, no) = (child(&yes, i).ok_or_else(fail)?, child(&no, i).ok_or_else(fail)?);
        let feature = features.get(i).copied().ok_or_else(fail)?;
        let nan = missing.get(i).copied().unwrap_or(0);
        table.nodes.push([mode as i64, feature, yes, no, nan, first, table.members.len() as i64]);
        table.splits.push(splits.get(i).copied().ok_or_else(fail)?);
    }
    table.weights = tensor("leaf_weights")?;
    table.targets = cx.attrs.ints_or("leaf_targetids", &[])?;
    for i in 0..table.weights.len() as i64 {
        table.nodes.push([LEAF, 0, i, i + 1, 0, 0, 0]);
        table.splits.push(0.0);
    }
    Ok(table)
}
