"""Schedules of ADMM's penalty weight `rho`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import keras
from keras import ops

from keras_prm.utils import validation

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


@keras.saving.register_keras_serializable(package="keras_prm")
class RhoStages(keras.optimizers.schedules.LearningRateSchedule):
    """`rho` in stages, each of which begins afresh.

    The papers' authors raise `rho` tenfold from stage to stage, and begin
    each stage with `z` the projection of the weights and `u = 0`, which is
    what `ADMMWrapper` does at the first update of each of these stages,
    neighbors of one value among them.

    Args:
        steps_per_stage: Applied steps of each stage, the last of which has
            no end. Best a multiple of the wrapper's `update_every`: a stage
            begins with the first update that falls into it.
        values: The `rho` of each stage, floats >= 0. Defaults to
            `(1e-4, 1e-3, 1e-2, 1e-1)`.

    Raises:
        TypeError: A value is no number.
        ValueError: `steps_per_stage` is below 1, or there is no value, or one
            that is negative or not finite.

    Example:

    ```python
    rho = keras_prm.RhoStages(steps_per_stage=10 * steps_per_epoch)
    optimizer = keras_prm.ADMMWrapper("adam", plan, rho=rho)
    ```

    Reference:
        - [Ma et al., 2019](https://arxiv.org/abs/1908.10017).
    """

    def __init__(
        self,
        steps_per_stage: int,
        values: Sequence[float] = (1e-4, 1e-3, 1e-2, 1e-1),
    ) -> None:
        validation.check_whole(
            "steps_per_stage",
            steps_per_stage,
            "steps",
            "Pass, for example, the steps of ten epochs.",
        )
        values = list(values)
        if not values:
            raise ValueError(
                "RhoStages needs the `rho` of at least one stage. "
                f"Received: values={values}. Pass, for example, "
                "`values=(1e-3, 1e-2)`."
            )
        for value in values:
            check_rho(value)
        self.steps_per_stage = int(steps_per_stage)
        self.values = [float(value) for value in values]

    def __call__(self, step: Any) -> Any:
        values = ops.convert_to_tensor(self.values, "float32")
        return ops.take(values, self.stage(step))

    def stage(self, step: Any) -> Any:
        """The number of the stage that a step is of, an int32 scalar.

        Args:
            step: Number of the step, from 0.
        """
        stage = ops.cast(step, "int32") // self.steps_per_stage
        return ops.minimum(stage, len(self.values) - 1)

    def get_config(self) -> dict[str, Any]:
        return {"steps_per_stage": self.steps_per_stage, "values": self.values}


@keras.saving.register_keras_serializable(package="keras_prm")
class ResidualBalancing:
    """Lets `rho` follow the residuals, so that neither lags behind.

    At each update `rho` is multiplied by `factor` where the primal residual
    is more than `threshold` times the dual one, and divided by it in the
    opposite case. Both are taken over all planned kernels together:

    ```
    primal = ||w - z||        dual = rho * ||z - previous z||
    ```

    Args:
        initial: The first `rho`, a float > 0. Defaults to `1e-2`.
        factor: What `rho` is multiplied or divided by, > 1. Defaults to 2.
        threshold: How far apart the residuals may be, > 1. Defaults to 10.
        minimum: `rho` never falls below it. Defaults to `1e-5`.
        maximum: `rho` never rises above it. Defaults to `1.0`.

    Raises:
        TypeError: An argument is no number.
        ValueError: The bounds do not lie in order, or `factor` or `threshold`
            is not finite and above 1.

    Example:

    ```python
    rho = keras_prm.ResidualBalancing(initial=1e-3)
    optimizer = keras_prm.ADMMWrapper("adam", plan, rho=rho)
    ```

    Reference:
        - [Boyd et al., 2011](https://doi.org/10.1561/2200000016),
          section 3.4.1.
    """

    def __init__(
        self,
        initial: float = 1e-2,
        factor: float = 2.0,
        threshold: float = 10.0,
        minimum: float = 1e-5,
        maximum: float = 1.0,
    ) -> None:
        for value in (initial, minimum, maximum):
            check_rho(value)
        if not 0 < minimum <= initial <= maximum:
            raise ValueError(
                "`rho` starts between its bounds, all above 0. Expected "
                "0 < minimum <= initial <= maximum. Received: "
                f"minimum={minimum}, initial={initial}, maximum={maximum}. "
                "Widen the bounds."
            )
        for name, value in (("factor", factor), ("threshold", threshold)):
            advice = "Pass, for example, `factor=2.0, threshold=10.0`."
            validation.check_real(name, value, "a float", advice)
        if not (1 < factor < math.inf and 1 < threshold < math.inf):
            raise ValueError(
                "`factor` and `threshold` must be finite and above 1. "
                f"Received: factor={factor}, threshold={threshold}. Pass, for "
                "example, `factor=2.0, threshold=10.0`."
            )
        self.initial = float(initial)
        self.factor = float(factor)
        self.threshold = float(threshold)
        self.minimum = float(minimum)
        self.maximum = float(maximum)

    def next(self, rho: Any, primal: Any, dual: Any) -> Any:
        """The next `rho`, all of them float32 scalars.

        Args:
            rho: The penalty's weight now.
            primal: Primal residual, a scalar tensor.
            dual: Dual residual, a scalar tensor.
        """
        up = primal > self.threshold * dual
        down = dual > self.threshold * primal
        rho = ops.where(up, rho * self.factor, rho)
        rho = ops.where(down, rho / self.factor, rho)
        return ops.clip(rho, self.minimum, self.maximum)

    def get_config(self) -> dict[str, float]:
        """The arguments of the constructor, by name."""
        return dict(vars(self))

    @classmethod
    def from_config(cls, config: dict[str, float]) -> ResidualBalancing:
        """The rule that `get_config` told."""
        return cls(**config)

    def __repr__(self):
        arguments = ", ".join(f"{k}={v}" for k, v in vars(self).items())
        return f"ResidualBalancing({arguments})"


def check_rho(rho):
    """Raises unless `rho` is a number that can weigh a penalty."""
    validation.check_real(
        "rho",
        rho,
        "'auto', a float, a LearningRateSchedule or a ResidualBalancing",
        "Pass, for example, `rho=1e-2`.",
    )
    if not 0 <= rho < math.inf:
        raise ValueError(
            "`rho` weighs a penalty and must be finite and at least 0. "
            f"Received: rho={rho!r}. Pass, for example, `rho=1e-2`."
        )
