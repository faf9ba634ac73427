r"""Accuracy against compression: ADMM, and what else one would use.

    python -m examples.study.frontier --dataset=path/to/mnist.npz

Makes every result of a recipe, of every seed and method, that is not known
yet: run it again after it was cut off. (One such command at a time.) Each is
a folder `OUTPUT_DIR/METHOD/POINT/seedN` with the small model, its `.tflite`
file and `summary.json`; tables and the picture come from these, and from
results that the repository holds already. `--known=` makes those anew.

Everything is chosen on the validation split; the test split is read once per
result, by its `.tflite` file, and shown in the tables only. Ablations are
methods too: `--methods=untaught,two_buffers,filters_first --points=235x`.
`frontier_tfmot.py`, beside this, prunes single weights, in its own environment.
"""

import concurrent.futures
import functools
import multiprocessing
import os
import pathlib
import time
import traceback

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from absl import app
from absl import flags

from examples.common import image_data
from examples.study import frontier_report
from examples.study import frontier_results
from examples.study import frontier_schedule
from examples.study.frontier_recipe import FrontierRecipe
from examples.study.recipe import RECIPES
from examples.study.recipe import RESULTS

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "dataset", "digits", "'digits', the path of an .npz file, or a TFDS name."
)
flags.DEFINE_string(
    "recipe",
    str(RECIPES / "lenet5_mnist.json"),
    "The recipe, a JSON file.",
)
flags.DEFINE_string("output_dir", "runs/frontier", "Where results are kept.")
flags.DEFINE_string(
    "known",
    str(RESULTS / "lenet5_mnist" / "results.json"),
    "A file of results that need not be made again.",
)
flags.DEFINE_list(
    "methods",
    ["admm", "one_shot", "iterative", "plan_step_by_step"],
    "Methods to run.",
)
flags.DEFINE_list("points", [], "Points to run; all, if none is named.")
flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of all that is random.")
flags.DEFINE_integer(
    "processes", os.cpu_count(), "How many results at a time.", 1
)
flags.DEFINE_bool("quick", False, "One epoch and one seed, as a test.")


def main(argv):
    del argv
    recipe = FrontierRecipe.load(FLAGS.recipe)
    seeds = FLAGS.seeds
    if FLAGS.quick:
        recipe, seeds = recipe.quick(), seeds[:1]
    try:
        jobs = frontier_schedule.wanted(
            recipe, FLAGS.methods, FLAGS.points, seeds
        )
    except ValueError as error:
        raise SystemExit(str(error)) from None
    unknown, known = without_known(recipe, jobs)
    print(
        f"{len(jobs)} results wanted, {len(jobs) - len(unknown)} known, "
        f"{FLAGS.processes} at a time."
    )
    failed = make(recipe, unknown)
    print(frontier_report.write(FLAGS.output_dir, recipe, known))
    if failed:
        raise SystemExit(f"{failed} results could not be made, see above.")


def without_known(recipe, jobs):
    """The jobs whose results are not known, and what is of these images."""
    known = frontier_report.known(FLAGS.known) if FLAGS.known else {}
    data, settings = {}, {}
    for seed in sorted({job[2] for job in (*jobs, *known)}):
        images = image_data.load(FLAGS.dataset, seed)  # exits where it cannot
        results = frontier_results.Results(
            recipe, images, FLAGS.output_dir, seed
        )
        data[seed] = results.fingerprint
        for job in jobs:
            if job[2] == seed:
                settings[job] = results.settings(*job[:2])
    known = frontier_schedule.of_data(known, data)
    return frontier_schedule.unknown(jobs, known, settings), known


def make(recipe, jobs):
    """Makes results, in processes of their own; how many failed."""
    if FLAGS.processes > 1:  # one thread each; the new processes read this
        os.environ["TF_NUM_INTRAOP_THREADS"] = "1"
        os.environ["TF_NUM_INTEROP_THREADS"] = "1"
    # Else each batch's memory goes back to the system, to be cleared anew.
    os.environ.setdefault(
        "GLIBC_TUNABLES",
        "glibc.malloc.mmap_threshold=2000000000:"
        "glibc.malloc.trim_threshold=4000000000:"
        "glibc.malloc.top_pad=200000000:"
        "glibc.malloc.hugetlb=1",
    )
    do = functools.partial(
        in_turn, recipe, FLAGS.dataset, pathlib.Path(FLAGS.output_dir)
    )
    failed = 0
    with concurrent.futures.ProcessPoolExecutor(
        FLAGS.processes,
        multiprocessing.get_context("spawn"),
        max_tasks_per_child=1,
    ) as pool:
        for groups in frontier_schedule.phases(jobs, recipe):
            failed += sum(pool.map(do, groups))
    return failed


def in_turn(recipe, dataset, folder, jobs):
    """Does the jobs of one seed one after another; how many failed."""
    seed = jobs[0][2]
    data = image_data.load(dataset, seed)
    failed = 0
    for method, point, _ in jobs:
        start = time.time()
        results = frontier_results.Results(recipe, data, folder, seed)
        name = f"{method}, {point or 'what it starts from'}, seed {seed}"
        results.trainer.say = functools.partial(say, f"  {name}")
        try:
            line = one(results, method, point)
        except Exception:
            failed += point is not None
            line = traceback.format_exc()
        say(name, f"{line} ({time.time() - start:.0f} s)")
        keras.backend.clear_session()  # what was compiled piles up
    return failed


def say(name, text):
    print(f"{name}: {text}", flush=True)


def one(results, method, point):
    """Makes one result, or what it starts from; a line about it."""
    after = frontier_results.METHODS[method].after
    if point is None:
        results.dense() if after is None else results.base(after)
        return "done"
    found = results.result(method, point)
    return (
        f"{found['ratio']:.0f}x, {found['stored_ratio']:.0f}x stored, "
        f"{found['conv_ratio']:.0f}x CONV, "
        f"valid {100 * found['valid_accuracy']:.2f}"
    )


if __name__ == "__main__":
    app.run(main)
