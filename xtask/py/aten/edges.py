"""Calls at the edges of operators, which draws seldom meet: infinities, NaN, empty lists, rounding, rare overloads.

Each is an operator, its overload, arguments by position and by name.
"""

import torch

INF, NAN = float("inf"), float("nan")
F16, I32, I64, U8 = torch.float16, torch.int32, torch.int64, torch.uint8


def t(values, dtype=None):
    return torch.tensor(values, dtype=dtype)


ROWS = t([[1.0, 2.0], [3.0, 5.0]])

EDGES = [
    ("aten::_softmax", "default", (t([[1.0, 2.0, 4.0]]), 1, False), {}),
    ("aten::scatter_reduce", "two", (torch.zeros(2, dtype=I64), 0, t([1]), t([9]), "amin"), {"include_self": False}),
    ("aten::scatter_reduce", "two", (torch.zeros(2, dtype=I64), 0, t([1]), t([-9]), "amax"), {"include_self": False}),
    ("aten::scatter_reduce", "two", (torch.zeros(2, dtype=I32), 0, t([1]), t([9], I32), "prod"), {"include_self": False}),
    ("aten::all", "dims", (t([2, 0], U8), []), {}),
    ("aten::all", "dims", (t([[2.0, 0.0], [1.0, 1.0]]), []), {}),
    ("aten::any", "dims", (t([2.0, 0.0]), []), {}),
    ("aten::any", "dims", (t([[2.0, 0.0], [0.0, 0.0]]), [1]), {}),
    ("aten::median", "default", (t([1.0, NAN, 0.0, NAN]),), {}),
    ("aten::median", "dim", (t([[1.0, NAN, 0.0], [3.0, 1.0, 2.0]]), 1), {}),
    ("aten::pow", "Tensor_Tensor", (t([1.0, 2.0]), t([[2.0]])), {}),
    ("aten::pow", "Tensor_Tensor", (t([1.0, 2.0]), t([[1.0]])), {}),
    ("aten::floor_divide", "default", (t([-1.0, 1.0, -0.0, 7.0, -7.0, INF, 5.0]), t([INF, -INF, 3.0, -2.0, 2.0, 2.0, 0.0])), {}),
    ("aten::div", "Tensor_mode", (t([-1.0, 6.0, -0.5]), t([INF, 0.1, 0.25])), {"rounding_mode": "floor"}),
    ("aten::lerp", "Tensor", (t([1.0, 2.0, 1e8]), t([3.0, 1e8, 1.0]), t([0.3, 0.7, 1.0])), {}),
    ("aten::lerp", "Scalar", (t([1.0, 1e8]), t([3.0, 1.0]), 1.0), {}),
    ("aten::atan2", "default", (t([INF, -INF, INF, 0.0, NAN, -INF]), t([INF, INF, -INF, NAN, 0.0, -INF])), {}),
    ("aten::hypot", "default", (t([INF, 3.0, NAN]), t([NAN, 4.0, -INF])), {}),
    ("aten::ldexp", "Tensor", (t([0.5, 3.0]), t([128, -2])), {}),
    ("aten::bucketize", "Tensor", (t([NAN, 2.0, 0.0, 9.0]), t([1.0, 2.0, 3.0])), {}),
    ("aten::bucketize", "Tensor", (t([NAN, 2.0, 0.0, 9.0]), t([1.0, 2.0, 3.0])), {"right": True}),
    ("aten::searchsorted", "Tensor", (t([1.0, 2.0, 3.0]), t([NAN, 2.0])), {}),
    ("aten::softshrink", "default", (t([NAN, 1.0, 0.2, -3.0]),), {}),
    ("aten::pad", "default", (t([[[1.0, 2.0, 3.0, 4.0]]]), [-1, 2], "circular"), {}),
    ("aten::pad", "default", (t([[[1.0, 2.0, 3.0, 4.0]]]), [2, -1], "circular"), {}),
    ("aten::arange", "start_step", (0, 3, 0.5), {"dtype": I64}),
    ("aten::arange", "start_step", (1.7, 6, 1.5), {"dtype": I32}),
    ("aten::tril_indices", "default", (3, 4, 1), {}),
    ("aten::tril_indices", "default", (3, 3, -2), {}),
    ("aten::tril_indices", "default", (5, 2, 0), {}),
    ("aten::triu_indices", "default", (4, 3, -1), {}),
    ("aten::triu_indices", "default", (3, 2, 5), {}),
    ("aten::triu_indices", "default", (2, 5, 1), {}),
    ("aten::hann_window", "default", (5,), {}),
    ("aten::hann_window", "periodic", (6, False), {}),
    ("aten::hamming_window", "default", (1,), {}),
    ("aten::hamming_window", "periodic_alpha_beta", (4, True, 0.6, 0.3), {}),
    ("aten::blackman_window", "periodic", (4, False), {}),
    ("aten::bartlett_window", "default", (5,), {}),
    ("aten::_native_batch_norm_legit", "no_stats", (ROWS, None, None, True, 0.1, 1e-5), {}),
    ("aten::native_batch_norm", "default", (ROWS, t([2.0, 0.5]), None, None, None, True, 0.1, 1e-5), {}),
    ("aten::diag_embed", "default", (t([1.0, 2.0]), 1, 1, 0), {}),
    # Its operand has another name than that of `dropout`.
    ("aten::dropout_", "default", (t([1.0, 2.0]), 0.5, False), {}),
]
