#!/usr/bin/env python3
"""Writes the seeds of the fuzz targets `pickle`, `zip`, `torchscript` and `pt2`: `fuzz_seeds.py FOLDER`.

Small files that torch writes, in the forms that the targets read: the folder is `fuzz/seeds`, the programs of TorchScript
are those of the loader's tests with their class renamed to the one that the target has.
"""

import collections
import io
import pathlib
import pickle
import re
import sys
import zipfile

import torch

ROOT = pathlib.Path(__file__).resolve().parents[2]


def put(folder, target, name, data):
    (folder / target).mkdir(parents=True, exist_ok=True)
    (folder / target / name).write_bytes(data)


def saved(value, **options):
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def values():
    base = torch.arange(12.0)
    yield "state", collections.OrderedDict(weight=base.view(3, 4), bias=base[:3])
    yield "views", {"a": base[2:8].view(2, 3).t(), "b": base[::3], "c": torch.zeros(0)}
    yield "dtypes", [torch.zeros(2, dtype=d) for d in (torch.float16, torch.bfloat16, torch.int8, torch.bool, torch.complex64)]
    yield "lightning", {"state_dict": {"net.weight": base[:4]}, "hyper_parameters": {"lr": 1e-3, "name": "x"}, "epoch": 3,
                        "callbacks": {}, "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0)}}}]}
    yield "parameter", {"p": torch.nn.Parameter(base[:2]), "size": torch.Size([2, 3]), "device": torch.device("cpu")}


def checkpoints(folder):
    for name, value in values():
        put(folder, "zip", name, saved(value))
        put(folder, "zip", f"{name}_legacy", saved(value, _use_new_zipfile_serialization=False))
        with zipfile.ZipFile(io.BytesIO(saved(value))) as archive:
            data = next(n for n in archive.namelist() if n.endswith("data.pkl"))
            put(folder, "pickle", name, b"\x01" + archive.read(data))
    plain = {"a": [1, 2.5, None, True, (3, 4)], "b": {"c": "text", "d": b"bytes"}, "e": {1, 2}, "f": 1 << 80, "g": -1}
    plain["h"] = plain["a"]
    for protocol in range(6):
        put(folder, "pickle", f"plain_{protocol}", b"\x00" + pickle.dumps(plain, protocol))
    put(folder, "pickle", "legacy", b"\x00" + saved({"w": torch.ones(2)}, _use_new_zipfile_serialization=False))


def programs(folder):
    for path in sorted((ROOT / "loaders/tests/torchscript").glob("*.pt")):
        name = path.stem
        with zipfile.ZipFile(path) as archive:
            source = archive.read(f"{name}/code/__torch__.py").decode()
        source = re.sub(rf"\b{name}\b", "Memory", source)
        if len(source) < 4096:
            put(folder, "torchscript", name.lower(), source.encode())
    put(folder, "zip", "torchscript", (ROOT / "loaders/tests/torchscript/Lists.pt").read_bytes())


class Plain(torch.nn.Module):
    def __init__(self, f):
        super().__init__()
        self.w = torch.nn.Parameter(torch.ones(2))
        self.f = f

    def forward(self, x):
        return self.f(x, self.w)


class Counting(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("w", torch.zeros(2))

    def forward(self, x):
        self.w.add_(x.sum(0))
        return x * self.w


def exported(folder):
    rows = torch.export.Dim("rows", min=2, max=64)
    functions = {
        "add": lambda x, w: x + w,
        "views": lambda x, w: (x.t()[1:, :].reshape(-1), x[:, 0].unsqueeze(1)),
        "branch": lambda x, w: torch.cond(x.sum() > 0, lambda x: x * 2, lambda x: x - 1, (x,)),
        "sizes": lambda x, w: x.view(x.shape[0] * 2) + x.shape[0],
        "softmax": lambda x, w: torch.softmax(torch.nn.functional.linear(x, w.unsqueeze(0)), -1),
        "write": lambda x, w: x.clone().index_fill_(1, torch.tensor([0]), 3.0),
    }
    models = {name: Plain(f) for name, f in functions.items()} | {"counting": Counting()}
    for name, model in models.items():
        program = torch.export.export(model, (torch.ones(3, 2),), dynamic_shapes=({0: rows},))
        file = io.BytesIO()
        torch.export.save(program, file)
        with zipfile.ZipFile(file) as archive:
            entry = next(n for n in archive.namelist() if n.endswith("models/model.json"))
            text = archive.read(entry).decode()
        # Where the source of a node stands is half of the text and nothing that is read.
        text = re.sub(r'"stack_trace": "(?:[^"\\]|\\.)*"', '"stack_trace": ""', text)
        put(folder, "pt2", name, text.encode())
        if name == "add":
            put(folder, "zip", "pt2", file.getvalue())


def main():
    folder = pathlib.Path(sys.argv[1])
    checkpoints(folder)
    programs(folder)
    exported(folder)


if __name__ == "__main__":
    main()
