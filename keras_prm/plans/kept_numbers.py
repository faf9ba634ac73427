"""Numbers to keep, as the fractions that plans take."""

from __future__ import annotations

import fnmatch
import math

import numpy as np

from keras_prm.plans import plan_checks
from keras_prm.utils import validation


def matched(keep, paths, known):
    """What to keep of each layer: dict from path to `(filters, columns)`.

    Args:
        keep: dict from the name or path of a layer, or a pattern of these,
            to `(filters, columns)`; the first match counts.
        paths: The paths of layers with a kernel.
        known: Paths that have to be named at least: each pattern one.

    Raises:
        TypeError: `keep` is no dict, or holds something else than pairs.
        ValueError: A pattern names none of `known`, or a number is below 1.
    """
    _check_pairs(keep)
    idle = [
        p for p in keep if not any(_covers(p, path, known) for path in known)
    ]
    if idle:
        raise ValueError(
            "Every pattern has to name a layer that has a kernel. "
            f"Received: {idle}. There are: {sorted(known)}"
        )
    found = {}
    for path in paths:
        patterns = [p for p in keep if _covers(p, path, known)]
        if patterns:
            found[path] = tuple(keep[patterns[0]])
    return found


def _covers(pattern, path, known):
    """Whether it is the path, its end, or a layer that others are inside of.

    What is the name of a layer, whatever signs are in it, is no pattern.
    """
    if any(f"/{pattern}/" in f"/{other}/" for other in known):
        return f"/{pattern}/" in f"/{path}/"
    return any(
        fnmatch.fnmatchcase(path, before + pattern + behind)
        for before in ("", "*/")
        for behind in ("", "/*")
    )


def _check_pairs(keep):
    example = '{"conv1": (20, None), "stage2_*": (None, 100)}'
    if not isinstance(keep, dict):
        raise TypeError(
            f"Expected `layers` to be a dict such as {example}. "
            f"Received: layers={keep!r}"
        )
    others = [name for name in keep if not isinstance(name, str)]
    if others:
        raise TypeError(
            "Expected names of layers, or patterns of these, such as in "
            f"{example}. Received: {others}"
        )
    bad = {name: pair for name, pair in keep.items() if not _is_pair(pair)}
    if bad:
        raise TypeError(
            "Expected the filters and the columns to keep as a pair, None "
            f"for all of them, such as {example}. Received: {bad}"
        )
    bad = {
        name: pair
        for name, pair in keep.items()
        if any(number is not None and number < 1 for number in pair)
    }
    if bad:
        raise ValueError(
            "Expected to keep at least one filter and one column. To remove "
            f"a layer whole, delete it from the model. Received: {bad}"
        )


def _is_pair(value):
    return (
        isinstance(value, (tuple, list))
        and len(value) == 2
        and all(x is None or validation.is_int(x) for x in value)
    )


def filter_targets(kept, graph, kernels):
    """Targets that leave so many filters: dict from path to fractions.

    Args:
        kept: What `matched` returned.
        graph: The `DependencyGraph`.
        kernels: dict from path to the kernels, `plan_checks.kernel_paths`.
    """
    found = {}
    for path, (number, _) in kept.items():
        if number is not None:
            size = max(_num_free_filters(graph, w) for w in kernels[path])
            found[path] = {"filters": 1 - min(number, size) / size}
    return found


def _num_free_filters(graph, weight):
    """Filters that can fall apart from each other."""
    if weight.out_ids is None:
        return weight.variable.shape[weight.axes[1]]
    return len(np.unique(graph.classes[weight.out_ids]))


def column_targets(kept, plan, kernels, column_pattern):
    """Targets that leave so many columns beside the filters of a plan.

    Args:
        kept: What `matched` returned.
        plan: The `SparsityPlan` of the filters.
        kernels: As of `filter_targets`.
        column_pattern: See `SparsityPlan.explicit`.
    """
    live = _num_live_columns(plan, kernels)
    return {
        path: {
            "columns": 1 - min(number / live[path], 1.0),
            "column_pattern": column_pattern,
        }
        for path, (_, number) in kept.items()
        if number is not None
    }


def _num_live_columns(plan, kernels):
    """How many columns of each layer can be live where a plan leaves filters.

    The mean over the input channels, each with the share of its group that
    stays.
    """
    share = {}
    for group in plan.groups:
        classes = range(group.start, group.start + group.size)
        share |= dict.fromkeys(classes, group.keep / group.size)
    found = {}
    for path, weights in kernels.items():
        columned = [w for w in weights if plan_checks.prunes_columns(w)]
        for weight in columned or weights:
            shape = weight.variable.shape
            found[path] = math.prod(shape) // shape[weight.axes[1]]
    for kernel in plan.kernels:
        path = kernel.key.rpartition("/")[0]
        shares = [share.get(number, 1.0) for number in kernel.in_classes]
        found[path] = round(found[path] * sum(shares) / len(shares))
    return found
