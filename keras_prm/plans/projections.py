"""Euclidean projections onto sets of structured sparse kernels.

The nearest kernel with at most `n` filters is found by keeping the `n`
filters of largest L2 norm and zeroing the others; columns likewise, wherever
they lie or in a pattern (`column_patterns`). So every projection here is the
choice of a *support*, returned as 0/1 vectors, and `kernel * support` is the
projected kernel.

Filters alone, columns alone, and channel classes that only writers share are
exact. Filters and columns together ask for the submatrix of largest
energy, which is NP-hard. There the functions alternate, from both ends, and
return the best pair seen: never worse than filters-then-columns, nor than
columns-then-filters.

All functions are pure, run on every Keras backend and inside a compiled step.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from keras_prm.plans.column_patterns import check_patterns
from keras_prm.plans.column_patterns import largest
from keras_prm.plans.column_patterns import pick_columns
from keras_prm.utils import backend

NUM_SWEEPS = 3


def removed_count(size, sparsity: float):
    """How many of `size` positions a sparsity removes.

    The one place of the rounding rule: down, so that never more is removed
    than was asked for and a sparsity below 1 leaves at least one position.
    The 1e-4 keeps `0.7 * 10` from counting as 6.

    Args:
        size: int, or integer array.
        sparsity: Fraction to remove, in [0, 1).

    Returns:
        int, or an int32 array of the shape of `size`.

    Example:

    >>> removed_count(10, 0.7), removed_count(3, 0.5), removed_count(1, 0.9)
    (7, 1, 0)
    """
    count = np.floor(np.asarray(size) * float(sparsity) + 1e-4)
    count = count.astype("int32")
    return count if count.ndim else int(count)


def project_filters(kernel, keep: int):
    """The filters of largest L2 norm.

    Args:
        kernel: `(..., out)`.
        keep: How many filters to keep.

    Returns:
        0/1 float32 `(out,)`. Of equal filters the lower index is kept.
    """
    return largest(filter_energies(squared(kernel)), keep)


def project_columns(kernel, keep: int, pattern: str = "free"):
    """The columns of largest L2 norm in all.

    Args:
        kernel: `(..., in, out)`, all of its input channels alive.
        keep: How many columns to keep.
        pattern: Where they may lie: `"free"`, `"channels"`, `"window"` or
            `"per_channel"`, see `column_patterns`. Some keep fewer columns
            than `keep`, and `"channels"` one channel at least.

    Returns:
        0/1 float32 `kernel.shape[:-1]`. Ties go as for filters.

    Raises:
        ValueError: There is no such pattern.

    Example:

    >>> kernel = np.array([[[3.0], [1.0]], [[2.0], [0.0]]])  # (2, in=2, out=1)
    >>> project_columns(kernel, keep=2)
    [[1., 0.], [1., 0.]]
    >>> project_columns(kernel, keep=2, pattern="per_channel")
    [[1., 1.], [0., 0.]]
    """
    check_patterns({"pattern": pattern})
    energies = column_energies(squared(kernel))
    return pick_columns(energies, _all_of(energies), keep, pattern)


def project_joint(
    kernel, keep_filters: int, keep_columns: int, pattern: str = "free"
):
    """Filters and columns together, by alternation.

    Args:
        kernel: `(..., in, out)`.
        keep_filters: How many filters to keep.
        keep_columns: How many columns to keep.
        pattern: Where they may lie, as in `project_columns`.

    Returns:
        Tuple `(filters, columns)` of 0/1 float32, `(out,)` and
        `kernel.shape[:-1]`.

    Raises:
        ValueError: There is no such pattern.
    """
    check_patterns({"pattern": pattern})
    energy = squared(kernel)

    def pick_filters(filters, columns):
        kept = energy * columns[0][..., None]
        return largest(filter_energies(kept), keep_filters)

    def columns_of(filters):
        energies = column_energies(energy * filters)
        live = _all_of(energies)
        columns = pick_columns(energies, live, keep_columns, pattern)
        return [columns], ops.sum(energies * columns)

    filters, columns = alternate(
        [energy],
        pick_filters,
        columns_of,
        ops.ones((energy.shape[-1],)),
        [ops.ones(energy.shape[:-1])],
        num_sweeps=NUM_SWEEPS,
        from_columns=True,
    )
    return filters, columns[0]


def squared(kernel):
    """The squared entries of a kernel, float32 whatever its dtype."""
    return ops.square(ops.cast(ops.convert_to_tensor(kernel), "float32"))


def column_energies(energy):
    """Sums over the filters, `(..., in)`."""
    return ops.sum(energy, axis=-1)


def filter_energies(energy):
    """Sums over all axes but the last, `(out,)`."""
    return ops.sum(energy, axis=tuple(range(len(energy.shape) - 1)))


def alternate(
    energies,
    pick_channels,
    pick_columns,
    channels,
    columns,
    num_sweeps,
    from_columns,
):
    """The support of most energy along one or both alternations.

    `energies` are the tensors that the two functions choose by.
    `pick_channels(channels, columns)` returns channels, and
    `pick_columns(channels)` returns columns and the energy kept. `channels`
    and `columns` keep everything; `from_columns` adds the second start.
    """
    first = channels, columns
    num, second = num_sweeps, first
    if from_columns:
        num, second = 2 * num_sweeps, (channels, pick_columns(channels)[0])

    def sweep(i, state):
        support, best = state
        if from_columns:
            support = _choose(ops.equal(i, num_sweeps), second, support)
        picked = pick_channels(*support)
        found = (picked, *pick_columns(picked))
        return found[:2], _choose(found[2] > best[2], found, best)

    # A loop, or what is compiled would grow with the number of sweeps.
    nothing = (*first, ops.convert_to_tensor(-1.0, "float32"))
    state = backend.repeat(num, sweep, (first, nothing), energies)
    return state[1][:2]


def _choose(condition, one, other):
    """One structure of tensors, or the other."""
    return keras.tree.map_structure(
        lambda x, y: ops.where(condition, x, y), one, other
    )


def _all_of(energies):
    return ops.ones((energies.shape[-1],))
