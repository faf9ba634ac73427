"""Tests of folding BatchNormalization into kernels."""

import keras
import numpy as np
from absl.testing import parameterized
from keras import layers

from examples import folding
from examples import networks
from tests import zoo


class FoldedTest(parameterized.TestCase):
    def test_it_computes_the_same_in_the_form_of_lenet5(self):
        model = networks.lenet5_normalised((28, 28, 1), 10)
        zoo.randomise(model)
        small = folding.folded(model)
        x = np.random.default_rng(0).uniform(size=(9, 28, 28, 1))
        expected = model.predict(x, verbose=0)
        self.assertGreater(np.ptp(expected), 0.1)
        np.testing.assert_allclose(
            small.predict(x, verbose=0),
            expected,
            atol=1e-5 * np.abs(expected).max(),
        )
        plain = networks.lenet5((28, 28, 1), 10)
        self.assertEqual(
            [w.shape for w in small.weights], [w.shape for w in plain.weights]
        )

    def test_a_bias_is_folded_as_well(self):
        model = keras.Sequential(
            [
                keras.Input((4,)),
                layers.Dense(3, bias_initializer="normal"),
                layers.BatchNormalization(),
            ]
        )
        zoo.randomise(model)
        x = np.random.default_rng(0).normal(size=(5, 4))
        np.testing.assert_allclose(
            folding.folded(model).predict(x, verbose=0),
            model.predict(x, verbose=0),
            rtol=1e-5,
            atol=1e-5,
        )

    def test_nothing_to_fold(self):
        model = networks.lenet5((28, 28, 1), 10)
        self.assertIs(folding.folded(model), model)

    @parameterized.parameters(
        ([layers.Dense(3, activation="relu")],),
        ([layers.Dense(3), layers.ReLU()],),
        ([],),
    )
    def test_what_cannot_be_folded(self, before):
        model = keras.Sequential(
            [keras.Input((4,)), *before, layers.BatchNormalization()]
        )
        with self.assertRaisesRegex(ValueError, "cannot be folded"):
            folding.folded(model)
