"""Checks of what a plan asks of which layers."""

from __future__ import annotations

from keras_prm.dependency.propagation import Contraction
from keras_prm.plans.column_patterns import MAX_WINDOW_SIZE
from keras_prm.plans.column_patterns import check_patterns
from keras_prm.plans.column_patterns import window_size
from keras_prm.utils import kernel_layout
from keras_prm.utils import validation

_FRACTIONS = ("filters", "columns")
_TARGETS = (*_FRACTIONS, "column_pattern")


def kernel_paths(graph):
    """Layer path of every kernel: dict from path to its `Weight`s."""
    found = {}
    for weight in graph.weights.values():
        if weight.role == "kernel":
            found.setdefault(weight.key.rpartition("/")[0], []).append(weight)
    return found


def matching(names, paths):
    """The paths that names or paths of layers stand for, a set.

    A whole path stands for that layer only, though others end like it; that
    of a layer or model with others inside for all of these.
    """
    return {path for name in names for path in _matching(name, paths)}


def _matching(name, paths):
    if name in paths:
        return [name]
    inside = [path for path in paths if path.startswith(name + "/")]
    return inside or [path for path in paths if path.endswith("/" + name)]


def check_names(names, paths, argument):
    """Raises if a name stands for no layer with a kernel, or for several."""
    if isinstance(names, str):
        raise TypeError(
            f"Expected `{argument}` to be a collection of layer names. "
            f"Put the name into a list. Received: {argument}={names!r}"
        )
    others = [n for n in names if not isinstance(n, str)]
    if others:
        raise TypeError(
            f"Expected `{argument}` to hold names of layers, such as "
            f"`layer.name`. Received: {others}"
        )
    unknown = [n for n in names if not matching([n], paths)]
    if unknown:
        raise ValueError(
            f"No layer with a prunable kernel is called {unknown}. Expected "
            f"names among {sorted(paths)}. Received: {argument}={list(names)}"
        )
    several = {n: sorted(_matching(n, paths)) for n in names}
    several = {
        n: found
        for n, found in several.items()
        if len(found) > 1 and not found[0].startswith(n + "/")
    }
    if several:
        raise ValueError(
            "A name stands for several layers. Use the whole path of the "
            f"one that is meant. Received: {several}"
        )


def check_fractions(targets):
    """Raises if a fraction for all layers is not in [0, 1)."""
    bad = {k: v for k, v in targets.items() if not _is_fraction(v)}
    if bad:
        raise ValueError(
            "Expected the fractions that are to be removed, numbers in "
            "[0, 1): 0.5 removes half of the filters, or columns, of each "
            f"layer. Received: {bad}"
        )


def check_round_to(round_to):
    """Raises if widths cannot be multiples of it."""
    if not validation.is_whole(round_to):
        raise ValueError(
            "Expected `round_to` to be a positive integer; 1 does not round. "
            f"Received: round_to={round_to!r}"
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
    check_round_to(round_to)
    bad = {
        path: targets
        for path, targets in wanted.items()
        if not all(_is_fraction(targets.get(name, 0)) for name in _FRACTIONS)
    }
    if bad:
        raise ValueError(
            f"Cannot prune {len(bad)} layers to their targets: a sparsity "
            "must leave at least one of the filters, and of the columns. "
            "Expected filters and columns in [0, 1), the fraction removed; "
            "0.5 removes half. "
            f"Received: {bad}. To remove a layer whole, delete it from the "
            "model."
        )
    patterns = {p: d.get("column_pattern", "free") for p, d in wanted.items()}
    check_patterns(patterns)
    bad = {
        path: pattern
        for path, pattern in patterns.items()
        if pattern != "free" and "columns" not in wanted[path]
    }
    if bad:
        raise ValueError(
            f"A pattern is asked of {len(bad)} layers of which no columns "
            "are to be removed. Add `columns`, the fraction to remove, to "
            f"their targets. Received: column_pattern={bad}"
        )


def check_reach(model, graph, wanted):
    """Raises if what is asked of a layer would come to nothing."""
    trainable = {id(v) for v in model.trainable_variables}
    bad = {}
    for path, weights in kernel_paths(graph).items():
        targets = wanted.get(path, {})
        if targets.get("filters") and all(w.out_ids is None for w in weights):
            bad[path] = "filters, which fall with its input channels alone"
        if targets.get("columns"):
            prunable = [w for w in weights if prunes_columns(w)]
            if not prunable:
                bad[path] = "columns, of a kernel that has none of its own"
            elif not any(id(w.variable) in trainable for w in prunable):
                bad[path] = "columns, which are not trainable"
    if bad:
        raise ValueError(
            f"What is asked of {len(bad)} layers cannot be done. Columns are "
            "those of trainable convolutions and dense or einsum layers, not "
            "of depthwise, grouped, recurrent, attention or embedding layers. "
            f"Leave these out. Received: {bad}"
        )


def check_pattern_layers(graph, wanted):
    """Raises if a pattern is asked of layers that can have none."""
    bad, large = {}, {}
    for path, weights in kernel_paths(graph).items():
        pattern = wanted.get(path, {}).get("column_pattern", "free")
        weights = [
            w for w in weights if prunes_columns(w) and reads_window(graph, w)
        ]
        if pattern != "free" and not weights:
            bad[path] = pattern
        if any(misfit(graph, w, pattern) for w in weights):
            large[path] = max(_window_size(w) for w in weights)
    if bad:
        raise ValueError(
            f"Cannot train the columns of {len(bad)} layers into a pattern: "
            "expected layers whose columns can be pruned, and whose kernel "
            "slides over their input or has no axes but inputs and filters. "
            f"Received: {bad}. Leave `column_pattern` out for these."
        )
    if large:
        raise ValueError(
            f"The windows of {len(large)} layers have too many boxes to "
            "choose among at every update. Expected that at most "
            f"{MAX_WINDOW_SIZE} columns are sorted for it: taps, by inputs, "
            f"by boxes of one area. Received: {large}. Use 'per_channel' or "
            "'channels' for these, or leave `column_pattern` out."
        )


def misfit(graph, weight, pattern):
    """Why a kernel cannot have a pattern; `""` where it can."""
    if pattern != "free" and not reads_window(graph, weight):
        return "its kernel slides no window"
    if pattern == "window" and _window_size(weight) > MAX_WINDOW_SIZE:
        return "its window has too many boxes"
    return ""


def _window_size(weight):
    shape = weight.variable.shape
    order = kernel_layout.order(len(shape), weight.axes)
    return window_size(tuple(shape[axis] for axis in order[:-1]))


def _is_fraction(value):
    return validation.is_real(value) and 0 <= value < 1


def prunes_columns(weight):
    """Whether both axes have channels, and its columns may go."""
    named = weight.in_ids is not None and weight.out_ids is not None
    return named and weight.prunes_columns


def reads_window(graph, weight):
    """Whether the taps of a kernel are positions of a window, or one alone."""
    if len(weight.variable.shape) == 2:
        return True
    return any(
        isinstance(step, Contraction)
        and step.kernel is weight.variable
        and hasattr(step.layer, "kernel_size")
        for step in graph.steps
    )
