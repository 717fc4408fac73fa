#!/usr/bin/env python3
"""Trains the small digit reader that `kiln demo` carries and writes it as ONNX.

    pip install torch==2.15.0 onnx==1.22.0 onnxruntime==1.31.1 scikit-learn==1.9.1 numpy==2.4.6
    python train.py

The data are scikit-learn's bundled handwritten digits: 1,797 grey images of 8x8 pixels (Alpaydin and Kaynak, "Optical
Recognition of Handwritten Digits", UCI, 1998). A fixed, stratified fifth of them is never trained on and is written as
the test set. Beside this file come:

    digits.onnx      input `image` f32[batch,1,8,8] (pixels in 0..1), output `logits` f32[batch,10]
    digits_test.npz  `image` f32[360,1,8,8] and `label` i64[360]

The graph is written node by node, unoptimized, as an exporter would leave it: batch normalization, the layer norm and
the GELU stand as their own nodes, so that a compiler has something to fold, recognise and fuse.
"""

import pathlib

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

HERE = pathlib.Path(__file__).resolve().parent
SEED = 7
EPOCHS = 60
BATCH = 64
OPSET = 17
ACCURACY_FLOOR = 0.975


class Digits(nn.Module):
    """Two 3x3 convolutions, a pooled third with a residual, and a normalized two-layer head."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.conv2, self.norm2 = nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32)
        self.conv3, self.norm3 = nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.norm4 = nn.LayerNorm(128)
        self.dense1 = nn.Linear(128, 64)
        self.dense2 = nn.Linear(64, 10)
        self.dropout = nn.Dropout(0.2)

    def forward(self, image):
        x = torch.relu(self.norm1(self.conv1(image)))
        x = torch.relu(self.norm2(self.conv2(x)))
        x = nn.functional.max_pool2d(x, 2)
        x = torch.relu(x + self.norm3(self.conv3(x)))
        x = nn.functional.avg_pool2d(x, 2).flatten(1)
        x = self.norm4(x)
        x = nn.functional.gelu(self.dense1(self.dropout(x)))
        return self.dense2(self.dropout(x))


def data():
    """The fixed split: `(train_x, test_x, train_y, test_y)`, images f32[n,1,8,8] in 0..1, labels i64[n]."""
    digits = load_digits()
    images = (digits.images / 16.0).astype(np.float32)[:, None]
    labels = digits.target.astype(np.int64)
    return train_test_split(images, labels, test_size=360, random_state=SEED, stratify=labels)


def shifted(images, rng):
    """Each image moved by up to one pixel in both directions, the border filled with zeros."""
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    moved = np.empty_like(images)
    for i, (dy, dx) in enumerate(rng.integers(0, 3, (len(images), 2))):
        moved[i] = padded[i, :, dy:dy + 8, dx:dx + 8]
    return moved


def train(model, images, labels):
    rng = np.random.default_rng(SEED)
    steps = EPOCHS * -(-len(images) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=steps)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    model.train()
    for epoch in range(EPOCHS):
        order, total = rng.permutation(len(images)), 0.0
        moved = shifted(images, rng)
        for start in range(0, len(images), BATCH):
            rows = order[start:start + BATCH]
            loss = loss_of(model(torch.from_numpy(moved[rows])), torch.from_numpy(labels[rows]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(rows)
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1}: loss {total / len(images):.4f}", flush=True)
    model.eval()


class Graph:
    """Collects ONNX nodes and initializers; each method returns the name of its result."""

    def __init__(self):
        self.nodes, self.weights = [], []

    def weight(self, name, tensor):
        array = tensor.detach().numpy() if isinstance(tensor, torch.Tensor) else np.asarray(tensor)
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, op, name, inputs, output=None, **attributes):
        output = output or f"{name}_out"
        self.nodes.append(helper.make_node(op, inputs, [output], name=name, **attributes))
        return output

    def conv_norm(self, index, x, model):
        conv, norm = getattr(model, f"conv{index}"), getattr(model, f"norm{index}")
        inputs = [x, self.weight(f"conv{index}.weight", conv.weight)]
        if conv.bias is not None:
            inputs.append(self.weight(f"conv{index}.bias", conv.bias))
        x = self.node("Conv", f"conv{index}", inputs, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        parts = {"weight": norm.weight, "bias": norm.bias, "mean": norm.running_mean, "var": norm.running_var}
        inputs = [x] + [self.weight(f"norm{index}.{part}", value) for part, value in parts.items()]
        return self.node("BatchNormalization", f"norm{index}", inputs, epsilon=norm.eps)

    def layer_norm(self, x, norm):
        """The layer norm in primitive nodes, as exporters wrote it before opset 17."""
        mean = self.node("ReduceMean", "norm4/mean", [x], axes=[-1])
        centred = self.node("Sub", "norm4/centre", [x, mean])
        square = self.node("Pow", "norm4/square", [centred, self.weight("norm4.two", np.float32(2))])
        variance = self.node("ReduceMean", "norm4/variance", [square], axes=[-1])
        shifted_up = self.node("Add", "norm4/epsilon", [variance, self.weight("norm4.eps", np.float32(norm.eps))])
        deviation = self.node("Sqrt", "norm4/deviation", [shifted_up])
        unit = self.node("Div", "norm4/unit", [centred, deviation])
        scaled = self.node("Mul", "norm4/scale", [unit, self.weight("norm4.weight", norm.weight)])
        return self.node("Add", "norm4/shift", [scaled, self.weight("norm4.bias", norm.bias)])

    def dense(self, name, x, layer, output=None):
        inputs = [x, self.weight(f"{name}.weight", layer.weight), self.weight(f"{name}.bias", layer.bias)]
        return self.node("Gemm", name, inputs, output, transB=1)

    def gelu(self, x):
        """The exact GELU in primitive nodes: x / sqrt(2), erf, + 1, * x, * 0.5."""
        scaled = self.node("Div", "gelu/scale", [x, self.weight("gelu.sqrt2", np.float32(np.sqrt(2)))])
        erf = self.node("Erf", "gelu/erf", [scaled])
        shifted_up = self.node("Add", "gelu/shift", [erf, self.weight("gelu.one", np.float32(1))])
        product = self.node("Mul", "gelu/product", [x, shifted_up])
        return self.node("Mul", "gelu/half", [product, self.weight("gelu.half", np.float32(0.5))])


def export(model, path):
    graph = Graph()
    x = graph.node("Relu", "relu1", [graph.conv_norm(1, "image", model)])
    x = graph.node("Relu", "relu2", [graph.conv_norm(2, x, model)])
    x = graph.node("MaxPool", "pool1", [x], kernel_shape=[2, 2], strides=[2, 2])
    x = graph.node("Add", "residual", [x, graph.conv_norm(3, x, model)])
    x = graph.node("Relu", "relu3", [x])
    x = graph.node("AveragePool", "pool2", [x], kernel_shape=[2, 2], strides=[2, 2])
    x = graph.node("Flatten", "flatten", [x], axis=1)
    x = graph.layer_norm(x, model.norm4)
    x = graph.gelu(graph.dense("dense1", x, model.dense1))
    graph.dense("dense2", x, model.dense2, "logits")
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])
    proto = helper.make_model(
        helper.make_graph(graph.nodes, "digits", [image], [logits], graph.weights),
        opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8, producer_name="digits/train.py")
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)


def verify(model, path, images, labels):
    """Fails unless the file gives the model's own answers, at more than one batch size, and reads the digits."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).numpy()
    logits = session.run(["logits"], {"image": images})[0]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(session.run(["logits"], {"image": images[:3]})[0], expected[:3], rtol=1e-4, atol=1e-4)
    accuracy = float((logits.argmax(1) == labels).mean())
    print(f"test accuracy {accuracy:.4f} on {len(labels)} images")
    if accuracy < ACCURACY_FLOOR:
        raise SystemExit(f"test accuracy {accuracy:.4f} is below {ACCURACY_FLOOR}")


def main():
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    train_images, test_images, train_labels, test_labels = data()
    model = Digits()
    train(model, train_images, train_labels)
    path = str(HERE / "digits.onnx")
    export(model, path)
    np.savez(HERE / "digits_test.npz", image=test_images, label=test_labels)
    verify(model, path, test_images, test_labels)


if __name__ == "__main__":
    main()
