"""Rules of layers and operations that join tensors."""

from __future__ import annotations

import numpy as np

from keras_prm.dependency import constants
from keras_prm.rules.base import pin


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
