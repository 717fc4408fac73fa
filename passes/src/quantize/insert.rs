//! The quantized module: quantization and dequantization at the points, dequantized integers as weights.

use std::collections::HashMap;

use kiln_ir::op::Quant;
use kiln_ir::{Build, DType, GraphId, InferError, Module, NodeId, Op, Patch, Tensor, TensorError, Value};

use super::{Choice, Layer, Plan, Point, QuantizeError, Weights, floats};
use crate::rewrite::{Uses, describe};

/// Why a patch is not made.
pub(crate) enum Fault {
    /// A node does not type.
    Infer(InferError),
    /// A tensor could not be made.
    Tensor(TensorError),
}

impl From<InferError> for Fault {
    fn from(e: InferError) -> Self {
        Fault::Infer(e)
    }
}

impl From<TensorError> for Fault {
    fn from(e: TensorError) -> Self {
        Fault::Tensor(e)
    }
}

impl Fault {
    pub(super) fn at(self, node: &str) -> QuantizeError {
        let node = node.to_owned();
        match self {
            Fault::Infer(source) => QuantizeError::Infer { node, source },
            Fault::Tensor(source) => QuantizeError::Tensor { node, source },
        }
    }
}

/// A module under edit.
pub(crate) struct Editor {
    pub(crate) module: Module,
    pub(super) graph: GraphId,
    /// What stands in the place of results of layers that were replaced.
    pub(crate) replaced: HashMap<Value, Value>,
}

impl Editor {
    /// A module as it is.
    pub(crate) fn new(module: Module, graph: GraphId) -> Self {
        Editor { module, graph, replaced: HashMap::new() }
    }

    /// Applies what `build` patches before a node, or at the end.
    pub(crate) fn edit<T>(
        &mut self,
        anchor: Option<NodeId>,
        build: impl FnOnce(&mut Patch<'_>) -> Result<T, Fault>,
    ) -> Result<T, QuantizeError> {
        let graph = self.module.graph(self.graph);
        let name = anchor.map_or_else(|| graph.name().to_owned(), |n| describe(graph, n));
        let mut patch = match anchor {
            Some(anchor) => Patch::before(&self.module, graph, anchor),
            None => Patch::at_end(&self.module, graph),
        };
        let built = build(&mut patch).map_err(|f| f.at(&name))?;
        let edit = patch.finish();
        self.module.apply(self.graph, edit).map_err(|source| QuantizeError::Edit { node: name, source })?;
        Ok(built)
    }

    /// The first node that uses a value.
    fn first_user(&self, v: Value) -> Option<NodeId> {
        let graph = self.module.graph(self.graph);
        graph.scheduled().find(|(_, n)| n.operands.contains(&v)).map(|(id, _)| id)
    }
}

/// The module with the layers quantized that `quantized` marks; a choice for each point of the plan. With `corrected`,
/// what results lack on average is added to them.
pub fn insert(
    module: &Module,
    plan: &Plan,
    choices: &[Choice],
    quantized: &[bool],
    corrected: bool,
) -> Result<Module, QuantizeError> {
    let mut editor = Editor::new(module.clone(), plan.graph);
    let marked = |l: &usize| quantized.get(*l).copied().unwrap_or(false);
    for (point, choice) in plan.points.iter().zip(choices) {
        if !point.layers.iter().chain(&point.makers).any(marked) {
            continue;
        }
        let own = values(&mut editor, point, choice)?;
        for (&l, (weights, lack)) in point.layers.iter().zip(choice.weights.iter().zip(&choice.corrections)) {
            if let Some(layer) = plan.layers.get(l).filter(|_| marked(&l)) {
                let lack: &[f32] = if corrected { lack } else { &[] };
                let dequantized = |p: &mut Patch<'_>| dequantized_weights(p, layer, weights);
                products(&mut editor, (layer, own), &dequantized, lack)?;
            }
        }
    }
    editor.module.remove_dead_nodes(plan.graph);
    Ok(editor.module)
}

/// Quantizes the values of a point; gives what its layers take, unless that is what stands in the place of their operand.
fn values(editor: &mut Editor, point: &Point, choice: &Choice) -> Result<Option<Value>, QuantizeError> {
    let mut own = None;
    let moved = point.bases[..] != [point.value];
    for base in &point.bases {
        // A layer computes it whose weights are quantized by now.
        let base = editor.replaced.get(base).copied().unwrap_or(*base);
        let anchor = editor.first_user(base);
        let dequantized = editor.edit(anchor, |p| {
            let (all, layers) = dequantized(p, base, choice, point.axis)?;
            if moved || point.everywhere {
                p.replace(base, all);
            }
            Ok(layers)
        })?;
        if !moved && (!point.everywhere || choice.factors.is_some()) {
            own = Some(dequantized);
        }
    }
    Ok(own)
}

/// A value quantized and dequantized: as it was, and divided by the factors, which the weights have taken.
pub(super) fn dequantized(
    p: &mut dyn Build,
    x: Value,
    choice: &Choice,
    axis: Option<usize>,
) -> Result<(Value, Value), Fault> {
    let range = choice.range;
    let scale = constant(p, Tensor::scalar(range.scale))?;
    let inverse = constant(p, Tensor::scalar(1.0 / range.scale))?;
    let zero = constant(p, Tensor::scalar(range.zero))?;
    let plain = |axis| Quant::Dequantize { to: DType::F32, axis, block: 0 };
    let quantize = |axis| Quant::Quantize { to: DType::U8, axis, block: 0, saturate: true, inverse: true };
    let Some((factors, axis)) = choice.factors.as_ref().zip(axis) else {
        let q = node(p, quantize(None), &[x, inverse, zero])?;
        let v = node(p, plain(None), &[q, scale, zero])?;
        return Ok((v, v));
    };
    let scales: Vec<f32> = factors.iter().map(|f| f * range.scale).collect();
    let inverses: Vec<f32> = scales.iter().map(|s| 1.0 / s).collect();
    let inverses = constant(p, Tensor::from_slice(&[scales.len()], &inverses)?)?;
    let scales = constant(p, Tensor::from_slice(&[scales.len()], &scales)?)?;
    let zeros = constant(p, Tensor::from_slice(&[factors.len()], &vec![range.zero; factors.len()])?)?;
    let q = node(p, quantize(Some(axis)), &[x, inverses, zeros])?;
    let all = node(p, plain(Some(axis)), &[q, scales, zeros])?;
    Ok((all, node(p, plain(None), &[q, scale, zero])?))
}

fn constant(p: &mut dyn Build, value: Tensor) -> Result<Value, Fault> {
    Ok(p.constant(value)?)
}

/// A node of one result.
pub(crate) fn node(p: &mut dyn Build, op: impl Into<Op>, operands: &[Value]) -> Result<Value, Fault> {
    let results = p.add(op.into(), operands)?;
    results.first().copied().ok_or_else(|| InferError::new("expected a result").into())
}

/// The weights of a layer, dequantized.
pub(super) fn dequantized_weights(
    p: &mut dyn Build,
    layer: &Layer,
    weights: &Weights,
) -> Result<Value, Fault> {
    let integers = constant(p, weights.integers.clone())?;
    let (scale, zero) = match layer.output_axis {
        Some(_) => {
            let count = weights.scales.len();
            (Tensor::from_slice(&[count], &weights.scales)?, Tensor::zeros(DType::I8, &[count])?)
        }
        None => (Tensor::scalar(weights.scales.first().copied().unwrap_or(1.0)), Tensor::scalar(0i8)),
    };
    let (scale, zero) = (constant(p, scale)?, constant(p, zero)?);
    let op = Quant::Dequantize { to: DType::F32, axis: layer.output_axis, block: 0 };
    node(p, op, &[integers, scale, zero])
}

/// Numbers of output channels in the shape that broadcasts to the layer's result.
pub(super) fn along_result(layer: &Layer, values: &[f32]) -> Result<Option<Tensor>, TensorError> {
    let Some(axis) = layer.result_axis.filter(|_| !values.is_empty()) else { return Ok(None) };
    let mut dims = vec![values.len()];
    dims.extend(std::iter::repeat_n(1, layer.rank.saturating_sub(axis + 1)));
    Tensor::from_slice(&dims, values).map(Some)
}

/// Replaces a layer by one of other weights, and of the operand `own` if it is given; what its results lack goes to a
/// constant that is added to them.
pub(crate) fn products(
    editor: &mut Editor,
    (layer, own): (&Layer, Option<Value>),
    weights: &dyn Fn(&mut Patch<'_>) -> Result<Value, Fault>,
    lack: &[f32],
) -> Result<(), QuantizeError> {
    let graph = editor.module.graph(editor.graph);
    let lack = along_result(layer, lack).map_err(|e| Fault::from(e).at(&layer.name))?;
    let result = graph.node(layer.node).results[0];
    let shifted = lack.as_ref().and_then(|lack| {
        let user = Uses::of(graph).only_user(result)?;
        let (sum, constant) = shift(graph.node(user), result, graph)?;
        let total = (constant.dims() == lack.dims()).then(|| sum_of(constant, lack))??;
        Some((sum, total))
    });
    let (old, new) = editor.edit(Some(layer.node), |p| {
        let node = p.graph().node(layer.node);
        let mut operands = node.operands.clone();
        let w = weights(p)?;
        for (slot, operand) in operands.iter_mut().enumerate() {
            *operand = if slot == layer.slot { own.unwrap_or(*operand) } else { w };
        }
        let y = self::node(p, node.op.clone(), &operands)?;
        match (shifted, lack) {
            (Some((sum, total)), _) => {
                let total = p.constant(total)?;
                let y = p.ew("add", &[y, total])?;
                p.replace(sum, y);
                Ok((sum, y))
            }
            (None, Some(lack)) => {
                let lack = p.constant(lack)?;
                let y = p.ew("add", &[y, lack])?;
                p.replace(result, y);
                Ok((result, y))
            }
            (None, None) => {
                p.replace(result, y);
                Ok((result, y))
            }
        }
    })?;
    editor.replaced.insert(old, new);
    Ok(())
}

/// The sum of a layer's result and a constant that a node computes.
fn shift<'g>(node: &kiln_ir::Node, result: Value, graph: &'g kiln_ir::Graph) -> Option<(Value, &'g Tensor)> {
    let (&[a, b], &[sum]) = (&node.operands[..], &node.results[..]) else { return None };
    let other = if a == result { b } else { a };
    (node.op == Op::ew("add")).then_some(())?;
    Some((sum, graph.constant(other)?))
}

fn sum_of(a: &Tensor, b: &Tensor) -> Option<Tensor> {
    let values: Vec<f32> = floats(a)?.iter().zip(floats(b)?.iter()).map(|(a, b)| a + b).collect();
    Tensor::from_slice(a.dims(), &values).ok()
}
