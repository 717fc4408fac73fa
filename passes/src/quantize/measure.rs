//! Modules that show values and errors when they run.

use kiln_ir::op::ReduceKind;
use kiln_ir::{Build, GraphBuilder, Module, Value};

use super::insert::{Fault, along_result, dequantized, dequantized_weights, node};
use super::{Choice, Plan, QuantizeError};

/// The module of one entry point, the plan's graph, whose outputs are followed by `values`.
pub fn probe(module: &Module, plan: &Plan, values: &[Value]) -> Module {
    let mut probed = module.clone();
    let graph = probed.graph(plan.graph).clone();
    let mut builder = GraphBuilder::resume(&mut probed, graph);
    for (i, &v) in values.iter().enumerate() {
        builder.output(&format!("kiln.value{i}"), v);
    }
    let id = builder.finish();
    probed.set_entries(&[id]);
    probed
}

/// The module of one entry point, the plan's graph, whose outputs are `values` alone.
pub fn show(module: &Module, plan: &Plan, values: &[Value]) -> Module {
    let mut shown = module.clone();
    let graph = shown.graph(plan.graph).clone();
    let mut builder = GraphBuilder::resume(&mut shown, graph);
    builder.drop_outputs();
    for (i, &v) in values.iter().enumerate() {
        builder.output(&format!("kiln.value{i}"), v);
    }
    let id = builder.finish();
    shown.set_entries(&[id]);
    shown.remove_dead_nodes(id);
    shown
}

/// A module that runs layers in floats and on integers side by side.
#[derive(Debug)]
pub struct Twins {
    /// The module, of one entry point with the inputs of the plan's graph. Its outputs are two numbers for each layer: the
    /// sums of the squares of the results, and of the differences.
    pub module: Module,
    /// The layers, by index.
    pub layers: Vec<usize>,
}

/// The module that measures the error of each of the layers alone, on the values that the model in floats has.
pub fn twins(
    module: &Module,
    plan: &Plan,
    choices: &[Choice],
    layers: &[usize],
    corrected: bool,
) -> Result<Twins, QuantizeError> {
    let mut doubled = module.clone();
    let graph = doubled.graph(plan.graph).clone();
    let mut builder = GraphBuilder::resume(&mut doubled, graph);
    builder.drop_outputs();
    let mut measured = vec![];
    for (point, choice) in plan.points.iter().zip(choices) {
        for (i, &l) in point.layers.iter().enumerate().filter(|(_, l)| layers.contains(l)) {
            let (Some(layer), Some(weights)) = (plan.layers.get(l), choice.weights.get(i)) else { continue };
            let lack = choice.corrections.get(i).filter(|_| corrected);
            let build = |b: &mut GraphBuilder<'_>| -> Result<[Value; 2], Fault> {
                let original = b.graph().node(layer.node).clone();
                let (_, x) = dequantized(b, layer.x, choice, point.axis)?;
                let w = dequantized_weights(b, layer, weights)?;
                let mut operands = original.operands.clone();
                for (slot, operand) in operands.iter_mut().enumerate() {
                    *operand = if slot == layer.slot { x } else { w };
                }
                let mut y = node(b, original.op.clone(), &operands)?;
                if let Some(lack) = lack.map(|l| along_result(layer, l)).transpose()?.flatten() {
                    let lack = b.constant(lack)?;
                    y = b.ew("add", &[y, lack])?;
                }
                let difference = b.ew("sub", &[original.results[0], y])?;
                let axes: Vec<usize> = (0..layer.rank).collect();
                let signal = b.reduce(ReduceKind::SumSquare, original.results[0], &axes, false)?;
                Ok([signal, b.reduce(ReduceKind::SumSquare, difference, &axes, false)?])
            };
            let sums = build(&mut builder).map_err(|f| f.at(&layer.name))?;
            for (name, v) in ["signal", "noise"].into_iter().zip(sums) {
                builder.output(&format!("kiln.{name}{l}"), v);
            }
            measured.push(l);
        }
    }
    let id = builder.finish();
    doubled.set_entries(&[id]);
    doubled.remove_dead_nodes(id);
    Ok(Twins { module: doubled, layers: measured })
}
