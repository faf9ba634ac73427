"""Drops of a score that purification is held to, and their errors."""

from __future__ import annotations

import dataclasses
import math
import numbers
from fractions import Fraction

import numpy as np

from keras_prm.utils import datasets

_LARGEST_COUNT = 20_000
_ROUNDING = 1.2e-7  # of a float32 in [0, 1]


@dataclasses.dataclass(frozen=True, eq=False)
class MeasuredScore:
    """What one state of a model scored.

    Args:
        value: The score, in its own unit and direction.
        error: Its standard error, `None` where it is not known.
        parts: float array, the score of each part of the data; `None` for
            a function.
    """

    value: float
    error: float | None = None
    parts: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Drop:
    """How much worse one state is than another.

    Args:
        value: The difference, positive where it is worse.
        error: Its standard error, `None` where it is not known.
    """

    value: float
    error: float | None = None


class FunctionScorer:
    """Scores by a user's function, higher is better.

    Args:
        function: From the model to a float, or to a tuple
            `(float, standard error)`.
        num_samples: How many samples the float is a share of, or `None`.

    Attributes:
        has_tuples: Whether the function returned a standard error.
    """

    name = "evaluate"
    sign = 1
    is_paired = False
    num_held_out = 0
    others = ()

    def __init__(self, function, num_samples=None):
        self._function = function
        self.has_tuples = False
        self.num_samples = num_samples

    def __call__(self, model):
        """The model's `MeasuredScore`.

        Raises:
            TypeError: The function returned no number.
            ValueError: Its error is negative or not finite, or it is no
                share though `num_samples` is given.
        """
        answer, error = self._function(model), None
        if isinstance(answer, tuple) and len(answer) == 2:
            self.has_tuples = True
            answer, error = answer[0], _as_number(answer[1])
            if not 0 <= error < math.inf:
                raise ValueError(
                    "`evaluate` returned a standard error that is negative, "
                    "infinite or NaN. Return `(score, standard_error)`, or "
                    f"the score alone. Received: {(answer, error)}"
                )
        value = _as_number(answer)
        if error is None and self.num_samples:
            if value < 0 or value > 1 + 1e-6:
                raise ValueError(
                    "`num_samples` gives the standard error of a share, "
                    "which lies in [0, 1]. Divide percent by 100, or return "
                    "`(score, standard_error)` and leave `num_samples` out. "
                    f"Received: evaluate() = {value:g}"
                )
            error = share_error(value, self.num_samples)
        return MeasuredScore(value, error)

    def drop(self, before, after):
        """The `Drop`; its error is that of two independent scores."""
        errors = (before.error, after.error)
        error = None if None in errors else math.hypot(*errors)
        return Drop(before.value - after.value, error)


def share_error(share, num_samples):
    """The standard error of a share, `sqrt(p (1 - p) / n)`.

    Of 0 and 1 as if one sample were not so: that all of them are right does
    not show that no other can be wrong.
    """
    least = min(1 / num_samples, 0.5)
    p = min(max(share, least), 1 - least)
    return math.sqrt(p * (1 - p) / num_samples)


def common_count(values):
    """The least number of samples that values can all be shares of.

    Args:
        values: Floats, exact to float32.

    Returns:
        int, such as 500 for 0.102 and 0.36, which are 51 and 180 of 500;
        `None` where there is none up to 20,000, as for means of losses.
    """
    count = 1
    for value in map(float, values):
        if not 0 <= value <= 1:
            return None
        fraction = Fraction(value).limit_denominator(_LARGEST_COUNT)
        count = math.lcm(count, fraction.denominator)
        if abs(value - fraction) > _ROUNDING or count > _LARGEST_COUNT:
            return None
    return count


def _as_number(answer):
    """A number, or an array or tensor of one, as a float."""
    if hasattr(answer, "shape"):
        array = datasets.to_numpy(answer)
        is_number = array.size == 1 and array.dtype.kind in "biuf"
        # Other dtypes of numbers, such as bfloat16, are of no kind.
        if is_number or (array.size == 1 and array.dtype.kind == "V"):
            return float(array.reshape(()))
    elif isinstance(answer, numbers.Real):
        return float(answer)
    if isinstance(answer, dict) and answer:
        advice = f"Take one of it, such as `[{list(answer)[-1]!r}]`."
    elif isinstance(answer, (list, tuple)):
        advice = (
            "`model.evaluate` returns a list where there are metrics; "
            "take one of it: `lambda m: m.evaluate(x, y)[1]`."
        )
    elif answer is None:
        advice = "Does the function return something?"
    elif hasattr(answer, "shape"):
        advice = "Take the mean over samples, `float(np.mean(scores))`."
    else:
        advice = "Data are given as they are, not as a function of them."
        if not hasattr(answer, "__next__"):
            advice = "Convert what it returns, `float(score)`."
    raise TypeError(
        f"`evaluate` has to return a float. {advice} Received: {answer!r}"[:500]
    )
