"""Checks of `ADMMWrapper`'s arguments and variables."""

from __future__ import annotations

import itertools
import warnings

import keras
import numpy as np
from keras import ops

from keras_prm.admm.rho_schedules import ResidualBalancing
from keras_prm.admm.rho_schedules import RhoStages
from keras_prm.admm.rho_schedules import check_rho
from keras_prm.plans.plan import SparsityPlan
from keras_prm.plans.plan_forms import advice
from keras_prm.utils import keras_hooks
from keras_prm.utils import signatures
from keras_prm.utils import validation

RHO_CHANGES = ("rescale", "restart")
# Steps from one update to the next, where nothing is planned.
USUAL_INTERVAL = 100
# A step after the end of every schedule.
LATE = 2**30
INNER_ARGUMENTS = (
    "learning_rate",
    "weight_decay",
    "clipnorm",
    "clipvalue",
    "global_clipnorm",
    "use_ema",
    "ema_momentum",
    "ema_overwrite_frequency",
    "loss_scale_factor",
    "gradient_accumulation_steps",
)


def check_inner(inner, wrapper):
    """The inner optimizer must be one, and not be wrapped already."""
    if isinstance(inner, SparsityPlan):
        raise TypeError(
            "The plan comes second: `ADMMWrapper(optimizer, plan)`. "
            f"Received: inner_optimizer={inner!r}"
        )
    if not isinstance(inner, keras.optimizers.Optimizer):
        raise TypeError(
            "Cannot wrap what is not an optimizer. Expected a "
            "`keras.optimizers.Optimizer` or its name. "
            f"Received: inner_optimizer={inner!r}. Pass, for example, "
            "`keras.optimizers.Adam(1e-3)`."
        )
    if isinstance(inner, wrapper):
        raise ValueError(
            "Cannot wrap an optimizer in ADMM twice. "
            f"Received: inner_optimizer={inner.name!r}, an ADMMWrapper. Wrap "
            "its `inner_optimizer` instead."
        )
    if isinstance(inner, keras.optimizers.LossScaleOptimizer):
        raise ValueError(
            "Cannot put ADMMWrapper around a LossScaleOptimizer: the penalty "
            "is not scaled with the loss. "
            f"Received: inner_optimizer={inner.name!r}. Put "
            "LossScaleOptimizer around ADMMWrapper; under a mixed precision "
            "policy `model.compile` does so by itself."
        )
    _check_accumulation(inner)


def _check_accumulation(inner):
    """A `MultiOptimizer` counts steps that its parts do not apply."""
    parts = getattr(inner, "optimizers", ())
    bad = [o.name for o in parts if o.gradient_accumulation_steps]
    if bad:
        raise ValueError(
            "Gradients cannot accumulate inside of a MultiOptimizer in "
            "ADMMWrapper: it counts every step, applied or not, and "
            "`update_every`, `rho` and `ramp` go by applied steps. "
            f"Received: gradient_accumulation_steps of {bad}. Use a larger "
            "batch, or one optimizer for all variables."
        )


def check_arguments(plan, rho, update_every, rho_change, ramp, kwargs):
    """The constructor's other arguments; `kwargs` are those too many."""
    _check_kwargs(kwargs)
    if not isinstance(plan, SparsityPlan):
        raise TypeError(
            "ADMMWrapper needs a `keras_prm.SparsityPlan`. "
            f"Received: plan={plan!r}. Make one with "
            "`SparsityPlan.uniform(model, filters=0.5)`."
        )
    if not plan.kernels:
        raise ValueError(
            "The plan removes nothing, so there is nothing to train for. "
            f"{advice(plan)}"
        )
    _check_schedule(rho)
    if update_every != "auto":
        example = "Pass, for example, `update_every=100`, or 'auto'."
        validation.check_whole("update_every", update_every, "steps", example)
    if rho_change not in RHO_CHANGES:
        raise ValueError(
            f"`rho_change` must be one of {RHO_CHANGES}. "
            f"Received: rho_change={rho_change!r}. Use 'restart' for `rho` in "
            "stages, else 'rescale'."
        )
    if rho_change == "restart" and isinstance(rho, ResidualBalancing):
        raise ValueError(
            "ResidualBalancing goes on with `u` when it changes `rho`. "
            "Received: rho_change='restart'. Leave `rho_change` out."
        )
    _check_ramp(ramp)
    _check_stages(rho, update_every)


def _check_stages(rho, update_every):
    """A stage begins with the first update that falls into it."""
    if not isinstance(rho, RhoStages) or len(rho.values) == 1:
        return
    if update_every == "auto":
        update_every = USUAL_INTERVAL
    if rho.steps_per_stage < update_every:
        warnings.warn(
            "RhoStages skips stages: a stage begins with the first update "
            "that falls into it, and updates are farther apart than stages "
            f"are long. Received: steps_per_stage={rho.steps_per_stage}, "
            f"update_every={update_every}. Make `steps_per_stage` several "
            "times `update_every`.",
            stacklevel=4,
        )


def _check_schedule(rho):
    """`rho`, and where it is a schedule, what it begins with."""
    if isinstance(rho, ResidualBalancing) or rho == "auto":
        return
    if isinstance(rho, keras.optimizers.schedules.LearningRateSchedule):
        rho = _value(rho, 0)
    check_rho(rho)


def _check_ramp(ramp):
    if ramp is None:
        return
    if not isinstance(ramp, keras.optimizers.schedules.LearningRateSchedule):
        raise TypeError(
            "`ramp` must be a LearningRateSchedule, or None. "
            f"Received: ramp={ramp!r}. Pass, for example, "
            "`keras.optimizers.schedules.PolynomialDecay(0.0, 1000, 1.0, "
            "power=3)`."
        )
    ends = [_value(ramp, step) for step in (0, LATE)]
    # Schedules compute in float32.
    if not all(-1e-6 <= end <= 1 + 1e-6 for end in ends):
        raise ValueError(
            "`ramp` is a share of the plan and must stay in [0, 1]. "
            f"Received: a schedule from {ends[0]:g} to {ends[1]:g}. Let it "
            "end at 1.0; the final sparsity is the plan's."
        )


def _value(schedule, step):
    return float(ops.convert_to_numpy(schedule(step)))


def check_same_kind(old, rho):
    """A new `rho` must be a number, and so must the old one."""
    if isinstance(old, str):
        raise TypeError(
            "`rho` cannot be set: the optimizer was made with rho='auto', "
            "which finds it. Make the optimizer with a float, "
            "`ADMMWrapper(optimizer, plan, rho=1e-2)`, to set it yourself. "
            f"Received: rho={rho!r}"
        )
    if not validation.is_real(old):
        raise TypeError(
            "`rho` cannot be set: the optimizer was made with a "
            f"{type(old).__name__}, which sets it. Make the optimizer with a "
            "float `rho` to set it yourself."
        )
    check_rho(rho)


def _check_kwargs(kwargs):
    inner = [name for name in kwargs if name in INNER_ARGUMENTS]
    if inner:
        names = ", ".join(f"`{name}`" for name in inner)
        raise ValueError(
            f"ADMMWrapper does not take {names}. Received: {kwargs}. "
            f"Set {names} on the inner optimizer."
        )
    if kwargs:
        raise TypeError(
            f"ADMMWrapper does not know the arguments {sorted(kwargs)}. "
            "Expected `plan`, `rho`, `update_every`, `rho_change`, `ramp`, "
            "`name`, `steps`. "
            "Remove them or correct their spelling."
        )


def check_variables(variables, plan):
    """The variables must be those the plan was made for, or built alike.

    A plan of an earlier version knows no more than names and shapes.
    """
    if plan.weights:
        found = signatures.trained_otherwise(plan.weights, variables)
    else:
        found = _other_shapes(variables, plan)
    if found:
        raise ValueError(
            "The plan was made for other variables than the optimizer is "
            f"built on: {found}."
        )


def _other_shapes(variables, plan):
    received = tuple((v.name, tuple(v.shape)) for v in variables)
    differences = [
        f"#{i}: expected {expected}, received {got}"
        for i, (expected, got) in enumerate(
            itertools.zip_longest(plan.variables, received)
        )
        if expected != got
    ]
    if not differences:
        return ""
    return (
        f"{len(differences)} differ. {'; '.join(differences[:3])}. Make the "
        "plan from the model that is trained, after setting `trainable` on "
        "its layers. ADMMWrapper takes all trainable variables: put any "
        "MultiOptimizer inside ADMMWrapper, not around"
    )


def check_attached(trained, keys, variables):
    """The variables that are trained must be those that the keys name.

    Args:
        trained: list of variables.
        keys: The keys that a plan names them by, in the same order.
        variables: dict from key to variable, of the model.
    """
    names = {id(variable): key for key, variable in variables.items()}
    pairs = zip(keys, (names.get(id(v)) for v in trained), strict=True)
    moved = {planned: found for planned, found in pairs if planned != found}
    if moved:
        raise ValueError(
            "ADMM trains other kernels than the plan names, of equal shapes: "
            "`trainable` was set otherwise when the plan was made. Make the "
            "plan anew, with `trainable` as it is in training. "
            f"Received, planned and trained: {moved}"
        )


def check_finite(kernels, plan):
    """The projection of NaN is undefined."""
    broken = [
        plan_of.key
        for plan_of, kernel in zip(plan.kernels, kernels, strict=True)
        if not np.all(np.isfinite(ops.convert_to_numpy(kernel)))
    ]
    if broken:
        raise ValueError(
            "Cannot project kernels that hold NaN or infinity. Expected "
            f"finite weights. Received: {broken}. Load or initialize them "
            "anew, and train with a smaller learning rate."
        )


def check_same_variables(inner, variables):
    """An inner optimizer that is built must be built on these variables."""
    try:
        keras_hooks.check_known(inner, variables)
    except ValueError as error:
        raise ValueError(
            "The inner optimizer is built on the variables of another model. "
            f"Received: inner_optimizer={inner.name!r}. Pass a fresh one, or "
            "one that has trained this very model."
        ) from error


def check_saved_plan(digest, plan):
    """State that is loaded must have been saved with the same plan."""
    if digest is None or np.asarray(digest).tobytes() == plan.digest():
        return
    raise ValueError(
        "The saved state of ADMM belongs to another plan: other kernels, "
        "groups or fractions. Make the optimizer with the plan that was used "
        "(`SparsityPlan.save` and `load` keep it), or load the weights into "
        "a model that is not compiled, and compile it anew."
    )
