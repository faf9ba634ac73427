"""Report of a pipeline: one row per stage, and a picture."""

from __future__ import annotations

import dataclasses
import pathlib

import keras
import numpy as np

from keras_prm.analysis.costs import costs
from keras_prm.analysis.costs import saved_bytes
from keras_prm.litert.export import export_litert
from keras_prm.litert.timing import latency
from keras_prm.reports import pictures
from keras_prm.reports import tables
from keras_prm.reports.costs import Costs


@dataclasses.dataclass(frozen=True)
class Stage:
    """A model at one stage, measured.

    Args:
        name: What was done.
        scores: dict from the name of a split to the accuracy on it.
        costs: The model's `Costs`.
        keras_bytes: Bytes of its `.keras` file, without optimizer state.
        litert_path: Its LiteRT file; `None` where none was written.
        latency: Median seconds per sample on LiteRT, one thread; `None`
            where not measured.
    """

    name: str
    scores: dict[str, float]
    costs: Costs
    keras_bytes: int
    litert_path: pathlib.Path | None = None
    latency: float | None = None

    @property
    def litert_bytes(self):
        """Bytes of the LiteRT file, or `None`."""
        return self.litert_path and self.litert_path.stat().st_size


def measure(name, model, scores, litert_path=None):
    """Measures a model, and exports it where a path is given.

    Args:
        name: What was done.
        model: A built functional or Sequential model.
        scores: dict from the name of a split to the accuracy on it.
        litert_path: Where to write its LiteRT file, or `None`.
    """
    if litert_path is not None:
        litert_path = pathlib.Path(litert_path)
        export_litert(model, litert_path)
    return Stage(
        name, dict(scores), costs(model), saved_bytes(model), litert_path
    )


def with_latency(stages, sample, runs=200):
    """Times all stages that have a LiteRT file, interleaved in one run.

    Args:
        stages: list of `Stage`.
        sample: One batch of inputs; seconds are per batch.
        runs: How many rounds are timed.

    Returns:
        The stages with their median latency filled in.
    """
    timed = [s for s in stages if s.litert_path is not None]
    if not timed:
        return list(stages)
    seconds = latency([s.litert_path for s in timed], sample, runs=runs)
    found = {id(s): t for s, t in zip(timed, seconds)}
    return [dataclasses.replace(s, latency=found.get(id(s))) for s in stages]


def rows(stages):
    """The stages as a list of dicts of plain values; ratios to the first."""
    first = stages[0].costs
    return [
        {
            "stage": s.name,
            **{f"accuracy_{k}": round(v, 6) for k, v in s.scores.items()},
            "conv_weights": s.costs.conv_weights,
            "conv_ratio": _rounded_ratio(
                first.conv_weights, s.costs.conv_weights
            ),
            "weights": s.costs.weights,
            "ratio": _rounded_ratio(first.weights, s.costs.weights),
            "stored_parameters": s.costs.parameters,
            "stored_ratio": _rounded_ratio(
                first.parameters, s.costs.parameters
            ),
            "macs": s.costs.macs,
            "keras_bytes": s.keras_bytes,
            "tflite_bytes": s.litert_bytes,
            "latency_us": None if s.latency is None else s.latency * 1e6,
        }
        for s in stages
    ]


def table(stages):
    """The stages as a table in Markdown, which reads as plain text too.

    `weights` count what is not zero, `stored` also the zeros that are still
    there; `CONV` is the paper's count, convolution kernels alone.
    """
    splits = list(stages[0].scores)
    lines = [
        ["stage", *(f"{s} acc" for s in splits)]
        + ["CONV weights", "ratio", "all weights", "ratio"]
        + ["stored", "ratio", "MACs", ".keras", ".tflite", "LiteRT µs"]
    ]
    for row in rows(stages):
        lines.append(
            [
                row["stage"],
                *(f"{100 * row[f'accuracy_{s}']:.2f}" for s in splits),
                tables.number(row["conv_weights"]),
                f"{row['conv_ratio']:.1f}x",
                tables.number(row["weights"]),
                f"{row['ratio']:.1f}x",
                tables.number(row["stored_parameters"]),
                f"{row['stored_ratio']:.1f}x",
                tables.number(row["macs"]),
                tables.number(row["keras_bytes"]),
                tables.number(row["tflite_bytes"]),
                tables.number(row["latency_us"]),
            ]
        )
    return tables.markdown(lines)


def picture(path, model, history):
    """Draws the masks of each kernel, and ADMM's residuals.

    Args:
        path: Where to write, `.png` or another format of matplotlib's.
        model: The pruned model, before `strip`.
        history: `ADMMProgress.history`.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure_class = pictures.figure_class()
    kernels = _kernels(model)
    figure = figure_class(figsize=(11, 2.2 * len(kernels)), layout="tight")
    grid = figure.add_gridspec(len(kernels), 2, width_ratios=[2, 1])
    for i, (name, kernel) in enumerate(kernels):
        axes = figure.add_subplot(grid[i, 0])
        live = (kernel != 0).reshape(-1, kernel.shape[-1])
        if live.sum() < 20_000:  # dots stay visible where few are left
            axes.spy(live.T, aspect="auto", markersize=1.5, color="black")
            axes.xaxis.tick_bottom()
        else:
            axes.imshow(live.T, aspect="auto", cmap="Grays", vmin=0, vmax=1)
        axes.set_title(f"{name}: {live.sum():,} of {live.size:,}", fontsize=9)
        axes.set_ylabel("filter")
    axes.set_xlabel("column (black: kept)")
    half = max(1, len(kernels) // 2)
    for kind, part in (("primal", slice(0, half)), ("dual", slice(half, None))):
        axes = figure.add_subplot(grid[part, 1])
        for key in history[0] if history else ():
            values = [epoch[key][kind] for epoch in history]
            axes.plot(np.arange(1, len(values) + 1), values, label=key)
        axes.set_title(f"{kind} residual", fontsize=9)
        axes.set_xlabel("epoch of ADMM")
        axes.set_yscale("symlog", linthresh=1e-3)
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=110)


def _kernels(model):
    return [
        (v.path, keras.ops.convert_to_numpy(v))
        for v in model.trainable_variables
        if len(v.shape) > 1
    ]


def _rounded_ratio(before, after):
    return round(before / after, 3) if after else float("inf")
