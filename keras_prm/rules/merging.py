"""Rules of layers and operations that join tensors."""

from __future__ import annotations

import numpy as np

from keras_prm.dependency import constants
from keras_prm.rules.base import pin


def join(combine):
    """A rule that ties the channels of all inputs, position by position."""

    def rule(call):
        rank = len(call.outputs[0].shape)
        if any(len(x.shape) != rank for x in call.inputs):
            pin(call, "it joins tensors of different rank")
            return
        if call.has_arrays():
            pin(call, "it joins tensors with an array")
            return
        for axis in range(1, rank):
            _join_axis(call, axis, combine)

    return rule


def scaled_sum(call):
    """`x + scale * y`, Inception-ResNet's."""
    scale = call.layer.scale
    join(lambda x, y: x + scale * y)(call)


def _join_axis(call, axis, combine):
    out = call.outputs[0]
    if _is_untracked(call, axis):
        return
    size = out.shape[axis]
    every, first, sources = np.arange(size), None, []
    for x in call.inputs:
        ids = call.graph.ids(x, axis)
        if x.shape[axis] != size:
            call.graph.fix(ids, f"'{call.path}' broadcasts it")
            sources.append((x, axis, np.zeros(size, int)))
            continue
        if first is None:
            first = ids
        call.graph.tie(first, ids)
        sources.append((x, axis, every))
    out.ids[axis] = first
    call.graph.positionwise(sources, (out, axis, every), combine)


def _is_untracked(call, axis):
    """True where no ids can pass, after pinning those that there are."""
    if all(x.ids[axis] is None for x in call.inputs):
        return True
    if any(x.shape[axis] is None for x in call.inputs):
        reason = f"'{call.path}' joins it with an axis of unknown length"
        for x in call.inputs:
            call.graph.read(x, axis, reason)
        return True
    return False


def concatenate(call, axis=None):
    """The channels of the inputs, one tensor's after the other's."""
    out = call.outputs[0]
    rank = len(out.shape)
    along = (call.layer.axis if axis is None else axis) % rank
    if call.has_arrays() or along == 0:
        pin(call, "it joins tensors with an array, or along the batch")
        return
    for axis in range(1, rank):
        if axis != along:
            _join_axis(call, axis, constants.unknown)
    if _is_untracked(call, along):
        return
    parts, start = [], 0
    for x in call.inputs:
        ids = call.graph.ids(x, along)
        every = np.arange(len(ids))
        call.graph.positionwise(
            [(x, along, every)], (out, along, every + start), constants.same
        )
        parts.append(ids)
        start += len(ids)
    out.ids[along] = np.concatenate(parts)
