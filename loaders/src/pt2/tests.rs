//! Damaged and foreign archives: typed errors, nothing else.

use std::io::{Cursor, Write};

use serde_json::{Value as Json, json};

use crate::{LoadError, LoadOptions};

/// An archive of these entries below a folder.
fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(vec![]));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in entries {
        zip.start_file(format!("net/{name}"), stored).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn load(bytes: Vec<u8>) -> Result<kiln_ir::Module, LoadError> {
    crate::load_bytes("net.pt2", bytes.into(), &LoadOptions::default())
}

fn meta(sizes: &[i64], strides: &[i64], offset: i64) -> Json {
    let list = |values: &[i64]| values.iter().map(|v| json!({"as_int": v})).collect::<Vec<_>>();
    json!({"dtype": 7, "sizes": list(sizes), "strides": list(strides), "storage_offset": {"as_int": offset},
        "layout": 7, "requires_grad": false, "device": {"type": "cpu", "index": null}})
}

/// `y = x + w`, with a weight of two floats.
fn program() -> Json {
    let tensor = |name: &str| json!({"as_tensor": {"name": name}});
    json!({
        "graph_module": {
            "graph": {
                "inputs": [tensor("w"), tensor("x")],
                "outputs": [tensor("y")],
                "nodes": [{
                    "target": "torch.ops.aten.add.Tensor",
                    "inputs": [{"name": "self", "arg": tensor("x"), "kind": 1},
                        {"name": "other", "arg": tensor("w"), "kind": 1}],
                    "outputs": [tensor("y")],
                    "metadata": {},
                    "name": "add",
                }],
                "tensor_values": {"w": meta(&[2], &[1], 0), "x": meta(&[3, 2], &[2, 1], 0)},
                "sym_int_values": {},
                "sym_bool_values": {},
            },
            "signature": {
                "input_specs": [{"parameter": {"arg": {"name": "w"}, "parameter_name": "layer.w"}},
                    {"user_input": {"arg": tensor("x")}}],
                "output_specs": [{"user_output": {"arg": tensor("y")}}],
            },
        },
        "schema_version": {"major": 8, "minor": 20},
        "range_constraints": {},
    })
}

fn weights() -> Json {
    json!({"config": {"layer.w": {"path_name": "weight_0", "is_param": true, "use_pickle": false,
        "tensor_meta": meta(&[2], &[1], 0)}}})
}

fn packed(program: &Json, weights: &Json, bytes: &[u8]) -> Vec<u8> {
    archive(&[
        ("models/model.json", program.to_string().as_bytes()),
        ("data/weights/model_weights_config.json", weights.to_string().as_bytes()),
        ("data/weights/weight_0", bytes),
        ("archive_format", b"pt2"),
    ])
}

/// Replaces the value at a JSON pointer.
fn with(mut json: Json, at: &str, value: Json) -> Json {
    *json.pointer_mut(at).unwrap() = value;
    json
}

const NODE: &str = "/graph_module/graph/nodes/0";

#[test]
fn a_sound_archive_loads_and_names_stay() {
    let module = load(packed(&program(), &weights(), &[0; 8])).unwrap();
    let graph = module.graph(module.entries()[0]);
    assert_eq!(graph.input_names(), ["x"]);
    assert_eq!(graph.output_names(), ["y"]);
}

#[test]
fn versions_other_than_5_to_8_are_refused() {
    for major in [0, 4, 9, -1, i64::MAX] {
        let program = with(program(), "/schema_version/major", json!(major));
        let error = load(packed(&program, &weights(), &[0; 8])).unwrap_err().to_string();
        assert!(error.contains("versions 5 to 8"), "{error}");
    }
    for major in 5..=8 {
        let program = with(program(), "/schema_version/major", json!(major));
        assert!(load(packed(&program, &weights(), &[0; 8])).is_ok());
    }
}

#[test]
fn truncated_archives_are_malformed() {
    let whole = packed(&program(), &weights(), &[0; 8]);
    for end in (4..whole.len()).step_by(97) {
        assert!(load(whole[..end].to_vec()).is_err());
    }
}

#[test]
fn json_of_other_types_is_malformed() {
    let changes = [
        ("/graph_module/graph/nodes", json!({})),
        ("/graph_module/graph/nodes/0/inputs", json!(7)),
        ("/graph_module/graph/nodes/0/inputs/0/arg", json!({"as_nothing": 1})),
        ("/graph_module/graph/nodes/0/inputs/0/arg", json!({"as_ints": ["a"]})),
        ("/graph_module/graph/nodes/0/target", json!(null)),
        ("/graph_module/graph/inputs", json!("w")),
        ("/graph_module/signature", json!([])),
        ("/graph_module/signature/input_specs/0", json!({"parameter": {}})),
        ("/schema_version", json!("8.20")),
    ];
    for (at, value) in changes {
        let program = with(program(), at, value);
        let result = load(packed(&program, &weights(), &[0; 8]));
        assert!(matches!(result, Err(LoadError::Malformed { .. })), "{at}: {result:?}");
    }
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    let result = load(archive(&[("models/model.json", deep.as_bytes()), ("archive_format", b"pt2")]));
    assert!(matches!(result, Err(LoadError::Malformed { .. })));
}

#[test]
fn names_that_nothing_defines_are_reported() {
    for name in ["y", "nobody"] {
        // `y` is the node's own result: a circle.
        let program = with(program(), &format!("{NODE}/inputs/1/arg"), json!({"as_tensor": {"name": name}}));
        let error = load(packed(&program, &weights(), &[0; 8])).unwrap_err();
        let LoadError::Graph { issues, .. } = &error else { panic!("{error}") };
        assert!(issues[0].reason.contains("nothing defines"), "{error}");
        assert_eq!(issues[0].origin.op, "aten.add.Tensor");
    }
}

#[test]
fn every_unsupported_node_is_listed() {
    let mut program = program();
    let node = |i: usize, name: &str| {
        json!({"target": format!("torch.ops.{name}.default"), "inputs": [],
            "outputs": [{"as_tensor": {"name": format!("z{i}")}}], "metadata": {}})
    };
    let more = vec![node(0, "aten.no_such_operator"), node(1, "mine.custom"), node(2, "aten.add")];
    program["graph_module"]["graph"]["nodes"].as_array_mut().unwrap().extend(more);
    let error = load(packed(&program, &weights(), &[0; 8])).unwrap_err();
    let LoadError::Graph { issues, .. } = &error else { panic!("{error}") };
    let ops: Vec<_> = issues.iter().map(|issue| issue.origin.op.as_str()).collect();
    assert_eq!(ops, ["aten.no_such_operator.default", "mine.custom.default", "aten.add.default"]);
}

#[test]
fn weights_stay_in_their_bytes() {
    let at = "/config/layer.w/tensor_meta";
    let bad = [
        meta(&[3], &[1], 0),
        meta(&[2], &[1], 1),
        meta(&[2], &[i64::MAX], 0),
        meta(&[i64::MAX, i64::MAX], &[1, 1], 0),
        meta(&[-2], &[1], 0),
        meta(&[2], &[-1], 1),
        meta(&[2, 1], &[1], 0),
        json!({"dtype": 99, "sizes": [], "strides": [], "storage_offset": {"as_int": 0}}),
        json!(null),
    ];
    for change in bad {
        let weights = with(weights(), at, change.clone());
        let result = load(packed(&program(), &weights, &[0; 8]));
        assert!(matches!(result, Err(LoadError::Graph { .. })), "{change}: {result:?}");
    }
    let result = load(packed(&program(), &json!({"config": {}}), &[0; 8]));
    assert!(matches!(result, Err(LoadError::Graph { .. })), "{result:?}");
    let weights = with(weights(), "/config/layer.w/path_name", json!("../weight_9"));
    assert!(matches!(load(packed(&program(), &weights, &[0; 8])), Err(LoadError::Graph { .. })));
}

#[test]
fn pickles_are_refused() {
    let weights = with(weights(), "/config/layer.w/use_pickle", json!(true));
    let error = load(packed(&program(), &weights, &[0; 8])).unwrap_err().to_string();
    assert!(error.contains("pickled"), "{error}");
    let spec =
        json!({"custom_obj": {"arg": {"name": "w", "class_fqn": "__torch__.Thing"}, "custom_obj_name": "o"}});
    let program = with(program(), "/graph_module/signature/input_specs/0", spec);
    let error = load(packed(&program, &json!({"config": {}}), &[0; 8])).unwrap_err().to_string();
    assert!(error.contains("__torch__.Thing"), "{error}");
}

#[test]
fn vast_requests_are_refused() {
    // A list of sizes that one node would make of nothing.
    let huge = [
        (
            "torch.ops.aten.split.Tensor",
            json!([["self", {"as_tensor": {"name": "x"}}], ["split_size", {"as_int": 0}]]),
        ),
        (
            "torch.ops.aten.tril_indices.default",
            json!([["row", {"as_int": i64::MAX}], ["col", {"as_int": 9}]]),
        ),
        (
            "torch.ops.aten.unbind.int",
            json!([["self", {"as_tensor": {"name": "x"}}], ["dim", {"as_int": 99}]]),
        ),
        (
            "torch.ops.aten.chunk.default",
            json!([["self", {"as_tensor": {"name": "x"}}], ["chunks", {"as_int": -1}]]),
        ),
        ("torch.ops.aten.hann_window.default", json!([["window_length", {"as_int": 1i64 << 60}]])),
    ];
    for (target, args) in huge {
        let inputs: Vec<Json> = args
            .as_array()
            .unwrap()
            .iter()
            .map(|pair| json!({"name": pair[0], "arg": pair[1], "kind": 1}))
            .collect();
        let program = with(program(), &format!("{NODE}/target"), json!(target));
        let program = with(program, &format!("{NODE}/inputs"), json!(inputs));
        assert!(load(packed(&program, &weights(), &[0; 8])).is_err(), "{target}");
    }
}

#[test]
fn writes_through_views_are_seen() {
    // v = x[0]; v.add_(w); y = x + w: the first row of `x` has `w` twice in `y`.
    let tensor = |name: &str| json!({"as_tensor": {"name": name}});
    let node = |target: &str, inputs: &[(&str, Json)], output: &str| {
        let inputs: Vec<Json> = inputs.iter().map(|(name, arg)| json!({"name": name, "arg": arg})).collect();
        json!({"target": target, "inputs": inputs, "outputs": [tensor(output)], "metadata": {}})
    };
    let mut program = program();
    let nodes = program["graph_module"]["graph"]["nodes"].as_array_mut().unwrap();
    let select = [("self", tensor("x")), ("dim", json!({"as_int": 0})), ("index", json!({"as_int": 0}))];
    nodes.insert(0, node("torch.ops.aten.select.int", &select, "v"));
    let add = [("self", tensor("v")), ("other", tensor("w"))];
    nodes.insert(1, node("torch.ops.aten.add_.Tensor", &add, "v2"));
    let w = [1f32.to_le_bytes(), 10f32.to_le_bytes()].concat();
    let module = load(packed(&program, &weights(), &w)).unwrap();
    let x = kiln_ir::Tensor::from_slice(&[3, 2], &[0f32; 6]).unwrap();
    let mut evaluator = kiln_ir::Evaluator::new(&module);
    let y = evaluator.run(module.entries()[0], &[kiln_ir::Datum::Tensor(x)]).unwrap();
    let kiln_ir::Datum::Tensor(y) = &y[0] else { panic!("no tensor") };
    assert_eq!(y.to_vec::<f32>().unwrap(), [2., 20., 1., 10., 1., 10.]);
}

/// A node with arguments by name, and the type of its result if the file is to tell it.
fn node(target: &str, inputs: &[(&str, Json)], output: &str) -> Json {
    let inputs: Vec<Json> = inputs.iter().map(|(name, arg)| json!({"name": name, "arg": arg})).collect();
    json!({"target": format!("torch.ops.{target}"), "inputs": inputs,
        "outputs": [{"as_tensor": {"name": output}}], "metadata": {}})
}

fn named(name: &str) -> Json {
    json!({"as_tensor": {"name": name}})
}

fn ints(values: &[i64]) -> Json {
    json!({"as_ints": values})
}

fn int(value: i64) -> Json {
    json!({"as_int": value})
}

/// The program with nodes before its own.
fn after(nodes: Vec<Json>, metas: &[(&str, Json)]) -> Json {
    let mut program = program();
    let graph = &mut program["graph_module"]["graph"];
    let own = graph["nodes"].take();
    graph["nodes"] = nodes.into_iter().chain(own.as_array().unwrap().iter().cloned()).collect();
    for (name, meta) in metas {
        graph["tensor_values"][*name] = meta.clone();
    }
    program
}

/// `y` for `x = [[0, 1], [2, 3], [4, 5]]` and `w = [1, 10]`.
fn run(program: &Json) -> Vec<f32> {
    let w = [1f32.to_le_bytes(), 10f32.to_le_bytes()].concat();
    let module = load(packed(program, &weights(), &w)).unwrap();
    let x = kiln_ir::Tensor::from_slice(&[3, 2], &[0f32, 1., 2., 3., 4., 5.]).unwrap();
    let mut evaluator = kiln_ir::Evaluator::new(&module);
    let y = evaluator.run(module.entries()[0], &[kiln_ir::Datum::Tensor(x)]).unwrap();
    let kiln_ir::Datum::Tensor(y) = &y[0] else { panic!("no tensor") };
    y.to_vec::<f32>().unwrap()
}

fn refusal(program: &Json) -> String {
    load(packed(program, &weights(), &[0; 8])).unwrap_err().to_string()
}

#[test]
fn strides_tell_views_from_copies() {
    // x.reshape(6).add_(100): a view. x.transpose(0, 1).reshape(6).add_(100): a copy.
    let add = |to: &str| node("aten.add_.Scalar", &[("self", named(to)), ("other", int(100))], "r2");
    let reshape = |of: &str| node("aten.reshape.default", &[("self", named(of)), ("shape", ints(&[6]))], "r");
    let turn = node("aten.transpose.int", &[("self", named("x")), ("dim0", int(0)), ("dim1", int(1))], "t");
    let flat = ("r", meta(&[6], &[1], 0));
    let turned = ("t", meta(&[2, 3], &[1, 2], 0));
    let view = after(vec![reshape("x"), add("r")], std::slice::from_ref(&flat));
    assert_eq!(run(&view), [101., 111., 103., 113., 105., 115.]);
    let copy = after(vec![turn.clone(), reshape("t"), add("r")], &[flat, turned]);
    assert_eq!(run(&copy), [1., 11., 3., 13., 5., 15.]);
    let unknown = after(vec![turn, reshape("t"), add("r")], &[]);
    assert!(refusal(&unknown).contains("may be a copy"), "{}", refusal(&unknown));
}

#[test]
fn a_base_that_was_written_is_not_read_through_what_may_be_a_copy() {
    // r = x.contiguous(), of unknown strides; x.add_(1); y = r + w.
    let mut nodes = vec![node("aten.contiguous.default", &[("self", named("x"))], "r")];
    nodes.push(node("aten.add_.Scalar", &[("self", named("x")), ("other", int(1))], "x2"));
    let mut program = after(nodes, &[]);
    program["graph_module"]["graph"]["nodes"][2]["inputs"][0]["arg"] = named("r");
    assert!(refusal(&program).contains("may be a copy"), "{}", refusal(&program));
}

#[test]
fn views_are_written_by_the_names_of_their_arguments() {
    // x.transpose(dim1=0, dim0=1)[0].add_(100) and x.diagonal(offset=-1).add_(100).
    let turn = node("aten.transpose.int", &[("self", named("x")), ("dim1", int(0)), ("dim0", int(1))], "t");
    let select = node("aten.select.int", &[("self", named("t")), ("dim", int(0)), ("index", int(0))], "s");
    let add = |to: &str| node("aten.add_.Scalar", &[("self", named(to)), ("other", int(100))], "a");
    assert_eq!(run(&after(vec![turn, select, add("s")], &[])), [101., 11., 103., 13., 105., 15.]);
    let diagonal = node("aten.diagonal.default", &[("self", named("x")), ("offset", int(-1))], "d");
    assert_eq!(run(&after(vec![diagonal, add("d")], &[])), [1., 11., 103., 13., 5., 115.]);
    let moves = [("self", named("x")), ("source", ints(&[0])), ("destination", ints(&[1]))];
    let moved = node("aten.movedim.intlist", &moves, "m");
    let select = node("aten.select.int", &[("self", named("m")), ("dim", int(0)), ("index", int(1))], "s");
    assert_eq!(run(&after(vec![moved, select, add("s")], &[])), [1., 111., 3., 113., 5., 115.]);
}

#[test]
fn many_writes_to_one_tensor_stay_few_nodes() {
    let add = |i: usize| {
        let from = if i == 0 { "x".to_owned() } else { format!("a{}", i - 1) };
        node("aten.add_.Scalar", &[("self", named(&from)), ("other", int(1))], &format!("a{i}"))
    };
    let y = run(&after((0..3000).map(add).collect(), &[]));
    assert_eq!(y, [3001., 3011., 3003., 3013., 3005., 3015.]);
}

#[test]
fn results_are_written_to_what_is_given_as_out() {
    // z = zeros_like(x); torch.mul(x, x, out=z[1]) with f64 z; y = z + w.
    let double = json!({"as_scalar_type": 8});
    let zeros = node("aten.zeros_like.default", &[("self", named("x")), ("dtype", double)], "z");
    let operands = [("self", named("x")), ("other", named("x")), ("out", named("z"))];
    let product = node("aten.mul.out", &operands, "p");
    let mut program = after(vec![zeros, product], &[]);
    program["graph_module"]["graph"]["nodes"][2]["inputs"][0]["arg"] = named("z");
    let module = load(packed(&program, &weights(), &[0; 8])).unwrap();
    let x = kiln_ir::Tensor::from_slice(&[3, 2], &[0f32, 1., 2., 3., 4., 5.]).unwrap();
    let mut evaluator = kiln_ir::Evaluator::new(&module);
    let y = evaluator.run(module.entries()[0], &[kiln_ir::Datum::Tensor(x)]).unwrap();
    let kiln_ir::Datum::Tensor(y) = &y[0] else { panic!("no tensor") };
    assert_eq!(y.to_vec::<f64>().unwrap(), [0., 1., 4., 9., 16., 25.]);
}

#[test]
fn parameters_that_are_written_by_any_name_are_states() {
    let out = [("self", named("w")), ("other", named("w")), ("out", named("w"))];
    let detach = node("aten.detach_.default", &[("self", named("w"))], "d");
    for (node, count) in [
        (node("aten.add.out", &out, "p"), 1),
        (node("aten.add_.Scalar", &[("self", named("w")), ("other", int(1))], "p"), 1),
        (node("aten.add.Scalar", &[("self", named("w")), ("other", int(1))], "p"), 0),
        (detach, 0),
    ] {
        let module = load(packed(&after(vec![node], &[]), &weights(), &[0; 8])).unwrap();
        assert_eq!(module.states().len(), count);
    }
    // A constant keeps what is written to it, too.
    let write = node("aten.add_.Scalar", &[("self", named("w")), ("other", int(1))], "p");
    let spec = json!({"tensor_constant": {"arg": {"name": "w"}, "tensor_constant_name": "layer.w"}});
    let constant = with(after(vec![write], &[]), "/graph_module/signature/input_specs/0", spec);
    assert_eq!(load(packed(&constant, &weights(), &[0; 8])).unwrap().states().len(), 1);
}

#[test]
fn shapes_change_in_place() {
    // s = x.transpose_(0, 1); s[0] += 100, which a view of `x` from before shows; y = v + w.
    let row = |of: &str, name: &str| {
        node("aten.select.int", &[("self", named(of)), ("dim", int(0)), ("index", int(0))], name)
    };
    let nodes = vec![
        node("aten.alias.default", &[("self", named("x"))], "v"),
        node("aten.transpose_.default", &[("self", named("x")), ("dim0", int(0)), ("dim1", int(1))], "s"),
        row("s", "first"),
        node("aten.add_.Scalar", &[("self", named("first")), ("other", int(100))], "f"),
    ];
    let program = after(nodes.clone(), &[]);
    let sum = format!("/graph_module/graph/nodes/{}/inputs/0/arg", nodes.len());
    assert_eq!(run(&with(program.clone(), &sum, named("v"))), [101., 11., 103., 13., 105., 15.]);
    // The old name would be a tensor of another shape.
    assert!(refusal(&program).contains("before its shape changed"), "{}", refusal(&program));
}

#[test]
fn places_in_memory_need_dense_tensors() {
    let places = |of: &str| {
        let given = [
            ("self", named(of)),
            ("size", ints(&[3, 2])),
            ("stride", ints(&[0, 1])),
            ("storage_offset", int(2)),
        ];
        node("aten.as_strided.default", &given, "v")
    };
    let sum = |nodes: Vec<Json>| {
        let at = format!("/graph_module/graph/nodes/{}/inputs/0/arg", nodes.len());
        with(after(nodes, &[("t", meta(&[2, 3], &[1, 2], 0))]), &at, named("v"))
    };
    assert_eq!(run(&sum(vec![places("x")])), [3., 13., 3., 13., 3., 13.]);
    let swap = node("aten.transpose.int", &[("self", named("x")), ("dim0", int(0)), ("dim1", int(1))], "t");
    let error = refusal(&sum(vec![swap, places("t")]));
    assert!(error.contains("may not lie densely"), "{error}");
}

/// `torch.ops.higher_order.wrap_with_set_grad_enabled(False, graph, x)`.
fn without_gradients(nodes: Vec<Json>, output: &str) -> Json {
    let graph = json!({"inputs": [named("a")], "outputs": [named(output)], "nodes": nodes,
        "tensor_values": {}});
    let inputs = [
        ("", json!({"as_bool": false})),
        ("", json!({"as_graph": {"name": "body", "graph": graph}})),
        ("", named("x")),
    ];
    node("higher_order.wrap_with_set_grad_enabled", &inputs, "g")
}

#[test]
fn nested_graphs_do_not_write_to_their_operands() {
    let add = node("aten.add_.Scalar", &[("self", named("a")), ("other", int(1))], "b");
    let program = after(vec![without_gradients(vec![add.clone()], "b")], &[]);
    assert!(refusal(&program).contains("operand of a nested graph"), "{}", refusal(&program));
    // What a nested graph gives may be a view of its operand.
    let view = node("aten.select.int", &[("self", named("a")), ("dim", int(0)), ("index", int(0))], "b");
    let write = node("aten.add_.Scalar", &[("self", named("g")), ("other", int(1))], "h");
    let program = after(vec![without_gradients(vec![view], "b"), write.clone()], &[]);
    assert!(refusal(&program).contains("may be a copy"), "{}", refusal(&program));
    // Its own memory it may write.
    let copy = node("aten.mul.Scalar", &[("self", named("a")), ("other", int(2))], "c");
    let add = node("aten.add_.Scalar", &[("self", named("c")), ("other", int(1))], "b");
    let mut program = after(vec![without_gradients(vec![copy, add], "b"), write], &[]);
    program["graph_module"]["graph"]["nodes"][2]["inputs"][0]["arg"] = named("h");
    assert_eq!(run(&program), [3., 14., 7., 18., 11., 22.]);
}

/// `torch.ops.higher_order.wrap_with_autocast(device, dtype, True, None, graph, x)`: sums and products of rows of
/// `7 a.a^T`.
fn with_casts(device: &str, dtype: Json) -> Json {
    let nodes = [
        node("aten.linear.default", &[("input", named("a")), ("weight", named("a"))], "p"),
        node("aten.mul.Scalar", &[("self", named("p")), ("other", int(7))], "m"),
        node("aten.sum.dim_IntList", &[("self", named("m")), ("dim", ints(&[1]))], "q"),
        node("aten.prod.dim_int", &[("self", named("m")), ("dim", int(1))], "r"),
        node(
            "aten.stack.default",
            &[("tensors", json!({"as_tensors": [{"name": "q"}, {"name": "r"}]})), ("dim", int(1))],
            "b",
        ),
    ];
    let graph = json!({"inputs": [named("a")], "outputs": [named("b")], "nodes": nodes, "tensor_values": {}});
    let inputs = [
        ("", json!({"as_string": device})),
        ("", dtype),
        ("", json!({"as_bool": true})),
        ("", json!({"as_none": true})),
        ("", json!({"as_graph": {"name": "body", "graph": graph}})),
        ("", named("x")),
    ];
    let program = after(vec![node("higher_order.wrap_with_autocast", &inputs, "g")], &[]);
    with(program, "/graph_module/graph/nodes/1/inputs/0/arg", named("g"))
}

#[test]
fn automatic_casts_follow_the_lists_of_pytorch() {
    // `[[7, 21, 35], [21, 91, 161], [35, 161, 287]]` is bf16, where 287 is 288, and so are its sums, where 273 is 272.
    // Its products are f32, and so is what is stacked of both.
    let wanted = [64., 5155., 273., 307_681., 485., 1_622_890.];
    for dtype in [json!({"as_scalar_type": 13}), json!({"as_none": true})] {
        assert_eq!(run(&with_casts("cpu", dtype)), wanted);
    }
    let error = refusal(&with_casts("cuda", json!({"as_scalar_type": 13})));
    assert!(error.contains("automatic casts"), "{error}");
}

#[test]
fn copies_of_tensors_share_one_limit() {
    // Two buffers that are the same bytes backwards and forwards: a copy of 4 MiB each.
    let mut program = program();
    let specs = program["graph_module"]["signature"]["input_specs"].as_array_mut().unwrap();
    let mut config = json!({"config": {}});
    let n = 1024i64;
    specs.clear();
    let mut inputs = vec![];
    for i in 0..8 {
        specs.push(json!({"buffer": {"arg": {"name": format!("b{i}")}, "buffer_name": format!("b{i}"),
            "persistent": true}}));
        inputs.push(named(&format!("b{i}")));
        config["config"][format!("b{i}")] = json!({"path_name": "weight_0", "is_param": false,
            "use_pickle": false, "tensor_meta": meta(&[n, n], &[0, 1], 0)});
    }
    let graph = &mut program["graph_module"]["graph"];
    graph["inputs"] = json!(inputs);
    graph["nodes"] = json!([]);
    graph["outputs"] = json!([named("b0")]);
    program["graph_module"]["signature"]["output_specs"] = json!([{"user_output": {"arg": named("b0")}}]);
    let error = load(packed(&program, &config, &vec![0; 4096])).unwrap_err().to_string();
    assert!(error.contains("more memory than the limit") || error.contains("limit"), "{error}");
    let config = json!({"config": {"b0": config["config"]["b0"]}});
    let specs = program["graph_module"]["signature"]["input_specs"].as_array_mut().unwrap();
    specs.truncate(1);
    program["graph_module"]["graph"]["inputs"].as_array_mut().unwrap().truncate(1);
    assert!(load(packed(&program, &config, &vec![0; 4096])).is_ok());
}

/// A safetensors file of one tensor of two floats.
fn checkpoint(name: &str, values: [f32; 2]) -> Vec<u8> {
    let head = json!({name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).to_string();
    let mut bytes = (head.len() as u64).to_le_bytes().to_vec();
    bytes.extend(head.as_bytes());
    bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    bytes
}

#[test]
fn weights_of_a_checkpoint_take_their_places() {
    let folder = std::env::temp_dir().join(format!("kiln-pt2-weights-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let load_with = |name: &str, rules: Vec<crate::NameRule>| {
        let file = folder.join("new.safetensors");
        std::fs::write(&file, checkpoint(name, [7., 8.])).unwrap();
        let weights_from = crate::NewWeights { file, rules, partial: false };
        let options = LoadOptions { weights: Some(weights_from), ..LoadOptions::default() };
        crate::load_bytes("net.pt2", packed(&program(), &weights(), &[0; 8]).into(), &options)
    };
    let found = |module: &kiln_ir::Module| {
        let x = kiln_ir::Tensor::from_slice(&[3, 2], &[0f32; 6]).unwrap();
        let mut evaluator = kiln_ir::Evaluator::new(module);
        let y = evaluator.run(module.entries()[0], &[kiln_ir::Datum::Tensor(x)]).unwrap();
        let kiln_ir::Datum::Tensor(y) = &y[0] else { panic!("no tensor") };
        y.to_vec::<f32>().unwrap()
    };
    assert_eq!(found(&load_with("layer.w", vec![]).unwrap()), [7., 8., 7., 8., 7., 8.]);
    let rule = "model.=layer.".parse().unwrap();
    assert_eq!(found(&load_with("model.w", vec![rule]).unwrap()), [7., 8., 7., 8., 7., 8.]);
    let error = load_with("other", vec![]).unwrap_err();
    let LoadError::Weights { faults, .. } = &error else { panic!("{error}") };
    assert_eq!(faults.missing, [("layer.w".to_owned(), vec![2])]);
    assert_eq!(faults.unexpected, ["other"]);
    std::fs::remove_dir_all(&folder).unwrap();
}

/// What `torch.save` writes of `{"layer.w": tensor([1., 10.])}`.
fn saved() -> Vec<u8> {
    let pickle: &[u8] = b"\x80\x02}X\x07\0\0\0layer.wctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storage\
        ctorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x02tQK\x00K\x02\x85K\x01\x85\x89ccollections\n\
        OrderedDict\n)RtRs.";
    let w = [1f32.to_le_bytes(), 10f32.to_le_bytes()].concat();
    archive(&[("data.pkl", pickle), ("data/0", &w), ("version", b"3\n")])
}

#[test]
fn archives_from_before_torch_2_8_have_their_tensors_in_two_files() {
    let old = |program: &Json, state: &[u8]| {
        archive(&[
            ("serialized_exported_program.json", program.to_string().as_bytes()),
            ("serialized_state_dict.pt", state),
            ("serialized_constants.pt", b""),
            ("version", b"7.3"),
        ])
    };
    for major in 5..=8 {
        let program = with(program(), "/schema_version/major", json!(major));
        let module = load(old(&program, &saved())).unwrap();
        let x = kiln_ir::Tensor::from_slice(&[3, 2], &[0f32; 6]).unwrap();
        let mut evaluator = kiln_ir::Evaluator::new(&module);
        let y = evaluator.run(module.entries()[0], &[kiln_ir::Datum::Tensor(x)]).unwrap();
        let kiln_ir::Datum::Tensor(y) = &y[0] else { panic!("no tensor") };
        assert_eq!(y.to_vec::<f32>().unwrap(), [1., 10., 1., 10., 1., 10.]);
    }
    assert!(load(old(&program(), b"")).unwrap_err().to_string().contains("no tensor of that name"));
    // An index of other files is none of `torch.save`.
    let error = load(old(&program(), br#"{"weight_map": {"layer.w": "/etc/passwd"}}"#)).unwrap_err();
    assert!(error.to_string().contains("torch.save"), "{error}");
}
