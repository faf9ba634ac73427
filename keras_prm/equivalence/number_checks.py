"""Comparison of two functions on numbers, with weights near theirs."""

from __future__ import annotations

import re

import keras
import numpy as np
from keras import tree

from keras_prm.equivalence import tolerances


def stateless(function, arguments, state):
    """Calls a function with other weights; nothing that it assigns is kept.

    Args:
        function: The function.
        arguments: Its arguments, a sequence.
        state: Pairs of variables and their values.

    Returns:
        list of the tensors that it returns.
    """
    with keras.StatelessScope(state_mapping=state):
        return tree.flatten(function(*arguments))


def perturbed(weights):
    """Pairs of weights and values near theirs, none of them zero."""
    rng, found = np.random.default_rng(0), []
    for weight in weights:
        if "float" in weight.dtype:
            array = keras.ops.convert_to_numpy(
                keras.ops.cast(weight, "float32")
            )
            factors = rng.uniform(0.8, 1.2, array.shape)
            array = np.where(array == 0, 0.05 * factors, array * factors)
            found.append((weight, array.astype("float32")))
    return found


def check_outputs(outputs):
    """Raises a ValueError unless a list of tensors is finite."""
    arrays = [np.asarray(keras.ops.convert_to_numpy(x)) for x in outputs]
    if not all(np.isfinite(x.astype(float)).all() for x in arrays):
        raise ValueError("it returns NaN or infinity")


def are_close(expected, found):
    """Whether lists of tensors are equal up to rounding."""
    for x, y in zip(expected, found, strict=True):
        limit = tolerances.MODEL_TOLERANCES.get(
            keras.backend.standardize_dtype(x.dtype),
            tolerances.MODEL_TOLERANCES["float32"],
        )
        x, y = (keras.ops.convert_to_numpy(v) for v in (x, y))
        if tolerances.errors(np.asarray(x), np.asarray(y))[1] > limit:
            return False
    return True


def one_line(error):
    """What an error says, without what Keras puts around it."""
    lines = re.sub(r"\x1b\[\d*m", "", str(error)).split("\n")
    lines = [line.strip() for line in lines]
    if lines[0].startswith("Exception encountered when calling"):
        lines = [line for line in lines[1:] if line] or lines
    return f"{type(error).__name__}: {lines[0]}"
