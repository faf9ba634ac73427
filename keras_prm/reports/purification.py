"""`PurificationReport`: what `purify` removed."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from keras_prm.reports import tables
from keras_prm.reports.base import Report

if TYPE_CHECKING:
    from keras_prm.pruning.masks import Masks
    from keras_prm.pruning.thresholds import Thresholds


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
class PurificationReport(Report):
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
    masks: Masks
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
        head = ("channels", "filters", "weights that followed", "strength")
        cells = [
            (
                str(len(row.channels)),
                str(len(row.filters)),
                tables.number(row.followed),
                f"{row.strength:.3g}",
            )
            for row in self.rows
        ]
        keys = ["kernel", *(row.key for row in self.rows)]
        return "\n".join([*tables.aligned([head, *cells], keys), self.summary])
