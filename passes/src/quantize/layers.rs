//! Layers: products of values with constant weights.

use kiln_ir::op::{Contract, Conv, Layout};
use kiln_ir::{DType, Graph, GraphId, Module, NodeId, Op, Tensor, Value};

use super::{Kept, floats};
use crate::rewrite::{describe, live_graphs};

/// What a layer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerKind {
    /// A contraction.
    Contraction,
    /// A convolution of one group, or of groups of several channels.
    Convolution,
    /// A convolution of one channel a group.
    Depthwise,
}

impl LayerKind {
    /// Name in reports.
    pub fn name(self) -> &'static str {
        match self {
            LayerKind::Contraction => "linear",
            LayerKind::Convolution => "convolution",
            LayerKind::Depthwise => "depthwise",
        }
    }
}

/// A product of a value with constant weights.
#[derive(Clone, Debug)]
pub struct Layer {
    /// The node.
    pub node: NodeId,
    /// Its name in messages.
    pub name: String,
    /// What it is.
    pub kind: LayerKind,
    /// The value.
    pub x: Value,
    /// Which operand the value is.
    pub slot: usize,
    /// The axis of the value that has the input channels, if there is exactly one.
    pub x_axis: Option<usize>,
    /// The axis of the weights that has the output channels, if there is one.
    pub output_axis: Option<usize>,
    /// The axis of the weights that has the input channels of a group, if there is exactly one.
    pub input_axis: Option<usize>,
    /// The axis of the result that has the output channels, if there is one.
    pub result_axis: Option<usize>,
    /// Groups of channels.
    pub groups: usize,
    /// Rank of the result.
    pub rank: usize,
}

impl Layer {
    /// The weights, in a graph in which the layer is.
    pub fn weights<'g>(&self, graph: &'g Graph) -> Option<&'g Tensor> {
        graph.constant(*graph.node(self.node).operands.get(1 - self.slot.min(1))?)
    }

    /// For each element of weights of these dims, its output and input channel.
    pub(crate) fn channels(&self, dims: &[usize]) -> impl Fn(usize) -> (usize, usize) + use<> {
        let along = |axis: Option<usize>| match axis {
            Some(axis) => (
                dims.iter().skip(axis + 1).product::<usize>().max(1),
                dims.get(axis).copied().unwrap_or(1).max(1),
            ),
            None => (1, 1),
        };
        let ((out_stride, outputs), (in_stride, inputs)) = (along(self.output_axis), along(self.input_axis));
        let each = (outputs / self.groups.max(1)).max(1);
        let groups = self.groups;
        move |i| {
            let out = i / out_stride % outputs;
            let within = i / in_stride % inputs;
            let group = if groups > 1 { out / each } else { 0 };
            (out, group * inputs + within)
        }
    }

    /// Output and input channels of weights of these dims.
    pub(crate) fn counts(&self, dims: &[usize]) -> (usize, usize) {
        let along = |axis: Option<usize>| axis.and_then(|a| dims.get(a).copied()).unwrap_or(1);
        (along(self.output_axis), along(self.input_axis) * self.groups.max(1))
    }
}

/// Weights of fewer elements stay in floats: quantizing the value would cost more than the product.
const FEWEST: usize = 16;

/// The layers of a graph, and those of all graphs that stay in floats.
pub(super) fn find(module: &Module, id: GraphId) -> (Vec<Layer>, Vec<Kept>) {
    let (mut layers, mut kept) = (vec![], vec![]);
    let graph = module.graph(id);
    for (node_id, node) in graph.scheduled() {
        if !matches!(node.op, Op::Contract(_) | Op::Conv(_)) {
            continue;
        }
        match layer(graph, node_id) {
            Ok(layer) => layers.push(layer),
            Err(reason) => kept.push(Kept { name: describe(graph, node_id), reason }),
        }
    }
    for other in live_graphs(module).into_iter().filter(|&g| g != id) {
        let graph = module.graph(other);
        for (node_id, node) in graph.scheduled() {
            if matches!(node.op, Op::Contract(_) | Op::Conv(_)) {
                let reason = "it is in a branch, a loop or another entry point".to_owned();
                kept.push(Kept { name: describe(graph, node_id), reason });
            }
        }
    }
    (layers, kept)
}

fn layer(graph: &Graph, id: NodeId) -> Result<Layer, String> {
    let node = graph.node(id);
    let &[a, b] = &node.operands[..] else { return Err("it does not have two operands".into()) };
    let slot = match (graph.constant(a), graph.constant(b)) {
        (_, Some(_)) => 0,
        (Some(_), None) => 1,
        (None, None) => return Err("neither operand is constant".into()),
    };
    let (x, w) = if slot == 0 { (a, b) } else { (b, a) };
    let dtype = |v: Value| graph.ty(v).as_tensor().map(|t| t.dtype);
    if [x, w].into_iter().chain(node.results.iter().copied()).any(|v| dtype(v) != Some(DType::F32)) {
        return Err("it does not compute in f32".into());
    }
    let weights = graph.constant(w).ok_or("the weights are not constant")?;
    if graph.constant(x).is_some() {
        return Err("both operands are constant".into());
    }
    if weights.numel() < FEWEST {
        return Err(format!("it has {} weights", weights.numel()));
    }
    if !floats(weights).is_some_and(|all| all.iter().all(|v| v.is_finite())) {
        return Err("the weights are not finite".into());
    }
    let rank = |v: Value| graph.ty(v).as_tensor().and_then(|t| t.shape.rank());
    let result = rank(node.results[0]).ok_or("the rank of the result is not known")?;
    let mut layer = Layer {
        node: id,
        name: describe(graph, id),
        kind: LayerKind::Contraction,
        x,
        slot,
        x_axis: None,
        output_axis: None,
        input_axis: None,
        result_axis: None,
        groups: 1,
        rank: result,
    };
    match &node.op {
        Op::Contract(contract) => contraction(&mut layer, contract, weights)?,
        Op::Conv(conv) => convolution(&mut layer, conv, weights)?,
        _ => return Err("it is no product".into()),
    }
    let (outputs, _) = layer.counts(weights.dims());
    let depth = weights.numel() / outputs.max(1);
    if depth > (i32::MAX as usize) / (255 * 255) {
        return Err(format!("sums of {depth} products could exceed 32 bits"));
    }
    Ok(layer)
}

fn contraction(layer: &mut Layer, op: &Contract, weights: &Tensor) -> Result<(), String> {
    let Contract::Einsum { spec, .. } = op;
    let (x, w) = if layer.slot == 0 { (&spec.lhs, &spec.rhs) } else { (&spec.rhs, &spec.lhs) };
    if w.iter().any(|l| x.contains(l) && spec.out.contains(l)) {
        return Err("the weights have a batch axis".into());
    }
    let summed: Vec<u8> = w.iter().copied().filter(|l| !spec.out.contains(l)).collect();
    if let [one] = summed[..] {
        layer.x_axis = x.iter().position(|l| *l == one);
        layer.input_axis = w.iter().position(|l| *l == one);
    }
    // Of several output axes the longest has the scales.
    let outputs = w.iter().enumerate().filter(|(_, l)| spec.out.contains(l));
    let longest = outputs.max_by_key(|(i, _)| (weights.dims().get(*i).copied().unwrap_or(0), *i));
    if let Some((axis, label)) = longest {
        layer.output_axis = Some(axis);
        layer.result_axis = spec.out.iter().position(|l| l == label);
    }
    Ok(())
}

fn convolution(layer: &mut Layer, op: &Conv, weights: &Tensor) -> Result<(), String> {
    let Conv::Forward { groups, layout, .. } = op else {
        return Err("transposed convolutions have no integer kernel".into());
    };
    if layer.slot != 0 {
        return Err("it convolves a constant".into());
    }
    layer.groups = usize::try_from(*groups).map_err(|_| "its groups are not known")?;
    let channels = weights.dims().get(1).copied().unwrap_or(1);
    layer.kind =
        if layer.groups > 1 && channels == 1 { LayerKind::Depthwise } else { LayerKind::Convolution };
    let axis = match layout {
        Layout::ChannelsFirst => 1,
        Layout::ChannelsLast => layer.rank.saturating_sub(1),
    };
    (layer.x_axis, layer.result_axis) = (Some(axis), Some(axis));
    (layer.output_axis, layer.input_axis) = (Some(0), Some(1));
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A contraction whose weights have these axes of output and input channels.
    pub(crate) fn layer([output, input]: [usize; 2]) -> Layer {
        Layer {
            node: NodeId::new(0),
            name: String::new(),
            kind: LayerKind::Contraction,
            x: Value::new(0),
            slot: 0,
            x_axis: Some(1),
            output_axis: Some(output),
            input_axis: Some(input),
            result_axis: Some(1),
            groups: 1,
            rank: 2,
        }
    }
}
