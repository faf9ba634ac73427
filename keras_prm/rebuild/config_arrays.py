"""Numbers in configs that belong to the positions of a tensor's axes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import keras
import numpy as np
from keras import ops

if TYPE_CHECKING:
    from typing import Any


@dataclasses.dataclass(frozen=True)
class Extent:
    """A tensor before and after positions of its axes went.

    Args:
        before: Its shape; `None` where a size is unknown.
        after: Its shape afterwards.
        kept: Per axis the positions that stay, an int array; `None` for all
            of them, or if that is not known.
    """

    before: tuple
    after: tuple
    kept: tuple

    @property
    def is_same(self):
        """Whether no size has changed."""
        return self.before == self.after

    @property
    def sizes(self):
        """The set of its sizes before, those that are known."""
        return {n for n in self.before if n}

    @property
    def lost(self):
        """dict from each old size that has changed to the new one.

        Without sizes that became several, or that another axis still has.
        """
        pairs = set(zip(self.before, self.after))
        sizes = [n for n, _ in pairs]
        return {n: m for n, m in pairs if n != m and sizes.count(n) == 1}

    def cut(self, array, positions=None):
        """The part of an array that stays; `None` where that is ambiguous.

        The array's axes are the tensor's if the shapes are equal. Else each
        one is the tensor's only axis of its length, if there is one.

        Args:
            array: NumPy array.
            positions: Per axis what to take instead of `kept`.
        """
        positions = positions or self.kept
        if array.shape == self.before:
            axes = list(range(array.ndim))
        else:
            axes = [self._axis(size) for size in array.shape]
        for axis, own in enumerate(axes):
            if own is None or self.before[own] == self.after[own]:
                continue
            if own < 0 or positions[own] is None:
                return None
            array = np.take(array, positions[own], axis)
        return array

    def _axis(self, size):
        """The axis of a size; `None` if there is none, -1 if several."""
        found = [i for i, n in enumerate(self.before) if n == size and n > 1]
        changes = [i for i in found if self.before[i] != self.after[i]]
        if not changes:
            return None
        return found[0] if len(found) == 1 else -1


def change(config: Any, function: Callable, sizes: Any = ()) -> Any:
    """A config with `function(array)` in place of each array.

    An array is what has a shape and an axis, and a list of numbers unless
    these are whole ones, as axes and shapes are; lists stay lists.

    Args:
        config: A structure of dicts, lists and values.
        function: Maps a NumPy array to another, or to `None`.
        sizes: Lengths at which a list of whole numbers is an array too.
    """
    if isinstance(config, dict):
        return {
            name: value if is_axis(name) else change(value, function, sizes)
            for name, value in config.items()
        }
    if isinstance(config, (list, tuple)):
        array = _number_array(config)
        if array is None:
            return type(config)(change(x, function, sizes) for x in config)
        if array.dtype.kind in "iu" and array.ndim == 1:
            if len(array) not in sizes:
                return config
        found = function(array)
        return None if found is None else type(config)(found.tolist())
    if getattr(config, "shape", None):  # `()` is that of a number
        return function(keras.ops.convert_to_numpy(config))
    return config


def is_axis(name):
    """Whether an entry of a config names axes, and no sizes."""
    return str(name).endswith(("axis", "axes"))


def _number_array(values):
    """A list of numbers, nested or not, as an array; else `None`."""
    flat = [_number_or_none(x) for x in keras.tree.flatten(list(values))]
    if not flat or any(x is None for x in flat):
        return None
    try:
        return np.asarray(keras.tree.pack_sequence_as(list(values), flat))
    except ValueError:  # of lists of several lengths
        return None


def _number_or_none(value):
    """A number of Python's, NumPy's or a backend's for NumPy, else `None`."""
    if not isinstance(value, (int, float)):
        if getattr(value, "shape", None) != ():
            return None
        value = keras.ops.convert_to_numpy(value)
    is_number = np.asarray(value).dtype.kind in "fiu"  # a bool is none
    return value if is_number else None


NONE = "none"
CHANNELS = "channels"
UNKNOWN = "unknown"

# Magnitudes of what it is tried on: a bound may act on large numbers alone.
_SCALES = (0.01, 1.0, 100.0)
_ROUNDING = 1e-4
_ROWS = 4  # in place of a number of samples that is not known


def channel_arrays(value, config, extents, rebuild):
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
    config = change(config, unequal, extent.sizes)
    own = rebuild(config)
    moved = _moved_object(config, extent, order, rebuild)
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


def _moved_object(config, extent, order, rebuild):
    """The object whose numbers have changed places; `None` if unclear."""
    found = []

    def move(array):
        found.append(extent.cut(array, order))
        return array if found[-1] is None else found[-1]

    smaller = change(config, move, extent.sizes)
    if any(array is None for array in found):
        return None
    return rebuild(smaller)


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
