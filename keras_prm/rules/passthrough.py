"""Rules of layers that hand channels on, position by position."""

from __future__ import annotations

import numpy as np

from keras_prm.dependency import constants
from keras_prm.rules import merging
from keras_prm.rules.base import channel_axis
from keras_prm.rules.base import pin
from keras_prm.rules.base import read_others


def elementwise(call):
    """Each position passes on, mapped by the layer itself."""
    for x in call.inputs[:1]:
        for axis in range(1, len(x.shape)):
            call.move((x, axis), (call.outputs[0], axis), constants.by(call))


def identity(call):
    """Each position passes on as it is."""
    for axis in range(1, len(call.inputs[0].shape)):
        call.move((call.inputs[0], axis), (call.outputs[0], axis))


def resize_dropout(layer, size, shape):
    """Where the shape of the noise holds a width, it holds the new one."""
    own = list(layer.noise_shape or ())
    ends = shape[len(shape) - len(own) :]
    new = [m if n not in (None, 1) and m else n for n, m in zip(own, ends)]
    return {"noise_shape": type(layer.noise_shape)(new)} if own else {}


def activation(call):
    """Each position passes on, or all are read, as by softmax."""
    if constants.is_elementwise(call.layer.activation):
        elementwise(call)
    else:
        pin(call, "its activation reads every channel")


def along_space(combine):
    """Layers that change the spatial axes and nothing else."""

    def rule(call):
        x, out = call.inputs[0], call.outputs[0]
        axis = channel_axis(call.layer, x)
        read_others(call, x, axis, "it changes this axis")
        call.move((x, axis), (out, axis), combine)

    return rule


def global_pooling(call):
    """Channels pass; the positions they are pooled over are read."""
    x, out = call.inputs[0], call.outputs[0]
    axis = channel_axis(call.layer, x)
    read_others(call, x, axis, "it is pooled over")
    call.move((x, axis), (out, axis if call.layer.keepdims else 1))


def resizing(call):
    """Interpolation keeps a constant, a border of another value does not."""
    layer = call.layer
    fill = layer.fill_value

    def bordered(c):
        return np.where(c == fill, c, np.nan)

    padded = getattr(layer, "pad_to_aspect_ratio", False)
    along_space(bordered if padded else constants.same)(call)


# Joins.


# What `Bidirectional` makes of its two directions.
MERGES = {
    "concat": lambda call: merging.concatenate(call, axis=-1),
    "sum": merging.join(constants.add),
    "mul": merging.join(constants.multiply),
    "ave": merging.join(constants.average),
}
