"""Rules of layers with a kernel: they make channels."""

from __future__ import annotations

from keras_prm import constants
from keras_prm.sites import channel_axis
from keras_prm.sites import read_others


def _mix(site, source, target, kernel, groups=1, depthwise=False, **options):
    """A product with a layer's kernel, then its bias and activation."""
    layer = site.layer
    site.trace.mix(
        site,
        source,
        target,
        kernel,
        layer.bias if layer.use_bias else None,
        groups=groups,
        depthwise=depthwise,
        activation=constants.of(layer.activation),
        **options,
    )
    if not constants.is_elementwise(layer.activation):
        name = getattr(layer.activation, "__name__", "activation")
        reason = f"the {name} of '{site.path}' reads every channel"
        site.trace.read(*target, reason)


def _is_foldable(layer):
    """True where all positions of the output see as much of the input."""
    return layer.padding == "valid" or all(k == 1 for k in layer.kernel_size)


def dense(site):
    layer, x, out = site.layer, site.inputs[0], site.outputs[0]
    axis = len(x.shape) - 1
    for other in range(1, axis):
        site.move((x, other), (out, other), constants.unknown)
    _mix(site, (x, axis), (out, axis), layer.kernel, foldable=True)


def conv(site, depthwise=False):
    layer, x, out = site.layer, site.inputs[0], site.outputs[0]
    axis = channel_axis(layer, x)
    read_others(site, x, axis, "a convolution slides over it")
    _mix(
        site,
        (x, axis),
        (out, axis),
        layer.kernel,
        foldable=_is_foldable(layer),
        groups=1 if depthwise else layer.groups,
        depthwise=depthwise,
    )


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
        foldable=_is_foldable(layer),
        activation=constants.same,
    )
    _mix(
        site,
        (hidden, axis),
        (out, axis),
        layer.pointwise_kernel,
        foldable=True,
    )


def resize_conv(layer, size, shape):
    kept = size(layer.kernel, -1)
    per_group = layer.filters // layer.groups
    return {"filters": kept, "groups": max(1, kept // per_group)}
