"""The weights of a smaller twin: positions that stay, and arrays."""

from __future__ import annotations

import keras
import numpy as np

from keras_prm.rebuild import config_arrays


class ModelArrays:
    """The arrays of a model's variables, cut to the channels that stay.

    Args:
        live: The `Liveness` of the model's graph.
    """

    def __init__(self, live):
        self._live = live
        self._graph = live.graph

    def __call__(self, variable):
        """The part of a variable that stays, as an array."""
        array = self._live.array(variable)
        for axis, ids in enumerate(self._axes(variable)):
            if ids is not None:
                keep = self._live.keep(ids)
                if not keep.all():
                    array = np.compress(keep, array, axis)
        return array

    def size(self, variable, axis):
        """How long an axis of a weight becomes."""
        ids = self._graph.weights[id(variable)].ids[axis]
        if ids is None:
            return variable.shape[axis]
        return int(self._live.keep(ids).sum())

    def positions(self, variable):
        """Per axis the positions that stay, ints, or `None` for all."""
        axes = self._axes(variable) or [None] * len(variable.shape)
        return [
            None if ids is None else np.flatnonzero(self._live.keep(ids))
            for ids in axes
        ]

    def _axes(self, variable):
        """Per axis its ids or `None`; empty where no rule names them."""
        weight = self._graph.weights.get(id(variable))
        if weight is not None:
            return weight.ids
        return self._graph.states.get(id(variable), ())


class SlimWeights:
    """The variables of one layer in its twin.

    Args:
        layer: The layer whose twin it is.
        arrays: The `ModelArrays`.
        edits: list of the `LayerEdit`s, in order.
        amount: What is added to its bias, `(out,)`, or `None`.
        factors: dict from `id(variable)` to what it is multiplied by.

    Attributes:
        given: ids of the variables that an initializer has taken care of.
    """

    def __init__(self, layer, arrays, edits, amount, factors):
        self.layer = layer
        self.arrays = arrays
        self.edits = edits
        self.amount = amount
        self.factors = factors
        self.given = set()

    def array(self, source):
        """What a variable of the layer is in its twin."""
        array = self.arrays(source)
        if self.amount is not None and source is self.layer.bias:
            array = array + self.amount
        if id(source) in self.factors:
            array = array * self.factors[id(source)]
        return self._edited(array, self._is_kernel(source))

    def positions(self, source):
        """Which positions of a variable stay: per axis ints, `None` for all."""
        kept = self.arrays.positions(source)
        if not self._is_kernel(source):
            return self._without_filters(kept)
        for edit in self.edits:
            kept = edit.positions(kept)
        return kept

    def extent(self, source):
        """The `Extent` of a variable of the layer."""
        before, kept = tuple(source.shape), self.positions(source)
        if self._is_kernel(source):  # which may be laid out anew
            after = self.array(source).shape
            return config_arrays.Extent(before, after, tuple(kept))
        return extent_of(before, kept)

    def extent_of_output(self, shape, kept):
        """The `Extent` of an output of the layer.

        Args:
            shape: Its shape.
            kept: Which positions stay of the tensors around it, per axis.
        """
        return extent_of(shape, self._without_filters(kept))

    def initializer(self, name):
        """An initializer that gives a new variable its final value.

        Zeros where it is not clear which variable it is for; it is assigned
        afterwards then.
        """
        stem = name.removesuffix("_initializer")
        own = getattr(self.layer, stem, None)
        if own is None:
            own = getattr(self.layer, f"{stem}_kernel", None)
        if stem == "bias" and own is None and self.amount is not None:
            return self._given(None, self._edited(self.amount, False))
        if not any(own is v for v in self.layer.variables):
            return "zeros"
        return self._given(own, self.array(own))

    def _is_kernel(self, source):
        return bool(self.edits) and source is self.layer.kernel

    def _without_filters(self, kept):
        """Positions that stay, less those of filters that go by an edit."""
        for edit in self.edits:
            if edit.filters is not None and kept and kept[-1] is not None:
                kept = [*kept[:-1], kept[-1][edit.filters]]
        return kept

    def _edited(self, array, is_kernel):
        for edit in self.edits:
            if is_kernel:
                array = edit.kernel(array)
            elif edit.filters is not None:
                array = np.compress(edit.filters, array, axis=-1)
        return array

    def _given(self, source, array):
        def initialize(shape, dtype=None):
            if tuple(shape) != array.shape:  # another variable's
                return keras.ops.zeros(shape, dtype)
            self.given.add(id(source))
            if str(array.dtype) == dtype:
                return array
            return keras.ops.convert_to_tensor(array, dtype)

        return initialize


def extent_of(shape, kept):
    """The `Extent` of what has a shape, of which positions stay per axis."""
    after = tuple(
        n if at is None else len(at) for n, at in zip(shape, kept, strict=True)
    )
    return config_arrays.Extent(shape, after, tuple(kept))
