//! Files: formats, external data and its confinement, damaged and hostile content, real models.

mod common;

use std::path::Path;

use common::*;
use kiln_ir::{DType, Tensor};
use kiln_loaders::onnx::proto::*;
use kiln_loaders::{LoadError, LoadOptions, load};
use prost::Message;

fn options() -> LoadOptions {
    LoadOptions::default()
}

/// A model that adds external data to its operand.
fn external(location: &str, entries: &[(&str, &str)]) -> ModelProto {
    let mut g =
        graph(vec![node("Add", &["x", "w"], &["y"], vec![])], vec![value("x", DType::F32, &[2])], &["y"]);
    let pair = |key: &str, value: &str| StringStringEntryProto { key: key.into(), value: value.into() };
    let mut data = vec![pair("location", location)];
    data.extend(entries.iter().map(|(k, v)| pair(k, v)));
    g.initializer.push(TensorProto {
        name: "w".into(),
        dims: vec![2],
        data_type: 1,
        data_location: 1,
        external_data: data,
        ..TensorProto::default()
    });
    model(18, g)
}

fn write_model(folder: &Folder, name: &str, model: &ModelProto) -> std::path::PathBuf {
    let path = folder.path(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, model.encode_to_vec()).unwrap();
    path
}

fn weights() -> Vec<u8> {
    [9.0f32, 1.0, 2.0].iter().flat_map(|v| v.to_le_bytes()).collect()
}

#[test]
fn external_data_is_read_from_the_models_folder() {
    let folder = Folder::new("external");
    std::fs::create_dir_all(folder.path("model/data")).unwrap();
    std::fs::write(folder.path("model/data/w.bin"), weights()).unwrap();
    for location in ["data/w.bin", "./data/w.bin", "data/./w.bin"] {
        let m = external(location, &[("offset", "4"), ("length", "8")]);
        let module = load(&write_model(&folder, "model/m.onnx", &m), &options()).unwrap();
        assert_eq!(evaluate(&module, &[f32s(&[2], &[1.0, 1.0])])[0], f32s(&[2], &[2.0, 3.0]));
    }
}

#[test]
fn external_data_cannot_leave_the_models_folder() {
    let folder = Folder::new("confined");
    std::fs::create_dir_all(folder.path("model/data")).unwrap();
    std::fs::create_dir_all(folder.path("outside")).unwrap();
    for place in ["outside/w.bin", "model/w.bin", "model/data/w.bin"] {
        std::fs::write(folder.path(place), weights()).unwrap();
    }
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(folder.path("outside/w.bin"), folder.path("model/link.bin")).unwrap();
        std::os::unix::fs::symlink(folder.path("outside"), folder.path("model/linked")).unwrap();
        std::os::unix::fs::symlink("w.bin", folder.path("model/inner.bin")).unwrap();
    }
    std::fs::hard_link(folder.path("outside/w.bin"), folder.path("model/hard.bin")).unwrap();
    let absolute = folder.path("model/w.bin").display().to_string();
    let tricks = [
        "../outside/w.bin",
        "data/../../outside/w.bin",
        "data/../w.bin",
        "..",
        ".",
        "",
        "data",
        "/etc/passwd",
        absolute.as_str(),
        "link.bin",
        "inner.bin",
        "linked/w.bin",
        "hard.bin",
        "..\\outside\\w.bin",
        "w.bin\0.txt",
        "no-such-file",
        "/dev/zero",
        "/proc/self/mem",
    ];
    for location in tricks {
        let m = external(location, &[]);
        let error = load(&write_model(&folder, "model/m.onnx", &m), &options()).expect_err(location);
        let LoadError::Graph { issues, .. } = &error else { panic!("{location}: {error}") };
        assert!(issues.len() == 1 && issues[0].origin.node == "w", "{location}: {error}");
        assert!(issues[0].reason.contains("external data"), "{location}: {error}");
    }
}

#[test]
fn offsets_and_lengths_are_checked() {
    let folder = Folder::new("ranges");
    std::fs::write(folder.path("w.bin"), weights()).unwrap();
    let max = usize::MAX.to_string();
    let bad: &[&[(&str, &str)]] = &[
        &[("offset", "8")],
        &[("offset", max.as_str())],
        &[("offset", "-4")],
        &[("offset", "4"), ("length", "12")],
        &[("length", "4")],
        &[("length", max.as_str())],
        &[("length", "eight")],
        &[("offset", "0x4")],
        &[("offset", "99999999999999999999999")],
    ];
    for entries in bad {
        let error = load(&write_model(&folder, "m.onnx", &external("w.bin", entries)), &options());
        assert!(matches!(error, Err(LoadError::Graph { .. })), "{entries:?}");
    }
}

#[test]
fn formats_are_recognised_by_content() {
    let folder = Folder::new("formats");
    let cases: &[(&[u8], &str)] = &[
        (b"", "the file is empty"),
        (b"hello, this is text", "no format that Kiln knows"),
        (b"GGUF\x03\0\0\0\0\0", "a GGUF file, which holds weights and no graph"),
        (b"\x80\x02}q\x00.", "a pickle"),
        (b"\x10\0\0\0\0\0\0\0{\"w\":{}}        ", "a safetensors file"),
        (b"PK\x03\x04............m/data.pkl", "PyTorch checkpoint"),
    ];
    for (bytes, expected) in cases {
        // The name lies.
        let path = folder.path("model.onnx");
        std::fs::write(&path, bytes).unwrap();
        let error = load(&path, &options()).unwrap_err().to_string();
        assert!(error.contains("model.onnx") && error.contains(expected), "{error}");
    }
    let error = load(&folder.path("absent.onnx"), &options()).unwrap_err();
    assert!(matches!(error, LoadError::Io { .. }) && error.to_string().contains("absent.onnx"));
    let error = load(&folder.path(""), &options()).unwrap_err();
    assert!(error.to_string().contains("folder"), "{error}");
}

/// Loads damaged bytes: anything but a panic is right.
fn survives(bytes: Vec<u8>) {
    let _ =
        kiln_loaders::onnx::load(Path::new("/nowhere/damaged.onnx"), bytes::Bytes::from(bytes), &options());
}

fn damage(bytes: &[u8], seed: u64, rounds: usize) {
    let mut random = Random(seed);
    for _ in 0..rounds {
        let mut copy = bytes.to_vec();
        match random.below(4) {
            0 => copy.truncate(random.below(bytes.len())),
            1 => {
                let at = random.below(copy.len());
                copy[at] = random.below(256) as u8;
            }
            _ => {
                for _ in 0..=random.below(8) {
                    let at = random.below(copy.len());
                    copy[at] ^= 1 << random.below(8);
                }
            }
        }
        survives(copy);
    }
}

/// A model with many kinds of nodes.
fn varied() -> ModelProto {
    let body = graph(
        vec![node("Identity", &["c"], &["c2"], vec![]), node("Add", &["v", "w"], &["v2"], vec![])],
        vec![untyped("i"), untyped("c"), untyped("v")],
        &["c2", "v2"],
    );
    let mut g = graph(
        vec![
            node("Conv", &["x", "k"], &["a"], vec![ints("pads", &[1, 1, 1, 1]), ints("strides", &[1, 1])]),
            node("MaxPool", &["a"], &["b"], vec![ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2])]),
            node("Reshape", &["b", "shape"], &["c"], vec![]),
            node("Softmax", &["c"], &["d"], vec![int("axis", -1)]),
            node("TopK", &["d", "two"], &["e", "f"], vec![]),
            node("Loop", &["n", "", "e"], &["y"], vec![graph_attr("body", body)]),
            node("Slice", &["f", "two", "n1", "", ""], &["z"], vec![]),
            node("Einsum", &["e", "e"], &["s"], vec![string("equation", "ij,kj->ik")]),
            node("Resize", &["x", "", "scales"], &["r"], vec![string("mode", "linear")]),
        ],
        vec![value("x", DType::F32, &[1, 2, 4, 4])],
        &["y", "z", "s", "r"],
    );
    g.initializer = vec![
        init("k", &f32s(&[3, 2, 3, 3], &[0.5; 54])),
        init("shape", &Tensor::ints(&[1, -1])),
        init("two", &Tensor::ints(&[2])),
        init("n", &Tensor::scalar(2i64)),
        init("n1", &Tensor::ints(&[1])),
        init("w", &f32s(&[1], &[1.0])),
        init("scales", &f32s(&[4], &[1.0, 1.0, 2.0, 2.0])),
    ];
    model(18, g)
}

#[test]
fn damaged_models_never_panic() {
    let m = varied();
    import(&m).unwrap();
    damage(&m.encode_to_vec(), 0x9e37_79b9_7f4a_7c15, 1500);
}

#[test]
fn damaged_real_models_never_panic() {
    for (i, name) in ["onnx/mnist_external/mnist.onnx", "onnx/deconv_group/model.onnx", "onnx/mnist.onnx"]
        .iter()
        .enumerate()
    {
        if let Some(path) = fixture(name) {
            damage(&std::fs::read(path).unwrap(), 77 + i as u64, 200);
        }
    }
}

#[test]
fn hostile_values_get_messages() {
    let with = |n: NodeProto, tensors: Vec<TensorProto>| {
        let mut g = graph(vec![n], vec![value("x", DType::F32, &[2])], &["y"]);
        g.initializer = tensors;
        model(18, g)
    };
    let ints_init = |name: &str, v: &[i64]| init(name, &Tensor::ints(v));
    let huge = i64::MAX;
    let cases = [
        with(node("Reshape", &["x", "s"], &["y"], vec![]), vec![ints_init("s", &[huge, huge])]),
        with(node("Reshape", &["x", "s"], &["y"], vec![]), vec![ints_init("s", &[-7])]),
        with(node("Transpose", &["x"], &["y"], vec![ints("perm", &[5])]), vec![]),
        with(node("Gather", &["x", "s"], &["y"], vec![int("axis", i64::MIN)]), vec![ints_init("s", &[0])]),
        with(node("Concat", &["x", "x"], &["y"], vec![int("axis", huge)]), vec![]),
        with(node("Softmax", &["x"], &["y"], vec![int("axis", i64::MIN)]), vec![]),
        with(node("Split", &["x"], &["y"], vec![int("num_outputs", huge)]), vec![]),
        with(node("Split", &["x"], &["y"], vec![int("num_outputs", -1)]), vec![]),
        with(node("Einsum", &["x", "x"], &["y"], vec![string("equation", "…,->")]), vec![]),
        with(node("Cast", &["x"], &["y"], vec![int("to", huge)]), vec![]),
        with(node("Conv", &["x", "x"], &["y"], vec![ints("strides", &[0])]), vec![]),
        with(node("Constant", &[], &["y"], vec![]), vec![]),
        with(node("Unsqueeze", &["x", "s"], &["y"], vec![]), vec![ints_init("s", &[0, 0])]),
        with(node("Flatten", &["x"], &["y"], vec![int("axis", i64::MIN)]), vec![]),
        with(node("DepthToSpace", &["x"], &["y"], vec![int("blocksize", -2)]), vec![]),
        with(node("GRU", &["x", "x", "x"], &["y"], vec![int("hidden_size", huge)]), vec![]),
    ];
    for m in cases {
        let op = m.graph.as_ref().unwrap().node[0].op_type.clone();
        let found = issues(&m);
        assert!(found.len() == 1 && !found[0].reason.is_empty(), "{op}: {found:?}");
    }
    // Tensors whose data does not fit their dims.
    for (dims, data_type) in [(vec![3], 1), (vec![-1], 1), (vec![huge, huge], 1), (vec![2], 99), (vec![2], 0)]
    {
        let tensor = TensorProto {
            name: "w".into(),
            dims,
            data_type,
            raw_data: Some(bytes::Bytes::from_static(&[0; 8])),
            ..TensorProto::default()
        };
        let found = issues(&with(node("Add", &["x", "w"], &["y"], vec![]), vec![tensor]));
        assert_eq!((found[0].origin.node.as_str(), found[0].origin.op.as_str()), ("w", "initializer"));
    }
}

#[test]
fn real_models_load_and_compute() {
    for name in
        ["averagepool_count_include_pad", "deconv_group", "lgbm_classifier_tensor", "xgboost_regressor_tree"]
    {
        let (Some(path), Some(io)) =
            (fixture(&format!("onnx/{name}/model.onnx")), fixture(&format!("onnx/{name}/io.npz")))
        else {
            continue;
        };
        let module = load(&path, &options()).unwrap_or_else(|e| panic!("{e}"));
        let arrays = kiln_loaders::npz::read(&io).unwrap();
        let named = |name: &str| arrays.iter().find(|(n, _)| n == name).map(|(_, t)| t.clone());
        let g = module.graph(module.entries()[0]);
        let inputs: Vec<Tensor> = g.input_names().iter().map(|n| named(n).unwrap()).collect();
        let outputs = evaluate(&module, &inputs);
        let mut compared = 0;
        for (output, tensor) in g.output_names().iter().zip(outputs) {
            let Some(expected) = named(output) else { continue };
            let (a, b) = (tensor.to_f64s().unwrap(), expected.to_f64s().unwrap());
            assert_eq!(a.len(), b.len(), "{name}: {output}");
            for (x, y) in a.iter().zip(&b) {
                assert!((x - y).abs() <= 1e-4 * y.abs().max(1.0), "{name}: {output}: {x} and {y}");
            }
            compared += 1;
        }
        assert!(compared > 0, "{name}: no output was compared");
    }
    for name in [
        "onnx/mnist.onnx",
        "onnx/mnist_external/mnist.onnx",
        "silero_vad/silero_vad.onnx",
        "silero_vad/silero_vad_16k_op15.onnx",
    ] {
        if let Some(path) = fixture(name) {
            load(&path, &options()).unwrap_or_else(|e| panic!("{e}"));
        }
    }
}

/// A file of one field, of this number, as often as given: each time an empty message.
fn empty_messages(number: u8, count: usize) -> Vec<u8> {
    [(number << 3) | 2, 0].repeat(count)
}

/// A length-delimited field.
fn field(number: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![(number << 3) | 2];
    prost::encoding::encode_varint(payload.len() as u64, &mut bytes);
    bytes.extend_from_slice(payload);
    bytes
}

#[test]
fn empty_messages_do_not_take_all_memory() {
    let count = 8 << 20;
    // Attributes of a node, nodes, tensors and inputs of a graph.
    let attributes = field(7, &field(1, &empty_messages(5, count)));
    let parts = [1, 5, 11].map(|number| field(7, &empty_messages(number, count)));
    for bytes in [vec![attributes], parts.to_vec()].concat() {
        let expected = options().limits.structure_of(bytes.len());
        let result = kiln_loaders::load_bytes("m.onnx", bytes::Bytes::from(bytes), &options());
        let Err(LoadError::Limit { path, limit, .. }) = &result else { panic!("{result:?}") };
        assert_eq!((path.as_str(), *limit), ("m.onnx", expected));
    }
    let mut small = options();
    small.limits.structure = Some(100);
    let bytes = bytes::Bytes::from(varied().encode_to_vec());
    let error = kiln_loaders::load_bytes("m.onnx", bytes, &small).unwrap_err();
    assert!(error.to_string().contains("in bytes, is more than the limit of 100"), "{error}");
}

#[cfg(unix)]
#[test]
fn pipes_and_devices_are_refused_without_waiting() {
    let folder = Folder::new("pipes");
    let made = std::process::Command::new("mkfifo").arg(folder.path("w.bin")).status().unwrap();
    assert!(made.success());
    for path in [folder.path("w.bin"), "/dev/null".into()] {
        let error = load(&path, &options()).unwrap_err();
        assert!(error.to_string().ends_with("it is not a regular file"), "{error}");
    }
    let error = load(&write_model(&folder, "m.onnx", &external("w.bin", &[])), &options()).unwrap_err();
    assert!(error.to_string().contains("`w.bin` is not a regular file"), "{error}");
}

/// A model that gives a sparse constant of these values and places.
fn sparse(dtype: DType, dims: &[i64], values: &Tensor, places: &[i64]) -> ModelProto {
    let mut g = graph(vec![node("Identity", &["s"], &["y"], vec![])], vec![], &["y"]);
    assert_eq!(values.dtype(), dtype);
    g.sparse_initializer.push(SparseTensorProto {
        values: Some(init("s", values)),
        indices: Some(init("", &Tensor::ints(places))),
        dims: dims.to_vec(),
    });
    model(25, g)
}

#[test]
fn sparse_tensors_take_their_encoded_size() {
    use kiln_ir::Scalar;
    for dtype in [DType::I2, DType::U4, DType::I8, DType::F16, DType::F32, DType::I64] {
        let numbers = |v: &[i128]| v.iter().map(|&v| Scalar::I(v)).collect::<Vec<_>>();
        let values = Tensor::from_scalars(dtype, &[3], &numbers(&[1, 0, 1])).unwrap();
        let dense = Tensor::from_scalars(dtype, &[2, 4], &numbers(&[0, 1, 0, 0, 0, 0, 0, 1])).unwrap();
        assert_eq!(run(&sparse(dtype, &[2, 4], &values, &[1, 5, 7]), &[])[0], dense, "{dtype}");
        let found = issues(&sparse(dtype, &[2, 4], &values, &[1, 5, 8]));
        assert!(found[0].reason.contains("index out of range"), "{found:?}");
        let found = issues(&sparse(dtype, &[1 << 32], &values, &[1, 5, 8]));
        assert!(found[0].reason.contains("the dense form takes more"), "{found:?}");
    }
    // The bound is on all of them together.
    let values = Tensor::from_slice(&[1], &[7i8]).unwrap();
    let mut m = sparse(DType::I8, &[20 << 20], &values, &[5]);
    import(&m).unwrap();
    let g = m.graph.as_mut().unwrap();
    let mut second = g.sparse_initializer[0].clone();
    second.values.as_mut().unwrap().name = "t".into();
    g.sparse_initializer.push(second);
    assert_eq!(issues(&m)[0].origin.node, "t");
}
