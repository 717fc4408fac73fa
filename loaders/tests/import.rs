//! Names, order, functions, control flow, opset adapters, options and messages of the ONNX importer.

mod common;

use common::*;
use kiln_ir::{DType, Dim, Tensor};
use kiln_loaders::onnx::proto::*;
use kiln_loaders::{IssueKind, LoadError, LoadOptions};

fn x3() -> Vec<ValueInfoProto> {
    vec![value("x", DType::F32, &[3])]
}

#[test]
fn nodes_out_of_order_are_sorted_and_cycles_are_reported() {
    let nodes = vec![node("Neg", &["a"], &["y"], vec![]), node("Relu", &["x"], &["a"], vec![])];
    let y = run(&model(18, graph(nodes, x3(), &["y"])), &[f32s(&[3], &[1.0, -2.0, 3.0])]);
    assert_eq!(y[0], f32s(&[3], &[-1.0, -0.0, -3.0]));

    let nodes = vec![
        node("Add", &["x", "b"], &["a"], vec![]),
        node("Neg", &["a"], &["b"], vec![]),
        node("Relu", &["b"], &["y"], vec![]),
    ];
    let found = issues(&model(18, graph(nodes, x3(), &["y"])));
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found.iter().all(|i| i.reason.contains("cycle")), "{found:?}");
}

#[test]
fn every_problem_is_listed_with_its_place() {
    let inner = graph(vec![node("Frobnicate", &["x"], &["z"], vec![])], vec![], &["z"]);
    let mut foreign = node("Wibble", &["x"], &["c"], vec![]);
    foreign.domain = "org.example".into();
    let nodes = vec![
        node("NoSuchOp", &["x"], &["a"], vec![]),
        foreign,
        node("Relu", &["a"], &["d"], vec![]),
        node("Add", &["x", "missing"], &["e"], vec![]),
        node("Concat", &["x", "x"], &["f"], vec![string("axis", "zero")]),
        node(
            "If",
            &["cond"],
            &["g"],
            vec![graph_attr("then_branch", inner.clone()), graph_attr("else_branch", inner)],
        ),
    ];
    let mut inputs = x3();
    inputs.push(value("cond", DType::Bool, &[]));
    let mut m = model(17, graph(nodes, inputs, &["d", "g"]));
    m.opset_import.push(OperatorSetIdProto { domain: "org.example".into(), version: 3 });
    let found = issues(&m);
    let at = |node: &str| {
        found.iter().find(|i| i.origin.node == node).unwrap_or_else(|| panic!("{node}: {found:?}"))
    };
    assert_eq!(at("NoSuchOp_a").kind, IssueKind::Unsupported);
    assert_eq!((at("NoSuchOp_a").domain.as_str(), at("NoSuchOp_a").opset), ("ai.onnx", 17));
    assert_eq!((at("Wibble_c").domain.as_str(), at("Wibble_c").opset), ("org.example", 3));
    assert!(at("Add_e").reason.contains("`missing`"), "{}", at("Add_e").reason);
    assert!(at("Concat_f").reason.contains("`axis` must be an integer"), "{}", at("Concat_f").reason);
    let nested: Vec<_> = found.iter().filter(|i| i.origin.op == "Frobnicate").collect();
    assert_eq!(nested.len(), 2, "both branches are looked at: {found:?}");
    assert_eq!(nested[0].origin.path, "If_g/then");
    assert!(!found.iter().any(|i| i.origin.node == "Relu_d"), "users of a failed node are not blamed");
    let text = import(&m).unwrap_err().to_string();
    assert!(text.starts_with("/nowhere/test.onnx: 6 nodes cannot be loaded:"), "{text}");
    assert!(text.contains("`If_g/then/Frobnicate_z`"), "{text}");
}

fn function(name: &str, inputs: &[&str], outputs: &[&str], nodes: Vec<NodeProto>) -> FunctionProto {
    FunctionProto {
        name: name.into(),
        domain: "local".into(),
        input: inputs.iter().map(|&s| s.into()).collect(),
        output: outputs.iter().map(|&s| s.into()).collect(),
        node: nodes,
        opset_import: vec![
            OperatorSetIdProto { domain: String::new(), version: 18 },
            OperatorSetIdProto { domain: "local".into(), version: 1 },
        ],
        ..FunctionProto::default()
    }
}

fn local(mut node: NodeProto) -> NodeProto {
    node.domain = "local".into();
    node
}

fn with_functions(graph: GraphProto, functions: Vec<FunctionProto>) -> ModelProto {
    let mut m = model(18, graph);
    m.opset_import.push(OperatorSetIdProto { domain: "local".into(), version: 1 });
    m.functions = functions;
    m
}

#[test]
fn functions_are_inlined_with_attributes_defaults_and_absent_operands() {
    let mut leaky = function(
        "Leaky",
        &["x", "limit"],
        &["y"],
        vec![
            node("LeakyRelu", &["x"], &["t"], vec![reference("alpha", "slope", attribute_type::FLOAT)]),
            node("Clip", &["t", "", "limit"], &["y"], vec![]),
        ],
    );
    leaky.attribute_proto.push(float("slope", 0.5));
    let outer = function(
        "Outer",
        &["x"],
        &["y"],
        vec![
            local(node("Leaky", &["x"], &["a"], vec![reference("slope", "s", attribute_type::FLOAT)])),
            local(node("Leaky", &["a"], &["y"], vec![])),
        ],
    );
    let g = graph(vec![local(node("Outer", &["x"], &["y"], vec![float("s", 0.1)]))], x3(), &["y"]);
    let y = run(&with_functions(g, vec![leaky, outer]), &[f32s(&[3], &[-10.0, 0.0, 4.0])]);
    assert_eq!(y[0], f32s(&[3], &[-0.5, 0.0, 4.0]));
}

#[test]
fn recursive_and_too_deep_functions_are_refused() {
    let again = function("F", &["x"], &["y"], vec![local(node("F", &["x"], &["y"], vec![]))]);
    let g = || graph(vec![local(node("F", &["x"], &["y"], vec![]))], x3(), &["y"]);
    let found = issues(&with_functions(g(), vec![again]));
    assert!(found[0].reason.contains("calls itself"), "{found:?}");

    let chain = (0..3000).map(|i| {
        let next = format!("F{}", i + 1);
        let body = if i == 2999 {
            node("Relu", &["x"], &["y"], vec![])
        } else {
            local(node(&next, &["x"], &["y"], vec![]))
        };
        function(&format!("F{i}"), &["x"], &["y"], vec![body])
    });
    let g = graph(vec![local(node("F0", &["x"], &["y"], vec![]))], x3(), &["y"]);
    let found = issues(&with_functions(g, chain.collect()));
    assert!(found[0].reason.contains("nested more than"), "{found:?}");

    // Each level calls the next one twice: few bytes, 2^40 nodes.
    let bomb = (0..40).map(|i| {
        let next = format!("F{}", i + 1);
        let body = if i == 39 {
            vec![node("Relu", &["x"], &["y"], vec![])]
        } else {
            vec![local(node(&next, &["x"], &["a"], vec![])), local(node(&next, &["a"], &["y"], vec![]))]
        };
        function(&format!("F{i}"), &["x"], &["y"], body)
    });
    let g = graph(vec![local(node("F0", &["x"], &["y"], vec![]))], x3(), &["y"]);
    let mut options = LoadOptions::default();
    options.limits.nodes = Some(10_000);
    let error = import_with(&with_functions(g, bomb.collect()), &options).unwrap_err();
    assert!(matches!(error, LoadError::Limit { limit: 10_000, .. }), "{error}");
}

#[test]
fn a_raised_limit_of_nodes_holds_for_small_files_too() {
    // 2^17 nodes from a few hundred bytes.
    let doubling = (0..17).map(|i| {
        let next = format!("F{}", i + 1);
        let call = |from: &str, to: &str| match i {
            16 => node("Relu", &[from], &[to], vec![]),
            _ => local(node(&next, &[from], &[to], vec![])),
        };
        function(&format!("F{i}"), &["x"], &["y"], vec![call("x", "a"), call("a", "y")])
    });
    let g = graph(vec![local(node("F0", &["x"], &["y"], vec![]))], x3(), &["y"]);
    let m = with_functions(g, doubling.collect());
    assert!(matches!(import(&m).unwrap_err(), LoadError::Limit { limit: 65_536, .. }));
    let mut options = LoadOptions::default();
    options.limits.nodes = Some(1 << 19);
    assert!(import_with(&m, &options).is_ok());
}

#[test]
fn branches_see_values_of_all_graphs_around_them() {
    let inner = graph(vec![node("Mul", &["a", "w"], &["p"], vec![])], vec![], &["p"]);
    let zero = graph(vec![node("Sub", &["x", "x"], &["q"], vec![])], vec![], &["q"]);
    let mut nested = graph(
        vec![
            node("Add", &["x", "x"], &["a"], vec![]),
            node(
                "If",
                &["cond"],
                &["r"],
                vec![graph_attr("then_branch", inner), graph_attr("else_branch", zero.clone())],
            ),
        ],
        vec![],
        &["r"],
    );
    nested.initializer.push(init("w", &f32s(&[1], &[10.0])));
    let nodes = vec![node(
        "If",
        &["cond"],
        &["y"],
        vec![graph_attr("then_branch", nested), graph_attr("else_branch", zero)],
    )];
    let inputs = vec![value("cond", DType::Bool, &[]), value("x", DType::F32, &[3])];
    let m = model(18, graph(nodes, inputs, &["y"]));
    let x = f32s(&[3], &[1.0, 2.0, 3.0]);
    for (flag, expected) in [(true, [20.0, 40.0, 60.0]), (false, [0.0; 3])] {
        let cond = Tensor::from_bools(&[], &[flag]).unwrap();
        assert_eq!(run(&m, &[cond, x.clone()])[0], f32s(&[3], &expected));
    }
}

#[test]
fn a_loop_may_change_the_shape_of_what_it_carries() {
    let body = graph(
        vec![
            node("Identity", &["c"], &["c2"], vec![]),
            node("Concat", &["acc", "one"], &["acc2"], vec![int("axis", 0)]),
            node("ReduceSum", &["acc"], &["s"], vec![int("keepdims", 0)]),
        ],
        vec![untyped("i"), untyped("c"), untyped("acc")],
        &["c2", "acc2", "s"],
    );
    let mut g = graph(
        vec![node("Loop", &["n", "", "x"], &["y", "sums"], vec![graph_attr("body", body)])],
        vec![value("n", DType::I64, &[]), value("x", DType::F32, &[1])],
        &["y", "sums"],
    );
    g.initializer.push(init("one", &f32s(&[1], &[1.0])));
    let out = run(&model(18, g), &[Tensor::scalar(3i64), f32s(&[1], &[5.0])]);
    assert_eq!(out[0], f32s(&[4], &[5.0, 1.0, 1.0, 1.0]));
    assert_eq!(out[1], f32s(&[3], &[5.0, 6.0, 7.0]));
}

#[test]
fn a_scan_runs_over_slices_in_both_directions() {
    let body = graph(
        vec![node("Add", &["s", "x"], &["s2"], vec![]), node("Identity", &["s2"], &["o"], vec![])],
        vec![untyped("s"), untyped("x")],
        &["s2", "o"],
    );
    let attributes = vec![
        graph_attr("body", body),
        int("num_scan_inputs", 1),
        ints("scan_input_directions", &[1]),
        ints("scan_output_directions", &[1]),
    ];
    let g = graph(
        vec![node("Scan", &["s0", "xs"], &["last", "all"], attributes)],
        vec![value("s0", DType::F32, &[1]), value("xs", DType::F32, &[-1, 1])],
        &["last", "all"],
    );
    let out = run(&model(18, g), &[f32s(&[1], &[0.0]), f32s(&[3, 1], &[1.0, 2.0, 3.0])]);
    assert_eq!(out[0], f32s(&[1], &[6.0]));
    assert_eq!(out[1], f32s(&[3, 1], &[6.0, 5.0, 3.0]));
}

/// Checks one node in an old opset against an expected result.
fn check_old(opset: i64, n: NodeProto, inputs: &[(&str, Tensor)], expected: Tensor) {
    let infos = inputs.iter().map(|(name, t)| {
        let dims: Vec<i64> = t.dims().iter().map(|&d| d as i64).collect();
        value(name, t.dtype(), &dims)
    });
    let op = n.op_type.clone();
    let output = n.output[0].clone();
    let m = model(opset, graph(vec![n], infos.collect(), &[&output]));
    let tensors: Vec<Tensor> = inputs.iter().map(|(_, t)| t.clone()).collect();
    assert_eq!(run(&m, &tensors)[0], expected, "{op} of opset {opset}");
}

#[test]
fn old_opsets_keep_their_meaning() {
    let x = f32s(&[2, 3], &[1.0, -2.0, 3.0, -4.0, 5.0, -6.0]);
    let n = |op: &str, attrs: Vec<AttributeProto>| node(op, &["x"], &["y"], attrs);
    let on_x = |opset, n, expected| check_old(opset, n, &[("x", x.clone())], expected);
    on_x(1, n("Reshape", vec![ints("shape", &[3, -1])]), x.reshaped(&[3, 2]).unwrap());
    on_x(
        1,
        n("Slice", vec![ints("starts", &[1]), ints("ends", &[99]), ints("axes", &[1])]),
        f32s(&[2, 2], &[-2.0, 3.0, 5.0, -6.0]),
    );
    on_x(
        6,
        n("Clip", vec![float("min", -1.0), float("max", 2.0)]),
        f32s(&[2, 3], &[1.0, -1.0, 2.0, -1.0, 2.0, -1.0]),
    );
    on_x(11, n("Unsqueeze", vec![ints("axes", &[0])]), x.reshaped(&[1, 2, 3]).unwrap());
    on_x(11, n("ReduceSum", vec![ints("axes", &[1]), int("keepdims", 0)]), f32s(&[2], &[2.0, -5.0]));
    on_x(2, n("Split", vec![int("axis", 1), ints("split", &[1, 2])]), f32s(&[2, 1], &[1.0, -4.0]));
    on_x(
        2,
        n("Pad", vec![ints("pads", &[0, 1, 0, 0]), float("value", 9.0)]),
        f32s(&[2, 4], &[9.0, 1.0, -2.0, 3.0, 9.0, -4.0, 5.0, -6.0]),
    );
    on_x(
        1,
        n("Cast", vec![string("to", "INT32")]),
        Tensor::from_slice(&[2, 3], &[1i32, -2, 3, -4, 5, -6]).unwrap(),
    );
    on_x(1, n("TopK", vec![int("k", 1), int("axis", 1)]), f32s(&[2, 1], &[3.0, 5.0]));
    on_x(9, n("ReduceMax", vec![]), f32s(&[1, 1], &[5.0]));
    // The operand is a matrix split before axis 1, so one row has all six elements.
    check_old(
        11,
        n("Hardmax", vec![int("axis", 1)]),
        &[("x", f32s(&[1, 2, 3], &[1.0, 2.0, 3.0, 4.0, 9.0, 6.0]))],
        f32s(&[1, 2, 3], &[0.0, 0.0, 0.0, 0.0, 1.0, 0.0]),
    );
    let squeezed = f32s(&[1, 3], &[1.0, 2.0, 3.0]);
    check_old(
        5,
        n("Squeeze", vec![ints("axes", &[0])]),
        &[("x", squeezed.clone())],
        squeezed.reshaped(&[3]).unwrap(),
    );
    // Before opset 7, operand 1's axes line up from `axis` on.
    check_old(
        6,
        node("Add", &["x", "b"], &["y"], vec![int("broadcast", 1), int("axis", 0)]),
        &[("x", x.clone()), ("b", f32s(&[2], &[10.0, 20.0]))],
        f32s(&[2, 3], &[11.0, 8.0, 13.0, 16.0, 25.0, 14.0]),
    );
    check_old(
        7,
        n(
            "Upsample",
            vec![AttributeProto {
                name: "scales".into(),
                r#type: attribute_type::FLOATS,
                floats: vec![1.0, 1.0, 1.0, 2.0],
                ..Default::default()
            }],
        ),
        &[("x", f32s(&[1, 1, 1, 2], &[1.0, 2.0]))],
        f32s(&[1, 1, 1, 4], &[1.0, 1.0, 2.0, 2.0]),
    );
}

#[test]
fn shapes_and_symbols_can_be_fixed() {
    let nodes = vec![node("Add", &["x", "z"], &["y"], vec![])];
    let inputs = vec![value("x", DType::F32, &[-1, 4]), value("z", DType::F32, &[-1, -2])];
    let m = model(18, graph(nodes, inputs, &["y"]));
    let load = |shape: Option<&[i64]>, symbol: Option<(&str, i64)>| {
        let mut options = LoadOptions::default();
        if let Some(dims) = shape {
            options.shapes.insert("x".into(), dims.iter().map(|&d| Dim::known(d)).collect());
        }
        options.symbols.extend(symbol.map(|(n, v)| (n.to_owned(), v)));
        import_with(&m, &options)
    };
    let inputs = |m: kiln_ir::Module| {
        let g = m.graph(m.entries()[0]).clone();
        g.inputs().iter().map(|&v| g.ty(v).to_string()).collect::<Vec<_>>()
    };
    assert_eq!(inputs(load(None, None).unwrap()), ["f32[N1, 4]", "f32[N1, N2]"]);
    assert_eq!(inputs(load(Some(&[7, 4]), Some(("N2", 1))).unwrap()), ["f32[7, 4]", "f32[7, 1]"]);
    let error = load(Some(&[7, 5]), None).unwrap_err().to_string();
    assert!(error.contains("`x`") && error.contains("[7, 5]"), "{error}");
    let mut options = LoadOptions::default();
    options.shapes.insert("nope".into(), vec![]);
    let error = import_with(&m, &options).unwrap_err().to_string();
    assert!(error.contains("`nope`") && error.contains("`x`"), "{error}");
}

#[test]
fn initializers_that_are_inputs_are_constants_and_sparse_ones_become_dense() {
    let mut g = graph(
        vec![node("Add", &["x", "w"], &["a"], vec![]), node("Add", &["a", "s"], &["y"], vec![])],
        vec![value("x", DType::F32, &[3]), value("w", DType::F32, &[3])],
        &["y"],
    );
    g.initializer.push(init("w", &f32s(&[3], &[1.0, 2.0, 3.0])));
    g.sparse_initializer.push(SparseTensorProto {
        values: Some(init("s", &f32s(&[1], &[100.0]))),
        indices: Some(init("", &Tensor::ints(&[2]))),
        dims: vec![3],
    });
    let m = model(18, g);
    let module = import(&m).unwrap();
    assert_eq!(module.graph(module.entries()[0]).input_names(), ["x"]);
    assert_eq!(run(&m, &[f32s(&[3], &[0.0; 3])])[0], f32s(&[3], &[1.0, 2.0, 103.0]));
}

#[test]
fn wrong_declared_shapes_do_not_win() {
    let mut g = graph(vec![node("Relu", &["x"], &["y"], vec![])], x3(), &[]);
    g.output.push(value("y", DType::F32, &[77, 5]));
    let module = import(&model(18, g)).unwrap();
    let graph = module.graph(module.entries()[0]);
    assert_eq!(graph.ty(graph.outputs()[0]).to_string(), "f32[3]");
}

#[test]
fn shape_arithmetic_stays_symbolic() {
    let mut g = graph(
        vec![
            node("Shape", &["x"], &["s"], vec![]),
            node("Gather", &["s", "zero"], &["n"], vec![int("axis", 0)]),
            node("Unsqueeze", &["n", "zeros"], &["n1"], vec![]),
            node("Concat", &["n1", "rest"], &["shape"], vec![int("axis", 0)]),
            node("Reshape", &["x", "shape"], &["y"], vec![]),
        ],
        vec![value("x", DType::F32, &[-1, 2, 3])],
        &["y"],
    );
    g.initializer.push(init("zero", &Tensor::scalar(0i64)));
    g.initializer.push(init("zeros", &Tensor::ints(&[0])));
    g.initializer.push(init("rest", &Tensor::ints(&[6])));
    let module = import(&model(18, g)).unwrap();
    let graph = module.graph(module.entries()[0]);
    assert_eq!(graph.ty(graph.outputs()[0]).to_string(), "f32[N1, 6]");
}

#[test]
fn names_that_are_used_twice_are_reported() {
    let mut g = graph(vec![node("Add", &["x", "w"], &["y"], vec![])], x3(), &["y"]);
    g.initializer = vec![init("w", &f32s(&[3], &[1.0; 3])), init("w", &f32s(&[3], &[2.0; 3]))];
    let identity = || function("F", &["x"], &["y"], vec![node("Relu", &["x"], &["y"], vec![])]);
    let mut other = identity();
    other.overload = "o".into();
    let found = issues(&with_functions(g, vec![identity(), other, identity()]));
    let places: Vec<_> = found.iter().map(|i| (i.origin.op.as_str(), i.origin.node.as_str())).collect();
    assert_eq!(places, [("function", "F"), ("initializer", "w")], "{found:?}");
    assert!(found.iter().all(|i| i.reason.contains("twice")), "{found:?}");
}

#[test]
fn integers_shrink_as_numbers() {
    let u8s = |v: &[u8]| Tensor::from_slice(&[v.len()], v).unwrap();
    let n = |attrs| node("Shrink", &["x"], &["y"], attrs);
    check_old(18, n(vec![]), &[("x", u8s(&[0, 1, 200]))], u8s(&[0, 1, 200]));
    let attrs = vec![float("lambd", 1.5), float("bias", 1.0)];
    check_old(18, n(attrs.clone()), &[("x", u8s(&[0, 1, 2, 255]))], u8s(&[0, 0, 1, 254]));
    let i32s = |v: &[i32]| Tensor::from_slice(&[v.len()], v).unwrap();
    check_old(
        18,
        n(attrs),
        &[("x", i32s(&[-16_777_219, -1, 1, 16_777_219]))],
        i32s(&[-16_777_218, 0, 0, 16_777_218]),
    );
}

#[test]
fn pads_of_an_unpooling_may_be_any_integers() {
    for pads in [[i64::MAX, i64::MAX], [i64::MIN, i64::MIN], [i64::MIN, i64::MAX]] {
        let attrs = vec![ints("kernel_shape", &[2]), ints("pads", &pads)];
        let inputs = vec![value("x", DType::F32, &[1, 1, 2]), value("i", DType::I64, &[1, 1, 2])];
        let _ =
            import(&model(18, graph(vec![node("MaxUnpool", &["x", "i"], &["y"], attrs)], inputs, &["y"])));
    }
}

/// A model of one attention: one head of size 2, queries, keys, and a mask of these dims.
fn attention(keys: i64, mask: &[i64], dtype: DType, outputs: &[&str]) -> ModelProto {
    let inputs = vec![
        value("q", DType::F32, &[1, 1, 2, 2]),
        value("k", DType::F32, &[1, 1, keys, 2]),
        value("v", DType::F32, &[1, 1, keys, 2]),
        value("mask", dtype, mask),
    ];
    let used: Vec<&str> = outputs.iter().copied().filter(|o| !o.is_empty()).collect();
    model(23, graph(vec![node("Attention", &["q", "k", "v", "mask"], outputs, vec![])], inputs, &used))
}

#[test]
fn attention_is_the_same_with_and_without_its_scores() {
    let mask = Tensor::from_bools(&[2, 3], &[false, false, false, true, true, false]).unwrap();
    let q = f32s(&[1, 1, 2, 2], &[1.0, 2.0, 3.0, 4.0]);
    let k = f32s(&[1, 1, 3, 2], &[0.5, -1.0, 2.0, 0.25, 1.0, 1.0]);
    let operands = [q, k.clone(), k, mask];
    let plain = run(&attention(3, &[2, 3], DType::Bool, &["y"]), &operands);
    let shown = run(&attention(3, &[2, 3], DType::Bool, &["y", "", "", "scores"]), &operands);
    let (plain, shown) = (plain[0].to_f64s().unwrap(), shown[0].to_f64s().unwrap());
    assert_eq!(&plain[..2], &[0.0, 0.0], "a row without keys is zero");
    for (a, b) in plain.iter().zip(&shown) {
        assert!((a - b).abs() < 1e-6, "{plain:?} {shown:?}");
    }
}

#[test]
fn keys_beyond_a_shorter_mask_are_hidden_whatever_is_known_of_its_length() {
    let q = f32s(&[1, 1, 2, 2], &[1.0, 2.0, 3.0, 4.0]);
    let k = f32s(&[1, 1, 3, 2], &[0.5, -1.0, 2.0, 0.25, 1.0, 1.0]);
    let float_mask = |n: usize| f32s(&[2, n], &[0.5, -0.25, 1.0, 0.0, 0.0, 0.0][..2 * n]);
    for n in [1usize, 2, 3] {
        let bools = Tensor::from_bools(&[2, n], &[true, false, true, true, true, true][..2 * n]).unwrap();
        for mask in [float_mask(n), bools] {
            let operands = [q.clone(), k.clone(), k.clone(), mask.clone()];
            let known = n as i64;
            let expected = run(&attention(3, &[2, known], mask.dtype(), &["y"]), &operands);
            for (keys, length) in [(-1, known), (-1, -2), (3, -2), (-1, -1)] {
                if (keys, length) == (-1, -1) && n != 3 {
                    continue;
                }
                for outputs in [&["y"][..], &["y", "", "", "scores"][..]] {
                    let y = run(&attention(keys, &[2, length], mask.dtype(), outputs), &operands);
                    let (a, b) = (y[0].to_f64s().unwrap(), expected[0].to_f64s().unwrap());
                    let same = a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-6);
                    assert!(same, "{n} of {keys}, mask {length}: {a:?} {b:?}");
                }
            }
        }
    }
}

#[test]
fn two_outputs_of_one_name_are_refused() {
    let nodes = vec![node("Neg", &["x"], &["y"], vec![])];
    let found = issues(&model(18, graph(nodes, x3(), &["y", "y"])));
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].origin.node.as_str(), found[0].origin.op.as_str()), ("y", "output"));
    assert!(found[0].reason.contains("used twice"), "{found:?}");
}

#[test]
fn nodes_that_need_a_rank_take_values_of_any() {
    let open = |name: &str| vec![tensor_value(name, 1, None)];
    let ramp = |dims: &[usize]| {
        let values: Vec<f32> = (0u16..).take(dims.iter().product()).map(f32::from).collect();
        f32s(dims, &values)
    };
    let flatten = model(18, graph(vec![node("Flatten", &["x"], &["y"], vec![])], open("x"), &["y"]));
    assert_eq!(run(&flatten, &[ramp(&[2, 3, 2])])[0], ramp(&[2, 6]));
    assert_eq!(run(&flatten, &[ramp(&[4])])[0], ramp(&[4, 1]));

    let mut top = graph(vec![node("TopK", &["x", "k"], &["y", "at"], vec![])], open("x"), &["y", "at"]);
    top.initializer = vec![init("k", &Tensor::ints(&[1]))];
    let top = model(18, top);
    assert_eq!(run(&top, &[ramp(&[3])]), [f32s(&[1], &[2.0]), Tensor::ints(&[2])]);
    assert_eq!(run(&top, &[ramp(&[2, 2])])[0], f32s(&[2, 1], &[1.0, 3.0]));

    // A single rank is right where both operands are pictures.
    let mut nodes = vec![node("GlobalMaxPool", &["x"], &["a"], vec![])];
    nodes.push(node("LRN", &["a"], &["y"], vec![int("size", 3)]));
    let picture = model(18, graph(nodes, open("x"), &["y"]));
    assert_eq!(run(&picture, &[ramp(&[1, 1, 2, 2])])[0].dims(), [1, 1, 1, 1]);
}

#[test]
fn what_is_collected_over_nothing_has_sizes() {
    let inner = vec![node("Neg", &["e"], &["each"], vec![]), node("Identity", &["s"], &["next"], vec![])];
    let slices = [tensor_value("s", 1, None), tensor_value("e", 1, None)].to_vec();
    let body = graph(inner, slices, &["next", "each"]);
    let attributes = vec![graph_attr("body", body), int("num_scan_inputs", 1)];
    let dims = |names: &[&str]| Some(names.iter().map(|&name| symbolic(name)).collect());
    let inputs = vec![tensor_value("state", 1, dims(&["K"])), tensor_value("x", 1, dims(&["N", "M"]))];
    let nodes = vec![node("Scan", &["state", "x"], &["last", "all"], attributes)];
    let model = model(18, graph(nodes, inputs, &["last", "all"]));
    let outputs = run(&model, &[f32s(&[1], &[1.0]), f32s(&[0, 3], &[])]);
    assert_eq!((outputs[0].dims(), outputs[1].dims()), (&[1][..], &[0, 3][..]));
}
