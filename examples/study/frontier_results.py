"""The results of a frontier: made unless they are there, and measured.

A result is a folder. Its `summary.json` comes last and says from what it was
made, so one that was cut off, or made by another recipe, is made anew.
"""

import numpy as np

import keras_prm
from examples.study import distillation
from examples.study import frontier_methods
from examples.study import measuring
from examples.study import result_files
from examples.study.recipe import as_json
from examples.study.training import FrontierTrainer
from examples.study.work import Work

METHODS = frontier_methods.METHODS
DENSE = (
    *("network", "batch_size", "shift"),
    *("dense_epochs", "dense_rate", "precision"),
)


class Results(Work):
    """All results of one recipe, one data set and one seed.

    Args:
        recipe: The `FrontierRecipe`.
        data: As of `FrontierTrainer`, like `seed`.
        folder: Where all results are kept, a path.
    """

    def __init__(self, recipe, data, folder, seed):
        super().__init__(FrontierTrainer(recipe, data, seed), folder)

    def path(self, method, point):
        """The folder of a result."""
        return self.folder / method / point / f"seed{self.seed}"

    def settings(self, method, point):
        """All that a result depends on, but the program."""
        recipe, method = self.recipe, METHODS[method]
        way = method.way(recipe, point)
        settings = recipe.settings() | {
            "data": self.fingerprint,
            "base": recipe.base,
            "epochs": recipe.epochs_to(point),
            "keep": [recipe.kept(p, method.filters_only) for p in way],
        }
        return as_json(settings)

    def dense(self):
        """The dense network, in full precision."""
        path = self.path("dense", "-")
        settings = self.recipe.settings(*DENSE) | {"data": self.fingerprint}
        if not result_files.is_done(path, settings):
            self.trainer.teacher = None
            model = self.trainer.dense()
            result_files.begin(path)
            stages = [self.trainer.account("dense", model)]
            np.savez(path / "weights.npz", *model.get_weights())
            answers = distillation.teacher_logits(
                model, self.data["train"], self.recipe.shift
            )
            np.save(path / "teacher_logits.npy", answers)
            self._end(path, model, stages, "dense", "-", settings)
        self.trainer.teacher = np.load(path / "teacher_logits.npy")
        return result_files.load_model(path / "small.keras")

    def base(self, method):
        """The base that a method starts from, and its account."""
        sparsify = METHODS[method].sparsify
        path = self.path(f"base_{sparsify.__name__}", "-")
        settings = self.recipe.settings() | {
            "data": self.fingerprint,
            "base": self.recipe.settings("base")["base"],
        }
        for name in ("admm_epochs", "retrain_epochs"):
            del settings[name]
        if not result_files.is_done(path, settings):
            model, stages = frontier_methods.first_round(
                self.trainer, sparsify, self.dense()
            )
            result_files.begin(path)
            model.save(path / "retrained.keras")
            model, stages = frontier_methods.purified(
                self.trainer, model, stages, "base: "
            )
            model.save(path / "stripped.keras")
            result_files.write_json(
                path / "summary.json",
                {"settings": settings, "stages": stages},
            )
        return result_files.load_model(
            path / "stripped.keras"
        ), result_files.read(path)["stages"]

    def result(self, method, point):
        """The summary of a result, and what it starts from made before."""
        path = self.path(method, point)
        settings = self.settings(method, point)
        if result_files.is_done(path, settings):
            return result_files.read(path)
        if METHODS[method].sparsify is None:
            return self._elsewhere(path, method, point, settings)
        self.dense()  # which teaches
        start = self._start(METHODS[method], point)
        model, stages = frontier_methods.prune(
            self.trainer, point, METHODS[method], *start
        )
        result_files.begin(path)
        model.save(path / "retrained.keras")
        model, stages = frontier_methods.purified(self.trainer, model, stages)
        model.save(path / "stripped.keras")
        model = keras_prm.strip(model, lowering="fewest_parameters")
        stages.append(self.trainer.account("without empty columns", model))
        return self._end(path, model, stages, method, point, settings)

    def _start(self, method, point):
        """Where a method starts from, and the account of that."""
        if method.after is None:
            model = self.dense()
            return model, [self.trainer.account("dense", model)]
        before = self.recipe.before(point)
        if not before:
            return self.base(method.after)
        summary = self.result(method.after, before[-1])
        path = self.path(method.after, before[-1])
        model = result_files.load_model(path / "stripped.keras")
        name = f"from {before[-1]}"
        return model, [
            summary["stages"][0],
            self.trainer.account(name, model),
        ]

    def _elsewhere(self, path, method, point, settings):
        """Measures weights that another environment pruned, as they are."""
        if not result_files.is_done(path, settings, "settings.json"):
            raise FileNotFoundError(
                f"There are no weights of these settings in {path}. Make "
                "them by `python -m examples.study.frontier_tfmot`, in its own "
                "environment."
            )
        weights = result_files.read_arrays(path / "weights.npz")
        model = self.dense()
        stages = [self.trainer.account("dense", model)]
        model.set_weights([*weights.values()])
        stages.append(self.trainer.account("pruned", model))
        return self._end(path, model, stages, method, point, settings)

    def _end(self, path, model, stages, method, point, settings):
        """Writes a model and its `.tflite` file; a summary of both."""
        model.save(path / "small.keras")
        export = keras_prm.export_litert(model, path / "small.tflite")
        return self.write_summary(
            path,
            point,
            stages,
            settings,
            method=method,
            tflite_bytes=export.num_bytes,
            test_accuracy=measuring.file_accuracy(
                path / "small.tflite", self.data["test"]
            ),
        )
