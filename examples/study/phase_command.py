"""The command of an example whose network is pruned in phases."""

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import app
from absl import flags
from absl import logging

from examples.common import image_bytes
from examples.study import phase_report
from examples.study import phases
from examples.study.phase_recipe import PhaseRecipe
from examples.study.phase_work import PhaseWork
from examples.study.recipe import RECIPES

FLAGS = flags.FLAGS
flags.disclaim_key_flags()  # They are those of the example, for its --help.


def run(recipe):
    """Defines the flags, and does the phases that are named.

    Args:
        recipe: Name of the usual recipe, in `recipes`.
    """
    flags.DEFINE_string(
        "dataset",
        None,
        "A TFDS name, or the path of an .npz file; that of the recipe, if none "
        "is given.",
    )
    flags.DEFINE_string(
        "recipe", str(RECIPES / f"{recipe}.json"), "The recipe, a JSON file."
    )
    flags.DEFINE_string(
        "output_dir",
        None,
        "Where everything is written; a folder in runs/ that is named after "
        "recipe and seed, if none is given.",
    )
    flags.DEFINE_string(
        "images_dir", "runs/images", "Where images of TFDS are kept as bytes."
    )
    flags.DEFINE_list(
        "points", [], "Points to go to; all by ADMM, if none is named."
    )
    flags.DEFINE_integer(
        "image_size", None, "Pixels that the network sees; see the recipe.", 1
    )
    flags.DEFINE_integer("seed", 0, "Seed of weights, splits, order and crops.")
    flags.DEFINE_integer(
        "checkpoint_every",
        1,
        "Epochs from one checkpoint to the next; more where epochs take "
        "seconds.",
        1,
    )
    flags.DEFINE_integer(
        "workers",
        1,
        "Threads that read batches ahead; more where images are on disk.",
        1,
    )
    flags.DEFINE_bool("quick", False, "Everything in a short form, as a test.")
    app.run(_main)


def _main(argv):
    logging.set_verbosity(logging.ERROR)
    wanted = argv[1:] or [*phases.FIRST, *phases.LATER]
    recipe = PhaseRecipe.load(FLAGS.recipe)
    recipe = recipe.quick() if FLAGS.quick else recipe
    if FLAGS.image_size is not None:
        recipe = recipe.at_size(FLAGS.image_size)
    points = _points(recipe, wanted)
    try:
        recipe.try_out()
    except (TypeError, ValueError) as error:
        raise SystemExit(f"The recipe is of no use: {error}") from None
    work = _work(recipe)
    for phase in phases.FIRST:
        if phase in wanted:
            phases.run(work, phase)
    for point in points:
        for phase in phases.LATER:
            if phase in wanted:
                phases.run(work, phase, point)
    for phase, function in phases.LAST.items():
        if phase in wanted:
            function(work, points)
    if phase_report.read([work.folder]):
        print(f"\n{phase_report.text([work.folder])}")


def _points(recipe, wanted):
    """The points to go to, in their order; exits where a name is unknown."""
    known = (*phases.FIRST, *phases.LATER, *phases.LAST)
    points = FLAGS.points or [
        name for name, point in recipe.points.items() if point.by == "admm"
    ]
    if unknown := sorted({*wanted} - {*known} | {*points} - {*recipe.points}):
        raise SystemExit(
            f"There is no {unknown}. Phases: {', '.join(known)}; points: "
            f"{', '.join(recipe.points)}."
        )
    return [point for point in recipe.points if point in points]


def _work(recipe):
    data = image_bytes.load(
        FLAGS.dataset or recipe.dataset,
        recipe.image_size,
        recipe.margin,
        FLAGS.seed,
        FLAGS.images_dir,
        most=2000 if FLAGS.quick else None,
    )
    folder = FLAGS.output_dir or (
        pathlib.Path("runs")
        / pathlib.Path(FLAGS.recipe).stem
        / f"{'quick' if FLAGS.quick else 'seed'}{FLAGS.seed}"
    )
    options = FLAGS.seed, FLAGS.checkpoint_every, FLAGS.workers
    return PhaseWork(recipe, data, folder, *options)
