"""Writes the programs of this folder and what they give: `python make.py [NAME...]`, with torch 2.15.

Every program is `NAME.pt`; `NAME.json` says how to load it and what calls of its methods, in order, give or raise, or
what is said of a program that is refused.
"""

import enum
import json
import pathlib
import sys
import zipfile
from collections import OrderedDict
from typing import Dict, List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

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


@program({"x": [2, 3]}, [("forward", (x23,))])
class Pairs(nn.Module):
    """A dict made of pairs, in their order."""

    def forward(self, x: Tensor) -> Dict[str, Tensor]:
        names = ["b", "a", "b"]
        parts = [x, x + 1, x * 2]
        pairs = [(k, v) for k, v in zip(names, parts)]
        return OrderedDict(pairs)


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


x33 = torch.arange(9, dtype=torch.float32).reshape(3, 3)


@program({"y": [3, 3]}, [("forward", (x33,))])
class Aliases(nn.Module):
    """Results that are their operand, views with sizes of run time, and slices with steps and ends."""

    def forward(self, y: Tensor):
        y = y.clone()
        z = y.to(torch.float32)
        z.add_(1)
        w = y.contiguous()
        w[0].mul_(2)
        shape = [9]
        v = y.view(shape)
        shape[0] = 3
        y.add_(1)
        u = y.to(torch.float64)
        u.zero_()
        d = torch.nn.functional.dropout(y, 0.5, False)
        d.mul_(2)
        f = y.reshape(-1)
        f[0:8:3] = 7.0
        f[3:1] = 9.0
        return y, v, u, torch.scalar_tensor(5)


@program({"x": ["n"], "y": ["m"]}, [("forward", (t(1, 2, 3, 4), t(1, 2))), ("forward", (t(1, 2, 3), t(5)))])
class FromEnd(nn.Module):
    """Bounds that count a symbolic size from the end."""

    def forward(self, x: Tensor, y: Tensor):
        a = x[-y.size(0) :]
        b = x[: -y.size(0)]
        c = x.clone()
        c[-y.size(0) :].mul_(10)
        return a, b, c, x[: x.size(0) - 1]


@program({"x": [2]}, [("forward", (t(1, 2), 3)), ("forward", (t(1, 2), 4))])
class Texts(nn.Module):
    """Text, lists and dicts with keys that are equal or of other kinds."""

    def forward(self, x: Tensor, n: int):
        d = {"a": 1, "b": 2, "a": 3}
        s: Optional[str] = "a,b,a"
        count = 0
        if s is not None:
            count = s.count("a") * 100 + s.find("b") * 10 + len(s.split(","))
        found = [3, 1, 3].count(n) if False else [3, 1, 3].count(3)
        scripting = 1 if torch.jit.is_scripting() else 0
        return d["a"], len(d), count, found, scripting, "a,b".startswith("a"), " a ".strip() == "a"


@program({"y": [3, 3]}, refused="`diagonal`")
class Diagonal(nn.Module):
    def forward(self, y: Tensor):
        y = y.clone()
        y.diagonal().fill_(5.0)
        return y


@program({"y": [3, 3]}, refused="may share elements")
class Transposed(nn.Module):
    def forward(self, y: Tensor):
        w = y.t().reshape(-1)
        w.zero_()
        return y


@program({"x": [3]}, refused="one of several")
class OneOfTwo(nn.Module):
    def forward(self, x: Tensor, c: bool):
        x, y = x * 2, x + 1
        if c:
            z = x
        else:
            z = y
        x.add_(1)
        return z


@program({"x": [3]}, refused="one of several")
class AtRunTime(nn.Module):
    def forward(self, x: Tensor, i: int):
        xs = [x + 1, x + 2]
        xs[i].add_(1)
        return xs[0]


@program({"x": [3]}, [("forward", (t(1, 2, 3),)), ("forward", (t(5, 0, -1),)), ("forward", (t(1, 1, 1),))])
class InDict(nn.Module):
    """Elements of containers that change: they are states each."""

    c: Dict[str, Tensor]
    past: List[Tensor]
    counts: List[int]

    def __init__(self):
        super().__init__()
        self.c = {"a": torch.zeros(3), "b": torch.ones(1)}
        self.past = [torch.zeros(3), torch.ones(3)]
        self.counts = [0, 7]

    def forward(self, x: Tensor):
        self.c["a"].add_(x)
        self.c["b"] = self.c["b"] * 2
        self.past[1] = self.past[0] + 1
        self.past[0] = x
        return self.c["a"] + 1, self.c["b"], self.past, self.counts


@program({"x": [3]}, refused="several names")
class TwoLists(nn.Module):
    """Two attributes that become one list."""

    a: List[Tensor]
    b: List[Tensor]

    def __init__(self):
        super().__init__()
        self.a = [torch.zeros(3)]
        self.b = [torch.ones(3)]

    def forward(self, x: Tensor):
        both = [x]
        self.a = both
        self.b = both
        return x + len(self.b)


@program({"x": [3]}, refused="several names")
class TwoNames(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("a", torch.zeros(3))
        self.b = self.a

    def forward(self, x: Tensor):
        self.a.add_(x)
        return self.b + 1


@program({"x": [3]}, refused="key of a dict")
class KeyOfRunTime(nn.Module):
    def forward(self, x: Tensor, n: int):
        d = {1: 2, 3: 4}
        return x + (1 if n in d else 2)


@program({"x": [3]}, refused="`find` of text with such arguments")
class Find(nn.Module):
    def __init__(self):
        super().__init__()
        self.text = "abab"

    def forward(self, x: Tensor):
        return x + self.text.find("a", 1)


@program({"x": ["n"]}, refused="formatted at run time")
class Formatted(nn.Module):
    def forward(self, x: Tensor):
        name = "x{}".format(x.size(0))
        if name == "x3":
            return x + 1
        return x


class Scale:
    def __init__(self, low: int, factor: float):
        self.low = low
        self.factor = factor


@program({"x": [2, 3]}, [("forward", (x23,)), ("forward", (x23 + 1,)), ("reset", ()), ("forward", (x23,))])
class Lazy(nn.Module):
    """Attributes that are made when they are first needed."""

    scales: Optional[List[float]]
    scale: Optional[Scale]

    def __init__(self):
        super().__init__()
        self.scales = None
        self.scale = None

    def forward(self, x: Tensor):
        first = 0
        if self.scales is None:
            self.scales = [1.0 / x.size(0), float(x.size(1))]
            self.scale = Scale(x.size(0), 2.5)
            first = 1
        scales, scale = self.scales, self.scale
        assert scales is not None
        assert scale is not None
        return x * scales[0] + scales[1] * scale.factor, scale.low, first

    @torch.jit.export
    def reset(self):
        self.scales = None
        self.scale = None


class Order(enum.Enum):
    ROWS = "rows"
    COLUMNS = "columns"


@program({"x": [2, 3]}, [("forward", (x23,))])
class Enumerated(nn.Module):
    """Attributes that are members of enumerations."""

    def __init__(self):
        super().__init__()
        self.order = Order.COLUMNS
        self.other = Order.ROWS

    def forward(self, x: Tensor):
        if self.order != Order.ROWS:
            x = x.t()
        if self.other == Order.COLUMNS:
            x = x * 2
        return x, self.order.value


@program({"x": [4]}, [("forward", (t(1, -2, 3, 4),)), ("forward", (t(-1, -2, -3, -4),))], said="ambiguous")
class OnOnePath(nn.Module):
    """An operator that does not take its operands where some runs come by."""

    def forward(self, x: Tensor):
        found = torch.where(x > 0)[0]
        if found.numel() == 0:
            keep = torch.empty([0], dtype=torch.long)
        else:
            keep = found
        return x[keep].reshape([keep.size(0), -1]) + 1


@program({"x": [4]}, [("forward", (t(1, -2, 3, 4),)), ("forward", (t(-1, -2, -3, -4),))])
class SomeOrNone(nn.Module):
    """A tensor of another rank where nothing is found."""

    def forward(self, x: Tensor):
        found = x[x > 0]
        n = found.size(0)
        if n > 0:
            y = found.reshape([n, 1, 1]).expand([n, 2, 3])
        else:
            y = found
        return y.sum(), y.numel(), n


wave = torch.sin(torch.arange(700) * 0.37) + torch.cos(torch.arange(700) * 1.1)


@program({"x": [1, 700]}, [("forward", (wave[None],))])
class Spectrum(nn.Module):
    """Transforms of frames, complex numbers between them, and back."""

    def forward(self, x: Tensor):
        window = torch.hann_window(320)
        z = torch.stft(x, 320, 80, 320, window, return_complex=True)
        half = torch.view_as_complex(torch.view_as_real(z) * 0.5)
        low = torch.nn.functional.pad(half[:, :-1], [0, 0, 0, 1])
        turned = low * torch.polar(torch.ones(161, 1), torch.linspace(0, 1, 161)[:, None])
        y = torch.istft(turned, 320, 80, 320, window, length=700)
        short = torch.stft(y[0, :40], 12, 5, 10, center=False, normalized=True, onesided=False, return_complex=True)
        whole = torch.istft(z / (2.0 + turned.conj() * 0.0), 320, 80, 320, window)
        return y, z.abs().mean(2), short.real, (short - short * 2.0).imag, torch.complex(x[0, :9], x[0, 9:18]).angle(), whole


@program(
    {"x": [3, 5, 4], "lengths": [3]},
    [("forward", (torch.arange(60, dtype=torch.float32).reshape(3, 5, 4).sin(), torch.tensor(lengths))) for lengths in ([5, 3, 1], [4, 4, 2])],
    dtypes={"lengths": "int64"},
)
class Packed(nn.Module):
    """Recurrent layers over sequences of different lengths."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.lstm = nn.LSTM(4, 3, num_layers=2, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(6, 2)

    def forward(self, x: Tensor, lengths: Tensor):
        y, (h, c) = self.lstm(pack_padded_sequence(x, lengths, batch_first=True))
        z, last = self.gru(y)
        a, sizes = pad_packed_sequence(y, batch_first=True, padding_value=-1.0)
        b, _ = pad_packed_sequence(z, total_length=6)
        return a, sizes, b, h, c, last


# Bodies of `forward` that nothing compiles to, and what is said of them.
HOSTILE = {
    "BlocksOnALine": ("  " * 0 + "if x: " * 5000 + "pass\n", "nesting of"),
    "Lists": ("for i in range(4096):\n  y = [0] * 65536\n", "number of steps"),
    "LongTexts": (
        'z = []\nfor i in range(4096):\n  y = torch.append(z, "x" * 1048576)\n',
        "number of steps",
    ),
    "Tuples": ("y = (x,)\nfor i in range(4096):\n  y = (y,)\n", "nesting of tuples"),
    "TuplesOfItems": (
        "y = (x,)\nfor i in range(4096):\n  y = torch.items({0: y})[0]\n",
        "nesting of tuples",
    ),
    "ListsInLists": (
        "y = [x]\nif torch.gt(torch.item(torch.sum(x)), 0):\n  y = [x]\n  for i in range(4096):\n    y = [y]\n"
        "else:\n  y = [x]\n  for i in range(4096):\n    y = [y]\n",
        "nesting of values",
    ),
    "Raises": (
        "if torch.gt(torch.item(torch.sum(x)), 0):\n  return x\nelse:\n  pass\n"
        + 'if torch.gt(torch.item(torch.sum(x)), 1):\n  ops.prim.RaiseException("no")\nelse:\n  pass\n' * 3000,
        None,
    ),
    "Chunks": ("y = torch.clone(x)\nz = torch.chunk(y, 9223372036854775807)[0]\nw = torch.zero_(z)\n", None),
    "SliceDepth": ("y = x" + "[:x" * 5000 + "]" * 5000 + "\n", "nesting of"),
}


class Hollow(nn.Module):
    def forward(self, x: Tensor):
        return x


def write_hostile(name):
    body, refused = HOSTILE[name]
    path = HERE / f"{name}.pt"
    torch.jit.script(Hollow()).save(str(path))
    with zipfile.ZipFile(path) as archive:
        entries = {entry: archive.read(entry) for entry in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry, data in entries.items():
            if entry.endswith(".py"):
                head, _ = data.decode().split("    return x")
                lines = [f"    {line}\n" for line in body.splitlines()]
                data = (head + "".join(lines) + "    return x\n").encode()
            if not entry.endswith(".debug_pkl"):
                archive.writestr(zipfile.ZipInfo(entry), data, zipfile.ZIP_DEFLATED)
    text = {"shapes": {"x": [3]}, "arguments": {}, "dtypes": {}, "calls": [], "refused": refused}
    (HERE / f"{name}.json").write_text(json.dumps(text, indent=1) + "\n")


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
            if "said" in options:
                # Of an operator's own message this is what Kiln's shares.
                assert options["said"] in call["error"]
                call["error"] = options["said"]
        done.append(call)
    text = {"shapes": shapes, "arguments": arguments, "dtypes": dtypes, "calls": done}
    if "refused" in options:
        text["refused"] = options["refused"]
    (HERE / f"{name}.json").write_text(json.dumps(text, indent=1) + "\n")


if __name__ == "__main__":
    for name in sys.argv[1:] or [*PROGRAMS, *HOSTILE]:
        if name in HOSTILE:
            write_hostile(name)
        else:
            write(name)
