"""Rules of layers that pass channels on, move them or join them."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from keras_prm.dependency import constants
from keras_prm.dependency import reshaping
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


def reshape(site):
    x, out = site.inputs[0], site.outputs[0]
    target = reshaping.resolve(x.shape[1:], out.shape[1:])
    same_batch = x.shape[0] == out.shape[0]
    if (
        target is None
        or not same_batch
        or math.prod(target) != math.prod(x.shape[1:])
    ):
        if any(ids is not None for ids in x.ids):
            _keep_last_axes(site)
        return
    for sources, targets in reshaping.blocks(x.shape[1:], target):
        named = [i for i in sources if x.ids[i + 1] is not None]
        if len(named) == 1:
            _carry(site, named[0], sources, targets, target)
        for axis in named[1:] and named:
            reason = f"'{site.path}' merges it with another pruned axis"
            site.graph.read(x, axis + 1, reason)


def _keep_last_axes(site):
    """What is sure where sizes are unknown: equal axes at the end stay."""
    x, out = site.inputs[0], site.outputs[0]
    axis = -1
    last = min(len(x.shape), len(out.shape)) - 1
    while axis >= -last and x.shape[axis] == out.shape[axis] is not None:
        site.move((x, len(x.shape) + axis), (out, len(out.shape) + axis))
        axis -= 1
    for other in range(1, len(x.shape) + axis + 1):
        site.graph.read(x, other, f"'{site.path}' reshapes it")


def flatten(site):
    x = site.inputs[0]
    if site.layer.data_format == "channels_first" and len(x.shape) > 2:
        order = (*range(2, len(x.shape)), 1)
        shape = [x.shape[0], *(x.shape[axis] for axis in order)]
        moved = site.graph.value(shape, site.path)
        for axis, source in enumerate(order, start=1):
            site.move((x, source), (moved, axis))
        site = dataclasses.replace(site, inputs=[moved])
    reshape(site)


def _carry(site, named, sources, targets, target):
    x, out = site.inputs[0], site.outputs[0]
    axis, ids, ties, old, new = reshaping.carry(
        x.ids[named + 1],
        named - sources.start,
        [x.shape[i + 1] for i in sources],
        [target[i] for i in targets],
    )
    if axis is None:
        site.graph.read(x, named + 1, f"'{site.path}' drops this axis")
        return
    axis += targets.start + 1
    out.ids[axis] = ids
    site.graph.tie(*ties)
    site.graph.flow([(x, named + 1, old)], (out, axis, new), constants.same)


def resize_reshape(layer, size, shape):
    """The new shape, but -1 where the layer's own is."""
    return {
        "target_shape": [
            -1 if n is None or old == -1 else n
            for n, old in zip(shape[1:], layer.target_shape)
        ]
    }


def repeat_vector(site):
    site.move((site.inputs[0], 1), (site.outputs[0], 2))


def resizing(site):
    """Interpolation keeps a constant, a border of another value does not."""
    layer = site.layer
    fill = layer.fill_value

    def bordered(c):
        return np.where(c == fill, c, np.nan)

    padded = getattr(layer, "pad_to_aspect_ratio", False)
    along_space(bordered if padded else constants.same)(site)


def permute(site):
    for axis, source in enumerate(site.layer.dims, start=1):
        site.move((site.inputs[0], source), (site.outputs[0], axis))


# Joins.


def join(combine):
    def rule(site):
        rank = len(site.outputs[0].shape)
        if any(len(x.shape) != rank for x in site.inputs):
            pin(site, "it joins tensors of different rank")
            return
        if site.has_arrays():
            pin(site, "it joins tensors with an array")
            return
        for axis in range(1, rank):
            _join_axis(site, axis, combine)

    return rule


def scaled_sum(site):
    """`x + scale * y`, Inception-ResNet's."""
    scale = site.layer.scale
    join(lambda x, y: x + scale * y)(site)


def _join_axis(site, axis, combine):
    out = site.outputs[0]
    if _is_untracked(site, axis):
        return
    size = out.shape[axis]
    every, first, sources = np.arange(size), None, []
    for x in site.inputs:
        ids = site.graph.ids(x, axis)
        if x.shape[axis] != size:
            site.graph.fix(ids, f"'{site.path}' broadcasts it")
            sources.append((x, axis, np.zeros(size, int)))
            continue
        if first is None:
            first = ids
        site.graph.tie(first, ids)
        sources.append((x, axis, every))
    out.ids[axis] = first
    site.graph.flow(sources, (out, axis, every), combine)


def _is_untracked(site, axis):
    """True where no ids can pass, after pinning those that there are."""
    if all(x.ids[axis] is None for x in site.inputs):
        return True
    if any(x.shape[axis] is None for x in site.inputs):
        reason = f"'{site.path}' joins it with an axis of unknown length"
        for x in site.inputs:
            site.graph.read(x, axis, reason)
        return True
    return False


def concatenate(site, axis=None):
    out = site.outputs[0]
    rank = len(out.shape)
    along = (site.layer.axis if axis is None else axis) % rank
    if site.has_arrays() or along == 0:
        pin(site, "it joins tensors with an array, or along the batch")
        return
    for axis in range(1, rank):
        if axis != along:
            _join_axis(site, axis, constants.unknown)
    if _is_untracked(site, along):
        return
    parts, start = [], 0
    for x in site.inputs:
        ids = site.graph.ids(x, along)
        every = np.arange(len(ids))
        site.graph.flow(
            [(x, along, every)], (out, along, every + start), constants.same
        )
        parts.append(ids)
        start += len(ids)
    out.ids[along] = np.concatenate(parts)


# What `Bidirectional` makes of its two directions.
MERGES = {
    "concat": lambda site: concatenate(site, axis=-1),
    "sum": join(constants.add),
    "mul": join(constants.multiply),
    "ave": join(constants.average),
}
