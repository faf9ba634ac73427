"""The fit of a plan to a model, and its names there."""

from __future__ import annotations

import numpy as np

from keras_prm.analysis.trace import trace
from keras_prm.plans.plan_forms import with_other_names
from keras_prm.utils import signatures

_OTHER_MODEL = (
    "The plan was made for another model. Make one for this model with "
    "`SparsityPlan.uniform(model, ...)`. Received a plan with"
)


def plan_fits(model, plan):
    """Whether a plan may have been made for a model."""
    try:
        fitted_plan(model, plan)
    except (TypeError, ValueError):
        return False
    return True


def is_made_for(model, plan):
    """Whether a plan was made for this very model, not for one built alike."""
    keys = [kernel.key for kernel in plan.kernels]
    return signatures.are_of(plan.weights, keys, model)


def check_is_plan(plan):
    """Raises a `TypeError` for what is no `SparsityPlan`."""
    if not hasattr(plan, "kernels") or not hasattr(plan, "groups"):
        raise TypeError(
            "Expected a `SparsityPlan`, as `SparsityPlan.uniform(model, ...)` "
            f"makes it. Received: plan={plan!r} (of type "
            f"{type(plan).__name__})"
        )


def fitted_plan(model, plan, graph=None):
    """A plan under the keys that its kernels have in a model.

    Args:
        model: The model.
        plan: A `SparsityPlan`, made for it or for one that is built alike.
        graph: The model's `DependencyGraph`, if it is at hand.

    Returns:
        The plan, with keys that are in the graph.

    Raises:
        ValueError: The plan was made for another model.
    """
    graph = graph or trace(model)
    names = {kernel.key: kernel.key for kernel in plan.kernels}
    if plan.weights:
        names, difference = signatures.known_as(plan.weights, model, names)
        if difference:
            raise ValueError(f"{_OTHER_MODEL} other weights: {difference}")
    plan = with_other_names(plan, names)
    weights = {w.key: w for w in graph.weights.values()}
    bad = [
        (k.key, k.shape)
        for k in plan.kernels
        if k.key not in weights
        or tuple(weights[k.key].variable.shape) != tuple(k.shape)
    ]
    if bad:
        raise ValueError(
            f"{_OTHER_MODEL} kernels that the model does not have so: {bad}"
        )
    bad = _differently_tied(plan, graph, weights)
    if bad:
        raise ValueError(
            f"{_OTHER_MODEL} kernels whose channels are tied to other ones "
            f"in the model: {bad}"
        )
    return plan


def class_numbers(graph, plan):
    """The number in a plan of each class of a graph, -1 for none.

    Args:
        graph: The `DependencyGraph` of the model.
        plan: A `SparsityPlan` with its keys, see `fitted_plan`.
    """
    weights = {w.key: w for w in graph.weights.values()}
    found = np.full(graph.num_classes, -1)
    for kernel in plan.kernels:
        ids, numbers = weights[kernel.key].out_ids, kernel.out_classes
        if ids is not None:
            found[graph.classes[ids]] = numbers
    return found


def _differently_tied(plan, graph, weights):
    """Kernels whose channels the plan and the model tie in other ways."""
    planned, found = {}, {}
    bad = []
    for kernel in plan.kernels:
        sides = zip(
            (kernel.in_classes, kernel.out_classes),
            (weights[kernel.key].in_ids, weights[kernel.key].out_ids),
        )
        pairs = [
            (number, int(c))
            for numbers, ids in sides
            if ids is not None
            for number, c in zip(numbers, graph.classes[ids])
            if number >= 0
        ]
        if any(
            planned.setdefault(number, c) != c
            or found.setdefault(c, number) != number
            for number, c in pairs
        ):
            bad.append((kernel.key, kernel.shape))
    return bad
