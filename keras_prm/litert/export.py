"""`export_litert`: a model as a `.tflite` file for phones."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import pathlib
import tempfile
import warnings
from typing import TYPE_CHECKING

import keras
import numpy as np

from keras_prm.dependency import ambiguous_sums
from keras_prm.equivalence import index_checks
from keras_prm.equivalence import model_state
from keras_prm.equivalence import probing
from keras_prm.equivalence import tolerances
from keras_prm.litert import conversion
from keras_prm.litert import conversion_process
from keras_prm.litert import export_checks
from keras_prm.litert import file_runs
from keras_prm.litert import flatbuffer
from keras_prm.litert import float_inputs
from keras_prm.litert import runtime
from keras_prm.litert.evaluation import Evaluation
from keras_prm.litert.model import LiteRTModel
from keras_prm.utils import datasets
from keras_prm.utils import mixed_precision
from keras_prm.utils import validation
from keras_prm.version import __version__

if TYPE_CHECKING:
    from typing import Any

    from keras_prm.reports.export import ExportReport
    from keras_prm.reports.strip import StripReport

_NUM_CHECKED_SAMPLES = 64
_NUM_RANDOM_SAMPLES = 8


@validation.renamed(path="filepath")
def export_litert(
    model: keras.Model,
    filepath: str | os.PathLike[str],
    quantize: str | None = None,
    representative_data: Any = None,
    check: bool = True,
    tolerance: float | None = None,
    int8_io: bool | str = False,
    *,
    batch_size: int | None = None,
    evaluation_data: Any = None,
    metric: Any = None,
    report: StripReport | None = None,
    inputs: Any = None,
) -> ExportReport:
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
        filepath: Where to write; ends in `.tflite`. Missing folders are made;
            where it is a link, what it leads to is written.
        quantize: None or `"float32"`; `"float16"`: weights in half the size;
            `"dynamic_range"`: int8 weights, float activations; `"int8"`:
            int8 weights, per channel, and activations, where LiteRT has the
            operation in int8.
        representative_data: Samples to calibrate `"int8"` with and to check
            the file on: an array; for several inputs a dict or list of
            arrays; a tuple `(x, y)`, of which the labels are left out; a
            `tf.data.Dataset` or other iterable of such batches; or a
            function that returns these, as TensorFlow's converter wants it.
            The first 256 samples are used, 64 of them to check. Default: 8
            random ones to check, in the range that the first layers of the
            model take, or as many as have every index of a table.
        check: bool, whether to compare the file with the model.
        tolerance: float. Default 1e-3 for float32, 1e-2 for float16, none
            for the others, of which only finite outputs are demanded.
        int8_io: What the inputs and outputs of an `"int8"` file are: False,
            the default: float32; `"int8"` or True; or `"uint8"`, as camera
            images are. Integers that the model computes with, such as an
            `Input(dtype="uint8")` in front of a `Rescaling`, are then
            quantized like others, a uint8 input to `"uint8"` with a scale of
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
        inputs: Samples to check the file on instead, in any of these forms.

    Returns:
        An `ExportReport`. What the file says of itself is read back by
        `LiteRTModel(filepath).metadata`.

    Raises:
        TypeError: `model` is not a functional or Sequential model, or
            another argument is of a wrong type.
        ValueError: An argument is wrong, the destination cannot be written,
            LiteRT has no builtin for an operation, or the file fails the
            check, or cannot be checked, as the model's outputs are not finite.
        OSError: The disk is full, or the old file cannot be replaced.
        ImportError: TensorFlow is not installed; or `ai-edge-litert`, with
            `check` or `evaluation_data`.

    Warns:
        UserWarning: The file is written but fails on a row of zeros, such as
            a black image or an empty sequence; or was not tested, as the
            model's outputs are the same whatever the input; or layers are
            called with `training=True`, which the file does not keep; or the
            model was lowered for files that are quantized otherwise.

    The file begins at the reset state of stateful layers, and goes on from
    call to call like the model, whose own state stays as it was.

    Example:

    ```python
    small, report = strip(model, return_report=True)
    print(export_litert(
        small, "small.tflite", "int8", train_images,
        evaluation_data=(test_images, test_labels), report=report,
    ))
    ```
    """
    export_checks.check_types(filepath, check)
    path = pathlib.Path(filepath)
    mode = "float32" if quantize is None else quantize
    export_checks.check_settings(
        path, mode, representative_data, tolerance, int8_io
    )
    export_checks.check_evaluation(evaluation_data, metric)
    view = export_checks.check_functional(model)
    batch_size = export_checks.batch_size(view, batch_size)
    export_checks.check_report(report, view)
    export_checks.warn_of_training(view)
    export_checks.warn_of_lowering(view, mode)
    if check or evaluation_data is not None:
        runtime.interpreter_class()
    samples, compared = _samples(model, view, representative_data, inputs)
    evaluation = None
    if evaluation_data is not None:
        evaluation = Evaluation(model, evaluation_data, metric)
    if mode == "int8":
        others = evaluation and evaluation.inputs
        export_checks.check_calibration(view, samples, others)
    settings = conversion.Settings(
        mode,
        batch_size,
        export_checks.int8_type(int8_io) or "",
        _metadata(view, mode, report),
    )
    target = path.resolve()  # links stay, and what they name is replaced
    with (
        _folder_beside(target) as folder,
        mixed_precision.in_float32(view),
        model_state.kept(view),
    ):
        view = float_inputs.in_single(view)
        temporary = pathlib.Path(folder) / "model.tflite"
        model_state.reset(view)
        with _writing(path):
            _convert(view, temporary, settings, _in_types_of(view, samples))
        result = flatbuffer.report_of(path, mode, temporary)
        if check:
            compared = _in_types_of(view, compared)
            result = _compared(result, view, temporary, compared, tolerance)
        if evaluation:
            result = _scored(result, view, temporary, evaluation)
        with _writing(path):
            os.replace(temporary, target)
    for problem in result.problems:
        warnings.warn(
            f"The file '{path}' was written, but {problem}", stacklevel=2
        )
    return result


def _samples(model, view, representative_data, inputs):
    """Arrays to calibrate with, and to compare on; `None` where not given."""
    given, purpose = {}, "export to LiteRT"
    if representative_data is not None:
        given["representative_data"] = datasets.first_rows(
            model, representative_data, "representative_data", purpose
        )
    if inputs is not None:
        given["inputs"] = datasets.first_rows(
            model, inputs, "inputs", purpose, is_finite=False
        )
    with model_state.kept(model):
        for name, rows in given.items():
            index_checks.check_indices(view, rows, name, purpose)
    samples = given.get("representative_data")
    return samples, given.get("inputs", samples)


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
    view, where = ambiguous_sums.with_safe_sums(view), conversion
    if keras.backend.backend() != "tensorflow":
        where = conversion_process
    where.convert(view, path, settings, samples or [])


def _in_types_of(view, arrays):
    """Arrays in the types of a model's inputs; words stay as they are."""
    if arrays is None:
        return None
    return [
        array if x.dtype == "string" else array.astype(x.dtype)
        for array, x in zip(arrays, view.inputs)
    ]


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
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            advice = "Free space on the disk, also for temporary files"
        raise type(error)(
            error.errno,
            f"Cannot export to LiteRT: writing '{path}' failed ({error}). An "
            f"older file is as it was. {advice}, or choose "
            "another path.",
        ) from error


def _scored(result, view, path, evaluation):
    """The report with the scores of model and file."""
    model_state.reset(view)
    file = LiteRTModel(path, input_names=conversion.input_names(view))
    return dataclasses.replace(result, scores=evaluation.run(file))


def _compared(result, view, path, samples, tolerance):
    """The report with errors, if they are acceptable."""
    if tolerance is None:
        tolerance = tolerances.FILE_TOLERANCES[result.quantize]

    def compute(arrays):
        return probing.run_from_reset(view, arrays)

    if samples is None:
        probe = probing.of_random(view, compute, _NUM_RANDOM_SAMPLES)
    else:
        samples = [x[:_NUM_CHECKED_SAMPLES] for x in samples]
        probe = probing.of_given(view, compute, samples)
    if tolerances.why_undefined(probe.outputs):
        raise ValueError(
            "Cannot export to LiteRT: the file cannot be compared with the "
            f"model '{view.name}'. Received: {probe.problem} on {probe}. "
            "Nothing was written. Mend the model, or pass typical `inputs`."
        )
    file = file_runs.FileRuns(path, conversion.input_names(view))
    probe, found, failure = file_runs.without_failing_zeros(file, probe)
    if isinstance(found, str):
        ranges = ""
        if result.quantize == "int8":
            ranges = (
                "typical `representative_data`, as a part of the model that "
                "is constant on them has no range in int8, "
            )
        raise ValueError(
            f"Cannot export to LiteRT: the file of the model '{view.name}' "
            f"fails: {found}. Received: {probe}. Nothing was written. Pass "
            f"{ranges}typical `inputs`, or another `quantize`."
        )
    errors, problems = [], []
    for i, (y, z) in enumerate(zip(probe.outputs, found, strict=True)):
        absolute, relative = tolerances.errors(y, z)
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
        _check_not_random(view, probe.arrays)
        raise ValueError(
            "Cannot export to LiteRT: the file disagrees with the model "
            f"'{view.name}'. Received (model and file): {problems}, "
            f"tolerance={tolerance}. Nothing was written. Mend the model, "
            "pass typical representative_data, or a larger tolerance."
        )
    absolute, relative = map(max, zip(*errors))
    return dataclasses.replace(
        result,
        num_samples=len(probe.arrays[0]),
        max_abs_error=absolute,
        max_rel_error=relative,
        tolerance=tolerance,
        compared_on=str(probe),
        problems=tuple(file_runs.problems(probe, failure)),
    )


def _check_not_random(view, arrays):
    if tolerances.is_random(lambda: probing.run_from_reset(view, arrays), 1e-3):
        raise ValueError(
            "Cannot export to LiteRT: the file cannot be compared with the "
            f"model '{view.name}', which is random at inference: it does not "
            "compute the same twice. Nothing was written. Let the model take "
            "the random numbers as an input, or pass check=False."
        )
