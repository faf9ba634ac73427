"""The layers and operations that the fuzzer draws from: one row each.

A new layer is one row of `ROWS`. Its options are strategies of plain values,
so that a drawn step prints as Python that can be pasted.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st
from keras import layers
from keras import ops


@dataclasses.dataclass(frozen=True)
class Row:
    """How one kind of step is drawn and built.

    Args:
        make: Maps `(shape, **options)`, the shape of the first operand
            without the batch, to what is called with the operands. It or
            the call raises a `ValueError` where it does not apply.
        ranks: Ranks of the operands it applies to, with the batch.
        options: dict from name to strategy.
        arity: How many operands it takes.
        matches: Whether two shapes go together, of the first operand and of
            each other one; without the batch.
        weight: How often it is drawn, compared with the others.
        dtype: What its operands begin with, `"float"` or `"int"`.
    """

    make: Callable
    ranks: tuple
    options: dict = dataclasses.field(default_factory=dict)
    arity: int = 1
    matches: Callable = lambda a, b: a == b
    weight: int = 1
    dtype: str = "float"


def layer(kind, *ranks, weight=1, **options):
    """A row of a layer whose options are its arguments."""
    return Row(lambda shape, **o: kind(**o), ranks, options, weight=weight)


def function(call, *ranks, **options):
    """A row of a function `call(x, **options)`."""
    return Row(lambda shape, **o: lambda x: call(x, **o), ranks, options)


def grouped(kind, rank, **options):
    """A row of a convolution, whose filters are made a multiple of groups."""

    def make(shape, filters, groups, **more):
        if shape[-1] % groups:
            groups = 1
        return kind(filters=filters * groups, groups=groups, **more)

    options["groups"] = one_of(*[1] * 6, 2, 3)
    return Row(make, (rank,), options, weight=12)


def join(kind, matches=None, arity=2, ranks=(2, 3, 4), **options):
    """A row of a layer that takes a list of tensors."""

    def make(shape, **more):
        made = kind(**more)
        return lambda *tensors: made(list(tensors))

    return Row(make, ranks, options, arity, matches or broadcasts, weight=3)


def operator(call, arity=2, **options):
    """A row of a function of two tensors, `call(x, y, **options)`."""

    def make(shape, **more):
        return lambda *tensors: call(*tensors, **more)

    return Row(make, (2, 3, 4), options, arity, broadcasts, weight=3)


def broadcasts(a, b):
    return len(a) == len(b) and all(m == n or 1 in (m, n) for m, n in zip(a, b))


def one_of(*values):
    return st.sampled_from(values)


FLAG = st.booleans()
WIDTH = one_of(4, 2, 3, 5, 6, 7, 1)
SMALL = one_of(1, 2, 3)
KERNEL = one_of(1, 2, 3, (3, 1), (1, 2))
PADDING = one_of("valid", "same")
FUNCTIONS = (
    "relu sigmoid tanh softmax gelu exponential softplus hard_sigmoid elu "
    "silu selu leaky_relu softsign mish linear relu6 log_softmax hard_silu"
).split()
USUAL = (None, "relu", "sigmoid") * 5
ACTIVATION = one_of(*USUAL, *FUNCTIONS)
AXIS = one_of(-1, 1)
RATE = one_of(0.3)
PAIR = st.tuples(st.integers(0, 2), st.integers(0, 2))
HEAD = {"activation": ACTIVATION, "use_bias": one_of(True, True, False)}
CONV = {"filters": WIDTH, "padding": PADDING, "strides": one_of(1, 2), **HEAD}
DILATION = one_of(1, 1, 2)
DEPTHWISE = {**CONV, "depth_multiplier": one_of(1, 2)}
SEPARABLE = dict(DEPTHWISE)
del DEPTHWISE["filters"]
SPACE = {"strides": one_of(None, 1, 2), "padding": PADDING}
AFFINE = {"scale": FLAG, "center": FLAG}
RECURRENT = {
    "units": WIDTH,
    "return_sequences": FLAG,
    "go_backwards": FLAG,
    "use_bias": FLAG,
}
ATTENTION = {
    "key_dim": SMALL,
    "value_dim": one_of(None, 2),
    "output_shape": one_of(None, 5),
    "use_bias": FLAG,
}


# What needs the shape, or more than a call.


def kernel(shape, units, size, use_bias, activation):
    """The usual layer of the rank, so that there is one for any tensor."""
    made = []
    options = {"activation": activation, "use_bias": use_bias}

    def make(x):
        if x.dtype.startswith("int"):
            return layers.Embedding(10, units)
        if len(shape) == 1 or len(shape) > 3:
            return layers.Dense(units, **options)
        kind = layers.Conv1D if len(shape) == 2 else layers.Conv2D
        return kind(units, size, padding="same", **options)

    def call(x):
        made.extend([] if made else [make(x)])
        return made[0](x)

    return call


def einsum_dense(shape, units, kind, use_bias, activation):
    """Rank 3: the last axis, the first one, or the last one into heads."""
    if len(shape) == 1:
        equation, output, bias = "ab,bc->ac", (units,), "c"
    else:
        equation, output, bias = (
            ("abc,cd->abd", (None, units), "d"),
            ("abc,bd->adc", (units, None), "d"),
            ("abc,cde->abde", (None, units, 2), "de"),
            ("abc,cde->abde", (None, units, 2), "e"),
        )[kind]
    return layers.EinsumDense(
        equation,
        output,
        bias_axes=bias if use_bias else None,
        activation=activation,
    )


def reshape(shape, kind):
    """Merges, splits or re-reads axes."""
    halves = (*shape[:-1], shape[-1] // 2, 2)
    return (
        (-1,),
        (*shape[:-2], -1),
        halves,
        (*shape[:-1], 2, shape[-1] // 2),
        (-1, shape[-1]),
        tuple(reversed(shape)),
        (*shape, 1),
        (1, *shape),
    )[kind]


def permutation(rank, number):
    found = list(itertools.permutations(range(1, rank)))
    return found[number % len(found)]


def p_relu(shape, shared):
    axes = list(range(1, len(shape))) if shared else None
    return layers.PReLU(shared_axes=axes or None)


def group_normalization(shape, divisor, **options):
    if shape[-1] % divisor:
        divisor = 1
    groups = shape[-1] // divisor
    return layers.GroupNormalization(groups=groups, **options)


def layer_normalization(shape, first, **options):
    axis = list(range(1, len(shape) + 1)) if first else -1
    return layers.LayerNormalization(axis=axis, **options)


def normalization(shape):
    """With the statistics that `adapt` would find, given as arguments."""
    steps = np.arange(1.0, shape[-1] + 1)
    return layers.Normalization(mean=steps / 2, variance=steps)


def bidirectional(shape, kind, merge_mode, **options):
    inner = getattr(layers, kind)(**options)
    return layers.Bidirectional(inner, merge_mode=merge_mode)


def attention(kind, **arguments):
    """Self-attention, or of a sequence to another one."""

    def make(shape, **options):
        made = kind(**arguments, **options)
        return lambda x, y: made(query=x, value=y)

    def matches(a, b):
        return a[-1] == b[-1] and len(a) == len(b)

    return Row(make, (3,), ATTENTION, 2, matches)


def squeeze_and_excitation(shape, units, dense):
    axes = list(range(1, len(shape)))
    kind = layers.Dense
    if len(shape) == 3 and not dense:
        kind = lambda *a, **o: layers.Conv2D(a[0], 1, **o)  # noqa: E731

    def call(x):
        gate = ops.mean(x, axis=axes, keepdims=True) if axes else x
        gate = kind(units, activation="relu")(gate)
        gate = kind(shape[-1], activation="sigmoid")(gate)
        return layers.Multiply()([x, gate])

    return call


def residual(shape, activation, norm):
    """x + f(x), as most networks of today have it."""

    def call(x):
        y = layers.Dense(shape[-1], activation=activation)(x)
        if len(shape) == 3:
            y = layers.Conv2D(shape[-1], 3, padding="same")(y)
        if norm:
            y = layers.BatchNormalization()(y)
        return layers.Add()([x, y])

    return call


def pair_of_branches(shape, units, activation):
    """Two kernels side by side, of the same shape: food for the joins."""
    return lambda x: [
        layers.Dense(units, activation=activation)(x),
        layers.Dense(units)(x),
    ]


def vector(shape, kind, whole):
    """A constant array; a scale has a zero in it."""
    array = np.arange(shape[-1] if whole else 1, dtype="float32")
    calls = (
        lambda x: x + (array + 1),
        lambda x: x * array,
        lambda x: (array + 1) - x,
        lambda x: ops.maximum(x, array - 1),
    )
    return calls[kind]


def array(shape, kind, axis):
    """A constant array along one axis, or whole; it has a zero in it."""
    axis = axis % (len(shape) + 1)
    sizes = [n if axis in (i, len(shape)) else 1 for i, n in enumerate(shape)]
    values = np.arange(np.prod(sizes), dtype="float32").reshape(sizes)
    calls = (
        lambda x: x + values,
        lambda x: ops.add(values[None], x),
        lambda x: x - values[None],
        lambda x: values - x,
        lambda x: x * values,
        lambda x: ops.minimum(values, x),
    )
    return calls[kind]


def centerd(shape, axis, first):
    """A sum with an average, which one of the axes is lost in."""
    axis = 1 + axis % len(shape)

    def call(x):
        average = ops.mean(x, axis=axis, keepdims=True)
        return average + x if first else x + average

    return call


def number(shape, kind):
    return (
        lambda x: x * 0.5,
        lambda x: 1 - x,
        lambda x: x + 2.0,
        lambda x: x - 1,
        lambda x: -x,
        lambda x: x / 3,
        lambda x: x**2,
        lambda x: abs(x),
        lambda x: 1 / (x * x + 1.5),
        lambda x: ops.maximum(x, 0.3),
        lambda x: ops.minimum(0.3, x),
        lambda x: x * 0.0,
    )[kind]


def cut(shape, kind):
    """Slices of the channels and of space."""
    return (
        lambda x: x[..., 1:],
        lambda x: x[..., :2],
        lambda x: x[..., ::2],
        lambda x: x[:, 1:],
        lambda x: x[:, 0],
        lambda x: x[..., 0:1],
        lambda x: x[..., ::-1],
        lambda x: x[..., None, :],
    )[kind]


def split(shape, at):
    return lambda x: ops.split(x, [at], axis=-1)


def reduce(shape, kind, keepdims, space, last):
    """Over space, over the channels, or over the first axis."""
    axes = list(range(1, len(shape))) if space else [1]
    axes = [-1] if last or not axes else axes
    call = getattr(ops, kind)
    return lambda x: call(x, axis=axes, keepdims=keepdims)


def squeeze(shape):
    if 1 not in shape[:-1]:
        raise ValueError("nothing to squeeze")
    axis = shape.index(1) + 1
    return lambda x: ops.squeeze(x, axis=axis)


def timed_conv(shape, filters, activation):
    conv = layers.Conv1D(filters, 2, activation=activation)
    return layers.TimeDistributed(conv)


REDUCE = {
    "kind": one_of("mean", "sum", "max", "min"),
    "keepdims": FLAG,
    "space": FLAG,
    "last": FLAG,
}

KERNELS = {
    "kernel": Row(
        kernel,
        (2, 3, 4, 5),
        {"units": WIDTH, "size": SMALL, **HEAD},
        weight=120,
        dtype="",
    ),
    "Dense": layer(layers.Dense, 2, 3, 4, weight=30, units=WIDTH, **HEAD),
    "Conv2D": grouped(
        layers.Conv2D, 4, kernel_size=KERNEL, dilation_rate=DILATION, **CONV
    ),
    "Conv1D": grouped(
        layers.Conv1D,
        3,
        kernel_size=SMALL,
        dilation_rate=DILATION,
        **(CONV | {"padding": one_of("valid", "same", "causal")}),
    ),
    "Conv3D": grouped(layers.Conv3D, 5, kernel_size=one_of(1, 2), **CONV),
    "Conv1DTranspose": layer(
        layers.Conv1DTranspose, 3, kernel_size=SMALL, **CONV
    ),
    "Conv2DTranspose": layer(
        layers.Conv2DTranspose, 4, weight=2, kernel_size=KERNEL, **CONV
    ),
    "DepthwiseConv1D": layer(
        layers.DepthwiseConv1D, 3, weight=2, kernel_size=SMALL, **DEPTHWISE
    ),
    "DepthwiseConv2D": layer(
        layers.DepthwiseConv2D, 4, weight=2, kernel_size=SMALL, **DEPTHWISE
    ),
    "SeparableConv1D": layer(
        layers.SeparableConv1D, 3, weight=2, kernel_size=SMALL, **SEPARABLE
    ),
    "SeparableConv2D": layer(
        layers.SeparableConv2D, 4, weight=2, kernel_size=SMALL, **SEPARABLE
    ),
    "EinsumDense": Row(
        einsum_dense,
        (2, 3),
        {"units": WIDTH, "kind": st.integers(0, 3), **HEAD},
        weight=2,
    ),
    "Embedding": Row(
        lambda shape, **o: layers.Embedding(10, **o),
        (2, 3),
        {"output_dim": WIDTH, "mask_zero": FLAG},
        dtype="int",
        weight=5,
    ),
    "LSTM": layer(layers.LSTM, 3, **RECURRENT),
    "GRU": layer(layers.GRU, 3, reset_after=FLAG, **RECURRENT),
    "SimpleRNN": layer(layers.SimpleRNN, 3, **RECURRENT),
    "Bidirectional": Row(
        bidirectional,
        (3,),
        {
            "kind": one_of("LSTM", "GRU"),
            "merge_mode": one_of("concat", "sum", "mul", "ave"),
            "units": SMALL,
            "return_sequences": FLAG,
        },
    ),
    "MultiHeadAttention": attention(layers.MultiHeadAttention, num_heads=2),
    "GroupQueryAttention": Row(
        lambda shape, use_bias, key_dim: (
            lambda x, y: layers.GroupQueryAttention(
                key_dim, 4, 2, use_bias=use_bias
            )(x, y)
        ),
        (3,),
        {"key_dim": SMALL, "use_bias": FLAG},
        arity=2,
    ),
    "TimeDistributedDense": Row(
        lambda shape, **o: layers.TimeDistributed(layers.Dense(**o)),
        (3, 4),
        {"units": WIDTH, **HEAD},
    ),
    "TimeDistributedConv": Row(
        timed_conv, (4,), {"filters": WIDTH, "activation": ACTIVATION}
    ),
}

CHANNELS = {
    "BatchNormalization": layer(
        layers.BatchNormalization, 2, 3, 4, weight=8, axis=AXIS, **AFFINE
    ),
    "GroupNormalization": Row(
        group_normalization,
        (3, 4),
        {"divisor": SMALL, "scale": FLAG, "center": FLAG},
    ),
    "LayerNormalization": Row(
        layer_normalization, (2, 3, 4), {"first": FLAG, **AFFINE}
    ),
    "RMSNormalization": layer(layers.RMSNormalization, 2, 3, 4, axis=AXIS),
    "UnitNormalization": layer(layers.UnitNormalization, 2, 3, 4, axis=AXIS),
    "Normalization": Row(normalization, (2, 3, 4)),
    "PReLU": Row(p_relu, (2, 3, 4), {"shared": FLAG}),
    "ReLU": layer(
        layers.ReLU,
        *(2, 3, 4),
        max_value=one_of(None, 1.0),
        negative_slope=one_of(0.0, 0.1),
        threshold=one_of(0.0, 0.5),
    ),
    "LeakyReLU": layer(layers.LeakyReLU, 2, 3, 4),
    "ELU": layer(layers.ELU, 2, 3, 4, alpha=one_of(0.5)),
    "Softmax": layer(layers.Softmax, 2, 3, 4, axis=AXIS),
    "Activation": layer(
        layers.Activation, 2, 3, 4, weight=8, activation=one_of(*FUNCTIONS)
    ),
    "Identity": layer(layers.Identity, 2, 3, 4),
    "Masking": layer(layers.Masking, 3),
    "Rescaling": layer(
        layers.Rescaling, 2, 3, 4, scale=one_of(0.5), offset=one_of(0.0, 1.0)
    ),
    "Dropout": layer(layers.Dropout, 2, 3, 4, rate=RATE),
    "AlphaDropout": layer(layers.AlphaDropout, 2, 3, 4, rate=RATE),
    "GaussianDropout": layer(layers.GaussianDropout, 2, 3, 4, rate=RATE),
    "GaussianNoise": layer(layers.GaussianNoise, 2, 3, 4, stddev=RATE),
    "SpatialDropout1D": layer(layers.SpatialDropout1D, 3, rate=RATE),
    "SpatialDropout2D": layer(layers.SpatialDropout2D, 4, rate=RATE),
    "ActivityRegularization": layer(layers.ActivityRegularization, 2, 3, 4),
    "squeeze_and_excitation": Row(
        squeeze_and_excitation, (3, 4), {"units": SMALL, "dense": FLAG}
    ),
    "residual": Row(
        residual,
        (2, 3, 4),
        {"activation": ACTIVATION, "norm": FLAG},
        weight=3,
    ),
    "pair_of_branches": Row(
        pair_of_branches,
        (2, 3, 4),
        {"units": WIDTH, "activation": ACTIVATION},
        weight=3,
    ),
}

SHAPES = {
    "MaxPooling1D": layer(layers.MaxPooling1D, 3, pool_size=SMALL, **SPACE),
    "MaxPooling2D": layer(layers.MaxPooling2D, 4, pool_size=SMALL, **SPACE),
    "MaxPooling3D": layer(layers.MaxPooling3D, 5, pool_size=one_of(1, 2)),
    "AveragePooling1D": layer(
        layers.AveragePooling1D, 3, pool_size=SMALL, **SPACE
    ),
    "AveragePooling2D": layer(
        layers.AveragePooling2D, 4, pool_size=SMALL, **SPACE
    ),
    "AdaptiveAveragePooling2D": layer(
        layers.AdaptiveAveragePooling2D, 4, output_size=one_of(1, 2)
    ),
    **{
        f"Global{kind}Pooling{rank - 2}D": layer(
            getattr(layers, f"Global{kind}Pooling{rank - 2}D"),
            rank,
            keepdims=FLAG,
        )
        for kind in ("Max", "Average")
        for rank in (3, 4, 5)
    },
    "ZeroPadding1D": layer(layers.ZeroPadding1D, 3, padding=PAIR),
    "ZeroPadding2D": layer(
        layers.ZeroPadding2D, 4, padding=st.tuples(PAIR, PAIR)
    ),
    "Cropping1D": layer(layers.Cropping1D, 3, cropping=PAIR),
    "Cropping2D": layer(layers.Cropping2D, 4, cropping=st.tuples(PAIR, PAIR)),
    "UpSampling1D": layer(layers.UpSampling1D, 3, size=one_of(2)),
    "UpSampling2D": layer(
        layers.UpSampling2D,
        4,
        size=one_of(2, (1, 2)),
        interpolation=one_of("nearest", "bilinear"),
    ),
    "Resizing": layer(
        layers.Resizing,
        4,
        height=one_of(3, 5),
        width=one_of(3, 5),
        interpolation=one_of("nearest", "bilinear"),
    ),
    "Flatten": layer(
        layers.Flatten,
        *(2, 3, 4, 5),
        data_format=one_of(None, "channels_first"),
    ),
    "Reshape": Row(
        lambda shape, kind: layers.Reshape(reshape(shape, kind)),
        (2, 3, 4, 5),
        {"kind": st.integers(0, 7)},
        weight=2,
    ),
    "Permute": Row(
        lambda shape, kind: layers.Permute(permutation(len(shape) + 1, kind)),
        (3, 4),
        {"kind": st.integers(0, 5)},
    ),
    "RepeatVector": layer(layers.RepeatVector, 2, n=SMALL),
    "ops.reshape": Row(
        lambda shape, kind: (
            lambda x: ops.reshape(x, (-1, *reshape(shape, kind)))
        ),
        (2, 3, 4, 5),
        {"kind": st.integers(1, 7)},
    ),
    "ops.transpose": Row(
        lambda shape, kind: (
            lambda x: ops.transpose(x, (0, *permutation(len(x.shape), kind)))
        ),
        (3, 4),
        {"kind": st.integers(0, 5)},
    ),
    "ops.expand_dims": function(ops.expand_dims, 2, 3, axis=one_of(-1, 1, 2)),
    "ops.squeeze": Row(squeeze, (3, 4, 5)),
    "ops.squeeze of all": Row(
        lambda shape: squeeze(shape) and ops.squeeze, (3, 4, 5)
    ),
    "reduce": Row(reduce, (2, 3, 4), REDUCE, weight=2),
    "cut": Row(cut, (2, 3, 4), {"kind": st.integers(0, 7)}, weight=2),
    "split": Row(split, (2, 3, 4), {"at": one_of(1, 2)}),
}

JOINS = {
    "Add": join(layers.Add),
    "Subtract": join(layers.Subtract),
    "Multiply": join(layers.Multiply),
    "Average": join(layers.Average, arity=3),
    "Maximum": join(layers.Maximum),
    "Minimum": join(layers.Minimum, arity=3),
    "Concatenate": join(
        layers.Concatenate,
        lambda a, b: a[:-1] == b[:-1],
        ranks=(2, 3, 4, 5),
        axis=one_of(-1),
    ),
    "ConcatenateFirst": join(
        layers.Concatenate, lambda a, b: a[1:] == b[1:], axis=one_of(1)
    ),
    "Dot": join(layers.Dot, ranks=(2, 3), axes=one_of(1, -1), normalize=FLAG),
    "+": operator(lambda x, y: x + y),
    "-": operator(lambda x, y: x - y),
    "*": operator(lambda x, y: x * y),
    "/": operator(lambda x, y: x / (y * y + 1.5)),
    "ops.maximum": operator(ops.maximum),
    "ops.minimum": operator(ops.minimum),
    "ops.where": operator(lambda x, y: ops.where(x > 0.1, x, y)),
    "ops.concatenate": Row(
        lambda shape, axis: lambda x, y: ops.concatenate([x, y], axis=axis),
        (2, 3, 4),
        {"axis": AXIS},
        2,
    ),
    "ops.stack": operator(lambda x, y: ops.stack([x, y], axis=-1)),
    "ops.matmul": operator(lambda x, y: ops.matmul(x, ops.swapaxes(y, -1, -2))),
    "vector": Row(
        vector, (2, 3, 4), {"kind": st.integers(0, 3), "whole": FLAG}
    ),
    "array": Row(
        array,
        (2, 3, 4),
        {"kind": st.integers(0, 5), "axis": st.integers(0, 3)},
        weight=3,
    ),
    "centerd": Row(
        centerd, (2, 3, 4), {"axis": st.integers(0, 2), "first": FLAG}
    ),
    "number": Row(number, (2, 3, 4), {"kind": st.integers(0, 11)}, weight=3),
    **{
        f"ops.{name}": function(getattr(ops, name), 2, 3, 4)
        for name in "relu sigmoid tanh exp square softmax sin".split()
    },
}

ROWS = {**KERNELS, **CHANNELS, **SHAPES, **JOINS}
