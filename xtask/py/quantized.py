#!/usr/bin/env python3
"""Models that onnxruntime quantizes, and its answers.

    quantized.py make MODEL.onnx OUT.onnx          convolution networks with calibrated scales, as QuantizeLinear and
                                                   DequantizeLinear around each operator; others with scales found at run time
    quantized.py answer MODEL.onnx FOLDER COUNT    random inputs N.in.npz and answers N.out.npz
    quantized.py compare FOLDER COUNT              N.kiln.npz with N.out.npz: the mean cosine and the share of equal
                                                   places of the largest element
"""

import argparse
import os
import tempfile

import numpy as np
import onnx
import onnxruntime
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

CALIBRATED = 8


def session(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def inputs(run, generator):
    arrays = {}
    for value in run.get_inputs():
        shape = [size if isinstance(size, int) else 1 for size in value.shape]
        if value.type == "tensor(float)":
            arrays[value.name] = generator.standard_normal(shape, dtype=np.float32)
        elif "mask" in value.name:
            arrays[value.name] = np.ones(shape, np.int64)
        else:
            arrays[value.name] = generator.integers(0, 30000, shape, np.int64)
    return arrays


class Reader(quantization.CalibrationDataReader):
    def __init__(self, model):
        run, generator = session(model), np.random.default_rng(1)
        self.samples = iter([inputs(run, generator) for _ in range(CALIBRATED)])

    def get_next(self):
        return next(self.samples, None)


def make(arguments):
    operators = {node.op_type for node in onnx.load(arguments.model, load_external_data=False).graph.node}
    if "Conv" not in operators:
        quantization.quantize_dynamic(arguments.model, arguments.out)
        return
    with tempfile.TemporaryDirectory() as folder:
        prepared = os.path.join(folder, "prepared.onnx")
        quant_pre_process(arguments.model, prepared)
        quantization.quantize_static(
            prepared, arguments.out, Reader(prepared), quant_format=quantization.QuantFormat.QDQ, per_channel=True
        )


def answer(arguments):
    run, generator = session(arguments.model), np.random.default_rng(2)
    names = [output.name for output in run.get_outputs()]
    os.makedirs(arguments.folder, exist_ok=True)
    for i in range(arguments.count):
        arrays = inputs(run, generator)
        np.savez(os.path.join(arguments.folder, f"{i}.in.npz"), **arrays)
        np.savez(os.path.join(arguments.folder, f"{i}.out.npz"), **dict(zip(names, run.run(names, arrays))))


def compare(arguments):
    cosines, same, rows = [], 0, 0
    for i in range(arguments.count):
        files = [np.load(os.path.join(arguments.folder, f"{i}.{kind}.npz")) for kind in ("out", "kiln")]
        for name in files[0].files:
            expected, got = (file[name].astype(np.float64) for file in files)
            norms = np.linalg.norm(expected) * np.linalg.norm(got)
            cosines.append(float((expected * got).sum() / norms) if norms else 1.0)
            tops = [array.reshape(-1, array.shape[-1]).argmax(-1) for array in (expected, got)]
            same += int((tops[0] == tops[1]).sum())
            rows += tops[0].size
    print(f"{np.mean(cosines):.6f} {same / rows:.6f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for task, names in ((make, ["model", "out"]), (answer, ["model", "folder"]), (compare, ["folder"])):
        command = commands.add_parser(task.__name__)
        command.set_defaults(task=task)
        for name in names:
            command.add_argument(name)
        if task is not make:
            command.add_argument("count", type=int)
    arguments = parser.parse_args()
    arguments.task(arguments)


if __name__ == "__main__":
    main()
