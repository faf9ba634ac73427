"""`AllocationProblem`: what an allocation decides, and what binds it."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from keras_prm.plans import plan_builder
from keras_prm.plans.plan_fit import class_numbers
from keras_prm.plans.shared_budget import SharedBudget

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    import keras

    from keras_prm.analysis.width_costs import WidthCosts
    from keras_prm.plans.plan import SparsityPlan

# As few widths as a group may have to choose from, if it has so many.
_LEAST_LEVELS = 4


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What an allocation may look at beside the widths, all of it optional.

    Args:
        score: A score of structures, see `keras_prm.scores`.
        data: Batches of training data.
        loss: The loss that is trained.
        evaluate: `evaluate(model)`, a number, the higher the better.
    """

    score: Callable[..., Any] | None = None
    data: Any = None
    loss: Any = None
    evaluate: Callable[..., Any] | None = None

    def given(self) -> list[str]:
        """The names of what there is."""
        return [
            field.name
            for field in dataclasses.fields(self)
            if getattr(self, field.name) is not None
        ]


@dataclasses.dataclass(frozen=True, eq=False)
class AllocationProblem:
    """How many classes each group keeps is to be decided.

    Args:
        model: The model; it is only read.
        plan: A `SparsityPlan` whose groups are meant, kept whole.
        costs: Its `WidthCosts`.
        bounds: float array, what each of `width_costs.NAMES` may be at most;
            infinite where nothing is asked.
        levels: tuple with, for each group, the numbers that it may keep, an
            ascending int array: round widths, from the floor to the size.
        evidence: `Evidence`.
    """

    model: keras.Model
    plan: SparsityPlan
    costs: WidthCosts
    bounds: np.ndarray
    levels: tuple[np.ndarray, ...]
    evidence: Evidence

    @property
    def sizes(self) -> np.ndarray:
        """How many classes each group has, an int array."""
        return self.costs.sizes

    @property
    def floors(self) -> np.ndarray:
        """How many each group keeps at least, an int array."""
        return np.array([levels[0] for levels in self.levels], int)

    def usage(self, kept: Any) -> np.ndarray:
        """The costs of numbers to keep, in proportion to the bounds."""
        costs = self.costs.evaluate(np.asarray(kept, float))
        nothing = np.zeros_like(costs)  # of a cost that there is not
        return np.divide(costs, self.bounds, out=nothing, where=costs > 0)

    def fits(self, kept: Any) -> bool:
        """Whether no bound is exceeded."""
        return bool((self.usage(kept) <= 1 + 1e-12).all())

    def rounded(self, kept: Any, up: float = 0.0) -> np.ndarray:
        """Levels beside the numbers of `kept`, never below the floors.

        Args:
            kept: Numbers, one per group, that need not be whole.
            up: Which part of the way between two levels is rounded up: 0
                rounds down, 0.5 to the nearer one, 1 up.
        """
        found = np.empty(len(self.levels), int)
        for group, levels in enumerate(self.levels):
            place = np.searchsorted(levels, kept[group] + 1e-9, "right") - 1
            low = levels[max(place, 0)]
            high = levels[min(max(place + 1, 0), len(levels) - 1)]
            goes_up = kept[group] > low + (1 - up) * (high - low) + 1e-9
            found[group] = high if goes_up else low
        return found

    def shared(self) -> SharedBudget | None:
        """The bounds and levels, for what chooses among channels itself.

        `None` where the model is within the bounds as it is.
        """
        bounds = {
            i: float(bound)
            for i, bound in enumerate(self.bounds)
            if bound < self.costs.dense[i]
        }
        return SharedBudget(bounds, self.levels) if bounds else None

    def next_level(self, group: int, number: int) -> int | None:
        """The next level of a group above a number; `None` at the top."""
        levels = self.levels[group]
        place = int(np.searchsorted(levels, number, "right"))
        return int(levels[place]) if place < len(levels) else None


def group_levels(graph, plan, round_to, floor):
    """The numbers that each group may keep, an ascending int array each.

    Widths of layers are multiples of `round_to`. Where that would leave a
    group fewer than four numbers to choose from, it is halved, and halved
    again, down to 1: a layer of 16 filters is pruned in steps of 4. All of
    a group can always stay, and has to where `strip` could not take it out.

    Args:
        graph: The `DependencyGraph` of the model.
        plan: The plan.
        round_to: int.
        floor: A share below 1, or a number of classes.
    """
    numbers, found = class_numbers(graph, plan), []
    for group, stuck in zip(plan.groups, plan.width_costs.stuck, strict=True):
        least = floor if floor >= 1 else math.ceil(floor * group.size - 1e-9)
        least = min(max(1, int(least)), group.size)
        if stuck == 1:
            least = group.size
        own = (numbers >= group.start) & (numbers < group.start + group.size)
        others = (numbers >= 0) & ~own
        round_numbers = _round_numbers(graph, own, others, round_to)
        found.append(round_numbers[np.searchsorted(round_numbers, least) :])
    return tuple(found)


def _round_numbers(graph, own, others, round_to):
    """The numbers of a group's classes for which its part of widths is round.

    Args:
        graph: The `DependencyGraph`.
        own: bool array, the classes of the graph that are in the group.
        others: The same of all other groups.
        round_to: int.
    """
    kernels = [
        weight
        for weight in graph.weights.values()
        if weight.role == "kernel"
        and weight.out_ids is not None
        and own[graph.classes[weight.out_ids]].any()
    ]
    classes = [graph.classes[weight.out_ids] for weight in kernels]
    classes = np.unique(np.concatenate(classes))
    free, gone = np.flatnonzero(own), classes[others[classes]]
    widths = plan_builder.widths(graph, kernels, free, gone)
    while True:
        numbers = np.arange(1, len(free) + 1)
        is_round = numbers % round_to == 0
        if widths is not None:
            sums = [start + each * numbers for start, each in widths]
            is_round = (np.array(sums) % round_to == 0).all(axis=0)
        is_round[-1] = True
        if round_to == 1 or is_round.sum() >= _LEAST_LEVELS:
            return numbers[is_round]
        round_to //= 2
