"""Models of a benchmark, made into files with names."""

from __future__ import annotations

import dataclasses
import os
import pathlib

import keras

from keras_prm.equivalence import input_domains
from keras_prm.litert import conversion
from keras_prm.litert.export import export_litert
from keras_prm.litert.model import LiteRTModel
from keras_prm.utils import datasets
from keras_prm.utils import keras_graph

_KINDS = (keras.Model, str, os.PathLike, bytes, LiteRTModel)


@dataclasses.dataclass(frozen=True)
class LiteRTFile:
    """A file to measure.

    Args:
        name: What its rows are called; no two files are called the same.
        path: Where it lies.
        input_names: Its inputs in the order of lists of arrays; `None` where
            that is not known.
    """

    name: str
    path: pathlib.Path
    input_names: list[str] | None = None

    def open(self, num_threads):
        """A `LiteRTModel` of this file."""
        return LiteRTModel(self.path, num_threads, self.input_names)


def files(
    models, folder, quantize=None, representative_data=None, batch_size=None
):
    """Makes files of models, in a folder where they are no files yet.

    Args:
        models: A model or a list of models or a dict from name to model;
            see `keras_prm.benchmark`.
        folder: `pathlib.Path` of an existing folder.
        quantize: How Keras models are exported, see `export_litert`.
        representative_data: What `"int8"` is calibrated with.
        batch_size: int, the one number of rows that the files of Keras
            models take, unless they have one of their own; None: any.

    Returns:
        list of `LiteRTFile`.

    Raises:
        TypeError: A model is none of these.
        ValueError: There are no models, a file does not exist, or a Keras
            model cannot be exported.
    """
    models = _models_by_name(models)
    _check_models(models, quantize, representative_data)
    found = []
    for number, (name, model) in enumerate(models.items()):
        path, names = folder / f"{number}.tflite", None
        if isinstance(model, keras.Model):
            names = conversion.input_names(model)
            export_litert(
                model,
                path,
                quantize,
                _inputs_in_order(names, representative_data)
                if quantize == "int8"
                else None,
                check=False,
                batch_size=_batch_size(model, batch_size),
            )
        elif isinstance(model, bytes):
            path.write_bytes(model)
        elif isinstance(model, LiteRTModel):
            path.write_bytes(model.content)
            names = model.input_names if model.is_ordered else None
        else:
            path = pathlib.Path(model)
        found.append(LiteRTFile(name, path, names))
    return found


def _inputs_in_order(names, data):
    """As a list, if it is a dict by the names of the file's inputs."""
    if isinstance(data, dict) and set(data) == set(names):
        return [data[name] for name in names]
    return data


def _batch_size(model, size):
    """`size`, or None where the model has a batch size of its own."""
    inputs = getattr(model, "inputs", None)
    return None if inputs and inputs[0].shape[0] else size


def by_file_names(models, inputs):
    """A dict of inputs by the names that the files of Keras models have.

    Args:
        models: See `keras_prm.benchmark`.
        inputs: dict of arrays, by the keys that a Keras model was made with
            or the names of its inputs or of its file's. Others stay as they
            are, as does what is no dict.
    """
    for model in _models_by_name(models).values():
        if isinstance(inputs, dict) and isinstance(model, keras.Model):
            arrays = datasets.in_order(model, inputs)
            if arrays:
                return dict(zip(conversion.input_names(model), arrays))
    return inputs


def domains(models, names):
    """What the first layers of a Keras model among others take of each input.

    Args:
        models: See `keras_prm.benchmark`.
        names: Names of the inputs in a file.

    Returns:
        list of `input_domains.Domain` or None, in the order of `names`.
    """
    for model in _models_by_name(models).values():
        if isinstance(model, keras.Model):
            own = conversion.input_names(model)
            found = dict(zip(own, input_domains.input_domains(model)))
            if len(names) == len(own) == 1:
                return [*found.values()]
            return [found.get(name) for name in names]
    return [None] * len(names)


def _models_by_name(models):
    """dict from a name that occurs once to a model."""
    if isinstance(models, dict):
        pairs = models.items()
    else:
        is_list = isinstance(models, (list, tuple))
        models = models if is_list else [models]
        pairs = zip(map(_model_name, models), models)
    found = {}
    for stem, model in pairs:
        name, number = str(stem), 1
        while name in found:
            name = f"{stem}_{number}"
            number += 1
        found[name] = model
    return found


def _model_name(model):
    if isinstance(model, keras.Model):
        return model.name
    if isinstance(model, (str, os.PathLike)):
        return pathlib.Path(model).stem
    return "model"


def _check_models(models, quantize, data):
    if not models:
        raise ValueError(
            "Cannot benchmark: there are no models. Received: models of "
            "length 0. Pass a Keras model or the path of a `.tflite` file."
        )
    for model in models.values():
        if not isinstance(model, (str, os.PathLike)):  # of a file
            keras_graph.check_is_new(model)
    wrong = {
        name: type(model).__name__
        for name, model in models.items()
        if not isinstance(model, _KINDS)
    }
    if wrong:
        raise TypeError(
            "Cannot benchmark: expected Keras models, paths or bytes of "
            f"`.tflite` files, or LiteRTModels. Received: models={wrong}. "
            "Pass one, a list, or a dict from name to model."
        )
    missing = {
        name: str(model)
        for name, model in models.items()
        if isinstance(model, (str, os.PathLike))
        and not pathlib.Path(model).is_file()
    }
    if missing:
        raise ValueError(
            "Cannot benchmark: expected files that exist. Received: "
            f"models={missing}. Check the paths, or write the files with "
            "`export_litert`."
        )
    if quantize is None:
        return
    if not any(isinstance(model, keras.Model) for model in models.values()):
        raise ValueError(
            "Cannot benchmark: files stay as they are. Expected quantize=None "
            f"where no model is a Keras model. Received: quantize={quantize!r}."
            " Pass Keras models, or write the files with `export_litert`."
        )
    if quantize == "int8" and data is None:
        raise ValueError(
            "Cannot benchmark: int8 activations must be calibrated. Received: "
            "quantize='int8', inputs=None. Pass some hundred typical samples "
            "as inputs; the first `batch_size` of them are timed."
        )
