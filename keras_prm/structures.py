"""The plain records that the other modules exchange.

Conventions, used everywhere in the package:

* `sparsity` is the fraction REMOVED, in [0, 1); `keep` is True where kept.
* A kernel is laid out `(..., in, out)`. A *filter* is one position on its
  last axis; a *column* is one position on all other axes (one row of the
  im2col matrix product); a *channel* is all columns that read one input.
  Where Keras lays a kernel out otherwise (transposed convolutions,
  attention), `axes` names the two axes, and `layouts.to_matrix` moves them.
* A *channel class* is a set of positions, on axes of any number of tensors
  and weights, that can only be removed together.
* A *key* names a variable by its place in the layer hierarchy
  (`"backbone/conv1/kernel"`). Unlike `variable.path` it does not change when
  a model is saved and loaded.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from keras_prm import layouts


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
    """

    key: str
    index: int
    shape: tuple[int, ...]
    in_classes: tuple[int, ...]
    out_classes: tuple[int, ...]
    columns: float = 0.0
    axes: tuple[int, int] = (-2, -1)
    column_pattern: str = "free"

    @property
    def matrix_shape(self) -> tuple[int, ...]:
        """Its shape laid out `(..., in, out)`."""
        order = layouts.order(len(self.shape), self.axes)
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
            layouts.from_matrix(columns, self.axes),
            layouts.from_matrix(filters, self.axes),
        )

    def full(self) -> np.ndarray:
        """The mask in the kernel's shape, bool."""
        columns, filters = self.factors()
        return columns & filters


@dataclasses.dataclass(eq=False)
class Value:
    """One tensor of a traced model.

    Args:
        number: Its position in `Trace.values`.
        shape: Its static shape, batch axis included; `None` where unknown.
        ids: Per axis, an int array with the channel id of every position, or
            `None` for an axis whose positions nobody tracks.
        origin: The layer that made it, for messages.
    """

    number: int
    shape: tuple[int | None, ...]
    ids: list[np.ndarray | None]
    origin: str


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

    variable: object
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


@dataclasses.dataclass(frozen=True)
class StripRow:
    """What `strip` made of one kernel.

    Args:
        key: The kernel's key.
        before: Its shape in the model.
        after: Its shape in the stripped model; `None` where it is gone.
        zeros_before: How many zeros were stored.
        zeros_after: How many zeros still are.
        note: Which empty filters had to stay, and why, or which went though
            their channels stay; `""` if there are none.
        axes: The kernel's axes `(in, out)`, counted from the end.
    """

    key: str
    before: tuple[int, ...]
    after: tuple[int, ...] | None
    zeros_before: int
    zeros_after: int
    note: str = ""
    axes: tuple[int, int] = (-2, -1)


@dataclasses.dataclass(frozen=True)
class StripReport:
    """What `strip` did, and what it left alone.

    Args:
        rows: One `StripRow` per kernel.
        skipped: `(path, reason)` per layer whose channels had to stay.
        weights_before: Stored weights of the model, trainable or not.
        weights_after: The same for the stripped model.
        channels: `(layers, before, after, reason)` per group of channels:
            the layers that make them, their number, and why they have to
            stay, `""` if they need not.
        kept: Which positions of each weight stay: dict from its key to a
            tuple with, per axis, the positions in the old weight, or `None`
            where all of them stay. A weight that is gone has no entry.
    """

    rows: tuple[StripRow, ...]
    skipped: tuple[tuple[str, str], ...]
    weights_before: int
    weights_after: int
    channels: tuple[tuple[str, int, int, str], ...] = ()
    kept: dict[str, tuple] = dataclasses.field(default_factory=dict)

    @property
    def kept_channels(self) -> dict[str, tuple[int, ...]]:
        """Which of the channels each layer puts out stay, by layer path.

        Layers that keep all of them are left out. `json.dumps` takes it.
        """
        found = {}
        for row in self.rows:
            positions = self.kept.get(row.key, (None,))[row.axes[1]]
            if positions is not None:
                found[row.key.rpartition("/")[0]] = positions
        return found

    def __str__(self):
        lines = [f"{'kernel before':>20}  {'after':>20}  zeros stored  key"]
        for row in self.rows:
            after = "gone" if row.after is None else _times(row.after)
            lines.append(
                f"{_times(row.before):>20}  {after:>20}  "
                f"{row.zeros_after:12,}  {row.key}"
            )
            if row.note:
                lines.append(f"{'':>20}  {row.note}")
        lines.append("channels kept      of  layers")
        lines += [
            f"{after:13}  {before:6}  {layers}" + (f": {why}" if why else "")
            for layers, before, after, why in self.channels
        ]
        lines += [f"left alone: {a}: {b}" for a, b in self.skipped]
        lines.append(
            f"stored weights: {self.weights_before:,} -> {self.weights_after:,}"
        )
        return "\n".join(lines)


def _times(shape):
    return "x".join(map(str, shape))


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """What purification calls small, relative to the layer's own medians.

    A column is *live* if its squared norm is at least `column` times the
    layer's median over columns that are not zero. A channel falls if the
    share of its columns that are live is below `share` AND the mean squared
    norm of all its columns is below `channel` times the layer's median over
    channels. A filter falls if its squared norm is below `filter` times the
    layer's median over filters that are not zero.

    Args:
        column: Bound for columns, >= 0.
        share: Bound for the live share of a channel, in [0, 1].
        channel: Bound for the energy of a channel, >= 0.
        filter: Bound for the energy of a filter, >= 0.
    """

    column: float = 0.1
    share: float = 0.5
    channel: float = 0.1
    filter: float = 0.1

    def __post_init__(self):
        bad = {k: v for k, v in vars(self).items() if not v >= 0}
        if bad or self.share > 1:
            raise ValueError(
                "Thresholds must be >= 0, and `share` at most 1. "
                f"Received: {bad or {'share': self.share}}. 0 keeps all."
            )

    def absolute(self, strength, medians) -> Thresholds:
        """The bounds on squared norms themselves.

        Args:
            strength: Factor on all three energies. However large it is, a
                column at the layer's median counts as live, so that a
                channel of strong columns never falls.
            medians: The layer's medians `(column, channel, filter)`.
        """
        column, channel, filter_ = medians
        return Thresholds(
            min(self.column * strength, 1.0) * column,
            self.share,
            self.channel * strength * channel,
            self.filter * strength * filter_,
        )


@dataclasses.dataclass(frozen=True)
class PurificationRow:
    """What purification removed from one kernel.

    Args:
        key: The kernel's key.
        channels: First position on the input axis of each channel that fell
            because few of its columns are live and their energy is low.
        filters: Filters that fell because their energy is low.
        followed: How many weights fell because nobody reads or writes their
            channel any more.
        limits: The bounds on squared norms that were kept to.
        strength: What the proportions were multiplied by to get them.
    """

    key: str
    channels: tuple[int, ...]
    filters: tuple[int, ...]
    followed: int
    limits: Thresholds
    strength: float


@dataclasses.dataclass(frozen=True, eq=False)
class PurificationReport:
    """What purification removed, why, and what it cost.

    Args:
        rows: One `PurificationRow` per kernel.
        weights_before: Nonzero weights of all kernels before.
        weights_after: The same after.
        score_before: What `evaluate` returned before; `None` without it.
        score_after: What it returned after.
        evaluations: How often it was called.
        masks: The new `Masks`.
    """

    rows: tuple[PurificationRow, ...]
    weights_before: int
    weights_after: int
    score_before: float | None
    score_after: float | None
    evaluations: int
    masks: object

    def __str__(self):
        lines = ["channels  filters  weights that followed  strength  kernel"]
        lines += [
            f"{len(r.channels):8}  {len(r.filters):7}  {r.followed:21,}  "
            f"{r.strength:8.3g}  {r.key}"
            for r in self.rows
        ]
        lines.append(
            f"kernel weights: {self.weights_before:,} -> {self.weights_after:,}"
        )
        if self.score_before is not None:
            lines.append(
                f"evaluate: {self.score_before:.4f} -> "
                f"{self.score_after:.4f} in {self.evaluations} evaluations"
            )
        return "\n".join(lines)
