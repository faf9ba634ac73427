"""`explain`: what could be pruned in a model, and where it pays."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from keras_prm.analysis.channel_groups import ClassTable
from keras_prm.analysis.trace import trace
from keras_prm.reports.explanation import ClassRow
from keras_prm.reports.explanation import Explanation

if TYPE_CHECKING:
    import keras


def explain(model: keras.Model) -> Explanation:
    """Shows what could be pruned in a model: a dry run, before any plan.

    A *channel class* is all that can only be removed together: a filter, its
    bias, its BatchNorm's entries, what reads it, and the filters that a
    residual sum ties to it. The model is only read, and not run.

    Args:
        model: A built functional or Sequential model.

    Returns:
        An `Explanation`.

    Raises:
        TypeError: The model is not functional.
        ValueError: It is not built.

    Example:

    ```python
    print(keras_prm.explain(model))
    rows = keras_prm.explain(model).rows
    best = max((r for r in rows if not r.pinned), key=lambda r: r.weights)
    ```
    """
    table = ClassTable(trace(model))
    trainable = {id(v) for v in model.trainable_variables}
    frozen = {
        weight.key
        for number, weight in table.graph.weights.items()
        if number not in trainable
    }
    return Explanation(
        _class_rows(table, frozen),
        tuple(table.graph.skipped),
        sum(math.prod(v.shape) for v in model.weights),
        table.free(),
        table.graph.macs,
        table.graph.macs_note,
    )


def _class_rows(table, frozen):
    weights, macs = table.weights, table.products
    weights = table.each(weights), table.whole(weights)
    macs = table.each(macs), table.whole(macs)
    return tuple(
        ClassRow(
            table.name(row),
            tuple(members),
            table.sizes[row],
            weights[0][row],
            macs[0].get(row, 0),
            weights[1][row],
            macs[1].get(row, 0),
            table.pinned[row],
            _why_left_alone(members, table.sizes[row], frozen),
        )
        for row, members in enumerate(table.members)
    )


def _why_left_alone(members, size, frozen):
    """Why a plan leaves alone what `strip` could remove."""
    made = sorted(m.key for m in members if m.side == "out")
    made = [key for key in made if key in frozen]
    if made:
        return f"{made} is not trainable"
    return "too few to remove one" if size == 1 else ""
