//! Operators of `com.microsoft` with attributes from which sizes follow that no model has.

use kiln::ir::DType;
use kiln::loaders::onnx::proto::*;

use super::Hostile;
use super::build::*;

/// A model of one node over inputs of these dtypes and dims; one without a dtype is left out.
fn single(
    name: &str,
    op: &str,
    operands: &[Option<(DType, &[i64])>],
    attributes: Vec<AttributeProto>,
) -> Hostile {
    let names: Vec<String> = (0..operands.len()).map(|i| format!("x{i}")).collect();
    let used = names.iter().zip(operands);
    let used: Vec<&str> = used.map(|(name, o)| if o.is_some() { name } else { "" }).collect();
    let inputs = names.iter().zip(operands);
    let inputs = inputs.filter_map(|(name, o)| o.map(|(dtype, dims)| value(name, dtype, dims))).collect();
    let node = NodeProto { domain: "com.microsoft".into(), ..node(op, &used, &["y"], attributes) };
    Hostile::new(format!("contributed-{name}"), encoded(graph(vec![node], inputs, vec![], &["y"])))
}

pub fn files() -> Vec<Hostile> {
    let f32s = |dims: &'static [i64]| Some((DType::F32, dims));
    let bytes = |dims: &'static [i64]| Some((DType::U8, dims));
    let token: [_; 3] = [f32s(&[1, 1, 4]); 3];
    let weights = [f32s(&[3, 32]), bytes(&[4, 1, 16]), f32s(&[4, 1])];
    let halves = [f32s(&[3, 32]), bytes(&[64]), f32s(&[8])];
    let grouped =
        [f32s(&[1, 3, 32]), None, None, None, None, Some((DType::I32, &[1])), Some((DType::I32, &[]))];
    let heads = |query: i64, key: i64| vec![int("q_num_heads", query), int("kv_num_heads", key)];
    let sizes = |n: i64, k: i64, block: i64| vec![int("N", n), int("K", k), int("block_size", block)];
    let linear = |query, key| [heads(query, key), vec![string("update_rule", "linear")]].concat();
    let bits = |n, k, block| [sizes(n, k, block), vec![int("quant_type", 1)]].concat();
    vec![
        single("heads-of-keys", "LinearAttention", &token, linear(1, 1 << 40)),
        single("heads-of-queries", "LinearAttention", &token, linear(1 << 40, 1)),
        single("block-that-overflows", "MatMulNBits", &weights, sizes(4, 32, 1 << 62)),
        single("columns-without-end", "MatMulNBits", &weights, sizes(i64::MAX, 32, 32)),
        single("depth-without-end", "MatMulNBits", &weights, sizes(4, i64::MAX, 32)),
        single("a-vast-weight", "MatMulBnb4", &halves, bits(1 << 20, 1 << 20, 16)),
        single("a-weight-that-overflows", "MatMulBnb4", &halves, bits(i64::MAX, 1, 16)),
        single("a-block-of-all", "MatMulBnb4", &halves, bits(4, 32, 1 << 62)),
        single(
            "groups-that-overflow",
            "GroupQueryAttention",
            &grouped,
            vec![int("num_heads", 2), int("kv_num_heads", 1 << 62)],
        ),
        single(
            "dilation-that-overflows",
            "CausalConvWithState",
            &[f32s(&[1, 2, 5]), f32s(&[2, 1, 3])],
            vec![int("dilation", 1 << 62)],
        ),
    ]
}
