"""Rules of layers that move channels to other places."""

from __future__ import annotations

import dataclasses
import math

from keras_prm.dependency import constants
from keras_prm.dependency import reshape_ids


def reshape(call):
    """Axes that are joined or cut pass their channels on by position."""
    x, out = call.inputs[0], call.outputs[0]
    target = reshape_ids.resolve(x.shape[1:], out.shape[1:])
    same_batch = x.shape[0] == out.shape[0]
    if (
        target is None
        or not same_batch
        or math.prod(target) != math.prod(x.shape[1:])
    ):
        if any(ids is not None for ids in x.ids):
            _keep_last_axes(call)
        return
    for sources, targets in reshape_ids.blocks(x.shape[1:], target):
        named = [i for i in sources if x.ids[i + 1] is not None]
        if len(named) == 1:
            _carry(call, named[0], sources, targets, target)
        for axis in named[1:] and named:
            reason = f"'{call.path}' merges it with another pruned axis"
            call.graph.read(x, axis + 1, reason)


def _keep_last_axes(call):
    """What is sure where sizes are unknown: equal axes at the end stay."""
    x, out = call.inputs[0], call.outputs[0]
    axis = -1
    last = min(len(x.shape), len(out.shape)) - 1
    while axis >= -last and x.shape[axis] == out.shape[axis] is not None:
        call.move((x, len(x.shape) + axis), (out, len(out.shape) + axis))
        axis -= 1
    for other in range(1, len(x.shape) + axis + 1):
        call.graph.read(x, other, f"'{call.path}' reshapes it")


def flatten(call):
    """Each channel becomes one position for each place in space."""
    x = call.inputs[0]
    if call.layer.data_format == "channels_first" and len(x.shape) > 2:
        order = (*range(2, len(x.shape)), 1)
        shape = [x.shape[0], *(x.shape[axis] for axis in order)]
        moved = call.graph.value(shape, call.path)
        for axis, source in enumerate(order, start=1):
            call.move((x, source), (moved, axis))
        call = dataclasses.replace(call, inputs=[moved])
    reshape(call)


def _carry(call, named, sources, targets, target):
    x, out = call.inputs[0], call.outputs[0]
    axis, ids, ties, old, new = reshape_ids.carry(
        x.ids[named + 1],
        named - sources.start,
        [x.shape[i + 1] for i in sources],
        [target[i] for i in targets],
    )
    if axis is None:
        call.graph.read(x, named + 1, f"'{call.path}' drops this axis")
        return
    axis += targets.start + 1
    out.ids[axis] = ids
    call.graph.tie(*ties)
    call.graph.positionwise(
        [(x, named + 1, old)], (out, axis, new), constants.same
    )


def resize_reshape(layer, size, shape):
    """The new shape, but -1 where the layer's own is."""
    return {
        "target_shape": [
            -1 if n is None or old == -1 else n
            for n, old in zip(shape[1:], layer.target_shape)
        ]
    }


def repeat_vector(call):
    """Channels pass to every repetition."""
    call.move((call.inputs[0], 1), (call.outputs[0], 2))


def permute(call):
    """Axes change places and take their channels along."""
    for axis, source in enumerate(call.layer.dims, start=1):
        call.move((call.inputs[0], source), (call.outputs[0], axis))
