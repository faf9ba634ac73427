"""Writing a model as a `.tflite` file for phones."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import pathlib
import tempfile

import keras
import numpy as np

from keras_prm import backends
from keras_prm import conversion
from keras_prm import conversion_process
from keras_prm import export_checks
from keras_prm import export_report
from keras_prm import float_inputs
from keras_prm import litert
from keras_prm import litert_runtime
from keras_prm import mixed_precision
from keras_prm import parity
from keras_prm import samples as samples_of
from keras_prm.file_scores import Evaluation
from keras_prm.version import __version__

_NUM_CHECKED_SAMPLES = 64


def export_litert(
    model,
    path,
    quantize=None,
    representative_data=None,
    check=True,
    tolerance=None,
    int8_io=False,
    *,
    batch_size=None,
    evaluation_data=None,
    metric=None,
    report=None,
):
    """Writes a model as a LiteRT (`.tflite`) file and checks the file.

    The file needs nothing but LiteRT's builtin operations. Layers of a mixed
    policy or in float64 compute in float32 in it, and while it is made. It is
    converted and checked next to its destination and moved there last: if
    anything fails, an older file stays as it was. TensorFlow converts it:
    here, or, where Keras runs on another backend, in a process of its own. It
    passes if, for each output `y` of the model under its own backend,

        max |file - y| <= tolerance * max |y|

    Args:
        model: A built functional or Sequential `keras.Model`; not changed.
        path: Where to write; ends in `.tflite`. Missing folders are made;
            where it is a link, what it leads to is written.
        quantize: None or `"float32"`; `"float16"`: weights in half the size;
            `"dynamic_range"`: int8 weights, float activations; `"int8"`:
            int8 weights, per channel, and activations, where LiteRT has the
            operation in int8.
        representative_data: Samples to calibrate `"int8"` with and to check
            the file on: an array; for several inputs a dict or list of
            arrays; or a `tf.data.Dataset` or other iterable of such batches,
            `(x, y)` tuples included; or a function that returns these, as
            TensorFlow's converter wants it. The first 256 samples are used,
            64 of them to check. Default: 8 random ones in [-1, 1) to check.
        check: bool, whether to compare the file with the model.
        tolerance: float. Default 1e-3 for float32, 1e-2 for float16, none
            for the others, of which only finite outputs are demanded.
        int8_io: What the inputs and outputs of an `"int8"` file are: False,
            the default: float32; `"int8"` or True; or `"uint8"`, as camera
            images are. Integers that the model computes with, such as an
            `Input(dtype="uint8")` in front of a `Rescaling`, are then
            quantised like others, a uint8 input to `"uint8"` with a scale of
            1: its bytes stay what they are. Integers that are indices, as of
            an `Embedding`, stay as they are. The report has the types and
            scales.
        batch_size: int, the one number of rows that the file takes. Default
            None: any number, or the model's own.
        evaluation_data: `(x, y)` arrays, or an iterable of such batches, to
            score model and file on. A third item is sample weights.
        metric: Name of a Keras metric, metric or loss object, or function
            `(y, predictions)` for `evaluation_data`. Default: accuracy, for
            integer or one-hot labels.
        report: `StripReport` that `strip` returned with `model`, to note in
            the file which of the original channels are left.

    Returns:
        An `ExportReport`. What the file says of itself is read back by
        `LiteRTModel(path).metadata`.

    Raises:
        TypeError: `model` is not a functional or Sequential model, or
            another argument is of a wrong type.
        ValueError: An argument is wrong, the destination cannot be written,
            LiteRT has no builtin for an operation, or the file fails the
            check.
        OSError: The disk is full, or the old file cannot be replaced.
        ImportError: TensorFlow is not installed; or `ai-edge-litert`, with
            `check` or `evaluation_data`.

    Example:

    ```python
    small, report = strip(model, return_report=True)
    print(export_litert(
        small, "small.tflite", "int8", train_images,
        evaluation_data=(test_images, test_labels), report=report,
    ))
    ```
    """
    export_checks.check_types(path, check)
    path = pathlib.Path(path)
    mode = "float32" if quantize is None else quantize
    export_checks.check_arguments(
        path, mode, representative_data, tolerance, int8_io
    )
    export_checks.check_evaluation(evaluation_data, metric)
    view = export_checks.functional(model)
    batch_size = export_checks.batch_size(view, batch_size)
    export_checks.check_report(report, view)
    if check or evaluation_data is not None:
        litert_runtime.interpreter_class()
    if representative_data is None:
        samples = samples_of.random(view)
    else:
        samples = samples_of.representative(model, representative_data)
    evaluation = None
    if evaluation_data is not None:
        evaluation = Evaluation(model, evaluation_data, metric)
    if mode == "int8":
        others = evaluation and evaluation.inputs
        samples_of.check_calibration(view, samples, others)
    metadata = _metadata(view, mode, report)
    int8_io = export_checks.int8_type(int8_io)
    settings = conversion.Settings(mode, batch_size, int8_io, metadata)
    target = path.resolve()  # links stay, and what they name is replaced
    with _folder_beside(target) as folder, mixed_precision.in_float32(view):
        view = float_inputs.in_single(view)
        samples = [x.astype(y.dtype) for x, y in zip(samples, view.inputs)]
        temporary = pathlib.Path(folder) / "model.tflite"
        with _writing(path):
            _convert(view, temporary, settings, samples)
        result = export_report.of_file(path, mode, temporary)
        if check:
            samples = [x[:_NUM_CHECKED_SAMPLES] for x in samples]
            result = _compared(result, view, temporary, samples, tolerance)
        if evaluation:
            names = conversion.input_names(view)
            file = litert.LiteRTModel(temporary, input_names=names)
            result = dataclasses.replace(result, scores=evaluation.run(file))
        with _writing(path):
            os.replace(temporary, target)
    return result


def _metadata(view, mode, report):
    found = {
        "keras_prm": __version__,
        "keras": keras.__version__,
        "quantize": mode,
    }
    if isinstance(view.output, dict):
        own = view.output
        keys = type(own)((key, key) for key in own)
        found["output_names"] = keras.tree.flatten(keys)
    if report is not None:
        found["kept_channels"] = report.kept_channels
    return found


def _convert(view, path, settings, samples):
    where = conversion
    if keras.backend.backend() != "tensorflow":
        where = conversion_process
    where.convert(view, path, settings, samples)


def _folder_beside(path):
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-")
    except OSError as error:
        raise ValueError(
            f"Cannot export to LiteRT: cannot write into '{path.parent}' "
            f"({error}). Choose a folder you may write to."
        ) from error


@contextlib.contextmanager
def _writing(path):
    try:
        yield
    except OSError as error:
        advice = "Close what uses the file"
        if error.errno == errno.ENOSPC:
            advice = "Free space on the disk"
        raise type(error)(
            error.errno,
            f"Cannot export to LiteRT: writing '{path}' failed ({error}). An "
            f"older file is as it was. {advice}, or choose "
            "another path.",
        ) from error


def _compared(result, view, path, samples, tolerance):
    """The report with errors, if they are acceptable."""
    if tolerance is None:
        tolerance = parity.FILE_TOLERANCES[result.quantize]
    errors, problems = [], []
    for i, (y, z) in enumerate(_outputs(view, path, samples)):
        absolute, relative = parity.errors(y, z)
        errors.append((absolute, relative))
        limit = np.inf if tolerance is None else tolerance
        if not np.isfinite(relative):
            finite = bool(np.isfinite(y).all()), bool(np.isfinite(z).all())
            problems.append(
                f"output {i}: shapes {y.shape} and {z.shape}, finite: "
                f"{finite[0]} and {finite[1]}"
            )
        elif relative > limit:
            problems.append(
                f"output {i}: error {absolute:.3g}, relative {relative:.3g}"
            )
    if problems:
        raise ValueError(
            "Cannot export to LiteRT: the file disagrees with the model "
            f"'{view.name}'. Received (model and file): {problems}, "
            f"tolerance={tolerance}. Nothing was written. Mend the model, "
            "pass typical representative_data, or a larger tolerance."
        )
    absolute, relative = map(max, zip(*errors))
    return dataclasses.replace(
        result,
        num_samples=len(samples[0]),
        max_abs_error=absolute,
        max_rel_error=relative,
        tolerance=tolerance,
    )


def _outputs(view, path, samples):
    """Pairs of what the model and the file compute for each output."""
    fixed, parts = view.inputs[0].shape[0], []
    for x, rows in samples_of.portions(samples, fixed or 16, bool(fixed)):
        with backends.full_precision():
            outputs = keras.tree.flatten(view(x, training=False))
        parts.append([keras.ops.convert_to_numpy(y)[:rows] for y in outputs])
    expected = [np.concatenate(ys) for ys in zip(*parts)]
    names = conversion.input_names(view)
    file = litert.LiteRTModel(path, input_names=names)
    actual = file.predict(samples, batch_size=16)
    return list(zip(expected, [actual] if len(expected) == 1 else actual))
