"""Writes loaders/src/aten/promotion.txt: PyTorch's result types, a pair a line.

    python xtask/py/aten/promotion.py > loaders/src/aten/promotion.txt

`tensors A B R`: two tensors with axes. `scalars A B R`: a tensor with axes and one without. `numbers A N R`: a tensor with
axes and a number of Python. `-` is no type.
"""

import torch

NAMES = {
    "bool": torch.bool,
    "u8": torch.uint8,
    "u16": torch.uint16,
    "u32": torch.uint32,
    "u64": torch.uint64,
    "i8": torch.int8,
    "i16": torch.int16,
    "i32": torch.int32,
    "i64": torch.int64,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "f32": torch.float32,
    "f64": torch.float64,
}
OF = {dtype: name for name, dtype in NAMES.items()}


def result(a, b) -> str:
    try:
        return OF[torch.result_type(a, b)]
    except RuntimeError:
        return "-"


def main() -> None:
    for a, x in NAMES.items():
        for b, y in NAMES.items():
            one = torch.empty([1], dtype=x)
            print("tensors", a, b, result(one, torch.empty([1], dtype=y)))
            print("scalars", a, b, result(one, torch.empty([], dtype=y)))
        for name, number in (("bool", True), ("int", 2), ("float", 2.0)):
            print("numbers", a, name, result(torch.empty([1], dtype=x), number))


main()
