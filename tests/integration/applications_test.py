"""The models of keras.applications, from the constructor to `strip`.

All of them, at their own sizes: `python -m benchmarks.applications`.
"""

import keras
import numpy as np
import pytest
from absl.testing import absltest
from absl.testing import parameterized

import keras_prm
from benchmarks import application_checks
from benchmarks import application_models
from keras_prm.analysis.trace import trace
from tests.helpers import zoo

# One of each kind, at sizes that take seconds.
QUICK = (
    ("MobileNetV3Small", 64),
    ("ResNet50V2", 64),
    ("ConvNeXtTiny", 64),
)
OTHERS = (
    ("MobileNetV2", 64),
    ("EfficientNetB0", 64),
    ("EfficientNetV2B0", 64),
    ("DenseNet121", 64),
    ("InceptionV3", 75),
    ("Xception", 71),
    ("NASNetMobile", 64),
    ("InceptionResNetV2", 75),
)
# More is pinned than inputs and outputs: LayerNormalization
# reads the residual streams of ConvNeXt.
PINNED = ("ConvNeXtTiny",)


class ApplicationsTest(parameterized.TestCase):
    def tearDown(self):
        super().tearDown()
        keras.utils.clear_session()

    @parameterized.parameters(*QUICK)
    def test_strip_is_exact_and_removes_half(self, name, size):
        self.check(name, size)

    @parameterized.parameters(*OTHERS)
    @pytest.mark.slow
    def test_others(self, name, size):
        self.check(name, size)

    def check(self, name, size):
        row = application_checks.check(name, size)
        self.assertLessEqual(row["max_error"], application_checks.TOLERANCE)
        self.assertGreaterEqual(row["share"], application_checks.SHARE)
        self.assertGreaterEqual(row["gone"], row["planned"])
        self.assertGreater(row["spread"], 1e-2)
        if name not in PINNED:
            self.assertEqual(row["pinned"], 1000 + 3, row["reasons"])
        self.assertLess(row["macs"][1], row["macs"][0])
        self.assertTrue(row["passed"])

    def test_every_constructor_is_found(self):
        found = application_models.constructors()
        self.assertLen(found, 40)
        names = {name for name, _ in (*QUICK, *OTHERS)}
        self.assertContainsSubset(names, found)
        self.assertContainsSubset({"ConvNeXtXLarge", "VGG16"}, found)

    @parameterized.parameters("MobileNetV2", "EfficientNetB0")
    def test_no_weight_is_zero(self, name):
        rng = np.random.default_rng(0)
        model = application_models.build(name, 64)
        application_models.randomize(model, rng)
        x = application_models.images(model, 4, rng)
        application_models.settle(model, x, rng)
        for variable in model.weights:
            array = keras.ops.convert_to_numpy(variable)
            if variable.name != "count":
                self.assertTrue((array != 0).all(), variable.path)

    def test_prunable_weights_by_hand(self):
        model = zoo.make("lenet5")
        plan = keras_prm.SparsityPlan.uniform(model, filters=0.5)
        masks = keras_prm.hard_prune(model, plan)
        _, report = keras_prm.strip(model, return_report=True)
        found = application_checks.shares(trace(model), masks, report)
        kernels = 25 * 20 + 25 * 20 * 50 + 800 * 500 + 500 * 10
        small = 25 * 10 + 25 * 10 * 25 + 400 * 250 + 250 * 10
        self.assertEqual(found["prunable"], kernels + 20 + 50 + 500)
        self.assertEqual(found["planned"], kernels - small + 10 + 25 + 250)
        self.assertEqual(found["gone"], found["planned"])
        self.assertEqual(found["classes"], 1 + 20 + 50 + 500 + 10)
        self.assertEqual(found["pinned"], 1 + 10)


if __name__ == "__main__":
    absltest.main()
