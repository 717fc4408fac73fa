//! Bytes that are no message, or hardly one.

use kiln::loaders::onnx::proto::*;
use prost::Message;

use super::Hostile;
use super::build::*;

/// A field of wire type 2.
fn field(number: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![];
    prost::encoding::encode_varint(u64::from(number << 3 | 2), &mut bytes);
    prost::encoding::encode_varint(payload.len() as u64, &mut bytes);
    bytes.extend_from_slice(payload);
    bytes
}

/// Field `number` around itself, `depth` times.
fn nested(numbers: &[u32], depth: usize) -> Vec<u8> {
    (0..depth).fold(vec![], |inner, _| numbers.iter().rev().fold(inner, |inner, &n| field(n, &inner)))
}

/// A graph field of the model around these bytes.
fn in_graph(bytes: &[u8]) -> Vec<u8> {
    [field(8, &[0x10, 21]), field(7, bytes)].concat()
}

pub fn files() -> Vec<Hostile> {
    let mut files = vec![
        Hostile::new("empty", vec![]),
        Hostile::new("zeros", vec![0; 64]),
        Hostile::new("one-byte", vec![0x08]),
        Hostile::new("all-ones", vec![0xff; 64]),
        Hostile::new("text", b"this is not a model\n".repeat(8)),
        Hostile::new("only-a-version", vec![0x08, 0x0a]),
        Hostile::new("group-start", in_graph(&[0x0b, 0x0c])),
        Hostile::new("group-end", in_graph(&[0x0c])),
        Hostile::new("wire-type-6", in_graph(&[0x0e, 0])),
        Hostile::new("wire-type-7", in_graph(&[0x0f, 0])),
        Hostile::new("field-number-0", in_graph(&[0x02, 0])),
        Hostile::new("varint-of-11-bytes", in_graph(&[0xff; 11])),
        Hostile::new("length-beyond-the-end", [field(8, &[0x10, 21]), vec![0x3a, 0x7f, 0x0a]].concat()),
        Hostile::new("length-2-31", [vec![0x3a, 0x80, 0x80, 0x80, 0x80, 0x08], vec![0; 8]].concat()),
        Hostile::new("length-2-63", [vec![0x3a], vec![0x80; 9], vec![0x01], vec![0; 8]].concat()),
        Hostile::new("length-of-the-inner-beyond-the-outer", in_graph(&[0x0a, 0x7f, 0x0a, 0x00])),
        Hostile::new("graphs-100-deep", in_graph(&nested(&[1, 5, 6], 40))),
        Hostile::new("graphs-3000-deep", in_graph(&nested(&[1, 5, 6], 3_000))),
        Hostile::new("types-100-deep", in_graph(&field(11, &field(2, &nested(&[4, 1], 60))))),
        Hostile::new("types-3000-deep", in_graph(&field(11, &field(2, &nested(&[4, 1], 3_000))))),
        Hostile::new("optional-types-deep", in_graph(&field(11, &field(2, &nested(&[9, 1], 500))))),
    ];
    // Two bytes of file, hundreds in memory.
    for (name, number) in [("nodes", 1), ("initializers", 5), ("inputs", 11), ("outputs", 12)] {
        files.push(Hostile::new(format!("empty-{name}"), in_graph(&field(number, &[]).repeat(400_000))));
    }
    let attributes = field(1, &field(5, &[]).repeat(400_000));
    files.push(Hostile::new("empty-attributes", in_graph(&attributes)));
    files.push(Hostile::new("empty-names", in_graph(&field(1, &field(1, &[]).repeat(400_000)))));
    files.push(Hostile::new("empty-functions", [in_graph(&[]), field(25, &[]).repeat(200_000)].concat()));
    truncated(&mut files);
    wrong_types(&mut files);
    no_utf8(&mut files);
    files
}

/// A sound model, cut at places that all lie inside of its graph.
fn truncated(files: &mut Vec<Hostile>) {
    let sound = sound().encode_to_vec();
    // The imports of opsets come last.
    let end = sound.len() - 40;
    for part in 1..=24 {
        let length = end * part / 25;
        files.push(Hostile::new(format!("cut-{part}-of-25"), sound[..length].to_vec()));
    }
}

/// Fields whose wire type is not that of their message.
fn wrong_types(files: &mut Vec<Hostile>) {
    let places: [(&str, &[u8]); 8] = [
        ("node-as-number", &[0x08, 5]),
        ("node-as-fixed64", &[0x09, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("name-as-number", &[0x10, 5]),
        ("name-as-fixed32", &[0x15, 0, 0, 0, 0]),
        ("initializer-as-number", &[0x28, 5]),
        ("input-as-number", &[0x58, 5]),
        ("output-as-fixed32", &[0x65, 0, 0, 0, 0]),
        ("output-as-number", &[0x60, 5]),
    ];
    for (name, bytes) in places {
        files.push(Hostile::new(name, in_graph(bytes)));
    }
    files.push(Hostile::new("graph-as-number", vec![0x42, 2, 0x10, 21, 0x38, 5]));
    files.push(Hostile::new("version-as-text", vec![0x0a, 1, b'8', 0x3a, 2, 0x0a, 0]));
}

/// Text fields that are not UTF-8.
fn no_utf8(files: &mut Vec<Hostile>) {
    const MARK: &str = "~mark~";
    let mut push = |name: &str, edit: &dyn Fn(&mut ModelProto)| {
        let mut model = sound();
        edit(&mut model);
        let mut bytes = model.encode_to_vec();
        let at = bytes.windows(MARK.len()).position(|w| w == MARK.as_bytes());
        let at = at.unwrap_or_else(|| panic!("{name}: no text was marked"));
        bytes[at..at + MARK.len()].copy_from_slice(&[0xff, 0xfe, 0x80, 0xc0, 0xed, 0xa0]);
        files.push(Hostile::new(format!("no-utf8-{name}"), bytes));
    };
    let mark = || MARK.to_owned();
    let graph = |m: &mut ModelProto, edit: &dyn Fn(&mut GraphProto)| m.graph.iter_mut().for_each(edit);
    push("producer", &|m| m.producer_name = mark());
    push("opset-domain", &|m| m.opset_import[0].domain = mark());
    push("graph-name", &|m| graph(m, &|g| g.name = mark()));
    push("node-name", &|m| graph(m, &|g| g.node[0].name = mark()));
    push("node-op", &|m| graph(m, &|g| g.node[0].op_type = mark()));
    push("node-domain", &|m| graph(m, &|g| g.node[0].domain = mark()));
    push("node-input", &|m| graph(m, &|g| g.node[0].input[0] = mark()));
    push("node-output", &|m| graph(m, &|g| g.node[1].output[0] = mark()));
    push("attribute-name", &|m| graph(m, &|g| g.node[0].attribute = vec![int(MARK, 1)]));
    push("initializer-name", &|m| graph(m, &|g| g.initializer[0].name = mark()));
    push("input-name", &|m| graph(m, &|g| g.input[0].name = mark()));
    push("output-name", &|m| graph(m, &|g| g.output[0].name = mark()));
    let symbol = DimensionProto { value: Some(DimensionValue::DimParam(mark())) };
    let shape = Some(TensorShapeProto { dim: vec![symbol] });
    let ty = TypeProto { value: Some(TypeValue::Tensor(TensorTypeProto { elem_type: 1, shape })) };
    push("symbol", &|m| graph(m, &|g| g.input[0].r#type = Some(ty.clone())));
}
