//! Values quantized when the model runs.
//!
//! Rows of a contraction have a scale each, found from the row's largest magnitude, and the zero point 128: the row is read
//! once, in the kernel that computes it, where one scale for all rows would need all of them before the first is quantized;
//! and a row of large values does not cost the others their precision. Values of convolutions have one scale and zero
//! point.

use std::collections::HashMap;

use kiln_ir::op::{Composite, Contract, Quant, ReduceKind};
use kiln_ir::{Build, DType, Dim, Module, Op, Patch, Scalar, Tensor, Value};

use super::insert::{Editor, Fault, along_result, dequantized_weights, node};
use super::{Kept, Layer, LayerKind, Plan, QuantizeError, Weights};

/// Below the scale of any row whose products are not lost in those of others.
const LEAST_SCALE: f64 = 1e-30;

/// The module with all layers quantized whose values can be quantized when it runs, with their weights; and the others.
pub fn insert_dynamic(
    module: &Module,
    plan: &Plan,
) -> Result<(Module, Vec<(usize, Weights)>, Vec<Kept>), QuantizeError> {
    let mut editor = Editor { module: module.clone(), graph: plan.graph, replaced: HashMap::new() };
    let (mut done, mut kept) = (vec![], vec![]);
    for (l, layer) in plan.layers.iter().enumerate() {
        if layer.kind == LayerKind::Depthwise {
            let reason = "finding the range of its value when it runs takes longer than the layer".to_owned();
            kept.push(Kept { name: layer.name.clone(), reason });
            continue;
        }
        let graph = editor.module.graph(editor.graph);
        let Some(tensor) = layer.weights(graph) else { continue };
        let weights = super::weights::quantize(layer, tensor, None, &[]);
        let weights = weights.map_err(|e| Fault::from(e).at(&layer.name))?;
        editor.edit(Some(layer.node), |p| {
            let y = match rows(p, layer, &weights)? {
                Some(y) => y,
                None => whole(p, layer, &weights)?,
            };
            let result = p.graph().node(layer.node).results[0];
            p.replace(result, y);
            Ok(())
        })?;
        done.push((l, weights));
    }
    editor.module.remove_dead_nodes(plan.graph);
    Ok((editor.module, done, kept))
}

/// One scale and zero point for all of the value.
fn whole(p: &mut Patch<'_>, layer: &Layer, weights: &Weights) -> Result<Value, Fault> {
    let old = p.graph().node(layer.node);
    let mut operands = old.operands.clone();
    let parts = p.add(Composite::DynamicQuantize {}.into(), &[operands[layer.slot]])?;
    let x = node(p, Quant::Dequantize { to: DType::F32, axis: None, block: 0 }, &parts)?;
    let w = dequantized_weights(p, layer, weights)?;
    operands[layer.slot] = x;
    operands[1 - layer.slot] = w;
    node(p, old.op.clone(), &operands)
}

/// A scale for each row; nothing if the layer is no contraction of rows.
fn rows(p: &mut Patch<'_>, layer: &Layer, weights: &Weights) -> Result<Option<Value>, Fault> {
    let old = p.graph().node(layer.node);
    let Op::Contract(Contract::Einsum { spec, .. }) = &old.op else { return Ok(None) };
    let labels = if layer.slot == 0 { &spec.lhs } else { &spec.rhs };
    let x = old.operands[layer.slot];
    let dims = p.shape(x)?.to_vec();
    let (Some(depth), Some(last)) = (dims.last().and_then(Dim::as_known), dims.len().checked_sub(1)) else {
        return Ok(None);
    };
    // Rows keep their order in the result.
    let kept: Vec<u8> = spec.out.iter().copied().filter(|l| labels.contains(l)).collect();
    if layer.x_axis != Some(last) || labels[..last] != kept[..] || depth == 0 {
        return Ok(None);
    }
    let magnitude = p.ew("abs", &[x])?;
    let largest = p.reduce(ReduceKind::Max, magnitude, &[last], true)?;
    let step = p.scalar(DType::F32, 1.0 / 127.0)?;
    let scale = p.ew("mul", &[largest, step])?;
    let least = p.scalar(DType::F32, LEAST_SCALE)?;
    let scale = p.ew("max", &[scale, least])?;
    let one = p.scalar(DType::F32, 1.0)?;
    let inverse = p.ew("div", &[one, scale])?;
    let middle = p.scalar(DType::U8, 128.0)?;
    let row_dims = p.shape(scale)?.to_vec();
    let zero = p.broadcast(middle, &row_dims)?;
    let quantize =
        Quant::Quantize { to: DType::U8, axis: Some(last), block: depth, saturate: true, inverse: true };
    let q = node(p, quantize, &[x, inverse, zero])?;
    let wide = p.cast(q, DType::I32)?;
    let middle = p.scalar(DType::I32, 128.0)?;
    let centred = p.ew("sub", &[wide, middle])?;
    let w = p.constant(weights.integers.clone())?;
    let w = p.cast(w, DType::I32)?;
    let operands = if layer.slot == 0 { [centred, w] } else { [w, centred] };
    let op = Contract::Einsum { spec: spec.clone(), out: DType::I32 };
    let sums = node(p, op, &operands)?;
    let real = p.cast(sums, DType::F32)?;
    let result: Vec<Dim> = spec
        .out
        .iter()
        .map(|l| labels.iter().position(|x| x == l).map_or(Dim::known(1), |at| dims[at].clone()))
        .collect();
    let row_scale = p.reshape(scale, &result)?;
    let y = p.ew("mul", &[real, row_scale])?;
    let columns = match along_result(layer, &weights.scales)? {
        Some(scales) => scales,
        None => {
            let one = weights.scales.first().copied().unwrap_or(1.0);
            Tensor::from_scalars(DType::F32, &[], &[Scalar::F(f64::from(one))])?
        }
    };
    let columns = p.constant(columns)?;
    Ok(Some(p.ew("mul", &[y, columns])?))
}
