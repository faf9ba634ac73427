r"""The pruned models that live in the repository: picking and checking them.

    python -m examples.shipping --ship --dataset=path/to/mnist.npz
    python -m examples.shipping --dataset=path/to/mnist.npz

The first copies the tables and the models of the points that a recipe ships
from where `examples.frontier` left them, of each point the seed whose
validation accuracy is the middle one, and writes int8 files. The second loads
what is shipped, measures it on the test images, and fails where a file
differs from what its `summary.json` claims.
"""

import hashlib
import json
import os
import pathlib
import shutil

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import app
from absl import flags

import keras_prm
from examples import frontier_methods
from examples import frontier_report
from examples import frontier_results
from examples import frontier_training
from examples import image_data
from examples import recipes

HERE = pathlib.Path(__file__).absolute().parent
FLAGS = flags.FLAGS
flags.DEFINE_string(
    "dataset", None, "The path of an .npz file, or a TFDS name."
)
flags.DEFINE_bool("ship", False, "Copies results before they are checked.")
flags.DEFINE_string(
    "recipe", str(HERE / "recipes" / "lenet5_mnist.json"), "The recipe."
)
flags.DEFINE_string("output_dir", "runs/frontier", "Of `examples.frontier`.")
flags.DEFINE_string(
    "results", str(HERE / "results" / "lenet5_mnist"), "What is shipped."
)
FILES = ("small.keras", "small.tflite", "int8.tflite")


def ship(folder, results, recipe, dataset):
    """Copies the middle seed of each point that is shipped, and the tables.

    A seed that is not in the folder, but shipped already, stays.
    """
    known = frontier_report.known(results / "results.json")
    rows = frontier_report.read(folder, recipe, known)
    for point in recipe.shipped:
        row = middle(rows.get(("admm", point), ()), point)
        source = folder / "admm" / point / f"seed{row['seed']}"
        if frontier_results.is_done(source, row["settings"]):
            copy(source, results / point, dataset)
        elif not frontier_results.is_done(results / point, row["settings"]):
            raise SystemExit(
                f"The middle one of {point}, seed {row['seed']}, is not in "
                f"{folder}. Make it by `python -m examples.frontier --known= "
                f"--methods=admm --points={point} --seeds={row['seed']}`."
            )
    frontier_report.write(folder, recipe, known)
    for name in ("frontier.md", "frontier.png", "results.json"):
        shutil.copy(folder / name, results / name)


def middle(rows, point):
    """Of the results of a point, the one of median validation accuracy."""
    if not rows:
        raise SystemExit(
            f"There are no results of {point}. Make them by "
            "`python -m examples.frontier`."
        )
    rows = sorted(rows, key=lambda row: row["valid_accuracy"])
    return rows[(len(rows) - 1) // 2]


def copy(source, target, dataset):
    """Copies a result, with an int8 file and measured claims."""
    summary = frontier_results.read(source)
    data = image_data.load(dataset, summary["seed"])
    target.mkdir(parents=True, exist_ok=True)
    for name in FILES[:2]:
        shutil.copy(source / name, target / name)
    keras_prm.export_litert(
        frontier_results.load_model(target / "small.keras"),
        target / "int8.tflite",
        "int8",
        representative_data=data["train"].x[:256],
    )
    claims = measured(target, data["test"], summary["stages"][0])
    frontier_results.write_json(target / "summary.json", summary | claims)


def measured(folder, test, dense):
    """What a summary says of its files, measured anew.

    Args:
        folder: Where the files are.
        test: The `Split` of the test images.
        dense: Counts of the dense network, for the ratios.
    """
    model = frontier_results.load_model(folder / "small.keras")
    counts = keras_prm.costs(model)
    found = {
        "conv_weights": counts.conv_weights,
        "weights": frontier_methods.num_kernel_weights(model),
        "stored": counts.parameters,
        "macs": counts.macs,
        "tflite_bytes": (folder / "small.tflite").stat().st_size,
    }
    for ratio, count in frontier_results.RATIOS:
        found[ratio] = dense[count] / found[count]
    accuracies = {"small.keras": frontier_training.accuracy(model, test)}
    for name in FILES[1:]:
        accuracies[name] = frontier_results.file_accuracy(folder / name, test)
    return found | {
        "test_accuracy": accuracies["small.tflite"],
        "test_accuracies": accuracies,
        "files": {
            name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
            for name in FILES
        },
    }


def differences(summary, found, tolerance=2e-4):
    """Where measurements differ from claims, a list of texts.

    Another processor may round a logit otherwise: accuracies may differ by
    `tolerance`, two images in ten thousand. All else has to agree.
    """
    claims, values = _flat(summary), _flat(found)
    return [
        f"{name}: claims {claims.get(name)}, has {value}"
        for name, value in values.items()
        if not _agree(claims.get(name), value, tolerance)
    ]


def _flat(summary):
    found = {}
    for name, value in summary.items():
        inner = value if isinstance(value, dict) else {"": value}
        found |= {f"{name} {key}".strip(): v for key, v in inner.items()}
    return found


def _agree(claim, value, tolerance):
    if isinstance(value, float) and isinstance(claim, float):
        return abs(claim - value) <= tolerance
    return claim == value


def check(results, test):
    """Prints what the shipped models do; the number of false claims."""
    paths = sorted(results.glob("*/summary.json"))
    if not paths:
        raise SystemExit(f"Nothing is shipped in {results}. Mind --results.")
    wrong = 0
    for path in paths:
        summary = json.loads(path.read_text())
        found = measured(path.parent, test, summary["stages"][0])
        texts = differences(summary, found)
        wrong += len(texts)
        accuracies = ", ".join(
            f"{name} {100 * value:.2f}"
            for name, value in found["test_accuracies"].items()
        )
        print(f"{path.parent.name}: {accuracies}; {found['stored']:,} stored")
        for text in texts:
            print(f"  FALSE: {text}")
    return wrong


def main(argv):
    del argv
    if FLAGS.dataset is None:
        raise SystemExit("Which images? Give --dataset=PATH.npz.")
    results = pathlib.Path(FLAGS.results)
    if FLAGS.ship:
        ship(
            pathlib.Path(FLAGS.output_dir),
            results,
            recipes.Recipe.load(FLAGS.recipe),
            FLAGS.dataset,
        )
    test = image_data.load(FLAGS.dataset)["test"]
    if wrong := check(results, test):
        raise SystemExit(f"{wrong} claims are false.")
    print("All claims hold.")


if __name__ == "__main__":
    app.run(main)
