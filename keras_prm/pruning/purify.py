"""`purify`: what survived pruning and carries little is removed."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import keras

from keras_prm.analysis.trace import trace
from keras_prm.equivalence import model_state
from keras_prm.plans import plan_checks
from keras_prm.pruning import purify_sweeps
from keras_prm.pruning import sample_means
from keras_prm.pruning.drops import FunctionScorer
from keras_prm.pruning.held_out import DataScorer
from keras_prm.pruning.masks import masks_of
from keras_prm.pruning.purify_search import Search
from keras_prm.pruning.thresholds import Thresholds
from keras_prm.reports.purification import PurificationReport
from keras_prm.utils import validation
from keras_prm.utils import variable_keys
from keras_prm.utils.console import print_message

if TYPE_CHECKING:
    from typing import Any


def purify(
    model: keras.Model,
    evaluate: Any = None,
    max_drop: float | None = None,
    thresholds: Thresholds | None = None,
    sweeps: str = "fixed_point",
    max_evaluations: int = 100,
    *,
    metric: str | None = None,
    holdout: float | None = None,
    num_samples: int | None = None,
    round_to: int = 1,
    verbose: int | str = "auto",
) -> PurificationReport:
    """Removes channels and filters that contribute almost nothing. In place.

    Lossy, unlike `strip`: after ADMM and retraining some structures that
    survived are so small that the model hardly needs them. A channel falls
    if few of its columns are live and their mean energy is low, both; a
    filter if its energy is low. What then feeds nobody, or is fed by nobody,
    falls with it, to a fixed point. Nothing is retrained. Of layers that are
    frozen (`trainable=False`) nothing falls but with others.

    With `evaluate`, the thresholds rise, for all layers together and then
    layer by layer, as far as the score falls by at most `max_drop`. Only
    states that were evaluated are ever accepted. The search does not go
    back, so a larger budget does not always leave fewer weights. Use
    held-out training data, not the test data.

    **Data** are the better way to say what it may cost:

    ```python
    report = keras_prm.purify(model, (x, y), max_drop=0.002)
    ```

    They are scored by the compiled metric, in small parts, so that a drop is
    the mean of paired differences d between the model before and after, and
    its standard error is known:

        drop = mean(d),   error = sqrt(var(d) / number of parts)

    A search over a hundred states finds the one that noise favors. So a
    state is accepted only if `drop + error <= max_drop`, and half of the
    data, `holdout`, is not shown to the search: what is reported is measured
    on it. The data are read once and kept; they are split at random, the
    same way each time.

    A **function** is taken at its word: the budget holds on whatever it
    measures, noise included. Where its standard error is known, it is
    stated, and compared with `max_drop`.

    A model that is no better than with all kernels at zero is refused, which
    takes one evaluation more. An error or a `KeyboardInterrupt` leaves the
    model as it was.

    Args:
        model: A built functional or Sequential model.
        evaluate: One of:

            * data with labels that come to an end: `(x, y)` or `[x, y]`,
              `(x, y, sample_weight)`, or an iterable of such batches
              (`tf.data.Dataset`, `keras.utils.PyDataset`, a `DataLoader`,
              ...), for a compiled model;
            * a function from the model to a float (or an array of one
              number), higher is better, such as
              `lambda m: m.evaluate(x, y, verbose=0)[1]`, an accuracy; of a
              loss return the negative. It may return a tuple `(score,
              standard error)`. It must not change the model;
            * `None`: applies `thresholds` as they are.

            The likelihood of labels will not do for a model that another one
            taught: it is less sure than it is right, and what damages it can
            raise that likelihood. Return the divergence from its answers
            before, negative.
        max_drop: By how much the score may get worse, in its own unit, >= 0:
            of an accuracy in [0, 1], 0.002 is a fifth of a point; of a loss,
            how much it may rise. Defaults to 0 with `evaluate`, and has no
            meaning without.
        thresholds: `Thresholds`. With `evaluate`, the proportions that the
            search scales; defaults to `Thresholds()` then.
        sweeps: `"fixed_point"` repeats until nothing falls, `"single"` makes
            the paper's one forward sweep. Defaults to `"fixed_point"`.
        max_evaluations: At most how often the search evaluates. Defaults to
            100.
        metric: With data: name of the metric, as in
            `model.evaluate(..., return_dict=True)`; `"loss"` is without
            penalties on weights. It has to be a mean over samples. One that
            is called an error, or rises with the loss, is better the lower.
            Defaults to the first in `compile` that is no loss, else the
            loss; the report names it.
        holdout: With data: the share that the search does not see, in
            [0, 1). Defaults to 0.5; 0 reports what the search saw.
        num_samples: With a function that returns a share in [0, 1], an
            accuracy: of how many samples, int. Its standard error is
            `sqrt(p * (1 - p) / num_samples)`.
        round_to: Layers lose filters only down to a multiple of this, or
            none, as in `SparsityPlan.uniform`. Say the plan's here too: a
            model does not remember it. Defaults to 1.
        verbose: `"auto"` or 1: a progress bar, with the time left at most; 2:
            a line before and after; 0: nothing. Defaults to `"auto"`.

    Returns:
        A `PurificationReport`; its `masks` are to be held from then on.

    Raises:
        TypeError: The model is subclassed, `evaluate` is neither a function
            nor data with labels, `thresholds` are no `Thresholds`, `metric`
            is no name, or the score is no number.
        ValueError: Neither `evaluate` nor `thresholds` is given, or an
            argument that has no meaning without another; an argument is out
            of range, a weight or the score is not finite; the metric is no
            mean over samples, or the model remembers those before; the model
            is at chance level, or the budget lets all of it go. The model is
            as before then.

    Warns:
        UserWarning: `max_drop` is below the standard error, the budget held
            nothing back, or the drop on held-out data is above it.

    Reference:
        - [Ma et al., 2019](https://arxiv.org/abs/1905.00136); the formulas
          stand in [Ma et al., 2019](https://arxiv.org/abs/1908.10017).
    """
    _check_arguments(evaluate, max_drop, thresholds, sweeps, max_evaluations)
    _check_measuring(evaluate, metric, holdout, num_samples)
    plan_checks.check_round_to(round_to)
    verbose = _verbosity(verbose)
    variable_keys.finite_arrays(model)
    state = purify_sweeps.Sweeper(
        trace(model),
        model.trainable_variables,
        thresholds or Thresholds(),
        sweeps,
        round_to,
    )
    if evaluate is None:
        state.apply([1.0] * state.num_kernels)
        return _report(model, state)
    with contextlib.ExitStack() as stack:
        stack.enter_context(model_state.kept(model, which=model_state.states))
        if callable(evaluate):
            scorer = FunctionScorer(evaluate, num_samples and int(num_samples))
        else:
            stack.enter_context(sample_means.without_penalties(model))
            holdout = 0.5 if holdout is None else holdout
            with model_state.kept(model):  # which may count, say
                scorer = DataScorer(model, evaluate, metric, holdout)
        search = Search(
            model,
            state,
            scorer,
            max_drop or 0.0,
            int(max_evaluations),
            verbose,
        )
        try:
            search.run()
        except BaseException:
            state.restore()
            raise
    report = _report(model, state, search)
    if verbose == 2:
        print_message(f"purify: {report.summary}")
    return report


def _report(model, state, search=None):
    found = {}
    if search is not None:
        before, after = search.reported
        found = {
            "metric": search.scorer.name,
            "standard_error": search.error,
            "num_samples": search.num_samples,
            "is_held_out": search.scorer.num_held_out > 0,
            "drop": search.drop.value,
        }
        if search.scorer.is_paired:
            found["drop_error"] = search.drop.error
    return PurificationReport(
        tuple(state.rows()),
        state.num_weights_before,
        state.num_weights(),
        before.value if search else None,
        after.value if search else None,
        search.evaluations if search else 0,
        masks_of(model),
        **found,
    )


def _check_arguments(evaluate, max_drop, thresholds, sweeps, max_evaluations):
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
    if isinstance(evaluate, (keras.Layer, keras.Metric, keras.Loss)):
        raise TypeError(
            "Expected `evaluate` to be data with labels, such as a tuple "
            "(x, y), or a function from the model to a float. Around a "
            "metric, write one: `lambda m: ...`. "
            f"Received: evaluate={evaluate!r}"[:400]
        )
    if max_drop is not None and not (
        validation.is_real(max_drop) and max_drop >= 0
    ):
        raise ValueError(
            "Expected `max_drop` >= 0: by how much the score may fall. "
            f"Received: max_drop={max_drop!r}"
        )
    if thresholds is not None and not isinstance(thresholds, Thresholds):
        raise TypeError(
            "Expected `thresholds` to be `keras_prm.Thresholds(...)`. "
            f"Received: thresholds={thresholds!r}"
        )
    is_known = isinstance(sweeps, str) and sweeps in ("fixed_point", "single")
    if not is_known:
        raise ValueError(
            "Unknown sweeps. Expected 'fixed_point' or 'single'. "
            f"Received: sweeps={sweeps!r}"
        )
    if not validation.is_count(max_evaluations):
        raise ValueError(
            "Expected `max_evaluations` >= 1, an int: how often the search "
            f"evaluates. Received: max_evaluations={max_evaluations!r}"
        )


def _check_measuring(evaluate, metric, holdout, num_samples):
    """How a score is measured; data and functions are told apart."""
    is_function = callable(evaluate)
    if is_function or evaluate is None:
        given = {"metric": metric, "holdout": holdout}
        given = {k: v for k, v in given.items() if v is not None}
        if given:
            raise ValueError(
                f"{list(given)} are for data. Give `evaluate` data with "
                "labels, such as (x, y), or leave them out. "
                f"Received: {given}, evaluate={evaluate!r}"
            )
    if num_samples is not None and not is_function:
        raise ValueError(
            "`num_samples` is for a function that returns a share; data are "
            "counted. Leave it out. "
            f"Received: num_samples={num_samples!r}"
        )
    if num_samples is not None and not validation.is_count(num_samples):
        raise ValueError(
            "Expected `num_samples` >= 1, an int: how many samples "
            "`evaluate` is a share of. "
            f"Received: num_samples={num_samples!r}"
        )
    if holdout is not None and not (
        validation.is_real(holdout) and 0 <= holdout < 1
    ):
        raise ValueError(
            "Expected `holdout` in [0, 1): the share of the data that the "
            f"search does not see. Received: holdout={holdout!r}"
        )
    if metric is not None and not isinstance(metric, str):
        raise TypeError(
            "Expected `metric` to be the name of one metric that the model "
            "is compiled with, such as 'accuracy'. "
            f"Received: metric={metric!r}"
        )


def _verbosity(verbose):
    is_known = isinstance(verbose, (str, int, float))
    if not (is_known and verbose in ("auto", 0, 1, 2)):
        raise ValueError(
            "Expected `verbose` to be 'auto', 0, 1 or 2, as in `evaluate`. "
            f"Received: verbose={verbose!r}"
        )
    return 1 if verbose == "auto" else int(verbose)
