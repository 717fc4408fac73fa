"""Single-node models: how a case is described, written, and answered by onnxruntime or by a statement in NumPy."""

import json
import zlib
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

DOMAIN = "com.microsoft"
OPS = {}


@dataclass
class Const:
    """An operand that is an initializer."""

    value: object


@dataclass
class Case:
    inputs: list
    attrs: dict = field(default_factory=dict)
    outputs: int | list = 1
    batch: tuple = ()  # operands whose first axis is a symbol, in every other case
    rtol: float | None = None
    atol: float | None = None
    domain: str = DOMAIN
    opset: int = 21
    types: dict = field(default_factory=dict)  # dtypes of outputs that inference leaves open
    answer: object = None  # NumPy's outputs, where onnxruntime has no CPU kernel


class Random:
    """Draws of one operator."""

    def __init__(self, seed, name):
        self.rng = np.random.default_rng([seed, zlib.crc32(name.encode())])

    def pick(self, *choices):
        return choices[self.rng.integers(len(choices))]

    def flip(self):
        return bool(self.rng.integers(2))

    def int(self, low, high):
        """An integer from `low` to `high`, both included."""
        return int(self.rng.integers(low, high + 1))

    def f(self, *shape, dtype=np.float32, scale=1.0):
        return (self.rng.standard_normal(shape) * scale).astype(dtype)

    def near(self, *shape, dtype=np.float32):
        """Positive numbers around 1."""
        return (1 + 0.3 * self.rng.standard_normal(shape)).astype(dtype)

    def q(self, dtype, *shape):
        info = np.iinfo(dtype)
        return self.rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)

    def ints(self, low, high, *shape, dtype=np.int64):
        return self.rng.integers(low, high, shape).astype(dtype)

    def scale(self, low=0.01, high=0.1):
        return np.float32(self.rng.uniform(low, high))

    def zero(self, dtype):
        info = np.iinfo(dtype)
        quarter = (info.max - info.min) // 4
        return np.array(self.rng.integers(info.min + quarter, info.max - quarter), dtype)


def op(name, count=16, domain=DOMAIN, oracle="onnxruntime"):
    """Registers a function from a source of draws to a case."""

    def register(make):
        OPS[name] = (make, count, domain, oracle)
        return make

    return register


def proto(value, name):
    if isinstance(value, onnx.TensorProto):
        value.name = name
        return value
    return numpy_helper.from_array(np.asarray(value), name)


def model(name, case, symbolic):
    """The model of a case and its graph inputs."""
    names, infos, constants, feeds = [], [], [], []
    for i, value in enumerate(case.inputs):
        if value is None:
            names.append("")
            continue
        names.append(f"x{i}")
        if isinstance(value, Const):
            constants.append(proto(value.value, f"x{i}"))
            continue
        value = np.asarray(value)
        shape = list(value.shape)
        if symbolic and i in case.batch:
            shape[0] = "batch"
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        infos.append(helper.make_tensor_value_info(f"x{i}", kind, shape))
        feeds.append((f"x{i}", value))
    while names and not names[-1]:
        names.pop()
    wanted = case.outputs if isinstance(case.outputs, list) else [True] * case.outputs
    outputs = [f"y{i}" if keep else "" for i, keep in enumerate(wanted)]
    node = helper.make_node(name, names, outputs, "node", domain=case.domain, **case.attrs)
    results = [
        helper.make_tensor_value_info(y, case.types[i], None) if i in case.types else onnx.ValueInfoProto(name=y)
        for i, y in enumerate(outputs)
        if y
    ]
    graph = helper.make_graph([node], "graph", infos, results, constants)
    opsets = [helper.make_opsetid("", case.opset), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10), feeds


def answers(model, feeds):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(feeds))


def equivalent(name, case):
    """The answers to a case of an operator in another form, which onnxruntime takes."""
    return answers(*model(name, case, False))


def tolerance(case, outputs):
    """How closely floats must agree: relative to the largest, twice the spacing of f16 where that is the dtype."""
    floats = [np.asarray(y) for y in outputs if np.asarray(y).dtype.kind == "f"]
    narrow = any(y.dtype == np.float16 for y in floats)
    finite = [np.abs(y[np.isfinite(y)]).max(initial=0.0) for y in floats]
    step = 2e-3 if narrow else 1e-5
    largest = float(max(finite, default=0.0))
    rtol = case.rtol if case.rtol is not None else (step if floats else 0.0)
    atol = case.atol if case.atol is not None else (step * largest if largest < 1e30 else 0.0)
    return rtol, atol


def write(files, folder, name, case, symbolic):
    """Adds the files of a case to `files`, in the layout of ONNX's suite."""
    made, feeds = model(name, case, symbolic)
    outputs = case.answer if case.answer is not None else answers(made, feeds)
    rtol, atol = tolerance(case, outputs)
    files[f"{folder}/model.onnx"] = made.SerializeToString()
    files[f"{folder}/data.json"] = json.dumps({"rtol": rtol, "atol": atol}).encode()
    for kind, values in (("input", [v for _, v in feeds]), ("output", outputs)):
        for i, value in enumerate(values):
            file = f"{folder}/test_data_set_0/{kind}_{i}.pb"
            files[file] = proto(value, f"{kind}_{i}").SerializeToString()


def packed(values, bits):
    """Integers of `bits` bits in bytes along the last axis, the lowest first."""
    per = 8 // bits
    pad = -values.shape[-1] % per
    values = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, pad)])
    split = values.reshape(*values.shape[:-1], -1, per).astype(np.uint32)
    return (split << (np.arange(per, dtype=np.uint32) * bits)).sum(-1).astype(np.uint8)


def small_ints(values, kind):
    """A tensor of 4-bit integers."""
    flat = (np.asarray(values).astype(np.int64) & 15).astype(np.uint8).reshape(1, -1)
    raw = packed(flat, 4).tobytes()
    return helper.make_tensor("", kind, list(np.shape(values)), raw, raw=True)


__all__ = [
    "Case",
    "Const",
    "DOMAIN",
    "OPS",
    "Random",
    "TensorProto",
    "np",
    "equivalent",
    "op",
    "packed",
    "small_ints",
    "write",
]
