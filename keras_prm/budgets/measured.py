"""Budgets of bytes and latency: a model of the costs, then measurements.

What a file costs is predicted from what `WidthCosts` counts: bytes from
parameters, latency from MACs (from parameters where MACs are unknown). The
prediction, a share of the dense model's, becomes one more analytic bound, an
allocation is made for it, its small model is exported and measured, and what
was measured corrects the prediction: linear between the nearest measured
points on both sides of the bound. So a few candidates do.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from typing import TYPE_CHECKING

import numpy as np

from keras_prm.analysis.width_costs import NAMES
from keras_prm.budgets.candidates import Candidates

if TYPE_CHECKING:
    from typing import Any

    from keras_prm.budgets.candidates import Measured

MOST_CANDIDATES, MOST_ROUNDS = 12, 24
MOST_SECONDS = 100.0

# How much of a bound is to be used: latency is noisy, and steps in widths.
_ENOUGH = {"file_bytes": 0.97, "latency": 0.95}

_BYTES_PER_WEIGHT = {"float16": 2, "dynamic_range": 1, "int8": 1}


@dataclasses.dataclass(eq=False)
class Dial:
    """The prediction of one measured cost, as a share of the dense model's.

    Args:
        name: `"file_bytes"` or `"latency"`.
        bound: The share that it may be at most.
        cost: The number of what it is predicted from, in `NAMES`.
        low: `(analytic share, measured share)` of the largest candidate that
            is within the bound; at first a prediction for a model of nothing.
        high: The same of the smallest that is not; at first the dense model.
    """

    name: str
    bound: float
    cost: int
    low: tuple[float, float]
    high: tuple[float, float] = (1.0, 1.0)

    @property
    def enough(self) -> float:
        """The share from which on the bound is used."""
        return self.bound * _ENOUGH[self.name]

    def predicted(self) -> float:
        """The analytic share at which the measured one is to be expected."""
        if self.bound >= 1:
            return 1.0
        goal = self.bound - 0.4 * (self.bound - self.enough)
        (x, y), (x_high, y_high) = self.low, self.high
        part = (goal - y) / max(y_high - y, 1e-9)
        return x + min(max(part, 0.02), 0.98) * (x_high - x)

    def learn(self, analytic: float, measured: float) -> None:
        """Takes note of a candidate."""
        if measured <= self.bound:
            if analytic >= self.low[0]:
                self.low = analytic, measured
        elif analytic <= self.high[0]:
            self.high = analytic, measured
            if self.low[0] >= analytic or self.low[1] >= self.bound:
                self.low = 0.0, 0.0  # what was predicted was too bold


def search(problem, budget, solve):
    """The plan that meets a budget with bounds on what is measured.

    Args:
        problem: The `AllocationProblem`, with the analytic bounds.
        budget: The `Budget`.
        solve: `solve(problem)` returns the plan of an allocation.

    Returns:
        A `SparsityPlan` that says what was measured of it.

    Raises:
        ImportError: Latency is asked for, and LiteRT is not installed.
        ValueError: The budget cannot be met.
    """
    is_timed = bool({"latency", "latency_ms"} & {*budget.bounds()})
    with tempfile.TemporaryDirectory() as folder:
        candidates = Candidates(
            problem.model, folder, budget.quantize, is_timed
        )
        dials = _dials(problem, budget, candidates.dense)
        found = _Search(problem, budget, candidates, dials, solve).run()
        return found.with_measured(
            _record(budget, candidates.dense, candidates.measure(found))
        )


def _record(budget, dense, small):
    """What was measured, as plain values."""
    found = {
        "quantize": budget.quantize or "float32",
        "file_bytes": [dense.file_bytes, small.file_bytes],
    }
    if dense.latency_ms is not None:
        whole = small.latency_ms / small.latency  # timed in turn with it
        found["latency_ms"] = [whole, small.latency_ms]
        found["latency"] = small.latency
    return found


def _dials(problem, budget, dense):
    given, costs, dials = budget.bounds(), problem.costs, []
    if "file_bytes" in given:
        bound = given["file_bytes"]
        bound = bound if bound <= 1 else bound / dense.file_bytes
        each = _BYTES_PER_WEIGHT.get(budget.quantize or "", 4)
        rest = 1 - each * float(costs.dense[0]) / dense.file_bytes
        start = (0.0, min(max(rest, 0.0), 0.9 * bound))
        dials.append(Dial("file_bytes", bound, 0, start))
    bound = given.get("latency")
    if "latency_ms" in given:
        bound = given["latency_ms"] / dense.latency_ms
    if bound is not None:
        cost = 0 if costs.macs_note else NAMES.index("macs")
        dials.append(Dial("latency", min(bound, 1.0), cost, (0.0, 0.0)))
    return dials


class _Search:
    """One search; see `search`."""

    def __init__(self, problem, budget, candidates, dials, solve):
        self._problem = problem
        self._budget = budget
        self._candidates = candidates
        self._dials = dials
        self._solve = solve
        self._best: Any = None
        self._seen = set()

    def run(self):
        """Tries candidates until one is within all bounds, and close."""
        start, longest = time.perf_counter(), 0.0
        for _ in range(MOST_ROUNDS):
            began = time.perf_counter()
            if self._candidates.num_made == MOST_CANDIDATES or (
                self._best and began - start + longest > MOST_SECONDS
            ):
                break
            asked = [dial.predicted() for dial in self._dials]
            plan = self._solve(self._bounded(asked))
            # No allocation lies between: widen the best one, group by group.
            if self._is_seen(plan) and self._best:
                plan = self._widened() or plan
            if self._try(plan, asked):
                break
            longest = max(longest, time.perf_counter() - began)
        best: Any = self._best or self._of_floors()
        return best[1]

    def _bounded(self, asked):
        """The problem with the analytic shares that are asked for as bounds."""
        bounds, costs = self._problem.bounds.copy(), self._problem.costs
        floors = costs.evaluate(self._problem.floors.astype(float))
        for dial, share in zip(self._dials, asked, strict=True):
            value = share * costs.dense[dial.cost]
            least = floors[dial.cost]
            bounds[dial.cost] = min(bounds[dial.cost], max(value, least))
        return dataclasses.replace(self._problem, bounds=bounds)

    def _try(self, plan, asked):
        """Measures a candidate; returns whether it will do.

        One that is known is what comes of all that was asked for up to now.
        """
        costs, kept = self._problem.costs, [g.keep for g in plan.groups]
        is_known = self._is_seen(plan)
        self._seen.add(tuple(kept))
        found = self._measured(plan, is_known)
        analytic = costs.evaluate(kept) / np.maximum(costs.dense, 1)
        for dial, share in zip(self._dials, asked, strict=True):
            reached = share if is_known else float(analytic[dial.cost])
            dial.learn(reached, found[dial.name])
        if any(found[dial.name] > dial.bound for dial in self._dials):
            return False
        size = float(analytic.sum())
        if self._best is None or size > self._best[0]:
            self._best = size, plan
        usage = float(self._problem.usage(kept).max())
        return usage >= 0.97 or any(
            found[dial.name] >= dial.enough for dial in self._dials
        )

    def _is_seen(self, plan):
        return tuple(group.keep for group in plan.groups) in self._seen

    def _widened(self):
        """The best plan with one group a step wider, that was not tried yet.

        The group of the lowest share is first. `None` where all were.
        """
        best = self._best[1]
        kept = np.array([group.keep for group in best.groups])
        for group in np.argsort(kept / self._problem.sizes, kind="stable"):
            number = self._problem.next_level(group, kept[group])
            wider = kept.copy()
            wider[group] = number or kept[group]
            plan = best.with_kept(wider.tolist())
            if number and self._problem.fits(wider) and not self._is_seen(plan):
                return plan
        return None

    def _measured(self, plan, is_known):
        """Shares by name; what seems to be within is timed once more."""
        found = self._shares(self._candidates.measure(plan))
        is_within = all(found[dial.name] <= dial.bound for dial in self._dials)
        if is_within and not is_known:
            found = self._shares(self._candidates.measure(plan, again=True))
        return found

    def _shares(self, measured: Measured):
        dense = self._candidates.dense
        return {
            "file_bytes": measured.file_bytes / dense.file_bytes,
            "latency": measured.latency,
        }

    def _of_floors(self):
        """Takes the plan of all floors, or raises: it is the least."""
        floors = self._problem.floors
        plan = self._solve(
            dataclasses.replace(
                self._problem,
                bounds=self._problem.costs.evaluate(floors.astype(float)),
            )
        )
        if self._problem.fits(floors):
            self._try(plan, [0.0] * len(self._dials))
        if self._best is None:
            self._refuse(self._shares(self._candidates.measure(plan)))
        return self._best

    def _refuse(self, least):
        dense = self._candidates.dense
        over = [
            f"{dial.name} of {least[dial.name]:.2%} of the dense model is the "
            f"least that was measured, and at most {dial.bound:.2%} asked for"
            for dial in self._dials
            if least[dial.name] > dial.bound
        ]
        whole = f"{dense.file_bytes:,} bytes"
        if dense.latency_ms is not None:
            whole += f" and {dense.latency_ms:.3g} ms"
        quantizing = "" if self._budget.quantize else ", or quantize the file"
        raise ValueError(
            f"The budget cannot be met: {'; '.join(over) or 'none is within'}."
            " So much is left with every group of filters at its floor. Ask "
            f"for more, lower `floor` or `round_to`, exclude less{quantizing}. "
            f"Received: {self._budget.bounds()}, of a dense model of {whole}"
        )
