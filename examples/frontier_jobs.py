"""One result of a frontier: trained, finished, measured and written."""

import functools
import json
import os
import pathlib
import platform

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
    """Makes a result unless it is there; a line about it, or None."""
    trainer = frontier_training.Trainer(
        recipe, load(dataset, seed), folder / "dense" / f"seed{seed}", seed
    )
    if name == "dense":
        return dense(trainer)
    if name == "base":
        frontier_methods.start(trainer, METHODS[point])
        return None
    path = folder / name / point / f"seed{seed}"
    method = METHODS[name]
    settings = recipe.settings(point, method.filters_only)
    settings["dataset"] = pathlib.Path(dataset).name
    if is_done(path, settings):
        return None
    if method.sparsify is None:
        summary = made_elsewhere(trainer, path)
    else:
        path.mkdir(parents=True, exist_ok=True)
        model, stages = frontier_methods.prune(trainer, point, method)
        model.save(path / "retrained.keras")
        summary = finish(trainer, model, stages, path)
    summary |= {
        "method": name,
        "point": point,
        "seed": seed,
        "settings": settings,
    }
    write_json(path / "summary.json", summary)
    return f"{name} {point} seed {seed}: {_text(summary)}"


@functools.cache
def load(dataset, seed):
    """The data, once in a process."""
    return image_data.load(dataset, seed)


def dense(trainer):
    """Trains the dense network and measures its `.tflite` file."""
    path = trainer.folder / "summary.json"
    if path.exists():
        return None
    model = trainer.dense_in_float32()
    trainer.teacher_logits()
    np.savez(trainer.folder / "weights.npz", *model.get_weights())
    stages = [frontier_methods.account("dense", trainer, model)]
    summary = written(trainer, model, stages, trainer.folder)
    write_json(path, summary | {"method": "dense", "seed": trainer.seed})
    return f"dense seed {trainer.seed}: {_text(summary)}"


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
    small, stages = frontier_methods.purified(trainer, model, stages)
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


def _text(summary):
    return (
        f"{summary['ratio']:.0f}x, {summary['stored_ratio']:.0f}x stored, "
        f"{summary['conv_ratio']:.0f}x CONV, "
        f"test {100 * summary['test_accuracy']:.2f}"
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
