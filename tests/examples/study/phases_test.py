"""Tests of the phases from a dense network to a small file."""

import contextlib
import importlib.util
import io
import pathlib
import shutil
import tempfile
from unittest import mock

import keras
import numpy as np
import pytest
from absl.testing import absltest
from absl.testing import parameterized

import keras_prm
from examples.common import augmentation
from examples.study import measuring
from examples.study import phases
from examples.study import result_files
from tests.helpers import phased


@pytest.mark.slow  # a network is trained through all of them
class PhasesTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.enterClassContext(phased.as_network())
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
        return phased.work(cls.folder, **changes)

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
            dense = keras_prm.costs(phased.tiny((8, 8, 3), 3, 8))
            self.assertEqual(found["stored"], counts.parameters)
            self.assertEqual(
                found["conv_ratio"], dense.conv_weights / counts.conv_weights
            )
            test = phased.data()["test"]
            self.assertEqual(
                found["test_accuracies"],
                {
                    "small.keras": measuring.share_right(
                        measuring.logits_of(small, test), test.y
                    ),
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

    def test_empty_columns_may_stay(self):
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        for name in ("dense", "third"):
            shutil.copytree(self.folder / name, folder / name)
        (folder / "third" / "summary.json").unlink()
        work = phased.work(folder, lowering="none")
        with mock.patch.object(work, "check", lambda point: folder / point):
            phases.run(work, "strip", "third")
        small = result_files.load_model(folder / "third" / "small.keras")
        fewest = result_files.load_model(self.folder / "third/small.keras")
        self.assertGreater(small.count_params(), fewest.count_params())
        kernel = np.array(small.get_layer("conv1").kernel)
        self.assertEqual(kernel.any(axis=3).sum(), 10)
        found = result_files.read(folder / "third")
        self.assertEqual(found["stages"][-1]["stage"], "unused paths")
        self.assertEqual(found["stored"], small.count_params())
        self.assertTrue(found["exact"])

    def test_the_teacher_answers_what_students_see(self):
        work = self.work()
        dense = work.load("dense", "dense", "dense")
        answers = work.answers()
        self.assertEqual([view.shape for view in answers], [(96, 3)] * 2)
        batches = work.trainer.batches(answers)
        crop = augmentation.CropAndFlip(work.recipe.pixels)
        for epoch in (0, 1, 2):
            batches.set_epoch(epoch)
            inputs, targets = batches[3]
            np.testing.assert_allclose(
                targets[:, 1:],
                dense.predict(crop(**inputs), verbose=0),
                atol=0.02,
            )
        self.assertGreater(np.abs(answers[0] - answers[1]).max(), 0.1)

    def test_goes_on_where_training_was_cut_off(self):
        path = self.folder / "third"
        whole = result_files.load_model(path / "retrained.keras")
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        for name in ("dense", "half", "third"):
            shutil.copytree(self.folder / name, folder / name)
        (folder / "third" / "retrained.keras").unlink()
        shutil.rmtree(folder / "third" / "retrain")
        fit, epochs = keras.Model.fit, []

        def cut_off(model, batches, callbacks, **kwargs):
            def cut(batch, logs):
                if len(epochs) == 2 and batch == 2:
                    raise KeyboardInterrupt

            note = keras.callbacks.LambdaCallback(
                on_epoch_begin=lambda epoch, logs: epochs.append(epoch),
                on_train_batch_end=cut,
            )
            fit(model, batches, callbacks=[*callbacks, note], **kwargs)

        # Which would leave its file open when it is cut off.
        self.enterContext(
            mock.patch.object(
                keras.callbacks,
                "CSVLogger",
                lambda *args, **kwargs: keras.callbacks.Callback(),
            )
        )
        work = phased.work(folder, workers=3)  # which reads ahead
        with mock.patch.object(keras.Model, "fit", cut_off):
            with self.assertRaises(KeyboardInterrupt):
                phases.run(work, "retrain", "third")
            phases.run(work, "retrain", "third")
        self.assertEqual(epochs, [0, 1, 1, 2, 3])
        again = result_files.load_model(folder / "third" / "retrained.keras")
        for old, new in zip(whole.get_weights(), again.get_weights()):
            np.testing.assert_allclose(old, new, rtol=1e-3, atol=1e-4)

    def test_what_is_done_is_not_done_again(self):
        def times():
            return {
                path: path.stat().st_mtime_ns
                for path in self.folder.rglob("*")
                if path.is_file()
            }

        before = times()
        work, told = self.work(), io.StringIO()
        with (
            mock.patch.object(keras.Model, "fit", side_effect=RuntimeError),
            contextlib.redirect_stdout(told),
        ):
            for phase in phases.FIRST:
                phases.run(work, phase)
            for phase in phases.LATER:
                phases.run(work, phase, "third")
        self.assertEqual(times(), before)
        path = self.folder / "third" / "claims.json"
        self.assertIn(f"Done: {path}", told.getvalue())

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

    @pytest.mark.slow
    def test_points_are_timed_beside_the_dense_network(self):
        if keras.backend.backend() != "tensorflow":
            self.skipTest("What is timed are files, alike on every backend.")
        work = self.work()
        phases.run(work, "prune", "at_once")
        phases.compare(work, ["half", "at_once"])
        found = result_files.read(self.folder, "latency.json")
        for precision in ("float32", "int8"):
            rows = found[precision]["rows"]
            names = [row["model"] for row in rows if row["num_threads"] == 1]
            self.assertEqual(
                names,
                ["dense", "half", "half, fewest weights", "half, fastest"]
                + ["at_once, not retrained"],
            )
        self.assertIn("faster", (self.folder / "latency.md").read_text())

    def test_without_tensorflow_the_file_is_left_for_later(self):
        path = self.folder / "third" / "claims.json"
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
