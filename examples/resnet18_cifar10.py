r"""ResNet-18 on CIFAR-10, from dense to a small `.tflite` file.

    python -m examples.resnet18_cifar10                        # by TFDS
    python -m examples.resnet18_cifar10 --dataset=cifar10.npz
    python -m examples.resnet18_cifar10 dense teach            # two phases
    python -m examples.resnet18_cifar10 prune --points=60x
    python -m examples.resnet18_cifar10 --quick                # as a test

Phases, in this order; all of them if none is named. One that is done is not
done again, and one that was cut off goes on at its last epoch.

    dense     trains the dense network
    teach     asks it for its answers to the crops that students will see
    prune     ADMM, hard prune, removal of unused paths
    retrain   what is zero stays zero; the dense network teaches
    purify    on the validation split, within a budget
    strip     leaves out empty columns too; certificate, small.keras
    export    small.tflite and int8.tflite; needs TensorFlow
    compare   times of all points on LiteRT, latency.md; only if it is named

The recipe is for a GPU, where an epoch takes seconds:

    KERAS_BACKEND=jax python -m examples.resnet18_cifar10 \
        --dataset=cifar10.npz --checkpoint_every=10

JAX needs no TensorFlow for it, but for `export`, which may follow elsewhere on
the same `--output_dir`. It has not been run to its end yet; the shorter one for
two CPU cores is `--recipe=examples/recipes/resnet18_cifar10_cpu.json`.
"""

import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
if not __package__:
    sys.path.insert(0, str(pathlib.Path(__file__).absolute().parent.parent))

from absl import app
from absl import flags
from absl import logging

from examples import image_data
from examples import phases
from examples.phase_recipe import PhaseRecipe
from examples.phase_work import Work

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "dataset", "cifar10", "A TFDS name, or the path of an .npz file."
)
flags.DEFINE_string(
    "recipe",
    str(pathlib.Path(__file__).with_name("recipes") / "resnet18_cifar10.json"),
    "The recipe, a JSON file.",
)
flags.DEFINE_string(
    "output_dir", "runs/resnet18_cifar10", "Where everything is written."
)
flags.DEFINE_list("points", [], "Points to go to; all, if none is named.")
flags.DEFINE_integer("seed", 0, "Seed of weights, splits, order and crops.")
flags.DEFINE_integer(
    "checkpoint_every",
    1,
    "Epochs from one checkpoint to the next; more where epochs take seconds.",
    1,
)
flags.DEFINE_bool("quick", False, "Everything in a short form, as a test.")


def main(argv):
    logging.set_verbosity(logging.ERROR)
    known = (*phases.FIRST, *phases.LATER, "compare")
    wanted = argv[1:] or known[:-1]
    recipe = PhaseRecipe.load(FLAGS.recipe)
    recipe = recipe.quick() if FLAGS.quick else recipe
    points = FLAGS.points or list(recipe.points)
    if unknown := sorted({*wanted} - {*known} | {*points} - {*recipe.points}):
        raise SystemExit(
            f"There is no {unknown}. Phases: {', '.join(known)}; points: "
            f"{', '.join(recipe.points)}."
        )
    data = image_data.load(FLAGS.dataset, FLAGS.seed, smallest=32)
    work = Work(
        recipe, data, FLAGS.output_dir, FLAGS.seed, FLAGS.checkpoint_every
    )
    for phase in phases.FIRST:
        if phase in wanted:
            phases.run(work, phase)
    points = [point for point in recipe.points if point in points]
    for point in points:
        for phase in phases.LATER:
            if phase in wanted:
                phases.run(work, phase, point)
    if "compare" in wanted:
        phases.compare(work, points)


if __name__ == "__main__":
    app.run(main)
