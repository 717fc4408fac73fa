//! Control flow, sequences, optionals.

use kiln::ir::{DType, Tensor};
use kiln::loaders::onnx::make::{graph, graph_attr, int, node, raw_value, tensor_value};
use kiln::loaders::onnx::proto::{GraphProto, NodeProto, ValueInfoProto};
use kiln::loaders::onnx::tensor::{data_type, tensor_proto};

use super::Rounding;
use super::elementwise::filled;
use super::grower::{Grower, MOVED, V};

/// What bodies compute: a few roundings behind each other.
const BODY: Rounding = Rounding::Units(32.0, 1e-6);

/// Nodes from `from` to `to` that keep dtype and shape.
fn chain(g: &mut Grower<'_>, from: &str, to: &str, other: Option<&str>, float: bool) -> Vec<NodeProto> {
    let count = 1 + g.c.below(2);
    let mut nodes = vec![];
    let mut at = from.to_owned();
    for i in 0..count {
        let next = if i + 1 == count { to.to_owned() } else { g.fresh("t") };
        let op = if float {
            g.c.of(&["Relu", "Tanh", "Neg", "Abs", "Add", "Mul"])
        } else {
            g.c.of(&["Neg", "Abs", "Add", "Identity"])
        };
        let second = other.unwrap_or(from);
        let inputs = if matches!(op, "Add" | "Mul") { vec![at.as_str(), second] } else { vec![at.as_str()] };
        nodes.push(node(op, &inputs, &[next.as_str()], vec![]));
        at = next;
    }
    nodes
}

const COMPUTED: &[DType] = &[DType::F32, DType::F32, DType::F32, DType::I64, DType::I32];

fn rounding(dtype: DType) -> Rounding {
    if dtype.is_float() { BODY } else { Rounding::Exact }
}

pub(super) fn branch(g: &mut Grower<'_>) -> Option<()> {
    let x = g.any(COMPUTED, 0..=3);
    let (dtype, dims) = (g.dtype(x), g.dims(x));
    let y = g.find(|t| t.dtype() == dtype && t.dims() == dims);
    let condition = match g.find(|t| t.dtype() == DType::Bool && t.dims().is_empty()) {
        Some(condition) if g.c.flag() => condition,
        _ => {
            let flag = g.c.flag();
            g.param(Tensor::from_bools(&[], &[flag]).ok()?)
        }
    };
    let (from, other) = (g.name(x).to_owned(), y.map(|y| g.name(y).to_owned()));
    let two = g.c.flag();
    let mut bodies = vec![];
    for side in 0..2 {
        let (r, s) = (g.fresh("b"), g.fresh("b"));
        let mut nodes = chain(g, &from, &r, other.as_deref(), dtype.is_float());
        // The branches' shapes may differ.
        if g.c.below(4) == 3 && !dims.is_empty() && side == 1 {
            let doubled = g.fresh("b");
            nodes.push(node("Concat", &[r.as_str(), r.as_str()], &[doubled.as_str()], vec![int("axis", 0)]));
            nodes.push(node("Neg", &[r.as_str()], &[s.as_str()], vec![]));
            bodies.push(body(nodes, vec![], &[doubled.as_str(), s.as_str()][..1 + usize::from(two)], dtype));
            continue;
        }
        nodes.push(node("Neg", &[r.as_str()], &[s.as_str()], vec![]));
        bodies.push(body(nodes, vec![], &[r.as_str(), s.as_str()][..1 + usize::from(two)], dtype));
    }
    let captured: Vec<V> = [Some(x), y].into_iter().flatten().collect();
    let otherwise = bodies.pop()?;
    let attributes = vec![graph_attr("then_branch", bodies.pop()?), graph_attr("else_branch", otherwise)];
    g.add_capturing("If", &[Some(condition)], &captured, 1 + usize::from(two), attributes, rounding(dtype))
        .map(drop)
}

fn body(nodes: Vec<NodeProto>, inputs: Vec<ValueInfoProto>, outputs: &[&str], dtype: DType) -> GraphProto {
    let mut g = graph(nodes, inputs, outputs);
    for info in &mut g.output {
        *info = tensor_value(&info.name, data_type(dtype), None);
    }
    g
}

pub(super) fn repeat(g: &mut Grower<'_>) -> Option<()> {
    let x = g.any(COMPUTED, 0..=3);
    let dtype = g.dtype(x);
    let dims = g.dims(x);
    let y = g.find(|t| t.dtype() == dtype && t.dims() == dims);
    let other = y.map(|y| g.name(y).to_owned());
    let [i, c, s, stop, next, each] = [0; 6].map(|_| g.fresh("l"));
    let mut nodes = chain(g, &s, &next, other.as_deref(), dtype.is_float());
    let early = g.c.flag();
    let mut initializer = vec![];
    if early {
        let limit = g.fresh("l");
        initializer.push(tensor_proto(&limit, &Tensor::scalar(1i64)));
        nodes.push(node("Less", &[i.as_str(), limit.as_str()], &[stop.as_str()], vec![]));
    } else {
        nodes.push(node("Identity", &[c.as_str()], &[stop.as_str()], vec![]));
    }
    let collected = g.c.flag();
    if collected {
        nodes.push(node("Abs", &[next.as_str()], &[each.as_str()], vec![]));
    }
    let inputs = vec![
        tensor_value(&i, 7, Some(vec![])),
        tensor_value(&c, 9, Some(vec![])),
        tensor_value(&s, data_type(dtype), None),
    ];
    let mut outputs = vec![stop.as_str(), next.as_str()];
    if collected {
        outputs.push(each.as_str());
    }
    let mut whole = body(nodes, inputs, &outputs, dtype);
    whole.output[0] = tensor_value(&stop, 9, None);
    whole.initializer = initializer;
    // The shape of what is collected over no iterations is left open.
    let count = g.c.between(i64::from(collected), 3);
    let count = g.param(Tensor::scalar(count));
    let start = g.c.flag().then(|| g.param(filled(DType::Bool, &[], 1.0)));
    let captured: Vec<V> = y.into_iter().collect();
    let results = 1 + usize::from(collected);
    let operands = [Some(count), start, Some(x)];
    g.add_capturing("Loop", &operands, &captured, results, vec![graph_attr("body", whole)], rounding(dtype))
        .map(drop)
}

pub(super) fn scan(g: &mut Grower<'_>) -> Option<()> {
    let x = g.any(COMPUTED, 1..=3);
    let (dtype, dims) = (g.dtype(x), g.dims(x));
    let state = g.weights(dtype, &dims[1..]);
    let [s, e, next, each] = [0; 4].map(|_| g.fresh("l"));
    let middle = g.fresh("l");
    let mut nodes = vec![node("Add", &[s.as_str(), e.as_str()], &[middle.as_str()], vec![])];
    nodes.extend(chain(g, &middle, &next, Some(&e), dtype.is_float()));
    nodes.push(node("Neg", &[middle.as_str()], &[each.as_str()], vec![]));
    let inputs = [&s, &e].map(|name| tensor_value(name, data_type(dtype), None)).to_vec();
    let mut whole = body(nodes, inputs, &[&next, &each], dtype);
    // onnxruntime wants the shapes of what a scan collects.
    let sizes: Vec<i64> = dims[1..].iter().map(|&d| d as i64).collect();
    whole.output = [&next, &each].map(|name| raw_value(name, data_type(dtype), &sizes)).to_vec();
    let mut attributes = vec![graph_attr("body", whole), int("num_scan_inputs", 1)];
    if g.c.flag() {
        attributes.push(kiln::loaders::onnx::make::ints("scan_input_directions", &[1]));
    }
    if g.c.flag() {
        attributes.push(kiln::loaders::onnx::make::ints("scan_output_directions", &[1]));
    }
    g.add("Scan", &[Some(state), Some(x)], 2, attributes, rounding(dtype)).map(drop)
}

pub(super) fn sequence(g: &mut Grower<'_>) -> Option<()> {
    let x = g.any(&[DType::F32, DType::F32, DType::I64], 1..=3);
    let (dtype, dims) = (g.dtype(x), g.dims(x));
    let list = if g.c.flag() {
        let (_, axis) = g.axis(dims.len());
        let keep = g.c.below(2) as i64;
        g.one("SplitToSequence", &[x], vec![int("axis", axis), int("keepdims", keep)], Rounding::Exact)?
    } else {
        let y = g.find(|t| t.dtype() == dtype && t.dims() == dims).unwrap_or(x);
        let made = g.one("SequenceConstruct", &[x, y], vec![], Rounding::Exact)?;
        match g.c.below(3) {
            0 => g.one("SequenceInsert", &[made, y], vec![], Rounding::Exact)?,
            1 => {
                let at = g.param(Tensor::scalar(-1i64));
                g.one("SequenceErase", &[made, at], vec![], Rounding::Exact)?
            }
            _ => made,
        }
    };
    match g.c.below(3) {
        0 => g.one("SequenceLength", &[list], vec![], Rounding::Exact).map(drop),
        1 => {
            let at = g.param(Tensor::scalar(0i64));
            g.one("SequenceAt", &[list, at], vec![], Rounding::Exact).map(drop)
        }
        _ => {
            let attributes = vec![int("axis", 0), int("new_axis", g.c.below(2) as i64)];
            g.one("ConcatFromSequence", &[list], attributes, Rounding::Exact).map(drop)
        }
    }
}

pub(super) fn optional(g: &mut Grower<'_>) -> Option<()> {
    if g.opset < 18 {
        return None;
    }
    let x = g.any(MOVED, 0..=3);
    let held = g.one("Optional", &[x], vec![], Rounding::Exact)?;
    let op = g.c.of(&["OptionalHasElement", "OptionalGetElement"]);
    g.one(op, &[held], vec![], Rounding::Exact).map(drop)
}
