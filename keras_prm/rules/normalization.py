"""Rules of layers that scale channels, or normalize over them."""

from __future__ import annotations

import keras
import numpy as np

from keras_prm.dependency import constants
from keras_prm.rules.base import channel_axis
from keras_prm.rules.base import pin


def _move_others(call, axis):
    x, out = call.inputs[0], call.outputs[0]
    for other in range(1, len(x.shape)):
        if other != axis:
            call.move((x, other), (out, other), constants.unknown)


def batch_normalization(call):
    """Scales and shifts each channel; its vectors shrink with it."""
    layer, x, out = call.layer, call.inputs[0], call.outputs[0]
    axis = layer.axis % len(x.shape)
    ids = call.graph.ids(x, axis)
    for variable, role in (
        (layer.gamma if layer.scale else None, "vector"),
        (layer.beta if layer.center else None, "vector"),
        (layer.moving_mean, "statistic"),
        (layer.moving_variance, "statistic"),
    ):
        if variable is not None:
            call.graph.weight(variable, [ids], role)
    _move_others(call, axis)
    call.graph.affine((x, axis), (out, axis), constants.normalized(layer))


def group_normalization(call):
    """Channels of a group stand together, since its moments read them all."""
    layer, x, out = call.layer, call.inputs[0], call.outputs[0]
    axis = layer.axis % len(x.shape)
    groups = x.shape[axis] if layer.groups == -1 else layer.groups
    if groups == 1 and x.shape[axis] > 1:
        pin(call, "it normalizes over all channels")
        return
    ids = call.graph.ids(x, axis)
    blocks = ids.reshape(groups, -1)
    call.graph.tie(np.repeat(blocks[:, 0], blocks.shape[1]), ids)
    for variable in (layer.gamma, layer.beta):
        if variable is not None:
            call.graph.weight(variable, [ids], "vector")
    _move_others(call, axis)

    def combine(inputs):
        by_group = inputs.reshape(groups, -1)
        centered = by_group - by_group.mean(axis=1, keepdims=True)
        variance = by_group.var(axis=1, keepdims=True)
        found = (centered / np.sqrt(variance + layer.epsilon)).reshape(-1)
        gamma = 1.0 if layer.gamma is None else _array(layer.gamma)
        beta = 0.0 if layer.beta is None else _array(layer.beta)
        return found * gamma + beta

    call.graph.moments((x, axis), (out, axis), groups, combine)


def resize_group_normalization(layer, size, shape):
    """As many channels a group as before."""
    (before,) = layer.input_spec.axes.values()
    after = shape[layer.axis % len(shape)]
    return {"groups": after * layer.groups // before}


def normalizes(call):
    """A layer that reads every channel of the axes it normalizes over."""
    pin(call, "it normalizes over all channels")


def prelu(call):
    """A slope for each channel, shared along axes of space or not."""
    layer, x, out = call.layer, call.inputs[0], call.outputs[0]
    shape = layer.alpha.shape
    own = [n > 1 or x.shape[i + 1] == 1 for i, n in enumerate(shape)]
    ids = [x.ids[i + 1] if varies else None for i, varies in enumerate(own)]
    call.graph.weight(layer.alpha, ids, "statistic")
    for axis in range(1, len(x.shape)):

        def combine(inputs, axis=axis):
            slopes = np.moveaxis(_array(layer.alpha), axis - 1, 0)
            slopes = slopes.reshape(len(slopes), -1)
            same = (slopes == slopes[:, :1]).all(axis=1)
            slope = np.where(same, slopes[:, 0], np.nan)
            return np.where(inputs >= 0, inputs, slope * inputs)

        call.move((x, axis), (out, axis), combine)


def layer_scale(call):
    """One factor per channel, ConvNeXt's."""
    layer, x, out = call.layer, call.inputs[0], call.outputs[0]
    axis = len(x.shape) - 1
    call.graph.weight(layer.gamma, [call.graph.ids(x, axis)], "vector")
    _move_others(call, axis)
    gamma = layer.gamma
    call.graph.affine((x, axis), (out, axis), lambda read: (read(gamma), 0.0))


def rescaling(call):
    """Numbers of its config belong to the channels of the last axis."""
    layer, x, out = call.layer, call.inputs[0], call.outputs[0]
    if np.ndim(layer.scale) == np.ndim(layer.offset) == 0:
        for axis in range(1, len(x.shape)):
            call.move((x, axis), (out, axis), constants.by(call))
        return
    _fixed(call, [channel_axis(layer, x)])


def normalization(call):
    """Scales and shifts each channel by constants of the config."""
    axes = call.layer.axis
    axes = () if axes is None else axes
    axes = (axes,) if isinstance(axes, int) else axes
    _fixed(call, [axis % len(call.inputs[0].shape) for axis in axes])


def _fixed(call, axes):
    """Passes all axes on; those named keep their width."""
    x, out = call.inputs[0], call.outputs[0]
    for axis in range(1, len(x.shape)):
        if axis in axes and x.ids[axis] is not None:
            reason = f"'{call.path}' holds one number for each of its channels"
            call.graph.fix(x.ids[axis], reason)
        call.move((x, axis), (out, axis), constants.unknown)


def _array(variable):
    return keras.ops.convert_to_numpy(variable).astype("float64")
