"""`rho` that follows a planned decay of the primal residual.

No constant `rho` serves two networks: what pulls hard enough depends on the
optimizer, the learning rate, the scale of the weights, and on how many steps
there are. So `ADMMWrapper(rho="auto")` plans where the weights shall be, and
pulls as hard as that takes.

**The pull.** Each step of the inner optimizer is followed by

```
w  <-  w - rho * (w - z + u)
```

the proximal form of the penalty (linearized ADMM): `rho` is the share of the
way to the sparse copy that a step goes, between 0 and 1. It means the same
for each optimizer, learning rate and scale of weights, no clipping and no
moment of the inner optimizer bends it, and it is stable however large.

**The plan.** The relative residual `r`, `||w - z|| / ||w||`, is to fall
exponentially, from where it stands to `GOAL`, within the first `1 - HOLD` of
the steps, and to stay there: what is kept trains on around what is gone.

**The rule.** At each update `rho` is multiplied by `r` over what the plan
wants at the next one, within a factor of `GROWTH`. Without a loss, the first
`rho` is the one that keeps to the plan.

**The dual.** A pull of so few steps solves no subproblem to its end. So the
dual variable takes the part of its step that the pull has made of its way,
`1 - (1 - rho) ** steps`, which goes to 1, the textbook's step, as `rho` grows;
a whole step would wind it up, and the choice of what goes would flutter.
"""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from keras_prm.utils import validation

# What the residual is to be in the end, and from where on it is small enough
# to say that ADMM has converged.
GOAL = 0.005
CONVERGED = 0.02
# The last part of the steps, in which the residual stays where it is.
HOLD = 0.2
# Without a word of how many steps there will be, the plan is of so many.
UNKNOWN_STEPS = 1000
NUM_UPDATES = 50
GROWTH = 2.0
LEAST, MOST = 1e-5, 0.5


def first_rho(steps: int) -> float:
    """What takes the residual from 1 to `GOAL` in time if nothing resists."""
    return min(MOST, max(LEAST, -math.log(GOAL) / ((1 - HOLD) * steps)))


def update_interval(steps: int) -> int:
    """Steps from one update to the next, where there are so many in all."""
    return max(1, steps // NUM_UPDATES)


def dual_step(rho: Any, steps: Any) -> Any:
    """The part of its step that the dual variable takes, in [0, 1]."""
    return 1.0 - ops.power(1.0 - rho, ops.cast(steps, "float32"))


def next_rho(rho: Any, residual: Any, wanted: Any) -> Any:
    """`rho` until the next update.

    Args:
        rho: What it was, float32 scalar.
        residual: The relative residual as it is, float32 scalar.
        wanted: What it is to be at the next update, float32 scalar.
    """
    factor = ops.clip(residual / wanted, 1 / GROWTH, GROWTH)
    # NaN or infinite weights leave it where it is.
    factor = ops.where(ops.isfinite(residual), factor, 1.0)
    return ops.clip(rho * factor, LEAST, MOST)


class ResidualPlan:
    """The plan, as variables of an optimizer.

    Args:
        optimizer: The `keras.optimizers.Optimizer` that will own them.
        steps: How many applied steps there are, from 0 on.
    """

    def __init__(self, optimizer, steps):
        def variable(value, dtype, name):
            constant = keras.initializers.Constant(value)
            return optimizer.add_variable((), constant, dtype, name=name)

        self._start = variable(0, "int", "plan_start")
        self._end = variable(steps, "int", "plan_end")
        self._first = variable(1.0, "float32", "plan_residual")
        self._updates_before = variable(0, "int", "updates_before")

    def num_updates(self, step: int, interval: int) -> int:
        """How many updates there were, of this plan and of those before."""
        before, start = map(_number, (self._updates_before, self._start))
        return before + (step - start) // interval

    @property
    def end(self) -> int:
        """The step at which it ends, counted as steps are given to it."""
        return _number(self._end)

    @property
    def is_told(self) -> bool:
        """Whether anybody has said how many steps there are."""
        ends = _number(self._start), self.end
        return ends != (0, UNKNOWN_STEPS)

    def begin(
        self, step: int, steps: int, residual: float, num_updates: int
    ) -> None:
        """Plans anew: so many steps from this one, at this residual."""
        self._updates_before.assign(num_updates)
        self._start.assign(step)
        self._end.assign(step + steps)
        self._first.assign(residual)

    def interval(self):
        """Steps from one update to the next, an integer scalar."""
        steps = ops.subtract(self._end, self._start)
        return ops.maximum(steps // NUM_UPDATES, 1)

    def is_due(self, step, interval):
        """Whether a step, counted from 1, ends with an update."""
        return ops.equal(ops.subtract(step, self._start) % interval, 0)

    def wanted(self, step):
        """The relative residual that is wanted at a step, float32 scalar."""
        steps = ops.cast(ops.subtract(self._end, self._start), "float32")
        past = ops.cast(ops.subtract(step, self._start), "float32")
        part = ops.clip(past / ops.maximum((1 - HOLD) * steps, 1.0), 0.0, 1.0)
        first = ops.maximum(self._first, GOAL)
        return first * ops.power(GOAL / first, part)


def _number(variable):
    # A variable on several devices has no `int`.
    return int(ops.convert_to_numpy(variable))


def check_steps(steps: Any, rho: Any) -> None:
    """Raises unless `steps` is a number of steps that a plan can be of."""
    if steps is None:
        return
    validation.check_whole(
        "steps", steps, "steps", "Pass the epochs times the steps of each."
    )
    if rho != "auto":
        raise ValueError(
            "`steps` is how long ADMM has for what it plans, and it plans "
            f"with rho='auto' alone. Received: steps={steps}, rho={rho!r}. "
            "Leave one of them out."
        )
