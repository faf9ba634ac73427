"""Tests of making results: by each method, each once."""

import dataclasses
import pathlib
import tempfile
from unittest import mock

import keras
import numpy as np
import pytest
from absl.testing import parameterized

import keras_prm
from examples.common import networks
from examples.study import frontier_methods
from examples.study import frontier_results
from examples.study import measuring
from examples.study import result_files
from tests.helpers import frontiers

METHODS = frontier_methods.METHODS


class ResultsTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(
            self.enterContext(tempfile.TemporaryDirectory())
        )

    def results(self, **changes):
        return frontier_results.Results(
            frontiers.recipe(**changes), frontiers.data(), self.folder, 0
        )

    # The others go through the same, on the way of one of these.
    @parameterized.parameters("admm", "one_shot", "untaught")
    @pytest.mark.slow
    def test_a_method_makes_a_small_model_and_says_so(self, method):
        results = self.results()
        summary = results.result(method, "half")
        path = results.path(method, "half")
        self.assertEqual(summary, result_files.read(path))
        small = result_files.load_model(path / "small.keras")
        self.assertEqual(summary["stored"], keras_prm.costs(small).parameters)
        self.assertEqual(
            summary["weights"],
            sum(np.count_nonzero(w) for w in small.get_weights() if w.ndim > 1),
        )
        test, valid = (results.trainer.data[n] for n in ("test", "valid"))
        file = path / "small.tflite"
        self.assertEqual(
            (summary["test_accuracy"], summary["valid_accuracy"]),
            (
                measuring.file_accuracy(file, test),
                measuring.file_accuracy(file, valid),
            ),
        )
        names = [stage["stage"] for stage in summary["stages"]]
        self.assertLen(set(names), len(names))
        stored = [stage["stored"] for stage in summary["stages"]]
        self.assertEqual(sorted(stored, reverse=True), stored)
        self.assertLess(stored[-1], 2000)

    @parameterized.parameters(
        name for name, method in METHODS.items() if method.sparsify
    )
    @pytest.mark.slow
    def test_all_spend_the_same_epochs_and_see_each_once(self, name):
        seen = []

        def fit(batches, epochs, **kwargs):
            del kwargs
            seen.extend(range(batches.epoch, batches.epoch + epochs))

        found = frontiers.recipe(
            base_retrain_epochs=3,
            admm_epochs=2,
            retrain_epochs=4,
            long_retraining={"quarter": 6},
        )
        if METHODS[name].filters_only:
            widths = found.widths | {"quarter": {"conv1": 1, "conv2": 2}}
            found = dataclasses.replace(found, widths=widths)
        results = frontier_results.Results(
            found, frontiers.data(), self.folder, 0
        )
        with frontiers.untrained(fit):
            results.dense()
            seen.clear()
            results.result(name, "quarter")
        self.assertEqual(seen, list(range(found.epochs_to("quarter"))))
        self.assertLen(seen, 1 + 3 + (2 + 4) + (2 + 6))

    def test_training_says_how_far_it_is(self):
        trainer = self.results().trainer
        lines = []
        trainer.say = lines.append
        model = trainer.network("float32")
        trainer.fit(model, keras.optimizers.Adam(), 21)
        self.assertLen(lines, 2)
        self.assertRegex(lines[0], r"^epoch 20 of 21, loss \d\.\d{4}$")
        self.assertRegex(lines[1], r"^epoch 21 of 21, loss \d\.\d{4}$")

    def test_the_test_images_are_looked_at_once(self):
        looks = []

        def accuracy(path, images):
            if images is test:
                looks.append(path.parent.parent.parent.name)
            return 0.5

        results = self.results()
        test = object()  # Nothing can be done with it but handing it on.
        results.trainer.data = {**results.trainer.data, "test": test}
        with (
            frontiers.untrained(),
            mock.patch.object(measuring, "file_accuracy", accuracy),
        ):
            results.result("admm", "quarter")
        self.assertEqual(looks, ["dense", "admm", "admm"])

    def test_a_chain_goes_on_where_the_point_before_ended(self):
        results = self.results()
        with frontiers.untrained():
            quarter = results.result("admm", "quarter")
        half = result_files.read(results.path("admm", "half"))
        first, last = quarter["stages"][1], half["stages"][-2]
        self.assertEqual(first["stage"], "from half")
        self.assertEqual(last["stage"], "unused paths again")
        self.assertEqual(first | {"stage": ""}, last | {"stage": ""})
        self.assertLess(quarter["stored"], half["stored"])

    @pytest.mark.slow
    def test_only_what_depends_on_a_change_is_made_again(self):
        def times(**changes):
            with frontiers.untrained():
                self.results(**changes).result("admm", "half")
            return {
                path.parent.parent.parent.name: path.stat().st_mtime_ns
                for path in self.folder.glob("*/*/*/summary.json")
            }

        first = times()
        self.assertEqual({*first}, {"dense", "base_by_admm", "admm"})
        self.assertEqual(times(), first)
        second = times(retrain_epochs=2)
        changed = {name for name in first if first[name] != second[name]}
        self.assertEqual(changed, {"admm"})
        third = times(shift=0, retrain_epochs=2)
        self.assertTrue(all(second[name] != third[name] for name in first))

    def test_nothing_left(self):
        self.assertEqual(result_files.ratio(6, 4), 1.5)
        self.assertEqual(result_files.ratio(6, 0), float("inf"))

    def test_other_images_are_other_results(self):
        other = frontiers.data() | {"valid": frontiers.split(64, 9)}
        self.assertNotEqual(
            result_files.fingerprint(frontiers.data()),
            result_files.fingerprint(other),
        )

    @pytest.mark.slow
    def test_weights_of_another_environment_are_measured_as_they_are(self):
        results = self.results()
        with self.assertRaisesRegex(FileNotFoundError, "frontier_tfmot"):
            results.result("tfmot", "half")
        network = networks.NETWORKS[results.recipe.network]
        weights = network((28, 28, 1), 3).get_weights()
        weights[0][..., 1:] = 0  # all but one filter of 5 x 5
        path = results.path("tfmot", "half")
        path.mkdir(parents=True)
        np.savez(path / "weights.npz", *weights)
        settings = results.settings("tfmot", "half")
        result_files.write_json(path / "settings.json", {"settings": settings})
        summary = results.result("tfmot", "half")
        self.assertEqual(summary["conv_weights"], 25_000 + 25)
        self.assertEqual(summary["stored_ratio"], 1.0)
