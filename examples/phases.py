"""The phases from a dense network to a small file, each done once.

A phase leaves a file, by which the next one finds it done: a machine may be
taken away at any time, training goes on at the last epoch.

    output_dir/dense/    dense.keras, answers/viewNN.npy
    output_dir/POINT/    pruned.keras, retrained.keras, purified.keras,
                         small.keras, *.tflite, summary.json
"""

import importlib.util
import os
import pathlib
import platform

import keras
import numpy as np

import keras_prm
from examples import augmentation
from examples import claims
from examples import measuring
from examples import phase_training
from examples import result_files
from examples import training_form
from examples.fewest_parameters import FewestParameters

FIRST = ("dense", "teach")
LATER = ("prune", "retrain", "purify", "strip", "export")


class Phases:
    """All phases of one recipe, one data set and one seed.

    Args:
        recipe: The `PhaseRecipe`.
        data: dict of the `Split`s `"train"`, `"valid"` and `"test"`.
        folder: Where everything is kept, a path.
        seed: Seed of all that is random, an int.
    """

    def __init__(self, recipe, data, folder, seed):
        self.recipe = recipe
        self.data = data
        self.folder = pathlib.Path(folder)
        self.seed = seed
        self.trainer = phase_training.Trainer(recipe, data, seed)
        self.fingerprint = result_files.fingerprint(data)

    def run(self, phase, point=None):
        """Does one phase, unless it is done."""
        name = "dense" if point is None else point
        path = self._open(name)
        print(f"\n== {phase}, {name}", flush=True)
        getattr(self, f"_{phase}")(*([] if point is None else [point]), path)

    def _open(self, name):
        """The folder of a point; refuses what other settings made."""
        path = self.folder / name
        settings = self.recipe.settings(None if name == "dense" else name)
        settings |= {"data": self.fingerprint, "seed": self.seed}
        if not result_files.is_done(path, settings, "settings.json"):
            if (path / "settings.json").exists():
                raise SystemExit(
                    f"{path} was made by another recipe, data set or seed. "
                    "Choose another --output_dir, or delete that folder."
                )
            path.mkdir(parents=True, exist_ok=True)
            result_files.write_json(
                path / "settings.json", {"settings": settings}
            )
        return path

    def _dense(self, path):
        if self._is_done(path / "dense.keras"):
            return
        keras.utils.set_random_seed(self.seed)
        train = self.data["train"]
        dense = self.recipe.build(train.x.shape[1:], int(train.y.max()) + 1)
        model, whole = self._for_training(dense)
        self.trainer.fit(
            whole,
            self.trainer.falling_sgd(self.recipe.dense),
            self.recipe.dense.epochs,
            path,
        )
        dense = training_form.as_kept(model)
        self._end(path, "dense", [("dense", dense)])

    def _teach(self, path):
        """Asks the dense network for its answers to what students will see."""
        size = self.recipe.distillation.views
        names = [path / "answers" / f"view{v:02}.npy" for v in range(size)]
        if not self.recipe.distillation.weight or all(
            name.exists() for name in names
        ):
            print("Nothing to do.")
            return
        _, whole = self._for_training(self._load(path / "dense.keras", "dense"))
        (path / "answers").mkdir(exist_ok=True)
        images = augmentation.as_bytes(self.data["train"].x)
        for view, name in enumerate(names):
            if not name.exists():
                crops = augmentation.draw(
                    len(images), self.recipe.pixels, self.seed, view
                )
                inputs = {"images": images, "crops": crops}
                answers = whole.predict(inputs, batch_size=500, verbose=0)
                _save(name, np.asarray(answers, "float16"))
            print(f"view {view + 1} of {size}", flush=True)

    def _answers(self):
        if not self.recipe.distillation.weight:
            return None
        path = self.folder / "dense" / "answers"
        return np.stack(
            [
                _needed(path / f"view{view:02}.npy", "teach", np.load)
                for view in range(self.recipe.distillation.views)
            ]
        )

    def _prune(self, point, path):
        """ADMM, and what it chose set to zero; dead filters taken out."""
        if self._is_done(path / "pruned.keras"):
            return
        after = self.recipe.points[point].after
        start, stages = self._start(after)
        plan = self.recipe.plan(start, point)
        print(plan, flush=True)
        if self.recipe.points[point].admm is None:
            pruned = keras.models.clone_model(start)
            pruned.set_weights(start.get_weights())
            keras_prm.hard_prune(pruned, plan)
        else:
            driven, pruned = self._drive(start, point, path)
            stages.append(("ADMM", driven))
        stages.append(("pruned", pruned))
        stages.append(("unused paths", keras_prm.strip(pruned)))
        self._end(path, "pruned", stages)

    def _start(self, after):
        """What a point starts from, and its row unless there is one."""
        if after == "dense":
            return self._load(self.folder / "dense" / "dense.keras", after), []
        path = self.folder / after / "purified.keras"
        start = self._load(path, "purify", after)
        return start, [(f"from {after}", start)]

    def _drive(self, start, point, path):
        """The network after ADMM, and the same pruned."""
        admm = self.recipe.points[point].admm
        model, whole = self._for_training(start)
        plan = self.recipe.plan(model, point)
        wrapper = keras_prm.ADMMWrapper(
            self.trainer.sgd(admm, admm.rate),
            plan,
            rho=self.trainer.rho(admm),
            update_every=self.trainer.num_steps,
        )
        self.trainer.fit(
            whole,
            wrapper,
            admm.epochs,
            path / "admm",
            [keras_prm.ADMMProgress()],
            self._answers(),
        )
        driven = training_form.as_kept(model)
        keras_prm.hard_prune(model, plan, optimizer=wrapper)
        return driven, training_form.as_kept(model)

    def _retrain(self, point, path):
        """Trains what is left; what is zero stays zero."""
        if self._is_done(path / "retrained.keras"):
            return
        training = self.recipe.points[point].retrain
        start = self._load(path / "pruned.keras", "prune", point)
        model, whole = self._for_training(start)
        self.trainer.fit(
            whole,
            self.trainer.falling_sgd(training),
            training.epochs,
            path / "retrain",
            [keras_prm.StructuredMask(keras_prm.masks_of(whole))],
            self._answers(),
        )
        retrained = training_form.as_kept(model)
        self._end(path, "retrained", [("retrained", retrained)])

    def _purify(self, point, path):
        if self._is_done(path / "purified.keras"):
            return
        model = self._load(path / "retrained.keras", "retrain", point)
        valid = self.data["valid"]
        print(
            keras_prm.purify(
                model,
                evaluate=lambda m: measuring.log_likelihood(m, valid),
                max_drop=self.recipe.max_drop,
            )
        )
        small = keras_prm.strip(model)
        self._end(
            path, "purified", [("purified", model), ("unused paths", small)]
        )

    def _strip(self, point, path):
        """Leaves out the empty columns as well; certified, and measured."""
        if self._is_done(path / "small.keras"):
            return
        model = self._load(path / "purified.keras", "purify", point)
        small = keras_prm.strip(model, lowering=FewestParameters())
        certificate = keras_prm.verify(
            model, small, inputs=self.data["valid"].x[:500]
        )
        print(certificate)
        self._end(path, "small", [("without empty columns", small)])
        stages = self._stages(point)
        summary = {
            "point": point,
            "seed": self.seed,
            "exact": certificate.ok,
            "max_abs_error": certificate.max_abs_error,
            "valid_accuracy": stages[-1]["valid_accuracy"],
            "dense_test_accuracy": self._dense_test_accuracy(),
            **result_files.compression(stages[0], stages[-1]),
            "test_accuracies": {
                "small.keras": measuring.accuracy(small, self.data["test"])
            },
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "keras": f"{keras.__version__}, {keras.backend.backend()}",
            "stages": stages,
            "settings": result_files.read(path, "settings.json")["settings"],
        }
        result_files.write_json(path / "summary.json", summary)

    def _export(self, point, path):
        """Files for a phone; needs TensorFlow, whatever the backend."""
        if self._is_done(path / "int8.tflite"):
            return
        if importlib.util.find_spec("tensorflow") is None:
            print(
                "TensorFlow is not installed: no .tflite file is written. "
                f"Where it is, run this phase on {path}."
            )
            return
        small = self._load(path / "small.keras", "strip", point)
        keras_prm.export_litert(small, path / "small.tflite")
        keras_prm.export_litert(
            small,
            path / "int8.tflite",
            "int8",
            representative_data=self.data["train"].x[:256],
        )
        summary = result_files.read(path)
        found = claims.measured(path, self.data["test"], summary["stages"][0])
        result_files.write_json(path / "summary.json", summary | found)
        for name, value in found["test_accuracies"].items():
            print(f"{name}: test accuracy {value:.4f}")

    def _dense_test_accuracy(self):
        """Of the dense network, measured the first time it is asked for."""
        path = self.folder / "dense" / "test.json"
        if not path.exists():
            dense = self._load(self.folder / "dense" / "dense.keras", "dense")
            found = measuring.accuracy(dense, self.data["test"])
            result_files.write_json(path, {"test_accuracy": found})
        return result_files.read(path.parent, path.name)["test_accuracy"]

    def _stages(self, point):
        """The account of a point, from the dense network on."""
        path = self.folder / point
        stages = result_files.read(self.folder / "dense", "dense.json")
        for name in ("pruned", "retrained", "purified", "small"):
            stages = stages + result_files.read(path, f"{name}.json")
        return stages

    def _for_training(self, model):
        """A model's fast form, and the same behind crops and flips."""
        model = training_form.for_training(model, self.recipe.precision)
        return model, augmentation.augmented(model, self.recipe.pixels)

    def _end(self, path, name, stages):
        """Writes what a phase came to: an account, then the last model."""
        rows = []
        for stage, model in stages:
            row = measuring.account(stage, model, self.data["valid"])
            print(
                f"{stage}: valid accuracy {row['valid_accuracy']:.4f}, "
                f"{row['conv_weights']:,} convolution weights, "
                f"{row['stored']:,} stored",
                flush=True,
            )
            rows.append(row)
        result_files.write_json(path / f"{name}.json", rows)
        part = path / f"{name}.part.keras"
        stages[-1][1].save(part)
        part.replace(path / f"{name}.keras")

    def _is_done(self, path):
        if path.exists():
            print(f"Done: {path}")
        return path.exists()

    def _load(self, path, phase, point=None):
        return _needed(path, phase, result_files.load_model, point)


def _needed(path, phase, read, point=None):
    if not path.exists():
        of = f" --points={point}" if point else ""
        raise SystemExit(f"There is no {path}. Run phase `{phase}`{of} first.")
    return read(path)


def _save(path, array):
    part = path.with_suffix(".part.npy")
    np.save(part, array)
    part.replace(path)
