"""The folders of phases: what one leaves, and the next one reads."""

import warnings

import keras
import numpy as np

import keras_prm
from examples.common import augmentation
from examples.study import measuring
from examples.study import model_forms
from examples.study import result_files
from examples.study.training import PhaseTrainer
from examples.study.work import Work


class PhaseWork(Work):
    """Where phases find what those before them have left.

    Args:
        recipe: As of `PhaseTrainer`, like all others.
        folder: Where everything is kept, a path.
    """

    def __init__(
        self, recipe, data, folder, seed, checkpoint_every=1, workers=1
    ):
        trainer = PhaseTrainer(recipe, data, seed, checkpoint_every, workers)
        super().__init__(trainer, folder)
        self.num_classes = 1 + max(
            int(split.y.max()) for split in data.values()
        )

    def settings(self, point="dense"):
        """All that a point depends on, but the program."""
        settings = self.recipe.settings(None if point == "dense" else point)
        return settings | {"data": self.fingerprint, "seed": self.seed}

    def open(self, point="dense"):
        """The folder of a point, made unless it is there."""
        path = self.folder / point
        if not path.exists() or not any(path.iterdir()):
            path.mkdir(parents=True, exist_ok=True)
            result_files.write_json(
                path / "settings.json", {"settings": self.settings(point)}
            )
        return self.check(point)

    def check(self, point):
        """The folder of a point; refuses what other settings made."""
        path = self.folder / point
        is_mine = result_files.is_done(
            path, self.settings(point), "settings.json"
        )
        if path.exists() and not is_mine:
            raise SystemExit(
                f"{path} was made by another recipe, data set or seed. "
                "Choose another --output_dir, or delete that folder."
            )
        return path

    def new_network(self):
        """The dense network before training."""
        keras.utils.set_random_seed(self.seed)
        shape = self.data["train"].image_shape
        return self.recipe.build(shape, self.num_classes)

    def for_training(self, model, training):
        """A model's fast form, and the same behind crops and flips.

        Args:
            model: The model.
            training: The `Training` that it is for.
        """
        keras.utils.set_random_seed(self.seed)  # of its Dropout layers
        model = model_forms.for_training(
            model, self.recipe.precision, training.dropout
        )
        return model, augmentation.augmented(
            model, self.recipe.pixels, self.recipe.margin, training.hole
        )

    def load(self, point, name, phase):
        """A model that a phase has left; exits where it has not."""
        path = self.check(point) / f"{name}.keras"
        return needed(path, phase, result_files.load_model, point)

    def start(self, point):
        """What a point starts from, and its row, unless that is there."""
        after = self.recipe.points[point].after
        if after == "dense":
            return self.load(after, "dense", "dense"), []
        model = self.stripped(after)
        return model, [(f"from {after}", model)]

    def stripped(self, point):
        """What a point has left, without unused paths: it may have none."""
        model = self.load(point, "purified", "purify")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "strip found nothing to remove")
            return keras_prm.strip(model)

    def answers(self):
        """The dense network's, views of `(images, classes)`, or None."""
        if not self.recipe.distillation.weight:
            return None
        return [
            needed(path, "teach", lambda path: np.load(path, mmap_mode="r"))
            for path in self.views()
        ]

    def views(self):
        """The files of the dense network's answers, one for each view."""
        folder = self.check("dense") / "answers"
        numbers = range(self.recipe.distillation.views)
        return [folder / f"view{number:02}.npy" for number in numbers]

    def end(self, point, name, stages):
        """Writes what a phase came to: an account, then the last model.

        Args:
            point: The point's name.
            name: What the model is called from now on.
            stages: Pairs of what was done and the model after it.
        """
        path = self.folder / point
        rows = []
        for stage, model in stages:
            row = self.trainer.account(stage, model)
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

    def account(self, point):
        """The account of a point, from the dense network on."""
        stages = result_files.read(self.folder / "dense", "dense.json")
        for name in ("pruned", "retrained", "purified", "small"):
            stages += result_files.read(self.folder / point, f"{name}.json")
        return stages

    def test_shares(self, model):
        """What a model gets right of the test split: the end of all."""
        test = self.data["test"]
        logits = measuring.logits_of(model, test)
        return measuring.shares_right(logits, test.y, self.recipe.top)


def needed(path, phase, read, point="dense"):
    """Reads a file; exits where the phase that makes it has not been run."""
    if not path.exists():
        of = "" if point == "dense" else f" --points={point}"
        raise SystemExit(f"There is no {path}. Run phase `{phase}`{of} first.")
    return read(path)
