"""Plans of every model of keras.applications that meet a budget.

    python -m benchmarks.budgets --table=docs/budgets.md

Each model gets random weights and two plans, of `macs=0.5` and of
`parameters=0.3`; both are checked by `hard_prune`, `strip` and `costs`. With
`--latency`, a third of `latency=0.5` on LiteRT, checked by timing the file of
what `strip` leaves, again in turn with that of the dense model. Each model
runs in a process of its own. A line of JSON per model goes to `--rows`, where
a run that was stopped goes on.
"""

import concurrent.futures
import multiprocessing
import os
import pathlib
import resource
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from absl import app
from absl import flags

import keras_prm
from benchmarks import application_checks
from benchmarks import application_models
from benchmarks import applications
from keras_prm.reports import tables

FLAGS = flags.FLAGS
FLAGS.set_default("rows", "runs/budgets.jsonl")
flags.DEFINE_bool("latency", False, "Also plan for half of the latency.")

BUDGETS = {"macs": 0.5, "parameters": 0.3}
LATENCY = 0.5

# How much of a bound is to be used at least.
ENOUGH = {"macs": 0.97, "parameters": 0.97, "latency": 0.95}

_HEAD = """# Budgets

Plans of `SparsityPlan.for_budget` with all defaults, for models with random
weights. *Used* is what is left of MACs or weights after `hard_prune` and
`strip`, in proportion to the bound: at most 100 %, and at least 97 % where
widths allow it. *Said* is the same as `plan.costs()` tells it before. *Shares*
are the least and the largest share of its filters that a group keeps. *Seconds*
are those of the plan alone.
"""
_COLUMNS = ("model", "size", "groups", "budget", "used", "said", "shares")


def measure(name, size, seed, timed):
    """The row of one model; for a process of its own."""
    rng = np.random.default_rng(seed)
    keras.utils.set_random_seed(seed)
    model = application_models.build(name, size)
    application_models.randomize(model, rng)
    weights, dense = model.get_weights(), keras_prm.costs(model)
    row = {"model": name, "seed": seed, "asked_size": size}
    row |= {"size": model.input_shape[1], "budgets": {}}
    for kind, share in BUDGETS.items():
        plan, found = planned(model, {kind: share})
        bound = share * getattr(dense, kind)
        small = stripped(model, plan, weights)
        used = getattr(keras_prm.costs(small), kind) / bound
        found |= {"used": used, "said": plan.costs().pruned[kind] / bound}
        row["budgets"][kind] = found
        row["groups"] = len(plan.groups)
    if timed:
        model.set_weights(weights)  # candidates are made of them
        plan, found = planned(model, {"latency": LATENCY})
        found["said"] = plan.measured["latency"] / LATENCY
        small = stripped(model, plan, weights)
        model.set_weights(weights)
        found["used"] = latency_share(model, small, rng) / LATENCY
        row["budgets"]["latency"] = found
    row["passed"] = all(
        ENOUGH[kind] <= found["said"] <= 1
        and (kind == "latency" or found["used"] == found["said"])
        for kind, found in row["budgets"].items()
    )
    usage = resource.getrusage(resource.RUSAGE_SELF)
    gib = round(usage.ru_maxrss / 2**20, 2)
    return row | {"gib": gib} | applications.machine()


def planned(model, bounds):
    """A plan, and the seconds and the shares of it."""
    budget = keras_prm.Budget(**bounds)
    plan, seconds = application_checks.timed(
        keras_prm.SparsityPlan.for_budget, model, budget
    )
    shares = [group.keep / group.size for group in plan.groups]
    row = {"seconds": round(seconds, 2), "shares": [min(shares), max(shares)]}
    return plan, row


def stripped(model, plan, weights):
    """What `strip` leaves of a model by a plan."""
    model.set_weights(weights)
    keras_prm.hard_prune(model, plan)
    return keras_prm.strip(model)


def latency_share(model, small, rng):
    """The latency of a small model's file as a share of the dense one's."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [pathlib.Path(folder) / f"{i}.tflite" for i in range(2)]
        for path, each in zip(paths, (model, small)):
            keras_prm.export_litert(each, path, check=False)
        x = application_models.images(model, 1, rng).astype("float32")
        seconds = keras_prm.latency(paths, x)
    return seconds[1] / seconds[0]


def isolated(*arguments):
    """`measure` in a new process, whose memory goes with it."""
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, spawn) as pool:
        try:
            return pool.submit(measure, *arguments).result()
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            return {"model": arguments[0], "error": message}


def is_done(row):
    """Whether a row is what the flags ask for, and has passed."""
    same = (row.get("seed"), row.get("asked_size")) == (FLAGS.seed, FLAGS.size)
    has_all = not FLAGS.latency or "latency" in row.get("budgets", {})
    return same and has_all and row.get("passed", False)


def summary(row):
    """What is printed of a row while the others are still to come."""
    if "error" in row:
        return f"FAILED: {row['error']}"
    parts = [
        f"{kind} {found['used']:.2%} in {found['seconds']:.1f} s"
        for kind, found in row["budgets"].items()
    ]
    passed = "passed" if row["passed"] else "FAILED"
    return f"{passed}: {', '.join(parts)}, {row['gib']:.1f} GiB"


def table(rows):
    """The rows as Markdown, and how they came about."""
    rows = [rows[n] for n in application_models.constructors() if n in rows]
    good = [row for row in rows if "error" not in row]
    lines = [(*_COLUMNS, "seconds")]
    for row in good:
        for kind, found in row["budgets"].items():
            bound = LATENCY if kind == "latency" else BUDGETS[kind]
            low, high = found["shares"]
            lines.append(
                (
                    row["model"],
                    str(row["size"]),
                    str(row["groups"]),
                    f"{kind}={bound}",
                    f"{found['used']:.2%}",
                    f"{found['said']:.2%}",
                    f"{low:.0%} to {high:.0%}",
                    f"{found['seconds']:.1f}",
                )
            )
    passed = sum(row["passed"] for row in good)
    notes = [f"{passed} of {len(rows)} models pass."]
    notes += [f"{r['model']}: {r['error']}" for r in rows if r not in good]
    notes += sorted({f"{r['machine']}, {r['versions']}." for r in good})
    notes += [
        "    .venv/bin/python -m benchmarks.budgets --table=docs/budgets.md"
    ]
    parts = [_HEAD.rstrip(), tables.markdown(lines, pad=False), *notes]
    return "\n\n".join(parts) + "\n"


def main(argv):
    del argv

    def measure_one(name):
        return isolated(name, FLAGS.size, FLAGS.seed, FLAGS.latency)

    applications.run(measure_one, is_done, summary, table)


if __name__ == "__main__":
    app.run(main)
