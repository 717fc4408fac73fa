"""Makes the checkpoints of this folder and `expected.json`, which holds the bytes of every tensor.

Run with torch 2.15, numpy, safetensors and gguf: `python make.py`. The files differ from run to run where torch puts ids
of its own into them; their tensors do not.

expected.json: file -> name -> [dtype, shape, dense bytes in hex]. The bytes come from torch (safetensors, gguf): from what
the library reads back, not from what was written.
"""

import collections
import io
import json
import pathlib
import pickle
import random
import struct
import tarfile
import warnings
import zipfile

import gguf
import numpy as np
import safetensors.torch
import torch

HERE = pathlib.Path(__file__).parent
EXPECTED = {}
warnings.simplefilter("ignore")

NAMES = {
    torch.float32: "f32", torch.float64: "f64", torch.float16: "f16", torch.bfloat16: "bf16",
    torch.uint8: "u8", torch.uint16: "u16", torch.uint32: "u32", torch.uint64: "u64",
    torch.int8: "i8", torch.int16: "i16", torch.int32: "i32", torch.int64: "i64", torch.bool: "bool",
    torch.complex64: "c64", torch.complex128: "c128", torch.complex32: "complex32",
    torch.float8_e4m3fn: "f8e4m3fn", torch.float8_e4m3fnuz: "f8e4m3fnuz",
    torch.float8_e5m2: "f8e5m2", torch.float8_e5m2fnuz: "f8e5m2fnuz", torch.float8_e8m0fnu: "f8e8m0",
    torch.quint8: "u8", torch.qint8: "i8", torch.qint32: "i32", torch.quint4x2: "u4", torch.quint2x4: "u2",
    torch.float4_e2m1fn_x2: "float4_e2m1fn_x2", torch.bits8: "bits8", torch.bits16: "bits16",
    torch.bits1x8: "bits1x8", torch.bits2x4: "bits2x4", torch.bits4x2: "bits4x2",
    torch.uint4: "uint4", torch.int4: "int4", torch.uint1: "uint1", torch.int7: "int7",
}


def raw(t):
    """Dense little-endian bytes of a tensor."""
    if t.is_quantized:
        if t.dtype in (torch.quint4x2, torch.quint2x4):
            return bytes(t.untyped_storage())
        return raw(t.int_repr())
    if t.layout is not torch.strided:
        t = t.to_dense()
    t = t.detach().resolve_conj().resolve_neg()
    if t.numel() == 0:
        return b""
    size = t.element_size()
    if t.dtype in (torch.float8_e8m0fnu, torch.float4_e2m1fn_x2) or str(t.dtype).startswith(
        ("torch.bits", "torch.uint", "torch.int4", "torch.int7", "torch.complex32")
    ):
        # Copying is not implemented for all of these: gather their bytes.
        store = bytes(t.untyped_storage())
        index = np.zeros(t.shape, dtype=np.int64) + t.storage_offset()
        for axis, stride in enumerate(t.stride()):
            shape = [1] * t.dim()
            shape[axis] = -1
            index = index + (np.arange(t.shape[axis]) * stride).reshape(shape)
        return b"".join(store[i * size : (i + 1) * size] for i in index.ravel())
    return bytes(t.contiguous().reshape(-1).view(torch.uint8).numpy())


def flat(value, path=""):
    """Tensors of nested containers by name, as Kiln names them."""
    below = lambda key: f"{path}.{key}" if path else str(key)
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, torch.nn.Module):
        for name, t in value.state_dict().items():
            yield below(name), t
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(inner, below(key))
    elif isinstance(value, (list, tuple)):
        for key, inner in enumerate(value):
            yield from flat(inner, below(key))


def expect(file, tensors):
    EXPECTED[file] = {n: [NAMES[t.dtype], list(t.shape), raw(t).hex()] for n, t in tensors}


def save(file, value, check=True, **options):
    torch.save(value, HERE / file, **options)
    try:
        # Torch reads few instructions when it reads weights only, and these files are our own.
        back = torch.load(HERE / file, weights_only=False) if check else value
    except AttributeError:
        # Legacy files of untyped storages are written and not read.
        print("not read by torch:", file)
        back = value
    expect(file, flat(back))


def bits(dtype, *shape, seed=0):
    """Random bits as a tensor of any dtype, NaN and infinities included."""
    rng = np.random.default_rng([seed, *shape])
    size = torch.empty(0, dtype=dtype).element_size()
    data = rng.integers(0, 256, size=int(np.prod(shape)) * size, dtype=np.uint8)
    if dtype == torch.bool:
        data &= 1
    t = torch.empty(0, dtype=dtype)
    return t.set_(torch.from_numpy(data).untyped_storage(), 0, shape)


def is_saved(tensor):
    try:
        torch.save(tensor, io.BytesIO())
        return True
    except KeyError:
        return False


def typed():
    tensors = {str(d).removeprefix("torch."): bits(d, 3, 5) for d in NAMES if "q" not in str(d)}
    saved = {name: tensor for name, tensor in tensors.items() if is_saved(tensor)}
    print("not saved by torch:", sorted(set(tensors) - set(saved)))
    return saved


def viewed():
    base = torch.arange(60, dtype=torch.float32)
    grid = base.view(3, 4, 5)
    z = torch.arange(12, dtype=torch.float32).mul(0.5).view(6, 2)
    z = torch.view_as_complex(z.contiguous())
    return {
        "base": base, "grid": grid, "transposed": grid.transpose(0, 2), "sliced": grid[1:, ::2, 1:4],
        "offset": base[17:], "expanded": base[3].expand(4, 2), "column": grid[:, 1, 2], "scalar": base[9],
        "empty": grid[:, :0], "permuted": grid.permute(1, 2, 0), "diagonal": grid[0].diagonal(),
        "channels_last": bits(torch.float16, 2, 3, 4, 5).to(memory_format=torch.channels_last),
        "conjugate": z.conj(), "imaginary": z.clone().conj().imag, "double_view": bits(torch.int64, 4, 4).t(),
        "overlapping": base.as_strided((5, 3), (2, 1), 4), "wide": base.clone().view(torch.int32).view(5, 12).t(),
    }


def quantized():
    x = torch.arange(24, dtype=torch.float32).sub(11).view(2, 3, 4)
    scales, zeros = torch.tensor([0.1, 0.25, 0.5]), torch.tensor([1, 0, -2])
    return {
        "tensor_u8": torch.quantize_per_tensor(x, 0.125, 64, torch.quint8),
        "tensor_i8": torch.quantize_per_tensor(x, 0.5, -3, torch.qint8),
        "tensor_i32": torch.quantize_per_tensor(x, 0.001, 0, torch.qint32),
        "channel": torch.quantize_per_channel(x, scales, zeros, 1, torch.qint8),
        "transposed": torch.quantize_per_tensor(x, 0.5, -3, torch.qint8).permute(2, 0, 1),
        "float_channel": torch.quantize_per_channel(x.view(6, 4), torch.ones(6), torch.ones(6), 0, torch.quint4x2),
    }


def sparse():
    dense = torch.zeros(6, 8, dtype=torch.float64)
    dense[torch.tensor([0, 2, 5, 5]), torch.tensor([1, 7, 0, 3])] = torch.tensor([1.5, -2.0, 3.25, 4.0], dtype=torch.float64)
    batch = torch.stack([dense, dense])
    hybrid = torch.sparse_coo_tensor([[0, 3]], torch.arange(6.0).view(2, 3), (5, 3)).coalesce()
    return {
        "coo": dense.to_sparse_coo(), "hybrid": hybrid, "csr": dense.to_sparse_csr(), "csc": dense.to_sparse_csc(),
        "bsr": dense.to_sparse_bsr((2, 4)), "bsc": dense.to_sparse_bsc((3, 2)), "batch": batch.to_sparse_csr(),
    }


class Widths(torch.Tensor):
    pass


def wrapped():
    p = torch.nn.Parameter(torch.arange(4.0))
    marked = torch.nn.Parameter(torch.arange(5.0))
    marked.note = {"kind": "marked", "extra": torch.arange(2)}
    d = collections.OrderedDict(a=p, b=p, frozen=torch.nn.Parameter(torch.arange(3.0), requires_grad=False))
    return {"inner": d, "again": d, "marked": marked, "list": [p.data, (torch.arange(2), {7: torch.arange(3)})]}


def plain():
    """Few tensors for the many protocols and containers."""
    w = bits(torch.float32, 4, 6)
    return collections.OrderedDict(
        [("weight", w), ("tied", w), ("transposed", w.t()), ("part", w[1:3, 2:]), ("count", torch.tensor(7)),
         ("half", bits(torch.bfloat16, 5)), ("byte", bits(torch.float8_e5m2, 6)), ("wide", bits(torch.uint32, 3)),
         ("flags", torch.tensor([True, False])), ("z", bits(torch.complex64, 2))]
    )


def lightning():
    """What Lightning's `Trainer.save_checkpoint` writes: its keys, and its kinds of values."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    with torch.no_grad():
        [p.copy_(bits(p.dtype, *p.shape).nan_to_num()) for p in model.parameters()]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    return {
        "epoch": 3, "global_step": 120, "pytorch-lightning_version": "2.5.5",
        "state_dict": collections.OrderedDict(("model." + k, v) for k, v in model.state_dict().items()),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 4}}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.25), "dirpath": "out"}},
        "optimizer_states": [optimizer.state_dict()], "lr_schedulers": [], "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 1e-3, "layers": [3, 4], "name": "tïny", "dropout": None, "betas": (0.9, 0.999)},
    }


def swapped(source, file):
    """The archive as a machine with the highest byte first would have written it."""
    sizes = {}

    class Sizes(pickle.Unpickler):
        def find_class(self, module, name):
            return (module, name) if module.startswith("torch") else super().find_class(module, name)

        def persistent_load(self, pid):
            sizes[pid[2]] = pid[1]
            return pid

    class Noted(Sizes):
        def find_class(self, module, name):
            if name.endswith("Storage"):
                return name
            return lambda *a: collections.OrderedDict() if name == "OrderedDict" else a

    with zipfile.ZipFile(HERE / source) as z, zipfile.ZipFile(HERE / file, "w") as out:
        names = z.namelist()
        root = names[0].split("/")[0]
        Noted(io.BytesIO(z.read(f"{root}/data.pkl"))).load()
        width = {"FloatStorage": 4, "LongStorage": 8, "BFloat16Storage": 2, "ComplexFloatStorage": 4}
        for name in names:
            data = z.read(name)
            if name.endswith("/byteorder"):
                data = b"big"
            if "/data/" in name:
                w = width.get(sizes.get(name.rsplit("/", 1)[1]), 1)
                data = b"".join(data[i : i + w][::-1] for i in range(0, len(data), w))
            out.writestr(name, data)


def deflated(source, file):
    with zipfile.ZipFile(HERE / source) as z, zipfile.ZipFile(HERE / file, "w", zipfile.ZIP_DEFLATED) as out:
        for name in z.namelist():
            out.writestr(name, z.read(name))


def tar(file):
    """The format of torch 0.1, by the description that is torch's reader of it."""
    a = torch.arange(12, dtype=torch.float32)
    b = torch.arange(5, dtype=torch.int64)

    def number(x):
        return pickle.dumps(x, protocol=2)

    def storage(key, kind, t):
        return number((key, "cpu", kind)) + struct.pack("<q", t.numel()) + bytes(t.numpy().tobytes())

    storages = number(2) + storage(100, torch.FloatStorage, a) + storage(101, torch.LongStorage, b)
    storages += number([(102, 100, 4, 6)])
    tensors = number(3)
    for key, store, kind, shape, stride, offset in [
        (1, 100, torch.FloatTensor, (4, 3), (1, 4), 0), (2, 102, torch.FloatTensor, (2, 2), (2, 1), 1),
        (3, 101, torch.LongTensor, (5,), (1,), 0),
    ]:
        n = len(shape)
        tensors += number((key, store, kind)) + struct.pack(f"<i4x{2 * n + 1}q", n, *shape, *stride, offset)

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return value.key if isinstance(value, Key) else None

    class Key:
        def __init__(self, key):
            self.key = key

    main = io.BytesIO()
    Pickler(main, protocol=2).dump(collections.OrderedDict(w=Key(1), view=Key(2), n=Key(3), tied=Key(1)))
    with tarfile.open(HERE / file, "w", format=tarfile.PAX_FORMAT) as t:
        for name, data in [("sys_info", number({})), ("pickle", main.getvalue()), ("tensors", tensors), ("storages", storages)]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))
    expect(file, flat(torch.load(HERE / file, weights_only=False)))


def torch_files():
    save("dtypes.pt", typed())
    save("views.pt", viewed())
    save("quantized.pt", quantized())
    save("sparse.pt", sparse())
    save("wrapped.pt", wrapped())
    save("lightning.ckpt", lightning())
    EXPECTED["wrapped.pt"]["marked.__dict__.note.extra"] = ["i64", [2], raw(torch.arange(2)).hex()]
    module = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3), torch.nn.Sequential(torch.nn.PReLU()))
    for protocol in (0, 2, 4):
        save(f"module_p{protocol}.pt", module, check=protocol > 0, pickle_protocol=protocol)
    for protocol in range(6):
        # Torch does not read protocol 0 of its own: the ids of storages are text there.
        save(f"zip_p{protocol}.pt", plain(), check=protocol > 0, pickle_protocol=protocol)
        save(f"legacy_p{protocol}.pt", plain(), check=protocol > 0, pickle_protocol=protocol,
             _use_new_zipfile_serialization=False)
    save("legacy_quantized.pt", quantized(), _use_new_zipfile_serialization=False)
    save("legacy_views.pt", viewed(), _use_new_zipfile_serialization=False)
    few = collections.OrderedDict((k, v) for k, v in plain().items() if v.dtype not in (torch.float8_e5m2, torch.uint32))
    torch.save(few, HERE / "few.pt")
    swapped("few.pt", "big_endian.pt")
    expect("big_endian.pt", flat(torch.load(HERE / "big_endian.pt")))
    deflated("few.pt", "deflated.pt")
    expect("deflated.pt", flat(torch.load(HERE / "deflated.pt")))
    (HERE / "few.pt").unlink()
    tar("first.tar.pt")


def sharded(folder, write, suffix, index):
    (HERE / folder).mkdir(exist_ok=True)
    tensors = {k: v.contiguous().clone() for k, v in plain().items()}
    places, parts = {}, [dict(list(tensors.items())[:4]), dict(list(tensors.items())[4:])]
    for i, part in enumerate(parts):
        name = f"model-{i + 1:05}-of-00002.{suffix}"
        write(part, HERE / folder / name)
        places.update({k: name for k in part})
    text = json.dumps({"metadata": {"total_size": 1234}, "weight_map": places}, indent=1)
    (HERE / folder / index).write_text(text)
    expect(f"{folder}/{index}", tensors.items())


def safetensors_files():
    known = [d for d in NAMES if "q" not in str(d) and "bits" not in str(d) and "int4" not in str(d)
             and str(d) not in ("torch.uint1", "torch.int7", "torch.complex32", "torch.float4_e2m1fn_x2", "torch.complex128")]
    tensors = {str(d).removeprefix("torch."): bits(d, 3, 4) for d in known}
    tensors["scalar"], tensors["empty"] = torch.tensor(2.5), torch.zeros(0, 3)
    safetensors.torch.save_file(tensors, HERE / "dtypes.safetensors", metadata={"format": "pt", "note": "a\nb"})
    back = safetensors.torch.load_file(HERE / "dtypes.safetensors")
    expect("dtypes.safetensors", back.items())
    # The types that the library does not write from torch.
    header, data = {}, b""
    for name, shape, size in [("F4", [2, 4], 4), ("F6_E2M3", [4, 2], 6), ("F6_E3M2", [8], 6)]:
        header[name.lower()] = {"dtype": name, "shape": shape, "data_offsets": [len(data), len(data) + size]}
        data += bytes(range(len(data), len(data) + size))
    text = json.dumps(header).encode()
    (HERE / "small.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    kinds = {"f4": "f4e2m1", "f6_e2m3": "f6e2m3", "f6_e3m2": "f6e3m2"}
    EXPECTED["small.safetensors"] = {
        n: [kinds[n], d["shape"], data[slice(*d["data_offsets"])].hex()] for n, d in header.items()}
    sharded("sharded_safetensors", safetensors.torch.save_file, "safetensors", "model.safetensors.index.json")
    sharded("sharded_bin", torch.save, "bin", "pytorch_model.bin.index.json")


def gguf_files():
    file = HERE / "blocks.gguf"
    w = gguf.GGUFWriter(file, "llama")
    w.add_uint32("test.count", 7)
    w.add_float32("test.rate", 0.5)
    w.add_bool("test.flag", True)
    w.add_array("test.words", ["a", "b c", "é"])
    w.add_uint64("test.large", 2**63 + 1)
    rng = np.random.default_rng(7)
    x = rng.standard_normal((2, 256)).astype(np.float32)
    w.add_tensor("f32", x[:, :40].copy())
    w.add_tensor("f16", x[:, :8].astype(np.float16))
    w.add_tensor("i32", np.arange(6, dtype=np.int32).reshape(3, 2))
    w.add_tensor("scalar", np.array([1.5], dtype=np.float64))
    kind = gguf.GGMLQuantizationType
    for q in [kind.BF16, kind.Q4_0, kind.Q4_1, kind.Q5_0, kind.Q5_1, kind.Q8_0]:
        w.add_tensor(q.name.lower(), gguf.quants.quantize(x, q), raw_dtype=q)
    for q in [kind.Q2_K, kind.Q3_K, kind.Q4_K, kind.Q5_K, kind.Q6_K]:
        # No quantizer of these is in the library: random blocks, with scales that are finite.
        size = gguf.GGML_QUANT_SIZES[q][1]
        blocks = rng.integers(0, 256, (2, size), dtype=np.uint8)
        at = {kind.Q2_K: [80, 82], kind.Q3_K: [108], kind.Q4_K: [0, 2], kind.Q5_K: [0, 2], kind.Q6_K: [208]}[q]
        for a in at:
            blocks[:, a : a + 2] = np.array([0.11, -0.37], dtype=np.float16).view(np.uint8).reshape(2, 2)
        w.add_tensor(q.name.lower(), blocks, raw_dtype=q)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    names = {"F32": "f32", "F16": "f16", "I32": "i32", "F64": "f64", "BF16": "bf16"}
    EXPECTED["blocks.gguf"], dense = {}, {}
    for t in gguf.GGUFReader(file).tensors:
        shape = [int(n) for n in reversed(t.shape)]
        data = np.ascontiguousarray(t.data)
        kind_name = names.get(t.tensor_type.name, t.tensor_type.name.lower())
        EXPECTED["blocks.gguf"][t.name] = [kind_name, shape, data.tobytes().hex()]
        if t.tensor_type.name not in names:
            dense[t.name] = gguf.quants.dequantize(data, t.tensor_type).astype("<f4").tobytes().hex()
    EXPECTED["blocks.gguf dequantized"] = dense


def canonical(v, protocol):
    """A text for a value; `canonical` of the Rust tests writes the same for what it reads."""
    text = lambda inner: canonical(inner, protocol)
    if v is None or isinstance(v, bool):
        return str(v)
    if isinstance(v, int):
        if -(2**63) <= v < 2**63:
            return f"i{v}"
        # The first protocols write digits.
        return f"I{v}" if protocol < 2 else f"I{v:#x}"
    if isinstance(v, float):
        return "f" + struct.pack(">d", v).hex()
    if isinstance(v, complex):
        return "c" + struct.pack(">dd", v.real, v.imag).hex()
    if isinstance(v, str):
        return "s" + v.encode().hex()
    if isinstance(v, (bytes, bytearray)):
        return "b" + bytes(v).hex()
    if isinstance(v, list):
        return "[" + ",".join(map(text, v)) + "]"
    if isinstance(v, tuple):
        return "(" + ",".join(map(text, v)) + ")"
    if isinstance(v, (set, frozenset)):
        return "<" + ",".join(sorted(map(text, v))) + ">"
    if isinstance(v, dict):
        return "{" + ",".join(text(k) + ":" + text(x) for k, x in v.items()) + "}"
    if isinstance(v, type):
        return f"n{v.__module__}.{v.__name__}"
    return f"o{type(v).__module__}.{type(v).__name__}"


def value(rng, depth):
    plain = [
        lambda: None, lambda: rng.random() < 0.5, lambda: rng.choice([0, 1, -1, 255, 256, 65535, 65536, -32769, 2**31, -(2**31) - 1]),
        lambda: rng.randint(-(2**63), 2**63 - 1), lambda: rng.choice([1, -1]) * rng.randint(2**63 + 1, 2**200),
        lambda: rng.choice([0.0, -0.0, float("inf"), float("-inf"), 1e-310, 0.1, 1e300]), lambda: rng.gauss(0, 1e10),
        lambda: "".join(rng.choice("abc\\'\"\n\r\0\x1a éλ€😀{}") for _ in range(rng.randint(0, 12))),
        lambda: bytes(rng.randint(0, 255) for _ in range(rng.randint(0, 9))),
        lambda: bytearray(rng.randint(0, 255) for _ in range(rng.randint(0, 5))),
        lambda: complex(rng.gauss(0, 1), rng.gauss(0, 1)), lambda: rng.choice([int, str, dict]),
        lambda: rng.choice(["x" * 300, b"y" * 300, pathlib.PurePosixPath("a/b")]),
    ]
    if depth == 0 or rng.random() < 0.3:
        return rng.choice(plain)()
    n = rng.randint(0, 5)
    inner = lambda: value(rng, depth - 1)
    keys = lambda: [rng.choice(plain[:9])() for _ in range(n)]
    shared = inner()
    return rng.choice([
        lambda: [inner() for _ in range(n)], lambda: tuple(inner() for _ in range(n)), lambda: [shared] * n,
        lambda: dict(zip(keys(), [inner() for _ in range(n)])), lambda: set(keys()), lambda: frozenset(keys()),
        lambda: collections.OrderedDict(zip(keys(), [inner() for _ in range(n)])), lambda: {"k": shared, "l": shared},
    ])()


def pickles():
    """Records of two lengths, a pickle, and the canonical text of its value."""
    rng = random.Random(5)
    out = b""
    for i in range(30):
        v = value(rng, 3)
        for protocol in range(6):
            for stream in [pickle.dumps(v, protocol=protocol), pickle._dumps(v, protocol=protocol)][: 1 + (i < 5)]:
                text = canonical(pickle.loads(stream), protocol).encode()
                out += struct.pack("<II", len(stream), len(text)) + stream + text
    (HERE / "pickles.bin").write_bytes(out)


if __name__ == "__main__":
    torch.manual_seed(1)
    torch_files()
    safetensors_files()
    gguf_files()
    pickles()
    lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in EXPECTED.items())
    (HERE / "expected.json").write_text("{\n" + lines + "\n}\n")
