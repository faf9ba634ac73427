"""Tables and a picture of a frontier, from its `summary.json` files alone."""

import json
import pathlib
import statistics

from examples import frontier_methods
from keras_prm import tables

COMPARED = ("admm", "one_shot", "iterative", "tfmot")

# Compression by CONV weights and accuracy, LeNet-5 on MNIST, as printed in
# arXiv 1908.10017, table 1; the last row is that of arXiv 1905.00136.
PAPER = ((39.23, 0.9920), (87.93, 0.9906), (231.82, 0.9848))


def read(folder):
    """All results: dict from `(method, point)` to summaries, by seed."""
    found = {}
    for path in sorted(pathlib.Path(folder).glob("*/*/seed*/summary.json")):
        row = json.loads(path.read_text())
        found.setdefault((row["method"], row["point"]), []).append(row)
    return found


def dense(folder):
    """The summaries of the dense networks, by seed."""
    paths = sorted(pathlib.Path(folder).glob("dense/seed*/summary.json"))
    return [json.loads(path.read_text()) for path in paths]


def median(rows, key):
    """Median over the seeds."""
    return statistics.median(row[key] for row in rows)


def spread(rows, key="test_accuracy"):
    """`median (lowest-highest)` in per cent."""
    values = [100 * row[key] for row in rows]
    middle = f"{statistics.median(values):.2f}"
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):.2f}–{max(values):.2f})"


def frontier(folder, recipe):
    """Markdown: every point and method, the median of the seeds."""
    lines = [
        ["point", "method", "test accuracy", "CONV weights", "ratio"]
        + ["weights", "ratio", "stored", "ratio", ".tflite", "seeds"]
    ]
    full = dense(folder)
    if full:
        lines.append(_row("dense", "", full))
    results = read(folder)
    for point in recipe.points:
        for name, method in frontier_methods.METHODS.items():
            if rows := results.get((name, point)):
                lines.append(_row(point, method.title, rows))
    return tables.markdown(lines)


def _row(point, title, rows):
    cells = [point, title, spread(rows)]
    for count in ("conv_weights", "weights", "stored"):
        first = rows[0]["stages"][0][count]
        last = statistics.median(row["stages"][-1][count] for row in rows)
        cells += [tables.number(last), f"{first / last:.1f}x"]
    return [*cells, tables.number(median(rows, "tflite_bytes")), f"{len(rows)}"]


def account(folder, recipe, method="admm"):
    """Markdown: what each stage left, and how good it was.

    Weights are those that are not zero, the median of the seeds; accuracy is
    on the validation split, in per cent.
    """
    results = read(folder)
    lines = [["point", "stage", "CONV weights", "weights", "stored", "valid"]]
    for point in recipe.points:
        rows = results.get((method, point), ())
        for stages in zip(*(row["stages"] for row in rows)):
            lines.append(
                [
                    point,
                    stages[0]["stage"],
                    *(
                        tables.number(median(stages, key))
                        for key in ("conv_weights", "weights", "stored")
                    ),
                    f"{100 * median(stages, 'valid_accuracy'):.2f}",
                ]
            )
    return tables.markdown(lines)


def removed_by(rows, *names):
    """By what factor some stages shrink the weights, and what they cost.

    Args:
        rows: Summaries, one per seed.
        *names: Names of the stages.

    Returns:
        Tuple of medians: factor on the CONV weights, factor on all weights,
        loss of validation accuracy in points.
    """
    found = []
    for row in rows:
        conv, weights, lost = 1.0, 1.0, 0.0
        for before, after in zip(row["stages"], row["stages"][1:]):
            if after["stage"] in names:
                conv *= before["conv_weights"] / after["conv_weights"]
                weights *= before["weights"] / after["weights"]
                lost += before["valid_accuracy"] - after["valid_accuracy"]
        found.append((conv, weights, 100 * lost))
    return tuple(statistics.median(values) for values in zip(*found))


def picture(folder, recipe, path):
    """Draws accuracy against compression, of the whole and of CONV layers."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="tight")
    results = read(folder)
    for place, (ratio, title) in enumerate(
        (
            ("ratio", "compression of the whole model, by nonzero weights"),
            ("conv_ratio", "compression of CONV layers, by nonzero weights"),
        ),
        1,
    ):
        axes = figure.add_subplot(1, 2, place)
        for method in COMPARED:
            points = [
                rows
                for point in recipe.points
                if (rows := results.get((method, point)))
            ]
            points.sort(key=lambda rows: median(rows, ratio))
            middles = [100 * median(r, "test_accuracy") for r in points]
            spans = [[100 * row["test_accuracy"] for row in r] for r in points]
            axes.errorbar(
                [median(rows, ratio) for rows in points],
                middles,
                [
                    [m - min(s) for m, s in zip(middles, spans)],
                    [max(s) - m for m, s in zip(middles, spans)],
                ],
                label=frontier_methods.METHODS[method].title,
                capsize=2,
                marker=".",
            )
        axes.set_xscale("log")
        axes.set_xlabel(title)
        axes.set_ylabel("test accuracy, per cent")
        axes.grid(alpha=0.3)
    axes.plot(*zip(*[(x, 100 * y) for x, y in PAPER]), "k*", label="paper")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def write(folder, recipe):
    """Writes `frontier.md` and `frontier.png`; returns the table."""
    folder = pathlib.Path(folder)
    text = frontier(folder, recipe)
    (folder / "frontier.md").write_text(
        f"{text}\n\n{account(folder, recipe)}\n"
    )
    picture(folder, recipe, folder / "frontier.png")
    return text
