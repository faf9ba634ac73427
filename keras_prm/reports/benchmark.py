"""`BenchmarkReport`: one row per model and number of threads."""

from __future__ import annotations

import dataclasses

import numpy as np

from keras_prm.reports import tables
from keras_prm.reports.base import Report

_HEAD = (
    "model",
    "threads",
    "median µs",
    "10–90 %",
    "min µs",
    "faster",
    "10–90 %",
    "peak kB",
    "file kB",
)


@dataclasses.dataclass(frozen=True)
class BenchmarkRow:
    """One model at one number of threads. Times are seconds per batch.

    Args:
        model: The model's name.
        num_threads: Threads that LiteRT might use.
        median: Median over the rounds.
        low: 10th percentile of the rounds.
        high: 90th percentile.
        minimum: The fastest round.
        speedup: How many times as fast as the first model at as many
            threads, more than 1 if faster: the median over the rounds of
            `first model's seconds / this model's seconds` within a round.
        speedup_low: 10th percentile of the same ratios.
        speedup_high: 90th percentile.
        file_bytes: Size of the file.
        peak_bytes: What running the file adds to the peak memory of a
            process, see `keras_prm.peak_memory`; `None` if not measured.
    """

    model: str
    num_threads: int
    median: float
    low: float
    high: float
    minimum: float
    speedup: float
    speedup_low: float
    speedup_high: float
    file_bytes: int
    peak_bytes: int | None = None


@dataclasses.dataclass(frozen=True)
class BenchmarkReport(Report):
    """What `benchmark` measured; `print` shows it as a table in Markdown.

    Args:
        rows: tuple of `BenchmarkRow`: all models at the first number of
            threads, then all at the next.
        machine: Kind of the machine, such as `"x86_64"`.
        num_cores: Its logical cores; `None` if not known.
        litert_version: Version of ai-edge-litert.
        batch_size: Rows per invocation.
        runs: Rounds that were timed.
        warmup: Rounds before them that were not.
    """

    rows: tuple[BenchmarkRow, ...]
    machine: str
    num_cores: int | None
    litert_version: str
    batch_size: int
    runs: int
    warmup: int

    def __str__(self):
        cores = tables.number(self.num_cores, "?")
        return "\n".join(
            [
                f"{self.machine}, {cores} cores, LiteRT {self.litert_version},"
                f" batch size {self.batch_size}, {self.runs} runs after "
                f"{self.warmup} to warm up",
                "",
                tables.markdown([_HEAD, *map(_cells, self.rows)]),
                "",
                f"faster: than {self.rows[0].model} at as many threads, "
                "median of the ratios within a round",
            ]
        )


def row_of(name, num_threads, seconds, first, file_bytes, peak_bytes=None):
    """The row of one model.

    Args:
        name: The model's name.
        num_threads: int.
        seconds: float array `(runs,)`, seconds of each round.
        first: float array `(runs,)`, the first model's in the same rounds.
        file_bytes: int.
        peak_bytes: int or None.
    """
    low, median, high = np.percentile(seconds, [10, 50, 90]).tolist()
    ratios = np.percentile(first / seconds, [10, 50, 90]).tolist()
    return BenchmarkRow(
        name,
        num_threads,
        median=median,
        low=low,
        high=high,
        minimum=float(seconds.min()),
        speedup=ratios[1],
        speedup_low=ratios[0],
        speedup_high=ratios[2],
        file_bytes=file_bytes,
        peak_bytes=peak_bytes,
    )


def _cells(row):
    peak = None if row.peak_bytes is None else row.peak_bytes / 1e3
    return (
        row.model,
        str(row.num_threads),
        _microseconds(row.median),
        f"{_microseconds(row.low)}–{_microseconds(row.high)}",
        _microseconds(row.minimum),
        f"{row.speedup:.2f}x",
        f"{row.speedup_low:.2f}–{row.speedup_high:.2f}x",
        tables.number(peak),
        tables.number(row.file_bytes / 1e3),
    )


def _microseconds(seconds):
    digits = 1 if seconds < 1e-4 else 0
    return f"{1e6 * seconds:,.{digits}f}"
