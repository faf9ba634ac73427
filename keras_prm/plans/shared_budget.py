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

if TYPE_CHECKING:
    from typing import Any

    from keras_prm.analysis.width_costs import WidthCosts

_NUM_HALVINGS = 24
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
        before = ops.concatenate([_held_by_better(part) for part in parts])
        owners = np.repeat(np.arange(len(parts)), [g.size for g in plan.groups])
        owners = ops.convert_to_tensor(owners.astype("int32"))
        costs = plan.width_costs
        limits = self._limits(costs, share)
        tables, offsets = self._tables([g.size for g in plan.groups])

        def kept(held):
            needed = ops.cast(before < held, "int32")
            needed = ops.segment_sum(needed, owners, num_segments=len(parts))
            return ops.take(tables, needed + offsets)

        def halved(_, ends):
            low, high = ends
            middle = (low + high) / 2
            found = costs.evaluate(ops.cast(kept(middle), "float32"), ops)
            found = ops.take(found, np.array([*self.bounds], "int32"))
            fits = ops.all(found <= limits)
            return (
                ops.where(fits, middle, low),
                ops.where(fits, high, middle),
            )

        ends = (ops.zeros(()), ops.convert_to_tensor(1.0 + 2e-6))
        held, _ = ops.fori_loop(0, _NUM_HALVINGS, halved, ends)
        numbers = kept(held)
        picked = [largest(p, numbers[i]) for i, p in enumerate(parts)]
        return ops.concatenate(picked)

    def _limits(self, costs: WidthCosts, share):
        dense = np.array([costs.dense[i] for i in self.bounds], "float32")
        bounds = np.array([*self.bounds.values()], "float32")
        share = ops.cast(share, "float32")
        # Rounding must not exceed the budget, nor take from a whole model.
        margin = _MARGIN * (1.0 - 2.0 * share)
        return (dense + share * (bounds - dense)) * (1.0 + margin)

    def _tables(self, sizes):
        """The level at or below each number, and where each group's begin."""
        tables = []
        for levels, size in zip(self.levels, sizes, strict=True):
            place = np.searchsorted(levels, np.arange(size + 1), side="right")
            tables.append(levels[np.maximum(place - 1, 0)])
        offsets = np.cumsum([0] + [size + 1 for size in sizes[:-1]])
        return (
            ops.convert_to_tensor(np.concatenate(tables).astype("int32")),
            ops.convert_to_tensor(offsets.astype("int32")),
        )

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
