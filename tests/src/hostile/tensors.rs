//! Weights that lie about themselves, in the file and beside it.

use bytes::Bytes;
use kiln::loaders::onnx::proto::*;

use super::build::*;
use super::{Beside, Hostile};

/// A model whose one constant, and output, is this.
fn constant(name: &str, proto: TensorProto) -> Hostile {
    let proto = TensorProto { name: "w".into(), ..proto };
    let graph = graph(vec![node("Identity", &["w"], &["y"], vec![])], vec![], vec![proto], &["y"]);
    Hostile::new(name, encoded(graph))
}

fn raw(data_type: i32, dims: &[i64], bytes: usize) -> TensorProto {
    let raw_data = Some(Bytes::from(vec![1; bytes]));
    TensorProto { data_type, dims: dims.to_vec(), raw_data, ..TensorProto::default() }
}

pub fn files() -> Vec<Hostile> {
    let mut files = vec![
        constant("dtype-0", raw(0, &[4], 16)),
        constant("dtype-27", raw(27, &[4], 16)),
        constant("dtype-minus-1", raw(-1, &[4], 16)),
        constant("dim-minus-1", raw(1, &[-1], 4)),
        constant("dim-of-the-least-number", raw(1, &[i64::MIN], 4)),
        constant("dims-that-overflow", raw(1, &[1 << 33, 1 << 33], 4)),
        constant("dims-that-overflow-to-zero", raw(1, &[1 << 32, 1 << 32], 0)),
        constant("dims-of-two-negatives", raw(1, &[-2, -2], 16)),
        constant("dims-of-2-62", raw(1, &[1 << 62], 4)),
        constant(
            "dims-without-data",
            TensorProto { data_type: 1, dims: vec![1 << 20], ..Default::default() },
        ),
        constant("text-as-raw-data", raw(8, &[2], 8)),
        constant("text-of-too-few", {
            let string_data = vec![Bytes::from_static(b"a")];
            TensorProto { data_type: 8, dims: vec![2], string_data, ..TensorProto::default() }
        }),
        constant("text-that-is-not-utf8", {
            let string_data = vec![Bytes::from_static(&[0xff, 0xfe])];
            TensorProto { data_type: 8, dims: vec![1], string_data, ..TensorProto::default() }
        }),
        constant("floats-of-too-few", reals("w", &[5], &[1.0; 4])),
        constant("floats-of-too-many", reals("w", &[3], &[1.0; 4])),
        constant("floats-as-doubles", TensorProto { data_type: 11, ..reals("w", &[4], &[1.0; 4]) }),
        constant("complex-of-half-an-element", TensorProto { data_type: 14, ..reals("w", &[2], &[1.0; 3]) }),
        constant("external-and-nowhere", TensorProto { data_location: 1, ..raw(1, &[1], 4) }),
    ];
    // Each dtype with a byte too few and a byte too many.
    for (dtype, bytes) in [(1, 4), (2, 1), (3, 1), (5, 2), (7, 8), (10, 2), (11, 8), (15, 16), (17, 1)] {
        files.push(constant(&format!("short-data-{dtype}"), raw(dtype, &[4], 4 * bytes - 1)));
        files.push(constant(&format!("long-data-{dtype}"), raw(dtype, &[4], 4 * bytes + 1)));
    }
    for (dtype, bytes) in [(21, 2), (22, 2), (23, 2), (25, 1), (26, 1)] {
        files.push(constant(&format!("short-packed-{dtype}"), raw(dtype, &[4], bytes - 1)));
        files.push(constant(&format!("long-packed-{dtype}"), raw(dtype, &[4], bytes + 1)));
    }
    sparse(&mut files);
    places(&mut files);
    ranges(&mut files);
    files
}

fn sparse(files: &mut Vec<Hostile>) {
    let mut push = |name: &str, dims: &[i64], values: TensorProto, indices: Option<TensorProto>| {
        let values = Some(TensorProto { name: "w".into(), ..values });
        let sparse = SparseTensorProto { values, indices, dims: dims.to_vec() };
        let mut graph = graph(vec![node("Identity", &["w"], &["y"], vec![])], vec![], vec![], &["y"]);
        graph.sparse_initializer = vec![sparse];
        files.push(Hostile::new(format!("sparse-{name}"), encoded(graph)));
    };
    let one = || reals("w", &[1], &[1.0]);
    push("bomb", &[1 << 40], one(), Some(longs("i", &[0])));
    push("overflow", &[1 << 40, 1 << 40], one(), Some(longs("i", &[0])));
    push("negative-dim", &[-4], one(), Some(longs("i", &[0])));
    push("negative-index", &[4], one(), Some(longs("i", &[-1])));
    push("index-beyond", &[4], one(), Some(longs("i", &[4])));
    push("index-of-the-largest", &[4], one(), Some(longs("i", &[i64::MAX])));
    push("fewer-indices", &[4], reals("w", &[2], &[1.0; 2]), Some(longs("i", &[0])));
    push("more-indices", &[4], one(), Some(longs("i", &[0, 1])));
    push("no-indices", &[4], one(), None);
    push("indices-of-floats", &[4], one(), Some(reals("i", &[1], &[0.0])));
    let wide = TensorProto { dims: vec![1, 3], ..longs("i", &[0, 0, 0]) };
    push("indices-of-another-rank", &[2, 2], one(), Some(wide));
}

/// A constant of 16 bytes that lies elsewhere.
fn external(entries: &[(&str, &str)]) -> TensorProto {
    let entry =
        |&(key, value): &(&str, &str)| StringStringEntryProto { key: key.into(), value: value.into() };
    TensorProto {
        data_type: 1,
        dims: vec![4],
        data_location: 1,
        external_data: entries.iter().map(entry).collect(),
        ..TensorProto::default()
    }
}

/// Locations that leave the folder or are no file.
fn places(files: &mut Vec<Hostile>) {
    let mut push = |name: &str, location: &str, beside: Option<Beside>| {
        let file = constant(&format!("place-{name}"), external(&[("location", location)]));
        files.push(beside.into_iter().fold(file, Hostile::beside));
    };
    push("above", "../outside.bin", None);
    push("above-after-a-folder", "sub/../../outside.bin", Some(Beside::Folder("sub")));
    push("above-after-a-dot", "./../outside.bin", None);
    push("above-with-more-slashes", "..//outside.bin", None);
    push("above-by-backslash", "..\\outside.bin", None);
    push("above-and-back", "../model/w.bin", Some(Beside::File("w.bin", vec![0; 16])));
    push("above-encoded", "%2e%2e/outside.bin", None);
    push("absolute", "/etc/passwd", None);
    push("absolute-with-two-slashes", "//etc/passwd", None);
    push("url", "file:///etc/passwd", None);
    push("drive", "C:\\Windows\\win.ini", None);
    push("share", "\\\\host\\share\\file", None);
    push("device", "/dev/zero", None);
    push("memory", "/proc/self/mem", None);
    push("empty", "", None);
    push("nul", "w.bin\0.txt", Some(Beside::File("w.bin", vec![0; 16])));
    push("dot", ".", None);
    push("folder", "sub", Some(Beside::Folder("sub")));
    push("missing", "missing.bin", None);
    push("long", &"a/".repeat(20_000), None);
    push("long-name", &"a".repeat(5_000), None);
    push("link", "link.bin", Some(Beside::Link("link.bin", "../outside.bin")));
    push("absolute-link", "link.bin", Some(Beside::Link("link.bin", "/etc/passwd")));
    push("link-to-itself", "link.bin", Some(Beside::Link("link.bin", "link.bin")));
    push("linked-folder", "sub/outside.bin", Some(Beside::Link("sub", "..")));
    push("device-link", "link.bin", Some(Beside::Link("link.bin", "/dev/zero")));
    push("second-name", "name.bin", Some(Beside::HardLink("name.bin", "../outside.bin")));
}

/// Offsets and lengths that do not fit the file.
fn ranges(files: &mut Vec<Hostile>) {
    let mut push = |name: &str, entries: &[(&str, &str)]| {
        let all = [&[("location", "w.bin")], entries].concat();
        let file = constant(&format!("range-{name}"), external(&all));
        files.push(file.beside(Beside::File("w.bin", vec![0; 32])));
    };
    push("offset-beyond", &[("offset", "33")]);
    push("offset-at-the-end", &[("offset", "32")]);
    push("offset-too-near-the-end", &[("offset", "20")]);
    push("offset-negative", &[("offset", "-4")]);
    push("offset-of-the-largest", &[("offset", "18446744073709551615")]);
    push("offset-that-overflows", &[("offset", "18446744073709551600"), ("length", "16")]);
    push("offset-beyond-64-bits", &[("offset", "99999999999999999999999")]);
    push("offset-of-text", &[("offset", "four")]);
    push("offset-hexadecimal", &[("offset", "0x10")]);
    push("length-negative", &[("length", "-16")]);
    push("length-zero", &[("length", "0")]);
    push("length-too-small", &[("length", "12")]);
    push("length-too-large", &[("length", "20")]);
    push("length-of-the-largest", &[("length", "18446744073709551615")]);
    push("length-empty", &[("length", "")]);
    let more = external(&[("location", "w.bin"), ("location", "../outside.bin")]);
    files.push(constant("range-second-location", more).beside(Beside::File("w.bin", vec![0; 32])));
}
