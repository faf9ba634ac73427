"""Metrics that are means over samples, and their samples."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import keras
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_TOLERANCE = 1e-4  # relative; of sums in float32


class Means:
    """The metrics of a compiled model, on parts of data and on the whole.

    Whether one is a mean over samples is measured twice: on the labels as
    they are, and on labels of which those of each part have changed places.
    Where all answers are right, a precision or the area under a curve is 1
    in every part and in the whole, as a mean would be; where they are not,
    it is none.

    Args:
        tester: A `Tester` of the model.
        parts: list of tuples `(x, y)` or `(x, y, sample_weight)` of arrays,
            those of one number of rows of at least two parts.

    Attributes:
        tries: list of two dicts as the tester returns them.
        logs: The two in one, the second behind the first.
    """

    def __init__(self, tester, parts):
        self._parts = parts
        self.tries, self._wholes = [], []
        for each in (parts, _mixed_up(parts)):
            self.tries.append(tester(each))
            self._wholes.append(tester.whole(each))
        self.logs = {
            name: np.concatenate([found[name] for found in self.tries])
            for name in self.tries[0]
        }

    def weighing(self, name: str) -> Callable[[Any], Any] | None:
        """The function from parts to what they count in a mean.

        `evaluate` takes the loss of a single output as the mean over
        batches, however large they are; here each sample counts.

        Args:
            name: The name of a metric.

        Returns:
            The function; `None` if the metric is no mean.
        """
        for weigh in (sample_counts, _sample_weights, _unit_weights):
            weights = weigh(self._parts)
            if weights is not None and weights.sum() > 0:
                if all(self._agree(name, weights)):
                    return sample_counts if weigh is _unit_weights else weigh
        return None

    def _agree(self, name, weights):
        """Whether what is measured on the whole is the mean, try by try."""
        for found, whole in zip(self.tries, self._wholes, strict=True):
            mean = np.average(found[name], weights=weights)
            limit = _TOLERANCE * (1 + abs(whole[name]))
            yield bool(abs(mean - whole[name]) <= limit)

    def check(self, name: str) -> Callable[[Any], Any]:
        """Refuses a metric that is not finite, or no mean over samples.

        Returns:
            What `weighing` returns, the function.

        Raises:
            ValueError: It is so.
        """
        whole = self._wholes[0][name]
        if not np.isfinite(whole):
            raise ValueError(
                f"The metric {name!r} is {whole} on the data. Look for NaN "
                "in the data and in the model's answers."
            )
        weigh = self.weighing(name)
        if weigh is not None:
            return weigh
        weights = sample_counts(self._parts)
        worst = [*self._agree(name, weights)].index(False)
        mean = np.average(self.tries[worst][name], weights=weights)
        means = [k for k in self.logs if self.weighing(k) is not None]
        advice = f"give `metric` one that is, of {means}, or " if means else ""
        labels = ", beside labels of other samples" if worst else ""
        raise ValueError(
            f"The metric {name!r} is no mean over samples, so it has no "
            f"standard error: {advice}give a function as `evaluate`. "
            f"Received: {name!r} = {self._wholes[worst][name]:g}, and "
            f"{mean:g} as the mean over parts of the data{labels}"
        )


class Tester:
    """Measures the metrics of a compiled model on parts of data.

    Args:
        model: A compiled model.
        part: One of the parts, to try on.
    """

    def __init__(self, model, part):
        self._model = model
        self._unpacks_two = False
        if type(model).test_step is not keras.Model.test_step:
            try:
                model.test_on_batch(*part, return_dict=True)
            except (TypeError, ValueError):
                # It has `x, y = data`, and `test_on_batch` gives three.
                self._unpacks_two = True

    def __call__(self, parts):
        """Metrics of each part, those that are one number.

        Args:
            parts: list of tuples of arrays.

        Returns:
            dict from the name of a metric to a float array `(parts,)`.
        """
        found = [_scalar_metrics(self._tested(part)) for part in parts]
        return {k: np.array([each[k] for each in found]) for k in found[0]}

    def _tested(self, part):
        if self._unpacks_two:
            return self._evaluated([part])
        return self._model.test_on_batch(*part, return_dict=True)

    def whole(self, parts):
        """Metrics of all parts together, dict from name to float."""
        return _scalar_metrics(self._evaluated(parts))

    def _evaluated(self, parts):
        data = _Batches(parts)
        return self._model.evaluate(data, verbose=0, return_dict=True)


def _scalar_metrics(found):
    """Floats of those metrics that are one number."""
    return {
        name: float(np.reshape(value, ()))
        for name, value in found.items()
        if np.size(value) == 1
    }


@contextlib.contextmanager
def without_penalties(model):
    """A context in which regularizers of weights cost nothing.

    What weights cost is no one's answer, and falls as they go. Whether
    a `test_step` adds it, nobody can tell from outside.

    Args:
        model: A compiled model.
    """
    held = [(v, v.regularizer) for v in model.trainable_variables]
    held = [(v, function) for v, function in held if function is not None]
    for variable, _ in held:
        variable.regularizer = None
    if held:
        model.test_function = None  # what is traced has them in it
    try:
        yield
    finally:
        for variable, function in held:
            variable.regularizer = function
        if held:
            model.test_function = None


class _Batches(keras.utils.PyDataset):
    """Parts as a data set that `evaluate` takes."""

    def __init__(self, parts):
        super().__init__()
        self._parts = parts

    def __len__(self):
        return len(self._parts)

    def __getitem__(self, index):
        return keras.tree.lists_to_tuples(self._parts[index])


def _mixed_up(parts):
    """Parts in which samples have the labels of others."""
    rng, found = np.random.default_rng(0), []
    for part in parts:
        order = rng.permutation(num_rows(part))
        labels = keras.tree.map_structure(lambda a: a[order], part[1:2])
        found.append((part[0], *labels, *part[2:]))
    return found


def num_rows(part):
    """How many samples a part has."""
    return len(keras.tree.flatten(part[0])[0])


def sample_counts(parts):
    """How many samples each part has, as floats."""
    return np.array([num_rows(part) for part in parts], float)


def _unit_weights(parts):
    return np.ones(len(parts))


def _sample_weights(parts):
    """The sum of each part's sample weights; `None` where there are none."""
    weights = [part[2] if len(part) > 2 else None for part in parts]
    if not all(hasattr(w, "shape") for w in weights):
        return None
    return np.array([float(keras.ops.sum(w)) for w in weights])
