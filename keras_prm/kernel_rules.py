"""Rules of layers with a kernel: they make channels."""

from __future__ import annotations

from keras_prm import constants
from keras_prm.sites import channel_axis
from keras_prm.sites import read_others


def _read_unless_elementwise(site, out, axis):
    if not constants.is_elementwise(site.layer.activation):
        name = getattr(site.layer.activation, "__name__", "activation")
        reason = f"the {name} of '{site.path}' reads every channel"
        site.trace.read(out, axis, reason)


def _is_pointwise(layer):
    return all(size == 1 for size in layer.kernel_size)


def dense(site):
    layer, x, out = site.layer, site.inputs[0], site.outputs[0]
    axis = len(x.shape) - 1
    for other in range(1, axis):
        site.move((x, other), (out, other), constants.unknown)
    site.trace.mix(
        site,
        (x, axis),
        (out, axis),
        layer.kernel,
        layer.bias if layer.use_bias else None,
        groups=1,
        depthwise=False,
        foldable=True,
        activation=constants.of(layer.activation),
    )
    _read_unless_elementwise(site, out, axis)


def conv(site, depthwise=False):
    layer, x, out = site.layer, site.inputs[0], site.outputs[0]
    axis = channel_axis(layer, x)
    read_others(site, x, axis, "a convolution slides over it")
    site.trace.mix(
        site,
        (x, axis),
        (out, axis),
        layer.kernel,
        layer.bias if layer.use_bias else None,
        groups=1 if depthwise else layer.groups,
        depthwise=depthwise,
        foldable=layer.padding == "valid" or _is_pointwise(layer),
        activation=constants.of(layer.activation),
    )
    _read_unless_elementwise(site, out, axis)


def depthwise(site):
    conv(site, depthwise=True)


def separable(site):
    layer, x, out = site.layer, site.inputs[0], site.outputs[0]
    axis = channel_axis(layer, x)
    read_others(site, x, axis, "a convolution slides over it")
    shape = list(out.shape)
    shape[axis] = layer.pointwise_kernel.shape[-2]
    hidden = site.trace.value(shape, site.path)
    site.trace.mix(
        site,
        (x, axis),
        (hidden, axis),
        layer.depthwise_kernel,
        None,
        groups=1,
        depthwise=True,
        foldable=layer.padding == "valid" or _is_pointwise(layer),
        activation=constants.same,
    )
    site.trace.mix(
        site,
        (hidden, axis),
        (out, axis),
        layer.pointwise_kernel,
        layer.bias if layer.use_bias else None,
        groups=1,
        depthwise=False,
        foldable=True,
        activation=constants.of(layer.activation),
    )
    _read_unless_elementwise(site, out, axis)


def resize_conv(layer, size, shape):
    kept = size(layer.kernel, -1)
    per_group = layer.filters // layer.groups
    return {"filters": kept, "groups": max(1, kept // per_group)}
