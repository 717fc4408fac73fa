"""Writes cases of ATen operators with PyTorch's answers.

    python xtask/py/aten/cases.py FOLDER [--count N] [--seed N] [--op NAME] [--small]

FOLDER gets `cases.jsonl`, a case a line, and `arrays.bin`, the bytes of all tensors. A case is a call as `torch.export`
writes it: the operator's overload, its arguments by name, the tensors among them as inputs, and the results.
`--count` is the number of cases that are drawn for an operator, `--small` draws few and small ones. The cases of `edges.py`
follow.
"""

import argparse
import json
import math
import pathlib
import random
import warnings

import torch
import torchvision  # noqa: F401 (registers its operators)

import draws
import edges
import rare  # noqa: F401 (registers its draws)

DTYPES = {
    torch.uint8: 1,
    torch.int8: 2,
    torch.int16: 3,
    torch.int32: 4,
    torch.int64: 5,
    torch.float16: 6,
    torch.float32: 7,
    torch.float64: 8,
    torch.bool: 12,
    torch.bfloat16: 13,
}


class Unwritable(Exception):
    """What a case cannot hold."""


class Writer:
    """The two files."""

    def __init__(self, folder: pathlib.Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.lines = open(folder / "cases.jsonl", "w")
        self.bytes = open(folder / "arrays.bin", "wb")
        self.at = 0
        self.count = 0
        self.names = set()

    def tensor(self, value: torch.Tensor) -> list:
        if value.dtype not in DTYPES:
            raise Unwritable(value.dtype)
        flat = torch.empty(value.numel(), dtype=value.dtype)
        flat.copy_(value.detach().reshape(-1))
        data = flat.view(torch.uint8).numpy().tobytes()
        entry = [DTYPES[value.dtype], list(value.shape), self.at]
        self.bytes.write(data)
        self.at += len(data)
        return entry

    def case(self, target: str, args: list, inputs: list, outputs: list, tolerance: float) -> None:
        inputs = [self.tensor(v) for v in inputs]
        outputs = [{"list": [self.tensor(v) for v in o]} if isinstance(o, list) else {"one": self.tensor(o)} for o in outputs]
        case = {"op": target, "args": args, "inputs": inputs, "outputs": outputs, "tolerance": tolerance}
        self.lines.write(json.dumps(case, separators=(",", ":")) + "\n")
        self.count += 1
        self.names.add(target.rsplit(".", 1)[0])


def argument(value, inputs: list):
    """An argument as the schema of torch.export has it; tensors go to `inputs`."""

    def name(tensor):
        inputs.append(tensor)
        return {"name": f"i{len(inputs) - 1}"}

    def number(v):
        if math.isnan(v):
            return "NaN"
        if math.isinf(v):
            return "Infinity" if v > 0 else "-Infinity"
        return v

    if value is None:
        return {"as_none": True}
    if isinstance(value, torch.Tensor):
        return {"as_tensor": name(value)}
    if isinstance(value, bool):
        return {"as_bool": value}
    if isinstance(value, int):
        return {"as_int": value}
    if isinstance(value, float):
        return {"as_float": number(value)}
    if isinstance(value, str):
        return {"as_string": value}
    if isinstance(value, torch.dtype):
        return {"as_scalar_type": DTYPES[value]}
    if isinstance(value, (list, tuple)):
        value = list(value)
        if value and all(isinstance(v, torch.Tensor) for v in value):
            return {"as_tensors": [name(v) for v in value]}
        if any(isinstance(v, torch.Tensor) for v in value):
            return {"as_optional_tensors": [{"as_none": True} if v is None else {"as_tensor": name(v)} for v in value]}
        if all(isinstance(v, bool) for v in value) and value:
            return {"as_bools": value}
        if all(isinstance(v, int) for v in value):
            return {"as_ints": value}
        if all(isinstance(v, (int, float)) for v in value):
            return {"as_floats": [number(float(v)) for v in value]}
    raise Unwritable(type(value))


def tolerance(outputs: list) -> float:
    """Largest difference relative to the largest magnitude."""
    flat = [v for o in outputs for v in (o if isinstance(o, list) else [o])]
    kinds = {v.dtype for v in flat}
    if torch.bfloat16 in kinds:
        return 2e-2
    if torch.float16 in kinds:
        return 3e-3
    if torch.float32 in kinds:
        return 2e-5
    return 1e-6 if torch.float64 in kinds else 0.0


def answer(overload, args: list, kwargs: dict, keep: int | None) -> list:
    """Results, tensors or lists of tensors; of several the first `keep`."""
    found = overload(*args, **kwargs)
    found = found if isinstance(found, tuple) else (found,)
    results = []
    for value in found[:keep]:
        if isinstance(value, torch.Tensor):
            results.append(value)
        elif isinstance(value, list) and all(isinstance(v, torch.Tensor) for v in value):
            results.append(list(value))
        else:
            raise Unwritable(type(value))
    return results


def copied(value):
    """An argument that may be written without changing the case."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, list):
        return [copied(v) for v in value]
    return value


def write(writer: Writer, name: str, call: tuple, keep: int | None) -> bool:
    overload_name, args, kwargs = call
    space, base = name.split("::")
    try:
        overload = getattr(getattr(getattr(torch.ops, space), base), overload_name)
        results = answer(overload, [copied(a) for a in args], {k: copied(v) for k, v in kwargs.items()}, keep)
        inputs, named = [], []
        schema = overload._schema.arguments
        for parameter, value in zip(schema, args):
            named.append([parameter.name, argument(value, inputs)])
        for key, value in kwargs.items():
            named.append([key, argument(value, inputs)])
    except (AttributeError, RuntimeError, IndexError, ValueError, TypeError, NotImplementedError, Unwritable):
        return False
    writer.case(f"torch.ops.{space}.{base}.{overload_name}", named, inputs, results, tolerance(results))
    return True


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--op")
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    draws.SMALL = options.small
    writer = Writer(options.folder)
    for name, draw in draws.OPERATORS.items():
        if options.op and options.op not in (name, name.split("::")[1]):
            continue
        random.seed(f"{options.seed} {name}")
        torch.manual_seed(random.getrandbits(31))
        written = tries = 0
        while written < options.count and tries < 8 * options.count:
            written += write(writer, name, draw(), draws.RESULTS.get(name))
            tries += 1
        if not written:
            print(f"no case of {name}")
    for name, overload, args, kwargs in edges.EDGES:
        if options.op and options.op not in (name, name.split("::")[1]):
            continue
        if not write(writer, name, (overload, args, kwargs), None):
            print(f"no edge of {name}.{overload}")
    print(f"{len(writer.names)} names, {writer.count} cases")


main()
