"""From a budget to a plan that meets it."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from keras_prm.analysis.trace import trace
from keras_prm.analysis.width_costs import NAMES
from keras_prm.budgets import measured
from keras_prm.budgets.allocations import ALLOCATIONS
from keras_prm.budgets.allocations import ENOUGH
from keras_prm.budgets.allocations import USES
from keras_prm.budgets.problem import AllocationProblem
from keras_prm.budgets.problem import Evidence
from keras_prm.budgets.problem import group_levels
from keras_prm.plans import plan_checks
from keras_prm.plans.plan import SparsityPlan
from keras_prm.utils import validation

if TYPE_CHECKING:
    from typing import Any

# One in fifty: what the sparsest layer of the sparsest recipe keeps, the
# first dense one of LeNet-5 with 235 times fewer weights.
FLOOR = 0.02
# Begins as uniform, and leaves the rest to ADMM.
LEARNED = "learned"


def plan_for(
    model, budget, allocation, columns, round_to, exclude, floor, **evidence
):
    """The plan that meets a budget.

    Args:
        model: The model; it is only read.
        budget: The `Budget`.
        allocation: A name in `ALLOCATIONS`, `LEARNED`, or a function like
            those that are named.
        columns: As of `SparsityPlan.for_budget`.
        round_to: The same.
        exclude: The same.
        floor: The same.
        **evidence: The fields of `Evidence`.
    """
    learned = isinstance(allocation, str) and allocation == LEARNED
    looks_at = Evidence(**evidence)
    allocate = _allocation(allocation, looks_at)
    if learned:
        _check_is_counted(budget)
    plan_checks.check_round_to(round_to)
    _check_floor(floor)
    whole = SparsityPlan.whole(model, columns, exclude)
    costs: Any = whole.width_costs
    bounds = _bounds(model, budget, costs)
    graph = trace(model)

    def problem_of(round_to):
        levels = group_levels(graph, whole, round_to, floor)
        return AllocationProblem(model, whole, costs, bounds, levels, looks_at)

    if any(name not in NAMES for name in budget.bounds()):
        return measured.search(
            problem_of(int(round_to)),
            budget,
            lambda problem: solved(problem, allocate),
        )
    # What somebody else's allocation leaves unused, it may mean to.
    enough = 0.0 if callable(allocation) else ENOUGH
    plan, problem = _used_up(problem_of, int(round_to), allocate, enough)
    _warn_of_whole(plan, budget, costs)
    return plan.with_shared(problem.shared()) if learned else plan


def _warn_of_whole(plan, budget, costs):
    if plan.groups and all(g.keep == g.size for g in plan.groups):
        given = budget.bounds()
        dense = {n: x for n, x in costs.whole().items() if n in given}
        warnings.warn(
            "The plan removes nothing: the model is within the budget as it "
            f"is. Ask for less to prune it. Received: {given}, of a model of "
            f"{dense}",
            stacklevel=5,
        )


def _used_up(problem_of, round_to, allocate, enough):
    """The plan of widths as round as the budget lets them be.

    Args:
        problem_of: The `AllocationProblem` of a `round_to`.
        round_to: The one that is asked for.
        allocate: The allocation, a function.
        enough: What the bound that binds is to be used to.

    Returns:
        `(plan, problem)`.
    """
    while True:
        problem = problem_of(round_to)
        if round_to == 1 or problem.fits(problem.floors):
            plan = solved(problem, allocate)
            kept = [group.keep for group in plan.groups]
            is_whole = kept == list(problem.sizes)
            usage = problem.usage(kept).max()
            if round_to == 1 or is_whole or usage >= enough:
                return plan, problem
        round_to //= 2


def _check_is_counted(budget):
    """ADMM knows of widths, and not what a file or a device makes of them."""
    bad = {n: x for n, x in budget.bounds().items() if n not in NAMES}
    if bad:
        raise ValueError(
            f"ADMM can share out {[*NAMES]} while it trains, and nothing that "
            "has to be measured. Give one of these, such as "
            "`keras_prm.Budget(macs=0.5)`, or take another allocation. "
            f"Received: allocation='{LEARNED}' with {bad}"
        )


def solved(problem, allocate):
    """The plan of what an allocation decides, checked.

    Args:
        problem: The `AllocationProblem`.
        allocate: The allocation, a function.
    """
    _check_can_be_met(problem)
    kept = _checked(problem, allocate(problem), allocate)
    plan = problem.plan.with_kept(kept.tolist())
    stuck = problem.costs.stuck == 1
    notes = [
        "`strip` could not take its channels out"
        if is_stuck and group.size > 1
        else group.note
        for group, is_stuck in zip(plan.groups, stuck)
    ]
    return plan.with_notes(notes)


def _allocation(allocation, evidence):
    if callable(allocation):
        return allocation
    known = {**ALLOCATIONS, LEARNED: ALLOCATIONS["uniform"]}
    if not isinstance(allocation, str) or allocation not in known:
        raise ValueError(
            "There is no such allocation. Expected one of "
            f"{[*known]}, "
            "or a function from an `AllocationProblem` to the number of "
            f"channels that each group keeps. Received: "
            f"allocation={allocation!r}"
        )
    uses = USES.get(allocation, ())
    idle = [name for name in evidence.given() if name not in uses]
    if idle:
        raise ValueError(
            f"The allocation '{allocation}' does not look at {idle}. Leave "
            "them out, or choose another allocation. "
            f"Received: allocation={allocation!r} with {idle}"
        )
    return known[allocation]


def _check_floor(floor):
    share = validation.is_real(floor) and 0 < floor < 1
    if not share and not validation.is_count(floor):
        raise ValueError(
            "Expected `floor` to be what each group of filters keeps at "
            "least: a share in (0, 1), or a whole number. "
            f"Received: floor={floor!r}"
        )


def _bounds(model, budget, costs):
    """What each cost may be at most, a float array; infinite if not asked."""
    given = budget.bounds()
    _check_sizes(model, given, costs.macs_note)
    bounds = np.full(len(NAMES), np.inf)
    for i, name in enumerate(NAMES):
        if name in given:
            value = float(given[name])
            bounds[i] = value * costs.dense[i] if value <= 1 else value
    return bounds


def _check_sizes(model, given, note):
    """Raises where what is asked for depends on a size that is not known."""
    sizes = {x.name: tuple(x.shape) for x in model.inputs}
    is_free = any(None in shape[1:] for shape in sizes.values())
    names = [
        name
        for name in given
        if (name == "macs" and note)
        or (name in ("latency", "latency_ms") and is_free)
    ]
    if names:
        why = note or "the model takes inputs of any size"
        raise ValueError(
            f"What is bounded cannot be known, since {why}. Give "
            "`keras.Input` a shape without None, such as (224, 224, 3), and "
            "build the model for that size; or bound `parameters`. "
            f"Received: { ({name: given[name] for name in names}) } of a "
            f"model with inputs {sizes}"
        )


def _check_can_be_met(problem):
    """Raises if the budget is below what all floors together cost."""
    least = problem.costs.evaluate(problem.floors.astype(float))
    bad = {
        name: (least[i], problem.bounds[i], problem.costs.dense[i])
        for i, name in enumerate(NAMES)
        if least[i] > problem.bounds[i]
    }
    if bad:
        found = ", ".join(
            f"{name} of at most {bound:,.0f} ({bound / dense:.2%} of the dense "
            f"model), where the least that can be is {low:,.0f} "
            f"({low / dense:.2%})"
            for name, (low, bound, dense) in bad.items()
        )
        raise ValueError(
            f"The budget cannot be met: {found}. So much is left with every "
            "group of filters at its floor; the rest is pinned, excluded or "
            "not trainable, and `print(SparsityPlan.uniform(model, "
            "filters=0.5))` says why. Ask for more, lower `floor` or "
            "`round_to`, exclude less, or remove `columns` as well. "
            f"Received: a budget that {[*bad]} exceed"
        )


def _checked(problem, kept, allocate):
    """What an allocation returned, as an int array; raises if it is none."""
    name = getattr(allocate, "__name__", repr(allocate))
    found = np.asarray(kept)
    if found.shape != problem.sizes.shape or found.dtype.kind not in "iu":
        raise ValueError(
            f"The allocation '{name}' has to return whole numbers, one per "
            f"group: shape {problem.sizes.shape}. Received: shape "
            f"{found.shape} of {found.dtype}"
        )
    low, high = problem.floors, problem.sizes
    if (found < low).any() or (found > high).any():
        bad = [
            (group.name, int(number))
            for group, number, least in zip(problem.plan.groups, found, low)
            if not least <= number <= group.size
        ]
        raise ValueError(
            f"The allocation '{name}' has to keep numbers between the floors "
            f"and the sizes of the groups. Received: {bad}"
        )
    if not problem.fits(found):
        usage = dict(zip(NAMES, np.round(problem.usage(found), 4).tolist()))
        raise ValueError(
            f"The allocation '{name}' exceeds the budget. Expected numbers "
            "for which `problem.fits(kept)` is True. Received: shares of the "
            f"bounds {usage}"
        )
    return found
