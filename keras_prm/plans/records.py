"""Records of plans and masks, and the conventions of the package.

Conventions, used everywhere in the package:

* `sparsity` is the fraction REMOVED, in [0, 1); `keep` is True where kept.
* A kernel is laid out `(..., in, out)`. A *filter* is one position on its
  last axis; a *column* is one position on all other axes (one row of the
  im2col matrix product); a *channel* is all columns that read one input.
  Where Keras lays a kernel out otherwise (transposed convolutions,
  attention), `axes` names the two axes, and
  `kernel_layout.to_matrix` moves them.
* A *channel class* is a set of positions, on axes of any number of tensors
  and weights, that can only be removed together.
* A *key* names a variable by its place in the layer hierarchy
  (`"backbone/conv1/kernel"`). Unlike `variable.path` it does not change when
  a model is saved and loaded.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from keras_prm.utils import kernel_layout


@dataclasses.dataclass(frozen=True)
class ChannelGroup:
    """Channel classes that compete with each other for being kept.

    Args:
        name: The layers whose filters the group holds, joined by `+`.
        start: Number of the group's first class. The classes of a group are
            `start, ..., start + size - 1`.
        size: How many classes there are.
        keep: How many of them are kept, at least 1.
        note: Why the group is left alone where `keep == size`, else `""`.
    """

    name: str
    start: int
    size: int
    keep: int
    note: str = ""


@dataclasses.dataclass(frozen=True)
class KernelPlan:
    """What a plan asks of one kernel.

    Args:
        key: The kernel's key.
        index: Its position in `model.trainable_variables`.
        shape: Its shape.
        in_classes: The channel class of each position on the input axis;
            -1 where the position belongs to no planned class.
        out_classes: The same for the output axis.
        columns: Fraction of the columns to remove, of those that remain once
            the columns of removed input channels are gone. 0.0 keeps all.
        axes: Its axes `(in, out)`, counted from the end.
        column_pattern: Where the columns that stay may lie, one of
            `column_patterns.PATTERNS`.
        note: Why that is not the pattern that was asked for, else `""`.
    """

    key: str
    index: int
    shape: tuple[int, ...]
    in_classes: tuple[int, ...]
    out_classes: tuple[int, ...]
    columns: float = 0.0
    axes: tuple[int, int] = (-2, -1)
    column_pattern: str = "free"
    note: str = ""

    @property
    def matrix_shape(self) -> tuple[int, ...]:
        """Its shape laid out `(..., in, out)`."""
        order = kernel_layout.order(len(self.shape), self.axes)
        return tuple(self.shape[i] for i in order)


@dataclasses.dataclass(frozen=True, eq=False)
class KernelMask:
    """Which filters and columns of one kernel are kept.

    The kernel's own mask is their product,
    `columns[..., None] & filters`, and is never stored.

    Args:
        filters: bool array, `(out,)`.
        columns: bool array `(..., in)`, the other axes in order.
        axes: The kernel's axes `(in, out)`, counted from the end.
    """

    filters: np.ndarray
    columns: np.ndarray
    axes: tuple[int, int] = (-2, -1)

    def factors(self) -> tuple[np.ndarray, np.ndarray]:
        """Two masks that broadcast against the kernel as it is stored."""
        columns = self.columns[..., None]
        filters = self.filters.reshape((1,) * (columns.ndim - 1) + (-1,))
        return (
            kernel_layout.from_matrix(columns, self.axes),
            kernel_layout.from_matrix(filters, self.axes),
        )

    def full(self) -> np.ndarray:
        """The mask in the kernel's shape, bool."""
        columns, filters = self.factors()
        return columns & filters
