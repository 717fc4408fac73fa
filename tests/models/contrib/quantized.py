"""Quantized operators."""

from core import *


def operand(r, dtype, *shape, optional=True):
    """A tensor with its scale and zero point, which may be left out."""
    return [r.q(dtype, *shape), r.scale(), None if optional and r.flip() else r.zero(dtype)]


def broadcast(r):
    return r.pick(((2, 3, 5), (2, 3, 5)), ((2, 3, 5), (5,)), ((2, 3, 5), (3, 1)), ((1, 7), (4, 1)), ((3, 33), (1,)))


@op("QLinearAdd", 24)
def _(r):
    dtype, (a, b) = r.pick(np.uint8, np.int8), broadcast(r)
    return Case(
        operand(r, dtype, *a, optional=False)
        + operand(r, dtype, *b, optional=False)
        + [r.scale(0.02, 0.2), r.zero(dtype)]
    )


@op("QLinearMul", 24)
def _(r):
    dtype, (a, b) = r.pick(np.uint8, np.int8), broadcast(r)
    return Case(
        operand(r, dtype, *a, optional=False)
        + operand(r, dtype, *b, optional=False)
        + [r.scale(0.05, 0.5), r.zero(dtype)]
    )


@op("QLinearSigmoid", 12)
def _(r):
    dtype = r.pick(np.uint8, np.int8)
    return Case(operand(r, dtype, 3, r.int(1, 40)) + [np.float32(1 / 256), r.zero(dtype)], batch=(0,))


@op("QLinearLeakyRelu", 12)
def _(r):
    dtype = r.pick(np.uint8, np.int8)
    return Case(operand(r, dtype, 3, r.int(1, 40)) + [r.scale(), r.zero(dtype)], r.pick({}, {"alpha": 0.1}), batch=(0,))


@op("QLinearSoftmax", 24)
def _(r):
    dtype, opset = r.pick(np.uint8, np.int8), r.pick(11, 13)
    attrs = {"opset": opset, **r.pick({}, {"axis": 1}, {"axis": -1}, {"axis": 2})}
    zero = np.array(0 if dtype == np.uint8 else -128, dtype)
    # onnxruntime does not saturate the 256 that a line of one u8 element gives.
    return Case([*operand(r, dtype, 2, 3, r.int(2, 20)), np.float32(1 / 256), zero], attrs, batch=(0,))


@op("QLinearConcat", 16)
def _(r):
    dtype, axis = r.pick(np.uint8, np.int8), r.pick(0, 1, -1)
    parts = []
    for _ in range(r.int(1, 3)):
        shape = [2, 3, 4]
        shape[axis] = r.int(1, 5)
        value, scale, zero = operand(r, dtype, *shape, optional=False)
        parts += [value, Const(scale), Const(zero)] if r.flip() else [value, scale, zero]
    return Case([r.scale(), r.zero(dtype), *parts], {"axis": axis})


@op("QLinearWhere", 12)
def _(r):
    dtype = r.pick(np.uint8, np.int8)
    shape = r.pick((2, 3), (3,), (2, 1))
    condition = r.ints(0, 2, *r.pick((2, 3), (3,))).astype(bool)
    inputs = [
        condition,
        *operand(r, dtype, 2, 3, optional=False),
        *operand(r, dtype, *shape, optional=False),
        r.scale(),
        r.zero(dtype),
    ]
    return Case([v if i in (0, 1, 4) else Const(v) for i, v in enumerate(inputs)])


def windows(r, spatial, kernel=None):
    """Attributes of windows over `spatial` axes."""
    kernel = kernel or [r.int(1, 3) for _ in range(spatial)]
    attrs = {"kernel_shape": kernel, "strides": [r.int(1, 2) for _ in range(spatial)]}
    auto = r.pick("NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")
    if auto == "NOTSET":
        attrs["pads"] = [r.int(0, k - 1) for k in kernel * 2]
    else:
        attrs["auto_pad"] = auto
    return attrs


@op("QLinearAveragePool", 32)
def _(r):
    dtype, last = r.pick(np.uint8, np.int8), r.flip()
    attrs = {
        **windows(r, 2),
        "channels_last": int(last),
        "count_include_pad": r.pick(0, 1),
        "ceil_mode": r.pick(0, 0, 1),
    }
    shape = (2, 7, 9, 3) if last else (2, 3, 7, 9)
    return Case([*operand(r, dtype, *shape, optional=False), r.scale(), r.zero(dtype)], attrs, batch=(0,))


@op("QLinearGlobalAveragePool", 16)
def _(r):
    dtype, last = r.pick(np.uint8, np.int8), r.flip()
    shape = (2, 5, 7, 6) if last else (2, 6, 5, 7)
    return Case(
        [*operand(r, dtype, *shape, optional=False), r.scale(), r.zero(dtype)],
        {"channels_last": int(last)} if last or r.flip() else {},
        batch=(0,),
    )


@op("QLinearConv", 40)
def _(r):
    x_kind, w_kind = r.pick((np.uint8, np.uint8), (np.uint8, np.int8), (np.int8, np.int8))
    last, groups = r.flip(), r.pick(1, 1, 2)
    kernel = [r.int(1, 3), r.int(1, 3)]
    attrs = {
        **windows(r, 2, kernel),
        "group": groups,
        "channels_last": int(last),
        "dilations": r.pick([1, 1], [2, 1]) if r.flip() else [1, 1],
    }
    if "auto_pad" in attrs and attrs["auto_pad"] != "VALID":
        attrs["dilations"] = [1, 1]
    if r.flip():
        del attrs["kernel_shape"]
    channels, filters = 2 * groups, 4
    shape = (2, 8, 9, channels) if last else (2, channels, 8, 9)
    columns = r.flip()
    w_scale = (r.near(filters) * 0.02).astype(np.float32) if columns else r.scale()
    w_zero = r.zero(w_kind) if not columns else np.full(filters, 0 if w_kind == np.int8 else 128, w_kind)
    bias = r.pick(None, r.ints(-999, 999, filters, dtype=np.int32))
    inputs = [
        r.q(x_kind, *shape),
        r.scale(),
        r.zero(x_kind),
        r.q(w_kind, filters, 2, *kernel),
        w_scale,
        w_zero,
        r.scale(0.2, 1.0),
        r.zero(x_kind),
        bias,
    ]
    return Case([v if i == 0 or v is None else Const(v) for i, v in enumerate(inputs)], attrs, batch=(0,))


@op("NhwcMaxPool", 24)
def _(r):
    attrs = {**windows(r, 2), "ceil_mode": r.pick(0, 1)}
    if "auto_pad" not in attrs:
        attrs["dilations"] = r.pick([1, 1], [2, 2])
    return Case([r.q(r.pick(np.uint8, np.int8), 2, 9, 8, 5)], attrs, batch=(0,))


def factors(r):
    """Operands of an integer product; the second with one column a scale or one scale."""
    kinds = r.pick((np.uint8, np.uint8), (np.uint8, np.int8), (np.int8, np.int8))
    m, k, n = r.int(1, 9), r.int(1, 33), r.int(1, 17)
    return kinds, m, k, n


@op("MatMulInteger16", 4)
def _(r):
    return Case([r.ints(-999, 999, 2, 3, 7, dtype=np.int16), r.ints(-999, 999, 7, 4, dtype=np.int16)], batch=(0,))


@op("MatMulIntegerToFloat", 24)
def _(r):
    (ka, kb), m, k, n = factors(r)
    columns = r.flip()
    b_scale = (r.near(n) * 0.05).astype(np.float32) if columns else r.scale()
    b_zero = r.pick(None, r.ints(-9, 9, n).astype(kb) if columns and kb == np.int8 else r.zero(kb))
    a_zero = r.pick(None, r.zero(ka))
    shape = r.pick((m, k), (2, m, k))
    inputs = [r.q(ka, *shape), r.q(kb, k, n), r.scale(), b_scale, a_zero, b_zero, r.pick(None, r.f(n))]
    return Case(inputs, batch=(0,))


@op("DynamicQuantizeMatMul", 24)
def _(r):
    kb, (_, m, k, n) = r.pick(np.uint8, np.int8), factors(r)
    columns = r.flip()
    b_scale = (r.near(n) * 0.05).astype(np.float32) if columns else r.scale()
    b_zero = r.pick(None, r.ints(-9, 9, n).astype(kb) if columns and kb == np.int8 else r.zero(kb))
    inputs = [
        r.f(*r.pick((m, k), (2, m, k))),
        Const(r.q(kb, k, n)),
        Const(b_scale),
        b_zero if b_zero is None else Const(b_zero),
        r.pick(None, r.f(n)),
    ]
    return Case(inputs, batch=(0,))


@op("QGemm", 40)
def _(r):
    (ka, kb), m, k, n = factors(r)
    ta, tb, columns, quantized = r.flip(), r.flip(), r.flip(), r.flip()
    b_scale = (r.near(n) * 0.05).astype(np.float32) if columns else r.scale()
    b_zero = (r.ints(100, 130, n) if kb == np.uint8 else r.ints(-9, 9, n)).astype(kb) if columns else r.zero(kb)
    c = r.pick(
        None,
        r.ints(-99, 99, n, dtype=np.int32),
        r.ints(-99, 99, m, n, dtype=np.int32),
        r.ints(-99, 99, 1, dtype=np.int32),
    )
    inputs = [
        r.q(ka, *((k, m) if ta else (m, k))),
        r.scale(),
        r.zero(ka),
        r.q(kb, *((n, k) if tb else (k, n))),
        b_scale,
        b_zero,
        c,
    ]
    inputs += [r.scale(0.5, 2.0), r.zero(ka)] if quantized else []
    attrs = {"transA": int(ta), "transB": int(tb), **r.pick({}, {"alpha": 0.5})}
    return Case(inputs, attrs)


def grain(r, shape, axis):
    return (shape[axis],) if axis is not None else ()


@op("QuantizeLinear", 32)
def _(r):
    kind, axis = r.pick(np.uint8, np.int8, np.uint16, np.int16, None), r.pick(None, 0, 1, -1)
    shape = (3, 5, 4)
    size = grain(r, shape, axis)
    info = np.iinfo(kind or np.uint8)
    scale = (np.abs(r.near(*size)) + 0.1).astype(np.float32) * (0.001 if info.bits == 16 else 0.05)
    zero = None if kind is None else r.ints(info.min // 2, info.max // 2, *size, dtype=kind)
    return Case(
        [r.f(*shape, scale=3), np.float32(scale), zero],
        {} if axis is None else {"axis": axis},
        batch=(0,) if axis in (1, -1) else (),
    )


@op("DequantizeLinear", 40)
def _(r):
    kind, axis = r.pick(np.uint8, np.int8, np.uint16, np.int16, np.int32, "u4", "i4"), r.pick(None, 0, 1, -1)
    shape = (3, 5, 4)
    size = grain(r, shape, axis)
    scale = np.float32(np.abs(r.near(*size)) + 0.1)
    if isinstance(kind, str):
        kind, low, high = (TensorProto.UINT4, 0, 16) if kind == "u4" else (TensorProto.INT4, -8, 8)
        x = Const(small_ints(r.ints(low, high, *shape), kind))
        zero = r.pick(None, Const(small_ints(r.ints(low, high, *size), kind)))
    else:
        x = r.ints(-999, 999, *shape, dtype=kind) if kind == np.int32 else r.q(kind, *shape)
        zero = None if kind == np.int32 or r.flip() else r.ints(0, 9, *size, dtype=kind)
    return Case([x, scale, zero], {} if axis is None else {"axis": axis})


@op("QEmbedLayerNormalization", 10)
def _(r):
    b, s, h, words = 2, r.int(1, 7), r.int(2, 24), 30
    kind, segments, mask = r.pick(np.uint8, np.int8), r.flip(), r.flip()
    tables = [r.q(kind, words, h), r.q(kind, 12, h), r.q(kind, 2, h) if segments else None, r.q(kind, h), r.q(kind, h)]
    constant = lambda v: None if v is None else Const(v)
    scales = [None if t is None else Const(r.scale()) for t in tables]
    zeros = [None if t is None else Const(r.zero(kind)) for t in tables]
    inputs = [
        r.ints(0, words, b, s, dtype=np.int32),
        r.ints(0, 2, b, s, dtype=np.int32) if segments else None,
        *map(constant, tables),
        r.ints(0, 2, b, s, dtype=np.int32) if mask else None,
        *scales,
        *zeros,
    ]
    return Case(inputs, r.pick({}, {"epsilon": 1e-3}), 2)


@op("DynamicQuantizeLSTM", 24)
def _(r):
    t, b, i, h = r.int(1, 5), r.int(1, 3), r.int(1, 9), r.int(1, 8)
    direction = r.pick("forward", "reverse", "bidirectional")
    dirs, kind, columns = 2 if direction == "bidirectional" else 1, r.pick(np.uint8, np.int8), r.flip()
    zero = np.array(0 if kind == np.int8 else 128, kind)
    shape = (dirs, 4 * h) if columns else (dirs,)
    scale = lambda: Const((np.abs(r.near(*shape)) * 0.005 + 0.002).astype(np.float32))
    zeros = lambda: Const(np.full(shape, zero))
    # All of one length: the ranges that states are quantized by include what a kernel leaves in shorter samples.
    lengths = r.pick(None, np.full(b, r.int(1, t), np.int32))
    states = [r.f(dirs, b, h), r.f(dirs, b, h)] if r.flip() else [None, None]
    attrs = {"hidden_size": h, "direction": direction, **r.pick({}, {"clip": 0.5}), **r.pick({}, {"input_forget": 1})}
    if r.flip():
        names, alphas, betas = r.pick(
            (["HardSigmoid", "Tanh", "Tanh"], [0.3], [0.4]), (["Sigmoid", "LeakyRelu", "Softsign"], [0.1], [])
        )
        attrs |= {
            "activations": names * dirs,
            "activation_alpha": alphas * dirs,
            **({"activation_beta": betas * dirs} if betas else {}),
        }
    inputs = [
        r.f(t, b, i),
        Const(r.q(kind, dirs, i, 4 * h)),
        Const(r.q(kind, dirs, h, 4 * h)),
        r.pick(None, Const(r.f(dirs, 8 * h))),
        lengths,
        *states,
        r.pick(None, Const(r.f(dirs, 3 * h))),
        scale(),
        zeros(),
        scale(),
        zeros(),
    ]
    return Case(inputs, attrs, 3)


@op("MatMulNBits", 40)
def _(r):
    bits, block = r.pick(4, 4, 8, 2), r.pick(16, 32, 64)
    dtype = r.pick(np.float32, np.float32, np.float16)
    k, n = r.int(1, 3) * block - (r.int(1, block // 2 - 1) if r.flip() else 0), r.int(1, 9)
    blocks = -(-k // block)
    q = r.ints(0, 1 << bits, n, blocks, block)
    zeros = r.ints(0, 1 << bits, n, blocks)
    kind = r.pick("none", "packed", "real") if bits < 8 else r.pick("none", "packed")
    zero = {"none": None, "packed": packed(zeros, bits), "real": zeros.astype(dtype)}[kind]
    scales = (np.abs(r.near(n, blocks)) * 0.1 + 0.02).astype(dtype)
    attrs = {"K": k, "N": n, "bits": bits, "block_size": block, **r.pick({}, {"accuracy_level": 1})}
    inputs = [
        r.f(*r.pick((3, k), (2, 3, k)), dtype=dtype),
        Const(packed(q, bits)),
        Const(scales),
        None if zero is None else Const(zero),
        None,
        r.pick(None, Const(r.f(n, dtype=dtype))),
    ]
    return Case(inputs, attrs, batch=(0,))


@op("MatMulBnb4", 16)
def _(r):
    block, k, n = r.pick(16, 32, 64), r.int(1, 4) * 16, r.int(1, 9)
    count = n * k
    back = r.flip()
    attrs = {
        "K": k,
        "N": n,
        "block_size": block,
        "quant_type": r.pick(0, 1),
        **r.pick({}, {"training_mode": 1}),
        **({"transB": 0} if back else {}),
    }
    case = Case(
        [
            r.f(3, n if back else k),
            Const(r.q(np.uint8, -(-count // 2))),
            Const(np.abs(r.near(-(-count // block))).astype(np.float32)),
        ],
        attrs,
        batch=(0,),
    )
    if back:
        # The kernel of onnxruntime is for the other form alone, which gives the weight here.
        ahead = {key: value for key, value in attrs.items() if key != "transB"}
        (w,) = equivalent("MatMulBnb4", Case([np.eye(k, dtype=np.float32), *case.inputs[1:]], ahead))
        case.answer = [case.inputs[0] @ np.ascontiguousarray(w.T)]
    return case


@op("GatherBlockQuantized", 48)
def _(r):
    stored, block, dtype = r.pick("u8", "u8", "u4", "i4"), r.pick(16, 32), r.pick(np.float32, np.float16)
    rows, width = r.int(3, 6), block * r.int(1, 3)
    indices = r.ints(-rows, rows, *r.pick((4,), (2, 3)), dtype=r.pick(np.int32, np.int64))
    attrs = {"block_size": block}
    if stored == "u8":
        bits = r.pick(2, 4, 8)
        shape, axis = (rows, width), 1
        attrs |= {"bits": bits, "gather_axis": 0, "quantize_axis": r.pick(1, -1)}
        data = Const(packed(r.ints(0, 1 << bits, *shape), bits))
        zero = r.pick(None, Const(packed(r.ints(0, 1 << bits, rows, width // block), bits)))
        scales = (rows, width // block)
    else:
        kind, low, high = (TensorProto.UINT4, 0, 16) if stored == "u4" else (TensorProto.INT4, -8, 8)
        axis = r.pick(0, 1)
        shape = (rows, width) if axis == 1 else (width, rows)
        gather = r.pick(0, 1)
        attrs |= {"gather_axis": gather, "quantize_axis": axis}
        scales = tuple(-(-n // block) if i == axis else n for i, n in enumerate(shape))
        data = Const(small_ints(r.ints(low, high, *shape), kind))
        zero = r.pick(None, Const(small_ints(r.ints(low, high, *scales), kind)))
        indices = r.ints(-shape[gather], shape[gather], *indices.shape, dtype=indices.dtype)
    scale = (np.abs(r.near(*scales)) * 0.1 + 0.02).astype(dtype)
    return Case([data, indices, Const(scale), zero], attrs)


@op("QMoE", 16)
def _(r):
    common, dtype, e, h, i = r.pick(4, 4, 2), r.pick(np.float32, np.float16), r.int(2, 4), 32, 32
    block, swiglu = r.pick(0, 16, 32), r.flip()
    wide = 2 * i if swiglu else i
    own = [r.pick(None, common)] * 3

    def layer(n, width, bits):
        scales = (e, n) if block == 0 else (e, n, width // block)
        q = Const(packed(r.ints(0, 1 << bits, e, n, width), bits))
        return [
            q,
            Const((np.abs(r.near(*scales)) * 0.02 + 0.01).astype(dtype)),
            r.pick(None, Const(r.f(e, n, dtype=dtype))),
        ]

    attrs = {
        "k": r.int(1, e),
        "expert_weight_bits": common,
        "activation_type": "swiglu" if swiglu else r.pick("relu", "gelu", "silu", "identity"),
        **r.pick({}, {"normalize_routing_weights": 1}),
        **r.pick({}, {"accuracy_level": 1}),
        **r.pick({}, {"weights_prepacked": 0}),
        **{f"fc{n + 1}_expert_weight_bits": bits for n, bits in enumerate(own) if bits},
        **({"block_size": block} if block else {}),
    }
    if swiglu:
        attrs |= {
            "swiglu_fusion": 1,
            **r.pick({}, {"swiglu_limit": 1.0}),
            **r.pick({}, {"activation_alpha": 1.702, "activation_beta": 1.0}),
        }
    return Case(
        [
            r.f(5, h, dtype=dtype),
            r.f(5, e, dtype=dtype),
            *layer(wide, h, own[0] or common),
            *layer(h, i, own[1] or common),
        ],
        attrs,
    )


@op("MoE", 24)
def _(r):
    e, h, i, swiglu = r.int(2, 4), r.int(3, 9), r.int(3, 9), r.flip()
    wide = 2 * i if swiglu else i
    attrs = {
        "k": r.int(1, e),
        "activation_type": "swiglu" if swiglu else r.pick("relu", "gelu", "silu", "identity"),
        **r.pick({}, {"normalize_routing_weights": 1}),
    }
    if swiglu:
        attrs |= {
            "swiglu_fusion": 1,
            **r.pick({}, {"swiglu_limit": 1.0}),
            **r.pick({}, {"activation_alpha": 1.702, "activation_beta": 1.0}),
        }
    x = r.pick((5, h), (1, 5, h))
    return Case(
        [r.f(*x), r.f(5, e), r.f(e, wide, h), r.pick(None, r.f(e, wide)), r.f(e, h, i), r.pick(None, r.f(e, h))], attrs
    )


# Without a CPU kernel.


@op("MulInteger", 4, oracle="numpy")
def _(r):
    kind = r.pick(np.uint8, np.int8)
    a, b, za, zb = r.q(kind, 2, 5), r.q(kind, 5), r.pick(None, r.zero(kind)), r.pick(None, r.zero(kind))
    centred = lambda v, z: v.astype(np.int32) - (0 if z is None else z.astype(np.int32))
    return Case([a, za, b, zb], answer=[centred(a, za) * centred(b, zb)])


@op("ReduceSumInteger", 4, oracle="numpy")
def _(r):
    kind, axes, keep = r.pick(np.uint8, np.int8), r.pick([0], [1, 2], [-1]), r.pick(0, 1)
    x = r.q(kind, 2, 3, 4)
    to = np.uint32 if kind == np.uint8 else np.int32
    return Case(
        [x], {"axes": axes, "keepdims": keep}, answer=[x.astype(to).sum(tuple(axes), keepdims=bool(keep), dtype=to)]
    )


@op("QLinearReduceMean", 6, oracle="numpy")
def _(r):
    kind, axes, keep = r.pick(np.uint8, np.int8), r.pick([0], [1, 2], [-1]), r.pick(0, 1)
    # Scales are powers of two, so that the order of roundings does not matter.
    x, sx, zx, sy, zy = r.q(kind, 2, 4, 8), np.float32(0.125), r.zero(kind), np.float32(0.0625), r.zero(kind)
    mean = ((x.astype(np.float64) - zx) * sx).mean(tuple(axes), keepdims=bool(keep))
    info = np.iinfo(kind)
    y = np.clip(np.rint(mean / sy) + zy, info.min, info.max).astype(kind)
    return Case([x, sx, zx, sy, zy], {"axes": axes, "keepdims": keep}, answer=[y])
