"""What studies share: one recipe, one data set, one seed, one folder."""

import os
import pathlib
import platform

import keras

from examples.study import result_files


class Work:
    """Where steps find what those before them have left.

    Args:
        trainer: The `Trainer`, which holds recipe, images and seed.
        folder: Where everything is kept, a path.

    Attributes:
        fingerprint: A few letters that other images would change.
    """

    def __init__(self, trainer, folder):
        self.trainer = trainer
        self.recipe = trainer.recipe
        self.seed = trainer.seed
        self.folder = pathlib.Path(folder)
        self.fingerprint = result_files.fingerprint(trainer.data)

    @property
    def data(self):
        """dict of the `Split`s `"train"`, `"valid"` and `"test"`."""
        return self.trainer.data

    def write_summary(self, path, point, stages, settings, **found):
        """Writes and returns what a point has come to, `summary.json`.

        Args:
            path: The folder of the point.
            point: Its name.
            stages: Its account, from the dense network on.
            settings: All that it depends on, but the program.
            **found: What else there is to say.
        """
        summary = {
            "point": point,
            "seed": self.seed,
            **found,
            "valid_accuracy": stages[-1]["valid_accuracy"],
            **result_files.compression(stages[0], stages[-1]),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "keras": f"{keras.__version__}, {keras.backend.backend()}",
            "stages": stages,
            "settings": settings,
        }
        result_files.write_json(path / "summary.json", summary)
        return summary
