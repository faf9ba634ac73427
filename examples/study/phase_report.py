r"""Tables of what the phases have come to, from their `summary.json` alone.

    python -m examples.study.phase_report runs/resnet18_cifar10/seed0
    python -m examples.study.phase_report runs/alexnet_imagenette96/seed*

One folder, or one for each seed: medians then, the range in brackets, and of
each point the seed whose validation accuracy is the middle one. Accuracies are
in per cent.
"""

import argparse
import pathlib
import sys

if not __package__:
    sys.path.insert(0, str(pathlib.Path(__file__).absolute().parents[2]))

from examples.study import result_files
from examples.study.over_seeds import median
from examples.study.over_seeds import middle
from examples.study.over_seeds import spread
from keras_prm.reports import tables

COUNTS = {
    "CONV weights": "conv_weights",
    "kernel weights": "weights",
    "stored": "stored",
    "MACs": "macs",
}


def read(folders):
    """Exported points: dict from a point to its summaries, by folder.

    From the least compressed point to the most.
    """
    found = {}
    for folder in map(pathlib.Path, folders):
        for path in sorted(folder.glob("*/claims.json")):
            row = result_files.read(path.parent)
            found.setdefault(row["point"], []).append(row)
    rows = [row for some in found.values() for row in some]
    tops = {row.get("top") for row in rows}
    for row in rows:
        _add_levels(row, *(tops if len(tops) == 1 else [None]))
    return dict(sorted(found.items(), key=lambda i: median(i[1], "conv_ratio")))


def _add_levels(row, top):
    """To a summary, all accuracies and losses on one level.

    `top` is that of all summaries, or None.
    """
    names = {"accuracy": "test_accuracies"}
    row["top"] = top
    if top:
        names[f"top{top}"] = f"test_top{top}"
    for name, key in names.items():
        row[f"file_{name}"] = row[key]["small.tflite"]
        row[f"int8_{name}"] = row[key]["int8.tflite"]
        row[f"{name}_lost"] = row[f"dense_test_{name}"] - row[f"file_{name}"]


def points(results):
    """Markdown: of each point, accuracies of its files and what they hold.

    `lost` is in points, against the dense network of the same seed.
    """
    some = next(iter(results.values()))
    top, first = some[0].get("top"), some[0]["stages"][0]
    names = ["accuracy", *([f"top{top}"] if top else [])]
    head, dense = ["point", "seeds"], ["dense", len(some)]
    for name in names:
        title = "test" if name == "accuracy" else name
        head += [title, "lost", f"int8 {title}"]
        dense += [spread(some, f"dense_test_{name}"), "", ""]
    dense += [tables.number(first[count]) for count in COUNTS.values()]
    lines = [[*head, *COUNTS, ".tflite"], [*dense, ""]]
    for point, rows in results.items():
        cells = [point, len(rows)]
        for name in names:
            keys = f"file_{name}", f"{name}_lost", f"int8_{name}"
            cells += [spread(rows, key) for key in keys]
        cells += _counts([row["stages"][-1] for row in rows], first)
        num_bytes = median(rows, "tflite_bytes")
        lines.append([*cells, f"{num_bytes / 1e3:,.0f} kB"])
    return tables.markdown([[str(cell) for cell in line] for line in lines])


def stages(rows):
    """Markdown: what each stage of one point left, and how good it was.

    Accuracies are those on the validation split.
    """
    top = f"valid_top{rows[0].get('top')}"
    has_top = all(top in stage for row in rows for stage in row["stages"])
    shares = ["valid_accuracy", *([top] if has_top else [])]
    lines = [["stage", *(name.replace("_", " ") for name in shares), *COUNTS]]
    first = rows[0]["stages"][0]
    for found in zip(*(row["stages"] for row in rows), strict=True):
        cells = [spread(found, name) for name in shares]
        lines.append([found[0]["stage"], *cells, *_counts(found, first)])
    return tables.markdown(lines)


def _counts(rows, first):
    """Medians of what networks hold, and ratios to the dense one."""
    cells = []
    for count in COUNTS.values():
        number = median(rows, count)
        ratio = result_files.ratio(first[count], number)
        cells.append(f"{tables.number(number)} ({ratio:.1f}x)")
    return cells


def text(folders):
    """All tables, Markdown."""
    results = read(folders)
    if not results:
        raise SystemExit(f"No point is exported in {', '.join(folders)}.")
    parts = [points(results)]
    for point, rows in results.items():
        title = f"{point}, stage by stage"
        if len(rows) > 1:
            title += f"; the middle seed is {middle(rows)['seed']}"
        parts.append(f"{title}:\n\n{stages(rows)}")
    return "\n\n".join(parts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folders", nargs="+", help="one for each seed")
    print(text(parser.parse_args().folders))
