"""Network purification: removing what survived pruning and carries little."""

from __future__ import annotations

import numbers
import warnings

import numpy as np

from keras_prm import graph
from keras_prm import sweeping
from keras_prm import topology
from keras_prm.masks import masks_of
from keras_prm.reports import PurificationReport
from keras_prm.thresholds import Thresholds

# Factors of 1.06; the search goes in coarse steps first, of 1.57.
STRENGTHS = (0.0, *np.geomspace(1e-3, 30.0, 184))
COARSE = 8


def purify(
    model,
    evaluate=None,
    max_drop=None,
    thresholds=None,
    sweeps="fixed_point",
    max_evaluations=100,
):
    """Removes channels and filters that contribute almost nothing. In place.

    Lossy, unlike `strip`: after ADMM and retraining some structures that
    survived are so small that the model hardly needs them. A channel falls
    if few of its columns are live and their mean energy is low, both; a
    filter if its energy is low. What then feeds nobody, or is fed by nobody,
    falls with it, to a fixed point. Nothing is retrained. Of layers that are
    frozen (`trainable=False`) nothing falls but with others.

    With `evaluate`, the thresholds rise, for all layers together and then
    layer by layer, as far as `evaluate(model)` falls by at most `max_drop`.
    Only states that were evaluated are ever accepted, so the budget holds on
    whatever `evaluate` measures. The search does not go back, so a larger
    budget does not always leave fewer weights. Measure on held-out training
    data, not on the test data.

    Args:
        model: A built functional or Sequential model.
        evaluate: Function from the model to a float, higher is better, such
            as `lambda m: m.evaluate(x, y, verbose=0)[1]`, an accuracy; of a
            loss return the negative. It must not change the model. `None`
            applies `thresholds` as they are. The likelihood of labels will
            not do for a model that another one taught: it is less sure than
            it is right, and what damages it can raise that likelihood.
        max_drop: By how much the score may fall, in its own unit, >= 0: of
            an accuracy in [0, 1], 0.002 is a fifth of a point. Defaults to 0
            with `evaluate`, and has no meaning without.
        thresholds: `Thresholds`. With `evaluate`, the proportions that the
            search scales; defaults to `Thresholds()` then.
        sweeps: `"fixed_point"` repeats until nothing falls, `"single"` makes
            the paper's one forward sweep. Defaults to `"fixed_point"`.
        max_evaluations: At most how often `evaluate` is called. Defaults to
            100.

    Returns:
        A `PurificationReport`; its `masks` are to be held from then on.

    Raises:
        TypeError: The model is subclassed, `evaluate` is no function,
            `thresholds` are no `Thresholds`, or the score is no number.
        ValueError: Neither `evaluate` nor `thresholds` is given, or
            `max_drop` without `evaluate`; an argument is out of range, a
            weight or the score is NaN, or the budget lets every weight go.
            The model is as before then.

    Warns:
        UserWarning: The budget held nothing back.

    Reference:
        - [Ma et al., 2019](https://arxiv.org/abs/1905.00136); the formulas
          stand in [Ma et al., 2019](https://arxiv.org/abs/1908.10017).
    """
    _check(evaluate, max_drop, thresholds, sweeps, max_evaluations)
    topology.finite_arrays(model)
    state = sweeping.Sweeper(
        graph.trace(model),
        model.trainable_variables,
        thresholds or Thresholds(),
        sweeps,
    )
    search = _Search(model, state, evaluate, max_drop or 0.0, max_evaluations)
    try:
        search.run()
    except BaseException:
        state.restore()
        raise
    return PurificationReport(
        tuple(state.rows()),
        state.num_weights_before,
        state.num_weights(),
        search.score_before,
        search.score,
        search.evaluations,
        masks_of(model),
    )


class _Search:
    """Finds a threshold strength per kernel within the budget."""

    def __init__(self, model, state, evaluate, max_drop, max_evaluations):
        self.model = model
        self.state = state
        self.function = evaluate
        self.max_drop = max_drop
        self.max_evaluations = max_evaluations
        self.evaluations = 0
        self.score_before = self.score = None
        self.levels = [0] * state.num_kernels
        self.seen = {}

    def run(self):
        if self.function is None:
            self.state.apply([1.0] * self.state.num_kernels)
            return
        self.score_before = self.score = self._evaluate()
        self.seen[self.state.fingerprint()] = self.score
        if not self.state.num_kernels:
            return
        together = range(self.state.num_kernels)
        high = self._raise_level(together, len(STRENGTHS), COARSE)
        self._raise_level(together, high, 1)
        order = self.state.largest_first()
        highs = [self._raise_level([i], len(STRENGTHS), COARSE) for i in order]
        for index, high in zip(order, highs):
            self._raise_level([index], high, 1)
        self._apply(self.levels)
        self._check_budget()

    def _check_budget(self):
        """Whether the budget held anything back."""
        left, before = self.state.num_weights(), self.state.num_weights_before
        at_most = min(self.levels) == len(STRENGTHS) - 1
        if left == before or (left and not at_most):
            return
        text = (
            "The budget allows for all that purification can remove: "
            f"{left:,} of {before:,} weights are left. Received: evaluate() = "
            f"{self.score_before:g}, and {self.score:g} then, max_drop="
            f"{self.max_drop:g}. Higher has to be better: of a loss return "
            "the negative, of metrics take `m.evaluate(x, y)[1]`, where [0] "
            "is the loss. A fall of a fifth of a point is 0.002 for an "
            "accuracy in [0, 1]."
        )
        if not left:
            raise ValueError(f"{text} The model is as before.")
        warnings.warn(text, stacklevel=4)

    def _raise_level(self, kernels, high, step):
        """Looks for the highest level of some kernels that is allowed.

        In strides that double, since most kernels can spare little; then
        halves what lies between the last two.

        Args:
            kernels: Indices of kernels at one level.
            high: A level that is not allowed, or that there is not.
            step: Levels are tried in steps of this.

        Returns:
            The lowest level that was found not to be allowed, or `high`.
        """
        low = self.levels[kernels[0]]
        stride = step
        while high - low > step and self.evaluations < self.max_evaluations:
            half = max(1, (high - low) // (2 * step)) * step
            middle = low + min(stride, half)
            levels = list(self.levels)
            for i in kernels:
                levels[i] = middle
            if self._allowed(levels):
                low, self.levels = middle, levels
                stride *= 2
            else:
                high = middle
                stride = high
        return high

    def _allowed(self, levels):
        self._apply(levels)
        fingerprint = self.state.fingerprint()
        if fingerprint not in self.seen:
            self.seen[fingerprint] = self._evaluate()
        score = self.seen[fingerprint]
        if score >= self.score_before - self.max_drop:
            self.score = score
            return True
        return False

    def _apply(self, levels):
        self.state.apply([STRENGTHS[level] for level in levels])

    def _evaluate(self):
        self.evaluations += 1
        score = self.function(self.model)
        try:
            score = float(score)
        except (TypeError, ValueError) as error:
            advice = "Does the function return something?"
            if isinstance(score, dict):
                advice = f"Take one of it, such as `[{list(score)[-1]!r}]`."
            elif isinstance(score, (list, tuple)):
                advice = (
                    "`model.evaluate` returns a list where there are metrics; "
                    "take one of it: `lambda m: m.evaluate(x, y)[1]`."
                )
            raise TypeError(
                f"`evaluate` has to return a float. {advice} "
                f"Received: {score!r}"
            ) from error
        if np.isnan(score):
            raise ValueError(
                "`evaluate` returned NaN. It has to return a float, higher "
                "is better, such as an accuracy."
            )
        return score


def _check(evaluate, max_drop, thresholds, sweeps, max_evaluations):
    if evaluate is None and thresholds is None:
        raise ValueError(
            "purify needs to know what it may cost. Give it `evaluate` and "
            "`max_drop`, or explicit `thresholds`."
        )
    if evaluate is None and max_drop is not None:
        raise ValueError(
            "`max_drop` is a budget on what `evaluate` returns. Give "
            "`evaluate` too, or leave it out to apply `thresholds` as they "
            f"are. Received: max_drop={max_drop}"
        )
    if evaluate is not None and not callable(evaluate):
        raise TypeError(
            "Expected `evaluate` to be a function from the model to a float. "
            f"Received: evaluate={evaluate!r}"
        )
    is_number = isinstance(max_drop, numbers.Real)
    if max_drop is not None and not (is_number and max_drop >= 0):
        raise ValueError(
            "Expected `max_drop` >= 0: by how much the score may fall. "
            f"Received: max_drop={max_drop}"
        )
    if thresholds is not None and not isinstance(thresholds, Thresholds):
        raise TypeError(
            "Expected `thresholds` to be `keras_prm.Thresholds(...)`. "
            f"Received: thresholds={thresholds!r}"
        )
    if sweeps not in ("fixed_point", "single"):
        raise ValueError(
            "Unknown sweeps. Expected 'fixed_point' or 'single'. "
            f"Received: sweeps={sweeps!r}"
        )
    if max_evaluations < 1:
        raise ValueError(
            "Expected `max_evaluations` >= 1. "
            f"Received: max_evaluations={max_evaluations}"
        )
