"""`Explanation`: what could be pruned in a model."""

from __future__ import annotations

import dataclasses

from keras_prm.reports import tables
from keras_prm.reports.base import Report


@dataclasses.dataclass(frozen=True)
class ClassRow:
    """Channel classes that are alike: the same axes, the same fate.

    A kernel entry belongs to the channel it reads and to the one it makes,
    thus to up to two rows: the weights of rows do not add up to a model's.

    Args:
        name: The layers that make the channels, joined by `+`; `"input of
            ..."` and the layers that read them where no kernel makes them.
        members: tuple of `Member`, all that falls with a class.
        num_classes: How many classes there are; a plan keeps at least one.
        weights_per_class: Stored weights that go if ONE class goes.
        macs_per_class: Multiply-accumulates per sample that go with it;
            `None` where the input's size is not fixed.
        weights: Stored weights that any of the classes has a part in.
        macs: The same for multiply-accumulates.
        pinned: Why none of the classes can be removed, `""` if they can.
        note: What else keeps a plan from pruning them, or `""`.
    """

    name: str
    members: tuple[Member, ...]
    num_classes: int
    weights_per_class: int
    macs_per_class: int | None
    weights: int
    macs: int | None
    pinned: str = ""
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Explanation(Report):
    """The channel classes of a model; `print` shows them as a table.

    Args:
        rows: tuple of `ClassRow`, in the order of the model.
        skipped: tuple of `(path, reason)`: layers that no rule describes.
        weights: Stored weights of the model.
        prunable: Those of them that belong to a class that can be removed.
        macs: Multiply-accumulates per sample; `None` where not known.
        macs_note: Why they are not; `""` where they are.
    """

    rows: tuple[ClassRow, ...]
    skipped: tuple[tuple[str, str], ...]
    weights: int
    prunable: int
    macs: int | None
    macs_note: str = ""

    @property
    def fixed(self) -> int:
        """Stored weights that belong to no class that can be removed."""
        return self.weights - self.prunable

    def __str__(self):
        lines = self._free_lines() + self._pinned_lines()
        lines += [f"left alone: {a}: {b}" for a, b in self.skipped]
        lines.append(
            f"stored weights: {self.weights:,}, of which {self.prunable:,} "
            f"({self._share(self.prunable)}) are in classes that can go"
        )
        if self.macs_note:
            lines.append(f"MACs are unknown: {self.macs_note}.")
        return "\n".join(lines)

    def _free_lines(self):
        free = [row for row in self.rows if not row.pinned]
        if not free:
            return ["No channel can go."]
        head = ("classes", "weights each", "MACs each", "weights", "share")
        cells = [
            (
                f"{row.num_classes:,}",
                f"{row.weights_per_class:,}",
                tables.number(row.macs_per_class, "?"),
                f"{row.weights:,}",
                self._share(row.weights),
            )
            for row in free
        ]
        texts = [_name_and_reason(row.name, row.note) for row in free]
        return tables.aligned([head, *cells], ["made by", *texts])

    def _pinned_lines(self):
        pinned = [row for row in self.rows if row.pinned]
        if not pinned:
            return []
        cells = [(f"{r.num_classes:,}", f"{r.weights:,}") for r in pinned]
        texts = [_name_and_reason(row.name, row.pinned) for row in pinned]
        return tables.aligned(
            [("pinned", "weights"), *cells], ["made by: reason", *texts]
        )

    def _share(self, weights):
        return f"{weights / max(1, self.weights):.1%}"


def _name_and_reason(name, why):
    """A name of any number of layers, in short, and a reason."""
    layers = name.split("+")
    text = " + ".join(layers[:2])
    if len(layers) > 2:
        text += f" + {len(layers) - 2} more"
    return f"{text}: {why}" if why else text


@dataclasses.dataclass(frozen=True)
class Member:
    """An axis of a weight on which channel classes have positions.

    Args:
        key: The weight's key.
        axis: The axis.
        side: `"out"` for a kernel that makes the channels, `"in"` for one
            that reads them, as a depthwise kernel does, `"vector"` for all
            other weights.
        positions: How many positions EACH class has on the axis; more than
            one behind a `Flatten`, say, or in a grouped convolution.
    """

    key: str
    axis: int
    side: str
    positions: int

    @property
    def path(self):
        """The layer's place in the hierarchy."""
        return self.key.rpartition("/")[0]
