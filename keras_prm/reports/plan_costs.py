"""`PlanCosts`: what a plan will leave of a model."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from keras_prm.reports import pictures
from keras_prm.reports import tables
from keras_prm.reports.base import Report

if TYPE_CHECKING:
    import os
    from typing import Any

_ROWS = ("parameters", "macs", "conv_weights", "float32_bytes")


@dataclasses.dataclass(frozen=True)
class PlanCosts(Report):
    """What the model of a plan will be once it is pruned and stripped.

    Args:
        dense: dict with what the model is now: `"parameters"`, entries of
            all its weights; `"macs"`, multiply-accumulates per sample, `None`
            if unknown; `"conv_weights"`, entries of convolution kernels;
            `"float32_bytes"`, four for each parameter.
        pruned: dict with the same of what is left. Where the plan removes
            columns, without these: what a `strip` that leaves them out
            stores, indices aside.
        groups: tuple of `(layers, kept, size)` per group of filters.
        is_exact: Whether it does not matter which filters stay. If not, it
            may be less than is said.
        macs_note: Why MACs are unknown, `""` if they are not.
        measured: dict with what was measured of the exported files, where a
            budget asked for it: `"quantize"`, `"file_bytes"` and
            `"latency_ms"`, the latter two as `[dense, pruned]`, and
            `"latency"`, the share. Empty where nothing was.
        is_fixed: Whether the widths are. If not, ADMM chooses others within
            the budget, and these are what it begins with.
    """

    dense: dict[str, int | None]
    pruned: dict[str, int | None]
    groups: tuple[tuple[str, int, int], ...]
    is_exact: bool = True
    macs_note: str = ""
    measured: dict[str, Any] = dataclasses.field(default_factory=dict)
    is_fixed: bool = True

    @property
    def shares(self) -> dict[str, float | None]:
        """What is left in proportion to what there is, by name."""
        return {
            name: after / before if before and after is not None else None
            for name, before, after in self._rows()
        }

    def _rows(self):
        return [(n, self.dense[n], self.pruned[n]) for n in _ROWS]

    def __str__(self):
        shares = self.shares
        names = [n.replace("_", " ").replace("macs", "MACs") for n in _ROWS]
        cells = [
            (
                tables.number(before, "?"),
                tables.number(after, "?"),
                "?" if shares[name] is None else f"{shares[name]:.1%}",
            )
            for name, before, after in self._rows()
        ]
        for name in ("file_bytes", "latency_ms"):
            if name in self.measured:
                how = f"measured, {self.measured['quantize']}"
                names.append(f"{name.replace('_', ' ')} ({how})")
                cells.append(_measured_cells(*self.measured[name]))
        head = ("dense", "pruned", "share")
        lines = tables.aligned([head, *cells], ["", *names])
        notes = []
        if not self.is_fixed:
            notes.append("ADMM chooses other widths within the budget.")
        if not self.is_exact:
            notes.append(
                "Filters of a group differ: it may be less than is said."
            )
        if self.macs_note:
            notes.append(f"MACs are unknown: {self.macs_note}.")
        return "\n".join(lines + notes)

    def draw(self, filepath: str | os.PathLike[str]) -> None:
        """Draws what is left of each cost, and of each group of filters.

        Args:
            filepath: Where to write, `.png` or another format of
                matplotlib's.

        Raises:
            ImportError: matplotlib is not installed.
        """
        height = 2.5 + 0.2 * len(self.groups)
        figure = pictures.figure_class()(figsize=(9, height), layout="tight")
        ratios = [len(_ROWS), max(1, len(self.groups))]
        grid = figure.add_gridspec(2, 1, height_ratios=ratios)
        shares = {n: s for n, s in self.shares.items() if s is not None}
        self._bars(figure.add_subplot(grid[0]), [*shares], [*shares.values()])
        names = [_short(name) for name, _, _ in self.groups]
        kept = [keep / size for _, keep, size in self.groups]
        axes = figure.add_subplot(grid[1])
        self._bars(axes, names, kept)
        axes.set_xlabel("share that stays")
        figure.savefig(filepath, dpi=110)

    def _bars(self, axes, names, shares):
        places = range(len(names))
        axes.barh(places, [1.0] * len(names), color="0.9")
        axes.barh(places, shares, color="tab:blue")
        axes.set_yticks(places, names, fontsize=7)
        axes.invert_yaxis()
        axes.set_xlim(0, 1)


def _measured_cells(before, after):
    both = before, after
    texts = [f"{x:,}" if isinstance(x, int) else f"{x:.4g}" for x in both]
    return texts[0], texts[1], f"{after / before:.1%}"


def _short(name):
    first, *others = name.split("+")
    return f"{first} + {len(others)} more" if others else first
