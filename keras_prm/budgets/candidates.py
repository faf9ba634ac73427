"""Candidates: the small models of plans, exported and measured.

The user's model is only read, and need not be trained. What a candidate is, is
what `strip` would make of the model with the filters of a plan at zero; which
filters these are does not matter for its size and speed, and the last ones of
each group are taken. Columns that a plan removes are stored as zeros.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import warnings

import numpy as np

from keras_prm.analysis.liveness import KeepEverything
from keras_prm.analysis.liveness import Liveness
from keras_prm.analysis.trace import trace
from keras_prm.equivalence import model_state
from keras_prm.equivalence import random_inputs
from keras_prm.litert import runtime
from keras_prm.litert.export import export_litert
from keras_prm.litert.model import LiteRTModel
from keras_prm.litert.timing import rounds
from keras_prm.plans.plan_fit import class_numbers
from keras_prm.pruning.masks import dead_vectors
from keras_prm.rebuild import slim_model
from keras_prm.utils import keras_graph
from keras_prm.utils import variable_keys

# Seconds that one comparison of two files takes, and how often each runs.
_SECONDS = 3.0
_LEAST_RUNS, _MOST_RUNS = 11, 200


@dataclasses.dataclass(frozen=True)
class Measured:
    """What was measured of a file, beside that of the dense model.

    Args:
        file_bytes: Its bytes.
        latency_ms: Milliseconds per sample, `None` where not asked for.
        latency: The same as a share of the dense model's, timed in turn.
    """

    file_bytes: int
    latency_ms: float | None = None
    latency: float | None = None


class Candidates:
    """Exports and measures the small models of one model's plans.

    Args:
        model: The model.
        folder: Where files are written; whoever made it removes it.
        quantize: As `export_litert` takes it.
        is_timed: Whether latency is measured as well.

    Attributes:
        dense: `Measured` of the model as it is.
        num_made: How many candidates were exported.
    """

    def __init__(self, model, folder, quantize=None, is_timed=False):
        if is_timed:
            runtime.interpreter_class()
        self._view = keras_graph.functional(model)
        self._graph = trace(self._view)
        self._folder = pathlib.Path(folder)
        self._quantize = quantize
        self._arrays = _trained_arrays(self._graph)
        self._found = {}
        self._inputs = random_inputs.random(self._view)
        self._batch_size = None
        self._runs = _LEAST_RUNS
        self.num_made = 0
        path = self._exported_dense()
        self._opened = LiteRTModel(path) if is_timed else None
        seconds = None
        if is_timed:
            seconds = float(np.median(self._timed([self._opened])))
        self._runs = self._num_runs(seconds)
        times = (1000 * seconds, 1.0) if seconds else (None, None)
        self.dense = Measured(path.stat().st_size, *times)

    def measure(self, plan, again=False):
        """What the small model of a plan costs; measured once.

        Args:
            plan: A `SparsityPlan` of the model.
            again: Whether to time one that was timed before once more, and
                to take the mean.
        """
        kept = tuple(group.keep for group in plan.groups)
        if kept == tuple(group.size for group in plan.groups):
            return self.dense
        if kept not in self._found:
            path = self._exported(self._small(plan), str(self.num_made))
            self.num_made += 1
            self._found[kept] = path, self._of(path)
        elif again and self._opened is not None:
            path, before = self._found[kept]
            self._found[kept] = path, _mean(before, self._of(path))
        return self._found[kept][1]

    def _of(self, path):
        size = path.stat().st_size
        if self._opened is None:
            return Measured(size)
        seconds = self._timed([self._opened, LiteRTModel(path)])
        # Within a round both met the same load of the machine.
        share = float(np.median(seconds[:, 1] / seconds[:, 0]))
        return Measured(size, 1000 * float(np.median(seconds[:, 1])), share)

    def _timed(self, files):
        """Seconds of each of the files in each round, in turn."""
        row = [x[:1] for x in self._inputs]
        names = [keras_graph.input_layer(x).name for x in self._view.inputs]
        sample = row[0] if len(row) == 1 else dict(zip(names, row))
        for file in files:
            file.load(sample)
        return rounds([file.invoke for file in files], self._runs, warmup=2)

    def _num_runs(self, seconds):
        runs = _SECONDS / 2 / max(seconds or 1.0, 1e-6)
        return min(max(math.ceil(runs), _LEAST_RUNS), _MOST_RUNS)

    def _exported_dense(self):
        """The file of the model; of recurrent ones, for one row at a time."""
        model = self._rebuilt(KeepEverything(self._graph, False, self._arrays))
        try:
            return self._exported(model, "dense")
        except ValueError:  # no builtin loops over a free number of rows
            self._batch_size = 1
            return self._exported(model, "dense")

    def _exported(self, model, name):
        """The file of a model, unchecked: it is only measured."""
        path = self._folder / f"{name}.tflite"
        data = self._inputs if self._quantize == "int8" else None
        if data is not None and len(data) == 1:
            data = data[0]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a file nobody keeps
            export_litert(
                model,
                path,
                self._quantize,
                data,
                batch_size=self._batch_size,
                check=False,
            )
        return path

    def _small(self, plan):
        return self._rebuilt(Liveness(self._graph, self._masked(plan)))

    def _rebuilt(self, live):
        with model_state.random_numbers_kept(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rebuilder = slim_model.ModelRebuilder(live)
            return rebuilder.model(self._view, is_root=True)

    def _masked(self, plan):
        """The arrays of the model without what a plan removes."""
        numbers = class_numbers(self._graph, plan)
        gone = np.zeros(plan.num_classes + 1, bool)
        for group in plan.groups:
            gone[group.start + group.keep : group.start + group.size] = True
        dead = gone[numbers]
        found = {}
        touched = {kernel.key for kernel in plan.kernels}
        vectors = dead_vectors(self._graph, dead)
        for number, weight in self._graph.weights.items():
            array = self._arrays[number]
            if weight.key in vectors:
                array = np.where(vectors[weight.key], array, 0)
            elif weight.key in touched:
                array = _without(self._graph, weight, array, dead)
            found[number] = array
        return found


def _trained_arrays(graph):
    """The weights, dict from `id(variable)`, those that are fresh as if not.

    Vectors that are alike throughout, as initializers make them, would stand
    in a file but once, and the file of the trained model be larger.
    """
    rng, found = np.random.default_rng(0), {}
    for number, weight in graph.weights.items():
        array = variable_keys.array_of(weight.variable)
        if weight.role != "kernel" and array.size > 1:
            if (array == array.flat[0]).all():
                values = rng.uniform(0.5, 1.5, array.shape)
                array = values.astype(array.dtype)
        found[number] = array
    return found


def _mean(one, other):
    return Measured(
        one.file_bytes,
        (one.latency_ms + other.latency_ms) / 2,
        (one.latency + other.latency) / 2,
    )


def _without(graph, weight, array, dead):
    """A kernel without the filters and the inputs of dead classes."""
    for axis in weight.axes:
        ids = weight.ids[axis]
        if ids is not None:
            place = [1] * array.ndim
            place[axis] = -1
            keep = ~dead[graph.classes[ids]]
            array = array * keep.reshape(place).astype(array.dtype)
    return array
