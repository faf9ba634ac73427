"""The reports that stripping and purification return."""

from __future__ import annotations

import dataclasses

from keras_prm.reports.thresholds import Thresholds


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
        makes: What in it makes channels of its layer: `"filters"`, each entry
            of the axis `out` one; `"states"`, each of `in` one; `"multiples"`,
            each of `in` as many as `out` has; `""`, nothing.
    """

    key: str
    before: tuple[int, ...]
    after: tuple[int, ...] | None
    zeros_before: int
    zeros_after: int
    note: str = ""
    axes: tuple[int, int] = (-2, -1)
    makes: str = "filters"

    def channels(self, kept):
        """The channels that stay, or `None`: all, or not said here.

        Args:
            kept: Which positions of the kernel stay, see `StripReport.kept`.
        """
        read, made = (kept[axis] for axis in self.axes)
        if self.makes == "filters":
            return made
        if self.makes == "states":
            return read
        if self.makes == "multiples" and read is not None:
            number = self.before[self.axes[1]]
            return tuple(n * number + i for n in read for i in range(number))
        return None


@dataclasses.dataclass(frozen=True)
class LoweringRow:
    """How the empty columns of one kernel were dealt with.

    Args:
        key: The kernel's key.
        name: The lowering, `"columns by slices"` say, or `"dense"`.
        live: How many of its columns are not empty.
        size: How many it has.
        indices: How many index entries its `GatherColumns` holds.
        reason: How that was decided.
        dense_us: Microseconds with the dense kernel, measured or predicted,
            for one sample; `None` where nobody asked.
        us: The same for what was chosen.
    """

    key: str
    name: str
    live: int
    size: int
    indices: int
    reason: str
    dense_us: float | None = None
    us: float | None = None

    @property
    def verdict(self) -> str:
        """One line on what was chosen, and why."""
        text = f"{self.name} ({self.reason})"
        if self.name != "dense" and self.us:
            text += f", {self.dense_us:.0f} -> {self.us:.0f} us"
        return text


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
            where all of them stay. A weight that is gone has no entry. Of a
            kernel whose columns are lowered this is what stayed before.
        lowered: One `LoweringRow` per layer that had empty columns left,
            where `lowering` is not `"none"`.
        changed: `(path, argument, what)` per initializer, regularizer and
            constraint that is another one in the smaller layer: what was
            cut, made anew for the new width, or dropped.
    """

    rows: tuple[StripRow, ...]
    skipped: tuple[tuple[str, str], ...]
    weights_before: int
    weights_after: int
    channels: tuple[tuple[str, int, int, str], ...] = ()
    kept: dict[str, tuple] = dataclasses.field(default_factory=dict)
    lowered: tuple[LoweringRow, ...] = ()
    changed: tuple[tuple[str, str, str], ...] = ()

    @property
    def kept_channels(self) -> dict[str, tuple[int, ...]]:
        """Which of the channels each layer puts out stay, by layer path.

        In the order in which they are put out now, which differs from the
        old one where columns are lowered. Layers that keep all of them, in
        order, are left out. `json.dumps` takes it.
        """
        found = {}
        for row in self.rows:
            if row.key in self.kept:
                channels = row.channels(self.kept[row.key])
                if channels is not None:
                    path = row.key.rpartition("/")[0]
                    if row.makes == "states":  # a cell is no layer of yours
                        path = path.rpartition("/")[0]
                    found[path] = channels
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
        if self.lowered:
            lines.append("columns live      of  indices  kernel")
        lines += [
            f"{r.live:12}  {r.size:6}  {r.indices:7}  {r.key}: {r.verdict}"
            for r in self.lowered
        ]
        lines += [f"left alone: {a}: {b}" for a, b in self.skipped]
        lines += [f"changed: {': '.join(row)}" for row in self.changed]
        lines.append(
            f"stored weights: {self.weights_before:,} -> {self.weights_after:,}"
        )
        return "\n".join(lines)


def _times(shape):
    return "x".join(map(str, shape))


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
        score_before: What `evaluate` returned before, or the metric of the
            data it was given; `None` without it.
        score_after: The same after.
        evaluations: How often the search evaluated.
        masks: The new `Masks`.
        metric: Name of the metric, `"evaluate"` for a function.
        standard_error: That of `score_before`, `None` where it is not known.
            Of a share it follows from the number of samples, and where
            `num_samples` was not given, from what number all scores can be
            shares of.
        num_samples: Of how many samples both scores are, where it is known.
        is_held_out: Whether the search has not seen these samples.
        drop: How much worse the score is after, in its own unit.
        drop_error: The standard error of `drop`, that of paired differences
            between the same samples; `None` for a function.
    """

    rows: tuple[PurificationRow, ...]
    weights_before: int
    weights_after: int
    score_before: float | None
    score_after: float | None
    evaluations: int
    masks: object
    metric: str | None = None
    standard_error: float | None = None
    num_samples: int | None = None
    is_held_out: bool = False
    drop: float | None = None
    drop_error: float | None = None

    @property
    def summary(self) -> str:
        """What was removed, and what it cost."""
        text = f"kernel weights: {self.weights_before:,} -> "
        text += f"{self.weights_after:,}"
        if self.score_before is None:
            return text
        text += f"\n{self.metric}: {self.score_before:.4f} -> "
        text += f"{self.score_after:.4f} in {self.evaluations} evaluations"
        if self.standard_error is None:
            return text
        text += f"\nstandard error of {self.metric}: "
        text += f"{self.standard_error:.2g}"
        if self.num_samples:
            text += f", on {self.num_samples:,} samples"
        if self.is_held_out:
            text += " that the search has not seen"
        if self.drop_error is None:
            return f"{text}; that of a drop on the same samples is smaller"
        return (
            f"{text}\ndrop: {self.drop:.2g} with a standard error of "
            f"{self.drop_error:.2g}, sample by sample"
        )

    def __str__(self):
        lines = ["channels  filters  weights that followed  strength  kernel"]
        lines += [
            f"{len(r.channels):8}  {len(r.filters):7}  {r.followed:21,}  "
            f"{r.strength:8.3g}  {r.key}"
            for r in self.rows
        ]
        return "\n".join([*lines, self.summary])
