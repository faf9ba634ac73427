r"""The pruned models that live in the repository: picking and checking them.

    python -m examples.shipping --ship --dataset=path/to/mnist.npz
    python -m examples.shipping --dataset=path/to/mnist.npz

The first copies the tables and the models of the points that a recipe ships
from where `examples.study.frontier` left them, of each point the seed whose
validation accuracy is the middle one, and writes int8 files. The second loads
what is shipped, measures it on the test images, and fails where a file
differs from what its `summary.json` claims.
"""

import functools
import os
import pathlib
import shutil

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import app
from absl import flags

import keras_prm
from examples.common import image_bytes
from examples.common import image_data
from examples.study import claims
from examples.study import frontier_report
from examples.study import over_seeds
from examples.study import result_files
from examples.study.frontier_recipe import FrontierRecipe
from examples.study.recipe import RECIPES
from examples.study.recipe import RESULTS

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "dataset", None, "The path of an .npz file, or a TFDS name."
)
flags.DEFINE_bool("ship", False, "Copies results before they are checked.")
flags.DEFINE_string("recipe", str(RECIPES / "lenet5_mnist.json"), "The recipe.")
flags.DEFINE_string("output_dir", "runs/frontier", "Of the frontier.")
flags.DEFINE_string(
    "results", str(RESULTS / "lenet5_mnist"), "What is shipped."
)


def ship(folder, results, recipe, dataset):
    """Copies the middle seed of each point that is shipped, and the tables.

    A seed that is not in the folder, but shipped already, stays.
    """
    known = frontier_report.known(results / "results.json")
    rows = frontier_report.read(folder, recipe, known)
    for point in recipe.shipped:
        found = rows.get(("admm", point))
        if not found:
            raise SystemExit(
                f"There are no results of {point}. Make them by "
                "`python -m examples.study.frontier`."
            )
        row = over_seeds.middle(found)
        source = folder / "admm" / point / f"seed{row['seed']}"
        if result_files.is_done(source, row["settings"]):
            copy(source, results / point, dataset)
        elif not result_files.is_done(results / point, row["settings"]):
            raise SystemExit(
                f"The middle one of {point}, seed {row['seed']}, is not in "
                f"{folder}. Make it by `python -m examples.study.frontier "
                f"--known= --methods=admm --points={point} "
                f"--seeds={row['seed']}`."
            )
    frontier_report.write(folder, recipe, known)
    for name in ("frontier.md", "frontier.png", "results.json"):
        shutil.copy(folder / name, results / name)


def copy(source, target, dataset):
    """Copies a result, with an int8 file and measured claims."""
    summary = result_files.read(source)
    data = image_data.load(dataset, summary["seed"])
    target.mkdir(parents=True, exist_ok=True)
    for name in claims.FILES[:2]:
        shutil.copy(source / name, target / name)
    keras_prm.export_litert(
        result_files.load_model(target / "small.keras"),
        target / "int8.tflite",
        "int8",
        representative_data=data["train"].x[:256],
    )
    found = claims.measured(target, data["test"], summary["stages"][0])
    result_files.write_json(target / "summary.json", summary | found)


def main(argv):
    del argv
    if FLAGS.dataset is None:
        raise SystemExit("Which images? Give --dataset=PATH.npz.")
    results = pathlib.Path(FLAGS.results)
    if FLAGS.ship:
        ship(
            pathlib.Path(FLAGS.output_dir),
            results,
            FrontierRecipe.load(FLAGS.recipe),
            FLAGS.dataset,
        )

    @functools.cache
    def images(size, margin):
        return image_bytes.load(FLAGS.dataset, size, margin)["test"]

    if wrong := claims.check(results, images):
        raise SystemExit(f"{wrong} claims are false.")
    print("All claims hold.")


if __name__ == "__main__":
    app.run(main)
