"""Float32 in place of mixed or double precision, for a while."""

from __future__ import annotations

import contextlib

import keras

from keras_prm.utils import keras_hooks
from keras_prm.utils import variable_keys

_HALF = ("float16", "bfloat16")
_DOUBLE = "float64"


@keras.saving.register_keras_serializable(package="keras_prm")
class ComputeInFloat32(keras.DTypePolicy):
    """The policy of weights of any type that are cast to float32 when read."""

    @property
    def compute_dtype(self):
        """float32, whatever the variables are."""
        return "float32"


def in_half(model):
    """Paths of the layers that compute in half precision.

    Args:
        model: A functional or Sequential model.

    Returns:
        list of str: those of mixed policies, whose weights are float32, and
        list of str: the others.
    """
    mixed, other = [], []
    for path, layer in variable_keys.layer_paths(model):
        for part in keras_hooks.sublayers(layer):
            if part.compute_dtype in _HALF:
                (mixed if _is_mixed(part) else other).append(path)
    return list(dict.fromkeys(mixed)), list(dict.fromkeys(other))


@contextlib.contextmanager
def in_float32(model):
    """A context in which layers of mixed and double policies use float32.

    The weights of a mixed policy are float32 anyway; those in float64 are
    cast. It changes the layers for as long as it lasts, and not what Keras
    has compiled before.

    Args:
        model: A functional or Sequential model.
    """
    layers = [
        part
        for _, layer in variable_keys.layer_paths(model)
        for part in keras_hooks.sublayers(layer)
        if _is_mixed(part) or part.compute_dtype == _DOUBLE
    ]
    before = [(layer, layer.dtype_policy) for layer in layers]
    try:
        for layer, policy in before:
            layer.dtype_policy = (
                "float32" if _is_mixed(layer) else ComputeInFloat32(_DOUBLE)
            )
        yield
    finally:
        for layer, policy in before:
            layer.dtype_policy = policy


def _is_mixed(layer):
    return layer.dtype_policy.name in [f"mixed_{name}" for name in _HALF]
