"""Scores on data, a part of which a search does not see."""

from __future__ import annotations

import sys

import keras
import numpy as np

from keras_prm.equivalence import model_state
from keras_prm.equivalence import probing
from keras_prm.pruning import gradients
from keras_prm.pruning import sample_means
from keras_prm.pruning.drops import Drop
from keras_prm.pruning.drops import MeasuredScore
from keras_prm.pruning.drops import share_error
from keras_prm.utils import datasets
from keras_prm.utils import variable_keys

# A standard error of so many parts is known to an eighth of itself.
_NUM_PARTS = 32
# What names say of a metric; others are held against the loss.
_ERRORS = ("loss", "error", "mae", "mse", "entropy", "divergence")
_MERITS = ("acc", "precision", "recall", "similarity", "iou", "psnr")


class DataScorer:
    """Scores by a compiled metric, on small parts of data with labels.

    Each part goes through the model's `test_step`, so that every metric, loss
    and output counts as in `model.evaluate`, but for penalties on weights.
    What changes from one state of the model to another is the mean of
    *paired* differences, part by part: how hard the samples are cancels, and
    its standard error is far below that of the score.

    Args:
        model: A compiled model.
        data: What `gradients.gradient_batches` takes.
        metric: Name of the metric, as in `evaluate(..., return_dict=True)`;
            `None` for the first one of `compile` that is no loss.
        holdout: Share of the parts that the search does not see, in [0, 1).

    Attributes:
        sign: 1 where higher is better, -1 where lower is. Where its name
            does not say, a metric that rises with the loss of its output,
            from part to part, is an error.
        others: list of str, which metrics could be named instead of the one
            that was taken by default.

    Raises:
        TypeError: `data` is no batches, and no tuple of arrays.
        ValueError: The model is not compiled, there are too few samples, or
            there is no such metric, or it is no mean over samples, or the
            model remembers what it has seen.
    """

    is_paired = True

    def __init__(self, model, data, metric=None, holdout=0.5):
        what = "a function from the model to a float, or data with labels: "
        batches = gradients.gradient_batches(
            data, sys.maxsize, "evaluate", what
        )
        if not model.compiled:
            raise ValueError(
                f"The model '{model.name}' is not compiled, so there is no "
                "metric to purify by. Call `model.compile(loss=..., "
                "metrics=[...])`, or give a function as `evaluate`. "
                f"Received: model={model!r}"
            )
        size = model.inputs[0].shape[0]
        parts = _parts(batches, 1 - holdout, size)
        order = np.random.default_rng(1).permutation(len(parts))
        held_out = round(holdout * len(parts))
        if len(parts) - held_out < 2 or (holdout and held_out < 2):
            of_size = ""
            if size is not None:
                of_size = (
                    f" of {size} rows, which the model's batches have; what "
                    "is left of the data's is not used: make these larger"
                )
            raise ValueError(
                "There are too few samples to purify by: it takes two at "
                "least for the search, and two that are held out from it. "
                "Pass some thousand samples, or give `evaluate` a function. "
                f"Received: {len(parts)} parts{of_size}, "
                f"holdout={holdout:g}"
            )
        self._parts = {
            "search": [parts[i] for i in sorted(order[held_out:])],
            "held out": [parts[i] for i in sorted(order[:held_out])],
        }
        self._num_rows = {
            k: sample_means.sample_counts(p).sum()
            for k, p in self._parts.items()
        }
        self.num_samples = int(self._num_rows["search"])
        self.num_held_out = int(self._num_rows["held out"])
        self._tester = sample_means.Tester(model, parts[0])
        _check_memory(model, self._tester, parts[0])
        self._choose(model, metric)

    def __call__(self, model, which="search"):
        """The `MeasuredScore` of a model on one share of the parts."""
        logs = self._tester(self._parts[which])
        parts = logs[self.name]
        value, error = self._mean(parts, which)
        if self._is_share:
            error = max(error, share_error(value, self._num_rows[which]))
        return MeasuredScore(value, error, parts)

    def drop(self, before, after, which="search"):
        """The `Drop` from one score to another on the same parts."""
        worse = self.sign * (before.parts - after.parts)
        value, error = self._mean(worse, which)
        if self._is_share:
            # That no answer has changed does not show that none would.
            error = max(error, 1.0 / float(self._num_rows[which]))
        return Drop(value, error)

    def _mean(self, values: np.ndarray, which: str) -> tuple[float, float]:
        """The weighted mean of parts, and its standard error."""
        shares = self._weights[which] / self._weights[which].sum()
        mean = float(shares @ values)
        square = np.square(shares * (values - mean)).sum()
        size = len(values)
        error = float(np.sqrt(square * size / (size - 1)))
        return mean, error

    def _choose(self, model, metric):
        """Settles the metric, of what it is the mean, and what is better."""
        parts = self._parts["search"]
        means = sample_means.Means(self._tester, parts)
        names = _metrics_in_order(model, means.logs)
        self.name = name = _metric_name(metric, names)
        self.others = [n for n in names if n != name and metric is None]
        weigh = means.check(name)
        self._weights = {
            k: weigh(p) if p else np.zeros(0) for k, p in self._parts.items()
        }
        rows = sample_means.sample_counts(parts)
        self._is_share = all(_is_share(x[name], rows) for x in means.tries)
        self.sign = _sign(_without_output(name, model), means.logs, name)


def _check_memory(model, tester, part):
    """Refuses a model in which samples count on those before them."""
    variables = [v for v in model_state.variables(model) if not _is_seed(v)]
    before = [np.array(variable_keys.array_of(v)) for v in variables]
    first = tester([part])
    changed = [
        v.path
        for v, old in zip(variables, before, strict=True)
        if not np.array_equal(variable_keys.array_of(v), old, equal_nan=True)
    ]
    if changed and not _is_equal(first, tester([part])):
        raise ValueError(
            f"The model '{model.name}' remembers what it has seen, so what a "
            "sample scores depends on those before it, and there is no "
            "standard error. Give a function as `evaluate`, which resets the "
            f"model first. Received: a model that changes {changed[:3]}"
        )


def _is_equal(one, other):
    """Whether the metrics of two runs are the same; some may only count."""
    return all(np.array_equal(one[k], other[k], equal_nan=True) for k in one)


def _is_seed(variable):
    return "int" in variable.dtype and variable.name == "seed_generator_state"


def _metrics_in_order(model, logs):
    """The names of metrics as `compile` has them; logs are sorted by name."""
    names = [k for k in model.get_metrics_result() if k in logs]
    return names + [k for k in logs if k not in names]


def _is_share(values, rows):
    """Whether values can be shares of so many samples, as an accuracy is."""
    counts = values * rows
    whole = np.abs(counts - np.round(counts)) <= 1e-4
    return bool(((values >= 0) & (values <= 1) & whole).all())


def _without_output(name, model):
    """The name of a metric without that of the output it is for."""
    names = getattr(model, "output_names", None) or ()
    for output in names if len(names) > 1 else ():
        if name.startswith(f"{output}_"):
            return name.removeprefix(f"{output}_")
    return name


def _sign(own_name, logs, name):
    """1 where a metric is better the higher, -1 where the lower."""
    for sign, words in ((-1, _ERRORS), (1, _MERITS)):
        if any(word in own_name.lower() for word in words):
            return sign
    own = [k for k in logs if k.endswith("_loss") and name.startswith(k[:-4])]
    loss = logs.get((own or ["loss"])[0], logs[name] * 0.0)
    return -1 if np.cov(logs[name], loss)[0, 1] > 0 else 1


def _metric_name(metric, names):
    if metric is None:
        others = [k for k in names if k != "loss" and not k.endswith("_loss")]
        metric = (others or names)[0]
    if metric not in names:
        raise ValueError(
            f"There is no metric {metric!r} that is one number. Give one of "
            f"those that the model is compiled with: {names}. "
            f"Received: metric={metric!r}"
        )
    return metric


def _parts(batches, share, size=None):
    """Cuts batches into parts, of which a share makes 32 or more.

    Args:
        batches: list of batches, as `gradients.gradient_batches` returns them.
        share: How many of them have to be so many.
        size: Rows of each part, where the model fixes them.
    """
    is_fixed = size is not None
    if not is_fixed:
        rows = share * sum(map(sample_means.num_rows, batches))
        # A power of two, as batches are, so that all parts are alike.
        size = 2 ** int(np.log2(max(1, rows / _NUM_PARTS)))
    rng, parts = np.random.default_rng(0), []
    for batch in batches:
        while batch[-1] is None:
            batch = batch[:-1]
        if any(x is None for x in keras.tree.flatten(batch)):
            raise TypeError(
                "`test_step` takes no labels that are None among others. Pass "
                "arrays in their place, of zeros for instance, for outputs "
                "without a loss. Received: evaluate=data with None in it"
            )
        batch = keras.tree.map_structure(datasets.to_numpy, tuple(batch))
        # Neighbors may be alike, or matched.
        order = rng.permutation(sample_means.num_rows(batch))
        for rows in np.split(order, range(size, len(order), size)):
            if is_fixed and len(rows) < size:
                continue  # the model cannot take them
            x, *rest = keras.tree.map_structure(lambda a: a[rows], batch)
            parts.append((probing.tensors(x), *rest))
    return parts
