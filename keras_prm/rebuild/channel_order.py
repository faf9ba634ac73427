"""Order of channels in which their columns are cheap to reach.

The channels that a layer makes may stand in any order if all that read them
agree. Sorted by how many columns of them are live, the channels with at least
one column are the first so many, those with two the first fewer, and so on:
what was a gather is a slice. This costs nothing at all on the device.
"""

from __future__ import annotations

import collections
import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from keras import layers

from keras_prm.utils import variable_keys

if TYPE_CHECKING:
    from typing import Any

# Layers to which one channel is like another.
_INDIFFERENT = (
    layers.Activation,
    layers.Add,
    layers.Average,
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.BatchNormalization,
    layers.Conv1D,
    layers.Conv2D,
    layers.Cropping1D,
    layers.Cropping2D,
    layers.Dense,
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
    layers.Dropout,
    layers.ELU,
    layers.Flatten,
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.Identity,
    layers.LeakyReLU,
    layers.Maximum,
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.Minimum,
    layers.Multiply,
    layers.PReLU,
    layers.ReLU,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.Subtract,
    layers.UpSampling1D,
    layers.UpSampling2D,
    layers.ZeroPadding1D,
    layers.ZeroPadding2D,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Reordering:
    """A new order of the positions on one axis of a weight.

    Args:
        key: The weight's key.
        variable: The weight.
        axis: The axis.
        order: int array: which position comes first, second, ...
    """

    key: str
    variable: Any
    axis: int
    order: np.ndarray

    def apply(self):
        """Moves what the weight holds, in place."""
        self._take(self.order)

    def undo(self):
        """Moves it back."""
        self._take(np.argsort(self.order))

    def _take(self, order):
        array = variable_keys.array_of(self.variable)
        self.variable.assign(np.take(array, order, self.axis))


class ChannelOrder:
    """Which channels of a model may change places, and with what.

    Args:
        graph: The `DependencyGraph` of the model.
        model: The model.
    """

    def __init__(self, graph, model):
        self._graph = graph
        self._kinds = {
            path: type(layer)
            for path, layer in variable_keys.layer_paths(model)
        }
        self._grouped = {
            int(c)
            for contraction in graph.contractions
            if contraction.groups > 1
            for value, axis in (*contraction.sources, *contraction.targets)
            for c in graph.classes[value.ids[axis]]
        }
        self._values = self._holders(
            (ids, value) for value in graph.values for ids in value.ids
        )
        self._weights = self._holders(
            (ids, (weight, axis))
            for weight in graph.weights.values()
            for axis, ids in enumerate(weight.ids)
        )

    def _holders(self, axes):
        """dict from a class to pairs of ids that have it and their owner."""
        found = collections.defaultdict(list)
        for ids, owner in axes:
            if ids is not None:
                for name in np.unique(self._graph.classes[ids]).tolist():
                    found[name].append((ids, owner))
        return found

    def reorderings(self, ids, order):
        """What has to move for an axis to get a new order.

        Args:
            ids: The ids of the axis.
            order: int array, its new order.

        Returns:
            list of `Reordering`, or `None` where the channels have to stay
            in their order: an input or output of the model holds them, or a
            layer to which their order matters.
        """
        classes = self._graph.classes[ids]
        names = set(classes.tolist())
        if (
            len(names) < len(classes)
            or names & self._graph.pinned.keys()
            or names & self._grouped
        ):
            return None
        values = _holding_any(self._values, names)
        if any(
            self._kinds.get(value.origin) not in _INDIFFERENT
            for _, value in values
        ):
            return None
        if any(self._copies(other, classes) is None for other, _ in values):
            return None
        found = []
        for other, (weight, axis) in _holding_any(self._weights, names):
            copies = self._copies(other, classes)
            if copies is None:
                return None
            steps = np.arange(copies)[:, None] * len(order)
            whole = (steps + order).reshape(-1)
            found.append(Reordering(weight.key, weight.variable, axis, whole))
        return found

    def _copies(self, ids, classes):
        """How often the channels follow each other on an axis, in order."""
        own = self._graph.classes[ids]
        copies, left = divmod(len(own), len(classes))
        if left or (own.reshape(copies, -1) != classes).any():
            return None
        return copies


def _holding_any(holders, names):
    """The pairs that hold any of some classes, once each."""
    pairs = [pair for name in names for pair in holders[name]]
    return list({id(pair): pair for pair in pairs}.values())
