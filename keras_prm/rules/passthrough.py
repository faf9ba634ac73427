"""Rules of layers that hand channels on, position by position."""

from __future__ import annotations

import numpy as np

from keras_prm.dependency import constants
from keras_prm.rules import merging
from keras_prm.rules.base import channel_axis
from keras_prm.rules.base import pin
from keras_prm.rules.base import read_others


def elementwise(site):
    for x in site.inputs[:1]:
        for axis in range(1, len(x.shape)):
            site.move((x, axis), (site.outputs[0], axis), constants.by(site))


def identity(site):
    for axis in range(1, len(site.inputs[0].shape)):
        site.move((site.inputs[0], axis), (site.outputs[0], axis))


def resize_dropout(layer, size, shape):
    """Where the shape of the noise holds a width, it holds the new one."""
    own = list(layer.noise_shape or ())
    ends = shape[len(shape) - len(own) :]
    new = [m if n not in (None, 1) and m else n for n, m in zip(own, ends)]
    return {"noise_shape": type(layer.noise_shape)(new)} if own else {}


def activation(site):
    if constants.is_elementwise(site.layer.activation):
        elementwise(site)
    else:
        pin(site, "its activation reads every channel")


def along_space(combine):
    """Layers that change the spatial axes and nothing else."""

    def rule(site):
        x, out = site.inputs[0], site.outputs[0]
        axis = channel_axis(site.layer, x)
        read_others(site, x, axis, "it changes this axis")
        site.move((x, axis), (out, axis), combine)

    return rule


def global_pooling(site):
    x, out = site.inputs[0], site.outputs[0]
    axis = channel_axis(site.layer, x)
    read_others(site, x, axis, "it is pooled over")
    site.move((x, axis), (out, axis if site.layer.keepdims else 1))


def resizing(site):
    """Interpolation keeps a constant, a border of another value does not."""
    layer = site.layer
    fill = layer.fill_value

    def bordered(c):
        return np.where(c == fill, c, np.nan)

    padded = getattr(layer, "pad_to_aspect_ratio", False)
    along_space(bordered if padded else constants.same)(site)


# Joins.


# What `Bidirectional` makes of its two directions.
MERGES = {
    "concat": lambda site: merging.concatenate(site, axis=-1),
    "sum": merging.join(constants.add),
    "mul": merging.join(constants.multiply),
    "ave": merging.join(constants.average),
}
