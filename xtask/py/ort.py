#!/usr/bin/env python3
"""onnxruntime as a source of answers.

    ort.py answer MODEL.onnx INPUTS.npz OUTPUTS.npz
    ort.py random MODEL.onnx INPUTS.npz              random inputs of the declared shapes, fixed seed
"""

import argparse

import numpy as np
import onnxruntime


def session(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def answer(arguments):
    run = session(arguments.model)
    names = [output.name for output in run.get_outputs()]
    np.savez(arguments.outputs, **dict(zip(names, run.run(names, dict(np.load(arguments.inputs))))))


def random(arguments):
    generator, arrays = np.random.default_rng(0), {}
    for value in session(arguments.model).get_inputs():
        if value.type != "tensor(float)":
            raise SystemExit(f"input {value.name} is a {value.type}, not a tensor(float)")
        shape = [size if isinstance(size, int) else 1 for size in value.shape]
        arrays[value.name] = generator.standard_normal(shape, dtype=np.float32)
    np.savez(arguments.inputs, **arrays)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for task, extra in ((answer, ["outputs"]), (random, [])):
        command = commands.add_parser(task.__name__)
        command.set_defaults(task=task)
        for name in ["model", "inputs", *extra]:
            command.add_argument(name)
    arguments = parser.parse_args()
    arguments.task(arguments)


if __name__ == "__main__":
    main()
