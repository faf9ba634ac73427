"""A budget that groups of channels share while a model trains.

A plan says how many channels each group keeps. With a shared budget it says
only what all together may cost: at each projection every group keeps the
fewest channels that hold a share of its energy, the same share for all, and
the share is the largest that the budget allows. So no group can be emptied for
another, which one ranking of all channels does, and one whose energy lies in
few channels gives way to one that needs all it has.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from keras import ops

from keras_prm.plans.column_patterns import largest
from keras_prm.utils import backend

if TYPE_CHECKING:
    from typing import Any

    from keras_prm.analysis.width_costs import WidthCosts

_NUM_HALVINGS = 24
# So many groups, those that are nearest to it, may take a step more.
_MOST_STEPS = 64
# Costs are computed in float32.
_MARGIN = 1e-5


@dataclasses.dataclass(frozen=True, eq=False)
class SharedBudget:
    """What all groups of a plan may cost together, and in which widths.

    Args:
        bounds: dict from the number of a cost, as `WidthCosts` orders them,
            to the most that it may be.
        levels: tuple with, for each group, the numbers that it may keep, an
            ascending int array.
    """

    bounds: dict[int, float]
    levels: tuple[np.ndarray, ...]

    def pick(self, scores: Any, plan: Any, share: Any) -> Any:
        """The channels that stay, by what they are worth.

        Args:
            scores: float32 `(num_classes,)`, at least 0.
            plan: The `SparsityPlan`, with its `width_costs`.
            share: How much of what the budget takes away is in force, in
                [0, 1]; may be a tensor.

        Returns:
            0/1 float32 `(num_classes,)`.
        """
        parts = [scores[g.start : g.start + g.size] for g in plan.groups]
        before = [_held_by_better(part) for part in parts]
        sizes = [group.size for group in plan.groups]
        steps = _Steps(self.levels, sizes)
        limits = self._limits(plan.width_costs, share)

        def fits(numbers):
            found = plan.width_costs.evaluate(ops.cast(numbers, "float32"), ops)
            found = ops.take(found, np.array([*self.bounds], "int32"))
            return ops.all(found <= limits)

        def halved(_, ends):
            low, high = ends
            middle = (low + high) / 2
            is_within = fits(steps.down(_num_needed(before, middle)))
            return (
                ops.where(is_within, middle, low),
                ops.where(is_within, high, middle),
            )

        ends = (ops.zeros(()), ops.convert_to_tensor(1.0 + 2e-6))
        ends = backend.repeat(_NUM_HALVINGS, halved, ends, [scores])
        numbers = steps.down(_num_needed(before, ends[0]))
        numbers = _filled(numbers, before, steps, fits, scores)
        picked = [largest(p, numbers[i]) for i, p in enumerate(parts)]
        return ops.concatenate(picked)

    def _limits(self, costs: WidthCosts, share):
        dense = np.array([costs.dense[i] for i in self.bounds], "float32")
        bounds = np.array([*self.bounds.values()], "float32")
        share = ops.cast(share, "float32")
        # Rounding must not exceed the budget, nor take from a whole model.
        margin = _MARGIN * (1.0 - 2.0 * share)
        return (dense + share * (bounds - dense)) * (1.0 + margin)

    def at_share(self, share: float, costs: WidthCosts) -> SharedBudget:
        """The budget that takes a share of what this one takes away."""
        bounds = {
            i: float((1 - share) * costs.dense[i] + share * bound)
            for i, bound in self.bounds.items()
        }
        return dataclasses.replace(self, bounds=bounds)

    def to_config(self) -> dict[str, Any]:
        """It as lists and numbers, for JSON."""
        bounds = [[int(i), float(bound)] for i, bound in self.bounds.items()]
        levels = [levels.tolist() for levels in self.levels]
        return {"bounds": bounds, "levels": levels}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> SharedBudget:
        """What `to_config` told."""
        levels = tuple(np.array(numbers, int) for numbers in config["levels"])
        return cls({i: bound for i, bound in config["bounds"]}, levels)


def _held_by_better(scores):
    """For each rank, the share of all that the better ones hold."""
    ranked = -ops.sort(-scores)
    total = ops.sum(ranked)
    shares = ranked / ops.where(total > 0, total, 1.0)
    return ops.cumsum(shares) - shares


def _num_needed(before, held):
    """The fewest channels of each group that hold a share, `(groups,)`."""
    return ops.stack([ops.sum(ops.cast(b < held, "int32")) for b in before])


def _filled(numbers, before, steps, fits, scores):
    """Spends what is left, one step up for each group where it still fits.

    Those go first whose next channel would have been next. A large step of
    one group must not keep what is left from all the others.
    """
    nexts = [
        ops.take(ops.append(b, 2.0), numbers[i]) for i, b in enumerate(before)
    ]
    order = ops.argsort(ops.stack(nexts))
    places = ops.arange(len(before))

    def raised(i, numbers):
        is_next = ops.equal(places, order[i])
        larger = ops.where(is_next, steps.up(numbers), numbers)
        return ops.where(fits(larger), larger, numbers)

    num = min(len(before), _MOST_STEPS)
    return backend.repeat(num, raised, numbers, [scores])


class _Steps:
    """From numbers of channels to those that a group may keep.

    Args:
        levels: As of `SharedBudget`.
        sizes: list with the number of channels of each group.
    """

    def __init__(self, levels, sizes):
        down, up = [], []
        for own, size in zip(levels, sizes, strict=True):
            numbers = np.arange(size + 1)
            places = np.searchsorted(own, numbers, side="right")
            down.append(own[np.maximum(places - 1, 0)])
            up.append(own[np.minimum(places, len(own) - 1)])
        starts = np.cumsum([0] + [size + 1 for size in sizes[:-1]])
        self._starts = starts.astype("int32")
        self._down = np.concatenate(down).astype("int32")
        self._up = np.concatenate(up).astype("int32")

    def down(self, numbers):
        """The level at or below each number, int32 `(groups,)`."""
        return ops.take(self._down, numbers + self._starts)

    def up(self, numbers):
        """The level above each number, int32 `(groups,)`."""
        return ops.take(self._up, numbers + self._starts)
