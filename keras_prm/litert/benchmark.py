"""`benchmark`: models side by side on LiteRT, in time, memory and bytes."""

from __future__ import annotations

import os
import pathlib
import platform
import tempfile
from typing import TYPE_CHECKING

import numpy as np

from keras_prm.equivalence import random_inputs
from keras_prm.litert import benchmark_models
from keras_prm.litert import runtime
from keras_prm.litert import timing
from keras_prm.litert.peak_memory import peak_memory
from keras_prm.reports.benchmark import BenchmarkReport
from keras_prm.reports.benchmark import row_of
from keras_prm.utils import validation

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Sequence
    from typing import Any

    import keras

    from keras_prm.litert.model import LiteRTModel

    Candidate = keras.Model | LiteRTModel | bytes | str | os.PathLike[str]


def benchmark(
    models: Candidate | Sequence[Candidate] | Mapping[str, Candidate],
    inputs: Any = None,
    num_threads: int | Sequence[int] = 1,
    runs: int = 50,
    warmup: int = 5,
    batch_size: int = 1,
    quantize: str | None = None,
    memory: bool = True,
) -> BenchmarkReport:
    """Measures models on LiteRT: time, speed-up, peak memory, bytes.

    The models are interleaved: every round invokes each once and begins with
    another one, so that what slows the machine down meets all alike. For
    each model the median over the rounds is given and, for a round `r`,

        faster = median_r(seconds of the first model / seconds of this one)

    with the 10th and 90th percentile of these ratios, which say how far
    single rounds scatter, not how certain the median is. Pass a model twice
    to see what the machine makes of equal work. Each number of threads has
    rounds of its own: an interpreter of two threads that takes turns with
    one of a single thread can take twice as long as it does alone.

    Peak memory is by how much running the file raises the peak of the
    resident set of a new process that has imported LiteRT already; about
    3 MB of it is LiteRT's code. `keras_prm.peak_memory` says what it holds.

    Args:
        models: A Keras model, a `.tflite` file (its path, or its content as
            bytes) or a `LiteRTModel`; or a list of these; or a dict from name
            to one of these. Keras models are exported, unchecked and with
            `batch_size` fixed, without which recurrent layers do not convert,
            to files that are deleted in the end. The first model is what the
            others are compared with. Lists take the names of Keras models
            and of files.
        inputs: Array `(rows, ...)`, at least `batch_size` rows of which the
            first are timed; for several inputs a dict from name or key to
            array, or a list in the order of the Keras models' inputs.
            Default: random ones, the same each time, in the range that the
            first layers of a Keras model take, or in one on which no file
            fails.
        num_threads: int or tuple of int, threads of LiteRT. Default 1.
        runs: int, rounds that are timed. Default 50.
        warmup: int, rounds before them that are not. Default 5.
        batch_size: int, rows per invocation. Default 1.
        quantize: How Keras models are exported, see `export_litert`; `"int8"`
            is calibrated on all rows of `inputs`. Default None: float32.
        memory: bool, whether to measure peak memory, in one more process for
            each row. Default True.

    Returns:
        A `BenchmarkReport`: `print` shows a table, `.rows` are records,
        `.to_dict()` is plain data for JSON.

    Raises:
        ImportError: `ai-edge-litert` is not installed.
        TypeError: A model is none of these.
        ValueError: There are no models, a number is too small, the models
            take different inputs, `inputs` do not fit, a Keras model
            cannot be exported, or a file fails on the inputs.

    Example:

    ```python
    report = benchmark({"dense": model, "small": small}, num_threads=(1, 2))
    print(report)
    best = min(report.rows, key=lambda row: row.median)
    ```
    """
    threads = _threads(num_threads)
    _check_numbers(threads, runs, warmup, batch_size)
    threads = tuple(map(int, threads))
    runs, warmup, batch_size = map(int, (runs, warmup, batch_size))
    inputs = benchmark_models.by_file_names(models, inputs)
    batch = _timed_batch(inputs, batch_size)
    runtime.interpreter_class()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        files = benchmark_models.files(
            models, pathlib.Path(folder), quantize, inputs, batch_size
        )
        opened = {file.name: file.open(1) for file in files}
        _check_inputs(opened, batch_size)
        if batch is None:
            batch = _random(models, opened, batch_size)
        else:
            _check_runs(opened, batch)
        del opened
        for number in dict.fromkeys(threads):
            rows += _report_rows(files, batch, number, runs, warmup, memory)
    return BenchmarkReport(
        tuple(rows),
        machine=platform.machine(),
        num_cores=os.cpu_count(),
        litert_version=runtime.version(),
        batch_size=batch_size,
        runs=runs,
        warmup=warmup,
    )


def _report_rows(files, batch, num_threads, runs, warmup, memory):
    """The rows of all files at one number of threads."""
    models = [file.open(num_threads) for file in files]
    peaks = [None] * len(files)
    for i, model in enumerate(models):
        tensors = model.load(batch)
        if memory:
            peaks[i] = peak_memory(files[i].path, tensors, num_threads)
    jobs = [model.invoke for model in models]
    seconds = timing.rounds(jobs, runs, warmup).T
    return [
        row_of(file.name, num_threads, own, seconds[0], model.num_bytes, peak)
        for file, model, own, peak in zip(files, models, seconds, peaks)
    ]


def _threads(num_threads: Any) -> tuple[Any, ...]:
    if isinstance(num_threads, (list, tuple)):
        return tuple(num_threads)
    return (num_threads,)


def _check_numbers(threads, runs, warmup, batch_size):
    wanted = [("num_threads", number, 1) for number in threads]
    wanted += [("runs", runs, 1), ("warmup", warmup, 0)]
    wanted += [("batch_size", batch_size, 1)]
    wrong = [
        f"{name}={value!r}"
        for name, value, least in wanted
        if not validation.is_whole(value, least)
    ]
    if not threads:
        wrong.append("num_threads=()")
    if wrong:
        raise ValueError(
            "Cannot benchmark with these numbers. Expected whole numbers, "
            "warmup at least 0, the others at least 1. Received: "
            f"{', '.join(wrong)}. Pass such as num_threads=(1, 2), runs=50."
        )


def _timed_batch(inputs, batch_size):
    """The rows that are timed, in the structure of `inputs`."""
    if inputs is None:
        return None
    if isinstance(inputs, dict):
        arrays = dict(inputs)
    elif isinstance(inputs, (list, tuple)):
        arrays = dict(enumerate(inputs))
    else:
        arrays = {0: inputs}
    arrays = {key: np.asarray(x) for key, x in arrays.items()}
    few = {k: x.shape for k, x in arrays.items() if x.shape[:1] < (batch_size,)}
    if few:
        raise ValueError(
            "Cannot benchmark: inputs have fewer rows than a batch. Expected "
            f"at least batch_size={batch_size}. Received shapes: {few}. Pass "
            "more rows, or a smaller batch_size."
        )
    arrays = {key: x[:batch_size] for key, x in arrays.items()}
    return arrays if isinstance(inputs, dict) else list(arrays.values())


def _check_inputs(opened, batch_size):
    """Raises unless all models do the same work on a batch."""
    found = {name: _input_signature(model) for name, model in opened.items()}
    if len({str(signature) for signature in found.values()}) > 1:
        raise ValueError(
            "Cannot compare models that take different inputs. Expected the "
            "same shapes and types, and, of several inputs, the same names. "
            f"Received: {found}. Benchmark them apart, or name their inputs "
            "alike: `keras.Input(..., name=...)`."
        )
    sizes = {
        name: next(iter(model.input_shapes.values()))[0]
        for name, model in opened.items()
    }
    fixed = {k: n for k, n in sizes.items() if n not in (None, batch_size)}
    if fixed:
        raise ValueError(
            "Cannot benchmark: the batch size is fixed in files. Expected "
            f"batch_size={batch_size}. Received: {fixed}. Pass the batch_size "
            "of the files, or export them with any."
        )


def _input_signature(model):
    """Shapes without rows and types; by name if there are several inputs."""
    found = [
        (name, shape[1:], str(model.input_dtypes[name]))
        for name, shape in sorted(model.input_shapes.items())
    ]
    return [x[1:] for x in found] if len(found) == 1 else found


def _random(models, opened, batch_size):
    """Random inputs that all files take, tried as `random_inputs` does."""
    first = next(iter(opened.values()))
    shapes, dtypes = first.input_shapes, first.input_dtypes
    specs = [(shape, dtypes[name]) for name, shape in shapes.items()]
    domains = benchmark_models.domains(models, [*shapes])
    batch = None
    for drawn in random_inputs.of_specs(
        specs, [*shapes], domains, batch_size + 1
    ):
        # The last row is zeros, on which some files fail.
        arrays = [x[:batch_size] for x in drawn.arrays]
        batch = arrays if len(arrays) == 1 else dict(zip(shapes, arrays))
        failures = _failures(opened, batch)
        if not failures:
            return batch
    raise ValueError(
        "Cannot benchmark: files fail on all random inputs that were tried. "
        f"Received: {failures}. Pass typical `inputs`."
    )


def _check_runs(opened, batch):
    failures = _failures(opened, batch)
    if failures:
        raise ValueError(
            "Cannot benchmark: files fail on the inputs given. Received: "
            f"{failures}. Pass others."
        )


def _failures(opened, batch):
    """What fails on a batch, by the names of the files."""
    found = {name: model.failure(batch) for name, model in opened.items()}
    return {name: failure for name, failure in found.items() if failure}
