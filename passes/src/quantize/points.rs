//! Points: where values are quantized.

use std::collections::HashSet;

use kiln_ir::op::{Movement, Source, Window, WindowKind};
use kiln_ir::{DType, Graph, NodeId, Op, Value};

use super::{Layer, LayerKind};
use crate::rewrite::Uses;

/// A value that is quantized, for layers or to be kept in 8 bits.
#[derive(Clone, Debug)]
pub struct Point {
    /// The value that layers take, whose statistics decide.
    pub value: Value,
    /// The values that are quantized: what `value` is moved, pooled or joined from, so that bytes are moved.
    pub bases: Vec<Value>,
    /// The layers that take the value, by index.
    pub layers: Vec<usize>,
    /// Whether everything that uses the value takes it as quantized, not only the layers: in convolution networks, where the
    /// bytes are what is kept in memory.
    pub everywhere: bool,
    /// Layers one of which must be quantized for the point to be of use, where no layer takes it: those that compute it.
    pub makers: Vec<usize>,
    /// The axis of the value that has the channels, if all layers agree.
    pub axis: Option<usize>,
}

/// The points of a graph, in the order in which their values are computed.
pub(super) fn find(graph: &Graph, uses: &Uses, layers: &[Layer]) -> Vec<Point> {
    let mut points: Vec<Point> = vec![];
    for (i, layer) in layers.iter().enumerate() {
        match points.iter_mut().find(|p| p.value == layer.x) {
            Some(point) => point.layers.push(i),
            None => points.push(Point {
                value: layer.x,
                bases: vec![layer.x],
                layers: vec![i],
                everywhere: false,
                makers: vec![],
                axis: layer.x_axis,
            }),
        }
    }
    let mut taken: HashSet<Value> = HashSet::new();
    for point in &mut points {
        let own: Vec<&Layer> = point.layers.iter().filter_map(|&l| layers.get(l)).collect();
        if own.iter().any(|l| l.x_axis != point.axis) {
            point.axis = None;
        }
        let images = own.iter().any(|l| l.kind != LayerKind::Contraction);
        point.everywhere = images && !uses.is_output(point.value);
        let only_layers = uses.users(point.value).iter().all(|u| own.iter().any(|l| l.node == *u));
        if !uses.is_output(point.value) && (point.everywhere || only_layers) {
            let mut bases = vec![];
            moved_from(graph, uses, point.value, &mut bases);
            if bases.iter().all(|b| !taken.contains(b)) {
                point.bases = bases;
            }
        }
        taken.extend(&point.bases);
    }
    points.extend(residuals(graph, uses, layers, &points, &mut taken));
    let place =
        |v: Value| graph.def_node(v).and_then(|(id, _)| graph.schedule().iter().position(|&n| n == id));
    points.sort_by_key(|p| place(p.value).map_or(0, |at| at + 1));
    points
}

/// The values that `v` is moved, pooled or joined from, where nothing else uses them.
fn moved_from(graph: &Graph, uses: &Uses, v: Value, bases: &mut Vec<Value>) {
    let float = |u: Value| graph.ty(u).as_tensor().is_some_and(|t| t.dtype == DType::F32);
    let sources: Option<Vec<Value>> = graph.def_node(v).and_then(|(_, node)| match &node.op {
        Op::Movement(Movement::Concat { .. }) => Some(node.operands.to_vec()),
        Op::Movement(Movement::Reshape { .. } | Movement::Transpose { .. } | Movement::Slice { .. })
        | Op::Window(Window::Pool { kind: WindowKind::Max, .. }) => Some(node.operands.to_vec()),
        _ => None,
    });
    match sources {
        Some(all) if all.iter().all(|&u| uses.count(u) == 1 && float(u) && !is_constant(graph, u)) => {
            all.into_iter().for_each(|u| moved_from(graph, uses, u, bases));
        }
        _ => bases.push(v),
    }
}

fn is_constant(graph: &Graph, v: Value) -> bool {
    graph.def_node(v).is_some_and(|(_, n)| matches!(n.op, Op::Source(Source::Constant { .. })))
}

/// Sums of the results of two layers (a block whose residual is a layer, too): fusion gives the sum to the first of them,
/// which reads what the second has written, otherwise in floats.
fn residuals(
    graph: &Graph,
    uses: &Uses,
    layers: &[Layer],
    points: &[Point],
    taken: &mut HashSet<Value>,
) -> Vec<Point> {
    let mut all = vec![];
    let dims = |v: Value| graph.ty(v).as_tensor().and_then(|t| t.shape.dims());
    for (_, node) in graph.scheduled().filter(|(_, n)| n.op == Op::ew("add")) {
        let (&[a, b], &[sum]) = (&node.operands[..], &node.results[..]) else { continue };
        let makers = [a, b].map(|v| maker(graph, layers, v, 0));
        let (Some(first), Some(second)) = (makers[0], makers[1]) else { continue };
        let image = layers.get(first).is_some_and(|l| l.kind != LayerKind::Contraction);
        if !image || dims(a) != dims(b) || !becomes_point(graph, uses, points, sum, 2) {
            continue;
        }
        let (value, maker) = if first < second { (b, second) } else { (a, first) };
        if taken.insert(value) && uses.count(value) == 1 {
            all.push(Point {
                value,
                bases: vec![value],
                layers: vec![],
                everywhere: true,
                makers: vec![maker],
                axis: None,
            });
        }
    }
    all
}

/// The layer that computes a value, with constants added or a function of one operand applied.
fn maker(graph: &Graph, layers: &[Layer], v: Value, depth: usize) -> Option<usize> {
    let (id, node) = graph.def_node(v)?;
    if let Some(at) = at_node(layers, id) {
        return Some(at);
    }
    let mut rest = node.operands.iter().filter(|&&o| !is_constant(graph, o));
    let only = rest.next().filter(|_| rest.next().is_none() && depth < 3)?;
    match node.op {
        Op::Elementwise(_) => maker(graph, layers, *only, depth + 1),
        _ => None,
    }
}

fn at_node(layers: &[Layer], id: NodeId) -> Option<usize> {
    layers.iter().position(|l| l.node == id)
}

/// Whether a value, or a function of it alone, is quantized.
fn becomes_point(graph: &Graph, uses: &Uses, points: &[Point], v: Value, depth: usize) -> bool {
    if points.iter().any(|p| p.bases.contains(&v)) {
        return true;
    }
    depth > 0
        && uses.users(v).iter().any(|&u| {
            let node = graph.node(u);
            matches!(node.op, Op::Elementwise(_))
                && node.results.iter().any(|&r| becomes_point(graph, uses, points, r, depth - 1))
        })
}
