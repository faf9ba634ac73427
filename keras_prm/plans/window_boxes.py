"""Boxes of a window: which there are, and what they hold.

A window of `h` by `w` taps has `h (h + 1) w (w + 1) / 4` boxes, 90,000 where
it is 24 by 24. Sums over all of them are taken axis by axis, and which taps
lie inside is written out only for the boxes of one area.
"""

from __future__ import annotations

import numpy as np
from keras import ops


class Boxes:
    """All boxes of a window, the smallest first.

    Args:
        window: tuple, the sizes of the window; `()` for a single tap.

    Attributes:
        low: int32 `(number of boxes, axes)`, the first tap inside.
        high: int32 `(number of boxes, axes)`, the first tap behind.
        areas: int32 `(number of boxes,)`, the taps inside.

    Example:

    >>> boxes = Boxes((2,))
    >>> boxes.low.tolist(), boxes.high.tolist()
    ([[0], [1], [0]], [[1], [2], [2]])
    >>> boxes.sums(np.array([3.0, 4.0]))
    [3., 4., 7.]
    """

    def __init__(self, window):
        self.window = tuple(window) or (1,)
        self._sides = [np.stack(np.triu_indices(n)) for n in self.window]
        picks = np.indices([side.shape[1] for side in self._sides])
        corners = [
            side[:, pick.reshape(-1)]
            for side, pick in zip(self._sides, picks, strict=True)
        ]
        low, last = np.stack(corners, axis=-1).astype("int32")
        areas = np.prod(last + 1 - low, axis=-1, dtype="int32")
        self._order = np.argsort(areas, kind="stable").astype("int32")
        self.areas = areas[self._order]
        self.low = low[self._order]
        self.high = last[self._order] + 1

    def sums(self, taps):
        """The sum over each box of `taps`, `(number of taps,)`."""
        found = ops.reshape(taps, self.window)
        for size, side in zip(self.window, self._sides, strict=True):
            first, last = side[..., None]
            places = np.arange(size)
            inside = (first <= places) & (places <= last)
            inside = ops.convert_to_tensor(inside, "float32")
            # The first axis becomes the last: after all, the order is as was.
            found = ops.moveaxis(found, 0, -1)[..., None, :]
            found = ops.sum(found * inside, axis=-1)
        return ops.take(ops.reshape(found, (-1,)), self._order)

    def of_area(self, area):
        """The boxes of one area.

        Args:
            area: Number of taps, from 0 to all; may be a tensor.

        Returns:
            Tuple `(numbers, exist)`, int32 and bool, as long as the area of
            most boxes needs; of the numbers only those that `exist` count.
        """
        counts = np.bincount(self.areas).astype("int32")
        starts = np.cumsum(counts, dtype="int32") - counts
        places = ops.arange(int(counts.max()), dtype="int32")
        numbers = ops.take(starts, area) + places
        exist = places < ops.take(counts, area)
        return ops.minimum(numbers, len(self.areas) - 1), exist

    def inside(self, numbers):
        """Which taps are inside, bool `(len(numbers), number of taps)`."""
        places = np.indices(self.window).reshape(len(self.window), -1).T
        places = ops.convert_to_tensor(places, "int32")
        low = ops.take(self.low, numbers, axis=0)[:, None]
        high = ops.take(self.high, numbers, axis=0)[:, None]
        found = ops.logical_and(low <= places, places < high)
        return ops.all(found, axis=-1)


def most_of_one_area(window):
    """How many boxes of the same area a window has, at most.

    Counted by their sizes, of which there are as many as taps.

    Example:

    >>> most_of_one_area((3, 3))  # 3 * 2 of two taps lying, as many standing
    12
    """
    window = tuple(window) or (1,)
    sizes = np.indices(window).reshape(len(window), -1).T + 1
    counts = np.prod(np.array(window) - sizes + 1, axis=-1)
    return int(np.bincount(np.prod(sizes, axis=-1), counts).max())
