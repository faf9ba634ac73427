"""Allocations: who keeps how much within a budget.

An allocation is a function from an `AllocationProblem` to the number of
classes that each group keeps, an int array. It has to stay within the bounds
(`problem.fits`), at or above the floors, and should come from `problem.levels`.
"""

from __future__ import annotations

import numpy as np

# A plan that uses so much of the bound that binds has used it up.
ENOUGH = 0.97


# Where between two levels `uniform` tries to round up.
_WAYS = (0.0, 0.25, 0.5, 0.75, 1.0)


def uniform(problem):
    """The same share of every group, as far as round widths allow.

    The largest share that fits is found by bisection, in several ways of
    rounding. Rounding leaves some of the budget, which goes to the groups
    that keep the smallest shares, one step each. Of the ways that use at
    least 97 % of the bound that binds, the one counts whose shares differ
    least; if none does, the one that uses most, and groups then rise by more
    than a step.
    """
    if problem.fits(problem.sizes):
        return problem.sizes
    found = [filled(problem, _largest(problem, up)) for up in _WAYS]
    good = [kept for kept in found if problem.usage(kept).max() >= ENOUGH]
    if good:
        return min(good, key=lambda kept: _spread(problem, kept))
    best = max(found, key=lambda kept: problem.usage(kept).max())
    return filled(problem, best, limit=None)


def _largest(problem, up):
    """The numbers of the largest common share that fits; or the floors."""
    kept, low, high = problem.floors, 0.0, 1.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        found = problem.rounded(middle * problem.sizes, up)
        if problem.fits(found):
            kept, low = found, middle
        else:
            high = middle
    return kept


def _spread(problem, kept):
    """How far the shares are apart, as a ratio."""
    shares = kept / problem.sizes
    free = problem.floors < problem.sizes
    return shares[free].max() / shares[free].min() if free.any() else 1.0


def filled(problem, kept, limit: int | None = 1):
    """Numbers to keep, raised where the budget allows more.

    The group of the lowest share rises first.

    Args:
        problem: The `AllocationProblem`.
        kept: int array that fits.
        limit: How many levels each may rise; `None` for as many as it takes
            until the budget is used up.
    """
    kept, steps = kept.copy(), np.zeros(len(kept), int)
    can = np.ones(len(kept), bool)
    while can.any():
        group = int(np.where(can, kept / problem.sizes, np.inf).argmin())
        before, number = kept[group], problem.next_level(group, kept[group])
        if number is None or steps[group] == limit:
            can[group] = False
            continue
        kept[group] = number
        steps[group] += 1
        if not problem.fits(kept):
            kept[group] = before
            can[group] = False  # costs only grow: it will not fit later
        elif limit is None and problem.usage(kept).max() >= ENOUGH:
            break
    return kept


ALLOCATIONS = {"uniform": uniform}

# What each looks at, of the fields of `Evidence`.
USES = {"uniform": ()}
