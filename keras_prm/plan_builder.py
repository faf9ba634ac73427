"""From fractions per layer to channel groups and kernel plans."""

from __future__ import annotations

import collections
import numbers

import numpy as np

from keras_prm.column_patterns import PATTERNS
from keras_prm.products import Mix
from keras_prm.projections import removed_count
from keras_prm.structures import ChannelGroup
from keras_prm.structures import KernelPlan

_FRACTIONS = ("filters", "columns")
_TARGETS = (*_FRACTIONS, "column_pattern")


def kernel_paths(trace):
    """Layer path of every kernel: dict from path to its `Weight`s."""
    found = {}
    for weight in trace.weights.values():
        if weight.role == "kernel":
            found.setdefault(weight.key.rpartition("/")[0], []).append(weight)
    return found


def matching(names, paths):
    """The paths that names or paths of layers stand for, a set.

    A whole path stands for that layer only, though others end like it.
    """
    return {
        path
        for path in paths
        for name in names
        if path == name or (name not in paths and path.endswith("/" + name))
    }


def check_names(names, paths, argument):
    """Raises if a name stands for no layer with a kernel, or for several."""
    if isinstance(names, str):
        raise TypeError(
            f"Expected `{argument}` to be a collection of layer names. "
            f"Put the name into a list. Received: {argument}={names!r}"
        )
    unknown = [n for n in names if not matching([n], paths)]
    if unknown:
        raise ValueError(
            f"No layer with a prunable kernel is called {unknown}. Expected "
            f"names among {sorted(paths)}. Received: {argument}={list(names)}"
        )
    several = {n: sorted(matching([n], paths)) for n in names}
    several = {n: m for n, m in several.items() if len(m) > 1}
    if several:
        raise ValueError(
            "A name stands for several layers. Use the whole path of the "
            f"one that is meant. Received: {several}"
        )


def check_targets(wanted, round_to):
    """Raises if a fraction is not in [0, 1), all offenders together."""
    shapeless = {p: d for p, d in wanted.items() if not isinstance(d, dict)}
    if shapeless:
        raise TypeError(
            "Expected a dict of targets for each layer, such as "
            f'{{"filters": 0.5, "columns": 0.5}}. Received: {shapeless}'
        )
    unknown = sorted({t for d in wanted.values() for t in d} - {*_TARGETS})
    if unknown:
        raise ValueError(
            f"Unknown targets. Expected {list(_TARGETS)}. Received: {unknown}"
        )
    if not isinstance(round_to, int) or round_to < 1:
        raise ValueError(
            "Expected `round_to` to be a positive integer; 1 does not round. "
            f"Received: round_to={round_to!r}"
        )
    bad = {
        path: targets
        for path, targets in wanted.items()
        if not all(_is_fraction(targets.get(name, 0)) for name in _FRACTIONS)
    }
    if bad:
        raise ValueError(
            f"Cannot prune {len(bad)} layers to their targets: a sparsity "
            "must leave at least one of the filters, and of the columns. "
            "Expected filters and columns in [0, 1), the fraction removed. "
            f"Received: {bad}. To remove a layer whole, delete it from the "
            "model."
        )
    patterns = {p: d.get("column_pattern", "free") for p, d in wanted.items()}
    bad = {p: v for p, v in patterns.items() if v not in [*PATTERNS]}
    if bad:
        raise ValueError(
            f"Unknown column patterns of {len(bad)} layers. Expected one of "
            f"{list(PATTERNS)}; leave `column_pattern` out for columns that "
            f"may lie anywhere. Received: {bad}"
        )


def check_patterns(trace, wanted):
    """Raises if a pattern is asked of layers that can have none."""
    bad = {}
    for path, weights in kernel_paths(trace).items():
        pattern = wanted.get(path, {}).get("column_pattern", "free")
        if pattern != "free" and not any(
            _prunes_columns(w) and _has_window(trace, w) for w in weights
        ):
            bad[path] = pattern
    if bad:
        raise ValueError(
            f"Cannot train the columns of {len(bad)} layers into a pattern: "
            "expected layers whose columns can be pruned, and whose kernel "
            "slides over their input or has no axes but inputs and filters. "
            f"Received: {bad}. Leave `column_pattern` out for these."
        )


def _is_fraction(value):
    return isinstance(value, numbers.Real) and 0 <= value < 1


def groups(model, trace, wanted, round_to, strict):
    """The groups of filters that compete, with their targets.

    Args:
        model: The model.
        trace: Its `Trace`.
        wanted: dict from layer path to its targets.
        round_to: Multiple that the kept number is rounded up to.
        strict: Whether filters that are asked for and cannot be removed are
            an error rather than a row in `skipped`.

    Returns:
        `(groups, numbers, skipped)`: list of `ChannelGroup`; dict from a
        class of the trace to its number in the plan; list of
        `(layers, reason, number of filters)`.
    """
    trainable = {id(v) for v in model.trainable_variables}
    found, numbers, skipped, refused = [], {}, [], {}
    for weights in _components(trace):
        paths = sorted({w.key.rpartition("/")[0] for w in weights})
        asked = {
            p: wanted[p]["filters"]
            for p in paths
            if "filters" in wanted.get(p, {})
        }
        if not any(asked.values()):
            continue
        name = "+".join(paths)
        if len(set(asked.values())) > 1:
            if not strict:
                kept = [p for p in asked if not asked[p]]
                size = len(_classes(trace, weights))
                skipped.append((name, f"{kept} is excluded", size))
                continue
            raise ValueError(
                "Layers whose filters can only fall together are given "
                "different targets. Give them the same, or name one of "
                f"them only. Received: filters={asked}"
            )
        classes = _classes(trace, weights)
        frozen = [w.key for w in weights if id(w.variable) not in trainable]
        free = [c for c in classes if c not in trace.pinned]
        reasons = collections.Counter(
            f"{frozen} is not trainable" if frozen else trace.pinned[c]
            for c in classes
            if frozen or c in trace.pinned
        )
        skipped += [(name, why, number) for why, number in reasons.items()]
        if frozen or not free:
            refused.update({p: next(iter(reasons)) for p in asked})
            continue
        size = len(free)
        keep = size - removed_count(size, next(iter(asked.values())))
        note = "" if keep < size else "too few to remove one"
        rounded = _rounded(trace, weights, free, keep, round_to)
        if rounded == size > keep:
            note = f"rounded up to a multiple of {round_to}"
        keep = rounded
        found.append(ChannelGroup(name, len(numbers), size, keep, note))
        numbers.update({c: len(numbers) + i for i, c in enumerate(free)})
    if refused and strict:
        raise ValueError(
            "Some filters cannot be removed. Ask for `columns` of these "
            f"layers only. Received filters for: {refused}"
        )
    return found, numbers, skipped


def _rounded(trace, weights, free, keep, round_to):
    """How many classes to keep so that all layers get round widths.

    A class may stand for several filters, and a layer have some that cannot
    go. Where the layers of a group do not all have all its classes, or not
    equally many filters of each, the number of classes is rounded.
    """
    size, widths = len(free), []
    for weight in weights:
        classes = trace.classes[np.unique(weight.out_ids)]
        found, counts = np.unique(classes, return_counts=True)
        counts = counts[np.isin(found, free)]
        if len(counts) < size or len(set(counts.tolist())) > 1:
            return min(size, -(-keep // round_to) * round_to)
        widths.append((len(classes) - counts.sum(), counts[0]))
    for number in range(keep, size):
        if all((own + each * number) % round_to == 0 for own, each in widths):
            return number
    return size


def _classes(trace, weights):
    ids = np.concatenate([w.out_ids for w in weights])
    _, first = np.unique(trace.classes[ids], return_index=True)
    return [int(c) for c in trace.classes[ids][np.sort(first)]]


def _components(trace):
    """Lists of kernels whose filters share a class, in model order."""
    found = []
    for weight in trace.weights.values():
        if weight.role != "kernel" or weight.out_ids is None:
            continue
        own = ({*trace.classes[weight.out_ids].tolist()}, [weight])
        for other in [g for g in found if g[0] & own[0]]:
            found.remove(other)
            own = (other[0] | own[0], other[1] + own[1])
        found.append(own)
    return [weights for _, weights in found]


def kernels(model, trace, wanted, numbers):
    """The `KernelPlan` of every kernel that the plan touches."""
    index = {id(v): i for i, v in enumerate(model.trainable_variables)}
    found = []
    for weight in trace.weights.values():
        if weight.role != "kernel" or id(weight.variable) not in index:
            continue
        ins, outs = (_numbers(trace, weight, a, numbers) for a in weight.axes)
        targets = wanted.get(weight.key.rpartition("/")[0], {})
        columns, pattern = 0.0, "free"
        if _prunes_columns(weight):
            columns = float(targets.get("columns", 0.0))
            if columns and _has_window(trace, weight):
                pattern = targets.get("column_pattern", "free")
        if columns or max(ins + outs) >= 0:
            found.append(
                KernelPlan(
                    weight.key,
                    index[id(weight.variable)],
                    tuple(weight.variable.shape),
                    ins,
                    outs,
                    columns,
                    weight.axes,
                    pattern,
                )
            )
    return sorted(found, key=lambda kernel: kernel.index)


def _prunes_columns(weight):
    """Whether both axes have channels, and its columns may go."""
    named = weight.in_ids is not None and weight.out_ids is not None
    return named and weight.prunes_columns


def _has_window(trace, weight):
    """Whether the taps of a kernel are positions of a window, or one alone."""
    if len(weight.variable.shape) == 2:
        return True
    return any(
        isinstance(step, Mix)
        and step.kernel is weight.variable
        and hasattr(step.layer, "kernel_size")
        for step in trace.steps
    )


def _numbers(trace, weight, axis, numbers):
    if weight.ids[axis] is None:
        return (-1,) * weight.variable.shape[axis]
    classes = trace.classes[weight.ids[axis]].tolist()
    return tuple(numbers.get(c, -1) for c in classes)
