"""Writes loaders/src/aten/schemas.txt: the schemas of functional operators, as PyTorch's registry prints them.

    python xtask/py/aten/schemas.py > loaders/src/aten/schemas.txt

Left out are variants that write to an operand (the table derives `add_` from `add`), operators of other backends, of
sparse and nested tensors, and gradients.
"""

import re

import torch
import torchvision  # noqa: F401 (registers its operators)

SKIPPED = re.compile(
    r"backward|cudnn|miopen|mkldnn|_mps|sparse|nested|fbgemm|_foreach|_fused_(adam|sgd)|xnnpack|_amp_|coo|csr|csc|bsr"
    r"|bsc|cuda|cusparse|metal|vulkan|_xpu|philox|_nnpack|_cslt|_cufft|_thnn|_fw_primal|_mixed_dtypes|_transform_bias"
    r"|_use_|_efficient_attention|quantize|_jagged|_padded_dense|_nested_tensor_from_mask|to_padded|dynamic_layer|_validate|_functional_|_pin_memory|_lazy"
    r"|_propagate|_remove_batch|_add_batch|retain_grad|set_data|_version|output_nr|fake_quant|qscheme|q_scale|q_zero"
    r"|q_per|_cummax|_cummin|_scaled_mm|_grouped_mm|int4|int8|record_stream|_debug|_print|_test_|_unsafe_masked_index_put"
)
KEPT = ("aten::", "prim::", "torchvision::")
# These update running statistics, in training only.
UPDATING = {"aten::_native_batch_norm_legit"}
PRIMS = {"abs", "max", "min", "device", "dtype", "layout", "NumToTensor"}


def main() -> None:
    lines = set()
    for schema in torch._C._jit_get_all_schemas():
        text = str(schema)
        name = text.split("(")[0]
        base = name.split("::")[1].split(".")[0]
        if not name.startswith(KEPT) or SKIPPED.search(name):
            continue
        if "!)" in text.split(" -> ")[0] and name not in UPDATING:
            continue
        if name.startswith("prim::") and base not in PRIMS:
            continue
        if "Dict(" in text or "Future" in text or re.search(r"\bcomplex\b(?!\()", text) or "..." in text:
            continue
        lines.add(text)
    print("\n".join(sorted(lines)))


main()
