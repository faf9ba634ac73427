"""Symbolic inputs, for a model to be run on."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import keras
from keras import layers
from keras import tree

from keras_prm.utils import keras_hooks

if TYPE_CHECKING:
    from typing import Any


def arrays_among(inputs):
    """The arrays among `inputs`, a structure; `None` if they are symbolic."""
    parts = tree.flatten(inputs)
    if inputs is None or all(isinstance(x, keras.KerasTensor) for x in parts):
        if inputs is None or parts:
            return None
    if parts and all(hasattr(x, "dtype") for x in parts):
        return inputs
    raise ValueError(
        "Expected `inputs` to be arrays, or `keras.Input`, or a list or dict "
        f"of them. Received: inputs={inputs!r}"
    )


def symbolic_inputs(model, given):
    """What a subclassed model is run on, one `keras.Input` or several."""
    wanted = inspect.signature(model.call).parameters.values()
    wanted = [
        p.name
        for p in wanted
        if p.default is p.empty and p.kind == p.POSITIONAL_OR_KEYWORD
    ]
    if len(wanted) > 1 and wanted[1] != "training":
        raise TypeError(
            f"The `call` of '{model.name}' takes {wanted}, and Keras' "
            "functional models take one argument. Let it take one list or "
            "dict of them."
        )
    if given is not None and arrays_among(given) is None:
        return given
    if given is not None:
        if isinstance(given, dict):
            return {name: _input(x, name) for name, x in given.items()}
        return tree.map_structure(_input, given)
    config = model.get_build_config() or {}
    shapes: list[Any] = [config.get("input_shape")]
    if "shapes_dict" in config:
        shapes = list(config["shapes_dict"].values())
    takes_other = any(map(_takes_no_floats, keras_hooks.sublayers(model)))
    if len(shapes) != 1 or not _is_shape(shapes[0]) or takes_other:
        raise ValueError(
            f"What '{model.name}' takes is not known. Give `inputs`: a batch "
            "of arrays, or `keras.Input`, or a list or dict of them. "
            f"Received: inputs=None, of a model built with {config}"
        )
    return keras.Input(shapes[0][1:])


def _takes_no_floats(layer):
    is_lookup = hasattr(layer, "get_vocabulary")
    return is_lookup or isinstance(layer, layers.Embedding)


def _input(x, name=None):
    dtype = keras.backend.standardize_dtype(x.dtype)
    if "float" in dtype:  # what Keras makes of all of these
        dtype = keras.config.floatx()
    return keras.Input(x.shape[1:], dtype=dtype, name=name)


def _is_shape(shape):
    return isinstance(shape, (list, tuple)) and all(
        n is None or isinstance(n, int) for n in shape
    )
