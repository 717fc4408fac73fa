"""How calls of each operator are drawn: functions that give an overload and its arguments."""

import random

import torch

SMALL = False
RESULTS = {
    "aten::adaptive_max_pool1d": 1,
    "aten::adaptive_max_pool2d": 1,
    "aten::adaptive_max_pool3d": 1,
    "aten::_fused_rms_norm": 1,
    "aten::_native_batch_norm_legit_no_training": 1,
    "aten::_batch_norm_no_update": 1,
    "aten::native_batch_norm": 1,
    "aten::_native_batch_norm_legit": 1,
    "aten::_scaled_dot_product_flash_attention_for_cpu": 1,
    "aten::log_sigmoid_forward": 1,
    "aten::_native_multi_head_attention": 1,
}
OPERATORS = {}

F32, F64, F16, BF16 = torch.float32, torch.float64, torch.float16, torch.bfloat16
I64, I32, I16, I8, U8, BOOL = torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool
FLOATS = [F32, F32, F32, F64, F16, BF16]
WIDE = [F32, F32, F32, F64]
INTS = [I64, I64, I32, I16, I8, U8]
ALL = FLOATS + INTS + [BOOL]
choice, randint = random.choice, random.randint


def maybe(p=0.5):
    return random.random() < p


def shape(low=0, high=4, empty=True):
    """Sizes of a tensor; now and then one without elements."""
    rank = randint(low, high)
    sizes = [randint(1, 4) for _ in range(rank)]
    if empty and rank and maybe(0.06):
        sizes[randint(0, rank - 1)] = 0
    return sizes


def tensor(sizes, dtype=F32, low=-3.0, high=3.0):
    """Values that no two floats share, so that order is certain."""
    n = 1
    for s in sizes:
        n *= s
    if dtype == BOOL:
        return torch.rand(sizes) > 0.5
    if dtype.is_floating_point:
        return (torch.rand(sizes, dtype=F64) * (high - low) + low).to(dtype)
    low = max(int(low), 0 if dtype == U8 else -100)
    return torch.randint(low, max(int(high), low + 1) + 1, sizes).to(dtype)


def distinct(sizes, dtype=F32):
    """Different numbers in random order."""
    n = 1
    for s in sizes:
        n *= s
    values = torch.randperm(n) - n // 2
    if dtype == U8:
        values = values + n // 2
    return values.reshape(sizes).to(dtype) if not dtype.is_floating_point else (values.reshape(sizes) * 0.25).to(dtype)


def special(v):
    """Puts infinities and NaN among the elements now and then."""
    if v.dtype.is_floating_point and v.numel() and maybe(0.25):
        flat = v.flatten().clone()
        for value in (float("nan"), float("inf"), -float("inf"), 0.0, -0.0):
            flat[randint(0, flat.numel() - 1)] = value
        return flat.reshape(v.shape)
    return v


def broadcastable(sizes):
    """Sizes that broadcast with these."""
    cut = randint(0, len(sizes)) if maybe(0.4) else 0
    return [1 if maybe(0.25) else s for s in sizes[cut:]]


def axis(rank):
    return randint(-max(rank, 1), max(rank, 1) - 1)


def axes(rank):
    picked = random.sample(range(rank), randint(0, rank)) if rank else []
    return [a - rank if maybe(0.3) else a for a in picked]


def number(dtype=None):
    kind = choice(["int", "float", "bool"]) if dtype is None else dtype
    return {"int": randint(-3, 4), "float": round(random.uniform(-3, 3), 3), "bool": maybe()}[kind]


def op(*names):
    """Registers a drawing function under names."""

    def register(draw):
        for name in names:
            OPERATORS[name if "::" in name else f"aten::{name}"] = draw
        return draw

    return register


def unary(name, dtypes=ALL, low=-3.0, high=3.0, specials=False):
    def draw():
        v = tensor(shape(), choice(dtypes), low, high)
        return "default", [special(v) if specials else v], {}

    OPERATORS[f"aten::{name}"] = draw


for name in "sin cos tanh atan asinh exp2 expm1 sigmoid erf exp sinh cosh square special_erf special_exp2 special_expit special_expm1 arcsinh arctan deg2rad rad2deg erfc special_erfc".split():
    unary(name)
for name in "tan".split():
    unary(name, low=-1.2, high=1.2)
for name in "asin acos atanh arcsin arccos arctanh".split():
    unary(name, low=-0.9, high=0.9)
for name in "acosh arccosh".split():
    unary(name, low=1.1, high=4)
for name in "log log2 log10 sqrt rsqrt log1p special_log1p reciprocal".split():
    unary(name, low=0.2, high=5)
for name in "abs absolute neg negative positive".split():
    unary(name, FLOATS + INTS)
for name in "sign sgn isnan isinf isfinite signbit logical_not relu".split():
    unary(name, FLOATS + INTS if name == "relu" else ALL, specials=name != "relu")
for name in "isposinf isneginf".split():
    unary(name, ALL, specials=True)
for name in "floor ceil trunc fix frac".split():
    unary(name, FLOATS if name == "frac" else FLOATS + INTS)
unary("bitwise_not", INTS + [BOOL])
for name in "sinc special_sinc".split():
    unary(name)
for name in "hardswish hardsigmoid silu mish selu relu6 log_sigmoid log_sigmoid_forward".split():
    unary(name, FLOATS, low=-5, high=8)
for name in "clone contiguous alias alias_copy detach detach_copy lift lift_fresh lift_fresh_copy ravel".split():
    unary(name)
for name in "zeros_like ones_like fliplr flipud".split():
    unary(name)
unary("numpy_T")
unary("mT")


@op("gelu")
def _():
    return "default", [tensor(shape(), choice(FLOATS))], {"approximate": choice(["none", "tanh"])} if maybe() else {}


@op("round", "special_round")
def _():
    v = tensor(shape(), choice(FLOATS + INTS), -30, 30)
    return ("decimals", [v.to(F64)], {"decimals": randint(-1, 2)}) if maybe(0.3) else ("default", [v], {})


@op("logit", "special_logit")
def _():
    return "default", [tensor(shape(), choice(FLOATS), 0.05, 0.95)] + ([choice([0.1, 0.2, None])] if maybe() else []), {}


@op("nan_to_num")
def _():
    v = special(tensor(shape(1), choice(ALL)))
    return "default", [v] + ([1.5, choice([None, 7.0]), choice([None, -8.0])] if maybe() else []), {}


def pair(dtypes=ALL, low=-3, high=3):
    sizes = shape()
    a, b = tensor(sizes, choice(dtypes), low, high), tensor(broadcastable(sizes), choice(dtypes), low, high)
    return (a, b) if maybe(0.7) else (b, a)


def scalar_name(name):
    return "Scalar"


def arithmetic(name, dtypes=ALL, low=-3, high=3, overloads=("Tensor", "Scalar"), kind=None):
    def draw():
        overload = choice(overloads)
        if overload in ("Tensor", "default", "Tensor_Tensor"):
            a, b = pair(dtypes, low, high)
            return overload, [a, b], {}
        v = tensor(shape(), choice(dtypes), low, high)
        n = number(kind)
        if overload == "Tensor" or not n and low > 0:
            n = 2
        return overload, [v, n], {}

    OPERATORS[f"aten::{name}"] = draw


for name in "add sub subtract".split():

    def draw_add(name=name):
        numbers = ALL if name == "add" else FLOATS + INTS
        if maybe():
            a, b = pair(numbers)
            return "Tensor", [a, b], {"alpha": randint(1, 3)} if maybe(0.4) else {}
        v = tensor(shape(), choice(numbers))
        return ("Scalar", [v, number("int" if name != "add" else None)] + ([2] if maybe(0.3) else []), {})

    OPERATORS[f"aten::{name}"] = draw_add


@op("rsub")
def _():
    numbers = FLOATS + INTS
    if maybe():
        a, b = pair(numbers)
        return "Tensor", [a, b], {}
    return "Scalar", [tensor(shape(), choice(numbers)), number("float")], {}


for name in "mul multiply".split():
    arithmetic(name)
for name in "div divide true_divide".split():
    arithmetic(name, low=0.5, high=4)


@op("div", "divide")
def _():
    low = 0.5 if maybe() else -4
    a, b = pair(FLOATS + INTS, low, 5)
    b = torch.where(b == 0, torch.ones_like(b), b)
    mode = choice([None, "floor", "trunc"])
    if maybe(0.5):
        return "Tensor_mode", [a, b], {"rounding_mode": mode}
    if maybe(0.3):
        return "Tensor", [a, b], {}
    n = choice([2, 3, 0.5, -2, 1.5])
    return ("Scalar_mode", [a, n], {"rounding_mode": mode}) if maybe() else ("Scalar", [a, n], {})


@op("floor_divide", "remainder", "fmod")
def _():
    a, b = pair(WIDE + INTS, -6, 6)
    b = torch.where(b == 0, torch.ones_like(b), b)
    return ("Tensor", [a, b], {}) if maybe() else ("Scalar", [a, choice([2, 3, -2, 1.5])], {})


OPERATORS["aten::floor_divide"] = lambda: (
    lambda a, b: ("default", [a, torch.where(b == 0, torch.ones_like(b), b)], {})
)(*pair(WIDE + INTS, -6, 6))


@op("pow")
def _():
    kind = randint(0, 2)
    if kind == 0:
        a, b = pair(WIDE, 0.2, 3)
        return "Tensor_Tensor", [a, b], {}
    if kind == 1:
        v = tensor(shape(), choice(FLOATS + [I64, I32]), 0.2, 3)
        return "Tensor_Scalar", [v, choice([2, 3, 1, 0] if not v.dtype.is_floating_point else [2, 0.5, -1, 3, -0.5, 1, 2.5, 0])], {}
    return "Scalar", [choice([2, 1.5, 0.5, 3]), tensor(shape(), choice(WIDE), -2, 3)], {}


@op("float_power")
def _():
    return "Tensor_Scalar", [tensor(shape(), choice(ALL), 0.2, 3), choice([2, 0.5, -1])], {}


for name in "eq ne lt le gt ge greater less greater_equal less_equal not_equal".split():
    arithmetic(name, low=-2, high=2)
for name in "maximum minimum fmax fmin".split():

    def draw_extremum():
        a, b = pair(FLOATS + INTS)
        return "default", [special(a), special(b)], {}

    OPERATORS[f"aten::{name}"] = draw_extremum
for name in "logical_and logical_or logical_xor".split():
    arithmetic(name, overloads=("default",), low=-1, high=1)
for name in "bitwise_and bitwise_or bitwise_xor __and__ __or__ __xor__".split():
    arithmetic(name, INTS + [BOOL], 0, 60, kind="int")
for name in "bitwise_left_shift bitwise_right_shift __lshift__ __rshift__".split():
    arithmetic(name, [I64, I32], 0, 6, kind=None, overloads=("Tensor",) if "_left" in name or "_right" in name else ("Tensor",))
for name in "atan2 arctan2 hypot logaddexp logaddexp2 copysign".split():
    arithmetic(name, WIDE, overloads=("Tensor",) if name == "copysign" else ("default",))
for name in "xlogy special_xlogy special_xlog1py".split():
    arithmetic(name, WIDE, 0.1, 4, overloads=("Tensor",) if name == "xlogy" else ("default",))
arithmetic("ldexp", WIDE, overloads=("Tensor",))


@op("heaviside")
def _():
    sizes = shape()
    dtype = choice(WIDE + [I64])
    v = torch.where(torch.rand(sizes) > 0.6, torch.zeros(sizes), torch.randn(sizes)).to(dtype)
    return "default", [v, tensor(broadcastable(sizes), dtype)], {}


@op("lerp")
def _():
    sizes, dtype = shape(), choice(WIDE)
    a, b = tensor(sizes, dtype), tensor(sizes, dtype)
    return ("Scalar", [a, b, 0.3], {}) if maybe() else ("Tensor", [a, b, tensor(broadcastable(sizes), dtype)], {})


@op("addcmul", "addcdiv")
def _():
    sizes, dtype = shape(), choice(WIDE)
    rest = [tensor(broadcastable(sizes), dtype, 0.5, 3) for _ in range(2)]
    return "default", [tensor(sizes, dtype)] + rest, {"value": choice([1, 0.5, 2])} if maybe() else {}


@op("clamp", "clip")
def _():
    v = tensor(shape(), choice(FLOATS + INTS))
    if maybe(0.7):
        low, high = choice([None, -1, -0.5, 0]), choice([None, 1, 0.5, 2])
        return "default", [v, low, high], {}
    return "Tensor", [v, tensor(broadcastable(list(v.shape)), v.dtype), choice([None, tensor(list(v.shape), v.dtype)])], {}


@op("clamp_min", "clamp_max")
def _():
    return "default", [tensor(shape(), choice(FLOATS + INTS)), choice([1, 0.5, -1])], {}


@op("where")
def _():
    sizes = shape()
    c = tensor(sizes, BOOL)
    kind = randint(0, 3)
    a, b = tensor(broadcastable(sizes), choice(ALL)), tensor(sizes, choice(ALL))
    if kind == 0:
        return "ScalarSelf", [c, number(), b], {}
    if kind == 1:
        return "ScalarOther", [c, a, number()], {}
    if kind == 2:
        return "Scalar", [c, number(), number()], {}
    return "self", [c, a, b], {}


@op("masked_fill")
def _():
    sizes = shape()
    v = tensor(sizes, choice(FLOATS + INTS))
    m = tensor(broadcastable(sizes), BOOL)
    return ("Scalar", [v, m, choice([1, 0, 2])], {}) if maybe(0.7) else ("Tensor", [v, m, torch.tensor(2).to(v.dtype)], {})


@op("isclose")
def _():
    a, _ = pair(WIDE)
    return "default", [special(a), a + choice([0, 1e-6, 0.1])], {"equal_nan": maybe()}


# activations


@op("celu", "elu", "leaky_relu", "softplus", "hardtanh", "threshold", "softshrink", "hardshrink", "rrelu", "glu")
def _():
    raise AssertionError


def activation(name, args):
    OPERATORS[f"aten::{name}"] = lambda: ("default", [tensor(shape(), choice(FLOATS), -4, 4)] + args(), {})


activation("celu", lambda: [choice([1.0, 0.5, 2.0])] if maybe() else [])
activation("elu", lambda: choice([[], [0.5], [0.7, 1.2, 0.9]]))
activation("leaky_relu", lambda: choice([[], [0.2]]))
activation("softplus", lambda: choice([[], [2.0], [0.5, 1.0]]))
activation("hardtanh", lambda: choice([[], [-2.0, 0.5]]))
activation("threshold", lambda: [0.3, choice([-1.0, 2])])
activation("softshrink", lambda: choice([[], [0.8]]))
activation("hardshrink", lambda: choice([[], [0.8]]))
activation("rrelu", lambda: choice([[], [0.1, 0.4]]))


@op("glu")
def _():
    sizes = shape(1, 4)
    at = randint(0, len(sizes) - 1)
    sizes[at] *= 2
    return "default", [tensor(sizes, choice(FLOATS)), at], {}


@op("prelu", "_prelu_kernel")
def _():
    sizes = shape(2, 4, empty=False)
    w = tensor([choice([1, sizes[1]])], F32)
    return "default", [tensor(sizes), w], {}


@op("_prelu_kernel")
def _():
    sizes = shape(1, 3)
    return "default", [tensor(sizes), tensor(broadcastable(sizes))], {}


@op("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
def _():
    return "default", [tensor(shape(2)), 0.5, False], {}


@op("native_dropout")
def _():
    return "default", [tensor(shape()), 0.5, False], {}


# movement


def factors(n):
    """A shape of so many elements."""
    sizes, rest = [], n
    for f in (2, 3, 5):
        while rest and rest % f == 0 and maybe(0.7):
            sizes.append(f)
            rest //= f
    return sizes + ([rest] if rest != 1 or not sizes else [])


@op("view", "reshape", "_unsafe_view", "view_copy")
def _():
    v = tensor(shape(0, 4), choice(ALL))
    to = factors(v.numel()) if v.numel() else list(v.shape)
    if to and maybe(0.4) and v.numel():
        to[randint(0, len(to) - 1)] = -1
    return "default", [v, to], {}


@op("view_as", "reshape_as")
def _():
    v = tensor(shape(), choice(ALL))
    return "default", [v, tensor(factors(v.numel()) if v.numel() else list(v.shape))], {}


@op("flatten")
def _():
    v = tensor(shape(0, 5), choice(ALL))
    return "using_ints", [v] + choice([[], [axis(v.dim())], [0, -1], [axis(v.dim()), axis(v.dim())]]), {}


@op("unflatten")
def _():
    return "int", [tensor([3, 12, 2]), choice([1, -2]), choice([[3, 4], [-1, 6], [2, 2, 3]])], {}


@op("expand", "broadcast_to", "expand_copy")
def _():
    v = tensor([1 if maybe(0.4) else randint(1, 4) for _ in range(randint(0, 3))], choice(ALL))
    to = [randint(1, 3) if s == 1 else s for s in v.shape]
    return "default", [v, [randint(1, 3) for _ in range(randint(0, 2))] + to], {}


OPERATORS["aten::expand"] = lambda: (
    lambda v: ("default", [v, [2] * randint(0, 2) + [3 if s == 1 and maybe() else choice([-1, s]) for s in v.shape]], {})
)(tensor([1 if maybe(0.4) else randint(1, 4) for _ in range(randint(0, 3))], choice(ALL)))


@op("expand_as")
def _():
    sizes = shape()
    return "default", [tensor(broadcastable(sizes), choice(ALL)), tensor(sizes)], {}


@op("permute", "permute_copy")
def _():
    v = tensor(shape(), choice(ALL))
    order = random.sample(range(v.dim()), v.dim())
    return "default", [v, [a - v.dim() if maybe(0.3) else a for a in order]], {}


@op("transpose", "transpose_copy")
def _():
    v = tensor(shape(), choice(ALL))
    return "int", [v, axis(v.dim()), axis(v.dim())], {}


@op("swapaxes", "swapdims")
def _():
    v = tensor(shape(), choice(ALL))
    return "default", [v, axis(v.dim()), axis(v.dim())], {}


@op("t", "t_copy")
def _():
    return "default", [tensor(shape(0, 2), choice(ALL))], {}


@op("squeeze", "squeeze_copy")
def _():
    v = tensor([choice([1, 1, 2, 3]) for _ in range(randint(0, 4))], choice(ALL))
    return choice([("default", [v], {}), ("dim", [v, axis(v.dim())], {}), ("dims", [v, axes(v.dim())], {})])


@op("unsqueeze", "unsqueeze_copy")
def _():
    v = tensor(shape(), choice(ALL))
    return "default", [v, axis(v.dim() + 1)], {}


def bound():
    return choice([None, 0, 1, 2, 3, -1, -2, 100, 9223372036854775807, -100])


@op("slice", "slice_copy")
def _():
    v = tensor(shape(1), choice(ALL))
    return "Tensor", [v, axis(v.dim()), bound(), bound(), choice([1, 1, 2, 3])], {}


@op("select", "select_copy")
def _():
    v = tensor(shape(1, 4, empty=False), choice(ALL))
    at = randint(0, v.dim() - 1)
    return "int", [v, at, randint(-v.shape[at], v.shape[at] - 1)], {}


@op("narrow", "narrow_copy")
def _():
    v = tensor(shape(1, 4, empty=False), choice(ALL))
    at = randint(0, v.dim() - 1)
    start = randint(0, v.shape[at])
    return "default", [v, at, start, randint(0, v.shape[at] - start)], {}


@op("cat", "concat", "concatenate")
def _():
    sizes = shape(1, 4)
    at = randint(0, len(sizes) - 1)
    parts = []
    for _ in range(randint(1, 4)):
        own = list(sizes)
        own[at] = randint(0, 3)
        parts.append(tensor(own, choice(ALL) if maybe(0.3) else F32))
    if maybe(0.1):
        parts.append(torch.zeros([0]))
    return "default", [parts, at if maybe() else at - len(sizes)], {}


@op("stack")
def _():
    sizes = shape()
    return "default", [[tensor(sizes, choice(ALL) if maybe(0.2) else F32) for _ in range(randint(1, 3))], axis(len(sizes) + 1)], {}


@op("hstack", "vstack", "dstack", "column_stack")
def _():
    sizes = shape(0, 3)
    return "default", [[tensor(sizes) for _ in range(randint(1, 3))]], {}


@op("chunk", "unsafe_chunk")
def _():
    v = tensor(shape(1), choice(ALL))
    return "default", [v, randint(1, 5), axis(v.dim())], {}


@op("split", "unsafe_split", "split_copy")
def _():
    v = tensor(shape(1), choice(ALL))
    return "Tensor", [v, randint(1, 4), axis(v.dim())], {}


@op("split_with_sizes", "unsafe_split_with_sizes", "split_with_sizes_copy")
def _():
    return "default", [tensor([2, 6, 3], choice(ALL)), choice([[1, 2, 3], [6], [0, 6], [2, 2, 2]]), choice([1, -2])], {}


@op("tensor_split")
def _():
    v = tensor([choice([5, 6, 7]), 3], choice(ALL))
    return choice([("sections", [v, randint(1, 4), 0], {}), ("indices", [v, [1, 3], choice([0, -1])], {})])


@op("hsplit", "vsplit")
def _():
    v = tensor([4, 6])
    return choice([("int", [v, 2], {}), ("array", [v, [1, 3]], {})])


@op("unbind", "unbind_copy")
def _():
    v = tensor(shape(1), choice(ALL))
    return "int", [v, axis(v.dim())], {}


@op("repeat")
def _():
    v = tensor(shape(0, 3), choice(ALL))
    return "default", [v, [randint(0, 3) if maybe(0.1) else randint(1, 3) for _ in range(v.dim() + randint(0, 1))]], {}


@op("tile")
def _():
    return "default", [tensor(shape(0, 3), choice(ALL)), [randint(1, 3) for _ in range(randint(0, 3))]], {}


@op("repeat_interleave")
def _():
    v = tensor(shape(1, 3, empty=False), choice(ALL))
    return "self_int", [v, randint(1, 3), choice([None, axis(v.dim())])], {}


@op("flip")
def _():
    v = tensor(shape(), choice(ALL))
    return "default", [v, axes(v.dim())], {}


@op("roll")
def _():
    v = tensor(shape(1), choice(ALL))
    if maybe(0.3):
        return "default", [v, [randint(-5, 5)]], {}
    dims = axes(v.dim()) or [0]
    return "default", [v, [randint(-5, 5) for _ in dims], dims], {}


@op("rot90")
def _():
    return "default", [tensor(shape(2, 3), choice(ALL)), randint(-3, 4), choice([[0, 1], [1, 0]])], {}


@op("movedim", "moveaxis")
def _():
    v = tensor(shape(2, 4), choice(ALL))
    from_ = random.sample(range(v.dim()), 2)
    return choice([("int", [v, axis(v.dim()), axis(v.dim())], {}), ("intlist", [v, from_, [0, -1]], {})])


@op("tril", "triu")
def _():
    return "default", [tensor(shape(2), choice(ALL))] + ([randint(-3, 3)] if maybe() else []), {}


@op("diagonal", "diagonal_copy")
def _():
    v = tensor(shape(2), choice(ALL))
    a, b = random.sample(range(v.dim()), 2)
    return "default", [v, randint(-3, 3), a, b - v.dim()], {}


@op("linalg_diagonal")
def _():
    return "default", [tensor(shape(2))], {"offset": randint(-2, 2)}


@op("diag")
def _():
    return "default", [tensor(shape(1, 2), choice(ALL)), randint(-3, 3)], {}


@op("diag_embed")
def _():
    v = tensor(shape(1, 3), choice(ALL))
    a, b = random.sample(range(v.dim() + 1), 2)
    return "default", [v, randint(-2, 2)] + choice([[], [a, b]]), {}


@op("trace")
def _():
    return "default", [tensor(shape(2, 2), choice(FLOATS + INTS))], {}


@op("unfold", "unfold_copy")
def _():
    v = tensor([2, 7, 5], choice(ALL))
    return "default", [v, choice([1, 2, -1, -2]), randint(1, 5), randint(1, 3)], {}


@op("channel_shuffle", "pixel_shuffle", "pixel_unshuffle")
def _():
    raise AssertionError


OPERATORS["aten::channel_shuffle"] = lambda: ("default", [tensor([2, 6, 3, 2]), choice([2, 3])], {})
OPERATORS["aten::pixel_shuffle"] = lambda: ("default", [tensor(choice([[2, 8, 3, 2], [4, 2, 2]])), 2], {})
OPERATORS["aten::pixel_unshuffle"] = lambda: ("default", [tensor(choice([[2, 3, 4, 6], [1, 2, 2]])), 2], {})


@op("meshgrid")
def _():
    parts = [tensor([randint(1, 4)]) for _ in range(randint(1, 3))]
    return ("indexing", [parts], {"indexing": choice(["ij", "xy"])}) if maybe() else ("default", [parts], {})


@op("broadcast_tensors")
def _():
    sizes = shape()
    return "default", [[tensor(sizes), tensor(broadcastable(sizes))]], {}


@op("atleast_1d", "atleast_2d", "atleast_3d")
def _():
    return "default", [tensor(shape(0, 4), choice(ALL))], {}


@op("constant_pad_nd")
def _():
    v = tensor(shape(1, 4, empty=False), choice(ALL))
    pads = [randint(0, 2) for _ in range(2 * randint(1, v.dim()))]
    return "default", [v, pads] + ([choice([1, 0])] if maybe() else []), {}


@op("pad")
def _():
    mode = choice(["constant", "reflect", "replicate", "circular"])
    n = randint(1, 3)
    v = tensor([2, 2] + [randint(3, 5) for _ in range(n)])
    pads = [randint(0, 2) for _ in range(2 * n)]
    if mode == "constant":
        return "default", [v, [randint(-1, 2) for _ in range(2 * n)], mode, choice([None, 1.5])], {}
    return "default", [v, pads, mode], {}


def padded(name, n):
    OPERATORS[f"aten::{name}"] = lambda: (
        "default",
        [tensor(([2] if maybe() else []) + [2] + [randint(3, 5) for _ in range(n)]), [randint(0, 2) for _ in range(2 * n)]],
        {},
    )


for i in (1, 2, 3):
    padded(f"reflection_pad{i}d", i)
    padded(f"replication_pad{i}d", i)


@op("to")
def _():
    v = tensor(shape(), choice(ALL), 0, 3)
    return choice([("dtype", [v, choice(ALL)], {}), ("other", [v, tensor([1], choice(ALL))], {})])


@op("_to_copy")
def _():
    return "default", [tensor(shape(), choice(ALL), 0, 3)], {"dtype": choice(ALL)}


@op("type_as")
def _():
    return "default", [tensor(shape(), choice(ALL), 0, 3), tensor([2], choice(ALL))], {}


# creation


@op("zeros", "ones", "empty")
def _():
    return "default", [shape()], {"dtype": choice(ALL)} if maybe() else {}


del OPERATORS["aten::empty"]


@op("full")
def _():
    return "default", [shape(), number()], {"dtype": choice(ALL)} if maybe() else {}


@op("full_like")
def _():
    return "default", [tensor(shape(), choice(ALL)), choice([1, 2, 0])], {"dtype": choice(ALL)} if maybe() else {}


@op("new_zeros", "new_ones")
def _():
    return "default", [tensor(shape(), choice(ALL)), shape()], {"dtype": choice(ALL)} if maybe() else {}


@op("new_full")
def _():
    return "default", [tensor(shape(), choice(ALL)), shape(), choice([1, 0])], {}


@op("fill", "zero", "scalar_tensor", "eye", "linspace", "logspace", "arange")
def _():
    raise AssertionError


OPERATORS["aten::fill"] = lambda: ("Scalar", [tensor(shape(), choice(ALL)), choice([1, 0])], {})
OPERATORS["aten::zero"] = lambda: ("default", [tensor(shape(), choice(ALL))], {})
OPERATORS["aten::scalar_tensor"] = lambda: ("default", [number()], {"dtype": choice(ALL)} if maybe() else {})
OPERATORS["aten::eye"] = lambda: choice([("default", [randint(0, 4)], {}), ("m", [randint(0, 4), randint(0, 4)], {"dtype": choice(ALL)})])
OPERATORS["aten::linspace"] = lambda: ("default", [number("float"), number("float"), randint(0, 9)], {"dtype": choice(WIDE)})
OPERATORS["aten::logspace"] = lambda: ("default", [-1.0, number("float"), randint(1, 9), choice([2.0, 10.0])], {"dtype": choice(WIDE)})


@op("arange")
def _():
    kw = {"dtype": choice([F32, I64, I32, F64])} if maybe(0.4) else {}
    return choice([
        ("default", [choice([0, 5, 3.5])], kw),
        ("start", [randint(-3, 2), randint(2, 7)], kw),
        ("start_step", [randint(-3, 3), randint(3, 9), choice([1, 2, 3, 0.5])], kw),
        ("start_step", [5, -3, choice([-1, -2])], kw),
    ])


@op("hann_window", "hamming_window", "blackman_window", "bartlett_window")
def _():
    n = randint(1, 9)
    return ("periodic", [n, maybe()], {}) if maybe() else ("default", [n], {})


@op("tril_indices", "triu_indices")
def _():
    return "default", [randint(0, 5), randint(0, 5), randint(-2, 2)], {}


# products


@op("mm", "linalg_matmul", "matmul", "bmm", "dot", "vdot", "mv", "inner", "outer", "ger")
def _():
    raise AssertionError


def sizes3():
    return randint(1, 4), randint(1, 5), randint(1, 4)


def draw_mm():
    m, k, n = sizes3()
    dtype = choice(FLOATS + [I64, I32])
    return "default", [tensor([m, k], dtype), tensor([k, n], dtype)], {}


OPERATORS["aten::mm"] = draw_mm


def draw_bmm():
    m, k, n = sizes3()
    b, dtype = randint(0, 3), choice(FLOATS + [I64])
    return "default", [tensor([b, m, k], dtype), tensor([b, k, n], dtype)], {}


OPERATORS["aten::bmm"] = draw_bmm


@op("matmul", "linalg_matmul")
def _():
    m, k, n = sizes3()
    batch = shape(0, 2, empty=False)
    a = choice([[k], [m, k], batch + [m, k], broadcastable(batch) + [m, k]])
    b = choice([[k], [k, n], batch + [k, n], broadcastable(batch) + [k, n]])
    dtype = choice(FLOATS)
    return "default", [tensor(a, dtype), tensor(b, dtype)], {}


def draw_dot():
    k, dtype = randint(0, 5), choice(WIDE + [I64])
    return "default", [tensor([k], dtype), tensor([k], dtype)], {}


OPERATORS["aten::dot"] = OPERATORS["aten::vdot"] = draw_dot
OPERATORS["aten::mv"] = lambda: (lambda m, k: ("default", [tensor([m, k]), tensor([k])], {}))(randint(1, 4), randint(1, 4))
OPERATORS["aten::outer"] = OPERATORS["aten::ger"] = lambda: (lambda d: ("default", [tensor([randint(1, 4)], d), tensor([randint(1, 4)], d)], {}))(choice(ALL))


@op("inner")
def _():
    k = randint(1, 4)
    return "default", [tensor(shape(0, 2, empty=False) + [k]), tensor(shape(0, 2, empty=False) + [k])], {}


@op("linear")
def _():
    k, n = randint(1, 5), randint(1, 4)
    lead, dtype = shape(0, 3), choice(FLOATS)
    args = [tensor(lead + [k], dtype), tensor([n, k], dtype)]
    return "default", args + ([tensor([n], dtype)] if maybe() else []), {}


def mixed(kinds):
    return {"beta": choice([0, 1, 0.5, 2]), "alpha": choice([1, 0.5])} if maybe() else {}


@op("addmm")
def _():
    m, k, n = sizes3()
    return "default", [tensor(choice([[n], [m, n], [1, n]])), tensor([m, k]), tensor([k, n])], mixed(0)


@op("addmv")
def _():
    m, k, _ = sizes3()
    return "default", [tensor([m]), tensor([m, k]), tensor([k])], mixed(0)


@op("addr")
def _():
    m, _, n = sizes3()
    return "default", [tensor([m, n]), tensor([m]), tensor([n])], mixed(0)


@op("baddbmm")
def _():
    m, k, n = sizes3()
    return "default", [tensor(choice([[2, m, n], [1, n], [n]])), tensor([2, m, k]), tensor([2, k, n])], mixed(0)


@op("addbmm")
def _():
    m, k, n = sizes3()
    return "default", [tensor([m, n]), tensor([2, m, k]), tensor([2, k, n])], mixed(0)


@op("einsum")
def _():
    eq, sizes = choice([
        ("ij,jk->ik", [[2, 3], [3, 4]]), ("bij,bjk", [[2, 3, 4], [2, 4, 2]]), ("ii->i", [[3, 3]]), ("ij->", [[2, 3]]),
        ("...ij,...jk->...ik", [[2, 3, 4], [2, 4, 2]]), ("i,j->ij", [[3], [2]]), ("bhqd,bhkd->bhqk", [[2, 2, 3, 4], [2, 2, 5, 4]]),
        ("ij,ij->i", [[2, 3], [2, 3]]), ("ij,jk,kl->il", [[2, 3], [3, 2], [2, 4]]), ("ij->ji", [[2, 3]]), ("b...,b...->...", [[2, 3, 2], [2, 3, 2]]),
        ("abc,cd->abd", [[2, 3, 4], [4, 2]]), ("ijk,ilk->ijl", [[2, 3, 4], [2, 5, 4]]), ("ij,kl->ijkl", [[2, 2], [3, 2]]), ("ijj->ij", [[2, 3, 3]]),
    ])
    return "default", [eq, [tensor(s) for s in sizes]], {}


@op("tensordot")
def _():
    return choice([
        ("default", [tensor([2, 3, 4]), tensor([3, 4, 2]), [1, 2], [0, 1]], {}),
        ("default", [tensor([2, 3]), tensor([4, 2]), [0], [-1]], {}),
        ("default", [tensor([2]), tensor([3]), [], []], {}),
    ])


@op("bilinear")
def _():
    return "default", [tensor([2, 3]), tensor([2, 4]), tensor([5, 3, 4])] + ([tensor([5])] if maybe() else []), {}


@op("kron")
def _():
    return "default", [tensor(shape(0, 3, empty=False)), tensor(shape(0, 3, empty=False))], {}


@op("cross", "linalg_cross")
def _():
    sizes = choice([[3], [2, 3], [3, 4], [2, 3, 3]])
    at = sizes.index(3)
    return "default", [tensor(sizes), tensor(sizes)], {"dim": at}


@op("linalg_vecdot")
def _():
    sizes = shape(1, 3)
    return "default", [tensor(sizes), tensor(sizes)], {"dim": axis(len(sizes))} if maybe() else {}


@op("linalg_det")
def _():
    n = randint(1, 4)
    return "default", [tensor([2, n, n])], {}


@op("cdist")
def _():
    return "default", [tensor([2, 3, 4]), tensor(choice([[2, 5, 4], [5, 4]])), choice([1.0, 2.0, 3.0, float("inf")])], {}


# convolutions and pools


def convolution(n, dtype=None):
    groups = choice([1, 1, 1, 2])
    c, o = groups * randint(1, 3), groups * randint(1, 3)
    kernel = [randint(1, 3) for _ in range(n)]
    dilation = [choice([1, 1, 2]) for _ in range(n)]
    size = [randint((k - 1) * d + 1, (k - 1) * d + 4) for k, d in zip(kernel, dilation)]
    dtype = dtype or choice(WIDE)
    x = tensor(([randint(1, 2)] if maybe(0.8) else []) + [c] + size, dtype)
    return groups, c, o, kernel, dilation, x, dtype


def draw_conv(n):
    def draw():
        groups, c, o, kernel, dilation, x, dtype = convolution(n)
        w = tensor([o, c // groups] + kernel, dtype)
        bias = choice([None, tensor([o], dtype)])
        if maybe(0.2):
            return "padding", [x, w, bias, [1] * n, choice(["same", "valid"]), dilation, groups], {}
        return "default", [x, w, bias, [randint(1, 2) for _ in range(n)], [randint(0, 2) for _ in range(n)], dilation, groups], {}

    return draw


def draw_transposed(n):
    def draw():
        groups, c, o, kernel, dilation, x, dtype = convolution(n)
        w = tensor([c, o // groups] + kernel, dtype)
        stride = [randint(1, 2) for _ in range(n)]
        extra = [randint(0, max(s, d) - 1) for s, d in zip(stride, dilation)]
        pads = [randint(0, 1) for _ in range(n)]
        overload = "default" if n == 1 else "input"
        return overload, [x, w, choice([None, tensor([o], dtype)]), stride, pads, extra, groups, dilation], {}

    return draw


for n in (1, 2, 3):
    OPERATORS[f"aten::conv{n}d"] = draw_conv(n)
    OPERATORS[f"aten::conv_transpose{n}d"] = draw_transposed(n)


@op("convolution")
def _():
    n = randint(1, 2)
    groups, c, o, kernel, dilation, x, dtype = convolution(n)
    x = x if x.dim() == n + 2 else x[None]
    return "default", [x, tensor([o, c // groups] + kernel, dtype), choice([None, tensor([o], dtype)]), [1] * n, [1] * n, dilation, False, [0] * n, groups], {}


@op("_convolution")
def _():
    name, args, _ = OPERATORS["aten::convolution"]()
    return name, args + [False, False, True, True], {}


@op("_convolution_mode")
def _():
    n = randint(1, 3)
    groups, c, o, kernel, dilation, x, dtype = convolution(n)
    x = x if x.dim() == n + 2 else x[None]
    same = maybe()
    stride = [1 if same else randint(1, 2) for _ in range(n)]
    w = tensor([o, c // groups] + kernel, dtype)
    return "default", [x, w, choice([None, tensor([o], dtype)]), stride, "same" if same else "valid", dilation, groups], {}


def draw_pool(n, kind):
    def draw():
        kernel = [randint(1, 3) for _ in range(n)]
        x = distinct(([2] if maybe(0.8) else []) + [2] + [randint(4, 7) for _ in range(n)], choice(WIDE))
        stride = choice([[], [randint(1, 3) for _ in range(n)]])
        pads = [randint(0, k // 2) for k in kernel]
        if kind == "max":
            return "default", [x, kernel, stride, pads, choice([1, 2]), maybe(0.3)], {}
        extra = [maybe(0.3), maybe()]
        if n > 1 and maybe(0.2):
            extra = [False, True, randint(1, 5)]
        return "default", [x, kernel, stride, pads] + extra, {}

    return draw


for n in (1, 2, 3):
    OPERATORS[f"aten::max_pool{n}d"] = draw_pool(n, "max")
    OPERATORS[f"aten::avg_pool{n}d"] = draw_pool(n, "avg")
    OPERATORS[f"aten::adaptive_avg_pool{n}d"] = lambda n=n: ("default", [tensor([2, 2] + [randint(3, 7) for _ in range(n)]), [randint(1, 4) for _ in range(n)]], {})
    OPERATORS[f"aten::adaptive_max_pool{n}d"] = lambda n=n: ("default", [tensor([2, 2] + [randint(3, 7) for _ in range(n)]), [randint(1, 4) for _ in range(n)]], {})
OPERATORS["aten::max_pool1d_with_indices"] = draw_pool(1, "max")
OPERATORS["aten::max_pool2d_with_indices"] = draw_pool(2, "max")
OPERATORS["aten::max_pool3d_with_indices"] = draw_pool(3, "max")
OPERATORS["aten::_adaptive_avg_pool2d"] = OPERATORS["aten::adaptive_avg_pool2d"]
OPERATORS["aten::_adaptive_avg_pool3d"] = OPERATORS["aten::adaptive_avg_pool3d"]


def draw_upsample(n, corners, aa=False, vec=True):
    def draw():
        x = tensor([randint(1, 2), 2] + [randint(4 if aa else 2, 5) for _ in range(n)])
        args = [maybe() and not aa] if corners else []
        if vec and maybe():
            size, factors = choice([([randint(2 if aa else 1, 9) for _ in range(n)], None), (None, [choice([2.0, 1.5, 0.5, 3.0]) for _ in range(n)])])
            return "vec", [x, size] + args + [factors], {}
        return "default", [x, [randint(2 if aa else 1, 9) for _ in range(n)]] + args, {}

    return draw


for name, n in [("upsample_nearest1d", 1), ("upsample_nearest2d", 2), ("upsample_nearest3d", 3), ("_upsample_nearest_exact1d", 1), ("_upsample_nearest_exact2d", 2), ("_upsample_nearest_exact3d", 3)]:
    OPERATORS[f"aten::{name}"] = draw_upsample(n, False)
for name, n in [("upsample_linear1d", 1), ("upsample_bilinear2d", 2), ("upsample_trilinear3d", 3), ("upsample_bicubic2d", 2), ("_upsample_bilinear2d_aa", 2), ("_upsample_bicubic2d_aa", 2)]:
    OPERATORS[f"aten::{name}"] = draw_upsample(n, True, name.endswith("_aa"))


@op("grid_sampler", "grid_sampler_2d")
def _():
    return "default", [tensor([2, 2, 4, 5]), tensor([2, 3, 4, 2], F32, -1.2, 1.2), *choice([(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0), (2, 2)]), maybe()], {}


@op("grid_sampler_3d")
def _():
    return "default", [tensor([1, 2, 3, 4, 3]), tensor([1, 2, 3, 2, 3], F32, -1.2, 1.2), randint(0, 1), randint(0, 2), maybe()], {}


@op("im2col")
def _():
    return "default", [tensor(choice([[2, 2, 5, 6], [3, 4, 4]])), [2, randint(1, 3)], [1, choice([1, 2])], [randint(0, 1), 1], [1, randint(1, 2)]], {}


@op("col2im")
def _():
    return "default", [tensor([2, 2 * 4, 12]), [4, 5], [2, 2], [1, 1], [0, 0], [1, 1]], {}


@op("affine_grid_generator")
def _():
    return choice([("default", [tensor([2, 2, 3]), [2, 1, 3, 4], maybe()], {}), ("default", [tensor([1, 3, 4]), [1, 1, 2, 3, 2], maybe()], {})])


@op("max_unpool2d")
def _():
    x = distinct([1, 2, 4, 4])
    y, at = torch.nn.functional.max_pool2d(x, 2, return_indices=True)
    return "default", [y, at, [4, 4]], {}


# normalizations


def channels(x, dtype=F32):
    return tensor([x.shape[1]], dtype)


@op("batch_norm")
def _():
    x = tensor(shape(2, 5, empty=False), choice(WIDE))
    d = x.dtype
    return "default", [x, choice([None, channels(x, d)]), choice([None, channels(x, d)]), channels(x, d), channels(x, d).abs() + 0.5, False, 0.1, 1e-5, False], {}


@op("_native_batch_norm_legit_no_training", "_batch_norm_no_update")
def _():
    x = tensor(shape(2, 4, empty=False))
    return "default", [x, channels(x), channels(x), channels(x), channels(x).abs() + 0.5, 0.1, 1e-5], {}


@op("native_batch_norm", "_native_batch_norm_legit")
def _():
    x = tensor(shape(2, 4, empty=False))
    return "default", [x, channels(x), channels(x), channels(x), channels(x).abs() + 0.5, False, 0.1, 1e-5], {}


@op("layer_norm", "native_layer_norm", "rms_norm", "_fused_rms_norm")
def _():
    raise AssertionError


def draw_layer_norm(native):
    def draw():
        x = tensor(shape(1, 4, empty=False), choice(FLOATS if not native else WIDE))
        own = list(x.shape[randint(0, x.dim() - 1):])
        w, b = choice([None, tensor(own, x.dtype)]), choice([None, tensor(own, x.dtype)])
        return "default", [x, own, w, b] + ([1e-5] if native else choice([[], [1e-3]])), {}

    return draw


OPERATORS["aten::layer_norm"] = draw_layer_norm(False)
OPERATORS["aten::native_layer_norm"] = draw_layer_norm(True)


@op("rms_norm", "_fused_rms_norm")
def _():
    x = tensor(shape(1, 4, empty=False), choice(WIDE))
    own = list(x.shape[randint(0, x.dim() - 1):])
    return "default", [x, own, choice([None, tensor(own, x.dtype)]), choice([None, 1e-5])], {}


@op("group_norm")
def _():
    x = tensor([2, 6] + shape(0, 2, empty=False))
    return "default", [x, choice([1, 2, 3, 6])] + choice([[], [tensor([6]), tensor([6])], [None, None, 1e-3]]), {}


@op("native_group_norm")
def _():
    x = tensor([2, 6, 3, 2])
    return "default", [x, choice([None, tensor([6])]), choice([None, tensor([6])]), 2, 6, 6, choice([1, 2, 3]), 1e-5], {}


@op("instance_norm")
def _():
    x = tensor([2, 3] + [randint(2, 4) for _ in range(randint(1, 3))])
    stats = maybe(0.7)
    running = [None, None] if stats else [tensor([3]), tensor([3]).abs() + 0.5]
    return "default", [x, choice([None, tensor([3])]), choice([None, tensor([3])])] + running + [stats, 0.1, 1e-5, False], {}


@op("softmax", "log_softmax")
def _():
    x = tensor(shape(), choice(FLOATS))
    return "int", [x, axis(x.dim())] + choice([[], [choice([F32, F64])]]), {}


@op("_softmax", "_log_softmax")
def _():
    x = tensor(shape(), choice(FLOATS))
    return "default", [x, axis(x.dim()), False], {}


@op("special_softmax", "special_log_softmax")
def _():
    x = tensor(shape(), choice(ALL))
    return "default", [x, axis(x.dim())], {"dtype": F32}


OPERATORS["aten::special_softmax"] = lambda: (lambda x: ("default", [x, axis(x.dim()), choice([None, F64])], {}))(tensor(shape()))


@op("_safe_softmax")
def _():
    x = tensor(shape(1, 3))
    if maybe():
        x[..., :] = torch.where(torch.rand(x.shape) > 0.4, x, torch.tensor(-float("inf")))
    return "default", [x, axis(x.dim())], {}


@op("scaled_dot_product_attention")
def _():
    batch = choice([[2, 3], [2], [], [2, 2, 2]]) if maybe(0.4) else [2, 3]
    l, s, d, e = randint(1, 5), randint(1, 5), randint(1, 4), randint(1, 4)
    dtype = choice(WIDE)
    q, k, v = tensor(batch + [l, d], dtype), tensor(batch + [s, d], dtype), tensor(batch + [s, e], dtype)
    kind = randint(0, 3)
    mask, causal = None, kind == 1
    if kind == 2:
        mask = torch.rand(choice([[l, s], batch + [l, s]])) > 0.3
        mask[..., 0] = True
    if kind == 3:
        mask = tensor(choice([[l, s], batch[:-1] + [1, l, s]] if batch else [[l, s]]), dtype)
    return "default", [q, k, v, mask, 0.0, causal], {"scale": 0.3} if maybe(0.3) else {}


@op("_scaled_dot_product_flash_attention_for_cpu")
def _():
    l, d = randint(1, 5), randint(1, 4)
    return "default", [tensor([2, 3, l, d]), tensor([2, 3, l, d]), tensor([2, 3, l, d]), 0.0, maybe()], {}


# reductions


@op("sum", "mean", "nansum", "nanmean")
def _():
    raise AssertionError


def draw_reduce(default, dims, dtypes, with_dtype=True, specials=False):
    def draw():
        v = tensor(shape(), choice(dtypes), -2, 2)
        v = special(v) if specials else v
        kw = {"dtype": choice([F32, F64])} if with_dtype and maybe(0.3) else {}
        if dims is None or (default is not None and maybe(0.3)):
            return default, [v], kw
        return dims, [v, choice([axes(v.dim()), None]) if maybe() else axes(v.dim()), maybe()], kw

    return draw


OPERATORS["aten::sum"] = draw_reduce("default", "dim_IntList", ALL)
OPERATORS["aten::mean"] = draw_reduce("default", "dim", FLOATS)
OPERATORS["aten::nansum"] = draw_reduce(None, "default", FLOATS, specials=True)
OPERATORS["aten::nanmean"] = draw_reduce(None, "default", FLOATS, specials=True)
OPERATORS["aten::amax"] = OPERATORS["aten::amin"] = draw_reduce(None, "default", FLOATS + INTS + [BOOL], with_dtype=False)
OPERATORS["aten::logsumexp"] = OPERATORS["aten::special_logsumexp"] = lambda: (lambda v: ("default", [v, axes(v.dim()) or [0], maybe()], {}))(tensor(shape(1), choice(WIDE)))


@op("prod", "all", "any")
def _():
    v = tensor(shape(), choice(ALL), -2, 2)
    return ("dim_int" if False else "dim", [v, axis(v.dim()), maybe()], {}) if maybe() else ("default", [v], {})


OPERATORS["aten::prod"] = lambda: (lambda v: ("dim_int", [v, axis(v.dim()), maybe()], {}) if maybe() else ("default", [v], {}))(tensor(shape(), choice(ALL), -2, 2))


@op("aminmax")
def _():
    v = tensor(shape(1, empty=False), choice(FLOATS + INTS))
    return "default", [v], {"dim": axis(v.dim()), "keepdim": maybe()} if maybe() else {}


@op("argmax", "argmin")
def _():
    v = distinct(shape(0, 4, empty=False), choice(WIDE + [I64, I32]))
    v = special(v) if maybe(0.2) else v
    return "default", [v] + choice([[], [None], [axis(v.dim()), maybe()]]), {}


@op("max", "min")
def _():
    v = distinct(shape(0, 4, empty=False), choice(WIDE + [I64, I32]))
    kind = randint(0, 2)
    if kind == 0:
        return "default", [tensor(shape(0, 3, empty=False), choice(ALL))], {}
    if kind == 1:
        return "dim", [v, axis(v.dim()), maybe()], {}
    a, b = pair(FLOATS + INTS)
    return "other", [a, b], {}


@op("median")
def _():
    v = distinct(shape(0, 3, empty=False), choice(WIDE + [I64]))
    return ("dim", [v, axis(v.dim()), maybe()], {}) if maybe() else ("default", [v], {})


@op("count_nonzero")
def _():
    v = tensor(shape(), choice(ALL), -1, 1)
    return choice([("default", [v], {}), ("dim_IntList", [v, axes(v.dim())], {})])


@op("cumsum", "cumprod")
def _():
    v = tensor(shape(), choice(ALL), -2, 2)
    return "default", [v, axis(v.dim())], {"dtype": choice([F32, F64, I64])} if maybe(0.3) else {}


@op("var", "std", "var_mean", "std_mean")
def _():
    v = tensor(shape(1, empty=False), choice(FLOATS))
    return choice([
        ("default", [v, maybe()], {}),
        ("dim", [v, axes(v.dim()), maybe(), maybe()], {}),
        ("correction", [v, choice([None, axes(v.dim())])], {"correction": choice([0, 1, 2, None]), "keepdim": maybe()}),
    ])


@op("norm")
def _():
    v = tensor(shape(1, empty=False), choice(WIDE))
    p = choice([1, 2, 3, 0.5, float("inf"), -float("inf"), 0])
    return choice([("Scalar", [v, p], {}), ("ScalarOpt_dim", [v, p, axes(v.dim()), maybe()], {})])


@op("linalg_vector_norm")
def _():
    v = tensor(shape(1, empty=False), choice(WIDE))
    return "default", [v, choice([1, 2, 3, float("inf"), -float("inf"), 0])] + choice([[], [axes(v.dim()), maybe()]]), {}


@op("linalg_norm")
def _():
    v = tensor(shape(1, 3, empty=False))
    return "default", [v, choice([None, 2, 1]), [axis(v.dim())], maybe()], {}


@op("frobenius_norm")
def _():
    v = tensor(shape(1, 2, empty=False))
    return "dim", [v, axes(v.dim()), maybe()], {}


@op("dist")
def _():
    a, b = pair(WIDE)
    return "default", [a, b, choice([1, 2, 3, float("inf")])], {}


@op("sum_to_size")
def _():
    return "default", [tensor([2, 3, 4]), choice([[3, 4], [1, 4], [4], [2, 1, 4], [1, 1, 1]])], {}


# order


@op("sort", "argsort", "msort", "topk", "kthvalue")
def _():
    raise AssertionError


def drawn_distinct(low=1):
    return distinct(shape(low, 3, empty=False), choice(WIDE + [I64, I32, U8]))


OPERATORS["aten::sort"] = OPERATORS["aten::argsort"] = lambda: (lambda v: ("default", [v, axis(v.dim()), maybe()], {}))(drawn_distinct(0))
OPERATORS["aten::msort"] = lambda: ("default", [drawn_distinct(0)], {})


@op("topk")
def _():
    v = drawn_distinct()
    at = randint(0, v.dim() - 1)
    return "default", [v, randint(1, v.shape[at]), at, maybe()], {}


@op("kthvalue")
def _():
    v = drawn_distinct()
    at = randint(0, v.dim() - 1)
    return "default", [v, randint(1, v.shape[at]), at, maybe()], {}


@op("searchsorted")
def _():
    sizes = shape(0, 2, empty=False)
    s, v = tensor(sizes + [5]).sort()[0], tensor(sizes + [4])
    if maybe(0.3):
        s = tensor([5]).sort()[0]
    if maybe(0.2):
        order = torch.rand(s.shape).argsort(-1)
        return "Tensor", [s.gather(-1, order), v], {"sorter": order.argsort(-1)}
    return "Tensor", [s, v], choice([{}, {"right": True}, {"side": "right"}, {"out_int32": True}])


@op("bucketize")
def _():
    return "Tensor", [tensor(shape()), tensor([5]).sort()[0]], choice([{}, {"right": True}, {"out_int32": True}])


@op("isin")
def _():
    return "Tensor_Tensor", [tensor(shape(), I64), tensor(shape(), I64)], {"invert": maybe()}


# indexing


def index(sizes, below):
    return torch.randint(-below if maybe(0.3) else 0, below, sizes)


def index_dtype(v):
    return v.to(I32) if maybe(0.2) else v


@op("embedding")
def _():
    return "default", [tensor([5, 3], choice(FLOATS)), index_dtype(torch.randint(0, 5, shape(0, 3)))], {}


@op("index_select")
def _():
    v = tensor(shape(1, 3, empty=False), choice(ALL))
    at = randint(0, v.dim() - 1)
    return "default", [v, at, index_dtype(torch.randint(0, v.shape[at], [randint(0, 4)]))], {}


@op("gather")
def _():
    v = tensor(shape(1, 3, empty=False), choice(ALL))
    at = randint(0, v.dim() - 1)
    sizes = [randint(1, s) for s in v.shape]
    sizes[at] = randint(0, 4)
    return "default", [v, at, torch.randint(0, v.shape[at], sizes)], {}


@op("take_along_dim")
def _():
    v = distinct([2, 4])
    return "default", [v, v.argsort(1), choice([1, None])], {}


@op("take")
def _():
    v = tensor(shape(1, 3, empty=False), choice(ALL))
    return "default", [v, index(shape(0, 2), v.numel())], {}


@op("index", "_unsafe_index")
def _():
    v = tensor([4, 3, 2, 3], choice(ALL))
    idx = shape(0, 2)
    kinds = choice([
        [index(idx, 4)], [None, index(idx, 3)], [index(idx, 4), index(idx, 3)], [index(idx, 4), None, index(idx, 2)],
        [None, index(idx, 3), index(idx, 2)], [index([2, 1], 4), index([3], 3)], [None, None, None, index(idx, 3)],
        [tensor([4], BOOL)], [tensor([4, 3], BOOL)], [None, tensor([3], BOOL)], [index([2], 4), None, index([2], 2), index([2], 3)],
        [torch.tensor([True, False, True, True]), index([3], 3)],
    ])
    return "Tensor", [v, kinds], {}


@op("index_put", "_unsafe_index_put")
def _():
    v = tensor([4, 3, 2], choice(WIDE + [I64]))
    d = v.dtype
    kinds = choice([
        ([torch.randperm(4)[:2]], choice([[2, 3, 2], [3, 2], []])), ([None, torch.randperm(3)[:2]], choice([[4, 2, 2], [2]])),
        ([torch.tensor([0, 1]), torch.tensor([2, 0])], choice([[2, 2], [1]])), ([torch.tensor([0, -1]), None, torch.tensor([1, 0])], [2, 3]),
        ([torch.tensor([[0], [3]]), torch.tensor([1, 2])], [2, 2, 2]), ([tensor([4, 3], BOOL)], []), ([tensor([4], BOOL)], [1]),
    ])
    return "default", [v, kinds[0], tensor(kinds[1], d)] + ([True] if maybe(0.3) else []), {}


@op("index_add")
def _():
    v = tensor([4, 3])
    return "default", [v, 0, torch.randint(0, 4, [5]), tensor([5, 3])], {"alpha": 2} if maybe() else {}


@op("index_copy")
def _():
    return "default", [tensor([4, 3]), choice([0, -2]), torch.randperm(4)[:2], tensor([2, 3])], {}


@op("index_fill")
def _():
    return "int_Scalar", [tensor([4, 3], choice(FLOATS + INTS)), choice([0, 1]), torch.randperm(3)[:2], choice([1, 2])], {}


@op("masked_select")
def _():
    sizes = shape(1, 3)
    return "default", [tensor(sizes, choice(ALL)), tensor(sizes, BOOL)], {}


@op("masked_scatter")
def _():
    sizes = shape(1, 3, empty=False)
    v = tensor(sizes)
    return "default", [v, tensor(sizes, BOOL), tensor([v.numel()])], {}


@op("nonzero", "argwhere")
def _():
    return "default", [tensor(shape(0, 3), choice(ALL), -1, 1)], {}


@op("nonzero_numpy")
def _():
    return "default", [tensor(shape(1, 3), choice(ALL), -1, 1)], {}


@op("one_hot")
def _():
    return "default", [torch.randint(0, 4, shape(0, 3)), randint(4, 6)], {}


def scatter_args(accumulate):
    v = tensor(shape(1, 3, empty=False), choice(WIDE + [I64]))
    at = randint(0, v.dim() - 1)
    sizes = [randint(1, s) for s in v.shape]
    if accumulate:
        places = torch.randint(0, v.shape[at], sizes)
    else:
        places = torch.rand(sizes[:at] + [v.shape[at]] + sizes[at + 1:]).argsort(at).narrow(at, 0, sizes[at])
    return v, at, places, tensor([s + randint(0, 1) for s in sizes], v.dtype)


@op("scatter")
def _():
    v, at, places, src = scatter_args(False)
    return choice([("src", [v, at, places, src], {}), ("value", [v, at, places, 2], {}), ("reduce", [v, at, places, src], {"reduce": choice(["add", "multiply"])})])


@op("scatter_add")
def _():
    return "default", list(scatter_args(True)), {}


@op("scatter_reduce")
def _():
    return "two", list(scatter_args(True)) + [choice(["sum", "prod", "amax", "amin", "mean"])], {"include_self": maybe()}


@op("select_scatter", "slice_scatter", "diagonal_scatter")
def _():
    raise AssertionError


OPERATORS["aten::select_scatter"] = lambda: ("default", [tensor([4, 3]), tensor([4]), 1, randint(-3, 2)], {})
OPERATORS["aten::slice_scatter"] = lambda: (lambda v, a, b, s: ("default", [v, tensor(list(v[:, a:b:s].shape)), 1, a, b, s], {}))(tensor([2, 6]), choice([None, 1, -4]), choice([None, 5, -1]), choice([1, 2]))
OPERATORS["aten::diagonal_scatter"] = lambda: (lambda v, o: ("default", [v, tensor(list(v.diagonal(o).shape)), o], {}))(tensor([4, 5]), randint(-3, 4))
OPERATORS["aten::copy"] = lambda: (lambda s: ("default", [tensor(s, choice(ALL)), tensor(broadcastable(s), choice(ALL), 0, 3)], {}))(shape())


# losses


def loss(name, make):
    OPERATORS[f"aten::{name}"] = make


def two(low=-3, high=3):
    sizes = shape(1, 3, empty=False)
    return tensor(sizes, F32, low, high), tensor(sizes, F32, low, high)


loss("mse_loss", lambda: ("default", [*two(), randint(0, 2)], {}))
loss("l1_loss", lambda: ("default", [*two(), randint(0, 2)], {}))
loss("smooth_l1_loss", lambda: ("default", [*two(), randint(0, 2), choice([1.0, 0.5])], {}))
loss("huber_loss", lambda: ("default", [*two(), randint(0, 2), choice([1.0, 0.5])], {}))
loss("soft_margin_loss", lambda: ("default", [*two(), randint(0, 2)], {}))
loss("binary_cross_entropy", lambda: (lambda a, b: ("default", [a, b, choice([None, b]), randint(0, 2)], {}))(*two(0.05, 0.95)))
loss("binary_cross_entropy_with_logits", lambda: (lambda a, b: ("default", [a, b, choice([None, b]), choice([None, b + 1]), randint(0, 2)], {}))(*two(0.05, 0.95)))
loss("kl_div", lambda: (lambda a, b: ("default", [a.log(), b, randint(0, 2)], {"log_target": maybe()}))(*two(0.05, 0.95)))
loss("hinge_embedding_loss", lambda: (lambda a, b: ("default", [a, b.sign(), 1.0, randint(0, 2)], {}))(*two()))
loss("margin_ranking_loss", lambda: (lambda a, b: ("default", [a, b, (a * 3 - b).sign(), choice([0.0, 0.5]), randint(0, 2)], {}))(*two()))
loss("poisson_nll_loss", lambda: ("default", [*two(0.1, 3), maybe(), False, 1e-8, randint(0, 2)], {}))
loss("cosine_similarity", lambda: (lambda a, b: ("default", [a, b, axis(a.dim()), 1e-8], {}))(*two()))
loss("pairwise_distance", lambda: (lambda a, b: ("default", [a, b, choice([1.0, 2.0, 3.0]), 1e-6, maybe()], {}))(*two()))


@op("cross_entropy_loss", "nll_loss", "nll_loss_nd", "nll_loss_forward", "nll_loss2d")
def _():
    raise AssertionError


def classes(sizes):
    x = tensor([3, 4] + sizes)
    target = torch.randint(0, 4, [3] + sizes)
    return x, target


def draw_nll(sizes):
    def draw():
        own = sizes()
        x, target = classes(own)
        if maybe(0.3):
            target.view(-1)[0] = -100
        return "default", [x, target, choice([None, tensor([4]).abs()]), randint(0, 2), -100], {}

    return draw


OPERATORS["aten::nll_loss"] = draw_nll(lambda: [])
OPERATORS["aten::nll_loss_nd"] = draw_nll(lambda: choice([[], [2], [2, 3]]))
OPERATORS["aten::nll_loss2d"] = draw_nll(lambda: [2, 3])
OPERATORS["aten::nll_loss2d_forward"] = draw_nll(lambda: [2, 3])
OPERATORS["aten::nll_loss_forward"] = draw_nll(lambda: [])


@op("cross_entropy_loss")
def _():
    name, args, _ = draw_nll(lambda: choice([[], [2]]))()
    if maybe(0.3):
        args[1] = torch.softmax(tensor(list(args[0].shape)), 1)
        return name, args + [choice([0.0, 0.2])], {}
    return name, args + ([0.2] if maybe(0.3) else []), {}


# recurrent


def recurrent(gates, states, cell):
    i, h, layers, both = randint(1, 4), randint(1, 4), randint(1, 2), maybe()
    biases, first, single = maybe(), maybe(), maybe(0.2)
    params = []
    for layer in range(layers):
        for _ in range(1 + both):
            params += [tensor([gates * h, i if layer == 0 else h * (1 + both)], F32, -1, 1), tensor([gates * h, h], F32, -1, 1)]
            params += [tensor([gates * h]), tensor([gates * h])] if biases else []
    t, b = randint(1, 4), randint(1, 3)
    x = tensor([t, i] if single else ([b, t, i] if first else [t, b, i]))
    hx = [tensor([layers * (1 + both)] + ([] if single else [b]) + [h]) for _ in range(states)]
    hx = hx if states > 1 else hx[0]
    return "input", [x, hx, params, biases, layers, 0.0, False, both, first and not single], {}




def packed(gates, states):
    """A recurrent network over packed sequences; of batches, as many as the state has."""
    lengths = sorted((randint(1, 5) for _ in range(randint(1, 4))), reverse=True)
    batch = len(lengths)
    _, args, _ = recurrent(gates, states, False)
    x, hx, params, biases, layers, _, _, both, _ = args
    data, sizes = pack_padded(tensor([lengths[0], batch, params[0].shape[1]]), lengths)
    hidden = params[1].shape[1]
    hx = [tensor([layers * (2 if both else 1), batch, hidden]) for _ in range(states)]
    return "data", [data, sizes, hx if states > 1 else hx[0], params, biases, layers, 0.0, False, both], {}


OPERATORS["aten::lstm"] = lambda: packed(4, 2) if maybe(0.4) else recurrent(4, 2, False)
OPERATORS["aten::gru"] = lambda: packed(3, 1) if maybe(0.4) else recurrent(3, 1, False)
OPERATORS["aten::rnn_tanh"] = lambda: packed(1, 1) if maybe(0.4) else recurrent(1, 1, False)
OPERATORS["aten::rnn_relu"] = lambda: packed(1, 1) if maybe(0.4) else recurrent(1, 1, False)


def pack_padded(x, lengths):
    return torch.ops.aten._pack_padded_sequence.default(x, torch.tensor(lengths), False)


@op("_pack_padded_sequence")
def _():
    first = maybe()
    lengths = sorted((randint(1, 5) for _ in range(randint(1, 4))), reverse=True)
    lead = [lengths[0] + randint(0, 2), len(lengths)]
    return "default", [tensor((lead[::-1] if first else lead) + shape(0, 2, False)), torch.tensor(lengths), first], {}


@op("_pad_packed_sequence")
def _():
    lengths = sorted((randint(1, 5) for _ in range(randint(1, 4))), reverse=True)
    data, sizes = pack_padded(tensor([lengths[0], len(lengths)] + shape(0, 2, False)), lengths)
    total = choice([-1, lengths[0], lengths[0] + 2])
    return "default", [data, sizes, maybe(), number("float"), total], {}


@op("stft")
def _():
    n = choice([4, 7, 16, 60, 260, 270])
    length = randint(1, n)
    x = tensor(([randint(1, 3)] if maybe() else []) + [n + randint(0, 40)], choice([F32, torch.float64]))
    window = tensor([length], x.dtype) if maybe(0.7) else None
    args = [x, n, randint(1, n), length, window, maybe(), choice([None, True, False]), False]
    return "default", args, {}


def cell(gates, states):
    i, h, b = randint(1, 4), randint(1, 4), randint(1, 3)
    hx = [tensor([b, h]) for _ in range(states)]
    args = [tensor([b, i]), hx if states > 1 else hx[0], tensor([gates * h, i]), tensor([gates * h, h])]
    return "default", args + ([tensor([gates * h]), tensor([gates * h])] if maybe() else []), {}


OPERATORS["aten::lstm_cell"] = lambda: cell(4, 2)
OPERATORS["aten::gru_cell"] = lambda: cell(3, 1)
OPERATORS["aten::rnn_tanh_cell"] = lambda: cell(1, 1)
OPERATORS["aten::rnn_relu_cell"] = lambda: cell(1, 1)


@op("_unique2")
def _():
    return "default", [tensor(shape(0, 3, False), choice(INTS + [BOOL]), -2, 2), True, maybe(), maybe()], {}


@op("unique_dim")
def _():
    x = tensor(shape(1, 3, False), choice(INTS), 0, 1)
    return "default", [x, axis(x.dim()), True, maybe(), maybe()], {}


@op("_shape_as_tensor")
def _():
    return "default", [tensor(shape(), choice(ALL))], {}


# Fused for inference


def self_attention(width):
    return [tensor([3 * width, width], F32, -1, 1), tensor([3 * width]), tensor([width, width], F32, -1, 1), tensor([width])]


def hiding(batch, length):
    """A mask of queries and keys, or of padding, that hides no row whole; and its kind."""
    if maybe(0.4):
        return []
    if maybe():
        return [torch.rand([length, length]).gt(0.6).logical_and(~torch.eye(length, dtype=BOOL)), 0]
    return [torch.arange(length).expand(batch, length) >= torch.randint(1, length + 1, [batch, 1]), 1]


@op("_native_multi_head_attention")
def _():
    heads, batch, length = randint(1, 3), randint(1, 3), randint(1, 4)
    width = heads * randint(1, 3)
    x = tensor([batch, length, width])
    mask = hiding(batch, length)
    kind = dict(zip(["mask_type"], mask[1:]))
    return "default", [x, x, x, width, heads, *self_attention(width), *mask[:1]], dict(need_weights=False, **kind)


@op("_transformer_encoder_layer_fwd")
def _():
    heads, batch, length = randint(1, 3), randint(1, 3), randint(2, 4)
    width, inner = 2 * heads, randint(1, 5)
    norms = [tensor([width]) for _ in range(4)]
    dense = [tensor([inner, width], F32, -1, 1), tensor([inner]), tensor([width, inner], F32, -1, 1), tensor([width])]
    x = tensor([batch, length, width])
    return "default", [x, width, heads, *self_attention(width), maybe(), maybe(), 1e-5, *norms, *dense, *hiding(batch, length)], {}


@op("_weight_norm", "_weight_norm_interface")
def _():
    v = tensor([randint(1, 4) for _ in range(randint(1, 4))])
    dim = choice([0, v.dim() - 1])
    sizes = [n if i == dim else 1 for i, n in enumerate(v.shape)]
    return "default", [v, tensor(sizes), dim], {}


# torchvision


def boxes(n):
    a = tensor([n, 2], F32, 0, 6)
    return torch.cat([a, a + tensor([n, 2], F32, 0.5, 4)], 1)


@op("torchvision::nms")
def _():
    n = randint(1, 8)
    return "default", [boxes(n), torch.rand(n), choice([0.3, 0.5, 0.1])], {}


@op("torchvision::roi_align")
def _():
    rois = torch.cat([torch.randint(0, 2, [3, 1]).float(), boxes(3)], 1)
    return "default", [tensor([2, 3, 8, 9]), rois, choice([1.0, 0.5]), 2, 3, choice([-1, 2]), maybe()], {}


@op("torchvision::deform_conv2d")
def _():
    use = maybe()
    mask = torch.rand([1, 4, 4, 5]) if use else torch.zeros([1, 1])
    return "default", [tensor([1, 2, 5, 6]), tensor([3, 2, 2, 2]), tensor([1, 8, 4, 5], F32, -1, 1), mask, tensor([3]), 1, 1, 0, 0, 1, 1, 1, 1, use], {}
