"""What `strip` did to each kernel, and what it left alone."""

from __future__ import annotations

import keras
import numpy as np

from keras_prm import topology
from keras_prm.structures import StripReport
from keras_prm.structures import StripRow


def compare(trace, view, small):
    """The `StripReport` of a model and what became of it.

    Args:
        trace: The `Trace` of the model.
        view: The model.
        small: The stripped model.
    """
    before = topology.variables_by_key(view)
    after = topology.variables_by_key(small)
    rows = [
        _row(weight, after.get(weight.key))
        for weight in trace.weights.values()
        if weight.role == "kernel"
    ]
    return StripReport(
        tuple(rows),
        tuple(trace.skipped),
        sum(map(_size, before.values())),
        sum(map(_size, after.values())),
    )


def _row(weight, new):
    return StripRow(
        weight.key,
        tuple(weight.variable.shape),
        None if new is None else tuple(new.shape),
        _zeros(weight.variable),
        0 if new is None else _zeros(new),
    )


def _size(variable):
    return int(np.prod(variable.shape))


def _zeros(variable):
    array = keras.ops.convert_to_numpy(variable)
    return int(array.size - np.count_nonzero(array))
