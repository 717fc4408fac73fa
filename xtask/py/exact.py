#!/usr/bin/env python3
"""A model's answer in double precision.

    exact.py MODEL.onnx INPUTS.npz OUTPUTS.npz

ONNX's own reference evaluator on the model with every f32 made f64. Convolutions, slow there, are PyTorch's; it refuses
GatherElements of long rows. Outputs are f64.
"""

import sys

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

FLOAT, DOUBLE = onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE


class Conv(OpRun):
    def _run(self, x, w, b=None, auto_pad=None, dilations=None, group=None, kernel_shape=None, pads=None, strides=None):
        if auto_pad not in (None, "NOTSET"):
            raise SystemExit(f"convolutions with auto_pad={auto_pad} are not evaluated here")
        rank = x.ndim - 2
        pads = pads or [0] * (2 * rank)
        # The last dimension first, before and behind.
        padding = [p for d in reversed(range(rank)) for p in (pads[d], pads[d + rank])]
        convolution = [torch.conv1d, torch.conv2d, torch.conv3d][rank - 1]
        padded = torch.nn.functional.pad(torch.tensor(x), padding)
        bias = None if b is None else torch.tensor(b)
        result = convolution(padded, torch.tensor(w), bias, strides or 1, 0, dilations or 1, group or 1)
        return (result.numpy(),)


class GatherElements(OpRun):
    def _run(self, data, indices, axis=0):
        return (np.take_along_axis(data, indices, axis),)


def double(tensor):
    if tensor.data_type != FLOAT:
        return
    values = numpy_helper.to_array(tensor).astype(np.float64)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def widen(graph):
    for tensor in graph.initializer:
        double(tensor)
    for value in [*graph.input, *graph.output, *graph.value_info]:
        if value.type.tensor_type.elem_type == FLOAT:
            value.type.tensor_type.elem_type = DOUBLE
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == FLOAT:
                attribute.i = DOUBLE
            if attribute.HasField("t"):
                double(attribute.t)
            if attribute.HasField("g"):
                widen(attribute.g)


def main():
    model_path, inputs, outputs = sys.argv[1:]
    model = onnx.load(model_path)
    widen(model.graph)
    arrays = {name: a.astype(np.float64) if a.dtype == np.float32 else a for name, a in np.load(inputs).items()}
    results = ReferenceEvaluator(model, new_ops=[Conv, GatherElements]).run(None, arrays)
    names = [output.name for output in model.graph.output]
    for name, result in zip(names, results):
        if result.dtype == np.float32:
            raise SystemExit(f"`{name}` was computed in single precision")
    np.savez(outputs, **dict(zip(names, results)))


if __name__ == "__main__":
    main()
