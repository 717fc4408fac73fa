//! Smaller models that fail as well: nodes become inputs with the values that they compute, outputs are dropped.

use std::collections::BTreeSet;

use kiln::ir::{Datum, Tensor};
use kiln::loaders::onnx::make::raw_value;
use kiln::loaders::onnx::proto::{GraphProto, NodeProto};
use kiln::loaders::onnx::tensor::data_type;

use crate::random_model::{Model, in_numpy};

/// The smallest model that is found for which `fails` still holds; it holds for `model`.
pub fn cut(model: &Model, mut fails: impl FnMut(&Model) -> bool) -> Model {
    let mut best = model.clone();
    for _ in 0..3 {
        let before = size(&best);
        let mut at = 0;
        while at < outputs(&best) {
            let smaller = (outputs(&best) > 1).then(|| without_output(&best, at)).flatten();
            match smaller.filter(|m| fails(m)) {
                Some(smaller) => best = smaller,
                None => at += 1,
            }
        }
        let mut at = 0;
        while at < size(&best) {
            match without_node(&best, at).filter(|m| fails(m)) {
                Some(smaller) => best = smaller,
                None => at += 1,
            }
        }
        if size(&best) == before {
            break;
        }
    }
    best
}

fn size(model: &Model) -> usize {
    model.proto.graph.as_ref().map_or(0, |g| g.node.len())
}

fn outputs(model: &Model) -> usize {
    model.proto.graph.as_ref().map_or(0, |g| g.output.len())
}

fn without_output(model: &Model, at: usize) -> Option<Model> {
    let mut model = model.clone();
    model.proto.graph.as_mut()?.output.remove(at);
    swept(model)
}

/// The model whose node `at` is replaced by inputs.
fn without_node(model: &Model, at: usize) -> Option<Model> {
    let mut model = model.clone();
    let graph = model.proto.graph.as_mut()?;
    let node = graph.node.remove(at);
    model.steps.remove(at);
    graph.output.retain(|o| !node.output.contains(&o.name));
    if graph.output.is_empty() {
        return None;
    }
    for name in &node.output {
        let tensor: &Tensor = match model.values.get(name)? {
            Datum::Tensor(t) if in_numpy(t.dtype()) => t,
            Datum::Tensor(_) | Datum::Sequence { .. } | Datum::Optional { .. } => return None,
        };
        let dims: Vec<i64> = tensor.dims().iter().map(|&d| d as i64).collect();
        graph.input.push(raw_value(name, data_type(tensor.dtype()), &dims));
        model.inputs.push((name.clone(), tensor.clone()));
    }
    swept(model)
}

/// Names that a node uses, also in its graphs.
fn uses(node: &NodeProto, into: &mut BTreeSet<String>) {
    into.extend(node.input.iter().cloned());
    for graph in node.attribute.iter().filter_map(|a| a.g.as_ref()) {
        graph.node.iter().for_each(|n| uses(n, into));
        into.extend(graph.output.iter().map(|o| o.name.clone()));
    }
}

/// Without nodes, inputs and constants that nothing uses.
fn swept(mut model: Model) -> Option<Model> {
    let graph: &mut GraphProto = model.proto.graph.as_mut()?;
    let mut used: BTreeSet<String> = graph.output.iter().map(|o| o.name.clone()).collect();
    for at in (0..graph.node.len()).rev() {
        if graph.node[at].output.iter().any(|o| used.contains(o)) {
            uses(&graph.node[at], &mut used);
        } else {
            graph.node.remove(at);
            model.steps.remove(at);
        }
    }
    graph.initializer.retain(|t| used.contains(&t.name));
    graph.input.retain(|i| used.contains(&i.name));
    model.inputs.retain(|(name, _)| used.contains(name));
    Some(model)
}
