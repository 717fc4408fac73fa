#!/usr/bin/env python3
"""Models in 8 bits as the peers quantize them.

    int8.py samples INPUTS.npz FOLDER              calibration data: inputs like those of the file, N.npz
    int8.py ort MODEL.onnx OUT.onnx FOLDER         onnxruntime: calibrated for convolution networks, as QuantizeLinear and
                                                   DequantizeLinear around each operator, else with scales of run time,
                                                   which it recommends for transformers
    int8.py openvino MODEL.onnx OUT.xml FOLDER     NNCF, calibrated
"""

import argparse
import os
import pathlib
import tempfile

import numpy as np

SAMPLES = 32


def samples(arguments):
    generator = np.random.default_rng(1)
    given = dict(np.load(arguments.source))
    os.makedirs(arguments.out, exist_ok=True)
    for i in range(SAMPLES):
        arrays = {}
        for name, array in given.items():
            if array.dtype == np.float32:
                arrays[name] = generator.standard_normal(array.shape, dtype=np.float32)
            elif "mask" in name:
                arrays[name] = np.ones_like(array)
            else:
                arrays[name] = generator.integers(1, max(int(array.max()), 2), array.shape, array.dtype)
        np.savez(os.path.join(arguments.out, f"{i:02}.npz"), **arrays)


def data(folder):
    return [dict(np.load(path)) for path in sorted(pathlib.Path(folder).glob("*.npz"))]


def ort(arguments):
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            self.left = iter(data(arguments.folder))

        def get_next(self):
            return next(self.left, None)

    operators = {node.op_type for node in onnx.load(arguments.source, load_external_data=False).graph.node}
    if "Conv" not in operators:
        quantization.quantize_dynamic(arguments.source, arguments.out)
        return
    with tempfile.TemporaryDirectory() as folder:
        prepared = os.path.join(folder, "prepared.onnx")
        quant_pre_process(arguments.source, prepared)
        quantization.quantize_static(
            prepared, arguments.out, Reader(), quant_format=quantization.QuantFormat.QDQ, per_channel=True)


def openvino(arguments):
    import nncf
    import openvino as ov
    model = ov.Core().read_model(arguments.source)
    names = [port.get_any_name() for port in model.inputs]
    operators = {node.get_type_name() for node in model.get_ops()}
    transformer = None if "Convolution" in operators else nncf.ModelType.TRANSFORMER
    dataset = nncf.Dataset(data(arguments.folder), lambda arrays: {name: arrays[name] for name in names})
    ov.save_model(nncf.quantize(model, dataset, model_type=transformer), arguments.out, compress_to_fp16=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for task, names in ((samples, ["out"]), (ort, ["out", "folder"]), (openvino, ["out", "folder"])):
        command = commands.add_parser(task.__name__)
        command.set_defaults(task=task)
        for name in ["source", *names]:
            command.add_argument(name)
    arguments = parser.parse_args()
    arguments.task(arguments)


if __name__ == "__main__":
    main()
