"""Attention and rotary embeddings."""

from core import *


def mask(r, b, s, total, forms):
    """A mask in one of the forms; no row is hidden whole."""
    form = r.pick(*forms)
    if form == "none":
        return None
    if form == "ends":
        return r.ints(1, total + 1, b, dtype=np.int32)
    if form == "ends and starts":
        starts = r.ints(0, total, b, dtype=np.int32)
        ends = np.array([r.int(start + 1, total) for start in starts], np.int32)
        return np.concatenate([ends, starts])
    shape = (b, total) if form == "keys" else (b, s, total)
    made = r.ints(0, 2, *shape, dtype=np.int32)
    made[..., 0] = 1
    return made


def projection(r, qkv_sizes):
    """Sizes of an attention with a joint projection."""
    n, h = r.int(1, 3), r.pick(2, 4, 8)
    v = r.pick(h, 2 * h) if qkv_sizes else h
    return r.int(1, 3), r.int(1, 6), r.int(3, 12), n, h, v


@op("Attention", 60)
def _(r):
    past_length = r.pick(0, 0, r.int(1, 4))
    b, s, d, n, h, v = projection(r, past_length == 0)
    total = past_length + s
    sizes = [n * h, n * h, n * v]
    attrs = {
        "num_heads": n,
        **r.pick({}, {"unidirectional": 1}),
        **r.pick({}, {"scale": 0.3}),
        **r.pick({}, {"mask_filter_value": -1000.0}),
        **r.pick({}, {"do_rotary": 0}),
        **r.pick({}, {"past_present_share_buffer": 0}),
    }
    if v != h or r.flip():
        attrs["qkv_hidden_sizes"] = sizes
    forms = (
        ["none", "ends", "ends and starts", "keys", "rows"]
        if "unidirectional" not in attrs
        else ["none", "ends", "keys"]
    )
    hidden = mask(r, b, s, total, forms)
    past = r.f(2, b, n, past_length, h) if past_length else None
    bias = r.f(r.pick(1, b), r.pick(1, n), s, total) if r.flip() and past is None else None
    inputs = [
        r.f(b, s, d),
        Const(r.f(d, sum(sizes), scale=0.5)),
        r.pick(None, Const(r.f(sum(sizes)))),
        hidden,
        past,
        bias,
    ]
    if inputs[2] is None:
        inputs[2] = Const(np.zeros(sum(sizes), np.float32))
    return Case(inputs, attrs, 2 if past is not None else r.pick(1, 2) if v == h else 1)


@op("QAttention", 32)
def _(r):
    past_length = r.pick(0, 0, r.int(1, 4))
    b, s, d, n, h, _ = projection(r, False)
    total = past_length + s
    kind, columns = r.pick(np.uint8, np.int8), r.flip()
    width = 3 * n * h
    attrs = {
        "num_heads": n,
        **r.pick({}, {"unidirectional": 1}),
        **r.pick({}, {"scale": 0.3}),
        **r.pick({}, {"mask_filter_value": -1000.0}),
        **r.pick({}, {"do_rotary": 0}),
        **r.pick({}, {"past_present_share_buffer": 0}),
    }
    hidden = mask(r, b, s, total, ["none", "ends", "keys"])
    w_scale = (np.abs(r.near(width)) * 0.01 + 0.005).astype(np.float32) if columns else r.scale(0.01, 0.02)
    w_zero = r.pick(None, np.zeros(width, kind) + (0 if kind == np.int8 else 128) if columns else r.zero(kind))
    w_zero = w_zero if w_zero is None else Const(w_zero.astype(kind))
    past = r.f(2, b, n, past_length, h) if past_length else None
    inputs = [
        r.q(np.uint8, b, s, d),
        Const(r.q(kind, d, width)),
        Const(r.f(width)),
        Const(r.scale(0.01, 0.02)),
        Const(w_scale),
        hidden,
        r.pick(None, Const(r.zero(np.uint8))),
        w_zero,
        past,
    ]
    return Case(inputs, attrs, 2 if past is not None else r.pick(1, 2))


@op("MultiHeadAttention", 80)
def _(r):
    b, n, h, s = r.int(1, 3), r.int(1, 3), r.pick(2, 4, 8), r.int(1, 6)
    form = r.pick("separate", "separate", "packed qkv", "packed kv", "cache")
    past = form == "separate" and r.flip()
    length = s if form == "packed qkv" or past else r.int(1, 7)
    v = r.pick(h, 2 * h) if form == "separate" and not past else h
    before = r.int(1, 4) if past else 0
    total = before + length
    d = n * h
    bias = r.f(2 * d + n * v) if r.flip() and form in ("separate", "packed qkv") else None
    if form == "separate":
        qkv = [r.f(b, s, d), r.f(b, length, d), r.f(b, length, n * v)]
    elif form == "packed qkv":
        qkv = [r.f(b, s, n, 3, h), None, None]
    elif form == "packed kv":
        qkv = [r.f(b, s, d), r.f(b, length, n, 2, h), None]
    else:
        qkv = [r.f(b, s, d), r.f(b, n, length, h), r.f(b, n, length, h)]
    causal = length == s and r.flip()
    attrs = {
        "num_heads": n,
        **({"unidirectional": 1} if causal else {}),
        **r.pick({}, {"scale": 0.3}),
        **r.pick({}, {"mask_filter_value": -1000.0}),
    }
    forms = ["none", "keys", "rows"] if not causal else ["none", "keys"]
    if before == 0:
        forms.append("ends")
    hidden = mask(r, b, s, total, forms)
    extra = r.f(r.pick(1, b), r.pick(1, n), s, total) if r.flip() else None
    caches = [r.f(b, n, before, h), r.f(b, n, before, h)] if past else [None, None]
    outputs = 3 if past else r.pick(1, 3) if form == "separate" else 1
    case = Case([*qkv, bias, hidden, extra, *caches], attrs, outputs)
    if form.startswith("packed"):
        # Not on CPU: the answer is that of separate operands.
        parts = np.moveaxis(qkv[0], 3, 0) if form == "packed qkv" else np.moveaxis(qkv[1], 3, 0)
        parts = [np.ascontiguousarray(p).reshape(b, -1, d) for p in parts]
        apart = parts if form == "packed qkv" else [qkv[0], *parts]
        case.answer = equivalent("MultiHeadAttention", Case([*apart, *case.inputs[3:]], attrs, outputs))
    return case


@op("DecoderMaskedMultiHeadAttention", 40)
def _(r):
    b, n, h = r.int(1, 3), r.int(1, 3), r.pick(2, 4, 8)
    d, cross = n * h, r.flip()
    before = r.int(1, 5)
    total = before if cross else before + 1
    attrs = {
        "num_heads": n,
        **r.pick({}, {"scale": 0.3}),
        **r.pick({}, {"mask_filter_value": -1000.0}),
        **r.pick({}, {"past_present_share_buffer": 0}),
    }
    hidden = mask(r, b, 1, total, ["none", "keys"])
    extra = r.f(r.pick(1, b), r.pick(1, n), 1, total) if r.flip() else None
    length = None
    if cross:
        inputs = [r.f(b, 1, d), r.f(b, n, before, h), r.f(b, n, before, h), hidden, None, None, None]
    else:
        capacity, length = before + r.int(1, 3), np.array([before], np.int32)
        attrs["past_present_share_buffer"] = 1
        inputs = [
            r.f(b, 1, d),
            r.f(b, 1, d),
            r.f(b, 1, d),
            hidden,
            extra,
            r.f(b, n, capacity, h),
            r.f(b, n, capacity, h),
        ]
    shown = cross and r.flip()
    if shown:
        attrs["output_qk"] = 1
    bias = r.f(3 * d) if r.flip() else None
    outputs = [True, False, False, True] if shown else 1 if cross else 3
    return Case([*inputs, length, None, None, bias], attrs, outputs, types={3: TensorProto.FLOAT})


@op("GroupQueryAttention", 80)
def _(r):
    b, groups, each, h = r.int(1, 3), r.int(1, 2), r.int(1, 3), r.pick(16, 32)
    n, dtype = groups * each, r.pick(np.float32, np.float32, np.float16)
    prompt = r.flip()
    causal = r.pick(1, 1, 1, 0)
    if prompt:
        s = r.int(1, 6)
        lengths, capacity = np.full(b, s - 1, np.int32), r.pick(0, 0, s, s + 3)
        longest = s
    else:
        s, capacity = r.pick(1, 1, 2), r.int(4, 8)
        b = 1 if s > 1 else b
        lengths = r.ints(s, capacity, b, dtype=np.int32)
        longest = int(lengths.max()) + 1
    packed_form, rotary = r.flip(), r.flip()
    new = (
        [r.f(b, s, (n + 2 * groups) * h, dtype=dtype), None, None]
        if packed_form
        else [r.f(b, s, n * h, dtype=dtype), r.f(b, s, groups * h, dtype=dtype), r.f(b, s, groups * h, dtype=dtype)]
    )
    caches = (
        [r.f(b, groups, capacity, h, dtype=dtype), r.f(b, groups, capacity, h, dtype=dtype)]
        if capacity or not prompt
        else [None, None]
    )
    width = r.pick(h, 16)
    angles = r.f(20, width // 2)
    tables = [Const(np.cos(angles).astype(dtype)), Const(np.sin(angles).astype(dtype))] if rotary else [None, None]
    present = max(capacity, longest)
    extra = r.f(r.pick(1, b), r.pick(1, n), s, longest, dtype=dtype) if r.flip() and r.flip() else None
    sink = r.f(n, dtype=dtype) if r.flip() and r.flip() else None
    attrs = {
        "num_heads": n,
        "kv_num_heads": groups,
        **r.pick({}, {"scale": 0.3}),
        **r.pick({}, {"softcap": 2.0}),
        **({"local_window_size": r.int(1, 4)} if causal and r.flip() else {}),
        **({} if causal else {"causal": 0}),
        **({"do_rotary": 1, **r.pick({}, {"rotary_interleaved": 1})} if rotary else {}),
        **r.pick({}, {"smooth_softmax": 1} if sink is None else {}),
        **r.pick({}, {"qk_norm_epsilon": 1e-5}),
        **r.pick({}, {"k_quant_type": "NONE", "v_quant_type": "NONE"}),
        **r.pick({}, {"sliding_window_cache": 0}),
    }
    shown = r.pick(0, 0, 1, 2)
    if shown:
        # What lies beyond a shorter sample's end is not defined.
        lengths[:] = longest - 1
        attrs["qk_output"] = shown
    return Case(
        [*new, *caches, lengths, Const(np.array(longest, np.int32)), *tables, None, extra, sink],
        attrs,
        4 if shown else 3,
    )


def rotary(r, needed=False):
    n, d, dtype = r.int(1, 3), r.pick(4, 8, 16), r.pick(np.float32, np.float16)
    part = r.pick(0, 0, d // 2)
    merged = r.flip()
    attrs = {**r.pick({}, {"interleaved": 1}), **r.pick({}, {"is_packed_batching": 1}), **r.pick({}, {"scale": 2.0})}
    if part or (merged and (needed or r.flip())):
        attrs |= {"num_heads": n} | ({"rotary_embedding_dim": part} if part else {})
    b, s = r.int(1, 3), r.int(1, 5)
    x = r.f(b, s, n * d, dtype=dtype) if merged else r.f(b, n, s, d, dtype=dtype)
    angles = r.f(12, (part or d) // 2)
    return x, b, s, angles, dtype, attrs


@op("RotaryEmbedding", 32)
def _(r):
    x, b, s, angles, dtype, attrs = rotary(r)
    positions = r.pick(r.ints(0, 12, b, s), r.ints(0, 7, 1))
    return Case([x, positions, Const(np.cos(angles).astype(dtype)), Const(np.sin(angles).astype(dtype))], attrs)


@op("MRotaryEmbedding", 24)
def _(r):
    x, b, s, angles, dtype, attrs = rotary(r, needed=True)
    half = angles.shape[1]
    height, width = half // 3, r.int(0, half // 3)
    attrs |= {"mrope_section": [half - height - width, height, width], **r.pick({}, {"mrope_layout": 1})}
    return Case(
        [x, r.ints(0, 12, 3, b, s), Const(np.cos(angles).astype(dtype)), Const(np.sin(angles).astype(dtype))], attrs
    )


@op("LinearAttention", 40)
def _(r):
    rule = r.pick("linear", "gated", "delta", "gated_delta")
    kv, (q_each, kv_each) = r.int(1, 2), r.pick((1, 1), (2, 1), (1, 2))
    n, g = kv * q_each, kv * kv_each
    b, t, k, v = r.int(1, 3), r.pick(1, 1, r.int(2, 6)), r.int(1, 6), r.int(1, 6)
    keys = r.f(b, t, g, k)
    keys /= np.linalg.norm(keys, axis=-1, keepdims=True) + 0.1
    decay = -np.abs(r.f(b, t, g * r.pick(1, k))) if "gated" in rule else None
    beta = np.float32(1 / (1 + np.exp(-r.f(b, t, r.pick(1, g))))) if "delta" in rule else None
    past = r.f(b, g, k, v) if r.flip() else None
    attrs = {
        "q_num_heads": n,
        "kv_num_heads": g,
        **({"update_rule": rule} if rule != "gated_delta" or r.flip() else {}),
        **r.pick({}, {"scale": 0.3}),
        **r.pick({}, {"chunk_size": 16}),
    }
    inputs = [r.f(b, t, n * k), keys.reshape(b, t, g * k).astype(np.float32), r.f(b, t, g * v), past, decay, beta]
    return Case(inputs, attrs, 2)
