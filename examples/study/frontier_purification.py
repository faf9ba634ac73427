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
from examples.study import over_seeds
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
    before = [found["none", ""] for found in by_seed]
    for key in by_seed[0]:
        rows = [found[key] for found in by_seed]
        cells = list(key)
        for _, count in result_files.RATIOS:
            factors = [
                old[count] / new[count] for old, new in zip(before, rows)
            ]
            cells.append(tables.number(over_seeds.median(rows, count)))
            cells.append(f"{statistics.median(factors):.2f}x")
        lost = [
            100 * (old["valid_accuracy"] - new["valid_accuracy"])
            for old, new in zip(before, rows)
        ]
        valid = over_seeds.median(rows, "valid_accuracy")
        cells += [f"{100 * valid:.2f}", f"{statistics.median(lost):.2f}"]
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
