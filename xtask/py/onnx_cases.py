"""Writes the cases of `onnx.backend.test.case.node` in the layout of the wheels that still carry them.

onnx_cases.py FOLDER: FOLDER/NAME/model.onnx, data.json (tolerances), test_data_set_N/{input,output}_N.pb
"""

import json
import sys
from pathlib import Path

from onnx import TensorProto, numpy_helper
from onnx.backend.test.case import node


def proto(value, info):
    """The message that holds `value`, of the kind that the graph declares."""
    kind = info.type.WhichOneof("value")
    if isinstance(value, TensorProto):
        return value
    convert = {
        "map_type": numpy_helper.from_dict,
        "sequence_type": numpy_helper.from_list,
        "optional_type": numpy_helper.from_optional,
        "tensor_type": numpy_helper.from_array,
    }[kind]
    return convert(value, info.name)


def write(case, folder):
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(case.model.SerializeToString())
    (folder / "data.json").write_text(json.dumps({"rtol": case.rtol, "atol": case.atol}))
    for number, (inputs, outputs) in enumerate(case.data_sets):
        data = folder / f"test_data_set_{number}"
        data.mkdir()
        for name, values, infos in (
            ("input", inputs, case.model.graph.input),
            ("output", outputs, case.model.graph.output),
        ):
            for index, value in enumerate(values):
                message = proto(value, infos[index])
                (data / f"{name}_{index}.pb").write_bytes(message.SerializeToString())


def main():
    for case in node.collect_testcases(None):
        write(case, Path(sys.argv[1]) / case.name)


main()
