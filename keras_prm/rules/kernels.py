"""Rules of layers with a kernel: they make channels."""

from __future__ import annotations

import numpy as np

from keras_prm.dependency import constants
from keras_prm.rules.base import channel_axis
from keras_prm.rules.base import pin
from keras_prm.rules.base import read_others
from keras_prm.utils import conv_geometry

_ALL_TAPS = np.ones((), bool)


def _mix(call, sources, targets, kernel, bias, **options):
    """A product with a layer's kernel, then its bias and activation."""
    layer = call.layer
    activation = constants.of(layer.activation)
    call.graph.contraction(
        call, sources, targets, kernel, bias, activation=activation, **options
    )
    if not constants.is_elementwise(layer.activation):
        name = getattr(layer.activation, "__name__", "activation")
        call.read_all(targets[0][0], f"its {name} reads every channel")


def dense(call):
    """A kernel mixes the last axis into new channels; other axes pass."""
    layer, x, out = call.layer, call.inputs[0], call.outputs[0]
    axis = len(x.shape) - 1
    for other in range(1, axis):
        call.move((x, other), (out, other), constants.unknown)
    bias = layer.bias if layer.use_bias else None
    ends = [(x, axis)], [(out, axis)]
    _mix(call, *ends, layer.kernel, bias, inside=_ALL_TAPS)


def conv(call, depthwise=False):
    """A kernel mixes the channels into new ones, group by group."""
    layer = call.layer
    source, target = _slides(call)
    _mix(
        call,
        [source],
        [target],
        layer.kernel,
        layer.bias if layer.use_bias else None,
        inside=conv_geometry.inside(layer, _space(*source)),
        groups=1 if depthwise else layer.groups,
        depthwise=depthwise,
    )


def depthwise(call):
    """Each channel makes channels of its own: they stand together."""
    conv(call, depthwise=True)


def separable(call):
    """A depthwise convolution, then a 1x1 one that makes new channels."""
    layer = call.layer
    source, (out, axis) = _slides(call)
    shape = list(out.shape)
    shape[axis] = layer.pointwise_kernel.shape[-2]
    hidden = call.graph.value(shape, call.path)
    call.graph.contraction(
        call,
        [source],
        [(hidden, axis)],
        layer.depthwise_kernel,
        depthwise=True,
        inside=conv_geometry.inside(layer, _space(*source)),
    )
    point = layer.pointwise_kernel
    _mix(
        call,
        [(hidden, axis)],
        [(out, axis)],
        point,
        layer.bias if layer.use_bias else None,
        inside=np.ones(point.shape[:-2], bool),
    )


def transposed(call):
    """A transposed convolution; its kernel is `(..., out, in)`."""
    layer = call.layer
    source, target = _slides(call)
    space = _space(*source)
    _mix(
        call,
        [source],
        [target],
        layer.kernel,
        layer.bias if layer.use_bias else None,
        axes=((-1,), (-2,)),
        macs=None if None in space else int(np.prod(space)),
    )


def _slides(call):
    """`(value, axis)` of the channels in and out of a convolution."""
    x, out = call.inputs[0], call.outputs[0]
    axis = channel_axis(call.layer, x)
    read_others(call, x, axis, "a convolution slides over it")
    return (x, axis), (out, axis)


def _space(value, axis):
    return [n for i, n in enumerate(value.shape) if i not in (0, axis)]


def einsum_dense(call):
    """A product whose equation contracts some axes and makes others."""
    layer, x, out = call.layer, call.inputs[0], call.outputs[0]
    equation = layer.equation.replace(" ", "")
    read, kernel, made = _labels(equation, len(x.shape), len(out.shape))
    contracted = [a for a in kernel if a in read and a not in made]
    produced = [a for a in made if a in kernel and a not in read]
    plain = (
        contracted
        and produced
        and {*kernel} == {*contracted, *produced}
        and {*read} == {*contracted, *made} - {*produced}
    )
    if not plain or read[0] != made[0] or "." in read + made + kernel:
        pin(call, f"'{equation}' is not a plain product")
        return
    bias = layer.bias
    if bias is not None and (
        [*layer.bias_axes.replace(" ", "")] != produced
        or not made.endswith("".join(produced))
    ):
        pin(call, "its bias varies along other axes than its kernel")
        return
    one_each = len(contracted) == len(produced) == 1
    for axis, label in enumerate(read):
        if axis and label in made:
            target = (out, made.index(label))
            call.move((x, axis), target, constants.unknown)
    _mix(
        call,
        [(x, read.index(a)) for a in contracted],
        [(out, made.index(a)) for a in produced],
        layer.kernel,
        bias,
        axes=tuple(
            tuple(kernel.index(a) for a in side)
            for side in (contracted, produced)
        ),
        inside=_ALL_TAPS if one_each and bias is not None else None,
    )


def _labels(equation, in_rank, out_rank):
    """The axes of an equation by letters; leading dots become digits."""
    read, rest = equation.split(",")
    kernel, made = rest.split("->")
    spare = in_rank - len(read.replace("...", ""))
    dots = "0123456789"[: max(spare, 0)]
    read, made = read.replace("...", dots), made.replace("...", dots)
    if len(read) != in_rank or len(made) != out_rank:
        return ".", kernel, "."
    return read, kernel, made


def resize_einsum_dense(layer, size, shape):
    """The output's shape, but `None` where the layer's own is."""
    old = layer.get_config()["output_shape"]
    old = (old,) if isinstance(old, int) else tuple(old)
    new = shape[len(shape) - len(old) :]
    return {
        "output_shape": [
            None if before is None else after for before, after in zip(old, new)
        ]
    }


def embedding(call):
    """A product with the one-hot vectors of its input."""
    layer, out = call.layer, call.outputs[0]
    one_hot = call.graph.value((None, layer.input_dim), call.path)
    call.graph.contraction(
        call,
        [(one_hot, 1)],
        [(out, len(out.shape) - 1)],
        layer.embeddings,
        macs=0,
        prunes_columns=False,
    )


def resize_conv(layer, size, shape):
    """The filters that are left, in groups as large as before."""
    kept = size(layer.kernel, -1)
    per_group = layer.filters // layer.groups
    return {"filters": kept, "groups": max(1, kept // per_group)}
