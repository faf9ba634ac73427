"""The phases from a dense network to a small file, each done once.

A phase leaves a file, by which the next one finds it done: a machine may be
taken away at any time, and training goes on at its last epoch.

    output_dir/dense/    dense.keras, answers/viewNN.npy
    output_dir/POINT/    pruned.keras, retrained.keras, purified.keras,
                         small.keras, *.tflite, summary.json
"""

import dataclasses
import importlib.util

import keras
import numpy as np

import keras_prm
from examples.common import augmentation
from examples.study import claims
from examples.study import measuring
from examples.study import model_forms
from examples.study import phase_pruning
from examples.study import result_files
from examples.study.phase_recipe import LOWERINGS


def run(work, phase, point="dense"):
    """Does one phase, unless it is done.

    Args:
        work: The `PhaseWork`.
        phase: Name in `FIRST` or `LATER`.
        point: Name of the point, for those in `LATER`.
    """
    function, name = (FIRST | LATER)[phase]
    path = work.open(point)
    print(f"\n== {phase}, {point}", flush=True)
    if (path / name).exists():
        print(f"Done: {path / name}")
    else:
        function(work, *([] if phase in FIRST else [point]))


def train_dense(work):
    """Trains the dense network, and maybe once more."""
    found, path = work.new_network(), work.folder / "dense"
    ends = []
    for training in filter(None, (work.recipe.dense, work.recipe.again)):
        model, whole = work.for_training(found, training)
        work.trainer.fit(
            whole,
            work.trainer.falling_sgd(training),
            training,
            path,
        )
        found, path = model_forms.as_kept(model), path / "again"
        ends.append(found)
    if work.recipe.average is not None:
        found = model_forms.mean(*ends, work.recipe.average)
        plain = dataclasses.replace(work.recipe.dense, hole=0)
        model, whole = work.for_training(found, plain)
        batches = work.trainer.batches()
        some = range(min(40, len(batches)))
        keras_prm.recalibrate(whole, (batches[i][0] for i in some))
        found = model_forms.as_kept(model)
    work.end("dense", "dense", [("dense", found)])


def teach(work):
    """Asks the dense network for its answers to what students will see."""
    if not work.recipe.distillation.weight:
        print("The recipe has nobody teach.")
        return
    paths = work.views()
    if all(path.exists() for path in paths):
        print(f"Done: {paths[0].parent}")
        return
    training = dataclasses.replace(work.recipe.dense, hole=0)
    _, whole = work.for_training(work.load("dense", "dense", "dense"), training)
    for view, path in enumerate(paths):
        if not path.exists():
            _write_answers(work, whole, view, path)
        print(f"view {view + 1} of {len(paths)}", flush=True)


def _write_answers(work, model, view, path):
    """Writes what a model says of one crop of each training image."""
    train, recipe = work.data["train"], work.recipe
    crops = augmentation.draw_view(
        len(train.y), recipe.pixels, work.seed, view, recipe.flips
    )
    batches = augmentation.InOrder(
        train, 500, recipe.pixels, crops, workers=work.trainer.workers
    )
    path.parent.mkdir(exist_ok=True)
    part = path.with_suffix(".part.npy")
    answers = np.lib.format.open_memmap(
        part, "w+", "float16", (len(train.y), work.num_classes)
    )
    for i in range(len(batches)):
        rows = slice(500 * i, 500 * (i + 1))
        answers[rows] = model.predict_on_batch(batches[i][0])
    answers.flush()
    part.replace(path)


def prune(work, point):
    """Gets sparse, and takes dead filters out."""
    start, stages = work.start(point)
    way = phase_pruning.WAYS[work.recipe.points[point].by]
    stages += way(work, point, start)
    stages.append(("unused paths", keras_prm.strip(stages[-1][1])))
    work.end(point, "pruned", stages)


def retrain(work, point):
    """Trains what is left; what is zero stays zero."""
    training = work.recipe.points[point].retrain
    model, whole = work.for_training(
        work.load(point, "pruned", "prune"), training
    )
    work.trainer.fit(
        whole,
        work.trainer.falling_sgd(training),
        training,
        work.folder / point / "retrain",
        [keras_prm.StructuredMask(keras_prm.masks_of(whole))],
        work.answers(),
    )
    retrained = model_forms.as_kept(model)
    work.end(point, "retrained", [("retrained", retrained)])


def purify(work, point):
    """Removes what hardly contributes, within the budget."""
    model = work.load(point, "retrained", "retrain")
    valid = work.data["valid"]
    before = measuring.logits_of(model, valid)

    def agreement(model):
        logits = measuring.logits_of(model, valid)
        return -measuring.mean_divergence(logits, before)

    found = keras_prm.purify(
        model,
        evaluate=agreement,
        max_drop=work.recipe.max_drop,
    )
    print(found)
    work.end(point, "purified", [("purified", model)])


def strip(work, point):
    """Takes out what does nothing, and maybe columns; certified, measured."""
    model = work.load(point, "purified", "purify")
    small = work.stripped(point)
    stages = [("unused paths", small)]
    if (lowering := LOWERINGS[work.recipe.lowering]) != "none":
        small = keras_prm.strip(model, lowering=lowering)
        stages.append(("without empty columns", small))
    certificate = keras_prm.verify(
        model, small, inputs=work.data["valid"].floats(slice(500))
    )
    print(certificate)
    work.end(point, "small", stages)
    stages = work.account(point)
    path = work.folder / point
    dense = work.test_shares(work.load("dense", "dense", "dense"))
    work.write_summary(
        path,
        point,
        stages,
        result_files.read(path, "settings.json")["settings"],
        exact=certificate.ok,
        max_abs_error=certificate.max_abs_error,
        **{f"dense_test_{name}": share for name, share in dense.items()},
        top=work.recipe.top,
        test_accuracies={"small.keras": work.test_shares(small)["accuracy"]},
    )


def export(work, point):
    """Files for a phone; needs TensorFlow, whatever the backend."""
    path = work.folder / point
    if importlib.util.find_spec("tensorflow") is None:
        print(
            "TensorFlow is not installed: no .tflite file is written. "
            f"Where it is, run this phase on {path}."
        )
        return
    small = work.load(point, "small", "strip")
    keras_prm.export_litert(small, path / "small.tflite")
    keras_prm.export_litert(
        small,
        path / "int8.tflite",
        "int8",
        representative_data=work.data["train"].floats(slice(256)),
    )
    summary = result_files.read(path)
    found = claims.measured(
        path, work.data["test"], summary["stages"][0], summary.get("top")
    )
    result_files.write_json(path / "summary.json", summary | found)
    result_files.write_json(path / "claims.json", found)
    for name, value in found["test_accuracies"].items():
        print(f"{name}: test accuracy {value:.4f}")


def compare(work, points):
    """Times the points on LiteRT, beside the dense network.

    Each in three forms, where they differ: filters taken out and empty
    columns kept, these left out for the fewest weights, and left out where
    it is faster here. Time does not depend on what weights are: a point that
    is pruned and no more is timed as it is.
    """
    models = {"dense": work.load("dense", "dense", "dense")}
    for point in points:
        models |= _forms(work, point)
    texts, rows = [], {}
    for precision in (None, "int8"):
        found = keras_prm.benchmark(
            models,
            work.data["train"].floats(slice(256)),
            num_threads=(1, 2),
            quantize=precision,
        )
        texts.append(f"{precision or 'float32'}:\n\n{found}\n")
        rows[precision or "float32"] = found.to_dict()
    print("\n".join(texts))
    (work.folder / "latency.md").write_text("\n".join(texts))
    result_files.write_json(work.folder / "latency.json", rows)


def _forms(work, point):
    """The networks of a point, by what they are called."""
    if not (work.folder / point / "purified.keras").exists():
        model = work.load(point, "pruned", "prune")
        return {f"{point}, not retrained": model}
    model = work.stripped(point)
    small = keras_prm.strip(model, lowering="fewest_parameters")
    if small.count_params() == model.count_params():
        return {point: model}
    # What is faster is measured, where the backend can be converted from.
    is_measured = keras.backend.backend() == "tensorflow"
    lowering = "auto" if is_measured else "model"
    return {
        point: model,
        f"{point}, fewest weights": small,
        f"{point}, fastest": keras_prm.strip(model, lowering=lowering),
    }


# From a phase to what does it, and to the file that says that it is done.
FIRST = {"dense": (train_dense, "dense.keras"), "teach": (teach, "-")}
LATER = {
    "prune": (prune, "pruned.keras"),
    "retrain": (retrain, "retrained.keras"),
    "purify": (purify, "purified.keras"),
    "strip": (strip, "summary.json"),
    "export": (export, "claims.json"),
}
# What looks at all points at once.
LAST = {"compare": compare}
