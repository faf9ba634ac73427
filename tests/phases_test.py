"""Tests of the phases from a dense network to a small file."""

import copy
import importlib.util
import pathlib
import tempfile
from unittest import mock

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

import keras_prm
from examples import image_data
from examples import measuring
from examples import networks
from examples import phases
from examples import result_files
from examples.phase_recipe import PhaseRecipe
from examples.phase_work import Work

TRAINING = {"epochs": 2, "rate": 0.1, "weight_decay": 1e-4}
CONFIG = {
    "network": "tiny",
    "width": 8,
    "precision": "float32",
    "batch_size": 16,
    "pixels": 1,
    "dense": TRAINING | {"epochs": 6},
    "distillation": {"weight": 0.5, "temperature": 2.0, "views": 2},
    "column_pattern": "free",
    "max_drop": 0.0,
    "admm": TRAINING | {"rate": 0.01, "rho": 0.1, "growth": 3.0},
    "retrain": TRAINING,
    "points": {
        "half": {
            "after": "dense",
            "keep": {"stem": [5, 13], "conv1": [4, 20]},
        },
        "third": {"after": "half", "keep": {"conv1": [3, 10]}},
        "at_once": {
            "after": "dense",
            "keep": {"stem": [4, None]},
            "by": "magnitude",
        },
    },
    "shipped": [],
}


def tiny(input_shape, num_classes, width=8, widths=None):
    width = (widths or {}).get("stem", width)
    x = images = keras.Input(input_shape)
    x = layers.Conv2D(width, 3, padding="same", use_bias=False, name="stem")(x)
    x = layers.BatchNormalization(name="norm")(x)
    y = layers.ReLU()(layers.Conv2D(width, 3, padding="same", name="conv1")(x))
    y = layers.Conv2D(width, 1, use_bias=False, name="conv2")(y)
    x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.Dense(num_classes, name="logits")(
        layers.GlobalAveragePooling2D()(x)
    )
    return keras.Model(images, x, name="tiny")


def split(num, seed):
    """Images that are red, green or blue."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, num).astype("int32")
    x = rng.uniform(0, 0.5, (num, 8, 8, 3)).astype("float32")
    x[np.arange(num), :, :, y] += 0.4
    return image_data.Split(x, y)


def data():
    names = {"train": 96, "valid": 40, "test": 50}
    return {n: split(num, num) for n, num in names.items()}


class PhasesTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.enterClassContext(
            mock.patch.dict(networks.NETWORKS, {"tiny": tiny})
        )
        cls.folder = pathlib.Path(
            cls.enterClassContext(tempfile.TemporaryDirectory())
        )
        work = cls.work()
        for phase in phases.FIRST:
            phases.run(work, phase)
        for point in ("half", "third"):
            for phase in phases.LATER:
                phases.run(work, phase, point)

    @classmethod
    def work(cls, **changes):
        found = PhaseRecipe.from_config(copy.deepcopy(CONFIG | changes))
        return Work(found, data(), cls.folder, 0)

    def summary(self, point):
        return result_files.read(self.folder / point)

    def test_it_learns(self):
        found = self.summary("third")
        self.assertGreater(found["dense_test_accuracy"], 0.9)
        self.assertGreater(found["test_accuracy"], 0.9)

    def test_a_point_has_what_the_recipe_says(self):
        path = self.folder / "half"
        model = result_files.load_model(path / "pruned.keras")
        self.assertEqual(model.get_layer("stem").filters, 5)
        old = np.array(model.get_layer("conv1").kernel)
        kernel = old != 0
        self.assertEqual(kernel.any(axis=(0, 1, 2)).sum(), 4)
        self.assertEqual(kernel.any(axis=3).sum(), 20)
        trained = result_files.load_model(path / "retrained.keras")
        # Where it was zero it still is, and elsewhere it has learned.
        new = np.array(trained.get_layer("conv1").kernel)
        self.assertFalse(new[~kernel].any())
        self.assertTrue(
            (new != np.array(model.get_layer("conv1").kernel)).any()
        )

    def test_the_summary_says_what_the_files_hold(self):
        for point in ("half", "third"):
            path = self.folder / point
            found = self.summary(point)
            self.assertTrue(found["exact"])
            small = result_files.load_model(path / "small.keras")
            counts = keras_prm.costs(small)
            dense = keras_prm.costs(tiny((8, 8, 3), 3, 8))
            self.assertEqual(found["stored"], counts.parameters)
            self.assertEqual(
                found["conv_ratio"], dense.conv_weights / counts.conv_weights
            )
            test = data()["test"]
            self.assertEqual(
                found["test_accuracies"],
                {
                    "small.keras": measuring.accuracy(small, test),
                    "small.tflite": measuring.file_accuracy(
                        path / "small.tflite", test
                    ),
                    "int8.tflite": measuring.file_accuracy(
                        path / "int8.tflite", test
                    ),
                },
            )

    def test_the_account_goes_from_stage_to_stage(self):
        stages = [row["stage"] for row in self.summary("third")["stages"]]
        self.assertEqual(
            stages,
            ["dense", "from half", "ADMM", "pruned", "unused paths"]
            + [
                "retrained",
                "purified",
                "unused paths",
                "without empty columns",
            ],
        )
        stored = [row["stored"] for row in self.summary("third")["stages"]]
        self.assertEqual(stored, sorted(stored, reverse=True))
        half = self.summary("half")["stages"]
        self.assertEqual(half[1]["stage"], "ADMM")

    def test_what_is_done_is_not_done_again(self):
        def times():
            return {
                path: path.stat().st_mtime_ns
                for path in self.folder.rglob("*")
                if path.is_file()
            }

        before = times()
        work = self.work()
        with mock.patch.object(keras.Model, "fit", side_effect=RuntimeError):
            for phase in phases.FIRST:
                phases.run(work, phase)
            for phase in phases.LATER:
                phases.run(work, phase, "third")
        self.assertEqual(times(), before)

    def test_goes_on_where_training_was_cut_off(self):
        work = self.work()
        path = self.folder / "third"
        done = (path / "retrained.keras").read_bytes()
        model = result_files.load_model(path / "retrained.keras")
        (path / "retrained.keras").unlink()
        try:
            # Its checkpoint says that it is finished.
            phases.run(work, "retrain", "third")
            again = result_files.load_model(path / "retrained.keras")
        finally:
            (path / "retrained.keras").write_bytes(done)
        for old, new in zip(model.get_weights(), again.get_weights()):
            np.testing.assert_array_equal(old, new)
        log = (path / "retrain" / "log.csv").read_text().splitlines()
        self.assertLen(log, 1 + TRAINING["epochs"])

    def test_other_settings_are_refused(self):
        work = self.work(max_drop=0.1)
        phases.run(work, "dense")  # does not depend on it
        with self.assertRaisesRegex(SystemExit, "half.*--output_dir"):
            phases.run(work, "prune", "half")

    def test_phases_need_those_before(self):
        work = self.work()
        with self.assertRaisesRegex(
            SystemExit, "pruned.keras. Run phase `prune` --points=at_once"
        ):
            phases.run(work, "retrain", "at_once")
        with self.assertRaisesRegex(SystemExit, "view02.npy.*`teach`"):
            more = CONFIG["distillation"] | {"views": 3}
            points = {"more": CONFIG["points"]["half"]}
            work = self.work(distillation=more, points=points)
            phases.run(work, "prune", "more")

    def test_pruning_at_once_trains_nothing(self):
        with mock.patch.object(keras.Model, "fit", side_effect=RuntimeError):
            phases.run(self.work(), "prune", "at_once")
        dense = result_files.load_model(self.folder / "dense" / "dense.keras")
        small = result_files.load_model(
            self.folder / "at_once" / "pruned.keras"
        )
        old = np.array(dense.get_layer("stem").kernel)
        new = np.array(small.get_layer("stem").kernel)
        self.assertEqual(new.shape, (3, 3, 3, 4))
        self.assertTrue(np.isin(new, old).all())

    def test_another_program_prunes(self):
        points = {"other": {"after": "dense", "keep": {}, "by": "elsewhere"}}
        work = self.work(points=points)
        with self.assertRaisesRegex(SystemExit, "dense.npz to .*pruned.npz"):
            phases.run(work, "prune", "other")
        path = self.folder / "other"
        with np.load(path / "dense.npz") as arrays:
            arrays = {name: arrays[name] for name in arrays.files}
        dense = work.load("dense", "dense", "dense")
        for weight in dense.weights:
            np.testing.assert_array_equal(arrays[weight.path], weight)
        for name, array in arrays.items():
            if name.split("/")[0] in ("stem", "norm", "conv2"):
                arrays[name] = array[..., :5]
            if name in ("conv1/kernel", "logits/kernel"):
                arrays[name] = arrays[name][..., :5, :]
        arrays["conv1/kernel"] = arrays["conv1/kernel"][..., :5]
        arrays["conv1/bias"] = arrays["conv1/bias"][:5]
        arrays["conv2/kernel"] = arrays["conv2/kernel"][..., :5, :]
        np.savez(path / "pruned.npz", **arrays)
        phases.run(work, "prune", "other")
        model = work.load("other", "pruned", "prune")
        self.assertEqual(model.get_layer("conv1").filters, 5)
        for weight in model.weights:
            np.testing.assert_array_equal(arrays[weight.path], weight)

    def test_points_are_timed_beside_the_dense_network(self):
        phases.compare(self.work(), ["half"])
        found = result_files.read(self.folder, "latency.json")
        for precision in ("float32", "int8"):
            rows = found[precision]["rows"]
            names = [row["model"] for row in rows if row["num_threads"] == 1]
            self.assertEqual(
                names,
                ["dense", "half", "half, fewest weights", "half, fastest"],
            )
        self.assertIn("faster", (self.folder / "latency.md").read_text())

    def test_without_tensorflow_the_file_is_left_for_later(self):
        path = self.folder / "third" / "int8.tflite"
        content = path.read_bytes()
        path.unlink()
        try:
            with mock.patch.object(
                importlib.util, "find_spec", return_value=None
            ):
                phases.run(self.work(), "export", "third")
            self.assertFalse(path.exists())
        finally:
            path.write_bytes(content)


if __name__ == "__main__":
    absltest.main()
