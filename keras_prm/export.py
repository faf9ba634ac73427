"""Writing a model as a `.tflite` file for phones."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import tempfile
import warnings

import keras
import numpy as np

from keras_prm import samples as samples_of
from keras_prm import topology
from keras_prm.litert import LiteRTModel

# How far a file may be off by default, see `export_litert`; None: any figure.
TOLERANCES = {
    "float32": 1e-4,
    "float16": 1e-2,
    "dynamic_range": None,
    "int8": None,
}
_NUM_CHECKED_SAMPLES = 64


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """What was written, and how far it is from the model.

    Args:
        path: Path of the file.
        quantize: `"float32"`, `"float16"`, `"dynamic_range"` or `"int8"`.
        num_bytes: Size of the file.
        num_samples: Samples the file was compared on; 0 if it was not.
        max_abs_error: Largest difference from any of the model's outputs;
            None if not compared.
        max_rel_error: The largest of each output's `max_abs_error`, divided
            by the largest absolute value of that output.
        tolerance: The tolerance that was kept; None if there was none.
    """

    path: str
    quantize: str
    num_bytes: int
    num_samples: int = 0
    max_abs_error: float | None = None
    max_rel_error: float | None = None
    tolerance: float | None = None

    def __str__(self):
        text = f"{self.path}: {self.quantize}, {self.num_bytes / 1e3:,.1f} kB"
        if not self.num_samples:
            return f"{text}, not compared with the model"
        kept = "no limit" if self.tolerance is None else f"{self.tolerance:g}"
        return (
            f"{text}, max error {self.max_abs_error:.2g} (relative "
            f"{self.max_rel_error:.2g}, tolerance {kept}) on "
            f"{self.num_samples} samples"
        )


def export_litert(
    model,
    path,
    quantize=None,
    representative_data=None,
    check=True,
    tolerance=None,
    int8_io=False,
):
    """Writes a model as a LiteRT (`.tflite`) file and checks the file.

    The file needs nothing but LiteRT's builtin operations, and takes any
    batch size. It is converted and checked next to its destination and moved
    there last: if anything fails, an older file stays as it was. It passes
    if, for each output `y` of the model,

        max |file - y| <= tolerance * max(1, max |y|)

    Args:
        model: A built functional or Sequential `keras.Model`; not changed.
        path: Where to write; ends in `.tflite`. Missing folders are made.
        quantize: None or `"float32"`; `"float16"`: weights in half the size;
            `"dynamic_range"`: int8 weights, float activations; `"int8"`:
            int8 weights, per channel, and activations, where LiteRT has the
            operation in int8.
        representative_data: Samples to calibrate `"int8"` with and to check
            the file on: an array; for several inputs a dict or list of
            arrays; or a `tf.data.Dataset` or other iterable of such batches,
            `(x, y)` tuples included. The first 256 samples are used, 64 of
            them to check. Default: 8 random ones in [-1, 1) to check.
        check: bool, whether to compare the file with the model.
        tolerance: float. Default 1e-4 for float32, 1e-2 for float16, none
            for the others, of which only finite outputs are demanded.
        int8_io: bool, whether the inputs and outputs of an `"int8"` file are
            int8 too. Default False: float32.

    Returns:
        An `ExportReport`.

    Raises:
        TypeError: `model` is not a functional or Sequential model.
        ValueError: An argument is wrong, Keras does not run on TensorFlow,
            the destination cannot be written, LiteRT has no builtin for an
            operation, or the file fails the check.
        ImportError: `check` without `ai-edge-litert` installed.

    Example:

    ```python
    report = export_litert(small, "small.tflite", "int8", train_images)
    print(report)
    ```
    """
    path, mode = pathlib.Path(path), quantize or "float32"
    _check_arguments(path, mode, representative_data, tolerance, int8_io)
    view = _functional(model)
    topology.finite_arrays(view)
    tolerance = TOLERANCES[mode] if tolerance is None else tolerance
    if representative_data is None:
        samples = samples_of.random(view)
    else:
        samples = samples_of.representative(model, representative_data)
    with _folder_beside(path) as folder:
        temporary = pathlib.Path(folder) / path.name
        _convert(view, temporary, _options(view, mode, samples, int8_io))
        report = ExportReport(str(path), mode, temporary.stat().st_size)
        if check:
            samples = [x[:_NUM_CHECKED_SAMPLES] for x in samples]
            errors = _errors(view, temporary, samples, tolerance)
            report = dataclasses.replace(
                report,
                num_samples=len(samples[0]),
                max_abs_error=max(error for error, _ in errors),
                max_rel_error=max(e / y if e else 0.0 for e, y in errors),
                tolerance=tolerance,
            )
        os.replace(temporary, path)
    return report


def input_names(model):
    """Names of the inputs in the file of `model`, in `model.inputs`' order."""
    names = [re.sub(r"[^A-Za-z0-9_.-]", "_", x.name) for x in model.inputs]
    # Signatures sort by name and demand that names differ.
    return [
        name if name not in names[:i] else f"{name}_{i}"
        for i, name in enumerate(names)
    ]


def _tensorflow():
    """The one place that imports TensorFlow."""
    import tensorflow

    return tensorflow


def _check_arguments(path, mode, data, tolerance, int8_io):
    backend = keras.backend.backend()
    problem = None
    if backend != "tensorflow":
        problem = (
            f"it needs TensorFlow. Received: backend={backend!r}. Save the "
            "model with `model.save('model.keras')` and export it in a "
            "process that loads it under KERAS_BACKEND=tensorflow."
        )
    elif path.suffix != ".tflite" or path.is_dir():
        problem = (
            f"expected the path of a file. Received: path={str(path)!r}. "
            "Choose a path that ends in `.tflite` and is no folder."
        )
    elif mode not in TOLERANCES:
        problem = (
            f"unknown quantization. Received: quantize={mode!r}. Choose None "
            f"or one of {list(TOLERANCES)}."
        )
    elif mode == "int8" and data is None:
        problem = (
            "int8 activations must be calibrated. Received: "
            "representative_data=None. Pass some hundred typical samples."
        )
    elif int8_io and mode != "int8":
        problem = (
            "int8 inputs and outputs belong to int8 files. Received: "
            f"int8_io=True, quantize={mode!r}. Pass quantize='int8'."
        )
    elif tolerance is not None and not tolerance >= 0:
        problem = (
            f"expected a tolerance >= 0. Received: tolerance={tolerance}. "
            "Pass None for the default."
        )
    if problem:
        raise ValueError(f"Cannot export to LiteRT: {problem}")


def _functional(model):
    """`model` from a list of tensors to a list or flat dict of them."""
    if not isinstance(model, keras.Model) or not isinstance(
        model, (keras.Sequential, keras.Function)
    ):
        raise TypeError(
            "Cannot export to LiteRT: expected a functional or Sequential "
            f"keras.Model. Received: model of type {type(model).__name__}. "
            "Wrap it: `keras.Model(inputs, model(inputs))`."
        )
    if not model.built:
        raise ValueError(
            f"Cannot export to LiteRT: the model '{model.name}' has no "
            "weights yet. Call `model.build(input_shape)` first."
        )
    half = [
        layer.name
        for layer in model.layers
        if layer.compute_dtype in ("float16", "bfloat16")
    ]
    if half:
        raise ValueError(
            "Cannot export to LiteRT: its builtins compute in float32. "
            f"Received: layers in half precision: {half}. Build the model "
            "again after `keras.config.set_dtype_policy('float32')` and copy "
            "the weights with `set_weights(model.get_weights())`. For small "
            "files use quantize='float16'."
        )
    outputs = getattr(model, "output", None)
    if not isinstance(outputs, dict) or not all(
        isinstance(x, keras.KerasTensor) for x in outputs.values()
    ):
        outputs = model.outputs
    return keras.Model(model.inputs, outputs, name=model.name)


def _folder_beside(path):
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-")
    except OSError as error:
        raise ValueError(
            f"Cannot export to LiteRT: cannot write into '{path.parent}' "
            f"({error}). Choose a folder you may write to."
        ) from error


def _options(view, mode, samples, int8_io):
    tf = _tensorflow()
    spec = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}
    options = {"target_spec": spec}
    if mode != "float32":
        options["optimizations"] = [tf.lite.Optimize.DEFAULT]
    if mode == "float16":
        spec["supported_types"] = [tf.float16]
    if mode == "int8":
        names = input_names(view)
        spec["supported_ops"].insert(0, tf.lite.OpsSet.TFLITE_BUILTINS_INT8)
        options["representative_dataset"] = lambda: (
            {name: x[i : i + 1] for name, x in zip(names, samples)}
            for i in range(len(samples[0]))
        )
    if int8_io:
        options["inference_input_type"] = tf.int8
        options["inference_output_type"] = tf.int8
    return options


def _convert(view, path, options):
    signature = [
        keras.InputSpec(dtype=x.dtype, shape=(None, *x.shape[1:]), name=name)
        for x, name in zip(view.inputs, input_names(view))
    ]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            view.export(
                str(path),
                format="litert",
                verbose=False,
                input_signature=[signature],
                **options,
            )
    except Exception as error:
        found = sorted(set(re.findall(r"'tf\.(\w+)' op", str(error))))
        reason = str(error)[:500]
        if found:
            reason = (
                f"LiteRT has no builtin for the operations {found}. Use "
                "others; for recurrent layers, set `unroll=True`."
            )
        raise ValueError(
            f"Cannot export to LiteRT: the model '{view.name}' was refused by "
            f"the converter. {reason}"
        ) from error


def _errors(view, path, samples, tolerance):
    """`(max |file - y|, max |y|)` of each output y, if they are acceptable."""
    errors, problems = [], []
    outputs = _outputs(view, path, samples)
    for i, (expected, actual) in enumerate(outputs):
        finite = np.isfinite(expected).all(), np.isfinite(actual).all()
        if expected.shape != actual.shape or not all(finite):
            problems.append(
                f"output {i}: shapes {expected.shape} and {actual.shape}, "
                f"finite: {finite[0]} and {finite[1]}"
            )
            continue
        difference = np.abs(expected.astype(float) - actual.astype(float))
        error = float(difference.max(initial=0))
        peak = float(np.abs(expected.astype(float)).max(initial=0))
        errors.append((error, peak or 1.0))
        if tolerance is not None and error > tolerance * max(1.0, peak):
            problems.append(f"output {i}: error {error:.3g} of {peak:.3g}")
    if problems:
        raise ValueError(
            "Cannot export to LiteRT: the file disagrees with the model "
            f"'{view.name}'. Received (model and file): {problems}, "
            f"tolerance={tolerance}. Nothing was written. Mend the model, "
            "pass typical representative_data, or a larger tolerance."
        )
    return errors


def _outputs(view, path, samples):
    """Pairs of what the model and the file compute for each output."""
    portions = [
        keras.tree.flatten(
            view([x[i : i + 16] for x in samples], training=False)
        )
        for i in range(0, len(samples[0]), 16)
    ]
    convert = keras.ops.convert_to_numpy
    expected = [np.concatenate(list(map(convert, p))) for p in zip(*portions)]
    file = LiteRTModel(path, input_names=input_names(view))
    actual = file.predict(samples, batch_size=16)
    return list(zip(expected, [actual] if len(expected) == 1 else actual))
