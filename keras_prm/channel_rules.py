"""Rules of layers that pass channels on, move them or join them."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np

from keras_prm import constants
from keras_prm import reshaping
from keras_prm.sites import channel_axis
from keras_prm.sites import pin
from keras_prm.sites import read_others


def batch_normalization(site):
    layer, x, out = site.layer, site.inputs[0], site.outputs[0]
    axis = layer.axis % len(x.shape)
    ids = site.trace.ids(x, axis)
    for variable, role in (
        (layer.gamma if layer.scale else None, "vector"),
        (layer.beta if layer.center else None, "vector"),
        (layer.moving_mean, "statistic"),
        (layer.moving_variance, "statistic"),
    ):
        if variable is not None:
            site.trace.weight(variable, [ids], role)
    scale, _ = constants.normalization(layer)
    for other in range(1, len(x.shape)):
        if other != axis:
            site.move((x, other), (out, other), constants.unknown)

    def combine(inputs):  # Read late: purification zeroes gamma and beta.
        return constants.affine(*constants.normalization(layer))(inputs)

    site.move((x, axis), (out, axis), combine, scale != 0)


def elementwise(site):
    for x in site.inputs[:1]:
        for axis in range(1, len(x.shape)):
            site.move((x, axis), (site.outputs[0], axis), constants.by(site))


def identity(site):
    for axis in range(1, len(site.inputs[0].shape)):
        site.move((site.inputs[0], axis), (site.outputs[0], axis))


def activation(site):
    if constants.is_elementwise(site.layer.activation):
        elementwise(site)
    else:
        pin(site, "its activation reads every channel")


def elementwise_operation(site):
    if len(site.inputs) == 1:
        elementwise(site)
    else:
        pin(site, "it is called with several tensors")


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
    if target is None:
        if any(ids is not None for ids in x.ids):
            pin(site, "it reshapes axes of unknown length")
        return
    for sources, targets in reshaping.blocks(x.shape[1:], target):
        named = [i for i in sources if x.ids[i + 1] is not None]
        if len(named) == 1:
            _carry(site, named[0], sources, targets, target)
        for axis in named[1:] and named:
            reason = f"'{site.path}' merges it with another pruned axis"
            site.trace.read(x, axis + 1, reason)


def flatten(site):
    x = site.inputs[0]
    if site.layer.data_format == "channels_first" and len(x.shape) > 2:
        order = (*range(2, len(x.shape)), 1)
        shape = [x.shape[0], *(x.shape[axis] for axis in order)]
        moved = site.trace.value(shape, site.path)
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
        site.trace.read(x, named + 1, f"'{site.path}' drops this axis")
        return
    axis += targets.start + 1
    out.ids[axis] = ids
    site.trace.tie(*ties)
    site.trace.flow([(x, named + 1, old)], (out, axis, new), constants.same)


def resize_reshape(layer, size, shape):
    """The new shape, but -1 where the layer's own is."""
    return {
        "target_shape": [
            -1 if n is None or old == -1 else n
            for n, old in zip(shape[1:], layer.target_shape)
        ]
    }


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
        for axis in range(1, rank):
            _join_axis(site, axis, combine)

    return rule


def _join_axis(site, axis, combine):
    out = site.outputs[0]
    if _is_untracked(site, axis):
        return
    size = out.shape[axis]
    every, first, sources = np.arange(size), None, []
    for x in site.inputs:
        ids = site.trace.ids(x, axis)
        if x.shape[axis] != size:
            site.trace.fix(ids, f"'{site.path}' broadcasts it")
            sources.append((x, axis, np.zeros(size, int)))
            continue
        if first is None:
            first = ids
        site.trace.tie(first, ids)
        sources.append((x, axis, every))
    out.ids[axis] = first
    site.trace.flow(sources, (out, axis, every), combine)


def _is_untracked(site, axis):
    """True where no ids can pass, after pinning those that there are."""
    if all(x.ids[axis] is None for x in site.inputs):
        return True
    if any(x.shape[axis] is None for x in site.inputs):
        reason = f"'{site.path}' joins it with an axis of unknown length"
        for x in site.inputs:
            site.trace.read(x, axis, reason)
        return True
    return False


def scalar_or_join(combine):
    """Operators: two tensors are joined, one with a number is elementwise."""
    join_tensors = join(combine)

    def rule(site):
        others = [
            x
            for x in (
                *site.call.arguments.args,
                *site.call.arguments.kwargs.values(),
            )
            if not isinstance(x, keras.KerasTensor)
        ]
        if len(site.inputs) == 2 and not others:
            join_tensors(site)
        elif len(site.inputs) == 1 and all(np.ndim(x) == 0 for x in others):
            elementwise(site)
        else:
            pin(site, "it joins a tensor with an array")

    return rule


def concatenate(site):
    out = site.outputs[0]
    rank = len(out.shape)
    along = site.layer.axis % rank
    for axis in range(1, rank):
        if axis != along:
            _join_axis(site, axis, constants.unknown)
    if _is_untracked(site, along):
        return
    parts, start = [], 0
    for x in site.inputs:
        ids = site.trace.ids(x, along)
        every = np.arange(len(ids))
        site.trace.flow(
            [(x, along, every)], (out, along, every + start), constants.same
        )
        parts.append(ids)
        start += len(ids)
    out.ids[along] = np.concatenate(parts)
