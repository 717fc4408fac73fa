//! Attributes and operands that no operator can mean, and small files that ask for vast results.

use bytes::Bytes;
use kiln::ir::DType;
use kiln::loaders::onnx::proto::*;

use super::Hostile;
use super::build::*;

/// Inputs of the models: an f32 matrix, an image, a vector, and an i64 vector.
const X: &[i64] = &[2, 3];
const IMAGE: &[i64] = &[1, 2, 8, 8];

fn model_of(name: &str, node: NodeProto, constants: Vec<TensorProto>) -> Hostile {
    let inputs = vec![
        floats("x", X),
        floats("image", IMAGE),
        floats("v", &[4]),
        value("i", DType::I64, &[2]),
        value("text", DType::String, &[2]),
    ];
    let used = |info: &ValueInfoProto| node.input.contains(&info.name);
    let inputs = inputs.into_iter().filter(used).collect();
    let outputs: Vec<String> = node.output.iter().filter(|o| !o.is_empty()).cloned().collect();
    let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
    Hostile::new(name, encoded(graph(vec![node], inputs, constants, &outputs)))
}

pub fn files() -> Vec<Hostile> {
    let mut files = vec![];
    let parts = [bombs, vast_images, shapes, permutations, places, windows, others, sums, layers, models];
    parts.iter().for_each(|part| part(&mut files));
    files
}

/// A rank-0 f32 constant.
fn scalar(name: &str, v: f32) -> TensorProto {
    reals(name, &[], &[v])
}

/// Results of terabytes, asked for in a hundred bytes.
fn bombs(files: &mut Vec<Hostile>) {
    let mut push = |name: &str, node: NodeProto, constants: Vec<TensorProto>| {
        files.push(model_of(&format!("bomb-{name}"), node, constants));
    };
    push(
        "tile",
        node("Tile", &["w", "r"], &["y"], vec![]),
        vec![reals("w", &[1], &[1.0]), longs("r", &[1 << 40])],
    );
    push(
        "tile-of-an-input",
        node("Tile", &["x", "r"], &["y"], vec![]),
        vec![longs("r", &[1 << 20, 1 << 20])],
    );
    push(
        "tile-that-overflows",
        node("Tile", &["x", "r"], &["y"], vec![]),
        vec![longs("r", &[1 << 62, 1 << 62])],
    );
    push(
        "expand",
        node("Expand", &["w", "s"], &["y"], vec![]),
        vec![reals("w", &[1], &[1.0]), longs("s", &[1 << 40])],
    );
    push("constant-of-shape", node("ConstantOfShape", &["s"], &["y"], vec![]), vec![longs("s", &[1 << 40])]);
    push(
        "constant-of-shape-1-gib",
        node("ConstantOfShape", &["s"], &["y"], vec![]),
        vec![longs("s", &[1 << 28])],
    );
    push(
        "constant-of-shape-overflow",
        node("ConstantOfShape", &["s"], &["y"], vec![]),
        vec![longs("s", &[1 << 40; 4])],
    );
    push(
        "range",
        node("Range", &["a", "b", "c"], &["y"], vec![]),
        vec![long("a", 0), long("b", 1 << 40), long("c", 1)],
    );
    push(
        "range-of-all-numbers",
        node("Range", &["a", "b", "c"], &["y"], vec![]),
        vec![long("a", i64::MIN), long("b", i64::MAX), long("c", 1)],
    );
    push(
        "range-of-tiny-steps",
        node("Range", &["a", "b", "c"], &["y"], vec![]),
        vec![scalar("a", 0.0), scalar("b", 1.0), scalar("c", 1e-38)],
    );
    push("pad", node("Pad", &["x", "p"], &["y"], vec![]), vec![longs("p", &[0, 0, 1 << 40, 1 << 40])]);
}

/// The same of pictures, random numbers and transforms.
fn vast_images(files: &mut Vec<Hostile>) {
    let mut push = |name: &str, node: NodeProto, constants: Vec<TensorProto>| {
        files.push(model_of(&format!("bomb-{name}"), node, constants));
    };
    push(
        "resize",
        node("Resize", &["image", "", "s"], &["y"], vec![]),
        vec![reals("s", &[4], &[1.0, 1.0, 1e6, 1e6])],
    );
    push(
        "resize-to-infinity",
        node("Resize", &["image", "", "s"], &["y"], vec![]),
        vec![reals("s", &[4], &[1.0, 1.0, f32::INFINITY, 1.0])],
    );
    push(
        "upsample-sizes",
        node("Resize", &["image", "", "", "z"], &["y"], vec![]),
        vec![longs("z", &[1, 2, 1 << 31, 1 << 31])],
    );
    let one_hot = vec![long("d", 1 << 40), reals("o", &[2], &[0.0, 1.0])];
    push("one-hot", node("OneHot", &["i", "d", "o"], &["y"], vec![]), one_hot);
    push(
        "eye-like-transposed",
        node("Expand", &["x", "s"], &["y"], vec![]),
        vec![longs("s", &[1 << 30, 1 << 30, 2, 3])],
    );
    push("random", node("RandomNormal", &[], &["y"], vec![ints("shape", &[1 << 20, 1 << 20])]), vec![]);
    push("random-overflow", node("RandomUniform", &[], &["y"], vec![ints("shape", &[i64::MAX, 4])]), vec![]);
    push("window", node("HannWindow", &["n"], &["y"], vec![]), vec![long("n", 1 << 40)]);
    push(
        "mel",
        node("MelWeightMatrix", &["a", "b", "c", "d", "e"], &["y"], vec![]),
        vec![
            long("a", 1 << 30),
            long("b", 1 << 30),
            long("c", 8_000),
            scalar("d", 0.0),
            scalar("e", 4_000.0),
        ],
    );
    push(
        "dft",
        node("DFT", &["signal", "n"], &["y"], vec![]),
        vec![reals("signal", &[1, 2, 1], &[1.0, 2.0]), long("n", 1 << 40)],
    );
    let image = png(65_535, 65_535);
    push("png", node("ImageDecoder", &["data"], &["y"], vec![]), vec![image]);
    push(
        "col2im",
        node("Col2Im", &["c", "s", "k"], &["y"], vec![]),
        vec![reals("c", &[1, 1, 1], &[1.0]), longs("s", &[1 << 30, 1 << 30]), longs("k", &[1, 1])],
    );
    push(
        "center-crop-pad",
        node("CenterCropPad", &["x", "s"], &["y"], vec![]),
        vec![longs("s", &[1 << 30, 1 << 30])],
    );
    push(
        "space-of-blocks",
        node("DepthToSpace", &["image"], &["y"], vec![int("blocksize", 1 << 31)]),
        vec![],
    );
    push(
        "transposed-conv",
        node("ConvTranspose", &["image", "w"], &["y"], vec![ints("strides", &[1 << 30, 1 << 30])]),
        vec![reals("w", &[2, 1, 1, 1], &[1.0, 1.0])],
    );
}

/// The start of a PNG file of this size, as u8.
fn png(width: u32, height: u32) -> TensorProto {
    let mut header = b"IHDR".to_vec();
    header.extend(width.to_be_bytes());
    header.extend(height.to_be_bytes());
    header.extend([8, 2, 0, 0, 0]);
    let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
    bytes.extend(&header);
    bytes.extend(crc32(&header).to_be_bytes());
    bytes.extend([0; 32]);
    let dims = vec![bytes.len() as i64];
    TensorProto {
        name: "data".into(),
        data_type: 2,
        dims,
        raw_data: Some(Bytes::from(bytes)),
        ..Default::default()
    }
}

/// CRC of ISO 3309, which PNG uses.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 })
    })
}

/// Shapes and axes that do not exist.
fn shapes(files: &mut Vec<Hostile>) {
    let mut push = |name: &str, node: NodeProto, constants: Vec<TensorProto>| {
        files.push(model_of(name, node, constants))
    };
    for (name, shape) in [
        ("two-unknowns", vec![-1, -1]),
        ("other-size", vec![7]),
        ("negative", vec![-2, 3]),
        ("least", vec![i64::MIN, 1]),
        ("overflow", vec![1 << 62, 1 << 62]),
        ("not-divisible", vec![4, -1]),
        ("zero-beyond", vec![2, 3, 0]),
    ] {
        push(
            &format!("reshape-{name}"),
            node("Reshape", &["x", "s"], &["y"], vec![]),
            vec![longs("s", &shape)],
        );
    }
    push("expand-negative", node("Expand", &["x", "s"], &["y"], vec![]), vec![longs("s", &[-1, 3])]);
    push("expand-other-size", node("Expand", &["x", "s"], &["y"], vec![]), vec![longs("s", &[2, 5])]);
    push("tile-negative", node("Tile", &["x", "r"], &["y"], vec![]), vec![longs("r", &[-1, 1])]);
    push("tile-of-another-rank", node("Tile", &["x", "r"], &["y"], vec![]), vec![longs("r", &[1, 1, 1])]);
    push(
        "constant-of-negative-shape",
        node("ConstantOfShape", &["s"], &["y"], vec![]),
        vec![longs("s", &[-1])],
    );
    push(
        "range-of-no-step",
        node("Range", &["a", "b", "c"], &["y"], vec![]),
        vec![long("a", 0), long("b", 4), long("c", 0)],
    );
    for (op, attribute) in
        [("Softmax", "axis"), ("Concat", "axis"), ("ArgMax", "axis"), ("Hardmax", "axis"), ("Gather", "axis")]
    {
        for (which, axis) in [("beyond", 2), ("below", -3), ("least", i64::MIN), ("largest", i64::MAX)] {
            let inputs: &[&str] = if op == "Gather" { &["x", "i"] } else { &["x"] };
            push(&format!("{op}-axis-{which}"), node(op, inputs, &["y"], vec![int(attribute, axis)]), vec![]);
        }
    }
}

/// Orders of axes, and parts of them.
fn permutations(files: &mut Vec<Hostile>) {
    let mut push = |name: &str, node: NodeProto, constants: Vec<TensorProto>| {
        files.push(model_of(name, node, constants))
    };
    push("transpose-twice-the-same", node("Transpose", &["x"], &["y"], vec![ints("perm", &[0, 0])]), vec![]);
    push("transpose-beyond", node("Transpose", &["x"], &["y"], vec![ints("perm", &[0, 2])]), vec![]);
    push("transpose-negative", node("Transpose", &["x"], &["y"], vec![ints("perm", &[0, i64::MIN])]), vec![]);
    push(
        "transpose-of-another-rank",
        node("Transpose", &["x"], &["y"], vec![ints("perm", &[0, 1, 2])]),
        vec![],
    );
    push("squeeze-of-two", node("Squeeze", &["x", "a"], &["y"], vec![]), vec![longs("a", &[0])]);
    push("unsqueeze-twice", node("Unsqueeze", &["x", "a"], &["y"], vec![]), vec![longs("a", &[0, 0])]);
    push("unsqueeze-beyond", node("Unsqueeze", &["x", "a"], &["y"], vec![]), vec![longs("a", &[1 << 40])]);
    let slice = |starts: &[i64], ends: &[i64], axes: &[i64], steps: &[i64]| {
        vec![longs("s", starts), longs("e", ends), longs("a", axes), longs("t", steps)]
    };
    let slicing = || node("Slice", &["x", "s", "e", "a", "t"], &["y"], vec![]);
    push("slice-of-no-step", slicing(), slice(&[0], &[2], &[0], &[0]));
    push("slice-of-an-axis-twice", slicing(), slice(&[0, 0], &[1, 1], &[0, 0], &[1, 1]));
    push("slice-of-no-axis", slicing(), slice(&[0], &[2], &[9], &[1]));
    push("slice-of-unequal-lists", slicing(), slice(&[0, 1], &[2], &[0], &[1]));
    push(
        "split-of-another-sum",
        node("Split", &["x", "p"], &["y", "z"], vec![int("axis", 1)]),
        vec![longs("p", &[1, 5])],
    );
    push(
        "split-negative",
        node("Split", &["x", "p"], &["y", "z"], vec![int("axis", 1)]),
        vec![longs("p", &[-1, 4])],
    );
    push(
        "split-of-more-results",
        node("Split", &["x", "p"], &["y", "z", "w"], vec![]),
        vec![longs("p", &[1, 1])],
    );
}

/// Indices and counts.
fn places(files: &mut Vec<Hostile>) {
    let mut push = |name: &str, node: NodeProto, constants: Vec<TensorProto>| {
        files.push(model_of(name, node, constants))
    };
    push("gather-beyond", node("Gather", &["x", "j"], &["y"], vec![]), vec![longs("j", &[2])]);
    push("gather-of-the-least", node("Gather", &["x", "j"], &["y"], vec![]), vec![longs("j", &[i64::MIN])]);
    push(
        "gather-elements-beyond",
        node("GatherElements", &["x", "j"], &["y"], vec![]),
        vec![TensorProto { dims: vec![1, 3], ..longs("j", &[0, 1, 7]) }],
    );
    push(
        "gather-nd-beyond",
        node("GatherND", &["x", "j"], &["y"], vec![]),
        vec![TensorProto { dims: vec![1, 2], ..longs("j", &[1, 3]) }],
    );
    push(
        "gather-nd-of-too-many-axes",
        node("GatherND", &["x", "j"], &["y"], vec![]),
        vec![TensorProto { dims: vec![1, 3], ..longs("j", &[0, 0, 0]) }],
    );
    push(
        "scatter-beyond",
        node("ScatterElements", &["x", "j", "u"], &["y"], vec![]),
        vec![TensorProto { dims: vec![1, 1], ..longs("j", &[9]) }, reals("u", &[1, 1], &[1.0])],
    );
    push(
        "scatter-nd-beyond",
        node("ScatterND", &["x", "j", "u"], &["y"], vec![]),
        vec![TensorProto { dims: vec![1, 2], ..longs("j", &[0, 3]) }, reals("u", &[1], &[1.0])],
    );
    push("top-k-of-too-many", node("TopK", &["x", "k"], &["y", "z"], vec![]), vec![longs("k", &[4])]);
    push("top-k-negative", node("TopK", &["x", "k"], &["y", "z"], vec![]), vec![longs("k", &[-1])]);
    push("cumulative-axis-beyond", node("CumSum", &["x", "a"], &["y"], vec![]), vec![long("a", 2)]);
    push("pad-below-nothing", node("Pad", &["x", "p"], &["y"], vec![]), vec![longs("p", &[-3, 0, 0, 0])]);
    push("pad-of-too-few", node("Pad", &["x", "p"], &["y"], vec![]), vec![longs("p", &[1])]);
    push(
        "pad-of-an-unknown-mode",
        node("Pad", &["x", "p"], &["y"], vec![string("mode", "sideways")]),
        vec![longs("p", &[0; 4])],
    );
}

/// Windows, strides and groups.
fn windows(files: &mut Vec<Hostile>) {
    let kernel = || vec![reals("w", &[2, 2, 3, 3], &[1.0; 36])];
    let mut conv = |name: &str, attributes: Vec<AttributeProto>, constants: Vec<TensorProto>| {
        files.push(model_of(
            &format!("conv-{name}"),
            node("Conv", &["image", "w"], &["y"], attributes),
            constants,
        ));
    };
    conv("stride-0", vec![ints("strides", &[0, 1])], kernel());
    conv("stride-negative", vec![ints("strides", &[-1, 1])], kernel());
    conv("stride-of-the-least", vec![ints("strides", &[i64::MIN, 1])], kernel());
    conv("strides-of-3-axes", vec![ints("strides", &[1, 1, 1])], kernel());
    conv("dilation-0", vec![ints("dilations", &[0, 1])], kernel());
    conv("dilation-of-the-largest", vec![ints("dilations", &[i64::MAX, 1])], kernel());
    conv("group-0", vec![int("group", 0)], kernel());
    conv("group-negative", vec![int("group", -2)], kernel());
    conv("group-that-does-not-divide", vec![int("group", 3)], kernel());
    conv("pads-that-overflow", vec![ints("pads", &[i64::MAX, 0, i64::MAX, 0])], kernel());
    conv("pads-of-2-40", vec![ints("pads", &[1 << 40, 1, 1, 1])], kernel());
    conv("pads-below-nothing", vec![ints("pads", &[-8, -8, -8, -8])], kernel());
    conv("kernel-shape-of-another", vec![ints("kernel_shape", &[5, 5])], kernel());
    conv("auto-pad-unknown", vec![string("auto_pad", "SOMEHOW")], kernel());
    conv("kernel-larger-than-the-image", vec![], vec![reals("w", &[1, 2, 10, 10], &[1.0; 200])]);
    conv("kernel-of-nothing", vec![], vec![reals("w", &[1, 2, 0, 3], &[])]);
    conv("kernel-of-other-channels", vec![], vec![reals("w", &[1, 3, 1, 1], &[1.0; 3])]);
    conv("kernel-of-rank-3", vec![], vec![reals("w", &[1, 2, 1], &[1.0; 2])]);
    let mut pool = |name: &str, attributes: Vec<AttributeProto>| {
        files.push(model_of(
            &format!("pool-{name}"),
            node("MaxPool", &["image"], &["y"], attributes),
            vec![],
        ));
    };
    pool("without-a-kernel", vec![]);
    pool("kernel-0", vec![ints("kernel_shape", &[0, 2])]);
    pool("kernel-negative", vec![ints("kernel_shape", &[-2, 2])]);
    pool("kernel-of-2-40", vec![ints("kernel_shape", &[1 << 40, 1 << 40])]);
    pool("stride-0", vec![ints("kernel_shape", &[2, 2]), ints("strides", &[0, 0])]);
    pool("dilation-overflow", vec![ints("kernel_shape", &[3, 3]), ints("dilations", &[i64::MAX, 1])]);
    pool("pads-of-too-few", vec![ints("kernel_shape", &[2, 2]), ints("pads", &[1])]);
    pool("kernel-of-one-axis", vec![ints("kernel_shape", &[2])]);
}

/// Everything else.
fn others(files: &mut Vec<Hostile>) {
    let mut push = |name: &str, node: NodeProto, constants: Vec<TensorProto>| {
        files.push(model_of(name, node, constants))
    };
    push(
        "resize-by-nothing",
        node("Resize", &["image", "", "s"], &["y"], vec![]),
        vec![reals("s", &[4], &[1.0, 1.0, 0.0, 1.0])],
    );
    push(
        "resize-by-nan",
        node("Resize", &["image", "", "s"], &["y"], vec![]),
        vec![reals("s", &[4], &[1.0, 1.0, f32::NAN, 1.0])],
    );
    push(
        "resize-backwards",
        node("Resize", &["image", "", "s"], &["y"], vec![]),
        vec![reals("s", &[4], &[1.0, 1.0, -2.0, 1.0])],
    );
    push(
        "resize-to-negative",
        node("Resize", &["image", "", "", "z"], &["y"], vec![]),
        vec![longs("z", &[1, 2, -4, 4])],
    );
    push("resize-of-neither", node("Resize", &["image"], &["y"], vec![]), vec![]);
    push(
        "einsum-of-another-rank",
        node("Einsum", &["x"], &["y"], vec![string("equation", "abc->a")]),
        vec![],
    );
    push(
        "einsum-of-no-operand",
        node("Einsum", &["x"], &["y"], vec![string("equation", "ab,bc->ac")]),
        vec![],
    );
    push(
        "einsum-of-no-letters",
        node("Einsum", &["x"], &["y"], vec![string("equation", "1$->\u{0}")]),
        vec![],
    );
    push("einsum-of-a-new-label", node("Einsum", &["x"], &["y"], vec![string("equation", "ab->az")]), vec![]);
    push("matmul-of-other-sizes", node("MatMul", &["x", "x"], &["y"], vec![]), vec![]);
    push("matmul-of-a-scalar", node("MatMul", &["x", "s"], &["y"], vec![]), vec![reals("s", &[], &[1.0])]);
    push("gemm-of-text", node("Gemm", &["text", "text"], &["y"], vec![]), vec![]);
}

/// Sums, conversions and normalizations.
fn sums(files: &mut Vec<Hostile>) {
    let mut push = |name: &str, node: NodeProto, constants: Vec<TensorProto>| {
        files.push(model_of(name, node, constants))
    };
    push("add-of-other-sizes", node("Add", &["x", "v"], &["y"], vec![]), vec![]);
    push("add-of-two-dtypes", node("Add", &["v", "i"], &["y"], vec![]), vec![]);
    push("add-of-text", node("Add", &["text", "text"], &["y"], vec![]), vec![]);
    push("relu-of-text", node("Relu", &["text"], &["y"], vec![]), vec![]);
    push("cast-to-nothing", node("Cast", &["x"], &["y"], vec![int("to", 0)]), vec![]);
    push("cast-to-99", node("Cast", &["x"], &["y"], vec![int("to", 99)]), vec![]);
    push(
        "cast-of-words-to-numbers",
        node("Cast", &["w"], &["y"], vec![int("to", 1)]),
        vec![TensorProto {
            name: "w".into(),
            data_type: 8,
            dims: vec![1],
            string_data: vec![Bytes::from_static(b"many")],
            ..TensorProto::default()
        }],
    );
    let norm = |op: &str| node(op, &["image", "s", "s", "s", "s"], &["y"], vec![]);
    push("batch-norm-of-other-channels", norm("BatchNormalization"), vec![reals("s", &[5], &[1.0; 5])]);
    push(
        "group-norm-of-no-groups",
        node("GroupNormalization", &["image", "s", "s"], &["y"], vec![int("num_groups", 0)]),
        vec![reals("s", &[2], &[1.0; 2])],
    );
    push("lrn-of-negative-size", node("LRN", &["image"], &["y"], vec![int("size", -3)]), vec![]);
}

/// Layers, quantization, text and pictures.
fn layers(files: &mut Vec<Hostile>) {
    let mut push = |name: &str, node: NodeProto, constants: Vec<TensorProto>| {
        files.push(model_of(name, node, constants))
    };
    push(
        "lstm-of-a-vast-hidden-size",
        node("LSTM", &["x", "w", "w"], &["y"], vec![int("hidden_size", 1 << 40)]),
        vec![reals("w", &[1, 4, 3], &[1.0; 12])],
    );
    push(
        "gru-of-another-rank",
        node("GRU", &["x", "w", "w"], &["y"], vec![int("hidden_size", 1)]),
        vec![reals("w", &[3, 3], &[1.0; 9])],
    );
    push(
        "quantize-by-other-axis",
        node("QuantizeLinear", &["x", "s", "z"], &["y"], vec![int("axis", 7)]),
        vec![
            reals("s", &[3], &[1.0; 3]),
            TensorProto {
                name: "z".into(),
                data_type: 2,
                dims: vec![3],
                raw_data: Some(Bytes::from_static(&[0; 3])),
                ..Default::default()
            },
        ],
    );
    push(
        "dequantize-by-negative-blocks",
        node("DequantizeLinear", &["q", "s"], &["y"], vec![int("block_size", -2), int("axis", 1)]),
        vec![
            TensorProto {
                name: "q".into(),
                data_type: 2,
                dims: vec![2, 4],
                raw_data: Some(Bytes::from_static(&[0; 8])),
                ..Default::default()
            },
            reals("s", &[2, 2], &[1.0; 4]),
        ],
    );
    push(
        "one-hot-of-negative-depth",
        node("OneHot", &["i", "d", "o"], &["y"], vec![]),
        vec![long("d", -4), reals("o", &[2], &[0.0, 1.0])],
    );
}

/// Patterns, trees and heads.
fn models(files: &mut Vec<Hostile>) {
    let mut push = |name: &str, node: NodeProto, constants: Vec<TensorProto>| {
        files.push(model_of(name, node, constants))
    };
    push(
        "regex-of-a-vast-program",
        node("RegexFullMatch", &["text"], &["y"], vec![string("pattern", "((a{900}){900}){900}")]),
        vec![],
    );
    push(
        "regex-that-does-not-parse",
        node("RegexFullMatch", &["text"], &["y"], vec![string("pattern", "(((")]),
        vec![],
    );
    push(
        "image-of-nothing",
        node("ImageDecoder", &["data"], &["y"], vec![]),
        vec![TensorProto {
            name: "data".into(),
            data_type: 2,
            dims: vec![0],
            raw_data: Some(Bytes::new()),
            ..TensorProto::default()
        }],
    );
    push("image-that-is-cut-off", node("ImageDecoder", &["data"], &["y"], vec![]), vec![png(4, 4)]);
    push("tree-that-loops", tree(&[0, 0], &[0, 0]), vec![]);
    push("tree-of-missing-nodes", tree(&[5, 6], &[7, 8]), vec![]);
    push("attribute-of-another-type", node("Softmax", &["x"], &["y"], vec![string("axis", "one")]), vec![]);
    push(
        "attention-of-heads-that-do-not-divide",
        node("Attention", &["h", "h", "h"], &["y"], vec![int("q_num_heads", 3), int("kv_num_heads", 2)]),
        vec![reals("h", &[1, 2, 6], &[1.0; 12])],
    );
    push(
        "dft-of-no-axis",
        node("DFT", &["signal", "", "a"], &["y"], vec![]),
        vec![reals("signal", &[1, 2, 1], &[1.0, 2.0]), long("a", 9)],
    );
    push(
        "stft-of-no-step",
        node("STFT", &["signal", "t", "window"], &["y"], vec![]),
        vec![reals("signal", &[1, 4, 1], &[1.0; 4]), long("t", 0), reals("window", &[2], &[1.0; 2])],
    );
}

/// A tree of two inner nodes whose children are these.
fn tree(truenodes: &[i64], falsenodes: &[i64]) -> NodeProto {
    let domain = "ai.onnx.ml".to_owned();
    let modes = AttributeProto {
        name: "nodes_modes".into(),
        r#type: attribute_type::STRINGS,
        strings: vec![Bytes::from_static(b"BRANCH_LEQ"); 2],
        ..AttributeProto::default()
    };
    let values = AttributeProto {
        name: "nodes_values".into(),
        r#type: attribute_type::FLOATS,
        floats: vec![0.5; 2],
        ..AttributeProto::default()
    };
    let attributes = vec![
        modes,
        values,
        ints("nodes_treeids", &[0, 0]),
        ints("nodes_nodeids", &[0, 1]),
        ints("nodes_featureids", &[0, 0]),
        ints("nodes_truenodeids", truenodes),
        ints("nodes_falsenodeids", falsenodes),
        ints("target_treeids", &[0]),
        ints("target_nodeids", &[0]),
        ints("target_ids", &[0]),
        AttributeProto {
            name: "target_weights".into(),
            r#type: attribute_type::FLOATS,
            floats: vec![1.0],
            ..Default::default()
        },
        int("n_targets", 1),
        float("unused", f32::NAN),
    ];
    NodeProto { domain, ..node("TreeEnsembleRegressor", &["x"], &["y"], attributes) }
}
