#!/usr/bin/env python3
"""Cases of the operators of `com.microsoft`, with onnxruntime's answers, in the layout of ONNX's suite.

    make.py write FOLDER [--op NAME] [--seed S] [--times N]    random cases, and whether all attributes vary
    make.py pack FILE.zip                                      the few that the tests of the project run

Needs numpy, onnx and onnxruntime. Operators for which onnxruntime has no CPU kernel are answered by a statement of
their documentation in NumPy.
"""

import argparse
import json
import sys
import zipfile
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).parent))

import attention  # noqa: E402, F401
import floats  # noqa: E402, F401
import images  # noqa: E402, F401
import quantized  # noqa: E402, F401
import onnx  # noqa: E402
from core import OPS, Random, np, write  # noqa: E402
from onnx import helper  # noqa: E402
from onnxruntime.capi import onnxruntime_pybind11_state as runtime  # noqa: E402

# Attributes that have one value, and why.
FIXED = json.loads((Path(__file__).parent / "fixed.json").read_text())


def draw(name, seed, count):
    """Cases of an operator."""
    make, _, _, _ = OPS[name]
    r = Random(seed, name)
    for _ in range(count):
        yield make(r)


def default(schema, attribute):
    """The value that an attribute has where it is absent; 0 where the schema has none for an integer."""
    entry = schema.attributes[attribute]
    if entry._default_value:
        return repr(helper.get_attribute_value(onnx.AttributeProto.FromString(entry._default_value)))
    return "0" if str(entry.type).endswith(".INT") else "absent"


def unvaried(name, domain, seen, count):
    """Documented attributes with fewer than two values among the cases."""
    schemas = [s for s in runtime.get_all_operator_schema() if s.name == name and s.domain == domain]
    if not schemas:
        return [f"{name}: there is no such operator"]
    missing = []
    for attribute in schemas[0].attributes:
        values = dict(seen.get(attribute, {}))
        if sum(values.values()) < count:
            values[default(schemas[0], attribute)] = 1
        if len(values) < 2 and attribute not in FIXED.get(name, {}):
            missing.append(f"{name}.{attribute}")
    return missing


def write_all(arguments):
    names = [arguments.op] if arguments.op else sorted(OPS)
    report, missing = {"onnxruntime": [], "numpy": []}, []
    for name in names:
        if name not in OPS:
            raise SystemExit(f"there are no cases of `{name}`")
        _, count, domain, oracle = OPS[name]
        # So many that every value of an attribute is drawn.
        count = max(count, 16)
        seen = {}
        for i, case in enumerate(draw(name, arguments.seed, count * arguments.times)):
            for key, attribute in case.attrs.items():
                values = seen.setdefault(key, {})
                values[repr(attribute)] = values.get(repr(attribute), 0) + 1
            files = {}
            try:
                write(files, f"{name}__{i}", name, case, symbolic=i % 2 == 1)
            except Exception as error:
                shapes = [getattr(v, "shape", None) for v in case.inputs]
                raise SystemExit(f"{name} {case.attrs} {shapes}: {error}") from error
            for path, content in files.items():
                path = arguments.folder / "node" / path
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        report[oracle].append(name)
        missing += unvaried(name, domain, seen, count * arguments.times)
    report["missing"] = missing
    (arguments.folder / "report.json").write_text(json.dumps(report))


def pack(arguments):
    with zipfile.ZipFile(arguments.file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(OPS):
            chosen = list(draw(name, 1, 8))
            # The smallest, and the one with most operands.
            size = lambda case: sum(np.size(getattr(v, "value", v)) for v in case.inputs if v is not None)
            width = lambda case: (sum(v is not None for v in case.inputs) + len(case.attrs), -size(case))
            picked = {id(c): c for c in (min(chosen, key=size), max(chosen, key=width))}
            for i, case in enumerate(picked.values()):
                files = {}
                write(files, f"{name}__{i}", name, case, symbolic=i == 1)
                for path, content in files.items():
                    entry = zipfile.ZipInfo(path, (2000, 1, 1, 0, 0, 0))
                    entry.compress_type = zipfile.ZIP_DEFLATED
                    archive.writestr(entry, content)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("write")
    command.set_defaults(task=write_all)
    command.add_argument("folder", type=Path)
    command.add_argument("--op")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--times", type=int, default=1)
    command = commands.add_parser("pack")
    command.set_defaults(task=pack)
    command.add_argument("file", type=Path)
    arguments = parser.parse_args()
    arguments.task(arguments)


main()
