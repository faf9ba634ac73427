"""What the process does that converts for models of other backends."""

from __future__ import annotations

import importlib
import json
import pathlib

import keras
import numpy as np

from keras_prm.litert import conversion
from keras_prm.utils import ambiguous_sums
from keras_prm.utils import keras_graph
from keras_prm.utils import mixed_precision

MODEL = "model.keras"
SAMPLES = "samples.npz"
REQUEST = "request.json"
ERROR = "error.json"

_CONVOLUTIONS = (  # the converter takes no transposed ones by channels first
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)


def main(folder):
    """Writes the file that is asked for, or what went wrong.

    Args:
        folder: What `conversion_process.convert` has filled: the model, the
            samples and the request. An error is written into it as well.
    """
    folder = pathlib.Path(folder)
    try:
        request = json.loads((folder / REQUEST).read_text())
        view = _load(folder / MODEL, request)
        _place_biases(view)
        with np.load(folder / SAMPLES) as arrays:
            samples = [arrays[name] for name in arrays.files]
        settings = conversion.Settings(**request["settings"])
        # A `.keras` file keeps layers in float64, not how they compute.
        with mixed_precision.in_float32(view):
            conversion.convert(view, request["path"], settings, samples)
    except (ValueError, OSError) as error:
        kind = "OSError" if isinstance(error, OSError) else "ValueError"
        text = json.dumps({"type": kind, "args": list(map(_plain, error.args))})
        (folder / ERROR).write_text(text)


def _place_biases(view):
    """Lets the biases of a model go along the axes that they have elsewhere.

    Layers add them by `keras.ops.add`, which is misled here where an axis of
    positions is as long; see `coincidences`. Of layers whose bias need not lie
    along the last axis, the activation adds it.
    """
    for layer in keras_graph.sublayers(view):
        is_own = not type(layer).call.__module__.startswith("keras.")
        # A layer that is never called has none yet.
        if is_own or getattr(layer, "bias", None) is None:
            continue
        if isinstance(layer, keras.layers.EinsumDense):
            _add_in_activation(layer, _add)
            kind = type(layer)
            layer.__class__ = type(kind.__name__, (_AddsNoBias, kind), {})
        elif _is_channels_first(layer):
            _add_in_activation(layer, _add_by_channel)
            layer.use_bias = False


def _add_in_activation(layer, add):
    bias = keras.ops.convert_to_numpy(layer.bias).astype("float32")
    layer.activation = _biased(add, bias, layer.activation)


class _AddsNoBias(keras.layers.EinsumDense):
    """One whose activation adds its bias, which other layers may read."""

    def call(self, *args, **kwargs):
        return self._without_bias(super().call, *args, **kwargs)

    def quantized_call(self, *args, **kwargs):
        return self._without_bias(super().quantized_call, *args, **kwargs)

    def _without_bias(self, call, *args, **kwargs):
        bias, self.bias = self.bias, None
        try:
            return call(*args, **kwargs)
        finally:
            self.bias = bias


def _is_channels_first(layer):
    return (
        isinstance(layer, _CONVOLUTIONS)
        and layer.data_format == "channels_first"
    )


def _biased(add, bias, activation):
    def function(x):
        y = add(x, bias)
        return y if activation is None else activation(y)

    return function


def _add(x, bias):
    import tensorflow as tf

    is_misplaced = ambiguous_sums.is_misplaced(tuple(x.shape), bias.shape)
    return (tf if is_misplaced else keras.ops).add(x, bias)


def _add_by_channel(x, bias):
    import tensorflow as tf

    return tf.nn.bias_add(x, bias, "NCHW")


def _plain(value):
    return value if isinstance(value, int) else str(value)


def _load(path, request):
    for setting, value in request["keras"].items():
        getattr(keras.config, f"set_{setting}")(value)
    try:
        custom_objects = {
            key: getattr(importlib.import_module(module), name)
            for key, module, name in request["custom_objects"]
        }
        # Of a model that this user has built and saved a moment ago.
        return keras.models.load_model(
            path, custom_objects, compile=False, safe_mode=False
        )
    except Exception as error:
        # Keras puts the cause last, after whole configs.
        reason = str(error).rpartition("Exception encountered:")[2].strip()
        raise ValueError(
            "Cannot export to LiteRT: the model cannot be loaded where Keras "
            f"runs on TensorFlow ({type(error).__name__}: {reason[:500]}). "
            "Give its layers a `get_config`, and write them with `keras.ops` "
            "instead of one backend's functions."
        ) from error
