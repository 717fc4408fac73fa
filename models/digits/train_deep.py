#!/usr/bin/env python3
"""Trains a deeper digit reader on the data of `train.py` and writes it as ONNX, to measure what 8 bits and sparse weights
cost a convolution network of many layers.

    pip install torch==2.15.0 onnx==1.22.0 onnxruntime==1.31.1 scikit-learn==1.9.1 numpy==2.4.6
    python train_deep.py

Residual blocks and inverted ones (1x1 to more channels, depthwise, 1x1 back, hard swish), 17 convolutions. Beside this
file come:

    digits_deep.onnx        input `image` f32[batch,1,8,8] (pixels in 0..1), output `logits` f32[batch,10]
    digits_calibration.npz  `image` f32[200,1,8,8], of the images that are trained on
"""

import numpy as np
import torch
from torch import nn

from train import HERE, OPSET, SEED, data, train, verify

CALIBRATED = 200


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, before, after, stride):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(),
            nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after))
        self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)) \
            if (before, stride) != (after, 1) else nn.Identity()

    def forward(self, x):
        return torch.relu(self.body(x) + self.shortcut(x))


class Inverted(nn.Module):
    """A depthwise convolution between two 1x1 ones, beside a shortcut."""

    def __init__(self, channels, between):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, between, 1, bias=False), nn.BatchNorm2d(between), nn.Hardswish(),
            nn.Conv2d(between, between, 3, 1, 1, groups=between, bias=False), nn.BatchNorm2d(between), nn.Hardswish(),
            nn.Conv2d(between, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x):
        return x + self.body(x)


class DeepDigits(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.body = nn.Sequential(
            Residual(16, 16, 1), Residual(16, 24, 2), Residual(24, 24, 1), Residual(24, 32, 2), Inverted(32, 96),
            Inverted(32, 96))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))

    def forward(self, image):
        return self.head(self.body(self.stem(image)))


def export(model, path):
    torch.onnx.export(
        model, (torch.zeros(2, 1, 8, 8),), path, dynamo=False, opset_version=OPSET, input_names=["image"],
        output_names=["logits"], dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}})


def main():
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    train_images, test_images, train_labels, test_labels = data()
    model = DeepDigits()
    train(model, train_images, train_labels)
    path = str(HERE / "digits_deep.onnx")
    export(model, path)
    np.savez(HERE / "digits_calibration.npz", image=train_images[:CALIBRATED])
    verify(model, path, test_images, test_labels)


if __name__ == "__main__":
    main()
