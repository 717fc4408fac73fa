#!/usr/bin/env python3
"""A peer that stays loaded and takes turns when it is asked.

    peer.py PEER MODEL INPUTS.npz --threads N

PEER is ort, ort-bound (inputs and outputs in place), openvino (all read MODEL.onnx) or inductor (MODEL.pt2). The first line of the answer is
{"version", "load_ms", "first_ms"}; then each line of standard input, a number of seconds, is a turn of that length and
is answered with {"min_ms", "median_ms", "runs"}. The end of standard input ends the process.
"""

import argparse
import json
import os
import statistics
import sys
import time
import warnings

import numpy as np

# Runs of a turn before it is measured, and runs that are measured however long they take.
WARMUP, MIN_RUNS = 3, 5


def ort_session(model, threads):
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def ort(model, inputs, threads):
    import onnxruntime

    def load():
        session = ort_session(model, threads)
        return lambda: session.run(None, inputs)
    return onnxruntime.__version__, load


def ort_bound(model, inputs, threads):
    import onnxruntime

    def load():
        session = ort_session(model, threads)
        outputs = dict(zip([port.name for port in session.get_outputs()], session.run(None, inputs)))
        binding = session.io_binding()
        for name, value in inputs.items():
            binding.bind_cpu_input(name, value)
        for name, value in outputs.items():
            binding.bind_output(name, "cpu", 0, value.dtype, value.shape, value.ctypes.data)

        # `outputs` is held by the function, so that what is bound stays where it is.
        return lambda: (session.run_with_iobinding(binding), outputs)
    return onnxruntime.__version__, load


def openvino(model, inputs, threads):
    import openvino
    settings = {
        "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}

    def load():
        core = openvino.Core()
        request = core.compile_model(core.read_model(model), "CPU", settings).create_infer_request()
        return lambda: request.infer(inputs)
    return openvino.__version__.split("-")[0], load


def inductor(model, inputs, threads):
    import torch
    import torch._inductor.config as config
    config.freezing = True
    torch.set_num_threads(threads)
    arguments = [torch.from_numpy(value) for value in inputs.values()]

    def load():
        call = torch.compile(torch.export.load(model).module())

        def run():
            with torch.no_grad():
                return call(*arguments)
        return run
    return torch.__version__.split("+")[0], load


PEERS = {"ort": ort, "ort-bound": ort_bound, "openvino": openvino, "inductor": inductor}


def milliseconds(run):
    start = time.perf_counter()
    result = run()
    return (time.perf_counter() - start) * 1e3, result


def turn(run, seconds):
    for _ in range(WARMUP):
        run()
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < MIN_RUNS:
        times.append(milliseconds(run)[0])
    return {"min_ms": min(times), "median_ms": statistics.median(times), "runs": len(times)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("model")
    parser.add_argument("inputs")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    # Answers go where standard output went; whatever a library prints does not get between them.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(values):
        print(json.dumps(values), file=answers, flush=True)

    version, load = PEERS[arguments.peer](arguments.model, dict(np.load(arguments.inputs)), arguments.threads)
    load_ms, run = milliseconds(load)
    first_ms, _ = milliseconds(run)
    answer({"version": version, "load_ms": load_ms, "first_ms": first_ms})
    for line in sys.stdin:
        answer(turn(run, float(line)))


if __name__ == "__main__":
    main()
