//! Small models, built in memory, and their evaluation.
#![allow(dead_code, unused_imports, reason = "every test file uses a part")]

use std::path::{Path, PathBuf};

use kiln_ir::{Datum, Evaluator, Module, Tensor};
pub use kiln_loaders::onnx::make::*;
use kiln_loaders::onnx::proto::*;
use kiln_loaders::onnx::tensor::tensor_proto;
use kiln_loaders::{Issue, LoadError, LoadOptions};
use prost::Message;

pub fn f32s(dims: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_slice(dims, values).unwrap()
}

pub fn init(name: &str, tensor: &Tensor) -> TensorProto {
    tensor_proto(name, tensor)
}

/// A folder of this test's own, removed at the end.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("kiln-loaders-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Loads from memory.
pub fn import(model: &ModelProto) -> Result<Module, LoadError> {
    import_with(model, &LoadOptions::default())
}

pub fn import_with(model: &ModelProto, options: &LoadOptions) -> Result<Module, LoadError> {
    let bytes = bytes::Bytes::from(model.encode_to_vec());
    kiln_loaders::onnx::load(Path::new("/nowhere/test.onnx"), bytes, options)
}

/// Loads and evaluates; all values are tensors.
pub fn run(model: &ModelProto, inputs: &[Tensor]) -> Vec<Tensor> {
    let module = import(model).unwrap_or_else(|e| panic!("{e}"));
    evaluate(&module, inputs)
}

pub fn evaluate(module: &Module, inputs: &[Tensor]) -> Vec<Tensor> {
    let inputs: Vec<Datum> = inputs.iter().cloned().map(Datum::Tensor).collect();
    let results = Evaluator::new(module).run(module.entries()[0], &inputs).unwrap_or_else(|e| panic!("{e}"));
    results.into_iter().map(|d| d.into_tensor().unwrap()).collect()
}

/// The problems that a load lists.
pub fn issues(model: &ModelProto) -> Vec<Issue> {
    match import(model) {
        Err(LoadError::Graph { issues, .. }) => issues,
        Err(other) => panic!("expected problems of the graph, got: {other}"),
        Ok(_) => panic!("the model loaded"),
    }
}

/// A real file that tests share; `None`, loudly, where there is none, which fails in CI.
pub fn fixture(name: &str) -> Option<PathBuf> {
    let root = match std::env::var_os("KILN_FIXTURES") {
        Some(root) => PathBuf::from(root),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/fixtures"),
    };
    let path = root.join(name);
    if path.exists() {
        return Some(path);
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "fixture {} is missing", path.display());
    eprintln!("IGNORED: fixture {} is missing; set KILN_FIXTURES", path.display());
    None
}

/// A small generator of numbers, so that mutations are the same in every run.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n.max(1) as u64) as usize
    }
}

/// A safetensors file: name, type, shape, bytes.
pub fn safetensors(path: &Path, tensors: &[(&str, &str, &[usize], Vec<u8>)]) {
    let (mut header, mut data) = (serde_json::Map::new(), vec![]);
    for (name, dtype, shape, bytes) in tensors {
        let start = data.len();
        data.extend_from_slice(bytes);
        let entry = serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]});
        header.insert((*name).to_owned(), entry);
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(&header);
    file.extend_from_slice(&data);
    std::fs::write(path, file).unwrap();
}

pub fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}
