"""Conversion in a process of its own, where Keras runs on TensorFlow.

For models of the other backends: the model goes through a `.keras` file, to
`main` over there, which imports what its layers are made of.
"""

from __future__ import annotations

import dataclasses
import errno
import importlib
import importlib.util
import json
import pathlib
import re
import subprocess
import sys
import types
import warnings

import keras
import numpy as np

from keras_prm.dependency import ambiguous_sums
from keras_prm.equivalence import model_state
from keras_prm.litert import conversion
from keras_prm.utils import backend
from keras_prm.utils import keras_hooks
from keras_prm.utils import mixed_precision

_PROGRAM = """\
import sys
from keras_prm.litert import conversion_process
conversion_process.main(sys.argv[1])
"""
_ERRORS = {"ValueError": ValueError, "OSError": OSError}


def convert(view, path, settings, samples):
    """As `conversion.convert`, whatever backend Keras runs on here.

    Args:
        view: A functional model with a list of inputs.
        path: `pathlib.Path` of the file, in a folder that may be filled.
        settings: `conversion.Settings`.
        samples: list of arrays, one per input, to calibrate int8 with.

    Raises:
        ImportError: TensorFlow is not installed.
        ValueError: As `conversion.convert`; or the other process cannot
            import the model's classes, cannot load the model, or dies.
        OSError: The disk is full, say.
    """
    if importlib.util.find_spec("tensorflow") is None:
        raise ImportError(
            "Cannot export to LiteRT: TensorFlow, which converts, is not "
            'installed. First `pip install "keras-prm[tensorflow]"`; Keras '
            "can go on running on another backend."
        )
    request = {
        "path": str(path.absolute()),
        "settings": dataclasses.asdict(settings),
        "custom_objects": custom_objects(view),
        "keras": backend.process_settings(),
    }
    folder = path.parent
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of lambdas: nobody else loads them
        view.save(folder / MODEL)
    np.savez(folder / SAMPLES, *samples)
    (folder / REQUEST).write_text(json.dumps(request))
    result = subprocess.run(
        [sys.executable, "-P", "-c", _PROGRAM, folder],
        env=backend.process_environment("tensorflow"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    error = _error(folder / ERROR)
    if error:
        raise _ERRORS[error["type"]](*error["args"])
    if result.returncode and "No space left on device" in result.stderr:
        raise OSError(errno.ENOSPC, "No space left on device")
    if result.returncode:
        raise ValueError(
            "Cannot export to LiteRT: the process that converts the model "
            f"'{view.name}' ended with code {result.returncode}; a negative "
            "one is a signal, -9 often a lack of memory. It said: "
            f"{result.stderr[-500:]!r}. Free memory, or load the saved model "
            "under KERAS_BACKEND=tensorflow and export it there."
        )


def _error(path):
    """What went wrong; None if nothing did, or the disk is too full to tell."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def custom_objects(view):
    """What the model is made of that `keras.models.load_model` must be told.

    Args:
        view: A functional model.

    Returns:
        list of `(registered name, module, name)` of classes and functions.

    Raises:
        ValueError: Some of them cannot be imported.
    """
    found, hidden = custom_parts(view)
    if hidden:
        raise ValueError(
            "Cannot export to LiteRT: the process that converts the model "
            f"'{view.name}' cannot import what it is made of. Expected "
            "classes and functions at the top level of a module. Received: "
            f"{sorted(hidden)}. Move them into a file of their own, beside "
            "your script for instance, and import them from there."
        )
    return found


def custom_parts(view):
    """What a model is made of besides Keras' own classes and functions.

    Args:
        view: A functional or Sequential model.

    Returns:
        list of `(registered name, module, name)` of classes and functions;
        list of the names of those that no other process can import.
    """
    found = _kinds(view)
    hidden = [
        f"{kind.__module__}.{kind.__qualname__}"
        for kind in found.values()
        if kind.__module__ == "__main__" or _imported(kind) is not kind
    ]
    names = [(k, kind.__module__, kind.__name__) for k, kind in found.items()]
    return names, hidden


def _kinds(view):
    """Classes and functions that the model's config names, by that name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = view.to_json()
    keys = "class_name|registered_name|config"
    named = set(re.findall(rf'"(?:{keys})": "([^"]+)"', config))
    found = {}
    operations = getattr(view, "operations", ())  # a Sequential has layers
    for layer in (*operations, *keras_hooks.sublayers(view)):
        for value in (layer, *model_state.leaves([*vars(layer).values()])):
            is_function = isinstance(value, types.FunctionType)
            kind = value if is_function else type(value)
            package = kind.__module__.partition(".")[0]
            name = keras.saving.get_registered_name(kind)
            # Keras finds its classes, but not its functions that are in ops.
            is_own = is_function or package not in ("keras", "builtins")
            if is_own and named & {name, kind.__name__}:
                found[name] = kind
    return found


def _imported(kind):
    return getattr(sys.modules.get(kind.__module__), kind.__name__, None)


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
        view = _load_model(folder / MODEL, request)
        _place_biases(view)
        with np.load(folder / SAMPLES) as arrays:
            samples = [arrays[name] for name in arrays.files]
        settings = conversion.Settings(**request["settings"])
        # A `.keras` file keeps layers in float64, not how they compute.
        with mixed_precision.in_float32(view):
            conversion.convert(view, request["path"], settings, samples)
    except (ValueError, OSError) as error:
        kind = "OSError" if isinstance(error, OSError) else "ValueError"
        text = json.dumps(
            {"type": kind, "args": list(map(_json_value, error.args))}
        )
        (folder / ERROR).write_text(text)


def _place_biases(view):
    """Lets the biases of a model go along the axes that they have elsewhere.

    Layers add them by `keras.ops.add`, which is misled here where an axis of
    positions is as long; see `ambiguous_sums`. Of layers whose bias need not
    lie along the last axis, the activation adds it.
    """
    for layer in keras_hooks.sublayers(view):
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

    return tf.nn.bias_add(x, bias, "NCHW")  # pyright: ignore[reportArgumentType]


def _json_value(value):
    return value if isinstance(value, int) else str(value)


def _load_model(path, request):
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
