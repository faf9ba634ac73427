r"""What purification and path removal take off, on a budget, and at what cost.

    python -m examples.study.frontier_purification --dataset=path/to/mnist.npz

Purifies the base of a recipe, as it was retrained after its first round of
ADMM, in several ways: not at all, by one sweep over the layers, as the paper
prints it, and to a fixed point, on budgets of validation log likelihood.
Where `examples.study.frontier` left the base, that is what it starts from.
Accuracies are on the validation split; the test split is not touched.
"""

import os
import statistics

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import app
from absl import flags

from examples.common import image_data
from examples.study import frontier_methods
from examples.study import frontier_results
from examples.study import result_files
from examples.study.frontier_recipe import FrontierRecipe
from examples.study.recipe import RECIPES
from keras_prm.reports import tables

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "dataset", None, "The path of an .npz file, or a TFDS name."
)
flags.DEFINE_string(
    "recipe",
    str(RECIPES / "lenet5_mnist.json"),
    "The recipe.",
)
flags.DEFINE_string("output_dir", "runs/frontier", "Of the frontier.")
flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds.")
flags.DEFINE_list("budgets", ["0", "0.002", "0.005", "0.01"], "`max_drop`.")
SWEEPS = ("single", "fixed_point")


def accounts(results, budgets):
    """dict from `(sweeps, budget)` to what purification leaves, one seed."""
    trainer = results.trainer
    results.base("admm")
    path = results.path("base_by_admm", "-") / "retrained.keras"

    def retrained():
        return result_files.load_model(path)

    found = {("none", ""): trainer.account("", retrained())}
    for sweeps in SWEEPS:
        for budget in budgets:
            _, stages = frontier_methods.purified(
                *(trainer, retrained(), []), max_drop=budget, sweeps=sweeps
            )
            found[sweeps, f"{budget:g}"] = stages[-1]
    return found


def table(by_seed):
    """Markdown: medians over the seeds, factors against no purification."""
    lines = [
        ("sweeps", "budget", "CONV weights", "factor", "weights", "factor")
        + ("stored", "factor", "valid", "lost")
    ]
    for key in by_seed[0]:
        cells = list(key)
        for count in ("conv_weights", "weights", "stored"):
            left = [found[key][count] for found in by_seed]
            factors = [
                found["none", ""][count] / found[key][count]
                for found in by_seed
            ]
            cells.append(tables.number(statistics.median(left)))
            cells.append(f"{statistics.median(factors):.2f}x")
        valid = [100 * found[key]["valid_accuracy"] for found in by_seed]
        before = [
            100 * found["none", ""]["valid_accuracy"] for found in by_seed
        ]
        cells.append(f"{statistics.median(valid):.2f}")
        lost = [b - a for a, b in zip(valid, before)]
        cells.append(f"{statistics.median(lost):.2f}")
        lines.append(cells)
    return tables.markdown(lines)


def main(argv):
    del argv
    if FLAGS.dataset is None:
        raise SystemExit("Which images? Give --dataset=PATH.npz.")
    recipe = FrontierRecipe.load(FLAGS.recipe)
    try:
        seeds = [int(seed) for seed in FLAGS.seeds]
        budgets = [float(budget) for budget in FLAGS.budgets]
    except ValueError as error:
        raise SystemExit(f"Seeds and budgets are numbers: {error}") from None
    by_seed = []
    for seed in seeds:
        data = image_data.load(FLAGS.dataset, seed)
        results = frontier_results.Results(recipe, data, FLAGS.output_dir, seed)
        by_seed.append(accounts(results, budgets))
    print(table(by_seed))


if __name__ == "__main__":
    app.run(main)
