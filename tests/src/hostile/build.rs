//! Small messages, in few words.

use bytes::Bytes;
use kiln::ir::{DType, Tensor};
use kiln::loaders::onnx::proto::*;
use kiln::loaders::onnx::tensor::{data_type, tensor_proto};
use prost::Message;

pub fn node(op: &str, inputs: &[&str], outputs: &[&str], attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        op_type: op.to_owned(),
        name: format!("n_{}", outputs.first().copied().unwrap_or("")),
        input: inputs.iter().map(|&s| s.to_owned()).collect(),
        output: outputs.iter().map(|&s| s.to_owned()).collect(),
        attribute,
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
    let s = Some(Bytes::copy_from_slice(v.as_bytes()));
    AttributeProto { name: name.into(), r#type: attribute_type::STRING, s, ..Default::default() }
}

pub fn graph_attr(name: &str, g: GraphProto) -> AttributeProto {
    let g = Some(Box::new(g));
    AttributeProto { name: name.into(), r#type: attribute_type::GRAPH, g, ..Default::default() }
}

pub fn tensor_attr(name: &str, t: TensorProto) -> AttributeProto {
    let t = Some(Box::new(t));
    AttributeProto { name: name.into(), r#type: attribute_type::TENSOR, t, ..Default::default() }
}

/// A value of a dtype's number and dims.
pub fn raw_value(name: &str, elem_type: i32, dims: &[i64]) -> ValueInfoProto {
    let dim = |&d: &i64| DimensionProto { value: Some(DimensionValue::DimValue(d)) };
    let shape = Some(TensorShapeProto { dim: dims.iter().map(dim).collect() });
    let tensor = TensorTypeProto { elem_type, shape };
    ValueInfoProto { name: name.into(), r#type: Some(TypeProto { value: Some(TypeValue::Tensor(tensor)) }) }
}

pub fn value(name: &str, dtype: DType, dims: &[i64]) -> ValueInfoProto {
    raw_value(name, data_type(dtype), dims)
}

/// An f32 value.
pub fn floats(name: &str, dims: &[i64]) -> ValueInfoProto {
    value(name, DType::F32, dims)
}

pub fn untyped(name: &str) -> ValueInfoProto {
    ValueInfoProto { name: name.into(), r#type: None }
}

pub fn graph(
    nodes: Vec<NodeProto>,
    inputs: Vec<ValueInfoProto>,
    constants: Vec<TensorProto>,
    outputs: &[&str],
) -> GraphProto {
    GraphProto {
        name: "g".into(),
        node: nodes,
        input: inputs,
        initializer: constants,
        output: outputs.iter().map(|&o| untyped(o)).collect(),
        ..GraphProto::default()
    }
}

pub fn opset(domain: &str, version: i64) -> OperatorSetIdProto {
    OperatorSetIdProto { domain: domain.to_owned(), version }
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
