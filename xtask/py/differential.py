#!/usr/bin/env python3
"""onnxruntime as the other side of `cargo xtask differential`.

Reads frames from stdin (a length, a batch of models with inputs) and writes the answers to stdout, until stdin ends. All
numbers are little-endian and 32 bits wide. Each model runs twice: without graph optimizations and with all of them.
"""

import struct
import sys

import numpy as np
import onnxruntime

DTYPES = {
    1: np.float32, 2: np.uint8, 3: np.int8, 4: np.uint16, 5: np.int16, 6: np.int32, 7: np.int64, 9: np.bool_,
    10: np.float16, 11: np.float64, 12: np.uint32, 13: np.uint64,
}
NUMBERS = {np.dtype(dtype): number for number, dtype in DTYPES.items()}
LEVELS = [
    onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
]


class Reader:
    def __init__(self, frame):
        self.frame, self.at = frame, 0

    def number(self):
        (value,) = struct.unpack_from("<I", self.frame, self.at)
        self.at += 4
        return value

    def bytes(self):
        count = self.number()
        part = self.frame[self.at:self.at + count]
        self.at += count
        return part

    def tensor(self):
        dtype = DTYPES[self.number()]
        dims = [self.number() for _ in range(self.number())]
        return np.frombuffer(self.bytes(), dtype).reshape(dims)


def put(parts, data):
    parts.append(struct.pack("<I", len(data)))
    parts.append(data)


def answer(parts, model, inputs, level):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = level
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        outputs = [np.asarray(output) for output in session.run(None, inputs)]
        numbers = [NUMBERS[output.dtype] for output in outputs]
    except Exception as error:
        parts.append(b"\xff\xff\xff\xff")
        put(parts, str(error).encode()[:2000])
        return
    parts.append(struct.pack("<I", len(outputs)))
    for number, output in zip(numbers, outputs):
        parts.append(struct.pack(f"<II{output.ndim}I", number, output.ndim, *output.shape))
        put(parts, np.ascontiguousarray(output).tobytes())


def batch(frame):
    reader = Reader(frame)
    count = reader.number()
    parts = [struct.pack("<I", count)]
    for _ in range(count):
        model, inputs = reader.bytes(), {}
        for _ in range(reader.number()):
            name = reader.bytes().decode()
            inputs[name] = reader.tensor()
        for level in LEVELS:
            answer(parts, model, inputs, level)
    return b"".join(parts)


def main():
    onnxruntime.set_default_logger_severity(4)
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    while len(length := source.read(4)) == 4:
        answers = batch(source.read(struct.unpack("<I", length)[0]))
        put_all = [struct.pack("<I", len(answers)), answers]
        sink.write(b"".join(put_all))
        sink.flush()


if __name__ == "__main__":
    main()
