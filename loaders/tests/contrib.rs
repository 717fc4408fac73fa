//! Operators of `com.microsoft`: what is not implemented is refused by node and reason. What they compute is compared in
//! `tests/tests/contrib.rs`.

mod common;

use common::*;
use kiln_ir::DType;
use kiln_loaders::IssueKind;
use kiln_loaders::onnx::proto::*;

/// A model of one node over inputs of these dtypes and dims; a missing operand has rank -1 dims.
fn single(op: &str, operands: &[Option<(DType, &[i64])>], attributes: Vec<AttributeProto>) -> ModelProto {
    let names: Vec<String> = (0..operands.len()).map(|i| format!("x{i}")).collect();
    let used: Vec<&str> =
        names.iter().zip(operands).map(|(n, o)| if o.is_some() { n.as_str() } else { "" }).collect();
    let inputs = names
        .iter()
        .zip(operands)
        .filter_map(|(n, o)| o.map(|(dtype, dims)| value(n, dtype, dims)))
        .collect();
    let mut n = node(op, &used, &["y"], attributes);
    n.domain = "com.microsoft".into();
    let mut m = model(18, graph(vec![n], inputs, &["y"]));
    m.opset_import.push(OperatorSetIdProto { domain: "com.microsoft".into(), version: 1 });
    m
}

fn refused(op: &str, operands: &[Option<(DType, &[i64])>], attributes: Vec<AttributeProto>, reason: &str) {
    let found = issues(&single(op, operands, attributes));
    assert_eq!(found.len(), 1, "{op}: {found:?}");
    assert_eq!(found[0].kind, IssueKind::Unsupported, "{op}: {found:?}");
    assert_eq!(found[0].origin.node, format!("{op}_y"));
    assert_eq!(found[0].domain, "com.microsoft");
    assert!(found[0].reason.contains(reason), "{op}: {}", found[0].reason);
}

const F: DType = DType::F32;

#[test]
fn attribute_values_that_are_not_implemented_are_refused_by_name() {
    let joint = [Some((F, &[2, 3, 4][..])), Some((F, &[4, 24][..])), Some((F, &[24][..]))];
    let heads = || int("num_heads", 2);
    refused("Attention", &joint, vec![heads(), int("do_rotary", 1)], "`do_rotary` of 1");
    refused(
        "Attention",
        &joint,
        vec![heads(), int("past_present_share_buffer", 1)],
        "`past_present_share_buffer`",
    );
    let grouped = [
        Some((F, &[1, 3, 32][..])),
        Some((F, &[1, 3, 16][..])),
        Some((F, &[1, 3, 16][..])),
        None,
        None,
        Some((DType::I32, &[1][..])),
        Some((DType::I32, &[][..])),
    ];
    let groups = || vec![heads(), int("kv_num_heads", 1)];
    let with = |a: AttributeProto| [groups(), vec![a]].concat();
    refused(
        "GroupQueryAttention",
        &grouped,
        with(string("k_quant_type", "PER_TENSOR")),
        "`k_quant_type` is PER_TENSOR",
    );
    refused(
        "GroupQueryAttention",
        &grouped,
        with(int("sliding_window_cache", 1)),
        "`sliding_window_cache` of 1",
    );
    let experts = [
        Some((F, &[5, 4][..])),
        Some((F, &[5, 3][..])),
        Some((F, &[3, 6, 4][..])),
        None,
        Some((F, &[3, 4, 6][..])),
    ];
    refused("MoE", &experts, vec![int("use_sparse_mixer", 1)], "`use_sparse_mixer` of 1");
    let rows = [Some((F, &[2, 3][..])), Some((F, &[4, 3][..]))];
    refused("CDist", &rows, vec![string("metric", "cosine")], "metric `cosine`");
    let conv = [Some((F, &[1, 2, 5, 5][..])), Some((F, &[3, 2, 3, 3][..]))];
    refused("FusedConv", &conv, vec![string("activation", "Mish")], "activation `Mish`");
    let grid = [Some((F, &[1, 2, 5, 5][..])), Some((F, &[1, 3, 3, 2][..]))];
    let cubic = vec![string("mode", "bicubic"), string("padding_mode", "border")];
    refused("GridSample", &grid, cubic, "`bicubic` with padding_mode `border`");
    let causal = [Some((F, &[1, 2, 5][..])), Some((F, &[2, 1, 3][..]))];
    refused("CausalConvWithState", &causal, vec![int("state_window", 2)], "`state_window` of 2");
}

#[test]
fn operands_that_are_not_implemented_are_refused_by_name() {
    let weights = [
        Some((F, &[3, 32][..])),
        Some((DType::U8, &[4, 1, 16][..])),
        Some((F, &[4, 1][..])),
        None,
        Some((DType::I32, &[32][..])),
    ];
    let attributes = vec![int("K", 32), int("N", 4), int("block_size", 32)];
    refused("MatMulNBits", &weights, attributes, "`g_idx`");
    let text = [Some((DType::String, &[3][..]))];
    refused("MurmurHash3", &text, vec![], "the hash of string");
}
