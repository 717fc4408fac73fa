"""How calls of rarer operators are drawn, and of variants in place. Registers with `draws.OPERATORS`."""

import torch

import draws
from draws import (
    ALL, BF16, BOOL, F16, F32, F64, FLOATS, I64, I8, INTS, OPERATORS, WIDE,
    axis, broadcastable, choice, convolution, distinct, maybe, op, randint, shape, special, tensor, unary,
)

draws.RESULTS.update({
    # Which row each maximum is of is not computed, nor are bags that PyTorch's fast paths leave out.
    "aten::embedding_bag": 1,
    "aten::_embedding_bag": 1,
    "aten::_embedding_bag_forward_only": 1,
    # The weights of attention are not given.
    "aten::_scaled_dot_product_attention_math": 1,
})

# Layout


@op("adjoint")
def _():
    return "default", [tensor(shape(2, 4), choice(ALL))], {}


unary("mH")
OPERATORS["aten::mH"] = lambda: ("default", [tensor(shape(2, 2), choice(ALL))], {})
OPERATORS["aten::matrix_H"] = lambda: ("default", [tensor(shape(2, 2), choice(ALL))], {})
for name in "data isreal".split():
    unary(name)
for name in "Byte Char Double Float Half Int Long Short".split():
    # What is no whole number of the type is undefined behaviour.
    OPERATORS[f"aten::_cast_{name}"] = lambda: ("default", [tensor(shape(), choice(ALL), 0, 9)], {})
OPERATORS["aten::native_channel_shuffle"] = lambda: ("default", [tensor([2, 6, 3, 2]), choice([2, 3])], {})


@op("row_stack")
def _():
    sizes = shape(0, 3)
    return "default", [[tensor(sizes) for _ in range(randint(1, 3))]], {}


@op("dsplit")
def _():
    v = tensor([2, 3, 6], choice(ALL))
    return choice([("int", [v, choice([2, 3])], {}), ("array", [v, [1, 4]], {})])


@op("diagflat")
def _():
    return "default", [tensor(shape(0, 2), choice(ALL)), randint(-2, 2)], {}


@op("block_diag")
def _():
    parts = [tensor(shape(0, 2, empty=False), choice(ALL) if maybe(0.3) else F32) for _ in range(randint(1, 4))]
    return "default", [parts], {}


@op("cartesian_prod")
def _():
    dtype = choice(ALL)
    return "default", [[tensor([randint(1, 4)], dtype) for _ in range(randint(1, 3))]], {}


@op("combinations")
def _():
    return "default", [tensor([randint(0, 5)], choice(ALL)), randint(0, 4), maybe()], {}


@op("as_strided", "as_strided_copy")
def _():
    v = tensor([4, 6], choice(ALL))
    size = [randint(0 if maybe(0.1) else 1, 3) for _ in range(randint(0, 3))]
    dense = [6, 2, 1][3 - len(size):]
    stride = [randint(0, 3) for _ in size] if maybe(0.8) else dense
    return "default", [v, size, stride] + choice([[], [None], [randint(0, 5)]]), {}


@op("vander")
def _():
    return "default", [tensor([randint(1, 4)], choice(WIDE + INTS), -2, 2)] + choice([[], [randint(0, 4)], [randint(1, 4), True]]), {}


@op("linalg_vander")
def _():
    return "default", [tensor(shape(1, 3, empty=False), choice(WIDE), -2, 2)], choice([{}, {"N": randint(1, 4)}])


@op("_pad_circular")
def _():
    n = randint(1, 3)
    return "default", [tensor([2, 2] + [randint(3, 5) for _ in range(n)]), [randint(0, 2) for _ in range(2 * n)]], {}


# Statistics


@op("quantile", "nanquantile")
def _():
    v = special_rows(tensor(shape(0, 3, empty=False), choice([F32, F64])))
    q = choice([0.0, 0.25, 0.5, 0.8, 1.0])
    dim = choice([[], [None, maybe()], [axis(v.dim()), maybe()]])
    mode = {"interpolation": choice(["linear", "lower", "higher", "midpoint", "nearest"])} if maybe(0.6) else {}
    if maybe():
        return "scalar", [v, q] + dim, mode
    q = torch.rand([] if maybe(0.3) else [randint(1, 3)], dtype=F64).to(v.dtype)
    return "default", [v, q] + dim, mode


def special_rows(v):
    """Puts NaN among the elements now and then."""
    if v.numel() and maybe(0.3):
        v = torch.where(torch.rand(v.shape) > 0.6, torch.full_like(v, float("nan")), v)
    return v


@op("nanmedian")
def _():
    v = distinct(shape(0, 3, empty=False), choice(WIDE + [I64]))
    v = special_rows(v) if v.dtype.is_floating_point else v
    if maybe() or v.dim() == 0:
        return "default", [v], {}
    at = axis(v.dim())
    # Of rows that are NaN throughout, any place is one of the median.
    v = torch.where(v.isnan().all(at, keepdim=True), torch.zeros_like(v), v) if not v.isnan().any(at).all() else v.nan_to_num()
    return "dim", [v, at, maybe()], {}


@op("mode")
def _():
    v = tensor(shape(0, 3, empty=False), choice(INTS + [BOOL]), -2, 2)
    return "default", [v, axis(v.dim()), maybe()], {}


@op("cov")
def _():
    return "default", [tensor([2, 4] if maybe() else [randint(2, 5)], choice(WIDE))], {"correction": choice([0, 1])} if maybe() else {}


@op("corrcoef")
def _():
    return "default", [tensor([randint(2, 3), 4], choice(WIDE))], {}


@op("histc")
def _():
    v = tensor(shape(1, 3, empty=False), choice([F32, F64]))
    return "default", [v, randint(1, 5)] + choice([[], [-2, 2], [-1, 3]]), {}


@op("diff")
def _():
    v = tensor(shape(1, 3), choice(ALL))
    at = axis(v.dim())
    sizes = list(v.shape)
    sizes[at] = randint(1, 2)
    more = tensor(sizes, v.dtype)
    return "default", [v, randint(0, 2), at] + choice([[], [more], [None, more]]), {}


@op("trapezoid", "cumulative_trapezoid")
def _():
    v = tensor(shape(1, 3), choice(WIDE + [I64]))
    at = axis(v.dim())
    if maybe():
        return "dx", [v], {"dx": choice([1, 0.5]), "dim": at}
    x = tensor([v.shape[at]] if maybe() else list(v.shape), F32)
    return "x", [v, x], {"dim": at}


@op("trapz")
def _():
    v = tensor(shape(1, 3), choice(WIDE))
    at = axis(v.dim())
    return choice([("dx", [v], {"dx": 0.5, "dim": at}), ("x", [v, tensor(list(v.shape))], {"dim": at})])


@op("renorm")
def _():
    v = tensor(shape(2, 3, empty=False), choice(WIDE))
    return "default", [v, choice([1, 2, 3]), axis(v.dim()), choice([0.5, 2.0, 9.0])], {}


@op("unique_consecutive")
def _():
    v = tensor(shape(0, 2, empty=False), choice(INTS + [BOOL]), -1, 1)
    dim = [0] if v.dim() == 1 and maybe(0.3) else []
    return "default", [v, maybe(), maybe()] + dim, {}


@op("_unique")
def _():
    # Sorted only: other orders are PyTorch's own. The places are always given.
    return "default", [tensor(shape(0, 3, False), choice(INTS + [BOOL]), -2, 2), True, True], {}


@op("norm_except_dim")
def _():
    v = tensor(shape(1, 4, empty=False))
    return "default", [v, choice([1, 2, 3]), choice([-1, 0, v.dim() - 1])], {}


# Running results


@op("cummax", "cummin")
def _():
    v = tensor(shape(0, 3, empty=False), choice(ALL), -2, 2)
    v = special(v) if v.dim() else v
    return "default", [v, axis(v.dim())], {}


@op("logcumsumexp")
def _():
    v = tensor(shape(0, 3, empty=False), choice(FLOATS))
    if maybe(0.2) and v.numel():
        v = torch.where(torch.rand(v.shape) > 0.7, torch.full_like(v, choice([float("inf"), -float("inf")])), v)
    return "default", [v, axis(v.dim())], {}


# Special functions

for name in "lgamma digamma special_gammaln special_digamma special_psi".split():
    unary(name, WIDE + [I64], 0.1, 20)


@op("lgamma", "digamma")
def _():
    # Between the poles.
    v = tensor(shape(), choice(WIDE), 0.1, 0.9)
    return "default", [v + choice([-3, -1, 0, 5, 90])], {}


@op("mvlgamma", "special_multigammaln")
def _():
    return "default", [tensor(shape(), choice(WIDE), 2, 9), randint(1, 4)], {}


for name in "erfinv special_erfinv".split():
    unary(name, WIDE + [F16, BF16], -0.98, 0.98)
for name in "special_ndtr special_log_ndtr".split():
    unary(name, WIDE + [I64], -9, 5)
unary("special_ndtri", WIDE, 0.01, 0.99)
unary("special_entr", WIDE + [I64], -1, 4)
for name in "i0 special_i0 special_i0e".split():
    unary(name, WIDE + [I64], -30, 30)


@op("kaiser_window")
def _():
    n = randint(0, 9)
    return choice([("default", [n], {}), ("periodic", [n, maybe()], {}), ("beta", [n, maybe(), choice([8.6, 14.0, 2.5])], {})])


# Algebra


def well_conditioned(sizes, dtype):
    return tensor(sizes, dtype, -1, 1) + 3 * torch.eye(sizes[-1], dtype=dtype)


@op("inverse", "linalg_inv", "linalg_inv_ex")
def _():
    n = randint(1, 4)
    return "default", [well_conditioned(shape(0, 2) + [n, n], choice(WIDE))], {}


@op("linalg_solve")
def _():
    n, k, dtype = randint(1, 4), randint(1, 3), choice(WIDE)
    batch = shape(0, 1, empty=False)
    a = well_conditioned(batch + [n, n], dtype)
    if maybe(0.3):
        return "default", [a, tensor(batch + [n], dtype)], {}
    if maybe(0.3):
        return "default", [a, tensor(batch + [k, n], dtype)], {"left": False}
    return "default", [a, tensor(batch + [n, k], dtype)], {}


@op("matrix_power", "linalg_matrix_power")
def _():
    n = randint(1, 3)
    return "default", [well_conditioned(shape(0, 1, empty=False) + [n, n], choice(WIDE)), randint(-2, 5)], {}


@op("det")
def _():
    n = randint(1, 4)
    return "default", [tensor(shape(0, 1) + [n, n])], {}


@op("chain_matmul")
def _():
    sizes = [randint(1, 4) for _ in range(randint(2, 5))]
    return "default", [[tensor([a, b]) for a, b in zip(sizes, sizes[1:])]], {}


@op("linalg_multi_dot")
def _():
    sizes = [randint(1, 4) for _ in range(randint(3, 5))]
    parts = [tensor([a, b]) for a, b in zip(sizes, sizes[1:])]
    if maybe(0.3):
        parts[0] = tensor([sizes[1]])
    if maybe(0.3):
        parts[-1] = tensor([sizes[-2]])
    return "default", [parts], {}


@op("linalg_matrix_norm")
def _():
    v = tensor(shape(2, 4, empty=False), choice(WIDE))
    a, b = draws.random.sample(range(v.dim()), 2)
    if maybe(0.3):
        return "str_ord", [v, "fro", [a, b - v.dim()], maybe()], {}
    return "default", [v, choice([1, -1, float("inf"), -float("inf")]), [a, b - v.dim()], maybe()], {}


@op("linalg_norm")
def _():
    if maybe():
        v = tensor(shape(1, 3, empty=False))
        return "default", [v, choice([None, 2, 1]), [axis(v.dim())], maybe()], {}
    return "default", [tensor([3, 4]), choice([None, 1, -1, float("inf"), -float("inf")]), None, maybe()], {}


@op("pdist")
def _():
    return "default", [tensor([randint(0, 4), 3], choice(WIDE)), choice([1.0, 2.0, 3.0, float("inf")])], {}


@op("_cdist_forward")
def _():
    return "default", [tensor([2, 3, 4]), tensor([2, 5, 4]), choice([1.0, 2.0, 3.0]), None], {}


@op("_euclidean_dist")
def _():
    # Far from each other: PyTorch's way through products of matrices loses what is near.
    return "default", [tensor([3, 4], F64), tensor([5, 4], F64, 20, 30)], {}


@op("_int_mm")
def _():
    # One row of the result for 17 at least, as PyTorch's other devices ask for.
    return "default", [tensor([17, 8], I8, -9, 9), tensor([8, 16], I8, -9, 9)], {}


# Indices


@op("put")
def _():
    v = tensor(shape(1, 3, empty=False), choice(WIDE + [I64]))
    n = randint(0, v.numel())
    places = torch.randperm(v.numel())[:n]
    places = places - v.numel() if maybe(0.3) else places
    return "default", [v, places, tensor([n], v.dtype), maybe()], {}


@op("index_reduce")
def _():
    v = tensor(shape(1, 3, empty=False), choice(WIDE))
    at = axis(v.dim())
    n = randint(1, 4)
    sizes = list(v.shape)
    sizes[at] = n
    return "default", [v, at, torch.randint(0, v.shape[at], [n]), tensor(sizes, v.dtype), choice(["prod", "mean", "amax", "amin"])], {"include_self": maybe()}


def bags(extra):
    n, weight = randint(1, 6), tensor([5, 3])
    indices = torch.randint(0, 5, [n])
    offsets = torch.tensor([0] + sorted(randint(0, n) for _ in range(randint(0, 2))))
    mode, last = randint(0, 2), maybe(0.3)
    if last:
        offsets = torch.cat([offsets, torch.tensor([n])])
    factors = tensor([n]) if mode == 0 and maybe(0.4) else None
    return [weight, indices, offsets, False, mode, False, factors, last] + extra


OPERATORS["aten::embedding_bag"] = lambda: ("default", bags([]), {}) if maybe() else ("padding_idx", bags([choice([None, 1, -1])]), {})
OPERATORS["aten::_embedding_bag"] = lambda: ("default", bags([choice([-1, 2])]), {})
OPERATORS["aten::_embedding_bag_forward_only"] = OPERATORS["aten::_embedding_bag"]

# Convolutions by single implementations


def single(n, transposed=False, dilated=False, by_channel=False):
    def draw():
        _, c, o, kernel, dilation, x, dtype = convolution(n, F32)
        c = x.shape[-n - 1]
        x = x if x.dim() == n + 2 else x[None]
        dilation = dilation if dilated else [1] * n
        x = tensor(list(x.shape[:2]) + [s + 3 for s in x.shape[2:]])
        w = tensor([c, o] + kernel if transposed else [c * randint(1, 2) if by_channel else o, 1 if by_channel else c] + kernel)
        out = w.shape[1] if transposed else w.shape[0]
        args = [x, w, kernel, choice([None, tensor([out])]), [randint(1, 2) for _ in range(n)], [randint(0, 1) for _ in range(n)]]
        if transposed:
            return "default", args + [[0] * n, [1] * n], {}
        return "default", args + ([dilation] if dilated else []), {}

    return draw


OPERATORS["aten::thnn_conv2d"] = single(2)
OPERATORS["aten::slow_conv3d"] = single(3)
OPERATORS["aten::slow_conv_dilated2d"] = single(2, dilated=True)
OPERATORS["aten::slow_conv_dilated3d"] = single(3, dilated=True)
OPERATORS["aten::slow_conv_transpose2d"] = single(2, transposed=True)
OPERATORS["aten::slow_conv_transpose3d"] = single(3, transposed=True)


@op("conv_tbc")
def _():
    t, b, i, o, k = randint(3, 6), randint(1, 3), randint(1, 3), randint(1, 3), randint(1, 3)
    return "default", [tensor([t, b, i]), tensor([k, i, o]), tensor([o]), randint(0, 2)], {}


@op("_scaled_dot_product_attention_math")
def _():
    l, s, d = randint(1, 5), randint(1, 5), randint(1, 4)
    causal = maybe(0.3)
    mask = None if causal or maybe() else tensor([l, s])
    return "default", [tensor([2, 3, l, d]), tensor([2, 3, s, d]), tensor([2, 3, s, d]), mask, 0.0, causal], {}


# Losses


@op("cosine_embedding_loss")
def _():
    n, d = randint(1, 4), randint(1, 4)
    signs = torch.randint(0, 2, [n]) * 2 - 1
    return "default", [tensor([n, d]), tensor([n, d]), signs.to(choice([I64, F32])), choice([0.0, 0.3]), randint(0, 2)], {}


@op("triplet_margin_loss")
def _():
    sizes = shape(1, 3, empty=False)
    return "default", [tensor(sizes), tensor(sizes), tensor(sizes), choice([1.0, 0.2]), choice([1.0, 2.0, 3.0]), 1e-6, maybe(), randint(0, 2)], {}


@op("multi_margin_loss")
def _():
    n, c = randint(1, 4), randint(2, 4)
    x, target = (tensor([n, c]), torch.randint(0, c, [n])) if maybe(0.8) else (tensor([c]), torch.tensor(randint(0, c - 1)))
    return "default", [x, target, choice([1, 2]), choice([1, 0.5]), choice([None, tensor([c]).abs()]), randint(0, 2)], {}


unary("_is_all_true", [BOOL])
unary("_is_any_true", [BOOL])

# In place

# Overloads that have another name in place.
RENAMED = {
    "float_power": {"Tensor_Scalar": "Scalar"},
    "floor_divide": {"default": "Tensor"},
    "ldexp": {"Tensor": "default"},
    "pow": {"Tensor_Scalar": "Scalar", "Tensor_Tensor": "Tensor"},
    "transpose": {"int": "default"},
}
# What a draw gives where the operand is no tensor, and what has no variant in place, is passed over.
IN_PLACE = """
    abs acos acosh add addcdiv addcmul addmm addmv asin asinh atan atan2 atanh baddbmm bitwise_and bitwise_not bitwise_or
    bitwise_xor ceil celu clamp clamp_max clamp_min copy copysign cos cosh cumprod cumsum deg2rad digamma div elu eq erf erfc
    erfinv exp exp2 expm1 fill float_power floor floor_divide fmod frac ge gelu gt hardsigmoid hardswish hardtanh heaviside
    hypot i0 index_add index_copy index_fill index_put index_reduce ldexp le leaky_relu lerp lgamma log log10 log1p log2
    logical_and logical_not logical_or logical_xor logit lt masked_fill masked_scatter mish mul nan_to_num ne neg pow put
    rad2deg reciprocal relu relu6 remainder renorm resize round rsqrt scatter scatter_add scatter_reduce selu sgn sigmoid
    sign silu sin sinc sinh sqrt square squeeze sub swapaxes swapdims t tan tanh threshold transpose tril triu true_divide
    trunc unsqueeze xlogy zero
""".split()


@op("resize")
def _():
    v = tensor([2, 3, 4], choice(ALL))
    return "default", [v, choice([[24], [4, 6], [3, 4], [2, 1, 5], []])], {}


def in_place(name):
    draw = OPERATORS[f"aten::{name}"]

    def drawn():
        overload, args, kwargs = draw()
        return RENAMED.get(name, {}).get(overload, overload), args, kwargs

    return drawn


for name in IN_PLACE:
    OPERATORS[f"aten::{name}_"] = in_place(name)
# PyTorch's variant that is not in place is of no dispatcher that eager mode has.
del OPERATORS["aten::resize"]
