"""Channel ids behind a reshape."""

from __future__ import annotations

import math

import numpy as np


def blocks(source, target):
    """Splits two shapes of equal size into the shortest blocks that match.

    Args:
        source: Shape before, a sequence of positive ints.
        target: Shape after, of the same total size.

    Returns:
        list of `(source_axes, target_axes)`, two ranges each. No element
        moves from one block to another, and no block can be split.
    """
    found, i, j = [], 0, 0
    while i < len(source) or j < len(target):
        i0, j0 = i, j
        a = b = 1
        if i < len(source):
            a, i = source[i], i + 1
        if j < len(target):
            b, j = target[j], j + 1
        while a != b:
            if a < b:
                a, i = a * source[i], i + 1
            else:
                b, j = b * target[j], j + 1
        found.append((range(i0, i), range(j0, j)))
    return found


def carry(ids, axis, source, target):
    """Finds the axis that holds the ids of one source axis after a reshape.

    Args:
        ids: int array `(source[axis],)`, the channel ids before.
        axis: The axis they are on, within the block.
        source: Shape of the block before.
        target: Shape of the block after.

    Returns:
        `(new_axis, new_ids, ties, from_positions, to_positions)`: the axis
        of `target` that carries them (`None` where the block vanishes),
        its ids, a pair of id arrays that have to be tied because they share
        a position, and which old position goes to which new one.
    """
    shape = [1] * len(source)
    shape[axis] = -1
    old = np.broadcast_to(np.arange(len(ids)).reshape(shape), source)
    old = np.ascontiguousarray(old).reshape(target)
    spread = np.asarray(ids)[old]
    new_axis = _carrier(spread)
    if new_axis is None:
        return None, None, (ids[:0], ids[:0]), ids[:0], ids[:0]
    by_position = np.moveaxis(spread, new_axis, 0).reshape(target[new_axis], -1)
    first = np.ascontiguousarray(by_position[:, 0])
    ties = (np.repeat(first, by_position.shape[1]), by_position.ravel())
    old = np.moveaxis(old, new_axis, 0).reshape(target[new_axis], -1)
    moves = np.stack(
        [old.ravel(), np.repeat(np.arange(len(old)), old.shape[1])]
    )
    moves = np.unique(moves, axis=1)
    return new_axis, first, ties, moves[0], moves[1]


def _carrier(spread):
    """The first axis along which the ids vary, else the longest."""
    if not spread.ndim or not spread.size:
        return None
    for axis in range(spread.ndim):
        start = np.take(spread, [0], axis)
        if (spread != start).any():
            return axis
    return int(np.argmax(spread.shape))


def resolve(source, target):
    """Fills a single -1 in `target` so that the sizes agree.

    Returns:
        The target shape as a list, or `None` where a size is not known.
    """
    if any(n is None for n in source):
        return None
    target = [-1 if n is None else n for n in target]
    if target.count(-1) > 1:
        return None
    if -1 in target:
        rest = -math.prod(target)
        target[target.index(-1)] = math.prod(source) // rest
    return target
