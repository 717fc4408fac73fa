//! Messages in few words: what tests and tools build models with.

use bytes::Bytes;
use kiln_ir::DType;

use super::proto::{
    AttributeProto, DimensionProto, DimensionValue, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, TypeValue, ValueInfoProto, attribute_type,
};
use super::tensor::data_type;

/// A node with attributes, named after its operator and first result.
pub fn node(op: &str, inputs: &[&str], outputs: &[&str], attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        op_type: op.to_owned(),
        name: format!("{op}_{}", outputs.first().copied().unwrap_or("")),
        input: inputs.iter().map(|&s| s.to_owned()).collect(),
        output: outputs.iter().map(|&s| s.to_owned()).collect(),
        attribute,
        ..NodeProto::default()
    }
}

/// An integer attribute.
pub fn int(name: &str, v: i64) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: attribute_type::INT, i: Some(v), ..Default::default() }
}

/// An attribute of integers.
pub fn ints(name: &str, v: &[i64]) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: attribute_type::INTS, ints: v.to_vec(), ..Default::default() }
}

/// A float attribute.
pub fn float(name: &str, v: f32) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: attribute_type::FLOAT, f: Some(v), ..Default::default() }
}

/// An attribute of floats.
pub fn floats(name: &str, v: &[f32]) -> AttributeProto {
    let floats = v.to_vec();
    AttributeProto { name: name.into(), r#type: attribute_type::FLOATS, floats, ..Default::default() }
}

/// A string attribute.
pub fn string(name: &str, v: &str) -> AttributeProto {
    let s = Some(Bytes::copy_from_slice(v.as_bytes()));
    AttributeProto { name: name.into(), r#type: attribute_type::STRING, s, ..Default::default() }
}

/// An attribute of strings.
pub fn strings(name: &str, v: &[&str]) -> AttributeProto {
    let strings = v.iter().map(|s| Bytes::copy_from_slice(s.as_bytes())).collect();
    AttributeProto { name: name.into(), r#type: attribute_type::STRINGS, strings, ..Default::default() }
}

/// A tensor attribute.
pub fn tensor_attr(name: &str, t: TensorProto) -> AttributeProto {
    let t = Some(Box::new(t));
    AttributeProto { name: name.into(), r#type: attribute_type::TENSOR, t, ..Default::default() }
}

/// A graph attribute.
pub fn graph_attr(name: &str, g: GraphProto) -> AttributeProto {
    let g = Some(Box::new(g));
    AttributeProto { name: name.into(), r#type: attribute_type::GRAPH, g, ..Default::default() }
}

/// In a function body: the attribute `to` of the function.
pub fn reference(name: &str, to: &str, ty: i32) -> AttributeProto {
    AttributeProto { name: name.into(), ref_attr_name: to.into(), r#type: ty, ..Default::default() }
}

/// A dim of constant size.
pub fn fixed(size: i64) -> DimensionProto {
    DimensionProto { value: Some(DimensionValue::DimValue(size)) }
}

/// A dim of a size with a name.
pub fn symbolic(name: &str) -> DimensionProto {
    DimensionProto { value: Some(DimensionValue::DimParam(name.to_owned())) }
}

/// A tensor value of a dtype's number with dims of any kind; without a shape if there are none.
pub fn tensor_value(name: &str, elem_type: i32, dims: Option<Vec<DimensionProto>>) -> ValueInfoProto {
    let tensor = TensorTypeProto { elem_type, shape: dims.map(|dim| TensorShapeProto { dim }) };
    ValueInfoProto { name: name.into(), r#type: Some(TypeProto { value: Some(TypeValue::Tensor(tensor)) }) }
}

/// A value with dims, as they are, of a dtype's number.
pub fn raw_value(name: &str, elem_type: i32, dims: &[i64]) -> ValueInfoProto {
    tensor_value(name, elem_type, Some(dims.iter().map(|&d| fixed(d)).collect()))
}

/// A value with dims; negative ones are symbols `N1`, `N2`, ...
pub fn value(name: &str, dtype: DType, dims: &[i64]) -> ValueInfoProto {
    let dim = |&d: &i64| if d < 0 { symbolic(&format!("N{}", -d)) } else { fixed(d) };
    tensor_value(name, data_type(dtype), Some(dims.iter().map(dim).collect()))
}

/// A value without a type.
pub fn untyped(name: &str) -> ValueInfoProto {
    ValueInfoProto { name: name.into(), r#type: None }
}

/// A graph whose outputs have no declared type.
pub fn graph(nodes: Vec<NodeProto>, inputs: Vec<ValueInfoProto>, outputs: &[&str]) -> GraphProto {
    GraphProto {
        name: "g".into(),
        node: nodes,
        input: inputs,
        output: outputs.iter().map(|&o| untyped(o)).collect(),
        ..GraphProto::default()
    }
}

/// The import of a domain.
pub fn opset(domain: &str, version: i64) -> OperatorSetIdProto {
    OperatorSetIdProto { domain: domain.to_owned(), version }
}

/// A model of the default domain.
pub fn model(version: i64, graph: GraphProto) -> ModelProto {
    let opset_import = vec![opset("", version)];
    ModelProto { ir_version: 8, opset_import, graph: Some(graph), ..ModelProto::default() }
}
