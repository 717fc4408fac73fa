#!/usr/bin/env python3
"""Writes the benchmark models: real architectures, random weights, fixed seed.

    zoo.py OUT_DIR [MODEL ...]

For each model: MODEL.onnx, MODEL.ts.pt (traced TorchScript), MODEL.pt2 (torch.export), MODEL.in.npz and MODEL.out.npz
(PyTorch's own answer in eager mode). A model whose files are all there is left as it is.
"""

import os
import sys
import warnings

import numpy as np
import torch
import torchvision
from transformers import BertConfig, BertModel

warnings.filterwarnings("ignore")

SUFFIXES = (".onnx", ".ts.pt", ".pt2", ".in.npz", ".out.npz")


class Encoder(torch.nn.Module):
    """A BERT encoder that answers its last hidden state."""

    def __init__(self, layers, width, heads, inner):
        super().__init__()
        config = BertConfig(
            num_hidden_layers=layers, hidden_size=width, num_attention_heads=heads, intermediate_size=inner)
        self.bert = BertModel(config, add_pooling_layer=False)

    def forward(self, input_ids, attention_mask):
        return self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


def enliven(model):
    """Replaces the values that a fresh model leaves at zero or one, so that no part of it is without effect."""
    for parameter in model.parameters():
        if parameter.ndim and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)


def vision(name, size=224):
    return lambda: (getattr(torchvision.models, name)(weights=None), {"input": torch.randn(1, 3, size, size)})


def encoder(layers, width, heads, inner, length):
    return lambda: (
        Encoder(layers, width, heads, inner),
        {"input_ids": torch.randint(0, 30000, (1, length)),
         "attention_mask": torch.ones(1, length, dtype=torch.long)})


ZOO = {
    "resnet50": vision("resnet50"),
    "mobilenet_v3_large": vision("mobilenet_v3_large"),
    "efficientnet_b0": vision("efficientnet_b0"),
    "vit_b_16": vision("vit_b_16"),
    "bert_base_128": encoder(12, 768, 12, 3072, 128),
    "minilm6_128": encoder(6, 384, 12, 1536, 128),
}


def write(name, path):
    torch.manual_seed(0)
    model, inputs = ZOO[name]()
    with torch.no_grad():
        enliven(model)
    model.eval()
    arguments = tuple(inputs.values())
    with torch.no_grad():
        answer = model(*arguments)
        np.savez(path + ".in.npz", **{key: value.numpy() for key, value in inputs.items()})
        torch.onnx.export(
            model, arguments, path + ".onnx", input_names=list(inputs), output_names=["output"], dynamo=True,
            external_data=False, verbose=False)
        torch.jit.trace(model, arguments, strict=False).save(path + ".ts.pt")
        torch.export.save(torch.export.export(model, arguments), path + ".pt2")
        # The last of the files, so that a model that has it has them all.
        np.savez(path + ".out.npz", output=answer.numpy())


def main(out, names):
    os.makedirs(out, exist_ok=True)
    unknown = sorted(set(names) - set(ZOO))
    if unknown:
        sys.exit(f"no such model: {', '.join(unknown)}; there are {', '.join(ZOO)}")
    for name in names or ZOO:
        path = os.path.join(out, name)
        if all(os.path.exists(path + suffix) for suffix in SUFFIXES):
            print(name, "is there", flush=True)
            continue
        write(name, path)
        print(name, "done", flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
