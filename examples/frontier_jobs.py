"""One result of a frontier: trained, finished, measured and written."""

import functools
import json
import os
import pathlib
import platform
import time

import keras
import numpy as np

import keras_prm
from examples import frontier_methods
from examples import frontier_training
from examples import image_data
from keras_prm import lowering_costs
from keras_prm import lowering_search
from keras_prm import lowerings

METHODS = frontier_methods.METHODS
RATIOS = (
    ("conv_ratio", "conv_weights"),
    ("ratio", "weights"),
    ("stored_ratio", "stored"),
)


class FewestParameters(lowering_search.Lowerer):
    """Of all forms of a layer the one with fewest parameters, then bytes."""

    def choose_one(self, site):
        def key(option):
            kernel = site.array
            if option is not None:
                kernel = option.kernel(site.array)
            return kernel.size, lowering_costs.file_bytes(site, option)

        best = min([None, *lowerings.candidates(site)], key=key)
        return lowering_search.Choice(site, best, reason="fewest parameters")


def applies(name, point, recipe):
    """Whether a method can be compared at a point."""
    return not METHODS[name].filters_only or point in recipe.widths


def run(recipe, dataset, folder, name, point, seed):
    """Makes a result unless it is there, and prints a line about it.

    What it starts from has to be there: the dense network, the base (see
    `prepare`) and the point before.
    """
    began = time.time()
    method = METHODS[name]
    path = folder / name / point / f"seed{seed}"
    settings = recipe.settings(point, method.filters_only)
    settings["dataset"] = pathlib.Path(dataset).name
    if is_done(path, settings):
        return
    trainer = trainer_of(recipe, dataset, folder, seed)
    if method.sparsify is None:
        summary = made_elsewhere(trainer, path)
    else:
        path.mkdir(parents=True, exist_ok=True)
        beginning = start(trainer, folder, method, point)
        model, stages = frontier_methods.prune(
            trainer, point, method, *beginning
        )
        summary = finish(trainer, model, stages, path)
    summary |= {
        "method": name,
        "point": point,
        "seed": seed,
        "settings": settings,
    }
    write_json(path / "summary.json", summary)
    say(f"{name} {point} seed {seed}", summary, began)


def prepare(recipe, dataset, folder, name, seed):
    """Makes what results of a method start from, unless it is there."""
    began = time.time()
    trainer = trainer_of(recipe, dataset, folder, seed)
    path = trainer.folder / "summary.json"
    if not path.exists():
        summary = dense(trainer)
        write_json(path, summary)
        say(f"dense seed {seed}", summary, began)
    base(trainer, METHODS[name].after)


def trainer_of(recipe, dataset, folder, seed):
    """The `Trainer` of a seed."""
    return frontier_training.Trainer(
        recipe, load(dataset, seed), folder / "dense" / f"seed{seed}", seed
    )


def base(trainer, name):
    """The base by a method and its account; the dense network for None."""
    if name is None:
        model = trainer.dense_in_float32()
        return model, [frontier_methods.account("dense", trainer, model)]
    sparsify = METHODS[name].sparsify
    return trainer.cached(
        f"base_{sparsify.__name__}",
        lambda: frontier_methods.first_round(trainer, sparsify),
    )


def start(trainer, folder, method, point):
    """Where a method starts from, and the account of that."""
    before = trainer.recipe.before(point)
    if method.after is None or not before:
        return base(trainer, method.after)
    path = folder / method.after / before[-1] / f"seed{trainer.seed}"
    try:
        summary = json.loads((path / "summary.json").read_text())
    except OSError:
        raise FileNotFoundError(
            f"{point} starts from what '{method.after}' has at {before[-1]}, "
            f"and there is nothing in {path}. Make that first, by "
            f"--methods={method.after} --points={before[-1]}."
        ) from None
    model = keras.models.load_model(path / "stripped.keras", compile=False)
    return model, [
        summary["stages"][0],
        frontier_methods.account(f"from {before[-1]}", trainer, model),
    ]


@functools.cache
def load(dataset, seed):
    """The data, once in a process."""
    return image_data.load(dataset, seed)


def dense(trainer):
    """Trains the dense network; a summary of its `.tflite` file."""
    model = trainer.dense_in_float32()
    trainer.teacher_logits()
    np.savez(trainer.folder / "weights.npz", *model.get_weights())
    stages = [frontier_methods.account("dense", trainer, model)]
    return written(trainer, model, stages, trainer.folder)


def made_elsewhere(trainer, path):
    """A summary of weights that another environment pruned, as they are."""
    try:
        with np.load(path / "weights.npz") as weights:
            weights = [weights[name] for name in weights.files]
    except OSError:
        raise FileNotFoundError(
            f"There are no weights in {path}. Make them by "
            "`python -m examples.frontier_tfmot`, in its own environment."
        ) from None
    model = trainer.dense_in_float32()
    stages = [frontier_methods.account("dense", trainer, model)]
    model.set_weights(weights)
    stages.append(frontier_methods.account("pruned", trainer, model))
    return written(trainer, model, stages, path)


def finish(trainer, model, stages, path):
    """Purifies, strips and exports a retrained network, and measures it."""
    model.save(path / "retrained.keras")
    small, stages = frontier_methods.purified(trainer, model, stages)
    small.save(path / "stripped.keras")
    small = keras_prm.strip(small, lowering=FewestParameters())
    stages.append(
        frontier_methods.account("without empty columns", trainer, small)
    )
    return written(trainer, small, stages, path)


def written(trainer, model, stages, path):
    """Writes a model and its `.tflite` file; a summary of both."""
    model.save(path / "small.keras")
    export = keras_prm.export_litert(model, path / "small.tflite")
    first, last = stages[0], stages[-1]
    ratios = {name: first[count] / last[count] for name, count in RATIOS}
    return {
        "stages": stages,
        **{count: last[count] for _, count in RATIOS},
        **ratios,
        "tflite_bytes": export.num_bytes,
        "max_abs_error": export.max_abs_error,
        "valid_accuracy": last["valid_accuracy"],
        "test_accuracy": file_accuracy(
            path / "small.tflite", trainer.data["test"]
        ),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "keras": f"{keras.__version__}, {keras.backend.backend()}",
    }


def say(what, summary, began):
    """Prints a line about a result."""
    print(
        f"{what}: {summary['ratio']:.0f}x, "
        f"{summary['stored_ratio']:.0f}x stored, "
        f"{summary['conv_ratio']:.0f}x CONV, "
        f"valid {100 * summary['valid_accuracy']:.2f}, "
        f"test {100 * summary['test_accuracy']:.2f} "
        f"({time.time() - began:.0f} s)",
        flush=True,
    )


def file_accuracy(path, split):
    """Accuracy of a `.tflite` file, in [0, 1]."""
    logits = keras_prm.LiteRTModel(path)(split.x)
    return float((np.argmax(logits, -1) == split.y).mean())


def is_done(path, settings):
    """Whether a result of these settings is there."""
    try:
        found = json.loads((path / "summary.json").read_text())
    except (OSError, ValueError):
        return False
    return found.get("settings") == json.loads(json.dumps(settings))


def write_json(path, value):
    """Writes a JSON file that is there whole or not at all."""
    part = pathlib.Path(f"{path}.part")
    part.write_text(json.dumps(value, indent=1))
    part.replace(path)
