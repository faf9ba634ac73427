"""Tables and a picture of a frontier, from its `summary.json` files alone."""

import json
import pathlib

import numpy as np

from examples.study.frontier_methods import METHODS
from examples.study.over_seeds import median
from examples.study.over_seeds import spread
from examples.study.recipe import as_json
from examples.study.result_files import RATIOS
from keras_prm.reports import tables

# Compression of CONV weights and accuracy of LeNet-5 on MNIST, as printed in
# arXiv 1908.10017; the last is the one of arXiv 1905.00136.
PAPER = ((39.23, 0.9920), (87.93, 0.9906), (231.82, 0.9848))
COMPARED = ("admm", "plan_step_by_step", "iterative", "one_shot", "tfmot")


def known(path):
    """Results that a file holds: dict from `(method, point, seed)`.

    There are none if there is no such file.
    """
    path = pathlib.Path(path)
    rows = json.loads(path.read_text()) if path.exists() else []
    return {(row["method"], row["point"], row["seed"]): row for row in rows}


def read(folder, recipe, others=None):
    """All results of a recipe: dict from `(method, point)` to summaries.

    Those of other settings, left from another recipe, are not among them.

    Args:
        folder: Where `examples.study.frontier` made results.
        recipe: The `FrontierRecipe`.
        others: What `known` returned: results that are not in the folder.
    """
    training = recipe.settings()
    rows = dict(others or {})
    for path in pathlib.Path(folder).glob("*/*/seed*/summary.json"):
        row = json.loads(path.read_text())
        if "method" in row:  # a base is none
            rows[row["method"], row["point"], row["seed"]] = row
    found = {}
    for (method, point, _), row in sorted(rows.items()):
        if _is_of(recipe, training, row):
            found.setdefault((method, point), []).append(row)
    return found


def _is_of(recipe, training, row):
    settings = row["settings"]
    if any(
        settings[name] != training[name]
        for name in training.keys() & settings.keys()
    ):
        return False
    if row["method"] == "dense":
        return True
    if row["point"] not in recipe.points:
        return False
    kept = recipe.kept(row["point"], METHODS[row["method"]].filters_only)
    wanted = as_json(kept), recipe.epochs_to(row["point"])
    return (settings["keep"][-1], settings["epochs"]) == wanted


def frontier(results, recipe, methods=COMPARED):
    """Markdown: every point and method, the median of the seeds.

    Kernel weights are those that are not zero; stored are all parameters of
    the model that was exported, biases and zeros too.
    """
    head = ["point", "method", "test accuracy", "valid"]
    for name in ("CONV weights", "kernel weights", "stored", ".tflite"):
        head += [name, "ratio"]
    full = results.get(("dense", "-"), [])
    lines = [head + ["seeds"]]
    for rows in (full,) if full else ():
        lines.append(_row("dense", "", rows, full))
    for point in recipe.points:
        for method in methods:
            if rows := results.get((method, point)):
                lines.append(_row(point, METHODS[method].title, rows, full))
    return tables.markdown(lines)


def _row(point, title, rows, full):
    cells = [point, title, spread(rows)]
    cells.append(f"{100 * median(rows, 'valid_accuracy'):.2f}")
    for ratio, count in RATIOS:
        cells.append(tables.number(median(rows, count)))
        cells.append(f"{median(rows, ratio):.1f}x")
    num_bytes = median(rows, "tflite_bytes")
    before = median(full or rows, "tflite_bytes")
    cells += [tables.number(num_bytes), f"{before / num_bytes:.1f}x"]
    return [*cells, f"{len(rows)}"]


def account(results, recipe, method="admm"):
    """Markdown: what each stage left, and how good it was.

    The medians of the seeds; accuracy is on the validation split.
    """
    lines = [
        ["point", "stage", "CONV weights", "kernel weights", "stored", "valid"]
    ]
    for point in recipe.points:
        rows = results.get((method, point), ())
        for stages in zip(*(row["stages"] for row in rows)):
            cells = [tables.number(median(stages, key)) for _, key in RATIOS]
            valid = f"{100 * median(stages, 'valid_accuracy'):.2f}"
            lines.append([point, stages[0]["stage"], *cells, valid])
    return tables.markdown(lines)


def picture(results, recipe, path):
    """Draws error against compression, of the whole and of CONV layers."""
    from matplotlib import ticker
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), layout="tight")
    whole, conv = figure.subplots(1, 2, sharey=True)
    for axes, ratio, title in (
        (whole, "ratio", "whole model"),
        (conv, "conv_ratio", "CONV layers"),
    ):
        for number, method in enumerate(COMPARED):
            for of_whole, points in _lines(recipe):
                rows = [results.get((method, point)) for point in points]
                if any(rows) and (of_whole or axes is conv):
                    label = METHODS[method].title if of_whole else None
                    _line(axes, rows, ratio, number, label)
        if full := results.get(("dense", "-")):
            axes.axhline(_error(full), color="gray", ls=":")
        axes.set_xscale("log")
        axes.set_yscale("log")
        for axis, unit in ((axes.xaxis, "x"), (axes.yaxis, "")):
            axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(ticker.StrMethodFormatter("{x:g}" + unit))
            axis.set_minor_formatter(ticker.NullFormatter())
        axes.set_xlabel(f"compression of the {title}, nonzero kernel weights")
        axes.grid(alpha=0.3)
    conv.plot(
        *zip(*[(ratio, 100 * (1 - y)) for ratio, y in PAPER]),
        "k*",
        label="paper",
    )
    whole.set_ylabel("test error, per cent")
    conv.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def _lines(recipe):
    """The points of each line of the picture.

    Where CONV layers alone are pruned, the whole model says nothing.
    """
    yield True, list(recipe.widths)
    yield False, [name for name in recipe.points if name not in recipe.widths]


def _error(rows):
    """The median test error in per cent."""
    return 100 * (1 - median(rows, "test_accuracy"))


def _line(axes, points, ratio, number, label):
    """The median of each point, with a bar from the lowest to the highest.

    Points that have no results, None, are gaps in the line.
    """
    values = np.full((len(points), 4), np.nan)
    for row, rows in zip(values, points):
        if rows:
            errors = [_error([row]) for row in rows]
            row[:] = median(rows, ratio), _error(rows), min(errors), max(errors)
    x, middle, low, high = values.T
    axes.errorbar(
        x,
        middle,
        [middle - low, high - middle],
        color=f"C{number}",
        label=label,
        capsize=2,
        marker=".",
    )


def write(folder, recipe, others=None):
    """Writes all that the results of a folder, and others, amount to.

    `frontier.md` and `frontier.png`, and `results.json`, which `known` reads.

    Returns:
        The first table.
    """
    folder = pathlib.Path(folder)
    results = read(folder, recipe, others)
    if not results:
        return "There are no results yet."
    folder.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(
        json.dumps(row) for rows in results.values() for row in rows
    )
    (folder / "results.json").write_text(f"[\n{lines}\n]\n")
    text = frontier(results, recipe)
    ablations = [name for name in METHODS if name not in COMPARED]
    ablated = {point for method, point in results if method in ablations}
    compared = {k: v for k, v in results.items() if k[1] in ablated}
    parts = [
        ("The frontier", text),
        ("Ablations", frontier(compared, recipe, [*COMPARED, *ablations])),
        ("ADMM, stage by stage", account(results, recipe)),
    ]
    (folder / "frontier.md").write_text(
        "\n\n".join(f"## {title}\n\n{table}" for title, table in parts) + "\n"
    )
    picture(results, recipe, folder / "frontier.png")
    return text
