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
    seeds = sorted({seed for _, _, seed in jobs})
    first = first_rounds({method for method, _, _ in jobs})
    claim(folder, recipe.first_round() | {"dataset": FLAGS.dataset})
    print(f"{len(jobs)} results wanted, {FLAGS.processes} at a time.")
    if FLAGS.processes > 1:  # one thread each; the new processes read this
        os.environ["TF_NUM_INTRAOP_THREADS"] = "1"
        os.environ["TF_NUM_INTEROP_THREADS"] = "1"
    with concurrent.futures.ProcessPoolExecutor(
        FLAGS.processes,
        multiprocessing.get_context("spawn"),
        max_tasks_per_child=1,  # what they compile piles up
    ) as pool:
        run = functools.partial(
            pool.submit, in_turn, recipe, folder, FLAGS.dataset
        )
        # What several results start from, once: one after another by seed.
        wait([run([(m, None, s) for m in first]) for s in seeds])
        wait([run(list(group)) for group in grouped(jobs, recipe)])
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
    return list({known[name].after: name for name in sorted(methods)}.values())


def grouped(jobs, recipe):
    """Jobs that start from each other's results together, in their order."""
    groups = {}
    for method, point, seed in jobs:
        chain = tuple(recipe.before(point)[:1]) or (point,)
        groups.setdefault((method, chain, seed), []).append(
            (method, point, seed)
        )
    return groups.values()


def in_turn(recipe, folder, dataset, jobs):
    """Does jobs one after another, in a process of its own."""
    from examples import frontier_jobs

    for method, point, seed in jobs:
        if point is None:
            frontier_jobs.prepare(recipe, dataset, folder, method, seed)
        else:
            frontier_jobs.run(recipe, dataset, folder, method, point, seed)


def wait(futures):
    """Waits for all; an error of one is raised when the others are done."""
    concurrent.futures.wait(futures)
    for future in futures:
        future.result()


if __name__ == "__main__":
    app.run(main)
