"""Fates of channel classes by a plan's structure, whatever the weights are.

A plan says which classes lose their filters. That they can then be taken out
is another question: a frozen layer may go on reading a constant that they
carry, and next to padding no bias can take that over. Others go although no
plan names them, since nobody reads them.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from keras_prm.analysis.liveness import Liveness
from keras_prm.utils import variable_keys


@dataclasses.dataclass(frozen=True, eq=False)
class Fates:
    """What becomes of channel classes once a plan is carried out.

    Args:
        goes: bool array, one entry per class: `strip` takes it out although
            no plan removes it.
        stuck: float array, one entry per group: the share of its classes
            that stay in place although their filters went.
        unread: float array, one entry per group: the share of its classes
            that go even if they are kept.
    """

    goes: np.ndarray
    stuck: np.ndarray
    unread: np.ndarray


def fates(graph, trainable, members):
    """Settles which classes go, with every other class of each group dead.

    Kernels count as having no zeros but those of dead classes; statistics
    are as they are, as they make up what a dead channel carries.

    Args:
        graph: A finished `DependencyGraph`.
        trainable: set of the `id` of the variables that a plan may prune.
        members: list with the classes of each group, an int array.

    Returns:
        `Fates`.
    """
    dead = np.zeros(graph.num_classes, bool)
    for classes in members:
        dead[classes[1::2]] = True
    live = _StructuralLiveness(graph, _arrays(graph, trainable, dead))
    removed = live.removed
    stuck = [_share(~removed[c[1::2]]) for c in members]
    unread = [_share(removed[c[::2]]) for c in members]
    goes = removed.copy()
    for classes in members:
        goes[classes] = False
    return Fates(goes, np.array(stuck), np.array(unread))


def _share(found):
    return float(found.mean()) if len(found) else 0.0


class _StructuralLiveness(Liveness):
    """A `Liveness` of kernels that are alike at every tap."""

    def reach(self, contraction):
        """Which inputs reach which outputs, by the first tap alone."""
        number = id(contraction.kernel)
        if number not in self._reach:
            matrices = self.matrices(contraction.kernel, contraction.axes)
            self._reach[number] = contraction.reach_of(matrices[:1])
        return self._reach[number]


def _arrays(graph, trainable, dead):
    """What stands for the weights: dict from `id(variable)` to an array."""
    found = {}
    for number, weight in graph.weights.items():
        shape = tuple(weight.variable.shape)
        if weight.role == "statistic":
            found[number] = variable_keys.array_of(weight.variable)
        elif weight.role == "vector":
            found[number] = (~weight.touched(dead[graph.classes])).astype(float)
        else:
            masked = number in trainable
            found[number] = _kernel(graph, weight, shape, dead, masked)
    return found


def _kernel(graph, weight, shape, dead, masked):
    """Ones, but for the filters and inputs of dead classes; a view."""
    array = np.ones([1] * len(shape), bool)
    for axis in weight.axes if masked else ():
        ids = weight.ids[axis]
        if ids is not None:
            place = [1] * len(shape)
            place[axis] = -1
            array = array & ~dead[graph.classes[ids]].reshape(place)
    return np.broadcast_to(array, shape)
