"""Converting in a process of its own, where Keras runs on TensorFlow.

For models of the other backends: the model goes through a `.keras` file, to
`conversion_worker` over there, which imports what its layers are made of.
"""

from __future__ import annotations

import dataclasses
import errno
import importlib.util
import json
import os
import re
import subprocess
import sys
import types
import warnings

import keras
import numpy as np

from keras_prm.equivalence import model_state
from keras_prm.litert import conversion_worker
from keras_prm.utils import keras_graph

_PROGRAM = """\
import sys
from keras_prm.litert import conversion_worker
conversion_worker.main(sys.argv[1])
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
        "keras": keras_settings(),
    }
    folder = path.parent
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of lambdas: nobody else loads them
        view.save(folder / conversion_worker.MODEL)
    np.savez(folder / conversion_worker.SAMPLES, *samples)
    (folder / conversion_worker.REQUEST).write_text(json.dumps(request))
    result = subprocess.run(
        [sys.executable, "-P", "-c", _PROGRAM, folder],
        env=_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    error = _error(folder / conversion_worker.ERROR)
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


def keras_settings():
    """What another process has to set by `keras.config.set_...`, a dict."""
    return {
        "image_data_format": keras.config.image_data_format(),
        "epsilon": float(keras.config.epsilon()),  # NumPy's, say
        "floatx": keras.config.floatx(),
    }


def _error(path):
    """What went wrong; None if nothing did, or the disk is too full to tell."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def _environment():
    """For a process that imports what this one does, and needs no GPU."""
    return os.environ | {
        "KERAS_BACKEND": "tensorflow",
        "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)),
        "CUDA_VISIBLE_DEVICES": "-1",
    }


def custom_objects(view):
    """What the model is made of that `keras.models.load_model` must be told.

    Args:
        view: A functional model.

    Returns:
        list of `(registered name, module, name)` of classes and functions.

    Raises:
        ValueError: Some of them cannot be imported.
    """
    found, hidden = parts(view)
    if hidden:
        raise ValueError(
            "Cannot export to LiteRT: the process that converts the model "
            f"'{view.name}' cannot import what it is made of. Expected "
            "classes and functions at the top level of a module. Received: "
            f"{sorted(hidden)}. Move them into a file of their own, beside "
            "your script for instance, and import them from there."
        )
    return found


def parts(view):
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
    for layer in (*operations, *keras_graph.sublayers(view)):
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
