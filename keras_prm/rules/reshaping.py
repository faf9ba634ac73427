"""Rules of layers that move channels to other places."""

from __future__ import annotations

import dataclasses
import math

from keras_prm.dependency import constants
from keras_prm.dependency import reshape_ids


def reshape(site):
    x, out = site.inputs[0], site.outputs[0]
    target = reshape_ids.resolve(x.shape[1:], out.shape[1:])
    same_batch = x.shape[0] == out.shape[0]
    if (
        target is None
        or not same_batch
        or math.prod(target) != math.prod(x.shape[1:])
    ):
        if any(ids is not None for ids in x.ids):
            _keep_last_axes(site)
        return
    for sources, targets in reshape_ids.blocks(x.shape[1:], target):
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
    axis, ids, ties, old, new = reshape_ids.carry(
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


def permute(site):
    for axis, source in enumerate(site.layer.dims, start=1):
        site.move((site.inputs[0], source), (site.outputs[0], axis))
