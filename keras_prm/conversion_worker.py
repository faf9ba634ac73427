"""What the process does that converts for models of other backends."""

from __future__ import annotations

import importlib
import json
import pathlib

import keras
import numpy as np

from keras_prm import conversion
from keras_prm import mixed_precision

MODEL = "model.keras"
SAMPLES = "samples.npz"
REQUEST = "request.json"
ERROR = "error.json"


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
