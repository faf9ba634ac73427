"""Tests of convolutions that are computed four positions at a time."""

import keras
import numpy as np
from absl.testing import parameterized
from keras import layers

from examples import networks
from examples import phased_convolution
from tests import zoo

TENSORFLOW = keras.backend.backend() == "tensorflow"


def network(size=(12, 16), **convolution):
    settings = {"filters": 3, "kernel_size": 5} | convolution
    return keras.Sequential(
        [
            keras.Input((*size, 2)),
            layers.Conv2D(**settings),
            layers.GlobalAveragePooling2D(),
        ]
    )


def is_changed(model):
    return [
        "convolution_op" in vars(layer)
        for layer in model.layers
        if isinstance(layer, layers.Conv2D)
    ]


class PhasedTest(parameterized.TestCase):
    def test_it_computes_the_same_and_leaves_no_trace(self):
        model = networks.lenet5((28, 28, 1), 10)
        zoo.randomise(model)
        x = np.random.default_rng(0).uniform(size=(5, 28, 28, 1))
        x = keras.ops.cast(x, "float32")
        expected = np.array(model(x))
        with phased_convolution.phased(model):
            # conv2 has twenty channels, which is enough.
            self.assertEqual(is_changed(model), [TENSORFLOW, False])
            found = np.array(model(x))
        np.testing.assert_allclose(
            found, expected, atol=1e-5 * np.abs(expected).max()
        )
        self.assertEqual(is_changed(model), [False, False])

    @parameterized.parameters(1, 3, 5, ((3, 7),))
    def test_kernels_of_any_odd_size(self, size):
        model = network(kernel_size=size)
        zoo.randomise(model)
        x = keras.ops.cast(
            np.random.default_rng(0).uniform(size=(5, 12, 16, 2)), "float32"
        )
        expected = np.array(model(x))
        with phased_convolution.phased(model):
            self.assertEqual(is_changed(model), [TENSORFLOW])
            np.testing.assert_allclose(
                np.array(model(x)), expected, rtol=1e-5, atol=1e-5
            )

    @parameterized.parameters(
        {"kernel_size": 4},
        {"size": (13, 16)},
        {"size": (None, 16)},
        {"padding": "same"},
        {"strides": 2},
        {"dilation_rate": 2},
        {"groups": 2, "filters": 4},
    )
    def test_others_are_left_as_they_are(self, **changes):
        model = network(**changes)
        with phased_convolution.phased(model):
            self.assertEqual(is_changed(model), [False])

    def test_training_is_the_same(self):
        weights = []
        rng = np.random.default_rng(1)
        x = rng.uniform(size=(8, 12, 16, 2)).astype("float32")
        y = rng.uniform(size=(8, 3)).astype("float32")
        start = None
        for phased in (False, True):
            model = network()
            if start is None:
                zoo.randomise(model)
                start = model.get_weights()
            model.set_weights(start)
            model.compile(keras.optimizers.SGD(0.1), "mse")
            if phased:
                with phased_convolution.phased(model):
                    model.fit(x, y, epochs=3, verbose=0)
            else:
                model.fit(x, y, epochs=3, verbose=0)
            weights.append(model.get_weights())
        for before, one, other in zip(start, *weights, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
            self.assertGreater(np.abs(one - before).max(), 1e-3)

    def test_no_trace_after_an_error(self):
        model = network()
        with self.assertRaises(RuntimeError):
            with phased_convolution.phased(model):
                raise RuntimeError
        self.assertEqual(is_changed(model), [False])
