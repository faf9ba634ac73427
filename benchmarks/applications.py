"""Prunes and strips every model of keras.applications.

    python -m benchmarks.applications --saved --table=docs/applications.md

Each model gets random weights, none of them zero, a plan that removes half
of its filters, `hard_prune` and `strip`; `application_checks.py` says what is
measured, and what passes. Each runs in a process of its own. A line of JSON
per model goes to `--rows`, where a run that was stopped goes on: models that
have passed there are not run again.
"""

import concurrent.futures
import json
import multiprocessing
import os
import pathlib
import platform
import resource
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from absl import app
from absl import flags

from benchmarks import application_checks
from benchmarks import application_models
from keras_prm.reports import tables

FLAGS = flags.FLAGS
flags.DEFINE_list("models", [], "Constructors to run; all if none is given.")
flags.DEFINE_integer("size", None, "Height and width; default: the model's.")
flags.DEFINE_integer("seed", 0, "Seed of weights and images.")
flags.DEFINE_string("rows", "runs/applications.jsonl", "Where rows go.")
flags.DEFINE_string("table", None, "Markdown file to write a table to.")
flags.DEFINE_bool("saved", False, "Save, load in another process, compare.")
flags.DEFINE_bool("again", False, "Also run models that have passed.")

_HEAD = """# The models of keras.applications

Random weights, none of them zero; `SparsityPlan.uniform(model, filters=0.5)`,
`hard_prune`, `strip`. *Prunable* are the weights on a position of a channel
class that is not pinned, *gone* is the share of them that the stripped model
stores no more. *Error* is the largest difference between the logits of the
masked and the stripped model on new images, in proportion to the largest
logit, or to 1. *Loaded* is the same between the stripped model and what another
process computes, which loads it from a `.keras` file. *Classes* are channel
classes; the last column says why some are pinned, and at how many places.
"""
_COLUMNS = (
    "model",
    "size",
    "parameters",
    "after",
    "MACs",
    "after",
    "prunable",
    "gone",
    "error",
    "loaded",
    "plan, prune, strip (s)",
    "classes",
    "pinned",
)


def measure(name, size, seed, saved=False):
    """The row of one model; for a process of its own."""
    row, seconds = application_checks.timed(
        application_checks.check, name, size, seed, saved=saved
    )
    row["seconds"]["all"] = round(seconds, 1)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    gib = round(usage.ru_maxrss / 2**20, 2)
    return row | {"gib": gib, "asked_size": size} | machine()


def machine():
    """What the figures depend on, apart from the seed."""
    backend = keras.backend.backend()
    package = sys.modules.get(backend, np)
    return {
        "machine": f"{platform.machine()} with {os.cpu_count()} cores",
        "versions": f"Python {platform.python_version()}, "
        f"Keras {keras.__version__}, {package.__name__} "
        f"{package.__version__}",
    }


def isolated(name, size, seed, saved=False):
    """`measure` in a new process, whose memory goes with it."""
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, spawn) as pool:
        try:
            return pool.submit(measure, name, size, seed, saved).result()
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            return {"model": name, "seed": seed, "error": message}


def read_rows(path):
    """The rows of a file by model; of several, the last."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {row["model"]: row for row in map(json.loads, lines)}


def is_done(row):
    """Whether a row is what the flags ask for, and has passed."""
    same = (row.get("seed"), row.get("asked_size")) == (FLAGS.seed, FLAGS.size)
    same = same and (not FLAGS.saved or "saved" in row)
    return same and row.get("passed", False)


def summary(row):
    """What is printed of a row while the others are still to come."""
    if "error" in row:
        return f"FAILED: {row['error']}"
    before, after = row["parameters"]
    saved = f", saved {row['saved']['error']:.1e}" if "saved" in row else ""
    return (
        f"{'passed' if row['passed'] else 'FAILED'}: {before:,} -> {after:,} "
        f"weights, {row['share']:.1%} of the prunable ones gone, error "
        f"{row['max_error']:.1e}{saved}, strip "
        f"{row['seconds']['strip']:.1f} s, all {row['seconds']['all']:.0f} s, "
        f"{row['gib']:.1f} GiB"
    )


def table(rows):
    """The rows as Markdown, and how they came about."""
    rows = [rows[n] for n in application_models.constructors() if n in rows]
    good = [row for row in rows if "error" not in row]
    text = tables.markdown([_COLUMNS, *map(_cells, good)], pad=False)
    passed = sum(row["passed"] for row in good)
    notes = [f"{passed} of {len(rows)} models pass."]
    notes += [f"{r['model']}: {r['error']}" for r in rows if r not in good]
    notes += sorted({f"{r['machine']}, {r['versions']}." for r in good})
    notes += [
        f"    .venv/bin/python -m benchmarks.applications --seed={seed} "
        "--saved --table=docs/applications.md"
        for seed in sorted({row["seed"] for row in good})
    ]
    return "\n\n".join([_HEAD.rstrip(), text, *notes]) + "\n"


def _cells(row):
    numbers = [*row["parameters"], *row["macs"], row["prunable"]]
    seconds = [row["seconds"][k] for k in ("plan", "hard_prune", "strip")]
    why = [
        f"{count:,} {reason}" + (f" ({places})" if places > 1 else "")
        for reason, (count, places) in row["reasons"].items()
    ]
    return [
        row["model"],
        str(row["size"]),
        *(f"{n:,}" for n in numbers),
        f"{row['share']:.1%}",
        f"{row['max_error']:.0e}",
        f"{row['saved']['error']:.0e}" if "saved" in row else "",
        ", ".join(f"{s:.1f}" for s in seconds),
        f"{row['classes']:,}",
        "; ".join(why),
    ]


def run(measure_one, is_done, summary, table):
    """Measures all models that are asked for, and goes on where it stopped.

    Args:
        measure_one: Returns the row of a model, by its name.
        is_done: Whether a row of before stands.
        summary: What is printed of a row.
        table: What `--table` is written with, of all rows.
    """
    path = pathlib.Path(FLAGS.rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = read_rows(path)
    names = FLAGS.models or list(application_models.constructors())
    for number, name in enumerate(names, start=1):
        if is_done(rows.get(name, {})) and not FLAGS.again:
            continue
        place = f"[{time.strftime('%H:%M:%S')}, {number} of {len(names)}]"
        print(f"{place} {name}", flush=True)
        rows[name] = measure_one(name)
        print(f"  {summary(rows[name])}", flush=True)
        with path.open("a") as file:
            print(json.dumps(rows[name]), file=file)
    if FLAGS.table:
        target = pathlib.Path(FLAGS.table)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(table(rows))
    sys.exit(not all(rows[name].get("passed") for name in names))


def main(argv):
    del argv

    def measure_one(name):
        return isolated(name, FLAGS.size, FLAGS.seed, FLAGS.saved)

    run(measure_one, is_done, summary, table)


if __name__ == "__main__":
    app.run(main)
