"""`verify`: how far a smaller model is from the one it came from."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import TYPE_CHECKING

import numpy as np

from keras_prm.analysis.costs import costs
from keras_prm.analysis.costs import try_saved_bytes
from keras_prm.equivalence import index_checks
from keras_prm.equivalence import model_state
from keras_prm.equivalence import probing
from keras_prm.equivalence import tolerances
from keras_prm.litert import conversion
from keras_prm.litert import file_runs
from keras_prm.reports.certificate import Certificate
from keras_prm.reports.certificate import Comparison
from keras_prm.utils import datasets
from keras_prm.utils import keras_graph
from keras_prm.utils import training_argument
from keras_prm.utils import variable_keys
from keras_prm.verification import round_trips

if TYPE_CHECKING:
    import os
    from typing import Any

    import keras


def verify(
    model: keras.Model,
    small: keras.Model,
    tflite: str | os.PathLike[str] | None = None,
    inputs: Any = None,
    seed: int = 0,
    tolerance: float | None = None,
    saved: bool = False,
) -> Certificate:
    """Compares a model with its stripped form, and with a LiteRT file.

    Args:
        model: The model before `strip`, with its weights at zero where they
            were pruned.
        small: The model after it.
        tflite: Path of the LiteRT file made from `small`, or `None`.
        inputs: Real inputs to compare on instead of random ones: an array,
            a structure of arrays as the model takes it, a tuple `(x, y)` of
            which the labels are left out, an iterable of such batches, or a
            function that returns one of these. The first 256 samples are
            used. Defaults to `None`: 32 random samples, or as many as have
            every index of a table (4,096 at most; the certificate says if
            they are too few), in the range that the first layers of the
            model take. One of them is zeros. Where no layer tells the range
            it is [-1, 1), or another one in which the outputs are finite.
        seed: Seed of the random inputs. Defaults to 0.
        tolerance: Largest error that counts as rounding, of each output,
            relative to its largest absolute value. `None` takes 1e-4 for the
            stripped model, 1e-3 for the file, whose kernels sum otherwise,
            1e-2 for one in float16, and more for a model that computes in
            half precision. A quantized file is measured and not judged.
        saved: Whether to save `small` as well, to load it in a process of
            its own, on the CPU, and to compare what that one computes. It
            takes as long as to import Keras anew. Layers of your own have to
            be importable there. Defaults to `False`.

    Returns:
        A `Certificate`. It says what was found and raises nothing if the
        models differ; test it with `if certificate:` or `certificate.ok`. A
        model whose outputs do not react to the inputs is neither equal nor
        different but untested, and not `ok`.

    Raises:
        TypeError: A model is subclassed.
        ValueError: The models' inputs or outputs have different shapes, or
            `inputs` do not fit them, or none of the random ones do.
        FileNotFoundError: There is no such `tflite`.
        ImportError: `ai-edge-litert` is not installed, with `tflite`.

    Stateful layers begin in both at their reset state, and are left as they
    were.
    """
    views = keras_graph.plain(model), keras_graph.plain(small)
    _check_signatures(*views)
    if inputs is not None:
        inputs = datasets.first_rows(
            views[0], inputs, "inputs", "compare the models", is_finite=False
        )
        with model_state.kept(model):
            index_checks.check_indices(
                views[0], inputs, "inputs", "compare the models"
            )
    limits, file = _limits(model, tolerance), None
    if tflite is not None:
        several = len(views[0].inputs) > 1
        names = conversion.input_names(small) if several else None
        file = file_runs.FileRuns(tflite, names)
        own = tolerances.FILE_TOLERANCES[file.precision]
        if own is None:
            limits["litert"] = None
        elif tolerance is None:
            limits["litert"] = max(limits["stripped"], own)
    trip, limits["saved"] = None, limits["stripped"]
    with model_state.kept(model, small):
        probe = _probe_of(views[0], inputs, seed, file)
        comparisons = [*_comparisons(probe, views[1], file, limits)]
        if saved:
            model_state.reset(small)
            trip = round_trips.once(small, [probe.arrays])
            comparisons.append(_of_trip(trip, probe, limits))
    sizes, problems = zip(*map(try_saved_bytes, (model, small)))
    remarks, is_random = _remarks(
        views[0], probe, comparisons, limits["stripped"]
    )
    return Certificate(
        tuple(comparisons),
        costs(model),
        costs(small),
        sizes,
        None if tflite is None else pathlib.Path(tflite).stat().st_size,
        None if trip is None else trip.size,
        str(probe),
        (*remarks, *_unsaved(problems)),
        is_random,
    )


def _unsaved(problems):
    """What is to be said of models that cannot be saved."""
    names = "model before `strip`", "stripped model"
    for name, problem in zip(names, problems):
        if problem:
            yield (
                f"The {name} cannot be saved as a `.keras` file: {problem}. "
                "Mend the `get_config` of what is named there."
            )


def _remarks(view, probe, comparisons, limit):
    """`(remarks, is_random)` of a `Certificate`."""
    remarks, is_random = [], False
    if paths := training_argument.called_in_training(view):
        remarks.append(training_argument.note(paths))
    if not all(c.is_equal for c in comparisons):
        with model_state.kept(view):
            is_random = tolerances.is_random(
                lambda: probing.run_from_reset(view, probe.arrays), limit
            )
    if is_random:
        remarks.append(
            "The model does not compute the same twice, from the same inputs "
            "and with training=False. To compare it, give its random layers a "
            "seed, or let it take the random numbers as inputs."
        )
    return tuple(remarks), is_random


def _probe_of(view, inputs, seed, file):
    def compute(arrays):
        return probing.run_from_reset(view, arrays)

    if inputs is not None:
        return probing.of_given(view, compute, inputs)
    runs = file and file.takes
    return probing.of_random(view, compute, seed=seed, runs=runs)


def _comparisons(probe, small, file, limits):
    found = probing.run_from_reset(small, probe.arrays)
    yield _comparison("stripped", probe, found, limits)
    if file is None:
        return
    probe, found, failure = file_runs.without_failing_zeros(file, probe)
    if probe.is_random and failure:
        errors, limit = (np.inf, np.inf), limits["litert"]
        yield Comparison("litert", "zeros", 1, *errors, limit, failure=failure)
    compared = _comparison("litert", probe, found, limits)
    if failure and not compared.failure and not probe.is_random:
        note = f"the file fails on a row of zeros: {failure}"
        notes = "; ".join(filter(None, (compared.note, note)))
        compared = dataclasses.replace(compared, note=notes)
    yield compared


def _of_trip(trip, probe, limits):
    """The comparison with what another process has loaded and run."""
    if not trip.outputs:
        return _comparison("saved", probe, trip.note, limits)
    found = _comparison("saved", probe, trip.outputs[0], limits)
    notes = [text for text in (found.note, trip.note) if text]
    return dataclasses.replace(found, note="; ".join(notes))


def _comparison(candidate, probe, found, limits):
    kind = "random" if probe.is_random else "given"
    rows, failure, note = len(probe.arrays[0]), "", ""
    if isinstance(found, str):
        errors, failure = (np.inf, np.inf), found
    else:
        pairs = [*zip(probe.outputs, found, strict=True)]
        errors = [*map(max, zip(*(tolerances.errors(*pair) for pair in pairs)))]
        if np.isfinite(errors[0]):
            note = tolerances.undefined(probe.outputs)
            dead = tolerances.constant_outputs(probe.outputs)
            if dead and not probe.problem:
                dead = f"{dead} for all of these inputs, so untested"
                note = "; ".join(filter(None, (note, dead)))
    return Comparison(
        candidate,
        kind,
        rows,
        errors[0],
        errors[1],
        limits[candidate],
        note=note,
        untested=probe.problem,
        failure=failure,
    )


def _limits(model: keras.Model, tolerance: float | None) -> dict[str, Any]:
    if tolerance is not None:
        return {"stripped": tolerance, "litert": tolerance}
    used = {
        layer.compute_dtype for _, layer in variable_keys.layer_paths(model)
    }
    by_type = tolerances.MODEL_TOLERANCES
    found = [limit for name, limit in by_type.items() if name in used]
    limit = max(found, default=by_type["float32"])
    return {"stripped": limit}


def _check_signatures(view, small):
    for kind in ("inputs", "outputs"):
        shapes = [
            [tuple(x.shape[1:]) for x in getattr(m, kind)]
            for m in (view, small)
        ]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"The models have different {kind} and cannot be compared. "
                "Pass a model and what `strip` made of it. "
                f"Received: {shapes[0]} and {shapes[1]}"
            )
