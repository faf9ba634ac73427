"""Checks of `export_litert`'s arguments, before any work is done."""

from __future__ import annotations

import os
import warnings

import keras
import numpy as np

from keras_prm.equivalence import tolerances
from keras_prm.reports.strip import StripReport
from keras_prm.utils import keras_graph
from keras_prm.utils import keras_hooks
from keras_prm.utils import mixed_precision
from keras_prm.utils import training_argument
from keras_prm.utils import validation
from keras_prm.utils import variable_keys

# Mean magnitudes of calibration and evaluation may differ by this factor.
_LARGEST_RATIO = 10.0


def check_settings(path, mode, data, tolerance, int8_io):
    """Refuses arguments that are wrong whatever the model is.

    Raises:
        ValueError: `path` is a folder or of another kind, `mode` is unknown,
            or the others do not go with it.
    """
    problem = None
    if path.suffix != ".tflite" or path.is_dir():
        problem = (
            f"expected the path of a file. Received: filepath={str(path)!r}. "
            "Choose a path that ends in `.tflite` and is no folder."
        )
    elif not tolerances.is_mode(mode):
        problem = (
            f"unknown quantization. Received: quantize={mode!r}. Choose None "
            f"or one of {list(tolerances.FILE_TOLERANCES)}."
        )
    elif mode == "int8" and data is None:
        problem = (
            "int8 activations must be calibrated. Received: "
            "representative_data=None. Pass some hundred typical samples."
        )
    elif int8_type(int8_io) is None:
        problem = (
            "unknown type of inputs and outputs. Received: "
            f"int8_io={int8_io!r}. Choose False, for float32, 'int8' (or "
            "True) or 'uint8'."
        )
    elif int8_io and mode != "int8":
        problem = (
            "int8 inputs and outputs belong to int8 files. Received: "
            f"int8_io={int8_io!r}, quantize={mode!r}. Pass quantize='int8'."
        )
    elif tolerance is not None and not (
        validation.is_real(tolerance) and tolerance >= 0
    ):
        problem = (
            "expected a number >= 0. Received: "
            f"tolerance={tolerance!r}. Pass None for the default."
        )
    if problem:
        raise ValueError(f"Cannot export to LiteRT: {problem}")


def check_types(path, check):
    """Refuses what no path and no bool is.

    Raises:
        TypeError: `path` or `check` is something else.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(
            "Cannot export to LiteRT: expected the path of a file. Received: "
            f"filepath={path!r}. Choose a path that ends in `.tflite`."
        )
    if not validation.is_bool(check):
        raise TypeError(
            "Cannot export to LiteRT: expected True or False. Received: "
            f"check={check!r}. Pass False to write the file unseen."
        )


def int8_type(int8_io):
    """`"int8"`, `"uint8"`, `""` for neither, or None for a wrong argument."""
    if isinstance(int8_io, bool):
        return "int8" if int8_io else ""
    known = isinstance(int8_io, str) and int8_io in ("int8", "uint8")
    return int8_io if known else None


def check_evaluation(data, metric):
    """Refuses a metric of no data.

    Raises:
        ValueError: `metric` without `data`.
    """
    if metric is not None and data is None:
        raise ValueError(
            "Cannot export to LiteRT: a metric needs data with labels. "
            f"Received: metric={metric!r}, evaluation_data=None. Pass "
            "evaluation_data=(x, y)."
        )


def warn_of_training(view):
    """Says what a file loses of layers that are called as in training."""
    if paths := training_argument.called_in_training(view):
        warnings.warn(
            f"export_litert: {training_argument.note(paths)} If the file is "
            "to draw random numbers, let the model take them as an input.",
            stacklevel=3,
        )


def warn_of_lowering(view, mode):
    """Says that columns were left out for files of another precision."""
    found = {
        path: layer.chosen_for
        for path, layer in variable_keys.layer_paths(view)
        # A `GatherColumns` has such; what stands below need not know it.
        if mode not in (getattr(layer, "chosen_for", ()) or (mode,))
    }
    if found:
        modes = sorted({mode for modes in found.values() for mode in modes})
        warnings.warn(
            f"export_litert: columns were left out for files in "
            f"{' or '.join(modes)}, by {len(found)} layers such as "
            f"'{next(iter(found))}', and this one is to be in {mode}, where "
            "zeros may be smaller and faster. Make a model for it of the one "
            f"before `strip`, by `strip(..., quantize={mode!r})`.",
            stacklevel=3,
        )


def check_report(report, view):
    """Refuses what is no report of this model's stripping.

    Raises:
        TypeError: `report` is no `StripReport`.
        ValueError: It speaks of layers that the model does not have, or
            keeps other numbers of channels than they have.
    """
    if report is None:
        return
    if not isinstance(report, StripReport):
        raise TypeError(
            "Cannot export to LiteRT: expected a StripReport. Received: "
            f"report of type {type(report).__name__}. Pass what "
            "`strip(model, return_report=True)` returns second."
        )
    paths = [f"{path}/" for path, _ in variable_keys.layer_paths(view)]
    unknown = [
        key
        for key in report.kept_channels
        if not f"{key}/".startswith(tuple(paths))
    ]
    widths = _wrong_widths(report, view)
    if unknown or widths:
        raise ValueError(
            "Cannot export to LiteRT: the report is one of another model. "
            f"Received: layers {unknown}, which '{view.name}' does not have, "
            f"and (channels kept, channels there) {widths}. Pass the report "
            "that `strip` returned with this model."
        )


def _wrong_widths(report, view):
    """Layers that have other numbers of channels than were kept."""
    variables, found = variable_keys.variables_by_key(view), {}
    for row in report.rows:
        kept = report.kept.get(row.key, (None,))[row.axes[1]]
        if kept is not None and row.key in variables:
            width = variables[row.key].shape[row.axes[1]]
            if width != len(kept):
                found[row.key] = len(kept), width
    return found


def batch_size(view, size):
    """The number of rows that the file takes; None for any number.

    Raises:
        ValueError: `size` is no positive int, or not the model's own.
    """
    own = view.inputs[0].shape[0]
    is_size = validation.is_whole(size) and own in (None, size)
    if size is not None and not is_size:
        raise ValueError(
            "Cannot export to LiteRT: expected an int above 0, or the "
            f"model's own batch size, which is {own}. Received: "
            f"batch_size={size!r}. Pass None for any number of rows."
        )
    return int(size) if size else own


def check_functional(model):
    """`model` from a list of tensors to a list or flat dict of them.

    Raises:
        TypeError: `model` is not a functional or Sequential model, or has a
            `call` of its own.
        ValueError: It has no weights yet, they are not finite, in half
            precision, or quantized by Keras.
    """
    keras_graph.check_is_new(model)
    if not isinstance(model, keras.Model):
        raise TypeError(
            "Cannot export to LiteRT: expected a keras.Model; one that is in "
            "a file is read by `keras.models.load_model(path)`. Received: "
            f"model={model!r} (of type {type(model).__name__})"
        )
    if not keras_graph.is_model(model):
        raise TypeError(
            "Cannot export to LiteRT: expected a functional or Sequential "
            "keras.Model without a `call` of its own, which its graph does "
            f"not show. Received: model of type {type(model).__name__}. "
            "Wrap it: `keras.Model(inputs, model(inputs))`."
        )
    if not model.built:
        raise ValueError(
            f"Cannot export to LiteRT: the model '{model.name}' has no "
            "weights yet. Call `model.build(input_shape)` first."
        )
    quantized = {
        path: part.quantization_mode
        for path, layer in variable_keys.layer_paths(model)
        for part in keras_hooks.sublayers(layer)
        if getattr(part, "quantization_mode", None)
    }
    if quantized:
        raise ValueError(
            "Cannot export to LiteRT: layers that `model.quantize` has "
            "quantized have no form there. Received, by layer: "
            f"{quantized}. Export the model as it was before, with "
            "quantize='int8' for instance."
        )
    _, half = mixed_precision.in_half(model)
    if half:
        raise ValueError(
            "Cannot export to LiteRT: its builtins compute in float32. "
            f"Received: layers in half precision: {half}. Those of the "
            "policies 'mixed_float16' and 'mixed_bfloat16', whose weights "
            "are float32, can be exported. For small files use "
            "quantize='float16'."
        )
    outputs = getattr(model, "output", None)
    if not isinstance(outputs, dict) or not all(
        isinstance(x, keras.KerasTensor) for x in outputs.values()
    ):
        outputs = model.outputs
    view = keras.Model(model.inputs, outputs, name=model.name)
    if not all(x.shape for x in view.outputs):
        raise ValueError(
            "Cannot export to LiteRT: expected outputs with rows, as inputs "
            f"have. Received: shapes {[x.shape for x in view.outputs]}. "
            "Export the model without what sums over the rows."
        )
    variable_keys.finite_arrays(view)
    return view


def check_calibration(model, samples, others=None):
    """Refuses samples that no sensible int8 range comes from.

    Args:
        model: A functional model.
        samples: list of arrays, one per input of the model.
        others: list of arrays of any shapes, one per input: the values of
            the data the file will be measured on, or None.

    Raises:
        ValueError: An input is words; each one is one and the same number
            throughout; or the mean magnitude of a floating-point one is more
            than 10 times larger or smaller than in `others`.
    """
    words = [x.name for x in model.inputs if x.dtype == "string"]
    if words:
        raise ValueError(
            "Cannot export to LiteRT: the converter cannot calibrate int8 on "
            f"words. Received: inputs of strings {words}. Turn strings into "
            "numbers outside of the model, or pass quantize='dynamic_range', "
            "whose weights are int8 too."
        )
    first = [x.flat[0] for x in samples]
    if all((x == value).all() for x, value in zip(samples, first)):
        raise ValueError(
            "Cannot export to LiteRT: representative_data is constant, and "
            "the ranges of int8 come from how it varies. Received: nothing "
            f"but {[value.item() for value in first]}. Pass some hundred "
            "typical samples."
        )
    wrong = {}
    for x, y, z in zip(model.inputs, samples, others or ()):
        if "float" not in x.dtype:
            continue
        means = [float(np.abs(a).mean(dtype=float)) for a in (y, z)]
        if max(means) > _LARGEST_RATIO * min(means):
            wrong[x.name] = tuple(float(f"{mean:.3g}") for mean in means)
    if wrong:
        raise ValueError(
            "Cannot export to LiteRT: representative_data and evaluation_data "
            "differ in range. Expected mean magnitudes within a factor of "
            f"{_LARGEST_RATIO:g}. Received, by input: {wrong}. Scale both "
            "alike, as the model was trained: [0, 255] and [0, 1] is the "
            "usual mistake."
        )
