//! Small models, built in memory, and their evaluation.
#![allow(dead_code, reason = "every test file uses a part")]

use std::path::{Path, PathBuf};

use kiln_ir::{DType, Datum, Evaluator, Module, Tensor};
use kiln_loaders::onnx::proto::*;
use kiln_loaders::onnx::tensor::{data_type, tensor_proto};
use kiln_loaders::{Issue, LoadError, LoadOptions};
use prost::Message;

/// A node with attributes.
pub fn node(op: &str, inputs: &[&str], outputs: &[&str], attributes: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        op_type: op.to_owned(),
        name: format!("{op}_{}", outputs.first().copied().unwrap_or("")),
        input: inputs.iter().map(|&s| s.to_owned()).collect(),
        output: outputs.iter().map(|&s| s.to_owned()).collect(),
        attribute: attributes,
        ..NodeProto::default()
    }
}

pub fn int(name: &str, v: i64) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: attribute_type::INT, i: Some(v), ..Default::default() }
}

pub fn ints(name: &str, v: &[i64]) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: attribute_type::INTS, ints: v.to_vec(), ..Default::default() }
}

pub fn float(name: &str, v: f32) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: attribute_type::FLOAT, f: Some(v), ..Default::default() }
}

pub fn string(name: &str, v: &str) -> AttributeProto {
    let s = Some(bytes::Bytes::copy_from_slice(v.as_bytes()));
    AttributeProto { name: name.into(), r#type: attribute_type::STRING, s, ..Default::default() }
}

pub fn floats(name: &str, v: &[f32]) -> AttributeProto {
    let floats = v.to_vec();
    AttributeProto { name: name.into(), r#type: attribute_type::FLOATS, floats, ..Default::default() }
}

pub fn strings(name: &str, v: &[&str]) -> AttributeProto {
    let strings = v.iter().map(|s| bytes::Bytes::copy_from_slice(s.as_bytes())).collect();
    AttributeProto { name: name.into(), r#type: attribute_type::STRINGS, strings, ..Default::default() }
}

pub fn graph_attr(name: &str, g: GraphProto) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        r#type: attribute_type::GRAPH,
        g: Some(Box::new(g)),
        ..Default::default()
    }
}

pub fn reference(name: &str, to: &str, ty: i32) -> AttributeProto {
    AttributeProto { name: name.into(), ref_attr_name: to.into(), r#type: ty, ..Default::default() }
}

/// A value with dims; negative ones are symbols `N1`, `N2`, ...
pub fn value(name: &str, dtype: DType, dims: &[i64]) -> ValueInfoProto {
    let dim = |&d: &i64| DimensionProto {
        value: Some(if d < 0 {
            DimensionValue::DimParam(format!("N{}", -d))
        } else {
            DimensionValue::DimValue(d)
        }),
    };
    let shape = Some(TensorShapeProto { dim: dims.iter().map(dim).collect() });
    let tensor = TensorTypeProto { elem_type: data_type(dtype), shape };
    ValueInfoProto { name: name.into(), r#type: Some(TypeProto { value: Some(TypeValue::Tensor(tensor)) }) }
}

/// A value without a type.
pub fn untyped(name: &str) -> ValueInfoProto {
    ValueInfoProto { name: name.into(), r#type: None }
}

pub fn graph(nodes: Vec<NodeProto>, inputs: Vec<ValueInfoProto>, outputs: &[&str]) -> GraphProto {
    GraphProto {
        name: "g".into(),
        node: nodes,
        input: inputs,
        output: outputs.iter().map(|&o| untyped(o)).collect(),
        ..GraphProto::default()
    }
}

pub fn model(opset: i64, graph: GraphProto) -> ModelProto {
    ModelProto {
        ir_version: 8,
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: opset }],
        graph: Some(graph),
        ..ModelProto::default()
    }
}

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
