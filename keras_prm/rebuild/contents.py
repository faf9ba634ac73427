"""The arrays that the variables of a smaller twin hold."""

from __future__ import annotations

import keras
import numpy as np


class Contents:
    """The arrays of one twin's variables.

    Args:
        sliced: Maps a variable to the part of it that stays.
        box: The `KernelBox` its kernel is cut to, or `None`.
        amount: What is added to its bias, `(out,)`, or `None`.
        factors: dict from `id(variable)` to what it is multiplied by.
        layer: The layer whose twin it is.
        narrowing: The `Narrowing` of its filters, or `None`.
        lowering: The `Lowering` of its columns, or `None`.

    Attributes:
        given: ids of the variables that an initializer has taken care of.
    """

    def __init__(
        self,
        sliced,
        box,
        amount,
        factors,
        layer,
        narrowing=None,
        lowering=None,
    ):
        self.sliced = sliced
        self.box = box
        self.amount = amount
        self.factors = factors
        self.layer = layer
        self.narrowing = narrowing
        self.lowering = lowering
        self.given = set()

    def array(self, source):
        """What a variable of the layer is in its twin."""
        array = self.sliced(source)
        if self.box is not None and source is self.layer.kernel:
            array = array[self.box.window]
        if self.lowering is not None and source is self.layer.kernel:
            array = self.lowering.kernel(array)
        if self.amount is not None and source is self.layer.bias:
            array = array + self.amount
        if id(source) in self.factors:
            array = array * self.factors[id(source)]
        return self._narrow(array)

    def initializer(self, layer, name):
        """An initializer that gives a new variable its final value.

        Zeros where it is not clear which variable it is for; it is assigned
        afterwards then.
        """
        stem = name.removesuffix("_initializer")
        own = getattr(layer, stem, None)
        if own is None:
            own = getattr(layer, f"{stem}_kernel", None)
        if stem == "bias" and own is None and self.amount is not None:
            return self._given(None, self._narrow(self.amount))
        if not any(own is v for v in layer.variables):
            return "zeros"
        return self._given(own, self.array(own))

    def _narrow(self, array):
        """The filters that stay, of a kernel or a bias."""
        if self.narrowing is None:
            return array
        return np.compress(self.narrowing.live, array, axis=-1)

    def _given(self, source, array):
        def initialize(shape, dtype=None):
            if tuple(shape) != array.shape:  # another variable's
                return keras.ops.zeros(shape, dtype)
            self.given.add(id(source))
            if str(array.dtype) == dtype:
                return array
            return keras.ops.convert_to_tensor(array, dtype)

        return initialize
