"""Convolutions and pools of floats."""

from core import *
from quantized import windows

ACTIVATIONS = [
    ("Relu", None),
    ("Sigmoid", None),
    ("Tanh", None),
    ("LeakyRelu", [0.2]),
    ("HardSigmoid", [0.3, 0.4]),
    ("Clip", [-0.5, 0.8]),
]


def conv(r):
    """A convolution's image, weight, and attributes."""
    groups, kernel = r.pick(1, 1, 2), [r.int(1, 3), r.int(1, 3)]
    attrs = {**windows(r, 2, kernel), "group": groups}
    if attrs.get("auto_pad", "VALID") == "VALID" and r.flip():
        attrs["dilations"] = r.pick([1, 2], [2, 1])
    if r.flip():
        del attrs["kernel_shape"]
    return r.f(2, 3 * groups, 8, 9), r.f(4, 3, *kernel), attrs


@op("FusedConv", 40)
def _(r):
    x, w, attrs = conv(r)
    name, parameters = r.pick(*ACTIVATIONS)
    attrs["activation"] = name
    if parameters:
        attrs["activation_params"] = parameters
    return Case([x, w if r.flip() else Const(w), r.pick(None, r.f(4))], attrs, batch=(0,))


@op("MaxpoolWithMask", 16)
def _(r):
    attrs = {**windows(r, 2), **r.pick({}, {"storage_order": 1})}
    # A kernel of onnxruntime takes a line to end at its first masked element, and one mask for all images.
    mask = (np.arange(9) < r.ints(1, 10, 1, 1, 8, 1)).astype(np.int32)
    return Case([r.f(2, 3, 8, 9), mask], attrs)


@op("ConvTransposeWithDynamicPads", 24)
def _(r):
    groups, kernel, strides = r.pick(1, 2), [r.int(1, 3), r.int(2, 3)], [r.int(1, 2), r.int(1, 2)]
    attrs = {
        "strides": strides,
        "group": groups,
        **r.pick({}, {}, {"auto_pad": "SAME_UPPER"}, {"auto_pad": "SAME_LOWER"}, {"auto_pad": "VALID"}),
        **r.pick({}, {"kernel_shape": kernel}),
        **r.pick({}, {"dilations": [1, 2]}),
    }
    if r.flip():
        attrs["output_padding"] = [s - 1 for s in strides]
    pads = np.array([r.int(0, 1) for _ in range(4)], np.int64)
    if attrs.get("auto_pad", "").startswith("SAME") and any(k < s for k, s in zip(kernel, strides)):
        # onnxruntime does not extend what is smaller than the strides ask for.
        del attrs["auto_pad"]
    return Case(
        [
            r.f(2, 2 * groups, 5, 6),
            r.f(2 * groups, 3, *kernel),
            pads if pads is None else Const(pads),
            r.pick(None, r.f(3 * groups)),
        ],
        attrs,
        batch=(0,),
    )


@op("CausalConvWithState", 24)
def _(r):
    c, k, length, last = r.int(1, 4), r.int(2, 4), r.int(1, 9), r.flip()
    dilation = r.pick(1, 2)
    state = (k - 1) * dilation
    shape = lambda n: (2, n, c) if last else (2, c, n)
    attrs = {
        **r.pick({}, {"activation": "silu"}, {"activation": "swish"}),
        **({"dilation": dilation} if dilation > 1 else {}),
        **({"channels_last": 1} if last else {}),
        **r.pick({}, {"ndim": 1}),
        **r.pick({}, {"state_window": 0}),
    }
    return Case(
        [r.f(*shape(length)), r.f(c, 1, k), r.pick(None, r.f(c)), r.pick(None, r.f(*shape(state)))],
        attrs,
        2,
        batch=(0, 3),
    )


@op("WordConvEmbedding", 8)
def _(r):
    size, window, filters, length = r.int(1, 5), r.int(1, 3), r.int(1, 6), r.int(4, 7)
    words = r.ints(1, 20, 6, length, dtype=np.int32)
    for row in words:
        row[r.int(1, length) :] = 0
    attrs = {
        **r.pick({}, {"char_embedding_size": size}),
        **r.pick({}, {"conv_window_size": window}),
        **r.pick({}, {"embedding_size": filters}),
    }
    return Case([words, Const(r.f(filters, 1, window, size)), Const(r.f(filters)), Const(r.f(20, size))], attrs)


def reference(x, w, bias, attrs):
    """A convolution of `[N, C, H, W]` by onnxruntime's operator of the default domain."""
    known = {k: v for k, v in attrs.items() if not k.startswith("activation")}
    import core

    made, feeds = core.model("Conv", Case([x, w, bias], known, domain=""), False)
    return core.answers(made, feeds)[0]


@op("NhwcFusedConv", 16, oracle="numpy")
def _(r):
    x, w, attrs = conv(r)
    name, parameters, function = r.pick(
        ("Relu", None, lambda v: np.maximum(v, 0)),
        ("Tanh", None, np.tanh),
        ("LeakyRelu", [0.2], lambda v: np.where(v < 0, np.float32(0.2) * v, v)),
    )
    attrs["activation"] = name
    if parameters:
        attrs["activation_params"] = parameters
    bias = r.pick(None, r.f(4))
    y = reference(x, w, bias, attrs)
    addend = r.pick(None, r.f(*y.shape))
    y = function(y if addend is None else y + addend)
    last = lambda v: None if v is None else np.ascontiguousarray(np.moveaxis(v, 1, -1))
    return Case([last(x), w, bias, last(addend)], attrs, batch=(0, 3), answer=[last(y)])
