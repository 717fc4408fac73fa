"""Writes the programs of this folder and what they give: `python make.py [NAME...]`, with torch 2.15.

Every program is `NAME.pt`; `NAME.json` says how to load it and what calls of its methods, in order, give or raise.
"""

import json
import pathlib
import sys
from typing import Dict, List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor, nn

HERE = pathlib.Path(__file__).parent
PROGRAMS = {}


def program(shapes=None, calls=(), arguments=None, dtypes=None, **options):
    """Registers a module class with the calls to make."""

    def register(cls):
        PROGRAMS[cls.__name__] = (cls, shapes or {}, list(calls), arguments or {}, dtypes or {}, options)
        return cls

    return register


def t(*values, dtype=torch.float32):
    return torch.tensor(values, dtype=dtype)


def flat(value):
    if value is None:
        return []
    if isinstance(value, dict):
        return [leaf for v in value.values() for leaf in flat(v)]
    if isinstance(value, (tuple, list)):
        return [leaf for v in value for leaf in flat(v)]
    return [value]


def encoded(value):
    if isinstance(value, str):
        return {"dtype": "string", "shape": [], "data": [value]}
    if not isinstance(value, Tensor):
        kind = {bool: torch.bool, int: torch.int64, float: torch.float64}[type(value)]
        value = torch.tensor(value, dtype=kind)
    name = str(value.dtype).removeprefix("torch.")
    data = value.to(torch.float64).flatten().tolist()
    return {"dtype": name, "shape": list(value.shape), "data": data}


x23 = torch.arange(6, dtype=torch.float32).reshape(2, 3) - 2


@program({"x": [2, 3]}, [("forward", (x23, 5)), ("forward", (x23, 0)), ("forward", (x23, 2))])
class Loops(nn.Module):
    """Loops whose counts show at run time, with break and continue."""

    def forward(self, x: Tensor, n: int):
        y = x * 2
        total = 0
        for i in range(n):
            if i == 3:
                break
            if i == 1:
                continue
            y = y + i
            total += i * i
        k = 0
        while k < 4 and bool(y.sum() < 20):
            k += 1
            y = y + 1.5
        return y, total, k


@program({"x": [2, 3]}, [("forward", (x23,)), ("forward", (-x23,)), ("forward", (x23 + 10,))])
class EarlyReturn(nn.Module):
    """Returns from branches on data."""

    def forward(self, x: Tensor) -> Tensor:
        if bool(x.sum() > 20):
            return x
        y = x.abs()
        if bool(y.max() > 2.5):
            y = y + 1
            if bool(x[0, 0] > 0):
                return y * 3
        return y * 2


@program({"x": [2, 3]}, [("forward", (x23,))])
class InPlace(nn.Module):
    """Changes in place through views."""

    def forward(self, x: Tensor):
        y = x.clone()
        row = y[1]
        row.add_(10)
        y[:, 1:] += 2
        y[0] = 5.0
        z = y.t()
        z[2].mul_(2)
        w = y.view(6)
        w[3:5] = -1.0
        a, b = y.chunk(2, 0)
        a.sub_(1)
        return y, row, z, w, b


@program({"x": [2, 3]}, [("forward", (x23, 1, None)), ("forward", (x23, 7, None))])
class Containers(nn.Module):
    """Lists, dicts, tuples, optionals and text that chooses."""

    def forward(self, x: Tensor, n: int, o: Optional[Tensor] = None) -> Dict[str, Tensor]:
        parts: List[Tensor] = []
        for scale in [1.0, 2.0, 3.0]:
            parts.append(x * scale)
        parts.insert(0, x)
        last = parts.pop()
        names = ["a", "b", "c"]
        out: Dict[str, Tensor] = {}
        for i in range(3):
            out[names[i].upper() + str(i)] = parts[i]
        if o is not None:
            out["o"] = o
        for key, value in out.items():
            out[key] = value + len(key)
        t = (x, last)
        a, b = t
        kept = [p + 1 for p in parts]
        out["sum"] = torch.stack(kept).sum(0) + a - b
        out["n"] = x + n if n in [1, 2] else x - n
        if "A0" in out and "z" not in out:
            out["A0"] = out["A0"] * 2
        return out


class Point(NamedTuple):
    left: Tensor
    right: Tensor


@program({"p.left": [3], "p.right": [3]}, [("forward", ((t(1, 2, 3), t(4, 5, 6)),))])
class Named(nn.Module):
    """Named tuples as arguments and results."""

    def forward(self, p: Point) -> Point:
        return Point(p.left + p.right, p.left * 2)


@program(
    {"x": ["n", 3]},
    [("forward", (x23,)), ("forward", (torch.ones(4, 3),)), ("forward", (torch.ones(0, 3),))],
)
class Grow(nn.Module):
    """A list that grows in a loop over a symbolic size."""

    def forward(self, x: Tensor):
        rows: List[Tensor] = []
        total = torch.zeros(3)
        for i in range(x.size(0)):
            total = total + x[i]
            rows.append(total)
        if len(rows) == 0:
            return total
        return torch.stack(rows).sum(0)


@program(
    {"x": ["n"]},
    [("forward", (t(1, 2, 3), 1.5)), ("forward", (t(1, 2), 0.5)), ("forward", (t(1, 2, 3), -1.0))],
)
class Raise(nn.Module):
    """Exceptions that carry formatted messages."""

    def forward(self, x: Tensor, p: float):
        if x.size(0) != 3:
            raise ValueError("expected {} values, got {}".format(3, x.size(0)))
        assert p >= 0, f"p is {p}"
        return x * p


@program(
    {"x": [1, 4]},
    [
        ("forward", (torch.ones(1, 4),)),
        ("forward", (torch.ones(1, 4) * 2,)),
        ("reset", ()),
        ("forward", (torch.ones(1, 4) * 3,)),
        ("count_calls", ()),
    ],
)
class Memory(nn.Module):
    """Attributes that methods change, and whose shapes change with them."""

    last: Optional[Tensor]

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(0))
        self.calls = 0
        self.last = None

    def forward(self, x: Tensor):
        if self.seen.numel() == 0:
            self.seen = torch.zeros(1, 4)
        self.seen = self.seen * 0.5 + x
        self.calls += 1
        last = self.last
        self.last = x
        if last is not None:
            return self.seen + last
        return self.seen

    @torch.jit.export
    def reset(self):
        self.seen = torch.zeros(0)
        self.calls = 0
        self.last = None

    @torch.jit.export
    def count_calls(self) -> int:
        return self.calls


@program({"x": [2, 4]}, [("forward", (torch.arange(8, dtype=torch.float32).reshape(2, 4),))])
class Buffers(nn.Module):
    """A buffer that is changed in place, twice over."""

    def __init__(self):
        super().__init__()
        self.register_buffer("total", torch.zeros(4))

    def forward(self, x: Tensor):
        self.total.add_(x.sum(0))
        self.total += 1
        return x - self.total


def scaled(x: Tensor, factor: float = 2.0, negate: bool = False) -> Tensor:
    y = x * factor
    if negate:
        y = -y
    return y


class Inner(nn.Module):
    def __init__(self, n: int):
        super().__init__()
        self.linear = nn.Linear(3, n)
        self.n = n

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.linear(x)) + scaled(x, negate=True).sum() * self.n


@program({"x": [2, 3]}, [("forward", (x23,))])
class Nested(nn.Module):
    """Submodules, functions with defaults, and a list of modules."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([Inner(3), Inner(3)])
        self.heads = nn.ModuleDict({"a": nn.Linear(3, 1), "b": nn.Linear(3, 2)})

    def forward(self, x: Tensor):
        for layer in self.layers:
            x = layer(x)
        out: List[Tensor] = []
        for name, head in self.heads.items():
            out.append(head(x) if name == "a" else scaled(head(x), 0.5))
        return out


@program({"x": [6]}, [("forward", (t(3, 1, 2, 6, 5, 4), 2)), ("forward", (t(1, 2, 3, 4, 5, 6), 4))])
class Writes(nn.Module):
    """Writes to places that show at run time, in a loop of run time."""

    def forward(self, x: Tensor, n: int):
        y = torch.zeros_like(x)
        for i in range(n):
            y[i] = x[i] * 2
            y[-1] += 1
        return y


@program({}, [("forward", (3, 2.5, True)), ("forward", (-7, 0.5, False))])
class Scalars(nn.Module):
    """Arithmetic of numbers that show at run time."""

    def forward(self, n: int, p: float, b: bool) -> Tuple[int, float, bool, int, int, float, float]:
        return n // 2 + n % 3, p / 2 + n, not b and n > 0, int(p), min(n, 4), float(n) * p, abs(p) ** 2.0


def write(name):
    cls, shapes, calls, arguments, dtypes, options = PROGRAMS[name]
    module = cls().eval()
    scripted = torch.jit.script(module)
    scripted.save(str(HERE / f"{name}.pt"))
    done = []
    for method, args in calls:
        call = {"method": method, "inputs": [encoded(a) for a in flat(list(args))]}
        if isinstance(args, tuple) and cls is Named:
            args = (Point(*args[0]),)
        try:
            call["outputs"] = [encoded(o) for o in flat(getattr(scripted, method)(*args))]
        except Exception as error:  # noqa: BLE001: whatever the program raises is what is expected
            lines = [line for line in str(error).splitlines() if line.strip()]
            call["error"] = lines[-1].split("Error: ", 1)[-1] if "Error: " in lines[-1] else lines[-1]
        done.append(call)
    text = {"shapes": shapes, "arguments": arguments, "dtypes": dtypes, "calls": done}
    (HERE / f"{name}.json").write_text(json.dumps(text, indent=1) + "\n")


if __name__ == "__main__":
    for name in sys.argv[1:] or PROGRAMS:
        write(name)
