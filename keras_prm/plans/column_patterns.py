"""Patterns: where the columns that stay of a kernel may lie.

Columns that lie anywhere leave zeros that no fast convolution skips. A
*pattern* is a set of supports that are computed fast. Of a kernel with `t`
taps (positions of its window), `n` live input channels and `K` columns to
keep, the sets are:

* `"free"`: any `K` columns;
* `"channels"`: `max(1, K // t)` whole channels;
* `"window"`: at most `K` columns, all of them within one box of at most
  `ceil(K / n)` taps, the same for all channels;
* `"per_channel"`: `K` columns, at most `ceil(K / n)` of each channel.

A dead input channel has no columns and does not count. Fewer columns to keep
never allow more, so a plan that grows along a ramp shrinks each set. A kernel
of a single tap, as in `Dense`, has the same set for all patterns.

A `"window"` of many taps and channels costs time and memory, see
`window_size`; plans refuse it above `MAX_WINDOW_SIZE`.

Each choice here is exact, the support of most energy in its set. All of it
is pure, runs on every Keras backend and inside a compiled step.
"""

from __future__ import annotations

import math

import numpy as np
from keras import ops

MAX_WINDOW_SIZE = 2**24  # 64 MiB in float32, a second to sort or two


def check_patterns(patterns):
    """Raises a `ValueError` for what is no pattern.

    Args:
        patterns: dict from what a pattern is asked for, to the pattern.
    """
    # A list, since not everything that is no pattern can be hashed.
    bad = {k: v for k, v in patterns.items() if v not in [*PATTERNS]}
    if bad:
        raise ValueError(
            "There are no such patterns of columns. Expected one of "
            f"{[*PATTERNS]} each; 'free' lets columns lie anywhere. "
            f"Received: {bad}"
        )


def pick_columns(energies, live, keep, pattern):
    """The columns of most energy in a pattern's set.

    Args:
        energies: float32 `(..., in)`, what each column is worth. One that is
            negative goes before all others, and adds nothing to a sum.
        live: 0/1 float32 `(in,)`, the input channels that live.
        keep: `K`, how many columns to keep, at most all live ones; an int or
            an integer tensor.
        pattern: One of `PATTERNS`.

    Returns:
        0/1 float32 of the shape of `energies`. Of equal columns the lower
        index is kept.

    Example:

    >>> energies = np.array([[5.0, 4.0], [3.0, 1.0]])  # 2 taps, 2 channels
    >>> pick_columns(energies, np.ones(2), 2, "channels")
    [[1., 0.], [1., 0.]]
    >>> pick_columns(energies, np.ones(2), 2, "window")
    [[1., 1.], [0., 0.]]
    """
    shape = tuple(energies.shape)
    live = ops.convert_to_tensor(live, "float32")
    # A row per tap; columns of dead channels rank behind the last live one.
    flat = ops.reshape(energies, (-1, shape[-1]))
    flat = _where(live, flat)
    picked = PATTERNS[pattern](flat, live, keep, shape[:-1])
    return ops.reshape(picked * live, shape)


def largest(scores, keep):
    """The `keep` largest scores: 0/1 float32, of the shape of `scores`.

    Ranks instead of `top_k`, since `keep` may be a tensor.
    """
    flat = ops.reshape(scores, (-1,))
    return ops.reshape(_below(flat, keep, axis=-1), scores.shape)


def window_size(shape):
    """What choosing a `"window"` sorts, in columns.

    All columns, as often as there are boxes of the commonest area: 12 times
    for 3x3 taps, 854 times for 16x16.

    Args:
        shape: tuple, the taps and input channels of a kernel, `(..., in)`.
    """
    return most_of_one_area(shape[:-1]) * math.prod(shape)


def _free(flat, live, keep, window):
    del live, window
    return largest(flat, keep)


def _whole_channels(flat, live, keep, window):
    sums = _where(live, ops.sum(ops.maximum(flat, 0.0), axis=0))
    number = ops.maximum(keep // math.prod(window), 1)
    return ops.broadcast_to(largest(sums, number), flat.shape)


def _one_window(flat, live, keep, window):
    """Of each box the best columns, then the best of the boxes.

    A box of fewer taps than `ceil(K / n)` keeps all it has: its energy is a
    plain sum. Only boxes of just as many taps may have to choose.
    """
    boxes = Boxes(window)
    level = ops.minimum(_level(live, keep), math.prod(window))
    sums = boxes.sums(ops.sum(ops.maximum(flat, 0.0), axis=-1))
    smaller, most = _best(sums, ops.less(boxes.areas, level))
    numbers, exist = boxes.of_area(level)
    columns = _where(boxes.inside(numbers)[..., None], flat[None])
    ranked = -ops.sort(-ops.reshape(columns, (numbers.shape[0], -1)), axis=-1)
    counts = ops.arange(ranked.shape[-1]) < keep
    # Maximum first: what is not inside is infinitely small.
    sums = ops.sum(ops.where(counts, ops.maximum(ranked, 0.0), 0.0), -1)
    larger, more = _best(sums, exist)
    best = ops.where(more > most, ops.take(numbers, larger), smaller)
    inside = boxes.inside(ops.reshape(best, (1,)))[0, :, None]
    return largest(_where(inside, flat), keep) * ops.cast(inside, "float32")


def _best(sums, allowed):
    """The place of the largest sum that is allowed, and it; -1.0 of none."""
    sums = ops.where(allowed, sums, -1.0)
    return ops.cast(ops.argmax(sums), "int32"), ops.max(sums)


def _per_channel(flat, live, keep, window):
    del window
    best = _below(flat, _level(live, keep), axis=0)
    return largest(_where(best, flat), keep)


def _level(live, keep):
    """`ceil(K / n)`: how many columns of each channel, if all had as many."""
    number = ops.maximum(ops.cast(ops.sum(live), "int32"), 1)
    return (keep + number - 1) // number


def _below(scores, keep, axis):
    """Which scores have fewer than `keep` larger ones along an axis."""
    ranks = ops.argsort(ops.argsort(-scores, axis=axis), axis=axis)
    return ops.cast(ranks < keep, "float32")


def _where(chosen, scores):
    """The scores, infinitely small where they are not chosen."""
    return ops.where(ops.cast(chosen, "bool"), scores, -np.inf)


PATTERNS = {
    "free": _free,
    "channels": _whole_channels,
    "window": _one_window,
    "per_channel": _per_channel,
}

# The patterns that add energies up; the others only compare them.
ADDS_UP = ("channels", "window")


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
