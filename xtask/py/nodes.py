#!/usr/bin/env python3
"""Writes models of one node each, with inputs.

    nodes.py OUT_DIR

Writes NAME.onnx and NAME.in.npz and prints the names, one a line: the operator, then its sizes.
"""

import os
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

GENERATOR = np.random.default_rng(0)


def numbers(*shape):
    return GENERATOR.standard_normal(shape, dtype=np.float32)


def write(folder, name, operator, x, weights=(), **attributes):
    """A node of `x` and constants; its output's shape is left to inference."""
    names = [f"w{i}" for i in range(len(weights))]
    node = helper.make_node(operator, ["x", *names], ["y"], **attributes)
    graph = helper.make_graph(
        [node], "node", [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in zip(names, weights)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 9
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    onnx.checker.check_model(inferred)
    path = os.path.join(folder, name)
    onnx.save(inferred, path + ".onnx")
    np.savez(path + ".in.npz", x=x)
    print(name, flush=True)


def rows(folder, *shape):
    x, size, width = numbers(*shape), "x".join(map(str, shape)), shape[-1]
    write(folder, f"softmax {size}", "Softmax", x, axis=-1)
    scale, bias = 1 + numbers(width) / 8, numbers(width)
    write(folder, f"layernorm {size}", "LayerNormalization", x, [scale, bias], axis=-1)
    write(folder, f"gelu {size}", "Gelu", x)


def product(folder, m, k, n):
    write(folder, f"matmul {m}x{k}x{n}", "MatMul", numbers(m, k), [numbers(k, n) / 16])


def convolution(folder, channels, size, filters, kernel, stride=1, groups=1):
    pad = kernel // 2
    weights = numbers(filters, channels // groups, kernel, kernel) / 16
    kind = "depthwise" if groups > 1 else "conv"
    write(
        folder, f"{kind} {channels}x{size}x{size}-{filters} {kernel}x{kernel} by {stride}", "Conv",
        numbers(1, channels, size, size), [weights, numbers(filters)], pads=[pad] * 4,
        strides=[stride, stride], group=groups)


def main(folder):
    os.makedirs(folder, exist_ok=True)
    rows(folder, 128, 3072)
    rows(folder, 128, 768)
    rows(folder, 12 * 128, 128)
    product(folder, 128, 768, 768)
    product(folder, 1, 2048, 1000)
    convolution(folder, 64, 56, 64, 3)
    convolution(folder, 256, 14, 1024, 1)
    convolution(folder, 96, 56, 96, 3, groups=96)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]) if len(sys.argv) == 2 else __doc__)
