//! Models of one graph with constants, in few words.

use bytes::Bytes;
use kiln::ir::{DType, Tensor};
use kiln::loaders::onnx::make;
pub use kiln::loaders::onnx::make::{
    float, graph_attr, int, ints, node, opset, raw_value, string, tensor_attr, untyped, value,
};
use kiln::loaders::onnx::proto::*;
use kiln::loaders::onnx::tensor::tensor_proto;
use prost::Message;

/// An f32 value.
pub fn floats(name: &str, dims: &[i64]) -> ValueInfoProto {
    value(name, DType::F32, dims)
}

pub fn graph(
    nodes: Vec<NodeProto>,
    inputs: Vec<ValueInfoProto>,
    constants: Vec<TensorProto>,
    outputs: &[&str],
) -> GraphProto {
    GraphProto { initializer: constants, ..make::graph(nodes, inputs, outputs) }
}

pub fn model(graph: GraphProto) -> ModelProto {
    let opset_import = vec![opset("", 21), opset("ai.onnx.ml", 5), opset("com.microsoft", 1)];
    ModelProto { ir_version: 10, opset_import, graph: Some(graph), ..ModelProto::default() }
}

pub fn encoded(graph: GraphProto) -> Vec<u8> {
    model(graph).encode_to_vec()
}

/// A model of `Relu` over a small input: sound.
pub fn sound() -> ModelProto {
    let relu = node("Relu", &["x"], &["y"], vec![]);
    let add = node("Add", &["y", "w"], &["z"], vec![]);
    let weight = tensor_proto("w", &Tensor::ints(&[1]));
    let weight = TensorProto { data_type: 1, raw_data: Some(Bytes::from_static(&[0; 4])), ..weight };
    model(graph(vec![relu, add], vec![floats("x", &[2, 3])], vec![weight], &["z"]))
}

/// An i64 constant.
pub fn longs(name: &str, v: &[i64]) -> TensorProto {
    tensor_proto(name, &Tensor::ints(v))
}

/// A rank-0 i64 constant.
pub fn long(name: &str, v: i64) -> TensorProto {
    TensorProto { dims: vec![], ..longs(name, &[v]) }
}

/// An f32 constant.
pub fn reals(name: &str, dims: &[i64], v: &[f32]) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: dims.to_vec(),
        data_type: 1,
        float_data: v.to_vec(),
        ..Default::default()
    }
}
