//! Models as real exporters leave them: legal by a hair or not at all, and all of them must load and compute.
//!
//! `cargo xtask differential --untidy` compares each with onnxruntime, which runs the same file, or where it refuses that,
//! what the file means, spelled as the standard wants it.

use kiln::ir::{DType, Tensor};
use kiln::loaders::onnx::make::{
    float, graph, graph_attr, int, ints, model, node, opset, reference, untyped, value,
};
use kiln::loaders::onnx::proto::{
    FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, attribute_type,
};
use kiln::loaders::onnx::tensor::tensor_proto;

/// A model that is not tidy.
pub struct Untidy {
    /// What is wrong with it.
    pub name: String,
    /// The file.
    pub model: ModelProto,
    /// The same in good order, where onnxruntime does not take the file.
    pub tidy: Option<ModelProto>,
    /// Inputs by name.
    pub inputs: Vec<(String, Tensor)>,
}

/// The opset of models whose opset does not matter.
const OPSET: i64 = 17;

/// All models.
pub fn all() -> Vec<Untidy> {
    let mut all = vec![
        out_of_order(),
        node_names(),
        clashing_names(),
        contributed_without_domain(),
        wrong_shapes(),
        defaults(),
        functions(),
        branches_of_other_rank(),
        sequences(),
        optionals(),
    ];
    all.extend([1, 5, 6, 7, 9, 11, 13, 15, 18, 20, 21, 22, 23, 24, 25, 26, 27, 28].map(opsets));
    all
}

fn x(dims: &[usize]) -> (String, Tensor) {
    let values: Vec<f32> = (0..dims.iter().product()).map(|i| i as f32 / 2.0 - 2.0).collect();
    ("x".to_owned(), Tensor::from_slice(dims, &values).expect("as many elements as dims say"))
}

fn constant(name: &str, dims: &[usize], values: &[f32]) -> TensorProto {
    tensor_proto(name, &Tensor::from_slice(dims, values).expect("as many elements as dims say"))
}

/// A graph of one input `x` and the output `y`.
fn plain(nodes: Vec<NodeProto>, constants: Vec<TensorProto>) -> GraphProto {
    let mut g = graph(nodes, vec![value("x", DType::F32, &[2, 3])], &[]);
    g.output = vec![value("y", DType::F32, &[-1, -2])];
    g.initializer = constants;
    g
}

fn case(name: &str, nodes: Vec<NodeProto>, constants: Vec<TensorProto>) -> Untidy {
    Untidy {
        name: name.to_owned(),
        model: model(OPSET, plain(nodes, constants)),
        tidy: None,
        inputs: vec![x(&[2, 3])],
    }
}

fn out_of_order() -> Untidy {
    let mut nodes = vec![
        node("Relu", &["x"], &["a"], vec![]),
        node("Add", &["a", "w"], &["b"], vec![]),
        node("Mul", &["a", "b"], &["c"], vec![]),
        node("Tanh", &["c"], &["y"], vec![]),
    ];
    nodes.reverse();
    case("nodes out of order", nodes, vec![constant("w", &[3], &[1.0, -1.0, 0.5])])
}

fn node_names() -> Untidy {
    let nodes = vec![
        node("Neg", &["x"], &["a"], vec![]),
        node("Abs", &["a"], &["b"], vec![]),
        node("Sqrt", &["b"], &["c"], vec![]),
        node("Add", &["c", "x"], &["y"], vec![]),
    ];
    let mut found = case("duplicate and empty node names", nodes, vec![]);
    found.tidy = Some(found.model.clone());
    let nodes = found.model.graph.iter_mut().flat_map(|g| &mut g.node);
    nodes.zip(["same", "same", "", ""]).for_each(|(node, name)| node.name = name.to_owned());
    found
}

fn clashing_names() -> Untidy {
    // Nodes are named as values are, values as operators, and the branches' values have each other's names.
    let branch = |op: &str| {
        let nodes = vec![node("Add", &["Relu", "Relu"], &["t"], vec![]), node(op, &["t"], &["r"], vec![])];
        let mut g = graph(nodes, vec![], &["r"]);
        g.output = vec![value("r", DType::F32, &[2, 3])];
        g
    };
    let branches = vec![graph_attr("then_branch", branch("Neg")), graph_attr("else_branch", branch("Exp"))];
    let mut nodes = vec![node("Relu", &["x"], &["Relu"], vec![]), node("If", &["flag"], &["y"], branches)];
    nodes[0].name = "y".to_owned();
    nodes[1].name = "x".to_owned();
    let flag = tensor_proto("flag", &Tensor::from_bools(&[], &[true]).expect("one element"));
    case("clashing names of values and nodes", nodes, vec![flag])
}

fn contributed_without_domain() -> Untidy {
    let spelled = |domain: &str| {
        let mut nodes = vec![
            node("BiasGelu", &["x", "w"], &["a"], vec![]),
            node("FusedMatMul", &["a", "m"], &["y"], vec![float("alpha", 0.5)]),
        ];
        nodes.iter_mut().for_each(|n| n.domain = domain.to_owned());
        let constants = vec![
            constant("w", &[3], &[0.5, -0.5, 0.25]),
            constant("m", &[3, 2], &[1.0, 2.0, -1.0, 0.5, 0.25, 3.0]),
        ];
        let mut m = model(OPSET, plain(nodes, constants));
        if !domain.is_empty() {
            m.opset_import.push(opset(domain, 1));
        }
        m
    };
    Untidy {
        name: "contributed operators in the default domain".to_owned(),
        model: spelled(""),
        tidy: Some(spelled("com.microsoft")),
        inputs: vec![x(&[2, 3])],
    }
}

fn wrong_shapes() -> Untidy {
    let nodes = vec![
        node("Transpose", &["x"], &["a"], vec![ints("perm", &[1, 0])]),
        node("Exp", &["a"], &["y"], vec![]),
    ];
    let tidy = model(OPSET, plain(nodes.clone(), vec![]));
    let mut wrong = tidy.clone();
    if let Some(g) = &mut wrong.graph {
        g.value_info = vec![value("a", DType::F32, &[2, 3])];
        g.output = vec![value("y", DType::F32, &[7, 7, 7])];
    }
    Untidy {
        name: "wrong declared shapes".to_owned(),
        model: wrong,
        tidy: Some(tidy),
        inputs: vec![x(&[2, 3])],
    }
}

fn defaults() -> Untidy {
    let mut found = case(
        "initializers that are also inputs",
        vec![node("Mul", &["x", "w"], &["a"], vec![]), node("Add", &["a", "b"], &["y"], vec![])],
        vec![constant("w", &[3], &[1.0, 2.0, 3.0]), constant("b", &[2, 1], &[0.5, -0.5])],
    );
    if let Some(g) = &mut found.model.graph {
        g.input.push(value("w", DType::F32, &[3]));
        g.input.push(value("b", DType::F32, &[2, 1]));
    }
    found.model.ir_version = 3;
    found.model.opset_import = vec![opset("", 8)];
    found
}

fn functions() -> Untidy {
    let body = vec![
        node("LeakyRelu", &["p"], &["t"], vec![reference("alpha", "slope", attribute_type::FLOAT)]),
        node("Mul", &["t", "p"], &["q"], vec![]),
    ];
    let function = |name: &str, node: Vec<NodeProto>| FunctionProto {
        name: name.to_owned(),
        domain: "local".to_owned(),
        input: vec!["p".to_owned()],
        output: vec!["q".to_owned()],
        attribute: vec!["slope".to_owned()],
        node,
        opset_import: vec![opset("", OPSET), opset("local", 1)],
        ..FunctionProto::default()
    };
    let call = |from: &str, to: &str, name: &str, slope| NodeProto {
        domain: "local".to_owned(),
        ..node(name, &[from], &[to], vec![slope])
    };
    let passed = reference("slope", "slope", attribute_type::FLOAT);
    let outer = vec![call("p", "t", "Inner", passed), node("Neg", &["t"], &["q"], vec![])];
    let nodes =
        vec![call("x", "a", "Outer", float("slope", 0.25)), call("a", "y", "Inner", float("slope", 0.5))];
    let mut m = model(OPSET, plain(nodes, vec![]));
    m.opset_import.push(opset("local", 1));
    m.functions = vec![function("Outer", outer), function("Inner", body)];
    Untidy {
        name: "functions that call each other".to_owned(),
        model: m,
        tidy: None,
        inputs: vec![x(&[2, 3])],
    }
}

fn branches_of_other_rank() -> Untidy {
    let branch = |nodes: Vec<NodeProto>, constants: Vec<TensorProto>| {
        let mut g = graph(nodes, vec![], &["r"]);
        g.output = vec![untyped("r")];
        g.output[0].r#type = kiln::loaders::onnx::make::tensor_value("r", 1, None).r#type;
        g.initializer = constants;
        g
    };
    let flat = tensor_proto("s", &Tensor::ints(&[-1]));
    let branches = vec![
        graph_attr("then_branch", branch(vec![node("Reshape", &["x", "s"], &["r"], vec![])], vec![flat])),
        graph_attr("else_branch", branch(vec![node("Neg", &["x"], &["r"], vec![])], vec![])),
    ];
    let zero = tensor_proto("zero", &Tensor::scalar(0.0f32));
    let mut found = case(
        "branches of different rank",
        vec![
            node("ReduceMax", &["x"], &["m"], vec![int("keepdims", 0)]),
            node("Greater", &["m", "zero"], &["flag"], vec![]),
            node("If", &["flag"], &["t"], branches),
            node("Abs", &["t"], &["y"], vec![]),
        ],
        vec![zero],
    );
    if let Some(g) = &mut found.model.graph {
        g.output = vec![kiln::loaders::onnx::make::tensor_value("y", 1, None)];
    }
    found
}

fn sequences() -> Untidy {
    let at = tensor_proto("at", &Tensor::scalar(-1i64));
    case(
        "sequences",
        vec![
            node("SplitToSequence", &["x"], &["s"], vec![int("axis", 1), int("keepdims", 0)]),
            node("SequenceAt", &["s", "at"], &["last"], vec![]),
            node("SequenceInsert", &["s", "last"], &["longer"], vec![]),
            node("ConcatFromSequence", &["longer"], &["y"], vec![int("axis", 1), int("new_axis", 1)]),
        ],
        vec![at],
    )
}

fn optionals() -> Untidy {
    let mut found = case(
        "optionals",
        vec![
            node("Optional", &["x"], &["o"], vec![]),
            node("OptionalHasElement", &["o"], &["has"], vec![]),
            node("OptionalGetElement", &["o"], &["v"], vec![]),
            node("Cast", &["has"], &["one"], vec![int("to", 1)]),
            node("Add", &["v", "one"], &["y"], vec![]),
        ],
        vec![],
    );
    found.model.opset_import = vec![opset("", 18)];
    found
}

/// The same product, sum, reshape and mean, as each opset spells them.
fn opsets(version: i64) -> Untidy {
    let spelled = |version: i64| {
        let mut sum = node("Add", &["p", "b"], &["s"], vec![]);
        let mut constants = vec![
            constant("w", &[3, 2], &[1.0, -2.0, 0.5, 3.0, 0.25, -1.0]),
            constant("b", &[2], &[0.5, -0.5]),
        ];
        if version < 7 {
            sum.attribute = vec![int("broadcast", 1), int("axis", 1)];
        }
        let mut shape = node("Reshape", &["s", "shape"], &["r"], vec![]);
        if version < 5 {
            shape = node("Reshape", &["s"], &["r"], vec![ints("shape", &[4, 1])]);
        } else {
            constants.push(tensor_proto("shape", &Tensor::ints(&[4, 1])));
        }
        let mut mean = node("ReduceMean", &["r"], &["m"], vec![ints("axes", &[0]), int("keepdims", 1)]);
        if version >= 18 {
            mean = node("ReduceMean", &["r", "axes"], &["m"], vec![int("keepdims", 1)]);
            constants.push(tensor_proto("axes", &Tensor::ints(&[0])));
        }
        let mut apart = node("Sub", &["r", "m"], &["y"], vec![]);
        if version < 7 {
            apart.attribute = vec![int("broadcast", 1)];
        }
        let nodes = vec![node("MatMul", &["x", "w"], &["p"], vec![]), sum, shape, mean, apart];
        let mut m = model(version, plain(nodes, constants));
        // Constants are inputs as well before IR version 4.
        m.ir_version = if version < 9 { 3 } else { 8 };
        if let Some(g) = m.graph.as_mut().filter(|_| version < 9) {
            let declared = g
                .initializer
                .iter()
                .map(|t| kiln::loaders::onnx::make::raw_value(&t.name, t.data_type, &t.dims));
            g.input.extend(declared.collect::<Vec<_>>());
        }
        m
    };
    Untidy {
        name: format!("opset {version}"),
        model: spelled(version),
        tidy: Some(spelled(OPSET)),
        inputs: vec![x(&[2, 3])],
    }
}
