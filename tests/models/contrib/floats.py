"""Activations, normalizations, products and moves of floats."""

from core import *
import math


def erf(x):
    return np.vectorize(math.erf)(x.astype(np.float64))


def sigmoid(x):
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def gelu(x):
    return 0.5 * x * (1 + erf(x / np.sqrt(2)))


def gelu_tanh(x):
    x = x.astype(np.float64)
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def softmax(x):
    x = x.astype(np.float64)
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@op("Gelu", 4)
def _(r):
    return Case([r.f(3, r.int(1, 19), scale=2)], batch=(0,))


@op("QuickGelu", 6)
def _(r):
    return Case([r.f(2, r.int(1, 33), scale=3)], r.pick({}, {"alpha": 1.0}, {"alpha": 0.5}), batch=(0,))


@op("FastGelu", 6)
def _(r):
    n = r.int(1, 21)
    return Case([r.f(2, 3, n), r.pick(None, r.f(n))], batch=(0,))


@op("BiasGelu", 4)
def _(r):
    n = r.int(1, 21)
    return Case([r.f(2, 5, n), r.f(n)], batch=(0,))


@op("ScaledSiLU", 10)
def _(r):
    dtype = r.pick(np.float32, np.float16)
    scale = r.pick(None, np.array(0.7, r.pick(np.float32, np.float16)))
    return Case([r.f(2, 17, dtype=dtype), scale], r.pick({}, {"alpha": 1.5}), batch=(0,))


@op("GatedAdd", 6)
def _(r):
    dtype = r.pick(np.float32, np.float16)
    shape = (2, r.int(1, 5), r.int(1, 19))
    return Case([r.f(*shape, dtype=dtype), r.f(*shape, dtype=dtype), r.f(*shape[:-1], 1, dtype=dtype)], batch=(0, 1, 2))


@op("SampleOp", 2)
def _(r):
    return Case([r.f(2, 3)], batch=(0,))


@op("LinearAttentionGate", 8)
def _(r):
    dtype, h = r.pick(np.float32, np.float16), r.int(1, 9)
    b = r.pick(None, r.f(2, 3, h, dtype=dtype))
    return Case([r.f(2, 3, h, dtype=dtype), r.f(h), -r.near(h), b], outputs=1 if b is None else 2, batch=(0, 3))


def skip_shapes(r):
    b, s, h = r.int(1, 3), r.int(1, 5), r.int(1, 40)
    return b, s, h, r.pick((b, s, h), (1, s, h), (s, h))


@op("SkipLayerNormalization", 24)
def _(r):
    dtype = r.pick(np.float32, np.float32, np.float16)
    b, s, h, skip = skip_shapes(r)
    beta, bias = r.pick(None, r.f(h, dtype=dtype)), r.pick(None, r.f(h, dtype=dtype))
    attrs = r.pick({}, {"epsilon": 1e-5}, {"epsilon": 0.01})
    inputs = [r.f(b, s, h, dtype=dtype), r.f(*skip, dtype=dtype), r.near(h, dtype=dtype), beta, bias]
    outputs = r.pick(1, [True, False, False, True])
    return Case(inputs, attrs, outputs, batch=(0, 1) if len(skip) == 3 and skip[0] == b and b > 1 else (0,))


@op("SkipSimplifiedLayerNormalization", 24)
def _(r):
    dtype = r.pick(np.float32, np.float32, np.float16)
    b, s, h, skip = skip_shapes(r)
    attrs = r.pick({}, {"epsilon": 1e-5}, {"epsilon": 0.01})
    inputs = [
        r.f(b, s, h, dtype=dtype),
        r.f(*skip, dtype=dtype),
        r.near(h, dtype=dtype),
        r.pick(None, r.f(h, dtype=dtype)),
    ]
    return Case(inputs, attrs, r.pick(1, [True, False, False, True]), batch=(0,))


@op("SimplifiedLayerNormalization", 16, domain="")
def _(r):
    dtype = r.pick(np.float32, np.float64, np.float16)
    axis = r.pick(-1, 1, 2)
    shape = (2, 3, r.int(1, 30))
    attrs = {"axis": axis, **r.pick({}, {"epsilon": 0.01}), **r.pick({}, {"stash_type": 1})}
    return Case(
        [r.f(*shape, dtype=dtype), r.near(*shape[axis:], dtype=dtype)], attrs, r.pick(1, 2), batch=(0,), domain=""
    )


@op("EmbedLayerNormalization", 20)
def _(r):
    b, s, h, words = r.int(1, 3), r.int(1, 7), r.int(1, 24), 30
    segments = r.flip()
    mask = r.pick(None, r.ints(0, 2, b, s, dtype=np.int32))
    positions = r.pick(None, r.ints(0, 12, b, s, dtype=np.int32), r.ints(0, 12, 1, s, dtype=np.int32))
    inputs = [
        r.ints(0, words, b, s, dtype=np.int32),
        r.ints(0, 2, b, s, dtype=np.int32) if segments else None,
        Const(r.f(words, h)),
        Const(r.f(12, h)),
        Const(r.f(2, h)) if segments else None,
        Const(r.near(h)),
        Const(r.f(h)),
        mask,
        positions,
    ]
    attrs = {**r.pick({}, {"epsilon": 1e-3}), **r.pick({}, {"mask_index_type": 1})}
    outputs = r.pick(2, 3)
    return Case(inputs, attrs, outputs)


@op("BranchwiseRMSNorm", 16)
def _(r):
    dtype, kind = r.pick(np.float32, np.float16), r.pick(np.float32, np.float16)
    c, h, flat = r.int(1, 4), r.int(2, 17), r.flip()
    scale = r.pick(None, r.near(c * h, dtype=kind), r.near(c, h, dtype=kind), r.near(h, dtype=kind))
    shape = (2, 3, c * h) if flat else (2, 3, c, h)
    attrs = {**({"num_branches": c} if flat else {}), **r.pick({}, {"epsilon": 0.01})}
    return Case([r.f(*shape, dtype=dtype), scale], attrs, batch=(0,))


@op("GatedRMSNorm", 12)
def _(r):
    dtype, h, c = r.pick(np.float32, np.float16), r.int(1, 4), r.int(1, 17)
    attrs = {**r.pick({}, {"activation": "swish"}, {"activation": "sigmoid"}), **r.pick({}, {"epsilon": 0.01})}
    x = [r.f(2, 3, h * c, dtype=dtype), r.near(c, dtype=dtype), r.f(2, 3, h * c, dtype=dtype)]
    return Case(x, attrs, batch=(0, 2))


@op("EngramGate", 8)
def _(r):
    dtype, m, h = r.pick(np.float32, np.float16), r.int(1, 4), r.int(2, 17)
    normed = r.flip()
    inputs = [
        r.f(2, 3, m, h, dtype=dtype),
        r.f(2, 3, m, h, dtype=dtype),
        r.f(2, 3, h, dtype=dtype),
        r.near(m, h, dtype=dtype),
        r.near(m, h, dtype=dtype),
        r.near(m, h, dtype=dtype) if normed else None,
    ]
    return Case(inputs, r.pick({}, {"epsilon": 0.01}), 2 if normed else 1, batch=(0, 1, 2))


@op("HyperConnectionPreMix", 12)
def _(r):
    dtype, kind = r.pick(np.float32, np.float16), r.pick(np.float32, np.float16)
    c, h, flat = r.int(2, 4), r.int(5, 17), r.flip()
    mix = [(2, 3, c), (2, 3, c, 1), (2, 3, c, h)] + ([(2, 3, c * h)] if flat else [])
    attrs = {**({"num_branches": c} if flat else {}), **r.pick({}, {"reduction_scale": 0.5})}
    x = r.f(2, 3, c * h, dtype=dtype) if flat else r.f(2, 3, c, h, dtype=dtype)
    return Case([x, r.f(*r.pick(*mix), dtype=kind)], attrs, batch=(0, 1))


@op("HyperConnectionPostMix", 12)
def _(r):
    dtype, kind = r.pick(np.float32, np.float16), r.pick(np.float32, np.float16)
    c, h, flat = r.int(2, 4), r.int(5, 17), r.flip()
    x = r.f(2, 3, c * h, dtype=dtype) if flat else r.f(2, 3, c, h, dtype=dtype)
    post = r.f(*r.pick((2, 3, c), (2, 3, c, 1), (2, 3, c, h)), dtype=kind)
    mix = r.pick(None, r.f(2, 3, c, c, dtype=kind))
    return Case([x, r.f(2, 3, h, dtype=dtype), post, mix], {"num_branches": c} if flat else {}, batch=(0, 1, 2, 3))


def matrices(r, dtype=np.float32):
    """Operands and attributes of FusedMatMul."""
    m, k, n = r.int(1, 9), r.int(1, 17), r.int(1, 9)
    ta, tb = r.flip(), r.flip()
    batch = r.pick((), (2,), (3, 2))
    a, b = batch + ((k, m) if ta else (m, k)), batch + ((n, k) if tb else (k, n))
    attrs = {"transA": int(ta), "transB": int(tb), **r.pick({}, {"alpha": 0.5}, {"alpha": -2.0})}
    if not batch and r.flip():
        a = r.pick((2,), (3, 2)) + a
    return r.f(*a, dtype=dtype), r.f(*b, dtype=dtype), attrs


@op("FusedMatMul", 32)
def _(r):
    a, b, attrs = matrices(r, r.pick(np.float32, np.float32, np.float64))
    if a.ndim == b.ndim and a.ndim > 2:
        # The first axis moved in front of the matrix's last one.
        if r.flip():
            attrs["transBatchA"] = 1
            a = np.ascontiguousarray(np.moveaxis(a, -2, 0))
        if r.flip():
            attrs["transBatchB"] = 1
            b = np.ascontiguousarray(np.moveaxis(b, -2, 0))
    plain = "transBatchA" not in attrs and "transBatchB" not in attrs and a.ndim > 2
    return Case([a, b], attrs, batch=((0, 1) if b.ndim == a.ndim else (0,)) if plain else ())


@op("TransposeMatMul", 12)
def _(r):
    a, b, attrs = matrices(r)
    return Case([a, b], attrs)


ACTIVATIONS = [
    ("Relu", {}),
    ("Sigmoid", {}),
    ("Tanh", {}),
    ("LeakyRelu", {"activation_alpha": 0.2}),
    ("HardSigmoid", {"activation_alpha": 0.3, "activation_beta": 0.4}),
    ("Elu", {"activation_alpha": 0.7}),
    ("Selu", {"activation_alpha": 1.6, "activation_gamma": 1.1}),
    ("Softplus", {}),
    ("Softsign", {}),
    ("ThresholdedRelu", {"activation_alpha": 0.5}),
]


@op("FusedGemm", 32)
def _(r):
    m, k, n = r.int(1, 9), r.int(1, 17), r.int(1, 9)
    ta, tb = r.flip(), r.flip()
    c = r.pick(None, r.f(n), r.f(m, 1), r.f(1, n), r.f(m, n), r.f(1))
    name, parameters = r.pick(*ACTIVATIONS)
    attrs = {
        "transA": int(ta),
        "transB": int(tb),
        **r.pick({}, {"alpha": 0.5}),
        **r.pick({}, {"beta": -0.5}),
        "activation": name,
        **parameters,
    }
    return Case(
        [r.f(*((k, m) if ta else (m, k))), r.f(*((n, k) if tb else (k, n))), c],
        attrs,
        batch=() if ta else (0,) if c is None or c.shape[0] != m else (),
    )


@op("CDist", 6)
def _(r):
    dtype, n = r.pick(np.float32, np.float64), r.int(1, 9)
    return Case(
        [r.f(r.int(1, 5), n, dtype=dtype), r.f(r.int(1, 7), n, dtype=dtype)],
        {"metric": r.pick("sqeuclidean", "euclidean")},
        rtol=1e-4,
        atol=1e-4,
    )


@op("ExpandDims", 6)
def _(r):
    dtype = r.pick(np.float32, np.int64, np.uint8, np.float16)
    return Case([r.ints(0, 99, 2, 3, dtype=dtype), Const(np.array(r.pick(0, 1, 2, -1, -2), np.int32))])


@op("GatherND", 8)
def _(r):
    depth = r.int(1, 3)
    indices = np.stack([r.ints(0, n, 2, 3, dtype=r.pick(np.int64)) for n in (3, 4, 5)[:depth]], -1)
    return Case(
        [
            r.ints(0, 99, 3, 4, 5, dtype=r.pick(np.float32, np.int64, np.uint8)),
            indices.astype(r.pick(np.int32, np.int64)),
        ]
    )


@op("GridSample", 24)
def _(r):
    mode = r.pick("bilinear", "nearest", "bicubic")
    paddings = ("zeros", "reflection") if mode == "bicubic" else ("zeros", "border", "reflection")
    attrs = {"mode": mode, "padding_mode": r.pick(*paddings), "align_corners": r.pick(0, 1)}
    x = r.f(2, 3, r.int(2, 7), r.int(2, 7))
    return Case([x, (r.f(2, 3, 4, 2) * 0.7)], attrs, batch=(0, 1))


@op("Pad", 16)
def _(r):
    mode = r.pick("constant", "reflect", "edge")
    pads = r.ints(0, 3, 4) if mode == "reflect" else r.ints(-1 if mode == "constant" else 0, 4, 4)
    value = r.pick(None, np.array(2.5, np.float32), np.array([1.5], np.float32)) if mode == "constant" else None
    return Case(
        [r.f(3, 5), Const(r.pick(pads, pads.reshape(1, 4))), value if value is None else Const(value)],
        {"mode": mode} if r.flip() or mode != "constant" else {},
    )


@op("Range", 10)
def _(r):
    dtype = r.pick(np.int32, np.int64, np.float32, np.float64, np.int16)
    start, step = r.int(-5, 5), r.pick(None, 1, 2, -1)
    limit = start + r.int(0, 9) * (step or 1)
    one = r.pick((), (1,))
    make = lambda v: None if v is None else np.full(one, v, dtype)
    return Case([make(start), make(limit), make(step)])


@op("Trilu", 12)
def _(r):
    k = r.pick(None, np.array(r.int(-2, 2), np.int64))
    return Case(
        [r.ints(1, 99, 2, 4, 5, dtype=r.pick(np.float32, np.float64, np.int64)), k],
        r.pick({}, {"upper": 0}),
        batch=(0,),
    )


@op("UnfoldTensor", 12)
def _(r):
    dim = r.pick(-1, 0, 1, -2)
    attrs = {"size": r.int(1, 4), **r.pick({}, {"step": 2}, {"step": 3}), **({} if dim == -1 else {"dim": dim})}
    return Case([r.ints(0, 99, 5, 7, 6, dtype=r.pick(np.float32, np.int32, np.int64))], attrs)


@op("Unique", 6)
def _(r):
    return Case([r.ints(0, 6, r.int(1, 20), dtype=np.float32)], outputs=3)


@op("NGramRepeatBlock", 10)
def _(r):
    n = r.int(1, 4)
    return Case([r.ints(0, 4, 3, r.int(4, 20)), r.f(3, 9)], {"ngram_size": n}, batch=(0, 1))


@op("MurmurHash3", 24)
def _(r):
    dtype = r.pick(np.int32, np.uint32, np.int64, np.uint64, np.float32, np.float64)
    x = r.f(3, 4, dtype=dtype) if np.dtype(dtype).kind == "f" else r.q(dtype, 3, 4)
    return Case([x], {**r.pick({}, {"positive": 0}), **r.pick({}, {"seed": 42})})


# Operators without a CPU kernel: the documentation, stated in NumPy.

NUMPY = {"oracle": "numpy"}


@op("BiasAdd", 4, **NUMPY)
def _(r):
    x, bias, skip = r.f(2, 3, 5), r.f(5), r.f(2, 3, 5)
    return Case([x, bias, skip], batch=(0, 2), answer=[x + bias + skip])


@op("BiasSplitGelu", 4, **NUMPY)
def _(r):
    n = r.int(1, 17)
    x, bias = r.f(2, 3, 2 * n), r.f(2 * n)
    left, right = np.split(x + bias, 2, -1)
    return Case([x, bias], batch=(0,), answer=[(left * gelu(right)).astype(np.float32)])


@op("BiasSoftmax", 10, **NUMPY)
def _(r):
    axis, inner = r.pick(1, 2, 3), r.pick(0, 1)
    x = r.f(2, 3, 4, 5)
    cut = r.int(0, axis)
    bias = r.f(*x.shape[:cut], *([1] * (axis - cut)), *x.shape[axis:]) if inner else r.f(*([1] * cut), *x.shape[cut:])
    rows = softmax((x + bias).reshape(*x.shape[:axis], -1)).reshape(x.shape)
    return Case([x, bias], {"axis": axis, "is_inner_broadcast": inner}, answer=[rows.astype(np.float32)])


@op("BiasDropout", 6, **NUMPY)
def _(r):
    x, bias, residual = r.f(2, 3, 5), r.f(5), r.pick(None, r.f(2, 3, 5))
    y = x + bias + (0 if residual is None else residual)
    return Case([x, bias, residual], r.pick({}, {"seed": 3}), 2, answer=[y, np.ones(x.shape, bool)])


@op("IsAllFinite", 8, **NUMPY)
def _(r):
    x, y = r.f(2, 3), r.f(4)
    x[0, 0] = r.pick(0, np.inf, np.nan)
    attrs = r.pick({}, {"isinf_only": 1}, {"isnan_only": 1})
    bad = lambda v: np.isinf(v).any() * ("isnan_only" not in attrs) + np.isnan(v).any() * ("isinf_only" not in attrs)
    return Case([x, y], attrs, answer=[np.array(not (bad(x) or bad(y)))])


def group_norm(x, gamma, beta, groups, epsilon, last, silu):
    x = np.moveaxis(x, -1, 1) if last else x
    grouped = x.astype(np.float64).reshape(x.shape[0], groups, -1)
    y = (grouped - grouped.mean(-1, keepdims=True)) / np.sqrt(grouped.var(-1, keepdims=True) + epsilon)
    y = y.reshape(x.shape) * gamma.reshape(-1, 1, 1) + beta.reshape(-1, 1, 1)
    y = y * sigmoid(y) if silu else y
    return (np.moveaxis(y, 1, -1) if last else y).astype(np.float32)


@op("GroupNorm", 8, **NUMPY)
def _(r):
    groups, last, silu, epsilon = r.pick(1, 2, 3), r.flip(), r.pick(0, 1), r.pick(1e-5, 0.01)
    x = r.f(2, 3, 4, 6) if last else r.f(2, 6, 3, 4)
    gamma, beta = r.near(6), r.f(6)
    attrs = {"groups": groups, "activation": silu, "channels_last": int(last), "epsilon": epsilon}
    return Case([x, gamma, beta], attrs, batch=(0,), answer=[group_norm(x, gamma, beta, groups, epsilon, last, silu)])


@op("SkipGroupNorm", 12, **NUMPY)
def _(r):
    groups, silu, epsilon = r.pick(1, 2, 3), r.pick(0, 1), r.pick(1e-5, 0.01)
    x, gamma, beta = r.f(2, 3, 4, 6), r.near(6), r.f(6)
    skip = r.pick(r.f(2, 3, 4, 6), r.f(2, 1, 1, 6), r.f(2, 6))
    bias = r.pick(None, r.f(6))
    s = x + (skip.reshape(2, 1, 1, 6) if skip.ndim == 2 else skip) + (0 if bias is None else bias)
    attrs = {"groups": groups, "activation": silu, "epsilon": epsilon}
    answer = [group_norm(s, gamma, beta, groups, epsilon, True, silu), s]
    if r.flip():
        attrs["channels_last"] = 0
        first = lambda v: np.ascontiguousarray(np.moveaxis(v, -1, 1)) if v.ndim == 4 else v
        x, skip, answer = first(x), first(skip), [first(y) for y in answer]
    return Case([x, gamma, beta, skip, bias], attrs, 2, answer=answer)


@op("GemmFastGelu", 6, **NUMPY)
def _(r):
    k, n = r.int(1, 17), r.int(1, 9)
    x, w, bias = r.f(2, 3, k), r.f(k, n), r.pick(None, r.f(n))
    return Case([x, w, bias], batch=(0,), answer=[gelu_tanh(x @ w + (0 if bias is None else bias)).astype(np.float32)])


@op("FusedMatMulActivation", 12, **NUMPY)
def _(r):
    a, b, attrs = matrices(r)
    left, right = a, b
    if a.ndim == b.ndim and a.ndim > 2 and r.flip():
        attrs |= {"transBatchA": 1, "transBatchB": 1}
        a, b = (np.ascontiguousarray(np.moveaxis(v, -2, 0)) for v in (a, b))
    y = (
        attrs.get("alpha", 1.0)
        * (np.swapaxes(left, -1, -2) if attrs["transA"] else left)
        @ (np.swapaxes(right, -1, -2) if attrs["transB"] else right)
    )
    name, parameters, function = r.pick(
        ("Relu", {}, lambda v: np.maximum(v, 0)),
        ("Tanh", {}, np.tanh),
        ("Sigmoid", {}, sigmoid),
        ("LeakyRelu", {"activation_alpha": 0.2}, lambda v: np.where(v < 0, 0.2 * v, v)),
        ("HardSigmoid", {"activation_alpha": 0.3, "activation_beta": 0.4}, lambda v: np.clip(0.3 * v + 0.4, 0, 1)),
    )
    return Case([a, b], {**attrs, "activation": name, **parameters}, answer=[function(y).astype(np.float32)])


@op("ComplexMul", 2, **NUMPY)
def _(r):
    a, b = r.f(2, 3, 2), r.f(2, 3, 2)
    y = (a[..., 0] + 1j * a[..., 1]) * (b[..., 0] + 1j * b[..., 1])
    return Case([a, b], answer=[np.stack([y.real, y.imag], -1).astype(np.float32)])


@op("ComplexMulConj", 2, **NUMPY)
def _(r):
    a, b = r.f(2, 3, 2), r.f(2, 3, 2)
    y = (a[..., 0] + 1j * a[..., 1]) * (b[..., 0] - 1j * b[..., 1])
    return Case([a, b], answer=[np.stack([y.real, y.imag], -1).astype(np.float32)])


@op("Rfft", 4, **NUMPY)
def _(r):
    x = r.f(2, 2 * r.int(1, 9))
    y = np.fft.rfft(x.astype(np.float64))
    return Case(
        [x],
        {"normalized": 0, "onesided": 1, "signal_ndim": 1},
        answer=[np.stack([y.real, y.imag], -1).astype(np.float32)],
    )


@op("Irfft", 4, **NUMPY)
def _(r):
    x = r.f(2, 2 * r.int(1, 9))
    y = np.fft.rfft(x.astype(np.float64))
    return Case(
        [np.stack([y.real, y.imag], -1).astype(np.float32)],
        {"normalized": 0, "onesided": 1, "signal_ndim": 1},
        answer=[x],
    )


@op("TorchEmbedding", 3, **NUMPY)
def _(r):
    w, i = r.f(9, 4), r.ints(0, 9, 2, 3)
    return Case([w, i], answer=[w[i]])


@op("RestorePadding", 4, **NUMPY)
def _(r):
    s, h = 5, r.int(1, 7)
    lengths = [r.int(1, s), r.int(1, s)]
    real = [b * s + i for b in range(2) for i in range(s) if i < lengths[b]]
    rest = [i for i in range(2 * s) if i not in real]
    x, y = r.f(len(real), h), np.zeros((2 * s, h), np.float32)
    y[real] = x
    return Case([x, np.array(real + rest, np.int32).reshape(2, s)], answer=[y.reshape(2, s, h)])


@op("GemmaRotaryEmbedding", 4, **NUMPY)
def _(r):
    d, kind = r.int(1, 8), r.pick(np.float32, np.float16)
    emb, states = r.f(2, 3, d), [r.f(2, 4, 3, d, dtype=kind) for _ in range(4)]
    cos, sin = (f(emb).astype(kind)[:, None] for f in (np.cos, np.sin))
    q, q_rot, k, k_rot = states
    return Case([emb, *states], outputs=2, batch=(0, 1, 2, 3, 4), answer=[q * cos + q_rot * sin, k * cos + k_rot * sin])
