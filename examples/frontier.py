r"""Accuracy against compression: ADMM, and what else one would use.

    python -m examples.frontier --dataset=path/to/mnist.npz

Trains every point of a recipe with every seed and method, as far as results
are not there yet: run it again after it was cut off. Each result is a folder
`OUTPUT_DIR/METHOD/POINT/seedN` with the small model, its `.tflite` files and
`summary.json`; tables and the picture come last, from these alone.

Everything is chosen on the validation split; the test split is read once per
result, by its `.tflite` file. `examples/frontier_tfmot.py` adds unstructured
pruning, in an environment of its own.
"""

import concurrent.futures
import functools
import json
import multiprocessing
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import app
from absl import flags

from examples import frontier_report
from examples import recipes

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "dataset", "digits", "'digits', the path of an .npz file, or a TFDS name."
)
flags.DEFINE_string(
    "recipe",
    str(pathlib.Path(__file__).with_name("recipes") / "lenet5_mnist.json"),
    "The recipe, a JSON file.",
)
flags.DEFINE_string("output_dir", "runs/frontier", "Where results are kept.")
flags.DEFINE_list("methods", ["admm", "one_shot", "iterative"], "Which ways.")
flags.DEFINE_list("points", [], "Which points; all, if none is named.")
flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of all that is random.")
flags.DEFINE_integer(
    "processes", os.cpu_count(), "How many results at a time.", 1
)
flags.DEFINE_bool("quick", False, "One epoch each, as a test.")


def main(argv):
    del argv
    recipe = recipes.Recipe.load(FLAGS.recipe)
    if FLAGS.quick:
        recipe = recipe.quick()
    folder = pathlib.Path(FLAGS.output_dir)
    jobs = wanted_jobs(recipe)
    claim(folder, recipe.first_round() | {"dataset": FLAGS.dataset})
    seeds = sorted({seed for _, _, seed in jobs})
    first = first_rounds({method for method, _, _ in jobs})
    print(f"{len(jobs)} results wanted, {FLAGS.processes} at a time.")
    if FLAGS.processes > 1:  # one thread each; the new processes read this
        os.environ["TF_NUM_INTRAOP_THREADS"] = "1"
        os.environ["TF_NUM_INTEROP_THREADS"] = "1"
    with concurrent.futures.ProcessPoolExecutor(
        FLAGS.processes, multiprocessing.get_context("spawn")
    ) as pool:
        run = functools.partial(pool.submit, job, recipe, FLAGS.dataset, folder)
        wait([run("dense", None, seed) for seed in seeds])
        # What several results start from, once.
        wait([run("base", method, seed) for seed in seeds for method in first])
        wait([run(*one) for one in jobs])
    print(frontier_report.write(folder, recipe))


def claim(folder, settings):
    """Makes the folder one for these settings; exits if it is of others.

    What several results start from is made once and found by its name.
    """
    path = folder / "first_round.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_text(json.dumps(settings, indent=1))
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SystemExit(
            f"Cannot use {folder} ({error}). Choose another --output_dir."
        ) from None
    other = sorted(
        name for name in settings if settings[name] != found.get(name)
    )
    if other:
        raise SystemExit(
            f"What is in {folder} began with other settings: {other} differ. "
            "Choose another --output_dir, or delete this one."
        )


def wanted_jobs(recipe):
    """All `(method, point, seed)` that the flags ask for, checked."""
    from examples import frontier_jobs

    points = FLAGS.points or list(recipe.points)
    for name, given, known in (
        ("points", points, recipe.points),
        ("methods", FLAGS.methods, frontier_jobs.METHODS),
    ):
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise SystemExit(
                f"--{name}: there is no {unknown}. Choose among {list(known)}."
            )
    return [
        (method, point, int(seed))
        for seed in FLAGS.seeds
        for point in points
        for method in FLAGS.methods
        if frontier_jobs.applies(method, point, recipe)
    ]


def first_rounds(methods):
    """Of the methods, one for each first round that they go through."""
    from examples import frontier_jobs

    known = frontier_jobs.METHODS
    bases = {known[name].base: name for name in sorted(methods)}
    return [name for base, name in bases.items() if base is not None]


def job(recipe, dataset, folder, method, point, seed):
    """Makes one result, in a process of its own; a line that says so."""
    from examples import frontier_jobs

    start = time.time()
    line = frontier_jobs.run(recipe, dataset, folder, method, point, seed)
    return line and f"{line} ({time.time() - start:.0f} s)"


def wait(futures):
    """Prints what the jobs return, as they end."""
    for number, future in enumerate(
        concurrent.futures.as_completed(futures), 1
    ):
        line = future.result()
        if line:
            print(f"[{number}/{len(futures)}] {line}", flush=True)


if __name__ == "__main__":
    app.run(main)
