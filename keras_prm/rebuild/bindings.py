"""Whether numbers in a config are one per channel, measured.

What has a number for each channel makes the same of channels in another order
if its numbers change places with them, and something else if they do not.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from keras_prm.rebuild import config_arrays

NONE = "none"
CHANNELS = "channels"
UNKNOWN = "unknown"

# Magnitudes of what it is tried on: a bound may act on large numbers alone.
_SCALES = (0.01, 1.0, 100.0)
_ROUNDING = 1e-4
_ROWS = 4  # in place of a number of samples that is not known


def of(value, config, extents, rebuild):
    """What the arrays in a config are numbers of.

    Args:
        value: A regularizer or a constraint, called on one tensor.
        config: Its config.
        extents: list of the `Extent`s of what it is called on.
        rebuild: Function from a config to an object like `value`, or `None`.

    Returns:
        `NONE` where the channels may change places and it does the same;
        `CHANNELS` where it does if the numbers change places with them;
        `UNKNOWN` elsewhere.
    """
    try:
        found = {_of_one(config, extent, rebuild) for extent in extents}
    except Exception:  # it does not take another order
        return UNKNOWN
    return found.pop() if len(found) == 1 else UNKNOWN


def _of_one(config, extent, rebuild):
    rng = np.random.default_rng(0)
    order = [
        None if n == m else rng.permutation(n)
        for n, m in zip(extent.before, extent.after)
    ]
    config = config_arrays.change(config, unequal, _sizes(extent))
    own = rebuild(config)
    moved = _moved(config, extent, order, rebuild)
    is_free, is_bound = True, moved is not None
    for scale in _SCALES:
        x = rng.normal(scale=scale, size=[n or _ROWS for n in extent.before])
        expected = _call(own, x)
        if expected.shape == x.shape:  # a constraint
            expected = _take(expected, order)
        is_free &= _equal(_call(own, _take(x, order)), expected)
        if is_bound:
            is_bound = _equal(_call(moved, _take(x, order)), expected)
    if is_free:
        return NONE
    return CHANNELS if is_bound else UNKNOWN


def _moved(config, extent, order, rebuild):
    """The object whose numbers have changed places; `None` if unclear."""
    found = []

    def move(array):
        found.append(extent.cut(array, order))
        return array if found[-1] is None else found[-1]

    smaller = config_arrays.change(config, move, _sizes(extent))
    if any(array is None for array in found):
        return None
    return rebuild(smaller)


def _sizes(extent):
    return {n for n in extent.before if n}


def unequal(array):
    """An array in which no two numbers are equal by chance."""
    if array.dtype.kind not in "iuf" or len(np.unique(array)) > 1:
        return array
    steps = np.arange(1, array.size + 1).reshape(array.shape)
    if array.dtype.kind in "iu":
        return array + steps
    return (array + np.where(array == 0, 1, array) * steps / array.size).astype(
        array.dtype
    )


def _call(function, x):
    x = ops.convert_to_tensor(x.astype(keras.config.floatx()))
    found = np.asarray(ops.convert_to_numpy(function(x)), float)
    if not np.isfinite(found).all():
        raise ValueError
    return found


def _take(array, order):
    for axis, positions in enumerate(order):
        if positions is not None:
            array = np.take(array, positions, axis)
    return array


def _equal(one, other):
    peak = np.abs(other).max(initial=0)
    return one.shape == other.shape and bool(
        (np.abs(one - other) <= _ROUNDING * peak).all()
    )
