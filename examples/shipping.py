r"""The pruned models that live in the repository: picking and checking them.

    python -m examples.shipping --ship --dataset=path/to/mnist.npz
    python -m examples.shipping --dataset=path/to/mnist.npz

The first copies the models of the points that a recipe ships from where
`examples.frontier` left them, of each the seed whose validation accuracy is
the middle one, and writes int8 files. The second loads what is shipped,
measures it on the test images, and fails where a file differs from what its
`summary.json` claims.
"""

import hashlib
import json
import os
import pathlib
import shutil

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from absl import app
from absl import flags

import keras_prm
from examples import frontier_jobs
from examples import image_data
from examples import recipes

HERE = pathlib.Path(__file__).absolute().parent
FLAGS = flags.FLAGS
flags.DEFINE_string("dataset", None, "The path of an .npz file, or of TFDS.")
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
    """Copies the middle seed of each point that is shipped."""
    for point in recipe.shipped:
        source = middle(folder / "admm" / point)
        summary = json.loads((source / "summary.json").read_text())
        data = frontier_jobs.load(dataset, summary["seed"])
        target = results / point
        target.mkdir(parents=True, exist_ok=True)
        for name in FILES[:2]:
            shutil.copy(source / name, target / name)
        # Called once before, so that no graph of training is exported.
        model = keras.models.load_model(target / "small.keras", compile=False)
        keras_prm.export_litert(
            model,
            target / "int8.tflite",
            "int8",
            representative_data=data["train"].x[:256],
        )
        claims = claimed(target, data["test"])
        frontier_jobs.write_json(target / "summary.json", summary | claims)


def middle(folder):
    """The folder of the seed with the median validation accuracy."""
    paths = sorted(folder.glob("seed*/summary.json"))
    if not paths:
        raise SystemExit(
            f"There are no results in {folder}. Make them by "
            "`python -m examples.frontier`."
        )
    paths.sort(key=lambda p: json.loads(p.read_text())["valid_accuracy"])
    return paths[(len(paths) - 1) // 2].parent


def claimed(folder, test):
    """What a summary says of its files, measured."""
    model = keras.models.load_model(folder / "small.keras", compile=False)
    logits = model.predict(test.x, batch_size=500, verbose=0)
    counts = keras_prm.costs(model)
    return {
        "conv_weights": counts.conv_weights,
        "stored": counts.parameters,
        "macs": counts.macs,
        "files": {
            name: {
                "bytes": (folder / name).stat().st_size,
                "sha256": hashlib.sha256(
                    (folder / name).read_bytes()
                ).hexdigest(),
            }
            for name in FILES
        },
        "test_accuracies": {
            "small.keras": float((np.argmax(logits, -1) == test.y).mean()),
            **{
                name: frontier_jobs.file_accuracy(folder / name, test)
                for name in FILES[1:]
            },
        },
    }


def differences(summary, found, tolerance=2e-4):
    """Where measurements differ from claims, a list of texts.

    Another processor may round a logit otherwise: accuracies may differ by
    `tolerance`, two images in ten thousand. All else has to agree.
    """
    texts = []
    for key, value in found.items():
        claim = summary.get(key)
        if key == "test_accuracies":
            for name, accuracy in value.items():
                if abs(accuracy - claim[name]) > tolerance:
                    texts.append(
                        f"{name}: claims {claim[name]}, has {accuracy}"
                    )
        elif claim != value:
            texts.append(f"{key}: claims {claim}, has {value}")
    return texts


def check(results, test):
    """Prints what the shipped models do; the number of false claims."""
    wrong = 0
    for path in sorted(results.glob("*/summary.json")):
        summary = json.loads(path.read_text())
        found = claimed(path.parent, test)
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
