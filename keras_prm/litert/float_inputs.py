"""Models that take as float32 what others take as integers or float64."""

from __future__ import annotations

import keras
import numpy as np

from keras_prm.utils import keras_graph
from keras_prm.utils import replay


def twin(view, is_numeric):
    """The same model with float32 inputs in place of others.

    Its layers are the model's own, those of nested models among them.

    Args:
        view: A functional model with a list of inputs.
        is_numeric: list of bool, which of its inputs become float32.

    Returns:
        A functional model from a list to a list.
    """
    inputs = []
    for x, numeric in zip(view.inputs, is_numeric):
        name = keras_graph.input_layer(x).name
        new = keras.Input(batch_shape=x.shape, dtype="float32", name=name)
        inputs.append(new if numeric else x)
    return replay.model(view, inputs, _in_single)


def _in_single(node, args, kwargs):
    args, kwargs = keras.tree.map_structure(_single, (args, kwargs))
    return node.operation(*args, **kwargs)


def _single(value):
    """A constant in float64 as float32; anything else as it is."""
    if isinstance(value, np.ndarray) and value.dtype == np.float64:
        return value.astype("float32")
    is_tensor = keras.ops.is_tensor(value) and not isinstance(
        value, keras.KerasTensor
    )
    if is_tensor and keras.backend.standardize_dtype(value.dtype) == "float64":
        return keras.ops.cast(value, "float32")
    return value


def in_single(view):
    """A model without float64, for `mixed_precision.in_float32`.

    Args:
        view: A functional model with a list of inputs, whose layers compute
            in float32 for as long as this one is used.

    Returns:
        The model itself, or one of the same layers that takes float32.

    Raises:
        ValueError: Something in it computes in float64 all the same.
    """
    is_double = [x.dtype == "float64" for x in view.inputs]
    outputs = [x for node in keras_graph.nodes(view) for x in node.outputs]
    if not any(is_double) and all(x.dtype != "float64" for x in outputs):
        return view
    single = twin(view, is_double)
    left = {
        node.operation.name
        for node in keras_graph.nodes(single)
        if any(x.dtype == "float64" for x in node.outputs)
    }
    if left:
        raise ValueError(
            "Cannot export to LiteRT: its builtins compute in float32, to "
            "which layers in float64 are cast, but what these calls compute "
            f"stays float64. Received: {sorted(left)}. Make their constants "
            "float32, and cast to float32 in them."
        )
    return single


def samples(arrays, is_numeric):
    """Samples for the twin to be calibrated with.

    Numbers of eight bits get a scale of 1: one entry of all is set to either
    end of their range.

    Args:
        arrays: list of arrays, one per input of the model.
        is_numeric: list of bool, as for `twin`.
    """
    found = list(arrays)
    for place, (array, numeric) in enumerate(zip(arrays, is_numeric)):
        if numeric:
            found[place] = array.astype("float32")
            is_byte = array.dtype.kind in "iu" and array.dtype.itemsize == 1
            if is_byte and array.size > 1:
                limits = np.iinfo(array.dtype)
                found[place].flat[0] = limits.min
                found[place].flat[-1] = limits.max
    return found
