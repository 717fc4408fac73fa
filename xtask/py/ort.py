#!/usr/bin/env python3
"""onnxruntime as a source of answers and as a peer.

    ort.py answer MODEL.onnx INPUTS.npz OUTPUTS.npz
    ort.py random MODEL.onnx INPUTS.npz              random inputs of the declared shapes, fixed seed
    ort.py bench MODEL.onnx INPUTS.npz --threads N --seconds S

`bench` prints one JSON line with the keys of `kiln bench --json` that are compared.
"""

import argparse
import json
import statistics
import time

import numpy as np
import onnxruntime


def session(model, threads):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def answer(arguments):
    run = session(arguments.model, 1)
    names = [output.name for output in run.get_outputs()]
    np.savez(arguments.outputs, **dict(zip(names, run.run(names, dict(np.load(arguments.inputs))))))


def random(arguments):
    generator, arrays = np.random.default_rng(0), {}
    for value in session(arguments.model, 1).get_inputs():
        if value.type != "tensor(float)":
            raise SystemExit(f"input {value.name} is a {value.type}, not a tensor(float)")
        shape = [size if isinstance(size, int) else 1 for size in value.shape]
        arrays[value.name] = generator.standard_normal(shape, dtype=np.float32)
    np.savez(arguments.inputs, **arrays)


def bench(arguments):
    inputs = dict(np.load(arguments.inputs))
    start = time.perf_counter()
    run = session(arguments.model, arguments.threads)
    loaded = time.perf_counter()
    run.run(None, inputs)
    first = time.perf_counter()
    times, end = [], time.perf_counter() + arguments.seconds
    while time.perf_counter() < end or len(times) < 5:
        before = time.perf_counter()
        run.run(None, inputs)
        times.append((time.perf_counter() - before) * 1e3)
    print(json.dumps({
        "min_ms": min(times), "median_ms": statistics.median(times), "runs": len(times),
        "threads": arguments.threads, "load_ms": (loaded - start) * 1e3, "first_ms": (first - loaded) * 1e3}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for task, extra in ((answer, ["outputs"]), (random, []), (bench, [])):
        command = commands.add_parser(task.__name__)
        command.set_defaults(task=task)
        for name in ["model", "inputs", *extra]:
            command.add_argument(name)
        if task is bench:
            command.add_argument("--threads", type=int, default=1)
            command.add_argument("--seconds", type=float, default=3)
    arguments = parser.parse_args()
    arguments.task(arguments)


if __name__ == "__main__":
    main()
