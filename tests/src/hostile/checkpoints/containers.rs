//! Archives and headers that lie.

use super::{Entry, Hostile, state_dict, tensor, text, torch, zip_of};
use crate::hostile::Beside;

pub fn files() -> Vec<Hostile> {
    [zips(), legacy(), tars(), safetensors(), ggufs(), indices()].concat()
}

fn good() -> Vec<u8> {
    state_dict(&tensor(0, &[4, 4], &[4, 1]))
}

fn zips() -> Vec<Hostile> {
    let zip = |name: &str, bytes: Vec<u8>| Hostile::new(format!("zip-{name}"), bytes);
    let entries = |change: &dyn Fn(&mut Vec<Entry<'static>>)| {
        let pickle = Entry::stored("m/data.pkl", good());
        let mut entries = vec![pickle, Entry::stored("m/data/0", vec![0; 64])];
        change(&mut entries);
        zip_of(&entries, entries.len() as u16)
    };
    let sound = torch(good());
    let cut = |n: usize| sound.get(..n).unwrap_or(&[]).to_vec();
    let patched = |from_end: usize, bytes: &[u8]| {
        let mut zip = sound.clone();
        let at = zip.len() - from_end;
        zip[at..at + bytes.len()].copy_from_slice(bytes);
        zip
    };
    // A deflate stream of stored-length zeros: 1032 bytes of output a byte.
    let bomb = deflated_zeros(64 << 20);
    let deflate = |size: u32| {
        let data = bomb.clone();
        entries(&|e| {
            e[0] = Entry { method: 8, size, data: data.clone(), ..Entry::stored("m/data.pkl", vec![]) }
        })
    };
    vec![
        zip("cut-in-the-directory", cut(sound.len() - 30)),
        zip("cut-in-the-data", cut(100)),
        zip("only-magic", b"PK\x03\x04".to_vec()),
        zip("without-pickle", zip_of(&[Entry::stored("m/data/0", vec![0; 64])], 1)),
        zip("without-storage", zip_of(&[Entry::stored("m/data.pkl", good())], 1)),
        zip("more-entries-than-there-are", zip_of(&[Entry::stored("m/data.pkl", good())], 9)),
        zip("fewer-entries-than-there-are", {
            zip_of(&[Entry::stored("m/data.pkl", good()), Entry::stored("m/data/0", vec![0; 64])], 1)
        }),
        zip("entries-of-the-largest-number", patched(14, &[0xff, 0xff, 0xff, 0xff])),
        zip("directory-beyond", patched(6, &u32::MAX.to_le_bytes())),
        zip("directory-of-the-largest-size", patched(10, &u32::MAX.to_le_bytes())),
        zip("several-disks", patched(18, &[1, 0, 1, 0])),
        zip("comment-beyond", patched(2, &[0xff, 0xff])),
        zip("two-of-one-name", entries(&|e| e.push(Entry::stored("m/data.pkl", b"\x80\x02}.".to_vec())))),
        zip("entries-share-bytes", entries(&|e| e[1].offset = Some(0))),
        zip("header-elsewhere", entries(&|e| e[1].offset = Some(7))),
        zip("header-beyond", entries(&|e| e[1].offset = Some(u32::MAX - 1))),
        zip("header-of-another-name", entries(&|e| e[0].local_name = b"m/evil.pkl")),
        zip("encrypted", entries(&|e| e[0].flags = 1)),
        zip("unknown-compression", entries(&|e| e[0].method = 93)),
        zip("stored-of-two-sizes", entries(&|e| e[1].size = 1 << 30)),
        zip("name-not-utf8", entries(&|e| (e[1].name, e[1].local_name) = (b"m/\xff", b"m/\xff"))),
        zip("bomb", deflate(64 << 20)),
        zip("bomb-that-states-little", deflate(100)),
        zip("bomb-that-states-much", deflate(u32::MAX - 1)),
        zip("deflate-damaged", entries(&|e| (e[0].method, e[0].data) = (8, vec![0xff; 64]))),
        zip("size-of-zip64-missing", entries(&|e| e[0].size = u32::MAX)),
        zip("byteorder-unknown", entries(&|e| e.push(Entry::stored("m/byteorder", b"middle".to_vec())))),
    ]
}

/// A deflate stream of so many zeros, in blocks with the fixed codes: a literal, then copies of 258 bytes.
fn deflated_zeros(count: usize) -> Vec<u8> {
    let (mut out, mut bits, mut used) = (Vec::new(), 0u32, 0);
    let mut put = |value: u32, width: u32| {
        bits |= value << used;
        used += width;
        while used >= 8 {
            out.push(bits as u8);
            (bits, used) = (bits >> 8, used - 8);
        }
    };
    put(1, 1);
    put(1, 2);
    // Codes go from their highest bit: literal 0 is 00110000.
    put(0b0000_1100, 8);
    for _ in 0..count / 258 {
        // Length 258 is code 285, 11000101; distance 1 is code 0, five bits.
        put(0b1010_0011, 8);
        put(0, 5);
    }
    put(0, 7);
    put(0, 8);
    out
}

const MAGIC: &[u8] = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.";

fn legacy() -> Vec<Hostile> {
    let file = |name: &str, parts: &[&[u8]]| {
        Hostile::new(format!("legacy-{name}"), [&[MAGIC][..], parts].concat().concat())
    };
    let (version, system) = (&b"\x80\x02M\xe9\x03."[..], &b"\x80\x02}."[..]);
    let object = good();
    let keys = |list: &[u8]| [&b"\x80\x02]("[..], list, b"e."].concat();
    let zero = keys(&text("0"));
    let count = |n: u64| n.to_le_bytes();
    vec![
        file("only-magic", &[]),
        file("wrong-version", &[b"\x80\x02M\xe8\x03.", system, &object, &zero]),
        file("without-keys", &[version, system, &object]),
        file("keys-no-list", &[version, system, &object, b"\x80\x02K\x01."]),
        file("key-unknown", &[version, system, &object, &keys(&text("7")), &count(16), &[0; 64]]),
        file("keys-without-end", &[version, system, &object, &keys(&text("0").repeat(1 << 16))]),
        file("storage-cut-off", &[version, system, &object, &zero, &count(16), &[0; 63]]),
        file("storage-of-another-length", &[version, system, &object, &zero, &count(15), &[0; 64]]),
        file("storage-of-2-63", &[version, system, &object, &zero, &count(1 << 63)]),
        file("storage-that-overflows", &[version, system, &object, &zero, &count(1 << 62)]),
        file("storage-without-key", &[version, system, &object, &keys(b"")]),
        Hostile::new("legacy-bare-call", b"\x80\x02cos\nsystem\n(X\x02\0\0\0lstR.".to_vec()),
        Hostile::new("legacy-bare-storage", good()),
        Hostile::new("legacy-magic-of-text", b"L119547037146038801333356L\n.".to_vec()),
    ]
}

/// A tar archive of these files.
fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, data) in files {
        let mut header = [0u8; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[124..136].copy_from_slice(format!("{:011o}\0", data.len()).as_bytes());
        header[148..156].copy_from_slice(b"        ");
        header[156] = b'0';
        header[257..263].copy_from_slice(b"ustar\0");
        let sum: u32 = header.iter().map(|&b| u32::from(b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        out.extend(header);
        out.extend(*data);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.extend([0; 1024]);
    out
}

fn tars() -> Vec<Hostile> {
    let archive = |name: &str, storages: &[u8], tensors: &[u8], pickle: &[u8]| {
        let files = [("storages", storages), ("tensors", tensors), ("pickle", pickle)];
        Hostile::new(format!("tar-{name}"), tar(&files))
    };
    let four = 4u64.to_le_bytes();
    let storage = [&b"K\x01.(K\x07U\x03cpuctorch\nFloatStorage\nt."[..], &four, &[0; 16], b"]."].concat();
    let description = |rank: u64, numbers: &[u64]| {
        let numbers: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        [&b"K\x01.(K\x01K\x07ctorch\nFloatTensor\nt."[..], &rank.to_le_bytes(), &numbers].concat()
    };
    let sound = description(1, &[4, 1, 0]);
    let view = |numbers: &[u8]| {
        let views = [&b"]("[..], numbers, b"te."].concat();
        [&storage[..storage.len() - 2], &views].concat()
    };
    let damaged = {
        let mut bytes = tar(&[("storages", &storage), ("tensors", &sound), ("pickle", b"K\x01Q.")]);
        bytes[3] ^= 1;
        bytes
    };
    let beyond = {
        let mut bytes = tar(&[("storages", &storage)]);
        bytes[124..135].copy_from_slice(b"77777777777");
        bytes
    };
    vec![
        Hostile::new("tar-header-damaged", damaged),
        Hostile::new("tar-entry-beyond", beyond),
        Hostile::new("tar-empty", tar(&[])),
        Hostile::new("tar-two-of-one-name", tar(&[("storages", &storage), ("storages", &storage)])),
        archive("storages-beyond-number", b"J\xff\xff\xff\x7f.", &sound, b"K\x01Q."),
        archive("storages-negative", b"J\xff\xff\xff\xff.", &sound, b"K\x01Q."),
        archive("storage-of-os", b"K\x01.(K\x07U\x03cpucos\nsystem\nt.", &sound, b"K\x01Q."),
        archive("storage-cut-off", &storage[..storage.len() - 10], &sound, b"K\x01Q."),
        archive("view-beyond", &view(b"(K\x08K\x07K\x02K\x03"), &sound, b"K\x01Q."),
        archive("view-of-nothing", &view(b"(K\x08K\x09K\x00K\x01"), &sound, b"K\x01Q."),
        archive("tensor-beyond", &storage, &description(1, &[5, 1, 0]), b"K\x01Q."),
        archive("tensor-negative", &storage, &description(1, &[u64::MAX, 1, 0]), b"K\x01Q."),
        archive("tensor-of-many-dimensions", &storage, &description(1 << 31, &[]), b"K\x01Q."),
        archive("tensor-cut-off", &storage, &description(2, &[2, 2]), b"K\x01Q."),
        archive("tensor-missing", &storage, &sound, b"K\x02Q."),
        archive("call", &storage, &sound, b"cos\nsystem\n(X\x02\0\0\0lstR."),
    ]
}

fn safetensors() -> Vec<Hostile> {
    let file = |name: &str, header: &str, data: usize| {
        let length = (header.len() as u64).to_le_bytes();
        let bytes = [&length[..], header.as_bytes(), &vec![0; data]].concat();
        Hostile::new(format!("safetensors-{name}"), bytes)
    };
    let one = |name: &str, dtype: &str, shape: &str, offsets: &str| {
        let header = format!(r#"{{"w":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#);
        file(name, &header, 16)
    };
    let lying = |length: u64| [&length.to_le_bytes()[..], b"{}", &[b' '; 64]].concat();
    vec![
        Hostile::new("safetensors-header-beyond", lying(1000)),
        Hostile::new("safetensors-header-of-99-million", lying(99_999_999)),
        file("not-json", "{w}", 0),
        file("more-after-the-header", "{} {}", 0),
        file("nested", &r#"{"a":"#.repeat(100_000), 0),
        file("nested-arrays", &format!(r#"{{"w":{}"#, "[".repeat(100_000)), 0),
        one("dtype-unknown", "F128", "[4]", "[0,16]"),
        one("shape-negative", "F32", "[-4]", "[0,16]"),
        one("shape-overflows", "F32", "[4294967296,4294967296,4294967296]", "[0,16]"),
        one("shape-of-floats", "F32", "[4.0]", "[0,16]"),
        one("shape-too-large", "F32", "[5]", "[0,16]"),
        one("shape-of-part-of-a-unit", "F6_E2M3", "[3]", "[0,16]"),
        one("shape-of-many-dimensions", "F32", &format!("[{}1]", "1,".repeat(1000)), "[0,4]"),
        one("offsets-beyond", "F32", "[8]", "[0,32]"),
        one("offsets-reversed", "F32", "[4]", "[16,0]"),
        one("offsets-of-the-largest", "U8", "[1]", "[18446744073709551614,18446744073709551615]"),
        one("gap-before", "U8", "[8]", "[8,16]"),
        one("gap-behind", "U8", "[8]", "[0,8]"),
        one("unknown-field", "U8", "[16]", r#"[0,16],"eval":"x""#),
        file(
            "shared-bytes",
            r#"{"a":{"dtype":"U8","shape":[16],"data_offsets":[0,16]},"b":{"dtype":"U8","shape":[8],"data_offsets":[8,16]}}"#,
            16,
        ),
        file(
            "two-of-one-name",
            r#"{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"a":{"dtype":"U8","shape":[8],"data_offsets":[8,16]}}"#,
            16,
        ),
        file("metadata-of-numbers", r#"{"__metadata__":{"a":1}}"#, 0),
    ]
}

fn ggufs() -> Vec<Hostile> {
    let file = |name: &str, parts: &[&[u8]]| {
        Hostile::new(format!("gguf-{name}"), [&[&b"GGUF"[..]], parts].concat().concat())
    };
    let long = |n: u64| n.to_le_bytes();
    let word = |s: &str| [&long(s.len() as u64)[..], s.as_bytes()].concat();
    let three = &3u32.to_le_bytes()[..];
    // A tensor of this many dimensions, type and offset, behind no metadata.
    let tensor = |dims: &[u64], kind: u32, offset: u64| {
        let dims: Vec<u8> = dims.iter().flat_map(|n| n.to_le_bytes()).collect();
        let rank = ((dims.len() / 8) as u32).to_le_bytes();
        [&word("w")[..], &rank, &dims, &kind.to_le_bytes(), &long(offset)].concat()
    };
    let one = |name: &str, tensor: Vec<u8>| file(name, &[three, &long(1), &long(0), &tensor, &[0; 256]]);
    let pair = |name: &str, kind: u32, value: &[u8]| {
        let pair = [&word("k")[..], &kind.to_le_bytes(), value].concat();
        file(name, &[three, &long(0), &long(1), &pair, &[0; 64]])
    };
    let aligned = |n: u32| {
        let pair = [&word("general.alignment")[..], &4u32.to_le_bytes(), &n.to_le_bytes()].concat();
        [three, &long(0), &long(1), &pair].concat()
    };
    let array = [&9u32.to_le_bytes()[..], &long(1)].concat();
    vec![
        file("only-magic", &[]),
        file("version-0", &[&0u32.to_le_bytes(), &[0; 64]]),
        file("version-1", &[&1u32.to_le_bytes(), &[0; 64]]),
        file("version-big-endian", &[&3u32.to_be_bytes(), &[0; 64]]),
        file("tensors-beyond-number", &[three, &long(u64::MAX), &long(0), &[0; 64]]),
        file("pairs-beyond-number", &[three, &long(0), &long(1 << 40), &[0; 64]]),
        pair("text-beyond", 8, &long(1 << 40)),
        pair("text-not-utf8", 8, &[&long(1)[..], &[0xff]].concat()),
        pair("bool-of-2", 7, &[2]),
        pair("type-unknown", 99, &[]),
        pair("array-beyond", 9, &[&0u32.to_le_bytes()[..], &long(1 << 40)].concat()),
        pair("array-of-unknown", 9, &[&99u32.to_le_bytes()[..], &long(1)].concat()),
        pair("arrays-in-arrays", 9, &array.repeat(10_000)),
        pair(
            "array-of-many-bytes",
            9,
            &[&0u32.to_le_bytes()[..], &long(4 << 20), &vec![0; 4 << 20]].concat(),
        ),
        file("alignment-0", &[&aligned(0)]),
        file("alignment-3", &[&aligned(3)]),
        one("type-of-tensor-unknown", tensor(&[4], 77, 0)),
        one("tensor-beyond", tensor(&[1 << 20], 0, 0)),
        one("tensor-overflows", tensor(&[1 << 40, 1 << 40], 0, 0)),
        one("tensor-not-aligned", tensor(&[4], 0, 4)),
        one("tensor-offset-largest", tensor(&[4], 0, u64::MAX - 31)),
        one("tensor-of-many-dimensions", tensor(&[1; 9], 0, 0)),
        one("tensor-of-part-of-a-block", tensor(&[33], 8, 0)),
        one("tensor-of-rows-of-part-of-a-block", tensor(&[16, 2], 8, 0)),
        one("tensor-without-numbers-of-its-blocks", tensor(&[256], 16, 0)),
        file("two-of-one-name", &[three, &long(2), &long(0), &tensor(&[1], 0, 0).repeat(2), &[0; 64]]),
    ]
}

fn indices() -> Vec<Hostile> {
    let index = |name: &str, text: String| Hostile::new(format!("index-{name}"), text.into_bytes());
    let of =
        |place: &str| format!(r#"{{"metadata":{{}},"weight_map":{{"w":{}}}}}"#, serde_json::json!(place));
    let shard = || Beside::File("part.bin", torch(good()));
    vec![
        index("above", of("../outside.bin")),
        index("absolute", of("/etc/passwd")),
        index("device", of("/dev/zero")),
        index("backslash", of("..\\outside.bin")),
        index("missing", of("part.bin")),
        index("empty-place", of("")),
        index("folder", of("sub")).beside(Beside::Folder("sub")),
        index("itself", of("model.onnx")),
        index("another-index", of("part.bin")).beside(Beside::File("part.bin", of("part.bin").into_bytes())),
        index("link", of("link.bin")).beside(shard()).beside(Beside::Link("link.bin", "part.bin")),
        index("second-name", of("name.bin")).beside(shard()).beside(Beside::HardLink("name.bin", "part.bin")),
        index("no-checkpoint", of("part.bin")).beside(Beside::File("part.bin", b"hello".to_vec())),
        index("tensor-missing", r#"{"weight_map":{"v":"part.bin"}}"#.into()).beside(shard()),
        index("two-of-one-name", r#"{"weight_map":{"w":"part.bin","v":"more.bin"}}"#.into())
            .beside(shard())
            .beside(Beside::File("more.bin", torch(good()))),
        index("place-of-a-number", r#"{"weight_map":{"w":1}}"#.into()),
        index("map-of-an-array", r#"{"weight_map":[]}"#.into()),
        index("nested", format!(r#"{{"weight_map":{}"#, r#"{"a":"#.repeat(100_000))),
    ]
}
