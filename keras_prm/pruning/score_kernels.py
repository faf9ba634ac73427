"""Scores of the kernels of a model."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import keras
import numpy as np

from keras_prm.plans.records import KernelPlan
from keras_prm.pruning import gradients
from keras_prm.pruning.scores import KernelRows
from keras_prm.pruning.scores import Unavailable
from keras_prm.utils import keras_hooks
from keras_prm.utils import kernel_layout
from keras_prm.utils import variable_keys

if TYPE_CHECKING:
    from typing import Any

    from keras_prm.pruning.scores import Score


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """What of a kernel is scored: some of its filters, or of its columns.

    Args:
        kernel: The `KernelPlan`.
        variable: The kernel.
        side: `"filters"` or `"columns"`.
        rows: int array, the numbers of those that are scored.
        entries: int array, which weights of each of them count.
        gamma: As in `KernelRows`.
    """

    kernel: KernelPlan
    variable: keras.Variable
    side: str
    rows: np.ndarray
    entries: np.ndarray
    gamma: np.ndarray | None = None

    def of(self, array):
        """The rows `(rows, entries)` of an array in the kernel's shape."""
        table = flat(array, self.kernel)
        table = table.T if self.side == "filters" else table
        return table[self.rows][:, self.entries]

    def weights(self):
        """The weights as they are now, float32 `(rows, entries)`."""
        return self.of(float_array(self.variable))


def float_array(variable):
    """A variable as a float32 array, whatever its dtype."""
    return keras.ops.convert_to_numpy(variable).astype("float32")


def flat(array, kernel):
    """A kernel as `(columns, filters)`."""
    matrix = kernel_layout.to_matrix(array, kernel.axes)
    return matrix.reshape(-1, matrix.shape[-1])


def values(
    model: keras.Model,
    tables: list[Table],
    score: Score,
    data: Any,
) -> list[np.ndarray]:
    """Asks a score for its numbers, batch by batch where there are any.

    Args:
        model: The model.
        tables: list of `Table`.
        score: See `scores`.
        data: list of batches, or `None`.

    Returns:
        list of float arrays `(rows,)`, one per table: the mean over batches.

    Raises:
        ValueError: The score reads what there is not, or returns something
            else than a finite number for each row.
    """
    if not tables:
        return []
    weights = [table.weights() for table in tables]
    if data is None:
        return _ask(score, tables, weights, [None] * len(tables))
    total, differs = [np.zeros(())] * len(tables), False
    variables = [table.variable for table in tables]
    for found in gradients.per_batch(model, variables, data):
        found = [table.of(g) for table, g in zip(tables, found)]
        differs = differs or any(g.any() for g in found)
        answers = _ask(score, tables, weights, found)
        total = [a + b for a, b in zip(total, answers)]
    if not differs:
        raise ValueError(
            "The loss does not depend on any kernel of the plan: all "
            "gradients are 0. Compile the model with the loss it is trained "
            "with, and pass `data` on which it can still fall. "
            f"Received: {len(data)} batches, loss={model.loss!r}"
        )
    return [value / len(data) for value in total]


def _ask(score, tables, weights, found):
    """The score's numbers, float64; all that is wrong is raised at once."""
    answers, bad, missing = [], {}, {}
    for table, w, g in zip(tables, weights, found):
        try:
            answer = score(KernelRows(w, g, table.gamma))
        except Unavailable as error:
            missing.setdefault(error.name, []).append(table)
            continue
        answers.append(_as_floats(answer))
        if answers[-1].shape != (len(w),):
            bad[table.kernel.key] = f"{len(w)} rows, got {answer!r}"[:90]
        elif not np.isfinite(answers[-1]).all():
            bad[table.kernel.key] = "NaN or infinity"
    if missing:
        raise _unavailable(missing)
    if bad:
        raise ValueError(
            "A score must return one finite number for each row of "
            "`structures.weights`, as "
            "`np.abs(structures.weights).sum(axis=1)` does. "
            f"Received: {bad}"
        )
    return answers


def _as_floats(answer):
    try:
        return np.asarray(answer, "float64")
    except (TypeError, ValueError):
        return np.empty((0, 0))


def _unavailable(missing):
    """The error for what a score reads and cannot have."""
    if "gradients" in missing:
        return ValueError(
            "The score reads gradients, and there are no batches to compute "
            "them on. Pass `data`, an iterable of batches (x, y). "
            "Received: data=None"
        )
    tables = missing["gamma"]
    keys = [table.kernel.key for table in tables]
    if tables[0].side == "columns":
        return ValueError(
            "The score reads BatchNormalization's gamma, which columns do "
            "not have. Plan without `columns`, or take another score. "
            f"Received a plan that removes columns of {keys}"
        )
    layers = sorted({key.rpartition("/")[0] for key in keys})
    return ValueError(
        "The score reads BatchNormalization's gamma, and none scales the "
        f"filters of {layers}. Leave these layers out of the plan "
        f"(`SparsityPlan.uniform(model, ..., exclude={layers})`), or take "
        "another score."
    )


class Gammas:
    """The absolute values of BatchNormalization's gamma, by channel.

    A filter has the mean over those that scale it before its channel is
    joined with others; where there is none, over those that scale all of
    its channel class.

    Args:
        model: The model.
        graph: Its `DependencyGraph`.
    """

    def __init__(self, model, graph):
        self._classes = graph.classes
        ids, gammas = [np.zeros(0, int)], [np.zeros(0)]
        for _, outer in variable_keys.layer_paths(model):
            for layer in keras_hooks.sublayers(outer):
                if isinstance(layer, keras.layers.BatchNormalization):
                    weight = graph.weights.get(id(layer.gamma))
                    if weight is not None:
                        ids.append(weight.ids[0])
                        gammas.append(np.abs(float_array(layer.gamma)))
        ids, gammas = np.concatenate(ids), np.concatenate(gammas)
        classes = graph.classes[ids]
        self._by_id = _means(ids, gammas, graph.num_ids)
        self._by_class = _means(classes, gammas, graph.num_classes)

    def of(self, ids):
        """float32, one per id; `None` if some have no gamma."""
        own, joint = self._by_id[ids], self._by_class[self._classes[ids]]
        found = np.where(np.isnan(own), joint, own)
        return None if np.isnan(found).any() else found.astype("float32")


def _means(numbers, summands, size):
    """The mean of what stands under each number; NaN where nothing does."""
    count = np.bincount(numbers, minlength=size)
    total = np.bincount(numbers, summands, minlength=size)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
