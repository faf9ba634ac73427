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

from typing import TYPE_CHECKING

import keras
import numpy as np
from keras import ops

from keras_prm.plans.column_patterns import largest
from keras_prm.plans.column_patterns import pick_columns
from keras_prm.plans.records import KernelPlan
from keras_prm.utils import backend
from keras_prm.utils import kernel_layout

if TYPE_CHECKING:
    from typing import Any

NUM_SWEEPS = 3


def removed_count(size: Any, sparsity: float) -> Any:
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


def project_plan(kernels, plan, share=1.0):
    """All kernels of a plan together.

    Every kernel is first divided by its norm, so that no layer drowns the
    others. A channel class then scores the energy of its slices, on output
    and on input axes of all kernels, and each group keeps its best classes.
    Columns of a removed input channel are gone; of the rest each kernel
    keeps those with most energy in the live filters, in its pattern.

    Args:
        kernels: List of tensors, in the order of `plan.kernels`.
        plan: The `SparsityPlan`.
        share: How much of it is in force, in [0, 1]: of what each group and
            each kernel is to lose, this part is removed. May be a tensor.

    Returns:
        Tuple `(channels, columns)`: 0/1 float32 `(plan.num_classes,)`, and a
        list of 0/1 float32 `(..., in)`, one per kernel.
    """
    energies = [
        _normalized(squared(kernel_layout.to_matrix(kernel, entry.axes)))
        for kernel, entry in zip(kernels, plan.kernels, strict=True)
    ]
    # What can be decided while tracing: which sides compete at all.
    prunes_columns = any(kernel.columns > 0 for kernel in plan.kernels)
    prunes_channels = plan.shared is not None or any(
        group.keep < group.size for group in plan.groups
    )
    return alternate(
        energies,
        lambda *support: _pick_channels(energies, plan, share, *support),
        lambda channels: _pick_all_columns(energies, plan, share, channels),
        ops.ones((plan.num_classes,)),
        [ops.ones(energy.shape[:-1]) for energy in energies],
        num_sweeps=NUM_SWEEPS if prunes_channels else 1,
        from_columns=prunes_columns and prunes_channels,
    )


def kernel_filters(kernel: KernelPlan, channels):
    """Which filters live, `(out,)`, by the `channels` of `project_plan`."""
    return _class_values(channels, kernel.out_classes)


def kernel_inputs(kernel: KernelPlan, channels):
    """Which input channels live, `(in,)`, by those `channels`."""
    return _class_values(channels, kernel.in_classes)


def _normalized(energy):
    total = ops.sum(energy)
    return energy / ops.where(total > 0, total, 1.0)


def _pick_channels(energies, plan, share, channels, columns):
    """The best classes of each group, given the columns of each kernel."""
    scores = ops.zeros((plan.num_classes + 1,))
    entries = zip(plan.kernels, energies, columns, strict=True)
    for kernel, energy, kept in entries:
        energy = energy * kept[..., None]
        if max(kernel.out_classes) >= 0:
            sums = filter_energies(energy)
            scores = scores + _class_sums(sums, kernel.out_classes, plan)
        if max(kernel.in_classes) >= 0:
            energy = energy * kernel_filters(kernel, channels)
            sums = filter_energies(column_energies(energy))
            scores = scores + _class_sums(sums, kernel.in_classes, plan)
    if plan.shared is not None:
        return plan.shared.pick(scores[: plan.num_classes], plan, share)
    picked = [
        largest(
            scores[g.start : g.start + g.size],
            g.size - _part(share, g.size - g.keep),
        )
        for g in plan.groups
    ]
    return ops.concatenate(picked) if picked else channels


def _pick_all_columns(energies, plan, share, channels):
    """The best columns of each kernel, given the classes, and their energy."""
    columns = []
    total = 0.0
    for kernel, energy in zip(plan.kernels, energies, strict=True):
        inputs = kernel_inputs(kernel, channels)
        kept = column_energies(energy * kernel_filters(kernel, channels))
        live = ops.broadcast_to(inputs, kept.shape)
        if kernel.columns > 0:
            number = _num_kept(kernel, inputs, share)
            live = pick_columns(kept, inputs, number, kernel.column_pattern)
        columns.append(live)
        total = total + ops.sum(kept * live)
    return columns, total


def _num_kept(kernel, inputs, share):
    """How many columns stay, by the number of live input channels.

    A table, since `0.7 * n` in float32 does not round like `removed_count`.
    """
    *taps, num_inputs, _ = kernel.matrix_shape
    sizes = int(np.prod(taps)) * np.arange(num_inputs + 1)
    table = removed_count(sizes, kernel.columns)
    live = ops.cast(ops.sum(inputs), "int32")
    removed = ops.take(table.astype("int32"), live)
    total = ops.take(sizes.astype("int32"), live)
    return total - _part(share, removed)


def _part(share, count):
    """The part of a count that is removed already, rounded down, int32."""
    if isinstance(share, (int, float)) and share == 1:
        return count
    part = ops.cast(share, "float32") * ops.cast(count, "float32")
    return ops.cast(ops.floor(part + 1e-4), "int32")


def _class_sums(energies, classes, plan):
    """Sums per class `(num_classes + 1,)`; the last one is of no class."""
    segments = np.where(np.asarray(classes) < 0, plan.num_classes, classes)
    return ops.segment_sum(
        energies,
        ops.convert_to_tensor(segments.astype("int32")),
        num_segments=plan.num_classes + 1,
    )


def _class_values(channels, classes):
    """Each position's own class value, 1.0 where it belongs to none."""
    values = ops.concatenate([ops.cast(channels, "float32"), ops.ones((1,))])
    last = values.shape[0] - 1
    index = np.where(np.asarray(classes) < 0, last, classes)
    return ops.take(values, index.astype("int32"))
