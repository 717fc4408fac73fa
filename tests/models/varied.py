"""Writes varied.onnx: a small model with many kinds of nodes, for tests that damage files. Needs onnx 1.22 and numpy."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def main() -> None:
    tensor = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Add", ["sum", "one"], ["next"]),
        ],
        "body",
        [
            tensor("trip", TensorProto.INT64, []),
            tensor("go", TensorProto.BOOL, []),
            tensor("sum", TensorProto.FLOAT, [None, None]),
        ],
        [tensor("go_on", TensorProto.BOOL, []), tensor("next", TensorProto.FLOAT, [None, None])],
    )
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["a"], "conv", pads=[1, 1, 1, 1], strides=[1, 1]),
        helper.make_node("Relu", ["a"], ["a2"], "relu"),
        helper.make_node("MaxPool", ["a2"], ["b"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Reshape", ["b", "shape"], ["c"], "reshape"),
        helper.make_node("Softmax", ["c"], ["d"], "softmax", axis=-1),
        helper.make_node("TopK", ["d", "two"], ["e", "f"], "top"),
        helper.make_node("Loop", ["n", "", "e"], ["y"], "loop", body=body),
        helper.make_node("Slice", ["f", "start", "end"], ["z"], "slice"),
        helper.make_node("Einsum", ["e", "e"], ["s"], "einsum", equation="ij,kj->ik"),
        helper.make_node("Resize", ["x", "", "scales"], ["r"], "resize", mode="linear"),
        helper.make_node("MatMul", ["c", "w"], ["m"], "matmul"),
        helper.make_node("Gather", ["m", "two"], ["g"], "gather", axis=1),
    ]
    random = np.random.default_rng(0)
    constants = {
        "k": random.standard_normal((3, 2, 3, 3)).astype(np.float32),
        "shape": np.array([1, -1], np.int64),
        "two": np.array([2], np.int64),
        "n": np.array(2, np.int64),
        "one": np.array([1], np.float32),
        "start": np.array([0, 1], np.int64),
        "end": np.array([1, 2], np.int64),
        "scales": np.array([1, 1, 2, 2], np.float32),
        "w": random.standard_normal((12, 5)).astype(np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "varied",
        [tensor("x", TensorProto.FLOAT, ["N", 2, 4, 4])],
        [
            tensor("y", TensorProto.FLOAT, [None, None]),
            tensor("z", TensorProto.INT64, [None, None]),
            tensor("s", TensorProto.FLOAT, [None, None]),
            tensor("r", TensorProto.FLOAT, [None, None, None, None]),
            tensor("g", TensorProto.FLOAT, [None, None]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, Path(__file__).with_suffix(".onnx"))


if __name__ == "__main__":
    main()
