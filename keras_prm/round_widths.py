"""Which channels stay so that purification leaves layers of round widths."""

from __future__ import annotations

import numpy as np

from keras_prm import layouts
from keras_prm import plan_builder
from keras_prm.liveness import Liveness


class RoundWidths:
    """What has to stay beside what is strong, to fill up a width.

    As in a plan: layers keep a multiple of `round_to` filters, or all that
    they had.

    Args:
        trace: The model's `Trace`.
        arrays: dict from `id(variable)` to its array before.
        round_to: The multiple.
    """

    def __init__(self, trace, arrays, round_to):
        self.trace = trace
        self.round_to = round_to
        removed = Liveness(trace, arrays).removed
        self._gone = np.flatnonzero(removed)
        removed[list(trace.pinned)] = True
        self._groups = []
        for weights in plan_builder.components(trace):
            ids = np.concatenate([w.out_ids for w in weights])
            classes = np.unique(trace.classes[ids])
            if len(free := classes[~removed[classes]]):
                self._groups.append((weights, free))
        self._energy = np.zeros(trace.num_classes)
        for weight in trace.weights.values():
            if weight.role == "kernel":
                self._add_energy(weight, arrays[id(weight.variable)])

    def _add_energy(self, weight, array):
        energy = np.square(layouts.to_matrix(array, weight.axes), dtype=float)
        energy /= energy.sum() or 1.0
        for ids, axis in ((weight.in_ids, -2), (weight.out_ids, -1)):
            if ids is not None:
                sums = np.moveaxis(energy, axis, 0).reshape(len(ids), -1)
                np.add.at(self._energy, self.trace.classes[ids], sums.sum(1))

    def missing(self, arrays, stays):
        """The strongest of those that fell, as many as widths lack.

        Args:
            arrays: dict from `id(variable)` to its array after.
            stays: bool array per class: those that are kept in any case.

        Returns:
            int array of classes.
        """
        removed = Liveness(self.trace, arrays).removed
        found = [np.zeros(0, int)]
        for weights, free in self._groups:
            fallen = free[removed[free]]
            left = len(free) - len(fallen)
            number = plan_builder.rounded(
                self.trace, weights, free, left, self.round_to, self._gone
            )
            fallen = fallen[~stays[fallen]]
            order = np.argsort(-self._energy[fallen], kind="stable")
            found.append(fallen[order[: number - left]])
        return np.concatenate(found)
