//! Graphs and functions that do not hold together.

use bytes::Bytes;
use kiln::ir::DType;
use kiln::loaders::onnx::proto::*;
use prost::Message;

use super::Hostile;
use super::build::*;

/// A function of one parameter and one result.
fn function(name: &str, nodes: Vec<NodeProto>) -> FunctionProto {
    FunctionProto {
        name: name.into(),
        domain: "f".into(),
        input: vec!["x".into()],
        output: vec!["y".into()],
        node: nodes,
        opset_import: vec![opset("", 21), opset("f", 1)],
        ..FunctionProto::default()
    }
}

/// A call of a function.
fn call(name: &str, input: &str, output: &str) -> NodeProto {
    NodeProto { domain: "f".into(), ..node(name, &[input], &[output], vec![]) }
}

/// A model that calls the first of the functions.
fn calling(name: &str, functions: Vec<FunctionProto>) -> Hostile {
    let first = functions.first().map_or(String::new(), |f| f.name.clone());
    let graph = graph(vec![call(&first, "x", "y")], vec![floats("x", &[2])], vec![], &["y"]);
    let mut model = model(graph);
    model.opset_import.push(opset("f", 1));
    model.functions = functions;
    Hostile::new(name, model.encode_to_vec())
}

/// A model of these nodes over an f32 input `x` `[2, 3]` with the output `y`.
fn nodes(name: &str, nodes: Vec<NodeProto>) -> Hostile {
    Hostile::new(name, encoded(graph(nodes, vec![floats("x", &[2, 3])], vec![], &["y"])))
}

/// Derivatives of derivatives, each of which has several times as many nodes as the one before.
fn gradients_of_gradients() -> Hostile {
    const TRAINING: &str = "ai.onnx.preview.training";
    let mut all = vec![node("Tanh", &["x"], &["y0"], vec![])];
    for i in 0..40 {
        let names = vec![Bytes::from_static(b"x")];
        let xs = AttributeProto {
            name: "xs".into(),
            r#type: attribute_type::STRINGS,
            strings: names,
            ..Default::default()
        };
        let of = string("y", &format!("y{i}"));
        let gradient = node("Gradient", &["x"], &[&format!("y{}", i + 1)], vec![xs, of]);
        all.push(NodeProto { domain: TRAINING.into(), ..gradient });
    }
    let mut model = model(graph(all, vec![floats("x", &[2, 3])], vec![], &["y40"]));
    model.opset_import.push(opset(TRAINING, 1));
    Hostile::new("gradients-of-gradients", model.encode_to_vec())
}

fn relu(input: &str, output: &str) -> NodeProto {
    node("Relu", &[input], &[output], vec![])
}

pub fn files() -> Vec<Hostile> {
    let mut files = vec![
        Hostile::new("no-graph", ModelProto { graph: None, ..sound() }.encode_to_vec()),
        nodes("cycle-of-1", vec![relu("y", "y")]),
        nodes("cycle-of-2", vec![relu("a", "y"), relu("y", "a")]),
        nodes("cycle-of-100", {
            let name = |i: usize| if i == 0 { "y".to_owned() } else { format!("v{}", i % 100) };
            (0..100).map(|i| relu(&name((i + 1) % 100), &name(i))).collect()
        }),
        nodes("cycle-of-50000", {
            let name = |i: usize| if i == 0 { "y".to_owned() } else { format!("v{i}") };
            (0..50_000).map(|i| relu(&name((i + 1) % 50_000), &name(i))).collect()
        }),
        nodes("operand-that-nothing-defines", vec![relu("nothing", "y")]),
        nodes("output-that-nothing-defines", vec![relu("x", "z")]),
        nodes("unknown-operator", vec![node("Frobnicate", &["x"], &["y"], vec![])]),
        nodes("empty-operator", vec![node("", &["x"], &["y"], vec![])]),
        nodes("unknown-domain", vec![NodeProto { domain: "nowhere".into(), ..relu("x", "y") }]),
        nodes("no-operands", vec![node("Relu", &[], &["y"], vec![])]),
        nodes("empty-operand", vec![node("Relu", &[""], &["y"], vec![])]),
        nodes("result-that-is-none", vec![node("Relu", &["x"], &["a", "y"], vec![])]),
    ];
    let mut no_opset = sound();
    no_opset.opset_import = vec![opset("other", 1)];
    files.push(Hostile::new("no-opset-of-the-domain", no_opset.encode_to_vec()));
    functions(&mut files);
    subgraphs(&mut files);
    inputs(&mut files);
    names(&mut files);
    files
}

fn functions(files: &mut Vec<Hostile>) {
    files.push(calling("function-calls-itself", vec![function("a", vec![call("a", "x", "y")])]));
    files.push(calling(
        "functions-call-each-other",
        vec![function("a", vec![call("b", "x", "y")]), function("b", vec![call("a", "x", "y")])],
    ));
    files.push(calling(
        "function-calls-itself-in-a-branch",
        vec![function(
            "a",
            vec![{
                let branch = |to: &str| graph(vec![call("a", "x", to)], vec![], vec![], &[to]);
                let attributes =
                    vec![graph_attr("then_branch", branch("p")), graph_attr("else_branch", branch("q"))];
                node("If", &["x"], &["y"], attributes)
            }],
        )],
    ));
    let chain = |length: usize| {
        let link = |i: usize| function(&format!("f{i}"), vec![call(&format!("f{}", i + 1), "x", "y")]);
        let mut all: Vec<FunctionProto> = (0..length).map(link).collect();
        all.push(function(&format!("f{length}"), vec![relu("x", "y")]));
        all
    };
    files.push(calling("function-chain-of-100", chain(100)));
    files.push(calling("function-chain-of-3000", chain(3_000)));
    // 10^18 nodes when inlined.
    let bomb: Vec<FunctionProto> = (0..18)
        .map(|level| {
            let name = |i: usize| {
                if i == 0 {
                    "x".into()
                } else if i == 10 {
                    "y".into()
                } else {
                    format!("v{i}")
                }
            };
            let inner = |i: usize| match level {
                17 => relu(&name(i), &name(i + 1)),
                _ => call(&format!("f{}", level + 1), &name(i), &name(i + 1)),
            };
            function(&format!("f{level}"), (0..10).map(inner).collect())
        })
        .collect();
    files.push(calling("function-bomb", bomb));
    let twice = || function("a", vec![relu("x", "y")]);
    files.push(calling("function-defined-twice", vec![twice(), twice()]));
    files.push(calling("function-without-its-result", vec![function("a", vec![relu("x", "z")])]));
    files.push(calling("function-with-a-cycle", vec![function("a", vec![relu("y", "y")])]));
    files.push(calling("function-of-outer-names", vec![function("a", vec![relu("outer", "y")])]));
    let none = FunctionProto { input: vec![], ..twice() };
    files.push(calling("function-of-no-parameters", vec![none]));
    let referring = AttributeProto { ref_attr_name: "axis".into(), ..int("axis", 0) };
    let softmax = node("Softmax", &["x"], &["y"], vec![AttributeProto { i: None, ..referring }]);
    let bad_axis = AttributeProto { i: Some(99), ..int("axis", 99) };
    let with_default = FunctionProto { attribute_proto: vec![bad_axis], ..function("a", vec![softmax]) };
    files.push(calling("function-attribute-out-of-range", vec![with_default]));
}

/// `If` in `If`, so many levels deep.
fn branches(depth: usize) -> NodeProto {
    let mut inner = relu("x", "y");
    for _ in 0..depth {
        let branch = graph(vec![inner], vec![], vec![], &["y"]);
        let attributes = vec![
            graph_attr("then_branch", branch.clone()),
            graph_attr("else_branch", graph(vec![relu("x", "y")], vec![], vec![], &["y"])),
        ];
        inner = node("If", &["c"], &["y"], attributes);
    }
    inner
}

fn subgraphs(files: &mut Vec<Hostile>) {
    let over = |node: NodeProto| {
        let inputs = vec![floats("x", &[2, 3]), value("c", DType::Bool, &[]), value("n", DType::I64, &[])];
        encoded(graph(vec![node], inputs, vec![], &["y"]))
    };
    let mut push = |name: &str, node: NodeProto| files.push(Hostile::new(name, over(node)));
    push("branches-70-deep", branches(70));
    let good = || graph(vec![relu("x", "z")], vec![], vec![], &["z"]);
    let both = |a, b| vec![graph_attr("then_branch", a), graph_attr("else_branch", b)];
    push("if-without-branches", node("If", &["c"], &["y"], vec![]));
    push("if-with-one-branch", node("If", &["c"], &["y"], vec![graph_attr("then_branch", good())]));
    push("if-on-floats", node("If", &["x"], &["y"], both(good(), good())));
    push("if-without-condition", node("If", &[], &["y"], both(good(), good())));
    push("if-of-more-results", node("If", &["c"], &["y", "w"], both(good(), good())));
    let empty = graph(vec![], vec![], vec![], &[]);
    push("if-with-an-empty-branch", node("If", &["c"], &["y"], both(good(), empty)));
    let number = graph(vec![node("Shape", &["x"], &["z"], vec![])], vec![], vec![], &["z"]);
    push("if-of-two-dtypes", node("If", &["c"], &["y"], both(good(), number)));
    let undefined = graph(vec![relu("nothing", "z")], vec![], vec![], &["z"]);
    push("if-with-undefined-names", node("If", &["c"], &["y"], both(good(), undefined)));
    let cyclic = graph(vec![relu("z", "z")], vec![], vec![], &["z"]);
    push("if-with-a-cycle", node("If", &["c"], &["y"], both(good(), cyclic)));
    let body = |nodes, outputs: &[&str]| {
        let inputs = vec![value("i", DType::I64, &[]), value("k", DType::Bool, &[]), floats("v", &[2, 3])];
        vec![graph_attr("body", graph(nodes, inputs, vec![], outputs))]
    };
    let step = || vec![relu("v", "w"), node("Identity", &["k"], &["l"], vec![])];
    push("loop-without-body", node("Loop", &["n", "c", "x"], &["y"], vec![]));
    push("loop-body-without-condition", node("Loop", &["n", "c", "x"], &["y"], body(step(), &["w"])));
    push("loop-body-of-no-results", node("Loop", &["n", "c", "x"], &["y"], body(step(), &[])));
    push("loop-of-more-values", node("Loop", &["n", "c", "x", "x", "x"], &["y"], body(step(), &["l", "w"])));
    push("loop-condition-of-floats", node("Loop", &["n", "x", "x"], &["y"], body(step(), &["l", "w"])));
    push("scan-without-body", node("Scan", &["x"], &["y"], vec![int("num_scan_inputs", 1)]));
    push("scan-of-negative-inputs", {
        let attributes = vec![int("num_scan_inputs", -5), graph_attr("body", good())];
        node("Scan", &["x"], &["y"], attributes)
    });
    push("scan-of-too-many-inputs", {
        let attributes = vec![int("num_scan_inputs", i64::MAX), graph_attr("body", good())];
        node("Scan", &["x"], &["y"], attributes)
    });
    // Loops without end: the condition stays true, and there is no trip count.
    let endless = node(
        "Loop",
        &["", "", "x"],
        &["y"],
        body(
            {
                let truth = TensorProto { data_type: 9, int32_data: vec![1], ..TensorProto::default() };
                vec![relu("v", "w"), node("Constant", &[], &["l"], vec![tensor_attr("value", truth)])]
            },
            &["l", "w"],
        ),
    );
    push("endless-loop", endless.clone());
    let growing = NodeProto { output: vec!["a".into(), "y".into()], ..endless };
    let mut growing = growing;
    if let Some(g) = growing.attribute.iter_mut().find_map(|a| a.g.as_mut()) {
        g.output.push(untyped("w"));
    }
    push("endless-loop-that-keeps-results", growing);
}

fn inputs(files: &mut Vec<Hostile>) {
    let mut push = |name: &str, input: ValueInfoProto| {
        let graph = graph(vec![relu("x", "y")], vec![input], vec![], &["y"]);
        files.push(Hostile::new(name, encoded(graph)));
    };
    push("input-without-type", untyped("x"));
    push("input-of-no-kind", ValueInfoProto { r#type: Some(TypeProto { value: None }), ..untyped("x") });
    push("input-of-dtype-0", raw_value("x", 0, &[2]));
    push("input-of-dtype-99", raw_value("x", 99, &[2]));
    push("input-of-dtype-minus-1", raw_value("x", -1, &[2]));
    push("input-of-size-2-62", floats("x", &[1 << 62]));
    push("input-of-overflowing-size", floats("x", &[1 << 40, 1 << 40]));
    push("input-of-the-largest-size", floats("x", &[i64::MAX, i64::MAX, i64::MAX]));
    push("input-of-text", value("x", DType::String, &[2]));
    let element = |ty: TypeProto| ElementTypeProto { elem_type: Some(Box::new(ty)) };
    let sequence = TypeValue::Sequence(Box::new(element(TypeProto { value: None })));
    push(
        "sequence-of-nothing",
        ValueInfoProto { r#type: Some(TypeProto { value: Some(sequence) }), ..untyped("x") },
    );
    let map = MapTypeProto { key_type: 7, value_type: None };
    let map = TypeValue::Map(Box::new(map));
    push("map-input", ValueInfoProto { r#type: Some(TypeProto { value: Some(map) }), ..untyped("x") });
}

fn names(files: &mut Vec<Hostile>) {
    let twice = graph(vec![relu("x", "y")], vec![floats("x", &[2]), floats("x", &[3])], vec![], &["y"]);
    files.push(Hostile::new("input-named-twice", encoded(twice)));
    let constants = vec![longs("w", &[1]), longs("w", &[2])];
    let twice = graph(vec![node("Add", &["w", "w"], &["y"], vec![])], vec![], constants, &["y"]);
    files.push(Hostile::new("initializer-named-twice", encoded(twice)));
    // A name of one megabyte, in an error message.
    let long = "n".repeat(1 << 20);
    files.push(nodes("name-of-a-megabyte", vec![relu(&long, "y")]));
    files.push(nodes("operator-of-a-megabyte", vec![node(&long, &["x"], &["y"], vec![])]));
    files.push(gradients_of_gradients());
    // Every one of the inlined nodes would have the name.
    let mut named = relu("x", "y");
    named.name = "n".repeat(1 << 20);
    let mut calls: Vec<NodeProto> = (0..50_000).map(|i| call("long", "x", &format!("c{i}"))).collect();
    calls.push(node("Frobnicate", &["x"], &["y"], vec![]));
    let mut often = model(graph(calls, vec![floats("x", &[2])], vec![], &["y"]));
    often.opset_import.push(opset("f", 1));
    often.functions = vec![function("long", vec![named])];
    files.push(Hostile::new("name-of-a-megabyte-inlined-often", often.encode_to_vec()));
    let control = "\u{1b}[2J\u{202e}\0\r\n";
    files.push(nodes("operator-of-control-characters", vec![node(control, &["x"], &["y"], vec![])]));
    let many = (0..5_000).map(|i| node("Frobnicate", &["x"], &[&format!("y{i}")], vec![])).collect();
    files.push(nodes("many-unknown-operators", many));
}
