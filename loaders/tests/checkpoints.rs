//! Checkpoints that torch, safetensors and gguf wrote, compared with what these read back. `checkpoints/make.py` makes the
//! files and the expectations.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kiln_ir::DType;
use kiln_loaders::checkpoint::{
    self, Checkpoint, CheckpointError, Container, Item, Quantization, TensorFault,
};
use kiln_loaders::{Limits, LoadError, LoadOptions};

/// Most bytes of a dense form: no tensor here is large.
const DENSE: usize = 1 << 20;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/checkpoints")
}

fn open(file: &str) -> Checkpoint {
    checkpoint::open(&folder().join(file), &Limits::default()).unwrap_or_else(|e| panic!("{e}"))
}

/// Name to dtype, shape and bytes.
type Tensors = BTreeMap<String, (String, Vec<usize>, String)>;

fn expected() -> BTreeMap<String, serde_json::Value> {
    let text = std::fs::read_to_string(folder().join("expected.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn tensors(checkpoint: &Checkpoint) -> Tensors {
    let tensor = |(name, tensor): (&str, &checkpoint::CheckpointTensor)| {
        let bytes = tensor.bytes(DENSE).unwrap_or_else(|e| panic!("{name}: {e}"));
        (name.to_owned(), (tensor.element.to_string(), tensor.shape.clone(), hex(&bytes)))
    };
    checkpoint.tensors().map(tensor).collect()
}

#[test]
fn every_tensor_is_what_its_library_reads() {
    let (mut files, mut count) = (0, 0);
    for (file, value) in expected() {
        if file.ends_with(" dequantized") {
            continue;
        }
        let expected: Tensors = serde_json::from_value(value).unwrap();
        let found = tensors(&open(&file));
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{file}");
        for (name, tensor) in &found {
            assert_eq!(Some(tensor), expected.get(name), "{file}: {name}");
        }
        (files, count) = (files + 1, count + found.len());
    }
    println!("{count} tensors of {files} files");
    assert!(files >= 29 && count >= 300, "{count} tensors of {files} files");
}

#[test]
fn blocks_stand_for_the_numbers_that_ggml_gives_them() {
    let expected = expected().remove("blocks.gguf dequantized").unwrap();
    let expected: BTreeMap<String, String> = serde_json::from_value(expected).unwrap();
    let checkpoint = open("blocks.gguf");
    for (name, bytes) in &expected {
        let tensor = checkpoint.get(name).unwrap().to_tensor(DENSE).unwrap();
        assert_eq!(tensor.dtype(), DType::F32, "{name}");
        assert_eq!(&hex(tensor.bytes()), bytes, "{name}");
    }
    assert!(expected.len() >= 10, "{} types", expected.len());
}

#[test]
fn tensors_stay_in_the_file() {
    let bytes = bytes::Bytes::from(std::fs::read(folder().join("zip_p2.pt")).unwrap());
    let range = bytes.as_ptr_range();
    let checkpoint = checkpoint::read(Path::new("zip_p2.pt"), bytes.clone(), &Limits::default()).unwrap();
    let dense: Vec<&str> = checkpoint
        .tensors()
        .filter_map(|(name, tensor)| tensor.mapped().map(|mapped| (name, mapped)))
        .map(|(name, mapped)| {
            assert!(range.contains(&mapped.as_ptr()), "{name} was copied");
            name
        })
        .collect();
    assert_eq!(dense, ["weight", "tied", "count", "half", "byte", "wide", "flags", "z"]);
    let graph = checkpoint.get("weight").unwrap().to_tensor(0).unwrap();
    assert!(range.contains(&graph.bytes().as_ptr()), "the tensor of the graph was copied");
    let shared = checkpoint.shared();
    assert_eq!(shared.len(), 1);
    assert_eq!(shared[0].1, ["weight", "tied", "transposed", "part"]);
}

#[test]
fn quantization_is_kept() {
    for file in ["quantized.pt", "legacy_quantized.pt"] {
        let checkpoint = open(file);
        let quantization = |name: &str| checkpoint.get(name).unwrap().quantization.clone().unwrap();
        let Quantization::PerTensor { scale, zero_point } = quantization("tensor_u8") else {
            panic!("{file}")
        };
        assert_eq!((scale, zero_point), (0.125, 64), "{file}");
        let Quantization::PerChannel { scales, zero_points, axis } = quantization("channel") else {
            panic!("{file}")
        };
        let numbers = |t: &checkpoint::CheckpointTensor| t.to_tensor(DENSE).unwrap().to_f64s().unwrap();
        assert_eq!((axis, numbers(&zero_points)), (1, vec![1.0, 0.0, -2.0]), "{file}");
        assert_eq!(
            numbers(&scales).iter().map(|s| *s as f32).collect::<Vec<_>>(),
            [0.1, 0.25, 0.5],
            "{file}"
        );
        let Quantization::PerChannel { scales, .. } = quantization("float_channel") else { panic!("{file}") };
        assert_eq!(numbers(&scales), [1.0; 6], "{file}");
    }
}

#[test]
fn values_beside_tensors_are_kept() {
    let checkpoint = open("lightning.ckpt");
    let tree = checkpoint.tree();
    let get = |keys: &[&str]| {
        let found = keys.iter().try_fold(tree.root(), |id, key| tree.get(id, key));
        tree.item(found.unwrap_or_else(|| panic!("{keys:?}")))
    };
    assert_eq!(get(&["epoch"]), &Item::Int(3));
    assert_eq!(get(&["hyper_parameters", "lr"]), &Item::Float(1e-3));
    assert!(matches!(get(&["hyper_parameters", "name"]), Item::Text(text) if text.as_str() == "tïny"));
    let names: Vec<&str> = checkpoint.weights().iter().map(|(name, _)| *name).collect();
    assert_eq!(names.first(), Some(&"model.0.weight"));
    assert_eq!(names.len(), 7, "{names:?}");
    assert!(checkpoint.get("optimizer_states.0.state.0.exp_avg").is_some());
    assert_eq!(checkpoint.opaque(), []);
}

#[test]
fn containers_are_told_by_content() {
    for (file, container) in [
        ("zip_p0.pt", Container::TorchZip),
        ("legacy_p0.pt", Container::TorchLegacy),
        ("legacy_p5.pt", Container::TorchLegacy),
        ("first.tar.pt", Container::TorchTar),
        ("dtypes.safetensors", Container::Safetensors),
        ("blocks.gguf", Container::Gguf),
        ("sharded_bin/pytorch_model.bin.index.json", Container::Sharded),
    ] {
        assert_eq!(open(file).container(), container, "{file}");
        let loaded = kiln_loaders::load(&folder().join(file), &LoadOptions::default());
        assert!(matches!(loaded, Err(LoadError::NoGraph { .. })), "{file}");
    }
}

#[test]
fn modules_are_opaque_and_their_tensors_are_named() {
    for file in ["module_p0.pt", "module_p2.pt", "module_p4.pt"] {
        let checkpoint = open(file);
        let classes: Vec<&str> = checkpoint.opaque().iter().map(|value| value.name.as_str()).collect();
        assert!(classes.contains(&"torch.nn.modules.container.Sequential"), "{file}: {classes:?}");
        assert!(
            checkpoint.get("1.running_mean").is_some() && checkpoint.get("2.0.weight").is_some(),
            "{file}"
        );
    }
}

#[test]
fn files_that_are_cut_off_are_errors() {
    for file in ["zip_p2.pt", "legacy_p2.pt", "dtypes.safetensors", "blocks.gguf", "quantized.pt"] {
        let bytes = bytes::Bytes::from(std::fs::read(folder().join(file)).unwrap());
        // What is behind the last tensor of a GGUF file fills it up to a multiple of 32.
        for end in (0..bytes.len() - 32).step_by(bytes.len() / 60) {
            let cut = checkpoint::read(Path::new(file), bytes.slice(..end), &Limits::default());
            assert!(cut.is_err(), "{file} cut at {end}");
        }
    }
}

#[test]
fn damaged_files_do_not_panic() {
    let mut random = common::Random(1);
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() || path.extension().is_some_and(|e| e == "py" || e == "json") {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        for _ in 0..60 {
            let mut damaged = bytes.clone();
            for _ in 0..1 + random.below(4) {
                let at = random.below(damaged.len());
                damaged[at] = random.below(256) as u8;
            }
            if let Ok(checkpoint) = checkpoint::read(&path, damaged.into(), &Limits::default()) {
                for (_, tensor) in checkpoint.tensors() {
                    let _ = tensor.to_tensor(DENSE);
                }
            }
        }
    }
}

#[test]
fn errors_name_file_and_tensor() {
    let text = |file: &str| std::fs::read(folder().join(file)).unwrap();
    let mut bytes = text("dtypes.safetensors");
    let at = bytes.windows(7).position(|w| w == b"\"U64\",\"").unwrap();
    bytes[at + 1..at + 4].copy_from_slice(b"U65");
    let error = checkpoint::read(Path::new("m.safetensors"), bytes.into(), &Limits::default()).unwrap_err();
    assert!(matches!(&error, CheckpointError::Tensor { source: TensorFault::Description(_), .. }), "{error}");
    assert!(error.to_string().starts_with("m.safetensors: tensor `uint64`: `U65`"), "{error}");
}

/// Real files of others, where the fixtures are at hand.
#[test]
fn real_checkpoints_open() {
    let Some(root) = common::fixture("checkpoints").and_then(|f| f.parent().map(Path::to_owned)) else {
        return;
    };
    let tensors = |file: &str| {
        let path = root.join(file);
        let checkpoint = checkpoint::open(&path, &Limits::default()).unwrap_or_else(|e| panic!("{e}"));
        let names: Vec<String> = checkpoint.tensors().map(|(name, _)| name.to_owned()).collect();
        for (name, tensor) in checkpoint.tensors() {
            tensor.to_tensor(DENSE).unwrap_or_else(|e| panic!("{file}: {name}: {e}"));
        }
        (checkpoint, names)
    };
    let (_, names) = tensors("checkpoints/test.pt");
    assert_eq!(names, ["test"]);
    let (_, names) = tensors("checkpoints/test_with_key.pt");
    assert!(!names.is_empty());
    let (fortran, names) = tensors("checkpoints/fortran_tensor_3d.pth");
    assert!(!names.is_empty());
    let tensor = fortran.get(&names[0]).unwrap();
    assert_eq!(tensor.view().unwrap().strides, [1, 2, 6]);
    let numbers = tensor.to_tensor(DENSE).unwrap().to_f64s().unwrap();
    assert_eq!(numbers, (1..=24).map(f64::from).collect::<Vec<_>>());
    assert!(tensors("silero_vad/silero_vad_16k.safetensors").1.len() >= 10);
    assert!(tensors("silero_vad/silero_vad.jit").1.len() >= 10);
    assert!(!tensors("torchscript/foo4.pt").0.opaque().is_empty());
}
