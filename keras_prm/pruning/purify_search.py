"""The search of purification for the highest thresholds in a budget."""

from __future__ import annotations

import time
import warnings
from typing import TYPE_CHECKING

import keras
import numpy as np

from keras_prm.equivalence import model_state
from keras_prm.pruning import drops
from keras_prm.utils.console import print_message

if TYPE_CHECKING:
    from typing import Any

# Factors of 1.06; the search goes in coarse steps first, of 1.57.
STRENGTHS = (0.0, *np.geomspace(1e-3, 30.0, 184))
COARSE = 8
# Scores of a function that tell of how many samples it is a share.
_ENOUGH_SCORES = 4
_LEAST_COUNT = 100


class Search:
    """Finds a threshold strength per kernel within the budget.

    Args:
        model: The model.
        state: The `Sweeper`.
        scorer: `FunctionScorer` or `DataScorer`.
        max_drop: By how much the score may fall.
        max_evaluations: How often it is asked for at most.
        verbose: 0, 1 or 2.
    """

    def __init__(
        self, model, state, scorer, max_drop, max_evaluations, verbose
    ):
        self.model = model
        self.state = state
        self.scorer = scorer
        self.max_drop = max_drop
        self.max_evaluations = max_evaluations
        self.verbose = verbose
        self.evaluations = 0
        self.before = self.score = None
        self.levels = [0] * state.num_kernels
        self._seen = {}
        self._noise = None
        self.reported: Any = None
        self.drop = self.error = self.num_samples = None
        self._bar = keras.utils.Progbar(
            max_evaluations,
            verbose=int(verbose == 1),
            stateful_metrics=[scorer.name, "weights_left"],
            unit_name="evaluation",
        )

    def run(self):
        """Purifies the model as far as the budget goes.

        Raises:
            ValueError: The score is not finite, or nothing would hold it back.

        Warns:
            UserWarning: The score is too coarse for the budget, or more was
                lost on what the search did not see.
        """
        which = {"which": "held out"} if self.scorer.num_held_out else {}
        start = time.monotonic()
        self.before = self.score = self._evaluate()
        seconds = time.monotonic() - start
        held_out = self.scorer(self.model, **which) if which else None
        self._announce(seconds)
        self._seen[self.state.fingerprint()] = self.before
        if self.state.num_kernels and self.max_evaluations > 1:
            self._check_worth()
            self._climb()
        self._bar.update(
            self.evaluations, self._shown(self.score), finalize=True
        )
        self.reported = (self.before, self.score)
        if which:
            self.reported = (held_out, self.scorer(self.model, **which))
        self.drop = self.scorer.drop(*self.reported, **which)
        self._settle_error()
        self._check_noise()

    def _climb(self):
        together = range(self.state.num_kernels)
        high = self._raise_level(together, len(STRENGTHS), COARSE)
        self._raise_level(together, high, 1)
        order = self.state.largest_first()
        highs = [self._raise_level([i], len(STRENGTHS), COARSE) for i in order]
        for index, high in zip(order, highs):
            self._raise_level([index], high, 1)
        self._apply(self.levels)
        self._check_budget()

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
        if fingerprint not in self._seen:
            self._seen[fingerprint] = self._evaluate()
        score = self._seen[fingerprint]
        sign, before = self.scorer.sign, self.before.value
        if not np.isfinite(score.value):
            return False
        if sign * score.value < sign * before - self.max_drop:
            return False
        if self.scorer.is_paired and not self._is_sure(score):
            return False
        self.score = score
        return True

    def _is_sure(self, score):
        """Whether the budget holds for a drop that is an error larger.

        A gain is no room for it: of many states, noise favors some.
        """
        drop = self.scorer.drop(self.before, score)
        if max(drop.value, 0.0) + drop.error <= self.max_drop:
            return True
        self._noise = min(drop.error, self._noise or drop.error)
        return False

    def _apply(self, levels):
        self.state.apply([STRENGTHS[level] for level in levels])

    def _evaluate(self, is_any=False):
        """The score of the model; NaN is refused, unless any will do."""
        self.evaluations += 1
        with model_state.kept(self.model, which=model_state.states):
            score = self.scorer(self.model)
        if not (is_any or self.scorer.is_paired):
            self._check_finite(score.value)
        if 1 < self.evaluations < self.max_evaluations:
            self._bar.update(self.evaluations, self._shown(score))
        return score

    def _check_finite(self, value):
        """A state may be infinitely bad, but not the one to compare with."""
        if np.isfinite(value) or (self.before and value == -np.inf):
            return
        raise ValueError(
            f"`evaluate` returned {value}. It has to return a float that is "
            "finite, higher is better, such as an accuracy. The model is as "
            "before."
        )

    def _shown(self, score):
        left = self.state.num_weights() / max(1, self.state.num_weights_before)
        return [(self.scorer.name, score.value), ("weights_left", left)]

    def _announce(self, seconds):
        """What the score is, how sure, and how long it may take."""
        if self.verbose:
            text = f"purify: {self.scorer.name} {self.before.value:.4f}"
            if self.before.error is not None:
                text += f" \u00b1 {self.before.error:.4f}"
            if self.scorer.num_samples:
                text += f" on {self.scorer.num_samples:,} samples"
            if self.scorer.num_held_out:
                text += f", {self.scorer.num_held_out:,} more held out"
            if self.scorer.others:
                text += " (metric=None takes the first of "
                text += f"{[self.scorer.name, *self.scorer.others]})"
            print_message(
                f"{text}; max_drop={self.max_drop:g}; at most "
                f"{self.max_evaluations} evaluations, about "
                f"{seconds * self.max_evaluations:.0f} s"
            )
        if not self.scorer.is_paired and self.before.error is not None:
            self.error, self.num_samples = (
                self.before.error,
                self.scorer.num_samples,
            )
            if self.error > self.max_drop:
                self._warn_of_noise(
                    self.error, "the search will take noise for room", 5
                )

    def _check_worth(self):
        """Refuses a model whose kernels might as well all be zero."""
        self.state.blank()
        blank = self._evaluate(is_any=True)
        if self._is_blind(blank):
            return
        drop = self.scorer.drop(self.before, blank)
        error = drop.error
        if error is None:
            error = _guessed_error(self.before.value, blank.value)
        found = (
            f"Received: {self.scorer.name} = {self.before.value:g}, and "
            f"{blank.value:g} with all kernels at zero"
        )
        if drop.value < -2 * error and not self.scorer.is_paired:
            raise ValueError(
                "`evaluate` is better without the model than with it. "
                "Higher has to be better: of a loss return the negative, of "
                "metrics take `m.evaluate(x, y)[1]`, where [0] is the loss. "
                f"{found}. The model is as before.{self._on_tuples()}"
            )
        if drop.value <= 2 * error:
            raise ValueError(
                "The model is at chance level, so that anything may go: it "
                "is no better, by two standard errors, than answers that do "
                "not depend on the inputs. Train it first, or measure on "
                f"more samples. {found}, two standard errors = "
                f"{2 * error:.2g}. The model is as before."
                f"{self._on_tuples()}"
            )
        if drop.value <= self.max_drop:
            raise ValueError(
                "The budget allows for the whole model to go. Lower "
                "`max_drop`: a fall of a fifth of a point is 0.002 for an "
                f"accuracy in [0, 1]. {found}, max_drop={self.max_drop:g}. "
                "The model is as before."
            )

    def _on_tuples(self):
        """What a tuple means, where one may be of another meaning."""
        if self.scorer.is_paired or not self.scorer.has_tuples:
            return ""
        return (
            " A tuple of `evaluate` is taken for (score, standard error): of "
            "all that `model.evaluate` returns, return one metric alone."
        )

    def _is_blind(self, blank):
        """Whether the function does not look at the model; warns of it."""
        if self.scorer.is_paired or blank.value != self.before.value:
            return False
        self.state.scramble()
        if self._evaluate(is_any=True).value != self.before.value:
            return False
        warnings.warn(
            "`evaluate` does not depend on the model, so that nothing holds "
            "the search back. Let it measure the model that it is given. "
            f"Received: {self.before.value:g} for the model, for all kernels "
            "at zero and for random ones.",
            stacklevel=6,
        )
        return True

    def _check_budget(self):
        """Whether the budget held anything back."""
        left, before = self.state.num_weights(), self.state.num_weights_before
        at_most = min(self.levels) == len(STRENGTHS) - 1
        if left == before or (left and not at_most):
            return
        text = (
            "The budget allows for all that purification can remove: "
            f"{left:,} of {before:,} weights are left. Lower `max_drop`, or "
            "the proportions in `thresholds`. Received: "
            f"{self.scorer.name} = {self.before.value:g}, and "
            f"{self.score.value:g} then, max_drop={self.max_drop:g}."
        )
        if not left:
            raise ValueError(f"{text} The model is as before.")
        warnings.warn(text, stacklevel=5)

    def _settle_error(self):
        """The standard error of a score, where it can be known."""
        if self.scorer.is_paired:
            self.error = self.reported[0].error
            self.num_samples = self.scorer.num_held_out
            self.num_samples = self.num_samples or self.scorer.num_samples
        elif self.error is None:
            values = {s.value for s in self._seen.values()}
            count = drops.common_count(values)
            if count and len(values) >= _ENOUGH_SCORES:
                self.num_samples = count
                self.error = drops.share_error(self.before.value, count)
                if self.error > self.max_drop:
                    self._warn_of_noise(
                        self.error,
                        "the search may have taken noise for room, by all "
                        f"its scores being shares of {count:,} samples",
                        5,
                    )

    def _check_noise(self):
        if not self.scorer.is_paired:
            return
        lost = self.drop.value - self.drop.error
        if self.scorer.num_held_out and lost > self.max_drop:
            warnings.warn(
                f"{self.scorer.name} fell by {self.drop.value:.2g} \u00b1 "
                f"{self.drop.error:.2g} on {self.scorer.num_held_out:,} "
                "samples that the search has not seen, which is more than "
                f"max_drop={self.max_drop:g}. Purify again from the weights "
                "before, on more samples or a smaller budget.",
                stacklevel=4,
            )
        error = max(self.drop.error, self._noise or 0.0)
        if error > self.max_drop:
            self._warn_of_noise(error, "little can be told to be free", 5)

    def _warn_of_noise(self, error, so, stacklevel):
        what = f"of {self.scorer.name}"
        if self.scorer.is_paired:
            what = f"of a drop of {self.scorer.name}, sample by sample"
        advice = f"Give a `max_drop` above {error:.2g}"
        if self.max_drop:
            times = (error / self.max_drop) ** 2
            advice += f", or {times:,.1f} times as many samples"
            number = self.scorer.num_samples or self.num_samples
            if number:
                number = times * (number + self.scorer.num_held_out)
                advice += f", about {number:,.0f} in all"
        if not self.scorer.is_paired:
            advice += (
                ". Given the data themselves, `purify(model, (x, y), ...)`, "
                "it compares sample by sample, which tells smaller drops"
            )
        warnings.warn(
            f"max_drop={self.max_drop:g} is below the standard error {what}, "
            f"{error:.2g}: {so}. {advice}.",
            stacklevel=stacklevel,
        )


def _guessed_error(before, blank):
    """The standard error of a difference that may be of two shares."""
    count = drops.common_count([before, blank])
    if count is None:
        return 0.0
    count = max(count, _LEAST_COUNT)
    errors = [drops.share_error(x, count) for x in (before, blank)]
    return float(np.hypot(errors[0], errors[1]))
