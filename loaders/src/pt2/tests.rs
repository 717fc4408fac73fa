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
