"""Scores of a model and of its LiteRT file on data with labels."""

from __future__ import annotations

import inspect
import itertools

import keras
import numpy as np

from keras_prm.reports.export import Scores
from keras_prm.utils import datasets
from keras_prm.utils import validation

_BATCH_SIZE = 32
_DEFAULTS = (None, "accuracy", "acc")


class Evaluation:
    """Data to score on, of which 256 rows are looked at in advance.

    Args:
        model: A functional or Sequential model with one output.
        data: A tuple of arrays `(x, y)` or `(x, y, sample_weight)`, or an
            iterable of batches of that form, which must come to an end.
        metric: Name of a Keras metric, a metric object (which is copied and
            not touched), or a loss object, function or other callable
            `(y, predictions)`, one figure per sample, or their mean over a
            batch. None: accuracy.

    Raises:
        TypeError: `metric` is none of these, or cannot be copied.
        ValueError: There is no data, it does not fit, the model has several
            outputs, or it cannot be told what accuracy would be.
    """

    def __init__(self, model, data, metric=None):
        if len(model.outputs) != 1:
            raise ValueError(
                "Cannot export to LiteRT: evaluation_data needs a model of "
                f"one output. Received: {len(model.outputs)} outputs. Export "
                "without it, or `keras.Model(model.inputs, "
                "model.outputs[0])` alone."
            )
        # Of a list to a tensor, whatever structures the model has.
        self._view = keras.Model(model.inputs, model.outputs[0])
        self._rest = _checked_batches(model, data)
        self._first = list(_first_batches(self._rest))
        if not self._first:
            raise ValueError(
                "Cannot export to LiteRT: evaluation_data is empty. Pass "
                "arrays (x, y) or batches of them; a generator can be read "
                "only once."
            )
        shape = model.outputs[0].shape
        self._make = _metric(metric, self._first[0][1], shape)
        self._make()

    @property
    def inputs(self):
        """The values of the first 256 rows: list of flat arrays, by input."""
        columns = zip(*(arrays for arrays, _, _ in self._first))
        return [np.concatenate([x.ravel() for x in xs]) for xs in columns]

    def run(self, file):
        """Scores the model and a `LiteRTModel`, batch by batch. Once only.

        Raises:
            ValueError: The metric has more than one number.
        """
        metrics, num = (self._make(), self._make()), 0
        for arrays, y, weight in itertools.chain(self._first, self._rest):
            predictions = self._predict(arrays), file.predict(arrays)
            for metric, predicted in zip(metrics, predictions):
                metric.update_state(y, predicted, sample_weight=weight)
            num += len(y)
        found = [
            datasets.to_numpy(keras.ops.convert_to_numpy(metric.result()))
            for metric in metrics
        ]
        if any(value.size != 1 for value in found):
            raise ValueError(
                "Cannot export to LiteRT: expected a metric with one number. "
                f"Received: metric={metrics[0].name!r}, whose result has "
                f"shape {found[0].shape}. Let it average."
            )
        model_score, file_score = (x.item() for x in found)
        return Scores(metrics[0].name, model_score, file_score, num)

    def _predict(self, arrays):
        fixed = self._view.inputs[0].shape[0]
        size = fixed or _BATCH_SIZE
        parts = datasets.portions(arrays, size, bool(fixed))
        return np.concatenate(
            [self._view.predict_on_batch(x)[:rows] for x, rows in parts]
        )


def _first_batches(batches):
    """Takes batches until they have 256 rows."""
    rows = 0
    while rows < datasets.NUM_SAMPLES:
        batch = next(batches, None)
        if batch is None:
            return
        rows += len(batch[1])
        yield batch


def _checked_batches(model, data):
    """Yields `(inputs, y, sample_weight or None)`, checked arrays."""
    if not validation.is_iterable(data):
        raise TypeError(
            "Cannot export to LiteRT: expected evaluation_data to be arrays "
            "(x, y), or batches of them. Received: evaluation_data of type "
            f"{type(data).__name__}. Pass a tuple of arrays."
        )
    name, size = "evaluation_data", datasets.NUM_SAMPLES
    for batch in datasets.labeled_batches(data, size, name, _no_labels):
        if batch[1] is None:
            raise _no_labels("labels that are None")
        inputs = datasets.as_arrays(model, batch[0], "evaluation_data")
        y, *weight = (datasets.to_numpy(x) for x in batch[1:])
        lengths = {len(x) if x.ndim else None for x in (inputs[0], y, *weight)}
        if len(lengths) != 1:
            raise ValueError(
                "Cannot export to LiteRT: x, y and sample_weight of "
                "evaluation_data differ in their number of rows. Received: "
                f"{[x.shape for x in (inputs[0], y, *weight)]}. Pass one "
                "label for each sample."
            )
        if len(y):
            yield inputs, y, weight[0] if weight else None


def _no_labels(received):
    return ValueError(
        "Cannot export to LiteRT: expected evaluation_data with labels, "
        "(x, y) or (x, y, sample_weight), one label for each sample. "
        f"Received: {received}. Pass a tuple of arrays, or batches that are "
        "such tuples."
    )


def _metric(metric, y, shape):
    """A function that makes the metric anew each time it is called."""
    if isinstance(metric, keras.Metric):
        return lambda: _copy(metric)
    if callable(metric) and not inspect.isclass(metric):
        # Losses average over a batch, unless they are asked sample by sample.
        mean_of = metric.call if isinstance(metric, keras.Loss) else metric
        name = getattr(metric, "__name__", None) or getattr(
            metric, "name", type(metric).__name__
        )

        def by_row(y, predictions):
            value = keras.ops.convert_to_tensor(mean_of(y, predictions))
            if not len(value.shape):  # a mean already, of so many rows
                return keras.ops.broadcast_to(value, (len(y),))
            return value

        return lambda: keras.metrics.MeanMetricWrapper(by_row, name=name)
    if metric is None or metric in _DEFAULTS:
        metric = _accuracy(y, shape)
    try:
        found, cause = keras.metrics.get(metric), None
    except (TypeError, ValueError) as error:
        found, cause = None, error
    if not isinstance(found, keras.Metric):
        raise ValueError(
            "Cannot export to LiteRT: unknown metric. Received: "
            f"metric={metric!r}. Pass an object or the name of a class of "
            "keras.metrics, such as 'mean_squared_error'."
        ) from cause
    return lambda: keras.metrics.get(metric)


def _accuracy(y, shape):
    """Which accuracy it is, by the labels of some samples."""
    classes, rank = shape[-1], len(shape)
    if classes != 1 and rank > 1 and y.dtype.kind in "biuf":
        labels = y[..., 0] if y.ndim == rank and y.shape[-1] == 1 else y
        if labels.ndim == rank - 1 and (labels == np.trunc(labels)).all():
            return "sparse_categorical_accuracy"
        is_one_hot = y.ndim == rank and y.shape[-1] == classes
        if is_one_hot and np.isin(y, (0, 1)).all() and (y.sum(-1) == 1).all():
            return "categorical_accuracy"
    raise ValueError(
        "Cannot export to LiteRT: cannot tell what accuracy is here. Expected "
        "integer labels or one-hot rows, and an output with one figure per "
        f"class. Received: y of shape {y.shape} and dtype {y.dtype}, output "
        f"of shape {shape}. Pass metric=, 'mean_squared_error' or "
        "'binary_accuracy' for instance."
    )


def _copy(metric):
    try:
        return type(metric).from_config(metric.get_config())
    except Exception as error:
        raise TypeError(
            "Cannot export to LiteRT: the metric cannot be copied, as is "
            "needed to score model and file apart. Received: "
            f"metric={metric!r}; {error}. Give it a `get_config` with the "
            "arguments of its `__init__`."
        ) from error
