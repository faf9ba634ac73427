"""Budgets of bytes and latency, by real files and by made-up ones."""

import pathlib
import tempfile
from unittest import mock

import keras
import numpy as np
from absl.testing import absltest
from absl.testing import parameterized
from keras import layers

import keras_prm
from keras_prm.budgets import candidates
from keras_prm.budgets import measured
from keras_prm.budgets.candidates import Measured
from keras_prm.litert import runtime
from keras_prm.plans.plan import SparsityPlan
from tests.helpers import zoo

Budget = keras_prm.Budget
ON_TENSORFLOW = keras.backend.backend() == "tensorflow"


def network():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(32, 3, padding="same", name="a")(inputs)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.ReLU()(x)
    x = layers.Conv2D(64, 3, activation="relu", name="b")(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(10, name="out")(x))
    zoo.randomize(model)
    return model


def made_up(file_bytes, latency, noise=()):
    """Measurements by a formula of the share of the weights and MACs."""
    noise = iter([*noise, *[0.0] * 99])

    class Candidates:
        def __init__(self, model, folder, quantize=None, is_timed=False):
            self.dense = Measured(1_000_000, 10.0, 1.0)
            self.num_made = 0
            self.found = {}

        def measure(self, plan, again=False):
            key = tuple(g.keep for g in plan.groups)
            if key not in self.found:
                self.num_made += 1
            shares = plan.costs().shares
            if key not in self.found or again:
                time = latency(shares["macs"]) + next(noise)
                size = round(1_000_000 * file_bytes(shares["parameters"]))
                self.found[key] = Measured(size, 10 * time, time)
            return self.found[key]

    return mock.patch.object(measured, "Candidates", Candidates)


class MadeUpTest(parameterized.TestCase):
    def planned(self, **bounds):
        return SparsityPlan.for_budget(network(), Budget(**bounds), round_to=1)

    @parameterized.parameters(
        (lambda share: share,),
        (lambda share: 0.2 + 0.8 * share,),
        (lambda share: share**0.5,),
        (lambda share: share**2,),
        (lambda share: 0.3 * round(share * 20) / 20 + 0.7 * share,),
    )
    def test_latency_of_any_shape(self, latency):
        with made_up(lambda share: share, latency):
            plan = self.planned(latency=0.5)
            self.assertBetween(plan.measured["latency"], 0.475, 0.5)
            plan = self.planned(latency_ms=5.0)
            self.assertBetween(plan.measured["latency_ms"][1], 4.75, 5.0)

    def test_bytes(self):
        with made_up(lambda share: 0.1 + 0.9 * share, lambda share: share):
            for bound in (0.3, 300_000):
                plan = self.planned(file_bytes=bound)
                size = plan.measured["file_bytes"]
                self.assertEqual(size[0], 1_000_000)
                self.assertBetween(size[1], 0.97 * 300_000, 300_000)

    def test_all_at_once(self):
        with made_up(lambda share: share, lambda share: share):
            plan = self.planned(latency=0.5, file_bytes=0.4, macs=0.6)
            shares = plan.costs().shares
            self.assertLessEqual(plan.measured["latency"], 0.5)
            self.assertLessEqual(plan.measured["file_bytes"][1], 400_000)
            self.assertLessEqual(shares["macs"], 0.6)
            self.assertGreaterEqual(shares["parameters"], 0.97 * 0.4)
            plan = self.planned(latency=0.9, macs=0.3)
            self.assertBetween(plan.costs().shares["macs"], 0.291, 0.3)

    def test_what_was_within_is_timed_once_more(self):
        with made_up(lambda x: x, lambda x: x, noise=[-0.01, 0.03]):
            plan = self.planned(latency=0.5)
            self.assertBetween(plan.measured["latency"], 0.475, 0.5)

    def test_the_least_that_can_be(self):
        with made_up(lambda share: 0.6 + 0.4 * share, lambda share: share):
            with self.assertRaisesRegex(ValueError, "least that was measured"):
                self.planned(file_bytes=0.5)
        with made_up(lambda share: share, lambda share: 0.6 + 0.4 * share):
            with self.assertRaisesRegex(ValueError, "latency of 6.*at most 50"):
                self.planned(latency=0.5, file_bytes=0.9)

    def test_all_of_it(self):
        with made_up(lambda share: share, lambda share: share):
            plan = self.planned(latency=1.0)
            self.assertEqual([g.keep for g in plan.groups], [32, 64])

    def test_the_plan_says_what_was_measured(self):
        with made_up(lambda share: share, lambda share: share):
            plan = self.planned(latency=0.5, quantize="int8")
        again = SparsityPlan.from_config(plan.get_config())
        self.assertEqual(again.measured, plan.measured)
        self.assertEqual(again.costs().measured["quantize"], "int8")
        self.assertIn("latency ms (measured, int8)", str(plan.costs()))
        self.assertEqual(plan.with_kept([32, 64]).measured, {})
        self.assertEqual(plan.at_share(0.5).measured, {})


class FileTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        if not ON_TENSORFLOW:
            self.skipTest("the converter is the same, and takes long")

    @parameterized.parameters(
        (0.5, None), (40_000, None), (0.5, "float16"), (0.6, "int8")
    )
    def test_bytes_of_the_exported_file(self, bound, quantize):
        model = network()
        before = [keras.ops.convert_to_numpy(v) for v in model.weights]
        budget = Budget(file_bytes=bound, quantize=quantize)
        plan = SparsityPlan.for_budget(model, budget, round_to=1)
        for old, new in zip(before, model.weights, strict=True):
            np.testing.assert_array_equal(old, new)
        dense, said = plan.measured["file_bytes"]
        bound = bound * dense if bound <= 1 else bound
        self.assertBetween(said, 0.97 * bound, bound)
        keras_prm.hard_prune(model, plan)
        small = keras_prm.strip(model)
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "small.tflite"
            x = np.random.default_rng(0).normal(size=(8, 8, 8, 3))
            x = x.astype("float32") if quantize == "int8" else None
            keras_prm.export_litert(small, path, quantize, x)
            self.assertLess(abs(path.stat().st_size - said), 300)

    def test_a_fresh_model_is_planned_as_if_trained(self):
        """Whose vectors, alike as they are, would stand in a file but once."""
        keras.utils.set_random_seed(0)
        inputs = x = keras.Input((8, 8, 3))
        for filters in (24, 24, 32):
            x = keras.layers.Conv2D(filters, 3, use_bias=True)(x)
            x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
        x = keras.layers.GlobalAveragePooling2D()(x)
        model = keras.Model(inputs, keras.layers.Dense(5)(x))
        plan = SparsityPlan.for_budget(
            model, Budget(file_bytes=0.5), round_to=1
        )
        zoo.randomize(model)
        keras_prm.hard_prune(model, plan)
        with tempfile.TemporaryDirectory() as folder:
            sizes = []
            for number, made in enumerate([keras_prm.strip(model), model]):
                path = pathlib.Path(folder) / f"{number}.tflite"
                keras_prm.export_litert(made, path)
                sizes.append(path.stat().st_size)
        self.assertLessEqual(sizes[0], 0.5 * sizes[1])

    def test_latency_of_the_exported_file(self):
        model = network()
        plan = SparsityPlan.for_budget(model, Budget(latency=0.9), round_to=1)
        self.assertLessEqual(plan.measured["latency"], 0.9)
        self.assertLess(plan.costs().shares["macs"], 1.0)

    @parameterized.parameters(
        {"latency": 1.0}, {"latency_ms": 1e6}, {"file_bytes": 1.0}
    )
    def test_what_does_not_bind_prunes_nothing(self, **bounds):
        """However timing scatters: the whole model is what it is."""
        plan = SparsityPlan.for_budget(network(), Budget(**bounds))
        self.assertEqual([g.keep for g in plan.groups], [32, 64])

    def test_recurrent_layers(self):
        """Which convert for one row at a time alone."""
        inputs = keras.Input((5, 4))
        x = layers.GRU(32, name="gru")(inputs)
        model = keras.Model(inputs, layers.Dense(3, name="out")(x))
        budget = Budget(file_bytes=0.9)
        plan = SparsityPlan.for_budget(model, budget, round_to=1)
        before, after = plan.measured["file_bytes"]
        self.assertLessEqual(after, 0.9 * before)
        self.assertLess(plan.groups[0].keep, 32)

    def test_a_candidate_is_what_strip_leaves(self):
        model = zoo.make("residual")
        plan = SparsityPlan.uniform(model, filters=0.5)
        with tempfile.TemporaryDirectory() as folder:
            found = candidates.Candidates(model, folder)
            small = found._small(plan)
            self.assertEqual(
                keras_prm.costs(small).parameters,
                plan.costs().pruned["parameters"],
            )
            self.assertIs(found.measure(plan), found.measure(plan))
            self.assertEqual(found.num_made, 1)


class RefusalTest(parameterized.TestCase):
    def test_without_litert(self):
        missing = mock.patch.object(
            runtime, "interpreter_class", side_effect=ImportError("no LiteRT")
        )
        export = mock.patch.object(candidates, "export_litert")
        with missing, export as exported:
            with self.assertRaisesRegex(ImportError, "no LiteRT"):
                SparsityPlan.for_budget(network(), Budget(latency=0.5))
            exported.assert_not_called()

    def test_latency_of_a_free_size(self):
        inputs = keras.Input((None, None, 3))
        x = layers.Conv2D(8, 3, name="a")(inputs)
        model = keras.Model(inputs, layers.Conv2D(2, 1, name="out")(x))
        with self.assertRaisesRegex(ValueError, "a shape without None"):
            SparsityPlan.for_budget(model, Budget(latency=0.5))


if __name__ == "__main__":
    absltest.main()
