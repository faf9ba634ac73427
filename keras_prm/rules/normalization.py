"""Rules of layers that scale channels, or normalise over them."""

from __future__ import annotations

import keras
import numpy as np

from keras_prm.dependency import constants
from keras_prm.rules.base import channel_axis
from keras_prm.rules.base import pin


def _move_others(site, axis):
    x, out = site.inputs[0], site.outputs[0]
    for other in range(1, len(x.shape)):
        if other != axis:
            site.move((x, other), (out, other), constants.unknown)


def batch_normalization(site):
    layer, x, out = site.layer, site.inputs[0], site.outputs[0]
    axis = layer.axis % len(x.shape)
    ids = site.graph.ids(x, axis)
    for variable, role in (
        (layer.gamma if layer.scale else None, "vector"),
        (layer.beta if layer.center else None, "vector"),
        (layer.moving_mean, "statistic"),
        (layer.moving_variance, "statistic"),
    ):
        if variable is not None:
            site.graph.weight(variable, [ids], role)
    _move_others(site, axis)
    site.graph.affine((x, axis), (out, axis), constants.normalization(layer))


def group_normalization(site):
    """Channels of a group stand together, since its moments read them all."""
    layer, x, out = site.layer, site.inputs[0], site.outputs[0]
    axis = layer.axis % len(x.shape)
    groups = x.shape[axis] if layer.groups == -1 else layer.groups
    if groups == 1 and x.shape[axis] > 1:
        pin(site, "it normalises over all channels")
        return
    ids = site.graph.ids(x, axis)
    blocks = ids.reshape(groups, -1)
    site.graph.tie(np.repeat(blocks[:, 0], blocks.shape[1]), ids)
    for variable in (layer.gamma, layer.beta):
        if variable is not None:
            site.graph.weight(variable, [ids], "vector")
    _move_others(site, axis)

    def combine(inputs):
        by_group = inputs.reshape(groups, -1)
        centered = by_group - by_group.mean(axis=1, keepdims=True)
        variance = by_group.var(axis=1, keepdims=True)
        found = (centered / np.sqrt(variance + layer.epsilon)).reshape(-1)
        gamma = 1.0 if layer.gamma is None else _array(layer.gamma)
        beta = 0.0 if layer.beta is None else _array(layer.beta)
        return found * gamma + beta

    site.graph.moments((x, axis), (out, axis), groups, combine)


def resize_group_normalization(layer, size, shape):
    """As many channels a group as before."""
    (before,) = layer.input_spec.axes.values()
    after = shape[layer.axis % len(shape)]
    return {"groups": after * layer.groups // before}


def normalises(site):
    """A layer that reads every channel of the axes it normalises over."""
    pin(site, "it normalises over all channels")


def prelu(site):
    layer, x, out = site.layer, site.inputs[0], site.outputs[0]
    shape = layer.alpha.shape
    own = [n > 1 or x.shape[i + 1] == 1 for i, n in enumerate(shape)]
    ids = [x.ids[i + 1] if varies else None for i, varies in enumerate(own)]
    site.graph.weight(layer.alpha, ids, "statistic")
    for axis in range(1, len(x.shape)):

        def combine(inputs, axis=axis):
            slopes = np.moveaxis(_array(layer.alpha), axis - 1, 0)
            slopes = slopes.reshape(len(slopes), -1)
            same = (slopes == slopes[:, :1]).all(axis=1)
            slope = np.where(same, slopes[:, 0], np.nan)
            return np.where(inputs >= 0, inputs, slope * inputs)

        site.move((x, axis), (out, axis), combine)


def layer_scale(site):
    """One factor per channel, ConvNeXt's."""
    layer, x, out = site.layer, site.inputs[0], site.outputs[0]
    axis = len(x.shape) - 1
    site.graph.weight(layer.gamma, [site.graph.ids(x, axis)], "vector")
    _move_others(site, axis)
    gamma = layer.gamma
    site.graph.affine((x, axis), (out, axis), lambda read: (read(gamma), 0.0))


def rescaling(site):
    """Numbers of its config belong to the channels of the last axis."""
    layer, x, out = site.layer, site.inputs[0], site.outputs[0]
    if np.ndim(layer.scale) == np.ndim(layer.offset) == 0:
        for axis in range(1, len(x.shape)):
            site.move((x, axis), (out, axis), constants.by(site))
        return
    _fixed(site, [channel_axis(layer, x)])


def normalization(site):
    axes = site.layer.axis
    axes = () if axes is None else axes
    axes = (axes,) if isinstance(axes, int) else axes
    _fixed(site, [axis % len(site.inputs[0].shape) for axis in axes])


def _fixed(site, axes):
    """Passes all axes on; those named keep their width."""
    x, out = site.inputs[0], site.outputs[0]
    for axis in range(1, len(x.shape)):
        if axis in axes and x.ids[axis] is not None:
            reason = f"'{site.path}' holds one number for each of its channels"
            site.graph.fix(x.ids[axis], reason)
        site.move((x, axis), (out, axis), constants.unknown)


def _array(variable):
    return keras.ops.convert_to_numpy(variable).astype("float64")
