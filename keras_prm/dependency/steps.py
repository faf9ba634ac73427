"""The steps a trace consists of, and how channels act on each other in them.

Every step answers the two questions that liveness asks. `forward`: which
positions of its targets are constant, given which of its sources are.
`backward`: which positions of its sources are used, given which of its
targets are. Both speak to a `Liveness`, here called `live`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Flow:
    """Positions of one axis that go, one by one, into those of another.

    Position `targets[k]` of the target is `combine` of position
    `sources[i][2][k]` of source `i`, whatever the other positions hold.

    Args:
        sources: tuple of `(value, axis, positions)`.
        target: `(value, axis, positions)`.
        combine: Maps one float array of constants per source to the constant
            that results; NaN stands for "not constant".
        gate: bool array, False where the result does not depend on the
            sources at all; `None` stands for all True.
    """

    sources: tuple
    target: tuple
    combine: Callable[..., np.ndarray]
    gate: np.ndarray | None = None

    def forward(self, live):
        value, axis, positions = self.target
        parts = [live.constant(v, a)[at] for v, a, at in self.sources]
        image = self.combine(*parts)
        result = live.constants.setdefault(
            (value.number, axis), np.full(value.shape[axis], np.nan)
        )
        result[positions] = image
        differs = result[positions] != image
        result[positions[differs]] = np.nan

    def backward(self, live):
        value, axis, positions = self.target
        wanted = live.used(value, axis)[positions]
        if self.gate is not None:
            wanted = wanted & self.gate
        for value, axis, positions in self.sources:
            live.used(value, axis)[positions[wanted]] = True


@dataclasses.dataclass(frozen=True, eq=False)
class Affine:
    """A scale and a shift of their own for each position of an axis.

    Args:
        source: `(value, axis)`.
        target: `(value, axis)`.
        terms: Maps a function that reads variables to `(scale, shift)`,
            float arrays. Read late: purification zeroes gamma and beta.
    """

    source: tuple
    target: tuple
    terms: Callable

    def forward(self, live):
        scale, shift = self.terms(live.array)
        inputs = live.constant(*self.source)
        found = np.where(scale == 0, shift, scale * inputs + shift)
        value, axis = self.target
        live.constants[value.number, axis] = found

    def backward(self, live):
        scale, _ = self.terms(live.array)
        live.used(*self.source)[live.used(*self.target) & (scale != 0)] = True


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """A normalisation of which every position reads all of its group.

    Args:
        source: `(value, axis)`.
        target: `(value, axis)`.
        groups: How many blocks of equal size the axis consists of.
        combine: Maps the constants of the source to those of the target.
    """

    source: tuple
    target: tuple
    groups: int
    combine: Callable[[np.ndarray], np.ndarray]

    def forward(self, live):
        value, axis = self.target
        found = self.combine(live.constant(*self.source))
        live.constants[value.number, axis] = found

    def backward(self, live):
        wanted = live.used(*self.target).reshape(self.groups, -1)
        reads = np.repeat(wanted.any(axis=1), wanted.shape[1])
        live.used(*self.source)[reads] = True


@dataclasses.dataclass(frozen=True, eq=False)
class Sum:
    """The sum over an axis: every position is used that is not zero.

    Args:
        source: `(value, axis)` that is summed over.
    """

    source: tuple

    def forward(self, live):
        """The axis ends here."""

    def backward(self, live):
        zero = live.constant(*self.source) == 0
        live.used(*self.source)[~(live.gone(*self.source) & zero)] = True
