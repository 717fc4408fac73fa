//! Pickles that call, that nest, that announce too much, and that describe tensors which are none.

use super::{Hostile, int, state_dict, storage, tensor, tensor_in, text, torch, tuple};

pub fn files() -> Vec<Hostile> {
    [calls(), bombs(), lengths(), views(), storages(), kinds()].concat()
}

fn value(name: &str, instructions: &[u8]) -> Hostile {
    Hostile::new(format!("pickle-{name}"), torch(state_dict(instructions)))
}

/// Names that run code, read files or import when they are called.
const GLOBALS: &[&str] = &[
    "os system",
    "posix system",
    "nt system",
    "builtins eval",
    "builtins exec",
    "__builtin__ execfile",
    "builtins __import__",
    "builtins open",
    "builtins compile",
    "subprocess Popen",
    "runpy run_path",
    "importlib import_module",
    "shutil rmtree",
    "webbrowser open",
    "torch load",
    "torch.hub load",
    "torch.serialization load",
    "torch.jit load",
    "torch._utils _rebuild_wrapper_subclass",
    "torch._dynamo.guards GuardBuilder.get",
    "torch.fx.graph_module reduce_graph_module",
    "numpy.core.multiarray _reconstruct",
    "joblib load",
    "pickle loads",
    "_pickle loads",
    "copyreg _reconstructor",
    "functools partial",
    "operator attrgetter",
];

/// Every instruction that Python could run code by.
fn calls() -> Vec<Hostile> {
    let command = text("touch kiln-was-here");
    let arg = [&b"("[..], &command, b"t"].concat();
    let call = |global: &str| [format!("c{}\n", global.replace(' ', "\n")).as_bytes(), &arg, b"R"].concat();
    let mut files = Vec::new();
    for global in GLOBALS {
        files.push(value(&format!("call-{}", global.replace([' ', '.'], "-")), &call(global)));
    }
    let system = b"cos\nsystem\n";
    let with = |parts: &[&[u8]]| parts.concat();
    files.extend([
        value("call-inst", &with(&[b"(", &command, b"ios\nsystem\n"])),
        value("call-obj", &with(&[b"(", system, &command, b"o"])),
        value("call-newobj", &with(&[system, &arg, b"\x81"])),
        value("call-newobj-ex", &with(&[system, &arg, b"}\x92"])),
        value("call-stack-global", &with(&[&text("os"), &text("system"), b"\x93", &arg, b"R"])),
        value(
            "call-stack-global-dotted",
            &with(&[&text("os.path"), &text("os.system"), b"\x93", &arg, b"R"]),
        ),
        value(
            "call-build",
            &with(&[b"cos\n_wrap_close\n)\x81}", &text("__class__"), &call("os system"), b"sb"]),
        ),
        value("call-build-slots", &with(&[b"ca\nB\n)\x81N}", &text("x"), &call("os system"), b"s\x86b"])),
        value(
            "call-of-a-call",
            &with(&[b"cbuiltins\ngetattr\n(cos\npath\n", &text("system"), b"tR", &arg, b"R"]),
        ),
        value("call-ext1", &with(&[b"\x82\x07", &arg, b"R"])),
        value("call-ext2", &with(&[b"\x83\x07\x00", &arg, b"R"])),
        value("call-ext4", &with(&[b"\x84\x07\0\0\0", &arg, b"R"])),
        value("call-of-text", &with(&[&text("os.system"), &arg, b"R"])),
        value("call-appends", &with(&[&call("builtins list"), b"(", &command, b"e"])),
        value("call-setitems", &with(&[&call("os _Environ"), b"(", &command, &command, b"u"])),
        value("call-additems", &with(&[&call("a B"), b"(", &command, b"\x90"])),
        value("call-persid", b"Pos.system\n"),
        value("call-binpersid", &with(&[&call("os system"), b"Q"])),
        value("call-binpersid-module", &with(&[b"(", &text("module"), &call("os system"), b"NNtQ"])),
        value("call-buffer", b"\x97"),
        value(
            "call-in-a-parameter",
            &with(&[b"ctorch._utils\n_rebuild_parameter\n(", &call("os system"), b"\x88}tR"]),
        ),
        value("call-as-storage", &tensor_in(&call("os system"), 0, &[1], &[1])),
        value(
            "call-as-function-of-a-type",
            &with(&[b"ctorch._tensor\n_rebuild_from_type_v2\n(cos\nsystem\nctorch\nTensor\n", &arg, b"NtR"]),
        ),
        value(
            "call-as-layout",
            &with(&[b"ctorch._utils\n_rebuild_sparse_tensor\n(", &call("os system"), b")tR"]),
        ),
        value("call-as-dict", &with(&[b"ccollections\nOrderedDict\n(", &call("os system"), b"tR"])),
        value("call-as-storage-class", &tensor_in(&storage("os.system", "0", 1), 0, &[1], &[1])),
        value("call-by-newobj-of-a-rebuild", b"ctorch._utils\n_rebuild_tensor_v2\n)\x81"),
    ]);
    files
}

/// Few bytes that take much.
fn bombs() -> Vec<Hostile> {
    let close = |open: &[u8], n: usize, end: &[u8]| [open.repeat(n), b"N".to_vec(), end.repeat(n)].concat();
    let mut files = vec![
        value("nested-lists", &close(b"](", 200_000, b"e")),
        value("nested-tuples", &close(b"", 200_000, b"\x85")),
        value("nested-dicts", &close(b"}K\0", 200_000, b"s")),
        value("nested-objects", &close(b"ca\nb\n", 50_000, b"\x85R")),
        value("nested-states", &close(b"ca\nb\n)R", 50_000, b"b")),
        value("nested-persistent-ids", &close(b"", 200_000, b"Q")),
        value("nested-ordered-dicts", &close(b"ccollections\nOrderedDict\n)RK\0", 20_000, b"s")),
        value("marks", &b"(".repeat(4 << 20)),
        value("lists", &b"]".repeat(4 << 20)),
        value("objects", &[&b"]2R"[..], &b"2]R".repeat(1 << 20)].concat()),
        value("memo", &[&b"N"[..], &b"\x94".repeat(4 << 20)].concat()),
        value("copies", &[&b"N"[..], &b"2".repeat(8 << 20)].concat()),
        value("memo-far-away", b"Nr\xff\xff\xff\xffj\xfe\xff\xff\xff"),
        value("memo-missing", b"h\x63"),
        value("memo-negative", b"g-1\n"),
    ];
    // A tensor in a list ten times, that in a list ten times, and so on.
    let mut names = [tensor(0, &[1], &[1]), b"q\x000".to_vec()].concat();
    for i in 0..30u8 {
        names.extend(b"](");
        (0..10).for_each(|_| names.extend([b'h', i]));
        names.extend([b'e', b'q', i + 1, b'0']);
    }
    names.extend([b'h', 30]);
    files.push(value("names-beyond-number", &names));
    // Long keys on the way to many tensors.
    let mut long = [&tensor(0, &[1], &[1])[..], b"q\x010}", &text(&"k".repeat(1 << 20)), b"]("].concat();
    (0..10_000).for_each(|_| long.extend(b"h\x01"));
    long.extend(b"es");
    files.push(value("names-of-great-length", &long));
    // Long names of what is not made, and long texts that bytes are made from.
    let class =
        [&b"c"[..], &b"a".repeat(1 << 20), b"\nb\nq\x010](", &b"h\x01)R".repeat(100_000), b"e"].concat();
    files.push(value("classes-of-great-length", &class));
    let latin =
        [&text(&"a".repeat(1 << 20))[..], &text("latin1"), b"\x86q\x010c_codecs\nencode\nq\x020]("].concat();
    files.push(value(
        "encoded-again-and-again",
        &[&latin[..], &b"h\x02h\x01R".repeat(100_000), b"e"].concat(),
    ));
    let pairs = [&b"]("[..], &b"K\x01K\x02\x86".repeat(100_000), b"eq\x010]("].concat();
    let dicts = [&pairs[..], &b"ccollections\nOrderedDict\nh\x01\x85R".repeat(10_000), b"e"].concat();
    files.push(value("dicts-of-the-same-pairs", &dicts));
    let metadata = [&b"}("[..], &b"K\x01K\x02".repeat(100_000), b"uq\x010"].concat();
    let v2 = [&storage("torch.FloatStorage", "0", 16)[..], &int(0), &tuple(&[1]), &tuple(&[1])].concat();
    let v2 = [&b"ctorch._utils\n_rebuild_tensor_v2\n("[..], &v2, b"\x89Nh\x01tR"].concat();
    files.push(value("metadata-of-many-entries", &[&metadata[..], b"](", &v2.repeat(2000), b"e"].concat()));
    files
}

/// Lengths and numbers that lie.
fn lengths() -> Vec<Hostile> {
    vec![
        value("text-beyond-the-end", b"X\xff\xff\xff\xffab"),
        value("text-of-2-63", b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7fab"),
        value("bytes-of-2-64", b"\x8e\xff\xff\xff\xff\xff\xff\xff\xffab"),
        value("bytearray-of-2-40", b"\x96\0\0\0\0\0\x01\0\0ab"),
        value("byte-string-negative", b"T\xfe\xff\xff\xffab"),
        value("integer-negative-length", b"\x8b\xff\xff\xff\xff"),
        value("integer-beyond-the-end", b"\x8b\xff\xff\xff\x7f"),
        value("integer-of-many-digits", &[&b"L"[..], &b"9".repeat(1 << 20), b"L\n"].concat()),
        value("frame-beyond-the-end", b"\x95\xff\xff\xff\xff\xff\xff\xff\x7fN"),
        value("line-without-end", &[&b"S'"[..], &b"a".repeat(1 << 20)].concat()),
        value("text-not-utf8", b"X\x01\0\0\0\xff"),
        value("escape-cut-off", b"S'\\x4'\n"),
        value("surrogate", b"V\\ud800\n"),
        value("float-of-letters", b"Fabc\n"),
        value("protocol-of-the-future", b"\x80\xff"),
        value("no-instruction", b"\xff"),
        value("stack-underflow", b"000000"),
        value("mark-missing", b"t"),
        value("pair-without-value", b"}(K\x01u"),
        value("append-to-a-tuple", b")(K\x01e"),
        value("set-on-a-list", b"]K\x01K\x02s"),
        value("state-of-a-list", b"]}b"),
        Hostile::new("pickle-empty", torch(vec![])),
        Hostile::new("pickle-without-end", torch(b"\x80\x02}".to_vec())),
        Hostile::new("pickle-of-zeros", torch(vec![0; 1 << 20])),
    ]
}

/// Views that do not fit their storage.
fn views() -> Vec<Hostile> {
    let longs = storage("torch.LongStorage", "0", 8);
    vec![
        value("tensor-beyond", &tensor(0, &[17], &[1])),
        value("tensor-offset-beyond", &tensor(16, &[1], &[1])),
        value("tensor-offset-negative", &tensor(-1, &[1], &[1])),
        value("tensor-offset-largest", &tensor(i64::MAX, &[2], &[1])),
        value("tensor-stride-beyond", &tensor(0, &[2], &[16])),
        value("tensor-stride-negative", &tensor(15, &[2], &[-1])),
        value("tensor-stride-largest", &tensor(0, &[3], &[i64::MAX])),
        value("tensor-shape-negative", &tensor(0, &[-1], &[1])),
        value("tensor-shape-overflows", &tensor(0, &[1 << 32, 1 << 32, 1 << 32], &[0, 0, 0])),
        value("tensor-expanded-to-2-40", &tensor(0, &[1 << 40], &[0])),
        value("tensor-strides-too-few", &tensor(0, &[2, 2], &[1])),
        value("tensor-of-a-thousand-dimensions", &tensor(0, &[1; 1000], &[1; 1000])),
        value(
            "tensor-shape-of-floats",
            &tensor_in(&[&longs[..], b"K\0G\0\0\0\0\0\0\0\0\x85"].concat(), 0, &[1], &[1]),
        ),
        value("tensor-without-arguments", b"ctorch._utils\n_rebuild_tensor_v2\n)R"),
        value("tensor-arguments-are-a-dict", b"ctorch._utils\n_rebuild_tensor_v2\n}R"),
        value("tensor-arguments-hold-themselves", b"ctorch._utils\n_rebuild_parameter\n]q\x01h\x01aR"),
        value("tensor-in-itself", b"ctorch._utils\n_rebuild_parameter\n]q\x01Rq\x020h\x01h\x02a0h\x02"),
    ]
}

/// Storages that are none.
fn storages() -> Vec<Hostile> {
    let keyed = |key: &str| tensor_in(&storage("torch.FloatStorage", key, 16), 0, &[1], &[1]);
    vec![
        value("storage-states-more", &tensor_in(&storage("torch.FloatStorage", "0", 17), 0, &[1], &[1])),
        value("storage-states-negative", &tensor_in(&storage("torch.FloatStorage", "0", -1), 0, &[1], &[1])),
        value("storage-states-less", &tensor_in(&storage("torch.FloatStorage", "0", 2), 0, &[4], &[1])),
        value("storage-overflows", &tensor_in(&storage("torch.DoubleStorage", "0", i64::MAX), 0, &[1], &[1])),
        value("storage-of-no-class", &tensor_in(&storage("torch.EvilStorage", "0", 1), 0, &[1], &[1])),
        value("storage-missing", &keyed("1")),
        value("storage-above", &keyed("../data.pkl")),
        value("storage-absolute", &keyed("/etc/passwd")),
        value("storage-empty-key", &keyed("")),
        value("storage-long-key", &keyed(&"0".repeat(1 << 20))),
        value("storage-nul", &keyed("0\0")),
        value("storage-is-a-tensor", &tensor_in(&tensor(0, &[1], &[1]), 0, &[1], &[1])),
    ]
}

/// Types, and quantized and sparse tensors, that make no sense.
fn kinds() -> Vec<Hostile> {
    let v3 = |dtype: &str| {
        let args =
            [&storage("torch.UntypedStorage", "0", 64)[..], &int(0), &tuple(&[1]), &tuple(&[1])].concat();
        [&b"ctorch._utils\n_rebuild_tensor_v3\n("[..], &args, b"\x89}ctorch\n", dtype.as_bytes(), b"\ntR"]
            .concat()
    };
    let quantized = |parameters: &[u8]| {
        let args =
            [&storage("torch.QInt8Storage", "0", 16)[..], &int(0), &tuple(&[4, 4]), &tuple(&[4, 1])].concat();
        [&b"ctorch._utils\n_rebuild_qtensor\n("[..], &args, parameters, b"\x89}tR"].concat()
    };
    let sparse = |layout: &str, parts: &[u8]| {
        let layout = [&b"ctorch.serialization\n_get_layout\n"[..], &text(layout), b"\x85R"].concat();
        [&b"ctorch._utils\n_rebuild_sparse_tensor\n("[..], &layout, b"(", parts, b"ttR"].concat()
    };
    let longs = storage("torch.LongStorage", "0", 8);
    let index = |shape: &[i64], strides: &[i64]| tensor_in(&longs, 0, shape, strides);
    vec![
        value("dtype-unknown", &v3("float1024")),
        value("dtype-of-os", &v3("float32\ncos\nsystem")),
        value("quantized-without-scale", &quantized(b"N")),
        value("quantized-of-no-scheme", &quantized(b"cos\nsystem\nK\x01K\x02\x87")),
        value("quantized-scales-of-another-length", &quantized(b"(ctorch\nper_channel_affine\n]]K\0t")),
        value("quantized-axis-beyond", &quantized(b"(ctorch\nper_channel_affine\n]]K\x09t")),
        value("sparse-of-no-layout", &sparse("torch.sparse_cuckoo", b"NNN")),
        value(
            "sparse-bomb",
            &sparse(
                "torch.sparse_coo",
                &[index(&[1, 1], &[1, 1]), index(&[1], &[1]), tuple(&[1 << 40])].concat(),
            ),
        ),
        value(
            "sparse-overflow",
            &sparse(
                "torch.sparse_coo",
                &[index(&[1, 1], &[1, 1]), index(&[1], &[1]), tuple(&[1 << 60, 1 << 60])].concat(),
            ),
        ),
        value(
            "sparse-same-place-twice",
            &sparse("torch.sparse_coo", &[index(&[1, 2], &[2, 1]), index(&[2], &[1]), tuple(&[4])].concat()),
        ),
        value(
            "sparse-more-values",
            &sparse("torch.sparse_coo", &[index(&[1, 1], &[1, 1]), index(&[2], &[1]), tuple(&[4])].concat()),
        ),
        value(
            "sparse-rows-too-many",
            &sparse(
                "torch.sparse_csr",
                &[index(&[8], &[1]), index(&[1], &[1]), index(&[1], &[1]), tuple(&[4, 4])].concat(),
            ),
        ),
        value("sparse-in-sparse", &{
            let inner = sparse(
                "torch.sparse_coo",
                &[index(&[1, 1], &[1, 1]), index(&[1], &[1]), tuple(&[4])].concat(),
            );
            sparse("torch.sparse_coo", &[inner.clone(), inner, tuple(&[4])].concat())
        }),
    ]
}
