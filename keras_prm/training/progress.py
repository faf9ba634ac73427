"""`ADMMProgress`: ADMM's residuals in logs, in words, as a reason to stop."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import keras
import numpy as np

from keras_prm.admm.attachment import build_if_given_weights
from keras_prm.admm.attachment import check_trains
from keras_prm.admm.planned_rho import CONVERGED
from keras_prm.plans.plan_fit import plan_fits
from keras_prm.training import trainers
from keras_prm.utils import console
from keras_prm.utils import validation

if TYPE_CHECKING:
    from typing import Any


# A residual from which it is not far to `CONVERGED`.
_NEAR = 0.1


class ADMMProgress(keras.callbacks.Callback):
    """Reports how far the weights are from the structured set.

    Adds to the logs of every epoch, and so to `History`, the progress bar
    and TensorBoard:

    * `primal_residual`: ‖W − Z‖ / ‖W‖ over all planned kernels. It goes to 0
      as the weights reach the set; while it is above about 0.1, pruning
      will hurt: train longer, or, with a `rho` of your own, raise it. It may
      rise at first.
    * `dual_residual`: rho ‖Z' − Z‖ of the last update, which goes to 0 as
      the set's nearest point stands still.

    Adds to `History` alone, where they crowd no progress bar, the same two
    for every kernel, as `"primal_residual/conv1/kernel"` and
    `"dual_residual/conv1/kernel"`. The primal ones are relative to the
    kernel's own norm, so that layers compare.

    Tells a wrapper with `rho="auto"` how many steps this `fit` has, which is
    what it plans with, and says so where training ends before ADMM has
    converged.

    Needs a model compiled with `ADMMWrapper`, be it inside of a
    `LossScaleOptimizer` or a `MultiOptimizer`, or a
    `keras.distillation.Distiller` compiled so, or one that holds the wrapper
    as an attribute, such as a GAN with two optimizers. Warns at the end of a
    training that was too short for a single update.

    Args:
        verbose: 1 prints one line after each epoch, with a word on how far
            ADMM is and the kernel that is farthest from the set. Defaults
            to 0.
        tolerance: Training stops after the first epoch that ends with
            `primal_residual` below it, and says so: a float in (0, 1), or
            `None` to train all epochs. It waits for one update of `Z` in
            this `fit`, since before it `Z` is the projection of the weights
            that training began with, and until the plan's whole sparsity is
            in force. The dual residual is not asked for. Defaults to
            `None`.
        model: The network whose wrapper is meant, where `fit` trains several
            with ADMM; its name and `_` then stand before the names in the
            logs. Defaults to `None`, the only one.

    Attributes:
        history: list with one dict per epoch, from kernel key to
            `{"primal": float, "dual": float}`, as `ADMMWrapper.residuals`
            returns them: absolute ones.

    Raises:
        TypeError: `tolerance` is no number, or `model` no model.
        ValueError: `verbose` or `tolerance` is out of range; in `fit`, the
            model has no `ADMMWrapper` that trains the network, or several.

    Example:

    ```python
    progress = keras_prm.ADMMProgress(verbose=1, tolerance=0.01)
    model.fit(x, y, epochs=100, callbacks=[progress])
    ```

    Reference:
        - [Boyd et al., 2011](https://doi.org/10.1561/2200000016), section
          3.3.
    """

    def __init__(
        self,
        verbose: int = 0,
        tolerance: float | None = None,
        model: keras.Model | None = None,
    ) -> None:
        super().__init__()
        _check_verbose(verbose)
        _check_tolerance(tolerance)
        self.verbose = verbose
        self.tolerance = tolerance
        self.network = model
        self.history = []
        self._lines = []
        self._updates = 0
        self._begin: tuple[int, int] | None = None
        self._told = False

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._lines = []
        wrapper = self._wrapper()
        variables = self.model.trainable_variables
        build_if_given_weights(self.model.optimizer, variables)
        self._updates = wrapper.num_updates
        self._begin, self._told = None, False
        check_trains(wrapper, self.network or self.model)

    def on_epoch_begin(
        self,
        epoch: int,
        logs: dict[str, Any] | None = None,
    ) -> None:
        self._print()
        self._tell_steps(epoch)

    def on_epoch_end(
        self,
        epoch: int,
        logs: dict[str, Any] | None = None,
    ) -> None:
        wrapper = self._wrapper()
        residuals = wrapper.residuals()
        self.history.append(residuals)
        found = scalars(wrapper, residuals)
        prefix = self._prefix()
        for name, value in found.items():
            if "/" in name:
                self._add_to_history(prefix + name, value)
            elif logs is not None:
                logs[prefix + name] = value
        if self.verbose:
            self._lines.append(residual_line(wrapper, found))
        if self._is_reached(wrapper, found["primal_residual"]):
            self.model.stop_training = True
            self._lines.append(
                f"ADMM: stopped after epoch {epoch + 1}: primal residual "
                f"{found['primal_residual']:.3g} is below the tolerance "
                f"{self.tolerance:.3g}."
            )

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        wrapper = self._wrapper()
        planned = wrapper.rho == "auto" and wrapper.num_updates
        if planned and not wrapper.converged:
            self._lines.append(_what_is_left(wrapper))
        self._print()
        if not wrapper.num_updates:
            warnings.warn(
                "ADMM was never updated: the first update comes after "
                f"{wrapper.update_every} applied steps, and there were "
                f"{wrapper.num_steps}. Train longer, or give ADMMWrapper a "
                "smaller `update_every`.",
                stacklevel=2,
            )

    def _tell_steps(self, epoch):
        """Tells the wrapper how many steps are to come, once that is known.

        Where Keras does not know the steps of an epoch, that is after one.
        """
        if self._told:
            return
        wrapper = self._wrapper()
        applied, steps = wrapper.num_steps, self.params.get("steps")
        left = self.params["epochs"] - epoch
        if steps is not None:
            inner = wrapper.inner_optimizer
            steps = steps * left // (inner.gradient_accumulation_steps or 1)
        elif self._begin is not None:
            first, before = self._begin
            steps = (applied - before) * left // (epoch - first)
        else:
            self._begin = epoch, applied
            return
        self._told = True
        wrapper.expect_steps(max(1, steps))

    def _wrapper(self):
        wrapper = trainers.wrapper_of(self.model, self.network, plan_fits)
        if wrapper is None:
            raise ValueError(
                "ADMMProgress needs a model that is compiled with "
                "`keras_prm.ADMMWrapper(optimizer, plan)`, or holds one as "
                "an attribute. "
                f"Received: a model with optimizer={self.model.optimizer!r}"
                f", and model={self.network and self.network.name!r}"
            )
        return wrapper

    def _prefix(self):
        """What keeps the logs of several networks apart."""
        several = len(trainers.wrappers(self.model)) > 1
        return f"{self.network.name}_" if several and self.network else ""

    def _add_to_history(self, name, value):
        # A loop of one's own may have no `History`.
        history = getattr(self.model, "history", None)
        if history is not None:
            history.history.setdefault(name, []).append(value)

    def _is_reached(self, wrapper, primal):
        return (
            self.tolerance is not None
            and primal < self.tolerance
            and wrapper.num_updates > self._updates
            and wrapper.settled
        )

    def _print(self):
        """Prints what waits until the progress bar has ended its line."""
        for line in self._lines:
            console.print_message(line)
        self._lines = []


def scalars(wrapper, residuals=None):
    """The residuals as plain numbers.

    Args:
        wrapper: A built `ADMMWrapper`.
        residuals: What its `residuals()` returned, if that is at hand.

    Returns:
        dict from `"primal_residual"`, `"dual_residual"`, and the two
        followed by `/` and the key of a kernel, to floats. Primal residuals
        are relative: ‖W − Z‖ / ‖W‖.
    """
    residuals = residuals or wrapper.residuals()
    # The model may be another than the one that is pruned, as a Distiller.
    sizes = {
        k.key: _variable_norm(variable)
        for k, variable in zip(
            wrapper.plan.kernels, wrapper.planned_variables(), strict=True
        )
    }
    primal = {key: r["primal"] for key, r in residuals.items()}
    dual = {key: r["dual"] for key, r in residuals.items()}
    found = {
        "primal_residual": _distance_ratio(
            math.hypot(*primal.values()), math.hypot(*sizes.values())
        ),
        "dual_residual": math.hypot(*dual.values()),
    }
    for key in residuals:
        found[f"primal_residual/{key}"] = _distance_ratio(
            primal[key], sizes[key]
        )
        found[f"dual_residual/{key}"] = dual[key]
    return found


def residual_line(wrapper, found):
    """One line on what `scalars` returned."""
    relative = {
        k.key: found[f"primal_residual/{k.key}"] for k in wrapper.plan.kernels
    }
    # Unlike `max`, it picks NaN where there is one.
    key = list(relative)[int(np.argmax(list(relative.values())))]
    return (
        f"ADMM: primal {found['primal_residual']:.3g}, "
        f"dual {found['dual_residual']:.3g}, "
        f"rho {wrapper.current_rho:.3g}; "
        f"farthest: {key} {relative[key]:.3g}; {_judgement(wrapper)}"
    )


def _judgement(wrapper):
    """How far ADMM is, in a word or two."""
    if not wrapper.num_updates:
        return "no update yet"
    if not wrapper.settled:
        return f"at {wrapper.current_share:.0%} of the plan"
    if wrapper.converged:
        return "converged"
    near = wrapper.relative_residual <= _NEAR
    return "nearly converged" if near else "not converged"


def _what_is_left(wrapper):
    """The line where training ends before ADMM has converged."""
    if not wrapper.settled:
        found = f"its ramp has come to {wrapper.current_share:.0%} of the plan"
    else:
        found = (
            "the weights are a relative "
            f"{wrapper.relative_residual:.2g} from what it prunes to, and "
            f"pruning costs next to nothing below {CONVERGED:g}"
        )
    return f"ADMM has not converged: {found}. Train for more steps first."


def _variable_norm(variable):
    array = keras.ops.convert_to_numpy(variable).astype("float32")
    return float(np.linalg.norm(array))


def _distance_ratio(distance, size):
    if size:
        return distance / size
    return math.inf if distance else 0.0


def _check_verbose(verbose):
    if verbose not in (0, 1):
        raise ValueError(
            "`verbose` must be 0 or 1. "
            f"Received: verbose={verbose!r}. Pass 1 for a line per epoch."
        )


def _check_tolerance(tolerance):
    if tolerance is None:
        return
    validation.check_real(
        "tolerance",
        tolerance,
        "a float in (0, 1), or `None`",
        "Pass, for example, `tolerance=0.01`.",
    )
    if not 0 < tolerance < 1:
        raise ValueError(
            "`tolerance` is held against a relative residual and must be in "
            f"(0, 1). Received: tolerance={tolerance!r}. Pass, for example, "
            "`tolerance=0.01`, or `None` to train all epochs."
        )
