"""`StripReport`: what `strip` did, and what it left alone."""

from __future__ import annotations

import dataclasses

from keras_prm.reports import tables
from keras_prm.reports.base import Report


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
class StripReport(Report):
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
        lines = self._kernel_lines() + self._channel_lines()
        if self.lowered:
            head = ("columns live", "of", "indices")
            cells = [
                (str(r.live), str(r.size), str(r.indices)) for r in self.lowered
            ]
            texts = [f"{r.key}: {r.verdict}" for r in self.lowered]
            lines += tables.aligned([head, *cells], ["kernel", *texts])
        lines += [f"left alone: {a}: {b}" for a, b in self.skipped]
        lines += [f"changed: {': '.join(row)}" for row in self.changed]
        lines.append(
            f"stored weights: {self.weights_before:,} -> {self.weights_after:,}"
        )
        return "\n".join(lines)

    def _kernel_lines(self):
        """A line per kernel, and one with its note if it has one."""
        head = ("kernel before", "after", "zeros stored")
        cells = [
            (
                _times(row.before),
                "gone" if row.after is None else _times(row.after),
                tables.number(row.zeros_after),
            )
            for row in self.rows
        ]
        keys = ["key", *(row.key for row in self.rows)]
        first, *lines = tables.aligned([head, *cells], keys)
        width = len(first) - len(keys[0])
        found = [first]
        for line, row in zip(lines, self.rows):
            found += [line, " " * width + row.note] if row.note else [line]
        return found

    def _channel_lines(self):
        cells = [(str(after), str(old)) for _, old, after, _ in self.channels]
        texts = [
            f"{layers}: {why}" if why else layers
            for layers, _, _, why in self.channels
        ]
        head = ("channels kept", "of")
        return tables.aligned([head, *cells], ["layers", *texts])


def _times(shape):
    return "x".join(map(str, shape))
