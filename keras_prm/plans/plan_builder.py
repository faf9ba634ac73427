"""Groups and kernels of a plan, from fractions per layer."""

from __future__ import annotations

import collections

import numpy as np

from keras_prm.plans.plan_checks import misfit
from keras_prm.plans.plan_checks import prunes_columns
from keras_prm.plans.projections import removed_count
from keras_prm.plans.records import ChannelGroup
from keras_prm.plans.records import KernelPlan
from keras_prm.utils import keras_hooks

# Fewer channels that are alike make no group of their own.
_LEAST_ALIKE = 8


def filter_groups(model, graph, wanted, round_to, strict, labels=None):
    """The groups of filters that compete, with their targets.

    Args:
        model: The model.
        graph: Its `DependencyGraph`.
        wanted: dict from layer path to its targets.
        round_to: Multiple that the kept number is rounded up to.
        strict: Whether filters that are asked for and cannot be removed are
            an error rather than a row in `skipped`.
        labels: int array, what is alike of the graph's classes, so that
            channels of a group are; `None` where all compete whose filters
            are tied.

    Returns:
        `(groups, numbers, skipped)`: list of `ChannelGroup`; dict from a
        class of the graph to its number in the plan; list of
        `(layers, reason, number of filters)`.
    """
    trainable = {id(v) for v in model.trainable_variables}
    found, numbers, skipped, refused = [], {}, [], {}
    for weights in components(graph):
        paths = sorted({w.key.rpartition("/")[0] for w in weights})
        asked = {
            path: wanted[path]["filters"]
            for path in paths
            if "filters" in wanted.get(path, {})
        }
        if not any(asked.values()):
            continue
        name, classes = "+".join(paths), _classes(graph, weights)
        targets = set(asked.values())
        if len(targets) > 1:
            excluded = _excluded(asked, strict)
            skipped.append((name, f"{excluded} is excluded", len(classes)))
            continue
        reasons = _why_fixed(graph, weights, classes, trainable)
        counts = collections.Counter(reasons.values())
        skipped += [(name, why, number) for why, number in counts.items()]
        free = [number for number in classes if number not in reasons]
        target = targets.pop()
        for part in _alike(free, labels):
            group = _group(graph, weights, part, target, round_to)
            own = _makers(graph, weights, part) if part != free else name
            found.append(ChannelGroup(own, len(numbers), len(part), *group))
            numbers.update({c: len(numbers) + i for i, c in enumerate(part)})
        if not free:
            refused.update(dict.fromkeys(asked, next(iter(counts))))
    if refused and strict:
        raise ValueError(
            "Some filters cannot be removed. Leave these layers' `filters` "
            "out; `columns` can be removed where they are trainable. "
            f"Received filters for: {refused}"
        )
    return found, numbers, skipped


def _alike(free, labels):
    """Classes, those apart that differ; together where these are few."""
    if not free or labels is None:
        return [free] if free else []
    found = {}
    for number in free:
        found.setdefault(labels[number], []).append(number)
    few = min(map(len, found.values())) < _LEAST_ALIKE
    return [free] if few else [*found.values()]


def _makers(graph, weights, classes):
    """The layers that have filters of some classes, joined by `+`."""
    paths = {
        weight.key.rpartition("/")[0]
        for weight in weights
        if np.isin(graph.classes[weight.out_ids], classes).any()
    }
    return "+".join(sorted(paths))


def members(groups, numbers):
    """The classes of the graph that each group holds, int arrays.

    Args:
        groups: What `filter_groups` returned.
        numbers: The second part of that.
    """
    classes = np.array([*numbers], int)
    return [classes[g.start : g.start + g.size] for g in groups]


def _excluded(asked, strict):
    """The layers that keep theirs from falling, where that is no mistake."""
    if strict:
        raise ValueError(
            "Layers whose filters can only fall together are given "
            "different targets. Give them the same, or name one of "
            f"them only. Received: filters={asked}"
        )
    return [path for path, target in asked.items() if not target]


def _why_fixed(graph, weights, classes, trainable):
    """Why classes cannot go: dict from those of them to the reason."""
    frozen = [w.key for w in weights if id(w.variable) not in trainable]
    if frozen:
        return dict.fromkeys(classes, f"{frozen} is not trainable")
    return {c: graph.pinned[c] for c in classes if c in graph.pinned}


def _group(graph, weights, free, target, round_to):
    """How many of a group's classes stay, and why it may be all of them."""
    size = len(free)
    wanted = size - removed_count(size, target)
    note = "" if wanted < size else "too few to remove one"
    keep = rounded(graph, weights, free, wanted, round_to)
    if keep == size > wanted:
        note = f"rounded up to a multiple of {round_to}"
    return keep, note


def rounded(graph, weights, free, keep, round_to, gone=()):
    """How many classes to keep so that all layers get round widths.

    A class may stand for several filters, and a layer have some that cannot
    go. Where the layers of a group do not all have all its classes, or not
    equally many filters of each, the number of classes is rounded.

    Args:
        graph: The `DependencyGraph`.
        weights: The kernels of a group, as `components` returns them.
        free: The classes of the group that may go.
        keep: How many of those to keep, at least.
        round_to: What the widths are to be multiples of.
        gone: Classes that take no place, since they went before.

    Returns:
        int, `len(free)` where nothing less is round.
    """
    size, sides = len(free), widths(graph, weights, free, gone)
    if sides is None:
        return min(size, -(-keep // round_to) * round_to)
    for number in range(keep, size):
        if all((own + each * number) % round_to == 0 for own, each in sides):
            return number
    return size


def widths(graph, weights, free, gone=()):
    """How wide the layers of a group are, by the classes that it keeps.

    Args:
        graph: The `DependencyGraph`.
        weights: The kernels of a group.
        free: The classes of the group that may go.
        gone: Classes that take no place, since they went before.

    Returns:
        list of `(own, each)` per kernel, filters that stay in any case and
        those of one class; `None` where not all layers have all classes, or
        not equally many filters of each.
    """
    found, gone = [], np.array([*gone], int)
    for weight in weights:
        classes = graph.classes[np.unique(weight.out_ids)]
        classes = classes[~np.isin(classes, gone)]
        names, counts = np.unique(classes, return_counts=True)
        counts = counts[np.isin(names, free)]
        if len(counts) < len(free) or len(set(counts.tolist())) > 1:
            return None
        found.append((len(classes) - counts.sum(), counts[0]))
    return found


def _classes(graph, weights):
    ids = np.concatenate([w.out_ids for w in weights])
    _, first = np.unique(graph.classes[ids], return_index=True)
    return [int(c) for c in graph.classes[ids][np.sort(first)]]


def components(graph):
    """Lists of kernels whose filters share a class, in model order."""
    found = []
    for weight in graph.weights.values():
        if weight.role != "kernel" or weight.out_ids is None:
            continue
        own = ({*graph.classes[weight.out_ids].tolist()}, [weight])
        for other in [g for g in found if g[0] & own[0]]:
            found.remove(other)
            own = (other[0] | own[0], other[1] + own[1])
        found.append(own)
    return [weights for _, weights in found]


def unreached(graph):
    """Layers with kernels that no plan reaches, since they have no rule.

    Returns:
        list of `(layer, reason, number of filters)`.
    """
    reasons, found = dict(graph.skipped), []
    for number, layer in graph.opaque.items():
        path = graph.opaque_paths[number]
        parts = (
            keras_hooks.sublayers(layer) if hasattr(layer, "weights") else ()
        )
        filters = sum(map(_num_own_filters, parts))
        if filters:
            found.append((path, reasons[path], filters))
    return found


def _num_own_filters(layer):
    """How many filters a layer has, those inside of it left out."""
    inside = keras_hooks.sublayers(layer)[1:]
    others = {id(w) for part in inside for w in part.weights}
    shapes = [
        w.shape
        for w in layer.weights
        if len(w.shape) > 1 and id(w) not in others
    ]
    if not shapes:
        return 0
    names = ("filters", "units", "output_dim")
    known = [getattr(layer, name, None) for name in names]
    if getattr(layer, "depth_multiplier", None) and not any(known):
        return shapes[0][-2] * shapes[0][-1]
    return next(filter(None, known), shapes[0][-1])


def kernels(model, graph, wanted, numbers):
    """The `KernelPlan` of every kernel that the plan touches."""
    index = {id(v): i for i, v in enumerate(model.trainable_variables)}
    found = []
    for weight in graph.weights.values():
        if weight.role != "kernel" or id(weight.variable) not in index:
            continue
        ins, outs = (
            _class_numbers(graph, weight, a, numbers) for a in weight.axes
        )
        targets = wanted.get(weight.key.rpartition("/")[0], {})
        columns, pattern, note = 0.0, "free", ""
        if prunes_columns(weight):
            columns = float(targets.get("columns", 0.0))
            if columns:
                pattern = targets.get("column_pattern", "free")
                note = misfit(graph, weight, pattern)
                pattern = "free" if note else pattern
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
                    note,
                )
            )
    return sorted(found, key=lambda kernel: kernel.index)


def _class_numbers(graph, weight, axis, numbers):
    if weight.ids[axis] is None:
        return (-1,) * weight.variable.shape[axis]
    classes = graph.classes[weight.ids[axis]].tolist()
    return tuple(numbers.get(c, -1) for c in classes)
