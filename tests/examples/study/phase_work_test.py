"""Tests of the folders of phases: whose they are, and what is in them."""

import dataclasses
import pathlib
import tempfile

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized

from examples.study import phases
from tests.helpers import phased


class WorkTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enterContext(phased.as_network())
        self.folder = pathlib.Path(
            self.enterContext(tempfile.TemporaryDirectory())
        )

    def untrained(self):
        """Work whose dense network is there."""
        work = phased.work(self.folder)
        work.open()
        work.end("dense", "dense", [("dense", work.new_network())])
        return work

    def test_other_settings_are_refused(self):
        self.untrained().open("half")
        other = phased.work(self.folder, max_drop=0.1)
        other.open()  # does not depend on it
        with self.assertRaisesRegex(SystemExit, "half.*--output_dir"):
            other.open("half")
        with self.assertRaisesRegex(SystemExit, "half.*--output_dir"):
            other.start("third")

    def test_what_another_seed_made_is_not_read(self):
        self.untrained()
        other = phased.work(self.folder, seed=1)
        for read in (other.answers, lambda: other.start("half")):
            with self.assertRaisesRegex(SystemExit, "dense was made by"):
                read()

    def test_a_folder_of_somebody_else_is_refused(self):
        (self.folder / "dense").mkdir()
        work = phased.work(self.folder)
        work.open()
        self.assertTrue((self.folder / "dense" / "settings.json").exists())
        (self.folder / "half").mkdir()
        (self.folder / "half" / "training.ckpt").touch()
        with self.assertRaisesRegex(SystemExit, "half was made by"):
            work.open("half")

    def test_phases_need_those_before(self):
        work = self.untrained()
        for phase, message in {
            "prune": "view00.npy. Run phase `teach` first",
            "retrain": "pruned.keras. Run phase `prune` --points=half first",
            "purify": "retrained.keras. Run phase `retrain`",
            "strip": "purified.keras. Run phase `purify`",
            "export": "small.keras. Run phase `strip`",
        }.items():
            with self.assertRaisesRegex(SystemExit, message):
                phases.run(work, phase, "half")

    def test_dropout_is_what_the_recipe_says_and_the_seed_decides(self):
        work = phased.work(self.folder)
        model = keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                keras.layers.Dropout(0.5, name="drop"),
                keras.layers.Dense(2),
            ]
        )
        training = work.recipe.dense
        fast, _ = work.for_training(model, training)
        self.assertEqual(fast.get_layer("drop").rate, 0.5)
        x = np.ones((1, 8, 8, 3), "float32")
        first = np.array(fast(x, training=True))
        again, _ = work.for_training(model, training)
        np.testing.assert_array_equal(again(x, training=True), first)
        training = dataclasses.replace(training, dropout=0.0)
        fast, _ = work.for_training(model, training)
        self.assertEqual(fast.get_layer("drop").rate, 0.0)

    def test_a_plan_that_does_not_fit_fails_at_once(self):
        phased.work(self.folder).recipe.try_out()
        points = {"half": {"after": "dense", "keep": {"conv9": [1, None]}}}
        work = phased.work(self.folder, points=points)
        with self.assertRaisesRegex(ValueError, "conv9"):
            work.recipe.try_out()

    def test_somebody_has_to_teach_all_images(self):
        work = self.untrained()
        with self.assertRaisesRegex(ValueError, "answers to 96 images"):
            work.trainer.batches(np.zeros((2, 95, 3)))


if __name__ == "__main__":
    absltest.main()
