"""The results of a frontier: made unless they are there, and measured.

A result is a folder. Its `summary.json` comes last and says from what it was
made, so one that was cut off, or made by another recipe, is made anew.
"""

import hashlib
import json
import math
import os
import pathlib
import platform

import keras
import numpy as np

import keras_prm
from examples import distillation
from examples import frontier_methods
from examples import frontier_training
from examples.fewest_parameters import FewestParameters

METHODS = frontier_methods.METHODS
RATIOS = (
    ("conv_ratio", "conv_weights"),
    ("ratio", "weights"),
    ("stored_ratio", "stored"),
)
DENSE = (
    *("network", "batch_size", "shift"),
    *("dense_epochs", "dense_rate", "precision"),
)


class Results:
    """All results of one recipe, one data set and one seed.

    Args:
        recipe: The `Recipe`.
        data: dict of the `Split`s `"train"`, `"valid"` and `"test"`.
        folder: Where all results are kept, a path.
        seed: Seed of all that is random, an int.
    """

    def __init__(self, recipe, data, folder, seed):
        self.recipe = recipe
        self.folder = pathlib.Path(folder)
        self.seed = seed
        self.trainer = frontier_training.Trainer(recipe, data, seed)
        self.data = fingerprint(data)

    def path(self, method, point):
        """The folder of a result."""
        return self.folder / method / point / f"seed{self.seed}"

    def settings(self, method, point):
        """All that a result depends on, but the program."""
        filters_only = METHODS[method].filters_only
        way = [point]
        if METHODS[method].after is not None:
            way = [*self.recipe.before(point), point]
        kept = [self.recipe.kept(p, filters_only) for p in way]
        settings = self.recipe.settings() | {
            "data": self.data,
            "base": self.recipe.base,
            "epochs": self.recipe.epochs_to(point),
            "keep": kept,
        }
        return json.loads(json.dumps(settings))

    def dense(self):
        """The dense network, in full precision."""
        path = self.path("dense", "-")
        settings = self.recipe.settings(*DENSE) | {"data": self.data}
        if not is_done(path, settings):
            self.trainer.teacher = None
            model = self.trainer.dense()
            begin(path)
            stages = [frontier_methods.account("dense", self.trainer, model)]
            np.savez(path / "weights.npz", *model.get_weights())
            answers = distillation.teacher_logits(
                model, self.trainer.data["train"], self.recipe.shift
            )
            np.save(path / "teacher_logits.npy", answers)
            self._end(path, model, stages, "dense", "-", settings)
        self.trainer.teacher = np.load(path / "teacher_logits.npy")
        return load_model(path / "small.keras")

    def base(self, method):
        """The base that a method starts from, and its account."""
        sparsify = METHODS[method].sparsify
        path = self.path(f"base_{sparsify.__name__}", "-")
        settings = self.recipe.settings() | {
            "data": self.data,
            "base": self.recipe.settings("base")["base"],
        }
        for name in ("admm_epochs", "retrain_epochs"):
            del settings[name]
        if not is_done(path, settings):
            model, stages = frontier_methods.first_round(
                self.trainer, sparsify, self.dense()
            )
            begin(path)
            model.save(path / "retrained.keras")
            model, stages = frontier_methods.purified(
                self.trainer, model, stages, "base: "
            )
            model.save(path / "stripped.keras")
            write_json(
                path / "summary.json",
                {"settings": settings, "stages": stages},
            )
        return load_model(path / "stripped.keras"), read(path)["stages"]

    def result(self, method, point):
        """The summary of a result, and what it starts from made before."""
        path = self.path(method, point)
        settings = self.settings(method, point)
        if is_done(path, settings):
            return read(path)
        if METHODS[method].sparsify is None:
            return self._elsewhere(path, method, point, settings)
        self.dense()  # which teaches
        start = self._start(METHODS[method], point)
        model, stages = frontier_methods.prune(
            self.trainer, point, METHODS[method], *start
        )
        begin(path)
        model.save(path / "retrained.keras")
        model, stages = frontier_methods.purified(self.trainer, model, stages)
        model.save(path / "stripped.keras")
        model = keras_prm.strip(model, lowering=FewestParameters())
        stages.append(
            frontier_methods.account(
                "without empty columns", self.trainer, model
            )
        )
        return self._end(path, model, stages, method, point, settings)

    def _start(self, method, point):
        """Where a method starts from, and the account of that."""
        if method.after is None:
            model = self.dense()
            return model, [
                frontier_methods.account("dense", self.trainer, model)
            ]
        before = self.recipe.before(point)
        if not before:
            return self.base(method.after)
        summary = self.result(method.after, before[-1])
        path = self.path(method.after, before[-1])
        model = load_model(path / "stripped.keras")
        name = f"from {before[-1]}"
        return model, [
            summary["stages"][0],
            frontier_methods.account(name, self.trainer, model),
        ]

    def _elsewhere(self, path, method, point, settings):
        """Measures weights that another environment pruned, as they are."""
        if not is_done(path, settings, "settings.json"):
            raise FileNotFoundError(
                f"There are no weights of these settings in {path}. Make "
                "them by `python -m examples.frontier_tfmot`, in its own "
                "environment."
            )
        with np.load(path / "weights.npz") as weights:
            weights = [weights[name] for name in weights.files]
        model = self.dense()
        stages = [frontier_methods.account("dense", self.trainer, model)]
        model.set_weights(weights)
        stages.append(frontier_methods.account("pruned", self.trainer, model))
        return self._end(path, model, stages, method, point, settings)

    def _end(self, path, model, stages, method, point, settings):
        """Writes a model and its `.tflite` file; a summary of both."""
        model.save(path / "small.keras")
        export = keras_prm.export_litert(model, path / "small.tflite")
        first, last = stages[0], stages[-1]
        summary = {
            "method": method,
            "point": point,
            "seed": self.seed,
            **{count: last[count] for _, count in RATIOS},
            **{name: ratio(first[n], last[n]) for name, n in RATIOS},
            "tflite_bytes": export.num_bytes,
            "valid_accuracy": last["valid_accuracy"],
            "test_accuracy": file_accuracy(
                path / "small.tflite", self.trainer.data["test"]
            ),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "keras": f"{keras.__version__}, {keras.backend.backend()}",
            "stages": stages,
            "settings": settings,
        }
        write_json(path / "summary.json", summary)
        return summary


def ratio(before, after):
    """The compression; infinite where a network has lost all its weights."""
    return before / after if after else math.inf


def fingerprint(data):
    """A few letters that other images or splits would change."""
    found = hashlib.sha256()
    for split in data.values():
        found.update(np.ascontiguousarray(split.x[::50]).tobytes())
        found.update(np.ascontiguousarray(split.y).tobytes())
    return found.hexdigest()[:16]


def file_accuracy(path, split):
    """Accuracy of a `.tflite` file, in [0, 1]."""
    logits = keras_prm.LiteRTModel(path)(split.x)
    return float((np.argmax(logits, -1) == split.y).mean())


def load_model(path):
    """A model without its optimizer."""
    return keras.models.load_model(path, compile=False)


def read(path):
    """The summary in a folder."""
    return json.loads((path / "summary.json").read_text())


def is_done(path, settings, name="summary.json"):
    """Whether what is in a folder was made from these settings."""
    try:
        found = json.loads((path / name).read_text())
    except (OSError, ValueError):
        return False
    return found.get("settings") == settings


def begin(path):
    """A folder that is empty, but for what another environment left."""
    for name in ("summary.json", "small.keras", "small.tflite"):
        (path / name).unlink(missing_ok=True)
    path.mkdir(parents=True, exist_ok=True)


def write_json(path, value):
    """Writes a JSON file that is there whole or not at all."""
    part = pathlib.Path(f"{path}.part")
    part.write_text(json.dumps(value, indent=1))
    part.replace(path)
