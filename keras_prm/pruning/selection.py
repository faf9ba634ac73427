"""Selection of the filters and columns that stay, by a score."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from keras import ops

from keras_prm.plans.column_patterns import ADDS_UP
from keras_prm.plans.column_patterns import pick_columns
from keras_prm.plans.projections import removed_count
from keras_prm.plans.records import KernelMask
from keras_prm.pruning import gradients
from keras_prm.pruning import score_kernels

if TYPE_CHECKING:
    from keras_prm.pruning.scores import Score


def support(model, graph, plan, score: Score, data=None):
    """What a score keeps, with exactly as many structures as a plan.

    Args:
        model: The model.
        graph: Its `DependencyGraph`.
        plan: A `SparsityPlan` made for it.
        score: See `scores`.
        data: Batches for scores that read gradients, or `None`.

    Returns:
        dict from kernel key to `KernelMask`.

    Raises:
        TypeError: `score` is no function, or `data` are no batches.
        ValueError: The score cannot be computed for some kernel.
    """
    if not callable(score):
        raise TypeError(
            "Expected `score` to be a function of the structures of a "
            "kernel, such as `keras_prm.scores.l1_norm`. "
            f"Received: score={score!r}"
        )
    if data is not None:
        data = gradients.gradient_batches(data)
    weights = {w.key: w for w in graph.weights.values()}
    tables = _filter_tables(model, graph, plan, weights)
    answers = score_kernels.values(model, tables, score, data)
    kept = _pick_classes(plan, tables, answers)
    tables = _column_tables(plan, weights, kept)
    answers = score_kernels.values(model, tables, score, data)
    by_column = {
        table.kernel.key: dict(zip(table.rows.tolist(), answer.tolist()))
        for table, answer in zip(tables, answers)
    }
    return {
        kernel.key: KernelMask(
            _live_positions(kernel.out_classes, kept),
            _pick_columns(kernel, kept, by_column.get(kernel.key, {})),
            kernel.axes,
        )
        for kernel in plan.kernels
    }


def _live_positions(classes, kept):
    """Which positions of an axis stay; those of no class, -1, always do."""
    return np.append(kept, True)[np.array(classes)]


def _reachable_columns(kernel, kept):
    """Which columns have an input channel that stays, bool `(..., in)`."""
    inputs = _live_positions(kernel.in_classes, kept)
    return np.broadcast_to(inputs, kernel.matrix_shape[:-1]).copy()


def _filter_tables(model, graph, plan, weights):
    """The filters that may go, of each kernel, but those that are zero."""
    gammas = score_kernels.Gammas(model, graph)
    tables = []
    for kernel in plan.kernels:
        weight = weights[kernel.key]
        matrix = score_kernels.flat(
            score_kernels.float_array(weight.variable), kernel
        )
        may_go = np.array(kernel.out_classes) >= 0
        rows = np.flatnonzero(may_go & matrix.any(axis=0))
        if len(rows):
            entries = np.arange(len(matrix))
            gamma = gammas.of(weight.out_ids[rows])
            tables.append(
                score_kernels.Table(
                    kernel, weight.variable, "filters", rows, entries, gamma
                )
            )
    return tables


def _column_tables(plan, weights, kept):
    """The columns that may go, of each kernel, but those that are zero.

    Only the part of a kernel counts that the filters leave: live columns,
    in live filters.
    """
    tables = []
    for kernel in plan.kernels:
        if not kernel.columns:
            continue
        variable = weights[kernel.key].variable
        entries = np.flatnonzero(_live_positions(kernel.out_classes, kept))
        matrix = score_kernels.flat(score_kernels.float_array(variable), kernel)
        live = _reachable_columns(kernel, kept).reshape(-1)
        rows = np.flatnonzero(live & matrix[:, entries].any(axis=1))
        if len(rows):
            tables.append(
                score_kernels.Table(kernel, variable, "columns", rows, entries)
            )
    return tables


def _pick_classes(plan, tables, answers):
    """Which channel classes stay, bool `(num_classes,)`.

    Each kernel's scores are divided by their mean, so that no layer drowns
    the others, and added up over the filters of a class. A class whose
    filters are all zero goes first.
    """
    scores = np.zeros(plan.num_classes)
    is_zero = np.ones(plan.num_classes, bool)
    for table, answer in zip(tables, answers):
        classes = np.array(table.kernel.out_classes)[table.rows]
        is_zero[classes] = False
        np.add.at(scores, classes, answer / (np.abs(answer).mean() or 1.0))
    scores[is_zero] = -np.inf
    kept = np.zeros(plan.num_classes, bool)
    for group in plan.groups:
        own = scores[group.start : group.start + group.size]
        kept[group.start + _order(own)[: group.keep]] = True
    return kept


def _pick_columns(kernel, kept, scores):
    """Which columns stay, bool `(..., in)`, in the kernel's pattern.

    Args:
        kernel: The `KernelPlan`.
        kept: Which classes stay.
        scores: dict from the number of a column to its score; one that is
            not in it is zero and goes first.
    """
    live = _reachable_columns(kernel, kept)
    if kernel.columns:
        own = np.full(live.shape, -np.inf)
        own.flat[list(scores)] = list(scores.values())
        adds_up = kernel.column_pattern in ADDS_UP
        worth = _added_up(own) if adds_up else _ranks(own)
        size = int(live.sum())
        picked = pick_columns(
            ops.convert_to_tensor(worth, "float32"),
            _live_positions(kernel.in_classes, kept).astype("float32"),
            size - removed_count(size, kernel.columns),
            kernel.column_pattern,
        )
        live = ops.convert_to_numpy(picked) > 0
    return live


def _added_up(scores):
    """Scores in [0, 2], fit for sums in float32; -1 for those of no score.

    A score of one's own may be negative. So that each of its columns counts,
    the least becomes 0. That lets one far below all others make these equal.
    """
    known = np.isfinite(scores)
    largest = np.abs(scores).max(where=known, initial=0.0)
    scaled = scores / (largest or 1.0)
    least = scaled.min(where=known, initial=0.0)
    return np.where(known, scaled - least, -1.0)


def _ranks(scores):
    """The number of each score, counted from the worst: exact in float32."""
    ranks = np.empty(scores.size)
    ranks[_order(scores.reshape(-1))] = np.arange(scores.size)[::-1]
    return ranks.reshape(scores.shape)


def _order(scores):
    """From the best to the worst; of equal ones the lower index first."""
    return np.argsort(-scores, kind="stable")
