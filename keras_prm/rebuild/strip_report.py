"""Report of `strip`, from the model and its twin."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np

from keras_prm.analysis.channel_groups import ClassTable
from keras_prm.dependency.propagation import Recurrence
from keras_prm.reports.strip import LoweringRow
from keras_prm.reports.strip import StripReport
from keras_prm.reports.strip import StripRow
from keras_prm.utils import kernel_layout
from keras_prm.utils import variable_keys

_CONSTANT = "a reader cannot take their constant into its bias"
_ALONE = "a layer needs at least one"
_USED = "other layers use their channels"


def compare(slimmer, view, small):
    """The `StripReport` of a model and what became of it.

    Args:
        slimmer: The `LayerSlimmer` that made the smaller layers.
        view: The model.
        small: The stripped model.
    """
    live, after = slimmer.live, slimmer.targets
    weights = live.graph.weights.values()
    makes = _makes(live.graph)
    return StripReport(
        tuple(
            _row(live, weight, after.get(id(weight.variable)), makes)
            for weight in weights
            if weight.role == "kernel"
        ),
        tuple(live.graph.skipped),
        _count(view),
        _count(small),
        tuple(_channel_rows(live, after)),
        _kept(slimmer, view),
        changed=tuple((c.path, c.argument, c.what) for c in slimmer.changes),
    )


def with_lowerings(report, choices, reorderings, small):
    """A report, completed by what was done about empty columns.

    Args:
        report: The `StripReport` of the model without lowerings.
        choices: The `Choice`s that were made.
        reorderings: The `Reordering`s of its weights.
        small: The model that came of it.
    """
    variables = variable_keys.variables_by_key(small)
    kept = dict(report.kept)
    for moved in reorderings:
        if moved.key in kept:  # else it is new
            kept[moved.key] = _moved_positions(kept[moved.key], moved)
    rows = [
        dataclasses.replace(
            row,
            after=tuple(variables[row.key].shape),
            zeros_after=_num_zeros(variables[row.key]),
        )
        if row.key in variables
        else row
        for row in report.rows
    ]
    return dataclasses.replace(
        report,
        rows=tuple(rows),
        weights_after=_count(small),
        kept=kept,
        lowered=tuple(map(_lowering_row, choices)),
    )


def _moved_positions(kept, moved):
    """What `kept` says of a weight once its positions have moved."""
    found = list(kept)
    before = found[moved.axis]
    before = range(len(moved.order)) if before is None else before
    found[moved.axis] = tuple(np.take(list(before), moved.order).tolist())
    return tuple(found)


def _lowering_row(choice):
    live, lowering = choice.kernel.live, choice.lowering
    return LoweringRow(
        choice.kernel.key,
        "dense" if lowering is None else lowering.name,
        int(live.sum()),
        live.size,
        0 if lowering is None else len(lowering.columns),
        choice.reason,
        choice.dense,
        choice.time,
    )


def _kept(slimmer, view):
    """Which positions of each weight stay: dict from key, see `kept`."""
    weights = slimmer.live.graph.weights
    return {
        weights[id(v)].key: slimmer.kept(layer, v)
        for owner in (layer for _, layer in variable_keys.layer_paths(view))
        for layer in slimmer.parts(owner)
        for v in layer.variables
        if id(v) in weights and id(v) in slimmer.targets
    }


def _channel_rows(live, after):
    """Channels before and after; none are left where all weights are gone."""
    table = ClassTable(live.graph)
    here_too = {
        weight.key
        for number, weight in live.graph.weights.items()
        if number in after
    }
    kept = table.labels[~live.removed]
    kept = np.bincount(kept[kept >= 0], minlength=len(table.sizes)).tolist()
    for row, members in enumerate(table.members):
        here = any(member.key in here_too for member in members)
        number = kept[row] if here else 0
        yield table.name(row), table.sizes[row], number, table.pinned[row]


def _makes(graph):
    """What makes channels in a kernel: dict from its id, see `StripRow`."""
    found = {}
    for step in graph.products:
        if isinstance(step, Recurrence):
            found[id(step.kernel)] = ""
            found[id(step.recurrent_kernel)] = "states"
        elif step.depthwise:
            is_inside = hasattr(step.layer, "pointwise_kernel")
            found[id(step.kernel)] = "" if is_inside else "multiples"
    return found


def _row(live, weight, new, makes):
    return StripRow(
        weight.key,
        tuple(weight.variable.shape),
        None if new is None else tuple(new.shape),
        _num_zeros(weight.variable),
        0 if new is None else _num_zeros(new),
        "" if new is None else _why_empty_stays(live, weight, new),
        weight.axes,
        makes.get(id(weight.variable), "filters"),
    )


def _why_empty_stays(live, weight, new):
    """Why filters that are empty are still there."""
    ids = weight.out_ids
    array = kernel_layout.to_matrix(
        keras.ops.convert_to_numpy(new), weight.axes
    )
    empty = ~(array != 0).any(axis=tuple(range(array.ndim - 1)))
    narrowed = 0 if ids is None else live.keep(ids).sum() - len(empty)
    if narrowed:
        return f"empty filters that went: {narrowed} (the others are put back)"
    if ids is None or not empty.any():
        return ""
    classes = live.graph.classes[ids[live.keep(ids)][empty]]
    constant = live.constant_classes()
    alone = len(empty) == 1
    why = {
        live.graph.pinned.get(int(c))
        or (_ALONE if alone else _CONSTANT if constant[c] else _USED)
        for c in classes
    }
    return f"empty filters that stay: {empty.sum()} ({'; '.join(sorted(why))})"


def _count(model):
    return sum(int(np.prod(v.shape)) for v in model.weights)


def _num_zeros(variable):
    array = keras.ops.convert_to_numpy(variable)
    return int(array.size - np.count_nonzero(array))
