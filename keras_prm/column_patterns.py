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

Each choice here is exact, the support of most energy in its set. All of it
is pure, runs on every Keras backend and inside a compiled step.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from keras import ops


def check_pattern(pattern):
    """Raises a `ValueError` for what is no pattern."""
    if pattern not in PATTERNS:
        raise ValueError(
            "There is no such pattern of columns. Expected one of "
            f"{list(PATTERNS)}; 'free' lets columns lie anywhere. "
            f"Received: pattern={pattern!r}"
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


def boxes(window):
    """All boxes of a window, the smallest first.

    Args:
        window: tuple, the sizes of the window; `()` for a single tap.

    Returns:
        0/1 float32 array `(number of boxes, number of taps)`.

    Example:

    >>> boxes((2,))
    [[1., 0.], [0., 1.], [1., 1.]]
    """
    sides = [
        [slice(a, b) for a in range(n) for b in range(a + 1, n + 1)]
        for n in window
    ]
    found = []
    for box in itertools.product(*sides):
        inside = np.zeros(window, "float32")
        inside[box] = 1
        found.append(inside.reshape(-1))
    return np.stack(sorted(found, key=np.sum))


def _free(flat, live, keep, window):
    del live, window
    return largest(flat, keep)


def _channels(flat, live, keep, window):
    sums = _where(live, ops.sum(ops.maximum(flat, 0.0), axis=0))
    number = ops.maximum(keep // math.prod(window), 1)
    return ops.broadcast_to(largest(sums, number), flat.shape)


def _window(flat, live, keep, window):
    """Of each box the best columns, then the best of the boxes."""
    taps = ops.convert_to_tensor(boxes(window))
    columns = _where(taps[:, :, None], flat[None])
    columns = ops.reshape(columns, (taps.shape[0], -1))
    ranked = -ops.sort(-columns, axis=-1)
    counts = ops.arange(ranked.shape[-1]) < keep
    # Maximum first: what is not inside is infinitely small.
    energies = ops.sum(ops.where(counts, ops.maximum(ranked, 0.0), 0.0), -1)
    allowed = ops.sum(taps, -1) <= ops.cast(_level(live, keep), "float32")
    best = ops.argmax(ops.where(allowed, energies, -1.0))
    inside = ops.take(taps, best, axis=0)[:, None]
    return largest(_where(inside, flat), keep) * inside


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
    return ops.where(chosen > 0, scores, -np.inf)


PATTERNS = {
    "free": _free,
    "channels": _channels,
    "window": _window,
    "per_channel": _per_channel,
}

# The patterns that add energies up; the others only compare them.
ADDS_UP = ("channels", "window")
