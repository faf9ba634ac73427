"""Round widths for what purification leaves."""

from __future__ import annotations

import numpy as np

from keras_prm.analysis.liveness import Liveness
from keras_prm.plans import plan_builder
from keras_prm.utils import kernel_layout


class RoundWidths:
    """What has to stay beside what is strong, to fill up a width.

    As in a plan: layers keep a multiple of `round_to` filters, or all that
    they had.

    Args:
        graph: The model's `DependencyGraph`.
        arrays: dict from `id(variable)` to its array before.
        round_to: The multiple.
    """

    def __init__(self, graph, arrays, round_to):
        self.graph = graph
        self.round_to = round_to
        removed = Liveness(graph, arrays).removed
        self._gone = np.flatnonzero(removed)
        removed[list(graph.pinned)] = True
        self._groups = []
        for weights in plan_builder.components(graph):
            ids = np.concatenate([w.out_ids for w in weights])
            classes = np.unique(graph.classes[ids])
            if len(free := classes[~removed[classes]]):
                self._groups.append((weights, free))
        self._energy = np.zeros(graph.num_classes)
        for weight in graph.weights.values():
            if weight.role == "kernel":
                self._add_energy(weight, arrays[id(weight.variable)])

    def _add_energy(self, weight, array):
        energy = np.square(
            kernel_layout.to_matrix(array, weight.axes), dtype=float
        )
        energy /= energy.sum() or 1.0
        for ids, axis in ((weight.in_ids, -2), (weight.out_ids, -1)):
            if ids is not None:
                sums = np.moveaxis(energy, axis, 0).reshape(len(ids), -1)
                np.add.at(self._energy, self.graph.classes[ids], sums.sum(1))

    def missing(self, arrays, stays):
        """The strongest of those that fell, as many as widths lack.

        Args:
            arrays: dict from `id(variable)` to its array after.
            stays: bool array per class: those that are kept in any case.

        Returns:
            int array of classes.
        """
        removed = Liveness(self.graph, arrays).removed
        found = [np.zeros(0, int)]
        for weights, free in self._groups:
            fallen = free[removed[free]]
            left = len(free) - len(fallen)
            number = plan_builder.rounded(
                self.graph, weights, free, left, self.round_to, self._gone
            )
            fallen = fallen[~stays[fallen]]
            order = np.argsort(-self._energy[fallen], kind="stable")
            found.append(fallen[order[: number - left]])
        return np.concatenate(found)
