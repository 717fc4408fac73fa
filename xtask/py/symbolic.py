#!/usr/bin/env python3
"""Writes the small encoder with symbolic batch and length, and inputs for some of them.

    symbolic.py MODEL.onnx INPUTS_DIR BATCHxLENGTH ...

A model that is there is left as it is; inputs are INPUTS_DIR/BATCHxLENGTH.in.npz.
"""

import os
import sys

import numpy as np
import torch

import zoo


def export(path):
    torch.manual_seed(0)
    model, _ = zoo.ZOO["minilm6_128"]()
    with torch.no_grad():
        zoo.enliven(model)
    model.eval()
    inputs = {
        "input_ids": torch.randint(0, 30000, (2, 40)),
        "attention_mask": torch.ones(2, 40, dtype=torch.long)}
    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    torch.onnx.export(
        model, tuple(inputs.values()), path, input_names=list(inputs), output_names=["output"], dynamo=True,
        external_data=False, verbose=False, dynamic_shapes=(dynamic, dynamic))


def main(model, folder, shapes):
    os.makedirs(os.path.dirname(os.path.abspath(model)), exist_ok=True)
    if not os.path.exists(model):
        export(model)
    generator = np.random.default_rng(0)
    for shape in shapes:
        size = [int(n) for n in shape.split("x")]
        np.savez(
            os.path.join(folder, shape + ".in.npz"), input_ids=generator.integers(0, 30000, size),
            attention_mask=np.ones(size, dtype=np.int64))


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
