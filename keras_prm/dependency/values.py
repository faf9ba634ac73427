"""Tensors and weights of a graph of channels, their axes named by ids."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from typing import Any


@dataclasses.dataclass(eq=False)
class Value:
    """One tensor of a traced model.

    Args:
        number: Its position in `DependencyGraph.values`.
        shape: Its static shape, batch axis included; `None` where unknown.
        ids: Per axis, an int array with the channel id of every position, or
            `None` for an axis whose positions nobody tracks.
        origin: The layer that made it, for messages.
    """

    number: int
    shape: tuple[int | None, ...]
    ids: list[np.ndarray | None]
    origin: str

    def shape_of(self, keep, shape=None):
        """Its shape with those positions that `keep(ids)` keeps.

        Args:
            keep: Maps an array of ids to a bool array.
            shape: Its shape, where more is known of it in one place.
        """
        return tuple(
            n if ids is None else int(keep(ids).sum())
            for n, ids in zip(shape or self.shape, self.ids)
        )


ROLES = ("kernel", "vector", "statistic")


@dataclasses.dataclass(eq=False)
class Weight:
    """A variable whose axes are named by channel ids.

    Args:
        variable: The `keras.Variable`.
        key: Its key.
        ids: Per axis, an int array of ids, or `None` for a fixed axis.
        role: `"kernel"`, `"vector"` (falls with its channel: bias, gamma,
            beta) or `"statistic"` (is cut, never zeroed).
        axes: The kernel's axes `(in, out)`, counted from the end.
        prunes_columns: Whether a plan may prune the kernel's columns.
    """

    variable: Any
    key: str
    ids: list[np.ndarray | None]
    role: str
    axes: tuple[int, int] = (-2, -1)
    prunes_columns: bool = True

    def touched(self, ids):
        """Entries on a marked id along any axis, bool, of its shape.

        Args:
            ids: bool array, one entry per id.
        """
        shape = tuple(self.variable.shape)
        found = np.zeros(shape, bool)
        for axis, names in enumerate(self.ids):
            if names is not None:
                place = [1] * len(shape)
                place[axis] = -1
                found |= ids[names].reshape(place)
        return found

    @property
    def in_ids(self):
        """The ids of the inputs of a kernel, or `None`."""
        return self.ids[self.axes[0]]

    @property
    def out_ids(self):
        """The ids of the filters of a kernel, or `None`."""
        return self.ids[self.axes[1]]
