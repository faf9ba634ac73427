"""Rules of layers with a kernel: they make channels."""

from __future__ import annotations

import numpy as np

from keras_prm.dependency import constants
from keras_prm.rules.base import channel_axis
from keras_prm.rules.base import pin
from keras_prm.rules.base import read_others
from keras_prm.utils import conv_geometry

_ALL_TAPS = np.ones((), bool)


def _mix(site, sources, targets, kernel, bias, **options):
    """A product with a layer's kernel, then its bias and activation."""
    layer = site.layer
    activation = constants.of(layer.activation)
    site.graph.mix(
        site, sources, targets, kernel, bias, activation=activation, **options
    )
    if not constants.is_elementwise(layer.activation):
        name = getattr(layer.activation, "__name__", "activation")
        site.read_all(targets[0][0], f"its {name} reads every channel")


def dense(site):
    layer, x, out = site.layer, site.inputs[0], site.outputs[0]
    axis = len(x.shape) - 1
    for other in range(1, axis):
        site.move((x, other), (out, other), constants.unknown)
    bias = layer.bias if layer.use_bias else None
    ends = [(x, axis)], [(out, axis)]
    _mix(site, *ends, layer.kernel, bias, inside=_ALL_TAPS)


def conv(site, depthwise=False):
    layer = site.layer
    source, target = _slides(site)
    _mix(
        site,
        [source],
        [target],
        layer.kernel,
        layer.bias if layer.use_bias else None,
        inside=conv_geometry.inside(layer, _space(*source)),
        groups=1 if depthwise else layer.groups,
        depthwise=depthwise,
    )


def depthwise(site):
    conv(site, depthwise=True)


def separable(site):
    layer = site.layer
    source, (out, axis) = _slides(site)
    shape = list(out.shape)
    shape[axis] = layer.pointwise_kernel.shape[-2]
    hidden = site.graph.value(shape, site.path)
    site.graph.mix(
        site,
        [source],
        [(hidden, axis)],
        layer.depthwise_kernel,
        depthwise=True,
        inside=conv_geometry.inside(layer, _space(*source)),
    )
    point = layer.pointwise_kernel
    _mix(
        site,
        [(hidden, axis)],
        [(out, axis)],
        point,
        layer.bias if layer.use_bias else None,
        inside=np.ones(point.shape[:-2], bool),
    )


def transposed(site):
    """A transposed convolution; its kernel is `(..., out, in)`."""
    layer = site.layer
    source, target = _slides(site)
    space = _space(*source)
    _mix(
        site,
        [source],
        [target],
        layer.kernel,
        layer.bias if layer.use_bias else None,
        axes=((-1,), (-2,)),
        macs=None if None in space else int(np.prod(space)),
    )


def _slides(site):
    """`(value, axis)` of the channels in and out of a convolution."""
    x, out = site.inputs[0], site.outputs[0]
    axis = channel_axis(site.layer, x)
    read_others(site, x, axis, "a convolution slides over it")
    return (x, axis), (out, axis)


def _space(value, axis):
    return [n for i, n in enumerate(value.shape) if i not in (0, axis)]


def einsum_dense(site):
    """A product whose equation contracts some axes and makes others."""
    layer, x, out = site.layer, site.inputs[0], site.outputs[0]
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
        pin(site, f"'{equation}' is not a plain product")
        return
    bias = layer.bias
    if bias is not None and (
        [*layer.bias_axes.replace(" ", "")] != produced
        or not made.endswith("".join(produced))
    ):
        pin(site, "its bias varies along other axes than its kernel")
        return
    one_each = len(contracted) == len(produced) == 1
    for axis, label in enumerate(read):
        if axis and label in made:
            target = (out, made.index(label))
            site.move((x, axis), target, constants.unknown)
    _mix(
        site,
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


def embedding(site):
    """A product with the one-hot vectors of its input."""
    layer, out = site.layer, site.outputs[0]
    one_hot = site.graph.value((None, layer.input_dim), site.path)
    site.graph.mix(
        site,
        [(one_hot, 1)],
        [(out, len(out.shape) - 1)],
        layer.embeddings,
        macs=0,
        prunes_columns=False,
    )


def resize_conv(layer, size, shape):
    kept = size(layer.kernel, -1)
    per_group = layer.filters // layer.groups
    return {"filters": kept, "groups": max(1, kept // per_group)}
