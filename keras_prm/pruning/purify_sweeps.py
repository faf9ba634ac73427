"""The sweeps of purification over the kernels of a model."""

from __future__ import annotations

import dataclasses
import hashlib

import keras
import numpy as np

from keras_prm.analysis.liveness import Liveness
from keras_prm.plans.round_widths import RoundWidths
from keras_prm.pruning.thresholds import medians
from keras_prm.pruning.thresholds import num_live
from keras_prm.pruning.thresholds import small_channels
from keras_prm.pruning.thresholds import small_filters
from keras_prm.reports.purification import PurificationRow
from keras_prm.utils import kernel_layout


class Sweeper:
    """Purifies the kernels of one traced model, and can take it back.

    Args:
        graph: The model's `DependencyGraph`.
        trainable: The model's trainable variables: kernels that are frozen
            lose only what follows.
        thresholds: `Thresholds` at strength 1.
        sweeps: `"fixed_point"` or `"single"`.
        round_to: Layers keep a multiple of so many filters, or all.
    """

    def __init__(self, graph, trainable, thresholds, sweeps, round_to=1):
        self.graph = graph
        self._trainable = {id(v) for v in trainable}
        self.thresholds = thresholds
        self.sweeps = sweeps
        self.weights = [
            w for w in graph.weights.values() if w.role != "statistic"
        ]
        self.kernels = [w for w in self.weights if w.role == "kernel"]
        # Sweeps go over arrays; the model gets what they come to.
        self._arrays = {
            id(w.variable): np.array(keras.ops.convert_to_numpy(w.variable))
            for w in self.weights
        }
        self._before = dict(self._arrays)
        self.num_weights_before = self.num_weights()
        self._medians = {
            w.key: medians(self._matrix(w), *self._channels(w))
            for w in self.kernels
        }
        self._live = {w.key: num_live(self._matrix(w)) for w in self.kernels}
        self._rows = {}
        self._pinned = np.zeros(graph.num_classes, bool)
        self._pinned[list(graph.pinned)] = True
        self._stays = self._pinned
        self._widths = None
        if round_to > 1:
            self._widths = RoundWidths(graph, self._arrays, round_to)

    @property
    def num_kernels(self):
        """How many kernels a sweep goes through."""
        return len(self.kernels)

    def num_weights(self):
        """Nonzero weights of all kernels."""
        return sum(int(np.count_nonzero(self._array(w))) for w in self.kernels)

    def largest_first(self):
        """Indices of the kernels by nonzero weights, most first."""
        sizes = [np.count_nonzero(self._array(w)) for w in self.kernels]
        return sorted(range(len(sizes)), key=lambda i: -sizes[i])

    def fingerprint(self):
        """A digest that is equal for equal zeros."""
        digest = hashlib.sha256()
        for weight in self.weights:
            digest.update(np.packbits(self._array(weight) != 0).tobytes())
        return digest.digest()

    def rows(self):
        """What the last `apply` removed, see `PurificationReport.rows`."""
        return list(self._rows.values())

    def restore(self):
        """Brings back the weights as they were at the start."""
        self._arrays = dict(self._before)
        for weight in self.weights:
            weight.variable.assign(self._array(weight))

    def blank(self):
        """Zeroes every kernel, so that the answers are constant."""
        there, self._arrays = self._arrays, dict(self._before)
        for weight in self.kernels:
            self._set(weight, np.zeros_like(self._array(weight)))
        self._write(there)

    def scramble(self):
        """Fills every kernel at random, so that the answers are others."""
        there, self._arrays = self._arrays, dict(self._before)
        rng = np.random.default_rng(0)
        for weight in self.kernels:
            self._set(weight, rng.normal(size=self._array(weight).shape))
        self._write(there)

    def apply(self, strengths):
        """Purifies from the start with one strength per kernel."""
        there, self._arrays = self._arrays, dict(self._before)
        self._stays = self._pinned
        self._sweep(strengths)
        if self._widths is not None:
            # Once more from the start, with what fills up a width in place.
            while len(more := self._widths.missing(self._arrays, self._stays)):
                self._stays = self._stays.copy()
                self._stays[more] = True
                self._arrays = dict(self._before)
                self._sweep(strengths)
        self._write(there)

    def _write(self, there):
        """Gives the model the arrays, but for those that are `there`."""
        for weight in self.weights:
            array = self._array(weight)
            if array is not there[id(weight.variable)]:
                weight.variable.assign(array)

    def _sweep(self, strengths):
        self._rows = {
            w.key: PurificationRow(w.key, (), (), 0, self._limits(w, s), s)
            for w, s in zip(self.kernels, map(float, strengths))
        }
        if not any(strengths):
            return
        while True:
            fallen, filters = 0, []
            for weight, strength in zip(self.kernels, strengths):
                if strength and id(weight.variable) in self._trainable:
                    limits = self._rows[weight.key].limits
                    fallen += self._purify_channels(weight, limits)
                    filters.append(self._purify_filters(weight, limits))
            filters = np.concatenate(filters or [np.zeros(0, int)])
            if len(filters):
                fallen += len(filters)
                self._blank(filters)
            fallen += self._cascade()
            if not fallen or self.sweeps == "single":
                return

    def _limits(self, weight, strength):
        return self.thresholds.absolute(strength, self._medians[weight.key])

    def _left(self, limits, weight, kernel):
        """Limits for what is left of a kernel."""
        live = num_live(kernel)
        return limits.for_what_is_left(live, self._live[weight.key])

    def _note(self, weight, **what):
        """Adds to the counts of a kernel's row."""
        row = self._rows[weight.key]
        sums = {name: getattr(row, name) + more for name, more in what.items()}
        self._rows[weight.key] = dataclasses.replace(row, **sums)

    def _channels(self, weight):
        """The channel of every input position, and how many there are."""
        if weight.in_ids is None:
            size = weight.variable.shape[weight.axes[0]]
            return np.arange(size), size
        classes, channel_of = np.unique(
            self.graph.classes[weight.in_ids], return_inverse=True
        )
        return channel_of.reshape(-1), len(classes)

    def _purify_channels(self, weight, limits):
        """Zeroes the channels of one kernel that are small."""
        if weight.in_ids is None or weight.out_ids is None:
            return 0
        kernel = self._matrix(weight)
        channel_of, count = self._channels(weight)
        limits = self._left(limits, weight, kernel)
        falls = small_channels(kernel, channel_of, count, limits)
        first = np.unique(channel_of, return_index=True)[1]
        if not weight.prunes_columns:
            # Of an embedding, say: zeros would stay, whoever wrote them.
            falls &= self._may_fall(weight.in_ids[first])
        else:  # one reader less, but for those that fill up a width
            stays = self._stays & ~self._pinned
            falls &= ~stays[self.graph.classes[weight.in_ids[first]]]
        if falls.any():
            kernel[..., falls[channel_of], :] = 0
            self._assign(weight, kernel)
            self._note(weight, channels=tuple(first[falls].tolist()))
        return int(falls.sum())

    def _purify_filters(self, weight, limits):
        """Zeroes the filters of one kernel that are small.

        Returns:
            int array: the classes that they feed.
        """
        if weight.out_ids is None:
            return np.zeros(0, int)
        kernel = self._matrix(weight)
        limits = self._left(limits, weight, kernel)
        falls = small_filters(kernel, limits)
        falls &= self._may_fall(weight.out_ids)
        if falls.any():
            kernel[..., falls] = 0
            self._assign(weight, kernel)
            fallen = np.flatnonzero(falls).tolist()
            self._note(weight, filters=tuple(fallen))
        return self.graph.classes[weight.out_ids[falls]]

    def _may_fall(self, ids):
        """Which positions nothing else has to keep in place, bool."""
        return ~self._stays[self.graph.classes[ids]]

    def _blank(self, classes):
        """Zeroes the vectors of classes none of whose writers is left."""
        written = np.zeros(self.graph.num_classes, bool)
        for weight in self.kernels:
            if weight.out_ids is not None:
                kernel = np.moveaxis(self._array(weight), weight.axes[1], -1)
                live = kernel.any(axis=tuple(range(kernel.ndim - 1)))
                written[self.graph.classes[weight.out_ids[live]]] = True
        blank = np.zeros_like(written)
        blank[classes] = True
        blank &= ~written
        for weight in self.weights:
            if weight.role == "vector":
                falls = weight.touched(blank[self.graph.classes])
                if falls.any():
                    self._set(weight, np.where(falls, 0, self._array(weight)))

    def _cascade(self):
        """Zeroes all weights of channels that nobody reads, or that are 0."""
        live = Liveness(self.graph, self._arrays)
        dead = live.unused & ~live.constant_classes()
        dead[list(self.graph.pinned)] = False
        fallen = 0
        for weight in self.weights:
            array = self._array(weight)
            falls = weight.touched(dead[self.graph.classes]) & (array != 0)
            lost = int(np.count_nonzero(falls))
            if lost:
                self._set(weight, np.where(falls, 0, array))
                fallen += lost
                if weight.key in self._rows:
                    self._note(weight, followed=lost)
        return fallen

    def _array(self, weight):
        return self._arrays[id(weight.variable)]

    def _set(self, weight, array):
        dtype = self._array(weight).dtype
        self._arrays[id(weight.variable)] = array.astype(dtype, copy=False)

    def _matrix(self, weight):
        """A copy of a kernel, laid out `(..., in, out)`."""
        return kernel_layout.to_matrix(
            np.array(self._array(weight)), weight.axes
        )

    def _assign(self, weight, matrix):
        self._set(weight, kernel_layout.from_matrix(matrix, weight.axes))
